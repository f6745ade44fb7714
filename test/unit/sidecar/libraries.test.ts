// What an answer of GET /Library/VirtualFolders says of each library, and which of them may be told anything.

import { expect, test } from "vitest";
import { librariesIn } from "../../../sidecar/library/libraries.ts";

const id = "af87525677534c8af23739c31aa4b187";

test("a library has its id, its folders and its options", () => {
  const answer = [
    {
      Name: "Films",
      ItemId: id.toUpperCase(),
      CollectionType: "movies",
      Locations: ["/films", "", 7],
      LibraryOptions: { EnableRealtimeMonitor: true, Other: 1 },
    },
  ];
  expect(librariesIn(answer)).toEqual([
    {
      ...{ id, name: "Films", type: "movies", locations: ["/films"], isWatched: true },
      options: { EnableRealtimeMonitor: true, Other: 1 },
    },
  ]);
});

test.each([
  ["no id", { LibraryOptions: {} }],
  ["an id that is none", { ItemId: "7", LibraryOptions: {} }],
  ["no options: what is left out would become a default", { ItemId: id }],
  ["options that are none", { ItemId: id, LibraryOptions: "all" }],
])("one with %s is still being made, and nothing may be set there", (_, fields) => {
  expect(librariesIn([{ Name: "New", ...fields }])?.map((one) => [one.id, one.isWatched])).toEqual([
    ["", false],
  ]);
});
