// Changes with one writer, while who leads changes: where a list may be made, what is remembered of it, and that the
// loop's three questions (before, again, bound) agree. Who leads and what each server answers are set by hand.

import { beforeEach, expect, test } from "vitest";
import type { Identity } from "../../../core/cluster/identity.ts";
import type { JellyfinClient } from "../../../core/jellyfin/client.ts";
import type { Lease, Note } from "../../../core/store/store.ts";
import type { Attendant, Attended } from "../../../proxy/attendant.ts";
import { createLists } from "../../../proxy/attendants/lists.ts";
import { Made, madeLimits } from "../../../proxy/attendants/made.ts";
import { readFacts, readHeaderFacts } from "../../../proxy/facts.ts";

const id = "af87525677534c8af23739c31aa4b187";
const admin = {
  ...{ key: "admin", kind: "user", userId: "1".repeat(32), generation: 1 },
  tokens: { a: "sealed", b: "sealed" },
} as unknown as Identity;

let nowMs: number;
let leader: string;
let leaseNumber: number;
/** Under which lease each server says that it has what others were told of lists. */
let listsLeases: Map<string, { readonly value: string }>;
let onLease: (lease: Lease) => void;
let ready: Set<string>;
/** Ids of the lists that each server has. */
let has: Record<string, Set<string>>;
let deleted: string[];
const unheard = (): void => undefined;
let made: Made;
let lists: Attendant;

beforeEach(() => {
  nowMs = 0;
  leader = "a";
  leaseNumber = 1;
  listsLeases = new Map([["a:lists", { value: "1" }]]);
  onLease = unheard;
  ready = new Set(["a", "b"]);
  has = { a: new Set(), b: new Set() };
  deleted = [];
  const clock = { monotonicMs: () => nowMs };
  const isReady = (replica: string) => ready.has(replica);
  made = new Made({ clock, isReady, limits: madeLimits });
  lists = createLists({
    memory: {
      get lease() {
        return leaseNow();
      },
      get highestLeaseNumber() {
        return leaseNumber;
      },
      identities: new Map(),
      notes: () => listsLeases as unknown as ReadonlyMap<string, Note>,
      onLease: (listener) => {
        if (onLease === unheard) onLease = listener;
        else {
          // Whoever waits for the next leader looks again, some time later.
          nowMs += 100;
          setImmediate(() => listener(leaseNow()));
        }
        return () => undefined;
      },
      openToken: () => "token",
    },
    clock,
    clientOf: (replica) => clientAt(replica),
    isReady,
    isCluster: () => true,
    urgent: () => undefined,
    homeOf: () => "a",
    readAt: () => undefined,
    noteDeleted: (ids) => deleted.push(...ids),
    made,
  });
});

function leaseNow(): Lease {
  return { replica: leader, gateUrl: "", epoch: { number: leaseNumber, owner: "" } };
}

/** Leadership changes; `hasLists`: and the new leader's server has all lists at once. */
function elect(replica: string, { hasLists = true } = {}): void {
  leader = replica;
  leaseNumber++;
  if (hasLists) listsLeases.set(`${replica}:lists`, { value: String(leaseNumber) });
  onLease(leaseNow());
}

function clientAt(replica: string): JellyfinClient {
  return {
    keyHash: "known",
    callWithKey: async (_method: string, path: string) => {
      // Each question takes its time, so that a wait for an answer ends.
      nowMs += 100;
      const wanted = new URLSearchParams(path.split("?")[1]).get("ids") ?? "";
      const Items = has[replica]?.has(wanted) === true ? [{ Id: wanted }] : [];
      return { outcome: "answered", status: 200, text: JSON.stringify({ Items }) };
    },
  } as unknown as JellyfinClient;
}

interface Asked extends Attended {
  readonly failed: Set<string>;
}

function asked(method: string, target: string, body?: unknown): Asked {
  const origin = { address: "127.0.0.1", scheme: "http", host: "" } as const;
  const bodyText = body === undefined ? "" : JSON.stringify(body);
  return {
    facts: readFacts(method, target, readHeaderFacts({}), origin, []),
    identity: admin,
    rawHeaders: [],
    body: Buffer.from(bodyText),
    bodyText,
    deadlineMs: nowMs + 1000,
    hasLeft: false,
    tried: new Set(),
    failed: new Set(),
    refusedBy: new Set(),
    refusals: new Map(),
  };
}

const creation = () => asked("POST", "/Playlists", { Name: "Evening", Ids: [] });

function replyOf(status: number, told: unknown) {
  const head = {
    ...{ status, statusText: "", headers: [], contentLength: undefined, hasBody: true },
  };
  return { head, body: Buffer.from(JSON.stringify(told)) };
}

