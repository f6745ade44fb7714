// The worst moments for a server to die: right after a login, before any other server knows of it; right
// after a logout; in the middle of what may not be done twice.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeEach, describe, expect, test } from "vitest";
import { bothThere, pairBehindDoor } from "../support/front.ts";
import { doorSees, statusOfToken } from "../support/household.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { type Answer, until, Viewer } from "../support/viewer.ts";

const { pair, door } = await pairBehindDoor();

beforeEach(() => bothThere(pair, door));

/** The server that answered this viewer's login, known without asking the door. */
async function givenBy(viewer: Viewer): Promise<StandIn> {
  for (const server of [pair.a, pair.b]) {
    if ((await server.state()).tokens.some(({ token }) => token === viewer.token)) return server;
  }
  throw new Error("no server gave this token");
}

test("a login whose server dies right after it is good at the other one within 2 s", async () => {
  for (const name of ["root", "kid", "root"]) {
    const viewer = await Viewer.enter(door.url, { name });
    await (await givenBy(viewer)).kill9();
    const startedMs = performance.now();
    const answer = await viewer.call("GET", "/Users/Me");
    expect([answer.status, performance.now() - startedMs < 2000]).toEqual([200, true]);
    for (const server of [pair.a, pair.b]) {
      if (!server.running) await server.launch();
      await server.ready();
    }
    await doorSees(door, 2);
  }
});

test("a login whose server dies in the middle of it is answered by the other one", async () => {
  for (const server of [pair.a, pair.b]) {
    await server.control("slow", { path: "/AuthenticateByName", firstByteMs: 1000 });
    await server.control("forget-requests");
  }
  const login = Viewer.enter(door.url);
  await until(2000, "a server has it", async () => {
    for (const server of [pair.a, pair.b]) {
      if (!(await asked(server))) continue;
      await server.kill9();
      return true;
    }
    return false;
  });
  expect(await statusOfToken(door.url, (await login).token)).toBe(200);
});

async function asked(server: StandIn): Promise<boolean> {
  return (await server.requests({ path: "/AuthenticateByName" })).length > 0;
}

test("a logout whose server dies with it is a logout all the same", async () => {
  const viewer = await Viewer.enter(door.url);
  await viewer.knownAt([pair.a, pair.b]);
  const [home] = await viewer.homeAmong(pair);
  await home.control("slow", { path: "/Sessions/Logout", firstByteMs: 1000 });
  const logout = viewer.call("POST", "/Sessions/Logout").then(
    ({ status }) => status,
    () => "cut",
  );
  await sleep(200);
  await home.kill9();
  expect([204, "cut"]).toContain(await logout);
  expect(await statusOfToken(door.url, viewer.token)).toBe(401);
  await home.restart();
  await home.ready();
  await doorSees(door, 2);
  expect(await statusOfToken(door.url, viewer.token)).toBe(401);
});

test("what may not be repeated is done once at most when its server dies in the middle of it, and what may be is answered", async () => {
  const viewer = await Viewer.enter(door.url);
  await viewer.knownAt([pair.a, pair.b]);
  const servers = [pair.a, pair.b];
  for (const server of servers) {
    await server.control("slow", { path: "/Playlists", method: "POST", firstByteMs: 2000 });
  }
  const list = viewer
    .call("POST", "/Playlists", { body: { Name: "once", Ids: [], UserId: viewer.userId } })
    .then((answer) => [answer.status, answer.json().Id] as const);
  const asked = async (server: StandIn) =>
    (await server.requests({ method: "POST", path: "/Playlists" })).length;
  await until(
    2000,
    "a server is asked",
    async () => (await asked(pair.a)) + (await asked(pair.b)) > 0,
  );
  // Lists have one writer, the leader's server, wherever the viewer's home is.
  const [writer, other] = (await asked(pair.a)) === 1 ? [pair.a, pair.b] : [pair.b, pair.a];
  await writer.control("slow", { path: "/Items", firstByteMs: 2000 });
  const browsing = viewer.call("GET", "/Items?recursive=true");
  await sleep(200);
  await writer.kill9();
  const startedMs = performance.now();
  expect((await browsing).status).toBe(200);
  expect(performance.now() - startedMs).toBeLessThan(1000);
  // The door does not send it again: the next leader does, out of the journal, once, and that is what it is answered with.
  const [status, id] = await list;
  expect([status, await asked(other)]).toEqual([200, 1]);
  const made = await viewer.call("GET", "/Items?recursive=true&includeItemTypes=Playlist");
  expect(made.json().Items.map(({ Id }: { Id: string }) => Id)).toEqual([id]);
});

