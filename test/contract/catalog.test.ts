/**
 * What we believe about playlists, collections, edits, pictures and deletions: what a second server is brought to, and by
 * which requests. Whatever is made here is taken away again.
 */
import { afterAll, describe, expect, test } from "vitest";
import { asLogin, authorization, contractServers, hasPair, type Login } from "./servers.ts";

const { a, b, leave } = await contractServers();
const made: string[] = [];
afterAll(async () => {
  for (const id of made) {
    await a.admin("DELETE", `/Items/${id}`);
    if (hasPair) await b.admin("DELETE", `/Items/${id}`);
  }
  await leave();
});
const film = await a.film();
const others = (
  await a.admin(
    "GET",
    "/Items?recursive=true&isFolder=false&includeItemTypes=Movie,Episode&limit=3",
  )
).json().Items as { Id: string }[];
const two = [film.id, others.find(({ Id }) => Id !== film.id)?.Id ?? film.id];
const unique = (): string => `contract ${Math.random().toString(36).slice(2, 10)}`;

async function owner(): Promise<Login> {
  const user = await a.newUser();
  const device = a.device();
  return asLogin(await a.login(device, user.name, user.password), device);
}

const entries = async (id: string, userId: string): Promise<string[]> =>
  (await a.admin("GET", `/Playlists/${id}/Items?userId=${userId}`))
    .json()
    .Items.map((item: { Id: string }) => item.Id);

async function playlist(userId: string, ids: readonly string[], name = unique()): Promise<string> {
  const body = { Name: name, Ids: ids, UserId: userId, MediaType: "Video" };
  const { Id } = (await a.call("POST", "/Playlists", { token: a.apiKey, body })).json();
  made.push(Id);
  return Id;
}

