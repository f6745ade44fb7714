/**
 * Sessions and their WebSockets: memory only, as in the server. A session is client + device; it is made by a login, a
 * socket or a report, never by an ordinary GET, and ends when its last socket closes, when its device is logged out, or
 * with the process. A session that never had a socket never ends by itself: that is Jellyfin's ghost session.
 */
import { randomUUID } from "node:crypto";
import type { WebSocket } from "ws";
import type { DeviceIdentity } from "./accounts.ts";
import type { UserRow } from "./database.ts";
import type { Caller } from "./http.ts";
import { EMPTY_ID, idOfText, jellyfinDate } from "./ids.ts";

const LOST_AFTER_MS = 60_000;
const REMIND_AFTER_MS = 45_000;
const WATCH_INTERVAL_MS = 12_000;
/** Session-list pushes are not asked for more often than a client's period; this is the floor for that period. */
const PUSH_PERIOD_MS_MIN = 50;

type Feed = { dueMs: number; periodMs: number; last: number; timer: NodeJS.Timeout | undefined };
type Socket = {
  readonly ws: WebSocket;
  readonly session: Session;
  readonly caller: Caller;
  lastActivity: number;
  lastKeepAlive: number;
  readonly feeds: Map<FeedName, Feed>;
};
type FeedName = "Sessions" | "ScheduledTasksInfo" | "ActivityLogEntry";

export type Session = {
  readonly id: string;
  readonly key: string;
  client: string;
  deviceId: string;
  device: string;
  version: string;
  userId: string | undefined;
  userName: string | undefined;
  additionalUsers: { UserId: string; UserName: string }[];
  address: string | undefined;
  lastActivity: number;
  lastCheckIn: number | undefined;
  capabilities: Record<string, unknown> | undefined;
  nowPlaying: Record<string, unknown> | undefined;
  playState: Record<string, unknown>;
  queue: unknown[];
  playlistItemId: unknown;
  transcoding: Record<string, unknown> | undefined;
  hadSocket: boolean;
};

export class Sessions {
  readonly #serverId: string;
  readonly #sessions = new Map<string, Session>();
  readonly #sockets = new Set<Socket>();
  readonly #capabilities = new Map<string, Record<string, unknown>>();
  readonly #watch: NodeJS.Timeout;
  /** What the "ScheduledTasksInfo" feed shows. */
  tasks: () => unknown = () => [];
  /** Told of each session that has ended. */
  onEnded: (session: Session) => void = () => undefined;

  constructor(serverId: string) {
    this.#serverId = serverId;
    this.#watch = setInterval(() => this.#watchKeepAlives(), WATCH_INTERVAL_MS);
    this.#watch.unref();
  }

  // --- life of a session --------------------------------------------------------------------------------------------

  /** LogSessionActivity: makes the session of a device or renews it. */
  touch(identity: DeviceIdentity, user: UserRow | undefined, address: string | undefined): Session {
    const key = (identity.client + identity.deviceId).toLowerCase();
    let session = this.#sessions.get(key);
    if (session === undefined) {
      session = {
        id: idOfText(identity.client + identity.deviceId),
        key,
        ...identity,
        userId: undefined,
        userName: undefined,
        additionalUsers: [],
        address,
        lastActivity: 0,
        lastCheckIn: undefined,
        capabilities: this.#capabilities.get(identity.deviceId),
        nowPlaying: undefined,
        playState: idlePlayState(),
        queue: [],
        playlistItemId: undefined,
        transcoding: undefined,
        hadSocket: false,
      };
      this.#sessions.set(key, session);
      this.changed();
    }
    session.userId = user?.id;
    session.userName = user?.name;
    session.address = address;
    session.device = identity.device;
    session.version = identity.version;
    session.lastActivity = Date.now();
    if (user === undefined) session.additionalUsers = [];
    return session;
  }

