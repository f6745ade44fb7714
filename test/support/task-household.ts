// Two servers with libraries of their own on disk, so that one can lose its media while the other keeps them,
// and what tests of scheduled tasks ask of them again and again.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type StandIn, startStandIn } from "./jellyfin/start.ts";

export const FILMS = 12;
const TICKS_PER_MS = 10_000;

export interface Task {
  readonly Id: string;
  readonly Key: string;
  readonly State: string;
  readonly Triggers: Record<string, unknown>[];
  readonly LastExecutionResult?: { readonly EndTimeUtc: string; readonly Status: string };
}

/** Two clones, each with twelve films in `movies/` below a media folder of its own. */
export class TaskHousehold {
  readonly a: StandIn;
  readonly b: StandIn;
  readonly root: string;

  private constructor(a: StandIn, b: StandIn, root: string) {
    this.a = a;
    this.b = b;
    this.root = root;
  }

  static async start(): Promise<TaskHousehold> {
    const root = mkdtempSync(join(tmpdir(), "jellybloom-tasks-"));
    for (const server of ["a", "b"]) {
      for (let film = 1; film <= FILMS; film++) {
        const folder = join(root, server, "movies", `Film ${film}`);
        mkdirSync(folder, { recursive: true });
        writeFileSync(join(folder, `Film ${film}.bin`), `film ${film}`);
      }
    }
    const a = await startStandIn({ name: "a", mediaDir: join(root, "a") });
    const b = await startStandIn({ name: "b", mediaDir: join(root, "b"), cloneOf: a });
    return new TaskHousehold(a, b, root);
  }

  /** Where a server's films lie. */
  movies(server: StandIn): string {
    return join(this.root, server.name, "movies");
  }

  /** A folder that outlives whatever a test starts. */
  folder(name: string): string {
    const folder = join(this.root, name);
    mkdirSync(folder, { recursive: true });
    return folder;
  }

  async stop(): Promise<void> {
    await Promise.all([this.a.stop(), this.b.stop()]);
    rmSync(this.root, { recursive: true, force: true });
  }
}

export async function asAdmin(
  server: StandIn,
  method: string,
  path: string,
  body?: unknown,
): Promise<Response> {
  return await fetch(server.url + path, {
    method,
    headers: {
      authorization: `MediaBrowser Token="${server.apiKey}"`,
      ...(body !== undefined && { "content-type": "application/json" }),
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
}

/** A server's tasks by key, as the server itself tells of them. */
export async function tasksOf(server: StandIn): Promise<Map<string, Task>> {
  const list = (await (await asAdmin(server, "GET", "/ScheduledTasks")).json()) as Task[];
  return new Map(list.map((task) => [task.Key, task]));
}

/** Every task's own triggers, by key. */
export async function triggersOf(server: StandIn): Promise<Record<string, unknown>> {
  return Object.fromEntries(
    [...(await tasksOf(server))].map(([key, { Triggers }]) => [key, Triggers]),
  );
}

export async function setTriggers(server: StandIn, key: string, triggers: unknown): Promise<void> {
  const id = (await tasksOf(server)).get(key)?.Id;
  const reply = await asAdmin(server, "POST", `/ScheduledTasks/${id}/Triggers`, triggers);
  if (reply.status !== 204) throw new Error(`setting triggers answered ${reply.status}`);
}

export async function isParked(server: StandIn): Promise<boolean> {
  return [...(await tasksOf(server)).values()].every(({ Triggers }) => Triggers.length === 0);
}

/** When a task was started on a server, in ms since the epoch; since its process began. */
export async function startsOf(server: StandIn, key: string): Promise<number[]> {
  const { taskRuns } = await server.state();
  return taskRuns.filter((run) => run.key === key).map(({ at }) => at);
}

export async function itemsOf(server: StandIn): Promise<number> {
  const reply = await asAdmin(server, "GET", "/Items?recursive=true&isFolder=false");
  return ((await reply.json()) as { TotalRecordCount: number }).TotalRecordCount;
}

/** A daily trigger so many ms from now, for servers in UTC. */
export function dailyIn(ms: number): Record<string, unknown> {
  const timeOfDayMs = (Date.now() + ms) % 86_400_000;
  return { Type: "DailyTrigger", TimeOfDayTicks: timeOfDayMs * TICKS_PER_MS };
}
