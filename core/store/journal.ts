// The journal's part of the store: one bounded, ordered log of entries for the whole cluster. In Redis it is a
// Stream, in the single process of `up` a table. What an entry says is core/cluster/journal.ts; here it is text.
//
// It promises that numbers grow by one with each entry and are never given twice within a generation; that a
// reader gets every entry after its cursor once and in order, or is told that it cannot; and that a store which
// lost entries that somebody has read (a failover, a restored file) is of another generation from the moment at
// which somebody who knows of them reads or writes. A new generation keeps the entries that are left, with their
// numbers, and goes on `journalGenerationStride` above the highest number that was known: so a number that somebody
// ordered by means the same entry ever after, and later entries have higher ones.

/** Where somebody stands in the journal: everything up to and with `number` of that generation is known. */
export interface JournalCursor {
  /** Random, made anew whenever the journal is not the continuation of what was read before. */
  readonly generation: string;
  /** 0: before the first entry. */
  readonly number: number;
  /**
   * Tells the entry from another that was given the same number after a loss. Cursors that the store gives carry it;
   * whoever passes them on unchanged has losses noticed also when the journal's end has grown past the cursor again.
   */
  readonly mark?: string;
}

export interface JournalEntry {
  readonly number: number;
  /** When it was written, in ms since the epoch on the store's clock. */
  readonly atMs: number;
  readonly value: string;
}

export interface JournalEnds {
  readonly generation: string;
  /** The number of the oldest entry that is kept; one more than `last` when none is. */
  readonly first: number;
  /**
   * The number of the newest entry; 0: there never was one. Right after a new generation began it is a number that
   * no entry has: the next entry's is one more.
   */
  readonly last: number;
}

export type JournalPage =
  | {
      readonly outcome: "read";
      readonly entries: readonly JournalEntry[];
      /** Where the next page begins. */
      readonly cursor: JournalCursor;
    }
  /** The cursor is of another generation, ahead of the end, or what followed it is no longer kept. */
  | { readonly outcome: "lost"; readonly ends: JournalEnds };

/** An entry's value is no longer than this. */
export const journalValueLimitCharacters = 512 * 1024;
/** So many values are appended by one call at most. */
export const journalAppendLimit = 1000;
/** How far above all known numbers a new generation goes on: more than anybody can have read that others have not. */
export const journalGenerationStride = 10_000;
/** No journal gets so far: a cursor that names such a number is forged or broken, and is believed by nobody. */
export const journalNumberLimit = 1e12;
/** How much of the journal is kept; whichever is reached first. */
export interface JournalLimits {
  /** Entries; Redis may keep a hundred more. 100,000 where nothing is said. */
  readonly journalKept?: number;
  /** Bytes of entries, within a sixty-fourth. 64 MiB where nothing is said. */
  readonly journalKeptBytes?: number;
}

/** What an entry costs besides its value, in bytes, as the limit of bytes counts it. */
export const journalEntryOverheadBytes = 64;

export interface JournalStore {
  /**
   * Appends entries, all or none, with consecutive numbers; answers where the last one stands. `seen` is a cursor the
   * caller knows to have existed: when the journal's end lies behind it within its generation (a failover lost
   * writes), a new generation is begun before the entries are written. What this store itself has read or written
   * counts as seen, too. No entries: answers where the end is. Calls of one store are appended in the order in which
   * they were made. Rejects with StoreUnavailable (they may have been written all the same: an entry carries an id of
   * its own, so that it can be told when it comes twice), with a RangeError for a value that is empty or too long, or
   * for more than `journalAppendLimit` of them.
   */
  appendJournal(values: readonly string[], seen?: JournalCursor): Promise<JournalCursor>;

  /**
   * Up to `limit` entries after `after`: fewer where they are many or large, so that only an empty page says that the
   * end is reached. Rejects with StoreUnavailable.
   */
  readJournal(after: JournalCursor, limit: number): Promise<JournalPage>;

  journalEnds(): Promise<JournalEnds>;

  /**
   * Calls `onEntries` with what comes after `after`, in order, each entry once, until `signal` aborts; also once at
   * the beginning, perhaps with none, when the cursor was found to be good. Resolves `lost` as `readJournal` does.
   * Rejects with StoreUnavailable when the store went away: call again with the last cursor later.
   */
  followJournal(
    after: JournalCursor,
    onEntries: (entries: readonly JournalEntry[], cursor: JournalCursor) => void,
    signal: AbortSignal,
  ): Promise<"aborted" | "lost">;
}

export function journalLimits(limits: JournalLimits): Required<JournalLimits> {
  return { journalKept: 100_000, journalKeptBytes: 64 * 1024 * 1024, ...limits };
}

/** A cursor that there can have been: another is of no generation. */
export function plausibleCursor(cursor: JournalCursor): JournalCursor {
  const { number } = cursor;
  const isPlausible = Number.isSafeInteger(number) && number >= 0 && number < journalNumberLimit;
  return isPlausible ? cursor : { generation: "", number: 0 };
}

/** What every store refuses to append. Throws a RangeError. */
export function checkJournalValues(values: readonly string[]): void {
  if (values.length > journalAppendLimit) {
    throw new RangeError(`${values.length} entries are more than ${journalAppendLimit} at once`);
  }
  for (const value of values) {
    if (value === "") throw new RangeError("an entry of the journal has no value");
    if (value.length > journalValueLimitCharacters) {
      throw new RangeError(
        `an entry of the journal with ${value.length} characters is longer than ${journalValueLimitCharacters}`,
      );
    }
  }
}
