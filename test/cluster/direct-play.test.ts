// Direct play of a large file while the server that sends it dies: the player sees one answer that goes on,
// and every byte of it is right.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { doorSees } from "../support/household.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { BIG_BYTES, BIG_NAME, type Media, makeMedia } from "../support/media.ts";
import { rangeReader } from "../support/players.ts";
import { Viewer } from "../support/viewer.ts";

const MIB = 1024 * 1024;

let media: Media;
let pair: Awaited<ReturnType<typeof startPair>>;
let door: DoorProcess;
let viewer: Viewer;
let url: string;

beforeAll(async () => {
  media = await makeMedia({ big: true });
  pair = await startPair({ mediaDir: media.folder });
  door = await startDoor({ replicas: [pair.a, pair.b], apiKey: pair.a.apiKey });
  viewer = await Viewer.enter(door.url);
  await viewer.knownAt([pair.a, pair.b]);
  url = viewer.directPlay(await viewer.item(BIG_NAME));
});

afterAll(async () => {
  await door.stop();
  await pair.stop();
});

/** Kills the server that now sends the file. */
async function killSender(): Promise<StandIn> {
  const sender = await senderNow();
  await sender.kill9();
  return sender;
}

/** Starts a killed server again, a moment after the other one has taken over, and waits until the door sees both. */
async function comesBack(server: StandIn): Promise<void> {
  await sleep(200);
  await server.restart();
  await server.ready();
  await doorSees(door, 2);
}

/** The server that was asked for the file last. It need not be the viewer's home: a play goes on where it is. */
async function senderNow(): Promise<StandIn> {
  const asked = await Promise.all(
    [pair.a, pair.b].map(async (server) => ({
      server,
      at: (await server.requests({ path: "/stream" })).at(-1)?.at ?? 0,
    })),
  );
  const last = asked.toSorted((one, other) => other.at - one.at)[0];
  if (last === undefined) throw new Error("there are two servers");
  return last.server;
}

test("200 MB through 3 kills of the sender arrive as one answer, every byte right", async () => {
  const expected = sha256Of(media.big, 0);
  const marks = [30, 80, 130].map((mib) => mib * MIB);
  let kills = 0;
  let back = Promise.resolve();
  const read = await rangeReader(url, {
    attemptsMax: 0,
    async onBytes(bytes) {
      if (kills >= marks.length || bytes <= (marks[kills] ?? 0)) return;
      kills += 1;
      // However long a machine takes to start it: whoever was killed last is back before the next one dies.
      await back;
      const sender = await killSender();
      back = comesBack(sender);
    },
  });
  await back;
  expect(kills).toBe(3);
  expect(read.errors).toEqual([]);
  expect([read.responses, read.statuses]).toEqual([1, [200]]);
  expect(read.bytes).toBe(BIG_BYTES);
  expect(read.sha256).toBe(await expected);
  expect(await continuations()).toBeGreaterThanOrEqual(3);
});

test("a range goes on from where it broke, and ends where it was to end", async () => {
  const [from, to] = [10 * MIB + 17, 90 * MIB + 3];
  const expected = sha256Of(media.big, from, to);
  const reply = await fetch(url, { headers: { range: `bytes=${from}-${to}` } });
  expect(reply.status).toBe(206);
  expect(reply.headers.get("content-range")).toBe(`bytes ${from}-${to}/${BIG_BYTES}`);
  const hash = createHash("sha256");
  let bytes = 0;
  let kill: Promise<void> | undefined;
  for await (const part of reply.body as AsyncIterable<Uint8Array>) {
    hash.update(part);
    bytes += part.length;
    if (bytes > 30 * MIB) kill ??= killSender().then(comesBack);
    if (kill !== undefined && bytes < 60 * MIB) await sleep(1);
  }
  await kill;
  expect(bytes).toBe(to - from + 1);
  expect(hash.digest("hex")).toBe(await expected);
});

test("a file goes on within 5 s when its sender freezes in the middle of it", async () => {
  const [from, to] = [5 * MIB, 60 * MIB];
  const expected = sha256Of(media.big, from, to);
  const reply = await fetch(url, { headers: { range: `bytes=${from}-${to}` } });
  const hash = createHash("sha256");
  let bytes = 0;
  let frozen: StandIn | undefined;
  let longestMs = 0;
  let lastMs = performance.now();
  for await (const part of reply.body as AsyncIterable<Uint8Array>) {
    longestMs = Math.max(longestMs, performance.now() - lastMs);
    hash.update(part);
    bytes += part.length;
    if (bytes > 10 * MIB && frozen === undefined) {
      frozen = await senderNow();
      frozen.freeze();
    }
    lastMs = performance.now();
  }
  frozen?.thaw();
  expect(bytes).toBe(to - from + 1);
  expect(hash.digest("hex")).toBe(await expected);
  expect(longestMs).toBeGreaterThan(500);
  expect(longestMs).toBeLessThan(5000);
  await doorSees(door, 2);
});

test("a paused player reads on after the server it was reading from is gone, and nobody reads ahead for it", async () => {
  const expected = sha256Of(media.big, 0);
  const before = await continuations();
  const reply = await fetch(url);
  const hash = createHash("sha256");
  let bytes = 0;
  let wasPaused = false;
  for await (const part of reply.body as AsyncIterable<Uint8Array>) {
    hash.update(part);
    bytes += part.length;
    if (bytes > 20 * MIB && !wasPaused) {
      wasPaused = true;
      const sender = await senderNow();
      await sender.kill9();
      // Longer than a request for media is held: a paused player is no request that waits.
      await sleep(9000);
      const memory = await memoryMib();
      expect(memory).toBeLessThan(250);
      await sender.restart();
      await sender.ready();
    }
  }
  expect(bytes).toBe(BIG_BYTES);
  expect(hash.digest("hex")).toBe(await expected);
  expect(await continuations()).toBeGreaterThan(before);
});

async function continuations(): Promise<number> {
  const text = await (await fetch(`${door.admin}/metrics`)).text();
  const found = /^jellybloom_continuations_total\{[^}]*continued[^}]*\} (\d+)$/m.exec(text);
  return Number(found?.[1] ?? 0);
}

async function memoryMib(): Promise<number> {
  const text = await (await fetch(`${door.admin}/metrics`)).text();
  const found = /^process_resident_memory_bytes (\d+)$/m.exec(text);
  if (found === null) throw new Error("the metrics do not tell the memory");
  return Number(found[1]) / MIB;
}

async function sha256Of(path: string, start: number, end?: number): Promise<string> {
  const hash = createHash("sha256");
  const file = createReadStream(path, { start, ...(end !== undefined && { end }) });
  for await (const part of file) hash.update(part as Buffer);
  return hash.digest("hex");
}
