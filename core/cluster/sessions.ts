// Sessions as the cluster knows them: each sidecar writes down what its server tells of every device, and
// doors show the union. Pure: what a note says and whether it may be believed, which of several servers'
// words about one device is shown, who may see it, and which server a command for it goes to.
//
// A session's id is made of client and device id, so it is the same on every server
// (SessionManager.CreateSessionInfo): ids need no translation, and one id is one device. Whoever can write
// to the store can write a note; one of another shape is as if it were not there.

import { createHash } from "node:crypto";
import { isOurSession } from "../jellyfin/ours.ts";
import { isRecord, parsedObject } from "../service/json.ts";
import { type Note, noteLimitCharacters } from "../store/store.ts";

/** A session of a dead server is shown for this long, or until its device is seen elsewhere. */
export const lostKeepMs = 60_000;

export interface SeenSession {
  readonly id: string;
  readonly replica: string;
  /** 32 lower-case hex digits; empty for a session of an API key. */
  readonly userId: string;
  readonly otherUserIds: readonly string[];
  readonly deviceId: string;
  /** It has a socket and takes commands. */
  readonly isControllable: boolean;
  readonly isPlaying: boolean;
  readonly lastActivityMs: number;
  /** Its server has ended since, and the device was not seen there again. */
  readonly isLost: boolean;
  /** As the server said it (SessionInfoDto). */
  readonly dto: Readonly<Record<string, unknown>>;
}

/** A session as a server's answer has it; undefined for what is none, and for our own. */
export function readSession(
  dto: unknown,
  replica: string,
  isLost = false,
): SeenSession | undefined {
  if (!isRecord(dto)) return undefined;
  const fields = caseless(dto);
  const id = text(fields("Id"));
  const deviceId = text(fields("DeviceId"));
  const userId = plainId(text(fields("UserId")));
  if (!/^[0-9a-f]{32}$/i.test(id) || isOurSession({ deviceId, userId })) return undefined;
  const others = fields("AdditionalUsers");
  const activity = Date.parse(text(fields("LastActivityDate")));
  return {
    id: id.toLowerCase(),
    replica,
    userId,
    otherUserIds: (Array.isArray(others) ? others : [])
      .filter(isRecord)
      .map((other) => plainId(text(caseless(other)("UserId")))),
    deviceId,
    isControllable: fields("SupportsRemoteControl") === true,
    isPlaying: isRecord(fields("NowPlayingItem")),
    lastActivityMs: Number.isFinite(activity) ? activity : 0,
    isLost,
    dto,
  };
}

/**
 * The id that every server gives the session of a device: a GUID of the MD5 of client and device id in UTF-16
 * (SessionManager.GetSessionKey, StringExtensions.GetMD5), as 32 hex digits.
 */
export function sessionIdOf({ client, deviceId }: { client: string; deviceId: string }): string {
  const bytes = createHash("md5")
    .update(Buffer.from(client + deviceId, "utf16le"))
    .digest();
  // A GUID's first three parts are written from their last byte to their first.
  bytes.subarray(0, 4).reverse();
  bytes.subarray(4, 6).reverse();
  bytes.subarray(6, 8).reverse();
  return bytes.toString("hex");
}

export function sessionNoteId(replica: string, sessionId: string): string {
  return `${replica}:${sessionId}`;
}

/** What a note says; undefined when it is not one of ours in shape. */
export function readSessionNote(note: Note): SeenSession | undefined {
  const value = parsedObject(note.value);
  if (value === undefined) return undefined;
  const seen = readSession(value.session, note.replica, value.isLost === true);
  return seen !== undefined && note.id === sessionNoteId(note.replica, seen.id) ? seen : undefined;
}

/** The parts that may grow beyond a note, the least missed first. */
const droppedFirst = ["NowPlayingQueueFullItems", "NowPlayingQueue", "TranscodingInfo"] as const;

/** A note's value; a session too large for one loses its queue, then what is playing. Undefined: still too large. */
export function sessionNoteValue(
  dto: Readonly<Record<string, unknown>>,
  isLost: boolean,
): string | undefined {
  let session: Record<string, unknown> = { ...dto };
  let value = JSON.stringify({ session, isLost });
  for (const name of [...droppedFirst, "NowPlayingItem", "Capabilities"]) {
    if (value.length <= noteLimitCharacters) return value;
    const { [name]: _, ...rest } = session;
    session = rest;
    value = JSON.stringify({ session, isLost });
  }
  return value.length <= noteLimitCharacters ? value : undefined;
}

/** The session without what moves by itself while a film plays: a change of the rest is news. */
export function lastingPart(dto: Readonly<Record<string, unknown>>): string {
  const { LastActivityDate: _a, LastPlaybackCheckIn: _c, TranscodingInfo: _t, ...rest } = dto;
  if (!isRecord(rest.PlayState)) return JSON.stringify(rest);
  const { PositionTicks: _p, ...state } = rest.PlayState;
  return JSON.stringify({ ...rest, PlayState: state });
}

export interface UnionFacts {
  readonly homeOf: (userId: string) => string | undefined;
  /** For how long a replica has not been reachable, in ms; 0: it is ready. */
  readonly goneForMs: (replica: string) => number;
}

/** Every device once, from what all servers say of it. */
export function unionOf(seen: Iterable<SeenSession>, facts: UnionFacts): SeenSession[] {
  const best = new Map<string, SeenSession>();
  for (const session of seen) {
    if (facts.goneForMs(session.replica) > lostKeepMs) continue;
    const known = best.get(session.id);
    if (known === undefined || isBetter(session, known, facts)) best.set(session.id, session);
  }
  return [...best.values()].filter((session) => !isLeftover(session, facts));
}

