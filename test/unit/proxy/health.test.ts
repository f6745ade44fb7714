// How often servers are looked at: often while somebody uses the door, seldom while nobody does, at once when they come.
// And for how long one that has just been named may be slow before it counts as away.

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { ReplicaConfig } from "../../../core/cluster/replica.ts";
import type { JellyfinClient } from "../../../core/jellyfin/client.ts";
import { createMetrics } from "../../../core/service/metrics.ts";
import { Health } from "../../../proxy/health.ts";

const replicas = ["a", "b"].map((name) => ({ name })) as ReplicaConfig[];
const quietAfterMs = 60_000;

let probes: string[];
let isInUse: boolean;
let answer: "healthy" | "starting";
/** What b answers instead of that. */
let answerOfB: "silent" | "refused" | undefined;
let health: Health;
let stop: AbortController;

beforeEach(() => {
  vi.useFakeTimers();
  probes = [];
  isInUse = false;
  answer = "healthy";
  answerOfB = undefined;
  stop = new AbortController();
  const info = { startupWizardCompleted: true };
  health = new Health({
    probeIntervalMs: 1000,
    quietProbeIntervalMs: 2000,
    quietAfterMs,
    isInUse: () => isInUse,
    silentProbes: 2,
    log: { info: () => undefined, warn: () => undefined } as never,
    metrics: createMetrics("0"),
    clock: { monotonicMs: () => performance.now(), wallMs: () => Date.now() },
    clientOf: ({ name }) =>
      ({
        health: async () => {
          probes.push(name);
          if (name === "b" && answerOfB === "silent") await slow(500);
          return { state: name === "b" ? (answerOfB ?? answer) : answer, reason: "" };
        },
        publicInfo: async () => ({ outcome: "ok", info }),
        close: async () => undefined,
      }) as unknown as JellyfinClient,
  });
  health.setReplicas(replicas);
});

function look(): void {
  void health.run(stop.signal);
}

afterEach(() => {
  stop.abort();
  vi.useRealTimers();
});

function slow(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** How often both servers are asked in so many seconds. */
async function probesIn(seconds: number): Promise<number> {
  const before = probes.length;
  await vi.advanceTimersByTimeAsync(seconds * 1000);
  return probes.length - before;
}

test("a door that nobody uses looks half as often after a minute, and at both servers at once when somebody comes", async () => {
  look();
  expect(await probesIn(10)).toBe(20);
  await vi.advanceTimersByTimeAsync(quietAfterMs);
  expect(await probesIn(10)).toBe(10);
  await vi.advanceTimersByTimeAsync(500);
  const before = probes.length;
  health.noteUse(performance.now());
  await vi.advanceTimersByTimeAsync(0);
  expect(probes.slice(before).sort()).toEqual(["a", "b"]);
  expect(await probesIn(10)).toBe(20);
});

test("whoever asks now and then, or has something open, keeps it looking", async () => {
  look();
  for (let time = 0; time < 3; time++) {
    health.noteUse(performance.now());
    await vi.advanceTimersByTimeAsync(quietAfterMs - 5000);
  }
  expect(await probesIn(4)).toBe(8);
  isInUse = true;
  await vi.advanceTimersByTimeAsync(2 * quietAfterMs);
  expect(await probesIn(10)).toBe(20);
  isInUse = false;
  await vi.advanceTimersByTimeAsync(quietAfterMs + 5000);
  expect(await probesIn(10)).toBe(10);
});

test("a server on its way up is looked at four times a second, whoever is there", async () => {
  look();
  await vi.advanceTimersByTimeAsync(2 * quietAfterMs);
  answer = "starting";
  await vi.advanceTimersByTimeAsync(3000);
  expect(await probesIn(10)).toBe(80);
});

describe("the first looks", () => {
  const limitMs = 3000;

  /** After how many ms everybody counts as looked at, for somebody who asks now. */
  function waitMs(): Promise<number> {
    const fromMs = performance.now();
    return health.everyFirstLook(limitMs).then(() => performance.now() - fromMs);
  }

  test.each(["silent", "refused"] as const)(
    "wait for a server that is %s at first",
    async (how) => {
      answerOfB = how;
      look();
      const waited = waitMs();
      await vi.advanceTimersByTimeAsync(1600);
      expect(health.view.replicas.get("b")?.state).toBe(how === "silent" ? "frozen" : "dead");
      answerOfB = undefined;
      await vi.advanceTimersByTimeAsync(5000);
      expect(await waited).toBeGreaterThan(1500);
      expect(await waited).toBeLessThan(2700);
    },
  );

  test("wait for one that stays away only as long as it is new", async () => {
    answerOfB = "refused";
    look();
    await vi.advanceTimersByTimeAsync(1000);
    const waited = waitMs();
    await vi.advanceTimersByTimeAsync(5000);
    expect(await waited).toBe(2000);
    expect(await waitMs()).toBe(0);
  });

  test("are over for one that was up and died", async () => {
    look();
    await vi.advanceTimersByTimeAsync(100);
    answerOfB = "refused";
    await vi.advanceTimersByTimeAsync(1500);
    expect(health.view.replicas.get("b")?.state).toBe("dead");
    expect(await waitMs()).toBe(0);
  });
});
