// The web client's players in a real headless Chromium: hls.js and a plain <video>, through the door, while
// the server they play from is killed. The page comes through the door as well, so that nothing but the
// door is ever asked by the browser.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BrowserContext, chromium, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { startPair } from "../support/jellyfin/start.ts";
import { LONG_NAME, makeMediaWithLongFilm } from "../support/long-film.ts";
import { until, Viewer } from "../support/viewer.ts";

/** What the page counts while it plays; the names are those of the page's script below. */
interface Watched {
  readonly errors: readonly string[];
  readonly frames: number;
  readonly seconds: number;
  readonly lastFrameSeconds: number;
  /** The longest time between two pictures since the first one, in ms. */
  readonly stillMs: number;
  readonly ended: boolean;
}

const HLS_SCRIPT = createRequire(import.meta.url).resolve("hls.js/dist/hls.min.js");

const WATCH = `
  window.watched = { errors: [], frames: 0, lastFrameSeconds: 0, stillMs: 0 };
  const video = document.createElement("video");
  video.muted = true;
  video.playbackRate = 1;
  document.body.append(video);
  let lastMs;
  const onFrame = (nowMs, about) => {
    if (lastMs !== undefined) watched.stillMs = Math.max(watched.stillMs, nowMs - lastMs);
    lastMs = nowMs;
    watched.frames += 1;
    watched.lastFrameSeconds = about.mediaTime;
    video.requestVideoFrameCallback(onFrame);
  };
  video.requestVideoFrameCallback(onFrame);
  video.addEventListener("error", () => watched.errors.push("video: " + video.error?.message));
`;

let pair: Awaited<ReturnType<typeof startPair>>;
let door: DoorProcess;
let context: BrowserContext;
let profile: string;
let mediaDir: string;
let data: string;

beforeAll(async () => {
  mediaDir = await makeMediaWithLongFilm();
  pair = await startPair({ mediaDir });
  data = mkdtempSync(join(tmpdir(), "jellybloom-data-"));
  door = await startDoor({ replicas: [pair.a, pair.b], apiKey: pair.a.apiKey, data });
  profile = mkdtempSync(join(tmpdir(), "jellybloom-chromium-"));
  context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: [
      ...["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
      ...["--disable-background-networking", "--disable-component-update", "--disable-sync"],
      "--autoplay-policy=no-user-gesture-required",
    ],
  });
});

afterAll(async () => {
  await context.close();
  await door.stop();
  await pair.stop();
  for (const folder of [profile, mediaDir, data]) rmSync(folder, { recursive: true, force: true });
});

afterEach(async () => {
  for (const page of context.pages()) await page.close();
});

/** A page of the web client with a video in it that is watched closely. */
async function openPage(): Promise<Page> {
  const page = await context.newPage();
  await page.goto(`${door.url}/web/index.html`);
  await page.evaluate(WATCH);
  return page;
}

function look(page: Page): Promise<Watched> {
  return page.evaluate(`(() => {
    const video = document.querySelector("video");
    return { ...watched, seconds: video.currentTime, ended: video.ended };
  })()`);
}

async function playHls(page: Page, playlist: string): Promise<void> {
  await page.addScriptTag({ content: readFileSync(HLS_SCRIPT, "utf8") });
  await page.evaluate(`(() => {
    const video = document.querySelector("video");
    // A short buffer, so that what is played is always fresh from the server.
    const hls = new Hls({ maxBufferLength: 4, maxMaxBufferLength: 6, backBufferLength: 10 });
    window.hls = hls;
    hls.on(Hls.Events.ERROR, (_, data) => {
      watched.errors.push([data.fatal ? "fatal" : "not fatal", data.details,
        data.response?.code ?? "", data.error?.message ?? ""].join(" "));
    });
    hls.loadSource(${JSON.stringify(playlist)});
    hls.attachMedia(video);
    return video.play();
  })()`);
}

