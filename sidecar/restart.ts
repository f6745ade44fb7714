// Restarts. An administrator who presses «Restart» means the server that everybody uses, and here that is the
// cluster: each replica is drained, restarted, and given people again when it is ready, one after another, so
// that nobody who watches notices.
//
// The order lies in the store with how far it has come, because the replica that leads is restarted, too (its
// lease goes to another, as that of every draining replica does): whoever leads goes on from there. Each step
// can be done twice without harm: a server is restarted once for one order, since its own sidecar remembers
// the order's number. It promises that no replica is restarted while anybody is on it, or while no other one
// could take its people: such an order is given up, and said.

import { type DrainProgress, drainOrderOf } from "../core/cluster/condition.ts";
import { drainProgressOf, endDrain, orderDrain } from "../core/cluster/draining.ts";
import type { Memory } from "../core/cluster/memory.ts";
import { dropNote, putNote } from "../core/cluster/notes.ts";
import type { JellyfinClient } from "../core/jellyfin/client.ts";
import type { Clock } from "../core/service/clock.ts";
import { parsedObject } from "../core/service/json.ts";
import { rest, sleep } from "../core/service/loop.ts";
import { type Store, StoreUnavailable } from "../core/store/store.ts";

// ---- One server -------------------------------------------------------------------------------------

export type RestartState = "restarting" | "done" | "failed";

const restartPollMs = 200;
/** A server that was told to restart and is still the same after this has been too quick to be seen. */
const leaveLimitMs = 15_000;
const returnLimitMs = 5 * 60_000;

/** Restarts one server, once for each order. */
export class ServerRestarts {
  readonly #client: Pick<JellyfinClient, "callWithKey" | "health">;
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  #order = 0;
  #state: RestartState = "done";

  constructor(
    client: Pick<JellyfinClient, "callWithKey" | "health">,
    clock: Clock,
    signal: AbortSignal,
  ) {
    this.#client = client;
    this.#clock = clock;
    this.#signal = signal;
  }

