// Watching together over a cluster: a group lives on one server, whoever joins it is moved there, and when
// that server dies they go on watching together on another, in the group whose id they know.

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { runCli } from "../support/cli.ts";
import {
  CLUSTER_KEY,
  type DoorProcess,
  type Part,
  startDoor,
  startSidecar,
} from "../support/door.ts";
import { doorSees, type Household, startHousehold } from "../support/household.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { until, Viewer } from "../support/viewer.ts";
import { Guest } from "../support/watch-party.ts";

const goOnLimitMs = 8000;
const second = 10_000_000;

let home: Household;
const guests: Guest[] = [];

beforeAll(async () => {
  const media = await makeMedia();
  home = await startHousehold({
    mediaDir: media.folder,
    people: [
      { name: "ann" },
      { name: "ben" },
      { name: "cleo" },
      { name: "dan", policy: { EnableAllFolders: false, EnabledFolders: [] } },
    ],
  });
});

afterEach(() => {
  for (const guest of guests.splice(0)) guest.leaveRoom();
});

afterAll(async () => {
  await home.stop();
});

/** People with their sockets open, one after another at these doors. */
async function arrive(urls: readonly string[], names: readonly string[]): Promise<Guest[]> {
  const arrived: Guest[] = [];
  for (const [index, name] of names.entries()) {
    const viewer = await Viewer.enter(urls[index % urls.length] ?? "", { name });
    await viewer.knownAt([home.a, home.b]);
    const guest = await Guest.arrive(viewer);
    arrived.push(guest);
    guests.push(guest);
  }
  return arrived;
}

async function whole(doors: readonly DoorProcess[]): Promise<void> {
  for (const server of [home.a, home.b]) {
    if (!server.running) await server.launch();
    await server.ready();
  }
  for (const door of doors) await doorSees(door, 2);
}

/** All of them in one group, playing. */
async function begin(party: readonly Guest[], startTicks = 0): Promise<string> {
  const [host, ...others] = party;
  if (host === undefined) throw new Error("a party needs a host");
  const group = await host.open("Film night");
  for (const guest of others) await guest.join(group);
  const film = await host.viewer.item();
  await host.ask("SetNewQueue", {
    PlayingQueue: [film, film],
    PlayingItemPosition: 1,
    StartPositionTicks: startTicks,
  });
  await until(5000, "all play", () => party.every(({ isPlaying }) => isPlaying));
  return group;
}

async function serverOf(guest: Guest): Promise<StandIn> {
  const [server] = await guest.viewer.homeAmong(home);
  return server;
}

/** Kills the server of a party that plays and waits until they play again; answers how long that took. */
async function killed(party: readonly Guest[], group: string): Promise<number> {
  const [host] = party;
  if (host === undefined) throw new Error("a party needs a host");
  const server = await serverOf(host);
  const heard = party.map((guest) => guest.heard.length);
  const killedMs = performance.now();
  await server.kill9();
  await until(goOnLimitMs, "all play again", () =>
    party.every(({ isPlaying, heard: all }, index) => {
      const since = all.slice(heard[index]);
      return isPlaying && since.includes("PlayQueue") && since.includes("Unpause");
    }),
  );
  const tookMs = performance.now() - killedMs;
  for (const guest of party) {
    expect(guest.group).toBe(group);
    expect(guest.isConnected).toBe(true);
    expect(await serverOf(guest)).not.toBe(server);
  }
  return tookMs;
}

function toldSince(party: readonly Guest[], from: readonly number[]): string[] {
  return party.flatMap((guest, index) => guest.heard.slice(from[index]));
}

