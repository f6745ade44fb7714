// QuickConnect through the door: a request lives in the memory of one server, and whoever polls it, agrees to
// it or ends it may be anybody, from anywhere.

import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type DoorProcess, type Part, startDoor, startSidecar } from "../support/door.ts";
import { bothThere } from "../support/front.ts";
import {
  doorSees,
  doorUses,
  type Household,
  startHousehold,
  statusOfToken,
} from "../support/household.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { answeredBy, until, Viewer } from "../support/viewer.ts";

let home: Household;
const doors: DoorProcess[] = [];

beforeAll(async () => {
  const media = await makeMedia();
  home = await startHousehold({
    mediaDir: media.folder,
    people: [{ name: "ann" }, { name: "ben" }, { name: "cleo" }],
  });
});

afterAll(async () => {
  for (const door of doors) await door.stop();
  await home.stop();
});

/** Whatever became of the test before: each begins with both servers there. */
beforeEach(() => bothThere(home, ...doors));

async function open(args: readonly string[] = []): Promise<DoorProcess> {
  const door = await startDoor({ replicas: [home.a, home.b], apiKey: home.a.apiKey, args });
  doors.push(door);
  await doorUses(door, 2);
  return door;
}

/** Somebody whose home is the other server, because this one was down when they came. */
async function enterWhile(door: DoorProcess, down: StandIn, name: string): Promise<Viewer> {
  await down.kill9();
  await doorSees(door, 1);
  const viewer = await Viewer.enter(door.url, { name });
  await down.restart();
  await down.ready();
  await doorUses(door, 2);
  await viewer.knownAt([home.a, home.b]);
  return viewer;
}

type Asked = { readonly Code: string; readonly Secret: string };

/** A television that shows a code. */
function initiate(url: string, deviceId: string): Promise<Response> {
  return fetch(`${url}/QuickConnect/Initiate`, {
    method: "POST",
    headers: {
      authorization: `MediaBrowser Client="TV", Device="TV", DeviceId="${deviceId}", Version="1"`,
    },
  });
}

async function isAgreed(url: string, { Secret }: Asked): Promise<boolean> {
  const reply = await fetch(`${url}/QuickConnect/Connect?secret=${Secret}`);
  expect(reply.status).toBe(200);
  return ((await reply.json()) as { Authenticated: boolean }).Authenticated;
}

async function finish(url: string, { Secret }: Asked): Promise<{ token: string; userId: string }> {
  const reply = await fetch(`${url}/Users/AuthenticateWithQuickConnect`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ Secret }),
  });
  expect(reply.status).toBe(200);
  const { AccessToken, User } = (await reply.json()) as {
    AccessToken: string;
    User: { Id: string };
  };
  return { token: AccessToken, userId: User.Id };
}

test("a television is let in by a person who lives on any server, and stays in when its server dies", async () => {
  const door = await open();
  const people = [
    await enterWhile(door, home.b, "ann"),
    await enterWhile(door, home.a, "ben"),
    await enterWhile(door, home.b, "cleo"),
  ];
  const homes = await Promise.all(people.map((person) => person.home()));
  expect(homes).toEqual(["a", "b", "a"]);
  for (const person of people) {
    const deviceId = `tv-${randomBytes(6).toString("hex")}`;
    const begun = await initiate(door.url, deviceId);
    expect(begun.status).toBe(200);
    const asked = (await begun.json()) as Asked;
    for (let polls = 0; polls < 4; polls += 1) expect(await isAgreed(door.url, asked)).toBe(false);
    const agreed = await person.call("POST", `/QuickConnect/Authorize?code=${asked.Code}`);
    expect([agreed.status, agreed.text]).toEqual([200, "true"]);
    expect(await isAgreed(door.url, asked)).toBe(true);
    const { token, userId } = await finish(door.url, asked);
    expect(userId).toBe(person.userId);
    expect(await statusOfToken(door.url, token)).toBe(200);
    const [server] = await person.homeAmong(home);
    await server.kill9();
    expect(await statusOfToken(door.url, token)).toBe(200);
    await server.restart();
    await server.ready();
    await doorUses(door, 2);
  }
});

/** When the server that made the code dies. */
type Moment = "before anybody agrees" | "after somebody agreed" | "after the television was told";

