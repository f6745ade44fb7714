// What a viewer was told of while the store is away is not lost, though the door that noted it dies before the store
// is back. No sidecar runs here: only what the door writes is looked at.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Entry, type Intent, readEntry } from "../../core/cluster/journal.ts";
import { createSeal } from "../../core/service/seal.ts";
import { openRedisStore } from "../../core/store/redis.ts";
import { CLUSTER_KEY, type DoorProcess, startDoor } from "../support/door.ts";
import { startPair } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { until, Viewer } from "../support/viewer.ts";

const limits = { changesKept: 1000, revokedKeepMs: 60_000, callLimitMs: 2000 };
const changes = 12;

let redis: RedisServer;
let pair: Awaited<ReturnType<typeof startPair>>;
let door: DoorProcess;
let folder: string;

beforeAll(async () => {
  const media = await makeMedia();
  folder = await mkdtemp(join(tmpdir(), "jellybloom-spool-"));
  [redis, pair] = await Promise.all([
    startRedis({ args: ["--appendonly", "yes"] }),
    startPair({ mediaDir: media.folder }),
  ]);
  door = await startDoor({
    command: "proxy",
    redis: redis.url,
    replicas: [pair.a, pair.b],
    args: ["--spool", folder],
  });
});

afterAll(async () => {
  await door.stop();
  await pair.stop();
  await redis.stop();
  await rm(folder, { recursive: true, force: true });
});

async function entries(): Promise<Entry[]> {
  const store = await openRedisStore({ url: redis.url, limits });
  const seal = createSeal(CLUSTER_KEY);
  try {
    const { generation, first } = await store.journalEnds();
    const page = await store.readJournal({ generation, number: first - 1 }, 500);
    if (page.outcome === "lost") throw new Error("nobody wrote but the door");
    return page.entries.map((one) => {
      const read = readEntry(one, seal);
      if (read.outcome === "refused") throw new Error(read.why);
      return read.placed.entry;
    });
  } finally {
    await store.close();
  }
}

function isFavourite(entry: Entry): entry is Intent {
  return entry.type === "intent" && entry.kind === "userData";
}

test("changes made while Redis is away are in the journal, in their order, though the door is killed before it is back", async () => {
  const viewer = await Viewer.enter(door.url);
  const film = await viewer.item();
  await redis.kill9();
  const told: string[] = [];
  for (let index = 0; index < changes; index += 1) {
    const method = index % 2 === 0 ? "POST" : "DELETE";
    const answer = await viewer.call(method, `/UserFavoriteItems/${film}`);
    expect(answer.status).toBe(200);
    told.push(method);
  }
  await door.kill9();
  await redis.restart();
  await door.launch();
  let found: Entry[] = [];
  await until(5000, "all intents are in the journal", async () => {
    found = await entries();
    return found.filter(isFavourite).length >= changes;
  });
  const intents = found.flatMap((entry) => (isFavourite(entry) ? [entry] : []));
  expect(intents.map(({ request }) => request.method)).toEqual(told);
  // Each is closed with what the viewer was told; the last may have been on its way to the disk.
  for (const { id } of intents.slice(0, -1)) {
    expect(found).toContainEqual(expect.objectContaining({ type: "outcome", of: id, status: 200 }));
  }
});
