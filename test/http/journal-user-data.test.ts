/** What the handler of user data does at servers: marks that spread, items with versions, clearing, doing it again. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hashOf, identityKey, sealContext } from "../../core/cluster/identity.ts";
import type { Effect, Intent } from "../../core/cluster/journal.ts";
import { readUserDataEffect } from "../../core/cluster/user-data.ts";
import type { EffectDraft } from "../../sidecar/journal/handler.ts";
import { reconcile } from "../../sidecar/journal/reconcile.ts";
import { createUserData } from "../../sidecar/journal/user-data.ts";
import { type StandIn, startStandIn } from "../support/jellyfin/start.ts";
import { HandCluster } from "../support/journal-hands.ts";
import { makeLibrary } from "../support/journal-library.ts";
import { until, Viewer } from "../support/viewer.ts";

const media = mkdtempSync(join(tmpdir(), "user-data-media-"));
const handler = createUserData();
let a: StandIn;
let b: StandIn;
let cluster: HandCluster;
let viewer: Viewer;
let film: string;
let season: string;
let episodes: string[];

beforeAll(async () => {
  makeLibrary(media, { films: 2, episodes: 3 });
  a = await startStandIn({ name: "a", mediaDir: media });
  b = await startStandIn({ name: "b", mediaDir: media, cloneOf: a });
  cluster = new HandCluster([a, b]);
  await cluster.start();
  viewer = await Viewer.enter(a.url);
  const items = (await viewer.call("GET", `/Items?recursive=true&userId=${viewer.userId}`)).json()
    .Items as { Id: string; Type: string; Name: string }[];
  const of = (type: string) => items.filter((one) => one.Type === type).map(({ Id }) => Id);
  film = of("Movie")[0] ?? "";
  season = of("Season")[0] ?? "";
  episodes = of("Episode");
});
afterAll(async () => {
  await cluster.stop();
  await Promise.all([a.stop(), b.stop()]);
  rmSync(media, { recursive: true, force: true });
});

async function dataAt(server: StandIn, itemId: string): Promise<Record<string, unknown>> {
  const reply = await fetch(`${server.url}/UserItems/${itemId}/UserData?userId=${viewer.userId}`, {
    headers: { authorization: `MediaBrowser Token="${server.apiKey}"` },
  });
  return (await reply.json()) as Record<string, unknown>;
}

/** A viewer's request at `a`, and the effects that a's sidecar makes of it. */
async function changed(
  method: string,
  path: string,
  body?: unknown,
): Promise<{ readonly intent: Intent; readonly effects: readonly EffectDraft[] }> {
  const { status } = await viewer.call(method, path, { body });
  expect(status).toBeLessThan(300);
  const intent = await cluster.intent(method, path, { userId: viewer.userId, body });
  const published = await handler.publish(cluster.placed(intent), undefined, cluster.hands("a"), {
    isRaced: false,
    untold: async () => [],
  });
  if (published.outcome !== "effects") throw new Error(JSON.stringify(published));
  return { intent, effects: published.effects };
}

async function applyAt(server: StandIn, effects: readonly EffectDraft[]): Promise<string[]> {
  const ends: string[] = [];
  for (const draft of effects) {
    const effect: Effect = {
      ...{ type: "effect", id: "e", of: "i", ofNumber: 1, kind: "userData", replica: "a" },
      ...draft,
    } as const;
    const fresh = new Set(Object.keys(readUserDataEffect(draft.payload)?.values ?? {}));
    const applied = await handler.apply(
      cluster.placed<Effect>(effect),
      cluster.hands(server.name),
      fresh,
    );
    ends.push(applied.outcome);
  }
  return ends;
}

describe("a mark on a season", () => {
  test("is the state of each of its episodes, with one date on every server, and back", async () => {
    const marked = await changed("POST", `/UserPlayedItems/${season}`);
    expect(marked.effects.map(({ itemId }) => itemId).sort()).toEqual([...episodes].sort());
    expect(await applyAt(b, marked.effects)).toEqual(["done", "done", "done"]);
    for (const episode of episodes) {
      const there = await dataAt(b, episode);
      expect(there).toEqual(await dataAt(a, episode));
      expect(there.Played).toBe(true);
    }
    const taken = await changed("DELETE", `/UserPlayedItems/${season}`);
    await applyAt(b, taken.effects);
    for (const episode of episodes)
      expect(await dataAt(b, episode)).toEqual(await dataAt(a, episode));
    expect((await dataAt(b, season)).UnplayedItemCount).toBe(3);
  });
});

