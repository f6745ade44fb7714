// What waits for the store: bounded, in order, and on disk through any end of the process.

import { appendFile, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Entry, entryValue } from "../../../core/cluster/journal.ts";
import {
  JournalSpool,
  type SpooledEntry,
  supersededIds,
} from "../../../core/cluster/journal-spool.ts";
import { createSeal } from "../../../core/service/seal.ts";
import { effectOf, intentOf, outcomeOf } from "./journal-entries.ts";

const seal = createSeal("a cluster key for tests only");
const limits = { entriesMax: 100, charactersMax: 1_000_000 };

let folder: string;
let file: string;
let said: string[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "jellybloom-spool-"));
  file = join(folder, "below", "journal.spool");
  said = [];
});
afterEach(() => rm(folder, { recursive: true, force: true }));

function spoolOf(options: Partial<ConstructorParameters<typeof JournalSpool>[0]> = {}) {
  const log = {
    info: (message: string) => said.push(message),
    warn: (message: string) => said.push(message),
  };
  return new JournalSpool({ limits, seal, log, file, ...options });
}

function spooled(sequence: number, entry: Entry = intentOf(`intent-${sequence}`)): SpooledEntry {
  return { sequence, atMs: sequence * 10, entry, value: entryValue(entry, seal) };
}

function sequences(spool: JournalSpool): number[] {
  return spool.oldest(1000, Number.POSITIVE_INFINITY).map(({ sequence }) => sequence);
}

describe("a spool", () => {
  test("keeps entries by the order in which they were made, whatever the order in which they came", () => {
    const spool = spoolOf();
    spool.open();
    for (const sequence of [2, 1, 4, 3]) expect(spool.add(spooled(sequence))).toBe(true);
    expect(sequences(spool)).toEqual([1, 2, 3, 4]);
    expect(spool.depth).toBe(4);
    expect(spool.oldestAtMs).toBe(10);
    spool.removeUpTo(3);
    expect(sequences(spool)).toEqual([4]);
    spool.close();
  });

  test("gives what one call may carry, and at least one entry", () => {
    const spool = spoolOf();
    for (const sequence of [1, 2, 3]) spool.add(spooled(sequence));
    const characters = spooled(1).value.length;
    expect(spool.oldest(2, 1e6)).toHaveLength(2);
    expect(spool.oldest(10, characters * 2)).toHaveLength(2);
    expect(spool.oldest(10, 1)).toHaveLength(1);
    spool.close();
  });

  test("is read again after the end of its process, but for what was sent", () => {
    const before = spoolOf();
    before.open();
    for (const sequence of [1, 2, 3, 4, 5]) before.add(spooled(sequence));
    before.removeUpTo(2);
    // No close: the process was killed.
    const after = spoolOf();
    expect(after.open()).toBe(5);
    expect(sequences(after)).toEqual([3, 4, 5]);
    expect(after.oldest(1, 1)).toEqual([spooled(3)]);
    expect(said).toEqual([
      expect.stringMatching(/^3 entries of the journal wait in .* earlier run$/),
    ]);
    after.close();
    before.close();
  });

  test("leaves out half a line, what is not JSON and what another key wrote, and goes on writing", async () => {
    const before = spoolOf();
    before.open();
    before.add(spooled(1));
    before.add(spooled(2));
    before.close();
    const foreign = entryValue(intentOf("x"), createSeal("a key that is not this cluster's"));
    await appendFile(file, "garbage\n[1]\n");
    await appendFile(file, `${JSON.stringify({ sequence: 7, atMs: 1, value: foreign })}\n`);
    const line = `${JSON.stringify({ sequence: 8, atMs: 1, value: spooled(8).value })}\n`;
    await appendFile(file, line.slice(0, 40));
    const after = spoolOf();
    after.open();
    expect(sequences(after)).toEqual([1, 2]);
    expect(said[0]).toMatch(/^4 lines of .* left out$/);
    after.add(spooled(3));
    after.close();
    const last = spoolOf();
    last.open();
    expect(sequences(last)).toEqual([1, 2, 3]);
    last.close();
  });

  test("has an empty file when nothing waits, and a file of bounded size however much went through it", async () => {
    const spool = spoolOf();
    spool.open();
    let largest = 0;
    for (let sequence = 1; sequence <= 2000; sequence += 1) {
      spool.add(spooled(sequence));
      if (sequence > 10) spool.removeUpTo(sequence - 10);
      if (sequence % 50 === 0) largest = Math.max(largest, (await stat(file)).size);
    }
    expect(largest).toBeLessThan(100_000);
    spool.removeUpTo(2000);
    expect(await readFile(file, "utf8")).toBe("");
    spool.close();
    expect((await stat(file)).mode & 0o777).toBe(0o600);
  });

  test("goes on in memory where its file cannot be written, says so once, and catches up", async () => {
    const blocked = join(folder, "blocked");
    await writeFile(blocked, "a file where a folder should be");
    const spool = spoolOf({ file: join(blocked, "journal.spool") });
    spool.open();
    spool.add(spooled(1));
    spool.add(spooled(2));
    expect(sequences(spool)).toEqual([1, 2]);
    expect(said).toEqual([expect.stringContaining("cannot be kept in")]);
    await rm(blocked);
    spool.add(spooled(3));
    expect(said.slice(1)).toEqual([expect.stringContaining("can be written again")]);
    spool.close();
    const after = spoolOf({ file: join(blocked, "journal.spool") });
    after.open();
    expect(sequences(after)).toEqual([1, 2, 3]);
    after.close();
  });

  test("needs no file", () => {
    const log = { info: () => undefined, warn: () => undefined };
    const spool = new JournalSpool({ limits, seal, log });
    expect(spool.open()).toBe(0);
    spool.add(spooled(1));
    spool.removeUpTo(1);
    expect(spool.depth).toBe(0);
    spool.close();
  });

  test("refuses what is over its entries or its bytes", () => {
    const few = spoolOf({ limits: { entriesMax: 2, charactersMax: 1e6 } });
    expect([1, 2, 3].map((sequence) => few.add(spooled(sequence)))).toEqual([true, true, false]);
    few.removeUpTo(1);
    expect(few.add(spooled(4))).toBe(true);
    few.close();
    const small = spoolOf({ limits: { entriesMax: 100, charactersMax: 2000 } });
    const answers = [1, 2, 3, 4, 5, 6, 7].map((sequence) => small.add(spooled(sequence)));
    expect(answers[0]).toBe(true);
    expect(answers.at(-1)).toBe(false);
    small.close();
  });

  test("makes room by leaving out progress that a newer report of the same item tells better", () => {
    const spool = spoolOf({ limits: { entriesMax: 6, charactersMax: 1e6 } });
    spool.open();
    const entries: Entry[] = [
      intentOf("old", { cause: "progress" }),
      outcomeOf("old-done", "old", 204),
      intentOf("other", { cause: "progress", itemId: "ffffffffffffffffffffffffffffffff" }),
      outcomeOf("other-done", "other", 204),
      intentOf("new", { cause: "progress" }),
      outcomeOf("new-done", "new", 204),
    ];
    for (const [index, entry] of entries.entries()) spool.add(spooled(index + 1, entry));
    expect(spool.add(spooled(7))).toBe(true);
    expect(sequences(spool)).toEqual([3, 4, 5, 6, 7]);
    expect(spool.add(spooled(8))).toBe(true);
    expect(spool.add(spooled(9))).toBe(false);
    spool.close();
    const after = spoolOf();
    after.open();
    expect(sequences(after)).toEqual([3, 4, 5, 6, 7, 8]);
    after.close();
  });
});

