// What is measured, one function each. Measures that compare run in rounds, every contender once per
// round and each round beginning with another one, so that whatever else the machine does falls on all
// of them. The rest look at one proxy alone. None decides whether a number is good: that is report.ts.

import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { type Backend, logIn, segmentBytes, segmentSeconds } from "./backend.ts";
import {
  type Contender,
  type ContenderName,
  type Setup,
  startContender,
  titles,
  tryGet,
} from "./contenders.ts";
import type {
  LeaverLoad,
  PacedLoad,
  PacedResult,
  SegmentLoad,
  SocketLoad,
  StreamLoad,
  StreamResult,
} from "./load.ts";
import {
  cpuSecondsOf,
  descriptorLimit,
  descriptorsOf,
  end,
  freePort,
  output,
  residentBytesOf,
  settledBytesOf,
  start,
  waitUntil,
} from "./process.ts";
import { authorization, smallPath } from "./routes.ts";

/** How much is done; `--quick` does less of it. */
export interface Amounts {
  readonly rounds: number;
  readonly smallSeconds: number;
  readonly streamBytes: number;
  readonly segmentsPerViewer: number;
  readonly pacedSegmentsPerViewer: number;
  readonly latencySeconds: number;
  readonly socketCount: number;
  readonly socketPauseSeconds: number;
  readonly idleSettleSeconds: number;
  readonly idleSeconds: number;
  readonly flatWarmupRequests: number;
  readonly flatRequests: number;
  readonly flatLeavers: number;
  readonly placedRequests: number;
  readonly journalledWrites: number;
}

export interface Bench {
  readonly setup: Setup;
  readonly backend: Backend;
  readonly amounts: Amounts;
  /** CPUs of clients and backend. */
  readonly loadCpus: string | undefined;
  readonly say: (line: string) => void;
}

/** One number per round and contender. */
export type Rounds = ReadonlyMap<ContenderName, readonly number[]>;

export interface Entrant extends Contender {
  readonly deviceId: string;
  readonly token: string;
}

const connectionsSmall = 64;
const gigabyte = 1_000_000_000;
const viewers = 5;
const viewerBitsPerSecond = 80_000_000;

/** Starts a contender and gives it a login whose token its backend takes. */
export async function enter(
  bench: Bench,
  name: ContenderName,
  change: Partial<Setup> = {},
): Promise<Entrant> {
  const setup = { ...bench.setup, ...change };
  const contender = await startContender(name, setup);
  const deviceId = `bench-${name}-${contender.port}`;
  const token = await loginFor(bench, name, deviceId, setup.straight);
  const entrant = { ...contender, deviceId, token };
  if (name !== "node-server") await expectServed(entrant, setup.straight);
  return entrant;
}

/** This proxy is given the token of b while a serves it; the others pass a's token on to a. */
async function loginFor(
  bench: Bench,
  name: ContenderName,
  deviceId: string,
  straight: boolean,
): Promise<string> {
  const replica = bench.backend.replicas[name === "jellybloom" ? 1 : 0];
  return logIn(straight ? replica.controlPort : replica.port, deviceId);
}

async function expectServed(entrant: Entrant, straight: boolean): Promise<void> {
  const path = straight ? "/Users/Me" : smallPath;
  await waitUntil(entrant.running, "serving its login from replica a", 15_000, async () => {
    const { status, replica } = await tryGet(entrant.port, path, entrant.deviceId, entrant.token);
    return status === 200 && (straight || replica === "a");
  });
}

async function inRounds(
  bench: Bench,
  entrants: readonly Entrant[],
  what: string,
  measure: (entrant: Entrant) => Promise<number>,
): Promise<Rounds> {
  const values = new Map<ContenderName, number[]>();
  for (let round = 0; round < bench.amounts.rounds; round += 1) {
    bench.say(`${what}: round ${round + 1} of ${bench.amounts.rounds}`);
    for (let turn = 0; turn < entrants.length; turn += 1) {
      const entrant = entrants[(turn + round) % entrants.length];
      if (entrant === undefined) continue;
      const value = await measure(entrant).catch((error: unknown) => {
        throw new Error(`${titles[entrant.contender]}, ${what}: ${String(error)}`);
      });
      values.set(entrant.contender, [...(values.get(entrant.contender) ?? []), value]);
    }
  }
  return values;
}

export interface SmallResult {
  readonly microsecondsPerRequest: Rounds;
  readonly requestsPerSecond: Rounds;
}

