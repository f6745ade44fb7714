// A server that falls behind with the films it encodes takes no new plays, and takes them again when it keeps up.

import { afterAll, beforeAll, expect, test } from "vitest";
import { conditionOf } from "../../core/cluster/condition.ts";
import { type StandIn, startStandIn } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { Viewer } from "../support/viewer.ts";
import { eventually, startCluster } from "./sidecar-cluster.ts";

/** The sidecar's time runs so much faster than the world's: what takes half a minute takes three seconds. */
const haste = 15;

let server: StandIn;

beforeAll(async () => {
  const media = await makeMedia();
  server = await startStandIn({ name: "a", mediaDir: media.folder });
}, 60_000);

afterAll(() => server.stop());

test("the cluster is told that a server encodes too slowly for who watches there, and that it does no longer", async () => {
  const clock = { monotonicMs: () => performance.now() * haste, wallMs: () => Date.now() };
  const cluster = await startCluster({ servers: { a: server }, clock });
  const word = () => conditionOf(cluster.memory.notes("replica"), "a").encodes;
  const viewer = await Viewer.enter(server.url);
  const item = await viewer.item();
  const play = await viewer.playHls(item, "ts");
  const list = await (await fetch(play.playlist)).text();
  const main = new URL(
    list.split("\n").find((line) => line.startsWith("main")) ?? "",
    play.playlist,
  );
  const segments = (await (await fetch(main)).text())
    .split("\n")
    .filter((line) => line && !line.startsWith("#"));
  expect((await fetch(new URL(segments[0] ?? "", main))).status).toBe(200);
  let isPlaying = true;
  const reports = (async () => {
    while (isPlaying) {
      const body = {
        ItemId: item,
        PlaySessionId: play.playSessionId,
        PositionTicks: 0,
        PlayMethod: "Transcode",
      };
      await viewer.call("POST", "/Sessions/Playing/Progress", { body });
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  })();
  try {
    // It stands still, a moment ahead of its viewer.
    await server.control("encoder", { percent: 0.1 });
    await eventually(() => (word() === "slow" ? true : undefined), 10_000);
    expect(cluster.lines.join("\n")).toContain("server a encodes slower than films run");
    isPlaying = false;
    await reports;
    const body = { ItemId: item, PlaySessionId: play.playSessionId, PositionTicks: 0 };
    await viewer.call("POST", "/Sessions/Playing/Stopped", { body });
    await eventually(() => (word() === "slow" ? undefined : true), 10_000);
    expect(cluster.lines.join("\n")).toContain("as fast as films run again");
  } finally {
    isPlaying = false;
    await reports;
    await cluster.stop();
  }
}, 60_000);
