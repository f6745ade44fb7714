// Timers of recordings, as the cluster keeps them. They lie in files of the one server that records, under random
// ids, so its sidecar writes each down; when that server is away for too long another records, and its sidecar
// makes there what was written down. Pure: what a server's answer and a note say, and what one sidecar does next.
//
// Dying between any two steps is safe: a timer is made before its note says that it was taken over, and whoever
// finds an equal one there only says so. A server that is back cancels what was taken over from it; what was
// never written down, or is found at a server that does not record, is handed over the same way. So of two
// copies of a server, which have each other's timers, one records.

import { isRecord, parsedObject } from "../service/json.ts";
import type { Seal } from "../service/seal.ts";
import type { Note } from "../store/store.ts";
import { provenText, provenValue } from "./proven.ts";

export type TimerKind = "timer" | "series";

/** A timer of one recording, or of a series of them, as a server tells of it. */
export interface SeenTimer {
  readonly kind: TimerKind;
  readonly id: string;
  /** What makes an equal one elsewhere: the fields of TimerInfoDto and SeriesTimerInfoDto that a client sends. */
  readonly fields: Readonly<Record<string, TimerField>>;
}

type TimerField = string | number | boolean | readonly string[];

export interface KnownTimer extends SeenTimer {
  /** The server that it was written down for. */
  readonly replica: string;
  /** Another server has an equal one, and records. */
  readonly isTaken: boolean;
}

/** How often a recorder says that it is there and how long its silence is borne, as parts of one limit. */
export const recorderSaysParts = 6;

const texts = [
  "ChannelId",
  "ExternalChannelId",
  "ProgramId",
  "ExternalProgramId",
  "ChannelName",
  "Name",
  "Overview",
  "StartDate",
  "EndDate",
  "ServiceName",
  "KeepUntil",
  "DayPattern",
] as const;
const numbers = ["Priority", "PrePaddingSeconds", "PostPaddingSeconds", "KeepUpTo"] as const;
const switches = [
  "IsPrePaddingRequired",
  "IsPostPaddingRequired",
  "RecordAnyTime",
  "SkipEpisodesInLibrary",
  "RecordAnyChannel",
  "RecordNewOnly",
] as const;
const textLimit = 4000;
const daysLimit = 7;
const idShape = /^[\w-]{1,100}$/;

/** The timers in an answer of GET /LiveTv/Timers or /LiveTv/SeriesTimers; undefined when it is no such answer. */
export function timersIn(body: unknown, kind: TimerKind): readonly SeenTimer[] | undefined {
  if (!isRecord(body) || !Array.isArray(body.Items)) return undefined;
  return body.Items.map((item) => seenTimer(item, kind)).filter((timer) => timer !== undefined);
}

/** Statuses of timers that will not record any more (RecordingStatus). */
const over = new Set(["Completed", "Cancelled", "Error"]);

function seenTimer(item: unknown, kind: TimerKind): SeenTimer | undefined {
  if (!isRecord(item) || typeof item.Id !== "string" || !idShape.test(item.Id)) return undefined;
  if (typeof item.Status === "string" && over.has(item.Status)) return undefined;
  return { kind, id: item.Id, fields: keptFields(item) };
}

function keptFields(item: Readonly<Record<string, unknown>>): Record<string, TimerField> {
  const kept: Record<string, TimerField> = {};
  for (const name of texts) {
    const value = item[name];
    if (typeof value === "string" && value.length <= textLimit) kept[name] = value;
  }
  for (const name of numbers) {
    const value = item[name];
    if (typeof value === "number" && Number.isSafeInteger(value)) kept[name] = value;
  }
  for (const name of switches) if (typeof item[name] === "boolean") kept[name] = item[name];
  const days = Array.isArray(item.Days)
    ? item.Days.filter((day): day is string => typeof day === "string" && day.length <= 20)
    : [];
  if (days.length > 0) kept.Days = days.slice(0, daysLimit);
  return kept;
}

/** Whether two timers would record the same: the same programme, or the same channel from the same minute. */
export function recordsSame(one: SeenTimer, other: SeenTimer): boolean {
  if (one.kind !== other.kind) return false;
  const { ProgramId, ChannelId, Name } = one.fields;
  if (ProgramId !== undefined && ProgramId === other.fields.ProgramId) return true;
  if (ChannelId !== other.fields.ChannelId) return false;
  if (one.kind === "series") return Name === other.fields.Name;
  return Math.abs(timeOf(one, "StartDate") - timeOf(other, "StartDate")) < 60_000;
}

