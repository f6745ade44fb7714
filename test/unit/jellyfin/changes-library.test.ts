/** Which requests about lists, items and libraries are changes that every server has to know, and what is kept of them. */
import { describe, expect, test } from "vitest";
import { changeReader } from "../../../core/jellyfin/changes.ts";
import { isWrittenAtLeader } from "../../../core/jellyfin/changes-library.ts";
import { matchRoute, routes } from "../../../core/jellyfin/routes.ts";

const id = "0123456789abcdef0123456789abcdef";
const other = "fedcba9876543210fedcba9876543210";
const user = "00000000000000000000000000000abc";
const dashed = "01234567-89ab-cdef-0123-456789abcdef";

function draft(method: string, target: string, bodyText = "", contentType = "application/json") {
  const [path = "", rawQuery = ""] = target.split("?");
  const { route, params } = matchRoute(method, path, []);
  return changeReader(route)?.({
    ...{ route, params, method, rawQuery, contentType, bodyText },
    body: bodyText === "" ? undefined : Buffer.from(bodyText),
    caller: { kind: "user", userId: user },
  });
}

describe("the draft of a change", () => {
  test.each([
    ["POST", "/Playlists", "playlist", "", { what: "created" }],
    ["POST", `/Playlists/${dashed}`, "playlist", id, { what: "updated" }],
    ["POST", `/Playlists/${id}/Items?ids=${other}`, "playlist", id, { what: "appended" }],
    ["POST", `/playlists/${id}/items?ids=${other}`, "playlist", id, { what: "appended" }],
    ["DELETE", `/Playlists/${id}/Items?entryIds=${other}`, "playlist", id, { what: "removed" }],
    ["POST", `/Playlists/${id}/Items/${other}/Move/2`, "playlist", id, { what: "moved" }],
    ["POST", `/Playlists/${id}/Users/${other}`, "playlist", id, { what: "shared" }],
    ["DELETE", `/Playlists/${id}/Users/${other}`, "playlist", id, { what: "shared" }],
    ["POST", "/Collections?name=Best", "collection", "", { what: "created" }],
    ["POST", `/Collections/${id}/Items?ids=${other}`, "collection", id, { what: "appended" }],
    ["DELETE", `/Collections/${id}/Items?ids=${other}`, "collection", id, { what: "removed" }],
    ["POST", `/Items/${id}`, "metadata", id, { what: "repeat" }],
    ["POST", `/Items/${id}/ContentType?contentType=movies`, "metadata", id, { what: "repeat" }],
    ["POST", `/Items/RemoteSearch/Apply/${id}`, "metadata", id, { what: "repeat" }],
    ["POST", `/Videos/MergeVersions?ids=${id},${other}`, "metadata", id, { what: "repeat" }],
    ["DELETE", `/Videos/${id}/AlternateSources`, "metadata", id, { what: "repeat" }],
    [
      "POST",
      `/Items/${id}/Images/Backdrop`,
      "metadata",
      id,
      { what: "images", imageType: "Backdrop" },
    ],
    [
      "DELETE",
      `/Items/${id}/Images/Primary/0`,
      "metadata",
      id,
      { what: "images", imageType: "Primary" },
    ],
    [
      "POST",
      `/Items/${id}/RemoteImages/Download?type=Logo&imageUrl=x`,
      "metadata",
      id,
      { what: "images", imageType: "Logo" },
    ],
    ["POST", `/Videos/${id}/Subtitles`, "itemFile", id, { file: "subtitle", what: "added" }],
    ["DELETE", `/Videos/${id}/Subtitles/2`, "itemFile", id, { file: "subtitle", what: "removed" }],
    [
      "POST",
      `/Items/${id}/RemoteSearch/Subtitles/7`,
      "itemFile",
      id,
      { file: "subtitle", what: "added" },
    ],
    [
      "POST",
      `/Audio/${id}/Lyrics?fileName=x.lrc`,
      "itemFile",
      id,
      { file: "lyrics", what: "added" },
    ],
    ["DELETE", `/Items/${dashed}`, "itemGone", id, { ids: [id] }],
    ["DELETE", `/Items?ids=${id},${other},${id}`, "itemGone", id, { ids: [id, other] }],
    ["POST", "/Library/Media/Updated", "libraryNews", "", {}],
    ["POST", "/Library/Series/Added?tvdbId=1", "libraryNews", "", {}],
    ["POST", "/Library/VirtualFolders?name=Films", "virtualFolder", "", {}],
    ["DELETE", "/Library/VirtualFolders/Paths?name=a&path=b", "virtualFolder", "", {}],
  ])("%s %s is one of %s", (method, target, kind, itemId, facts) => {
    expect(draft(method, target)).toMatchObject({ kind, itemId, facts });
  });

  test.each([
    ["POST", `/Items/${id}/Refresh`],
    ["GET", `/Playlists/${id}/Items`],
    ["POST", "/Playlists/none/Items?ids=x"],
    ["DELETE", "/Items?ids=none"],
    ["POST", `/Items/${id}/Images/..%2f..`],
    ["POST", "/Items/RemoteSearch/Movie"],
  ])("%s %s is none", (method, target) => {
    expect(draft(method, target)).toBeUndefined();
  });

  test("keeps no credential of the query, and the rest as it was", () => {
    const { request } =
      draft("POST", `/Playlists/${id}/Items?ids=${other}&ApiKey=x&position=2`) ?? {};
    expect(request).toMatchObject({
      path: `/Playlists/${id}/Items`,
      query: `ids=${other}&position=2`,
    });
  });

  test("names the owner that the body names, and of a share not the one it is for", () => {
    const made = draft("POST", "/Playlists", JSON.stringify({ Name: "Mix", UserId: other }));
    expect(made?.userId).toBe(other);
    expect(draft("POST", `/Playlists/${id}/Users/${other}`)?.userId).toBe(user);
  });

  test("tells the id of what was made, and nothing of an answer that is none", () => {
    const told = draft("POST", "/Collections?name=Best")?.told;
    expect(told?.(`{"Id":"${dashed}"}`)).toEqual({ id });
    expect(told?.("Error")).toBeUndefined();
  });

  test("leaves a body out that is too long for the journal", () => {
    const long = JSON.stringify({ Name: "x".repeat(300_000) });
    expect(draft("POST", `/Items/${id}`, long)?.request).toMatchObject({
      body: "",
      bodyTooBig: true,
    });
  });
});

