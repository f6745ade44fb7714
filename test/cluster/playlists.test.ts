// Playlists and collections have one writer, and are the same on every server: same ids, same entries, in the same
// order, each added once, also when the server that said so dies at that moment. Who made a change sees it at once.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { type Household, startHousehold, withKey } from "../support/household.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { until, Viewer } from "../support/viewer.ts";

/** When a slow server does what it was asked for: after it was asked for once more, and before the last look at it. */
const LATE_MS = 9000;
const root = mkdtempSync(join(tmpdir(), "jellybloom-playlists-"));
const people = ["ann", "bea", "cem", "dot", "eli", "fay"];
let pair: Household;
let door: DoorProcess;
let films: string[] = [];
let viewers: Viewer[] = [];

beforeAll(async () => {
  for (const film of ["One", "Two", "Three", "Four"]) {
    mkdirSync(join(root, "media", "films", film), { recursive: true });
    writeFileSync(join(root, "media", "films", film, `${film}.bin`), film);
  }
  pair = await startHousehold({
    mediaDir: join(root, "media"),
    people: people.map((name) => ({ name, policy: { IsAdministrator: true } })),
  });
  door = await startDoor({
    replicas: [pair.a, pair.b],
    apiKey: pair.a.apiKey,
    data: join(root, "data"),
    args: ["--lease-limit", "2s"],
  });
  viewers = await Promise.all(people.map((name) => Viewer.enter(door.url, { name })));
  for (const viewer of viewers) await viewer.knownAt([pair.a, pair.b]);
  films = (await itemsAt(pair.a, "/Items?recursive=true&includeItemTypes=Movie")).map(
    ({ Id }) => Id,
  );
});

afterAll(async () => {
  await door?.stop();
  await pair?.stop();
  rmSync(root, { recursive: true, force: true });
});

type Item = { readonly Id: string; readonly Name: string };

async function itemsAt(server: StandIn, path: string): Promise<Item[]> {
  const reply = await withKey(server, "GET", path);
  return ((await reply.json()) as { Items: Item[] }).Items;
}

/** Nothing where the list is not there yet. */
async function entriesAt(server: StandIn, id: string, userId: string): Promise<string[]> {
  const path = `/Playlists/${id}/Items?userId=${userId}`;
  const items = await itemsAt(server, path).catch(() => []);
  return items.map(({ Id }) => Id);
}

async function membersAt(server: StandIn, id: string): Promise<string[]> {
  const path = `/Items?parentId=${id}&userId=${viewers[0]?.userId}`;
  return (await itemsAt(server, path)).map(({ Id }) => Id).sort();
}

/** Somebody whose home is another server than the leader's. */
async function stranger(): Promise<Viewer> {
  const [first] = viewers;
  if (first === undefined) throw new Error("nobody is there");
  const [{ name: writer }] = await first.leaderAmong(pair);
  for (const viewer of viewers) if ((await viewer.home()) !== writer) return viewer;
  throw new Error("everybody lives with the leader");
}

async function create(viewer: Viewer, name: string, ids: readonly string[]): Promise<string> {
  const body = { Name: name, Ids: ids, UserId: viewer.userId, MediaType: "Video" };
  const reply = await viewer.call("POST", "/Playlists", { body });
  expect(reply.status).toBe(200);
  return reply.json().Id;
}

async function entries(viewer: Viewer, id: string): Promise<string[]> {
  const reply = await viewer.call("GET", `/Playlists/${id}/Items?userId=${viewer.userId}`);
  return reply.json().Items.map((item: { Id: string }) => item.Id);
}

async function equalAt(id: string, userId: string, wanted: readonly string[], limitMs = 5000) {
  for (const server of [pair.a, pair.b]) {
    let own: string[] = [];
    await until(limitMs, `the playlist at ${server.name}`, async () => {
      own = await entriesAt(server, id, userId);
      return own.join() === wanted.join();
    }).catch((error: unknown) => {
      throw new Error(`${String(error)}: it has [${own.join()}] and not [${wanted.join()}]`);
    });
  }
}

