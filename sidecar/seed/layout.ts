// Where a Jellyfin server keeps what it knows. A server has a data folder (`--datadir`) and a config
// folder (`--configdir`); inside the data folder a second folder named `data` holds the databases and
// device.txt, the server's id (BaseApplicationPaths.cs, StartupHelpers.cs and DeviceId.cs of Jellyfin
// 10.10 to 12.0). Where the two folders lie to one another depends on who packaged the server, so this
// finds them by what is in them, and says which arrangement it found. Pure but for the `exists` passed in.

import { basename, dirname, join, relative, sep } from "node:path";

/**
 * - `one folder`: the official image's `/config`, `--datadir DIR` alone, Windows.
 * - `config beside data`: DIR/config and DIR/data, where DIR/data is the data folder.
 * - `config around data`: the linuxserver.io image's `/config`: DIR is the config folder, DIR/data the data folder.
 * - `system folders`: the Debian package's /var/lib/jellyfin and /etc/jellyfin.
 * - `two folders`: both were named.
 */
export type LayoutKind =
  | "one folder"
  | "config beside data"
  | "config around data"
  | "system folders"
  | "two folders";

export interface ServerFolders {
  readonly kind: LayoutKind;
  readonly dataFolder: string;
  readonly configFolder: string;
}

export type FoundServer = ServerFolders | { readonly problem: string };

/** The databases of Jellyfin itself: 10.11 and later have the first, 10.10 has both. */
export const serverDatabases = ["jellyfin.db", "library.db"] as const;

/** Files by which a config folder is known. A server writes the first ones at its first start. */
const configFiles = ["system.xml", "network.xml", "encoding.xml", "migrations.xml", "database.xml"];

/**
 * The server in a folder (absolute), or one sentence why there is none.
 *
 * `configFolder` is for a server whose config folder lies elsewhere; `option` names the option which
 * gives it, for the sentence.
 */
export function findServer(
  folder: string,
  configFolder: string | undefined,
  option: string,
  exists: (path: string) => boolean,
): FoundServer {
  const isData = (path: string): boolean =>
    [...serverDatabases, "device.txt"].some((name) => exists(join(path, "data", name)));
  const isConfig = (path: string): boolean => configFiles.some((name) => exists(join(path, name)));

  const debianData = join(folder, "var", "lib", "jellyfin");
  const places = [folder, join(folder, "data"), debianData].filter(isData);
  const [dataFolder, other] = places;
  if (dataFolder === undefined) {
    return {
      problem:
        `There is no Jellyfin server in ${folder}: neither data/jellyfin.db nor data/device.txt` +
        " is in it or in its folder data. Name the folder that the server has as its data" +
        " folder.",
    };
  }
  if (other !== undefined) {
    return {
      problem:
        `${folder} holds the data of two servers, ${dataFolder} and ${other}: name the data` +
        ` folder that is meant, and its config folder with ${option}.`,
    };
  }
  if (configFolder !== undefined) {
    if (isConfig(configFolder)) return { kind: "two folders", dataFolder, configFolder };
    return {
      problem: `There is no system.xml in ${configFolder}: name the server's config folder with ${option}.`,
    };
  }
  const candidates: readonly ServerFolders[] =
    dataFolder === folder
      ? [
          { kind: "one folder", dataFolder, configFolder: join(folder, "config") },
          ...systemFolders(dataFolder),
        ]
      : dataFolder === debianData
        ? systemFolders(dataFolder)
        : [
            { kind: "config beside data", dataFolder, configFolder: join(folder, "config") },
            { kind: "config around data", dataFolder, configFolder: folder },
          ];
  const found = candidates.find((candidate) => isConfig(candidate.configFolder));
  if (found !== undefined) return found;
  const near = [join(dirname(dataFolder), "config"), dirname(dataFolder)].find(isConfig);
  const hint = near === undefined ? "its config folder, the one with system.xml," : near;
  return {
    problem: `The data of a server is in ${dataFolder}, but its configuration is not: name ${hint} with ${option}.`,
  };
}

/**
 * The config folder that belongs to a data folder of a system package: /var/lib/jellyfin has
 * /etc/jellyfin, wherever their common root is mounted. Empty for any other data folder.
 */
function systemFolders(dataFolder: string): readonly ServerFolders[] {
  const parts = [dirname(dirname(dataFolder)), dirname(dataFolder), dataFolder].map((path) =>
    basename(path),
  );
  if (parts.join("/") !== "var/lib/jellyfin") return [];
  const root = dirname(dirname(dirname(dataFolder)));
  return [{ kind: "system folders", dataFolder, configFolder: join(root, "etc", "jellyfin") }];
}

/** Where the copy of a server goes: arranged in the target as in the source, unless told otherwise. */
export function targetFolders(
  source: ServerFolders,
  to: string,
  toConfig: string | undefined,
): ServerFolders {
  if (toConfig !== undefined) {
    return { kind: "two folders", dataFolder: to, configFolder: toConfig };
  }
  const [system] = systemFolders(to);
  if (system !== undefined) return system;
  const inner = join(to, "data");
  if (source.kind === "config beside data") {
    return { kind: source.kind, dataFolder: inner, configFolder: join(to, "config") };
  }
  if (source.kind === "config around data") {
    return { kind: source.kind, dataFolder: inner, configFolder: to };
  }
  return { kind: "one folder", dataFolder: to, configFolder: join(to, "config") };
}

/** A sentence for people: which arrangement, and where the two folders are. */
export function layoutText({ kind, dataFolder, configFolder }: ServerFolders): string {
  return `${kind}: data folder ${dataFolder}, config folder ${configFolder}`;
}

/** The folders of a server without those that lie inside another one. */
export function rootsOf({ dataFolder, configFolder }: ServerFolders): readonly string[] {
  if (isInside(configFolder, dataFolder)) return [dataFolder];
  if (isInside(dataFolder, configFolder)) return [configFolder];
  // The config folder comes first, since what lies in the data folder is put into place last.
  return [configFolder, dataFolder];
}

/** True when `path` is `folder` or lies in it. Both are absolute; nothing is looked up. */
export function isInside(path: string, folder: string): boolean {
  const way = relative(folder, path);
  return way === "" || (way !== ".." && !way.startsWith(`..${sep}`) && !way.startsWith(sep));
}
