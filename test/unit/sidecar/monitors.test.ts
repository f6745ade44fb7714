// Who is to watch which library: the decision of sidecar/library/monitors.ts, what the door shows of it, and which paths
// are told to the others.

import { describe, expect, test } from "vitest";
import { monitorsIn, monitorValue } from "../../../core/cluster/monitors.ts";
import { createSeal } from "../../../core/service/seal.ts";
import { withWanted } from "../../../proxy/attendants/monitors.ts";
import { pathsToTell } from "../../../sidecar/library/fan-out.ts";
import type { ServerLibrary } from "../../../sidecar/library/libraries.ts";
import { type MonitorMode, planMonitors, watchedByAny } from "../../../sidecar/library/monitors.ts";

const idOf = (name: string): string => name.repeat(32).slice(0, 32);
const library = (name: string, isWatched: boolean): ServerLibrary => ({
  ...{ id: idOf(name), name, type: "movies", locations: [`/media/${name}`], isWatched },
  options: { EnableRealtimeMonitor: isWatched },
});

/** `"a+ b-"`: library a is watched, b is not; `undefined`: the server could not be asked. */
const libraries = (text: string | undefined): readonly ServerLibrary[] | undefined =>
  text
    ?.split(" ")
    .filter((word) => word !== "")
    .map((word) => library(word.charAt(0), word.endsWith("+")));

const wantedIn = (text: string): ReadonlyMap<string, boolean> =>
  new Map((libraries(text) ?? []).map(({ id, isWatched }) => [id, isWatched]));

/** `"x:a+"`: at server x, library a is turned on. */
function planned(
  servers: Readonly<Record<string, string | undefined>>,
  wanted: string,
  mode: MonitorMode = "one",
) {
  const plan = planMonitors({
    ...{ mode, leader: "x", wanted: wantedIn(wanted) },
    servers: new Map(Object.entries(servers).map(([name, text]) => [name, libraries(text)])),
  });
  return {
    learn: plan.learn.map((id) => id.charAt(0)).join(" "),
    changes: plan.changes
      .map(({ replica, library: { name }, isOn }) => `${replica}:${name}${isOn ? "+" : "-"}`)
      .join(" "),
    forget: plan.forget.map((id) => id.charAt(0)).join(" "),
  };
}

describe("who is to watch (x leads)", () => {
  test.each([
    // What it tells, the servers, what the store says, what is learnt, what is changed.
    ["all watch, nothing is known", { x: "a+", y: "a+", z: "a+" }, "", "a", "y:a- z:a-"],
    ["another one alone watched", { x: "a-", y: "a+" }, "", "a", "x:a+ y:a-"],
    ["nobody watches, nobody said so", { x: "a-", y: "a-" }, "", "", ""],
    ["all is as it should be", { x: "a+ b-", y: "a- b-" }, "a+ b-", "", ""],
    ["x leads since y died and came back", { x: "a-", y: "a+" }, "a+", "", "x:a+ y:a-"],
    ["the owner wants none", { x: "a+", y: "a+" }, "a-", "", "x:a- y:a-"],
    ["each library for itself", { x: "a+ b-", y: "a- b+" }, "a+", "b", "x:b+ y:b-"],
    ["a server cannot be asked", { x: "a-", y: undefined, z: "a+" }, "a+", "", "x:a+ z:a-"],
    ["the leader's cannot be asked", { x: undefined, y: "a+", z: "a-" }, "a+", "", ""],
    ["the leader's has not got the library", { x: "b+", y: "a+ b-" }, "a+ b+", "", ""],
    [
      "none wanted, though the leader's cannot be asked",
      { x: undefined, y: "a+" },
      "a-",
      "",
      "y:a-",
    ],
    [
      "the leader's own comes first",
      { y: "a+ b+", x: "a- b-" },
      "a+ b+",
      "",
      "x:a+ x:b+ y:a- y:b-",
    ],
  ])("%s", (_what, servers, wanted, learn, changes) => {
    expect(planned(servers, wanted)).toMatchObject({ learn, changes });
  });

  test("with `all` nothing is learnt or turned off, and what was turned off is turned on again", () => {
    expect(planned({ x: "a+", y: "a-" }, "", "all")).toEqual({
      learn: "",
      changes: "",
      forget: "",
    });
    const back = { learn: "", changes: "y:a+", forget: "a b" };
    expect(planned({ x: "a+ b-", y: "a- b+" }, "a+ b-", "all")).toEqual(back);
    expect(planned({ x: "a+", y: undefined }, "a+", "all").forget).toBe("");
  });

  test("a library that no server has any more is forgotten, once all were asked", () => {
    expect(planned({ x: "a+", y: "a-" }, "a+ b+").forget).toBe("b");
    expect(planned({ x: "a+", y: undefined }, "a+ b+").forget).toBe("");
  });

  test("without the store, what any server watches is watched", () => {
    const watched = watchedByAny([libraries("a- b-"), undefined, libraries("a+ b-")]);
    expect([...watched]).toEqual([[idOf("a"), true]]);
  });
});

