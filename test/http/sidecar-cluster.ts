// A small cluster for the sidecar's tests: stand-in servers, a store, one memory, and a sidecar for each
// server, as `jellybloom up` puts them together. Logins are made at a server and recorded as the door would.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hashOf, type Identity, identityKey, sealContext } from "../../core/cluster/identity.ts";
import { Memory } from "../../core/cluster/memory.ts";
import { createJellyfinClient, type JellyfinClient } from "../../core/jellyfin/client.ts";
import { type Clock, systemClock } from "../../core/service/clock.ts";
import { createSeal } from "../../core/service/seal.ts";
import { openEmbeddedStore } from "../../core/store/embedded.ts";
import type { Store } from "../../core/store/store.ts";
import {
  createSidecar,
  type Sidecar,
  type SidecarOptions,
  sidecarOptionsFor,
} from "../../sidecar/sidecar.ts";
import type { StandIn } from "../support/jellyfin/start.ts";

export const defaultSeal = createSeal("a cluster key of some length");
export const storeLimits = { changesKept: 1000, revokedKeepMs: 3_600_000, callLimitMs: 1000 };

export function emptyFolder(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), "jellybloom-sidecar-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

export function clientOf(server: StandIn, callLimitMs = 1500): JellyfinClient {
  const { origin, pathname } = new URL(server.url);
  return createJellyfinClient({
    origin,
    basePath: pathname.replace(/\/$/, ""),
    apiKey: server.apiKey,
    callLimitMs,
    now: systemClock.monotonicMs,
  });
}

export interface Login {
  readonly token: string;
  readonly userId: string;
  readonly deviceId: string;
}

/** Logs in at a server as a client does. */
export async function logIn(server: StandIn, name: string, deviceId: string): Promise<Login> {
  const reply = await fetch(`${server.url}/Users/AuthenticateByName`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      authorization: `MediaBrowser Client="Test", Device="Chair", DeviceId="${deviceId}", Version="1.2"`,
    },
    body: JSON.stringify({ Username: name, Pw: name }),
  });
  const body = (await reply.json()) as { AccessToken: string; User: { Id: string } };
  return { token: body.AccessToken, userId: body.User.Id.replaceAll("-", ""), deviceId };
}

/** The status of GET /Users/Me with a token. */
export async function statusOf(server: StandIn, token: string | undefined): Promise<number> {
  const headers = { authorization: `MediaBrowser Token="${token}"` };
  return (await fetch(`${server.url}/Users/Me`, { headers })).status;
}

/** Changes a user's policy at one server, with its API key. */
export async function changePolicy(
  server: StandIn,
  userId: string,
  change: Record<string, unknown>,
): Promise<void> {
  const headers = {
    authorization: `MediaBrowser Token="${server.apiKey}"`,
    "content-type": "application/json",
  };
  const reply = await fetch(`${server.url}/Users/${userId}`, { headers });
  const { Policy } = (await reply.json()) as { Policy: Record<string, unknown> };
  const body = JSON.stringify({ ...Policy, ...change });
  const changed = await fetch(`${server.url}/Users/${userId}/Policy`, {
    method: "POST",
    headers,
    body,
  });
  if (!changed.ok) throw new Error(`the policy was not changed: ${changed.status}`);
}