/** CPU time of the proxying process per small request, in µs, at 64 connections that stay open. */
export async function measureSmall(
  bench: Bench,
  entrants: readonly Entrant[],
): Promise<SmallResult> {
  const rates = new Map<ContenderName, number[]>();
  // V8 compiles what is hot while it runs: that is the price of a start and not of a request.
  for (const entrant of entrants) await wrk(bench, entrant, bench.amounts.smallSeconds);
  const microsecondsPerRequest = await inRounds(
    bench,
    entrants,
    "small requests",
    async (entrant) => {
      const before = cpuSecondsOf(entrant.running);
      const { requests, perSecond } = await wrk(bench, entrant, bench.amounts.smallSeconds);
      rates.set(entrant.contender, [...(rates.get(entrant.contender) ?? []), perSecond]);
      return ((cpuSecondsOf(entrant.running) - before) * 1_000_000) / requests;
    },
  );
  return { microsecondsPerRequest, requestsPerSecond: rates };
}

async function wrk(
  bench: Bench,
  entrant: Entrant,
  seconds: number,
): Promise<{ requests: number; perSecond: number }> {
  const url = `http://127.0.0.1:${entrant.port}${smallPath}`;
  const header = `Authorization: ${authorization(entrant.deviceId, entrant.token)}`;
  const args = ["-t1", `-c${connectionsSmall}`, `-d${seconds}s`, "-H", header, url];
  const limitMs = (seconds + 20) * 1_000;
  const text = await output("wrk", "wrk", args, { limitMs, cpus: bench.loadCpus });
  const requests = Number(/(\d+) requests in/.exec(text)?.[1]);
  const perSecond = Number(/Requests\/sec: +([\d.]+)/.exec(text)?.[1]);
  if (!(requests > 0) || /Non-2xx|Socket errors/.test(text)) {
    throw new Error(`${titles[entrant.contender]} did not serve every small request:\n${text}`);
  }
  return { requests, perSecond };
}

async function load<Result>(
  bench: Bench,
  kind: string,
  options: object,
  limitMs: number,
): Promise<Result> {
  const script = join(import.meta.dirname, "load.ts");
  const args = [script, kind, JSON.stringify(options)];
  const text = await output(kind, process.execPath, args, { limitMs, cpus: bench.loadCpus });
  return JSON.parse(text);
}

/** CPU seconds of the proxying process per GB of direct play. */
export function measureStream(
  bench: Bench,
  entrants: readonly Entrant[],
  connections: number,
): Promise<Rounds> {
  const what = `direct play, ${connections} connection${connections === 1 ? "" : "s"}`;
  return inRounds(bench, entrants, what, async (entrant) => {
    const before = cpuSecondsOf(entrant.running);
    const options: StreamLoad = {
      port: entrant.port,
      token: entrant.token,
      connections,
      totalBytes: bench.amounts.streamBytes,
      movieBytes: bench.backend.movieBytes,
    };
    const result = await load<StreamResult>(bench, "stream", options, 120_000);
    return ((cpuSecondsOf(entrant.running) - before) * gigabyte) / result.bytes;
  });
}

/** CPU seconds of the proxying process per GB of HLS segments, fetched as fast as they come. */
export function measureSegments(bench: Bench, entrants: readonly Entrant[]): Promise<Rounds> {
  return inRounds(bench, entrants, "HLS segments", async (entrant) => {
    const before = cpuSecondsOf(entrant.running);
    const options: SegmentLoad = {
      port: entrant.port,
      token: entrant.token,
      viewers: 1,
      segmentsPerViewer: bench.amounts.segmentsPerViewer,
      segmentBytes,
      bitsPerSecond: 0,
    };
    const result = await load<StreamResult>(bench, "segments", options, 120_000);
    return ((cpuSecondsOf(entrant.running) - before) * gigabyte) / result.bytes;
  });
}

export interface LatencyResult {
  /** What the proxy adds to the backend's own latency in the same round, in ms. */
  readonly addedP50Ms: Rounds;
  readonly addedP99Ms: Rounds;
  readonly directP50Ms: readonly number[];
  readonly directP99Ms: readonly number[];
}

