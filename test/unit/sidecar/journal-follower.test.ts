/**
 * The follower: order, missing items, deaths between two steps, a journal that was lost, entries that are not ours. The
 * store is the embedded one; the server is a map of values, which a handler of the test reads and writes.
 */
import { afterEach, describe, expect, test } from "vitest";
import {
  type Effect,
  type Entry,
  entryValue,
  type Intent,
  newEntryId,
  type Outcome,
  type Placed,
} from "../../../core/cluster/journal.ts";
import { Memory } from "../../../core/cluster/memory.ts";
import { systemClock } from "../../../core/service/clock.ts";
import { objectOf } from "../../../core/service/json.ts";
import { createSeal } from "../../../core/service/seal.ts";
import { openEmbeddedStore } from "../../../core/store/embedded.ts";
import type { JournalCursor } from "../../../core/store/journal.ts";
import { type Store, StoreUnavailable } from "../../../core/store/store.ts";
import {
  Follower,
  type FollowerEvent,
  type FollowerLimits,
  type FollowerParts,
  followerLimits,
} from "../../../sidecar/journal/follower.ts";
import type { Applied, JournalHandler, JournalWords } from "../../../sidecar/journal/handler.ts";
import { type Ledger, MemoryLedger } from "../../../sidecar/journal/ledger.ts";
import { until } from "../../support/viewer.ts";

const seal = createSeal("a cluster key of some length");
const limits: FollowerLimits = {
  ...followerLimits,
  retryMinMs: 5,
  retryMaxMs: 20,
  settleMs: 300,
  asideRetryMs: 300,
  afterSilenceMs: 600,
  afterNoAnswerMs: 50,
  afterDeathMs: 100,
  afterMuteMs: 1500,
  storeRetryMs: 20,
  reconcileRetryMs: 50,
};

/** What one server has: by item and field. It can lack items, refuse, and be slow. */
class ToyServer {
  readonly items = new Map<string, Record<string, unknown>>();
  readonly lacking = new Set<string>();
  readonly applied: number[] = [];
  redone = 0;
  onApply: () => Promise<void> = async () => undefined;

  of(item: string): Record<string, unknown> {
    const known = this.items.get(item) ?? {};
    this.items.set(item, known);
    return known;
  }
}

function toyHandler(server: ToyServer, apartMs = 0): JournalHandler {
  const said = (entry: Intent | Effect): Record<string, unknown> =>
    objectOf(entry.type === "intent" ? entry.facts : entry.payload) ?? {};
  return {
    kinds: ["userData"],
    lane: ({ itemId }) => itemId,
    fields: {
      namesOf: (entry) => Object.keys(said(entry)),
      valuesOf: (effect) => said(effect),
      payloadOf: (values) => values,
      apartMs: () => apartMs,
      async verify({ itemId, values }, _hands, mayWrite) {
        const now = server.of(itemId);
        const fields = Object.keys(values).filter((field) => now[field] !== values[field]);
        if (fields.length === 0 || !(await mayWrite())) return { outcome: "equal" };
        for (const field of fields) now[field] = values[field];
        return { outcome: "put right", fields };
      },
    },
    publish: async ({ entry }) => ({
      outcome: "effects",
      effects: [{ userId: "", itemId: entry.itemId, payload: entry.facts }],
    }),
    async apply({ entry, number }, _hands, fresh): Promise<Applied> {
      if (server.lacking.has(entry.itemId)) return { outcome: "aside", itemId: entry.itemId };
      await server.onApply();
      const values = said(entry);
      for (const field of fresh) server.of(entry.itemId)[field] = values[field];
      server.applied.push(number);
      return { outcome: "done" };
    },
    async redo({ entry }) {
      server.redone++;
      Object.assign(server.of(entry.itemId), said(entry));
      return { outcome: "done" };
    },
  };
}

interface Running {
  readonly follower: Follower;
  readonly server: ToyServer;
  readonly ledger: Ledger;
  readonly events: FollowerEvent[];
  readonly said: string[];
  /** What was told to have been done again: of which intent, to which item. */
  readonly redone: [string, string][];
  stop(): Promise<void>;
}

const running: { stop(): Promise<void> }[] = [];
let store: Store | undefined;

function theStore(): Store {
  store ??= openEmbeddedStore({
    limits: { changesKept: 1000, revokedKeepMs: 60_000, callLimitMs: 1000, journalKept: 400 },
  });
  return store;
}

