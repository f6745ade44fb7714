// The leader's part in the cluster's tasks: it looks at every replica's tasks through the hands beside them,
// decides (decide.ts) and acts. Every sidecar has one of these; it does nothing while its sidecar does not
// hold the lease. It is also the desk: what administrators ask for about tasks is done here.
//
// It promises that whether it may act is asked immediately before every effect, and that a run is written
// down before anything is started for it.

import { normalId } from "../../core/cluster/identity.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import { putNote } from "../../core/cluster/notes.ts";
import {
  type DeskAnswer,
  isUnderWay,
  readRun,
  type SeenTask,
  type StartAnswer,
  type TaskDesk,
  type TaskHands,
  type TaskRun,
  type TaskSchedule,
  type TaskStep,
  type TaskView,
} from "../../core/cluster/tasks.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { readTriggers, startupDelayMs } from "../../core/jellyfin/triggers.ts";
import { rest } from "../../core/service/loop.ts";
import { type Epoch, type Store, StoreUnavailable } from "../../core/store/store.ts";
import {
  askedRun,
  decideTasks,
  heldName,
  nextDueOf,
  type TaskAction,
  type TaskLimits,
  type TaskReplica,
  type TaskWorld,
  withStep,
} from "./decide.ts";
import { putSchedule, schedulesIn, type TaskLog } from "./keeper.ts";

/** The lease as its holder knows it. */
export interface Leadership {
  /** The epoch under which this process may act as the leader now, by its own clocks. */
  mayAct(): { readonly epoch: Epoch } | undefined;
  /** Told when leadership begins and ends; answers how to stop listening. */
  onChange(listener: () => void): () => void;
}

/** For whatever looks at all servers while its sidecar leads. */
export interface LeaderSight {
  /** The replica beside which this sidecar stands. */
  readonly replica: string;
  readonly client: JellyfinClient;
  /** The other replicas' servers, by name. */
  readonly peers: () => ReadonlyMap<string, JellyfinClient>;
  readonly lease: Leadership;
  readonly memory: Memory;
  readonly log: { info(message: string): void; warn(message: string): void };
}

export interface TaskLeaderOptions extends TaskLimits {
  /** The replica beside which this sidecar stands. */
  readonly replica: string;
  readonly lease: Leadership;
  /** Every replica's hands, by name; undefined for one whose sidecar cannot be reached. */
  readonly hands: () => ReadonlyMap<string, TaskHands | undefined>;
  readonly store: Store;
  readonly memory: Memory;
  readonly log: TaskLog;
  readonly zone: string;
  readonly wallMs: () => number;
  /** How often it looks while a run is under way, in ms. */
  readonly busyIntervalMs: number;
  /** How often it looks when nothing is due, in ms. */
  readonly idleIntervalMs: number;
  /** A start that was held, or did not reach its server, is tried again after this, in ms. */
  readonly heldRetryMs: number;
  /** Told of every start that came to an answer, and of starts that are held, for the metrics. */
  readonly onStart?: ((outcome: StartAnswer["outcome"]) => void) | undefined;
  /** Told how many starts are held after each look, for the metrics. */
  readonly onHeld?: ((count: number) => void) | undefined;
}

const soonMs = 20;

const notLeader: DeskAnswer = {
  outcome: "refused",
  reason: "there is no leader now who could do it",
};

export class TaskLeader implements TaskDesk {
  readonly #options: TaskLeaderOptions;
  /** As this leader wrote them: a note of an older leader that comes late does not count. */
  readonly #runs = new Map<string, TaskRun>();
  readonly #heldUntilMs = new Map<string, number>();
  readonly #heldReasons = new Map<string, string>();
  /** When startup tasks are due for servers that have just started, in ms since the epoch. */
  #startupsAtMs: readonly number[] = [];
  #epoch: Epoch | undefined;
  #wake = new AbortController();
  /** One look, and one change by an administrator, at one time. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: TaskLeaderOptions) {
    this.#options = options;
  }

  wake(): void {
    this.#wake.abort();
  }

  async run(signal: AbortSignal): Promise<void> {
    const stop = this.#options.lease.onChange(() => this.wake());
    while (!signal.aborted) {
      this.#wake = new AbortController();
      const pauseMs = await this.#inTurn(() => this.cycle());
      await rest(pauseMs, signal, this.#wake.signal);
    }
    stop();
  }

  /** Looks once, does what is to be done, and answers after how many ms to look again. */
  async cycle(): Promise<number> {
    const { idleIntervalMs, busyIntervalMs } = this.#options;
    try {
      const next = await this.#once();
      // What was only written down is gone on with at once.
      if (next === "soon") return Math.min(soonMs, busyIntervalMs);
      return next === "busy" ? busyIntervalMs : this.#restMs();
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      this.#options.memory.noteStoreFailure(error);
      return idleIntervalMs;
    }
  }

