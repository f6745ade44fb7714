// What the sidecar knows before it decides: its server's health, the identities that lack a token here, the
// logouts it owes, and its own notes about tries that failed. The notes are in memory only: a sidecar that
// starts again forgets them and finds out the rest from the store and the server (decide.ts says why that
// is safe).
//
// It promises that an observation costs no call and no walk over all identities: the lists are kept up to
// date as the memory's feed tells of changes.

import type { Identity } from "../core/cluster/identity.ts";
import type { Memory } from "../core/cluster/memory.ts";
import type { HealthAnswer } from "../core/jellyfin/client.ts";
import type { Revocation } from "../core/store/store.ts";
import { type Observation, quickConnectOff, type Trial, type Unrecorded } from "./decide.ts";

/** How a server looks from its sidecar, as last seen. */
export interface ServerSight {
  readonly health: HealthAnswer["state"] | "unknown";
  readonly reason: string;
  readonly serverId: string;
  readonly serverVersion: string;
  readonly startupWizardCompleted: boolean | undefined;
  readonly quickConnect: boolean | undefined;
  readonly rival: string | undefined;
}

export const unseen: ServerSight = {
  health: "unknown",
  reason: "nothing has been heard from it yet",
  serverId: "",
  serverVersion: "",
  startupWizardCompleted: undefined,
  quickConnect: undefined,
  rival: undefined,
};

export interface ObserverOptions {
  readonly replica: string;
  readonly memory: Memory;
  readonly otherReplicas: () => number;
  readonly monotonicMs: () => number;
  /** Hints of requests that wait are forgotten after this, in ms. */
  readonly urgentKeepMs: number;
  /** Hints and suspects beyond this are dropped: they are only hints. */
  readonly hintsLimit: number;
}

export class Observer {
  sight: ServerSight = unseen;
  sweepDue = false;
  readonly ghosts = new Map<string, Identity>();
  readonly unrecorded = new Map<string, Unrecorded>();
  readonly suspects = new Map<string, Identity>();
  readonly trials = new Map<string, Trial>();
  readonly running = new Set<string>();
  readonly busyUsers = new Set<string>();

  readonly #options: ObserverOptions;
  readonly #lacking = new Map<string, Identity>();
  readonly #owed = new Map<string, Revocation>();
  readonly #endedGenerations = new Map<string, number>();
  readonly #urgentUntilMs = new Map<string, number>();
  /** The store's clock minus ours. */
  #storeOffsetMs: number | undefined;
  #storeLoaded = false;

  constructor(options: ObserverOptions) {
    this.#options = options;
  }

