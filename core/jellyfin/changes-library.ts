// Changes of playlists, collections, items and libraries: which intent each of their routes makes (PlaylistsController,
// CollectionController, ItemUpdateController, ImageController, LibraryController, SubtitleController, LyricsController,
// VideosController and LibraryStructureController of Jellyfin). Pure.
//
// It promises that a route which is not about one of them makes none here, that every draft names the item or list it
// is about where the request does, and that nothing that lets somebody in is kept of a query.

import type { ItemFile } from "../cluster/item-files.ts";
import {
  bodyLeftOut,
  type ChangeAsked,
  type ChangeDraft,
  type ChangeReader,
  cleanedQuery,
  fieldsOf,
  plainGuid,
  type RequestBody,
  requestOf,
  textLengthMax,
  userMeant,
} from "./change-request.ts";
import { isGated } from "./gated.ts";
import { listIn, queryValue } from "./playback.ts";
import type { Route } from "./routes.ts";

/** What an intent of kind `playlist` or `collection` does. */
export const listDeeds = ["created", "updated", "shared", "appended", "moved", "removed"] as const;
export type ListDeed = (typeof listDeeds)[number];

/** The facts of an intent of kind `playlist` or `collection`. */
export interface ListFacts {
  readonly what: ListDeed;
}

/**
 * What an intent of kind `metadata` does: `repeat` is the request itself on every server, `images` brings the pictures
 * of one type to those of the server that answered.
 */
export type MetadataFacts =
  | { readonly what: "repeat" }
  | { readonly what: "images"; readonly imageType: string };

/** The facts of an intent of kind `itemGone`: plain ids. */
export interface ItemGoneFacts {
  readonly ids: readonly string[];
}

/** The facts of an intent of kind `itemFile`. */
export interface ItemFileFacts {
  readonly file: "subtitle" | "lyrics";
  readonly what: "added" | "removed";
  /** The subtitle that is removed: its index is of one server only, and the file is gone when others hear of it. */
  readonly was?: ItemFile;
}

/** More ids in one request than this are not taken apart; a client's page of marked items is far smaller. */
const idsLimit = 2000;

/** The reader of this route's requests; undefined: it changes nothing in a list or a library. */
export function libraryChange(route: Route): ChangeReader | undefined {
  if (!route.changes || route.methods.includes("GET")) return undefined;
  switch (route.kind) {
    case "playlist":
    case "collection":
      return readList;
    case "metadata":
      return metadataReader(route);
    case "library":
      return libraryReader(route);
    default:
      return undefined;
  }
}

/** Whether only the leader's replica may write it, though it passes no gate: one order, one history of names. */
export function isWrittenAtLeader(route: Route): boolean {
  if (!route.needsLeader || isGated(route)) return false;
  switch (route.kind) {
    case "playlist":
    case "collection":
    case "library":
    case "user":
    case "userPolicy":
    case "apiKeys":
    case "television":
      return true;
    case "metadata":
      return route.pattern !== refreshPattern;
    default:
      return false;
  }
}

/** A playlist or a collection is made: its answer is an id, and that of every other change of a list nothing. */
export function isListCreation({ pattern, methods }: Route): boolean {
  return methods.includes("POST") && (pattern === "/Playlists" || pattern === "/Collections");
}

/** SubtitleController.DeleteSubtitle: what it deletes is told by `proxy/attendants/deleted-files.ts`. */
export const subtitlePattern = "/Videos/{itemId}/Subtitles/{index}";

/** Done on every server by an attendant of its own (proxy/attendants/refresh.ts). */
const refreshPattern = "/Items/{itemId}/Refresh";

// ---- Playlists and collections ----------------------------------------------------------------------------

function readList(asked: ChangeAsked): ChangeDraft | undefined {
  const { route, params } = asked;
  const kind = route.kind === "collection" ? "collection" : "playlist";
  const what = deedOf(route);
  const itemId = plainGuid(params.playlistId ?? params.collectionId) ?? "";
  if (what === undefined || (itemId === "" && what !== "created")) return undefined;
  const facts: ListFacts = { what };
  return {
    kind,
    userId: kind === "collection" ? "" : ownerMeant(asked),
    itemId,
    request: requestOf(asked, cleanedQuery(asked.rawQuery), textOf(asked, "application/json")),
    facts,
    ...(what === "created" && { told: idToldIn }),
  };
}

function deedOf({ pattern, methods }: Route): ListDeed | undefined {
  const isDelete = methods.includes("DELETE");
  if (pattern === "/Playlists" || pattern === "/Collections") return "created";
  if (pattern.endsWith("/Items")) return isDelete ? "removed" : "appended";
  if (pattern.includes("/Move/")) return "moved";
  if (pattern.includes("/Users/")) return "shared";
  return "updated";
}

/** A playlist's user: a share's path names somebody else, whose list it is not. */
function ownerMeant(asked: ChangeAsked): string {
  const { route, rawQuery, caller } = asked;
  if (caller?.kind === "user" && route.pattern.includes("/Users/")) return caller.userId;
  const inBody = fieldsOf(asked.bodyText ?? "")?.get("userid");
  if (route.pattern === "/Playlists" && plainGuid(queryValue(rawQuery, "userId")) === undefined) {
    const owner = plainGuid(inBody);
    if (owner !== undefined) return owner;
  }
  return userMeant(asked);
}

