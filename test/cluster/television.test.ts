// Television over two servers and one tuner that can do one stream: who watches goes on after a gap when the server
// that tunes is killed, the tuner is never asked for a second stream, and a recording outlives a change of leader.

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import type { ClusterStatus } from "../../proxy/status.ts";
import { runCli } from "../support/cli.ts";
import { CLUSTER_KEY, type DoorProcess } from "../support/door.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { startTelevision, type Television } from "../support/television.ts";
import type { Tuner } from "../support/tuner.ts";
import { until, Viewer } from "../support/viewer.ts";

let television: Television;
let pair: Television["pair"];
let door: DoorProcess;
let tuner: Tuner;

beforeAll(async () => {
  television = await startTelevision();
  ({ pair, door, tuner } = television);
});

afterEach(async () => {
  for (const server of [pair.a, pair.b]) {
    if (!server.running) await server.restart();
    await server.ready();
  }
  await until(8000, "both are ready for the door", async () => {
    const { replicas } = await status();
    return replicas.every(({ state }) => state === "ready");
  });
});

afterAll(() => television.stop());

async function status(): Promise<ClusterStatus> {
  const asked = ["status", "--json", "--admin", door.admin, "--cluster-key", CLUSTER_KEY];
  return JSON.parse((await runCli(asked)).out) as ClusterStatus;
}

async function newViewer(name: string): Promise<Viewer> {
  const viewer = await Viewer.enter(door.url, { name });
  await viewer.knownAt([pair.a, pair.b]);
  return viewer;
}

async function channelId(viewer: Viewer, name: string): Promise<string> {
  const { Items } = (await viewer.call("GET", "/LiveTv/Channels")).json() as {
    Items: { Id: string; Name: string }[];
  };
  const found = Items.find((one) => one.Name === name);
  if (found === undefined) throw new Error(`there is no channel ${name}`);
  return found.Id;
}

/** Somebody who watches a channel as a player does: the same list again and again, and what is new in it. */
class Watcher {
  readonly viewer: Viewer;
  readonly channel: string;
  readonly playSessionId: string;
  readonly liveStreamId: string;
  readonly #list: string;
  readonly #loaded = new Set<string>();
  /** The whole list as it was last, and every fault a player would have seen. */
  entries: string[] = [];
  readonly faults: string[] = [];

  private constructor(viewer: Viewer, channel: string, info: Record<string, unknown>) {
    const [source] = info.MediaSources as Record<string, string>[];
    this.viewer = viewer;
    this.channel = channel;
    this.playSessionId = String(info.PlaySessionId);
    this.liveStreamId = String(source?.LiveStreamId);
    this.#list = viewer.url + String(source?.TranscodingUrl);
  }

  static async begin(viewer: Viewer, name: string): Promise<Watcher> {
    const channel = await channelId(viewer, name);
    const body = { AutoOpenLiveStream: true, DeviceProfile: {} };
    const info = await viewer.call("POST", `/Items/${channel}/PlaybackInfo`, { body });
    if (info.status !== 200) throw new Error(`PlaybackInfo answered ${info.status}`);
    return new Watcher(viewer, channel, info.json());
  }

