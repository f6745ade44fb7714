// The attendant of what was made a moment ago, and which only the server that made it has: playlists and collections
// by their ids, users by their names. The others have them within a second. Who hears of it is the attendant of changes
// that have one writer (lists.ts); it also asks what the last list of a name was.
//
//   bound     whoever logs in as somebody who was just made does so where they were made, while that server is ready
//
// Where that server died before any other had a list, whoever leads next makes it again, with the same id, because the
// journal says what was asked; until then no server has it, and a 404 would be untrue.
//
//   refused   a 404 for it, by another server, is not believed: the request is asked again within its own time

import { plainGuid } from "../../core/jellyfin/change-request.ts";
import { bodyValue } from "../../core/jellyfin/playback.ts";
import type { Route } from "../../core/jellyfin/routes.ts";
import type { Clock } from "../../core/service/clock.ts";
import type { Attendant, Attended } from "../attendant.ts";
import { Bounded } from "../bounded.ts";
import type { HeldReply } from "../client.ts";

export type MadeThing =
  /** 32 hexadecimal digits, and what lists of one name have in common. */
  { readonly itemId: string; readonly nameKey: string } | { readonly userName: string };

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
  readonly attendants: readonly Attendant[];
  readonly #parts: MadeParts;
  /** By item id, or by user name in lower case, in the order in which they were made. */
  readonly #made: Bounded<string, { readonly replica: string; readonly atMs: number }>;
  /** By what lists of one name have in common: the id of the last that was made. */
  readonly #lastOf: Bounded<string, string>;

  constructor(parts: MadeParts) {
    this.#parts = parts;
    this.#made = new Bounded(parts.limits.countLimit);
    this.#lastOf = new Bounded(parts.limits.countLimit);
    const people: Attendant = {
      name: "a user made a moment ago",
      attends: ({ boundTo }) => boundTo === "userName",
      bound: ({ facts, bodyText }) => {
        if (this.#made.size === 0 || bodyText === undefined) return undefined;
        const name = bodyValue(bodyText, facts.route.bodyName ?? "Username");
        const replica = typeof name === "string" ? this.#maker(keyOfName(name)) : undefined;
        return replica === undefined ? undefined : { replica, kind: "made there" };
      },
    };
    const lists: Attendant = {
      name: "a list made a moment ago",
      attends: ({ pattern }) => /\{(?:playlistId|collectionId|itemId)\}/.test(pattern),
      refused: (asked, reply, replica) => this.#refused(asked, reply, replica),
    };
    this.attendants = [people, lists];
  }

  /** `replica` told somebody that it made this. */
  note(thing: MadeThing, replica: string): void {
    const key = "itemId" in thing ? thing.itemId : keyOfName(thing.userName);
    this.#made.set(key, { replica, atMs: this.#parts.clock.monotonicMs() });
    if ("itemId" in thing) this.#lastOf.set(thing.nameKey, thing.itemId);
  }

  /** The last list of a name, while other servers may lack it, with who made it. */
  lastOf(nameKey: string): { readonly itemId: string; readonly replica: string } | undefined {
    const itemId = this.#lastOf.get(nameKey);
    const replica = itemId === undefined ? undefined : this.#maker(itemId);
    if (itemId !== undefined && replica !== undefined) return { itemId, replica };
    this.#lastOf.delete(nameKey);
    return undefined;
  }

  /** Whoever makes the next list of that name has the last one. */
  forgetName(nameKey: string): void {
    this.#lastOf.delete(nameKey);
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
    if (maker === undefined) return undefined;
    const hasFailed = asked.failed.has(maker);
    // Its maker's own word counts, and what only reads is asked there next, by the loop.
    if (!hasFailed && (maker === replica || asked.refusedBy.has(maker))) return undefined;
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
      const replica = id === undefined ? undefined : this.#maker(id);
      if (replica !== undefined) return replica;
    }
    return undefined;
  }

  #maker(key: string): string | undefined {
    const made = this.#made.get(key);
    if (made === undefined) return undefined;
    const { clock, limits } = this.#parts;
    if (clock.monotonicMs() - made.atMs < limits.keepMs) return made.replica;
    this.#made.delete(key);
    return undefined;
  }
}

/** Jellyfin minds no letter case in names of users; no id has a colon. */
function keyOfName(name: string): string {
  return `name:${name.toLowerCase()}`;
}

function isChanging({ methods }: Route): boolean {
  return methods.some((method) => method !== "GET" && method !== "HEAD");
}
