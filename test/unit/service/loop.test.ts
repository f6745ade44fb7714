// Waiting and doing again: what is given up ends, what fails waits longer, and nothing stays behind.

import { getEventListeners } from "node:events";
import { expect, test } from "vitest";
import { AssertionFailed, assert, must } from "../../../core/service/assert.ts";
import { backOffMs, repeat, restMs, retry, sleep } from "../../../core/service/loop.ts";

test("a sleeper wakes when its signal aborts", async () => {
  const controller = new AbortController();
  const slept = sleep(60_000, controller.signal);
  controller.abort();
  await slept;
  await sleep(60_000, controller.signal);
});

test("a sleep leaves no listener on a signal that lives on", async () => {
  const { signal } = new AbortController();
  for (let index = 0; index < 20; index++) await sleep(1, signal);
  expect(getEventListeners(signal, "abort")).toHaveLength(0);
});

test("a sleeper that may be woken wakes by either signal, and leaves nothing on the one that lives on", async () => {
  const life = new AbortController();
  for (let index = 0; index < 20; index++) {
    const wake = new AbortController();
    const slept = sleep(60_000, life.signal, wake.signal);
    wake.abort();
    await slept;
    await sleep(60_000, life.signal, wake.signal);
  }
  expect(getEventListeners(life.signal, "abort")).toHaveLength(0);
  const asleep = sleep(60_000, life.signal, new AbortController().signal);
  life.abort();
  await asleep;
});

test("waits are doubled up to the longest, and half of each is random", () => {
  const limits = { firstMs: 100, longestMs: 1000 };
  expect([0, 1, 2, 3, 4, 5, 50, 5000].map((failures) => backOffMs(failures, limits, 1))).toEqual([
    0, 100, 200, 400, 800, 1000, 1000, 1000,
  ]);
  expect(backOffMs(2, limits, 0)).toBe(100);
});

test("a loop ends with its signal, and its deeds do not overlap", async () => {
  const controller = new AbortController();
  let running = 0;
  let done = 0;
  await repeat(1, controller.signal, async (signal) => {
    expect(++running).toBe(1);
    await sleep(2, signal);
    running--;
    if (++done === 5) controller.abort();
  });
  expect(done).toBe(5);
});

test("a deed is tried again until it is done or given up", async () => {
  const controller = new AbortController();
  const limits = { firstMs: 1, longestMs: 2 };
  let tries = 0;
  expect(await retry(limits, controller.signal, async () => ++tries === 4)).toBe(true);
  expect(tries).toBe(4);
  const given = retry(limits, controller.signal, async () => {
    if (++tries === 8) controller.abort();
    return false;
  });
  expect(await given).toBe(false);
});

test("what cannot be is an assertion that failed", () => {
  expect(() => assert(false, "the sum is wrong")).toThrow(AssertionFailed);
  expect(() => must(undefined, "there is one")).toThrow("there is one");
  expect(must(0, "there is one")).toBe(0);
});

test("loops that rest for a second or longer wake in the same moments", () => {
  const wakeTimes = [1000, 2500, 10_000].flatMap((intervalMs) => {
    // Each began at another moment, and its deed takes a while.
    let nowMs = 123.4 + intervalMs / 7;
    return Array.from({ length: 20 }, () => {
      nowMs += restMs(intervalMs, nowMs);
      const wokenMs = nowMs;
      nowMs += 7.5;
      return wokenMs;
    });
  });
  expect(wakeTimes.filter((wokenMs) => wokenMs % 500 !== 0)).toEqual([]);
});

test("a loop that woke a moment too early or too late keeps its pace", () => {
  expect(restMs(1000, 4999.6)).toBeCloseTo(1000.4);
  expect(restMs(1000, 5300)).toBe(700);
  expect(restMs(1000, 5030)).toBe(970);
});

test("whoever looks every so many seconds does so on the second, with all others of the kind", () => {
  expect(restMs(1000, 5500)).toBe(500);
  expect(restMs(5000, 5500)).toBe(4500);
  // Others fall on half seconds, so that they come no sooner than they must.
  expect(restMs(2500, 5500)).toBe(2500);
});

test("what is due within a second keeps its own time", () => {
  expect(restMs(999, 5030)).toBe(999);
  expect(restMs(0, 5030)).toBe(0);
});
