// A server whose data are put back is noticed, by a real keeper at a real stand-in whose database is exchanged on the
// disk, and the cluster does what its owner says.

import { randomUUID } from "node:crypto";
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { decidingRoute } from "../../core/cluster/deciding.ts";
import {
  behindOf,
  journalNoteId,
  journalStartNoteId,
  journalStartOf,
} from "../../core/cluster/journal-cursor.ts";
import { Memory } from "../../core/cluster/memory.ts";
import {
  isQuarantined,
  markNoteId,
  quarantineNoteId,
  quarantineOf,
  quarantineValue,
  readMark,
} from "../../core/cluster/truth.ts";
import { systemClock } from "../../core/service/clock.ts";
import { openEmbeddedStore } from "../../core/store/embedded.ts";
import { openRedisStore } from "../../core/store/redis.ts";
import type { Store } from "../../core/store/store.ts";
import { markDeviceId, TruthKeeper } from "../../sidecar/truth.ts";
import { copyDatabase } from "../support/jellyfin/database.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { databaseFile } from "../support/jellyfin/world.ts";
import { startRedis } from "../support/redis.ts";
import { clientOf, defaultSeal, emptyFolder, eventually, storeLimits } from "./sidecar-cluster.ts";

const media = emptyFolder();
let a: StandIn;
let b: StandIn;
let stopPair: () => Promise<void>;
const endings: (() => Promise<void>)[] = [];
let folder = "";

beforeAll(async () => {
  ({ a, b, stop: stopPair } = await startPair({ mediaDir: media.path }));
  folder = mkdtempSync(join(tmpdir(), "jellybloom-truth-"));
});

afterEach(async () => {
  for (const end of endings.splice(0)) await end();
});

afterAll(async () => {
  await stopPair();
  media.remove();
  rmSync(folder, { recursive: true, force: true });
});

interface Kept {
  readonly keeper: TruthKeeper;
  readonly memory: Memory;
  readonly store: Store;
  readonly lines: string[];
  readonly end: () => Promise<void>;
}

function keep(
  server: StandIn,
  given: { store?: Store; directory?: string; isAway?: boolean } = {},
): Kept {
  const store = given.store ?? openEmbeddedStore({ limits: storeLimits });
  const lines: string[] = [];
  const line = (message: string): void => void lines.push(message);
  const log = { debug: () => undefined, info: line, warn: line, error: line };
  const memory = new Memory({
    store,
    seal: defaultSeal,
    log,
    tokensRemembered: 10,
    storeRetryMs: 50,
  });
  const ending = new AbortController();
  const client = clientOf(server);
  const keeper = new TruthKeeper({
    ...{ replica: server.name, client, store, memory, seal: defaultSeal, clock: systemClock, log },
    directory: given.directory,
    replicas: () => ["a", "b"],
    limits: { markIntervalMs: 50, retryMs: 50 },
  });
  const work = [memory.run(ending.signal), keeper.run(ending.signal)];
  if (given.isAway !== true) keeper.noteHealth(true);
  const end = async (): Promise<void> => {
    ending.abort();
    await Promise.all(work);
    await client.close();
    if (given.store === undefined) await store.close();
  };
  endings.push(end);
  return { keeper, memory, store, lines, end };
}

async function markAt(server: StandIn) {
  const headers = { authorization: `MediaBrowser Token="${server.apiKey}"` };
  const reply = await fetch(`${server.url}/Devices/Options?id=${markDeviceId}`, { headers });
  if (reply.status === 404) return undefined;
  return readMark(((await reply.json()) as { CustomName: string }).CustomName);
}

async function applied({ store, memory }: Kept, replica: string, number: number): Promise<void> {
  const value = JSON.stringify({ generation: "g", number });
  const note = { kind: "replica", id: journalNoteId(replica), replica, value } as const;
  await store.putNote(note, 0);
  memory.apply({ type: "note", note: { ...note, expiresAtMs: 0 } });
}

async function putBack(server: StandIn, from: string): Promise<void> {
  await server.kill9();
  for (const end of ["", "-wal", "-shm"])
    rmSync(databaseFile(server.dataDir) + end, { force: true });
  copyFileSync(from, databaseFile(server.dataDir));
  await server.launch();
}

async function decide(kept: Kept, replica: string, decision: string) {
  const { store, memory } = kept;
  const route = decidingRoute({ store, memory, seal: defaultSeal, replicas: () => ["a", "b"] });
  return await route.answer(JSON.stringify({ replica, decision }));
}

