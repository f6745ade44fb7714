// Whose files are to be watched. Jellyfin's real-time monitor of a library is on at one server of the cluster, and what
// it sees is told to the others (sidecar/library/monitors.ts, fan-out.ts). So what one server says of it is not what
// its owner wanted, and that lies in the store: one note for each library, by the library's id, which is the same on
// every server. A library without a note was never found with its monitor on.
//
// The note carries a MAC: whoever can write the store must not make servers look away from new files.

import type { Seal } from "../service/seal.ts";
import type { Note } from "../store/store.ts";
import { provenText, provenValue } from "./proven.ts";

/** The value of the note that says whether a library is to be watched. */
export function monitorValue(seal: Pick<Seal, "mac">, libraryId: string, isOn: boolean): string {
  return provenValue(seal, { kind: "monitor", id: libraryId }, isOn ? "on" : "off");
}

/** What a note says; undefined when it is none of ours. */
export function readMonitor(seal: Pick<Seal, "verifyMac">, note: Note): boolean | undefined {
  const text = provenText(seal, note);
  return text === "on" ? true : text === "off" ? false : undefined;
}

/** By library id, for those whose monitor the cluster keeps. */
export function monitorsIn(
  notes: Iterable<Note>,
  seal: Pick<Seal, "verifyMac">,
): ReadonlyMap<string, boolean> {
  const wanted = new Map<string, boolean>();
  for (const note of notes) {
    const isOn = note.kind === "monitor" ? readMonitor(seal, note) : undefined;
    if (isOn !== undefined) wanted.set(note.id, isOn);
  }
  return wanted;
}