/** One television from its code to its login, whose server is killed at that moment. */
async function throughAKill(world: World, person: Viewer, moment: Moment): Promise<string> {
  const { urls, servers } = world;
  const [tv, phone] = [urls[0] ?? "", urls.at(-1) ?? ""];
  const deviceId = `tv-${randomBytes(6).toString("hex")}`;
  const begun = await initiate(tv, deviceId);
  const server = servers.find(({ name }) => name === answeredBy(begun.headers));
  const asked = (await begun.json()) as Asked;
  const kill = async (now: Moment) => {
    if (now === moment) await server?.kill9();
  };
  expect(await isAgreed(tv, asked)).toBe(false);
  await kill("before anybody agrees");
  const agreed = await person.at(phone).call("POST", `/QuickConnect/Authorize?code=${asked.Code}`);
  expect([agreed.status, agreed.text]).toEqual([200, "true"]);
  await kill("after somebody agreed");
  const told = await fetch(`${tv}/QuickConnect/Connect?secret=${asked.Secret}`);
  const answer = (await told.json()) as Asked & { Authenticated: boolean; DeviceId: string };
  expect(answer).toMatchObject({ ...only(asked), Authenticated: true, DeviceId: deviceId });
  await kill("after the television was told");
  const { token, userId } = await finish(tv, asked);
  expect(userId).toBe(person.userId);
  for (const url of urls) expect(await statusOfToken(url, token)).toBe(200);
  await server?.restart();
  await server?.ready();
  await world.whole();
  return token;
}

interface World {
  /** The doors; the television asks at the first, the person at the last. */
  readonly urls: readonly string[];
  readonly servers: readonly StandIn[];
  /** Resolves when every door sees every server. */
  readonly whole: () => Promise<void>;
}

/** Whatever lies in Redis, as text. */
function everythingIn({ port }: RedisServer): string {
  const ask = (...args: string[]) =>
    execFileSync("redis-cli", ["-p", String(port), ...args], { encoding: "utf8" }).trim();
  const reads: Record<string, (key: string) => string> = {
    string: (key) => ask("GET", key),
    hash: (key) => ask("HGETALL", key),
    zset: (key) => ask("ZRANGE", key, "0", "-1"),
    set: (key) => ask("SMEMBERS", key),
    stream: (key) => ask("XRANGE", key, "-", "+"),
  };
  const keys = ask("--scan").split("\n");
  return keys.map((key) => `${key}\n${reads[ask("TYPE", key)]?.(key) ?? ""}`).join("\n");
}

function only({ Code, Secret }: Asked): Asked {
  return { Code, Secret };
}

test("a code that is agreed to after its server was killed logs in, every time of 20", async () => {
  const door = doors[0] ?? (await open());
  const person = await Viewer.enter(door.url, { name: "ann" });
  await person.knownAt([home.a, home.b]);
  const world: World = {
    urls: [door.url],
    servers: [home.a, home.b],
    whole: () => doorUses(door, 2),
  };
  for (let times = 0; times < 20; times += 1) {
    await throughAKill(world, person, "before anybody agrees");
  }
});

test("a consent outlives its server: before the television is told, and before it logs in", async () => {
  const door = doors[0] ?? (await open());
  const person = await Viewer.enter(door.url, { name: "ben" });
  await person.knownAt([home.a, home.b]);
  const world: World = {
    urls: [door.url],
    servers: [home.a, home.b],
    whole: () => doorUses(door, 2),
  };
  for (const moment of ["after somebody agreed", "after the television was told"] as const) {
    for (let times = 0; times < 3; times += 1) await throughAKill(world, person, moment);
  }
});

async function metricOf(admin: string, name: string): Promise<number> {
  const text = await (await fetch(`${admin}/metrics`)).text();
  return Number(new RegExp(`^${name} (\\d+)`, "m").exec(text)?.[1] ?? Number.NaN);
}

/**
 * A television logs in, logs out, and shows its secret again: a server answers it for ten minutes as it did the first
 * time (QuickConnectManager.GetAuthorizedRequest), with a token that is dead. Such an answer was taken for a failure of
 * the store, for as long as the door ran: nothing was minted there, and passwords were refused with 503.
 */
async function shownAgain(door: DoorProcess, person: Viewer, otherUrl: string): Promise<void> {
  const begun = await initiate(door.url, `tv-${randomBytes(6).toString("hex")}`);
  const asked = (await begun.json()) as Asked;
  const agreed = await person.call("POST", `/QuickConnect/Authorize?code=${asked.Code}`);
  expect(agreed.status).toBe(200);
  const { token } = await finish(door.url, asked);
  const authorization = `MediaBrowser Token="${token}"`;
  const failures = await metricOf(door.admin, "jellybloom_store_failures_total");
  const out = await fetch(`${otherUrl}/Sessions/Logout`, {
    method: "POST",
    headers: { authorization },
  });
  expect(out.status).toBe(204);
  for (let times = 0; times < 3; times += 1) {
    expect((await finish(door.url, asked)).token).toBe(token);
    expect(await statusOfToken(door.url, token)).toBe(401);
  }
  expect(await metricOf(door.admin, "jellybloom_store_failures_total")).toBe(failures);
  expect(await metricOf(door.admin, "jellybloom_failsafe")).toBe(0);
  expect(await statusOfToken(otherUrl, token)).toBe(401);
}

