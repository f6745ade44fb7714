// The relay: one replica's answer on its way to one client, for the message lane and the bytes lane. Small
// answers are held whole, so that one which breaks off can be asked for elsewhere before the client has
// seen any of it; large ones and files are streamed as they come. What is streamed goes from the read
// buffer straight to the client's socket, and the buffer is read into again only when the socket has let
// go of it: that is the back pressure, and it costs no copy.

import type { ReplyHead } from "../../core/jellyfin/playback.ts";
import { type Continuation, continues } from "../../core/jellyfin/playback.ts";
import { headerIn } from "../../core/jellyfin/raw-headers.ts";
import type {
  BrokenPhase,
  Exchange,
  ResponseHead,
  WireRequest,
  WireSink,
} from "../../core/jellyfin/wire.ts";
import type { Client, HeldReply } from "../client.ts";
import type { Link, Running } from "../links.ts";
import type { Outcome } from "../retry.ts";

/** The outcome of an attempt whose whole answer is in hand, unsent. */
export type Answered = { readonly kind: "answered"; readonly reply: HeldReply };
/** A refusal carries the answer that may have to be shown. */
export type LaneOutcome = Outcome | Answered;

export interface Attempt {
  readonly link: Link;
  readonly wire: WireRequest;
  readonly repeatable: boolean;
  readonly startedMs: number;
  readonly giveUpMs: number;
}

export interface RelayOptions {
  readonly client: Client;
  /** Answers up to this many bytes are held whole; 0 streams whatever is no refusal. */
  readonly holdLimitBytes: number;
  /** Changes the head before it is sent or held. */
  readonly onHead?: ((head: ResponseHead) => void) | undefined;
  /** Changes a whole answer that was held, before anybody looks at it. */
  readonly onWhole?: ((reply: HeldReply) => HeldReply) | undefined;
}

/** Refusals may be one replica's own opinion, so they are held until somebody decides. */
export function isDoubtful(status: number): boolean {
  return status === 401 || status === 403 || status === 404 || status >= 500;
}

/** A refusal larger than this is nobody's error page. */
const refusalLimitBytes = 1024 * 1024;

/** One client's answer over as many attempts as it takes. */
export class Relay {
  readonly #options: RelayOptions;
  /** The head that was sent to the client, once streaming has begun. */
  sentHead: ReplyHead | undefined;
  /** The refusal or answer in hand from the last attempt that ended with one. */
  held: HeldReply | undefined;
  streamedBytes = 0;

  constructor(options: RelayOptions) {
    this.#options = options;
  }

  /** Sends the request over the link and carries what comes back. */
  run(attempt: Attempt, expected?: Continuation): Promise<LaneOutcome> {
    return new Promise((resolve) => this.start(attempt, expected, resolve));
  }

  /** The same, for a caller that does not wait but is called. */
  start(
    attempt: Attempt,
    expected: Continuation | undefined,
    onOutcome: (outcome: LaneOutcome) => void,
  ): void {
    new RelayAttempt(this, this.#options, attempt, expected, onOutcome);
  }
}

/** Ties an exchange to its link for as long as it runs; the caller unties it. */
export function track(attempt: Attempt, exchange: Exchange): Running {
  const { repeatable, startedMs, giveUpMs, link } = attempt;
  const running: Running = { exchange, repeatable, startedMs, giveUpMs, index: 0 };
  link.running.add(running);
  return running;
}

type Mode = "waiting" | "holding" | "direct" | "written";

export class RelayAttempt implements WireSink {
  readonly #relay: Relay;
  readonly #options: RelayOptions;
  readonly #expected: Continuation | undefined;
  readonly #resolve: (outcome: LaneOutcome) => void;
  readonly #exchange: Exchange;
  readonly #link: Link;
  readonly #running: Running;
  readonly #pieces: Buffer[] = [];
  #heldBytes = 0;
  #limitBytes = 0;
  #mode: Mode = "waiting";
  #head: ResponseHead | undefined;
  #isPaused = false;
  #isSettled = false;

  constructor(
    relay: Relay,
    options: RelayOptions,
    attempt: Attempt,
    expected: Continuation | undefined,
    resolve: (outcome: LaneOutcome) => void,
  ) {
    this.#relay = relay;
    this.#options = options;
    this.#expected = expected;
    this.#resolve = resolve;
    const onLeft = () => {
      // Its socket is closed, and whatever it had not taken is written nowhere.
      this.#exchange.abort(true);
      this.#settle({ kind: "clientLeft" });
    };
    options.client.onLeft = onLeft;
    const pool = options.holdLimitBytes > 0 ? attempt.link.message : attempt.link.bytes;
    this.#exchange = pool.send(attempt.wire, this);
    this.#link = attempt.link;
    this.#running = track(attempt, this.#exchange);
  }

