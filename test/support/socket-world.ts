// A small world for the socket lane: servers with real WebSockets that behave towards sockets as Jellyfin
// does (ForceKeepAlive first, KeepAlive answered, 403 for a token they do not know) and can be made to fail,
// a door with the lane in it, and clients. Everything runs on real connections of the loopback.

import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { pino } from "pino";
import { WebSocket, WebSocketServer } from "ws";
import { systemClock } from "../../core/service/clock.ts";
import { createMetrics } from "../../core/service/metrics.ts";
import { createSocketLane, type SocketEnd, type SocketLimits } from "../../proxy/lanes/socket.ts";
import type {
  SocketAsked,
  SocketHost,
  SocketStanding,
  SocketTarget,
} from "../../proxy/lanes/socket-host.ts";

export const calmLimits: SocketLimits = {
  socketIdleLimitMs: 60_000,
  socketMessageLimitBytes: 64 * 1024,
  socketBufferLimitBytes: 256 * 1024,
  upstreamMessageLimitBytes: 16 * 1024 * 1024,
  connectLimitMs: 500,
  apiHoldLimitMs: 3000,
  upstreamKeepAliveMs: 30_000,
  upstreamReplyLimitMs: 10_000,
  redialPauseLimitMs: 500,
  closeLimitMs: 500,
  dialsAtOnceLimit: 32,
  queuedMessagesLimit: 100,
  queuedBytesLimit: 64 * 1024,
};

/** A server's end of a socket, and what it was told. */
export interface ServerSocket {
  readonly socket: WebSocket;
  readonly url: string;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly heard: string[];
  closeCode: number | undefined;
}

export class SocketServerStandIn {
  readonly name: string;
  readonly sockets: ServerSocket[] = [];
  /** What happened here, in order: `capabilities` and every message. */
  readonly told: string[] = [];
  handshakes = 0;
  answersKeepAlive = true;
  isFrozen = false;
  /** Reads nothing of what it is sent. */
  isDeaf = false;
  refusalStatus: number | undefined = undefined;
  #server: Server | undefined = undefined;
  #port = 0;
  readonly #connections = new Set<Duplex>();

  constructor(name: string) {
    this.name = name;
  }

  get port(): number {
    return this.#port;
  }

  get openSockets(): ServerSocket[] {
    return this.sockets.filter(({ closeCode }) => closeCode === undefined);
  }

  async start(): Promise<this> {
    const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });
    const server = createServer((_request, response) => response.end());
    server.on("connection", (socket) => {
      this.#connections.add(socket);
      socket.on("close", () => this.#connections.delete(socket));
      socket.on("error", () => undefined);
    });
    server.on("upgrade", (request, socket, head) => {
      this.handshakes++;
      if (this.isFrozen) return;
      if (this.refusalStatus !== undefined) {
        socket.end(
          `HTTP/1.1 ${this.refusalStatus} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`,
        );
        return;
      }
      sockets.handleUpgrade(request, socket, head, (ws) => {
        this.#accepted(ws, request.url ?? "", request.headers);
      });
    });
    server.listen(this.#port, "127.0.0.1");
    await once(server, "listening");
    this.#server = server;
    this.#port = (server.address() as AddressInfo).port;
    return this;
  }

  #accepted(ws: WebSocket, url: string, headers: ServerSocket["headers"]): void {
    const entry: ServerSocket = { socket: ws, url, headers, heard: [], closeCode: undefined };
    this.sockets.push(entry);
    if (this.isDeaf) ws.pause();
    ws.on("error", () => undefined);
    ws.on("close", (code) => {
      entry.closeCode = code;
    });
    ws.on("message", (data, isBinary) => {
      const text = isBinary ? `binary:${data.toString()}` : data.toString();
      entry.heard.push(text);
      this.told.push(text);
      if (text === '{"MessageType":"KeepAlive"}' && this.answersKeepAlive && !this.isFrozen) {
        ws.send('{"MessageId":"1","MessageType":"KeepAlive"}');
      }
    });
    ws.send('{"MessageId":"2","Data":60,"MessageType":"ForceKeepAlive"}');
  }

  say(text: string | Buffer): void {
    for (const { socket } of this.openSockets) socket.send(text);
  }

  /** As SIGKILL: every connection breaks, nobody listens any more. */
  async kill(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    const closed = server === undefined ? undefined : new Promise((done) => server.close(done));
    for (const socket of this.#connections)
      (socket as Duplex & { resetAndDestroy(): void }).resetAndDestroy();
    await closed;
  }

  /** As SIGTERM: says goodbye to every socket and closes it. */
  async terminate(): Promise<void> {
    this.say('{"MessageId":"3","MessageType":"ServerShuttingDown"}');
    for (const { socket } of this.openSockets) socket.close(1000, "System Shutdown");
    await until(() => this.openSockets.length === 0);
    await this.kill();
  }
}

/** Where sockets belong, as plain tables that a test changes. */
export class TableHost implements SocketHost {
  readonly servers: Map<string, SocketServerStandIn>;
  /** The replicas that may be dialled, in order of preference; the home first. */
  homes = new Map<string, string>();
  gone = new Set<string>();
  standings = new Map<string, SocketStanding>();
  recognised = new Set<string>();
  readonly suspected: string[] = [];
  targets = 0;
  recognitions = 0;
  capabilitiesMs = 0;
  readonly moved = new Set<(userId: string, replica: string) => void>();
  readonly goneListeners = new Set<(replica: string) => void>();
  readonly ended = new Set<(identityKey: string) => void>();

  constructor(servers: readonly SocketServerStandIn[]) {
    this.servers = new Map(servers.map((server) => [server.name, server]));
  }

