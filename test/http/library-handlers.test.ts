/**
 * The handlers of lists and libraries at two real stand-ins: what was made of a list, an item or a library at one server
 * is brought to the other, once, however often it is tried.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  type Effect,
  type Intent,
  type IntentKind,
  newEntryId,
  type Placed,
} from "../../core/cluster/journal.ts";
import type { JournalHandler, JournalHands, Published } from "../../sidecar/journal/handler.ts";
import { createLibrary } from "../../sidecar/journal/library.ts";
import { createLists } from "../../sidecar/journal/lists.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { HandCluster } from "../support/journal-hands.ts";
import { until, Viewer } from "../support/viewer.ts";

const media = mkdtempSync(join(tmpdir(), "jellybloom-lists-"));
for (const name of ["One (2001)", "Two (2002)", "Three (2003)"]) {
  mkdirSync(join(media, "films", name), { recursive: true });
  writeFileSync(join(media, "films", name, `${name}.bin`), name);
}

let pair: { a: StandIn; b: StandIn; stop: () => Promise<void> };
let cluster: HandCluster;
let owner = "";
let films: string[] = [];
let differences = 0;
/** The replica whose sidecar leads. */
let writer = "a";
const inner = createLists({ onDifference: () => differences++ });
const led = (hands: JournalHands): JournalHands => ({
  ...hands,
  leads: () => hands.replica === writer,
});
/** What a sidecar reads in the journal, before it brings its server to it. */
const words = inner.words ?? expect.unreachable("lists keep words");

const lists: JournalHandler = {
  kinds: inner.kinds,
  lane: (entry) => inner.lane(entry),
  words: {
    ...words,
    look: (id, hands, mayWrite) => words.look(id, led(hands), mayWrite),
  },
  publish: (intent, outcome, hands, context) => inner.publish(intent, outcome, led(hands), context),
  apply: (effect, hands, fresh) => inner.apply(effect, led(hands), fresh),
  redo: (intent, hands, isAgreed, context) => inner.redo(intent, led(hands), isAgreed, context),
};
const library = createLibrary();

beforeAll(async () => {
  pair = await startPair({ mediaDir: media });
  cluster = new HandCluster([pair.a, pair.b]);
  await cluster.start();
  const users = (await ask(pair.a, "GET", "/Users")) as { Id: string; Name: string }[];
  owner = users.find(({ Name }) => Name === "kid")?.Id ?? "";
  films = await namesOf(pair.a, "/Items?recursive=true&includeItemTypes=Movie", "Id");
});

beforeEach(() => {
  differences = 0;
  writer = "a";
});

afterAll(async () => {
  await cluster.stop();
  await pair.stop();
  rmSync(media, { recursive: true, force: true });
});

async function ask(
  server: StandIn,
  method: string,
  path: string,
  body?: unknown,
): Promise<unknown> {
  const isText = typeof body === "string";
  const reply = await fetch(server.url + path, {
    method,
    headers: {
      authorization: `MediaBrowser Token="${server.apiKey}"`,
      ...(body !== undefined && { "content-type": isText ? "image/png" : "application/json" }),
    },
    body: body === undefined ? null : isText ? body : JSON.stringify(body),
  });
  const text = await reply.text();
  if (!reply.ok) throw new Error(`${method} ${path}: ${reply.status} ${text}`);
  return text === "" ? undefined : JSON.parse(text);
}

async function namesOf(server: StandIn, path: string, field = "Name"): Promise<string[]> {
  const { Items } = (await ask(server, "GET", path)) as { Items: Record<string, string>[] };
  return Items.map((item) => item[field] ?? "");
}

const entries = (server: StandIn, id: string): Promise<string[]> =>
  namesOf(server, `/Playlists/${id}/Items?userId=${owner}`, "Id");
const members = (server: StandIn, id: string): Promise<string[]> =>
  namesOf(server, `/Items?parentId=${id}&userId=${owner}`, "Id");

function intent(kind: IntentKind, fields: Partial<Intent> & { facts: unknown }): Intent {
  return {
    ...{ type: "intent", id: newEntryId(), kind, identityKey: "", userId: "", itemId: "" },
    request: { method: "POST", path: "/", query: "", contentType: "", body: "" },
    ...fields,
  };
}

const listIntent = (what: string, itemId: string): Intent =>
  intent("playlist", { userId: owner, itemId, facts: { what } });

async function newPlaylist(name: string, ids: readonly string[]): Promise<string> {
  const body = { Name: name, Ids: ids, UserId: owner, MediaType: "Video" };
  return ((await ask(pair.a, "POST", "/Playlists", body)) as { Id: string }).Id;
}

const fromAToB = { from: "a", to: "b" } as const;

/** The one effect that was published. */
function effectOf(published: Published) {
  if (published.outcome !== "effects") throw new Error(published.why);
  const [effect] = published.effects;
  if (effect === undefined) throw new Error("nothing was published");
  return effect;
}

