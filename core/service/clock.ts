// Clocks: one that never goes back, for deadlines and durations, and the wall's, for people and for what
// others read. They are handed in, so that a decision about time can be tested without waiting for it.

export interface Clock {
  /** Milliseconds since some moment of this process's start; never goes back. */
  readonly monotonicMs: () => number;
  /** Milliseconds since the epoch, as this machine believes; may jump. */
  readonly wallMs: () => number;
}

export const systemClock: Clock = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now(),
};