test("the mark follows the journal, and a server that is put back is in quarantine until it caught up", async () => {
  const kept = keep(b);
  const { keeper, memory } = kept;
  await eventually(() => keeper.isTrusted);
  await applied(kept, "b", 10);
  await eventually(async () => (await markAt(b))?.cursor?.number === 10);
  const old = join(folder, "old.db");
  await copyDatabase(databaseFile(b.dataDir), old);
  await applied(kept, "b", 25);
  await eventually(async () => (await markAt(b))?.cursor?.number === 25);

  const distrusted = await keeper.untilTrusted(new AbortController().signal);
  await putBack(b, old);
  keeper.noteHealth(false);
  keeper.noteHealth(true);
  await eventually(() => isQuarantined(memory.notes("replica"), "b"));
  expect(distrusted.aborted).toBe(true);
  expect(keeper.isTrusted).toBe(false);
  expect(keeper.sentence()).toMatch(
    /^b gets nobody: .* lack up to 15 changes .*jellybloom catch-up b/,
  );
  expect((await markAt(b))?.cursor?.number).toBe(10);

  expect((await decide(kept, "c", "catchUp")).status).toBe(404);
  expect((await decide(kept, "a", "catchUp")).status).toBe(409);
  expect((await decide(kept, "b", "catchUp")).status).toBe(200);
  await eventually(() => keeper.isTrusted);
  expect(isQuarantined(memory.notes("replica"), "b")).toBeUndefined();
  // The journal is done again there from where the old data were, and nobody is sent there before that.
  expect(behindOf(memory.notes("replica"), "b")?.cause).toBe("server");
  expect(journalStartOf(memory.notes("replica"), "b")?.cursor.number).toBe(10);
});

test("a server that its owner calls right is used at once, and the others get nobody until they are seeded from it", async () => {
  const store = openEmbeddedStore({ limits: storeLimits });
  const keptA = keep(a, { store });
  const keptB = keep(b, { store });
  await eventually(() => keptA.keeper.isTrusted && keptB.keeper.isTrusted);
  const old = join(folder, "older.db");
  await copyDatabase(databaseFile(b.dataDir), old);
  await applied(keptB, "b", 99);
  await eventually(async () => (await markAt(b))?.cursor?.number === 99);
  await store.appendJournal(["one", "two"]);
  await putBack(b, old);
  keptB.keeper.noteHealth(false);
  keptB.keeper.noteHealth(true);
  await eventually(() => isQuarantined(keptB.memory.notes("replica"), "b"));

  expect((await decide(keptB, "b", "truth")).status).toBe(200);
  await eventually(() => keptB.keeper.isTrusted);
  expect(journalStartOf(keptB.memory.notes("replica"), "b")?.cursor.number).toBe(2);
  await eventually(() => quarantineOf(keptA.memory.notes("replica"), "a")?.truth === "b");
  await eventually(() => !keptA.keeper.isTrusted);
  expect(keptA.keeper.sentence()).toContain("jellybloom reseed a makes it like b");
  const refused = await decide(keptA, "a", "catchUp");
  expect(refused.status).toBe(409);

  // a is seeded from b: its data carry b's mark, and that ends the quarantine.
  const copy = join(folder, "seed.db");
  await copyDatabase(databaseFile(b.dataDir), copy);
  await putBack(a, copy);
  keptA.keeper.noteHealth(false);
  keptA.keeper.noteHealth(true);
  await eventually(() => keptA.keeper.isTrusted);
  expect(isQuarantined(keptA.memory.notes("replica"), "a")).toBeUndefined();
  expect((await markAt(a))?.replica).toBe("a");
  for (const { end } of [keptA, keptB]) await end();
  endings.length = 0;
  await store.close();
});

describe("data of another replica are gone on with", () => {
  /** b gets a copy of the data that a has with 40 changes, after a seed told the cluster so. */
  async function begun(told: { number: number; order: string; generation?: string }) {
    const store = openEmbeddedStore({ limits: storeLimits });
    const keptA = keep(a, { store });
    await eventually(() => keptA.keeper.isTrusted);
    await applied(keptA, "a", 40);
    await eventually(async () => (await markAt(a))?.cursor?.number === 40);
    const copy = join(folder, `copy-${randomUUID()}.db`);
    await copyDatabase(databaseFile(a.dataDir), copy);
    await keptA.end();
    const { order, generation = "g", number } = told;
    const value = JSON.stringify({ cursor: { generation, number }, order });
    await store.putNote({ kind: "replica", id: journalStartNoteId("b"), replica: "b", value }, 0);
    await putBack(b, copy);
    const keptB = keep(b, { store });
    await eventually(() => keptB.keeper.isTrusted);
    const start = journalStartOf(keptB.memory.notes("replica"), "b");
    await keptB.end();
    endings.length = 0;
    await store.close();
    return start;
  }

  test.each([
    // A server that was put back knows less than its sidecar's note says, which the seed went by.
    ["from where the data are, when the seed told more", { number: 90, order: "ticket" }, 40],
    ["from what the seed told, when that is earlier", { number: 30, order: "ticket" }, 30],
    [
      "from where the data are, when what was told is of a journal that is gone",
      { number: 30, order: "ticket", generation: "before" },
      40,
    ],
    ["from where the data are, when they were copied by hand", { number: 10, order: "mark 1" }, 40],
  ] as const)("%s", async (_name, told, number) => {
    const start = await begun(told);
    expect(start?.cursor).toEqual({ generation: "g", number });
    // An order is obeyed once, and that of an earlier seed was.
    expect(start?.order).not.toBe(told.order);
  });
});

