// «Taking it away again», as the README says it: the door is stopped, one command is run, and every server is
// as it was found: its own triggers, none of our logins. Also with a server stopped, and without the store.

import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { runCommand } from "../support/command.ts";
import { type DoorProcess, startDoor } from "../support/door.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import {
  isParked,
  setTriggers,
  TaskHousehold,
  tasksOf,
  triggersOf,
} from "../support/task-household.ts";
import { until, Viewer } from "../support/viewer.ts";

const scan = "RefreshLibrary";
const weekly = [
  { Type: "WeeklyTrigger", TimeOfDayTicks: 108_000_000_000, DayOfWeek: "Sunday" },
  { Type: "DailyTrigger", TimeOfDayTicks: 36_000_000_000, MaxRuntimeTicks: 144_000_000_000 },
];

let home: TaskHousehold;
let door: DoorProcess;
let data: string;
let found: Record<string, Record<string, unknown>>;

beforeAll(async () => {
  home = await TaskHousehold.start();
  // The servers differ, so that each must get its own back.
  await setTriggers(home.b, scan, weekly);
  await setTriggers(home.b, "CleanLogFiles", []);
  found = { a: await triggersOf(home.a), b: await triggersOf(home.b) };
});

/** Jellybloom keeps both servers, and their tasks are parked. */
beforeEach(async ({ task }) => {
  data = home.folder(`data-${task.id}`);
  for (const server of [home.a, home.b]) if (!server.running) await server.launch();
  door = await startDoor({
    ...{ replicas: [home.a, home.b], apiKey: home.a.apiKey, data, args: ["--lease-limit", "2s"] },
  });
  for (const server of [home.a, home.b]) {
    await until(15_000, `the tasks of ${server.name} parked`, () => isParked(server));
  }
  return async () => {
    await door.stop();
  };
});

afterAll(async () => {
  await home.stop();
});

const replicas = () => [home.a, home.b].flatMap(({ name, url }) => ["--replica", `${name}=${url}`]);

/** The command of the README's section, with its own --data. */
function leave(...more: string[]) {
  return runCommand(
    ["leave", ...replicas(), "--api-key", home.a.apiKey, "--data", data, ...more],
    30_000,
  );
}

async function isAsFound(server: StandIn): Promise<void> {
  expect(await triggersOf(server), server.name).toEqual(found[server.name]);
}

async function devicesAt(server: StandIn): Promise<string[]> {
  return (await server.state()).tokens.map(({ deviceId }) => deviceId);
}

test("the README's section: the door is stopped, one command is run, every server is as it was found", async () => {
  const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const [, section = ""] = readme.split("## Taking it away again");
  const command = /```sh\n([\s\S]*?)```/.exec(section)?.[1] ?? "";
  expect(command.replaceAll(/\\\n\s*/g, "").trim()).toBe(
    "npx jellybloom leave --replica a=http://127.0.0.1:8096 --replica b=http://127.0.0.1:8097 --api-key KEY --data ./data",
  );

  const viewer = await Viewer.enter(door.url);
  await viewer.knownAt([home.a, home.b]);
  const [own, other] = await viewer.homeAmong(home);
  const id = (await tasksOf(home.a)).get(scan)?.Id;
  await until(10_000, "a leader who takes new triggers", async () => {
    const body = [{ Type: "StartupTrigger" }];
    return (await viewer.call("POST", `/ScheduledTasks/${id}/Triggers`, { body })).status === 204;
  });

  const early = await leave();
  expect([early.exitCode, early.said]).toEqual([1, expect.stringMatching(/still runs/)]);
  expect(await isParked(home.a)).toBe(true);

  await door.terminate();
  const { exitCode, said } = await leave("--json");
  const told = JSON.parse(said);
  expect(told).toMatchObject({
    replicas: [
      { name: "a", by: "server" },
      { name: "b", by: "server" },
    ],
    logInAgain: [{ user: "root", client: "Viewer", at: [other.name] }],
    changedBack: expect.arrayContaining([scan]),
    undone: [],
  });
  expect(exitCode).toBe(0);
  await isAsFound(home.a);
  await isAsFound(home.b);
  // The viewer's own login stays where it was made, and ours is gone from the other server.
  expect(await devicesAt(own)).toContain(viewer.deviceId);
  expect(await devicesAt(other)).not.toContain(viewer.deviceId);
  for (const server of [home.a, home.b]) {
    const { sessions } = await server.state();
    expect(sessions.filter(({ DeviceId }) => /jellybloom/i.test(String(DeviceId)))).toEqual([]);
    expect(existsSync(join(data, "tasks", `${server.name}.json`))).toBe(false);
    await server.restart();
    await isAsFound(server);
  }
  // Done twice it is the same as done once, and nothing is left to do.
  const again = await leave();
  expect(again.said).toMatch(/a was given its own triggers by an earlier run/);
  expect(again.exitCode).toBe(0);
  await isAsFound(home.a);
  await isAsFound(home.b);
});

