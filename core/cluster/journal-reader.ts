// Reads the journal's entries for doors and sidecars: takes what this cluster wrote, each entry once. It exists
// because who can write the store can put anything into it, and because an entry whose append had an unknown end is
// written again.
//
// It promises that an entry which is not ours, not whole or of a newer kind is counted, said once in the log for each
// kind of refusal, and stops nothing; and that of two entries with one id the first counts, within a bound.

import type { Counter } from "../service/metrics.ts";
import type { Seal } from "../service/seal.ts";
import type { JournalEntry } from "../store/journal.ts";
import { type Placed, readEntry } from "./journal.ts";

export interface JournalReaderOptions {
  readonly seal: Pick<Seal, "verifyMac">;
  readonly log: { warn(message: string): void };
  readonly metrics: { readonly journalUnreadable: Counter };
  /** How many ids are remembered; an entry comes twice within seconds, or never. */
  readonly idsKept: number;
}

export const journalIdsKept = 20_000;

/** How many kinds of refusal are told of: there are few, and none depends on what an entry says. */
const refusalsMax = 20;

export class JournalReader {
  readonly #options: JournalReaderOptions;
  /** Two generations of ids: when the younger is full it becomes the older, and the older is forgotten. */
  #young = new Set<string>();
  #old = new Set<string>();
  readonly #said = new Set<string>();

  constructor(options: JournalReaderOptions) {
    this.#options = options;
  }

  /** What the entries say that are ours and were not read before, in their order. Never throws. */
  read(entries: readonly JournalEntry[]): readonly Placed[] {
    return entries.flatMap((one) => this.#readOne(one) ?? []);
  }

  /** Whoever goes back in the journal wants its entries again. */
  forget(): void {
    this.#young = new Set();
    this.#old = new Set();
  }

  #readOne(one: JournalEntry): Placed | undefined {
    const { seal, log, metrics } = this.#options;
    const read = readEntry(one, seal);
    if (read.outcome === "read") return this.#isNew(read.placed.entry.id) ? read.placed : undefined;
    metrics.journalUnreadable.add();
    if (!this.#said.has(read.why) && this.#said.size < refusalsMax) {
      this.#said.add(read.why);
      log.warn(
        `entry ${read.number} of the journal is left out: ${read.why}. Others like it are only counted`,
      );
    }
    return undefined;
  }

  #isNew(id: string): boolean {
    if (this.#young.has(id) || this.#old.has(id)) return false;
    if (this.#young.size >= this.#options.idsKept / 2) {
      this.#old = this.#young;
      this.#young = new Set();
    }
    this.#young.add(id);
    return true;
  }
}
