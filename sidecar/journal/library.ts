// The handler of `metadata`, `itemFile`, `libraryNews` and `virtualFolder`: what is known of items, the files that
// belong to them, and the libraries themselves. Each server keeps its own database of them, so a change is either made
// again on every other server, or the state it led to is brought there:
//
//   metadata       the edit again; pictures are compared by their sizes and brought from the server that has them
//   itemFile       a file beside shared media comes and goes for all: a refresh finds that; one in a server's own folder
//                  is sent, or looked for and deleted, again
//   libraryNews    told again: each server scans for itself
//   virtualFolder  in the journal's order, after a look whether it has been done already
//
// It promises that a picture which is appended is there once however often it is tried, that an item which a server
// does not have yet is waited for, and that no server is made to scan media that are not whole.

import {
  folderOf,
  type ItemFile,
  itemFilesPath,
  itemIn,
  lyricFilesOf,
  readItemFile,
  sameFileIn,
  subtitleFilesOf,
} from "../../core/cluster/item-files.ts";
import type { Effect, Intent, IntentKind, Placed } from "../../core/cluster/journal.ts";
import { plainGuid } from "../../core/jellyfin/change-request.ts";
import { queryValue } from "../../core/jellyfin/playback.ts";
import { remember } from "../../core/service/forget.ts";
import { isRecord, objectOf, parsedJson, parsedObject } from "../../core/service/json.ts";
import { librariesIn, readServerLibraries, type ServerLibrary } from "../library/libraries.ts";
import { isBelow, mediaProblem, serverEyes, usualMediaLimits } from "../tasks/media.ts";
import { isWritableAt } from "../tasks/places.ts";
import { again, appliedOf, done, refused, skipped } from "./calls.ts";
import type { Applied, AsideOrder, JournalHandler, JournalHands, Published } from "./handler.ts";

/** A request as an effect carries it. */
interface Repeat {
  readonly method: "POST" | "DELETE";
  readonly path: string;
  readonly query: string;
  readonly contentType: string;
  /** Undefined: it was too long for the journal. */
  readonly body: string | undefined;
  readonly isBase64: boolean;
}

/** Pictures of one type, as the server that has them tells of them. */
interface Pictures {
  readonly imageType: string;
  /** In bytes, by index. */
  readonly sizes: readonly number[];
}

const kinds = ["metadata", "itemFile", "libraryNews", "virtualFolder"] as const;
const routesOfKind: Readonly<Record<(typeof kinds)[number], RegExp>> = {
  metadata:
    /^\/(?:Items\/(?:RemoteSearch\/Apply\/)?[^/]+|Videos\/MergeVersions|Videos\/[^/]+\/AlternateSources)/,
  itemFile:
    /^\/(?:Videos|Audio|Items)\/[^/]+\/(?:Subtitles|Lyrics|RemoteSearch\/(?:Subtitles|Lyrics))/,
  libraryNews: /^\/Library\/(?:Media|Series|Movies)\/(?:Added|Updated)$/,
  virtualFolder: /^\/Library\/VirtualFolders(?:\/(?:Name|Paths|Paths\/Update))?$/,
};
const picturesLimit = 100;

/** A file that was sent to this server is in its list by then, unless it was refused after all, in ms. */
const listedAfterMs = 60_000;
const sentLimit = 1000;

export function createLibrary(): JournalHandler {
  const sent = new Map<string, number>();
  return {
    ...{ kinds, repeatsOwn: true, lane: laneOf, order: orderOf, subject: subjectOf, publish, redo },
    apply: (effect, hands) => apply(effect, hands, sent),
  };
}

/** One lane for each item; libraries and what is told of them have one order of their own. */
function laneOf({ kind, itemId }: Intent | Effect): string {
  return kind === "metadata" || kind === "itemFile" ? `item ${itemId}` : "libraries";
}

