// The stores that the contract is tried on. A world is one fresh store's data; it can be opened again, as
// after a restart of the process, and by a second process where the store allows one.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll } from "vitest";
import type { IdentityFacts } from "../../core/cluster/identity.ts";
import { openEmbeddedStore } from "../../core/store/embedded.ts";
import { openRedisStore } from "../../core/store/redis.ts";
import type { Change, Snapshot, Store, StoreLimits } from "../../core/store/store.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";

export interface World {
  readonly store: Store;
  /** The same data as another process sees them; the same store where only one process may. */
  readonly other: Store;
  /** Closes the store and opens it again; the same store where nothing outlives it. */
  reopen(): Promise<Store>;
  end(): Promise<void>;
}

export interface Backend {
  readonly name: "embedded in memory" | "embedded in a file" | "redis";
  start(): Promise<void>;
  world(limits?: Partial<StoreLimits>): Promise<World>;
  stop(): Promise<void>;
}

export const defaultLimits: StoreLimits = {
  changesKept: 10_000,
  revokedKeepMs: 60_000,
  callLimitMs: 2000,
};

export function backends(): Backend[] {
  return [inMemory(), inFile(), inRedis()];
}

function inMemory(): Backend {
  return {
    name: "embedded in memory",
    async start() {},
    async stop() {},
    async world(limits = {}) {
      const store = openEmbeddedStore({ limits: { ...defaultLimits, ...limits } });
      return { store, other: store, reopen: async () => store, end: () => store.close() };
    },
  };
}

function inFile(): Backend {
  return {
    name: "embedded in a file",
    async start() {},
    async stop() {},
    async world(limits = {}) {
      const directory = await mkdtemp(join(tmpdir(), "jellybloom-store-"));
      const options = { directory, limits: { ...defaultLimits, ...limits } };
      let store = openEmbeddedStore(options);
      return {
        store,
        other: store,
        async reopen() {
          await store.close();
          store = openEmbeddedStore(options);
          return store;
        },
        async end() {
          await store.close();
          await rm(directory, { recursive: true, force: true });
        },
      };
    },
  };
}

function inRedis(): Backend {
  let server: RedisServer | undefined;
  let worlds = 0;
  return {
    name: "redis",
    async start() {
      server = await startRedis();
    },
    async stop() {
      await server?.stop();
    },
    async world(limits = {}) {
      worlds += 1;
      const options = {
        url: server?.url ?? "",
        prefix: `world-${worlds}`,
        limits: { ...defaultLimits, ...limits },
      };
      const opened = [await openRedisStore(options), await openRedisStore(options)] as const;
      let store: Store = opened[0];
      return {
        store,
        other: opened[1],
        async reopen() {
          await store.close();
          store = await openRedisStore(options);
          return store;
        },
        async end() {
          await store.close();
          await opened[1].close();
        },
      };
    },
  };
}

/** Opens the world of each test of a suite, and ends it after the test. To be called where the suite is described. */
export function worldsOf(backend: Backend): (limits?: Partial<StoreLimits>) => Promise<World> {
  let world: World | undefined;
  beforeAll(() => backend.start());
  afterAll(() => backend.stop());
  afterEach(async () => {
    await world?.end();
    world = undefined;
  });
  return async (limits) => {
    world = await backend.world(limits);
    return world;
  };
}

export const someFacts: IdentityFacts = {
  kind: "user",
  userId: "0123456789abcdef0123456789abcdef",
  userName: "ada",
  deviceId: "device-1",
  client: "Jellyfin Web",
  device: "Firefox",
  version: "10.11.0",
};

/** A login of `key` on replica a with the given token hash. */
export function login(key: string, hash: string, expectedGeneration: number) {
  const sealed = `sealed-${hash}`;
  return { key, facts: someFacts, origin: "a", hash, sealed, expectedGeneration };
}

