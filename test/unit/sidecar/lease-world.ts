// A cluster of keepers of the lease in simulated time: real keepers, a real store and real memories, and
// between them a network and processes that fail in every way that matters here. A process can crash, be
// frozen and thaw, and start again as another; a call to the store can be lost, answered too late, or done
// after its caller gave up; the store can lose everything, or its last writes. All of it comes from one seed,
// so that a failure can be run again.

import { Memory } from "../../../core/cluster/memory.ts";
import { openEmbeddedStore } from "../../../core/store/embedded.ts";
import {
  type Epoch,
  type LeaseAnswer,
  type LeaseClaim,
  type Store,
  StoreUnavailable,
} from "../../../core/store/store.ts";
import { LeaseKeeper } from "../../../sidecar/lease.ts";

export const leaseLimitMs = 10_000;
const callLimitMs = 1000;

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** Something that was done by a process which believed itself the leader. */
export interface Act {
  readonly atMs: number;
  readonly owner: string;
  readonly number: number;
}

interface Task {
  readonly atMs: number;
  readonly order: number;
  readonly process: Process | undefined;
  readonly run: () => void;
}

/** How likely each fault is, from 0 to 1, for each call. */
export interface NetworkFaults {
  readonly lostRequest: number;
  readonly lostReply: number;
  /** The request arrives after its caller gave up. */
  readonly lateRequest: number;
}

export const noFaults: NetworkFaults = { lostRequest: 0, lostReply: 0, lateRequest: 0 };

export class Process {
  readonly name: string;
  readonly owner: string;
  readonly keeper: LeaseKeeper;
  readonly memory: Memory;
  readonly stop = new AbortController();
  frozen = false;
  crashed = false;
  unfit: string | undefined;

  constructor(world: World, name: string, owner: string) {
    this.name = name;
    this.owner = owner;
    this.memory = new Memory({
      store: world.store,
      seal: {} as never,
      log: { info() {}, warn() {} },
      tokensRemembered: 1,
      storeRetryMs: 1,
      wallMs: () => world.nowMs,
    });
    this.keeper = new LeaseKeeper({
      replica: name,
      gateUrl: "",
      owner,
      store: {
        holdLease: (claim) => world.holdLease(this, claim),
        releaseLease: (who) => world.releaseLease(this, who),
      },
      memory: this.memory,
      clock: { monotonicMs: () => world.nowMs, wallMs: () => world.nowMs },
      leaseLimitMs,
      unfit: () => this.unfit,
      collectEpoch: () => world.collect(this),
      log: { info() {}, warn() {} },
      wait: (ms, signal, wake) => world.wait(this, ms, signal, wake),
    });
  }
}

export class World {
  readonly random: () => number;
  nowMs = 1_700_000_000_000;
  store: Store;
  faults: NetworkFaults = noFaults;
  /** Pairs of a process and a number at which it led, in order. */
  readonly terms: { readonly owner: string; readonly number: number }[] = [];
  readonly acts: Act[] = [];
  readonly problems: string[] = [];
  processes: Process[] = [];
  /** How many things happened; a fault can be ordered for a moment by this. */
  events = 0;
  onEvent: (() => void) | undefined;
  /** Since then two may lead at once, each under its own number: the store forgot the one before. */
  #forgotAtMs = Number.NEGATIVE_INFINITY;
  #tasks: Task[] = [];
  #order = 0;
  #started = 0;
  readonly #ownerOf = new Map<number, string>();

  constructor(seed: number) {
    this.random = randomFrom(seed);
    this.store = this.#emptyStore();
  }

  between(leastMs: number, mostMs: number): number {
    return leastMs + Math.floor(this.random() * (mostMs - leastMs + 1));
  }

  start(name: string): Process {
    this.#started += 1;
    const process = new Process(this, name, `${name}-${this.#started}`);
    this.processes = [...this.processes.filter((other) => other.name !== name), process];
    const { keeper, stop } = process;
    keeper.onChange((epoch) => {
      if (epoch !== undefined) this.terms.push({ owner: process.owner, number: epoch.number });
    });
    // What the feed brings a starting process first: the lease as it is.
    this.#later(process, this.between(1, 50), () => void this.#tellLease(process));
    this.#later(process, this.between(1, 200), () => void keeper.run(stop.signal));
    return process;
  }

  /** Nothing of it ever runs again, and what it was waiting for is never heard of. */
  crash(process: Process): void {
    process.crashed = true;
    this.#tasks = this.#tasks.filter((task) => task.process !== process);
  }

