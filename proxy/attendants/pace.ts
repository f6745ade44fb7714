// How often a client's reports of progress make intents. Players report every few seconds, and a few times more when
// somebody seeks or pauses; one that reports without a pause would push everybody else's changes out of a bounded
// journal. So a report beyond ten a second makes none, and the last of those is written down a tenth of a second later.
//
// It promises that ordinary clients never notice: a burst is let through, and only who goes on is slowed.

import { Bounded } from "../bounded.ts";

export interface PaceLimits {
  /** How many may come at once. */
  readonly burst: number;
  /** One more is let through for each of these, in ms. */
  readonly intervalMs: number;
  /** How many plays are watched. */
  readonly kept: number;
}

export class Pace {
  readonly #limits: PaceLimits;
  readonly #seen: Bounded<string, { left: number; atMs: number }>;

  constructor(limits: PaceLimits) {
    this.#limits = limits;
    this.#seen = new Bounded(limits.kept);
  }

  /** Whether one more is let through now. `nowMs` never goes back. */
  passes(key: string, nowMs: number): boolean {
    const { burst, intervalMs } = this.#limits;
    const seen = this.#seen.get(key) ?? { left: burst, atMs: nowMs };
    const left = Math.min(burst, seen.left + (nowMs - seen.atMs) / intervalMs);
    this.#seen.set(key, { left: left >= 1 ? left - 1 : left, atMs: nowMs });
    return left >= 1;
  }
}
