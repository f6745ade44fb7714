// What a door is made of: the parts it is handed, and the limits it keeps. Declared apart from the door, so that
// each of its rooms (screen, body, placing, sending, learning, handshakes) names what it needs of them and none
// needs the door itself.

import type { Memory } from "../core/cluster/memory.ts";
import type { JellyfinClient } from "../core/jellyfin/client.ts";
import type { Route } from "../core/jellyfin/routes.ts";
import type { Clock } from "../core/service/clock.ts";
import type { OpenLog } from "../core/service/log.ts";
import type { Metrics } from "../core/service/metrics.ts";
import type { Store } from "../core/store/store.ts";
import type { Attendant } from "./attendant.ts";
import type { TrustedProxies } from "./headers.ts";
import type { Health } from "./health.ts";
import type { Homes } from "./homes.ts";
import type { IdSwaps } from "./id-swaps.ts";
import type { Links } from "./links.ts";
import type { Logins } from "./logins.ts";
import type { SegmentMemory } from "./segments.ts";

export interface DoorLimits {
  readonly apiHoldLimitMs: number;
  readonly mediaHoldLimitMs: number;
  readonly mintWaitLimitMs: number;
  /** How long a leader's lease holds. */
  readonly leaseLimitMs: number;
  readonly connectLimitMs: number;
  readonly bodyBufferLimitBytes: number;
  readonly bodyLimitBytes: number;
  readonly responseBufferLimitBytes: number;
}

/** What the door knows of the caretakers behind it. In another process there are none to call. */
export interface Caretakers {
  /** A request waits for this identity's token at that replica. */
  urgent(replica: string, identityKey: string): void;
  /** That replica refused the token of an identity which the cluster knows. */
  suspect(replica: string, identityKey: string): void;
  /** True when this identity can get no token at that replica until somebody acts. */
  isBarred(replica: string, identityKey: string): boolean;
  /** The cluster's own API key there; it stands in for a client's key that only another replica has. */
  apiKeyOf(replica: string): string | undefined;
}

export interface DoorParts {
  readonly limits: DoorLimits;
  readonly store: Store;
  readonly memory: Memory;
  readonly health: Health;
  readonly links: Links;
  readonly homes: Homes;
  readonly logins: Logins;
  readonly segments: SegmentMemory;
  readonly idSwaps: IdSwaps;
  readonly metrics: Metrics;
  readonly log: OpenLog;
  readonly clock: Clock;
  readonly caretakers: Caretakers;
  /** A client for our own calls to a replica; undefined for one that is not known. */
  readonly clientOf: (replica: string) => JellyfinClient | undefined;
  /** Asked in this order; the first that answers or binds is heard. */
  readonly attendants: readonly Attendant[];
  readonly trusted: TrustedProxies;
  readonly baseSegments: readonly string[];
  readonly basePath: string;
  readonly prefer: string | undefined;
  readonly quickConnect: boolean;
  /** The door's address for clients, with the base path; undefined: the one each client used. */
  readonly publicUrl: string | undefined;
  readonly explainHeader: boolean;
  readonly translateLegacy: boolean;
}

/** Those that have a part in a request though no server refuses it. */
export function attendingAlways(attendants: readonly Attendant[]): readonly Attendant[] {
  const places = Object.keys(placesAlways) as readonly (keyof typeof placesAlways)[];
  return attendants.filter((one) => places.some((place) => one[place] !== undefined));
}

/** Where an attendant is asked about every request of its routes; a place that is added must be named here, or above. */
const placesAlways = {
  before: true,
  again: true,
  bound: true,
  rewrite: true,
  after: true,
  repeats: true,
  ended: true,
} satisfies Record<Exclude<keyof Attendant, "name" | "attends" | "refused" | "rescued">, true>;

/** The attendants of a route, asked for once for each route: the table of routes is fixed. */
export function attendance(
  attendants: readonly Attendant[],
): (route: Route) => readonly Attendant[] {
  const byRoute = new Map<Route, readonly Attendant[]>();
  return (route) => {
    let attending = byRoute.get(route);
    if (attending === undefined) {
      attending = attendants.filter((attendant) => attendant.attends(route));
      byRoute.set(route, attending);
    }
    return attending;
  };
}
