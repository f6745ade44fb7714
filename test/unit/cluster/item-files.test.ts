// Which subtitle of one server is that of another, as a table: by its name, else by what it says of itself, and never a
// guess among several.

import { describe, expect, test } from "vitest";
import {
  type IndexedItemFile,
  type ItemFile,
  lyricFilesOf,
  readItemFile,
  sameFileIn,
  subtitleFilesOf,
} from "../../../core/cluster/item-files.ts";

const file = (name: string, more: Partial<ItemFile> = {}): ItemFile => ({
  ...{ name, isBesideMedia: false, language: "eng", codec: "subrip", title: "" },
  ...{ isForced: false, isHearingImpaired: false, ...more },
});

describe("the same file", () => {
  const en = file("One.en.srt");
  const second = file("One.en.0.srt");
  const german = file("One.de.srt", { language: "ger" });
  const forced = file("One.en.forced.srt", { isForced: true });
  const beside = file("One.en.srt", { isBesideMedia: true });

  test.each<[string, readonly ItemFile[], ItemFile, string | undefined]>([
    ["has its name", [german, second, en], en, "One.en.srt"],
    ["may have another number in its name", [german, second, forced], en, "One.en.0.srt"],
    ["is no guess among several", [second, file("One.en.1.srt")], en, undefined],
    ["has its language", [german], en, undefined],
    ["has its flags", [forced], en, undefined],
    ["has its title", [file("One.x.srt", { title: "Director" })], en, undefined],
    ["has its format", [file("One.en.ass", { codec: "ass" })], en, undefined],
    ["lies where it lay", [beside], en, undefined],
    ["is none of none", [], en, undefined],
  ])("%s", (_told, there, wanted, name) => {
    const files: IndexedItemFile[] = there.map((one, index) => ({ ...one, index }));
    expect(sameFileIn(files, wanted)?.name).toBe(name);
  });
});

describe("the files of an item", () => {
  const external = { Type: "Subtitle", IsExternal: true, Language: "eng", Codec: "subrip" };
  const of = (Path: unknown, ...MediaStreams: unknown[]) => subtitleFilesOf({ Path, MediaStreams });

  test("are the external subtitles, with where they lie and what they say", () => {
    const own = { ...external, Index: 3, Path: "/config/metadata/One.en.sdh.srt" };
    const found = of(
      "/films/One/One.mkv",
      { Type: "Video", Index: 0 },
      { Type: "Subtitle", IsExternal: false, Index: 1 },
      { ...external, Index: 2, Path: "/films/One/One.en.srt", IsForced: true, Title: "T" },
      { ...own, IsHearingImpaired: true },
      { ...external, Path: "/films/One/without an index.srt" },
    );
    expect(found).toEqual([
      { ...file("One.en.srt", { isBesideMedia: true, isForced: true, title: "T" }), index: 2 },
      { ...file("One.en.sdh.srt", { isHearingImpaired: true }), index: 3 },
    ]);
  });

  test("of a disc lie in its folder", () => {
    const [found] = of("/films/One", { ...external, Index: 2, Path: "/films/One/One.en.srt" });
    expect(found?.isBesideMedia).toBe(true);
  });

  test("are known on Windows, too", () => {
    const path = "C:\\films\\One\\One.en.srt";
    const [found] = of("C:\\films\\One\\One.mkv", { ...external, Index: 2, Path: path });
    expect(found).toMatchObject({ name: "One.en.srt", isBesideMedia: true });
  });

  test("are lyrics, too, which a server does not call external", () => {
    const MediaStreams = [
      { Type: "Lyric", Index: 1, IsExternal: false, Path: "/music/a.lrc" },
      { Type: "Lyric", Index: 2, IsExternal: false, Path: "/config/a.lrc" },
      { Type: "Audio", Index: 0 },
    ];
    const found = lyricFilesOf({ Path: "/music/a.flac", MediaStreams });
    expect(found).toEqual([{ isBesideMedia: true }, { isBesideMedia: false }]);
  });
});

test("what the journal says of a file is read back, and nothing else is taken for one", () => {
  const said = file("One.en.srt", { isForced: true });
  expect(readItemFile(JSON.parse(JSON.stringify(said)))).toEqual(said);
  for (const strange of [undefined, null, 3, [], {}, { ...said, name: "" }, { name: "x" }]) {
    expect(readItemFile(strange)).toBeUndefined();
  }
});
