// The cluster has one schedule. Its servers' own triggers are parked and saved, the leader starts what is due
// on one server after the other, and whatever is killed meanwhile, nothing is started twice and no library
// is emptied.

import { readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { type DoorProcess, type Part, startDoor, startSidecar } from "../support/door.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import {
  dailyIn,
  FILMS,
  isParked,
  itemsOf,
  setTriggers,
  startsOf,
  TaskHousehold,
  tasksOf,
  triggersOf,
} from "../support/task-household.ts";
import { until, Viewer } from "../support/viewer.ts";

const scan = "RefreshLibrary";
const people = "RefreshPeople";
const args = ["--time-zone", "UTC", "--lease-limit", "2s"];
const every12h = [{ Type: "IntervalTrigger", IntervalTicks: 432_000_000_000 }];

async function parked(...servers: StandIn[]): Promise<void> {
  for (const server of servers) {
    await until(15_000, `the tasks of ${server.name} parked`, () => isParked(server));
  }
}

async function runMs(ms: number, ...servers: StandIn[]): Promise<void> {
  await Promise.all(servers.map((server) => server.control("task-runs", { runMs: ms })));
}

/** Starts of a task on both servers: how many, and whether two ran at once. */
async function starts(home: TaskHousehold, key: string): Promise<{ a: number[]; b: number[] }> {
  const [a, b] = await Promise.all([startsOf(home.a, key), startsOf(home.b, key)]);
  return { a, b };
}