describe("playlists", () => {
  test("an API key makes one for a user, appends and removes; the same item twice is kept twice", async () => {
    const { userId } = await owner();
    const id = await playlist(userId, [film.id]);
    const append = await a.admin("POST", `/Playlists/${id}/Items?ids=${film.id}&userId=${userId}`);
    expect(append.status).toBe(204);
    expect(await entries(id, userId)).toEqual([film.id, film.id]);
    // Entries are found by their item: removing one removes all of it.
    expect((await a.admin("DELETE", `/Playlists/${id}/Items?entryIds=${film.id}`)).status).toBe(
      204,
    );
    expect(await entries(id, userId)).toEqual([]);
  });

  test("without a user an API key appends nothing, and may not read who shares it", async () => {
    const { userId } = await owner();
    const id = await playlist(userId, []);
    expect(
      (await a.admin("POST", `/Playlists/${id}/Items?ids=${film.id}`)).status,
    ).toBeGreaterThanOrEqual(400);
    expect((await a.admin("GET", `/Playlists/${id}`)).status).toBeGreaterThanOrEqual(400);
  });

  test("its own user sets name, shares and the whole list in one request", async () => {
    const login = await owner();
    const id = await playlist(login.userId, [film.id]);
    const authorizes = { authorization: authorization(login.device, login.token) };
    const body = { Name: "renamed", Ids: [...two].reverse(), IsPublic: true, Users: [] };
    expect((await a.call("POST", `/Playlists/${id}`, { ...authorizes, body })).status).toBe(204);
    expect(await entries(id, login.userId)).toEqual([...two].reverse());
    const read = await a.call("GET", `/Playlists/${id}`, authorizes);
    expect(read.json()).toMatchObject({ OpenAccess: true, Shares: [] });
  });

  test("a content with an id that is none is refused when the old one is gone already", async () => {
    const login = await owner();
    const id = await playlist(login.userId, two);
    const asOwner = { authorization: authorization(login.device, login.token) };
    const body = { Ids: [film.id, null] };
    expect((await a.call("POST", `/Playlists/${id}`, { ...asOwner, body })).status).toBe(400);
    expect(await entries(id, login.userId)).toEqual([]);
  });

  test("what is blocked for its owner by a tag stays in it unseen, and is not taken up for them", async () => {
    const [hidden = "", other = ""] = two;
    const login = await owner();
    const admin = await a.userId();
    const item = (await a.admin("GET", `/Items/${hidden}?userId=${admin}`)).json();
    const tag = unique();
    const write = async (Tags: string[]): Promise<void> => {
      const body = { ...item, Tags };
      const reply = await a.call("POST", `/Items/${hidden}`, { token: a.apiKey, body });
      expect(reply.status).toBe(204);
    };
    const id = await playlist(login.userId, [hidden, other]);
    a.later(() => write(item.Tags ?? []));
    await write([...(item.Tags ?? []), tag]);
    await a.setPolicy(login.userId, { BlockedTags: [tag] });
    const asked = async (user: string): Promise<string[]> =>
      (await a.admin("GET", `/Items?ids=${hidden},${other}${user}`))
        .json()
        .Items.map(({ Id }: { Id: string }) => Id);
    expect(await asked(`&userId=${login.userId}`)).toEqual([other]);
    expect(await asked("")).toHaveLength(2);
    expect((await a.admin("GET", `/Items/${hidden}?userId=${login.userId}`)).status).toBe(404);
    expect(await entries(id, login.userId)).toEqual([other]);
    const kept = async (): Promise<string[]> => {
      const asOwner = { authorization: authorization(login.device, login.token) };
      const { ItemIds } = (await a.call("GET", `/Playlists/${id}`, asOwner)).json();
      return ItemIds.map((one: string) => one.replaceAll("-", ""));
    };
    expect(await kept()).toEqual([hidden, other]);
    const target = `/Playlists/${id}/Items?ids=${hidden}&userId=${login.userId}`;
    expect((await a.admin("POST", target)).status).toBe(204);
    expect(await kept()).toEqual([hidden, other]);
  });

  test("a folder that is added adds what is in it, and what is told of an item says which of them it is", async () => {
    const { userId } = await owner();
    const id = await playlist(userId, []);
    const folders = (await a.admin("GET", "/Library/VirtualFolders")).json() as {
      ItemId: string;
      CollectionType?: string;
    }[];
    const inside = async (folder: string): Promise<string[]> =>
      (
        await a.admin(
          "GET",
          `/Items?parentId=${folder}&recursive=true&mediaTypes=Video&userId=${userId}`,
        )
      )
        .json()
        .Items.map((item: { Id: string }) => item.Id);
    let folder = "";
    for (const { ItemId, CollectionType } of folders) {
      // Collections show the same films once more, and are no folder of theirs.
      if (CollectionType !== "boxsets" && (await inside(ItemId)).includes(film.id)) folder = ItemId;
    }
    const kinds = (await a.admin("GET", `/Items?ids=${folder},${film.id}&userId=${userId}`)).json()
      .Items as { Id: string; IsFolder: boolean; MediaType: string }[];
    expect(kinds.find(({ Id }) => Id === film.id)).toMatchObject({
      IsFolder: false,
      MediaType: "Video",
    });
    expect(kinds.find(({ Id }) => Id === folder)).toMatchObject({ IsFolder: true });
    const added = await a.admin(
      "POST",
      `/Playlists/${id}/Items?ids=${folder},${film.id}&userId=${userId}`,
    );
    expect(added.status).toBe(204);
    expect((await entries(id, userId)).sort()).toEqual([...(await inside(folder)), film.id].sort());
  });

  test.skipIf(!hasPair)(
    "the same creation has the same id on both servers, a second one the next",
    async () => {
      const user = (await a.admin("GET", "/Users")).json()[0].Id;
      const body = { Name: unique(), Ids: [], UserId: user, MediaType: "Video" };
      const ids: string[] = [];
      for (const server of [a, b, a, b]) {
        const reply = await server.call("POST", "/Playlists", { token: server.apiKey, body });
        ids.push(reply.json().Id);
      }
      made.push(...new Set(ids));
      expect(ids[0]).toBe(ids[1]);
      expect(ids[2]).toBe(ids[3]);
      expect(ids[0]).not.toBe(ids[2]);
    },
  );
});