describe("all in one", () => {
  let door: DoorProcess;

  beforeAll(async () => {
    const args = ["--cluster-key", CLUSTER_KEY, "--home-stay", "1s", "--return-after", "1s"];
    door = await startDoor({ replicas: [home.a, home.b], apiKey: home.a.apiKey, args });
  });

  beforeEach(() => whole([door]));

  afterAll(() => door.stop());

  test("three people from two servers watch together, whoever made the group, and each sees it in the list", async () => {
    const party = await arrive([door.url], ["ann", "ben", "cleo"]);
    const group = await begin(party);
    const homes = await Promise.all(party.map(serverOf));
    expect(new Set(homes).size).toBe(1);
    const outsider = await Viewer.enter(door.url, { name: "root" });
    const list = (await outsider.call("GET", "/SyncPlay/List")).json();
    expect(list).toMatchObject([{ GroupId: group, GroupName: "Film night", State: "Playing" }]);
    expect(list[0].Participants.sort()).toEqual(["ann", "ben", "cleo"]);
    const one = (await outsider.call("GET", `/SyncPlay/${group}`)).json();
    expect(one).toMatchObject({ GroupId: group });
    await party[1]?.ask("Pause");
    await until(2000, "all pause", () => party.every(({ isPlaying }) => !isPlaying));
    await party[2]?.ask("Unpause");
    await until(2000, "all play", () => party.every(({ isPlaying }) => isPlaying));
    expect(party.flatMap(({ failures }) => failures)).toEqual([]);
  });

  test("their server is killed: all three are in one group and playing again within 8 s, at the same item and place", async () => {
    const party = await arrive([door.url], ["ann", "ben", "cleo"]);
    const group = await begin(party, 20 * second);
    const item = party[0]?.itemId;
    const from = party.map(({ heard }) => heard.length);
    const tookMs = await killed(party, group);
    for (const guest of party) {
      expect(guest.itemId).toBe(item);
      expect(guest.queue?.PlayingItemIndex).toBe(1);
      expect(guest.positionTicks).toBeGreaterThanOrEqual(20 * second);
      expect(guest.positionTicks).toBeLessThan(20 * second + (tookMs / 1000 + 5) * second);
    }
    const told = toldSince(party, from);
    for (const type of ["GroupLeft", "NotInGroup", "UserLeft", "UserJoined", "Stop"]) {
      expect(told).not.toContain(type);
    }
    const [ann, ben, cleo] = party;
    const list = (await ann?.viewer.call("GET", "/SyncPlay/List"))?.json();
    expect(list).toMatchObject([{ GroupId: group, State: "Playing" }]);
    expect(list[0].Participants.sort()).toEqual(["ann", "ben", "cleo"]);
    // They are one group for everything that follows.
    await ben?.ask("Seek", { PositionTicks: 5 * second });
    await until(3000, "all play from there", () =>
      party.every(({ isPlaying, positionTicks }) => isPlaying && positionTicks === 5 * second),
    );
    const before = ann?.heard.length;
    await cleo?.ask("Leave");
    await until(2000, "she is out", () => cleo?.group === undefined);
    await until(2000, "it is told", () => ann?.heard.slice(before).includes("UserLeft") === true);
    const left = (await ann?.viewer.call("GET", `/SyncPlay/${group}`))?.json();
    expect(left.Participants.sort()).toEqual(["ann", "ben"]);
  });

  test("killed again and again, paused or playing, they stay together; a late guest finds them by the id they know", async () => {
    const party = await arrive([door.url], ["ann", "ben"]);
    const group = await begin(party);
    await party[0]?.ask("SetRepeatMode", { Mode: "RepeatAll" });
    await killed(party, group);
    await whole([door]);
    await killed(party, group);
    await whole([door]);
    expect(party.map(({ queue }) => queue?.RepeatMode)).toEqual(["RepeatAll", "RepeatAll"]);
    await party[1]?.ask("Pause");
    await until(2000, "all pause", () => party.every(({ isPlaying }) => !isPlaying));
    const [cleo] = await arrive([door.url], ["cleo"]);
    const from = party.map(({ heard }) => heard.length);
    await (await serverOf(party[0] as Guest)).kill9();
    await until(goOnLimitMs, "all have the queue again", () =>
      party.every(({ heard }, index) => heard.slice(from[index]).includes("PlayQueue")),
    );
    await cleo?.join(group);
    await until(3000, "the state is known", async () => {
      const found = (await cleo?.viewer.call("GET", `/SyncPlay/${group}`))?.json();
      return found.State === "Paused";
    });
    expect([...party, cleo].every((guest) => guest?.isPlaying === false)).toBe(true);
    await cleo?.ask("Unpause");
    await until(3000, "all play", () => [...party, cleo].every((guest) => guest?.isPlaying));
  });

  test("a server that comes back without its memory loses no group", async () => {
    const party = await arrive([door.url], ["ann", "ben"]);
    const group = await begin(party);
    const server = await serverOf(party[0] as Guest);
    const from = party.map(({ heard }) => heard.length);
    await server.restart();
    await until(goOnLimitMs, "all play again", () =>
      party.every(({ isPlaying, heard }, index) => {
        const since = heard.slice(from[index]);
        return isPlaying && since.includes("Unpause");
      }),
    );
    expect(party.map((guest) => guest.group)).toEqual([group, group]);
  });

  test("a drain moves them all, and they go on watching together; when it is over nobody is torn away", async () => {
    const party = await arrive([door.url], ["ann", "ben"]);
    const group = await begin(party, 10 * second);
    const server = await serverOf(party[0] as Guest);
    const from = party.map(({ heard }) => heard.length);
    const cli = (word: string) =>
      runCli([word, server.name, "--admin", door.admin, "--cluster-key", CLUSTER_KEY]);
    expect(await cli("drain")).toMatchObject({ code: 0 });
    await until(goOnLimitMs, "all play again", async () => {
      const servers = await Promise.all(party.map(serverOf));
      const moved = servers.every((now) => now !== server);
      return moved && party.every(({ isPlaying }) => isPlaying);
    });
    expect(party.map((guest) => guest.group)).toEqual([group, group]);
    expect(toldSince(party, from)).not.toContain("GroupLeft");
    const list = (await party[1]?.viewer.call("GET", "/SyncPlay/List"))?.json();
    expect(list).toMatchObject([{ GroupId: group }]);
    expect(list[0].Participants.sort()).toEqual(["ann", "ben"]);
    expect(await cli("undrain")).toMatchObject({ code: 0 });
    // People who do nothing are moved back within these seconds; they do something together.
    const after = party.map(({ heard }) => heard.length);
    await sleep(4000);
    expect(toldSince(party, after)).toEqual([]);
    expect(await Promise.all(party.map(serverOf))).not.toContain(server);
  });

  test("somebody whose two devices are in two groups brings the groups together, and neither is lost", async () => {
    const one = await Viewer.enter(door.url, { name: "ann" });
    await one.knownAt([home.a, home.b]);
    const [server] = await one.homeAmong(home);
    // He comes while her server is down, and so lives at the other.
    await server.kill9();
    await doorSees(door, 1);
    const other = await Viewer.enter(door.url, { name: "ben" });
    await other.home();
    await whole([door]);
    await other.knownAt([home.a, home.b]);
    const [ann, ben] = [await Guest.arrive(one), await Guest.arrive(other)];
    guests.push(ann, ben);
    const [tablet] = await arrive([door.url], ["ann"]);
    if (tablet === undefined) throw new Error("a tablet is needed");
    const first = await begin([ann]);
    const second = await begin([ben]);
    await tablet.join(second);
    const all = [ann, ben, tablet];
    await until(goOnLimitMs, "all play", () => all.every(({ isPlaying }) => isPlaying));
    await sleep(500);
    expect(all.map(({ group }) => group)).toEqual([first, second, second]);
    expect(new Set(await Promise.all(all.map(serverOf))).size).toBe(1);
    await (await serverOf(ann)).kill9();
    const from = all.map(({ heard }) => heard.length);
    await until(goOnLimitMs, "all play again", () =>
      all.every(({ heard, isPlaying }, index) => {
        return isPlaying && heard.slice(from[index]).includes("Unpause");
      }),
    );
    expect(all.map(({ group }) => group)).toEqual([first, second, second]);
  });

  test("a frozen server holds up nobody for longer, and what it still has of the group when it thaws is not shown", async () => {
    const party = await arrive([door.url], ["ann", "ben"]);
    const group = await begin(party);
    const server = await serverOf(party[0] as Guest);
    const from = party.map(({ heard }) => heard.length);
    server.freeze();
    try {
      await until(goOnLimitMs + 4000, "all play again", () =>
        party.every(({ isPlaying, heard }, index) => {
          const since = heard.slice(from[index]);
          return isPlaying && since.includes("PlayQueue") && since.includes("Unpause");
        }),
      );
    } finally {
      server.thaw();
    }
    await doorSees(door, 2);
    const list = (await party[1]?.viewer.call("GET", "/SyncPlay/List"))?.json();
    expect(list).toMatchObject([{ GroupId: group }]);
    expect(party.map((guest) => guest.group)).toEqual([group, group]);
  });

  test("rights are the server's: who may not see the film is not let in, sees no such group, and stays out of it", async () => {
    const party = await arrive([door.url], ["ann"]);
    const group = await begin(party);
    const [dan] = await arrive([door.url], ["dan"]);
    expect((await dan?.viewer.call("GET", "/SyncPlay/List"))?.json()).toEqual([]);
    expect(await dan?.ask("Join", { GroupId: group })).toBe(204);
    await until(2000, "he is told", () => dan?.heard.includes("LibraryAccessDenied") === true);
    await killed(party, group);
    const [told] = (await party[0]?.viewer.call("GET", "/SyncPlay/List"))?.json() ?? [];
    expect(told.Participants).toEqual(["ann"]);
    expect(dan?.group).toBeUndefined();
  });
});