describe("all in one process", () => {
  let home: TaskHousehold;
  let door: DoorProcess;
  let admin: Viewer;
  let data: string;
  let scanId: string;
  let own: Record<string, unknown>;

  beforeAll(async () => {
    home = await TaskHousehold.start();
    data = home.folder("data");
    scanId = (await tasksOf(home.a)).get(scan)?.Id ?? "";
    own = await triggersOf(home.a);
    await runMs(1200, home.a, home.b);
    door = await startDoor({
      ...{ replicas: [home.a, home.b], apiKey: home.a.apiKey, data, args },
    });
    admin = await Viewer.enter(door.url);
  });

  afterAll(async () => {
    await door.stop();
    await home.stop();
  });

  async function shown(key: string) {
    const reply = await admin.call("GET", "/ScheduledTasks");
    if (reply.status !== 200) return undefined;
    return (reply.json() as { Key: string; State: string; Triggers: unknown[] }[]).find(
      (task) => task.Key === key,
    );
  }

  test("every server's tasks are parked, and its own triggers lie beside its sidecar", async () => {
    await parked(home.a, home.b);
    for (const server of [home.a, home.b]) {
      const saved = JSON.parse(readFileSync(join(data, "tasks", `${server.name}.json`), "utf8"));
      expect(saved.originals[scan]).toEqual({ id: scanId, triggers: own[scan] });
    }
    await until(5000, "the cluster's triggers shown", async () => {
      return JSON.stringify((await shown(scan))?.Triggers) === JSON.stringify(own[scan]);
    });
    // What a server pushes to who looks at the dashboard is shown so, too.
    const socket = new WebSocket(`${door.url.replace("http", "ws")}/socket?ApiKey=${admin.token}`);
    let pushed = "";
    socket.on("message", (data) => {
      if (String(data).includes("ScheduledTasksInfo")) pushed = String(data);
    });
    socket.once("open", () => {
      socket.send('{"MessageType":"ScheduledTasksInfoStart","Data":"0,200"}');
    });
    // It is sent when something changes after the server has heard who looks.
    await until(15_000, "a push", async () => {
      for (const server of [home.a, home.b]) await setTriggers(server, "CleanLogFiles", []);
      await sleep(200);
      return pushed !== "";
    });
    socket.close();
    const told = JSON.parse(pushed).Data as { Key: string; Triggers: unknown[] }[];
    expect(told.find(({ Key }) => Key === scan)?.Triggers).toEqual(own[scan]);
  });

  test("triggers changed through the door are the cluster's; what is due runs on one server after the other", async () => {
    const soon = [dailyIn(2500)];
    const reply = await admin.call("POST", `/ScheduledTasks/${scanId}/Triggers`, { body: soon });
    expect(reply.status).toBe(204);
    expect((await shown(scan))?.Triggers).toEqual(soon);
    expect(await isParked(home.a)).toBe(true);
    await until(20_000, "a scan on both servers", async () => {
      const { a, b } = await starts(home, scan);
      return a.length === 1 && b.length === 1;
    });
    await sleep(2500);
    const { a, b } = await starts(home, scan);
    expect([a.length, b.length]).toEqual([1, 1]);
    expect(Math.abs((a[0] ?? 0) - (b[0] ?? 0))).toBeGreaterThanOrEqual(1200);
  });

  test("a malformed trigger is refused in words and never reaches a server", async () => {
    for (const body of [
      [{ Type: "DailyTrigger" }],
      [{ Type: "NoSuchTrigger", IntervalTicks: 1 }],
      [{ Type: "IntervalTrigger", IntervalTicks: -1 }],
      { Type: "StartupTrigger" },
    ]) {
      const reply = await admin.call("POST", `/ScheduledTasks/${scanId}/Triggers`, { body });
      expect(reply.status, JSON.stringify(body)).toBe(400);
      expect(reply.text).toMatch(/trigger/i);
    }
    for (const server of [home.a, home.b]) {
      const sent = await server.requests({ method: "POST", path: "/Triggers$" });
      // Nothing but the empty list by which a task is parked.
      expect(sent.map(({ bodyBytes }) => bodyBytes).filter((bytes) => bytes !== 2)).toEqual([]);
      await server.restart();
      await server.ready();
    }
    await parked(home.a, home.b);
    await runMs(1200, home.a, home.b);
  });

  test("servers that have started run their startup tasks, once each, though they are parked", async () => {
    // The test before started both anew; their own triggers would have fired three seconds later.
    const key = "DeleteTranscodeFiles";
    await until(25_000, "the startup task on both", async () => {
      const { a, b } = await starts(home, key);
      return a.length > 0 && b.length > 0;
    });
    expect(await isParked(home.a)).toBe(true);
    const { a, b } = await starts(home, key);
    expect([a.length, b.length]).toEqual([1, 1]);
  });

  test("«run now» runs on both in turn, shows as running, and can be cancelled", async () => {
    const id = (await tasksOf(home.a)).get(people)?.Id;
    await runMs(20_000, home.a, home.b);
    await until(10_000, "a leader after the restarts", async () => {
      return (await admin.call("POST", `/ScheduledTasks/Running/${id}`)).status === 204;
    });
    await until(
      10_000,
      "it shows as running",
      async () => (await shown(people))?.State === "Running",
    );
    await until(5000, "it runs on one", async () => {
      const { a, b } = await starts(home, people);
      return a.length + b.length > 0;
    });
    const ran = await starts(home, people);
    expect([ran.a.length, ran.b.length].sort()).toEqual([0, 1]);
    expect((await admin.call("DELETE", `/ScheduledTasks/Running/${id}`)).status).toBe(204);
    await until(5000, "it shows as idle", async () => (await shown(people))?.State === "Idle");
    await sleep(1500);
    const after = await starts(home, people);
    expect(after.a.length + after.b.length).toBe(1);
    expect((await admin.call("DELETE", `/ScheduledTasks/Running/${id}`)).status).toBe(500);
    const kid = await Viewer.enter(door.url, { name: "kid" });
    expect((await kid.call("POST", `/ScheduledTasks/Running/${id}`)).status).toBe(403);
    expect((await kid.call("GET", "/ScheduledTasks")).status).toBe(403);
  });

  test("no scan where a folder is gone or empty: nothing is deleted, and it is done when the media are whole", async () => {
    await runMs(200, home.a, home.b);
    const before = await starts(home, scan);
    const movies = home.movies(home.b);
    renameSync(movies, `${movies}-away`);
    expect((await admin.call("POST", `/ScheduledTasks/Running/${scanId}`)).status).toBe(204);
    await until(10_000, "a scan on a", async () => {
      return (await startsOf(home.a, scan)).length > before.a.length;
    });
    await until(10_000, "a sentence about b", () =>
      door.log().includes(`task ${scan} is not started on b: the folder`),
    );
    const ready = await (await fetch(`${door.admin}/jellybloom/ready`)).text();
    expect(ready).toContain(`task ${scan} on b is held: the folder`);
    expect(await startsOf(home.b, scan)).toEqual(before.b);
    expect(await itemsOf(home.b)).toBe(FILMS);
    renameSync(`${movies}-away`, movies);
    await until(25_000, "the scan on b", async () => {
      return (await startsOf(home.b, scan)).length > before.b.length;
    });
    await until(5000, "its end", async () => (await tasksOf(home.b)).get(scan)?.State === "Idle");
    expect(await itemsOf(home.b)).toBe(FILMS);
    expect((await starts(home, scan)).a.length).toBe(before.a.length + 1);
  });

  test("the process is killed in mid-task: the next finds it running, starts it once, and goes on", async () => {
    await runMs(6000, home.a, home.b);
    const before = await starts(home, people);
    const id = (await tasksOf(home.a)).get(people)?.Id;
    expect((await admin.call("POST", `/ScheduledTasks/Running/${id}`)).status).toBe(204);
    await until(10_000, "it runs on one", async () => {
      const now = await starts(home, people);
      return now.a.length + now.b.length > before.a.length + before.b.length;
    });
    await door.kill9();
    await door.launch();
    await until(30_000, "it ran on both", async () => {
      const now = await starts(home, people);
      return now.a.length > before.a.length && now.b.length > before.b.length;
    });
    await sleep(2000);
    const now = await starts(home, people);
    expect(now.a.length - before.a.length).toBe(1);
    expect(now.b.length - before.b.length).toBe(1);
    const [last] = now.a.slice(-1);
    const [other] = now.b.slice(-1);
    expect(Math.abs((last ?? 0) - (other ?? 0))).toBeGreaterThanOrEqual(6000);
  });

  test("a store that was lost while servers are parked gets the schedule back, and that is said", async () => {
    expect(
      (await admin.call("POST", `/ScheduledTasks/${scanId}/Triggers`, { body: every12h })).status,
    ).toBe(204);
    await until(5000, "it is saved", () =>
      ["a", "b"].every((name) => {
        const saved = JSON.parse(readFileSync(join(data, "tasks", `${name}.json`), "utf8"));
        return JSON.stringify(saved.schedules[scan].triggers) === JSON.stringify(every12h);
      }),
    );
    await door.terminate();
    for (const suffix of ["", "-wal", "-shm"]) {
      rmSync(join(data, `jellybloom.sqlite${suffix}`), { force: true });
    }
    await door.launch();
    await until(15_000, "the sentence", () =>
      door.log().includes("the store had lost the schedule"),
    );
    admin = await Viewer.enter(door.url);
    await until(10_000, "the triggers as they were set last", async () => {
      return JSON.stringify((await shown(scan))?.Triggers) === JSON.stringify(every12h);
    });
    expect(await isParked(home.a)).toBe(true);
  });
});