  onHead(head: ResponseHead): void {
    this.#head = head;
    if (this.#expected !== undefined) {
      const wrong = continues(replyHeadOf(head), this.#expected);
      if (wrong === null) this.#mode = this.#options.client.response.socket ? "direct" : "written";
      else {
        this.#exchange.abort();
        this.#settle({ kind: "notConnected", why: `it cannot go on with this file: ${wrong}` });
      }
      return;
    }
    const doubtful = isDoubtful(head.status);
    this.#limitBytes = doubtful ? refusalLimitBytes : this.#options.holdLimitBytes;
    if (!head.hasBody || (head.contentLength ?? 0) <= this.#limitBytes) {
      if (this.#limitBytes > 0 || !head.hasBody) {
        this.#mode = "holding";
        return;
      }
    }
    this.#begin(head);
  }

  onData(chunk: Buffer): boolean {
    switch (this.#mode) {
      case "holding":
        this.#pieces.push(Buffer.from(chunk));
        this.#heldBytes += chunk.length;
        if (this.#heldBytes > this.#limitBytes && this.#head !== undefined) {
          this.#begin(this.#head);
          return this.#write(Buffer.concat(this.#pieces.splice(0)));
        }
        return true;
      case "direct":
        return this.#writeDirect(chunk);
      case "written":
        return this.#write(Buffer.from(chunk));
      case "waiting":
        return true;
    }
  }

  onEnd(): void {
    const { client } = this.#options;
    const head = this.#head;
    if (this.#mode === "holding" && head !== undefined) {
      const body =
        this.#pieces.length === 1 ? (this.#pieces[0] ?? empty) : Buffer.concat(this.#pieces);
      const whole: HeldReply = { head, body };
      const reply = this.#options.onWhole?.(whole) ?? whole;
      this.#relay.held = reply;
      if (isDoubtful(head.status)) this.#settle({ kind: "refused", status: head.status });
      else {
        this.#options.onHead?.(head);
        this.#settle({ kind: "answered", reply });
      }
      return;
    }
    client.response.end();
    this.#settle({ kind: "completed", status: this.#relay.sentHead?.status ?? 200 });
  }

  onBroken(phase: BrokenPhase, why: string): void {
    switch (phase) {
      case "notConnected":
        this.#settle({ kind: "notConnected", why });
        return;
      case "beforeReply":
        this.#settle({ kind: "brokeBeforeReply", why });
        return;
      case "duringReply":
        this.#settle({ kind: "brokeDuringReply", why, sent: this.#relay.sentHead !== undefined });
        return;
    }
  }

  #begin(head: ResponseHead): void {
    const { client } = this.#options;
    this.#options.onHead?.(head);
    this.#relay.sentHead = replyHeadOf(head);
    client.begin(head, head.contentLength);
    client.response.flushHeaders();
    // Behind another answer on the same connection (pipelining) the response has no socket yet.
    this.#mode = head.contentLength !== undefined && client.response.socket ? "direct" : "written";
  }

  #writeDirect(chunk: Buffer): boolean {
    const { socket } = this.#options.client.response;
    if (socket === null || socket.destroyed) return true;
    this.#count(chunk.length);
    // What the kernel took at once is no longer ours to keep; only a rest still needs the buffer.
    socket.write(chunk, this.#written);
    if (socket.writableLength === 0) return true;
    this.#isPaused = true;
    return false;
  }

  readonly #written = (): void => {
    if (!this.#isPaused || this.#options.client.response.socket?.writableLength !== 0) return;
    this.#isPaused = false;
    this.#exchange.resume();
  };

  #write(copy: Buffer): boolean {
    const { response } = this.#options.client;
    this.#count(copy.length);
    if (response.write(copy)) return true;
    response.once("drain", () => this.#exchange.resume());
    return false;
  }

  #count(length: number): void {
    this.#relay.streamedBytes += length;
    this.#options.client.sentBytes += length;
  }

  #settle(outcome: LaneOutcome): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    this.#link.running.remove(this.#running);
    this.#options.client.onLeft = undefined;
    this.#resolve(outcome);
  }
}

const empty = Buffer.alloc(0);

/** What of a head tells whether another reply goes on where it broke. */
export function replyHeadOf(head: ResponseHead): ReplyHead {
  return {
    status: head.status,
    contentLength: head.contentLength,
    contentRange: headerIn(head.headers, "content-range"),
    lastModified: headerIn(head.headers, "last-modified"),
    contentEncoding: headerIn(head.headers, "content-encoding"),
  };
}
