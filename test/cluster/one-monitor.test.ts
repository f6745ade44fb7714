// One server watches the libraries' folders, the leader's, and the others learn of new files from it; when it is gone
// another one watches. Who looks through the door sees what the owner wants, and who takes Jellybloom away again gets
// servers that watch for themselves, as they did.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runCommand } from "../support/command.ts";
import { CLUSTER_KEY, type DoorProcess, startDoor } from "../support/door.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { asAdmin } from "../support/task-household.ts";
import { until, Viewer } from "../support/viewer.ts";

interface Library {
  readonly Name: string;
  readonly ItemId: string;
  readonly LibraryOptions: Record<string, unknown>;
}

const root = mkdtempSync(join(tmpdir(), "jellybloom-monitor-"));
const films = join(root, "media", "films");
const optionsPath = "/Library/VirtualFolders/LibraryOptions";
let pair: { a: StandIn; b: StandIn; stop: () => Promise<void> };
let door: DoorProcess;

function write(film: string): string {
  mkdirSync(join(films, film), { recursive: true });
  writeFileSync(join(films, film, `${film}.bin`), film);
  return join(films, film, `${film}.bin`);
}

async function start(data: string, ...args: string[]): Promise<void> {
  door = await startDoor({
    ...{ replicas: [pair.a, pair.b], apiKey: pair.a.apiKey, data: join(root, data) },
    args: ["--cluster-key", CLUSTER_KEY, "--lease-limit", "2s", ...args],
  });
}

async function moviesAt(server: Pick<StandIn, "url" | "apiKey">): Promise<Library> {
  const reply = await asAdmin(server as StandIn, "GET", "/Library/VirtualFolders");
  const found = ((await reply.json()) as Library[]).find(({ Name }) => Name === "Movies");
  if (found === undefined) throw new Error("there is no library of films");
  return found;
}

async function isOn(server: Pick<StandIn, "url" | "apiKey">): Promise<unknown> {
  return (await moviesAt(server)).LibraryOptions.EnableRealtimeMonitor;
}

/** Whether the server's monitor sees a change there; it is taken in then. */
async function sees(server: StandIn, path: string): Promise<boolean> {
  return (await server.control("file-changed", { path })).seen === true;
}

async function hasFilm(server: StandIn, name: string): Promise<boolean> {
  const reply = await asAdmin(server, "GET", "/Items?recursive=true&includeItemTypes=Movie");
  return ((await reply.json()) as { Items: { Name: string }[] }).Items.some(
    (item) => item.Name === name,
  );
}

/** The leader's server, and the other. */
async function leading(): Promise<readonly [StandIn, StandIn]> {
  const status = ["status", "--admin", door.admin, "--cluster-key", CLUSTER_KEY];
  let name = "";
  await until(5000, "somebody leads", async () => {
    name = /leader: (\w+)/.exec((await runCommand(status)).said)?.[1] ?? "";
    return name === "a" || name === "b";
  });
  return name === "a" ? [pair.a, pair.b] : [pair.b, pair.a];
}

const servers = () => [pair.a, pair.b];
const writesAt = async (server: StandIn) =>
  await server.requests({ method: "POST", path: optionsPath });
const throughDoor = () => ({ url: door.url, apiKey: pair.a.apiKey });

beforeAll(async () => {
  const path = write("One");
  pair = await startPair({ mediaDir: join(root, "media") });
  for (const server of servers()) {
    const { ItemId } = await moviesAt(server);
    const change = { EnableRealtimeMonitor: true, EnablePhotos: true };
    await server.control("configure", { document: `library-options/${ItemId}`, change });
    await server.control("configure", {
      document: "system",
      change: { LibraryUpdateDuration: 0.1 },
    });
    await asAdmin(server, "DELETE", "/Library/VirtualFolders/Paths?name=Movies&path=/nowhere");
  }
  for (const server of servers()) await until(3000, "it watches", () => sees(server, path));
});

afterAll(async () => {
  await door?.stop();
  await pair?.stop();
  rmSync(root, { recursive: true, force: true });
});

test("the leader's server alone watches and tells the others, another follows it, and in the end each watches itself", async () => {
  await start("one");
  const [leader, other] = await leading();
  await until(5000, "one server is to watch", async () => (await isOn(other)) === false);
  expect(await isOn(leader)).toBe(true);
  await until(3000, "the other one looks away", async () => !(await sees(other, films)));

  // A new film is seen by the one, and is at both. Jellyfin tells of it while anybody has a session there.
  await Viewer.enter(leader.url);
  const two = write("Two");
  expect(await sees(leader, two)).toBe(true);
  await until(5000, "the film at the other server", () => hasFilm(other, "Two"));

  // An administrator who changes another option is shown what is wanted, and says it again.
  const shown = await moviesAt(throughDoor());
  expect(shown.LibraryOptions.EnableRealtimeMonitor).toBe(true);
  const say = async (change: object) => {
    const body = { Id: shown.ItemId, LibraryOptions: { ...shown.LibraryOptions, ...change } };
    const reply = await asAdmin(throughDoor() as StandIn, "POST", optionsPath, body);
    expect(reply.status).toBe(204);
  };
  await say({ EnablePhotos: false });
  await until(3000, "the option everywhere", async () => {
    return (await moviesAt(other)).LibraryOptions.EnablePhotos === false;
  });
  expect([await isOn(leader), await isOn(other)]).toEqual([true, false]);

  // The leader's server is killed: the other one leads, and watches.
  await leader.kill9();
  await until(6000, "the other server is to watch", async () => (await isOn(other)) === true);
  const three = write("Three");
  await until(3000, "it watches", () => sees(other, three));
  expect(await hasFilm(other, "Three")).toBe(true);

  // Who wants none is not overruled by the server that comes back.
  await say({ EnableRealtimeMonitor: false });
  await leader.launch();
  await until(8000, "nobody is to watch", async () => {
    return (await isOn(leader)) === false && (await isOn(other)) === false;
  });
  expect(await isOn(throughDoor())).toBe(false);
  await say({ EnableRealtimeMonitor: true });
  await until(3000, "one server is to watch again", async () => (await isOn(other)) === true);

  // Jellybloom's own end changes nothing, and taking it away gives everything back.
  await door.terminate();
  expect([await isOn(leader), await isOn(other)]).toEqual([false, true]);
  const replicas = servers().flatMap(({ name, url }) => ["--replica", `${name}=${url}`]);
  const { said } = await runCommand([
    ...["leave", ...replicas, "--api-key", pair.a.apiKey, "--data", join(root, "one")],
    ...["--cluster-key", CLUSTER_KEY],
  ]);
  expect(said).toContain("it watches the folders of Movies itself again");
  for (const server of servers()) {
    expect(await isOn(server)).toBe(true);
    await until(3000, "it watches itself", () => sees(server, films));
  }
  await door.stop();
}, 40_000);

test("with --library-monitors all every server goes on watching for itself", async () => {
  const before = await Promise.all(servers().map(writesAt));
  await start("all", "--library-monitors", "all");
  await leading();
  await sleep(1000);
  expect(await Promise.all(servers().map(writesAt))).toEqual(before);
  for (const server of servers()) expect(await isOn(server)).toBe(true);
});
