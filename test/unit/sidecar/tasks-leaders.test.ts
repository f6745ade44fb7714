// A thousand leaders, one after another, on a simulated clock: each is killed, or frozen and thawed after its
// successor has begun, at some boundary between two of its effects; the store loses its last writes now and
// then, and servers die in mid-task. However it comes, no task is started twice for one due time.

import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { Memory } from "../../../core/cluster/memory.ts";
import type { TaskHands, TaskSchedule } from "../../../core/cluster/tasks.ts";
import { createSeal } from "../../../core/service/seal.ts";
import type { Epoch, Note, Store } from "../../../core/store/store.ts";
import { TaskLeader } from "../../../sidecar/tasks/leader.ts";
import { handsOf, Killed, SimulatedServer } from "./tasks-world.ts";

const day = 86_400_000;
const start = Date.parse("2026-01-01T00:30:00Z");
const names = ["a", "b", "c"];
const key = "RefreshLibrary";
const everywhere = "CleanLogFiles";
// Every start puts a due time on a disk; one in memory makes a thousand leaders a matter of seconds.
const root = mkdtempSync(
  join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "jellybloom-leaders-"),
);
afterAll(() => rmSync(root, { recursive: true, force: true }));
const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined };

const schedule: TaskSchedule = {
  id: key,
  triggers: [{ Type: "DailyTrigger", TimeOfDayTicks: 3 * 36_000_000_000 }],
  original: [],
  sinceMs: start,
};

/** The same numbers every time: a failure can be looked at again. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 4_294_967_296;
    return state / 4_294_967_296;
  };
}

type End = "before" | "after" | "freeze" | "lives";

/** Counts a leader's effects, and ends or stops the leader at one of them. */
class Life {
  readonly #endsAt: number;
  readonly #end: End;
  #count = 0;
  #thaw: () => void = () => undefined;
  readonly frozen: Promise<void>;
  #tellFrozen: () => void = () => undefined;
  isOver = false;

  constructor(endsAt: number, end: End) {
    this.#endsAt = endsAt;
    this.#end = end;
    this.frozen = new Promise((resolve) => {
      this.#tellFrozen = resolve;
    });
  }

  thaw(): void {
    this.#thaw();
  }

