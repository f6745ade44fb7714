// The journal in the embedded store: one table of entries and one row that says where it stands. It exists so that
// the single process of `up` keeps the same contract as Redis (journal.ts). Every verb is one transaction of the
// store; a follower waits in memory for the next append, as all who append live in the same process.

import { randomUUID } from "node:crypto";
import type { SQLInputValue } from "node:sqlite";
import type { JournalCursor, JournalEntry, JournalPage, JournalStore } from "./journal.ts";
import {
  checkJournalValues,
  type JournalLimits,
  journalEntryOverheadBytes,
  journalGenerationStride,
  journalLimits,
  plausibleCursor,
} from "./journal.ts";

/** Made where they are missing, which an older program does not mind. */
export const journalSchema = `
  -- \`previous\` is the number of the entry before it: a reader that stands between the two misses nothing.
  CREATE TABLE IF NOT EXISTS journal (
    number INTEGER PRIMARY KEY, previous INTEGER NOT NULL, atMs INTEGER NOT NULL, mark TEXT NOT NULL,
    bytes INTEGER NOT NULL, value TEXT NOT NULL
  ) STRICT;
  -- One row. \`last\` is the highest number given or passed over, \`lastEntry\` that of the last entry written;
  -- \`kept\` and \`bytes\` are what is kept now.
  CREATE TABLE IF NOT EXISTS journalHead (
    one INTEGER PRIMARY KEY CHECK (one = 1), generation TEXT NOT NULL, last INTEGER NOT NULL,
    lastEntry INTEGER NOT NULL, kept INTEGER NOT NULL, bytes INTEGER NOT NULL
  ) STRICT;
`;

/** How many entries one page has at most, and about how many characters. */
const pageEntries = 500;
const pageCharacters = 4 * 1024 * 1024;

/** How many entries beyond the limits one append takes away: a limit that was lowered is reached in steps. */
const trimStep = 1000;

interface Head {
  readonly generation: string;
  readonly last: number;
  readonly lastEntry: number;
  readonly kept: number;
  readonly bytes: number;
}

/** What the journal needs of the store that it lies in. */
export interface EmbeddedParts {
  readonly run: (sql: string, ...values: SQLInputValue[]) => void;
  readonly row: (sql: string, ...values: SQLInputValue[]) => Record<string, unknown> | undefined;
  readonly rows: (sql: string, ...values: SQLInputValue[]) => Iterable<Record<string, unknown>>;
  /** Runs the work as one transaction. Rejects with StoreUnavailable when the disk fails. */
  readonly transition: <Result>(work: (nowMs: number) => Result) => Promise<Result>;
  /** Resolves when `wake` is called, the store is closed, or `signal` aborts. */
  readonly untilWoken: (signal: AbortSignal) => Promise<void>;
  readonly wake: () => void;
  readonly limits: JournalLimits;
}

