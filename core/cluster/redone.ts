// What the leader has done again, for a client that may still be waiting: a change of a list breaks off with its server
// and may not be sent to another, but the journal has it, and the next leader does it. It says so in a note of kind
// `redone`, by the intent's id, which ends by itself; the door that asked answers its client with that. Pure.

import { parsedObject } from "../service/json.ts";
import type { Note } from "../store/store.ts";
import type { IntentKind } from "./journal.ts";

/** Longer than any door waits, in ms. */
export const redoneKeepMs = 60_000;

/** Kinds whose answer is nothing, or the id of what was made. */
export function answersRedone(kind: IntentKind): boolean {
  return kind === "playlist" || kind === "collection" || kind === "itemGone";
}

/** `itemId`: the list that it was done to, 32 hexadecimal digits. */
export function redoneNote(
  intentId: string,
  replica: string,
  itemId: string,
): Omit<Note, "expiresAtMs"> {
  return { kind: "redone", id: intentId, replica, value: JSON.stringify({ itemId }) };
}

/** What such a note says; undefined when there is none, or it makes no sense. */
export function readRedone(
  note: Pick<Note, "replica" | "value"> | undefined,
): { readonly replica: string; readonly itemId: string } | undefined {
  const itemId = parsedObject(note?.value ?? "")?.itemId;
  if (note === undefined || note.replica === "" || typeof itemId !== "string") return undefined;
  return /^[0-9a-f]{32}$/.test(itemId) ? { replica: note.replica, itemId } : undefined;
}
