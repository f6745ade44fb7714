/**
 * One state: what one server was told is soon on every server, and survives the server that was told. Real processes:
 * `up` with its sidecars inside, and a door and sidecars that meet in Redis.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DoorProcess, type Part, startDoor, startSidecar } from "../support/door.ts";
import { doorUses } from "../support/household.ts";
import { type StandIn, startStandIn } from "../support/jellyfin/start.ts";
import { makeLibrary } from "../support/journal-library.ts";
import { startRedis } from "../support/redis.ts";
import { until, Viewer } from "../support/viewer.ts";

/** When a slow server does what it was asked for, after the other servers were looked at and before its last look. */
const LATE_MS = 9000;

const media = mkdtempSync(join(tmpdir(), "one-state-media-"));
makeLibrary(media, { films: 6, episodes: 4 });
afterAll(() => rmSync(media, { recursive: true, force: true }));

interface World {
  readonly door: DoorProcess;
  readonly servers: readonly StandIn[];
  readonly sidecars: readonly Part[];
  stop(): Promise<void>;
}

async function startWorld(shape: "up" | "redis"): Promise<World> {
  const a = await startStandIn({ name: "a", mediaDir: media });
  const b = await startStandIn({ name: "b", mediaDir: media, cloneOf: a });
  const servers = [a, b];
  const parts: { stop(): Promise<void> }[] = [...servers];
  try {
    if (shape === "up") {
      const data = mkdtempSync(join(tmpdir(), "one-state-data-"));
      const door = await startDoor({ replicas: servers, apiKey: a.apiKey, data });
      parts.push(door);
      return { door, servers, sidecars: [], stop: () => stopAll(parts) };
    }
    const redis = await startRedis();
    parts.push(redis);
    const sidecars: Part[] = [];
    for (const replica of servers) {
      const sidecar = await startSidecar({ replica, redis: redis.url });
      sidecars.push(sidecar);
      parts.push(sidecar);
    }
    const door = await startDoor({ replicas: servers, command: "proxy", redis: redis.url });
    parts.push(door);
    return { door, servers, sidecars, stop: () => stopAll(parts) };
  } catch (error) {
    await stopAll(parts);
    throw error;
  }
}

async function stopAll(parts: readonly { stop(): Promise<void> }[]): Promise<void> {
  for (const part of [...parts].reverse()) await part.stop();
}

/** What a server says of an item, asked at the server itself. */
async function dataAt(server: StandIn, userId: string, itemId: string) {
  const reply = await fetch(`${server.url}/UserItems/${itemId}/UserData?userId=${userId}`, {
    headers: { authorization: `MediaBrowser Token="${server.apiKey}"` },
  });
  return (await reply.json()) as Record<string, unknown>;
}

async function everywhere(
  { servers }: World,
  viewer: Viewer,
  itemId: string,
  expected: Record<string, unknown>,
  limitMs = 4000,
): Promise<void> {
  let last: unknown[] = [];
  await until(limitMs, `${JSON.stringify(expected)} everywhere`, async () => {
    last = await Promise.all(servers.map((server) => dataAt(server, viewer.userId, itemId)));
    return last.every((data) =>
      Object.entries(expected).every(([name, value]) => (data as typeof expected)[name] === value),
    );
  }).catch((error: unknown) => {
    throw new Error(`${String(error)}; the servers say ${JSON.stringify(last)}`);
  });
}

describe.each(["up", "redis"] as const)("%s", (shape) => {
  let world: World;
  let viewer: Viewer;
  let film: string;
  beforeAll(async () => {
    world = await startWorld(shape);
    viewer = await Viewer.enter(world.door.url);
    await viewer.knownAt(world.servers);
    film = await viewer.item("Film 1");
  });
  afterAll(async () => await world.stop());

  test("a favourite, a position and a rating are on every server, and cleared on every server", async () => {
    await viewer.call("POST", `/UserFavoriteItems/${film}`);
    await viewer.call("POST", `/UserItems/${film}/Rating?likes=true`);
    await viewer.call("POST", "/Sessions/Playing", { body: { ItemId: film, PositionTicks: 0 } });
    await viewer.call("POST", "/Sessions/Playing/Stopped", {
      body: { ItemId: film, PositionTicks: 3_000_000_000 },
    });
    await everywhere(world, viewer, film, {
      IsFavorite: true,
      Likes: true,
      PlaybackPositionTicks: 3_000_000_000,
      PlayCount: 1,
    });
    await viewer.call("DELETE", `/UserFavoriteItems/${film}`);
    await viewer.call("DELETE", `/UserItems/${film}/Rating`);
    await viewer.call("DELETE", `/UserPlayedItems/${film}`);
    await everywhere(world, viewer, film, {
      IsFavorite: false,
      Likes: undefined,
      PlaybackPositionTicks: 0,
      PlayCount: 0,
      LastPlayedDate: undefined,
    });
  });

  test("what was marked in a server's own page, without the door, is marked everywhere", async () => {
    const [a] = world.servers;
    const other = await viewer.item("Film 2");
    const reply = await fetch(`${a?.url}/UserFavoriteItems/${other}?userId=${viewer.userId}`, {
      method: "POST",
      headers: { authorization: `MediaBrowser Token="${a?.apiKey}"` },
    });
    expect(reply.status).toBe(200);
    await everywhere(world, viewer, other, { IsFavorite: true }, 8000);
  });

  test("nobody sees the sessions by which the sidecars listen", async () => {
    const sessions = (await viewer.call("GET", "/Sessions")).text;
    expect(sessions).not.toContain("jellybloom-");
  });

  test("what a slow server does long after its caller has left undoes nothing newer", async () => {
    const [home] = await viewer.homeAmong(pairOf(world));
    const late = await viewer.item("Film 3");
    const path = `/UserPlayedItems/${late}`;
    await home.control("slow", { path, method: "POST", firstByteMs: LATE_MS, times: 1 });
    const begunMs = performance.now();
    await expect(
      fetch(world.door.url + path, {
        method: "POST",
        headers: { authorization: viewer.authorization },
        signal: AbortSignal.timeout(300),
      }),
    ).rejects.toThrow("timeout");
    expect((await viewer.call("DELETE", path)).status).toBe(200);
    await everywhere(world, viewer, late, { Played: false });
    await sleep(LATE_MS + 200 - (performance.now() - begunMs));
    await everywhere(world, viewer, late, { Played: false }, 8000);
  });

  test("a mark on a season outlives the server that was told, and that server has it before it serves", async () => {
    const [home, other] = await viewer.homeAmong(pairOf(world));
    const season = await viewer.item("Season 01");
    await home.kill9();
    // Told to the other one; the first is behind when it comes back.
    expect((await viewer.call("POST", `/UserPlayedItems/${season}`)).status).toBe(200);
    const episode = await viewer.item("Show S01E02");
    expect(await viewer.home()).toBe(other.name);
    await home.launch();
    await everywhere(world, viewer, episode, { Played: true }, 8000);
    await doorUses(world.door, 2, 8000);
    const told = (): string => [world.door, ...world.sidecars].map((part) => part.log()).join("\n");
    await until(8000, "it has caught up", async () => told().includes("has caught up with the"));
  });
});

function pairOf({ servers }: World): { readonly a: StandIn; readonly b: StandIn } {
  const [a, b] = servers;
  if (a === undefined || b === undefined) throw new Error("two servers are needed");
  return { a, b };
}
