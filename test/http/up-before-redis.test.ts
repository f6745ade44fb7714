// An all-in-one process that is started before its Redis: after a power cut nobody says who comes first.

import { afterAll, beforeAll, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { startPair } from "../support/jellyfin/start.ts";
import { freePort, type RedisServer, startRedis } from "../support/redis.ts";
import { until, Viewer } from "../support/viewer.ts";
import { emptyFolder } from "./sidecar-cluster.ts";

const media = emptyFolder();
let pair: Awaited<ReturnType<typeof startPair>>;
let redis: RedisServer | undefined;
let door: DoorProcess | undefined;

beforeAll(async () => {
  pair = await startPair({ mediaDir: media.path });
});

afterAll(async () => {
  await door?.stop();
  await redis?.stop();
  await pair.stop();
  media.remove();
});

// Before: it ended with «a failure nobody expected» when Redis did not answer in its first second.
test("it opens without Redis, and is whole when that comes", async () => {
  const port = await freePort();
  const { a, b } = pair;
  const started = await startDoor({
    replicas: [a, b],
    apiKey: a.apiKey,
    redis: `redis://127.0.0.1:${port}`,
  });
  door = started;
  await until(5000, "it says so", () =>
    started.log().includes("the store cannot be reached: whether another Jellybloom"),
  );
  redis = await startRedis({ port });
  await until(15_000, "it has the store", () => started.log().includes("the store is reachable"));
  const viewer = await Viewer.enter(started.url);
  await viewer.knownAt([a, b]);
  const [home] = await viewer.homeAmong(pair);
  await home.kill9();
  expect((await viewer.call("GET", "/Users/Me")).status).toBe(200);
});
