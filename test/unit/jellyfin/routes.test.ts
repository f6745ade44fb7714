// The table of routes against the facts: every writing route has a row, and each question finds the row
// that Jellyfin's own routing would find.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { baseSegmentsOf } from "../../../core/jellyfin/paths.ts";
import type { Route, RouteParams } from "../../../core/jellyfin/routes.ts";
import {
  defaultOptions,
  defaultRead,
  defaultWrite,
  matchRoute,
  routes,
} from "../../../core/jellyfin/routes.ts";
import { writingRoutes } from "./writing-routes.ts";

const id = "af87525677534c8af23739c31aa4b187";

/** Any UTF-16 text, lone surrogates included. */
const wildText = fc
  .array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 8 })
  .map((codes) => String.fromCharCode(...codes));

/** A route's row by one of its spellings, parameters filled with something a route would not be called. */
function rowOf(method: string, pattern: string): Route {
  return matchRoute(method, pattern.replace(/\{[^}]*\}/g, "0a1b")).route;
}

describe("the 182 writing routes", () => {
  test("are all in the list", () => {
    expect(new Set(writingRoutes).size).toBe(182);
  });

  test.each(writingRoutes)("%s has a row of its own", (line) => {
    const [method = "", path = ""] = line.split(" ");
    const row = rowOf(method, path);
    expect(row.known).toBe(true);
    expect(row.methods).toEqual([method]);
    const shape = (pattern: string): string => pattern.replace(/\{[^}]*\}/g, "{}");
    expect(shape(row.pattern)).toBe(shape(path));
  });

  test("and no other writing row was invented", () => {
    const rows = routes.filter((row) => !row.methods.includes("GET"));
    expect(rows.length).toBe(182);
  });
});

describe("what the rows say, as rules", () => {
  const writes = routes.filter((row) => !row.methods.includes("GET"));

  test("whatever changes users' data may be repeated, but for a start of playback", () => {
    for (const row of writes.filter((each) => each.intent !== "none")) {
      expect([row.pattern, row.repeatable]).toEqual([
        row.pattern,
        row.kind === "playStart" ? "ifNotSent" : "yes",
      ]);
    }
  });

  test("what is made anew, and every login but QuickConnect's, is never sent twice", () => {
    for (const path of [
      "/Users/AuthenticateByName",
      "/Users/0a1b/Authenticate",
      "/QuickConnect/Initiate",
      "/Users/New",
      "/Users/Password",
      "/Users/ForgotPassword",
      "/Users/ForgotPassword/Pin",
      "/Auth/Keys",
      "/Playlists",
      "/Playlists/0a1b/Items",
      "/Collections",
      "/Library/VirtualFolders",
      "/LiveTv/Timers",
      "/LiveTv/SeriesTimers",
      "/LiveTv/TunerHosts",
      "/LiveStreams/Open",
      "/Sessions/Playing",
      "/Videos/0a1b/Subtitles",
      "/Items/0a1b/Images/Backdrop",
      "/SyncPlay/New",
    ]) {
      expect([path, matchRoute("POST", path).route.repeatable]).toEqual([path, "ifNotSent"]);
    }
  });

  test("what is meant for one server's memory or life is offered to no other", () => {
    for (const path of [
      "/System/Restart",
      "/System/Shutdown",
      "/Backup/Restore",
      "/SyncPlay/Pause",
      "/Sessions/0a1b/Playing/Pause",
      "/LiveStreams/Close",
    ]) {
      expect([path, matchRoute("POST", path).route.repeatable]).toEqual([path, "no"]);
    }
  });

  test("answers to a password, a PIN or a code are final, and all others can be doubted", () => {
    const final = routes.filter((row) => row.answer === "final").map((row) => row.pattern);
    expect([...new Set(final)].sort()).toEqual([
      "/QuickConnect/Authorize",
      "/QuickConnect/Connect",
      "/QuickConnect/Initiate",
      "/Users/AuthenticateByName",
      "/Users/AuthenticateWithQuickConnect",
      "/Users/ForgotPassword",
      "/Users/ForgotPassword/Pin",
      "/Users/{userId}/Authenticate",
    ]);
  });

  test("every answer that carries a login is read", () => {
    const rows = routes.filter((row) => row.gives === "authenticationResult");
    expect(rows.map((row) => row.pattern).sort()).toEqual([
      "/Users/AuthenticateByName",
      "/Users/AuthenticateWithQuickConnect",
      "/Users/{userId}/Authenticate",
    ]);
  });

  test("every route that ends tokens says whose", () => {
    const ends = routes
      .filter((row) => row.ends !== "none")
      .map((row) => [row.methods[0], row.pattern, row.ends]);
    expect(ends).toEqual([
      ["POST", "/Sessions/Logout", "identity"],
      ["POST", "/Users/Password", "userOthers"],
      ["POST", "/Users/{userId}/Password", "userOthers"],
      ["DELETE", "/Devices", "device"],
      ["DELETE", "/Auth/Keys/{key}", "apiKey"],
      ["DELETE", "/Users/{userId}", "user"],
      ["POST", "/Users/{userId}/Policy", "userIfDisabled"],
    ]);
  });

  test("all of SyncPlay but a new group is bound to its group", () => {
    for (const row of writes.filter((each) => each.kind === "syncPlay")) {
      expect([row.pattern, row.boundTo]).toEqual([
        row.pattern,
        row.pattern === "/SyncPlay/New" ? "home" : "syncPlay",
      ]);
    }
  });

  test("reading never needs the leader, and may be repeated unless it says otherwise", () => {
    for (const row of routes.filter((each) => each.methods.includes("GET"))) {
      expect([row.pattern, row.needsLeader]).toEqual([row.pattern, false]);
      if (row.pattern !== "/QuickConnect/Initiate") {
        expect([row.pattern, row.repeatable]).toEqual([row.pattern, "yes"]);
      }
    }
  });
});

