// What the door writes down of a change, as a table of how a request can end; what it does with secrets, with bodies
// that are too long and with answers that tell a new id; and that a client which reports too often is slowed while
// others are not. The store is the embedded one, the writer the real one.

import { gzipSync } from "node:zlib";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  type Entry,
  type Intent,
  journalBodyContext,
  newEntryId,
  type Outcome,
  readEntry,
} from "../../../core/cluster/journal.ts";
import { JournalWriter, spoolLimits } from "../../../core/cluster/journal-writer.ts";
import { readRedone, redoneNote } from "../../../core/cluster/redone.ts";
import { createMetrics } from "../../../core/service/metrics.ts";
import { createSeal } from "../../../core/service/seal.ts";
import { openEmbeddedStore } from "../../../core/store/embedded.ts";
import type { Note, Store } from "../../../core/store/store.ts";
import type { Attended } from "../../../proxy/attendant.ts";
import { Journal, journalLimits } from "../../../proxy/attendants/journal.ts";
import { Pace } from "../../../proxy/attendants/pace.ts";
import { readFacts, readHeaderFacts } from "../../../proxy/facts.ts";
import { until } from "../../support/viewer.ts";

const seal = createSeal("a-key-of-this-test-and-of-no-other");
const item = "af87525677534c8af23739c31aa4b187";
const userId = "11111111222233334444555555555555";
const silent = { info: () => undefined, warn: () => undefined, error: () => undefined };

let store: Store;
let journal: Journal;
let nowMs: number;
let replicas: string[];
/** What the leader has said to have done again, by intent. */
const redone = new Map<string, Note>();
const listeners = new Set<(note: Note) => void>();
/** Users by id, at b alone. */
const usersAtB = new Map<string, object>();
const someone = "99999999222233334444555555555555";

function answerOf(replica: string, method: string, path: string) {
  const user = usersAtB.get(path.split("/").at(-1) ?? "");
  const isThere = replica === "b" && method === "GET" && user !== undefined;
  return { outcome: "answered", status: isThere ? 200 : 404, text: JSON.stringify(user) } as const;
}

beforeEach(() => {
  nowMs = 0;
  replicas = ["a", "b"];
  redone.clear();
  usersAtB.clear();
  store = openEmbeddedStore({ limits: { changesKept: 10, revokedKeepMs: 1, callLimitMs: 1000 } });
  const metrics = createMetrics("0");
  const writer = new JournalWriter({
    store,
    seal,
    log: silent,
    metrics,
    limits: spoolLimits,
    retryLimitMs: 10,
  });
  journal = new Journal({
    writer,
    store,
    memory: {
      note: (_kind, id) => redone.get(id),
      onNote(listener) {
        listeners.add(listener);
        return () => listeners.delete(listener);
      },
    },
    seal,
    clock: { monotonicMs: () => nowMs },
    log: silent as never,
    metrics,
    clientOf: (replica) => ({
      callWithKey: async (method, path) => answerOf(replica, method, path),
    }),
    deletedFile: () => undefined,
    replicaNames: () => replicas,
    noteStoreFailure: () => undefined,
    limits: { ...journalLimits, waitLimitMs: 1000, reportIntervalMs: 40, redoneWaitLimitMs: 400 },
  });
});

afterEach(async () => {
  await store.close();
});

async function entries(): Promise<Entry[]> {
  const { generation } = await store.journalEnds();
  const page = await store.readJournal({ generation, number: 0 }, 1000);
  if (page.outcome === "lost") return [];
  return page.entries.flatMap((entry) => {
    const read = readEntry(entry, seal);
    return read.outcome === "read" ? [read.placed.entry] : [];
  });
}

function asked(method: string, target: string, body?: unknown): Attended {
  const origin = { address: "127.0.0.1", scheme: "http", host: "" } as const;
  const text = body === undefined ? "" : JSON.stringify(body);
  return {
    facts: readFacts(method, target, readHeaderFacts({}), origin, []),
    identity: {
      key: "who",
      kind: "user",
      userId,
      userName: "root",
      deviceId: "device",
      client: "app",
      device: "tv",
      version: "1",
      generation: 1,
      startedAtMs: 0,
      origin: "a",
      tokens: {},
    },
    rawHeaders: ["Content-Type", "application/json"],
    body: body === undefined ? undefined : Buffer.from(text),
    bodyText: text,
    deadlineMs: 1000,
    hasLeft: false,
    tried: new Set(),
    failed: new Set(),
    refusedBy: new Set(),
    refusals: new Map(),
  };
}

const reply = (status: number, body = "", headers: string[] = []) => ({
  head: { status, statusText: "", headers, contentLength: undefined, hasBody: true },
  body: Buffer.from(body),
});

