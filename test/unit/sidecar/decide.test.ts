// What the sidecar decides, as tables: who gets a token, who waits and who never gets one, in which order,
// and what each end of a try means for the next. Every interruption of a mint is one of these starting points.

import { describe, expect, test } from "vitest";
import { hashOf, type Identity, identityKey } from "../../../core/cluster/identity.ts";
import type { Revocation } from "../../../core/store/store.ts";
import {
  type Action,
  afterMint,
  afterOther,
  type DecideLimits,
  decide,
  leftoversIn,
  type MintEnd,
  mintVerdict,
  nameOf,
  type Observation,
  type Trial,
} from "../../../sidecar/decide.ts";

const limits: DecideLimits = {
  parallelLimit: 3,
  freshLoginMs: 60_000,
  retryMinMs: 500,
  retryMaxMs: 30_000,
  problemRetryMs: 60_000,
  ghostTries: 5,
};

const ann = "a".repeat(32);
const ben = "b".repeat(32);
const storeNowMs = 1_800_000_000_000;

function tokenOn(replica: string) {
  return { hash: hashOf(replica), sealed: `sealed ${replica}` };
}

function identity(changes: Partial<Identity> = {}): Identity {
  const userId = changes.userId ?? ann;
  const deviceId = changes.deviceId ?? "device-1";
  return {
    key: identityKey(userId, deviceId),
    kind: "user",
    userId,
    userName: "ann",
    deviceId,
    client: "Jellyfin Web",
    device: "Chrome",
    version: "12.0.0",
    generation: 3,
    startedAtMs: storeNowMs - 1000,
    origin: "a",
    tokens: { a: tokenOn("a") },
    ...changes,
  };
}

function observation(changes: Partial<Observation> = {}): Observation {
  return {
    nowMs: 1_000_000,
    storeNowMs,
    replica: "b",
    otherReplicas: 1,
    health: "healthy",
    healthReason: "its health says Healthy",
    startupWizardCompleted: true,
    quickConnect: true,
    storeLoaded: true,
    storeAvailable: true,
    rival: undefined,
    lacking: new Map(),
    owed: new Map(),
    endedGenerations: new Map(),
    ghosts: new Map(),
    unrecorded: new Map(),
    suspects: new Map(),
    sweepDue: false,
    trials: new Map(),
    running: new Set(),
    busyUsers: new Set(),
    urgent: new Set(),
    ...changes,
  };
}

function lacking(...identities: Identity[]): Map<string, Identity> {
  return new Map(identities.map((one) => [one.key, one]));
}

function revocation(changes: Partial<Revocation> = {}): Revocation {
  return {
    id: "r1",
    identityKey: identity().key,
    generation: 2,
    userId: ann,
    deviceId: "device-1",
    tokens: { a: tokenOn("a") },
    pending: ["b"],
    ...changes,
  };
}

function trial(changes: Partial<Trial> = {}): Trial {
  return {
    generation: 3,
    failures: 1,
    triedAtMs: 999_000,
    notBeforeMs: 1_000_500,
    serverWasAway: false,
    sweepFirst: false,
    problem: undefined,
    ...changes,
  };
}

const key = identity().key;

