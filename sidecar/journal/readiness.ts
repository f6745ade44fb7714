// Whether a replica has been told everything. A server that was away knows nothing of what happened meanwhile;
// until it does, doors send nobody there while another server can answer (proxy/place.ts), and they know it by
// a note that its sidecar writes when the server goes, so that it stands there before the server is back.
//
// A sidecar that was away while its server went on is another matter: those who live there see their own
// changes as ever, and only the others' are missing. They stay, and nobody new comes until it has caught up.
//
// It is used again after a limit in any case. That loses nothing: an effect that is still to come wins or loses
// by its number, whoever is there. To keep a server out for ever, because one change cannot be brought to it,
// would lose the redundancy that all this is for.

import { type Behind, behindNoteId, behindOf } from "../../core/cluster/journal-cursor.ts";
import { dropNote, putNote } from "../../core/cluster/notes.ts";
import type { HealthAnswer } from "../../core/jellyfin/client.ts";
import { restMs, sleep } from "../../core/service/loop.ts";
import type { Store } from "../../core/store/store.ts";
import { StoreUnavailable } from "../../core/store/store.ts";
import type { Follower } from "./follower.ts";
import type { JournalHands } from "./handler.ts";

export interface ReadinessOptions {
  readonly hands: Pick<JournalHands, "replica" | "memory" | "clock" | "log">;
  readonly store: Pick<Store, "putNote" | "dropNotes">;
  readonly follower: Pick<Follower, "caughtUp" | "lag" | "noteHealth" | "started">;
  /** A silence that is shorter is a busy server, in ms. */
  readonly silencePatienceMs: number;
  /** After so long at a server that is there it is used again, however far it is behind. */
  readonly behindLimitMs: number;
  readonly storeRetryMs: number;
}

export class JournalReadiness {
  readonly #options: ReadinessOptions;
  #state: HealthAnswer["state"] | undefined;
  #silentSinceMs = Number.NEGATIVE_INFINITY;
  #wanted: Behind | undefined;
  /** Ends the waiting for a server that went away again. */
  #catching: AbortController | undefined;
  #wake: (() => void) | undefined;

  constructor(options: ReadinessOptions) {
    this.#options = options;
  }

  get isBehind(): boolean {
    return this.#wanted !== undefined;
  }

  /** To be called after every look at the server. */
  noteHealth(state: HealthAnswer["state"]): void {
    const { follower, hands, silencePatienceMs } = this.#options;
    const nowMs = hands.clock.monotonicMs();
    if (state === "silent" && this.#state !== "silent") this.#silentSinceMs = nowMs;
    const wasHealthy = this.#state === "healthy";
    this.#state = state;
    follower.noteHealth(state === "healthy");
    if (state === "healthy") {
      if (!wasHealthy && this.#wanted !== undefined) this.#catchUp();
      return;
    }
    this.#catching?.abort();
    const isPatient = state === "silent" && nowMs - this.#silentSinceMs < silencePatienceMs;
    if (!isPatient && this.#wanted?.cause !== "server") this.#setBehind("server");
  }

  /** The server's process ended and began again between two looks. */
  noteStarted(): void {
    if (this.#wanted?.cause !== "server") this.#setBehind("server");
    if (this.#state === "healthy") this.#catchUp();
  }

  /** Keeps the note in the store as it should be, until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { hands, follower, storeRetryMs } = this.#options;
    await follower.started(signal);
    if (signal.aborted) return;
    // Left by the process before this one: its server may have been away.
    const left = behindOf(hands.memory.notes("replica"), hands.replica);
    if (left !== undefined && this.#wanted?.cause !== "server") this.#setBehind(left.cause);
    else if (follower.lag().entries > 0 && this.#wanted === undefined) this.#setBehind("sidecar");
    if (this.#wanted !== undefined && this.#state === "healthy") this.#catchUp();
    let written: string | undefined;
    while (!signal.aborted) {
      const wanted = this.#wanted;
      const value = wanted === undefined ? "" : JSON.stringify(wanted);
      const isThere = behindOf(hands.memory.notes("replica"), hands.replica) !== undefined;
      if (value !== (written ?? "") || (value === "") === isThere) {
        if (await this.#write(value)) written = value;
        else await sleep(storeRetryMs, signal);
        continue;
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, restMs(2000, performance.now()));
        const end = (): void => {
          clearTimeout(timer);
          signal.removeEventListener("abort", end);
          resolve();
        };
        this.#wake = end;
        signal.addEventListener("abort", end, { once: true });
      });
    }
    this.#catching?.abort();
  }

  #setBehind(cause: Behind["cause"]): void {
    const { hands } = this.#options;
    this.#wanted = { cause, sinceMs: Math.round(hands.memory.storeNowMs()) };
    this.#wake?.();
  }

  #catchUp(): void {
    const { follower, hands, behindLimitMs } = this.#options;
    this.#catching?.abort();
    const catching = new AbortController();
    this.#catching = catching;
    const limit = AbortSignal.any([catching.signal, AbortSignal.timeout(behindLimitMs)]);
    const beganMs = hands.clock.monotonicMs();
    void follower.caughtUp(limit).then(() => {
      if (catching.signal.aborted || this.#wanted === undefined) return;
      const { entries, oldestMs } = follower.lag();
      const tookMs = Math.round(hands.clock.monotonicMs() - beganMs);
      if (limit.aborted) {
        hands.log.warn(
          `server ${hands.replica} is used again although it is behind by ${entries} entries of the journal, ` +
            `the oldest ${Math.round(oldestMs / 1000)} s old: it had ${Math.round(behindLimitMs / 1000)} s to catch up`,
        );
      } else {
        hands.log.info(`server ${hands.replica} has caught up with the journal in ${tookMs} ms`);
      }
      this.#wanted = undefined;
      this.#wake?.();
    });
  }

  async #write(value: string): Promise<boolean> {
    const { store, hands } = this.#options;
    const { replica, memory } = hands;
    const place = { store, memory };
    const note = { kind: "replica", id: behindNoteId(replica), replica, value } as const;
    try {
      if (value === "") await dropNote(place, note);
      else await putNote(place, note, 0);
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      return false;
    }
    return true;
  }
}