  /** Reads the list once and loads what is new in it; how many segments that were. */
  async poll(): Promise<number> {
    const reply = await fetch(this.#list);
    const text = await reply.text();
    if (reply.status !== 200) {
      this.faults.push(`the list was answered ${reply.status}`);
      return 0;
    }
    const lines = text.split("\n").filter((line) => line !== "");
    const uris = lines.filter((line) => !line.startsWith("#"));
    // A player compares what it knows by position: a list that only grows never changes what was there.
    this.entries.forEach((uri, index) => {
      if (uris[index] !== uri) this.faults.push(`entry ${index} was another before`);
    });
    this.entries = uris;
    let fresh = 0;
    for (const [index, line] of lines.entries()) {
      const isGap = lines[index - 1] === "#EXT-X-GAP";
      if (line.startsWith("#") || isGap || this.#loaded.has(line)) continue;
      this.#loaded.add(line);
      const segment = await fetch(new URL(line, this.#list));
      const bytes = (await segment.arrayBuffer()).byteLength;
      if (segment.status === 200 && bytes > 0) fresh += 1;
      else this.faults.push(`a segment was answered ${segment.status}`);
    }
    return fresh;
  }

  async watch(segments: number, limitMs: number): Promise<void> {
    let seen = 0;
    await until(limitMs, `${segments} segments of ${this.channel}`, async () => {
      seen += await this.poll();
      if (seen < segments) await sleep(250);
      return seen >= segments;
    });
  }

  async stop(): Promise<number> {
    const { playSessionId: PlaySessionId, liveStreamId: LiveStreamId } = this;
    const body = { ItemId: this.channel, PlaySessionId, LiveStreamId, PositionTicks: 0 };
    return (await this.viewer.call("POST", "/Sessions/Playing/Stopped", { body })).status;
  }
}

async function tuningServer(): Promise<StandIn> {
  for (const server of [pair.a, pair.b]) {
    if (server.running && (await server.state()).liveStreams.length > 0) return server;
  }
  throw new Error("nobody tunes");
}

test("two viewers of a channel share one tuner, go on after its server was killed, and let go of it at the end", async () => {
  const watchers = [
    await Watcher.begin(await newViewer("root"), "One"),
    await Watcher.begin(await newViewer("kid"), "One"),
  ];
  await Promise.all(watchers.map((watcher) => watcher.watch(1, 10_000)));
  const server = await tuningServer();
  expect((await server.state()).liveStreams).toMatchObject([{ consumers: 2 }]);
  // The other channel would need a second stream: refused by the one server that counts.
  const other = await Watcher.begin(watchers[1]?.viewer as Viewer, "Two").catch(String);
  expect(other).toContain("PlaybackInfo answered 500");

  await server.kill9();
  await Promise.all(watchers.map((watcher) => watcher.watch(2, 20_000)));
  const next = await tuningServer();
  expect(next.name).not.toBe(server.name);
  expect((await next.state()).liveStreams).toMatchObject([{ consumers: 2 }]);
  for (const { faults, entries } of watchers) {
    expect(faults).toEqual([]);
    expect(new Set(entries).size).toBe(entries.length);
  }
  expect(tuner.most).toBe(1);

  for (const watcher of watchers) expect(await watcher.stop()).toBe(204);
  await until(3000, "the tuner is free", () => tuner.open === 0);
});

test("a recording goes on in one file while the leader changes", async () => {
  const viewer = await newViewer("root");
  const ChannelId = await channelId(viewer, "Two");
  const now = Date.now();
  const StartDate = new Date(now + 500).toISOString();
  const EndDate = new Date(now + 9000).toISOString();
  const body = { ChannelId, Name: "News", StartDate, EndDate };
  expect((await viewer.call("POST", "/LiveTv/Timers", { body })).status).toBe(204);
  const timers = (await viewer.call("GET", "/LiveTv/Timers")).json().Items as { Name: string }[];
  expect(timers.map(({ Name }) => Name)).toEqual(["News"]);
  await until(4000, "it records", () => television.recordings().length === 1);
  const recorder = await tuningServer();

  const before = (await status()).leader;
  expect(before).not.toBeNull();
  const leader = [pair.a, pair.b].find(({ name }) => name === before?.replica) as StandIn;
  const admin = ["--admin", door.admin, "--cluster-key", CLUSTER_KEY];
  if (leader === recorder) await runCli(["drain", leader.name, ...admin]);
  else await leader.kill9();
  await until(15_000, "somebody else leads", async () => {
    const { leader: after } = await status();
    return after !== null && after.replica !== leader.name;
  });
  if (leader === recorder) await runCli(["undrain", leader.name, ...admin]);
  await until(15_000, "the recording has ended", () => tuner.open === 0);
  const files = television.recordings();
  expect(files).toEqual(["News.ts"]);
  expect(television.sizeOf("News.ts")).toBeGreaterThan(10_000);
  expect(tuner.most).toBe(1);
});
