// Who gives the recorder up, and when: a keeper on an embedded store, with the clock in the test's hand.

import { afterEach, beforeEach, expect, test } from "vitest";
import { Memory } from "../../../core/cluster/memory.ts";
import { createSeal } from "../../../core/service/seal.ts";
import { openEmbeddedStore } from "../../../core/store/embedded.ts";
import { type Store, StoreUnavailable } from "../../../core/store/store.ts";
import { RecorderKeeper } from "../../../sidecar/recorder.ts";

const awayLimitMs = 60_000;
const seal = createSeal("a cluster key for tests only");

let nowMs = 1_700_000_000_000;
let leads = true;
let calls: string[] = [];
let store: Store;
let memory: Memory;
let keeper: RecorderKeeper;
let ending: AbortController;
let work: Promise<unknown>;

beforeEach(async () => {
  leads = true;
  calls = [];
  store = openEmbeddedStore({
    limits: { changesKept: 1000, revokedKeepMs: 3_600_000, callLimitMs: 1000 },
    now: () => nowMs,
  });
  const log = { info: () => undefined, warn: () => undefined };
  memory = new Memory({
    ...{ store, seal, log, tokensRemembered: 10, storeRetryMs: 5 },
    wallMs: () => nowMs,
  });
  ending = new AbortController();
  keeper = new RecorderKeeper({
    replica: "b",
    owner: "b's sidecar",
    client: {
      async callWithKey(method, path) {
        calls.push(`${method} ${path}`);
        return { outcome: "answered", status: 200, text: '{"Items":[]}' };
      },
    },
    ...{ store, memory, seal, log, awayLimitMs },
    lease: { mayAct: () => (leads ? { epoch: { number: 1, owner: "b's sidecar" } } : undefined) },
    isHealthy: () => true,
    others: () => ["a"],
    monotonicMs: () => nowMs,
    wallMs: () => nowMs,
  });
  work = Promise.all([memory.run(ending.signal), keeper.run(ending.signal)]);
  await memory.loaded;
});

afterEach(async () => {
  ending.abort();
  await work;
  await store.close();
});

/** Somebody has asked for a recording at `a`, which was heard of then. */
async function recordAtA(): Promise<void> {
  const pin = { kind: "recorder", id: "recorder", owner: "door", ttlMs: 10 ** 10 } as const;
  await store.movePin({ ...pin, replica: "a", expectedEpoch: 0 });
  await looked();
}

/** The keeper has looked at the world as it is now. */
async function looked(): Promise<void> {
  keeper.look();
  await new Promise((resolve) => setTimeout(resolve, 30));
}

function recorder(): string | undefined {
  return memory.pinOf("recorder", "recorder", nowMs)?.replica;
}

test("a recorder that says nothing for too long is followed, by the leader's word", async () => {
  await recordAtA();
  nowMs += awayLimitMs - 1;
  await looked();
  expect(recorder()).toBe("a");
  nowMs += 1;
  await looked();
  expect(recorder()).toBe("b");
});

test("whoever does not lead leaves the recorder alone", async () => {
  leads = false;
  await recordAtA();
  nowMs += 10 * awayLimitMs;
  await looked();
  expect(recorder()).toBe("a");
});

test("one that is heard of keeps it", async () => {
  await recordAtA();
  for (let saying = 1; saying < 5; saying += 1) {
    const value = JSON.stringify({ recordsAtMs: saying });
    await store.putNote({ kind: "replica", id: "a:recorder", replica: "a", value }, 0);
    nowMs += awayLimitMs - 1;
    await looked();
  }
  expect(recorder()).toBe("a");
});

test("what was not heard while the store was away does not count", async () => {
  await recordAtA();
  nowMs += awayLimitMs / 2;
  memory.noteStoreFailure(new StoreUnavailable("away"));
  nowMs += awayLimitMs;
  await looked();
  memory.noteStoreSuccess();
  nowMs += awayLimitMs / 2;
  await looked();
  expect(recorder()).toBe("a");
});

test("while nobody has ever asked for a recording, nothing is asked of the server", async () => {
  await looked();
  await looked();
  expect(calls).toEqual([]);
});
