// What a media request plays, and how a broken body goes on: pure readings of stream, playlist and segment
// requests, of the few names in queries and bodies by which a request is bound to a server, and the
// arithmetic of byte ranges (RFC 9110, section 14) with which a replica continues what another one began.
// It promises never to throw whatever the text, and that two replies are taken for the same file only when
// their validators say so.

import { removeTokenFromQuery } from "./credentials.ts";
import { decodeQueryText } from "./paths.ts";
import type { Repeatable, Route, RouteKind, RouteParams } from "./routes.ts";

/** Names that bind a request to a server's memory, or say what it plays. Undefined when absent or empty. */
export interface PlaybackQuery {
  readonly playSessionId: string | undefined;
  readonly deviceId: string | undefined;
  readonly mediaSourceId: string | undefined;
  readonly liveStreamId: string | undefined;
  readonly tag: string | undefined;
  /** QuickConnect's secret and code. */
  readonly secret: string | undefined;
  readonly code: string | undefined;
  readonly userId: string | undefined;
  /** `static=true`: the file itself, not an encode of it. */
  readonly isStatic: boolean;
}

/** The query of a request that has none. */
export const emptyPlaybackQuery: PlaybackQuery = Object.freeze({
  playSessionId: undefined,
  deviceId: undefined,
  mediaSourceId: undefined,
  liveStreamId: undefined,
  tag: undefined,
  secret: undefined,
  code: undefined,
  userId: undefined,
  isStatic: false,
});

/**
 * Reads those names in one pass. Names in any letter case, values decoded, the first of several counts (as
 * ASP.NET binds them).
 */
export function readPlaybackQuery(rawQuery: string): PlaybackQuery {
  if (rawQuery === "") return emptyPlaybackQuery;
  const found: { -readonly [Name in keyof PlaybackQuery]: PlaybackQuery[Name] } = {
    ...emptyPlaybackQuery,
  };
  let isStatic: string | undefined;
  const length = rawQuery.length;
  for (let from = 0; from < length; ) {
    let to = rawQuery.indexOf("&", from);
    if (to < 0) to = length;
    const equals = rawQuery.indexOf("=", from);
    if (equals > from && equals < to) {
      switch (boundName(rawQuery, from, equals)) {
        case "playsessionid":
          found.playSessionId ??= valueIn(rawQuery, equals, to);
          break;
        case "deviceid":
          found.deviceId ??= valueIn(rawQuery, equals, to);
          break;
        case "mediasourceid":
          found.mediaSourceId ??= valueIn(rawQuery, equals, to);
          break;
        case "livestreamid":
          found.liveStreamId ??= valueIn(rawQuery, equals, to);
          break;
        case "tag":
          found.tag ??= valueIn(rawQuery, equals, to);
          break;
        case "secret":
          found.secret ??= valueIn(rawQuery, equals, to);
          break;
        case "code":
          found.code ??= valueIn(rawQuery, equals, to);
          break;
        case "userid":
          found.userId ??= valueIn(rawQuery, equals, to);
          break;
        case "static":
          isStatic ??= valueIn(rawQuery, equals, to);
          break;
      }
    }
    from = to + 1;
  }
  found.isStatic = isTrue(isStatic);
  return found;
}

/** The first value of a query name in any letter case, decoded. Undefined when the name is not there. */
export function queryValue(rawQuery: string, name: string): string | undefined {
  if (rawQuery === "") return undefined;
  const wanted = name.toLowerCase();
  for (const pair of rawQuery.split("&")) {
    const equals = pair.indexOf("=");
    const rawName = equals < 0 ? pair : pair.slice(0, equals);
    // A name can only be longer than wanted when it is encoded.
    if (rawName.length < wanted.length) continue;
    if (rawName.length > wanted.length && rawName.indexOf("%") < 0) continue;
    if (decodeQueryText(rawName).toLowerCase() !== wanted) continue;
    return equals < 0 ? "" : decodeQueryText(pair.slice(equals + 1));
  }
  return undefined;
}

/** All values of a query name in any letter case, decoded, in their order. */
export function queryValues(rawQuery: string, name: string): string[] {
  const wanted = name.toLowerCase();
  return [...new URLSearchParams(rawQuery)].flatMap(([key, value]) =>
    key.toLowerCase() === wanted ? [value] : [],
  );
}

/**
 * The values of a list parameter, in any letter case of its name. Clients repeat the parameter or separate values by commas,
 * and not both: of a repeated one each is a value, commas and all (CommaDelimitedCollectionModelBinder).
 */
export function listIn(rawQuery: string, name: string): string[] {
  const values = queryValues(rawQuery, name);
  const [only = ""] = values;
  return values.length === 1 ? only.split(",") : values;
}

/** The query with one value for a name, in the place of whatever it had under that name in any letter case. */
export function withQueryValue(rawQuery: string, name: string, value: string): string {
  const wanted = name.toLowerCase();
  const others = rawQuery.split("&").filter((pair) => {
    const equals = pair.indexOf("=");
    const rawName = equals < 0 ? pair : pair.slice(0, equals);
    return pair !== "" && decodeQueryText(rawName).toLowerCase() !== wanted;
  });
  return [...others, `${name}=${encodeURIComponent(value)}`].join("&");
}