/** Latency of small requests at 500 a second over ten connections, beside the backend's own. */
export async function measureLatency(
  bench: Bench,
  entrants: readonly Entrant[],
): Promise<LatencyResult> {
  const addedP50Ms = new Map<ContenderName, number[]>();
  const addedP99Ms = new Map<ContenderName, number[]>();
  const directP50Ms: number[] = [];
  const directP99Ms: number[] = [];
  const replica = bench.backend.replicas[0];
  const directToken = await logIn(replica.port, "bench-direct");
  const direct = { port: replica.port, deviceId: "bench-direct", token: directToken };
  for (let round = 0; round < bench.amounts.rounds; round += 1) {
    bench.say(`latency: round ${round + 1} of ${bench.amounts.rounds}`);
    const base = await pacedLatency(bench, direct);
    directP50Ms.push(base.p50Ms);
    directP99Ms.push(base.p99Ms);
    for (const entrant of entrants) {
      if (entrant.contender === "node-server") continue;
      const result = await pacedLatency(bench, entrant);
      const name = entrant.contender;
      addedP50Ms.set(name, [...(addedP50Ms.get(name) ?? []), result.p50Ms - base.p50Ms]);
      addedP99Ms.set(name, [...(addedP99Ms.get(name) ?? []), result.p99Ms - base.p99Ms]);
    }
  }
  return { addedP50Ms, addedP99Ms, directP50Ms, directP99Ms };
}

function pacedLatency(
  bench: Bench,
  to: { readonly port: number; readonly deviceId: string; readonly token: string },
): Promise<PacedResult> {
  const options: PacedLoad = {
    port: to.port,
    path: smallPath,
    headers: `Authorization: ${authorization(to.deviceId, to.token)}\r\n`,
    connections: 10,
    requestsPerSecond: 500,
    durationSeconds: bench.amounts.latencySeconds,
  };
  return load(bench, "paced", options, (bench.amounts.latencySeconds + 20) * 1_000);
}

export interface IdleResult {
  readonly residentBytes: ReadonlyMap<ContenderName, number>;
  /** Share of one core, such as 0.005. */
  readonly cpuShare: ReadonlyMap<ContenderName, number>;
}

/** Memory and CPU of contenders that nobody uses. */
export async function measureIdle(bench: Bench, entrants: readonly Entrant[]): Promise<IdleResult> {
  const { idleSettleSeconds, idleSeconds } = bench.amounts;
  bench.say(`idle: ${idleSeconds} s after ${idleSettleSeconds} s of rest`);
  await sleep(idleSettleSeconds * 1_000);
  const before = entrants.map((entrant) => cpuSecondsOf(entrant.running));
  await sleep(idleSeconds * 1_000);
  const residentBytes = new Map<ContenderName, number>();
  const cpuShare = new Map<ContenderName, number>();
  entrants.forEach((entrant, index) => {
    const used = cpuSecondsOf(entrant.running) - (before[index] ?? 0);
    residentBytes.set(entrant.contender, residentBytesOf(entrant.running));
    cpuShare.set(entrant.contender, used / idleSeconds);
  });
  return { residentBytes, cpuShare };
}

export interface ViewersResult {
  readonly mostBytes: number;
  readonly idleBytes: number;
  readonly seconds: number;
  /** What the viewers should take when nothing stalls them, in seconds. */
  readonly expectedSeconds: number;
}

/** Memory of this proxy while five viewers watch HLS at 80 Mbit/s each, read no faster than that. */
export async function measureViewers(bench: Bench): Promise<ViewersResult> {
  const { pacedSegmentsPerViewer } = bench.amounts;
  const expectedSeconds = pacedSegmentsPerViewer * segmentSeconds;
  bench.say(`five viewers of 80 Mbit/s: about ${expectedSeconds} s`);
  const entrant = await enter(bench, "jellybloom");
  const idleBytes = residentBytesOf(entrant.running);
  let mostBytes = idleBytes;
  const sampler = setInterval(() => {
    mostBytes = Math.max(mostBytes, residentBytesOf(entrant.running));
  }, 100);
  try {
    const options: SegmentLoad = {
      port: entrant.port,
      token: entrant.token,
      viewers,
      segmentsPerViewer: pacedSegmentsPerViewer,
      segmentBytes,
      bitsPerSecond: viewerBitsPerSecond,
    };
    const result = await load<StreamResult>(
      bench,
      "segments",
      options,
      (expectedSeconds * 2 + 30) * 1_000,
    );
    return { mostBytes, idleBytes, seconds: result.seconds, expectedSeconds };
  } finally {
    clearInterval(sampler);
    await end(entrant.running);
  }
}

