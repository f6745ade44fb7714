// Documents that were changed at one server, at another: two stand-ins, and the handler that a follower would ask.

import { randomUUID } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { monitorsIn, monitorValue } from "../../core/cluster/monitors.ts";
import { putNote } from "../../core/cluster/notes.ts";
import { userAliasesOf } from "../../core/cluster/user-aliases.ts";
import { createDocuments } from "../../sidecar/journal/documents.ts";
import type { Loss } from "../../sidecar/journal/follower.ts";
import type { JournalHands } from "../../sidecar/journal/handler.ts";
import { createPlugins, isForOthers } from "../../sidecar/journal/plugins.ts";
import { reconcile } from "../../sidecar/journal/reconcile.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { type AskedBy, HandCluster } from "../support/journal-hands.ts";
import { until } from "../support/viewer.ts";
import { emptyFolder } from "./sidecar-cluster.ts";

const media = emptyFolder();
const handler = createDocuments();
let a: StandIn;
let b: StandIn;
let stopPair: () => Promise<void>;
let cluster: HandCluster;
let kid = "";

beforeAll(async () => {
  ({ a, b, stop: stopPair } = await startPair({ mediaDir: media.path }));
  cluster = new HandCluster([a, b]);
  await cluster.start();
  kid = (await users(a)).find(({ Name }) => Name === "kid")?.Id ?? "";
});

afterAll(async () => {
  await cluster.stop();
  await stopPair();
  media.remove();
});

beforeEach(() => {
  cluster.told.length = 0;
});

async function call(server: StandIn, method: string, path: string, body?: unknown, type?: string) {
  return await fetch(server.url + path, {
    method,
    headers: {
      authorization: `MediaBrowser Token="${server.apiKey}"`,
      "content-type": type ?? "application/json",
    },
    body: body === undefined ? null : typeof body === "string" ? body : JSON.stringify(body),
  });
}

async function get(server: StandIn, path: string): Promise<Record<string, unknown>> {
  return (await (await call(server, "GET", path)).json()) as Record<string, unknown>;
}

async function users(server: StandIn): Promise<{ Id: string; Name: string }[]> {
  return (await (await call(server, "GET", "/Users")).json()) as { Id: string; Name: string }[];
}

/** Done at a as a client does it, and carried to b. */
async function change(method: "POST" | "DELETE", path: string, asked: AskedBy = {}) {
  const intent = await cluster.intent(method, path, asked);
  const answer = await call(a, method, path, asked.body, asked.contentType);
  expect(answer.status).toBe(204);
  return { intent, outcomes: await cluster.carry(handler, intent, { from: "a", to: "b" }) };
}

describe("a document that a user changes at one server", () => {
  test("display preferences are the same at the other, for each client by itself", async () => {
    const path = `/DisplayPreferences/usersettings?userId=${kid}&client=emby`;
    const body = { ...(await get(a, path)), CustomPrefs: { homesection0: "resume" } };
    expect((await change("POST", path, { body })).outcomes).toEqual(["done"]);
    expect((await get(b, path)).CustomPrefs).toEqual({ homesection0: "resume" });
    expect((await get(b, path.replace("emby", "tv"))).CustomPrefs).not.toHaveProperty(
      "homesection0",
    );
    // Said once more, nothing is written there.
    expect((await change("POST", path, { body })).outcomes).toEqual(["skipped"]);
  });

  test("a configuration, whatever spelling its route has", async () => {
    const { Configuration } = await get(a, `/Users/${kid}`);
    const said = { ...(Configuration as object), SubtitleMode: "Always" };
    const asked = { body: said, userId: kid };
    expect((await change("POST", `/Users/${kid}/Configuration`, asked)).outcomes).toEqual(["done"]);
    expect((await get(b, `/Users/${kid}`)).Configuration).toMatchObject({ SubtitleMode: "Always" });
    const again = { body: { ...said, SubtitleMode: "None" } };
    const outcomes = (await change("POST", `/Users/Configuration?userId=${kid}`, again)).outcomes;
    expect(outcomes).toEqual(["done"]);
    expect((await get(b, `/Users/${kid}`)).Configuration).toMatchObject({ SubtitleMode: "None" });
  });

  test("a policy, also one that disables, and what a short body leaves out is as the server has it", async () => {
    const { Policy } = await get(a, `/Users/${kid}`);
    const body = { ...(Policy as object), IsDisabled: true };
    expect((await change("POST", `/Users/${kid}/Policy`, { body })).outcomes).toEqual(["done"]);
    expect((await get(b, `/Users/${kid}`)).Policy).toMatchObject({ IsDisabled: true });
    const open = { ...(Policy as object), IsDisabled: false };
    expect((await change("POST", `/Users/${kid}/Policy`, { body: open })).outcomes).toEqual([
      "done",
    ]);
    expect((await get(b, `/Users/${kid}`)).Policy).toEqual(Policy);
  });

  test("a profile picture: small ones in the journal, large ones fetched from the server that has them", async () => {
    const small = Buffer.from("a small picture").toString("base64");
    const picture = { body: small, contentType: "image/png", userId: kid };
    const path = `/UserImage?userId=${kid}`;
    expect((await change("POST", path, picture)).outcomes).toEqual(["done"]);
    const shown = await call(b, "GET", path);
    expect(shown.headers.get("content-type")).toBe("image/png");
    expect(await shown.text()).toBe("a small picture");
    expect((await change("POST", path, picture)).outcomes).toEqual(["skipped"]);

    const large = Buffer.alloc(300_000, "large").toString("base64");
    const { intent, outcomes } = await change("POST", path, { ...picture, body: large });
    expect(outcomes).toEqual(["done"]);
    expect(JSON.stringify(intent).length).toBeLessThan(1000);
    expect((await (await call(b, "GET", path)).text()).length).toBe(300_000);

    expect((await change("DELETE", path, { userId: kid })).outcomes).toEqual(["done"]);
    expect((await call(b, "GET", path)).status).toBe(404);
  });

  test("of a user who is not there is refused with a sentence", async () => {
    const intent = await cluster.intent("POST", `/Users/${"f".repeat(32)}/Policy`, { body: {} });
    const draft = { userId: "f".repeat(32), itemId: "", payload: { document: { IsHidden: true } } };
    const applied = await cluster.apply(handler, "b", "a", intent, draft);
    expect(applied).toEqual({ outcome: "refused", why: "a user's policy is not there" });
  });
});

