// What a server's libraries hold, short enough to be compared: for each item its id, and what it looks like in three
// letters' worth of text. It is read in pages over the API, so that neither this process nor the server ever has a whole
// library's answer in memory; the largest thing kept is one library's ids.
//
// It promises that nothing is compared which is each server's own: a picture's tag is made of a file's date in the
// server's own folder, so only which pictures there are is looked at, not their tags.

import type { LibraryDrift } from "../../core/cluster/drift.ts";
import { normalId } from "../../core/cluster/identity.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { isRecord, objectOf, parsedObject, recordsIn } from "../../core/service/json.ts";
import { readMadeLibraries } from "./libraries.ts";

/** What an item looks like, without what differs from server to server by nature. */
export interface ItemLook {
  readonly pictures: string;
  readonly date: string;
  readonly derived: string;
}

/**
 * How much is looked at. What tasks make of a film costs the server some questions to its database for each item, so
 * that it is looked at more seldom: `whole` has chapter pictures and media segments, too.
 */
export type Depth = "plain" | "whole";

const fieldsOf: Readonly<Record<Depth, string>> = {
  plain: "DateCreated,Trickplay,ChildCount",
  whole: "DateCreated,Trickplay,ChildCount,Chapters,MediaSources",
};

/** What is compared at one time. */
export interface Shelf {
  readonly name: string;
  /** The query that finds its items. */
  readonly query: string;
}

/** Undefined: the server could not be asked; no drift is told of what was not read whole. */
export type DigestAnswer = LibraryDrift | undefined;

const pageItems = 500;
/** Items of one library that are compared; beyond it a library is too large for this, which is said. */
export const itemsLimit = 300_000;

/** The items of one library by their ids; undefined: it could not be read whole. */
export async function readItems(
  client: JellyfinClient,
  shelf: Shelf,
  depth: Depth,
): Promise<Map<string, ItemLook> | undefined> {
  const items = new Map<string, ItemLook>();
  // Many items look alike: one text for all of them.
  const alike = new Map<string, ItemLook>();
  const isWhole = await eachItem(client, shelf, depth, (id, look) => {
    const key = `${look.pictures}\n${look.date}\n${look.derived}`;
    const known = alike.get(key);
    if (known === undefined && alike.size < 10_000) alike.set(key, look);
    items.set(id, known ?? look);
  });
  return isWhole ? items : undefined;
}

/** How a library at this server differs from those items; undefined: it could not be read whole. */
export async function compareItems(
  client: JellyfinClient,
  shelf: Shelf,
  depth: Depth,
  wanted: ReadonlyMap<string, ItemLook>,
): Promise<DigestAnswer> {
  const drift = { library: shelf.name, lacks: 0, extra: 0, pictures: 0, dates: 0, derived: 0 };
  let found = 0;
  const isWhole = await eachItem(client, shelf, depth, (id, look) => {
    const known = wanted.get(id);
    if (known === undefined) {
      drift.extra++;
      return;
    }
    found++;
    if (known.pictures !== look.pictures) drift.pictures++;
    if (known.date !== look.date) drift.dates++;
    if (known.derived !== look.derived) drift.derived++;
  });
  drift.lacks = Math.max(0, wanted.size - found);
  return isWhole ? drift : undefined;
}

/** A server's libraries, and its playlists, which lie in none of them; undefined: it could not be asked. */
export async function readShelves(client: JellyfinClient): Promise<readonly Shelf[] | undefined> {
  const libraries = await readMadeLibraries(client);
  if (libraries === undefined) return undefined;
  const shelves = libraries.map(({ name, id }) => ({ name, query: `parentId=${id}` }));
  return [...shelves, { name: "playlists", query: "includeItemTypes=Playlist" }];
}

/** GET /Items/Counts: one cheap question that shows most drift; undefined: the server could not be asked. */
export async function readCounts(client: JellyfinClient): Promise<string | undefined> {
  const answer = await client.callWithKey("GET", "/Items/Counts");
  if (answer.outcome !== "answered" || answer.status !== 200) return undefined;
  const counts = parsedObject(answer.text);
  if (counts === undefined) return undefined;
  const names = Object.keys(counts).filter((name) => typeof counts[name] === "number");
  return names
    .sort()
    .map((name) => `${name}=${counts[name]}`)
    .join(" ");
}

/**
 * What an item of GET /Items looks like. A version of a film says whether it has media segments (BaseItem.GetVersionInfo),
 * a chapter where its picture is (ChapterRepository). Pure.
 */
export function lookOf(item: Readonly<Record<string, unknown>>): ItemLook {
  const tags = Object.keys(objectOf(item.ImageTags) ?? {}).sort();
  const backdrops = Array.isArray(item.BackdropImageTags) ? item.BackdropImageTags.length : 0;
  const trickplay = Object.values(objectOf(item.Trickplay) ?? {}).flatMap((widths) =>
    Object.keys(objectOf(widths) ?? {}),
  );
  const children = typeof item.ChildCount === "number" ? item.ChildCount : 0;
  const chapters = recordsIn(item.Chapters).filter(({ ImagePath }) => Boolean(ImagePath));
  const segments = recordsIn(item.MediaSources).filter(({ HasSegments }) => HasSegments === true);
  const { DateCreated } = item;
  return {
    pictures: `${tags.join(",")} ${backdrops}`,
    // Servers keep parts of a second differently.
    date: typeof DateCreated === "string" ? DateCreated.slice(0, 19) : "",
    derived: `${trickplay.sort().join(",")} ${children} ${chapters.length} ${segments.length}`,
  };
}

/** False when the library could not be read whole. */
async function eachItem(
  client: JellyfinClient,
  { query }: Shelf,
  depth: Depth,
  told: (id: string, look: ItemLook) => void,
): Promise<boolean> {
  for (let start = 0; start < itemsLimit; start += pageItems) {
    const path =
      `/Items?${query}&recursive=true&fields=${fieldsOf[depth]}&enableUserData=false` +
      `&enableTotalRecordCount=false&sortBy=SortName&startIndex=${start}&limit=${pageItems}`;
    const answer = await client.callWithKey("GET", path);
    if (answer.outcome !== "answered" || answer.status !== 200) return false;
    const items = parsedObject(answer.text)?.Items;
    if (!Array.isArray(items)) return false;
    for (const item of items) {
      if (isRecord(item) && typeof item.Id === "string") {
        told(normalId(item.Id), lookOf(item));
      }
    }
    if (items.length < pageItems) return true;
  }
  return false;
}
