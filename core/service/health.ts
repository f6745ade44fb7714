// Health: the port for those who run Jellybloom, not for clients. Whether the process lives, whether it is
// ready and if not why, its metrics, and guarded routes such as explain. What the answers are is handed in;
// here is only the small server around them. It promises limits on everything a caller can do to it, and
// that a guarded route does nothing and tells nothing without a proof made with the cluster key.

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Server as NetServer } from "node:net";
import { CannotStart, type Service } from "./lifecycle.ts";
import type { Log } from "./log.ts";
import { type Address, addressText } from "./options.ts";
import { proofHeaderName } from "./seal.ts";

export interface Readiness {
  /** Null when ready, else a sentence without its full stop. */
  readonly reason: string | null;
  /** What the owner should know though it is ready, such as a replica that is gone. */
  readonly notes?: readonly string[];
}

export interface AdminAnswer {
  readonly status: number;
  /** Sent as JSON. */
  readonly body: unknown;
}

/** A route that reveals or changes something, and so needs a proof. */
export interface GuardedRoute {
  readonly method: "GET" | "POST";
  /** Without query, such as `/jellybloom/explain`. */
  readonly path: string;
  readonly answer: (body: string) => AdminAnswer | Promise<AdminAnswer>;
}

/** Everything below a path. */
export interface Mount {
  /** Such as `/jellybloom/gate/a`; what follows begins with a slash. */
  readonly prefix: string;
  /** Answers the request whatever happens, and never throws. `path` is what follows the prefix, with query. */
  readonly handle: (request: IncomingMessage, response: ServerResponse, path: string) => void;
}

/** What a caller sent, for the verifier of proofs. */
export interface ProvenCall {
  readonly method: string;
  readonly path: string;
  readonly body: string;
}

export interface AdminServerOptions {
  readonly address: Address;
  readonly readiness: () => Readiness;
  readonly metricsText: () => Promise<{ readonly contentType: string; readonly body: string }>;
  readonly guardedRoutes: readonly GuardedRoute[];
  /** Whole trees of paths that somebody else answers, proofs included: the gates. */
  readonly mounts?: readonly Mount[];
  /**
   * Null when the proof holds, else why not. `header` is the request's `x-jellybloom-proof`. Undefined
   * when there is no cluster key: then guarded routes are not there.
   */
  readonly verifyProof:
    | ((header: string | undefined, call: ProvenCall) => string | null)
    | undefined;
  readonly log: Log;
}

/** More than any caller of ours sends. */
const bodyLimitBytes = 64 * 1024;
const headLimitBytes = 16 * 1024;
const connectionsLimit = 256;
const headersTimeLimitMs = 5000;
const requestTimeLimitMs = 10_000;
const keepAliveLimitMs = 5000;

export interface AdminServer extends Service {
  /** The address that was bound, with the real port when port 0 was asked for. After `start`. */
  boundAddress(): Address;
}

/** A service that answers on the admin address. */
export function createAdminServer(options: AdminServerOptions): AdminServer {
  const server = createServer(
    {
      maxHeaderSize: headLimitBytes,
      headersTimeout: headersTimeLimitMs,
      requestTimeout: requestTimeLimitMs,
      keepAliveTimeout: keepAliveLimitMs,
    },
    (request, response) => {
      handle(options, request, response).catch((error: unknown) => {
        options.log.error({ err: error }, "the admin port failed to answer");
        response.destroy();
      });
    },
  );
  server.maxConnections = connectionsLimit;
  return {
    name: "admin",
    start: () => listen(server, options.address, "--admin"),
    // It is a helper and stops last, when nobody needs its answers: nothing is worth waiting for.
    stop: async () => {
      server.close();
      server.closeAllConnections();
    },
    boundAddress: () => ({ ...options.address, port: (server.address() as AddressInfo).port }),
  };
}

