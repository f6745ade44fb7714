// What the leader's server took in, at another: two stand-ins that watch nothing, and the fan-out between them.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { monitorValue } from "../../core/cluster/monitors.ts";
import { putNote } from "../../core/cluster/notes.ts";
import { FanOut } from "../../sidecar/library/fan-out.ts";
import { readMadeLibraries } from "../../sidecar/library/libraries.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { HandCluster } from "../support/journal-hands.ts";
import { asAdmin } from "../support/task-household.ts";
import { until } from "../support/viewer.ts";
import { emptyFolder } from "./sidecar-cluster.ts";

const news = "/Library/Media/Updated";
const media = emptyFolder();
const end = new AbortController();
let pair: { a: StandIn; b: StandIn; stop: () => Promise<void> };
let cluster: HandCluster;
let leads = true;
let work: Promise<void>;

function write(...films: readonly string[]): void {
  mkdirSync(join(media.path, "films"), { recursive: true });
  for (const film of films) writeFileSync(join(media.path, "films", `${film}.bin`), film);
}

/** As a server that watches takes it in; nobody has a session there, so that it tells nobody. */
async function takeIn(...films: readonly string[]): Promise<void> {
  write(...films);
  await asAdmin(pair.a, "POST", "/Library/Refresh");
}

async function hasFilm(name: string): Promise<boolean> {
  const reply = await asAdmin(pair.b, "GET", "/Items?recursive=true&includeItemTypes=Movie");
  return ((await reply.json()) as { Items: { Name: string }[] }).Items.some(
    (item) => item.Name === name,
  );
}

const toldOf = (text: string) => cluster.told.filter((line) => line.includes(text)).length;
const callsAtB = async () => (await pair.b.requests({ method: "POST", path: news })).length;

beforeAll(async () => {
  write("One", "Two");
  pair = await startPair({ mediaDir: media.path });
  cluster = new HandCluster([pair.a, pair.b]);
  await cluster.start();
  const { client, store, memory, seal, log } = cluster.hands("a");
  for (const { id, name } of (await readMadeLibraries(client)) ?? []) {
    const value = monitorValue(seal, id, name === "Movies");
    await putNote({ store, memory }, { kind: "monitor", id, replica: "", value }, 0);
  }
  const lease = {
    mayAct: () => (leads ? { epoch: { number: 1, owner: "a" } } : undefined),
    onChange: () => () => undefined,
  };
  const fanOut = new FanOut({
    ...{ replica: "a", client, memory, seal, log, lease },
    peers: () => new Map([["b", cluster.hands("b").client]]),
    hands: () => new Map(),
    limits: { intervalMs: 100, overlapMs: 0, lookBackMs: 0, pathsLimit: 3 },
  });
  work = fanOut.run(end.signal);
  await until(2000, "it has asked", async () => {
    return (await pair.a.requests({ path: "minDateLastSaved" })).length > 0;
  });
});

afterAll(async () => {
  end.abort();
  await work;
  await cluster.stop();
  await pair.stop();
  media.remove();
});

test("a new film is told by its path, also when the server pushes nothing", async () => {
  await takeIn("Three");
  await until(3000, "the film at the other server", () => hasFilm("Three"));
  expect(toldOf("b was told of 1 path")).toBe(1);
  // It is told once.
  await sleep(300);
  expect(await callsAtB()).toBe(1);
});

test("many films are told as their folder", async () => {
  await takeIn("Four", "Five", "Six", "Seven");
  await until(3000, "the films at the other server", () => hasFilm("Seven"));
  expect(toldOf("b was told of 1 path")).toBe(2);
});

test("a server whose media are not whole is told nothing, and that is said once", async () => {
  const before = await callsAtB();
  await pair.b.control("fail", { path: "/Environment/DirectoryContents", status: 404 });
  await takeIn("Eight");
  await until(3000, "it is said why", () => toldOf("b is not told of new files: the folder") === 1);
  await takeIn("Nine");
  await sleep(400);
  expect(toldOf("b is not told of new files")).toBe(1);
  expect(await callsAtB()).toBe(before);
  await pair.b.control("clear");
  await takeIn("Ten");
  await until(3000, "the film at the other server", () => hasFilm("Ten"));
});

test("who does not lead asks nothing and tells nothing", async () => {
  leads = false;
  await sleep(150);
  const before = [await callsAtB(), (await pair.a.requests({ path: "GetUtcTime" })).length];
  await takeIn("Eleven");
  await sleep(300);
  const after = [await callsAtB(), (await pair.a.requests({ path: "GetUtcTime" })).length];
  expect(after).toEqual(before);
});
