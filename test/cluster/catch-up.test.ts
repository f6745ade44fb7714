// A server whose data were put back to an older state does again what it lacks, when its owner says that the journal is
// right: what others did since then, and what it once did itself. Real processes: a door with its sidecars inside.

import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runCli } from "../support/cli.ts";
import { CLUSTER_KEY, type DoorProcess, startDoor } from "../support/door.ts";
import { copyDatabase } from "../support/jellyfin/database.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { databaseFile } from "../support/jellyfin/world.ts";
import { makeLibrary } from "../support/journal-library.ts";
import { until, Viewer } from "../support/viewer.ts";

let a: StandIn;
let b: StandIn;
let stopPair: () => Promise<void>;
let door: DoorProcess;
const folder = mkdtempSync(join(tmpdir(), "jellybloom-catch-up-"));
const old = join(folder, "old.db");

beforeAll(async () => {
  const media = join(folder, "media");
  makeLibrary(media, { films: 2, episodes: 1 });
  ({ a, b, stop: stopPair } = await startPair({ mediaDir: media }));
  // Of a time before Jellybloom knew it.
  await copyDatabase(databaseFile(b.dataDir), old);
  const args = ["--cluster-key", CLUSTER_KEY, "--prefer", "b"];
  // With a ledger, so that b knows how far it had come.
  const data = join(folder, "data");
  door = await startDoor({ replicas: [a, b], apiKey: a.apiKey, args, data });
}, 60_000);

afterAll(async () => {
  await door.stop();
  await stopPair();
  rmSync(folder, { recursive: true, force: true });
});

async function ask(command: readonly string[]) {
  return await runCli([...command, "--admin", door.admin, "--cluster-key", CLUSTER_KEY]);
}

async function stateOf(name: string): Promise<string | undefined> {
  const { replicas } = JSON.parse((await ask(["status", "--json"])).out) as {
    replicas: { name: string; state: string }[];
  };
  return replicas.find((replica) => replica.name === name)?.state;
}

async function at(server: StandIn, path: string): Promise<Record<string, unknown>> {
  const headers = { authorization: `MediaBrowser Token="${server.apiKey}"` };
  return (await (await fetch(server.url + path, { headers })).json()) as Record<string, unknown>;
}

test("what a server has lost is there again: what was done elsewhere, and what it did itself", async () => {
  const viewer = await Viewer.enter(door.url);
  await viewer.knownAt([a, b]);
  const film = await viewer.item("Film 1");
  const other = await viewer.item("Film 2");
  const data = (id: string): string => `/UserItems/${id}/UserData?userId=${viewer.userId}`;
  const preferences = `/DisplayPreferences/usersettings?userId=${viewer.userId}&client=emby`;
  const isFavourite = async (server: StandIn, id: string) =>
    (await at(server, data(id))).IsFavorite === true;
  const isSet = async (server: StandIn) =>
    JSON.stringify((await at(server, preferences)).CustomPrefs).includes("set-by-b");

  // Done by b, where its people live.
  await viewer.call("POST", `/UserFavoriteItems/${film}`);
  const shown = (await viewer.call("GET", preferences)).json();
  const body = { ...shown, CustomPrefs: { word: "set-by-b" } };
  expect((await viewer.call("POST", preferences, { body })).status).toBe(204);
  await until(5000, "a has both", async () => (await isFavourite(a, film)) && (await isSet(a)));

  // Done by a, while b was put back.
  await b.kill9();
  for (const end of ["", "-wal", "-shm"]) rmSync(databaseFile(b.dataDir) + end, { force: true });
  copyFileSync(old, databaseFile(b.dataDir));
  expect((await viewer.call("POST", `/UserFavoriteItems/${other}`)).status).toBe(200);
  await b.launch();
  await until(20_000, "b is in quarantine", async () => (await stateOf("b")) === "unfit");
  expect([await isFavourite(b, film), await isSet(b)]).toEqual([false, false]);

  expect(await ask(["catch-up", "b"])).toMatchObject({ code: 0 });
  await until(20_000, "b has it again", async () => {
    return (await isFavourite(b, film)) && (await isFavourite(b, other)) && (await isSet(b));
  });
}, 60_000);