describe("guards", () => {
  test.each([
    ["GET", "/metrics", "refuse"],
    ["GET", "/METRICS/", "refuse"],
    ["HEAD", "//metrics", "refuse"],
    ["GET", "/%6detrics", "refuse"],
    ["GET", "/web/../metrics", "refuse"],
    ["GET", "/web/%2e%2e/metrics", "refuse"],
    ["GET", "/metrics//..", "refuse"],
    ["GET", `${"/x".repeat(100)}${"/..".repeat(100)}/metrics`, "refuse"],
    ["GET", "/metrics?x=1", "refuse"],
    ["GET", "/emby/metrics", "refuse"],
    ["GET", "http://door.example/metrics", "refuse"],
    ["POST", "/System/Restart", "adminOnly"],
    ["POST", "/system//restart/", "adminOnly"],
    ["POST", "/System/Shutdown", "adminOnly"],
    ["POST", "/Startup/User", "startupWizard"],
    ["GET", "/Startup/User", "startupWizard"],
    ["GET", "/startup/anything/else", "startupWizard"],
    ["GET", "/Users/Me", "none"],
    ["GET", "/web/metrics", "none"],
  ] as const)("%s %s: %s", (method, path, guard) => {
    expect(matchRoute(method, path).route.guard).toBe(guard);
  });

  test("hold below a base path, too", () => {
    const base = baseSegmentsOf("/jellyfin");
    expect(matchRoute("GET", "/Jellyfin/metrics", base).route.guard).toBe("refuse");
    expect(matchRoute("POST", "/jellyfin/System/Restart", base).route.guard).toBe("adminOnly");
  });
});

