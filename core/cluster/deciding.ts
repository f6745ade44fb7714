// What the owner decides about a replica whose data were put back to an older state: the route
// `/jellybloom/decide`, which doors and sidecars answer alike, because a decision is a note in the store that the
// replica's own sidecar obeys.

import { randomUUID } from "node:crypto";
import type { AdminAnswer, GuardedRoute } from "../service/health.ts";
import { parsedObject } from "../service/json.ts";
import type { Seal } from "../service/seal.ts";
import { type Store, StoreUnavailable } from "../store/store.ts";
import type { Memory } from "./memory.ts";
import { putNote } from "./notes.ts";
import { provenValue } from "./proven.ts";
import { decisionNoteId, quarantineOf } from "./truth.ts";

export interface DecidingParts {
  readonly store: Store;
  readonly memory: Memory;
  readonly seal: Seal;
  /** Replicas that may be named. */
  readonly replicas: () => readonly string[];
}

export const decidePath = "/jellybloom/decide";

/** `POST /jellybloom/decide`; the body is JSON: `{replica, decision: "truth" | "catchUp"}`. */
export function decidingRoute(parts: DecidingParts): GuardedRoute {
  return {
    method: "POST",
    path: decidePath,
    async answer(body) {
      const { replica, decision } = parsedObject(body) ?? {};
      if (decision !== "truth" && decision !== "catchUp") {
        return refusal(400, "a decision is truth or catchUp");
      }
      if (typeof replica !== "string" || !parts.replicas().includes(replica)) {
        const known = parts.replicas().join(", ") || "none";
        return refusal(404, `there is no such replica here; known: ${known}`);
      }
      const quarantine = quarantineOf(parts.memory.notes("replica"), replica);
      if (decision === "catchUp" && quarantine === undefined) {
        return refusal(409, `${replica} is not in quarantine: there is nothing to decide`);
      }
      if (decision === "catchUp" && quarantine?.truth !== undefined && quarantine.truth !== "") {
        return refusal(
          409,
          `${replica} cannot catch up with ${quarantine.truth}, whose older state is right: seed it from there`,
        );
      }
      return await order(parts, replica, decision);
    },
  };
}

async function order(
  { store, memory, seal }: DecidingParts,
  replica: string,
  decision: "truth" | "catchUp",
): Promise<AdminAnswer> {
  const place = { kind: "replica", id: decisionNoteId(replica) } as const;
  const text = JSON.stringify({ decision, order: randomUUID() });
  const note = { ...place, replica, value: provenValue(seal, place, text) };
  try {
    await putNote({ store, memory }, note, 0);
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error;
    return refusal(503, "the store cannot be reached: nothing was changed");
  }
  return { status: 200, body: { replica, decision } };
}

function refusal(status: number, error: string): AdminAnswer {
  return { status, body: { error } };
}
