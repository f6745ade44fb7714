// What doors and sidecars write into the journal arrives, in its order, whatever happens to the store meanwhile: on a
// real Redis that is killed, frozen and started again, and on the embedded store.

import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Entry, readEntry } from "../../core/cluster/journal.ts";
import { JournalWriter, spoolLimits } from "../../core/cluster/journal-writer.ts";
import { createMetrics } from "../../core/service/metrics.ts";
import { createSeal } from "../../core/service/seal.ts";
import { openEmbeddedStore } from "../../core/store/embedded.ts";
import { journalValueLimitCharacters } from "../../core/store/journal.ts";
import { openRedisStore } from "../../core/store/redis.ts";
import { type Store, StoreUnavailable } from "../../core/store/store.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { intentOf, outcomeOf } from "../unit/cluster/journal-entries.ts";
import { defaultLimits, sleep, until } from "./worlds.ts";

const seal = createSeal("a cluster key for tests only");
const limits = { ...defaultLimits, callLimitMs: 300 };

let folder: string;
let said: string[];
let opened: { close(): Promise<void> }[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "jellybloom-writer-"));
  said = [];
  opened = [];
});
afterEach(async () => {
  for (const one of opened) await one.close();
  await rm(folder, { recursive: true, force: true });
});

function writerOf(store: Store, options: Partial<ConstructorParameters<typeof JournalWriter>[0]>) {
  const metrics = createMetrics("1");
  const log = {
    info: (message: string) => said.push(message),
    warn: (message: string) => said.push(message),
  };
  const writer = new JournalWriter({
    store,
    seal,
    log,
    metrics,
    limits: spoolLimits,
    retryLimitMs: 100,
    ...options,
  });
  return { writer, metrics };
}

async function stop(writer: JournalWriter): Promise<void> {
  await writer.stop(AbortSignal.timeout(2000));
}

/** Everything the journal has, with the numbers, as entries. */
async function journalOf(store: Store): Promise<{ number: number; entry: Entry }[]> {
  const { generation, first } = await store.journalEnds();
  const found: { number: number; entry: Entry }[] = [];
  let cursor = { generation, number: first - 1 };
  for (;;) {
    const page = await store.readJournal(cursor, 500);
    if (page.outcome === "lost" || page.entries.length === 0) return found;
    for (const one of page.entries) {
      const read = readEntry(one, seal);
      if (read.outcome === "refused") throw new Error(read.why);
      found.push({ number: one.number, entry: read.placed.entry });
    }
    cursor = page.cursor;
  }
}

async function idsOf(store: Store): Promise<string[]> {
  return (await journalOf(store)).map(({ entry }) => entry.id);
}

function ids(count: number, from = 1): string[] {
  return Array.from({ length: count }, (_unused, index) => `e${from + index}`);
}

describe("a writer on the embedded store", () => {
  test("answers the number that each entry has in the journal, and keeps their order", async () => {
    const store = openEmbeddedStore({ limits });
    opened.push(store);
    const { writer, metrics } = writerOf(store, {});
    await writer.start();
    const numbers = await Promise.all(ids(50).map((id) => writer.write(intentOf(id))));
    const found = await journalOf(store);
    expect(found.map(({ entry }) => entry.id)).toEqual(ids(50));
    expect(numbers).toEqual(found.map(({ number }) => number));
    expect(writer.seen).toMatchObject({ number: 50 });
    expect(metrics.journalWritten.value).toBe(50);
    expect(metrics.journalEnd.value).toBe(50);
    await stop(writer);
  });

  test("refuses an entry that no journal would take, and none after it", async () => {
    const store = openEmbeddedStore({ limits });
    opened.push(store);
    const { writer } = writerOf(store, {});
    const huge = { ...outcomeOf("big", "x", 200), facts: "x".repeat(journalValueLimitCharacters) };
    await expect(writer.write(huge)).rejects.toThrow(RangeError);
    expect(await writer.write(intentOf("small"))).toBe(1);
    await stop(writer);
  });

  test("answers also for a report that is left out because a newer one says the same", async () => {
    const store = openEmbeddedStore({ limits });
    opened.push(store);
    /** Away for the first call; the second and the third are held. */
    const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()] as const;
    let calls = 0;
    const appendJournal: Store["appendJournal"] = async (values, seen) => {
      calls += 1;
      if (calls === 1) throw new StoreUnavailable();
      await gates[calls - 2]?.promise;
      return await store.appendJournal(values, seen);
    };
    const room = { entriesMax: 8, charactersMax: 1e6 };
    const { writer } = writerOf(store, { store: { appendJournal }, limits: room });
    for (const id of ids(2)) await writer.write(intentOf(id));
    // While the second is held, the store is there and others wait for their numbers.
    gates[0].resolve();
    await until(() => writer.depth === 1);
    const numbers = ["old", "new", "newest", "last"].flatMap((id) => [
      writer.write(intentOf(id, { cause: "progress" })),
      writer.write(outcomeOf(`${id}, done`, id, 204)),
    ]);
    gates[1].resolve();
    expect(await Promise.all(numbers)).toEqual([
      undefined,
      undefined,
      undefined,
      undefined,
      3,
      4,
      5,
      6,
    ]);
    await stop(writer);
  });

  test("shows what it has seen, so that an older journal begins a new generation", async () => {
    const store = openEmbeddedStore({ limits });
    opened.push(store);
    const { writer } = writerOf(store, {});
    await writer.write(intentOf("first"));
    const { generation } = await store.journalEnds();
    writer.noteSeen({ generation, number: 9 });
    await writer.write(intentOf("second"));
    expect((await store.journalEnds()).generation).not.toBe(generation);
    expect(writer.seen?.generation).not.toBe(generation);
    await stop(writer);
  });
});

