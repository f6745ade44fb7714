// The record of a play: what follows from what is known of it, and what is made of a record that somebody else wrote.

import { describe, expect, test } from "vitest";
import { unknownCondition } from "../../../core/cluster/condition.ts";
import {
  betterEncoders,
  encodeElsewhere,
  encodesOf,
  failingEncoders,
  fingerprintOf,
} from "../../../core/cluster/encoder.ts";
import {
  leftoverOf,
  mergedPlay,
  newPlay,
  ownerOf,
  type Play,
  pinAfter,
  playText,
  readPlay,
  withNews,
  writeOf,
} from "../../../core/cluster/plays.ts";
import { initialView, withCondition } from "../../../core/cluster/view.ts";
import { likeHome } from "../../../proxy/place.ts";

const id = "0123456789abcdef0123456789abcdef";

function playWith(changes: Partial<Play> = {}): Play {
  const news = {
    userId: "user",
    identityKey: "user.device",
    itemId: "film",
    replica: "a",
    isEncoded: true,
    segment: 3,
    owner: { replica: "a", epoch: 1 },
  };
  return { ...withNews(newPlay(id, 1000), news, 1000), ...changes };
}

describe("a play as a note", () => {
  test("is read as it was written", () => {
    const play = playWith({ failures: { b: 2 }, failedAtMs: 900, positionTicks: 10 });
    expect(readPlay({ id, value: playText(play) })).toEqual(play);
  });

  test.each([
    "",
    "null",
    "[]",
    "{}",
    "no JSON",
    JSON.stringify({ ...playWith(), epoch: "1" }),
    JSON.stringify({ ...playWith(), visited: ["a", 1] }),
    JSON.stringify({ ...playWith(), visited: Array.from({ length: 1000 }, () => "a") }),
    JSON.stringify({ ...playWith(), failures: { a: -1 } }),
    JSON.stringify({ ...playWith(), failures: ["a"] }),
    JSON.stringify({ ...playWith(), userId: "x".repeat(10_000) }),
    JSON.stringify({ ...playWith(), hasEnded: "yes" }),
    `{"__proto__":{"visited":[]}}`,
  ])("is ignored when it makes no sense: %s", (value) => {
    expect(readPlay({ id, value })).toBeUndefined();
  });

  test("has a name that Jellyfin could have given", () => {
    expect(readPlay({ id: "../x", value: playText(playWith()) })).toBeUndefined();
  });
});

describe("what is written, and when", () => {
  const written = playWith();
  test.each([
    ["another position", { positionTicks: 5 }, "soon"],
    ["another segment", { segment: 4 }, "soon"],
    ["a pause", { isPaused: true }, "now"],
    ["another owner", { owner: "b", epoch: 2 }, "now"],
    ["another replica that encodes", { encodesAt: "b" }, "now"],
    ["a failure", { failures: { a: 1 } }, "now"],
    ["its end", { hasEnded: true }, "now"],
    ["nothing", {}, "never"],
  ] as const)("%s: %s", (_, changes, expected) => {
    expect(writeOf(written, { ...written, ...changes })).toBe(expected);
  });

  test("two doors' records become one that has lost nothing", () => {
    const own = playWith({ segment: 7, changedAtMs: 2000, visited: ["a"] });
    const other = playWith({
      segment: 5,
      changedAtMs: 1500,
      visited: ["a", "b"],
      owner: "b",
      epoch: 2,
      failures: { a: 1 },
    });
    const merged = mergedPlay(own, other);
    expect(merged).toEqual(mergedPlay(other, own));
    expect(merged).toMatchObject({
      segment: 7,
      visited: ["a", "b"],
      owner: "b",
      epoch: 2,
      failures: { a: 1 },
    });
  });
});

describe("who owns a play", () => {
  const home = { replica: "a", epoch: { number: 3, owner: "x" } };
  const pin = { replica: "b", epoch: { number: 1, owner: "x" } };
  test("its own pin, else the home of its user, else nobody", () => {
    expect(ownerOf(pin, home)).toEqual({ replica: "b", epoch: 1 });
    expect(ownerOf(undefined, home)).toEqual({ replica: "a", epoch: 3 });
    expect(ownerOf(undefined, undefined)).toBeUndefined();
  });

  test.each([
    // visited, home, pin, ended, what a is to let go of
    [["a"], "a", undefined, false, [false, false]],
    [["a", "b"], "b", undefined, false, [true, true]],
    [["a", "b"], "a", "b", false, [true, false]],
    [["b"], "b", undefined, false, [false, false]],
    [["a", "b"], undefined, undefined, false, [false, false]],
    [["a", "b"], "b", undefined, true, [true, true]],
    [["a"], "a", "a", true, [false, false]],
    [["a", "b"], "b", "a", false, [false, true]],
    [["a", "b"], "b", "a", true, [true, true]],
  ] as const)(
    "visited %j, home %s, pin %s, ended %s: a lets go of %j",
    (visited, home, pin, hasEnded, expected) => {
      const { encode, session } = leftoverOf(playWith({ visited, hasEnded }), "a", home, pin);
      expect([encode, session]).toEqual(expected);
    },
  );

  test.each([
    ["the owner delivered", "a", false, true, undefined],
    ["another delivered for the first time", "b", false, true, "claim"],
    [
      "another delivered, and the play is bound to a server that is there",
      "b",
      true,
      true,
      undefined,
    ],
    ["another delivered, and the play is bound to a server that is gone", "b", true, false, "move"],
  ] as const)("%s", (_, replica, isPinned, isReady, expected) => {
    expect(pinAfter(replica, { replica: "a", epoch: 1 }, isPinned, isReady)).toBe(expected);
  });
});

