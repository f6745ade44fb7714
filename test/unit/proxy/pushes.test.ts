// Which pushes are left out because a single server would not have sent them: those that tell of nothing but a position
// which came by the journal. And that everything else is carried as it came: what is news, what cannot be read, what
// is another user's, and whatever happens with one replica alone. The journal is the embedded store's.

import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Effect, type Entry, entryValue, type Intent } from "../../../core/cluster/journal.ts";
import { createMetrics } from "../../../core/service/metrics.ts";
import { createSeal } from "../../../core/service/seal.ts";
import { openEmbeddedStore } from "../../../core/store/embedded.ts";
import type { Store } from "../../../core/store/store.ts";
import { Pushes, pushesLimits } from "../../../proxy/pushes.ts";

const seal = createSeal("a-key-of-this-test-and-of-no-other");
const user = "11111111222233334444555555555555";
const film = "af87525677534c8af23739c31aa4b187";
const library = "bbbbbbbb77534c8af23739c31aa4b187";
const second = "cccccccc77534c8af23739c31aa4b187";

let store: Store;
let pushes: Pushes;
let nowMs: number;
let ending: AbortController;
let hasSeveral: () => void;
let entries: number;

beforeEach(() => {
  nowMs = 0;
  entries = 0;
  ending = new AbortController();
  store = openEmbeddedStore({ limits: { changesKept: 10, revokedKeepMs: 1, callLimitMs: 1000 } });
  const several = new Promise<void>((resolve) => {
    hasSeveral = resolve;
  });
  pushes = new Pushes({
    store,
    seal,
    clock: { monotonicMs: () => nowMs },
    metrics: createMetrics("0"),
    whenSeveral: () => several,
    noteStoreFailure: () => undefined,
    limits: { ...pushesLimits, itemsKept: 100 },
  });
  void pushes.run(ending.signal);
});

afterEach(async () => {
  ending.abort();
  hasSeveral();
  await store.close();
});

async function follows(): Promise<void> {
  hasSeveral();
  await new Promise((resolve) => setTimeout(resolve, 15));
}

async function write(entry: Omit<Effect, "id"> | Omit<Intent, "id">, by = seal): Promise<void> {
  const whole = { ...entry, id: `e${++entries}` } as Entry;
  await store.appendJournal([entryValue(whole, by)]);
  await new Promise((resolve) => setTimeout(resolve, 15));
}

function effect(payload: unknown, itemId = film, replica = "b"): Omit<Effect, "id"> {
  return {
    type: "effect",
    of: "",
    ofNumber: 0,
    kind: "userData",
    replica,
    userId: user,
    itemId,
    payload,
  };
}

const position = (ticks: number) => effect({ cause: "progress", values: { position: ticks } });

type Pushed = Readonly<Record<string, unknown>>;
const pushed = (ticks: number, more: Pushed = {}): Pushed => ({
  PlaybackPositionTicks: ticks,
  PlayCount: 1,
  IsFavorite: false,
  Played: false,
  ItemId: film,
  ...more,
});
const parent = (more: Pushed = {}): Pushed => ({
  PlaybackPositionTicks: 0,
  PlayCount: 0,
  IsFavorite: false,
  Played: false,
  UnplayedItemCount: 3,
  ItemId: library,
  ...more,
});

/** The items a client of `replica` is told of; undefined: it is told nothing. */
function told(list: readonly unknown[], replica = "a", userId = user): unknown[] | undefined {
  const text = JSON.stringify({
    MessageType: "UserDataChanged",
    Data: { UserId: userId, UserDataList: list },
    MessageId: "m",
  });
  const shown = pushes.shown(replica, text);
  if (shown === undefined) return undefined;
  const message = JSON.parse(shown);
  expect({ ...message, Data: 0 }).toEqual({
    MessageType: "UserDataChanged",
    Data: 0,
    MessageId: "m",
  });
  return message.Data.UserDataList;
}

const later = (ms: number): void => {
  nowMs += ms;
};

test("a mere position is not told, nor its parent, to none of the user's sockets", async () => {
  await follows();
  await write(position(500));
  expect(told([pushed(500), parent()])).toBeUndefined();
  expect(told([pushed(500), parent()])).toBeUndefined();
  later(5000);
  await write(position(600));
  expect(told([pushed(600), parent()])).toBeUndefined();
});