  /** `busy` while something is under way, `soon` where the next step can be taken now. */
  async #once(): Promise<"soon" | "busy" | "idle"> {
    const world = await this.#look();
    this.#forgetHeld(world);
    if (world === undefined) return "idle";
    const actions = decideTasks(world, this.#options);
    for (const action of actions.filter(({ type }) => type === "note")) await this.#act(action);
    await Promise.all(
      actions.filter(({ type }) => type !== "note").map((action) => this.#act(action)),
    );
    if (actions.some(({ type }) => type === "note")) return "soon";
    const isBusy =
      actions.some(({ type }) => type === "start") ||
      [...this.#runsNow().values()].some((run) => run.endedAtMs === undefined);
    return isBusy ? "busy" : "idle";
  }

  /** Undefined when this is not the leader. */
  async #look(): Promise<TaskWorld | undefined> {
    const { lease, hands, memory, zone, wallMs, replica } = this.#options;
    const epoch = memory.storeAvailable ? lease.mayAct()?.epoch : undefined;
    if (epoch === undefined) {
      this.#forget(undefined);
      return undefined;
    }
    this.#forget(epoch);
    // What is known of the runs comes first: what is seen of the servers must not be older than it.
    const schedules = this.#schedulesNow();
    const runs = this.#runsNow();
    const replicas = await Promise.all(
      [...hands()].map(
        async ([name, hand]): Promise<TaskReplica> => ({ name, seen: await hand?.read(epoch) }),
      ),
    );
    this.#startupsAtMs = replicas.flatMap(({ seen }) =>
      seen?.startedAtMs === undefined ? [] : [seen.startedAtMs + startupDelayMs],
    );
    if (lease.mayAct() === undefined) return undefined;
    const heldUntilMs = this.#heldUntilMs;
    return {
      ...{ nowMs: wallMs(), epoch, leader: replica, zone },
      ...{ replicas, schedules, runs, heldUntilMs },
    };
  }

  /** A new leadership begins with nothing of an older one. */
  #forget(epoch: Epoch | undefined): void {
    if (this.#epoch?.number === epoch?.number && this.#epoch?.owner === epoch?.owner) return;
    this.#epoch = epoch;
    this.#runs.clear();
    this.#heldUntilMs.clear();
    this.#heldReasons.clear();
  }

