// Lanes: queues of work of which each is done in order and many are worked at beside each other. A lane whose
// head cannot be done now waits longer after each try and keeps nobody else from going on.
//
// It promises that work of one lane never overlaps, that no more than `parallelLimit` works run at one time,
// and that while the lanes are paused nothing new begins.

import { backOffMs } from "../../core/service/loop.ts";

/** Done for good, or to be tried again; `afterMs`: then, and not after the usual growing wait. */
export type WorkEnd = "done" | { readonly again: string; readonly afterMs?: number };
/** `tries` counts from 0. */
export type Work = (tries: number) => Promise<WorkEnd>;

export interface LanesOptions {
  readonly parallelLimit: number;
  readonly retryMinMs: number;
  readonly retryMaxMs: number;
  /** A work that threw is a fault of ours: it is told of, and counts as done. */
  readonly onFault: (error: unknown) => void;
}

interface Lane {
  readonly name: string;
  readonly queue: Work[];
  state: "ready" | "running" | "waiting";
  tries: number;
  timer: NodeJS.Timeout | undefined;
}

export class Lanes {
  readonly #options: LanesOptions;
  readonly #lanes = new Map<string, Lane>();
  readonly #ready: Lane[] = [];
  readonly #drained = new Set<() => void>();
  #running = 0;
  #works = 0;
  #isPaused = false;
  #isStopped = false;

  constructor(options: LanesOptions) {
    this.#options = options;
  }

  /** Works that wait or run. */
  get size(): number {
    return this.#works;
  }

  push(name: string, work: Work): void {
    if (this.#isStopped) return;
    this.#works++;
    const known = this.#lanes.get(name);
    if (known !== undefined) {
      known.queue.push(work);
      return;
    }
    const lane: Lane = { name, queue: [work], state: "ready", tries: 0, timer: undefined };
    this.#lanes.set(name, lane);
    this.#ready.push(lane);
    this.#pump();
  }

  /** Resolves when all that this lane has by now is done; never when nothing begins any more. */
  reached(name: string): Promise<void> {
    return new Promise((resolve) => {
      this.push(name, async () => {
        resolve();
        return "done";
      });
    });
  }

  /** Something changed that a lane may have waited for. */
  wake(name: string): void {
    const lane = this.#lanes.get(name);
    if (lane?.state !== "waiting") return;
    clearTimeout(lane.timer);
    lane.state = "ready";
    this.#ready.push(lane);
    this.#pump();
  }

  pause(): void {
    this.#isPaused = true;
  }

  /** Goes on, with everything that waited. */
  resume(): void {
    this.#isPaused = false;
    for (const [name, lane] of this.#lanes) {
      lane.tries = 0;
      this.wake(name);
    }
    this.#pump();
  }

  /** Resolves when no more than `size` works are left. */
  below(size: number, signal: AbortSignal): Promise<void> {
    if (this.#works <= size || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const look = (): void => {
        if (this.#works > size && !signal.aborted) return;
        this.#drained.delete(look);
        signal.removeEventListener("abort", look);
        resolve();
      };
      this.#drained.add(look);
      signal.addEventListener("abort", look, { once: true });
    });
  }

  /** Nothing begins any more. */
  stop(): void {
    this.#isStopped = true;
    for (const lane of this.#lanes.values()) clearTimeout(lane.timer);
    this.#lanes.clear();
    this.#ready.length = 0;
    this.#works = 0;
  }

  #pump(): void {
    while (!this.#isPaused && this.#running < this.#options.parallelLimit) {
      const lane = this.#ready.shift();
      if (lane === undefined) return;
      void this.#work(lane);
    }
  }

  async #work(lane: Lane): Promise<void> {
    lane.state = "running";
    this.#running++;
    let end: WorkEnd = "done";
    try {
      end = (await lane.queue[0]?.(lane.tries)) ?? "done";
    } catch (error) {
      this.#options.onFault(error);
    }
    this.#running--;
    if (this.#isStopped) return;
    if (end === "done") this.#next(lane);
    else this.#wait(lane, end.afterMs);
    this.#pump();
  }

  #next(lane: Lane): void {
    lane.queue.shift();
    lane.tries = 0;
    this.#works--;
    if (lane.queue.length === 0) this.#lanes.delete(lane.name);
    else {
      lane.state = "ready";
      this.#ready.push(lane);
    }
    for (const look of [...this.#drained]) look();
  }

  #wait(lane: Lane, afterMs: number | undefined): void {
    lane.tries++;
    lane.state = "waiting";
    const { retryMinMs: firstMs, retryMaxMs: longestMs } = this.#options;
    const waitMs = afterMs ?? backOffMs(lane.tries, { firstMs, longestMs }, Math.random());
    lane.timer = setTimeout(() => this.wake(lane.name), waitMs);
  }
}
