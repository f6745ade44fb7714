// Two servers with tasks that are due again and again, as the cluster's schedule has it, and a follower of the
// store that writes down for which due times a leader began a run. The servers count how often each task was
// started, and when; so whatever happens to the leaders, a second start for one due time shows.

import { readRun } from "../../core/cluster/tasks.ts";
import { openRedisStore, type RedisStore } from "../../core/store/redis.ts";
import type { Note } from "../../core/store/store.ts";
import type { TaskServer } from "./lease-run.ts";
import { dailyIn, setTriggers, startsOf, TaskHousehold, tasksOf } from "./task-household.ts";

/** Some on each server at once, some in turn. */
const keys = [
  "CleanLogFiles",
  "DeleteCacheFiles",
  "RefreshPeople",
  "RefreshChapterImages",
  "RefreshTrickplayImages",
];
/** A server waits a minute at least between two runs of an interval; times of day can be as near as one likes. */
const dueEveryMs = 600;
const dueTimes = 75;
const runMs = 80;

export class DueTasks {
  readonly #household: TaskHousehold;
  readonly #store: RedisStore;
  readonly #stop = new AbortController();
  /** By task: when the run of each due time began, in ms since the epoch, by due time. */
  readonly #begun = new Map(keys.map((key) => [key, new Map<number, number>()]));

  private constructor(household: TaskHousehold, store: RedisStore) {
    this.#household = household;
    this.#store = store;
  }

  static async start(redisUrl: string): Promise<DueTasks> {
    const household = await TaskHousehold.start();
    const limits = { changesKept: 10_000, revokedKeepMs: 60_000, callLimitMs: 2000 };
    const store = await openRedisStore({ url: redisUrl, limits });
    const tasks = new DueTasks(household, store);
    for (const server of [household.a, household.b]) {
      for (const key of keys) await setTriggers(server, key, []);
      await server.control("task-runs", { runMs });
    }
    const nowMs = Date.now();
    const triggers = Array.from({ length: dueTimes }, (_, index) =>
      dailyIn((index + 1) * dueEveryMs),
    );
    const known = await tasksOf(household.a);
    for (const key of keys) {
      const id = known.get(key)?.Id;
      const value = JSON.stringify({ id, triggers, original: [], sinceMs: nowMs });
      await store.putNote({ kind: "schedule", id: key, replica: "", value }, 0);
    }
    await tasks.#follow();
    return tasks;
  }

  async #follow(): Promise<void> {
    const { position } = await this.#store.load();
    void this.#store
      .follow(
        position,
        (changes) => {
          for (const change of changes) if (change.type === "note") this.#heard(change.note);
        },
        this.#stop.signal,
      )
      // The store is closed while it is followed: that is the end.
      .catch(() => undefined);
  }

  #heard({ kind, id, value }: Note): void {
    const run = kind === "taskRun" ? readRun(value) : undefined;
    const begun = this.#begun.get(id);
    if (run?.lastStartMs !== undefined && begun?.has(run.dueAtMs) === false) {
      begun.set(run.dueAtMs, run.lastStartMs);
    }
  }

  /** For processes that stand beside these servers. */
  servers(portOf: (name: string) => number): TaskServer[] {
    const { a, b } = this.#household;
    return [a, b].map(({ name, url, apiKey }) => ({ name, url, apiKey, port: portOf(name) }));
  }

  /**
   * How many starts there were in all, and the most of one task on one server between the beginnings of two of its
   * runs: a run starts each server once, so more than one is a second start for one due time.
   */
  async count(): Promise<{ readonly starts: number; readonly most: number }> {
    let count = 0;
    let most = 0;
    for (const server of [this.#household.a, this.#household.b]) {
      for (const [key, begun] of this.#begun) {
        const starts = await startsOf(server, key);
        count += starts.length;
        const beginnings = [0, ...begun.values()].sort((left, right) => left - right);
        beginnings.forEach((beginMs, index) => {
          const endMs = beginnings[index + 1] ?? Number.POSITIVE_INFINITY;
          const within = starts.filter((atMs) => atMs >= beginMs && atMs < endMs);
          most = Math.max(most, within.length);
        });
      }
    }
    return { starts: count, most };
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#store.close();
    await this.#household.stop();
  }
}
