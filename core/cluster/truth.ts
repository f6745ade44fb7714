// Whether a replica's data are what this cluster left there. A server whose data were put back to an older state
// (from a backup, by Jellyfin's own page, by a snapshot of its disk) looks like any other: its people would find old
// positions, and what they did since would be gone. So each sidecar leaves a mark in its server's own data, which
// only moves forward and says how far in the journal these data are, and remembers the last one elsewhere. Data with
// an older mark than the remembered one were put back.
//
//   a:mark        the last mark that was left at a's server
//   a:quarantine  a's server has older data than it had: nobody is placed there until its owner has decided
//   a:decision    what the owner decided: a is right and the others are not, or a is to catch up
//
// These lie in the store as notes of kind `replica`. Pure.

import { isCount, parsedObject } from "../service/json.ts";
import type { Seal } from "../service/seal.ts";
import type { JournalCursor } from "../store/journal.ts";
import type { ReplicaNotes } from "./condition.ts";
import { readJournalCursor } from "./journal-cursor.ts";
import { provenText } from "./proven.ts";

export interface Mark {
  /** Whose sidecar left it: a copy of a's data carries a's mark. */
  readonly replica: string;
  /** Grows by one with each. */
  readonly count: number;
  /** Everything up to this is in the data; undefined while nobody knew. */
  readonly cursor: JournalCursor | undefined;
}

export interface Quarantine {
  /** In ms since the epoch. */
  readonly sinceMs: number;
  /** What is the matter, as half a sentence. */
  readonly reason: string;
  /** The replica that its owner called right, where that is why. */
  readonly truth: string;
}

/** `truth`: this one is right, the others are seeded anew. `catchUp`: the journal is right, and is done again here. */
export type Decision = "truth" | "catchUp";

export interface DecisionOrder {
  readonly decision: Decision;
  /** Random: each is obeyed once. */
  readonly order: string;
}

export type Judgement =
  /** Go on; `mark` is what is remembered from now on, where that changes. */
  | { readonly verdict: "trusted"; readonly adopt: Mark | undefined }
  /** Another replica's data stand here: they are gone on with from where those were. */
  | { readonly verdict: "copy"; readonly of: Mark }
  | { readonly verdict: "older"; readonly reason: string };

const countLimit = 1e12;
const nameLengthMax = 63;
const reasonLengthMax = 500;

export function markNoteId(replica: string): string {
  return `${replica}:mark`;
}

export function quarantineNoteId(replica: string): string {
  return `${replica}:quarantine`;
}

export function decisionNoteId(replica: string): string {
  return `${replica}:decision`;
}

/** What `found` at the server means beside what is `remembered`. */
export function judge(
  replica: string,
  found: Mark | undefined,
  remembered: Mark | undefined,
): Judgement {
  if (found !== undefined && found.replica !== replica) return { verdict: "copy", of: found };
  if (remembered === undefined) return { verdict: "trusted", adopt: found };
  if (found === undefined) {
    return {
      verdict: "older",
      reason: "its data were put back to a time before Jellybloom knew it",
    };
  }
  if (found.count < remembered.count) {
    const from = remembered.cursor?.number;
    const to = found.cursor?.number;
    const span =
      from === undefined || to === undefined || to >= from
        ? ""
        : `, and lack up to ${from - to} changes which it had`;
    return { verdict: "older", reason: `its data were put back to an older state${span}` };
  }
  return { verdict: "trusted", adopt: found.count > remembered.count ? found : undefined };
}

export function nextMark(
  replica: string,
  last: Mark | undefined,
  cursor: JournalCursor | undefined,
): Mark {
  return { replica, count: (last?.count ?? 0) + 1, cursor: cursor ?? last?.cursor };
}

export function markText({ replica, count, cursor }: Mark): string {
  return JSON.stringify({ jellybloom: replica, count, ...(cursor !== undefined && { cursor }) });
}

/** A mark from a text of ours; undefined when it is none. */
export function readMark(text: unknown): Mark | undefined {
  const value = typeof text === "string" ? parsedObject(text) : undefined;
  if (value === undefined) return undefined;
  const { jellybloom: replica, count, cursor } = value;
  if (typeof replica !== "string" || replica === "" || replica.length > nameLengthMax) {
    return undefined;
  }
  if (!isCount(count) || count > countLimit) return undefined;
  return { replica, count, cursor: readJournalCursor(cursor) };
}

/** The later of two that were remembered in different places. */
export function laterMark(left: Mark | undefined, right: Mark | undefined): Mark | undefined {
  if (left === undefined || right === undefined) return left ?? right;
  return left.count >= right.count ? left : right;
}

export function quarantineValue({ sinceMs, reason, truth }: Quarantine): string {
  return JSON.stringify({ sinceMs, reason: reason.slice(0, reasonLengthMax), truth });
}

/** The quarantine that stands for a replica; undefined when there is none. */
export function quarantineOf(notes: ReplicaNotes, replica: string): Quarantine | undefined {
  const value = parsedObject(notes.get(quarantineNoteId(replica))?.value ?? "");
  if (value === undefined || typeof value.reason !== "string") return undefined;
  const { sinceMs, reason, truth } = value;
  return {
    sinceMs: isCount(sinceMs) ? sinceMs : 0,
    reason: reason.slice(0, reasonLengthMax),
    truth: typeof truth === "string" ? truth.slice(0, nameLengthMax) : "",
  };
}

/** Why nobody is placed there, with what its owner can do; undefined: it is not in quarantine. */
export function isQuarantined(notes: ReplicaNotes, replica: string): string | undefined {
  const quarantine = quarantineOf(notes, replica);
  if (quarantine === undefined) return undefined;
  const { reason, truth } = quarantine;
  return truth === ""
    ? `it is in quarantine: ${reason}; jellybloom catch-up ${replica} does again what it lacks, jellybloom truth` +
        ` ${replica} makes the others like it`
    : `it is in quarantine: ${reason}; jellybloom reseed ${replica} makes it like ${truth}`;
}

/** What the owner ordered. Who can write the store but does not know the cluster key decides nothing. */
export function decisionOf(
  seal: Pick<Seal, "verifyMac">,
  notes: ReplicaNotes,
  replica: string,
): DecisionOrder | undefined {
  const value = parsedObject(provenText(seal, notes.get(decisionNoteId(replica))) ?? "");
  if (value === undefined) return undefined;
  const { decision, order } = value;
  if (decision !== "truth" && decision !== "catchUp") return undefined;
  return typeof order === "string" && order !== "" ? { decision, order } : undefined;
}
