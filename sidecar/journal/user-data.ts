// The handler of `userData`: what somebody has watched, where they stopped, what they like. It reads what a
// change made of it at the server that carried it out, and brings other servers to the same.
//
// It promises that an effect says only the fields its intent can change, and where the intent says a value
// itself, that value and not what the server says a moment later; that a mark on a season, a series, a
// collection or a film with several versions becomes the state of each leaf, because copying such an item's
// own data changes nothing; and that a server which has it already is not written to, because each write is
// told to that user's apps.

import { isPlainId, normalId } from "../../core/cluster/identity.ts";
import type { Effect, Intent, Placed } from "../../core/cluster/journal.ts";
import {
  readUserDataEffect,
  readUserDataFacts,
  type UserDataFacts,
  type UserDataField,
  type UserDataValues,
} from "../../core/cluster/user-data.ts";
import type { PlainAnswer } from "../../core/jellyfin/client.ts";
import { isRecord, parsedObject } from "../../core/service/json.ts";
import { idHere } from "./calls.ts";
import type {
  Applied,
  EffectDraft,
  FieldRules,
  JournalHandler,
  JournalHands,
  KnownLane,
  PublishContext,
  Published,
  Verified,
} from "./handler.ts";

/** What a server says of one user and one item, in our words. */
export type ServerUserData = UserDataValues & {
  /** Its own data is made of the items in it. */
  readonly isFolder: boolean;
};

export type UserDataAnswer =
  | { readonly outcome: "read"; readonly data: ServerUserData }
  | { readonly outcome: "missing" }
  | { readonly outcome: "again"; readonly why: string }
  | { readonly outcome: "refused"; readonly why: string };

/** A series has some hundred episodes; the longest there are have some thousand. */
const leavesLimit = 5000;
/** Position reports of one item and user become effects this far apart at least, in ms. */
export const positionsApartMs = 5000;
const ticksPerMs = 10_000n;

export function userDataLane(userId: string, itemId: string): string {
  return `userData/${userId}/${itemId}`;
}

export function createUserData(): JournalHandler {
  return {
    kinds: ["userData"],
    fields: fieldRules,
    lane: ({ userId, itemId }) => userDataLane(userId, itemId),
    publish,
    apply,
    redo,
  };
}

const fieldRules: FieldRules = {
  namesOf: (entry) =>
    entry.type === "intent"
      ? (readUserDataFacts(entry.facts)?.fields ?? [])
      : Object.keys(fieldRules.valuesOf(entry)),
  valuesOf: (effect) => ({ ...readUserDataEffect(effect.payload)?.values }),
  payloadOf: (values) => ({ cause: "seen", values }),
  verify,
  apartMs: (intent) =>
    readUserDataFacts(intent.facts)?.cause === "progress" ? positionsApartMs : 0,
};

// ---- Publishing ------------------------------------------------------------------------------------

async function publish(
  { entry }: Placed<Intent>,
  _outcome: unknown,
  hands: JournalHands,
  context: PublishContext,
): Promise<Published> {
  const facts = readUserDataFacts(entry.facts);
  if (facts === undefined) return { outcome: "given up", why: "what it changes makes no sense" };
  const { userId, itemId } = entry;
  const here = idHere(hands, userId);
  const isMark = facts.cause === "played" || facts.cause === "unplayed";
  if (isMark) {
    const leaves = await leavesOf(here, itemId, hands);
    if (leaves.outcome !== "read") return unreadable(leaves);
    if (leaves.items.length > 0) {
      return {
        outcome: "effects",
        effects: leaves.items.map((leaf) => leafDraft(entry, facts, leaf)),
      };
    }
  }
  const effects: EffectDraft[] = [];
  const versions =
    facts.versionId === undefined || facts.versionId === itemId ? [] : [facts.versionId];
  for (const item of [itemId, ...versions]) {
    const answer = await readUserData(here, item, hands);
    // A 10.11 server keeps nothing with the version, and may not know it as an item.
    if (answer.outcome !== "read" && item !== itemId) continue;
    if (answer.outcome !== "read") return unreadable(answer);
    const values = effectValues(facts, answer.data, context.isRaced);
    effects.push({ userId, itemId: item, payload: { cause: facts.cause, values } });
  }
  return { outcome: "effects", effects };
}

