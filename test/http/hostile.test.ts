// What strangers throw at a public port: 10,000 requests made to be misread, from a seed so that every run
// is the same, in front of a server that reads more strictly than any real one. Each must get a clear 4xx or
// a clean end; none may crash or hold the door, reach the server in a framing that is not the client's own,
// or leave a socket or memory behind. The limits that bound slow and large ones have tests of their own.

import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { hostileCase } from "../support/hostile.ts";
import { headerOf, type Recorder, sendRaw, startRecorder } from "../support/raw-http.ts";

const seed = 20_260_921;
const casesCount = 10_000;
const parallel = 48;
/** Smallest that the options allow. */
const timeLimitMs = 1000;
/** The limits are looked at four times within themselves; the rest is a busy machine. */
const hangLimitMs = 4000;

let server: Recorder;
let door: DoorProcess;
let port: number;

beforeAll(async () => {
  server = await startRecorder();
  door = await startDoor({
    replicas: [{ name: "a", url: server.url }],
    args: [
      ...["--headers-time-limit", "1s", "--request-time-limit", "1s", "--keep-alive-limit", "2s"],
      ...["--replica-idle-limit", "1s"],
      ...["--body-limit", "256KiB", "--body-buffer-limit", "64KiB", "--header-limit", "16KiB"],
    ],
  });
  port = Number(new URL(door.url).port);
});

afterAll(async () => {
  await door?.stop();
  await server?.stop();
});

function openFiles(): number {
  return readdirSync(`/proc/${door.pid}/fd`).length;
}

