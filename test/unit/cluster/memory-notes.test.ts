// What one process remembers of notes, pins and the lease: on real embedded stores, which can lose everything
// under it.

import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Memory } from "../../../core/cluster/memory.ts";
import { createSeal } from "../../../core/service/seal.ts";
import { openEmbeddedStore } from "../../../core/store/embedded.ts";
import type {
  Change,
  Lease,
  Note,
  NoteKind,
  Pin,
  Snapshot,
  Store,
} from "../../../core/store/store.ts";

const limits = { changesKept: 1000, revokedKeepMs: 3_600_000, callLimitMs: 1000 };
const quiet = { info: () => undefined, warn: () => undefined };

let nowMs = 1_700_000_000_000;
let inner: Store;
let store: Store;
let memory: Memory;
let ending: AbortController;

function emptyStore(): Store {
  return openEmbeddedStore({ limits, now: () => nowMs });
}

beforeEach(() => {
  inner = emptyStore();
  // The data behind it can be taken away and others put there, as in a Redis that was emptied.
  store = new Proxy(inner, { get: (_target, name) => Reflect.get(inner, name) });
  memory = new Memory({
    store,
    seal: createSeal("a cluster key for tests only"),
    log: quiet,
    tokensRemembered: 100,
    storeRetryMs: 5,
    wallMs: () => nowMs,
  });
  ending = new AbortController();
});
afterEach(async () => {
  ending.abort();
  await inner.close();
});

const note = { kind: "session", id: "a:1", replica: "a", value: "[1]" } as const;

