// The contract of core/store/secrets.ts, as promises that every store keeps: in memory, in a file, in Redis.

import { describe, expect, test } from "vitest";
import { secretLimitCharacters } from "../../core/store/secrets.ts";
import { backends, follower, sleep, worldsOf } from "./worlds.ts";

describe.each(backends())("a store $name", (backend) => {
  const open = worldsOf(backend);

  test("keeps a secret until every replica has it", async () => {
    const { store, other } = await open();
    await store.putSecret("one", "v1.sealed", ["a", "b"], 60_000);
    await store.putSecret("another", "v1.other", ["a"], 60_000);
    expect(await other.readSecret("one")).toBe("v1.sealed");
    await other.settleSecret("one", "a");
    await other.settleSecret("one", "a");
    await other.settleSecret("one", "nobody");
    expect(await store.readSecret("one")).toBe("v1.sealed");
    await store.settleSecret("one", "b");
    expect(await store.readSecret("one")).toBeUndefined();
    expect(await store.readSecret("another")).toBe("v1.other");
    // Settling what is gone is nothing, and does not bring it back.
    await store.settleSecret("one", "b");
    expect(await store.readSecret("one")).toBeUndefined();
  });

  test("forgets a secret whose time is up, whoever lacks it", async () => {
    const { store } = await open();
    await store.putSecret("short", "v1.sealed", ["a"], 80);
    expect(await store.readSecret("short")).toBe("v1.sealed");
    await sleep(120);
    expect(await store.readSecret("short")).toBeUndefined();
  });

  test("leaves a secret that is there as it is", async () => {
    const { store } = await open();
    await store.putSecret("one", "v1.first", ["a", "b"], 60_000);
    await store.settleSecret("one", "a");
    await store.putSecret("one", "v1.second", ["a", "b"], 60_000);
    expect(await store.readSecret("one")).toBe("v1.first");
    await store.settleSecret("one", "b");
    expect(await store.readSecret("one")).toBeUndefined();
  });

  test("keeps a secret through a restart, and tells nobody who follows", async () => {
    const { store, reopen } = await open();
    const { position } = await store.load();
    await store.putSecret("one", "v1.sealed", ["a"], 60_000);
    const following = follower(store, position);
    await sleep(50);
    await following.stop();
    expect(JSON.stringify(following.changes)).toBe("[]");
    expect(JSON.stringify(await store.load())).not.toContain("sealed");
    const again = await reopen();
    expect(await again.readSecret("one")).toBe("v1.sealed");
  });

  test.each([
    ["empty", "", ["a"], 1000],
    ["too long", "x".repeat(secretLimitCharacters + 1), ["a"], 1000],
    ["for nobody", "v1.x", [], 1000],
    ["without an end", "v1.x", ["a"], 0],
  ])(
    "refuses a secret that is %s, and repeats nothing of it",
    async (_name, sealed, replicas, ttlMs) => {
      const { store } = await open();
      const refusal = await store
        .putSecret("bad", sealed, replicas, ttlMs)
        .catch((error: unknown) => error);
      expect(refusal).toBeInstanceOf(RangeError);
      expect(String(refusal)).not.toContain("v1.x");
      expect(await store.readSecret("bad")).toBeUndefined();
    },
  );
});
