// The journal in Redis: one stream. Its verbs come with the next change; until then it is never there.

import type { JournalStore } from "./journal.ts";
import { StoreUnavailable } from "./store.ts";

export function redisJournal(): JournalStore {
  const missing = async (): Promise<never> => {
    throw new StoreUnavailable("the journal is not kept in Redis yet");
  };
  return {
    appendJournal: missing,
    readJournal: missing,
    journalEnds: missing,
    followJournal: missing,
  };
}
