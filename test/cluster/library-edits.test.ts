// What an administrator does to items and libraries through the door is done on every server: edits, pictures however
// large, subtitles, deletions (the files once, the rows everywhere), new files told of by other programs, libraries.

import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { withKey } from "../support/household.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { until, Viewer } from "../support/viewer.ts";

const root = mkdtempSync(join(tmpdir(), "jellybloom-edits-"));
const media = join(root, "media");
let pair: { a: StandIn; b: StandIn; stop: () => Promise<void> };
let door: DoorProcess;
let admin: Viewer;

type Item = { readonly Id: string; readonly Name: string } & Record<string, unknown>;

function addFilm(name: string): void {
  mkdirSync(join(media, "films", name), { recursive: true });
  writeFileSync(join(media, "films", name, `${name}.bin`), name);
}

beforeAll(async () => {
  for (const name of ["One", "Two", "Three"]) addFilm(name);
  pair = await startPair({ mediaDir: media });
  for (const server of [pair.a, pair.b]) {
    await server.control("configure", { document: "system", change: { StandInWritesMedia: true } });
  }
  door = await startDoor({
    ...{ replicas: [pair.a, pair.b], apiKey: pair.a.apiKey, data: join(root, "data") },
  });
  admin = await Viewer.enter(door.url);
  await admin.knownAt([pair.a, pair.b]);
});

afterAll(async () => {
  await door?.stop();
  await pair?.stop();
  rmSync(root, { recursive: true, force: true });
});

async function films(server: StandIn): Promise<Item[]> {
  const reply = await withKey(server, "GET", "/Items?recursive=true&includeItemTypes=Movie");
  return ((await reply.json()) as { Items: Item[] }).Items;
}

async function film(name: string): Promise<string> {
  return (await films(pair.a)).find((item) => item.Name === name)?.Id ?? "";
}

async function read(server: StandIn, path: string): Promise<unknown> {
  return await (await withKey(server, "GET", path)).json();
}

async function onBoth(what: string, holds: (server: StandIn) => Promise<boolean>): Promise<void> {
  for (const server of [pair.a, pair.b]) {
    await until(5000, `${what} at ${server.name}`, () => holds(server));
  }
}

async function upload(id: string, kind: string, bytes: Buffer): Promise<number> {
  const reply = await fetch(`${door.url}/Items/${id}/Images/${kind}`, {
    method: "POST",
    headers: { authorization: admin.authorization, "content-type": "image/jpeg" },
    body: bytes.toString("base64"),
  });
  return reply.status;
}

async function sizes(server: StandIn, id: string, kind: string): Promise<number[]> {
  const infos = (await read(server, `/Items/${id}/Images`)) as {
    ImageType: string;
    Size: number;
  }[];
  return infos.filter(({ ImageType }) => ImageType === kind).map(({ Size }) => Size);
}

test("an edit is on both servers, and who made it sees it at once", async () => {
  const id = await film("One");
  const item = (await admin.call("GET", `/Items/${id}`)).json() as Item;
  const body = { ...item, Overview: "about one", Tags: ["seen with the children"] };
  expect((await admin.call("POST", `/Items/${id}`, { body })).status).toBe(204);
  expect((await admin.call("GET", `/Items/${id}`)).json()).toMatchObject({ Overview: "about one" });
  await onBoth("the edit", async (server) => {
    const there = (await read(server, `/Items/${id}`)) as Item;
    return there.Overview === "about one";
  });
});

test("pictures are on both servers, in order and once each, also one that is too large for the journal", async () => {
  const id = await film("One");
  const pictures = [1000, 700_000, 2000].map((size) => Buffer.alloc(size, "picture"));
  for (const picture of pictures) expect(await upload(id, "Backdrop", picture)).toBe(204);
  await onBoth("the backdrops", async (server) => {
    return (await sizes(server, id, "Backdrop")).join() === "1000,700000,2000";
  });
  expect((await admin.call("DELETE", `/Items/${id}/Images/Backdrop/1`)).status).toBe(204);
  await onBoth("what is left", async (server) => {
    return (await sizes(server, id, "Backdrop")).join() === "1000,2000";
  });
  expect(await upload(id, "Primary", Buffer.alloc(500, "x"))).toBe(204);
  expect(await upload(id, "Primary", Buffer.alloc(600, "y"))).toBe(204);
  await onBoth(
    "the poster",
    async (server) => (await sizes(server, id, "Primary")).join() === "600",
  );
});

test("a subtitle is written once beside the film, and the other server finds it", async () => {
  const id = await film("Two");
  const Data = Buffer.from("1\n00:00:01,000 --> 00:00:02,000\nHello\n").toString("base64");
  const body = { Language: "en", Format: "srt", IsForced: false, Data };
  expect((await admin.call("POST", `/Videos/${id}/Subtitles`, { body })).status).toBe(204);
  expect(existsSync(join(media, "films", "Two", "Two.en.srt"))).toBe(true);
  await onBoth("a refresh or the upload", async (server) => {
    const asked = await server.requests({ method: "POST", path: `${id}/(Refresh|Subtitles)` });
    return asked.length === 1;
  });
});

test("a deleted film is deleted once, and gone from both servers", async () => {
  const id = await film("Three");
  expect((await admin.call("DELETE", `/Items/${id}`)).status).toBe(204);
  expect(existsSync(join(media, "films", "Three", "Three.bin"))).toBe(false);
  expect((await admin.call("GET", `/Items/${id}`)).status).toBe(404);
  await onBoth("the deletion", async (server) => {
    return (await films(server)).every(({ Id }) => Id !== id);
  });
});

test("a film that another program tells of is found by both servers", async () => {
  addFilm("Four");
  const body = { Updates: [{ Path: join(media, "films", "Four"), UpdateType: "Created" }] };
  expect((await admin.call("POST", "/Library/Media/Updated", { body })).status).toBe(204);
  await onBoth("the new film", async (server) => {
    return (await films(server)).some(({ Name }) => Name === "Four");
  });
});

test("a library is made, given a folder, renamed and removed on both servers", async () => {
  const names = async (server: StandIn) =>
    ((await read(server, "/Library/VirtualFolders")) as { Name: string; Locations: string[] }[])
      .filter(({ Name }) => Name !== "Movies" && Name !== "Shows")
      .map(({ Name, Locations }) => `${Name}:${Locations.length}`)
      .join();
  const path = "/Library/VirtualFolders";
  const steps: [string, string, unknown, string][] = [
    ["POST", `${path}?name=Music&collectionType=music`, { LibraryOptions: {} }, "Music:0"],
    ["POST", `${path}/Paths`, { Name: "Music", PathInfo: { Path: media } }, "Music:1"],
    ["POST", `${path}/Name?name=Music&newName=Songs`, undefined, "Songs:1"],
    ["DELETE", `${path}?name=Songs`, undefined, ""],
  ];
  for (const [method, target, body, wanted] of steps) {
    const reply = await admin.call(method, target, body === undefined ? {} : { body });
    expect(reply.status).toBe(204);
    await onBoth(`${method} ${target}`, async (server) => (await names(server)) === wanted);
  }
});