  byId(id: string): Session | undefined {
    for (const session of this.#sessions.values())
      if (session.id === id.toLowerCase()) return session;
    return undefined;
  }

  all(): Session[] {
    return [...this.#sessions.values()];
  }

  countOf(userId: string): number {
    return this.all().filter((session) => session.userId === userId).length;
  }

  /** Ends every session of a device, whoever uses it: that is what logging out any of its tokens does. */
  endDevice(deviceId: string): void {
    for (const session of this.all()) {
      if (session.deviceId.toLowerCase() === deviceId.toLowerCase()) this.#end(session);
    }
  }

  #end(session: Session): void {
    if (this.#sessions.get(session.key) === session) this.#sessions.delete(session.key);
    for (const socket of [...this.#sockets]) {
      if (socket.session !== session) continue;
      this.#drop(socket);
      socket.ws.close(1000, "System Shutdown");
    }
    this.onEnded(session);
    this.changed();
  }

  setCapabilities(session: Session, capabilities: Record<string, unknown>): void {
    session.capabilities = capabilities;
    this.#capabilities.set(session.deviceId, capabilities);
    this.changed();
  }

  capabilitiesOf(deviceId: string): Record<string, unknown> | undefined {
    return this.#capabilities.get(deviceId);
  }

  // --- sockets ------------------------------------------------------------------------------------------------------

  /** Binds an upgraded socket to the caller's session and watches it. */
  attach(ws: WebSocket, caller: Caller, user: UserRow | undefined, address: string): void {
    const session = this.touch(caller, user, address);
    session.hadSocket = true;
    const now = Date.now();
    const socket: Socket = {
      ws,
      session,
      caller,
      lastActivity: now,
      lastKeepAlive: now,
      feeds: new Map(),
    };
    this.#sockets.add(socket);
    ws.on("message", (data, isBinary) => {
      socket.lastActivity = Date.now();
      if (!isBinary) this.#receive(socket, String(data));
    });
    // A socket error is followed by "close", which does what there is to do.
    ws.on("error", () => undefined);
    ws.on("close", () => this.#closed(socket));
    this.#send(socket, "ForceKeepAlive", 60);
    this.changed();
  }

  #closed(socket: Socket): void {
    if (!this.#drop(socket)) return;
    const rest = [...this.#sockets].some((other) => other.session === socket.session);
    if (!rest) this.#end(socket.session);
  }

  #drop(socket: Socket): boolean {
    for (const feed of socket.feeds.values()) clearTimeout(feed.timer);
    return this.#sockets.delete(socket);
  }

  #receive(socket: Socket, text: string): void {
    let message: { MessageType?: unknown; Data?: unknown };
    try {
      message = JSON.parse(text) as typeof message;
    } catch {
      // The server logs a message it cannot read and goes on.
      return;
    }
    const type = String(message.MessageType);
    if (type === "KeepAlive") {
      socket.lastKeepAlive = Date.now();
      this.#send(socket, "KeepAlive");
      return;
    }
    const feed = /^(Sessions|ScheduledTasksInfo|ActivityLogEntry)(Start|Stop)$/.exec(type);
    if (feed === null) return;
    const name = feed[1] as FeedName;
    clearTimeout(socket.feeds.get(name)?.timer);
    socket.feeds.delete(name);
    if (feed[2] === "Stop") return;
    if (name === "ActivityLogEntry" && !socket.caller.isAdmin) return;
    const [due = 0, period = 0] = String(message.Data ?? "0,0")
      .split(",")
      .map(Number);
    socket.feeds.set(name, { dueMs: due, periodMs: period, last: 0, timer: undefined });
  }

  /** Something in the list of sessions changed: those who subscribed hear of it, not more often than they asked for. */
  changed(feedName: FeedName = "Sessions"): void {
    for (const socket of this.#sockets) {
      const feed = socket.feeds.get(feedName);
      if (feed === undefined || feed.timer !== undefined) continue;
      const period = Math.max(PUSH_PERIOD_MS_MIN, feed.periodMs);
      const wait = Math.max(10, feed.last + period - Date.now());
      feed.timer = setTimeout(() => {
        feed.timer = undefined;
        feed.last = Date.now();
        this.#send(socket, feedName, this.#feedData(feedName, socket.caller));
      }, wait);
    }
  }

  #feedData(name: FeedName, caller: Caller): unknown {
    if (name === "Sessions") return this.visibleTo(caller).map((session) => this.dto(session));
    return name === "ScheduledTasksInfo" ? this.tasks() : [];
  }

  visibleTo(caller: Caller): Session[] {
    if (caller.isAdmin) return this.all();
    return this.all().filter(
      (session) => session.userId === undefined || containsUser(session, caller.userId),
    );
  }

  #watchKeepAlives(): void {
    const now = Date.now();
    for (const socket of [...this.#sockets]) {
      const silence = now - socket.lastKeepAlive;
      if (silence >= LOST_AFTER_MS) socket.ws.terminate();
      else if (silence > REMIND_AFTER_MS) this.#send(socket, "ForceKeepAlive", 60);
    }
  }

  // --- messages -----------------------------------------------------------------------------------------------------

  #send(socket: Socket, type: string, data?: unknown): void {
    const id = randomUUID().replaceAll("-", "");
    socket.ws.send(JSON.stringify({ MessageId: id, Data: data, MessageType: type }));
  }

  /** To the session's socket that was active last; silently nowhere if it has none (WebSocketController). */
  sendTo(session: Session, type: string, data: unknown): boolean {
    let latest: Socket | undefined;
    for (const socket of this.#sockets) {
      if (socket.session !== session || socket.ws.readyState !== socket.ws.OPEN) continue;
      if (latest === undefined || socket.lastActivity > latest.lastActivity) latest = socket;
    }
    if (latest !== undefined) this.#send(latest, type, data);
    return latest !== undefined;
  }

  sendToUser(userId: string, type: string, data: unknown): void {
    for (const session of this.#sessions.values()) {
      if (containsUser(session, userId)) this.sendTo(session, type, data);
    }
  }

  sendToAll(type: string, data: unknown): void {
    for (const session of this.#sessions.values()) this.sendTo(session, type, data);
  }

  sendToAdmins(type: string, data: unknown, isAdmin: (userId: string) => boolean): void {
    for (const session of this.#sessions.values()) {
      if (session.userId !== undefined && isAdmin(session.userId)) this.sendTo(session, type, data);
    }
  }

  hasSocket(session: Session): boolean {
    return [...this.#sockets].some((socket) => socket.session === session);
  }

  get socketCount(): number {
    return this.#sockets.size;
  }

  /** The end of the process or of this run: everybody is told, every socket closed. */
  shutDown(message: "ServerShuttingDown" | "ServerRestarting"): void {
    clearInterval(this.#watch);
    this.sendToAll(message, undefined);
    for (const socket of [...this.#sockets]) {
      this.#drop(socket);
      socket.ws.close(1000, "System Shutdown");
    }
    this.#sessions.clear();
  }

  dto(session: Session): Record<string, unknown> {
    const capabilities = session.capabilities ?? {
      PlayableMediaTypes: [],
      SupportedCommands: [],
      SupportsMediaControl: false,
      SupportsPersistentIdentifier: true,
    };
    const connected = this.hasSocket(session);
    const controllable = capabilities.SupportsMediaControl === true && connected;
    return {
      PlayState: session.playState,
      AdditionalUsers: session.additionalUsers,
      Capabilities: capabilities,
      RemoteEndPoint: session.address,
      PlayableMediaTypes: capabilities.PlayableMediaTypes ?? [],
      Id: session.id,
      UserId: session.userId ?? EMPTY_ID,
      UserName: session.userName,
      Client: session.client,
      LastActivityDate: jellyfinDate(session.lastActivity),
      LastPlaybackCheckIn:
        session.lastCheckIn === undefined
          ? "0001-01-01T00:00:00.0000000Z"
          : jellyfinDate(session.lastCheckIn),
      DeviceName: session.device,
      NowPlayingItem: session.nowPlaying,
      DeviceId: session.deviceId,
      ApplicationVersion: session.version,
      TranscodingInfo: session.transcoding,
      IsActive: connected || !session.hadSocket,
      SupportsMediaControl: controllable,
      SupportsRemoteControl: controllable,
      NowPlayingQueue: session.queue,
      HasCustomDeviceName: false,
      PlaylistItemId: session.playlistItemId,
      ServerId: this.#serverId,
      SupportedCommands: capabilities.SupportedCommands ?? [],
    };
  }
}

export function containsUser(session: Session, userId: string | undefined): boolean {
  if (userId === undefined) return false;
  return (
    session.userId === userId || session.additionalUsers.some((user) => user.UserId === userId)
  );
}

export function idlePlayState(): Record<string, unknown> {
  return {
    CanSeek: false,
    IsPaused: false,
    IsMuted: false,
    RepeatMode: "RepeatNone",
    PlaybackOrder: "Default",
  };
}
