// The wire towards replicas, held against raw servers on real sockets that answer in every honest framing,
// in every possible cut, and in every dishonest way we know of: each exchange ends exactly once, with the
// body whole or with what the replica may have seen, and a view that was handed out stays as it is while
// its reader pauses.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  createServer as createTlsServer,
  getCACertificates,
  setDefaultCACertificates,
} from "node:tls";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type BrokenPhase,
  type Exchange,
  parseHead,
  type ResponseHead,
  WirePool,
  type WirePoolOptions,
  type WireRequest,
  type WireSink,
} from "../../core/jellyfin/wire.ts";

// ---- A raw server and a sink that remembers -----------------------------------------------------------

const cleanups: (() => void | Promise<void>)[] = [];

afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

interface Served {
  readonly origin: string;
  /** Every connection so far, in order. */
  readonly connections: Socket[];
  /** What each connection has sent, as Latin-1. */
  readonly received: string[];
}

/** `answer` is called once for each whole request head. */
async function serve(
  answer: (socket: Socket, head: string, connection: number) => void,
  makeServer: (listener: (socket: Socket) => void) => Server = (listener) =>
    createServer({ noDelay: true, allowHalfOpen: true }, listener),
): Promise<Served> {
  const connections: Socket[] = [];
  const received: string[] = [];
  const server = makeServer((socket) => {
    const number = connections.push(socket) - 1;
    received.push("");
    let text = "";
    socket.on("error", () => {
      // The client leaves as it likes here.
    });
    socket.on("end", () => socket.end());
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      received[number] += chunk.toString("latin1");
      for (;;) {
        const end = text.indexOf("\r\n\r\n");
        if (end < 0) return;
        const head = text.slice(0, end);
        const length = Number(/^content-length: (\d+)$/im.exec(head)?.[1] ?? 0);
        if (text.length < end + 4 + length) return;
        text = text.slice(end + 4 + length);
        answer(socket, head, number);
      }
    });
  });
  // Those of a TLS handshake that never ended are known to nobody else.
  const accepted: Socket[] = [];
  server.on("connection", (socket) => accepted.push(socket));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  cleanups.push(async () => {
    for (const socket of [...connections, ...accepted]) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  const { port } = server.address() as AddressInfo;
  return { origin: `http://127.0.0.1:${port}`, connections, received };
}

function poolTo(origin: string, changes: Partial<WirePoolOptions> = {}): WirePool {
  const pool = new WirePool({
    origin,
    readBufferBytes: 64 * 1024,
    connectionsLimit: 100,
    waitingLimit: 100,
    connectLimitMs: 2000,
    idleLimitMs: 60_000,
    headLimitBytes: 16 * 1024,
    now: () => performance.now(),
    ...changes,
  });
  cleanups.push(() => pool.close());
  return pool;
}

const get: WireRequest = {
  head: "GET / HTTP/1.1\r\nHost: replica\r\n\r\n",
  body: undefined,
  isHead: false,
  fresh: false,
};
const head: WireRequest = { ...get, head: get.head.replace("GET", "HEAD"), isHead: true };
const fresh: WireRequest = { ...get, fresh: true };

type Ending =
  | { readonly kind: "end" }
  | { readonly kind: "broken"; readonly phase: BrokenPhase; readonly why: string };

/** What of a piece to keep back: answers whether to go on, and may resume the exchange later. */
type Reader = (piece: Buffer, resume: () => void) => boolean;

class Remembering implements WireSink {
  readonly heads: ResponseHead[] = [];
  readonly pieces: Buffer[] = [];
  readonly endings: Ending[] = [];
  /** Calls that came after the end, or bytes before the head. */
  readonly wrong: string[] = [];
  readonly over: Promise<Ending>;
  exchange: Exchange | undefined;
  readonly #reader: Reader | undefined;
  #isPaused = false;
  #tell: (ending: Ending) => void = () => undefined;
  #onPiece: (() => void) | undefined;

  constructor(reader?: Reader) {
    this.#reader = reader;
    this.over = new Promise((resolve) => {
      this.#tell = resolve;
    });
  }

  get body(): Buffer {
    return Buffer.concat(this.pieces);
  }

  /** Resolves at the next head or piece. */
  get progress(): Promise<void> {
    return new Promise((resolve) => {
      this.#onPiece = resolve;
    });
  }

  onHead(responseHead: ResponseHead): void {
    if (this.endings.length > 0) this.wrong.push("a head after the end");
    this.heads.push(responseHead);
    this.#onPiece?.();
  }

  onData(piece: Buffer): boolean {
    if (this.heads.length !== 1) this.wrong.push(`a piece after ${this.heads.length} heads`);
    if (this.endings.length > 0) this.wrong.push("a piece after the end");
    if (this.#isPaused) this.wrong.push("a piece while paused");
    if (piece.length === 0) this.wrong.push("an empty piece");
    if (this.#reader === undefined) {
      this.pieces.push(Buffer.from(piece));
      this.#onPiece?.();
      return true;
    }
    const goesOn = this.#reader(piece, () => {
      this.#isPaused = false;
      // The view is read only now: it must be as it was.
      this.pieces.push(Buffer.from(piece));
      this.exchange?.resume();
    });
    this.#isPaused = !goesOn;
    if (goesOn) this.pieces.push(Buffer.from(piece));
    this.#onPiece?.();
    return goesOn;
  }

  onEnd(): void {
    this.#end({ kind: "end" });
  }

  onBroken(phase: BrokenPhase, why: string): void {
    this.#end({ kind: "broken", phase, why });
  }

  #end(ending: Ending): void {
    if (this.#isPaused && ending.kind === "end") this.wrong.push("the end while paused");
    this.endings.push(ending);
    this.#tell(ending);
  }
}

/** Has what comes read into memory of its own, in places of a few bytes. */
class Keeping extends Remembering {
  readonly memory = Buffer.alloc(8 * 1024 * 1024);
  readonly placeBytes: number;
  filled = 0;
  /** Bytes that were read straight into the memory. */
  straight = 0;

  constructor(placeBytes: number) {
    super();
    this.placeBytes = placeBytes;
  }

  room(): Buffer {
    if (this.endings.length > 0) this.wrong.push("a question after the end");
    return this.memory.subarray(this.filled, this.filled + this.placeBytes);
  }

  override onData(piece: Buffer): boolean {
    if (piece.buffer !== this.memory.buffer) piece.copy(this.memory, this.filled);
    else if (piece.byteOffset !== this.memory.byteOffset + this.filled) this.wrong.push("a gap");
    else this.straight += piece.length;
    this.filled += piece.length;
    return super.onData(piece);
  }
}

/** `room`: its memory is read into. */
type How = Reader | "room" | undefined;

function send(pool: WirePool, request: WireRequest = get, how?: How): Remembering {
  const sink = how === "room" ? new Keeping(3) : new Remembering(how);
  sink.exchange = pool.send(request, sink);
  return sink;
}

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

async function until(condition: () => boolean, limitMs = 2000): Promise<void> {
  const startedMs = performance.now();
  while (!condition()) {
    if (performance.now() - startedMs > limitMs) throw new Error("it did not come to pass in time");
    await sleep(2);
  }
}

/** Resolves with the ms until the server has seen its connection closed. */
async function closedAfterMs(socket: Socket | undefined): Promise<number> {
  const startedMs = performance.now();
  if (socket === undefined) throw new Error("there was no connection");
  if (!socket.destroyed && !socket.readableEnded) {
    await new Promise<void>((resolve) => {
      socket.once("end", resolve);
      socket.once("close", () => resolve());
    });
  }
  return performance.now() - startedMs;
}

const latin1 = (text: string) => Buffer.from(text, "latin1");
const pauseEach: Reader = (_piece, resume) => {
  setImmediate(resume);
  return false;
};

// ---- Every honest framing, in every cut ---------------------------------------------------------------

interface Answer {
  readonly name: string;
  readonly bytes: string;
  readonly isHead?: boolean;
  /** The server ends the connection after the bytes. */
  readonly ends?: boolean;
  readonly status?: number;
  readonly headers?: readonly string[];
  readonly body: string;
  readonly hasBody?: boolean;
  readonly contentLength?: number;
  /** Whether the connection is used again. */
  readonly stays: boolean;
}

