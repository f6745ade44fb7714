// What `jellybloom status` shows: within 80 columns whatever the names are, and everything that is wrong in words.

import { expect, test } from "vitest";
import { statusText } from "../../../cli/status.ts";
import { drainNoteId, drainOrderValue } from "../../../core/cluster/condition.ts";
import { newPlay, playText } from "../../../core/cluster/plays.ts";
import type { ReplicaObserved, ReplicaState } from "../../../core/cluster/replica.ts";
import type { Note, NoteKind } from "../../../core/store/store.ts";
import { readinessOf, type StatusFacts, statusOf } from "../../../proxy/status.ts";

function replicas(states: Readonly<Record<string, ReplicaState>>) {
  return new Map(
    Object.entries(states).map(([name, state]): [string, ReplicaObserved] => [
      name,
      {
        config: { name, origin: `http://${name}.test:8096`, basePath: "" },
        ...{ state, reason: "said by the test", sinceMs: 0 },
      },
    ]),
  );
}

const note = (kind: NoteKind, id: string, value: string): Note => ({
  ...{ kind, id, value, replica: "", expiresAtMs: 0 },
});

const home = (userId: string, replica: string) => ({
  ...{ userId, replica, epoch: { number: 1, owner: "" }, movedAtMs: 0 },
});

function facts(change: Partial<StatusFacts> = {}): StatusFacts {
  return {
    view: { replicas: replicas({ a: "ready", b: "ready" }), version: 1 },
    storeAvailable: true,
    lease: { epoch: { number: 12, owner: "x" }, replica: "a", gateUrl: "" },
    homes: [home("u", "a"), home("v", "a"), home("w", "b")],
    plays: [
      note("play", "p1", playText({ ...newPlay("p1", 0), owner: "a", encodesAt: "a" })),
      note("play", "p2", playText({ ...newPlay("p2", 0), owner: "b" })),
      note("play", "p3", playText({ ...newPlay("p3", 0), owner: "b", hasEnded: true })),
      note("play", "p4", "{"),
    ],
    notes: new Map([["a", note("replica", "a", '{"encodes":"ok"}')]]),
    seats: [{ replica: "a" }, { replica: "a" }],
    ...{ doors: 2, nowMs: 125_000, wallMs: 125_000 },
    ...change,
  };
}

test("a cluster that is well, on a screen", () => {
  expect(statusText(statusOf(facts()))).toBe(
    [
      "REPLICA  STATE  FOR  HOMES  PLAYS  ENCODED  SOCKETS  ENCODER",
      "a *      ready   2m      2      1        1        2  ok",
      "b        ready   2m      1      1        0        0  unknown",
      "",
      "leader: a (epoch 12)   doors: 2   store: reachable",
      "",
      "Nothing is wrong.",
      "",
    ].join("\n"),
  );
});

test("no line is longer than 80 characters, whatever there is to be said", () => {
  const long = "n".repeat(63);
  const view = {
    replicas: replicas({ [long]: "dead", [`${long.slice(1)}x`]: "frozen" }),
    version: 1,
  };
  const lease = { epoch: { number: 123_456, owner: "x" }, replica: long, gateUrl: "" };
  const text = statusText(statusOf(facts({ view, storeAvailable: false, lease })));
  expect(Math.max(...text.split("\n").map((line) => line.length))).toBeLessThanOrEqual(80);
});

test.each<[string, Partial<StatusFacts>, string]>([
  [
    "a dead replica",
    { view: { replicas: replicas({ a: "ready", b: "dead" }), version: 1 } },
    "b is dead: said by the test; only a is left: if it goes, people notice",
  ],
  [
    "all are dead",
    { view: { replicas: replicas({ a: "dead" }), version: 1 } },
    "a is dead: said by the test; no replica takes anybody",
  ],
  [
    "the store is away",
    { storeAvailable: false, lease: undefined },
    "the store cannot be reached: people go on, and every change of the cluster waits",
  ],
  [
    "nobody leads",
    { lease: { epoch: { number: 3, owner: "x" }, replica: "", gateUrl: "" } },
    "nobody leads: scheduled tasks and changes to the servers wait",
  ],
  [
    "one replica that leads nobody",
    { view: { replicas: replicas({ a: "ready" }), version: 1 }, lease: undefined },
    "",
  ],
  [
    "an encoder that is slow, and one that fails",
    {
      notes: new Map([
        ["a", note("replica", "a", '{"encodes":"slow"}')],
        ["b", note("replica", "b", '{"encodes":"failing"}')],
      ]),
    },
    "a encodes slower than real time: it takes no new plays; b cannot encode: it takes no new plays",
  ],
  [
    "a drain",
    {
      notes: new Map([
        [
          drainNoteId("a"),
          note(
            "replica",
            drainNoteId("a"),
            drainOrderValue({ sinceMs: 124_000, limitMs: 10_000, untilRestart: false }),
          ),
        ],
      ]),
    },
    "a is being drained; only b is left: if it goes, people notice",
  ],
])("%s is said", (_name, change, sentences) => {
  const { wrong, ok } = statusOf(facts(change));
  expect(wrong.join("; ")).toBe(sentences);
  expect(ok).toBe(sentences === "");
});

test("a server that has not caught up is said to get nobody new", () => {
  const view = { replicas: replicas({ a: "ready", b: "ready" }), version: 1 };
  const b = view.replicas.get("b");
  if (b === undefined) throw new Error("b is there");
  view.replicas.set("b", { ...b, behind: "server" });
  expect(statusOf(facts({ view })).wrong).toEqual([
    "b was away and has not caught up yet: nobody new is sent there",
  ]);
  expect(readinessOf(view, true)).toEqual({
    reason: null,
    notes: ["replica b was away and has not caught up yet: nobody new is sent there"],
  });
});

test("a door that has nobody to send people to is not ready, and says why", () => {
  const view = { replicas: replicas({ a: "dead", b: "unfit" }), version: 1 };
  expect(readinessOf(view, false)).toEqual({
    reason: "no replica is ready",
    notes: [
      "replica a is dead: said by the test",
      "replica b is unfit: said by the test",
      "the store cannot be reached: viewers go on from memory (failsafe)",
    ],
  });
});
