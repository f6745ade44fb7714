// A client that costs little: one connection, one request at a time, bodies counted and thrown away
// from one reused buffer. It is small because the machine that measures a proxy also runs its clients,
// and every microsecond spent here is one the proxy must wait for. It promises the status, the number
// of body bytes and the times, and rejects when an answer is not framed or not whole.

import { connect, type Socket } from "node:net";

export interface Read {
  readonly status: number;
  readonly bytes: number;
  /** From the request's writing to the body's last byte, in ms. */
  readonly durationMs: number;
}

interface Pending {
  readonly resolve: (read: Read) => void;
  readonly reject: (error: Error) => void;
  readonly startedMs: number;
}

/** A whole answer must arrive within this time, in ms. */
const answerLimitMs = 120_000;

export class Reader {
  readonly #socket: Socket;
  readonly #bitsPerSecond: number;
  readonly #onBytes: ((bytes: number) => void) | undefined;
  #pending: Pending | undefined;
  /** The head so far, or undefined while a body is read. */
  #head: string | undefined = "";
  #status = 0;
  #bodyBytes = 0;
  #left = 0;
  #chunkedTail: string | undefined;
  #firstByteMs = 0;

  /**
   * @param port on the loopback address
   * @param bufferBytes size of the buffer that bodies are read into
   * @param bitsPerSecond the pace at which bodies are read; 0 for as fast as they come
   * @param onBytes told how many bytes of the current body have come
   */
  constructor(
    port: number,
    bufferBytes: number,
    bitsPerSecond = 0,
    onBytes?: (bytes: number) => void,
  ) {
    this.#bitsPerSecond = bitsPerSecond;
    this.#onBytes = onBytes;
    this.#socket = connect({
      port,
      host: "127.0.0.1",
      noDelay: true,
      onread: {
        buffer: Buffer.allocUnsafe(bufferBytes),
        callback: (count, buffer) => this.#onRead(count, buffer),
      },
    });
    this.#socket.setTimeout(answerLimitMs, () => this.#fail(new Error("no byte came in time")));
    this.#socket.on("error", (error) => this.#fail(error));
    this.#socket.on("close", () => this.#fail(new Error("the connection was closed")));
  }

  /** Sends one GET and answers when its whole body has come. `headers` are lines with CRLF. */
  get(path: string, headers: string): Promise<Read> {
    return new Promise((resolve, reject) => {
      if (this.#pending !== undefined) throw new Error("one request at a time");
      this.#pending = { resolve, reject, startedMs: performance.now() };
      this.#head = "";
      this.#socket.write(`GET ${path} HTTP/1.1\r\nHost: bench\r\n${headers}\r\n`);
    });
  }

  /** Leaves at once, with whatever is unread, as a client does that seeks or closes its page. */
  leave(): void {
    this.#pending = undefined;
    this.#socket.destroy();
  }

  #onRead(count: number, buffer: Uint8Array): boolean {
    let from = 0;
    if (this.#head !== undefined) {
      const text =
        this.#head + Buffer.from(buffer.buffer, buffer.byteOffset, count).toString("latin1");
      const end = text.indexOf("\r\n\r\n");
      if (end < 0) {
        this.#head = text;
        return true;
      }
      from = end + 4 - this.#head.length;
      this.#beginBody(text.slice(0, end));
    }
    this.#onBody(count - from, Buffer.from(buffer.buffer, buffer.byteOffset + from, count - from));
    return true;
  }

  #beginBody(head: string): void {
    this.#head = undefined;
    this.#status = Number(head.slice(9, 12));
    this.#bodyBytes = 0;
    this.#firstByteMs = performance.now();
    const length = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1];
    this.#chunkedTail = undefined;
    if (length !== undefined) this.#left = Number(length);
    else if (/\r\ntransfer-encoding: *chunked/i.test(head)) this.#chunkedTail = "";
    else this.#fail(new Error(`an answer ${this.#status} without a length`));
  }

  #onBody(count: number, bytes: Buffer): void {
    this.#bodyBytes += count;
    this.#onBytes?.(this.#bodyBytes);
    if (this.#chunkedTail !== undefined) {
      // Only small answers come chunked here, so their end may be looked for in plain sight.
      this.#chunkedTail = (this.#chunkedTail + bytes.toString("latin1")).slice(-5);
      if (this.#chunkedTail === "0\r\n\r\n") this.#finish();
      return;
    }
    this.#left -= count;
    if (this.#left === 0) this.#finish();
    else if (this.#bitsPerSecond > 0) this.#keepPace();
  }

  /** Pauses the socket while more has come than the pace allows. */
  #keepPace(): void {
    const dueMs = this.#firstByteMs + (this.#bodyBytes * 8_000) / this.#bitsPerSecond;
    const waitMs = dueMs - performance.now();
    if (waitMs < 5) return;
    this.#socket.pause();
    setTimeout(() => this.#socket.resume(), waitMs);
  }

  #finish(): void {
    const pending = this.#pending;
    this.#pending = undefined;
    if (pending === undefined) return;
    const durationMs = performance.now() - pending.startedMs;
    pending.resolve({ status: this.#status, bytes: this.#bodyBytes, durationMs });
  }

  #fail(error: Error): void {
    const pending = this.#pending;
    this.#pending = undefined;
    this.#socket.destroy();
    pending?.reject(error);
  }
}
