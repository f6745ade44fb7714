// What the leader starts, where, and in which order; and what it never does.

import { describe, expect, test } from "vitest";
import type { SeenTasks, TaskRun, TaskSchedule, TaskStep } from "../../../core/cluster/tasks.ts";
import { readRun, readSchedule } from "../../../core/cluster/tasks.ts";
import {
  askedRun,
  decideTasks,
  heldName,
  type TaskAction,
  type TaskWorld,
} from "../../../sidecar/tasks/decide.ts";
import { needsWholeMedia, policyOf } from "../../../sidecar/tasks/policy.ts";
import { seen } from "./tasks-world.ts";

const limits = { fateLimitMs: 10_000, awayLimitMs: 600_000 };
const day = 86_400_000;
const hourTicks = 36_000_000_000;
const midnight = Date.parse("2026-11-21T00:00:00Z");
const nowMs = midnight + 4 * 3_600_000;
const epoch = { number: 7, owner: "me" };
const atThree: TaskSchedule = {
  id: "id",
  triggers: [{ Type: "DailyTrigger", TimeOfDayTicks: 3 * hourTicks, MaxRuntimeTicks: hourTicks }],
  original: [],
  sinceMs: midnight - 10 * day,
};
const dueAtMs = midnight + 3 * 3_600_000;

function world(parts: Partial<TaskWorld> & { key?: string; run?: TaskRun | undefined } = {}) {
  const key = parts.key ?? "RefreshLibrary";
  const idle = seen({ [key]: {} });
  return {
    ...{ nowMs, epoch, leader: "b", zone: "UTC", heldUntilMs: new Map() },
    replicas: [
      { name: "b", seen: idle },
      { name: "a", seen: idle },
    ],
    schedules: new Map([[key, atThree]]),
    runs: new Map(parts.run === undefined ? [] : [[key, parts.run]]),
    ...parts,
  } satisfies TaskWorld;
}

function run(steps: readonly TaskStep[], more: Partial<TaskRun> = {}): TaskRun {
  return { dueAtMs, why: "due", epoch, steps, lastStartMs: nowMs - 60_000, startups: {}, ...more };
}

const step = (replica: string, state: TaskStep["state"], ageMs = 0): TaskStep => ({
  replica,
  state,
  atMs: nowMs - ageMs,
});

function brief(actions: readonly TaskAction[]): string[] {
  return actions.map((action) => {
    if (action.type !== "note") return `${action.type} ${action.replica}`;
    const steps = action.run.steps.map(({ replica, state }) => `${replica} ${state}`).join(", ");
    return `note ${steps}${action.run.endedAtMs === undefined ? "" : ", ended"}`;
  });
}

function decided(parts: Parameters<typeof world>[0]): string[] {
  return brief(decideTasks(world(parts), limits));
}

test("each task has one place: everywhere, in turn, or at the leader; what nobody knows goes in turn", () => {
  expect(["DeleteCacheFiles", "RefreshLibrary", "DownloadSubtitles"].map(policyOf)).toEqual([
    "every",
    "turn",
    "leader",
  ]);
  expect(policyOf("SomePluginsTask")).toBe("turn");
  expect(policyOf("constructor")).toBe("turn");
  expect(needsWholeMedia("RefreshLibrary")).toBe(true);
  expect(needsWholeMedia("DeleteCacheFiles")).toBe(false);
});

describe("a task that is due is begun, with a step for each replica where it belongs", () => {
  test("in turn: all, in the order of their names", () => {
    expect(decided({})).toEqual(["note a waiting, b waiting"]);
  });
  test("at the leader: one", () => {
    expect(decided({ key: "DownloadSubtitles" })).toEqual(["note b waiting"]);
  });
  test("what the leader would fetch for all is each server's own where its libraries keep it there", () => {
    const key = "DownloadLyrics";
    const own = { ...seen({ [key]: {} }), ownFiles: [key] };
    const replicas = ["b", "a"].map((name) => ({ name, seen: own }));
    expect(decided({ key, replicas })).toEqual(["note a waiting, b waiting"]);
  });
  test("nothing is begun before its time, nor twice for one time", () => {
    expect(decided({ nowMs: dueAtMs - 1, schedules: since(midnight) })).toEqual([]);
    expect(decided({ nowMs: dueAtMs, schedules: since(midnight) })).toHaveLength(1);
    const ended = run([step("a", "done"), step("b", "done")], { endedAtMs: nowMs - 1 });
    expect(decided({ run: ended })).toEqual([]);
  });
  test("what was missed for days is caught up once", () => {
    const [action] = decideTasks(world(), limits);
    if (action?.type !== "note") throw new Error("no run");
    // The first that was missed names it; the run's start covers all the others.
    expect(action.run.dueAtMs).toBe(midnight - 10 * day + 3 * 3_600_000);
    const ended = { ...action.run, endedAtMs: nowMs };
    expect(decided({ run: ended, nowMs: nowMs + 1000 })).not.toContain("note a waiting, b waiting");
  });
  test("a clock that was set back does not begin an earlier time than the last", () => {
    const last = run([], { dueAtMs: nowMs + day, endedAtMs: 1, lastStartMs: 1 });
    const asked = askedRun("RefreshLibrary", last, world(), limits);
    expect(asked?.dueAtMs).toBe(nowMs + day + 1);
  });

  function since(sinceMs: number) {
    return new Map([["RefreshLibrary", { ...atThree, sinceMs }]]);
  }
});

