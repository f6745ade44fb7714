// The folders of a Jellyfin server as they lie on a disk, small but with everything that matters to a copy
// of them: databases in WAL mode, a plugin's own, device.txt with its byte order mark, settings, images,
// caches, logs, links, odd names. Made with real SQLite.

import { createHash } from "node:crypto";
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, relative } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { pathToFileURL } from "node:url";

export const serverId = "0123456789abcdef0123456789abcdef";
export const otherServerId = "fedcba9876543210fedcba9876543210";

export interface FolderOptions {
  readonly id?: string;
  readonly users?: number;
  readonly network?: string;
  readonly system?: string;
  readonly encoding?: string;
  /** Which Jellyfin has used the database last, as it notes it there itself. */
  readonly version?: string;
  /** The path under which the server itself sees its data folder. */
  readonly seenAs?: string;
}

export function write(path: string, content: string | Buffer): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}

/** Writes a server's folders. */
export function makeServer(
  dataFolder: string,
  configFolder: string,
  options: FolderOptions = {},
): void {
  const { id = serverId, users = 3 } = options;
  write(join(dataFolder, "data", "device.txt"), `\uFEFF${id}`);
  write(join(dataFolder, ".jellyfin-data"), "");
  write(join(dataFolder, "data", ".jellyfin-data"), "");
  write(
    join(configFolder, "system.xml"),
    options.system ??
      "<ServerConfiguration><PreviousVersionStr>10.11.11</PreviousVersionStr>" +
        "<QuickConnectAvailable>true</QuickConnectAvailable></ServerConfiguration>",
  );
  write(
    join(configFolder, "network.xml"),
    options.network ??
      "<NetworkConfiguration><BaseUrl /><InternalHttpPort>8096</InternalHttpPort><AutoDiscovery>true</AutoDiscovery><KnownProxies" +
        " /></NetworkConfiguration>",
  );
  if (options.encoding !== undefined) write(join(configFolder, "encoding.xml"), options.encoding);
  write(join(configFolder, "users", "Zoë", "profile picture.png"), "picture");
  const main = new DatabaseSync(join(dataFolder, "data", "jellyfin.db"));
  main.exec(
    "PRAGMA journal_mode = WAL; CREATE TABLE Users (Id TEXT); CREATE TABLE Devices (Id TEXT)",
  );
  for (let user = 0; user < users; user++) {
    main.prepare("INSERT INTO Users VALUES (?)").run(`user ${user}`);
  }
  if (options.version !== undefined) {
    main.exec('CREATE TABLE "__EFMigrationsHistory" (MigrationId TEXT, ProductVersion TEXT)');
    main
      .prepare('INSERT INTO "__EFMigrationsHistory" VALUES (?, ?), (?, ?)')
      .run("1", "13.0.14", "2", `${options.version}.0`);
  }
  const seenAs = options.seenAs ?? dataFolder;
  const data = JSON.stringify({
    PhysicalLocationsList: [`${seenAs}/root`, "/media/films"],
    Ticks: 1,
  });
  main.exec("CREATE TABLE BaseItems (Id TEXT, Type TEXT, Path TEXT, Data TEXT)");
  const item = main.prepare("INSERT INTO BaseItems VALUES (?, ?, ?, ?)");
  item.run("root", "MediaBrowser.Controller.Entities.AggregateFolder", `${seenAs}/root`, data);
  item.run("film", "MediaBrowser.Controller.Entities.Movies.Movie", "/media/films/a.mkv", "{}");
  main.exec("CREATE TABLE BaseItemImageInfos (ItemId TEXT, Path TEXT)");
  main
    .prepare("INSERT INTO BaseItemImageInfos VALUES ('film', ?)")
    .run(`${seenAs}/metadata/library/ab/poster Zoë 日本.jpg`);
  main.close();
  const plugin = join(dataFolder, "plugins", "Playback Reporting", "reports.sqlite");
  mkdirSync(dirname(plugin), { recursive: true });
  const reports = new DatabaseSync(plugin);
  reports.exec("CREATE TABLE Activity (Id INTEGER); INSERT INTO Activity VALUES (1), (2)");
  reports.close();
  write(join(dataFolder, "metadata", "library", "ab", "poster Zoë 日本.jpg"), "poster");
  write(join(dataFolder, "root", "default", "Films", "options.xml"), "<LibraryOptions />");
  write(join(dataFolder, "data", "trickplay", "ab", "tiles.jpg"), "tiles");
  write(join(dataFolder, "data", "subtitles", "cd", "2.srt"), "subtitle");
  write(join(dataFolder, "data", "attachments", "cd", "font.ttf"), "font");
  write(join(dataFolder, "cache", "images", "resized.jpg"), "cached");
  write(join(dataFolder, "log", "log_20260101.log"), "log");
  write(join(dataFolder, "transcodes", "one.ts"), "transcode");
}

/** Everything in a folder: path to content (a digest), for files, links and folders. */
export function treeOf(folder: string): Record<string, string> {
  const tree: Record<string, string> = {};
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    const path = join(entry.parentPath, entry.name);
    const name = relative(folder, path);
    if (entry.isSymbolicLink()) tree[name] = `link to ${readlinkSync(path)}`;
    else if (entry.isDirectory()) tree[name] = "folder";
    else tree[name] = createHash("sha256").update(readFileSync(path)).digest("hex");
  }
  return tree;
}

/** One value of one row, of a database that nobody has open. */
export function ask(database: string, sql: string): unknown {
  // Opened as immutable, so that looking leaves no files beside it.
  const url = new URL("?immutable=1", pathToFileURL(database));
  const opened = new DatabaseSync(url, { readOnly: true });
  try {
    return Object.values(opened.prepare(sql).get() ?? {})[0];
  } finally {
    opened.close();
  }
}

export function modeOf(path: string): string {
  return (statSync(path).mode & 0o7777).toString(8);
}
