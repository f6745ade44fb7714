// The sidecar at work on real sockets: tokens for logins made elsewhere, logouts, rules about who gets none,
// every interruption of a mint, servers that come back with other data, and rivals.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hashOf, sealContext } from "../../core/cluster/identity.ts";
import { verifyMember } from "../../core/cluster/member.ts";
import { putNote } from "../../core/cluster/notes.ts";
import { aliasNoteId, aliasText } from "../../core/cluster/user-aliases.ts";
import { openEmbeddedStore } from "../../core/store/embedded.ts";
import { openRedisStore } from "../../core/store/redis.ts";
import { gatherFacts } from "../../sidecar/facts.ts";
import { findings } from "../../sidecar/findings.ts";
import { type StandIn, startPair, startStandIn } from "../support/jellyfin/start.ts";
import { startRedis } from "../support/redis.ts";
import {
  type Cluster,
  type ClusterOptions,
  changePolicy,
  clientOf,
  emptyFolder,
  eventually,
  logIn,
  defaultSeal as seal,
  startCluster,
  statusOf,
  storeLimits,
} from "./sidecar-cluster.ts";

const media = emptyFolder();
let a: StandIn;
let b: StandIn;
let stopPair: () => Promise<void>;
const clusters: Cluster[] = [];

beforeAll(async () => {
  ({ a, b, stop: stopPair } = await startPair({ mediaDir: media.path }));
});

afterAll(async () => {
  await Promise.all(clusters.splice(0).map((cluster) => cluster.stop()));
  await stopPair();
  media.remove();
});

/** Runs a promise in a cluster of its own and ends it, so that no two keep the same servers. */
async function within(
  options: Omit<ClusterOptions, "servers"> & Partial<Pick<ClusterOptions, "servers">>,
  deed: (cluster: Cluster) => Promise<void>,
): Promise<void> {
  const cluster = await startCluster({ servers: { a, b }, ...options });
  try {
    await deed(cluster);
  } finally {
    await cluster.stop();
    await Promise.all([a, b].map((server) => (server.running ? server.control("clear") : {})));
  }
}

/** Sessions of a device that are at a server now. */
async function sessionsOf(server: StandIn, deviceId: string): Promise<number> {
  const { sessions } = await server.state();
  return sessions.filter(({ DeviceId }) => DeviceId === deviceId).length;
}

async function tokensOf(server: StandIn, deviceId: string): Promise<string[]> {
  const { tokens } = await server.state();
  return tokens.filter((row) => row.deviceId === deviceId).map(({ token }) => token);
}

