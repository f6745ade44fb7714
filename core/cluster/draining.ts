// Draining, as it is ordered: the routes `/jellybloom/drain`, `/jellybloom/undrain` and
// `/jellybloom/draining`, which doors and sidecars answer alike, because an order is a note in the store and
// every door follows those. What a door does then is proxy/balancer.ts.

import type { Clock } from "../service/clock.ts";
import type { AdminAnswer, GuardedRoute } from "../service/health.ts";
import { type Store, StoreUnavailable } from "../store/store.ts";
import {
  type DrainOrder,
  drainLimitMsMax,
  drainNoteId,
  drainOrderValue,
  drainProgress,
} from "./condition.ts";
import type { Memory } from "./memory.ts";
import { dropNote, putNote } from "./notes.ts";

export interface DrainingParts {
  readonly store: Store;
  readonly memory: Memory;
  readonly clock: Clock;
  /** Replicas that may be named; undefined: any (a sidecar knows only its own). */
  readonly replicas: () => readonly string[];
  /** The replica that is meant when none is named. */
  readonly own: string | undefined;
  /** How long people's plays are left to end by themselves when nothing else is said, in ms. */
  readonly drainLimitMs: number;
}

export const drainPath = "/jellybloom/drain";
export const undrainPath = "/jellybloom/undrain";
export const drainingPath = "/jellybloom/draining";

/** Writes the order. Rejects with StoreUnavailable. */
export async function orderDrain(
  parts: Pick<DrainingParts, "store" | "memory">,
  replica: string,
  order: DrainOrder,
): Promise<void> {
  const note = {
    kind: "replica",
    id: drainNoteId(replica),
    replica,
    value: drainOrderValue(order),
  } as const;
  await putNote(parts, note, 0);
}

/** Takes the order back. Rejects with StoreUnavailable. */
export async function endDrain(
  parts: Pick<DrainingParts, "store" | "memory">,
  replica: string,
): Promise<void> {
  await dropNote(parts, { kind: "replica", id: drainNoteId(replica), replica });
}

/** The drain of one replica as memory knows it. */
export function drainProgressOf(memory: Memory, replica: string, nowMs: number) {
  let homes = 0;
  for (const home of memory.homes.values()) if (home.replica === replica) homes++;
  return drainProgress(memory.notes("replica"), replica, homes, nowMs);
}

/** The three routes. Each body is JSON: `{replica?, limitMs?, untilRestart?}`. */
export function drainingRoutes(parts: DrainingParts): GuardedRoute[] {
  const { memory, clock } = parts;
  const told = (replica: string): AdminAnswer => ({
    status: 200,
    body: { replica, ...drainProgressOf(memory, replica, clock.wallMs()) },
  });
  return [
    {
      method: "POST",
      path: drainPath,
      answer: (body) =>
        withReplica(parts, body, async (replica, fields) => {
          const { limitMs = parts.drainLimitMs, untilRestart = false } = fields;
          if (typeof limitMs !== "number" || !(limitMs >= 0 && limitMs <= drainLimitMsMax)) {
            return badRequest(`limitMs must be a number from 0 to ${drainLimitMsMax}`);
          }
          if (typeof untilRestart !== "boolean")
            return badRequest("untilRestart must be true or false");
          const sinceMs = Math.round(clock.wallMs());
          await orderDrain(parts, replica, { sinceMs, limitMs: Math.round(limitMs), untilRestart });
          return told(replica);
        }),
    },
    {
      method: "POST",
      path: undrainPath,
      answer: (body) =>
        withReplica(parts, body, async (replica) => {
          await endDrain(parts, replica);
          return told(replica);
        }),
    },
    {
      method: "POST",
      path: drainingPath,
      answer: (body) => withReplica(parts, body, async (replica) => told(replica)),
    },
  ];
}

async function withReplica(
  parts: DrainingParts,
  body: string,
  deed: (replica: string, fields: Readonly<Record<string, unknown>>) => Promise<AdminAnswer>,
): Promise<AdminAnswer> {
  let fields: unknown;
  try {
    fields = body === "" ? {} : JSON.parse(body);
  } catch {
    return badRequest("the body is not JSON");
  }
  if (typeof fields !== "object" || fields === null || Array.isArray(fields))
    return badRequest("the body is no object");
  const { replica = parts.own, ...rest } = fields as Record<string, unknown>;
  if (typeof replica !== "string" || replica === "") {
    return badRequest("which replica is meant must be said");
  }
  if (!parts.replicas().includes(replica)) {
    const known = parts.replicas().join(", ") || "none";
    return { status: 404, body: { error: `there is no such replica here; known: ${known}` } };
  }
  try {
    return await deed(replica, rest);
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error;
    return { status: 503, body: { error: "the store cannot be reached: nothing was changed" } };
  }
}

function badRequest(error: string): AdminAnswer {
  return { status: 400, body: { error } };
}