const answers: readonly Answer[] = [
  {
    name: "a length",
    bytes: "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\nhello world",
    headers: ["Content-Type", "text/plain"],
    body: "hello world",
    contentLength: 11,
    stays: true,
  },
  {
    name: "a length of nothing",
    bytes: "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    body: "",
    contentLength: 0,
    stays: true,
  },
  {
    name: "the same length twice",
    bytes: "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nContent-Length:2\r\n\r\nhi",
    body: "hi",
    contentLength: 2,
    stays: true,
  },
  {
    name: "chunks with extensions and trailers",
    bytes:
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5;a=b;c="d"\r\nhello\r\n6 ;x\r\n world\r\n' +
      "0;end\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n",
    body: "hello world",
    stays: true,
  },
  {
    name: "chunks that look like framing",
    bytes:
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n00a\r\n0\r\n\r\nHTTP/\r\n2\r\n\r\n\r\n0\r\n\r\n",
    body: "0\r\n\r\nHTTP/\r\n",
    stays: true,
  },
  {
    name: "no chunks but the last",
    bytes: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    body: "",
    stays: true,
  },
  {
    name: "all until the connection's end",
    bytes: "HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nhello\r\n\r\nworld",
    ends: true,
    headers: ["X-A", "1"],
    body: "hello\r\n\r\nworld",
    stays: false,
  },
  {
    name: "nothing until the connection's end",
    bytes: "HTTP/1.1 200 OK\r\n\r\n",
    ends: true,
    body: "",
    stays: false,
  },
  {
    name: "an old server's length",
    bytes: "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    ends: true,
    body: "hi",
    contentLength: 2,
    stays: false,
  },
  {
    name: "an old server's length on a connection that stays",
    bytes: "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi",
    body: "hi",
    contentLength: 2,
    stays: true,
  },
  {
    name: "a length on a connection that is closed",
    bytes: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Close\r\n\r\nhi",
    ends: true,
    body: "hi",
    contentLength: 2,
    stays: false,
  },
  {
    name: "chunks on a connection that is closed",
    bytes:
      "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ends: true,
    body: "hi",
    stays: false,
  },
  {
    name: "an answer to HEAD with a length",
    bytes: "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
    isHead: true,
    body: "",
    hasBody: false,
    contentLength: 1000,
    stays: true,
  },
  {
    name: "an answer to HEAD with chunks",
    bytes: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    isHead: true,
    body: "",
    hasBody: false,
    stays: true,
  },
  {
    name: "204",
    bytes: "HTTP/1.1 204 No Content\r\nServer: Kestrel\r\n\r\n",
    status: 204,
    headers: ["Server", "Kestrel"],
    body: "",
    hasBody: false,
    stays: true,
  },
  {
    name: "304 with the length of what it stands for",
    bytes: 'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 99\r\n\r\n',
    status: 304,
    headers: ["ETag", '"a"'],
    body: "",
    hasBody: false,
    contentLength: 99,
    stays: true,
  },
  {
    name: "interim answers before the answer",
    bytes:
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 206 Partial Content\r\n" +
      "Content-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nhi",
    status: 206,
    headers: ["Content-Range", "bytes 0-1/9"],
    body: "hi",
    contentLength: 2,
    stays: true,
  },
  {
    name: "a status line without words",
    bytes: "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi",
    body: "hi",
    contentLength: 2,
    stays: true,
  },
];

/** Each way to deliver the bytes; resolves when all are written. */
function delivered(answer: Answer, socket: Socket, pieces: readonly string[]): void {
  const [first, ...rest] = pieces;
  if (first === undefined) {
    if (answer.ends === true) socket.end();
    return;
  }
  socket.write(first, "latin1");
  if (rest.length === 0) delivered(answer, socket, rest);
  else setTimeout(() => delivered(answer, socket, rest), 1);
}

async function checkAnswer(
  answer: Answer,
  pool: WirePool,
  reader: How,
  how: string,
): Promise<void> {
  const sink = send(pool, answer.isHead === true ? head : get, reader);
  expect(await sink.over, how).toEqual({ kind: "end" });
  expect(sink.wrong, how).toEqual([]);
  expect(sink.heads, how).toHaveLength(1);
  expect(sink.heads[0], how).toMatchObject({
    status: answer.status ?? 200,
    headers: answer.headers ?? [],
    contentLength: answer.contentLength,
    hasBody: answer.hasBody ?? true,
  });
  expect(sink.body.toString("latin1"), how).toBe(answer.body);
  expect(sink.endings, how).toHaveLength(1);
}

describe.each(answers)("an answer told by $name", (answer) => {
  test("is read in one piece, byte by byte, and with read buffers of every small size", async () => {
    let pieces: readonly string[] = [answer.bytes];
    const served = await serve((socket) => delivered(answer, socket, pieces));
    for (const readBufferBytes of [64 * 1024, 1, 2, 3, 4, 5, 7, 11, 16]) {
      for (const reader of [undefined, pauseEach, "room" as const]) {
        const pool = poolTo(served.origin, { readBufferBytes });
        const how = `buffer of ${readBufferBytes}, ${reader === pauseEach ? "pausing" : reader}`;
        await checkAnswer(answer, pool, reader, how);
        expect(pool.size, how).toBe(answer.stays ? 1 : 0);
        if (answer.stays) {
          await checkAnswer(answer, pool, reader, `${how}, again`);
          expect(pool.size).toBe(1);
        }
        pool.close();
      }
    }
    pieces = [...answer.bytes];
    await checkAnswer(answer, poolTo(served.origin), undefined, "byte by byte");
  });

  test("is read when split at any position, by a reader that pauses and one that does not", async () => {
    let split = 1;
    const served = await serve((socket, requestHead) => {
      const at = Number(/^GET \/(\d+)|^HEAD \/(\d+)/.exec(requestHead)?.slice(1).find(Boolean));
      delivered(answer, socket, [answer.bytes.slice(0, at), answer.bytes.slice(at)]);
    });
    const pool = poolTo(served.origin);
    const one = async () => {
      while (split < answer.bytes.length) {
        const at = split++;
        for (const reader of [undefined, pauseEach, "room" as const]) {
          const base = answer.isHead === true ? head : get;
          const request = { ...base, head: base.head.replace(" / ", ` /${at} `) };
          const sink = send(pool, request, reader);
          expect(await sink.over, `split at ${at}`).toEqual({ kind: "end" });
          expect(sink.wrong, `split at ${at}`).toEqual([]);
          expect(sink.body.toString("latin1"), `split at ${at}`).toBe(answer.body);
        }
      }
    };
    await Promise.all(Array.from({ length: 16 }, one));
  });
});

// ---- Every dishonest one ------------------------------------------------------------------------------

interface Malformed {
  readonly name: string;
  readonly bytes: string;
  readonly phase: BrokenPhase;
  readonly why: RegExp;
  readonly body?: string;
  readonly isHead?: boolean;
}

const ok = "HTTP/1.1 200 OK\r\n";
const chunked = `${ok}Transfer-Encoding: chunked\r\n\r\n`;
const before = "beforeReply" as const;
const during = "duringReply" as const;

