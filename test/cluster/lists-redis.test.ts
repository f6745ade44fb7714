// Lists, items, libraries and documents where every part is a process of its own: a door, two sidecars and Redis. What
// the other server needs and the journal is too small for, its sidecar fetches from the server that has it.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { rendezvous } from "../../proxy/place.ts";
import { type DoorProcess, type Part, startDoor, startSidecar } from "../support/door.ts";
import { withKey } from "../support/household.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { until, Viewer } from "../support/viewer.ts";

const root = mkdtempSync(join(tmpdir(), "jellybloom-lists-redis-"));
const media = join(root, "media");
let redis: RedisServer;
let pair: Awaited<ReturnType<typeof startPair>>;
let door: DoorProcess;
const sidecars: Part[] = [];
let admin: Viewer;
let films: string[] = [];

type Item = { readonly Id: string; readonly Name: string } & Record<string, unknown>;

beforeAll(async () => {
  for (const name of ["One", "Two", "Three"]) {
    mkdirSync(join(media, "films", name), { recursive: true });
    writeFileSync(join(media, "films", name, `${name}.bin`), name);
  }
  redis = await startRedis();
  pair = await startPair({ mediaDir: media });
  const replicas = [pair.a, pair.b];
  for (const replica of replicas) {
    const args = ["--task-data", join(root, replica.name)];
    sidecars.push(await startSidecar({ replica, redis: redis.url, args }));
  }
  door = await startDoor({ command: "proxy", replicas, redis: redis.url });
  admin = await Viewer.enter(door.url);
  await admin.knownAt(replicas);
  const listed = await itemsAt(pair.a, "/Items?recursive=true&includeItemTypes=Movie");
  films = listed.map(({ Id }) => Id);
}, 60_000);

afterAll(async () => {
  for (const part of [door, ...sidecars]) await part?.stop();
  await pair?.stop();
  await redis?.stop();
  rmSync(root, { recursive: true, force: true });
});

/** Nothing where a list is not there yet. */
async function itemsAt(server: StandIn, path: string): Promise<Item[]> {
  const reply = await withKey(server, "GET", path).catch(() => undefined);
  return reply === undefined ? [] : ((await reply.json()) as { Items: Item[] }).Items;
}

async function read(server: StandIn, path: string): Promise<unknown> {
  return await (await withKey(server, "GET", path)).json();
}

async function onBoth(what: string, holds: (server: StandIn) => Promise<boolean>): Promise<void> {
  for (const server of [pair.a, pair.b]) {
    await until(8000, `${what} at ${server.name}`, () => holds(server));
  }
}

const idsOf = (items: readonly Item[]): string => items.map(({ Id }) => Id).join();

test("a playlist and a collection have one writer, and are the same on both servers", async () => {
  const [one = "", two = "", three = ""] = films;
  const body = { Name: "Evening", Ids: [one, two], UserId: admin.userId, MediaType: "Video" };
  const playlist = (await admin.call("POST", "/Playlists", { body })).json().Id as string;
  const appended = `/Playlists/${playlist}/Items?ids=${three},${one}`;
  expect((await admin.call("POST", appended)).status).toBe(204);
  await onBoth("the playlist", async (server) => {
    const path = `/Playlists/${playlist}/Items?userId=${admin.userId}`;
    return idsOf(await itemsAt(server, path)) === [one, two, three, one].join();
  });
  const made = await admin.call("POST", `/Collections?name=Best&ids=${one}`);
  const collection = made.json().Id as string;
  expect((await admin.call("POST", `/Collections/${collection}/Items?ids=${two}`)).status).toBe(
    204,
  );
  await onBoth("the collection", async (server) => {
    const members = await itemsAt(server, `/Items?parentId=${collection}&userId=${admin.userId}`);
    return idsOf(members).split(",").sort().join() === [one, two].sort().join();
  });
  expect((await admin.call("DELETE", `/Items/${playlist}`)).status).toBe(204);
  await onBoth("the deletion", async (server) => {
    return (await itemsAt(server, `/Items?ids=${playlist}`)).length === 0;
  });
});

