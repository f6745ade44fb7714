// What must hold for any text whatever: reading is Jellyfin's reading, nothing throws, a swapped request
// names the new token and the same device to every server, and a log line never shows a token. The fuzz
// run compares with a second reader, written apart from the first and as plainly as the rules are.

import buffer from "node:buffer";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { CredentialHeaders, DeviceFields } from "../../../core/jellyfin/credentials.ts";
import {
  buildAuthorization,
  readCredentials,
  redactHeader,
  redactQuery,
  removeToken,
  swapToken,
  translateLegacy,
} from "../../../core/jellyfin/credentials.ts";

/** Any UTF-16 text, lone surrogates included. */
const wildText = fc
  .array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 8 })
  .map((codes) => String.fromCharCode(...codes));

/** Letters that the syntax gives a meaning to come often; the rest is any byte a header can hold. */
const oddText = fc
  .array(
    fc.oneof(
      {
        weight: 3,
        arbitrary: fc.constantFrom('"', ",", "=", " ", "+", "%", "&", "%22", "%2", "%C3", "%00"),
      },
      {
        weight: 3,
        arbitrary: fc.constantFrom("Token", "token", "ApiKey", "api_key", "Device", "DeviceId"),
      },
      {
        weight: 2,
        arbitrary: fc.constantFrom("MediaBrowser ", "Emby ", "Bearer ", 'Token="', "Client="),
      },
      { weight: 2, arbitrary: fc.string({ maxLength: 6 }) },
      { weight: 1, arbitrary: wildText },
    ),
    { maxLength: 24 },
  )
  .map((pieces) => pieces.join(""));

const oddHeader = fc.option(
  fc.oneof(
    oddText,
    oddText.map((text) => `MediaBrowser ${text}`),
    oddText.map((text) => `Emby ${text}`),
  ),
  { nil: undefined },
);

const oddRequest = fc.record({
  authorization: oddHeader,
  "x-emby-authorization": oddHeader,
  "x-emby-token": oddHeader,
  "x-mediabrowser-token": oddHeader,
});

const field = fc.option(fc.string({ unit: "grapheme", maxLength: 20 }), { nil: undefined });
const device: fc.Arbitrary<DeviceFields> = fc.record({
  client: field,
  device: field,
  deviceId: field,
  version: field,
});
const anyToken = fc.string({ unit: "grapheme", minLength: 1, maxLength: 40 });
const realToken = fc.stringMatching(/^[0-9a-f]{32}$/);

const runs = { numRuns: 2000 };

