// How a process of ours lives and ends, with real processes and real signals.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, test } from "vitest";

const program = fileURLToPath(new URL("../../support/living.ts", import.meta.url));
const children = new Set<ChildProcess>();

afterEach(() => {
  for (const child of children) child.kill("SIGKILL");
  children.clear();
});

interface Living {
  readonly child: ChildProcess;
  readonly words: () => string[];
  readonly logged: () => string;
  readonly ended: Promise<number | null>;
}

function live(...args: string[]): Living {
  const child = spawn(process.execPath, [program, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  children.add(child);
  let out = "";
  let err = "";
  child.stdout.on("data", (chunk) => {
    out += chunk;
  });
  child.stderr.on("data", (chunk) => {
    err += chunk;
  });
  return {
    child,
    words: () => out.trim().split("\n"),
    logged: () => err,
    ended: once(child, "close").then(([code]) => code as number | null),
  };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(10);
}

async function liveAndStart(...args: string[]): Promise<Living> {
  const living = live(...args);
  await until(() => living.words().includes("door started"));
  return living;
}

describe("a process asked to end", () => {
  test.each(["SIGTERM", "SIGINT"] as const)(
    "by %s finishes what runs and exits with 0",
    async (signal) => {
      const living = await liveAndStart();
      living.child.kill(signal);
      expect(await living.ended).toBe(0);
      expect(living.words()).toEqual([
        "helper started",
        "door started",
        "door stopping",
        "door finished",
        "helper ended",
      ]);
      expect(living.logged()).toContain('"msg":"stopped"');
    },
  );

  test("cuts what still runs at the drain limit, and still exits with 0", async () => {
    const living = await liveAndStart("run long", "300");
    living.child.kill("SIGTERM");
    expect(await living.ended).toBe(0);
    expect(living.words()).toContain("door cut");
  });

  test("leaves a service behind that does not even end when cut, and exits with 1", async () => {
    const living = await liveAndStart("run on", "100");
    living.child.kill("SIGTERM");
    expect(await living.ended).toBe(1);
    expect(living.logged()).toContain("the service door did not end and is left behind");
  });

  test("by a second signal leaves at once with 1", async () => {
    const living = await liveAndStart("run long");
    living.child.kill("SIGTERM");
    await until(() => living.words().includes("door stopping"));
    await delay(400);
    living.child.kill("SIGTERM");
    expect(await living.ended).toBe(1);
    expect(living.words()).not.toContain("helper ended");
  });

  test("takes signals that come together for one", async () => {
    const living = await liveAndStart();
    living.child.kill("SIGINT");
    living.child.kill("SIGINT");
    expect(await living.ended).toBe(0);
  });
});

describe("a bug ends the process with 1 and is in the log", () => {
  test("a rejection nobody handles", async () => {
    const living = live("reject unseen");
    expect(await living.ended).toBe(1);
    expect(living.logged()).toMatch(/"level":"fatal".*nobody looks at this/);
  });

  test("a service that ends by itself", async () => {
    const living = live("end by itself");
    expect(await living.ended).toBe(1);
    expect(living.logged()).toContain("the service door ended by itself");
  });
});

test("a service that cannot start ends what started before it, and the exit code is 1", async () => {
  const living = live("refuse to start");
  expect(await living.ended).toBe(1);
  expect(living.words()).toEqual(["helper started", "helper ended"]);
  expect(living.logged()).toContain("a service failed to start");
});
