// Plain requests: the client's side of HTTP/1.1 for the kind of request that most requests are, a GET or
// HEAD without a body whose head came whole. It costs a fraction of what Node's server does for the same
// (docs/performance.md). Whatever is not as plain as that, from a body to a byte that two programs could
// read differently, is not looked at twice: the connection goes to Node's server, with the bytes that came,
// and stays there.
//
// It promises that a request is answered here only when its reading is beyond doubt: one read holds one
// head, its lines end in CRLF, no header is there twice, none of them frames a body, and Host is a host.

import { type IncomingMessage, STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import { flush, type Outgoing, post } from "../core/jellyfin/outbox.ts";
import type { HeaderMemo } from "./client.ts";
import { isHost } from "./facts.ts";

/** What a client's headers are, read once for all requests of a connection that say the same. */
export interface HeaderBlock {
  readonly text: string;
  readonly rawHeaders: readonly string[];
  /** By lower-case name, as Node's. */
  readonly headers: IncomingMessage["headers"];
  readonly closes: boolean;
  readonly memo: HeaderMemo;
}

export interface PlainRequest {
  readonly method: string;
  readonly url: string;
  readonly block: HeaderBlock;
}

/** Honest heads have about twenty; whoever sends more is read by Node's parser. */
const headersLimit = 64;
/** What frames a body, changes the protocol, or asks for more than an answer. */
const notPlain = new Set([
  "content-length",
  "transfer-encoding",
  "expect",
  "upgrade",
  "te",
  "trailer",
  "http2-settings",
  "proxy-connection",
  "keep-alive",
]);
/** A path with its query, of printable ASCII and without a fragment. */
const targetForm = /^[\x21\x22\x24-\x7e]+$/;
const lowerNames = new Map<string, string>();
const namesRemembered = 1000;
const nameForm = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$/;
/** A value without control characters, and without blanks at its ends. */
const valueForm = /^(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?$/;

/**
 * Reads a head that came in one piece; undefined for whatever is not plain. `known` is the last block of
 * the same connection: clients repeat themselves.
 */
export function readPlain(text: string, known: HeaderBlock | undefined): PlainRequest | undefined {
  const method = text.startsWith("GET /") ? "GET" : text.startsWith("HEAD /") ? "HEAD" : undefined;
  if (method === undefined || !text.endsWith("\r\n\r\n")) return undefined;
  const lineEnd = text.indexOf("\r\n");
  if (!text.startsWith(" HTTP/1.1", lineEnd - 9)) return undefined;
  const url = text.slice(method.length + 1, lineEnd - 9);
  if (!targetForm.test(url)) return undefined;
  const rest = text.slice(lineEnd + 2);
  const block = known !== undefined && known.text === rest ? known : readBlock(rest);
  return block === undefined ? undefined : { method, url, block };
}

/** Reads header lines with the empty line at their end; undefined for what is not plain. */
function readBlock(text: string): HeaderBlock | undefined {
  // The block is kept: it must not hold on to the longer text that it was cut from.
  const lines = text.split("\r\n");
  // One empty line at the end, and nothing after it.
  if (lines.length < 3 || lines.length > headersLimit + 2) return undefined;
  const rawHeaders: string[] = [];
  const headers: IncomingMessage["headers"] = Object.create(null) as IncomingMessage["headers"];
  for (let index = 0; index < lines.length - 2; index++) {
    const line = lines[index] ?? "";
    const colon = line.indexOf(":");
    if (colon <= 0) return undefined;
    const name = line.slice(0, colon);
    const lower = lowerNameOf(name);
    if (lower === undefined || notPlain.has(lower) || headers[lower] !== undefined)
      return undefined;
    const value = line.slice(line.charCodeAt(colon + 1) === 32 ? colon + 2 : colon + 1);
    if (!valueForm.test(value)) return undefined;
    rawHeaders.push(name, value);
    headers[lower] = value;
  }
  const { host, connection = "keep-alive" } = headers;
  if (host === undefined || !isHost(host)) return undefined;
  const wish = connection.toLowerCase();
  if (wish !== "keep-alive" && wish !== "close") return undefined;
  return { text, rawHeaders, headers, closes: wish === "close", memo: {} };
}

function lowerNameOf(name: string): string | undefined {
  const known = lowerNames.get(name);
  if (known !== undefined) return known;
  if (!nameForm.test(name)) return undefined;
  const lower = name.toLowerCase();
  if (lowerNames.size < namesRemembered) lowerNames.set(name, lower);
  return lower;
}

export interface PlainLimits {
  /** A longer head is read by Node's parser, which has a limit of its own. */
  readonly headLimitBytes: number;
  /** A connection on which nothing came at all is closed after this. */
  readonly firstByteLimitMs: number;
  /** A connection is kept this long for another request. */
  readonly keepAliveLimitMs: number;
  /** A client that takes nothing of an answer which did not fit the kernel's buffers is cut off after this. */
  readonly stallLimitMs: number;
}

export interface PlainHost {
  readonly limits: PlainLimits;
  readonly monotonicMs: () => number;
  /** Answers one request. */
  readonly answer: (connection: PlainConnection, request: PlainRequest) => void;
  /** Takes over a connection with what came on it. */
  readonly handOver: (socket: Socket, bytes: Buffer) => void;
  /** A client sent nothing in time. */
  readonly onSilent: () => void;
}

/** The plain connections of one door. */
export class PlainConnections {
  readonly #host: PlainHost;
  readonly #all = new Set<PlainConnection>();

  constructor(host: PlainHost) {
    this.#host = host;
  }

  open(socket: Socket): void {
    const connection = new PlainConnection(socket, this.#host, (gone) => this.#all.delete(gone));
    this.#all.add(connection);
  }

  /** Closes those that took too long; called about once a second. */
  sweep(): void {
    const nowMs = this.#host.monotonicMs();
    for (const connection of this.#all) connection.sweep(nowMs);
  }

  closeIdle(): void {
    for (const connection of this.#all) if (connection.isIdle) connection.destroy();
  }

  closeAll(): void {
    flush();
    for (const connection of this.#all) connection.destroy();
  }
}

export class PlainConnection {
  readonly socket: Socket;
  readonly #host: PlainHost;
  readonly #onGone: (connection: PlainConnection) => void;
  #response: PlainResponse | undefined;
  #block: HeaderBlock | undefined;
  /** Came while an answer was under way; read when that has gone out. */
  #early: Buffer | undefined;
  #sinceMs: number;
  #hasHeard = false;
  #isGone = false;

  constructor(socket: Socket, host: PlainHost, onGone: (connection: PlainConnection) => void) {
    this.socket = socket;
    this.#host = host;
    this.#onGone = onGone;
    this.#sinceMs = host.monotonicMs();
    socket.on("data", this.#onData);
    socket.on("end", this.#onEnd);
    socket.on("error", this.#onError);
    socket.on("close", this.#onClose);
  }

  get isIdle(): boolean {
    return this.#response === undefined;
  }

  /** Begins the answer to the request that was handed out last. */
  begin(request: PlainRequest): PlainResponse {
    this.#response = new PlainResponse(this.socket, request, this.#host.limits, this.#onAnswered);
    return this.#response;
  }

  sweep(nowMs: number): void {
    if (this.#response !== undefined) return;
    const { limits } = this.#host;
    const idleMs = nowMs - this.#sinceMs;
    if (this.#hasHeard) {
      if (idleMs > limits.keepAliveLimitMs) this.destroy();
    } else if (idleMs > limits.firstByteLimitMs) {
      this.#host.onSilent();
      this.#leave();
      const line = `HTTP/1.1 408 ${STATUS_CODES[408]}`;
      this.socket.end(`${line}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`, () =>
        this.socket.destroy(),
      );
    }
  }

  destroy(): void {
    this.socket.destroy();
  }

  readonly #onData = (bytes: Buffer): void => {
    if (this.#response === undefined) this.#read(bytes);
    else if (this.#early === undefined) {
      // A client that sends ahead waits: nothing more is read until its answer has gone out.
      this.#early = bytes;
      this.socket.pause();
    } else this.#early = Buffer.concat([this.#early, bytes]);
  };

  #read(bytes: Buffer): void {
    this.#hasHeard = true;
    const request =
      bytes.length > this.#host.limits.headLimitBytes
        ? undefined
        : readPlain(bytes.toString("latin1"), this.#block);
    if (request === undefined) {
      this.#leave();
      this.#host.handOver(this.socket, bytes);
      return;
    }
    this.#block = request.block;
    this.#host.answer(this, request);
  }

  /** Lets go of the socket: it is another's from here on. */
  #leave(): void {
    const { socket } = this;
    socket.off("data", this.#onData);
    socket.off("end", this.#onEnd);
    socket.off("error", this.#onError);
    socket.off("close", this.#onClose);
    if (!this.#isGone) this.#onGone(this);
    this.#isGone = true;
  }

  readonly #onAnswered = (keeps: boolean): void => {
    this.#response = undefined;
    if (this.#isGone) return;
    if (!keeps) {
      this.socket.end(() => this.socket.destroy());
      return;
    }
    this.#sinceMs = this.#host.monotonicMs();
    const early = this.#early;
    if (early === undefined) return;
    this.#early = undefined;
    // Not from within the last answer's end, whose caller has still something to do.
    setImmediate(() => {
      if (this.#isGone || this.socket.destroyed) return;
      if (this.#response !== undefined) this.#early = early;
      else {
        this.#read(early);
        this.socket.resume();
      }
    });
  };

  /** The client will send no more: as for Node's server that means that it has left. */
  readonly #onEnd = (): void => {
    // Its answer may have been given in this very turn.
    if (this.#response?.hasEnded === true) flush();
    if (this.#response === undefined) this.socket.end();
    else this.socket.destroy();
  };

  readonly #onError = (): void => {
    this.socket.destroy();
  };

  readonly #onClose = (): void => {
    if (this.#isGone) return;
    this.#isGone = true;
    this.#onGone(this);
    this.#response?.abandon();
  };
}

/**
 * One answer. What the door uses of Node's ServerResponse, under the same names and with the same meaning.
 */
export class PlainResponse implements Outgoing {
  headersSent = false;
  /** Nothing more will be written to it. */
  hasEnded = false;
  /** It has gone out whole, or its client has gone. */
  closed = false;
  /** Its last byte has been given to the kernel. */
  writableFinished = false;
  shouldKeepAlive = true;
  onClosed: (() => void) | undefined;
  readonly socket: Socket;
  readonly #isHead: boolean;
  readonly #limits: PlainLimits;
  readonly #onAnswered: (keeps: boolean) => void;
  #head = "";
  #isChunked = false;
  #hasBody = true;
  /** Head and body while they wait in the outbox. */
  #unsent: string | undefined;
  #isWatched = false;

  constructor(
    socket: Socket,
    request: PlainRequest,
    limits: PlainLimits,
    onAnswered: (keeps: boolean) => void,
  ) {
    this.socket = socket;
    this.#isHead = request.method === "HEAD";
    this.#limits = limits;
    this.#onAnswered = onAnswered;
    if (request.block.closes) this.shouldKeepAlive = false;
  }

  /** Takes the head; it goes out with the first piece of the body, or with `flushHeaders`. */
  writeHead(status: number, statusText: string, headers: readonly string[]): void {
    this.headersSent = true;
    let head = `HTTP/1.1 ${status} ${statusText}\r\n`;
    let hasLength = false;
    let hasDate = false;
    for (let index = 0; index < headers.length; index += 2) {
      const name = headers[index] ?? "";
      switch (name.length) {
        case 4:
          if (!hasDate) hasDate = name.toLowerCase() === "date";
          break;
        case 10:
          if (name.toLowerCase() === "connection") {
            if (headers[index + 1]?.toLowerCase() === "close") this.shouldKeepAlive = false;
            continue;
          }
          break;
        case 14:
          if (!hasLength) hasLength = name.toLowerCase() === "content-length";
          break;
      }
      head += `${name}: ${headers[index + 1] ?? ""}\r\n`;
    }
    if (!hasDate) head += `Date: ${dateNow()}\r\n`;
    this.#hasBody = !this.#isHead && status !== 204 && status !== 304;
    if (this.#hasBody && !hasLength) {
      this.#isChunked = true;
      head += "Transfer-Encoding: chunked\r\n";
    }
    this.#head = this.shouldKeepAlive
      ? `${head}Connection: keep-alive\r\nKeep-Alive: timeout=${Math.floor(this.#limits.keepAliveLimitMs / 1000)}\r\n\r\n`
      : `${head}Connection: close\r\n\r\n`;
  }

  flushHeaders(): void {
    if (this.#head === "") return;
    const head = this.#head;
    this.#head = "";
    this.socket.write(head, "latin1");
    this.#watch();
  }

  /** From here on a client that takes nothing is cut off in time. */
  #watch(): void {
    if (this.#isWatched) return;
    this.#isWatched = true;
    this.socket.setTimeout(this.#limits.stallLimitMs, this.#onStalled);
  }

  readonly #onStalled = (): void => {
    this.socket.destroy();
  };

  /** True: more may be written at once. Else wait for `drain`. */
  write(piece: Buffer): boolean {
    if (!this.#hasBody || piece.length === 0) return true;
    this.flushHeaders();
    if (!this.#isChunked) return this.socket.write(piece);
    this.socket.cork();
    this.socket.write(`${piece.length.toString(16)}\r\n`, "latin1");
    this.socket.write(piece);
    const goesOn = this.socket.write("\r\n", "latin1");
    this.socket.uncork();
    return goesOn;
  }

  /** Ends it. A body given as text is one byte a character, and goes out with the head in one write. */
  end(body?: Buffer | string): void {
    if (this.hasEnded || this.closed) return;
    this.hasEnded = true;
    const { socket } = this;
    if (typeof body === "string" && !this.#isChunked) {
      this.#unsent = this.#hasBody ? this.#head + body : this.#head;
      this.#head = "";
      post(this);
      return;
    } else if (body !== undefined && body.length > 0 && this.#hasBody) {
      socket.cork();
      this.write(typeof body === "string" ? Buffer.from(body, "latin1") : body);
      if (this.#isChunked) socket.write("0\r\n\r\n", "latin1");
      socket.uncork();
    } else {
      const last = this.#isChunked ? "0\r\n\r\n" : "";
      if (this.#head !== "" || last !== "") socket.write(this.#head + last, "latin1");
      this.#head = "";
    }
    this.#written();
  }

  writeOut(): void {
    const text = this.#unsent;
    this.#unsent = undefined;
    if (text === undefined || this.closed || this.socket.destroyed) return;
    this.socket.write(text, "latin1");
    this.#written();
  }

  /** Everything was given to the socket; the kernel may not have it all. */
  #written(): void {
    const { socket } = this;
    if (socket.writableLength === 0) this.#finished();
    else {
      this.#watch();
      socket.write("", () => this.#finished());
    }
  }

  once(_event: "drain", listener: () => void): void {
    this.socket.once("drain", listener);
  }

  off(_event: "drain", listener: () => void): void {
    this.socket.off("drain", listener);
  }

  destroy(): void {
    this.socket.destroy();
  }

  /** The client has gone before the end. */
  abandon(): void {
    if (this.closed) return;
    this.closed = true;
    this.onClosed?.();
  }

  #finished(): void {
    if (this.closed || this.socket.destroyed) return;
    this.closed = true;
    this.writableFinished = true;
    if (this.#isWatched) this.socket.setTimeout(0, this.#onStalled);
    this.onClosed?.();
    this.#onAnswered(this.shouldKeepAlive);
  }
}

let dateText = "";
let dateSecond = 0;

/** The time as a Date header says it (RFC 9110, 5.6.7), made once a second. */
function dateNow(): string {
  const nowMs = Date.now();
  const second = Math.floor(nowMs / 1000);
  if (second !== dateSecond) {
    dateSecond = second;
    dateText = new Date(nowMs).toUTCString();
  }
  return dateText;
}
