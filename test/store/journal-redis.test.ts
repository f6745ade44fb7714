// What only a journal in Redis must promise: Redis is emptied, comes back from an older dump, is frozen and written to
// by others, and nobody takes another entry for the one that they read, and nobody stops.

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Redis } from "ioredis";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { journalGenerationStride, journalValueLimitCharacters } from "../../core/store/journal.ts";
import { storeKeys } from "../../core/store/keys.ts";
import type { RedisStore, RedisStoreOptions } from "../../core/store/redis.ts";
import { StoreUnavailable } from "../../core/store/store.ts";
import { startSentinels } from "../support/sentinel.ts";
import { beginningOf, journalFollower, names, readAll } from "./journals.ts";
import { callLimitMs, serverOfFile, untilAvailable } from "./on-redis.ts";
import { defaultLimits, follower, sleep } from "./worlds.ts";

/** What a timer and a busy machine may add to a limit. */
const slackMs = 2000;
const keys = storeKeys("jellybloom");

const { server, admin, open: openStore } = await serverOfFile();

beforeEach(async () => {
  await admin.flushall();
});

/** Its followers are patient, unless told otherwise. */
function open(options: Partial<RedisStoreOptions> = {}): Promise<RedisStore> {
  return openStore({ followIdleMs: 15_000, reconnectLimitMs: 50, ...options });
}

describe("when Redis is emptied", () => {
  test("the next to write begins a new generation above all it knew, and followers are told at once", async () => {
    const store = await open();
    const other = await open();
    const before = await store.appendJournal(names(1, 5));
    const following = journalFollower(other, await beginningOf(other));
    await following.until(() => following.entries.length === 5);
    await admin.flushall();
    const after = await store.appendJournal(["entry 6"]);
    expect(after.generation).not.toBe(before.generation);
    expect(after.number).toBe(5 + journalGenerationStride + 1);
    const beganMs = performance.now();
    expect(await following.result).toBe("lost");
    expect(performance.now() - beganMs).toBeLessThan(callLimitMs + slackMs);
    expect(following.entries).toHaveLength(5);
    // Who stands where the old journal ended has not seen how much is missing.
    const page = await other.readJournal({ ...after, number: 5 }, 10);
    expect(page).toMatchObject({ outcome: "lost", ends: { first: after.number } });
  });

  test("followers are told also when nobody writes again", async () => {
    const store = await open({ followIdleMs: 50 });
    await store.appendJournal(names(1, 3));
    const following = journalFollower(store, await beginningOf(store));
    await following.until(() => following.entries.length === 3);
    await admin.flushall();
    const beganMs = performance.now();
    expect(await following.result).toBe("lost");
    expect(performance.now() - beganMs).toBeLessThan(200 + slackMs);
  });

  test("followers are told as soon as those of the feed are", async () => {
    const store = await open({ followIdleMs: 1000 });
    await store.appendJournal(names(1, 3));
    const following = journalFollower(store, await beginningOf(store));
    await following.until(() => following.entries.length === 3);
    const feed = follower(store, (await store.load()).position);
    await sleep(50);
    await admin.flushall();
    const beganMs = performance.now();
    expect(await feed.result).toBe("lost");
    expect(await following.result).toBe("lost");
    // By itself it would have waited four times as long.
    expect(performance.now() - beganMs).toBeLessThan(1000 + slackMs);
  });

  test("who knew more than what a stranger began since then is not misled by it", async () => {
    const store = await open();
    const before = await store.appendJournal(names(1, 5));
    await admin.flushall();
    const stranger = await open();
    expect(await stranger.appendJournal(["stranger"])).toMatchObject({ number: 1 });
    const following = journalFollower(stranger, await beginningOf(stranger));
    await following.until(() => following.entries.length === 1);
    const after = await store.appendJournal(["entry 6"]);
    expect(after.generation).not.toBe(before.generation);
    expect(after.number).toBe(5 + journalGenerationStride + 1);
    // The stranger's entry is still there for all.
    expect(await following.result).toBe("lost");
    const { entries } = await readAll(store, { ...after, number: 0 });
    expect(entries.map(({ value }) => value)).toEqual(["stranger", "entry 6"]);
  });
});

