// What only a store in Redis must promise: it is emptied, killed, frozen, replaced and badly set up, and
// whoever uses it is told within the limit, without a secret, and goes on when it is back.

import { readFileSync } from "node:fs";
import { createServer, connect as dial, type Socket } from "node:net";
import { Redis } from "ioredis";
import { describe, expect, test } from "vitest";
import { keyNameOf, keyTable, storeKeys } from "../../core/store/keys.ts";
import { openRedisStore, type RedisStore, redisAddress } from "../../core/store/redis.ts";
import { loadScripts, scriptsFolder } from "../../core/store/scripts.ts";
import {
  type LeaseAnswer,
  LeaseUnavailable,
  noteKinds,
  StoreNotOpened,
  StoreUnavailable,
} from "../../core/store/store.ts";
import { freePort, startRedis } from "../support/redis.ts";
import { startSentinels } from "../support/sentinel.ts";
import { callLimitMs, serverOfFile, untilAvailable } from "./on-redis.ts";
import { defaultLimits, follower, login, sleep, token } from "./worlds.ts";

/** What a timer and a busy machine may add to the limit. */
const slackMs = 2000;

const { server, admin, open } = await serverOfFile();

/** Every verb fails as unavailable, within its limit. */
async function expectUnavailable(store: RedisStore): Promise<void> {
  const verbs = [
    () => store.load(),
    () => store.clusterId(),
    () => store.time(),
    () => store.recordLogin(login("k", "h9", 2)),
    () => store.revoke("k", ["a"]),
    () => store.members(),
    () => store.touchProxy({ proxy: "p", reachable: {} }, 1000),
  ];
  const startedAtMs = performance.now();
  for (const result of await Promise.allSettled(verbs.map((verb) => verb()))) {
    expect(result.status).toBe("rejected");
    if (result.status === "rejected") expect(result.reason).toBeInstanceOf(StoreUnavailable);
  }
  expect(performance.now() - startedAtMs).toBeLessThan(callLimitMs + slackMs);
}

describe("when Redis is emptied", () => {
  test("followers are told lost at the next change", async () => {
    const store = await open();
    await store.recordLogin(login("k", "h1", 1));
    const first = await store.clusterId();
    const following = follower(store, (await store.load()).position);
    await sleep(50);
    await admin.flushall();
    await store.recordLogin(login("k", "h2", 1));
    expect(await following.result).toBe("lost");
    expect(following.changes).toEqual([]);
    expect(await store.clusterId()).not.toBe(first);
  });

  test("followers are told lost also when nothing ever changes again", async () => {
    const store = await open({ followIdleMs: 200 });
    await store.recordLogin(login("k", "h1", 1));
    const following = follower(store, (await store.load()).position);
    await sleep(50);
    await admin.flushall();
    const startedAtMs = performance.now();
    expect(await following.result).toBe("lost");
    expect(performance.now() - startedAtMs).toBeLessThan(200 + slackMs);
  });

  test("followers of data in which nothing ever happened are told lost, too", async () => {
    await admin.flushall();
    const store = await open({ followIdleMs: 200 });
    const following = follower(store, (await store.load()).position);
    await sleep(50);
    await admin.flushall();
    await store.clusterId();
    expect(await following.result).toBe("lost");
  });

  test("a follower that was away is told lost, though the new data have as many changes", async () => {
    const store = await open();
    for (const key of ["k", "l", "m"]) await store.recordLogin(login(key, `${key}1`, 1));
    const { position } = await store.load();
    await admin.flushall();
    for (const key of ["k", "l", "m", "n"]) await store.recordLogin(login(key, `${key}2`, 1));
    const signal = new AbortController().signal;
    expect(await store.follow(position, () => undefined, signal)).toBe("lost");
  });

  test("the scripts are given to it again", async () => {
    const store = await open();
    await store.claimHome({
      userId: "u",
      replica: "a",
      expectedEpoch: 0,
      owner: "o",
      minStayMs: 0,
    });
    await admin.script("FLUSH");
    const answers = await Promise.all(
      ["u", "v", "w"].map((userId) =>
        store.claimHome({ userId, replica: "b", expectedEpoch: 0, owner: "o", minStayMs: 0 }),
      ),
    );
    expect(answers.map((answer) => answer.granted)).toEqual([false, true, true]);
    await admin.flushall();
  });
});

