// The journal beside a server whose data are looked at first: nothing of it is done at a server that was put back to
// an older state, and when that is decided it is begun anew from where its owner said.

import type { HealthAnswer } from "../core/jellyfin/client.ts";
import type { SidecarJournal } from "./journal/journal.ts";
import type { TruthKeeper } from "./truth.ts";

export function trustedJournal(truth: TruthKeeper, create: () => SidecarJournal): SidecarJournal {
  let journal: SidecarJournal | undefined;
  let health: HealthAnswer["state"] | undefined;

  async function follow(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const distrusted = await truth.untilTrusted(signal);
      if (signal.aborted) return;
      journal = create();
      if (health !== undefined) journal.noteHealth(health);
      await journal.run(AbortSignal.any([signal, distrusted]));
    }
  }

  return {
    async run(signal) {
      await Promise.all([truth.run(signal), follow(signal)]);
    },
    noteHealth(state) {
      health = state;
      truth.noteHealth(state === "healthy");
      journal?.noteHealth(state);
    },
    noteStarted() {
      truth.noteStarted();
      journal?.noteStarted();
    },
    sentence: () => truth.sentence() ?? journal?.sentence(),
  };
}
