// A process that competes for the lease of a real Redis: while it leads, it appends to a file, every few
// milliseconds, what a leader's effect would carry, and, where there are servers, starts what is due on them. It
// is a sidecar with nothing but the lease and the tasks, so that many can be killed and frozen in a minute. Tests
// do that, and read the file. Its arguments are one JSON text: see LeaseRun.

import { randomBytes } from "node:crypto";
import { openSync, writeSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { flushCompileCache } from "node:module";
import { text } from "node:stream/consumers";
import { proveMember } from "../../core/cluster/member.ts";
import { Memory } from "../../core/cluster/memory.ts";
import { SidecarCalls } from "../../core/cluster/sidecar-client.ts";
import { createJellyfinClient } from "../../core/jellyfin/client.ts";
import { systemClock } from "../../core/service/clock.ts";
import { repeat } from "../../core/service/loop.ts";
import { createSeal } from "../../core/service/seal.ts";
import { openRedisStore } from "../../core/store/redis.ts";
import type { Epoch } from "../../core/store/store.ts";
import { LeaseKeeper } from "../../sidecar/lease.ts";
import { Hands } from "../../sidecar/tasks/hands.ts";
import { TaskLeader } from "../../sidecar/tasks/leader.ts";
import { noPlaces } from "../../sidecar/tasks/places.ts";
import { remoteHands, taskRoutes } from "../../sidecar/tasks/routes.ts";
import { SavedTasksKeeper } from "../../sidecar/tasks/saved.ts";

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
  /** Servers whose tasks the leader starts; whoever has a server's name stands beside it. */
  readonly tasks?: {
    /** Where they keep what must outlive them. */
    readonly directory: string;
    readonly servers: readonly TaskServer[];
  };
}

export interface TaskServer {
  readonly name: string;
  readonly url: string;
  readonly apiKey: string;
  /** Where whoever stands beside it listens. */
  readonly port: number;
}

const actIntervalMs = 5;
/** An act that took so long was stopped between its look at the clock and its write, or about so. */
const slowMs = 20;
const run = JSON.parse(process.argv[2] ?? "") as LeaseRun;
const stop = new AbortController();
process.once("SIGTERM", () => stop.abort());

const limits = { changesKept: 1000, revokedKeepMs: 60_000, callLimitMs: 300 };
const store = await openRedisStore({ url: run.redis, lockUrls: run.lockRedis, limits });
const log = { debug() {}, info() {}, warn() {} };
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

const calls = new SidecarCalls({
  seal,
  log: { debug() {} },
  now: systemClock.monotonicMs,
  callLimitMs: 200,
});
const hands = await ownHands();
const routes = taskRoutes(
  () => hands,
  () => undefined,
);

async function ownHands(): Promise<Hands | undefined> {
  const own = run.tasks?.servers.find(({ name }) => name === run.name);
  if (run.tasks === undefined || own === undefined) return undefined;
  const { url: origin, apiKey } = own;
  return new Hands({
    client: createJellyfinClient({
      ...{ origin, basePath: "", apiKey, callLimitMs: 2000, probeLimitMs: 2000 },
      ...{ connectLimitMs: 1000, now: systemClock.monotonicMs },
    }),
    keeper: await SavedTasksKeeper.open(run.tasks.directory, run.name),
    isHealthy: () => true,
    startedAtMs: () => undefined,
    mediaProblem: async () => undefined,
    libraries: async () => noPlaces,
    wallMs: systemClock.wallMs,
  });
}

/** The tasks' leader, as every sidecar has one. */
function taskLeader(): TaskLeader {
  const servers = run.tasks?.servers ?? [];
  calls.setMembers(
    servers.map(({ name: replica, url, port }) => ({
      ...proveMember(seal, {
        ...{ replica, url, sidecarUrl: `http://127.0.0.1:${port}`, bootNonce: "" },
        ...{ serverId: replica, serverVersion: "" },
      }),
      atMs: 0,
    })),
  );
  return new TaskLeader({
    ...{ replica: run.name, lease: keeper, store, memory, log, zone: "UTC" },
    hands: () =>
      new Map(
        servers.map(({ name }) => [name, name === run.name ? hands : remoteHands(calls, name)]),
      ),
    wallMs: systemClock.wallMs,
    ...{ busyIntervalMs: 50, idleIntervalMs: 100, heldRetryMs: 200 },
    ...{ fateLimitMs: 2000, awayLimitMs: 5000 },
  });
}

/** The highest epoch that was seen here, and the hands for whoever leads; proofs are not what this is about. */
async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const route = routes.find(({ path }) => path === request.url);
  const told =
    route === undefined
      ? { status: 200, body: { seen: keeper.highestSeen } }
      : await route.answer(await text(request));
  response.writeHead(told.status).end(JSON.stringify(told.body));
}

// Killed more often than it ends by itself: what Node made of its files is kept while it runs, for the next start.
setTimeout(flushCompileCache, 1000).unref();
const server = createServer((request, response) => {
  answer(request, response).catch(() => response.destroy());
});
await new Promise<void>((resolve) => server.listen(run.port, "127.0.0.1", resolve));
const file = openSync(run.file, "a");
await Promise.all([
  memory.run(stop.signal),
  keeper.run(stop.signal),
  ...(run.tasks === undefined ? [] : [taskLeader().run(stop.signal)]),
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
