/**
 * Starts a door, or a sidecar, as the real process its owner would start, for tests that kill and freeze it or what is
 * behind it. Each has free ports, which it keeps through restarts, and a file for its log, which tells afterwards why a
 * promise was broken. Whatever a test leaves running dies with the test process.
 */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { ProcessGroup } from "./group.ts";
import { freePort } from "./jellyfin/start.ts";

const LAUNCHER = fileURLToPath(new URL("../../cli/jellybloom.mjs", import.meta.url));
const START_LIMIT_MS = 20_000;
export const CLUSTER_KEY = "a-key-that-every-part-of-a-test-cluster-shares";

/** One line of a log: pino's object. */
export type LogLine = { readonly level: number; readonly msg: string } & Record<string, unknown>;

/** A Jellybloom process that can be killed, frozen, and started again with the same arguments. */
export class Part {
  readonly #args: readonly string[];
  readonly #adminUrl: string;
  readonly #folder: string;
  readonly #group = new ProcessGroup("the process");

  constructor(args: readonly string[], adminUrl: string) {
    this.#args = args;
    this.#adminUrl = adminUrl;
    this.#folder = mkdtempSync(join(tmpdir(), "jellybloom-part-"));
  }

  get pid(): number {
    return this.#group.pid;
  }

  /** `http://host:port` of /jellybloom/live, /jellybloom/ready and /metrics. */
  get admin(): string {
    return this.#adminUrl;
  }

  get #logFile(): string {
    return join(this.#folder, "log");
  }

  /** Everything it wrote since the test began, restarts included. */
  log(): string {
    return readFileSync(this.#logFile, "utf8");
  }

  /** The log's lines that are JSON objects, oldest first. */
  logLines(): LogLine[] {
    return this.log()
      .split("\n")
      .filter((line) => line.startsWith("{") && line.endsWith("}"))
      .map((line) => JSON.parse(line) as LogLine);
  }

  /** Starts the process; does not wait until it serves. */
  begin(): void {
    const file = openSync(this.#logFile, "a");
    this.#group.begin([LAUNCHER, ...this.#args], {
      stdio: ["ignore", file, file],
      env: cleanEnvironment(),
    });
    closeSync(file);
  }

  /** Waits until this address answers anything at all. */
  async serves(url: string, limitMs = START_LIMIT_MS): Promise<void> {
    const end = performance.now() + limitMs;
    while (performance.now() < end) {
      if (!this.#group.running) {
        throw new Error(`it ended with ${this.#group.exitCode}:\n${this.log().slice(-4000)}`);
      }
      const served = await fetch(url, { signal: AbortSignal.timeout(1000) }).then(
        async (reply) => await reply.text().then(() => true),
        () => false,
      );
      if (served) return;
      await sleep(10);
    }
    throw new Error(`it did not serve ${url} in ${limitMs} ms:\n${this.log().slice(-4000)}`);
  }

  /** Waits until /jellybloom/ready says that it is. */
  async ready(limitMs = START_LIMIT_MS): Promise<void> {
    const end = performance.now() + limitMs;
    let last = "no answer";
    while (performance.now() < end) {
      if (!this.#group.running) {
        throw new Error(`it ended with ${this.#group.exitCode}:\n${this.log().slice(-4000)}`);
      }
      try {
        const reply = await fetch(`${this.#adminUrl}/jellybloom/ready`);
        last = await reply.text();
        if (reply.ok) return;
      } catch {
        // Its port is not open yet: asked again below.
      }
      await sleep(10);
    }
    throw new Error(`it is not ready after ${limitMs} ms (${last}):\n${this.log().slice(-4000)}`);
  }

  /** SIGKILL: gone in mid-sentence. Resolves when it is. */
  kill9(): Promise<void> {
    return this.#group.kill9();
  }

  freeze(): void {
    this.#group.freeze();
  }

  thaw(): void {
    this.#group.thaw();
  }

  /** SIGTERM; resolves with the exit code when it has finished what ran. */
  async terminate(): Promise<number | null> {
    await this.#group.terminate();
    return this.#group.exitCode;
  }