describe("a document of the server", () => {
  test("is the same everywhere but for what is a server's own", async () => {
    await b.control("configure", {
      document: "system",
      change: {
        CachePath: "/b/cache",
        ServerName: "b",
        TrickplayOptions: { ProcessThreads: 8, Qscale: 4 },
      },
    });
    const body = {
      ...(await get(a, "/System/Configuration")),
      MinResumePct: 7,
      CachePath: "/a/cache",
      ServerName: "a",
      TrickplayOptions: { ProcessThreads: 1, Qscale: 9 },
    };
    expect((await change("POST", "/System/Configuration", { body })).outcomes).toEqual(["done"]);
    expect(await get(b, "/System/Configuration")).toMatchObject({
      MinResumePct: 7,
      CachePath: "/b/cache",
      ServerName: "b",
      TrickplayOptions: { ProcessThreads: 8, Qscale: 9 },
    });
    // Only what is its own differs now, so there is nothing to write.
    expect((await change("POST", "/System/Configuration", { body })).outcomes).toEqual(["skipped"]);
  });

  test("by its key: what an encoder may do is carried, which hardware it has is not", async () => {
    const body = {
      ...(await get(a, "/System/Configuration/encoding")),
      H264Crf: 20,
      VaapiDevice: "/dev/a",
    };
    expect((await change("POST", "/System/Configuration/encoding", { body })).outcomes).toEqual([
      "done",
    ]);
    const there = await get(b, "/System/Configuration/encoding");
    expect(there.H264Crf).toBe(20);
    expect(there).not.toHaveProperty("VaapiDevice");
  });

  test("the database's own settings stay where they are", async () => {
    const path = "/System/Configuration/database";
    expect((await change("POST", path, { body: { DatabaseType: "x" } })).outcomes).toEqual([]);
  });

  test("branding and the login page's picture", async () => {
    const body = {
      CustomCss: "body { color: red }",
      LoginDisclaimer: "hello",
      SplashscreenEnabled: true,
    };
    expect((await change("POST", "/System/Configuration/Branding", { body })).outcomes).toEqual([
      "done",
    ]);
    expect(await get(b, "/Branding/Configuration")).toMatchObject(body);
    const picture = { body: Buffer.from("splash").toString("base64"), contentType: "image/webp" };
    expect((await change("POST", "/Branding/Splashscreen", picture)).outcomes).toEqual(["done"]);
    expect(await (await call(b, "GET", "/Branding/Splashscreen")).text()).toBe("splash");
    expect((await change("DELETE", "/Branding/Splashscreen")).outcomes).toEqual(["done"]);
    expect((await call(b, "GET", "/Branding/Splashscreen")).status).toBe(404);
  });

  test("a list of plugin repositories", async () => {
    const body = [{ Name: "one", Url: "http://127.0.0.1/one", Enabled: true }];
    expect((await change("POST", "/Repositories", { body })).outcomes).toEqual(["done"]);
    expect(await get(b, "/Repositories")).toEqual(body);
    expect((await change("POST", "/Repositories", { body })).outcomes).toEqual(["skipped"]);
  });

  test("the name of a device", async () => {
    const path = "/Devices/Options?id=tv%201";
    const named = { body: { CustomName: "The kitchen's" } };
    expect((await change("POST", path, named)).outcomes).toEqual(["done"]);
    expect(await get(b, path)).toMatchObject({ DeviceId: "tv 1", CustomName: "The kitchen's" });
    expect((await change("POST", path, named)).outcomes).toEqual(["skipped"]);
    const taken = { body: { CustomName: null } };
    expect((await change("POST", path, taken)).outcomes).toEqual(["done"]);
    expect(await get(b, path)).toMatchObject({ CustomName: null });
    // Of a device without a name there is nothing to be taken away.
    const other = "/Devices/Options?id=other";
    expect((await change("POST", other, taken)).outcomes).toEqual(["skipped"]);
  });

  test("a library's options, but for who watches its folders", async () => {
    const folders = (await get(a, "/Library/VirtualFolders")) as unknown as {
      ItemId: string;
      LibraryOptions: object;
    }[];
    const Id = folders[0]?.ItemId ?? "";
    await b.control("configure", {
      document: `library-options/${Id}`,
      change: { EnableRealtimeMonitor: false },
    });
    const options = {
      ...folders[0]?.LibraryOptions,
      EnablePhotos: false,
      EnableRealtimeMonitor: true,
    };
    const path = "/Library/VirtualFolders/LibraryOptions";
    const said = { body: { Id, LibraryOptions: options } };
    expect((await change("POST", path, said)).outcomes).toEqual(["done"]);
    const there = (await get(b, "/Library/VirtualFolders")) as unknown as {
      LibraryOptions: object;
    }[];
    expect(there[0]?.LibraryOptions).toMatchObject({
      EnablePhotos: false,
      EnableRealtimeMonitor: false,
    });

    // What is to be watched is written down where the cluster keeps it, and only there.
    const { memory, seal, store } = cluster.hands("a");
    expect(memory.note("monitor", Id)).toBe(undefined);
    const value = monitorValue(seal, Id, true);
    await putNote({ store, memory }, { kind: "monitor", id: Id, replica: "", value }, 0);
    await change("POST", path, said);
    expect([...monitorsIn(memory.notes("monitor").values(), seal)]).toEqual([[Id, true]]);
    const none = { Id, LibraryOptions: { ...options, EnableRealtimeMonitor: false } };
    await change("POST", path, { body: none });
    expect([...monitorsIn(memory.notes("monitor").values(), seal)]).toEqual([[Id, false]]);

    const unknown = "e".repeat(32);
    const intent = await cluster.intent("POST", path, {
      body: { Id: unknown, LibraryOptions: {} },
    });
    const draft = { userId: "", itemId: unknown, payload: { facts: {}, document: {} } };
    const applied = await cluster.apply(handler, "b", "a", intent, draft);
    expect(applied).toEqual({ outcome: "aside", itemId: unknown });
  });

  test("a plugin's configuration is sealed in the journal, and refused where there is no such plugin", async () => {
    const id = "0123456789abcdef0123456789abcdef";
    const path = `/Plugins/${id}/Configuration`;
    await a.control("configure", { document: `plugin/${id}`, change: { Password: "old" } });
    const body = { Password: "a-word-for-nobody" };
    const { intent, outcomes } = await change("POST", path, { body });
    expect(outcomes).toEqual([`refused: the configuration of plugin ${id} is not there`]);
    const published = await cluster.publish(handler, "a", intent);
    expect(JSON.stringify([intent, published])).not.toContain("a-word-for-nobody");
    await b.control("configure", { document: `plugin/${id}`, change: { Password: "other" } });
    expect((await change("POST", path, { body })).outcomes).toEqual(["done"]);
    expect(await get(b, path)).toEqual(body);
  });

  test("tuners are carried as the document that has their ids", async () => {
    const hosts = [{ Id: "made-by-a", Url: "http://127.0.0.1/tuner", Type: "m3u" }];
    await a.control("configure", {
      document: "livetv",
      change: { TunerHosts: hosts, MediaLocationsCreated: ["/a"] },
    });
    const intent = await cluster.intent("POST", "/LiveTv/TunerHosts", { body: { Url: "x" } });
    const outcomes = await cluster.carry(handler, intent, { from: "a", to: "b" });
    expect(outcomes).toEqual(["done"]);
    const there = await get(b, "/System/Configuration/livetv");
    expect(there.TunerHosts).toEqual(hosts);
    expect(there).not.toHaveProperty("MediaLocationsCreated");
  });

  test("that a server refuses is said, and not tried for ever", async () => {
    await b.control("fail", {
      path: "/System/Configuration/metadata",
      method: "POST",
      status: 400,
      times: 1,
    });
    await a.control("configure", {
      document: "metadata",
      change: { UseFileCreationTimeForDateAdded: true },
    });
    await b.control("configure", {
      document: "metadata",
      change: { UseFileCreationTimeForDateAdded: true },
    });
    const body = { UseFileCreationTimeForDateAdded: false };
    const path = "/System/Configuration/metadata";
    const why = 'refused: the configuration "metadata" was answered 400';
    expect((await change("POST", path, { body })).outcomes).toEqual([why]);
  });
});

