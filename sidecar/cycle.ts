// The sidecar's cycle: observe, decide, act, and one sentence in the log when it changed. Actions run beside
// the cycle, a bounded number at one time, so that a slow server delays only what needs that server; the
// next cycle comes when something changed, when an action ended, or after `cycleIntervalMs`.

import type { Identity } from "../core/cluster/identity.ts";
import { endGhost, idAt, mint, record, settle, sweep, type Tools, verify } from "./act.ts";
import {
  type Action,
  afterMint,
  afterOther,
  type DecideLimits,
  decide,
  type MintEnd,
  nameOf,
  type Trial,
  userOf,
} from "./decide.ts";
import type { Observer } from "./observe.ts";

export interface CycleOptions {
  readonly tools: Tools;
  readonly observer: Observer;
  readonly limits: DecideLimits;
  /** Longest time between two cycles while nothing is to be tried again, in ms. */
  readonly cycleIntervalMs: number;
  /** How many of the latest logins are checked after the server was away. */
  readonly returnSample: number;
  readonly log: { debug(message: string): void; info(message: string): void };
  /** Told of every mint that came to an end. */
  readonly onMintEnd?: ((end: MintEnd["end"], durationMs: number) => void) | undefined;
}

export class Cycle {
  readonly #options: CycleOptions;
  readonly #work = new Set<Promise<void>>();
  #wake: () => void = () => undefined;
  #woken = false;
  #sentence = "";
  /** After one token turned out to be forgotten: the rest are looked at, too. */
  #checksAll = false;

  constructor(options: CycleOptions) {
    this.#options = options;
  }

  /** There may be something to do: the next cycle begins now. */
  wake(): void {
    this.#woken = true;
    this.#wake();
  }