describe("playlists", () => {
  test("one that was made on a is on b, with the same id and the same entries", async () => {
    const id = await newPlaylist("Evening", films.slice(0, 2));
    const made = listIntent("created", "");
    expect(await cluster.carry(lists, made, { ...fromAToB, facts: { id } })).toEqual(["done"]);
    expect(await entries(pair.b, id)).toEqual(films.slice(0, 2));
    expect(differences).toBe(0);
  });

  test("an append counts once, though nobody knew whether its first try did anything", async () => {
    const id = await newPlaylist("Twice", films.slice(0, 1));
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    await ask(pair.a, "POST", `/Playlists/${id}/Items?ids=${films[0]}&userId=${owner}`);
    const appended = listIntent("appended", id);
    const effect = effectOf(await cluster.publish(lists, "a", appended));
    // The first try is carried out and its answer is lost.
    await pair.b.control("reset", { path: "/Playlists/.*/Items", method: "POST", times: 1 });
    expect((await cluster.apply(lists, "b", "a", appended, effect)).outcome).toBe("again");
    expect((await cluster.apply(lists, "b", "a", appended, effect)).outcome).toBe("skipped");
    expect(await entries(pair.b, id)).toEqual([films[0], films[0]]);
  });

  test("an item that b has not scanned yet is waited for, and then in its place", async () => {
    const id = await newPlaylist("Waiting", films);
    const made = listIntent("created", id);
    const effect = effectOf(await cluster.publish(lists, "a", made));
    await pair.b.control("hide", { item: films[1] });
    expect(await cluster.apply(lists, "b", "a", made, effect)).toEqual({
      outcome: "aside",
      itemId: films[1],
    });
    expect(await entries(pair.b, id)).toEqual([films[0], films[2]]);
    await pair.b.control("hide", { item: films[1], hidden: false });
    expect((await cluster.apply(lists, "b", "a", made, effect)).outcome).toBe("done");
    expect(await entries(pair.b, id)).toEqual(films);
  });

  test("an item is waited for also where the question which are lacking fails first", async () => {
    const [one = "", two = ""] = films;
    const id = await newPlaylist("Asked", [one]);
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    await ask(pair.a, "POST", `/Playlists/${id}/Items?ids=${two}&userId=${owner}`);
    await pair.b.control("hide", { item: two });
    const question = { path: "^/Items\\?ids=", method: "GET", status: 500, times: 1 };
    await pair.b.control("fail", question);
    const appended = () => cluster.carry(lists, listIntent("appended", id), fromAToB);
    expect(await appended()).toEqual(["again: it answers 500"]);
    // It is asked before the step and after it.
    const asked = listIntent("appended", id);
    const draft = effectOf(await cluster.publish(lists, "a", asked));
    const hands = cluster.hands("b");
    let questions = 0;
    const callWithKey: typeof hands.client.callWithKey = async (method, path, body) => {
      const answer = await hands.client.callWithKey(method, path, body);
      const isSecond = path.startsWith("/Items?ids=") && ++questions === 2;
      return isSecond && answer.outcome === "answered" ? { ...answer, status: 500 } : answer;
    };
    const effect: Effect = {
      ...({ type: "effect", id: newEntryId(), of: asked.id, ofNumber: 0, replica: "a" } as const),
      ...{ kind: "playlist", ...draft },
    };
    const stumbling = { ...hands, client: { ...hands.client, callWithKey } };
    const told = cluster.placed(effect);
    lists.words?.note(told, false);
    const applied = await lists.apply(told, stumbling, new Set());
    expect([applied.outcome, questions]).toEqual(["again", 2]);
    expect(await appended()).toEqual(["aside"]);
    await pair.b.control("hide", { item: two, hidden: false });
    expect(await appended()).toEqual(["done"]);
    expect(await entries(pair.b, id)).toEqual([one, two]);
  });

  test("what waited does not overwrite what is newer", async () => {
    const id = await newPlaylist("Older", films);
    const older = listIntent("created", id);
    const effect = effectOf(await cluster.publish(lists, "a", older));
    const waited = cluster.placed({
      ...{
        type: "effect",
        id: "waited",
        of: older.id,
        ofNumber: 1,
        kind: "playlist",
        replica: "a",
      },
      ...effect,
    } as const);
    lists.words?.note(waited, false);
    const target = `/Playlists/${id}/Items?entryIds=${films[0]}`;
    await ask(pair.a, "DELETE", target);
    const removed = await cluster.intent("DELETE", target, { userId: owner });
    expect(await cluster.carry(lists, removed, fromAToB)).toEqual(["done"]);
    expect((await lists.apply(waited, cluster.hands("b"), new Set())).outcome).toBe("skipped");
    expect(await entries(pair.b, id)).toEqual(films.slice(1));
  });

  test("what the last writer tells late and what the next one does meanwhile are both kept, in one order", async () => {
    const [one = "", two = "", three = ""] = films;
    const id = await newPlaylist("Handed over", [one]);
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    const appended = async (film: string) =>
      await cluster.intent("POST", `/Playlists/${id}/Items?ids=${film}`, { userId: owner });
    const [late, next] = [await appended(two), await appended(three)];
    await ask(pair.a, "POST", `/Playlists/${id}/Items?ids=${two}&userId=${owner}`);
    const told = effectOf(await cluster.publish(lists, "a", late));
    writer = "b";
    await ask(pair.b, "POST", `/Playlists/${id}/Items?ids=${three}&userId=${owner}`);
    const also = effectOf(await cluster.publish(lists, "b", next));
    expect((await cluster.apply(lists, "b", "a", late, told)).outcome).toBe("done");
    expect((await cluster.apply(lists, "a", "b", next, also)).outcome).toBe("done");
    for (const server of [pair.a, pair.b]) {
      await lists.words?.look(id, cluster.hands(server.name), async () => true);
      expect(await entries(server, id)).toEqual([one, three, two]);
    }
  });

  test("one that was deleted and made anew before anybody was told has nothing of what it held", async () => {
    const [one = "", two = ""] = films;
    const id = await newPlaylist("Anew", [one]);
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    await ask(pair.a, "DELETE", `/Items/${id}`);
    expect(await newPlaylist("Anew", [two])).toBe(id);
    const gone = await cluster.intent("DELETE", `/Items/${id}`, { userId: owner });
    await cluster.carry(lists, gone, fromAToB);
    const body = { Name: "Anew", Ids: [two], UserId: owner };
    const made = await cluster.intent("POST", "/Playlists", { userId: owner, body });
    await cluster.carry(lists, made, { ...fromAToB, facts: { id } });
    for (const server of [pair.a, pair.b]) expect(await entries(server, id)).toEqual([two]);
  });

  test("one that was made anew before its deletion was read back has nothing of what it held", async () => {
    const [one = "", two = "", three = ""] = films;
    const id = await newPlaylist("At once", [one]);
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    await ask(pair.a, "DELETE", `/Items/${id}`);
    expect(await newPlaylist("At once", [two])).toBe(id);
    const gone = await cluster.intent("DELETE", `/Items/${id}`, { userId: owner });
    const body = { Name: "At once", Ids: [two], UserId: owner };
    const made = await cluster.intent("POST", "/Playlists", { userId: owner, body });
    const target = `/Playlists/${id}/Items?ids=${three}`;
    const appended = await cluster.intent("POST", target, { userId: owner });
    // All three are told before the first of them has been read.
    const told = [
      [gone, effectOf(await cluster.publish(lists, "a", gone))],
      [made, effectOf(await cluster.publish(lists, "a", made, { id }))],
    ] as const;
    await ask(pair.a, "POST", `${target}&userId=${owner}`);
    const last = effectOf(await cluster.publish(lists, "a", appended));
    for (const [asked, effect] of [...told, [appended, last] as const]) {
      await cluster.apply(lists, "b", "a", asked, effect);
    }
    for (const server of [pair.a, pair.b]) expect(await entries(server, id)).toEqual([two, three]);
  });

  test("a server that has seen fewer lists of a name gives the same id all the same", async () => {
    await newPlaylist("Mix", []);
    const second = await newPlaylist("Mix", films.slice(0, 1));
    expect(await cluster.carry(lists, listIntent("created", second), fromAToB)).toEqual(["done"]);
    expect(await entries(pair.b, second)).toEqual(films.slice(0, 1));
    // What was made on the way to it is gone again.
    const all = await namesOf(pair.b, "/Items?recursive=true&includeItemTypes=Playlist", "Name");
    expect(all.filter((name) => name === "Mix")).toHaveLength(1);
  });

  test("one that was renamed before anybody else had it has the same id, which is made of its first name", async () => {
    const [film = ""] = films;
    const id = await newPlaylist("First name", [film]);
    const kid = await Viewer.enter(pair.a.url, { name: "kid" });
    const renamed = await kid.call("POST", `/Playlists/${id}`, { body: { Name: "Second name" } });
    expect(renamed.status).toBe(204);
    expect(await cluster.carry(lists, listIntent("appended", id), fromAToB)).toEqual(["done"]);
    expect(await entries(pair.b, id)).toEqual([film]);
  });

  test("a name that is told while an older change is brought to b comes there, too", async () => {
    const [one = "", two = ""] = films;
    const id = await newPlaylist("Old name", [one]);
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    const kid = await Viewer.enter(pair.a.url, { name: "kid" });
    await cluster.login("a", kid);
    await cluster.login("b", await Viewer.enter(pair.b.url, { name: "kid" }));
    const told = async (
      method: string,
      target: string,
      body?: unknown,
    ): Promise<Placed<Effect>> => {
      expect((await kid.call(method, target, { body })).status).toBe(204);
      const asked = await cluster.intent(method, target, { userId: owner, body });
      return cluster.effect("a", asked, effectOf(await cluster.publish(lists, "a", asked)));
    };
    const appended = await told("POST", `/Playlists/${id}/Items?ids=${two}`);
    const named = await told("POST", `/Playlists/${id}`, { Name: "New name" });
    lists.words?.note(appended, false);
    const hands = cluster.hands("b");
    let questions = 0;
    const callWithKey: typeof hands.client.callWithKey = (method, path, body) => {
      if (++questions === 1) lists.words?.note(named, false);
      return hands.client.callWithKey(method, path, body);
    };
    const reading = { ...hands, client: { ...hands.client, callWithKey } };
    expect((await lists.apply(appended, reading, new Set())).outcome).toBe("done");
    expect((await lists.apply(named, hands, new Set())).outcome).toBe("done");
    expect(await entries(pair.b, id)).toEqual([one, two]);
    expect(await namesOf(pair.b, `/Items?ids=${id}&userId=${owner}`)).toEqual(["New name"]);
  });

  test("what its owner may no longer see stays in it on both, unseen, and is not asked for again and again", async () => {
    const [one = "", two = "", three = ""] = films;
    const id = await newPlaylist("Grown up", [one, two]);
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    const held = async (server: StandIn): Promise<unknown> => {
      const kid = await Viewer.enter(server.url, { name: "kid" });
      return (await kid.call("GET", `/Playlists/${id}`)).json().ItemIds;
    };
    const forbid = async (Tags: string[]): Promise<void> => {
      for (const server of [pair.a, pair.b]) {
        const item = (await ask(server, "GET", `/Items/${one}`)) as object;
        await ask(server, "POST", `/Items/${one}`, { ...item, Tags });
        const { Policy } = (await ask(server, "GET", `/Users/${owner}`)) as { Policy: object };
        await ask(server, "POST", `/Users/${owner}/Policy`, { ...Policy, BlockedTags: Tags });
      }
    };
    await forbid(["not for kids"]);
    const target = `/Playlists/${id}/Items?ids=${three}`;
    await ask(pair.a, "POST", `${target}&userId=${owner}`);
    const appended = await cluster.intent("POST", target, { userId: owner });
    expect(await cluster.carry(lists, appended, fromAToB)).toEqual(["done"]);
    for (const server of [pair.a, pair.b]) {
      expect(await entries(server, id)).toEqual([two, three]);
      const looked = await lists.words?.look(id, cluster.hands(server.name), async () => true);
      expect(looked?.outcome).toBe("skipped");
      expect(await held(server)).toEqual([one, two, three]);
    }
    await forbid([]);
    for (const server of [pair.a, pair.b]) {
      const looked = await lists.words?.look(id, cluster.hands(server.name), async () => true);
      expect(looked?.outcome).toBe("skipped");
      expect(await entries(server, id)).toEqual([one, two, three]);
    }
    expect(differences).toBe(0);
  });

  test("a list that has this id already is brought to what the writer has", async () => {
    await ask(pair.b, "POST", "/Playlists", { Name: "Only here", UserId: owner, Ids: [films[2]] });
    const id = await newPlaylist("Only here", []);
    // b has a list of this id already: it is brought to what the writer has.
    expect(await cluster.carry(lists, listIntent("created", id), fromAToB)).toEqual(["done"]);
    expect(await entries(pair.b, id)).toEqual([]);
  });

  test("another person's list under the same id, which nobody was told of, gives way to the writer's", async () => {
    const users = (await ask(pair.b, "GET", "/Users")) as { Id: string; Name: string }[];
    const root = users.find(({ Name }) => Name === "root")?.Id ?? "";
    const [one = "", two = ""] = films;
    for (const IsPublic of [true, false]) {
      const Name = `Same ${IsPublic}`;
      const left = { Name, UserId: root, Ids: [two], IsPublic };
      const other = (await ask(pair.b, "POST", "/Playlists", left)) as { Id: string };
      const id = await newPlaylist(Name, [one]);
      expect(other.Id).toBe(id);
      // The leader keeps its own.
      writer = "b";
      const late = await cluster.carry(lists, listIntent("created", id), fromAToB);
      expect(late[0]).toMatch(/^refused/);
      writer = "a";
      expect(await cluster.carry(lists, listIntent("created", id), fromAToB)).toEqual(["done"]);
      expect(await entries(pair.b, id)).toEqual([one]);
      const kid = await Viewer.enter(pair.b.url, { name: "kid" });
      const owned = await kid.call("GET", `/Playlists/${id}/Users`);
      expect(owned.status).toBe(200);
    }
    expect(cluster.told.filter((line) => line.includes("it goes"))).toHaveLength(2);
  });

  test("one that a server fails to make, or may not without a key it knows, is made when it can", async () => {
    const id = await newPlaylist("Stumbled", films.slice(0, 1));
    const made = listIntent("created", "");
    for (const status of [500, 401, 429]) {
      await pair.b.control("fail", { path: "^/Playlists$", method: "POST", status, times: 1 });
      const outcomes = await cluster.carry(lists, made, { ...fromAToB, facts: { id } });
      expect(outcomes).toEqual([`again: it answers ${status}`]);
    }
    expect(await cluster.carry(lists, made, { ...fromAToB, facts: { id } })).toEqual(["done"]);
    expect(await entries(pair.b, id)).toEqual(films.slice(0, 1));
  });

  test("a deletion makes an end of what waited of its list, and none of one that was made anew", async () => {
    const id = await newPlaylist("Come and gone", films.slice(0, 1));
    const made = listIntent("created", id);
    const state = effectOf(await cluster.publish(lists, "a", made));
    const gone = intent("itemGone", { itemId: id, facts: { ids: [id] } });
    const deletion = { userId: "", itemId: id, payload: { ids: [id] } };
    const tell = async (asked: Intent, draft: typeof state) => {
      const { kind } = asked;
      const effect: Effect = {
        ...({
          type: "effect",
          id: newEntryId(),
          of: asked.id,
          ofNumber: 0,
          kind,
          replica: "a",
        } as const),
        ...draft,
      };
      return cluster.placed(effect);
    };
    const apply = async (placed: Awaited<ReturnType<typeof tell>>) => {
      lists.words?.note(placed, false);
      return (await lists.apply(placed, cluster.hands("b"), new Set())).outcome;
    };
    const waits = await tell(made, state);
    lists.words?.note(waits, false);
    const ends = await tell(gone, deletion);
    const anew = await tell(listIntent("created", id), state);
    expect(await apply(ends)).toBe("skipped");
    expect(await apply(waits)).toBe("skipped");
    expect(await namesOf(pair.b, `/Items?ids=${id}`)).toEqual([]);
    expect(await apply(anew)).toBe("done");
    expect(await apply(ends)).toBe("skipped");
    expect(await namesOf(pair.b, `/Items?ids=${id}`)).toEqual(["Come and gone"]);
  });
});

