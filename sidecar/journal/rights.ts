// Whether somebody may have what they asked for, as this replica's server knows them. Asked before a change is done
// again that no server has agreed to; the rules are in core/cluster/rights.ts.

import { userOfKey } from "../../core/cluster/identity.ts";
import type { Intent } from "../../core/cluster/journal.ts";
import { type Caller, isAskedAsCaller, mayChange } from "../../core/cluster/rights.ts";
import { byId, idHere, readUsers } from "./calls.ts";
import type { JournalHands } from "./handler.ts";

type RightsHands = Pick<JournalHands, "memory" | "seal" | "replica" | "client">;

/** `again`: this server cannot tell now. */
export async function rightsTo(
  intent: Intent,
  hands: RightsHands,
): Promise<"may" | "may not" | "again"> {
  if (isAskedAsCaller(intent.kind)) return "may";
  const caller = await callerOf(intent, hands);
  if (caller === "again") return "again";
  return mayChange(intent, caller) ? "may" : "may not";
}

/**
 * Of a change that a server has agreed to: whether its caller may change that person at all. Nobody needs to ask for
 * what is their own, an API key's, or nobody's; for another's state one must be an administrator (RequestHelpers.GetUserId and
 * AssertCanUpdateUser). The server has looked at this, too: so a request that it read in another way than the door changes
 * nobody else.
 */
export async function rightsOver(
  { identityKey, userId }: Pick<Intent, "identityKey" | "userId">,
  hands: RightsHands,
): Promise<"may" | "may not" | "again"> {
  const callerId = userOfKey(identityKey);
  if (userId === "" || callerId === undefined) return "may";
  if (idHere(hands, callerId) === idHere(hands, userId)) return "may";
  const read = await readUsers(hands);
  if (read.outcome === "failed") return "again";
  const caller = byId(read.users, idHere(hands, callerId));
  return caller?.policy.IsAdministrator === true ? "may" : "may not";
}

async function callerOf(
  { identityKey }: Intent,
  hands: RightsHands,
): Promise<Caller | undefined | "again"> {
  const identity = hands.memory.identities.get(identityKey);
  // A login that has ended meanwhile may nothing any more.
  if (identity === undefined || Object.keys(identity.tokens).length === 0) return undefined;
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
    isRestricted: policy.EnableRemoteAccess === false || !isEmptyList(policy.AccessSchedules),
    changesOwnSettings: policy.EnableUserPreferenceAccess === true,
    managesCollections: policy.EnableCollectionManagement === true,
  };
}

function isEmptyList(value: unknown): boolean {
  return !Array.isArray(value) || value.length === 0;
}