describe("in turn means one after another", () => {
  const idle = seen({ RefreshLibrary: {} });
  const busy = seen({ RefreshLibrary: { state: "Running" } });
  const replicas = (a: SeenTasks | undefined, b: SeenTasks | undefined) => [
    { name: "a", seen: a },
    { name: "b", seen: b },
  ];
  const waiting = run([step("a", "waiting"), step("b", "waiting")]);

  test("the first begins alone", () => {
    expect(decided({ run: waiting })).toEqual(["start a"]);
  });
  test("the second waits while the first runs, also when nobody knows who started it", () => {
    const first = run([step("a", "running", 5000), step("b", "waiting")]);
    expect(decided({ run: first, replicas: replicas(busy, idle) })).toEqual([]);
    expect(decided({ run: waiting, replicas: replicas(idle, busy) })).toEqual([]);
  });
  test("then it has its turn", () => {
    const first = run([step("a", "done"), step("b", "waiting")]);
    expect(decided({ run: first })).toEqual(["start b"]);
  });
  test("one that is away does not stop the others, and is served when it is back", () => {
    expect(decided({ run: waiting, replicas: replicas(undefined, idle) })).toEqual(["start b"]);
    const left = run([step("a", "waiting"), step("b", "done")]);
    expect(decided({ run: left, replicas: replicas(undefined, idle) })).toEqual([
      "note a waiting, b done, ended",
    ]);
    const ended = run(left.steps, { endedAtMs: nowMs - 1000 });
    expect(decided({ run: ended, replicas: replicas(undefined, idle) })).toEqual([]);
    expect(decided({ run: ended })).toEqual(["start a"]);
  });
  test("one whose start is held does not stop the others", () => {
    const heldUntilMs = new Map([[heldName("RefreshLibrary", "a"), nowMs + 1]]);
    expect(decided({ run: waiting, heldUntilMs })).toEqual(["start b"]);
  });
  test("a server whose triggers are not parked runs the task itself", () => {
    const own = seen({ RefreshLibrary: { triggers: [{ Type: "StartupTrigger" }] } });
    expect(decided({ run: waiting, replicas: replicas(own, idle) })).toEqual(["start b"]);
  });
  test("everywhere means at once", () => {
    const key = "CleanLogFiles";
    expect(decided({ key, run: waiting, schedules: new Map([[key, atThree]]) })).toEqual([
      "start a",
      "start b",
    ]);
  });
});

describe("a step that was begun is looked at, never begun again", () => {
  const one = (task: Parameters<typeof seen>[0][string]) => [
    { name: "a", seen: seen({ RefreshLibrary: task }) },
  ];
  const starting = (ageMs: number) =>
    run([{ ...step("a", "starting", ageMs), resultBefore: "before" }]);
  const begun = { begunDueAtMs: dueAtMs, lastEnd: "before" };

  test("it runs", () => {
    expect(decided({ run: starting(1000), replicas: one({ ...begun, state: "Running" }) })).toEqual(
      ["note a running"],
    );
  });
  test("it has ended: there is a new result", () => {
    expect(decided({ run: starting(1000), replicas: one({ ...begun, lastEnd: "after" }) })).toEqual(
      ["note a done, ended"],
    );
  });
  test("its sidecar never began it: it waits for its turn again", () => {
    expect(decided({ run: starting(1000), replicas: one({ lastEnd: "before" }) })).toEqual([
      "note a waiting",
    ]);
  });
  test("its sidecar began it and nothing shows: it is given up after a while", () => {
    expect(decided({ run: starting(1000), replicas: one(begun) })).toEqual([]);
    expect(decided({ run: starting(10_001), replicas: one(begun) })).toEqual([
      "note a skipped, ended",
    ]);
  });
  test("its server is away: it is waited for, and not for ever", () => {
    const replicas = [{ name: "a", seen: undefined }];
    expect(decided({ run: starting(60_000), replicas })).toEqual([]);
    expect(decided({ run: starting(600_001), replicas })).toEqual(["note a skipped, ended"]);
    expect(decided({ run: starting(60_000), replicas: [] })).toEqual([]);
  });
  test("it runs longer than its trigger allows: it is cancelled, and only while it runs", () => {
    const late = run([{ ...step("a", "running", 3_600_001), resultBefore: "before" }], {
      maxRuntimeMs: 3_600_000,
    });
    expect(decided({ run: late, replicas: one({ ...begun, state: "Running" }) })).toEqual([
      "cancel a",
    ]);
    expect(decided({ run: late, replicas: one({ ...begun, state: "Cancelling" }) })).toEqual([]);
    const early = { ...late, maxRuntimeMs: 3_600_002 };
    expect(decided({ run: early, replicas: one({ ...begun, state: "Running" }) })).toEqual([]);
  });
});