describe("an append whose server died", () => {
  const appendOf = async (id: string, film: string) =>
    await cluster.intent("POST", `/Playlists/${id}/Items?ids=${film}`, { userId: owner });
  const append = async (server: StandIn, id: string, film: string) =>
    await ask(server, "POST", `/Playlists/${id}/Items?ids=${film}&userId=${owner}`);
  const redo = async (intended: Intent, isAgreed: boolean, mayBeHere: boolean) =>
    await lists.redo(cluster.placed(intended), cluster.hands("b"), isAgreed, {
      ...{ mayBeHere, untold: async () => [] },
    });
  /** Done again at b, told, and each server brought to it. */
  const tell = async (intended: Intent) => {
    const told = effectOf(await cluster.publish(lists, "b", intended));
    await cluster.apply(lists, "a", "b", intended, told);
  };
  const look = async (id: string, mayWrite = true) =>
    (await words.look(id, led(cluster.hands("b")), async () => mayWrite)).outcome;

  test.each([true, false])(
    "counts once at the next leader, whose server had done it: %s",
    async (isHere) => {
      const [one = "", two = ""] = films;
      const id = await newPlaylist(`Again ${isHere}`, [one]);
      await cluster.carry(lists, listIntent("created", id), fromAToB);
      writer = "b";
      const [first, second] = [await appendOf(id, two), await appendOf(id, two)];
      if (isHere) await append(pair.b, id, two);
      expect((await redo(first, true, isHere)).outcome).toBe("done");
      // At once, for who reads there.
      expect(await entries(pair.b, id)).toEqual([one, two]);
      await tell(first);
      // The same film once more is one more, though its server's list ends with it.
      expect((await redo(second, true, true)).outcome).toBe("done");
      await tell(second);
      expect(await look(id)).toBe("done");
      for (const server of [pair.a, pair.b])
        expect(await entries(server, id)).toEqual([one, two, two]);
      expect(await look(id)).toBe("skipped");
      // Read once more, after a start or because two servers told of it, it is still one.
      const again = effectOf(await cluster.publish(lists, "b", second));
      expect((await cluster.apply(lists, "a", "b", second, again)).outcome).toBe("skipped");
      expect(await entries(pair.a, id)).toEqual([one, two, two]);
    },
  );

  test("is told though the next leader's server has no such list yet", async () => {
    const [one = "", two = ""] = films;
    const id = await newPlaylist("Not here", [one]);
    const made = listIntent("created", id);
    words.note(
      cluster.placed({
        ...({ type: "effect", id: newEntryId(), of: made.id, ofNumber: 0, replica: "a" } as const),
        ...{ kind: "playlist", ...effectOf(await cluster.publish(lists, "a", made)) },
      }),
      false,
    );
    writer = "b";
    const appended = await appendOf(id, two);
    expect((await redo(appended, true, false)).outcome).toBe("done");
    await tell(appended);
    expect(await entries(pair.a, id)).toEqual([one, two]);
    expect(await look(id)).toBe("done");
    expect(await entries(pair.b, id)).toEqual([one, two]);
  });

  test("is told of an item that the next leader's server has not scanned yet", async () => {
    const [one = "", two = ""] = films;
    const id = await newPlaylist("Unscanned", [one]);
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    writer = "b";
    await pair.b.control("hide", { item: two });
    const appended = await appendOf(id, two);
    expect((await redo(appended, true, false)).outcome).toBe("done");
    await tell(appended);
    await pair.b.control("hide", { item: two, hidden: false });
    expect(await look(id)).toBe("done");
    for (const server of [pair.a, pair.b]) expect(await entries(server, id)).toEqual([one, two]);
  });

  test("before it could answer is asked for as its caller, whatever the list holds", async () => {
    const [one = ""] = films;
    const id = await newPlaylist("Not agreed", [one]);
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    writer = "b";
    const outcome = await redo(await appendOf(id, one), false, true);
    expect(outcome).toEqual({ outcome: "again", why: "its user has no token here yet" });
  });

  test("of a list of which nothing is known is there where the list ends with it, and not when that cannot be asked", async () => {
    const [one = "", two = ""] = films;
    const id = await newPlaylist("Unknown", [one, two]);
    const appended = await cluster.intent("POST", `/Playlists/${id}/Items?ids=${two}`, {
      userId: owner,
    });
    const hands = cluster.hands("a");
    const context = { mayBeHere: true, untold: async () => [] };
    await pair.a.control("fail", { path: `^/Items/${id}`, method: "GET", status: 500, times: 1 });
    const ask = async () => await lists.redo(cluster.placed(appended), hands, true, context);
    expect(await ask()).toEqual({ outcome: "again", why: "it answers 500" });
    expect((await ask()).outcome).toBe("done");
  });

  test("and is carried out by that server when it thaws is taken out again, at the writer's as well", async () => {
    const [one = "", two = ""] = films;
    const id = await newPlaylist("Thawed", [one]);
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    for (const leads of ["a", "b"]) {
      writer = leads;
      await append(pair.b, id, two);
      // A change of it is under way there: nothing is written.
      expect(await look(id, false)).toBe("again");
      expect(await entries(pair.b, id)).toEqual([one, two]);
      expect(await look(id)).toBe("done");
      expect(await entries(pair.b, id)).toEqual([one]);
    }
  });
});