describe("playlists", () => {
  test("whoever changes one sees it at once, though their home is elsewhere, and both servers have it", async () => {
    const viewer = await stranger();
    const [one = "", two = "", three = ""] = films;
    const id = await create(viewer, "Evening", [one, two]);
    expect(await entries(viewer, id)).toEqual([one, two]);
    const steps: [string, string, unknown, string[]][] = [
      ["POST", `/Playlists/${id}/Items?ids=${three}`, undefined, [one, two, three]],
      ["POST", `/Playlists/${id}/Items?ids=${one}`, undefined, [one, two, three, one]],
      ["POST", `/Playlists/${id}/Items/${three}/Move/0`, undefined, [three, one, two, one]],
      ["DELETE", `/Playlists/${id}/Items?entryIds=${one}`, undefined, [three, two]],
      ["POST", `/Playlists/${id}`, { Name: "Night", Ids: [two, one], IsPublic: true }, [two, one]],
    ];
    for (const [method, path, body, wanted] of steps) {
      const reply = await viewer.call(method, path, { body });
      expect(reply.status).toBe(204);
      expect(await entries(viewer, id)).toEqual(wanted);
    }
    await equalAt(id, viewer.userId, [two, one]);
    for (const server of [pair.a, pair.b]) {
      await until(5000, `its name at ${server.name}`, async () => {
        const reply = await withKey(server, "GET", `/Items/${id}?userId=${viewer.userId}`);
        return ((await reply.json()) as Item).Name === "Night";
      });
      const own = await fetch(`${server.url}/Playlists/${id}`, {
        headers: { authorization: await tokenAt(server, viewer) },
      });
      expect(await own.json()).toMatchObject({ OpenAccess: true });
    }
  });

  test("a change that its server refuses in the middle of it leaves the list as it was, on both", async () => {
    const viewer = await stranger();
    const [one = "", two = "", three = ""] = films;
    const id = await create(viewer, "Half", [one, two]);
    await equalAt(id, viewer.userId, [one, two]);
    // Each sidecar has looked at it since it was made.
    await sleep(3000);
    const refused = await viewer.call("POST", `/Playlists/${id}`, { body: { Ids: [three, null] } });
    expect(refused.status).toBe(400);
    await equalAt(id, viewer.userId, [one, two]);
    expect(await entries(viewer, id)).toEqual([one, two]);
  });

  test("two of one name, made by two people at once, have two ids, each the same on both servers", async () => {
    const [one, two] = viewers as [Viewer, Viewer];
    const [first, second] = await Promise.all([
      create(one, "Mix", films.slice(0, 1)),
      create(two, "Mix", films.slice(1, 2)),
    ]);
    expect(first).not.toBe(second);
    await equalAt(first, one.userId, films.slice(0, 1));
    await equalAt(second, two.userId, films.slice(1, 2));
  });

  test("many appends at once are each there once, in one order", async () => {
    const [viewer] = viewers as [Viewer];
    const id = await create(viewer, "Many", []);
    const ids = Array.from({ length: 40 }, (_, at) => films[at % films.length] ?? "");
    const answers = await Promise.all(
      ids.map((film) => viewer.call("POST", `/Playlists/${id}/Items?ids=${film}`)),
    );
    expect(answers.every(({ status }) => status === 204)).toBe(true);
    const shown = await entries(viewer, id);
    expect([...shown].sort()).toEqual([...ids].sort());
    await equalAt(id, viewer.userId, shown);
  });

  test("a deleted one is gone everywhere, and one of the same name is the same everywhere", async () => {
    const [viewer] = viewers as [Viewer];
    const id = await create(viewer, "Again", films.slice(0, 2));
    expect((await viewer.call("DELETE", `/Items/${id}`)).status).toBe(204);
    const next = await create(viewer, "Again", films.slice(2, 3));
    expect(next).toBe(id);
    await equalAt(next, viewer.userId, films.slice(2, 3));
  });
});