  /** Ends it for good and removes its log. */
  async stop(): Promise<void> {
    await this.#group.end();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

export class DoorProcess extends Part {
  /** `http://host:port`, where clients connect. */
  readonly url: string;
  readonly authority: string;

  constructor(args: readonly string[], authority: string, admin: string) {
    super(args, admin);
    this.authority = authority;
    this.url = `http://${authority}`;
  }

  /** Waits until it accepts connections of clients, whoever is behind it. */
  async opens(): Promise<void> {
    await this.serves(`${this.admin}/jellybloom/live`);
    const { hostname: host, port } = new URL(this.url);
    for (let tries = 0; tries < 500; tries += 1) {
      const socket = connect(Number(port), host);
      const open = await new Promise((resolve) => {
        socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
      });
      socket.destroy();
      if (open === true) return;
      await sleep(20);
    }
    throw new Error(`the door did not open:\n${this.log().slice(-4000)}`);
  }

  /** Starts it again on the same ports, with the same data, after it was killed or terminated. */
  async launch(): Promise<void> {
    this.begin();
    await this.ready();
  }
}

export type DoorOptions = {
  /** What stands behind it; a stand-in has both fields. */
  readonly replicas: readonly { readonly name: string; readonly url: string }[];
  /** Needed for `up` with more than one replica. */
  readonly apiKey?: string;
  /** `up` (the default) has its sidecars inside, `proxy` has none. */
  readonly command?: "up" | "proxy";
  readonly redis?: string;
  readonly data?: string;
  readonly args?: readonly string[];
  /** `open` waits only until it listens, for a door behind which nobody is; `ready` (the default) until it is ready. */
  readonly until?: "open" | "ready";
};

/** Starts a door and waits for it. Every answer carries X-Jellybloom-Explain. */
export async function startDoor(options: DoorOptions): Promise<DoorProcess> {
  const [authority, admin] = await Promise.all([freeAuthority(), freeAuthority()]);
  const args = [
    options.command ?? "up",
    ...["--listen", authority, "--admin", admin, "--explain-header", "--log-format", "json"],
    ...options.replicas.flatMap(({ name, url }) => ["--replica", `${name}=${url}`]),
    ...(options.apiKey === undefined ? [] : ["--api-key", options.apiKey]),
    ...(options.data === undefined ? [] : ["--data", options.data]),
    ...(options.redis === undefined
      ? []
      : ["--redis", options.redis, "--cluster-key", CLUSTER_KEY]),
    // A short encode at the start is in the way of tests that count encodes.
    ...withoutProbe(options.command ?? "up", options.args),
    ...(options.args ?? []),
  ];
  const door = new DoorProcess(args, authority, `http://${admin}`);
  door.begin();
  try {
    if (options.until === "open") await door.opens();
    else await door.ready();
  } catch (error) {
    await door.stop();
    throw error;
  }
  return door;
}

/** Starts the sidecar of one replica, which meets the doors in this Redis, and waits until its port is open. */
export async function startSidecar(options: {
  readonly replica: { readonly name: string; readonly url: string; readonly apiKey: string };
  readonly redis: string;
  readonly args?: readonly string[];
}): Promise<Part> {
  const listen = await freeAuthority();
  const { name, url, apiKey } = options.replica;
  const part = new Part(
    [
      ...["sidecar", "--name", name, "--jellyfin", url, "--api-key", apiKey, "--listen", listen],
      ...["--redis", options.redis, "--cluster-key", CLUSTER_KEY, "--log-format", "json"],
      ...withoutProbe("sidecar", options.args),
      ...(options.args ?? []),
    ],
    `http://${listen}`,
  );
  part.begin();
  try {
    await part.serves(`${part.admin}/jellybloom/live`);
  } catch (error) {
    await part.stop();
    throw error;
  }
  return part;
}

function withoutProbe(command: string, args: readonly string[] = []): string[] {
  return command === "proxy" || args.includes("--encoder-probe") ? [] : ["--encoder-probe", "off"];
}

async function freeAuthority(): Promise<string> {
  return `127.0.0.1:${await freePort()}`;
}

/** What the machine's owner set for a door of their own must not reach a test's. */
function cleanEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith("JELLYBLOOM_")),
  );
}
