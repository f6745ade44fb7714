// Whatever an owner or a viewer sets through the door is set on every server: preferences, profiles, pictures,
// configuration, keys. Real processes: a door with its sidecars, two servers.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { emptyFolder } from "../http/sidecar-cluster.ts";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { withKey } from "../support/household.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { until, Viewer } from "../support/viewer.ts";

const media = emptyFolder();
let a: StandIn;
let b: StandIn;
let stopPair: () => Promise<void>;
let door: DoorProcess;
let owner: Viewer;
let kid: Viewer;

beforeAll(async () => {
  ({ a, b, stop: stopPair } = await startPair({ mediaDir: media.path }));
  door = await startDoor({ replicas: [a, b], apiKey: a.apiKey });
  owner = await Viewer.enter(door.url);
  kid = await Viewer.enter(door.url, { name: "kid" });
});

afterAll(async () => {
  await door.stop();
  await stopPair();
  media.remove();
});

const servers = () => [a, b];
/** What every server has within five seconds. */
const soon = (holds: () => Promise<boolean>) => until(5000, "it is everywhere", holds);

async function read(server: StandIn, path: string): Promise<Record<string, unknown>> {
  return (await (await withKey(server, "GET", path)).json()) as Record<string, unknown>;
}

/** On both servers, within a few seconds. */
async function everywhere(path: string, has: (document: Record<string, unknown>) => boolean) {
  for (const server of servers()) await soon(async () => has(await read(server, path)));
}

describe("what is set through the door is set on every server", () => {
  test("a viewer's display preferences and configuration", async () => {
    const path = `/DisplayPreferences/usersettings?userId=${kid.userId}&client=emby`;
    const known = (await kid.call("GET", path)).json();
    const prefs = { ...known, CustomPrefs: { homesection0: "nextup" } };
    expect((await kid.call("POST", path, { body: prefs })).status).toBe(204);
    await everywhere(path, ({ CustomPrefs }) => {
      return JSON.stringify(CustomPrefs) === '{"homesection0":"nextup"}';
    });
    const { Configuration } = (await kid.call("GET", "/Users/Me")).json();
    const body = { ...Configuration, SubtitleMode: "Smart" };
    expect((await kid.call("POST", "/Users/Configuration", { body })).status).toBe(204);
    await everywhere(`/Users/${kid.userId}`, (user) => {
      return (user.Configuration as { SubtitleMode?: string }).SubtitleMode === "Smart";
    });
  });

  test("the last of many wins everywhere", async () => {
    const path = `/DisplayPreferences/home?userId=${kid.userId}&client=tv`;
    for (let count = 1; count <= 20; count++) {
      const body = { CustomPrefs: { count: String(count) } };
      expect((await kid.call("POST", path, { body })).status).toBe(204);
    }
    await everywhere(path, ({ CustomPrefs }) => {
      return (CustomPrefs as { count?: string } | undefined)?.count === "20";
    });
  });

  test("a policy, and a picture of a face", async () => {
    const { Policy } = await read(a, `/Users/${kid.userId}`);
    const body = { ...(Policy as object), MaxActiveSessions: 6 };
    const set = await owner.call("POST", `/Users/${kid.userId}/Policy`, { body });
    expect(set.status).toBe(204);
    await everywhere(`/Users/${kid.userId}`, (user) => {
      return (user.Policy as { MaxActiveSessions?: number }).MaxActiveSessions === 6;
    });
    const posted = await fetch(`${door.url}/UserImage?userId=${kid.userId}`, {
      method: "POST",
      headers: { authorization: kid.authorization, "content-type": "image/png" },
      body: Buffer.from("a face").toString("base64"),
    });
    expect(posted.status).toBe(204);
    for (const server of servers()) {
      await soon(async () => {
        const shown = await fetch(`${server.url}/UserImage?userId=${kid.userId}`);
        return (await shown.text()) === "a face";
      });
    }
  });

  test("configuration, but for what is a server's own", async () => {
    await a.control("configure", { document: "system", change: { CachePath: "/a" } });
    await b.control("configure", { document: "system", change: { CachePath: "/b" } });
    const known = (await owner.call("GET", "/System/Configuration")).json();
    const body = { ...known, MinResumePct: 9 };
    expect((await owner.call("POST", "/System/Configuration", { body })).status).toBe(204);
    await everywhere("/System/Configuration", ({ MinResumePct }) => MinResumePct === 9);
    expect((await read(a, "/System/Configuration")).CachePath).toBe("/a");
    expect((await read(b, "/System/Configuration")).CachePath).toBe("/b");
    const css = { CustomCss: "body {}", LoginDisclaimer: "hello", SplashscreenEnabled: false };
    const branded = await owner.call("POST", "/System/Configuration/Branding", { body: css });
    expect(branded.status).toBe(204);
    await everywhere("/Branding/Configuration", ({ CustomCss }) => CustomCss === "body {}");
  });

  test("what is set while a server is away, when it is back", async () => {
    const [home, other] = await kid.homeAmong({ a, b });
    await other.kill9();
    const path = `/DisplayPreferences/away?userId=${kid.userId}&client=tv`;
    const body = { CustomPrefs: { set: "while away" } };
    expect((await kid.call("POST", path, { body })).status).toBe(204);
    expect((await read(home, path)).CustomPrefs).toEqual({ set: "while away" });
    await other.restart();
    await everywhere(path, ({ CustomPrefs }) => {
      return (CustomPrefs as { set?: string } | undefined)?.set === "while away";
    });
  });
});

