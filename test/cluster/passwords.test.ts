// A password is one password on every server, and nobody is logged out by changing theirs. Real processes: a door with
// its sidecars, two servers, and a Redis in which no password may ever be found.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { emptyFolder } from "../http/sidecar-cluster.ts";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { type Household, startHousehold, withKey } from "../support/household.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { answeredBy, until, Viewer } from "../support/viewer.ts";

const media = emptyFolder();
let redis: RedisServer;
let household: Household;
let door: DoorProcess;

beforeAll(async () => {
  [redis, household] = await Promise.all([
    startRedis(),
    startHousehold({
      mediaDir: media.path,
      people: [
        { name: "ann" },
        { name: "bea" },
        { name: "cid" },
        { name: "dan", policy: { LoginAttemptsBeforeLockout: 3 } },
        { name: "eve", policy: { LoginAttemptsBeforeLockout: 3 } },
      ],
    }),
  ]);
  const { a, b } = household;
  door = await startDoor({ replicas: [a, b], apiKey: a.apiKey, redis: redis.url });
});

afterAll(async () => {
  await door.stop();
  await Promise.all([household.stop(), redis.stop()]);
  media.remove();
});

const servers = (): StandIn[] => [household.a, household.b];
const soon = (holds: () => Promise<boolean>) => until(5000, "it is everywhere", holds);
let devices = 0;

/** A login with that password. */
async function login(
  at: { readonly url: string },
  name: string,
  password: string,
  cookie?: string,
  token?: string,
) {
  devices += 1;
  const device = `MediaBrowser Client="T", Device="T", DeviceId="try-${devices}", Version="1"`;
  const reply = await fetch(`${at.url}/Users/AuthenticateByName`, {
    method: "POST",
    headers: {
      authorization: token === undefined ? device : `${device}, Token="${token}"`,
      "content-type": "application/json",
      ...(cookie !== undefined && { cookie: `jellybloom=${cookie}` }),
    },
    body: JSON.stringify({ Username: name, Pw: password }),
  });
  await reply.arrayBuffer();
  return reply;
}

/** The status of a login with that password. */
async function tries(at: { readonly url: string }, name: string, password: string) {
  return (await login(at, name, password)).status;
}

async function everywhere(name: string, password: string): Promise<void> {
  for (const server of servers())
    await soon(async () => (await tries(server, name, password)) === 200);
}

/** Everything that lies in the store, as text. */
async function stored(): Promise<string> {
  const client = new Redis(redis.url);
  try {
    const texts: string[] = [];
    for (const key of await client.keys("*")) {
      const type = await client.type(key);
      if (type === "hash") texts.push(key, JSON.stringify(await client.hgetall(key)));
      else if (type === "stream")
        texts.push(key, JSON.stringify(await client.xrange(key, "-", "+")));
      else if (type === "string") texts.push(key, (await client.get(key)) ?? "");
    }
    return texts.join("\n");
  } finally {
    client.disconnect();
  }
}

