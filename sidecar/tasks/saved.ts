// What must outlive the process, the store and Jellybloom itself: each server's own triggers as they were
// found, the cluster's schedule as it was last known, and what was started last. One file of JSON for each
// replica, in a folder beside the sidecar. Without it nothing is parked.
//
// It promises that the file is whole at every moment: it is written beside itself, put onto the disk, and
// only then given its name.

import { mkdir, open, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { readEpoch } from "../../core/cluster/sidecar-client.ts";
import { readSchedule, type TaskSchedule } from "../../core/cluster/tasks.ts";
import { isCount, isRecord, parsedObject } from "../../core/service/json.ts";
import type { Epoch } from "../../core/store/store.ts";

/** A task's triggers at one server, as that server told them. */
export interface OwnTriggers {
  readonly id: string;
  readonly triggers: readonly unknown[];
}

export interface Begun {
  readonly dueAtMs: number;
  readonly atMs: number;
}

/** By the tasks' keys. */
export interface SavedTasks {
  readonly originals: Readonly<Record<string, OwnTriggers>>;
  readonly schedules: Readonly<Record<string, TaskSchedule>>;
  readonly begun: Readonly<Record<string, Begun>>;
  /** The highest epoch whose orders were taken here. */
  readonly epoch: Epoch | undefined;
}

export const nothingSaved: SavedTasks = {
  originals: {},
  schedules: {},
  begun: {},
  epoch: undefined,
};

/** The file cannot be read or written; the message names it and says why. */
export class SavedTasksProblem extends Error {
  override readonly name = "SavedTasksProblem";
}

/** Where a replica's file lies below the folder given as `--data`. */
export function savedTasksFile(directory: string, replica: string): string {
  return join(directory, "tasks", `${replica}.json`);
}

/** Throws SavedTasksProblem when a file is there and is not one of ours. A missing file says nothing yet. */
export async function readSavedTasks(file: string): Promise<SavedTasks> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if (codeOf(error) === "ENOENT") return nothingSaved;
    throw new SavedTasksProblem(`${file} cannot be read (${codeOf(error)})`);
  }
  const value = parsedObject(text);
  if (value?.version !== 1) {
    throw new SavedTasksProblem(`${file} is not a file of saved tasks`);
  }
  return {
    originals: recordOf(value.originals, (own) =>
      isRecord(own) && typeof own.id === "string" && Array.isArray(own.triggers)
        ? { id: own.id, triggers: own.triggers }
        : undefined,
    ),
    schedules: recordOf(value.schedules, (schedule) => readSchedule(JSON.stringify(schedule))),
    begun: recordOf(value.begun, (begun) =>
      isRecord(begun) && isCount(begun.dueAtMs) && isCount(begun.atMs)
        ? { dueAtMs: begun.dueAtMs, atMs: begun.atMs }
        : undefined,
    ),
    epoch: readEpoch(value.epoch),
  };
}

/** Keeps one replica's file. Changes are made one after another; each is on the disk when it resolves. */
export class SavedTasksKeeper {
  readonly #file: string;
  #saved: SavedTasks;
  #last: Promise<void> = Promise.resolve();

  constructor(file: string, saved: SavedTasks) {
    this.#file = file;
    this.#saved = saved;
  }

  static async open(directory: string, replica: string): Promise<SavedTasksKeeper> {
    const file = savedTasksFile(directory, replica);
    const keeper = new SavedTasksKeeper(file, await readSavedTasks(file));
    // Writing it once tells at the start, and not at the first task, that the place can be written.
    await keeper.change((saved) => saved);
    return keeper;
  }

  get saved(): SavedTasks {
    return this.#saved;
  }

  /** Rejects with SavedTasksProblem; then nothing has changed. */
  change(deed: (saved: SavedTasks) => SavedTasks): Promise<void> {
    const work = this.#last.then(async () => {
      const next = deed(this.#saved);
      await write(this.#file, next);
      this.#saved = next;
    });
    // A failure is its own caller's; the next change begins from what is known to be on the disk.
    this.#last = work.catch(() => undefined);
    return work;
  }
}

async function write(file: string, saved: SavedTasks): Promise<void> {
  const folder = join(file, "..");
  const text = `${JSON.stringify({ version: 1, ...saved }, null, 1)}\n`;
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    await writeFile(`${file}.new`, text, { mode: 0o600, flush: true });
    await rename(`${file}.new`, file);
    const within = await open(folder, "r");
    await within.sync().finally(() => within.close());
  } catch (error) {
    throw new SavedTasksProblem(`${file} cannot be written (${codeOf(error)})`);
  }
}

function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : "unknown error";
}

function recordOf<Value>(
  value: unknown,
  read: (entry: unknown) => Value | undefined,
): Readonly<Record<string, Value>> {
  if (!isRecord(value)) return {};
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, entry]) => {
      const known = read(entry);
      return known === undefined ? [] : [[key, known] as const];
    }),
  );
}