describe("after a failover that lost the last writes", () => {
  test("a follower that saw them is told lost", async () => {
    const store = await open();
    const keys = storeKeys("jellybloom");
    await store.recordLogin(login("k", "h1", 1));
    await store.recordLogin(login("l", "h2", 1));
    const seen = (await store.load()).position;
    // What the new master never received: the last entry, and all that came with it.
    const last = await admin.xrevrange(keys.changes, "+", "-", "COUNT", 1);
    await admin.xdel(keys.changes, last[0]?.[0] ?? "");
    await admin.xtrim(keys.changes, "MAXLEN", 1);
    await admin.hset(keys.meta, "lastNumber", 1);
    const copy = await admin.xrange(keys.changes, "-", "+");
    await admin.del(keys.changes);
    const [id = "", fields = []] = copy[0] ?? [];
    await admin.xadd(keys.changes, id, ...fields);
    const signal = new AbortController().signal;
    expect(await store.follow(seen, () => undefined, signal)).toBe("lost");
    // Another write took the number of the lost one.
    await store.recordLogin(login("m", "h3", 1));
    await store.recordLogin(login("n", "h4", 1));
    expect((await store.load()).position.split("/")[1]).not.toBe(seen.split("/")[1]);
    expect(await store.follow(seen, () => undefined, signal)).toBe("lost");
    await admin.flushall();
  });
});

describe("when Redis is gone", () => {
  test("calls and followers fail within the limit, and go on where they were when it is back", async () => {
    const own = await startRedis({ args: ["--appendonly", "yes", "--appendfsync", "always"] });
    try {
      const store = await open({ url: own.url });
      await store.recordLogin(login("k", "h1", 1));
      const { position } = await store.load();
      const following = follower(store, position);
      await sleep(50);
      const startedAtMs = performance.now();
      await own.kill9();
      await expect(following.result).rejects.toBeInstanceOf(StoreUnavailable);
      expect(performance.now() - startedAtMs).toBeLessThan(callLimitMs + slackMs);
      await expectUnavailable(store);
      await expect(follower(store, position).result).rejects.toBeInstanceOf(StoreUnavailable);
      await own.restart();
      const outcome = await untilAvailable(() => store.recordLogin(login("k", "h2", 2)));
      expect(outcome).toMatchObject({ outcome: "recorded", identity: { generation: 2 } });
      const again = follower(store, position);
      await again.until(2);
      await again.stop();
      expect(again.changes.map((change) => change.type)).toEqual(["identity", "revoked"]);
    } finally {
      await own.stop();
    }
  });

  test("a call that is under way when it dies fails at once", async () => {
    const own = await startRedis();
    try {
      const store = await open({
        url: own.url,
        limits: { ...defaultLimits, callLimitMs: 20_000 },
      });
      own.freeze();
      const call = store.load();
      const outcome = expect(call).rejects.toBeInstanceOf(StoreUnavailable);
      await sleep(50);
      const startedAtMs = performance.now();
      await own.kill9();
      await outcome;
      expect(performance.now() - startedAtMs).toBeLessThan(slackMs);
    } finally {
      await own.stop();
    }
  });

  test("a process can start, and finds it when it comes", async () => {
    const port = await freePort();
    const startedAtMs = performance.now();
    const store = await open({ url: `redis://127.0.0.1:${port}` });
    expect(performance.now() - startedAtMs).toBeLessThan(callLimitMs + slackMs);
    await expectUnavailable(store);
    const own = await startRedis({ port });
    try {
      expect((await untilAvailable(() => store.load())).identities).toEqual([]);
    } finally {
      await own.stop();
    }
  });
});

