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
