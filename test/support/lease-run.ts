// A process that competes for the lease of a real Redis and does nothing else: while it leads, it appends to a
// file, every few milliseconds, what a leader's effect would carry. Tests kill and freeze such processes, and
// read the file. Its arguments are one JSON text: see LeaseRun.

import { randomBytes } from "node:crypto";
import { openSync, writeSync } from "node:fs";
import { createServer } from "node:http";
import { Memory } from "../../core/cluster/memory.ts";
import { systemClock } from "../../core/service/clock.ts";
import { repeat } from "../../core/service/loop.ts";
import { createSeal } from "../../core/service/seal.ts";
import { openRedisStore } from "../../core/store/redis.ts";
import type { Epoch } from "../../core/store/store.ts";
import { LeaseKeeper } from "../../sidecar/lease.ts";

export interface LeaseRun {
  readonly name: string;
  readonly redis: string;
  readonly lockRedis: readonly string[];
  readonly leaseLimitMs: number;
  /** Where it answers the highest epoch it has seen. */
  readonly port: number;
  /** Where the others do. */
  readonly peerPorts: readonly number[];
  /** Each line: `<ms since the epoch> <owner> <number>`; `slow …` after one that was held up on its way. */
  readonly file: string;
}

const actIntervalMs = 5;
/** An act that took so long was stopped between its look at the clock and its write, or about so. */
const slowMs = 20;
const run = JSON.parse(process.argv[2] ?? "") as LeaseRun;
const stop = new AbortController();
process.once("SIGTERM", () => stop.abort());

const limits = { changesKept: 1000, revokedKeepMs: 60_000, callLimitMs: 300 };
const store = await openRedisStore({ url: run.redis, lockUrls: run.lockRedis, limits });
const log = { info() {}, warn() {} };
const seal = createSeal("a key that only this test has");
const memory = new Memory({ store, seal, log, tokensRemembered: 1, storeRetryMs: 50 });
const keeper = new LeaseKeeper({
  replica: run.name,
  gateUrl: `http://127.0.0.1:${run.port}`,
  owner: `${run.name}/${randomBytes(4).toString("hex")}`,
  store,
  memory,
  clock: systemClock,
  leaseLimitMs: run.leaseLimitMs,
  unfit: () => undefined,
  collectEpoch,
  log,
});

async function collectEpoch(): Promise<Epoch | undefined> {
  const answers = await Promise.all(run.peerPorts.map(seenAt));
  return answers
    .filter((epoch) => epoch !== undefined)
    .sort((left, right) => right.number - left.number)[0];
}

async function seenAt(port: number): Promise<Epoch | undefined> {
  try {
    const answer = await fetch(`http://127.0.0.1:${port}`, { signal: AbortSignal.timeout(200) });
    return ((await answer.json()) as { seen?: Epoch }).seen;
  } catch {
    // It is dead or frozen, which is what the test does to it.
    return undefined;
  }
}

const server = createServer((_request, response) => {
  response.end(JSON.stringify({ seen: keeper.highestSeen }));
});
await new Promise<void>((resolve) => server.listen(run.port, "127.0.0.1", resolve));
const file = openSync(run.file, "a");
await Promise.all([
  memory.run(stop.signal),
  keeper.run(stop.signal),
  repeat(actIntervalMs, stop.signal, async () => {
    const lookedAtMs = performance.now();
    const leave = keeper.mayAct();
    if (leave === undefined) return;
    const { owner, number } = leave.epoch;
    writeSync(file, `${Date.now()} ${owner} ${number}\n`);
    if (performance.now() - lookedAtMs > slowMs) writeSync(file, `slow ${owner} ${number}\n`);
  }),
]);
server.close();
server.closeAllConnections();
await store.close();
