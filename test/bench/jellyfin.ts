// The control plane of the bench's backend: as much of a Jellyfin as a proxy needs to become ready,
// to know an identity and to open a socket. It runs as a process of its own and is never on a measured
// path but that of idle sockets; what is measured is answered by the nginx in front of it (backend.ts).
//
// Usage: node jellyfin.ts '{"replica":"a","port":1,"apiKey":"…"}'. It promises tokens that are this
// replica's own (they begin with its name's letter), so that a foreign token is told from its own.

import { createHash, randomBytes } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { WebSocketServer } from "ws";
import { userId } from "./routes.ts";

interface Options {
  readonly replica: string;
  readonly port: number;
  readonly apiKey: string;
}

interface Session {
  readonly token: string;
  readonly userId: string;
  readonly deviceId: string;
  readonly client: string;
  readonly device: string;
  readonly version: string;
}

interface PairingRequest {
  readonly secret: string;
  readonly code: string;
  readonly asked: Omit<Session, "token" | "userId">;
  token: string;
}

const options: Options = JSON.parse(process.argv[2] ?? "{}");
const serverId = createHash("md5").update("bench").digest("hex");
/** By token. Jellyfin keeps one per user and device, and so does this. */
const sessions = new Map<string, Session>();
const pairings = new Map<string, PairingRequest>();
const verbose = process.env.BENCH_VERBOSE === "1";

const server = createServer(async (request, response) => {
  const url = new URL(request.url ?? "/", "http://bench");
  const body = await bodyOf(request);
  const answer = route(request.method ?? "GET", url, credentialsOf(request, url), body);
  if (verbose) process.stdout.write(`${request.method} ${url.pathname} ${answer.status}\n`);
  send(response, answer);
});

const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });
server.on("upgrade", (request, socket, head) => {
  const url = new URL(request.url ?? "/", "http://bench");
  const { token } = credentialsOf(request, url);
  if (token === "" || (token !== options.apiKey && !sessions.has(token))) {
    socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    return;
  }
  sockets.handleUpgrade(request, socket, head, (client) => {
    client.on("error", () => client.terminate());
    client.on("message", (data) => {
      if (String(data).includes("KeepAlive")) client.send('{"MessageType":"KeepAlive"}');
    });
    client.send('{"MessageType":"ForceKeepAlive","Data":60}');
  });
});
server.keepAliveTimeout = 120_000;
server.listen(options.port, "127.0.0.1", 4_096);

/** What this server knows of every item: nothing, and nobody can change it. */
const userData = {
  PlaybackPositionTicks: 0,
  PlayCount: 0,
  IsFavorite: false,
  Played: false,
  Key: "bench",
};

interface Answer {
  readonly status: number;
  readonly body?: unknown;
  readonly text?: string;
}

function route(method: string, url: URL, who: Credentials, body: string): Answer {
  const path = url.pathname.toLowerCase();
  const session = sessions.get(who.token);
  const known = session !== undefined || who.token === options.apiKey;
  switch (`${method} ${path}`) {
    case "GET /health":
      return { status: 200, text: "Healthy" };
    case "GET /system/ping":
      return { status: 200, body: "Jellyfin Server" };
    case "GET /system/info/public":
      return { status: 200, body: publicInfo() };
    case "GET /quickconnect/enabled":
      return { status: 200, body: true };
    case "POST /users/authenticatebyname":
      return who.deviceId === "" ? { status: 400 } : authenticationResult(login(who));
    case "POST /quickconnect/initiate":
      return who.deviceId === "" ? { status: 400 } : { status: 200, body: initiate(who) };
    case "GET /quickconnect/connect":
      return connect(url.searchParams.get("secret") ?? "");
    case "POST /users/authenticatewithquickconnect":
      return exchange(String(JSON.parse(body || "{}").Secret));
  }
  if (!known) return { status: 401 };
  if (method === "POST" && path === "/sessions/playing/stopped") return { status: 204 };
  if (/^\/useritems\/[0-9a-f]{32}\/userdata$/.test(path)) {
    return { status: 200, body: { ...userData, ItemId: path.split("/")[2] } };
  }
  switch (`${method} ${path}`) {
    case "GET /system/info":
      return { status: 200, body: { ...publicInfo(), HasPendingRestart: false } };
    case "GET /users/me":
      return session === undefined ? { status: 400 } : { status: 200, body: user() };
    case "GET /users":
      return { status: 200, body: [user()] };
    case `GET /users/${userId}`:
      return { status: 200, body: user() };
    case "POST /quickconnect/authorize":
      return authorize(url.searchParams.get("code") ?? "");
    case "GET /sessions":
      return { status: 200, body: [] };
    case "POST /sessions/logout":
      sessions.delete(who.token);
      return { status: 204 };
    case "GET /system/configuration":
      return {
        status: 200,
        body: { QuickConnectAvailable: true, EnableLegacyAuthorization: false },
      };
    case "GET /system/configuration/network":
      return { status: 200, body: { BaseUrl: "", KnownProxies: ["127.0.0.1"] } };
    case "GET /system/configuration/encoding":
      return { status: 200, body: { HardwareAccelerationType: "none" } };
    case "GET /system/endpoint":
      return { status: 200, body: { IsLocal: false, IsInNetwork: false } };
    case "DELETE /devices":
      return { status: 204 };
    case "GET /auth/keys":
      return { status: 200, body: { Items: [], TotalRecordCount: 0, StartIndex: 0 } };
  }
  return { status: 404 };
}