describe("collections", () => {
  test("a second creation of one name empties the first and keeps its id", async () => {
    const name = encodeURIComponent(unique());
    const first = (await a.admin("POST", `/Collections?name=${name}&ids=${film.id}`)).json().Id;
    made.push(first);
    const members = async () =>
      (await a.admin("GET", `/Items?parentId=${first}&userId=${(await admin()).Id}`)).json().Items
        .length;
    expect(await members()).toBe(1);
    expect((await a.admin("POST", `/Collections?name=${name}`)).json().Id).toBe(first);
    expect(await members()).toBe(0);
  });

  test("adding what is there already changes nothing", async () => {
    const name = encodeURIComponent(unique());
    const id = (await a.admin("POST", `/Collections?name=${name}&ids=${film.id}`)).json().Id;
    made.push(id);
    for (let time = 0; time < 2; time++) {
      expect((await a.admin("POST", `/Collections/${id}/Items?ids=${film.id}`)).status).toBe(204);
    }
    const read = await a.admin("GET", `/Items?parentId=${id}&userId=${(await admin()).Id}`);
    expect(read.json().Items.map((item: { Id: string }) => item.Id)).toEqual([film.id]);
  });
});

async function admin(): Promise<{ Id: string }> {
  const users = (await a.admin("GET", "/Users")).json() as {
    Id: string;
    Policy: { IsAdministrator: boolean };
  }[];
  const found = users.find((user) => user.Policy.IsAdministrator);
  if (found === undefined) throw new Error("no administrator");
  return found;
}

describe("pictures", () => {
  // One transparent pixel.
  const pixel =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
  const upload = async (id: string, kind: string): Promise<number> => {
    const reply = await fetch(`${a.url}/Items/${id}/Images/${kind}`, {
      method: "POST",
      headers: { "content-type": "image/png", authorization: `MediaBrowser Token="${a.apiKey}"` },
      body: pixel,
    });
    return reply.status;
  };
  const infos = async (id: string) =>
    (await a.admin("GET", `/Items/${id}/Images`)).json() as {
      ImageType: string;
      ImageIndex?: number;
      Size: number;
    }[];

  test("a backdrop is appended, another picture replaced; their sizes are told, and they go by index", async () => {
    const { userId } = await owner();
    const id = await playlist(userId, []);
    for (const kind of ["Backdrop", "Backdrop", "Primary", "Primary"]) {
      expect(await upload(id, kind)).toBe(204);
    }
    const bytes = Buffer.from(pixel, "base64").length;
    const told = await infos(id);
    const backdrops = told.filter(({ ImageType }) => ImageType === "Backdrop");
    expect(backdrops.map(({ ImageIndex }) => ImageIndex ?? 0)).toEqual([0, 1]);
    expect(told.filter(({ ImageType }) => ImageType === "Primary")).toHaveLength(1);
    expect(backdrops.every(({ Size }) => Size === bytes)).toBe(true);
    expect((await a.admin("DELETE", `/Items/${id}/Images/Backdrop/1`)).status).toBe(204);
    const left = (await infos(id)).filter(({ ImageType }) => ImageType === "Backdrop");
    expect(left).toHaveLength(1);
  });
});

describe("items", () => {
  test("an edit is the whole item written back, and can be repeated", async () => {
    const { userId } = await owner();
    const id = await playlist(userId, []);
    const item = (await a.admin("GET", `/Items/${id}?userId=${userId}`)).json();
    const body = { ...item, Overview: "what it is about" };
    for (let time = 0; time < 2; time++) {
      const reply = await a.call("POST", `/Items/${id}`, { token: a.apiKey, body });
      expect(reply.status).toBe(204);
    }
    const read = (await a.admin("GET", `/Items/${id}?userId=${userId}`)).json();
    expect(read.Overview).toBe("what it is about");
  });

  test("a list of items says of each what tasks made of it: segments, chapter pictures, trickplay", async () => {
    const fields = "Chapters,MediaSources,Trickplay";
    const [item] = (await a.admin("GET", `/Items?ids=${film.id}&fields=${fields}`)).json().Items;
    const { Items } = (await a.admin("GET", `/MediaSegments/${film.id}`)).json();
    expect(item.MediaSources[0].HasSegments).toBe(Items.length > 0);
    expect(typeof item.Trickplay).toBe("object");
    for (const chapter of item.Chapters) {
      expect(chapter).toMatchObject({ StartPositionTicks: expect.any(Number) });
      expect(Boolean(chapter.ImagePath)).toBe(Boolean(chapter.ImageTag));
    }
  });

  test("a deleted item is unknown, and a second deletion is 404", async () => {
    const { userId } = await owner();
    const id = await playlist(userId, []);
    expect((await a.admin("DELETE", `/Items/${id}`)).status).toBe(204);
    expect((await a.admin("DELETE", `/Items/${id}`)).status).toBe(404);
    expect((await a.admin("GET", `/Items?ids=${id}`)).json().Items).toEqual([]);
  });

  test("a path that is not there is 404, one that is there 204", async () => {
    const [folder] = (await a.admin("GET", "/Library/VirtualFolders")).json();
    const ask = (path: string) =>
      a.call("POST", "/Environment/ValidatePath", { token: a.apiKey, body: { Path: path } });
    expect((await ask(folder.Locations[0])).status).toBe(204);
    expect((await ask(`${folder.Locations[0]}/not there`)).status).toBe(404);
  });
});

