// A SyncPlay group as the cluster remembers it: who is in it, what it plays and where it is, learnt from what
// its server tells the members over their sockets. That is enough to make the group again when its server has
// died, and to tell that the id which the members know means the new one. Pure: values in, values out.
//
// A group is two kinds of note, so that no two writers overwrite one another: the group itself (id: the
// group's id as clients know it) and one for each member (that id, a slash, the identity's key). Whoever can
// write the store can write notes: what makes no sense is read as nothing.

import { messageType } from "../jellyfin/messages.ts";
import { objectOf, parsedObject } from "../service/json.ts";
import { isPlainId, normalId } from "./identity.ts";

export interface Group {
  /** What its replica knows it by; at first the same as its id. 32 lower-case hex digits. */
  readonly own: string;
  readonly name: string;
  /** The items of the queue in the order in which they play. */
  readonly items: readonly string[];
  /** The one that plays; -1: none. */
  readonly index: number;
  readonly repeat: RepeatMode;
  readonly isShuffled: boolean;
  /** `LastUpdate` of the queue, as its server wrote it: a text that sorts by time. */
  readonly queueVersion: string;
  /** Where it was at `atMs`, in ticks of 100 ns. */
  readonly positionTicks: number;
  /** In ms since the epoch on the store's clock; ahead of now while a start is agreed upon. */
  readonly atMs: number;
  /** The position moves with the clock. */
  readonly isRunning: boolean;
  /** The members want it to play, also while it waits for one of them. */
  readonly wantsPlay: boolean;
  /** Nothing plays: it was stopped, or nothing was ever begun. */
  readonly isIdle: boolean;
  /** `EmittedAt` of the last command. */
  readonly commandVersion: string;
  /** When it was last made again, in ms since the epoch on the store's clock; 0: never. */
  readonly remadeAtMs: number;
}

export type RepeatMode = "RepeatNone" | "RepeatAll" | "RepeatOne";

export interface GroupMember {
  readonly userId: string;
  /** What its replica knew the group by when this member joined it by a request of its own. */
  readonly joined: string;
  /** The door that has the member's socket. */
  readonly door: string;
  /** The group does not wait for this member (SetIgnoreWait). */
  readonly ignoresWait: boolean;
  /** False while he is only about to join: his place is already by the group. */
  readonly isIn: boolean;
}

/** More items than these are not remembered: a note has an end, and nobody watches as many together. */
export const itemsLimit = 1500;
const nameLengthMax = 200;
const ticksPerMs = 10_000;
const noId = "0".repeat(32);

export function newGroup(own: string, name: string, nowMs: number): Group {
  return {
    own,
    name: name.slice(0, nameLengthMax),
    items: [],
    index: -1,
    repeat: "RepeatNone",
    isShuffled: false,
    queueVersion: "",
    positionTicks: 0,
    atMs: nowMs,
    isRunning: false,
    wantsPlay: false,
    isIdle: true,
    commandVersion: "",
    remadeAtMs: 0,
  };
}

/** Where the group is now, in ticks. */
export function positionAt(group: Group, nowMs: number): number {
  const elapsedMs = group.isRunning ? Math.max(0, nowMs - group.atMs) : 0;
  return Math.max(0, Math.round(group.positionTicks + elapsedMs * ticksPerMs));
}

// ---- Notes ------------------------------------------------------------------------------------------

export function memberNoteId(groupId: string, identityKey: string): string {
  return `${groupId}/${identityKey}`;
}

/** Whose note it is; the identity is undefined for the group's own. Undefined when it is neither. */
export function readNoteId(
  id: string,
): { readonly groupId: string; readonly identityKey: string | undefined } | undefined {
  const slash = id.indexOf("/");
  const groupId = slash < 0 ? id : id.slice(0, slash);
  if (!isPlainId(groupId)) return undefined;
  if (slash < 0) return { groupId, identityKey: undefined };
  const identityKey = id.slice(slash + 1);
  return identityKey === "" ? undefined : { groupId, identityKey };
}

