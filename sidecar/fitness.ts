// Whether a replica's sidecar may lead: a pure decision, asked before each claim and renewal of the lease. A leader
// works through its own server, so that one which is sick, not set up, somebody else's or about to go should leave the
// lease to another.

import type { ServerSight } from "./observe.ts";

export interface FitnessFacts {
  /** The replica, for the sentence. */
  readonly name: string;
  readonly sight: Pick<ServerSight, "health" | "rival" | "startupWizardCompleted">;
  /** It leads, and its server has not been silent for longer than a busy one may be (decision 011). */
  readonly mayStay: boolean;
  readonly isDraining: boolean;
}

/** Why another sidecar should lead, or undefined when this one may. */
export function unfitToLead({
  name,
  sight,
  mayStay,
  isDraining,
}: FitnessFacts): string | undefined {
  const { health, rival, startupWizardCompleted } = sight;
  if (health !== "healthy" && !mayStay) return `server ${name} is not healthy`;
  if (startupWizardCompleted === undefined) return `server ${name} was not seen yet`;
  if (!startupWizardCompleted) return `server ${name} is not set up yet`;
  if (rival !== undefined) return rival;
  return isDraining ? `replica ${name} drains` : undefined;
}