describe("for any text", { timeout: 60_000 }, () => {
  test("what is built is read back", () => {
    fc.assert(
      fc.property(device, anyToken, (fields, token) => {
        const read = readCredentials({ authorization: buildAuthorization(fields, token) }, "", {
          legacy: false,
        });
        expect(read).toMatchObject({
          ...fields,
          token,
          source: "authorization",
          legacyForm: false,
        });
      }),
      runs,
    );
  });

  test("nothing throws", () => {
    fc.assert(
      fc.property(oddRequest, oddText, anyToken, fc.boolean(), (headers, query, token, legacy) => {
        readCredentials(headers, query, { legacy });
        swapToken(headers, query, token, { translate: legacy });
        translateLegacy(headers, query);
        removeToken(headers, query);
        redactQuery(query);
        redactHeader("authorization", headers.authorization ?? "");
      }),
      runs,
    );
  });

  test("after a swap every server reads the new token and the same device", () => {
    fc.assert(
      fc.property(oddRequest, oddText, realToken, (headers, query, token) => {
        const before = readCredentials(headers, query, { legacy: true });
        const after = swapToken(headers, query, token, { translate: false });
        const read = readCredentials(after.headers, after.rawQuery, { legacy: true });
        const strictBefore = readCredentials(headers, query, { legacy: false });
        const strict = readCredentials(after.headers, after.rawQuery, { legacy: false });
        if (before.source === "none") expect(read.source).toBe("none");
        else expect(read).toEqual({ ...before, token, overlong: false });
        if (strictBefore.source === "none") expect(strict.source).toBe("none");
        else expect(strict.token).toBe(token);
      }),
      runs,
    );
  });

  test("after a translation a server without legacy forms reads the same as one with them did", () => {
    fc.assert(
      fc.property(oddRequest, oddText, realToken, (headers, query, token) => {
        const before = readCredentials(headers, query, { legacy: true });
        const after = swapToken(headers, query, token, { translate: true });
        const read = readCredentials(after.headers, after.rawQuery, { legacy: false });
        expect(read.token).toBe(before.source === "none" ? undefined : token);
        expect(read.legacyForm).toBe(false);
        expect(devicesOf(read)).toEqual(devicesOf(before));
      }),
      runs,
    );
  });

  test("after a removal no server reads a token", () => {
    fc.assert(
      fc.property(oddRequest, oddText, (headers, query) => {
        const removed = removeToken(headers, query);
        for (const legacy of [true, false]) {
          const read = readCredentials(removed.headers, removed.rawQuery, { legacy });
          expect(read.source).toBe("none");
        }
      }),
      runs,
    );
  });

  test("a redacted header shows no token, wherever it stood", () => {
    fc.assert(
      fc.property(
        oddText,
        realToken,
        oddText,
        fc.constantFrom("MediaBrowser ", "Emby ", "Bearer ", ""),
        (before, token, after, scheme) => {
          for (const text of [`Token="${token}"`, `Token=${token}`, `token = ${token}`]) {
            const line = redactHeader("authorization", `${scheme}${before}${text}${after}`);
            expect(line).not.toContain(token);
          }
        },
      ),
      runs,
    );
  });

  test("a redacted target shows no token, whatever stood around it", () => {
    const name = fc.constantFrom(
      "ApiKey",
      "apikey",
      "api_key",
      "API%5FKEY",
      "secret",
      "Secret",
      "pw",
      "code",
      "token",
      "AccessToken",
      "pin",
    );
    fc.assert(
      fc.property(oddText, name, realToken, oddText, (before, parameter, token, after) => {
        expect(redactQuery(`/a?${before}&${parameter}=${token}&${after}`)).not.toContain(token);
        expect(redactQuery(`/Auth/Keys/${token}?${after}`)).not.toContain(token);
      }),
      runs,
    );
  });
});

describe("200,000 mutated requests", () => {
  test("are read as the plain reader reads them, and nothing throws", { timeout: 60_000 }, () => {
    const random = numbers(20_260_801);
    for (let count = 0; count < 200_000; count++) {
      const headers: CredentialHeaders = {
        authorization: random(4) === 0 ? undefined : mutated(random),
        "x-emby-authorization": random(4) === 0 ? mutated(random) : undefined,
        "x-emby-token": random(6) === 0 ? mutatedQuery(random) : undefined,
        "x-mediabrowser-token": random(8) === 0 ? mutatedQuery(random) : undefined,
      };
      // Kestrel refuses header bytes that are not UTF-8 before anybody reads them.
      if (!Object.values(headers).every(isUtf8)) continue;
      const query = random(2) === 0 ? mutatedQuery(random) : "";
      const legacy = random(2) === 0;
      const read = readCredentials(headers, query, { legacy });
      const plain = plainRead(headers, query, legacy);
      const actual = { ...devicesOf(read), token: read.token };
      // Comparing texts is much quicker than `expect` for each of so many.
      if (JSON.stringify(actual) !== JSON.stringify(plain)) {
        expect({ headers, query, legacy, ...actual }).toEqual({ headers, query, legacy, ...plain });
      }
      if (count % 8 === 0) {
        const swapped = swapToken(headers, query, "swapped", { translate: legacy });
        const again = readCredentials(swapped.headers, swapped.rawQuery, { legacy: true });
        const had = readCredentials(headers, query, { legacy: true }).source !== "none";
        if (again.token !== (had ? "swapped" : undefined)) {
          expect({ headers, query, legacy, token: again.token }).toEqual("swapped");
        }
      }
    }
  });
});

function devicesOf(fields: DeviceFields): DeviceFields {
  const { client, device: name, deviceId, version } = fields;
  return { client, device: name, deviceId, version };
}

function isUtf8(header: string | undefined): boolean {
  return header === undefined || buffer.isUtf8(Buffer.from(header, "latin1"));
}

/** A generator of whole numbers below a limit (mulberry32), so that a failure comes again. */
function numbers(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit;
  };
}

