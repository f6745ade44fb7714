// The leader's lease, as decisions: how long whoever was granted it may act, when to ask the store again, and
// which of two epochs is the newer. Nothing here waits, calls or reads a clock; sidecar/lease.ts does.
//
// What it promises: a term ends before the lease that it came from can be anybody else's. The lease holds for
// its time from a moment after the call began; so the term is counted from the moment before the call, and a
// margin is taken off for clocks that run at different speeds.

import type { Epoch, Lease, LeaseAnswer } from "../store/store.ts";

/** The time in which one epoch's holder may act. */
export interface Term {
  readonly epoch: Epoch;
  /** On the holder's monotonic clock, in ms: not at it and not after it. */
  readonly untilMs: number;
  /**
   * The same on the wall's clock, in ms since the epoch. A machine that was suspended wakes with a monotonic
   * clock that stood still, and with a wall clock that is right.
   */
  readonly untilWallMs: number;
}

/** Both clocks at one moment. */
export interface Moment {
  readonly nowMs: number;
  readonly wallMs: number;
}

/** Of a lease's time, how much the holder leaves unused, in ms. */
export function leaseMarginMs(ttlMs: number): number {
  return Math.ceil(ttlMs / 10);
}

/** The term that a lease gives which was asked for at `askedAt`. */
export function termOf(epoch: Epoch, askedAt: Moment, ttlMs: number): Term {
  const lengthMs = ttlMs - leaseMarginMs(ttlMs);
  return {
    epoch,
    untilMs: askedAt.nowMs + lengthMs,
    untilWallMs: askedAt.wallMs + lengthMs,
  };
}

/** Whether the holder of a term may act at this moment. */
export function isInTerm(term: Term | undefined, { nowMs, wallMs }: Moment): boolean {
  return term !== undefined && nowMs < term.untilMs && wallMs < term.untilWallMs;
}

/**
 * Whether somebody else's epoch ends this one: it has a higher number, or the same with another owner, which
 * only data that lost their last writes can give. Then neither may act, and both take a higher one.
 */
export function supersedes(other: Epoch, own: Epoch): boolean {
  return other.number > own.number || (other.number === own.number && other.owner !== own.owner);
}

/** What a keeper knows when it decides. */
export interface LeaseStanding {
  readonly nowMs: number;
  /** Why this replica must not lead, or undefined when it may. */
  readonly unfit: string | undefined;
  /** Whether the store may count this keeper as the holder. */
  readonly mayHold: boolean;
  /** When to ask next, on the monotonic clock. */
  readonly askAtMs: number;
}

export type LeaseStep =
  /** Ask the store for the lease, or to go on holding it. */
  | { readonly step: "hold" }
  /** Stop leading and give the lease back. */
  | { readonly step: "release"; readonly reason: string }
  | { readonly step: "wait"; readonly forMs: number };

/** How often a keeper looks whether its replica is fit, in ms; it costs nothing but the look. */
const lookIntervalMs = 1000;

export function nextLeaseStep(standing: LeaseStanding): LeaseStep {
  const { nowMs, unfit, mayHold, askAtMs } = standing;
  if (unfit !== undefined) {
    return mayHold ? { step: "release", reason: unfit } : { step: "wait", forMs: lookIntervalMs };
  }
  if (nowMs >= askAtMs) return { step: "hold" };
  return { step: "wait", forMs: Math.min(askAtMs - nowMs, lookIntervalMs) };
}

/**
 * When to ask again after an answer, on the monotonic clock. A holder renews after a third of the lease, so
 * that two renewals may fail. Who is told that somebody else holds it asks when that can have ended, and not
 * much sooner than a moment later when that is not known. `undefined`: the store did not answer.
 */
export function nextAskAtMs(
  answer: LeaseAnswer | undefined,
  askedAtMs: number,
  nowMs: number,
  ttlMs: number,
): number {
  if (answer === undefined) return nowMs + Math.ceil(ttlMs / 12);
  if (answer.held) return Math.max(askedAtMs + Math.floor(ttlMs / 3), nowMs);
  const shortestMs = Math.ceil(ttlMs / 50);
  // Never later than one whole lease, whatever is told: a store's clock may jump.
  return nowMs + Math.min(Math.max(answer.retryAfterMs + 1, shortestMs), ttlMs);
}

/** Whether a lease, as followers are told, is free for whoever asks. */
export function isVacant(lease: Lease): boolean {
  return lease.replica === "";
}
