// The calls we make to a Jellyfin server ourselves: health, facts about the server and its users, the
// steps of a mint, logouts, and two kinds of socket (one that ends a session nobody holds, one that shows
// that a Jellybloom is here). Everything else on its way through the door is forwarded, not called.
//
// It promises: every call has an end (`callLimitMs`, connecting included) and a body of bounded size; an
// answer of the server is a value whatever its status; a failure says what the server may have seen, so
// that the caller knows whether repeating is safe; no error contains a token or a key.

import { createHash } from "node:crypto";
import { connect as connectTcp, type Socket } from "node:net";
import { WebSocket } from "ws";
import { type CallEnd, Calls } from "./calls.ts";
import { buildAuthorization, type DeviceFields } from "./credentials.ts";
import { keepAliveRequest, messageType } from "./messages.ts";
import { byLowerName } from "./raw-headers.ts";

export interface JellyfinClientOptions {
  /** `http:` or `https:` origin without a trailing slash. */
  readonly origin: string;
  /** Jellyfin's BaseUrl: empty, or a path with a leading and no trailing slash. */
  readonly basePath: string;
  /**
   * Without one, the calls that need it are answered by the server's refusal. A function where it may only be known
   * later: it is asked before each call.
   */
  readonly apiKey?: string | (() => string | undefined) | undefined;
  /** How long one call may take from its start to the end of its body, in ms. */
  readonly callLimitMs: number;
  /** How long a health probe may take, in ms. Default: `callLimitMs`. */
  readonly probeLimitMs?: number;
  /** How long a connection may take to be made, in ms. Default: `callLimitMs`. */
  readonly connectLimitMs?: number;
  /** Connections at one time; more calls wait for one. Default 8. */
  readonly connectionsLimit?: number;
  /** A larger answer is a failure. Default 8 MiB: two thousand users with their policies. */
  readonly bodyLimitBytes?: number;
  /** A monotonic clock in ms, for how long a probe took. */
  readonly now: () => number;
}

/** A call that has no answer we can use. */
export interface CallFailure {
  readonly outcome: "failed";
  readonly failure:
    | "notConnected"
    | "broke"
    | "timedOut"
    | "tooLarge"
    | "status"
    | "notUnderstood"
    | "stopped";
  /** `nothing`: the request did not reach the server. `maybe`: it may have been carried out. */
  readonly seen: "nothing" | "maybe";
  readonly status?: number;
  /** For the log: no secrets. */
  readonly message: string;
}

export interface HealthAnswer {
  /**
   * - `healthy`    200 `Healthy`
   * - `degraded`   200 `Degraded`: the server is starting (storage check, migrations)
   * - `loading`    503 while its host is up and its core is not
   * - `unhealthy`  `Unhealthy`, or any other answer
   * - `wrongPath`  the server is there, but not under this base path
   * - `refused`    no connection can be made
   * - `broke`      the connection ended before an answer
   * - `silent`     no answer within the limit
   */
  readonly state:
    | "healthy"
    | "degraded"
    | "loading"
    | "unhealthy"
    | "wrongPath"
    | "refused"
    | "broke"
    | "silent";
  /** One sentence without secrets. */
  readonly reason: string;
  readonly tookMs: number;
}

export interface ServerInfo {
  readonly id: string;
  readonly name: string;
  readonly version: string;
  readonly startupWizardCompleted: boolean;
  readonly localAddress: string;
}

export interface ServerUser {
  /** 32 lower-case hex digits. */
  readonly id: string;
  readonly name: string;
  readonly isAdministrator: boolean;
  readonly isDisabled: boolean;
}

export interface ServerSession {
  readonly id: string;
  /** 32 lower-case hex digits; empty for a session of an API key. */
  readonly userId: string;
  readonly userName: string;
  readonly client: string;
  readonly deviceId: string;
  readonly deviceName: string;
  /** Empty when no request of a client has reached the session: it was made by a mint. */
  readonly remoteEndPoint: string;
  /** What it plays as far as the server knows; undefined when it plays nothing. */
  readonly playing: SessionPlaying | undefined;
}

/** A session's NowPlayingItem and PlayState. */
export interface SessionPlaying {
  /** 32 lower-case hex digits. */
  readonly itemId: string;
  readonly mediaSourceId: string;
  /** Empty for what is no live stream. */
  readonly liveStreamId: string;
}

/** What a server is told of a playback that has left it. */
export interface LeftPlay extends SessionPlaying {
  /** Empty when it is not known: then no encode is ended by it. */
  readonly playSessionId: string;
}

/** A film, as short as the library has one, for a short encode. */
export interface ProbeItem {
  readonly itemId: string;
  readonly runTimeTicks: number;
}

/** One segment of an encode, as it came. */
export interface EncodedSegment {
  readonly bytes: number;
  readonly tookMs: number;
}

export interface NetworkFacts {
  readonly baseUrl: string;
  readonly knownProxies: readonly string[];
  readonly enableRemoteAccess: boolean;
}

/** Settings of the encoder, by the server's own names; only texts, numbers and switches. */
export type EncodingFacts = Readonly<Record<string, string | number | boolean | null>>;

export type Refusal = { readonly outcome: "refused"; readonly status: number };
type Ok<Value> = { readonly outcome: "ok" } & Value;

