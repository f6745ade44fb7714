/** How a list is brought to what it should be, tried against a list that behaves as Jellyfin's does. */
import { describe, expect, test } from "vitest";
import type { ListDeed } from "../../../core/jellyfin/changes-library.ts";
import { isFolderDone, pictureSteps } from "../../../sidecar/journal/library.ts";
import {
  collectionSteps,
  type ListStep,
  mergedList,
  playlistSteps,
} from "../../../sidecar/journal/list-steps.ts";
import { readListState } from "../../../sidecar/journal/lists.ts";

/** Removing takes out every entry of an item; a collection holds each item once. */
function carriedOut(own: string, steps: readonly ListStep[], once = false): string {
  let list = [...own];
  for (const { do: what, ids } of steps) {
    if (what === "remove") list = list.filter((id) => !ids.includes(id));
    else list.push(...ids.filter((id) => !once || !list.includes(id)));
  }
  return list.join("");
}

function words(letters: string, longest: number): string[] {
  let all = [""];
  let last = [""];
  for (let length = 1; length <= longest; length++) {
    last = last.flatMap((word) => [...letters].map((letter) => word + letter));
    all = [...all, ...last];
  }
  return all;
}

describe("a playlist", () => {
  test.each([
    ["", "ab", "+ab"],
    ["ab", "ab", ""],
    ["ab", "abb", "+b"],
    ["abc", "ac", "-b"],
    ["abc", "bca", "-abc +bca"],
    ["abc", "abd", "-c +d"],
    ["aab", "ab", "-ab +ab"],
  ])("from %j to %j takes %j", (own, wanted, expected) => {
    const steps = playlistSteps([...own], [...wanted]);
    const told = steps.map((step) => `${step.do === "append" ? "+" : "-"}${step.ids.join("")}`);
    expect(told.join(" ")).toBe(expected);
  });

  test("ends with what it should hold, from every list to every other", () => {
    const all = words("abc", 4);
    for (const own of all) {
      for (const wanted of all) {
        expect(carriedOut(own, playlistSteps([...own], [...wanted]))).toBe(wanted);
      }
    }
  });
});

test("a collection ends with the items it should hold, whatever it held", () => {
  const sets = words("abcd", 3).filter((word) => new Set(word).size === word.length);
  for (const own of sets) {
    for (const wanted of sets) {
      const steps = collectionSteps([...own], [...wanted]);
      const ends = [...carriedOut(own, steps, true)].sort().join("");
      expect(ends).toBe([...wanted].sort().join(""));
    }
  }
});

describe("a list that two writers changed, one after the other", () => {
  const merged = (own: string, theirs: string, what: ListDeed, ids = "") =>
    mergedList([...own], [...theirs], { what, ids: [...ids] }).join("");
  test.each([
    [
      "what the other appended comes after what was appended here",
      "axy",
      "ab",
      "appended",
      "b",
      "axyb",
    ],
    ["what is here already counts once", "axb", "ab", "appended", "b", "axb"],
    ["the same item twice is twice", "ax", "aa", "appended", "a", "axa"],
    ["what the other took out goes", "abx", "a", "removed", "b", "ax"],
    ["what the other made is filled up", "x", "ab", "created", "", "xab"],
    ["a list that was set is set", "axy", "ba", "updated", "", "ba"],
    ["an order is taken over where the entries are the same", "abc", "cab", "moved", "", "cab"],
    ["an order of other entries is not", "abx", "cab", "moved", "", "abx"],
    ["nothing is done to equal lists", "ab", "ab", "shared", "", "ab"],
  ] as const)("%s", (_name, own, theirs, what, ids, expected) => {
    expect(merged(own, theirs, what, ids)).toBe(expected);
  });
});

describe("pictures", () => {
  test.each([
    { own: [], wanted: [5], remove: 0, bring: [0] },
    { own: [5], wanted: [5], remove: 0, bring: [] },
    { own: [5], wanted: [5, 7], remove: 0, bring: [1] },
    { own: [5, 7], wanted: [5], remove: 1, bring: [] },
    { own: [5, 7], wanted: [7, 5], remove: 2, bring: [0, 1] },
    { own: [5, 7, 9], wanted: [5, 9], remove: 2, bring: [1] },
  ])("of sizes $own become $wanted", ({ own, wanted, remove, bring }) => {
    expect(pictureSteps(own, wanted)).toEqual({ remove, bring });
  });
});

describe("libraries", () => {
  const libraries = [{ name: "Films", locations: ["/media/films"] }];
  const base = "/Library/VirtualFolders";
  const ask = (method: "POST" | "DELETE", path: string, query: string, body = "") => ({
    ...{ method, path, query, body },
  });
  test.each([
    ["a new one is to be made", ask("POST", base, "name=Shows"), false],
    ["one that is there would become another", ask("POST", base, "name=Films"), true],
    ["one that is there is to be removed", ask("DELETE", base, "name=Films"), false],
    ["one that is gone is gone", ask("DELETE", base, "name=Shows"), true],
    ["one is to be renamed", ask("POST", `${base}/Name`, "name=Films&newName=Movies"), false],
    ["one has its new name", ask("POST", `${base}/Name`, "name=Old&newName=Films"), true],
    [
      "a folder is there",
      ask("POST", `${base}/Paths`, "", '{"Name":"Films","PathInfo":{"Path":"/media/films"}}'),
      true,
    ],
    ["a folder is new", ask("POST", `${base}/Paths`, "", '{"Name":"Films","Path":"/x"}'), false],
    ["a folder is to go", ask("DELETE", `${base}/Paths`, "name=Films&path=/media/films"), false],
    ["a folder is gone", ask("DELETE", `${base}/Paths`, "name=Films&path=/x"), true],
    ["an update is repeated", ask("POST", `${base}/Paths/Update`, "", "{}"), false],
  ])("%s", (_name, request, expected) => {
    expect(isFolderDone(request, libraries)).toBe(expected);
  });
});

test("what makes no sense in an effect is no list", () => {
  const id = "0123456789abcdef0123456789abcdef";
  const state = { list: "playlist", name: "Mix", items: [id] };
  expect(readListState(state)).toEqual(state);
  for (const bad of [
    undefined,
    [],
    { ...state, list: "other" },
    { ...state, name: "" },
    { ...state, items: "all" },
    { ...state, items: [id, "../../Users"] },
  ]) {
    expect(readListState(bad)).toBeUndefined();
  }
});
