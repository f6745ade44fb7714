/**
 * A stand-in for a Jellyfin 12.0 server, as a process of its own:
 *
 *   node test/support/jellyfin/server.ts --port 0 --data DIR --media DIR [--host 127.0.0.1] [--name a] [--base-url /x]
 *     [--api-key KEY] [--known-proxies 10.0.0.0/8,…] [--startup-ms 3000] [--restart-ms 600] [--web DIR]
 *
 * It prints one line of JSON when it listens. It exists so that the proxy can be tried against servers that die, freeze,
 * start slowly and forget, without a media server at hand; it promises the behaviour the contract suite states, which
 * runs against real servers as well. Real faults are done to it by signal, staged ones through its control port.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { flushCompileCache } from "node:module";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { WebSocketServer } from "ws";
import { startControl } from "./control.ts";
import { Faults, type LoggedRequest, takeSwitch } from "./faults.ts";
import { type Access, Exchange, Refusal, Routes } from "./http.ts";
import { isInLocalNetwork } from "./network.ts";
import { addAccountRoutes } from "./routes/accounts.ts";
import { addCatalogRoutes } from "./routes/catalog.ts";
import { addDocumentRoutes } from "./routes/documents.ts";
import { addFolderRoutes, watchedLibraries } from "./routes/folders.ts";
import { addItemFileRoutes } from "./routes/item-files.ts";
import { addItemRoutes } from "./routes/items.ts";
import { addLiveTvRoutes } from "./routes/live-tv.ts";
import { addOwnerRoutes } from "./routes/owner.ts";
import { addPlaybackRoutes } from "./routes/playback.ts";
import { addSessionRoutes } from "./routes/sessions.ts";
import { addSystemRoutes } from "./routes/system.ts";
import { addSyncPlayRoutes } from "./sync-play.ts";
import { World } from "./world.ts";

const BODY_BYTES_MAX = 64 * 1024 * 1024;
/** From the stop signal until new connections are refused, and until running answers are cut (seen: 100 ms, 30 s). */
const REFUSE_AFTER_MS = 100;
const DRAIN_LIMIT_MS = 30_000;

/**
 * refused: nobody listens. setup: health says Degraded with 200, all else 503 with Retry-After. loading: 503 for all but
 * the ping. ready: the real thing.
 */
type Phase = "refused" | "setup" | "loading" | "ready";

const { values: args } = parseArgs({
  options: {
    port: { type: "string", default: "0" },
    host: { type: "string", default: "127.0.0.1" },
    data: { type: "string" },
    media: { type: "string" },
    name: { type: "string", default: "a" },
    "base-url": { type: "string", default: "" },
    "api-key": { type: "string" },
    "known-proxies": { type: "string" },
    "startup-ms": { type: "string", default: "0" },
    "restart-ms": { type: "string", default: "600" },
    web: { type: "string" },
  },
});
if (args.data === undefined || args.media === undefined) {
  process.stderr.write("--data DIR and --media DIR are needed\n");
  process.exit(2);
}
process.title = `jellyfin-stand-in ${args.name}`;

const baseUrl = args["base-url"].replace(/\/+$/, "");
const faults = new Faults();
const routes = new Routes();
addAccountRoutes(routes);
addSessionRoutes(routes);
addFolderRoutes(routes);
addOwnerRoutes(routes);
addItemRoutes(routes);
addCatalogRoutes(routes);
addItemFileRoutes(routes);
addPlaybackRoutes(routes);
addLiveTvRoutes(routes);
addSystemRoutes(routes);
addDocumentRoutes(routes);
addSyncPlayRoutes(routes);

let phase: Phase = "refused";
let port = Number(args.port);
let server: Server | undefined;
let world: World | undefined;
let stopping = false;
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });

// --- life -----------------------------------------------------------------------------------------------------------

async function start(durationMs: number): Promise<void> {
  if (durationMs > 0) await passThroughSetup(durationMs);
  world = openWorld();
  phase = durationMs > 0 ? "loading" : "ready";
  const here = world;
  here.monitor.start(() => watchedLibraries(here));
  const scanned = here.scan();
  if (durationMs === 0) await scanned;
  await listen();
  await scanned;
  if (phase === "loading") {
    await sleep(durationMs * 0.15);
    phase = "ready";
  }
}

