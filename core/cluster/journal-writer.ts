// Writes entries into the journal for a door or a sidecar. While the store is away they wait here, on disk where there
// is a folder for it, and are sent on its return, in their order and before newer ones (journal-spool.ts).
//
// It promises that entries of one process keep the order in which `write` was called, but for those under way at the
// same moment as one whose end is not known; that writing never fails for the store's sake; and that what cannot be
// kept any more is said in the log and counted. An entry whose end was not known is sent again: whoever reads the
// journal knows entries by their ids.

import { backOffMs, sleep, untilAborted } from "../service/loop.ts";
import type { Counter, Gauge } from "../service/metrics.ts";
import type { Seal } from "../service/seal.ts";
import { checkJournalValues, type JournalCursor, type JournalStore } from "../store/journal.ts";
import { type Entry, entryValue } from "./journal.ts";
import { JournalSpool, type SpoolLimits } from "./journal-spool.ts";

export interface JournalWriterOptions {
  readonly store: Pick<JournalStore, "appendJournal">;
  readonly seal: Pick<Seal, "mac" | "verifyMac">;
  readonly log: { info(message: string): void; warn(message: string): void };
  readonly metrics: {
    readonly journalWritten: Counter;
    readonly journalSpooled: Counter;
    readonly journalRefused: Counter;
    readonly journalWaiting: Gauge;
    readonly journalEnd: Gauge;
  };
  readonly limits: SpoolLimits;
  /** Where entries wait on disk, such as `<data>/journal-door.spool`: a file of this process alone. */
  readonly file?: string;
  /** The longest wait between two tries to reach a store that is away, in ms. */
  readonly retryLimitMs: number;
  /** ms since the epoch. */
  readonly nowMs?: () => number;
}

/** What waits at most where nobody says otherwise: about an hour of a busy household's reports, in 16 MiB. */
export const spoolLimits: SpoolLimits = {
  entriesMax: 20_000,
  charactersMax: 16 * 1024 * 1024,
};

/** The wait after the first failure, in ms. */
const retryFirstMs = 50;
/** What one call to the store sends of what waits. */
const sendEntries = 200;
const sendCharacters = 1024 * 1024;
/** Sentences about entries that are refused come no more often. */
const refusalSentenceApartMs = 60_000;

