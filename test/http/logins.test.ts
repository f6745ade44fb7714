// Logins and logouts at a door whose store is away: they count there at once, and are told when the store is back.

import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { hashOf, type IdentityFacts, identityKey } from "../../core/cluster/identity.ts";
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
let work: Promise<void>;

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
  const log = openLog({ level: "silent", format: "json", fd: 2 }).log;
  store = await openRedisStore({ url: redis.url, limits: { ...storeLimits, callLimitMs: 1000 } });
  memory = new Memory({ store, seal: defaultSeal, log, tokensRemembered: 10, storeRetryMs: 50 });
  logins = new Logins({
    ...{ store, memory, seal: defaultSeal, log, metrics: createMetrics("1"), now: Date.now },
    ...{ knownId: (_replica, userId) => userId, replicaNames: () => ["a", "b"] },
    ...{
      everyFirstLook: async () => undefined,
      readyClients: () => new Map(),
      unknownKeepMs: 0,
      unknownLimit: 1,
      recognitionsLimit: 1,
    },
  });
  ending = new AbortController();
  work = memory.run(ending.signal);
  await memory.loaded;
});

afterEach(async () => {
  redis.thaw();
  ending.abort();
  await work;
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
  const identity = await logins.record({ token: tokenOf("second"), facts }, "a");
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
  await logins.end(await logins.record({ token: tokenOf("third"), facts }, "a"), "a logout");
  await logins.record({ token: tokenOf("fourth"), facts }, "a");
  await thaw();
  await eventually(async () => (await storedTokens()).includes(hashOf(tokenOf("fourth"))));
  // Whatever was told after it would have ended it by now.
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(await storedTokens()).toEqual([hashOf(tokenOf("fourth"))]);
  expect(memory.standingOf(tokenOf("fourth")).standing).toBe("current");
  expect(memory.standingOf(tokenOf("third")).standing).toBe("revoked");
});
