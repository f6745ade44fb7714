/**
 * Which plugins a server has (PluginManager, InstallationManager). None of them does anything. What can be installed is
 * the list in the document `packages`; one with a repository is offered only while that is among the server's own.
 * A change counts after a restart: until then the plugin's status says so, and the server's own word where one was installed
 * or removed.
 */
type Plugin = { Id: string; Name: string; Version: string; Status: string };
type Package = { Id: string; Name: string; Version: string; RepositoryUrl?: string };
type Documents = {
  configuration(name: string): Record<string, unknown>;
  readonly database: { readonly documents: { set(name: string, value: object): void } };
};

export class Plugins {
  readonly #documents: Documents;
  readonly #changed = new Set<string>();
  isRestartNeeded = false;

  constructor(documents: Documents) {
    this.#documents = documents;
  }

  list(): Plugin[] {
    return Object.values(this.#all()).map((plugin) =>
      this.#changed.has(keyOf(plugin)) ? { ...plugin, Status: "Restart" } : plugin,
    );
  }

  /** False: no repository offers it. The newest stands first in the list of packages. */
  install(wanted: {
    readonly name: string;
    readonly id: string | undefined;
    readonly version: string | undefined;
    readonly repositoryUrl: string | undefined;
  }): boolean {
    const { list = [] } = this.#documents.configuration("packages") as { list?: Package[] };
    const { PluginRepositories = [] } = this.#documents.configuration("system") as {
      PluginRepositories?: { Url: string }[];
    };
    const urls = new Set(PluginRepositories.map(({ Url }) => Url));
    const found = list.find(
      ({ Id, Name, Version, RepositoryUrl }) =>
        (RepositoryUrl === undefined || urls.has(RepositoryUrl)) &&
        (wanted.id === undefined ? Name === wanted.name : Id === wanted.id) &&
        (wanted.version === undefined || Version === wanted.version) &&
        (wanted.repositoryUrl === undefined || RepositoryUrl === wanted.repositoryUrl),
    );
    if (found === undefined) return false;
    const { Id, Name, Version } = found;
    const plugin = { Id, Name, Version, Status: "Active" };
    this.#save({ ...this.#all(), [keyOf(plugin)]: plugin });
    this.#changed.add(keyOf(plugin));
    this.isRestartNeeded = true;
    return true;
  }

  /** False: there is no such plugin. */
  change(id: string, version: string | undefined, what: "remove" | "Active" | "Disabled"): boolean {
    const all = this.#all();
    const entry = Object.entries(all).find(
      ([, plugin]) => plugin.Id === id && (version === undefined || plugin.Version === version),
    );
    if (entry === undefined) return false;
    const [name, plugin] = entry;
    if (what === "remove") {
      const { [name]: _, ...left } = all;
      this.#save(left);
      this.isRestartNeeded = true;
    } else {
      this.#save({ ...all, [name]: { ...plugin, Status: what } });
      this.#changed.add(keyOf(plugin));
    }
    return true;
  }

  #all(): Record<string, Plugin> {
    return this.#documents.configuration("plugins") as Record<string, Plugin>;
  }

  #save(all: Record<string, Plugin>): void {
    this.#documents.database.documents.set("plugins", all);
  }
}

function keyOf({ Id, Version }: Plugin): string {
  return `${Id} ${Version}`;
}
