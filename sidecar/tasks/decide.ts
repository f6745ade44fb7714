// What the leader does next about the cluster's tasks, decided from the schedule, the runs, what is seen of
// each replica, and the time. Pure: no clock, no call, no log.
//
// The order of steps, and why dying between any two is safe:
// 1. A run is written with every step `waiting`. Nothing has been done yet.
// 2. Before a start is asked for, its step is written `starting`, with what its server's last result was.
// 3. The start goes to the sidecar beside the server, which writes the due time onto its own disk first and
//    refuses the same or an earlier one ever after, whoever asks.
// 4. The server is looked at: it runs, or it has a new result, or it never began.
// A leader that dies after 1 is followed by one that goes on at 2; after 2 or 3 by one that looks first (4):
// reading a replica's tasks makes its sidecar refuse every older leader from then on, so that a step which
// that sidecar has not begun may be tried again, and one that it has begun is only watched. A start whose
// fate cannot be found out is given up for this due time, never repeated. If the store loses the run
// altogether, the same due time is reckoned again from the schedule, and the sidecar's disk (3) says that
// it was done.

import type {
  SeenTask,
  SeenTasks,
  TaskRun,
  TaskSchedule,
  TaskStep,
} from "../../core/cluster/tasks.ts";
import {
  type Due,
  nextDue,
  startupDelayMs,
  startupTrigger,
  ticksPerMs,
} from "../../core/jellyfin/triggers.ts";
import type { Epoch } from "../../core/store/store.ts";
import { policyOf } from "./policy.ts";

export interface TaskReplica {
  readonly name: string;
  /** Undefined while it is away: nothing is started there and nothing is known of it. */
  readonly seen: SeenTasks | undefined;
}

export interface TaskWorld {
  readonly nowMs: number;
  readonly epoch: Epoch;
  /** The replica whose sidecar is the leader. */
  readonly leader: string;
  readonly zone: string;
  readonly replicas: readonly TaskReplica[];
  readonly schedules: ReadonlyMap<string, TaskSchedule>;
  readonly runs: ReadonlyMap<string, TaskRun>;
  /** By `heldName`: starts that are not tried again before this time, in ms since the epoch. */
  readonly heldUntilMs: ReadonlyMap<string, number>;
}

export interface TaskLimits {
  /** A start that shows neither a run nor a result after this is given up, in ms. */
  readonly fateLimitMs: number;
  /** A replica that is away in mid-run is waited for so long before the next has its turn, in ms. */
  readonly awayLimitMs: number;
}

export type TaskAction =
  /** The run as it is now is written down. */
  | { readonly type: "note"; readonly key: string; readonly run: TaskRun; readonly why: string }
  /** The step is tried: first whether it may be, then written down as `run`, then asked for. */
  | {
      readonly type: "start";
      readonly key: string;
      readonly replica: string;
      readonly run: TaskRun;
    }
  | { readonly type: "cancel"; readonly key: string; readonly replica: string };

export function heldName(key: string, replica: string): string {
  return `${key}\n${replica}`;
}

export function decideTasks(world: TaskWorld, limits: TaskLimits): readonly TaskAction[] {
  return [...world.schedules].flatMap(([key, schedule]) =>
    decideTask(key, schedule, world.runs.get(key), world, limits),
  );
}

function decideTask(
  key: string,
  schedule: TaskSchedule,
  run: TaskRun | undefined,
  world: TaskWorld,
  limits: TaskLimits,
): readonly TaskAction[] {
  if (run !== undefined) {
    const looked = look(key, run, world, limits);
    if (looked !== run) {
      return [{ type: "note", key, run: closed(looked, key, world), why: newsOf(run, looked) }];
    }
    if (run.steps.some(isActive) && policyOf(key) !== "every") return overdue(key, run, world);
    const starts = nextStarts(key, run, world);
    if (starts.length > 0 || run.steps.some(isActive)) {
      return [...overdue(key, run, world), ...starts];
    }
    const closedRun = closed(run, key, world);
    if (closedRun !== run) return [{ type: "note", key, run: closedRun, why: "has ended" }];
  }
  const begun = startupRun(key, schedule, run, world) ?? dueRun(key, schedule, run, world);
  return begun === undefined ? [] : [{ type: "note", key, run: begun, why: "is begun" }];
}

// ---- A run that is under way ----------------------------------------------------------------------

function isActive(step: TaskStep): boolean {
  return step.state === "starting" || step.state === "running";
}

function seenTask(key: string, replica: string, world: TaskWorld): SeenTask | undefined {
  const seen = world.replicas.find(({ name }) => name === replica)?.seen;
  return seen?.tasks.find((task) => task.key === key);
}

/** The run with what is seen of its active steps; the very same object when nothing is new. */
function look(key: string, run: TaskRun, world: TaskWorld, limits: TaskLimits): TaskRun {
  const steps = run.steps.map((step) => lookAt(key, run.dueAtMs, step, world, limits));
  return steps.every((step, index) => step === run.steps[index]) ? run : { ...run, steps };
}

