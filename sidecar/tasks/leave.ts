// Giving a server its own triggers back: at the server through its API, or, where it is stopped, in the files
// that it reads at its next start. Only tasks that have no triggers now are given any: whatever somebody set
// at the server since is theirs. Done twice it is the same as done once.
//
// Jellyfin keeps the triggers of a task in `config/ScheduledTasks/<its id, with dashes>.js`, as the list that
// its API takes (ScheduledTaskWorker.SaveTriggers); a file with an empty list is a task that never runs, and
// no file is a task with its default triggers.

import { existsSync } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { TaskSchedule } from "../../core/cluster/tasks.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { readTriggers, sameTriggers, type Trigger } from "../../core/jellyfin/triggers.ts";
import { retry } from "../../core/service/loop.ts";
import { findUser } from "../seed/running.ts";
import {
  nothingSaved,
  readSavedTasks,
  type SavedTasks,
  SavedTasksProblem,
  savedTasksFile,
} from "./saved.ts";
import { readServerTasks, setServerTriggers } from "./server-tasks.ts";

export interface OwnTask {
  readonly id: string;
  readonly triggers: readonly Trigger[];
}

export interface Restored {
  /** Keys of tasks that have their own triggers again, those included that had them already. */
  readonly restored: readonly string[];
  /** One sentence each. */
  readonly undone: readonly string[];
}

/**
 * What a server had before its tasks were parked, by key; an empty list is one, too. A server that was copied from a parked one never
 * had any of its own: it gets what the cluster found first.
 */
export function ownTasksOf(
  saved: SavedTasks | undefined,
  others: readonly SavedTasks[],
  schedules: ReadonlyMap<string, TaskSchedule>,
): ReadonlyMap<string, OwnTask> {
  const own = new Map<string, OwnTask>();
  const add = (key: string, id: string, triggers: readonly unknown[]): void => {
    const read = readTriggers(triggers);
    if (own.has(key) || "problem" in read) return;
    own.set(key, { id, triggers: read.triggers });
  };
  const all = [...(saved === undefined ? [] : [saved]), ...others];
  for (const [key, { id, triggers }] of Object.entries(saved?.originals ?? {})) {
    add(key, id, triggers);
  }
  for (const { schedules: known } of all) {
    for (const [key, { id, original }] of Object.entries(known)) add(key, id, original);
  }
  for (const [key, { id, original }] of schedules) add(key, id, original);
  for (const { originals } of others) {
    for (const [key, { id, triggers }] of Object.entries(originals)) add(key, id, triggers);
  }
  return own;
}

/** Tasks whose triggers were changed for the cluster: the servers' own are put back, and the change is lost. */
export function changedTasks(schedules: ReadonlyMap<string, TaskSchedule>): readonly string[] {
  return [...schedules].flatMap(([key, { original, triggers }]) =>
    sameTriggers(original, triggers) ? [] : [key],
  );
}

/** Through the API of a server that runs. */
export async function restoreAtServer(
  client: JellyfinClient,
  own: ReadonlyMap<string, OwnTask>,
): Promise<Restored> {
  const seen = await readServerTasks(client);
  if (seen === undefined) {
    return { restored: [], undone: ["its tasks cannot be read with the API key that was given"] };
  }
  const restored: string[] = [];
  const undone: string[] = [];
  for (const { key, id, triggers } of seen) {
    const task = own.get(key);
    if (task === undefined || task.triggers.length === 0) continue;
    // Read again as the server tells them, because what was sent is not yet what it has.
    const isDone =
      triggers.length > 0 || (await setServerTriggers(client, id, task.triggers)) === "done";
    if (isDone) restored.push(key);
    else undone.push(`task ${key} did not take its triggers`);
  }
  return { restored, undone };
}

export interface ReleaseOptions {
  readonly client: JellyfinClient;
  /** Where the triggers were saved. */
  readonly directory: string;
  readonly replica: string;
  readonly log: { info(message: string): void; warn(message: string): void };
  readonly retryMs: number;
}

/**
 * For a server that is alone now and was parked when it was one of several: it gets the triggers back that the
 * cluster had for it last, since nobody else starts its tasks. Tried every `retryMs` until it is done.
 */
export async function releaseTasks(options: ReleaseOptions, signal: AbortSignal): Promise<void> {
  const { client, directory, replica, log, retryMs } = options;
  const file = savedTasksFile(directory, replica);
  const saved = await readSavedTasks(file).catch((error: unknown) => {
    if (!(error instanceof SavedTasksProblem)) throw error;
    log.warn(`the tasks of ${replica} may still be parked: ${error.message}`);
    return nothingSaved;
  });
  const own = ownTasksOf(
    { ...nothingSaved, originals: { ...saved.originals, ...saved.schedules } },
    [],
    new Map(),
  );
  if (own.size === 0) return;
  await retry({ firstMs: retryMs, longestMs: retryMs }, signal, async () => {
    const { restored, undone } = await restoreAtServer(client, own);
    if (undone.length > 0) return false;
    log.info(`${replica} is the only replica: ${restored.length} of its tasks run by themselves`);
    return true;
  });
}

/**
 * In the files of a server that is stopped. `folder` is its config folder, or the folder in which `config`
 * lies. Nothing is written while anybody has the server's files open.
 */
export async function restoreInFiles(
  folder: string,
  own: ReadonlyMap<string, OwnTask>,
): Promise<Restored> {
  const place = [folder, join(folder, "config")]
    .map((path) => join(path, "ScheduledTasks"))
    .find((path) => existsSync(path));
  if (place === undefined) {
    return { restored: [], undone: [`there is no ScheduledTasks in ${folder} or in its config`] };
  }
  const databases = ["data", join("data", "data"), join("..", "data"), join("..", "data", "data")]
    .map((path) => join(folder, path, "jellyfin.db"))
    .filter((path) => existsSync(path));
  const user = findUser(databases, [folder]);
  if (user !== undefined) {
    return { restored: [], undone: [`its files are in use by ${user.who} (${user.file})`] };
  }
  const restored: string[] = [];
  const undone: string[] = [];
  for (const [key, { id, triggers }] of own) {
    const file = join(place, `${dashed(id)}.js`);
    if (triggers.length === 0 || !existsSync(file)) continue;
    try {
      if (isParked(await readFile(file, "utf8"))) await overwrite(file, JSON.stringify(triggers));
      restored.push(key);
    } catch (error) {
      const code = error instanceof Error && "code" in error ? String(error.code) : "unknown";
      undone.push(`${file} cannot be written (${code})`);
    }
  }
  return { restored, undone };
}

function isParked(text: string): boolean {
  return /^\uFEFF?\s*\[\s*\]\s*$/.test(text);
}

/** In place, so that the file stays the server's own: its owner and its rights are what they were. */
async function overwrite(file: string, text: string): Promise<void> {
  const handle = await open(file, "r+");
  try {
    await handle.truncate(0);
    await handle.write(text, 0, "utf8");
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** .NET's format "D" of an id that the API gives in format "N". */
function dashed(id: string): string {
  return id.toLowerCase().replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