describe("what is put into a playlist", () => {
  test("in the middle of it is in the middle everywhere", async () => {
    const [one = "", two = "", three = ""] = films;
    const id = await newPlaylist("Between", [one, three]);
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    const target = `/Playlists/${id}/Items?ids=${two}&position=1`;
    await ask(pair.a, "POST", `${target}&userId=${owner}`);
    const put = await cluster.intent("POST", target, { userId: owner });
    expect(await cluster.carry(lists, put, fromAToB)).toEqual(["done"]);
    for (const server of [pair.a, pair.b])
      expect(await entries(server, id)).toEqual([one, two, three]);
  });

  test("as its whole content is its content, and a change of its name alone is not", async () => {
    const [one = "", two = ""] = films;
    const id = await newPlaylist("Content", [one]);
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    const kid = await Viewer.enter(pair.a.url, { name: "kid" });
    for (const [body, expected] of [
      [{ Ids: [two, one] }, [two, one]],
      [{ Name: "Content" }, [two, one]],
      [{ Ids: [] }, []],
    ] as const) {
      expect((await kid.call("POST", `/Playlists/${id}`, { body })).status).toBe(204);
      const set = await cluster.intent("POST", `/Playlists/${id}`, { userId: owner, body });
      await cluster.carry(lists, set, fromAToB);
      for (const server of [pair.a, pair.b]) expect(await entries(server, id)).toEqual(expected);
    }
  });

  test("as a folder is what is in it, without what others have added meanwhile", async () => {
    const [one = ""] = films;
    const id = await newPlaylist("Folder", [one]);
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    const [folder] = (await ask(pair.a, "GET", "/Library/VirtualFolders")) as { ItemId: string }[];
    const target = `/Playlists/${id}/Items?ids=${folder?.ItemId}`;
    await ask(pair.a, "POST", `${target}&userId=${owner}`);
    const put = await cluster.intent("POST", target, { userId: owner });
    const other = await cluster.intent("POST", `/Playlists/${id}/Items?ids=${one}`, {
      userId: owner,
    });
    await ask(pair.a, "POST", `/Playlists/${id}/Items?ids=${one}&userId=${owner}`);
    const outcome = { type: "outcome", id: "x", of: put.id, replica: "a", status: 204 } as const;
    const hands = led(cluster.hands("a"));
    const publish = async (others: readonly Intent[] | undefined) =>
      await inner.publish(cluster.placed(put), outcome, hands, {
        isRaced: false,
        untold: async () => others,
      });
    // Whether another was done is not known yet.
    expect((await publish(undefined)).outcome).toBe("later");
    const told = effectOf(await publish([other]));
    expect((await cluster.apply(lists, "b", "a", put, told)).outcome).toBe("done");
    const inside = await namesOf(pair.a, `/Items?parentId=${folder?.ItemId}`, "Id");
    expect(await entries(pair.b, id)).toEqual([one, ...inside]);
    expect(await cluster.carry(lists, other, fromAToB)).toEqual(["done"]);
    expect(await entries(pair.b, id)).toEqual([one, ...inside, one]);
  });

  test("stays where a server that lacks one of its items tells of another", async () => {
    const [one = "", two = "", three = ""] = films;
    // What one sidecar has seen the other has not.
    const atB = createLists();
    const id = await newPlaylist("Lacking", [one, two]);
    await pair.b.control("hide", { item: one });
    const made = listIntent("created", id);
    const told = effectOf(await cluster.publish(lists, "a", made));
    expect((await cluster.apply(atB, "b", "a", made, told)).outcome).toBe("aside");
    const target = `/Playlists/${id}/Items?ids=${three}`;
    await ask(pair.b, "POST", `${target}&userId=${owner}`);
    const put = await cluster.intent("POST", target, { userId: owner });
    const also = effectOf(await cluster.publish(atB, "b", put));
    expect((await cluster.apply(lists, "a", "b", put, also)).outcome).toBe("done");
    expect(await entries(pair.a, id)).toEqual([one, two, three]);
    await pair.b.control("hide", { item: one, hidden: false });
    const heard = { type: "effect", id: "also", of: put.id, ofNumber: 0, replica: "b" } as const;
    atB.words?.note(cluster.placed({ ...heard, kind: "playlist", ...also }), true);
    await atB.words?.look(id, cluster.hands("b"), async () => true);
    expect(await entries(pair.b, id)).toEqual([one, two, three]);
  });

  test("and is gone from the writer's server since goes with the next word about the list", async () => {
    const [one = "", two = "", three = ""] = films;
    const id = await newPlaylist("Gone since", [one, two]);
    await cluster.carry(lists, listIntent("created", id), fromAToB);
    await pair.a.control("hide", { item: one });
    await ask(pair.a, "POST", `/Playlists/${id}/Items?ids=${three}&userId=${owner}`);
    const put = await cluster.intent("POST", `/Playlists/${id}/Items?ids=${three}`, {
      userId: owner,
    });
    expect(await cluster.carry(lists, put, fromAToB)).toEqual(["done"]);
    await pair.a.control("hide", { item: one, hidden: false });
    expect(await entries(pair.b, id)).toEqual([two, three]);
  });
});

