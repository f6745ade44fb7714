// The bench's clients, as a process of their own, so that their work is not on the books of the bench
// or of a proxy. One run does one kind of load, bounded by what it is told, and prints one JSON line.
//
// Usage: node load.ts KIND JSON, where KIND is a key of `kinds` below.

import { setTimeout as sleep } from "node:timers/promises";
import { WebSocket } from "ws";
import { Reader } from "./reader.ts";
import { moviePath, segmentPath, socketPath } from "./routes.ts";

export interface StreamLoad {
  readonly port: number;
  readonly token: string;
  readonly connections: number;
  /** Read in all, by all connections together. */
  readonly totalBytes: number;
  readonly movieBytes: number;
}

export interface SegmentLoad {
  readonly port: number;
  readonly token: string;
  readonly viewers: number;
  readonly segmentsPerViewer: number;
  readonly segmentBytes: number;
  /** Of each viewer; 0 for as fast as they come. */
  readonly bitsPerSecond: number;
}

export interface PacedLoad {
  readonly port: number;
  readonly path: string;
  readonly headers: string;
  readonly connections: number;
  /** Of all connections together. */
  readonly requestsPerSecond: number;
  readonly durationSeconds: number;
}

export interface LeaverLoad {
  readonly port: number;
  readonly token: string;
  readonly count: number;
  readonly concurrency: number;
}

export interface SocketLoad {
  readonly port: number;
  readonly logins: readonly { readonly deviceId: string; readonly token: string }[];
  readonly count: number;
  readonly concurrency: number;
}

export interface StreamResult {
  readonly bytes: number;
  readonly seconds: number;
}