/** An edit is posted whole (ItemUpdateController), and pictures of one type are told all at once. */
function orderOf({ kind, itemId, payload }: Effect): AsideOrder {
  if (kind === "virtualFolder") return { holds: "libraries", waitsFor: "libraries" };
  if (kind !== "metadata") return {};
  const { repeat, pictures } = objectOf(payload) ?? {};
  const type = readPicturesIn(pictures)?.imageType.toLowerCase();
  if (type !== undefined) return { whole: `pictures ${type} of ${itemId}` };
  return readRepeat(repeat, kind)?.path === `/Items/${itemId}` ? { whole: `item ${itemId}` } : {};
}

/** What an edit says all of; undefined: it adds to what there is. */
function subjectOf(entry: Intent | Effect): string | undefined {
  if (entry.type === "effect") return orderOf(entry).whole;
  const { kind, itemId, request } = entry;
  if (kind !== "metadata") return undefined;
  const { imageType } = objectOf(entry.facts) ?? {};
  if (typeof imageType === "string") return `pictures ${imageType.toLowerCase()} of ${itemId}`;
  return request.path === `/Items/${itemId}` ? `item ${itemId}` : undefined;
}

// ---- Publishing ------------------------------------------------------------------------------------------

async function publish(
  { entry }: Placed<Intent>,
  _outcome: unknown,
  hands: JournalHands,
): Promise<Published> {
  const draft = { userId: "", itemId: entry.itemId };
  const facts = objectOf(entry.facts) ?? {};
  const { imageType } = facts;
  if (entry.kind === "metadata" && facts.what === "images" && typeof imageType === "string") {
    const read = await readPictures(entry.itemId, imageType, hands);
    if (read.outcome === "again") return read;
    if (read.outcome !== "read") return { outcome: "effects", effects: [] };
    const payload = {
      pictures: read.pictures,
      repeat: uploadOf(entry, read.pictures),
    };
    return { outcome: "effects", effects: [{ ...draft, payload }] };
  }
  const repeat = repeatOf(entry);
  if (repeat === undefined) return { outcome: "given up", why: "its request makes no sense" };
  if (entry.kind !== "itemFile")
    return { outcome: "effects", effects: [{ ...draft, payload: { repeat } }] };
  if (facts.what === "removed") {
    return { outcome: "effects", effects: [{ ...draft, payload: { repeat, was: facts.was } }] };
  }
  const isShared = await isSavedWithMedia(entry, facts, hands);
  if (typeof isShared !== "boolean") return isShared;
  return { outcome: "effects", effects: [{ ...draft, payload: { repeat, isShared } }] };
}

/** The bytes that were uploaded, where the journal has them and they are the last picture of the server now. */
function uploadOf(entry: Intent, { sizes }: Pictures): Repeat | undefined {
  const repeat = repeatOf(entry);
  if (repeat?.method !== "POST" || !repeat.contentType.startsWith("image/")) return undefined;
  if (repeat.body === undefined) return undefined;
  const bytes = Buffer.from(repeat.body, "base64").length;
  return sizes.includes(bytes) ? repeat : undefined;
}

function repeatOf(entry: Intent): Repeat | undefined {
  const { method, path, query, contentType, isBase64, bodyTooBig } = entry.request;
  const body = bodyTooBig === true ? undefined : entry.request.body;
  const value = { method, path, query, contentType, body, isBase64: isBase64 === true };
  return readRepeat(value, entry.kind);
}

// ---- Applying --------------------------------------------------------------------------------------------

