// The ledger: what a sidecar knows of the journal and must not forget when it starts again. How far it has
// come, which effects beyond that are done already, what the journal last said of each field of each lane,
// and the effects that wait for an item which its server does not have yet.
//
// It lies in a small SQLite file of the sidecar's own, never in a folder of Jellyfin's. Without a folder it is
// kept in memory: then the cursor's copy in the store (core/cluster/journal-cursor.ts) says where to go on
// from, and what was known of fields is learned again from the journal, which changes nothing that is equal.
//
// It promises that a process that is killed finds what it had noted (SQLite's log reaches the kernel with each
// note; a machine that loses power may lose the last moments, which are then done twice).

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync, type StatementSync } from "node:sqlite";
import { readJournalCursor } from "../../core/cluster/journal-cursor.ts";
import { objectOf, parsedObject } from "../../core/service/json.ts";
import type { JournalCursor, JournalEntry } from "../../core/store/journal.ts";

export interface KnownField {
  /** The intent's number. Numbers grow over all generations of the journal, so that the higher one is the newer. */
  readonly number: number;
  readonly value: unknown;
}

export interface Known {
  readonly kind: string;
  readonly userId: string;
  readonly itemId: string;
  readonly fields: Readonly<Record<string, KnownField>>;
}

export interface AsideEffect {
  readonly entry: JournalEntry;
  /** The item it waits for. */
  readonly itemId: string;
  readonly sinceMs: number;
}

export interface Ledger {
  cursor(): JournalCursor | undefined;
  /** Everything up to and with it is done or aside; what was noted as done before it is forgotten. */
  setCursor(cursor: JournalCursor): void;
  /** An effect beyond the cursor is done. */
  noteDone(number: number): void;
  isDone(number: number): boolean;
  known(lane: string): Known | undefined;
  setKnown(lane: string, known: Known): void;
  /** Lanes in the order in which they were changed last, the newest first. */
  newest(limit: number): readonly (readonly [lane: string, known: Known])[];
  /** By the entry's number; the oldest is dropped beyond the limit, and answered. */
  putAside(effect: AsideEffect): AsideEffect | undefined;
  takeAside(number: number): void;
  asides(): readonly AsideEffect[];
  /** The lowest number of what waits aside; undefined when nothing does. */
  oldestAside(): number | undefined;
  /** From here on; what is done or aside belonged to another way. What is known of fields stays. */
  restart(cursor: JournalCursor | undefined): void;
  /** From here on, again: what is done may be another entry now. What waits aside goes on waiting. */
  rewind(cursor: JournalCursor): void;
  /** Another server stands here now: what was known of this one's values is forgotten. */
  forgetKnown(): void;
  /** A word of ours that outlives the process; undefined when it was never set. */
  word(name: string): string | undefined;
  setWord(name: string, value: string): void;
  /** True when a restart finds all this again. */
  readonly isKept: boolean;
  close(): void;
}

export interface LedgerLimits {
  readonly lanesLimit: number;
  readonly asidesLimit: number;
}

export const ledgerLimits: LedgerLimits = { lanesLimit: 200_000, asidesLimit: 20_000 };
/** Without a folder all of it is in memory: a lane takes about 0.4 kB. */
const lanesInMemoryLimit = 40_000;

/** In memory, for a sidecar without a folder; also the cache of one with a folder. */
export class MemoryLedger implements Ledger {
  readonly isKept: boolean = false;
  readonly #limits: LedgerLimits;
  readonly #known = new Map<string, Known>();
  readonly #asides = new Map<number, AsideEffect>();
  readonly #done = new Set<number>();
  readonly #words = new Map<string, string>();
  #cursor: JournalCursor | undefined;

  constructor(limits: LedgerLimits = { ...ledgerLimits, lanesLimit: lanesInMemoryLimit }) {
    this.#limits = limits;
  }

  cursor(): JournalCursor | undefined {
    return this.#cursor;
  }