function unreadable(answer: { readonly outcome: string; readonly why?: string }): Published {
  if (answer.outcome === "again") return { outcome: "again", why: answer.why ?? "" };
  return {
    outcome: "given up",
    why: answer.outcome === "missing" ? "the server no longer has the item" : (answer.why ?? ""),
  };
}

/**
 * What an effect says, from what the request said and what the server says now. `isRaced`: the server may say
 * what we wrote there ourselves meanwhile, so that what the request said is believed where it said anything.
 */
export function effectValues(
  { fields, values: said, cause }: UserDataFacts,
  now: UserDataValues,
  isRaced: boolean,
): Partial<UserDataValues> {
  const isReport = cause === "start" || cause === "progress" || cause === "stop";
  const result: Partial<Record<UserDataField, unknown>> = {};
  for (const field of fields) {
    if (isReport && (field === "position" || field === "played")) continue;
    const value = said[field];
    if (value === undefined) result[field] = now[field];
    else result[field] = field === "lastPlayedDate" ? dateOf(said, now) : value;
  }
  if (!isReport) return result as Partial<UserDataValues>;
  const reported = said.position;
  if (fields.includes("position")) {
    // A server keeps the position it is told, or none near the beginning or the end. Anything else is a
    // report that came later, which has an effect of its own, or our own writing.
    const isKept = reported === undefined || now.position === reported;
    const isDropped = now.position === 0 && !(isRaced && !now.played);
    result.position = isKept || isDropped ? now.position : reported;
  }
  // A report makes an item played or leaves it as it is. What it left alone is somebody else's to say: the
  // server may not have heard yet that it was taken back.
  const mayEnd = reported === undefined || (reported > 0 && now.position === 0);
  if (fields.includes("played") && now.played && cause !== "start" && mayEnd) result.played = true;
  return result as Partial<UserDataValues>;
}

/** The server's own spelling of the date that was said, unless it says another date. */
function dateOf(said: Partial<UserDataValues>, now: UserDataValues): string | null {
  const date = said.lastPlayedDate ?? null;
  return sameDate(date, now.lastPlayedDate) ? now.lastPlayedDate : date;
}

interface Leaf {
  readonly itemId: string;
  readonly data: ServerUserData;
}

function leafDraft(
  entry: Intent,
  { fields, values: said, cause }: UserDataFacts,
  leaf: Leaf,
): EffectDraft {
  const values: Partial<Record<UserDataField, unknown>> = {};
  for (const field of fields) {
    // A folder's mark says less of a leaf than a leaf's: only that it is played, and where it stands.
    values[field] = field === "played" ? (said.played ?? leaf.data.played) : leaf.data[field];
  }
  return { userId: entry.userId, itemId: leaf.itemId, payload: { cause, values } };
}

type LeavesAnswer =
  | { readonly outcome: "read"; readonly items: readonly Leaf[] }
  | { readonly outcome: "missing" }
  | { readonly outcome: "again"; readonly why: string }
  | { readonly outcome: "refused"; readonly why: string };

/** What a mark on an item spreads to; nothing for an item that stands for itself. */
async function leavesOf(
  userId: string,
  itemId: string,
  hands: JournalHands,
): Promise<LeavesAnswer> {
  const answer = await hands.client.callWithKey(
    "GET",
    `/Items/${itemId}?userId=${userId}&fields=MediaSources`,
  );
  const judged = judge(answer);
  if (judged.outcome !== "answered") return judged;
  const item = parsedObject(judged.text) ?? {};
  if (item.IsFolder === true) return await leavesBelow(userId, itemId, hands);
  const versions = list(item.MediaSources)
    .map((source) => plainId(isRecord(source) ? source.Id : undefined))
    .filter((id) => id !== "");
  if (versions.length < 2) return { outcome: "read", items: [] };
  const items: Leaf[] = [];
  for (const version of new Set([itemId, ...versions])) {
    const read = await readUserData(userId, version, hands);
    if (read.outcome === "read") items.push({ itemId: version, data: read.data });
    else if (read.outcome === "again") return read;
  }
  return { outcome: "read", items };
}

