// Which requests about documents, users, passwords and keys are changes, and what the journal is told of them: every
// route that makes one, and that no secret is in any of them.

import { describe, expect, test } from "vitest";
import { isUserPlain } from "../../../core/jellyfin/change-request.ts";
import { documentChange } from "../../../core/jellyfin/changes-documents.ts";
import {
  readPasswordFacts,
  readPasswordSecret,
  readUserFacts,
} from "../../../core/jellyfin/documents.ts";
import { routes } from "../../../core/jellyfin/routes.ts";
import { draftOf } from "../../support/journal-hands.ts";

const ann = "aa".repeat(16);
const bob = "bb".repeat(16);
const library = "cc".repeat(16);
const dashed = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa";
const as = (body?: unknown) => ({ body, userId: ann });

const rows: readonly [
  method: string,
  target: string,
  asked: ReturnType<typeof as> | { body?: unknown },
  kind: string,
  userId: string,
  facts: unknown,
][] = [
  [
    "POST",
    "/DisplayPreferences/usersettings?client=emby",
    as({}),
    "preferences",
    ann,
    { id: "usersettings", client: "emby" },
  ],
  [
    "POST",
    `/DisplayPreferences/x?userId=${dashed}&client=a%26b`,
    {},
    "preferences",
    ann,
    { id: "x", client: "a&b" },
  ],
  ["POST", "/Users/Configuration", as({}), "userConfiguration", ann, {}],
  ["POST", `/Users/${bob}/Configuration`, as({}), "userConfiguration", bob, {}],
  ["POST", `/Users/${bob}/Policy`, as({}), "userPolicy", bob, {}],
  ["POST", "/UserImage", as("cGljdHVyZQ=="), "userImage", ann, { what: "set" }],
  ["POST", `/Users/${bob}/Images/Primary`, as("cGlj"), "userImage", bob, { what: "set" }],
  ["POST", `/Users/${bob}/Images/Primary/0`, as("cGlj"), "userImage", bob, { what: "set" }],
  ["DELETE", `/UserImage?userId=${bob}`, as(), "userImage", bob, { what: "cleared" }],
  ["DELETE", `/Users/${bob}/Images/Primary`, as(), "userImage", bob, { what: "cleared" }],
  ["DELETE", `/Users/${bob}/Images/Primary/0`, as(), "userImage", bob, { what: "cleared" }],
  ["POST", "/Branding/Splashscreen", as("cGlj"), "branding", "", { what: "set" }],
  ["DELETE", "/Branding/Splashscreen", as(), "branding", "", { what: "cleared" }],
  ["POST", "/System/Configuration", as({}), "configuration", "", { document: "system" }],
  ["POST", "/System/Configuration/Encoding", as({}), "configuration", "", { document: "encoding" }],
  ["POST", "/System/Configuration/Branding", as({}), "configuration", "", { document: "branding" }],
  ["POST", "/Repositories", as([]), "configuration", "", { document: "repositories" }],
  [
    "POST",
    "/Devices/Options?id=tv%201",
    as({}),
    "configuration",
    "",
    { document: "device", deviceId: "tv 1" },
  ],
  [
    "POST",
    "/LiveTv/TunerHosts",
    as({}),
    "configuration",
    "",
    { document: "livetv", isReadBack: true },
  ],
  [
    "DELETE",
    "/LiveTv/TunerHosts?id=x",
    as(),
    "configuration",
    "",
    { document: "livetv", isReadBack: true },
  ],
  [
    "POST",
    "/LiveTv/ListingProviders?pw=secret",
    as({}),
    "configuration",
    "",
    { document: "livetv", isReadBack: true },
  ],
  [
    "DELETE",
    "/LiveTv/ListingProviders?id=x",
    as(),
    "configuration",
    "",
    { document: "livetv", isReadBack: true },
  ],
  [
    "POST",
    "/LiveTv/ChannelMappings",
    as({}),
    "configuration",
    "",
    { document: "livetv", isReadBack: true },
  ],
  [
    "POST",
    `/Plugins/${dashed}/Configuration`,
    as({}),
    "pluginConfiguration",
    "",
    { pluginId: ann },
  ],
  [
    "POST",
    "/Library/VirtualFolders/LibraryOptions",
    as({ Id: library, LibraryOptions: {} }),
    "libraryOptions",
    "",
    {},
  ],
  [
    "POST",
    "/Users/New",
    as({ Name: "eve", Password: "pw-eve" }),
    "user",
    "",
    { what: "created", name: "eve" },
  ],
  [
    "POST",
    "/Users",
    as({ Name: "ann2", Configuration: {} }),
    "user",
    ann,
    { what: "updated", name: "ann2" },
  ],
  ["POST", `/Users/${bob}`, as({ Name: "bob2" }), "user", bob, { what: "updated", name: "bob2" }],
  ["DELETE", `/Users/${bob}`, as(), "user", bob, { what: "deleted" }],
  [
    "POST",
    "/Users/Password",
    as({ CurrentPw: "one", NewPw: "two" }),
    "password",
    ann,
    { how: "own" },
  ],
  [
    "POST",
    `/Users/${ann}/Password`,
    as({ currentPw: "one", newPw: "two" }),
    "password",
    ann,
    { how: "own" },
  ],
  [
    "POST",
    `/Users/Password?userId=${bob}`,
    as({ NewPw: "two" }),
    "password",
    bob,
    { how: "other" },
  ],
  [
    "POST",
    `/Users/Password?userId=${bob}`,
    { body: { NewPw: "two" } },
    "password",
    bob,
    { how: "other" },
  ],
  [
    "POST",
    `/Users/Password?userId=${bob}`,
    as({ ResetPassword: true }),
    "password",
    bob,
    { how: "reset" },
  ],
  ["POST", "/Users/ForgotPassword/Pin", { body: { Pin: "AB-CD" } }, "password", "", { how: "pin" }],
  ["POST", "/Auth/Keys?app=Sonarr", as(), "apiKey", "", { name: "Sonarr" }],
];