  /** What waits no longer is held no longer. */
  #forgetHeld(world: TaskWorld | undefined): void {
    for (const name of this.#heldReasons.keys()) {
      const [key = "", replica = ""] = name.split("\n");
      const steps = world?.runs.get(key)?.steps ?? [];
      const waits = steps.some((step) => step.replica === replica && step.state === "waiting");
      if (!waits) this.#heldReasons.delete(name);
    }
    this.#options.onHeld?.(this.#heldReasons.size);
  }

  /** Every task with a schedule, and every other that was ever run. */
  #schedulesNow(): ReadonlyMap<string, TaskSchedule> {
    const schedules = new Map(schedulesIn(this.#options.memory));
    for (const key of this.#runsNow().keys()) {
      if (!schedules.has(key)) schedules.set(key, noSchedule);
    }
    return schedules;
  }

  #runsNow(): ReadonlyMap<string, TaskRun> {
    const runs = new Map<string, TaskRun>();
    for (const [key, { value }] of this.#options.memory.notes("taskRun")) {
      const run = readRun(value);
      if (run !== undefined) runs.set(key, run);
    }
    for (const [key, run] of this.#runs) runs.set(key, run);
    return runs;
  }

  #restMs(): number {
    const { zone, wallMs, idleIntervalMs, memory } = this.#options;
    if (this.#epoch === undefined) return idleIntervalMs;
    const runs = this.#runsNow();
    let restMs = idleIntervalMs;
    for (const [key, schedule] of schedulesIn(memory)) {
      const due = nextDueOf(schedule, runs.get(key), zone);
      if (due !== undefined) restMs = Math.min(restMs, Math.max(0, due.atMs - wallMs()));
    }
    for (const atMs of this.#startupsAtMs) {
      if (atMs > wallMs()) restMs = Math.min(restMs, atMs - wallMs());
    }
    for (const name of this.#heldReasons.keys()) {
      const heldUntilMs = this.#heldUntilMs.get(name) ?? 0;
      restMs = Math.min(restMs, heldUntilMs - wallMs());
    }
    return Math.max(restMs, 100);
  }

  // ---- Deeds ----------------------------------------------------------------------------------------

  async #act(action: TaskAction): Promise<void> {
    switch (action.type) {
      case "note":
        this.#options.log.info(`task ${action.key} ${action.why}`);
        await this.#put(action.key, action.run);
        return;
      case "start":
        return await this.#start(action);
      case "cancel": {
        const epoch = this.#epochNow();
        const hand = this.#options.hands().get(action.replica);
        if (epoch === undefined || hand === undefined) return;
        const answer = await hand.cancel({ key: action.key, epoch });
        this.#options.log.info(
          `task ${action.key} on ${action.replica} ran longer than it may: ${answer}`,
        );
        return;
      }
    }
  }

  async #start({ key, replica, run }: Extract<TaskAction, { type: "start" }>): Promise<void> {
    const { hands, log, onStart, wallMs } = this.#options;
    const hand = hands().get(replica);
    if (hand === undefined) return;
    const held = await hand.mayStart(key);
    if (held !== undefined) {
      onStart?.("held");
      return this.#hold(key, replica, held);
    }
    if (!(await this.#put(key, run))) return;
    const epoch = this.#epochNow();
    if (epoch === undefined) return;
    const answer = await hand.start({ key, dueAtMs: run.dueAtMs, epoch });
    onStart?.(answer.outcome);
    const nowMs = wallMs();
    const skip = (note: string): Promise<void> =>
      this.#step(key, run, { replica, state: "skipped", atMs: nowMs, note });
    switch (answer.outcome) {
      case "started":
        if (this.#heldReasons.delete(heldName(key, replica))) {
          log.info(`task ${key} on ${replica} is held no longer`);
        }
        log.info(`task ${key} is started on ${replica} (${run.why}, for ${timeText(run.dueAtMs)})`);
        return;
      case "already":
        return await skip("it was started for this time before");
      case "unknownTask":
        return await skip("its server has no such task");
      case "unfit":
        log.info(`task ${key} is left out on ${replica}: ${answer.reason}`);
        return await skip(answer.reason);
      case "held":
        this.#hold(key, replica, answer.reason);
        await this.#step(key, run, { replica, state: "waiting", atMs: nowMs });
        return;
      case "failed":
        // Where the server may have seen it, looking tells what became of it.
        if (answer.seen === "maybe") return;
        this.#hold(key, replica, answer.reason);
        await this.#step(key, run, { replica, state: "waiting", atMs: nowMs });
        return;
      case "oldEpoch":
        log.info(`task ${key} was not started on ${replica}: there is a newer leader`);
        return;
    }
  }

  #hold(key: string, replica: string, reason: string): void {
    const { log, wallMs, heldRetryMs } = this.#options;
    const name = heldName(key, replica);
    this.#heldUntilMs.set(name, wallMs() + heldRetryMs);
    if (this.#heldReasons.get(name) === reason) return;
    this.#heldReasons.set(name, reason);
    log.warn(`task ${key} is not started on ${replica}: ${reason}`);
  }

  async #step(key: string, run: TaskRun, step: TaskStep): Promise<void> {
    await this.#put(key, withStep(this.#runs.get(key) ?? run, step));
  }

  #epochNow(): Epoch | undefined {
    const epoch = this.#options.lease.mayAct()?.epoch;
    // A leadership that began since the look must look for itself.
    return epoch?.number === this.#epoch?.number ? epoch : undefined;
  }

  /** False when this is the leader no longer: nothing was written. */
  async #put(key: string, run: TaskRun): Promise<boolean> {
    const epoch = this.#epochNow();
    if (epoch === undefined) return false;
    const value = JSON.stringify({ ...run, epoch });
    await putNote(this.#options, { kind: "taskRun", id: key, replica: "", value }, 0);
    this.#runs.set(key, { ...run, epoch });
    return true;
  }

  async #inTurn<Value>(deed: () => Promise<Value>): Promise<Value> {
    const work = this.#turn.then(deed);
    // Whoever asked hears of a failure; the next in turn begins all the same.
    this.#turn = work.catch(() => undefined);
    return await work;
  }

  // ---- The desk -------------------------------------------------------------------------------------

  /** What is held and why, by task and replica: one sentence each. */
  held(): readonly string[] {
    return [...this.#heldReasons].map(
      ([name, reason]) => `task ${name.replace("\n", " on ")} is held: ${reason}`,
    );
  }

  async list(): Promise<readonly TaskView[] | undefined> {
    if (schedulesIn(this.#options.memory).size === 0) return undefined;
    const world = await this.#look();
    if (world === undefined) return undefined;
    return keysOf(world).map((key) => viewOf(key, world));
  }

  async setTriggers(taskId: string, triggers: unknown): Promise<DeskAnswer> {
    const read = readTriggers(triggers);
    if ("problem" in read) return { outcome: "malformed", problem: read.problem };
    return await this.#atDesk(taskId, async (key, id, world) => {
      const { store, memory, log, wallMs } = this.#options;
      const known = world.schedules.get(key);
      const base = known === undefined || known === noSchedule ? { id, original: [] } : known;
      const schedule = { ...base, triggers: read.triggers, sinceMs: wallMs() };
      await putSchedule(store, memory, key, schedule);
      log.info(`the triggers of task ${key} were changed for the whole cluster`);
      return { outcome: "done" };
    });
  }

  async runNow(taskId: string): Promise<DeskAnswer> {
    return await this.#atDesk(taskId, async (key, _id, world) => {
      const run = askedRun(key, world.runs.get(key), world, this.#options);
      if (run === undefined) return { outcome: "done" };
      // Who asks now is not to wait until something that was held is tried again.
      for (const { name } of world.replicas) this.#heldUntilMs.delete(heldName(key, name));
      this.#options.log.info(`task ${key} was asked for`);
      return (await this.#put(key, run)) ? { outcome: "done" } : notLeader;
    });
  }

  async cancel(taskId: string): Promise<DeskAnswer> {
    return await this.#atDesk(taskId, async (key, _id, world) => {
      const { hands, wallMs, log } = this.#options;
      const epoch = this.#epochNow();
      if (epoch === undefined) return notLeader;
      const run = world.runs.get(key);
      const waits = run?.endedAtMs === undefined ? waitingOf(run) : [];
      const runs = world.replicas.filter(
        ({ seen }) => taskIn(seen?.tasks, key)?.state === "Running",
      );
      if (waits.length === 0 && runs.length === 0) return { outcome: "notRunning" };
      if (run !== undefined && waits.length > 0) {
        const note = "an administrator cancelled it";
        const steps = run.steps.map((step): TaskStep => {
          return waits.includes(step) ? { ...step, state: "skipped", atMs: wallMs(), note } : step;
        });
        if (!(await this.#put(key, { ...run, steps }))) return notLeader;
      }
      await Promise.all(runs.map(({ name }) => hands().get(name)?.cancel({ key, epoch })));
      log.info(`task ${key} was cancelled`);
      return { outcome: "done" };
    });
  }

  async #atDesk(
    taskId: string,
    deed: (key: string, id: string, world: TaskWorld) => Promise<DeskAnswer>,
  ): Promise<DeskAnswer> {
    const answer = await this.#inTurn(async (): Promise<DeskAnswer> => {
      try {
        const world = await this.#look();
        if (world === undefined) return notLeader;
        const found = findTask(taskId, world);
        if (found === undefined) return { outcome: "unknownTask" };
        return await deed(found.key, found.id, world);
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error;
        this.#options.memory.noteStoreFailure(error);
        return { outcome: "refused", reason: "the store cannot be reached" };
      }
    });
    this.wake();
    return answer;
  }
}

