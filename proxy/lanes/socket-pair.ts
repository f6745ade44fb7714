// A client's socket and the replica's socket behind it, and how messages go from one to the other. A pair
// lives as long as the client's socket; the replica's may be replaced under it. It promises: order is kept
// in both directions; what one side does not read stops the other side, so that memory is bounded; a
// replica's goodbyes and keep-alives never reach the client; a message of the client is sent to one replica
// only; and while there is no replica, what the client says waits, within limits.
//
// There are thousands of pairs and nearly all of them are silent, so a pair is one object with plain fields:
// listeners are functions shared by all, and neither timers nor collections are made for one that is idle.

import type { Duplex } from "node:stream";
import { type RawData, WebSocket } from "ws";
import {
  forceKeepAlive,
  isClientKeepAlive,
  isOfGroup,
  isSwallowed,
  keepAliveReply,
  keepAliveRequest,
  longMessageType,
  messageType,
  noSubscriptions,
  remember,
  replay,
  type Subscriptions,
  sessionsPeriodMs,
} from "../../core/jellyfin/messages.ts";
import { ignoreError, type UpstreamSocket } from "./socket-dial.ts";
import type { SocketAsked, SocketTarget } from "./socket-host.ts";

export interface PairLimits {
  /** A client that was silent for this long is cut. */
  readonly socketIdleLimitMs: number;
  /** What may wait in memory for a side to read it, before the other side is not read any more. */
  readonly socketBufferLimitBytes: number;
  /** What a client may say while there is no replica; beyond it the client is cut. */
  readonly queuedMessagesLimit: number;
  readonly queuedBytesLimit: number;
  /** How often a replica gets a KeepAlive. */
  readonly upstreamKeepAliveMs: number;
  /** How long a replica may take to answer it. */
  readonly upstreamReplyLimitMs: number;
  /** How long a closing handshake may take before the connection is cut. */
  readonly closeLimitMs: number;
}

/** What a pair tells the lane. */
export interface PairOwner {
  readonly limits: PairLimits;
  readonly nowMs: () => number;
  /** Messages go to another socket of a replica from now on. */
  adopted(pair: SocketPair): void;
  /** What a replica says of a group, as the client is to hear it; undefined: not at all. */
  hears(pair: SocketPair, text: string): string | undefined;
  /** What a replica says of its scheduled tasks, as the client is to hear it. */
  showsTasks(text: string): string;
  /** What a replica says of its user's data, as the client is to hear it; undefined: not at all. */
  showsUserData(pair: SocketPair, text: string): string | undefined;
  /** A replica's message with the ids that clients know. */
  showsIds(pair: SocketPair, data: Buffer): Buffer;
  /** A replica's list of sessions, which its client is told when the others' are in it; false: as it is. */
  tellsSessions(pair: SocketPair, text: string): boolean;
  /** The replica's socket closed or broke, and the client is still there. */
  upstreamLost(pair: SocketPair, replica: string, why: string): void;
  /** The pair left a replica's socket that it is about to close. */
  upstreamLeft(upstream: UpstreamSocket): void;
  /** The pair has ended, once. */
  pairEnded(pair: SocketPair): void;
}

/** Our end of the client's connection. */
export class ClientSocket extends WebSocket {
  pair: SocketPair | undefined = undefined;
}

/** Messages longer than this are carried without a look at their type: those we look for are far shorter. */
const readLengthMax = 1024;

/** What Jellyfin tells its clients: a KeepAlive at least every so many seconds (SessionWebSocketListener). */
const keepAliveSeconds = 60;

interface QueuedMessage {
  readonly data: Buffer;
  readonly isBinary: boolean;
}