/**
 * A name's value in a JSON body, at its top and in any letter case; of several spellings the last counts (as
 * System.Text.Json binds them); else undefined.
 */
export function bodyValue(body: string, name: string): unknown {
  const wanted = name.toLowerCase();
  const entries = Object.entries(parseObject(body) ?? {});
  return entries.findLast(([key]) => key.toLowerCase() === wanted)?.[1];
}

/** True when the answer is the file itself, so that any replica with the file can go on with it. */
export function isWholeFile(kind: RouteKind, query: PlaybackQuery): boolean {
  return kind === "download" || (kind === "stream" && query.isStatic);
}

export interface SegmentRequest {
  readonly itemId: string;
  readonly playlistId: string;
  /** Counted from 0; -1 is the init segment of fMP4. */
  readonly number: number;
  /** `ts`, `mp4` …, in lower case. */
  readonly container: string;
}

/** The segment that a route of kind `segment` asks for; undefined when its number is none. */
export function segmentOf(params: RouteParams): SegmentRequest | undefined {
  const { itemId, playlistId, segmentId, container } = params;
  if (itemId === undefined || playlistId === undefined) return undefined;
  if (segmentId === undefined || container === undefined) return undefined;
  if (!/^(?:-1|\d{1,9})$/.test(segmentId)) return undefined;
  return { itemId, playlistId, number: Number(segmentId), container: container.toLowerCase() };
}

/**
 * A key for a segment's bytes: the same URL but for its token, and the same User-Agent (of which Jellyfin
 * makes the name of its output and some defaults), means the same bytes.
 */
export function segmentKey(path: string, rawQuery: string, userAgent: string): string {
  return `${path.toLowerCase()}?${removeTokenFromQuery(rawQuery)}\n${userAgent}`;
}

/**
 * True when a PlaybackInfo request asks for a live stream to be opened where the item needs it
 * (AutoOpenLiveStream in query or body). A body that cannot be read is taken to ask for it.
 */
export function mayOpenLiveStream(rawQuery: string, body: string | undefined): boolean {
  const inQuery = queryValue(rawQuery, "autoOpenLiveStream");
  if (inQuery !== undefined && inQuery !== "") return isTrue(inQuery);
  if (body === undefined) return true;
  if (body.trim() === "") return false;
  if (parseObject(body) === undefined) return true;
  return bodyValue(body, "AutoOpenLiveStream") === true;
}

/**
 * Whether this very request may be repeated: the row's answer, or where that depends on query and body,
 * theirs. `body` is undefined when it is not at hand as text.
 */
export function repeatableFor(
  route: Route,
  rawQuery: string,
  body: string | undefined,
): Repeatable {
  if (!route.repeatableDepends) return route.repeatable;
  switch (route.kind) {
    case "playbackInfo":
      return mayOpenLiveStream(rawQuery, body) ? "ifNotSent" : "yes";
    case "played":
      // BaseItem.MarkPlayed counts once more only when it is given a date.
      return isPresent(queryValue(rawQuery, "datePlayed")) ? "ifNotSent" : "yes";
    case "playStopped":
      return saysWhereItStopped(rawQuery, body) ? "yes" : "ifNotSent";
    default:
      return "ifNotSent";
  }
}

/** Without a position, a stop counts the play once more (SessionManager.OnPlaybackStopped). */
function saysWhereItStopped(rawQuery: string, body: string | undefined): boolean {
  if (isPresent(queryValue(rawQuery, "positionTicks"))) return true;
  if (body === undefined) return false;
  if (bodyValue(body, "Failed") === true) return true;
  const position = bodyValue(body, "PositionTicks");
  return typeof position === "number" || (typeof position === "string" && position !== "");
}

/** One range of a `Range` header: `first-last`, `first-` or `-suffixLength`. Offsets are inclusive. */
export interface ByteRange {
  readonly first: number | undefined;
  readonly last: number | undefined;
  readonly suffixLength: number | undefined;
}

export interface ContentRange {
  readonly first: number;
  readonly last: number;
  /** Undefined when the server wrote `*`. */
  readonly total: number | undefined;
}

/** A `Range` header of one range of bytes; undefined for none, several, another unit, or a malformed one. */
export function parseRange(value: string | undefined): ByteRange | undefined {
  if (value === undefined) return undefined;
  const match = /^\s*bytes\s*=\s*(\d{0,15})\s*-\s*(\d{0,15})\s*$/i.exec(value);
  if (match === null) return undefined;
  const first = numberOf(match[1]);
  const last = numberOf(match[2]);
  if (first === undefined) {
    return last === undefined ? undefined : { first, last: undefined, suffixLength: last };
  }
  if (last !== undefined && last < first) return undefined;
  return { first, last, suffixLength: undefined };
}

