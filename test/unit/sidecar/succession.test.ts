// By which doors know that the leader has what others were told of lists: when it is written, and when it is not.

import { afterEach, beforeEach, expect, test } from "vitest";
import { listsLeaseOf } from "../../../core/cluster/journal-cursor.ts";
import { StoreUnavailable } from "../../../core/store/store.ts";
import { runSuccession } from "../../../sidecar/journal/succession.ts";
import { until } from "../../support/viewer.ts";

let leaseNumber: number | undefined;
let settle: (() => void)[];
let written: string[];
let isAway: boolean;
let stop: AbortController;
let running: Promise<void>;
const listeners = new Set<() => void>();

beforeEach(() => {
  leaseNumber = undefined;
  settle = [];
  written = [];
  isAway = false;
  stop = new AbortController();
  running = runSuccession(
    {
      hands: { replica: "b", memory: { apply: () => undefined, storeNowMs: () => 0 } as never },
      store: {
        putNote: async ({ id, value }) => {
          if (isAway) throw new StoreUnavailable("away");
          written.push(`${id}=${value}`);
        },
        dropNotes: async () => undefined,
      },
      follower: {
        settled: (_lane, signal) =>
          new Promise((resolve) => {
            settle.push(resolve);
            signal.addEventListener("abort", () => resolve());
          }),
      },
      lease: {
        mayAct: () =>
          leaseNumber === undefined ? undefined : { epoch: { number: leaseNumber, owner: "" } },
        onChange(listener) {
          listeners.add(listener);
          return () => listeners.delete(listener);
        },
      },
      storeRetryMs: 5,
    },
    stop.signal,
  );
});

afterEach(async () => {
  stop.abort();
  await running;
  expect(listeners.size).toBe(0);
});

function lead(number: number | undefined): void {
  leaseNumber = number;
  for (const listener of [...listeners]) listener();
}

test("whoever leads says so once its server has all lists, and under which lease", async () => {
  lead(7);
  await until(1000, "it waits", async () => settle.length === 1);
  expect(written).toEqual([]);
  isAway = true;
  settle[0]?.();
  await new Promise((resolve) => setTimeout(resolve, 30));
  isAway = false;
  await until(1000, "it is written when the store is back", async () => written.length === 1);
  expect(written).toEqual(["b:lists=7"]);
});

test("nothing is said under a lease that ended meanwhile, and the next one begins anew", async () => {
  lead(7);
  await until(1000, "it waits", async () => settle.length === 1);
  lead(undefined);
  await new Promise((resolve) => setTimeout(resolve, 20));
  lead(9);
  await until(1000, "it waits again", async () => settle.length === 2);
  expect(written).toEqual([]);
  settle[1]?.();
  await until(1000, "it is written", async () => written.length === 1);
  expect(written).toEqual(["b:lists=9"]);
});

test.each([
  ["7", 7],
  ["", undefined],
  ["-1", undefined],
  ["7e3", undefined],
  ["12345678901234567", undefined],
])("a note that says %j is the lease %j", (value, expected) => {
  const note = { kind: "replica", id: "b:lists", replica: "b", value, expiresAtMs: 0 } as const;
  expect(listsLeaseOf(new Map([[note.id, note]]), "b")).toBe(expected);
});
