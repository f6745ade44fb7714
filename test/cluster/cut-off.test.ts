// Two doors under load, when what lies between the processes breaks: each door is cut off from another
// replica, and Redis goes away and comes back empty. Nobody who is there sees an error, and no home goes to
// and fro.

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ClusterStatus } from "../../proxy/status.ts";
import { runCli } from "../support/cli.ts";
import { Crowd, crowdNames } from "../support/crowd.ts";
import {
  CLUSTER_KEY,
  type DoorProcess,
  type Part,
  startDoor,
  startSidecar,
} from "../support/door.ts";
import { doorSees, type Household, startHousehold } from "../support/household.ts";
import { makeMedia } from "../support/media.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { until } from "../support/viewer.ts";
import { Way } from "../support/way.ts";

const PEOPLE = 16;
const CUT_OFF_MS = 8000;
const REDIS_AWAY_MS = 60_000;
const MOVED = /^home of user (\w+) moved from/;

let pair: Household;
let redis: RedisServer;
let ways: Way[];
let parts: Part[];
let doors: DoorProcess[];

beforeAll(async () => {
  const media = await makeMedia();
  pair = await startHousehold({ mediaDir: media.folder, people: crowdNames(PEOPLE) });
  redis = await startRedis();
  parts = await Promise.all(
    [pair.a, pair.b].map((replica) => startSidecar({ replica, redis: redis.url })),
  );
  const firstToA = await Way.open(pair.a);
  const secondToB = await Way.open(pair.b);
  ways = [firstToA, secondToB];
  const shared = { command: "proxy", redis: redis.url, args: ["--return-after", "1s"] } as const;
  doors = await Promise.all([
    startDoor({ ...shared, replicas: [{ name: "a", url: firstToA.url }, pair.b] }),
    startDoor({ ...shared, replicas: [pair.a, { name: "b", url: secondToB.url }] }),
  ]);
  await Promise.all(doors.map((door) => doorSees(door, 2)));
});

afterAll(async () => {
  await Promise.all([...doors, ...parts].map((part) => part.stop()));
  for (const way of ways) way.cut();
  await redis.stop();
  await pair.stop();
});

async function crowd(): Promise<Crowd> {
  const entered = await Crowd.enter({
    people: PEOPLE,
    hls: 2,
    files: 2,
    doors: doors.map(({ url }) => url),
  });
  for (const viewer of entered.viewers) await viewer.knownAt([pair.a, pair.b]);
  return entered;
}

/** How often the home of each user who moved at all was moved, as both doors tell it. */
function moves(): number[] {
  const counts = new Map<string, number>();
  for (const { msg } of doors.flatMap((door) => door.logLines())) {
    const user = MOVED.exec(msg)?.[1];
    if (user !== undefined) counts.set(user, (counts.get(user) ?? 0) + 1);
  }
  return [...counts.values()];
}

async function status(door: DoorProcess | undefined): Promise<ClusterStatus> {
  const at = ["--admin", door?.admin ?? "", "--cluster-key", CLUSTER_KEY];
  return JSON.parse((await runCli(["status", "--json", ...at])).out) as ClusterStatus;
}

describe("16 people at two doors", () => {
  test("see nothing of it when each door is cut off from another replica, and move once at most", async () => {
    const people = await crowd();
    await people.begin(300);
    await sleep(1000);
    for (const way of ways) way.cut();
    await Promise.all(doors.map((door) => doorSees(door, 1)));
    await sleep(CUT_OFF_MS);
    expect(Math.max(0, ...moves())).toBeLessThanOrEqual(1);
    await Promise.all(ways.map((way) => way.mend()));
    await Promise.all(doors.map((door) => doorSees(door, 2)));
    await sleep(1000);
    expect(await people.end()).toEqual([]);
    // What the other door reaches is gone round, and its people stay at home there.
    expect(moves().length).toBeLessThanOrEqual(2);
    // Nobody was moved back in the time in which nobody moves twice.
    expect(Math.max(0, ...moves())).toBeLessThanOrEqual(1);
  });

  test("see nothing of it when Redis is gone and comes back empty, and one sidecar leads afterwards", async () => {
    const people = await crowd();
    await people.begin(300);
    await until(15_000, "a leader", async () => (await status(doors[0])).leader !== null);
    await redis.kill9();
    await until(5000, "the failsafe", async () => (await status(doors[0])).failsafe);
    await sleep(REDIS_AWAY_MS / 2);
    // Leadership has ended before the lease did: nobody leads who cannot ask.
    expect((await status(doors[0])).wrong.join()).toContain("the store cannot be reached");
    await sleep(REDIS_AWAY_MS / 2);
    await redis.restart();
    await until(20_000, "one leader for both doors", async () => {
      const [first, second] = await Promise.all(doors.map(status));
      const isSame = first?.leader?.replica === second?.leader?.replica;
      return !first?.failsafe && !second?.failsafe && first?.leader !== null && isSame;
    });
    await sleep(1000);
    expect(await people.end()).toEqual([]);
  });
});
