/**
 * Judges a recorded history: each field of each person and item is a register that many devices wrote. What it holds in
 * the end must be what somebody wrote whose writing was not followed by another that was acknowledged. A value that no
 * such writing explains is a lost change.
 */

/** One change that a client asked for, of one field. */
export interface Write {
  /** `<user id>/<item id>/<field>`. */
  readonly register: string;
  readonly value: unknown;
  readonly startedMs: number;
  /** Infinite while it runs. */
  endedMs: number;
  /** The client was told that it is done. */
  isAcknowledged: boolean;
}

/** One adding to a list, which counts each time. */
export type Adding = Omit<Write, "value">;

export interface Loss {
  readonly register: string;
  readonly found: unknown;
  readonly expected: readonly unknown[];
}

/** What each register may hold, in the light of all that was written to it. */
export function possibleValues(writes: readonly Write[]): readonly Write[] {
  return writes.filter(
    (write) => !writes.some((other) => other.isAcknowledged && other.startedMs > write.endedMs),
  );
}

/** Registers that hold what nobody's last change explains. `initial`: what they hold when none was acknowledged. */
export function losses(
  writes: readonly Write[],
  found: (register: string) => unknown,
  initial: (register: string) => unknown,
): Loss[] {
  const result: Loss[] = [];
  for (const [register, own] of Map.groupBy(writes, (write) => write.register)) {
    const expected = possibleValues(own).map(({ value }) => value);
    if (!own.some(({ isAcknowledged }) => isAcknowledged)) expected.push(initial(register));
    const value = found(register);
    if (!expected.includes(value)) result.push({ register, found: value, expected });
  }
  return result;
}

/**
 * Lists that hold a thing less often than it was added with an acknowledgement, or more often than anybody tried to.
 * `before`: how often they held it then.
 */
export function miscounts(
  addings: readonly Adding[],
  found: (register: string) => unknown,
  before: (register: string) => unknown,
): Loss[] {
  const result: Loss[] = [];
  for (const [register, own] of Map.groupBy(addings, (adding) => adding.register)) {
    const had = Number(before(register));
    const least = had + own.filter(({ isAcknowledged }) => isAcknowledged).length;
    const most = had + own.length;
    const count = found(register);
    if (typeof count === "number" && count >= least && count <= most) continue;
    result.push({ register, found: count, expected: [least, most] });
  }
  return result;
}

export function percentile(values: readonly number[], percent: number): number {
  const sorted = [...values].sort((left, right) => left - right);
  const index = Math.min(sorted.length - 1, Math.ceil((percent / 100) * sorted.length) - 1);
  return sorted[Math.max(0, index)] ?? 0;
}
