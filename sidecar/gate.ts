// The gate: the door to this replica's task and administration routes. A change to the cluster has to have one
// order, so those routes go through the leader's gate and no other way; the gate lets through only what
// carries a proof of the cluster key, made for this very call and used once, and the epoch under which this
// replica leads now. Behind it: the cluster's own tasks (TaskDesk), the cluster's own restart, and for all
// else the server itself (http-proxy).
//
// It promises that nothing happens for a call that it refuses, that leadership is looked at after the whole
// call was read and immediately before anything is done, and that a caller can tell its refusals from the
// server's own answers (core/cluster/gate-call.ts).

import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { createProxyServer, type ProxyServer } from "http-proxy";
import {
  epochHeaderName,
  type GateVerdict,
  gateHeaderName,
  gatePrefix,
  provenPath,
  readEpochHeader,
} from "../core/cluster/gate-call.ts";
import type { DeskAnswer, TaskDesk, TaskView } from "../core/cluster/tasks.ts";
import { isGated } from "../core/jellyfin/gated.ts";
import { baseSegmentsOf } from "../core/jellyfin/paths.ts";
import { matchRoute, type RouteMatch } from "../core/jellyfin/routes.ts";
import type { Mount } from "../core/service/health.ts";
import { parsedJson } from "../core/service/json.ts";
import { type ProofVerifier, proofHeaderName } from "../core/service/seal.ts";
import type { Epoch } from "../core/store/store.ts";
import { scanTaskKey } from "./tasks/policy.ts";

export interface GateParts {
  readonly replica: string;
  /** Where the sidecar reaches its server. */
  readonly origin: string;
  readonly basePath: string;
  readonly verifier: ProofVerifier;
  readonly lease: {
    /** The epoch under which this replica leads at this moment. */
    mayAct(): { readonly epoch: Epoch } | undefined;
    /** Somebody with the cluster key carried this epoch. */
    noteEpoch(epoch: Epoch): void;
  };
  /** Undefined: tasks are the server's own. */
  readonly desk: (() => TaskDesk | undefined) | undefined;
  /** Begins the restart of all replicas, one after another; undefined: the server restarts itself. */
  readonly restartAll: (() => Promise<string>) | undefined;
  readonly log: { info(message: string): void; warn(message: string): void };
  readonly bodyLimitBytes: number;
  /** How long the server may take for one answer, in ms: a backup takes minutes. */
  readonly answerLimitMs: number;
}

type GateProxy = ProxyServer<typeof IncomingMessage, typeof ServerResponse>;

/** A gate, to be mounted on the sidecar's port, or on the admin port of `up`. */
export function createGate(parts: GateParts): Mount {
  const proxy: GateProxy = createProxyServer({ xfwd: false, proxyTimeout: parts.answerLimitMs });
  // Without a listener an error would end the process; each call has its own way to be answered.
  proxy.on("error", () => undefined);
  return {
    prefix: gatePrefix(parts.replica),
    handle(request, response, path) {
      judge(parts, proxy, request, response, path).catch((error: unknown) => {
        parts.log.warn(`the gate of ${parts.replica} failed: ${messageOf(error)}`);
        response.destroy();
      });
    },
  };
}

