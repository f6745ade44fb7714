// The keeper of the lease: it makes this replica's sidecar the leader, keeps it so, and knows at every moment
// whether it still is. What it decides is in core/cluster/lease.ts; who grants is the store.
//
// It promises that leadership ends before the lease does: `mayAct` looks at this process's own clocks each
// time, so a process that slept past its lease learns it at its next look, whatever it believed before. Whoever
// does something that only the leader may do asks `mayAct` immediately before each effect and sends the epoch
// along, because an effect that was sent a moment too early can be stopped only by the gate that receives it.
//
// A new holder does not lead at once: it first asks every sidecar that it can reach which epoch that one has
// seen, and takes a number above it. Dying between any two of these steps is safe: the lock ends by itself,
// and a number that was granted and never used is merely skipped.

import {
  isInTerm,
  isVacant,
  type LeaseStep,
  type Moment,
  nextAskAtMs,
  nextLeaseStep,
  supersedes,
  type Term,
  termOf,
} from "../core/cluster/lease.ts";
import type { Memory } from "../core/cluster/memory.ts";
import type { Clock } from "../core/service/clock.ts";
import { rest, sleep } from "../core/service/loop.ts";
import {
  type Epoch,
  epochLimit,
  type Lease,
  type LeaseAnswer,
  LeaseUnavailable,
  type Store,
  StoreUnavailable,
} from "../core/store/store.ts";

/** What a keeper needs of a process's memory. */
export type LeaseMemory = Pick<
  Memory,
  "apply" | "lease" | "onLease" | "onStoreAvailable" | "noteStoreSuccess" | "noteStoreFailure"
>;

/** As `sleep` (core/service/loop.ts): until then, or until either signal aborts. */
type Wait = (ms: number, signal: AbortSignal, wake?: AbortSignal) => Promise<void>;

export interface LeaseKeeperParts {
  readonly replica: string;
  /** Where this sidecar's gate listens; empty in the single process of `up`. */
  readonly gateUrl: string;
  /** Names this process and no other, ever: the pod's uid, where there is one, and a boot nonce. */
  readonly owner: string;
  readonly store: Pick<Store, "holdLease" | "releaseLease">;
  readonly memory: LeaseMemory;
  readonly clock: Clock;
  /** How long the lease holds, in ms. */
  readonly leaseLimitMs: number;
  /** Why this replica must not lead now (its server is not ready, it drains), or undefined when it may. */
  readonly unfit: () => string | undefined;
  /**
   * The highest epoch that any other sidecar has seen which can be reached; undefined when none has seen any.
   * Never rejects. Whoever has not answered after a twentieth of the lease is not waited for.
   */
  readonly collectEpoch: () => Promise<Epoch | undefined>;
  readonly log: { info(message: string): void; warn(message: string): void };
  /** Waits; handed in so that a simulation need not. */
  readonly wait?: Wait;
}

/** A sidecar on the same network answers within this time, in ms, unless something is wrong with it. */
const collectShortestMs = 100;

export class LeaseKeeper {
  readonly #parts: LeaseKeeperParts;
  readonly #listeners = new Set<(epoch: Epoch | undefined) => void>();
  readonly #wait: Wait;
  /** Until the next look, which need not be punctual: terms and renewals are told by the clock. */
  readonly #rest: Wait;
  #term: Term | undefined;
  /** The store may count this keeper as the holder. */
  #mayHold = false;
  #askAtMs = Number.NEGATIVE_INFINITY;
  /** The highest epoch that was ever heard of here, by whatever way. */
  #highest: Epoch | undefined;
  /** The highest number that was ever heard of as somebody else's. A grant is always above it. */
  #highestOfOthers = 0;
  /** What was told of last: the epoch under which this replica leads. */
  #told: Epoch | undefined;
  #wake = new AbortController();

  constructor(parts: LeaseKeeperParts) {
    this.#parts = parts;
    this.#wait = parts.wait ?? sleep;
    this.#rest = parts.wait ?? rest;
  }

