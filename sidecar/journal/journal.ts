// The sidecar's part in the journal, put together: the ledger, the follower with its handlers, whether the
// replica has caught up, and the feed of what changed at the server without a door. It promises the sidecar
// one thing to run and one to tell of its server's health.

import {
  journalCursorOf,
  journalNoteId,
  journalStartOf,
} from "../../core/cluster/journal-cursor.ts";
import { putNote } from "../../core/cluster/notes.ts";
import { isRedoneAwaited, redoneKeepMs, redoneNote } from "../../core/cluster/redone.ts";
import type { HealthAnswer, JellyfinClient } from "../../core/jellyfin/client.ts";
import { repeat } from "../../core/service/loop.ts";
import type { Metrics } from "../../core/service/metrics.ts";
import type { JournalCursor } from "../../core/store/journal.ts";
import { type Store, StoreUnavailable } from "../../core/store/store.ts";
import type { Leadership } from "../tasks/leader.ts";
import { type FeedLimits, feedLimits, runFeed } from "./feed.ts";
import {
  Follower,
  type FollowerEvent,
  type FollowerLimits,
  followerLimits,
  lossWord,
} from "./follower.ts";
import type { JournalHands } from "./handler.ts";
import { journalHandlers } from "./handlers.ts";
import { FileLedger, type Ledger, MemoryLedger } from "./ledger.ts";
import { JournalReadiness } from "./readiness.ts";
import { reconcile } from "./reconcile.ts";
import { runSuccession } from "./succession.ts";

/** What the sidecar tells of its journal; of one process several may tell. */
export interface JournalMetrics {
  readonly event: (event: FollowerEvent) => void;
  readonly behind: (replica: string, entries: number, oldestMs: number) => void;
  /** A list is not on this replica what it is on the writer's. */
  readonly difference: () => void;
}

export interface SidecarJournalParts {
  readonly hands: JournalHands;
  readonly store: Store;
  readonly peers: () => ReadonlyMap<string, JellyfinClient>;
  readonly isHealthy: () => boolean;
  readonly urgent: (identityKey: string) => void;
  /** Where the ledger lies; undefined: it is kept in memory. */
  readonly directory: string | undefined;
  readonly version: string;
  readonly metrics?: JournalMetrics | undefined;
  /** Told what the server says of its library, as it came. */
  readonly onLibraryChanged?: ((message: string) => void) | undefined;
  readonly silencePatienceMs: number;
  readonly lease: Leadership;
  readonly limits?: Partial<FollowerLimits>;
  readonly feed?: Partial<FeedLimits>;
}

/** What of a process's metrics the journal of its sidecars feeds. */
export function journalMetrics(
  metrics: Pick<
    Metrics,
    "journalEvents" | "journalBehindEntries" | "journalBehindSeconds" | "listDifferences"
  >,
): JournalMetrics {
  return {
    event: (event) => metrics.journalEvents[event].add(),
    difference: () => metrics.listDifferences.add(),
    behind(replica, entries, oldestMs) {
      metrics.journalBehindEntries.set(replica, entries);
      metrics.journalBehindSeconds.set(replica, oldestMs / 1000);
    },
  };
}

/** At a server that is there so long and is still behind, something is wrong with one change and not with all. */
const behindLimitMs = 60_000;
const storeRetryMs = 500;
const tellEveryMs = 1000;

export interface SidecarJournal {
  run(signal: AbortSignal): Promise<void>;
  noteHealth(state: HealthAnswer["state"]): void;
  noteStarted(): void;
  /** A sentence when the replica is behind, for who asks how it is. */
  sentence(): string | undefined;
}

