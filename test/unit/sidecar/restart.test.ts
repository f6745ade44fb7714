// The restart of all replicas, step by step, and interrupted after every one of them.

import { describe, expect, test } from "vitest";
import type { DrainProgress } from "../../../core/cluster/condition.ts";
import {
  nextRestartStep,
  type RestartAll,
  type RestartSight,
  readRestartAll,
} from "../../../sidecar/restart.ts";

const drain = (change: Partial<DrainProgress> = {}): DrainProgress => ({
  ...{ draining: true, order: undefined, doors: 1, homes: 0, requests: 0, sockets: 0, done: false },
  ...change,
});

const begun: RestartAll = {
  ...{ order: 1, pending: ["b", "a"], current: "", phase: "settle", sinceMs: 0 },
  staysDrained: false,
};
const draining: RestartAll = { ...begun, pending: ["a"], current: "b", phase: "drain" };
const sight = (change: Partial<RestartSight> = {}): RestartSight => ({
  ...{ nowMs: 100, drain: drain(), server: undefined },
  ...change,
});

describe("the next step", () => {
  test.each<[string, RestartAll, RestartSight, object]>([
    [
      "the first is drained",
      begun,
      sight(),
      { deed: "drain", next: { current: "b", pending: ["a"] } },
    ],
    ["people are on it: wait", draining, sight(), { step: "wait" }],
    [
      "whoever led died before the order to drain was given: it is given",
      draining,
      sight({ drain: drain({ draining: false }) }),
      { deed: "drain", next: { current: "b" } },
    ],
    [
      "nobody is on it: restarted",
      draining,
      sight({ drain: drain({ done: true }) }),
      { deed: "none", next: { phase: "restart" } },
    ],
    [
      "they have nowhere to go: given up, and it gets people again",
      draining,
      sight({ nowMs: 60_000 }),
      { deed: "undrain", next: undefined },
    ],
    [
      "it restarts: wait",
      { ...draining, phase: "restart" },
      sight({ server: "restarting" }),
      { step: "wait" },
    ],
    [
      "its sidecar does not answer: wait",
      { ...draining, phase: "restart" },
      sight(),
      { step: "wait" },
    ],
    [
      "it is back: it gets people again",
      { ...draining, phase: "restart" },
      sight({ server: "done" }),
      { deed: "undrain", next: { phase: "settle" } },
    ],
    [
      "its owner had it drained: it stays so",
      { ...draining, phase: "restart", staysDrained: true },
      sight({ server: "done" }),
      { deed: "none", next: { phase: "settle" } },
    ],
    [
      "it did not come back: the others are left alone",
      { ...draining, phase: "restart" },
      sight({ server: "failed" }),
      { deed: "undrain", next: undefined },
    ],
    [
      "the doors have not seen it yet: wait",
      { ...draining, phase: "settle" },
      sight(),
      { step: "wait" },
    ],
    [
      "the next one",
      { ...draining, phase: "settle" },
      sight({ nowMs: 3000 }),
      { deed: "drain", next: { current: "a", pending: [] } },
    ],
    [
      "it was the last",
      { ...draining, pending: [], phase: "settle" },
      sight({ nowMs: 3000 }),
      { deed: "none", next: undefined },
    ],
  ])("%s", (_name, all, seen, expected) => {
    expect(nextRestartStep(all, seen)).toMatchObject(expected);
  });
});

/** A cluster in which a deed takes hold at once, and whoever leads may die between the note and the deed. */
function world(diesAt: ReadonlySet<number>) {
  const drained = new Set<string>();
  const restarted: string[] = [];
  let all: RestartAll | undefined = begun;
  let steps = 0;
  for (let nowMs = 0; all !== undefined && nowMs < 600_000; nowMs += 1000) {
    const { current, phase } = all;
    if (phase === "restart" && !restarted.includes(current)) {
      expect([...drained]).toEqual([current]);
      restarted.push(current);
    }
    const isDraining = drained.has(current);
    const step = nextRestartStep(all, {
      nowMs,
      drain: drain({ draining: isDraining, done: isDraining }),
      server: phase === "restart" ? "done" : undefined,
    });
    if (step.step === "wait") continue;
    // What is drained is written down first, and what is undrained is undrained first.
    const dies = diesAt.has(steps++);
    if (step.deed === "undrain") drained.delete(current);
    if (!dies || step.deed === "drain") all = step.next;
    if (!dies && step.deed === "drain") drained.add(step.next?.current ?? "");
  }
  return { restarted, all, drained: [...drained] };
}

test("each is restarted once, only while nobody is on it, and gets people again, whenever a leader dies", () => {
  for (let first = 0; first < 12; first += 1) {
    for (let second = first; second < 12; second += 1) {
      const result = world(new Set([first, second]));
      expect([first, second, result]).toEqual([
        first,
        second,
        { restarted: ["b", "a"], all: undefined, drained: [] },
      ]);
    }
  }
});

test("a note that is none is no order", () => {
  for (const value of ["", "{", "null", "[]", '{"order":1}', '{"order":1,"pending":[1]}']) {
    expect(readRestartAll(value)).toBeUndefined();
  }
  expect(readRestartAll(JSON.stringify(begun))).toEqual(begun);
});