/** A list of the name that the other requests ask for, made at that server. */
async function makeAt(replica: string, status = 200, listId = id): Promise<void> {
  const request = creation();
  await lists.before?.(request);
  await lists.after?.(request, replyOf(status, { Id: listId }), replica);
  lists.ended?.(request, status, replica);
  has[replica]?.add(listId);
}

test("a list is made by whoever leads, and by nobody else", async () => {
  const request = creation();
  expect(await lists.before?.(request)).toBeUndefined();
  expect(lists.bound?.(request)).toEqual({ replica: "a", kind: "leader", isOnly: true });
  leader = "";
  expect(lists.bound?.(request)).toEqual({ replica: "", kind: "leader", isOnly: true });
});

test("an edit goes to the leader while there is one, and may be done elsewhere", () => {
  const edit = asked("POST", `/Items/${id}`, {});
  expect(lists.bound?.(edit)).toEqual({ replica: "a", kind: "leader" });
  leader = "";
  expect(lists.bound?.(edit)).toBeUndefined();
});

test("who leads since the request was looked at makes no list before it is known to have the last of that name", async () => {
  await makeAt("a");
  const request = creation();
  await lists.before?.(request);
  elect("b");
  expect(lists.bound?.(request)?.replica).toBe("");
  // It does not have it within the request's time.
  await lists.again?.(request);
  expect(lists.bound?.(request)?.replica).toBe("");
  has.b?.add(id);
  await lists.again?.(request);
  expect(lists.bound?.(request)?.replica).toBe("b");
  lists.ended?.(request, 200, "b");
});

const append = () => asked("POST", `/Playlists/${id}/Items?ids=${id}`);

test("a list is changed by a new leader once its server has what the last one was told, or has had time enough", async () => {
  elect("b", { hasLists: false });
  expect((await lists.before?.(append()))?.head.status).toBe(503);
  // Others' affairs are not kept waiting by it.
  expect(await lists.before?.(asked("POST", `/Items/${id}`, {}))).toBeUndefined();
  // What an older lease said counts no more.
  listsLeases.set("b:lists", { value: "1" });
  expect((await lists.before?.(append()))?.head.status).toBe(503);
  listsLeases.set("b:lists", { value: "2" });
  const request = append();
  expect(await lists.before?.(request)).toBeUndefined();
  expect(lists.bound?.(request)?.replica).toBe("b");
  elect("a", { hasLists: false });
  expect(lists.bound?.(request)?.replica).toBe("");
  nowMs += 3000;
  await lists.again?.(request);
  expect(lists.bound?.(request)?.replica).toBe("a");
});

test("where a change was not looked at, as in an explanation, the leader is named", () => {
  expect(lists.bound?.(append())?.replica).toBe("a");
});

test("a new leader that never gets the last list of that name refuses the next", async () => {
  await makeAt("a");
  elect("b");
  const refusal = await lists.before?.(creation());
  expect(refusal?.head.status).toBe(503);
  // Another name has no such history.
  expect(await lists.before?.(asked("POST", "/Playlists", { Name: "Morning" }))).toBeUndefined();
});

test.each([
  ["is deleted", () => deleteList()],
  ["was refused", () => Promise.resolve(), 400],
  ["is old", () => growOld()],
])(
  "the next list of a name is not kept waiting for one that %s",
  async (_, happens, status = 200) => {
    await makeAt("a", status);
    await happens();
    elect("b");
    expect(await lists.before?.(creation())).toBeUndefined();
  },
);

async function growOld(): Promise<void> {
  nowMs += madeLimits.keepMs;
}

async function deleteList(): Promise<void> {
  const deletion = asked("DELETE", `/Items/${id}`);
  await lists.after?.(deletion, replyOf(204, ""), "a");
  expect(deleted).toEqual([id]);
}

test("a leader that broke off is not asked again: the next one is waited for", async () => {
  const request = creation();
  await lists.before?.(request);
  request.failed.add("a");
  const waiting = lists.again?.(request);
  elect("b");
  await waiting;
  expect(lists.bound?.(request)?.replica).toBe("b");
  lists.ended?.(request, 200, "b");
});

test("a user who was made is known to have been made there, in the letters that the client asked for", async () => {
  for (const [told, name] of [
    [{ Id: id, Name: "Ann" }, "ann"],
    [{ id, name: "Bea" }, "bea"],
  ] as const) {
    const creationOfUser = asked("POST", "/Users/New", { Name: name });
    await lists.after?.(creationOfUser, replyOf(200, told), "b");
    const login = asked("POST", "/Users/AuthenticateByName", { Username: name, Pw: "" });
    expect(made.attendants[0]?.bound?.(login)?.replica).toBe("b");
  }
});

test("where nobody ever led, everything is made at home", async () => {
  leaseNumber = 0;
  leader = "";
  const request = creation();
  expect(await lists.before?.(request)).toBeUndefined();
  expect(lists.bound?.(request)).toBeUndefined();
});