describe("a request finds its row", () => {
  const table: readonly [string, string, string, RouteParams][] = [
    ["GET", "/", "/", {}],
    ["GET", "/web/index.html", "/web/{*rest}", { rest: "index.html" }],
    ["GET", "/web/assets/img/a.png", "/web/{*rest}", { rest: "assets/img/a.png" }],
    ["GET", "/web/ConfigurationPages", "/web/ConfigurationPages", {}],
    ["GET", "/web/", "/web", {}],
    ["GET", "/Users/Me", "/Users/Me", {}],
    ["GET", `/Users/${id}`, "/Users/{userId}", { userId: id }],
    ["GET", "/users/public", "/Users/Public", {}],
    ["GET", "/Users/Me/Items/Latest", "/Users/{userId}/Items/Latest", { userId: "Me" }],
    ["GET", `/Users/u/Items/${id}`, "/Users/{userId}/Items/{itemId}", { userId: "u", itemId: id }],
    [
      "GET",
      `/Users/u/Items/${id}/Intros`,
      "/Users/{userId}/Items/{itemId}/{*rest}",
      { userId: "u", itemId: id, rest: "Intros" },
    ],
    ["POST", "/Users/authenticatebyname", "/Users/AuthenticateByName", {}],
    ["POST", `/users/${id}/authenticate`, "/Users/{userId}/Authenticate", { userId: id }],
    ["POST", "/Users/New", "/Users/New", {}],
    ["POST", `/Users/${id}`, "/Users/{userId}", { userId: id }],
    ["POST", "/emby/Users/AuthenticateByName", "/Users/AuthenticateByName", {}],
    ["POST", "/MediaBrowser/Sessions/Playing", "/Sessions/Playing", {}],
    ["GET", `/Items/${id}`, "/Items/{itemId}", { itemId: id }],
    ["GET", "/Items/Counts", "/Items/Counts", {}],
    ["GET", `/Items/${id}/Similar`, "/Items/{itemId}/{*rest}", { itemId: id, rest: "Similar" }],
    ["GET", `/Items/${id}/PlaybackInfo`, "/Items/{itemId}/PlaybackInfo", { itemId: id }],
    ["POST", `/items/${id}/playbackinfo`, "/Items/{itemId}/PlaybackInfo", { itemId: id }],
    [
      "GET",
      `/Items/${id}/Images/Primary`,
      "/Items/{itemId}/Images/{imageType}",
      { itemId: id, imageType: "Primary" },
    ],
    [
      "HEAD",
      `/items/${id}/images/Backdrop/0`,
      "/Items/{itemId}/Images/{imageType}/{index}",
      { itemId: id, imageType: "Backdrop", index: "0" },
    ],
    [
      "GET",
      "/Genres/Com%C3%A9die/Images/Primary",
      "/Genres/{name}/Images/{imageType}",
      { name: "Comédie", imageType: "Primary" },
    ],
    ["GET", "/Studios/A%2FB", "/Studios/{name}", { name: "A%2FB" }],
    ["GET", `/videos/${id}/stream`, "/Videos/{itemId}/stream", { itemId: id }],
    [
      "GET",
      `/Videos/${id}/STREAM.Mp4`,
      "/Videos/{itemId}/stream.{container}",
      { itemId: id, container: "Mp4" },
    ],
    [
      "GET",
      `/Audio/${id}/stream.flac`,
      "/Audio/{itemId}/stream.{container}",
      { itemId: id, container: "flac" },
    ],
    ["GET", `/videos/${id}/master.m3u8`, "/Videos/{itemId}/master.m3u8", { itemId: id }],
    [
      "GET",
      `/videos/${id}/hls1/main/0.ts`,
      "/Videos/{itemId}/hls1/{playlistId}/{segmentId}.{container}",
      { itemId: id, playlistId: "main", segmentId: "0", container: "ts" },
    ],
    [
      "GET",
      `/videos/${id}/hls1/main/-1.mp4`,
      "/Videos/{itemId}/hls1/{playlistId}/{segmentId}.{container}",
      { itemId: id, playlistId: "main", segmentId: "-1", container: "mp4" },
    ],
    [
      "GET",
      `/Videos/${id}/hls/list/stream.m3u8`,
      "/Videos/{itemId}/hls/{playlistId}/stream.m3u8",
      { itemId: id, playlistId: "list" },
    ],
    [
      "GET",
      `/Videos/${id}/hls/list/list12.ts`,
      "/Videos/{itemId}/hls/{playlistId}/{segmentId}.{container}",
      { itemId: id, playlistId: "list", segmentId: "list12", container: "ts" },
    ],
    [
      "GET",
      `/Audio/${id}/hls/seg0/stream.mp3`,
      "/Audio/{itemId}/hls/{segmentId}/stream.{container}",
      { itemId: id, segmentId: "seg0", container: "mp3" },
    ],
    [
      "GET",
      `/Videos/${id}/src/Subtitles/2/0/Stream.js`,
      "/Videos/{itemId}/{mediaSourceId}/Subtitles/{index}/{startPositionTicks}/Stream.{container}",
      { itemId: id, mediaSourceId: "src", index: "2", startPositionTicks: "0", container: "js" },
    ],
    [
      "GET",
      `/Videos/${id}/src/Subtitles/2/Stream.vtt`,
      "/Videos/{itemId}/{mediaSourceId}/Subtitles/{index}/Stream.{container}",
      { itemId: id, mediaSourceId: "src", index: "2", container: "vtt" },
    ],
    [
      "GET",
      `/Videos/${id}/src/Subtitles/2/subtitles.m3u8`,
      "/Videos/{itemId}/{mediaSourceId}/Subtitles/{index}/subtitles.m3u8",
      { itemId: id, mediaSourceId: "src", index: "2" },
    ],
    [
      "GET",
      `/Videos/${id}/src/Attachments/3`,
      "/Videos/{itemId}/{mediaSourceId}/Attachments/{index}",
      { itemId: id, mediaSourceId: "src", index: "3" },
    ],
    [
      "GET",
      `/Videos/${id}/Trickplay/320/4.jpg`,
      "/Videos/{itemId}/Trickplay/{width}/{index}.jpg",
      { itemId: id, width: "320", index: "4" },
    ],
    [
      "GET",
      `/Videos/${id}/Trickplay/320/tiles.m3u8`,
      "/Videos/{itemId}/Trickplay/{width}/tiles.m3u8",
      { itemId: id, width: "320" },
    ],
    [
      "GET",
      "/LiveTv/LiveStreamFiles/abc/stream.ts",
      "/LiveTv/LiveStreamFiles/{streamId}/stream.{container}",
      { streamId: "abc", container: "ts" },
    ],
    ["DELETE", "/Videos/ActiveEncodings", "/Videos/ActiveEncodings", {}],
    ["POST", "/System/Configuration/Branding", "/System/Configuration/Branding", {}],
    ["POST", "/System/Configuration/network", "/System/Configuration/{key}", { key: "network" }],
    [
      "POST",
      "/Sessions/abc/Playing/Pause",
      "/Sessions/{sessionId}/Playing/{command}",
      { sessionId: "abc", command: "Pause" },
    ],
    ["POST", "/Sessions/Playing/Progress", "/Sessions/Playing/Progress", {}],
    ["GET", "/SyncPlay/List", "/SyncPlay/List", {}],
    ["GET", "/SyncPlay/0f0e", "/SyncPlay/{groupId}", { groupId: "0f0e" }],
    ["GET", "/LiveTv/Timers/Defaults", "/LiveTv/Timers/Defaults", {}],
  ];
  test.each(table)("%s %s", (method, path, pattern, params) => {
    for (const spelling of [path, `${path}/`, `/${path}`, `${path}?a=b`]) {
      const match = matchRoute(method, spelling);
      expect(match.route.pattern).toBe(pattern);
      expect(match.params).toEqual(params);
    }
  });

  test("a literal with no row for the method gives way to a parameter", () => {
    expect(matchRoute("GET", "/System/Configuration/Branding").route.pattern).toBe(
      "/System/Configuration/{key}",
    );
    expect(matchRoute("GET", "/Users/New").route.pattern).toBe("/Users/{userId}");
    expect(matchRoute("POST", "/Users/Me").route.pattern).toBe("/Users/{userId}");
    expect(matchRoute("GET", "/Playlists/abc/Items").route.pattern).toBe(
      "/Playlists/{playlistId}/{*rest}",
    );
  });

  test("a segment needs something on both sides of its dot", () => {
    expect(matchRoute("GET", `/videos/${id}/hls1/main/.ts`).route).toBe(defaultRead);
    expect(matchRoute("GET", `/videos/${id}/hls1/main/1.`).route).toBe(defaultRead);
    expect(matchRoute("GET", `/videos/${id}/stream.`).route).toBe(defaultRead);
  });

  test("below a base path", () => {
    const base = baseSegmentsOf("/jellyfin");
    expect(matchRoute("GET", "/JELLYFIN/Users/u1", base)).toEqual(matchRoute("GET", "/Users/u1"));
    expect(matchRoute("GET", "/jellyfin", base).route.pattern).toBe("/");
  });

  test("every reading row is found by its own pattern, so none hides another", () => {
    for (const row of routes.filter((each) => each.methods.includes("GET"))) {
      const path = row.pattern.replace(/\{\*[^}]*\}/g, "x/y").replace(/\{[^}]*\}/g, "0a1b");
      expect([path, matchRoute("GET", path).route.pattern]).toEqual([path, row.pattern]);
    }
  });
});

