// The parts around the leader's decisions: what is saved and parked, hands that refuse what is old, media that
// are not whole, and a leader at work on simulated servers.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { Memory } from "../../../core/cluster/memory.ts";
import type { SeenTask, TaskSchedule } from "../../../core/cluster/tasks.ts";
import type { Trigger } from "../../../core/jellyfin/triggers.ts";
import { createSeal } from "../../../core/service/seal.ts";
import type { Note, Store } from "../../../core/store/store.ts";
import { TaskLeader } from "../../../sidecar/tasks/leader.ts";
import { changedTasks, ownTasksOf, restoreInFiles } from "../../../sidecar/tasks/leave.ts";
import { folderProblem, type MediaEntry, mediaProblem } from "../../../sidecar/tasks/media.ts";
import { planParking } from "../../../sidecar/tasks/park.ts";
import {
  nothingSaved,
  readSavedTasks,
  SavedTasksKeeper,
  SavedTasksProblem,
} from "../../../sidecar/tasks/saved.ts";
import { handsOf, SimulatedServer, seen } from "./tasks-world.ts";

const root = mkdtempSync(join(tmpdir(), "jellybloom-task-parts-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let folders = 0;
const folder = () => join(root, String(++folders));

const hourTicks = 36_000_000_000;
const daily: Trigger = { Type: "DailyTrigger", TimeOfDayTicks: 3 * hourTicks };
const startup: Trigger = { Type: "StartupTrigger" };
const schedule = (triggers: readonly Trigger[], sinceMs = 1): TaskSchedule => ({
  ...{ id: "id", triggers, original: triggers, sinceMs },
});
const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined };

describe("parking", () => {
  const plan = (
    tasks: Parameters<typeof seen>[0],
    more: { saved?: typeof nothingSaved; schedules?: Map<string, TaskSchedule> } = {},
  ) =>
    planParking({
      nowMs: 1000,
      seen: seen(tasks).tasks,
      saved: more.saved ?? nothingSaved,
      schedules: more.schedules ?? new Map(),
    });
  const keys = (tasks: readonly SeenTask[]) => tasks.map(({ key }) => key);

  test("saves what a server has, and that it has nothing, and makes it the cluster's", () => {
    const lastResult = { StartTimeUtc: "1970-01-01T00:00:01Z", EndTimeUtc: "1970-01-01T00:00:02Z" };
    const planned = plan({ Scan: { triggers: [daily], lastResult }, Clean: {} });
    expect(planned.originals).toEqual({
      Scan: { id: "Scan", triggers: [daily] },
      Clean: { id: "Clean", triggers: [] },
    });
    expect(planned.schedules).toEqual({
      Scan: {
        ...{ id: "Scan", triggers: [daily], original: [daily], sinceMs: 1000 },
        ...{ lastStartMs: 1000, lastEndMs: 2000 },
      },
    });
    expect(keys(planned.park)).toEqual(["Scan"]);
  });

  test("of a copy of a parked server nothing is believed", () => {
    const planned = plan({ Scan: {}, Clean: {} });
    expect(planned).toMatchObject({ originals: {}, schedules: {}, park: [] });
  });

  test("a copy has the cluster's schedule on its own disk, as it is now", () => {
    const saved = { ...nothingSaved, schedules: { Scan: schedule([], 4), Clean: schedule([], 9) } };
    const schedules = new Map([
      ["Scan", schedule([daily], 5)],
      ["Clean", schedule([daily], 8)],
      ["New", schedule([daily])],
    ]);
    expect(Object.keys(plan({}, { saved, schedules }).copies)).toEqual(["Scan", "New"]);
  });

  test("saves a second time only what is new, and the cluster's triggers count", () => {
    const saved = { ...nothingSaved, originals: { Scan: { id: "Scan", triggers: [startup] } } };
    const schedules = new Map([["Scan", schedule([startup])]]);
    const planned = plan({ Scan: { triggers: [daily] } }, { saved, schedules });
    expect(planned).toMatchObject({ originals: {}, schedules: {}, differing: ["Scan"] });
    expect(keys(planned.park)).toEqual(["Scan"]);
  });

  test("leaves a task alone whose triggers are not sound", () => {
    const planned = plan({ Odd: { triggers: [{ Type: "DailyTrigger" }] }, Scan: {} });
    expect(planned).toMatchObject({ park: [], unreadable: [{ key: "Odd" }], schedules: {} });
  });

  test("gives a store back what it lost, all of it or its last writes, and takes nothing back", () => {
    const saved = { ...nothingSaved, schedules: { Scan: schedule([daily], 5), Old: schedule([]) } };
    expect(plan({}, { saved }).restored).toEqual(["Scan", "Old"]);
    const older = new Map([
      ["Scan", schedule([startup], 4)],
      ["Old", schedule([daily], 9)],
    ]);
    const planned = plan({}, { saved, schedules: older });
    expect(planned.restored).toEqual(["Scan"]);
    expect(planned.schedules.Scan?.triggers).toEqual([daily]);
  });

  test("calls nothing lost that another server wrote alike in the same moment", () => {
    const saved = { ...nothingSaved, schedules: { Scan: schedule([daily], 5) } };
    const planned = plan({}, { saved, schedules: new Map([["Scan", schedule([daily], 4)]]) });
    expect(planned).toMatchObject({ restored: [], schedules: { Scan: { sinceMs: 5 } } });
  });
});

describe("the file beside the sidecar", () => {
  test("holds what was changed, whole, in the order of the changes", async () => {
    const directory = folder();
    const keeper = await SavedTasksKeeper.open(directory, "a");
    await Promise.all(
      [1, 2, 3].map((dueAtMs) =>
        keeper.change((saved) => ({ ...saved, begun: { Scan: { dueAtMs, atMs: dueAtMs } } })),
      ),
    );
    await keeper.change((saved) => ({
      ...saved,
      ...{ epoch: { number: 4, owner: "me" }, schedules: { Scan: schedule([daily]) } },
      originals: { Scan: { id: "id", triggers: [daily] } },
    }));
    const read = await readSavedTasks(join(directory, "tasks", "a.json"));
    expect(read).toEqual(keeper.saved);
    expect(read.begun).toEqual({ Scan: { dueAtMs: 3, atMs: 3 } });
    expect((await SavedTasksKeeper.open(directory, "a")).saved).toEqual(read);
  });

  test("that is not ours, or cannot be written, is said and not overwritten", async () => {
    const directory = folder();
    mkdirSync(join(directory, "tasks"), { recursive: true });
    writeFileSync(join(directory, "tasks", "a.json"), "{}");
    await expect(SavedTasksKeeper.open(directory, "a")).rejects.toThrow(SavedTasksProblem);
    expect(readFileSync(join(directory, "tasks", "a.json"), "utf8")).toBe("{}");
    const file = join(folder(), "in-the-way");
    mkdirSync(join(file, ".."), { recursive: true });
    writeFileSync(file, "");
    await expect(SavedTasksKeeper.open(file, "a")).rejects.toThrow(SavedTasksProblem);
  });
});

describe("hands", () => {
  const epoch = (number: number, owner = "me") => ({ number, owner });

  test("start a task once for a due time, whoever asks, also after a restart", async () => {
    const server = new SimulatedServer(() => 0, ["Scan"]);
    const directory = folder();
    const { hands } = handsOf(server, () => 0, { folder: directory });
    await hands.read(epoch(1));
    const order = { key: "Scan", dueAtMs: 10, epoch: epoch(1) };
    const both = await Promise.all([hands.start(order), hands.start(order)]);
    expect(both.map(({ outcome }) => outcome).sort()).toEqual(["already", "started"]);
    expect((await hands.start({ ...order, dueAtMs: 9 })).outcome).toBe("already");
    const saved = await readSavedTasks(join(directory, "tasks.json"));
    expect(saved.begun.Scan?.dueAtMs).toBe(10);
    expect(server.starts).toHaveLength(1);
    expect((await hands.read(epoch(1)))?.tasks[0]?.begunDueAtMs).toBe(10);
  });

  test("refuse an older epoch for ever, and the same one of another owner", async () => {
    const server = new SimulatedServer(() => 0, ["Scan"]);
    const { hands } = handsOf(server, () => 0, { folder: folder() });
    expect(await hands.read(epoch(5))).toBeDefined();
    expect(await hands.read(epoch(4))).toBeUndefined();
    expect(await hands.read(epoch(5, "other"))).toBeUndefined();
    for (const old of [epoch(4), epoch(5, "other")]) {
      const order = { key: "Scan", dueAtMs: 10, epoch: old };
      expect((await hands.start(order)).outcome).toBe("oldEpoch");
      expect(await hands.cancel(order)).toBe("oldEpoch");
    }
    expect(server.starts).toEqual([]);
  });

  test("a start that never reached its server may be tried again", async () => {
    const server = new SimulatedServer(() => 0, ["Scan"]);
    const { hands } = handsOf(server, () => 0, { folder: folder() });
    await hands.read(epoch(1));
    const order = { key: "Scan", dueAtMs: 10, epoch: epoch(1) };
    server.isUp = false;
    expect(await hands.start(order)).toMatchObject({ outcome: "failed", seen: "nothing" });
    server.isUp = true;
    expect((await hands.start(order)).outcome).toBe("started");
    expect((await hands.start({ ...order, key: "Other" })).outcome).toBe("unknownTask");
  });
});

describe("media are whole when everything that the library has is there", () => {
  /** A tree of folders; a file is null. */
  type Tree = { readonly [name: string]: Tree | null };
  const limits = { lossLimit: 0.1, foldersLimit: 100 };
  const films = (count: number): Tree =>
    Object.fromEntries(Array.from({ length: count }, (_, at) => [`F${at}`, { "film.mkv": null }]));
  const all = pathsOf(films(20), "/media/movies");

  async function problem(
    tree: Tree | undefined,
    items: readonly string[] | undefined,
    locations = ["/media/movies"],
    lossLimit = 0.1,
  ): Promise<string | undefined> {
    const at = (path: string): Tree | null | undefined => {
      let here: Tree | null | undefined = tree;
      for (const part of path.split(/[\\/]/).slice(3)) {
        if (part !== "") here = here?.[part];
      }
      return here;
    };
    return await mediaProblem(
      {
        locations: async () => locations.map((path) => ({ library: "Films", path })),
        itemPaths: async () => items,
        async list(path): Promise<readonly MediaEntry[] | "away"> {
          const here = at(path);
          if (here === undefined || here === null) return "away";
          return Object.entries(here).map(([name, of]) => ({ name, isFolder: of !== null }));
        },
      },
      { ...limits, lossLimit },
    );
  }

  function pathsOf(tree: Tree, base: string): string[] {
    return Object.entries(tree).flatMap(([name, of]) =>
      of === null ? [`${base}/${name}`] : pathsOf(of, `${base}/${name}`),
    );
  }

  test("whole, or new and still empty", async () => {
    expect(await problem(films(20), all)).toBeUndefined();
    expect(await problem({}, [])).toBeUndefined();
    expect(await problem(films(20), [...all, "http://radio", "/other/x.mkv"])).toBeUndefined();
  });
  test("a folder that cannot be reached, or is suddenly empty", async () => {
    expect(await problem(undefined, all)).toMatch(/cannot be reached/);
    expect(await problem({}, all)).toMatch(/is empty and has 20 items/);
    expect(await problem(undefined, [])).toMatch(/cannot be reached/);
  });
  test("up to a tenth may be gone, and no more", async () => {
    expect(await problem(films(18), all)).toBeUndefined();
    expect(await problem(films(17), all)).toMatch(/^3 of the 20 items .* are not there$/);
    expect(await problem(films(17), all, ["/media/movies"], 1)).toBeUndefined();
  });
  test("a second disk that is not mounted below the first folder", async () => {
    const two: Tree = { nas1: films(20), nas2: films(20) };
    const items = pathsOf(two, "/media/movies");
    expect(await problem(two, items)).toBeUndefined();
    expect(await problem({ ...two, nas2: {} }, items)).toMatch(/20 of the 40 items/);
    expect(await problem({ nas1: films(20) }, items)).toMatch(/20 of the 40 items/);
  });
  test("a server that cannot be asked is not taken for whole", async () => {
    expect(await problem(films(20), undefined)).toMatch(/cannot be looked at/);
  });
  test("a server on Windows", async () => {
    const items = ["C:\\media\\movies\\A\\a.mkv", "C:\\media\\movies\\B\\b.mkv"];
    const tree = { A: { "a.mkv": null }, B: { "b.mkv": null } };
    expect(await problem(tree, items, ["C:\\media\\movies"])).toBeUndefined();
    expect(await problem({ A: tree.A }, items, ["C:\\media\\movies"])).toMatch(/1 of the 2/);
  });
  test("as this process sees them: there, and with something in them", async () => {
    const here = folder();
    expect(await folderProblem(here)).toMatch(/cannot be read \(ENOENT\)/);
    mkdirSync(here);
    expect(await folderProblem(here)).toMatch(/is empty/);
    writeFileSync(join(here, "film"), "");
    expect(await folderProblem(here)).toBeUndefined();
  });
});

describe("a leader at work", () => {
  const key = "RefreshLibrary";
  const start = Date.parse("2026-11-21T02:59:00Z");

  function cluster(triggers: readonly Trigger[]) {
    let nowMs = start;
    const now = () => nowMs;
    const servers = ["a", "b"].map((name) => ({
      name,
      server: new SimulatedServer(now, [key, "Other"]),
    }));
    const media = new Map<string, string>();
    let isLeader = true;
    const hands = new Map(
      servers.map(({ name, server }) => {
        const own = handsOf(server, now, {
          folder: folder(),
          mediaProblem: async () => media.get(name),
        });
        return [name, own.hands] as const;
      }),
    );
    const written: Omit<Note, "expiresAtMs">[] = [];
    const store = {
      kind: "embedded",
      putNote: async (note: Omit<Note, "expiresAtMs">) => void written.push(note),
    } as unknown as Store;
    const memory = new Memory({
      ...{ store, seal: createSeal("a key for a simulation"), log: silent },
      ...{ tokensRemembered: 1, storeRetryMs: 1 },
    });
    memory.noteStoreSuccess();
    const value = JSON.stringify(schedule(triggers, start - 1000));
    memory.apply({
      type: "note",
      note: { kind: "schedule", id: key, replica: "", value, expiresAtMs: 0 },
    });
    const leader = new TaskLeader({
      ...{ replica: "a", store, memory, log: silent, zone: "UTC", wallMs: now },
      lease: {
        mayAct: () => (isLeader ? { epoch: { number: 1, owner: "me" } } : undefined),
        onChange: () => () => undefined,
      },
      hands: () => hands,
      ...{ busyIntervalMs: 1, idleIntervalMs: 60_000, heldRetryMs: 10_000 },
      ...{ fateLimitMs: 10_000, awayLimitMs: 600_000 },
    });
    return {
      leader,
      written,
      media,
      a: servers[0]?.server as SimulatedServer,
      b: servers[1]?.server as SimulatedServer,
      resign() {
        isLeader = false;
      },
      /** So many cycles, so many ms apart. */
      async go(cycles: number, ms: number): Promise<void> {
        for (let cycle = 0; cycle < cycles; cycle++) {
          await leader.cycle();
          nowMs += ms;
        }
      },
    };
  }

  test("sleeps until something is due, and never without end", async () => {
    const { leader } = cluster([daily]);
    expect(await leader.cycle()).toBe(60_000);
    expect(await cluster([]).leader.cycle()).toBe(60_000);
  });

  test("runs a daily task on one after the other and ends it", async () => {
    const { a, b, go, leader } = cluster([daily]);
    await go(3, 10_000);
    expect(a.starts).toEqual([]);
    await go(16, 10_000);
    expect([a.starts.length, b.starts.length]).toEqual([1, 1]);
    expect((b.starts[0]?.atMs ?? 0) - (a.starts[0]?.atMs ?? 0)).toBeGreaterThanOrEqual(40_000);
    expect((await leader.list())?.find((task) => task.key === key)).toMatchObject({
      ...{ state: "Idle", triggers: [daily], replica: "" },
    });
  });

  test("cancels what runs longer than its trigger allows", async () => {
    const { a, b, go } = cluster([{ ...daily, MaxRuntimeTicks: 100_000_000 }]);
    a.runMs = 1e9;
    b.runMs = 1e9;
    await go(24, 5000);
    expect([a.starts.length, b.starts.length]).toEqual([1, 1]);
    expect([a.running(key), b.running(key)]).toEqual([false, false]);
  });

  test("holds a scan where media are not whole, says so, and does it when they are", async () => {
    const { a, b, go, media, leader } = cluster([daily]);
    media.set("a", "its disk is gone");
    await go(20, 10_000);
    expect([a.starts.length, b.starts.length]).toEqual([0, 1]);
    expect(leader.held()).toEqual([`task ${key} on a is held: its disk is gone`]);
    media.clear();
    await go(8, 10_000);
    expect([a.starts.length, b.starts.length]).toEqual([1, 1]);
    expect(leader.held()).toEqual([]);
  });

  test("the desk: run now, while it runs, and cancel with what still waits", async () => {
    const { a, b, go, leader } = cluster([]);
    expect(await leader.runNow("nobody")).toEqual({ outcome: "unknownTask" });
    expect(await leader.cancel(key)).toEqual({ outcome: "notRunning" });
    expect(await leader.runNow(key)).toEqual({ outcome: "done" });
    await go(2, 1000);
    expect([a.starts.length, b.starts.length]).toEqual([1, 0]);
    expect(await leader.runNow(key)).toEqual({ outcome: "done" });
    expect((await leader.list())?.find((task) => task.key === key)).toMatchObject({
      ...{ state: "Running", replica: "a" },
    });
    expect(await leader.cancel(key)).toEqual({ outcome: "done" });
    await go(10, 10_000);
    expect([a.starts.length, b.starts.length]).toEqual([1, 0]);
    // A task without a schedule is run, too.
    expect(await leader.runNow("Other")).toEqual({ outcome: "done" });
    await go(12, 10_000);
    expect(a.starts.at(-1)?.key).toBe("Other");
  });

  test("the desk: triggers are checked, and count from now", async () => {
    const { a, go, leader } = cluster([]);
    expect(await leader.setTriggers(key, [{ Type: "DailyTrigger" }])).toMatchObject({
      outcome: "malformed",
    });
    expect(await leader.setTriggers(key.toUpperCase(), [daily])).toEqual({ outcome: "done" });
    expect((await leader.list())?.find((task) => task.key === key)?.triggers).toEqual([daily]);
    await go(8, 10_000);
    expect(a.starts).toHaveLength(1);
    // Three o'clock has passed: set now, it is tomorrow's.
    expect(await leader.setTriggers(key, [daily])).toEqual({ outcome: "done" });
    await go(4, 10_000);
    expect(a.starts).toHaveLength(1);
  });

  test("who does not lead does nothing and says so", async () => {
    const { a, go, leader, resign, written } = cluster([daily]);
    resign();
    await go(20, 10_000);
    expect(a.starts).toEqual([]);
    expect(written).toEqual([]);
    expect(await leader.list()).toBeUndefined();
    expect(await leader.runNow(key)).toMatchObject({ outcome: "refused" });
    expect(await leader.setTriggers(key, [])).toMatchObject({ outcome: "refused" });
  });
});

describe("leaving", () => {
  const original = (triggers: readonly unknown[]) => ({ id: "id", triggers });

  test("each server has its own back, a copy what the cluster found first, and «none» is one's own", () => {
    const schedules = new Map([
      ["Scan", schedule([startup])],
      ["Clean", schedule([startup])],
    ]);
    const a = { ...nothingSaved, originals: { Scan: original([daily]), Clean: original([]) } };
    const own = ownTasksOf(a, [], schedules);
    expect(own.get("Scan")?.triggers).toEqual([daily]);
    expect(own.get("Clean")?.triggers).toEqual([]);
    const copy = ownTasksOf(
      { ...nothingSaved, schedules: { Scan: schedule([daily]) } },
      [a],
      schedules,
    );
    expect(copy.get("Scan")?.triggers).toEqual([daily]);
    expect(ownTasksOf(undefined, [a], new Map()).get("Scan")?.triggers).toEqual([daily]);
    expect(ownTasksOf(undefined, [], schedules).get("Clean")?.triggers).toEqual([startup]);
    expect(ownTasksOf(undefined, [], new Map()).size).toBe(0);
  });

  test("what was changed for the cluster is named", () => {
    const changed = { ...schedule([daily]), triggers: [startup] };
    expect(changedTasks(new Map([["Scan", changed]]))).toEqual(["Scan"]);
    expect(changedTasks(new Map([["Scan", schedule([daily])]]))).toEqual([]);
  });

  test("in files: only what is parked is written, in place, and nothing is made", async () => {
    const server = folder();
    const tasks = join(server, "config", "ScheduledTasks");
    mkdirSync(tasks, { recursive: true });
    const id = "7738148ffcd07979c7ceb148e06b3aed";
    const file = join(tasks, "7738148f-fcd0-7979-c7ce-b148e06b3aed.js");
    const other = join(tasks, "241d4fcb-19a1-d557-ee62-428e411da609.js");
    writeFileSync(file, "[ ]\n");
    writeFileSync(other, '[{"Type":"StartupTrigger"}]');
    const own = new Map([
      ["RefreshLibrary", { id, triggers: [daily] }],
      ["DeleteCacheFiles", { id: "241d4fcb19a1d557ee62428e411da609", triggers: [daily] }],
      ["Gone", { id: "0".repeat(32), triggers: [daily] }],
    ]);
    expect(await restoreInFiles(server, own)).toEqual({
      restored: ["RefreshLibrary", "DeleteCacheFiles"],
      undone: [],
    });
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual([daily]);
    expect(readFileSync(other, "utf8")).toBe('[{"Type":"StartupTrigger"}]');
    expect((await restoreInFiles(folder(), own)).undone).toHaveLength(1);
  });
});
