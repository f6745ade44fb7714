// Whether a server's data are those which the cluster left there, as a table.

import { expect, test } from "vitest";
import { provenValue } from "../../../core/cluster/proven.ts";
import {
  decisionNoteId,
  decisionOf,
  isQuarantined,
  judge,
  laterMark,
  type Mark,
  markText,
  nextMark,
  quarantineNoteId,
  quarantineValue,
  readMark,
} from "../../../core/cluster/truth.ts";
import { createSeal } from "../../../core/service/seal.ts";
import type { Note } from "../../../core/store/store.ts";

const at = (number: number) => ({ generation: "g", number });
const mark = (count: number, replica = "a", number = count * 10): Mark => ({
  ...{ replica, count, cursor: at(number) },
});

test.each([
  ["a server and a sidecar that know nothing", undefined, undefined, "trusted"],
  ["a sidecar that lost what it remembered", mark(7), undefined, "trusted"],
  ["a server as it was left", mark(7), mark(7), "trusted"],
  ["a sidecar that died before it could remember", mark(8), mark(7), "trusted"],
  ["a server that was put back", mark(6), mark(7), "older"],
  ["a server that was put back to before its first mark", undefined, mark(1), "older"],
  ["a server that was seeded from another", mark(40, "b"), mark(7), "copy"],
  ["a new server that was seeded", mark(3, "b"), undefined, "copy"],
] as const)("%s", (_what, found, remembered, verdict) => {
  expect(judge("a", found, remembered).verdict).toBe(verdict);
});

test("a server that was put back tells how much it may lack", () => {
  expect(judge("a", mark(2), mark(7))).toEqual({
    verdict: "older",
    reason: "its data were put back to an older state, and lack up to 50 changes which it had",
  });
});

test("a mark only grows, and keeps the last place that was known", () => {
  expect(nextMark("a", undefined, undefined)).toEqual({
    replica: "a",
    count: 1,
    cursor: undefined,
  });
  expect(nextMark("a", mark(4), undefined)).toEqual({ ...mark(4), count: 5 });
  expect(nextMark("a", mark(4), at(99))).toEqual({ replica: "a", count: 5, cursor: at(99) });
  expect(laterMark(mark(4), mark(5))).toEqual(mark(5));
  expect(laterMark(undefined, mark(5))).toEqual(mark(5));
});

test("a mark is read as it was written, and nothing else is one", () => {
  expect(readMark(markText(mark(4)))).toEqual(mark(4));
  for (const text of [
    undefined,
    null,
    "",
    "Living room",
    "{}",
    '{"jellybloom":"a"}',
    '{"jellybloom":"a","count":-1}',
  ]) {
    expect(readMark(text)).toBeUndefined();
  }
});

test("a decision counts only with a proof of the cluster key, and only for the replica it was made for", () => {
  const seal = createSeal("0123456789abcdef0123456789abcdef");
  const text = JSON.stringify({ decision: "truth", order: "1" });
  const notes = (id: string, value: string): Map<string, Note> =>
    new Map([[id, { kind: "replica", id, replica: "a", value, expiresAtMs: 0 }]]);
  const id = decisionNoteId("a");
  const proven = provenValue(seal, { kind: "replica", id }, text);
  expect(decisionOf(seal, notes(id, proven), "a")).toEqual({ decision: "truth", order: "1" });
  expect(decisionOf(seal, notes(decisionNoteId("b"), proven), "b")).toBeUndefined();
  const other = createSeal("another key of some length 12345");
  expect(decisionOf(other, notes(id, proven), "a")).toBeUndefined();
  expect(decisionOf(seal, notes(id, text), "a")).toBeUndefined();
  expect(decisionOf(seal, notes(id, "{"), "a")).toBeUndefined();
});

test("a quarantine says what its owner can do", () => {
  const id = quarantineNoteId("a");
  const notes = (truth: string): Map<string, Note> => {
    const value = quarantineValue({ sinceMs: 5, reason: "it is old", truth });
    return new Map([[id, { kind: "replica", id, replica: "a", value, expiresAtMs: 0 }]]);
  };
  expect(isQuarantined(notes(""), "a")).toBe(
    "it is in quarantine: it is old; jellybloom catch-up a does again what it lacks, jellybloom truth a makes the" +
      " others like it",
  );
  expect(isQuarantined(notes("b"), "a")).toBe(
    "it is in quarantine: it is old; jellybloom reseed a makes it like b",
  );
  expect(isQuarantined(notes(""), "b")).toBeUndefined();
  expect(isQuarantined(new Map(), "a")).toBeUndefined();
});
