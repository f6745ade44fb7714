// What a server's settings say about itself: its port, the addresses it gives to clients, the folders it
// uses beyond its own. Two servers that were copied from one another have these alike, and some must not
// stay so. Nothing is changed here: the owner is told what to look at (own-settings.ts keeps what a server that is
// replaced had). Element names are those of
// Jellyfin's NetworkConfiguration, ServerConfiguration, EncodingOptions and DatabaseConfigurationOptions
// (10.10 to 12.0).

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { isInside, type ServerFolders } from "./layout.ts";
import { codeOf } from "./problem.ts";

export interface ServerSettings {
  readonly version: string | undefined;
  readonly httpPort: string;
  readonly baseUrl: string;
  readonly knownProxies: readonly string[];
  readonly publishedAddresses: readonly string[];
  readonly answersDiscovery: boolean;
  readonly usesUpnp: boolean;
  readonly requiresHttps: boolean;
  readonly quickConnect: boolean;
  readonly hardwareAcceleration: string;
  /** Folders that the owner chose, by the setting's name; empty ones are left out. */
  readonly ownFolders: ReadonlyMap<string, string>;
  readonly databaseType: string;
  /** Where the database is when the owner chose another place. */
  readonly databasePath: string | undefined;
}

export async function readSettings(configFolder: string): Promise<ServerSettings> {
  const read = async (name: string): Promise<string> =>
    await readFile(join(configFolder, name), "utf8").catch((error: unknown) => {
      // A server writes each of these files when it needs it first; its defaults count until then.
      if (codeOf(error) === "ENOENT") return "";
      throw error;
    });
  const [system, network, encoding, database] = await Promise.all(
    ["system.xml", "network.xml", "encoding.xml", "database.xml"].map(read),
  );
  return settingsOf({
    system: system ?? "",
    network: network ?? "",
    encoding: encoding ?? "",
    database: database ?? "",
  });
}

/** From the texts of the four files (pure). */
export function settingsOf(files: {
  readonly system: string;
  readonly network: string;
  readonly encoding: string;
  readonly database: string;
}): ServerSettings {
  const { system, network, encoding, database } = files;
  const ownFolders = new Map<string, string>();
  for (const [name, text] of [
    ["MetadataPath", elementText(system, "MetadataPath")],
    ["CachePath", elementText(system, "CachePath")],
    ["TranscodingTempPath", elementText(encoding, "TranscodingTempPath")],
  ] as const) {
    if (text) ownFolders.set(name, text);
  }
  return {
    version: elementText(system, "PreviousVersionStr") ?? elementText(system, "PreviousVersion"),
    httpPort:
      elementText(network, "InternalHttpPort") ??
      elementText(network, "HttpServerPortNumber") ??
      "8096",
    baseUrl: elementText(network, "BaseUrl") ?? "",
    knownProxies: listTexts(network, "KnownProxies"),
    publishedAddresses: listTexts(network, "PublishedServerUriBySubnet"),
    answersDiscovery: elementText(network, "AutoDiscovery") !== "false",
    usesUpnp: elementText(network, "EnableUPnP") === "true",
    requiresHttps: elementText(network, "RequireHttps") === "true",
    quickConnect: elementText(system, "QuickConnectAvailable") !== "false",
    hardwareAcceleration: elementText(encoding, "HardwareAccelerationType") ?? "none",
    ownFolders,
    databaseType: elementText(database, "DatabaseType") ?? "Jellyfin-SQLite",
    databasePath: customPath(database),
  };
}

/** The text of an element without children; undefined when it is missing or empty. */
function elementText(xml: string, name: string): string | undefined {
  const text = new RegExp(`<${name}>([^<]*)</${name}>`).exec(xml)?.[1];
  return text === undefined || text.trim() === "" ? undefined : unescaped(text.trim());
}

function listTexts(xml: string, name: string): readonly string[] {
  const inner = new RegExp(`<${name}>(.*?)</${name}>`, "s").exec(xml)?.[1] ?? "";
  return [...inner.matchAll(/<string>([^<]*)<\/string>/g)].map(([, text]) => unescaped(text ?? ""));
}

function customPath(xml: string): string | undefined {
  for (const [, option] of xml.matchAll(/<CustomDatabaseOption>(.*?)<\/CustomDatabaseOption>/gs)) {
    if (elementText(option ?? "", "Key")?.toLowerCase() === "path") {
      return elementText(option ?? "", "Value");
    }
  }
  return undefined;
}

function unescaped(text: string): string {
  return text
    .replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">")
    .replaceAll("&quot;", '"')
    .replaceAll("&apos;", "'")
    .replaceAll("&amp;", "&");
}

