// Whether somebody may have what they asked for, as this replica's server knows them. Asked before a change is done
// again that no server has agreed to; the rules are in core/cluster/rights.ts.

import type { Intent } from "../../core/cluster/journal.ts";
import { type Caller, isAskedAsCaller, mayChange } from "../../core/cluster/rights.ts";
import { byId, idHere, readUsers } from "./calls.ts";
import type { JournalHands } from "./handler.ts";

/** `again`: this server cannot tell now. */
export async function rightsTo(
  intent: Intent,
  hands: Pick<JournalHands, "memory" | "seal" | "replica" | "client">,
): Promise<"may" | "may not" | "again"> {
  if (isAskedAsCaller(intent.kind)) return "may";
  const caller = await callerOf(intent, hands);
  if (caller === "again") return "again";
  return mayChange(intent, caller) ? "may" : "may not";
}

async function callerOf(
  { identityKey }: Intent,
  hands: Pick<JournalHands, "memory" | "seal" | "replica" | "client">,
): Promise<Caller | undefined | "again"> {
  const identity = hands.memory.identities.get(identityKey);
  // A login that has ended meanwhile may nothing any more.
  if (identity === undefined) return undefined;
  if (identity.kind === "apiKey") return { kind: "apiKey" };
  const read = await readUsers(hands);
  if (read.outcome === "failed") return "again";
  const { userId } = identity;
  const user = byId(read.users, idHere(hands, userId));
  if (user === undefined) return undefined;
  const { policy } = user;
  return {
    kind: "user",
    userId,
    isAdministrator: policy.IsAdministrator === true,
    isDisabled: policy.IsDisabled === true,
    changesOwnSettings: policy.EnableUserPreferenceAccess === true,
    managesCollections: policy.EnableCollectionManagement === true,
  };
}
