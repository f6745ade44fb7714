// Plays that change hands: their server is killed, frozen, drained, or cannot encode. No viewer notices, no two
// servers encode one play, and a server that comes back from a freeze lets go of what is no longer its own.

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { runCli } from "../support/cli.ts";
import { CLUSTER_KEY, type DoorProcess, startDoor } from "../support/door.ts";
import { FfmpegWatch, runningFfmpegs } from "../support/ffmpegs.ts";
import { doorSees } from "../support/household.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { EPISODE_NAMES, FILM_NAME, makeMedia } from "../support/media.ts";
import { until, Viewer } from "../support/viewer.ts";

const TICKS = 10_000_000;

let pair: Awaited<ReturnType<typeof startPair>>;
let door: DoorProcess;

beforeAll(async () => {
  const media = await makeMedia();
  pair = await startPair({ mediaDir: media.folder });
  door = await startDoor({
    replicas: [pair.a, pair.b],
    apiKey: pair.a.apiKey,
    args: ["--cluster-key", CLUSTER_KEY],
  });
});

afterEach(async () => {
  for (const server of [pair.a, pair.b]) {
    if (!server.running) await server.restart();
    server.thaw();
    await server.ready();
    await server.control("clear");
    await server.control("encoder", { fails: false });
    // What a failed test left behind is not the next one's.
    for (const pid of runningFfmpegs(server)) process.kill(pid, "SIGKILL");
  }
  await doorSees(door, 2, 8000);
});

afterAll(async () => {
  await door.stop();
  await pair.stop();
});

/** Somebody who plays a film in pieces, as a player does: playlists first, then one segment after another. */
class Watcher {
  readonly viewer: Viewer;
  readonly itemId: string;
  readonly playSessionId: string;
  readonly segments: readonly string[];

  private constructor(viewer: Viewer, itemId: string, play: string, segments: readonly string[]) {
    this.viewer = viewer;
    this.itemId = itemId;
    this.playSessionId = play;
    this.segments = segments;
  }

  static async begin(viewer: Viewer, name = FILM_NAME): Promise<Watcher> {
    const itemId = await viewer.item(name);
    const { playlist, playSessionId } = await viewer.playHls(itemId, "ts");
    const master = await (await fetch(playlist)).text();
    const main = new URL(linesOf(master)[0] ?? "", playlist).toString();
    const list = await (await fetch(main)).text();
    const segments = linesOf(list).map((line) => new URL(line, main).toString());
    return new Watcher(viewer, itemId, playSessionId, segments);
  }

  /** The replica that delivered it, and why there. */
  async segment(number: number): Promise<{ status: number; explain: string; bytes: number }> {
    const reply = await fetch(this.segments[number] ?? "");
    const bytes = (await reply.arrayBuffer()).byteLength;
    const explain = reply.headers.get("x-jellybloom-explain") ?? "";
    return { status: reply.status, explain, bytes };
  }

  /** Begins at the beginning, whatever was watched of it before. */
  async forget(servers: readonly StandIn[]): Promise<void> {
    await this.viewer.call("DELETE", `/UserPlayedItems/${this.itemId}`);
    for (const server of servers) {
      await until(5000, "nothing of it was watched", async () => {
        return (await positionAt(server, this.viewer, this.itemId)) === 0;
      });
    }
  }

  async report(what: "" | "/Progress" | "/Stopped", seconds: number): Promise<number> {
    const body = {
      ItemId: this.itemId,
      MediaSourceId: this.itemId,
      PlaySessionId: this.playSessionId,
      PositionTicks: seconds * TICKS,
      PlayMethod: "Transcode",
    };
    return (await this.viewer.call("POST", `/Sessions/Playing${what}`, { body })).status;
  }
}

function linesOf(playlist: string): string[] {
  return playlist.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
}

async function newViewer(name = "root"): Promise<Viewer> {
  const viewer = await Viewer.enter(door.url, { name });
  await viewer.knownAt([pair.a, pair.b]);
  return viewer;
}

async function positionAt(server: StandIn, viewer: Viewer, itemId: string): Promise<number> {
  const reply = await fetch(
    `${server.url}/UserItems/${itemId}/UserData?userId=${viewer.userId}&ApiKey=${server.apiKey}`,
  );
  return ((await reply.json()) as { PlaybackPositionTicks: number }).PlaybackPositionTicks / TICKS;
}

/** What a server shows of a device's playing. */
async function playsAt(server: StandIn, deviceId: string): Promise<number> {
  const { sessions } = await server.state();
  return sessions.filter((one) => one.DeviceId === deviceId && one.NowPlayingItem !== undefined)
    .length;
}

test("a play goes on within 3 s of its server's death, from the segment that is asked for, with one ffmpeg", async () => {
  const viewer = await newViewer();
  const [home, other] = await viewer.homeAmong(pair);
  const watcher = await Watcher.begin(viewer);
  await watcher.report("", 0);
  for (const number of [0, 1]) expect((await watcher.segment(number)).status).toBe(200);
  const ffmpegs = new FfmpegWatch([home, other]);
  await home.kill9();
  const killedMs = performance.now();
  const next = await watcher.segment(2);
  const tookMs = performance.now() - killedMs;
  for (const number of [3, 4, 5]) expect((await watcher.segment(number)).status).toBe(200);
  await ffmpegs.stop();
  expect(next.status).toBe(200);
  expect(next.bytes).toBeGreaterThan(1000);
  expect(next.explain.startsWith(other.name)).toBe(true);
  expect(tookMs).toBeLessThan(3000);
  expect(ffmpegs.most).toBe(1);
  const sentence = `play ${watcher.playSessionId} goes on at ${other.name} from segment 2`;
  await until(8000, "a sentence in the log", () => door.log().includes(sentence));
});

