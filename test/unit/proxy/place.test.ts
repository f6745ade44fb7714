// Placement as tables: every way a request finds its replica, why, and when a home is claimed; and the
// rendezvous hash by its two properties: few keys move, and they spread.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ReplicaObserved, ReplicaState } from "../../../core/cluster/replica.ts";
import type { ClusterView } from "../../../core/cluster/view.ts";
import {
  type Asked,
  mayMoveHome,
  type Placement,
  place,
  rendezvous,
} from "../../../proxy/place.ts";

type States = Readonly<Record<string, ReplicaState>>;

function viewOf(states: States): ClusterView {
  const replicas = new Map<string, ReplicaObserved>();
  for (const [name, state] of Object.entries(states)) {
    const config = { name, origin: `http://${name}.test:8096`, basePath: "" };
    replicas.set(name, { config, state, reason: "set by the test", sinceMs: 0 });
  }
  return { replicas, version: 1 };
}

const nobody: Asked = {
  pin: undefined,
  userId: undefined,
  home: undefined,
  cookie: undefined,
  addressReplica: undefined,
  hashKey: "key",
  lacks: new Set(),
  barred: new Set(),
  prefer: undefined,
};

/** Everybody ready, with what else is known of some of them. */
function viewWith(changes: Readonly<Record<string, Partial<ReplicaObserved>>>): ClusterView {
  const view = viewOf({ a: "ready", b: "ready", c: "ready" });
  const replicas = [...view.replicas].map(([name, replica]) => {
    return [name, { ...replica, ...changes[name] }] as const;
  });
  return { ...view, replicas: new Map(replicas) };
}

const allReady: States = { a: "ready", b: "ready", c: "ready" };
/** Where the hash sends `key` among the three, and among those left without it. */
const hashed = rendezvous("key", ["a", "b", "c"]) ?? "";
const hashedNext =
  rendezvous(
    "key",
    ["a", "b", "c"].filter((name) => name !== hashed),
  ) ?? "";

interface Row {
  readonly promise: string;
  readonly asked: Partial<Asked>;
  readonly states?: States;
  readonly tried?: readonly string[];
  readonly expected: Partial<Placement>;
}

const pinned = (replica: string) => ({ replica, kind: "quickConnectSecret" });
const anyOf = (...names: string[]) => new Set(names);

