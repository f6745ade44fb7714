// A real redis-server for tests, on a free port of the loopback, with a folder of its own and nothing kept
// on disk unless the test asks for it. It can be killed, frozen and started again on the same port.

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface RedisServer {
  /** `redis://127.0.0.1:<port>` */
  readonly url: string;
  readonly port: number;
  /** Of the process that runs now; undefined while it is stopped. */
  readonly pid: number | undefined;
  /** SIGKILL, as when the machine dies. Resolves when the process is gone. */
  kill9(): Promise<void>;
  /** SIGSTOP: connections are accepted by the system, and nothing is ever answered. */
  freeze(): void;
  thaw(): void;
  /** Ends it for good and removes its folder. */
  stop(): Promise<void>;
  /** Kills it where it still runs, and starts it again on the same port and folder. */
  restart(): Promise<void>;
}

export interface RedisServerOptions {
  readonly port?: number;
  /** More arguments, such as `["--appendonly", "yes"]`. */
  readonly args?: readonly string[];
}

const startLimitMs = 10_000;

export async function startRedis(options: RedisServerOptions = {}): Promise<RedisServer> {
  const port = options.port ?? (await freePort());
  const folder = await mkdtemp(join(tmpdir(), "jellybloom-redis-"));
  let running: ChildProcess | undefined;

  async function start(): Promise<void> {
    const keepNothing = ["--save", "", "--appendonly", "no"];
    const where = ["--port", String(port), "--bind", "127.0.0.1", "--dir", folder];
    const child = spawn("redis-server", [...where, ...keepNothing, ...(options.args ?? [])], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-4000);
    });
    let failure: string | undefined;
    child.once("error", (error) => {
      failure = error.message;
    });
    child.once("exit", (code) => {
      failure ??= `it ended with ${code}:\n${output}`;
    });
    running = child;
    const untilMs = Date.now() + startLimitMs;
    while (!(await answersPing(port))) {
      if (failure !== undefined || Date.now() > untilMs) {
        child.kill("SIGKILL");
        throw new Error(`redis-server did not start: ${failure ?? output}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async function kill9(): Promise<void> {
    const child = running;
    running = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await gone;
  }

  await start();
  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    get pid() {
      return running?.pid;
    },
    kill9,
    freeze() {
      running?.kill("SIGSTOP");
    },
    thaw() {
      running?.kill("SIGCONT");
    },
    async stop() {
      await kill9();
      await rm(folder, { recursive: true, force: true });
    },
    async restart() {
      await kill9();
      await start();
    },
  };
}

/** A port that was free a moment ago. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      const port = typeof address === "object" && address !== null ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}

function answersPing(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    const settle = (answers: boolean): void => {
      socket.destroy();
      resolve(answers);
    };
    socket.setTimeout(500, () => settle(false));
    socket.once("error", () => settle(false));
    socket.once("connect", () => socket.write("PING\r\n"));
    socket.once("data", (chunk: Buffer) => settle(/PONG|NOAUTH/.test(chunk.toString())));
  });
}