/** A token for `key` on a replica. */
export function token(key: string, replica: string, hash: string, generation: number) {
  return { key, facts: someFacts, generation, replica, hash, sealed: `sealed-${hash}` };
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits until something is so; fails, with what there was instead, when that takes too long. */
export async function until(
  isSo: () => boolean,
  limitMs = 5000,
  instead = (): string => "it did not come to pass",
): Promise<void> {
  const untilMs = Date.now() + limitMs;
  while (!isSo()) {
    if (Date.now() > untilMs) throw new Error(instead());
    await sleep(5);
  }
}

/** Follows in the background and keeps what came. */
export function follower(store: Store, position: string) {
  const controller = new AbortController();
  const changes: Change[] = [];
  const batches: (readonly Change[])[] = [];
  let reached = position;
  const result = store.follow(
    position,
    (batch, next) => {
      changes.push(...batch);
      if (batch.length > 0) batches.push(batch);
      reached = next;
    },
    controller.signal,
  );
  // A test that does not look at the result still must not fail for it.
  result.catch(() => undefined);
  return {
    changes,
    batches,
    result,
    get position() {
      return reached;
    },
    /** Waits until so many changes came. */
    until(count: number, limitMs?: number): Promise<void> {
      const came = (): string => `${changes.length} of ${count} changes came`;
      return until(() => changes.length >= count, limitMs, came);
    },
    stop(): Promise<"aborted" | "lost"> {
      controller.abort();
      return result;
    },
  };
}

/** A snapshot in an order of its own, so that two can be compared. */
export function sorted(snapshot: Snapshot): Omit<Snapshot, "position"> {
  const by =
    <Kind>(name: (value: Kind) => string) =>
    (left: Kind, right: Kind) =>
      name(left) < name(right) ? -1 : 1;
  return {
    identities: [...snapshot.identities].sort(by((identity) => identity.key)),
    revokedHashes: [...snapshot.revokedHashes].sort(),
    revocations: [...snapshot.revocations].sort(by((revocation) => revocation.id)),
    homes: [...snapshot.homes].sort(by((home) => home.userId)),
    pins: [...snapshot.pins].sort(by((pin) => `${pin.kind} ${pin.id}`)),
    notes: [...snapshot.notes].sort(by((note) => `${note.kind} ${note.id}`)),
    lease: snapshot.lease,
  };
}

/** What a follower knows that began with a snapshot: the changes applied to it, later ones winning. */
export function applied(
  snapshot: Snapshot,
  changes: readonly Change[],
): Omit<Snapshot, "position"> {
  const identities = new Map(snapshot.identities.map((identity) => [identity.key, identity]));
  const hashes = new Set(snapshot.revokedHashes);
  const revocations = new Map(
    snapshot.revocations.map((revocation) => [revocation.id, revocation]),
  );
  const homes = new Map(snapshot.homes.map((home) => [home.userId, home]));
  const pins = new Map(snapshot.pins.map((pin) => [`${pin.kind} ${pin.id}`, pin]));
  const notes = new Map(snapshot.notes.map((note) => [`${note.kind} ${note.id}`, note]));
  let lease = snapshot.lease;
  for (const change of changes) {
    if (change.type === "identity") identities.set(change.identity.key, change.identity);
    if (change.type === "revoked") for (const hash of change.hashes) hashes.add(hash);
    if (change.type === "revocation") {
      const { id, pending } = change.revocation;
      if (pending.length === 0) revocations.delete(id);
      else revocations.set(id, change.revocation);
    }
    if (change.type === "home") homes.set(change.home.userId, change.home);
    if (change.type === "pin") {
      const name = `${change.pin.kind} ${change.pin.id}`;
      if (change.pin.expiresAtMs === 0) pins.delete(name);
      else pins.set(name, change.pin);
    }
    if (change.type === "note") {
      const name = `${change.note.kind} ${change.note.id}`;
      if (change.note.value === "") notes.delete(name);
      else notes.set(name, change.note);
    }
    if (change.type === "lease") lease = change.lease;
  }
  return sorted({
    identities: [...identities.values()],
    revokedHashes: [...hashes],
    revocations: [...revocations.values()],
    homes: [...homes.values()],
    pins: [...pins.values()],
    notes: [...notes.values()],
    lease,
    position: "",
  });
}
