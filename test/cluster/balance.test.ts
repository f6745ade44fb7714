// Where people live when nobody has to leave: with a preferred replica they go back to it once it is well, but
// nobody in the middle of a play; and replicas that come and go while a door runs are found and forgotten.

import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { Crowd, crowdNames } from "../support/crowd.ts";
import { type DoorProcess, type Part, startDoor, startSidecar } from "../support/door.ts";
import { doorSees, type Household, startHousehold } from "../support/household.ts";
import { makeMedia } from "../support/media.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { until } from "../support/viewer.ts";

const PEOPLE = 8;

let mediaDir: string;
let pair: Household | undefined;
let redis: RedisServer | undefined;
const parts: Part[] = [];

beforeAll(async () => {
  mediaDir = (await makeMedia()).folder;
});

afterEach(async () => {
  for (const part of parts.splice(0)) await part.stop();
  await redis?.stop();
  await pair?.stop();
  redis = undefined;
  pair = undefined;
});

async function started<Kind extends Part>(starting: Promise<Kind>): Promise<Kind> {
  const part = await starting;
  parts.push(part);
  return part;
}

describe("a preferred replica that was away", () => {
  test("gets everybody back who watches nothing, and those who watch when they have ended", async () => {
    pair = await startHousehold({ mediaDir, people: crowdNames(PEOPLE) });
    const args = ["--prefer", "b", "--prefer-after", "2s", "--home-stay", "1s"];
    const replicas = [pair.a, pair.b];
    const door: DoorProcess = await started(startDoor({ replicas, apiKey: pair.a.apiKey, args }));
    const crowd = await Crowd.enter({ people: PEOPLE, hls: 2, doors: [door.url] });
    for (const viewer of crowd.viewers) await viewer.knownAt(replicas);
    expect(await crowd.homes()).toEqual({ b: PEOPLE });
    await crowd.begin();
    await sleep(1000);
    await pair.b.kill9();
    await until(15_000, "everybody is at a", async () => (await crowd.homes()).a === PEOPLE);
    await pair.b.restart();
    await pair.b.ready();
    await until(20_000, "those who only browse are back", async () => {
      return (await crowd.homes()).b === PEOPLE - 2;
    });
    await sleep(2000);
    expect(await crowd.homes()).toEqual({ a: 2, b: PEOPLE - 2 });
    expect(await crowd.end()).toEqual([]);
    await until(20_000, "those who watched are back", async () => {
      return (await crowd.homes()).b === PEOPLE;
    });
  });
});

describe("replicas that come and go", () => {
  test("are found by their sidecars and by DNS at once, and forgotten when they left for good", async () => {
    pair = await startHousehold({ mediaDir });
    const { a, b } = pair;
    redis = await startRedis();
    const discover = ["--discover", `dns:localhost:${a.port}`, "--forget-after", "1s"];
    const door = await started(
      startDoor({ command: "proxy", redis: redis.url, replicas: [], args: discover }),
    );
    const names = async () => {
      const text = await (await fetch(`${door.admin}/metrics`)).text();
      const found = text.matchAll(
        /^jellybloom_replica_state\{.*replica="([^"]+)".*state="ready".*\} 1$/gm,
      );
      return [...found].map(([, name]) => name).sort();
    };
    // Nobody else names it yet.
    await until(
      15_000,
      "a server that only DNS names",
      async () => (await names()).join() === "127-0-0-1",
    );
    const first = await started(startSidecar({ replica: a, redis: redis.url }));
    // DNS names the same server by its address: the name that its sidecar gave it is the one that counts.
    await until(15_000, "a, by its own name", async () => (await names()).join() === "a");
    const second = await started(startSidecar({ replica: b, redis: redis.url }));
    await until(10_000, "b, too", async () => (await names()).join() === "a,b");
    // A sidecar that stops takes nobody along: its server answers.
    await Promise.all([first.terminate(), second.terminate()]);
    await sleep(3000);
    expect(await names()).toEqual(["a", "b"]);
    await b.terminate();
    await doorSees(door, 1);
    await until(20_000, "b is forgotten", async () => {
      const text = await (await fetch(`${door.admin}/metrics`)).text();
      return !text.includes('replica="b"');
    });
    expect(await names()).toHaveLength(1);
  });
});
