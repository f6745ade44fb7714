// The socket lane: a client's WebSocket ends here, and the door dials the replica itself. So a client's
// socket outlives the server it talks to: when that goes away or the user's home moves, another is dialled,
// told what this device can do and what it subscribed to, and the client notices nothing.
//
// It promises: a handshake is decided within the hold limit, and is never answered with an error that no
// server gave; a known token is refused only when every replica that is ready refuses it; thousands of
// sockets share one timer, and their dialling is bounded for each replica; nothing it logs has a token in it.

import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { WebSocketServer } from "ws";
import type { Clock } from "../../core/service/clock.ts";
import type { Log } from "../../core/service/log.ts";
import { backOffMs } from "../../core/service/loop.ts";
import type { Metrics } from "../../core/service/metrics.ts";
import {
  type DialLimits,
  type DialResult,
  DialTurns,
  dial,
  type UpstreamSocket,
} from "./socket-dial.ts";
import type { SocketAsked, SocketHost, SocketTarget } from "./socket-host.ts";
import { ClientSocket, type PairLimits, type PairOwner, SocketPair } from "./socket-pair.ts";
import { SessionsFeed } from "./socket-sessions.ts";

export interface SocketLimits extends DialLimits, PairLimits {
  /** The longest message a client may send. */
  readonly socketMessageLimitBytes: number;
  /** How long a handshake may wait for a replica that takes it. */
  readonly apiHoldLimitMs: number;
  /** The longest pause between two rounds of dialling for a socket that lost its replica. */
  readonly redialPauseLimitMs: number;
}

export interface SocketLaneParts {
  readonly host: SocketHost;
  readonly limits: SocketLimits;
  readonly metrics: Pick<Metrics, "socketsOpen" | "redials">;
  readonly log: Log;
  readonly clock: Clock;
}

/** How a handshake was decided. */
export interface SocketEnd {
  /** 101, 400 or 403; undefined: the connection was cut without an answer, or the client left before it. */
  readonly status: 101 | 400 | 403 | undefined;
  /** Empty when no replica answered. */
  readonly replica: string;
  readonly reason: string;
  /** How many times a replica was dialled. */
  readonly attempts: number;
}

export interface SocketLane {
  /** Decides one upgrade request and, when it is accepted, carries its messages from then on. */
  handleUpgrade(
    asked: SocketAsked,
    request: IncomingMessage,
    socket: Duplex,
    head: Buffer,
  ): Promise<SocketEnd>;
  /**
   * Cuts all clients, without a Close frame, so that they dial another door at once; replicas get a Close
   * with `code`. New handshakes are cut from then on. Resolves when nothing waits here any more.
   */
  closeAll(code: number): Promise<void>;
  /** Clients' sockets that are open. */
  readonly open: number;
  /** Who sits where now. */
  seats(): Iterable<{
    readonly userId: string | undefined;
    readonly identityKey: string | undefined;
    readonly replica: string;
  }>;
  /** Whether a client of that identity has a socket here, wherever it is dialled to. */
  holds(identityKey: string): boolean;
  /**
   * That replica is about to be stopped: sockets there are dialled again where they belong by now. Those of
   * a user follow their home by themselves; `all` means them, too.
   */
  leave(replica: string, all: boolean): void;
}

export function createSocketLane(parts: SocketLaneParts): SocketLane {
  return new Lane(parts);
}

/** The first pause after a round of dialling that led nowhere. */
const redialFirstPauseMs = 50;

/** What a server says when it ends a socket whose login is over. */
const goodbye = "System Shutdown";

/** How often a limit is looked at within its own time. */
const sweepsPerLimit = 6;

/** Waiting dials of one replica are sent away at most this often: each asks the host again. */
const sendAwayPauseMs = 100;

type Attempt =
  | { readonly kind: "open"; readonly upstream: UpstreamSocket; readonly target: SocketTarget }
  | { readonly kind: "refused" | "failed"; readonly replica: string }
  /** The socket is already where it belongs. */
  | { readonly kind: "there" }
  /** Where to dial must be asked again. */
  | { readonly kind: "again" }
  /** There was no replica in the time given. */
  | { readonly kind: "none" };