async function lastOutcome(): Promise<Outcome> {
  const last = (await entries()).at(-1);
  if (last?.type !== "outcome") throw new Error("the last entry is no outcome");
  return last;
}

type End = (request: Attended) => Promise<void> | void;
const ends: readonly (readonly [string, End, Partial<Outcome>])[] = [
  [
    "answered",
    async (request) => {
      journal.rewrite(request, "a");
      await journal.after(request, reply(204), "a");
      journal.ended(request, 204, "a");
    },
    { replica: "a", status: 204 },
  ],
  [
    "answered by the second that was asked: the first may have done it, too",
    async (request) => {
      journal.rewrite(request, "a");
      journal.rewrite(request, "b");
      await journal.after(request, reply(204), "b");
      journal.ended(request, 204, "b");
    },
    { replica: "b", status: 204, asked: ["a"] },
  ],
  [
    "answered by the second after the first one refused it: a refusal did nothing",
    async (request) => {
      journal.rewrite(request, "a");
      (request.refusedBy as Set<string>).add("a");
      journal.rewrite(request, "b");
      await journal.after(request, reply(204), "b");
      journal.ended(request, 204, "b");
    },
    { replica: "b", status: 204 },
  ],
  [
    "answered when the client had left",
    async (request) => {
      journal.rewrite(request, "a");
      await journal.after(request, reply(204), "a");
      journal.ended(request, undefined, "a");
    },
    { replica: "a", status: 204 },
  ],
  [
    "refused",
    (request) => {
      journal.rewrite(request, "a");
      journal.ended(request, 403, "a");
    },
    { replica: "a", status: 403 },
  ],
  [
    "cut with a server that was asked",
    (request) => {
      journal.rewrite(request, "a");
      journal.ended(request, undefined, "a");
    },
    { replica: "", status: 0, asked: ["a"] },
  ],
  [
    "cut with nobody asked",
    (request) => journal.ended(request, undefined, ""),
    { replica: "", status: 503 },
  ],
  [
    "passed to the leader by the gate",
    (request) => {
      request.passedTo = "b";
      journal.ended(request, 200, "");
    },
    { replica: "b", status: 200 },
  ],
  [
    "passed to the leader by the gate, which does not know what became of it",
    (request) => {
      request.passedTo = "b";
      journal.ended(request, 503, "");
    },
    { replica: "", status: 0, asked: ["b"] },
  ],
];

test.each(ends)("%s", async (_how, end, expected) => {
  const request = asked("POST", `/UserFavoriteItems/${item}`);
  expect(await journal.before(request)).toBeUndefined();
  const [intent] = await entries();
  expect(intent).toMatchObject({ type: "intent", kind: "userData", userId, identityKey: "who" });
  await end(request);
  const { type: _type, id: _id, of, ...outcome } = await lastOutcome();
  expect(of).toBe(intent?.id);
  expect(outcome).toEqual(expected);
  // What has ended cannot end again.
  journal.ended(request, 204, "a");
  expect(await entries()).toHaveLength(2);
});

test("with one replica nothing is written down, and no route is repeated that forbids it", async () => {
  replicas = ["a"];
  const request = asked("POST", `/UserPlayedItems/${item}?datePlayed=20261121001929`);
  await journal.before(request);
  journal.rewrite(request, "a");
  expect(journal.repeats(request)).toBe(false);
  journal.ended(request, 200, "a");
  expect(await entries()).toEqual([]);
});

test("a change that is in the journal may be carried out elsewhere", async () => {
  const request = asked("POST", `/UserPlayedItems/${item}?datePlayed=20261121001929`);
  await journal.before(request);
  expect(journal.repeats(request)).toBe(true);
});

test("a new password lies in the store's secrets and nowhere in the journal; a refusal takes it away", async () => {
  const secret = "correct horse battery staple";
  const request = asked("POST", "/Users/Password", { CurrentPw: "old", NewPw: secret });
  expect(await journal.before(request)).toBeUndefined();
  const [intent] = (await entries()) as Intent[];
  expect(intent?.kind).toBe("password");
  expect(JSON.stringify(intent)).not.toContain(secret);
  expect(await store.readSecret(intent?.id ?? "")).toBeDefined();
  journal.rewrite(request, "a");
  journal.ended(request, 403, "a");
  await expect.poll(() => store.readSecret(intent?.id ?? "")).toBeUndefined();
});

test("a secret that is too long to reach the others is refused, and the server is not asked", async () => {
  const request = asked("POST", "/Users/Password", { CurrentPw: "", NewPw: "x".repeat(20_000) });
  expect((await journal.before(request))?.head.status).toBe(503);
  expect(await entries()).toEqual([]);
});