  /** All that it would do is done when it thaws. */
  freeze(process: Process, forMs: number): void {
    process.frozen = true;
    this.#later(undefined, forMs, () => {
      process.frozen = false;
      // The first that a thawed process does may be to go on where it was: acting, if it thinks it may.
      if (!process.crashed) this.act(process);
    });
  }

  /** Redis was emptied, or a failover lost its last writes: the last known epoch is this many lower. */
  async loseData(writes: number): Promise<void> {
    const last = (await this.store.load()).lease?.epoch.number ?? 0;
    this.store = this.#emptyStore();
    const left = last - writes;
    if (left > 0) {
      // As an older copy of the data would be: this number was granted, and nobody holds the lock.
      const claim = { replica: "old", gateUrl: "", owner: "old", ttlMs: 1, above: left - 1 };
      await this.store.holdLease(claim);
      await this.store.releaseLease("old");
    }
    this.#forgotAtMs = this.nowMs;
  }

  /** A process does what only the leader may, if it believes that it is. */
  act(process: Process): void {
    const leave = process.keeper.mayAct();
    if (leave === undefined) return;
    const { number, owner } = leave.epoch;
    const act = { atMs: this.nowMs, owner: process.owner, number };
    this.acts.push(act);
    if (owner !== process.owner) this.problems.push(`${process.owner} acts as ${owner}`);
    const first = this.#ownerOf.get(number) ?? process.owner;
    this.#ownerOf.set(number, first);
    if (first !== process.owner) {
      this.problems.push(`${first} and ${process.owner} both acted under ${number}`);
    }
    for (const other of this.processes) {
      if (other === process || other.crashed) continue;
      const also = other.keeper.mayAct();
      if (also === undefined) continue;
      if (also.epoch.number === number) {
        this.problems.push(`${process.owner} and ${other.owner} lead under ${number} at once`);
      }
      if (this.nowMs - this.#forgotAtMs > leaseLimitMs) {
        this.problems.push(`${process.owner} and ${other.owner} lead at once`);
      }
    }
  }

  /** Lets so much time go by; everybody tries to act all the while. */
  async run(forMs: number): Promise<void> {
    const endMs = this.nowMs + forMs;
    while (this.problems.length === 0) {
      const next = this.#takeNext(endMs);
      if (next === undefined) break;
      this.nowMs = Math.max(this.nowMs, next.atMs);
      next.run();
      this.events += 1;
      this.onEvent?.();
      // Everything that follows from it without time going by.
      await new Promise((resolve) => setImmediate(resolve));
      for (const process of this.processes) {
        if (!process.frozen && !process.crashed) this.act(process);
      }
    }
    this.nowMs = Math.max(this.nowMs, endMs);
  }

  async holdLease(process: Process, claim: LeaseClaim): Promise<LeaseAnswer> {
    return this.call(process, async () => {
      const before = (await this.store.load()).lease?.epoch.number;
      const answer = await this.store.holdLease(claim);
      if (answer.held && answer.lease.epoch.number !== before) this.#tellAll();
      return answer;
    });
  }

  async releaseLease(process: Process, owner: string): Promise<void> {
    await this.call(process, async () => {
      await this.store.releaseLease(owner);
      this.#tellAll();
    });
  }

  /** A call over the network: the request takes its time, then the deed is done, then the answer comes back. */
  call<Answer>(process: Process, deed: () => Promise<Answer>): Promise<Answer> {
    const { lostRequest, lostReply, lateRequest } = this.faults;
    const fate = this.random();
    return new Promise((resolve, reject) => {
      const givenUp = () => reject(new StoreUnavailable("no answer within the limit"));
      const away = this.between(1, 40);
      const back = this.between(1, 40);
      if (fate < lostRequest) {
        this.#later(process, callLimitMs, givenUp);
      } else if (fate < lostRequest + lostReply) {
        this.#later(undefined, away, () => void deed());
        this.#later(process, callLimitMs, givenUp);
      } else if (fate < lostRequest + lostReply + lateRequest) {
        this.#later(process, callLimitMs, givenUp);
        this.#later(undefined, this.between(callLimitMs, leaseLimitMs), () => void deed());
      } else {
        this.#later(undefined, away, () => {
          void deed().then((answer) => this.#later(process, back, () => resolve(answer)));
        });
      }
    });
  }

  /** The highest epoch that the others answer who run and are not frozen. */
  collect(asker: Process): Promise<Epoch | undefined> {
    return new Promise((resolve) => {
      this.#later(asker, this.between(1, 80), () => {
        const seen = this.processes
          .filter((other) => other !== asker && !other.frozen && !other.crashed)
          .flatMap(({ keeper }) => keeper.highestSeen ?? []);
        resolve(seen.sort((left, right) => right.number - left.number)[0]);
      });
    });
  }

  wait(process: Process, ms: number, ...signals: (AbortSignal | undefined)[]): Promise<void> {
    if (signals.some((signal) => signal?.aborted === true)) return Promise.resolve();
    return new Promise((resolve) => {
      for (const signal of signals)
        signal?.addEventListener("abort", () => resolve(), { once: true });
      this.#later(process, Math.ceil(ms), () => resolve());
    });
  }

  #tellAll(): void {
    for (const process of this.processes) {
      this.#later(process, this.between(1, 50), () => void this.#tellLease(process));
    }
  }

  async #tellLease(process: Process): Promise<void> {
    const { lease } = await this.store.load();
    if (lease !== undefined) process.memory.apply({ type: "lease", lease });
  }

  #emptyStore(): Store {
    return openEmbeddedStore({
      limits: { changesKept: 100, revokedKeepMs: 60_000, callLimitMs },
      now: () => this.nowMs,
      monotonicMs: () => this.nowMs,
    });
  }

  #later(process: Process | undefined, inMs: number, run: () => void): void {
    if (process?.crashed === true) return;
    this.#order += 1;
    this.#tasks.push({ atMs: this.nowMs + inMs, order: this.#order, process, run });
  }

  #takeNext(endMs: number): Task | undefined {
    let next: Task | undefined;
    for (const task of this.#tasks) {
      if (task.process?.frozen === true) continue;
      const dueMs = task.atMs;
      if (dueMs > endMs) continue;
      if (
        next === undefined ||
        dueMs < next.atMs ||
        (dueMs === next.atMs && task.order < next.order)
      )
        next = task;
    }
    if (next !== undefined) {
      const taken = next;
      this.#tasks = this.#tasks.filter((task) => task !== taken);
    }
    return next;
  }
}
