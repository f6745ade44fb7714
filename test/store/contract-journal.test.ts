// The contract of core/store/journal.ts as promises that every store keeps: in memory, in a file, in Redis.

import { describe, expect, test } from "vitest";
import {
  journalAppendLimit,
  journalGenerationStride,
  journalNumberLimit,
  journalValueLimitCharacters,
} from "../../core/store/journal.ts";
import { StoreUnavailable } from "../../core/store/store.ts";
import { beginningOf, journalFollower, names, readAll } from "./journals.ts";
import { backends, worldsOf } from "./worlds.ts";

describe.each(backends())("the journal of a store $name", (backend) => {
  const open = worldsOf(backend);

  test("is empty at first, and has a generation of its own", async () => {
    const { store, other } = await open();
    const ends = await store.journalEnds();
    expect(ends).toEqual({ generation: expect.any(String), first: 1, last: 0 });
    expect(ends.generation).not.toBe("");
    expect(await other.journalEnds()).toEqual(ends);
    expect(await store.readJournal(await beginningOf(store), 10)).toMatchObject({
      outcome: "read",
      entries: [],
    });
  });

  test("gives each entry the next number, the store's time, and the text as it was", async () => {
    const { store, other } = await open();
    const beforeMs = await store.time();
    const first = await store.appendJournal(["ä \u0000 \n 日本 😀", "b"]);
    expect(first).toMatchObject({ number: 2 });
    expect(await other.appendJournal(["c"])).toMatchObject({
      generation: first.generation,
      number: 3,
    });
    const { entries, cursor } = await readAll(store, { generation: first.generation, number: 0 });
    expect(entries.map(({ number, value }) => [number, value])).toEqual([
      [1, "ä \u0000 \n 日本 😀"],
      [2, "b"],
      [3, "c"],
    ]);
    expect(cursor).toMatchObject({ generation: first.generation, number: 3 });
    for (const { atMs } of entries) {
      expect(atMs).toBeGreaterThanOrEqual(beforeMs);
      expect(atMs).toBeLessThanOrEqual(await store.time());
    }
    expect(await store.journalEnds()).toEqual({ generation: first.generation, first: 1, last: 3 });
  });

  test("appends nothing when there is nothing to append, and says where its end is", async () => {
    const { store } = await open();
    expect(await store.appendJournal([])).toMatchObject({ number: 0 });
    await store.appendJournal(["a"]);
    expect(await store.appendJournal([])).toMatchObject({ number: 1 });
  });

  test("keeps the entries of one call together and each writer's in order, whoever else writes", async () => {
    const { store, other } = await open();
    const following = journalFollower(other, await beginningOf(store));
    const calls = Array.from({ length: 200 }, (_unused, index) => index);
    const cursors = await Promise.all(
      calls.map((index) =>
        (index % 2 === 0 ? store : other).appendJournal([`${index} a`, `${index} b`, `${index} c`]),
      ),
    );
    await following.until(() => following.entries.length >= 600);
    await following.stop();
    expect(following.entries.map(({ number }) => number)).toEqual(
      Array.from({ length: 600 }, (_unused, index) => index + 1),
    );
    const values = following.entries.map(({ value }) => value);
    for (const [index, cursor] of cursors.entries()) {
      // Where the call's last entry stands is what the caller was told.
      expect(values.slice(cursor.number - 3, cursor.number)).toEqual([
        `${index} a`,
        `${index} b`,
        `${index} c`,
      ]);
    }
    for (const parity of [0, 1]) {
      const own = values.map((value) => Number.parseInt(value, 10)).filter((n) => n % 2 === parity);
      expect(own).toEqual([...own].sort((left, right) => left - right));
    }
  });

  test("is read in pages that follow each other", async () => {
    const { store } = await open();
    await store.appendJournal(names(1, 25));
    let cursor = await beginningOf(store);
    const read: string[] = [];
    for (const count of [10, 10, 5, 0]) {
      const page = await store.readJournal(cursor, 10);
      if (page.outcome === "lost") throw new Error("lost");
      expect(page.entries).toHaveLength(count);
      read.push(...page.entries.map(({ value }) => value));
      cursor = page.cursor;
    }
    expect(read).toEqual(names(1, 25));
  });

  test("is read in smaller pages where its entries are large, by readers and followers", async () => {
    const { store, other } = await open();
    const begin = await beginningOf(store);
    const large = (index: number) => `${index} `.padEnd(journalValueLimitCharacters, "x");
    for (let index = 1; index <= 24; index += 8) {
      await store.appendJournal(Array.from({ length: 8 }, (_unused, step) => large(index + step)));
    }
    const page = await store.readJournal(begin, 100);
    if (page.outcome === "lost") throw new Error("lost");
    expect(page.entries.length).toBeGreaterThan(0);
    expect(page.entries.length).toBeLessThan(24);
    const { entries } = await readAll(store, begin);
    expect(entries.map(({ value }) => Number.parseInt(value, 10))).toEqual(
      Array.from({ length: 24 }, (_unused, index) => index + 1),
    );
    const following = journalFollower(other, begin);
    await following.until(() => following.entries.length === 24);
    expect(following.entries).toEqual(entries);
    expect(following.calls).toBeGreaterThan(1);
    await following.stop();
  });

  test("refuses a value that is empty or too long, and too many at once, and writes none of them", async () => {
    const { store } = await open();
    const longest = "x".repeat(journalValueLimitCharacters);
    await expect(store.appendJournal(["a", ""])).rejects.toThrow(RangeError);
    await expect(store.appendJournal(["a", `${longest}x`])).rejects.toThrow(RangeError);
    await expect(store.appendJournal(names(0, journalAppendLimit))).rejects.toThrow(RangeError);
    expect(await store.journalEnds()).toMatchObject({ last: 0 });
    await store.appendJournal([longest]);
    const { entries } = await readAll(store, await beginningOf(store));
    expect(entries.map(({ value }) => value.length)).toEqual([longest.length]);
  });

  test("tells a follower at once that its cursor is good, and then each entry once", async () => {
    const { store, other } = await open();
    await store.appendJournal(names(1, 3));
    const following = journalFollower(store, { ...(await beginningOf(store)), number: 3 });
    await following.until(() => following.calls === 1);
    expect(following.entries).toEqual([]);
    for (let index = 4; index <= 30; index += 1) await other.appendJournal([`entry ${index}`]);
    await following.until(() => following.entries.length >= 27);
    expect(following.entries.map(({ value }) => value)).toEqual(names(4, 30));
    expect(following.cursor).toMatchObject({ number: 30 });
    expect(await following.stop()).toBe("aborted");
  });

  test("is followed on from the last cursor after a restart of the store's process", async () => {
    const { store, reopen } = await open();
    const following = journalFollower(store, await beginningOf(store));
    await store.appendJournal(names(1, 5));
    await following.until(() => following.entries.length === 5);
    await following.stop();
    const opened = await reopen();
    await opened.appendJournal(names(6, 9), following.cursor);
    const next = journalFollower(opened, following.cursor);
    await next.until(() => next.entries.length === 4);
    await next.stop();
    expect(next.entries.map(({ number, value }) => `${number} ${value}`)).toEqual(
      names(6, 9).map((name, index) => `${index + 6} ${name}`),
    );
  });

  test("ends a follower with StoreUnavailable when the store is closed under it", async () => {
    const { store } = await open();
    const following = journalFollower(store, await beginningOf(store));
    await following.until(() => following.calls === 1);
    await store.close();
    await expect(following.result).rejects.toThrow(StoreUnavailable);
    await expect(store.appendJournal(["a"])).rejects.toThrow(StoreUnavailable);
    await expect(store.readJournal(following.cursor, 1)).rejects.toThrow(StoreUnavailable);
  });

  test("keeps as many entries as it is told, and says lost to who is further behind", async () => {
    const { store } = await open({ journalKept: 200 });
    const begin = await beginningOf(store);
    for (let index = 0; index < 10; index += 1) {
      await store.appendJournal(names(index * 100 + 1, index * 100 + 100));
    }
    const ends = await store.journalEnds();
    expect(ends).toMatchObject({ generation: begin.generation, last: 1000 });
    expect(ends.first).toBeGreaterThan(650);
    expect(ends.first).toBeLessThanOrEqual(801);
    expect(await store.readJournal(begin, 10)).toEqual({ outcome: "lost", ends });
    expect(await store.readJournal({ ...begin, number: ends.first - 2 }, 10)).toEqual({
      outcome: "lost",
      ends,
    });
    expect(await journalFollower(store, begin).result).toBe("lost");
    const { entries } = await readAll(store, { ...begin, number: ends.first - 1 });
    expect(entries.map(({ value }) => value)).toEqual(names(ends.first, 1000));
  });

  test("keeps no more bytes than it is told, however few the entries are", async () => {
    const { store } = await open({ journalKeptBytes: 1024 * 1024 });
    const value = "x".repeat(10_000);
    for (let index = 0; index < 30; index += 1) {
      await store.appendJournal(Array.from({ length: 10 }, () => value));
    }
    const { first, last } = await store.journalEnds();
    expect(last).toBe(300);
    const keptBytes = (last - first + 1) * value.length;
    expect(keptBytes).toBeLessThanOrEqual(1024 * 1024);
    expect(keptBytes).toBeGreaterThan(900_000);
  });

  test("says lost to a cursor of another generation, and goes on as it was", async () => {
    const { store } = await open();
    await store.appendJournal(names(1, 3));
    const ends = await store.journalEnds();
    const foreign = { generation: "another", number: 900 };
    expect(await store.readJournal(foreign, 10)).toEqual({ outcome: "lost", ends });
    expect(await journalFollower(store, foreign).result).toBe("lost");
    expect(await store.appendJournal(["entry 4"], foreign)).toMatchObject({
      generation: ends.generation,
      number: 4,
    });
  });

  test("begins a new generation, with higher numbers, when its end lies behind what somebody saw", async () => {
    const { store, other } = await open();
    await store.appendJournal(names(1, 3));
    const { generation } = await store.journalEnds();
    const following = journalFollower(other, { generation, number: 3 });
    await following.until(() => following.calls === 1);
    const seen = { generation, number: 7 };
    const written = await store.appendJournal(["entry 8"], seen);
    expect(written.generation).not.toBe(generation);
    expect(written.number).toBe(7 + journalGenerationStride + 1);
    expect(await following.result).toBe("lost");
    expect(following.entries).toEqual([]);
    // What was left of the journal is still there, and who read it goes on from the number that they had.
    const { entries } = await readAll(other, { generation: written.generation, number: 2 });
    expect(entries.map(({ value }) => value)).toEqual(["entry 3", "entry 8"]);
    const ends = await store.journalEnds();
    expect(ends).toEqual({ generation: written.generation, first: 1, last: written.number });
    // Who still has the cursor of before is told so, and begins no further generation.
    expect(await store.readJournal(seen, 10)).toEqual({ outcome: "lost", ends });
    expect(await store.appendJournal(["entry 9"], seen)).toMatchObject({
      generation: written.generation,
      number: written.number + 1,
    });
  });

  test("believes no cursor that no journal can have come to", async () => {
    const { store } = await open();
    await store.appendJournal(names(1, 3));
    const ends = await store.journalEnds();
    for (const number of [journalNumberLimit, 9e15, Number.NaN, -1, 1.5]) {
      const forged = { generation: ends.generation, number };
      expect(await store.readJournal(forged, 10)).toEqual({ outcome: "lost", ends });
      expect((await store.appendJournal([], forged)).generation).toBe(ends.generation);
    }
    expect(await store.journalEnds()).toEqual(ends);
  });

  test("begins a new generation also for a reader who is ahead of its end", async () => {
    const { store } = await open();
    await store.appendJournal(names(1, 3));
    const { generation } = await store.journalEnds();
    const page = await store.readJournal({ generation, number: 9 }, 10);
    const ends = await store.journalEnds();
    expect(page).toEqual({ outcome: "lost", ends });
    expect(ends.generation).not.toBe(generation);
    expect(ends).toMatchObject({ first: 1, last: 9 + journalGenerationStride });
    expect(await store.readJournal({ ...ends, number: ends.last }, 10)).toMatchObject({
      outcome: "read",
      entries: [],
    });
  });

  test("tells another entry of the same number apart by its mark", async () => {
    const { store } = await open();
    const cursor = await store.appendJournal(names(1, 3));
    await store.appendJournal(names(4, 5));
    expect(await store.readJournal(cursor, 10)).toMatchObject({
      outcome: "read",
      entries: [{ number: 4 }, { number: 5 }],
    });
    expect(cursor.mark).toBeTypeOf("string");
    const page = await store.readJournal({ ...cursor, mark: "another" }, 10);
    expect(page.outcome).toBe("lost");
    expect((await store.journalEnds()).generation).not.toBe(cursor.generation);
  });

  test("takes an entry again whose first append had an unknown end", async () => {
    const { store } = await open();
    const first = await store.appendJournal(["the same"]);
    const second = await store.appendJournal(["the same"], first);
    expect(second).toMatchObject({ generation: first.generation, number: 2 });
  });
});
