// A Redis with a copy and Sentinels that watch it, all real: when the master dies, they agree on it and make
// the copy the master. What the copy had not received by then is lost, as it is in a house.

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { freePort, type RedisServer, startRedis } from "./redis.ts";

export interface Sentinels {
  /** `redis+sentinel://…/main` */
  readonly url: string;
  /** Addresses of the master as the Sentinels name it now: the port. */
  masterPort(): Promise<number>;
  readonly servers: readonly [RedisServer, RedisServer];
  stop(): Promise<void>;
}

const meetLimitMs = 20_000;
const sentinelsCount = 3;

/** `downAfterMs`: silence after which a master counts as dead. */
export async function startSentinels(downAfterMs = 500): Promise<Sentinels> {
  const master = await startRedis();
  const copy = await startRedis({ args: ["--replicaof", "127.0.0.1", String(master.port)] });
  const folder = await mkdtemp(join(tmpdir(), "jellybloom-sentinels-"));
  const children: ChildProcess[] = [];
  const ports: number[] = [];
  for (let number = 0; number < sentinelsCount; number += 1) {
    const port = await freePort();
    const settings = join(folder, `sentinel-${number}.conf`);
    await writeFile(
      settings,
      [
        `port ${port}`,
        "bind 127.0.0.1",
        `dir ${folder}`,
        `sentinel monitor main 127.0.0.1 ${master.port} 2`,
        `sentinel down-after-milliseconds main ${downAfterMs}`,
        "sentinel failover-timeout main 3000",
      ].join("\n"),
    );
    children.push(spawn("redis-server", [settings, "--sentinel"], { stdio: "ignore" }));
    ports.push(port);
  }
  const watchers = ports.map((port) => new Redis(port, "127.0.0.1", { protocol: 2 }));
  for (const watcher of watchers) watcher.on("error", () => undefined);

  async function stop(): Promise<void> {
    for (const watcher of watchers) watcher.disconnect();
    for (const child of children) child.kill("SIGKILL");
    await copy.stop();
    await master.stop();
    await rm(folder, { recursive: true, force: true });
  }

  /** Each Sentinel has met the copy, which it could not promote otherwise, and the other Sentinels. */
  async function haveMet(): Promise<boolean> {
    const views = await Promise.all(
      watchers.map(async (watcher) => {
        const copies = await watcher.call("SENTINEL", "replicas", "main").catch(() => []);
        const others = await watcher.call("SENTINEL", "sentinels", "main").catch(() => []);
        const isLinked = JSON.stringify(copies).includes('"master-link-status","ok"');
        return isLinked && Array.isArray(others) && others.length === sentinelsCount - 1;
      }),
    );
    return views.every(Boolean);
  }

  const untilMs = Date.now() + meetLimitMs;
  while (!(await haveMet())) {
    if (Date.now() > untilMs) {
      await stop();
      throw new Error("the Sentinels did not meet");
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return {
    url: `redis+sentinel://${ports.map((port) => `127.0.0.1:${port}`).join(",")}/main`,
    async masterPort() {
      const [watcher] = watchers;
      const answer = await watcher?.call("SENTINEL", "get-master-addr-by-name", "main");
      return Array.isArray(answer) ? Number(answer[1]) : 0;
    },
    servers: [master, copy],
    stop,
  };
}
