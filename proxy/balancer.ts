// The balancer: moves homes that nobody lost. Two reasons: a replica drains (its people must go before it is
// stopped), or one came back (people who do nothing now go to it, balance.ts). It also knows who is watching
// right now, which it sees as an attendant of the media routes.
//
// A home that moves disturbs nothing by itself: requests under way end where they are, a socket follows
// behind its client's back, and the next segment is asked of the new home, which begins its encode there. So
// idle people are moved at once, and those who watch when no answer of theirs is under way: at a segment's
// boundary, or after a file was sent. What still runs at the drain's limit is broken off, and the door's one
// loop goes on with it elsewhere, as it does after a death.

import {
  conditionOf,
  type DrainLeft,
  type DrainOrder,
  drainLeftNoteId,
  drainOrderOf,
} from "../core/cluster/condition.ts";
import type { Identity } from "../core/cluster/identity.ts";
import { behindOf } from "../core/cluster/journal-cursor.ts";
import type { Memory } from "../core/cluster/memory.ts";
import { putNote } from "../core/cluster/notes.ts";
import { readPlay } from "../core/cluster/plays.ts";
import type { Clock } from "../core/service/clock.ts";
import type { Log } from "../core/service/log.ts";
import { rest } from "../core/service/loop.ts";
import { type Store, StoreUnavailable } from "../core/store/store.ts";
import type { Attendant, Attended } from "./attendant.ts";
import { type BalanceUser, decideBalance } from "./balance.ts";
import type { Health } from "./health.ts";
import type { Homes } from "./homes.ts";
import type { Links } from "./links.ts";
import type { Caretakers } from "./parts.ts";
import { newPlaces, rendezvous } from "./place.ts";

/** A client's socket and the replica that it is at. */
export interface Seat {
  readonly userId: string | undefined;
  readonly replica: string;
}

export interface BalancerParts {
  readonly store: Store;
  /** Replicas on which a user has another id than clients know; undefined: on none. */
  readonly foreignTo: (
    userId: string,
    replicas: readonly string[],
  ) => ReadonlySet<string> | undefined;
  readonly memory: Memory;
  readonly health: Health;
  readonly homes: Homes;
  readonly links: Links;
  readonly caretakers: Caretakers;
  readonly clock: Clock;
  readonly log: Log;
  /** Sockets of clients at this door. */
  readonly seats: () => Iterable<Seat>;
  /** Sockets at that replica are dialled elsewhere now; `all`: also those whose user's home is there. */
  readonly leave: (replica: string, all: boolean) => void;
  /** Somebody else is where this user is for a reason that they share (a SyncPlay group): not moved for load. */
  readonly isBound: (userId: string) => boolean;
  readonly prefer: string | undefined;
  readonly preferAfterMs: number;
  readonly returnAfterMs: number;
  readonly homeStayMs: number;
}

/** While a replica is drained; what else there is to do can wait for the longer one. */
const stepIntervalMs = 200;
const quietStepIntervalMs = 1000;
const balanceIntervalMs = 2000;
const quietBalanceIntervalMs = 20_000;
/** After a change of the view, and the wait for people to return, it is looked at often for so long. */
const changeKeepMs = 60_000;
const balanceMovesLimit = 4;
/** Moves of people who do nothing, at one time; and of plays in one step, since each begins an encode. */
const idleMovesAtOnce = 16;
const playMovesPerStep = 6;
/** Somebody whose last media request or report is older than this watches no more: players report each 10 s. */
const playingKeepMs = 30_000;
/** A play that another door carries changes its record with its segments and reports. */
const playChangedKeepMs = 2 * 60_000;
const watchersLimit = 20_000;
/** Notes about what is left outlive the drain by so much. */
const leftKeepMs = 60_000;

interface Watcher {
  running: number;
  /** Of the last answer or report, in ms of the monotonic clock. */
  lastMs: number;
  isTranscode: boolean;
}

interface Drain {
  readonly order: DrainOrder;
  /** When this door heard of it, in ms of the monotonic clock. */
  readonly heardMs: number;
  told: string;
  isForced: boolean;
}

export class Balancer {
  readonly #parts: BalancerParts;
  readonly #watchers = new Map<string, Watcher>();
  /** Requests that were counted as running, so that one that was refused early is not counted off. */
  readonly #counted = new WeakSet<Attended>();
  readonly #drains = new Map<string, Drain>();
  #balancedMs = 0;
  #movedLast = false;
  /** Moves at a boundary that this step may still bring. */
  #boundaryMoves = 0;
  #seenVersion = -1;
  /** Begins the next step: a drain was ordered. */
  #wake = new AbortController();
  #changedMs = 0;