export interface PacedResult {
  readonly requests: number;
  /** Latencies in ms, sorted. */
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const readBufferBytes = 1 << 20;

const kinds: Readonly<Record<string, (load: never) => Promise<unknown>>> = {
  stream,
  segments,
  paced,
  leavers,
  sockets,
};

const [kind = "", json = "{}"] = process.argv.slice(2);
const run = kinds[kind];
if (run === undefined) throw new Error(`no load is called ${kind}`);
const result = await run(JSON.parse(json) as never);
process.stdout.write(`${JSON.stringify(result)}\n`);
process.exit(0);

/** Direct play: one connection reads the whole file again and again; several read their share of it. */
async function stream(load: StreamLoad): Promise<StreamResult> {
  const startedMs = performance.now();
  const share = Math.floor(load.totalBytes / load.connections);
  const counts = await Promise.all(
    Array.from({ length: load.connections }, async () => {
      const reader = new Reader(load.port, readBufferBytes);
      let bytes = 0;
      while (bytes < share) {
        const last = Math.min(load.movieBytes, share - bytes) - 1;
        const read = await reader.get(moviePath(load.token), `Range: bytes=0-${last}\r\n`);
        expect(read.status, 206);
        bytes += read.bytes;
      }
      reader.leave();
      return bytes;
    }),
  );
  const bytes = counts.reduce((sum, count) => sum + count, 0);
  return { bytes, seconds: (performance.now() - startedMs) / 1_000 };
}

/** HLS: each viewer fetches one segment after the other; paced viewers begin one after the other. */
async function segments(load: SegmentLoad): Promise<StreamResult> {
  const startedMs = performance.now();
  let bytes = 0;
  await Promise.all(
    Array.from({ length: load.viewers }, async (_, viewer) => {
      if (load.bitsPerSecond > 0) await sleep(viewer * 500);
      const reader = new Reader(load.port, readBufferBytes, load.bitsPerSecond);
      for (let segment = 0; segment < load.segmentsPerViewer; segment += 1) {
        const read = await reader.get(segmentPath(viewer, segment, load.token), "");
        expect(read.status, 200);
        expect(read.bytes, load.segmentBytes);
        bytes += read.bytes;
      }
      reader.leave();
    }),
  );
  return { bytes, seconds: (performance.now() - startedMs) / 1_000 };
}

/**
 * Small requests at a fixed rate. A latency counts from when its request was due, so that a proxy which
 * stalls is not flattered by the requests that it kept from being sent.
 */
async function paced(load: PacedLoad): Promise<PacedResult> {
  const latencies: number[] = [];
  const intervalMs = (1_000 * load.connections) / load.requestsPerSecond;
  await Promise.all(
    Array.from({ length: load.connections }, async (_, index) => {
      const reader = new Reader(load.port, 64 << 10);
      const first = await reader.get(load.path, load.headers);
      expect(first.status, 200);
      if (first.bytes === 0) throw new Error("an empty answer came");
      const firstMs = performance.now() + (index * intervalMs) / load.connections;
      const count = Math.floor((load.durationSeconds * 1_000) / intervalMs);
      for (let n = 0; n < count; n += 1) {
        const waitMs = firstMs + n * intervalMs - performance.now();
        if (waitMs > 0) await sleep(waitMs);
        // A late timer is this client's fault and not the proxy's; being busy is the proxy's.
        const lateMs = waitMs > 0 ? 0 : -waitMs;
        const read = await reader.get(load.path, load.headers);
        expect(read.status, 200);
        expect(read.bytes, first.bytes);
        latencies.push(lateMs + read.durationMs);
      }
      reader.leave();
    }),
  );
  latencies.sort((one, other) => one - other);
  const at = (share: number) => latencies[Math.floor(latencies.length * share)] ?? 0;
  return { requests: latencies.length, p50Ms: at(0.5), p99Ms: at(0.99) };
}

/** Clients that leave in mid-body: every other one in a direct play, the rest in a segment. */
async function leavers(load: LeaverLoad): Promise<{ left: number }> {
  let next = 0;
  let left = 0;
  const worker = async () => {
    while (next < load.count) {
      const index = next;
      next += 1;
      await new Promise<void>((resolve) => {
        const reader = new Reader(load.port, 64 << 10, 0, (bytes) => {
          if (bytes < 300_000) return;
          reader.leave();
          left += 1;
          resolve();
        });
        const path =
          index % 2 === 0 ? moviePath(load.token) : segmentPath(index % 5, index, load.token);
        // Leaving never settles this promise; only an answer that ends or fails first does.
        reader.get(path, "").then(
          () => resolve(),
          () => resolve(),
        );
      });
    }
  };
  await Promise.all(Array.from({ length: load.concurrency }, worker));
  return { left };
}

/**
 * Opens idle sockets, says how many are open in one line, answers keep-alives as Jellyfin's clients do,
 * and stays until it is told to end.
 */
async function sockets(load: SocketLoad): Promise<unknown> {
  const open = new Set<WebSocket>();
  let next = 0;
  let failure = "";
  const worker = async () => {
    while (next < load.count) {
      const login = load.logins[next % load.logins.length];
      if (login === undefined) return;
      next += 1;
      const socket = new WebSocket(
        `ws://127.0.0.1:${load.port}${socketPath(login.deviceId, login.token)}`,
        { perMessageDeflate: false, handshakeTimeout: 20_000 },
      );
      await new Promise<void>((resolve) => {
        socket.once("open", () => {
          open.add(socket);
          resolve();
        });
        socket.once("error", (error) => {
          failure ||= error.message;
          resolve();
        });
      });
      socket.on("close", () => open.delete(socket));
      socket.on("error", () => open.delete(socket));
    }
  };
  await Promise.all(Array.from({ length: load.concurrency }, worker));
  // Listened for before the line is written, because whoever reads it may ask at once.
  const asked = new Promise<void>((resolve) => process.once("SIGTERM", () => resolve()));
  process.stdout.write(`${JSON.stringify({ open: open.size, failure })}\n`);
  let turn = 0;
  setInterval(() => {
    // Every socket has its turn once in 30 s, a hundredth of them at a time.
    turn = (turn + 1) % 100;
    let index = 0;
    for (const socket of open) {
      if (index % 100 === turn) socket.send('{"MessageType":"KeepAlive"}');
      index += 1;
    }
  }, 300);
  await asked;
  const stillOpen = open.size;
  for (const socket of open) socket.terminate();
  return { stillOpen };
}

function expect(actual: number, wanted: number): void {
  if (actual !== wanted) throw new Error(`${actual} came where ${wanted} was expected`);
}