describe("where a play goes whose home is gone", () => {
  test.each([
    ["to an equal encoder", { a: "qsv", b: "none", c: "qsv" }, ["c"]],
    ["anywhere, when none is equal", { a: "qsv", b: "none", c: "none" }, ["b", "c"]],
    ["anywhere, when nothing is known of the home's", { a: "", b: "", c: "qsv" }, ["b", "c"]],
  ])("%s", (_, encoders, expected) => {
    const names = ["a", "b", "c"] as const;
    const configs = names.map((name) => ({ name, origin: `http://${name}`, basePath: "" }));
    let view = initialView(configs, 0);
    for (const name of names) {
      const condition = { isDraining: false, refusesPlays: false, encoder: encoders[name] };
      view = withCondition(view, name, condition);
    }
    expect(likeHome("a", ["b", "c"], view)).toEqual(expected);
  });
});

describe("encoders", () => {
  const nowMs = 1_000_000;
  const conditions = new Map([
    ["a", { ...unknownCondition, encoder: "qsv" }],
    ["b", { ...unknownCondition, encoder: "none" }],
    ["c", { ...unknownCondition, encoder: "qsv" }],
  ]);
  const failed = (itemId: string, at = nowMs): Play =>
    playWith({ itemId, encodesAt: "b", failures: { a: 1 }, failedAtMs: at });

  test("options that change what is encoded change the fingerprint, paths do not", () => {
    const base = { HardwareAccelerationType: "qsv", H264Crf: 23, TranscodingTempPath: "/a" };
    const one = fingerprintOf("12.0.0", base);
    expect(fingerprintOf("12.0.0", { ...base, TranscodingTempPath: "/b" })).toBe(one);
    expect(fingerprintOf("12.0.0", { ...base, HardwareAccelerationType: "none" })).not.toBe(one);
    expect(fingerprintOf("12.0.1", base)).not.toBe(one);
  });

  test("a trial is worth what it took", () => {
    expect(encodesOf(undefined)).toBe("unknown");
    expect(encodesOf({ worked: false })).toBe("failing");
    expect(encodesOf({ worked: true, filmSeconds: 6, tookMs: 7000 })).toBe("slow");
    expect(encodesOf({ worked: true, filmSeconds: 6, tookMs: 700 })).toBe("ok");
  });

  test("one film that fails is the film's fault, two are the encoder's, for a while", () => {
    expect([...failingEncoders(conditions, [failed("x"), failed("x")], nowMs)]).toEqual([]);
    expect([...failingEncoders(conditions, [failed("x"), failed("y")], nowMs)]).toEqual(["a"]);
    const old = [failed("x", 1), failed("y", 1)];
    expect([...failingEncoders(conditions, old, nowMs)]).toEqual([]);
    const worked = playWith({ itemId: "z", encodesAt: "a", changedAtMs: nowMs - 1 });
    const stillFails = [failed("x"), failed("y"), worked];
    expect([...failingEncoders(conditions, stillFails, nowMs)]).toEqual(["a"]);
    const works = { ...worked, changedAtMs: nowMs + 1 };
    expect([...failingEncoders(conditions, [failed("x"), failed("y"), works], nowMs)]).toEqual([]);
  });

  test("what leaves a replica goes to an equal encoder that works", () => {
    const names = ["b", "c"];
    const at = (failing: readonly string[]) => ({ names, conditions, failing: new Set(failing) });
    expect(betterEncoders("a", at([]))).toEqual(["c"]);
    expect(betterEncoders("a", at(["c"]))).toEqual(["b"]);
    expect(betterEncoders("a", at(["b", "c"]))).toEqual([]);
    expect(encodeElsewhere("a", at([]))).toBeUndefined();
    expect(encodeElsewhere("a", at(["a"]))).toBe("c");
    expect(encodeElsewhere("a", at(["a", "b", "c"]))).toBeUndefined();
    // Slow is as bad as failing while another is neither; where all others are, one that is only slow is kept.
    const slow = (...names: string[]) => {
      const { conditions, ...rest } = at([]);
      const changed = [...conditions].map(([name, condition]) => {
        return [
          name,
          names.includes(name) ? { ...condition, encodes: "slow" as const } : condition,
        ] as const;
      });
      return { ...rest, conditions: new Map(changed) };
    };
    expect(encodeElsewhere("a", slow("a"))).toBe("c");
    expect(encodeElsewhere("a", slow("a", "b", "c"))).toBeUndefined();
    expect(encodeElsewhere("a", { ...slow("b", "c"), failing: new Set(["a"]) })).toBe("c");
  });
});
