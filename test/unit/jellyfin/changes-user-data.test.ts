// Which requests change what a server knows of a user and an item, and what they say about it themselves: every
// writing route of that family, in its new and its old spelling, as a table; and that whatever comes, nothing that
// lets somebody in gets into an intent.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  readUserDataEffect,
  readUserDataFacts,
  type UserDataFacts,
} from "../../../core/cluster/user-data.ts";
import {
  type ChangeDraft,
  cleanedQuery,
  keptQuery,
  plainGuid,
} from "../../../core/jellyfin/change-request.ts";
import { changeReader } from "../../../core/jellyfin/changes.ts";
import { matchRoute, routes } from "../../../core/jellyfin/routes.ts";

const item = "af87525677534c8af23739c31aa4b187";
const version = "b0000000000000000000000000000001";
const viewer = "11111111222233334444555555555555";
const other = "99999999888877776666555555555555";
const dashed = "AF875256-7753-4C8A-F237-39C31AA4B187";

type Caller = { readonly kind: "user" | "apiKey"; readonly userId: string };
const user: Caller = { kind: "user", userId: viewer };
const apiKey: Caller = { kind: "apiKey", userId: "" };

function draft(
  method: string,
  target: string,
  body?: unknown,
  caller: Caller | undefined = user,
): ChangeDraft | undefined {
  const [path = "", rawQuery = ""] = target.split("?");
  const { route, params } = matchRoute(method, path, []);
  const bodyText = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
  return changeReader(route)?.({
    route,
    params,
    method,
    rawQuery,
    contentType: "application/json",
    body: bodyText === undefined ? undefined : Buffer.from(bodyText),
    bodyText: bodyText ?? "",
    caller,
  });
}

const report = { ItemId: item, MediaSourceId: item, PlaySessionId: "play-1" };
const start = ["playCount", "played", "lastPlayedDate"];
const mark = ["position", "playCount", "played", "lastPlayedDate"];

type Row = readonly [
  method: string,
  target: string,
  body: unknown,
  facts: Omit<UserDataFacts, "fields"> & { readonly fields: readonly string[] },
];

