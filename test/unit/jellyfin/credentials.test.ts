// Tables of every form in which a Jellyfin client says who it is, and of what the door writes instead.

import { describe, expect, test } from "vitest";
import type { CredentialHeaders, Credentials } from "../../../core/jellyfin/credentials.ts";
import {
  buildAuthorization,
  readCredentials,
  redactHeader,
  redactQuery,
  removeToken,
  removeTokenFromAuthorization,
  removeTokenFromQuery,
  replaceTokenInAuthorization,
  replaceTokenInQuery,
  swapToken,
  tokenLengthMax,
  translateLegacy,
} from "../../../core/jellyfin/credentials.ts";

const token = "0123456789abcdef0123456789abcdef";
const other = "fedcba9876543210fedcba9876543210";
const web = `MediaBrowser Client="Jellyfin%20Web", Device="Chrome", DeviceId="TW96aWxsYQ11", Version="12.0.0", Token="${token}"`;
const kodi = `MediaBrowser Client=Kodi, Device=Living%20Room, DeviceId=abc-1, Version=1.0.6, Token=${token}`;

function read(headers: CredentialHeaders, rawQuery = "", legacy = true): Credentials {
  return readCredentials(headers, rawQuery, { legacy });
}

describe("where the token is found", () => {
  const table: readonly [string, CredentialHeaders, string, Partial<Credentials>][] = [
    ["nothing at all", {}, "", { token: undefined, source: "none", legacyForm: false }],
    [
      "the web client's header",
      { authorization: web },
      "",
      {
        token,
        source: "authorization",
        legacyForm: false,
        client: "Jellyfin Web",
        device: "Chrome",
        deviceId: "TW96aWxsYQ11",
        version: "12.0.0",
      },
    ],
    [
      "Kodi's header without quotes",
      { authorization: kodi },
      "",
      {
        token,
        source: "authorization",
        client: "Kodi",
        device: "Living Room",
        deviceId: "abc-1",
        version: "1.0.6",
      },
    ],
    [
      "any letter case of the scheme",
      { authorization: `mEDIAbROWSER Token="${token}"` },
      "",
      { token, source: "authorization" },
    ],
    [
      "scheme Emby",
      { authorization: `Emby Token="${token}", Client="Old"` },
      "",
      { token, source: "embyScheme", legacyForm: true, client: "Old" },
    ],
    [
      "X-Emby-Authorization, its scheme MediaBrowser",
      { "x-emby-authorization": web },
      "",
      { token, source: "xEmbyAuthorization", legacyForm: true, client: "Jellyfin Web" },
    ],
    [
      "X-Emby-Authorization, its scheme Emby",
      { "x-emby-authorization": `Emby Token=${token}` },
      "",
      { token, source: "xEmbyAuthorization", legacyForm: true },
    ],
    [
      "X-Emby-Authorization beside an empty Authorization",
      { authorization: "", "x-emby-authorization": web },
      "",
      { token, source: "xEmbyAuthorization" },
    ],
    [
      "X-Emby-Authorization hidden by a Bearer",
      { authorization: "Bearer abc", "x-emby-authorization": web },
      "",
      { token: undefined, source: "none", client: undefined },
    ],
    [
      "X-Emby-Authorization hidden by a MediaBrowser without a token",
      { authorization: 'MediaBrowser Client="c"', "x-emby-authorization": web },
      "",
      { token: undefined, source: "none", client: "c" },
    ],
    [
      "X-Emby-Token",
      { "x-emby-token": token },
      "",
      { token, source: "xEmbyToken", legacyForm: true },
    ],
    [
      "X-Emby-Token beside a Basic login",
      { authorization: "Basic YTpi", "x-emby-token": token },
      "",
      { token, source: "xEmbyToken" },
    ],
    [
      "X-MediaBrowser-Token (Sonarr)",
      { "x-mediabrowser-token": token },
      "",
      { token, source: "xMediaBrowserToken", legacyForm: true },
    ],
    [
      "X-Emby-Token before X-MediaBrowser-Token",
      { "x-emby-token": token, "x-mediabrowser-token": other },
      "",
      { token, source: "xEmbyToken" },
    ],
    ["ApiKey", {}, `a=1&ApiKey=${token}`, { token, source: "queryApiKey", legacyForm: false }],
    ["apikey in lower case", {}, `apikey=${token}&a=1`, { token, source: "queryApiKey" }],
    ["APIKEY in capitals", {}, `APIKEY=${token}`, { token, source: "queryApiKey" }],
    ["ApiKey with its name encoded", {}, `%41pi%4Bey=${token}`, { token, source: "queryApiKey" }],
    ["api_key", {}, `api_key=${token}`, { token, source: "query_api_key", legacyForm: true }],
    ["API_KEY in capitals", {}, `x&API_KEY=${token}`, { token, source: "query_api_key" }],
    [
      "ApiKey before api_key",
      {},
      `api_key=${other}&ApiKey=${token}`,
      { token, source: "queryApiKey", legacyForm: false },
    ],
    [
      "an empty ApiKey counts for nothing",
      {},
      `ApiKey=&api_key=${token}`,
      { token, source: "query_api_key" },
    ],
    ["ApiKey without a value", {}, "ApiKey", { token: undefined, source: "none" }],
    [
      "the header before the query",
      { authorization: web },
      `ApiKey=${other}`,
      { token, source: "authorization" },
    ],
    [
      "the query where the header has no token",
      { authorization: 'MediaBrowser Client="c", DeviceId="d"' },
      `ApiKey=${token}`,
      { token, source: "queryApiKey", deviceId: "d", client: "c" },
    ],
    [
      "the query where the header's token is empty",
      { authorization: 'MediaBrowser Token="", Client="c"' },
      `ApiKey=${token}`,
      { token, source: "queryApiKey", client: "c" },
    ],
    [
      "a device in a legacy header, its token in the query",
      { "x-emby-authorization": 'Emby DeviceId="d"' },
      `ApiKey=${token}`,
      { token, source: "queryApiKey", legacyForm: true, deviceId: "d" },
    ],
    [
      "ApiKey twice is joined, as the server joins it",
      {},
      `ApiKey=${token}&apikey=${other}`,
      { token: `${token},${other}`, source: "queryApiKey" },
    ],
    [
      "other names that look alike",
      {},
      `ApiKeys=1&XApiKey=2&api-key=3&key=${token}`,
      { token: undefined, source: "none" },
    ],
    [
      "a token that says null",
      { authorization: 'MediaBrowser Token="null"' },
      "",
      { token: "null", source: "authorization" },
    ],
    [
      "a query that is encoded as a whole has no token for the server",
      {},
      `ApiKey%3D${token}`,
      { token: undefined, source: "none" },
    ],
  ];
  test.each(table)("%s", (_name, headers, rawQuery, expected) => {
    expect(read(headers, rawQuery)).toMatchObject(expected);
  });

  test("without legacy only Authorization: MediaBrowser and ApiKey are understood", () => {
    for (const headers of [
      { authorization: `Emby Token="${token}", Client="c"` },
      { "x-emby-authorization": web },
      { authorization: "", "x-emby-authorization": web },
      { "x-emby-token": token },
      { "x-mediabrowser-token": token },
    ]) {
      expect(read(headers, `api_key=${token}`, false)).toMatchObject({
        token: undefined,
        source: "none",
        client: undefined,
      });
    }
    expect(read({ authorization: web }, "", false).token).toBe(token);
    expect(read({ "x-emby-token": other }, `ApiKey=${token}`, false).token).toBe(token);
  });
});