  /** Follows the memory; `changed` is called when there may be something new to do. */
  follow(changed: () => void): () => void {
    const { memory } = this.#options;
    const stops = [
      memory.onIdentity((identity) => {
        if (this.#noteIdentity(identity)) changed();
      }),
      memory.onRevocation((revocation) => {
        this.#noteRevocation(revocation);
        changed();
      }),
      memory.onNote(({ kind, id, value }) => {
        const here = `${this.#options.replica}:`;
        if (kind !== "userAlias" || value === "" || !id.startsWith(here)) return;
        this.#forgetMints(id.slice(here.length));
        changed();
      }),
      memory.onStoreAvailable(() => {
        // The store may have been read again as a whole, and what it no longer has is not told one by one.
        this.#readAll();
        changed();
      }),
    ];
    void memory.loaded.then(() => {
      this.#storeLoaded = true;
      this.#readAll();
      changed();
    });
    this.#readAll();
    return () => {
      for (const stop of stops) stop();
    };
  }

  noteStoreTime(storeMs: number): void {
    this.#storeOffsetMs = storeMs - this.#options.monotonicMs();
  }

  /** A request waits for this identity's token here. */
  noteUrgent(key: string): void {
    const { hintsLimit, monotonicMs, urgentKeepMs } = this.#options;
    if (this.#urgentUntilMs.size >= hintsLimit) return;
    this.#urgentUntilMs.set(key, monotonicMs() + urgentKeepMs);
  }

  /** This server may have forgotten the identity's token: it refused it, or it was away. */
  noteSuspect(key: string): void {
    const identity = this.#options.memory.identities.get(key);
    if (identity?.kind !== "user" || identity.tokens[this.#options.replica] === undefined) return;
    if (this.suspects.size < this.#options.hintsLimit) this.suspects.set(key, identity);
  }

  /** What is remembered for tries that failed only because the server was away is forgotten. */
  noteReturn(): void {
    this.sweepDue = true;
    for (const [name, trial] of this.trials) if (trial.serverWasAway) this.trials.delete(name);
  }

  /** QuickConnect was switched on again: who waited for it waits no longer. */
  noteQuickConnect(enabled: boolean): void {
    if (this.sight.quickConnect === enabled) return;
    this.sight = { ...this.sight, quickConnect: enabled };
    const problem = quickConnectOff(this.#options.replica);
    if (!enabled) return;
    for (const [name, trial] of this.trials) {
      if (trial.problem === problem) this.trials.delete(name);
    }
  }

  /** A user who was not at this server is there now: what failed for that is tried again at once. */
  #forgetMints(userId: string): void {
    for (const identity of this.#lacking.values()) {
      if (identity.userId === userId) this.trials.delete(`mint ${identity.key}`);
    }
  }

  /** A sentence for each identity that gets no token here until somebody acts, by identity key. */
  problems(): ReadonlyMap<string, string> {
    const problems = new Map<string, string>();
    for (const [name, { problem }] of this.trials) {
      if (problem !== undefined && name.startsWith("mint ")) problems.set(name.slice(5), problem);
    }
    return problems;
  }

  observation(): Observation {
    const { memory, replica, otherReplicas, monotonicMs } = this.#options;
    const nowMs = monotonicMs();
    for (const [key, untilMs] of this.#urgentUntilMs) {
      if (untilMs <= nowMs || !this.#lacking.has(key)) this.#urgentUntilMs.delete(key);
    }
    return {
      nowMs,
      storeNowMs: this.#storeOffsetMs === undefined ? undefined : nowMs + this.#storeOffsetMs,
      replica,
      otherReplicas: otherReplicas(),
      health: this.sight.health,
      healthReason: this.sight.reason,
      startupWizardCompleted: this.sight.startupWizardCompleted,
      quickConnect: this.sight.quickConnect,
      storeLoaded: this.#storeLoaded,
      storeAvailable: memory.storeAvailable,
      rival: this.sight.rival,
      lacking: this.#lacking,
      owed: this.#owed,
      endedGenerations: this.#endedGenerations,
      ghosts: this.ghosts,
      unrecorded: this.unrecorded,
      suspects: this.suspects,
      sweepDue: this.sweepDue,
      trials: this.trials,
      running: this.running,
      busyUsers: this.busyUsers,
      urgent: new Set(this.#urgentUntilMs.keys()),
    };
  }

  #readAll(): void {
    const { memory } = this.#options;
    this.#lacking.clear();
    this.#owed.clear();
    this.#endedGenerations.clear();
    for (const revocation of memory.revocations.values()) this.#noteRevocation(revocation);
    for (const identity of memory.identities.values()) this.#noteIdentity(identity);
  }

  /** True when the identity lacks a token here, and so something may be to be done. */
  #noteIdentity(identity: Identity): boolean {
    const { key, generation } = identity;
    const { replica } = this.#options;
    const hasTokenHere = identity.tokens[replica] !== undefined;
    const isLacking =
      identity.kind === "user" && !hasTokenHere && Object.keys(identity.tokens).length > 0;
    if (isLacking) this.#lacking.set(key, identity);
    else this.#lacking.delete(key);
    const trial = this.trials.get(`mint ${key}`);
    if (hasTokenHere || (trial !== undefined && trial.generation !== generation)) {
      this.trials.delete(`mint ${key}`);
    }
    const ghost = this.ghosts.get(key);
    // The next generation's mint, and this one's logout, end the session at the server.
    if (ghost !== undefined && ghost.generation !== generation) this.ghosts.delete(key);
    const suspect = this.suspects.get(key);
    if (suspect !== undefined && (suspect.generation !== generation || !hasTokenHere)) {
      this.suspects.delete(key);
    }
    return isLacking;
  }

  #noteRevocation(revocation: Revocation): void {
    const { id, identityKey, generation, pending } = revocation;
    if (pending.includes(this.#options.replica)) this.#owed.set(id, revocation);
    else {
      this.#owed.delete(id);
      this.trials.delete(`settle ${id}`);
    }
    const known = this.#endedGenerations.get(identityKey) ?? 0;
    if (pending.length > 0) this.#endedGenerations.set(identityKey, Math.max(known, generation));
    else if (known <= generation) this.#endedGenerations.delete(identityKey);
  }
}