const playSessionId = "play-1";
const rows: readonly Row[] = [
  [
    "POST",
    "/Sessions/Playing",
    { ...report, PositionTicks: 0 },
    { cause: "start", fields: start, values: {}, playSessionId },
  ],
  [
    "POST",
    "/Sessions/Playing/Progress",
    { ...report, PositionTicks: 600_000_000 },
    {
      cause: "progress",
      fields: ["position", "played"],
      values: { position: 600_000_000 },
      playSessionId,
    },
  ],
  [
    "POST",
    "/Sessions/Playing/Progress",
    { itemid: dashed, mediasourceid: version, positionticks: "12" },
    {
      cause: "progress",
      fields: ["position", "played"],
      values: { position: 12 },
      versionId: version,
    },
  ],
  [
    "POST",
    "/Sessions/Playing/Stopped",
    { ...report, PositionTicks: 1_200_000_000 },
    {
      cause: "stop",
      fields: ["position", "played"],
      values: { position: 1_200_000_000 },
      playSessionId,
    },
  ],
  [
    "POST",
    "/Sessions/Playing/Stopped",
    report,
    {
      cause: "stop",
      fields: ["position", "playCount", "played"],
      values: { position: 0 },
      playSessionId,
    },
  ],
  ...["", `/Users/${viewer}`].flatMap((before): Row[] => [
    [
      "POST",
      `${before}/PlayingItems/${dashed}?playSessionId=play-1`,
      undefined,
      { cause: "start", fields: start, values: {}, playSessionId },
    ],
    [
      "POST",
      `${before}/PlayingItems/${item}/Progress?positionTicks=77`,
      undefined,
      { cause: "progress", fields: ["position", "played"], values: { position: 77 } },
    ],
    [
      "DELETE",
      `${before}/PlayingItems/${item}?positionTicks=78&PlaySessionId=play-1`,
      undefined,
      { cause: "stop", fields: ["position", "played"], values: { position: 78 }, playSessionId },
    ],
    [
      "DELETE",
      `${before}/PlayingItems/${item}`,
      undefined,
      { cause: "stop", fields: ["position", "playCount", "played"], values: { position: 0 } },
    ],
  ]),
  ...[`/UserPlayedItems/${dashed}`, `/Users/${viewer}/PlayedItems/${item}`].flatMap(
    (path): Row[] => [
      [
        "POST",
        path,
        undefined,
        { cause: "played", fields: mark, values: { position: 0, played: true } },
      ],
      [
        "POST",
        `${path}?datePlayed=20261121001929`,
        undefined,
        {
          cause: "played",
          fields: mark,
          values: { position: 0, played: true, lastPlayedDate: "2026-11-21T00:19:29Z" },
        },
      ],
      [
        "POST",
        `${path}?DatePlayed=2026-11-21T00%3A19%3A29.3894798Z`,
        undefined,
        {
          cause: "played",
          fields: mark,
          values: { position: 0, played: true, lastPlayedDate: "2026-11-21T00:19:29.3894798Z" },
        },
      ],
      [
        "POST",
        `${path}?datePlayed=21.11.2026`,
        undefined,
        { cause: "played", fields: mark, values: { position: 0, played: true } },
      ],
      [
        "DELETE",
        path,
        undefined,
        {
          cause: "unplayed",
          fields: mark,
          values: { position: 0, playCount: 0, played: false, lastPlayedDate: null },
        },
      ],
    ],
  ),
  ...[`/UserFavoriteItems/${item}`, `/Users/${viewer}/FavoriteItems/${item}`].flatMap(
    (path): Row[] => [
      [
        "POST",
        path,
        undefined,
        { cause: "favourite", fields: ["favourite"], values: { favourite: true } },
      ],
      [
        "DELETE",
        path,
        undefined,
        { cause: "favourite", fields: ["favourite"], values: { favourite: false } },
      ],
    ],
  ),
  ...[`/UserItems/${item}/Rating`, `/Users/${viewer}/Items/${item}/Rating`].flatMap(
    (path): Row[] => {
      const fields = ["likes", "rating"];
      const cleared = { likes: null, rating: null };
      return [
        [
          "POST",
          `${path}?likes=true`,
          undefined,
          { cause: "rating", fields, values: { likes: true, rating: 10 } },
        ],
        [
          "POST",
          `${path}?Likes=False`,
          undefined,
          { cause: "rating", fields, values: { likes: false, rating: 1 } },
        ],
        ["POST", path, undefined, { cause: "rating", fields, values: cleared }],
        ["DELETE", path, undefined, { cause: "rating", fields, values: cleared }],
      ];
    },
  ),
  ...[`/UserItems/${item}/UserData`, `/Users/${viewer}/Items/${item}/UserData`].flatMap(
    (path): Row[] => [
      [
        "POST",
        path,
        {
          PlaybackPositionTicks: 5,
          PlayCount: 2,
          isFavorite: true,
          Played: false,
          LastPlayedDate: "2026-11-21T00:19:29.3894798Z",
          Likes: null,
        },
        {
          cause: "userData",
          fields: ["position", "playCount", "played", "lastPlayedDate", "favourite"],
          values: {
            position: 5,
            playCount: 2,
            favourite: true,
            played: false,
            lastPlayedDate: "2026-11-21T00:19:29.3894798Z",
          },
        },
      ],
      [
        "POST",
        path,
        { Likes: false },
        { cause: "userData", fields: ["likes", "rating"], values: { likes: false, rating: 1 } },
      ],
      [
        "POST",
        path,
        { Likes: false, Rating: 7 },
        { cause: "userData", fields: ["likes", "rating"], values: { likes: true, rating: 7 } },
      ],
      [
        "POST",
        path,
        { LastPlayedDate: "2026-11-21T00:19:29+01:00" },
        { cause: "userData", fields: ["lastPlayedDate"], values: {} },
      ],
    ],
  ),
];