export function createSidecarJournal(parts: SidecarJournalParts): SidecarJournal {
  const { hands, store, peers } = parts;
  const { replica, memory, log } = hands;
  const limits = { ...followerLimits, ...parts.limits };
  const ledger = openLedger(parts.directory, replica, log);

  const follower = new Follower({
    hands,
    handlers: journalHandlers(ledger, { onDifference: () => parts.metrics?.difference() }),
    ledger,
    limits,
    startFrom() {
      const notes = memory.notes("replica");
      const start = journalStartOf(notes, replica);
      if (start !== undefined && ledger.word("order") !== start.order) {
        ledger.restart(start.cursor);
        ledger.forgetKnown();
        ledger.setWord(lossWord, "");
        ledger.setWord("order", start.order);
        log.info(`the journal is followed at ${replica} from where its seed was taken`);
        return start.cursor;
      }
      return ledger.cursor() ?? journalCursorOf(notes, replica);
    },
    async isReachable(name) {
      if (name === replica) return true;
      const health = await peers().get(name)?.health();
      return health?.state === "healthy";
    },
    async isKeyRefused() {
      const answer = await hands.client.apiKeyWorks();
      return answer.outcome === "refused" && answer.status === 401;
    },
    urgent: parts.urgent,
    onEvent: (event) => parts.metrics?.event(event),
    async noteCursor(cursor) {
      const note = {
        kind: "replica",
        id: journalNoteId(replica),
        replica,
        value: JSON.stringify({
          ...beforeAside(cursor, ledger.oldestAside()),
          applied: cursor.number,
        }),
      } as const;
      try {
        await putNote({ store, memory }, note, 0);
      } catch (error) {
        // The next one comes in a few seconds; until then the last one holds.
        if (!(error instanceof StoreUnavailable)) throw error;
      }
    },
    async noteRedone({ id, kind }, redone) {
      if (!isRedoneAwaited(kind)) return;
      try {
        await putNote({ store, memory }, redoneNote(id, replica, redone), redoneKeepMs);
      } catch (error) {
        // Who waits for it is told nothing, as if nobody had done it: what was done stays done.
        if (!(error instanceof StoreUnavailable) && !(error instanceof RangeError)) throw error;
      }
    },
    reconcile: (cause, signal) => reconcile({ hands, peers, follower }, cause, signal),
  });

  const readiness = new JournalReadiness({
    hands,
    store,
    follower,
    silencePatienceMs: parts.silencePatienceMs,
    behindLimitMs,
    storeRetryMs,
  });

  async function tell(signal: AbortSignal): Promise<void> {
    await repeat(tellEveryMs, signal, async () => {
      const { entries, oldestMs } = follower.lag();
      parts.metrics?.behind(replica, entries, oldestMs);
    });
  }

  return {
    async run(signal) {
      try {
        await Promise.all([
          follower.run(signal),
          readiness.run(signal),
          tell(signal),
          runSuccession({ hands, store, follower, lease: parts.lease, storeRetryMs }, signal),
          runFeed(
            {
              ...{ hands, store, follower, version: parts.version, isHealthy: parts.isHealthy },
              onLibraryChanged: parts.onLibraryChanged,
              limits: { ...feedLimits, ...parts.feed },
            },
            signal,
          ),
        ]);
      } finally {
        ledger.close();
      }
    },
    noteHealth: (state) => readiness.noteHealth(state),
    noteStarted: () => readiness.noteStarted(),
    sentence() {
      if (!readiness.isBehind) return undefined;
      const { entries, oldestMs } = follower.lag();
      return `${replica} is behind by ${entries} entries of the journal, the oldest ${Math.round(oldestMs / 1000)} s old`;
    },
  };
}

/**
 * Where somebody has to begin who has the server's data and not this ledger (a copy, a sidecar that lost its folder):
 * before the first effect that still waits for its item.
 */
export function beforeAside(cursor: JournalCursor, oldest: number | undefined): JournalCursor {
  if (oldest === undefined || oldest > cursor.number) return cursor;
  // The cursor's mark is of its own entry and of no other.
  return { generation: cursor.generation, number: oldest - 1 };
}

/** A file that cannot be used is no reason not to start: what it would keep is learned again. */
function openLedger(
  directory: string | undefined,
  replica: string,
  log: { warn(message: string): void },
): Ledger {
  if (directory === undefined) return new MemoryLedger();
  try {
    return new FileLedger(directory, replica);
  } catch (error) {
    const why = error instanceof Error ? error.message : "no reason given";
    log.warn(`the sidecar of ${replica} cannot keep its ledger in ${directory}: ${why}`);
    return new MemoryLedger();
  }
}