/** Listens, or rejects with CannotStart and a sentence that names the option. */
export function listen(server: NetServer, address: Address, option: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: NodeJS.ErrnoException) => {
      const place = addressText(address);
      reject(new CannotStart(`${option} ${place} cannot be listened on: ${listenFailure(error)}`));
    };
    server.once("error", fail);
    server.listen(
      { port: address.port, ...(address.host !== "" && { host: address.host }) },
      () => {
        server.off("error", fail);
        resolve();
      },
    );
  });
}

function listenFailure(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case "EADDRINUSE":
      return "another process listens there.";
    case "EACCES":
      return "this user may not (ports below 1024 need a privilege).";
    case "EADDRNOTAVAIL":
      return "this machine has no such address.";
    case "ENOTFOUND":
      return "the host name is not known.";
    default:
      return `${error.code ?? error.message}.`;
  }
}

async function handle(
  options: AdminServerOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const url = request.url ?? "";
  const mount = options.mounts?.find(({ prefix }) => url.startsWith(`${prefix}/`));
  if (mount !== undefined) {
    mount.handle(request, response, url.slice(mount.prefix.length));
    return;
  }
  const [path = ""] = url.split("?");
  const isRead = request.method === "GET" || request.method === "HEAD";
  // The names with and without prefix are the same: monitors often have /metrics and /ready built in.
  switch (path.replace(/^\/jellybloom(?=\/)/, "")) {
    case "/live":
      if (isRead) return sendJson(response, 200, { live: true });
      break;
    case "/ready":
      if (isRead) return sendReadiness(response, options.readiness());
      break;
    case "/metrics":
      if (isRead) return sendMetrics(response, options);
      break;
    default:
      return handleGuarded(options, path, request, response);
  }
  response.setHeader("allow", "GET, HEAD");
  return sendJson(response, 405, { error: "this route is read only" });
}

function sendReadiness(response: ServerResponse, { reason, notes = [] }: Readiness): void {
  const told = { ready: reason === null, reason, ...(notes.length > 0 && { notes }) };
  sendJson(response, reason === null ? 200 : 503, told);
}

async function sendMetrics(response: ServerResponse, options: AdminServerOptions): Promise<void> {
  const { contentType, body } = await options.metricsText();
  response.writeHead(200, { "content-type": contentType, "cache-control": "no-store" });
  response.end(body);
}

async function handleGuarded(
  options: AdminServerOptions,
  path: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const route = options.guardedRoutes.find((candidate) => candidate.path === path);
  if (route === undefined) return sendJson(response, 404, { error: "there is no such route" });
  if (route.method !== request.method) {
    response.setHeader("allow", route.method);
    return sendJson(response, 405, { error: `this route takes ${route.method}` });
  }
  if (options.verifyProof === undefined) {
    return sendJson(response, 403, {
      error: "this needs a door that was started with --cluster-key",
    });
  }
  const body = await readBody(request);
  if (body === undefined) {
    response.setHeader("connection", "close");
    return sendJson(response, 413, { error: "the body is too large" });
  }
  const header = request.headers[proofHeaderName];
  const call = { method: request.method, path: request.url ?? "", body };
  const refusal = options.verifyProof(typeof header === "string" ? header : undefined, call);
  if (refusal !== null) {
    options.log.warn({ path, refusal }, "a guarded route was refused");
    return sendJson(response, 403, { error: refusal });
  }
  const answer = await route.answer(body);
  return sendJson(response, answer.status, answer.body);
}

/** The body as text, or undefined when it is too large or broke off. */
async function readBody(request: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of request.iterator({ destroyOnReturn: false })) {
      const bytes = chunk as Buffer;
      size += bytes.length;
      if (size > bodyLimitBytes) return undefined;
      chunks.push(bytes);
    }
  } catch {
    // The caller left in the middle; there is nobody to answer.
    return undefined;
  }
  return Buffer.concat(chunks).toString("utf8");
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" });
  response.end(`${JSON.stringify(body)}\n`);
}
