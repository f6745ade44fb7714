// Links: this proxy's connections to each replica, and the attempts that run over them. When a replica is
// found to be gone, what waits for it is broken off here, so that the one retry loop can go on elsewhere.

import { isGone, type ReplicaConfig } from "../core/cluster/replica.ts";
import type { ClusterView } from "../core/cluster/view.ts";
import { type Exchange, WirePool } from "../core/jellyfin/wire.ts";

export interface LinkLimits {
  readonly connectLimitMs: number;
  readonly replicaConnectionsLimit: number;
  readonly replicaIdleLimitMs: number;
  readonly silenceLimitMs: number;
}

/** An exchange under way, as the sweep for silence sees it. */
export interface Running {
  /** Its place in the list, kept by the list. */
  index: number;
  readonly exchange: Exchange;
  readonly startedMs: number;
  /** May be done again elsewhere: it is broken off as soon as its replica is found frozen. */
  readonly repeatable: boolean;
  /** Broken off for good after this, when its replica is gone; ms of the monotonic clock. */
  readonly giveUpMs: number;
}

/** Small answers come in one read of this size. */
const messageReadBytes = 64 * 1024;
/**
 * Measured at four streams: 256 KiB costs 0.47 CPU-seconds per GB, 1 MiB 0.42, 4 MiB again 0.47. Only what a
 * read really fills is memory, and a paced player's reads are small.
 */
const bytesReadBytes = 1024 * 1024;
const waitingLimit = 4096;
const headLimitBytes = 64 * 1024;
const lookIntervalMs = 100;

/**
 * What runs over a link, in no order. An array whose last entry fills a gap, not a Set: the tables that a
 * Set outgrows point to the ones after them, so that one old table kept half of each second's garbage alive
 * (60 ms pauses at 10,000 requests a second were measured, and are gone).
 */
export class RunningList {
  readonly #list: Running[] = [];
  readonly #onFirst: () => void;

  /** `onFirst` is called when the list was empty and is no longer. */
  constructor(onFirst: () => void = () => undefined) {
    this.#onFirst = onFirst;
  }

  get isEmpty(): boolean {
    return this.#list.length === 0;
  }

  add(running: Running): void {
    if (this.#list.length === 0) this.#onFirst();
    running.index = this.#list.length;
    this.#list.push(running);
  }

  remove(running: Running): void {
    const last = this.#list.pop();
    if (last === undefined || last === running) return;
    last.index = running.index;
    this.#list[running.index] = last;
  }

  /** A copy: what is done to one entry may remove others. */
  all(): readonly Running[] {
    return [...this.#list];
  }
}

export class Link {
  readonly config: ReplicaConfig;
  readonly message: WirePool;
  readonly bytes: WirePool;
  readonly running: RunningList;

  constructor(
    config: ReplicaConfig,
    limits: LinkLimits,
    now: () => number,
    onBusy: () => void = () => undefined,
  ) {
    this.config = config;
    this.running = new RunningList(onBusy);
    const shared = {
      origin: config.origin,
      connectionsLimit: limits.replicaConnectionsLimit,
      waitingLimit,
      connectLimitMs: limits.connectLimitMs,
      idleLimitMs: limits.replicaIdleLimitMs,
      headLimitBytes,
      now,
    };
    this.message = new WirePool({ ...shared, readBufferBytes: messageReadBytes });
    this.bytes = new WirePool({ ...shared, readBufferBytes: bytesReadBytes });
  }

  close(): void {
    this.message.close();
    this.bytes.close();
  }
}

export class Links {
  readonly #links = new Map<string, Link>();
  readonly #limits: LinkLimits;
  readonly #now: () => number;
  readonly #suspect: (replica: string) => void;
  #view: ClusterView | undefined;
  /** Runs while anything does. */
  #lookTimer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(limits: LinkLimits, now: () => number, suspect: (replica: string) => void) {
    this.#limits = limits;
    this.#now = now;
    this.#suspect = suspect;
  }

  get(name: string): Link | undefined {
    return this.#links.get(name);
  }

  /** Follows the view: new replicas get a link, and what waits for one that is gone is broken off. */
  follow(view: ClusterView): void {
    this.#view = view;
    for (const [name, link] of this.#links) {
      if (view.replicas.get(name)?.config === link.config) continue;
      this.#links.delete(name);
      // What runs over it may finish; nothing new begins.
      link.message.dropIdle();
      link.bytes.dropIdle();
    }
    for (const [name, { config, state, reason }] of view.replicas) {
      let link = this.#links.get(name);
      if (link === undefined) {
        link = new Link(config, this.#limits, this.#now, this.#lookSoon);
        this.#links.set(name, link);
      }
      if (!isGone(state)) continue;
      link.message.dropIdle();
      link.bytes.dropIdle();
      for (const running of link.running.all()) {
        // A frozen server may thaw and answer; what cannot be repeated waits for that until its limit.
        if (state === "frozen" && !running.repeatable && !running.exchange.hasHead) continue;
        running.exchange.breakOff(`the replica is ${state}: ${reason}`);
      }
    }
  }

  /** Lets go of idle connections; called about once a second. */
  sweep(): void {
    for (const link of this.#links.values()) {
      link.message.sweep();
      link.bytes.sweep();
    }
  }

  /** While something runs, it is looked at several times a second; a door that nobody uses has no timer. */
  readonly #lookSoon = (): void => {
    if (this.#lookTimer !== undefined || this.#isClosed) return;
    this.#lookTimer = setTimeout(() => {
      this.#lookTimer = undefined;
      this.#look();
      for (const link of this.#links.values()) if (!link.running.isEmpty) this.#lookSoon();
    }, lookIntervalMs);
  };

  /** Silence starts probes, and what waits for a server that is gone has an end. */
  #look(): void {
    const nowMs = this.#now();
    for (const [name, link] of this.#links) {
      const state = this.#view?.replicas.get(name)?.state;
      const gone = state !== undefined && isGone(state);
      let isSilent = false;
      for (const running of link.running.all()) {
        if (running.exchange.hasHead) continue;
        if (nowMs - running.startedMs > this.#limits.silenceLimitMs) isSilent = true;
        if (gone && nowMs > running.giveUpMs) {
          running.exchange.breakOff(`the replica is ${state} and did not come back in time`);
        }
      }
      if (isSilent) this.#suspect(name);
    }
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#lookTimer);
    for (const link of this.#links.values()) link.close();
    this.#links.clear();
  }
}