/** True for a session whose server is there and still has it. */
export function isLive(session: SeenSession, facts: UnionFacts): boolean {
  return !session.isLost && facts.goneForMs(session.replica) === 0;
}

function isBetter(one: SeenSession, other: SeenSession, facts: UnionFacts): boolean {
  const ranks = [
    (session: SeenSession) => isLive(session, facts),
    // Only a session with a socket is controllable: that is where the device is.
    (session: SeenSession) => session.isControllable,
    (session: SeenSession) => session.isPlaying,
    (session: SeenSession) => facts.homeOf(session.userId) === session.replica,
  ];
  for (const rank of ranks) {
    const [mine, its] = [rank(one), rank(other)];
    if (mine !== its) return mine;
  }
  return one.lastActivityMs > other.lastActivityMs;
}

/**
 * A session away from its user's home that neither plays nor takes commands was left by a mint or by a command
 * the user gave: on one server it would not be there.
 */
function isLeftover(session: SeenSession, facts: UnionFacts): boolean {
  if (session.userId === "" || session.isControllable || session.isPlaying) return false;
  const home = facts.homeOf(session.userId);
  if (home === undefined || home === session.replica || facts.goneForMs(home) > 0) return false;
  return isLive(session, facts);
}

/** Who asks for the list, as far as it decides what is shown. */
export interface Onlooker {
  /** Empty for an API key. */
  readonly userId: string;
  readonly isAdministrator: boolean;
  readonly controlsOthers: boolean;
  /** Undefined: all. */
  readonly deviceIds: ReadonlySet<string> | undefined;
}

export interface SessionsQuestion {
  /** Undefined: not asked for. */
  readonly controllableBy: { readonly sharesDevices: boolean } | undefined;
  readonly deviceId: string | undefined;
  /** 0: however long ago. */
  readonly activeWithinSeconds: number;
}

/** Whether Jellyfin would show this session in answer to GET /Sessions (SessionManager.GetSessions). */
export function isShown(
  session: SeenSession,
  onlooker: Onlooker,
  question: SessionsQuestion,
  nowMs: number,
): boolean {
  const { deviceId, activeWithinSeconds, controllableBy } = question;
  if (deviceId !== undefined && session.deviceId.toLowerCase() !== deviceId.toLowerCase())
    return false;
  const oldestMs = nowMs - activeWithinSeconds * 1000;
  if (activeWithinSeconds > 0 && session.lastActivityMs < oldestMs) return false;
  const isOwn = session.userId === "" || containsUser(session, onlooker.userId);
  if (controllableBy === undefined) return onlooker.isAdministrator || isOwn;
  if (!session.isControllable) return false;
  if (!controllableBy.sharesDevices && session.userId === "") return false;
  if (!onlooker.controlsOthers && !isOwn) return false;
  const capabilities = caseless(session.dto)("Capabilities");
  if (onlooker.deviceIds === undefined || session.deviceId === "") return true;
  return (
    onlooker.deviceIds.has(session.deviceId.toLowerCase()) ||
    (isRecord(capabilities) && caseless(capabilities)("SupportsPersistentIdentifier") === false)
  );
}

export interface SessionsAsked {
  /** The replica that answered. */
  readonly replica: string;
  readonly onlooker: Onlooker;
  readonly question: SessionsQuestion;
  readonly nowMs: number;
}

/**
 * The list for one onlooker, each device once. `own` is what the replica that was asked answered: it has looked at
 * their rights and at what they asked for, and says more of its sessions than its notes do, but for those it lost.
 * Whatever comes from a note, those among them, is shown as a server would show it.
 */
export function listFor(
  own: readonly SeenSession[],
  noted: readonly SeenSession[],
  { replica, onlooker, question, nowMs }: SessionsAsked,
  facts: UnionFacts,
): SeenSession[] {
  const others = noted.filter((session) => session.replica !== replica || session.isLost);
  return unionOf([...own, ...others], facts).filter(
    (session) =>
      (session.replica === replica && !session.isLost) ||
      isShown(session, onlooker, question, nowMs),
  );
}

function containsUser(session: SeenSession, userId: string): boolean {
  return userId !== "" && (session.userId === userId || session.otherUserIds.includes(userId));
}

/**
 * The replica that a command for this session goes to. `wait`: its device is on its way to another server, and
 * whoever has it next will be seen here. `unknown`: no server is known to have it.
 */
export function targetOf(
  sessionId: string,
  seen: Iterable<SeenSession>,
  facts: UnionFacts,
): { readonly replica: string } | "wait" | "unknown" {
  const id = sessionId.toLowerCase();
  let best: SeenSession | undefined;
  let wasControllable = false;
  for (const session of seen) {
    if (session.id !== id || facts.goneForMs(session.replica) > lostKeepMs) continue;
    if (session.isControllable && !isLive(session, facts)) wasControllable = true;
    if (best === undefined || isBetter(session, best, facts)) best = session;
  }
  if (best === undefined) return "unknown";
  if (!isLive(best, facts)) return "wait";
  // The device's session is made before its socket is there: a command would be lost in between.
  return wasControllable && !best.isControllable ? "wait" : { replica: best.replica };
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

/** Without dashes, in lower case; empty for nobody. */
function plainId(id: string): string {
  const plain = id.replaceAll("-", "").toLowerCase();
  return /^0*$/.test(plain) ? "" : plain;
}

/** Names as Jellyfin writes them, or in camel case where a client asked for that. */
function caseless(fields: Readonly<Record<string, unknown>>): (name: string) => unknown {
  return (name) => fields[name] ?? fields[`${name.charAt(0).toLowerCase()}${name.slice(1)}`];
}