export async function eventually<Value>(
  ask: () => Value | undefined | Promise<Value | undefined>,
  limitMs = 8000,
): Promise<Value> {
  const endMs = performance.now() + limitMs;
  for (;;) {
    const value = await ask();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > endMs) throw new Error(`it did not happen within ${limitMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export interface Cluster {
  readonly store: Store;
  readonly memory: Memory;
  readonly sidecars: ReadonlyMap<string, Sidecar>;
  readonly lines: string[];
  /** Records a login as the door does. */
  record(login: Login, origin: string): Promise<Identity>;
  identity(login: Login): Identity | undefined;
  /** Waits for the login's token at a server. */
  tokenAt(login: Login, replica: string, limitMs?: number): Promise<string>;
  stop(): Promise<void>;
}

export interface ClusterOptions {
  readonly servers: Readonly<Record<string, StandIn>>;
  /** Left out: an embedded store in memory, closed at the end. */
  readonly store?: Store;
  /** Which servers have a sidecar here. Left out: all. */
  readonly kept?: readonly string[];
  readonly options?: Partial<SidecarOptions>;
  readonly clusterKey?: string;
  /** Left out: the real one. */
  readonly clock?: Clock;
  readonly onFrozen?: (forMs: number) => void;
}

export async function startCluster({
  servers,
  store: given,
  kept = Object.keys(servers),
  options = {},
  clusterKey,
  clock = systemClock,
  onFrozen,
}: ClusterOptions): Promise<Cluster> {
  const store = given ?? openEmbeddedStore({ limits: storeLimits });
  const seal = clusterKey === undefined ? defaultSeal : createSeal(clusterKey);
  const lines: string[] = [];
  const line = (message: string): void => void lines.push(message);
  const log = { debug: () => undefined, info: line, warn: line, error: line };
  const memory = new Memory({ store, seal, log, tokensRemembered: 100, storeRetryMs: 50 });
  const ending = new AbortController();
  const work: Promise<void>[] = [memory.run(ending.signal)];
  const clients = new Map(
    Object.entries(servers).map(([name, server]) => [name, clientOf(server)]),
  );
  const sidecars = new Map<string, Sidecar>();
  for (const name of kept) {
    const client = clients.get(name);
    if (client === undefined) throw new Error(`there is no server ${name}`);
    const peers = new Map([...clients].filter(([other]) => other !== name));
    const sidecar = createSidecar({
      name,
      client,
      peers: () => peers,
      store,
      seal,
      memory,
      log,
      clock,
      ...(onFrozen !== undefined && { onFrozen }),
      options: {
        ...sidecarOptionsFor({
          version: "0.0.0",
          url: servers[name]?.url ?? "",
          sidecarUrl: "",
          healthIntervalMs: 100,
          mintLimitMs: 4000,
          callLimitMs: 1500,
          storeCallLimitMs: 500,
          leaseLimitMs: 10_000,
          recorderAwayLimitMs: 60_000,
        }),
        retryMinMs: 50,
        retryMaxMs: 400,
        problemRetryMs: 400,
        factsIntervalMs: 200,
        heartbeatIntervalMs: 200,
        rivalIntervalMs: 150,
        ...options,
      },
    });
    sidecars.set(name, sidecar);
    work.push(sidecar.run(ending.signal));
  }
  await memory.loaded;

  const keyOf = ({ userId, deviceId }: Login): string => identityKey(userId, deviceId);
  const cluster: Cluster = {
    store,
    memory,
    sidecars,
    lines,
    async record(login, origin) {
      const key = keyOf(login);
      for (let generation = 1; ; generation++) {
        const recorded = await store.recordLogin({
          key,
          facts: {
            kind: "user",
            userId: login.userId,
            userName: "root",
            deviceId: login.deviceId,
            client: "Test",
            device: "Chair",
            version: "1.2",
          },
          origin,
          hash: hashOf(login.token),
          sealed: seal.seal(login.token, sealContext(key, generation, origin)),
          expectedGeneration: generation,
        });
        if (recorded.outcome === "revoked") throw new Error("this login was logged out before");
        if (recorded.outcome === "stale") {
          generation = recorded.generation;
          continue;
        }
        memory.apply({ type: "identity", identity: recorded.identity });
        return recorded.identity;
      }
    },
    identity: (login) => memory.identities.get(keyOf(login)),
    tokenAt: (login, replica, limitMs) =>
      eventually(() => {
        const identity = cluster.identity(login);
        return identity === undefined ? undefined : memory.openToken(identity, replica);
      }, limitMs),
    async stop() {
      ending.abort();
      await Promise.all(work);
      await Promise.all([...clients.values()].map((client) => client.close()));
      if (given === undefined) await store.close();
    },
  };
  return cluster;
}
