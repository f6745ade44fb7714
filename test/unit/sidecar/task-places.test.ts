// Where subtitles and lyrics are put, and that they are not fetched for media that cannot be written to.

import { expect, test } from "vitest";
import { librariesIn } from "../../../sidecar/library/libraries.ts";
import { placesIn, unfitToWrite } from "../../../sidecar/tasks/places.ts";
import { handsOf, SimulatedServer } from "./tasks-world.ts";

const subtitles = "DownloadSubtitles";
const lyrics = "DownloadLyrics";
const film = (path: string, more: Record<string, unknown> = {}) => ({
  locations: [path],
  options: { SaveSubtitlesWithMedia: true, SaveLyricsWithMedia: false, ...more },
});

test("what no library keeps beside its media is each server's own", () => {
  const { ownFiles, written } = placesIn([film("/films"), film("/more")], async () => true);
  expect(ownFiles).toEqual([lyrics]);
  expect(written.get(subtitles)).toEqual(["/films", "/more"]);
});

test("a server without libraries, or whose answer is no list of them, changes nothing", async () => {
  for (const nonsense of [undefined, {}, [], "x", [1, null]]) {
    const places = placesIn(librariesIn(nonsense) ?? [], async () => false);
    expect(places.ownFiles).toEqual([]);
    expect(await unfitToWrite(subtitles, places)).toBeUndefined();
  }
});

test("a library without options is one that keeps files beside its media, as Jellyfin does", () => {
  const { ownFiles } = placesIn(
    librariesIn([{ Locations: ["/films", "", 7] }]) ?? [],
    async () => true,
  );
  expect(ownFiles).toEqual([]);
});

test("a folder that cannot be written to makes the task unfit; other tasks never ask", async () => {
  const asked: string[] = [];
  const places = placesIn([film("/films"), film("/fixed")], async (folder) => {
    asked.push(folder);
    return folder !== "/fixed";
  });
  expect(await unfitToWrite("RefreshLibrary", places)).toBeUndefined();
  expect(asked).toEqual([]);
  expect(await unfitToWrite(subtitles, places)).toContain('"/fixed"');
  expect(await unfitToWrite(lyrics, places)).toBeUndefined();
});

test("the hands refuse such a start for good, and the server never hears of it", async () => {
  const server = new SimulatedServer(() => 1000, [subtitles]);
  const libraries = placesIn([film("/fixed")], async () => false);
  const { hands } = handsOf(server, () => 1000, { libraries });
  const epoch = { number: 1, owner: "me" };
  expect((await hands.read(epoch))?.ownFiles).toEqual([lyrics]);
  const answer = await hands.start({ key: subtitles, dueAtMs: 1000, epoch });
  expect(answer).toMatchObject({ outcome: "unfit" });
  expect(server.starts).toEqual([]);
});