describe("when Redis comes back without its last writes", () => {
  /** Writes 1 to 3, keeps them in a dump, writes 4 to 6, and has Redis killed and started from the dump. */
  async function loseThree(store: RedisStore, areRead: () => Promise<void> = async () => {}) {
    await store.appendJournal(names(1, 3));
    await admin.save();
    const cursor = await store.appendJournal(names(4, 6));
    await areRead();
    await server.kill9();
    await server.restart();
    await untilAvailable(() => store.time());
    return cursor;
  }

  afterEach(async () => {
    // The dump would be loaded by the next start, too.
    await untilAvailable(() =>
      admin.flushall().catch(() => Promise.reject(new StoreUnavailable())),
    );
    await admin.save();
  });

  test("whoever knows them begins a new generation, which keeps what is left", async () => {
    const store = await open();
    const lost = await loseThree(store);
    const after = await store.appendJournal(["entry 7"]);
    expect(after.generation).not.toBe(lost.generation);
    expect(after.number).toBe(6 + journalGenerationStride + 1);
    const { entries } = await readAll(store, { ...after, number: 0 });
    expect(entries.map(({ value }) => value)).toEqual([...names(1, 3), "entry 7"]);
    // Numbers that were read before mean what they meant: one may go on from there.
    expect((await readAll(store, { ...after, number: 5, mark: "" })).entries).toHaveLength(1);
    expect((await store.readJournal(lost, 10)).outcome).toBe("lost");
  });

  test("a follower is told lost when it comes back, and its asking is enough to begin the generation", async () => {
    const store = await open();
    const { generation } = await store.journalEnds();
    const following = journalFollower(store, { generation, number: 0 });
    const lost = loseThree(store, () => following.until(() => following.entries.length === 6));
    await expect(following.result).rejects.toThrow(StoreUnavailable);
    await lost;
    const { cursor } = following;
    expect(cursor.number).toBe(6);
    // Another process: it knows nothing but the cursor that it kept.
    const other = await open();
    expect(await journalFollower(other, cursor).result).toBe("lost");
    expect((await other.journalEnds()).generation).not.toBe(generation);
  });

  test("a cursor is known for lost also when as much was written again since then", async () => {
    const store = await open();
    const lost = await loseThree(store);
    // A writer who knows nothing of the loss gives the same numbers again.
    const stranger = await open();
    expect(await stranger.appendJournal(names(14, 18))).toMatchObject({
      generation: lost.generation,
      number: 8,
    });
    expect((await stranger.readJournal(lost, 10)).outcome).toBe("lost");
    expect((await stranger.journalEnds()).generation).not.toBe(lost.generation);
  });

  test("the writer who knows the lost entries says so with the next one", async () => {
    const store = await open();
    const lost = await loseThree(store);
    const stranger = await open();
    await stranger.appendJournal(names(14, 18));
    const after = await store.appendJournal(["entry 7"]);
    expect(after.generation).not.toBe(lost.generation);
    expect(after.number).toBe(8 + journalGenerationStride + 1);
  });
});