async function leavesBelow(
  userId: string,
  parentId: string,
  { client }: JournalHands,
): Promise<LeavesAnswer> {
  const query =
    `userId=${userId}&parentId=${parentId}&recursive=true&isFolder=false` +
    `&enableUserData=true&enableImages=false&enableTotalRecordCount=false&limit=${leavesLimit}`;
  const judged = judge(await client.callWithKey("GET", `/Items?${query}`));
  if (judged.outcome !== "answered") return judged;
  const items: Leaf[] = [];
  for (const one of list(parsedObject(judged.text)?.Items)) {
    if (!isRecord(one) || one.IsFolder === true) continue;
    const data = readData(one.UserData);
    const itemId = plainId(one.Id);
    if (data !== undefined && itemId !== "") items.push({ itemId, data });
  }
  return { outcome: "read", items };
}

// ---- Applying --------------------------------------------------------------------------------------

async function apply(
  { entry }: Placed<Effect>,
  hands: JournalHands,
  fresh: ReadonlySet<string>,
): Promise<Applied> {
  const { itemId } = entry;
  const userId = idHere(hands, entry.userId);
  const effect = readUserDataEffect(entry.payload);
  if (effect === undefined) return { outcome: "refused", why: "what it says makes no sense" };
  if (!areIds(userId, itemId)) return { outcome: "refused", why: "its ids make no sense" };
  const values = Object.fromEntries(
    Object.entries(effect.values).filter(([field]) => fresh.has(field)),
  );
  const read = await readUserData(userId, itemId, hands);
  if (read.outcome === "missing") return { outcome: "aside", itemId };
  if (read.outcome !== "read") return read;
  if (differing(values, read.data).length === 0) return { outcome: "skipped" };
  return await writeUserData(userId, itemId, values, read.data, hands);
}

async function verify(
  { userId: known, itemId, values: said }: KnownLane,
  hands: JournalHands,
  mayWrite: () => Promise<boolean>,
): Promise<Verified> {
  const userId = idHere(hands, known);
  const effect = readUserDataEffect({ cause: "seen", values: said });
  if (effect === undefined || !areIds(userId, itemId)) return { outcome: "equal" };
  const read = await readUserData(userId, itemId, hands);
  if (read.outcome === "again") return read;
  if (read.outcome !== "read") return { outcome: "equal" };
  const fields = differing(effect.values, read.data);
  if (fields.length === 0 || !(await mayWrite())) return { outcome: "equal" };
  const differs = Object.fromEntries(fields.map((field) => [field, effect.values[field]]));
  const written = await writeUserData(userId, itemId, differs, read.data, hands);
  if (written.outcome === "again") return written;
  return { outcome: "put right", fields };
}

/** Names of the fields of which the server says something else. */
export function differing(values: Partial<UserDataValues>, now: UserDataValues): UserDataField[] {
  return (Object.keys(values) as UserDataField[]).filter((field) => {
    const value = values[field];
    if (value === undefined) return false;
    return field === "lastPlayedDate"
      ? !sameDate(values.lastPlayedDate ?? null, now.lastPlayedDate)
      : value !== now[field];
  });
}

/** The calls that bring a server from what it has to these values, in their order. */
export function writesFor(
  userId: string,
  itemId: string,
  values: Partial<UserDataValues>,
  now: UserDataValues,
): { readonly method: "POST" | "DELETE"; readonly path: string; readonly body?: unknown }[] {
  const query = `userId=${userId}`;
  const writes: ReturnType<typeof writesFor> = [];
  let wanted = values;
  // One of the two is the other (UserItemData.Likes).
  const isRatingCleared = values.likes === null || (values.rating === null && !values.likes);
  if (isRatingCleared && (now.likes !== null || now.rating !== null)) {
    writes.push({ method: "DELETE", path: `/UserItems/${itemId}/Rating?${query}` });
  }
  if (values.lastPlayedDate === null && now.lastPlayedDate !== null) {
    writes.push({ method: "DELETE", path: `/UserPlayedItems/${itemId}?${query}` });
    // That clears played, count and position, too: what shall stay of them is said again.
    const { position, playCount, played } = { ...now, ...values };
    const kept = { position, playCount, played };
    const isEmpty = position === 0 && playCount === 0 && !played;
    const { position: _p, playCount: _c, played: _d, ...others } = values;
    wanted = isEmpty ? others : { ...others, ...kept };
  }
  const body: Record<string, unknown> = {};
  for (const field of Object.keys(wanted) as UserDataField[]) {
    const value = wanted[field];
    if (value !== undefined && value !== null) body[serverNames[field]] = value;
  }
  if (Object.keys(body).length > 0) {
    writes.push({ method: "POST", path: `/UserItems/${itemId}/UserData?${query}`, body });
  }
  return writes;
}

