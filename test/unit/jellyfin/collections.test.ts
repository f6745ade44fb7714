/** Which collection a name has already, by what it is called and by the folder that it was made with. */
import { expect, test } from "vitest";
import { collectionNamed, firstNameIn, folderOfName } from "../../../core/jellyfin/collections.ts";

const one = "0".repeat(31).concat("1");
const two = "0".repeat(31).concat("2");

test.each([
  ["Marvel", "Marvel"],
  ["Alien: Romulus?", "Alien  Romulus "],
  ['AC/DC\\"<>|*', "AC DC      "],
  ["a\0b\u001fc\u0020d", "a b c d"],
])("the folder of %j is %j", (name, folder) => {
  expect(folderOfName(name)).toBe(folder);
});

test.each([
  ["/data/collections/Marvel [boxset]", "Marvel"],
  ["C:\\data\\collections\\Marvel [boxset]", "Marvel"],
  ["/media/Marvel [boxset]/Marvel", undefined],
  [undefined, undefined],
])("what is at %j was made as %j", (path, name) => {
  expect(firstNameIn(path)).toBe(name);
});

test.each([
  ["by its name", "MCU", one],
  ["by the name it was made with", "Marvel", one],
  ["by another name of the same folder", "Marvel?", undefined],
  ["by a name whose folder is that", "Alien: 3", two],
  ["and none that nobody has", "DC", undefined],
])("a collection is found %s", (_how, name, id) => {
  const items = [
    { Id: 3, Name: 4 },
    { Id: one, Name: "MCU", Path: "/c/Marvel [boxset]" },
    { Id: two, Name: "Alien", Path: "/c/Alien  3 [boxset]" },
  ];
  expect(collectionNamed(items, name)).toBe(id);
});

test("one that is called so goes before one that was", () => {
  const items = [
    { Id: one, Name: "MCU", Path: "/c/Marvel [boxset]" },
    { Id: two, Name: "Marvel", Path: "/c/Comics [boxset]" },
  ];
  expect(collectionNamed(items, "Marvel")).toBe(two);
  expect(collectionNamed([], "Marvel")).toBeUndefined();
});
