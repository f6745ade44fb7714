// Users, passwords and keys that were made or changed at one server, at another: two stand-ins, and the handlers that
// a follower would ask.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hashOf, identityKey, sealContext } from "../../core/cluster/identity.ts";
import type { Effect, Intent } from "../../core/cluster/journal.ts";
import { ownKeyHashes } from "../../core/cluster/own-keys.ts";
import { wrongPasswordMac } from "../../core/cluster/secret.ts";
import { userAliasesOf } from "../../core/cluster/user-aliases.ts";
import { createApiKeys, lookAtKeys } from "../../sidecar/journal/api-keys.ts";
import { createPasswords } from "../../sidecar/journal/passwords.ts";
import { createUsers, tidyAliases } from "../../sidecar/journal/users.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { HandCluster } from "../support/journal-hands.ts";
import { emptyFolder } from "./sidecar-cluster.ts";

const media = emptyFolder();
const users = createUsers();
const passwords = createPasswords();
const keys = createApiKeys();
let a: StandIn;
let b: StandIn;
let stopPair: () => Promise<void>;
let cluster: HandCluster;
const aToB = { from: "a", to: "b" } as const;

beforeAll(async () => {
  ({ a, b, stop: stopPair } = await startPair({ mediaDir: media.path }));
  cluster = new HandCluster([a, b]);
  await cluster.start();
});

afterAll(async () => {
  await cluster.stop();
  await stopPair();
  media.remove();
});

async function call(server: StandIn, method: string, path: string, body?: unknown, token?: string) {
  return await fetch(server.url + path, {
    method,
    headers: {
      authorization: `MediaBrowser Token="${token ?? server.apiKey}"`,
      "content-type": "application/json",
    },
    body: body === undefined ? null : JSON.stringify(body),
  });
}

type User = { Id: string; Name: string; Policy: Record<string, unknown> };

async function userAt(server: StandIn, name: string): Promise<User | undefined> {
  const list = (await (await call(server, "GET", "/Users")).json()) as User[];
  return list.find((user) => user.Name === name);
}

async function logIn(server: StandIn, name: string, password: string, deviceId: string) {
  const reply = await fetch(`${server.url}/Users/AuthenticateByName`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      authorization: `MediaBrowser Client="T", Device="T", DeviceId="${deviceId}", Version="1"`,
    },
    body: JSON.stringify({ Username: name, Pw: password }),
  });
  const body = reply.ok ? ((await reply.json()) as { AccessToken: string }) : undefined;
  return { status: reply.status, token: body?.AccessToken ?? "" };
}

const statusOf = async (server: StandIn, token: string) =>
  (await call(server, "GET", "/Users/Me", undefined, token)).status;

/** Makes a user at a as a client does. */
async function make(name: string, password?: string) {
  const body = { Name: name, ...(password !== undefined && { Password: password }) };
  const intent = await cluster.intent("POST", "/Users/New", { body });
  const answer = await call(a, "POST", "/Users/New", body);
  expect(answer.status).toBe(200);
  const { Id } = (await answer.json()) as User;
  return { intent, id: Id, facts: { id: Id, name } };
}

/** A login that the cluster knows, with a token of its own at each server. */
async function login(name: string, password: string, userId: string, deviceId: string) {
  const key = identityKey(userId, deviceId);
  const facts = {
    kind: "user",
    userId,
    userName: name,
    deviceId,
    client: "T",
    device: "T",
    version: "1",
  } as const;
  const tokens: Record<string, string> = {};
  for (const [generation, server] of [a, b].entries()) {
    const { token } = await logIn(server, name, password, deviceId);
    expect(token).not.toBe("");
    tokens[server.name] = token;
    const answer = await cluster.store.addToken({
      ...{ key, facts, generation, replica: server.name, hash: hashOf(token) },
      sealed: cluster.seal.seal(token, sealContext(key, 1, server.name)),
    });
    if (answer.outcome === "recorded") {
      cluster.memory.apply({ type: "identity", identity: answer.identity });
    }
  }
  return { key, tokens };
}

const known = () => userAliasesOf(cluster.memory, cluster.seal);

