/**
 * Subtitles and lyrics of an item (SubtitleController with SubtitleManager, LyricsController with LyricManager). They are
 * written beside the media where the library's options say so, else into the server's own folder of the item. A subtitle
 * that cannot be written beside the media is refused; lyrics go into the own folder then.
 *
 * An upload is answered before the server knows its file: it queues a refresh. A deletion is answered after it. How long
 * such a refresh takes, in ms, is `StandInIndexesAfterMs` of the document `system`.
 *
 * There is no music here: whatever is no folder may have lyrics.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import { type Exchange, Refusal, type Routes } from "../http.ts";
import { type Item, metadataFolder } from "../library.ts";
import type { World } from "../world.ts";
import { field } from "./accounts.ts";
import { writesMedia } from "./catalog.ts";
import { librariesOf } from "./folders.ts";
import { itemOf } from "./items.ts";

const INDEX_MS = 300;

/** ProviderManager.QueueRefresh. */
export function indexLater(world: World, id: string): void {
  const afterMs = Number(world.configuration("system").StandInIndexesAfterMs ?? INDEX_MS);
  setTimeout(() => world.library.index(id), afterMs).unref();
}

function optionOf(world: World, item: Item, name: string): unknown {
  const library = librariesOf(world).find(({ Locations }) =>
    Locations.some((path) => item.path.startsWith(`${path}/`)),
  );
  return library?.LibraryOptions[name];
}

function stemOf(item: Item): string {
  return basename(item.path, extname(item.path));
}

function addSubtitleRoutes(routes: Routes): void {
  routes.add("POST", "/Videos/:item/Subtitles", "admin", (ask) => {
    const { world } = ask;
    const item = itemOf(ask, ask.param(0));
    const body = ask.json();
    const isBeside = optionOf(world, item, "SaveSubtitlesWithMedia") !== false;
    if (isBeside && !writesMedia(world)) throw new Refusal(500);
    const folder = isBeside
      ? dirname(item.path)
      : metadataFolder(world.options.dataFolder, item.id);
    mkdirSync(folder, { recursive: true });
    const said = [
      String(field(body, "Language") ?? "en").toLowerCase(),
      ...(field(body, "IsForced") === true ? ["forced"] : []),
      ...(field(body, "IsHearingImpaired") === true ? ["sdh"] : []),
    ];
    const format = String(field(body, "Format") ?? "srt").toLowerCase();
    const stem = join(folder, [stemOf(item), ...said].join("."));
    let path = `${stem}.${format}`;
    for (let number = 0; existsSync(path); number++) path = `${stem}.${number}.${format}`;
    writeFileSync(path, Buffer.from(String(field(body, "Data") ?? ""), "base64"));
    indexLater(world, item.id);
    ask.noContent();
  });
  routes.add("DELETE", "/Videos/:item/Subtitles/:index", "admin", (ask) => {
    const item = itemOf(ask, ask.param(0));
    // The first of no streams is an exception that nobody catches.
    const path = item.subtitles[Number(ask.param(1)) - 2];
    if (path === undefined) throw new Refusal(500);
    remove(ask, item, [path]);
  });
}

function addLyricRoutes(routes: Routes): void {
  const path = "/Audio/:item/Lyrics";
  const shown = (text: string) => ({
    Metadata: {},
    Lyrics: text.split("\n").map((line) => ({ Text: line.replace(/^\[[^\]]*\]/, "") })),
  });
  routes.add("POST", path, "admin", (ask) => {
    const { world } = ask;
    const item = itemOf(ask, ask.param(0));
    const format = extname(ask.query("fileName") ?? "").slice(1);
    if (format === "" || ask.body.length === 0) throw new Refusal(400);
    const isBeside = optionOf(world, item, "SaveLyricsWithMedia") === true && writesMedia(world);
    const folder = isBeside
      ? dirname(item.path)
      : metadataFolder(world.options.dataFolder, item.id);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `${stemOf(item)}.${format.toLowerCase()}`), ask.body);
    indexLater(world, item.id);
    ask.reply(shown(ask.body.toString("utf8")));
  });
  routes.add("DELETE", path, "admin", (ask) => {
    const item = itemOf(ask, ask.param(0));
    remove(ask, item, item.lyrics);
  });
  routes.add("GET", path, "user", (ask) => {
    const [file] = itemOf(ask, ask.param(0)).lyrics;
    if (file === undefined) throw new Refusal(404, "empty");
    ask.reply(shown(readFileSync(file, "utf8")));
  });
}

function remove(ask: Exchange, item: Item, paths: readonly string[]): void {
  for (const path of paths) {
    const isBeside = dirname(path) === dirname(item.path);
    if (isBeside && existsSync(path) && !writesMedia(ask.world)) throw new Refusal(500);
    rmSync(path, { force: true });
  }
  ask.world.library.index(item.id);
  ask.noContent();
}

export function addItemFileRoutes(routes: Routes): void {
  addSubtitleRoutes(routes);
  addLyricRoutes(routes);
}