describe("a server that stumbles", () => {
  test("over two at one row is asked again", async () => {
    const path = `/DisplayPreferences/stumble?userId=${kid}&client=tv`;
    const body = { CustomPrefs: { it: "goes on" } };
    await b.control("fail", {
      path: "/DisplayPreferences/stumble",
      method: "POST",
      status: 500,
      times: 1,
    });
    expect((await change("POST", path, { body })).outcomes).toEqual(["done"]);
    expect((await get(b, path)).CustomPrefs).toEqual({ it: "goes on" });
    await b.control("fail", {
      path: "/DisplayPreferences/stumble",
      method: "GET",
      status: 500,
      times: 1,
    });
    expect((await change("POST", path, { body })).outcomes).toEqual(["again: it answers 500"]);
    expect((await change("POST", path, { body })).outcomes).toEqual(["skipped"]);
  });
});

describe("what waits aside of a user", () => {
  test("waits for them to be made, and for nothing else; of each document the newest counts", () => {
    const order = (
      kind: "preferences" | "userPolicy" | "configuration",
      userId: string,
      facts = {},
    ) =>
      handler.order?.({
        ...{ type: "effect", id: "x", of: "x", ofNumber: 0, kind, replica: "a", itemId: "" },
        ...{ userId, payload: { facts } },
      });
    const tv = order("preferences", kid, { id: "usersettings", client: "tv" });
    const web = order("preferences", kid, { id: "usersettings", client: "emby" });
    expect(tv?.whole).not.toBe(web?.whole);
    expect(tv).toEqual(order("preferences", kid, { id: "usersettings", client: "tv" }));
    expect([tv?.waitsFor, tv?.holds]).toEqual([`user ${kid}`, undefined]);
    expect(order("configuration", "", { document: "system" })).not.toHaveProperty("waitsFor");
  });
});