test("a note that was written without the cluster's key says nothing", () => {
  const [seal, other] = [
    createSeal("a key of some length"),
    createSeal("another key of some length"),
  ];
  const note = (id: string, value: string) => ({
    ...({ kind: "monitor", id, replica: "", value, expiresAtMs: 0 } as const),
  });
  const [a, b, c, d] = ["a", "b", "c", "d"].map(idOf) as [string, string, string, string];
  const notes = [
    note(a, monitorValue(seal, a, true)),
    note(b, monitorValue(seal, b, false)),
    note(c, monitorValue(other, c, false)),
    // Another library's.
    note(d, monitorValue(seal, b, false)),
  ];
  expect([...monitorsIn(notes, seal)]).toEqual([
    [a, true],
    [b, false],
  ]);
});

describe("what the door shows", () => {
  const wanted = wantedIn("a+ b-");
  const folder = (name: string, isOn: boolean) => ({
    ...{ Name: name, ItemId: idOf(name) },
    LibraryOptions: { EnablePhotos: true, EnableRealtimeMonitor: isOn },
  });

  test("is what is wanted, whatever the server that answers does", () => {
    const answered = [folder("a", false), folder("b", true), folder("c", true)];
    const shown = [folder("a", true), folder("b", false), folder("c", true)];
    expect(withWanted(answered, wanted)).toEqual(shown);
  });

  test("is found in camel case and in dashed ids, too", () => {
    const itemId = idOf("a")
      .replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-")
      .toUpperCase();
    const answered = [{ itemId, libraryOptions: { enableRealtimeMonitor: false } }];
    expect(withWanted(answered, wanted)).toEqual([
      { itemId, libraryOptions: { enableRealtimeMonitor: true } },
    ]);
  });

  test("is the answer as it came where it says so already, or makes no sense", () => {
    const strange = [null, 3, {}, { ItemId: idOf("a") }, { ItemId: idOf("a"), LibraryOptions: {} }];
    for (const list of [[folder("a", true)], strange, {}, undefined, "x"]) {
      expect(withWanted(list, wanted)).toBe(undefined);
    }
    expect(withWanted([folder("a", false)], new Map())).toBe(undefined);
  });
});

describe("what is told to the others", () => {
  const folders = ["/media/films", "/media/tv/"];
  const many = Array.from({ length: 4 }, (_, index) => `/media/films/${index}.mkv`);

  test.each([
    [
      "paths, once each",
      ["/media/films/1.mkv", "/media/films/1.mkv"],
      false,
      ["/media/films/1.mkv"],
    ],
    ["the folder itself", ["/media/films"], false, ["/media/films"]],
    ["nothing outside of the folders", ["/media/filmsets/1.mkv", "/data/playlists/x"], false, []],
    ["many as the folders they lie in", many, false, ["/media/films"]],
    ["every folder where not all are known", many, true, folders],
  ])("%s", (_what, paths, isAll, told) => {
    expect(pathsToTell(paths, folders, isAll, 3)).toEqual(told);
  });
});