test("a frozen server that thaws lets go of the play: no ffmpeg, no session, no old position", async () => {
  const viewer = await newViewer("kid");
  const [home, other] = await viewer.homeAmong(pair);
  const watcher = await Watcher.begin(viewer);
  await watcher.forget([home, other]);
  await watcher.report("", 0);
  expect((await watcher.segment(0)).status).toBe(200);
  expect(await watcher.report("/Progress", 10)).toBe(204);
  expect(await playsAt(home, viewer.deviceId)).toBe(1);

  home.freeze();
  // Asked of the frozen server first, and carried out there when it thaws.
  const during = await Promise.all([watcher.segment(2), watcher.report("/Progress", 20)]);
  expect([during[0].status, during[1]]).toEqual([200, 204]);
  await until(5000, "the home has moved", async () => (await viewer.home()) === other.name);
  expect((await watcher.segment(3)).status).toBe(200);
  expect(await watcher.report("/Progress", 40)).toBe(204);

  const ffmpegs = new FfmpegWatch([home, other]);
  home.thaw();
  await home.ready();
  const thawedMs = performance.now();
  for (const number of [4, 5, 6]) expect((await watcher.segment(number)).status).toBe(200);
  await until(8000, "the thawed server encodes nothing", () => runningFfmpegs(home).length === 0);
  await until(8000, "the thawed server shows nothing", async () => {
    return (await playsAt(home, viewer.deviceId)) === 0;
  });
  // What it had been sent while it was frozen has been carried out by now.
  await sleep(Math.max(0, 3500 - (performance.now() - thawedMs)));
  await ffmpegs.stop();
  expect(ffmpegs.doubledMs).toBeLessThan(2000);
  expect(runningFfmpegs(home)).toEqual([]);
  expect(await playsAt(home, viewer.deviceId)).toBe(0);
  expect(await playsAt(other, viewer.deviceId)).toBe(1);
  expect(await positionAt(other, viewer, watcher.itemId)).toBe(40);
  expect(await positionAt(home, viewer, watcher.itemId)).toBeLessThan(40);
  const stops = await home.requests({ method: "POST", path: "/Sessions/Playing/Stopped" });
  expect(stops.length).toBeGreaterThan(0);
  await watcher.report("/Stopped", 41);
});

test("a play that leaves a draining server is never encoded twice at one time", async () => {
  const viewer = await newViewer();
  const [home, other] = await viewer.homeAmong(pair);
  const watcher = await Watcher.begin(viewer);
  expect((await watcher.segment(0)).status).toBe(200);
  expect(runningFfmpegs(home).length).toBe(1);
  const ffmpegs = new FfmpegWatch([home, other]);
  const at = [home.name, "--admin", door.admin, "--cluster-key", CLUSTER_KEY];
  const drained = runCli(["drain", ...at]);
  try {
    let number = 1;
    await until(10_000, "the play has moved", async () => {
      const { status, explain } = await watcher.segment(number++);
      expect(status).toBe(200);
      return explain.startsWith(other.name);
    });
    await drained;
    await ffmpegs.stop();
    expect(ffmpegs.most).toBe(1);
  } finally {
    await drained;
    await runCli(["undrain", ...at]);
  }
});

test("a home that cannot encode: the viewer sees no error, and the play is bound to another", async () => {
  const viewer = await newViewer();
  const [home, other] = await viewer.homeAmong(pair);
  await home.control("encoder", { fails: true });
  await home.control("forget-requests");
  const watcher = await Watcher.begin(viewer);
  const first = await watcher.segment(0);
  expect([first.status, first.explain.split(";")[0]]).toEqual([200, other.name]);
  for (const number of [1, 2, 3]) {
    const { status, explain } = await watcher.segment(number);
    expect([status, explain]).toEqual([200, `${other.name}; pinned there: play`]);
  }
  // It was asked once, and its failure is not asked for again.
  expect((await home.requests({ path: "/hls1/" })).length).toBe(1);
  // Reports go on to the home, where the user's data is.
  expect(await watcher.report("/Progress", 12)).toBe(204);
  expect(await positionAt(home, viewer, watcher.itemId)).toBe(12);
  // At the end nothing of it goes on encoding.
  await watcher.report("/Stopped", 13);
  await until(8000, "nobody encodes", () => runningFfmpegs(other).length === 0);
});

test("when two films have failed there, the next one is not even tried there", async () => {
  const viewer = await newViewer();
  const [home, other] = await viewer.homeAmong(pair);
  await home.control("encoder", { fails: true });
  for (const name of [FILM_NAME, EPISODE_NAMES[0]]) {
    const watcher = await Watcher.begin(viewer, name);
    expect((await watcher.segment(0)).status).toBe(200);
  }
  await home.control("forget-requests");
  const watcher = await Watcher.begin(viewer, EPISODE_NAMES[1]);
  const { status, explain } = await watcher.segment(0);
  expect([status, explain]).toEqual([200, `${other.name}; pinned there: play`]);
  expect((await home.requests({ path: "/hls1/" })).length).toBe(0);
});

test("what no server can encode is shown as the error it is", async () => {
  const viewer = await newViewer();
  for (const server of [pair.a, pair.b]) await server.control("encoder", { fails: true });
  const watcher = await Watcher.begin(viewer);
  expect((await watcher.segment(0)).status).toBe(500);
});