/** When nothing of it is left to record, in ms since the epoch; a series has no end. */
export function endsAtMs(timer: SeenTimer): number {
  if (timer.kind === "series") return Number.POSITIVE_INFINITY;
  const { PostPaddingSeconds: padding = 0 } = timer.fields;
  const endMs = timeOf(timer, "EndDate");
  return Number.isFinite(endMs) ? endMs + Number(padding) * 1000 : 0;
}

function timeOf({ fields }: SeenTimer, name: "StartDate" | "EndDate"): number {
  const value = fields[name];
  return typeof value === "string" ? Date.parse(value) : Number.NaN;
}

// ---- Notes ------------------------------------------------------------------------------------------

export function timerNoteId(replica: string, { kind, id }: Pick<SeenTimer, "kind" | "id">): string {
  return `${replica}:${kind}:${id}`;
}

export function timerNoteValue(seal: Pick<Seal, "mac">, timer: KnownTimer): string {
  const { replica, kind, id, fields, isTaken } = timer;
  const place = { kind: "timer", id: timerNoteId(replica, timer) } as const;
  return provenValue(seal, place, JSON.stringify({ kind, id, fields, isTaken }));
}

/** A note's timer; undefined where it was not written with the cluster's key. */
export function readTimerNote(seal: Pick<Seal, "verifyMac">, note: Note): KnownTimer | undefined {
  const { id, replica } = note;
  const said = parsedObject(provenText(seal, note) ?? "");
  if (said === undefined || !isRecord(said.fields) || typeof said.id !== "string") return undefined;
  const kind = said.kind === "series" ? "series" : "timer";
  const timer = { kind, id: said.id, fields: keptFields(said.fields) } as const;
  if (!idShape.test(timer.id) || id !== timerNoteId(replica, timer)) return undefined;
  return { ...timer, replica, isTaken: said.isTaken === true };
}

// ---- What a sidecar does next ------------------------------------------------------------------------

export interface RecordingsWorld {
  /** The replica of this sidecar, and the one that records. */
  readonly replica: string;
  readonly recorder: string;
  /** The timers that this server has now. */
  readonly seen: readonly SeenTimer[];
  readonly known: readonly KnownTimer[];
  readonly nowMs: number;
}

export type RecordingStep =
  /** Written down as it is here now. */
  | { readonly step: "write"; readonly timer: KnownTimer }
  /** Made at this server, unless `timer` is undefined, then written down as taken. */
  | { readonly step: "take"; readonly known: KnownTimer; readonly timer: SeenTimer | undefined }
  /** Cancelled at this server, then forgotten. */
  | { readonly step: "cancel"; readonly known: KnownTimer }
  | { readonly step: "forget"; readonly known: KnownTimer };

/** Series come before the single timers that they make by themselves. */
export function decideRecordings(world: RecordingsWorld): readonly RecordingStep[] {
  const { replica, recorder, seen, known } = world;
  const own = known.filter((timer) => timer.replica === replica);
  const steps: RecordingStep[] = [];
  for (const timer of seen) {
    const note = own.find((one) => one.id === timer.id && one.kind === timer.kind);
    if (replica !== recorder && note?.isTaken === true) steps.push({ step: "cancel", known: note });
    else if (note === undefined || note.isTaken || !isEqual(note, timer)) {
      steps.push({ step: "write", timer: { ...timer, replica, isTaken: false } });
    }
  }
  for (const note of own) {
    if (seen.some((timer) => timer.id === note.id && timer.kind === note.kind)) continue;
    // A server that came back empty may still have its timers taken over.
    if (replica === recorder || note.isTaken || isOver(note, world)) {
      steps.push({ step: "forget", known: note });
    }
  }
  if (replica !== recorder) return inOrder(steps);
  for (const note of known) {
    if (note.replica === replica || note.isTaken) continue;
    if (isOver(note, world)) steps.push({ step: "forget", known: note });
    else {
      const has = seen.some((timer) => recordsSame(timer, note));
      steps.push({ step: "take", known: note, timer: has ? undefined : note });
    }
  }
  return inOrder(steps);
}

function inOrder(steps: readonly RecordingStep[]): readonly RecordingStep[] {
  const isSeries = (step: RecordingStep): boolean =>
    (step.step === "write" ? step.timer : step.known).kind === "series";
  return [...steps.filter(isSeries), ...steps.filter((step) => !isSeries(step))];
}

function isOver(timer: SeenTimer, { nowMs }: RecordingsWorld): boolean {
  return endsAtMs(timer) <= nowMs;
}

function isEqual(one: SeenTimer, other: SeenTimer): boolean {
  return JSON.stringify(one.fields) === JSON.stringify(other.fields);
}
