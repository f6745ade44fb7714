// Users who are made, renamed, disabled and deleted through the door are so on every server, although each server gives
// them an id of its own: their apps know one id, and keep it when their server dies. Real processes.

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

type User = { Id: string; Name: string; Policy: Record<string, unknown> };

beforeAll(async () => {
  ({ a, b, stop: stopPair } = await startPair({ mediaDir: media.path }));
  door = await startDoor({ replicas: [a, b], apiKey: a.apiKey });
  owner = await Viewer.enter(door.url);
});

afterAll(async () => {
  await door.stop();
  await stopPair();
  media.remove();
});

const soon = (holds: () => Promise<boolean>) => until(5000, "it is everywhere", holds);

async function userAt(server: StandIn, name: string): Promise<User | undefined> {
  const users = (await (await withKey(server, "GET", "/Users")).json()) as User[];
  return users.find(({ Name }) => Name === name);
}

async function make(name: string): Promise<User> {
  const made = await owner.call("POST", "/Users/New", { body: { Name: name, Password: name } });
  expect(made.status).toBe(200);
  for (const server of [a, b]) await soon(async () => (await userAt(server, name)) !== undefined);
  return made.json();
}

describe("a user who was made through the door", () => {
  test("can log in in the same moment, whatever server their name would lead to", async () => {
    for (const name of ["ann", "bea", "cem", "dot", "eli", "fay", "gus", "hal"]) {
      const made = await owner.call("POST", "/Users/New", { body: { Name: name, Password: name } });
      const person = await Viewer.enter(door.url, { name });
      expect(person.userId).toBe(made.json().Id);
    }
  });

  test("can log in, lives where their id is native, and keeps that id when their server dies", async () => {
    const { Id } = await make("zoe");
    const [one, other] = [await userAt(a, "zoe"), await userAt(b, "zoe")];
    expect(one?.Id).not.toBe(other?.Id);
    const zoe = await Viewer.enter(door.url, { name: "zoe" });
    expect(zoe.userId).toBe(Id);
    const [home, away] = one?.Id === Id ? [a, b] : [b, a];
    const foreign = one?.Id === Id ? other?.Id : one?.Id;
    const prefs = `/DisplayPreferences/home?userId=${Id}&client=tv`;
    const body = { CustomPrefs: { mine: "zoe" } };
    expect((await zoe.call("POST", prefs, { body })).status).toBe(204);
    const there = `/DisplayPreferences/home?userId=${foreign}&client=tv`;
    await soon(async () => {
      const { CustomPrefs } = (await (await withKey(away, "GET", there)).json()) as {
        CustomPrefs?: { mine?: string };
      };
      return CustomPrefs?.mine === "zoe";
    });
    await soon(async () => (await zoe.home()) === home.name);

    await home.kill9();
    await soon(async () => (await zoe.call("GET", "/Users/Me")).status === 200);
    expect(await zoe.home()).toBe(away.name);
    // Path, query and answers: the app never hears of the other id.
    const me = await zoe.call("GET", "/Users/Me");
    expect(me.json().Id).toBe(Id);
    const byPath = await zoe.call("GET", `/Users/${Id}`);
    expect([byPath.status, byPath.json().Name]).toEqual([200, "zoe"]);
    const known = await zoe.call("GET", prefs);
    expect(known.json().CustomPrefs).toMatchObject({ mine: "zoe" });
    const views = await zoe.call("GET", `/UserViews?userId=${Id}`);
    expect(views.status).toBe(200);
    for (const answer of [me, byPath, known, views]) expect(answer.text).not.toContain(foreign);
    // A login there is a login of the same user.
    const tv = await Viewer.enter(door.url, { name: "zoe" });
    expect(tv.userId).toBe(Id);
    expect((await tv.call("GET", `/Users/${Id}`)).status).toBe(200);
    await home.restart();
    await home.ready();
  });

  test("is renamed, disabled and deleted everywhere", async () => {
    const { Id } = await make("yan");
    const yan = await Viewer.enter(door.url, { name: "yan" });
    const { Configuration, Policy } = (await owner.call("GET", `/Users/${Id}`)).json();
    const renamed = await owner.call("POST", `/Users?userId=${Id}`, {
      body: { Id, Name: "yannis", Configuration, Policy },
    });
    expect(renamed.status).toBe(204);
    for (const server of [a, b])
      await soon(async () => (await userAt(server, "yannis")) !== undefined);
    const disabled = { ...Policy, IsDisabled: true };
    expect((await owner.call("POST", `/Users/${Id}/Policy`, { body: disabled })).status).toBe(204);
    for (const server of [a, b]) {
      await soon(async () => (await userAt(server, "yannis"))?.Policy.IsDisabled === true);
    }
    expect((await yan.call("GET", "/Users/Me")).status).toBe(401);
    expect((await owner.call("DELETE", `/Users/${Id}`)).status).toBe(204);
    for (const server of [a, b])
      await soon(async () => (await userAt(server, "yannis")) === undefined);
  });

  test("is one user in the owner's list, whichever server shows it", async () => {
    const { Id } = await make("xia");
    // At once it is the leader's server that shows the list, later their own.
    for (const waitMs of [0, 3200]) {
      await new Promise((resolve) => setTimeout(resolve, waitMs));
      const list = (await owner.call("GET", "/Users")).json() as User[];
      expect(list.filter(({ Name }) => Name === "xia").map((user) => user.Id)).toEqual([Id]);
    }
  });
});

describe("a user whom a plugin makes at their first login", () => {
  test("is made on the other server, too, and is served by it when theirs dies", async () => {
    // As LDAP does it: in the moment of the login the user is there, on the server that was asked. Which one that is
    // the name decides.
    let person: Viewer | undefined;
    for (let tried = 0; person === undefined && tried < 20; tried++) {
      const name = `ldap-${tried}`;
      await withKey(a, "POST", "/Users/New", { Name: name, Password: name });
      person = await Viewer.enter(door.url, { name }).catch(() => undefined);
    }
    if (person === undefined) throw new Error("nobody could log in");
    const { userId, deviceId } = person;
    await until(10_000, "the other server has made them and minted for them", async () => {
      return (await b.state()).tokens.some((token) => token.deviceId === deviceId);
    });
    await a.kill9();
    const viewer = person;
    await soon(async () => (await viewer.call("GET", "/Users/Me")).status === 200);
    const me = await viewer.call("GET", "/Users/Me");
    expect(me.json().Id).toBe(userId);
    expect(await viewer.home()).toBe("b");
    await a.restart();
    await a.ready();
  });
});
