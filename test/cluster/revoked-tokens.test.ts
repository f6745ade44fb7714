// A token that was revoked is refused everywhere within a second, and never works again on any server,
// whatever is killed, was away at that moment, or comes back.

import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { bothThere } from "../support/front.ts";
import {
  doorSees,
  type Household,
  startHousehold,
  statusOfToken,
  tokenAt,
} from "../support/household.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { until, Viewer } from "../support/viewer.ts";

const REFUSED_WITHIN_MS = 1000;

let home: Household;
let door: DoorProcess;

beforeAll(async () => {
  const media = await makeMedia();
  home = await startHousehold({
    mediaDir: media.folder,
    people: [{ name: "ann" }, { name: "ben" }, { name: "cleo" }],
  });
  door = await startDoor({ replicas: [home.a, home.b], apiKey: home.a.apiKey });
});

beforeEach(() => bothThere(home, door));

afterAll(async () => {
  await door.stop();
  await home.stop();
});

type Known = { readonly viewer: Viewer; readonly tokens: ReadonlyMap<StandIn, string> };

/** A viewer, and the token that each server has of them. */
async function enter(name: string): Promise<Known> {
  const viewer = await Viewer.enter(door.url, { name });
  await viewer.knownAt([home.a, home.b]);
  const tokens = new Map<StandIn, string>();
  for (const server of [home.a, home.b]) tokens.set(server, await tokenAt(server, viewer));
  expect(new Set(tokens.values()).size).toBe(2);
  for (const token of tokens.values()) expect(await statusOfToken(door.url, token)).toBe(200);
  return { viewer, tokens };
}

/** Every token of this login is refused at the door, and by each server that runs when asked without the door. */
async function refusedEverywhere({ tokens }: Known): Promise<boolean> {
  const asked: Promise<number>[] = [];
  for (const [server, token] of tokens) {
    asked.push(statusOfToken(door.url, token));
    if (server.running) asked.push(statusOfToken(server.url, token));
  }
  return (await Promise.all(asked)).every((status) => status === 401);
}

async function status(viewer: Viewer, method: string, path: string, body?: unknown) {
  return (await viewer.call(method, path, body === undefined ? {} : { body })).status;
}

test("after a logout every token of that login is refused everywhere within 1 s, also after kills and restarts", async () => {
  const known = await enter("ann");
  const stays = await enter("ann");
  expect(await status(known.viewer, "POST", "/Sessions/Logout")).toBe(204);
  // At the door at once: the store knows it before the answer is given.
  expect(await statusOfToken(door.url, known.viewer.token)).toBe(401);
  await until(REFUSED_WITHIN_MS, "refused everywhere", () => refusedEverywhere(known));
  for (const server of [home.a, home.b]) {
    await server.kill9();
    expect(await statusOfToken(door.url, known.viewer.token)).toBe(401);
    expect(await refusedEverywhere(known)).toBe(true);
    await server.restart();
    await server.ready();
    await doorSees(door, 2);
    expect(await refusedEverywhere(known)).toBe(true);
  }
  expect(await status(stays.viewer, "GET", "/Users/Me")).toBe(200);
});

test("a server that was down at the logout is told when it is back, and nobody gets in by it meanwhile", async () => {
  for (const name of ["a", "b"] as const) {
    const known = await enter("ben");
    await home[name].kill9();
    expect(await status(known.viewer, "POST", "/Sessions/Logout")).toBe(204);
    await home[name].restart();
    await home[name].ready();
    // From its first moment on, whatever it still believes itself.
    for (const token of known.tokens.values())
      expect(await statusOfToken(door.url, token)).toBe(401);
    await until(10_000, `${name} has been told`, () => refusedEverywhere(known));
    await doorSees(door, 2);
  }
});

test("a device that an administrator removes is logged out everywhere within 1 s", async () => {
  const admin = await enter("root");
  const known = await enter("cleo");
  const path = `/Devices?id=${encodeURIComponent(known.viewer.deviceId)}`;
  expect(await status(admin.viewer, "DELETE", path)).toBe(204);
  await until(REFUSED_WITHIN_MS, "refused everywhere", () => refusedEverywhere(known));
  expect(await status(admin.viewer, "GET", "/Users/Me")).toBe(200);
});

test("a changed password logs out the user's other devices everywhere within 1 s, and not the one that changed it", async () => {
  const caller = await enter("ann");
  const other = await enter("ann");
  const path = `/Users/Password?userId=${caller.viewer.userId}`;
  const body = { CurrentPw: "ann", NewPw: "ann" };
  expect(await status(caller.viewer, "POST", path, body)).toBe(204);
  await until(REFUSED_WITHIN_MS, "refused everywhere", () => refusedEverywhere(other));
  expect(await status(caller.viewer, "GET", "/Users/Me")).toBe(200);
  const [server] = await caller.viewer.homeAmong(home);
  await server.kill9();
  expect(await status(caller.viewer, "GET", "/Users/Me")).toBe(200);
  expect(await refusedEverywhere(other)).toBe(true);
});

test("a wrong password for the change is refused and logs nobody out", async () => {
  const caller = await enter("ben");
  const other = await enter("ben");
  const path = `/Users/Password?userId=${caller.viewer.userId}`;
  expect(await status(caller.viewer, "POST", path, { CurrentPw: "no", NewPw: "x" })).toBe(403);
  for (const { viewer } of [caller, other]) {
    expect(await status(viewer, "GET", "/Users/Me")).toBe(200);
  }
});

test("a user who is disabled is out everywhere within 1 s and stays out", async () => {
  const admin = await enter("root");
  const known = await enter("cleo");
  const user = (await admin.viewer.call("GET", `/Users/${known.viewer.userId}`)).json();
  const policy = { ...user.Policy, IsDisabled: true };
  const path = `/Users/${known.viewer.userId}/Policy`;
  expect(await status(admin.viewer, "POST", path, policy)).toBe(204);
  await until(REFUSED_WITHIN_MS, "refused everywhere", () => refusedEverywhere(known));
  const [server] = await admin.viewer.homeAmong(home);
  await server.kill9();
  expect(await refusedEverywhere(known)).toBe(true);
});

test("a login that follows a logout on the same device is another one: its token works, the old one does not", async () => {
  const first = await enter("ben");
  expect(await status(first.viewer, "POST", "/Sessions/Logout")).toBe(204);
  const again = await Viewer.enter(door.url, { name: "ben", deviceId: first.viewer.deviceId });
  await again.knownAt([home.a, home.b]);
  expect(await status(again, "GET", "/Users/Me")).toBe(200);
  const [server] = await again.homeAmong(home);
  await server.kill9();
  expect(await status(again, "GET", "/Users/Me")).toBe(200);
  expect(await refusedEverywhere(first)).toBe(true);
});
