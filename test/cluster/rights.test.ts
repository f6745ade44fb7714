// What nobody answered is done again out of the journal, in the cluster's own name: but only what whoever asked was
// allowed to ask for. Somebody who may not, and who leaves before a server could say so, has changed nothing. Real
// processes.

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { emptyFolder } from "../http/sidecar-cluster.ts";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { bothThere } from "../support/front.ts";
import { withKey } from "../support/household.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { until, Viewer } from "../support/viewer.ts";

/** The sidecar begins to do a change again 0.3 s after its outcome. */
const longEnoughMs = 2500;
/** What one server has done is on the other within a tenth of this. */
const spreadMs = 600;

const media = emptyFolder();
let pair: Awaited<ReturnType<typeof startPair>>;
let door: DoorProcess;
let owner: Viewer;
let kid: Viewer;

beforeAll(async () => {
  pair = await startPair({ mediaDir: media.path });
  door = await startDoor({ replicas: [pair.a, pair.b], apiKey: pair.a.apiKey });
  owner = await Viewer.enter(door.url);
  kid = await Viewer.enter(door.url, { name: "kid" });
  for (const viewer of [owner, kid]) await viewer.knownAt([pair.a, pair.b]);
});

beforeEach(() => bothThere(pair, door));

afterAll(async () => {
  await door.stop();
  await pair.stop();
  media.remove();
});

interface Ask {
  readonly method: string;
  readonly path: string;
  readonly body?: unknown;
}

/** Sends it, as this viewer or as nobody, and is gone before any server answers. */
async function askAndLeave({ method, path, body }: Ask, who: Viewer | undefined): Promise<void> {
  const headers: Record<string, string> = { "content-type": "application/json" };
  if (who !== undefined) headers.authorization = who.authorization;
  const request: RequestInit = { method, headers, signal: AbortSignal.timeout(200) };
  if (body !== undefined) request.body = JSON.stringify(body);
  await expect(fetch(`${door.url}${path}`, request)).rejects.toThrow();
}

/** Whatever a household would notice had somebody changed it. */
async function stateOf(server: StandIn): Promise<unknown> {
  const read = async (path: string) => (await withKey(server, "GET", path)).json();
  const users = (await read("/Users")) as { Name: string; Policy: Record<string, unknown> }[];
  return {
    users: users
      .map(({ Name, Policy }) => [Name, Policy.IsAdministrator, Policy.IsDisabled])
      .sort(),
    language: ((await read("/System/Configuration")) as Record<string, unknown>)
      .PreferredMetadataLanguage,
    branding: await read("/Branding/Configuration"),
    keys: ((await read("/Auth/Keys")) as { Items: { AppName: string }[] }).Items.map(
      ({ AppName }) => AppName,
    ).sort(),
    folders: ((await read("/Library/VirtualFolders")) as { Name: string }[]).map(
      ({ Name }) => Name,
    ),
  };
}

async function statesOf(): Promise<unknown> {
  return { a: await stateOf(pair.a), b: await stateOf(pair.b) };
}

async function slowChanges(): Promise<void> {
  for (const server of [pair.a, pair.b]) {
    for (const method of ["POST", "DELETE"]) {
      await server.control("slow", { path: "/", method, firstByteMs: 1000, times: 40 });
    }
  }
}

function asksForMore(): readonly Ask[] {
  const policy = {
    IsAdministrator: true,
    AuthenticationProviderId: "x",
    PasswordResetProviderId: "x",
  };
  const login = "/Branding/Configuration";
  return [
    { method: "POST", path: "/Users/New", body: { Name: "mallory", Password: "mallory" } },
    { method: "POST", path: `/Users/${kid.userId}/Policy`, body: policy },
    { method: "DELETE", path: `/Users/${owner.userId}` },
    { method: "POST", path: `/Users/Password?userId=${owner.userId}`, body: { NewPw: "mine" } },
    { method: "POST", path: `/Users/${owner.userId}/Password`, body: { ResetPassword: true } },
    { method: "POST", path: `/Users?userId=${owner.userId}`, body: { Name: "nobody" } },
    { method: "POST", path: "/System/Configuration", body: { PreferredMetadataLanguage: "xx" } },
    { method: "POST", path: "/System/Configuration/branding", body: { LoginDisclaimer: "mine" } },
    { method: "POST", path: `${login}`, body: { LoginDisclaimer: "mine" } },
    { method: "POST", path: "/Auth/Keys?app=mallory" },
    {
      method: "POST",
      path: "/Library/VirtualFolders?name=mallory&collectionType=movies",
      body: {},
    },
  ];
}