describe("who gets a token", () => {
  test("a login just seen is minted for at once", () => {
    expect(mintVerdict(identity(), observation(), limits)).toEqual({
      verdict: "mint",
      proof: "freshLogin",
    });
  });

  test("an older login is minted for only after another replica was asked", () => {
    const old = identity({ startedAtMs: storeNowMs - 60_001 });
    expect(mintVerdict(old, observation(), limits)).toEqual({
      verdict: "mint",
      proof: "askOthers",
    });
  });

  test("a store clock that was set back does not make a login look just seen", () => {
    const future = identity({ startedAtMs: storeNowMs + 3_600_000 });
    expect(mintVerdict(future, observation(), limits)).toMatchObject({ proof: "askOthers" });
  });

  const never: [string, Identity, Partial<Observation>][] = [
    ["an API key", identity({ kind: "apiKey", userId: "", deviceId: "" }), {}],
    ["an identity without a device", identity({ deviceId: "" }), {}],
    ["a login that has ended", identity({ tokens: {} }), {}],
    ["one that has its token here", identity({ tokens: { a: tokenOn("a"), b: tokenOn("b") } }), {}],
    ["a cluster of one", identity(), { otherReplicas: 0 }],
    ["an ended generation", identity(), { endedGenerations: new Map([[key, 3]]) }],
    ["a generation before the ended one", identity(), { endedGenerations: new Map([[key, 4]]) }],
  ];
  test.each(never)("never for %s", (_name, whose, changes) => {
    expect(mintVerdict(whose, observation(changes), limits).verdict).toBe("never");
  });

  const waits: [string, Partial<Observation>][] = [
    ["while the store is away (failsafe)", { storeAvailable: false }],
    ["until the store was read", { storeLoaded: false }],
    ["until the store's clock is known", { storeNowMs: undefined }],
    ["while another Jellybloom keeps the server", { rival: "server b is already kept" }],
    ["while the server only starts", { health: "degraded" }],
    ["while the server is silent", { health: "silent" }],
    ["until the startup wizard is complete", { startupWizardCompleted: false }],
    ["while QuickConnect is off", { quickConnect: false }],
    [
      "while a minted token is not recorded",
      { unrecorded: new Map([[key, { identity: identity(), token: "t" }]]) },
    ],
    [
      "until this replica has made the identity's logout",
      { owed: new Map([["r1", revocation()]]) },
    ],
    [
      "until this replica has made another user's logout on the same device",
      { owed: new Map([["r1", revocation({ identityKey: "other", userId: ben })]]) },
    ],
    ["while another mint for the user runs", { busyUsers: new Set([ann]) }],
    [
      "while the session of the user's last mint is there",
      { ghosts: new Map([["g", identity({ deviceId: "device-2" })]]) },
    ],
    ["until the time of the next try", { trials: new Map([[`mint ${key}`, trial()]]) }],
  ];
  test.each(waits)("it waits %s", (_name, changes) => {
    const verdict = mintVerdict(identity(), observation(changes), limits);
    expect(verdict.verdict).toBe("wait");
  });

  test("a logout that only another replica still owes holds nothing up", () => {
    const o = observation({ endedGenerations: new Map([[key, 2]]) });
    expect(mintVerdict(identity(), o, limits).verdict).toBe("mint");
  });

  test("a trial of an older generation holds nothing up", () => {
    const o = observation({ trials: new Map([[`mint ${key}`, trial({ generation: 2 })]]) });
    expect(mintVerdict(identity(), o, limits).verdict).toBe("mint");
  });

  test("a leftover session that cannot be ended holds the user up only so often", () => {
    const ghost = identity({ deviceId: "device-2" });
    const o = observation({
      ghosts: new Map([[ghost.key, ghost]]),
      trials: new Map([[`endGhost ${ghost.key}`, trial({ failures: 5 })]]),
    });
    expect(mintVerdict(identity(), o, limits).verdict).toBe("mint");
  });

  test("a waiting request shortens the wait after a passing failure", () => {
    const waiting = { trials: new Map([[`mint ${key}`, trial({ notBeforeMs: 1_020_000 })]]) };
    expect(mintVerdict(identity(), observation(waiting), limits).verdict).toBe("wait");
    const hurried = observation({ ...waiting, urgent: new Set([key]) });
    expect(mintVerdict(identity(), hurried, limits).verdict).toBe("mint");
  });

  test("a waiting request does not shorten the wait for what a person must change", () => {
    const o = observation({
      trials: new Map([[`mint ${key}`, trial({ problem: "the user is disabled at server b" })]]),
      urgent: new Set([key]),
    });
    expect(mintVerdict(identity(), o, limits)).toEqual({
      verdict: "wait",
      reason: "the user is disabled at server b",
    });
  });
});