async function judge(
  parts: GateParts,
  proxy: GateProxy,
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
): Promise<void> {
  const { lease, verifier, replica, log, bodyLimitBytes } = parts;
  const refuse = (verdict: GateVerdict, status: number, error: string): void => {
    log.warn(`the gate of ${replica} refused ${request.method} ${bare(path)}: ${error}`);
    reply(response, verdict, status, { error });
  };
  const body = await readBody(request, bodyLimitBytes);
  if (body === "tooLarge") {
    response.setHeader("connection", "close");
    return refuse("tooLarge", 413, `the body is larger than ${bodyLimitBytes} bytes`);
  }
  if (body === "broke") return void response.destroy();
  const method = request.method ?? "";
  const epochText = headerOf(request, epochHeaderName);
  const refusal = verifier.verify(headerOf(request, proofHeaderName), {
    method,
    path: provenPath(request.url ?? "", epochText ?? ""),
    body,
  });
  if (refusal !== null) return refuse("proof", 403, refusal);
  const epoch = readEpochHeader(epochText);
  if (epoch === undefined) return refuse("malformed", 400, "the call says no epoch");
  const match = matchRoute(method, pathOf(path), baseSegmentsOf(parts.basePath));
  if (!isGated(match.route)) return refuse("notGated", 404, "no route of the gate");
  // Only what was proven is believed: a higher epoch than ours means that somebody else leads.
  lease.noteEpoch(epoch);
  const own = lease.mayAct();
  if (own === undefined) return refuse("epoch", 409, `${replica} does not lead`);
  if (own.epoch.number !== epoch.number || own.epoch.owner !== epoch.owner) {
    return refuse("epoch", 409, `epoch ${epoch.number} is not the one that counts`);
  }
  if (await answeredHere(parts, match, body, response)) return;
  forward(parts, proxy, request, response, path, body);
}

// ---- What the cluster answers itself ----------------------------------------------------------------

async function answeredHere(
  parts: GateParts,
  { route, params }: RouteMatch,
  body: Buffer,
  response: ServerResponse,
): Promise<boolean> {
  if (route.kind === "shutdown") {
    // One server that is shut down is what this cluster exists to hide, and all of them at once would leave
    // nobody to start them again: whoever wants that stops them where they run.
    reply(response, "answer", 403, {
      error:
        "a cluster is not shut down through its door: drain a replica and stop it where it runs",
    });
    return true;
  }
  if (route.kind === "restart") {
    if (parts.restartAll === undefined) return false;
    parts.log.info(await parts.restartAll());
    reply(response, "answer", 204);
    return true;
  }
  const desk = route.kind === "task" ? parts.desk?.() : undefined;
  // Reading goes to the server, which knows names and rights, and is completed on its way back.
  if (desk === undefined || route.methods.includes("GET")) return false;
  if ((await desk.list()) === undefined) return false;
  const taskId = params.taskId ?? scanTaskKey;
  const answer = route.pattern.endsWith("/Triggers")
    ? await desk.setTriggers(taskId, parsedJson(body.toString("utf8")))
    : route.methods.includes("DELETE")
      ? await desk.cancel(taskId)
      : await desk.runNow(taskId);
  replyOf(response, answer);
  return true;
}

/** In Jellyfin's own words where it has some: 404 for an unknown task, 500 for one that does not run. */
function replyOf(response: ServerResponse, answer: DeskAnswer): void {
  const { status, error } = statusOf(answer);
  reply(response, "answer", status, error === undefined ? undefined : { error });
}

function statusOf(answer: DeskAnswer): { readonly status: number; readonly error?: string } {
  switch (answer.outcome) {
    case "done":
      return { status: 204 };
    case "unknownTask":
      return { status: 404, error: "there is no such task" };
    case "malformed":
      return { status: 400, error: answer.problem };
    case "notRunning":
      return { status: 500, error: "the task does not run" };
    case "refused":
      return { status: 503, error: answer.reason };
  }
}

// ---- What the server answers ------------------------------------------------------------------------

function forward(
  parts: GateParts,
  proxy: GateProxy,
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
  body: Buffer,
): void {
  const { replica, origin, log } = parts;
  for (const name of Object.keys(request.headers)) {
    if (name.startsWith("x-jellybloom")) delete request.headers[name];
  }
  delete request.headers["transfer-encoding"];
  if (body.length > 0 || request.method !== "GET") {
    request.headers["content-length"] = String(body.length);
  }
  request.url = path;
  const isSchedule =
    request.method === "GET" && /^\/scheduledtasks/i.test(withoutBase(parts, path));
  const desk = isSchedule ? parts.desk?.() : undefined;
  const options = {
    target: origin,
    changeOrigin: false,
    buffer: Readable.from(body.length === 0 ? [] : [body]),
    selfHandleResponse: desk !== undefined,
  };
  response.setHeader(gateHeaderName, "passed" satisfies GateVerdict);
  if (desk !== undefined) completeSchedule(proxy, desk, request, response);
  proxy.web(request, response, options, (error) => {
    if (response.headersSent) return void response.destroy();
    const code = error instanceof Error && "code" in error ? String(error.code) : "unknown";
    const isUnsent = code === "ECONNREFUSED" || code === "EHOSTUNREACH";
    const verdict = isUnsent ? "unsent" : "broke";
    log.warn(`the gate of ${replica} had no answer from its server (${code})`);
    reply(response, verdict, 502, { error: `the server of ${replica} did not answer` });
  });
}

