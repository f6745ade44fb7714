// A replica's condition and its drain, read from notes that anybody who can write the store can write.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  conditionOf,
  drainLeftNoteId,
  drainNoteId,
  drainOrderValue,
  drainProgress,
  drainTellLimitMs,
  unknownCondition,
} from "../../../core/cluster/condition.ts";
import type { Note } from "../../../core/store/store.ts";

function notes(values: Readonly<Record<string, unknown>>): ReadonlyMap<string, Note> {
  return new Map(
    Object.entries(values).map(([id, value]) => {
      const text = typeof value === "string" ? value : JSON.stringify(value);
      return [id, { kind: "replica", id, replica: "a", value: text, expiresAtMs: 0 }];
    }),
  );
}

const order = { sinceMs: 1000, limitMs: 10_000, untilRestart: false };
const ordered = { [drainNoteId("a")]: drainOrderValue(order) };
const left = (door: string, counts: object, sinceMs = 1000) => ({
  [drainLeftNoteId("a", door)]: {
    ...{ door, sinceMs, homes: 0, requests: 0, sockets: 0 },
    ...counts,
  },
});

describe("a condition", () => {
  test("is put together from what its sidecar said and from the order to drain", () => {
    const said = { encoder: "x264", encodes: "slow", plays: 3, transcodes: 2, sockets: 7 };
    expect(conditionOf(notes({ a: said, ...ordered }), "a")).toEqual({
      ...said,
      draining: true,
      sinceMs: 1000,
    });
    expect(conditionOf(notes({ a: said }), "b")).toEqual(unknownCondition);
  });

  test("of a hostile note is unknown, and reading it never throws", () => {
    for (const value of ["", "{", "[]", "null", '"draining"', '{"plays":-1,"encodes":"fast"}']) {
      expect(conditionOf(notes({ a: value, [drainNoteId("a")]: value }), "a")).toEqual(
        unknownCondition,
      );
    }
    fc.assert(
      fc.property(fc.json(), fc.json(), (said, drained) => {
        const hostile = notes({ a: said, [drainNoteId("a")]: drained, "a:drain:x": said });
        const { encodes } = conditionOf(hostile, "a");
        expect(["ok", "failing", "slow", "unknown"]).toContain(encodes);
        drainProgress(hostile, "a", 0, 5000);
      }),
    );
  });
});

describe("a drain", () => {
  const later = 1000 + drainTellLimitMs;
  test.each([
    ["nobody ordered it", {}, 0, later, { draining: false, done: false }],
    ["the doors had no time to tell", ordered, 0, 1100, { draining: true, done: false }],
    ["nothing is left", ordered, 0, later, { draining: true, done: true }],
    ["a home is left that no door told of", ordered, 1, later, { homes: 1, done: false }],
    [
      "a home is left when the time is over: its people are not here",
      ordered,
      1,
      1000 + order.limitMs,
      { homes: 1, done: true },
    ],
    [
      "two doors tell of requests and sockets",
      { ...ordered, ...left("x", { requests: 2 }), ...left("y", { requests: 1, sockets: 4 }) },
      0,
      later,
      { doors: 2, requests: 3, sockets: 4, done: false },
    ],
    [
      "a request is left when the time is over",
      { ...ordered, ...left("x", { requests: 1 }) },
      0,
      1000 + order.limitMs,
      { requests: 1, done: false },
    ],
    [
      "a door told of an earlier order",
      { ...ordered, ...left("x", { requests: 2 }, 500) },
      0,
      later,
      { doors: 0, requests: 0, done: true },
    ],
  ])("%s", (_name, values, homes, nowMs, expected) => {
    expect(drainProgress(notes(values), "a", homes, nowMs)).toMatchObject(expected);
  });
});
