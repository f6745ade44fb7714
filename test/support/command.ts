// Runs a command of Jellybloom to its end, as its owner would, and tells what it said.

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const launcher = fileURLToPath(new URL("../../cli/jellybloom.mjs", import.meta.url));

export interface Ended {
  /** Null when it had to be killed because the limit was reached. */
  readonly exitCode: number | null;
  /** Standard output and standard error, as they came. */
  readonly said: string;
}

export function runCommand(args: readonly string[], limitMs = 15_000): Promise<Ended> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [launcher, ...args], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    let said = "";
    const hear = (chunk: Buffer): void => {
      said += chunk.toString();
    };
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    const limit = setTimeout(() => child.kill("SIGKILL"), limitMs);
    child.once("close", (exitCode) => {
      clearTimeout(limit);
      resolve({ exitCode, said });
    });
  });
}
