// Looks at this server's API keys when there may be something to do: at the start, when the server is back, when
// another replica has a key that has no part here, and now and then, for keys that were made in the server's own page.
// With them it looks at the ids of users: a server that was seeded anew has others than before.

import { repeat, sleep } from "../../core/service/loop.ts";
import { type KeyHands, lookAtKeys } from "./api-keys.ts";
import { tidyAliases } from "./users.ts";

export interface KeyKeeperParts {
  readonly hands: KeyHands;
  readonly isHealthy: () => boolean;
  /** With one replica there is nobody to have the same keys. */
  readonly isCluster: () => boolean;
  readonly lookIntervalMs: number;
  /** News of keys are gathered for this long: a new key is told once for each replica. */
  readonly gatherMs: number;
}

export const keyKeeperLimits = { lookIntervalMs: 60_000, gatherMs: 250 } as const;

export class KeyKeeper {
  readonly #parts: KeyKeeperParts;
  #looking: Promise<void> | undefined;
  #isWanted = false;
  #signal: AbortSignal | undefined;
  /** What was said last of a look that failed. */
  #problem = "";

  constructor(parts: KeyKeeperParts) {
    this.#parts = parts;
  }

  /** Looks until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { hands, lookIntervalMs } = this.#parts;
    const ended = new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      else signal.addEventListener("abort", () => resolve(), { once: true });
    });
    await Promise.race([hands.memory.loaded, ended]);
    this.#signal = signal;
    const stop = hands.memory.onIdentity((identity) => {
      if (identity.kind !== "apiKey" || Object.keys(identity.tokens).length === 0) return;
      if (identity.tokens[hands.replica] === undefined) this.look();
    });
    await repeat(lookIntervalMs, signal, async () => this.look());
    stop();
    await this.#looking;
  }

  /** Looks soon; calls at one time are one look. */
  look(): void {
    this.#isWanted = true;
    if (this.#signal === undefined || this.#looking !== undefined) return;
    this.#looking = this.#lookWhileWanted(this.#signal).finally(() => {
      this.#looking = undefined;
    });
  }

  async #lookWhileWanted(signal: AbortSignal): Promise<void> {
    const { hands, isHealthy, isCluster, gatherMs } = this.#parts;
    while (this.#isWanted && !signal.aborted) {
      await sleep(gatherMs, signal);
      this.#isWanted = false;
      if (signal.aborted || !isCluster() || !isHealthy() || !hands.memory.storeAvailable) return;
      await tidyAliases(hands);
      const looked = await lookAtKeys(hands);
      const problem = looked.outcome === "refused" ? looked.why : "";
      if (problem !== "" && problem !== this.#problem) {
        hands.log.warn(`the API keys of ${hands.replica} cannot be kept equal: ${problem}`);
      }
      this.#problem = problem;
    }
  }
}
