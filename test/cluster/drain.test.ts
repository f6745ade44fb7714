// Draining a replica while 50 people browse and watch: nobody sees an error, it is ready to stop within 15
// seconds, it can be stopped, and when it is back and undrained people return to it.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ClusterStatus } from "../../proxy/status.ts";
import { runCli } from "../support/cli.ts";
import { Crowd, crowdNames } from "../support/crowd.ts";
import { CLUSTER_KEY, type DoorProcess, startDoor } from "../support/door.ts";
import { type Household, startHousehold } from "../support/household.ts";
import { BIG_BYTES, BIG_NAME, makeMedia } from "../support/media.ts";
import { until, Viewer } from "../support/viewer.ts";

const PEOPLE = 50;
/** The promise: from the order to «ready to stop». */
const DRAINED_WITHIN_MS = 15_000;

let pair: Household;
let door: DoorProcess;
let crowd: Crowd;

beforeAll(async () => {
  const media = await makeMedia({ big: true });
  pair = await startHousehold({ mediaDir: media.folder, people: crowdNames(PEOPLE) });
  door = await startDoor({
    replicas: [pair.a, pair.b],
    apiKey: pair.a.apiKey,
    args: ["--cluster-key", CLUSTER_KEY, "--home-stay", "3s", "--return-after", "1s"],
  });
  crowd = await Crowd.enter({ people: PEOPLE, hls: 3, files: 5, doors: [door.url] });
  for (const viewer of crowd.viewers) await viewer.knownAt([pair.a, pair.b]);
});

afterAll(async () => {
  await crowd?.end();
  await door?.stop();
  await pair?.stop();
});

const cli = (...words: string[]) =>
  runCli([...words, "--admin", door.admin, "--cluster-key", CLUSTER_KEY]);

async function status(): Promise<ClusterStatus> {
  const { out } = await cli("status", "--json");
  return JSON.parse(out) as ClusterStatus;
}

async function replica(name: string) {
  const found = (await status()).replicas.find((one) => one.name === name);
  if (found === undefined) throw new Error(`the status does not tell of ${name}`);
  return found;
}

describe("a replica that 50 people use", () => {
  test("is drained without an error, can be stopped, and gets people again", async () => {
    await crowd.begin();
    await new Promise((resolve) => setTimeout(resolve, 2000));
    const before = await replica("a");
    expect(before.homes).toBeGreaterThan(10);
    const startedMs = performance.now();
    const drained = await cli("drain", "a", "--json");
    const tookMs = performance.now() - startedMs;
    expect(drained, drained.err).toMatchObject({ code: 0 });
    expect(JSON.parse(drained.out)).toMatchObject({
      done: true,
      homes: 0,
      requests: 0,
      sockets: 0,
    });
    expect(tookMs).toBeLessThan(DRAINED_WITHIN_MS);
    expect(await replica("a")).toMatchObject({ homes: 0, sockets: 0, drain: { done: true } });
    expect((await status()).wrong).toContain("a is drained and gets nobody until it is undrained");
    // What was promised is that it can be stopped now: nobody notices.
    await pair.a.kill9();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await pair.a.restart();
    await pair.a.ready();
    expect(await replica("a")).toMatchObject({ homes: 0 });
    expect(await cli("undrain", "a")).toMatchObject({ code: 0 });
    await until(30_000, "people are back", async () => (await replica("a")).homes >= PEOPLE / 3);
    expect(await crowd.end()).toEqual([]);
    expect(crowd.history.operations.length).toBeGreaterThan(1000);
  });

  test("at the limit of a drain a film that is played directly goes on elsewhere, in the same answer", async () => {
    const viewer = await Viewer.enter(door.url);
    await viewer.knownAt([pair.a, pair.b]);
    const film = await viewer.item(BIG_NAME);
    const [home, other] = await viewer.homeAmong(pair);
    const reply = await fetch(viewer.directPlay(film));
    const reader = reply.body?.getReader();
    if (reader === undefined) throw new Error("no film");
    const first = await reader.read();
    let read = first.value?.byteLength ?? 0;
    // It is paused: a request that would never end by itself.
    const drained = await cli("drain", home.name, "--limit", "2s", "--json");
    expect(JSON.parse(drained.out)).toMatchObject({ done: true, requests: 0 });
    await home.kill9();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      read += value.byteLength;
    }
    expect([reply.status, read]).toEqual([200, BIG_BYTES]);
    expect(await other.requests({ method: "GET", path: `${film}/stream` })).not.toEqual([]);
    await home.restart();
    await home.ready();
    expect(await cli("undrain", home.name)).toMatchObject({ code: 0 });
  });

  test("while no other is there, nobody is moved, and the command says what is left", async () => {
    const viewer = await Viewer.enter(door.url);
    await viewer.knownAt([pair.a, pair.b]);
    const [home, other] = await viewer.homeAmong(pair);
    await other.kill9();
    await until(5000, "its death is known", async () => {
      return (await replica(other.name)).state === "dead";
    });
    const drained = await cli("drain", home.name, "--limit", "0s");
    expect(drained.code).toBe(1);
    expect(drained.out).toMatch(/^[ab] drains; left on it: \d+ homes, /);
    expect((await viewer.call("GET", "/Users/Me")).status).toBe(200);
    await other.restart();
    await until(15_000, "they have somewhere to go", async () => {
      return (await replica(home.name)).drain?.done === true;
    });
    expect((await viewer.call("GET", "/Users/Me")).status).toBe(200);
    expect(await cli("undrain", home.name)).toMatchObject({ code: 0 });
  });
});
