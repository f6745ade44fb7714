// ffmpeg as a player of HLS while the servers behind the door die under it. ffmpeg skips a segment it
// cannot get and says so only in its log, so that every frame of the film is counted and its time looked at.

import { describe, expect, test } from "vitest";
import { pairBehindDoor } from "../support/front.ts";
import { FILM_FRAMES_PER_SECOND, FILM_SECONDS } from "../support/media.ts";
import { ffmpegPlays, longestGap, type Played } from "../support/players.ts";
import { Viewer } from "../support/viewer.ts";

const FRAMES = FILM_SECONDS * FILM_FRAMES_PER_SECOND;
/** Film seconds per second: slow enough that a kill falls into the film, fast enough for a test. */
const SPEED = 8;

const { pair, door } = await pairBehindDoor();

/** A viewer known on both servers, and a play of the film. */
async function viewerPlaying(container: "ts" | "mp4") {
  const viewer = await Viewer.enter(door.url);
  await viewer.knownAt([pair.a, pair.b]);
  return { viewer, play: await viewer.playHls(await viewer.item(), container) };
}

/** Every frame from the first to the last that was played, of as many as there should be at least. */
function expectNoneMissing(played: Played, framesMin: number): void {
  expect(played.log).not.toMatch(/skip|Failed to open|failed too many|error|expired/i);
  expect(played.exitCode).toBe(0);
  expect(played.skipped).toBe(0);
  expect(played.frames.length).toBeGreaterThanOrEqual(framesMin);
  // A sound that begins 21 ms before the picture shifts an encode from the film's start by half a frame
  // against one that was started later, also on a single server: two frames may share a time or be two
  // apart. A skipped segment would be a step of three seconds.
  const backwards = played.frames.filter(
    ({ seconds }, index) => seconds < (played.frames[index - 1]?.seconds ?? -1),
  );
  expect(backwards).toEqual([]);
  expect(longestGap(played.frames)).toBeLessThan(2.5 / FILM_FRAMES_PER_SECOND);
}

describe.each(["ts", "mp4"] as const)("ffmpeg playing HLS in %s", (container) => {
  test("gets every frame in order while its server is killed, twice", async () => {
    const { viewer, play } = await viewerPlaying(container);
    const kills: Promise<void>[] = [];
    const killHome = async () => {
      const [home] = await viewer.homeAmong(pair);
      await home.kill9();
      await home.restart();
      await home.ready();
    };
    const played = await ffmpegPlays(play.playlist, {
      speed: SPEED,
      limitMs: 60_000,
      onFrame(count) {
        if (count === 400 || count === 1100) kills.push(killHome());
      },
    });
    await Promise.all(kills);
    expect(kills.length).toBe(2);
    expectNoneMissing(played, FRAMES);
    expect(played.frames.length).toBe(FRAMES);
  });

  test("gets a segment whole whose server broke off in the middle of it", async () => {
    const { viewer, play } = await viewerPlaying(container);
    const [home] = await viewer.homeAmong(pair);
    await home.control("reset", { path: "/hls1/main/(3|4|9)\\.", afterBytes: 20_000, times: 2 });
    const played = await ffmpegPlays(play.playlist, { speed: SPEED, seconds: 40, limitMs: 60_000 });
    await home.control("clear");
    const broken = await home.requests({ path: `/hls1/main/3\\..*${play.playSessionId}` });
    expect(broken.length).toBeGreaterThan(0);
    expectNoneMissing(played, 29 * FILM_FRAMES_PER_SECOND);
  });
});

describe("a segment", () => {
  test("that was half read when its server died is not told apart from any other", async () => {
    const { viewer, play } = await viewerPlaying("ts");
    const [home, other] = await viewer.homeAmong(pair);
    const base = play.playlist.replace(/master\.m3u8.*/, "");
    const query = new URL(play.playlist).search;
    const address = (number: number) =>
      `${base}hls1/main/${number}.ts${query}&runtimeTicks=${number * 30_000_000}&actualSegmentLengthTicks=30000000`;
    // It will not have sent any of it when it dies; the test above breaks off in the middle.
    await home.control("slow", { path: "/hls1/main/6", firstByteMs: 700, times: 1 });
    const asked = fetch(address(6));
    // Its failure is the test's, but only when it is waited for below.
    asked.catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 300));
    await home.kill9();
    const reply = await asked;
    const whole = Buffer.from(await reply.arrayBuffer());
    expect(reply.status).toBe(200);
    expect(whole.length).toBe(Number(reply.headers.get("content-length")));
    expect(reply.headers.get("x-jellybloom-explain")).toMatch(new RegExp(`^${other.name};`));
    // The same bytes again after the one who made them is gone, too.
    await home.restart();
    await home.ready();
    await viewer.knownAt([home]);
    await other.kill9();
    const part = await fetch(address(6), { headers: { range: "bytes=1000-2999" } });
    expect(part.status).toBe(206);
    expect(part.headers.get("content-range")).toBe(`bytes 1000-2999/${whole.length}`);
    expect(Buffer.from(await part.arrayBuffer()).equals(whole.subarray(1000, 3000))).toBe(true);
    await other.restart();
    await other.ready();
  });
});