describe("a writer on Redis", () => {
  let server: RedisServer;

  beforeAll(async () => {
    server = await startRedis({ args: ["--appendonly", "yes", "--appendfsync", "always"] });
  });
  afterAll(() => server.stop());

  async function open(prefix: string = randomUUID()): Promise<Store> {
    const store = await openRedisStore({ url: server.url, prefix, limits, reconnectLimitMs: 50 });
    opened.push(store);
    return store;
  }

  test("spools while Redis is dead, answers at once, and sends all in order when it is back", async () => {
    const store = await open();
    const { writer, metrics } = writerOf(store, {});
    expect(await writer.write(intentOf("e1"))).toBe(1);
    await server.kill9();
    const beganMs = performance.now();
    expect(await writer.write(intentOf("e2"))).toBeUndefined();
    for (const id of ids(28, 3)) expect(await writer.write(intentOf(id))).toBeUndefined();
    // One call may have had to find out; the others do not wait for a store that is away.
    expect(performance.now() - beganMs).toBeLessThan(2 * limits.callLimitMs);
    expect(writer.depth).toBe(29);
    expect(writer.oldestAtMs).toBeGreaterThan(Date.now() - 10_000);
    expect(metrics.journalWaiting.value).toBe(29);
    await server.restart();
    await until(() => writer.depth === 0);
    expect(await writer.write(intentOf("e31"))).toBe(31);
    expect(await idsOf(store)).toEqual(ids(31));
    expect(metrics.journalSpooled.value).toBe(29);
    expect(said).toEqual([
      expect.stringMatching(/^the store takes no entries of the journal: they wait in memory/),
      "the store takes entries of the journal again",
    ]);
    await stop(writer);
  });

  test("loses and swaps nothing when Redis freezes in the midst of many writes; what came twice has one id", async () => {
    const store = await open();
    const { writer } = writerOf(store, {});
    const writes: Promise<unknown>[] = [];
    for (const [index, id] of ids(600).entries()) {
      if (index === 200) server.freeze();
      if (index === 400) setTimeout(() => server.thaw(), limits.callLimitMs * 2);
      writes.push(writer.write(intentOf(id)));
      if (index % 20 === 0) await sleep(2);
    }
    await Promise.all(writes);
    await until(() => writer.depth === 0);
    const found = await idsOf(store);
    expect([...new Set(found)]).toEqual(ids(600));
    await stop(writer);
  });

  test("keeps on disk what waits, and sends it after its own end", async () => {
    const prefix = "outlived";
    const file = join(folder, "journal.spool");
    const first = writerOf(await open(prefix), { file });
    await first.writer.start();
    await first.writer.write(intentOf("e1"));
    await server.kill9();
    for (const id of ids(9, 2)) await first.writer.write(intentOf(id));
    await first.writer.stop(AbortSignal.timeout(1000));
    expect(said.at(-1)).toMatch(/^9 entries of the journal could not be given .* stay in /);
    await server.restart();
    const store = await open(prefix);
    const second = writerOf(store, { file });
    await second.writer.start();
    // Newer ones go behind what waited, and are told their numbers all the same.
    expect(await second.writer.write(intentOf("e11"))).toBe(11);
    expect(await idsOf(store)).toEqual(ids(11));
    await stop(second.writer);
  });

  test("refuses what does not fit any more, says so once, counts it, and takes entries again later", async () => {
    const store = await open();
    const { writer, metrics } = writerOf(store, {
      limits: { entriesMax: 10, charactersMax: 1e6 },
    });
    await server.kill9();
    for (const id of ids(15)) expect(await writer.write(intentOf(id))).toBeUndefined();
    expect(writer.depth).toBe(10);
    expect(metrics.journalRefused.value).toBe(5);
    expect(said.filter((sentence) => sentence.includes("could not be kept"))).toHaveLength(1);
    await server.restart();
    await until(() => writer.depth === 0);
    expect(await writer.write(intentOf("e16"))).toBe(11);
    expect(await idsOf(store)).toEqual([...ids(10), "e16"]);
    await stop(writer);
  });

  test("is stopped while Redis is away without waiting for it", async () => {
    const store = await open();
    const { writer } = writerOf(store, {});
    await server.kill9();
    await writer.write(intentOf("e1"));
    const beganMs = performance.now();
    await stop(writer);
    expect(performance.now() - beganMs).toBeLessThan(1500);
    expect(said.at(-1)).toContain("are lost with this process");
    await server.restart();
  });
});
