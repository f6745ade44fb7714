// A replica is one Jellyfin server. As configured (where it is) and as observed (how it is) are two
// types, because the first is a person's word and the second is ours and may be wrong.

import type { BehindCause } from "./journal-cursor.ts";

/** A replica as a person or a registry named it. */
export interface ReplicaConfig {
  /** Short and unique in the cluster: letters, digits, `-` and `_`, at most 63. */
  readonly name: string;
  /** `http:` or `https:` origin without a trailing slash, such as `http://10.0.0.5:8096`. */
  readonly origin: string;
  /** Jellyfin's BaseUrl: empty, or a path with a leading and no trailing slash, such as `/jellyfin`. */
  readonly basePath: string;
}

/**
 * How a replica looks from one process.
 *
 * - `unknown`  nothing has been heard yet
 * - `ready`    `/health` says `Healthy` and the startup wizard is complete
 * - `starting` it answers, but not `Healthy` (a starting server says 200 `Degraded` or 503)
 * - `unfit`    healthy, but its startup wizard was never completed
 * - `frozen`   it accepts connections and probes get no answer
 * - `dead`     connections are refused, reset or cannot be made
 */
export type ReplicaState = "unknown" | "ready" | "starting" | "unfit" | "frozen" | "dead";

/** How often a server that is not ready is looked at, by doors and its sidecar, in ms: somebody may be waiting for it. */
export const awayLookIntervalMs = 250;

/** A replica as one process sees it now. Immutable: a change of state makes a new value. */
export interface ReplicaObserved {
  readonly config: ReplicaConfig;
  readonly state: ReplicaState;
  /** One sentence for the log and for `explain`, without secrets. */
  readonly reason: string;
  /** When this state began, in ms of the observer's monotonic clock. */
  readonly sinceMs: number;
  /** It is about to be stopped: nobody new is placed there (core/cluster/condition.ts). */
  readonly isDraining?: boolean;
  /** Its encoder fails or is slower than real time: nobody new is placed there who may play. */
  readonly refusesPlays?: boolean;
  /** A fingerprint of its encoder (core/cluster/encoder.ts); empty or absent while it is not known. */
  readonly encoder?: string;
  /** It, or its sidecar, was away and has not been told yet what happened meanwhile (journal-cursor.ts). */
  readonly behind?: BehindCause | undefined;
}

/** True when nothing sent to the replica now would arrive or be answered. */
export function isGone(state: ReplicaState): boolean {
  return state === "dead" || state === "frozen";
}
