// A path must be read as the server reads it, or a guarded route could be reached under another spelling.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  baseSegmentsOf,
  decodeQueryText,
  decodeSegment,
  pathSegments,
  segmentsBelow,
  withoutBase,
} from "../../../core/jellyfin/paths.ts";

/** Any UTF-16 text, lone surrogates included. */
const wildText = fc
  .array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 8 })
  .map((codes) => String.fromCharCode(...codes));

describe("a path is split", () => {
  const table: readonly [string, readonly string[]][] = [
    ["", []],
    ["/", []],
    ["*", ["*"]],
    ["/Users/Me", ["Users", "Me"]],
    ["/Users/Me/", ["Users", "Me"]],
    ["//Users///Me", ["Users", "Me"]],
    ["/Users/Me?a=/b#c", ["Users", "Me"]],
    ["/Users/Me#c", ["Users", "Me#c"]],
    ["/web/#/../../metrics", ["metrics"]],
    ["/%55sers/%4De", ["Users", "Me"]],
    ["/a%2Fb/c%2fd", ["a%2Fb", "c%2fd"]],
    ["/a%252Fb", ["a%2Fb"]],
    ["/Genres/Com%C3%A9die", ["Genres", "Comédie"]],
    ["/bad%C3/%zz/%", ["bad%C3", "%zz", "%"]],
    ["/half%41%C3/x", ["half%41%C3", "x"]],
    ["/web/../metrics", ["metrics"]],
    ["/web/%2e%2E/metrics", ["metrics"]],
    ["/./metrics/.", ["metrics"]],
    ["/../../metrics", ["metrics"]],
    ["/metrics//..", ["metrics"]],
    ["/metrics//../..", []],
    ["/a//./../metrics?x=/..", ["a", "metrics"]],
    ["http://door.example/web/../metrics", ["metrics"]],
    ["/...", ["..."]],
    ["http://door.example/Users/Me?x", ["Users", "Me"]],
    ["http://door.example", []],
    ["Users/Me", ["Users", "Me"]],
  ];
  test.each(table)("%s", (path, expected) => {
    expect(pathSegments(path)).toEqual(expected);
  });

  test("dots are followed however long the way", () => {
    expect(pathSegments(`${"/x".repeat(5000)}${"/..".repeat(5000)}/metrics`)).toEqual(["metrics"]);
  });

  test("no path throws", { timeout: 30_000 }, () => {
    fc.assert(
      fc.property(wildText, fc.string(), (wild, tame) => {
        pathSegments(`/${wild}/${tame}%${tame}`);
        decodeSegment(wild);
        decodeQueryText(`${tame}%${wild}+`);
      }),
    );
  });
});

describe("the base path", () => {
  test("is taken off in any letter case, and only as whole segments", () => {
    const base = baseSegmentsOf("/Media/Jellyfin");
    expect(segmentsBelow(pathSegments("/media/JELLYFIN/Users/Me"), base)).toEqual(["Users", "Me"]);
    expect(segmentsBelow(pathSegments("/media/jellyfin"), base)).toEqual([]);
    expect(segmentsBelow(pathSegments("/media/jellyfins/Users"), base)).toBeUndefined();
    expect(segmentsBelow(pathSegments("/media"), base)).toBeUndefined();
    expect(segmentsBelow(["Users"], baseSegmentsOf(""))).toEqual(["Users"]);
  });

  test("is taken off a path as text", () => {
    expect(withoutBase("/jellyfin/Users", "/jellyfin")).toBe("/Users");
    expect(withoutBase("/Jellyfin", "/jellyfin")).toBe("/");
    expect(withoutBase("/jellyfin?x=1", "/jellyfin")).toBe("/?x=1");
    expect(withoutBase("/jellyfinn/Users", "/jellyfin")).toBeUndefined();
    expect(withoutBase("/Users", "/jellyfin")).toBeUndefined();
    expect(withoutBase("/Users", "")).toBe("/Users");
  });
});