describe("a change that may not be sent twice is answered by who did it again:", () => {
  /** The server that was sent it dies before it has done anything; answers with what the client was told. */
  async function killedDuring(
    viewer: Viewer,
    path: string,
    { query = "", body }: { readonly query?: string; readonly body?: unknown },
  ): Promise<Answer> {
    for (const server of [pair.a, pair.b]) {
      await server.control("slow", { path, method: "POST", firstByteMs: 3000, times: 1 });
      await server.control("forget-requests");
    }
    const answer = viewer.call("POST", path + query, { body });
    await until(3000, "a server has it", async () => {
      for (const server of [pair.a, pair.b]) {
        if ((await server.requests({ method: "POST", path })).length === 0) continue;
        await (server === pair.a ? pair.b : pair.a).control("clear");
        await server.kill9();
        return true;
      }
      return false;
    });
    return await answer;
  }

  async function owner(): Promise<Viewer> {
    const viewer = await Viewer.enter(door.url);
    await viewer.knownAt([pair.a, pair.b]);
    return viewer;
  }

  /** A name that no earlier try of the test has taken. */
  const newName = () => `una-${randomUUID().slice(0, 8)}`;

  test("a user who is made, under the id that they keep", async () => {
    const [viewer, name] = [await owner(), newName()];
    const body = { Name: name, Password: name };
    const made = await killedDuring(viewer, "/Users/New", { body });
    expect([made.status, made.json().Name]).toEqual([200, name]);
    expect((await Viewer.enter(door.url, { name })).userId).toBe(made.json().Id);
    await bothThere(pair, door);
    const users = (await viewer.call("GET", "/Users")).json() as { Name: string }[];
    expect(users.filter(({ Name }) => Name === name)).toHaveLength(1);
  });

  test("a key", async () => {
    const [viewer, name] = [await owner(), newName()];
    const made = await killedDuring(viewer, "/Auth/Keys", { query: `?app=${name}` });
    expect(made.status).toBe(204);
    const { Items } = (await viewer.call("GET", "/Auth/Keys")).json() as {
      Items: { AppName: string }[];
    };
    expect(Items.filter(({ AppName }) => AppName === name)).toHaveLength(1);
  });

  test("a password", async () => {
    const [viewer, name] = [await owner(), newName()];
    await viewer.call("POST", "/Users/New", { body: { Name: name, Password: name } });
    const una = await Viewer.enter(door.url, { name });
    await una.knownAt([pair.a, pair.b]);
    const body = { CurrentPw: name, NewPw: "new" };
    expect((await killedDuring(una, "/Users/Password", { body })).status).toBe(204);
    expect((await una.call("GET", "/Users/Me")).status).toBe(200);
    await expect(Viewer.enter(door.url, { name })).rejects.toThrow("401");
  });
});

test("a server's own 500 is asked of another once, and two of them are the answer", async () => {
  const viewer = await Viewer.enter(door.url);
  await viewer.knownAt([pair.a, pair.b]);
  const [home, other] = await viewer.homeAmong(pair);
  await home.control("fail", { path: "/Items\\?", status: 500 });
  expect((await viewer.call("GET", "/Items?recursive=true")).status).toBe(200);
  await other.control("fail", { path: "/Items\\?", status: 500 });
  await other.control("forget-requests");
  expect((await viewer.call("GET", "/Items?recursive=true")).status).toBe(500);
  expect((await other.requests({ path: "/Items\\?" })).length).toBe(1);
});

test("an answer that breaks off in the middle is asked for elsewhere, and the client sees one whole answer", async () => {
  const viewer = await Viewer.enter(door.url);
  await viewer.knownAt([pair.a, pair.b]);
  const [home] = await viewer.homeAmong(pair);
  for (const how of ["reset", "close"]) {
    await home.control("reset", { path: "/Items\\?", afterBytes: 100, how, times: 1 });
    const answer = await viewer.call("GET", "/Items?recursive=true");
    expect(answer.status).toBe(200);
    expect(answer.json().Items.length).toBeGreaterThan(0);
  }
});