const rows: readonly Row[] = [
  {
    promise: "a pin goes before the user's home",
    asked: { pin: pinned("b"), userId: "u", home: "a" },
    expected: { replica: "b", reason: "pinned there: quickConnectSecret", claimsHome: false },
  },
  {
    promise: "a pin goes before the owner's preference, cookie and address",
    asked: { pin: pinned("b"), prefer: "a", cookie: "c", addressReplica: "c" },
    expected: { replica: "b" },
  },
  {
    promise: "what is pinned is asked where it is, though that replica lacks an item",
    asked: { pin: pinned("b"), userId: "u", home: "a", lacks: anyOf("b") },
    expected: { replica: "b" },
  },
  {
    promise: "a pin to a replica that is dead is passed by for the home",
    asked: { pin: pinned("b"), userId: "u", home: "a" },
    states: { a: "ready", b: "dead" },
    expected: { replica: "a", reason: "home", claimsHome: false },
  },
  {
    promise: "a pin to a replica that was tried is passed by",
    asked: { pin: pinned("b"), userId: "u", home: "a" },
    tried: ["b"],
    expected: { replica: "a", reason: "home" },
  },
  ...[{ replica: "b" }, { replica: "" }].map(({ replica }) => ({
    promise: `where only ${replica === "" ? "nobody there is" : "one"} may do it, nobody else does`,
    asked: { pin: { replica, kind: "leader", isOnly: true }, userId: "u", home: "a" },
    states: { a: "ready", b: "dead" } as const,
    expected: {
      ...{ replica: undefined, reason: "its leader is waited for" },
      ...{ mayCome: true, comesUnseen: true },
    },
  })),
  {
    promise: "a pin to a replica that gives no token is passed by",
    asked: { pin: pinned("b"), userId: "u", home: "a", barred: anyOf("b") },
    expected: { replica: "a" },
  },
  {
    promise: "a user is answered at home, whatever the cookie, address or preference say",
    asked: { userId: "u", home: "a", cookie: "b", addressReplica: "b", prefer: "b" },
    expected: { replica: "a", reason: "home", claimsHome: false },
  },
  ...(["dead", "frozen", "starting", "unfit"] as const).map(
    (state): Row => ({
      promise: `a home that is ${state} is moved`,
      asked: { userId: "u", home: "a" },
      states: { a: state, b: "ready" },
      expected: { replica: "b", reason: `home a is ${state}`, claimsHome: true },
    }),
  ),
  {
    promise: "a home on a replica that left the cluster is moved",
    asked: { userId: "u", home: "gone" },
    states: { b: "ready" },
    expected: { replica: "b", reason: "home gone is no longer there", claimsHome: true },
  },
  {
    promise: "a moved home goes where the owner prefers",
    asked: { userId: "u", home: "a", prefer: "c" },
    states: { a: "dead", b: "ready", c: "ready" },
    expected: { replica: "c", claimsHome: true },
  },
  {
    promise:
      "a dead home of a request without a user is passed by, with the true reason and no claim",
    asked: { home: "a" },
    states: { a: "dead", b: "ready" },
    expected: { replica: "b", reason: "home a is dead", claimsHome: false },
  },
  {
    promise: "a home that nobody has heard yet is waited for, though others are ready",
    asked: { userId: "u", home: "a" },
    states: { a: "unknown", b: "ready" },
    expected: { replica: undefined, reason: "home a has not been heard yet", mayCome: true },
  },
  {
    promise: "a home that nobody has heard yet and that was tried is passed by and stays the home",
    asked: { userId: "u", home: "a" },
    states: { a: "unknown", b: "ready" },
    tried: ["a"],
    expected: {
      replica: "b",
      reason: "home a did not answer this request",
      claimsHome: false,
    },
  },
  {
    promise: "a ready home that was tried is passed by and stays the home",
    asked: { userId: "u", home: "a" },
    states: { a: "ready", b: "ready" },
    tried: ["a"],
    expected: {
      replica: "b",
      reason: "home a did not answer this request",
      claimsHome: false,
    },
  },
  {
    promise: "a home that was tried and is now seen dead is moved",
    asked: { userId: "u", home: "a" },
    states: { a: "dead", b: "ready" },
    tried: ["a"],
    expected: { replica: "b", reason: "home a is dead", claimsHome: true },
  },
  {
    promise: "a home that gives this login no token is passed by and stays the home",
    asked: { userId: "u", home: "a", barred: anyOf("a") },
    states: { a: "ready", b: "ready" },
    expected: {
      replica: "b",
      reason: "home a gives this login no token now",
      claimsHome: false,
    },
  },
  {
    promise: "a home that lacks the item is passed by and stays the home",
    asked: { userId: "u", home: "a", lacks: anyOf("a") },
    states: { a: "ready", b: "ready" },
    expected: { replica: "b", reason: "home a lacks the item", claimsHome: false },
  },
  {
    promise: "a home that lacks the item is asked all the same when all lack it",
    asked: { userId: "u", home: "a", lacks: anyOf("a", "b") },
    states: { a: "ready", b: "ready" },
    expected: { replica: "a", reason: "home" },
  },
  {
    promise: "a home is asked again about an item once those that had it were tried",
    asked: { userId: "u", home: "a", lacks: anyOf("a") },
    states: { a: "ready", b: "ready" },
    tried: ["b"],
    expected: { replica: "a", reason: "home" },
  },
  {
    promise: "with a dead home and nobody else ready the request waits",
    asked: { userId: "u", home: "a" },
    states: { a: "dead", b: "starting" },
    expected: {
      replica: undefined,
      reason: "no replica is left: a dead, b starting",
      mayCome: true,
    },
  },
  {
    promise: "a user without a home is given one, by hash",
    asked: { userId: "u" },
    expected: { replica: hashed, reason: "first home of this user", claimsHome: true },
  },
  {
    promise: "a first home is where the owner prefers",
    asked: { userId: "u", prefer: hashedNext, cookie: hashed },
    expected: { replica: hashedNext, claimsHome: true },
  },
  {
    promise: "a preference for a replica that is not ready is no preference",
    asked: { userId: "u", prefer: hashed },
    states: { ...allReady, [hashed]: "starting" },
    expected: { replica: hashedNext, claimsHome: true },
  },
  {
    promise: "a first home is never where the login can have no token",
    asked: { userId: "u", barred: anyOf(hashed) },
    expected: { replica: hashedNext, claimsHome: true },
  },
  {
    promise: "with no replica ready, a first home waits",
    asked: { userId: "u" },
    states: { a: "unknown" },
    expected: { replica: undefined, reason: "no replica is left: a unknown", mayCome: true },
  },
  {
    promise: "a login that no ready replica gives a token waits, and the reason says so",
    asked: { userId: "u", barred: anyOf("a") },
    states: { a: "ready" },
    expected: {
      replica: undefined,
      reason: "no replica is left: a gives this login no token now",
      mayCome: true,
    },
  },
  {
    promise: "a cookie decides for nobody's request, before the address",
    asked: { cookie: hashedNext, addressReplica: hashed },
    expected: { replica: hashedNext, reason: "cookie", claimsHome: false },
  },
  {
    promise: "the home of whom it names decides for a login, before whatever cookie comes along",
    asked: { named: hashedNext, cookie: hashed, addressReplica: hashed, prefer: hashed },
    expected: { replica: hashedNext, reason: "home of whom it names", claimsHome: false },
  },
  {
    promise: "a login of somebody whose home is away is spread by hash",
    asked: { named: "gone" },
    expected: { replica: hashed, reason: "nobody's: spread by hash" },
  },
  {
    promise: "the last login from the address decides when there is no cookie",
    asked: { addressReplica: hashedNext },
    expected: { replica: hashedNext, reason: "last login from this address", claimsHome: false },
  },
  {
    promise: "a cookie for a replica that is gone gives way to the address",
    asked: { cookie: "gone", addressReplica: hashedNext },
    expected: { replica: hashedNext, reason: "last login from this address" },
  },
  {
    promise: "hints to replicas that lack the item are not followed",
    asked: { cookie: hashed, addressReplica: hashed, lacks: anyOf(hashed) },
    expected: { replica: hashedNext, reason: "nobody's: spread by hash" },
  },
  {
    promise: "what belongs to nobody is spread by hash and claims nothing",
    asked: {},
    expected: { replica: hashed, reason: "nobody's: spread by hash", claimsHome: false },
  },
  {
    promise: "what belongs to nobody goes where the owner prefers",
    asked: { prefer: hashedNext },
    expected: { replica: hashedNext, claimsHome: false },
  },
  {
    promise: "when every replica was tried nothing may come",
    asked: {},
    states: { a: "ready", b: "dead" },
    tried: ["a", "b"],
    expected: {
      replica: undefined,
      reason: "no replica is left: a was tried, b was tried",
      mayCome: false,
    },
  },
  {
    promise: "when one that is not ready was not tried, it may come",
    asked: {},
    states: { a: "ready", b: "dead" },
    tried: ["a"],
    expected: { replica: undefined, mayCome: true },
  },
  {
    promise: "a cluster without replicas says so",
    asked: {},
    states: {},
    expected: { replica: undefined, reason: "no replica is known", mayCome: false },
  },
];