describe("a user who was made at one server", () => {
  test("is there at the other, with that password, under an id of its own that has an alias", async () => {
    await a.control("configure", { document: "grouped-views", change: { on: true } });
    await b.control("configure", { document: "grouped-views", change: { on: true } });
    const { intent, id, facts } = await make("ann", "a-new-word");
    expect(await cluster.carry(users, intent, { ...aToB, facts })).toEqual(["done"]);
    const there = await userAt(b, "ann");
    expect(there?.Id).not.toBe(id);
    expect(known().idAt("b", id)).toBe(there?.Id);
    expect(known().knownId("b", there?.Id ?? "")).toBe(id);
    expect(known().idAt("a", id)).toBe(id);
    // The view whose id is made of the user's has one, too.
    expect(known().pairsOf("b").toHere.size).toBe(2);
    expect((await logIn(b, "ann", "a-new-word", "d1")).status).toBe(200);
    // Both servers have what the secret was for.
    expect(await cluster.store.readSecret(intent.id)).toBeUndefined();
    expect(JSON.stringify([intent, cluster.told])).not.toContain("a-new-word");
  });

  test("is made once, however often it is told", async () => {
    const { intent, id, facts } = await make("bea");
    expect(await cluster.carry(users, intent, { ...aToB, facts })).toEqual(["done"]);
    const first = (await userAt(b, "bea"))?.Id;
    expect(await cluster.carry(users, intent, { ...aToB, facts })).toEqual(["skipped"]);
    // Its sidecar died between making the user and noting the alias.
    await cluster.store.dropNotes({ kind: "userAlias", id: `b:${id}` });
    cluster.memory.apply({
      type: "note",
      note: { kind: "userAlias", id: `b:${id}`, replica: "b", value: "", expiresAtMs: 0 },
    });
    expect(known().idAt("b", id)).toBe(id);
    expect(await cluster.carry(users, intent, { ...aToB, facts })).toEqual(["done"]);
    expect((await userAt(b, "bea"))?.Id).toBe(first);
    expect(known().idAt("b", id)).toBe(first);
  });

  test("is renamed and deleted at the other by the id that it has there", async () => {
    const { intent, id, facts } = await make("cid");
    await cluster.carry(users, intent, { ...aToB, facts });
    const there = (await userAt(b, "cid"))?.Id;
    const { Policy } = (await userAt(a, "cid")) ?? {};
    const body = { Name: "cyd", Configuration: { SubtitleMode: "Always" }, Policy };
    const renamed = await cluster.intent("POST", `/Users?userId=${id}`, { body });
    expect((await call(a, "POST", `/Users?userId=${id}`, body)).status).toBe(204);
    expect(await cluster.carry(users, renamed, aToB)).toEqual(["done"]);
    expect((await userAt(b, "cyd"))?.Id).toBe(there);
    expect(await cluster.carry(users, renamed, aToB)).toEqual(["skipped"]);
    const gone = await cluster.intent("DELETE", `/Users/${id}`);
    expect((await call(a, "DELETE", `/Users/${id}`)).status).toBe(204);
    const toldAtMs = Date.now();
    expect(await cluster.carry(users, gone, aToB)).toEqual(["done"]);
    // A server that still has something to tell their sessions, for half a second after a change, would end of it.
    const [deletion] = await b.requests({ method: "DELETE", path: `/Users/${there}` });
    expect(deletion?.at).toBeGreaterThan(toldAtMs + 600);
    expect(await userAt(b, "cyd")).toBeUndefined();
    expect(known().isForeign("b", id)).toBe(false);
    expect(await cluster.carry(users, gone, aToB)).toEqual(["skipped"]);
  });

  test("is renamed also where a server stumbles when it is asked for its users, on either side", async () => {
    // Before: a question that failed was taken for a user who is not there, and the new name was lost there for good.
    const { intent, id, facts } = await make("cleo");
    await cluster.carry(users, intent, { ...aToB, facts });
    const { Policy } = (await userAt(a, "cleo")) ?? {};
    const body = { Name: "clea", Configuration: { SubtitleMode: "Always" }, Policy };
    const renamed = await cluster.intent("POST", `/Users?userId=${id}`, { body });
    expect((await call(a, "POST", `/Users?userId=${id}`, body)).status).toBe(204);
    const stumble = { path: "^/Users$", method: "GET", status: 500, times: 1 };
    await a.control("fail", stumble);
    expect(await cluster.carry(users, renamed, aToB)).toEqual(["again: it answers 500"]);
    await b.control("fail", stumble);
    expect(await cluster.carry(users, renamed, aToB)).toEqual(["again: it answers 500"]);
    expect(await cluster.carry(users, renamed, aToB)).toEqual(["done"]);
    expect(await userAt(b, "clea")).toMatchObject({ Configuration: { SubtitleMode: "Always" } });
  });

  test("is renamed by the next leader with all that was said with the name, once it can be asked", async () => {
    const { intent, id, facts } = await make("dee");
    await cluster.carry(users, intent, { ...aToB, facts });
    const { Policy } = (await userAt(a, "dee")) ?? {};
    const body = { Name: "deo", configuration: { SubtitleMode: "Smart" }, Policy };
    const renamed = await cluster.intent("POST", `/Users?userId=${id}`, { body });
    const redo = () => users.redo(cluster.placed(renamed), cluster.hands("b"), true);
    await b.control("fail", { path: "^/Users$", method: "GET", status: 500, times: 1 });
    expect((await redo()).outcome).toBe("again");
    expect((await redo()).outcome).toBe("done");
    expect(await userAt(b, "deo")).toMatchObject({ Configuration: { SubtitleMode: "Smart" } });
  });

  test("and died with it is made at another under the id that clients were told", async () => {
    const body = { Name: "dan", Password: "dans-word" };
    const intent = await cluster.intent("POST", "/Users/New", { body });
    const told = "d".repeat(32);
    const redone = await users.redo(cluster.placed(intent), cluster.hands("b"), true);
    expect(redone).toEqual({ outcome: "done" });
    const published = await cluster.publish(users, "b", intent, { id: told, name: "dan" });
    expect(published).toMatchObject({ outcome: "effects", effects: [{ userId: told }] });
    expect(known().idAt("b", told)).toBe((await userAt(b, "dan"))?.Id);
    // Done again, nobody is made twice.
    expect(await users.redo(cluster.placed(intent), cluster.hands("b"), true)).toEqual({
      outcome: "done",
    });
  });

  test("where that server stumbles, or does not know our key, is made when it no longer does", async () => {
    // Before: one 500 (a locked database), or a key deleted at b's own page, and b lacked the user for good.
    const { intent, id, facts } = await make("ira", "iras-word");
    for (const status of [500, 401]) {
      await b.control("fail", { path: "/Users/New", method: "POST", status, times: 1 });
      const [outcome] = await cluster.carry(users, intent, { ...aToB, facts });
      expect(outcome).toBe(`again: it answers ${status}`);
    }
    const body = { Name: "ira", Password: "iras-word" };
    await b.control("fail", { path: "/Users/New", method: "POST", status: 500, times: 1 });
    const asked = await cluster.intent("POST", "/Users/New", { body });
    const redone = () => users.redo(cluster.placed(asked), cluster.hands("b"), true);
    expect((await redone()).outcome).toBe("again");
    expect(await cluster.carry(users, intent, { ...aToB, facts })).toEqual(["done"]);
    expect(known().idAt("b", id)).toBe((await userAt(b, "ira"))?.Id);
    expect((await logIn(b, "ira", "iras-word", "x")).status).toBe(200);
  });

  test("and whose password their server then fails to set is there with it, or not at all", async () => {
    const { intent, id } = await make("ivy", "ivys-word");
    const hands = cluster.hands("b");
    // UserController.CreateUserByName makes the user first and sets the password after it: a 500 between the two.
    const callWithKey: typeof hands.client.callWithKey = async (method, path, body) => {
      if (path !== "/Users/New") return await hands.client.callWithKey(method, path, body);
      const answer = await hands.client.callWithKey(method, path, { Name: "ivy" });
      return answer.outcome === "answered" ? { ...answer, status: 500 } : answer;
    };
    const client = { ...hands.client, callWithKey };
    const effect: Effect = {
      ...({
        type: "effect",
        id: "ivy",
        of: intent.id,
        ofNumber: 0,
        kind: "user",
        replica: "a",
      } as const),
      ...{ userId: id, itemId: "", payload: { what: "created", name: "ivy" } },
    };
    const applied = () => users.apply(cluster.placed(effect), { ...hands, client }, new Set());
    // First it cannot even be asked whether they are there, then their password cannot be set.
    let isFirst = true;
    client.callWithKey = async (method, path, body) => {
      const stumbles = path === "/Users" && !isFirst;
      if (path === "/Users/New") isFirst = false;
      if (stumbles) return { outcome: "failed", failure: "broke", seen: "maybe", message: "broke" };
      return await callWithKey(method, path, body);
    };
    expect((await applied()).outcome).toBe("again");
    client.callWithKey = callWithKey;
    await b.control("fail", { path: "/Users/Password", method: "POST", status: 500, times: 2 });
    expect((await applied()).outcome).toBe("again");
    expect((await logIn(b, "ivy", "", "x")).status).toBe(200);
    expect((await applied()).outcome).toBe("done");
    expect((await logIn(b, "ivy", "", "x")).status).toBe(401);
    expect((await logIn(b, "ivy", "ivys-word", "x")).status).toBe(200);
  });

  test("has no alias any longer when their server was seeded anew, or another one", async () => {
    const { intent, id, facts } = await make("dot");
    await cluster.carry(users, intent, { ...aToB, facts });
    const there = (await userAt(b, "dot"))?.Id ?? "";
    expect(await tidyAliases(cluster.hands("b"))).toEqual({ outcome: "done" });
    expect(known().idAt("b", id)).toBe(there);
    // A third server that was copied from b calls them what b does.
    const copy = { ...cluster.hands("b"), replica: "c" };
    expect(await tidyAliases(copy)).toEqual({ outcome: "done" });
    expect(known().idAt("c", id)).toBe(there);
    // And when c is copied from a, it calls them what clients do.
    expect(await tidyAliases({ ...cluster.hands("a"), replica: "c" })).toEqual({ outcome: "done" });
    expect(known().isForeign("c", id)).toBe(false);
    expect(known().idAt("b", id)).toBe(there);
  });

  test("by their first login (LDAP, SSO) is found by that login, with their policy", async () => {
    const { id } = await make("eve");
    await call(a, "POST", `/Users/${id}/Policy`, {
      ...(await userAt(a, "eve"))?.Policy,
      MaxActiveSessions: 3,
    });
    const intent: Intent = {
      ...{
        type: "intent",
        id: "login-of-eve",
        kind: "user",
        identityKey: "",
        userId: id,
        itemId: "",
      },
      request: { method: "POST", path: "/", query: "", contentType: "", body: "" },
      facts: { what: "login", name: "eve" },
    };
    expect(await cluster.carry(users, intent, aToB)).toEqual(["done"]);
    const there = await userAt(b, "eve");
    expect(there?.Policy.MaxActiveSessions).toBe(3);
    expect(known().idAt("b", id)).toBe(there?.Id);
    expect(await cluster.carry(users, intent, aToB)).toEqual(["skipped"]);
    // Whoever let them in knows their password; no other server lets anybody in without one.
    expect((await logIn(b, "eve", "", "anybody")).status).toBe(401);
  });
});