describe("in which order", () => {
  const older = identity({ deviceId: "old", userId: ben, startedAtMs: storeNowMs - 50_000 });
  const younger = identity({ deviceId: "young" });

  test("identities a request waits for come first, then the youngest login", () => {
    const third = identity({
      deviceId: "third",
      userId: "c".repeat(32),
      startedAtMs: storeNowMs - 9000,
    });
    const o = observation({
      lacking: lacking(older, third, younger),
      urgent: new Set([older.key]),
    });
    const names = decide(o, limits).actions.map(nameOf);
    expect(names).toEqual([`mint ${older.key}`, `mint ${younger.key}`, `mint ${third.key}`]);
  });

  test("two logins of one user are minted for one after the other", () => {
    const o = observation({
      lacking: lacking(identity({ deviceId: "one" }), identity({ deviceId: "two" })),
    });
    expect(decide(o, limits).actions).toHaveLength(1);
  });

  test("a logout comes before a mint of the same user", () => {
    const o = observation({
      lacking: lacking(identity({ deviceId: "device-2" })),
      owed: new Map([["r1", revocation()]]),
    });
    expect(decide(o, limits).actions.map(nameOf)).toEqual(["settle r1"]);
  });

  test("never more run at one time than the limit", () => {
    const many = Array.from({ length: 20 }, (_, index) =>
      identity({ userId: index.toString(16).padStart(32, "0") }),
    );
    const o = observation({ lacking: lacking(...many), running: new Set(["mint x"]) });
    expect(decide(o, limits).actions).toHaveLength(2);
  });

  test("what runs is not begun again", () => {
    const o = observation({
      owed: new Map([["r1", revocation()]]),
      running: new Set(["settle r1"]),
    });
    expect(decide(o, limits).actions).toEqual([]);
  });
});

describe("after an interruption", () => {
  test("died after the claim, after Initiate or after Authorize: the mint is begun anew", () => {
    // Nothing of it is in the store but the claim, which ends by itself; so the identity still lacks its token.
    const o = observation({ lacking: lacking(identity()), sweepDue: true });
    expect(decide(o, limits).actions.map(({ type }) => type)).toEqual(["sweep", "mint"]);
  });

  test("died after the token was recorded: nothing is minted, and leftover sessions are looked for", () => {
    const o = observation({ sweepDue: true });
    expect(decide(o, limits).actions).toEqual([{ type: "sweep" }]);
  });

  test("the store went away before the token was recorded: it is recorded when the store is back", () => {
    const unrecorded = new Map([[key, { identity: identity(), token: "t" }]]);
    const away = observation({ unrecorded, lacking: lacking(identity()), storeAvailable: false });
    expect(decide(away, limits).actions).toEqual([]);
    const back = observation({ unrecorded, lacking: lacking(identity()) });
    expect(decide(back, limits).actions.map(nameOf)).toEqual([`record ${key}`]);
  });

  test("died between a logout and its settlement: it is made again", () => {
    const o = observation({ owed: new Map([["r1", revocation()]]) });
    expect(decide(o, limits).actions.map(nameOf)).toEqual(["settle r1"]);
  });

  test("a logout is made although the store is away, and waits while the server is", () => {
    const owed = new Map([["r1", revocation()]]);
    const storeAway = observation({ owed, storeAvailable: false });
    expect(decide(storeAway, limits).actions.map(nameOf)).toEqual(["settle r1"]);
    expect(decide(observation({ owed, health: "refused" }), limits).actions).toEqual([]);
  });

  test("a token is checked only where another replica could accept the login and the store can take it", () => {
    const suspects = new Map([[key, identity({ tokens: { a: tokenOn("a"), b: tokenOn("b") } })]]);
    expect(decide(observation({ suspects }), limits).actions.map(nameOf)).toEqual([
      `verify ${key}`,
    ]);
    const none: Partial<Observation>[] = [
      { otherReplicas: 0 },
      { storeAvailable: false },
      { health: "loading" },
    ];
    for (const changes of none) {
      expect(decide(observation({ suspects, ...changes }), limits).actions).toEqual([]);
    }
  });
});

describe("what is said", () => {
  test("one sentence tells what is done and what is waited for", () => {
    expect(decide(observation(), limits).sentence).toBe("no action: server b is healthy");
    const o = observation({ lacking: lacking(identity()), quickConnect: false });
    expect(decide(o, limits).sentence).toBe(
      "no action: server b is healthy; 1 waiting: QuickConnect is off at server b",
    );
    const two = observation({ lacking: lacking(identity(), identity({ userId: ben })) });
    expect(decide(two, limits).sentence).toBe("2 tokens to mint: server b is healthy");
  });
});