test("a copy of a server in quarantine gets nobody either, before and after its owner has decided", async () => {
  const store = openEmbeddedStore({ limits: storeLimits });
  const keptA = keep(a, { store });
  await eventually(() => keptA.keeper.isTrusted);
  await applied(keptA, "a", 60);
  await eventually(async () => (await markAt(a))?.cursor?.number === 60);
  const copy = join(folder, "held.db");
  await copyDatabase(databaseFile(a.dataDir), copy);
  await keptA.end();
  const hold = async (replica: string, truth: string) => {
    const value = quarantineValue({ sinceMs: 1, reason: "its data were put back", truth });
    await store.putNote({ kind: "replica", id: quarantineNoteId(replica), replica, value }, 0);
  };

  await hold("a", "");
  await putBack(b, copy);
  const first = keep(b, { store });
  await eventually(() => isQuarantined(first.memory.notes("replica"), "b"));
  expect(first.keeper.sentence()).toContain("its data are a copy of a, which is in quarantine");
  expect(first.keeper.isTrusted).toBe(false);
  await decide(first, "b", "catchUp");
  await eventually(() => first.keeper.isTrusted);
  expect(journalStartOf(first.memory.notes("replica"), "b")?.cursor.number).toBe(60);
  await first.end();

  // Another one is right, and b was made from a folder of a all the same: it waits for a copy of that one.
  await hold("b", "c");
  await putBack(b, copy);
  const second = keep(b, { store });
  await eventually(async () => (await markAt(b))?.replica === "a");
  await sleep(300);
  expect(quarantineOf(second.memory.notes("replica"), "b")?.truth).toBe("c");
  expect(second.keeper.isTrusted).toBe(false);
  expect((await markAt(b))?.replica).toBe("a");
  await second.end();
  endings.length = 0;
  await store.close();
});

test("what was remembered outlives the store, and the folder beside the sidecar", async () => {
  const directory = join(folder, "kept");
  const first = keep(a, { directory });
  await eventually(() => first.keeper.isTrusted);
  await eventually(() => existsSync(join(directory, "mark-a.json")));
  const counted = readMark(JSON.parse(readFileSync(join(directory, "mark-a.json"), "utf8")).mark);
  expect(counted?.count).toBeGreaterThan(0);
  const before = join(folder, "before.db");
  await copyDatabase(databaseFile(a.dataDir), before);
  await applied(first, "a", 7);
  await eventually(async () => (await markAt(a))?.cursor?.number === 7);
  await first.end();
  endings.length = 0;

  // Another store, which has lost everything: the file beside the sidecar remembers.
  await putBack(a, before);
  const second = keep(a, { directory });
  await eventually(() => isQuarantined(second.memory.notes("replica"), "a"));

  // Another folder: the store remembers.
  const { store } = second;
  expect(second.memory.note("replica", markNoteId("a"))).toBeUndefined();
  await decide(second, "a", "truth");
  await eventually(() => second.keeper.isTrusted);
  await eventually(() => second.memory.note("replica", markNoteId("a")) !== undefined);
  await putBack(a, before);
  const third = keep(a, { store, directory: join(folder, "another") });
  await eventually(() => isQuarantined(third.memory.notes("replica"), "a"));
  await third.end();

  // Neither: nobody can know, nothing crashes, and the server is used.
  const fourth = keep(a);
  await eventually(() => fourth.keeper.isTrusted);
}, 20_000);

test("a server that came while the store was away is looked at again when the store is back", async () => {
  const redis = await startRedis();
  const callLimitMs = 200;
  const store = await openRedisStore({ url: redis.url, limits: { ...storeLimits, callLimitMs } });
  const { keeper, memory, end } = keep(a, { store, isAway: true });
  await memory.loaded;
  const looks = async () => (await a.requests({ method: "GET", path: "/Devices/Options" })).length;
  const before = await looks();
  redis.freeze();
  keeper.noteHealth(true);
  // It is asked a second time: what the first look found could not be written down.
  await eventually(async () => (await looks()) > before + 1);
  redis.thaw();
  await eventually(() => keeper.isTrusted);
  await end();
  endings.length = 0;
  await store.close();
  await redis.stop();
});
