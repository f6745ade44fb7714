// A 404 for what was made a moment ago: whose word counts, and how long it is waited for.

import { beforeEach, expect, test } from "vitest";
import type { Attended } from "../../../proxy/attendant.ts";
import { Made } from "../../../proxy/attendants/made.ts";
import type { HeldReply } from "../../../proxy/client.ts";

const id = "af87525677534c8af23739c31aa4b187";
const list = { itemId: id, nameKey: "/Playlists Evening" };
const limits = { keepMs: 60_000, pauseMs: 1, countLimit: 2 };

let nowMs = 0;
let ready: Set<string>;
let made: Made;

beforeEach(() => {
  nowMs = 0;
  ready = new Set(["a", "b"]);
  made = new Made({
    clock: { monotonicMs: () => nowMs },
    isReady: (replica) => ready.has(replica),
    limits,
  });
});

interface Case {
  readonly status?: number;
  readonly method?: string;
  readonly itemId?: string;
  readonly failed?: readonly string[];
  readonly refusedBy?: readonly string[];
  readonly deadlineMs?: number;
  readonly hasLeft?: boolean;
}

async function verdict(replica: string, one: Case = {}): Promise<"again" | "show" | undefined> {
  const { status = 404, method = "GET", itemId = id, failed = [], hasLeft = false } = one;
  const asked = {
    facts: { route: { methods: [method] }, params: { playlistId: itemId } },
    failed: new Set(failed),
    refusedBy: new Set(one.refusedBy),
    deadlineMs: one.deadlineMs ?? nowMs + 1000,
    hasLeft,
  } as unknown as Attended;
  const reply = { head: { status } } as HeldReply;
  const [, lists] = made.attendants;
  return await lists?.refused?.(asked, reply, replica);
}

test("what nobody made is not there", async () => {
  expect(await verdict("b")).toBeUndefined();
});

test("a server that did not make it is not believed once its maker is gone", async () => {
  made.note(list, "a");
  ready.delete("a");
  expect(await verdict("b")).toBe("again");
  expect(await verdict("b", { itemId: id.toUpperCase() })).toBe("again");
});

test("its maker's own word counts, and other answers are no matter of this", async () => {
  made.note(list, "a");
  expect(await verdict("a")).toBeUndefined();
  expect(await verdict("b", { status: 401 })).toBeUndefined();
  // Its maker has said so before: the next one's word is not doubted.
  expect(await verdict("b", { refusedBy: ["a"], method: "POST" })).toBeUndefined();
});

test("while its maker lives, a reader is sent there by the loop, and a change waits for the writer", async () => {
  made.note(list, "a");
  expect(await verdict("b")).toBeUndefined();
  expect(await verdict("b", { method: "POST" })).toBe("again");
});

test("a maker that failed this very request is as good as gone, whatever is known of it", async () => {
  made.note(list, "a");
  expect(await verdict("b", { failed: ["a"] })).toBe("again");
  // Asked at the end, for what the others had said before it failed.
  expect(await verdict("a", { failed: ["a"] })).toBe("again");
});

test("nobody waits beyond their time, nor for what is forgotten, deleted or old", async () => {
  ready.delete("a");
  made.note(list, "a");
  expect(await verdict("b", { deadlineMs: nowMs + limits.pauseMs })).toBeUndefined();
  expect(await verdict("b", { hasLeft: true })).toBeUndefined();
  made.forget([id]);
  expect(await verdict("b")).toBeUndefined();
  made.note(list, "a");
  nowMs += limits.keepMs;
  expect(await verdict("b")).toBeUndefined();
  made.note(list, "a");
  for (const digit of ["1", "2"]) made.note({ ...list, itemId: digit.repeat(32) }, "a");
  expect(await verdict("b")).toBeUndefined();
  expect(await verdict("b", { itemId: "2".repeat(32) })).toBe("again");
});

test("somebody who was just made logs in where they were made, in whatever letters, for a while", () => {
  const [people] = made.attendants;
  const bound = (Username: string) =>
    people?.bound?.({
      facts: { route: {} },
      bodyText: JSON.stringify({ Username, Pw: "x" }),
    } as unknown as Attended)?.replica;
  expect(bound("Ann")).toBeUndefined();
  made.note({ userName: "Ann" }, "a");
  expect([bound("ANN"), bound("bea"), bound(id)]).toEqual(["a", undefined, undefined]);
  nowMs += limits.keepMs;
  expect(bound("Ann")).toBeUndefined();
});

test("the last list of a name is known with its maker, until it is deleted, old, or known to be had", () => {
  const { nameKey } = list;
  const later = { ...list, itemId: "2".repeat(32) };
  expect(made.lastOf(nameKey)).toBeUndefined();
  made.note(list, "a");
  made.note(later, "b");
  expect(made.lastOf(nameKey)).toEqual({ itemId: later.itemId, replica: "b" });
  expect(made.lastOf("/Playlists Morning")).toBeUndefined();
  made.forget([later.itemId]);
  expect(made.lastOf(nameKey)).toBeUndefined();
  made.note(list, "a");
  nowMs += limits.keepMs;
  expect(made.lastOf(nameKey)).toBeUndefined();
  made.note(list, "a");
  made.forgetName(nameKey);
  expect(made.lastOf(nameKey)).toBeUndefined();
});