describe("a startup trigger", () => {
  const key = "DeleteTranscodeFiles";
  const schedules = new Map([
    [key, { ...atThree, triggers: [{ Type: "StartupTrigger" as const }], sinceMs: midnight }],
  ]);
  const replicas = (startedAtMs?: number) => [
    { name: "a", seen: seen({ [key]: {} }) },
    { name: "b", seen: seen({ [key]: {} }, startedAtMs) },
  ];

  test("runs the task on the server that started, three seconds later, once", () => {
    expect(decided({ key, schedules, replicas: replicas() })).toEqual([]);
    expect(decided({ key, schedules, replicas: replicas(nowMs - 2000) })).toEqual([]);
    expect(decided({ key, schedules, replicas: replicas(nowMs - 3000) })).toEqual([
      "note b waiting",
    ]);
    const done = run([step("b", "done")], {
      endedAtMs: nowMs,
      startups: { b: nowMs - 3000 },
    });
    expect(decided({ key, schedules, replicas: replicas(nowMs - 3000), run: done })).toEqual([]);
    expect(decided({ key, schedules, replicas: replicas(nowMs - 2999), run: done })).toEqual([]);
    const later = { nowMs: nowMs + 10_000, replicas: replicas(nowMs - 2999) };
    expect(decided({ key, schedules, run: done, ...later })).toEqual(["note b waiting"]);
  });
  test("does not move the task's other times", () => {
    const both = new Map([
      [
        key,
        {
          ...atThree,
          sinceMs: midnight,
          lastStartMs: midnight,
          triggers: [
            { Type: "StartupTrigger" as const },
            { Type: "IntervalTrigger" as const, IntervalTicks: 5 * hourTicks },
          ],
        },
      ],
    ]);
    const [action] = decideTasks(
      world({ key, schedules: both, replicas: replicas(nowMs - 4000) }),
      limits,
    );
    if (action?.type !== "note") throw new Error("no run");
    expect(action.run).toMatchObject({ why: "startup", steps: [{ replica: "b" }] });
    expect(action.run.lastStartMs).toBeUndefined();
  });
});

test("what lies in the store and is no schedule and no run is as if it were not there", () => {
  const bad = [
    "",
    "nonsense",
    "null",
    "[]",
    "7",
    '{"id":"x"}',
    '{"id":"x","triggers":[{"Type":"DailyTrigger"}],"original":[],"sinceMs":1}',
    '{"id":"x","triggers":[],"original":[],"sinceMs":-1}',
    '{"id":7,"triggers":[],"original":[],"sinceMs":1}',
    '{"dueAtMs":1,"why":"due","epoch":{"number":1,"owner":"x"},"steps":[7],"startups":{}}',
    '{"dueAtMs":1,"why":"other","epoch":{"number":1,"owner":"x"},"steps":[],"startups":{}}',
    '{"dueAtMs":1,"why":"due","epoch":{"number":"1","owner":"x"},"steps":[],"startups":{}}',
    JSON.stringify(run(Array.from({ length: 65 }, () => step("a", "waiting")))),
  ];
  for (const value of bad) {
    expect(readSchedule(value), value).toBeUndefined();
    expect(readRun(value), value).toBeUndefined();
  }
  const whole = run([step("a", "starting")], { maxRuntimeMs: 5, startups: { a: 1 } });
  expect(readRun(JSON.stringify(whole))).toEqual(whole);
  expect(readSchedule(JSON.stringify(atThree))).toEqual(atThree);
});
