// The client's side of one request: whether it is still there, and how an answer is written to it.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { ResponseHead } from "./wire.ts";

/** A whole answer in hand, not yet sent. */
export interface HeldReply {
  readonly head: ResponseHead;
  readonly body: Buffer;
}

/** Larger bodies are cheaper as a write of their own than as a copy. */
const oneWriteLimitBytes = 16 * 1024;

export class Client {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** The client went away before its answer's end. */
  hasLeft = false;
  /** Bytes of answers' bodies given to the socket. */
  sentBytes = 0;
  /** When the answer's head was sent, in ms of the monotonic clock; 0 before. */
  firstByteMs = 0;
  readonly #now: () => number;
  #onLeft: (() => void) | undefined;
  #whenClosed: (() => void)[] | undefined;

  constructor(request: IncomingMessage, response: ServerResponse, now: () => number) {
    this.request = request;
    this.response = response;
    this.#now = now;
    response.on("close", () => {
      if (!response.writableFinished) this.hasLeft = true;
      this.#onLeft?.();
      for (const callback of this.#whenClosed ?? []) callback();
    });
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
    this.request.socket.destroy();
  }
}
