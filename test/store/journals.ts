// What tests do with a journal: name entries, read all of them, follow it and keep what came.

import type { JournalCursor, JournalEntry } from "../../core/store/journal.ts";
import type { Store } from "../../core/store/store.ts";
import { until } from "./worlds.ts";

const pageLimit = 100;

/** Values that say where they belong. */
export function names(from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_unused, index) => `entry ${from + index}`);
}

/** Follows the journal in the background and keeps what came. */
export function journalFollower(store: Store, after: JournalCursor) {
  const controller = new AbortController();
  const entries: JournalEntry[] = [];
  let calls = 0;
  let reached = after;
  const result = store.followJournal(
    after,
    (batch, cursor) => {
      calls += 1;
      entries.push(...batch);
      reached = cursor;
    },
    controller.signal,
  );
  // A test that does not look at the result still must not fail for it.
  result.catch(() => undefined);
  return {
    entries,
    result,
    get calls() {
      return calls;
    },
    get cursor() {
      return reached;
    },
    until(isSo: () => boolean): Promise<void> {
      return until(isSo, undefined, () => `${entries.length} entries came`);
    },
    stop(): Promise<"aborted" | "lost"> {
      controller.abort();
      return result;
    },
  };
}

/** Everything after a cursor, page by page. */
export async function readAll(store: Store, after: JournalCursor) {
  const entries: JournalEntry[] = [];
  let cursor = after;
  for (;;) {
    const page = await store.readJournal(cursor, pageLimit);
    if (page.outcome === "lost") throw new Error("lost");
    if (page.entries.length === 0) return { entries, cursor };
    entries.push(...page.entries);
    cursor = page.cursor;
  }
}

/** The cursor before the oldest entry. */
export async function beginningOf(store: Store): Promise<JournalCursor> {
  const { generation, first } = await store.journalEnds();
  return { generation, number: first - 1 };
}
