/** The rules of the journal as tables: what an effect says, which calls make it so, what the feed raises, what is redone. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { UserDataFacts } from "../../../core/cluster/user-data.ts";
import { feedVerdict } from "../../../sidecar/journal/feed.ts";
import { followerLimits } from "../../../sidecar/journal/follower.ts";
import { Lanes, type Work } from "../../../sidecar/journal/lanes.ts";
import { FileLedger, type Ledger, MemoryLedger } from "../../../sidecar/journal/ledger.ts";
import {
  isSuperseded,
  mayComeLate,
  type OpenIntent,
  redoStep,
} from "../../../sidecar/journal/open-intents.ts";
import { reconciled } from "../../../sidecar/journal/reconcile.ts";
import {
  differing,
  effectValues,
  reportedValues,
  type ServerUserData,
  sameDate,
  writesFor,
} from "../../../sidecar/journal/user-data.ts";

const user = "a".repeat(32);
const item = "b".repeat(32);
const fresh: ServerUserData = {
  position: 0,
  playCount: 0,
  played: false,
  lastPlayedDate: null,
  favourite: false,
  likes: null,
  rating: null,
  isFolder: false,
};
const facts = (part: Partial<UserDataFacts>): UserDataFacts => ({
  fields: ["favourite"],
  values: {},
  cause: "favourite",
  ...part,
});

describe("an effect says", () => {
  test("only the fields that its intent can change", () => {
    const now = { ...fresh, favourite: true, position: 700, playCount: 3 };
    expect(effectValues(facts({ values: { favourite: true } }), now, false)).toEqual({
      favourite: true,
    });
  });

  test("the intent's own value, whatever an older effect made of the server meanwhile", () => {
    const now = { ...fresh, favourite: false };
    expect(effectValues(facts({ values: { favourite: true } }), now, true)).toEqual({
      favourite: true,
    });
  });

  test("what only the server knows, as the server says it", () => {
    const start = facts({ cause: "start", fields: ["playCount", "lastPlayedDate"], values: {} });
    const now = { ...fresh, playCount: 4, lastPlayedDate: "2026-11-21T00:16:06.4349523Z" };
    expect(effectValues(start, now, false)).toEqual({
      playCount: 4,
      lastPlayedDate: "2026-11-21T00:16:06.4349523Z",
    });
  });

  const report = facts({
    cause: "progress",
    fields: ["position", "played"],
    values: { position: 5000 },
  });
  test.each([
    ["the position that the server kept", { position: 5000 }, false, { position: 5000 }],
    ["none where the server keeps none, near the beginning", {}, false, { position: 0 }],
    ["played where that report ended it", { played: true }, false, { position: 0, played: true }],
    [
      "nothing of «played» where the report left it alone: it may have been taken back elsewhere",
      { position: 5000, played: true },
      false,
      { position: 5000 },
    ],
    ["the reported position, not a later one's", { position: 9000 }, false, { position: 5000 }],
    ["the reported position when we wrote there meanwhile", {}, true, { position: 5000 }],
  ])("%s", (_what, now, isRaced, expected) => {
    expect(effectValues(report, { ...fresh, ...now }, isRaced)).toEqual(expected);
  });
});

describe("a server is brought to it", () => {
  const post = (body: unknown) => ({
    method: "POST",
    path: `/UserItems/${item}/UserData?userId=${user}`,
    body,
  });
  test("by one write of the fields that are said", () => {
    expect(writesFor(user, item, { favourite: true, position: 7 }, fresh)).toEqual([
      post({ IsFavorite: true, PlaybackPositionTicks: 7 }),
    ]);
  });

  test("by taking the mark away where a date is to be cleared, and saying again what stays", () => {
    const now = { ...fresh, played: true, playCount: 2, lastPlayedDate: "2026-01-01T00:00:00Z" };
    const clearing = { method: "DELETE", path: `/UserPlayedItems/${item}?userId=${user}` };
    const unplayed = { played: false, playCount: 0, position: 0, lastPlayedDate: null };
    expect(writesFor(user, item, unplayed, now)).toEqual([clearing]);
    expect(writesFor(user, item, { lastPlayedDate: null }, now)).toEqual([
      clearing,
      post({ PlaybackPositionTicks: 0, PlayCount: 2, Played: true }),
    ]);
  });

  test("by taking the rating away where a like is to be cleared", () => {
    const now = { ...fresh, likes: true, rating: 10 };
    expect(writesFor(user, item, { likes: null, rating: null }, now)).toEqual([
      { method: "DELETE", path: `/UserItems/${item}/Rating?userId=${user}` },
    ]);
  });

  test("by nothing where it has it already, however dates are written", () => {
    const said = { lastPlayedDate: "2026-01-20T10:00:00Z", favourite: false };
    const now = { ...fresh, lastPlayedDate: "2026-01-20T10:00:00.0000000Z" };
    expect(differing(said, now)).toEqual([]);
    expect(sameDate("2026-01-20T10:00:00.0000001Z", "2026-01-20T10:00:00Z")).toBe(false);
    expect(sameDate("2026-01-20T12:00:00.5+02:00", "2026-01-20T10:00:00.5000000Z")).toBe(true);
  });
});

describe("a report that a dead server had is made again as", () => {
  const minutes10 = 6_000_000_000;
  test.each([
    ["a start counts", "start", undefined, { playCount: 3 }],
    ["a position in the middle is kept", "progress", 3_000_000_000, { position: 3_000_000_000 }],
    ["one near the beginning is none", "progress", 60_000_000, { position: 0 }],
    ["one near the end is played", "stop", 5_900_000_000, { position: 0, played: true }],
    ["a stop without one is played", "stop", undefined, { playCount: 3, played: true }],
  ] as const)("%s", (_what, cause, position, expected) => {
    const values = position === undefined ? {} : { position };
    const said = facts({ cause, fields: ["position"], values });
    const made = reportedValues(said, { ...fresh, playCount: 2 }, minutes10, 0);
    expect(made).toMatchObject(expected);
  });
});

describe("what the feed tells of", () => {
  const limits = { ghostMs: 10_000, idleStopMs: 1_200_000 };
  const sight = {
    known: {},
    read: undefined,
    now: fresh,
    isAlone: false,
    quietMs: Number.POSITIVE_INFINITY,
    healthyForMs: 60_000,
    limits,
  };
  test("raises nothing when it is what the journal said: an echo", () => {
    const now = { ...fresh, favourite: true };
    expect(feedVerdict({ ...sight, known: { favourite: true }, read: now, now })).toEqual({
      verdict: "nothing",
    });
  });

  test("becomes an effect when nobody asked for it at a door", () => {
    const now = { ...fresh, favourite: true };
    const expected = { verdict: "publish", fields: ["favourite"] };
    expect(feedVerdict({ ...sight, known: { favourite: false }, read: fresh, now })).toEqual(
      expected,
    );
    expect(feedVerdict({ ...sight, now })).toEqual(expected);
  });

  test("is put right when a server that was away did something late: a ghost", () => {
    const now = { ...fresh, favourite: true };
    const known = { favourite: false };
    const late = { ...sight, known, read: fresh, now };
    expect(feedVerdict({ ...late, healthyForMs: 2000 })).toEqual({ verdict: "putRight" });
    expect(feedVerdict({ ...late, quietMs: 2000 })).toEqual({ verdict: "putRight" });
  });

  test("is put right when the server gave up a playback by itself: an idle stop", () => {
    const now = { ...fresh, position: 9_000 };
    const left = { ...sight, known: { position: 5_000 }, read: now, now, quietMs: 600_000 };
    expect(feedVerdict(left)).toEqual({ verdict: "putRight" });
    // Long after, or with a new date, somebody watched it at the server itself.
    expect(feedVerdict({ ...left, quietMs: 3_600_000 }).verdict).toBe("publish");
  });

  test("is not a season's mark because one of its episodes was marked", () => {
    const now = { ...fresh, isFolder: true, played: true, playCount: 1 };
    expect(feedVerdict({ ...sight, read: { ...fresh, isFolder: true }, now })).toEqual({
      verdict: "nothing",
    });
  });
});

describe("two servers without a common past", () => {
  const older = "2026-01-01T00:00:00.0000000Z";
  const newer = "2026-01-02T00:00:00.0000000Z";
  test("agree on the newer playing, all of it together", () => {
    const own = { ...fresh, position: 5, playCount: 1, lastPlayedDate: older };
    const other = { ...fresh, played: true, playCount: 2, lastPlayedDate: newer };
    const play = { position: 0, played: true, playCount: 2, lastPlayedDate: newer };
    expect(reconciled(own, other)).toEqual({ take: play, give: {} });
    expect(reconciled(other, own)).toEqual({ take: {}, give: play });
  });

  test("do not bring back a favourite that was taken away", () => {
    const own = { ...fresh, favourite: true };
    expect(reconciled(own, fresh)).toEqual({ take: { favourite: false }, give: {} });
  });

  test("that are equal give and take nothing", () => {
    expect(reconciled({ ...fresh, played: true }, { ...fresh, played: true })).toEqual({
      take: {},
      give: {},
    });
  });
});

describe("an open intent", () => {
  const open = (part: Partial<OpenIntent> & { readonly number?: number }): OpenIntent => ({
    placed: { number: part.number ?? 5, atMs: 0, entry: { id: "i" } as never },
    handler: {} as never,
    lane: "l",
    fields: ["favourite"],
    seenAtMs: 0,
    outcome: undefined,
    outcomeAtMs: 0,
    isInHand: false,
    publishedAtMs: undefined,
    isAwaited: false,
    isDeferred: false,
    isRedone: false,
    nextRedoAtMs: 0,
    redoTries: 0,
    ...part,
  });
  const ended = (replica: string, status: number) => ({
    outcome: { type: "outcome", id: "o", of: "i", replica, status } as const,
    outcomeAtMs: 0,
  });

  test("needs no effect when something newer says all of its fields", () => {
    const both = open({ fields: ["favourite", "position"] });
    const known = (field: string): number => (field === "favourite" ? 9 : 0);
    expect(isSuperseded(open({}), known, [])).toBe(true);
    expect(isSuperseded(both, known, [])).toBe(false);
    const newer = open({ number: 7, fields: ["position"], ...ended("a", 204) });
    expect(isSuperseded(both, known, [newer])).toBe(true);
    expect(isSuperseded(both, known, [{ ...newer, outcome: undefined }])).toBe(false);
    expect(isSuperseded(open({ fields: [] }), () => 9, [newer])).toBe(false);
  });

  test.each([
    ["while the request may be under way", open({}), 1000, false, "wait"],
    ["when its door told nothing", open({}), 4000, false, "redo"],
    ["where twice would show, only much later", open({ fields: [] }), 4000, false, "wait"],
    ["when no server answered", open(ended("", 0)), 500, false, "redo"],
    ["while its server is there", open(ended("b", 204)), 3000, false, "wait"],
    ["when its server is gone", open(ended("b", 204)), 3000, true, "redo"],
    ["when its sidecar says nothing", open(ended("b", 204)), 9000, false, "redo"],
    ["never what its own server did", open(ended("a", 204)), 9000, true, "wait"],
    ["not while it is in hand", open({ ...ended("", 0), isInHand: true }), 5000, false, "wait"],
    ["not for ever", open(ended("", 0)), 3_600_000, false, "give up"],
  ] as const)("is done again by the leader: %s", (_when, one, nowMs, isGone, expected) => {
    expect(redoStep(one, nowMs, followerLimits, "a", () => isGone)).toBe(expected);
  });

  test("may be carried out late where a server was asked and no answer of it counted", () => {
    const done = ended("a", 204);
    const late = [
      ["its only answer counted", open(done), false],
      ["nobody told how it ended", open({}), true],
      ["no server answered", open(ended("", 0)), true],
      ["another server was asked, too", open({ outcome: { ...done.outcome, asked: ["b"] } }), true],
      ["it was done again", open({ ...done, isRedone: true }), true],
    ] as const;
    for (const [when, one, expected] of late)
      expect([when, mayComeLate(one)]).toEqual([when, expected]);
  });
});

describe("lanes", () => {
  const lanes = () =>
    new Lanes({
      parallelLimit: 4,
      retryMinMs: 1,
      retryMaxMs: 5,
      onFault: (error) => faults.push(error),
    });
  const faults: unknown[] = [];

  test("keep the order within one, and one that waits keeps no other waiting", async () => {
    const done: string[] = [];
    const all = lanes();
    const work =
      (name: string, failures = 0): Work =>
      async (tries) => {
        if (tries < failures) return { again: "not yet", afterMs: 20 };
        done.push(name);
        return "done";
      };
    all.push("slow", work("slow 1", 2));
    all.push("slow", work("slow 2"));
    all.push("quick", work("quick"));
    await all.below(0, AbortSignal.timeout(2000));
    expect(done).toEqual(["quick", "slow 1", "slow 2"]);
  });

  test("begin nothing while they are paused, and go on with all of it", async () => {
    let begun = 0;
    const all = lanes();
    all.pause();
    for (let lane = 0; lane < 9; lane++) {
      all.push(`${lane}`, async () => {
        begun++;
        return "done";
      });
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(begun).toBe(0);
    all.resume();
    await all.below(0, AbortSignal.timeout(2000));
    expect(begun).toBe(9);
  });

  test("go on after a work that threw", async () => {
    const all = lanes();
    let isDone = false;
    all.push("one", async () => {
      throw new Error("ours");
    });
    all.push("one", async () => {
      isDone = true;
      return "done";
    });
    await all.below(0, AbortSignal.timeout(2000));
    expect([isDone, faults.length]).toEqual([true, 1]);
  });
});

describe("a ledger", () => {
  const entry = (number: number) => ({ number, atMs: 1, value: `v${number}` });
  const known = (number: number) => ({
    ...{ kind: "userData", userId: user, itemId: item },
    fields: { favourite: { number, value: true } },
  });

  test("on disk is found again after a kill: cursor, done, known, aside, words", () => {
    const folder = mkdtempSync(join(tmpdir(), "ledger-"));
    try {
      const before = new FileLedger(folder, "a");
      before.setCursor({ generation: "g", number: 10 });
      before.noteDone(12);
      before.setKnown("lane", known(7));
      before.putAside({ entry: entry(5), itemId: item, sinceMs: 3 });
      before.setWord("order", "o");
      // Not closed: what a kill leaves behind.
      const after = new FileLedger(folder, "a");
      expect(after.cursor()).toEqual({ generation: "g", number: 10 });
      expect([10, 11, 12].map((number) => after.isDone(number))).toEqual([true, false, true]);
      expect(after.known("lane")).toEqual(known(7));
      expect(after.asides()).toEqual([{ entry: entry(5), itemId: item, sinceMs: 3 }]);
      expect(after.word("order")).toBe("o");
      after.setCursor({ generation: "g", number: 12 });
      after.restart(undefined);
      expect([after.cursor(), after.isDone(12), after.asides()]).toEqual([undefined, false, []]);
      after.close();
      before.close();
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test.each(["memory", "file"])("is bounded (%s): the oldest goes", (where) => {
    const folder = mkdtempSync(join(tmpdir(), "ledger-"));
    const limits = { lanesLimit: 20, asidesLimit: 2 };
    const ledger: Ledger =
      where === "memory" ? new MemoryLedger(limits) : new FileLedger(folder, "a", limits);
    try {
      for (let lane = 1; lane <= 30; lane++) ledger.setKnown(`${lane}`, known(lane));
      expect(ledger.newest(100).length).toBeLessThanOrEqual(20);
      expect(ledger.newest(1)[0]?.[0]).toBe("30");
      expect(ledger.known("1")).toBeUndefined();
      expect(ledger.putAside({ entry: entry(1), itemId: item, sinceMs: 0 })).toBeUndefined();
      ledger.putAside({ entry: entry(2), itemId: item, sinceMs: 0 });
      const dropped = ledger.putAside({ entry: entry(3), itemId: item, sinceMs: 0 });
      expect(dropped?.entry.number).toBe(1);
      expect(ledger.asides().map((one) => one.entry.number)).toEqual([2, 3]);
      expect(ledger.oldestAside()).toBe(2);
      for (const { entry: waiting } of ledger.asides()) ledger.takeAside(waiting.number);
      expect(ledger.oldestAside()).toBeUndefined();
    } finally {
      ledger.close();
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
