// What one process remembers of the cluster: on a real embedded store, with a real seal.

import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Identity, identityKey, sealContext } from "../../../core/cluster/identity.ts";
import { Memory } from "../../../core/cluster/memory.ts";
import { createSeal } from "../../../core/service/seal.ts";
import { openEmbeddedStore } from "../../../core/store/embedded.ts";
import type { Store } from "../../../core/store/store.ts";

const seal = createSeal("a cluster key for tests only");
const limits = { changesKept: 1000, revokedKeepMs: 3_600_000, callLimitMs: 1000 };
const quiet = { info: () => undefined, warn: () => undefined };
const userId = "0123456789abcdef0123456789abcdef";
const key = identityKey(userId, "tv");
const facts = {
  kind: "user",
  userId,
  userName: "Root",
  deviceId: "tv",
  client: "Test",
  device: "TV",
  version: "1",
} as const;

function memoryOf(store: Store): Memory {
  return new Memory({ store, seal, log: quiet, tokensRemembered: 100, storeRetryMs: 10 });
}

function identity(
  generation: number,
  tokens: Record<string, string>,
  former: string[] = [],
): Identity {
  const sealed = Object.entries(tokens).map(([replica, token]) => [
    replica,
    {
      hash: memory.hashOf(token),
      sealed: seal.seal(token, sealContext(key, generation, replica)),
    },
  ]);
  return {
    ...facts,
    key,
    generation,
    startedAtMs: 0,
    origin: "a",
    tokens: Object.fromEntries(sealed),
    ...(former.length > 0 && { formerHashes: former.map((token) => memory.hashOf(token)) }),
  };
}

let store: Store;
let memory: Memory;

beforeEach(() => {
  store = openEmbeddedStore({ limits });
  memory = memoryOf(store);
});
afterEach(() => store.close());

describe("a token", () => {
  test("is its identity on every replica that gave it", () => {
    memory.apply({ type: "identity", identity: identity(1, { a: "token-a", b: "token-b" }) });
    for (const token of ["token-a", "token-b"]) {
      expect(memory.standingOf(token)).toMatchObject({ standing: "current", identity: { key } });
    }
    expect(memory.standingOf("token-c")).toEqual({ standing: "unknown" });
  });

  test("opens only where it is the identity's own", () => {
    const known = identity(1, { a: "token-a", b: "token-b" });
    memory.apply({ type: "identity", identity: known });
    expect(memory.openToken(known, "b")).toBe("token-b");
    expect(memory.openToken(known, "c")).toBeUndefined();
  });

  test("that was replaced on its replica is still the identity", () => {
    memory.apply({ type: "identity", identity: identity(1, { a: "new" }, ["old"]) });
    expect(memory.standingOf("old")).toMatchObject({ standing: "current" });
  });

  test("of an ended generation never works again, whatever comes late", () => {
    const known = identity(1, { a: "token-a" }, ["older"]);
    memory.apply({ type: "identity", identity: known });
    memory.revokeLocally(known);
    memory.apply({ type: "identity", identity: known });
    memory.apply({ type: "identity", identity: identity(2, { a: "token-a" }) });
    expect(memory.standingOf("token-a")).toEqual({ standing: "revoked" });
    expect(memory.standingOf("older")).toEqual({ standing: "revoked" });
  });

  test("of a pending revocation is refused as soon as the revocation is heard of", () => {
    const { tokens } = identity(1, { a: "token-a" });
    memory.apply({
      type: "revocation",
      revocation: {
        id: "r1",
        identityKey: key,
        generation: 1,
        userId,
        deviceId: "tv",
        tokens,
        pending: ["a"],
      },
    });
    expect(memory.standingOf("token-a")).toEqual({ standing: "revoked" });
    expect(memory.revocations.size).toBe(1);
  });
});

test("a newer generation takes the place of an older one, never the other way", () => {
  memory.apply({ type: "identity", identity: identity(3, { a: "three" }) });
  memory.apply({ type: "identity", identity: identity(2, { a: "two" }) });
  expect(memory.identities.get(key)?.generation).toBe(3);
  expect(memory.standingOf("two")).toEqual({ standing: "unknown" });
});

test("a user is found by name in any letter case", () => {
  memory.apply({ type: "identity", identity: identity(1, { a: "token-a" }) });
  expect(memory.userIdOfName("rOOT")).toBe(userId);
  // Two small letters with one capital: Jellyfin compares in upper case (UserManager.GetUserByName).
  const nikos = {
    ...identity(1, { a: "token-b" }),
    key: "nikos",
    userName: "\u03bd\u03b9\u03ba\u03bf\u03c2",
  };
  memory.apply({ type: "identity", identity: nikos });
  expect(memory.userIdOfName("\u03bd\u03b9\u03ba\u03bf\u03c3")).toBe(userId);
});

test("a home of an older epoch does not undo a move", () => {
  const home = { userId, epoch: { number: 2, owner: "p" }, replica: "b", movedAtMs: 0 };
  const moves: string[] = [];
  memory.onHome(({ replica }) => moves.push(replica));
  memory.apply({ type: "home", home });
  memory.apply({ type: "home", home: { ...home, replica: "a", epoch: { number: 1, owner: "q" } } });
  memory.apply({ type: "home", home });
  expect(memory.homes.get(userId)?.replica).toBe("b");
  expect(moves).toEqual(["b"]);
});

test("a pin is as if it had never been once its time is over", () => {
  const pin = {
    kind: "quickConnectSecret",
    id: "x",
    replica: "a",
    epoch: { number: 1, owner: "p" },
    expiresAtMs: 1000,
  } as const;
  memory.apply({ type: "pin", pin });
  expect(memory.pinOf("quickConnectSecret", "x", 999)).toEqual(pin);
  expect(memory.pinOf("quickConnectSecret", "x", 1000)).toBeUndefined();
});

test("a store that lost its data is given the logins back, and nobody is logged out", async () => {
  memory.apply({ type: "identity", identity: identity(4, { a: "token-a", b: "token-b" }) });
  const ending = new AbortController();
  const running = memory.run(ending.signal);
  await memory.loaded;
  expect(memory.standingOf("token-a")).toMatchObject({ standing: "current" });
  await expect.poll(async () => (await store.load()).identities.length).toBe(1);
  await expect
    .poll(async () => Object.keys((await store.load()).identities[0]?.tokens ?? {}).sort())
    .toEqual(["a", "b"]);
  const other = memoryOf(store);
  for (const known of (await store.load()).identities)
    other.apply({ type: "identity", identity: known });
  const again = other.standingOf("token-b");
  expect(again.standing).toBe("current");
  if (again.standing === "current") expect(other.openToken(again.identity, "b")).toBe("token-b");
  ending.abort();
  await running;
});
