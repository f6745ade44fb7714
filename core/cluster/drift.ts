// Drift: what one replica's library has and another's has not. Each server scans the same media for itself, so their
// libraries are equal but for what one of them has not seen, has not dropped, or has made of a film. The leader compares
// them seldom and tells what it found as a note of each replica:
//
//   a:library    how the libraries of a differ from the leader's
//
// Whoever can write the store can write notes, so they are validated when they are read. Pure.

import { isCount, objectOf, parsedObject } from "../service/json.ts";
import type { ReplicaNotes } from "./condition.ts";

/** How one library of a replica differs from the leader's. */
export interface LibraryDrift {
  readonly library: string;
  /** Items that the leader's server has and this one has not. */
  readonly lacks: number;
  /** Items that this one has and the leader's has not. */
  readonly extra: number;
  /** Items that both have, with other pictures. */
  readonly pictures: number;
  /** Items that both have, with other dates. */
  readonly dates: number;
  /** Items that both have, where trickplay, chapter pictures or media segments were made on one of them only. */
  readonly derived: number;
}

export interface Drift {
  /** When it was first seen, in ms since the epoch. */
  readonly sinceMs: number;
  readonly libraries: readonly LibraryDrift[];
  /** Why it is not cured yet, as part of a sentence; empty when it will be. */
  readonly hindrance: string;
}

const librariesLimit = 100;
const textLimit = 200;

export function driftNoteId(replica: string): string {
  return `${replica}:library`;
}

export function driftValue(drift: Drift): string {
  return JSON.stringify(drift);
}

/** What a note says; undefined when it says nothing that makes sense. */
export function readDrift(value: string): Drift | undefined {
  const fields = parsedObject(value);
  if (fields === undefined || !Array.isArray(fields.libraries)) return undefined;
  const { sinceMs, hindrance } = fields;
  if (!isCount(sinceMs) || fields.libraries.length > librariesLimit) return undefined;
  const libraries = fields.libraries.flatMap((library) => readLibrary(library) ?? []);
  if (libraries.length === 0) return undefined;
  return {
    sinceMs,
    libraries,
    hindrance: typeof hindrance === "string" ? hindrance.slice(0, textLimit) : "",
  };
}

/** The drift of each replica that has any, as the memory has it. */
export function driftsIn(notes: ReplicaNotes): ReadonlyMap<string, Drift> {
  const drifts = new Map<string, Drift>();
  const suffix = driftNoteId("");
  for (const [id, { value }] of notes) {
    if (!id.endsWith(suffix)) continue;
    const drift = readDrift(value);
    if (drift !== undefined) drifts.set(id.slice(0, -suffix.length), drift);
  }
  return drifts;
}

/** Items that are on one of the two servers only: what a scan may cure. */
export function itemsIn({ libraries }: Pick<Drift, "libraries">): number {
  return libraries.reduce((sum, { lacks, extra }) => sum + lacks + extra, 0);
}

/** What no scan cures: a server's own tasks make it, when their hour comes. */
export function isDerivedOnly({ libraries }: Pick<Drift, "libraries">): boolean {
  return libraries.every(({ lacks, extra, pictures, dates }) => {
    return lacks + extra + pictures + dates === 0;
  });
}

/** A sentence without its full stop, such as `b lacks 3 items of Movies, since 14:02`. */
export function driftSentence(replica: string, drift: Drift): string {
  const parts = drift.libraries.flatMap((library) => {
    const of = `of ${library.library}`;
    return [
      said(library.lacks, `lacks ${items(library.lacks)} ${of}`),
      said(library.extra, `has ${items(library.extra)} ${of} too many`),
      said(library.pictures, `has other pictures for ${items(library.pictures)} ${of}`),
      said(library.dates, `has other dates for ${items(library.dates)} ${of}`),
      said(
        library.derived,
        `has other trickplay, chapter pictures or segments for ${items(library.derived)} ${of}`,
      ),
    ].flat();
  });
  const since = clockTime(drift.sinceMs);
  const hindrance = drift.hindrance === "" ? "" : ` (${drift.hindrance})`;
  return `${replica} ${parts.join(", ")}, since ${since}${hindrance}`;
}

function said(count: number, part: string): string[] {
  return count === 0 ? [] : [part];
}

function items(count: number): string {
  return count === 1 ? "1 item" : `${count} items`;
}

/** On this process's clock and in its zone. */
function clockTime(ms: number): string {
  const at = new Date(ms);
  return [at.getHours(), at.getMinutes()].map((part) => String(part).padStart(2, "0")).join(":");
}

function readLibrary(value: unknown): LibraryDrift | undefined {
  const fields = objectOf(value);
  if (fields === undefined || typeof fields.library !== "string") return undefined;
  const count = (name: string): number => {
    const value = fields[name];
    return isCount(value) ? value : 0;
  };
  const drift = {
    library: fields.library.slice(0, textLimit),
    lacks: count("lacks"),
    extra: count("extra"),
    pictures: count("pictures"),
    dates: count("dates"),
    derived: count("derived"),
  };
  return hasDrift(drift) ? drift : undefined;
}

export function hasDrift({ lacks, extra, pictures, dates, derived }: LibraryDrift): boolean {
  return lacks + extra + pictures + dates + derived > 0;
}