function startAt(
  replica: string,
  options: {
    readonly server?: ToyServer;
    readonly ledger?: Ledger;
    readonly leads?: boolean;
    readonly isHealthy?: boolean;
    readonly apartMs?: number;
    readonly startFrom?: JournalCursor;
    readonly reconcile?: FollowerParts["reconcile"];
    readonly handler?: JournalHandler;
    readonly isKeyRefused?: () => Promise<boolean>;
    readonly limits?: Partial<FollowerLimits>;
    readonly store?: Store;
    readonly client?: FollowerParts["hands"]["client"];
  } = {},
): Running {
  const { server = new ToyServer(), ledger = new MemoryLedger() } = options;
  const events: FollowerEvent[] = [];
  const said: string[] = [];
  const redone: [string, string][] = [];
  const note = (message: string): void => void said.push(message);
  const log = { debug: note, info: note, warn: note };
  const memory = new Memory({
    store: theStore(),
    seal,
    log,
    tokensRemembered: 10,
    storeRetryMs: 20,
  });
  const stopping = new AbortController();
  const follower = new Follower({
    hands: {
      ...{ replica, memory, seal, log, clock: systemClock, store: options.store ?? theStore() },
      // The toy's handler asks no server.
      client: options.client ?? (undefined as never),
      peer: () => undefined,
      startedAtMs: systemClock.wallMs(),
      leads: () => options.leads ?? false,
    },
    handlers: [options.handler ?? toyHandler(server, options.apartMs)],
    ledger,
    limits: { ...limits, ...options.limits },
    startFrom: () => ledger.cursor() ?? options.startFrom,
    isReachable: async () => false,
    isKeyRefused: options.isKeyRefused ?? (async () => false),
    urgent: () => undefined,
    onEvent: (event) => events.push(event),
    noteRedone: async ({ id }, { itemId }) => void redone.push([id, itemId]),
    noteCursor: async () => undefined,
    reconcile: options.reconcile ?? (async () => true),
  });
  if (options.isHealthy !== false) follower.noteHealth(true);
  const runs = Promise.all([memory.run(stopping.signal), follower.run(stopping.signal)]);
  const one = {
    ...{ follower, server, ledger, events, said, redone },
    async stop() {
      stopping.abort();
      await runs;
    },
  };
  running.push(one);
  return one;
}

afterEach(async () => {
  for (const one of running.splice(0)) await one.stop();
  await store?.close();
  store = undefined;
});

async function write(...entries: readonly Entry[]): Promise<number> {
  const cursor = await theStore().appendJournal(entries.map((entry) => entryValue(entry, seal)));
  return cursor.number;
}

const request = { method: "POST", path: "/", query: "", contentType: "", body: "" };
function intent(itemId: string, facts: unknown, id = newEntryId()): Intent {
  return {
    ...{
      type: "intent",
      id,
      kind: "userData",
      identityKey: "",
      userId: "",
      itemId,
      request,
      facts,
    },
  } as const;
}
function outcome(of: Intent, replica: string, status = 204): Outcome {
  return { type: "outcome", id: newEntryId(), of: of.id, replica, status };
}
function effect(
  itemId: string,
  payload: unknown,
  ofNumber: number,
  part: Partial<Effect> = {},
): Effect {
  return {
    ...{ type: "effect", id: newEntryId(), of: "", ofNumber, kind: "userData", replica: "z" },
    ...{ userId: "", itemId, payload, ...part },
  } as const;
}

describe("a change", () => {
  test("that succeeded at one server is published by its sidecar and applied by the others", async () => {
    const a = startAt("a");
    const b = startAt("b");
    const one = intent("film", { favourite: true });
    await write(one, outcome(one, "a"));
    await until(3000, "it is at b", async () => b.server.of("film").favourite === true);
    expect(a.events).toContain("published");
    expect(b.events).not.toContain("published");
    await until(
      1000,
      "it is closed",
      async () => a.follower.openCount + b.follower.openCount === 0,
    );
  });

  test("that was refused has no effect", async () => {
    const a = startAt("a", { leads: true });
    const one = intent("film", { favourite: true });
    await write(one, outcome(one, "a", 403));
    await until(2000, "it is cancelled", async () => a.events.includes("cancelled"));
    expect(a.follower.openCount).toBe(0);
    expect(a.events).not.toContain("published");
  });

  const [kid, root, other] = ["1", "2", "3"].map((digit) => digit.repeat(32)) as [
    string,
    string,
    string,
  ];
  const users = JSON.stringify(
    [kid, root].map((Id) => ({ Id, Name: Id, Policy: { IsAdministrator: Id === root } })),
  );
  const client = {
    callWithKey: async () => ({ outcome: "answered", status: 200, text: users }) as const,
  } as unknown as FollowerParts["hands"]["client"];

  test.each([
    ["an ordinary user", kid, other, false],
    ["somebody who is not there any more", other, kid, false],
    ["themselves", kid, kid, true],
    ["an administrator", root, other, true],
    ["nobody in particular", kid, "", true],
  ])(
    "of somebody else's that a server agreed to is told only of an administrator: %s",
    async (_who, caller, userId, isTold) => {
      const a = startAt("a", { client });
      const one = {
        ...intent("film", { favourite: true }),
        userId,
        identityKey: `${caller}.device`,
      };
      await write(one, outcome(one, "a"));
      await until(3000, "it is decided", async () =>
        [...a.events, ...a.said].some((said) => /^published$|told to nobody/.test(said)),
      );
      expect(a.events.includes("published")).toBe(isTold);
    },
  );

  test.each([
    [kid, 0],
    [root, 1],
  ])(
    "of somebody else's whose server agreed and died is done again only for an administrator",
    async (caller, times) => {
      const b = startAt("b", { client, leads: true });
      const one = {
        ...intent("film", { favourite: true }),
        userId: other,
        identityKey: `${caller}.device`,
      };
      await write(one, outcome(one, "a"));
      const after = intent("another", { favourite: true });
      await write(after, outcome(after, "a"));
      await until(
        3000,
        "the next is done again",
        async () => b.server.of("another").favourite === true,
      );
      expect([b.server.redone, b.server.of("film").favourite === true]).toEqual([
        1 + times,
        times === 1,
      ]);
    },
  );

  test("written twice is one", async () => {
    const b = startAt("b");
    const one = effect("film", { position: 1 }, 0);
    await write(one, one);
    await until(2000, "both are read", async () => b.events.includes("duplicate"));
    expect(b.server.applied.length).toBe(1);
  });
});