/** The setup server on the same port, then a moment in which nobody listens (seen: 0.7 s of 3.3 s). */
async function passThroughSetup(durationMs: number): Promise<void> {
  await sleep(durationMs * 0.15);
  phase = "setup";
  await listen();
  await sleep(durationMs * 0.5);
  await stopListening(true);
  phase = "refused";
  await sleep(durationMs * 0.2);
}

function openWorld(): World {
  return new World({
    dataFolder: args.data ?? "",
    mediaFolder: args.media ?? "",
    webFolder: args.web,
    apiKey: args["api-key"],
    knownProxies: args["known-proxies"]?.split(",").filter((entry) => entry !== ""),
    baseUrl,
    address: () => `http://${args.host}:${port}${baseUrl}`,
    faults,
    restart: () => void restart(),
    shutDown: () => void stop(),
  });
}

/** A restart in process: the same pid, everything in memory lost, all phases passed through again. */
async function restart(): Promise<void> {
  if (stopping) return;
  await sleep(20);
  await world?.end("ServerRestarting");
  await stopListening(true);
  phase = "refused";
  world?.database.close();
  world = undefined;
  await start(Number(args["restart-ms"]));
}

/** SIGTERM: sockets told and closed at once, then no new connections, then the running answers to their end. */
async function stop(): Promise<void> {
  if (stopping) return;
  stopping = true;
  const ended = world?.end("ServerShuttingDown");
  await sleep(REFUSE_AFTER_MS);
  const cut = setTimeout(() => server?.closeAllConnections(), DRAIN_LIMIT_MS);
  await stopListening(false);
  clearTimeout(cut);
  await ended;
  world?.database.close();
  process.exit(0);
}

function listen(): Promise<void> {
  const next = createServer({ keepAliveTimeout: 130_000, requestTimeout: 0 }, onRequest);
  next.on("upgrade", onUpgrade);
  // Kestrel resets what it cannot parse with a bare 400.
  next.on("clientError", (_error, socket) => {
    if (socket.writable)
      socket.end("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    else socket.destroy();
  });
  server = next;
  return new Promise((resolve, reject) => {
    next.once("error", reject);
    next.listen(port, args.host, () => {
      port = (next.address() as AddressInfo).port;
      resolve();
    });
  });
}

function stopListening(atOnce: boolean): Promise<void> {
  const closing = server;
  if (closing === undefined) return Promise.resolve();
  return new Promise((resolve) => {
    closing.close(() => resolve());
    if (atOnce) closing.closeAllConnections();
    else closing.closeIdleConnections();
  });
}

// --- one request ----------------------------------------------------------------------------------------------------

function onRequest(request: IncomingMessage, response: ServerResponse): void {
  response.setHeader("server", "Kestrel");
  // Kestrel says nothing about connections it keeps; Node would, unless the header is taken out.
  if (stopping) response.shouldKeepAlive = false;
  else if (request.httpVersion === "1.1") response.removeHeader("connection");
  if (world === undefined || phase !== "ready") {
    answerUnready(request, response);
    return;
  }
  const ask = new Exchange(world, request, response);
  const entry = note(ask);
  if (request.headers.origin !== undefined && answerOrigin(request, response)) return;
  void handle(ask, entry);
}

/** Any origin is welcome (CorsHosts is `*`); a preflight is answered here and goes no further. */
function answerOrigin(request: IncomingMessage, response: ServerResponse): boolean {
  const { headers } = request;
  response.setHeader("access-control-allow-origin", "*");
  const method = headers["access-control-request-method"];
  if (request.method !== "OPTIONS" || method === undefined) return false;
  response.setHeader("access-control-allow-methods", method);
  const asked = headers["access-control-request-headers"];
  if (asked !== undefined) response.setHeader("access-control-allow-headers", asked);
  response.writeHead(204).end();
  return true;
}

function note(ask: Exchange): LoggedRequest {
  const { headers } = ask.request;
  const entry = faults.note({
    method: ask.method,
    path: ask.path,
    search: ask.search,
    token: ask.credentials.token,
    range: headers.range,
    forwardedFor: String(headers["x-forwarded-for"] ?? "") || undefined,
  });
  ask.response.once("finish", () => {
    entry.status = ask.response.statusCode;
  });
  return entry;
}

async function handle(ask: Exchange, entry: LoggedRequest): Promise<void> {
  try {
    const target = ask.path + ask.search;
    if (hasBody(ask.request)) {
      ask.body = await readBody(ask.request);
      faults.noteBody(entry, ask.body);
    }
    const silent = takeSwitch(faults.silent, ask.method, target);
    if (silent !== undefined && !silent.executed) return;
    if (silent !== undefined) swallowAnswer(ask.response);
    const slow = takeSwitch(faults.slow, ask.method, target);
    if (slow !== undefined) await sleep(slow.firstByteMs);
    const reset = takeSwitch(faults.reset, ask.method, target);
    if (reset?.beforeDeed === true) return breakOff(ask.response, reset.how);
    if (reset !== undefined) breakAfter(ask.response, reset.afterBytes, reset.how);
    const failure = takeSwitch(faults.fails, ask.method, target);
    if (failure !== undefined) throw new Refusal(failure.status);
    await dispatch(ask);
  } catch (error) {
    if (error instanceof Refusal) ask.refuse(error);
    else if (error instanceof BodyCut) ask.response.destroy();
    else {
      process.stderr.write(`${ask.method} ${ask.path}: ${String(error)}\n`);
      ask.refuse(new Refusal(500));
    }
  }
}

function hasBody(request: IncomingMessage): boolean {
  const { headers } = request;
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
}

class BodyCut extends Error {}

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const part of request as AsyncIterable<Buffer>) {
      bytes += part.length;
      if (bytes > BODY_BYTES_MAX) throw new Refusal(413, "empty");
      parts.push(part);
    }
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new BodyCut();
  }
  return Buffer.concat(parts);
}

