/**
 * The scheduled tasks of a 12.0 server: names, ids and keys as it has them, triggers that are written down in
 * `config/ScheduledTasks` (an empty list parks a task for good), and runs that take a moment and are remembered.
 */
import { mkdirSync, writeFileSync } from "node:fs";
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

export class Tasks {
  readonly #database: Database;
  readonly #folder: string;
  readonly #running = new Map<string, { timer: NodeJS.Timeout; startedAt: number }>();
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
    this.#running.set(task.id, { timer, startedAt });
    this.runs.push({ key: task.key, at: startedAt });
    this.#changed();
  }

  /** @throws Refusal 500 where it does not run: that is what the server answers. */
  cancel(id: string): void {
    const task = this.#find(id);
    if (!this.#running.has(task.id)) throw new Refusal(500);
    this.#ended(task, "Cancelled");
  }

  #ended(task: Definition, status: "Completed" | "Cancelled"): void {
    const run = this.#running.get(task.id);
    if (run === undefined) return;
    clearTimeout(run.timer);
    this.#running.delete(task.id);
    if (status === "Completed") this.#deeds[task.key]?.();
    const last = {
      StartTimeUtc: jellyfinDate(run.startedAt),
      EndTimeUtc: jellyfinDate(Date.now()),
      Status: status,
      Name: task.name,
      Key: task.key,
      Id: task.id,
    };
    this.#database.tasks.set(task.id, { triggers: this.#triggers(task), last });
    this.#changed();
  }

  /** Replaces the triggers. The file is written before the kinds are checked, as in the server. */
  setTriggers(id: string, triggers: unknown): void {
    const task = this.#find(id);
    if (!Array.isArray(triggers)) throw new Refusal(400, "problem");
    mkdirSync(this.#folder, { recursive: true });
    writeFileSync(join(this.#folder, `${dashed(task.id)}.js`), JSON.stringify(triggers));
    const list = triggers as Record<string, unknown>[];
    if (list.some((trigger) => !TRIGGER_TYPES.has(String(trigger.Type)))) throw new Refusal(400);
    this.#database.tasks.set(task.id, {
      triggers: list,
      last: this.#database.tasks.get(task.id)?.last,
    });
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

  #triggers(task: Definition): Record<string, unknown>[] {
    const kept = this.#database.tasks.get(task.id)?.triggers;
    if (kept !== undefined) return kept;
    if (task.intervalTicks === undefined) return [];
    const every = { Type: "IntervalTrigger", IntervalTicks: task.intervalTicks };
    const atStart = task.key === "DeleteTranscodeFiles" || task.key === "PluginUpdates";
    return atStart ? [{ Type: "StartupTrigger" }, every] : [every];
  }

  #dto(task: Definition): Record<string, unknown> {
    const running = this.#running.has(task.id);
    return {
      Name: task.name,
      State: running ? "Running" : "Idle",
      CurrentProgressPercentage: running ? 50 : undefined,
      Id: task.id,
      LastExecutionResult: this.#database.tasks.get(task.id)?.last,
      Triggers: this.#triggers(task),
      Description: `${task.name}.`,
      Category: task.category,
      IsHidden: task.hidden,
      Key: task.key,
    };
  }
}