export type MeAnswer =
  | Ok<{ readonly user: ServerUser }>
  | Refusal
  /** The token is an API key: it is valid and has no user. */
  | { readonly outcome: "isApiKey" }
  | CallFailure;

export type InfoAnswer = Ok<{ readonly info: ServerInfo }> | Refusal | CallFailure;
export type UsersAnswer = Ok<{ readonly users: readonly ServerUser[] }> | Refusal | CallFailure;
export type UserAnswer =
  | Ok<{ readonly user: ServerUser }>
  | { readonly outcome: "unknownUser" }
  | Refusal
  | CallFailure;
export type SessionsAnswer =
  | Ok<{ readonly sessions: readonly ServerSession[] }>
  | Refusal
  | CallFailure;

export type InitiateAnswer =
  | Ok<{ readonly secret: string; readonly code: string }>
  /** QuickConnect is switched off at this server. */
  | { readonly outcome: "switchedOff" }
  | CallFailure;

export type AuthorizeAnswer =
  | { readonly outcome: "ok" }
  /** The API key is not valid there. */
  | { readonly outcome: "keyRefused" }
  /** MaxActiveSessions is reached, or the user may not use this device. */
  | { readonly outcome: "notAllowed" }
  | { readonly outcome: "unknownUser" }
  /** The server forgot the request: it restarted in between. */
  | { readonly outcome: "unknownCode" }
  | CallFailure;

export type AuthenticateAnswer =
  | Ok<{ readonly token: string; readonly user: ServerUser; readonly deviceId: string | undefined }>
  | { readonly outcome: "unknownSecret" }
  | CallFailure;

export type StopAnswer = { readonly outcome: "done" } | Refusal | CallFailure;
export type ProbeItemAnswer = Ok<{ readonly item: ProbeItem | undefined }> | Refusal | CallFailure;
export type SegmentAnswer = Ok<{ readonly segment: EncodedSegment }> | Refusal | CallFailure;
export type EndSessionAnswer = { readonly outcome: "ended" } | Refusal | CallFailure;
/** `done` also when the server did not know the token: it is not valid there, which is what was wanted. */
export type LogoutAnswer = { readonly outcome: "done" } | CallFailure;
export type ForgetDeviceAnswer = { readonly outcome: "done" } | Refusal | CallFailure;
export type QuickConnectAnswer = Ok<{ readonly enabled: boolean }> | CallFailure;
export type NetworkAnswer = Ok<{ readonly network: NetworkFacts }> | Refusal | CallFailure;
export type EncodingAnswer = Ok<{ readonly encoding: EncodingFacts }> | Refusal | CallFailure;
export type KeyAnswer = { readonly outcome: "works" } | Refusal | CallFailure;

/** An answer as it came; what its status means is for the caller to know. */
export interface PlainAnswer {
  readonly outcome: "answered";
  readonly status: number;
  readonly text: string;
}

/** A file as it came. */
export interface BytesAnswer {
  readonly outcome: "answered";
  readonly status: number;
  /** Without parameters; empty when the answer has none. */
  readonly contentType: string;
  readonly bytes: Buffer;
}

/** What the server makes of an `X-Forwarded-For` that comes from us. */
export type ForwardingAnswer =
  | Ok<{
      /** `honoured`: it took the forwarded address; `ignored`: it took ours, which it holds to be local. */
      readonly forwarding: "honoured" | "ignored" | "unknown";
    }>
  | Refusal
  | CallFailure;

export type PresenceEnd =
  | { readonly outcome: "closed"; readonly code: number }
  | { readonly outcome: "stopped" }
  | Refusal
  | CallFailure;