test("an edit, also one too long for the journal, and a picture that is too large for it", async () => {
  const [id = ""] = films;
  const item = (await admin.call("GET", `/Items/${id}`)).json() as Item;
  for (const Overview of ["about one", "long ".repeat(60_000)]) {
    const body = { ...item, Overview };
    expect((await admin.call("POST", `/Items/${id}`, { body })).status).toBe(204);
    await onBoth(`the edit of ${Overview.length} characters`, async (server) => {
      const [there] = await itemsAt(server, `/Items?ids=${id}&fields=Overview`);
      return there?.Overview === Overview;
    });
  }
  const uploaded = await fetch(`${door.url}/Items/${id}/Images/Primary`, {
    method: "POST",
    headers: { authorization: admin.authorization, "content-type": "image/jpeg" },
    body: Buffer.alloc(700_000, "picture").toString("base64"),
  });
  expect(uploaded.status).toBe(204);
  await onBoth("the picture", async (server) => {
    const infos = (await read(server, `/Items/${id}/Images`)) as { Size: number }[];
    return infos.map(({ Size }) => Size).join() === "700000";
  });
});

test("a library, and an administrator's documents", async () => {
  const path = "/Library/VirtualFolders?name=Music&collectionType=music";
  expect((await admin.call("POST", path, { body: { LibraryOptions: {} } })).status).toBe(204);
  await onBoth("the library", async (server) => {
    const folders = (await read(server, "/Library/VirtualFolders")) as Item[];
    return folders.filter(({ Name }) => Name === "Music").length === 1;
  });
  const system = (await admin.call("GET", "/System/Configuration")).json();
  const body = { ...system, MinResumePct: 8 };
  expect((await admin.call("POST", "/System/Configuration", { body })).status).toBe(204);
  await onBoth("the configuration", async (server) => {
    const there = (await read(server, "/System/Configuration")) as Record<string, unknown>;
    return there.MinResumePct === 8;
  });
});

test("a door of its own, which was given no key, sees which server has timers and goes on recording there", async () => {
  const other = rendezvous("television", ["a", "b"]) === "a" ? pair.b : pair.a;
  const StartDate = new Date(Date.now() + 3_600_000).toISOString();
  const EndDate = new Date(Date.now() + 7_200_000).toISOString();
  await withKey(other, "POST", "/LiveTv/Timers", { Name: "News", StartDate, EndDate });
  const reply = await admin.call("GET", "/LiveTv/Timers");
  expect(reply.headers.get("x-jellybloom-explain")).toMatch(new RegExp(`^${other.name};`));
  expect(reply.json().Items.map(({ Name }: Item) => Name)).toEqual(["News"]);
});

test("two lists of one name stay two, though the server of the first died before the next leader had it", async () => {
  const kid = await Viewer.enter(door.url, { name: "kid" });
  await kid.knownAt([pair.a, pair.b]);
  const [one = "", two = ""] = films;
  const make = async (viewer: Viewer, film: string) => {
    const body = { Name: "Favourites", Ids: [film], UserId: viewer.userId, MediaType: "Video" };
    const reply = await viewer.call("POST", "/Playlists", { body });
    expect(reply.status).toBe(200);
    return reply.json().Id as string;
  };
  const [writer] = await admin.leaderAmong(pair);
  const first = await make(admin, one);
  await writer.kill9();
  const second = await make(kid, two);
  expect(second).not.toBe(first);
  await writer.launch();
  for (const [viewer, id, film] of [
    [admin, first, one],
    [kid, second, two],
  ] as const) {
    await onBoth(`the list of ${viewer.userId}`, async (server) => {
      const path = `/Playlists/${id}/Items?userId=${viewer.userId}`;
      return idsOf(await itemsAt(server, path)) === film;
    });
  }
}, 60_000);

test("a list whose server died when it had just said so is read and changed elsewhere, without a 404", async () => {
  const [one = "", two = ""] = films;
  for (const round of [1, 2]) {
    const [writer] = await admin.leaderAmong(pair);
    const body = { Name: `Late ${round}`, Ids: [one], UserId: admin.userId, MediaType: "Video" };
    const made = await admin.call("POST", "/Playlists", { body });
    const id = made.json().Id as string;
    await writer.kill9();
    const answers = await Promise.all([
      admin.call("GET", `/Playlists/${id}/Items?userId=${admin.userId}`),
      admin.call("GET", `/Users/${admin.userId}/Items/${id}`),
      admin.call("POST", `/Playlists/${id}/Items?ids=${two}`),
    ]);
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 204]);
    await writer.launch();
    await onBoth("the playlist", async (server) => {
      const path = `/Playlists/${id}/Items?userId=${admin.userId}`;
      return idsOf(await itemsAt(server, path)) === [one, two].join();
    });
  }
}, 60_000);
