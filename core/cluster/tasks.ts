// Scheduled tasks as the cluster sees them: the schedule and the runs as they lie in the store, what is seen
// of the tasks on one replica, and the two faces behind which the rest works: the hands at one replica, and
// the desk of the leader. Whoever can write the store must not be able to crash a process, so every value
// that is read is checked here, and one that is not understood is as if it were not there.

import { readTriggers, type Trigger } from "../jellyfin/triggers.ts";
import { isCount, objectOf, parsedObject } from "../service/json.ts";
import type { Epoch } from "../store/store.ts";

/** The cluster's triggers of one task (note `schedule`, its id is the task's key). */
export interface TaskSchedule {
  /** The task's id, equal on every server while the name of its class is (ScheduledTaskWorker.Id). */
  readonly id: string;
  readonly triggers: readonly Trigger[];
  /** What the first server had when its tasks were parked. */
  readonly original: readonly Trigger[];
  /** When the triggers were last set, in ms since the epoch. */
  readonly sinceMs: number;
  /** The last run before the cluster had the task, so that an interval goes on counting from it. */
  readonly lastStartMs?: number | undefined;
  readonly lastEndMs?: number | undefined;
}

/** How one replica's part of a run stands. */
export interface TaskStep {
  readonly replica: string;
  /**
   * - `waiting`  its turn has not come, or it cannot be started yet
   * - `starting` written before the start is asked for: whoever finds it looks before doing anything
   * - `running`  its server was seen running it
   * - `done`     its server has a new result
   * - `skipped`  it will not be started for this due time; `note` says why
   */
  readonly state: "waiting" | "starting" | "running" | "done" | "skipped";
  /** When it came into this state, in ms since the epoch; of `running`: when the start was asked for. */
  readonly atMs: number;
  /** End of the last result its server had before the start; empty: it had none. */
  readonly resultBefore?: string | undefined;
  /** The result's status, or why it was skipped. */
  readonly note?: string | undefined;
}

/** The last run of one task that a leader began (note `taskRun`, its id is the task's key). */
export interface TaskRun {
  /** For which due time; grows with every run. On each replica a due time is started once at most. */
  readonly dueAtMs: number;
  /** `asked`: by an administrator. `startup`: because a server had started. */
  readonly why: "due" | "asked" | "startup";
  readonly epoch: Epoch;
  readonly steps: readonly TaskStep[];
  /** A step that runs longer is cancelled; in ms. */
  readonly maxRuntimeMs?: number | undefined;
  /** When nothing was left to do for it but what waits for a replica that is away. */
  readonly endedAtMs?: number | undefined;
  /** Of the whole cluster's runs, from which intervals count; runs for a startup do not count. */
  readonly lastStartMs?: number | undefined;
  readonly lastEndMs?: number | undefined;
  /** By replica: its server's last start for which this task was run. */
  readonly startups: Readonly<Record<string, number>>;
}

/** Whether anything of a run is still to come: also between the end on one server and its turn on the next. */
export function isUnderWay(run: TaskRun | undefined): boolean {
  if (run === undefined || run.endedAtMs !== undefined) return false;
  return run.steps.some(({ state }) => state !== "done" && state !== "skipped");
}

/** One task as one server tells of it. */
export interface SeenTask {
  readonly key: string;
  readonly id: string;
  readonly state: "Idle" | "Running" | "Cancelling";
  readonly progress: number | undefined;
  /** EndTimeUtc of its last result, as text; empty when there is none. */
  readonly lastEnd: string;
  /** The last result as the server tells it; undefined when there is none. */
  readonly lastResult: Readonly<Record<string, unknown>> | undefined;
  /** As the server tells them, unread. */
  readonly triggers: readonly unknown[];
  /** The last due time for which this replica's sidecar began a start; undefined: none yet. */
  readonly begunDueAtMs?: number | undefined;
}

/** All tasks of one server. */
export interface SeenTasks {
  readonly tasks: readonly SeenTask[];
  /** When the server was seen to have started, in ms since the epoch; undefined: before we looked. */
  readonly startedAtMs?: number | undefined;
  /** Keys of leader's tasks whose files this server keeps to itself: then each server needs them. */
  readonly ownFiles?: readonly string[] | undefined;
}

export interface StartOrder {
  readonly key: string;
  readonly dueAtMs: number;
  readonly epoch: Epoch;
}

export type StartAnswer =
  | { readonly outcome: "started" }
  /** This due time, or a later one, was begun there before. */
  | { readonly outcome: "already" }
  /** The order's epoch has passed. */
  | { readonly outcome: "oldEpoch" }
  | { readonly outcome: "unknownTask" }
  /** Not now, and why: its media are not whole, or its triggers are not parked. */
  | { readonly outcome: "held"; readonly reason: string }
  /** It makes no sense there: it would write beside media that its server cannot write to. */
  | { readonly outcome: "unfit"; readonly reason: string }
  | { readonly outcome: "failed"; readonly seen: "nothing" | "maybe"; readonly reason: string };

export type CancelAnswer = "cancelled" | "notRunning" | "oldEpoch" | "unknownTask" | "failed";