class Lane implements SocketLane, PairOwner {
  readonly limits: SocketLimits;
  readonly #parts: SocketLaneParts;
  readonly #server: WebSocketServer;
  readonly #turns: DialTurns;
  /** Open sockets, and those whose handshake is not decided. */
  readonly #pairs = new Set<SocketPair>();
  /** Replicas' sockets that were left and are not closed yet. */
  readonly #closing = new Set<UpstreamSocket>();
  #open = 0;
  #isClosed = false;
  #sweepTimer: NodeJS.Timeout | undefined = undefined;
  readonly #stopListening: (() => void)[];
  /** Homes that moved since they were last looked at: with a dead replica they move by the thousand. */
  readonly #movedHomes = new Map<string, string>();
  readonly #sentAwayMs = new Map<string, number>();
  readonly #whenEmpty: (() => void)[] = [];
  readonly #sessions: SessionsFeed | undefined;

  constructor(parts: SocketLaneParts) {
    this.#parts = parts;
    this.limits = parts.limits;
    this.#turns = new DialTurns(parts.limits.dialsAtOnceLimit);
    this.#server = new WebSocketServer(serverOptions(parts.limits));
    const { sessions } = parts.host;
    this.#sessions =
      sessions === undefined
        ? undefined
        : new SessionsFeed(sessions, () => this.nowMs(), parts.log);
    this.#stopListening = [
      () => this.#sessions?.close(),
      parts.host.onHomeMoved((userId, replica) => this.#homeMoved(userId, replica)),
      parts.host.onReplicaGone((replica) => this.#replicaGone(replica)),
      parts.host.onEnded((identityKey) => this.#identityEnded(identityKey)),
    ];
  }

  get open(): number {
    return this.#open;
  }

  *seats(): Generator<{
    userId: string | undefined;
    identityKey: string | undefined;
    replica: string;
  }> {
    for (const { upstreamReplica: replica, userId, identityKey } of this.#pairs) {
      if (replica !== undefined) yield { userId, identityKey, replica };
    }
  }

  holds(identityKey: string): boolean {
    for (const pair of this.#pairs) {
      if (pair.identityKey === identityKey && pair.isAccepted) return true;
    }
    return false;
  }

  leave(replica: string, all: boolean): void {
    for (const pair of this.#pairs) {
      if (pair.upstreamReplica !== replica) continue;
      if (all || pair.userId === undefined) this.#follow(pair);
    }
  }

  nowMs(): number {
    return this.#parts.clock.monotonicMs();
  }

  // ---- The handshake --------------------------------------------------------------------------------

  async handleUpgrade(
    asked: SocketAsked,
    request: IncomingMessage,
    socket: Duplex,
    head: Buffer,
  ): Promise<SocketEnd> {
    const stopWatching = watchForLeaving(socket);
    const refusal = await this.#refusal(asked, request);
    if (refusal !== undefined) {
      stopWatching();
      answer(socket, refusal.status);
      return { ...refusal, replica: "", attempts: 0 };
    }
    const pair = new SocketPair(asked, this);
    this.#pairs.add(pair);
    const onClose = () => pair.cut();
    socket.once("close", onClose);
    if (socket.destroyed || this.#isClosed) pair.cut();
    try {
      const result = await this.#firstUpstream(pair);
      stopWatching();
      if (result.status === 101) this.#accept(pair, request, socket, head, result.attempt);
      else if (result.status === 403) answer(socket, 403);
      else socket.destroy();
      const replica = result.status === 101 ? result.attempt.target.replica : "";
      return { status: result.status, replica, reason: result.reason, attempts: result.attempts };
    } finally {
      // From here on the WebSocket's own close tells.
      socket.removeListener("close", onClose);
      if (!pair.isAccepted) pair.cut();
    }
  }

  /** Why this handshake leads to no replica, if it is so. */
  async #refusal(
    asked: SocketAsked,
    request: IncomingMessage,
  ): Promise<{ status: 400 | 403; reason: string } | undefined> {
    if (!isHandshake(request)) return { status: 400, reason: "not a WebSocket handshake" };
    const { host } = this.#parts;
    const standing = asked.token === undefined ? "none" : host.standing(asked);
    if (standing === "none") return { status: 403, reason: "no token" };
    if (standing === "revoked") return { status: 403, reason: "revoked token" };
    if (standing === "unknown" && !(await host.recognise(asked))) {
      return { status: 403, reason: "unknown token" };
    }
    return undefined;
  }

  /** Dials replica after replica until one takes the socket, all refuse it, or the hold limit is reached. */
  async #firstUpstream(
    pair: SocketPair,
  ): Promise<
    | { status: 101; attempt: Attempt & { kind: "open" }; reason: string; attempts: number }
    | { status: 403 | undefined; reason: string; attempts: number }
  > {
    const { connectLimitMs, apiHoldLimitMs, redialPauseLimitMs } = this.limits;
    const deadlineMs = this.nowMs() + apiHoldLimitMs;
    const round = new Round();
    let attempts = 0;
    for (let rounds = 0; ; ) {
      const leftMs = deadlineMs - this.nowMs();
      if (pair.isOver) return { status: undefined, reason: "client left", attempts };
      if (leftMs <= 0) return { status: undefined, reason: "no replica in time", attempts };
      const waitMs = round.isFresh ? leftMs : Math.min(leftMs, connectLimitMs);
      const attempt = await this.#attempt(pair, round.tried, waitMs);
      if (attempt.kind !== "none" && attempt.kind !== "again") attempts++;
      if (attempt.kind === "open") {
        this.#lookAgainLater(pair, round);
        if (!pair.isOver) return { status: 101, attempt, reason: attempt.target.reason, attempts };
        this.#discard(attempt.upstream);
      } else if (attempt.kind === "none") {
        if (round.allRefused) return { status: 403, reason: "every replica refused", attempts };
        round.clear();
        rounds++;
        await pause(backOffMs(rounds, backOff(redialPauseLimitMs), Math.random()));
      } else if (attempt.kind === "refused" || attempt.kind === "failed") round.note(attempt);
    }
  }

  #accept(
    pair: SocketPair,
    request: IncomingMessage,
    socket: Duplex,
    head: Buffer,
    attempt: Attempt & { kind: "open" },
  ): void {
    this.#server.handleUpgrade(request, socket, head, (client) => {
      this.#open++;
      this.#parts.metrics.socketsOpen.add();
      pair.accept(client as ClientSocket, socket);
      pair.adopt(attempt.upstream, attempt.target);
      this.#parts.host.welcome?.(attempt.target);
      // It may have broken while nobody listened, or its user may have moved.
      if (!pair.hasUpstream || pair.mustLookAgain) this.#follow(pair);
      this.#startSweeping();
    });
    if (pair.isAccepted) return;
    // The client left in the last moment: `ws` destroyed the connection instead of answering.
    this.#discard(attempt.upstream);
  }

  // ---- Dialling -------------------------------------------------------------------------------------

  async #attempt(pair: SocketPair, tried: ReadonlySet<string>, limitMs: number): Promise<Attempt> {
    const { host, log } = this.#parts;
    const target = await host.target(pair.asked, tried, limitMs);
    if (target === undefined) return { kind: "none" };
    if (pair.isOver) return { kind: "again" };
    const { replica } = target;
    if (pair.upstreamReplica === replica) return { kind: "there" };
    if (!(await this.#turns.enter(replica, limitMs))) return { kind: "again" };
    let result: DialResult;
    try {
      if (pair.isOver) return { kind: "again" };
      result = await dial(target, this.limits, (upstream) => {
        pair.dialling = { upstream, replica };
      });
    } finally {
      pair.dialling = undefined;
      this.#turns.leave(replica);
    }
    if (result.kind === "open") return { kind: "open", upstream: result.upstream, target };
    if (pair.isOver) return { kind: "again" };
    if (result.kind === "failed") {
      log.debug({ replica, why: result.why }, "a socket could not be dialled");
      host.suspect(replica, `socket: ${result.why}`);
      this.#sendAway(replica);
    }
    return { kind: result.kind, replica };
  }

  #sendAway(replica: string): void {
    const nowMs = this.nowMs();
    if (nowMs - (this.#sentAwayMs.get(replica) ?? Number.NEGATIVE_INFINITY) < sendAwayPauseMs)
      return;
    this.#sentAwayMs.set(replica, nowMs);
    this.#turns.sendAway(replica);
  }

  /** Brings a pair to where it belongs now. One at a time for each pair; a second call makes it look again. */
  #follow(pair: SocketPair): void {
    pair.mustLookAgain = true;
    if (pair.isFollowing || pair.isOver || !pair.isAccepted) return;
    pair.isFollowing = true;
    this.#redial(pair).catch((error: unknown) => {
      // Only a fault of ours leads here; the client can at least dial again.
      this.#parts.log.error({ err: error }, "dialling again for a socket failed");
      pair.cut();
    });
  }

  async #redial(pair: SocketPair): Promise<void> {
    try {
      await this.#dialUntilSettled(pair);
    } finally {
      pair.isFollowing = false;
    }
  }

  /**
   * Dials round after round, with longer and longer pauses, for as long as the client stays. Each round
   * asks replica after replica; its first waits for one to be ready.
   */
  async #dialUntilSettled(pair: SocketPair): Promise<void> {
    const { apiHoldLimitMs, connectLimitMs, redialPauseLimitMs } = this.limits;
    const { host, metrics } = this.#parts;
    const round = new Round();
    let failures = pair.shortLives;
    for (let isSettled = false; !isSettled || pair.mustLookAgain || !pair.hasUpstream; ) {
      if (pair.mustLookAgain) round.clear();
      pair.mustLookAgain = false;
      if (round.isFresh)
        await pause(backOffMs(failures, backOff(redialPauseLimitMs), Math.random()));
      if (pair.isOver) return;
      if (host.standing(pair.asked) === "revoked") {
        pair.close(1000, goodbye);
        return;
      }
      const waitMs = round.isFresh ? apiHoldLimitMs : Math.min(apiHoldLimitMs, connectLimitMs);
      const attempt = await this.#attempt(pair, round.tried, waitMs);
      isSettled = attempt.kind === "there";
      if (isSettled) this.#lookAgainLater(pair, round);
      if (attempt.kind === "refused" || attempt.kind === "failed") round.note(attempt);
      if (attempt.kind === "none") {
        metrics.redials.failed.add();
        // All replicas that are ready refuse the token: the client dials again and is judged anew.
        if (round.allRefused && !pair.hasUpstream) {
          pair.cut();
          return;
        }
        round.clear();
        failures++;
      }
      if (attempt.kind === "open") {
        isSettled = await this.#move(pair, attempt);
        this.#lookAgainLater(pair, round);
        if (isSettled) metrics.redials.connected.add();
        else failures++;
        round.clear();
      }
    }
  }

  /**
   * Puts a dialled replica's socket into the pair, after the replica was told what the device can do.
   * False: the socket was closed meanwhile.
   */
  async #move(
    pair: SocketPair,
    { upstream, target }: Attempt & { kind: "open" },
  ): Promise<boolean> {
    pair.dialling = { upstream, replica: target.replica };
    await within(this.#parts.host.replayCapabilities(target), this.limits.connectLimitMs);
    pair.dialling = undefined;
    if (pair.isOver || upstream.readyState !== upstream.OPEN) {
      this.#discard(upstream);
      return false;
    }
    pair.adopt(upstream, target);
    return true;
  }

  /** A socket that is not at the first choice is on a detour, which does not last for ever. */
  #lookAgainLater(pair: SocketPair, round: Round): void {
    pair.lookAgainMs = round.isFresh ? 0 : this.nowMs() + this.limits.upstreamKeepAliveMs;
  }

  /** Closes a replica's socket that was opened for nothing. */
  #discard(upstream: UpstreamSocket): void {
    this.upstreamLeft(upstream);
    upstream.resume();
    upstream.close(1000);
  }

  // ---- What happens ---------------------------------------------------------------------------------

  adopted(pair: SocketPair): void {
    const { identityKey, replica } = pair;
    if (identityKey !== undefined) this.#parts.host.watch?.seated(identityKey, replica);
  }

  hears(pair: SocketPair, text: string): string | undefined {
    const { watch } = this.#parts.host;
    const { identityKey, replica } = pair;
    if (watch === undefined || identityKey === undefined) return text;
    return watch.heard(identityKey, replica, text);
  }

  showsTasks(text: string): string {
    return this.#parts.host.showTasks?.(text) ?? text;
  }

  showsUserData({ replica }: SocketPair, text: string): string | undefined {
    const { showUserData } = this.#parts.host;
    return showUserData === undefined ? text : showUserData(replica, text);
  }

  showsIds({ replica, identityKey }: SocketPair, data: Buffer): Buffer {
    const { showIds } = this.#parts.host;
    return showIds === undefined ? data : showIds(replica, identityKey, data);
  }

  tellsSessions(pair: SocketPair, text: string): boolean {
    return this.#sessions?.heard(pair, text) === true;
  }

  upstreamLost(pair: SocketPair, replica: string, why: string): void {
    this.#parts.host.suspect(replica, `socket: ${why}`);
    this.#follow(pair);
  }

  upstreamLeft(upstream: UpstreamSocket): void {
    if (upstream.readyState === upstream.CLOSED) return;
    this.#closing.add(upstream);
    upstream.once("close", () => {
      this.#closing.delete(upstream);
      this.#tellWhenEmpty();
    });
  }

  pairEnded(pair: SocketPair): void {
    this.#pairs.delete(pair);
    this.#sessions?.forget(pair);
    if (pair.isAccepted) {
      this.#open--;
      this.#parts.metrics.socketsOpen.subtract();
      if (pair.identityKey !== undefined) this.#parts.host.watch?.unseated(pair.identityKey);
    }
    if (this.#pairs.size === 0) {
      clearInterval(this.#sweepTimer);
      this.#sweepTimer = undefined;
    }
    this.#tellWhenEmpty();
  }

  #homeMoved(userId: string, replica: string): void {
    if (this.#movedHomes.size === 0) setImmediate(() => this.#followHomes());
    this.#movedHomes.set(userId, replica);
  }

  /** One walk over all pairs for all homes that moved in this turn of the event loop. */
  #followHomes(): void {
    for (const pair of this.#pairs) {
      // Whose socket it is, is known when it is accepted; until then every move may concern it.
      if (!pair.isAccepted) pair.mustLookAgain = true;
      if (pair.userId === undefined) continue;
      const replica = this.#movedHomes.get(pair.userId);
      if (replica === undefined) continue;
      if (pair.isFollowing || pair.upstreamReplica !== replica) this.#follow(pair);
    }
    this.#movedHomes.clear();
  }

  #replicaGone(replica: string): void {
    this.#turns.sendAway(replica);
    for (const pair of this.#pairs) {
      if (pair.dialling?.replica === replica) pair.dialling.upstream.terminate();
      if (pair.upstreamReplica !== replica) continue;
      pair.abandonUpstream();
      this.#follow(pair);
    }
  }

  #identityEnded(identityKey: string): void {
    for (const pair of this.#pairs) {
      if (pair.identityKey === identityKey) pair.close(1000, goodbye);
    }
  }

  #startSweeping(): void {
    if (this.#sweepTimer !== undefined) return;
    const { socketIdleLimitMs, upstreamKeepAliveMs, upstreamReplyLimitMs } = this.limits;
    const shortestMs = Math.min(socketIdleLimitMs, upstreamKeepAliveMs, upstreamReplyLimitMs);
    this.#sweepTimer = setInterval(() => {
      const nowMs = this.nowMs();
      for (const pair of this.#pairs) {
        pair.sweep(nowMs);
        if (pair.lookAgainMs === 0 || nowMs < pair.lookAgainMs) continue;
        pair.lookAgainMs = 0;
        this.#follow(pair);
      }
    }, shortestMs / sweepsPerLimit).unref();
  }

  // ---- The end --------------------------------------------------------------------------------------

  async closeAll(code: number): Promise<void> {
    this.#isClosed = true;
    for (const stop of this.#stopListening) stop();
    for (const pair of this.#pairs) pair.cut(code);
    if (this.#closing.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#whenEmpty.push(resolve);
    });
  }

  #tellWhenEmpty(): void {
    if (this.#pairs.size > 0 || this.#closing.size > 0) return;
    for (const resolve of this.#whenEmpty.splice(0)) resolve();
  }
}

/** The replicas asked in one round of dialling. */
class Round {
  readonly tried = new Set<string>();
  #refusals = 0;

  get isFresh(): boolean {
    return this.tried.size === 0;
  }

  get allRefused(): boolean {
    return this.#refusals > 0 && this.#refusals === this.tried.size;
  }

  note(attempt: { readonly kind: "refused" | "failed"; readonly replica: string }): void {
    if (this.tried.has(attempt.replica)) return;
    this.tried.add(attempt.replica);
    if (attempt.kind === "refused") this.#refusals++;
  }

  clear(): void {
    this.tried.clear();
    this.#refusals = 0;
  }
}

function serverOptions(limits: SocketLimits) {
  return {
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    skipUTF8Validation: false,
    autoPong: true,
    maxPayload: limits.socketMessageLimitBytes,
    closeTimeout: limits.closeLimitMs,
    // Jellyfin accepts without a subprotocol, whatever is offered.
    handleProtocols: () => false as const,
    WebSocket: ClientSocket,
  };
}

/** What `ws` will ask of a handshake (RFC 6455, 4.2.1), asked before a replica is dialled for it. */
function isHandshake({ method, headers }: IncomingMessage): boolean {
  const version = headers["sec-websocket-version"];
  return (
    method === "GET" &&
    headers.upgrade?.toLowerCase() === "websocket" &&
    /^[+/0-9A-Za-z]{22}==$/.test(headers["sec-websocket-key"] ?? "") &&
    (version === "13" || version === "8")
  );
}

/** Answers a handshake as Jellyfin does: a status and nothing else. */
function answer(socket: Duplex, status: 400 | 403): void {
  if (socket.destroyed) return;
  const words = status === 403 ? "403 Forbidden" : "400 Bad Request";
  socket.once("finish", () => socket.destroy());
  socket.end(`HTTP/1.1 ${words}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
}

/**
 * Notices a client that leaves before its handshake is answered: Node reads nothing from a connection that
 * asked for an upgrade, so its end would be seen only after the answer. What the client sends stays in the
 * connection's own bounded buffer. Returns a function that ends the watch.
 */
function watchForLeaving(socket: Duplex): () => void {
  const onReadable = () => {
    if (socket.readableLength === 0) socket.read();
  };
  const onGone = () => void socket.destroy();
  socket.on("readable", onReadable);
  socket.on("end", onGone);
  socket.on("error", onGone);
  return () => {
    socket.removeListener("readable", onReadable);
    socket.removeListener("end", onGone);
    // The listener for errors stays until there is another: an error nobody listens to ends the process.
    setImmediate(() => {
      if (socket.listenerCount("error") > 1) socket.removeListener("error", onGone);
    });
  };
}

function pause(ms: number): Promise<void> {
  return ms <= 0 ? Promise.resolve() : new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits for `promise`, but no longer than `limitMs`, and whatever becomes of it. */
async function within(promise: Promise<void>, limitMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, limitMs);
  });
  // A replica that was not told what a device can do is still better than none.
  await Promise.race([promise.catch(() => undefined), limit]);
  clearTimeout(timer);
}

function backOff(longestMs: number) {
  return { firstMs: redialFirstPauseMs, longestMs };
}