export interface JellyfinClient {
  readonly origin: string;
  readonly basePath: string;
  /** SHA-256 of the API key as 64 lower-case hex digits; undefined without one. */
  readonly keyHash?: string | undefined;
  /** The API key as `seal` makes it, for others of ours; undefined without one. */
  readonly sealedKey?: (seal: (key: string) => string) => string | undefined;
  health(): Promise<HealthAnswer>;
  /** GET /System/Info/Public. */
  publicInfo(): Promise<InfoAnswer>;
  /** GET /System/Info with the API key. */
  systemInfo(): Promise<InfoAnswer>;
  /** GET /Users/Me with a client's token. */
  me(token: string): Promise<MeAnswer>;
  /** GET /Users with the API key. */
  users(): Promise<UsersAnswer>;
  /** GET /Users/{id} with the API key. */
  user(userId: string): Promise<UserAnswer>;
  /** First step of a mint: POST /QuickConnect/Initiate, without any token. */
  quickConnectInitiate(device: DeviceFields): Promise<InitiateAnswer>;
  /**
   * Second step: POST /QuickConnect/Authorize with the API key, or with a token that may do it for that user.
   * This one creates token and session.
   */
  quickConnectAuthorize(code: string, userId: string, token?: string): Promise<AuthorizeAnswer>;
  /** Third step: POST /Users/AuthenticateWithQuickConnect. Answers the same token for ten minutes. */
  authenticateWithQuickConnect(secret: string): Promise<AuthenticateAnswer>;
  /** Ends a session without a socket by opening one and closing it; the token stays valid. */
  endGhostSession(token: string, device: DeviceFields): Promise<EndSessionAnswer>;
  /** POST /Sessions/Logout. */
  logout(token: string, device: DeviceFields): Promise<LogoutAnswer>;
  /** DELETE /Devices with the API key: every token with that device id, of all users, ends there. */
  forgetDevice(deviceId: string): Promise<ForgetDeviceAnswer>;
  quickConnectEnabled(): Promise<QuickConnectAnswer>;
  networkConfiguration(): Promise<NetworkAnswer>;
  encodingConfiguration(): Promise<EncodingAnswer>;
  apiKeyWorks(): Promise<KeyAnswer>;
  sessions(): Promise<SessionsAnswer>;
  /**
   * DELETE /Videos/ActiveEncodings with the API key: ends the ffmpeg of one play. 204 also where there is none, and
   * its files go (HlsSegmentController.StopEncodingProcess).
   */
  stopEncodings(deviceId: string, playSessionId: string): Promise<StopAnswer>;
  /**
   * POST /Sessions/Playing/Stopped with `Failed`, by the client's own token: the session plays nothing any more, and
   * the user's position is left as it is (SessionManager.OnPlaybackStopped).
   */
  stopLeftPlay(token: string, device: DeviceFields, play: LeftPlay): Promise<StopAnswer>;
  /** GET /Items with the API key: a film to try the encoder with. */
  probeItem(): Promise<ProbeItemAnswer>;
  /**
   * One segment of HLS, encoded to H.264 by the server under this name (DynamicHlsController.GetHlsVideoSegment), with
   * the API key: it touches no user and no session. `limitMs` bounds the wait.
   */
  encodeSegment(
    item: ProbeItem,
    playSessionId: string,
    segment: { readonly number: number; readonly seconds: number },
    limitMs: number,
  ): Promise<SegmentAnswer>;
  /**
   * A call in the name of a user's device, with its own token. `accept` as the client sent it, so that the
   * answer is spelled as the client's own would be.
   */
  callAs(
    token: string,
    device: DeviceFields,
    method: "GET" | "POST",
    path: string,
    body?: unknown,
    accept?: string,
  ): Promise<PlainAnswer | CallFailure>;
  /** A client's request made again in its name, with its own token. `path` with query, without the base path. */
  sendAs(
    token: string,
    device: DeviceFields,
    request: {
      readonly method: string;
      readonly path: string;
      readonly contentType: string;
      readonly body: string;
    },
  ): Promise<PlainAnswer | CallFailure>;
  /** Any other call with the API key. `path` with query, without the base path. */
  callWithKey(
    method: "GET" | "POST" | "DELETE",
    path: string,
    body?: unknown,
  ): Promise<PlainAnswer | CallFailure>;
  /** POST with the API key of what is no JSON, such as a picture (base64, ImageController). */
  postWithKey(path: string, contentType: string, body: string): Promise<PlainAnswer | CallFailure>;
  /** GET of a file that Jellyfin gives to anybody, such as a profile picture. `path` with query. */
  file(path: string): Promise<BytesAnswer | CallFailure>;
  /** GET /System/Endpoint as if for a visitor from a public address. */
  forwarding(): Promise<ForwardingAnswer>;
  /** The address from which our connections to this server come; undefined when none can be made. */
  localAddress(): Promise<string | undefined>;
  /**
   * Keeps a socket with the API key open until it closes or `signal` aborts. `onOpen` is called when the
   * server has accepted it, so that the session is there.
   */
  holdPresence(
    device: DeviceFields,
    onOpen: () => void,
    signal: AbortSignal,
    /** Told of every message, as it came; it must not throw. */
    onMessage?: (text: string) => void,
  ): Promise<PresenceEnd>;
  close(): Promise<void>;
}

const defaultConnectionsLimit = 8;
const defaultBodyLimitBytes = 8 * 1024 * 1024;
const idleLimitMs = 10_000;
/** Jellyfin holds a socket lost after 60 s without a KeepAlive (SessionWebSocketListener). */
const presenceKeepAliveMs = 30_000;
/** Never an address of a local network (RFC 5737, TEST-NET-3). */
const publicVisitor = "203.0.113.77";
const userAgent = "Jellybloom";

interface Answer {
  readonly outcome: "answered";
  readonly status: number;
  readonly text: string;
  readonly location: string | undefined;
}

interface RawAnswer {
  readonly outcome: "answered";
  readonly status: number;
  readonly bytes: Buffer;
  /** By their names in lower case; of several with one name the first. */
  readonly headers: Readonly<Record<string, string | undefined>>;
}

interface CallRequest {
  readonly method: "GET" | "POST" | "DELETE";
  /** With query, without the base path. */
  readonly path: string;
  readonly authorization?: string | undefined;
  readonly body?: unknown;
  /** A body that is sent as it is; its type is in `headers`. */
  readonly rawBody?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Asked at the server's root although there is a base path. */
  readonly atRoot?: boolean;
  /** Default: `callLimitMs`. */
  readonly limitMs?: number;
}