const never = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe("a login at one server", () => {
  test("has a token at the other within a second, and leaves no session there", async () => {
    await within({}, async (cluster) => {
      await eventually(() => cluster.sidecars.get("b")?.sight().health === "healthy");
      const login = await logIn(a, "root", "d-first");
      await cluster.record(login, "a");
      const token = await cluster.tokenAt(login, "b", 1000);
      expect(token).not.toBe(login.token);
      expect(await statusOf(b, token)).toBe(200);
      expect(await statusOf(a, login.token)).toBe(200);
      expect(await sessionsOf(b, "d-first")).toBe(0);
      expect(await tokensOf(b, "d-first")).toEqual([token]);
    });
  });

  test("the server is told the client's own device, not ours", async () => {
    await within({}, async (cluster) => {
      const login = await logIn(a, "root", 'd-"quoted", +1');
      await cluster.record({ ...login, deviceId: 'd äöü, +"q"' }, "a");
      const token = await cluster.tokenAt({ ...login, deviceId: 'd äöü, +"q"' }, "b");
      const { tokens } = await b.state();
      expect(tokens.find((row) => row.token === token)).toMatchObject({
        client: "Test",
        deviceId: 'd äöü, +"q"',
      });
    });
  });

  test("a hundred at once all get theirs, none twice", async () => {
    await b.control("forget-requests");
    await within({}, async (cluster) => {
      const logins = await Promise.all(
        Array.from({ length: 100 }, (_, index) =>
          logIn(a, index % 2 === 0 ? "root" : "kid", `d-many-${index}`),
        ),
      );
      for (const login of logins) await cluster.record(login, "a");
      for (const login of logins) {
        expect(await statusOf(b, await cluster.tokenAt(login, "b", 20_000))).toBe(200);
      }
      expect(await b.requests({ method: "POST", path: "/QuickConnect/Authorize" })).toHaveLength(
        100,
      );
      const { sessions } = await b.state();
      expect(sessions.filter(({ DeviceId }) => String(DeviceId).startsWith("d-many"))).toEqual([]);
    });
  });

  test("with MaxActiveSessions of one, two devices of a user both get a token", async () => {
    const { userId } = await logIn(a, "kid", "d-max-0");
    await changePolicy(b, userId, { MaxActiveSessions: 1 });
    await within({}, async (cluster) => {
      const logins = await Promise.all(
        ["d-max-1", "d-max-2", "d-max-3"].map((device) => logIn(a, "kid", device)),
      );
      for (const login of logins) await cluster.record(login, "a");
      for (const login of logins) await cluster.tokenAt(login, "b");
      expect(cluster.sidecars.get("b")?.problems().size).toBe(0);
    });
    await changePolicy(b, userId, { MaxActiveSessions: 0 });
  });

  test("a new login on the device gets a new token, and the old one ends", async () => {
    await within({}, async (cluster) => {
      const first = await logIn(a, "root", "d-again");
      await cluster.record(first, "a");
      const firstToken = await cluster.tokenAt(first, "b");
      const second = await logIn(a, "root", "d-again");
      await cluster.record(second, "a");
      const secondToken = await eventually(async () => {
        const token = await cluster.tokenAt(second, "b");
        return token === firstToken ? undefined : token;
      });
      expect(await statusOf(b, secondToken)).toBe(200);
      expect(await statusOf(b, firstToken)).toBe(401);
    });
  });

  test("at a server that was copied since, the same token is recorded and nothing is minted", async () => {
    const login = await logIn(a, "root", "d-cloned");
    const c = await startStandIn({ name: "c", mediaDir: media.path, cloneOf: a });
    try {
      await within({ servers: { a, c } }, async (cluster) => {
        await cluster.record(login, "a");
        expect(await cluster.tokenAt(login, "c")).toBe(login.token);
        expect(await c.requests({ path: "/QuickConnect/(Initiate|Authorize)" })).toEqual([]);
      });
    } finally {
      await c.stop();
    }
  });
});