describe("a request finds its replica", () => {
  test.each(rows)("$promise", ({ asked, states, tried, expected }) => {
    const placement = place({ ...nobody, ...asked }, viewOf(states ?? allReady), new Set(tried));
    expect(placement).toMatchObject(expected);
  });
});

const states = ["unknown", "ready", "starting", "unfit", "frozen", "dead"] as const;
const names = ["a", "b", "c", "d"];
const name = fc.constantFrom(...names);
const optionalName = fc.option(name, { nil: undefined });
const someNames = fc.subarray(names).map((list) => new Set(list));

test("whatever is asked, only a ready replica that is neither tried nor barred is chosen", () => {
  fc.assert(
    fc.property(
      fc.dictionary(name, fc.constantFrom(...states)),
      fc.record({
        pin: fc.option(fc.record({ replica: name, kind: fc.constant("play") }), { nil: undefined }),
        userId: fc.constantFrom(undefined, "u"),
        home: optionalName,
        cookie: optionalName,
        addressReplica: optionalName,
        hashKey: fc.string(),
        lacks: someNames,
        barred: someNames,
        prefer: optionalName,
      }),
      someNames,
      (given, asked, tried) => {
        const placement = place(asked, viewOf(given), tried);
        const open = Object.keys(given).filter(
          (each) => given[each] === "ready" && !tried.has(each) && !asked.barred.has(each),
        );
        if (placement.replica === undefined) {
          const waitsForHome =
            asked.home !== undefined &&
            given[asked.home] === "unknown" &&
            !tried.has(asked.home) &&
            placement.mayCome;
          expect(open.length === 0 || waitsForHome).toBe(true);
        } else {
          expect(open).toContain(placement.replica);
          // A home is claimed only for a user, and never away from a home that is ready or not heard yet.
          if (placement.claimsHome) {
            expect(asked.userId).toBeDefined();
            if (asked.home !== undefined) {
              expect(["ready", "unknown"]).not.toContain(given[asked.home]);
            }
          }
        }
        expect(placement.reason).not.toBe("");
      },
    ),
    { numRuns: 2000 },
  );
});