describe("what has no row", () => {
  test("is a question to the home when it reads", () => {
    expect(matchRoute("GET", "/no/such/route")).toEqual({ route: defaultRead, params: {} });
    expect(matchRoute("HEAD", "/no/such/route").route).toBe(defaultRead);
    expect(defaultRead).toMatchObject({
      boundTo: "home",
      repeatable: "yes",
      answer: "doubt401",
      known: false,
    });
  });

  test("goes to the home and is never repeated when it writes", () => {
    for (const method of ["POST", "DELETE", "PUT", "PATCH", "BREW", "get", ""]) {
      expect(matchRoute(method, "/no/such/route").route).toBe(defaultWrite);
    }
    expect(matchRoute("PUT", "/Users/Me").route).toBe(defaultWrite);
    expect(defaultWrite).toMatchObject({ boundTo: "home", repeatable: "ifNotSent", known: false });
  });

  test("and a browser's OPTIONS is about nobody", () => {
    expect(matchRoute("OPTIONS", "/Users/Me").route).toBe(defaultOptions);
    expect(matchRoute("OPTIONS", "*").route).toBe(defaultOptions);
  });

  test("no method and path make it throw", { timeout: 30_000 }, () => {
    const piece = fc.constantFrom(
      "Users",
      "Items",
      "hls1",
      "..",
      ".",
      "",
      "%2e",
      "%",
      "stream.",
      ".ts",
      "__proto__",
      "constructor",
      "emby",
    );
    fc.assert(
      fc.property(
        fc.constantFrom("GET", "POST", "DELETE", "OPTIONS", "__proto__"),
        fc.array(fc.oneof(piece, wildText), { maxLength: 14 }),
        (method, segments) => {
          const match = matchRoute(method, `/${segments.join("/")}`);
          expect(match.route.pattern.startsWith("/")).toBe(true);
        },
      ),
      { numRuns: 2000 },
    );
  });
});