export class SocketPair {
  readonly asked: SocketAsked;
  readonly #owner: PairOwner;
  #client: ClientSocket | undefined = undefined;
  #clientStream: Duplex | undefined = undefined;
  #upstream: UpstreamSocket | undefined = undefined;
  /** The replica's socket that was left, while it says its last words. */
  #retiring: UpstreamSocket | undefined = undefined;
  /** A socket that is being dialled, and where. */
  dialling: { readonly upstream: UpstreamSocket; readonly replica: string } | undefined = undefined;
  /** Where the socket is, or, while it is being dialled, was. */
  replica = "";
  identityKey: string | undefined = undefined;
  userId: string | undefined = undefined;
  /** True once the client's socket is closed, cut or refused: nothing more is done for it. */
  isOver = false;
  /** Somebody is dialling for this pair. */
  isFollowing = false;
  /** What is known has changed since that dialling began. */
  mustLookAgain = false;
  /**
   * When to look again whether its first choice can be dialled; 0: it is where it belongs. A replica that
   * could not be dialled may be well again before anybody moved the user's home away from it.
   */
  lookAgainMs = 0;
  /** Replicas' sockets in a row that broke soon after they were opened. */
  shortLives = 0;
  #subscriptions: Subscriptions = noSubscriptions;
  #queue: QueuedMessage[] | undefined = undefined;
  #queuedBytes = 0;
  #clientHeardMs = 0;
  #upstreamHeardMs = 0;
  #upstreamOpenedMs = 0;
  /** When the KeepAlive was sent that has no reply yet; 0: none is awaited. */
  #keepAliveSentMs = 0;
  #keepAliveDueMs = 0;
  /** Since when a side that does not read keeps the other from being read; 0: neither. */
  #stalledSinceMs = 0;
  #isClientFull = false;
  #isUpstreamFull = false;

  constructor(asked: SocketAsked, owner: PairOwner) {
    this.asked = asked;
    this.#owner = owner;
  }

  /** True from the moment the client was answered. */
  get isAccepted(): boolean {
    return this.#client !== undefined;
  }

  get hasUpstream(): boolean {
    return this.#upstream !== undefined && this.#upstream.readyState === WebSocket.OPEN;
  }

  /** Where messages go now; undefined while there is no replica. */
  get upstreamReplica(): string | undefined {
    return this.hasUpstream ? this.replica : undefined;
  }

  /** Begins to carry. The first message is ours: some clients wait for one before they believe the socket. */
  accept(client: ClientSocket, stream: Duplex): void {
    this.#client = client;
    this.#clientStream = stream;
    this.#clientHeardMs = this.#owner.nowMs();
    client.pair = this;
    client.on("message", onClientMessage);
    client.on("ping", onClientHeard);
    client.on("pong", onClientHeard);
    client.on("error", onClientError);
    client.on("close", onClientClose);
    client.send(forceKeepAlive(keepAliveSeconds));
  }