describe("collections", () => {
  const collection = (what: string, itemId: string, query = ""): Intent => ({
    ...intent("collection", { itemId, facts: { what } }),
    request: { method: "POST", path: "/Collections", query, contentType: "", body: "" },
  });

  test("one that was made on a is on b, and follows what comes and goes", async () => {
    const { Id } = (await ask(pair.a, "POST", `/Collections?name=Best&ids=${films[0]}`)) as {
      Id: string;
    };
    const made = collection("created", "");
    expect(await cluster.carry(lists, made, { ...fromAToB, facts: { id: Id } })).toEqual(["done"]);
    const change = async (method: string, film = "") => {
      const target = `/Collections/${Id}/Items?ids=${film}`;
      await ask(pair.a, method, target);
      return await cluster.carry(lists, await cluster.intent(method, target), fromAToB);
    };
    expect(await change("POST", films[1])).toEqual(["done"]);
    expect(await change("DELETE", films[0])).toEqual(["done"]);
    expect(await members(pair.b, Id)).toEqual([films[1]]);
    // What is there already is no second member.
    expect(await change("POST", films[1])).toEqual(["skipped"]);
  });

  test("a creation that is done again adds to what there is, and empties nothing", async () => {
    const { Id } = (await ask(pair.b, "POST", `/Collections?name=Kept&ids=${films[0]}`)) as {
      Id: string;
    };
    const again = collection("created", "", `name=Kept&ids=${films[2]}`);
    expect((await lists.redo(cluster.placed(again), cluster.hands("b"), true)).outcome).toBe(
      "done",
    );
    expect((await members(pair.b, Id)).sort()).toEqual([films[0], films[2]].sort());
  });
});