  /** Runs until `signal` aborts, and then until the actions that run have ended. */
  async run(signal: AbortSignal): Promise<void> {
    const { observer } = this.#options;
    const unfollow = observer.follow(() => this.wake());
    signal.addEventListener("abort", () => this.wake(), { once: true });
    while (!signal.aborted) {
      this.#woken = false;
      this.#once();
      if (!this.#woken) await this.#pause(this.#restMs());
    }
    unfollow();
    await Promise.all(this.#work);
  }

  /** The server was away and is back: its data may be others. The latest logins show it first. */
  noteReturn(): void {
    const { observer, tools, returnSample } = this.#options;
    observer.noteReturn();
    this.#checksAll = false;
    const here = [...tools.memory.identities.values()].filter(
      ({ kind, tokens }) => kind === "user" && tokens[tools.replica] !== undefined,
    );
    here.sort((left, right) => right.startedAtMs - left.startedAtMs);
    for (const { key } of here.slice(0, returnSample)) observer.noteSuspect(key);
    this.wake();
  }

  /** Everything new wakes the cycle; only what is to be tried again must be looked for. */
  #restMs(): number {
    const { observer, limits, cycleIntervalMs } = this.#options;
    return observer.trials.size === 0
      ? cycleIntervalMs
      : Math.min(limits.retryMinMs, cycleIntervalMs);
  }

  #once(): void {
    const { observer, limits, log } = this.#options;
    const { actions, sentence } = decide(observer.observation(), limits);
    log.debug(sentence);
    if (sentence !== this.#sentence) log.info(sentence);
    this.#sentence = sentence;
    for (const action of actions) this.#start(action);
  }

  #start(action: Action): void {
    const { observer } = this.#options;
    const name = nameOf(action);
    const user = userOf(action);
    observer.running.add(name);
    if (user !== undefined) observer.busyUsers.add(user);
    const work = this.#act(action, name).finally(() => {
      observer.running.delete(name);
      if (user !== undefined) observer.busyUsers.delete(user);
      this.#work.delete(work);
      this.wake();
    });
    this.#work.add(work);
  }

  async #act(action: Action, name: string): Promise<void> {
    const { tools, observer } = this.#options;
    switch (action.type) {
      case "mint":
        return await this.#mint(action);
      case "settle":
        return this.#noteOther(name, await settle(tools, action.revocation));
      case "record": {
        const done = await record(tools, action.unrecorded);
        if (done) observer.unrecorded.delete(action.unrecorded.identity.key);
        return this.#noteOther(name, done);
      }
      case "endGhost": {
        const done = await endGhost(tools, action.identity);
        if (done) observer.ghosts.delete(action.identity.key);
        return this.#noteOther(name, done);
      }
      case "verify":
        return await this.#verify(action, name);
      case "sweep":
        return await this.#sweep(name);
    }
  }

  async #mint({ identity, proof }: Extract<Action, { type: "mint" }>): Promise<void> {
    const { tools, observer, limits, onMintEnd } = this.#options;
    const startedMs = tools.monotonicMs();
    const end = unlessMadeSince(await mint(tools, identity, proof), identity, tools);
    const nowMs = tools.monotonicMs();
    onMintEnd?.(end.end, nowMs - startedMs);
    const name = `mint ${identity.key}`;
    const trial = afterMint(end, observer.trials.get(name), identity, tools.replica, nowMs, limits);
    this.#noteTrial(name, trial);
    if (end.end === "unrecorded") {
      observer.unrecorded.set(identity.key, { identity, token: end.token });
      if (end.ghostLeft) observer.sweepDue = true;
    }
    if (end.end === "switchedOff") observer.sight = { ...observer.sight, quickConnect: false };
    if (end.end !== "recorded" || !end.ghostLeft) return;
    const current = tools.memory.identities.get(identity.key);
    if (current?.generation === identity.generation) observer.ghosts.set(identity.key, current);
  }

  async #verify({ identity }: Extract<Action, { type: "verify" }>, name: string): Promise<void> {
    const { tools, observer } = this.#options;
    const verified = await verify(tools, identity);
    if (verified !== "unknown") observer.suspects.delete(identity.key);
    if (verified === "dropped" && !this.#checksAll) {
      this.#checksAll = true;
      for (const key of tools.memory.identities.keys()) observer.noteSuspect(key);
      observer.suspects.delete(identity.key);
    }
    this.#noteOther(name, verified !== "unknown");
  }

  async #sweep(name: string): Promise<void> {
    const { tools, observer } = this.#options;
    const refused = new Set<string>();
    for (const [trialName, trial] of observer.trials) {
      if (trial.sweepFirst) refused.add(trialName.slice("mint ".length));
    }
    const left = await sweep(tools, refused);
    this.#noteOther(name, left !== undefined);
    if (left === undefined) return;
    observer.sweepDue = false;
    for (const key of refused) {
      const trial = observer.trials.get(`mint ${key}`);
      if (trial !== undefined) observer.trials.set(`mint ${key}`, { ...trial, sweepFirst: false });
    }
    for (const identity of left) observer.ghosts.set(identity.key, identity);
  }

  #noteOther(name: string, done: boolean): void {
    const { observer, tools, limits } = this.#options;
    const known = observer.trials.get(name);
    this.#noteTrial(name, afterOther(done, known, tools.monotonicMs(), limits));
  }

  #noteTrial(name: string, trial: Trial | undefined): void {
    const { trials } = this.#options.observer;
    if (trial === undefined) trials.delete(name);
    else trials.set(name, trial);
  }

  async #pause(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      const wake = () => {
        clearTimeout(timer);
        resolve();
      };
      this.#wake = wake;
    });
    this.#wake = doNothing;
  }
}

const doNothing = () => undefined;

/**
 * A user of whom this server knew nothing may have been made there, and told of, since it was asked: nobody tells of
 * them again, so that the login would wait for a minute.
 */
function unlessMadeSince(end: MintEnd, identity: Identity, tools: Tools): MintEnd {
  if (end.end !== "unknownUser") return end;
  return idAt(tools, tools.replica, identity) === end.askedAs ? end : { end: "stale" };
}