/** `sent`: when an item's file was last sent to this server, by item, on the monotonic clock. */
async function apply(
  { entry }: Placed<Effect>,
  hands: JournalHands,
  sent: Map<string, number>,
): Promise<Applied> {
  const payload = objectOf(entry.payload) ?? {};
  const repeat = readRepeat(payload.repeat, entry.kind);
  const pictures = readPicturesIn(payload.pictures);
  if (entry.kind === "metadata" && pictures !== undefined) {
    return await bringPictures(entry, pictures, repeat, hands);
  }
  if (repeat === undefined) return refused("what it says makes no sense");
  switch (entry.kind) {
    case "metadata":
      return await ofItem(entry, hands, () => edit(entry, repeat, hands));
    case "itemFile":
      return await ofItem(entry, hands, () => {
        if (repeat.method === "DELETE") return removeFile(entry, repeat, payload.was, hands, sent);
        if (payload.isShared === true) return refresh(entry.itemId, hands);
        return sendFile(entry, repeat, hands, sent);
      });
    case "virtualFolder":
      return await folder(repeat, hands);
    case "libraryNews":
      return await send(repeat, hands);
    default:
      return refused("it is of another kind");
  }
}

/** Does it, unless the server has not got the item yet. */
async function ofItem(
  { itemId }: Effect,
  { client }: JournalHands,
  deed: () => Promise<Applied>,
): Promise<Applied> {
  if (plainGuid(itemId) === undefined) return refused("its item makes no sense");
  const answer = await client.callWithKey("GET", `/Items?ids=${itemId}&enableImages=false`);
  if (answer.outcome === "failed") return again(answer.message);
  if (answer.status !== 200) return appliedOf(answer, "a question");
  const items = parsedObject(answer.text)?.Items;
  return Array.isArray(items) && items.length > 0 ? await deed() : { outcome: "aside", itemId };
}

/** An edit that was too long for the journal is copied from the server that has it. */
async function edit(entry: Effect, repeat: Repeat, hands: JournalHands): Promise<Applied> {
  if (repeat.body !== undefined) return await send(repeat, hands);
  const peer = hands.peer(entry.replica);
  if (peer === undefined) return again("the server that has it cannot be reached");
  // An item is shown to users only, and an API key is none (UserLibraryController.GetItem).
  const users = await peer.users();
  const admin =
    users.outcome === "ok" ? users.users.find((user) => user.isAdministrator) : undefined;
  if (admin === undefined) return again("the server that has it cannot be asked");
  const answer = await peer.callWithKey("GET", `/Items/${entry.itemId}?userId=${admin.id}`);
  if (answer.outcome === "failed" || answer.status !== 200) {
    return again("the server that has it cannot be asked");
  }
  const item = parsedObject(answer.text);
  if (item === undefined) return refused("the item cannot be read");
  return appliedOf(await hands.client.callWithKey("POST", repeat.path, item), "an edit of an item");
}

async function send(repeat: Repeat, { client }: JournalHands): Promise<Applied> {
  const { method, path, query, contentType, body, isBase64 } = repeat;
  const target = query === "" ? path : `${path}?${query}`;
  const what = "a change of the library";
  if (body === undefined) return refused("its body was too long for the journal");
  if (body === "" || method === "DELETE") {
    return appliedOf(await client.callWithKey(method, target), what);
  }
  // The server that has the file is found by a scan, or by a reseed; it cannot be sent as text.
  if (isBase64) return refused("its body is no text");
  return appliedOf(await client.postWithKey(target, contentType, body), what);
}

async function refresh(itemId: string, { client }: JournalHands): Promise<Applied> {
  const path = `/Items/${itemId}/Refresh?metadataRefreshMode=Default&imageRefreshMode=None`;
  return appliedOf(await client.callWithKey("POST", path), "a refresh");
}

// ---- Pictures --------------------------------------------------------------------------------------------

type PicturesRead =
  | { readonly outcome: "read"; readonly pictures: Pictures }
  | { readonly outcome: "missing" }
  | { readonly outcome: "again"; readonly why: string };

