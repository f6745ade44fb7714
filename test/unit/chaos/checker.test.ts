/** The judge of a history of chaos finds what is lost, and takes nothing else for lost. */
import { describe, expect, test } from "vitest";
import { changeOf, saysOf } from "../../chaos/changes.ts";
import { seededRandom } from "../../chaos/chaos.ts";
import { losses, miscounts, type Write } from "../../chaos/checker.ts";

const told = (
  value: unknown,
  startedMs: number,
  endedMs: number,
  isAcknowledged = true,
): Write => ({
  ...{ register: "kid/film/position", value, startedMs, endedMs, isAcknowledged },
});
const lostOf = (found: unknown, ...writes: Write[]) =>
  losses(
    writes,
    () => found,
    () => 0,
  ).length;

describe("a register", () => {
  test("holds what was acknowledged last", () => {
    expect(lostOf(2, told(1, 0, 1), told(2, 2, 3))).toBe(0);
    expect(lostOf(1, told(1, 0, 1), told(2, 2, 3))).toBe(1);
    expect(lostOf(0, told(1, 0, 1))).toBe(1);
  });

  test("holds either of two that ran at once, and what nobody was told of or its forerunner", () => {
    for (const found of [1, 2]) expect(lostOf(found, told(1, 0, 3), told(2, 2, 4))).toBe(0);
    for (const found of [1, 2]) expect(lostOf(found, told(1, 0, 1), told(2, 2, 3, false))).toBe(0);
    for (const found of [0, 2]) expect(lostOf(found, told(2, 2, 3, false))).toBe(0);
    expect(lostOf(3, told(2, 2, 3, false))).toBe(1);
  });
});

test.each([
  [0, false],
  [1, true],
  [2, true],
  [3, false],
])(
  "a playlist to which a film was added twice, and once without an answer, has it %i times: %s",
  (count, isRight) => {
    const addings = [told(undefined, 0, 1), told(undefined, 0, 1, false)];
    const miscounted = (had: number) =>
      miscounts(
        addings,
        () => count + had,
        () => had,
      ).length;
    for (const had of [0, 4]) expect(miscounted(had) === 0).toBe(isRight);
  },
);

test("every kind of change is of a register that a server's answer tells of", () => {
  const random = seededRandom(3);
  const world = { films: ["a", "b", "c", "d"], playlists: new Map([["kid", "list"]]) };
  const seen = new Set<string>();
  for (let turn = 0; turn < 500; turn++) {
    const { field, value } = changeOf(world, { userId: "kid" }, turn, random);
    seen.add(value === undefined ? "adding" : field);
    if (value === undefined) expect(saysOf(JSON.stringify(["x", field, field]), field)).toBe(2);
  }
  expect([...seen].sort()).toEqual(
    ["adding", "favourite", "language", "likes", "played", "position", "sorting"].sort(),
  );
  expect(saysOf('{"SortBy":"x"}', "sorting")).toBe("x");
});