  standing(asked: SocketAsked): SocketStanding {
    if (asked.token === undefined) return "none";
    return this.standings.get(asked.token) ?? "current";
  }

  async recognise(asked: SocketAsked): Promise<boolean> {
    this.recognitions++;
    return asked.token !== undefined && this.recognised.has(asked.token);
  }

  async target(
    asked: SocketAsked,
    tried: ReadonlySet<string>,
    limitMs: number,
  ): Promise<SocketTarget | undefined> {
    this.targets++;
    const deadlineMs = performance.now() + limitMs;
    do {
      const found = this.#choose(asked, tried);
      if (found !== undefined) return found;
      await sleep(10);
    } while (performance.now() < deadlineMs);
    return undefined;
  }

  #choose(asked: SocketAsked, tried: ReadonlySet<string>): SocketTarget | undefined {
    const userId = `user-of-${asked.token}`;
    const names = [this.homes.get(userId), ...this.servers.keys()];
    const replica = names.find(
      (name) => name !== undefined && !tried.has(name) && !this.gone.has(name),
    );
    const server = replica === undefined ? undefined : this.servers.get(replica);
    if (replica === undefined || server === undefined) return undefined;
    return {
      replica,
      url: `ws://127.0.0.1:${server.port}/socket?ApiKey=${asked.token}-at-${replica}`,
      headers: { "x-forwarded-for": asked.clientAddress },
      identityKey: `identity-of-${asked.token}`,
      userId,
      reason: "home",
    };
  }

  async replayCapabilities(target: SocketTarget): Promise<void> {
    if (this.capabilitiesMs > 0) await sleep(this.capabilitiesMs);
    this.servers.get(target.replica)?.told.push("capabilities");
  }

  suspect(replica: string, why: string): void {
    this.suspected.push(`${replica}: ${why}`);
  }

  onHomeMoved(listener: (userId: string, replica: string) => void): () => void {
    return listen(this.moved, listener);
  }

  onReplicaGone(listener: (replica: string) => void): () => void {
    return listen(this.goneListeners, listener);
  }

  onEnded(listener: (identityKey: string) => void): () => void {
    return listen(this.ended, listener);
  }

  moveHome(token: string, replica: string): void {
    this.homes.set(`user-of-${token}`, replica);
    for (const listener of this.moved) listener(`user-of-${token}`, replica);
  }

  loseReplica(replica: string): void {
    this.gone.add(replica);
    for (const listener of this.goneListeners) listener(replica);
  }
}

function listen<Listener>(listeners: Set<Listener>, listener: Listener): () => void {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

/** A door with nothing but the lane in it. */
export async function openDoor(host: SocketHost, limits: Partial<SocketLimits> = {}) {
  const metrics = createMetrics("test");
  const logged: string[] = [];
  const lane = createSocketLane({
    host,
    limits: { ...calmLimits, ...limits },
    metrics,
    log: pino({ level: "trace" }, { write: (line) => void logged.push(line) }),
    clock: systemClock,
  });
  const ends: SocketEnd[] = [];
  const connections = new Set<Duplex>();
  const server = createServer();
  server.on("connection", (socket) => {
    connections.add(socket);
    socket.on("close", () => connections.delete(socket));
  });
  server.on("upgrade", (request, socket, head) => {
    const token = new URL(request.url ?? "", "http://door").searchParams.get("ApiKey") ?? undefined;
    const asked: SocketAsked = {
      target: request.url ?? "",
      rawHeaders: request.rawHeaders,
      clientAddress: "192.0.2.7",
      token,
    };
    void lane.handleUpgrade(asked, request, socket, head).then((end) => ends.push(end));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  async function close(): Promise<void> {
    await lane.closeAll(1001);
    await new Promise((done) => server.close(done));
  }
  return { lane, ends, metrics, logged, connections, port, close };
}

export type Door = Awaited<ReturnType<typeof openDoor>>;

export class Client {
  readonly socket: WebSocket;
  readonly heard: string[] = [];
  closeCode: number | undefined = undefined;
  closeReason = "";
  status: number | undefined = undefined;
  error: string | undefined = undefined;

  constructor(door: Door, token: string | undefined, options: { autoPong?: boolean } = {}) {
    const query = token === undefined ? "" : `?ApiKey=${token}`;
    this.socket = new WebSocket(`ws://127.0.0.1:${door.port}/socket${query}`, options);
    this.socket.on("message", (data, isBinary) => {
      this.heard.push(isBinary ? `binary:${data.toString()}` : data.toString());
    });
    this.socket.on("close", (code, reason) => {
      this.closeCode = code;
      this.closeReason = reason.toString();
    });
    this.socket.on("unexpected-response", (request, response) => {
      this.status = response.statusCode;
      request.destroy();
    });
    this.socket.on("error", (error) => {
      this.error = error.message;
    });
  }

  get isOpen(): boolean {
    return this.socket.readyState === WebSocket.OPEN;
  }

  /** Resolves when the handshake is decided, one way or the other. */
  async decided(): Promise<this> {
    await until(() => this.isOpen || this.closeCode !== undefined || this.status !== undefined);
    return this;
  }

  /** What it heard that is not a keep-alive. */
  get news(): string[] {
    return this.heard.filter((text) => !text.includes('KeepAlive"'));
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits until `holds`, and fails with its text when that takes longer than `limitMs`. */
export async function until(holds: () => boolean, limitMs = 5000): Promise<void> {
  const deadlineMs = performance.now() + limitMs;
  while (!holds()) {
    if (performance.now() > deadlineMs) throw new Error(`not within ${limitMs} ms: ${holds}`);
    await sleep(5);
  }
}