/** ImageController.GetItemImageInfos. */
async function readPictures(
  itemId: string,
  imageType: string,
  { client }: Pick<JournalHands, "client">,
): Promise<PicturesRead> {
  const answer = await client.callWithKey("GET", `/Items/${itemId}/Images`);
  if (answer.outcome === "failed") return { outcome: "again", why: answer.message };
  if (answer.status === 404) return { outcome: "missing" };
  if (answer.status !== 200) return { outcome: "again", why: `it answers ${answer.status}` };
  const infos: unknown = parsedJson(answer.text);
  if (!Array.isArray(infos)) return { outcome: "again", why: "its answer cannot be read" };
  const sizes = infos
    .filter(isRecord)
    .filter((info) => String(info.ImageType).toLowerCase() === imageType.toLowerCase())
    .sort((one, other) => Number(one.ImageIndex ?? 0) - Number(other.ImageIndex ?? 0))
    .map(({ Size }) => (typeof Size === "number" ? Size : 0))
    .slice(0, picturesLimit);
  return { outcome: "read", pictures: { imageType, sizes } };
}

/** What is to be done with the pictures of one type: how many of the last ones go, and which come. Pure. */
export function pictureSteps(
  own: readonly number[],
  wanted: readonly number[],
): { readonly remove: number; readonly bring: readonly number[] } {
  let same = 0;
  while (same < own.length && same < wanted.length && own[same] === wanted[same]) same++;
  const bring = wanted.map((_size, index) => index).slice(same);
  return { remove: own.length - same, bring };
}

async function bringPictures(
  entry: Effect,
  { imageType, sizes }: Pictures,
  repeat: Repeat | undefined,
  hands: JournalHands,
): Promise<Applied> {
  const { itemId } = entry;
  if (plainGuid(itemId) === undefined) return refused("its item makes no sense");
  const own = await readPictures(itemId, imageType, hands);
  if (own.outcome === "missing") return { outcome: "aside", itemId };
  if (own.outcome === "again") return own;
  const steps = pictureSteps(own.pictures.sizes, sizes);
  if (steps.remove === 0 && steps.bring.length === 0) return skipped;
  const { client } = hands;
  const isList = /^(?:backdrop|screenshot)$/i.test(imageType);
  const path = `/Items/${itemId}/Images/${imageType}`;
  // A picture that stands alone is replaced by the next one; only without a next one it is taken away.
  const removals = isList || steps.bring.length === 0 ? steps.remove : 0;
  for (
    let index = own.pictures.sizes.length - 1;
    index >= own.pictures.sizes.length - removals;
    index--
  ) {
    const at = isList ? `${path}/${index}` : path;
    const applied = appliedOf(await client.callWithKey("DELETE", at), "the removal of a picture");
    if (applied.outcome !== "done") return applied;
  }
  for (const index of steps.bring) {
    const picture = await pictureBytes(entry, imageType, index, sizes[index] ?? 0, repeat, hands);
    if (picture === undefined) return again("the server that has the picture cannot be asked");
    const answer = await client.postWithKey(path, picture.contentType, picture.base64);
    const applied = appliedOf(answer, "a picture");
    if (applied.outcome !== "done") return applied;
  }
  return done;
}

/** From the journal where it has them, else from the server that has the picture, or any other that has the same. */
async function pictureBytes(
  { itemId, replica }: Effect,
  imageType: string,
  index: number,
  size: number,
  repeat: Repeat | undefined,
  hands: JournalHands,
): Promise<{ readonly contentType: string; readonly base64: string } | undefined> {
  if (repeat?.body !== undefined && Buffer.from(repeat.body, "base64").length === size) {
    return { contentType: repeat.contentType, base64: repeat.body };
  }
  const answer = await hands.peer(replica)?.file(`/Items/${itemId}/Images/${imageType}/${index}`);
  if (answer?.outcome !== "answered" || answer.status !== 200) return undefined;
  if (!answer.contentType.startsWith("image/")) return undefined;
  return { contentType: answer.contentType, base64: answer.bytes.toString("base64") };
}

// ---- Subtitles and lyrics --------------------------------------------------------------------------------