const malformed: readonly Malformed[] = [
  {
    name: "two different lengths",
    bytes: `${ok}Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!`,
    phase: before,
    why: /two different lengths/,
  },
  {
    name: "a list of lengths",
    bytes: `${ok}Content-Length: 2, 2\r\n\r\nhi`,
    phase: before,
    why: /Content-Length/,
  },
  ...["-1", "+2", "0x2", "2.0", "", "9999999999999999", "two", "1e1"].map(
    (length): Malformed => ({
      name: `a length of «${length}»`,
      bytes: `${ok}Content-Length: ${length}\r\n\r\nhi`,
      phase: before,
      why: /Content-Length/,
    }),
  ),
  {
    name: "a length and chunks",
    bytes: `${ok}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n`,
    phase: before,
    why: /length and chunks/,
  },
  ...["gzip, chunked", "identity", "chunked, chunked", "xchunked", ""].map(
    (coding): Malformed => ({
      name: `a Transfer-Encoding of «${coding}»`,
      bytes: `${ok}Transfer-Encoding: ${coding}\r\n\r\n2\r\nhi\r\n0\r\n\r\n`,
      phase: before,
      why: /Transfer-Encoding/,
    }),
  ),
  {
    name: "chunked said twice",
    bytes: `${ok}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    phase: before,
    why: /Transfer-Encoding/,
  },
  {
    name: "chunks from a server of HTTP/1.0",
    bytes: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    phase: before,
    why: /Transfer-Encoding/,
  },
  {
    name: "white space before a colon",
    bytes: `${ok}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n`,
    phase: before,
    why: /cannot be read/,
  },
  {
    name: "a folded line",
    bytes: `${ok}X-A: 1\r\n X-B: 2\r\nContent-Length: 0\r\n\r\n`,
    phase: before,
    why: /cannot be read/,
  },
  {
    name: "a line without a colon",
    bytes: `${ok}nonsense\r\n\r\n`,
    phase: before,
    why: /cannot be read/,
  },
  { name: "no name", bytes: `${ok}: v\r\n\r\n`, phase: before, why: /cannot be read/ },
  ...["\n", "\r", "\0", "\x01", "\x7f"].map(
    (character): Malformed => ({
      name: `the character ${character.charCodeAt(0)} in a header`,
      bytes: `${ok}X-A: 1${character}Set-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n`,
      phase: before,
      why: /control characters/,
    }),
  ),
  {
    name: "a control character in the status line",
    bytes: "HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n",
    phase: before,
    why: /control characters/,
  },
  ...["HTTP/2 200 OK", "HTTP/1.2 200 OK", "http/1.1 200 OK", "ICY 200 OK", "HTTP/1.1  200 OK"].map(
    (line): Malformed => ({
      name: `the status line «${line}»`,
      bytes: `${line}\r\nContent-Length: 0\r\n\r\n`,
      phase: before,
      why: /status/,
    }),
  ),
  ...["20", "2000", "2e2", "0x9", "099", "abc", "-20", ""].map(
    (status): Malformed => ({
      name: `the status «${status}»`,
      bytes: `HTTP/1.1 ${status} OK\r\nContent-Length: 0\r\n\r\n`,
      phase: before,
      why: /status/,
    }),
  ),
  {
    name: "a switch of protocols that nobody asked for",
    bytes: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    phase: before,
    why: /switched protocols/,
  },
  {
    name: "a head that is too large",
    bytes: `${ok}X-A: ${"a".repeat(17 * 1024)}\r\nContent-Length: 0\r\n\r\n`,
    phase: before,
    why: /too large/,
  },
  {
    name: "a head without end",
    bytes: `${ok}${"X-A: a\r\n".repeat(3000)}`,
    phase: before,
    why: /too large/,
  },
  ...["g", "-1", "0x5", "", " 5", "+5", "5 5", "1234567890123", "5\t5", "\u00a05"].map(
    (size): Malformed => ({
      name: `a chunk of size «${size}»`,
      bytes: `${chunked}${size}\r\nhello\r\n0\r\n\r\n`,
      phase: during,
      why: /size cannot be read/,
    }),
  ),
  {
    name: "a chunk longer than it said",
    bytes: `${chunked}2\r\nhello\r\n0\r\n\r\n`,
    phase: during,
    why: /longer than it said/,
    body: "he",
  },
  {
    name: "a chunk's line without CR",
    bytes: `${chunked}2\nhi\r\n0\r\n\r\n`,
    phase: during,
    why: /without CR/,
  },
  {
    name: "a chunk's end without CR",
    bytes: `${chunked}2\r\nhi\n0\r\n\r\n`,
    phase: during,
    why: /without CR/,
    body: "hi",
  },
  {
    name: "an extension that is too long",
    bytes: `${chunked}2;${"x".repeat(9000)}\r\nhi\r\n0\r\n\r\n`,
    phase: during,
    why: /too long/,
  },
  {
    name: "a chunk's line without end",
    bytes: `${chunked}2;${"x".repeat(20_000)}`,
    phase: during,
    why: /too long/,
  },
  {
    name: "trailers that are too long",
    bytes: `${chunked}0\r\n${"X-A: a\r\n".repeat(2000)}\r\n`,
    phase: during,
    why: /trailers are too long/,
  },
  {
    name: "bytes after a length, in one piece with it",
    bytes: `${ok}Content-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n`,
    phase: during,
    why: /more bytes/,
    body: "hi",
  },
  {
    name: "bytes after the last chunk, in one piece with it",
    bytes: `${chunked}2\r\nhi\r\n0\r\n\r\nX`,
    phase: during,
    why: /followed its last chunk/,
    body: "hi",
  },
  {
    name: "a body after HEAD",
    bytes: `${ok}Content-Length: 2\r\n\r\nhi`,
    isHead: true,
    phase: during,
    why: /no body/,
  },
  {
    name: "a body after 204",
    bytes: "HTTP/1.1 204 No Content\r\n\r\nhi",
    phase: during,
    why: /no body/,
  },
];

describe("what is no plain framing breaks the exchange, and is never guessed at", () => {
  test.each(malformed)("$name", async ({ bytes, phase, why, body, isHead }) => {
    const served = await serve((socket) => socket.write(bytes, "latin1"));
    for (const reader of [undefined, pauseEach]) {
      const pool = poolTo(served.origin);
      const sink = send(pool, isHead === true ? head : get, reader);
      const ending = await sink.over;
      expect(ending).toMatchObject({ kind: "broken", phase });
      if (ending.kind === "broken") expect(ending.why).toMatch(why);
      expect(sink.wrong).toEqual([]);
      expect(pool.size).toBe(0);
      expect(sink.endings).toHaveLength(1);
      if (reader === undefined) expect(sink.body.toString("latin1")).toBe(body ?? "");
      await closedAfterMs(served.connections.at(-1));
    }
  });

  test("bytes that nobody asked for close an idle connection, and the next request has another", async () => {
    const served = await serve((socket) => socket.write(`${ok}Content-Length: 2\r\n\r\nhi`));
    const pool = poolTo(served.origin);
    expect(await send(pool).over).toEqual({ kind: "end" });
    expect(pool.size).toBe(1);
    served.connections[0]?.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    await until(() => pool.size === 0);
    const next = send(pool);
    expect(await next.over).toEqual({ kind: "end" });
    expect(next.body.toString()).toBe("hi");
    expect(served.connections).toHaveLength(2);
  });
});

describe("a head", () => {
  const parsed = (text: string, isHead = false) => {
    const result = parseHead(text, isHead);
    if (typeof result === "string") throw new Error(result);
    return result;
  };

  test("keeps names, order, repetition and Latin-1 of what is the answer's own", () => {
    const { headers, statusText } = parsed(
      "HTTP/1.1 200 Sch\u00f6n so\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX-Empty:\r\nX-Tab: \ta\tb \t\r\nX-L: \u00e9",
    );
    expect(statusText).toBe("Sch\u00f6n so");
    const pairs = ["Set-Cookie", "a=1", "set-cookie", "b=2", "X-Empty", "", "X-Tab", "a\tb", "X-L"];
    expect(headers).toEqual([...pairs, "\u00e9"]);
  });

  test("loses what is of the connection, and what Connection names in any of its lines", () => {
    const { headers } = parsed(
      "HTTP/1.1 200 OK\r\nConnection: X-A , keep-alive\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\nConnection: x-b\r\n" +
        "Keep-Alive: timeout=5\r\nTE: a\r\nTrailer: b\r\nUpgrade: h2c\r\nProxy-Authenticate: c\r\nProxy-Connection: d\r\nContent-Length: 5",
    );
    expect(headers).toEqual(["X-C", "3"]);
  });

  test.each([
    ["HTTP/1.1", [], true],
    ["HTTP/1.1", ["keep-alive"], true],
    ["HTTP/1.1", ["close"], false],
    ["HTTP/1.1", ["keep-alive, Close"], false],
    ["HTTP/1.1", ["close", "keep-alive"], false],
    ["HTTP/1.0", [], false],
    ["HTTP/1.0", ["Keep-Alive"], true],
    ["HTTP/1.0", ["close, keep-alive"], false],
    ["HTTP/1.0", ["keep-alive, close"], false],
  ])("%s with Connection %j: stays is %s", (version, options, stays) => {
    const lines = options.map((option) => `Connection: ${option}\r\n`).join("");
    const head = parsed(`${version} 200 OK\r\n${lines}Content-Length: 5`);
    expect(head.keepAlive).toBe(stays);
  });

  test("no text makes it throw, and what it gives out Node can send", () => {
    const piece = fc.oneof(
      fc.string({ unit: "binary-ascii" }),
      fc.constantFrom("\r\n", ": ", "HTTP/1.1 200 OK", "Content-Length", "chunked", "\n", "\u00ff"),
    );
    fc.assert(
      fc.property(fc.array(piece), fc.boolean(), (pieces, isHead) => {
        const result = parseHead(`HTTP/1.1 200 OK\r\n${pieces.join("")}`, isHead);
        if (typeof result === "string") return;
        result.headers.forEach((text, index) => {
          if (index % 2 === 0) expect(text).toMatch(/^[!#$%&'*+.^_`|~\w-]+$/);
          else expect(text).not.toMatch(/[^\t\x20-\x7e\x80-\xff]/);
        });
      }),
      { numRuns: 2000 },
    );
  });
});

