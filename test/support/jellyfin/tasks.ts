/**
 * The scheduled tasks of a 12.0 server: names, ids and keys as it has them, triggers that are written down in
 * `config/ScheduledTasks` (an empty list parks a task for good), and runs that take a moment and are remembered.
 *
 * As in the server (ScheduledTaskWorker), what an administrator sends is in the file before it is looked at, and at the
 * next start the file is believed: a malformed trigger is answered with 400, and the server does not start again.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Database } from "./database.ts";
import { Refusal } from "./http.ts";
import { dashed, jellyfinDate } from "./ids.ts";

const DAY_TICKS = 864_000_000_000;
const TRIGGER_TYPES = new Set([
  "DailyTrigger",
  "WeeklyTrigger",
  "IntervalTrigger",
  "StartupTrigger",
]);

type Definition = {
  readonly key: string;
  readonly id: string;
  readonly name: string;
  readonly category: string;
  readonly hidden: boolean;
  readonly intervalTicks: number | undefined;
};

function define(
  key: string,
  id: string,
  name: string,
  category: string,
  everyDays: number | undefined,
  hidden = false,
): Definition {
  const intervalTicks = everyDays === undefined ? undefined : everyDays * DAY_TICKS;
  return { key, id, name, category, hidden, intervalTicks };
}

const TASKS: readonly Definition[] = [
  define(
    "AudioNormalization",
    "ec2f221fd8e7706b3d3afd2c4591b4d7",
    "Audio Normalization",
    "Library",
    1,
  ),
  define(
    "CleanActivityLog",
    "b461ef918ab28520928183e794350e3c",
    "Clean Activity Log",
    "Maintenance",
    undefined,
  ),
  define(
    "DeleteCacheFiles",
    "241d4fcb19a1d557ee62428e411da609",
    "Clean Cache Directory",
    "Maintenance",
    1,
  ),
  define(
    "CleanLogFiles",
    "1c8ede62c521bea0bf851344f5b8ca40",
    "Clean Log Directory",
    "Maintenance",
    1,
  ),
  define(
    "DeleteTranscodeFiles",
    "7d8088c10902f1bf4072ded42437bcfb",
    "Clean Transcode Directory",
    "Maintenance",
    1,
  ),
  define(
    "DownloadLyrics",
    "26649fe0aad57557245351f220da916c",
    "Download missing lyrics",
    "Library",
    1,
  ),
  define(
    "DownloadSubtitles",
    "2c66a88bca43e565d7f8099f825478f1",
    "Download missing subtitles",
    "Library",
    1,
  ),
  define(
    "RefreshChapterImages",
    "4e6637c832ed644d1af3370a2506e80a",
    "Extract Chapter Images",
    "Library",
    1,
  ),
  define(
    "RefreshTrickplayImages",
    "64f5f44cd30dc273cb9890205473bbcc",
    "Generate Trickplay Images",
    "Library",
    1,
  ),
  define(
    "KeyframeExtraction",
    "f302d80f31bcacf76f979d277d448581",
    "Keyframe Extractor",
    "Library",
    undefined,
  ),
  define(
    "TaskExtractMediaSegments",
    "f861734dd71b37f9482b52a820e39013",
    "Media Segment Scan",
    "Library",
    0.5,
  ),
  define(
    "MoveTrickplayImages",
    "ebb6e58c4e9a8f5d1f77ab6ddefb3143",
    "Migrate Trickplay Image Location",
    "Maintenance",
    undefined,
  ),
  define(
    "OptimizeDatabaseTask",
    "31de9ce83b9223d338c77b1a635e144b",
    "Optimize database",
    "Maintenance",
    0.25,
  ),
  define(
    "RefreshInternetChannels",
    "0c9ee3a88fc15547c6852205480da1fd",
    "Refresh Channels",
    "Internet Channels",
    1,
    true,
  ),
  define("RefreshGuide", "bea9b218c97bbf98c5dc1303bdb9a0ca", "Refresh Guide", "Live TV", 1, true),
  define("RefreshPeople", "866456ed0d44e15468124ce33d85961e", "Refresh People", "Library", 7),
  define(
    "RefreshLibrary",
    "7738148ffcd07979c7ceb148e06b3aed",
    "Scan Media Library",
    "Library",
    0.5,
  ),
  define("PluginUpdates", "f9b057c054e9e6daee4a88ffd146a403", "Update Plugins", "Application", 1),
  define(
    "CleanupUserDataTask",
    "8240e309407dbbf43c99d30a6cbd239e",
    "User data cleanup task",
    "Maintenance",
    undefined,
  ),
];

type Trigger = Record<string, unknown>;
type Run = { timer: NodeJS.Timeout; startedAt: number; cancelling: boolean };

/** From the request to cancel until the task has ended. */
const CANCEL_MS = 10;

export class Tasks {
  readonly #database: Database;
  readonly #folder: string;
  readonly #running = new Map<string, Run>();
  readonly #triggersById = new Map<string, Trigger[]>();
  readonly #deeds: Record<string, () => void>;
  readonly #changed: () => void;
  /** How long a run takes; tests that look at a running task make it longer. */
  runMs = 30;
  runs: { key: string; at: number }[] = [];

  constructor(options: {
    database: Database;
    configFolder: string;
    deeds: Record<string, () => void>;
    changed: () => void;
  }) {
    this.#database = options.database;
    this.#folder = join(options.configFolder, "ScheduledTasks");
    this.#deeds = options.deeds;
    this.#changed = options.changed;
    for (const task of TASKS) this.#triggersById.set(task.id, this.#loadTriggers(task));
  }