export function createJellyfinClient(options: JellyfinClientOptions): JellyfinClient {
  const { origin, basePath, callLimitMs, now } = options;
  const probeLimitMs = options.probeLimitMs ?? callLimitMs;
  const bodyLimitBytes = options.bodyLimitBytes ?? defaultBodyLimitBytes;
  const calls = new Calls({
    origin,
    connectionsLimit: options.connectionsLimit ?? defaultConnectionsLimit,
    connectLimitMs: options.connectLimitMs ?? callLimitMs,
    bodyLimitBytes,
    idleLimitMs,
    now,
  });
  const { apiKey } = options;
  const keyNow = typeof apiKey === "function" ? apiKey : () => apiKey;
  const keyAuthorization = () => buildAuthorization({}, keyNow());
  const socketUrl = `${origin.replace(/^http/, "ws")}${basePath}/socket`;

  async function call(request: CallRequest): Promise<Answer | CallFailure> {
    const answer = await callRaw(request);
    if (answer.outcome === "failed") return answer;
    const { status, bytes, headers } = answer;
    const location = typeof headers.location === "string" ? headers.location : undefined;
    return { outcome: "answered", status, text: bytes.toString("utf8"), location };
  }

  async function callRaw(request: CallRequest): Promise<RawAnswer | CallFailure> {
    const limitMs = request.limitMs ?? callLimitMs;
    const headers: Record<string, string> = { "user-agent": userAgent, ...request.headers };
    if (request.authorization !== undefined) headers.authorization = request.authorization;
    if (request.body !== undefined) headers["content-type"] = "application/json";
    const body =
      request.rawBody ?? (request.body === undefined ? undefined : JSON.stringify(request.body));
    const end = await calls.send({
      method: request.method,
      path: `${request.atRoot === true ? "" : basePath}${request.path}`,
      headers,
      body: body === undefined ? undefined : Buffer.from(body, "utf8"),
      limitMs,
    });
    return answerOf(end, limitMs, bodyLimitBytes);
  }

  async function get(path: string, authorization?: string): Promise<Answer | CallFailure> {
    return await call({ method: "GET", path, authorization });
  }

  async function probeHealth(): Promise<Omit<HealthAnswer, "tookMs">> {
    const probe = { method: "GET", path: "/health", limitMs: probeLimitMs } as const;
    const answer = await call(probe);
    if (answer.outcome === "failed") return healthOfFailure(answer);
    // A server sends whoever asks outside its base path to its page (BaseUrlRedirectionMiddleware).
    if (answer.location !== undefined) return wrongPath(basePath, answer.location);
    const health = healthOf(answer);
    if (basePath === "" || health.state === "healthy" || answer.status === 200) return health;
    // While it checks its storage and migrates, the server does not know its base path yet and answers
    // at the root only (ServerSetupApp/SetupServer.cs).
    const root = await call({ ...probe, atRoot: true });
    if (root.outcome === "failed" || root.location !== undefined) return health;
    const rootHealth = healthOf(root);
    if (rootHealth.state === "degraded" || rootHealth.state === "unhealthy") return rootHealth;
    return answer.status === 404 && rootHealth.state === "healthy"
      ? wrongPath(basePath, "/")
      : health;
  }

  async function endGhostSession(token: string, device: DeviceFields): Promise<EndSessionAnswer> {
    const socket = dial(device, token);
    return await new Promise((resolve) => {
      let answer: EndSessionAnswer = failed("broke", "maybe", "the socket closed by itself");
      const timer = setTimeout(() => {
        answer = failed("timedOut", "maybe", `the socket took longer than ${callLimitMs} ms`);
        socket.terminate();
      }, callLimitMs);
      socket.once("message", () => {
        // The first message comes when the server has bound the socket to its session; closing earlier
        // could leave the session behind.
        answer = { outcome: "ended" };
        socket.close(1000);
      });
      onSocketRefused(socket, (refusal) => {
        answer = refusal;
      });
      socket.once("close", () => {
        clearTimeout(timer);
        resolve(answer);
      });
    });
  }

  function dial(device: DeviceFields, token: string | undefined): WebSocket {
    // 10.10 binds a socket to its session by the query, later versions by the header.
    const query = `?deviceId=${encodeURIComponent((device.deviceId ?? "").toWellFormed())}`;
    return new WebSocket(`${socketUrl}${query}`, {
      headers: { authorization: buildAuthorization(device, token), "user-agent": userAgent },
      handshakeTimeout: callLimitMs,
      maxPayload: bodyLimitBytes,
      perMessageDeflate: false,
      followRedirects: false,
    });
  }

  async function holdPresence(
    device: DeviceFields,
    onOpen: () => void,
    signal: AbortSignal,
    onMessage?: (text: string) => void,
  ): Promise<PresenceEnd> {
    if (signal.aborted) return { outcome: "stopped" };
    const socket = dial(device, keyNow());
    return await new Promise((resolve) => {
      let end: PresenceEnd | undefined;
      let quietTimer: NodeJS.Timeout | undefined;
      const expectWord = (): void => {
        clearTimeout(quietTimer);
        quietTimer = setTimeout(() => {
          end = failed("timedOut", "maybe", "the server no longer answers keep-alives");
          socket.terminate();
        }, 2 * presenceKeepAliveMs);
      };
      const keepAlive = setInterval(() => {
        if (socket.readyState === WebSocket.OPEN) socket.send(keepAliveRequest);
      }, presenceKeepAliveMs);
      const stop = (): void => {
        end = { outcome: "stopped" };
        socket.close(1000);
        // A server that does not answer the close is not waited for.
        setTimeout(() => socket.terminate(), Math.min(callLimitMs, 500)).unref();
      };
      signal.addEventListener("abort", stop, { once: true });
      expectWord();
      socket.once("message", onOpen);
      socket.on("message", (data) => {
        expectWord();
        const text = data.toString();
        if (messageType(text) === "ForceKeepAlive") socket.send(keepAliveRequest);
        onMessage?.(text);
      });
      onSocketRefused(socket, (refusal) => {
        end ??= refusal;
      });
      socket.once("close", (code) => {
        clearInterval(keepAlive);
        clearTimeout(quietTimer);
        signal.removeEventListener("abort", stop);
        resolve(end ?? { outcome: "closed", code });
      });
    });
  }

  return {
    origin,
    basePath,
    get keyHash() {
      const key = keyNow();
      return key === undefined ? undefined : createHash("sha256").update(key).digest("hex");
    },
    sealedKey(seal) {
      const key = keyNow();
      return key === undefined ? undefined : seal(key);
    },

    async health() {
      const startedMs = now();
      const health = await probeHealth();
      return { ...health, tookMs: now() - startedMs };
    },

    async publicInfo() {
      return read(await get("/System/Info/Public"), (body) => ({ info: serverInfo(body) }));
    },

    async systemInfo() {
      return read(await get("/System/Info", keyAuthorization()), (body) => ({
        info: serverInfo(body),
      }));
    },

    async me(token) {
      // Without device fields: others than the token's own would change the device's row (AuthorizationContext).
      const answer = await get("/Users/Me", buildAuthorization({}, token));
      if (answer.outcome === "answered" && answer.status === 400) return { outcome: "isApiKey" };
      return read(answer, (body) => ({ user: serverUser(body) }));
    },

    async users() {
      return read(await get("/Users", keyAuthorization()), (body) => ({
        users: listOf(body).map(serverUser),
      }));
    },

    async user(userId) {
      const answer = await get(`/Users/${encodeURIComponent(userId)}`, keyAuthorization());
      if (answer.outcome === "answered" && answer.status === 404) {
        return { outcome: "unknownUser" };
      }
      return read(answer, (body) => ({ user: serverUser(body) }));
    },

    async quickConnectInitiate(device) {
      const answer = await call({
        method: "POST",
        path: "/QuickConnect/Initiate",
        authorization: buildAuthorization(device),
      });
      if (answer.outcome === "answered" && answer.status === 401) {
        return { outcome: "switchedOff" };
      }
      return withoutRefusal(
        read(answer, (body) => {
          const { Secret, Code } = recordOf(body);
          return { secret: requiredText(Secret), code: requiredText(Code) };
        }),
      );
    },

    async quickConnectAuthorize(code, userId, token) {
      const query = `code=${encodeURIComponent(code)}&userId=${encodeURIComponent(userId)}`;
      const answer = await call({
        method: "POST",
        path: `/QuickConnect/Authorize?${query}`,
        authorization: token === undefined ? keyAuthorization() : buildAuthorization({}, token),
      });
      if (answer.outcome === "failed") return answer;
      if (answer.status === 200 && answer.text.trim() === "true") return { outcome: "ok" };
      if (answer.status === 401) return { outcome: "keyRefused" };
      if (answer.status === 403) return { outcome: "notAllowed" };
      if (answer.status === 400) return { outcome: "unknownUser" };
      if (answer.status === 404) return { outcome: "unknownCode" };
      return unexpected(answer);
    },

    async authenticateWithQuickConnect(secret) {
      const answer = await call({
        method: "POST",
        path: "/Users/AuthenticateWithQuickConnect",
        body: { Secret: secret },
      });
      if (answer.outcome === "answered" && answer.status === 404) {
        return { outcome: "unknownSecret" };
      }
      return withoutRefusal(
        read(answer, (body) => {
          const { AccessToken, User, SessionInfo } = recordOf(body);
          const deviceId =
            typeof SessionInfo === "object" && SessionInfo !== null
              ? text(recordOf(SessionInfo).DeviceId)
              : undefined;
          return { token: requiredText(AccessToken), user: serverUser(User), deviceId };
        }),
      );
    },

    endGhostSession,

    async logout(token, device) {
      const answer = await call({
        method: "POST",
        path: "/Sessions/Logout",
        authorization: buildAuthorization(device, token),
      });
      if (answer.outcome === "failed") return answer;
      const isDone = answer.status === 401 || (answer.status >= 200 && answer.status < 300);
      return isDone ? { outcome: "done" } : unexpected(answer);
    },

    async forgetDevice(deviceId) {
      const answer = await call({
        method: "DELETE",
        path: `/Devices?id=${encodeURIComponent(deviceId.toWellFormed())}`,
        authorization: keyAuthorization(),
      });
      if (answer.outcome === "failed") return answer;
      // 400: the server has no token with that device id.
      if (answer.status === 400 || answer.status === 204) return { outcome: "done" };
      return refusalOf(answer) ?? unexpected(answer);
    },

    async quickConnectEnabled() {
      return withoutRefusal(
        read(await get("/QuickConnect/Enabled"), (body) => ({ enabled: body === true })),
      );
    },

    async networkConfiguration() {
      return read(await get("/System/Configuration/network", keyAuthorization()), (body) => {
        const network = recordOf(body);
        return {
          network: {
            baseUrl: text(network.BaseUrl),
            knownProxies: listOf(network.KnownProxies ?? []).map(text),
            enableRemoteAccess: network.EnableRemoteAccess !== false,
          },
        };
      });
    },

    async encodingConfiguration() {
      return read(await get("/System/Configuration/encoding", keyAuthorization()), (body) => ({
        encoding: plainValues(recordOf(body)),
      }));
    },

    async apiKeyWorks() {
      const answer = await get("/System/Info", keyAuthorization());
      if (answer.outcome === "failed") return answer;
      if (answer.status === 200) return { outcome: "works" };
      return refusalOf(answer) ?? unexpected(answer);
    },

    async sessions() {
      return read(await get("/Sessions", keyAuthorization()), (body) => ({
        sessions: listOf(body).map(serverSession),
      }));
    },

    async stopEncodings(deviceId, playSessionId) {
      // Both names must be there and not be empty (400 otherwise); only the play session counts.
      const device = encodeURIComponent(deviceId === "" ? "-" : deviceId.toWellFormed());
      const query = `deviceId=${device}&playSessionId=${encodeURIComponent(playSessionId)}`;
      return doneOf(
        await call({
          method: "DELETE",
          path: `/Videos/ActiveEncodings?${query}`,
          authorization: keyAuthorization(),
        }),
      );
    },

    async stopLeftPlay(token, device, { itemId, mediaSourceId, liveStreamId, playSessionId }) {
      const optional = {
        ...(mediaSourceId === "" ? {} : { MediaSourceId: mediaSourceId }),
        ...(liveStreamId === "" ? {} : { LiveStreamId: liveStreamId }),
        ...(playSessionId === "" ? {} : { PlaySessionId: playSessionId }),
      };
      return doneOf(
        await call({
          method: "POST",
          path: "/Sessions/Playing/Stopped",
          authorization: buildAuthorization(device, token),
          body: { ItemId: itemId, Failed: true, ...optional },
        }),
      );
    },

    async probeItem() {
      const query =
        "recursive=true&isFolder=false&mediaTypes=Video&includeItemTypes=Movie,Episode,Video" +
        "&sortBy=Runtime&sortOrder=Ascending&limit=5&enableTotalRecordCount=false";
      return read(await get(`/Items?${query}`, keyAuthorization()), (body) => {
        const items = listOf(recordOf(body).Items ?? []).map(recordOf);
        const found = items
          .map(({ Id, RunTimeTicks }) => ({
            itemId: hexId(text(Id)),
            runTimeTicks: typeof RunTimeTicks === "number" ? RunTimeTicks : 0,
          }))
          .filter(({ itemId, runTimeTicks }) => itemId !== "" && runTimeTicks > 0)
          .sort((left, right) => left.runTimeTicks - right.runTimeTicks);
        return { item: found[0] };
      });
    },

    async encodeSegment({ itemId }, playSessionId, { number, seconds }, limitMs) {
      const ticks = 10_000_000;
      const query = [
        `DeviceId=${encodeURIComponent(playSessionId)}`,
        `PlaySessionId=${encodeURIComponent(playSessionId)}`,
        `MediaSourceId=${itemId}`,
        "VideoCodec=h264&AudioCodec=aac&VideoBitrate=1000000&AudioBitrate=128000&MaxHeight=480",
        `SegmentContainer=ts&MinSegments=1&SegmentLength=${seconds}`,
        "AllowVideoStreamCopy=false&AllowAudioStreamCopy=false&EnableAutoStreamCopy=false",
        `runtimeTicks=${number * seconds * ticks}&actualSegmentLengthTicks=${seconds * ticks}`,
      ].join("&");
      const startedMs = now();
      const answer = await call({
        method: "GET",
        path: `/Videos/${itemId}/hls1/main/${number}.ts?${query}`,
        authorization: keyAuthorization(),
        limitMs,
      });
      if (answer.outcome === "failed") return answer;
      if (answer.status !== 200) return refusalOf(answer) ?? unexpected(answer);
      const bytes = answer.text.length;
      return { outcome: "ok", segment: { bytes, tookMs: now() - startedMs } };
    },

    async callAs(token, device, method, path, body, accept) {
      return await call({
        method,
        path,
        authorization: buildAuthorization(device, token),
        ...(body !== undefined && { body }),
        ...(accept !== undefined && { headers: { accept } }),
      });
    },

    async sendAs(token, device, { method, path, contentType, body }) {
      return await call({
        method: method as CallRequest["method"],
        path,
        authorization: buildAuthorization(device, token),
        ...(body.length > 0 && { rawBody: body, headers: { "content-type": contentType } }),
      });
    },

    async callWithKey(method, path, body) {
      return await call({
        method,
        path,
        authorization: keyAuthorization(),
        ...(body !== undefined && { body }),
      });
    },

    async postWithKey(path, contentType, body) {
      return await call({
        method: "POST",
        path,
        authorization: keyAuthorization(),
        headers: { "content-type": contentType },
        rawBody: body,
      });
    },

    async file(path) {
      const answer = await callRaw({ method: "GET", path });
      if (answer.outcome === "failed") return answer;
      const { status, bytes, headers } = answer;
      const type = headers["content-type"];
      const contentType = typeof type === "string" ? (type.split(";")[0] ?? "").trim() : "";
      return { outcome: "answered", status, contentType, bytes };
    },

    async forwarding() {
      const answer = await call({
        method: "GET",
        path: "/System/Endpoint",
        authorization: keyAuthorization(),
        headers: { "x-forwarded-for": publicVisitor },
      });
      // A server that lets nobody in from outside refuses the forwarded visitor, so it believed us.
      if (answer.outcome === "answered" && answer.status === 503) {
        return { outcome: "ok", forwarding: "honoured" };
      }
      if (answer.outcome === "answered" && answer.status === 404) {
        return { outcome: "ok", forwarding: "unknown" };
      }
      return read(answer, (body) => {
        const isInNetwork = recordOf(body).IsInNetwork;
        if (typeof isInNetwork !== "boolean") return { forwarding: "unknown" as const };
        return { forwarding: isInNetwork ? ("ignored" as const) : ("honoured" as const) };
      });
    },

    async localAddress() {
      const url = new URL(origin);
      const port = Number(url.port === "" ? (url.protocol === "https:" ? 443 : 80) : url.port);
      const socket = connectTcp({ host: url.hostname.replace(/^\[|\]$/g, ""), port });
      return await localAddressOf(socket, callLimitMs);
    },

    holdPresence,

    async close() {
      calls.close();
    },
  };
}

