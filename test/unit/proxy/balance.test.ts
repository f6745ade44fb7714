// Balance as tables, and its two properties: a round never makes the load less even, and rounds come to an end.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type BalanceOptions,
  type BalanceReplica,
  type BalanceUser,
  decideBalance,
  weightOf,
} from "../../../proxy/balance.ts";

const replica = (name: string, change: Partial<BalanceReplica> = {}): BalanceReplica => ({
  ...{ name, isOpen: true, readyForMs: 3_600_000 },
  ...change,
});

const user = (userId: string, home: string, change: Partial<BalanceUser> = {}): BalanceUser => ({
  ...{ userId, home, transcodes: 0, directPlays: 0, sockets: 1, isIdle: true },
  ...{ stayedMs: 3_600_000, knownAt: new Set(["a", "b", "c"]) },
  ...change,
});

const options: BalanceOptions = {
  ...{ prefer: undefined, returnAfterMs: 10_000, preferAfterMs: 600_000 },
  ...{ minStayMs: 30_000, movesLimit: 4 },
};

const many = (count: number, home: string, change: Partial<BalanceUser> = {}) =>
  Array.from({ length: count }, (_, index) => user(`${home}${index}`, home, change));

describe("people who do nothing", () => {
  test("go to a replica that came back, a few at a time", () => {
    const moves = decideBalance([replica("a"), replica("b")], many(10, "a"), options);
    expect(moves).toHaveLength(4);
    expect(moves.every(({ to }) => to === "b")).toBe(true);
  });

  test.each<[string, BalanceReplica, readonly BalanceUser[]]>([
    ["it has only just come back", replica("b", { readyForMs: 9999 }), many(10, "a")],
    ["it is not open: it drains or cannot encode", replica("b", { isOpen: false }), many(10, "a")],
    ["they were moved a moment ago", replica("b"), many(10, "a", { stayedMs: 29_999 })],
    ["they watch", replica("b"), many(10, "a", { isIdle: false, transcodes: 1 })],
    ["they watch through another door", replica("b"), many(10, "a", { isIdle: false })],
    ["it has no token of theirs", replica("b"), many(10, "a", { knownAt: new Set(["a"]) })],
    ["it would only turn the difference round", replica("b"), many(1, "a")],
    ["the load is even", replica("b"), [...many(5, "a"), ...many(5, "b")]],
  ])("stay while %s", (_name, other, users) => {
    expect(decideBalance([replica("a"), other], users, options)).toEqual([]);
  });

  test("make room for those who watch: an encode weighs more than many sockets", () => {
    const watching = [user("w1", "a", { isIdle: false, transcodes: 1 })];
    const moves = decideBalance(
      [replica("a"), replica("b")],
      [...watching, ...many(3, "a")],
      options,
    );
    expect(moves.map(({ userId }) => userId).sort()).toEqual(["a0", "a1", "a2"]);
  });

  test("leave a home that is gone from the list of replicas to the claim of their next request", () => {
    const moves = decideBalance([replica("b")], many(3, "a"), options);
    expect(moves.every(({ to }) => to === "b")).toBe(true);
  });
});

describe("a preferred replica", () => {
  const prefers = { ...options, prefer: "b" };

  test("gets all of them back, a few at a time, once it was well for long enough", () => {
    const users = [...many(2, "a"), ...many(9, "b")];
    const well = [replica("a"), replica("b", { readyForMs: 600_000 })];
    expect(decideBalance(well, users, prefers).map(({ userId }) => userId)).toEqual(["a0", "a1"]);
    const early = [replica("a"), replica("b", { readyForMs: 599_999 })];
    expect(decideBalance(early, users, prefers)).toEqual([]);
  });

  test("that is away leaves the others to be balanced", () => {
    const away = [replica("a"), replica("b", { isOpen: false }), replica("c")];
    const moves = decideBalance(away, many(10, "a"), prefers);
    expect(moves.map(({ to }) => to)).toEqual(["c", "c", "c", "c"]);
  });
});

const anyUsers = fc.array(
  fc.record({
    home: fc.constantFrom("a", "b", "c"),
    transcodes: fc.nat(1),
    directPlays: fc.nat(1),
    sockets: fc.nat(3),
    isIdle: fc.boolean(),
  }),
  { maxLength: 30 },
);

test("rounds make the load more even or end, and nobody goes to and fro", () => {
  fc.assert(
    fc.property(anyUsers, (drawn) => {
      let users = drawn.map((one, index) => user(String(index), one.home, one));
      const replicas = ["a", "b", "c"].map((name) => replica(name));
      let unevenness = squares(users);
      for (let round = 0; ; round += 1) {
        const moves = decideBalance(replicas, users, options);
        if (moves.length === 0) return;
        expect(round).toBeLessThan(100);
        for (const { userId } of moves) {
          expect(users.find((one) => one.userId === userId)?.isIdle).toBe(true);
        }
        users = users.map((one) => ({
          ...one,
          home: moves.find(({ userId }) => userId === one.userId)?.to ?? one.home,
        }));
        const now = squares(users);
        expect(now).toBeLessThanOrEqual(unevenness + 1e-9);
        unevenness = now;
        // A move that changes nothing may follow one that did, but not for ever.
        if (moves.length > 0 && round > 60) throw new Error("it never ends");
      }
    }),
  );
});

function squares(users: readonly BalanceUser[]): number {
  return ["a", "b", "c"]
    .map((name) =>
      users.filter(({ home }) => home === name).reduce((sum, one) => sum + weightOf(one), 0),
    )
    .reduce((sum, load) => sum + load * load, 0);
}