describe("order", () => {
  test("whose effect was lost with the store's last moments is told once more", async () => {
    let isLost = false;
    const forgetful = Object.create(theStore(), {
      appendJournal: {
        value: async (values: readonly string[], seen?: JournalCursor) => {
          const kept = isLost ? values : [];
          isLost = true;
          return await theStore().appendJournal(kept, seen);
        },
      },
    }) as Store;
    startAt("a", { store: forgetful, limits: { echoLimitMs: 200 } });
    const b = startAt("b");
    const change = intent("film", { position: 3 });
    await write(change, outcome(change, "a"));
    await until(4000, "b has it", async () => b.server.of("film").position === 3);
    expect(isLost).toBe(true);
  });

  test("is done with everywhere when a newer one of its fields has its effect, whoever was to tell of it", async () => {
    const b = startAt("b");
    // One's door died, another's server; both are older than what came of a third.
    const [unknown, silent] = [
      intent("film", { position: 1, played: 0 }),
      intent("film", { position: 2 }),
    ];
    const newer = intent("film", { position: 3, played: 0 });
    const other = intent("film", { favourite: true });
    await write(unknown, silent, outcome(silent, "c"), other);
    const number = await write(newer);
    await write(outcome(newer, "a"), effect("film", { position: 3 }, number, { of: newer.id }));
    await until(2000, "it is applied", async () => b.server.of("film").position === 3);
    // What it says nothing of is still waited for.
    await until(1000, "only the other one is open", async () => b.follower.openCount === 1);
    await write(outcome(other, "a", 404));
    // Nothing keeps the lane from being looked at: what the server has otherwise is put right.
    b.server.of("film").position = 2;
    b.follower.check("userData", "film");
    await until(2000, "it is put right", async () => b.server.of("film").position === 3);
  });

  test("of which too many are open is given up, the oldest first", async () => {
    const a = startAt("a", { limits: { openLimit: 3 } });
    for (let film = 1; film <= 5; film++) await write(intent(`film ${film}`, { position: 1 }));
    await until(2000, "they are read", async () => a.events.includes("givenUp"));
    await until(2000, "three are open", async () => a.follower.openCount === 3);
    expect(a.events.filter((event) => event === "givenUp")).toHaveLength(2);
  });

  test("an older effect that comes later never wins, field by field", async () => {
    const b = startAt("b");
    await write(effect("film", { favourite: true, position: 5 }, 50));
    await write(effect("film", { favourite: false, likes: true }, 40));
    await until(2000, "all is there", async () => b.server.of("film").likes === true);
    expect(b.server.of("film")).toEqual({ favourite: true, position: 5, likes: true });
  });

  test("an older effect waits while a newer change of the same may be under way here", async () => {
    const b = startAt("b");
    const older = await write(intent("another film", { likes: true }));
    const one = intent("film", { favourite: false });
    await write(one);
    await write(effect("film", { favourite: true }, older));
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(b.server.applied).toEqual([]);
    // The server does the newer one now; then its answer is told.
    b.server.of("film").favourite = false;
    await write(outcome(one, "b"));
    await until(2000, "b tells of it", async () => b.events.includes("published"));
    expect(b.server.of("film").favourite).toBe(false);
  });

  test("what a server did late is put right once the lane is quiet", async () => {
    const b = startAt("b");
    await write(effect("film", { position: 9 }, 0));
    await until(2000, "it is there", async () => b.server.of("film").position === 9);
    b.server.of("film").position = 3;
    await until(2000, "it is put right", async () => b.server.of("film").position === 9);
    expect(b.events).toContain("putRight");
  });

  test("what a frozen server was sent before is looked at again when it thaws", async () => {
    const b = startAt("b");
    await write(effect("film", { position: 9 }, 0));
    await until(2000, "it is there", async () => b.server.of("film").position === 9);
    await new Promise((resolve) => setTimeout(resolve, 600));
    b.follower.noteHealth(false);
    b.server.of("film").position = 3;
    b.follower.noteHealth(true);
    await until(2000, "it is put right", async () => b.server.of("film").position === 9);
  });
});

describe("an item that is not there yet", () => {
  test("keeps no other waiting, and has its state when it comes", async () => {
    const b = startAt("b");
    b.server.lacking.add("new film");
    await write(effect("new film", { position: 1 }, 0), effect("film", { position: 2 }, 0));
    await until(2000, "the other is there", async () => b.server.of("film").position === 2);
    expect(b.follower.asideCount).toBe(1);
    expect(b.follower.lag().entries).toBe(0);
    b.server.lacking.clear();
    b.follower.noteLibraryChanged();
    await until(2000, "it is there", async () => b.server.of("new film").position === 1);
    expect(b.follower.asideCount).toBe(0);
  });
});