// ---- Answers --------------------------------------------------------------------------------------

function failed(
  failure: CallFailure["failure"],
  seen: CallFailure["seen"],
  message: string,
): CallFailure {
  return { outcome: "failed", failure, seen, message };
}

function unexpected(answer: Answer): CallFailure {
  const message = `the server answered ${answer.status}`;
  return { ...failed("status", "maybe", message), status: answer.status };
}

function refusalOf(answer: Answer): Refusal | undefined {
  return answer.status === 401 || answer.status === 403
    ? { outcome: "refused", status: answer.status }
    : undefined;
}

function doneOf(answer: Answer | CallFailure): StopAnswer {
  if (answer.outcome === "failed") return answer;
  if (answer.status >= 200 && answer.status < 300) return { outcome: "done" };
  return refusalOf(answer) ?? unexpected(answer);
}

/** From a 200 with JSON to its values; `pick` throws NotUnderstood for a body of another shape. */
function read<Value>(
  answer: Answer | CallFailure,
  pick: (body: unknown) => Value,
): Ok<Value> | Refusal | CallFailure {
  if (answer.outcome === "failed") return answer;
  const refusal = refusalOf(answer);
  if (refusal !== undefined) return refusal;
  if (answer.status !== 200) return unexpected(answer);
  try {
    return { outcome: "ok", ...pick(JSON.parse(answer.text)) };
  } catch (error) {
    if (!(error instanceof SyntaxError) && !(error instanceof NotUnderstood)) throw error;
    return failed("notUnderstood", "maybe", "the server's answer has another shape than expected");
  }
}

