// A cluster key that was lost: the same store under another key, with a real door. Nothing crashes, who is logged in
// goes on, and the log says whom it concerns.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { until, Viewer } from "../support/viewer.ts";
import { emptyFolder } from "./sidecar-cluster.ts";

const media = emptyFolder();
let data: string;
let a: StandIn;
let b: StandIn;
let stopPair: () => Promise<void>;
const doors: DoorProcess[] = [];

beforeEach(async () => {
  data = mkdtempSync(join(tmpdir(), "jellybloom-lost-key-"));
  ({ a, b, stop: stopPair } = await startPair({ mediaDir: media.path }));
});

afterEach(async () => {
  for (const door of doors.splice(0)) await door.stop();
  await stopPair();
  rmSync(data, { recursive: true, force: true });
});

afterAll(() => media.remove());

async function open(clusterKey: string, folder = data): Promise<DoorProcess> {
  const args = ["--cluster-key", clusterKey];
  const door = await startDoor({ replicas: [a, b], apiKey: a.apiKey, data: folder, args });
  doors.push(door);
  return door;
}

test("under another key nobody is logged out, and the log names who cannot be moved yet", async () => {
  const first = await open("the-first-key-of-this-cluster");
  const viewer = await Viewer.enter(first.url);
  await viewer.knownAt([a, b]);
  const [home] = await viewer.homeAmong({ a, b });
  await first.terminate();

  const second = await open("another-key-of-this-cluster");
  const sentence =
    /1 login is sealed with another cluster key: root on Test \([ab]\)\. Each goes on at the server in brackets/;
  await until(15_000, "the log says so", () => sentence.test(second.log()));
  expect((await viewer.at(second.url).call("GET", "/Users/Me")).status).toBe(200);
  expect(second.log()).not.toContain(viewer.token);
  await second.terminate();

  // Store and key lost: each login is known again by its server's word, and is carried on as ever. Its server is the
  // last that the door gets to see.
  await home.control("slow", { path: "/health", firstByteMs: 500 });
  const third = await open("another-key-of-this-cluster", join(data, "empty"));
  const again = viewer.at(third.url);
  expect((await again.call("GET", "/Users/Me")).status).toBe(200);
  await home.control("clear", {});
  await again.knownAt([a, b]);
  await home.kill9();
  await until(15_000, "the viewer goes on", async () => {
    return (await again.call("GET", "/Users/Me")).status === 200;
  });
}, 60_000);
