// The handlers of the journal: who knows which kind of change. A new kind of state is a handler of its own,
// appended here; the follower asks the first one that names a kind, and skips kinds that nobody names.

import { createApiKeys } from "./api-keys.ts";
import { createDocuments } from "./documents.ts";
import type { JournalHandler } from "./handler.ts";
import type { Ledger } from "./ledger.ts";
import { createLibrary } from "./library.ts";
import { createLists } from "./lists.ts";
import { createPasswords } from "./passwords.ts";
import { createPlugins } from "./plugins.ts";
import { createUserData } from "./user-data.ts";
import { createUsers } from "./users.ts";

/** What handlers tell the metrics of. */
export interface HandlerEvents {
  /** A playlist or collection is not on this replica what it is on the writer's. */
  readonly onDifference?: () => void;
}

/** One list for each sidecar, because handlers may remember things about their own server. */
export function journalHandlers(
  ledger: Ledger,
  events: HandlerEvents = {},
): readonly JournalHandler[] {
  return [
    createUserData(),
    createLists({ ...events, ledger }),
    createLibrary(),
    createDocuments(),
    createPlugins(),
    createUsers(),
    createPasswords(),
    createApiKeys(),
  ];
}