describe("an effect", () => {
  test("writes nothing where the server has it already: each write is told to that user's apps", async () => {
    const { effects } = await changed("POST", `/UserFavoriteItems/${film}`);
    expect(await applyAt(b, effects)).toEqual(["done"]);
    expect(await applyAt(b, effects)).toEqual(["skipped"]);
    const posts = await b.requests({ method: "POST", path: `/UserItems/${film}/UserData` });
    expect(posts.length).toBe(1);
  });

  test("clears a date and a like, which no write of user data can", async () => {
    await applyAt(b, (await changed("POST", `/UserPlayedItems/${film}`)).effects);
    await applyAt(b, (await changed("POST", `/UserItems/${film}/Rating?likes=true`)).effects);
    expect(await dataAt(b, film)).toMatchObject({ Likes: true, Played: true });
    expect((await dataAt(b, film)).LastPlayedDate).toBeDefined();
    await applyAt(b, (await changed("DELETE", `/UserPlayedItems/${film}`)).effects);
    await applyAt(b, (await changed("DELETE", `/UserItems/${film}/Rating`)).effects);
    const there = await dataAt(b, film);
    expect([there.LastPlayedDate, there.Likes, there.Played]).toEqual([
      undefined,
      undefined,
      false,
    ]);
    expect(there).toEqual(await dataAt(a, film));
  });

  test("for a film that the server does not have waits aside", async () => {
    const { effects } = await changed("DELETE", `/UserFavoriteItems/${film}`);
    await b.control("hide", { item: film, hidden: true });
    expect(await applyAt(b, effects)).toEqual(["aside"]);
    await b.control("hide", { item: film, hidden: false });
    expect(await applyAt(b, effects)).toEqual(["done"]);
  });

  test("whose ids or values make no sense reaches no server", async () => {
    const bad = {
      userId: "../../x",
      itemId: film,
      payload: { cause: "seen", values: { position: 1 } },
    };
    const before = (await b.requests()).length;
    const worse = {
      ...bad,
      userId: viewer.userId,
      payload: { cause: "seen", values: { position: -1 } },
    };
    expect(await applyAt(b, [bad, worse])).toEqual(["refused", "refused"]);
    expect((await b.requests()).length).toBe(before);
  });
});

describe("a film with several versions", () => {
  let versions: string[] = [];
  beforeAll(async () => {
    const items = (await viewer.call("GET", `/Items?recursive=true&includeItemTypes=Movie`)).json()
      .Items as { Id: string }[];
    versions = items.map(({ Id }) => Id);
    for (const server of [a, b]) {
      const reply = await fetch(`${server.url}/Videos/MergeVersions?ids=${versions.join(",")}`, {
        method: "POST",
        headers: { authorization: `MediaBrowser Token="${server.apiKey}"` },
      });
      expect(reply.status).toBe(204);
    }
  });

  test("that is marked is marked in each of them, and back, with one date on every server", async () => {
    const [one = ""] = versions;
    for (const [method, Played] of [
      ["POST", true],
      ["DELETE", false],
    ] as const) {
      const { effects } = await changed(method, `/UserPlayedItems/${one}`);
      expect(effects.map(({ itemId }) => itemId).sort()).toEqual([...versions].sort());
      // To clear a date is a mark there, which spreads.
      expect(await applyAt(b, effects)).toEqual(["done", Played ? "done" : "skipped"]);
      for (const version of versions) {
        const own = await dataAt(a, version);
        expect(own.Played).toBe(Played);
        const there = await dataAt(b, version);
        expect([there.Played, there.LastPlayedDate]).toEqual([Played, own.LastPlayedDate]);
      }
    }
  });

  test("whose other version is watched keeps its place with both", async () => {
    const [one = "", two = ""] = versions;
    const body = { ItemId: one, MediaSourceId: two, PositionTicks: 900_000_000 };
    const { effects } = await changed("POST", "/Sessions/Playing/Progress", body);
    expect(effects.map(({ itemId }) => itemId)).toEqual([one, two]);
    await applyAt(b, effects);
    for (const version of [one, two]) {
      const { PlaybackPositionTicks } = await dataAt(a, version);
      expect(await dataAt(b, version)).toMatchObject({ PlaybackPositionTicks });
    }
  });
});

