// Plays: one playback, named by its PlaySessionId, as the cluster remembers it. Jellyfin keeps a play in the
// memory of one server (the session that shows it, the ffmpeg that encodes it); this record is what a
// takeover starts from when that server is gone, what the sidecars compare their servers with, and what
// `status` shows. Everything here is pure: the shape, its validation, and what follows from it.
//
// A play belongs to the home of its user. Its media may be bound elsewhere by a pin of its own, when its
// home fails to encode it or cannot be reached from where the viewer is: then playlists and segments go to
// the pin, and reports of the playback still go home, where the user's data is.

import { isCount, isRecord, parsedObject } from "../service/json.ts";
import type { Home, Note, Pin } from "../store/store.ts";

export interface Play {
  /** The PlaySessionId. */
  readonly id: string;
  readonly userId: string;
  readonly identityKey: string;
  readonly deviceId: string;
  /** Plain form (32 lower-case hex digits); empty while it is not known. */
  readonly itemId: string;
  readonly mediaSourceId: string;
  /** Empty for what is no live stream. */
  readonly liveStreamId: string;
  /** Where its live stream was opened last, and when, in ms since the epoch; empty and 0 for none. */
  readonly tunedAt: string;
  readonly tunedAtMs: number;
  /** The replica that owns its media, and the number of the epoch by which it does. */
  readonly owner: string;
  readonly epoch: number;
  /** Replicas that may hold a session or an encode of it, in the order in which they came to it. */
  readonly visited: readonly string[];
  /** The replica that last delivered a segment of its encode; empty for one that is not encoded. */
  readonly encodesAt: string;
  /** From the viewer's reports, in ticks of 100 ns; -1: not reported. */
  readonly positionTicks: number;
  readonly isPaused: boolean;
  /** The last segment that was delivered whole; -1: none. */
  readonly segment: number;
  /** How often each replica failed to encode it. */
  readonly failures: Readonly<Record<string, number>>;
  /** When the last of these was, in ms since the epoch on the clock of the door that saw it; 0: never. */
  readonly failedAtMs: number;
  readonly hasEnded: boolean;
  /** When it last changed, in ms since the epoch on the clock of the door that wrote it. */
  readonly changedAtMs: number;
}

const textLimit = 256;
const visitedLimit = 32;

/** A play of which nothing is known but its name. */
export function newPlay(id: string, changedAtMs: number): Play {
  return {
    id,
    userId: "",
    identityKey: "",
    deviceId: "",
    itemId: "",
    mediaSourceId: "",
    liveStreamId: "",
    tunedAt: "",
    tunedAtMs: 0,
    owner: "",
    epoch: 0,
    visited: [],
    encodesAt: "",
    positionTicks: -1,
    isPaused: false,
    segment: -1,
    failures: {},
    failedAtMs: 0,
    hasEnded: false,
    changedAtMs,
  };
}

/** Whether a PlaySessionId may name a play here: Jellyfin makes 32 hex digits, and clients may send anything. */
export function isPlayId(id: string | undefined): id is string {
  return id !== undefined && /^[\w-]{1,64}$/.test(id);
}

// ---- As a note --------------------------------------------------------------------------------------

export function playText(play: Play): string {
  const { id: _, ...value } = play;
  return JSON.stringify(value);
}

/** Reads a note of kind `play`; undefined for one that was dropped or that is none. Never throws. */
export function readPlay(note: Pick<Note, "id" | "value">): Play | undefined {
  if (!isPlayId(note.id)) return undefined;
  const value = parsedObject(note.value);
  if (value === undefined) return undefined;
  const texts = [
    "userId",
    "identityKey",
    "deviceId",
    "itemId",
    "mediaSourceId",
    "liveStreamId",
    "tunedAt",
    "owner",
    "encodesAt",
  ] as const;
  const numbers = [
    "epoch",
    "positionTicks",
    "segment",
    "tunedAtMs",
    "failedAtMs",
    "changedAtMs",
  ] as const;
  for (const name of texts) if (!isText(value[name])) return undefined;
  for (const name of numbers) if (!Number.isSafeInteger(value[name])) return undefined;
  const { visited, failures, isPaused, hasEnded } = value;
  if (typeof isPaused !== "boolean" || typeof hasEnded !== "boolean") return undefined;
  if (!Array.isArray(visited) || visited.length > visitedLimit || !visited.every(isText)) {
    return undefined;
  }
  const counts = readCounts(failures);
  if (counts === undefined) return undefined;
  const read: Record<string, unknown> = { id: note.id, visited, isPaused, hasEnded };
  for (const name of [...texts, ...numbers]) read[name] = value[name];
  return { ...(read as unknown as Play), failures: counts };
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value.length <= textLimit;
}

