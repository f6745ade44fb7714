// The ffmpegs of stand-in servers, counted where they cannot lie: in /proc. A frozen one (state T) does nothing and
// is not counted as running.

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { StandIn } from "./jellyfin/start.ts";

/** Process ids of ffmpegs that run now for a server. */
export function runningFfmpegs(server: StandIn): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => isRunningFor(pid, server.dataDir));
}

function isRunningFor(pid: number, folder: string): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    if (!stat.includes("(ffmpeg)")) return false;
    const state = stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3);
    if ("TtZX".includes(state)) return false;
    return readlinkSync(`/proc/${pid}/cwd`).startsWith(folder);
  } catch {
    // It ended while it was looked at.
    return false;
  }
}

/** Counts ffmpegs of several servers again and again until it is stopped. */
export class FfmpegWatch {
  /** For how long in all, in ms, more than one ran at one time. */
  doubledMs = 0;
  /** The most that ran at one time. */
  most = 0;
  #stopped = false;
  readonly #work: Promise<void>;

  constructor(servers: readonly StandIn[]) {
    this.#work = this.#run(servers);
  }

  async #run(servers: readonly StandIn[]): Promise<void> {
    let lastMs = performance.now();
    while (!this.#stopped) {
      const count = servers.flatMap(runningFfmpegs).length;
      const nowMs = performance.now();
      if (count > 1) this.doubledMs += nowMs - lastMs;
      this.most = Math.max(this.most, count);
      lastMs = nowMs;
      await sleep(40);
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#work;
  }
}