function lookAt(
  key: string,
  dueAtMs: number,
  step: TaskStep,
  world: TaskWorld,
  limits: TaskLimits,
): TaskStep {
  if (!isActive(step)) return step;
  const { nowMs } = world;
  // One that nobody announces any longer is away like one that does not answer: its server may run on.
  const replica = world.replicas.find(({ name }) => name === step.replica);
  const ageMs = nowMs - step.atMs;
  if (replica?.seen === undefined) {
    if (ageMs <= limits.awayLimitMs) return step;
    return { ...step, state: "skipped", atMs: nowMs, note: "its server went away in mid-run" };
  }
  const task = seenTask(key, step.replica, world);
  if (task === undefined) {
    return { ...step, state: "skipped", atMs: nowMs, note: "its server has no such task" };
  }
  if (task.state !== "Idle") return step.state === "running" ? step : { ...step, state: "running" };
  if (task.lastEnd !== (step.resultBefore ?? "")) {
    return { ...step, state: "done", atMs: nowMs, note: String(task.lastResult?.Status ?? "") };
  }
  // Its sidecar has refused older leaders since it was read, so what it did not begin will not begin.
  if (step.state === "starting" && (task.begunDueAtMs ?? 0) < dueAtMs) {
    return { replica: step.replica, state: "waiting", atMs: nowMs };
  }
  if (ageMs <= limits.fateLimitMs) return step;
  const note =
    step.state === "running"
      ? "its server forgot the run"
      : "nobody knows whether it was started, so it is not started again";
  return { ...step, state: "skipped", atMs: nowMs, note };
}

/** What of a run is news, for the log. */
function newsOf(before: TaskRun, after: TaskRun): string {
  return after.steps
    .filter((step, index) => step !== before.steps[index])
    .map(({ replica, state, note }) => `is ${state} on ${replica}${note ? ` (${note})` : ""}`)
    .join(" and ");
}

function overdue(key: string, run: TaskRun, world: TaskWorld): readonly TaskAction[] {
  const { maxRuntimeMs } = run;
  if (maxRuntimeMs === undefined) return [];
  return run.steps.flatMap((step): TaskAction[] => {
    const isLate = step.state === "running" && world.nowMs - step.atMs >= maxRuntimeMs;
    if (!isLate || seenTask(key, step.replica, world)?.state !== "Running") return [];
    return [{ type: "cancel", key, replica: step.replica }];
  });
}

/** A step that may be started now: its replica is there, parked, idle, and not held. */
function isStartable(key: string, step: TaskStep, world: TaskWorld): boolean {
  if (step.state !== "waiting") return false;
  const task = seenTask(key, step.replica, world);
  // One that is not parked is still its server's own to run.
  if (task === undefined || task.state !== "Idle" || task.triggers.length > 0) return false;
  return (world.heldUntilMs.get(heldName(key, step.replica)) ?? 0) <= world.nowMs;
}

function nextStarts(key: string, run: TaskRun, world: TaskWorld): readonly TaskAction[] {
  const startable = run.steps.filter((step) => isStartable(key, step, world));
  // Somebody else may have started it at a server: then nobody's turn begins until it has ended.
  const isBusy = world.replicas.some(
    ({ name }) => (seenTask(key, name, world)?.state ?? "Idle") !== "Idle",
  );
  // Who was held before comes after who was not: one whose disk is gone must not keep the others waiting.
  const first = startable.find(({ replica }) => !world.heldUntilMs.has(heldName(key, replica)));
  const turn = first ?? startable[0];
  const inTurn = isBusy || turn === undefined ? [] : [turn];
  const chosen = policyOf(key) === "every" ? startable : inTurn;
  return chosen.map(({ replica }) => ({
    type: "start",
    key,
    replica,
    run: starting(key, run, replica, world),
  }));
}

function starting(key: string, run: TaskRun, replica: string, world: TaskWorld): TaskRun {
  const resultBefore = seenTask(key, replica, world)?.lastEnd ?? "";
  return withStep(run, { replica, state: "starting", atMs: world.nowMs, resultBefore });
}

export function withStep(run: TaskRun, step: TaskStep): TaskRun {
  const steps = run.steps.map((known) => (known.replica === step.replica ? step : known));
  return { ...run, steps };
}

/**
 * Written as ended when nothing is left but what waits for a replica that is away or held: such a step is
 * still done when it can be, unless the next due time has come before.
 */
function closed(run: TaskRun, key: string, world: TaskWorld): TaskRun {
  if (run.endedAtMs !== undefined) return run;
  const isOpen = run.steps.some(
    (step) => isActive(step) || (step.state === "waiting" && isStartable(key, step, world)),
  );
  if (isOpen) return run;
  const { nowMs } = world;
  return { ...run, endedAtMs: nowMs, ...(run.why !== "startup" && { lastEndMs: nowMs }) };
}

