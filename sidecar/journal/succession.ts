// Succession: when leadership changes hands, the server of the new leader may not have yet what the last one was told of
// playlists and collections a moment before. What is changed there meanwhile would come out in another order. So whoever
// leads says in a note under which lease its server has all of it, and doors wait for that before they change a list
// (proxy/attendants/lists.ts), within their request's time.
//
// It promises that the note is never written before, and that a lease that ended meanwhile gets none.

import { listsNoteId } from "../../core/cluster/journal-cursor.ts";
import { putNote } from "../../core/cluster/notes.ts";
import { aborted, sleep } from "../../core/service/loop.ts";
import { type Store, StoreUnavailable } from "../../core/store/store.ts";
import type { Leadership } from "../tasks/leader.ts";
import type { Follower } from "./follower.ts";
import type { JournalHands } from "./handler.ts";
import { listsLane } from "./lists.ts";

export interface SuccessionOptions {
  readonly hands: Pick<JournalHands, "replica" | "memory">;
  readonly store: Pick<Store, "putNote" | "dropNotes">;
  readonly follower: Pick<Follower, "settled">;
  readonly lease: Leadership;
  readonly storeRetryMs: number;
}

/** Until `signal` aborts. */
export async function runSuccession(
  options: SuccessionOptions,
  signal: AbortSignal,
): Promise<void> {
  const { lease } = options;
  while (!signal.aborted) {
    const changed = new AbortController();
    const stopListening = lease.onChange(() => changed.abort());
    const stop = (): void => changed.abort();
    signal.addEventListener("abort", stop, { once: true });
    const epoch = lease.mayAct()?.epoch;
    if (epoch !== undefined) await succeed(options, epoch.number, changed.signal);
    await aborted(changed.signal);
    stopListening();
    signal.removeEventListener("abort", stop);
  }
}

/** `signal` aborts when leadership changes. */
async function succeed(
  { hands, store, follower, storeRetryMs }: SuccessionOptions,
  leaseNumber: number,
  signal: AbortSignal,
): Promise<void> {
  const { replica, memory } = hands;
  await follower.settled(listsLane, signal);
  const note = {
    ...({ kind: "replica", id: listsNoteId(replica), replica } as const),
    value: String(leaseNumber),
  };
  while (!signal.aborted) {
    try {
      await putNote({ store, memory }, note, 0);
      return;
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      await sleep(storeRetryMs, signal);
    }
  }
}
