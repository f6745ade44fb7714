// Our own calls to a server, one whole request for one whole answer, over the wire that also carries what
// goes through the door. A general HTTP client was three quarters of what an idle `up` did and a tenth of
// its memory (docs/decisions/026), for calls that need none of its generality.
//
// It promises: every call has one end, within its limit, connecting and the answer's last byte included;
// an answer of the server is a value whatever its status; what failed says what the server may have seen.

import { type BrokenPhase, type ResponseHead, WirePool, type WireSink } from "./wire.ts";

export interface CallsOptions {
  /** `http:` or `https:` origin without a trailing slash. */
  readonly origin: string;
  readonly connectionsLimit: number;
  readonly connectLimitMs: number;
  /** An answer with a longer body is a failure. */
  readonly bodyLimitBytes: number;
  readonly idleLimitMs: number;
  readonly now: () => number;
}

export interface Call {
  readonly method: string;
  /** With the base path and the query. */
  readonly path: string;
  /** By their names in lower case; what frames the body is added here. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | undefined;
  /** From the call to the last byte of its answer, in ms. */
  readonly limitMs: number;
}

export type CallEnd =
  | { readonly end: "answered"; readonly head: ResponseHead; readonly body: Buffer }
  /** It holds what no request can hold, such as a line end in a header: nothing was sent. */
  | { readonly end: "unfit" }
  | { readonly end: "closed" }
  | { readonly end: "timedOut" }
  | { readonly end: "tooLarge" }
  /** `why` is for the log: no secrets. */
  | { readonly end: "broke"; readonly phase: BrokenPhase; readonly why: string };

/** Most answers to our calls are a few hundred bytes. */
const readBufferBytes = 16 * 1024;
const headLimitBytes = 64 * 1024;
const waitingLimit = 4096;
/** RFC 9112, 3.2 and RFC 9110, 5.5: what fits into a request line, and into a header's value. */
const methodForm = /^[A-Z]{1,20}$/;
const pathForm = /^\/[\x21-\xff]*$/;
const valueForm = /^[\t\x20-\x7e\x80-\xff]*$/;
const empty = Buffer.alloc(0);

/** The calls to one server. */
export class Calls {
  readonly #pool: WirePool;
  readonly #host: string;
  readonly #bodyLimitBytes: number;
  readonly #running = new Set<RunningCall>();
  #isClosed = false;

  constructor(options: CallsOptions) {
    const { origin, connectionsLimit, connectLimitMs, idleLimitMs, now } = options;
    this.#pool = new WirePool({
      ...{ origin, connectionsLimit, connectLimitMs, idleLimitMs, now },
      ...{ readBufferBytes, waitingLimit, headLimitBytes },
      // A connection that waits for another call keeps no process alive.
      lingers: false,
    });
    this.#host = new URL(origin).host;
    this.#bodyLimitBytes = options.bodyLimitBytes;
  }

  /** Never rejects. */
  send(call: Call): Promise<CallEnd> {
    if (this.#isClosed) return Promise.resolve({ end: "closed" });
    const head = headOf(call, this.#host);
    if (head === undefined) return Promise.resolve({ end: "unfit" });
    // What has been idle for too long is let go of by whoever comes next: no timer needs to run for it.
    this.#pool.sweep();
    return new Promise((resolve) => {
      const running = new RunningCall(this.#bodyLimitBytes, (end) => {
        this.#running.delete(running);
        resolve(end);
      });
      this.#running.add(running);
      const isHead = call.method === "HEAD";
      running.start(this.#pool, { head, body: call.body, isHead, fresh: false }, call.limitMs);
    });
  }

  /** Ends what runs as closed, and takes no more. */
  close(): void {
    this.#isClosed = true;
    for (const running of [...this.#running]) running.finish({ end: "closed" });
    this.#pool.close();
  }
}

class RunningCall implements WireSink {
  readonly #limitBytes: number;
  readonly #tell: (end: CallEnd) => void;
  #exchange: ReturnType<WirePool["send"]> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #head: ResponseHead | undefined;
  #pieces: Buffer[] = [];
  #length = 0;
  #isOver = false;

  constructor(limitBytes: number, tell: (end: CallEnd) => void) {
    this.#limitBytes = limitBytes;
    this.#tell = tell;
  }

  start(pool: WirePool, request: Parameters<WirePool["send"]>[0], limitMs: number): void {
    this.#timer = setTimeout(() => this.finish({ end: "timedOut" }), limitMs);
    this.#exchange = pool.send(request, this);
  }

  /** Ends it from outside; the server sees its connection closed unless the answer was whole. */
  finish(end: CallEnd): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#exchange?.abort();
    this.#tell(end);
  }

  onHead(head: ResponseHead): void {
    this.#head = head;
  }

  onData(chunk: Buffer): boolean {
    this.#length += chunk.length;
    if (this.#length > this.#limitBytes) {
      this.finish({ end: "tooLarge" });
      return false;
    }
    this.#pieces.push(Buffer.from(chunk));
    return true;
  }

  onEnd(): void {
    const head = this.#head;
    if (head === undefined) return;
    const [first = empty] = this.#pieces;
    const body = this.#pieces.length < 2 ? first : Buffer.concat(this.#pieces);
    this.finish({ end: "answered", head, body });
  }

  onBroken(phase: BrokenPhase, why: string): void {
    this.finish({ end: "broke", phase, why });
  }
}

/** The request line and the headers, or undefined for what no request can hold. */
function headOf({ method, path, headers, body }: Call, host: string): string | undefined {
  if (!methodForm.test(method) || !pathForm.test(path)) return undefined;
  let head = `${method} ${path} HTTP/1.1\r\nhost: ${host}\r\nconnection: keep-alive\r\n`;
  for (const [name, value] of Object.entries(headers)) {
    if (!valueForm.test(value)) return undefined;
    head += `${name}: ${value}\r\n`;
  }
  if (body !== undefined) head += `content-length: ${body.length}\r\n`;
  // Without a length a server may wait for a body (RFC 9110, 8.6).
  else if (method !== "GET" && method !== "HEAD") head += "content-length: 0\r\n";
  return `${head}\r\n`;
}