describe("a password that is changed through the door", () => {
  test("is another on every server, and who changed it stays logged in on all of them", async () => {
    const ann = await Viewer.enter(door.url, { name: "ann" });
    const phone = await Viewer.enter(door.url, { name: "ann" });
    await soon(async () => (await stored()).includes("ann"));
    const body = { CurrentPw: "ann", NewPw: "a-word-for-nobody" };
    expect((await ann.call("POST", "/Users/Password", { body })).status).toBe(204);
    await everywhere("ann", "a-word-for-nobody");
    for (const server of servers()) expect(await tries(server, "ann", "ann")).toBe(401);
    expect((await ann.call("GET", "/Users/Me")).status).toBe(200);
    // Another device of theirs is out, as on a single server.
    expect((await phone.call("GET", "/Users/Me")).status).toBe(401);
    // Their server dies: the other one knows them by a token that the change has not ended.
    const [home, other] = await ann.homeAmong(household);
    await home.kill9();
    expect((await ann.call("GET", "/Users/Me")).status).toBe(200);
    expect(await ann.home()).toBe(other.name);
    await home.restart();
    await home.ready();
  });

  test("is found nowhere in the store nor in the log, and its secret is gone when all have it", async () => {
    await soon(async () => !(await stored()).includes(":secret:"));
    expect(await stored()).not.toContain("a-word-for-nobody");
    expect(door.log()).not.toContain("a-word-for-nobody");
  });

  test("wrongly changes nothing, and leaves no secret behind", async () => {
    const bea = await Viewer.enter(door.url, { name: "bea" });
    const body = { CurrentPw: "not hers", NewPw: "two" };
    expect((await bea.call("POST", "/Users/Password", { body })).status).toBe(403);
    expect((await bea.call("GET", "/Users/Me")).status).toBe(200);
    await soon(async () => !(await stored()).includes(":secret:"));
    for (const server of servers()) expect(await tries(server, "bea", "bea")).toBe(200);
  });

  test("while the other server is away reaches it when it is back", async () => {
    const bea = await Viewer.enter(door.url, { name: "bea" });
    const [, other] = await bea.homeAmong(household);
    await other.kill9();
    const body = { CurrentPw: "bea", NewPw: "bea-two" };
    expect((await bea.call("POST", "/Users/Password", { body })).status).toBe(204);
    await other.restart();
    await other.ready();
    await until(
      10_000,
      "the other has it",
      async () => (await tries(other, "bea", "bea-two")) === 200,
    );
    expect(await tries(other, "bea", "bea")).toBe(401);
    expect((await bea.call("GET", "/Users/Me")).status).toBe(200);
  });

  test("by a PIN from one server's folder works on all, and logs nobody out", async () => {
    const cid = await Viewer.enter(door.url, { name: "cid" });
    const post = async (path: string, body: unknown) =>
      await fetch(door.url + path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
      });
    // Somebody else of the same address began, too, perhaps at the other server.
    await post("/Users/ForgotPassword", { EnteredUsername: "kid" });
    const begun = await post("/Users/ForgotPassword", { EnteredUsername: "cid" });
    const { PinFile } = (await begun.json()) as { PinFile: string };
    const [, name] = /\(on server (\w+)\)$/.exec(PinFile) ?? [];
    const server = servers().find((one) => one.name === name);
    const folder = join(server?.dataDir ?? "", "data");
    const files = readdirSync(folder).filter(
      (file) => PinFile.includes(file) && file.startsWith("password"),
    );
    const { Pin } = JSON.parse(readFileSync(join(folder, files[0] ?? ""), "utf8")) as {
      Pin: string;
    };
    expect((await post("/Users/ForgotPassword/Pin", { Pin: "00-00-00-00" })).status).toBe(404);
    const redeemed = await post("/Users/ForgotPassword/Pin", { Pin });
    expect(redeemed.status).toBe(200);
    expect(await redeemed.json()).toEqual({ Success: true, UsersReset: ["cid"] });
    await everywhere("cid", Pin);
    expect((await cid.call("GET", "/Users/Me")).status).toBe(200);
    expect(await stored()).not.toContain(Pin);
  });
});

describe("a wrong password", () => {
  async function policy(server: StandIn, name: string) {
    const users = (await (await withKey(server, "GET", "/Users")).json()) as {
      Id: string;
      Name: string;
      Policy: { InvalidLoginAttemptCount: number; IsDisabled: boolean };
    }[];
    const user = users.find(({ Name }) => Name === name);
    if (user === undefined) throw new Error(`there is no ${name}`);
    return { id: user.Id, ...user.Policy };
  }

  /** As if nobody had ever guessed: an earlier try of a test has locked them out. */
  async function forgiven(name: string): Promise<void> {
    for (const server of servers()) {
      const { id, ...before } = await policy(server, name);
      const body = { ...before, InvalidLoginAttemptCount: 0, IsDisabled: false };
      await withKey(server, "POST", `/Users/${id}/Policy`, body);
    }
  }

  test.each([
    ["whom no door has seen", "dan"],
    ["who lives at a server", "eve"],
  ])(
    "of somebody %s counts over the whole cluster, whatever comes along: the third locks the user out on every server",
    async (_who, name) => {
      await forgiven(name);
      const lives = name === "eve" ? await Viewer.enter(door.url, { name }) : undefined;
      const home = await lives?.home();
      const kid = await Viewer.enter(door.url, { name: "kid" });
      // Whoever makes names up keeps no news of a user back.
      if (lives !== undefined) {
        for (let times = 0; times < 130; times++) await tries(door, `nobody-${times}`, "no");
      }
      const answered = new Set<string>();
      for (let wrong = 1; wrong <= 3; wrong++) {
        const token = wrong === 3 ? kid.token : undefined;
        const reply = await login(door, name, "no", ["a", "b"][wrong % 2], token);
        expect(reply.status).toBe(401);
        answered.add(answeredBy(reply.headers));
        for (const server of servers()) {
          await soon(async () => (await policy(server, name)).InvalidLoginAttemptCount === wrong);
        }
      }
      expect(answered.size).toBe(1);
      if (home !== undefined) expect([...answered]).toEqual([home]);
      for (const server of servers()) expect((await policy(server, name)).IsDisabled).toBe(true);
      expect(await tries(door, name, name)).toBe(403);
    },
  );
});