/** For calls that have no credentials which could be refused. */
function withoutRefusal<Value>(answer: Value | Refusal): Value | CallFailure {
  if (!isRefusal(answer)) return answer;
  const message = `the server answered ${answer.status}`;
  return { ...failed("status", "maybe", message), status: answer.status };
}

function isRefusal(answer: unknown): answer is Refusal {
  return (answer as Refusal).outcome === "refused";
}

function answerOf(end: CallEnd, limitMs: number, limitBytes: number): RawAnswer | CallFailure {
  switch (end.end) {
    case "answered":
      return {
        outcome: "answered",
        status: end.head.status,
        bytes: end.body,
        headers: byLowerName(end.head.headers),
      };
    case "unfit":
      return failed("broke", "nothing", "the call cannot be written as HTTP");
    case "closed":
      return failed("stopped", "nothing", "this client was closed");
    case "timedOut":
      return failed("timedOut", "maybe", `no whole answer within ${limitMs} ms`);
    case "tooLarge":
      return failed("tooLarge", "maybe", `the answer is larger than ${limitBytes} bytes`);
    case "broke":
      return end.phase === "notConnected"
        ? failed("notConnected", "nothing", `no connection can be made (${end.why})`)
        : failed("broke", "maybe", `the connection broke (${end.why})`);
  }
}

