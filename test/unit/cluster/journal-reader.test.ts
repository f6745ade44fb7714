// What is read from the journal: what this cluster wrote, once, and nothing that somebody else put there.

import { describe, expect, test } from "vitest";
import { type Entry, entryValue } from "../../../core/cluster/journal.ts";
import { JournalReader } from "../../../core/cluster/journal-reader.ts";
import { createMetrics } from "../../../core/service/metrics.ts";
import { createSeal } from "../../../core/service/seal.ts";
import { effectOf, intentOf, outcomeOf } from "./journal-entries.ts";

const seal = createSeal("a cluster key for tests only");

function readerOf(idsKept = 100) {
  const said: string[] = [];
  const metrics = createMetrics("1");
  const log = { warn: (message: string) => said.push(message) };
  return { reader: new JournalReader({ seal, log, metrics, idsKept }), said, metrics };
}

function placed(number: number, value: string) {
  return { number, atMs: number * 10, value };
}

function written(number: number, entry: Entry) {
  return placed(number, entryValue(entry, seal));
}

describe("a reader", () => {
  test("takes what the cluster wrote, with its place", () => {
    const { reader, metrics } = readerOf();
    const entries = [intentOf("i"), outcomeOf("o", "i", 204), effectOf("e", { position: 5 })];
    const read = reader.read(entries.map((entry, index) => written(index + 1, entry)));
    expect(read).toEqual(
      entries.map((entry, index) => ({ number: index + 1, atMs: (index + 1) * 10, entry })),
    );
    expect(metrics.journalUnreadable.value).toBe(0);
  });

  test("takes an entry that was written twice once, where it stood first", () => {
    const { reader } = readerOf();
    expect(reader.read([written(1, intentOf("a")), written(2, intentOf("a"))])).toMatchObject([
      { number: 1 },
    ]);
    expect(reader.read([written(3, intentOf("a"))])).toEqual([]);
    reader.forget();
    expect(reader.read([written(1, intentOf("a"))])).toHaveLength(1);
  });

  test("remembers a bounded number of entries, the newest", () => {
    const { reader } = readerOf(10);
    for (let index = 1; index <= 50; index += 1)
      reader.read([written(index, intentOf(`${index}`))]);
    expect(reader.read([written(51, intentOf("50")), written(52, intentOf("46"))])).toEqual([]);
    expect(reader.read([written(53, intentOf("1"))])).toHaveLength(1);
  });

  test("leaves out what is forged, broken or of a newer kind, and says each once", () => {
    const { reader, said, metrics } = readerOf();
    const text = JSON.stringify(intentOf("x"));
    const newer = JSON.stringify({ type: "wish", id: "n" });
    const values = [
      "",
      "no blank",
      text,
      ` ${text}`,
      `${seal.mac("journal", text)} ${text.replace("played", "unplay")}`,
      `${seal.mac("note", text)} ${text}`,
      entryValue(intentOf("y"), createSeal("a key that is not this cluster's")),
      `${seal.mac("journal", "not JSON")} not JSON`,
      `${seal.mac("journal", newer)} ${newer}`,
      `${seal.mac("journal", "null")} null`,
    ];
    const read = reader.read([
      ...values.map((value, index) => placed(index + 1, value)),
      written(99, intentOf("good")),
    ]);
    expect(read).toMatchObject([{ number: 99 }]);
    expect(metrics.journalUnreadable.value).toBe(values.length);
    expect(said).toHaveLength(3);
    for (const sentence of said) expect(sentence).not.toContain("/Sessions");
  });
});
