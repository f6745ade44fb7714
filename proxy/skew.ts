// Skew: what differs between the servers and should not for long. Different versions answer differently, and a play
// that moves between different encoders may stutter once; both are meant during an upgrade and at no other time.

import { type Condition, conditionOf, type ReplicaNotes } from "../core/cluster/condition.ts";
import type { Member } from "../core/store/store.ts";

/** How many different ones there are, of those that are known. */
export interface Skew {
  readonly versions: number;
  readonly encoders: number;
}

export function skewOf(
  members: readonly Pick<Member, "replica" | "serverVersion">[],
  notes: ReplicaNotes,
): Skew {
  const conditions = members.map(({ replica }): Condition => conditionOf(notes, replica));
  return {
    versions: kinds(members.map(({ serverVersion }) => serverVersion)),
    encoders: kinds(conditions.map(({ encoder }) => encoder)),
  };
}

function kinds(values: readonly string[]): number {
  return new Set(values.filter((value) => value !== "")).size;
}