describe("the syntax of the header", () => {
  const table: readonly [string, string, Partial<Credentials>][] = [
    ["no space after the scheme", "MediaBrowser", { token: undefined, source: "none" }],
    ["nothing after the scheme", "MediaBrowser ", { token: undefined }],
    [
      "keys are case-sensitive",
      `MediaBrowser token="${token}", CLIENT="c"`,
      { token: undefined, client: undefined },
    ],
    [
      "blanks around keys are trimmed",
      `MediaBrowser   Client="c" ,\t Token ="${token}"`,
      { token },
    ],
    ["no blanks at all", `MediaBrowser Client="c",Token="${token}"`, { token, client: "c" }],
    [
      "blanks after the equals sign belong to the value",
      `MediaBrowser Token= "${token}"`,
      { token: ` "${token}` },
    ],
    [
      "blanks before the comma belong to the value",
      `MediaBrowser Token="${token}" ,Client="c"`,
      { token: `${token}" `, client: "c" },
    ],
    [
      "commas and equals signs inside quotes are text",
      'MediaBrowser Device="a, Token=b", Token="t"',
      { device: "a, Token=b", token: "t" },
    ],
    ["a plus sign is a space", "MediaBrowser Device=Living+Room", { device: "Living Room" }],
    ["an encoded plus sign is a plus sign", "MediaBrowser Device=A%2BB", { device: "A+B" }],
    ["an encoded quote", 'MediaBrowser Device="17%22 screen"', { device: '17" screen' }],
    ["encoded UTF-8", 'MediaBrowser Device="T%C3%A9l%C3%A9"', { device: "Télé" }],
    [
      "UTF-8 bytes as they are",
      `MediaBrowser Device="${Buffer.from("Télé 電視").toString("latin1")}"`,
      { device: "Télé 電視" },
    ],
    [
      "bytes that are not UTF-8 are replaced",
      'MediaBrowser Device="%C3x%zz%4"',
      { device: "\ufffdx%zz%4" },
    ],
    ["the last of several keys wins", `MediaBrowser Token="${other}", Token="${token}"`, { token }],
    ["an unfinished quote runs to the end", `MediaBrowser Token="${token}`, { token }],
    [
      "an unfinished quote swallows what follows",
      `MediaBrowser Client="c, Token="${token}"`,
      { token: undefined, client: 'c, Token="0123456789abcdef0123456789abcdef' },
    ],
    [
      "an equals sign outside of quotes begins a new value",
      "MediaBrowser DeviceId=TW96aQ==, Token=t",
      { deviceId: undefined, token: "t" },
    ],
    ["an empty value leaves its key to the next part", "MediaBrowser Token=,abc", { token: "abc" }],
    ["several pairs of quotes are trimmed", `MediaBrowser Token=""${token}""`, { token }],
    [
      "empty quotes are an empty value",
      'MediaBrowser Client="", Token="t"',
      { client: "", token: "t" },
    ],
    ["only commas", "MediaBrowser ,,,,", { token: undefined }],
    ["a foreign scheme", `Bearer Token="${token}"`, { token: undefined, source: "none" }],
  ];
  test.each(table)("%s", (_name, authorization, expected) => {
    expect(read({ authorization })).toMatchObject(expected);
  });

  test("a token beyond the limit is not valid, and is known to have been there", () => {
    const long = "a".repeat(tokenLengthMax + 1);
    for (const credentials of [
      read({ authorization: `MediaBrowser Token="${long}"` }),
      read({ "x-emby-token": long }),
      read({}, `ApiKey=${long}`),
    ]) {
      expect(credentials.token).toBeUndefined();
      expect(credentials.overlong).toBe(true);
      expect(credentials.source).not.toBe("none");
    }
    expect(read({ "x-emby-token": "a".repeat(tokenLengthMax) }).overlong).toBe(false);
  });
});

