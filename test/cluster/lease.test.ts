// The leader, with real processes and a real Redis: they are killed, frozen past their lease and thawed, asked
// to stop, and Redis forgets them. Each writes into one file what it does as the leader; a checker reads it. Two
// servers' tasks are due all the while, and the servers count how often each was started.

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { DueTasks } from "../support/due-tasks.ts";
import type { LeaseRun } from "../support/lease-run.ts";
import { freePort, type RedisServer, startRedis } from "../support/redis.ts";
import { until } from "../support/viewer.ts";

const program = new URL("../support/lease-run.ts", import.meta.url).pathname;
const leaseLimitMs = 500;

interface Act {
  readonly atMs: number;
  readonly owner: string;
  readonly number: number;
}

let folder = "";
let servers: RedisServer[] = [];
let children: Competitor[] = [];
/** Where each competitor tells the highest epoch it has seen. */
let ports: ReadonlyMap<string, number> = new Map();
let tasks: DueTasks | undefined;

interface Competitor {
  readonly name: string;
  child: ChildProcess;
  frozen: boolean;
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "jellybloom-lease-"));
});
afterEach(async () => {
  for (const { child } of children.splice(0)) child.kill("SIGKILL");
  await tasks?.stop();
  tasks = undefined;
  for (const server of servers.splice(0)) await server.stop();
  rmSync(folder, { recursive: true, force: true });
});

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

function lines(): string[] {
  let text = "";
  try {
    text = readFileSync(join(folder, "acts"), "utf8");
  } catch {
    // Nobody acted yet.
  }
  return text.split("\n").slice(0, -1);
}

/** Everything that was done as the leader, in the order in which it reached the file. */
function acts(): Act[] {
  return lines()
    .filter((line) => !line.startsWith("slow "))
    .map((line) => {
      const [atMs, owner = "", number] = line.split(" ");
      return { atMs: Number(atMs), owner, number: Number(number) };
    });
}

/** The first act after so many that fulfils a condition. */
async function nextAct(
  from: number,
  isMeant: (act: Act) => boolean,
  limitMs: number,
): Promise<Act> {
  const untilMs = Date.now() + limitMs;
  for (;;) {
    const found = acts().slice(from).find(isMeant);
    if (found !== undefined) return found;
    if (Date.now() > untilMs) throw new Error(`nobody acted within ${limitMs} ms`);
    await sleep(10);
  }
}

async function startServers(count: number): Promise<RedisServer[]> {
  servers = await Promise.all(Array.from({ length: count }, () => startRedis()));
  return servers;
}

/** Processes that compete, and how to start one again. */
async function startCompetitors(names: readonly string[]) {
  const [store, ...locks] = servers;
  ports = new Map(await Promise.all(names.map(async (name) => [name, await freePort()] as const)));
  const start = (name: string): ChildProcess => {
    const run: LeaseRun = {
      name,
      redis: store?.url ?? "",
      lockRedis: locks.map(({ url }) => url),
      leaseLimitMs,
      port: ports.get(name) ?? 0,
      peerPorts: [...ports].filter(([other]) => other !== name).map(([, port]) => port),
      file: join(folder, "acts"),
      ...(tasks !== undefined && {
        tasks: { directory: folder, servers: tasks.servers((at) => ports.get(at) ?? 0) },
      }),
    };
    return spawn(process.execPath, [program, JSON.stringify(run)], {
      stdio: ["ignore", "inherit", "inherit"],
    });
  };
  children = names.map((name) => ({ name, child: start(name), frozen: false }));
  return { start };
}

function competitorOf(act: Act): Competitor {
  const name = act.owner.split("/")[0];
  const found = children.find((one) => one.name === name);
  if (found === undefined) throw new Error(`nobody is called ${name}`);
  return found;
}

/**
 * No number was ever two owners', and no owner acted after a higher number had begun. Only a process that was
 * stopped between its look at the clock and its write may be late with that one: that is why gates refuse old
 * epochs.
 */
function check(): { readonly changes: number } {
  const slow = new Set(lines().filter((line) => line.startsWith("slow ")));
  const ownerOf = new Map<number, string>();
  let highest = 0;
  for (const { owner, number } of acts()) {
    const first = ownerOf.get(number);
    if (first !== undefined && first !== owner) {
      throw new Error(`${first} and ${owner} both acted under ${number}`);
    }
    ownerOf.set(number, owner);
    if (number < highest && !slow.has(`slow ${owner} ${number}`)) {
      throw new Error(`${owner} acted under ${number} after ${highest} had begun`);
    }
    highest = Math.max(highest, number);
  }
  return { changes: ownerOf.size };
}