  /** @throws Error for a file with a malformed trigger: then the server does not start. */
  #loadTriggers(task: Definition): Trigger[] {
    const file = this.#file(task);
    if (!existsSync(file)) return defaultTriggers(task);
    const read = JSON.parse(readFileSync(file, "utf8")) as (Trigger | null)[] | null;
    if (read === null) return defaultTriggers(task);
    const triggers = read.filter((trigger) => trigger !== null);
    const problem = triggers.map(problemOf).find((found) => found !== undefined);
    if (problem !== undefined) throw new Error(`${task.key}: ${problem} (${file})`);
    return triggers;
  }

  #file(task: Definition): string {
    return join(this.#folder, `${dashed(task.id)}.js`);
  }

  list(): Record<string, unknown>[] {
    return TASKS.map((task) => this.#dto(task));
  }

  get(id: string): Record<string, unknown> {
    return this.#dto(this.#find(id));
  }

  start(id: string): void {
    const task = this.#find(id);
    if (this.#running.has(task.id)) return;
    const startedAt = Date.now();
    const timer = setTimeout(() => this.#ended(task, "Completed"), this.runMs);
    this.#running.set(task.id, { timer, startedAt, cancelling: false });
    this.runs.push({ key: task.key, at: startedAt });
    this.#changed();
  }

  /** It was run by another way than its own route, and has ended. */
  ran(key: string): void {
    const task = TASKS.find((one) => one.key === key);
    if (task === undefined) throw new Error(`there is no task ${key}`);
    this.runs.push({ key, at: Date.now() });
    this.#remember(task, Date.now(), "Completed");
    this.#changed();
  }

  /** @throws Refusal 500 where it does not run: that is what the server answers. */
  cancel(id: string): void {
    const task = this.#find(id);
    const run = this.#running.get(task.id);
    if (run === undefined || run.cancelling) throw new Refusal(500);
    clearTimeout(run.timer);
    const timer = setTimeout(() => this.#ended(task, "Cancelled"), CANCEL_MS);
    this.#running.set(task.id, { ...run, timer, cancelling: true });
    this.#changed();
  }

  #ended(task: Definition, status: "Completed" | "Cancelled"): void {
    const run = this.#running.get(task.id);
    if (run === undefined) return;
    clearTimeout(run.timer);
    this.#running.delete(task.id);
    if (status === "Completed") this.#deeds[task.key]?.();
    this.#remember(task, run.startedAt, status);
    this.#changed();
  }

  #remember(task: Definition, startedAt: number, status: "Completed" | "Cancelled"): void {
    const last = {
      StartTimeUtc: jellyfinDate(startedAt),
      EndTimeUtc: jellyfinDate(Date.now()),
      Status: status,
      Name: task.name,
      Key: task.key,
      Id: task.id,
    };
    this.#database.tasks.set(task.id, { last });
  }

  /** Replaces the triggers. The file is written before the kinds are checked, as in the server. */
  setTriggers(id: string, triggers: unknown): void {
    const task = this.#find(id);
    if (!Array.isArray(triggers)) throw new Refusal(400, "problem");
    if (triggers.some((trigger) => trigger !== null && typeof trigger !== "object")) {
      throw new Refusal(400, "problem");
    }
    const list = (triggers as (Trigger | null)[]).filter((trigger) => trigger !== null);
    mkdirSync(this.#folder, { recursive: true });
    writeFileSync(this.#file(task), JSON.stringify(list));
    if (list.some((trigger) => problemOf(trigger) !== undefined)) throw new Refusal(400);
    this.#triggersById.set(task.id, list);
    this.#changed();
  }

  stop(): void {
    for (const run of this.#running.values()) clearTimeout(run.timer);
    this.#running.clear();
  }

  #find(id: string): Definition {
    const task = TASKS.find((one) => one.id === id.toLowerCase().replaceAll("-", ""));
    if (task === undefined) throw new Refusal(404, "problem");
    return task;
  }

  #dto(task: Definition): Record<string, unknown> {
    const run = this.#running.get(task.id);
    const part = run === undefined ? 0 : (Date.now() - run.startedAt) / Math.max(1, this.runMs);
    return {
      Name: task.name,
      State: run === undefined ? "Idle" : run.cancelling ? "Cancelling" : "Running",
      CurrentProgressPercentage: run === undefined ? undefined : Math.min(100, part * 100),
      Id: task.id,
      LastExecutionResult: this.#database.tasks.get(task.id)?.last,
      Triggers: this.#triggersById.get(task.id) ?? [],
      Description: `${task.name}.`,
      Category: task.category,
      IsHidden: task.hidden,
      Key: task.key,
    };
  }
}

function defaultTriggers(task: Definition): Trigger[] {
  if (task.intervalTicks === undefined) return [];
  const every = { Type: "IntervalTrigger", IntervalTicks: task.intervalTicks };
  const atStart = task.key === "DeleteTranscodeFiles" || task.key === "PluginUpdates";
  return atStart ? [{ Type: "StartupTrigger" }, every] : [every];
}

/** What GetTrigger or a trigger's timer would throw for; undefined for a sound one. */
function problemOf(trigger: Trigger): string | undefined {
  const isNumber = (value: unknown) => typeof value === "number";
  if (!TRIGGER_TYPES.has(String(trigger.Type))) return "Unrecognized trigger type";
  const needsTime = trigger.Type === "DailyTrigger" || trigger.Type === "WeeklyTrigger";
  if (needsTime && !isNumber(trigger.TimeOfDayTicks)) {
    return "Info did not contain a TimeOfDayTicks.";
  }
  if (trigger.Type === "WeeklyTrigger" && trigger.DayOfWeek === undefined) {
    return "Info did not contain a DayOfWeek.";
  }
  if (trigger.Type === "IntervalTrigger" && !isNumber(trigger.IntervalTicks)) {
    return "Info did not contain a IntervalTicks.";
  }
  return undefined;
}