describe("what a request says of a user's data", () => {
  test.each(rows)("%s %s %j", (method, target, body, facts) => {
    const made = draft(method, target, body);
    expect(made).toMatchObject({
      kind: "userData",
      userId: viewer,
      itemId: item,
      facts: { ...facts, fields: expect.anything() },
    });
    const said = factsOf(made);
    expect([...said.fields].sort()).toEqual([...facts.fields].sort());
    expect(Object.keys(said).sort()).toEqual(Object.keys(facts).sort());
    // What is written can be read, and says the same.
    expect(readUserDataFacts(JSON.parse(JSON.stringify(said)))).toEqual({
      ...said,
      fields: expect.arrayContaining([...said.fields]),
    });
    // And the request can be made again: it means the same.
    const { request } = made ?? { request: { method: "", path: "", query: "", body: "" } };
    const again = draft(
      request.method,
      request.query === "" ? request.path : `${request.path}?${request.query}`,
      request.body === "" ? undefined : request.body,
    );
    expect(again?.request).toEqual(request);
    expect(again?.userId).toBe(viewer);
  });

  test("every writing route of the family has a row here", () => {
    const family = routes.filter(({ intent, changes }) => changes && intent !== "none");
    const tried = new Set(
      rows.map(([method, target]) => matchRoute(method, target.split("?")[0] ?? "", []).route),
    );
    expect(family.length).toBe(23);
    expect(family.filter((route) => !tried.has(route)).map(({ pattern }) => pattern)).toEqual([]);
  });

  test("a user named in path or query is the one whose data it is, but not in a report", () => {
    const admin = [
      draft("POST", `/UserFavoriteItems/${item}?userId=${other}`),
      draft("POST", `/Users/${other}/FavoriteItems/${item}`),
      draft("POST", `/UserPlayedItems/${item}?USERID=${other}`, undefined, apiKey),
    ];
    expect(admin.map((made) => made?.userId)).toEqual([other, other, other]);
    // OnPlaybackStartLegacy and its kin do not look at it.
    expect(draft("POST", `/Users/${other}/PlayingItems/${item}`)?.userId).toBe(viewer);
    // The empty id is none.
    const none = "00000000-0000-0000-0000-000000000000";
    expect(draft("POST", `/UserFavoriteItems/${item}?userId=${none}`)?.userId).toBe(viewer);
  });

  test.each([
    ["GET", `/UserItems/${item}/UserData`, undefined, user],
    ["POST", "/Sessions/Playing/Ping?playSessionId=play-1", undefined, user],
    ["POST", "/Sessions/Playing/Progress", { ItemId: item }, user],
    ["POST", "/Sessions/Playing/Progress", { PositionTicks: 5 }, user],
    ["POST", "/Sessions/Playing/Progress", { ItemId: "film", PositionTicks: 5 }, user],
    ["POST", "/Sessions/Playing/Progress", { ...report, PositionTicks: 5 }, apiKey],
    ["POST", "/Sessions/Playing/Progress", "no JSON", user],
    ["POST", "/Sessions/Playing/Progress", "[1]", user],
    ["POST", "/Sessions/Playing/Progress", "", user],
    ["POST", "/Sessions/Playing/Stopped", { ...report, PositionTicks: 5, Failed: true }, user],
    ["POST", "/Sessions/Playing/Stopped", { ...report, PositionTicks: -1 }, user],
    ["POST", "/Sessions/Playing/Stopped", { ...report, PositionTicks: "soon" }, user],
    ["POST", `/UserFavoriteItems/${item}`, undefined, apiKey],
    ["POST", `/UserFavoriteItems/${item}`, undefined, undefined],
    ["POST", "/UserFavoriteItems/film", undefined, user],
    ["POST", `/UserItems/${item}/UserData`, {}, user],
    ["POST", `/UserItems/${item}/UserData`, { Played: null }, user],
    ["POST", `/UserItems/${item}/UserData`, "{", user],
  ] as const)(
    "%s %s %j by %j changes nothing that others have to know",
    (method, target, body, caller) => {
      expect(draftOf(method, target, body, caller)).toBeUndefined();
    },
  );

  test("a body too long to be kept is still a change", () => {
    const { route, params } = matchRoute("POST", `/UserItems/${item}/UserData`, []);
    const made = changeReader(route)?.({
      route,
      params,
      method: "POST",
      rawQuery: "",
      contentType: "application/json",
      body: undefined,
      bodyText: undefined,
      caller: user,
    });
    expect(made?.request.bodyTooBig).toBe(true);
    expect(factsOf(made).fields).toHaveLength(7);
    expect(factsOf(made).values).toEqual({});
  });

  test("of a report nothing is kept that no server needs to have it made again", () => {
    const queue = Array.from({ length: 500 }, () => ({ Id: item, PlaylistItemId: "x" }));
    const body = {
      ...report,
      PositionTicks: 5,
      NowPlayingQueue: queue,
      Item: { Name: "film" },
      SessionId: "s",
    };
    const made = draft("POST", "/Sessions/Playing/Progress?api_key=secret", body);
    expect(made?.request).toEqual({
      method: "POST",
      path: "/Sessions/Playing/Progress",
      query: "",
      contentType: "application/json",
      body: JSON.stringify({ ...report, PositionTicks: 5 }),
    });
  });
});

function factsOf(made: ChangeDraft | undefined): UserDataFacts {
  return made?.facts as UserDataFacts;
}

/** As `draft`, but with a caller who may be nobody. */
function draftOf(method: string, target: string, body: unknown, caller: Caller | undefined) {
  if (caller !== undefined) return draft(method, target, body, caller);
  const [path = ""] = target.split("?");
  const { route, params } = matchRoute(method, path, []);
  const common = { route, params, method, rawQuery: "", contentType: "", body: undefined };
  return changeReader(route)?.({ ...common, bodyText: "", caller: undefined });
}

// ---- Nothing that lets somebody in ------------------------------------------------------------------------

const secret = "5ec7e7000000000000000000000cafe5";

