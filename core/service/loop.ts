// Loops: waiting that can be given up, waiting longer after each failure, and doing something again and
// again at one's own pace. It promises that nothing waits on after its signal was aborted and that no
// listener stays behind on a signal that lives as long as the process.

/**
 * Waits `ms` milliseconds, or less when `signal` or `wake` aborts. It never rejects: whoever waits looks at
 * the signal afterwards, as they must anyway for an abort that came a moment later.
 *
 * Two signals, because `AbortSignal.any` leaves an entry behind on the one that lives as long as the process
 * (measured on Node 24: 60 bytes for each call, never given back).
 */
export function sleep(ms: number, signal: AbortSignal, wake?: AbortSignal): Promise<void> {
  if (signal.aborted || wake?.aborted === true) return Promise.resolve();
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      wake?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end, { once: true });
    wake?.addEventListener("abort", end, { once: true });
  });
}

/** Resolves when `signal` aborts. On a signal that lives as long as the process a listener stays behind. */
export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** Looks that need not be punctual fall on this grid of the process, in ms; those every so many whole seconds on seconds. */
const beatMs = 500;
const secondMs = 1000;
/** A beat that is this little too late is taken, so that whoever woke a moment early loses no whole one. */
const beatSlackMs = 50;

/**
 * How long to wait for a look that is due every `ms` milliseconds, so that all who wait like this wake in
 * the same moments: each waking of a process that nobody uses costs more than the look. It is less than `ms` by
 * at most the grid, once, and hardly more; what is due within a second keeps its own time.
 */
export function restMs(ms: number, nowMs: number): number {
  if (ms < 2 * beatMs) return ms;
  const gridMs = ms % secondMs === 0 ? secondMs : beatMs;
  return Math.floor((nowMs + ms + beatSlackMs) / gridMs) * gridMs - nowMs;
}

/** `sleep` for a loop that looks now and then (`restMs`). */
export function rest(ms: number, signal: AbortSignal, wake?: AbortSignal): Promise<void> {
  return sleep(restMs(ms, performance.now()), signal, wake);
}

/**
 * Waits until `work` has ended, or less when `signal` aborts. Rejects as `work` does; after an abort nobody hears
 * of its failure.
 */
export async function untilAborted(work: Promise<unknown>, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  let end: () => void = () => undefined;
  const aborted = new Promise<void>((resolve) => {
    end = resolve;
  });
  signal.addEventListener("abort", end, { once: true });
  try {
    await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", end);
  }
}

export interface BackOffLimits {
  /** The first wait. */
  readonly firstMs: number;
  /** No wait is longer. */
  readonly longestMs: number;
}

/**
 * The wait before attempt `failures + 1`, in ms: doubled with each failure up to the longest, of which a
 * random half is taken away, so that many who failed together do not come back together.
 *
 * `random` is from 0 to 1, as Math.random() gives it.
 */
export function backOffMs(failures: number, limits: BackOffLimits, random: number): number {
  if (failures <= 0) return 0;
  // 2^31 times any first wait is beyond any longest one; more would leave the exact numbers.
  const doubled = limits.firstMs * 2 ** Math.min(failures - 1, 31);
  const waitMs = Math.min(doubled, limits.longestMs);
  return waitMs / 2 + (waitMs / 2) * random;
}

/**
 * Does `deed` at once and then about every `intervalMs` (`rest`), until `signal` aborts. Deeds do not
 * overlap. What `deed` throws ends the loop and is thrown on: expected failures are its own to handle.
 */
export async function repeat(
  intervalMs: number,
  signal: AbortSignal,
  deed: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  while (!signal.aborted) {
    await deed(signal);
    await rest(intervalMs, signal);
  }
}

/**
 * Does `deed` until it answers true («done») or `signal` aborts, waiting longer after each time it
 * answered false. Answers whether it was done.
 */
export async function retry(
  limits: BackOffLimits,
  signal: AbortSignal,
  deed: (signal: AbortSignal) => Promise<boolean>,
): Promise<boolean> {
  for (let failures = 0; !signal.aborted; failures++) {
    await sleep(backOffMs(failures, limits, Math.random()), signal);
    if (!signal.aborted && (await deed(signal))) return true;
  }
  return false;
}