function residentMebibytes(): number {
  const status = readFileSync(`/proc/${door.pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024;
}

async function throwCases(from: number, to: number): Promise<string[]> {
  const complaints: string[] = [];
  let next = from;
  const thrower = async (): Promise<void> => {
    while (next < to) {
      const number = next++;
      const hostile = hostileCase(seed, number);
      const { replies, closed, bytes } = await sendRaw(port, hostile.pieces, {
        pauseMs: hostile.pauseMs ?? 0,
        limitMs: hangLimitMs,
        ...(hostile.isSlow !== true && { endAfterQuietMs: 40 }),
      });
      const complain = (what: string): void => {
        const sent = hostile.pieces.map((piece) => piece.toString("latin1")).join("|");
        complaints.push(
          `${number} ${hostile.kind}: ${what}; sent ${JSON.stringify(sent.slice(0, 300))},` +
            ` got ${JSON.stringify(bytes.toString("latin1").slice(0, 300))}`,
        );
      };
      if (!closed) complain("the connection was not closed");
      if (bytes.length > 0 && replies.length === 0) complain("what came back is no reply");
      for (const { status, whole } of replies) {
        if (!(status < 500)) complain(`a reply says ${status}`);
        if (!whole) complain("a reply is not whole");
      }
      const wanted = hostile.replies;
      if (wanted !== undefined) {
        const got = replies.map(({ status }) => status);
        const fits = got.length <= wanted.length && got.every((status, at) => wanted[at]?.(status));
        if (!fits) complain(`the replies are ${got.join(", ")}`);
      }
    }
  };
  await Promise.all(Array.from({ length: parallel }, thrower));
  return complaints;
}

async function calmDown(): Promise<void> {
  // Past every time limit, so that what is still open is a leak.
  await sleep(2 * timeLimitMs + 500);
}

describe("ten thousand hostile requests", () => {
  test("each gets a 4xx or a clean end, nothing is smuggled, nothing is left behind", async () => {
    // The first half also warms up: buffers, pools and the heap grow to what such traffic needs.
    expect((await throwCases(0, casesCount / 2)).slice(0, 20)).toEqual([]);
    await calmDown();
    const filesBefore = openFiles();
    const memoryBefore = residentMebibytes();
    const { pid } = door;
    expect((await throwCases(casesCount / 2, casesCount)).slice(0, 20)).toEqual([]);
    await calmDown();
    expect(door.pid).toBe(pid);
    expect(server.violations).toEqual([]);
    const strangers = server.clients.filter(
      ({ target }) => !/^\/(?:good\/|maybe\/|socket\?)/.test(target),
    );
    expect(strangers.map(({ method, target }) => `${method} ${target}`)).toEqual([]);
    expect(server.clients.length).toBeGreaterThan(100);
    expect(openFiles()).toBeLessThanOrEqual(filesBefore + 16);
    expect(residentMebibytes()).toBeLessThan(memoryBefore + 128);
    const reply = await fetch(`${door.url}/good/afterwards`);
    expect([reply.status, await reply.text()]).toEqual([200, expect.stringContaining("Seen")]);
    expect(door.log()).not.toContain("a mistake of ours");
  }, 120_000);
});

describe("a bad request behind a good one", () => {
  const good = (number: number): string =>
    `GET /good/owed/${number} HTTP/1.1\r\nHost: door\r\n\r\n`;

  test.each([
    ["garbage", "GARBAGE\r\n\r\n"],
    [
      "two lengths",
      "POST /never HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    ],
    ["no Host", "GET /never HTTP/1.1\r\n\r\n"],
    ["two Hosts", "GET /never HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"],
  ])(
    "%s: the good ones get their answers first, and nothing behind it is heard",
    async (_, bad) => {
      server.delayMs = 150;
      const before = server.clients.length;
      try {
        const { replies, closed } = await sendRaw(port, [good(1) + good(2) + bad + good(3)]);
        expect(replies.map(({ status }) => status)).toEqual([200, 200, 400]);
        expect(closed).toBe(true);
        const heard = server.clients.slice(before).map(({ target }) => target);
        expect(heard.sort()).toEqual(["/good/owed/1", "/good/owed/2"]);
      } finally {
        server.delayMs = 0;
      }
    },
  );

  test("what follows «Connection: close» does not take its answer's place", async () => {
    server.delayMs = 150;
    try {
      const last = `GET /good/owed/1 HTTP/1.1\r\nHost: door\r\nConnection: close\r\n\r\n`;
      const { replies, closed } = await sendRaw(port, [`${last}\r\n${good(2)}`]);
      expect([replies.map(({ status }) => status), closed]).toEqual([[200], true]);
    } finally {
      server.delayMs = 0;
    }
  });
});

describe("limits", () => {
  const start = "Host: door\r\n";

  test("a head that is too large is refused with 431, in bytes and in number", async () => {
    const large = `GET /never HTTP/1.1\r\n${start}X-Large: ${"a".repeat(20_000)}\r\n\r\n`;
    const many = `GET /never HTTP/1.1\r\n${start}${"a: b\r\n".repeat(700)}\r\n`;
    for (const head of [large, many]) {
      const { replies, closed } = await sendRaw(port, [head]);
      expect([replies.map(({ status }) => status), closed]).toEqual([[431], true]);
    }
  });

  test("a body that says it is too large is refused with 413 before it is read", async () => {
    const head = `POST /never HTTP/1.1\r\n${start}Content-Length: 300000\r\n\r\n`;
    const { replies } = await sendRaw(port, [head], { replies: 1 });
    expect(replies.map(({ status }) => status)).toEqual([413]);
  });

  test("a client that sends all of it all the same still reads its 413", async () => {
    for (let tries = 0; tries < 5; tries++) {
      const body = Buffer.alloc(4 * 1024 * 1024);
      const reply = await fetch(`${door.url}/never`, { method: "POST", body });
      expect(reply.status).toBe(413);
      await reply.text();
    }
  });

  test("one that asks first is refused with 413 and never told to go on", async () => {
    const head = `POST /never HTTP/1.1\r\n${start}Content-Length: 300000\r\nExpect: 100-continue\r\n\r\n`;
    const { replies, closed } = await sendRaw(port, [head]);
    expect([replies.map(({ status }) => status), closed]).toEqual([[413], true]);
  });

  test("an expectation that nobody knows is refused with 417", async () => {
    const head = `POST /never HTTP/1.1\r\n${start}Content-Length: 5\r\nExpect: cake\r\n\r\n`;
    const { replies, closed } = await sendRaw(port, [head]);
    expect([replies.map(({ status }) => status), closed]).toEqual([[417], true]);
  });

  test("a chunked body is refused with 413 once it is too large, and the server is not left with it", async () => {
    const chunk = `4000\r\n${"b".repeat(0x4000)}\r\n`;
    const head = `POST /never HTTP/1.1\r\n${start}Transfer-Encoding: chunked\r\n\r\n`;
    const { replies } = await sendRaw(port, [head, ...Array<string>(20).fill(chunk), "0\r\n\r\n"], {
      replies: 1,
    });
    expect(replies.map(({ status }) => status)).toEqual([413]);
    expect(server.clients.filter(({ target }) => target === "/never")).toEqual([]);
  });

  test("a head that does not come in time is refused with 408", async () => {
    const { replies, closed, elapsedMs } = await sendRaw(port, ["GET /never HTTP/1.1\r\nHost:"], {
      limitMs: hangLimitMs,
    });
    expect([replies.map(({ status }) => status), closed]).toEqual([[408], true]);
    expect(elapsedMs).toBeGreaterThan(timeLimitMs * 0.9);
  });

  test("a body that does not come in time is refused with 408", async () => {
    const head = `POST /never HTTP/1.1\r\n${start}Content-Length: 10\r\n\r\nfive!`;
    const { replies, closed } = await sendRaw(port, [head], { limitMs: hangLimitMs });
    expect([replies.map(({ status }) => status), closed]).toEqual([[408], true]);
  });

  test("a connection that says nothing is closed", async () => {
    const { closed } = await sendRaw(port, [], { limitMs: hangLimitMs });
    expect(closed).toBe(true);
  });

  test("an idle connection is closed after its keep-alive limit", async () => {
    const { replies, closed } = await sendRaw(port, [`GET /good/idle HTTP/1.1\r\n${start}\r\n`], {
      limitMs: 6000,
    });
    expect([replies.map(({ status }) => status), closed]).toEqual([[200], true]);
    expect(headerOf(replies[0], "connection")).not.toBe("close");
  });
});

describe("limits of a door of their own", () => {
  test("connections beyond the limit are closed, and those below it go on", async () => {
    const small = await startDoor({
      replicas: [{ name: "a", url: server.url }],
      args: ["--connections-limit", "3"],
    });
    const smallPort = Number(new URL(small.url).port);
    try {
      const slow = `GET /good/limit HTTP/1.1\r\nHost: door\r\n\r\n`;
      const held = Array.from({ length: 3 }, () => sendRaw(smallPort, [slow], { limitMs: 1500 }));
      await sleep(300);
      const beyond = await sendRaw(smallPort, [slow], { limitMs: 1000 });
      expect([beyond.closed, beyond.replies]).toEqual([true, []]);
      for (const { replies } of await Promise.all(held)) expect(replies[0]?.status).toBe(200);
      // Until the door has seen that they left.
      await sleep(300);
      expect((await fetch(`${small.url}/good/limit`)).status).toBe(200);
    } finally {
      await small.stop();
    }
  });

  test("a client that reads nothing is cut after the stall limit, and the server is freed", async () => {
    const film = Buffer.alloc(32 * 1024 * 1024, 7);
    server.answer = ({ target }) =>
      target === "/good/film"
        ? Buffer.concat([
            Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: ${film.length}\r\n\r\n`),
            film,
          ])
        : undefined;
    const impatient = await startDoor({
      replicas: [{ name: "a", url: server.url }],
      args: ["--client-stall-limit", "1s"],
    });
    try {
      const { connect } = await import("node:net");
      const socket = connect(Number(new URL(impatient.url).port), "127.0.0.1");
      socket.on("error", () => undefined);
      const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
      socket.write("GET /good/film HTTP/1.1\r\nHost: door\r\n\r\n");
      socket.pause();
      await sleep(3500);
      socket.resume();
      let bytes = 0;
      socket.on("data", (chunk: Buffer) => {
        bytes += chunk.length;
      });
      await closed;
      expect(bytes).toBeLessThan(film.length);
    } finally {
      server.answer = () => undefined;
      await impatient.stop();
    }
  }, 15_000);
});