describe("a death between two steps", () => {
  test("of the server that was told: the leader does it again and tells of it", async () => {
    const b = startAt("b", { leads: true });
    const c = startAt("c");
    const one = intent("film", { favourite: true });
    await write(one, outcome(one, "a"));
    await until(4000, "it is at c", async () => c.server.of("film").favourite === true);
    expect([b.server.redone, c.server.redone]).toEqual([1, 0]);
  });

  test("of the door before it knew: the leader does it again", async () => {
    const b = startAt("b", { leads: true });
    await write(intent("film", { favourite: true }));
    await until(4000, "it is done again", async () => b.server.redone === 1);
  });

  test("in the middle of it: the leader does it again, and says so to whoever waits for it", async () => {
    const b = startAt("b", { leads: true });
    const [awaited, told] = [intent("film", { position: 1 }), intent("other", { position: 2 })];
    await write(awaited, outcome(awaited, "", 0), told, outcome(told, "a"));
    await until(4000, "both are done again", async () => b.server.redone === 2);
    await until(1000, "it is told", async () => b.redone.length > 0);
    expect(b.redone).toEqual([[awaited.id, "film"]]);
  });

  test("in the middle of it, with the store away when it was done again: it is told when that is back", async () => {
    let isAway = true;
    const faltering = Object.create(theStore(), {
      appendJournal: {
        value: async (values: readonly string[], seen?: JournalCursor) => {
          if (isAway) {
            isAway = false;
            throw new StoreUnavailable("away");
          }
          return await theStore().appendJournal(values, seen);
        },
      },
    }) as Store;
    const b = startAt("b", { leads: true, store: faltering });
    const one = intent("film", { position: 1 });
    await write(one, outcome(one, "", 0));
    await until(4000, "it is told", async () => b.redone.length > 0);
    expect([isAway, b.redone]).toEqual([false, [[one.id, "film"]]]);
  });

  test("is not made good with an old change where a newer one of the same field is there", async () => {
    const b = startAt("b", { leads: true });
    const old = intent("film", { favourite: false });
    const number = await write(old, outcome(old, "", 0));
    await write(effect("film", { favourite: true }, number + 1));
    await until(2000, "the newer is there", async () => b.server.of("film").favourite === true);
    await new Promise((resolve) => setTimeout(resolve, 800));
    expect([b.server.redone, b.follower.openCount]).toEqual([0, 0]);
  });

  test("of a sidecar: it goes on where it was, and does nothing twice", async () => {
    const server = new ToyServer();
    const ledger = new MemoryLedger();
    const before = startAt("b", { server, ledger });
    await write(effect("film", { position: 1 }, 0));
    await until(2000, "it is there", async () => server.of("film").position === 1);
    await before.stop();
    running.splice(running.indexOf(before), 1);
    const missed = intent("film", { favourite: true });
    await write(effect("film", { position: 2 }, 0), missed, outcome(missed, "b"));
    const after = startAt("b", { server, ledger });
    await until(2000, "it has caught up", async () => server.of("film").position === 2);
    expect(server.applied.length).toBe(2);
    // What its server had done meanwhile is told now.
    await until(2000, "it is told", async () => after.events.includes("published"));
  });

  // Before: it stayed open for ever at every sidecar but the leader's, and kept the cursor of the next restart back.
  test("of a sidecar: an old change of which something newer is known is not open when it is read again", async () => {
    const ledger = new MemoryLedger();
    ledger.setKnown("film", {
      ...{ kind: "userData", userId: "", itemId: "film" },
      fields: { position: { number: 999, value: 9 } },
    });
    const c = startAt("c", { ledger });
    const old = intent("film", { position: 1 });
    await write(old, outcome(old, "a"), effect("another film", { position: 2 }, 0));
    await until(2000, "all is read", async () => c.server.of("another film").position === 2);
    expect(c.follower.openCount).toBe(0);
  });

  test("of a sidecar: what is read again does not undo what its server did after it and nobody was told of", async () => {
    const server = new ToyServer();
    const { fields: _, ...whole } = toyHandler(server);
    const apply = async ({ entry }: Placed<Effect>): Promise<Applied> => {
      Object.assign(server.of(entry.itemId), entry.payload);
      return { outcome: "done" };
    };
    const subject = ({ itemId }: Intent | Effect): string => itemId;
    const handler: JournalHandler = { ...whole, apply, subject, repeatsOwn: true };
    const appended = intent("list", { entries: 2 });
    server.of("list").entries = 2;
    await write(
      effect("list", { entries: 1 }, 0, { replica: "a" }),
      effect("other", { entries: 1 }, 0, { replica: "a" }),
      appended,
      outcome(appended, "a"),
    );
    const a = startAt("a", { server, handler });
    await until(3000, "it is told", async () => a.events.includes("published"));
    await until(3000, "the other is there", async () => server.of("other").entries === 1);
    expect(server.of("list").entries).toBe(2);
  });

  test("a server that is away keeps what it has missed until it is back", async () => {
    const b = startAt("b", { isHealthy: false });
    for (let index = 0; index < 50; index++) await write(effect(`${index}`, { position: 1 }, 0));
    await until(2000, "it is behind", async () => b.follower.lag().entries === 50);
    expect(b.server.applied.length).toBe(0);
    b.follower.noteHealth(true);
    await b.follower.caughtUp(AbortSignal.timeout(3000));
    expect([b.server.applied.length, b.follower.lag().entries]).toEqual([50, 0]);
  });
});

