// What the mirror writes down of a server's sessions, in an embedded store, as the server's answers change.

import { afterEach, beforeEach, expect, test } from "vitest";
import { Memory } from "../../../core/cluster/memory.ts";
import {
  lostKeepMs,
  readSessionNote,
  type SeenSession,
  sessionNoteId,
} from "../../../core/cluster/sessions.ts";
import { createSeal } from "../../../core/service/seal.ts";
import { openEmbeddedStore } from "../../../core/store/embedded.ts";
import type { Store } from "../../../core/store/store.ts";
import { Mirror, mirrorLimits } from "../../../sidecar/mirror.ts";

const id = "ab".repeat(16);
const noteId = sessionNoteId("a", id);
const dto = {
  Id: id,
  UserId: "1".repeat(32),
  DeviceId: "tv",
  LastActivityDate: "2026-11-21T05:00:00.0000000Z",
};

let nowMs = 1_700_000_000_000;
let isHealthy = true;
let sessions: unknown = [dto];
let puts = 0;
let store: Store;
let memory: Memory;
let mirror: Mirror;
let ending: AbortController;

beforeEach(async () => {
  isHealthy = true;
  sessions = [dto];
  puts = 0;
  store = openEmbeddedStore({
    limits: { changesKept: 1000, revokedKeepMs: 3_600_000, callLimitMs: 1000 },
    now: () => nowMs,
  });
  memory = new Memory({
    store,
    seal: createSeal("a cluster key for tests only"),
    log: { info: () => undefined, warn: () => undefined },
    tokensRemembered: 10,
    storeRetryMs: 5,
    wallMs: () => nowMs,
  });
  ending = new AbortController();
  void memory.run(ending.signal);
  await memory.loaded;
  mirror = begun();
});

afterEach(async () => {
  ending.abort();
  await store.close();
});

function begun(): Mirror {
  return new Mirror({
    ...mirrorLimits,
    replica: "a",
    client: {
      callWithKey: async () => ({
        outcome: "answered",
        status: 200,
        text: JSON.stringify(sessions),
      }),
    },
    store: new Proxy(store, {
      get(target, name) {
        if (name === "putNote") puts += 1;
        return Reflect.get(target, name);
      },
    }),
    memory,
    isHealthy: () => isHealthy,
    monotonicMs: () => nowMs,
    log: { warn: () => undefined },
  });
}

function noted(): SeenSession | undefined {
  const note = memory.note("session", noteId);
  return note === undefined ? undefined : readSessionNote(note);
}

test("a session that ended while its server ran is gone at once", async () => {
  await mirror.look();
  expect(noted()).toMatchObject({ deviceId: "tv", isLost: false });
  sessions = [];
  await mirror.look();
  expect(noted()).toBeUndefined();
});

const losses: readonly [string, () => void][] = [
  [
    "was away",
    () => {
      isHealthy = false;
    },
  ],
  ["was restarted between two looks", () => mirror.noteLost()],
  [
    "has another sidecar since",
    () => {
      mirror = begun();
    },
  ],
];
test.each(losses)("what a server had that %s stays for a minute, as lost", async (_name, lose) => {
  await mirror.look();
  lose();
  sessions = [];
  await mirror.look();
  isHealthy = true;
  await mirror.look();
  await mirror.look();
  expect(noted()).toMatchObject({ deviceId: "tv", isLost: true });
  nowMs += lostKeepMs + 1;
  expect(noted()).toBeUndefined();
});

test("a lost session that the server has again is lost no longer", async () => {
  await mirror.look();
  mirror.noteLost();
  sessions = [];
  await mirror.look();
  expect(noted()?.isLost).toBe(true);
  sessions = [dto];
  await mirror.look();
  expect(noted()?.isLost).toBe(false);
});

test("an idle session is written once and then before its note would end, a position now and then", async () => {
  for (let look = 0; look < 20; look += 1) {
    await mirror.look();
    nowMs += mirrorLimits.lookIntervalMs;
  }
  expect(puts).toBe(1);
  for (let look = 0; look < 20; look += 1) {
    sessions = [{ ...dto, PlayState: { PositionTicks: look } }];
    await mirror.look();
    nowMs += mirrorLimits.lookIntervalMs;
  }
  expect(puts).toBeLessThanOrEqual(1 + 1 + 20_000 / mirrorLimits.positionIntervalMs);
  const before = puts;
  nowMs += mirrorLimits.noteTtlMs * 0.6;
  await mirror.look();
  expect(puts).toBe(before + 1);
});

test.each(["no list", { Id: id }, null])(
  "an answer that is no list changes nothing: %o",
  async (body) => {
    await mirror.look();
    sessions = body;
    await mirror.look();
    expect(noted()?.deviceId).toBe("tv");
  },
);