describe("superfluous entries", () => {
  test.each([
    {
      name: "progress before newer progress that succeeded",
      entries: [
        intentOf("1", { cause: "progress" }),
        outcomeOf("o1", "1", 204),
        intentOf("2", { cause: "progress" }),
        outcomeOf("o2", "2", 204),
      ],
      superseded: ["1", "o1"],
    },
    {
      name: "no progress before newer progress that was refused, or whose end is not known",
      entries: [
        intentOf("1", { cause: "progress" }),
        intentOf("2", { cause: "progress" }),
        outcomeOf("o2", "2", 401),
        intentOf("3", { cause: "progress" }),
        intentOf("4", { cause: "progress" }),
        outcomeOf("o4", "4", 0),
      ],
      superseded: [],
    },
    {
      name: "no start and no stop, which count a play, and no mark",
      entries: [
        intentOf("1", { cause: "start" }),
        intentOf("2", { cause: "stop" }),
        intentOf("3", { cause: "played" }),
        intentOf("4", { cause: "stop" }),
        outcomeOf("o4", "4", 204),
      ],
      superseded: [],
    },
    {
      name: "no progress that tells of a field which the newer one does not",
      entries: [
        intentOf("1", { cause: "progress", fields: ["position", "played"] }),
        intentOf("2", { cause: "progress", fields: ["position"] }),
        outcomeOf("o2", "2", 204),
      ],
      superseded: [],
    },
    {
      name: "nobody else's and no other item's progress",
      entries: [
        intentOf("1", { cause: "progress", userId: "1".repeat(32) }),
        intentOf("2", { cause: "progress", itemId: "2".repeat(32) }),
        intentOf("3", { cause: "progress" }),
        outcomeOf("o3", "3", 204),
      ],
      superseded: [],
    },
    {
      name: "effects whose fields newer effects of the same replica tell again",
      entries: [
        effectOf("1", { position: 1 }),
        effectOf("2", { position: 2, played: true }),
        effectOf("3", { position: 3 }),
        effectOf("4", { played: false }),
        effectOf("5", { position: 9 }, "b"),
      ],
      superseded: ["1", "2"],
    },
  ])("are $name", ({ entries, superseded }) => {
    expect([...supersededIds(entries)].sort()).toEqual([...superseded].sort());
  });
});