describe("behind Sentinel", () => {
  test("a store goes on with the new master when the master dies", async () => {
    const sentinels = await startSentinels();
    try {
      const [master, copy] = sentinels.servers;
      const store = await open({ url: sentinels.url });
      await store.recordLogin(login("k", "h1", 1));
      const { position } = await store.load();
      const link = new Redis(copy.url, { protocol: 2 });
      while ((await link.hlen(storeKeys("jellybloom").identities)) === 0) await sleep(10);
      link.disconnect();
      await master.kill9();
      const outcome = await untilAvailable(() => store.recordLogin(login("k", "h2", 2)), 20_000);
      expect(outcome).toMatchObject({ outcome: "recorded", identity: { generation: 2 } });
      const following = follower(store, position);
      await following.until(2);
      await following.stop();
    } finally {
      await sentinels.stop();
    }
  }, 60_000);
});

describe("the leader's lease", () => {
  const claim = { replica: "a", gateUrl: "", owner: "o", ttlMs: 60_000, above: 0 };
  const numberOf = (answer: LeaseAnswer) => (answer.held ? answer.lease.epoch.number : undefined);

  test("is not given to who no longer has the lock, whatever the lease says", async () => {
    await admin.flushall();
    const store = await open();
    const other = await open();
    expect(numberOf(await store.holdLease(claim))).toBe(1);
    // Another process was granted the lock, as after a pause that outlived it.
    await admin.set(storeKeys("jellybloom").lock, "another's value", "PX", 60_000);
    expect(await store.holdLease(claim)).toMatchObject({ held: false, lease: { replica: "a" } });
    await admin.del(storeKeys("jellybloom").lock);
    expect(numberOf(await other.holdLease({ ...claim, owner: "p" }))).toBe(2);
    expect((await store.holdLease(claim)).held).toBe(false);
  });

  test("keeps counting where Redis forgot everything, as far as anybody remembers", async () => {
    await admin.flushall();
    const store = await open();
    const other = await open();
    for (let times = 1; times <= 3; times += 1) {
      expect(numberOf(await store.holdLease(claim))).toBe(times);
      await store.releaseLease("o");
    }
    await admin.flushall();
    // The owner remembers its own, and another is told by those it asks.
    expect(numberOf(await store.holdLease(claim))).toBe(4);
    await store.releaseLease("o");
    await admin.flushall();
    expect(numberOf(await other.holdLease({ ...claim, owner: "p", above: 4 }))).toBe(5);
  });

  test("whose number was lost with the last writes is granted above it to the lock's holder", async () => {
    await admin.flushall();
    const store = await open();
    expect(numberOf(await store.holdLease({ ...claim, above: 6 }))).toBe(7);
    // The lock came over to the new master, what was written after it did not.
    await admin.del(storeKeys("jellybloom").lease, storeKeys("jellybloom").leaseEpoch);
    expect(numberOf(await store.holdLease(claim))).toBe(8);
  });

  test("lies in the database that the address names, also beyond the first sixteen", async () => {
    const own = await startRedis({ args: ["--databases", "20"] });
    const look = new Redis(own.url, { protocol: 2 });
    try {
      for (const db of [0, 3, 18]) {
        const store = await open({ url: `${own.url}/${db}` });
        expect(numberOf(await store.holdLease({ ...claim, owner: `o${db}` }))).toBe(1);
        await look.select(db);
        expect(await look.exists(storeKeys("jellybloom").lock)).toBe(1);
      }
    } finally {
      look.disconnect();
      await own.stop();
    }
  });

  test("needs more than half of the servers that hold its lock, and forgives the silence of the others", async () => {
    const [second, third] = await Promise.all([startRedis(), startRedis()]);
    const own = await startRedis();
    try {
      const lockUrls = [second.url, third.url];
      const store = await open({ url: own.url, lockUrls });
      const other = await open({ url: own.url, lockUrls });
      expect(numberOf(await store.holdLease(claim))).toBe(1);
      second.freeze();
      expect(numberOf(await store.holdLease(claim))).toBe(1);
      expect((await other.holdLease({ ...claim, owner: "p" })).held).toBe(false);
      await third.kill9();
      // The store is there, and whoever asks it goes on; only who leads cannot be known.
      await expect(store.holdLease(claim)).rejects.toBeInstanceOf(LeaseUnavailable);
      expect((await store.load()).lease?.replica).toBe("a");
      second.thaw();
      // The lock is the same one still, so the epoch is, too.
      expect(await untilAvailable(async () => numberOf(await store.holdLease(claim)))).toBe(1);
      await store.releaseLease("o");
      expect(
        await untilAvailable(async () => numberOf(await other.holdLease({ ...claim, owner: "p" }))),
      ).toBe(2);
    } finally {
      second.thaw();
      await Promise.all([own.stop(), second.stop(), third.stop()]);
    }
  }, 30_000);

  test("is not spread over an even number of servers", async () => {
    await expect(open({ lockUrls: [server.url] })).rejects.toThrow(/even number of further ones/);
  });

  test("keeps its lock's value from everybody else", async () => {
    await admin.flushall();
    const store = await open();
    await store.holdLease(claim);
    const value = await admin.get(storeKeys("jellybloom").lock);
    expect(value).toMatch(/^[0-9a-f]{32}$/);
    const feed = JSON.stringify(await admin.xrange(storeKeys("jellybloom").changes, "-", "+"));
    expect(feed).toContain("lease");
    expect(feed).not.toContain(value);
    expect(JSON.stringify(await store.load())).not.toContain(value);
  });
});