const headerSeeds = [
  'MediaBrowser Client="Jellyfin%20Web", Device="Chrome", DeviceId="TW96aWxsYQ", Version="12.0.0", Token="0123456789abcdef"',
  "MediaBrowser Client=Kodi, Device=Living+Room, DeviceId=abc, Version=1, Token=0123456789abcdef",
  'Emby UserId="u", Client="Old", Token="abc"',
  'MediaBrowser Token="T%C3%A9", Device=%22x%22',
  "Bearer abc",
];
const querySeeds = [
  "a=1&ApiKey=0123&b",
  "api_key=abc&apikey=&x=y",
  "ApiKey=a&ApiKey=b",
  "%41piKey=x+y%20z",
];
const pieces = [
  '"',
  ",",
  "=",
  " ",
  "+",
  "%",
  "&",
  "%2",
  "%41",
  "%C3",
  "%A9",
  "Token",
  "Device",
  "\t",
  "é",
  "Ã©",
  "ApiKey=",
];

function mutated(random: (limit: number) => number): string {
  return mutate(headerSeeds[random(headerSeeds.length)] ?? "", random);
}

function mutatedQuery(random: (limit: number) => number): string {
  return mutate(querySeeds[random(querySeeds.length)] ?? "", random);
}

function mutate(seed: string, random: (limit: number) => number): string {
  let text = seed;
  for (let count = random(5); count > 0; count--) {
    const at = random(text.length + 1);
    const kind = random(3);
    const piece = pieces[random(pieces.length)] ?? "";
    if (kind === 0) text = text.slice(0, at) + piece + text.slice(at);
    else if (kind === 1) text = text.slice(0, at) + text.slice(at + 1 + random(4));
    else text = text.slice(0, at) + piece + text.slice(at + piece.length);
  }
  return text;
}

/** Jellyfin's rules once more, letter by letter and without a thought for speed. */
function plainRead(headers: CredentialHeaders, query: string, legacy: boolean) {
  let header = headers.authorization;
  if (legacy && !header) header = headers["x-emby-authorization"];
  const fields = plainParts(header ?? "", legacy);
  let token = fields?.get("Token");
  if (legacy && !token) token = headers["x-emby-token"];
  if (legacy && !token) token = headers["x-mediabrowser-token"];
  if (!token) token = plainQuery(query, "apikey");
  if (legacy && !token) token = plainQuery(query, "api_key");
  return {
    client: fields?.get("Client"),
    device: fields?.get("Device"),
    deviceId: fields?.get("DeviceId"),
    version: fields?.get("Version"),
    token: token || undefined,
  };
}

function plainQuery(query: string, name: string): string | undefined {
  const values = [];
  for (const pair of query.split("&")) {
    const [rawName = "", ...rest] = pair.split("=");
    if (plainQueryText(rawName).toLowerCase() === name) values.push(plainQueryText(rest.join("=")));
  }
  return values.length === 0 ? undefined : values.join(",");
}

function plainQueryText(text: string): string {
  const spaced = text.split("+").join(" ");
  return spaced.replace(/(%[0-9a-fA-F]{2})+/g, (run) => {
    try {
      return decodeURIComponent(run);
    } catch {
      // Bytes that are not UTF-8 stay as they are.
      return run;
    }
  });
}

function plainParts(header: string, legacy: boolean): Map<string, string> | undefined {
  const space = header.indexOf(" ");
  if (space === -1) return undefined;
  const scheme = header.slice(0, space).toLowerCase();
  if (scheme !== "mediabrowser" && !(legacy && scheme === "emby")) return undefined;
  const fields = new Map<string, string>();
  let key = "";
  let value = "";
  let quoted = false;
  const close = (): void => {
    if (value === "") return;
    fields.set(key, plainDecode(value));
    key = "";
    value = "";
  };
  for (const letter of header.slice(space + 1)) {
    if (letter === '"') quoted = !quoted;
    if (letter === "," && !quoted) {
      close();
    } else if (letter === "=" && !quoted) {
      key = value.trim();
      value = "";
    } else {
      value += letter;
    }
  }
  close();
  return fields;
}

function plainDecode(raw: string): string {
  const text = raw.replace(/^"+/, "").replace(/"+$/, "");
  const bytes: number[] = [];
  for (let at = 0; at < text.length; at++) {
    const pair = /^%([0-9a-fA-F]{2})/.exec(text.slice(at))?.[1];
    if (pair !== undefined) {
      bytes.push(Number.parseInt(pair, 16));
      at += 2;
    } else {
      bytes.push(text[at] === "+" ? 32 : text.charCodeAt(at));
    }
  }
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes));
}