test("what is set while a server refuses our key is there when it has it again, and that is said", async () => {
  const [home, other] = await kid.homeAmong({ a, b });
  await other.control("refuse-token", { token: other.apiKey });
  const set = async (word: string) => {
    const path = `/DisplayPreferences/refused?userId=${kid.userId}&client=tv`;
    const body = { CustomPrefs: { word } };
    expect((await kid.call("POST", path, { body })).status).toBe(204);
    return path;
  };
  const path = await set("first");
  const sentence = `server ${other.name} refuses its API key: what is changed elsewhere waits`;
  await until(15_000, "it is said", () => door.log().includes(sentence));
  await set("last");
  await other.control("refuse-token", { token: other.apiKey, on: false });
  const wordAt = async (server: StandIn) =>
    ((await read(server, path)).CustomPrefs as { word?: string } | undefined)?.word;
  expect(await wordAt(home)).toBe("last");
  await until(15_000, "it is there", async () => (await wordAt(other)) === "last");
  expect(door.log()).not.toContain("is not taken by the server: ");
});

describe("a plugin that is installed through the door", () => {
  const id = "2".repeat(32);
  const RepositoryUrl = "https://plugins.example/manifest.json";
  const repositories = [{ Name: "Ours", Url: RepositoryUrl, Enabled: true }];
  const plugins = async (server: StandIn) =>
    (await read(server, "/Plugins")) as unknown as { Id: string; Status: string }[];
  const statusAt = async (server: StandIn) =>
    (await plugins(server)).find(({ Id }) => Id === id)?.Status ?? "none";

  test("out of a repository that was added a moment ago is on every server, and so is its end", async () => {
    const list = [{ Id: id, Name: "LDAP", Version: "1.0.0.0", RepositoryUrl }];
    for (const server of servers()) {
      await server.control("configure", { document: "packages", change: { list } });
    }
    const [, other] = await owner.leaderAmong({ a, b });
    // The repository comes first, however long it takes.
    await other.control("slow", { path: "/Repositories", method: "POST", firstByteMs: 700 });
    const added = await owner.call("POST", "/Repositories", { body: repositories });
    expect(added.status).toBe(204);
    const path = `/Packages/Installed/LDAP?assemblyGuid=${id}&version=1.0.0.0`;
    expect((await kid.call("POST", path)).status).toBe(403);
    expect((await owner.call("POST", path)).status).toBe(204);
    for (const server of servers()) await soon(async () => (await statusAt(server)) === "Restart");
    await other.control("clear");
    for (const server of servers()) {
      expect(await read(server, "/System/Info")).toMatchObject({ HasPendingRestart: true });
    }
    await other.kill9();
    const removed = await owner.call("DELETE", `/Plugins/${id}/1.0.0.0`);
    expect(removed.status).toBe(204);
    await other.launch();
    for (const server of servers()) await soon(async () => (await statusAt(server)) === "none");
  });
});

describe("an API key", () => {
  type Key = { AccessToken: string; AppName: string };
  const shown = async (): Promise<Key[]> => (await owner.call("GET", "/Auth/Keys")).json().Items;
  const worksAt = async (server: { url: string }, key: string) => {
    const headers = { authorization: `MediaBrowser Token="${key}"` };
    return (await fetch(`${server.url}/System/Info`, { headers })).status;
  };

  test("made through the door works through it whoever is left, until it is taken back", async () => {
    expect((await owner.call("POST", "/Auth/Keys?app=Sonarr")).status).toBe(204);
    const key = (await shown()).find(({ AppName }) => AppName === "Sonarr")?.AccessToken ?? "";
    expect(key).not.toBe("");
    const named = async (server: StandIn) => {
      const { Items } = (await read(server, "/Auth/Keys")) as unknown as { Items: Key[] };
      return Items.filter(({ AppName }) => AppName === "Sonarr");
    };
    for (const server of servers()) await soon(async () => (await named(server)).length === 1);
    expect(await worksAt(door, key)).toBe(200);
    expect((await owner.call("DELETE", `/Auth/Keys/${key}`)).status).toBe(204);
    for (const server of servers()) await soon(async () => (await named(server)).length === 0);
    expect(await worksAt(door, key)).toBe(401);
  });

  test("by which the cluster works is neither shown nor deleted", async () => {
    await soon(async () => !(await shown()).some(({ AccessToken }) => AccessToken === a.apiKey));
    const refused = await owner.call("DELETE", `/Auth/Keys/${a.apiKey}`);
    expect(refused.status).toBe(403);
    expect(refused.text).toContain("by which Jellybloom works");
    expect(await worksAt(a, a.apiKey)).toBe(200);
  });
});