// ---- Connections that break ---------------------------------------------------------------------------

describe("a connection that breaks says what the replica may have seen", () => {
  const ways: readonly (readonly [string, (socket: Socket) => void])[] = [
    ["reset", (socket) => socket.resetAndDestroy()],
    ["closed", (socket) => socket.end()],
  ];
  const places: readonly (readonly [string, string, BrokenPhase])[] = [
    ["before the head", "", before],
    ["within the head", "HTTP/1.1 200 OK\r\nContent-Le", before],
    ["after an interim answer", "HTTP/1.1 100 Continue\r\n\r\n", before],
    ["right after the head", `${ok}Content-Length: 5\r\n\r\n`, during],
    ["within a length", `${ok}Content-Length: 5\r\n\r\nhe`, during],
    ["within a chunk", `${chunked}5\r\nhe`, during],
    ["within a chunk's size", `${chunked}5`, during],
    ["between chunks", `${chunked}2\r\nhe\r\n`, during],
    ["within the trailers", `${chunked}0\r\nX-A: 1\r\n`, during],
  ];
  test.each(ways.flatMap(([how, way]) => places.map((place) => ({ how, way, place }))))(
    "$how $place.0",
    async ({ way, place: [, bytes, phase] }) => {
      const served = await serve((socket) => {
        if (bytes !== "") socket.write(bytes);
        setTimeout(() => way(socket), 20);
      });
      const pool = poolTo(served.origin);
      const sink = send(pool);
      expect(await sink.over).toMatchObject({ kind: "broken", phase });
      await sleep(20);
      expect(sink.endings).toHaveLength(1);
      expect(sink.wrong).toEqual([]);
      expect(pool.size).toBe(0);
    },
  );

  test("a reset is no end of an answer that lasts until the connection's end", async () => {
    const served = await serve((socket) => {
      socket.write(`${ok}\r\nhello`);
      setTimeout(() => socket.resetAndDestroy(), 20);
    });
    expect(await send(poolTo(served.origin)).over).toMatchObject({ kind: "broken", phase: during });
  });

  test("a refused connection has shown the replica nothing", async () => {
    const served = await serve(() => undefined);
    const { origin } = served;
    for (const clean of cleanups.splice(0)) await clean();
    const pool = poolTo(origin);
    const sink = send(pool);
    expect(await sink.over).toEqual({
      kind: "broken",
      phase: "notConnected",
      why: "ECONNREFUSED",
    });
    expect(sink.endings).toHaveLength(1);
    expect(pool.size).toBe(0);
  });

  test("a connection that is never accepted is given up in time", async () => {
    // A listener whose thread sleeps, and whose short queue is full: further connections hang.
    const worker = new Worker(
      `const { createServer } = require("node:net");
       const { parentPort } = require("node:worker_threads");
       const server = createServer().listen({ port: 0, host: "127.0.0.1", backlog: 1 }, () => {
         parentPort.postMessage(server.address().port);
         setImmediate(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0));
       });`,
      { eval: true },
    );
    cleanups.push(async () => {
      await worker.terminate();
    });
    const port = await new Promise<number>((resolve) => worker.once("message", resolve));
    await sleep(50);
    const fillers: Socket[] = [];
    cleanups.push(() => {
      for (const filler of fillers) filler.destroy();
    });
    let isFull = false;
    while (!isFull && fillers.length < 20) {
      const filler = connect(port, "127.0.0.1");
      filler.on("error", () => undefined);
      fillers.push(filler);
      isFull = await Promise.race([
        new Promise<boolean>((resolve) => filler.once("connect", () => resolve(false))),
        sleep(150).then(() => true),
      ]);
    }
    expect(isFull).toBe(true);
    const pool = poolTo(`http://127.0.0.1:${port}`, { connectLimitMs: 200 });
    const startedMs = performance.now();
    const sink = send(pool);
    expect(await sink.over).toMatchObject({
      phase: "notConnected",
      why: "no connection could be made in time",
    });
    expect(performance.now() - startedMs).toBeGreaterThan(190);
    expect(performance.now() - startedMs).toBeLessThan(1500);
    expect(pool.size).toBe(0);

    const broken = send(pool);
    await sleep(20);
    broken.exchange?.breakOff("found dead");
    expect(broken.endings).toEqual([{ kind: "broken", phase: "notConnected", why: "found dead" }]);
  });

  test("a name that has an address nobody listens on is tried by its other", async () => {
    const served = await serve((socket) => socket.write(`${ok}Content-Length: 2\r\n\r\nhi`));
    const pool = poolTo(served.origin.replace("127.0.0.1", "localhost"), { readBufferBytes: 8 });
    const sink = send(pool);
    expect(await sink.over).toEqual({ kind: "end" });
    expect(sink.body.toString()).toBe("hi");
  });
});

// ---- Connections that stay ----------------------------------------------------------------------------

const hi = `${ok}Content-Length: 2\r\n\r\nhi`;