describe("a change whose server died before it could be told", () => {
  test("is carried out on another by what the journal holds", async () => {
    const { Policy } = await get(a, `/Users/${kid}`);
    const body = { ...(Policy as object), MaxActiveSessions: 4 };
    const intent = await cluster.intent("POST", `/Users/${kid}/Policy`, { body });
    const redone = await handler.redo(cluster.placed(intent), cluster.hands("b"), true);
    expect(redone).toEqual({ outcome: "done" });
    expect((await get(b, `/Users/${kid}`)).Policy).toMatchObject({ MaxActiveSessions: 4 });
    const picture = { body: Buffer.from("me").toString("base64"), contentType: "image/png" };
    const face = await cluster.intent("POST", `/UserImage?userId=${kid}`, picture);
    expect(await handler.redo(cluster.placed(face), cluster.hands("b"), true)).toEqual({
      outcome: "done",
    });
    expect(await (await call(b, "GET", `/UserImage?userId=${kid}`)).text()).toBe("me");
  });

  test("of a library's options keeps what it does not speak of, its folders included", async () => {
    const [library] = (await get(b, "/Library/VirtualFolders")) as unknown as {
      ItemId: string;
      LibraryOptions: { PathInfos: unknown[] };
    }[];
    const Id = library?.ItemId ?? "";
    const options = { ...library?.LibraryOptions, EnablePhotos: false, SeasonZeroDisplayName: "0" };
    const path = "/Library/VirtualFolders/LibraryOptions";
    const intent = await cluster.intent("POST", path, { body: { Id, LibraryOptions: options } });
    const redone = await handler.redo(cluster.placed(intent), cluster.hands("b"), true);
    expect(redone).toEqual({ outcome: "done" });
    const [now] = (await get(b, "/Library/VirtualFolders")) as unknown as {
      LibraryOptions: object;
    }[];
    const { EnableRealtimeMonitor: _own, ...said } = options as Record<string, unknown>;
    expect(now?.LibraryOptions).toMatchObject(said);
    expect(now?.LibraryOptions).not.toHaveProperty("LibraryOptions");
    // Told to a, it says nothing new once a has it.
    expect(await cluster.carry(handler, intent, { from: "b", to: "a" })).toEqual(["done"]);
    expect(await cluster.carry(handler, intent, { from: "b", to: "a" })).toEqual(["skipped"]);
  });

  test("waits while its server is away", async () => {
    await b.kill9();
    const intent = await cluster.intent("POST", `/Users/${kid}/Policy`, {
      body: { IsHidden: true },
    });
    expect(await handler.redo(cluster.placed(intent), cluster.hands("b"), true)).toMatchObject({
      outcome: "again",
    });
    await b.restart();
    await b.ready();
  });
});

