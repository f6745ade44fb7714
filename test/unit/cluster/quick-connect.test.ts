// A QuickConnect request as a note: what is sealed in it, what is read as none, and when it ends.

import { describe, expect, test } from "vitest";
import {
  agreedLifeMs,
  codeMacOf,
  endsAtMs,
  isAgreed,
  openCode,
  openConsent,
  openOwn,
  pendingLifeMs,
  type QuickConnectRequest,
  quickConnectText,
  readQuickConnect,
  readQuickConnectAnswer,
  sealConsent,
  sealText,
  withPair,
} from "../../../core/cluster/quick-connect.ts";
import { withQueryValue } from "../../../core/jellyfin/playback.ts";
import { createSeal } from "../../../core/service/seal.ts";

const seal = createSeal("a key of a test, long enough");
const id = "ab".repeat(32);
const pair = { secret: "CD".repeat(32), code: "654321" };
const request: QuickConnectRequest = {
  device: { client: "TV app", device: "TV", deviceId: "tv-1", version: "1.0" },
  codeMac: codeMacOf(seal, "123456"),
  code: sealText(seal, id, "code", "123456"),
  own: sealText(seal, id, "own", JSON.stringify(pair)),
  addedAtMs: 1000,
  consent: undefined,
};

test("a request is read as it was written, and its secrets open for it alone", () => {
  const consent = sealConsent(seal, id, { atMs: 2000, userId: "u", identityKey: "u.d" });
  for (const written of [request, { ...request, consent }, { ...request, own: undefined }]) {
    expect(readQuickConnect(quickConnectText(written))).toEqual(written);
  }
  expect(openCode(seal, id, request)).toBe("123456");
  expect(openOwn(seal, id, request)).toEqual(pair);
  const other = "cd".repeat(32);
  expect(openCode(seal, other, request)).toBeUndefined();
  expect(openOwn(seal, other, request)).toBeUndefined();
  expect(openOwn(seal, id, { ...request, own: request.code })).toBeUndefined();
  expect(quickConnectText(request)).not.toMatch(/123456|654321/);
});

test("a consent counts only as this cluster wrote it down for this request", () => {
  const given = { atMs: 2000, userId: "u", identityKey: "u.d" };
  const consent = sealConsent(seal, id, given);
  expect(openConsent(seal, id, { ...request, consent })).toEqual(given);
  expect(openConsent(seal, id, request)).toBeUndefined();
  // Another request's, another time, another kind of secret, or no secret at all.
  expect(openConsent(seal, "cd".repeat(32), { ...request, consent })).toBeUndefined();
  for (const forged of [
    { ...consent, atMs: 9_000_000 },
    { atMs: 2000, sealed: request.code },
    { atMs: 2000, sealed: JSON.stringify(given) },
    { atMs: 2000, sealed: createSeal("a key of somebody else").seal("{}", "") },
  ]) {
    expect(openConsent(seal, id, { ...request, consent: forged })).toBeUndefined();
  }
});

describe("what is no request is read as none", () => {
  const fields = JSON.parse(quickConnectText(request)) as Record<string, unknown>;
  test.each([
    ["", "not JSON"],
    ["[]", "a list"],
    ["null", "null"],
    [JSON.stringify({ ...fields, device: "tv" }), "a device that is none"],
    [JSON.stringify({ ...fields, device: { client: "a" } }), "half a device"],
    [JSON.stringify({ ...fields, codeMac: 7 }), "a code that is a number"],
    [JSON.stringify({ ...fields, code: "x".repeat(5000) }), "a code of 5000 characters"],
    [JSON.stringify({ ...fields, addedAtMs: "now" }), "a time that is a text"],
    [JSON.stringify({ ...fields, consent: { userId: "u" } }), "half a consent"],
    [JSON.stringify({ ...fields, consent: null }), "a consent that is null"],
  ])("%.0s%s", (value) => {
    expect(readQuickConnect(value)).toBeUndefined();
  });
});

test("a request ends when Jellyfin's own would: ten minutes after it was made, eleven after the consent", () => {
  expect(endsAtMs(request)).toBe(1000 + pendingLifeMs);
  const consent = { atMs: 5000, sealed: "v1.x" };
  expect(endsAtMs({ ...request, consent })).toBe(5000 + agreedLifeMs);
  expect(isAgreed({ ...request, consent }, 5000 + 599_999)).toBe(true);
  expect(isAgreed({ ...request, consent }, 5000 + 600_000)).toBe(false);
  expect(isAgreed(request, 5000)).toBe(false);
});

test("an answer is read in both spellings, and shown with the pair that the client knows", () => {
  const device = { AppName: "A", DeviceName: "D", DeviceId: "I", AppVersion: "1" };
  const text = JSON.stringify({ Authenticated: false, Secret: "S", Code: "1", ...device });
  expect(readQuickConnectAnswer(text)).toEqual({
    pair: { secret: "S", code: "1" },
    device: { client: "A", device: "D", deviceId: "I", version: "1" },
  });
  expect(readQuickConnectAnswer('{"secret":"S","code":"1"}')).toEqual({
    pair: { secret: "S", code: "1" },
    device: undefined,
  });
  expect(readQuickConnectAnswer('"Unknown secret"')).toBeUndefined();
  expect(JSON.parse(withPair(text, pair))).toEqual({
    ...JSON.parse(text),
    Secret: pair.secret,
    Code: pair.code,
  });
  expect(withPair('{"secret":"S"}', pair)).toBe(`{"secret":"${pair.secret}"}`);
});

test.each([
  ["secret=old", "secret=new"],
  ["a=1&Secret=old&b=2", "a=1&b=2&secret=new"],
  ["%53ecret=old&secret=older", "secret=new"],
  ["", "secret=new"],
])("in the query %j the value is replaced, however its name is written", (query, expected) => {
  expect(withQueryValue(query, "secret", "new")).toBe(expected);
});