describe("connections", () => {
  test("one is used for request after request", async () => {
    const served = await serve((socket) => socket.write(hi));
    const pool = poolTo(served.origin);
    for (let times = 0; times < 20; times++) expect(await send(pool).over).toEqual({ kind: "end" });
    expect(served.connections).toHaveLength(1);
    expect(pool.size).toBe(1);
  });

  test("the next request may be sent from within the end of the one before", async () => {
    const served = await serve((socket) => socket.write(hi));
    const pool = poolTo(served.origin);
    let left = 50;
    await new Promise<void>((resolve, reject) => {
      const next = (): void => {
        if (left-- === 0) {
          resolve();
          return;
        }
        pool.send(get, {
          onHead: () => undefined,
          onData: () => true,
          onEnd: next,
          onBroken: (_phase, why) => reject(new Error(why)),
        });
      };
      next();
    });
    expect(served.connections).toHaveLength(1);
  });

  test("a request that must be fresh never meets a used one", async () => {
    const served = await serve((socket) => socket.write(hi));
    const pool = poolTo(served.origin);
    await send(pool).over;
    await send(pool, fresh).over;
    await send(pool, fresh).over;
    expect(served.connections).toHaveLength(3);
    for (const text of served.received) expect(text).toBe(get.head);
  });

  test("at the limit an idle connection makes room for one that must be fresh", async () => {
    const served = await serve((socket) => socket.write(hi));
    const pool = poolTo(served.origin, { connectionsLimit: 1 });
    await send(pool).over;
    await send(pool, fresh).over;
    expect(served.connections).toHaveLength(2);
    expect(pool.size).toBe(1);
    expect(await closedAfterMs(served.connections[0])).toBeLessThan(1000);
  });

  test("one that must be fresh and had to wait is given a new connection", async () => {
    const served = await serve((socket) => setTimeout(() => socket.write(hi), 30));
    const pool = poolTo(served.origin, { connectionsLimit: 1 });
    const sinks = [send(pool), send(pool, fresh), send(pool), send(pool, fresh)];
    for (const sink of sinks) expect(await sink.over).toEqual({ kind: "end" });
    expect(served.received).toEqual([get.head, get.head + get.head, get.head]);
    expect(pool.size).toBe(1);
  });

  test("beyond the limit requests wait their turn, and beyond the queue they are broken unseen", async () => {
    let most = 0;
    let now = 0;
    const served = await serve((socket) => {
      most = Math.max(most, ++now);
      setTimeout(() => {
        now--;
        socket.write(hi);
      }, 10);
    });
    const pool = poolTo(served.origin, { connectionsLimit: 2, waitingLimit: 5 });
    const sinks = Array.from({ length: 7 }, () => send(pool));
    const tooMany = send(pool);
    expect(tooMany.endings).toEqual([]);
    expect(await tooMany.over).toMatchObject({ kind: "broken", phase: "notConnected" });
    const order: number[] = [];
    sinks.forEach((sink, index) => void sink.over.then(() => order.push(index)));
    for (const sink of sinks) expect(await sink.over).toEqual({ kind: "end" });
    await until(() => order.length === 7);
    expect(order).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(most).toBe(2);
    expect(served.connections).toHaveLength(2);
    expect(tooMany.endings).toHaveLength(1);
  });

  test("one that waits gets a new connection when the one before it broke", async () => {
    const served = await serve((socket, _head, connection) => {
      if (connection === 0) socket.resetAndDestroy();
      else socket.write(hi);
    });
    const pool = poolTo(served.origin, { connectionsLimit: 1 });
    const [first, second] = [send(pool), send(pool)];
    expect(await first.over).toMatchObject({ kind: "broken", phase: before });
    expect(await second.over).toEqual({ kind: "end" });
  });

  test("one that waits can be aborted or broken off, and is then never sent", async () => {
    const served = await serve((socket) => setTimeout(() => socket.write(hi), 30));
    const pool = poolTo(served.origin, { connectionsLimit: 1 });
    const first = send(pool);
    const aborted = send(pool);
    const broken = send(pool);
    const last = send(pool);
    aborted.exchange?.abort();
    broken.exchange?.breakOff("its replica is gone");
    expect(broken.endings).toEqual([
      { kind: "broken", phase: "notConnected", why: "its replica is gone" },
    ]);
    expect(await first.over).toEqual({ kind: "end" });
    expect(await last.over).toEqual({ kind: "end" });
    expect(aborted.endings).toEqual([]);
    expect(served.received).toEqual([get.head + get.head]);
  });

  test("one that is aborted at once, over a connection that was used before, is never sent", async () => {
    const served = await serve((socket) => setTimeout(() => socket.write(hi), 10));
    const pool = poolTo(served.origin);
    expect(await send(pool).over).toEqual({ kind: "end" });
    const aborted = send(pool);
    aborted.exchange?.abort();
    const broken = send(pool);
    broken.exchange?.breakOff("its replica is gone");
    expect(await send(pool).over).toEqual({ kind: "end" });
    expect(aborted.endings).toEqual([]);
    expect(served.received.join("")).toBe(get.head + get.head);
  });

  test("the idle ones are closed when they are old, the younger ones stay", async () => {
    let nowMs = 0;
    const served = await serve((socket) => setTimeout(() => socket.write(hi), 10));
    const pool = poolTo(served.origin, { now: () => nowMs, idleLimitMs: 1000 });
    const [first, second] = [send(pool), send(pool)];
    await Promise.all([first.over, second.over]);
    nowMs = 600;
    await send(pool).over;
    expect(pool.size).toBe(2);
    nowMs = 999;
    pool.sweep();
    expect(pool.size).toBe(2);
    nowMs = 1000;
    pool.sweep();
    expect(pool.size).toBe(1);
    nowMs = 1600;
    pool.sweep();
    expect(pool.size).toBe(0);
    for (const socket of served.connections) expect(await closedAfterMs(socket)).toBeLessThan(1000);
  });

  test("a sweep leaves those at work alone", async () => {
    let nowMs = 0;
    const served = await serve((socket) => setTimeout(() => socket.write(hi), 50));
    const pool = poolTo(served.origin, { now: () => nowMs, idleLimitMs: 1 });
    const sink = send(pool);
    nowMs = 1e6;
    pool.sweep();
    pool.dropIdle();
    expect(await sink.over).toEqual({ kind: "end" });
    pool.dropIdle();
    expect(pool.size).toBe(0);
  });

  test("an idle one that the server closes is forgotten at once", async () => {
    const served = await serve((socket) => socket.write(hi));
    const pool = poolTo(served.origin);
    await send(pool).over;
    served.connections[0]?.end();
    await until(() => pool.size === 0, 200);
    expect(await send(pool).over).toEqual({ kind: "end" });
  });

  test("a closed pool breaks what runs and what waits, each once, and takes nothing more", async () => {
    const served = await serve((socket) => socket.write(`${ok}Content-Length: 5\r\n\r\nhe`));
    const pool = poolTo(served.origin, { connectionsLimit: 2 });
    const running = send(pool);
    const paused = send(pool, get, () => false);
    await Promise.all([running.progress, paused.progress]);
    await until(() => running.pieces.length === 1 && paused.heads.length === 1);
    await sleep(10);
    const waiting = send(pool);
    pool.close();
    const late = send(pool);
    const lateFresh = send(pool, fresh);
    expect(await running.over).toMatchObject({ phase: during, why: "the pool was closed" });
    expect(await paused.over).toMatchObject({ phase: during, why: "the pool was closed" });
    expect(await waiting.over).toMatchObject({ phase: "notConnected" });
    expect(await late.over).toMatchObject({ phase: "notConnected" });
    expect(await lateFresh.over).toMatchObject({ phase: "notConnected" });
    await sleep(20);
    for (const sink of [running, paused, waiting, late, lateFresh]) {
      expect(sink.endings).toHaveLength(1);
    }
    expect(pool.size).toBe(0);
  });

  test("a request's body arrives whole behind its head, on a new connection and a used one", async () => {
    const body = pattern(300_000, 7);
    const served = await serve((socket) => socket.write(hi));
    const pool = poolTo(served.origin);
    const request: WireRequest = {
      ...get,
      head: `POST / HTTP/1.1\r\nX-L: \u00e9\r\nContent-Length: ${body.length}\r\n\r\n`,
      body,
    };
    for (let times = 0; times < 2; times++) {
      expect(await send(pool, request).over).toEqual({ kind: "end" });
    }
    const empty = send(pool, { ...get, body: Buffer.alloc(0) });
    expect(await empty.over).toEqual({ kind: "end" });
    const one = request.head + body.toString("latin1");
    expect(sha256([latin1(served.received[0] ?? "")])).toBe(sha256([latin1(one + one + get.head)]));
  });
});

// ---- Leaving, and being made to leave -----------------------------------------------------------------

describe("an exchange that is aborted frees the replica within 100 ms, without a word", () => {
  const cases: readonly (readonly [string, string, Reader | undefined])[] = [
    ["before the answer", "", undefined],
    ["within the head", "HTTP/1.1 200 OK\r\nX-", undefined],
    ["within the body", `${ok}Content-Length: 500\r\n\r\nhello`, undefined],
    ["within a chunk", `${chunked}500\r\nhello`, undefined],
    ["while the reader pauses", `${ok}Content-Length: 500\r\n\r\nhello`, () => false],
    ["while the reader pauses at the very end", `${ok}Content-Length: 5\r\n\r\nhello`, () => false],
  ];
  test.each(cases)("%s", async (_name, bytes, reader) => {
    const served = await serve((socket) => {
      if (bytes !== "") socket.write(bytes);
    });
    const pool = poolTo(served.origin);
    const sink = send(pool, get, reader);
    await until(() => (served.received[0] ?? "") !== "");
    await sleep(30);
    sink.exchange?.abort();
    expect(await closedAfterMs(served.connections[0])).toBeLessThan(1000);
    sink.exchange?.abort();
    sink.exchange?.resume();
    sink.exchange?.breakOff("too late");
    await sleep(20);
    expect(sink.endings).toEqual([]);
    expect(sink.wrong).toEqual([]);
    expect(pool.size).toBe(0);
  });

  test("also in the midst of a flood", async () => {
    const served = await serve((socket) => {
      socket.write(`${ok}Content-Length: 900000000\r\n\r\n`);
      const flood = (): void => {
        while (!socket.destroyed && socket.write(pattern(65_536, 0)));
        if (!socket.destroyed) socket.once("drain", flood);
      };
      flood();
    });
    const pool = poolTo(served.origin);
    let aborted = false;
    let later = 0;
    const exchange = pool.send(get, {
      onHead: () => undefined,
      onData: () => {
        if (aborted) later++;
        aborted = true;
        exchange.abort();
        return true;
      },
      onEnd: () => later++,
      onBroken: () => later++,
    });
    await until(() => aborted);
    expect(await closedAfterMs(served.connections[0])).toBeLessThan(1000);
    await sleep(20);
    expect(later).toBe(0);
  });

  test.each(["onHead", "onData", "onEnd"] as const)("from within %s", async (where) => {
    const served = await serve((socket) => socket.write(hi));
    const pool = poolTo(served.origin);
    const calls: string[] = [];
    const call = (name: string): true => {
      calls.push(name);
      if (name === where) exchange.abort();
      return true;
    };
    const exchange: Exchange = pool.send(get, {
      onHead: () => void call("onHead"),
      onData: () => call("onData"),
      onEnd: () => void call("onEnd"),
      onBroken: () => void call("onBroken"),
    });
    await until(() => calls.includes(where));
    await sleep(20);
    expect(calls.at(-1)).toBe(where);
    expect(calls).toHaveLength(["onHead", "onData", "onEnd"].indexOf(where) + 1);
    expect(pool.size).toBe(where === "onEnd" ? 1 : 0);
  });
});