describe("a server that was away for longer than the journal reaches back", () => {
  const plugin = "00112233445566778899aabbccddeeff";
  const preferences = "/DisplayPreferences/usersettings?client=emby&userId=";

  async function compared(cause: Loss, part: Partial<JournalHands> = {}): Promise<boolean> {
    const hands = { ...cluster.hands("b"), leads: () => false, ...part };
    const follower = {
      standing: () => ({ known: undefined, isOpen: false, quietMs: 0 }),
      publishSeen: async () => undefined,
    };
    const peers = () => new Map([["a", cluster.hands("a").client]]);
    const { signal } = new AbortController();
    return await reconcile({ hands, peers, follower, settleMs: 1 }, cause, signal);
  }

  test("has the documents of one that was not, but for what is its own", async () => {
    await post(a, `${preferences}${kid}`, { CustomPrefs: { homesection0: "nextup" } });
    await post(a, `/Users/Configuration?userId=${kid}`, { SubtitleMode: "Smart" });
    const { Policy } = await get(a, `/Users/${kid}`);
    await post(a, `/Users/${kid}/Policy`, { ...(Policy as object), MaxActiveSessions: 3 });
    const [library] = (await get(a, "/Library/VirtualFolders")) as unknown as { ItemId: string }[];
    const options = `library-options/${library?.ItemId ?? ""}`;
    await a.control("configure", {
      document: options,
      change: { EnablePhotos: true, EnableRealtimeMonitor: true },
    });
    await b.control("configure", {
      document: options,
      change: { EnablePhotos: false, EnableRealtimeMonitor: false },
    });
    for (const server of [a, b]) {
      const change = { Word: `of ${server.name}` };
      await server.control("configure", { document: `plugin/${plugin}`, change });
      await server.control("configure", {
        document: "system",
        change: { CachePath: `/${server.name}`, MinResumePct: server === a ? 9 : 3 },
      });
    }
    await a.control("configure", { document: "plugins", change: { one: { Id: plugin } } });

    expect(await compared("away")).toBe(true);
    expect((await get(b, `${preferences}${kid}`)).CustomPrefs).toEqual({ homesection0: "nextup" });
    expect(await get(b, `/Users/${kid}`)).toMatchObject({
      Configuration: { SubtitleMode: "Smart" },
      Policy: { MaxActiveSessions: 3 },
    });
    expect(await get(b, `/Plugins/${plugin}/Configuration`)).toEqual({ Word: "of a" });
    expect(await get(b, "/System/Configuration")).toMatchObject({
      CachePath: "/b",
      MinResumePct: 9,
    });
    const [there] = (await get(b, "/Library/VirtualFolders")) as unknown as object[];
    expect(there).toMatchObject({
      LibraryOptions: { EnablePhotos: true, EnableRealtimeMonitor: false },
    });

    // What is equal is not written once more.
    const before = (await b.requests()).length;
    expect(await compared("away")).toBe(true);
    const later = (await b.requests()).slice(before);
    expect(later.filter(({ method }) => method !== "GET")).toEqual([]);
  });

  test("has the libraries that were made meanwhile, with their options, and keeps its own", async () => {
    type Library = { Name: string; ItemId: string; CollectionType: string; Locations: string[] };
    const librariesAt = async (server: StandIn) =>
      (await get(server, "/Library/VirtualFolders")) as unknown as Library[];
    const path = "/Library/VirtualFolders";
    // Others than those of a try before.
    const run = randomUUID().slice(0, 8);
    const [own, made, later] = [`Own ${run}`, `Music & more ${run}`, `Songs ${run}`];
    const make = async (server: StandIn, name: string, type: string, body?: object) => {
      const query = `name=${encodeURIComponent(name)}&collectionType=${type}`;
      expect((await call(server, "POST", `${path}?${query}`, body)).status).toBe(204);
    };
    // A folder with a comma in its name is two where it is said in the query.
    const songs = join(media.path, `Songs, old ${run}`);
    mkdirSync(songs, { recursive: true });
    const said = { EnablePhotos: false, SeasonZeroDisplayName: run };
    await make(b, own, "books");
    await make(a, made, "music", { LibraryOptions: { ...said, PathInfos: [{ Path: songs }] } });
    // That of collections lies in a server's own data.
    await make(a, `Collections ${run}`, "boxsets");
    await b.control("fail", { path: `^${path}$`, method: "GET", status: 500, times: 1 });
    expect(await compared("away")).toBe(false);
    // Where its folders are is said by its locations, and it is scanned with its options from the beginning.
    const { ItemId } = (await librariesAt(a)).find(({ Name }) => Name === made) ?? {};
    await a.control("configure", {
      document: `library-options/${ItemId}`,
      change: { PathInfos: [] },
    });
    const options = { path: `^${path}/LibraryOptions`, method: "POST", status: 400 };
    await b.control("fail", options);
    // Once more, because nobody knows what it holds before it was scanned.
    expect(await compared("away")).toBe(false);
    await b.control("clear");
    const there = (await librariesAt(b)).find(({ Name }) => Name === made);
    expect(there).toMatchObject({
      ...{ CollectionType: "music", Locations: [songs], LibraryOptions: said },
    });
    expect(await compared("away")).toBe(true);

    const query = `name=${encodeURIComponent(made)}&newName=${encodeURIComponent(later)}`;
    expect((await call(a, "POST", `${path}/Name?${query}`)).status).toBe(204);
    expect(await compared("away")).toBe(false);
    expect(await compared("away")).toBe(true);
    const names = (await librariesAt(b)).map(({ Name }) => Name);
    expect(names.filter((name) => name.endsWith(run))).toEqual([own, later]);
  });

  test("has the users who were made meanwhile, and the names that they have by now", async () => {
    // Others than those of a try before.
    const run = randomUUID().slice(0, 8);
    const made = await call(a, "POST", "/Users/New", { Name: `nia ${run}`, Password: "a word" });
    const { Id, Policy } = (await made.json()) as { Id: string; Policy: object };
    await call(a, "POST", `/Users/${Id}/Policy`, { ...Policy, MaxActiveSessions: 7 });
    expect((await call(b, "POST", "/Users/New", { Name: `own ${run}` })).status).toBe(200);
    const rename = async (server: StandIn, name: string) => {
      const { Configuration, Policy: policy } = await get(server, `/Users/${kid}`);
      const body = { Name: name, Configuration, Policy: policy };
      expect((await call(server, "POST", `/Users?userId=${kid}`, body)).status).toBe(204);
    };
    await rename(a, `kid ${run}`);
    const before = (await b.requests()).length;
    expect(await compared("away")).toBe(true);
    const there = (await users(b)).find(({ Name }) => Name === `nia ${run}`);
    const aliases = userAliasesOf(cluster.memory, cluster.seal);
    expect(aliases.idAt("b", Id)).toBe(there?.Id);
    // What they may not do they may not do from the beginning.
    const asked = (await b.requests()).slice(before).map(({ method, path }) => `${method} ${path}`);
    expect(asked.indexOf(`POST /Users/${there?.Id}/Policy`)).toBeLessThan(
      asked.indexOf("GET /Items"),
    );
    expect((await get(b, `/Users/${there?.Id}`)).Policy).toMatchObject({ MaxActiveSessions: 7 });
    expect(cluster.told.join()).toContain("made at b with a password that nobody knows");
    const login = { Username: `nia ${run}`, Pw: "" };
    const entered = await fetch(`${b.url}/Users/AuthenticateByName`, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        authorization: 'MediaBrowser Client="T", Device="T", DeviceId="d", Version="1"',
      },
      body: JSON.stringify(login),
    });
    expect(entered.status).toBe(401);
    const names = (await users(b)).map(({ Name }) => Name);
    expect(names).toEqual(expect.arrayContaining([`nia ${run}`, `own ${run}`, `kid ${run}`]));
    for (const server of [a, b]) await rename(server, "kid");
  });

  test("is compared with nobody where the store was lost and its sidecar leads: the others are with it", async () => {
    await post(a, `${preferences}${kid}`, { CustomPrefs: { homesection0: "of a" } });
    await post(b, `${preferences}${kid}`, { CustomPrefs: { homesection0: "of b" } });
    expect(await compared("lost", { leads: () => true })).toBe(true);
    expect((await get(b, `${preferences}${kid}`)).CustomPrefs).toEqual({ homesection0: "of b" });
  });

  test("waits until it is known who leads where the store was lost", async () => {
    expect(await compared("lost")).toBe(false);
    expect(cluster.told.join()).toContain("is tried again");
  });

  async function post(server: StandIn, path: string, change: object): Promise<void> {
    const read = path.startsWith("/Users/Configuration") ? `/Users/${kid}` : path;
    const has = path.endsWith("/Policy") ? {} : await get(server, read);
    const body = { ...((has.Configuration as object | undefined) ?? has), ...change };
    expect((await call(server, "POST", path, body)).status).toBe(204);
  }
});

