/**
 * The control channel of a stand-in: a port of its own on loopback, plain JSON. POST changes a switch, GET reads.
 *
 *   POST /slow {path, method?, firstByteMs, times?}        POST /silent {path, method?, executed?, times?}
 *   POST /reset {path, method?, afterBytes?, beforeDeed?, how?: "reset" | "close", times?}
 *   POST /fail {path, method?, status?, times?}            POST /health {status?, body} (empty body: as it is)
 *   POST /refuse-all {on}   POST /refuse-token {token, on?}   POST /hide {item, hidden?}   POST /quick-connect {on}
 *   POST /wizard {complete}   POST /legacy {on}   POST /subtitles {extractionMs}   POST /task-runs {runMs}
 *   POST /file-changed {path}: its monitor, where it watches there, sees a file come, change or go; answers {seen}
 *   POST /derive {item, chapterPictures?, segments?, trickplay?}: what its tasks have made of an item
 *   POST /encoder {fails, percent}
 *   POST /emit {type, data, userId?}   POST /configure {document, change}   POST /clear   POST /forget-requests
 *   GET /requests?method=&path=   GET /counts   GET /state   GET /ffmpeg
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type Faults, readSwitch } from "./faults.ts";
import type { World } from "./world.ts";

type Context = { faults: Faults; world: () => World | undefined; phase: () => string };
type Body = Record<string, unknown>;

/** Starts the control channel. @returns its port. */
export function startControl(context: Context): Promise<number> {
  // Never the first to close a connection, so that a test cannot send into one that is just being closed.
  const server = createServer({ keepAliveTimeout: 0 }, (request, response) => {
    answer(context, request).then(
      (value) => send(response, 200, value ?? {}),
      (error: unknown) => send(response, 400, { error: String(error) }),
    );
  });
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => resolve((server.address() as AddressInfo).port));
  });
}

function send(response: ServerResponse, status: number, value: unknown): void {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
}

async function answer(context: Context, request: IncomingMessage): Promise<unknown> {
  const url = new URL(request.url ?? "/", "http://control");
  if (request.method === "GET") return read(context, url);
  const parts: Buffer[] = [];
  for await (const part of request as AsyncIterable<Buffer>) parts.push(part);
  const text = Buffer.concat(parts).toString("utf8");
  return change(context, url.pathname.slice(1), text === "" ? {} : (JSON.parse(text) as Body));
}

function read(context: Context, url: URL): unknown {
  const { faults } = context;
  const world = context.world();
  const path = url.searchParams.get("path");
  switch (url.pathname) {
    case "/requests":
      return faults.requests(
        url.searchParams.get("method") ?? undefined,
        path === null ? undefined : new RegExp(path, "i"),
      );
    case "/counts":
      return Object.fromEntries(faults.counts);
    case "/ffmpeg":
      return { pids: world?.transcodes.pids() ?? [], started: world?.transcodes.started ?? 0 };
    case "/state":
      return {
        phase: context.phase(),
        sockets: world?.sessions.socketCount,
        sessions: world?.sessions.all().map((session) => world.sessions.dto(session)),
        tokens: [...(world?.database.devices.values() ?? [])],
        users: [...(world?.database.users.values() ?? [])].map((user) => ({
          id: user.id,
          name: user.name,
          invalidLogins: user.policy.InvalidLoginAttemptCount,
        })),
        jobs: world?.transcodes.jobs(),
        liveStreams: world?.liveTv.open(),
        taskRuns: world?.tasks.runs,
        subtitleExtractions: faults.subtitleExtractions,
      };
    default:
      throw new Error("unknown");
  }
}

function change(context: Context, name: string, body: Body): unknown {
  const { faults } = context;
  const on = body.on !== false;
  switch (name) {
    case "slow":
      faults.slow.push({ ...readSwitch(body), firstByteMs: Number(body.firstByteMs ?? 1000) });
      return {};
    case "silent":
      faults.silent.push({ ...readSwitch(body), executed: body.executed === true });
      return {};
    case "reset":
      faults.reset.push({
        ...readSwitch(body),
        afterBytes: Number(body.afterBytes ?? 0),
        beforeDeed: body.beforeDeed === true,
        how: body.how === "close" ? "close" : "reset",
      });
      return {};
    case "fail":
      faults.fails.push({ ...readSwitch(body), status: Number(body.status ?? 500) });
      return {};
    case "health":
      faults.health =
        typeof body.body === "string"
          ? { body: body.body, status: Number(body.status ?? 200) }
          : undefined;
      return {};
    case "refuse-all":
      faults.refuseAllTokens = on;
      return {};
    case "refuse-token":
      if (on) faults.refusedTokens.add(String(body.token));
      else faults.refusedTokens.delete(String(body.token));
      return {};
    case "subtitles":
      faults.subtitleExtractionMs = Number(body.extractionMs ?? 0);
      return {};
    case "clear":
      faults.clear();
      return {};
    case "forget-requests":
      faults.forgetRequests();
      return {};
    default:
      return changeWorld(context, name, body, on);
  }
}

function changeWorld(context: Context, name: string, body: Body, on: boolean): unknown {
  const world = context.world();
  if (world === undefined) throw new Error("the server is not up");
  switch (name) {
    case "hide":
      return { ids: world.library.hide(String(body.item), body.hidden !== false) };
    case "derive": {
      const { item, ...made } = body;
      world.library.derive(String(item), made);
      return {};
    }
    case "file-changed": {
      const seen = world.monitor.sees(String(body.path));
      return seen ? world.scan().then(() => ({ seen })) : { seen };
    }
    case "quick-connect":
      world.configure("system", { QuickConnectAvailable: on });
      return {};
    case "legacy":
      world.configure("system", { EnableLegacyAuthorization: on });
      return {};
    case "wizard":
      world.configure("system", { IsStartupWizardCompleted: body.complete !== false });
      return {};
    case "configure":
      world.configure(String(body.document), (body.change ?? {}) as Body);
      return {};
    case "encoder":
      world.transcodes.fails = body.fails === true;
      world.transcodes.percent = typeof body.percent === "number" ? body.percent : undefined;
      return {};
    case "task-runs":
      world.tasks.runMs = Number(body.runMs ?? 30);
      return {};
    case "emit": {
      const userId = body.userId;
      if (typeof userId === "string")
        world.sessions.sendToUser(userId, String(body.type), body.data);
      else world.sessions.sendToAll(String(body.type), body.data);
      return {};
    }
    default:
      throw new Error(`there is no switch ${name}`);
  }
}
