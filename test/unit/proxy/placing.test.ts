// What a request that must wait for one server waits for: who leads may be another though no server's state changes. And
// what a login is placed by: whom it names, and nothing that whoever guesses at passwords can choose.

import { describe, expect, test } from "vitest";
import type { Identity } from "../../../core/cluster/identity.ts";
import type { Attendant } from "../../../proxy/attendant.ts";
import type { Client } from "../../../proxy/client.ts";
import { readFacts, readHeaderFacts } from "../../../proxy/facts.ts";
import { Job } from "../../../proxy/job.ts";
import type { DoorParts } from "../../../proxy/parts.ts";
import { Placing } from "../../../proxy/placing.ts";

test("what only the leader may do is placed once there is a leader, though no server's state has changed", async () => {
  let nowMs = 0;
  let leader = "";
  const asked: string[] = [];
  const ready = { state: "ready" };
  const parts = {
    memory: { onIdentity: () => undefined },
    clock: { monotonicMs: () => nowMs },
    metrics: { holding: { add: () => undefined, subtract: () => undefined } },
    homes: { homeOf: () => undefined, readsAt: () => undefined },
    idSwaps: { areNeeded: false },
    caretakers: { isBarred: () => false },
    health: {
      view: { version: 1, replicas: new Map([["a", ready]]) },
      // No state ever changes: it is waited for in full.
      changed: async (_version: number, limitMs: number) => {
        nowMs += limitMs;
        leader = "a";
      },
    },
  } as unknown as DoorParts;
  const attendant: Attendant = {
    name: "one writer",
    attends: () => true,
    again: async () => void asked.push("again"),
    bound: () => ({ replica: leader, kind: "leader", isOnly: true }),
  };
  const placing = new Placing(parts, () => [attendant]);
  const origin = { address: "127.0.0.1", scheme: "http", host: "" } as const;
  const facts = readFacts("POST", "/Playlists", readHeaderFacts({}), origin, []);
  const job = new Job({ hasLeft: false } as Client, facts, 0);
  job.deadlineMs = 4500;
  expect((await placing.place(job))?.replica).toBe("a");
  expect(nowMs).toBeLessThan(1000);
  // It was asked whether what the request is bound to is in order there.
  expect(asked).toEqual(["again"]);
});

describe("a request that names somebody", () => {
  const dan = "d".repeat(32);
  const eve = "e".repeat(32);
  const ready = { state: "ready" };
  const parts = {
    memory: {
      onIdentity: () => undefined,
      userIdOfName: (name: string) => (name.toUpperCase() === "DAN" ? dan : undefined),
    },
    homes: {
      homeOf: (userId: string) => ({ [dan]: "b", [eve]: "c" })[userId],
      readsAt: () => undefined,
    },
    clock: { monotonicMs: () => 0 },
    idSwaps: { areNeeded: false },
    caretakers: { isBarred: () => true },
    health: { view: { version: 1, replicas: new Map([["a", ready]]) } },
    prefer: "a",
  } as unknown as DoorParts;
  const client = { hasLeft: false, head: { headers: {} } } as unknown as Client;
  const identity = { kind: "user", userId: eve, tokens: {} } as unknown as Identity;

  /** What a request is placed by: by a guess with a cookie of each server, by another device and as somebody else. */
  function askedOf(path: string, body: object | string) {
    const origin = { address: "127.0.0.1", scheme: "http", host: "" } as const;
    const all = ["a", "b", "c", ""].map((cookie) => {
      const authorization = `MediaBrowser Client="T", Device="T", DeviceId="${cookie}", Version="1"`;
      const headers = { authorization, cookie: `jellybloom=${cookie}` };
      const facts = readFacts("POST", path, readHeaderFacts(headers), origin, []);
      const job = new Job(client, facts, 0);
      job.body = Buffer.from(typeof body === "string" ? body : JSON.stringify(body));
      if (cookie === "c") job.identity = identity;
      return new Placing(parts, () => []).asked(job);
    });
    for (const asked of all) expect(asked).toEqual(all[0]);
    return all[0];
  }

  const byName = "/Users/AuthenticateByName";
  const forgotten = "/Users/ForgotPassword";
  test.each([
    ["a login by name", byName, { Username: "Dan", Pw: "x" }, { named: "b" }],
    ["in another case", byName, { username: "DAN", pw: "x" }, { named: "b" }],
    ["a login by id", `/Users/${dan}/Authenticate`, {}, { named: "b" }],
    ["by id in another form", `/Users/%7B${dan.toUpperCase()}%7D/Authenticate`, {}, { named: "b" }],
    ["behind the mark of UTF-8", byName, '\ufeff{"Username":"dan"}', { named: "b" }],
    // System.Text.Json takes the last of several.
    ["the last of several", byName, '{"Username":"fay","username":"dan"}', { named: "b" }],
    ["a way back in", forgotten, { EnteredUsername: "dan" }, { named: "b" }],
    ["nobody known", byName, { Username: "Fay" }, { named: undefined, hashKey: "FAY" }],
    // Jellyfin compares names in upper case, where these two are one (UserManager.GetUserByName).
    [
      "nobody known",
      byName,
      { Username: "\u039d\u03af\u03ba\u03bf\u03c2" },
      { hashKey: "\u039d\u038a\u039a\u039f\u03a3" },
    ],
    ["a name that cannot be read", byName, "{", { named: undefined, hashKey: "" }],
    ["an id that is none", "/Users/nobody/Authenticate", {}, { named: undefined, hashKey: "" }],
  ])("is placed by that alone: %s at %s", (_what, path, body, expected) => {
    const asked = askedOf(path, body);
    expect(asked).toMatchObject(expected);
    expect(asked).toMatchObject({ userId: undefined, home: undefined, cookie: undefined });
    expect([...(asked?.barred ?? ["?"])]).toEqual([]);
  });

  test("a PIN names nobody, and goes where its flow was begun", () => {
    const origin = { address: "127.0.0.1", scheme: "http", host: "" } as const;
    const headers = readHeaderFacts({ cookie: "jellybloom=c" });
    const facts = readFacts("POST", "/Users/ForgotPassword/Pin", headers, origin, []);
    const job = new Job(client, facts, 0);
    job.body = Buffer.from(JSON.stringify({ Pin: "1" }));
    expect(new Placing(parts, () => []).asked(job)).toMatchObject({ cookie: "c" });
  });
});