  async pass<Value>(effect: () => Promise<Value>): Promise<Value> {
    if (this.isOver && this.#end !== "freeze") throw new Killed();
    this.#count++;
    if (this.#count !== this.#endsAt || this.#end === "lives") return await effect();
    this.isOver = true;
    if (this.#end === "before") throw new Killed();
    if (this.#end === "after") {
      await effect();
      throw new Killed();
    }
    this.#tellFrozen();
    await new Promise<void>((resolve) => {
      this.#thaw = resolve;
    });
    // It had looked at its lease before it was frozen, and does what it was about to do.
    return await effect();
  }
}

test("1,000 leader changes: no task is started twice for one due time, none on two servers in turn", {
  timeout: 120_000,
}, async () => {
  const random = randomFrom(20_261_121);
  let nowMs = start;
  const now = () => nowMs;
  const servers = new Map(
    names.map((name) => [name, new SimulatedServer(now, [key, everywhere])] as const),
  );
  const disks = new Map(
    [...servers].map(([name, server]) => {
      return [name, handsOf(server, now, { folder: join(root, name) })] as const;
    }),
  );
  let notes = new Map<string, Note>();
  const put = (note: Omit<Note, "expiresAtMs">) => {
    notes.set(`${note.kind} ${note.id}`, { ...note, expiresAtMs: 0 });
  };
  for (const id of [key, everywhere]) {
    put({ kind: "schedule", id, replica: "", value: JSON.stringify({ ...schedule, id }) });
  }
  let older = new Map(notes);
  const overlaps: string[] = [];
  let frozen: { life: Life; cycle: Promise<unknown> } | undefined;
  let number = 0;

  function leaderOf(life: Life, epoch: Epoch): TaskLeader {
    const store = {
      kind: "embedded",
      putNote: (note: Omit<Note, "expiresAtMs">) => life.pass(async () => put(note)),
    } as unknown as Store;
    const seal = createSeal("a key for a simulation");
    const memory = new Memory({ store, seal, log: silent, tokensRemembered: 1, storeRetryMs: 1 });
    memory.noteStoreSuccess();
    for (const note of notes.values()) memory.apply({ type: "note", note });
    const hands = new Map<string, TaskHands>();
    for (const [name, { hands: own }] of disks) {
      hands.set(name, {
        read: (of) => life.pass(() => own.read(of)),
        mayStart: (of) => life.pass(() => own.mayStart(of)),
        cancel: (order) => life.pass(() => own.cancel(order)),
        start: (order) =>
          life.pass(async () => {
            const before = [...servers].filter(([, server]) => server.running(key));
            const count = servers.get(name)?.starts.length ?? 0;
            const answer = await own.start(order);
            const hasStarted = (servers.get(name)?.starts.length ?? 0) > count;
            if (order.key === key && hasStarted && before.length > 0) {
              overlaps.push(`${name} at ${new Date(nowMs).toISOString()}`);
            }
            return answer;
          }),
      });
    }
    return new TaskLeader({
      ...{ replica: "a", store, memory, log: silent, zone: "UTC", wallMs: now },
      lease: {
        mayAct: () => (life.isOver ? undefined : { epoch }),
        onChange: () => () => undefined,
      },
      hands: () => hands,
      ...{ busyIntervalMs: 1, idleIntervalMs: 1, heldRetryMs: 10_000 },
      ...{ fateLimitMs: 10_000, awayLimitMs: 600_000 },
    });
  }

  for (let change = 0; change < 1000; change++) {
    number++;
    const ends = ["before", "after", "freeze", "lives"] as const;
    const end: End = frozen === undefined ? (ends[Math.floor(random() * 4)] ?? "lives") : "before";
    const life = new Life(1 + Math.floor(random() * 24), end);
    const leader = leaderOf(life, { number, owner: `leader-${number}` });
    for (let cycle = 0; cycle < 8 && !life.isOver; cycle++) {
      const work = leader.cycle().catch((error: unknown) => {
        if (!(error instanceof Killed)) throw error;
      });
      const isFrozen = await Promise.race([work.then(() => false), life.frozen.then(() => true)]);
      if (isFrozen) {
        frozen = { life, cycle: work };
        break;
      }
      // The leader before was frozen in mid-deed and goes on now, in the middle of this one's time.
      if (frozen !== undefined && frozen.life !== life && random() < 0.5) {
        frozen.life.thaw();
        await frozen.cycle;
        frozen = undefined;
      }
      nowMs += Math.floor(random() * 30_000);
    }
    // The store falls over to a copy that lacks its last writes.
    if (random() < 0.1) notes = new Map(older);
    if (random() < 0.3) older = new Map(notes);
    for (const server of servers.values()) {
      if (random() < 0.03) server.kill();
      else server.isUp = true;
      // Some runs outlast several leaders.
      server.runMs = random() < 0.5 ? 40_000 : 9_000_000;
    }
    // About an hour from leader to leader.
    nowMs += Math.floor(random() * 7_200_000);
  }
  if (frozen !== undefined) {
    frozen.life.thaw();
    await frozen.cycle;
  }

  const days = Math.floor((nowMs - start) / day);
  expect(days).toBeGreaterThan(30);
  expect(overlaps).toEqual([]);
  for (const [name, server] of servers) {
    for (const task of [key, everywhere]) {
      const ofDay = new Map<number, number>();
      for (const { key: started, atMs } of server.starts) {
        if (started !== task) continue;
        // A day lasts from three o'clock to three o'clock.
        const of = Math.floor((atMs - start - 2.5 * 3_600_000) / day);
        ofDay.set(of, (ofDay.get(of) ?? 0) + 1);
      }
      const twice = [...ofDay].filter(([, count]) => count > 1);
      expect(twice, `${task} on ${name}: days with more than one start`).toEqual([]);
      // And it is not only that nothing is ever started.
      expect(ofDay.size, `${task} on ${name} over ${days} days`).toBeGreaterThan(days * 0.9);
    }
  }
});
