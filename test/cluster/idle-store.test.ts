// What a cluster asks of its store when nobody does anything: three sidecars and two doors are to be no burden
// for a Redis that others use, too.

import { Redis } from "ioredis";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type DoorProcess, type Part, startDoor, startSidecar } from "../support/door.ts";
import { doorSees } from "../support/household.ts";
import { type StandIn, startPair, startStandIn } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";

const commandsLimitPerSecond = 5;
const watchedMs = 12_000;

let pair: Awaited<ReturnType<typeof startPair>>;
let third: StandIn;
let redis: RedisServer;
let sidecars: Part[];
let doors: DoorProcess[];

beforeAll(async () => {
  const media = await makeMedia();
  pair = await startPair({ mediaDir: media.folder });
  third = await startStandIn({ mediaDir: media.folder, name: "c", cloneOf: pair.a });
  redis = await startRedis();
  sidecars = await Promise.all(
    [pair.a, pair.b, third].map((replica) => startSidecar({ replica, redis: redis.url })),
  );
  doors = await Promise.all(
    [1, 2].map(() => startDoor({ command: "proxy", redis: redis.url, replicas: [] })),
  );
  await Promise.all(doors.map((door) => doorSees(door, 3)));
});

afterAll(async () => {
  await Promise.all([...doors, ...sidecars].map((part) => part.stop()));
  await redis.stop();
  await Promise.all([pair.stop(), third.stop()]);
});

/** Commands that clients send, by name; what scripts do inside Redis is no round trip. */
async function commandsSent(forMs: number): Promise<Map<string, number>> {
  const client = new Redis(redis.url, { protocol: 2 });
  const monitor = await client.monitor();
  const sent = new Map<string, number>();
  monitor.on("monitor", (_time: string, words: string[], source: string) => {
    const name = words[0]?.toLowerCase() ?? "";
    if (source === "lua") return;
    sent.set(name, (sent.get(name) ?? 0) + 1);
  });
  await new Promise((resolve) => setTimeout(resolve, forMs));
  monitor.disconnect();
  client.disconnect();
  return sent;
}

test("three replicas and two doors that are idle ask Redis five times a second at most", async () => {
  // What follows a start, such as looking at tasks and encoders, is over.
  await new Promise((resolve) => setTimeout(resolve, 5000));
  const sent = await commandsSent(watchedMs);
  const all = [...sent.values()].reduce((sum, count) => sum + count, 0);
  const perSecond = all / (watchedMs / 1000);
  expect(perSecond, JSON.stringify([...sent])).toBeLessThanOrEqual(commandsLimitPerSecond);
  // They do live: each is heard of.
  expect(all).toBeGreaterThan(10);
});