function publicInfo(): object {
  return {
    LocalAddress: `http://127.0.0.1:${options.port}`,
    ServerName: "bench",
    Version: "12.0.0",
    ProductName: "Jellyfin Server",
    OperatingSystem: "",
    Id: serverId,
    StartupWizardCompleted: true,
  };
}

function user(): object {
  return {
    Name: "bench",
    ServerId: serverId,
    Id: userId,
    HasPassword: true,
    Policy: { IsAdministrator: true, IsDisabled: false, MaxActiveSessions: 0 },
    Configuration: {},
  };
}

function login(asked: Omit<Session, "token" | "userId">): Session {
  for (const [token, session] of sessions) {
    if (session.deviceId === asked.deviceId) sessions.delete(token);
  }
  // 32 hex digits as Jellyfin's; the first says whose it is, so that the backend's nginx can tell.
  const token = options.replica.slice(0, 1) + randomBytes(16).toString("hex").slice(1);
  const { deviceId, client, device, version } = asked;
  const session = { token, userId, deviceId, client, device, version };
  sessions.set(token, session);
  return session;
}

function authenticationResult(session: Session): Answer {
  const sessionInfo = {
    Id: createHash("md5").update(session.deviceId).digest("hex"),
    UserId: session.userId,
    UserName: "bench",
    Client: session.client,
    DeviceName: session.device,
    DeviceId: session.deviceId,
    ApplicationVersion: session.version,
    ServerId: serverId,
  };
  return {
    status: 200,
    body: {
      User: user(),
      SessionInfo: sessionInfo,
      AccessToken: session.token,
      ServerId: serverId,
    },
  };
}

function initiate(asked: Credentials): object {
  const secret = randomBytes(32).toString("hex");
  const code = String(100_000 + (pairings.size % 900_000));
  const pairing = { secret, code, asked, token: "" };
  pairings.set(secret, pairing);
  return pairingResult(pairing);
}

function pairingResult(pairing: PairingRequest): object {
  return {
    Authenticated: pairing.token !== "",
    Secret: pairing.secret,
    Code: pairing.code,
    DeviceId: pairing.asked.deviceId,
    DeviceName: pairing.asked.device,
    AppName: pairing.asked.client,
    AppVersion: pairing.asked.version,
    DateAdded: new Date().toISOString(),
  };
}

function connect(secret: string): Answer {
  const pairing = pairings.get(secret);
  return pairing === undefined ? { status: 404 } : { status: 200, body: pairingResult(pairing) };
}

function authorize(code: string): Answer {
  for (const pairing of pairings.values()) {
    if (pairing.code !== code || pairing.token !== "") continue;
    pairing.token = login(pairing.asked).token;
    return { status: 200, body: true };
  }
  return { status: 404 };
}

function exchange(secret: string): Answer {
  const session = sessions.get(pairings.get(secret)?.token ?? "");
  return session === undefined ? { status: 404 } : authenticationResult(session);
}

type Credentials = Omit<Session, "userId">;

function credentialsOf(request: IncomingMessage, url: URL): Credentials {
  const header = request.headers.authorization ?? "";
  const field = (name: string) =>
    decodeURIComponent(new RegExp(`\\b${name}="?([^",]*)`, "i").exec(header)?.[1] ?? "");
  let token = field("Token");
  for (const [name, value] of url.searchParams) {
    if (token === "" && name.toLowerCase() === "apikey") token = value;
  }
  return {
    token,
    deviceId: field("DeviceId"),
    client: field("Client"),
    device: field("Device"),
    version: field("Version"),
  };
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  let text = "";
  for await (const chunk of request) text += chunk;
  return text;
}

function send(response: ServerResponse, answer: Answer): void {
  const text = answer.text ?? (answer.body === undefined ? "" : JSON.stringify(answer.body));
  const type = answer.text === undefined ? "application/json; charset=utf-8" : "text/plain";
  response.writeHead(answer.status, {
    "content-type": type,
    "content-length": Buffer.byteLength(text),
  });
  response.end(text);
}
