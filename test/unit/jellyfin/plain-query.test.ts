/** A query that is encoded as a whole is written anew as the server binds it; every other one stays as it came. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { plainQuery } from "../../../core/jellyfin/plain-query.ts";
import { queryValue } from "../../../core/jellyfin/playback.ts";

describe("a query", () => {
  // UrlDecodeQueryFeature: one key, nothing as its value, an `=` in the key.
  test.each([
    ["userId%3Dx", "userId=x"],
    ["userId%3dx%26tag%3Dy", "userId=x&tag=y"],
    ["userId%3Dx=", "userId=x"],
    ["&userId%3Dx", "userId=x"],
    ["userId%3Dx&", "userId=x"],
    ["a%3D1%26a%3D2", "a=1&a=2"],
    ["a%3Db%253Dc", "a=b%253Dc"],
    ["a%3D1+2", "a=1%202"],
    ["a%26b%3D1", "a&b=1"],
    ["ApiKey%3Dsecret%26a%3D1", "a=1"],
    ["ApiKey%3Dsecret", ""],
  ])("%s is %s", (raw, expected) => {
    expect(plainQuery(raw)).toBe(expected);
    expect(plainQuery(expected)).toBe(expected);
  });

  test.each(["", "a=b%3Dc", "a%3Db&c", "a%3Db=c", "a%3Db&a%3Db", "a%20b", "%3", "a=1&b=2"])(
    "%s stays",
    (raw) => expect(plainQuery(raw)).toBe(raw),
  );

  test("that is encoded as a whole has the values it had, under the names it had", () => {
    const text = fc.string({ unit: "binary", maxLength: 12 }).filter((one) => one.isWellFormed());
    const name = fc.stringMatching(/^[a-z]{1,6}$/);
    fc.assert(
      fc.property(fc.uniqueArray(fc.tuple(name, text), { selector: ([one]) => one }), (pairs) => {
        const said = pairs.filter(([, value]) => !/[&]/.test(value));
        if (said.length === 0 || said.some(([one]) => one === "token")) return;
        const raw = encodeURIComponent(said.map((pair) => pair.join("=")).join("&"));
        const plain = plainQuery(raw);
        for (const [one, value] of said) expect(queryValue(plain, one)).toBe(value);
        expect(plainQuery(plain)).toBe(plain);
      }),
    );
  });
});