describe("a lane is settled", () => {
  const patience = () => AbortSignal.timeout(5000);

  test("once all that the journal had of it is done here", async () => {
    const b = startAt("b");
    const { promise, resolve: goOn } = Promise.withResolvers<void>();
    b.server.onApply = () => promise;
    await write(effect("film", { position: 1 }, 0), effect("film", { position: 2 }, 0));
    let isSettled = false;
    const settled = b.follower.settled("film", patience()).then(() => {
      isSettled = true;
    });
    // Another lane's works are no matter of this one.
    await b.follower.settled("other", patience());
    expect(isSettled).toBe(false);
    goOn();
    await settled;
    expect(b.server.of("film").position).toBe(2);
  });

  test("once the leader has done what a server was told that died of it, and not before", async () => {
    const b = startAt("b", { leads: true });
    const one = intent("film", { favourite: true });
    await write(one, outcome(one, "a"));
    await b.follower.settled("film", patience());
    expect([b.server.redone, b.server.of("film").favourite]).toEqual([1, true]);
  });

  test("though nobody knows how a change of it ended, or one of it was refused", async () => {
    const b = startAt("b", { limits: { afterSilenceMs: 60_000 } });
    const refused = intent("film", { favourite: true });
    await write(intent("film", { favourite: false }), refused, outcome(refused, "a", 403));
    await b.follower.settled("film", patience());
    expect(b.follower.openCount).toBe(1);
  });
});

describe("a handler that keeps words", () => {
  /** Of each item the sum of what was told; each server is brought to it. */
  function wordHandler(server: ToyServer) {
    const sums = new Map<string, number>();
    const looks: { subject: string; mayWrite: boolean }[] = [];
    const losses: number[] = [];
    const { fields: _, ...whole } = toyHandler(server);
    const bring = (item: string): Applied => {
      const isSame = server.of(item).entries === sums.get(item);
      server.of(item).entries = sums.get(item);
      return { outcome: isSame ? "skipped" : "done" };
    };
    const handler: JournalHandler = {
      ...whole,
      repeatsOwn: true,
      lane: () => "lists",
      publish: async ({ entry }) => ({
        outcome: "effects",
        effects: [{ userId: "", itemId: entry.itemId, payload: { more: 1 } }],
      }),
      apply: async ({ entry }) => bring(entry.itemId),
      words: {
        lane: "lists",
        subjects: ({ itemId }) => itemId.split("+"),
        note: ({ entry }) => sums.set(entry.itemId, (sums.get(entry.itemId) ?? 0) + 1),
        isEmpty: () => sums.size === 0,
        noteLoss: (number) => losses.push(number),
        recent: () => [...sums.keys()],
        look: async (subject, _hands, ask) => {
          const mayWrite = await ask();
          looks.push({ subject, mayWrite });
          return mayWrite ? bring(subject) : { outcome: "again", why: "it is being changed" };
        },
      },
    };
    return { handler, sums, looks, losses };
  }
  const told = (item: string, replica: string) => effect(item, { more: 1 }, 0, { replica });

  test("hears all of them in order, its own as well, and its server has what comes of them", async () => {
    const server = new ToyServer();
    const { handler, sums } = wordHandler(server);
    const a = startAt("a", { server, handler });
    await write(told("list", "b"), told("list", "a"), told("list", "b"));
    await until(3000, "all are heard", async () => sums.get("list") === 3);
    await until(3000, "the server has them", async () => server.of("list").entries === 3);
    expect(a.events.filter((event) => event === "applied").length).toBeGreaterThan(0);
  });

  test("hears what came before the place where it begins, when it knows nothing, and does none of it", async () => {
    const last = await write(told("old", "b"), told("old", "b"));
    const { generation = "" } = (await store?.journalEnds()) ?? {};
    await write(told("new", "b"));
    const server = new ToyServer();
    const { handler, sums } = wordHandler(server);
    const ledger = new MemoryLedger();
    ledger.setCursor({ generation, number: last });
    startAt("a", { server, handler, ledger });
    await until(3000, "the new one is there", async () => server.of("new").entries === 1);
    expect([sums.get("old"), server.of("old").entries]).toEqual([2, undefined]);
  });

  test("is told from where the journal is another than it was", async () => {
    await write(told("list", "b"));
    const server = new ToyServer();
    const { handler, sums, losses } = wordHandler(server);
    const ledger = new MemoryLedger();
    ledger.setCursor({ generation: "another", number: 7 });
    startAt("a", { server, handler, ledger });
    await until(3000, "it is heard", async () => sums.get("list") === 1);
    // What it has read of the other may be more than others have.
    expect(losses).toEqual([7]);
  });

  test("has its server looked at a while after each change, told here or refused", async () => {
    const server = new ToyServer();
    const { handler, looks } = wordHandler(server);
    startAt("a", { server, handler });
    const refused = intent("refused", {});
    await write(told("own", "a"), refused, outcome(refused, "a", 500));
    await until(3000, "its own is looked at", async () => server.of("own").entries === 1);
    await until(3000, "what was refused is", async () =>
      looks.some(({ subject }) => subject === "refused"),
    );
  });

  test("has its server looked at again when that says late that it has done what was given up", async () => {
    const server = new ToyServer();
    const { handler, looks } = wordHandler(server);
    startAt("a", { server, handler });
    const late = intent("late", {});
    await write(late, outcome(late, "b", 500));
    await until(3000, "it is looked at", async () => looks.length > 0);
    looks.length = 0;
    await write(outcome(late, "a", 204));
    await until(3000, "it is looked at again", async () => looks.length > 0);
  });

  test("writes nothing where its server has done a change that is not told, or may be doing one", async () => {
    const server = new ToyServer();
    const { handler, looks, sums } = wordHandler(server);
    startAt("a", { server, handler, leads: true, limits: { afterLongSilenceMs: 60_000 } });
    server.of("list").entries = 7;
    const unknown = intent("list", {});
    await write(unknown, told("list", "b"));
    await until(3000, "it is looked at", async () => looks.length > 0);
    expect(looks.every(({ mayWrite }) => !mayWrite)).toBe(true);
    expect([server.of("list").entries, sums.get("list")]).toEqual([7, 1]);
    // Another is not kept waiting by it.
    await write(told("other", "b"));
    await until(3000, "the other is brought", async () => server.of("other").entries === 1);
    await write(outcome(unknown, "a"));
    await until(5000, "it is told and brought", async () => server.of("list").entries === 2);
  });

  test("writes to none of several that its server may be changing at once, and brings each in the end", async () => {
    const server = new ToyServer();
    const { handler, looks } = wordHandler(server);
    startAt("a", { server, handler, leads: true, limits: { afterLongSilenceMs: 60_000 } });
    server.of("two").entries = 7;
    const unknown = intent("one+two", {});
    await write(unknown, told("two", "b"));
    await until(3000, "it is looked at", async () => looks.length > 0);
    expect(looks.every(({ mayWrite }) => !mayWrite)).toBe(true);
    expect(server.of("two").entries).toBe(7);
    await write(outcome(unknown, "a", 403));
    await until(5000, "it is brought", async () => server.of("two").entries === 1);
  });

  test("has its server looked at when it is back, before it is caught up", async () => {
    const server = new ToyServer();
    const { handler } = wordHandler(server);
    const a = startAt("a", { server, handler, limits: { settleMs: 1000 } });
    await write(told("list", "b"));
    await until(3000, "it is there", async () => server.of("list").entries === 1);
    a.follower.noteHealth(false);
    // What it was sent before it fell silent.
    server.of("list").entries = 2;
    a.follower.noteHealth(true);
    await a.follower.caughtUp(AbortSignal.timeout(3000));
    expect(server.of("list").entries).toBe(1);
    // And what it does a moment later.
    server.of("list").entries = 2;
    await until(5000, "it is looked at once more", async () => server.of("list").entries === 1);
  });
});

