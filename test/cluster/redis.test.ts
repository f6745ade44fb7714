// The shape with Redis: doors and sidecars as processes of their own that meet only there. A door that was
// restarted knows everybody again, a door that is cut off from a server goes round it and moves nobody, and
// when Redis is gone nobody who is known notices.

import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { openRedisStore } from "../../core/store/redis.ts";
import { type DoorProcess, type Part, startDoor, startSidecar } from "../support/door.ts";
import { doorSees, statusOfToken, tokenAt } from "../support/household.ts";
import { startPair } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { until, Viewer } from "../support/viewer.ts";
import { Way } from "../support/way.ts";

let pair: Awaited<ReturnType<typeof startPair>>;
let redis: RedisServer;
let sidecars: Part[];
/** The way of the second door to server a, which a test can cut while the first door's own is whole. */
let wayToA: Way;
let door: DoorProcess;
let second: DoorProcess;

beforeAll(async () => {
  const media = await makeMedia();
  pair = await startPair({ mediaDir: media.folder });
  redis = await startRedis();
  sidecars = await Promise.all(
    [pair.a, pair.b].map((replica) => startSidecar({ replica, redis: redis.url })),
  );
  wayToA = await Way.open(pair.a);
  const through = { name: "a", url: wayToA.url };
  const shared = { command: "proxy", redis: redis.url } as const;
  door = await startDoor({ ...shared, replicas: [pair.a, pair.b] });
  second = await startDoor({ ...shared, replicas: [through, pair.b] });
});

beforeEach(async () => {
  for (const server of [pair.a, pair.b]) {
    if (!server.running) await server.launch();
    await server.ready();
  }
  await Promise.all([doorSees(door, 2), doorSees(second, 2)]);
});

afterAll(async () => {
  await Promise.all([door.stop(), second.stop(), ...sidecars.map((sidecar) => sidecar.stop())]);
  wayToA.cut();
  await redis.stop();
  await pair.stop();
});

async function enter(name = "root", at = door): Promise<Viewer> {
  const viewer = await Viewer.enter(at.url, { name });
  await viewer.knownAt([pair.a, pair.b]);
  return viewer;
}

async function me(viewer: Viewer): Promise<number> {
  return (await viewer.call("GET", "/Users/Me")).status;
}

test("one login is good at every door, and outlives its server at each", async () => {
  const viewer = await enter();
  const [home] = await viewer.homeAmong(pair);
  expect(await me(viewer.at(second.url))).toBe(200);
  expect(await viewer.at(second.url).home()).toBe(home.name);
  await home.kill9();
  expect(await Promise.all([me(viewer), me(viewer.at(second.url))])).toEqual([200, 200]);
});

test("a door that is killed and started again knows every login and every home", async () => {
  const viewer = await enter();
  const home = await viewer.home();
  const tokens = await Promise.all([pair.a, pair.b].map((server) => tokenAt(server, viewer)));
  await door.kill9();
  await door.launch();
  await doorSees(door, 2);
  for (const token of tokens) expect(await statusOfToken(door.url, token)).toBe(200);
  expect(await viewer.home()).toBe(home);
  await (home === "a" ? pair.a : pair.b).kill9();
  expect(await me(viewer)).toBe(200);
});

test("a logout at one door counts at the others and at every server within 1 s, also after a restart of the door", async () => {
  const viewer = await enter("kid");
  const tokens = await Promise.all([pair.a, pair.b].map((server) => tokenAt(server, viewer)));
  expect((await viewer.call("POST", "/Sessions/Logout")).status).toBe(204);
  await until(1000, "refused everywhere", async () => {
    const urls = [door.url, second.url, pair.a.url, pair.b.url];
    const asked = urls.flatMap((url) => tokens.map((token) => statusOfToken(url, token)));
    return (await Promise.all(asked)).every((status) => status === 401);
  });
  await second.kill9();
  await second.launch();
  for (const token of tokens) expect(await statusOfToken(second.url, token)).toBe(401);
});

// Before: every request of such a client was held for 4.5 s and cut, so that it never came to its login page.
test("a login whose every token was lost is refused at once, when every server refuses the client's own", async () => {
  const viewer = await enter();
  const limits = { changesKept: 1000, revokedKeepMs: 3_600_000, callLimitMs: 1000 };
  const store = await openRedisStore({ url: redis.url, limits });
  const own = (await store.load()).identities.find(({ deviceId }) => deviceId === viewer.deviceId);
  if (own === undefined) throw new Error("the store does not know the login");
  for (const server of [pair.a, pair.b]) {
    const headers = { authorization: `MediaBrowser Token="${server.apiKey}"` };
    const path = `${server.url}/Devices?id=${viewer.deviceId}`;
    expect((await fetch(path, { method: "DELETE", headers })).status).toBe(204);
  }
  for (const [replica, { hash }] of Object.entries(own.tokens)) {
    await store.dropToken(own.key, own.generation, replica, hash);
  }
  await store.close();
  // Who asks while the doors hear of it waits for a token that does not come.
  const asked = (): Promise<number> => me(viewer).catch(() => 0);
  await until(15_000, "it is refused", async () => (await asked()) === 401);
  for (let asks = 0; asks < 5; asks++) {
    const startedMs = performance.now();
    expect(await me(viewer)).toBe(401);
    expect(performance.now() - startedMs).toBeLessThan(2000);
  }
});