describe("wrong passwords", () => {
  const wrong = (name: string) => {
    const who = wrongPasswordMac(cluster.seal, name);
    return { userId: "", itemId: "", payload: { what: "wrongPassword", who } };
  };

  test("count at every server, and the last that is allowed locks out everywhere", async () => {
    const { intent, id, facts } = await make("fay", "right");
    await call(a, "POST", `/Users/${id}/Policy`, {
      ...(await userAt(a, "fay"))?.Policy,
      LoginAttemptsBeforeLockout: 3,
    });
    await cluster.carry(users, intent, { ...aToB, facts });
    // Three wrong ones, on two servers.
    expect((await logIn(a, "fay", "no", "d")).status).toBe(401);
    expect(await cluster.apply(users, "b", "a", intent, wrong("fay"))).toEqual({ outcome: "done" });
    expect((await logIn(b, "fay", "no", "d")).status).toBe(401);
    expect(await cluster.apply(users, "a", "b", intent, wrong("FAY"))).toEqual({ outcome: "done" });
    expect((await logIn(a, "fay", "no", "d")).status).toBe(401);
    expect(await cluster.apply(users, "b", "a", intent, wrong("fay"))).toEqual({ outcome: "done" });
    expect((await userAt(a, "fay"))?.Policy.IsDisabled).toBe(true);
    expect((await userAt(b, "fay"))?.Policy.IsDisabled).toBe(true);
    expect((await logIn(b, "fay", "right", "d")).status).toBe(403);
  });

  test("are forgiven everywhere by a right one", async () => {
    const { intent, facts } = await make("gil", "right");
    await cluster.carry(users, intent, { ...aToB, facts });
    await cluster.apply(users, "b", "a", intent, wrong("gil"));
    expect((await userAt(b, "gil"))?.Policy.InvalidLoginAttemptCount).toBe(1);
    const seen = { userId: facts.id, itemId: "", payload: { what: "login", name: "gil" } };
    expect(await cluster.apply(users, "b", "a", intent, seen)).toEqual({ outcome: "done" });
    expect((await userAt(b, "gil"))?.Policy.InvalidLoginAttemptCount).toBe(0);
  });

  test("for a name that nobody has change nothing", async () => {
    const intent = { id: "x", kind: "user" } as const;
    expect(await cluster.apply(users, "b", "a", intent, wrong("nobody"))).toEqual({
      outcome: "skipped",
    });
  });
});

