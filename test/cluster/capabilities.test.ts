// What a device can do is known wherever it lands, also through a door that was not there when it said so.

import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { type DoorProcess, type Part, startDoor, startSidecar } from "../support/door.ts";
import { bothThere } from "../support/front.ts";
import { doorUses, withKey } from "../support/household.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { until, Viewer } from "../support/viewer.ts";

let pair: Awaited<ReturnType<typeof startPair>>;
let redis: RedisServer;
let sidecars: Part[] = [];
let door: DoorProcess;

beforeAll(async () => {
  const media = await makeMedia();
  pair = await startPair({ mediaDir: media.folder });
  redis = await startRedis();
  const replicas = [pair.a, pair.b];
  sidecars = await Promise.all(
    replicas.map((replica) => startSidecar({ replica, redis: redis.url })),
  );
  door = await startDoor({ replicas, command: "proxy", redis: redis.url });
});

beforeEach(() => bothThere(pair, door));

afterAll(async () => {
  await door.stop();
  await Promise.all(sidecars.map((sidecar) => sidecar.stop()));
  await redis.stop();
  await pair.stop();
});

/** What a server itself, asked without any door, believes that this device can do. */
async function commandsAt(server: StandIn, deviceId: string): Promise<readonly string[]> {
  const sessions = (await (await withKey(server, "GET", "/Sessions")).json()) as {
    DeviceId: string;
    SupportedCommands: string[];
  }[];
  return sessions.find((session) => session.DeviceId === deviceId)?.SupportedCommands ?? [];
}

/** A device that has said what it can do, and whose door has ended since. */
async function heardBefore(): Promise<[Viewer, StandIn, StandIn]> {
  const viewer = await Viewer.enter(door.url, { name: "kid" });
  await viewer.knownAt([pair.a, pair.b]);
  const body = { SupportsMediaControl: true, SupportedCommands: ["DisplayMessage"] };
  expect((await viewer.call("POST", "/Sessions/Capabilities/Full", { body })).status).toBe(204);
  const [home, other] = await viewer.homeAmong(pair);
  expect(await commandsAt(home, viewer.deviceId)).toEqual(["DisplayMessage"]);
  expect(await commandsAt(other, viewer.deviceId)).toEqual([]);
  await door.kill9();
  return [viewer, home, other];
}

test("a door that was started since tells a device's next server what it can do when its server dies", async () => {
  const [viewer, home, other] = await heardBefore();
  await door.launch();
  await doorUses(door, 2);
  const socket = await viewer.socket();
  await home.kill9();
  await until(6000, "its commands at the other server", async () =>
    (await commandsAt(other, viewer.deviceId)).includes("DisplayMessage"),
  );
  socket.close();
});

test("a device whose server died while there was no door is known where it lands with its first socket", async () => {
  const [viewer, home, other] = await heardBefore();
  await home.kill9();
  await door.launch();
  const socket = await viewer.socket();
  await until(6000, "its commands at the other server", async () =>
    (await commandsAt(other, viewer.deviceId)).includes("DisplayMessage"),
  );
  socket.close();
});

test("what somebody else says of a device's session goes along with the device, and not with who said it", async () => {
  const kid = await Viewer.enter(door.url, { name: "kid" });
  const root = await Viewer.enter(door.url, { name: "root" });
  for (const viewer of [kid, root]) await viewer.knownAt([pair.a, pair.b]);
  const socket = await kid.socket();
  let id = "";
  await until(8000, "the kid's session in the list", async () => {
    const list = (await root.call("GET", "/Sessions")).json() as { Id: string; DeviceId: string }[];
    id = list.find(({ DeviceId }) => DeviceId === kid.deviceId)?.Id ?? "";
    return id !== "";
  });
  const said = `/Sessions/Capabilities?id=${id}&supportedCommands=Mute&supportsMediaControl=true`;
  expect((await root.call("POST", said)).status).toBe(204);
  const [home, other] = await kid.homeAmong(pair);
  expect(await commandsAt(home, kid.deviceId)).toEqual(["Mute"]);
  await home.kill9();
  await until(6000, "its commands at the other server", async () =>
    (await commandsAt(other, kid.deviceId)).includes("Mute"),
  );
  expect(await commandsAt(other, root.deviceId)).toEqual([]);
  socket.close();
});
