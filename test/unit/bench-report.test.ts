// The bench's judgement, as tables: that it can fail, that a busy minute does not decide it, and that
// it rewrites only its own part of docs/performance.md.

import { describe, expect, test } from "vitest";
import type { ContenderName } from "../bench/contenders.ts";
import type { Rounds } from "../bench/measures.ts";
import { verdictsOf, withReport } from "../bench/report.ts";

function rounds(values: Partial<Record<ContenderName, number[]>>): Rounds {
  return new Map(Object.entries(values) as [ContenderName, number[]][]);
}

function small(jellybloom: number[]) {
  const microsecondsPerRequest = rounds({
    "nginx-tuned": [20, 40, 20],
    "http-proxy": [200, 400, 200],
    jellybloom,
  });
  return { small: { microsecondsPerRequest, requestsPerSecond: rounds({}) } };
}

describe("verdicts", () => {
  test("a promise within its bound is kept, and one beyond it is broken", () => {
    expect(verdictsOf(small([45, 90, 45])).map((verdict) => verdict.kept)).toEqual([true, true]);
    expect(verdictsOf(small([55, 110, 55])).map((verdict) => verdict.kept)).toEqual([false, true]);
    expect(verdictsOf(small([85, 170, 85])).map((verdict) => verdict.kept)).toEqual([false, false]);
  });

  test("a ratio is taken within its round, so that one busy round does not decide", () => {
    // The second round was slow for everybody: 90 there is as good as 45 in the others.
    const [againstNginx] = verdictsOf(small([45, 90, 45]));
    expect(againstNginx?.measured).toBe("2.25 (2.25–2.25) ×");
  });

  test("what was not measured is neither kept nor broken", () => {
    expect(verdictsOf({})).toEqual([]);
    expect(verdictsOf({ streamOne: rounds({ "nginx-tuned": [0.4] }) })).toEqual([]);
  });

  test("one store command in a hundred placed requests breaks the promise", () => {
    const store = (commands: number) => ({
      store: { requests: 10_000, commands, idleCommandsPerSecond: 1 },
    });
    expect(verdictsOf(store(3)).map((verdict) => verdict.kept)).toEqual([true]);
    expect(verdictsOf(store(100)).map((verdict) => verdict.kept)).toEqual([false]);
  });

  test("memory that grows with requests breaks the promise", () => {
    const flat = {
      requests: 200_000,
      leavers: 1_000,
      residentBytesBefore: 100e6,
      residentBytesAfter: 140e6,
      descriptorsBefore: 100,
      descriptorsAfter: 100,
    };
    expect(verdictsOf({ flat }).map((verdict) => verdict.kept)).toEqual([false, true]);
  });
});

describe("docs/performance.md", () => {
  test("keeps what people wrote and replaces what the bench wrote", () => {
    const first = withReport("# Title\n\nProse.\n", "first numbers");
    const page = `${first}\nMore prose.\n`;
    const second = withReport(page, "second numbers");
    expect(second).toContain("# Title\n\nProse.");
    expect(second).toContain("second numbers");
    expect(second).not.toContain("first numbers");
    expect(second.endsWith("\nMore prose.\n")).toBe(true);
  });
});