describe("nobody gets a token", () => {
  test("while QuickConnect is off; it is said, and made up for when it is on", async () => {
    await b.control("quick-connect", { on: false });
    await within({}, async (cluster) => {
      const login = await logIn(a, "root", "d-off");
      await cluster.record(login, "a");
      await eventually(() =>
        cluster.lines.some((line) => line.includes("QuickConnect is off at server b")),
      );
      expect(cluster.identity(login)?.tokens.b).toBeUndefined();
      await b.control("quick-connect", { on: true });
      await cluster.tokenAt(login, "b");
    });
  });

  test("who is disabled at the server; it is said", async () => {
    const login = await logIn(a, "kid", "d-disabled");
    await changePolicy(b, login.userId, { IsDisabled: true });
    await b.control("forget-requests");
    await within({}, async (cluster) => {
      const { key } = await cluster.record(login, "a");
      await eventually(() => cluster.sidecars.get("b")?.problems().get(key)?.includes("disabled"));
      expect(await b.requests({ path: "/QuickConnect/Authorize" })).toEqual([]);
      await changePolicy(b, login.userId, { IsDisabled: false });
      await cluster.tokenAt(login, "b");
    });
  });

  test("who is not a user there; it is said", async () => {
    const c = await startStandIn({ name: "c", mediaDir: media.path });
    try {
      await within({ servers: { a, c } }, async (cluster) => {
        const { key } = await cluster.record(await logIn(a, "root", "d-stranger"), "a");
        await eventually(() =>
          cluster.sidecars.get("c")?.problems().get(key)?.includes("does not have the user"),
        );
      });
    } finally {
      await c.stop();
    }
  });

  test("who is made there only while it is asked for them: then they do, at once", async () => {
    const c = await startStandIn({ name: "c", mediaDir: media.path });
    try {
      const options = { problemRetryMs: 60_000 };
      await within({ servers: { a, c }, options }, async (cluster) => {
        const login = await logIn(a, "root", "d-alias");
        const here = (await logIn(c, "root", "d-other")).userId;
        await eventually(() => cluster.sidecars.get("c")?.sight().health === "healthy");
        await c.control("slow", { path: `/Users/${login.userId}`, firstByteMs: 400, times: 1 });
        await cluster.record(login, "a");
        await eventually(
          async () => (await c.requests({ path: `/Users/${login.userId}` })).length > 0,
        );
        const alias = { replica: "c", userId: login.userId, here, views: {} };
        const id = aliasNoteId("c", login.userId);
        const note = {
          kind: "userAlias",
          id,
          replica: "c",
          value: aliasText(alias, seal),
        } as const;
        await putNote(cluster, note, 0);
        expect(await statusOf(c, await cluster.tokenAt(login, "c", 5000))).toBe(200);
      });
    } finally {
      await c.stop();
    }
  });

  test("for an old login that no other server accepts now", async () => {
    let nowMs = Date.now();
    const store = openEmbeddedStore({ limits: storeLimits, now: () => nowMs });
    await within({ store, kept: [] }, async (cluster) => {
      await cluster.record(await logIn(a, "root", "d-old"), "a");
    });
    nowMs += 3_600_000;
    await a.control("refuse-all");
    await b.control("forget-requests");
    await within({ store }, async (cluster) => {
      const key = [...cluster.memory.identities.keys()][0] ?? "";
      await eventually(() =>
        cluster.sidecars.get("b")?.problems().get(key)?.includes("no other server accepts"),
      );
      expect(await b.requests({ path: "/QuickConnect" })).not.toContainEqual(
        expect.objectContaining({ method: "POST" }),
      );
      await a.control("clear");
      await eventually(() => cluster.memory.identities.get(key)?.tokens.b);
    });
    await store.close();
  });

  test("for an old login while the servers that could accept it are gone", async () => {
    let nowMs = Date.now();
    const store = openEmbeddedStore({ limits: storeLimits, now: () => nowMs });
    const login = await logIn(a, "root", "d-alone");
    await within({ store, kept: [] }, async (cluster) => {
      await cluster.record(login, "a");
    });
    nowMs += 3_600_000;
    await a.kill9();
    await within({ store }, async (cluster) => {
      await never(600);
      expect(cluster.identity(login)?.tokens.b).toBeUndefined();
      await a.restart();
      await a.ready();
      await cluster.tokenAt(login, "b");
    });
    await store.close();
  });

  test("with one server, and API keys never", async () => {
    await b.control("forget-requests");
    await within({ servers: { b } }, async (cluster) => {
      const login = await logIn(a, "root", "d-one");
      await cluster.record(login, "a");
      await never(400);
      expect(cluster.identity(login)?.tokens.b).toBeUndefined();
    });
    expect(await b.requests({ method: "POST", path: "/QuickConnect" })).toEqual([]);
  });
});