/** What can be done about the tasks of one replica; kept by the sidecar beside it. */
export interface TaskHands {
  /**
   * Undefined while the server cannot be asked, or when the epoch has passed. From here on the hands refuse
   * what an older epoch orders.
   */
  read(epoch: Epoch): Promise<SeenTasks | undefined>;
  /** Why the task must not be started there now, or undefined. */
  mayStart(key: string): Promise<string | undefined>;
  start(order: StartOrder): Promise<StartAnswer>;
  cancel(order: { readonly key: string; readonly epoch: Epoch }): Promise<CancelAnswer>;
}

/** A task as clients are to see it: the cluster's triggers, and the state of whichever replica runs it. */
export interface TaskView {
  readonly key: string;
  readonly id: string;
  readonly triggers: readonly Trigger[];
  readonly state: "Idle" | "Running" | "Cancelling";
  readonly progress: number | undefined;
  readonly lastResult: Readonly<Record<string, unknown>> | undefined;
  /** The replica whose state this is; empty when none runs it. */
  readonly replica: string;
}

export type DeskAnswer =
  | { readonly outcome: "done" }
  /** No task has this id. */
  | { readonly outcome: "unknownTask" }
  | { readonly outcome: "malformed"; readonly problem: string }
  /** A task that does not run cannot be cancelled. */
  | { readonly outcome: "notRunning" }
  /** A sentence: media that are not whole, a leader that is not one any longer. */
  | { readonly outcome: "refused"; readonly reason: string };

/** What administrators do about tasks, done by the leader. Ids are a task's id or its key. */
export interface TaskDesk {
  /** Undefined: the cluster has no schedule of its own, the servers keep theirs. */
  list(): Promise<readonly TaskView[] | undefined>;
  setTriggers(taskId: string, triggers: unknown): Promise<DeskAnswer>;
  runNow(taskId: string): Promise<DeskAnswer>;
  cancel(taskId: string): Promise<DeskAnswer>;
}

// ---- Reading what lies in the store ---------------------------------------------------------------

const stepsLimit = 64;
const textLimit = 500;

/** Undefined when the value is not a schedule. */
export function readSchedule(value: string): TaskSchedule | undefined {
  const fields = parsedObject(value);
  if (fields === undefined) return undefined;
  const triggers = readTriggers(fields.triggers);
  const original = readTriggers(fields.original);
  const { id, sinceMs, lastStartMs, lastEndMs } = fields;
  if ("problem" in triggers || "problem" in original || !isText(id) || !isCount(sinceMs)) {
    return undefined;
  }
  return {
    id,
    triggers: triggers.triggers,
    original: original.triggers,
    sinceMs,
    ...(isCount(lastStartMs) && { lastStartMs }),
    ...(isCount(lastEndMs) && { lastEndMs }),
  };
}

/** Undefined when the value is not a run. */
export function readRun(value: string): TaskRun | undefined {
  const fields = parsedObject(value);
  if (fields === undefined) return undefined;
  const { dueAtMs, why, epoch, steps, maxRuntimeMs, endedAtMs, lastStartMs, lastEndMs } = fields;
  const read = Array.isArray(steps) && steps.length <= stepsLimit ? steps.map(readStep) : undefined;
  const granted = epochOf(epoch);
  if (read === undefined || granted === undefined || !isCount(dueAtMs) || !isWhy(why)) {
    return undefined;
  }
  const known = read.filter((step) => step !== undefined);
  if (known.length !== read.length) return undefined;
  return {
    dueAtMs,
    why,
    epoch: granted,
    steps: known,
    ...(isCount(maxRuntimeMs) && { maxRuntimeMs }),
    ...(isCount(endedAtMs) && { endedAtMs }),
    ...(isCount(lastStartMs) && { lastStartMs }),
    ...(isCount(lastEndMs) && { lastEndMs }),
    startups: readTimes(fields.startups),
  };
}

function readStep(value: unknown): TaskStep | undefined {
  const fields = objectOf(value);
  if (fields === undefined) return undefined;
  const { replica, state, atMs, resultBefore, note } = fields;
  if (!isText(replica) || !isCount(atMs) || !isStepState(state)) return undefined;
  return {
    replica,
    state,
    atMs,
    ...(isText(resultBefore) && { resultBefore }),
    ...(isText(note) && { note }),
  };
}

function epochOf(value: unknown): Epoch | undefined {
  const fields = objectOf(value);
  if (fields === undefined || !isCount(fields.number) || !isText(fields.owner)) return undefined;
  return { number: fields.number, owner: fields.owner };
}

function readTimes(value: unknown): Readonly<Record<string, number>> {
  const fields = objectOf(value) ?? {};
  return Object.fromEntries(
    Object.entries(fields)
      .slice(0, stepsLimit)
      .flatMap(([name, atMs]) => (isCount(atMs) ? [[name, atMs] as const] : [])),
  );
}

const whys: readonly unknown[] = ["due", "asked", "startup"];
const stepStates: readonly unknown[] = ["waiting", "starting", "running", "done", "skipped"];

function isWhy(value: unknown): value is TaskRun["why"] {
  return whys.includes(value);
}

function isStepState(value: unknown): value is TaskStep["state"] {
  return stepStates.includes(value);
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value.length <= textLimit;
}