describe("an exchange that is broken off says what the replica may have seen", () => {
  const cases: readonly (readonly [string, string, BrokenPhase])[] = [
    ["the request only", "", before],
    ["and began a head", "HTTP/1.1 200 OK\r\n", before],
    ["and sent an interim answer", "HTTP/1.1 102 Processing\r\n\r\n", before],
    ["and sent a head", `${ok}Content-Length: 5\r\n\r\n`, during],
    ["and sent some of the body", `${ok}Content-Length: 5\r\n\r\nhe`, during],
  ];
  test.each(cases)("%s", async (_name, bytes, phase) => {
    const served = await serve((socket) => {
      if (bytes !== "") socket.write(bytes);
    });
    const pool = poolTo(served.origin);
    const sink = send(pool);
    await until(() => (served.received[0] ?? "") !== "");
    await sleep(30);
    sink.exchange?.breakOff("found frozen");
    sink.exchange?.breakOff("again");
    expect(await closedAfterMs(served.connections[0])).toBeLessThan(1000);
    await sleep(10);
    expect(sink.endings).toEqual([{ kind: "broken", phase, why: "found frozen" }]);
    expect(pool.size).toBe(0);
  });

  test("nothing, before the connection is there", async () => {
    const served = await serve(() => undefined);
    const pool = poolTo(served.origin);
    const sink = send(pool);
    sink.exchange?.breakOff("found dead");
    expect(sink.endings).toEqual([{ kind: "broken", phase: "notConnected", why: "found dead" }]);
    await sleep(30);
    expect(served.received.join("")).toBe("");
    expect(sink.endings).toHaveLength(1);
  });

  test("nothing is said after the end", async () => {
    const served = await serve((socket) => socket.write(hi));
    const pool = poolTo(served.origin);
    const sink = send(pool);
    await sink.over;
    sink.exchange?.breakOff("too late");
    sink.exchange?.abort();
    expect(sink.endings).toEqual([{ kind: "end" }]);
    expect(pool.size).toBe(1);
  });
});

// ---- Back pressure ------------------------------------------------------------------------------------

/** Bytes of which each place has its own value, so that a piece lost, doubled or overwritten is seen. */
function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  for (let at = 0; at < length; at++)
    bytes[at] = (at * 31 + (at >>> 8) * 7 + (at >>> 16) + seed) & 255;
  return bytes;
}

function sha256(pieces: readonly Buffer[]): string {
  const hash = createHash("sha256");
  for (const piece of pieces) hash.update(piece);
  return hash.digest("hex");
}

function inChunks(body: Buffer): Buffer {
  const pieces: Buffer[] = [];
  let size = 1;
  for (let at = 0; at < body.length; at += size) {
    size = ((size * 7919) % 90_001) + 1;
    const chunk = body.subarray(at, at + size);
    pieces.push(latin1(`${chunk.length.toString(16)};x=y\r\n`), chunk, latin1("\r\n"));
  }
  pieces.push(latin1("0\r\nX-Sum: 1\r\n\r\n"));
  return Buffer.concat(pieces);
}

const film = pattern(6 * 1024 * 1024 + 17, 3);
const filmSum = sha256([film]);
const framings: readonly (readonly [name: string, head: string, bytes: Buffer, ends: boolean])[] = [
  ["a length", `${ok}Content-Length: ${film.length}\r\n\r\n`, film, false],
  ["chunks", chunked, inChunks(film), false],
  ["the connection's end", `${ok}\r\n`, film, true],
  [
    "a length, on a connection that is closed behind it",
    `${ok}Content-Length: ${film.length}\r\nConnection: close\r\n\r\n`,
    film,
    true,
  ],
];

/** A slow reader that compares what it holds at the end of each pause with what it was given. */
function slowReader(overwritten: string[]): Reader {
  let count = 0;
  return (piece, resume) => {
    count++;
    if (count % 5 === 0) return true;
    const before = sha256([piece]);
    const later = (): void => {
      if (sha256([piece]) !== before) overwritten.push(`piece ${count}`);
      resume();
    };
    if (count % 3 === 0) setTimeout(later, 3);
    else setImmediate(later);
    return false;
  };
}

describe("a slow reader gets every byte, and the view in its hands stays as it was", () => {
  test.each(framings)("told by %s", async (_name, responseHead, bytes, ends) => {
    const served = await serve((socket) => {
      socket.write(responseHead);
      socket.write(bytes);
      if (ends) socket.end();
    });
    for (const readBufferBytes of [16 * 1024, 256 * 1024]) {
      const overwritten: string[] = [];
      const pool = poolTo(served.origin, { readBufferBytes });
      const sink = send(pool, get, slowReader(overwritten));
      expect(await sink.over).toEqual({ kind: "end" });
      expect(sha256(sink.pieces)).toBe(filmSum);
      expect(overwritten).toEqual([]);
      expect(sink.wrong).toEqual([]);
    }
  });

  test("many at once on few connections, one after another", async () => {
    const small = pattern(400_000, 9);
    const served = await serve((socket) => {
      socket.write(chunked);
      socket.write(inChunks(small));
    });
    const overwritten: string[] = [];
    const pool = poolTo(served.origin, { connectionsLimit: 3, readBufferBytes: 32 * 1024 });
    const sinks = Array.from({ length: 24 }, () => send(pool, get, slowReader(overwritten)));
    for (const sink of sinks) {
      expect(await sink.over).toEqual({ kind: "end" });
      expect(sha256(sink.pieces)).toBe(sha256([small]));
      expect(sink.wrong).toEqual([]);
    }
    expect(overwritten).toEqual([]);
    expect(served.connections).toHaveLength(3);
  });

  test("while it pauses nothing more is read: the replica has to wait", async () => {
    const much = pattern(48 * 1024 * 1024, 1);
    const served = await serve((socket) => {
      socket.write(`${ok}Content-Length: ${much.length}\r\n\r\n`);
      socket.write(much);
    });
    const pool = poolTo(served.origin);
    let goOn: (() => void) | undefined;
    let paused = false;
    const sink = send(pool, get, (_piece, resume) => {
      if (paused) return true;
      paused = true;
      goOn = resume;
      return false;
    });
    await until(() => goOn !== undefined);
    await sleep(150);
    expect(served.connections[0]?.writableLength).toBeGreaterThan(0);
    expect(sink.wrong).toEqual([]);
    goOn?.();
    expect(await sink.over).toEqual({ kind: "end" });
    expect(sha256(sink.pieces)).toBe(sha256([much]));
  });
});

/** Pauses at the first piece; what is answered resumes it. */
function pauseAtFirst(): { reader: Reader; paused: Promise<() => void> } {
  let tell: (resume: () => void) => void = () => undefined;
  const paused = new Promise<() => void>((resolve) => {
    tell = resolve;
  });
  let count = 0;
  const reader: Reader = (_piece, resume) => {
    if (count++ > 0) return true;
    tell(resume);
    return false;
  };
  return { reader, paused };
}

interface PausedCase {
  readonly name: string;
  readonly bytes: string;
  readonly closes: boolean;
  readonly ending: Ending["kind"];
  readonly body: string;
}

const pausedCases: readonly PausedCase[] = [
  {
    name: "at the very end of a length",
    bytes: `${ok}Content-Length: 5\r\n\r\nhello`,
    closes: false,
    ending: "end",
    body: "hello",
  },
  {
    name: "at the very end of a length, and the server closes",
    bytes: `${ok}Content-Length: 5\r\n\r\nhello`,
    closes: true,
    ending: "end",
    body: "hello",
  },
  {
    name: "within a length, and the server closes",
    bytes: `${ok}Content-Length: 9\r\n\r\nhello`,
    closes: true,
    ending: "broken",
    body: "hello",
  },
  {
    name: "within chunks that are all there",
    bytes: `${chunked}5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n`,
    closes: false,
    ending: "end",
    body: "hello world",
  },
  {
    name: "within chunks that are all there, and the server closes",
    bytes: `${chunked}5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n`,
    closes: true,
    ending: "end",
    body: "hello world",
  },
  {
    name: "within chunks that are not all there, and the server closes",
    bytes: `${chunked}5\r\nhello\r\n6\r\n wo`,
    closes: true,
    ending: "broken",
    body: "hello wo",
  },
  {
    name: "at the end of what lasts until the connection's end",
    bytes: `${ok}\r\nhello`,
    closes: true,
    ending: "end",
    body: "hello",
  },
];