describe("with Redis, sidecars as processes of their own", () => {
  let home: TaskHousehold;
  let redis: RedisServer;
  let sidecars: Part[];
  let door: DoorProcess;
  let admin: Viewer;

  beforeAll(async () => {
    home = await TaskHousehold.start();
    redis = await startRedis();
    await runMs(700, home.a, home.b);
    sidecars = await Promise.all(
      [home.a, home.b].map((replica) =>
        startSidecar({
          ...{ replica, redis: redis.url },
          args: [
            ...["--time-zone", "UTC", "--lease-limit", "1s"],
            ...["--task-data", home.folder(`beside-${replica.name}`)],
          ],
        }),
      ),
    );
    door = await startDoor({
      ...{ command: "proxy", redis: redis.url, replicas: [home.a, home.b] },
    });
    admin = await Viewer.enter(door.url);
    await admin.knownAt([home.a, home.b]);
    await parked(home.a, home.b);
  });

  afterAll(async () => {
    await Promise.all([door, ...sidecars].map((part) => part.stop()));
    await redis.stop();
    await home.stop();
  });

  /** Whoever led last, by the epochs in the logs. */
  function leader(): Part | undefined {
    const led = sidecars.map((sidecar) => {
      const epochs = sidecar.log().matchAll(/leads the cluster under epoch (\d+)/g);
      return { sidecar, epoch: Math.max(0, ...[...epochs].map(([, number]) => Number(number))) };
    });
    const [last] = led.sort((left, right) => right.epoch - left.epoch);
    return last === undefined || last.epoch === 0 ? undefined : last.sidecar;
  }

  test("leaders killed, or frozen past their lease and thawed, in mid-task: each run is once on each server, never on two", async () => {
    const id = (await tasksOf(home.a)).get(people)?.Id;
    const ways = ["kill", "freeze", "kill", "freeze"] as const;
    for (const [round, way] of ways.entries()) {
      await until(10_000, "a leader who takes the order", async () => {
        const reply = await admin.call("POST", `/ScheduledTasks/Running/${id}`);
        return reply.status === 204 && leader() !== undefined;
      });
      const led = leader();
      if (led === undefined) throw new Error("nobody leads");
      // At some moment of the run: before its first start, in it, between the two.
      await sleep(round * 250);
      if (way === "kill") {
        await led.kill9();
        led.begin();
      } else {
        led.freeze();
        await sleep(1500);
        led.thaw();
      }
      await until(25_000, `run ${round + 1} on both servers`, async () => {
        const { a, b } = await starts(home, people);
        return a.length > round && b.length > round;
      });
      await until(5000, "its end", async () => {
        const states = [await tasksOf(home.a), await tasksOf(home.b)].map((tasks) =>
          tasks.get(people),
        );
        return states.every((task) => task?.State === "Idle");
      });
    }
    await sleep(1500);
    const { a, b } = await starts(home, people);
    expect([a.length, b.length]).toEqual([ways.length, ways.length]);
    const all = [...a, ...b].sort((left, right) => left - right);
    const gaps = all.slice(1).map((at, index) => at - (all[index] ?? 0));
    expect(Math.min(...gaps)).toBeGreaterThanOrEqual(700);
  });

  test("Redis loses everything while nobody runs and servers are parked: the schedule is written back", async () => {
    // Whoever runs would give Redis back what it remembers; here nobody is left but the disks.
    await Promise.all([door, ...sidecars].map((part) => part.kill9()));
    const client = new Redis(redis.url);
    await client.flushall();
    client.disconnect();
    for (const sidecar of sidecars) sidecar.begin();
    await until(20_000, "the sentence", () =>
      sidecars.some((sidecar) => sidecar.log().includes("the store had lost the schedule")),
    );
    expect(await isParked(home.a)).toBe(true);
    door.begin();
    await door.ready();
    const again = await Viewer.enter(door.url);
    await until(15_000, "the cluster's triggers, as they were", async () => {
      const reply = await again.call("GET", "/ScheduledTasks");
      if (reply.status !== 200) return false;
      const tasks = reply.json() as { Key: string; Triggers: unknown[] }[];
      const triggers = tasks.find(({ Key }) => Key === scan)?.Triggers;
      return JSON.stringify(triggers) === JSON.stringify(every12h);
    });
  });
});