test("a document that may hold others' passwords is sealed", async () => {
  const body = { SmtpPassword: "of somebody else's server" };
  const id = "0123456789abcdef0123456789abcdef";
  await journal.before(asked("POST", `/Plugins/${id}/Configuration`, body));
  const [intent] = (await entries()) as Intent[];
  expect(intent?.request.isSealed).toBe(true);
  expect(seal.open(intent?.request.body ?? "", journalBodyContext)).toContain("somebody else");
});

test("a body that is longer than the journal takes is left out, and the intent still says what changed", async () => {
  const custom = '\\"'.repeat(200_000);
  await journal.before(asked("POST", "/DisplayPreferences/usersettings?client=emby", { custom }));
  const [intent] = (await entries()) as Intent[];
  expect(intent?.kind).toBe("preferences");
  expect(intent?.request.bodyTooBig).toBe(true);
  expect(intent?.request.body).toBe("");
});

test("the id that an answer tells is in the outcome, also when the answer is compressed", async () => {
  const request = asked("POST", "/Playlists", { Name: "evening", UserId: userId });
  await journal.before(request);
  journal.rewrite(request, "a");
  const body = gzipSync(JSON.stringify({ Id: item }));
  const answer = { ...reply(200, "", ["Content-Encoding", "gzip"]), body };
  expect(await journal.after(request, answer, "a")).toBe(answer);
  journal.ended(request, 200, "a");
  expect(JSON.stringify((await lastOutcome()).facts)).toContain(item);
});

test("reports that come too often are carried out, and the last is written down with its outcome", async () => {
  const report = async (position: number): Promise<void> => {
    const body = { ItemId: item, PositionTicks: position };
    const request = asked("POST", "/Sessions/Playing/Progress", body);
    await journal.before(request);
    journal.rewrite(request, "a");
    await journal.after(request, reply(204), "a");
    journal.ended(request, 204, "a");
  };
  const intents = async () => (await entries()).filter(({ type }) => type === "intent");
  for (let position = 1; position <= 10; position += 1) await report(position);
  const late: Promise<void>[] = [];
  for (let position = 11; position <= 50; position += 1) late.push(report(position));
  let areTold = false;
  const told = Promise.all(late).then(() => {
    areTold = true;
  });
  // Nobody is told that it is done before it, or something later, is written down.
  await new Promise((resolve) => setTimeout(resolve, 10));
  expect([areTold, (await intents()).length]).toEqual([false, 10]);
  await told;
  expect(await intents()).toHaveLength(11);
  expect((await intents()).at(-1)).toMatchObject({ facts: { values: { position: 50 } } });
  await expect.poll(async () => (await entries()).length).toBe(22);
  // The end of the process does not wait for a timer.
  const last = [report(51), report(52)];
  await new Promise((resolve) => setTimeout(resolve, 5));
  await journal.flush();
  expect((await intents()).at(-1)).toMatchObject({ facts: { values: { position: 52 } } });
  await Promise.all(last);
});

test("what waits is written before something newer, so that neither is lost when the newer one is refused", async () => {
  const progress = (position: number) =>
    asked("POST", "/Sessions/Playing/Progress", { ItemId: item, PositionTicks: position });
  const requests = Array.from({ length: 11 }, (_none, index) => progress(index + 1));
  const answers = requests.map(async (request) => {
    await journal.before(request);
    await journal.after(request, reply(204), "a");
    journal.ended(request, 204, "a");
  });
  await new Promise((resolve) => setTimeout(resolve, 5));
  const stop = asked("POST", "/Sessions/Playing/Stopped", { ItemId: item, PositionTicks: 99 });
  await journal.before(stop);
  journal.ended(stop, 403, "a");
  await Promise.all(answers);
  const said = (await entries()).flatMap((entry) =>
    entry.type === "intent"
      ? [(entry.facts as { values: { position: number } }).values.position]
      : [],
  );
  expect(said).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 99]);
});

test("a pace lets a burst through, then one for each interval, and each key has its own", () => {
  const pace = new Pace({ burst: 3, intervalMs: 1000, kept: 2 });
  const at = (times: readonly number[], key = "film"): boolean[] =>
    times.map((time) => pace.passes(key, time));
  expect(at([0, 0, 0, 0, 999])).toEqual([true, true, true, false, false]);
  expect(at([1000, 1001, 2500])).toEqual([true, false, true]);
  expect(at([2500, 2500], "other")).toEqual([true, true]);
  // After a pause the burst is there again, and no more than it.
  expect(at([60_000, 60_000, 60_000, 60_000])).toEqual([true, true, true, false]);
});

test("a change that nobody asks for who is known is a server's to refuse, and not written down", async () => {
  const { identity: _, ...request } = asked("POST", "/Users/New", { Name: "Mallory" });
  await journal.before({ ...request, identity: undefined });
  expect(await entries()).toEqual([]);
});

