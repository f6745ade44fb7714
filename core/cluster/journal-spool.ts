// What could not be written into the journal yet, because the store is away: entries in the order in which they were
// made, in memory, and beside that in a file where there is a folder for it. It exists so that a change which a client
// was told of is not lost with the store, nor with this process.
//
// It promises that it never holds more entries and bytes than it may; that the file is never much larger than what it
// holds; and that whatever lies in the file, also half a line after a sudden end, stops nothing: lines that are not
// whole, or not written under this cluster key, are left out.

import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { isCount, parsedObject } from "../service/json.ts";
import type { Seal } from "../service/seal.ts";
import { type Entry, readEntry } from "./journal.ts";
import { readUserDataEffect, readUserDataFacts } from "./user-data.ts";

export interface SpoolLimits {
  readonly entriesMax: number;
  /** Characters of all entries together. */
  readonly charactersMax: number;
}

export interface SpoolOptions {
  readonly limits: SpoolLimits;
  /** Where entries are kept besides in memory; the folder is made. Without it they end with the process. */
  readonly file?: string;
  readonly seal: Pick<Seal, "verifyMac">;
  readonly log: { info(message: string): void; warn(message: string): void };
}

export interface SpooledEntry {
  /** Counts the entries of one spool; the order in which they are sent. */
  readonly sequence: number;
  readonly atMs: number;
  readonly entry: Entry;
  /** As it will lie in the store. */
  readonly value: string;
}

/** What one entry costs besides its value: what surrounds it in memory and in the file. */
const overheadCharacters = 100;
/** The file is written anew when it is so many times as large as what it says. */
const fileGrowth = 2;
const fileSlackCharacters = 64 * 1024;
/** A longer file is not ours, or not one that can be read. */
const fileLimitBytes = 1024 * 1024 * 1024;
/** Making room looks at every entry, so it is tried again only after so many that found none. */
const roomTriesApart = 100;

export class JournalSpool {
  readonly #options: SpoolOptions;
  #entries: SpooledEntry[] = [];
  #characters = 0;
  #descriptor: number | undefined;
  #fileCharacters = 0;
  /** Whether the file could not be written last time, which was said. */
  #isFileBroken = false;
  #refusedSinceLook = roomTriesApart;

  constructor(options: SpoolOptions) {
    this.#options = options;
  }

  get depth(): number {
    return this.#entries.length;
  }

  /** When the oldest entry was made, in ms since the epoch. */
  get oldestAtMs(): number | undefined {
    return this.#entries[0]?.atMs;
  }

  /** Reads what an earlier process left. Answers the highest sequence in it. */
  open(): number {
    const { file, log } = this.#options;
    if (file === undefined) return 0;
    try {
      this.#read(file);
      this.#rewrite();
    } catch (error) {
      this.#breakFile(error);
    }
    if (this.depth > 0) {
      log.info(`${this.depth} entries of the journal wait in ${file} since an earlier run`);
    }
    return this.#entries.at(-1)?.sequence ?? 0;
  }

  /** Keeps an entry; false when there is no room for it. */
  add(added: SpooledEntry): boolean {
    if (!this.#hasRoomFor(added) && !(this.#makeRoom() && this.#hasRoomFor(added))) {
      this.#refusedSinceLook += 1;
      return false;
    }
    this.#insert(added);
    this.#append(lineOf(added));
    return true;
  }

  /** The oldest entries, at most so many, and at least one where there is one. */
  oldest(entriesMax: number, charactersMax: number): readonly SpooledEntry[] {
    let characters = 0;
    let count = 0;
    for (const { value } of this.#entries) {
      characters += value.length;
      if (count === entriesMax || (count > 0 && characters > charactersMax)) break;
      count += 1;
    }
    return this.#entries.slice(0, count);
  }