// ---- A run that begins ----------------------------------------------------------------------------

/** When a task is due next, after its last run; undefined: no time of its own is ever due. */
export function nextDueOf(
  schedule: TaskSchedule,
  run: TaskRun | undefined,
  zone: string,
): Due | undefined {
  const past = {
    // A run covers whatever was due before it began: what was missed is caught up once.
    sinceMs: Math.max(schedule.sinceMs, run?.lastStartMs ?? 0),
    lastStartMs: run?.lastStartMs ?? schedule.lastStartMs,
    lastEndMs: run?.lastEndMs ?? schedule.lastEndMs,
  };
  return nextDue(schedule.triggers, past, zone);
}

function dueRun(
  key: string,
  schedule: TaskSchedule,
  run: TaskRun | undefined,
  world: TaskWorld,
): TaskRun | undefined {
  const due = nextDueOf(schedule, run, world.zone);
  if (due === undefined || due.atMs > world.nowMs) return undefined;
  return begin(key, run, world, {
    why: "due",
    dueAtMs: due.atMs,
    maxRuntimeTicks: due.trigger.MaxRuntimeTicks,
  });
}

/** A run that an administrator asked for; undefined while one is under way, as a server would ignore it. */
export function askedRun(
  key: string,
  run: TaskRun | undefined,
  world: TaskWorld,
  limits: TaskLimits,
): TaskRun | undefined {
  // One that has ended at the servers, and is not written down as ended yet, is none under way.
  const last = run === undefined ? undefined : closed(look(key, run, world, limits), key, world);
  if (last !== undefined && last.endedAtMs === undefined) return undefined;
  return begin(key, last, world, { why: "asked", dueAtMs: world.nowMs });
}

/** What the task fetches is kept by each server and not beside the media, as the leader's own server says. */
function isKeptByServers(key: string, world: TaskWorld): boolean {
  const leader = world.replicas.find(({ name }) => name === world.leader);
  return leader?.seen?.ownFiles?.includes(key) === true;
}

interface Beginning {
  readonly why: TaskRun["why"];
  readonly dueAtMs: number;
  readonly maxRuntimeTicks?: number | undefined;
}

function begin(
  key: string,
  last: TaskRun | undefined,
  world: TaskWorld,
  { why, dueAtMs, maxRuntimeTicks }: Beginning,
): TaskRun {
  const { nowMs, epoch } = world;
  const names =
    policyOf(key) === "leader" && !isKeptByServers(key, world)
      ? [world.leader]
      : world.replicas.map(({ name }) => name).sort((left, right) => (left < right ? -1 : 1));
  return {
    // Later than every one before, also when a clock was set back.
    dueAtMs: Math.max(dueAtMs, (last?.dueAtMs ?? 0) + 1),
    why,
    epoch,
    steps: names.map((replica) => ({ replica, state: "waiting", atMs: nowMs })),
    ...(maxRuntimeTicks !== undefined && { maxRuntimeMs: maxRuntimeTicks / ticksPerMs }),
    lastStartMs: nowMs,
    ...(last?.lastEndMs !== undefined && { lastEndMs: last.lastEndMs }),
    startups: last?.startups ?? {},
  };
}

/** A server has started and the task has a startup trigger: it is run there, and there alone. */
function startupRun(
  key: string,
  schedule: TaskSchedule,
  last: TaskRun | undefined,
  world: TaskWorld,
): TaskRun | undefined {
  const trigger = startupTrigger(schedule.triggers);
  if (trigger === undefined) return undefined;
  const { nowMs, epoch } = world;
  for (const { name, seen } of world.replicas) {
    const startedAtMs = seen?.startedAtMs;
    if (startedAtMs === undefined || nowMs < startedAtMs + startupDelayMs) continue;
    const isLeaders = policyOf(key) === "leader" && !isKeptByServers(key, world);
    if (isLeaders && name !== world.leader) continue;
    const doneMs = Math.max(last?.startups[name] ?? 0, schedule.sinceMs);
    if (startedAtMs <= doneMs) continue;
    const step: TaskStep = { replica: name, state: "waiting", atMs: nowMs };
    // What still waits for replicas that are away goes on waiting.
    const others = (last?.steps ?? []).filter(
      ({ replica, state }) => state === "waiting" && replica !== name,
    );
    return {
      dueAtMs: Math.max(startedAtMs + startupDelayMs, (last?.dueAtMs ?? 0) + 1),
      why: "startup",
      epoch,
      steps: [step, ...others],
      ...(trigger.MaxRuntimeTicks !== undefined && {
        maxRuntimeMs: trigger.MaxRuntimeTicks / ticksPerMs,
      }),
      ...(last?.lastStartMs !== undefined && { lastStartMs: last.lastStartMs }),
      ...(last?.lastEndMs !== undefined && { lastEndMs: last.lastEndMs }),
      startups: { ...last?.startups, [name]: startedAtMs },
    };
  }
  return undefined;
}
