// Notes as a process writes them: into the store, and, once the store has them, into this process's own memory,
// so that it reads what it wrote before the feed brings it back.
//
// It promises that memory never has what the store refused, and that a note's end is reckoned on the store's
// clock, by which memory forgets it.

import type { Note, Store } from "../store/store.ts";
import type { Memory } from "./memory.ts";

export interface NotePlace {
  readonly store: Pick<Store, "putNote" | "dropNotes">;
  readonly memory: Pick<Memory, "apply" | "storeNowMs">;
}

/**
 * Writes a note that ends after `ttlMs`; 0: it stays until it is dropped. Rejects with StoreUnavailable, and with
 * a RangeError for a note that the store does not take (`Store.putNote`).
 */
export async function putNote(
  { store, memory }: NotePlace,
  note: Omit<Note, "expiresAtMs">,
  ttlMs: number,
): Promise<void> {
  await store.putNote(note, ttlMs);
  const expiresAtMs = ttlMs === 0 ? 0 : memory.storeNowMs() + ttlMs;
  memory.apply({ type: "note", note: { ...note, expiresAtMs } });
}

/** Takes a note away; one that is not there is no failure. Rejects with StoreUnavailable. */
export async function dropNote(
  { store, memory }: NotePlace,
  { kind, id, replica }: Pick<Note, "kind" | "id" | "replica">,
): Promise<void> {
  await store.dropNotes({ kind, id });
  memory.apply({ type: "note", note: { kind, id, replica, value: "", expiresAtMs: 0 } });
}
