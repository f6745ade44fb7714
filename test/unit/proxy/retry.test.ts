// What follows an attempt, as tables (design, rules 4, 5 and 10), and two laws over all combinations: what
// may not be done twice is never sent twice, and no refusal or wait goes on for ever.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type AttemptFacts, decideNext, type Next, type Outcome } from "../../../proxy/retry.ts";

const usual: AttemptFacts = {
  repeatable: "yes",
  answer: "doubt401",
  diesWithServer: false,
  isJournalled: false,
  tokenKnown: true,
  isSocket: false,
  replicaState: "ready",
  replicasLeft: 1,
  sameRefusals: 1,
  attempts: 1,
  attemptsLimit: 5,
};

const notConnected: Outcome = { kind: "notConnected", why: "ECONNREFUSED" };
const beforeReply: Outcome = { kind: "brokeBeforeReply", why: "ECONNRESET" };
const duringReply: Outcome = { kind: "brokeDuringReply", why: "ECONNRESET", sent: false };
const midAnswer: Outcome = { kind: "brokeDuringReply", why: "ECONNRESET", sent: true };
const timedOut: Outcome = { kind: "timedOut", why: "frozen" };
const refused = (status: number): Outcome => ({ kind: "refused", status });

type Row = readonly [
  promise: string,
  outcome: Outcome,
  facts: Partial<AttemptFacts>,
  next: Next["next"],
  why?: string,
];

const rows: readonly Row[] = [
  ["a completed answer ends it", { kind: "completed", status: 200 }, {}, "done"],
  ["a client that left ends it", { kind: "clientLeft" }, {}, "done"],
  ["a replica that saw nothing: another at once", notConnected, {}, "elsewhere", "ECONNREFUSED"],
  [
    "what may not be repeated may go on when nobody saw it",
    notConnected,
    { repeatable: "ifNotSent" },
    "elsewhere",
  ],
  ["with no other replica it is held", notConnected, { replicasLeft: 0 }, "hold", "ECONNREFUSED"],
  [
    "held without limit it is not",
    notConnected,
    { replicasLeft: 0, attempts: 5 },
    "cut",
    "ECONNREFUSED, after 5 attempts",
  ],
  ["nor sent round without limit", notConnected, { attempts: 5 }, "cut"],
  ["a repeatable request that broke goes elsewhere", beforeReply, {}, "elsewhere"],
  ["or is held when there is no other", beforeReply, { replicasLeft: 0 }, "hold"],
  [
    "one whose fate is unknown is cut, never sent twice",
    beforeReply,
    { repeatable: "ifNotSent" },
    "cut",
    "ECONNRESET; it may have been carried out and cannot be repeated",
  ],
  ["so is one that is meant for one server", beforeReply, { repeatable: "no" }, "cut"],
  [
    "what lives in memory only died with its server and may be sent again",
    beforeReply,
    { repeatable: "no", diesWithServer: true, replicaState: "dead" },
    "elsewhere",
  ],
  ...(["frozen", "ready", "starting", "unknown", "unfit", undefined] as const).map(
    (replicaState): Row => [
      `but not while its server is ${replicaState}, which may yet carry it out`,
      beforeReply,
      { repeatable: "no", diesWithServer: true, replicaState },
      "cut",
    ],
  ),
  ["a repeatable request to a frozen replica goes elsewhere", timedOut, {}, "elsewhere", "frozen"],
  [
    "another stays with the frozen one, which carries it out when it thaws",
    timedOut,
    { repeatable: "ifNotSent" },
    "cut",
    "frozen; it may have been carried out and cannot be repeated",
  ],
  [
    "also when it touches memory only",
    timedOut,
    { repeatable: "no", diesWithServer: true, replicaState: "frozen" },
    "cut",
  ],
  [
    "an answer of which the client has seen some is cut, not begun anew",
    midAnswer,
    {},
    "cut",
    "ECONNRESET, in the middle of the answer",
  ],
  [
    "an answer of which the client has seen nothing is asked for again",
    duringReply,
    {},
    "elsewhere",
  ],
  [
    "unless doing it twice would harm",
    duringReply,
    { repeatable: "ifNotSent" },
    "cut",
    "ECONNRESET; it was carried out and cannot be repeated",
  ],
  [
    "though not what died with its server",
    duringReply,
    { repeatable: "ifNotSent", diesWithServer: true, replicaState: "dead" },
    "elsewhere",
  ],

  [
    "a change that the journal knows is carried out elsewhere: what the first one did is overwritten",
    beforeReply,
    { repeatable: "ifNotSent", isJournalled: true },
    "elsewhere",
  ],
  [
    "so it is when its server froze",
    timedOut,
    { repeatable: "ifNotSent", isJournalled: true },
    "elsewhere",
  ],
  [
    "but it is not sent to the same one again, which would count it twice",
    beforeReply,
    { repeatable: "ifNotSent", isJournalled: true, replicasLeft: 0 },
    "cut",
  ],
  [
    "a 500 for it is shown: a server that answers has decided",
    refused(500),
    { repeatable: "ifNotSent", isJournalled: true },
    "show",
  ],

  ["a 401 for a known token is one replica's opinion", refused(401), {}, "elsewhere"],
  [
    "also for what may not be repeated: a refusal has no effect",
    refused(401),
    { repeatable: "ifNotSent" },
    "elsewhere",
  ],
  ["and on a route whose 404 is doubted", refused(401), { answer: "doubt404" }, "elsewhere"],
  [
    "it is shown when every ready replica agrees",
    refused(401),
    { replicasLeft: 0 },
    "show",
    "every ready replica refuses the token",
  ],
  [
    "a wrong password is a 401 at once and counts once",
    refused(401),
    { answer: "final" },
    "show",
    "this route's answers are final",
  ],
  [
    "a 401 without a current token is shown",
    refused(401),
    { tokenKnown: false },
    "show",
    "no token that is current was shown",
  ],
  ["a 403 is about rights", refused(403), {}, "show", "403 is about rights"],
  ["a 403 on a socket is a token not known", refused(403), { isSocket: true }, "elsewhere"],
  [
    "and shown when all agree",
    refused(403),
    { isSocket: true, replicasLeft: 0 },
    "show",
    "every ready replica refuses the token",
  ],
  [
    "and shown for a token that is not current",
    refused(403),
    { isSocket: true, tokenKnown: false },
    "show",
  ],
  [
    "a 404 of an item is shown only when all said so",
    refused(404),
    { answer: "doubt404" },
    "elsewhere",
  ],
  [
    "and then it is the answer",
    refused(404),
    { answer: "doubt404", replicasLeft: 0 },
    "show",
    "no ready replica has it",
  ],
  ["a 404 of another route is its answer", refused(404), {}, "show"],
  ["a 404 of QuickConnect is final", refused(404), { answer: "final" }, "show"],
  ["a 503 of a starting server goes elsewhere", refused(503), {}, "elsewhere"],
  [
    "also for what may not be repeated: nothing was carried out",
    refused(503),
    { repeatable: "ifNotSent" },
    "elsewhere",
  ],
  ["and is waited out when there is no other", refused(503), { replicasLeft: 0 }, "hold"],
  ["within the attempts' limit", refused(503), { replicasLeft: 0, attempts: 5 }, "cut"],
  ["a 500 is tried once elsewhere", refused(500), {}, "elsewhere"],
  [
    "the same 500 twice is the answer",
    refused(500),
    { sameRefusals: 2 },
    "show",
    "two replicas answered 500",
  ],
  [
    "a 500 of what may not be repeated is the answer",
    refused(500),
    { repeatable: "ifNotSent" },
    "show",
    "500, and not repeatable",
  ],
  [
    "a 500 with no other replica is the answer",
    refused(500),
    { replicasLeft: 0 },
    "show",
    "500, and no other replica is ready",
  ],
];