describe("a password", () => {
  test("that a user changes is another everywhere, and they stay logged in on every server", async () => {
    const { intent: made, id, facts } = await make("hal", "one");
    await cluster.carry(users, made, { ...aToB, facts });
    const { key, tokens } = await login("hal", "one", id, "hal-tv");
    const other = await logIn(b, "hal", "one", "hal-phone");
    const asked = { body: { CurrentPw: "one", NewPw: "two" }, userId: id, identityKey: key };
    const intent = await cluster.intent("POST", "/Users/Password", asked);
    expect((await call(a, "POST", "/Users/Password", asked.body, tokens.a)).status).toBe(204);
    expect(await cluster.carry(passwords, intent, aToB)).toEqual(["done"]);
    expect((await logIn(b, "hal", "one", "x")).status).toBe(401);
    expect((await logIn(b, "hal", "two", "x")).status).toBe(200);
    expect(await statusOf(b, tokens.b ?? "")).toBe(200);
    expect(await statusOf(b, other.token)).toBe(401);
    expect(await cluster.store.readSecret(intent.id)).toBeUndefined();
  });

  // A server that froze carries a change out when it thaws, after another one has done it in its place.
  test("that their own request has set there already logs nobody out who changed it", async () => {
    const { intent: made, id, facts } = await make("hedy", "one");
    await cluster.carry(users, made, { ...aToB, facts });
    const { key, tokens } = await login("hedy", "one", id, "hedy-tv");
    const asked = { body: { CurrentPw: "one", NewPw: "two" }, userId: id, identityKey: key };
    const intent = await cluster.intent("POST", "/Users/Password", asked);
    for (const [server, token] of [[a, tokens.a] as const, [b, tokens.b] as const]) {
      expect((await call(server, "POST", "/Users/Password", asked.body, token)).status).toBe(204);
    }
    expect(await cluster.carry(passwords, intent, aToB)).toEqual(["done"]);
    expect(await statusOf(b, tokens.b ?? "")).toBe(200);
    expect((await logIn(b, "hedy", "two", "x")).status).toBe(200);
  });

  test("that was another there is set by the key: their home leaves first, and they are minted for anew", async () => {
    const { intent: made, id, facts } = await make("ida", "one");
    await cluster.carry(users, made, { ...aToB, facts });
    const { key, tokens } = await login("ida", "one", id, "ida-tv");
    const here = known().idAt("b", id);
    await call(b, "POST", `/Users/Password?userId=${here}`, { NewPw: "drifted" });
    const home = await cluster.store.claimHome({
      ...{ userId: id, replica: "b", expectedEpoch: 0, owner: "t", minStayMs: 0 },
    });
    cluster.memory.apply({ type: "home", home: home.home });
    const asked = { body: { CurrentPw: "one", NewPw: "two" }, userId: id, identityKey: key };
    const intent = await cluster.intent("POST", "/Users/Password", asked);
    expect((await call(a, "POST", "/Users/Password", asked.body, tokens.a)).status).toBe(204);
    expect(await cluster.carry(passwords, intent, aToB)).toEqual(["done"]);
    expect((await logIn(b, "ida", "two", "x")).status).toBe(200);
    expect((await cluster.store.load()).homes.find(({ userId }) => userId === id)?.replica).toBe(
      "a",
    );
    const identity = (await cluster.store.load()).identities.find((one) => one.key === key);
    expect(Object.keys(identity?.tokens ?? {})).toEqual(["a"]);
    // Who holds the old token of b is the same login still.
    expect(identity?.formerHashes).toContain(hashOf(tokens.b ?? ""));
  });

  test("that no server has agreed to is only set by who knows the current one", async () => {
    const { intent: made, id, facts } = await make("ian", "one");
    await cluster.carry(users, made, { ...aToB, facts });
    const { key } = await login("ian", "one", id, "ian-tv");
    const redo = async (current: string) => {
      const asked = { body: { CurrentPw: current, NewPw: "two" }, userId: id, identityKey: key };
      const intent = await cluster.intent("POST", "/Users/Password", asked);
      const { outcome } = await passwords.redo(cluster.placed(intent), cluster.hands("b"), false);
      return outcome;
    };
    expect(await redo("a guess")).toBe("refused");
    expect((await logIn(b, "ian", "one", "x")).status).toBe(200);
    expect(await redo("one")).toBe("done");
    expect((await logIn(b, "ian", "two", "x")).status).toBe(200);
  });

  test("at a server that stumbles, or does not know our key, is set when it no longer does", async () => {
    const { intent: made, id, facts } = await make("joy", "one");
    await cluster.carry(users, made, { ...aToB, facts });
    const body = { NewPw: "two" };
    const intent = await cluster.intent("POST", `/Users/${id}/Password`, { body });
    for (const status of [500, 401]) {
      await b.control("fail", { path: "/Users/Password", method: "POST", status, times: 1 });
      expect(await cluster.carry(passwords, intent, aToB)).toEqual([`again: it answers ${status}`]);
    }
    expect(await cluster.carry(passwords, intent, aToB)).toEqual(["done"]);
    expect((await logIn(b, "joy", "two", "x")).status).toBe(200);
  });

  test("of who has a login that this server knows no longer is asked for again, since it said nothing of the word", async () => {
    const { intent: made, id, facts } = await make("jil", "one");
    await cluster.carry(users, made, { ...aToB, facts });
    const { key } = await login("jil", "one", id, "jil-tv");
    const asked = { body: { CurrentPw: "one", NewPw: "two" }, userId: id, identityKey: key };
    const intent = await cluster.intent("POST", "/Users/Password", asked);
    const redo = () => passwords.redo(cluster.placed(intent), cluster.hands("b"), false);
    await b.control("fail", { path: "/Users/Password", method: "POST", status: 401, times: 1 });
    expect((await redo()).outcome).toBe("again");
    expect((await redo()).outcome).toBe("done");
  });

  test("that an administrator sets ends that user's logins everywhere", async () => {
    const { intent: made, id, facts } = await make("jo", "one");
    await cluster.carry(users, made, { ...aToB, facts });
    const there = await logIn(b, "jo", "one", "jo-tv");
    const intent = await cluster.intent("POST", `/Users/${id}/Password`, {
      body: { NewPw: "two" },
    });
    expect((await call(a, "POST", `/Users/${id}/Password`, { NewPw: "two" })).status).toBe(204);
    expect(await cluster.carry(passwords, intent, aToB)).toEqual(["done"]);
    expect((await logIn(b, "jo", "two", "x")).status).toBe(200);
    expect(await statusOf(b, there.token)).toBe(401);
  });

  test("that is set back to none ends no login", async () => {
    const { intent: made, id, facts } = await make("kim", "one");
    await cluster.carry(users, made, { ...aToB, facts });
    const there = await logIn(b, "kim", "one", "kim-tv");
    const intent = await cluster.intent("POST", `/Users/Password?userId=${id}`, {
      body: { ResetPassword: true },
    });
    expect(await cluster.carry(passwords, intent, aToB)).toEqual(["done"]);
    expect((await logIn(b, "kim", "", "x")).status).toBe(200);
    expect(await statusOf(b, there.token)).toBe(200);
  });

  test("that a PIN has become is the same everywhere", async () => {
    const { intent: made, id, facts } = await make("lea", "one");
    await cluster.carry(users, made, { ...aToB, facts });
    await login("lea", "one", id, "lea-tv");
    const intent = await cluster.intent("POST", "/Users/ForgotPassword/Pin", {
      body: { Pin: "AB-CD-EF-01" },
    });
    const told = { ...aToB, facts: { names: ["lea"] } };
    expect(await cluster.carry(passwords, intent, told)).toEqual(["done"]);
    expect((await logIn(b, "lea", "AB-CD-EF-01", "x")).status).toBe(200);
  });

  test("that ends tokens is changed while nothing is minted for that user, which it would end as well", async () => {
    // Before: the sidecar minted while a slow server changed it; the new token died, and stayed recorded.
    const { intent: made, id, facts } = await make("liv", "one");
    await cluster.carry(users, made, { ...aToB, facts });
    const { key } = await login("liv", "one", id, "liv-tv");
    const body = { Pin: "AB-CD-EF-02" };
    const intent = await cluster.intent("POST", "/Users/ForgotPassword/Pin", { body });
    await b.control("slow", { path: "/Users/Password", firstByteMs: 400, times: 1 });
    const changing = cluster.carry(passwords, intent, { ...aToB, facts: { names: ["liv"] } });
    await new Promise((resolve) => setTimeout(resolve, 200));
    const claim = { key, generation: 1, replica: "b", owner: "a sidecar", ttlMs: 1000 };
    expect(await cluster.store.claimMint(claim)).toBe(false);
    expect(await changing).toEqual(["done"]);
    const identity = (await cluster.store.load()).identities.find((one) => one.key === key);
    expect(Object.keys(identity?.tokens ?? {})).toEqual(["a"]);
    expect(await cluster.store.claimMint(claim)).toBe(true);
  });

  test("that is no longer kept is said, with what to do", async () => {
    const { intent: made, id, facts } = await make("max", "one");
    await cluster.carry(users, made, { ...aToB, facts });
    const draft = { userId: id, itemId: "", payload: { how: "other" } };
    const intent = { id: "a change of long ago", kind: "password" } as const;
    const applied = await cluster.apply(passwords, "b", "a", intent, draft);
    expect(applied).toMatchObject({
      outcome: "refused",
      why: expect.stringContaining("seed b anew"),
    });
  });

  test("is in no entry of the journal and in no sentence", async () => {
    const { id } = await make("ned", "a-word-for-nobody-1");
    const asked = {
      body: { CurrentPw: "a-word-for-nobody-1", NewPw: "a-word-for-nobody-2" },
      userId: id,
    };
    const change = await cluster.intent("POST", "/Users/Password", asked);
    const intents = [
      change,
      await cluster.intent("POST", "/Users/New", {
        body: { Name: "x", Password: "a-word-for-nobody-3" },
      }),
      await cluster.intent("POST", "/Users/ForgotPassword/Pin", {
        body: { Pin: "a-word-for-nobody-4" },
      }),
    ];
    const published = await cluster.publish(passwords, "a", change);
    expect(JSON.stringify([intents, published, cluster.told])).not.toContain("for-nobody");
  });
});

