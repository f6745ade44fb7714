// What the journal costs a client: how much longer a change takes to be answered because its intent is written to
// Redis first, and that a read costs the store nothing. The two kinds of calls that are compared are one route with one
// body but for one field: a stop that says that the play failed changes nothing, and makes no intent.

import { Agent, request } from "node:http";
import type { Redis } from "ioredis";
import {
  type Bench,
  countCommands,
  type Entrant,
  type StoreResult,
  withRedis,
} from "./measures.ts";
import { median } from "./report.ts";
import { authorization, itemId } from "./routes.ts";

export interface JournalResult {
  readonly writes: number;
  /** Medians, in ms. */
  readonly plainMs: number;
  readonly journalledMs: number;
  readonly addedMs: number;
  readonly journalledP99Ms: number;
  readonly reads: StoreResult;
}

export async function measureJournal(bench: Bench): Promise<JournalResult> {
  bench.say("journal: changes with and without an intent");
  return await withRedis(bench, "redis-journal", measureBoth);
}

async function measureBoth(bench: Bench, entrant: Entrant, redis: Redis): Promise<JournalResult> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const writes = bench.amounts.journalledWrites;
  const plain: number[] = [];
  const journalled: number[] = [];
  try {
    // What is hot is compiled first, on both sides alike.
    for (let turn = 0; turn < 200; turn += 1) await stop(entrant, agent, turn % 2 === 0);
    const before = await lengthOf(redis);
    // Turn by turn, so that a slow moment of the machine falls on both.
    for (let turn = 0; turn < writes; turn += 1) {
      plain.push(await stop(entrant, agent, true));
      journalled.push(await stop(entrant, agent, false));
    }
    const entries = (await lengthOf(redis)) - before;
    if (entries < writes) throw new Error(`${entries} entries were written for ${writes} changes`);
  } finally {
    agent.destroy();
  }
  // Reads are counted when what follows the writes is over.
  const reads = await countCommands(bench, entrant, redis);
  const plainMs = median(plain);
  const journalledMs = median(journalled);
  const sorted = [...journalled].sort((one, other) => one - other);
  return {
    writes,
    plainMs,
    journalledMs,
    addedMs: journalledMs - plainMs,
    journalledP99Ms: sorted[Math.floor(sorted.length * 0.99)] ?? Number.NaN,
    reads,
  };
}

/** Tells that a play has ended; answers how long that took, in ms. */
function stop({ port, deviceId, token }: Entrant, agent: Agent, failed: boolean): Promise<number> {
  const body = JSON.stringify({
    ItemId: itemId,
    PlaySessionId: "bench",
    PositionTicks: 600_000_000,
    Failed: failed,
  });
  const headers = {
    authorization: authorization(deviceId, token),
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
  };
  return new Promise((resolve, reject) => {
    const startedMs = performance.now();
    const asked = request(
      {
        host: "127.0.0.1",
        port,
        agent,
        method: "POST",
        path: "/Sessions/Playing/Stopped",
        headers,
      },
      (reply) => {
        reply.resume().once("end", () => {
          if (reply.statusCode === 204) resolve(performance.now() - startedMs);
          else reject(new Error(`a stop was answered ${reply.statusCode}`));
        });
      },
    );
    asked.once("error", reject).end(body);
  });
}

/** How many entries all streams of this Redis have had. */
async function lengthOf(redis: Redis): Promise<number> {
  let length = 0;
  for (const key of await redis.keys("*")) {
    if ((await redis.type(key)) === "stream" && /journal/i.test(key)) {
      length += Number(await redis.xlen(key));
    }
  }
  return length;
}
