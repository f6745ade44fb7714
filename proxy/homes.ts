// Homes as this proxy claims them. A home moves by one script in the store that grants an epoch; here is
// when this proxy asks for it: only away from a replica that it cannot reach itself and, as far as the
// others have said lately, nobody else can. Requests of one user share one claim. While the store is away
// homes move in this process only, and the store's word counts again when it is back (design rule 8).

import { randomBytes } from "node:crypto";
import type { Memory } from "../core/cluster/memory.ts";
import type { Log } from "../core/service/log.ts";
import type { Metrics } from "../core/service/metrics.ts";
import type { ProxySight, Store } from "../core/store/store.ts";

export interface HomesOptions {
  readonly store: Store;
  readonly memory: Memory;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Meets the other proxies in the store now, so that what they see is no older than this call. */
  readonly meet: () => Promise<void>;
}

/** Users who changed a list or an item within the last seconds. */
const readersLimit = 1000;
const deletionsLimit = 10_000;

export class Homes {
  /** This process, in every epoch it is granted. */
  readonly owner = randomBytes(16).toString("hex");
  readonly #options: HomesOptions;
  readonly #claims = new Map<string, Promise<string>>();
  readonly #local = new Map<string, string>();
  /** Where a user's questions go for a moment, because what they changed is known there first. */
  readonly #readAt = new Map<string, { readonly replica: string; readonly untilMs: number }>();
  /** Items that were deleted a moment ago, by id: until when a server that still has them is not believed. */
  readonly #deleted = new Map<string, number>();
  #sights: readonly ProxySight[] = [];
  #looking: Promise<void> | undefined;

  constructor(options: HomesOptions) {
    this.#options = options;
    options.memory.onStoreAvailable((available) => {
      if (available) this.#local.clear();
    });
  }

  homeOf(userId: string): string | undefined {
    return this.#local.get(userId) ?? this.#options.memory.homes.get(userId)?.replica;
  }

  /** Until then, on the monotonic clock, what this user asks is asked at `replica` and not at home. */
  readFor(userId: string, replica: string, untilMs: number): void {
    if (this.#readAt.size >= readersLimit) this.#readAt.clear();
    this.#readAt.set(userId, { replica, untilMs });
  }

  /** Where this user reads for the moment; undefined: at home, as nearly always. */
  readsAt(userId: string, nowMs: () => number): string | undefined {
    if (this.#readAt.size === 0) return undefined;
    const known = this.#readAt.get(userId);
    if (known === undefined) return undefined;
    if (known.untilMs > nowMs()) return known.replica;
    this.#readAt.delete(userId);
    return undefined;
  }

  /** Until then, on the monotonic clock, the writer's word counts that there are no such items. */
  noteDeleted(itemIds: readonly string[], untilMs: number): void {
    for (const id of itemIds) {
      if (this.#deleted.size >= deletionsLimit) this.#deleted.clear();
      this.#deleted.set(id, untilMs);
    }
  }

  wasDeleted(itemId: string | undefined, nowMs: () => number): boolean {
    if (this.#deleted.size === 0 || itemId === undefined) return false;
    const untilMs = this.#deleted.get(itemId);
    if (untilMs === undefined) return false;
    if (untilMs > nowMs()) return true;
    this.#deleted.delete(itemId);
    return false;
  }

  /** What the other proxies last said they can reach. */
  setSights(sights: readonly ProxySight[]): void {
    this.#sights = sights.filter((sight) => sight.proxy !== this.owner);
  }

  /** Whether another proxy reaches it: then this one is cut off, and moves nobody (ProxyCutOff). */
  isReachedByOthers(replica: string): boolean {
    return this.#sights.some((sight) => sight.reachable[replica] === true);
  }

  /** Other doors that can be heard. */
  get otherDoors(): number {
    return this.#sights.length;
  }

  /** Whether another door says that it cannot reach it: nobody is moved there then. */
  isUnreachedByOthers(replica: string): boolean {
    return this.#sights.some((sight) => sight.reachable[replica] === false);
  }

  /** Hears what the others see now: asked for before a home is moved. Requests at one time share it. */
  lookAround(): Promise<void> {
    if (this.#options.store.kind === "embedded") return Promise.resolve();
    this.#looking ??= this.#options.meet().finally(() => {
      this.#looking = undefined;
    });
    return this.#looking;
  }

  /**
   * Claims the user's home for `replica` and answers where it is now, whoever won. Never rejects: without
   * the store the home moves in this process only.
   */
  claim(userId: string, replica: string, why: string): Promise<string> {
    const running = this.#claims.get(userId);
    if (running !== undefined) return running;
    const claim = this.#claim(userId, replica, why).finally(() => this.#claims.delete(userId));
    this.#claims.set(userId, claim);
    return claim;
  }

  /**
   * Moves a home that nobody lost: refused while it moved less than `minStayMs` ago, and while the store is
   * away. Answers whether it is at `replica` now. Requests that run there end where they are.
   */
  async move(userId: string, replica: string, why: string, minStayMs: number): Promise<boolean> {
    const { store, memory, log, metrics } = this.#options;
    const known = memory.homes.get(userId);
    if (known === undefined || !memory.storeAvailable || this.#claims.has(userId)) return false;
    if (known.replica === replica) return true;
    const moving = (async () => {
      try {
        const { granted, home } = await store.claimHome({
          userId,
          replica,
          expectedEpoch: known.epoch.number,
          owner: this.owner,
          minStayMs,
        });
        memory.apply({ type: "home", home });
        if (granted) {
          metrics.homesMoved.add();
          log.info(`home of user ${userId} moved from ${known.replica} to ${replica}: ${why}`);
        }
        return home.replica;
      } catch (error) {
        memory.noteStoreFailure(error);
        return known.replica;
      }
    })();
    this.#claims.set(userId, moving);
    try {
      return (await moving) === replica;
    } finally {
      this.#claims.delete(userId);
    }
  }

  async #claim(userId: string, replica: string, why: string): Promise<string> {
    const { store, memory, log, metrics } = this.#options;
    const known = memory.homes.get(userId);
    if (known?.replica === replica && !this.#local.has(userId)) return replica;
    if (memory.storeAvailable) {
      try {
        const { granted, home } = await store.claimHome({
          userId,
          replica,
          expectedEpoch: known?.epoch.number ?? 0,
          owner: this.owner,
          // A replica that nobody reaches is left however lately the user came; see isReachedByOthers.
          minStayMs: 0,
        });
        memory.apply({ type: "home", home });
        metrics.homes.set(memory.homes.size);
        if (granted && known !== undefined) {
          metrics.homesMoved.add();
          log.info(`home of user ${userId} moved from ${known.replica} to ${replica}: ${why}`);
        }
        return home.replica;
      } catch (error) {
        memory.noteStoreFailure(error);
      }
    }
    this.#local.set(userId, replica);
    log.info(
      `home of user ${userId} is ${replica} in this process until the store is back: ${why}`,
    );
    return replica;
  }
}