describe("when Redis is frozen", () => {
  test("calls and followers fail within the limit, and go on soon after it thaws", async () => {
    const own = await startRedis();
    try {
      const store = await open({ url: own.url, followIdleMs: 300 });
      await store.recordLogin(login("k", "h1", 1));
      const { position } = await store.load();
      const following = follower(store, position);
      await sleep(50);
      own.freeze();
      await expectUnavailable(store);
      await expect(following.result).rejects.toBeInstanceOf(StoreUnavailable);
      // Now the system accepts new connections in Redis's name, and nothing answers on them.
      await expectUnavailable(store);
      const startedAtMs = performance.now();
      await expect(follower(store, position).result).rejects.toBeInstanceOf(StoreUnavailable);
      expect(performance.now() - startedAtMs).toBeLessThan(callLimitMs + slackMs);
      const stopping = follower(store, position);
      await sleep(20);
      expect(await stopping.stop()).toBe("aborted");
      own.thaw();
      const again = await untilAvailable(() => store.load(), 3000);
      expect(again.identities).toHaveLength(1);
    } finally {
      own.thaw();
      await own.stop();
    }
  });

  test("a process that closes its store is not held up", async () => {
    const own = await startRedis();
    try {
      const store = await open({ url: own.url });
      own.freeze();
      const startedAtMs = performance.now();
      await store.close();
      expect(performance.now() - startedAtMs).toBeLessThan(callLimitMs + slackMs);
    } finally {
      own.thaw();
      await own.stop();
    }
  });
});

describe("when the network loses everything", () => {
  test("the connection is given up after one limit, and a new one is made", async () => {
    // A relay that can stop carrying bytes without closing anything, as a partition does.
    const sockets = new Set<Socket>();
    let carries = true;
    const relay = createServer((client) => {
      const upstream = dial(server.port, "127.0.0.1");
      const mine = carries;
      for (const [from, to] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        sockets.add(from);
        from.on("error", () => undefined);
        from.on("data", (bytes) => {
          if (carries && mine) to.write(bytes);
        });
      }
    });
    await new Promise<void>((resolve) => relay.listen(0, "127.0.0.1", resolve));
    const address = relay.address();
    const port = typeof address === "object" && address !== null ? address.port : 0;
    try {
      const store = await open({ url: `redis://127.0.0.1:${port}` });
      await store.time();
      carries = false;
      await expectUnavailable(store);
      for (const socket of sockets) socket.removeAllListeners("data").pause();
      carries = true;
      await untilAvailable(() => store.time(), 3000);
    } finally {
      for (const socket of sockets) socket.destroy();
      relay.close();
    }
  });
});