/**
 * Whether what was uploaded or downloaded lies beside the media, where every server sees it, and not in a folder of this
 * server's own. Which streams the item has says nothing yet: the answer comes before the refresh that finds the file
 * (SubtitleController.UploadSubtitle and LyricsController.UploadLyrics queue it). So it is told as the server decides
 * it: a subtitle goes where the library's options say, or the upload fails (SubtitleManager.TrySaveSubtitle); lyrics that
 * cannot be written there go into the own folder (LyricManager.TrySaveLyric).
 */
async function isSavedWithMedia(
  { itemId }: Intent,
  { file }: Readonly<Record<string, unknown>>,
  { client }: JournalHands,
): Promise<boolean | Extract<Published, { readonly outcome: "again" }>> {
  const why = "where its file was saved cannot be found out";
  const answer = await client.callWithKey("GET", itemFilesPath(itemId));
  const libraries = await readServerLibraries(client);
  if (answer.outcome !== "answered" || answer.status !== 200 || libraries === undefined) {
    return { outcome: "again", why };
  }
  const path = itemIn(answer.text)?.Path;
  if (typeof path !== "string") return true;
  const library = libraries.find(({ locations }) => locations.some((one) => isBelow(path, one)));
  // Where no library says it, Jellyfin's own defaults count (LibraryOptions).
  if (file !== "lyrics") return library?.options.SaveSubtitlesWithMedia !== false;
  if (library?.options.SaveLyricsWithMedia !== true) return false;
  return await isWritableAt(client, folderOf(path));
}

async function sendFile(
  { itemId }: Effect,
  repeat: Repeat,
  hands: JournalHands,
  sent: Map<string, number>,
): Promise<Applied> {
  const applied = await send(repeat, hands);
  if (applied.outcome !== "done") return applied;
  remember(sent, itemId, hands.clock.monotonicMs(), sentLimit);
  return applied;
}

/**
 * What lay beside the media is gone for every server, and a refresh finds that; nothing there is deleted again, where a
 * newer file may lie by now. In the own folder it is looked for: of subtitles one is meant, of lyrics all are. A server
 * that was sent a file a moment ago lists it only after its refresh, and is asked again.
 */
async function removeFile(
  { itemId }: Effect,
  repeat: Repeat,
  was: unknown,
  hands: JournalHands,
  sent: ReadonlyMap<string, number>,
): Promise<Applied> {
  const found = repeat.path.endsWith("/Lyrics")
    ? await findLyrics(itemId, hands)
    : await findOwnSubtitle(itemId, readItemFile(was), hands);
  const sentAtMs = sent.get(itemId) ?? Number.NEGATIVE_INFINITY;
  switch (found.outcome) {
    case "found":
      return await send({ ...repeat, path: found.path }, hands);
    case "beside":
      return await refresh(itemId, hands);
    case "skipped":
      return hands.clock.monotonicMs() - sentAtMs < listedAfterMs
        ? again("the server does not list the file yet that it was sent")
        : skipped;
    default:
      return found;
  }
}

/** What is to be asked for; `skipped`: this server has nothing of the kind; `beside`: only beside the media. */
type Found =
  | Applied
  | { readonly outcome: "found"; readonly path: string }
  | { readonly outcome: "beside" };

/** Undefined: which one was deleted is not known. */
async function findOwnSubtitle(
  itemId: string,
  wanted: ItemFile | undefined,
  hands: Pick<JournalHands, "client" | "log" | "replica">,
): Promise<Found> {
  if (wanted?.isBesideMedia === true) return { outcome: "beside" };
  if (wanted !== undefined) return await findSubtitle(itemId, wanted, hands);
  const read = await readItem(itemId, hands);
  if (read.outcome !== "read") return read;
  if (subtitleFilesOf(read.item).some(({ isBesideMedia }) => !isBesideMedia)) {
    hands.log.warn(
      `which subtitle of item ${itemId} was deleted is not known: ${hands.replica} keeps its own`,
    );
  }
  return { outcome: "beside" };
}

