// The failures that have a name, each with what clients see and how soon: ReplicaDead at a login,
// ReplicaSlow, ReplicaStarting, AllReplicasGone. (ReplicaFrozen, ReplicaRefusesToken and ProxyCutOff have
// files of their own.)

import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, beforeEach, expect, test } from "vitest";
import { bothThere, pairBehindDoor } from "../support/front.ts";
import { doorSees } from "../support/household.ts";
import { until, Viewer } from "../support/viewer.ts";

const { pair, door } = await pairBehindDoor();
let viewer: Viewer;

beforeAll(async () => {
  viewer = await Viewer.enter(door.url);
  await viewer.knownAt([pair.a, pair.b]);
});

beforeEach(() => bothThere(pair, door));

test("ReplicaDead: somebody new logs in within 1 s of a death, and lives on the one that is left", async () => {
  for (const [dead, left] of [
    [pair.a, pair.b],
    [pair.b, pair.a],
  ] as const) {
    await dead.kill9();
    const startedMs = performance.now();
    const fresh = await Viewer.enter(door.url, { name: "kid" });
    expect(performance.now() - startedMs).toBeLessThan(1000);
    expect(await fresh.home()).toBe(left.name);
    await dead.restart();
    await dead.ready();
    await doorSees(door, 2);
  }
});

test("ReplicaSlow: subtitles whose extraction takes 20 s are waited for, and asked for exactly once", async () => {
  const itemId = await viewer.item();
  const [home, other] = await viewer.homeAmong(pair);
  await home.control("subtitles", { extractionMs: 20_000 });
  await other.control("subtitles", { extractionMs: 20_000 });
  const info = await viewer.call("POST", `/Items/${itemId}/PlaybackInfo`, { body: {} });
  const streams = info.json().MediaSources[0].MediaStreams as { Type: string; Index: number }[];
  const index = streams.find(({ Type }) => Type === "Subtitle")?.Index;
  const startedMs = performance.now();
  const path = `/Videos/${itemId}/${itemId}/Subtitles/${index}/0/Stream.vtt`;
  const subtitles = viewer.call("GET", path);
  // Others are served meanwhile, by the same server: it is slow, not gone.
  await sleep(3000);
  expect(await viewer.home()).toBe(home.name);
  const answer = await subtitles;
  expect(answer.status).toBe(200);
  expect(answer.text).toContain("First line");
  expect(performance.now() - startedMs).toBeGreaterThan(19_000);
  expect(performance.now() - startedMs).toBeLessThan(22_000);
  const asked = await Promise.all(
    [home, other].map((server) => server.requests({ path: "Subtitles/.*Stream" })),
  );
  expect(asked.map(({ length }) => length)).toEqual([1, 0]);
  expect((await home.state()).subtitleExtractions).toBe(1);
  await home.control("clear");
  await other.control("clear");
});

test("ReplicaStarting: a server that says Degraded with 200 gets no visitors, and gets them back within 3 s of Healthy", async () => {
  const [home, other] = await viewer.homeAmong(pair);
  await home.control("health", { status: 200, body: "Degraded" });
  await doorSees(door, 1, 3000);
  await home.control("forget-requests");
  for (let asks = 0; asks < 20; asks += 1) {
    const { status } = await viewer.call("GET", "/Items?recursive=true");
    expect(status).toBe(200);
    expect((await fetch(`${door.url}/System/Info/Public`)).status).toBe(200);
  }
  const fresh = await Viewer.enter(door.url, { name: "kid" });
  expect(await fresh.home()).toBe(other.name);
  const visits = (await home.requests()).filter(
    ({ path }) => path === "/Items" || /AuthenticateByName|Users\/Me|Info\/Public/.test(path),
  );
  expect(visits).toEqual([]);
  await home.control("health");
  await doorSees(door, 2, 3000);
});

test("ReplicaStarting: a server on its way up is no empty library to anybody", async () => {
  const [home, other] = await viewer.homeAmong(pair);
  await home.control("health", { status: 503, body: "Unhealthy" });
  await doorSees(door, 1, 3000);
  const { Items } = (await viewer.call("GET", "/Items?recursive=true")).json();
  expect(Items.length).toBeGreaterThan(0);
  expect(await viewer.home()).toBe(other.name);
  await home.control("health");
  await doorSees(door, 2, 3000);
});

test("AllReplicasGone: requests are held, then cut, never answered with an error made up; System/Info/Public is 503", async () => {
  await Promise.all([pair.a.kill9(), pair.b.kill9()]);
  await doorSees(door, 0);
  const startedMs = performance.now();
  const [cut, told] = await Promise.all([
    viewer.call("GET", "/Items?recursive=true").then(
      ({ status }) => `answered ${status}`,
      () => "cut",
    ),
    fetch(`${door.url}/System/Info/Public`).then(async (reply) => {
      await reply.text();
      return { status: reply.status, afterMs: performance.now() - startedMs };
    }),
  ]);
  expect(cut).toBe("cut");
  const heldMs = performance.now() - startedMs;
  expect(heldMs).toBeGreaterThan(3000);
  expect(heldMs).toBeLessThan(5000);
  expect(told.status).toBe(503);
  expect(told.afterMs).toBeLessThan(5000);
  const ready = await fetch(`${door.admin}/jellybloom/ready`);
  expect(ready.status).toBe(503);
});

test("AllReplicasGone: whoever waits is answered when a server returns, and everybody is served within 1 s of its return", async () => {
  await Promise.all([pair.a.kill9(), pair.b.kill9()]);
  await doorSees(door, 0);
  const waiting = viewer.call("GET", "/Users/Me");
  await sleep(300);
  await pair.b.launch();
  const launchedMs = performance.now();
  expect((await waiting).status).toBe(200);
  expect(performance.now() - launchedMs).toBeLessThan(2000);
  await pair.b.ready();
  const readyMs = performance.now();
  await until(1000, "served again", async () => (await viewer.home()) === "b");
  expect(performance.now() - readyMs).toBeLessThan(1000);
  expect((await fetch(`${door.admin}/jellybloom/ready`)).status).toBe(200);
});
