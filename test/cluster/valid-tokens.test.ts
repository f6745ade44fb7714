// One server's opinion of a token is not the cluster's: whoever is logged in stays so whatever a single
// server says, wherever the token came from, and whichever server dies.

import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { quantile } from "../support/history.ts";
import {
  doorSees,
  doorUses,
  type Household,
  startHousehold,
  statusOfToken,
  tokenAt,
  withKey,
} from "../support/household.ts";
import { makeMedia } from "../support/media.ts";
import { until, Viewer } from "../support/viewer.ts";

let home: Household;
let door: DoorProcess;
let ofTheDayBefore: Viewer;

beforeAll(async () => {
  const media = await makeMedia();
  home = await startHousehold({
    mediaDir: media.folder,
    people: [{ name: "ann" }, { name: "ben" }, { name: "one", policy: { MaxActiveSessions: 1 } }],
    beforeCloning: async (a) => {
      ofTheDayBefore = await Viewer.enter(a.url, { name: "ann" });
    },
  });
  door = await startDoor({ replicas: [home.a, home.b], apiKey: home.a.apiKey });
});

beforeEach(async () => {
  for (const server of [home.a, home.b]) {
    if (!server.running) await server.launch();
    await server.ready();
    await server.control("clear");
  }
  await doorUses(door, 2);
});

afterAll(async () => {
  await door.stop();
  await home.stop();
});

/** A viewer whom both servers know. */
async function enter(name: string): Promise<Viewer> {
  const viewer = await Viewer.enter(door.url, { name });
  await viewer.knownAt([home.a, home.b]);
  return viewer;
}

/** The statuses of a viewer's requests of several kinds, each twice. */
async function statuses(viewer: Viewer): Promise<number[]> {
  const paths = ["/Users/Me", "/Items?recursive=true", "/Sessions"];
  const asked = [...paths, ...paths].map(async (path) => (await viewer.call("GET", path)).status);
  return Promise.all(asked);
}

const allWell = [200, 200, 200, 200, 200, 200];

test("a server that refuses one good token logs nobody out", async () => {
  const viewer = await enter("ann");
  const [server] = await viewer.homeAmong(home);
  await server.control("refuse-token", { token: await tokenAt(server, viewer) });
  expect(await statuses(viewer)).toEqual(allWell);
  const progress = { ItemId: await viewer.item(), PositionTicks: 1 };
  const report = await viewer.call("POST", "/Sessions/Playing/Progress", { body: progress });
  expect(report.status).toBe(204);
});

test("a server that refuses every token logs nobody out, also when the other one dies and returns", async () => {
  const viewer = await enter("ann");
  const [server, other] = await viewer.homeAmong(home);
  await server.control("refuse-all");
  expect(await statuses(viewer)).toEqual(allWell);
  await server.control("clear");
  await other.kill9();
  expect(await statuses(viewer)).toEqual(allWell);
});

test("a token that a server has lost is replaced there, and the client never knows", async () => {
  const viewer = await enter("ben");
  const [server, other] = await viewer.homeAmong(home);
  const lost = await tokenAt(server, viewer);
  // Behind the cluster's back, as an administrator at the server's own address would.
  await withKey(server, "DELETE", `/Devices?id=${viewer.deviceId}`);
  expect(await statusOfToken(server.url, lost)).toBe(401);
  expect(await statuses(viewer)).toEqual(allWell);
  await until(5000, "a new token", async () => {
    const { tokens } = await server.state();
    return tokens.some(({ deviceId }) => deviceId === viewer.deviceId);
  });
  await other.kill9();
  expect(await statuses(viewer)).toEqual(allWell);
});

test("a wrong password is counted once at each server", async () => {
  const counts = async () => {
    const states = await Promise.all([home.a.state(), home.b.state()]);
    return states.map(
      ({ users }) => users.find(({ name }) => name === "ben")?.invalidLogins ?? Number.NaN,
    );
  };
  const before = await counts();
  for (const wrong of [1, 2]) {
    const reply = await fetch(`${door.url}/Users/AuthenticateByName`, {
      method: "POST",
      headers: {
        authorization: `MediaBrowser Client="T", Device="T", DeviceId="wrong", Version="1"`,
        "content-type": "application/json",
      },
      body: JSON.stringify({ Username: "ben", Pw: "not his" }),
    });
    await reply.arrayBuffer();
    expect(reply.status).toBe(401);
    // The one that was asked knows at once; the other is told.
    const since = (await counts()).map((count, index) => count - (before[index] ?? 0));
    expect(Math.max(...since)).toBe(wrong);
  }
  await until(8000, "the other server to have counted as many", async () =>
    (await counts()).every((count, index) => count === (before[index] ?? 0) + 2),
  );
});