  constructor(parts: BalancerParts) {
    this.#parts = parts;
    parts.memory.onNote(({ kind }) => {
      if (kind === "replica") this.readConditions();
    });
  }

  /** Sees who watches. */
  readonly attendant: Attendant = {
    name: "balance",
    attends: ({ lane, kind }) =>
      lane === "segment" ||
      lane === "playlist" ||
      lane === "bytes" ||
      kind === "playbackInfo" ||
      kind === "playStart" ||
      kind === "playProgress" ||
      kind === "playStopped",
    before: async (asked) => {
      const watcher = this.#watcherOf(asked);
      if (watcher === undefined) return undefined;
      watcher.running++;
      this.#counted.add(asked);
      return undefined;
    },
    ended: (asked) => {
      if (!this.#counted.delete(asked)) return;
      const watcher = this.#watcherOf(asked);
      if (watcher === undefined) return;
      watcher.running = Math.max(0, watcher.running - 1);
      watcher.lastMs =
        asked.facts.route.kind === "playStopped"
          ? Number.NEGATIVE_INFINITY
          : this.#parts.clock.monotonicMs();
      if (watcher.running === 0 && this.#drains.size > 0) this.#atBoundary(asked);
    },
  };

  /** Takes the cluster's word about each replica into the view. To be called when the view has new replicas. */
  readConditions(): void {
    const { memory, health, clock } = this.#parts;
    const notes = memory.notes("replica");
    for (const name of health.view.replicas.keys()) {
      const { draining, encodes, encoder } = conditionOf(notes, name);
      health.setCondition(name, {
        isDraining: draining,
        refusesPlays: encodes === "slow" || encodes === "failing",
        encoder,
        behind: behindOf(notes, name)?.cause,
      });
      const order = drainOrderOf(notes, name);
      const known = this.#drains.get(name);
      if (order === undefined) this.#drains.delete(name);
      else if (known?.order.sinceMs !== order.sinceMs) {
        const heardMs = clock.monotonicMs();
        this.#drains.set(name, { order, heardMs, told: "", isForced: false });
        this.#parts.leave(name, false);
        this.#wake.abort();
      }
    }
    for (const name of this.#drains.keys()) {
      if (!health.view.replicas.has(name)) this.#drains.delete(name);
    }
  }

  /** True while something of this user's is under way or was a moment ago. */
  isPlaying(userId: string): boolean {
    const watcher = this.#watchers.get(userId);
    if (watcher === undefined) return false;
    return watcher.running > 0 || this.#parts.clock.monotonicMs() - watcher.lastMs < playingKeepMs;
  }

  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#wake = new AbortController();
      await this.#step();
      const isDraining = this.#drains.size > 0;
      await rest(isDraining ? stepIntervalMs : quietStepIntervalMs, signal, this.#wake.signal);
    }
  }

  async #step(): Promise<void> {
    this.#boundaryMoves = playMovesPerStep;
    for (const [replica, drain] of [...this.#drains]) await this.#drain(replica, drain);
    const nowMs = this.#parts.clock.monotonicMs();
    if (nowMs - this.#balancedMs < this.#balancePauseMs(nowMs)) return;
    this.#balancedMs = nowMs;
    // A note that came with the whole store, or before its replica was known, is read here.
    this.readConditions();
    this.#forgetWatchers(nowMs);
    this.#movedLast = await this.#balance(nowMs);
  }

  /** Often while something may follow from what changed; seldom else, since it looks at every login. */
  #balancePauseMs(nowMs: number): number {
    const { health, prefer, preferAfterMs, returnAfterMs } = this.#parts;
    const { version } = health.view;
    if (version !== this.#seenVersion) {
      this.#seenVersion = version;
      this.#changedMs = nowMs;
    }
    const waitMs = prefer === undefined ? returnAfterMs : preferAfterMs;
    const isFresh = nowMs - this.#changedMs < waitMs + changeKeepMs;
    return this.#movedLast || isFresh ? balanceIntervalMs : quietBalanceIntervalMs;
  }

  // ---- Drain ----------------------------------------------------------------------------------------

  async #drain(replica: string, drain: Drain): Promise<void> {
    const { memory, health, clock } = this.#parts;
    const others = this.#othersOf(replica);
    const isLate = clock.monotonicMs() - drain.heardMs >= drain.order.limitMs;
    if (others.length > 0 && health.view.replicas.get(replica)?.state === "ready") {
      const idle: string[] = [];
      const between: string[] = [];
      for (const { userId, replica: home } of memory.homes.values()) {
        if (home !== replica) continue;
        const isBusy = (this.#watchers.get(userId)?.running ?? 0) > 0;
        if (!this.isPlaying(userId)) idle.push(userId);
        else if (!isBusy || isLate) between.push(userId);
      }
      await this.#moveAway(replica, idle, others, isLate);
      await this.#moveAway(replica, between.slice(0, playMovesPerStep), others, isLate);
      if (isLate && !drain.isForced) {
        drain.isForced = true;
        this.#force(replica);
      }
    }
    await this.#tell(replica, drain);
  }

  /**
   * An answer has ended and nothing else of this user's runs: the boundary at which somebody who watches may
   * move. A player that asks for the next segment at once is between two answers only here, never at a step.
   */
  #atBoundary({ identity }: Attended): void {
    const userId = identity?.userId ?? "";
    const home = this.#parts.memory.homes.get(userId)?.replica;
    if (home === undefined || !this.#drains.has(home) || this.#boundaryMoves <= 0) return;
    const others = this.#othersOf(home);
    if (others.length === 0) return;
    this.#boundaryMoves--;
    void this.#moveAway(home, [userId], others, false);
  }

  #othersOf(replica: string): readonly string[] {
    const { view } = this.#parts.health;
    const ready = [...view.replicas].filter(
      ([name, { state }]) => name !== replica && state === "ready",
    );
    return newPlaces(
      ready.map(([name]) => name),
      view,
    ).filter((name) => view.replicas.get(name)?.isDraining !== true);
  }

  async #moveAway(
    replica: string,
    userIds: readonly string[],
    others: readonly string[],
    isLate: boolean,
  ): Promise<void> {
    const { homes, prefer } = this.#parts;
    if (userIds.length === 0) return;
    const identities = this.#identitiesOf(new Set(userIds));
    for (let start = 0; start < userIds.length; start += idleMovesAtOnce) {
      const some = userIds.slice(start, start + idleMovesAtOnce);
      await Promise.all(
        some.map(async (userId) => {
          const known = this.#knownAt(identities.get(userId) ?? [], others);
          const choices = known.length > 0 || !isLate ? known : others;
          const to =
            prefer !== undefined && choices.includes(prefer) ? prefer : rendezvous(userId, choices);
          if (to !== undefined) await homes.move(userId, to, `${replica} drains`, 0);
        }),
      );
    }
  }

