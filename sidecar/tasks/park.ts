// What has to be done so that a server's tasks are the cluster's: its own triggers saved, the cluster's
// schedule written, the server's triggers taken away. Pure; the deeds are in keeper.ts.
//
// They are done in this order, and dying between any two is safe: what is saved and not yet parked is found
// with its triggers again and not saved a second time; a schedule that is written before its server is
// parked starts nothing there, because the leader starts nothing on a server that has triggers of its own.
//
// The schedule lies in the store and, as it was last known, beside every sidecar. Of the two the one that
// was set later counts. So a store that lost everything, or only its last writes, gets the schedule back.

import type { SeenTask, TaskSchedule } from "../../core/cluster/tasks.ts";
import { readTriggers, sameTriggers, type Trigger } from "../../core/jellyfin/triggers.ts";
import type { OwnTriggers, SavedTasks } from "./saved.ts";

export interface ParkWorld {
  readonly nowMs: number;
  readonly seen: readonly SeenTask[];
  readonly saved: SavedTasks;
  /** The cluster's schedule as the store has it. */
  readonly schedules: ReadonlyMap<string, TaskSchedule>;
}

export interface ParkPlan {
  /** First: saved on disk. By key. */
  readonly originals: Readonly<Record<string, OwnTriggers>>;
  /** With them: what the store has and this disk has not, or has older. By key. */
  readonly copies: Readonly<Record<string, TaskSchedule>>;
  /** Second: written to the store. By key. */
  readonly schedules: Readonly<Record<string, TaskSchedule>>;
  /** Third: their triggers are taken away at the server. */
  readonly park: readonly SeenTask[];
  /** Keys of schedules that the store had lost. */
  readonly restored: readonly string[];
  /** Keys of tasks whose own triggers are not the cluster's: they are saved, and the cluster's count. */
  readonly differing: readonly string[];
  /** Left as they are: the server would not start again if these were ever sent back to it. */
  readonly unreadable: readonly { readonly key: string; readonly problem: string }[];
}

export function planParking(world: ParkWorld): ParkPlan {
  const { nowMs, seen, saved } = world;
  const originals: Record<string, OwnTriggers> = {};
  const park: SeenTask[] = [];
  const differing: string[] = [];
  const unreadable: { key: string; problem: string }[] = [];
  const { schedules, restored } = lostSchedules(world);
  // A server that has no triggers at all was copied from a parked one: its own are not to be seen here.
  const isKnown = Object.keys(saved.originals).length > 0;
  const hasOwn = isKnown || seen.some(({ triggers }) => triggers.length > 0);
  for (const task of seen) {
    const { key, id } = task;
    const isNew = hasOwn && !Object.hasOwn(saved.originals, key);
    if (task.triggers.length === 0) {
      if (isNew) originals[key] = { id, triggers: [] };
      continue;
    }
    const read = readTriggers(task.triggers);
    if ("problem" in read) {
      unreadable.push({ key, problem: read.problem });
      continue;
    }
    park.push(task);
    if (isNew) originals[key] = { id, triggers: task.triggers };
    const cluster = schedules[key] ?? world.schedules.get(key);
    if (cluster === undefined) schedules[key] = scheduleOf(task, read.triggers, nowMs);
    else if (!sameTriggers(cluster.triggers, read.triggers)) differing.push(key);
  }
  return {
    originals,
    copies: newSchedules(world),
    schedules,
    park,
    restored,
    differing,
    unreadable,
  };
}

/** A replica that was copied from a parked one has no triggers of its own to save; it has these. */
function newSchedules({ saved, schedules }: ParkWorld): Readonly<Record<string, TaskSchedule>> {
  return Object.fromEntries(
    [...schedules].filter(([key, { sinceMs }]) => {
      const known = Object.hasOwn(saved.schedules, key) ? saved.schedules[key] : undefined;
      return known === undefined || known.sinceMs < sinceMs;
    }),
  );
}

function lostSchedules({ saved, schedules }: ParkWorld) {
  const lost: Record<string, TaskSchedule> = {};
  const restored: string[] = [];
  for (const [key, schedule] of Object.entries(saved.schedules)) {
    const known = schedules.get(key);
    if (known !== undefined && known.sinceMs >= schedule.sinceMs) continue;
    lost[key] = schedule;
    // Two servers that were parked in the same moment wrote the same, one a little earlier: nothing was lost.
    if (known === undefined || !sameTriggers(known.triggers, schedule.triggers)) restored.push(key);
  }
  return { schedules: lost, restored };
}

function scheduleOf(task: SeenTask, triggers: readonly Trigger[], nowMs: number): TaskSchedule {
  const lastStartMs = timeOf(task.lastResult?.StartTimeUtc);
  const lastEndMs = timeOf(task.lastResult?.EndTimeUtc);
  return {
    id: task.id,
    triggers,
    original: triggers,
    sinceMs: nowMs,
    ...(lastStartMs !== undefined && { lastStartMs }),
    ...(lastEndMs !== undefined && { lastEndMs }),
  };
}

function timeOf(text: unknown): number | undefined {
  const timeMs = typeof text === "string" ? Date.parse(text) : Number.NaN;
  return Number.isSafeInteger(timeMs) && timeMs >= 0 ? timeMs : undefined;
}
