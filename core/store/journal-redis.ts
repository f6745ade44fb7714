// The journal in Redis: one stream, whose entries' ids are `<number>-0`, and a hash that says where it stands. Each
// verb is one Lua script, so that a writer's numbers, its check for lost entries and its entries are one step.
//
// Callers of the same moment share one script call, and calls do not wait for each other: their order is kept by
// the one connection that they go through. A follower waits in a blocking read on a connection of its own.
//
// This process remembers the newest entry that it has read or written and shows it with each call. So a Redis that
// came back without it (a failover to a copy that lagged, a restored dump) is noticed by the first who asks.

import { randomUUID } from "node:crypto";
import {
  checkJournalValues,
  type JournalCursor,
  type JournalEnds,
  type JournalEntry,
  type JournalLimits,
  type JournalPage,
  type JournalStore,
  journalEntryOverheadBytes,
  journalGenerationStride,
  journalLimits,
  plausibleCursor,
} from "./journal.ts";
import { asEntries, asList, asText, asTexts, entriesOf, type StreamEntry } from "./replies.ts";
import { StoreUnavailable } from "./store.ts";

/** A connection that a follower has for itself. */
export interface OwnConnection {
  /** Runs a script; undefined when following was ended meanwhile. */
  readonly run: (
    verb: string,
    keys: readonly string[],
    values: readonly (string | number)[],
  ) => Promise<{ readonly answer: unknown } | undefined>;
  /** Waits for entries of a stream after an id; undefined when following was ended meanwhile. */
  readonly wait: (
    key: string,
    id: string,
    count: number,
    blockMs: number,
  ) => Promise<{ readonly answer: unknown } | undefined>;
}

export interface RedisJournalParts {
  /** Runs a script on the common connection. Rejects with StoreUnavailable. */
  readonly run: (
    verb: string,
    keys: readonly string[],
    values: readonly (string | number)[],
  ) => Promise<unknown>;
  /** Does the work on a connection of its own until the signal aborts or the store is closed. */
  readonly onOwnConnection: (
    signal: AbortSignal,
    work: (own: OwnConnection) => Promise<"lost" | "ended">,
  ) => Promise<"aborted" | "lost">;
  readonly keys: { readonly journalHead: string; readonly journal: string };
  readonly limits: JournalLimits;
  /** How long a follower waits for an entry before it asks whether its place is still one, in ms. */
  readonly followIdleMs: number;
}

/** How many entries one page has at most, and about how many bytes. */
const pageEntries = 500;
const pageBytes = 4 * 1024 * 1024;
/** How many entries a follower is brought at once: by a script that looks at their bytes, and by a read that cannot. */
const followEntries = 100;
const waitEntries = 32;
/** About how many characters one script call appends at most. */
const batchCharacters = 1024 * 1024;
const HELD = 1;
/** How many generations that are over a process remembers: losses are rare, and answers under way are few. */
const pastKept = 16;

interface QueuedAppend {
  readonly values: readonly string[];
  readonly seen: JournalCursor | undefined;
  readonly resolve: (cursor: JournalCursor) => void;
  readonly reject: (error: unknown) => void;
}

/** What the script that reads says. */
interface Reading {
  readonly isHeld: boolean;
  readonly ends: JournalEnds;
  readonly entries: readonly StreamEntry[];
}

type ScriptValues = readonly (string | number)[];

