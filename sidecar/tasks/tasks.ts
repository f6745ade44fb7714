// A sidecar's part in the cluster's scheduled tasks, put together: the disk (saved.ts), the keeper that parks
// this server's tasks (keeper.ts), the hands that start them when the leader says so (hands.ts), and the
// leader, which works while this sidecar holds the lease (leader.ts).
//
// Nothing is parked, and nothing of this works, without a folder that outlives the process: then every
// server goes on running its own tasks, and one sentence says so.

import type { Memory } from "../../core/cluster/memory.ts";
import type { StartAnswer, TaskHands } from "../../core/cluster/tasks.ts";
import type { HealthAnswer, JellyfinClient } from "../../core/jellyfin/client.ts";
import { startupDelayMs } from "../../core/jellyfin/triggers.ts";
import type { Clock } from "../../core/service/clock.ts";
import type { Store } from "../../core/store/store.ts";
import type { ServerSight } from "../observe.ts";
import { Hands } from "./hands.ts";
import { schedulesIn, TaskKeeper, type TaskLog } from "./keeper.ts";
import { type Leadership, TaskLeader } from "./leader.ts";
import { folderProblem, mediaProblem, serverEyes } from "./media.ts";
import { libraryPlaces } from "./places.ts";
import { SavedTasksKeeper, SavedTasksProblem } from "./saved.ts";

export interface TasksOptions {
  readonly replica: string;
  readonly client: JellyfinClient;
  readonly store: Store;
  readonly memory: Memory;
  readonly log: TaskLog;
  readonly clock: Clock;
  readonly lease: Leadership;
  readonly sight: () => ServerSight;
  /** Where this server's own triggers are saved; undefined: there is no such place. */
  readonly directory: string | undefined;
  /** How many replicas the cluster has, this one included. */
  readonly replicasCount: () => number;
  /** The hands of the other replicas, by name. */
  readonly others: () => ReadonlyMap<string, TaskHands | undefined>;
  /** The zone the servers are in, an IANA name. */
  readonly zone: string;
  /** Media folders as this process sees them; each must be there and not be empty before a scan. */
  readonly mediaFolders: readonly string[];
  /** A scan that would drop more than this part of a folder's items is held; 0 to 1. */
  readonly lossLimit: number;
  /** Asks the leader, wherever it is, to look now: this server has startup tasks to run. */
  readonly hurryLeader: () => void;
  readonly onStart?: (outcome: StartAnswer["outcome"]) => void;
  readonly onHeld?: (count: number) => void;
}

/** What whoever has no `directory` is told, once. */
export const notParkedSentence =
  "scheduled tasks are not parked, because there is no durable place for the servers' own triggers" +
  " (--data, or --task-data): each server goes on running its own";

const parkIntervalMs = 30_000;
const parkRetryMs = 2000;
const busyIntervalMs = 1000;
const idleIntervalMs = 10_000;
const heldRetryMs = 10_000;
const fateLimitMs = 10_000;
const awayLimitMs = 10 * 60_000;
const foldersLimit = 500;
/** Libraries are looked at as often as this, in ms: their options change seldom. */
const librariesKeepMs = 5 * 60_000;

export class Tasks {
  readonly #options: TasksOptions;
  /** The desk of this sidecar: it answers while this sidecar leads. */
  readonly desk: TaskLeader;
  #hands: TaskHands | undefined;
  #keeper: TaskKeeper | undefined;
  #wasDown = false;
  #startedAtMs: number | undefined;

  constructor(options: TasksOptions) {
    this.#options = options;
    const { replica, lease, store, memory, log, zone, onStart, onHeld, clock } = options;
    this.desk = new TaskLeader({
      ...{ replica, lease, store, memory, log, zone, wallMs: clock.wallMs },
      hands: () => this.allHands(),
      ...{ busyIntervalMs, idleIntervalMs, heldRetryMs, fateLimitMs, awayLimitMs },
      onStart,
      onHeld,
    });
  }

  /** Undefined until the folder was opened, and where there is none. */
  get hands(): TaskHands | undefined {
    return this.#hands;
  }

  /** The hands of every replica, this one's included, by name. */
  allHands(): ReadonlyMap<string, TaskHands | undefined> {
    return new Map([[this.#options.replica, this.#hands] as const, ...this.#options.others()]);
  }

  /** The desk where the cluster has a schedule; undefined: the servers run their tasks by themselves. */
  deskNow(): TaskLeader | undefined {
    return schedulesIn(this.#options.memory).size > 0 ? this.desk : undefined;
  }

  /** What the server's health has become: one that was down and is healthy again has started. */
  noteHealth(state: HealthAnswer["state"]): void {
    if (state === "refused" || state === "degraded" || state === "loading") this.#wasDown = true;
    if (state !== "healthy") return;
    if (this.#wasDown) this.noteStarted();
    this.#keeper?.wake();
  }

  /** The server has started; a start so short that nobody saw it away shows by the sockets it ended. */
  noteStarted(): void {
    this.#wasDown = false;
    const nowMs = this.#options.clock.wallMs();
    // One start is seen by health and by the socket that it ended, a moment apart.
    const isSame = Math.abs(nowMs - (this.#startedAtMs ?? 0)) < startupDelayMs;
    if (!isSame) this.#startedAtMs = nowMs;
    this.#keeper?.wake();
    // It learns of the start now, and looks again by itself when the tasks are due.
    this.#options.hurryLeader();
  }

  peersChanged(): void {
    this.#keeper?.wake();
  }

  async run(signal: AbortSignal): Promise<void> {
    const { directory } = this.#options;
    const saved = directory === undefined ? undefined : await this.#open(directory);
    if (saved === undefined) {
      // Another sidecar may have such a place, and this one may lead.
      return await this.desk.run(signal);
    }
    this.#hands = new Hands({
      client: this.#options.client,
      keeper: saved,
      isHealthy: () => this.#options.sight().health === "healthy",
      startedAtMs: () => this.#startedAtMs,
      mediaProblem: () => this.#mediaProblem(),
      libraries: libraryPlaces(
        this.#options.client,
        librariesKeepMs,
        this.#options.clock.monotonicMs,
      ),
      wallMs: this.#options.clock.wallMs,
    });
    this.#keeper = new TaskKeeper({
      ...this.#options,
      keeper: saved,
      wallMs: this.#options.clock.wallMs,
      hindrance: () => this.#hindrance(),
      intervalMs: parkIntervalMs,
      retryMs: parkRetryMs,
    });
    await Promise.all([this.#keeper.run(signal), this.desk.run(signal)]);
  }

  async #open(directory: string): Promise<SavedTasksKeeper | undefined> {
    const { replica, log } = this.#options;
    try {
      return await SavedTasksKeeper.open(directory, replica);
    } catch (error) {
      if (!(error instanceof SavedTasksProblem)) throw error;
      log.warn(`the tasks of ${replica} are not parked: ${error.message}`);
      return undefined;
    }
  }

  #hindrance(): string | undefined {
    const { health, startupWizardCompleted, rival } = this.#options.sight();
    if (this.#options.replicasCount() < 2) return "there is one replica";
    if (health !== "healthy") return "its server is not healthy";
    if (startupWizardCompleted !== true) return "its server is not set up yet";
    return rival;
  }

  async #mediaProblem(): Promise<string | undefined> {
    const { mediaFolders, client, lossLimit } = this.#options;
    for (const folder of mediaFolders) {
      const problem = await folderProblem(folder);
      if (problem !== undefined) return problem;
    }
    return await mediaProblem(serverEyes(client), { lossLimit, foldersLimit });
  }
}