describe("a change that a dead server took with it", () => {
  /** A login that the cluster knows, with a token at b. */
  async function loginAtB(name = "root"): Promise<{ key: string; token: string; userId: string }> {
    const deviceId = `redo-${name}`;
    const { token, userId } = await Viewer.enter(b.url, { name, deviceId });
    const key = identityKey(userId, deviceId);
    const { seal, store, memory } = cluster;
    const device = { deviceId, client: "Viewer", device: "Viewer", version: "1" };
    // As after minting: there is a token and no session.
    await cluster.hands("b").client.endGhostSession(token, device);
    const added = await store.addToken({
      ...{ key, generation: 0, replica: "b", hash: hashOf(token) },
      facts: { kind: "user", userId, userName: name, ...device },
      sealed: seal.seal(token, sealContext(key, 1, "b")),
    });
    if (added.outcome !== "recorded") throw new Error("the login is not recorded");
    memory.apply({ type: "identity", identity: added.identity });
    return { key, token, userId };
  }

  test("is done again with the person's own token, and leaves no playback and no session behind", async () => {
    const { key, token } = await loginAtB();
    const [episode = ""] = episodes;
    const made: [string, string, unknown, Record<string, unknown>][] = [
      ["POST", `/UserFavoriteItems/${episode}`, undefined, { IsFavorite: true }],
      ["POST", `/UserPlayedItems/${episode}`, undefined, { Played: true }],
      [
        "POST",
        "/Sessions/Playing/Progress",
        { ItemId: episode, PositionTicks: 900_000_000 },
        { PlaybackPositionTicks: 900_000_000 },
      ],
      [
        "POST",
        "/Sessions/Playing/Stopped",
        { ItemId: episode, PositionTicks: 0 },
        { PlaybackPositionTicks: 0 },
      ],
    ];
    for (const [method, path, body, expected] of made) {
      const asked = { userId: viewer.userId, identityKey: key, body };
      const intent = await cluster.intent(method, path, asked);
      const before = (await b.requests()).length;
      const redone = await handler.redo(cluster.placed(intent), cluster.hands("b"), true);
      expect(redone).toEqual({ outcome: "done" });
      expect(await dataAt(b, episode)).toMatchObject(expected);
      const sent = (await b.requests()).slice(before).filter((one) => one.method !== "GET");
      // Never by the API key, which may do what the person may not.
      expect(sent.filter((one) => one.path.includes("User")).map((one) => one.token)).toContain(
        token,
      );
      expect(sent.filter((one) => one.token === b.apiKey)).toEqual([]);
      expect(sent.filter((one) => one.path.startsWith("/Sessions/Playing"))).toEqual([]);
    }
    await until(3000, "no session is left", async () => {
      const { sessions } = await b.state();
      return !JSON.stringify(sessions).includes("redo-root");
    });
  });

  test("is not done again where its person may not do it", async () => {
    const { key, userId } = await loginAtB("kid");
    const intent = await cluster.intent(
      "POST",
      `/UserFavoriteItems/${film}?userId=${viewer.userId}`,
      { userId, identityKey: key },
    );
    const before = await dataAt(b, film);
    const redone = await handler.redo(cluster.placed(intent), cluster.hands("b"), true);
    expect(redone.outcome).toBe("refused");
    expect(await dataAt(b, film)).toEqual(before);
  });

  test("is not done again with the API key when the person's login is not known here", async () => {
    const intent = await cluster.intent("POST", `/UserFavoriteItems/${film}`, {
      userId: viewer.userId,
      identityKey: "nobody",
    });
    const before = (await b.requests()).length;
    const redone = await handler.redo(cluster.placed(intent), cluster.hands("b"), true);
    expect(redone.outcome).toBe("refused");
    expect((await b.requests()).length).toBe(before);
  });
});

describe("a server that was away for longer than the journal reaches back", () => {
  test("is compared with another, person by person and item by item, and made equal", async () => {
    const other = episodes[0] ?? "";
    const write = async (server: StandIn, itemId: string, body: unknown) => {
      const reply = await fetch(
        `${server.url}/UserItems/${itemId}/UserData?userId=${viewer.userId}`,
        {
          method: "POST",
          headers: {
            authorization: `MediaBrowser Token="${server.apiKey}"`,
            "content-type": "application/json",
          },
          body: JSON.stringify(body),
        },
      );
      expect(reply.status).toBe(200);
    };
    // b was away: it missed a playing and a favourite that was taken away, and has a newer playing of its own.
    const older = "2026-01-01T00:00:00.0000000Z";
    const newer = "2026-01-02T00:00:00.0000000Z";
    await write(b, film, {
      IsFavorite: true,
      PlaybackPositionTicks: 700_000_000,
      LastPlayedDate: older,
    });
    await write(a, film, {
      IsFavorite: false,
      PlaybackPositionTicks: 800_000_000,
      LastPlayedDate: newer,
    });
    await write(b, other, { PlaybackPositionTicks: 900_000_000, LastPlayedDate: newer });
    await write(a, other, { PlaybackPositionTicks: 0, LastPlayedDate: older });
    const hands = cluster.hands("b");
    const given: EffectDraft[] = [];
    const isDone = await reconcile(
      {
        hands,
        peers: () => new Map([["a", cluster.hands("a").client]]),
        follower: {
          standing: () => ({ known: undefined, isOpen: false, quietMs: 0 }),
          publishSeen: async (_kind, draft) => void given.push(draft),
        },
        settleMs: 1,
      },
      "away",
      new AbortController().signal,
    );
    expect(isDone).toBe(true);
    expect(await dataAt(b, film)).toMatchObject({
      IsFavorite: false,
      PlaybackPositionTicks: 800_000_000,
      LastPlayedDate: newer,
    });
    const draft = given.find(({ itemId }) => itemId === other);
    expect(draft?.payload).toMatchObject({
      values: { position: 900_000_000, lastPlayedDate: newer },
    });
  });
});