async function checkPaused(origin: string, each: PausedCase): Promise<void> {
  const pool = poolTo(origin);
  const { reader, paused } = pauseAtFirst();
  const sink = send(pool, get, reader);
  const resume = await paused;
  await sleep(60);
  expect(sink.endings).toEqual([]);
  expect(pool.size).toBe(1);
  resume();
  const ending = await sink.over;
  expect(ending.kind).toBe(each.ending);
  if (ending.kind === "broken") expect(ending.phase).toBe(during);
  expect(sink.body.toString()).toBe(each.body);
  expect(sink.wrong).toEqual([]);
  await sleep(30);
  expect(sink.endings).toHaveLength(1);
  expect(pool.size).toBe(each.ending === "end" && !each.closes ? 1 : 0);
  if (pool.size === 1) {
    // And the connection is as good as before.
    const { reader: nextReader, paused: nextPaused } = pauseAtFirst();
    const next = send(pool, get, nextReader);
    (await nextPaused)();
    expect(await next.over).toEqual({ kind: "end" });
    expect(next.body.toString()).toBe(each.body);
  }
}

describe("who gives room", () => {
  const body = Buffer.alloc(5 * 1024 * 1024, "0123456789abcdef-");

  test("has all but the first bytes read straight into it, and nobody writes there afterwards", async () => {
    let isFirst = true;
    const served = await serve((socket) => {
      const text = isFirst ? body : Buffer.alloc(100_000, "x");
      isFirst = false;
      socket.write(`${ok}Content-Length: ${text.length}\r\n\r\n`);
      socket.write(text);
    });
    const pool = poolTo(served.origin);
    const sink = new Keeping(1024 * 1024);
    sink.exchange = pool.send(get, sink);
    expect([await sink.over, sink.wrong]).toEqual([{ kind: "end" }, []]);
    expect(sink.straight).toBeGreaterThan(body.length - 64 * 1024 - 1);
    const next = send(pool);
    expect(await next.over).toEqual({ kind: "end" });
    expect(served.connections).toHaveLength(1);
    expect(sink.memory.subarray(0, body.length).equals(body)).toBe(true);
    expect(sink.memory.subarray(body.length).every((byte) => byte === 0)).toBe(true);
  });

  test("is not asked where lengths stand between the bytes, or none is told", async () => {
    const told = [`${chunked}${(1000).toString(16)}\r\n${"x".repeat(1000)}\r\n0\r\n\r\n`, ok];
    for (const bytes of told) {
      const served = await serve((socket) => {
        socket.write(bytes.slice(0, 200));
        setTimeout(() => socket.end(bytes.slice(200) + (bytes === ok ? "\r\nall of it" : "")), 20);
      });
      const sink = new Keeping(1000);
      sink.exchange = poolTo(served.origin).send(get, sink);
      expect([await sink.over, sink.straight]).toEqual([{ kind: "end" }, 0]);
    }
  });

  test("and leaves in the midst is not written to any more", async () => {
    let server: Socket | undefined;
    const served = await serve((socket) => {
      server = socket;
      socket.write(`${ok}Content-Length: ${body.length}\r\n\r\n`);
      socket.write(body.subarray(0, 1_000_000));
    });
    const sink = new Keeping(1024 * 1024);
    sink.exchange = poolTo(served.origin).send(get, sink);
    await until(() => sink.filled === 1_000_000);
    sink.exchange.abort();
    server?.write(body.subarray(1_000_000, 2_000_000));
    await sleep(50);
    expect(sink.memory.subarray(1_000_000).every((byte) => byte === 0)).toBe(true);
    expect(sink.endings).toEqual([]);
  });
});

describe("a read buffer", () => {
  const flood = (socket: Socket, letter: string) => {
    socket.write(`${ok}Content-Length: 1000000\r\n\r\n${letter.repeat(200_000)}`);
  };

  /** An exchange whose reader stops at the first bytes, with the view that it has in its hands. */
  async function stopped(pool: WirePool): Promise<{ sink: Remembering; view: Buffer }> {
    let view: Buffer | undefined;
    const sink = send(pool, get, (piece) => {
      view = piece;
      return false;
    });
    await until(() => view !== undefined);
    return { sink, view: view ?? Buffer.alloc(0) };
  }

  test("is used again by the next connection when its own is gone", async () => {
    const served = await serve((socket) => flood(socket, "a"));
    const pool = poolTo(served.origin);
    const seen = new Set<ArrayBufferLike>();
    for (let round = 0; round < 50; round++) {
      const { sink, view } = await stopped(pool);
      seen.add(view.buffer);
      sink.exchange?.abort(true);
      const other = new Remembering((piece) => {
        seen.add(piece.buffer);
        return true;
      });
      other.exchange = pool.send(fresh, other);
      await until(() => other.pieces.length > 0);
      other.exchange.abort();
    }
    expect(served.connections.length).toBe(100);
    expect(seen.size).toBeLessThan(4);
  });

  test("is kept sixteen times at most, and one less after each sweep", async () => {
    const served = await serve((socket) => flood(socket, "a"));
    const pool = poolTo(served.origin);
    const seen = new Set<ArrayBufferLike>();
    const many = await Promise.all(Array.from({ length: 30 }, () => stopped(pool)));
    for (const { sink, view } of many) {
      seen.add(view.buffer);
      sink.exchange?.abort(true);
    }
    for (let sweeps = 0; sweeps < 5; sweeps++) pool.sweep();
    const taken = Array.from({ length: 30 }, () => pool.takeBuffer());
    expect([seen.size, taken.filter(({ buffer }) => seen.has(buffer)).length]).toEqual([30, 11]);
  });

  test.each<[string, (pool: WirePool, sink: Remembering) => void]>([
    ["is aborted", (_pool, sink) => sink.exchange?.abort()],
    ["is broken off", (_pool, sink) => sink.exchange?.breakOff("it is gone")],
    ["ends with its pool's", (pool) => pool.close()],
  ])("in which somebody still reads is nobody else's when the exchange %s", async (_how, end) => {
    let letter = "a";
    const served = await serve((socket) => flood(socket, letter));
    const pool = poolTo(served.origin);
    const { sink, view } = await stopped(pool);
    const before = Buffer.from(view);
    end(pool, sink);
    letter = "b";
    // The same pool where it is open; a closed one has no connections that could read.
    const others = [1, 2, 3].map(() => send(pool));
    await sleep(100);
    for (const other of others) other.exchange?.abort();
    expect(view.equals(before)).toBe(true);
    expect(pool.takeBuffer().buffer).not.toBe(view.buffer);
  });
});

describe("a pause", () => {
  test.each(pausedCases)("$name: the end is told after it, not before", async (each) => {
    const served = await serve((socket) => {
      socket.write(each.bytes);
      if (each.closes) socket.end();
    });
    await checkPaused(served.origin, each);
  });

  test("at the very end keeps the connection from the next request until it is over", async () => {
    const served = await serve((socket) => socket.write(hi));
    const pool = poolTo(served.origin);
    const { reader, paused } = pauseAtFirst();
    const first = send(pool, get, reader);
    const resume = await paused;
    const second = send(pool);
    expect(await second.over).toEqual({ kind: "end" });
    expect(served.connections).toHaveLength(2);
    resume();
    expect(await first.over).toEqual({ kind: "end" });
    expect(pool.size).toBe(2);
  });

  test("of one exchange is not ended by a late word from the one before on its connection", async () => {
    const served = await serve((socket) => {
      socket.write(`${ok}Content-Length: 300000\r\n\r\n`);
      socket.write(pattern(300_000, 5));
    });
    const pool = poolTo(served.origin, { readBufferBytes: 4096 });
    const first = send(pool);
    await first.over;
    const { reader, paused } = pauseAtFirst();
    const second = send(pool, get, reader);
    const resume = await paused;
    first.exchange?.resume();
    await sleep(40);
    expect(second.wrong).toEqual([]);
    expect(second.pieces).toHaveLength(0);
    resume();
    expect(await second.over).toEqual({ kind: "end" });
    expect(sha256(second.pieces)).toBe(sha256([pattern(300_000, 5)]));
    expect(served.connections).toHaveLength(1);
  });
});