/** Waits until every competitor has seen this number or a higher one. */
async function allHaveSeen(number: number): Promise<void> {
  for (const port of ports.values()) {
    await until(10_000, `number ${number} seen at ${port}`, async () => {
      const answer = await fetch(`http://127.0.0.1:${port}`).catch(() => undefined);
      const told = (await answer?.json()) as { readonly seen?: { readonly number: number } };
      return (told?.seen?.number ?? 0) >= number;
    });
  }
}

/** The owners that acted under each number. */
function owners(): Set<string>[] {
  const found = new Map<number, Set<string>>();
  for (const { owner, number } of acts()) {
    found.set(number, (found.get(number) ?? new Set()).add(owner));
  }
  return [...found.values()];
}

describe("of processes that compete for the lease", () => {
  test("no two act under one number, and no task is started twice, while leaders are killed, frozen and stopped fifty times", async () => {
    const [redis] = await startServers(1);
    tasks = await DueTasks.start(redis?.url ?? "");
    const { start } = await startCompetitors(["a", "b", "c", "d"]);
    const changesWanted = 50;
    const startsWanted = 20;
    const tookMs: number[] = [];
    let now = await nextAct(0, () => true, 10_000);
    for (let change = 0; change < changesWanted; change += 1) {
      const from = acts().length;
      const last = now;
      const leader = competitorOf(now);
      const { child } = leader;
      // At another moment of what it does with the tasks each time.
      await sleep((change * 70) % 300);
      const harmedAtMs = Date.now();
      if (change % 3 === 0) {
        child.kill("SIGKILL");
        leader.child = start(leader.name);
      } else if (change % 3 === 1) {
        child.kill("SIGSTOP");
        leader.frozen = true;
        // It wakes while the next one leads.
        setTimeout(() => {
          child.kill("SIGCONT");
          leader.frozen = false;
        }, 2 * leaseLimitMs);
      } else {
        child.kill("SIGTERM");
        child.once("exit", () => {
          leader.child = start(leader.name);
        });
      }
      // The same one again, where it woke before another had asked.
      now = await nextAct(from, (act) => act.number > last.number, 10_000);
      tookMs.push(now.atMs - harmedAtMs);
    }
    expect(check().changes).toBeGreaterThanOrEqual(changesWanted);
    // Nine of ten: processes that are started all the while take the machine from those that compete.
    const nineOfTenMs = tookMs.toSorted((one, other) => one - other)[0.9 * changesWanted];
    expect(nineOfTenMs).toBeLessThan(leaseLimitMs + 1000);
    // Whoever was frozen last has woken, and does what it still believes in.
    await sleep(2 * leaseLimitMs);
    const { starts, most } = await tasks.count();
    expect(starts).toBeGreaterThanOrEqual(startsWanted);
    expect(most).toBe(1);
  }, 90_000);

  test("the number never falls and is never given twice, though Redis forgets everything", async () => {
    const [server] = await startServers(1);
    await startCompetitors(["a", "b", "c"]);
    const admin = new Redis(server?.url ?? "", { protocol: 2 });
    let now = await nextAct(0, () => true, 10_000);
    for (let times = 0; times < 6; times += 1) {
      const leader = competitorOf(now);
      const { number } = now;
      const from = acts().length;
      if (times % 2 === 1) leader.child.kill("SIGSTOP");
      await admin.flushall();
      now = await nextAct(from, (act) => act.number > number, 10_000);
      leader.child.kill("SIGCONT");
      // The store forgets it once everybody has heard of it.
      await allHaveSeen(now.number);
    }
    admin.disconnect();
    // A store that forgot may have a second leader until the first one hears of it, never under one number.
    expect(owners().every((names) => names.size === 1)).toBe(true);
  }, 60_000);

  test("one leads while more than half of the servers hold the lock, and nobody with fewer", async () => {
    const [, second, third] = await startServers(3);
    await startCompetitors(["a", "b"]);
    const first = await nextAct(0, () => true, 10_000);
    await second?.kill9();
    await sleep(2 * leaseLimitMs);
    // The same one goes on: losing one server of three is no change.
    expect(acts().at(-1)).toMatchObject({ number: first.number, owner: first.owner });
    await third?.kill9();
    await sleep(leaseLimitMs + 200);
    const silent = acts().length;
    await sleep(2 * leaseLimitMs);
    expect(acts().length).toBe(silent);
    await third?.restart();
    await nextAct(silent, () => true, 10_000);
    check();
  }, 60_000);
});