  /**
   * Makes a dialled replica's socket the one messages go to: what the client subscribed to is said there
   * first, then what it said meanwhile. A replica's socket that is still open is left in good order: it is
   * closed, what it had still to say is carried, and only then is the new one read. So the client never
   * hears the same from two.
   */
  adopt(upstream: UpstreamSocket, target: SocketTarget): void {
    const left = this.#upstream;
    const nowMs = this.#owner.nowMs();
    this.#upstream = upstream;
    this.#isUpstreamFull = false;
    this.replica = target.replica;
    this.identityKey = target.identityKey;
    this.userId = target.userId;
    this.#upstreamOpenedMs = nowMs;
    this.#upstreamHeardMs = nowMs;
    this.#keepAliveSentMs = 0;
    // Sockets that were dialled together need not be kept alive together.
    this.#keepAliveDueMs =
      nowMs + this.#owner.limits.upstreamKeepAliveMs * (0.5 + Math.random() / 2);
    upstream.pair = this;
    upstream.on("message", onUpstreamMessage);
    upstream.on("close", onUpstreamClose);
    for (const message of replay(this.#subscriptions)) upstream.send(message);
    this.#sendQueue();
    if (left !== undefined) this.#retire(left);
    this.#flow();
    this.#owner.adopted(this);
  }

  /** Leaves the replica's socket, at once: it is known to be of no use. */
  abandonUpstream(): void {
    const upstream = this.#upstream;
    this.#upstream = undefined;
    this.#isUpstreamFull = false;
    if (upstream !== undefined) leave(upstream);
    upstream?.terminate();
    this.#endRetiring();
    this.#flow();
  }

  /**
   * Ends the pair by cutting the client's connection. Without a Close frame: clients dial again at once
   * after an error, and some never after a clean close.
   */
  cut(upstreamCode = 1000): void {
    if (this.isOver) return;
    this.#client?.terminate();
    this.#end(upstreamCode);
  }

  /** Ends the pair as a server ends the sockets of a login that is over. */
  close(code: number, reason: string): void {
    if (this.isOver) return;
    this.#client?.close(code, reason);
    this.#end(code);
  }

  /** Looks after the pair, every now and then. `nowMs` is the owner's. */
  sweep(nowMs: number): void {
    if (this.isOver || this.#client === undefined) return;
    this.#sweepClient(this.#client, nowMs);
    if (!this.isOver) this.#sweepUpstream(nowMs);
  }

  #sweepClient(client: ClientSocket, nowMs: number): void {
    const { socketIdleLimitMs } = this.#owner.limits;
    if (this.#stalledSinceMs > 0) {
      if (nowMs - this.#stalledSinceMs >= socketIdleLimitMs) this.cut();
      return;
    }
    const silentMs = nowMs - this.#clientHeardMs;
    if (silentMs >= socketIdleLimitMs) this.cut();
    else if (silentMs >= socketIdleLimitMs / 2) {
      client.ping();
      if (silentMs >= socketIdleLimitMs * 0.75) client.send(forceKeepAlive(keepAliveSeconds));
    }
  }

  #sweepUpstream(nowMs: number): void {
    const upstream = this.#upstream;
    // What we do not read ourselves cannot be judged by its silence.
    if (upstream === undefined || upstream.isPaused) return;
    const limits = this.#owner.limits;
    if (this.#keepAliveSentMs > 0 && this.#upstreamHeardMs < this.#keepAliveSentMs) {
      if (nowMs - this.#keepAliveSentMs < limits.upstreamReplyLimitMs) return;
      const { replica } = this;
      this.abandonUpstream();
      this.#owner.upstreamLost(this, replica, "silent");
      return;
    }
    if (nowMs < this.#keepAliveDueMs) return;
    this.#keepAliveSentMs = nowMs;
    this.#keepAliveDueMs = nowMs + limits.upstreamKeepAliveMs;
    if (upstream.readyState === WebSocket.OPEN) upstream.send(keepAliveRequest);
  }

  // ---- What the client says -------------------------------------------------------------------------

  clientHeard(): void {
    this.#clientHeardMs = this.#owner.nowMs();
  }

  fromClient(data: Buffer, isBinary: boolean): void {
    this.clientHeard();
    if (this.isOver) return;
    if (!isBinary && data.length <= readLengthMax) {
      const text = data.toString("utf8");
      if (isClientKeepAlive(messageType(text))) {
        this.#toClient(keepAliveReply(), false);
        return;
      }
      const before = this.#subscriptions;
      this.#subscriptions = remember(before, text);
      // A change of subscriptions is replayed with the others when there is a replica again.
      if (this.#subscriptions !== before && !this.hasUpstream) return;
    }
    if (this.hasUpstream) this.#toUpstream(data, isBinary);
    else this.#enqueue(data, isBinary);
  }

  #toUpstream(data: Buffer, isBinary: boolean): void {
    const upstream = this.#upstream;
    if (upstream === undefined) return;
    upstream.send(data, { binary: isBinary });
    if (upstream.bufferedAmount <= this.#owner.limits.socketBufferLimitBytes) return;
    if (this.#isUpstreamFull) return;
    this.#isUpstreamFull = true;
    upstream.stream?.once("drain", () => {
      if (this.#upstream !== upstream) return;
      this.#isUpstreamFull = false;
      this.#flow();
    });
    this.#flow();
  }

  #enqueue(data: Buffer, isBinary: boolean): void {
    const { queuedMessagesLimit, queuedBytesLimit } = this.#owner.limits;
    this.#queue ??= [];
    this.#queuedBytes += data.length;
    if (this.#queue.length >= queuedMessagesLimit || this.#queuedBytes > queuedBytesLimit) {
      // Nothing is dropped silently: a client that is cut knows that it was not heard.
      this.cut();
      return;
    }
    // The data is a part of a larger piece that was read; a copy does not keep that in memory.
    this.#queue.push({ data: Buffer.from(data), isBinary });
  }

  #sendQueue(): void {
    const queue = this.#queue ?? [];
    this.#queue = undefined;
    this.#queuedBytes = 0;
    for (const { data, isBinary } of queue) this.#toUpstream(data, isBinary);
  }

  clientClosed(code: number): void {
    this.#end(code);
  }

  // ---- What the replica says ------------------------------------------------------------------------

  fromUpstream(upstream: UpstreamSocket, said: Buffer, isBinary: boolean): void {
    if (upstream === this.#upstream) this.#upstreamHeardMs = this.#owner.nowMs();
    if (this.isOver) return;
    const data = isBinary ? said : this.#owner.showsIds(this, said);
    if (!isBinary) {
      const isLong = data.length > readLengthMax;
      const type = isLong ? longMessageType(data) : messageType(data.toString("utf8"));
      if (!isLong && isSwallowed(type)) return;
      if (type === "ScheduledTasksInfo") {
        this.#toClient(this.#owner.showsTasks(data.toString("utf8")), false);
        return;
      }
      if (type === "UserDataChanged") {
        const text = data.toString("utf8");
        const shown = this.#owner.showsUserData(this, text);
        if (shown === undefined) return;
        if (shown !== text) {
          this.#toClient(shown, false);
          return;
        }
      }
      if (type === "Sessions" && upstream === this.#upstream) {
        if (this.#owner.tellsSessions(this, data.toString("utf8"))) return;
      }
      if (isOfGroup(type)) {
        const shown = this.#owner.hears(this, data.toString("utf8"));
        if (shown !== undefined) this.#toClient(shown, false);
        return;
      }
    }
    this.#toClient(data, isBinary);
  }

  /** How often at most this client wants the list of sessions, in ms; undefined: it does not. */
  get sessionsPeriodMs(): number | undefined {
    return sessionsPeriodMs(this.#subscriptions);
  }

  /** The client reads slowly, and what can wait should. */
  get isClientFull(): boolean {
    return this.#isClientFull;
  }

  /** Tells the client something that is made of what several replicas say. */
  tell(text: string): void {
    if (!this.isOver) this.#toClient(text, false);
  }

  #toClient(data: Buffer | string, isBinary: boolean): void {
    const client = this.#client;
    if (client === undefined || client.readyState !== WebSocket.OPEN) return;
    client.send(data, { binary: isBinary });
    if (client.bufferedAmount <= this.#owner.limits.socketBufferLimitBytes) return;
    if (this.#isClientFull) return;
    this.#isClientFull = true;
    this.#clientStream?.once("drain", () => {
      this.#isClientFull = false;
      this.#flow();
    });
    this.#flow();
  }

  upstreamClosed(upstream: UpstreamSocket, code: number): void {
    leave(upstream);
    if (upstream === this.#retiring) {
      this.#endRetiring();
      return;
    }
    if (upstream !== this.#upstream) return;
    this.#upstream = undefined;
    this.#isUpstreamFull = false;
    this.#flow();
    const livedMs = this.#owner.nowMs() - this.#upstreamOpenedMs;
    this.shortLives = livedMs < shortLifeMs ? this.shortLives + 1 : 0;
    if (!this.isOver) this.#owner.upstreamLost(this, this.replica, `closed ${code}`);
  }

  // ---- How they are joined --------------------------------------------------------------------------

  /** Lets each side be read while the other side reads. A client that does not read is not read either. */
  #flow(): void {
    const isClientStopped = this.#isUpstreamFull || this.#isClientFull;
    setPaused(this.#client, isClientStopped);
    setPaused(this.#retiring, this.#isClientFull);
    setPaused(this.#upstream, this.#isClientFull || this.#retiring !== undefined);
    if (!isClientStopped) {
      // It could not be heard while it was not read.
      if (this.#stalledSinceMs > 0) this.clientHeard();
      this.#stalledSinceMs = 0;
    } else if (this.#stalledSinceMs === 0) this.#stalledSinceMs = this.#owner.nowMs();
  }

  #retire(left: UpstreamSocket): void {
    this.#endRetiring();
    if (left.readyState === WebSocket.CLOSED) return;
    this.#retiring = left;
    left.close(1000);
    setTimeout(() => {
      if (this.#retiring === left) this.#endRetiring();
    }, this.#owner.limits.closeLimitMs).unref();
  }

  #endRetiring(): void {
    const left = this.#retiring;
    if (left === undefined) return;
    this.#retiring = undefined;
    leave(left);
    left.terminate();
    this.#flow();
  }

  #end(upstreamCode: number): void {
    if (this.isOver) return;
    this.isOver = true;
    this.dialling?.upstream.terminate();
    this.#queue = undefined;
    const upstream = this.#upstream;
    this.#upstream = undefined;
    this.#endRetiring();
    if (upstream !== undefined) {
      leave(upstream);
      this.#owner.upstreamLeft(upstream);
      // What it still says is read and forgotten, so that its Close is seen.
      upstream.resume();
      upstream.close(sendableCode(upstreamCode));
    }
    this.#owner.pairEnded(this);
  }
}

/** A replica's socket that lives shorter than this was not of use: the next one is dialled after a wait. */
const shortLifeMs = 5000;

function leave(upstream: UpstreamSocket): void {
  upstream.pair = undefined;
  upstream.removeAllListeners();
  upstream.on("error", ignoreError);
}

function setPaused(socket: WebSocket | undefined, paused: boolean): void {
  if (socket === undefined || socket.isPaused === paused) return;
  if (paused) socket.pause();
  else socket.resume();
}

/** 1005, 1006 and 1015 stand for «none was sent» and may not be sent (RFC 6455, 7.4.1). */
export function sendableCode(code: number): number {
  const isSendable =
    (code >= 1000 && code <= 1014 && code !== 1004 && code !== 1005 && code !== 1006) ||
    (code >= 3000 && code <= 4999);
  return isSendable ? code : 1000;
}

// ---- Listeners, shared by all sockets ---------------------------------------------------------------

/** `ws` gives one Buffer per message as long as nobody asks it for another form. */
function whole(data: RawData): Buffer {
  if (Buffer.isBuffer(data)) return data;
  return Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data);
}

function onClientMessage(this: WebSocket, data: RawData, isBinary: boolean): void {
  (this as ClientSocket).pair?.fromClient(whole(data), isBinary);
}

function onClientHeard(this: WebSocket): void {
  (this as ClientSocket).pair?.clientHeard();
}

/** `ws` answers a frame that breaks the rules with the Close that names the rule; the replica is freed now. */
function onClientError(this: WebSocket): void {
  (this as ClientSocket).pair?.clientClosed(1000);
}

function onClientClose(this: WebSocket, code: number): void {
  const client = this as ClientSocket;
  client.pair?.clientClosed(code);
  client.pair = undefined;
}

function onUpstreamMessage(this: WebSocket, data: RawData, isBinary: boolean): void {
  const upstream = this as UpstreamSocket;
  upstream.pair?.fromUpstream(upstream, whole(data), isBinary);
}

function onUpstreamClose(this: WebSocket, code: number): void {
  const upstream = this as UpstreamSocket;
  upstream.pair?.upstreamClosed(upstream, code);
}