export function redisJournal(parts: RedisJournalParts): JournalStore {
  const { run, onOwnConnection, keys, followIdleMs } = parts;
  const { journalKept, journalKeptBytes } = journalLimits(parts.limits);
  const scriptKeys = [keys.journalHead, keys.journal] as const;
  /** The newest entry that this process has read or written. */
  let known: JournalCursor | undefined;
  /** Of all generations: a journal that ends below it has lost something. */
  let highestNumber = 0;
  /** Generations that are over, as far as this process knew them. */
  const past: string[] = [];
  /** Followers, told when the journal turns out to be of another generation than theirs. */
  const followers = new Set<(generation: string) => void>();
  let queue: QueuedAppend[] = [];

  function learn(cursor: JournalCursor): void {
    // An answer that was under way while another told of a newer generation.
    if (past.includes(cursor.generation)) return;
    highestNumber = Math.max(highestNumber, plausibleCursor(cursor).number);
    const before = known;
    if (before?.generation === cursor.generation) {
      const isNewer = cursor.number > before.number;
      if (isNewer || (cursor.number === before.number && cursor.mark !== undefined)) known = cursor;
      return;
    }
    known = cursor;
    if (before === undefined) return;
    past.push(before.generation);
    if (past.length > pastKept) past.shift();
    for (const tell of [...followers]) tell(cursor.generation);
  }

  /** The last number may be no entry's, and none that was read: it counts as known, and its generation does. */
  function noteEnds({ generation, last }: JournalEnds): void {
    learn({ generation, number: 0 });
    highestNumber = Math.max(highestNumber, plausibleCursor({ generation, number: last }).number);
  }

  /** What each script is told of the caller's knowledge. */
  function knowledge(shown: JournalCursor | undefined): ScriptValues {
    const seen = shown === undefined ? undefined : plausibleCursor(shown);
    return [
      randomUUID(),
      seen?.generation ?? "",
      seen?.number ?? 0,
      seen?.mark ?? "",
      highestNumber,
      journalGenerationStride,
    ];
  }

  /** The newer of what the caller and what this process knows of the caller's generation. */
  function newer(seen: JournalCursor | undefined): JournalCursor | undefined {
    if (seen === undefined || known === undefined) return seen ?? known;
    if (seen.generation !== known.generation) return seen;
    return seen.number > known.number ? seen : known;
  }

  function flush(): void {
    const queued = queue;
    queue = [];
    for (const batch of batchesOf(queued)) void appendBatch(batch);
  }

  async function appendBatch(batch: readonly QueuedAppend[]): Promise<void> {
    try {
      const seen = batch.map((one) => newer(one.seen)).reduce(highestOf, undefined);
      const values = batch.flatMap((one) => one.values);
      const answer = await run("appendJournal", scriptKeys, [
        ...knowledge(seen),
        Math.max(journalKept, 1),
        journalKeptBytes,
        journalEntryOverheadBytes,
        ...values,
      ]);
      const { generation, last, mark } = understood(answer, appendedFrom);
      let number = last - values.length;
      if (values.length > 0) learn({ generation, number: number + values.length, mark });
      for (const { values: own, resolve } of batch) {
        number += own.length;
        const cursor = { generation, number };
        resolve(own.length === 0 ? cursor : { ...cursor, mark });
      }
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
  }

  /** A page, or why there is none. What the script says is learned by the way. */
  function pageFrom(after: JournalCursor, answer: unknown): JournalPage {
    const { isHeld, ends, entries } = understood(answer, readingFrom);
    noteEnds(ends);
    if (!isHeld) return { outcome: "lost", ends };
    const { taken, cursor, missingBefore } = takenFrom(after, entries, isReachable);
    if (taken.length === 0 && missingBefore !== undefined) {
      // Entries were taken out of the middle, which nothing of ours does.
      return { outcome: "lost", ends: { ...ends, first: missingBefore } };
    }
    learn(cursor);
    return { outcome: "read", entries: taken, cursor };
  }

  async function readJournal(after: JournalCursor, limit: number): Promise<JournalPage> {
    const values = [...knowledge(after), Math.min(limit, pageEntries), pageBytes];
    return pageFrom(after, await run("readJournal", scriptKeys, values));
  }

  /** Follows on one connection; the cursor is checked at first, after each idle time, and where numbers jump. */
  async function followOn(
    own: OwnConnection,
    after: JournalCursor,
    onEntries: (entries: readonly JournalEntry[], cursor: JournalCursor) => void,
    isEnded: () => boolean,
  ): Promise<"lost" | "ended"> {
    let reached = after;
    let greeted = false;
    for (;;) {
      const values = [...knowledge(reached), followEntries, pageBytes];
      const check = await own.run("readJournal", scriptKeys, values);
      if (check === undefined) return "ended";
      const page = pageFrom(reached, check.answer);
      if (page.outcome === "lost") return "lost";
      reached = page.cursor;
      if (page.entries.length > 0 || !greeted) onEntries(page.entries, reached);
      greeted = true;
      if (isEnded()) return "ended";
      if (page.entries.length > 0) continue;

      let from = `${reached.number}-0`;
      for (;;) {
        const read = await own.wait(keys.journal, from, waitEntries, followIdleMs);
        if (read === undefined) return "ended";
        const news = understood(read.answer, entriesOf);
        const last = news.at(-1);
        if (last === undefined) break;
        from = last[0];
        const { taken, cursor, missingBefore } = takenFrom(reached, news, isNext);
        reached = cursor;
        learn(reached);
        if (taken.length > 0) onEntries(taken, reached);
        if (isEnded()) return "ended";
        // A jump: a new generation, or entries that were trimmed before they were read. The script can tell.
        if (missingBefore !== undefined) break;
      }
    }
  }

  return {
    appendJournal(values, seen) {
      return new Promise((resolve, reject) => {
        checkJournalValues(values);
        if (queue.length === 0) setImmediate(flush);
        queue.push({ values, seen, resolve, reject });
      });
    },

    readJournal,

    async journalEnds() {
      const values = [...knowledge(known), 0, pageBytes];
      const { ends } = understood(await run("readJournal", scriptKeys, values), readingFrom);
      noteEnds(ends);
      return ends;
    },

    async followJournal(after, onEntries, signal) {
      if (signal.aborted) return "aborted";
      const ending = new AbortController();
      const end = (): void => ending.abort();
      const endForOther = (generation: string): void => {
        if (generation !== after.generation) end();
      };
      signal.addEventListener("abort", end, { once: true });
      followers.add(endForOther);
      try {
        const result = await onOwnConnection(ending.signal, (own) =>
          followOn(own, after, onEntries, () => ending.signal.aborted),
        );
        // Ended by nobody who follows: this process learned that the journal is of another generation.
        return result === "aborted" && !signal.aborted ? "lost" : result;
      } finally {
        signal.removeEventListener("abort", end);
        followers.delete(endForOther);
      }
    },
  };
}

/** Divides what is queued into script calls: one generation each, and not too much at once. */
function batchesOf(queued: readonly QueuedAppend[]): QueuedAppend[][] {
  const batches: QueuedAppend[][] = [];
  let batch: QueuedAppend[] = [];
  let characters = 0;
  let generation: string | undefined;
  for (const one of queued) {
    const isOther =
      one.seen !== undefined && one.seen.generation !== (generation ?? one.seen.generation);
    if (batch.length > 0 && (isOther || characters > batchCharacters)) {
      batches.push(batch);
      batch = [];
      characters = 0;
      generation = undefined;
    }
    batch.push(one);
    generation ??= one.seen?.generation;
    for (const value of one.values) characters += value.length;
  }
  if (batch.length > 0) batches.push(batch);
  return batches;
}

/** The one that says more: of two of one generation the higher. */
function highestOf(
  left: JournalCursor | undefined,
  right: JournalCursor | undefined,
): JournalCursor | undefined {
  if (left === undefined || right === undefined) return left ?? right;
  return right.number >= left.number ? right : left;
}

/** What the script that appends says. */
function appendedFrom(answer: unknown) {
  const [generation = "", last = "", mark = ""] = asTexts(answer);
  return { generation, last: numberFrom(last), mark };
}

/** An answer that makes no sense comes of what somebody else wrote: the journal is not to be had, and nobody stops. */
function understood<Value>(answer: unknown, reading: (answer: unknown) => Value): Value {
  try {
    return reading(answer);
  } catch (error) {
    throw new StoreUnavailable("what lies in Redis as the journal cannot be read", {
      cause: error,
    });
  }
}

function readingFrom(answer: unknown): Reading {
  const [code, generation, first, last, entries] = asList(answer);
  return {
    isHeld: code === HELD,
    ends: {
      generation: asText(generation),
      first: numberFrom(asText(first)),
      last: numberFrom(asText(last)),
    },
    entries: asEntries(entries),
  };
}

interface SoundEntry extends JournalEntry {
  readonly mark: string;
  /** The number of the entry before it. */
  readonly previous: number;
}

/** Whether an entry that was read alone is the next: where the generation is not known, only the next number is. */
function isNext(entry: SoundEntry, cursor: JournalCursor): boolean {
  return entry.number === cursor.number + 1;
}

/** Whether nothing lies between, where the script has judged the generation: numbers may jump where it began. */
function isReachable(entry: SoundEntry, cursor: JournalCursor): boolean {
  return entry.previous <= cursor.number && cursor.number < entry.number;
}

/**
 * The journal's entries among what the stream holds, up to the first before which some are missing. What is no
 * entry of ours is passed over.
 */
function takenFrom(
  after: JournalCursor,
  entries: readonly StreamEntry[],
  follows: (entry: SoundEntry, cursor: JournalCursor) => boolean,
) {
  const taken: JournalEntry[] = [];
  let cursor = after;
  let missingBefore: number | undefined;
  for (const [id, fields] of entries) {
    const entry = soundEntry(id, fields);
    if (entry === undefined) continue;
    const { number, atMs, value, mark } = entry;
    if (!follows(entry, cursor)) {
      missingBefore = number;
      break;
    }
    taken.push({ number, atMs, value });
    cursor = { generation: after.generation, number, mark };
  }
  return { taken, cursor, missingBefore };
}

function soundEntry(id: string, fields: readonly string[]): SoundEntry | undefined {
  const [, numberText] = /^(\d{1,15})-0$/.exec(id) ?? [];
  const [markName, mark = "", previousName, previous = "", valueName, value = ""] = fields;
  if (numberText === undefined || markName !== "mark" || !/^\d{7,17}$/.test(mark)) return undefined;
  if (previousName !== "previous" || !/^\d{1,15}$/.test(previous)) return undefined;
  if (valueName !== "value") return undefined;
  // The mark is the store's clock in microseconds.
  const atMs = Math.floor(Number(mark) / 1000);
  return { number: Number(numberText), atMs, value, mark, previous: Number(previous) };
}

function numberFrom(text: string): number {
  const number = Number(text);
  if (!Number.isSafeInteger(number)) throw new Error("Redis answered something that is no number");
  return number;
}
