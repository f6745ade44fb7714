// Keeps one server's tasks parked: saves its own triggers beside the sidecar, sees that the cluster's
// schedule is in the store, and takes the server's triggers away (park.ts decides, here it is done). It looks
// again at its own pace, because a plugin may bring a task, and somebody may set triggers at the server.
//
// It promises that nothing is parked before it is saved, that nothing is parked with one replica or without
// a durable place, and that a schedule which the store lost is written back, with one sentence about it.

import type { Memory } from "../../core/cluster/memory.ts";
import { putNote } from "../../core/cluster/notes.ts";
import { readSchedule, type TaskSchedule } from "../../core/cluster/tasks.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { rest } from "../../core/service/loop.ts";
import { type Note, type Store, StoreUnavailable } from "../../core/store/store.ts";
import { type ParkPlan, planParking } from "./park.ts";
import { type SavedTasksKeeper, SavedTasksProblem } from "./saved.ts";
import { readServerTasks, setServerTriggers } from "./server-tasks.ts";

export interface TaskLog {
  debug(message: string): void;
  info(message: string): void;
  warn(message: string): void;
}

export interface TaskKeeperOptions {
  readonly replica: string;
  readonly client: JellyfinClient;
  readonly keeper: SavedTasksKeeper;
  readonly store: Store;
  readonly memory: Memory;
  readonly log: TaskLog;
  readonly wallMs: () => number;
  /** Why nothing may be parked now, or undefined: one replica, a server that is not ready. */
  readonly hindrance: () => string | undefined;
  /** How often it looks when nothing happens, in ms. */
  readonly intervalMs: number;
  /** How soon it looks again when something could not be done, in ms. */
  readonly retryMs: number;
}

/** The cluster's schedule as this process knows it; what is no schedule is passed over. */
export function schedulesIn(memory: Memory): ReadonlyMap<string, TaskSchedule> {
  const schedules = new Map<string, TaskSchedule>();
  for (const [key, { value }] of memory.notes("schedule")) {
    const schedule = readSchedule(value);
    if (schedule !== undefined) schedules.set(key, schedule);
  }
  return schedules;
}

/** Writes a task's schedule, here and for everybody. */
export async function putSchedule(
  store: Store,
  memory: Memory,
  key: string,
  schedule: TaskSchedule,
): Promise<void> {
  const value = JSON.stringify(schedule);
  await putNote({ store, memory }, { kind: "schedule", id: key, replica: "", value }, 0);
}

export class TaskKeeper {
  readonly #options: TaskKeeperOptions;
  readonly #told = new Set<string>();
  #wake = new AbortController();
  /** Parked once: triggers that appear later were set at the server itself. */
  #hasParked = false;

  constructor(options: TaskKeeperOptions) {
    this.#options = options;
  }

  wake(): void {
    this.#wake.abort();
  }

  async run(signal: AbortSignal): Promise<void> {
    const { memory, intervalMs, retryMs } = this.#options;
    const stops = [
      memory.onNote((note) => {
        if (note.kind === "schedule") void this.#copy(note);
      }),
      memory.onStoreAvailable(() => this.wake()),
      memory.onReload(() => this.wake()),
    ];
    while (!signal.aborted) {
      this.#wake = new AbortController();
      const done = await this.#look();
      await rest(done ? intervalMs : retryMs, signal, this.#wake.signal);
    }
    for (const stop of stops) stop();
  }

  /** True when there is nothing left to do. */
  async #look(): Promise<boolean> {
    const { hindrance, memory, client, keeper, wallMs } = this.#options;
    if (!memory.storeAvailable || hindrance() !== undefined) return false;
    const seen = await readServerTasks(client);
    if (seen === undefined || !memory.storeAvailable) return false;
    const schedules = schedulesIn(memory);
    const plan = planParking({ nowMs: wallMs(), seen, saved: keeper.saved, schedules });
    try {
      return await this.#do(plan);
    } catch (error) {
      if (error instanceof SavedTasksProblem) {
        this.#tellOnce(`${error.message}: no further task is parked`);
      } else if (error instanceof StoreUnavailable) memory.noteStoreFailure(error);
      else throw error;
      return false;
    }
  }

  async #do(plan: ParkPlan): Promise<boolean> {
    const { keeper, store, memory, client, log, replica } = this.#options;
    const news = [plan.originals, plan.copies, plan.schedules];
    if (news.some((one) => Object.keys(one).length > 0)) {
      await keeper.change((saved) => ({
        ...saved,
        originals: { ...saved.originals, ...plan.originals },
        schedules: { ...saved.schedules, ...plan.copies, ...plan.schedules },
      }));
    }
    for (const [key, schedule] of Object.entries(plan.schedules)) {
      await putSchedule(store, memory, key, schedule);
    }
    if (plan.restored.length > 0) {
      log.warn(
        `the store had lost the schedule of ${plan.restored.length} tasks while servers are parked:` +
          ` it was written back from what is saved beside ${replica}`,
      );
    }
    let parked = 0;
    for (const { key, id } of plan.park) {
      if ((await setServerTriggers(client, id, [])) === "done") parked++;
      else log.debug(`task ${key} of ${replica} could not be parked now`);
    }
    this.#tell(plan, parked);
    return parked === plan.park.length;
  }

  #tell(plan: ParkPlan, parked: number): void {
    const { log, replica } = this.#options;
    for (const { key, problem } of plan.unreadable) {
      this.#tellOnce(
        `task ${key} of ${replica} is left to its server, because its triggers are not sound (${problem})`,
      );
    }
    if (plan.differing.length > 0) {
      const what = this.#hasParked
        ? "were set at the server itself"
        : "are others than the cluster's and were saved";
      log.info(
        `triggers of ${plan.differing.join(", ")} at ${replica} ${what}; the cluster's count: change` +
          " them through the door",
      );
    }
    if (parked > 0 && !this.#hasParked) {
      log.info(`${parked} tasks of ${replica} are parked: the cluster's leader starts them now`);
    }
    if (parked === plan.park.length) this.#hasParked = true;
  }

  #tellOnce(sentence: string): void {
    if (this.#told.has(sentence)) return;
    this.#told.add(sentence);
    this.#options.log.warn(sentence);
  }

  /** What the cluster's schedule becomes is saved here, too. */
  async #copy({ id, value }: Note): Promise<void> {
    const { keeper } = this.#options;
    const schedule = readSchedule(value);
    if (schedule === undefined) return;
    const known = keeper.saved.schedules[id];
    if (known !== undefined && JSON.stringify(known) === JSON.stringify(schedule)) return;
    if (known !== undefined && known.sinceMs > schedule.sinceMs) {
      this.wake();
      return;
    }
    try {
      await keeper.change((saved) => ({
        ...saved,
        schedules: { ...saved.schedules, [id]: schedule },
      }));
    } catch (error) {
      if (!(error instanceof SavedTasksProblem)) throw error;
      this.#tellOnce(error.message);
    }
  }
}
