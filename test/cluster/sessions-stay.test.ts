// The sessions of a server that died stay in the list for a minute, because the devices are on their way to
// another; whoever has not come anywhere by then has gone.

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { crowdNames } from "../support/crowd.ts";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { doorSees, type Household, startHousehold } from "../support/household.ts";
import { makeMedia } from "../support/media.ts";
import { until, Viewer } from "../support/viewer.ts";

/** What the list promises, less what it takes here to see that a server is dead. */
const stayMs = 60_000;
const toleranceMs = 3000;

let pair: Household;
let door: DoorProcess;

beforeAll(async () => {
  const media = await makeMedia();
  pair = await startHousehold({ mediaDir: media.folder, people: crowdNames(8) });
  door = await startDoor({ replicas: [pair.a, pair.b], apiKey: pair.a.apiKey });
  await doorSees(door, 2);
});

afterAll(async () => {
  await door.stop();
  await pair.stop();
});

test("a device whose server died is listed once for 60 s, though it comes to no other, and then no more", async () => {
  const root = await Viewer.enter(door.url);
  const rootsHome = await root.home();
  let gone: Viewer | undefined;
  for (const { name } of crowdNames(8)) {
    const viewer = await Viewer.enter(door.url, { name });
    if ((await viewer.home()) === rootsHome) continue;
    gone = viewer;
    break;
  }
  if (gone === undefined) throw new Error("everybody lives at one server");
  const { deviceId } = gone;
  const times = async (): Promise<number> => {
    const reply = await root.call("GET", "/Sessions");
    expect(reply.status).toBe(200);
    const list = reply.json() as { DeviceId: string }[];
    return list.filter((session) => session.DeviceId === deviceId).length;
  };
  await until(8000, "the device in the list", async () => (await times()) === 1);
  // Its server's own sidecar has looked once more: what nobody has written down is lost with the server.
  await sleep(5000);
  await (rootsHome === "a" ? pair.b : pair.a).kill9();
  const killedMs = performance.now();
  while (performance.now() - killedMs < stayMs - toleranceMs) {
    expect(await times(), `${Math.round(performance.now() - killedMs)} ms after`).toBe(1);
    await sleep(1000);
  }
  const leftMs = stayMs + toleranceMs - (performance.now() - killedMs);
  await until(leftMs, "the end of it", async () => (await times()) === 0);
});