export function readGroup(value: string): Group | undefined {
  const fields = parsedObject(value);
  if (fields === undefined) return undefined;
  const { own, name, items, index, queueVersion, positionTicks, atMs, commandVersion } = fields;
  const { repeat, isShuffled, isRunning, wantsPlay, isIdle, remadeAtMs } = fields;
  const isGroup =
    typeof own === "string" &&
    isPlainId(own) &&
    typeof name === "string" &&
    name.length <= nameLengthMax &&
    Array.isArray(items) &&
    items.length <= itemsLimit &&
    items.every((item) => typeof item === "string" && isPlainId(item)) &&
    isWhole(index) &&
    index >= -1 &&
    index < Math.max(items.length, 1) &&
    isRepeatMode(repeat) &&
    typeof queueVersion === "string" &&
    typeof commandVersion === "string" &&
    isWhole(positionTicks) &&
    isNumber(atMs) &&
    isNumber(remadeAtMs) &&
    typeof isShuffled === "boolean" &&
    typeof isRunning === "boolean" &&
    typeof wantsPlay === "boolean" &&
    typeof isIdle === "boolean";
  if (!isGroup) return undefined;
  return {
    own,
    name,
    items: items as string[],
    index,
    repeat,
    isShuffled,
    queueVersion,
    positionTicks,
    atMs,
    isRunning,
    wantsPlay,
    isIdle,
    commandVersion,
    remadeAtMs,
  };
}

export function readMember(value: string): GroupMember | undefined {
  const fields = parsedObject(value);
  if (fields === undefined) return undefined;
  const { userId, joined, door, ignoresWait, isIn } = fields;
  if (typeof userId !== "string" || !isPlainId(userId)) return undefined;
  if (typeof joined !== "string" || typeof door !== "string") return undefined;
  if (typeof ignoresWait !== "boolean" || typeof isIn !== "boolean") return undefined;
  return { userId, joined, door, ignoresWait, isIn };
}

// ---- What a server says -----------------------------------------------------------------------------

/** A SyncPlayGroupUpdate or a SyncPlayCommand. */
export interface GroupMessage {
  readonly type: "SyncPlayGroupUpdate" | "SyncPlayCommand";
  /** Undefined where it is about no group (NotInGroup, GroupDoesNotExist). */
  readonly own: string | undefined;
  /** The update's type or the command. */
  readonly what: string;
  readonly data: Record<string, unknown>;
}

/** Reads a socket message; undefined when it is none of a group. */
export function readGroupMessage(text: string): GroupMessage | undefined {
  const type = messageType(text);
  if (type !== "SyncPlayGroupUpdate" && type !== "SyncPlayCommand") return undefined;
  const envelope = parsedObject(text);
  const data = objectOf(envelope?.Data);
  if (data === undefined) return undefined;
  const own = typeof data.GroupId === "string" ? normalId(data.GroupId) : "";
  const what = type === "SyncPlayCommand" ? data.Command : data.Type;
  if (typeof what !== "string") return undefined;
  const isAbout = isPlainId(own) && own !== noId;
  return { type, own: isAbout ? own : undefined, what, data };
}

/** The group after its server said this; the same value when nothing is new. */
export function learnt(group: Group, message: GroupMessage, nowMs: number): Group {
  if (message.type === "SyncPlayCommand") return afterCommand(group, message, nowMs);
  const inner = objectOf(message.data.Data);
  if (inner === undefined) return group;
  if (message.what === "StateUpdate") return afterState(group, inner);
  return message.what === "PlayQueue" ? afterQueue(group, inner, nowMs) : group;
}

function afterCommand(group: Group, { what, data }: GroupMessage, nowMs: number): Group {
  const { EmittedAt, When, PositionTicks } = data;
  if (typeof EmittedAt !== "string" || EmittedAt <= group.commandVersion) return group;
  // Servers' clocks differ; how long after it was said a command counts does not.
  const aheadMs = typeof When === "string" ? Date.parse(When) - Date.parse(EmittedAt) : 0;
  const positionTicks = isNumber(PositionTicks) ? Math.round(PositionTicks) : group.positionTicks;
  const next = { ...group, commandVersion: EmittedAt, positionTicks };
  switch (what) {
    case "Unpause": {
      const atMs = nowMs + (Number.isFinite(aheadMs) ? aheadMs : 0);
      return { ...next, atMs, isRunning: true, wantsPlay: true, isIdle: false };
    }
    case "Pause":
    case "Seek":
      return { ...next, atMs: nowMs, isRunning: false, isIdle: false };
    case "Stop":
      return { ...next, atMs: nowMs, isRunning: false, wantsPlay: false, isIdle: true };
    default:
      return group;
  }
}

/** Paused by a member, or only waiting for one: the difference is told by the state alone. */
function afterState(group: Group, { State, Reason }: Record<string, unknown>): Group {
  const wantsPlay =
    State === "Playing" || (State === "Waiting" && Reason === "Unpause")
      ? true
      : State === "Paused" || (State === "Waiting" && Reason === "Pause")
        ? false
        : group.wantsPlay;
  return wantsPlay === group.wantsPlay ? group : { ...group, wantsPlay };
}

