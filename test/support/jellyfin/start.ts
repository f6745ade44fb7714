/**
 * Starts stand-in servers for tests and works them: by signal for real faults, by the control port for staged ones. Each
 * runs in a process group of its own, so a kill or a freeze hits its ffmpegs with it, as it hits a container's. Whatever
 * a test leaves running dies with the test process.
 */
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { ProcessGroup } from "../group.ts";
import { copyDatabase } from "./database.ts";
import type { LoggedRequest } from "./faults.ts";
import { randomId } from "./ids.ts";
import { databaseFile, deviceFile } from "./world.ts";

const SERVER = fileURLToPath(new URL("./server.ts", import.meta.url));
const START_LIMIT_MS = 20_000;
const STOP_LIMIT_MS = 35_000;

export type StandInOptions = {
  readonly name: string;
  readonly mediaDir: string;
  /** Made in the temporary folder and removed by stop() where none is given. */
  readonly dataDir?: string;
  /** Copies the data of this server, online if it runs, before the first start. */
  readonly cloneOf?: StandIn | { readonly dataDir: string };
  readonly port?: number;
  readonly host?: string;
  readonly baseUrl?: string;
  readonly apiKey?: string;
  readonly knownProxies?: readonly string[];
  /** Passes through the start-up phases in about this time; 0 (the default) is ready at once. */
  readonly startupMs?: number;
  readonly restartMs?: number;
  /** Pages to serve under /web/ instead of the built-in one. */
  readonly webDir?: string;
};

export type ControlSwitch =
  | "slow"
  | "silent"
  | "reset"
  | "fail"
  | "health"
  | "refuse-all"
  | "refuse-token"
  | "hide"
  | "quick-connect"
  | "wizard"
  | "legacy"
  | "subtitles"
  | "task-runs"
  | "file-changed"
  | "derive"
  | "encoder"
  | "emit"
  | "configure"
  | "clear"
  | "forget-requests";

export type StandInState = {
  readonly phase: string;
  readonly sockets: number;
  readonly sessions: Record<string, unknown>[];
  readonly tokens: { token: string; userId: string; deviceId: string; client: string }[];
  readonly users: { id: string; name: string; invalidLogins: number }[];
  readonly jobs: { playSessionId: string; pid: number | undefined; running: boolean }[];
  readonly liveStreams: { liveStreamId: string; consumers: number }[];
  readonly taskRuns: { key: string; at: number }[];
  readonly subtitleExtractions: number;
};

type Told = { listening: number; pid: number; control: number; apiKey: string | undefined };

export class StandIn {
  readonly name: string;
  readonly dataDir: string;
  readonly port: number;
  readonly apiKey: string;
  readonly url: string;
  /** `host:port`, for clients that are not HTTP. */
  readonly authority: string;
  readonly #options: StandInOptions;
  readonly #ownsData: boolean;
  readonly #group: ProcessGroup;
  #controlPort = 0;

  constructor(options: StandInOptions, dataDir: string, port: number, apiKey: string) {
    this.name = options.name;
    this.#group = new ProcessGroup(`stand-in ${options.name}`);
    this.dataDir = dataDir;
    this.port = port;
    this.apiKey = apiKey;
    this.authority = `${options.host ?? "127.0.0.1"}:${port}`;
    this.url = `http://${this.authority}${options.baseUrl ?? ""}`;
    this.#options = options;
    this.#ownsData = options.dataDir === undefined;
  }

  get pid(): number {
    return this.#group.pid;
  }

  get running(): boolean {
    return this.#group.running;
  }

  /** Starts the process on its port and data, and waits until it tells that it listens. */
  async launch(): Promise<void> {
    const child = this.#group.begin([...process.execArgv, SERVER, ...this.#arguments()], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const told = await firstLine(child, this.name);
    this.#controlPort = told.control;
  }