export class JournalWriter {
  readonly name = "journal writer";
  readonly #options: JournalWriterOptions;
  readonly #spool: JournalSpool;
  readonly #nowMs: () => number;
  /** Aborted by `stop`: what waits is tried once more and then left. */
  readonly #stopping = new AbortController();
  /** By sequence: who waits for the number of an entry that is being sent from the spool. */
  readonly #waiters = new Map<number, (number: number | undefined) => void>();
  #sequence = 0;
  /** Entries that are on their way to the store without having been spooled. */
  readonly #underWay = new Set<Promise<unknown>>();
  #sending: Promise<void> | undefined;
  /** Whether the store took the last that it was sent. */
  #isStoreThere = true;
  #seen: JournalCursor | undefined;
  #refused = 0;
  #refusalSaidAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: JournalWriterOptions) {
    const { limits, seal, log, file } = options;
    this.#options = options;
    this.#nowMs = options.nowMs ?? Date.now;
    this.#spool = new JournalSpool({ limits, seal, log, ...(file !== undefined && { file }) });
  }

  /** How many entries wait for the store. */
  get depth(): number {
    return this.#spool.depth;
  }

  /** When the oldest of them was made, in ms since the epoch. */
  get oldestAtMs(): number | undefined {
    return this.#spool.oldestAtMs;
  }

  /** The newest entry that this process wrote, or was told of by `noteSeen`. */
  get seen(): JournalCursor | undefined {
    return this.#seen;
  }

  /** Tells where this process has read to: a store that ends before it has lost something. */
  noteSeen(cursor: JournalCursor): void {
    const isOther = this.#seen?.generation !== cursor.generation;
    if (!isOther && cursor.number <= (this.#seen?.number ?? 0)) return;
    this.#seen = cursor;
    this.#options.metrics.journalEnd.set(cursor.number);
  }

  /** Takes up what an earlier process left on disk. Never rejects. */
  async start(): Promise<void> {
    this.#sequence = Math.max(this.#sequence, this.#spool.open());
    this.#told();
    if (this.depth > 0) this.#send();
  }

  /**
   * Writes an entry; answers its number, or undefined when it waits for the store, or was left out because a newer
   * one says the same, or was refused because no more may wait, which is said in the log. Rejects with a RangeError for
   * an entry that is too long for any journal.
   */
  async write(entry: Entry): Promise<number | undefined> {
    const { seal } = this.#options;
    const value = entryValue(entry, seal);
    checkJournalValues([value]);
    this.#sequence += 1;
    const sequence = this.#sequence;
    if (this.depth > 0) return this.#keep(sequence, entry, value);
    const sent = this.#append([value]);
    this.#underWay.add(sent);
    try {
      return (await sent).number;
    } catch (error) {
      this.#noteFailure(error);
      return this.#keep(sequence, entry, value);
    } finally {
      this.#underWay.delete(sent);
    }
  }

  /** Ends when everything is sent, or `cut` aborts, or the store is away: what waits then stays on disk. */
  async stop(cut: AbortSignal): Promise<void> {
    await untilAborted(Promise.allSettled([...this.#underWay]), cut);
    this.#stopping.abort();
    await untilAborted(this.#sending ?? Promise.resolve(), cut);
    const { log, file } = this.#options;
    if (this.depth > 0) {
      const fate = file === undefined ? "are lost with this process" : `stay in ${file}`;
      log.warn(`${this.depth} entries of the journal could not be given to the store and ${fate}`);
    }
    this.#spool.close();
  }

  async #append(values: readonly string[]): Promise<JournalCursor> {
    const { store, metrics } = this.#options;
    const cursor = await store.appendJournal(values, this.#seen);
    this.noteSeen(cursor);
    metrics.journalWritten.add(values.length);
    if (this.depth === 0) this.#isStoreThere = true;
    return cursor;
  }

  /** Keeps an entry until the store has it. While it is there, its number is waited for. */
  #keep(sequence: number, entry: Entry, value: string): Promise<number | undefined> {
    const { metrics } = this.#options;
    const isKept = this.#spool.add({ sequence, atMs: this.#nowMs(), entry, value });
    if (!isKept) {
      metrics.journalRefused.add();
      this.#sayRefused();
      return Promise.resolve(undefined);
    }
    metrics.journalSpooled.add();
    this.#told();
    const number = this.#isStoreThere
      ? new Promise<number | undefined>((resolve) => this.#waiters.set(sequence, resolve))
      : Promise.resolve(undefined);
    this.#send();
    return number;
  }

  #send(): void {
    this.#sending ??= this.#sendAll().finally(() => {
      this.#sending = undefined;
    });
  }

  /** Sends what waits until nothing does. */
  async #sendAll(): Promise<void> {
    const { retryLimitMs, log } = this.#options;
    const limits = { firstMs: retryFirstMs, longestMs: retryLimitMs };
    for (let failures = 0; this.depth > 0; ) {
      // Older than anything in the spool, and perhaps about to be put into it.
      await Promise.allSettled([...this.#underWay]);
      const sent = await this.#sendOldest();
      if (sent) {
        if (failures > 0) log.info("the store takes entries of the journal again");
        failures = 0;
        continue;
      }
      failures += 1;
      if (this.#stopping.signal.aborted) return;
      await sleep(backOffMs(failures, limits, Math.random()), this.#stopping.signal);
    }
  }

  async #sendOldest(): Promise<boolean> {
    const batch = this.#spool.oldest(sendEntries, sendCharacters);
    try {
      const { number } = await this.#append(batch.map(({ value }) => value));
      this.#isStoreThere = true;
      const last = batch.at(-1)?.sequence ?? 0;
      this.#spool.removeUpTo(last);
      this.#told();
      for (const [index, { sequence }] of batch.entries()) {
        this.#settle(sequence, number - batch.length + 1 + index);
      }
      // The spool left out what newer entries say better: nobody waits for a number that will never be.
      for (const sequence of this.#waiters.keys()) {
        if (sequence > last) break;
        this.#settle(sequence, undefined);
      }
      return true;
    } catch (error) {
      this.#noteFailure(error);
      return false;
    }
  }

  /** Goes on from what the store does not take, and ends everybody's waiting for numbers. */
  #noteFailure(error: unknown): void {
    if (this.#isStoreThere) {
      const { log, file } = this.#options;
      const where = file === undefined ? "in memory" : `in ${file}`;
      const why = error instanceof Error ? error.message : String(error);
      log.warn(`the store takes no entries of the journal: they wait ${where} (${why})`);
    }
    this.#isStoreThere = false;
    for (const sequence of [...this.#waiters.keys()]) this.#settle(sequence, undefined);
  }

  #settle(sequence: number, number: number | undefined): void {
    this.#waiters.get(sequence)?.(number);
    this.#waiters.delete(sequence);
  }

  #told(): void {
    this.#options.metrics.journalWaiting.set(this.depth);
  }

  #sayRefused(): void {
    this.#refused += 1;
    const nowMs = this.#nowMs();
    if (nowMs - this.#refusalSaidAtMs < refusalSentenceApartMs) return;
    this.#refusalSaidAtMs = nowMs;
    this.#options.log.warn(
      `${this.#refused} changes could not be kept for the other servers: the store is away and ${this.depth} entries` +
        " wait for it already. Bring the store back; what was changed since then is on one server only",
    );
  }
}
