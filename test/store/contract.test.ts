// The contract of core/store/store.ts, as promises that every store keeps: in memory, in a file, in Redis.

import { describe, expect, test } from "vitest";
import type { Change, LoginOutcome, Store, StoreLimits } from "../../core/store/store.ts";
import { formerHashesKept, StoreUnavailable } from "../../core/store/store.ts";
import {
  applied,
  backends,
  follower,
  login,
  sleep,
  someFacts,
  sorted,
  token,
  worldsOf,
} from "./worlds.ts";

const hundred = Array.from({ length: 100 }, (_unused, index) => index);

function recorded(outcome: LoginOutcome) {
  if (outcome.outcome !== "recorded") throw new Error(`not recorded: ${outcome.outcome}`);
  return outcome.identity;
}

describe.each(backends())("a store $name", (backend) => {
  const open = worldsOf(backend);

  async function openStore(limits: Partial<StoreLimits> = {}): Promise<Store> {
    return (await open(limits)).store;
  }

  describe("as a whole", () => {
    test("has one cluster id for the life of its data", async () => {
      const { store, other, reopen } = await open();
      const id = await store.clusterId();
      expect(id.length).toBeGreaterThanOrEqual(32);
      expect(await other.clusterId()).toBe(id);
      expect(await (await reopen()).clusterId()).toBe(id);
      expect(await (await openStore()).clusterId()).not.toBe(id);
    });

    test("tells its clock", async () => {
      const store = await openStore();
      expect(Math.abs((await store.time()) - Date.now())).toBeLessThan(5000);
    });

    test("begins empty", async () => {
      const { position, ...rest } = await (await openStore()).load();
      expect(position).not.toBe("");
      expect(rest).toEqual({
        identities: [],
        revokedHashes: [],
        revocations: [],
        homes: [],
        pins: [],
        notes: [],
        lease: undefined,
      });
    });

    test("remembers everything when it is opened again", async () => {
      const { store, reopen } = await open();
      await store.recordLogin(login("k", "h1", 1));
      await store.addToken(token("k", "b", "h2", 1));
      await store.recordLogin(login("ended", "h3", 1));
      await store.revoke("ended", ["a", "b"]);
      await store.claimHome({
        userId: "u",
        replica: "a",
        expectedEpoch: 0,
        owner: "o",
        minStayMs: 0,
      });
      await store.claimPin({
        kind: "passwordReset",
        id: "x",
        replica: "a",
        owner: "o",
        ttlMs: 60_000,
      });
      const before = await store.load();
      expect(before.identities).toHaveLength(2);
      expect(before.revocations).toHaveLength(1);
      expect(before.pins).toHaveLength(1);
      const after = await (await reopen()).load();
      expect(sorted(after)).toEqual(sorted(before));
      expect(after.position).toBe(before.position);
    });

    test("keeps odd characters as they are", async () => {
      const store = await openStore();
      const odd = "\u0000 \u001f\" \\ / \u007f ' % {} [] : é 😀 \u2028 \ufeff null";
      const facts = { ...someFacts, userName: odd, deviceId: odd, client: odd, device: "" };
      const key = `key of ${odd}`;
      const outcome = await store.recordLogin({ ...login(key, "h1", 1), facts, sealed: odd });
      expect(recorded(outcome)).toMatchObject({
        key,
        ...facts,
        tokens: { a: { hash: "h1", sealed: odd } },
      });
      const pin = await store.claimPin({
        kind: "passwordReset",
        id: odd,
        replica: "a",
        owner: odd,
        ttlMs: 60_000,
      });
      expect(pin).toMatchObject({ id: odd, epoch: { owner: odd } });
      const snapshot = await store.load();
      expect(snapshot.identities).toEqual([recorded(outcome)]);
      expect(snapshot.pins).toEqual([pin]);
      expect((await store.revoke(key, ["a"]))?.deviceId).toBe(odd);
    });

    test("survives half of a surrogate pair in a name", async () => {
      const store = await openStore();
      const facts = { ...someFacts, userName: "half \ud83d", device: "\ude00" };
      expect((await store.recordLogin({ ...login("k", "h1", 1), facts })).outcome).toBe("recorded");
      expect((await store.addToken({ ...token("k", "b", "h2", 1), facts })).outcome).toBe(
        "recorded",
      );
    });

    test("loads 10,000 identities in a bounded time, and while they change", async () => {
      const store = await openStore({ changesKept: 30_000 });
      const sealed = "s".repeat(120);
      for (let start = 0; start < 10_000; start += 500) {
        await Promise.all(
          Array.from({ length: 500 }, (_unused, index) =>
            store.recordLogin({
              ...login(`key-${start + index}`, `h-${start + index}`, 1),
              sealed,
            }),
          ),
        );
      }
      const startedAtMs = performance.now();
      const snapshot = await store.load();
      expect(performance.now() - startedAtMs).toBeLessThan(3000);
      expect(snapshot.identities).toHaveLength(10_000);

      // A snapshot read during changes, with what follows it, is what is there in the end.
      const changing = (async () => {
        for (let index = 0; index < 600; index += 1) {
          await store.addToken(token(`key-${(index * 17) % 10_000}`, "b", `b-${index}`, 1));
          if (index % 3 === 0) await store.revoke(`key-${(index * 31) % 10_000}`, ["a"]);
        }
      })();
      await sleep(5);
      const during = await store.load();
      await changing;
      const end = await store.load();
      const following = follower(store, during.position);
      while (following.position !== end.position) await sleep(10);
      await following.stop();
      expect(applied(during, following.changes)).toEqual(sorted(end));
    }, 60_000);

    test("after it was closed is unavailable, and ends its followers", async () => {
      const { store } = await open();
      const following = follower(store, (await store.load()).position);
      await sleep(20);
      await store.close();
      await expect(following.result).rejects.toBeInstanceOf(StoreUnavailable);
      await expect(store.load()).rejects.toBeInstanceOf(StoreUnavailable);
      await expect(store.recordLogin(login("k", "h", 1))).rejects.toBeInstanceOf(StoreUnavailable);
      await store.close();
    });
  });

  describe("of logins", () => {
    test("begins an identity with generation 1", async () => {
      const store = await openStore();
      const identity = recorded(await store.recordLogin(login("k", "h1", 1)));
      expect(identity).toEqual({
        key: "k",
        ...someFacts,
        generation: 1,
        startedAtMs: expect.any(Number),
        origin: "a",
        tokens: { a: { hash: "h1", sealed: "sealed-h1" } },
        formerHashes: [],
      });
      expect(Math.abs(identity.startedAtMs - (await store.time()))).toBeLessThan(5000);
    });

    test("begins a new generation and revokes every token of the old one", async () => {
      const store = await openStore();
      await store.recordLogin(login("k", "h1", 1));
      await store.addToken(token("k", "b", "h2", 1));
      await store.dropToken("k", 1, "b", "h2");
      await store.addToken(token("k", "b", "h3", 1));
      const facts = { ...someFacts, version: "11" };
      const identity = recorded(
        await store.recordLogin({ ...login("k", "h4", 2), origin: "b", facts }),
      );
      expect(identity).toMatchObject({ generation: 2, origin: "b", version: "11" });
      expect(identity.tokens).toEqual({ b: { hash: "h4", sealed: "sealed-h4" } });
      expect(identity.formerHashes).toEqual([]);
      const snapshot = await store.load();
      expect([...snapshot.revokedHashes].sort()).toEqual(["h1", "h2", "h3"]);
      expect(snapshot.revocations).toEqual([]);
    });

    test("answers stale with the generation there is", async () => {
      const store = await openStore();
      expect(await store.recordLogin(login("k", "h1", 2))).toEqual({
        outcome: "stale",
        generation: 0,
      });
      await store.recordLogin(login("k", "h1", 1));
      for (const generation of [0, 1, 3]) {
        const outcome = await store.recordLogin(login("k", "h2", generation));
        expect(outcome).toEqual({ outcome: "stale", generation: 1 });
      }
      expect((await store.load()).identities).toMatchObject([{ generation: 1 }]);
    });

    test("of which a hundred come at once records one, and the others are stale", async () => {
      const { store, other } = await open();
      const outcomes = await Promise.all(
        hundred.map((index) =>
          (index % 2 === 0 ? store : other).recordLogin(login("k", `h${index}`, 1)),
        ),
      );
      const won = outcomes.filter((outcome) => outcome.outcome === "recorded");
      expect(won).toHaveLength(1);
      for (const outcome of outcomes) {
        if (outcome.outcome === "stale") expect(outcome.generation).toBe(1);
      }
      expect((await store.load()).identities).toEqual(won.map(recorded));
    });

    test("that repeat until they are recorded all get a generation of their own", async () => {
      const { store, other } = await open();
      const generations = await Promise.all(
        hundred.slice(0, 20).map(async (index) => {
          const one = index % 2 === 0 ? store : other;
          let expected = 1;
          for (;;) {
            const outcome = await one.recordLogin(login("k", `h${index}`, expected));
            if (outcome.outcome === "recorded") return outcome.identity.generation;
            if (outcome.outcome === "revoked") throw new Error(`h${index} was never logged out`);
            expected = outcome.generation + 1;
          }
        }),
      );
      expect(generations.sort((left, right) => left - right)).toEqual(
        hundred.slice(0, 20).map((index) => index + 1),
      );
      expect((await store.load()).revokedHashes).toHaveLength(19);
    });

    test("may be repeated when the answer was lost", async () => {
      const store = await openStore();
      const first = await store.recordLogin(login("k", "h1", 1));
      const { position } = await store.load();
      expect(await store.recordLogin(login("k", "h1", 1))).toEqual(first);
      expect(await store.recordLogin(login("k", "h1", 2))).toEqual(first);
      expect((await store.load()).position).toBe(position);
    });

    test("refuses a token that was revoked", async () => {
      const store = await openStore();
      await store.recordLogin(login("k", "h1", 1));
      await store.recordLogin(login("k", "h2", 2));
      // Whatever generation is expected: a caller that seals for the next one and repeats would never come to an end.
      for (const generation of [1, 2, 3]) {
        const outcome = await store.recordLogin(login("k", "h1", generation));
        expect(outcome).toEqual({ outcome: "revoked" });
      }
      expect(await store.recordLogin(login("another", "h1", 1))).toEqual({ outcome: "revoked" });
      await store.revoke("k", []);
      expect(await store.recordLogin(login("k", "h2", 4))).toEqual({ outcome: "revoked" });
      expect(await store.recordLogin(login("k", "h3", 3))).toEqual({
        outcome: "stale",
        generation: 3,
      });
    });
  });

  describe("of tokens", () => {
    test("begins an identity from a token first seen", async () => {
      const store = await openStore();
      const identity = recorded(await store.addToken(token("k", "b", "h1", 0)));
      expect(identity).toMatchObject({ generation: 1, origin: "b", ...someFacts });
      expect(identity.tokens).toEqual({ b: { hash: "h1", sealed: "sealed-h1" } });
    });

    test("adds tokens of other replicas to the same generation", async () => {
      const store = await openStore();
      await store.recordLogin(login("k", "h1", 1));
      const facts = { ...someFacts, client: "another" };
      const identity = recorded(await store.addToken({ ...token("k", "b", "h2", 1), facts }));
      expect(identity).toMatchObject({ generation: 1, origin: "a", client: someFacts.client });
      expect(Object.keys(identity.tokens).sort()).toEqual(["a", "b"]);
      expect((await store.load()).identities).toEqual([identity]);
    });

    test("answers stale for any other generation and changes nothing", async () => {
      const store = await openStore();
      expect(await store.addToken(token("k", "b", "h2", 1))).toEqual({
        outcome: "stale",
        generation: 0,
      });
      await store.recordLogin(login("k", "h1", 1));
      await store.recordLogin(login("k", "h3", 2));
      const before = await store.load();
      for (const generation of [0, 1, 3]) {
        const outcome = await store.addToken(token("k", "b", "h2", generation));
        expect(outcome).toEqual({ outcome: "stale", generation: 2 });
      }
      expect(await store.load()).toEqual(before);
    });

    test("answers stale for a revoked hash, also where the generation is right", async () => {
      const store = await openStore();
      await store.recordLogin(login("k", "h1", 1));
      await store.revoke("k", ["a"]);
      expect(await store.addToken(token("k", "a", "h1", 2))).toEqual({
        outcome: "stale",
        generation: 2,
      });
      expect(await store.addToken(token("another", "a", "h1", 0))).toEqual({
        outcome: "stale",
        generation: 0,
      });
    });

    test("takes up an ended identity again when another valid token is seen", async () => {
      const store = await openStore();
      await store.recordLogin(login("k", "h1", 1));
      await store.revoke("k", []);
      const facts = { ...someFacts, client: "another" };
      expect((await store.addToken({ ...token("k", "b", "h2", 0), facts })).outcome).toBe("stale");
      const identity = recorded(await store.addToken({ ...token("k", "b", "h2", 2), facts }));
      expect(identity).toMatchObject({ generation: 2, origin: "b", client: "another" });
    });

    test("changes nothing for an equal hash, whatever generation is said", async () => {
      const store = await openStore();
      const identity = recorded(await store.addToken(token("k", "b", "h1", 0)));
      const { position } = await store.load();
      for (const generation of [0, 1]) {
        const again = await store.addToken({
          ...token("k", "b", "h1", generation),
          sealed: "another",
        });
        expect(recorded(again)).toEqual(identity);
      }
      expect((await store.load()).position).toBe(position);
    });

    test("of which a hundred are first seen at once begins one identity", async () => {
      const { store, other } = await open();
      const outcomes = await Promise.all(
        hundred.map((index) =>
          (index % 2 === 0 ? store : other).addToken(token("k", "b", `h${index}`, 0)),
        ),
      );
      expect(outcomes.filter((outcome) => outcome.outcome === "recorded")).toHaveLength(1);
    });

    test("keeps the hash of a dropped or replaced token with its identity", async () => {
      const store = await openStore();
      await store.recordLogin(login("k", "h1", 1));
      await store.dropToken("k", 1, "a", "h1");
      await store.addToken(token("k", "a", "h2", 1));
      const identity = recorded(await store.addToken(token("k", "a", "h3", 1)));
      expect(identity.tokens).toEqual({ a: { hash: "h3", sealed: "sealed-h3" } });
      expect(identity.formerHashes).toEqual(["h1", "h2"]);
      // The replica came back with an old database and knows the first token again.
      const back = recorded(await store.addToken(token("k", "a", "h1", 1)));
      expect(back.formerHashes).toEqual(["h2", "h3"]);
      expect(await store.revoke("k", [])).toEqual(back);
      expect([...(await store.load()).revokedHashes].sort()).toEqual(["h1", "h2", "h3"]);
    });

    test("keeps a bounded number of former hashes, the latest", async () => {
      const store = await openStore();
      await store.recordLogin(login("k", "h0", 1));
      for (const index of hundred.slice(1, 31)) {
        await store.addToken(token("k", "a", `h${index}`, 1));
      }
      const [identity] = (await store.load()).identities;
      expect(identity?.formerHashes).toHaveLength(formerHashesKept);
      expect(identity?.formerHashes?.at(-1)).toBe("h29");
    });

    test("which cloned replicas share is no former hash while one of them knows it", async () => {
      const store = await openStore();
      await store.addToken(token("k", "a", "h1", 0));
      await store.addToken(token("k", "b", "h1", 1));
      await store.dropToken("k", 1, "a", "h1");
      const [identity] = (await store.load()).identities;
      expect(identity?.tokens).toEqual({ b: { hash: "h1", sealed: "sealed-h1" } });
      expect(identity?.formerHashes).toEqual([]);
    });

    test("drops only the token that is meant", async () => {
      const store = await openStore();
      await store.recordLogin(login("k", "h1", 1));
      const before = await store.load();
      await store.dropToken("k", 1, "a", "h2");
      await store.dropToken("k", 2, "a", "h1");
      await store.dropToken("k", 1, "b", "h1");
      await store.dropToken("unknown", 1, "a", "h1");
      expect(await store.load()).toEqual(before);
      await store.dropToken("k", 1, "a", "h1");
      await store.dropToken("k", 1, "a", "h1");
      expect((await store.load()).identities).toMatchObject([
        { tokens: {}, formerHashes: ["h1"], generation: 1 },
      ]);
    });
  });

  describe("of revocations", () => {
    test("ends the generation, revokes its hashes and tells which replicas must hear of it", async () => {
      const store = await openStore();
      await store.recordLogin(login("k", "h1", 1));
      const known = recorded(await store.addToken(token("k", "b", "h2", 1)));
      expect(await store.revoke("k", ["b", "a"])).toEqual(known);
      const snapshot = await store.load();
      expect(snapshot.identities).toMatchObject([
        { key: "k", generation: 2, tokens: {}, formerHashes: [] },
      ]);
      expect([...snapshot.revokedHashes].sort()).toEqual(["h1", "h2"]);
      expect(snapshot.revocations).toEqual([
        {
          id: expect.any(String),
          identityKey: "k",
          generation: 1,
          userId: someFacts.userId,
          deviceId: someFacts.deviceId,
          tokens: known.tokens,
          pending: ["a", "b"],
        },
      ]);
    });

    test("answers undefined where there is nothing to end", async () => {
      const store = await openStore();
      expect(await store.revoke("k", ["a"])).toBeUndefined();
      await store.recordLogin(login("k", "h1", 1));
      expect(await store.revoke("k", ["a"])).toBeDefined();
      expect(await store.revoke("k", ["a"])).toBeUndefined();
      expect((await store.load()).revocations).toHaveLength(1);
    });

    test("of which a hundred come at once makes one", async () => {
      const { store, other } = await open();
      await store.recordLogin(login("k", "h1", 1));
      const answers = await Promise.all(
        hundred.map((index) => (index % 2 === 0 ? store : other).revoke("k", ["a"])),
      );
      expect(answers.filter((answer) => answer !== undefined)).toHaveLength(1);
      expect((await store.load()).revocations).toHaveLength(1);
    });

    test("without replicas to tell leaves no revocation", async () => {
      const store = await openStore();
      await store.recordLogin(login("k", "h1", 1));
      expect(await store.revoke("k", [])).toBeDefined();
      const snapshot = await store.load();
      expect(snapshot.revocations).toEqual([]);
      expect(snapshot.revokedHashes).toEqual(["h1"]);
    });

    test("lives until every replica has settled it", async () => {
      const store = await openStore();
      await store.recordLogin(login("k", "h1", 1));
      await store.revoke("k", ["a", "b"]);
      const start = await store.load();
      const id = start.revocations[0]?.id ?? "";
      const following = follower(store, start.position);
      await store.settleRevocation(id, "b");
      await store.settleRevocation(id, "b");
      await store.settleRevocation(id, "no such replica");
      await store.settleRevocation("no such revocation", "a");
      expect((await store.load()).revocations).toMatchObject([{ id, pending: ["a"] }]);
      await store.settleRevocation(id, "a");
      expect((await store.load()).revocations).toEqual([]);
      expect((await store.load()).revokedHashes).toEqual(["h1"]);
      await following.until(2);
      await following.stop();
      expect(following.changes).toMatchObject([
        { type: "revocation", revocation: { id, pending: ["a"] } },
        { type: "revocation", revocation: { id, pending: [] } },
      ]);
    });

    test("and revoked hashes are forgotten after their time", async () => {
      const store = await openStore({ revokedKeepMs: 150 });
      await store.recordLogin(login("k", "h1", 1));
      await store.revoke("k", ["a"]);
      const snapshot = await store.load();
      expect(snapshot.revokedHashes).toEqual(["h1"]);
      expect(snapshot.revocations).toHaveLength(1);
      await sleep(200);
      const later = await store.load();
      expect(later.revokedHashes).toEqual([]);
      expect(later.revocations).toEqual([]);
      await store.settleRevocation(snapshot.revocations[0]?.id ?? "", "a");
      expect((await store.load()).position).toBe(later.position);
    });
  });

  describe("of mint claims", () => {
    const claim = { key: "k", generation: 1, replica: "b", owner: "o", ttlMs: 60_000 };

    test("has one winner of a hundred, and none while it holds", async () => {
      const { store, other } = await open();
      await store.recordLogin(login("k", "h1", 1));
      const granted = await Promise.all(
        hundred.map((index) =>
          (index % 2 === 0 ? store : other).claimMint({ ...claim, owner: `o${index}` }),
        ),
      );
      expect(granted.filter(Boolean)).toHaveLength(1);
      expect(await store.claimMint({ ...claim, owner: `o${granted.indexOf(true)}` })).toBe(false);
      expect(await store.claimMint({ ...claim, replica: "c" })).toBe(true);
    });

    test("is given back by its owner alone", async () => {
      const store = await openStore();
      await store.recordLogin(login("k", "h1", 1));
      expect(await store.claimMint(claim)).toBe(true);
      await store.releaseMint({ ...claim, owner: "another" });
      expect(await store.claimMint({ ...claim, owner: "another" })).toBe(false);
      await store.releaseMint(claim);
      expect(await store.claimMint({ ...claim, owner: "another" })).toBe(true);
      await store.releaseMint(claim);
      expect(await store.claimMint(claim)).toBe(false);
    });

    test("ends after its time", async () => {
      const store = await openStore();
      await store.recordLogin(login("k", "h1", 1));
      expect(await store.claimMint({ ...claim, ttlMs: 100 })).toBe(true);
      expect(await store.claimMint({ ...claim, ttlMs: 100 })).toBe(false);
      await sleep(150);
      expect(await store.claimMint({ ...claim, owner: "another" })).toBe(true);
    });

    test("is refused for an identity or generation that is not or has ended", async () => {
      const store = await openStore();
      expect(await store.claimMint(claim)).toBe(false);
      await store.recordLogin(login("k", "h1", 1));
      expect(await store.claimMint({ ...claim, generation: 2 })).toBe(false);
      await store.revoke("k", []);
      expect(await store.claimMint(claim)).toBe(false);
      expect(await store.claimMint({ ...claim, generation: 2 })).toBe(false);
      await store.recordLogin(login("k", "h2", 3));
      expect(await store.claimMint({ ...claim, generation: 3 })).toBe(true);
    });
  });

  describe("of homes", () => {
    const claim = { userId: "u", replica: "a", expectedEpoch: 0, owner: "o", minStayMs: 0 };

    test("has one winner of a hundred claims, and tells all who it is", async () => {
      const { store, other } = await open();
      const answers = await Promise.all(
        hundred.map((index) =>
          (index % 2 === 0 ? store : other).claimHome({
            ...claim,
            owner: `o${index}`,
            replica: `r${index}`,
          }),
        ),
      );
      const winner = answers.findIndex((answer) => answer.granted);
      expect(answers.filter((answer) => answer.granted)).toHaveLength(1);
      for (const { home } of answers) {
        expect(home).toMatchObject({
          userId: "u",
          replica: `r${winner}`,
          epoch: { number: 1, owner: `o${winner}` },
        });
      }
    });

    test("moves for who knows its epoch, which grows by one", async () => {
      const store = await openStore();
      await store.claimHome(claim);
      const refused = await store.claimHome({ ...claim, replica: "b" });
      expect(refused).toMatchObject({ granted: false, home: { replica: "a" } });
      const moved = await store.claimHome({
        ...claim,
        replica: "b",
        expectedEpoch: 1,
        owner: "p",
      });
      expect(moved).toMatchObject({
        granted: true,
        home: { replica: "b", epoch: { number: 2, owner: "p" } },
      });
      expect(Math.abs(moved.home.movedAtMs - (await store.time()))).toBeLessThan(5000);
      expect((await store.load()).homes).toEqual([moved.home]);
    });

    test("stays for as long as the claimer says it must", async () => {
      const store = await openStore();
      await store.claimHome(claim);
      const next = { ...claim, replica: "b", expectedEpoch: 1 };
      expect((await store.claimHome({ ...next, minStayMs: 200 })).granted).toBe(false);
      await sleep(250);
      expect((await store.claimHome({ ...next, minStayMs: 200 })).granted).toBe(true);
    });

    test("that the store no longer knows counts on from what the claimer knew", async () => {
      const store = await openStore();
      const answer = await store.claimHome({ ...claim, expectedEpoch: 7 });
      expect(answer).toMatchObject({ granted: true, home: { epoch: { number: 8 } } });
    });
  });

  describe("of pins", () => {
    const claim = {
      kind: "quickConnectSecret",
      id: "x",
      replica: "a",
      owner: "o",
      ttlMs: 60_000,
    } as const;

    test("gives the first claim of a hundred to all", async () => {
      const { store, other } = await open();
      const pins = await Promise.all(
        hundred.map((index) =>
          (index % 2 === 0 ? store : other).claimPin({ ...claim, owner: `o${index}` }),
        ),
      );
      expect(new Set(pins.map((pin) => JSON.stringify(pin))).size).toBe(1);
      expect(pins[0]).toMatchObject({ replica: "a", epoch: { number: 1 } });
      expect((await store.load()).pins).toEqual([pins[0]]);
    });

    test("keeps kinds and ids apart", async () => {
      const store = await openStore();
      await store.claimPin(claim);
      const other = await store.claimPin({ ...claim, kind: "passwordReset", replica: "b" });
      expect(other.replica).toBe("b");
      expect((await store.claimPin({ ...claim, id: "y", replica: "b" })).replica).toBe("b");
      expect((await store.claimPin({ ...claim, replica: "b" })).replica).toBe("a");
      expect((await store.load()).pins).toHaveLength(3);
    });

    test("forgets a pin after its time, which claims of others do not prolong", async () => {
      const store = await openStore();
      const first = await store.claimPin({ ...claim, ttlMs: 150 });
      expect(first.expiresAtMs - (await store.time())).toBeLessThanOrEqual(150);
      await store.claimPin({ ...claim, ttlMs: 60_000 });
      await sleep(200);
      expect((await store.load()).pins).toEqual([]);
      expect((await store.claimPin({ ...claim, replica: "b" })).replica).toBe("b");
    });
  });

  describe("of proxies and members", () => {
    const member = {
      replica: "a",
      url: "http://10.0.0.5:8096",
      sidecarUrl: "",
      serverId: "server",
      serverVersion: "12.0.0",
      bootNonce: "nonce",
      proof: "proof",
    };

    test("tells every proxy what all of them see, and which members there are", async () => {
      const { store, other } = await open();
      const alone = await store.touchMember(member, 60_000);
      expect(alone.members).toEqual([{ ...member, atMs: alone.nowMs }]);
      expect(Math.abs(alone.nowMs - (await store.time()))).toBeLessThan(1000);
      const both = await store.touchMember({ ...member, replica: "b" }, 60_000);
      expect(both.members.map(({ replica }) => replica)).toEqual(["a", "b"]);
      const first = await store.touchProxy({ proxy: "p", reachable: { a: true } }, 60_000);
      expect(first.sights).toEqual([
        { proxy: "p", reachable: { a: true }, atMs: expect.any(Number) },
      ]);
      const second = await other.touchProxy({ proxy: "q", reachable: {} }, 60_000);
      expect(second.sights).toMatchObject([
        { proxy: "p", reachable: { a: true } },
        { proxy: "q", reachable: {} },
      ]);
      expect(second.members).toEqual([
        { ...member, atMs: expect.any(Number) },
        { ...member, replica: "b", atMs: expect.any(Number) },
      ]);
      expect(await store.members()).toEqual(second.members);
      const again = await store.touchProxy({ proxy: "p", reachable: { a: false } }, 60_000);
      expect(again.sights[0]?.reachable).toEqual({ a: false });
      expect(again.sights).toHaveLength(2);
    });

    test("forgets who is not heard of again", async () => {
      const store = await openStore();
      await store.touchMember(member, 100);
      await store.touchMember({ ...member, replica: "b" }, 60_000);
      await store.touchProxy({ proxy: "p", reachable: {} }, 100);
      await sleep(150);
      const answer = await store.touchProxy({ proxy: "q", reachable: {} }, 60_000);
      expect(answer.sights).toMatchObject([{ proxy: "q" }]);
      expect(answer.members).toMatchObject([{ replica: "b" }]);
      expect(await store.members()).toMatchObject([{ replica: "b" }]);
    });
  });

  describe("that is followed", () => {
    async function changeEverything(store: Store): Promise<void> {
      await store.recordLogin(login("k", "h1", 1));
      await store.addToken(token("k", "b", "h2", 1));
      await store.dropToken("k", 1, "b", "h2");
      await store.recordLogin(login("k", "h3", 2));
      await store.revoke("k", ["a"]);
      const [revocation] = (await store.load()).revocations;
      await store.settleRevocation(revocation?.id ?? "", "a");
      await store.claimHome({
        userId: "u",
        replica: "a",
        expectedEpoch: 0,
        owner: "o",
        minStayMs: 0,
      });
      await store.claimPin({
        kind: "passwordReset",
        id: "x",
        replica: "a",
        owner: "o",
        ttlMs: 60_000,
      });
    }
    const everyType = [
      "identity",
      "identity",
      "identity",
      "identity",
      "revoked",
      "identity",
      "revoked",
      "revocation",
      "revocation",
      "home",
      "pin",
    ];

    test("sends every change once, in order, to every follower", async () => {
      const { store, other } = await open();
      const start = await store.load();
      const followers = [
        follower(store, start.position),
        follower(store, start.position),
        follower(other, start.position),
      ];
      await changeEverything(store);
      for (const one of followers) await one.until(everyType.length);
      await sleep(30);
      const end = await store.load();
      for (const one of followers) {
        expect(await one.stop()).toBe("aborted");
        expect(one.changes.map((change) => change.type)).toEqual(everyType);
        expect(applied(start, one.changes)).toEqual(sorted(end));
        expect(one.position).toBe(end.position);
      }
    });

    test("sends the changes of one transition together", async () => {
      const store = await openStore();
      const following = follower(store, (await store.load()).position);
      await sleep(50);
      await store.recordLogin(login("k", "h1", 1));
      await following.until(1);
      await store.revoke("k", ["a"]);
      await following.until(4);
      await following.stop();
      const types = following.batches.map((batch) => batch.map((change) => change.type));
      expect(types).toEqual([["identity"], ["identity", "revoked", "revocation"]]);
    });

    test("sends what was missed, from any position that was reached", async () => {
      const { store, reopen } = await open();
      const start = await store.load();
      await changeEverything(store);
      const first = follower(store, start.position);
      await first.until(everyType.length);
      await first.stop();
      const second = follower(store, first.position);
      await sleep(50);
      expect(await second.stop()).toBe("aborted");
      expect(second.changes).toEqual([]);

      const later = await reopen();
      await later.recordLogin(login("later", "h9", 1));
      const third = follower(later, first.position);
      await third.until(1);
      await third.stop();
      expect(third.changes).toMatchObject([{ type: "identity", identity: { key: "later" } }]);
      const fourth = follower(later, start.position);
      await fourth.until(everyType.length + 1);
      await fourth.stop();
    });

    test("sends each of a thousand changes once while they are made by many at once", async () => {
      const { store, other } = await open();
      const start = await store.load();
      const following = follower(store, start.position);
      await Promise.all(
        Array.from({ length: 1000 }, (_unused, index) =>
          (index % 2 === 0 ? store : other).recordLogin(login(`k${index}`, `h${index}`, 1)),
        ),
      );
      await following.until(1000);
      await sleep(30);
      await following.stop();
      const keys = following.changes.map((change) =>
        change.type === "identity" ? change.identity.key : "",
      );
      expect(new Set(keys).size).toBe(1000);
      expect(keys).toHaveLength(1000);
      const again = follower(store, start.position);
      await again.until(1000);
      await again.stop();
      expect(again.changes).toEqual(following.changes);
    });

    test("calls at once when it was reached, though nothing changed", async () => {
      const store = await openStore();
      const { position } = await store.load();
      const controller = new AbortController();
      const first = await new Promise<readonly Change[]>((resolve) => {
        void store.follow(position, resolve, controller.signal);
      });
      expect(first).toEqual([]);
      controller.abort();
    });

    test("stops promptly when told to, also while it waits or before it began", async () => {
      const store = await openStore();
      const { position } = await store.load();
      const following = follower(store, position);
      await sleep(50);
      const startedAtMs = performance.now();
      expect(await following.stop()).toBe("aborted");
      expect(performance.now() - startedAtMs).toBeLessThan(2000);
      expect(await store.follow(position, () => undefined, AbortSignal.abort())).toBe("aborted");
      const dialling = follower(store, position);
      expect(await dialling.stop()).toBe("aborted");
    });

    test("says lost when the changes after a position were trimmed", async () => {
      const store = await openStore({ changesKept: 10 });
      const { position } = await store.load();
      await store.recordLogin(login("k", "h1", 1));
      const { position: second } = await store.load();
      await Promise.all(
        Array.from({ length: 300 }, (_unused, index) =>
          store.recordLogin(login(`k${index}`, `h${index}`, 1)),
        ),
      );
      const signal = new AbortController().signal;
      const seen: (readonly Change[])[] = [];
      const keep = (batch: readonly Change[]) => {
        if (batch.length > 0) seen.push(batch);
      };
      expect(await store.follow(position, keep, signal)).toBe("lost");
      expect(await store.follow(second, keep, signal)).toBe("lost");
      expect(seen).toEqual([]);
    });

    test("says lost for a position of other data, of the future, or that is none", async () => {
      const other = await openStore();
      await other.recordLogin(login("k", "h1", 1));
      const foreign = (await other.load()).position;
      const store = await openStore();
      await store.recordLogin(login("k", "h1", 1));
      const { position } = await store.load();
      const future = position.replace(/(\d+)(\/\d+)?$/, (_all, number: string, mark = "") =>
        mark === "" ? String(Number(number) + 5) : `${number}9${mark}`,
      );
      const signal = new AbortController().signal;
      for (const one of [foreign, future, "", "nonsense", `${position}x`, "a/b/c"]) {
        expect(await store.follow(one, () => undefined, signal)).toBe("lost");
      }
    });
  });
});