describe("with doors and sidecars that meet in Redis", () => {
  let redis: RedisServer;
  const doors: DoorProcess[] = [];
  const parts: Part[] = [];

  beforeAll(async () => {
    redis = await startRedis();
    await whole([]);
    for (const replica of [home.a, home.b]) {
      parts.push(await startSidecar({ replica, redis: redis.url }));
    }
    const shape = { command: "proxy", redis: redis.url, replicas: [home.a, home.b] } as const;
    doors.push(...(await Promise.all([startDoor(shape), startDoor(shape)])));
  });

  beforeEach(() => whole(doors));

  afterAll(async () => {
    for (const part of [...doors, ...parts]) await part.stop();
    await redis.stop();
  });

  test("three people at two doors go on watching together within 8 s, every time of 3", async () => {
    const party = await arrive(
      doors.map(({ url }) => url),
      ["ann", "ben", "cleo"],
    );
    const group = await begin(party);
    for (let times = 0; times < 3; times += 1) {
      await killed(party, group);
      await whole(doors);
    }
    const list = (await party[1]?.viewer.call("GET", "/SyncPlay/List"))?.json();
    expect(list).toMatchObject([{ GroupId: group }]);
    expect(list[0].Participants.sort()).toEqual(["ann", "ben", "cleo"]);
  });

  test("their door is killed: they come back at the other one and are in their group again", async () => {
    const [ann, ben] = await arrive(
      doors.map(({ url }) => url),
      ["ann", "ben"],
    );
    if (ann === undefined || ben === undefined) throw new Error("two guests are needed");
    const group = await begin([ann, ben]);
    await doors[0]?.kill9();
    const back = await Guest.arrive(ann.viewer.at(doors[1]?.url ?? ""));
    guests.push(back);
    await until(goOnLimitMs, "all play", () => back.group === group && back.isPlaying);
    await until(goOnLimitMs, "all play", () => ben.isPlaying);
    await doors[0]?.launch();
  });

  test("Redis is gone: who watches together goes on, also through a kill", async () => {
    const party = await arrive([doors[0]?.url ?? ""], ["ann", "ben"]);
    const group = await begin(party);
    await redis.kill9();
    await killed(party, group);
  });
});
