// What an administrator does to items and libraries through the door is done on every server: edits, pictures however
// large, subtitles, deletions (the files once, the rows everywhere), new files told of by other programs, libraries.

import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
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

describe("a file that belongs to a film", () => {
  /** Says where such files go; without leave to write beside media, uploads there are refused as on a read-only mount. */
  async function place(isBeside: boolean, mayWrite = isBeside): Promise<void> {
    for (const server of [pair.a, pair.b]) {
      const change = { StandInWritesMedia: mayWrite };
      await server.control("configure", { document: "system", change });
      for (const library of (await read(server, "/Library/VirtualFolders")) as {
        ItemId: string;
        LibraryOptions: object;
      }[]) {
        const places = { SaveSubtitlesWithMedia: isBeside, SaveLyricsWithMedia: isBeside };
        const LibraryOptions = { ...library.LibraryOptions, ...places };
        const body = { Id: library.ItemId, LibraryOptions };
        await withKey(server, "POST", "/Library/VirtualFolders/LibraryOptions", body);
      }
      const id = await film("Two");
      // What an earlier try has left.
      for (const { index } of (await filesAt(server, id, "Subtitle")).reverse()) {
        await withKey(server, "DELETE", `/Videos/${id}/Subtitles/${index}`);
      }
      await withKey(server, "DELETE", `/Audio/${id}/Lyrics`);
      await server.control("forget-requests");
    }
  }

  afterAll(() => place(true));

  const subtitle = (Language: string) => ({
    ...{ Language, Format: "srt", IsForced: false },
    Data: Buffer.from("1\n00:00:01,000 --> 00:00:02,000\nHello\n").toString("base64"),
  });

  type Stream = { readonly Type: string; readonly Index: number; readonly Path?: string };

  const filesIn = (item: Item | undefined, type: string): { name: string; index: number }[] =>
    ((item?.MediaStreams ?? []) as Stream[])
      .filter(({ Type, Path }) => Type === type && Path !== undefined)
      .map(({ Path = "", Index }) => ({ name: basename(Path), index: Index }));

  async function filesAt(server: StandIn, id: string, type: string) {
    const { Items } = (await read(server, `/Items?ids=${id}&fields=MediaStreams`)) as {
      Items: Item[];
    };
    return filesIn(Items[0], type);
  }

  async function files(server: StandIn, id: string, type = "Subtitle"): Promise<string> {
    return (await filesAt(server, id, type)).map(({ name }) => name).join();
  }

  /** How often a server was asked to do this itself, the more often first: which one leads is nobody's business. */
  async function asked(method: string, path: string): Promise<number[]> {
    const counts = [pair.a, pair.b].map(
      async (one) => (await one.requests({ method, path })).length,
    );
    return (await Promise.all(counts)).sort((one, other) => other - one);
  }

  /** What one server alone has makes their indices differ, and is nobody else's business. */
  const atB = "Two.de.srt";

  test.each([
    { where: "beside it", isBeside: true, asks: [1, 0], left: "" },
    { where: "in each server's own folder", isBeside: false, asks: [1, 1], left: atB },
  ])("a subtitle $where is on both servers, and then on neither", async (told) => {
    const { isBeside, asks, left } = told;
    await place(isBeside);
    const id = await film("Two");
    const path = `/Videos/${id}/Subtitles`;
    if (!isBeside) {
      await withKey(pair.b, "POST", path, subtitle("de"));
      await until(5000, "b's own", async () => (await files(pair.b, id)) === atB);
      await pair.b.control("forget-requests");
    }
    expect((await admin.call("POST", path, { body: subtitle("en") })).status).toBe(204);
    expect(existsSync(join(media, "films", "Two", "Two.en.srt"))).toBe(isBeside);
    let index = 0;
    // Who changed something is shown it where it was changed.
    await until(3000, "the subtitle through the door", async () => {
      const item = (await admin.call("GET", `/Items/${id}`)).json() as Item;
      index = filesIn(item, "Subtitle").find(({ name }) => name === "Two.en.srt")?.index ?? 0;
      return index > 0;
    });
    await onBoth("the subtitle", async (server) =>
      (await files(server, id)).includes("Two.en.srt"),
    );
    expect(await asked("POST", `${id}/Subtitles$`)).toEqual(asks);
    expect((await admin.call("DELETE", `${path}/${index}`)).status).toBe(204);
    await onBoth("its end", async (server) => {
      return (await files(server, id)) === (server === pair.b ? left : "");
    });
    expect(await asked("DELETE", `${id}/Subtitles/`)).toEqual(asks);
  });

  test.each([
    { where: "beside it", says: true, mayWrite: true, asks: [1, 0] },
    { where: "in each server's own folder", says: false, mayWrite: false, asks: [1, 1] },
    { where: "that cannot lie beside it", says: true, mayWrite: false, asks: [1, 1] },
  ])("lyrics $where are on both servers, and then on neither", async (told) => {
    const { says, mayWrite, asks } = told;
    await place(says, mayWrite);
    const id = await film("Two");
    const path = `/Audio/${id}/Lyrics`;
    const uploaded = await fetch(`${door.url}${path}?fileName=x.lrc`, {
      method: "POST",
      headers: { authorization: admin.authorization, "content-type": "text/plain" },
      body: "[00:01.00]La",
    });
    expect(uploaded.status).toBe(200);
    expect(existsSync(join(media, "films", "Two", "Two.lrc"))).toBe(says && mayWrite);
    await onBoth("the lyrics", async (server) => (await files(server, id, "Lyric")) === "Two.lrc");
    expect(await asked("POST", `${id}/Lyrics[?]`)).toEqual(asks);
    expect((await admin.call("DELETE", path)).status).toBe(204);
    await onBoth("their end", async (server) => (await files(server, id, "Lyric")) === "");
    expect(await asked("DELETE", `${id}/Lyrics$`)).toEqual(asks);
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