function dispatch(ask: Exchange): void | Promise<void> {
  let { path } = ask;
  if (baseUrl !== "") {
    if (!path.toLowerCase().startsWith(`${baseUrl.toLowerCase()}/`)) return outsideBase(ask);
    path = path.slice(baseUrl.length);
  }
  if (path.toLowerCase() === "/health") return answerHealth(ask);
  const found = routes.find(ask.method, path);
  if (found === undefined) throw new Refusal(404, "empty");
  if ("allowed" in found) {
    ask.response.setHeader("allow", found.allowed.join(", "));
    throw new Refusal(405, "empty");
  }
  ask.params = found.params;
  admit(ask, found.route.access);
  return found.route.handler(ask);
}

/** The real host redirects what lies outside its base URL to the same path inside it, or to the web client. */
function outsideBase(ask: Exchange): void {
  const isHealth = ask.path.toLowerCase() === "/health";
  const location = isHealth ? `${baseUrl}/health` : `${baseUrl}/web/`;
  ask.response.writeHead(302, { location, "content-length": 0 }).end();
}

function answerHealth(ask: Exchange): void {
  const { status, body } = faults.health ?? { status: 200, body: "Healthy" };
  const headers = { "cache-control": "no-store, no-cache", pragma: "no-cache" };
  ask.compressed(status, "text/plain", body, headers);
}

/** Reads the caller and holds the route's policy against them: 401 without a valid token, 403 without the right. */
function admit(ask: Exchange, access: Access): void {
  const credentials = ask.credentials;
  const { token } = credentials;
  const refused =
    token !== undefined && (faults.refuseAllTokens || faults.refusedTokens.has(token));
  const caller = refused ? "invalid" : ask.world.accounts.identify(credentials);
  if (typeof caller !== "string") ask.caller = caller;
  if (access === "anonymous") return;
  if (access === "wizard" && !ask.world.wizardCompleted) return;
  if (access === "local" && isInLocalNetwork(ask.world.addressOf(ask))) return;
  if (typeof caller === "string") throw new Refusal(401, "empty");
  if (access !== "user" && !caller.isAdmin) throw new Refusal(403, "empty");
}

function answerUnready(request: IncomingMessage, response: ServerResponse): void {
  const path = (request.url ?? "").split("?")[0]?.toLowerCase() ?? "";
  request.resume();
  if (phase === "setup") {
    if (path === "/health") {
      response.writeHead(200, { "content-type": "text/plain" }).write("Degraded");
      response.end();
      return;
    }
    const headers = { "content-type": "text/html", "retry-after": "005" };
    response.writeHead(503, headers).end("<!doctype html><p>The server is starting.</p>");
    return;
  }
  if (path === `${baseUrl.toLowerCase()}/system/ping`) {
    response
      .writeHead(200, { "content-type": "application/json; charset=utf-8" })
      .write('"Jellyfin Server"');
    response.end();
    return;
  }
  if (world !== undefined && isStranger(new Exchange(world, request, response))) {
    response.writeHead(401, { "content-length": 0 }).end();
    return;
  }
  response
    .writeHead(503, { "content-type": "text/html" })
    .write("Jellyfin Server is loading. Please try again shortly.");
  response.end();
}