describe("a collection that was renamed", () => {
  const created = (query: string): Intent => ({
    ...intent("collection", { facts: { what: "created" } }),
    request: { method: "POST", path: "/Collections", query, contentType: "", body: "" },
  });

  test("is not emptied when one of its first name is done again, also where a question fails", async () => {
    // Before: a failed question was taken for «there is none», and the creation was posted once more.
    const path = `/Collections?name=Before&ids=${films[0]}`;
    const { Id } = (await ask(pair.b, "POST", path)) as { Id: string };
    await ask(pair.b, "POST", `/Items/${Id}`, { Name: "After" });
    const again = created(`name=Before&ids=${films[2]}`);
    const redo = () => lists.redo(cluster.placed(again), cluster.hands("b"), true);
    await pair.b.control("fail", { path: "^/Items\\?", method: "GET", status: 500, times: 1 });
    expect(await redo()).toEqual({ outcome: "again", why: "it answers 500" });
    expect((await redo()).outcome).toBe("done");
    expect((await members(pair.b, Id)).sort()).toEqual([films[0], films[2]].sort());
    expect(await namesOf(pair.b, `/Items?ids=${Id}`)).toEqual(["After"]);
  });

  test("before anybody else had it has the same id, which is made of its first name", async () => {
    const path = `/Collections?name=${encodeURIComponent("First: name")}&ids=${films[0]}`;
    const { Id } = (await ask(pair.a, "POST", path)) as { Id: string };
    await ask(pair.a, "POST", `/Items/${Id}`, { Name: "Second name" });
    const way = { ...fromAToB, facts: { id: Id } };
    expect(await cluster.carry(lists, created(""), way)).toEqual(["done"]);
    expect(await members(pair.b, Id)).toEqual([films[0]]);
    expect(differences).toBe(0);
  });

  test("of which nobody knows the id is not told of before its name could be asked for", async () => {
    const path = `/Collections?name=Unknown&ids=${films[0]}`;
    const { Id } = (await ask(pair.a, "POST", path)) as { Id: string };
    const made = created("name=Unknown");
    await pair.a.control("fail", { path: "^/Items\\?", method: "GET", status: 500, times: 1 });
    expect((await cluster.publish(lists, "a", made)).outcome).toBe("again");
    expect(effectOf(await cluster.publish(lists, "a", made)).itemId).toBe(Id);
  });
});

