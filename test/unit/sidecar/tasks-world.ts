// A cluster's tasks without processes: servers that run tasks for some time of a simulated clock, hands and
// disks beside them, and a store that may lose its last writes. Whatever is started is written down.

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { SeenTask, SeenTasks, StartAnswer, TaskHands } from "../../../core/cluster/tasks.ts";
import type { JellyfinClient } from "../../../core/jellyfin/client.ts";
import { Hands } from "../../../sidecar/tasks/hands.ts";
import { type LibraryPlaces, noPlaces } from "../../../sidecar/tasks/places.ts";
import { nothingSaved, SavedTasksKeeper } from "../../../sidecar/tasks/saved.ts";

/** Thrown where a leader's process is killed. */
export class Killed extends Error {
  override readonly name = "Killed";
}

interface Run {
  readonly key: string;
  readonly fromMs: number;
  readonly untilMs: number;
}

/** One Jellyfin's tasks, as its API shows them. */
export class SimulatedServer {
  readonly starts: { key: string; atMs: number }[] = [];
  readonly #now: () => number;
  readonly #keys: readonly string[];
  readonly #triggers = new Map<string, unknown[]>();
  #runs: Run[] = [];
  #results = new Map<string, Run>();
  runMs = 40_000;
  isUp = true;

  constructor(now: () => number, keys: readonly string[]) {
    this.#now = now;
    this.#keys = keys;
  }

  /** A server that is killed forgets what it runs and writes no result. */
  kill(): void {
    this.isUp = false;
    this.#runs = [];
  }

  running(key: string): boolean {
    this.#settle();
    return this.#runs.some((run) => run.key === key);
  }

  #settle(): void {
    const nowMs = this.#now();
    for (const run of this.#runs.filter(({ untilMs }) => untilMs <= nowMs)) {
      this.#results.set(run.key, run);
    }
    this.#runs = this.#runs.filter(({ untilMs }) => untilMs > nowMs);
  }

  /** The one call the hands and keepers make. */
  async call(method: string, path: string, body: unknown) {
    if (!this.isUp) {
      return {
        outcome: "failed",
        failure: "notConnected",
        seen: "nothing",
        message: "gone",
      } as const;
    }
    this.#settle();
    const [, , word = "", id = ""] = path.split("/");
    if (method === "GET")
      return answered(
        200,
        this.#keys.map((key) => this.#dto(key)),
      );
    if (word === "Running" && method === "POST") {
      const nowMs = this.#now();
      // A task that runs is not started again, and 204 is the answer all the same.
      if (!this.running(id)) {
        this.#runs.push({ key: id, fromMs: nowMs, untilMs: nowMs + this.runMs });
        this.starts.push({ key: id, atMs: nowMs });
      }
      return answered(204, undefined);
    }
    if (word === "Running") {
      const run = this.#runs.find(({ key }) => key === id);
      if (run === undefined) return answered(500, undefined);
      this.#runs = this.#runs.filter((other) => other !== run);
      this.#results.set(id, { ...run, untilMs: this.#now() });
      return answered(204, undefined);
    }
    this.#triggers.set(word, body as unknown[]);
    return answered(204, undefined);
  }

  #dto(key: string) {
    const result = this.#results.get(key);
    return {
      ...{ Key: key, Id: key, Name: key, Triggers: this.#triggers.get(key) ?? [] },
      State: this.running(key) ? "Running" : "Idle",
      ...(result !== undefined && {
        LastExecutionResult: {
          StartTimeUtc: new Date(result.fromMs).toISOString(),
          EndTimeUtc: `${new Date(result.untilMs).toISOString()}#${result.fromMs}`,
          Status: "Completed",
        },
      }),
    };
  }
}

function answered(status: number, body: unknown) {
  return {
    outcome: "answered",
    status,
    text: body === undefined ? "" : JSON.stringify(body),
  } as const;
}

export function clientOf(server: SimulatedServer): JellyfinClient {
  const callWithKey: JellyfinClient["callWithKey"] = (method, path, body) =>
    server.call(method, path, body);
  return { callWithKey } as JellyfinClient;
}

/** The hands at a simulated server, with a file of their own. */
export function handsOf(
  server: SimulatedServer,
  now: () => number,
  more: {
    readonly folder?: string;
    readonly startedAtMs?: () => number | undefined;
    readonly mediaProblem?: () => Promise<string | undefined>;
    readonly libraries?: LibraryPlaces;
  } = {},
): { hands: Hands; keeper: SavedTasksKeeper; file: string } {
  const folder = more.folder ?? mkdtempSync(join(tmpdir(), "jellybloom-tasks-"));
  const file = join(folder, "tasks.json");
  const keeper = new SavedTasksKeeper(file, nothingSaved);
  const hands = new Hands({
    client: clientOf(server),
    keeper,
    isHealthy: () => server.isUp,
    startedAtMs: more.startedAtMs ?? (() => undefined),
    mediaProblem: more.mediaProblem ?? (async () => undefined),
    libraries: async () => more.libraries ?? noPlaces,
    wallMs: now,
  });
  return { hands, keeper, file };
}

/** What a test says of a server's tasks in short. */
export function seen(
  tasks: Readonly<Record<string, Partial<SeenTask>>>,
  startedAtMs?: number,
): SeenTasks {
  return {
    tasks: Object.entries(tasks).map(([key, task]) => ({
      ...{ key, id: key, state: "Idle", progress: undefined, lastEnd: "" },
      ...{ lastResult: undefined, triggers: [] },
      ...task,
    })) as readonly SeenTask[],
    ...(startedAtMs !== undefined && { startedAtMs }),
  };
}

export type { StartAnswer, TaskHands };
