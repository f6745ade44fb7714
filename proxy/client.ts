// The client's side of one request: whether it is still there, and how an answer is written to it.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { ResponseHead } from "../core/jellyfin/wire.ts";
import type { HeaderFacts } from "./facts.ts";
import type { ClientOrigin, UpstreamMemo } from "./headers.ts";
import type { PlainRequest, PlainResponse } from "./plain.ts";

/** A whole answer in hand, not yet sent. */
export interface HeldReply {
  readonly head: ResponseHead;
  readonly body: Buffer;
}

/** Larger bodies are cheaper as a write of their own than as a copy. */
const oneWriteLimitBytes = 16 * 1024;

/** What an answer is written to: Node's response, or the door's own for plain requests. */
export interface ClientResponse {
  readonly headersSent: boolean;
  /** It has gone out whole, or its client has gone. */
  readonly closed: boolean;
  shouldKeepAlive: boolean;
  /** Null while an earlier answer of the same connection is under way. */
  readonly socket: Socket | null;
  writeHead(status: number, statusText: string, headers: string[]): unknown;
  flushHeaders(): void;
  write(piece: Buffer): boolean;
  end(): unknown;
  end(body: Buffer): unknown;
  end(body: string, encoding: "latin1"): unknown;
  once(event: "drain", listener: () => void): unknown;
  off(event: "drain", listener: () => void): unknown;
  destroy(): unknown;
}

/** A request by its head. */
export interface ClientHead {
  readonly method: string;
  /** As it came. */
  readonly target: string;
  readonly headers: IncomingMessage["headers"];
  readonly rawHeaders: readonly string[];
  /** What was worked out from the same headers before; undefined when nobody keeps it. */
  readonly memo: HeaderMemo | undefined;
}

/** What follows from headers that a connection says again and again. */
export interface HeaderMemo {
  facts?: HeaderFacts;
  origin?: ClientOrigin;
  upstream?: UpstreamMemo;
}

export class Client {
  readonly head: ClientHead;
  readonly response: ClientResponse;
  /** Node's own request and response, where a body may come; undefined for plain requests. */
  readonly node:
    | { readonly request: IncomingMessage; readonly response: ServerResponse }
    | undefined;
  /** The client went away before its answer's end. */
  hasLeft = false;
  /** Bytes of answers' bodies given to the socket. */
  sentBytes = 0;
  /** When the answer's head was sent, in ms of the monotonic clock; 0 before. */
  firstByteMs = 0;
  readonly #now: () => number;
  #onLeft: (() => void) | undefined;
  #whenClosed: (() => void)[] | undefined;

  private constructor(
    head: ClientHead,
    response: ClientResponse,
    node: Client["node"],
    now: () => number,
  ) {
    this.head = head;
    this.response = response;
    this.node = node;
    this.#now = now;
  }

  static ofNode(request: IncomingMessage, response: ServerResponse, now: () => number): Client {
    const { method = "GET", url: target = "/", rawHeaders, headers } = request;
    const head = { method, target, headers, rawHeaders, memo: undefined };
    const client = new Client(head, response, { request, response }, now);
    response.on("close", () => client.#closed(response.writableFinished));
    return client;
  }

  static ofPlain(request: PlainRequest, response: PlainResponse, now: () => number): Client {
    const { method, url: target, block } = request;
    const { rawHeaders, headers, memo } = block;
    const client = new Client(
      { method, target, headers, rawHeaders, memo },
      response,
      undefined,
      now,
    );
    // Named before it is assigned: see docs/decisions/028.
    const onClosed = () => client.#closed(response.writableFinished);
    response.onClosed = onClosed;
    return client;
  }

  /** The client of a request that the door makes itself: nobody hears its answer. */
  static ofNobody(now: () => number): Client {
    const head = { method: "GET", target: "/", headers: {}, rawHeaders: [], memo: undefined };
    return new Client(head, nobodysResponse, undefined, now);
  }

  #closed(wasFinished: boolean): void {
    if (!wasFinished) this.hasLeft = true;
    this.#onLeft?.();
    for (const callback of this.#whenClosed ?? []) callback();
  }

  /** What to do when the client leaves now; one at a time, undefined for nothing. */
  set onLeft(callback: (() => void) | undefined) {
    this.#onLeft = callback;
  }

  /** Calls back when the answer has gone out whole or the client has gone. */
  whenClosed(callback: () => void): void {
    if (this.response.closed) callback();
    else if (this.#whenClosed === undefined) this.#whenClosed = [callback];
    else this.#whenClosed.push(callback);
  }

  /** Sends the head; `length` undefined for one that chunks or nothing at all tell. */
  begin(head: ResponseHead, length: number | undefined): void {
    const { headers } = head;
    if (length !== undefined) headers.push("Content-Length", String(length));
    this.firstByteMs = this.#now();
    this.response.writeHead(head.status, head.statusText, headers);
  }

  /** Sends a whole answer. */
  send(reply: HeldReply): void {
    const { head, body } = reply;
    // The answer to HEAD, and a 304, tell the length of what they stand for.
    const length = head.hasBody ? body.length : head.contentLength;
    this.begin(head, length);
    this.sentBytes += body.length;
    if (body.length === 0) this.response.end();
    // As text of the same bytes a small body goes out in one write with its head.
    else if (body.length <= oneWriteLimitBytes)
      this.response.end(body.toString("latin1"), "latin1");
    else this.response.end(body);
  }

  /** Closes the connection without an answer, or in the middle of one (design rule 5). */
  cut(): void {
    this.response.destroy();
    this.node?.request.socket.destroy();
  }
}

const nobodysResponse: ClientResponse = {
  headersSent: false,
  closed: false,
  shouldKeepAlive: false,
  socket: null,
  writeHead: () => undefined,
  flushHeaders: () => undefined,
  write: () => true,
  end: () => undefined,
  once: () => undefined,
  off: () => undefined,
  destroy: () => undefined,
};