describe("several lists", () => {
  test("that are deleted in one request a moment after they were changed are gone everywhere", async () => {
    const viewer = await stranger();
    const [one = "", two = ""] = films;
    const ids = [await create(viewer, "First", [one]), await create(viewer, "Second", [one])];
    for (const id of ids) {
      expect((await viewer.call("POST", `/Playlists/${id}/Items?ids=${two}`)).status).toBe(204);
    }
    // When they are looked at once more.
    await sleep(1100);
    expect((await viewer.call("DELETE", `/Items?ids=${ids.join()}`)).status).toBe(204);
    const left = async (): Promise<string[]> => {
      const asked = [pair.a, pair.b].map(async (server) => {
        const items = await itemsAt(server, `/Items?ids=${ids.join()}&userId=${viewer.userId}`);
        return items.map(({ Name }) => `${Name} at ${server.name}`);
      });
      return (await Promise.all(asked)).flat();
    };
    await until(5000, "they are gone", async () => (await left()).length === 0);
    await sleep(2000);
    expect(await left()).toEqual([]);
  });
});

describe("collections", () => {
  test("are not told of to who may not make any", async () => {
    const kid = await Viewer.enter(door.url, { name: "kid" });
    const [viewer] = viewers;
    expect((await viewer?.call("POST", "/Collections?name=Hidden"))?.status).toBe(200);
    for (const name of ["Hidden", "None"]) {
      for (const ids of ["", `&ids=${films[0]}`]) {
        const reply = await kid.call("POST", `/Collections?name=${name}${ids}`);
        expect([reply.status, reply.text]).toEqual([403, ""]);
      }
    }
  });

  test("a second creation of one name adds to the first, which a server would have emptied", async () => {
    const viewer = await stranger();
    const [one = "", two = "", three = ""] = films;
    const make = async (ids: string) =>
      await viewer.call("POST", `/Collections?name=Best%20of&ids=${ids}`);
    const first = (await make(one)).json().Id;
    const again = await make(`${two},${three}`);
    expect([again.status, again.json()]).toEqual([200, { Id: first }]);
    expect((await viewer.call("POST", "/Collections?name=Best%20of")).json()).toEqual({
      Id: first,
    });
    for (const server of [pair.a, pair.b]) {
      await until(5000, `the collection at ${server.name}`, async () => {
        return (await membersAt(server, first)).join() === [one, two, three].sort().join();
      });
    }
  });

  test("one that goes by another name by now is not emptied by its first one, or by one of the same folder", async () => {
    // Before: the id is made of the folder, «Marvel  1 [boxset]», and only names were compared.
    const viewer = await stranger();
    const [one = "", two = "", three = ""] = films;
    const make = async (name: string, ids: string) =>
      await viewer.call("POST", `/Collections?name=${encodeURIComponent(name)}&ids=${ids}`);
    const first = (await make("Marvel: 1", one)).json().Id;
    const shown = (await viewer.call("GET", `/Items/${first}`)).json();
    const renamed = await viewer.call("POST", `/Items/${first}`, {
      body: { ...shown, Name: "MCU" },
    });
    expect(renamed.status).toBe(204);
    for (const [name, film] of [
      ["Marvel: 1", two],
      ["Marvel? 1", three],
    ] as const) {
      const again = await make(name, film);
      expect([again.status, again.json()]).toEqual([200, { Id: first }]);
    }
    for (const server of [pair.a, pair.b]) {
      await until(5000, `the collection at ${server.name}`, async () => {
        const isWhole = (await membersAt(server, first)).join() === [one, two, three].sort().join();
        const [item] = await itemsAt(server, `/Items?ids=${first}`);
        return isWhole && item?.Name === "MCU";
      });
    }
  });

  test("of two creations at once neither loses what it was given", async () => {
    const [one, two] = viewers as [Viewer, Viewer];
    const made = await Promise.all(
      [one, two].map((viewer, at) =>
        viewer.call("POST", `/Collections?name=Both&ids=${films[at]}`),
      ),
    );
    const ids = new Set(made.map((reply) => reply.json().Id as string));
    expect(ids.size).toBe(1);
    const wanted = films.slice(0, 2).sort().join();
    for (const server of [pair.a, pair.b]) {
      await until(5000, `the collection at ${server.name}`, async () => {
        return (await membersAt(server, [...ids][0] ?? "")).join() === wanted;
      });
    }
  });
});