describe("items", () => {
  const metadata = (
    itemId: string,
    facts: unknown,
    request: Partial<Intent["request"]>,
  ): Intent => ({
    ...intent("metadata", { itemId, facts }),
    request: {
      method: "POST",
      path: `/Items/${itemId}`,
      query: "",
      contentType: "application/json",
      body: "",
      ...request,
    },
  });

  test("an edit is made on b, too, and waits for an item that b lacks", async () => {
    const [film = ""] = films;
    const body = JSON.stringify({ Name: "One", Overview: "about one" });
    const edited = metadata(film, { what: "repeat" }, { body });
    await pair.b.control("hide", { item: film });
    expect(await cluster.carry(library, edited, fromAToB)).toEqual(["aside"]);
    await pair.b.control("hide", { item: film, hidden: false });
    expect(await cluster.carry(library, edited, fromAToB)).toEqual(["done"]);
    expect(await ask(pair.b, "GET", `/Items/${film}`)).toMatchObject({ Overview: "about one" });
  });

  test("an edit at a server that stumbles, or does not know our key, is made when it no longer does", async () => {
    const [film = ""] = films;
    const body = JSON.stringify({ Name: "One", Overview: "after a stumble" });
    const edited = metadata(film, { what: "repeat" }, { body });
    for (const status of [500, 401]) {
      await pair.b.control("fail", { path: `^/Items/${film}$`, method: "POST", status, times: 1 });
      const outcomes = await cluster.carry(library, edited, fromAToB);
      expect(outcomes).toEqual([`again: it answers ${status}`]);
    }
    expect(await cluster.carry(library, edited, fromAToB)).toEqual(["done"]);
    expect(await ask(pair.b, "GET", `/Items/${film}`)).toMatchObject({
      Overview: "after a stumble",
    });
  });

  test("what waits aside is told apart: of one item's whole the newest counts, libraries come in order", () => {
    const [film = ""] = films;
    const order = (kind: IntentKind, payload: unknown, itemId = film) =>
      library.order?.({
        ...{ type: "effect", id: "x", of: "x", ofNumber: 0, kind, replica: "a", userId: "" },
        ...{ itemId, payload },
      });
    const repeat = (path: string) => ({
      repeat: { method: "POST", path, query: "", contentType: "", body: "" },
    });
    expect(order("metadata", repeat(`/Items/${film}`))).toEqual({ whole: `item ${film}` });
    expect(order("metadata", repeat("/Videos/MergeVersions"))).toEqual({});
    const pictures = { imageType: "Backdrop", sizes: [1] };
    expect(order("metadata", { pictures })).toEqual({ whole: `pictures backdrop of ${film}` });
    const libraries = { holds: "libraries", waitsFor: "libraries" };
    expect(order("virtualFolder", repeat("/Library/VirtualFolders"))).toEqual(libraries);
    expect(order("libraryNews", repeat("/Library/Media/Updated"))).toEqual({});
  });

  test("what one edit says all of is the same for the intent and for its effect", async () => {
    const [film = ""] = films;
    const subjects = async (method: string, target: string, body?: unknown) => {
      const asked = await cluster.intent(method, target, { body, contentType: "image/png" });
      const published = await cluster.publish(library, "a", asked);
      const { id: of, kind } = asked;
      const effect = { type: "effect", id: "x", of, ofNumber: 0, kind, replica: "a" } as const;
      const told = { ...effect, ...effectOf(published) };
      return [library.subject?.(asked), library.subject?.(told)];
    };
    const edited = `item ${film}`;
    expect(await subjects("POST", `/Items/${film}`, { Name: "One" })).toEqual([edited, edited]);
    const pictures = `pictures primary of ${film}`;
    const image = `/Items/${film}/Images/Primary`;
    expect(await subjects("POST", image, "cGljdHVyZQ==")).toEqual([pictures, pictures]);
    const merge = `/Videos/MergeVersions?ids=${films.slice(0, 2).join(",")}`;
    expect(await subjects("POST", merge)).toEqual([undefined, undefined]);
  });

  test("an edit too long for the journal is copied from the server that has it", async () => {
    const [, film = ""] = films;
    await ask(pair.a, "POST", `/Items/${film}`, { Name: "Two", Overview: "long" });
    const edited = metadata(film, { what: "repeat" }, { bodyTooBig: true });
    expect(await cluster.carry(library, edited, fromAToB)).toEqual(["done"]);
    expect(await ask(pair.b, "GET", `/Items/${film}`)).toMatchObject({ Overview: "long" });
  });

  test("backdrops are appended once each, in order, from the journal or from the server that has them", async () => {
    const [film = ""] = films;
    const sizes = async (server: StandIn) =>
      ((await ask(server, "GET", `/Items/${film}/Images`)) as { Size: number }[]).map(
        ({ Size }) => Size,
      );
    const facts = { what: "images", imageType: "Backdrop" };
    for (const picture of ["first", "the second"]) {
      await ask(
        pair.a,
        "POST",
        `/Items/${film}/Images/Backdrop`,
        Buffer.from(picture).toString("base64"),
      );
    }
    const path = `/Items/${film}/Images/Backdrop`;
    const body = Buffer.from("the second").toString("base64");
    const uploaded = metadata(film, facts, { path, contentType: "image/png", body });
    for (const expected of ["done", "skipped"]) {
      expect(await cluster.carry(library, uploaded, fromAToB)).toEqual([expected]);
      expect(await sizes(pair.b)).toEqual([5, 10]);
    }
    await ask(pair.a, "DELETE", `/Items/${film}/Images/Backdrop/0`);
    const removed = metadata(film, facts, { method: "DELETE", path: `${path}/0` });
    expect(await cluster.carry(library, removed, fromAToB)).toEqual(["done"]);
    expect(await sizes(pair.b)).toEqual([10]);
  });

  describe("a subtitle in a server's own folder", () => {
    const was = (name: string, language = "eng") => ({
      ...{ name, language, isBesideMedia: false, codec: "subrip", title: "" },
      ...{ isForced: false, isHearingImpaired: false },
    });
    const upload = (film: string, Language: string): Intent => ({
      ...intent("itemFile", { itemId: film, facts: { file: "subtitle", what: "added" } }),
      request: {
        ...{ method: "POST", path: `/Videos/${film}/Subtitles`, query: "" },
        contentType: "application/json",
        body: JSON.stringify({ Language, Format: "srt", Data: "" }),
      },
    });
    const deletion = (film: string, facts: object): Intent => ({
      ...intent("itemFile", {
        itemId: film,
        facts: { file: "subtitle", what: "removed", ...facts },
      }),
      request: {
        ...{ method: "DELETE", path: `/Videos/${film}/Subtitles/2`, query: "" },
        ...{ contentType: "", body: "" },
      },
    });
    const names = async (server: StandIn, film: string): Promise<string[]> => {
      const { Items } = (await ask(server, "GET", `/Items?ids=${film}&fields=MediaStreams`)) as {
        Items: { MediaStreams: { Type: string; Path: string }[] }[];
      };
      const streams = Items[0]?.MediaStreams ?? [];
      return streams.filter(({ Type }) => Type === "Subtitle").map(({ Path }) => basename(Path));
    };
    const stem = "Two (2002)";
    let two = "";

    beforeAll(async () => {
      const found = (await ask(pair.a, "GET", "/Items?recursive=true&includeItemTypes=Movie")) as {
        Items: { Id: string; Name: string }[];
      };
      two = found.Items.find(({ Name }) => Name === stem)?.Id ?? "";
      for (const server of [pair.a, pair.b]) {
        const libraries = (await ask(server, "GET", "/Library/VirtualFolders")) as {
          ItemId: string;
          LibraryOptions: object;
        }[];
        for (const { ItemId, LibraryOptions } of libraries) {
          const options = { ...LibraryOptions, SaveSubtitlesWithMedia: false };
          const body = { Id: ItemId, LibraryOptions: options };
          await ask(server, "POST", "/Library/VirtualFolders/LibraryOptions", body);
        }
      }
    });

    /** These and no others are at b, and listed. */
    async function begin(...languages: readonly string[]): Promise<void> {
      const left = await names(pair.b, two);
      for (const _ of left) await ask(pair.b, "DELETE", `/Videos/${two}/Subtitles/2`);
      for (const language of languages) {
        const { path, body } = upload(two, language).request;
        await ask(pair.b, "POST", path, JSON.parse(body));
      }
      const wanted = languages.map((language) => `${stem}.${language}.srt`).join();
      await until(5000, "the files", async () => (await names(pair.b, two)).join() === wanted);
    }

    test("is deleted where it was sent a moment ago, once it is listed there", async () => {
      await begin();
      expect(await cluster.carry(library, upload(two, "en"), fromAToB)).toEqual(["done"]);
      const gone = deletion(two, { was: was(`${stem}.en.srt`) });
      expect(await cluster.carry(library, gone, fromAToB)).toEqual([
        "again: the server does not list the file yet that it was sent",
      ]);
      await until(5000, "the file", async () => (await names(pair.b, two)).length === 1);
      expect(await cluster.carry(library, gone, fromAToB)).toEqual(["done"]);
      expect(await names(pair.b, two)).toEqual([]);
    });

    test("is not taken for another one, and not for one beside the media", async () => {
      await begin("de", "fr");
      cluster.told.length = 0;
      for (const facts of [{ was: was(`${stem}.en.srt`) }, {}, { was: { name: "" } }]) {
        await cluster.carry(createLibrary(), deletion(two, facts), fromAToB);
      }
      const told = `which subtitle of item ${two} was deleted is not known: b keeps its own`;
      expect(cluster.told.filter((line) => line === told)).toHaveLength(2);
      const beside = { was: { ...was(`${stem}.de.srt`, "ger"), isBesideMedia: true } };
      expect(await cluster.carry(library, deletion(two, beside), fromAToB)).toEqual(["done"]);
      expect(await names(pair.b, two)).toEqual([`${stem}.de.srt`, `${stem}.fr.srt`]);
    });

    test("is deleted by the next leader, under the index it has there, when its server died", async () => {
      await begin("de", "fr");
      const facts = { kind: "apiKey", userId: "", userName: "", deviceId: "" } as const;
      cluster.memory.identities.set("sonarr", {
        ...{ ...facts, key: "sonarr", client: "", device: "", version: "", generation: 1 },
        ...{ startedAtMs: 0, origin: "a", tokens: {} },
      });
      const redo = async (name: string, language: string, isAgreed: boolean) => {
        const asked = deletion(two, { was: was(name, language) });
        const placed = cluster.placed({ ...asked, identityKey: "sonarr" });
        return await library.redo(placed, cluster.hands("b"), isAgreed);
      };
      expect(await redo(`${stem}.fr.srt`, "fre", false)).toEqual({ outcome: "done" });
      expect(await names(pair.b, two)).toEqual([`${stem}.de.srt`]);
      // Nobody has asked a server whether its caller may: the others are not made to delete it.
      const refused = { outcome: "refused", why: "its file is not there" };
      expect(await redo(`${stem}.fr.srt`, "fre", false)).toEqual(refused);
      expect(await redo(`${stem}.fr.srt`, "fre", true)).toEqual({ outcome: "done" });
    });
  });

  test("a library is made once, though it is told twice", async () => {
    const made: Intent = {
      ...intent("virtualFolder", { facts: {} }),
      request: {
        ...{ method: "POST", path: "/Library/VirtualFolders", contentType: "application/json" },
        ...{
          query: `name=Music&collectionType=music&paths=${encodeURIComponent(media)}`,
          body: "{}",
        },
      },
    };
    expect(await cluster.carry(library, made, fromAToB)).toEqual(["done"]);
    expect(await cluster.carry(library, made, fromAToB)).toEqual(["skipped"]);
    const folders = (await ask(pair.b, "GET", "/Library/VirtualFolders")) as { Name: string }[];
    expect(folders.map(({ Name }) => Name)).toEqual(["Movies", "Shows", "Music"]);
  });

  test("an effect that names another route than its kind's own is never sent", async () => {
    const bad: Intent = {
      ...intent("libraryNews", { facts: {} }),
      request: { method: "POST", path: "/System/Shutdown", query: "", contentType: "", body: "" },
    };
    expect(await cluster.carry(library, bad, fromAToB)).toEqual([
      "given up: its request makes no sense",
    ]);
    const effect = { userId: "", itemId: "", payload: { repeat: bad.request } };
    const applied = await cluster.apply(library, "b", "a", bad, effect);
    expect(applied).toEqual({ outcome: "refused", why: "what it says makes no sense" });
  });

  test("a deletion of what a server never had is done again only where another server agreed to it", async () => {
    const film = "f".repeat(32);
    const gone = cluster.placed(intent("itemGone", { itemId: film, facts: { ids: [film] } }));
    const redone = (isAgreed: boolean) => lists.redo(gone, cluster.hands("a"), isAgreed);
    expect((await redone(true)).outcome).toBe("skipped");
    expect((await redone(false)).outcome).toBe("refused");
  });

  test("a deletion or a picture is not taken for done because a question about it failed", async () => {
    const [film = ""] = films;
    const gone = intent("itemGone", { itemId: film, facts: { ids: [film] } });
    const question = { path: `^/Items[?/].*${film}`, method: "GET", status: 500, times: 1 };
    const failed = { outcome: "again", why: "it answers 500" };
    await pair.b.control("fail", question);
    const deleted = await lists.redo(cluster.placed(gone), cluster.hands("b"), true);
    expect(deleted).toMatchObject(failed);
    await pair.b.control("fail", question);
    const path = `/Items/${film}/Images/Backdrop`;
    const body = Buffer.from("a third").toString("base64");
    const facts = { what: "images", imageType: "Backdrop" };
    const uploaded = metadata(film, facts, { path, contentType: "image/png", body });
    const put = await library.redo(cluster.placed(uploaded), cluster.hands("b"), true);
    expect(put).toEqual(failed);
  });

  test("a deleted film goes from b only once its file is gone there, too", async () => {
    const film = films.at(-1) ?? "";
    const gone = intent("itemGone", { itemId: film, facts: { ids: [film] } });
    // A server that says yes and still has it has deleted something else.
    expect(await cluster.carry(lists, gone, fromAToB)).toEqual([]);
    await ask(pair.a, "DELETE", `/Items/${film}`);
    expect(await cluster.carry(lists, gone, fromAToB)).toEqual([
      "refused: the files of a deleted item are still seen there",
    ]);
    const { Path } = (await ask(pair.b, "GET", `/Items/${film}`)) as { Path: string };
    await pair.b.control("configure", { document: "system", change: { StandInWritesMedia: true } });
    rmSync(Path);
    expect(await cluster.carry(lists, gone, fromAToB)).toEqual(["done"]);
    expect(await namesOf(pair.b, `/Items?ids=${film}`)).toEqual([]);
    expect(await cluster.carry(lists, gone, fromAToB)).toEqual(["skipped"]);
  });
});