describe("a word that its server can never be brought to", () => {
  test("keeps the server from nobody for longer than a few looks", async () => {
    const server = new ToyServer();
    const { fields: _, ...whole } = toyHandler(server);
    let looks = 0;
    const words: JournalWords = {
      lane: "lists",
      subjects: ({ itemId }) => [itemId],
      note: () => undefined,
      isEmpty: () => false,
      noteLoss: () => undefined,
      recent: () => ["list"],
      look: async () => {
        looks++;
        return { outcome: "again", why: "it cannot be read" };
      },
    };
    const handler: JournalHandler = { ...whole, repeatsOwn: true, lane: () => "lists", words };
    const a = startAt("a", { server, handler, limits: { settleMs: 100, answersLimit: 3 } });
    await until(3000, "it is looked at", async () => looks > 0);
    a.follower.noteHealth(false);
    const before = looks;
    a.follower.noteHealth(true);
    const signal = AbortSignal.timeout(10_000);
    await a.follower.caughtUp(signal);
    expect(signal.aborted).toBe(false);
    expect(looks - before).toBeGreaterThan(3);
  });
});

describe("position reports", () => {
  test("are one effect in a while, and the last is never left out", async () => {
    const a = startAt("a", { apartMs: 700 });
    const b = startAt("b");
    for (let position = 1; position <= 20; position++) {
      const one = intent("film", { position });
      await write(one, outcome(one, "a"));
    }
    await until(4000, "the last is there", async () => b.server.of("film").position === 20);
    expect(a.events.filter((event) => event === "published").length).toBeLessThanOrEqual(3);
    await until(1000, "none is open", async () => a.follower.openCount === 0);
  });
});

describe("a document", () => {
  test("of this server that is read again is not overwritten with an older one of another", async () => {
    const server = new ToyServer();
    const { fields: _fields, ...rest } = toyHandler(server);
    const handler: JournalHandler = {
      ...rest,
      repeatsOwn: true,
      apply: async ({ entry }) => {
        Object.assign(server.of(entry.itemId), entry.payload);
        return { outcome: "done" };
      },
    };
    server.of("settings").word = "newer";
    await write(effect("settings", { word: "older" }, 0));
    const last = await write(effect("settings", { word: "newer" }, 0, { replica: "a" }));
    // Its ledger is gone, as after a start without a folder.
    const a = startAt("a", { server, handler });
    await until(2000, "both are read", async () => a.follower.appliedNumber >= last);
    expect(server.of("settings").word).toBe("newer");
    // Its own that it has just made is not made once more.
    await write(effect("settings", { word: "newest" }, 0, { replica: "a" }));
    server.of("settings").word = "newest";
    const end = await write(effect("other", { word: "one" }, 0));
    await until(2000, "both are read", async () => a.follower.appliedNumber >= end);
    await a.stop();
    running.splice(running.indexOf(a), 1);
    server.of("settings").word = "not touched";
    const after = startAt("a", { server, handler, ledger: a.ledger });
    await until(2000, "it is live", async () => after.follower.appliedNumber >= end);
    expect(server.of("settings").word).toBe("not touched");
  });
});

