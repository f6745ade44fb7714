// The demo's door: `jellybloom up` as a process of its own, as an owner would run it, with its log in a
// file. What it did for the viewer is read from its metrics.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { freePort } from "../../test/support/jellyfin/start.ts";

const launcher = fileURLToPath(new URL("../jellybloom.mjs", import.meta.url));
const startLimitMs = 15_000;
const stopLimitMs = 8000;

/** What the door did without the viewer seeing it. */
export interface Hidden {
  readonly retries: number;
  readonly continuations: number;
  readonly redials: number;
  readonly homesMoved: number;
}

export class DemoDoor {
  readonly url: string;
  readonly #admin: string;
  readonly #child: ChildProcess;

  private constructor(url: string, admin: string, child: ChildProcess) {
    this.url = url;
    this.#admin = admin;
    this.#child = child;
  }

  /** Starts it and waits until both replicas are ready. `port` 0: any that is free. */
  static async start(
    replicas: Readonly<Record<string, string>>,
    apiKey: string,
    port: number,
    logFile: string,
  ): Promise<DemoDoor> {
    const listen = `127.0.0.1:${port === 0 ? await freePort() : port}`;
    const admin = `127.0.0.1:${await freePort()}`;
    const log = openSync(logFile, "w");
    const child = spawn(
      process.execPath,
      [
        ...[launcher, "up", "--listen", listen, "--admin", admin, "--api-key", apiKey],
        ...Object.entries(replicas).flatMap(([name, url]) => ["--replica", `${name}=${url}`]),
        ...["--explain-header", "--log-format", "json", "--drain-limit", "2s"],
      ],
      // In a group of its own: Ctrl-C is for the demo, which ends the viewer before the door.
      { stdio: ["ignore", log, log], detached: true },
    );
    closeSync(log);
    const door = new DemoDoor(`http://${listen}`, `http://${admin}`, child);
    await door.#untilReady(logFile);
    return door;
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Null when every replica is ready, else what the door says of those that are not. */
  async missing(): Promise<string | null> {
    const answer = await fetch(`${this.#admin}/jellybloom/ready`).catch(() => undefined);
    if (answer === undefined) return "the door does not answer yet";
    const told = (await answer.json()) as { reason?: string | null; notes?: readonly string[] };
    return told.reason ?? told.notes?.[0] ?? null;
  }

  async hidden(): Promise<Hidden> {
    const answer = await fetch(`${this.#admin}/metrics`).catch(() => undefined);
    if (answer === undefined) throw new Error("the door has gone; its log is .demo/door.log");
    const text = await answer.text();
    return {
      retries: sum(text, "jellybloom_retries_total"),
      continuations: sum(text, "jellybloom_continuations_total"),
      redials: sum(text, "jellybloom_redials_total"),
      homesMoved: sum(text, "jellybloom_homes_moved_total"),
    };
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, "exit");
    this.#child.kill("SIGTERM");
    await Promise.race([gone, sleep(stopLimitMs, undefined, { ref: false })]);
    if (this.#child.exitCode === null) this.#child.kill("SIGKILL");
  }

  async #untilReady(logFile: string): Promise<void> {
    const endMs = performance.now() + startLimitMs;
    while (performance.now() < endMs) {
      if (this.#child.exitCode !== null) break;
      if ((await this.missing()) === null) return;
      await sleep(50);
    }
    await this.stop();
    throw new Error(`the door did not become ready; its log is ${logFile}`);
  }
}

/** The sum of a counter over its labels. */
function sum(text: string, name: string): number {
  let total = 0;
  for (const line of text.split("\n")) {
    if (line.startsWith(`${name}{`) || line.startsWith(`${name} `)) {
      total += Number(line.slice(line.lastIndexOf(" ") + 1));
    }
  }
  return total;
}
