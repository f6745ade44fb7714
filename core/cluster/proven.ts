// Notes that only this cluster can have written. Whoever can write the store can write notes; where believing a false
// one would do harm (a server that looks restored, a user who passes for another, a key that is hidden from its
// owner), what the note says lies in it beside a MAC under the cluster key. The MAC is bound to the note's kind and
// id, so that the value cannot be moved to another.

import { parsedObject } from "../service/json.ts";
import type { Seal } from "../service/seal.ts";
import type { Note } from "../store/store.ts";

/** The value of that note when it says `text`. The same text makes the same value. */
export function provenValue(
  seal: Pick<Seal, "mac">,
  { kind, id }: Pick<Note, "kind" | "id">,
  text: string,
): string {
  return JSON.stringify({ text, proof: seal.mac("note", kind, id, text) });
}

/** What a note says; undefined where there is none, or none that was written under the cluster key. Never throws. */
export function provenText(
  seal: Pick<Seal, "verifyMac">,
  note: Pick<Note, "kind" | "id" | "value"> | undefined,
): string | undefined {
  const { text, proof } = parsedObject(note?.value ?? "") ?? {};
  if (note === undefined || typeof text !== "string" || typeof proof !== "string") return undefined;
  return seal.verifyMac(proof, "note", note.kind, note.id, text) ? text : undefined;
}