describe("another token in its place", () => {
  test("everything else of a header stays byte for byte", () => {
    expect(replaceTokenInAuthorization(web, other)).toBe(web.replace(token, other));
    expect(replaceTokenInAuthorization(kodi, other)).toBe(kodi.replace(token, other));
    const odd = `eMBY  Client=  "x" ,Token="${token}",, Device=a+b`;
    expect(replaceTokenInAuthorization(odd, other)).toBe(odd.replace(token, other));
  });

  test("a header without a token, or of another scheme, stays as it is", () => {
    for (const header of [
      'MediaBrowser Client="c"',
      'MediaBrowser Token=""',
      `Bearer ${token}`,
      "",
    ]) {
      expect(replaceTokenInAuthorization(header, other)).toBe(header);
    }
  });

  test("what has a meaning in the syntax is encoded", () => {
    const swapped = replaceTokenInAuthorization(kodi, 'a"b,c=d e+f');
    expect(read({ authorization: swapped })).toMatchObject({
      token: 'a"b,c=d e+f',
      client: "Kodi",
    });
  });

  test("everything else of a query stays byte for byte", () => {
    expect(replaceTokenInQuery(`a=%2f&apikey=${token}&&b=+`, other)).toBe(
      `a=%2f&apikey=${other}&&b=+`,
    );
    expect(replaceTokenInQuery("a=1&b", other)).toBe("a=1&b");
    expect(replaceTokenInQuery("", other)).toBe("");
  });

  test("api_key becomes ApiKey when asked", () => {
    const as = "ApiKey" as const;
    expect(replaceTokenInQuery(`x=1&api_key=${token}&y=2`, other, { as })).toBe(
      `x=1&ApiKey=${other}&y=2`,
    );
    expect(replaceTokenInQuery(`ApiKey=${token}&api_key=${token}`, other, { as })).toBe(
      `ApiKey=${other}`,
    );
    expect(replaceTokenInQuery(`api_key=${token}&ApiKey=&z`, other, { as })).toBe(
      `ApiKey=${other}&z`,
    );
  });

  test("a second ApiKey goes, because the server would join the two", () => {
    expect(replaceTokenInQuery(`ApiKey=${token}&a=1&apikey=${token}`, other)).toBe(
      `ApiKey=${other}&a=1`,
    );
  });

  test("every place that carries a token carries the new one", () => {
    const swapped = swapToken(
      {
        authorization: web,
        "x-emby-authorization": kodi,
        "x-emby-token": token,
        "x-mediabrowser-token": "x",
      },
      `ApiKey=${token}&api_key=y`,
      other,
      { translate: false },
    );
    expect(swapped.headers).toEqual({
      authorization: web.replace(token, other),
      "x-emby-authorization": kodi.replace(token, other),
      "x-emby-token": other,
      "x-mediabrowser-token": other,
    });
    expect(swapped.rawQuery).toBe(`ApiKey=${other}&api_key=${other}`);
  });

  test("without its token a request keeps its device", () => {
    expect(removeTokenFromAuthorization(web)).toBe(
      'MediaBrowser Client="Jellyfin%20Web", Device="Chrome", DeviceId="TW96aWxsYQ11", Version="12.0.0"',
    );
    expect(removeTokenFromAuthorization(`MediaBrowser Token=${token}, Client=c`)).toBe(
      "MediaBrowser Client=c",
    );
    expect(removeTokenFromQuery(`ApiKey=1&a=2&api_key=3&b`)).toBe("a=2&b");
    expect(removeTokenFromQuery("ApiKey=1")).toBe("");
    expect(removeTokenFromQuery("a=1&ApiKey=1")).toBe("a=1");
    const removed = removeToken(
      { authorization: web, "x-emby-token": token },
      `a=1&ApiKey=${token}`,
    );
    expect(read(removed.headers, removed.rawQuery)).toMatchObject({
      token: undefined,
      deviceId: "TW96aWxsYQ11",
    });
  });
});

