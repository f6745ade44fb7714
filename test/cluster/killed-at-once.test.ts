// The worst moments for a server to die: right after a login, before any other server knows of it; right
// after a logout; in the middle of what may not be done twice.

import { setTimeout as sleep } from "node:timers/promises";
import { beforeEach, expect, test } from "vitest";
import { bothThere, pairBehindDoor } from "../support/front.ts";
import { doorSees, statusOfToken } from "../support/household.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { until, Viewer } from "../support/viewer.ts";

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