describe("what follows an attempt", () => {
  const cases = rows.map(([promise, outcome, facts, next, why]) => ({
    promise,
    outcome,
    facts,
    next,
    why,
  }));
  test.each(cases)("$promise", ({ outcome, facts, next, why }) => {
    const decided = decideNext(outcome, { ...usual, ...facts });
    expect(decided.next).toBe(next);
    if (decided.next === "done") return;
    expect(decided.why).not.toBe("");
    if (why !== undefined) expect(decided.why).toBe(why);
  });
});

const why = fc.constantFrom("ECONNRESET", "frozen");
const anyOutcome: fc.Arbitrary<Outcome> = fc.oneof(
  fc.record({ kind: fc.constant("notConnected" as const), why }),
  fc.record({ kind: fc.constant("brokeBeforeReply" as const), why }),
  fc.record({ kind: fc.constant("brokeDuringReply" as const), why, sent: fc.boolean() }),
  fc.record({ kind: fc.constant("timedOut" as const), why }),
  fc.record({
    kind: fc.constant("refused" as const),
    status: fc.constantFrom(401, 403, 404, 500, 503),
  }),
);
const anyFacts: fc.Arbitrary<AttemptFacts> = fc.record({
  repeatable: fc.constantFrom("yes" as const, "ifNotSent" as const, "no" as const),
  answer: fc.constantFrom("final" as const, "doubt401" as const, "doubt404" as const),
  diesWithServer: fc.boolean(),
  isJournalled: fc.boolean(),
  tokenKnown: fc.boolean(),
  isSocket: fc.boolean(),
  replicaState: fc.constantFrom("ready" as const, "frozen" as const, "dead" as const, undefined),
  replicasLeft: fc.nat(3),
  sameRefusals: fc.integer({ min: 1, max: 4 }),
  attempts: fc.integer({ min: 1, max: 6 }),
  attemptsLimit: fc.constant(5),
});

test("whatever happens, what may have been carried out is not sent again unless that is harmless", () => {
  fc.assert(
    fc.property(anyOutcome, anyFacts, (outcome, facts) => {
      const mayBeDone =
        outcome.kind === "brokeBeforeReply" ||
        outcome.kind === "brokeDuringReply" ||
        outcome.kind === "timedOut" ||
        (outcome.kind === "refused" && outcome.status === 500);
      const harmless =
        facts.repeatable === "yes" ||
        (facts.diesWithServer && facts.replicaState === "dead") ||
        (facts.isJournalled && facts.replicasLeft > 0 && outcome.kind !== "refused");
      const { next } = decideNext(outcome, facts);
      if (mayBeDone && !harmless) expect(["cut", "show"]).toContain(next);
    }),
    { numRuns: 3000 },
  );
});

test("whatever happens, it goes elsewhere only where there is another, shows only what it has, and ends", () => {
  fc.assert(
    fc.property(anyOutcome, anyFacts, (outcome, facts) => {
      const { next } = decideNext(outcome, facts);
      if (next === "elsewhere") expect(facts.replicasLeft).toBeGreaterThan(0);
      if (next === "hold") expect(facts.attempts).toBeLessThan(facts.attemptsLimit);
      if (next === "show") expect(outcome.kind).toBe("refused");
      expect(next).not.toBe("done");
      // What the client has seen a part of is never followed by anything but the end.
      if (outcome.kind === "brokeDuringReply" && outcome.sent) expect(next).toBe("cut");
    }),
    { numRuns: 3000 },
  );
});