describe.each(["nobody", "an ordinary user"])("asked for by %s", (who) => {
  test("and left before the answer, nothing of an administrator's is done again", async () => {
    const before = await statesOf();
    await slowChanges();
    for (const ask of asksForMore()) await askAndLeave(ask, who === "nobody" ? undefined : kid);
    await sleep(longEnoughMs);
    expect(await statesOf()).toEqual(before);
    for (const server of [pair.a, pair.b]) await server.control("clear");
    // The passwords are what they were.
    for (const name of ["root", "kid"]) await Viewer.enter(door.url, { name });
  });
});

/** Who could be two people is not done; a server that reads it in one way only, asked through the door, reads the door's. */
const twoReadings: readonly (readonly [string, (mine: string, theirs: string) => Ask])[] = [
  [
    "a query that is encoded as a whole",
    (_mine, theirs) => ({
      method: "POST",
      path: `/Users/Password?userid%3D${theirs}`,
      body: { CurrentPw: "kid", NewPw: "kid" },
    }),
  ],
  [
    "that query with an empty value behind it",
    (_mine, theirs) => ({
      method: "POST",
      path: `/Users/Password?UserId%3D${theirs}=`,
      body: { CurrentPw: "kid", NewPw: "kid" },
    }),
  ],
  [
    "an empty id in the path, and another in the query",
    (_mine, theirs) => ({
      method: "POST",
      path: `/Users/${"0".repeat(32)}/Configuration?userId=${theirs}`,
      body: { SubtitleLanguagePreference: "xxx" },
    }),
  ],
  [
    "an id in the path that only .NET can read, and another in the query",
    (mine, theirs) => ({
      method: "POST",
      path: `/Users/${"%20".repeat(80)}${mine}/Configuration?userId=${theirs}`,
      body: { SubtitleLanguagePreference: "xxx" },
    }),
  ],
];

test.each(twoReadings)("with %s nobody else is changed", async (_what, ask) => {
  for (const server of [pair.a, pair.b]) await server.control("clear");
  const before = await configurationsOf();
  const { method, path, body } = ask(kid.userId, owner.userId);
  const { status } = await kid.call(method, path, { body });
  expect([400, 401, 403, 404]).toContain(status);
  await sleep(spreadMs);
  expect(await configurationsOf()).toEqual(before);
  for (const server of [pair.a, pair.b]) await Viewer.enter(server.url, { name: "root" });
  // And is still logged in, everywhere.
  expect((await owner.call("GET", "/Users/Me")).status).toBe(200);
});

async function configurationsOf(): Promise<unknown[]> {
  return await Promise.all(
    [pair.a, pair.b].map(async (server) => {
      const reply = await withKey(server, "GET", `/Users/${owner.userId}`);
      return ((await reply.json()) as { Configuration: unknown }).Configuration;
    }),
  );
}

test("nobody deletes somebody else's playlist, by whatever list of ids, left or not", async () => {
  for (const server of [pair.a, pair.b]) await server.control("clear");
  const body = { Name: "kept", Ids: [], UserId: owner.userId };
  const { Id } = (await owner.call("POST", "/Playlists", { body })).json() as { Id: string };
  const isThere = async (server: StandIn) => {
    const reply = await withKey(server, "GET", `/Items?ids=${Id}`);
    return ((await reply.json()) as { Items: unknown[] }).Items.length === 1;
  };
  for (const server of [pair.a, pair.b]) {
    await until(8000, "it is there", () => isThere(server));
  }
  // One of several values is a whole id, so that the server deletes nothing and is content.
  expect((await kid.call("DELETE", `/Items?ids=x&ids=${Id},${Id}`)).status).toBe(204);
  expect((await kid.call("DELETE", `/Items?ids=${Id}`)).status).toBe(401);
  await slowChanges();
  const unknown = "f".repeat(32);
  await askAndLeave({ method: "DELETE", path: `/Items?ids=${unknown},${Id}` }, kid);
  const many = Array.from({ length: 150 }, (_, at) => (at + 1).toString(16).padStart(32, "0"));
  await askAndLeave({ method: "DELETE", path: `/Items?ids=${many.join(",")},${Id}` }, kid);
  await sleep(longEnoughMs);
  for (const server of [pair.a, pair.b]) {
    await server.control("clear");
    expect(await isThere(server)).toBe(true);
  }
});

test("asked for by an administrator and left, it is done again everywhere", async () => {
  await slowChanges();
  await askAndLeave(
    { method: "POST", path: "/Users/New", body: { Name: "left", Password: "left" } },
    owner,
  );
  for (const server of [pair.a, pair.b]) {
    await until(8000, "it is there", async () => {
      const users = (await (await withKey(server, "GET", "/Users")).json()) as { Name: string }[];
      return users.some(({ Name }) => Name === "left");
    });
  }
});
