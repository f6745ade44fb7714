// `jellybloom reseed NAME`: makes a replica that is behind, damaged or in quarantine a copy of a healthy one again,
// while the others serve: drain, stop, seed, start, wait until it is ready, undrain. It runs where the replica's folder
// is. Stopping and starting are the owner's own commands (--stop-command, --start-command); without them it says what
// to do and waits until that was done. The replica keeps what is its own in its settings (seed/own-settings.ts), so
// that the door finds it where it was.
//
// One at a time: it begins only when another replica takes people, and while no other drains. What it replaces is an
// old copy of the server that it copies, and no program gets the data of a newer one: both are looked at before
// anybody is moved, since up refuses servers of different ids (sidecar/findings.ts). Run again after it was
// interrupted anywhere it does the rest: a drain that stands is a drain, a copy goes on where it was. Exit code 0:
// the replica is ready and takes people; 1: it does not, and the last line says why.

import { spawn } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { callProven, whyNot } from "../core/cluster/sidecar-client.ts";
import { isRecord } from "../core/service/json.ts";
import { urlText } from "../core/service/options.ts";
import { createSeal } from "../core/service/seal.ts";
import {
  findSource,
  findTarget,
  isNewer,
  refuseNewer,
  refuseRunningTarget,
  requireServerId,
} from "../sidecar/seed/checks.ts";
import { fileInput } from "../sidecar/seed/inputs.ts";
import { keptVersion } from "../sidecar/seed/own-settings.ts";
import { SeedProblem } from "../sidecar/seed/problem.ts";
import { headOf } from "../sidecar/seed/restore.ts";
import { inspectTarget, normalizedId } from "../sidecar/seed/target.ts";
import { recordedVersion } from "../sidecar/seed/version.ts";
import { askPosition } from "./donor.ts";
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
    const replacing = await mayReplace(config, replica);
    const drain = { ...config, limitMs: config.drainLimitMs, untilRestart: false, wait: true };
    if ((await runDrain({ ...drain, json: false }, replica, io)) !== 0) {
      throw new Stopped(`${replica} could not be drained`);
    }
    await stopServer(config, replica, tell);
    if ((await runSeed(seedConfig(config, replica, replacing), io)) !== 0) {
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

/** What may be lost, and which program gets the copy. */
interface Replacing {
  /** The id of the only server that may stand in the target. */
  readonly replace: string;
  /** Undefined: nobody knows, as of an empty disk. */
  readonly forVersion: string | undefined;
}

/** @throws SeedProblem when the target is no old copy of the server that is copied, or its program is too old. */
async function mayReplace(config: ReseedConfig, replica: string): Promise<Replacing> {
  const donor = await donorOf(config);
  const target = await targetOf(config);
  const state = await inspectTarget(target);
  const replace = normalizedId(config.replace ?? donor.serverId);
  if (state.kind === "server" && state.serverId !== replace) {
    const asked =
      config.replace === undefined
        ? `that is copied has ${donor.serverId}`
        : `in --replace is ${replace}`;
    throw new SeedProblem(
      `${config.to} holds the data of another server (its id is ${state.serverId}, the one ${asked}): look whether it` +
        ` is the folder of ${replica}. If it is, and what it holds may be lost, add --replace ${state.serverId}.`,
    );
  }
  if (config.forVersion !== undefined) {
    refuseNewer(donor.version ?? "", config.forVersion);
    return { replace, forVersion: config.forVersion };
  }
  // A target that an earlier run has begun to clear is known by what that run kept.
  const recorded =
    state.kind === "server" ? await recordedVersion(target) : await keptVersion(target);
  if (recorded !== undefined && donor.version !== undefined && isNewer(donor.version, recorded)) {
    throw new SeedProblem(
      `The data that would be copied are of Jellyfin ${donor.version}, and those of ${replica} were last used by` +
        ` ${recorded}: a server cannot use the data of a newer one. Update the server of ${replica} first; when that` +
        ` is done, add --for-version ${donor.version}.`,
    );
  }
  return { replace, forVersion: recorded };
}

/** The server that is copied. */
async function donorOf(
  config: ReseedConfig,
): Promise<{ readonly serverId: string; readonly version: string | undefined }> {
  if (config.from !== undefined) {
    const source = await findSource(config.from, undefined);
    return { serverId: await requireServerId(source), version: await recordedVersion(source) };
  }
  if (config.fromArchive !== undefined) return await headOf(fileInput(config.fromArchive));
  const told = await askPosition(config);
  if (told?.serverId !== undefined) return { serverId: told.serverId, version: told.version };
  throw new SeedProblem(
    `The sidecar at ${urlText(config.sidecar)} does not see its server's folder: give it --server, or name the` +
      " folder with --from.",
  );
}

function seedConfig(config: ReseedConfig, replica: string, replacing: Replacing): SeedConfig {
  return {
    ...config,
    ...replacing,
    name: replica,
    retryLimitMs,
    ...{ fromConfig: undefined, without: undefined, ifEmpty: false },
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