  /** The logins of these users, by one walk over all of them. */
  #identitiesOf(userIds: ReadonlySet<string>): ReadonlyMap<string, readonly Identity[]> {
    const found = new Map<string, Identity[]>();
    for (const identity of this.#parts.memory.identities.values()) {
      if (!userIds.has(identity.userId) || Object.keys(identity.tokens).length === 0) continue;
      const before = found.get(identity.userId);
      if (before === undefined) found.set(identity.userId, [identity]);
      else before.push(identity);
    }
    return found;
  }

  /** Replicas that have a token for every login of a user; the others are asked for what they lack. */
  #knownAt(identities: readonly Identity[], replicas: readonly string[]): string[] {
    const { caretakers } = this.#parts;
    const known = new Set(replicas);
    for (const identity of identities) {
      for (const name of replicas) {
        if (identity.tokens[name] !== undefined) continue;
        known.delete(name);
        caretakers.urgent(name, identity.key);
      }
    }
    return [...known];
  }

  /** The time is over: what still runs there goes on elsewhere. What cannot be repeated ends where it is. */
  #force(replica: string): void {
    const { links, log, leave } = this.#parts;
    let broken = 0;
    for (const running of links.get(replica)?.running.all() ?? []) {
      if (!running.repeatable) continue;
      running.exchange.breakOff("the replica was drained");
      broken++;
    }
    leave(replica, true);
    if (broken > 0) log.info(`replica ${replica} drains: ${broken} answers go on elsewhere`);
  }

  /** Writes down what is left at this door, when it has changed. */
  async #tell(replica: string, drain: Drain): Promise<void> {
    const { store, memory, homes, links, log } = this.#parts;
    let atHome = 0;
    for (const home of memory.homes.values()) if (home.replica === replica) atHome++;
    let sockets = 0;
    for (const seat of this.#parts.seats()) if (seat.replica === replica) sockets++;
    const left: DrainLeft = {
      door: homes.owner,
      sinceMs: drain.order.sinceMs,
      homes: atHome,
      requests: links.get(replica)?.running.all().length ?? 0,
      sockets,
    };
    const value = JSON.stringify(left);
    if (value === drain.told) return;
    const id = drainLeftNoteId(replica, homes.owner);
    try {
      const note = { kind: "replica", id, replica, value } as const;
      await putNote({ store, memory }, note, drain.order.limitMs + leftKeepMs);
    } catch (error) {
      // The store being away is told by the memory; told again with the next step.
      if (!(error instanceof StoreUnavailable)) throw error;
      return;
    }
    drain.told = value;
    if (left.homes === 0 && left.requests === 0 && left.sockets === 0) {
      log.info(`replica ${replica} is drained as far as this door is concerned`);
    }
  }

  // ---- Balance --------------------------------------------------------------------------------------

  /** True when somebody was to be moved. */
  async #balance(nowMs: number): Promise<boolean> {
    const { health, memory, homes, prefer, preferAfterMs, returnAfterMs, homeStayMs } = this.#parts;
    const { replicas } = health.view;
    if (replicas.size < 2 || !memory.storeAvailable || this.#drains.size > 0) return false;
    const replicasNow = [...replicas].map(([name, { state, sinceMs, ...condition }]) => ({
      name,
      isOpen:
        state === "ready" &&
        condition.isDraining !== true &&
        condition.refusesPlays !== true &&
        condition.behind === undefined,
      readyForMs: nowMs - sinceMs,
    }));
    const options = {
      prefer,
      returnAfterMs,
      preferAfterMs,
      minStayMs: homeStayMs,
      movesLimit: balanceMovesLimit,
    };
    const moves = decideBalance(replicasNow, this.#users(), options);
    for (const { userId, to, why } of moves) {
      // A replica that others reach and this door does not is no reason to move anybody; one that this door
      // alone reaches is none to move people to.
      if (homes.isUnreachedByOthers(to)) continue;
      await homes.move(userId, to, why, homeStayMs);
    }
    return moves.length > 0;
  }

  /** The people of this door: with several doors only those who are here now, since the others know theirs. */
  #users(): BalanceUser[] {
    const { memory, homes, clock, health } = this.#parts;
    const sockets = new Map<string, number>();
    for (const { userId } of this.#parts.seats()) {
      if (userId !== undefined) sockets.set(userId, (sockets.get(userId) ?? 0) + 1);
    }
    const wallMs = clock.wallMs();
    const playingElsewhere = new Set<string>();
    for (const note of memory.notes("play").values()) {
      const play = readPlay(note);
      if (play === undefined || play.hasEnded) continue;
      // A player that vanished without a word leaves its play behind for hours.
      if (wallMs - play.changedAtMs < playChangedKeepMs) playingElsewhere.add(play.userId);
    }
    const names = [...health.view.replicas.keys()];
    const knownAt = this.#tokensByUser(names);
    const users: BalanceUser[] = [];
    for (const { userId, replica, movedAtMs } of memory.homes.values()) {
      const watcher = this.#watchers.get(userId);
      if (homes.otherDoors > 0 && watcher === undefined && !sockets.has(userId)) continue;
      const isPlaying = this.isPlaying(userId);
      users.push({
        userId,
        home: replica,
        transcodes: isPlaying && watcher?.isTranscode === true ? 1 : 0,
        directPlays: isPlaying && watcher?.isTranscode === false ? 1 : 0,
        sockets: sockets.get(userId) ?? 0,
        isIdle: !isPlaying && !playingElsewhere.has(userId) && !this.#parts.isBound(userId),
        // A clock that was set back says nothing: it counts as just moved, and the store judges, too.
        stayedMs: Math.max(0, wallMs - movedAtMs),
        knownAt: knownAt.get(userId) ?? new Set(),
        foreign: this.#parts.foreignTo(userId, names),
      });
    }
    return users;
  }

  #tokensByUser(names: readonly string[]): ReadonlyMap<string, ReadonlySet<string>> {
    const known = new Map<string, Set<string>>();
    for (const { userId, tokens } of this.#parts.memory.identities.values()) {
      if (Object.keys(tokens).length === 0) continue;
      const here = names.filter((name) => tokens[name] !== undefined);
      const before = known.get(userId);
      known.set(userId, new Set(before === undefined ? here : here.filter((n) => before.has(n))));
    }
    return known;
  }

  // ---- Who watches ----------------------------------------------------------------------------------

  #watcherOf({ identity, facts }: Attended): Watcher | undefined {
    if (identity === undefined || identity.kind !== "user" || identity.userId === "") return;
    const { lane } = facts.route;
    let watcher = this.#watchers.get(identity.userId);
    if (watcher === undefined) {
      if (this.#watchers.size >= watchersLimit) return undefined;
      watcher = { running: 0, lastMs: Number.NEGATIVE_INFINITY, isTranscode: false };
      this.#watchers.set(identity.userId, watcher);
    }
    if (lane !== "message") watcher.isTranscode = lane !== "bytes";
    return watcher;
  }

  #forgetWatchers(nowMs: number): void {
    for (const [userId, { running, lastMs }] of this.#watchers) {
      if (running === 0 && nowMs - lastMs > playingKeepMs) this.#watchers.delete(userId);
    }
  }
}