// ---- TLS ----------------------------------------------------------------------------------------------

describe("over TLS", () => {
  let folder = "";
  let key = "";
  let cert = "";
  const trustedBefore = getCACertificates("default");
  // Node warns once in a process about an address given as a name (DEP0123).
  const warnings: string[] = [];
  const note = (warning: Error) => warnings.push(warning.message);

  beforeAll(() => {
    process.on("warning", note);
    folder = mkdtempSync(join(tmpdir(), "wire-tls-"));
    const keyFile = join(folder, "key.pem");
    const certFile = join(folder, "cert.pem");
    const subject = "/CN=replica.test";
    const names = "subjectAltName=IP:127.0.0.1,DNS:localhost";
    const made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"];
    const files = ["-keyout", keyFile, "-out", certFile];
    const args = ["req", "-x509", ...made, ...files, "-subj", subject, "-addext", names];
    execFileSync("openssl", args, { stdio: "ignore" });
    key = readFileSync(keyFile, "utf8");
    cert = readFileSync(certFile, "utf8");
    setDefaultCACertificates([...trustedBefore, cert]);
  });

  afterAll(() => {
    process.off("warning", note);
    setDefaultCACertificates(trustedBefore);
    rmSync(folder, { recursive: true, force: true });
  });

  const serveTls = async (answer: (socket: Socket) => void): Promise<Served> => {
    const served = await serve(answer, (listener) =>
      createTlsServer({ key, cert, allowHalfOpen: true }, listener),
    );
    return { ...served, origin: served.origin.replace("http:", "https:") };
  };

  test.each(framings)(
    "a slow reader gets every byte told by %s",
    async (_name, first, bytes, ends) => {
      const served = await serveTls((socket) => {
        socket.write(first);
        socket.write(bytes);
        if (ends) socket.end();
      });
      const overwritten: string[] = [];
      const sink = send(poolTo(served.origin), get, slowReader(overwritten));
      expect(await sink.over).toEqual({ kind: "end" });
      expect(sha256(sink.pieces)).toBe(filmSum);
      expect(overwritten).toEqual([]);
      expect(sink.wrong).toEqual([]);
    },
  );

  test.each(pausedCases)("a pause $name: the end is told after it, not before", async (each) => {
    const served = await serveTls((socket) => {
      socket.write(each.bytes);
      if (each.closes) socket.end();
    });
    await checkPaused(served.origin, each);
  });

  test("a connection is used again, by address and by name, and an abort closes it", async () => {
    let isSilent = false;
    const served = await serveTls((socket) => {
      if (!isSilent) socket.write(hi);
    });
    for (const name of ["127.0.0.1", "localhost"]) {
      const pool = poolTo(served.origin.replace("127.0.0.1", name));
      await send(pool).over;
      expect(await send(pool).over).toEqual({ kind: "end" });
      expect(pool.size).toBe(1);
    }
    expect(served.connections).toHaveLength(2);
    isSilent = true;
    const pool = poolTo(served.origin);
    const sink = send(pool);
    await until(() => (served.received[2] ?? "") !== "");
    sink.exchange?.abort();
    expect(await closedAfterMs(served.connections[2])).toBeLessThan(1000);
    expect(warnings).toEqual([]);
  });

  test("a handshake that is never answered, or fails, has shown the replica nothing", async () => {
    const silent = await serve(() => undefined);
    const origin = silent.origin.replace("http:", "https:");
    const pool = poolTo(origin, { connectLimitMs: 150 });
    expect(await send(pool).over).toMatchObject({ phase: "notConnected" });
    expect(pool.size).toBe(0);

    setDefaultCACertificates(trustedBefore);
    const served = await serveTls((socket) => socket.write(hi));
    const unknown = send(poolTo(served.origin));
    expect(await unknown.over).toMatchObject({
      phase: "notConnected",
      why: "DEPTH_ZERO_SELF_SIGNED_CERT",
    });
    setDefaultCACertificates([...trustedBefore, cert]);
    expect(served.received.join("")).toBe("");
  });
});

// ---- Whatever comes -----------------------------------------------------------------------------------

describe("whatever comes", () => {
  const piece = fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom("\r\n", "\r\n\r\n", "\n", "0\r\n\r\n", "2\r\nhi\r\n") },
    {
      weight: 3,
      arbitrary: fc.constantFrom(
        ok,
        chunked,
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "Content-Length: 2\r\n",
        "Content-Length: 0\r\n\r\n",
        "Content-Length: 40\r\n\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "X-A: b\r\n",
      ),
    },
    { weight: 2, arbitrary: fc.string({ unit: "binary-ascii", maxLength: 12 }) },
    {
      weight: 1,
      arbitrary: fc
        .uint8Array({ maxLength: 60 })
        .map((bytes) => Buffer.from(bytes).toString("latin1")),
    },
  );

  test("exactly one of end and broken is told, and nothing throws", async () => {
    let stream: readonly string[] = [];
    let how: "end" | "reset" = "end";
    const served = await serve((socket) => {
      for (const text of stream) socket.write(text, "latin1");
      // At once, or after the client has read it all.
      const finish = () => (how === "end" ? socket.end() : socket.resetAndDestroy());
      if (stream.length % 2 === 0) finish();
      else setImmediate(finish);
    });
    const counts = { end: 0, broken: 0 };
    await fc.assert(
      fc.asyncProperty(
        fc.boolean(),
        fc.array(piece, { maxLength: 12 }),
        fc.constantFrom("end" as const, "end" as const, "reset" as const),
        fc.constantFrom(1, 3, 17, 64 * 1024),
        fc.constantFrom<How>(undefined, pauseEach, "room"),
        fc.boolean(),
        async (hasStatus, pieces, finish, readBufferBytes, reader, isHead) => {
          stream = hasStatus ? [ok, ...pieces] : pieces;
          how = finish;
          const pool = poolTo(served.origin, { readBufferBytes, connectLimitMs: 1000 });
          cleanups.pop();
          const sink = send(pool, isHead ? head : get, reader);
          const ending = await sink.over;
          counts[ending.kind]++;
          await new Promise(setImmediate);
          await until(() => pool.size === 0);
          expect(sink.wrong).toEqual([]);
          expect(sink.endings).toHaveLength(1);
          expect(sink.heads.length).toBeLessThan(2);
          pool.close();
        },
      ),
      { numRuns: 3000, endOnFailure: false },
    );
    // The streams are no good if they all end alike.
    expect(counts.end).toBeGreaterThan(100);
    expect(counts.broken).toBeGreaterThan(100);
  }, 60_000);

  test("an honest answer arrives whole, however it is framed, cut and read", async () => {
    let pieces: Buffer[] = [];
    const served = await serve((socket) => {
      const left = pieces;
      const next = (): void => {
        const first = left.shift();
        if (first === undefined) return;
        socket.write(first);
        setImmediate(next);
      };
      next();
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ minLength: 1, maxLength: 300 }), { maxLength: 6 }),
        fc.boolean(),
        fc.array(fc.nat(2000), { maxLength: 5 }),
        fc.constantFrom(1, 2, 13, 100, 4096),
        fc.constantFrom<How>(undefined, pauseEach, "room"),
        async (parts, isChunked, cuts, readBufferBytes, reader) => {
          const body = Buffer.concat(parts);
          const framed = isChunked
            ? Buffer.concat([
                latin1(chunked),
                ...parts.flatMap((part) => [
                  latin1(`${part.length.toString(16).toUpperCase()}\r\n`),
                  Buffer.from(part),
                  latin1("\r\n"),
                ]),
                latin1("0\r\n\r\n"),
              ])
            : Buffer.concat([latin1(`${ok}Content-Length: ${body.length}\r\n\r\n`), body]);
          const places = [...new Set(cuts.map((cut) => cut % framed.length))].sort((a, b) => a - b);
          pieces = [0, ...places].map((from, index) => framed.subarray(from, places[index]));
          const pool = poolTo(served.origin, { readBufferBytes });
          cleanups.pop();
          const sink = send(pool, get, reader);
          expect(await sink.over).toEqual({ kind: "end" });
          expect(sink.body.equals(body)).toBe(true);
          expect(sink.wrong).toEqual([]);
          expect(pool.size).toBe(1);
          pool.close();
        },
      ),
      { numRuns: 400 },
    );
  }, 60_000);
});