export interface SocketResult {
  /** Sockets that were still open at the end. */
  readonly count: number;
  readonly bytesPerSocket: number;
}

/** How many idle sockets can be asked of a proxy that needs two descriptors for each. */
export function socketCountWithin(wanted: number): number {
  return Math.min(wanted, Math.floor((descriptorLimit() - 500) / 2));
}

/** Resident memory per idle WebSocket. What the kernel keeps for a socket is not in it. */
export async function measureSockets(
  bench: Bench,
  names: readonly ContenderName[],
): Promise<ReadonlyMap<ContenderName, SocketResult>> {
  const results = new Map<ContenderName, SocketResult>();
  const count = socketCountWithin(bench.amounts.socketCount);
  for (const name of names) {
    bench.say(`idle sockets: ${count} through ${titles[name]}`);
    const entrant = await enter(bench, name, { straight: true });
    try {
      const logins = await socketLogins(bench, entrant);
      await withSockets(bench, entrant, logins, 200, async () => undefined);
      const before = await settledBytesOf(entrant.running, 3_000);
      const { stillOpen, result } = await withSockets(bench, entrant, logins, count, async () => {
        await sleep(bench.amounts.socketPauseSeconds * 1_000);
        return settledBytesOf(entrant.running, 4_000);
      });
      results.set(name, { count: stillOpen, bytesPerSocket: (result - before) / stillOpen });
    } finally {
      await end(entrant.running);
    }
  }
  return results;
}

async function socketLogins(bench: Bench, entrant: Entrant): Promise<SocketLoad["logins"]> {
  const logins: { deviceId: string; token: string }[] = [];
  for (let index = 0; index < 10; index += 1) {
    const deviceId = `${entrant.deviceId}-${index}`;
    const token = await loginFor(bench, entrant.contender, deviceId, true);
    await expectServed({ ...entrant, deviceId, token }, true);
    logins.push({ deviceId, token });
  }
  return logins;
}

/**
 * Opens sockets, calls `meanwhile`, and closes them. Throws unless all could be opened, and unless this
 * proxy kept them all: what another one loses in that time is its own affair, and is counted.
 */
async function withSockets<Result>(
  bench: Bench,
  entrant: Entrant,
  logins: SocketLoad["logins"],
  count: number,
  meanwhile: () => Promise<Result>,
): Promise<{ stillOpen: number; result: Result }> {
  const options: SocketLoad = { port: entrant.port, logins, count, concurrency: 64 };
  const script = join(import.meta.dirname, "load.ts");
  // taskset replaces itself with what it starts, so this is the load's own process id.
  const [command, prefix] =
    bench.loadCpus === undefined
      ? [process.execPath, []]
      : ["taskset", ["-c", bench.loadCpus, process.execPath]];
  const child = spawn(command, [...prefix, script, "sockets", JSON.stringify(options)], {
    stdio: ["ignore", "pipe", "inherit"],
    timeout: 180_000,
    killSignal: "SIGKILL",
  });
  const lines = child.stdout[Symbol.asyncIterator]();
  const nextLine = async () => JSON.parse(String((await lines.next()).value ?? "{}"));
  try {
    const opened = await nextLine();
    if (opened.open !== count) {
      throw new Error(
        `${titles[entrant.contender]} opened ${opened.open} of ${count} sockets: ${opened.failure}`,
      );
    }
    const result = await meanwhile();
    child.kill("SIGTERM");
    const { stillOpen } = await nextLine();
    if (stillOpen !== count && entrant.contender === "jellybloom") {
      throw new Error(`${titles[entrant.contender]} kept ${stillOpen} of ${count} idle sockets`);
    }
    return { stillOpen, result };
  } finally {
    child.kill("SIGKILL");
  }
}

export interface FlatResult {
  readonly requests: number;
  readonly leavers: number;
  readonly residentBytesBefore: number;
  readonly residentBytesAfter: number;
  readonly descriptorsBefore: number;
  readonly descriptorsAfter: number;
}

/** V8 gives memory back in up to three steps, the first 8 s after the heap's last growth (its memory reducer). */
const quietMs = 25_000;

