// A refresh of an item, on every server. Each server keeps what it knows of an item in a database of its own,
// so a refresh that only one of them did would be seen by half of the viewers, and its progress is told only
// by the server that does it. When one server has taken the order, the others are given it, too, one after
// another, as the caller; one that is not ready is given it when it is.
//
// It promises: no other server is asked before one has said yes, and none of them twice; nothing of the
// caller's credentials goes along but the token the caller has there; what waits is bounded in number and
// time; what could not be done is said once, and never fails the answer that was given. What waits lies in this
// process: a door that ends forgets it, as a server that ends forgets its queue of refreshes.

import { setTimeout as sleep } from "node:timers/promises";
import type { Identity } from "../../core/cluster/identity.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import type { Clock } from "../../core/service/clock.ts";
import type { Log } from "../../core/service/log.ts";
import type { Attendant } from "../attendant.ts";

export interface RefreshParts {
  readonly memory: Pick<Memory, "openToken" | "identities">;
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly log: Pick<Log, "warn">;
  readonly clientOf: (replica: string) => JellyfinClient | undefined;
  /** All replicas, ready or not. */
  readonly names: () => readonly string[];
  readonly isReady: (replica: string) => boolean;
  /** Asks that this identity's token at that replica be made soon. */
  readonly urgent: (replica: string, identityKey: string) => void;
  /** The cluster's own key there, for a caller whose key only one server has. */
  readonly apiKeyOf: (replica: string) => string | undefined;
}

interface Order {
  readonly identity: Identity;
  readonly path: string;
  readonly replica: string;
  readonly untilMs: number;
}

export interface Refresh {
  readonly attendant: Attendant;
  /** Replicas may be ready that were not: what waits for them is done. */
  lookAgain(): void;
}

/** ItemRefreshController.RefreshItem. */
const refreshPattern = "/Items/{itemId}/Refresh";
const refreshParameters: ReadonlySet<string> = new Set([
  "metadatarefreshmode",
  "imagerefreshmode",
  "replaceallmetadata",
  "replaceallimages",
  "regeneratetrickplay",
]);
const waitingLimit = 500;
/** A server that comes back later scans what has changed anyway. */
const orderLimitMs = 6 * 3_600_000;
const tokenWaitLimitMs = 5000;
const tokenLookIntervalMs = 100;

export function createRefresh(parts: RefreshParts): Refresh {
  const { memory, clock, log } = parts;
  let waiting: Order[] = [];
  let isBusy = false;

  async function tokenAt(replica: string, { identity }: Order): Promise<string | undefined> {
    const untilMs = clock.monotonicMs() + tokenWaitLimitMs;
    for (;;) {
      // It may have been given its token there since the order came, or have been logged out.
      const current = memory.identities.get(identity.key);
      if (current === undefined) return undefined;
      const token = memory.openToken(current, replica);
      if (token !== undefined) return token;
      if (identity.kind !== "user") return parts.apiKeyOf(replica);
      if (clock.monotonicMs() >= untilMs) return undefined;
      parts.urgent(replica, identity.key);
      await sleep(tokenLookIntervalMs);
    }
  }

  /** Why it was not done; undefined: it was. */
  async function pass(order: Order): Promise<string | undefined> {
    const { replica } = order;
    if (clock.monotonicMs() >= order.untilMs) return "it was away for too long";
    const client = parts.clientOf(replica);
    const token = client === undefined ? undefined : await tokenAt(replica, order);
    if (client === undefined || token === undefined) return "the caller has no token there";
    const { client: app, device, deviceId, version } = order.identity;
    const fields = { client: app, device, deviceId, version };
    const answer = await client.callAs(token, fields, "POST", order.path);
    if (answer.outcome === "failed") return answer.message;
    return answer.status < 300 ? undefined : `it answered ${answer.status}`;
  }

  /** The oldest that can be done now, or is to be given up. */
  function next(): Order | undefined {
    const order = waiting.find(
      ({ replica, untilMs }) => parts.isReady(replica) || clock.monotonicMs() >= untilMs,
    );
    waiting = waiting.filter((one) => one !== order);
    return order;
  }

  async function work(): Promise<void> {
    for (let order = next(); order !== undefined; order = next()) {
      const why = await pass(order);
      if (why !== undefined) log.warn(`an item was not refreshed at ${order.replica}: ${why}`);
    }
    isBusy = false;
  }

  function lookAgain(): void {
    if (isBusy || waiting.length === 0) return;
    isBusy = true;
    void work();
  }

  const attendant: Attendant = {
    name: "refresh everywhere",
    attends: ({ pattern }) => pattern === refreshPattern,
    ended({ identity, facts }, status, replica) {
      if (status === undefined || status < 200 || status >= 300) return;
      if (identity === undefined || facts.itemId === undefined) return;
      const others = parts.names().filter((name) => name !== replica);
      const path = `/Items/${facts.itemId}/Refresh${keptQuery(facts.rawQuery)}`;
      const untilMs = clock.monotonicMs() + orderLimitMs;
      const orders = others.map((other) => ({ identity, path, replica: other, untilMs }));
      // Asked again while it still waits there, it is done once.
      const fresh = orders.filter(
        (order) => !waiting.some((one) => one.path === path && one.replica === order.replica),
      );
      if (waiting.length + fresh.length > waitingLimit) {
        log.warn(`an item was refreshed at ${replica} only: too many refreshes wait`);
        return;
      }
      waiting.push(...fresh);
      lookAgain();
    },
  };
  return { attendant, lookAgain };
}

/** What a refresh is asked to do, and nothing else the query may hold: a token could be in it. */
function keptQuery(rawQuery: string): string {
  const kept = [...new URLSearchParams(rawQuery)].filter(([name]) =>
    refreshParameters.has(name.toLowerCase()),
  );
  return kept.length === 0 ? "" : `?${new URLSearchParams(kept)}`;
}
