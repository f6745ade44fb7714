// What the leader has done again, for a client that may still be waiting: a change breaks off with its server and may
// not be sent to another, but the journal has it, and whoever leads next does it. It says so in a note of kind `redone`,
// by the intent's id, which ends by itself; the door that asked answers its client with that. Pure.

import { parsedObject } from "../service/json.ts";
import type { Note } from "../store/store.ts";
import { isPlainId } from "./identity.ts";
import type { IntentKind } from "./journal.ts";

/** Longer than any door waits, in ms. */
export const redoneKeepMs = 60_000;

/** What was done: to which list or item, and whose it is or who it is; empty where there is none. */
export interface Redone {
  readonly itemId: string;
  readonly userId: string;
}

/** What a note says, with the replica that has it. */
export interface RedoneThere extends Redone {
  readonly replica: string;
}

/** Whether anybody waits for a change of this kind: those of user data are sent to another server at once. */
export function isRedoneAwaited(kind: IntentKind): boolean {
  return kind !== "userData";
}

/** Ids are 32 hexadecimal digits, or empty. */
export function redoneNote(
  intentId: string,
  replica: string,
  { itemId, userId }: Redone,
): Omit<Note, "expiresAtMs"> {
  return { kind: "redone", id: intentId, replica, value: JSON.stringify({ itemId, userId }) };
}

/** What such a note says; undefined when there is none, or it makes no sense. */
export function readRedone(
  note: Pick<Note, "replica" | "value"> | undefined,
): RedoneThere | undefined {
  if (note === undefined || note.replica === "") return undefined;
  const { itemId, userId } = parsedObject(note.value) ?? {};
  if (!isIdOrEmpty(itemId) || !isIdOrEmpty(userId)) return undefined;
  return { replica: note.replica, itemId, userId };
}

function isIdOrEmpty(value: unknown): value is string {
  return value === "" || isPlainId(value);
}