describe("a change that its server fails at", () => {
  /** One lane for everything. What has `fails` in it is answered so; of `whole` kinds the newest document counts. */
  function failing(order?: JournalHandler["order"]) {
    const server = new ToyServer();
    const { fields: _fields, ...rest } = toyHandler(server);
    const said: string[] = [];
    let failsAt: string | undefined;
    const handler: JournalHandler = {
      ...rest,
      lane: () => "all",
      ...(order !== undefined && { order }),
      apply: async ({ entry }) => {
        const { word } = entry.payload as { word: string };
        if (word === failsAt) return { outcome: "again", why: "it answers 500", isAnswer: true };
        said.push(word);
        server.of(entry.itemId).word = word;
        return { outcome: "done" };
      },
    };
    const failAt = (word: string | undefined): void => {
      failsAt = word;
    };
    return { server, handler, said, failAt };
  }
  const quick = { triesLimit: 1000, answersLimit: 2, youngAsideRetryMs: 100, asideRetryMs: 100 };

  test("waits aside and holds nobody up, and is done when the server can", async () => {
    const { handler, said, failAt } = failing();
    failAt("one");
    const b = startAt("b", { handler, limits: quick });
    await write(effect("x", { word: "one" }, 0), effect("y", { word: "two" }, 0));
    await until(2000, "the other is there", async () => said.includes("two"));
    expect([b.follower.asideCount, b.follower.lag().entries]).toEqual([1, 0]);
    failAt(undefined);
    await until(2000, "it is there", async () => said.includes("one"));
    await until(1000, "it waits no more", async () => b.follower.asideCount === 0);
    expect(b.events).not.toContain("refused");
  });

  test("is not done after a newer one that says the whole of the same", async () => {
    const { server, handler, said, failAt } = failing(({ itemId }) => ({ whole: itemId }));
    failAt("old");
    const b = startAt("b", { handler, limits: quick });
    await write(effect("x", { word: "old" }, 0), effect("y", { word: "other" }, 0));
    await until(2000, "it waits", async () => said.includes("other"));
    await write(effect("x", { word: "new" }, 0));
    await until(2000, "the newer is there", async () => server.of("x").word === "new");
    failAt(undefined);
    await write(effect("y", { word: "end" }, 0));
    await until(2000, "all is done", async () => b.follower.asideCount === 0);
    await until(2000, "the last is there", async () => said.includes("end"));
    expect(said).toEqual(["other", "new", "end"]);
  });

  test("keeps what has to come after it waiting with it, also after a start", async () => {
    const order: JournalHandler["order"] = ({ userId }) => ({ holds: userId, waitsFor: userId });
    const { handler, said, failAt } = failing(order);
    failAt("made");
    const b = startAt("b", { handler, limits: quick });
    await write(
      effect("", { word: "made" }, 0, { userId: "ann" }),
      effect("", { word: "renamed" }, 0, { userId: "ann" }),
      effect("", { word: "another" }, 0, { userId: "ben" }),
    );
    await until(2000, "others go on", async () => said.includes("another"));
    await until(2000, "both wait", async () => b.follower.asideCount === 2);
    await b.stop();
    running.splice(running.indexOf(b), 1);
    const after = startAt("b", { handler, limits: quick, ledger: b.ledger });
    const last = await write(effect("", { word: "deleted" }, 0, { userId: "ann" }));
    await until(2000, "it is read", async () => after.follower.appliedNumber >= last);
    expect(said).toEqual(["another"]);
    failAt(undefined);
    await until(2000, "none waits", async () => after.follower.asideCount === 0);
    expect(said).toEqual(["another", "made", "renamed", "deleted"]);
  });

  test("for very long is given up with a sentence, and what waited for it goes on", async () => {
    const order: JournalHandler["order"] = ({ userId }) => ({ holds: userId, waitsFor: userId });
    const { handler, said, failAt } = failing(order);
    failAt("made");
    const b = startAt("b", { handler, limits: { ...quick, failingLimitMs: 600 } });
    await write(
      effect("", { word: "made" }, 0, { userId: "ann" }),
      effect("", { word: "renamed" }, 0, { userId: "ann" }),
    );
    await until(5000, "the next is done", async () => said.includes("renamed"));
    expect(b.events.filter((event) => event === "givenUp")).toHaveLength(1);
    expect(b.said.join()).toContain("a change of userData is given up: it answers 500");
    expect(b.follower.asideCount).toBe(0);
  });

  test("because it does not know our key stays before the cursor, with all after it, until it does", async () => {
    const { handler, said } = failing();
    let isRefused = true;
    const apply: JournalHandler["apply"] = (effect, hands, fresh) =>
      isRefused
        ? Promise.resolve({ outcome: "again", why: "it answers 401", isAnswer: true })
        : handler.apply(effect, hands, fresh);
    const b = startAt("b", {
      handler: { ...handler, apply },
      limits: { ...quick, keyRefusedRetryMs: 50, failingLimitMs: 100 },
      isKeyRefused: async () => isRefused,
    });
    await write(effect("x", { word: "one" }, 0), effect("x", { word: "two" }, 0));
    await until(3000, "it is said", async () => b.said.join().includes("refuses its API key"));
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect([b.follower.asideCount, b.follower.lag().entries]).toEqual([0, 2]);
    expect(b.ledger.cursor()?.number ?? 0).toBe(0);
    isRefused = false;
    await until(2000, "both are there", async () => said.length === 2);
    expect(said).toEqual(["one", "two"]);
    expect(b.events).not.toContain("givenUp");
  });

  test("of its own, which it cannot tell of without its key, is told when it can", async () => {
    const { handler } = failing();
    let isRefused = true;
    const a = startAt("a", {
      handler: {
        ...handler,
        publish: async (...asked) =>
          isRefused ? { outcome: "again", why: "it answers 401" } : await handler.publish(...asked),
      },
      limits: { ...quick, triesLimit: 1, keyRefusedRetryMs: 50, givenUpAfterMs: 600 },
      isKeyRefused: async () => isRefused,
      leads: true,
    });
    const one = intent("film", { word: "one" });
    await write(one, outcome(one, "a"));
    await new Promise((resolve) => setTimeout(resolve, 1500));
    isRefused = false;
    await until(2000, "it is told", async () => a.events.includes("published"));
    expect(a.events).not.toContain("givenUp");
  });
});