describe("a logout", () => {
  test("ends the login's tokens at every server, and is settled", async () => {
    await within({}, async (cluster) => {
      const login = await logIn(a, "root", "d-out");
      const { key } = await cluster.record(login, "a");
      const token = await cluster.tokenAt(login, "b");
      await cluster.store.revoke(key, ["a", "b"]);
      await eventually(async () => (await statusOf(b, token)) === 401);
      await eventually(async () => (await statusOf(a, login.token)) === 401);
      await eventually(async () => (await cluster.store.load()).revocations.length === 0);
      expect(await tokensOf(b, "d-out")).toEqual([]);
    });
  });

  test("reaches a server that was away when it comes back", async () => {
    await within({}, async (cluster) => {
      const login = await logIn(a, "root", "d-out-away");
      const { key } = await cluster.record(login, "a");
      const token = await cluster.tokenAt(login, "b");
      await b.kill9();
      await cluster.store.revoke(key, ["a", "b"]);
      await eventually(async () => (await statusOf(a, login.token)) === 401);
      // Told to the store after the last of its tokens was logged out.
      await eventually(
        async () => (await cluster.store.load()).revocations[0]?.pending.join() === "b",
      );
      await b.restart();
      await b.ready();
      await eventually(async () => (await statusOf(b, token)) === 401);
      await eventually(async () => (await cluster.store.load()).revocations.length === 0);
    });
  });

  test("comes before the mint of the next login on the device", async () => {
    await within({}, async (cluster) => {
      const login = await logIn(a, "root", "d-out-in");
      const { key } = await cluster.record(login, "a");
      const token = await cluster.tokenAt(login, "b");
      await b.control("fail", { path: "/Sessions/Logout", status: 500, times: 2 });
      await cluster.store.revoke(key, ["a", "b"]);
      await eventually(() => Object.keys(cluster.identity(login)?.tokens ?? { a: 1 }).length === 0);
      const next = await logIn(a, "root", "d-out-in");
      await cluster.record(next, "a");
      const nextToken = await cluster.tokenAt(next, "b");
      expect(nextToken).not.toBe(token);
      await never(300);
      expect(await statusOf(b, nextToken)).toBe(200);
    });
  });
});

describe("a mint that is interrupted", () => {
  const steps = [
    ["at Initiate", { path: "/QuickConnect/Initiate" }],
    ["at Authorize, before it was done", { path: "/QuickConnect/Authorize", beforeDeed: true }],
    ["at Authorize, after it was done", { path: "/QuickConnect/Authorize" }],
    ["at its last step", { path: "/Users/AuthenticateWithQuickConnect" }],
    ["when its last step failed twice", { path: "/Users/AuthenticateWithQuickConnect", times: 2 }],
  ] as const;
  test.each(steps)("%s ends with one token and no session", async (name, fault) => {
    const device = `d-cut ${name}`.replaceAll(/\W+/g, "-");
    await b.control("reset", { method: "POST", times: 1, ...fault });
    await within({}, async (cluster) => {
      const login = await logIn(a, "root", device);
      await cluster.record(login, "a");
      const token = await cluster.tokenAt(login, "b");
      expect(await tokensOf(b, device)).toEqual([token]);
      expect(await sessionsOf(b, device)).toBe(0);
    });
  });

  test("after Authorize with MaxActiveSessions of one: the session it left is not one too many", async () => {
    const login = await logIn(a, "kid", "d-cut-max");
    await changePolicy(b, login.userId, { MaxActiveSessions: 1 });
    await b.control("reset", { method: "POST", path: "/QuickConnect/Authorize", times: 1 });
    await within({}, async (cluster) => {
      await cluster.record(login, "a");
      const token = await cluster.tokenAt(login, "b");
      expect(await tokensOf(b, "d-cut-max")).toEqual([token]);
      expect(await sessionsOf(b, "d-cut-max")).toBe(0);
    });
    await changePolicy(b, login.userId, { MaxActiveSessions: 0 });
  });

  test("by the end of the sidecar: the next one mints when the claim has ended", async () => {
    const store = openEmbeddedStore({ limits: storeLimits });
    const login = await logIn(a, "root", "d-died");
    await b.control("silent", { path: "/QuickConnect/Authorize", executed: true, times: 1 });
    const short = { claimTtlMs: 1200, claimMarginMs: 300, stopLimitMs: 50 };
    await within({ store, options: short }, async (cluster) => {
      await cluster.record(login, "a");
      await eventually(async () => (await tokensOf(b, "d-died")).length === 1);
    });
    await within({ store, options: short }, async (cluster) => {
      const token = await cluster.tokenAt(login, "b");
      expect(await tokensOf(b, "d-died")).toEqual([token]);
      expect(await sessionsOf(b, "d-died")).toBe(0);
    });
    await store.close();
  });

  test("after its token was recorded: the session it left is found and ended", async () => {
    const store = openEmbeddedStore({ limits: storeLimits });
    const login = await logIn(a, "root", "d-ghost");
    const client = clientOf(b);
    const device = { client: "Test", device: "Chair", deviceId: "d-ghost", version: "1.2" };
    const initiated = await client.quickConnectInitiate(device);
    if (initiated.outcome !== "ok") throw new Error(initiated.outcome);
    await client.quickConnectAuthorize(initiated.code, login.userId);
    const minted = await client.authenticateWithQuickConnect(initiated.secret);
    if (minted.outcome !== "ok") throw new Error(minted.outcome);
    expect(await sessionsOf(b, "d-ghost")).toBe(1);
    await within({ store, kept: [] }, async (cluster) => {
      const { key, generation } = await cluster.record(login, "a");
      const { client: name, device: deviceName, deviceId, version } = device;
      await store.addToken({
        key,
        facts: {
          kind: "user",
          userId: login.userId,
          userName: "root",
          client: name,
          device: deviceName,
          deviceId,
          version,
        },
        generation,
        replica: "b",
        hash: hashOf(minted.token),
        sealed: seal.seal(minted.token, sealContext(key, generation, "b")),
      });
    });
    await within({ store }, async () => {
      await eventually(async () => (await sessionsOf(b, "d-ghost")) === 0);
      expect(await statusOf(b, minted.token)).toBe(200);
    });
    await client.close();
    await store.close();
  });

  test("two sidecars beside one server do not mint twice", async () => {
    const store = openEmbeddedStore({ limits: storeLimits });
    await b.control("forget-requests");
    const second = await startCluster({ servers: { a, b }, store });
    await within({ store }, async (cluster) => {
      const logins = await Promise.all(
        Array.from({ length: 10 }, (_, index) => logIn(a, "root", `d-two-${index}`)),
      );
      for (const login of logins) await cluster.record(login, "a");
      for (const login of logins) await cluster.tokenAt(login, "b");
      expect(await b.requests({ method: "POST", path: "/QuickConnect/Authorize" })).toHaveLength(
        10,
      );
    });
    await second.stop();
    await store.close();
  });
});

