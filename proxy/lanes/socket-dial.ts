// Dialling a replica for a socket: one attempt, told as a value. It promises that an attempt ends within its
// limit, that a refusal (the replica answered, and says that it does not know the token) is told apart from
// a failure (it could not be asked), that no more than so many attempts at one replica run at a time, and
// that what went wrong is told without the address, which has a token in it.

import type { ClientRequest, IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { WebSocket } from "ws";
import type { SocketTarget } from "./socket-host.ts";
import type { SocketPair } from "./socket-pair.ts";

export interface DialLimits {
  /** For the connection and the handshake together. */
  readonly connectLimitMs: number;
  /** The longest message a replica may send. */
  readonly upstreamMessageLimitBytes: number;
  /** How long a closing handshake may take before the connection is cut. */
  readonly closeLimitMs: number;
  /** Handshakes with one replica that run at a time: after its return thousands of sockets want it. */
  readonly dialsAtOnceLimit: number;
}

/** Our end of the connection to a replica. */
export class UpstreamSocket extends WebSocket {
  /** Whose it is; undefined before it is adopted and after it was left. */
  pair: SocketPair | undefined = undefined;
  /** The connection under it; undefined before the handshake is done. */
  stream: Duplex | undefined = undefined;
}

export type DialResult =
  | { readonly kind: "open"; readonly upstream: UpstreamSocket }
  | { readonly kind: "refused"; readonly status: number }
  | { readonly kind: "failed"; readonly why: string };

/**
 * Dials `target` once. What is open in the answer is paused, so that no message of the replica is lost
 * before somebody listens. `began` is given the socket at once, so that whoever waits can terminate it.
 *
 * 401 and 403 are refusals: Jellyfin answers 403 to a handshake whose token it does not know
 * (SecurityException in ExceptionMiddleware.cs). Any other answer but 101 is a failure.
 */
export function dial(
  target: SocketTarget,
  limits: DialLimits,
  began: (upstream: UpstreamSocket) => void,
): Promise<DialResult> {
  return new Promise((resolve) => {
    let upstream: UpstreamSocket;
    try {
      upstream = new UpstreamSocket(target.url, dialOptions(target, limits));
    } catch {
      // The message has the address in it, and with it a token.
      resolve({ kind: "failed", why: "not an address that can be dialled" });
      return;
    }
    // The handshake's own limit of `ws` is one of silence; this one is of time.
    const timer = setTimeout(
      () => end({ kind: "failed", why: "no answer in time" }),
      limits.connectLimitMs,
    );

    function end(result: DialResult): void {
      clearTimeout(timer);
      upstream.removeAllListeners();
      upstream.on("error", ignoreError);
      if (result.kind !== "open") upstream.terminate();
      resolve(result);
    }
    upstream.once("upgrade", (response: IncomingMessage) => {
      upstream.stream = response.socket;
    });
    upstream.once("open", () => {
      upstream.pause();
      end({ kind: "open", upstream });
    });
    upstream.once("unexpected-response", (request: ClientRequest, response: IncomingMessage) => {
      request.on("error", ignoreError);
      const status = response.statusCode ?? 0;
      request.destroy();
      if (status === 401 || status === 403) end({ kind: "refused", status });
      else end({ kind: "failed", why: `answered ${status}` });
    });
    upstream.once("error", (error: Error) => end({ kind: "failed", why: errorCode(error) }));
    upstream.once("close", () => end({ kind: "failed", why: "closed before it was open" }));
    began(upstream);
  });
}

function dialOptions(target: SocketTarget, limits: DialLimits) {
  return {
    headers: { ...target.headers },
    perMessageDeflate: false,
    followRedirects: false,
    autoPong: true,
    skipUTF8Validation: false,
    maxPayload: limits.upstreamMessageLimitBytes,
    closeTimeout: limits.closeLimitMs,
  };
}

/** The error's code, such as ECONNREFUSED: its message could say more than a log may know. */
function errorCode(error: Error): string {
  return "code" in error && typeof error.code === "string" ? error.code : "broke in the handshake";
}

/** After an error comes a close, and that is what is answered to. */
export function ignoreError(): void {}

/**
 * Turns to dial one replica. Who waits for a turn may be sent away with false: what is known of the replica
 * has changed, so ask again where to dial. So thousands do not queue, one limit after another, in front of
 * a server that accepts and stays silent.
 */
export class DialTurns {
  readonly #atOnceLimit: number;
  readonly #replicas = new Map<
    string,
    { running: number; readonly waiting: Set<(mayDial: boolean) => void> }
  >();

  constructor(atOnceLimit: number) {
    this.#atOnceLimit = atOnceLimit;
  }

  /** Resolves true when it is one's turn: `leave` must follow. False after `limitMs` at the latest. */
  enter(replica: string, limitMs: number): Promise<boolean> {
    const turns = this.#replicas.get(replica) ?? { running: 0, waiting: new Set() };
    this.#replicas.set(replica, turns);
    if (turns.running < this.#atOnceLimit) {
      turns.running++;
      return Promise.resolve(true);
    }
    return new Promise((resolve) => {
      const called = (mayDial: boolean) => {
        clearTimeout(timer);
        turns.waiting.delete(called);
        resolve(mayDial);
      };
      const timer = setTimeout(called, limitMs, false);
      turns.waiting.add(called);
    });
  }

  leave(replica: string): void {
    const turns = this.#replicas.get(replica);
    if (turns === undefined) return;
    const [next] = turns.waiting;
    if (next !== undefined) next(true);
    else if (--turns.running === 0) this.#replicas.delete(replica);
  }

  /** Sends away all who wait for this replica. */
  sendAway(replica: string): void {
    for (const called of [...(this.#replicas.get(replica)?.waiting ?? [])]) called(false);
  }
}