describe("a journal", () => {
  test("whose entries are not ours, or of no kind that is known, is read on", async () => {
    const b = startAt("b");
    const stranger = createSeal("another cluster's key altogether");
    await theStore().appendJournal([
      "nonsense",
      entryValue(effect("film", { position: 66 }, 0), stranger),
      entryValue({ ...effect("film", {}, 0), kind: "branding" }, seal),
      entryValue({ ...effect("film", {}, 0), kind: "unheard of" as never }, seal),
      entryValue(effect("film", { position: 1 }, 0), seal),
    ]);
    await until(2000, "ours is there", async () => b.server.of("film").position === 1);
    expect(b.events.filter((event) => event === "notOurs").length).toBe(3);
    expect(b.events).toContain("unknownKind");
    expect(b.said.filter((sentence) => sentence.includes("passed by")).length).toBe(3);
  });

  test("that no longer reaches back is begun anew, and the servers are compared", async () => {
    const b = startAt("b", { isHealthy: true });
    await write(effect("film", { position: 1 }, 0));
    await until(2000, "it is there", async () => b.server.of("film").position === 1);
    await b.stop();
    running.splice(running.indexOf(b), 1);
    for (let index = 0; index < 9; index++) {
      await write(...Array.from({ length: 100 }, () => effect("film", { position: index }, 0)));
    }
    const after = startAt("b", { server: b.server, ledger: b.ledger });
    await until(3000, "it was lost", async () => after.events.includes("lost"));
    await until(3000, "the last is there", async () => b.server.of("film").position === 8);
  });

  test("of another generation is told what this sidecar knew, under its old numbers", async () => {
    const generation = (await theStore().journalEnds()).generation;
    const ledger = new MemoryLedger();
    ledger.setCursor({ generation: `not ${generation}`, number: 70 });
    const fields = { position: { number: 60, value: 7 }, favourite: { number: 65, value: true } };
    ledger.setKnown("film", { kind: "userData", userId: "", itemId: "film", fields });
    const b = startAt("b");
    // It has something newer than one of the two.
    b.ledger.setKnown("film", {
      ...{ kind: "userData", userId: "", itemId: "film" },
      fields: { position: { number: 62, value: 8 } },
    });
    b.server.of("film").position = 8;
    const a = startAt("a", { ledger });
    await until(3000, "b has it", async () => b.server.of("film").favourite === true);
    expect(a.events).toContain("lost");
    expect(b.server.of("film").position).toBe(8);
  });

  test("that was lost has the servers compared once what is left of it is done, until that succeeds", async () => {
    const generation = (await theStore().journalEnds()).generation;
    const ledger = new MemoryLedger();
    ledger.setCursor({ generation: `not ${generation}`, number: 70 });
    await write(effect("film", { position: 5 }, 0));
    const server = new ToyServer();
    // Longer than it takes until the follower looks what is to be done.
    server.onApply = () => new Promise((resolve) => setTimeout(resolve, 1500));
    const seen: unknown[] = [];
    const reconcile = async (cause: string): Promise<boolean> => {
      seen.push([cause, server.of("film").position]);
      return seen.length > 1;
    };
    const a = startAt("a", { ledger, server, reconcile });
    await until(6000, "they are equal", async () => !a.follower.isReconciling && seen.length > 0);
    expect(seen).toEqual([
      ["lost", 5],
      ["lost", 5],
    ]);
  });

  test("that was lost has the servers compared also when the sidecar is killed before", async () => {
    const generation = (await theStore().journalEnds()).generation;
    const ledger = new MemoryLedger();
    ledger.setCursor({ generation: `not ${generation}`, number: 70 });
    const before = startAt("a", { ledger, reconcile: async () => false });
    await until(3000, "it was lost", async () => before.events.includes("lost"));
    await before.stop();
    running.splice(running.indexOf(before), 1);
    const causes: string[] = [];
    const after = startAt("a", {
      ledger,
      reconcile: async (cause) => causes.push(cause) > 0,
    });
    await until(3000, "they are equal", async () => causes.length > 0);
    expect([causes, after.events.includes("lost")]).toEqual([["lost"], false]);
  });

  test("that was lost keeps what waits for an item", async () => {
    const server = new ToyServer();
    server.lacking.add("film");
    const a = startAt("a", { server });
    await write(effect("film", { position: 9 }, 0));
    await until(2000, "it waits", async () => a.follower.asideCount === 1);
    await a.stop();
    running.splice(running.indexOf(a), 1);
    const { generation } = await theStore().journalEnds();
    a.ledger.rewind({ generation: `not ${generation}`, number: 70 });
    const after = startAt("a", { server, ledger: a.ledger });
    await until(2000, "it was lost", async () => after.events.includes("lost"));
    server.lacking.delete("film");
    after.follower.noteLibraryChanged();
    await until(2000, "it is there", async () => server.of("film").position === 9);
  });
});