/** A PlaylistCreationResult or CollectionCreationResult: the id of what was made. */
function idToldIn(answer: string): unknown {
  const id = plainGuid(fieldsOf(answer)?.get("id"));
  return id === undefined ? undefined : { id };
}

// ---- Items ------------------------------------------------------------------------------------------------

function metadataReader({ pattern }: Route): ChangeReader | undefined {
  if (pattern === refreshPattern) return undefined;
  if (pattern.includes("/Images") || pattern.endsWith("/RemoteImages/Download")) return readImages;
  if (pattern.includes("/Subtitles")) return (asked) => readFile(asked, "subtitle");
  if (pattern.includes("/Lyrics")) return (asked) => readFile(asked, "lyrics");
  return readMetadata;
}

function readMetadata(asked: ChangeAsked): ChangeDraft | undefined {
  const { params, rawQuery } = asked;
  const itemId = params.itemId === undefined ? idsIn(rawQuery, "ids")[0] : plainGuid(params.itemId);
  if (itemId === undefined) return undefined;
  const facts: MetadataFacts = { what: "repeat" };
  const request = requestOf(asked, cleanedQuery(rawQuery), textOf(asked, "application/json"));
  return { kind: "metadata", userId: "", itemId, request, facts };
}

function readImages(asked: ChangeAsked): ChangeDraft | undefined {
  const { params, rawQuery, route } = asked;
  const itemId = plainGuid(params.itemId);
  const isDownload = route.pattern.endsWith("/RemoteImages/Download");
  const imageType = isDownload ? queryValue(rawQuery, "type") : params.imageType;
  if (itemId === undefined || imageType === undefined || !/^[A-Za-z]{1,20}$/.test(imageType)) {
    return undefined;
  }
  const facts: MetadataFacts = { what: "images", imageType };
  const body = textOf(asked, asked.contentType.split(";")[0]?.trim() ?? "");
  const request = requestOf(asked, cleanedQuery(rawQuery), body);
  return { kind: "metadata", userId: "", itemId, request, facts };
}

function readFile(asked: ChangeAsked, file: ItemFileFacts["file"]): ChangeDraft | undefined {
  const itemId = plainGuid(asked.params.itemId);
  if (itemId === undefined) return undefined;
  const { deletedFile: was, method } = asked;
  const facts: ItemFileFacts = {
    ...{ file, what: method === "DELETE" ? "removed" : "added" },
    ...(was !== undefined && { was }),
  };
  const type = asked.contentType.split(";")[0]?.trim() ?? "";
  const request = requestOf(asked, cleanedQuery(asked.rawQuery), textOf(asked, type));
  return { kind: "itemFile", userId: "", itemId, request, facts };
}

// ---- The library itself -----------------------------------------------------------------------------------

function libraryReader(route: Route): ChangeReader | undefined {
  const { pattern } = route;
  if (pattern === "/Items" || pattern === "/Items/{itemId}") return readGone;
  if (pattern === "/Library/VirtualFolders/LibraryOptions") return undefined;
  if (pattern.startsWith("/Library/VirtualFolders"))
    return (asked) => plain(asked, "virtualFolder");
  if (/^\/Library\/(?:Media|Series|Movies)\//.test(pattern)) {
    return (asked) => plain(asked, "libraryNews");
  }
  return undefined;
}

function readGone(asked: ChangeAsked): ChangeDraft | undefined {
  const ids = idsMeant(asked);
  if (ids.length === 0) return undefined;
  const facts: ItemGoneFacts = { ids };
  const request = requestOf(asked, asked.params.itemId === undefined ? `ids=${ids.join(",")}` : "");
  return { kind: "itemGone", userId: "", itemId: ids[0] ?? "", request, facts };
}

function plain(asked: ChangeAsked, kind: "virtualFolder" | "libraryNews"): ChangeDraft {
  const request = requestOf(asked, cleanedQuery(asked.rawQuery), textOf(asked, "application/json"));
  return { kind, userId: "", itemId: "", request, facts: {} };
}

// ---- Small things -----------------------------------------------------------------------------------------

/** The items of a route that has one in its path, of which the query says nothing, or many in its query. */
export function idsMeant({ params, rawQuery }: Pick<ChangeAsked, "params" | "rawQuery">): string[] {
  if (params.itemId === undefined) return idsIn(rawQuery, "ids");
  const own = plainGuid(params.itemId);
  return own === undefined ? [] : [own];
}

/** The ids of a list parameter; each once, in their order. What is none is left out, as the server does. */
export function idsIn(rawQuery: string, name: string): string[] {
  const ids = listIn(rawQuery, name).flatMap((part) => plainGuid(part) ?? []);
  return [...new Set(ids)].slice(0, idsLimit);
}

function textOf({ bodyText, body }: ChangeAsked, contentType: string): RequestBody {
  if (bodyText === undefined || bodyText.length > textLengthMax) return bodyLeftOut;
  if (bodyText === "") return { contentType: "", body: "" };
  // Text that is none (a lyrics file in another encoding) would not survive being read as such.
  const isText = body === undefined || body.equals(Buffer.from(bodyText, "utf8"));
  return isText
    ? { contentType, body: bodyText }
    : { contentType, body: body.toString("base64"), isBase64: true };
}
