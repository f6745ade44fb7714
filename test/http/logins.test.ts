// Logins and logouts at a door whose store is away: they count there at once, and are told when the store is back. And
// answers to a login that give a token which was logged out: those begin nothing, and are no failure of the store.

import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import {
  hashOf,
  type Identity,
  type IdentityFacts,
  identityKey,
} from "../../core/cluster/identity.ts";
import { Memory } from "../../core/cluster/memory.ts";
import { openLog } from "../../core/service/log.ts";
import { createMetrics } from "../../core/service/metrics.ts";
import { openRedisStore } from "../../core/store/redis.ts";
import { type Store, StoreUnavailable } from "../../core/store/store.ts";
import { Logins } from "../../proxy/logins.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { defaultSeal, eventually, storeLimits } from "./sidecar-cluster.ts";

let facts: IdentityFacts;
let key: string;
let devices = 0;

let redis: RedisServer;
let store: Store;
let memory: Memory;
let logins: Logins;
let ending: AbortController;
let works: Promise<void>[];

beforeAll(async () => {
  redis = await startRedis();
});

afterAll(async () => {
  await redis.stop();
});

beforeEach(async () => {
  // A device of its own: what an earlier test, or an earlier try of this one, has left is not this login's.
  facts = {
    kind: "user",
    userId: "0123456789abcdef0123456789abcdef",
    userName: "root",
    deviceId: `chair-${++devices}`,
    client: "Test",
    device: "Chair",
    version: "1",
  };
  key = identityKey(facts.userId, facts.deviceId);
  store = await openRedisStore({ url: redis.url, limits: { ...storeLimits, callLimitMs: 1000 } });
  ending = new AbortController();
  works = [];
  ({ memory, logins } = await doorOver(store));
});

/** A door's part, over the store as that door meets it. */
async function doorOver(met: Store): Promise<{ readonly memory: Memory; readonly logins: Logins }> {
  const { log } = openLog({ level: "silent", format: "json", fd: 2 });
  const own = { store: met, seal: defaultSeal, log };
  const its = new Memory({ ...own, tokensRemembered: 10, storeRetryMs: 50 });
  works.push(its.run(ending.signal));
  await its.loaded;
  const made = new Logins({
    ...{ ...own, memory: its, metrics: createMetrics("1"), now: Date.now },
    ...{ knownId: (_replica, userId) => userId, replicaNames: () => ["a", "b"] },
    ...{
      everyFirstLook: async () => undefined,
      readyClients: () => new Map(),
      unknownKeepMs: 0,
      unknownLimit: 1,
      recognitionsLimit: 1,
    },
  });
  return { memory: its, logins: made };
}

afterEach(async () => {
  redis.thaw();
  ending.abort();
  await Promise.all(works);
  await store.close();
});

/** The store is away, and the door knows it: what it does now is not sent there and carried out by the thaw. */
function freeze(): void {
  redis.freeze();
  memory.noteStoreFailure(new StoreUnavailable("it was frozen"));
}

/** The store is back, and somebody has noticed, as a door does by its next sign of life. */
async function thaw(): Promise<void> {
  redis.thaw();
  await eventually(() =>
    store.time().then(
      () => true,
      () => false,
    ),
  );
  memory.noteStoreSuccess();
}

/** One that no other test, and no other try of this one, has used: a token that was logged out stays so. */
function tokenOf(name: string): string {
  return `${name} of ${facts.deviceId}`;
}

/** Somebody logs in; the identity that began. */
async function begun(name: string): Promise<Identity> {
  const identity = await logins.record({ token: tokenOf(name), facts }, "a");
  if (identity === undefined) throw new Error("no login began");
  return identity;
}

async function storedTokens(): Promise<readonly string[]> {
  const { identities } = await store.load();
  return identities.flatMap((identity) =>
    identity.key === key ? Object.values(identity.tokens).map(({ hash }) => hash) : [],
  );
}

test("a login counts at once, and is in the store when that is back", async () => {
  freeze();
  await logins.record({ token: tokenOf("first"), facts }, "a");
  expect(memory.standingOf(tokenOf("first")).standing).toBe("current");
  await thaw();
  await eventually(async () => (await storedTokens()).includes(hashOf(tokenOf("first"))));
});

test("a logout counts at once, and every server has to hear of it when the store is back", async () => {
  const identity = await begun("second");
  freeze();
  await logins.end(identity, "a logout");
  expect(memory.standingOf(tokenOf("second")).standing).toBe("revoked");
  await thaw();
  await eventually(async () => {
    const { revocations } = await store.load();
    return revocations.some(({ tokens }) => tokens.a?.hash === hashOf(tokenOf("second")));
  });
  expect(await storedTokens()).toEqual([]);
});

