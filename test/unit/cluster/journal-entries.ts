// Entries of the journal as doors and sidecars write them, for tests of what carries them.

import type { Effect, Intent, Outcome } from "../../../core/cluster/journal.ts";
import type {
  UserDataCause,
  UserDataField,
  UserDataValues,
} from "../../../core/cluster/user-data.ts";

const someUserId = "0123456789abcdef0123456789abcdef";
const someItemId = "fedcba9876543210fedcba9876543210";

export function intentOf(
  id: string,
  options: {
    readonly cause?: UserDataCause;
    readonly fields?: readonly UserDataField[];
    readonly userId?: string;
    readonly itemId?: string;
  } = {},
): Intent {
  const { cause = "played", fields = ["position"], userId = someUserId } = options;
  return {
    type: "intent",
    id,
    kind: "userData",
    identityKey: "key",
    userId,
    itemId: options.itemId ?? someItemId,
    request: {
      method: "POST",
      path: "/Sessions/Playing/Progress",
      query: "",
      contentType: "",
      body: "",
    },
    facts: { fields, values: {}, cause },
  };
}

export function outcomeOf(id: string, of: string, status: number): Outcome {
  return { type: "outcome", id, of, replica: "a", status };
}

export function effectOf(id: string, values: Partial<UserDataValues>, replica = "a"): Effect {
  return {
    type: "effect",
    id,
    of: "",
    ofNumber: 0,
    kind: "userData",
    replica,
    userId: someUserId,
    itemId: someItemId,
    payload: { cause: "seen", values },
  };
}