describe("an error", () => {
  test("carries no token, password or argument, in all its depth", async () => {
    const own = await startRedis({ args: ["--requirepass", "the-password"] });
    try {
      const url = `redis://:the-password@127.0.0.1:${own.port}`;
      const store = await open({ url });
      const root = new Redis(url, { protocol: 2 });
      await store.recordLogin(login("k", "h1", 1));
      const keys = storeKeys("jellybloom");
      // Something else wrote under our keys, so that the script fails with a message of its own.
      await root.del(keys.identities);
      await root.set(keys.identities, "not a hash");
      const secret = { ...login("k", "secret-hash", 2), sealed: "secret-sealed" };
      const errors: unknown[] = [await store.recordLogin(secret).catch((error: unknown) => error)];
      root.disconnect();
      await own.kill9();
      errors.push(await store.recordLogin(secret).catch((error: unknown) => error));
      errors.push(
        await openRedisStore({ url: "redis://:hidden@x:y:z", limits: defaultLimits }).catch(
          (error: unknown) => error,
        ),
      );
      for (const error of errors) {
        expect(error).toBeInstanceOf(Error);
        const words = depthOf(error);
        expect(words).not.toMatch(/secret|the-password|hidden/);
      }
      expect(String(errors[0])).toMatch(/WRONGTYPE/);
    } finally {
      await own.stop();
    }
  });

  test("of a wrong password is told when the store is opened", async () => {
    const own = await startRedis({ args: ["--requirepass", "the-password"] });
    try {
      for (const url of [own.url, `redis://:wrong@127.0.0.1:${own.port}`]) {
        const error: unknown = await openRedisStore({ url, limits: defaultLimits }).catch(
          (reason: unknown) => reason,
        );
        expect(error).toBeInstanceOf(StoreNotOpened);
        expect(String(error)).toMatch(/Redis refuses this process/);
      }
    } finally {
      await own.stop();
    }
  });
});

/** Everything that a logger could print of an error. */
function depthOf(error: unknown, depth = 0): string {
  if (typeof error !== "object" || error === null || depth > 6) return String(error);
  const parts = Object.getOwnPropertyNames(error).map((name) =>
    depthOf(Reflect.get(error, name), depth + 1),
  );
  return [String(error), ...parts].join("\n");
}

describe("warnings", () => {
  test("name each setting that endangers logins, and how to set it", async () => {
    const own = await startRedis({
      args: ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"],
    });
    try {
      const warnings = await (await open({ url: own.url })).warnings();
      expect(warnings).toHaveLength(2);
      expect(warnings[0]).toMatch(/maxmemory-policy is allkeys-lru.*noeviction/);
      expect(warnings[1]).toMatch(/appendonly yes/);
    } finally {
      await own.stop();
    }
  });

  test("are none where Redis is set up well, also when it forbids asking for its settings", async () => {
    const well = await startRedis({ args: ["--appendonly", "yes"] });
    const silent = await startRedis({ args: ["--rename-command", "CONFIG", ""] });
    try {
      expect(await (await open({ url: well.url })).warnings()).toEqual([]);
      expect(await (await open({ url: silent.url })).warnings()).toEqual([]);
    } finally {
      await well.stop();
      await silent.stop();
    }
  });
});