test("collections are for who may manage them; nothing is added without ids, and that is done", async () => {
  const { token, userId } = await owner();
  const name = unique();
  const path = `/Collections?name=${encodeURIComponent(name)}`;
  expect((await a.call("POST", path, { token })).status).toBe(403);
  const { Id } = (await a.admin("POST", `${path}&ids=${film.id}`)).json() as { Id: string };
  made.push(Id);
  expect((await a.call("POST", `/Collections/${Id}/Items?name=x`, { token })).status).toBe(403);
  expect((await a.admin("POST", `/Collections/${Id}/Items?name=x`)).status).toBe(204);
  const members = async (user: string): Promise<string[]> =>
    (await a.admin("GET", `/Items?parentId=${Id}${user}`))
      .json()
      .Items.map((item: { Id: string }) => item.Id);
  expect(await members(`&userId=${userId}`)).toEqual([film.id]);
  // A key is nobody, and nobody is shown what is in a list.
  expect(await members("")).toEqual([]);
});

describe("what a query names", () => {
  const found = async (query: string): Promise<string[]> =>
    (await a.admin("GET", `/Items?${query}`)).json().Items.map((item: { Id: string }) => item.Id);

  // UrlDecodeQueryFeature; the door writes such a query anew, so that both read the same (core/jellyfin/plain-query.ts).
  test("may be encoded as a whole, with names in their own letter case, and is decoded once", async () => {
    const wanted = `ids=${film.id}&limit=1`;
    expect(await found(encodeURIComponent(wanted))).toEqual([film.id]);
    expect(await found(`${encodeURIComponent(wanted)}=`)).toEqual([film.id]);
    expect(await found(`&${encodeURIComponent(wanted)}`)).toEqual([film.id]);
    const both = "recursive=true&includeItemTypes=Movie,Episode&limit=2";
    const other = `${both}&IDS=${film.id}`;
    expect(await found(encodeURIComponent(other))).toHaveLength(two[0] === two[1] ? 1 : 2);
    expect(await found(other)).toEqual([film.id]);
  });

  // CommaDelimitedCollectionModelBinder.
  test("is a list of commas or of repeated names, and not of both", async () => {
    const ids = two.join(",");
    const all = [...new Set(two)].sort();
    expect((await found(`ids=${ids}`)).sort()).toEqual(all);
    expect((await found(two.map((id) => `ids=${id}`).join("&"))).sort()).toEqual(all);
    expect(await found(`ids=${film.id}&ids=${ids},`)).toEqual([film.id]);
  });
});

describe("a deletion", () => {
  test("of somebody else's playlist is refused, and one that names nothing is done", async () => {
    const [mine, theirs] = [await owner(), await owner()];
    const id = await playlist(mine.userId, [film.id]);
    const { token } = theirs;
    expect((await a.call("DELETE", `/Items/${id}`, { token })).status).toBe(401);
    expect((await a.call("DELETE", `/Items?ids=${id}`, { token })).status).toBe(401);
    expect((await a.call("DELETE", `/Items?ids=x&ids=${id},${id}`, { token })).status).toBe(204);
    expect(await entries(id, mine.userId)).toEqual([film.id]);
    expect((await a.call("DELETE", `/Items/${id}`, { token: mine.token })).status).toBe(204);
  });
});