const serverNames: Readonly<Record<UserDataField, string>> = {
  position: "PlaybackPositionTicks",
  playCount: "PlayCount",
  played: "Played",
  lastPlayedDate: "LastPlayedDate",
  favourite: "IsFavorite",
  likes: "Likes",
  rating: "Rating",
};

/** Brings a server from what it has to these values. */
export async function writeUserData(
  userId: string,
  itemId: string,
  values: Partial<UserDataValues>,
  now: UserDataValues,
  { client }: Pick<JournalHands, "client">,
): Promise<Applied> {
  for (const { method, path, body } of writesFor(userId, itemId, values, now)) {
    const judged = judge(await client.callWithKey(method, path, body));
    if (judged.outcome === "missing") return { outcome: "aside", itemId };
    if (judged.outcome !== "answered") return judged;
  }
  return { outcome: "done" };
}

// ---- Doing it again --------------------------------------------------------------------------------

/**
 * Carries out the change of a client whose server died, with the client's own token. A report of a playback is
 * not sent again: that would leave a playback behind which nobody plays, and which the server would write a
 * position for when it gives it up. What the report says is written instead.
 */
async function redo({ entry, atMs }: Placed<Intent>, hands: JournalHands): Promise<Applied> {
  const facts = readUserDataFacts(entry.facts);
  const { itemId } = entry;
  const userId = idHere(hands, entry.userId);
  if (facts === undefined || !areIds(userId, itemId)) {
    return { outcome: "refused", why: "what it changes makes no sense" };
  }
  const identity = hands.memory.identities.get(entry.identityKey);
  if (identity === undefined) return { outcome: "refused", why: "its login is known no longer" };
  const token = hands.memory.openToken(identity, hands.replica);
  if (token === undefined) {
    return { outcome: "again", why: "its login has no token here yet" };
  }
  const { deviceId, client, device, version } = identity;
  const fields = { deviceId, client, device, version };
  const isReport = facts.cause === "start" || facts.cause === "progress" || facts.cause === "stop";
  if (!isReport) {
    const { method, path, query, contentType, body } = entry.request;
    // The id of a user who has another one here stands in old paths and in queries.
    const target = (query === "" ? path : `${path}?${query}`).replaceAll(entry.userId, userId);
    const isMark = facts.cause === "played" || facts.cause === "unplayed";
    const ghosts = isMark && !(await hasSession(deviceId, hands));
    const judged = judge(
      await hands.client.sendAs(token, fields, { method, path: target, contentType, body }),
    );
    if (judged.outcome === "missing") return { outcome: "aside", itemId };
    if (judged.outcome !== "answered") return judged;
    // A mark makes a session where the device had none; without a socket it would never end.
    if (ghosts) await hands.client.endGhostSession(token, fields);
    return { outcome: "done" };
  }
  const own = async (method: string, path: string, body?: string) =>
    judge(
      await hands.client.sendAs(token, fields, {
        method,
        path,
        contentType: "application/json",
        body: body ?? "",
      }),
    );
  const path = `/UserItems/${itemId}/UserData?userId=${userId}`;
  const read = await own("GET", path);
  if (read.outcome === "missing") return { outcome: "aside", itemId };
  if (read.outcome !== "answered") return read;
  const now = readData(parsedObject(read.text));
  if (now === undefined) return { outcome: "again", why: "the server's answer is not understood" };
  const item = await own("GET", `/Items/${itemId}?userId=${userId}`);
  if (item.outcome !== "answered")
    return item.outcome === "missing" ? { outcome: "aside", itemId } : item;
  const ticks = parsedObject(item.text)?.RunTimeTicks;
  const values = reportedValues(facts, now, typeof ticks === "number" ? ticks : 0, atMs);
  const body = Object.fromEntries(
    Object.entries(values).map(([field, value]) => [serverNames[field as UserDataField], value]),
  );
  const written = await own("POST", path, JSON.stringify(body));
  if (written.outcome === "missing") return { outcome: "aside", itemId };
  return written.outcome === "answered" ? { outcome: "done" } : written;
}