describe("a full Redis", () => {
  test("is unavailable for writing and still tells what it has", async () => {
    const own = await startRedis();
    try {
      const store = await open({ url: own.url });
      await store.recordLogin(login("k", "h1", 1));
      const root = new Redis(own.url, { protocol: 2 });
      await root.config("SET", "maxmemory", "1mb");
      await expect(store.recordLogin(login("l", "h2", 1))).rejects.toBeInstanceOf(StoreUnavailable);
      expect((await store.members()).length).toBe(0);
      await root.config("SET", "maxmemory", "0");
      expect((await store.recordLogin(login("l", "h2", 1))).outcome).toBe("recorded");
      root.disconnect();
    } finally {
      await own.stop();
    }
  });
});

describe("an idle follower", () => {
  test("sends Redis two commands in fifteen seconds", async () => {
    const store = await open();
    const following = follower(store, (await store.load()).position);
    await sleep(100);
    const before = await commandsOf(admin);
    await sleep(16_000);
    const sent = (await commandsOf(admin)) - before - 1;
    await following.stop();
    // A read, and a script that looks at the position, whose own two reads Redis counts as well.
    expect(sent).toBeLessThanOrEqual(4);
  }, 20_000);
});

async function commandsOf(client: Redis): Promise<number> {
  const info = await client.info("stats");
  return Number(/total_commands_processed:(\d+)/.exec(info)?.[1]);
}

describe("keys", () => {
  test("that a used Redis holds are all in the table, in one hash slot, of the type it says", async () => {
    await admin.flushall();
    const store = await open();
    await useEverything(store);
    const found = new Set<string>();
    for (const key of await admin.keys("*")) {
      const name = keyNameOf("jellybloom", key);
      expect(name, `${key} is not in keys.ts`).toBeDefined();
      if (name === undefined) continue;
      found.add(name);
      expect(await admin.type(key)).toBe(keyTable[name].type);
      expect(key.startsWith("{jellybloom}:")).toBe(true);
    }
    // Nothing in the table is without use.
    expect([...found].sort()).toEqual(Object.keys(keyTable).sort());
    expect(await admin.pttl(storeKeys("jellybloom").mintClaim("k", 1, "b"))).toBeGreaterThan(0);
  });

  test("that are touched while it is used are all in the table", async () => {
    await admin.flushall();
    const monitor = await admin.monitor();
    const touched = new Set<string>();
    monitor.on("monitor", (_time: string, words: string[]) => {
      for (const word of words) if (word.startsWith("{jellybloom}")) touched.add(word);
    });
    await useEverything(await open());
    await sleep(50);
    monitor.disconnect();
    const names = new Set([...touched].map((key) => keyNameOf("jellybloom", key)));
    expect(names.has(undefined)).toBe(false);
    expect(names.size).toBe(Object.keys(keyTable).length);
  });

  test("of two clusters with prefixes of their own do not meet", async () => {
    const other = await open({ prefix: "other" });
    await (await open()).recordLogin(login("k", "h1", 1));
    expect((await other.load()).identities).toEqual([]);
    await expect(open({ prefix: "a}b" })).rejects.toBeInstanceOf(StoreNotOpened);
  });

  test("and writers in the table are what the heads of the scripts say", () => {
    const scripts = loadScripts();
    const verbsOf = new Map<string, Set<string>>();
    for (const [verb, script] of Object.entries(scripts)) {
      const text = readFileSync(`${scriptsFolder}/${verb}-${script.numberOfKeys}.lua`, "utf8");
      const heads = [...text.matchAll(/^-- KEYS\[(\d+)\] (\w+) \((\w+)\)/gm)];
      expect(heads.map((head) => Number(head[1]))).toEqual(
        Array.from({ length: script.numberOfKeys }, (_unused, index) => index + 1),
      );
      expect(text).toMatch(/^-- Returns /m);
      for (const [, , name = "", type = ""] of heads) {
        expect(Object.keys(keyTable)).toContain(name);
        expect(keyTable[name as keyof typeof keyTable].type.toUpperCase()).toBe(type);
        verbsOf.set(name, (verbsOf.get(name) ?? new Set()).add(verb));
      }
    }
    for (const [name, { writers }] of Object.entries(keyTable)) {
      const ours = writers.filter((writer) => writer !== "redlock");
      for (const writer of ours) expect([...(verbsOf.get(name) ?? [])]).toContain(writer);
    }
  });
});