async function reaches(page: Page, seconds: number): Promise<void> {
  await until(30_000, `the picture at ${seconds} s`, async () => {
    return (await look(page)).lastFrameSeconds >= seconds;
  });
}

/** Kills the viewer's server while it owes the player a segment, and has it back. */
async function killHomeInMidSegment(viewer: Viewer): Promise<void> {
  const [home] = await viewer.homeAmong(pair);
  const segments = { path: "/hls1/main/\\d" };
  const before = (await home.requests(segments)).length;
  await home.control("slow", { ...segments, firstByteMs: 2000 });
  await until(10_000, "a segment asked for", async () => {
    return (await home.requests(segments)).length > before;
  });
  await killHome(viewer);
}

/** Kills the viewer's server, and has it back. */
async function killHome(viewer: Viewer): Promise<void> {
  const [home] = await viewer.homeAmong(pair);
  await home.kill9();
  await home.restart();
  await home.ready();
}

async function enter(): Promise<Viewer> {
  const viewer = await Viewer.enter(door.url, { client: "Jellyfin Web" });
  await viewer.knownAt([pair.a, pair.b]);
  return viewer;
}

describe("in Chromium", () => {
  test.each(["ts", "mp4"] as const)(
    "hls.js with %s segments plays through the death of its server without an error",
    async (container) => {
      const viewer = await enter();
      const play = await viewer.playHls(await viewer.item(), container);
      const page = await openPage();
      await playHls(page, play.playlist);
      await reaches(page, 2);
      const killedAt = await look(page);
      await killHomeInMidSegment(viewer);
      // Well beyond what was in its buffer when the server died.
      await reaches(page, killedAt.seconds + 11);
      const seen = await look(page);
      // Before it, hls.js may jump over the tenth of a second by which the sound begins earlier.
      expect(killedAt.errors.filter((error) => !error.includes("bufferSeekOverHole"))).toEqual([]);
      expect(seen.errors.slice(killedAt.errors.length)).toEqual([]);
      expect(seen.frames).toBeGreaterThan(killedAt.frames + 24 * 5);
      expect(seen.stillMs).toBeLessThan(2000);
    },
  );

  test("a direct play in <video> goes on through the death of its server without an error", async () => {
    // A browser that had fetched the whole film before the kill shows nothing: then another one is watched.
    for (let films = 1; ; films += 1) {
      const viewer = await enter();
      const itemId = await viewer.item(LONG_NAME);
      const page = await openPage();
      const [, other] = await viewer.homeAmong(pair);
      const earlier = (await other.requests({ path: `/Videos/${itemId}/stream` })).length;
      await page.evaluate(`(() => {
        const video = document.querySelector("video");
        video.src = ${JSON.stringify(viewer.directPlay(itemId))};
        video.playbackRate = 6;
        return video.play();
      })()`);
      await reaches(page, 2);
      await killHome(viewer);
      await reaches(page, 60);
      const seen = await look(page);
      expect(seen.errors).toEqual([]);
      expect(seen.stillMs).toBeLessThan(2000);
      const asked = await other.requests({ path: `/Videos/${itemId}/stream` });
      const later = asked.slice(earlier);
      if (later.some(({ range }) => range !== undefined && range !== "bytes=0-")) return;
      expect(films, "the dead server's film was whole each time").toBeLessThan(3);
    }
  });
  test.each(["terminate", "kill9"] as const)(
    "hls.js plays on through a %s and a new start of the door itself",
    async (how) => {
      const viewer = await enter();
      const play = await viewer.playHls(await viewer.item(), "ts");
      const page = await openPage();
      await playHls(page, play.playlist);
      await reaches(page, 1);
      const before = await look(page);
      await door[how]();
      await door.launch();
      await reaches(page, before.seconds + 9);
      const seen = await look(page);
      // It may have had to ask again, which no viewer sees.
      expect(seen.errors.filter((error) => error.startsWith("fatal"))).toEqual([]);
      expect(seen.frames).toBeGreaterThan(before.frames + 24 * 4);
    },
  );
});