test("of logins and logouts on one device the last one counts when the store is back", async () => {
  freeze();
  await logins.end(await begun("third"), "a logout");
  await logins.record({ token: tokenOf("fourth"), facts }, "a");
  await thaw();
  await eventually(async () => (await storedTokens()).includes(hashOf(tokenOf("fourth"))));
  // Whatever was told after it would have ended it by now.
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(await storedTokens()).toEqual([hashOf(tokenOf("fourth"))]);
  expect(memory.standingOf(tokenOf("fourth")).standing).toBe("current");
  expect(memory.standingOf(tokenOf("third")).standing).toBe("revoked");
});

/** Long enough for what waits to have been told. */
function aWhile(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 300));
}

// QuickConnect's secret gives the same answer again for ten minutes, also when its token was logged out meanwhile.
// It was taken for a failure of the store, at every try, and waited to be told to it for as long as the door ran:
// nothing was minted there, and passwords, lists and administration were refused.
test("an answer that gives a token which was logged out begins no login", async () => {
  await logins.end(await begun("fifth"), "a logout");
  const { position } = await store.load();
  expect(await logins.record({ token: tokenOf("fifth"), facts }, "a")).toBeUndefined();
  expect(memory.storeAvailable).toBe(true);
  freeze();
  expect(await logins.record({ token: tokenOf("fifth"), facts }, "a")).toBeUndefined();
  await thaw();
  await aWhile();
  expect(memory.storeAvailable).toBe(true);
  expect((await store.load()).position).toBe(position);
  expect(memory.standingOf(tokenOf("fifth")).standing).toBe("revoked");
});

test("nor at a door that has not heard of the logout yet, whether the store is there or comes back", async () => {
  const deaf = { ...store, follow: untilAborted };
  const [first, second] = [await doorOver(deaf), await doorOver(deaf)];
  await logins.end(await begun("sixth"), "a logout");
  const { position } = await store.load();
  const login = { token: tokenOf("sixth"), facts };
  expect(first.memory.standingOf(login.token).standing).toBe("unknown");
  expect(await first.logins.record(login, "a")).toBeUndefined();
  expect(first.memory.standingOf(login.token).standing).toBe("revoked");
  expect(first.memory.storeAvailable).toBe(true);
  second.memory.noteStoreFailure(new StoreUnavailable("it was away"));
  // Without the store this one cannot know better.
  expect((await second.logins.record(login, "a"))?.key).toBe(key);
  second.memory.noteStoreSuccess();
  await eventually(() => second.memory.standingOf(login.token).standing === "revoked");
  expect(second.memory.storeAvailable).toBe(true);
  expect((await store.load()).position).toBe(position);
});

function untilAborted(_: string, _changes: unknown, signal: AbortSignal): Promise<"aborted"> {
  return new Promise((resolve) => {
    signal.addEventListener("abort", () => resolve("aborted"), { once: true });
  });
}

test("a token that is good already begins nothing while the store is away, as it does while it is there", async () => {
  const identity = await begun("seventh");
  freeze();
  expect(await logins.record({ token: tokenOf("seventh"), facts }, "a")).toEqual(identity);
  expect(memory.identities.get(key)?.generation).toBe(identity.generation);
  await thaw();
  await aWhile();
  expect(await storedTokens()).toEqual([hashOf(tokenOf("seventh"))]);
});

test("a login that the store does not take though it is there is no failure of it, and keeps no other waiting", async () => {
  const odd = hashOf(tokenOf("odd"));
  let tries = 0;
  const door = await doorOver({
    ...store,
    async recordLogin(login) {
      if (login.hash !== odd) return await store.recordLogin(login);
      tries++;
      return { outcome: "stale", generation: login.expectedGeneration };
    },
  });
  expect(await door.logins.record({ token: tokenOf("odd"), facts }, "a")).toBeUndefined();
  expect(door.memory.storeAvailable).toBe(true);
  door.memory.noteStoreFailure(new StoreUnavailable("it was away"));
  await door.logins.record({ token: tokenOf("odd"), facts }, "a");
  const other = { ...facts, deviceId: `${facts.deviceId}, the other one` };
  await door.logins.record({ token: tokenOf("eighth"), facts: other }, "a");
  const triesBefore = tries;
  door.memory.noteStoreSuccess();
  key = identityKey(other.userId, other.deviceId);
  await eventually(async () => (await storedTokens()).includes(hashOf(tokenOf("eighth"))));
  expect(door.memory.storeAvailable).toBe(true);
  expect(tries).toBeGreaterThan(triesBefore);
  // It is tried again whenever the store comes back.
  const triesThen = tries;
  door.memory.noteStoreFailure(new StoreUnavailable("it was away"));
  door.memory.noteStoreSuccess();
  await eventually(() => tries > triesThen);
});