async function useEverything(store: RedisStore): Promise<void> {
  const stop = follower(store, (await store.load()).position);
  await store.recordLogin(login("k", "h1", 1));
  await store.addToken(token("k", "b", "h2", 1));
  await store.dropToken("k", 1, "a", "h1");
  const mint = { key: "k", generation: 1, replica: "b", owner: "o" };
  await store.claimMint({ ...mint, ttlMs: 60_000 });
  await store.releaseMint({ ...mint, owner: "another" });
  await store.putSecret("s", "v1.sealed", ["a", "b"], 60_000);
  await store.settleSecret("s", "a");
  await store.recordLogin(login("ended", "h3", 1));
  await store.revoke("ended", ["a", "b"]);
  const [revocation] = (await store.load()).revocations;
  await store.settleRevocation(revocation?.id ?? "", "a");
  await store.claimHome({ userId: "u", replica: "a", expectedEpoch: 0, owner: "o", minStayMs: 0 });
  const pin = { kind: "passwordReset", id: "x", replica: "a", owner: "o" } as const;
  await store.claimPin({ ...pin, ttlMs: 60_000 });
  await store.movePin({ ...pin, replica: "b", ttlMs: 60_000, expectedEpoch: 1 });
  const group = { ...pin, kind: "syncPlay", ttlMs: 60_000 } as const;
  await store.claimPin(group);
  await store.dropPin("syncPlay", "x", 1);
  for (const kind of noteKinds) {
    await store.putNote({ kind, id: "x", replica: "a", value: "{}" }, 60_000);
    await store.putNote({ kind, id: "y", replica: "b", value: "{}" }, 0);
    await store.dropNotes({ kind, replica: "b" });
  }
  const lease = { replica: "a", gateUrl: "", owner: "o", ttlMs: 60_000, above: 0 };
  await store.holdLease(lease);
  await store.releaseLease("o");
  await store.holdLease({ ...lease, owner: "p" });
  const member = { replica: "a", url: "", sidecarUrl: "", serverId: "", serverVersion: "" };
  await store.touchMember({ ...member, bootNonce: "", proof: "" }, 60_000);
  await store.touchProxy({ proxy: "p", reachable: { a: true } }, 60_000);
  await store.members();
  await stop.until(9);
  await stop.stop();
  await store.appendJournal(["an entry"]);
  await store.readJournal({ ...(await store.journalEnds()), number: 0 }, 10);
}