test("ProxyCutOff: a door that alone cannot reach the home goes round it within 2 s, and the home stays where it is", async () => {
  const viewer = await enterAtA();
  const elsewhere = viewer.at(second.url);
  expect(await elsewhere.home()).toBe("a");
  wayToA.cut();
  const startedMs = performance.now();
  expect(await elsewhere.home()).toBe("b");
  expect(performance.now() - startedMs).toBeLessThan(2000);
  for (let asks = 0; asks < 20; asks += 1) {
    expect(await elsewhere.home()).toBe("b");
    expect(await viewer.home()).toBe("a");
  }
  await doorSees(second, 1);
  for (let asks = 0; asks < 20; asks += 1) {
    expect(await elsewhere.home()).toBe("b");
    expect(await viewer.home()).toBe("a");
  }
  await wayToA.mend();
  await doorSees(second, 2);
  expect(await elsewhere.home()).toBe("a");
});

test("RedisGone: who is known goes on at every door, through a server's death too, and nobody is logged out", async () => {
  const viewer = await enter();
  const other = await enter("kid", second);
  const viewers = [viewer, viewer.at(second.url), other, other.at(door.url)];
  expect(await Promise.all(viewers.map(me))).toEqual([200, 200, 200, 200]);
  await redis.kill9();
  const startedMs = performance.now();
  expect(await Promise.all(viewers.map(me))).toEqual([200, 200, 200, 200]);
  const [home] = await viewer.homeAmong(pair);
  await home.kill9();
  expect(await Promise.all(viewers.map(me))).toEqual([200, 200, 200, 200]);
  expect(performance.now() - startedMs).toBeLessThan(5000);
  expect(await statusOfToken(door.url, "0123456789abcdef0123456789abcdef")).toBe(401);
  // What needs one order in the cluster waits for the store, and says so; no server hears of it.
  for (const [path, body] of [
    ["/Users/Password", { CurrentPw: "", NewPw: "x" }],
    ["/Library/VirtualFolders?name=Films", {}],
  ] as const) {
    const refused = await viewer.call("POST", path, { body });
    expect([refused.status, refused.text]).toEqual([
      503,
      expect.stringContaining("has to wait until the cluster's store can be reached again"),
    ]);
  }
  await redis.restart();
  await home.restart();
  await home.ready();
  await doorSees(door, 2);
  // Each door has read the new, empty Redis, and must not forget for that what it knows.
  for (const part of [door, second]) {
    await until(10_000, "the store is there again", () => {
      const said = part.logLines().map(({ msg }) => msg);
      const gone = said.findLastIndex((msg) => msg.startsWith("the store cannot be reached"));
      const back = said.lastIndexOf("the store is reachable");
      return gone >= 0 && back > gone;
    });
  }
  expect(await Promise.all(viewers.map(me))).toEqual([200, 200, 200, 200]);
  const told = async (): Promise<string> => await (await fetch(`${door.admin}/metrics`)).text();
  expect(await told()).toMatch(/^jellybloom_store_losses_total [1-9]/m);
  await until(8000, "who is there is known again", async () =>
    /^jellybloom_server_versions 1$/m.test(await told()),
  );
  const [next] = await viewer.homeAmong(pair);
  await next.kill9();
  expect(await Promise.all(viewers.map(me))).toEqual([200, 200, 200, 200]);
});

/** Somebody whose home is a, because b was down when they came. */
async function enterAtA(): Promise<Viewer> {
  await pair.b.kill9();
  await Promise.all([doorSees(door, 1), doorSees(second, 1)]);
  // Whoever asks while b is down lives on a afterwards, once each door has heard that the other sees it too.
  const viewer = await Viewer.enter(door.url, { name: "kid" });
  await until(10_000, "the home is a", async () => (await viewer.placement()) === "a; home");
  await pair.b.restart();
  await pair.b.ready();
  await Promise.all([doorSees(door, 2), doorSees(second, 2)]);
  await viewer.knownAt([pair.a, pair.b]);
  return viewer;
}