  #arguments(): string[] {
    const { name, mediaDir, host, baseUrl, knownProxies, startupMs, restartMs, webDir } =
      this.#options;
    return [
      ...["--name", name, "--port", String(this.port), "--data", this.dataDir, "--media", mediaDir],
      ...["--api-key", this.apiKey],
      ...(host === undefined ? [] : ["--host", host]),
      ...(baseUrl === undefined ? [] : ["--base-url", baseUrl]),
      ...(knownProxies === undefined ? [] : ["--known-proxies", knownProxies.join(",")]),
      ...(startupMs === undefined ? [] : ["--startup-ms", String(startupMs)]),
      ...(restartMs === undefined ? [] : ["--restart-ms", String(restartMs)]),
      ...(webDir === undefined ? [] : ["--web", webDir]),
    ];
  }

  /** Turns a switch of the control port; see control.ts for what each takes. */
  async control(
    name: ControlSwitch,
    body: Record<string, unknown> = {},
  ): Promise<Record<string, unknown>> {
    const address = `http://127.0.0.1:${this.#controlPort}/${name}`;
    const reply = await fetch(address, { method: "POST", body: JSON.stringify(body) });
    const value = (await reply.json()) as Record<string, unknown>;
    if (!reply.ok) throw new Error(`control ${name}: ${String(value.error)}`);
    return value;
  }

  async #read<Value>(path: string): Promise<Value> {
    const reply = await fetch(`http://127.0.0.1:${this.#controlPort}/${path}`);
    return (await reply.json()) as Value;
  }

  /** Every request received since this process began, oldest first; `path` is a regular expression over path and query. */
  requests(filter: { method?: string; path?: string } = {}): Promise<LoggedRequest[]> {
    const query = new URLSearchParams(filter as Record<string, string>);
    return this.#read(`requests?${query}`);
  }

  counts(): Promise<Record<string, number>> {
    return this.#read("counts");
  }

  state(): Promise<StandInState> {
    return this.#read("state");
  }

  /** Live ffmpegs, and how many were ever started by this process. */
  ffmpegs(): Promise<{ pids: number[]; started: number }> {
    return this.#read("ffmpeg");
  }

  /** SIGKILL, ffmpegs included: the server is gone in mid-sentence. */
  kill9(): Promise<void> {
    return this.#group.kill9();
  }

  /** SIGSTOP: connections are accepted by the kernel, nothing is ever answered. */
  freeze(): void {
    this.#group.freeze();
  }

  thaw(): void {
    this.#group.thaw();
  }

  /** SIGTERM to the server alone; resolves when it has drained and ended. */
  terminate(): Promise<void> {
    return this.#group.terminate();
  }

  /** Starts it again after a kill, or kills and starts it: same port, same data. */
  async restart(): Promise<void> {
    await this.kill9();
    await this.launch();
  }

  /** Ends it for good and removes data that was made for it. */
  async stop(): Promise<void> {
    await this.#group.end();
    if (this.#ownsData) rmSync(this.dataDir, { recursive: true, force: true });
  }

  /** Waits until health says Healthy. */
  async ready(limitMs = STOP_LIMIT_MS): Promise<void> {
    const end = Date.now() + limitMs;
    while (Date.now() < end) {
      const body = await fetch(`${this.url}/health`).then(
        (reply) => reply.text(),
        () => "",
      );
      if (body === "Healthy") return;
      await sleep(25);
    }
    throw new Error(`stand-in ${this.name} did not become healthy in ${limitMs} ms`);
  }
}

async function firstLine(child: ChildProcess, name: string): Promise<Told> {
  if (child.stdout === null) throw new Error("no output to read");
  const lines = createInterface({ input: child.stdout });
  const line = once(lines, "line").then(([text]) => JSON.parse(String(text)) as Told);
  const early = once(child, "exit").then(([code]) => {
    throw new Error(`stand-in ${name} ended with ${String(code)} before it listened`);
  });
  const late = sleep(START_LIMIT_MS, undefined, { ref: false }).then(() => {
    throw new Error(`stand-in ${name} did not listen within ${START_LIMIT_MS} ms`);
  });
  // The loser of the race may still fail later, and nobody is to blame then.
  early.catch(() => undefined);
  late.catch(() => undefined);
  try {
    return await Promise.race([line, early, late]);
  } finally {
    child.stdout.unpipe();
    (child.stdout as unknown as { unref?: () => void }).unref?.();
  }
}

/** Starts one server; it listens when this resolves (with `startupMs` it may still be passing through its phases). */
export async function startStandIn(options: StandInOptions): Promise<StandIn> {
  const dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), `jellyfin-${options.name}-`));
  if (options.cloneOf !== undefined) await cloneData(options.cloneOf.dataDir, dataDir);
  const source = options.cloneOf;
  const apiKey = options.apiKey ?? (source instanceof StandIn ? source.apiKey : randomId());
  const port = options.port ?? (await freePort(options.host ?? "127.0.0.1"));
  const standIn = new StandIn(options, dataDir, port, apiKey);
  await standIn.launch();
  return standIn;
}

/**
 * Seeds `to` from `from`, which may be running: the database by online backup, the rest copied. Both have the same
 * server id, users, tokens and keys of that moment, and go their own ways from then on.
 */
export async function cloneData(from: string, to: string): Promise<void> {
  mkdirSync(dirname(deviceFile(to)), { recursive: true });
  cpSync(deviceFile(from), deviceFile(to));
  if (existsSync(join(from, "config"))) {
    cpSync(join(from, "config"), join(to, "config"), { recursive: true });
  }
  await copyDatabase(databaseFile(from), databaseFile(to));
}

/** Two clones, `a` and `b`: same server id, same users (root/root is an administrator, kid/kid is not), same API key. */
export async function startPair(
  options: Omit<StandInOptions, "name" | "port" | "dataDir" | "cloneOf">,
): Promise<{ a: StandIn; b: StandIn; stop: () => Promise<void> }> {
  const a = await startStandIn({ ...options, name: "a" });
  const b = await startStandIn({ ...options, name: "b", cloneOf: a });
  const stop = async () => {
    await Promise.all([a.stop(), b.stop()]);
  };
  return { a, b, stop };
}

/** A port nobody listens on now, so that a server can be started on the same one again and again. */
export async function freePort(host = "127.0.0.1"): Promise<number> {
  const probe = createServer();
  probe.listen(0, host);
  await once(probe, "listening");
  const address = probe.address();
  probe.close();
  await once(probe, "close");
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}