describe("a change that broke off", () => {
  /** It was sent to a, which died of it; answers its intent's id. */
  async function broken(request: Attended): Promise<string> {
    await journal.before(request);
    journal.rewrite(request, "a");
    return (await entries()).at(-1)?.id ?? "";
  }

  function say(intentId: string, itemId = item): void {
    const note = { ...redoneNote(intentId, "b", { itemId, userId: someone }), expiresAtMs: 0 };
    redone.set(intentId, note);
    for (const listener of [...listeners]) listener(note);
  }

  const creation = () => asked("POST", "/Playlists", { Name: "Evening", UserId: userId });

  test("is answered when the leader has done it again, with the id of what was made", async () => {
    const request = creation();
    const id = await broken(request);
    const waiting = journal.rescued(request);
    // The leader has to know that nobody knows how it ended, before anybody waits for it.
    await until(1000, "the outcome", async () => (await entries()).length === 2);
    expect(await lastOutcome()).toMatchObject({ of: id, replica: "", status: 0, asked: ["a"] });
    say(newEntryId());
    say(id);
    const rescued = await waiting;
    expect([rescued?.replica, rescued?.reply.head.status]).toEqual(["b", 200]);
    expect(rescued?.reply.body.toString()).toBe(JSON.stringify({ Id: item }));
    journal.ended(request, 200, "b");
    expect(await entries()).toHaveLength(2);
    expect(listeners.size).toBe(0);
  });

  test.each([
    ["POST", `/Playlists/${item}/Items?ids=${item}`],
    ["DELETE", `/Items/${item}`],
    ["POST", "/Auth/Keys?app=mine"],
    ["DELETE", `/Users/${someone}`],
    ["DELETE", `/Items/${item}/Images/Primary`],
  ])("with nothing to tell is answered with nothing: %s %s", async (method, target) => {
    const request = asked(method, target);
    const id = await broken(request);
    say(id);
    expect((await journal.rescued(request))?.reply.head.status).toBe(204);
  });

  test.each([
    ["application/json", `{"Id":"${someone}","Name":"Ann"}`],
    ['application/json;profile="CamelCase"', `{"id":"${someone}","name":"Ann"}`],
  ])("is answered with the user that it made, spelled as %s", async (accept, text) => {
    const plain = asked("POST", "/Users/New", { Name: "Ann", Password: "secret" });
    const request = { ...plain, rawHeaders: [...plain.rawHeaders, "Accept", accept] };
    const id = await broken(request);
    say(id);
    usersAtB.set(someone, { Id: someone, Name: "Ann" });
    const rescued = await journal.rescued(request);
    expect([rescued?.reply.head.status, rescued?.reply.body.toString()]).toEqual([200, text]);
  });

  test("is not answered with a user who is gone again", async () => {
    const request = asked("POST", "/Users/New", { Name: "Ann" });
    say(await broken(request));
    expect(await journal.rescued(request)).toBeUndefined();
  });

  test.each([
    ["POST", `/Audio/${item}/Lyrics?fileName=a.lrc`, "[00:01]La"],
    ["POST", `/Audio/${item}/RemoteSearch/Lyrics/x`, undefined],
    ["POST", "/LiveTv/TunerHosts", { Type: "m3u" }],
    ["POST", "/Users/ForgotPassword/Pin", { Pin: "1234" }],
    ["POST", `/Items/${item}/Images/Primary`, "x".repeat(journalLimits.bodyLimitCharacters + 1)],
  ])("and whose answer nobody else has is not waited for: %s %s", async (method, target, body) => {
    const request = asked(method, target, body);
    say(await broken(request));
    expect(await journal.rescued(request)).toBeUndefined();
  });

  test("is given up when the leader has not done it in time", async () => {
    const request = creation();
    await broken(request);
    const clock = setInterval(() => {
      nowMs += 100;
    }, 10);
    expect(await journal.rescued(request)).toBeUndefined();
    clearInterval(clock);
  });

  test("and that was sent to nobody, or is of another kind, is not waited for", async () => {
    const unsent = creation();
    await journal.before(unsent);
    expect(await journal.rescued(unsent)).toBeUndefined();
    const mark = asked("POST", `/UserPlayedItems/${item}`);
    await broken(mark);
    expect(await journal.rescued(mark)).toBeUndefined();
  });

  test.each([
    ["", item, ""],
    ["b", "7", ""],
    ["b", "", "7"],
  ])(
    "is not answered by a note that makes no sense: of %j, about %j of %j",
    (replica, itemId, of) => {
      expect(readRedone(redoneNote("x", replica, { itemId, userId: of }))).toBeUndefined();
    },
  );
});
