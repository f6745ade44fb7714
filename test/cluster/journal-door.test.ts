// The door's side of the journal, with real processes: what a viewer changes is in the store before any server hears
// of it and is closed when the viewer has an answer; with Redis gone it waits and follows; and of what the sidecars
// bring from one server to another a client hears what a single server would have told. No sidecar runs here: what
// theirs would write and do, the test does, so that each deed has one doer.

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type Effect,
  type Entry,
  entryValue,
  type Intent,
  newEntryId,
  type Outcome,
  type Placed,
  readEntry,
} from "../../core/cluster/journal.ts";
import { readUserDataFacts, type UserDataEffect } from "../../core/cluster/user-data.ts";
import { createSeal } from "../../core/service/seal.ts";
import type { JournalCursor } from "../../core/store/journal.ts";
import { openRedisStore } from "../../core/store/redis.ts";
import type { Store } from "../../core/store/store.ts";
import { CLUSTER_KEY, type DoorProcess, startDoor } from "../support/door.ts";
import { doorSees } from "../support/household.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { until, Viewer, type ViewerSocket } from "../support/viewer.ts";

const seal = createSeal(CLUSTER_KEY);
const stranger = createSeal("another cluster's key, which is no key of ours");
/** UserDataChangeNotifier gathers for 500 ms; what was not told after this is not told. */
const toldWithinMs = 1500;
const journalWaitLimitMs = 200;

let redis: RedisServer;
let pair: Awaited<ReturnType<typeof startPair>>;
let door: DoorProcess;
let store: Store;
let viewer: Viewer;
let home: StandIn;
let film: string;

async function openStore(): Promise<Store> {
  return await openRedisStore({
    url: redis.url,
    limits: { changesKept: 1000, revokedKeepMs: 60_000, callLimitMs: 2000 },
  });
}

beforeAll(async () => {
  const media = await makeMedia();
  [redis, pair] = await Promise.all([startRedis(), startPair({ mediaDir: media.folder })]);
  store = await openStore();
  door = await startDoor({
    command: "proxy",
    redis: redis.url,
    replicas: [pair.a, pair.b],
    args: ["--api-hold-limit", "1500ms", "--journal-wait-limit", `${journalWaitLimitMs}ms`],
  });
  viewer = await Viewer.enter(door.url);
  [home] = await viewer.homeAmong(pair);
  film = await viewer.item();
});

afterEach(() => {
  // What a failed test left frozen would fail all others.
  if (home.running) home.thaw();
});

afterAll(async () => {
  await door.stop();
  await store.close();
  await pair.stop();
  await redis.stop();
});

/** Everything that this cluster wrote into the journal after `after`. */
async function entriesAfter(after: JournalCursor): Promise<Placed[]> {
  const placed: Placed[] = [];
  for (let cursor = after; ; ) {
    const page = await store.readJournal(cursor, 1000);
    if (page.outcome === "lost" || page.entries.length === 0) return placed;
    cursor = page.cursor;
    for (const entry of page.entries) {
      const read = readEntry(entry, seal);
      if (read.outcome === "read") placed.push(read.placed);
    }
  }
}

async function end(): Promise<JournalCursor> {
  const { generation, last } = await store.journalEnds();
  return { generation, number: last };
}

function isIntent(entry: Entry): entry is Intent {
  return entry.type === "intent";
}

/** The intents of user data since then, each with its outcome. */
async function changesAfter(
  after: JournalCursor,
): Promise<{ readonly intent: Intent; readonly outcome: Outcome | undefined }[]> {
  const entries = (await entriesAfter(after)).map(({ entry }) => entry);
  return entries
    .filter(isIntent)
    .filter(({ kind }) => kind === "userData")
    .map((intent) => ({
      intent,
      outcome: entries.find(
        (entry): entry is Outcome => entry.type === "outcome" && entry.of === intent.id,
      ),
    }));
}

async function closedAfter(after: JournalCursor, count = 1, limitMs = 3000) {
  await until(limitMs, "the changes are closed", async () => {
    const changes = await changesAfter(after);
    return changes.length >= count && changes.every(({ outcome }) => outcome !== undefined);
  });
  return await changesAfter(after);
}