  /** Forgets the entries up to a sequence: they are in the journal. */
  removeUpTo(sequence: number): void {
    const kept = this.#entries.findIndex((one) => one.sequence > sequence);
    const removed = this.#entries.splice(0, kept < 0 ? this.depth : kept);
    for (const { value } of removed) this.#characters -= costOf(value);
    this.#refusedSinceLook = roomTriesApart;
    if (this.depth === 0) this.#empty();
    else this.#append(`${JSON.stringify({ sentTo: sequence })}\n`);
  }

  close(): void {
    if (this.#descriptor !== undefined) closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }

  #hasRoomFor({ value }: SpooledEntry): boolean {
    const { entriesMax, charactersMax } = this.#options.limits;
    return this.depth < entriesMax && this.#characters + costOf(value) <= charactersMax;
  }

  /** By its sequence: of two calls to the store that failed the later may have failed first. */
  #insert(added: SpooledEntry): void {
    let index = this.#entries.length;
    while (index > 0 && (this.#entries[index - 1]?.sequence ?? 0) > added.sequence) index -= 1;
    this.#entries.splice(index, 0, added);
    this.#characters += costOf(added.value);
  }

  /** Leaves out what newer entries make superfluous. Answers whether there was any. */
  #makeRoom(): boolean {
    if (this.#refusedSinceLook < roomTriesApart) return false;
    this.#refusedSinceLook = 0;
    const superseded = supersededIds(this.#entries.map(({ entry }) => entry));
    if (superseded.size === 0) return false;
    this.#entries = this.#entries.filter(({ entry }) => !superseded.has(entry.id));
    this.#characters = sumOf(this.#entries);
    this.#attemptFile(() => this.#rewrite());
    return true;
  }

  // ---- The file ---------------------------------------------------------------------------------------

  #read(file: string): void {
    const { seal, log } = this.#options;
    let text: string;
    try {
      if (statSync(file).size > fileLimitBytes) throw new Error("it is too large");
      text = readFileSync(file, "utf8");
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return;
      throw error;
    }
    let leftOut = 0;
    const lines = text.split("\n");
    // After the last line's end there is nothing, or what a sudden end left of a line.
    if (lines.pop() !== "") leftOut += 1;
    for (const line of lines) {
      const said = lineFrom(line);
      if (said === undefined) {
        leftOut += 1;
      } else if ("sentTo" in said) {
        this.#entries = this.#entries.filter(({ sequence }) => sequence > said.sentTo);
      } else {
        const { sequence, atMs, value } = said;
        const read = readEntry({ number: sequence, atMs, value }, seal);
        if (read.outcome === "read") {
          this.#insert({ sequence, atMs, value, entry: read.placed.entry });
        } else leftOut += 1;
      }
    }
    this.#characters = sumOf(this.#entries);
    if (leftOut > 0) {
      log.warn(
        `${leftOut} lines of ${file} are no whole entries of this cluster's journal: left out`,
      );
    }
  }

  #append(line: string): void {
    if (this.#options.file === undefined) return;
    this.#attemptFile(() => {
      const isGrown = this.#fileCharacters > this.#characters * fileGrowth + fileSlackCharacters;
      // What the file lacks since it failed is in memory.
      if (this.#descriptor === undefined || isGrown) {
        this.#rewrite();
        return;
      }
      writeSync(this.#descriptor, line);
      this.#fileCharacters += line.length;
    });
  }

  #empty(): void {
    this.#attemptFile(() => {
      if (this.#descriptor === undefined) this.#rewrite();
      else ftruncateSync(this.#descriptor, 0);
      this.#fileCharacters = 0;
    });
  }

