// The handlers of the journal: who knows which kind of change. A new kind of state is a handler of its own,
// appended here; the follower asks the first one that names a kind, and skips kinds that nobody names.

import type { JournalHandler } from "./handler.ts";
import { createUserData } from "./user-data.ts";

/** One list for each sidecar, because handlers may remember things about their own server. */
export function journalHandlers(): readonly JournalHandler[] {
  return [createUserData()];
}