test("a secret that is shown again after a logout lets nobody in, and leaves the door as it was", async () => {
  const door = doors[0] ?? (await open());
  const person = await Viewer.enter(door.url, { name: "ann" });
  await person.knownAt([home.a, home.b]);
  await shownAgain(door, person, door.url);
});

test("a request is made again at a server that came back without its memory, and twice agreed is refused as ever", async () => {
  const door = doors[0] ?? (await open());
  const person = await Viewer.enter(door.url, { name: "cleo" });
  await person.knownAt([home.a, home.b]);
  const asked = (await (await initiate(door.url, "tv-again")).json()) as Asked;
  for (const server of [home.a, home.b]) await server.kill9();
  for (const server of [home.a, home.b]) {
    await server.restart();
    await server.ready();
  }
  await doorUses(door, 2);
  expect(await isAgreed(door.url, asked)).toBe(false);
  const agree = () => person.call("POST", `/QuickConnect/Authorize?code=${asked.Code}`);
  expect((await agree()).status).toBe(200);
  expect((await agree()).status).toBe(500);
  expect((await finish(door.url, asked)).userId).toBe(person.userId);
});

describe("with doors and sidecars that meet in Redis", () => {
  let redis: RedisServer;
  const parts: Part[] = [];

  beforeAll(async () => {
    // Two clusters at one pair of servers would be rivals.
    for (const door of doors.splice(0)) await door.stop();
    redis = await startRedis();
    for (const replica of [home.a, home.b]) {
      parts.push(await startSidecar({ replica, redis: redis.url }));
    }
  });

  afterAll(async () => {
    for (const part of parts) await part.stop();
    await redis.stop();
  });

  test("a television at one door is let in at another, whenever its server dies, and nothing of it can be read in Redis", async () => {
    const shape = { command: "proxy", redis: redis.url, replicas: [home.a, home.b] } as const;
    const two = await Promise.all([startDoor(shape), startDoor(shape)]);
    parts.push(...two);
    const whole = async () => {
      for (const door of two) await doorUses(door, 2);
    };
    await whole();
    const person = await Viewer.enter(two[0].url, { name: "ann" });
    await person.knownAt([home.a, home.b]);
    const world: World = {
      urls: two.map(({ url }) => url),
      servers: [home.a, home.b],
      whole,
    };
    for (const moment of [
      "before anybody agrees",
      "after somebody agreed",
      "after the television was told",
    ] as const) {
      for (let times = 0; times < 2; times += 1) await throughAKill(world, person, moment);
    }
    await shownAgain(two[0], person, two[1].url);
    const asked = (await (await initiate(two[0].url, "tv-hidden")).json()) as Asked;
    const text = everythingIn(redis);
    expect(text).toContain("tv-hidden");
    expect(text).not.toContain(asked.Secret);
    expect(text).not.toMatch(new RegExp(`"${asked.Code}"`));
    // Failsafe: what one door knows is enough for who stays at that door.
    await redis.kill9();
    const alone = { ...world, urls: [two[0].url], whole: () => doorUses(two[0], 2) };
    await throughAKill(alone, person, "before anybody agrees");
    await throughAKill(alone, person, "after somebody agreed");
    // What this door did meanwhile the other one hears when Redis is back.
    const asked2 = (await (await initiate(two[0].url, "tv-untold")).json()) as Asked;
    await redis.restart();
    await until(10_000, "the other door knows", () =>
      isAgreed(two[1].url, asked2).then(
        (isAgreedAlready) => !isAgreedAlready,
        () => false,
      ),
    );
    const agreed = await person
      .at(two[1].url)
      .call("POST", `/QuickConnect/Authorize?code=${asked2.Code}`);
    expect(agreed.status).toBe(200);
    expect((await finish(two[0].url, asked2)).userId).toBe(person.userId);
  });
});

test("a secret and a code that nobody gave are unknown", async () => {
  const door = doors[0] ?? (await open());
  const reply = await fetch(`${door.url}/QuickConnect/Connect?secret=${"AB".repeat(32)}`);
  expect(reply.status).toBe(404);
  const person = await Viewer.enter(door.url, { name: "ann" });
  expect((await person.call("POST", "/QuickConnect/Authorize?code=000000")).status).toBe(404);
});

test("switched off at the door, clients are told so, strangers get no code, and logins still survive a kill", async () => {
  for (const door of doors.splice(0)) await door.stop();
  const door = await open(["--quick-connect", "off"]);
  expect(await (await fetch(`${door.url}/QuickConnect/Enabled`)).json()).toBe(false);
  expect(await (await fetch(`${home.a.url}/QuickConnect/Enabled`)).json()).toBe(true);
  expect((await initiate(door.url, "tv")).status).toBe(401);
  const viewer = await Viewer.enter(door.url, { name: "ben" });
  await viewer.knownAt([home.a, home.b]);
  const [server] = await viewer.homeAmong(home);
  await server.kill9();
  expect((await viewer.call("GET", "/Users/Me")).status).toBe(200);
});