function readCounts(value: unknown): Record<string, number> | undefined {
  if (!isRecord(value)) return undefined;
  const entries = Object.entries(value);
  if (entries.length > visitedLimit) return undefined;
  const counts: Record<string, number> = {};
  for (const [name, count] of entries) {
    if (!isText(name) || !isCount(count)) return undefined;
    counts[name] = count;
  }
  return counts;
}

// ---- What happens to it -----------------------------------------------------------------------------

/** What a request told about a play; what it did not tell is undefined. */
export interface PlayNews {
  readonly userId?: string | undefined;
  readonly identityKey?: string | undefined;
  readonly deviceId?: string | undefined;
  readonly itemId?: string | undefined;
  readonly mediaSourceId?: string | undefined;
  readonly liveStreamId?: string | undefined;
  readonly positionTicks?: number | undefined;
  readonly isPaused?: boolean | undefined;
  readonly segment?: number | undefined;
  readonly hasEnded?: boolean | undefined;
  /** It was answered by this replica. */
  readonly replica?: string | undefined;
  /** The answer was a piece of an encode. */
  readonly isEncoded?: boolean | undefined;
  /** This replica failed to encode it. */
  readonly failedAt?: string | undefined;
  readonly owner?: Owner | undefined;
  /** Its live stream was opened at this replica now. */
  readonly tunedAt?: string | undefined;
}

export function withNews(play: Play, news: PlayNews, nowMs: number): Play {
  const { replica, failedAt, owner } = news;
  let { visited, failures } = play;
  for (const name of [replica, failedAt]) {
    if (name === undefined || name === "" || visited.includes(name)) continue;
    if (visited.length < visitedLimit) visited = [...visited, name];
  }
  if (failedAt !== undefined) {
    failures = { ...failures, [failedAt]: (failures[failedAt] ?? 0) + 1 };
  }
  return {
    ...play,
    userId: told(news.userId, play.userId),
    identityKey: told(news.identityKey, play.identityKey),
    deviceId: told(news.deviceId, play.deviceId),
    itemId: told(news.itemId, play.itemId),
    mediaSourceId: told(news.mediaSourceId, play.mediaSourceId),
    liveStreamId: told(news.liveStreamId, play.liveStreamId),
    tunedAt: news.tunedAt ?? play.tunedAt,
    tunedAtMs: news.tunedAt === undefined ? play.tunedAtMs : nowMs,
    owner: owner?.replica ?? play.owner,
    epoch: owner?.epoch ?? play.epoch,
    visited,
    failures,
    failedAtMs: failedAt === undefined ? play.failedAtMs : nowMs,
    encodesAt: news.isEncoded === true ? (replica ?? play.encodesAt) : play.encodesAt,
    positionTicks: news.positionTicks ?? play.positionTicks,
    isPaused: news.isPaused ?? play.isPaused,
    segment: news.segment ?? play.segment,
    hasEnded: play.hasEnded || news.hasEnded === true,
    changedAtMs: nowMs,
  };
}

function told(news: string | undefined, known: string): string {
  return news === undefined || news === "" ? known : news.slice(0, textLimit);
}

/**
 * When a change must be written: at once where somebody acts on it (another owner, another replica, a pause, an
 * end, a failure), in a while where only the position moved on, never where nothing did.
 */
export function writeOf(written: Play | undefined, play: Play): "now" | "soon" | "never" {
  if (written === undefined) return "now";
  const acted =
    written.owner !== play.owner ||
    written.epoch !== play.epoch ||
    written.visited.length !== play.visited.length ||
    written.encodesAt !== play.encodesAt ||
    written.tunedAtMs !== play.tunedAtMs ||
    written.isPaused !== play.isPaused ||
    written.hasEnded !== play.hasEnded ||
    failuresOf(written) !== failuresOf(play) ||
    written.itemId !== play.itemId ||
    written.identityKey !== play.identityKey;
  if (acted) return "now";
  const moved = written.positionTicks !== play.positionTicks || written.segment !== play.segment;
  return moved ? "soon" : "never";
}

