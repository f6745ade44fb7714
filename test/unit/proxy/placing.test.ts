// What a request that must wait for one server waits for: who leads may be another though no server's state changes.

import { expect, test } from "vitest";
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