async function hasSession(deviceId: string, { client }: JournalHands): Promise<boolean> {
  const answer = await client.sessions();
  // Not known: then nothing is ended.
  if (answer.outcome !== "ok") return true;
  return answer.sessions.some((session) => session.deviceId === deviceId);
}

/** Where a server begins and ends to keep a position unless its owner changed it, in percent. */
const resumeFromPercent = 5;
const resumeToPercent = 90;

/**
 * What a server makes of a report (SessionManager.OnPlaybackStart, UserDataManager.UpdatePlayState), with the
 * thresholds that Jellyfin has by default.
 */
export function reportedValues(
  { cause, values: said }: UserDataFacts,
  now: UserDataValues,
  runTimeTicks: number,
  atMs: number,
): Partial<UserDataValues> {
  if (cause === "start") {
    return { playCount: now.playCount + 1, lastPlayedDate: new Date(atMs).toISOString() };
  }
  const { position } = said;
  if (position === undefined) {
    return cause === "stop" ? { playCount: now.playCount + 1, played: true, position: 0 } : {};
  }
  const percent = runTimeTicks > 0 ? (position / runTimeTicks) * 100 : 50;
  if (percent < resumeFromPercent) return { position: 0 };
  return percent > resumeToPercent ? { position: 0, played: true } : { position };
}

// ---- What servers say ------------------------------------------------------------------------------

/** What a server says of one user and one item. */
export async function readUserData(
  userId: string,
  itemId: string,
  { client }: Pick<JournalHands, "client">,
): Promise<UserDataAnswer> {
  const judged = judge(
    await client.callWithKey("GET", `/UserItems/${itemId}/UserData?userId=${userId}`),
  );
  if (judged.outcome !== "answered") return judged;
  const data = readData(parsedObject(judged.text));
  return data === undefined
    ? { outcome: "again", why: "the server's answer is not understood" }
    : { outcome: "read", data };
}

/** From a UserItemDataDto; undefined when it is none. */
export function readData(value: unknown): ServerUserData | undefined {
  if (!isRecord(value) || typeof value.Played !== "boolean") return undefined;
  const count = (number: unknown): number =>
    Number.isSafeInteger(number) && Number(number) >= 0 ? Number(number) : 0;
  return {
    position: count(value.PlaybackPositionTicks),
    playCount: count(value.PlayCount),
    played: value.Played,
    lastPlayedDate: typeof value.LastPlayedDate === "string" ? value.LastPlayedDate : null,
    favourite: value.IsFavorite === true,
    likes: typeof value.Likes === "boolean" ? value.Likes : null,
    rating: typeof value.Rating === "number" ? value.Rating : null,
    // Only folders that count their leaves say how many are left.
    isFolder: typeof value.UnplayedItemCount === "number",
  };
}

type Judged =
  | { readonly outcome: "answered"; readonly text: string }
  | { readonly outcome: "missing" }
  | { readonly outcome: "again"; readonly why: string }
  | { readonly outcome: "refused"; readonly why: string };

/** A server that is away, starting or broken is asked again; what it refuses it refuses. */
function judge(
  answer: PlainAnswer | { readonly outcome: "failed"; readonly message: string },
): Judged {
  if (answer.outcome === "failed") return { outcome: "again", why: answer.message };
  const { status } = answer;
  if (status >= 200 && status < 300) return { outcome: "answered", text: answer.text };
  if (status === 404) return { outcome: "missing" };
  const why = `the server answered ${status}`;
  return status === 400 || status === 403 ? { outcome: "refused", why } : { outcome: "again", why };
}

/** Equal to the 100 ns that Jellyfin keeps, however they are written. */
export function sameDate(left: string | null, right: string | null): boolean {
  if (left === right) return true;
  if (left === null || right === null) return false;
  return ticksOf(left) === ticksOf(right);
}

function ticksOf(date: string): bigint | undefined {
  const ms = Date.parse(date);
  if (Number.isNaN(ms)) return undefined;
  const beyondMs = /\.\d{3}(\d{1,4})/.exec(date)?.[1] ?? "";
  return BigInt(ms) * ticksPerMs + BigInt(beyondMs.padEnd(4, "0"));
}

function areIds(...ids: readonly string[]): boolean {
  return ids.every(isPlainId);
}

/** An id as we write it; empty for what is none. */
export function plainId(value: unknown): string {
  return typeof value === "string" ? normalId(value) : "";
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}