test("a server that is stopped: what is left is said, and done in its files or when it runs", async () => {
  const viewer = await Viewer.enter(door.url);
  await viewer.knownAt([home.a, home.b]);
  const [own] = await viewer.homeAmong(home);
  await door.terminate();
  await home.a.terminate();
  const first = await leave();
  expect(first.exitCode).toBe(1);
  expect(first.said).toMatch(/a cannot be reached, and its triggers are still parked/);
  await isAsFound(home.b);

  const second = await leave("--server", `a=${home.a.dataDir}`, "--keep", "b");
  expect(second.said).toMatch(/a will have its own triggers at its next start/);
  expect(second.said).toMatch(/b was given its own triggers by an earlier run/);
  // What b has now is its owner's, a task without triggers included.
  await isAsFound(home.b);
  // A login that Jellybloom made at a waits for a to run.
  expect(second.exitCode).toBe(own === home.a ? 0 : 1);
  await home.a.launch();
  await isAsFound(home.a);

  const third = await leave();
  expect(third.said).not.toMatch(/Left to do/);
  expect(third.exitCode).toBe(0);
  await isAsFound(home.a);
  await isAsFound(home.b);
});

test("a server that runs is not written to, whatever is asked for", async () => {
  await door.terminate();
  home.b.freeze();
  const { exitCode, said } = await leave("--server", `b=${home.b.dataDir}`);
  home.b.thaw();
  expect(exitCode).toBe(1);
  expect(said).toMatch(/b: its files are in use by/);
  expect(await isParked(home.b)).toBe(true);
  const again = await leave();
  expect(again.exitCode).toBe(0);
  await isAsFound(home.b);
});

test("with one replica left its server runs its own tasks again, and with two they are parked", async () => {
  await door.terminate();
  const { name, url } = home.b;
  const alone = await startDoor({ replicas: [{ name, url }], apiKey: home.b.apiKey, data });
  try {
    await until(10_000, "b's own tasks", async () => {
      const { Triggers = [] } = (await tasksOf(home.b)).get("DeleteCacheFiles") ?? {};
      return Triggers.length > 0;
    });
    expect(await isParked(home.a)).toBe(true);
    // There is nothing left to give back, and the door goes on.
    await alone.terminate();
    expect(alone.log()).not.toContain("ended by itself");
    await alone.launch();
    expect(await alone.terminate()).toBe(0);
    expect(alone.log()).not.toContain("ended by itself");
  } finally {
    await alone.stop();
  }
  await door.launch();
  await until(15_000, "b is parked again", () => isParked(home.b));
  await door.terminate();
  expect((await leave()).exitCode).toBe(0);
  await isAsFound(home.a);
  await isAsFound(home.b);
});

test("without the store the triggers come back all the same, and what is not known is said", async () => {
  await door.terminate();
  for (const suffix of ["", "-wal", "-shm"]) {
    rmSync(join(data, `jellybloom.sqlite${suffix}`), { force: true });
  }
  const { exitCode, said } = await leave();
  expect(said).toMatch(/Which logins Jellybloom made is not known/);
  expect(exitCode).toBe(1);
  await isAsFound(home.a);
  await isAsFound(home.b);
});
