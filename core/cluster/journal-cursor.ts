// How far a replica has come in the journal, as the cluster knows it: notes of kind `replica`, one for each
// writer, beside those of condition.ts:
//
//   a:journal   how far a's sidecar is: to go on from where it kept no ledger of its own
//   a:from      where it must begin: a seed put another server's data there, which had come so far
//   a:behind    its server was away, and has not been told yet what happened meanwhile
//   a:lists     under which lease, by its number, a leads and has all lists that others were told of before
//
// All are validated when they are read; one that makes no sense is as if it had not been written.

import { isRecord, parsedObject } from "../service/json.ts";
import type { JournalCursor } from "../store/journal.ts";
import type { ReplicaNotes } from "./condition.ts";

/** Why a replica has not all that the journal says. */
export type BehindCause =
  /** Its server was away: nobody is sent there while another server can answer. */
  | "server"
  /** Its sidecar was away while the server went on: those who live there stay, nobody new comes. */
  | "sidecar";

export interface Behind {
  readonly cause: BehindCause;
  /** In ms since the epoch. */
  readonly sinceMs: number;
}

/** An order to begin elsewhere than where the ledger says. */
export interface JournalStart {
  readonly cursor: JournalCursor;
  /** Random: each order is obeyed once. */
  readonly order: string;
}

/** The generation of a cursor when nobody knows which one, nor how far: all that the journal has is read. */
export const noGeneration = "unknown";

const generationLengthMax = 128;

export function journalNoteId(replica: string): string {
  return `${replica}:journal`;
}

export function journalStartNoteId(replica: string): string {
  return `${replica}:from`;
}

export function listsNoteId(replica: string): string {
  return `${replica}:lists`;
}

/** The number of the lease under which this replica has all lists that others were told of before; undefined: none. */
export function listsLeaseOf(notes: ReplicaNotes, replica: string): number | undefined {
  const value = notes.get(listsNoteId(replica))?.value ?? "";
  return /^\d{1,16}$/.test(value) ? Number(value) : undefined;
}

export function behindNoteId(replica: string): string {
  return `${replica}:behind`;
}

/** A cursor that somebody wrote; undefined when it is none. */
export function readJournalCursor(value: unknown): JournalCursor | undefined {
  if (!isRecord(value)) return undefined;
  const { generation, number, mark } = value;
  if (typeof generation !== "string" || generation === "") return undefined;
  if (generation.length > generationLengthMax) return undefined;
  if (!Number.isSafeInteger(number) || Number(number) < 0) return undefined;
  const marked = typeof mark === "string" && mark !== "" && mark.length <= generationLengthMax;
  return { generation, number: Number(number), ...(marked && { mark }) };
}

/** How far a replica's sidecar said it was. */
export function journalCursorOf(notes: ReplicaNotes, replica: string): JournalCursor | undefined {
  return readJournalCursor(parsedObject(notes.get(journalNoteId(replica))?.value ?? ""));
}

export function journalStartOf(notes: ReplicaNotes, replica: string): JournalStart | undefined {
  const value = parsedObject(notes.get(journalStartNoteId(replica))?.value ?? "");
  const cursor = readJournalCursor(value?.cursor);
  const order = value?.order;
  if (cursor === undefined || typeof order !== "string" || order === "") return undefined;
  return { cursor, order };
}

export function behindOf(notes: ReplicaNotes, replica: string): Behind | undefined {
  const value = parsedObject(notes.get(behindNoteId(replica))?.value ?? "");
  if (value === undefined) return undefined;
  const { cause, sinceMs } = value;
  if (cause !== "server" && cause !== "sidecar") return undefined;
  if (typeof sinceMs !== "number" || !Number.isFinite(sinceMs)) return undefined;
  return { cause, sinceMs };
}