describe("while the store is away", () => {
  test("nothing is minted, and what was missed is made up for", async () => {
    const redis = await startRedis();
    const store = await openRedisStore({ url: redis.url, limits: storeLimits });
    await b.kill9();
    await within({ store }, async (cluster) => {
      const login = await logIn(a, "root", "d-redis");
      await cluster.record(login, "a");
      redis.freeze();
      await eventually(() => !cluster.memory.storeAvailable);
      await b.restart();
      await b.ready();
      await eventually(() => cluster.sidecars.get("b")?.sight().health === "healthy");
      await never(500);
      expect(await b.requests({ method: "POST", path: "/QuickConnect" })).toEqual([]);
      redis.thaw();
      const token = await cluster.tokenAt(login, "b");
      expect(await statusOf(b, token)).toBe(200);
    });
    await store.close();
    await redis.stop();
  });
});

describe("a server that forgot tokens", () => {
  async function forget(server: StandIn, deviceId: string): Promise<void> {
    const client = clientOf(server);
    expect(await client.forgetDevice(deviceId)).toEqual({ outcome: "done" });
    await client.close();
  }

  test("gets a new one when its refusal is reported and another server accepts the login", async () => {
    await within({}, async (cluster) => {
      const login = await logIn(a, "root", "d-forgot");
      const { key } = await cluster.record(login, "a");
      const token = await cluster.tokenAt(login, "b");
      await forget(b, "d-forgot");
      cluster.sidecars.get("b")?.suspect(key);
      const next = await eventually(async () => {
        const now = await cluster.tokenAt(login, "b");
        return now === token ? undefined : now;
      });
      expect(await statusOf(b, next)).toBe(200);
    });
  });

  const looks = [
    ["looks often", {}],
    ["looks seldom", { healthIntervalMs: 2500 }],
  ] as const;
  test.each(looks)(
    "is found out when it comes back, for all logins (a sidecar that %s)",
    async (_name, options) => {
      await within({ options }, async (cluster) => {
        await eventually(async () => (await b.state()).sockets > 0);
        const devices = ["d-back-1", "d-back-2", "d-back-3", "d-back-4", "d-back-5", "d-back-6"];
        const logins = await Promise.all(devices.map((device) => logIn(a, "root", device)));
        for (const login of logins) await cluster.record(login, "a");
        const before = await Promise.all(logins.map((login) => cluster.tokenAt(login, "b")));
        for (const device of devices) await forget(b, device);
        await b.restart();
        await b.ready();
        for (const [index, login] of logins.entries()) {
          const next = await eventually(async () => {
            const now = await cluster.tokenAt(login, "b");
            return now === before[index] ? undefined : now;
          });
          expect(await statusOf(b, next)).toBe(200);
        }
      });
    },
  );

  test("keeps the token when everybody refuses it: one refusal alone mints nothing", async () => {
    await within({}, async (cluster) => {
      const login = await logIn(a, "root", "d-refused");
      const { key } = await cluster.record(login, "a");
      const token = await cluster.tokenAt(login, "b");
      await a.control("refuse-token", { token: login.token });
      await b.control("refuse-token", { token });
      cluster.sidecars.get("b")?.suspect(key);
      await never(500);
      expect(await cluster.tokenAt(login, "b")).toBe(token);
    });
  });

  test("keeps the token when the server does accept it", async () => {
    await within({}, async (cluster) => {
      const login = await logIn(a, "root", "d-fine");
      const { key } = await cluster.record(login, "a");
      const token = await cluster.tokenAt(login, "b");
      cluster.sidecars.get("b")?.suspect(key);
      await never(300);
      expect(await cluster.tokenAt(login, "b")).toBe(token);
    });
  });
});