function timeText(atMs: number): string {
  return new Date(atMs).toISOString();
}

const noSchedule: TaskSchedule = { id: "", triggers: [], original: [], sinceMs: 0 };

function waitingOf(run: TaskRun | undefined): readonly TaskStep[] {
  return (run?.steps ?? []).filter(({ state }) => state === "waiting");
}

function taskIn(tasks: readonly SeenTask[] | undefined, key: string): SeenTask | undefined {
  return tasks?.find((task) => task.key === key);
}

/** Every task that a replica has, or that has a schedule. */
function keysOf(world: TaskWorld): readonly string[] {
  const keys = new Set(world.schedules.keys());
  for (const { seen } of world.replicas) for (const { key } of seen?.tasks ?? []) keys.add(key);
  return [...keys];
}

/** Jellyfin compares ids without regard to case; dashes are left out by some clients. */
function findTask(
  taskId: string,
  world: TaskWorld,
): { readonly key: string; readonly id: string } | undefined {
  const wanted = normalId(taskId);
  for (const { seen } of world.replicas) {
    for (const { key, id } of seen?.tasks ?? []) {
      if (id.toLowerCase() === wanted || key === taskId) return { key, id };
    }
  }
  for (const [key, { id }] of world.schedules) {
    if (id !== "" && (id.toLowerCase() === wanted || key === taskId)) return { key, id };
  }
  return undefined;
}

function viewOf(key: string, world: TaskWorld): TaskView {
  const schedule = world.schedules.get(key);
  const seen = world.replicas.flatMap(({ name, seen }) => {
    const task = taskIn(seen?.tasks, key);
    return task === undefined ? [] : [{ name, task }];
  });
  const active = seen.find(({ task }) => task.state !== "Idle");
  const latest = seen.reduce<SeenTask | undefined>((best, { task }) => {
    if (task.lastResult === undefined) return best;
    return best === undefined || task.lastEnd > best.lastEnd ? task : best;
  }, undefined);
  return {
    key,
    id: seen[0]?.task.id ?? schedule?.id ?? "",
    triggers: schedule?.triggers ?? [],
    state: active?.task.state ?? (isUnderWay(world.runs.get(key)) ? "Running" : "Idle"),
    progress: active?.task.progress,
    lastResult: latest?.lastResult,
    replica: active?.name ?? "",
  };
}