describe("rendezvous", () => {
  const distinct = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 20 }), {
    minLength: 2,
    maxLength: 9,
  });

  test("the order of candidates does not matter", () => {
    fc.assert(
      fc.property(fc.string(), distinct, (key, candidates) => {
        expect(rendezvous(key, [...candidates].reverse())).toBe(rendezvous(key, candidates));
      }),
    );
  });

  test("when a replica leaves, only its own keys move; when it returns, they come back", () => {
    fc.assert(
      fc.property(fc.string(), distinct, fc.nat(), (key, candidates, which) => {
        const leaver = candidates[which % candidates.length];
        const before = rendezvous(key, candidates);
        const after = rendezvous(
          key,
          candidates.filter((candidate) => candidate !== leaver),
        );
        if (before !== leaver) expect(after).toBe(before);
        else expect(after).not.toBe(leaver);
      }),
    );
  });

  test("nobody is chosen among none", () => {
    expect(rendezvous("key", [])).toBeUndefined();
  });

  test.each([
    [["a", "b"]],
    [["jellyfin-0", "jellyfin-1", "jellyfin-2"]],
    [["one", "two", "three", "four", "five"]],
  ])("keys spread evenly over %j, and those of one that left over the others", (candidates) => {
    const keys = Array.from(
      { length: 6000 },
      (_, index) => `${index.toString(16).padStart(32, "0")}`,
    );
    const spread = (over: readonly string[], of: readonly string[]) => {
      const counts = new Map(over.map((candidate) => [candidate, 0]));
      for (const key of of) {
        const chosen = rendezvous(key, over) ?? "";
        counts.set(chosen, (counts.get(chosen) ?? 0) + 1);
      }
      const fair = of.length / over.length;
      for (const count of counts.values()) {
        // Far outside what chance does: six standard deviations of a fair draw.
        expect(Math.abs(count - fair)).toBeLessThan(6 * Math.sqrt(fair));
      }
    };
    spread(candidates, keys);
    const [left, ...others] = candidates;
    spread(
      others,
      keys.filter((key) => rendezvous(key, candidates) === left),
    );
  });
});

test("a home moves only away from a replica that no proxy reaches", () => {
  expect(mayMoveHome("dead", false)).toBe("move");
  expect(mayMoveHome("frozen", false)).toBe("move");
  expect(mayMoveHome("dead", true)).toBe("detour");
  expect(mayMoveHome("frozen", true)).toBe("detour");
  // A replica that was taken out of the cluster is nobody's home any more.
  expect(mayMoveHome(undefined, true)).toBe("move");
  expect(mayMoveHome(undefined, false)).toBe("move");
});

describe("a replica that drains, or that cannot encode", () => {
  test("that was away and has not caught up serves nobody while another can, and keeps its homes", () => {
    const view = viewWith({ a: { behind: "server" } });
    const asked = { ...nobody, userId: "user", home: "a" };
    const placed = place(asked, view);
    expect(placed).toMatchObject({ claimsHome: false, reason: "home a has not caught up yet" });
    expect(placed.replica).not.toBe("a");
    // What is in its memory alone is asked there all the same.
    const pinned = place({ ...asked, pin: { replica: "a", kind: "syncPlay" } }, view);
    expect(pinned.replica).toBe("a");
    expect(place(asked, view, new Set(["b", "c"])).replica).toBe("a");
    const all = { behind: "server" } as const;
    expect(place(asked, viewWith({ a: all, b: all, c: all })).replica).toBe("a");
  });

  test("whose sidecar was away serves those who live there, and gets nobody new", () => {
    const view = viewWith({ a: { behind: "sidecar" } });
    expect(place({ ...nobody, userId: "user", home: "a" }, view).replica).toBe("a");
    for (let key = 0; key < 20; key++) {
      expect(place({ ...nobody, userId: "new", hashKey: `${key}` }, view).replica).not.toBe("a");
    }
  });

  test.each([{ isDraining: true }, { refusesPlays: true }])("gets nobody new: %o", (change) => {
    const view = viewWith({ a: change, b: change });
    for (let index = 0; index < 20; index += 1) {
      const hashKey = `user ${index}`;
      expect(place({ ...nobody, userId: hashKey, hashKey }, view)).toMatchObject({ replica: "c" });
      expect(place({ ...nobody, cookie: "a", hashKey }, view)).toMatchObject({ replica: "c" });
      expect(place({ ...nobody, prefer: "a", hashKey }, view)).toMatchObject({ replica: "c" });
    }
  });

  test("keeps those whose home it is, and what is pinned to it, until they are moved", () => {
    const view = viewWith({ a: { isDraining: true } });
    const home = { ...nobody, userId: "u", home: "a" };
    expect(place(home, view)).toMatchObject({ replica: "a", claimsHome: false });
    expect(place({ ...nobody, pin: pinned("a") }, view)).toMatchObject({ replica: "a" });
  });

  test("is better than none", () => {
    const view = viewWith({
      a: { isDraining: true },
      b: { state: "dead" },
      c: { state: "frozen" },
    });
    expect(place({ ...nobody, userId: "u" }, view)).toMatchObject({ replica: "a" });
  });

  test("does not take those whose home is gone while another can", () => {
    const view = viewWith({ a: { state: "dead" }, b: { isDraining: true } });
    const asked = { ...nobody, userId: "u", home: "a" };
    expect(place(asked, view)).toMatchObject({ replica: "c", claimsHome: true });
  });
});