export function failuresOf(play: Play): number {
  let count = 0;
  for (const times of Object.values(play.failures)) count += times;
  return count;
}

/** One record of what two doors saw of a play: the younger one's view, and everything either of them knows. */
export function mergedPlay(own: Play, other: Play): Play {
  const [older, younger] = own.changedAtMs <= other.changedAtMs ? [own, other] : [other, own];
  const failures: Record<string, number> = { ...older.failures };
  for (const [name, count] of Object.entries(younger.failures)) {
    failures[name] = Math.max(count, failures[name] ?? 0);
  }
  const owner = younger.epoch >= older.epoch ? younger : older;
  const tuned = own.tunedAtMs >= other.tunedAtMs ? own : other;
  return {
    ...younger,
    userId: told(younger.userId, older.userId),
    identityKey: told(younger.identityKey, older.identityKey),
    deviceId: told(younger.deviceId, older.deviceId),
    itemId: told(younger.itemId, older.itemId),
    mediaSourceId: told(younger.mediaSourceId, older.mediaSourceId),
    liveStreamId: told(younger.liveStreamId, older.liveStreamId),
    tunedAt: tuned.tunedAt,
    tunedAtMs: tuned.tunedAtMs,
    owner: owner.owner,
    epoch: owner.epoch,
    visited: [...new Set([...older.visited, ...younger.visited])].slice(0, visitedLimit),
    encodesAt: younger.encodesAt === "" ? older.encodesAt : younger.encodesAt,
    positionTicks: younger.positionTicks < 0 ? older.positionTicks : younger.positionTicks,
    segment: younger.segment < 0 ? older.segment : younger.segment,
    failures,
    failedAtMs: Math.max(own.failedAtMs, other.failedAtMs),
    hasEnded: own.hasEnded || other.hasEnded,
  };
}

// ---- Who owns it ------------------------------------------------------------------------------------

export interface Owner {
  readonly replica: string;
  readonly epoch: number;
}

/** Who owns the media of a play: its own pin, else its user's home; undefined when neither is known. */
export function ownerOf(
  pin: Pick<Pin, "replica" | "epoch"> | undefined,
  home: Pick<Home, "replica" | "epoch"> | undefined,
): Owner | undefined {
  const holder = pin ?? home;
  return holder === undefined ? undefined : { replica: holder.replica, epoch: holder.epoch.number };
}

/** What one server still has of a play that it must let go. */
export interface Leftover {
  /** An ffmpeg may run for it. */
  readonly encode: boolean;
  /** A session may show it as playing, and would write its old position one day. */
  readonly session: boolean;
}

const nothing: Leftover = { encode: false, session: false };

/**
 * What `replica` must let go of a play. Nothing while the home is not known: a store that lost its data must
 * not end what is being watched.
 */
export function leftoverOf(
  play: Play,
  replica: string,
  home: string | undefined,
  pin: string | undefined,
): Leftover {
  if (home === undefined || !play.visited.includes(replica)) return nothing;
  const session = home !== replica;
  // At the play's end its home is told by the viewer's own report, which ends the encode there.
  const encode = play.hasEnded ? session : (pin ?? home) !== replica;
  return { encode, session };
}

/**
 * Where a play goes on when `replica` has answered a piece of its encode, or undefined to leave it as it is. The
 * first time another replica than the owner delivers, the play is bound to it, so that the next piece does
 * not start a second encode; a pin moves on only when its replica is gone. So a file that fails to encode
 * everywhere is tried in one other place, and then the error is shown.
 */
export function pinAfter(
  replica: string,
  owner: Owner | undefined,
  isPinned: boolean,
  ownerIsReady: boolean,
): "claim" | "move" | undefined {
  if (owner === undefined || owner.replica === replica) return undefined;
  if (!isPinned) return "claim";
  return ownerIsReady ? undefined : "move";
}
