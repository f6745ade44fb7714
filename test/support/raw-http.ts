// HTTP by hand, for tests of what a library would never send or would hide: a client that writes bytes as
// they are given and tells what came back, and a server that reads what reaches it more strictly than any
// real one. It promises that whatever a door sends upstream with a doubtful framing is noted as a violation.

import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { connect, createServer, type Server, type Socket } from "node:net";

export interface RawReply {
  readonly status: number;
  /** Name (lower case) and value, in order, as they came. */
  readonly headers: readonly (readonly [string, string])[];
  readonly body: Buffer;
  /** False when the connection ended before the body did. */
  readonly whole: boolean;
}

export interface RawExchange {
  readonly bytes: Buffer;
  readonly replies: readonly RawReply[];
  /** The other side ended the connection before the limit. */
  readonly closed: boolean;
  readonly elapsedMs: number;
}

export interface RawOptions {
  /** Pause before each piece but the first, in ms. */
  readonly pauseMs?: number;
  /** When to say that nothing more comes (FIN): after this much quiet in ms. Undefined: never. */
  readonly endAfterQuietMs?: number;
  /** The connection is given up after this, in ms. */
  readonly limitMs?: number;
  /** Requests sent with HEAD, by their number: their answers have no body. */
  readonly heads?: readonly number[];
  /** Ends the exchange once so many whole replies are in. */
  readonly replies?: number;
}

/** Sends the pieces over a connection of its own and collects what comes back until it closes. */
export function sendRaw(
  port: number,
  pieces: readonly (string | Buffer)[],
  options: RawOptions = {},
): Promise<RawExchange> {
  const { pauseMs = 0, endAfterQuietMs, limitMs = 10_000, heads = [], replies } = options;
  const startedMs = performance.now();
  return new Promise((resolve) => {
    const received: Buffer[] = [];
    let quiet: NodeJS.Timeout | undefined;
    let next: NodeJS.Timeout | undefined;
    let isOver = false;
    const socket = connect({ host: "127.0.0.1", port, allowHalfOpen: true });
    const finish = (closed: boolean): void => {
      if (isOver) return;
      isOver = true;
      for (const timer of [limit, quiet, next]) clearTimeout(timer);
      socket.destroy();
      const bytes = Buffer.concat(received);
      const elapsedMs = performance.now() - startedMs;
      resolve({ bytes, replies: parseReplies(bytes, heads), closed, elapsedMs });
    };
    const limit = setTimeout(() => finish(false), limitMs);
    const waitForQuiet = (): void => {
      if (endAfterQuietMs === undefined) return;
      clearTimeout(quiet);
      quiet = setTimeout(() => socket.end(), endAfterQuietMs);
    };
    const write = (index: number): void => {
      const piece = pieces[index];
      if (piece === undefined) {
        waitForQuiet();
        return;
      }
      if (socket.writable)
        socket.write(typeof piece === "string" ? Buffer.from(piece, "latin1") : piece);
      next = setTimeout(() => write(index + 1), pauseMs);
      if (pauseMs === 0) {
        clearTimeout(next);
        write(index + 1);
      }
    };
    socket.on("connect", () => write(0));
    socket.on("data", (chunk: Buffer) => {
      received.push(chunk);
      if (replies !== undefined) {
        const got = parseReplies(Buffer.concat(received), heads);
        if (got.length >= replies && got.slice(0, replies).every(({ whole }) => whole))
          finish(false);
      }
    });
    socket.on("end", () => finish(true));
    socket.on("error", () => finish(true));
    socket.on("close", () => finish(true));
  });
}

/** The replies in what a server sent; the last may be cut short. Interim replies (1xx) are among them. */
export function parseReplies(bytes: Buffer, heads: readonly number[] = []): RawReply[] {
  const replies: RawReply[] = [];
  let at = 0;
  let finals = 0;
  while (at < bytes.length) {
    const end = bytes.indexOf("\r\n\r\n", at, "latin1");
    if (end < 0) break;
    const lines = bytes.toString("latin1", at, end).split("\r\n");
    const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(lines.shift() ?? "")?.[1] ?? Number.NaN);
    const headers = lines.map((line): [string, string] => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    });
    at = end + 4;
    const valueFor = (name: string) => headers.find(([known]) => known === name)?.[1];
    const isHead = heads.includes(finals);
    if (status >= 200) finals++;
    if (status < 200 || status === 204 || status === 304 || isHead) {
      replies.push({ status, headers, body: Buffer.alloc(0), whole: true });
      continue;
    }
    const length = valueFor("content-length");
    if (length !== undefined) {
      const body = bytes.subarray(at, at + Number(length));
      at += Number(length);
      replies.push({ status, headers, body, whole: body.length === Number(length) });
    } else if (valueFor("transfer-encoding") === "chunked") {
      const read = readChunks(bytes, at);
      at = read.next;
      replies.push({ status, headers, body: read.body, whole: read.whole });
    } else {
      replies.push({ status, headers, body: bytes.subarray(at), whole: true });
      at = bytes.length;
    }
  }
  return replies;
}

function readChunks(bytes: Buffer, from: number): { body: Buffer; next: number; whole: boolean } {
  const pieces: Buffer[] = [];
  let at = from;
  for (;;) {
    const line = bytes.indexOf("\r\n", at, "latin1");
    if (line < 0) return { body: Buffer.concat(pieces), next: bytes.length, whole: false };
    const size = Number.parseInt(bytes.toString("latin1", at, line), 16);
    at = line + 2;
    if (size === 0) {
      const end = bytes.indexOf("\r\n", at, "latin1");
      return { body: Buffer.concat(pieces), next: end + 2, whole: end >= 0 };
    }
    pieces.push(bytes.subarray(at, at + size));
    at += size + 2;
    if (at > bytes.length) return { body: Buffer.concat(pieces), next: at, whole: false };
  }
}