  /** Writes the file anew; it is replaced as a whole. */
  #rewrite(): void {
    const { file } = this.#options;
    if (file === undefined) return;
    this.close();
    mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
    const text = this.#entries.map(lineOf).join("");
    writeFileSync(`${file}.new`, text, { mode: 0o600 });
    renameSync(`${file}.new`, file);
    this.#descriptor = openSync(file, "a", 0o600);
    this.#fileCharacters = text.length;
  }

  #attemptFile(deed: () => void): void {
    if (this.#options.file === undefined) return;
    try {
      deed();
      if (!this.#isFileBroken) return;
      this.#isFileBroken = false;
      this.#options.log.info(`${this.#options.file} can be written again`);
    } catch (error) {
      this.#breakFile(error);
    }
  }

  /** The entries stay in memory; the next one tries the file again. */
  #breakFile(error: unknown): void {
    try {
      this.close();
    } catch {
      // It is given up anyway.
      this.#descriptor = undefined;
    }
    if (this.#isFileBroken) return;
    this.#isFileBroken = true;
    const why = error instanceof Error ? error.message : String(error);
    this.#options.log.warn(
      `what waits for the store cannot be kept in ${this.#options.file} (${why}): until that is put right it` +
        " ends with this process",
    );
  }
}

/**
 * Ids of entries that newer ones of the same list make superfluous: reports of progress before a newer report of the
 * same user and item that succeeded, with their outcomes, and effects whose every field a newer effect tells again.
 * Pure.
 */
export function supersededIds(entries: readonly Entry[]): ReadonlySet<string> {
  const statusOf = new Map<string, number>();
  for (const entry of entries) {
    if (entry.type === "outcome") statusOf.set(entry.of, entry.status);
  }
  const superseded = new Set<string>();
  /** Of each user and item, the fields that newer entries tell. */
  const told = new Map<string, Set<string>>();
  for (const entry of entries.toReversed()) {
    const names = namesIn(entry);
    if (names === undefined || entry.type === "outcome") continue;
    const key = JSON.stringify([entry.type, entry.userId, entry.itemId, names.variant]);
    const newer = told.get(key);
    if (names.isPassing && newer !== undefined && names.fields.every((name) => newer.has(name))) {
      superseded.add(entry.id);
      continue;
    }
    const status = statusOf.get(entry.id) ?? 0;
    const counts = entry.type === "effect" || (status >= 200 && status < 300);
    if (counts) told.set(key, new Set([...(newer ?? []), ...names.fields]));
  }
  for (const entry of entries) {
    if (entry.type === "outcome" && superseded.has(entry.of)) superseded.add(entry.id);
  }
  return superseded;
}

/** What an entry of kind `userData` tells; `isPassing`: a newer one that tells the same makes it superfluous. */
function namesIn(
  entry: Entry,
):
  | { readonly fields: readonly string[]; readonly variant: string; readonly isPassing: boolean }
  | undefined {
  if (entry.type === "outcome" || entry.kind !== "userData") return undefined;
  if (entry.type === "effect") {
    const effect = readUserDataEffect(entry.payload);
    if (effect === undefined) return undefined;
    return { fields: Object.keys(effect.values), variant: entry.replica, isPassing: true };
  }
  const facts = readUserDataFacts(entry.facts);
  if (facts === undefined) return undefined;
  // Others do more than say values: a start and a stop count a play.
  const isPassing = facts.cause === "progress";
  return { fields: facts.fields, variant: facts.versionId ?? "", isPassing };
}

function costOf(value: string): number {
  return value.length + overheadCharacters;
}

function sumOf(entries: readonly SpooledEntry[]): number {
  return entries.reduce((sum, { value }) => sum + costOf(value), 0);
}

function lineOf({ sequence, atMs, value }: SpooledEntry): string {
  return `${JSON.stringify({ sequence, atMs, value })}\n`;
}

type Line =
  | { readonly sequence: number; readonly atMs: number; readonly value: string }
  | { readonly sentTo: number };

function lineFrom(line: string): Line | undefined {
  const said = parsedObject(line);
  if (said === undefined) return undefined;
  const { sequence, atMs, value, sentTo } = said;
  if (isCount(sentTo)) return { sentTo };
  if (!isCount(sequence) || !isCount(atMs) || typeof value !== "string") return undefined;
  return { sequence, atMs, value };
}