describe("several Jellyblooms", () => {
  test("with another store are noticed at work, and neither mints until one has gone", async () => {
    await within({}, async (cluster) => {
      const rival = await startCluster({ servers: { a, b } });
      await eventually(() => cluster.sidecars.get("b")?.sight().rival !== undefined);
      await eventually(() => rival.sidecars.get("b")?.sight().rival !== undefined);
      expect(
        cluster.lines.some((line) => line.includes("already kept by another Jellybloom")),
      ).toBe(true);
      const login = await logIn(a, "root", "d-rival");
      await cluster.record(login, "a");
      await never(300);
      expect(cluster.identity(login)?.tokens.b).toBeUndefined();
      await rival.stop();
      await cluster.tokenAt(login, "b");
    });
  });

  test("with another store are refused at start; with the same store it is a rolling restart", async () => {
    await within({}, async (cluster) => {
      await eventually(async () => (await a.state()).sockets > 0);
      const client = clientOf(a);
      const ask = async (clusterId: string) =>
        findings(
          await gatherFacts([{ name: "a", client, hasKey: true }], {
            clusterId,
            limitMs: 2000,
            rivalGraceMs: 100,
          }),
          { listensBeyondLoopback: false },
        ).filter(({ severity }) => severity === "refuse");
      expect(await ask("0123456789abcdef")).toMatchObject([
        { sentence: expect.stringContaining("already kept by another Jellybloom") },
      ]);
      expect(await ask(await cluster.store.clusterId())).toEqual([]);
      await client.close();
    });
  });

  test("with the same store and another name for a server are noticed at work, and neither mints", async () => {
    await within({}, async (cluster) => {
      const twin = await startCluster({ servers: { a, c: b }, store: cluster.store, kept: ["c"] });
      for (const [one, name] of [[cluster, "b"] as const, [twin, "c"] as const]) {
        await eventually(() => one.sidecars.get(name)?.sight().rival?.includes("b and c are one"));
        expect(one.lines.join("\n")).toMatch(
          /b and c are one and the same server .*; give each --replica/,
        );
      }
      expect(cluster.sidecars.get("a")?.sight().rival).toBeUndefined();
      const login = await logIn(a, "root", "d-twin");
      await cluster.record(login, "a");
      await never(300);
      expect(cluster.identity(login)?.tokens).not.toHaveProperty("b");
      await twin.stop();
      await cluster.tokenAt(login, "b");
    });
  });

  test("are noticed when their server is back, by the one that shows itself there last", async () => {
    const options = { rivalIntervalMs: 600_000 };
    await within({ options }, async (cluster) => {
      await eventually(async () => (await b.state()).sockets > 0);
      await b.kill9();
      const twin = await startCluster({
        ...{ servers: { a, c: b }, store: cluster.store, kept: ["c"], options },
      });
      await b.restart();
      await eventually(() =>
        [cluster.sidecars.get("b"), twin.sidecars.get("c")].some((sidecar) =>
          sidecar?.sight().rival?.includes("b and c are one"),
        ),
      );
      await twin.stop();
    });
  });

  test("one that has just crashed does not stand in the way", async () => {
    const first = await startCluster({ servers: { a, b } });
    await eventually(async () => (await a.state()).sockets > 0);
    await first.stop();
    const client = clientOf(a);
    const [facts] = await gatherFacts([{ name: "a", client, hasKey: true }], {
      clusterId: "0123456789abcdef",
      limitMs: 2000,
      rivalGraceMs: 500,
    });
    expect(facts?.rival).toBeUndefined();
    await client.close();
  });
});