describe("a change that every server has to know", () => {
  test.each(rows)("%s %s", (method, target, asked, kind, userId, facts) => {
    const draft = draftOf(method, target, asked);
    expect(draft).toMatchObject({ kind, userId, facts });
    expect(draft?.itemId).toBe(kind === "libraryOptions" ? library : "");
  });

  test("is one for every route of the table that has a row here", () => {
    const mine = routes.filter((route) => documentChange(route) !== undefined);
    const seen = new Set(mine.map((route) => `${route.methods.join()} ${route.pattern}`));
    expect(mine.length).toBe(seen.size);
    // Each of them is tried above.
    const tried = new Set(rows.map(([method, target]) => `${method} ${patternOf(target)}`));
    const untried = [...seen].filter((name) => {
      const [method = "", pattern = ""] = name.split(" ");
      return ![...tried].some((one) => one === `${method} ${filled(pattern)}`);
    });
    expect(untried).toEqual([]);
  });

  test("is none when it names nobody, nothing, or cannot be read", () => {
    expect(draftOf("POST", "/Users/Configuration", { body: {} })).toBeUndefined();
    expect(draftOf("POST", "/DisplayPreferences/x", as({}))).toBeUndefined();
    expect(draftOf("POST", "/Users/Password", as("no JSON"))).toBeUndefined();
    expect(draftOf("POST", "/Users/New", as({}))).toBeUndefined();
    expect(draftOf("POST", "/Users/ForgotPassword/Pin", { body: {} })).toBeUndefined();
    expect(draftOf("POST", "/Auth/Keys", as())).toBeUndefined();
    expect(draftOf("POST", "/Plugins/none/Configuration", as({}))).toBeUndefined();
    expect(draftOf("DELETE", "/Auth/Keys/0123", as())).toBeUndefined();
    expect(draftOf("GET", `/Users/${bob}`, as())).toBeUndefined();
    expect(
      draftOf("POST", "/Users/AuthenticateByName", { body: { Username: "x", Pw: "y" } }),
    ).toBeUndefined();
  });
});

/** A target with ids as the table's patterns spell parameters. */
function patternOf(target: string): string {
  const [path = ""] = target.split("?");
  return path
    .replace(/\/(?:[0-9a-f]{32}|[0-9a-f-]{36})(?=\/|$)/g, "/*")
    .replace(/\/DisplayPreferences\/.*$/, "/DisplayPreferences/*")
    .replace("/System/Configuration/Encoding", "/System/Configuration/*")
    .replace(/\/Images\/Primary\/0$/, "/Images/*/*")
    .replace(/\/Images\/Primary$/, "/Images/*");
}

function filled(pattern: string): string {
  return pattern.replace(/\{[^}]*\}/g, "*");
}

