// The list of the whole cluster costs hardly more than one server's own: no second server is asked for it.

import { afterAll, beforeAll, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { doorSees } from "../support/household.ts";
import { type StandIn, startPair, startStandIn } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { until, Viewer } from "../support/viewer.ts";

const devices = 50;
const listsOfEach = 60;
/** What the door may add to a list of that many sessions. */
const costLimitMs = 5;

let pair: Awaited<ReturnType<typeof startPair>>;
let third: StandIn;
let door: DoorProcess;

beforeAll(async () => {
  const media = await makeMedia();
  pair = await startPair({ mediaDir: media.folder });
  third = await startStandIn({ mediaDir: media.folder, name: "c", cloneOf: pair.a });
  door = await startDoor({ replicas: [pair.a, pair.b, third], apiKey: pair.a.apiKey });
  await doorSees(door, 3);
});

afterAll(async () => {
  await door.stop();
  await Promise.all([pair.stop(), third.stop()]);
});

function medianOf(values: readonly number[]): number {
  return [...values].sort((one, other) => one - other)[Math.floor(values.length / 2)] ?? 0;
}

test(`a list with ${devices} sessions of another server takes at most ${costLimitMs} ms more than the home's own`, async () => {
  const root = await Viewer.enter(door.url, { name: "root" });
  const home = await root.home();
  const servers = [pair.a, pair.b, third];
  const own = servers.find(({ name }) => name === home);
  const other = servers.find(({ name }) => name !== home);
  if (own === undefined || other === undefined) throw new Error(`nobody is home: ${home}`);
  // Devices that play there: past the door, so that they are where they are for certain.
  const there: Viewer[] = [];
  for (let count = 0; count < devices; count++) {
    const viewer = await Viewer.enter(other.url, { name: "root" });
    const body = { ItemId: await viewer.item(), CanSeek: true };
    expect((await viewer.call("POST", "/Sessions/Playing", { body })).status).toBe(204);
    there.push(viewer);
  }
  const isWhole = async (asked: Viewer): Promise<boolean> => {
    const list = (await asked.call("GET", "/Sessions")).json() as { DeviceId: string }[];
    const ids = new Set(list.map(({ DeviceId }) => DeviceId));
    return there.every(({ deviceId }) => ids.has(deviceId));
  };
  await until(10_000, "every device in the cluster's list", () => isWhole(root));

  // Harder than asked: the home's own list is the shorter one.
  const direct = root.at(own.url);
  const took = { direct: [] as number[], door: [] as number[] };
  // By turns, so that whatever else the machine does falls on both.
  for (let round = 0; round < listsOfEach; round++) {
    for (const [asked, into] of [
      [direct, took.direct],
      [root, took.door],
    ] as const) {
      const startedMs = performance.now();
      expect((await asked.call("GET", "/Sessions")).status).toBe(200);
      into.push(performance.now() - startedMs);
    }
  }
  expect(medianOf(took.door) - medianOf(took.direct)).toBeLessThanOrEqual(costLimitMs);
});
