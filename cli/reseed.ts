// `jellybloom reseed NAME`: makes a replica that is behind, damaged or in quarantine a copy of a healthy one again,
// with nobody noticing: drain, stop, seed, start, wait until it is ready, undrain. It runs where the replica's folder
// is. Stopping and starting are the owner's own commands (--stop-command, --start-command); without them it says what
// to do and waits until that was done.
//
// One at a time: it begins only when another replica takes people, and while no other drains. Run again after it was
// interrupted anywhere it does the rest: a drain that stands is a drain, a copy goes on where it was. Exit code 0:
// the replica is ready and takes people; 1: it does not, and the last line says why.

import { spawn } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { callProven, whyNot } from "../core/cluster/sidecar-client.ts";
import { isRecord } from "../core/service/json.ts";
import { urlText } from "../core/service/options.ts";
import { createSeal } from "../core/service/seal.ts";
import { findTarget, refuseRunningTarget } from "../sidecar/seed/checks.ts";
import { SeedProblem } from "../sidecar/seed/problem.ts";
import { inspectTarget } from "../sidecar/seed/target.ts";
import { runDrain, runUndrain } from "./drain.ts";
import type { Io } from "./io.ts";
import type { ReseedConfig, SeedConfig } from "./options.ts";
import { runSeed } from "./seed.ts";
import { statusPath } from "./status.ts";

const answerLimitMs = 5000;
const pollMs = 1000;
/** How long a sender that goes away in the middle is waited for. */
const retryLimitMs = 2 * 60_000;

interface Seen {
  readonly name: string;
  readonly state: string;
  readonly isDraining: boolean;
  readonly reason: string;
}

class Stopped extends Error {
  override readonly name = "Stopped";
}

export async function runReseed(config: ReseedConfig, replica: string, io: Io): Promise<number> {
  const tell = (line: string): void => io.out(`${line}\n`);
  try {
    await mayBegin(config, replica);
    const drain = { ...config, limitMs: config.drainLimitMs, untilRestart: false, wait: true };
    if ((await runDrain({ ...drain, json: false }, replica, io)) !== 0) {
      throw new Stopped(`${replica} could not be drained`);
    }
    await stopServer(config, replica, tell);
    if ((await runSeed(await seedConfig(config, replica), io)) !== 0) {
      throw new Stopped(`${replica} was not seeded, and stays drained: run this again`);
    }
    await startServer(config, replica, tell);
    await untilReady(config, replica, tell);
    return await runUndrain({ ...config, json: false }, replica, io);
  } catch (error) {
    if (error instanceof SeedProblem)
      for (const sentence of error.sentences) io.err(`${sentence}\n`);
    else if (error instanceof Stopped) io.err(`${error.message}.\n`);
    else throw error;
    return 1;
  }
}

async function statusOf({ admin, clusterKey }: ReseedConfig): Promise<readonly Seen[]> {
  const seal = createSeal(clusterKey);
  const answer = await callProven(seal, urlText(admin), statusPath, {}, answerLimitMs);
  if (answer.outcome !== "ok") {
    throw new Stopped(`The door at ${urlText(admin)} cannot be asked (${whyNot(answer)})`);
  }
  const rows = isRecord(answer.body) ? answer.body.replicas : undefined;
  return (Array.isArray(rows) ? rows : []).filter(isRecord).map((row) => ({
    name: String(row.name),
    state: String(row.state),
    isDraining: row.drain !== null && row.drain !== undefined,
    reason: String(row.reason),
  }));
}

async function mayBegin(config: ReseedConfig, replica: string): Promise<void> {
  const all = await statusOf(config);
  if (!all.some(({ name }) => name === replica)) {
    throw new Stopped(
      `There is no replica ${replica}; known: ${all.map(({ name }) => name).join(", ")}`,
    );
  }
  const others = all.filter(({ name }) => name !== replica);
  const draining = others.find(({ isDraining }) => isDraining);
  if (draining !== undefined) {
    throw new Stopped(
      `${draining.name} is being drained: one replica at a time, so that people always have one to go to`,
    );
  }
  if (!others.some(({ state }) => state === "ready")) {
    throw new Stopped(`No other replica is ready: with ${replica} stopped nobody would be served`);
  }
}

async function stopServer(
  config: ReseedConfig,
  replica: string,
  tell: (line: string) => void,
): Promise<void> {
  if (config.stopCommand !== undefined) await runOwn(config.stopCommand);
  else if (await isRunning(config))
    tell(`Stop the server of ${replica} now; this goes on when it has stopped.`);
  const endMs = performance.now() + config.waitLimitMs;
  while (await isRunning(config)) {
    if (performance.now() > endMs) throw new Stopped(`The server of ${replica} still runs`);
    await sleep(pollMs);
  }
}

async function targetOf({ to, toConfig }: ReseedConfig) {
  const source = { kind: "one folder", dataFolder: "/", configFolder: "/" } as const;
  return await findTarget(to, toConfig, source);
}

async function isRunning(config: ReseedConfig): Promise<boolean> {
  try {
    await refuseRunningTarget(await targetOf(config));
    return false;
  } catch (error) {
    if (!(error instanceof SeedProblem)) throw error;
    return true;
  }
}

/** The replica's own old data are what is to be replaced, so that their id needs not to be named. */
async function seedConfig(config: ReseedConfig, replica: string): Promise<SeedConfig> {
  const state = await inspectTarget(await targetOf(config));
  return {
    ...config,
    name: replica,
    replace: state.kind === "server" ? state.serverId : undefined,
    retryLimitMs,
    ...{ fromConfig: undefined, without: undefined, forVersion: undefined, ifEmpty: false },
  };
}

async function startServer(
  config: ReseedConfig,
  replica: string,
  tell: (line: string) => void,
): Promise<void> {
  if (config.startCommand !== undefined) await runOwn(config.startCommand);
  else tell(`Start the server of ${replica} now; this goes on when it is ready.`);
}

async function untilReady(
  config: ReseedConfig,
  replica: string,
  tell: (line: string) => void,
): Promise<void> {
  const endMs = performance.now() + config.waitLimitMs;
  let told = "";
  for (;;) {
    const seen = (await statusOf(config)).find(({ name }) => name === replica);
    if (seen?.state === "ready") return;
    const now = `${replica} is ${seen?.state ?? "unknown"}: ${seen?.reason ?? "the door does not know it"}`;
    if (now !== told) tell(`${now}.`);
    told = now;
    if (performance.now() > endMs) {
      throw new Stopped(
        `${now}; it stays drained: when it is ready, jellybloom undrain ${replica}`,
      );
    }
    await sleep(pollMs);
  }
}

/** A command of the owner's, by the shell, as it would be typed. */
async function runOwn(command: string): Promise<void> {
  const code = await new Promise<number | null>((resolve) => {
    const child = spawn("sh", ["-c", command], { stdio: ["ignore", "inherit", "inherit"] });
    child.once("error", () => resolve(null));
    child.once("exit", resolve);
  });
  if (code !== 0)
    throw new Stopped(`The command ${JSON.stringify(command)} ended with ${code ?? "a signal"}`);
}