describe("intents", () => {
  test("a change is in the journal while its server has not executed a single instruction for it", async () => {
    const from = await end();
    home.freeze();
    const answer = viewer.call("POST", `/UserFavoriteItems/${film}?ApiKey=${viewer.token}`);
    await until(1000, "the intent", async () => (await changesAfter(from)).length === 1);
    const [open] = await changesAfter(from);
    expect(open?.outcome).toBeUndefined();
    expect(open?.intent).toMatchObject({
      kind: "userData",
      userId: viewer.userId,
      itemId: film,
      request: { method: "POST", path: `/UserFavoriteItems/${film}`, query: "", body: "" },
      facts: { cause: "favourite", fields: ["favourite"], values: { favourite: true } },
    });
    expect(JSON.stringify(open)).not.toContain(viewer.token);
    home.thaw();
    expect((await answer).status).toBe(200);
    const [closed] = await closedAfter(from);
    expect(closed?.outcome).toMatchObject({ replica: home.name, status: 200 });
    expect(closed?.outcome?.asked).toBeUndefined();
  });

  test("a question makes none, and costs the store nothing", async () => {
    const from = await end();
    await viewer.call("GET", `/UserItems/${film}/UserData`);
    await viewer.call("GET", "/Items?recursive=true");
    expect(await entriesAfter(from)).toEqual([]);
  });

  test("a refusal closes it, so that nobody carries it out elsewhere", async () => {
    const from = await end();
    const unknown = "0123456789abcdef0123456789abcdef";
    const answer = await viewer.call("POST", `/UserFavoriteItems/${unknown}`);
    expect(answer.status).toBe(404);
    const [closed] = await closedAfter(from);
    expect(closed?.outcome?.status).toBe(404);
  });

  test("one whose server broke off and whose fate nobody knows is closed as such", async () => {
    const from = await end();
    for (const server of [pair.a, pair.b]) {
      await server.control("reset", { path: "/Sessions/Playing$", method: "POST", times: 5 });
    }
    const body = { ItemId: film, PlaySessionId: "breaks" };
    await expect(viewer.call("POST", "/Sessions/Playing", { body })).rejects.toThrow();
    const [closed] = await closedAfter(from);
    expect(closed?.outcome).toMatchObject({ replica: "", status: 0 });
    expect(closed?.outcome?.asked).toContain(home.name);
    for (const server of [pair.a, pair.b]) await server.control("clear", {});
  });

  async function reportsSeen(): Promise<number> {
    const asked = { method: "POST", path: "/Sessions/Playing/Progress" };
    const seen = await Promise.all([pair.a, pair.b].map((server) => server.requests(asked)));
    return seen.flat().length;
  }

  test("a client that reports many times a second makes few, and its last report always gets in", async () => {
    const from = await end();
    const reports = 40;
    const beganMs = performance.now();
    const answers: Promise<{ readonly status: number }>[] = [];
    const before = await reportsSeen();
    for (let report = 1; report <= reports; report += 1) {
      // Each may come by a connection of its own: the last one must come last.
      if (report === reports)
        await until(
          10_000,
          "the others came",
          async () => (await reportsSeen()) - before === reports - 1,
        );
      const body = { ItemId: film, PositionTicks: report * 10_000_000, PlaySessionId: "eager" };
      answers.push(viewer.call("POST", "/Sessions/Playing/Progress", { body }));
      await sleep(10);
    }
    for (const answer of answers) expect((await answer).status).toBe(204);
    // Who has been told so is right: the last one is in.
    const last = (await changesAfter(from)).at(-1)?.intent.facts;
    expect(readUserDataFacts(last)?.values.position).toBe(reports * 10_000_000);
    // Ten at once, then one in a tenth of a second by itself and one for those that came too soon.
    const few = 12 + 2 * ((performance.now() - beganMs) / 100);
    expect((await closedAfter(from)).length).toBeLessThan(few);
  });

  test("what waits is not written after something newer, which would bring the older position back", async () => {
    const from = await end();
    const answers: Promise<unknown>[] = [];
    const before = await reportsSeen();
    for (let report = 1; report <= 15; report += 1) {
      const body = { ItemId: film, PositionTicks: report, PlaySessionId: "stops" };
      answers.push(viewer.call("POST", "/Sessions/Playing/Progress", { body }));
      await sleep(10);
    }
    await until(10_000, "they came", async () => (await reportsSeen()) - before === 15);
    const body = { ItemId: film, PositionTicks: 99, PlaySessionId: "stops" };
    await viewer.call("POST", "/Sessions/Playing/Stopped", { body });
    await Promise.all(answers);
    await sleep(1200);
    const last = (await changesAfter(from)).at(-1);
    expect(last?.intent.facts).toMatchObject({ cause: "stop", values: { position: 99 } });
  });

  test("bodies that are made to hurt reach the server as they are, and the journal holds nothing of them", async () => {
    const from = await end();
    const deep = `${'{"a":'.repeat(50_000)}1${"}".repeat(50_000)}`;
    const hostile = [
      `{"ItemId":"${film}","PositionTicks":1,"NowPlayingQueue":[${'{"Id":"x"},'.repeat(100_000)}{}]}`,
      `{"ItemId":"${film}","PositionTicks":2,"Item":${deep}}`,
      `{"ItemId":"${film}","PositionTicks":3,"PlaySessionId":"${"x".repeat(100_000)}"}`,
      `{"ItemId":"${film}","PositionTicks":1e400,"__proto__":{"ItemId":"evil"}}`,
      '{"ItemId":',
      "\u0000\u0000",
    ];
    for (const body of hostile) {
      const reply = await fetch(`${door.url}/Sessions/Playing/Progress`, {
        method: "POST",
        headers: { authorization: viewer.authorization, "content-type": "application/json" },
        body,
      });
      expect([204, 400, 500]).toContain(reply.status);
    }
    for (const { intent } of await closedAfter(from)) {
      expect(JSON.stringify(intent).length).toBeLessThan(2000);
    }
    expect((await viewer.call("GET", "/Users/Me")).status).toBe(200);
  });
});