/** A query name that means a token, in any letter case and any percent-encoding. */
const tokenName = fc
  .tuple(
    fc.constantFrom("ApiKey", "api_key", "token", "access_token", "X-Emby-Token"),
    fc.array(fc.nat(2), { minLength: 12, maxLength: 12 }),
  )
  .map(([name, how]) =>
    [...name]
      .map((letter, index) => {
        if (how[index] === 0) return letter.toUpperCase();
        if (how[index] === 1) return letter;
        return `%${letter.charCodeAt(0).toString(16).padStart(2, "0")}`;
      })
      .join(""),
  );
const pair = fc.oneof(
  tokenName.map((name) => `${name}=${secret}`),
  fc.constantFrom(
    "likes=true",
    "positionTicks=5",
    `userId=${viewer}`,
    "datePlayed=20261121001929",
    "x=1",
    "",
    "=",
    "%",
  ),
);
const anyQuery = fc.oneof(
  fc.array(pair, { maxLength: 6 }).map((pairs) => pairs.join("&")),
  // Some clients encode the whole query.
  fc.array(pair, { maxLength: 3 }).map((pairs) => encodeURIComponent(pairs.join("&"))),
);
const anyBody = fc.record(
  {
    ItemId: fc.constantFrom(item, dashed, "film"),
    PositionTicks: fc.oneof(fc.integer(), fc.constantFrom("7", null, {}, [])),
    PlaySessionId: fc.constantFrom("play-1", null, {}),
    Played: fc.boolean(),
    Rating: fc.double(),
    ApiKey: fc.constant(secret),
    Token: fc.constant(secret),
    Item: fc.constant({ Path: `http://server/video?api_key=${secret}` }),
    NowPlayingQueue: fc.constant([{ Id: secret }]),
    LastPlayedDate: fc.constantFrom(secret, "2026-11-21T00:19:29Z"),
    __proto__: fc.constant(secret),
  },
  { requiredKeys: [] },
);

test("no reading route is looked at, so that a question takes its shortest way", () => {
  const reading = routes.filter(({ methods }) => methods.includes("GET"));
  expect(reading.length).toBeGreaterThan(100);
  expect(reading.filter((route) => changeReader(route) !== undefined)).toEqual([]);
});

test("whatever a request looks like, no credential of it is in the intent", () => {
  const family = rows.map(([method, target]) => [method, target.split("?")[0] ?? ""] as const);
  fc.assert(
    fc.property(fc.constantFrom(...family), anyQuery, anyBody, ([method, path], query, body) => {
      const made = draft(method, `${path}?${query}`, body);
      const text = decodeURIComponent(JSON.stringify(made ?? {}).replaceAll("%", "%25"));
      expect(text.toLowerCase()).not.toContain(secret);
    }),
    { numRuns: 2000 },
  );
});

test("a cleaned query keeps what is no credential, and a kept one only what was named", () => {
  fc.assert(
    fc.property(anyQuery, (query) => {
      expect(cleanedQuery(query)).not.toContain(secret);
      expect(keptQuery(query, ["likes", "userId"])).not.toContain(secret);
    }),
    { numRuns: 2000 },
  );
  expect(cleanedQuery(`a=1&ApiKey=${secret}&b=%C3%A4`)).toBe("a=1&b=%C3%A4");
  expect(keptQuery("LIKES=true&b=2", ["likes"])).toBe("likes=true");
});

test("an id is read in the forms that Jellyfin reads, and what is none is none", () => {
  expect(plainGuid(`{${dashed}}`)).toBe(item);
  expect(plainGuid(item.toUpperCase())).toBe(item);
  for (const none of [
    "",
    "film",
    item.slice(1),
    `${item}0`,
    5,
    null,
    "0".repeat(32),
    "-".repeat(36),
  ]) {
    expect(plainGuid(none)).toBeUndefined();
  }
});

test("whatever lies in the store, facts and effects are sound or nothing", () => {
  fc.assert(
    fc.property(fc.anything(), (value) => {
      readUserDataFacts(value);
      readUserDataEffect(value);
    }),
  );
  const sound = { fields: ["position"], values: { position: 5 }, cause: "progress" };
  expect(readUserDataFacts(sound)).toEqual(sound);
  for (const wrong of [
    { ...sound, fields: [] },
    { ...sound, fields: ["password"] },
    { ...sound, values: { position: -1 } },
    { ...sound, values: { position: 1.5 } },
    { ...sound, values: { lastPlayedDate: "yesterday" } },
    { ...sound, values: null },
    { ...sound, cause: "seen" },
    { ...sound, playSessionId: "x".repeat(201) },
    { ...sound, versionId: "../../etc" },
  ]) {
    expect(readUserDataFacts(wrong)).toBeUndefined();
  }
  expect(readUserDataEffect({ cause: "seen", values: {} })).toEqual({ cause: "seen", values: {} });
  expect(readUserDataEffect({ cause: "guess", values: {} })).toBeUndefined();
});
