// The intents whose effect is not in the journal yet, and what is to become of each: nothing for now, dropped
// because something newer says the same fields, published here, or carried out again by the leader. What is
// decided is decided by pure functions; the map only finds them by id and by lane.

import type { Intent, Outcome, Placed } from "../../core/cluster/journal.ts";
import type { JournalHandler } from "./handler.ts";

export interface OpenIntent {
  readonly placed: Placed<Intent>;
  readonly handler: JournalHandler;
  readonly lane: string;
  /** Empty for a kind in which every change counts. */
  readonly fields: readonly string[];
  /** On the monotonic clock. */
  readonly seenAtMs: number;
  outcome: Outcome | undefined;
  outcomeAtMs: number;
  /** A work of ours is to publish it or to do it again. */
  isInHand: boolean;
  publishedAtMs: number | undefined;
  /** It was done again here, and whoever asked for it may still be waiting. */
  isAwaited: boolean;
  /** It waits for the end of another change to be told: that one waits for nothing. */
  isDeferred: boolean;
  /** It was done again here: the first request for it may be carried out yet. */
  isRedone: boolean;
  /** On the monotonic clock: not to be done again before. */
  nextRedoAtMs: number;
  /** How often the doing again had no end. */
  redoTries: number;
}

export function hasSucceeded({ outcome }: OpenIntent): boolean {
  return outcome !== undefined && outcome.status >= 200 && outcome.status < 400;
}

/** Whether some server may carry out a request for it after it has ended: one was sent it, and no answer of it counted. */
export function mayComeLate(open: OpenIntent): boolean {
  const asked = open.outcome?.asked ?? [];
  return open.isRedone || asked.length > 0 || !hasSucceeded(open);
}

/** The fields of which something newer is known, by the number of the newest. */
export type NewerOf = (field: string) => number;

/**
 * Whether each field of an intent is said by something newer that is sure to have an effect. A kind without
 * fields is never superseded.
 */
export function isSuperseded(
  open: OpenIntent,
  knownNumber: NewerOf,
  others: readonly OpenIntent[],
): boolean {
  const { number } = open.placed;
  if (open.fields.length === 0) return false;
  return open.fields.every(
    (field) =>
      knownNumber(field) > number ||
      others.some(
        (other) =>
          other.placed.number > number && hasSucceeded(other) && other.fields.includes(field),
      ),
  );
}

export interface RedoLimits {
  /** After an answer that nobody had: no server was reached, or none answered, in ms. */
  readonly afterNoAnswerMs: number;
  /** After the intent, when nobody has told how it ended: the door died, in ms. */
  readonly afterSilenceMs: number;
  /** The same for a kind in which doing it twice shows. */
  readonly afterLongSilenceMs: number;
  /** After success, when the server that answered is gone, in ms. */
  readonly afterDeathMs: number;
  /** After success, when its server is there and its sidecar says nothing, in ms. */
  readonly afterMuteMs: number;
  /** After this nobody tries any more, in ms. */
  readonly givenUpAfterMs: number;
}

export type RedoStep = "wait" | "redo" | "give up";

/** `isGone`: whether the server that answered cannot be reached; asked only when it matters. */
export function redoStep(
  open: OpenIntent,
  nowMs: number,
  limits: RedoLimits,
  own: string,
  isGone: (replica: string) => boolean,
): RedoStep {
  if (open.isInHand || nowMs < open.nextRedoAtMs) return "wait";
  if (nowMs - open.seenAtMs > limits.givenUpAfterMs) return "give up";
  const { outcome } = open;
  if (outcome === undefined) {
    const limitMs = open.fields.length > 0 ? limits.afterSilenceMs : limits.afterLongSilenceMs;
    return nowMs - open.seenAtMs > limitMs ? "redo" : "wait";
  }
  const sinceMs = nowMs - open.outcomeAtMs;
  if (!hasSucceeded(open)) return sinceMs > limits.afterNoAnswerMs ? "redo" : "wait";
  if (outcome.replica === own) return "wait";
  if (sinceMs > limits.afterMuteMs) return "redo";
  return sinceMs > limits.afterDeathMs && isGone(outcome.replica) ? "redo" : "wait";
}

/** Finds open intents by id and by lane; in the journal's order. */
export class OpenIntents {
  readonly #byId = new Map<string, OpenIntent>();
  readonly #byLane = new Map<string, OpenIntent[]>();

  get size(): number {
    return this.#byId.size;
  }

  /** The number of the oldest; undefined when there is none. */
  get oldest(): OpenIntent | undefined {
    for (const open of this.#byId.values()) return open;
    return undefined;
  }

  get(id: string): OpenIntent | undefined {
    return this.#byId.get(id);
  }

  all(): IterableIterator<OpenIntent> {
    return this.#byId.values();
  }

  inLane(lane: string): readonly OpenIntent[] {
    return this.#byLane.get(lane) ?? [];
  }

  add(open: OpenIntent): void {
    this.#byId.set(open.placed.entry.id, open);
    const inLane = this.#byLane.get(open.lane);
    if (inLane === undefined) this.#byLane.set(open.lane, [open]);
    else inLane.push(open);
  }

  delete(open: OpenIntent): boolean {
    if (!this.#byId.delete(open.placed.entry.id)) return false;
    const left = this.inLane(open.lane).filter((other) => other !== open);
    if (left.length === 0) this.#byLane.delete(open.lane);
    else this.#byLane.set(open.lane, left);
    return true;
  }
}