  /**
   * The epoch under which this replica leads, or undefined when it does not (any longer). To be asked
   * immediately before every effect.
   */
  mayAct(): { readonly epoch: Epoch } | undefined {
    const term = this.#term;
    return term !== undefined && isInTerm(term, this.#moment()) ? { epoch: term.epoch } : undefined;
  }

  /** Told when leadership begins (with its epoch) and ends (undefined). Answers how to stop listening. */
  onChange(listener: (epoch: Epoch | undefined) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  /** The highest epoch that was heard of here, for whoever becomes leader and asks. */
  get highestSeen(): Epoch | undefined {
    return this.#highest;
  }

  /**
   * Somebody carried this epoch, such as a door at the gate. If it is not ours and as high or higher, this
   * replica leads no longer. A number that no epoch can have is ignored.
   */
  noteEpoch(epoch: Epoch): void {
    const { number, owner } = epoch;
    if (!Number.isSafeInteger(number) || number < 0 || number >= epochLimit) return;
    if (this.#highest === undefined || number > this.#highest.number) this.#highest = epoch;
    if (owner === this.#parts.owner) return;
    this.#highestOfOthers = Math.max(this.#highestOfOthers, number);
    const term = this.#term;
    if (term !== undefined && supersedes(epoch, term.epoch)) {
      this.#end(`an epoch ${number} of somebody else is known`);
      this.#askAtMs = Math.min(this.#askAtMs, this.#moment().nowMs);
      this.look();
    }
  }

  /** Something changed that decides whether this replica may lead: looks now. */
  look(): void {
    this.#wake.abort();
  }

  /** Competes for the lease until `signal` aborts, then gives it back. */
  async run(signal: AbortSignal): Promise<void> {
    const { memory } = this.#parts;
    const unsubscribe = [
      memory.onLease((lease) => this.#hear(lease)),
      memory.onStoreAvailable((available) => {
        if (!available) return;
        this.#askAtMs = Math.min(this.#askAtMs, this.#moment().nowMs);
        this.look();
      }),
    ];
    if (memory.lease !== undefined) this.#hear(memory.lease);
    try {
      while (!signal.aborted) {
        this.#wake = new AbortController();
        const step = this.#step();
        if (step.step === "wait") {
          await this.#rest(this.#untilNextLook(step.forMs), signal, this.#wake.signal);
        } else if (step.step === "hold") await this.#hold();
        else await this.#release(step.reason);
      }
    } finally {
      for (const end of unsubscribe) end();
      if (this.#mayHold) await this.#release("it stops");
    }
  }

  #step(): LeaseStep {
    this.#endIfOver();
    return nextLeaseStep({
      nowMs: this.#moment().nowMs,
      unfit: this.#parts.unfit(),
      mayHold: this.#mayHold,
      askAtMs: this.#askAtMs,
    });
  }

  /** A term's end is told when it comes, not at the next renewal. */
  #untilNextLook(forMs: number): number {
    if (this.#term === undefined) return forMs;
    return Math.max(0, Math.min(forMs, this.#term.untilMs - this.#moment().nowMs));
  }

  async #hold(): Promise<void> {
    const asked = this.#moment();
    this.#mayHold = true;
    const answer = await this.#ask();
    const { nowMs } = this.#moment();
    this.#askAtMs = nextAskAtMs(answer, asked.nowMs, nowMs, this.#parts.leaseLimitMs);
    if (answer === undefined) return;
    if (!answer.held) {
      this.#mayHold = false;
      this.#end(
        answer.lease === undefined || isVacant(answer.lease)
          ? "the lease was lost"
          : `${answer.lease.replica} leads`,
      );
      if (answer.lease !== undefined) this.#hear(answer.lease);
      return;
    }
    const isContinued = this.mayAct()?.epoch.number === answer.lease.epoch.number;
    if (isContinued) this.#begin(answer.lease, asked);
    else await this.#takeOver(answer.lease, asked);
  }

  /** Between the grant and the first effect: nobody who can be reached has seen an epoch as high. */
  async #takeOver(granted: Lease, asked: Moment): Promise<void> {
    this.#end("another epoch begins");
    const { leaseLimitMs } = this.#parts;
    const seen = await this.#collect(Math.max(Math.ceil(leaseLimitMs / 20), collectShortestMs));
    if (seen !== undefined) this.noteEpoch(seen);
    if (this.#floor() < granted.epoch.number) {
      this.#begin(granted, asked);
      return;
    }
    const askedAgain = this.#moment();
    const answer = await this.#ask();
    if (answer?.held === true) this.#begin(answer.lease, askedAgain);
    else this.#askAtMs = this.#moment().nowMs + Math.ceil(leaseLimitMs / 12);
  }

  /** A grant is above every number of somebody else's, and no lower than the last of one's own. */
  #floor(): number {
    const own = this.#highest?.owner === this.#parts.owner ? this.#highest.number - 1 : 0;
    return Math.max(this.#highestOfOthers, own);
  }

  async #ask(): Promise<LeaseAnswer | undefined> {
    const { store, memory, replica, gateUrl, owner, leaseLimitMs } = this.#parts;
    try {
      const answer = await store.holdLease({
        replica,
        gateUrl,
        owner,
        ttlMs: leaseLimitMs,
        above: this.#floor(),
      });
      memory.noteStoreSuccess();
      if (answer.held) memory.apply({ type: "lease", lease: answer.lease });
      return answer;
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      // A lock that spans several servers may be out of reach while the store is there.
      if (!(error instanceof LeaseUnavailable)) memory.noteStoreFailure(error);
      return undefined;
    }
  }

  /** What others have seen, within the limit; whoever does not answer by then cannot be waited for. */
  async #collect(limitMs: number): Promise<Epoch | undefined> {
    const patience = new AbortController();
    const late = this.#wait(limitMs, patience.signal).then(() => undefined);
    try {
      return await Promise.race([this.#parts.collectEpoch(), late]);
    } finally {
      patience.abort();
    }
  }

  #begin(lease: Lease, asked: Moment): void {
    const { leaseLimitMs, replica, log } = this.#parts;
    const term = termOf(lease.epoch, asked, leaseLimitMs);
    if (!isInTerm(term, this.#moment())) return;
    this.#term = term;
    if (this.#highest === undefined || lease.epoch.number > this.#highest.number) {
      this.#highest = lease.epoch;
    }
    if (this.#told?.number === lease.epoch.number) return;
    log.info(`${replica} leads the cluster under epoch ${lease.epoch.number}`);
    this.#tell(lease.epoch);
  }

  #endIfOver(): void {
    if (this.#term !== undefined && this.mayAct() === undefined) {
      this.#end("the lease could not be renewed in time");
    }
  }

  #end(reason: string): void {
    const term = this.#term;
    this.#term = undefined;
    if (term === undefined) return;
    const { replica, log } = this.#parts;
    log.warn(`${replica} no longer leads under epoch ${term.epoch.number}: ${reason}`);
    this.#tell(undefined);
  }

  #tell(epoch: Epoch | undefined): void {
    this.#told = epoch;
    for (const listener of this.#listeners) listener(epoch);
  }

  /** Leadership ends before the lease is given back, so that the next leader never meets this one. */
  async #release(reason: string): Promise<void> {
    const { store, owner, memory } = this.#parts;
    this.#end(reason);
    this.#mayHold = false;
    this.#askAtMs = this.#moment().nowMs;
    try {
      await store.releaseLease(owner);
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      // It ends by itself.
      if (!(error instanceof LeaseUnavailable)) memory.noteStoreFailure(error);
    }
  }

  #hear(lease: Lease): void {
    this.noteEpoch(lease.epoch);
    // Given back by somebody: the first to ask has it.
    if (!isVacant(lease) || lease.epoch.owner === this.#parts.owner) return;
    this.#askAtMs = Math.min(this.#askAtMs, this.#moment().nowMs);
    this.look();
  }

  #moment(): Moment {
    const { clock } = this.#parts;
    return { nowMs: clock.monotonicMs(), wallMs: clock.wallMs() };
  }
}
