// The attendant of what was made a moment ago: a playlist or a collection whose maker was told its id, and whose server
// died before any other had it. The journal says what was asked, so that whoever leads next makes it again, with the
// same id; until then no server has it, and a 404 would be untrue.
//
//   refused   a 404 for it, by another server, is not believed: the request is asked again within its own time

import { plainGuid } from "../../core/jellyfin/change-request.ts";
import type { Route } from "../../core/jellyfin/routes.ts";
import type { Clock } from "../../core/service/clock.ts";
import type { Attendant, Attended } from "../attendant.ts";
import type { HeldReply } from "../client.ts";

export interface MadeParts {
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly isReady: (replica: string) => boolean;
  readonly limits: MadeLimits;
}

export interface MadeLimits {
  /** How long what was made is remembered, in ms: by then every server has it, or never will. */
  readonly keepMs: number;
  /** Between two looks, in ms. */
  readonly pauseMs: number;
  /** Beyond this many the oldest is forgotten. */
  readonly countLimit: number;
}

export const madeLimits: MadeLimits = { keepMs: 60_000, pauseMs: 200, countLimit: 1000 };

export class Made {
  readonly attendant: Attendant;
  readonly #parts: MadeParts;
  /** By item id, in the order in which they were made. */
  readonly #made = new Map<string, { readonly replica: string; readonly atMs: number }>();

  constructor(parts: MadeParts) {
    this.#parts = parts;
    this.attendant = {
      name: "made a moment ago",
      attends: ({ pattern }) => /\{(?:playlistId|collectionId|itemId)\}/.test(pattern),
      refused: (asked, reply, replica) => this.#refused(asked, reply, replica),
    };
  }

  /** `replica` told somebody that it made an item of this id (32 hexadecimal digits). */
  note(itemId: string, replica: string): void {
    const [oldest] = this.#made.keys();
    if (oldest !== undefined && this.#made.size >= this.#parts.limits.countLimit) {
      this.#made.delete(oldest);
    }
    this.#made.set(itemId, { replica, atMs: this.#parts.clock.monotonicMs() });
  }

  /** It is gone again: nobody waits for it. */
  forget(itemIds: readonly string[]): void {
    for (const id of itemIds) this.#made.delete(id);
  }

  async #refused(
    asked: Attended,
    { head }: HeldReply,
    replica: string,
  ): Promise<"again" | undefined> {
    if (head.status !== 404) return undefined;
    const { clock, isReady, limits } = this.#parts;
    const maker = this.#makerOf(asked);
    const hasFailed = maker !== undefined && asked.tried.has(maker);
    // Its maker's own word counts, and what only reads is asked there next, by the loop.
    if (maker === undefined || (maker === replica && !hasFailed)) return undefined;
    if (isReady(maker) && !hasFailed && !isChanging(asked.facts.route)) return undefined;
    const leftMs = asked.deadlineMs - clock.monotonicMs();
    if (leftMs <= limits.pauseMs || asked.hasLeft) return undefined;
    await new Promise((resolve) => setTimeout(resolve, limits.pauseMs));
    return "again";
  }

  /** Who made what this request names; undefined: nothing that it names was made a moment ago. */
  #makerOf({ facts }: Attended): string | undefined {
    if (this.#made.size === 0) return undefined;
    const { playlistId, collectionId, itemId } = facts.params;
    for (const named of [playlistId, collectionId, itemId]) {
      const id = plainGuid(named);
      const made = id === undefined ? undefined : this.#made.get(id);
      if (id === undefined || made === undefined) continue;
      if (this.#parts.clock.monotonicMs() - made.atMs < this.#parts.limits.keepMs) {
        return made.replica;
      }
      this.#made.delete(id);
    }
    return undefined;
  }
}

function isChanging({ methods }: Route): boolean {
  return methods.some((method) => method !== "GET" && method !== "HEAD");
}
