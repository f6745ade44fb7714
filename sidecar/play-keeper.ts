// The keeper of plays at one server: ends there what the server no longer owns, as soon as it can be reached.
// It wakes when a home, a pin or the record of a play changes and when its server is back; between these it
// does nothing and asks nothing. What is to be ended is decided in plays.ts.

import type { Identity } from "../core/cluster/identity.ts";
import { leftoverOf, type Play, readPlay } from "../core/cluster/plays.ts";
import { sleep, untilAborted } from "../core/service/loop.ts";
import type { Note } from "../core/store/store.ts";
import { deviceOf, endGhost, knownSessions, type Tools } from "./act.ts";
import {
  afterPass,
  decidePlays,
  type LeftPasses,
  leftName,
  type StrayPlay,
  straysIn,
} from "./plays.ts";

export interface PlayKeeperOptions {
  readonly tools: Tools;
  readonly isHealthy: () => boolean;
  readonly wallMs: () => number;
  readonly log: { debug(message: string): void; info(message: string): void };
  /** Wait after a look that could not be made, in ms. */
  readonly retryMs: number;
  /** Looks that are remembered; a forgotten one is only made again. */
  readonly looksLimit: number;
}

export class PlayKeeper {
  readonly #options: PlayKeeperOptions;
  readonly #done = new Map<string, LeftPasses>();
  readonly #reads = new WeakMap<Note, Play | undefined>();
  #wake = new AbortController();
  /** The server is back: what it carries out now may be old. */
  #returnPasses = 0;
  #nextReturnPassMs = 0;

  constructor(options: PlayKeeperOptions) {
    this.#options = options;
  }

  wake(): void {
    this.#wake.abort();
  }

  /** The server was away and is back: everything is looked at again. */
  noteReturn(): void {
    this.#done.clear();
    this.#returnPasses = 3;
    this.#nextReturnPassMs = 0;
    this.wake();
  }

  async run(signal: AbortSignal): Promise<void> {
    const { memory } = this.#options.tools;
    const { replica } = this.#options.tools;
    const unfollow = [
      memory.onNote((note) => {
        if (note.kind === "play" && this.#isLeftHere(note)) this.wake();
      }),
      memory.onHome((home) => {
        if (home.replica !== replica) this.wake();
      }),
      memory.onPin((pin) => {
        if (pin.kind === "play") this.wake();
      }),
    ];
    await untilAborted(memory.loaded, signal);
    while (!signal.aborted) {
      this.#wake = new AbortController();
      const restMs = this.#options.isHealthy() ? await this.#look() : undefined;
      await sleep(restMs ?? restMsMax, signal, this.#wake.signal);
      // A server's death moves many homes at once: one look serves them all.
      if (!signal.aborted) await sleep(gatherMs, signal);
    }
    for (const stop of unfollow) stop();
  }

  /** One look; answers how long to rest when nothing wakes the keeper before. */
  async #look(): Promise<number | undefined> {
    const { tools, retryMs, looksLimit } = this.#options;
    const nowMs = tools.monotonicMs();
    const decision = decidePlays({
      replica: tools.replica,
      plays: this.#plays(),
      homeOf: (userId) => this.#homeOf(userId),
      pinOf: (id) => this.#pinOf(id),
      done: this.#done,
      nowMs,
    });
    const isReturnPass = this.#returnPasses > 0 && this.#nextReturnPassMs <= nowMs;
    let isDone = true;
    for (const play of decision.encodes) isDone = (await this.#endEncode(play)) && isDone;
    if (decision.looksAtSessions || isReturnPass) isDone = (await this.#endStrays()) && isDone;
    if (!isDone) return retryMs;
    if (isReturnPass) {
      this.#returnPasses--;
      this.#nextReturnPassMs = nowMs + returnPassPauseMs;
    }
    if (this.#done.size > looksLimit) this.#done.clear();
    for (const name of decision.names) this.#done.set(name, afterPass(this.#done.get(name), nowMs));
    if (decision.names.length > 0) return 0;
    const nextMs = this.#returnPasses > 0 ? this.#nextReturnPassMs : undefined;
    const atMs = Math.min(nextMs ?? Infinity, decision.nextAtMs ?? Infinity);
    return Number.isFinite(atMs) ? Math.max(0, atMs - tools.monotonicMs()) : undefined;
  }

  *#plays(): Generator<Play> {
    for (const note of this.#options.tools.memory.notes("play").values()) {
      const play = this.#read(note);
      if (play !== undefined) yield play;
    }
  }

  /** A note is read once, however often the plays are looked through. */
  #read(note: Note): Play | undefined {
    if (!this.#reads.has(note)) this.#reads.set(note, readPlay(note));
    return this.#reads.get(note);
  }

  #isLeftHere(note: Note): boolean {
    const play = this.#read(note);
    if (play === undefined) return false;
    const home = this.#homeOf(play.userId);
    const left = leftoverOf(play, this.#options.tools.replica, home, this.#pinOf(play.id));
    return (left.encode || left.session) && !this.#done.has(leftName(play));
  }

  #homeOf(userId: string): string | undefined {
    return this.#options.tools.memory.homes.get(userId)?.replica;
  }

  #pinOf(id: string): string | undefined {
    return this.#options.tools.memory.pinOf("play", id, this.#options.wallMs())?.replica;
  }

  async #endEncode(play: Play): Promise<boolean> {
    const { tools, log } = this.#options;
    const ended = await tools.client.stopEncodings(play.deviceId, play.id);
    if (ended.outcome === "done") {
      log.debug(
        `play ${play.id} is owned by ${play.owner}: its encode at ${tools.replica} is ended`,
      );
    }
    return ended.outcome !== "failed";
  }

  /** Ends what the server's sessions play for people who live elsewhere, and then these sessions. */
  async #endStrays(): Promise<boolean> {
    const { tools } = this.#options;
    const answer = await tools.client.sessions();
    if (answer.outcome !== "ok") return answer.outcome !== "failed";
    const { identities } = tools.memory;
    const homeOf = (userId: string): string | undefined => this.#homeOf(userId);
    let isDone = true;
    const sessions = knownSessions(tools, answer.sessions);
    for (const stray of straysIn(sessions, identities, tools.replica, homeOf)) {
      isDone = (await this.#endStray(stray)) && isDone;
    }
    return isDone;
  }

  async #endStray({ identity, playing }: StrayPlay): Promise<boolean> {
    const { tools, log } = this.#options;
    const token = tools.memory.openToken(identity, tools.replica);
    if (token === undefined) return true;
    // The user may have come home again while the answer was on its way.
    if (this.#homeOf(identity.userId) === tools.replica) return true;
    const playSessionId = this.#playOf(identity, playing.itemId);
    const left = { ...playing, playSessionId };
    const stopped = await tools.client.stopLeftPlay(token, deviceOf(identity), left);
    if (stopped.outcome !== "done") return stopped.outcome !== "failed";
    const isEnded = await endGhost(tools, identity);
    log.info(
      `a play of user ${identity.userId} that goes on at ${this.#homeOf(identity.userId)} was ended` +
        ` at ${tools.replica}`,
    );
    return isEnded;
  }

  #playOf(identity: Identity, itemId: string): string {
    for (const play of this.#plays()) {
      if (play.identityKey === identity.key && play.itemId === itemId) {
        return this.#pinOf(play.id) === this.#options.tools.replica ? "" : play.id;
      }
    }
    return "";
  }
}

/** Longest rest while nothing wakes the keeper, in ms. */
const restMsMax = 60_000;
const returnPassPauseMs = 800;
const gatherMs = 20;