describe("legacy forms translated for a server that has them switched off", () => {
  const table: readonly [string, CredentialHeaders, string][] = [
    ["scheme Emby", { authorization: `Emby Client="c", DeviceId="d", Token="${token}"` }, "a=1"],
    [
      "X-Emby-Authorization",
      { "x-emby-authorization": `Emby Client=c, DeviceId=d, Token=${token}` },
      "a=1",
    ],
    [
      "X-Emby-Authorization for the device, X-Emby-Token for the token",
      { "x-emby-authorization": 'Emby Client="c", DeviceId="d"', "x-emby-token": token },
      "a=1",
    ],
    [
      "X-MediaBrowser-Token beside a MediaBrowser header",
      { authorization: "MediaBrowser Client=c, DeviceId=d", "x-mediabrowser-token": token },
      "a=1",
    ],
    [
      "api_key beside a MediaBrowser header",
      { authorization: 'MediaBrowser Client="c", DeviceId="d"' },
      `a=1&api_key=${token}`,
    ],
    [
      "api_key beside X-Emby-Authorization",
      { "x-emby-authorization": 'MediaBrowser Client="c", DeviceId="d"' },
      `api_key=${token}&a=1`,
    ],
  ];
  test.each(table)("%s", (_name, headers, rawQuery) => {
    const translated = translateLegacy(headers, rawQuery);
    expect(
      readCredentials(translated.headers, translated.rawQuery, { legacy: false }),
    ).toMatchObject({
      token,
      client: "c",
      deviceId: "d",
    });
    expect(translated.headers["x-emby-authorization"]).toBeUndefined();
    expect(translated.headers["x-emby-token"]).toBeUndefined();
    expect(translated.headers["x-mediabrowser-token"]).toBeUndefined();
    expect(translated.rawQuery).not.toContain("api_key");
  });

  test("Sonarr's header alone becomes an Authorization", () => {
    const swapped = swapToken({ "x-mediabrowser-token": token }, "", other, { translate: true });
    expect(swapped.headers).toEqual({ authorization: `MediaBrowser Token="${other}"` });
  });

  test("where Authorization is taken by another scheme, the token goes into the query", () => {
    const swapped = swapToken(
      { authorization: "Basic YTpi", "x-emby-token": token },
      "a=1",
      other,
      { translate: true },
    );
    expect(swapped).toEqual({
      headers: { authorization: "Basic YTpi" },
      rawQuery: `a=1&ApiKey=${other}`,
    });
  });

  test("a login's device header without a token is translated, too", () => {
    const { headers } = translateLegacy(
      { "x-emby-authorization": 'Emby Client="c", DeviceId="d"' },
      "",
    );
    expect(headers).toEqual({ authorization: 'MediaBrowser Client="c", DeviceId="d"' });
  });

  test("what every server understands stays as it is", () => {
    expect(translateLegacy({ authorization: web }, `ApiKey=${token}`)).toEqual({
      headers: { authorization: web },
      rawQuery: `ApiKey=${token}`,
    });
  });
});