describe("a secret", () => {
  test.each([
    ["/Users/New", as({ Name: "x", Password: "for-nobody" }), { current: "", next: "for-nobody" }],
    [
      "/Users/Password",
      as({ CurrentPw: "for-nobody-1", NewPw: "for-nobody-2" }),
      { current: "for-nobody-1", next: "for-nobody-2" },
    ],
    [
      "/Users/ForgotPassword/Pin",
      { body: { Pin: "for-nobody" } },
      { current: "", next: "for-nobody" },
    ],
  ])("of %s is apart from what lies in the journal", (target, asked, expected) => {
    const draft = draftOf("POST", target, asked);
    const { secret, told: _told, ...rest } = draft ?? { kind: "none" };
    expect(JSON.stringify(rest)).not.toContain("for-nobody");
    expect(readPasswordSecret(secret ?? "")).toEqual(expected);
  });

  test("is none where a password is set back, or a user has none", () => {
    expect(draftOf("POST", "/Users/New", as({ Name: "x" }))?.secret).toBeUndefined();
    const reset = draftOf(
      "POST",
      `/Users/Password?userId=${bob}`,
      as({ ResetPassword: true, NewPw: "x" }),
    );
    expect(reset?.secret).toBeUndefined();
  });

  test("may be in the documents of plugins, television and the server: those are sealed", () => {
    for (const [method, target, asked, kind] of rows) {
      const draft = draftOf(method, target, asked);
      const isSecret = kind === "configuration" || kind === "pluginConfiguration";
      expect(draft?.isSecret === true).toBe(isSecret);
    }
  });

  test("that lets somebody in is in no kept query", () => {
    const target = `/LiveTv/TunerHosts?id=x&ApiKey=for-nobody&api_key=for-nobody`;
    expect(JSON.stringify(draftOf("DELETE", target, as()))).not.toContain("for-nobody");
  });
});

describe("what an answer tells", () => {
  test("of a new user is the id that clients were given", () => {
    const told = draftOf("POST", "/Users/New", as({ Name: "eve" }))?.told;
    expect(told?.(JSON.stringify({ Id: dashed, Name: "eve", Policy: {} }))).toEqual({
      id: ann,
      name: "eve",
    });
    expect(told?.(JSON.stringify({ id: ann, name: "eve" }))).toEqual({ id: ann, name: "eve" });
    expect(told?.("no JSON")).toBeUndefined();
    expect(told?.("{}")).toBeUndefined();
  });

  test("of a PIN is whose password it became", () => {
    const told = draftOf("POST", "/Users/ForgotPassword/Pin", { body: { Pin: "1" } })?.told;
    expect(told?.(JSON.stringify({ Success: true, UsersReset: ["ann", 7] }))).toEqual({
      names: ["ann"],
    });
    expect(told?.(JSON.stringify({ Success: false, UsersReset: ["ann"] }))).toBeUndefined();
  });
});

describe("a document too long for the journal", () => {
  test("is left out, and read back from the server that has it", () => {
    const body = { Css: "x".repeat(300 * 1024) };
    expect(draftOf("POST", "/System/Configuration/branding2", as(body))?.request).toMatchObject({
      body: "",
      bodyTooBig: true,
    });
  });
});

describe("facts from the journal", () => {
  test("that make no sense are none", () => {
    for (const facts of [undefined, null, 7, "x", [], {}, { how: "x" }]) {
      expect(readPasswordFacts(facts)).toBeUndefined();
    }
    for (const facts of [
      undefined,
      {},
      { what: "x" },
      { what: "created" },
      { what: "updated", name: "" },
    ]) {
      expect(readUserFacts(facts)).toBeUndefined();
    }
    expect(readUserFacts({ what: "login" })).toEqual({ what: "login" });
    for (const text of ["", "null", "{}", '{"current":1,"next":"x"}']) {
      expect(readPasswordSecret(text)).toBeUndefined();
    }
  });
});

describe("the user whom a request names", () => {
  const zero = "0".repeat(32);
  const wide = `${" ".repeat(80)}${ann}`;
  // RequestHelpers.GetUserId; of a route with the user in its path the server does not look at the query.
  test.each([
    [`/Users/${bob}/Configuration?userId=${ann}`, bob],
    [`/Users/${zero}/Configuration?userId=${bob}`, undefined],
    [`/Users/${encodeURIComponent(wide)}/Configuration?userId=${bob}`, undefined],
    [`/Users/Configuration?userId=${bob}`, bob],
    [`/Users/Configuration?userId=${zero}`, ann],
    ["/Users/Configuration?userId=", ann],
    ["/Users/Configuration", ann],
  ])("in %s is %s", (target, expected) => {
    expect(draftOf("POST", target, as({}))?.userId).toBe(expected);
  });

  test.each<[Record<string, string>, string, boolean]>([
    [{ userId: ann }, `userId=${"x".repeat(200)}`, true],
    [{ userId: dashed }, "", true],
    [{ userId: zero }, "", false],
    [{ userId: "{0xaaaaaaaa,0xaaaa,0xaaaa,{0xaa,0xaa,0xaa,0xaa,0xaa,0xaa,0xaa,0xaa}}" }, "", false],
    [{ userId: wide }, "", false],
    [{}, `UserId=${encodeURIComponent(wide)}`, false],
    [{}, "userId=somebody", false],
    [{}, `userId=${zero}`, true],
    [{}, "userId=00000000-0000-0000-0000-000000000000", true],
    [{}, "userId=%20", true],
    [{}, `userId=${ann}&userId=somebody`, true],
    [{}, "", true],
  ])("%j %s can be read: %s", (params, rawQuery, expected) => {
    expect(isUserPlain({ params, rawQuery })).toBe(expected);
  });
});