/** Sentences on why a copy of these files would not be a server of its own (pure). */
export function settingsProblems(settings: ServerSettings, folders: ServerFolders): string[] {
  if (settings.databaseType !== "Jellyfin-SQLite") {
    return [
      `This server keeps its data in ${settings.databaseType} (database.xml), not in SQLite` +
        " files: seed cannot copy that, and the copy would write to the same database. Move" +
        " the server to SQLite first.",
    ];
  }
  const path = settings.databasePath;
  if (path === undefined || isInside(path, folders.dataFolder)) return [];
  return [
    `This server's database is at ${path} (database.xml), outside its data folder, and` +
      ` the copy would write to the same one: move it into ${folders.dataFolder} first.`,
  ];
}

/**
 * Sentences on what the owner should look at before starting the copy (pure). `settings` are the copy's, of which
 * `hasOwn` says that they are, where servers differ, those of the server that it replaces: they did well there.
 */
export function settingsAdvice(
  settings: ServerSettings,
  target: ServerFolders,
  hasOwn: boolean,
): string[] {
  const { httpPort, publishedAddresses, knownProxies, hardwareAcceleration } = settings;
  const network = join(target.configFolder, "network.xml");
  const advice = [
    hasOwn
      ? "Kept as they were here: the server's name, ports and addresses, known proxies, folders and hardware. It" +
        ` listens on ${httpPort}.`
      : `Port: the new server listens on ${httpPort}, as the old one does. On the same machine,` +
        ` without containers, give it another one: <InternalHttpPort> in ${network}.`,
    knownProxies.length === 0
      ? "KnownProxies is empty: set it to the door's address on both servers (Dashboard," +
        " Networking), or every visitor would count as local; the door refuses to be reachable" +
        " from outside without it."
      : `KnownProxies is ${knownProxies.join(", ")}: the address of the door must be among these, on both servers.`,
    `Published address: ${publishedAddresses.length === 0 ? "none is set" : `it is ${publishedAddresses.join(", ")}`}.` +
      " Neither server should give clients its own: let it be the door's on both (JELLYFIN_PublishedServerUrl" +
      " or Dashboard, Networking).",
  ];
  if (settings.baseUrl !== "") {
    advice.push(
      `Base URL: it is ${settings.baseUrl}, and the door's --replica needs it: b=` +
        `http://HOST:${httpPort}/${settings.baseUrl.replace(/^\//, "")}.`,
    );
  }
  if (settings.answersDiscovery) {
    advice.push(
      "Discovery: both servers would answer clients that search the network. Switch it off on both and let the door answer (--discovery).",
    );
  }
  if (settings.usesUpnp) advice.push("UPnP is on: switch it off on the new server.");
  if (settings.requiresHttps) {
    advice.push(
      "HTTPS is required by the servers: switch that off on both; TLS ends in front of the door.",
    );
  }
  if (!settings.quickConnect) {
    advice.push(
      "Quick Connect is off: switch it on on both servers (Dashboard, General); the door" +
        " needs it, and can keep it from clients (--quick-connect off).",
    );
  }
  const metadata = settings.ownFolders.get("MetadataPath");
  if (hasOwn) {
    if (metadata !== undefined && !isInside(metadata, target.dataFolder)) {
      advice.push(
        `MetadataPath is ${metadata}, as before, and the copy's pictures are in ${join(target.dataFolder, "metadata")}:` +
          " bring them there, or a scan gets them again.",
      );
    }
    return advice;
  }
  for (const [name, folder] of settings.ownFolders) {
    advice.push(
      `${name} is ${folder}: it must not be the same place for both servers. Give the new one its own, or leave it empty.`,
    );
  }
  if (hardwareAcceleration !== "none") {
    advice.push(
      `Hardware acceleration is ${hardwareAcceleration}: on a machine without it set the new server to its own.`,
    );
  }
  return advice;
}

const settingsFileLimit = 500;

/** Settings files, plugins' too, which mention a folder of the old server. */
export async function filesThatMention(
  folders: ServerFolders,
  texts: readonly string[],
): Promise<readonly string[]> {
  const places = [
    folders.configFolder,
    join(folders.dataFolder, "plugins", "configurations"),
    join(folders.dataFolder, "root", "default"),
  ];
  const found: string[] = [];
  for (const place of places) {
    const names = await readdir(place, { recursive: place.endsWith("default") }).catch(() => []);
    for (const name of names
      .filter((path) => /\.(xml|json|mblink)$/.test(path))
      .slice(0, settingsFileLimit)) {
      // A folder with such a name, or a file that went away, mentions nothing.
      const content = await readFile(join(place, name), "utf8").catch(() => "");
      if (texts.some((text) => mentions(content, text))) found.push(join(place, name));
    }
  }
  return found;
}

/** Whether a text names a path, and not only one which begins alike (pure). */
export function mentions(content: string, path: string): boolean {
  return content
    .split(path)
    .slice(1)
    .some((after) => !/^[\w.-]/.test(after));
}