test("a server that went away is noticed at once when somebody says so, and that it is back though nobody does", async () => {
  await within({ options: { healthIntervalMs: 60_000 } }, async (cluster) => {
    const sidecar = cluster.sidecars.get("b");
    await eventually(() => sidecar?.sight().health === "healthy");
    await b.control("health", { body: "Unhealthy", status: 503 });
    await never(200);
    expect(sidecar?.sight().health).toBe("healthy");
    sidecar?.lookNow();
    await eventually(() => sidecar?.sight().health === "unhealthy", 1000);
    await b.control("clear");
    await eventually(() => sidecar?.sight().health === "healthy", 5000);
  });
});

test("the registry has every replica with a proof that holds", async () => {
  await within({}, async (cluster) => {
    const members = await eventually(async () => {
      const known = await cluster.store.members();
      return known.length === 2 && known.every(({ serverId }) => serverId !== "")
        ? known
        : undefined;
    });
    expect(members.map(({ replica, url }) => [replica, url])).toEqual([
      ["a", a.url],
      ["b", b.url],
    ]);
    expect(members.every((member) => verifyMember(seal, member))).toBe(true);
    expect(members[0]?.serverId).toBe(members[1]?.serverId);
  });
});

test("its own sessions are gone when it has ended, and no token is in what it says", async () => {
  const said: string[] = [];
  await within({}, async (cluster) => {
    const login = await logIn(a, "root", "d-quiet");
    await cluster.record(login, "a");
    const token = await cluster.tokenAt(login, "b");
    said.push(...cluster.lines);
    for (const secret of [token, login.token, a.apiKey])
      expect(said.join("\n")).not.toContain(secret);
  });
  await eventually(async () => (await b.state()).sockets === 0);
  const { sessions } = await b.state();
  expect(sessions.filter(({ DeviceId }) => String(DeviceId).startsWith("jellybloom-"))).toEqual([]);
});

test("a sidecar that stood still for longer than a call may take tells of it, once", async () => {
  let asleepMs = 0;
  const frozen: number[] = [];
  const clock = { monotonicMs: () => performance.now() + asleepMs, wallMs: () => Date.now() };
  const options = { clock, kept: ["a"], onFrozen: (ms: number) => void frozen.push(ms) };
  await within(options, async (cluster) => {
    await eventually(() => cluster.sidecars.get("a")?.sight().health === "healthy");
    await never(600);
    expect(frozen).toEqual([]);
    asleepMs = 20_000;
    await eventually(() => frozen.length > 0);
    await never(600);
    expect(frozen.map((ms) => Math.round(ms / 1000))).toEqual([20]);
    expect(cluster.lines.join("\n")).toContain("the sidecar of a stood still for 20 s");
  });
});