/** A `Content-Range` of a 206; undefined when malformed, impossible, or that of a 416 (no range). */
export function parseContentRange(value: string | undefined): ContentRange | undefined {
  if (value === undefined) return undefined;
  const match = /^\s*bytes\s+(\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)\s*$/i.exec(value);
  if (match === null) return undefined;
  const first = Number(match[1]);
  const last = Number(match[2]);
  const total = match[3] === "*" ? undefined : Number(match[3]);
  if (last < first || (total !== undefined && last >= total)) return undefined;
  return { first, last, total };
}

/** What is needed of a reply's head to tell whether another one goes on where it broke. */
export interface ReplyHead {
  readonly status: number;
  /** Undefined when chunked or absent. */
  readonly contentLength: number | undefined;
  readonly contentRange: string | undefined;
  readonly lastModified: string | undefined;
  readonly contentEncoding?: string | undefined;
}

/** What to ask the next replica for, and what its reply must be. Offsets are inclusive. */
export interface Continuation {
  /** The value of the `Range` header. */
  readonly range: string;
  readonly first: number;
  readonly last: number;
  readonly total: number;
  readonly lastModified: string;
}

/**
 * What to ask another replica for after `sentBytes` of this reply's body have gone to the client. Undefined
 * when nothing is missing, or when there is no way to know the same file again: no length, no
 * `Last-Modified`, an encoded body, or a status other than 200 and 206.
 */
export function continuation(original: ReplyHead, sentBytes: number): Continuation | undefined {
  const { lastModified } = original;
  if (lastModified === undefined || isEncoded(original)) return undefined;
  const whole = wholeOf(original);
  if (whole === undefined || sentBytes < 0) return undefined;
  const first = whole.first + sentBytes;
  if (first > whole.last) return undefined;
  return {
    range: `bytes=${first}-${whole.last}`,
    first,
    last: whole.last,
    total: whole.total,
    lastModified,
  };
}

/** null when the reply is the rest of the same file from the right byte on, else why it is not. */
export function continues(reply: ReplyHead, expected: Continuation): string | null {
  if (reply.status !== 206) return `it answered ${reply.status} where a part was asked for`;
  if (isEncoded(reply)) return "its body is encoded";
  const range = parseContentRange(reply.contentRange);
  if (range === undefined) return "its Content-Range cannot be read";
  if (range.first !== expected.first || range.last !== expected.last) {
    return `it begins or ends at other bytes (${range.first}-${range.last})`;
  }
  if (range.total !== expected.total) return "its file has another length";
  const length = range.last - range.first + 1;
  if (reply.contentLength !== undefined && reply.contentLength !== length) {
    return "its Content-Length contradicts its Content-Range";
  }
  if (reply.lastModified !== expected.lastModified) return "its file was modified at another time";
  return null;
}

function wholeOf(head: ReplyHead): { first: number; last: number; total: number } | undefined {
  const { contentLength } = head;
  if (head.status === 200) {
    if (contentLength === undefined || contentLength <= 0) return undefined;
    return { first: 0, last: contentLength - 1, total: contentLength };
  }
  if (head.status !== 206) return undefined;
  const range = parseContentRange(head.contentRange);
  if (range?.total === undefined) return undefined;
  if (contentLength !== undefined && contentLength !== range.last - range.first + 1) {
    return undefined;
  }
  return { first: range.first, last: range.last, total: range.total };
}

function isEncoded(head: ReplyHead): boolean {
  const { contentEncoding } = head;
  return isPresent(contentEncoding) && contentEncoding.toLowerCase() !== "identity";
}

function numberOf(digits: string | undefined): number | undefined {
  return digits === undefined || digits === "" ? undefined : Number(digits);
}

function isPresent(text: string | undefined): text is string {
  return text !== undefined && text !== "";
}

function isTrue(text: string | undefined): boolean {
  return text !== undefined && text.trim().toLowerCase() === "true";
}

/** A bit for each length that one of the names has; others are not even copied. */
const nameLengths = [
  "tag",
  "code",
  "secret",
  "deviceId",
  "liveStreamId",
  "mediaSourceId",
  "playSessionId",
].reduce((bits, name) => bits | (1 << name.length), 0);

/** Every letter may be written as `%XX`. */
const encodedNameLengthMax = 3 * "playSessionId".length;

/** The name in lower case when it may be one of those we read. */
function boundName(query: string, from: number, to: number): string | undefined {
  const length = to - from;
  const fits = length < 32 && (nameLengths & (1 << length)) !== 0;
  if (fits) {
    const name = query.slice(from, to);
    return name.indexOf("%") < 0 ? name.toLowerCase() : decodeQueryText(name).toLowerCase();
  }
  if (length > encodedNameLengthMax) return undefined;
  const name = query.slice(from, to);
  return name.indexOf("%") < 0 ? undefined : decodeQueryText(name).toLowerCase();
}

function valueIn(query: string, equals: number, to: number): string | undefined {
  return equals + 1 === to ? undefined : decodeQueryText(query.slice(equals + 1, to));
}

function parseObject(body: string): Record<string, unknown> | undefined {
  try {
    const parsed: unknown = JSON.parse(body);
    if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) return undefined;
    return parsed as Record<string, unknown>;
  } catch {
    // A body that is not JSON names nothing; the server will say what is wrong with it.
    return undefined;
  }
}