  /** Begins the restart that this order asks for, if it was not begun, and answers how it stands. */
  restart(order: number): RestartState {
    if (order !== this.#order) {
      this.#order = order;
      this.#state = "restarting";
      void this.#restart().then((state) => {
        this.#state = state;
      });
    }
    return this.#state;
  }

  async #restart(): Promise<RestartState> {
    const answer = await this.#client.callWithKey("POST", "/System/Restart");
    // A server may go before its answer has; whether it went is seen below.
    if (answer.outcome === "answered" && answer.status >= 400) return "failed";
    await this.#until(leaveLimitMs, (state) => state !== "healthy");
    const isBack = await this.#until(returnLimitMs, (state) => state === "healthy");
    return isBack ? "done" : "failed";
  }

  async #until(limitMs: number, holds: (state: string) => boolean): Promise<boolean> {
    const endMs = this.#clock.monotonicMs() + limitMs;
    while (!this.#signal.aborted && this.#clock.monotonicMs() < endMs) {
      if (holds((await this.#client.health()).state)) return true;
      await sleep(restartPollMs, this.#signal);
    }
    return false;
  }
}

// ---- All of them ------------------------------------------------------------------------------------

/** How far the restart of all has come. */
export interface RestartAll {
  /** When it was asked for, in ms since the epoch: the order's number. */
  readonly order: number;
  /** Still to come, the next one first. */
  readonly pending: readonly string[];
  /** Empty when none is worked on. */
  readonly current: string;
  readonly phase: "drain" | "restart" | "settle";
  /** When the phase began, in ms since the epoch. */
  readonly sinceMs: number;
  /** The owner had it drained before: it stays so. */
  readonly staysDrained: boolean;
}

export interface RestartSight {
  readonly nowMs: number;
  readonly drain: DrainProgress;
  /** What the current replica's sidecar says; undefined when it was not asked or gave no answer. */
  readonly server: RestartState | undefined;
}

export type RestartStep =
  | { readonly step: "wait" }
  /**
   * Write `next` down, then drain; or undrain, then write `next` down. So whoever goes on after a death finds
   * either the deed undone, and does it, or the note as it was, and does the deed again, which changes nothing.
   */
  | {
      readonly step: "go";
      readonly next: RestartAll | undefined;
      readonly deed: "drain" | "undrain" | "none";
      readonly sentence: string;
    };

const drainLimitMs = 10_000;
/** Longer than this nobody waits for people to leave: then there is no other replica for them. */
const drainGiveUpMs = 60_000;
const restartGiveUpMs = 6 * 60_000;
/** Doors see within this time that a replica is there again. */
const settleMs = 3000;

/** What follows. */
export function nextRestartStep(all: RestartAll, sight: RestartSight): RestartStep {
  const { current, pending, phase, sinceMs } = all;
  const { nowMs, drain, server } = sight;
  const ageMs = nowMs - sinceMs;
  if (current === "") return begun(all, nowMs);
  switch (phase) {
    case "drain":
      if (!drain.draining) {
        // The order to drain that follows this note was not given: whoever led has died between the two.
        return { step: "go", next: all, deed: "drain", sentence: `${current} is to be drained` };
      }
      if (drain.done) {
        return {
          step: "go",
          next: { ...all, phase: "restart", sinceMs: nowMs },
          deed: "none",
          sentence: `${current} is drained and is restarted now`,
        };
      }
      if (ageMs < drainGiveUpMs) return { step: "wait" };
      return {
        step: "go",
        next: undefined,
        deed: all.staysDrained ? "none" : "undrain",
        sentence: `the restart is given up: people on ${current} had nowhere to go`,
      };
    case "restart":
      if (server === "failed" || ageMs > restartGiveUpMs) {
        return {
          step: "go",
          next: undefined,
          deed: all.staysDrained ? "none" : "undrain",
          sentence:
            `the restart is given up: ${current} did not come back` +
            (pending.length > 0 ? `, and ${pending.join(", ")} went on as before` : ""),
        };
      }
      if (server !== "done") return { step: "wait" };
      return {
        step: "go",
        next: { ...all, phase: "settle", sinceMs: nowMs },
        deed: all.staysDrained ? "none" : "undrain",
        sentence: `${current} was restarted`,
      };
    case "settle":
      return ageMs < settleMs ? { step: "wait" } : begun(all, nowMs);
  }
}

function begun(all: RestartAll, nowMs: number): RestartStep {
  const [next, ...pending] = all.pending;
  if (next === undefined) {
    return { step: "go", next: undefined, deed: "none", sentence: "every replica was restarted" };
  }
  return {
    step: "go",
    next: { ...all, pending, current: next, phase: "drain", sinceMs: nowMs, staysDrained: false },
    deed: "drain",
    sentence: `${next} is drained to be restarted`,
  };
}

/** A replica's name has no colon, so this is nobody's condition. */
const restartNoteId = ":restart";
const looksEveryMs = 500;
/** While there is no order, which is nearly always. */
const quietLooksEveryMs = 1000;

export interface RestartPlan {
  readonly replica: string;
  readonly store: Store;
  readonly memory: Memory;
  readonly clock: Clock;
  /** Whether this sidecar leads at this moment. */
  readonly mayAct: () => boolean;
  /** All replicas that there are, this one included. */
  readonly replicas: () => readonly string[];
  /** Asks a replica's sidecar to restart its server for this order; undefined: no answer. */
  readonly restartServer: (replica: string, order: number) => Promise<RestartState | undefined>;
  readonly log: { info(message: string): void; warn(message: string): void };
}

export class Restarter {
  readonly #plan: RestartPlan;

  constructor(plan: RestartPlan) {
    this.#plan = plan;
  }

  /** Begins; a restart that runs is not begun twice. Answers a sentence. Rejects with StoreUnavailable. */
  async begin(): Promise<string> {
    const { replica, replicas, clock } = this.#plan;
    if (this.#known() !== undefined) return "the restart of all replicas is under way already";
    // The leader's own comes last: it keeps the lease, and the order, for as long as it can.
    const pending = [...replicas().filter((name) => name !== replica), replica];
    const order = Math.round(clock.wallMs());
    await this.#write({
      order,
      pending,
      current: "",
      phase: "settle",
      sinceMs: order,
      staysDrained: false,
    });
    return `all replicas are restarted one after another: ${pending.join(", ")}`;
  }

  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const all = this.#known();
      if (all !== undefined && this.#plan.mayAct()) {
        try {
          await this.#step(all);
        } catch (error) {
          // The memory tells that the store is away; what is written there waits until it is back.
          if (!(error instanceof StoreUnavailable)) throw error;
        }
      }
      await rest(all === undefined ? quietLooksEveryMs : looksEveryMs, signal);
    }
  }

  async #step(all: RestartAll): Promise<void> {
    const { memory, clock, restartServer, mayAct, log } = this.#plan;
    const { current } = all;
    const server = all.phase === "restart" ? await restartServer(current, all.order) : undefined;
    const nowMs = clock.wallMs();
    const drain = drainProgressOf(memory, current, nowMs);
    const step = nextRestartStep(all, { nowMs, drain, server });
    if (step.step === "wait" || !mayAct()) return;
    const target = step.deed === "drain" ? (step.next?.current ?? current) : current;
    const wasDraining = drainOrderOf(memory.notes("replica"), target) !== undefined;
    const next =
      step.deed === "drain" && wasDraining && step.next !== undefined
        ? { ...step.next, staysDrained: true }
        : step.next;
    if (step.deed === "undrain") await endDrain(this.#plan, target);
    await this.#write(next);
    log.info(`restart: ${step.sentence}`);
    if (step.deed === "drain" && !wasDraining) {
      const order = { sinceMs: Math.round(nowMs), limitMs: drainLimitMs, untilRestart: false };
      await orderDrain(this.#plan, target, order);
    }
  }

  #known(): RestartAll | undefined {
    return readRestartAll(this.#plan.memory.note("replica", restartNoteId)?.value ?? "");
  }

  async #write(all: RestartAll | undefined): Promise<void> {
    const note = { kind: "replica", id: restartNoteId, replica: "" } as const;
    if (all === undefined) await dropNote(this.#plan, note);
    else await putNote(this.#plan, { ...note, value: JSON.stringify(all) }, restartKeepMs);
  }
}

/** An order that nobody went on with for so long is forgotten. */
const restartKeepMs = 3_600_000;

/** Undefined for what is none: whoever can write the store can write this. */
export function readRestartAll(value: string): RestartAll | undefined {
  const fields = parsedObject(value);
  if (fields === undefined) return undefined;
  const { order, pending, current, phase, sinceMs, staysDrained } = fields;
  if (typeof order !== "number" || typeof sinceMs !== "number" || typeof current !== "string") {
    return undefined;
  }
  if (phase !== "drain" && phase !== "restart" && phase !== "settle") return undefined;
  if (!Array.isArray(pending) || !pending.every((name) => typeof name === "string"))
    return undefined;
  return { order, pending, current, phase, sinceMs, staysDrained: staysDrained === true };
}
