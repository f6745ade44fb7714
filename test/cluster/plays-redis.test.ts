// Plays where every part is a process of its own: what one door wrote down, another door and the sidecars act on.

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type DoorProcess, type Part, startDoor, startSidecar } from "../support/door.ts";
import { FfmpegWatch, runningFfmpegs } from "../support/ffmpegs.ts";
import { startPair } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { answeredBy, until, Viewer } from "../support/viewer.ts";

let redis: RedisServer;
let pair: Awaited<ReturnType<typeof startPair>>;
let doors: [DoorProcess, DoorProcess];
let sidecars: Part[];

beforeAll(async () => {
  const media = await makeMedia();
  redis = await startRedis();
  pair = await startPair({ mediaDir: media.folder });
  const replicas = [pair.a, pair.b];
  sidecars = [];
  for (const replica of replicas) {
    sidecars.push(await startSidecar({ replica, redis: redis.url }));
  }
  const door = () => startDoor({ command: "proxy", replicas, redis: redis.url });
  doors = await Promise.all([door(), door()]);
});

afterAll(async () => {
  for (const part of [...doors, ...sidecars]) await part.stop();
  await pair.stop();
  await redis.stop();
});

/** The addresses of a film's segments at one door. */
async function segmentsOf(viewer: Viewer): Promise<string[]> {
  const { playlist } = await viewer.playHls(await viewer.item(), "ts");
  const linesOf = (text: string): string[] =>
    text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  const main = new URL(linesOf(await (await fetch(playlist)).text())[0] ?? "", playlist);
  return linesOf(await (await fetch(main)).text()).map((line) => new URL(line, main).toString());
}

async function load(address: string): Promise<[number, string]> {
  const reply = await fetch(address);
  await reply.arrayBuffer();
  return [reply.status, answeredBy(reply.headers)];
}

test("a play goes on through another door, and its frozen server lets go of it when it thaws", async () => {
  const viewer = await Viewer.enter(doors[0].url);
  await viewer.knownAt([pair.a, pair.b]);
  const [home, other] = await viewer.homeAmong(pair);
  const segments = await segmentsOf(viewer);
  const atOther = segments.map((address) => address.replace(doors[0].url, doors[1].url));
  expect(await load(segments[0] ?? "")).toEqual([200, home.name]);
  expect(await load(atOther[1] ?? "")).toEqual([200, home.name]);
  home.freeze();
  expect(await load(atOther[2] ?? "")).toEqual([200, other.name]);
  await until(10_000, "the other door has heard of the move", async () => {
    return (await viewer.home()) === other.name;
  });
  expect(await load(segments[3] ?? "")).toEqual([200, other.name]);
  const ffmpegs = new FfmpegWatch([home, other]);
  home.thaw();
  for (const number of [4, 5, 6]) expect((await load(atOther[number] ?? ""))[0]).toBe(200);
  await until(4000, "the thawed server encodes nothing", () => runningFfmpegs(home).length === 0);
  await ffmpegs.stop();
  expect(ffmpegs.doubledMs).toBeLessThan(2000);
});

test("a play that one door bound elsewhere goes there from every door", async () => {
  const viewer = await Viewer.enter(doors[0].url, { name: "kid" });
  await viewer.knownAt([pair.a, pair.b]);
  const [home, other] = await viewer.homeAmong(pair);
  await home.control("encoder", { fails: true });
  const segments = await segmentsOf(viewer);
  expect(await load(segments[0] ?? "")).toEqual([200, other.name]);
  await home.control("forget-requests");
  // The other door hears of it by the store's feed; players ask for the next segment seconds later.
  await sleep(500);
  const atOther = segments.map((address) => address.replace(doors[0].url, doors[1].url));
  for (const number of [1, 2]) {
    expect(await load(atOther[number] ?? "")).toEqual([200, other.name]);
  }
  expect(await home.requests({ path: "/hls1/" })).toEqual([]);
});