async function findSubtitle(
  itemId: string,
  wanted: ItemFile,
  hands: Pick<JournalHands, "client">,
): Promise<Found> {
  const read = await readItem(itemId, hands);
  if (read.outcome !== "read") return read;
  const same = sameFileIn(subtitleFilesOf(read.item), wanted);
  if (same === undefined) return skipped;
  return { outcome: "found", path: `/Videos/${itemId}/Subtitles/${same.index}` };
}

async function findLyrics(itemId: string, hands: Pick<JournalHands, "client">): Promise<Found> {
  const read = await readItem(itemId, hands);
  if (read.outcome !== "read") return read;
  const files = lyricFilesOf(read.item);
  if (files.some(({ isBesideMedia }) => isBesideMedia)) return { outcome: "beside" };
  return files.length === 0 ? skipped : { outcome: "found", path: `/Audio/${itemId}/Lyrics` };
}

async function readItem(
  itemId: string,
  { client }: Pick<JournalHands, "client">,
): Promise<
  Applied | { readonly outcome: "read"; readonly item: Readonly<Record<string, unknown>> }
> {
  const answer = await client.callWithKey("GET", itemFilesPath(itemId));
  if (answer.outcome === "failed") return again(answer.message);
  if (answer.status !== 200) return appliedOf(answer, "a question");
  return { outcome: "read", item: itemIn(answer.text) ?? {} };
}

// ---- Libraries -------------------------------------------------------------------------------------------

/** LibraryStructureController. A name that is taken would become another library, «name2». */
async function folder(repeat: Repeat, hands: JournalHands): Promise<Applied> {
  const answer = await hands.client.callWithKey("GET", "/Library/VirtualFolders");
  if (answer.outcome === "failed") return again(answer.message);
  if (answer.status !== 200) return appliedOf(answer, "a question");
  if (isFolderDone(repeat, librariesIn(parsedJson(answer.text)) ?? [])) return skipped;
  return await send(await withoutUnsafeScan(repeat, hands), hands);
}

/** Whether these libraries are as the request would have them. Pure. */
export function isFolderDone(
  { method, path, query, body }: Pick<Repeat, "method" | "path" | "query" | "body">,
  libraries: readonly Pick<ServerLibrary, "name" | "locations">[],
): boolean {
  const named = (name: unknown) => libraries.find((one) => one.name === name);
  const fields = fieldsIn(body ?? "");
  const name = queryValue(query, "name");
  switch (`${method} ${path.replace("/Library/VirtualFolders", "")}`) {
    case "POST ":
      return named(name) !== undefined;
    case "DELETE ":
      return named(name) === undefined;
    case "POST /Name":
      return named(name) === undefined && named(queryValue(query, "newName")) !== undefined;
    case "POST /Paths": {
      const added = objectOf(fields.get("pathinfo"))?.Path ?? fields.get("path");
      return (
        typeof added === "string" && named(fields.get("name"))?.locations.includes(added) === true
      );
    }
    case "DELETE /Paths":
      return named(name)?.locations.includes(queryValue(query, "path") ?? "") !== true;
    default:
      return false;
  }
}

/** A library is made all the same where media are not whole; it is scanned with the next scan of the cluster. */
async function withoutUnsafeScan(
  repeat: Repeat,
  { client, log, replica }: JournalHands,
): Promise<Repeat> {
  if (queryValue(repeat.query, "refreshLibrary")?.toLowerCase() !== "true") return repeat;
  const problem = await mediaProblem(serverEyes(client), usualMediaLimits);
  if (problem === undefined) return repeat;
  log.warn(`${replica} does not scan after a change of its libraries: ${problem}`);
  const kept = repeat.query.split("&").filter((pair) => !/^refreshlibrary=/i.test(pair));
  return { ...repeat, query: kept.join("&") };
}

// ---- Doing it again, as the leader -------------------------------------------------------------------------