/** A socket's handshake failed before there was a connection. */
const notConnectedCodes: ReadonlySet<string> = new Set([
  "ECONNREFUSED",
  "EHOSTUNREACH",
  "EHOSTDOWN",
  "ENETUNREACH",
  "ENETDOWN",
  "EADDRNOTAVAIL",
  "ENOTFOUND",
  "EAI_AGAIN",
]);

/** The code of an error, of its first cause when several addresses were tried. */
function errorCode(error: unknown): string {
  if (!(error instanceof Error)) return "";
  const { code } = error as NodeJS.ErrnoException;
  if (typeof code === "string") return code;
  return error instanceof AggregateError ? errorCode(error.errors[0]) : errorCode(error.cause);
}

function onSocketRefused(socket: WebSocket, told: (refusal: Refusal | CallFailure) => void): void {
  socket.once("unexpected-response", (request, response) => {
    const status = response.statusCode ?? 0;
    response.resume();
    request.destroy();
    told(
      status === 401 || status === 403
        ? { outcome: "refused", status }
        : { ...failed("status", "maybe", `the server answered ${status}`), status },
    );
    // Having a listener here makes ending the handshake ours to do; `close` follows.
    socket.terminate();
  });
  socket.on("error", (error) => {
    // A refusal was told already; what follows it is only that we ended the handshake.
    if (socket.readyState === WebSocket.CONNECTING || socket.readyState === WebSocket.CLOSING) {
      const code = errorCode(error);
      if (!notConnectedCodes.has(code)) return;
      told(failed("notConnected", "nothing", `no connection can be made (${code})`));
    }
  });
}