/** Puts the cluster's triggers, and the state of whichever replica runs a task, into the server's list. */
function completeSchedule(
  proxy: GateProxy,
  desk: TaskDesk,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  const onAnswer = (answer: IncomingMessage, asked: IncomingMessage): void => {
    if (asked !== request) return;
    proxy.off("proxyRes", onAnswer);
    void (async () => {
      const [body, views] = await Promise.all([readBody(answer, listLimitBytes), desk.list()]);
      if (typeof body === "string") return void response.destroy();
      const { statusCode = 502, headers } = answer;
      const shown = statusCode === 200 && views !== undefined ? completed(body, views) : body;
      response.writeHead(statusCode, {
        ...(headers["content-type"] !== undefined && { "content-type": headers["content-type"] }),
        "content-length": shown.length,
      });
      response.end(shown);
    })();
  };
  proxy.on("proxyRes", onAnswer);
  response.once("close", () => proxy.off("proxyRes", onAnswer));
}

const listLimitBytes = 4 * 1024 * 1024;

/** One task or a list of them, as JSON, with what the cluster knows better. */
export function completed(body: Buffer, views: readonly TaskView[]): Buffer {
  const parsed = parsedJson(body.toString("utf8"));
  const byKey = new Map(views.map((view) => [view.key, view]));
  if (Array.isArray(parsed)) {
    return Buffer.from(JSON.stringify(parsed.map((task) => completedTask(task, byKey))));
  }
  return typeof parsed === "object" && parsed !== null
    ? Buffer.from(JSON.stringify(completedTask(parsed, byKey)))
    : body;
}

function completedTask(task: unknown, views: ReadonlyMap<string, TaskView>): unknown {
  if (typeof task !== "object" || task === null) return task;
  const fields = task as Record<string, unknown>;
  const view = typeof fields.Key === "string" ? views.get(fields.Key) : undefined;
  if (view === undefined) return task;
  const { CurrentProgressPercentage: _, ...rest } = fields;
  return {
    ...rest,
    State: view.state,
    Triggers: view.triggers,
    ...(view.progress !== undefined && { CurrentProgressPercentage: view.progress }),
    ...(view.lastResult !== undefined && { LastExecutionResult: view.lastResult }),
  };
}

// ---- Reading and replying ---------------------------------------------------------------------------

async function readBody(
  message: IncomingMessage,
  limitBytes: number,
): Promise<Buffer | "tooLarge" | "broke"> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of message.iterator({ destroyOnReturn: false })) {
      const bytes = chunk as Buffer;
      size += bytes.length;
      if (size > limitBytes) return "tooLarge";
      chunks.push(bytes);
    }
  } catch {
    // The sender left in the middle; there is nobody to answer.
    return "broke";
  }
  return Buffer.concat(chunks);
}

function reply(
  response: ServerResponse,
  verdict: GateVerdict,
  status: number,
  body?: { readonly error: string },
): void {
  const text = body === undefined ? "" : `${JSON.stringify(body)}\n`;
  response.writeHead(status, {
    [gateHeaderName]: verdict,
    "cache-control": "no-store",
    ...(text !== "" && { "content-type": "application/json" }),
  });
  response.end(text);
}

function headerOf(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name];
  return typeof value === "string" ? value : undefined;
}

function pathOf(target: string): string {
  return target.split("?")[0] ?? "";
}

/** For the log: a query may hold a token, and a path may be long. */
function bare(target: string): string {
  return pathOf(target).slice(0, 200);
}

function withoutBase({ basePath }: GateParts, path: string): string {
  return path.startsWith(`${basePath}/`) ? path.slice(basePath.length) : path;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : "unknown";
}
