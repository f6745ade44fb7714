// Clients that go away in the middle of an answer, and clients that read slowly: the server behind the door
// is freed at once or made to wait, and the door keeps neither sockets nor the file in its memory. The
// server is one of the test's own, since only it can tell when the door let go of a connection.

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { createServer, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { until } from "../support/viewer.ts";

/** The promise: from the client's leaving to the replica's being free. */
const FREED_WITHIN_MS = 100;
const FILE_BYTES = 200 * 1024 * 1024;
const BLOCK = Buffer.alloc(256 * 1024, 7);

/** A server with one endless-looking file, which knows what of it is being read. */
class Replica {
  readonly name = "a";
  readonly reading = new Set<ServerResponse>();
  writtenBytes = 0;
  lastFreedMs = 0;
  readonly #server: Server;

  constructor() {
    this.#server = createServer((request, response) => {
      const { pathname } = new URL(request.url ?? "/", "http://replica");
      if (pathname === "/health") response.end("Healthy");
      else if (pathname === "/System/Info/Public") {
        response.setHeader("content-type", "application/json");
        response.end(JSON.stringify({ Id: "1", Version: "12.0.0", StartupWizardCompleted: true }));
      } else this.#serve(pathname, response);
    });
  }

  /** What is asked for decides how it is answered: not at all, the head and a part, or all of it. */
  #serve(pathname: string, response: ServerResponse): void {
    this.reading.add(response);
    response.once("close", () => {
      this.reading.delete(response);
      this.lastFreedMs = performance.now();
    });
    if (pathname.startsWith("/Items")) return;
    const isSegment = pathname.includes("/hls1/");
    response.writeHead(200, {
      "content-type": "video/mp4",
      "content-length": isSegment ? 4_000_000 : FILE_BYTES,
      "accept-ranges": "bytes",
      "last-modified": "Fri, 02 Jan 2026 03:04:05 GMT",
    });
    if (isSegment) {
      // Half of it, and then nothing: the client will leave while the door still waits.
      response.write(Buffer.alloc(2_000_000));
      return;
    }
    let leftBytes = FILE_BYTES;
    const write = (): void => {
      while (leftBytes > 0 && !response.destroyed) {
        leftBytes -= BLOCK.length;
        this.writtenBytes += BLOCK.length;
        if (!response.write(BLOCK)) {
          response.once("drain", write);
          return;
        }
      }
      response.end();
    };
    write();
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return this;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  stop(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

let replica: Replica;
let door: DoorProcess;

beforeAll(async () => {
  replica = await new Replica().start();
  door = await startDoor({ command: "proxy", replicas: [replica] });
});

afterAll(async () => {
  await door.stop();
  replica.stop();
});

/** Asks by hand, so that nothing but the test decides what is read and when the connection ends. */
function ask(path: string, method = "GET"): Promise<Socket> {
  const { hostname, port, host } = new URL(door.url);
  const body = method === "GET" ? "" : "Content-Length: 2\r\nContent-Type: application/json\r\n";
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname);
    socket.once("error", reject);
    socket.once("connect", () => {
      const text = method === "GET" ? "" : "{}";
      socket.write(`${method} ${path} HTTP/1.1\r\nHost: ${host}\r\n${body}\r\n${text}`);
      resolve(socket);
    });
  });
}

function residentBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
}

function openSockets(pid: number): number {
  const folder = `/proc/${pid}/fd`;
  return readdirSync(folder).filter((name) => {
    try {
      return readlinkSync(`${folder}/${name}`).startsWith("socket:");
    } catch {
      // Closed between the listing and the look.
      return false;
    }
  }).length;
}

const FILE = "/Videos/11111111111111111111111111111111/stream?static=true";
const SEGMENT = "/Videos/11111111111111111111111111111111/hls1/main/0.ts?playSessionId=p";
const SLOW = "/Items/11111111111111111111111111111111";

describe("a client that leaves", () => {
  test.each([
    ["in the middle of a file", "GET", FILE],
    ["while its segment is being fetched", "GET", SEGMENT],
    ["while its answer is waited for", "GET", SLOW],
    ["after it asked for a change", "POST", SLOW],
  ])("%s frees the replica within 100 ms", async (_when, method, path) => {
    const socket = await ask(path, method);
    if (path === FILE) await new Promise((resolve) => socket.once("data", resolve));
    await until(3000, "the replica's being asked", () => replica.reading.size === 1);
    const leftMs = performance.now();
    socket.destroy();
    await until(2000, "a free replica", () => replica.reading.size === 0);
    expect(replica.lastFreedMs - leftMs).toBeLessThan(FREED_WITHIN_MS);
  });

  test("a hundred times over leaves no socket behind", async () => {
    const before = openSockets(door.pid);
    for (let round = 0; round < 5; round += 1) {
      const sockets = await Promise.all(
        Array.from({ length: 20 }, (_, index) => ask([FILE, SEGMENT, SLOW][index % 3] ?? FILE)),
      );
      await until(5000, "twenty readers", () => replica.reading.size === 20);
      for (const socket of sockets) socket.destroy();
      await until(2000, "a free replica", () => replica.reading.size === 0);
    }
    // Connections of the door's own to the replica may come and go; none for each who left.
    await until(3000, "closed sockets", () => openSockets(door.pid) <= before + 2);
    expect((await fetch(`${door.admin}/jellybloom/ready`)).status).toBe(200);
  });
});

describe("a client that reads nothing", () => {
  test("of a 200 MB file makes the replica wait, and the door keeps none of it", async () => {
    const socket = await ask(FILE);
    await new Promise((resolve) => socket.once("data", resolve));
    socket.pause();
    await new Promise((resolve) => setTimeout(resolve, 300));
    const bytesBefore = residentBytes(door.pid);
    const writtenBefore = replica.writtenBytes;
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect(replica.writtenBytes - writtenBefore).toBeLessThan(1024 * 1024);
    expect(residentBytes(door.pid) - bytesBefore).toBeLessThan(20 * 1024 * 1024);
    socket.resume();
    let readBytes = 0;
    socket.on("data", (part) => {
      readBytes += part.length;
    });
    await until(10_000, "the rest of the file", () => readBytes > FILE_BYTES * 0.9);
    expect(residentBytes(door.pid) - bytesBefore).toBeLessThan(60 * 1024 * 1024);
    socket.destroy();
    await until(2000, "a free replica", () => replica.reading.size === 0);
  });
});