describe("an API key", () => {
  async function keysAt(server: StandIn): Promise<{ AccessToken: string; AppName: string }[]> {
    const reply = await call(server, "GET", "/Auth/Keys");
    return ((await reply.json()) as { Items: { AccessToken: string; AppName: string }[] }).Items;
  }
  const named = async (server: StandIn, name: string) =>
    (await keysAt(server))
      .filter(({ AppName }) => AppName === name)
      .map(({ AccessToken }) => AccessToken);

  test("that is made works at the other server by one of its own, paired by its fingerprint", async () => {
    const intent = await cluster.intent("POST", "/Auth/Keys?app=Sonarr");
    expect((await call(a, "POST", "/Auth/Keys?app=Sonarr")).status).toBe(204);
    expect(await cluster.carry(keys, intent, aToB)).toEqual(["done"]);
    const [one = ""] = await named(a, "Sonarr");
    const [other = ""] = await named(b, "Sonarr");
    expect(other).not.toBe(one);
    const standing = cluster.memory.standingOf(one);
    if (standing.standing !== "current") throw new Error("the key is not known");
    expect(cluster.memory.openToken(standing.identity, "b")).toBe(other);
    expect(await statusOf(b, other)).toBe(400);
    // Looked at again, also twice at once, none is made twice, and the cluster's own is nobody's.
    expect(await lookAtKeys(cluster.hands("a"))).toEqual({ outcome: "done" });
    expect(await lookAtKeys(cluster.hands("b"))).toEqual({ outcome: "done" });
    expect((await named(b, "Sonarr")).length).toBe(1);
    expect(cluster.memory.standingOf(a.apiKey).standing).toBe("unknown");
    expect(ownKeyHashes(cluster.memory, cluster.seal)).toEqual(new Set([hashOf(a.apiKey)]));
  });

  test("of a name that others have is paired with its own, once, also by two looks at one time", async () => {
    for (let count = 0; count < 2; count++) await call(a, "POST", "/Auth/Keys?app=Radarr");
    await lookAtKeys(cluster.hands("a"));
    await Promise.all([lookAtKeys(cluster.hands("b")), lookAtKeys(cluster.hands("b"))]);
    const parts = (await named(a, "Radarr")).map((token) => {
      const standing = cluster.memory.standingOf(token);
      return standing.standing === "current" ? standing.identity.tokens.b?.hash : undefined;
    });
    expect(new Set(parts).size).toBe(2);
    expect(new Set((await named(b, "Radarr")).map(hashOf))).toEqual(new Set(parts));
  });

  test("made in a server's own page is found there and mirrored", async () => {
    await call(b, "POST", "/Auth/Keys?app=Kodi");
    await lookAtKeys(cluster.hands("b"));
    expect(await lookAtKeys(cluster.hands("a"))).toEqual({ outcome: "done" });
    expect((await named(a, "Kodi")).length).toBe(1);
  });

  test("deleted at one server's own page is made there again, and that is said", async () => {
    const [old = ""] = await named(b, "Kodi");
    await call(b, "DELETE", `/Auth/Keys/${old}`);
    expect(await lookAtKeys(cluster.hands("b"))).toEqual({ outcome: "done" });
    const [now = ""] = await named(b, "Kodi");
    expect(now).not.toBe(old);
    expect(cluster.told.join()).toContain("through the door");
    const standing = cluster.memory.standingOf(now);
    expect(standing.standing).toBe("current");
  });

  test("that was revoked while its server was away is deleted there", async () => {
    const [one = ""] = await named(a, "Kodi");
    const standing = cluster.memory.standingOf(one);
    if (standing.standing !== "current") throw new Error("the key is not known");
    await cluster.store.revoke(standing.identity.key, ["a", "b"]);
    cluster.memory.revokeLocally(standing.identity);
    await lookAtKeys(cluster.hands("a"));
    await lookAtKeys(cluster.hands("b"));
    expect(await named(a, "Kodi")).toEqual([]);
    expect(await named(b, "Kodi")).toEqual([]);
  });
});