describe("what an end means for the next try", () => {
  const trialAfter = (end: MintEnd, known?: Trial) =>
    afterMint(end, known, identity(), "b", 1_000_000, limits);

  const done: MintEnd[] = [
    { end: "recorded", ghostLeft: false },
    { end: "adopted" },
    { end: "unrecorded", token: "t", ghostLeft: false },
  ];
  test.each(done)("nothing is remembered after $end", (end) => {
    expect(trialAfter(end, trial())).toBeUndefined();
  });

  const passing: MintEnd["end"][] = [
    "stale",
    "notWanted",
    "claimHeld",
    "late",
    "storeAway",
    "nobodyToAsk",
  ];
  test.each(passing)("%s is tried again soon and is no problem", (end) => {
    expect(trialAfter({ end } as MintEnd)).toMatchObject({
      notBeforeMs: 1_000_500,
      problem: undefined,
    });
  });

  const problems: [MintEnd["end"], RegExp][] = [
    ["notAccepted", /no other server accepts this login/],
    ["disabled", /disabled at server b/],
    ["unknownUser", /does not have the user a{32} yet/],
    ["switchedOff", /QuickConnect is off at server b/],
    ["keyRefused", /refuses its API key/],
    ["wrongIdentity", /another user or device/],
  ];
  test.each(problems)("%s is told, and waits for a person", (end, sentence) => {
    const next = trialAfter({ end } as MintEnd);
    expect(next?.notBeforeMs).toBe(1_060_000);
    expect(next?.problem).toMatch(sentence);
  });

  test("too many sessions: it is told, backs off, and leftover sessions are looked for", () => {
    const next = trialAfter({ end: "notAllowed" });
    expect(next).toMatchObject({ sweepFirst: true, notBeforeMs: 1_000_500 });
    expect(next?.problem).toMatch(/MaxActiveSessions/);
    const o = observation({ trials: new Map([[`mint ${key}`, next as Trial]]) });
    expect(decide(o, limits).actions).toEqual([{ type: "sweep" }]);
  });

  test("waits double up to the longest, and begin anew with a new generation", () => {
    const end: MintEnd = { end: "serverAway", message: "no connection" };
    const waits: number[] = [];
    let known: Trial | undefined;
    for (let turn = 0; turn < 9; turn++) {
      known = trialAfter(end, known);
      waits.push((known?.notBeforeMs ?? 0) - 1_000_000);
    }
    expect(waits).toEqual([500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    expect(trialAfter(end, trial({ generation: 2, failures: 9 }))?.failures).toBe(1);
  });

  test("another action that failed waits longer each time, and is forgotten when it is done", () => {
    const once = afterOther(false, undefined, 0, limits);
    expect(once?.notBeforeMs).toBe(500);
    expect(afterOther(false, once, 0, limits)?.notBeforeMs).toBe(1000);
    expect(afterOther(true, once, 0, limits)).toBeUndefined();
  });
});

describe("sessions that mints left behind", () => {
  const minted = identity({ tokens: { a: tokenOn("a"), b: tokenOn("b") } });
  const session = { userId: ann, deviceId: "device-1", remoteEndPoint: "" };

  test("one that no client has reached and whose token is known is ended", () => {
    expect(leftoversIn([session], [minted], new Set(), "b")).toEqual({ end: [minted], forget: [] });
  });

  test("one that a client has reached is left alone", () => {
    const used = { ...session, remoteEndPoint: "10.0.0.9" };
    expect(leftoversIn([used], [minted], new Set([key]), "b")).toEqual({ end: [], forget: [] });
  });

  test("one at the server of the login is left alone: it is the client's own", () => {
    const own = identity({ origin: "b", tokens: { b: tokenOn("b") } });
    expect(leftoversIn([session], [own], new Set(), "b").end).toEqual([]);
  });

  test("one whose token nobody knows is forgotten only when it stands in the way of a mint", () => {
    const without = identity();
    expect(leftoversIn([session], [without], new Set(), "b").forget).toEqual([]);
    expect(leftoversIn([session], [without], new Set([key]), "b").forget).toEqual(["device-1"]);
  });

  test("a device that another user uses here is never forgotten", () => {
    const other = identity({ userId: ben, tokens: { b: tokenOn("b") } });
    expect(leftoversIn([session], [identity(), other], new Set([key]), "b").forget).toEqual([]);
  });
});

test("every kind of action has a name of its own", () => {
  const all: Action[] = [
    { type: "settle", revocation: revocation() },
    { type: "record", unrecorded: { identity: identity(), token: "t" } },
    { type: "mint", identity: identity(), proof: "freshLogin" },
    { type: "endGhost", identity: identity() },
    { type: "verify", identity: identity() },
    { type: "sweep" },
  ];
  expect(new Set(all.map(nameOf)).size).toBe(all.length);
});
