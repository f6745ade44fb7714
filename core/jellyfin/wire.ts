// The wire: HTTP/1.1 towards servers, as little of it as we need and as cheap as it can be. A
// request is one buffered write; an answer is read into one reused buffer per connection, or where its
// receiver keeps it, and handed on as views of that, so that a film's bytes are never copied in JavaScript.
//
// It promises that every exchange ends with exactly one of `onEnd` and `onBroken` (or nothing after
// `abort`), and that what broke says what the replica may have seen. Whatever is not plain RFC 9112
// framing breaks the exchange: it is never guessed at.
//
// undici was measured at 41 to 47 µs for a small request where this needs about 10 (docs/performance.md),
// and cannot hand out a reused buffer. Uploads larger than the body buffer still go through undici.

import { connect as connectTcp, isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { type Outgoing, post } from "./outbox.ts";

export interface ResponseHead {
  readonly status: number;
  readonly statusText: string;
  /** Name, value, name, value …, without the headers of the connection itself (RFC 9110, 7.6.1). */
  readonly headers: string[];
  /** Undefined when the length is told by chunks or by the end of the connection. */
  readonly contentLength: number | undefined;
  /** False when a body cannot follow (HEAD, 204, 304). */
  readonly hasBody: boolean;
}

export type BrokenPhase =
  /** No connection was made: the replica has seen nothing. */
  | "notConnected"
  /** The request was sent, wholly or in part; the replica may have carried it out. */
  | "beforeReply"
  | "duringReply";

export interface WireSink {
  onHead(head: ResponseHead): void;
  /**
   * A piece of the body: a view of a buffer that is used again after this call, unless it answers false.
   * After false nothing more is read until `resume()`, and the view stays as it is until then.
   */
  onData(chunk: Buffer): boolean;
  /**
   * Where the next bytes of a body of known length are to be read: they are handed to `onData` there, and nobody
   * else uses that memory until the exchange is over. Undefined: into the connection's own buffer. Who gives room
   * never answers false to `onData`.
   */
  room?(): Buffer | undefined;
  onEnd(): void;
  /** `why` is for the log: no secrets. */
  onBroken(phase: BrokenPhase, why: string): void;
}

export interface WirePoolOptions {
  /** `http://host:port` or `https://…`. */
  readonly origin: string;
  /** Size of each connection's read buffer, in bytes. */
  readonly readBufferBytes: number;
  readonly connectionsLimit: number;
  /** Exchanges that may wait for a connection; one more is broken at once. */
  readonly waitingLimit: number;
  readonly connectLimitMs: number;
  /** How long an idle connection is kept, in ms. Must be shorter than the server's (Kestrel: 130 s). */
  readonly idleLimitMs: number;
  /** A larger response head breaks the exchange. */
  readonly headLimitBytes: number;
  /** False: idle connections let the process end. Default true. */
  readonly lingers?: boolean;
  readonly now: () => number;
}

export interface WireRequest {
  /** Request line and headers, with the empty line. */
  readonly head: string;
  readonly body: Buffer | undefined;
  /** A HEAD request's answer has no body, whatever it says. */
  readonly isHead: boolean;
  /** Must not meet a connection that the server may be closing just now: it cannot be repeated. */
  readonly fresh: boolean;
}

/** One request on its way. */
export class Exchange {
  readonly request: WireRequest;
  readonly sink: WireSink;
  connection: Connection | undefined;
  hasHead = false;
  isOver = false;
  readonly #pool: WirePool;

  constructor(pool: WirePool, request: WireRequest, sink: WireSink) {
    this.#pool = pool;
    this.request = request;
    this.sink = sink;
  }

  /** Reads on after `onData` answered false. */
  resume(): void {
    // After its end the connection may be another exchange's, paused for reasons of its own.
    if (!this.isOver) this.connection?.resume();
  }

  /**
   * Ends it without a word to the sink; the replica sees its connection closed at once. `isViewDropped`: nobody reads
   * any more in the view that was handed out last, though `onData` answered false.
   */
  abort(isViewDropped = false): void {
    if (this.isOver) return;
    this.isOver = true;
    this.#pool.forget(this);
    this.connection?.destroy(isViewDropped);
  }

  /** Ends it as broken from outside: the replica was found to be gone. */
  breakOff(why: string): void {
    if (this.isOver) return;
    const phase = this.hasHead
      ? "duringReply"
      : this.connection?.isConnected === true
        ? "beforeReply"
        : "notConnected";
    this.isOver = true;
    this.#pool.forget(this);
    this.connection?.destroy();
    this.sink.onBroken(phase, why);
  }
}

/** Idle connections beyond this number are what a burst left behind. */
const spareConnections = 4;
const burstIdleLimitMs = 3000;

/** Read buffers of connections that are gone, kept for the next ones: new ones are garbage that lies outside the heap. */
const spareBuffersLimit = 16;

/** Connections to one replica, of one kind (small reads or large). */
export class WirePool {
  readonly options: WirePoolOptions;
  readonly secure: boolean;
  readonly host: string;
  readonly port: number;
  readonly #idle: Connection[] = [];
  readonly #all = new Set<Connection>();
  readonly #waiting: Exchange[] = [];
  readonly #spareBuffers: Buffer[] = [];
  #isClosed = false;

  constructor(options: WirePoolOptions) {
    this.options = options;
    const url = new URL(options.origin);
    this.secure = url.protocol === "https:";
    this.host = url.hostname.replace(/^\[|\]$/g, "");
    this.port = url.port === "" ? (this.secure ? 443 : 80) : Number(url.port);
  }

  /** Connections open now, idle ones included. */
  get size(): number {
    return this.#all.size;
  }

  send(request: WireRequest, sink: WireSink): Exchange {
    const exchange = new Exchange(this, request, sink);
    if (!request.fresh) {
      const idle = this.#idle.pop();
      if (idle !== undefined) {
        if (this.options.lingers === false) idle.holdProcess(true);
        idle.begin(exchange, true);
        return exchange;
      }
    }
    if (this.#isClosed || this.#all.size >= this.options.connectionsLimit) {
      // A fresh connection is wanted and the limit is reached: an idle one makes room.
      const idle = request.fresh ? this.#idle.shift() : undefined;
      if (idle === undefined) {
        this.#wait(exchange);
        return exchange;
      }
      idle.destroy();
    }
    this.#open(exchange);
    return exchange;
  }

  /**
   * Closes idle connections that are too old; called now and then by the door. What a burst opened goes
   * sooner than the few that ordinary use takes up again.
   */
  sweep(): void {
    // One at a time: after a busy second they are gone in a quarter of a minute.
    this.#spareBuffers.pop();
    const nowMs = this.options.now();
    const oldestMs = nowMs - this.options.idleLimitMs;
    const burstMs = nowMs - burstIdleLimitMs;
    while (this.#idle.length > 0) {
      const first = this.#idle[0];
      const keptFromMs = this.#idle.length > spareConnections ? burstMs : oldestMs;
      if (first === undefined || first.idleSinceMs > Math.max(keptFromMs, oldestMs)) return;
      this.#idle.shift();
      first.destroy();
    }
  }

  /** Closes every idle connection: the replica behind them is gone or was replaced. */
  dropIdle(): void {
    for (const connection of this.#idle.splice(0)) connection.destroy();
  }

  close(): void {
    this.#isClosed = true;
    this.dropIdle();
    for (const exchange of this.#waiting.splice(0)) this.#refuse(exchange, "the pool was closed");
    for (const connection of this.#all) connection.breakOff("the pool was closed");
  }

  /** A connection has ended its exchange and can take the next. */
  free(connection: Connection): void {
    if (this.#waiting[0]?.request.fresh === true) {
      // Its place is taken by a connection that is new, as that request must have.
      connection.destroy();
      return;
    }
    const next = this.#waiting.shift();
    if (next !== undefined) {
      connection.begin(next, true);
      return;
    }
    connection.idleSinceMs = this.options.now();
    if (this.options.lingers === false) connection.holdProcess(false);
    this.#idle.push(connection);
  }

  /** For a connection's reads; its own until it gives it back, or is forgotten with it. */
  takeBuffer(): Buffer {
    return this.#spareBuffers.pop() ?? Buffer.allocUnsafeSlow(this.options.readBufferBytes);
  }

  /** Nobody reads in it any more, and nothing is read into it. */
  giveBuffer(buffer: Buffer): void {
    if (this.#spareBuffers.length < spareBuffersLimit) this.#spareBuffers.push(buffer);
  }

  /** A connection is gone. */
  lost(connection: Connection): void {
    if (!this.#all.delete(connection)) return;
    const index = this.#idle.indexOf(connection);
    if (index >= 0) this.#idle.splice(index, 1);
    if (this.#isClosed) return;
    const next = this.#waiting.shift();
    if (next !== undefined) this.#open(next);
  }

  forget(exchange: Exchange): void {
    if (exchange.connection !== undefined) return;
    const index = this.#waiting.indexOf(exchange);
    if (index >= 0) this.#waiting.splice(index, 1);
  }

  #open(exchange: Exchange): void {
    const connection = new Connection(this);
    this.#all.add(connection);
    connection.begin(exchange, false);
  }

  #wait(exchange: Exchange): void {
    if (this.#isClosed || this.#waiting.length >= this.options.waitingLimit) {
      // Not from within `send`: the caller has no exchange in hand yet.
      queueMicrotask(() => this.#refuse(exchange, "too many requests wait for a connection"));
      return;
    }
    this.#waiting.push(exchange);
  }

  #refuse(exchange: Exchange, why: string): void {
    if (exchange.isOver) return;
    exchange.isOver = true;
    exchange.sink.onBroken("notConnected", why);
  }
}

const reading = {
  /** No exchange. */
  idle: 0,
  head: 1,
  length: 2,
  chunkSize: 3,
  chunkData: 4,
  /** The CRLF after a chunk's data. */
  chunkEnd: 5,
  trailers: 6,
  untilClose: 7,
} as const;

const carriageReturn = 13;
const lineFeed = 10;
/** A chunk-size line with its extensions, or the trailers, longer than this are nobody's honest framing. */
const lineLimitBytes = 8 * 1024;

class Connection implements Outgoing {
  isConnected = false;
  idleSinceMs = 0;
  readonly #pool: WirePool;
  readonly #socket: Socket;
  #readBuffer: Buffer | undefined;
  #connectTimer: NodeJS.Timeout | undefined;
  #exchange: Exchange | undefined;
  /** The request's head while it waits in the outbox. */
  #unsent: string | undefined;
  #state: number = reading.idle;
  /** Bytes of the body, or of the chunk, still to come. */
  #left = 0;
  /** The beginning of a head or line that has not come whole yet. */
  #partial: Buffer | undefined;
  /** What was read and not handed on because the sink said stop. */
  #rest: Buffer | undefined;
  #isPaused = false;
  #keepAlive = true;
  #trailerBytes = 0;
  #hasEnded = false;

  constructor(pool: WirePool) {
    this.#pool = pool;
    const { host, port, options } = pool;
    if (pool.secure) {
      // A TLS socket decrypts into buffers of its own, so nothing is reused there.
      // A name for SNI is a host name, never an address (RFC 6066, 3).
      this.#socket = connectTls({ host, port, ...(isIP(host) === 0 ? { servername: host } : {}) });
      this.#socket.on("data", (chunk: Buffer) => {
        if (!this.#feed(chunk)) this.#socket.pause();
      });
      this.#socket.once("secureConnect", () => this.#connected());
    } else {
      const readBuffer = pool.takeBuffer();
      this.#readBuffer = readBuffer;
      this.#socket = connectTcp({
        host,
        port,
        noDelay: true,
        onread: {
          // Asked before the first read and after each.
          buffer: () => this.#roomInSink() ?? readBuffer,
          callback: (length: number, buffer: Uint8Array): boolean =>
            this.#feed((buffer as Buffer).subarray(0, length)),
        },
      });
      this.#socket.once("connect", () => this.#connected());
    }
    this.#connectTimer = setTimeout(() => {
      this.#broken("no connection could be made in time");
    }, options.connectLimitMs);
    this.#socket.on("error", (error: NodeJS.ErrnoException) => {
      this.#broken(error.code ?? error.name);
    });
    this.#socket.on("end", () => this.#ended());
    this.#socket.on("close", () => this.#broken("the connection was closed"));
  }

  begin(exchange: Exchange, reused: boolean): void {
    this.#exchange = exchange;
    this.#state = reading.head;
    this.#keepAlive = true;
    exchange.connection = this;
    const { head, body } = exchange.request;
    if (body === undefined || body.length === 0) {
      if (reused) {
        this.#unsent = head;
        post(this);
      } else this.#socket.write(head, "latin1");
      return;
    }
    this.#socket.cork();
    this.#socket.write(head, "latin1");
    this.#socket.write(body);
    this.#socket.uncork();
  }

  writeOut(): void {
    const head = this.#unsent;
    if (head === undefined) return;
    this.#unsent = undefined;
    this.#socket.write(head, "latin1");
  }

  /** Whether the process stays alive for this connection. */
  holdProcess(does: boolean): void {
    if (does) this.#socket.ref();
    else this.#socket.unref();
  }

  resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    const rest = this.#rest;
    this.#rest = undefined;
    if (rest !== undefined && !this.#feed(rest)) return;
    // The last bytes were handed on while the sink said stop: only now is the buffer free again.
    if (this.#state === reading.length && this.#left === 0 && this.#exchange !== undefined) {
      this.#finish(this.#exchange);
    }
    if (this.#hasEnded) this.#ended();
    else this.#socket.resume();
  }

  /** Ends the exchange as broken, if there is one, and the connection with it. */
  breakOff(why: string): void {
    // Somebody may still read in what was handed out last: the buffer is theirs.
    if (this.#isPaused) this.#readBuffer = undefined;
    this.#isPaused = false;
    this.#broken(why);
  }

  destroy(isViewDropped = false): void {
    clearTimeout(this.#connectTimer);
    this.#exchange = undefined;
    this.#unsent = undefined;
    this.#state = reading.idle;
    this.#pool.lost(this);
    // Its handle is closed with this: nothing is read into the buffer from here on.
    this.#socket.destroy();
    const isFree = isViewDropped || !this.#isPaused;
    if (isFree && this.#readBuffer !== undefined) this.#pool.giveBuffer(this.#readBuffer);
    this.#readBuffer = undefined;
  }

  #connected(): void {
    this.isConnected = true;
    clearTimeout(this.#connectTimer);
  }

  #ended(): void {
    this.#hasEnded = true;
    this.#keepAlive = false;
    // What is still in hand goes out first; `resume` comes back here. (A TLS socket may read ahead.)
    if (this.#isPaused) return;
    const exchange = this.#exchange;
    if (this.#state === reading.untilClose && exchange !== undefined) this.#finish(exchange);
    else this.#broken("the server closed the connection");
  }

  #broken(why: string): void {
    if (this.#hasEnded && this.#isPaused) return;
    const exchange = this.#exchange;
    const phase: BrokenPhase = !this.isConnected
      ? "notConnected"
      : exchange?.hasHead === true
        ? "duringReply"
        : "beforeReply";
    this.destroy();
    if (exchange === undefined || exchange.isOver) return;
    exchange.isOver = true;
    exchange.sink.onBroken(phase, why);
  }

  #roomInSink(): Buffer | undefined {
    return this.#state === reading.length ? this.#exchange?.sink.room?.() : undefined;
  }

  /** Takes what was read; false: read no more until `resume`. */
  #feed(chunk: Buffer): boolean {
    // An answer to something that was not sent yet.
    if (this.#unsent !== undefined) return this.#misframed("it came before its question");
    let at = 0;
    const end = chunk.length;
    while (at < end) {
      const exchange = this.#exchange;
      if (exchange === undefined) {
        // Bytes that nobody asked for: the framing of what came before was not what we thought.
        this.destroy();
        return false;
      }
      switch (this.#state) {
        case reading.head: {
          const used = this.#readHead(exchange, chunk, at);
          if (used < 0) return false;
          at = used;
          break;
        }
        case reading.length:
        case reading.chunkData: {
          const take = Math.min(this.#left, end - at);
          this.#left -= take;
          const view = at === 0 && take === end ? chunk : chunk.subarray(at, at + take);
          at += take;
          const goesOn = exchange.sink.onData(view);
          // The sink may have ended the exchange, or been ended by the client leaving.
          if (exchange.isOver) return false;
          if (this.#left === 0) {
            if (this.#state === reading.chunkData) this.#state = reading.chunkEnd;
            else if (at < end) return this.#misframed("more bytes came than the length said");
            else if (goesOn) {
              this.#finish(exchange);
              return true;
            }
          }
          if (!goesOn) return this.#pause(chunk, at);
          break;
        }
        case reading.chunkSize:
        case reading.chunkEnd:
        case reading.trailers: {
          const used = this.#readLine(exchange, chunk, at);
          if (used < 0) return false;
          at = used;
          break;
        }
        case reading.untilClose: {
          const view = at === 0 ? chunk : chunk.subarray(at);
          at = end;
          if (!exchange.sink.onData(view)) {
            return exchange.isOver ? false : this.#pause(chunk, at);
          }
          break;
        }
        default:
          return false;
      }
    }
    return true;
  }

  #pause(chunk: Buffer, at: number): boolean {
    this.#isPaused = true;
    if (at < chunk.length) this.#rest = chunk.subarray(at);
    return false;
  }

  #misframed(why: string): false {
    this.#broken(`malformed answer: ${why}`);
    return false;
  }

  /** Index after the head, or -1 when the connection is gone. Takes all bytes while it is not whole. */
  #readHead(exchange: Exchange, chunk: Buffer, from: number): number {
    let text: Buffer = from === 0 ? chunk : chunk.subarray(from);
    const before = this.#partial?.length ?? 0;
    if (this.#partial !== undefined) text = Buffer.concat([this.#partial, text]);
    const stop = text.indexOf("\r\n\r\n", Math.max(0, before - 3), "latin1");
    if ((stop < 0 ? text.length : stop) > this.#pool.options.headLimitBytes) {
      this.#misframed("its head is too large");
      return -1;
    }
    if (stop < 0) {
      this.#partial = this.#partial === undefined ? Buffer.from(text) : text;
      return chunk.length;
    }
    this.#partial = undefined;
    const head = parseHead(text.toString("latin1", 0, stop), exchange.request.isHead);
    if (typeof head === "string") {
      this.#misframed(head);
      return -1;
    }
    const next = from + stop + 4 - before;
    // An interim answer (100, 103) is followed by the real one.
    if (head.status < 200) {
      if (head.status === 101) {
        this.#misframed("it switched protocols unasked");
        return -1;
      }
      return next;
    }
    this.#keepAlive = head.keepAlive;
    exchange.hasHead = true;
    this.#state = !head.hasBody
      ? reading.idle
      : head.isChunked
        ? reading.chunkSize
        : head.contentLength === undefined
          ? reading.untilClose
          : reading.length;
    this.#left = head.contentLength ?? 0;
    exchange.sink.onHead(head);
    if (exchange.isOver) return -1;
    if (this.#state === reading.idle || (this.#state === reading.length && this.#left === 0)) {
      if (next < chunk.length) {
        this.#misframed("bytes followed an answer that has no body");
        return -1;
      }
      this.#finish(exchange);
    }
    return next;
  }

  /** Reads one line of chunked framing (RFC 9112, 7.1). Index after it, or -1 when the exchange is over. */
  #readLine(exchange: Exchange, chunk: Buffer, from: number): number {
    const newline = chunk.indexOf(lineFeed, from);
    if (newline < 0) {
      const tail = chunk.subarray(from);
      const partial =
        this.#partial === undefined ? Buffer.from(tail) : Buffer.concat([this.#partial, tail]);
      if (partial.length > lineLimitBytes) {
        this.#misframed("a line of its chunks is too long");
        return -1;
      }
      this.#partial = partial;
      return chunk.length;
    }
    let line = chunk.toString("latin1", from, newline);
    if (this.#partial !== undefined) {
      line = this.#partial.toString("latin1") + line;
      this.#partial = undefined;
    }
    if (line.length > lineLimitBytes) {
      this.#misframed("a line of its chunks is too long");
      return -1;
    }
    if (line.charCodeAt(line.length - 1) !== carriageReturn) {
      this.#misframed("a line of its chunks ends without CR");
      return -1;
    }
    line = line.slice(0, -1);
    const next = newline + 1;
    switch (this.#state) {
      case reading.chunkEnd:
        if (line !== "") {
          this.#misframed("a chunk is longer than it said");
          return -1;
        }
        this.#state = reading.chunkSize;
        return next;
      case reading.chunkSize: {
        const size = chunkSizeOf(line);
        if (size === undefined) {
          this.#misframed("a chunk's size cannot be read");
          return -1;
        }
        this.#left = size;
        this.#trailerBytes = 0;
        this.#state = size === 0 ? reading.trailers : reading.chunkData;
        return next;
      }
      default:
        this.#trailerBytes += line.length;
        if (this.#trailerBytes > lineLimitBytes) {
          this.#misframed("its trailers are too long");
          return -1;
        }
        // Trailers of a replica are dropped: Jellyfin sends none, and RFC 9110 6.5.1 allows it.
        if (line !== "") return next;
        if (next < chunk.length) {
          this.#misframed("bytes followed its last chunk");
          return -1;
        }
        this.#finish(exchange);
        return next;
    }
  }

  #finish(exchange: Exchange): void {
    this.#exchange = undefined;
    this.#state = reading.idle;
    exchange.isOver = true;
    if (this.#keepAlive) this.#pool.free(this);
    else this.destroy();
    exchange.sink.onEnd();
  }
}

function chunkSizeOf(line: string): number | undefined {
  const digits = /^([0-9a-fA-F]{1,12})[ \t]*(?:;.*)?$/.exec(line)?.[1];
  return digits === undefined ? undefined : Number.parseInt(digits, 16);
}

interface ParsedHead extends ResponseHead {
  readonly keepAlive: boolean;
  readonly isChunked: boolean;
}

/** Parses a response head without its empty line, or says what is wrong with it. */
export function parseHead(text: string, isHead: boolean): ParsedHead | string {
  let lineEnd = text.indexOf("\r\n");
  if (lineEnd < 0) lineEnd = text.length;
  if (!/^HTTP\/1\.[01] /.test(text)) return "its status line is not HTTP/1";
  const digits = text.slice(9, Math.min(lineEnd, 13)).trimEnd();
  if (!/^[1-9]\d\d$/.test(digits)) return "its status cannot be read";
  const status = Number(digits);
  const statusText = lineEnd > 13 ? text.slice(13, lineEnd) : "";
  if (unfitInText.test(statusText)) return "its status line has control characters";
  const isFirstVersion = text.charCodeAt(7) === 48;
  let keepAlive = !isFirstVersion;
  let closes = false;
  let contentLength: number | undefined;
  let isChunked = false;
  const headers: string[] = [];
  let named: string[] | undefined;
  let at = lineEnd + 2;
  while (at < text.length) {
    let end = text.indexOf("\r\n", at);
    if (end < 0) end = text.length;
    const colon = text.indexOf(":", at);
    if (colon <= at || colon >= end) return "one of its headers cannot be read";
    const name = text.slice(at, colon);
    const value = trimmed(text, colon + 1, end);
    if (unfitInText.test(value)) return "one of its headers has control characters";
    at = end + 2;
    switch (responseHeaderKind(name)) {
      case "plain":
        headers.push(name, value);
        break;
      case "length": {
        if (!/^\d{1,15}$/.test(value)) return "its Content-Length cannot be read";
        const length = Number(value);
        if (contentLength !== undefined && contentLength !== length) {
          return "it has two different lengths";
        }
        contentLength = length;
        break;
      }
      case "transferEncoding":
        if (isChunked || isFirstVersion || value.toLowerCase() !== "chunked") {
          return "its Transfer-Encoding is not chunked";
        }
        isChunked = true;
        break;
      case "connection": {
        const options = value.toLowerCase();
        if (options.includes("close")) closes = true;
        if (options.includes("keep-alive")) keepAlive = true;
        if (options !== "close" && options !== "keep-alive") {
          named = [...(named ?? []), ...options.split(/\s*,\s*/)];
        }
        break;
      }
      case "hop":
        break;
      case "unfit":
        return "one of its headers cannot be read";
    }
  }
  if (closes) keepAlive = false;
  if (isChunked && contentLength !== undefined) return "it has a length and chunks";
  const hasBody = !isHead && status !== 204 && status !== 304 && status >= 200;
  if (hasBody && !isChunked && contentLength === undefined) keepAlive = false;
  const kept = named === undefined ? headers : withoutNamed(headers, named);
  return { status, statusText, headers: kept, contentLength, hasBody, keepAlive, isChunked };
}

type ResponseHeaderKind =
  | "plain"
  | "length"
  | "transferEncoding"
  | "connection"
  | "hop"
  /** No name at all: a folded line, or white space before the colon (RFC 9112, 5.1 and 5.2). */
  | "unfit";

/** Control characters, half of a line end among them (RFC 9110, 5.5): they must not reach a client. */
const unfitInText = /[^\t\x20-\x7e\x80-\xff]/;

/** Servers spell the same few names alike each time: looked up as they come, lower-cased once. */
const kindByName = new Map<string, ResponseHeaderKind>();
const namesRemembered = 1000;

function responseHeaderKind(name: string): ResponseHeaderKind {
  const known = kindByName.get(name);
  if (known !== undefined) return known;
  const kind = kindOf(name.toLowerCase());
  if (kindByName.size < namesRemembered) kindByName.set(name, kind);
  return kind;
}

function kindOf(name: string): ResponseHeaderKind {
  switch (name) {
    case "content-length":
      return "length";
    case "transfer-encoding":
      return "transferEncoding";
    case "connection":
      return "connection";
    case "keep-alive":
    case "proxy-connection":
    case "proxy-authenticate":
    case "te":
    case "trailer":
    case "upgrade":
      return "hop";
    default:
      return /^[!#$%&'*+.^_`|~0-9a-z-]+$/.test(name) ? "plain" : "unfit";
  }
}

function withoutNamed(headers: readonly string[], names: readonly string[]): string[] {
  const kept: string[] = [];
  for (let index = 0; index < headers.length; index += 2) {
    const name = headers[index] ?? "";
    if (!names.includes(name.toLowerCase())) kept.push(name, headers[index + 1] ?? "");
  }
  return kept;
}

function trimmed(text: string, from: number, to: number): string {
  let start = from;
  let end = to;
  while (start < end && isBlank(text.charCodeAt(start))) start++;
  while (end > start && isBlank(text.charCodeAt(end - 1))) end--;
  return text.slice(start, end);
}

function isBlank(code: number): boolean {
  return code === 32 || code === 9;
}
