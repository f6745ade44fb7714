// What the attendants share that send a request to whoever leads: who that is, whether its server knows the caller's
// login by now, and the wait for the next thing to change.

import type { Identity } from "../../core/cluster/identity.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import type { Lease } from "../../core/store/store.ts";
import type { Attended } from "../attendant.ts";

/** The lease of whoever leads; undefined while nobody does. */
export function leaderOf({ lease }: Pick<Memory, "lease">): Lease | undefined {
  return lease === undefined || lease.replica === "" ? undefined : lease;
}

/** The identity as it is by now: its token at the leader may have come meanwhile. */
export function identityNow(
  memory: Pick<Memory, "identities">,
  { identity }: Attended,
): Identity | undefined {
  if (identity === undefined) return undefined;
  const now = memory.identities.get(identity.key);
  return now?.generation === identity.generation ? now : identity;
}

/** Whether a user's login has no token at that replica. */
export function lacksToken(identity: Identity | undefined, replica: string): boolean {
  return identity?.kind === "user" && identity.tokens[replica] === undefined;
}

/** Resolves at the next call of the listener, or after `limitMs`. */
export function nextCall(
  subscribe: (listener: () => void) => () => void,
  limitMs: number,
): Promise<void> {
  return new Promise((resolve) => {
    const finish = (): void => {
      clearTimeout(timer);
      stop();
      resolve();
    };
    const timer = setTimeout(finish, limitMs);
    const stop = subscribe(finish);
  });
}
