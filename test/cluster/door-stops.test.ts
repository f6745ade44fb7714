// How a door ends: it says at once that it takes nothing new, lets what runs finish within its limit, and
// leaves with 0; who asks twice does not wait.

import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type DoorOptions, type DoorProcess, startDoor } from "../support/door.ts";
import { type StandIn, startStandIn } from "../support/jellyfin/start.ts";
import { BIG_BYTES, BIG_NAME, makeMedia } from "../support/media.ts";
import { rangeReader } from "../support/players.ts";
import { until, Viewer } from "../support/viewer.ts";

let server: StandIn;
const doors: DoorProcess[] = [];

beforeAll(async () => {
  const media = await makeMedia({ big: true });
  server = await startStandIn({ name: "a", mediaDir: media.folder });
});

afterEach(async () => {
  for (const door of doors.splice(0)) await door.stop();
});

afterAll(() => server.stop());

async function openDoor(args: DoorOptions["args"] = []): Promise<DoorProcess> {
  const door = await startDoor({ command: "proxy", replicas: [server], args });
  doors.push(door);
  return door;
}

/** Begins a download that takes about `seconds`; resolves when it is well under way. */
async function begin(door: DoorProcess, seconds: number, signal?: AbortSignal) {
  let reading: ReturnType<typeof rangeReader> | undefined;
  const viewer = await Viewer.enter(door.url);
  const address = viewer.directPlay(await viewer.item(BIG_NAME));
  await new Promise<void>((resolve) => {
    reading = rangeReader(address, {
      bytesPerSecond: BIG_BYTES / seconds,
      attemptsMax: 0,
      ...(signal !== undefined && { signal }),
      onBytes(bytes) {
        if (bytes > BIG_BYTES / 100) resolve();
      },
    });
    // Looked at by those tests that wait for its end.
    reading.catch(() => undefined);
  });
  return { end: () => reading };
}

describe("a door that gets SIGTERM", () => {
  test("is unready at once, finishes a download, and exits with 0", async () => {
    const door = await openDoor();
    const { end } = await begin(door, 4);
    const gone = door.terminate();
    await until(300, "unready", async () => {
      const { status } = await fetch(`${door.admin}/jellybloom/ready`);
      return status === 503;
    });
    expect(await (await fetch(`${door.admin}/jellybloom/ready`)).text()).toContain("stopping");
    // Nothing new comes in while the old goes on.
    await expect(
      fetch(`${door.url}/System/Info/Public`, { headers: { connection: "close" } }),
    ).rejects.toThrow();
    const read = await end();
    expect([read?.bytes, read?.responses, read?.errors]).toEqual([BIG_BYTES, 1, []]);
    expect(await gone).toBe(0);
  });

  test("cuts what still runs at the drain limit, and exits with 0", async () => {
    const door = await openDoor(["--drain-limit", "1s"]);
    const { end } = await begin(door, 60);
    const askedMs = performance.now();
    const code = await door.terminate();
    const tookMs = performance.now() - askedMs;
    expect(code).toBe(0);
    expect(tookMs).toBeGreaterThan(900);
    expect(tookMs).toBeLessThan(3500);
    expect((await end())?.bytes).toBeLessThan(BIG_BYTES);
  });

  test("twice exits at once", async () => {
    const door = await openDoor();
    await begin(door, 60, AbortSignal.timeout(20_000));
    const gone = door.terminate();
    // Signals that come together count as one.
    await new Promise((resolve) => setTimeout(resolve, 500));
    const askedMs = performance.now();
    process.kill(door.pid, "SIGTERM");
    expect(await gone).toBe(1);
    expect(performance.now() - askedMs).toBeLessThan(500);
  });

  test("with nothing to finish is gone within a second, idle connections and sockets or not", async () => {
    const door = await openDoor();
    const viewer = await Viewer.enter(door.url);
    const socket = await viewer.socket();
    const askedMs = performance.now();
    expect(await door.terminate()).toBe(0);
    expect(performance.now() - askedMs).toBeLessThan(1000);
    await until(1000, "a close", () => socket.closeCode !== undefined);
  });
});
