// A user who was made on one replica: where they are placed and moved, and what the page of API keys shows.

import { describe, expect, test } from "vitest";
import { hashOf } from "../../../core/cluster/identity.ts";
import type { ClusterView } from "../../../core/cluster/view.ts";
import { withoutOwnKeys } from "../../../proxy/attendants/api-keys.ts";
import { type BalanceUser, decideBalance } from "../../../proxy/balance.ts";
import { type Asked, place } from "../../../proxy/place.ts";
import { ownReply } from "../../../proxy/reply.ts";

const names = ["a", "b", "c"];
const open = names.map((name) => ({ name, isOpen: true, readyForMs: 1_000_000 }));
const options = {
  ...{ prefer: undefined, returnAfterMs: 1000, preferAfterMs: 1000 },
  ...{ minStayMs: 1000, movesLimit: 5 },
};
const user = (more: Partial<BalanceUser>): BalanceUser => ({
  ...{ userId: "u", home: "a", transcodes: 0, directPlays: 0, sockets: 0 },
  ...{ isIdle: true, stayedMs: 1_000_000, knownAt: new Set(names) },
  ...more,
});

describe("a user whose id is native to one replica", () => {
  const foreign = new Set(["b", "c"]);

  test("goes back there when it is well again, and not in the middle of a play", () => {
    const moves = decideBalance(open, [user({ home: "b", foreign })], options);
    expect(moves).toMatchObject([{ userId: "u", to: "a", why: expect.stringContaining("native") }]);
    expect(decideBalance(open, [user({ home: "b", foreign, isIdle: false })], options)).toEqual([]);
    expect(decideBalance(open, [user({ home: "b", foreign, stayedMs: 1 })], options)).toEqual([]);
  });

  test("does not while it is away, or has no token for them", () => {
    const away = open.map((one) => (one.name === "a" ? { ...one, isOpen: false } : one));
    expect(decideBalance(away, [user({ home: "b", foreign })], options)).toEqual([]);
    const unknown = user({ home: "b", foreign, knownAt: new Set(["b", "c"]) });
    expect(decideBalance(open, [unknown], options)).toEqual([]);
  });

  test("is moved to no other for balance or preference", () => {
    const crowd = Array.from({ length: 6 }, (_, index) => user({ userId: `u${index}`, foreign }));
    expect(decideBalance(open, crowd, options)).toEqual([]);
    expect(decideBalance(open, crowd, { ...options, prefer: "b" })).toEqual([]);
  });
});

describe("placing such a user", () => {
  const view: ClusterView = {
    replicas: new Map(
      names.map((name) => {
        const config = { name, origin: `http://${name}.test:8096`, basePath: "" };
        return [name, { config, state: "ready", reason: "set by the test", sinceMs: 0 }];
      }),
    ),
    version: 1,
  };
  const asked: Asked = {
    ...{ pin: undefined, userId: "u", home: undefined, cookie: undefined },
    ...{ addressReplica: undefined, lacks: new Set(), barred: new Set(), prefer: undefined },
    hashKey: "u",
  };
  const dead = (name: string): ClusterView => ({
    replicas: new Map(
      [...view.replicas].map(([one, seen]) => [
        one,
        one === name ? { ...seen, state: "dead" } : seen,
      ]),
    ),
    version: 2,
  });

  test.each(names)("begins at %s where the id is native to it alone", (native) => {
    const foreign = new Set(names.filter((name) => name !== native));
    const reason = "first home of this user";
    expect(place({ ...asked, foreign }, view)).toEqual({
      replica: native,
      reason,
      claimsHome: true,
    });
  });

  test("goes to another of the native ones when their home dies, else to any", () => {
    const foreign = new Set(["c"]);
    for (const hashKey of ["u", "v", "w", "x"]) {
      const moved = place({ ...asked, hashKey, home: "a", foreign }, dead("a"));
      expect(moved).toMatchObject({ replica: "b", claimsHome: true });
    }
    const alone = { ...asked, home: "a", foreign: new Set(["b", "c"]) };
    expect(["b", "c"]).toContain(place(alone, dead("a")).replica);
  });

  test("stays at a home that is not native while it is there", () => {
    const moved = place({ ...asked, home: "b", foreign: new Set(["b"]) }, view);
    expect(moved).toMatchObject({ replica: "b", reason: "home" });
  });
});

describe("the page of API keys", () => {
  const own = new Set([hashOf("ours")]);
  const reply = (value: unknown) => ownReply(200, "OK", JSON.stringify(value), []);

  test("is without the cluster's own, in either spelling", () => {
    const items = [{ AccessToken: "ours" }, { AccessToken: "theirs" }];
    const shown = withoutOwnKeys(reply({ Items: items, TotalRecordCount: 2, StartIndex: 0 }), own);
    expect(JSON.parse(shown.body.toString())).toEqual({
      ...{ Items: [{ AccessToken: "theirs" }], TotalRecordCount: 1, StartIndex: 0 },
    });
    const camel = withoutOwnKeys(
      reply({ items: [{ accessToken: "ours" }], totalRecordCount: 1 }),
      own,
    );
    expect(JSON.parse(camel.body.toString())).toEqual({ items: [], totalRecordCount: 0 });
  });

  test("is as it was where it cannot be read, or there are none", () => {
    for (const value of ["text", [], {}, { Items: "x" }]) {
      const said = reply(value);
      expect(withoutOwnKeys(said, own)).toBe(said);
    }
    const said = reply({ Items: [{ AccessToken: "ours" }] });
    expect(withoutOwnKeys(said, new Set())).toBe(said);
  });
});