describe("pushes", () => {
  /** What the sidecar of the other server would write. */
  async function effect(payload: UserDataEffect, by = seal): Promise<void> {
    const entry: Effect = {
      type: "effect",
      id: newEntryId(),
      of: "",
      ofNumber: 0,
      kind: "userData",
      replica: home === pair.a ? "b" : "a",
      userId: viewer.userId,
      itemId: film,
      payload,
    };
    await store.appendJournal([entryValue(entry, by)]);
  }

  /** What this server's sidecar would do. */
  async function apply(values: Readonly<Record<string, unknown>>): Promise<void> {
    const reply = await fetch(`${home.url}/UserItems/${film}/UserData?userId=${viewer.userId}`, {
      method: "POST",
      headers: {
        authorization: `MediaBrowser Token="${home.apiKey}"`,
        "content-type": "application/json",
      },
      body: JSON.stringify(values),
    });
    expect(reply.status).toBe(200);
  }

  async function withSocket(deed: (socket: ViewerSocket) => Promise<void>): Promise<void> {
    const socket = await viewer.socket();
    try {
      await deed(socket);
    } finally {
      socket.close();
    }
  }

  test("what was done through the other server is told once, a mere position not at all", async () => {
    await withSocket(async (socket) => {
      await effect({ cause: "favourite", values: { favourite: false } });
      await apply({ IsFavorite: false });
      await until(3000, "a push", () => socket.count("UserDataChanged") === 1);
      for (const position of [111_000_000, 222_000_000]) {
        await effect({ cause: "progress", values: { position } });
        await apply({ PlaybackPositionTicks: position });
        await sleep(toldWithinMs);
        expect(socket.count("UserDataChanged")).toBe(1);
      }
      // A position and something else in one push: it is told.
      await effect({ cause: "progress", values: { position: 333_000_000 } });
      await effect({ cause: "favourite", values: { favourite: true } });
      await apply({ PlaybackPositionTicks: 333_000_000 });
      await apply({ IsFavorite: true });
      await until(3000, "a second push", () => socket.count("UserDataChanged") === 2);
      expect(JSON.stringify(socket.messages.at(-1)?.Data)).toContain('"IsFavorite":true');
      await sleep(toldWithinMs);
      expect(socket.count("UserDataChanged")).toBe(2);
    });
  });

  test("a position that nobody of this cluster wrote down drops nothing", async () => {
    await withSocket(async (socket) => {
      await effect({ cause: "progress", values: { position: 444_000_000 } }, stranger);
      await apply({ PlaybackPositionTicks: 444_000_000 });
      await until(3000, "a push", () => socket.count("UserDataChanged") === 1);
    });
  });
});

test("a change waits for a store that does not answer as long as it may, and no longer", async () => {
  const from = await end();
  redis.freeze();
  const beganMs = performance.now();
  const { status } = await viewer.call("POST", `/UserFavoriteItems/${film}`);
  const tookMs = performance.now() - beganMs;
  redis.thaw();
  expect(status).toBe(200);
  expect(tookMs).toBeGreaterThanOrEqual(journalWaitLimitMs - 5);
  expect(tookMs).toBeLessThan(journalWaitLimitMs + 1500);
  const [closed] = await closedAfter(from, 1, 10_000);
  expect(closed?.outcome).toMatchObject({ replica: home.name, status: 200 });
});

test("with Redis gone changes go on and are in the journal when it is back, in their order", async () => {
  await redis.kill9();
  const beganMs = performance.now();
  for (const method of ["POST", "DELETE", "POST"]) {
    const { status } = await viewer.call(method, `/UserFavoriteItems/${film}`);
    expect(status).toBe(200);
  }
  // Each waits no longer than it may, and only the first has to find out.
  expect(performance.now() - beganMs).toBeLessThan(3 * journalWaitLimitMs + 1500);
  await redis.restart();
  await store.close();
  store = await openStore();
  const { generation } = await store.journalEnds();
  const from = { generation, number: 0 };
  await until(10_000, "what waited is written", async () => {
    const ends = await store.journalEnds();
    const kept = { generation: ends.generation, number: ends.first - 1 };
    return (await changesAfter(kept)).filter(({ outcome }) => outcome !== undefined).length === 3;
  });
  const ends = await store.journalEnds();
  const kept = { generation: ends.generation, number: Math.max(from.number, ends.first - 1) };
  const said = (await changesAfter(kept)).map(({ intent }) => readUserDataFacts(intent.facts));
  expect(said.map((facts) => facts?.values.favourite)).toEqual([true, false, true]);
});

test("a change that no server was asked for is closed as refused", async () => {
  const from = await end();
  await Promise.all([pair.a.kill9(), pair.b.kill9()]);
  await doorSees(door, 0, 5000);
  await expect(viewer.call("DELETE", `/UserFavoriteItems/${film}`)).rejects.toThrow();
  const [closed] = await closedAfter(from);
  expect(closed?.outcome).toMatchObject({ replica: "", status: 503 });
});