test("a scanner's garbage tokens are refused as fast as by one server", async () => {
  const medianOf = async (url: string) => {
    const delays: number[] = [];
    for (let tries = 0; tries < 40; tries += 1) {
      const startedMs = performance.now();
      expect(await statusOfToken(url, randomBytes(16).toString("hex"))).toBe(401);
      delays.push(performance.now() - startedMs);
    }
    return quantile(delays, 0.5);
  };
  const direct = await medianOf(home.a.url);
  expect(await medianOf(door.url)).toBeLessThanOrEqual(3 * direct + 20);
  // Also with a server that answers nothing: nobody holds a scanner's request for it.
  home.b.freeze();
  try {
    await doorSees(door, 1);
    expect(await medianOf(door.url)).toBeLessThanOrEqual(3 * direct + 20);
  } finally {
    home.b.thaw();
  }
});

test("a token made at one server's own address is taken up, and outlives that server", async () => {
  for (const server of [home.a, home.b]) {
    const maker = await Viewer.enter(server.url, { name: "ben" });
    const viewer = maker.at(door.url);
    expect(await statuses(viewer)).toEqual(allWell);
    await viewer.knownAt([home.a, home.b]);
    await server.kill9();
    expect(await statuses(viewer)).toEqual(allWell);
    await server.restart();
    await server.ready();
    await doorUses(door, 2);
  }
});

test("a token from the day the servers were copied is good at both, and outlives either", async () => {
  const viewer = ofTheDayBefore.at(door.url);
  expect(await statuses(viewer)).toEqual(allWell);
  for (const server of [home.a, home.b]) {
    await server.kill9();
    expect(await statuses(viewer)).toEqual(allWell);
    await server.restart();
    await server.ready();
    await doorUses(door, 2);
  }
});

test("an API key that only one server has works, outlives that server, and ends when it is deleted", async () => {
  await withKey(home.a, "POST", "/Auth/Keys?app=sonarr");
  const { Items } = (await (await withKey(home.a, "GET", "/Auth/Keys")).json()) as {
    Items: { AppName: string; AccessToken: string }[];
  };
  const key = Items.find(({ AppName }) => AppName === "sonarr")?.AccessToken ?? "";
  const client = { url: door.url, apiKey: key };
  expect((await withKey(client, "GET", "/Items?recursive=true")).status).toBe(200);
  await home.a.kill9();
  expect((await withKey(client, "GET", "/Items?recursive=true")).status).toBe(200);
  // As older apps send it.
  const older = await fetch(`${door.url}/Items?recursive=true&api_key=${key}`);
  expect(older.status).toBe(200);
  await home.a.restart();
  await home.a.ready();
  await doorUses(door, 2);
  await withKey({ url: door.url, apiKey: home.a.apiKey }, "DELETE", `/Auth/Keys/${key}`);
  expect(await statusOfToken(door.url, key)).toBe(401);
  await home.b.kill9();
  expect(await statusOfToken(door.url, key)).toBe(401);
});

test("one who may have one session only goes on through a kill, and a second device is refused as by one server", async () => {
  const viewer = await enter("one");
  const [server] = await viewer.homeAmong(home);
  expect(await statuses(viewer)).toEqual(allWell);
  await expect(Viewer.enter(door.url, { name: "one" })).rejects.toThrow(/answered 40[13]/);
  await server.kill9();
  expect(await statuses(viewer)).toEqual(allWell);
  await server.restart();
  await server.ready();
  await doorUses(door, 2);
  const [next] = await viewer.homeAmong(home);
  await next.kill9();
  expect(await statuses(viewer)).toEqual(allWell);
});

test("getting a token leaves no session behind, on any server", async () => {
  const viewer = await enter("ben");
  const [server, other] = await viewer.homeAmong(home);
  await until(5000, "no ghost", async () => {
    const { sessions } = await other.state();
    return !sessions.some((session) => session.DeviceId === viewer.deviceId);
  });
  const { sessions } = await server.state();
  expect(sessions.filter((session) => session.DeviceId === viewer.deviceId).length).toBe(1);
  const shown = (await viewer.call("GET", "/Sessions")).json() as { DeviceId: string }[];
  expect(shown.filter(({ DeviceId }) => DeviceId === viewer.deviceId).length).toBe(1);
  expect(shown.some(({ DeviceId }) => /jellybloom/i.test(DeviceId))).toBe(false);
});

test("tokens never reach the log", async () => {
  const viewer = await enter("ann");
  await fetch(viewer.directPlay(await viewer.item())).then((reply) => reply.arrayBuffer());
  const tokens = (await Promise.all([home.a.state(), home.b.state()])).flatMap(
    (state) => state.tokens,
  );
  await until(2000, "the request in the log", () => door.log().includes("/stream?"));
  const log = door.log();
  for (const { token } of tokens) expect(log.includes(token)).toBe(false);
  expect(log.includes(home.a.apiKey)).toBe(false);
});