describe("when the writer's server dies", () => {
  test("what it had said is done is on the other, once, and on itself when it is back", async () => {
    const viewer = await stranger();
    const [one = "", two = ""] = films;
    const id = await create(viewer, "Survivor", [one]);
    await equalAt(id, viewer.userId, [one]);
    const [writer] = await viewer.leaderAmong(pair);
    const other = writer === pair.a ? pair.b : pair.a;
    // Nobody can read there any more what became of it: only who takes over can say.
    await writer.control("silent", { path: "/Playlists/.*/Items", method: "GET" });
    const reply = await viewer.call("POST", `/Playlists/${id}/Items?ids=${two}`);
    await writer.kill9();
    expect(reply.status).toBe(204);
    await until(15_000, "the entry at the other server", async () => {
      return (await entriesAt(other, id, viewer.userId)).join() === `${one},${two}`;
    });
    // Another one leads, and writes.
    const next = await viewer.call("POST", `/Playlists/${id}/Items?ids=${one}`);
    expect(next.status).toBe(204);
    await writer.launch();
    await equalAt(id, viewer.userId, [one, two, one], 15_000);
  });

  test("what one person adds, one after the other, is there in that order", async () => {
    const [viewer] = viewers as [Viewer];
    const id = await create(viewer, "In order", []);
    const [writer] = await viewer.leaderAmong(pair);
    // What it says yes to from now on nobody can tell of before it has died.
    await writer.control("silent", { path: "/Playlists/.*/Items", method: "GET" });
    const wanted: string[] = [];
    for (let at = 0; at < 24; at++) {
      const film = films[at % films.length] ?? "";
      // It dies under the eighth: nobody knows whether it has done that one.
      const isCut = at === 8;
      const path = `/Playlists/${id}/Items`;
      if (isCut) await writer.control("silent", { path, method: "POST", executed: true });
      const asked = viewer.call("POST", `${path}?ids=${film}`);
      if (isCut) {
        await until(
          2000,
          "it is there",
          async () => (await writer.requests({ method: "POST", path })).length > 8,
        );
        await writer.kill9();
      }
      expect((await asked).status).toBe(204);
      wanted.push(film);
    }
    await writer.launch();
    await equalAt(id, viewer.userId, wanted, 15_000);
  });
});

describe("when the writer's server is slow", () => {
  test("what it does long after its caller has left is there once, on both", async () => {
    const [viewer] = viewers as [Viewer];
    const [one = "", two = ""] = films;
    const id = await create(viewer, "Slow", [one]);
    await equalAt(id, viewer.userId, [one]);
    const [writer] = await viewer.leaderAmong(pair);
    const path = `/Playlists/${id}/Items`;
    await writer.control("slow", { path, method: "POST", firstByteMs: LATE_MS, times: 1 });
    const begunMs = performance.now();
    await expect(
      fetch(`${door.url}${path}?ids=${two}`, {
        method: "POST",
        headers: { authorization: viewer.authorization },
        signal: AbortSignal.timeout(300),
      }),
    ).rejects.toThrow("timeout");
    // Whoever asked has left, so that the next leader's caller asks once more.
    await equalAt(id, viewer.userId, [one, two], LATE_MS - 1000);
    await sleep(LATE_MS + 200 - (performance.now() - begunMs));
    await equalAt(id, viewer.userId, [one, two], 15_000);
    expect(await entriesAt(writer, id, viewer.userId)).toEqual([one, two]);
  });
});

/** What this viewer's own token at one server lets them say there. */
async function tokenAt(server: StandIn, viewer: Viewer): Promise<string> {
  const { tokens } = await server.state();
  const token = tokens.find(({ deviceId }) => deviceId === viewer.deviceId)?.token ?? "";
  return `MediaBrowser Token="${token}"`;
}
