// `jellybloom sidecar` as a process of its own: two of them and a Redis, without any door.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openRedisStore } from "../../core/store/redis.ts";
import type { Store } from "../../core/store/store.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { freePort, type RedisServer, startRedis } from "../support/redis.ts";
import {
  emptyFolder,
  eventually,
  logIn,
  startCluster,
  statusOf,
  storeLimits,
} from "./sidecar-cluster.ts";

const media = emptyFolder();
const launcher = new URL("../../cli/jellybloom.mjs", import.meta.url).pathname;
let a: StandIn;
let b: StandIn;
let stopPair: () => Promise<void>;
let redis: RedisServer;
let store: Store;
const processes: Sidecar[] = [];

interface Sidecar {
  readonly child: ChildProcess;
  readonly port: number;
  readonly output: () => string;
  /** Ends it by SIGTERM and answers its exit code. */
  end(): Promise<number | null>;
}

beforeAll(async () => {
  ({ a, b, stop: stopPair } = await startPair({ mediaDir: media.path }));
  redis = await startRedis();
  store = await openRedisStore({ url: redis.url, limits: storeLimits });
});

afterAll(async () => {
  for (const { child } of processes) child.kill("SIGKILL");
  await store.close();
  await redis.stop();
  await stopPair();
  media.remove();
});

async function startSidecar(name: string, server: StandIn, more: string[] = []): Promise<Sidecar> {
  const port = await freePort();
  const child = spawn(
    process.execPath,
    [
      launcher,
      "sidecar",
      ...["--name", name, "--jellyfin", server.url, "--redis", redis.url],
      ...["--listen", `127.0.0.1:${port}`, "--log-format", "json", ...more],
    ],
    {
      env: {
        ...process.env,
        JELLYBLOOM_API_KEY: server.apiKey,
        JELLYBLOOM_CLUSTER_KEY: "a cluster key of some length".replaceAll(" ", "-"),
      },
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const sidecar: Sidecar = {
    child,
    port,
    output: () => output,
    async end() {
      if (child.exitCode !== null) return child.exitCode;
      const gone = once(child, "exit");
      child.kill("SIGTERM");
      const [code] = await gone;
      return code as number | null;
    },
  };
  processes.push(sidecar);
  return sidecar;
}

async function ready(sidecar: Sidecar): Promise<{ status: number; reason: string | null }> {
  const reply = await fetch(`http://127.0.0.1:${sidecar.port}/jellybloom/ready`);
  return {
    status: reply.status,
    reason: ((await reply.json()) as { reason: string | null }).reason,
  };
}

test("two sidecars and a Redis carry a login from one server to the other, and end in order", async () => {
  const first = await startSidecar("a", a);
  const second = await startSidecar("b", b);
  for (const sidecar of [first, second]) {
    await eventually(
      async () => (await ready(sidecar).catch(() => undefined))?.status === 200,
      15_000,
    );
  }
  await eventually(async () => (await store.members()).length === 2);

  const recorder = await startCluster({
    servers: { a, b },
    store,
    kept: [],
    clusterKey: "a-cluster-key-of-some-length",
  });
  const login = await logIn(a, "root", "d-process");
  const { key } = await recorder.record(login, "a");
  const token = await recorder.tokenAt(login, "b");
  expect(await statusOf(b, token)).toBe(200);

  const metrics = await fetch(`http://127.0.0.1:${second.port}/metrics`);
  expect(await metrics.text()).toMatch(/jellybloom_mints_total\{result="minted"\} 1/);

  await store.revoke(key, ["a", "b"]);
  await eventually(async () => (await statusOf(b, token)) === 401);
  await eventually(async () => (await statusOf(a, login.token)) === 401);

  await b.kill9();
  await eventually(async () => (await ready(second)).reason?.startsWith("server b is not healthy"));
  await b.restart();
  await eventually(async () => (await ready(second)).status === 200, 15_000);

  await recorder.stop();
  expect(await second.end()).toBe(0);
  expect(await first.end()).toBe(0);
  for (const { output } of [first, second]) {
    for (const secret of [token, login.token, a.apiKey]) expect(output()).not.toContain(secret);
  }
});

test("a server that another Jellybloom keeps is refused with a sentence and exit code 2", async () => {
  const rival = await startCluster({ servers: { a, b } });
  await eventually(async () => (await a.state()).sockets > 0);
  const sidecar = await startSidecar("a", a);
  const [code] = sidecar.child.exitCode === null ? await once(sidecar.child, "exit") : [2];
  expect(code).toBe(2);
  expect(sidecar.output()).toMatch(/already kept by another Jellybloom with another store/);
  await rival.stop();
});

const isOneServer =
  /a and c are one and the same server \(http:\S+\): when it stops, nobody is left/;

/** Its exit code, which is waited for. */
async function exitOf({ child }: Sidecar): Promise<number | null> {
  if (child.exitCode !== null) return child.exitCode;
  const [code] = await once(child, "exit");
  return code as number | null;
}

async function untilReady(sidecar: Sidecar): Promise<void> {
  await eventually(
    async () => (await ready(sidecar).catch(() => undefined))?.status === 200,
    15_000,
  );
}

test("a server that a sidecar of another name keeps is refused, and one that is restarted or renamed is not", async () => {
  const first = await startSidecar("a", a);
  await untilReady(first);
  await eventually(async () => (await a.state()).sockets > 0);
  // The same server by another address, which no look at addresses could tell.
  const url = a.url.replace("127.0.0.1", "localhost");
  expect(url).not.toBe(a.url);
  const twin = await startSidecar("c", { ...a, url, apiKey: a.apiKey } as StandIn);
  expect(await exitOf(twin)).toBe(2);
  expect(twin.output()).toMatch(isOneServer);
  expect((await ready(first)).status).toBe(200);
  // A rolling restart: the next one is there before the first has gone.
  const next = await startSidecar("a", a);
  await untilReady(next);
  first.child.kill("SIGKILL");
  await exitOf(first);
  expect((await ready(next)).status).toBe(200);
  next.child.kill("SIGKILL");
  await exitOf(next);
  const renamed = await startSidecar("c", a);
  await untilReady(renamed);
  expect(await renamed.end()).toBe(0);
});

test("of two sidecars that begin at one server at once, under two names, one is refused, or says it and mints nothing", async () => {
  const both = await Promise.all([startSidecar("a", b), startSidecar("c", b)]);
  const said = async (sidecar: Sidecar): Promise<boolean> => {
    if (sidecar.child.exitCode === 2) return isOneServer.test(sidecar.output());
    const state = await ready(sidecar).catch(() => undefined);
    return isOneServer.test(state?.reason ?? "");
  };
  await eventually(async () => (await Promise.all(both.map(said))).includes(true), 25_000);
  for (const sidecar of both) sidecar.child.kill("SIGKILL");
  await Promise.all(both.map(exitOf));
});

test("two addresses of one server are refused in one process, too", async () => {
  const [port, admin] = [await freePort(), await freePort()];
  const replicas = ["a=127.0.0.1", "c=localhost"].flatMap((place) => [
    "--replica",
    place.replace("=", "=http://") + new URL(a.url).host.replace(/^[^:]*/, ""),
  ]);
  const child = spawn(
    process.execPath,
    [
      ...[launcher, "up", ...replicas, "--api-key", a.apiKey, "--log-format", "json"],
      ...["--listen", `127.0.0.1:${port}`, "--admin", `127.0.0.1:${admin}`],
    ],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const up = { child, port, output: () => output, end: async () => null };
  processes.push(up);
  expect(await exitOf(up)).toBe(2);
  expect(output).toMatch(isOneServer);
});