test("a position that a sidecar saw at its server is one, too; what it saw besides is not", async () => {
  await follows();
  await write(effect({ cause: "seen", values: { position: 500 } }));
  expect(told([pushed(500)])).toBeUndefined();
  later(5000);
  await write(effect({ cause: "seen", values: { position: 600, favourite: true } }));
  expect(told([pushed(600, { IsFavorite: true })])).toHaveLength(1);
});

test("on the server that it came from a push is about something else", async () => {
  await follows();
  await write(position(500));
  expect(told([pushed(500)], "b")).toEqual([pushed(500)]);
});

test("what is told with it is told: the item's other fields, and other items", async () => {
  await follows();
  await write(position(500));
  expect(told([pushed(500), parent()])).toBeUndefined();
  later(5000);
  await write(position(600));
  const favourite = pushed(600, { IsFavorite: true });
  expect(told([favourite, parent()])).toEqual([favourite, parent()]);
  // Once for each of the user's sockets.
  expect(told([favourite, parent()])).toEqual([favourite, parent()]);
  later(5000);
  expect(told([favourite, parent()])).toBeUndefined();
  const other = { ...pushed(0), ItemId: second, Played: true };
  const lists = { ...parent(), ItemId: "dddddddd77534c8af23739c31aa4b187" };
  expect(told([favourite, parent(), other, lists])).toEqual([parent(), other, lists]);
});

test("a change that somebody asked for is told although nothing was known of the item before", async () => {
  await follows();
  await write(effect({ cause: "favourite", values: { favourite: true } }));
  await write(position(500));
  const news = pushed(500, { IsFavorite: true });
  expect(told([news])).toEqual([news]);
  later(1000);
  expect(told([news])).toBeUndefined();
});

test("an intent of this or another door counts as asked for", async () => {
  await follows();
  await write({
    type: "intent",
    kind: "userData",
    identityKey: "who",
    userId: user,
    itemId: film,
    request: { method: "POST", path: "/", query: "", contentType: "", body: "" },
    facts: { cause: "rating", fields: ["likes", "rating"], values: { likes: true, rating: 10 } },
  });
  await write(position(500));
  expect(told([pushed(500, { Likes: true })])).toHaveLength(1);
});

test("a position of zero is left out only where a play was begun, for a mark leaves the same behind", async () => {
  await follows();
  await write(position(0));
  expect(told([pushed(0, { PlayCount: 0 })])).toHaveLength(1);
  later(5000);
  await write(position(0));
  expect(told([pushed(0, { PlayCount: 0, Played: true })])).toHaveLength(1);
});

test("a position is remembered for a minute", async () => {
  await follows();
  await write(position(500));
  later(61_000);
  expect(told([pushed(500)])).toHaveLength(1);
});

test("what another cluster wrote, or is no effect, drops nothing", async () => {
  await follows();
  await write(position(500), createSeal("the-key-of-somebody-else-entirely"));
  await write(effect({ cause: "progress", values: { position: -5 } }));
  await write(effect({ cause: "progress" }));
  await write(effect("progress"));
  await store.appendJournal(["no entry at all"]);
  expect(told([pushed(500)])).toHaveLength(1);
  later(1000);
  // And it still follows.
  await write(position(500));
  expect(told([pushed(500, { ItemId: film.toUpperCase() })])).toBeUndefined();
});

test("another user's push is carried as it came", async () => {
  await follows();
  await write(position(500));
  expect(told([pushed(500)], "a", "22222222222233334444555555555555")).toHaveLength(1);
});

test("a process with one replica looks at nothing", async () => {
  await write(position(500));
  expect(told([pushed(500)])).toHaveLength(1);
});

test("whatever a server sends, it is carried or left out, and nothing is thrown", async () => {
  await follows();
  await write(position(500));
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
      expect(pushes.shown("a", text)).toBe(text);
    }),
  );
  fc.assert(
    fc.property(fc.array(fc.anything()), (list) => {
      const text = JSON.stringify({ Data: { UserId: user, UserDataList: list } }, (_key, value) =>
        typeof value === "bigint" ? String(value) : value,
      );
      expect(pushes.shown("a", text)).toBe(text);
    }),
  );
});