/** Authorization stands before the loading message: a stranger is turned away with 401 even then (Startup.cs). */
function isStranger(ask: Exchange): boolean {
  const found = routes.find(ask.method, ask.path);
  if (found === undefined || "allowed" in found || found.route.access === "anonymous") return false;
  return typeof ask.world.accounts.identify(ask.credentials) === "string";
}

// --- staged faults --------------------------------------------------------------------------------------------------

/** The deed is done and its answer never sent; the connection stays open and silent. */
function swallowAnswer(response: ServerResponse): void {
  response.write = (() => true) as typeof response.write;
  response.end = (() => response) as typeof response.end;
}

/** Lets so many bytes of the body out, then breaks the connection; with 0 not even the head leaves. */
function breakAfter(response: ServerResponse, limit: number, how: "reset" | "close"): void {
  const write = response.write.bind(response) as (part: Buffer, done: () => void) => boolean;
  let left = limit;
  let broken = false;
  response.write = ((part: Buffer | string) => {
    if (broken) return false;
    const bytes = typeof part === "string" ? Buffer.from(part) : part;
    if (bytes.length < left) {
      left -= bytes.length;
      return write(bytes, () => undefined);
    }
    broken = true;
    if (limit === 0) breakOff(response, how);
    else write(bytes.subarray(0, left), () => breakOff(response, how));
    return false;
  }) as typeof response.write;
  const end = response.end.bind(response) as () => ServerResponse;
  response.end = ((part?: Buffer | string) => {
    if (part !== undefined && typeof part !== "function") response.write(part);
    if (!broken && limit === 0) {
      broken = true;
      breakOff(response, how);
    }
    return broken ? response : end();
  }) as typeof response.end;
}

function breakOff(response: ServerResponse, how: "reset" | "close"): void {
  if (how === "reset") response.socket?.resetAndDestroy();
  else response.socket?.destroy();
}

// --- sockets --------------------------------------------------------------------------------------------------------

/** Any path upgrades. A token that is missing or unknown is 403 here, not 401 (the exception middleware's doing). */
function onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
  socket.on("error", () => socket.destroy());
  if (world === undefined || phase !== "ready" || stopping) {
    socket.end(
      "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    return;
  }
  const here = world;
  const ask = new Exchange(here, request, undefined as unknown as ServerResponse);
  const credentials = ask.credentials;
  faults.note({
    method: "SOCKET",
    path: ask.path,
    search: ask.search,
    token: credentials.token,
    range: undefined,
    forwardedFor: String(request.headers["x-forwarded-for"] ?? "") || undefined,
  });
  const { token } = credentials;
  const refused =
    token !== undefined && (faults.refuseAllTokens || faults.refusedTokens.has(token));
  const caller = refused ? "invalid" : here.accounts.identify(credentials);
  if (typeof caller === "string") {
    const text = "Error processing request.";
    const lines = [
      "HTTP/1.1 403 Forbidden",
      "Content-Type: text/plain",
      `Content-Length: ${text.length}`,
    ];
    socket.end(`${lines.join("\r\n")}\r\nConnection: close\r\n\r\n${text}`);
    return;
  }
  sockets.handleUpgrade(request, socket, head, (ws) => {
    const user = caller.userId === undefined ? undefined : here.database.users.get(caller.userId);
    here.sessions.attach(ws, caller, user, here.addressOf(ask));
  });
}

// --- main -----------------------------------------------------------------------------------------------------------

process.on("SIGTERM", () => void stop());
process.on("SIGINT", () => void stop());
const control = await startControl({ faults, world: () => world, phase: () => phase });
const startupMs = Number(args["startup-ms"]);
const starting = start(startupMs);
if (startupMs === 0) await starting;
// With phases to pass through, whoever started this must know the port before anybody listens: it has to be given.
const told = {
  listening: port,
  pid: process.pid,
  control,
  name: args.name,
  serverId: world?.serverId,
  apiKey: args["api-key"] ?? [...(world?.database.keys.values() ?? [])][0]?.token,
};
process.stdout.write(`${JSON.stringify(told)}\n`);
// Killed more often than it ends by itself: what Node made of its files is kept while it runs, for the next start.
setTimeout(flushCompileCache, 1000).unref();