/** The request as it was, by the identity's own token; what it leads to is compared when others apply it. */
async function redo(
  { entry }: Placed<Intent>,
  hands: JournalHands,
  isAgreed: boolean,
): Promise<Applied> {
  const asked = repeatOf(entry);
  const deleted = readItemFile(objectOf(entry.facts)?.was);
  const found = deleted && (await findSubtitle(entry.itemId, deleted, hands));
  // Where nobody has judged the caller, nothing is told to the others that no server was asked for in their name.
  if (found?.outcome === "skipped") return isAgreed ? done : refused("its file is not there");
  if (found !== undefined && !("path" in found)) return again("its file cannot be looked for");
  const repeat = asked && found ? { ...asked, path: found.path } : asked;
  if (repeat === undefined) return refused("its request makes no sense");
  if (repeat.body === undefined) return refused("its body was too long for the journal");
  if (entry.kind === "virtualFolder") return await folder(repeat, hands);
  if (entry.kind === "libraryNews") return await send(repeat, hands);
  const isThere = await isPictureThere(entry, repeat, hands);
  if (isThere === true) return done;
  if (isThere !== false) return isThere;
  const { memory, replica, client } = hands;
  const identity = memory.identities.get(entry.identityKey);
  if (identity?.kind === "apiKey") return await send(repeat, hands);
  const token = identity === undefined ? undefined : memory.openToken(identity, replica);
  if (identity === undefined) return refused("its login is not known any more");
  if (token === undefined) return again("its user has no token here yet");
  const { method, path, query, contentType, body } = repeat;
  const target = query === "" ? path : `${path}?${query}`;
  const answer = await client.sendAs(token, identity, { method, path: target, contentType, body });
  return appliedOf(answer, "a change of an item");
}

/** A picture that was appended before its server died is not appended twice. */
async function isPictureThere(
  entry: Intent,
  repeat: Repeat,
  hands: JournalHands,
): Promise<boolean | Applied> {
  const { imageType } = objectOf(entry.facts) ?? {};
  if (typeof imageType !== "string" || repeat.method !== "POST" || repeat.body === undefined)
    return false;
  const read = await readPictures(entry.itemId, imageType, hands);
  if (read.outcome === "again") return read;
  const bytes = Buffer.from(repeat.body, "base64").length;
  return read.outcome === "read" && bytes > 0 && read.pictures.sizes.includes(bytes);
}

// ---- What effects say ------------------------------------------------------------------------------------

/** A request in an effect; undefined unless it is one of this kind's own routes: nothing else is ever sent. */
function readRepeat(value: unknown, kind: IntentKind): Repeat | undefined {
  const fields = objectOf(value);
  const { method, path, query, contentType, body, isBase64 } = fields ?? {};
  const routes = kinds.find((known) => known === kind);
  if (fields === undefined || routes === undefined) return undefined;
  if (method !== "POST" && method !== "DELETE") return undefined;
  if (typeof path !== "string" || typeof query !== "string" || typeof contentType !== "string") {
    return undefined;
  }
  const isSound =
    routesOfKind[routes].test(path) && !/[\s?#]|\.\./.test(path) && !/[\s#]/.test(query);
  if (!isSound || (body !== undefined && typeof body !== "string")) return undefined;
  return { method, path, query, contentType, body, isBase64: isBase64 === true };
}

function readPicturesIn(value: unknown): Pictures | undefined {
  const { imageType, sizes } = objectOf(value) ?? {};
  if (typeof imageType !== "string" || !/^[A-Za-z]{1,20}$/.test(imageType)) return undefined;
  if (!Array.isArray(sizes) || sizes.length > picturesLimit) return undefined;
  const sound = sizes.filter((size) => Number.isSafeInteger(size) && size >= 0);
  return sound.length === sizes.length ? { imageType, sizes: sound } : undefined;
}

function fieldsIn(body: string): ReadonlyMap<string, unknown> {
  const fields = Object.entries(parsedObject(body) ?? {});
  return new Map(fields.map(([name, value]) => [name.toLowerCase(), value]));
}