test("a failover to a copy that lacks the last entries begins a new generation, at which followers are told lost", async () => {
  const sentinels = await startSentinels();
  try {
    const [master, copy] = sentinels.servers;
    const patient = { url: sentinels.url, limits: { ...defaultLimits, callLimitMs: 2000 } };
    const store = await open(patient);
    const other = await open(patient);
    await store.appendJournal(names(1, 3));
    const link = new Redis(copy.url, { protocol: 2 });
    while ((await link.xlen(keys.journal)) < 3) await sleep(10);
    link.disconnect();
    copy.freeze();
    // More than lies on the way to a copy that reads nothing: the last of them it never has.
    const large = Array.from({ length: 10 }, () => "x".repeat(journalValueLimitCharacters));
    for (let round = 0; round < 5; round += 1) await store.appendJournal(large);
    const lost = await store.appendJournal(["the last"]);
    const following = journalFollower(other, await beginningOf(other));
    await following.until(() => following.entries.length === lost.number);
    await master.kill9();
    copy.thaw();
    await expect(following.result).rejects.toThrow(StoreUnavailable);
    const after = await untilAvailable(() => store.appendJournal(["entry 7"]), 20_000);
    expect(after.generation).not.toBe(lost.generation);
    expect(after.number).toBe(lost.number + journalGenerationStride + 1);
    const page = await untilAvailable(() => other.readJournal(following.cursor, 10), 20_000);
    expect(page).toMatchObject({ outcome: "lost", ends: { generation: after.generation } });
    const { entries } = await readAll(other, { ...after, number: 0 });
    expect(entries.slice(0, 3).map(({ value }) => value)).toEqual(names(1, 3));
    expect(entries.at(-1)).toMatchObject({ number: after.number, value: "entry 7" });
    expect(entries.length).toBeLessThan(lost.number);
  } finally {
    await sentinels.stop();
  }
}, 60_000);

describe("what others write into the journal", () => {
  test("is passed over where it is no entry", async () => {
    const store = await open();
    const following = journalFollower(store, await beginningOf(store));
    await store.appendJournal(["entry 1"]);
    await admin.xadd(keys.journal, "1-1", "a", "b");
    await admin.xadd(keys.journal, "1-7", "mark", "x", "previous", "y", "value", "z");
    await store.appendJournal(["entry 2"]);
    await following.until(() => following.entries.length === 2);
    const { entries } = await readAll(store, await beginningOf(store));
    expect(entries.map(({ number, value }) => `${number} ${value}`)).toEqual([
      "1 entry 1",
      "2 entry 2",
    ]);
    await following.stop();
  });

  test("beyond its end makes it begin anew, and nobody is kept from writing", async () => {
    const store = await open();
    const before = await store.appendJournal(["entry 1"]);
    await admin.xadd(keys.journal, "5000000-0", "a", "b");
    const after = await store.appendJournal(["entry 2", "entry 3"]);
    expect(after.generation).not.toBe(before.generation);
    const { entries } = await readAll(store, { ...after, number: after.number - 2 });
    expect(entries.map(({ value }) => value)).toEqual(["entry 2", "entry 3"]);
  });

  test("in its head makes it begin anew", async () => {
    const store = await open();
    const before = await store.appendJournal(["entry 1"]);
    for (const last of ["nonsense", "-3", "1e300"]) {
      await admin.hset(keys.journalHead, "last", last);
      const after = await store.appendJournal(["entry 2"]);
      expect(after.generation).not.toBe(before.generation);
      expect(after.number).toBeLessThan(1e6);
    }
    await admin.hset(keys.journalHead, "blocks", "nonsense 1:2:3", "blockBytes", "many");
    await store.appendJournal(["entry 3"]);
  });

  test("in place of it is a store that is away, until it is taken away", async () => {
    const store = await open();
    await store.appendJournal(["entry 1"]);
    await admin.set(keys.journal, "a text");
    const cursor = await beginningOf(await open()).catch((error: unknown) => error);
    expect(cursor).toBeInstanceOf(StoreUnavailable);
    await expect(store.appendJournal(["entry 2"])).rejects.toThrow(StoreUnavailable);
    await admin.del(keys.journal);
    expect(await store.appendJournal(["entry 2"])).toMatchObject({ number: 2 });
  });

  test("is told as lost where entries were taken out, with where it goes on", async () => {
    const store = await open();
    const cursor = { ...(await store.appendJournal(names(1, 9))), number: 0, mark: "" };
    await admin.xdel(keys.journal, "4-0", "5-0");
    const first = await store.readJournal(cursor, 10);
    if (first.outcome === "lost") throw new Error("lost");
    expect(first.entries.map(({ number }) => number)).toEqual([1, 2, 3]);
    const second = await store.readJournal(first.cursor, 10);
    expect(second).toMatchObject({ outcome: "lost", ends: { first: 6, last: 9 } });
    expect((await readAll(store, { ...cursor, number: 5 })).entries).toHaveLength(4);
  });
});