/** The first value of a reply's header. */
export function headerOf(reply: RawReply | undefined, name: string): string | undefined {
  return reply?.headers.find(([known]) => known === name)?.[1];
}

export interface RecordedRequest {
  readonly method: string;
  /** Path and query, as they came. */
  readonly target: string;
  /** Name (lower case) and value, in order, as they came. */
  readonly headers: readonly (readonly [string, string])[];
  readonly body: Buffer;
}

/** What the recording server answers: the bytes of a whole reply, or undefined for its usual one. */
export type RecorderAnswer = (request: RecordedRequest) => string | Buffer | undefined;

/** A server that reads strictly and remembers all. Healthy, set up, and content with every request. */
export class Recorder {
  readonly requests: RecordedRequest[] = [];
  /** What no honest proxy sends. */
  readonly violations: string[] = [];
  answer: RecorderAnswer = () => undefined;
  /** How long clients' requests wait for their answer, in ms. */
  delayMs = 0;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #basePath: string;

  constructor(basePath: string) {
    this.#basePath = basePath;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}${this.#basePath}`;
  }

  async listen(): Promise<this> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return this;
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, "close");
  }

  /** Requests for clients, without those that the door makes itself. */
  get clients(): RecordedRequest[] {
    return this.requests.filter(({ headers }) =>
      headers.some(([name]) => name === "x-forwarded-for"),
    );
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("error", () => undefined);
    let held = Buffer.alloc(0);
    socket.on("data", (chunk: Buffer) => {
      held = Buffer.concat([held, chunk]);
      const read = this.#read(held);
      if (read === undefined) return;
      if (read === "violation") {
        socket.destroy();
        return;
      }
      held = held.subarray(read.next);
      // The door never pipelines, so what follows a request before its answer was framed by nobody.
      if (held.length > 0) this.#violation("bytes follow a request", held);
      this.requests.push(read.request);
      const reply = this.answer(read.request) ?? this.#usual(read.request);
      const isOfClient = this.clients.at(-1) === read.request;
      if (this.delayMs === 0 || !isOfClient) socket.write(reply);
      else setTimeout(() => socket.write(reply), this.delayMs);
    });
  }

  #violation(what: string, bytes: Buffer): "violation" {
    this.violations.push(`${what}: ${JSON.stringify(bytes.toString("latin1").slice(0, 300))}`);
    return "violation";
  }

  #read(bytes: Buffer): { request: RecordedRequest; next: number } | undefined | "violation" {
    const end = bytes.indexOf("\r\n\r\n", 0, "latin1");
    if (end < 0) return undefined;
    const [first = "", ...lines] = bytes.toString("latin1", 0, end).split("\r\n");
    const [, method = "", target = ""] =
      /^([A-Z]+) (\/[\x21-\x7e\x80-\xff]*) HTTP\/1\.1$/.exec(first) ?? [];
    if (method === "" || target.includes("#")) return this.#violation("request line", bytes);
    const headers: [string, string][] = [];
    for (const line of lines) {
      const [, name, value = ""] =
        /^([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t\x20-\x7e\x80-\xff]*)$/.exec(line) ?? [];
      if (name === undefined) return this.#violation("header", bytes);
      headers.push([name.toLowerCase(), value]);
    }
    const valuesOf = (wanted: string) =>
      headers.filter(([name]) => name === wanted).map(([, value]) => value);
    const lengths = valuesOf("content-length");
    const codings = valuesOf("transfer-encoding");
    if (valuesOf("host").length !== 1) return this.#violation("not one Host", bytes);
    if (lengths.length + codings.length > 1) return this.#violation("framed twice", bytes);
    if (lengths.some((length) => !/^\d{1,15}$/.test(length)))
      return this.#violation("length", bytes);
    if (codings.some((coding) => coding !== "chunked")) return this.#violation("coding", bytes);
    const from = end + 4;
    if (codings.length > 0) {
      const { body, next, whole } = readChunks(bytes, from);
      return whole ? { request: { method, target, headers, body }, next } : undefined;
    }
    const next = from + Number(lengths[0] ?? 0);
    if (bytes.length < next) return undefined;
    return { request: { method, target, headers, body: bytes.subarray(from, next) }, next };
  }

  #usual({ method, target }: RecordedRequest): string {
    const [path = ""] = target.slice(this.#basePath.length).split("?");
    const info = {
      LocalAddress: this.url,
      ServerName: "Recorder",
      Version: "12.0.0",
      ProductName: "Jellyfin Server",
      Id: "0123456789abcdef0123456789abcdef",
      StartupWizardCompleted: true,
    };
    if (path === "/health") return replyText(method, "Healthy", "text/plain");
    if (path === "/System/Info/Public") return replyText(method, JSON.stringify(info));
    return replyText(method, JSON.stringify({ Seen: this.requests.length }));
  }
}

/** A plain 200 with its length. */
export function replyText(method: string, text: string, type = "application/json"): string {
  const head = `HTTP/1.1 200 OK\r\nContent-Type: ${type}\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n`;
  return method === "HEAD" ? head : head + text;
}

export function startRecorder(options: { basePath?: string } = {}): Promise<Recorder> {
  return new Recorder(options.basePath ?? "").listen();
}
