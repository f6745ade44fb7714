// Which values of a document are a server's own: every row of the table, and how documents are put together.

import { describe, expect, test } from "vitest";
import {
  isSame,
  merged,
  perServerDocuments,
  perServerTable,
  saysNothingNew,
} from "../../../core/jellyfin/per-server.ts";

function nested(path: string, value: unknown): Record<string, unknown> {
  const [first = "", ...rest] = path.split(".");
  return { [first]: rest.length === 0 ? value : nested(rest.join("."), value) };
}

describe("a value that is a server's own", () => {
  test.each(perServerTable.map(({ document, key, why }) => [document, key, why]))(
    "%s %s is left alone: %s",
    (document, key) => {
      const wanted = { Shared: "new", ...nested(key, "theirs") };
      const local = { Shared: "old", ...nested(key, "ours") };
      expect(merged(document, wanted, local)).toEqual({ Shared: "new", ...nested(key, "ours") });
      // In another document a key of that name is shared, like everything that no row names.
      expect(merged("another", wanted, local)).toEqual(wanted);
    },
  );

  test("is kept also where the request leaves it out or spells it in another letter case", () => {
    const local = {
      CachePath: "/here",
      Shared: 1,
      TrickplayOptions: { ProcessThreads: 4, Qscale: 1 },
    };
    expect(merged("system", { Shared: 2 }, local)).toEqual({ Shared: 2, CachePath: "/here" });
    const wanted = {
      cachePath: "/there",
      shared: 2,
      trickplayOptions: { processThreads: 1, qscale: 9 },
    };
    expect(merged("system", wanted, local)).toEqual({
      CachePath: "/here",
      Shared: 2,
      TrickplayOptions: { ProcessThreads: 4, Qscale: 9 },
    });
  });

  test("is not taken from elsewhere when this server has none", () => {
    expect(merged("system", { cachepath: "/there", A: 1 }, {})).toEqual({ A: 1 });
  });

  test("has a reason in every row, and no row twice", () => {
    const names = perServerTable.map(({ document, key }) => `${document} ${key}`);
    expect(new Set(names).size).toBe(names.length);
    for (const { why } of perServerTable) expect(why).not.toBe("");
    for (const why of Object.values(perServerDocuments)) expect(why).not.toBe("");
  });
});

describe("a document that says nothing new", () => {
  test("is known by its values, whatever their order", () => {
    expect(saysNothingNew({ A: { x: 1, y: [1, 2] } }, { B: 3, A: { y: [1, 2], x: 1 } })).toBe(true);
    expect(saysNothingNew({ A: null }, {})).toBe(true);
    expect(saysNothingNew({ A: 1 }, { A: 2 })).toBe(false);
    expect(saysNothingNew({ A: [1, 2] }, { A: [2, 1] })).toBe(false);
    expect(saysNothingNew({ A: 1 }, {})).toBe(false);
  });

  test.each([
    [1, 1, true],
    [1, "1", false],
    [null, undefined, true],
    [undefined, 0, false],
    [0, null, false],
    [[], {}, false],
    [[1], [1, 2], false],
    [{ a: 1 }, { a: 1, b: null }, true],
    [{ a: 1 }, { a: 1, b: 2 }, false],
    ["a", ["a"], false],
  ])("%j and %j: %s", (left, right, expected) => {
    expect(isSame(left, right)).toBe(expected);
    expect(isSame(right, left)).toBe(expected);
  });
});
