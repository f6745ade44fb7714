// ReplicaFrozen: a server is stopped in mid-sentence (SIGSTOP). It accepts connections and never answers, and
// when it thaws it carries out what had been sent to it meanwhile. So whatever may be repeated is answered
// elsewhere, and whatever may not is never sent anywhere else.

import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, expect, test } from "vitest";
import { bothThere, pairBehindDoor } from "../support/front.ts";
import { delayOf, History } from "../support/history.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { until, Viewer } from "../support/viewer.ts";

const ANSWERED_WITHIN_MS = 5000;

const { pair, door } = await pairBehindDoor();

afterEach(() => bothThere(pair, door));

async function newViewer(name = "root"): Promise<Viewer> {
  const viewer = await Viewer.enter(door.url, { name });
  await viewer.knownAt([pair.a, pair.b]);
  return viewer;
}

test("every request that may be repeated is answered within 5 s, those under way and those that come", async () => {
  const viewer = await newViewer();
  const [home] = await viewer.homeAmong(pair);
  const itemId = await viewer.item();
  const history = new History();
  const position = { ItemId: itemId, PositionTicks: 10_000_000, PlaySessionId: "frozen" };
  const deeds: readonly [string, number, unknown?][] = [
    ["GET /Users/Me", 200],
    ["GET /Items?recursive=true", 200],
    [`GET /Items/${itemId}/Images/Primary`, 200],
    ["GET /System/Info/Public", 200],
    ["GET /Sessions", 200],
    ["GET /web/index.html", 200],
    ["POST /Sessions/Playing/Progress", 204, position],
    ["POST /Sessions/Capabilities/Full", 204, { PlayableMediaTypes: ["Video"] }],
    [`POST /UserFavoriteItems/${itemId}`, 200],
    [`POST /Items/${itemId}/PlaybackInfo`, 200, {}],
  ];
  const ask = (when: string) =>
    deeds.map(([line, expected, body]) => {
      const [method = "", path = ""] = line.split(" ");
      return history.record(when, line, async () => {
        const { status } = await viewer.call(method, path, body === undefined ? {} : { body });
        return { status, wrong: status === expected ? undefined : `not ${expected}` };
      });
    });
  home.freeze();
  await Promise.all(ask("at once"));
  await Promise.all(ask("later"));

  expect(history.wrongs()).toEqual([]);
  expect(Math.max(...history.operations.map(delayOf))).toBeLessThan(ANSWERED_WITHIN_MS);
  // By then the user has moved: nobody waits any more.
  const later = history.operations.filter(({ client }) => client === "later");
  expect(Math.max(...later.map(delayOf))).toBeLessThan(1000);
});

test("what may not be repeated is done once, or is told to all as it was done last", async () => {
  const viewer = await newViewer();
  const [home] = await viewer.homeAmong(pair);
  const itemId = await viewer.item();
  const names = Array.from({ length: 8 }, () => `list-${randomBytes(4).toString("hex")}`);
  const sent: Promise<unknown>[] = [];
  const starts: Promise<number | undefined>[] = [];
  home.freeze();
  // Some go to the frozen server before anybody can know, and some later.
  for (const name of names) {
    sent.push(attempt(viewer, "/Playlists", { Name: name, Ids: [], UserId: viewer.userId }));
    starts.push(
      attempt(viewer, "/Sessions/Playing", { ItemId: itemId, PlaySessionId: `play-${name}` }),
    );
    await sleep(500);
  }
  await Promise.all(sent);
  // What counts a play is in the journal: the other server carries it out, and nobody sees an error.
  expect(await Promise.all(starts)).toEqual(names.map(() => 204));
  home.thaw();
  await home.ready();
  // Whatever waits in the sockets of the thawed server is carried out now.
  await sleep(1000);

  const perServer = await Promise.all(
    [pair.a, pair.b].map(async (server) =>
      (await server.requests({ method: "POST" }))
        .filter(({ path }) => path === "/Playlists" || path === "/Sessions/Playing")
        .map(({ path, bodyHash }) => `${path} ${bodyHash}`),
    ),
  );
  // The frozen one got those of the first moments, the other one those that came later.
  expect(perServer.map((bodies) => bodies.length > 0)).toEqual([true, true]);
  // Each server was told each list once at most, by the door or out of the journal.
  for (const told of perServer) {
    const bodies = told.filter((body) => body.startsWith("/Playlists"));
    expect(bodies.filter((body, index) => bodies.indexOf(body) !== index)).toEqual([]);
  }
  for (const server of [pair.a, pair.b]) {
    const lists = await playlistsOf(server.url, server.apiKey);
    for (const name of names) {
      expect(lists.filter((list) => list === name).length, name).toBeLessThan(2);
    }
  }
  // What the thawed one counted on its own is overwritten: each play counts once, everywhere.
  for (const server of [pair.a, pair.b]) {
    await until(10_000, `the plays of ${server.name}`, async () => {
      return (await playCountAt(server, viewer.userId, itemId)) === names.length;
    });
  }
});

/** One try, as an app without retries makes it: answered or cut off. */
async function attempt(viewer: Viewer, path: string, body: unknown): Promise<number | undefined> {
  try {
    return (await viewer.call("POST", path, { body })).status;
  } catch {
    // The door closed the connection: what became of the request is not known, and it says nothing untrue.
    return undefined;
  }
}

async function playCountAt(server: StandIn, userId: string, itemId: string): Promise<number> {
  const reply = await fetch(`${server.url}/UserItems/${itemId}/UserData?userId=${userId}`, {
    headers: { authorization: `MediaBrowser Token="${server.apiKey}"` },
  });
  return ((await reply.json()) as { PlayCount: number }).PlayCount;
}

async function playlistsOf(url: string, apiKey: string): Promise<string[]> {
  const reply = await fetch(`${url}/Items?recursive=true&includeItemTypes=Playlist`, {
    headers: { authorization: `MediaBrowser Token="${apiKey}"` },
  });
  return ((await reply.json()) as { Items: { Name: string }[] }).Items.map(({ Name }) => Name);
}