describe("values that somebody else wrote", () => {
  const garbage = [
    "",
    "no JSON {",
    "null",
    "7",
    "[]",
    "[1]",
    '"text"',
    "{}",
    '{"expiresAtMs":"soon"}',
    '{"kind":"session","id":"x","replica":"a","value":7,"expiresAtMs":9e15}',
    '{"kind":"session","id":"x","replica":"a","value":"{}","expiresAtMs":"never"}',
    '{"epoch":{"number":"9","owner":"x"},"replica":"a","gateUrl":"http://evil","kind":"syncPlay","id":"g"}',
    '{"epoch":null,"replica":"a","userId":"u","movedAtMs":0}',
    '{"__proto__":{"value":"x"},"kind":"__proto__","id":"x","replica":"a","value":"x","expiresAtMs":0}',
  ];

  test("are as if they were not there: nothing fails, and what is sound is read", async () => {
    await admin.flushall();
    const store = await open();
    const keys = storeKeys("jellybloom");
    await store.recordLogin(login("k", "h1", 1));
    await store.putNote({ kind: "session", id: "sound", replica: "a", value: "{}" }, 0);
    for (const [index, text] of garbage.entries()) {
      const field = `garbage-${index}`;
      for (const key of [keys.identities, keys.homes, keys.pins, keys.revocations, keys.members]) {
        await admin.hset(key, field, text);
      }
      await admin.hset(keys.sights, field, text);
      await admin.hset(keys.notes("session"), field, text);
    }
    for (const text of garbage) {
      await admin.set(keys.lease, text);
      const snapshot = await store.load();
      expect(snapshot.identities.map(({ key }) => key)).toEqual(["k"]);
      expect(snapshot.notes.map(({ id }) => id)).toEqual(["sound"]);
      expect([snapshot.homes, snapshot.pins, snapshot.revocations, snapshot.lease]).toEqual([
        [],
        [],
        [],
        undefined,
      ]);
    }
    expect(await store.touchProxy({ proxy: "p", reachable: { a: true } }, 60_000)).toMatchObject({
      sights: [{ proxy: "p" }],
      members: [],
    });
    expect(await store.members()).toEqual([]);
    await admin.flushall();
  });

  test("in the feed are passed over; an entry that is none at all makes followers read everything again", async () => {
    await admin.flushall();
    const store = await open();
    const keys = storeKeys("jellybloom");
    const start = await store.load();
    const [, from = ""] = start.position.split("/");
    const [bornAtMs = ""] = from.split("-");
    const entry = (number: number, text: string) =>
      admin.xadd(keys.changes, `${bornAtMs}-${number}`, "mark", String(number), "changes", text);
    const changes = garbage.flatMap((text) => [
      `{"type":"note","note":${text.startsWith("{") ? text : "7"}}`,
      `{"type":"lease","lease":${text.startsWith("{") ? text : "7"}}`,
      '{"type":"anything"}',
    ]);
    const sound = { kind: "play", id: "p", replica: "a", value: "{}", expiresAtMs: 0 };
    const good = JSON.stringify({ type: "note", note: sound });
    await entry(1, `[${[...changes, good].join(",")}]`);
    await admin.hset(keys.meta, "lastNumber", 1, "lastMark", 1);
    const following = follower(store, start.position);
    await following.until(1);
    expect(following.changes).toEqual([{ type: "note", note: sound }]);
    await entry(2, "no JSON [");
    expect(await following.result).toBe("lost");
    await admin.hset(keys.meta, "lastNumber", 2, "lastMark", 2);
    await store.recordLogin(login("k", "h1", 1));
    expect((await store.load()).identities).toHaveLength(1);
    await admin.flushall();
  });
});

describe("an address", () => {
  test.each([
    ["redis://host", { host: "host", port: 6379, db: 0 }],
    ["redis://host:7000/3", { host: "host", port: 7000, db: 3 }],
    [
      "redis://user:p%40ss:word@host:1",
      { host: "host", port: 1, db: 0, username: "user", password: "p@ss:word" },
    ],
    ["redis://:pass@[::1]:6380", { host: "::1", port: 6380, db: 0, password: "pass" }],
    ["rediss://host", { host: "host", port: 6379, db: 0, tls: { servername: "host" } }],
    [
      "redis+sentinel://:pass@one:1,two/main?db=2&sentinelPassword=s",
      {
        sentinels: [
          { host: "one", port: 1 },
          { host: "two", port: 26379 },
        ],
        name: "main",
        role: "master",
        db: 2,
        password: "pass",
        sentinelPassword: "s",
      },
    ],
  ])("%s is understood", (url, expected) => {
    expect(redisAddress(url)).toEqual(expected);
  });

  test.each([
    "http://host",
    "redis://",
    "redis://host:99999",
    "redis://host/x",
    "redis://a:b:c",
    "redis+sentinel://host:1",
    "",
  ])("%s is refused with a sentence", (url) => {
    expect(() => redisAddress(url)).toThrow(StoreNotOpened);
  });
});