describe("a journal under load", () => {
  test("takes what many append in one moment with a few calls", async () => {
    const store = await open();
    await store.appendJournal(["first"]);
    const monitor = await admin.monitor();
    let calls = 0;
    monitor.on("monitor", (_time: string, words: string[], source: string) => {
      if (source !== "lua" && words[0]?.toLowerCase().startsWith("eval")) calls += 1;
    });
    const cursors = await Promise.all(names(1, 1000).map((name) => store.appendJournal([name])));
    await sleep(50);
    monitor.disconnect();
    expect(cursors.map(({ number }) => number)).toEqual(
      names(2, 1001).map((_name, index) => index + 2),
    );
    expect(calls).toBeLessThanOrEqual(5);
    expect(calls).toBeGreaterThan(0);
  });

  test("fails within the limit when Redis does not answer, and takes the entry again later", async () => {
    const store = await open();
    await store.appendJournal(["entry 1"]);
    const following = journalFollower(store, await beginningOf(store));
    await following.until(() => following.entries.length === 1);
    server.freeze();
    const beganMs = performance.now();
    await expect(store.appendJournal(["entry 2"])).rejects.toThrow(StoreUnavailable);
    expect(performance.now() - beganMs).toBeLessThan(callLimitMs + slackMs);
    server.thaw();
    await expect(following.result).rejects.toThrow(StoreUnavailable);
    await untilAvailable(() => store.appendJournal(["entry 2"]));
    // It was written twice: Redis had the first in its buffers. Each comes once.
    const { entries } = await readAll(store, await beginningOf(store));
    expect(entries.map(({ value }) => value)).toEqual(["entry 1", "entry 2", "entry 2"]);
  });

  test("is followed anew when the connection that is in use breaks, however long the other may be silent", async () => {
    const store = await open();
    const cursor = await store.appendJournal(["entry 1"]);
    const following = journalFollower(store, cursor);
    await following.until(() => following.calls === 1);
    const clients = String(await admin.client("LIST")).split("\n");
    for (const client of clients.filter((one) => / name=jellybloom /.test(one))) {
      await admin.client("KILL", "ID", /^id=(\d+)/.exec(client)?.[1] ?? "");
    }
    await expect(following.result).rejects.toThrow(StoreUnavailable);
    await untilAvailable(() => store.appendJournal(["entry 2"]));
    const again = journalFollower(store, following.cursor);
    await again.until(() => again.entries.length === 1);
    expect(await again.stop()).toBe("aborted");
  });

  test("costs two commands for each idle time of a follower", async () => {
    const store = await open({ followIdleMs: 25 });
    await store.appendJournal(["entry 1"]);
    const following = journalFollower(store, await beginningOf(store));
    await following.until(() => following.entries.length === 1);
    const monitor = await admin.monitor();
    let commands = 0;
    monitor.on("monitor", (_time: string, _words: string[], source: string) => {
      if (source !== "lua") commands += 1;
    });
    await sleep(1000);
    monitor.disconnect();
    expect(commands).toBeGreaterThan(4);
    expect(commands).toBeLessThanOrEqual(22);
    await following.stop();
  });
});

test("a follower keeps nothing of what it has told", async () => {
  // Before: each answer was kept until the connection ended, 12 MB a minute at fifty changes a second.
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const store = await open();
  const stop = new AbortController();
  let told = 0;
  const following = store.followJournal(
    await beginningOf(store),
    (entries) => {
      told += entries.length;
    },
    stop.signal,
  );
  collect();
  const beforeBytes = process.memoryUsage().heapUsed;
  for (let turn = 1; turn <= 300; turn++) {
    await store.appendJournal([`${turn} `.padEnd(100_000, "x")]);
    while (told < turn) await sleep(1);
  }
  collect();
  expect(process.memoryUsage().heapUsed - beforeBytes).toBeLessThan(10_000_000);
  stop.abort();
  expect(await following).toBe("aborted");
});