function afterQueue(group: Group, queue: Record<string, unknown>, nowMs: number): Group {
  const { Reason, LastUpdate, Playlist, PlayingItemIndex, StartPositionTicks } = queue;
  if (typeof LastUpdate !== "string" || LastUpdate <= group.queueVersion) return group;
  if (!Array.isArray(Playlist) || !isWhole(PlayingItemIndex)) return group;
  const all = Playlist.map((item) => normalId(String(objectOf(item)?.ItemId ?? "")));
  if (!all.every(isPlainId)) return group;
  // A queue too long to be remembered is remembered from a little before what plays.
  const from = all.length <= itemsLimit ? 0 : Math.max(0, PlayingItemIndex - itemsLimit / 10);
  const items = all.slice(from, from + itemsLimit);
  const index = Math.min(Math.max(PlayingItemIndex - from, -1), items.length - 1);
  const begins =
    Reason === "NewPlaylist" ||
    Reason === "SetCurrentItem" ||
    Reason === "NextItem" ||
    Reason === "PreviousItem";
  return {
    ...group,
    items,
    index,
    queueVersion: LastUpdate,
    repeat: isRepeatMode(queue.RepeatMode) ? queue.RepeatMode : group.repeat,
    isShuffled: queue.ShuffleMode === "Shuffle",
    positionTicks: isNumber(StartPositionTicks)
      ? Math.round(StartPositionTicks)
      : group.positionTicks,
    atMs: nowMs,
    isRunning: queue.IsPlaying === true,
    wantsPlay: begins || group.wantsPlay,
    isIdle: index < 0 || (group.isIdle && !begins),
  };
}

/** How far the queues of one group at one replica are dated later for one client. */
export interface QueueClock {
  readonly own: string;
  readonly shiftMs: number;
  /** The latest date that the client was shown, in ms since the epoch. */
  readonly shownMs: number;
}

/**
 * The clock after a client was told of a queue. Clients ignore a queue that is dated no later than the one
 * they have (QueueCore.updatePlayQueue), and a group that was made anew is dated by another server's clock:
 * its first queue is moved behind what the client has, and those after it by as much.
 */
export function queueClock(
  before: QueueClock | undefined,
  own: string,
  lastUpdateMs: number,
): QueueClock {
  if (before === undefined) return { own, shiftMs: 0, shownMs: lastUpdateMs };
  const isSame = before.own === own;
  const shiftMs = isSame ? before.shiftMs : Math.max(0, before.shownMs - lastUpdateMs + 1);
  return { own, shiftMs, shownMs: Math.max(before.shownMs, lastUpdateMs + shiftMs) };
}

/** When a message's queue was changed, in ms since the epoch; undefined when it is about no queue. */
export function queueDateMs({ what, data }: GroupMessage): number | undefined {
  const date = what === "PlayQueue" ? objectOf(data.Data)?.LastUpdate : undefined;
  const dateMs = typeof date === "string" ? Date.parse(date) : Number.NaN;
  return Number.isFinite(dateMs) ? dateMs : undefined;
}

/** The message's text with its queue dated later by so much. */
export function withQueueShift(text: string, message: GroupMessage, shiftMs: number): string {
  const date = objectOf(message.data.Data)?.LastUpdate;
  const dateMs = queueDateMs(message);
  if (shiftMs === 0 || typeof date !== "string" || dateMs === undefined) return text;
  return text.replace(
    JSON.stringify(date),
    JSON.stringify(new Date(dateMs + shiftMs).toISOString()),
  );
}

/**
 * The groups that have to be at one replica with this one, in alphabetical order, itself included: those that
 * share a user with it, and with those again, since all devices of a user are in one place.
 */
export function groupsTogether(
  groupId: string,
  memberships: readonly { readonly groupId: string; readonly userId: string }[],
): string[] {
  const groups = new Set([groupId]);
  const users = new Set<string>();
  for (let before = -1; before !== groups.size + users.size; ) {
    before = groups.size + users.size;
    for (const one of memberships) {
      if (groups.has(one.groupId)) users.add(one.userId);
      else if (users.has(one.userId)) groups.add(one.groupId);
    }
  }
  return [...groups].sort();
}

/** The text with one group's id in the place of another's, in both of Jellyfin's spellings. */
export function withGroupId(text: string, from: string, to: string): string {
  if (from === to) return text;
  return text.replaceAll(from, to).replaceAll(dashed(from), dashed(to));
}

function dashed(id: string): string {
  return `${id.slice(0, 8)}-${id.slice(8, 12)}-${id.slice(12, 16)}-${id.slice(16, 20)}-${id.slice(20)}`;
}

function isRepeatMode(value: unknown): value is RepeatMode {
  return value === "RepeatNone" || value === "RepeatAll" || value === "RepeatOne";
}

function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

function isWhole(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value);
}
