// The first sight of an item: only one of the servers has scanned it yet, and the people who want it live on
// the other one. They find it, see its picture, play it every way, and their reports are taken.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { FILM_FRAMES_PER_SECOND, FILM_SECONDS, type Media, makeMedia } from "../support/media.ts";
import { ffmpegPlays, longestGap, rangeReader } from "../support/players.ts";
import { Viewer } from "../support/viewer.ts";

let media: Media;
let pair: Awaited<ReturnType<typeof startPair>>;
let door: DoorProcess;
let viewer: Viewer;
let home: StandIn;
let other: StandIn;
let itemId: string;

beforeAll(async () => {
  media = await makeMedia();
  pair = await startPair({ mediaDir: media.folder });
  door = await startDoor({ replicas: [pair.a, pair.b], apiKey: pair.a.apiKey });
  viewer = await Viewer.enter(door.url);
  await viewer.knownAt([pair.a, pair.b]);
  [home, other] = await viewer.homeAmong(pair);
  itemId = await viewer.item();
  await home.control("hide", { item: itemId });
});

afterAll(async () => {
  await door.stop();
  await pair.stop();
});

test("the item is found, though the home has not scanned it", async () => {
  const direct = await fetch(`${home.url}/Items/${itemId}`, {
    headers: { authorization: `MediaBrowser Token="${home.apiKey}"` },
  });
  expect(direct.status).toBe(404);
  const found = await viewer.call("GET", `/Items/${itemId}`);
  expect([found.status, found.json().Id]).toEqual([200, itemId]);
  const older = await viewer.call("GET", `/Users/${viewer.userId}/Items/${itemId}`);
  expect([older.status, older.json().Id]).toEqual([200, itemId]);
});

test("its picture is shown, to one who tells who he is and to one who does not", async () => {
  const path = `/Items/${itemId}/Images/Primary?tag=whatever`;
  const known = await viewer.call("GET", path);
  expect([known.status, known.headers.get("content-type")?.slice(0, 6)]).toEqual([200, "image/"]);
  const stranger = await fetch(door.url + path);
  expect(stranger.status).toBe(200);
});

test("it is played in pieces to its end", async () => {
  const play = await viewer.playHls(itemId, "ts");
  const played = await ffmpegPlays(play.playlist, { limitMs: 100_000 });
  expect(played.skipped).toBe(0);
  expect(played.frames.length).toBe(FILM_SECONDS * FILM_FRAMES_PER_SECOND);
  expect(longestGap(played.frames)).toBeLessThan(1.5 / FILM_FRAMES_PER_SECOND);
  expect((await other.ffmpegs()).started).toBeGreaterThan(0);
  expect((await home.ffmpegs()).started).toBe(0);
});

test("it is played directly and downloaded, whole", async () => {
  const expected = await sha256Of(media.film);
  const anonymous = await rangeReader(
    `${door.url}/Videos/${itemId}/stream?static=true&mediaSourceId=${itemId}`,
  );
  expect([anonymous.sha256, anonymous.responses]).toEqual([expected, 1]);
  const direct = await rangeReader(viewer.directPlay(itemId));
  expect([direct.sha256, direct.responses]).toEqual([expected, 1]);
  const download = await rangeReader(`${door.url}/Items/${itemId}/Download`, {
    headers: { authorization: viewer.authorization },
  });
  expect([download.sha256, download.responses]).toEqual([expected, 1]);
});

test("reports of its play are taken by the server that has it", async () => {
  const { playSessionId } = await viewer.playHls(itemId, "ts");
  const report = { ItemId: itemId, PlaySessionId: playSessionId, MediaSourceId: itemId };
  const progress = { ...report, PositionTicks: 200_000_000 };
  const statuses = [
    (await viewer.call("POST", "/Sessions/Playing", { body: report })).status,
    (await viewer.call("POST", "/Sessions/Playing/Progress", { body: progress })).status,
    (await viewer.call("POST", "/Sessions/Playing/Stopped", { body: progress })).status,
  ];
  expect(statuses).toEqual([204, 204, 204]);
  const item = await viewer.call("GET", `/Items/${itemId}`);
  expect(item.json().UserData.PlaybackPositionTicks).toBe(200_000_000);
  const favourite = await viewer.call("POST", `/UserFavoriteItems/${itemId}`);
  expect([favourite.status, favourite.json().IsFavorite]).toEqual([200, true]);
});

test("an item that no server has is not found, at once", async () => {
  const startedMs = performance.now();
  const missing = await viewer.call("GET", `/Items/${"ab".repeat(16)}`);
  expect(missing.status).toBe(404);
  expect(performance.now() - startedMs).toBeLessThan(1000);
});

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const part of createReadStream(path)) hash.update(part as Buffer);
  return hash.digest("hex");
}