function localAddressOf(socket: Socket, limitMs: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const finish = (address: string | undefined): void => {
      socket.destroy();
      resolve(address);
    };
    socket.setTimeout(limitMs, () => finish(undefined));
    socket.once("error", () => finish(undefined));
    socket.once("connect", () => finish(socket.localAddress));
  });
}

// ---- Health ---------------------------------------------------------------------------------------

function healthOf(answer: Answer): Omit<HealthAnswer, "tookMs"> {
  const word = answer.text.trim();
  if (answer.status === 200 && word === "Healthy") {
    return { state: "healthy", reason: "its health says Healthy" };
  }
  if (answer.status === 200 && word === "Degraded") {
    return { state: "degraded", reason: "it is starting: its health says Degraded" };
  }
  if (word === "Unhealthy") return { state: "unhealthy", reason: "its health says Unhealthy" };
  if (answer.status === 503) {
    return { state: "loading", reason: "it is loading: its health answers 503" };
  }
  return { state: "unhealthy", reason: `its health answers ${answer.status}` };
}

function healthOfFailure(failure: CallFailure): Omit<HealthAnswer, "tookMs"> {
  const { message } = failure;
  if (failure.failure === "notConnected") return { state: "refused", reason: message };
  if (failure.failure === "timedOut") return { state: "silent", reason: message };
  return { state: "broke", reason: message };
}

/** `location`: what the server redirects to: its health, or its page, under the base path it has. */
function wrongPath(basePath: string, location: string): Omit<HealthAnswer, "tookMs"> {
  const path = location
    .replace(/^https?:\/\/[^/]*/i, "")
    .replace(/\/(health|web)(\/.*)?$/, "")
    .replace(/\/+$/, "");
  const reason = `it is not under "${basePath === "" ? "/" : basePath}" but under "${path === "" ? "/" : path}"`;
  return { state: "wrongPath", reason };
}

// ---- Bodies ---------------------------------------------------------------------------------------

class NotUnderstood extends Error {
  override readonly name = "NotUnderstood";
}

function recordOf(body: unknown): Record<string, unknown> {
  if (typeof body !== "object" || body === null || Array.isArray(body)) throw new NotUnderstood();
  return body as Record<string, unknown>;
}

function listOf(body: unknown): unknown[] {
  if (!Array.isArray(body)) throw new NotUnderstood();
  return body;
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function requiredText(value: unknown): string {
  if (typeof value !== "string" || value === "") throw new NotUnderstood();
  return value;
}

function serverInfo(body: unknown): ServerInfo {
  const info = recordOf(body);
  return {
    id: requiredText(info.Id),
    name: text(info.ServerName),
    version: text(info.Version),
    startupWizardCompleted: info.StartupWizardCompleted === true,
    localAddress: text(info.LocalAddress),
  };
}

function serverUser(body: unknown): ServerUser {
  const user = recordOf(body);
  const policy = user.Policy;
  const rights = typeof policy === "object" && policy !== null ? recordOf(policy) : {};
  return {
    id: hexId(requiredText(user.Id)),
    name: text(user.Name),
    isAdministrator: rights.IsAdministrator === true,
    isDisabled: rights.IsDisabled === true,
  };
}

/** An id with or without dashes, in any case, as 32 lower-case hex digits. */
function hexId(id: string): string {
  return id.replaceAll("-", "").toLowerCase();
}

const noUser = "0".repeat(32);

function serverSession(body: unknown): ServerSession {
  const session = recordOf(body);
  const userId = hexId(text(session.UserId));
  return {
    id: text(session.Id),
    userId: userId === noUser ? "" : userId,
    userName: text(session.UserName),
    client: text(session.Client),
    deviceId: text(session.DeviceId),
    deviceName: text(session.DeviceName),
    remoteEndPoint: text(session.RemoteEndPoint),
    playing: sessionPlaying(session.NowPlayingItem, session.PlayState),
  };
}

function sessionPlaying(item: unknown, state: unknown): SessionPlaying | undefined {
  if (typeof item !== "object" || item === null) return undefined;
  const playState = typeof state === "object" && state !== null ? recordOf(state) : {};
  return {
    itemId: hexId(text(recordOf(item).Id)),
    mediaSourceId: text(playState.MediaSourceId),
    liveStreamId: text(playState.LiveStreamId),
  };
}

function plainValues(body: Record<string, unknown>): EncodingFacts {
  const values: Record<string, string | number | boolean | null> = {};
  for (const [name, value] of Object.entries(body)) {
    const isPlain =
      value === null ||
      typeof value === "string" ||
      typeof value === "number" ||
      typeof value === "boolean";
    if (isPlain) values[name] = value;
  }
  return values;
}
