// QuickConnect through the door: a request lives in the memory of one server, and whoever polls it, agrees to
// it or ends it may be anybody, from anywhere.

import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { doorSees, type Household, startHousehold, statusOfToken } from "../support/household.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { Viewer } from "../support/viewer.ts";

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

async function open(args: readonly string[] = []): Promise<DoorProcess> {
  const door = await startDoor({ replicas: [home.a, home.b], apiKey: home.a.apiKey, args });
  doors.push(door);
  await doorSees(door, 2);
  return door;
}

/** Somebody whose home is the other server, because this one was down when they came. */
async function enterWhile(door: DoorProcess, down: StandIn, name: string): Promise<Viewer> {
  await down.kill9();
  await doorSees(door, 1);
  const viewer = await Viewer.enter(door.url, { name });
  await down.restart();
  await down.ready();
  await doorSees(door, 2);
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
    await doorSees(door, 2);
  }
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