describe("built", () => {
  test("a header in the web client's shape", () => {
    expect(
      buildAuthorization(
        { client: "Jellyfin Web", device: "Télé", deviceId: "d", version: "12.0.0" },
        token,
      ),
    ).toBe(
      `MediaBrowser Client="Jellyfin%20Web", Device="T%C3%A9l%C3%A9", DeviceId="d", Version="12.0.0", Token="${token}"`,
    );
    expect(buildAuthorization({}, "t")).toBe('MediaBrowser Token="t"');
  });
});

describe("fit for a log", () => {
  const urls: readonly [string, string][] = [
    [
      `/Videos/1/stream?static=true&ApiKey=${token}&a=b`,
      "/Videos/1/stream?static=true&ApiKey=***&a=b",
    ],
    [`/socket?api_key=${token}&deviceId=d`, "/socket?api_key=***&deviceId=d"],
    [`/x?API%4bEY=${token}`, "/x?API%4bEY=***"],
    ["/QuickConnect/Connect?secret=abc", "/QuickConnect/Connect?secret=***"],
    ["/QuickConnect/Connect?Secret=abc", "/QuickConnect/Connect?Secret=***"],
    ["/QuickConnect/Authorize?code=123456&userId=u", "/QuickConnect/Authorize?code=***&userId=u"],
    ["/Users/1/Authenticate?pw=hunter2", "/Users/1/Authenticate?pw=***"],
    [`/Auth/Keys/${token}?x=1`, "/Auth/Keys/***?x=1"],
    [`/auth/keys/${token}`, "/auth/keys/***"],
    [`/x?ApiKey%3D${token}%26a%3Db`, "/x?***"],
    [`/x?a=1?ApiKey=${token}`, "/x?a=1?ApiKey=***"],
    ["/Items?ids=1,2&fields=Path", "/Items?ids=1,2&fields=Path"],
    ["/Users/Me", "/Users/Me"],
    ["", ""],
  ];
  test.each(urls)("%s", (url, expected) => {
    expect(redactQuery(url)).toBe(expected);
  });

  test("a header shows the device and nothing else", () => {
    expect(redactHeader("Authorization", web)).toBe(web.replace(token, "***"));
    expect(redactHeader("authorization", `MediaBrowser token="${token}"`)).not.toContain(token);
    expect(redactHeader("authorization", `Bearer ${token}`)).toBe("Bearer ***");
    expect(redactHeader("authorization", token)).toBe("***");
    expect(redactHeader("X-Emby-Token", token)).toBe("***");
    expect(redactHeader("cookie", "a=b")).toBe("***");
    expect(redactHeader("referer", `http://x/web/?api_key=${token}`)).not.toContain(token);
    expect(redactHeader("user-agent", "Kodi")).toBe("Kodi");
  });
});