async function until(isSo: () => boolean): Promise<void> {
  for (let tries = 0; !isSo(); tries += 1) {
    if (tries > 400) throw new Error("it did not come");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function heardNotes(): Note[] {
  const heard: Note[] = [];
  memory.onNote((one) => heard.push(one));
  return heard;
}

describe("a note", () => {
  test("is known to whoever follows, from before and as it changes", async () => {
    await store.putNote(note, 0);
    void memory.run(ending.signal);
    await memory.loaded;
    expect(memory.note("session", "a:1")?.value).toBe("[1]");
    const heard = heardNotes();
    await store.putNote({ ...note, value: "[2]" }, 0);
    await until(() => memory.note("session", "a:1")?.value === "[2]");
    await store.dropNotes({ kind: "session", id: "a:1" });
    await until(() => memory.notes("session").size === 0);
    expect(heard.map(({ value }) => value)).toEqual(["[2]", ""]);
  });

  test("is told once, though who wrote it applied it before the feed brought it", async () => {
    void memory.run(ending.signal);
    await memory.loaded;
    const heard = heardNotes();
    memory.apply({ type: "note", note: { ...note, expiresAtMs: 0 } });
    await store.putNote(note, 0);
    await store.putNote({ ...note, id: "a:2" }, 0);
    await until(() => memory.notes("session").size === 2);
    expect(heard.map(({ id }) => id)).toEqual(["a:1", "a:2"]);
  });

  test("ends on the store's clock, which this machine's need not agree with, and that is told", () => {
    const heard = heardNotes();
    memory.noteStoreTime(nowMs + 5000);
    memory.apply({ type: "note", note: { ...note, expiresAtMs: nowMs + 6000 } });
    memory.apply({ type: "note", note: { ...note, id: "a:2", expiresAtMs: 0 } });
    expect(memory.notes("session").size).toBe(2);
    nowMs += 999;
    expect(memory.notes("session").size).toBe(2);
    nowMs += 1;
    expect([...memory.notes("session").keys()]).toEqual(["a:2"]);
    expect(heard.map(({ id, value }) => `${id} ${value}`)).toEqual(["a:1 [1]", "a:2 [1]", "a:1 "]);
  });

  test("lives on when it is prolonged, which is no news", () => {
    const heard = heardNotes();
    memory.apply({ type: "note", note: { ...note, expiresAtMs: nowMs + 1000 } });
    memory.apply({ type: "note", note: { ...note, expiresAtMs: nowMs + 9000 } });
    nowMs += 5000;
    expect(memory.notes("session").size).toBe(1);
    expect(heard).toHaveLength(1);
  });

  test("of a kind that only a newer program knows is kept apart and harms nobody", () => {
    const odd = { ...note, kind: "future" as NoteKind, expiresAtMs: 0 };
    memory.apply({ type: "note", note: odd });
    expect(memory.notes("session").size).toBe(0);
    memory.apply({ type: "note", note: { ...odd, value: "" } });
  });
});

describe("a process that fell behind", () => {
  test("forgets the notes that were dropped meanwhile, and says that it read again", async () => {
    await store.putNote(note, 0);
    await store.putNote({ ...note, id: "a:2" }, 0);
    let reloads = 0;
    memory.onReload(() => {
      reloads += 1;
    });
    const first = new AbortController();
    const following = memory.run(first.signal);
    await memory.loaded;
    first.abort();
    await following;
    await store.dropNotes({ kind: "session", id: "a:1" });
    expect(memory.notes("session").size).toBe(2);
    void memory.run(ending.signal);
    await until(() => reloads === 1);
    expect([...memory.notes("session").keys()]).toEqual(["a:2"]);
  });
});

describe("a store that lost everything", () => {
  /** The data are gone, and others begin; whoever follows is told. */
  async function loseEverything(): Promise<void> {
    const old = inner;
    inner = emptyStore();
    await old.close();
  }

  test("is given back the notes that this process knows, where nobody wrote newer ones", async () => {
    await store.putNote(note, 0);
    await store.putNote({ ...note, id: "a:2" }, 60_000);
    await store.putNote({ ...note, kind: "schedule", id: "scan", replica: "" }, 0);
    void memory.run(ending.signal);
    await memory.loaded;
    let reloads = 0;
    memory.onReload(() => {
      reloads += 1;
    });
    await loseEverything();
    await inner.putNote({ ...note, value: "[newer]" }, 0);
    await until(() => reloads === 1);
    let after: Snapshot = await inner.load();
    for (let tries = 0; after.notes.length < 3 && tries < 100; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      after = await inner.load();
    }
    const found = after.notes.map(({ kind, id, value }) => `${kind} ${id} ${value}`).sort();
    expect(found).toEqual(["schedule scan [1]", "session a:1 [newer]", "session a:2 [1]"]);
    expect(memory.note("session", "a:1")?.value).toBe("[newer]");
    const ttlMs = (after.notes.find(({ id }) => id === "a:2")?.expiresAtMs ?? 0) - nowMs;
    expect(ttlMs).toBe(60_000);
  });

  test("has no leader until it grants one, but the highest number is remembered", async () => {
    const claim = { replica: "a", gateUrl: "", owner: "o", ttlMs: 60_000, above: 6 };
    await store.holdLease(claim);
    void memory.run(ending.signal);
    await memory.loaded;
    expect(memory.lease).toMatchObject({ replica: "a", epoch: { number: 7, owner: "o" } });
    const heard: Lease[] = [];
    memory.onLease((lease) => heard.push(lease));
    await loseEverything();
    await until(() => memory.lease === undefined);
    expect(memory.highestLeaseNumber).toBe(7);
    await inner.holdLease({ ...claim, replica: "b", owner: "p", above: 7 });
    await until(() => memory.lease?.replica === "b");
    expect(heard).toMatchObject([{ epoch: { number: 8, owner: "p" } }]);
  });
});

describe("a lease", () => {
  const lease = (number: number, replica = "a") => ({
    type: "lease" as const,
    lease: { epoch: { number, owner: `o${number}` }, replica, gateUrl: "" },
  });

  test("of an older epoch is no news, and the same again is none either", () => {
    const heard: Lease[] = [];
    const stop = memory.onLease((one) => heard.push(one));
    for (const change of [lease(2), lease(2), lease(1, "b"), lease(3, "b")]) memory.apply(change);
    stop();
    memory.apply(lease(4));
    expect(heard.map(({ epoch }) => epoch.number)).toEqual([2, 3]);
    expect(memory.lease?.epoch.number).toBe(4);
  });
});

describe("a pin", () => {
  const pin = (number: number, replica: string, expiresAtMs: number): Change => ({
    type: "pin",
    pin: { kind: "syncPlay", id: "g", replica, epoch: { number, owner: "o" }, expiresAtMs },
  });

  test("that was moved here stays moved while the feed still brings what was before", () => {
    const heard: Pin[] = [];
    memory.onPin((one) => heard.push(one));
    memory.apply(pin(1, "a", nowMs + 1000));
    memory.apply(pin(2, "b", nowMs + 2000));
    memory.apply(pin(1, "a", nowMs + 1000));
    expect(memory.pinOf("syncPlay", "g", nowMs)?.replica).toBe("b");
    expect(heard.map(({ replica }) => replica)).toEqual(["a", "b"]);
  });

  test("that was dropped is gone, and one that begins anew begins with its first number", () => {
    memory.apply(pin(3, "a", nowMs + 1000));
    memory.apply(pin(3, "a", 0));
    expect(memory.pinOf("syncPlay", "g", nowMs)).toBeUndefined();
    memory.apply(pin(1, "b", nowMs + 1000));
    expect(memory.pinOf("syncPlay", "g", nowMs)?.replica).toBe("b");
    nowMs += 1001;
    expect(memory.pinOf("syncPlay", "g", nowMs)).toBeUndefined();
    memory.apply(pin(1, "c", nowMs + 1000));
    expect(memory.pinOf("syncPlay", "g", nowMs)?.replica).toBe("c");
  });
});
