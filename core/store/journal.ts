// The journal's part of the store: one bounded, ordered log of entries for the whole cluster. In Redis it is a
// Stream, in the single process of `up` a table. What an entry says is core/cluster/journal.ts; here it is text.
//
// It promises that numbers grow by one with each entry and are never given twice within a generation; that a
// reader gets every entry after its cursor once and in order, or is told that it cannot; and that a store which
// lost entries that somebody has read (a failover, a restored file) is of another generation from then on.

/** Where somebody stands in the journal: everything up to and with `number` of that generation is known. */
export interface JournalCursor {
  /** Random, made anew whenever the journal is not the continuation of what was read before. */
  readonly generation: string;
  /** 0: before the first entry. */
  readonly number: number;
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
  /** The number of the newest entry ever written in this generation; 0: there was none. */
  readonly last: number;
}

export type JournalPage =
  | { readonly outcome: "read"; readonly entries: readonly JournalEntry[] }
  /** The cursor is of another generation, ahead of the end, or what followed it is no longer kept. */
  | { readonly outcome: "lost"; readonly ends: JournalEnds };

/** An entry's value is no longer than this. */
export const journalValueLimitCharacters = 512 * 1024;

export interface JournalStore {
  /**
   * Appends entries, all or none, with consecutive numbers; answers where the last one stands. `seen` is a cursor the
   * caller knows to have existed: when the journal's end lies behind it within its generation (a failover lost
   * writes), a new generation is begun before the entries are written. Rejects with StoreUnavailable (they may have
   * been written all the same: an entry carries an id of its own, so that it can be told when it comes twice), with
   * a RangeError for a value that is empty or too long.
   */
  appendJournal(values: readonly string[], seen?: JournalCursor): Promise<JournalCursor>;

  /** Up to `limit` entries after `after`. Rejects with StoreUnavailable. */
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
