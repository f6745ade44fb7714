/** How a list is brought to what it should be, tried against a list that behaves as Jellyfin's does. */
import { describe, expect, test } from "vitest";
import { isFolderDone, pictureSteps } from "../../../sidecar/journal/library.ts";
import {
  collectionSteps,
  type ListStep,
  playlistSteps,
} from "../../../sidecar/journal/list-steps.ts";

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

test("a long playlist is looked through once", () => {
  const own = Array.from({ length: 10_000 }, (_, at) => `${at}`);
  const wanted = [...own, "7", "extra"];
  // Its end is another, and its seventh entry comes twice: what follows that goes and comes again.
  const steps = playlistSteps([...own, "extra", "7"], wanted);
  expect(steps.map(({ do: what, ids }) => [what, ids.length])).toEqual([
    ["remove", 9994],
    ["append", 9995],
  ]);
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