  setCursor(cursor: JournalCursor): void {
    this.#cursor = cursor;
    for (const number of this.#done) if (number <= cursor.number) this.#done.delete(number);
  }

  noteDone(number: number): void {
    this.#done.add(number);
  }

  isDone(number: number): boolean {
    return number <= (this.#cursor?.number ?? 0) || this.#done.has(number);
  }

  known(lane: string): Known | undefined {
    return this.#known.get(lane);
  }

  setKnown(lane: string, known: Known): void {
    // Taken out and put in again, so that the map's order is the order of the last changes.
    this.#known.delete(lane);
    this.#known.set(lane, known);
    if (this.#known.size <= this.#limits.lanesLimit) return;
    for (const oldest of this.#known.keys()) {
      this.#known.delete(oldest);
      break;
    }
  }

  newest(limit: number): readonly (readonly [string, Known])[] {
    return [...this.#known].slice(-limit).reverse();
  }

  putAside(effect: AsideEffect): AsideEffect | undefined {
    this.#asides.set(effect.entry.number, effect);
    if (this.#asides.size <= this.#limits.asidesLimit) return undefined;
    for (const [number, oldest] of this.#asides) {
      this.#asides.delete(number);
      return oldest;
    }
    return undefined;
  }

  takeAside(number: number): void {
    this.#asides.delete(number);
  }

  asides(): readonly AsideEffect[] {
    return [...this.#asides.values()];
  }

  oldestAside(): number | undefined {
    let oldest: number | undefined;
    for (const number of this.#asides.keys()) oldest = Math.min(number, oldest ?? number);
    return oldest;
  }

  restart(cursor: JournalCursor | undefined): void {
    this.#cursor = cursor;
    this.#done.clear();
    this.#asides.clear();
  }

  rewind(cursor: JournalCursor): void {
    this.#cursor = cursor;
    this.#done.clear();
  }

  forgetKnown(): void {
    this.#known.clear();
  }

  word(name: string): string | undefined {
    return this.#words.get(name);
  }

  setWord(name: string, value: string): void {
    this.#words.set(name, value);
  }

  close(): void {
    this.#known.clear();
  }
}

const schema = `
  CREATE TABLE IF NOT EXISTS word (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS done (number INTEGER PRIMARY KEY);
  CREATE TABLE IF NOT EXISTS known (lane TEXT PRIMARY KEY, changed INTEGER NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS known_changed ON known (changed);
  CREATE TABLE IF NOT EXISTS aside (
    number INTEGER PRIMARY KEY, item TEXT NOT NULL, since INTEGER NOT NULL, at INTEGER NOT NULL, value TEXT NOT NULL
  );
`;

/** In `<folder>/journal-<replica>.db`. Throws what node:sqlite throws when the file cannot be used. */
export class FileLedger implements Ledger {
  readonly isKept = true;
  readonly #limits: LedgerLimits;
  readonly #database: DatabaseSync;
  readonly #statements: Readonly<Record<StatementName, StatementSync>>;
  #cursor: JournalCursor | undefined;
  #changed: number;
  #lanes: number;
  #asideCount: number;

  constructor(folder: string, replica: string, limits: LedgerLimits = ledgerLimits) {
    this.#limits = limits;
    mkdirSync(folder, { recursive: true });
    this.#database = new DatabaseSync(join(folder, `journal-${encodeURIComponent(replica)}.db`));
    this.#database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;");
    this.#database.exec("PRAGMA cache_size = -2000; PRAGMA journal_size_limit = 4194304;");
    this.#database.exec(schema);
    this.#statements = prepared(this.#database);
    this.#cursor = readCursor(this.word("cursor") ?? "");
    this.#changed = this.#count("SELECT max(changed) AS n FROM known");
    this.#lanes = this.#count("SELECT count(*) AS n FROM known");
    this.#asideCount = this.#count("SELECT count(*) AS n FROM aside");
  }

  cursor(): JournalCursor | undefined {
    return this.#cursor;
  }

  setCursor(cursor: JournalCursor): void {
    this.#cursor = cursor;
    this.setWord("cursor", JSON.stringify(cursor));
    this.#statements.forgetDone.run(cursor.number);
  }

  noteDone(number: number): void {
    this.#statements.noteDone.run(number);
  }

  isDone(number: number): boolean {
    if (number <= (this.#cursor?.number ?? 0)) return true;
    return this.#statements.isDone.get(number) !== undefined;
  }

  known(lane: string): Known | undefined {
    const row = this.#statements.known.get(lane);
    return row === undefined ? undefined : readKnown(String(row.value));
  }

  setKnown(lane: string, known: Known): void {
    this.#changed++;
    if (this.#statements.known.get(lane) === undefined) this.#lanes++;
    this.#statements.setKnown.run(lane, this.#changed, JSON.stringify(known));
    if (this.#lanes <= this.#limits.lanesLimit) return;
    // A tenth at a time, so that the oldest are looked for seldom.
    const dropped = Math.ceil(this.#limits.lanesLimit / 10);
    this.#statements.dropKnown.run(dropped);
    this.#lanes -= dropped;
  }

  newest(limit: number): readonly (readonly [string, Known])[] {
    return this.#statements.newest.all(limit).flatMap((row) => {
      const known = readKnown(String(row.value));
      return known === undefined ? [] : [[String(row.lane), known] as const];
    });
  }

  putAside({ entry, itemId, sinceMs }: AsideEffect): AsideEffect | undefined {
    const { number, atMs, value } = entry;
    this.#statements.putAside.run(number, itemId, Math.round(sinceMs), Math.round(atMs), value);
    this.#asideCount = this.#count("SELECT count(*) AS n FROM aside");
    if (this.#asideCount <= this.#limits.asidesLimit) return undefined;
    const oldest = this.asides()[0];
    if (oldest !== undefined) this.takeAside(oldest.entry.number);
    return oldest;
  }

  takeAside(number: number): void {
    this.#statements.takeAside.run(number);
  }

  asides(): readonly AsideEffect[] {
    return this.#statements.asides.all().map((row) => ({
      entry: { number: Number(row.number), atMs: Number(row.at), value: String(row.value) },
      itemId: String(row.item),
      sinceMs: Number(row.since),
    }));
  }

  oldestAside(): number | undefined {
    const number = this.#statements.oldestAside.get()?.number;
    return typeof number === "number" ? number : undefined;
  }

  restart(cursor: JournalCursor | undefined): void {
    this.#database.exec("BEGIN; DELETE FROM done; DELETE FROM aside; COMMIT");
    this.#cursor = undefined;
    if (cursor === undefined) this.setWord("cursor", "");
    else this.setCursor(cursor);
  }

  rewind(cursor: JournalCursor): void {
    this.#database.exec("DELETE FROM done");
    this.setCursor(cursor);
  }

  forgetKnown(): void {
    this.#database.exec("DELETE FROM known");
    this.#lanes = 0;
  }

  word(name: string): string | undefined {
    const row = this.#statements.word.get(name);
    return row === undefined ? undefined : String(row.value);
  }

  setWord(name: string, value: string): void {
    this.#statements.setWord.run(name, value);
  }

  close(): void {
    this.#database.close();
  }

  #count(query: string): number {
    return Number(this.#database.prepare(query).get()?.n ?? 0);
  }
}

type StatementName = keyof typeof queries;

const queries = {
  word: "SELECT value FROM word WHERE name = ?",
  setWord: "INSERT OR REPLACE INTO word (name, value) VALUES (?, ?)",
  noteDone: "INSERT OR IGNORE INTO done (number) VALUES (?)",
  isDone: "SELECT 1 AS n FROM done WHERE number = ?",
  forgetDone: "DELETE FROM done WHERE number <= ?",
  known: "SELECT value FROM known WHERE lane = ?",
  setKnown: "INSERT OR REPLACE INTO known (lane, changed, value) VALUES (?, ?, ?)",
  dropKnown: "DELETE FROM known WHERE lane IN (SELECT lane FROM known ORDER BY changed LIMIT ?)",
  newest: "SELECT lane, value FROM known ORDER BY changed DESC LIMIT ?",
  putAside: "INSERT OR REPLACE INTO aside (number, item, since, at, value) VALUES (?, ?, ?, ?, ?)",
  takeAside: "DELETE FROM aside WHERE number = ?",
  oldestAside: "SELECT min(number) AS number FROM aside",
  asides: "SELECT number, item, since, at, value FROM aside ORDER BY number",
} as const;

function prepared(database: DatabaseSync): Record<StatementName, StatementSync> {
  const names = Object.keys(queries) as StatementName[];
  return Object.fromEntries(names.map((name) => [name, database.prepare(queries[name])])) as Record<
    StatementName,
    StatementSync
  >;
}

/** The file is ours, but a disk may have other thoughts: what makes no sense is as if it had not been noted. */
function readKnown(text: string): Known | undefined {
  const value = parsedObject(text);
  const fields = objectOf(value?.fields);
  if (value === undefined || fields === undefined) return undefined;
  const { kind, userId, itemId } = value;
  if (typeof kind !== "string" || typeof userId !== "string" || typeof itemId !== "string") {
    return undefined;
  }
  const read: Record<string, KnownField> = {};
  for (const [name, field] of Object.entries(fields)) {
    const { number, value: said } = objectOf(field) ?? {};
    if (Number.isSafeInteger(number)) read[name] = { number: Number(number), value: said };
  }
  return { kind, userId, itemId, fields: read };
}

function readCursor(text: string): JournalCursor | undefined {
  return readJournalCursor(parsedObject(text));
}