/** Whether this proxy's memory and descriptors grow with what it has done, once it has done as much before. */
export async function measureFlat(bench: Bench): Promise<FlatResult> {
  const { flatWarmupRequests, flatRequests, flatLeavers } = bench.amounts;
  bench.say(`flatness: ${flatRequests} requests and ${flatLeavers} clients that leave`);
  const entrant = await enter(bench, "jellybloom");
  try {
    await manyRequests(bench, entrant, flatWarmupRequests);
    await leave(bench, entrant, flatLeavers);
    const residentBytesBefore = await settledBytesOf(entrant.running, quietMs);
    const descriptorsBefore = descriptorsOf(entrant.running);
    const requests = await manyRequests(bench, entrant, flatRequests);
    await leave(bench, entrant, flatLeavers);
    const residentBytesAfter = await settledBytesOf(entrant.running, quietMs);
    const descriptorsAfter = descriptorsOf(entrant.running);
    return {
      requests,
      leavers: flatLeavers,
      residentBytesBefore,
      residentBytesAfter,
      descriptorsBefore,
      descriptorsAfter,
    };
  } finally {
    await end(entrant.running);
  }
}

async function manyRequests(bench: Bench, entrant: Entrant, wanted: number): Promise<number> {
  let done = 0;
  while (done < wanted) done += (await wrk(bench, entrant, 2)).requests;
  return done;
}

async function leave(bench: Bench, entrant: Entrant, count: number): Promise<void> {
  const options: LeaverLoad = { port: entrant.port, token: entrant.token, count, concurrency: 10 };
  const { left } = await load<{ left: number }>(bench, "leavers", options, 120_000);
  if (left !== count) throw new Error(`${left} of ${count} clients left in mid-body`);
}

export interface StoreResult {
  readonly requests: number;
  /** Redis commands during the requests, less what the idle proxy sends in the same time. */
  readonly commands: number;
  readonly idleCommandsPerSecond: number;
}

/** Redis commands that this proxy sends because of requests of a user who has been placed. */
export async function measureStore(bench: Bench): Promise<StoreResult> {
  bench.say("store round trips of placed requests");
  return await withRedis(bench, "redis", countCommands);
}

/** Runs this proxy with a Redis of its own, in that folder, for as long as `measure` takes. */
export async function withRedis<Result>(
  bench: Bench,
  folder: string,
  measure: (bench: Bench, entrant: Entrant, redis: Redis) => Promise<Result>,
): Promise<Result> {
  const directory = join(bench.setup.directory, folder);
  mkdirSync(directory, { recursive: true });
  const port = await freePort();
  const server = start({
    name: "redis-server",
    command: "redis-server",
    args: `--port ${port} --bind 127.0.0.1 --save --appendonly no --dir ${directory}`.split(" "),
    logFile: join(directory, "output.log"),
    cpus: bench.loadCpus,
  });
  const redis = new Redis({ port, host: "127.0.0.1", lazyConnect: true });
  redis.on("error", () => {
    // The connection is tried until the server listens; what fails later rejects the command itself.
  });
  try {
    await waitUntil(server, "answering", 10_000, async () => (await redis.ping()) === "PONG");
    const entrant = await enter(bench, "jellybloom", { redisUrl: `redis://127.0.0.1:${port}` });
    try {
      return await measure(bench, entrant, redis);
    } finally {
      await end(entrant.running);
    }
  } finally {
    redis.disconnect();
    await end(server);
  }
}

export async function countCommands(
  bench: Bench,
  entrant: Entrant,
  redis: Redis,
): Promise<StoreResult> {
  await wrk(bench, entrant, 1);
  const idleSeconds = 6;
  const first = await commandsOf(redis);
  await sleep(idleSeconds * 1_000);
  const second = await commandsOf(redis);
  const idleCommandsPerSecond = (second - first) / idleSeconds;
  const startedMs = performance.now();
  const requests = await manyRequests(bench, entrant, bench.amounts.placedRequests);
  const seconds = (performance.now() - startedMs) / 1_000;
  const third = await commandsOf(redis);
  const commands = Math.max(0, third - second - idleCommandsPerSecond * seconds);
  return { requests, commands, idleCommandsPerSecond };
}

/** Commands that Redis has carried out so far, those of scripts too, less what asks for this number. */
async function commandsOf(redis: Redis): Promise<number> {
  let calls = 0;
  for (const line of (await redis.info("commandstats")).split("\r\n")) {
    const match = /^cmdstat_([^:]+):calls=(\d+)/.exec(line);
    if (match !== null && match[1] !== "info") calls += Number(match[2]);
  }
  return calls;
}