test("lists, items and libraries that pass no gate are written at the leader, and each of it is drafted", () => {
  const kinds: readonly string[] = ["playlist", "collection", "metadata", "library"];
  const written = routes.filter((route) => isWrittenAtLeader(route) && kinds.includes(route.kind));
  expect(written.length).toBeGreaterThan(25);
  expect(written.filter((route) => changeReader(route) === undefined)).toEqual([]);
  expect(written.some(({ pattern }) => pattern === "/Items/{itemId}/Refresh")).toBe(false);
  expect(written.some(({ pattern }) => pattern.startsWith("/Library/VirtualFolders"))).toBe(false);
});

test.each([
  ["an item's", `/Items/${id}/Images/Backdrop`],
  ["a profile's", `/UserImage?userId=${user}`],
  ["the login page's", "/Branding/Splashscreen"],
])("%s picture of 180 KiB is kept, and a larger one left out", (_whose, target) => {
  const pictureOf = (size: number) => Buffer.alloc(size, "x").toString("base64");
  const most = draft("POST", target, pictureOf(180 * 1024), "image/png");
  expect(most?.request).toMatchObject({ contentType: "image/png", body: pictureOf(180 * 1024) });
  const more = draft("POST", target, pictureOf(180 * 1024 + 1), "image/png");
  expect(more?.request).toMatchObject({ body: "", bodyTooBig: true });
});
