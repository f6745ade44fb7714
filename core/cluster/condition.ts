// The condition of a replica: what the cluster has to know of it beyond whether it answers. It lies in the
// store as notes of kind `replica`, one for each writer, so that nobody's word overwrites another's:
//
//   a                what its sidecar found out: encoder, whether it encodes, plays, transcodes, sockets
//   a:drain          somebody asked it to drain; the last order counts
//   a:drain:<door>   what is still left on it for one door
//   a:recorder       its sidecar is there and its server makes the cluster's recordings (sidecar/recorder.ts)
//
// More of them are told in journal-cursor.ts, truth.ts and drift.ts. A replica's name has no colon, so none meets
// another. Whoever can write the store can write notes: all
// are validated when they are read, and one that makes no sense is as if it had not been written.

import { isCount, parsedObject } from "../service/json.ts";
import type { Note } from "../store/store.ts";

export type Encodes = "ok" | "failing" | "slow" | "unknown";

export interface Condition {
  readonly draining: boolean;
  /** When the drain was asked for, in ms since the epoch; 0 when it does not drain. */
  readonly sinceMs: number;
  readonly plays: number;
  readonly transcodes: number;
  readonly sockets: number;
  /** A fingerprint of ffmpeg, encoder and options; empty while unknown. */
  readonly encoder: string;
  /** `slow`: slower than real time. A replica that is `slow` or `failing` takes no new plays. */
  readonly encodes: Encodes;
}

/** An order to drain. */
export interface DrainOrder {
  readonly sinceMs: number;
  /** After so many ms what is left is moved by force. */
  readonly limitMs: number;
  /** It ends by itself when the replica's sidecar starts again: the replica was stopped, and is back. */
  readonly untilRestart: boolean;
}

/** What one door has still to move away from a draining replica. */
export interface DrainLeft {
  readonly door: string;
  /** The order it answers. */
  readonly sinceMs: number;
  readonly homes: number;
  readonly requests: number;
  readonly sockets: number;
}

export interface DrainProgress {
  readonly draining: boolean;
  readonly order: DrainOrder | undefined;
  /** Doors that told of this order. */
  readonly doors: number;
  readonly homes: number;
  readonly requests: number;
  readonly sockets: number;
  /** Nothing of it is needed any more: it can be stopped. */
  readonly done: boolean;
}

/** Notes of kind `replica`, as the memory has them. */
export type ReplicaNotes = ReadonlyMap<string, Note>;

export const unknownCondition: Condition = {
  draining: false,
  sinceMs: 0,
  plays: 0,
  transcodes: 0,
  sockets: 0,
  encoder: "",
  encodes: "unknown",
};

/** Doors have this long to tell of a new order before their silence counts as «nothing left», in ms. */
export const drainTellLimitMs = 1500;
export const drainLimitMsMax = 3_600_000;

export function drainNoteId(replica: string): string {
  return `${replica}:drain`;
}

export function drainLeftNoteId(replica: string, door: string): string {
  return `${replica}:drain:${door}`;
}

/** The condition of one replica from all that was written about it. */
export function conditionOf(notes: ReplicaNotes, replica: string): Condition {
  const said = readCondition(notes.get(replica)?.value ?? "") ?? unknownCondition;
  const order = drainOrderOf(notes, replica);
  return { ...said, draining: order !== undefined, sinceMs: order?.sinceMs ?? 0 };
}

/** The order to drain that stands for a replica; undefined when there is none. */
export function drainOrderOf(notes: ReplicaNotes, replica: string): DrainOrder | undefined {
  return readDrainOrder(notes.get(drainNoteId(replica))?.value ?? "");
}

/** A condition from a note's value; undefined when it is none. What is missing in it is unknown. */
export function readCondition(value: string): Condition | undefined {
  const fields = parsedObject(value);
  if (fields === undefined) return undefined;
  const { encoder, encodes } = fields;
  return {
    draining: fields.draining === true,
    sinceMs: count(fields.sinceMs),
    plays: count(fields.plays),
    transcodes: count(fields.transcodes),
    sockets: count(fields.sockets),
    encoder: typeof encoder === "string" && encoder.length <= 256 ? encoder : "",
    encodes: encodes === "ok" || encodes === "failing" || encodes === "slow" ? encodes : "unknown",
  };
}

export function readDrainOrder(value: string): DrainOrder | undefined {
  const fields = parsedObject(value);
  if (fields === undefined || fields.draining !== true) return undefined;
  return {
    sinceMs: count(fields.sinceMs),
    limitMs: Math.min(count(fields.limitMs), drainLimitMsMax),
    untilRestart: fields.untilRestart === true,
  };
}

export function drainOrderValue(order: DrainOrder): string {
  return JSON.stringify({ draining: true, ...order });
}

export function readDrainLeft(note: Note): DrainLeft | undefined {
  const fields = parsedObject(note.value);
  if (fields === undefined || typeof fields.door !== "string") return undefined;
  return {
    door: fields.door,
    sinceMs: count(fields.sinceMs),
    homes: count(fields.homes),
    requests: count(fields.requests),
    sockets: count(fields.sockets),
  };
}

/**
 * How far the drain of a replica has come. `homesThere` is the number of homes that memory knows there, so
 * that a door which never told of the order does not make it look done. `nowMs` is since the epoch.
 */
export function drainProgress(
  notes: ReplicaNotes,
  replica: string,
  homesThere: number,
  nowMs: number,
): DrainProgress {
  const order = drainOrderOf(notes, replica);
  const left = { doors: 0, homes: 0, requests: 0, sockets: 0 };
  if (order === undefined) return { draining: false, order, ...left, done: false };
  const prefix = drainLeftNoteId(replica, "");
  for (const [id, note] of notes) {
    if (!id.startsWith(prefix) || (note.expiresAtMs !== 0 && note.expiresAtMs <= nowMs)) continue;
    const told = readDrainLeft(note);
    if (told === undefined || told.sinceMs !== order.sinceMs) continue;
    left.doors++;
    left.homes = Math.max(left.homes, told.homes);
    left.requests += told.requests;
    left.sockets += told.sockets;
  }
  const ageMs = nowMs - order.sinceMs;
  const isTold = ageMs >= drainTellLimitMs || ageMs < 0;
  const isEmpty = left.homes === 0 && left.requests === 0 && left.sockets === 0;
  // Homes of people who are not here now move, too; one that could not (the store was away) keeps nobody
  // from stopping once the time is over: the first request after the stop moves it.
  const done = isTold && isEmpty && (homesThere === 0 || ageMs >= order.limitMs);
  return { draining: true, order, ...left, homes: Math.max(left.homes, homesThere), done };
}

function count(value: unknown): number {
  return isCount(value) ? value : 0;
}