describe("a plugin", () => {
  const ldap = "1".repeat(32);
  const scrub = "a84a949d4b734099aacb8341b4da17ba";
  const letters = "60f478ab2dd64ea0af1004d033f75979";
  const packages = [
    { Id: ldap, Name: "LDAP", Version: "2.0.0.0" },
    { Id: ldap, Name: "LDAP", Version: "1.0.0.0" },
    { Id: scrub, Name: "Jellyscrub", Version: "1.0.0.0" },
    { Id: letters, Name: "Newsletters", Version: "1.0.0.0" },
  ];
  let plugins = createPlugins();

  /** Neither has any, and both are offered these. */
  async function begin(atB: readonly object[] = packages): Promise<void> {
    plugins = createPlugins();
    for (const server of [a, b]) {
      for (const { Id } of await listed(server)) await call(server, "DELETE", `/Plugins/${Id}`);
      const list = server === a ? packages : atB;
      await server.control("configure", { document: "packages", change: { list } });
      await server.control("clear");
      await server.control("forget-requests");
    }
  }

  const listed = async (server: StandIn) =>
    (await get(server, "/Plugins")) as unknown as { Id: string; Version: string; Status: string }[];
  const installed = async (server: StandIn) =>
    (await listed(server)).map(({ Version }) => Version).join();
  const asks = async (method: string, path: string) => (await b.requests({ method, path })).length;

  async function carried(method: "POST" | "DELETE", path: string) {
    const intent = await cluster.intent(method, path);
    expect((await call(a, method, path)).status).toBe(204);
    return { intent, outcomes: await cluster.carry(plugins, intent, { from: "a", to: "b" }) };
  }

  test("is installed at the other server in the version that the first one took, once", async () => {
    await begin([{ Id: ldap, Name: "LDAP", Version: "3.0.0.0" }, ...packages]);
    const path = `/Packages/Installed/LDAP?AssemblyGuid=${ldap}`;
    const { intent, outcomes } = await carried("POST", path);
    expect(outcomes).toEqual(["done"]);
    expect([await installed(a), await installed(b)]).toEqual(["2.0.0.0", "2.0.0.0"]);
    expect(cluster.told).toContain(
      "the plugin LDAP 2.0.0.0 was installed at b, too: it counts after a restart",
    );
    expect(await cluster.carry(plugins, intent, { from: "a", to: "b" })).toEqual(["skipped"]);
    expect(await asks("POST", "/Packages/Installed/")).toBe(1);
  });

  test("is disabled, enabled and removed there, too", async () => {
    await begin();
    await carried("POST", "/Packages/Installed/LDAP?version=1.0.0.0");
    const path = `/Plugins/${ldap}/1.0.0.0`;
    expect((await carried("POST", `${path}/Disable`)).outcomes).toEqual(["done"]);
    expect(await asks("POST", `${path}/Disable`)).toBe(1);
    expect((await carried("POST", `${path}/Enable`)).outcomes).toEqual(["done"]);
    expect(await asks("POST", `${path}/Enable`)).toBe(1);
    const { intent, outcomes } = await carried("DELETE", path);
    expect(outcomes).toEqual(["done"]);
    expect([await installed(a), await installed(b)]).toEqual(["", ""]);
    expect(await cluster.carry(plugins, intent, { from: "a", to: "b" })).toEqual(["skipped"]);
  });

  test("that a server's repositories do not offer is told, and so is one that it lacks", async () => {
    await begin([]);
    const { outcomes } = await carried("POST", `/Packages/Installed/LDAP?assemblyGuid=${ldap}`);
    const why = "none of its repositories offers the plugin LDAP 2.0.0.0";
    expect(outcomes).toEqual([`refused: ${why}`]);
    const disabled = await carried("POST", `/Plugins/${ldap}/2.0.0.0/Disable`);
    expect(disabled.outcomes).toEqual([`refused: the plugin ${ldap} 2.0.0.0 is not there`]);
  });

  test("whose installation takes longer than one waits for an answer is not installed twice", async () => {
    await begin();
    await b.control("reset", { path: "/Packages/Installed", method: "POST", times: 1 });
    const path = `/Packages/Installed/LDAP?assemblyGuid=${ldap}`;
    const { intent, outcomes } = await carried("POST", path);
    expect(outcomes).toEqual([expect.stringMatching(/^again: /)]);
    // The server goes on without whoever asked for it.
    await until(5000, "the plugin at b", async () => (await installed(b)) === "2.0.0.0");
    expect(await cluster.carry(plugins, intent, { from: "a", to: "b" })).toEqual(["done"]);
    expect(await asks("POST", "/Packages/Installed/")).toBe(1);
  });

  test("that is still being installed is waited for", async () => {
    await begin();
    await b.control("reset", { path: "/Packages/Installed", method: "POST", times: 1 });
    const { intent } = await carried("POST", `/Packages/Installed/LDAP?assemblyGuid=${ldap}`);
    await call(b, "DELETE", `/Plugins/${ldap}`);
    const waited = "again: the plugin LDAP 2.0.0.0 is still being installed";
    expect(await cluster.carry(plugins, intent, { from: "a", to: "b" })).toEqual([waited]);
    expect(await asks("POST", "/Packages/Installed/")).toBe(1);
  });

  test("that waits for a restart is given its settings after it", async () => {
    await begin();
    // Of its own: what was set of it in an earlier try would be there.
    const Id = randomUUID().replaceAll("-", "");
    for (const server of [a, b]) {
      const list = [{ Id, Name: "Words", Version: "1.0.0.0" }];
      await server.control("configure", { document: "packages", change: { list } });
    }
    await carried("POST", `/Packages/Installed/Words?assemblyGuid=${Id}`);
    const path = `/Plugins/${Id}/Configuration`;
    const loaded = (server: StandIn) =>
      server.control("configure", { document: `plugin/${Id}`, change: { Word: "none" } });
    await loaded(a);
    const { intent, outcomes } = await change("POST", path, { body: { Word: "set" } });
    expect(outcomes).toEqual(["aside"]);
    await loaded(b);
    expect(await cluster.carry(handler, intent, { from: "a", to: "b" })).toEqual(["done"]);
    expect(await get(b, path)).toEqual({ Word: "set" });
    // One that is there and has none, or is not there, has nothing to wait for.
    const other = "3".repeat(32);
    await a.control("configure", { document: `plugin/${other}`, change: { Word: "none" } });
    const refused = await change("POST", `/Plugins/${other}/Configuration`, { body: { Word: "" } });
    expect(refused.outcomes).toEqual([
      `refused: the configuration of plugin ${other} is not there`,
    ]);
  });

  test("that belongs on one server, or on none, is not brought to others", async () => {
    await begin();
    for (const id of [letters, scrub]) {
      const name = packages.find(({ Id }) => Id === id)?.Name;
      const path = `/Packages/Installed/${name}?assemblyGuid=${id}`;
      expect((await carried("POST", path)).outcomes).toEqual([]);
    }
    expect(await installed(b)).toBe("");
    const forOthers = (pluginId: string) =>
      (["installed", "enabled", "disabled", "removed"] as const).filter((what) =>
        isForOthers({ pluginId, what }),
      );
    expect(forOthers(ldap)).toHaveLength(4);
    expect(forOthers(scrub)).toEqual(["disabled", "removed"]);
    expect(forOthers(letters)).toEqual([]);
  });

  test("is installed by the next leader when its server died, and by an effect that makes sense", async () => {
    await begin();
    const intent = await cluster.intent("POST", "/Packages/Installed/LDAP");
    const redo = () => plugins.redo(cluster.placed(intent), cluster.hands("b"), false);
    expect(await redo()).toEqual({ outcome: "done" });
    expect(await redo()).toEqual({ outcome: "skipped" });
    expect(await installed(b)).toBe("2.0.0.0");
    const whole = { name: "Newsletters", version: "1.0.0.0", repositoryUrl: "" };
    for (const payload of [undefined, whole, { ...whole, what: "installed", pluginId: letters }]) {
      const draft = { userId: "", itemId: "", payload };
      const applied = await cluster.apply(plugins, "b", "a", intent, draft);
      expect(applied).toEqual({ outcome: "refused", why: "its payload makes no sense" });
    }
  });
});
