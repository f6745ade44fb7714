// What tests of stores in Redis have in common: one redis-server for a file, somebody who looks into it, and stores
// that are closed after each test.

import { Redis } from "ioredis";
import { afterAll, afterEach, expect } from "vitest";
import { openRedisStore, type RedisStore, type RedisStoreOptions } from "../../core/store/redis.ts";
import { StoreUnavailable } from "../../core/store/store.ts";
import { startRedis } from "../support/redis.ts";
import { defaultLimits, sleep } from "./worlds.ts";

/** How long a call of these stores may take. */
export const callLimitMs = 400;

/** Starts a server for the file that asks; it is ended after the file's last test. */
export async function serverOfFile() {
  const server = await startRedis();
  const admin = new Redis(server.url, { protocol: 2 });
  // The tests kill this server; the administrator's connection comes back by itself.
  admin.on("error", () => undefined);
  const opened: RedisStore[] = [];
  afterEach(async () => {
    for (const store of opened.splice(0)) await store.close();
  });
  afterAll(async () => {
    admin.disconnect();
    await server.stop();
  });

  /** Opens a store, on this server where nothing else is said. */
  async function open(options: Partial<RedisStoreOptions> = {}): Promise<RedisStore> {
    const limits = { ...defaultLimits, callLimitMs };
    const store = await openRedisStore({ url: server.url, limits, ...options });
    opened.push(store);
    return store;
  }

  return { server, admin, open };
}

/** Runs until it succeeds, as a caller in failsafe does; fails when it takes too long. */
export async function untilAvailable<Result>(
  work: () => Promise<Result>,
  limitMs = 5000,
): Promise<Result> {
  const untilMs = Date.now() + limitMs;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      expect(error).toBeInstanceOf(StoreUnavailable);
      if (Date.now() > untilMs) throw error;
      await sleep(20);
    }
  }
}