export function embeddedJournal(parts: EmbeddedParts): JournalStore {
  const { run, row, rows, transition, untilWoken, wake } = parts;
  const { journalKept, journalKeptBytes } = journalLimits(parts.limits);
  /** Grows with what followers must look at, so that nothing is slept through between a look and a wait. */
  let news = 0;

  function tell(): void {
    news += 1;
    wake();
  }

  function keepHead({ generation, last, lastEntry, kept, bytes }: Head): void {
    run(
      "INSERT INTO journalHead (one, generation, last, lastEntry, kept, bytes) VALUES (1, ?, ?, ?, ?, ?) " +
        "ON CONFLICT DO UPDATE SET generation = excluded.generation, last = excluded.last, " +
        "lastEntry = excluded.lastEntry, kept = excluded.kept, bytes = excluded.bytes",
      generation,
      last,
      lastEntry,
      kept,
      bytes,
    );
  }

  /** Where the journal stands; makes it where there is none, and begins a new generation where `seen` shows a loss. */
  function openHead(seen: JournalCursor | undefined): Head {
    const found = row("SELECT generation, last, lastEntry, kept, bytes FROM journalHead");
    if (found === undefined) {
      const last = beyond(seen?.number ?? 0);
      const head = { generation: newGeneration(), last, lastEntry: last, kept: 0, bytes: 0 };
      run("DELETE FROM journal");
      keepHead(head);
      return head;
    }
    const head: Head = {
      generation: String(found.generation),
      last: Number(found.last),
      lastEntry: Number(found.lastEntry),
      kept: Number(found.kept),
      bytes: Number(found.bytes),
    };
    if (seen?.generation !== head.generation || !isContradicted(head, seen)) return head;
    const renewed = {
      ...head,
      generation: newGeneration(),
      last: beyond(Math.max(head.last, seen.number)),
    };
    keepHead(renewed);
    return renewed;
  }

  /** Whether the cursor tells of an entry that these data lack, or have another in its place. */
  function isContradicted(head: Head, seen: JournalCursor): boolean {
    if (seen.number > head.last) return true;
    if (seen.mark === undefined || seen.mark === "") return false;
    const found = row("SELECT mark FROM journal WHERE number = ?", seen.number);
    return found !== undefined && found.mark !== seen.mark;
  }

  function oldest(): { readonly number: number; readonly previous: number } | undefined {
    const found = row("SELECT number, previous FROM journal ORDER BY number LIMIT 1");
    if (found === undefined) return undefined;
    return { number: Number(found.number), previous: Number(found.previous) };
  }

  function endsOf(head: Head) {
    const { generation, last } = head;
    return { generation, first: oldest()?.number ?? last + 1, last };
  }

  /** Takes the oldest entries away until both limits are kept. */
  function trim(head: Head, appended: number): Head {
    let { kept, bytes } = head;
    for (let step = 0; step < appended + trimStep; step += 1) {
      if (kept <= journalKept && (bytes <= journalKeptBytes || kept <= 1)) break;
      const found = row("SELECT number, bytes FROM journal ORDER BY number LIMIT 1");
      if (found === undefined) break;
      run("DELETE FROM journal WHERE number = ?", Number(found.number));
      kept -= 1;
      bytes -= Number(found.bytes);
    }
    return { ...head, kept, bytes };
  }

  function append(values: readonly string[], nowMs: number, seen?: JournalCursor): JournalCursor {
    let head = openHead(seen);
    if (values.length === 0) return { generation: head.generation, number: head.last };
    const mark = randomUUID().slice(0, 8);
    for (const value of values) {
      const number = head.last + 1;
      const bytes = Buffer.byteLength(value) + journalEntryOverheadBytes;
      run(
        "INSERT INTO journal (number, previous, atMs, mark, bytes, value) VALUES (?, ?, ?, ?, ?, ?)",
        number,
        head.lastEntry,
        nowMs,
        mark,
        bytes,
        value,
      );
      head = {
        ...head,
        last: number,
        lastEntry: number,
        kept: head.kept + 1,
        bytes: head.bytes + bytes,
      };
    }
    head = trim(head, values.length);
    keepHead(head);
    return { generation: head.generation, number: head.last, mark };
  }

  function read(shown: JournalCursor, limit: number): JournalPage {
    const after = plausibleCursor(shown);
    const head = openHead(after);
    const first = oldest();
    const reachable = first === undefined ? head.last : first.previous;
    if (after.generation !== head.generation || after.number < reachable) {
      return { outcome: "lost", ends: endsOf(head) };
    }
    const entries: JournalEntry[] = [];
    let cursor = after;
    let characters = 0;
    const sql =
      "SELECT number, atMs, mark, value FROM journal WHERE number > ? ORDER BY number LIMIT ?";
    for (const found of rows(sql, after.number, Math.min(limit, pageEntries))) {
      const number = Number(found.number);
      const value = String(found.value);
      entries.push({ number, atMs: Number(found.atMs), value });
      cursor = { generation: head.generation, number, mark: String(found.mark) };
      characters += value.length;
      if (characters > pageCharacters) break;
    }
    return { outcome: "read", entries, cursor };
  }

  async function appendJournal(
    values: readonly string[],
    seen?: JournalCursor,
  ): Promise<JournalCursor> {
    checkJournalValues(values);
    const cursor = await transition((nowMs) =>
      append(values, nowMs, seen === undefined ? undefined : plausibleCursor(seen)),
    );
    tell();
    return cursor;
  }

  async function readJournal(after: JournalCursor, limit: number): Promise<JournalPage> {
    const page = await transition(() => read(after, limit));
    // The loss may have been seen here first: then a new generation began, and other followers lost their place.
    if (page.outcome === "lost") tell();
    return page;
  }

  return {
    appendJournal,
    readJournal,

    journalEnds() {
      return transition(() => endsOf(openHead(undefined)));
    },

    async followJournal(after, onEntries, signal) {
      let reached = after;
      let greeted = false;
      while (!signal.aborted) {
        const known = news;
        const page = await readJournal(reached, pageEntries);
        if (page.outcome === "lost") return "lost";
        if (signal.aborted) break;
        reached = page.cursor;
        if (page.entries.length > 0 || !greeted) onEntries(page.entries, reached);
        greeted = true;
        // Lets the rest of the process have its turn between two pages.
        if (page.entries.length > 0) await new Promise((resolve) => setImmediate(resolve));
        else if (news === known) await untilWoken(signal);
      }
      return "aborted";
    },
  };
}

function newGeneration(): string {
  return randomUUID();
}

/** The number after which a journal goes on where up to `number` is known to have been given. */
function beyond(number: number): number {
  return number === 0 ? 0 : number + journalGenerationStride;
}
