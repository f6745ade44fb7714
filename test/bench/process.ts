// The processes of a bench run: how they are started, what the kernel says they cost, and how they are
// ended. Every child leads a process group of its own, so that a master and its workers are measured
// and ended together. Promise: nothing this file did not start is ever signalled, and nothing it
// started outlives the bench, also when the bench fails.

import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** How long a child may take to obey SIGTERM before it is killed, in ms. */
const endLimitMs = 5_000;
/** The kernel counts process times in ticks of USER_HZ, which is 100 on every Linux that Node runs on. */
const ticksPerSecond = 100;

export interface Program {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** File that gets standard output and standard error. */
  readonly logFile: string;
  /** CPUs to run on, as `taskset` writes them, or undefined for any. */
  readonly cpus?: string | undefined;
}

export interface Running {
  readonly name: string;
  readonly pid: number;
  readonly child: ChildProcess;
  readonly logFile: string;
}

const children = new Set<Running>();

process.on("exit", () => {
  // The last resort when the bench itself fails: there is no time left to ask politely.
  for (const running of children) signalGroup(running, "SIGKILL");
});

/** Starts a program in a process group of its own. Throws when it cannot be started. */
export function start(program: Program): Running {
  const log = openSync(program.logFile, "a");
  const { command, args } = pinned(program.command, program.args, program.cpus);
  const child = spawn(command, args, {
    detached: true,
    stdio: ["ignore", log, log],
    env: { ...process.env, ...program.env },
  });
  closeSync(log);
  if (child.pid === undefined) throw new Error(`${program.name} could not be started: ${command}`);
  const running = { name: program.name, pid: child.pid, child, logFile: program.logFile };
  children.add(running);
  child.once("exit", () => {
    if (groupOf(running).length === 0) children.delete(running);
  });
  return running;
}

/** The command as `taskset` runs it on some CPUs, or as it is when any CPU will do. */
function pinned(
  command: string,
  args: readonly string[],
  cpus: string | undefined,
): { command: string; args: string[] } {
  if (cpus === undefined) return { command, args: [...args] };
  return { command: "taskset", args: ["-c", cpus, command, ...args] };
}

/** Asks a program to end, waits, and kills what is left of its group. */
export async function end(running: Running): Promise<void> {
  if (!children.has(running)) return;
  signalGroup(running, "SIGTERM");
  const deadline = performance.now() + endLimitMs;
  while (groupOf(running).length > 0 && performance.now() < deadline) await sleep(50);
  signalGroup(running, "SIGKILL");
  children.delete(running);
}

function signalGroup(running: Running, signal: NodeJS.Signals): void {
  if (running.child.exitCode !== null && groupOf(running).length === 0) return;
  try {
    process.kill(-running.pid, signal);
  } catch {
    // The group is already gone, which is what was wanted.
  }
}

/** Waits until `probe` is true. Throws with the end of the program's log when it is not within the limit. */
export async function waitUntil(
  running: Running,
  what: string,
  limitMs: number,
  probe: () => Promise<boolean>,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (performance.now() < deadline) {
    if (running.child.exitCode !== null) break;
    if (await probe().catch(() => false)) return;
    await sleep(50);
  }
  const log = readFileSync(running.logFile, "utf8").slice(-2_000);
  throw new Error(`${running.name} was not ${what} within ${limitMs} ms; its log ends:\n${log}`);
}

/** A TCP port of the loopback address that was free a moment ago. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => {
        if (address === null || typeof address === "string") reject(new Error("no port"));
        else resolve(address.port);
      });
    });
  });
}

interface ProcessStat {
  readonly pid: number;
  readonly group: number;
  /** User and system time of all threads, living and ended, in seconds. */
  readonly cpuSeconds: number;
}

/** Fields of /proc/PID/stat as proc(5) numbers them: 5 is the group, 14 and 15 are the times in ticks. */
function readStat(pid: number): ProcessStat | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The second field is the command in parentheses, and may itself contain spaces.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    const ticks = Number(fields[11]) + Number(fields[12]);
    return { pid, group: Number(fields[2]), cpuSeconds: ticks / ticksPerSecond };
  } catch {
    // The process ended between the listing and the reading.
    return undefined;
  }
}

function groupOf(running: Running): ProcessStat[] {
  const members: ProcessStat[] = [];
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const stat = readStat(Number(entry));
    if (stat !== undefined && stat.group === running.pid) members.push(stat);
  }
  return members;
}

/** User and system time that a program and its workers have used so far, in seconds. */
export function cpuSecondsOf(running: Running): number {
  let seconds = 0;
  for (const member of groupOf(running)) seconds += member.cpuSeconds;
  return seconds;
}

/** Resident memory of a program and its workers, in bytes. */
export function residentBytesOf(running: Running): number {
  let bytes = 0;
  for (const member of groupOf(running)) {
    const status = readFileSync(`/proc/${member.pid}/status`, "utf8");
    bytes += Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
  }
  return bytes;
}

/** Open file descriptors of a program and its workers. */
export function descriptorsOf(running: Running): number {
  let count = 0;
  for (const member of groupOf(running)) count += readdirSync(`/proc/${member.pid}/fd`).length;
  return count;
}

/** The most file descriptors a child may open: the hard limit, which the bench does not try to raise. */
export function descriptorLimit(): number {
  const limits = readFileSync("/proc/self/limits", "utf8");
  const hard = /^Max open files\s+\S+\s+(\S+)/m.exec(limits)?.[1] ?? "1024";
  return hard === "unlimited" ? 1_000_000 : Number(hard);
}

/** The smallest resident memory seen during `durationMs`: what stays after garbage was collected. */
export async function settledBytesOf(running: Running, durationMs: number): Promise<number> {
  let least = Number.POSITIVE_INFINITY;
  const deadline = performance.now() + durationMs;
  while (performance.now() < deadline) {
    least = Math.min(least, residentBytesOf(running));
    await sleep(250);
  }
  return least;
}

/** Runs a command to its end and answers its standard output. Throws on another exit code than 0. */
export function output(
  name: string,
  plainCommand: string,
  plainArgs: readonly string[],
  options: { readonly limitMs: number; readonly cpus?: string | undefined },
): Promise<string> {
  return new Promise((resolve, reject) => {
    const { command, args } = pinned(plainCommand, plainArgs, options.cpus);
    const child = spawn(command, args, {
      stdio: ["ignore", "pipe", "pipe"],
      timeout: options.limitMs,
    });
    let text = "";
    let errors = "";
    child.stdout.on("data", (chunk) => {
      text += chunk;
    });
    child.stderr.on("data", (chunk) => {
      errors += chunk;
    });
    child.once("error", reject);
    child.once("close", (code, signal) => {
      if (code === 0) resolve(text);
      else
        reject(
          new Error(`${name} ended with ${signal ?? code}: ${(errors || text).slice(-2_000)}`),
        );
    });
  });
}
