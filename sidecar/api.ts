// The sidecar's API: what doors, other sidecars and the command line ask of it, on its own port. Every route
// that changes or reveals anything is guarded: it does nothing without a proof of the cluster key, made for
// this very call and used once.

import { drainOrderOf } from "../core/cluster/condition.ts";
import { type DrainingParts, drainingRoutes, endDrain } from "../core/cluster/draining.ts";
import type { Memory } from "../core/cluster/memory.ts";
import {
  epochSeenPath,
  restartPath,
  suspectPath,
  urgentPath,
} from "../core/cluster/sidecar-client.ts";
import type { TaskDesk } from "../core/cluster/tasks.ts";
import type { JellyfinClient } from "../core/jellyfin/client.ts";
import type { Clock } from "../core/service/clock.ts";
import type { AdminAnswer, GuardedRoute, Mount } from "../core/service/health.ts";
import { objectOf, parsedObject } from "../core/service/json.ts";
import type { ProofVerifier } from "../core/service/seal.ts";
import { type Epoch, type Store, StoreUnavailable } from "../core/store/store.ts";
import { createGate } from "./gate.ts";
import type { LeaseKeeper } from "./lease.ts";
import { Restarter, type RestartState, ServerRestarts } from "./restart.ts";

export interface OfficeParts {
  readonly replica: string;
  readonly client: JellyfinClient;
  readonly store: Store;
  readonly memory: Memory;
  readonly clock: Clock;
  readonly sidecar: {
    urgent(identityKey: string): void;
    suspect(identityKey: string): void;
    readonly lease: LeaseKeeper;
  };
  /** The verifier of the port on which this is served. */
  readonly verifier: ProofVerifier;
  /** Who answers about the cluster's tasks; undefined: the server itself. */
  readonly desk: () => TaskDesk | undefined;
  /** All replicas that there are, this one included. */
  readonly replicas: () => readonly string[];
  /** Asks another replica's sidecar to restart its server for this order; undefined: no answer. */
  readonly restartElsewhere: (replica: string, order: number) => Promise<RestartState | undefined>;
  readonly log: { info(message: string): void; warn(message: string): void };
}

/** Everything that a sidecar answers to others: its guarded routes and its gate. */
export interface Office {
  readonly routes: readonly GuardedRoute[];
  readonly gate: Mount;
  /** Begins or asks about the restart of this replica's server. */
  restart(order: number): RestartState;
  /** Works until `signal` aborts: a restart of all that is under way is gone on with while this one leads. */
  run(signal: AbortSignal): Promise<void>;
}

/** Bodies of administration: a plugin's configuration is the largest. */
const gateBodyLimitBytes = 8 * 1024 * 1024;
const gateAnswerLimitMs = 10 * 60_000;
const drainLimitMs = 10_000;

export function createOffice(parts: OfficeParts): Office {
  const { replica, client, store, memory, clock, sidecar, verifier, desk, log } = parts;
  const startedAtMs = clock.wallMs();
  const ending = new AbortController();
  const server = new ServerRestarts(client, clock, ending.signal);
  const restart = (order: number): RestartState => server.restart(order);
  const restarter = new Restarter({
    replica,
    store,
    memory,
    clock,
    mayAct: () => sidecar.lease.mayAct() !== undefined,
    replicas: parts.replicas,
    restartServer: async (name, order) =>
      name === replica ? restart(order) : await parts.restartElsewhere(name, order),
    log,
  });
  return {
    restart,
    routes: sidecarRoutes({
      replica,
      urgent: (key) => sidecar.urgent(key),
      suspect: (key) => sidecar.suspect(key),
      epochSeen: () => sidecar.lease.highestSeen,
      restart,
      draining: { store, memory, clock, drainLimitMs },
    }),
    gate: createGate({
      replica,
      origin: client.origin,
      basePath: client.basePath,
      verifier,
      lease: sidecar.lease,
      desk,
      restartAll: () => restarter.begin(),
      log,
      bodyLimitBytes: gateBodyLimitBytes,
      answerLimitMs: gateAnswerLimitMs,
    }),
    async run(signal) {
      signal.addEventListener("abort", () => ending.abort(), { once: true });
      void endDrainOfLastLife({ store, memory, replica, startedAtMs, log });
      await restarter.run(signal);
    },
  };
}

export interface SidecarApi {
  /** This sidecar's replica. */
  readonly replica: string;
  readonly urgent: (identityKey: string) => void;
  readonly suspect: (identityKey: string) => void;
  /** The highest epoch of the lease that was seen here. */
  readonly epochSeen: () => Epoch | undefined;
  readonly restart: (order: number) => RestartState;
  readonly draining: Omit<DrainingParts, "own" | "replicas">;
}

const identityKeyLengthMax = 512;

/** The guarded routes of one sidecar. */
export function sidecarRoutes(api: SidecarApi): GuardedRoute[] {
  const hint = (path: string, take: (identityKey: string) => void): GuardedRoute => ({
    method: "POST",
    path,
    answer(body) {
      const identity = parsedObject(body)?.identity;
      if (typeof identity !== "string" || identity.length > identityKeyLengthMax) {
        return badRequest("an identity is needed");
      }
      take(identity);
      return { status: 200, body: {} };
    },
  });
  return [
    hint(urgentPath, api.urgent),
    hint(suspectPath, api.suspect),
    {
      method: "POST",
      path: epochSeenPath,
      answer: () => ({ status: 200, body: api.epochSeen() ?? {} }),
    },
    {
      method: "POST",
      path: restartPath,
      answer(body) {
        const order = parsedObject(body)?.order;
        if (typeof order !== "number" || !Number.isSafeInteger(order) || order <= 0) {
          return badRequest("an order's number is needed");
        }
        return { status: 200, body: { state: api.restart(order) } };
      },
    },
    ...drainingRoutes({ ...api.draining, own: api.replica, replicas: () => [api.replica] }),
  ];
}

/** The state of a restart from an answer; undefined when it is none. */
export function readRestartState(body: unknown): RestartState | undefined {
  const state = objectOf(body)?.state;
  return state === "restarting" || state === "done" || state === "failed" ? state : undefined;
}

/**
 * A drain that was ordered until the sidecar starts again ends here: whatever stopped server and sidecar has
 * started them. Never rejects; when the store is away the order stands, and its owner can end it.
 */
async function endDrainOfLastLife(
  parts: Pick<DrainingParts, "store" | "memory"> & {
    readonly replica: string;
    readonly startedAtMs: number;
    readonly log: { info(message: string): void; warn(message: string): void };
  },
): Promise<void> {
  const { replica, memory, startedAtMs, log } = parts;
  await memory.loaded;
  const order = drainOrderOf(memory.notes("replica"), replica);
  // One that came after this start is of this life: a server that is stopped again at once.
  if (order?.untilRestart !== true || order.sinceMs > startedAtMs) return;
  try {
    await endDrain(parts, replica);
    log.info(`replica ${replica} was drained to be stopped, and is back: people may come again`);
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error;
    log.warn(`replica ${replica} goes on draining: the store cannot be reached`);
  }
}

function badRequest(error: string): AdminAnswer {
  return { status: 400, body: { error } };
}
