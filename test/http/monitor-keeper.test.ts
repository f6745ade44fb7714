// The keeper of real-time monitors at two stand-ins: what it does not do when something is in the way, and how it gives
// back what it took.

import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { monitorsIn, monitorValue } from "../../core/cluster/monitors.ts";
import { dropNote, putNote } from "../../core/cluster/notes.ts";
import { type Store, StoreUnavailable } from "../../core/store/store.ts";
import {
  readMadeLibraries,
  restartMonitors,
  type ServerLibrary,
  setWatched,
} from "../../sidecar/library/libraries.ts";
import {
  MonitorKeeper,
  type MonitorKeeperOptions,
  releaseMonitors,
} from "../../sidecar/library/monitors.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { HandCluster } from "../support/journal-hands.ts";
import { until } from "../support/viewer.ts";
import { emptyFolder } from "./sidecar-cluster.ts";

const media = emptyFolder();
const folder = media.path;
const optionsPath = "/Library/VirtualFolders/LibraryOptions";
const restartPath = "/Library/VirtualFolders/Paths";
let pair: { a: StandIn; b: StandIn; stop: () => Promise<void> };
let cluster: HandCluster;

beforeAll(async () => {
  pair = await startPair({ mediaDir: folder });
  cluster = new HandCluster([pair.a, pair.b]);
  await cluster.start();
});

afterAll(async () => {
  await cluster.stop();
  await pair.stop();
  media.remove();
});

/** Both servers are to watch films, and nobody has said anything yet. */
beforeEach(async () => {
  const { store, memory } = cluster.hands("a");
  memory.noteStoreSuccess();
  for (const id of memory.notes("monitor").keys()) {
    await dropNote({ store, memory }, { kind: "monitor", id, replica: "" });
  }
  for (const server of [pair.a, pair.b]) {
    await server.control("clear");
    await setWatched(cluster.hands(server.name).client, await moviesAt(server), true);
    await server.control("forget-requests");
  }
});

async function isWatching(server: StandIn): Promise<boolean> {
  return (await server.control("file-changed", { path: folder })).seen === true;
}

async function moviesAt({ name }: StandIn): Promise<ServerLibrary> {
  const libraries = await readMadeLibraries(cluster.hands(name).client);
  const found = libraries?.find((library) => library.name === "Movies");
  if (found === undefined) throw new Error(`no films at ${name}`);
  return found;
}

const areOn = async () =>
  await Promise.all([pair.a, pair.b].map(async (server) => (await moviesAt(server)).isWatched));

/** The keeper beside a, which leads. */
function keeperWith(more: Partial<MonitorKeeperOptions> = {}): MonitorKeeper {
  const { client, store, memory, seal, log } = cluster.hands("a");
  return new MonitorKeeper({
    ...{ mode: "one", replica: "a", client, store, memory, seal, log },
    peers: () => new Map([["b", cluster.hands("b").client]]),
    lease: {
      mayAct: () => ({ epoch: { number: 1, owner: "a" } }),
      onChange: () => () => undefined,
    },
    ...more,
  });
}

const wanted = () => {
  const { memory, seal } = cluster.hands("a");
  return [...monitorsIn(memory.notes("monitor").values(), seal).values()];
};

test("one server watches, only that option is changed, and a second look changes nothing", async () => {
  const before = await moviesAt(pair.b);
  const keeper = keeperWith();
  expect(await keeper.look()).toBe(true);
  expect(await areOn()).toEqual([true, false]);
  expect((await moviesAt(pair.b)).options).toEqual({
    ...before.options,
    EnableRealtimeMonitor: false,
  });
  expect(wanted()).toEqual([true]);
  for (const server of [pair.a, pair.b]) await server.control("forget-requests");
  expect(await keeper.look()).toBe(true);
  for (const server of [pair.a, pair.b]) {
    expect((await server.requests()).filter(({ method }) => method !== "GET")).toEqual([]);
  }
});

test("nothing is turned off before the store has what is wanted", async () => {
  const { store } = cluster.hands("a");
  const deaf: Store = Object.create(store, {
    putNote: {
      value: async () => {
        throw new StoreUnavailable("it cannot be reached");
      },
    },
  });
  expect(await keeperWith({ store: deaf }).look()).toBe(false);
  expect(await areOn()).toEqual([true, true]);
});

test.each([
  ["take the option", "POST", optionsPath, [false, true]],
  ["start its monitor anew", "DELETE", restartPath, [true, true]],
] as const)(
  "while the leader's server does not %s, the other one watches",
  async (_what, method, path, on) => {
    await setWatched(cluster.hands("a").client, await moviesAt(pair.a), false);
    await pair.a.control("fail", { method, path, status: 500 });
    const keeper = keeperWith();
    expect(await keeper.look()).toBe(false);
    expect(await areOn()).toEqual(on);
    await pair.a.control("clear");
    expect(await keeper.look()).toBe(true);
    expect(await areOn()).toEqual([true, false]);
    expect((await pair.a.requests({ method: "DELETE", path: restartPath })).at(-1)?.status).toBe(
      204,
    );
  },
);

test("a server that did not hear of its option is told again", async () => {
  await restartMonitors(cluster.hands("b").client, "Movies");
  await until(3000, "it watches", () => isWatching(pair.b));
  await pair.b.control("fail", { method: "DELETE", path: restartPath, status: 500, times: 1 });
  const keeper = keeperWith();
  expect(await keeper.look()).toBe(false);
  expect(await keeper.look()).toBe(true);
  await until(3000, "it looks away", async () => !(await isWatching(pair.b)));
});

test("with `all` what was turned off is turned on again, and then nothing is asked any more", async () => {
  await keeperWith().look();
  expect(await areOn()).toEqual([true, false]);
  const keeper = keeperWith({ mode: "all" });
  expect(await keeper.look()).toBe(true);
  expect(await areOn()).toEqual([true, true]);
  expect(wanted()).toEqual([]);
  await pair.a.control("forget-requests");
  expect(await keeper.look()).toBe(true);
  expect(await pair.a.requests()).toEqual([]);
});

test("a server that is alone now watches for itself again", async () => {
  await keeperWith().look();
  const { client, store, memory, seal, log } = cluster.hands("b");
  const place = { client, store, memory, seal, log, replica: "b", retryMs: 50 };
  await releaseMonitors(place, new AbortController().signal);
  expect(await areOn()).toEqual([true, true]);
  expect(wanted()).toEqual([]);
});

test("a library that nobody wants watched is watched by nobody", async () => {
  const { store, memory, seal } = cluster.hands("a");
  const { id } = await moviesAt(pair.a);
  const value = monitorValue(seal, id, false);
  await putNote({ store, memory }, { kind: "monitor", id, replica: "", value }, 0);
  expect(await keeperWith().look()).toBe(true);
  expect(await areOn()).toEqual([false, false]);
});
