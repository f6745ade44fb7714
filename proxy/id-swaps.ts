// Which ids a request's replica knows otherwise than its client does, and the putting of one in place of the other:
// in path, query and JSON body on the way there, in the answer and in socket messages on the way back. While no user
// has an alias, a request costs one look at a number.

import { swapIds, swapIdsIn } from "../core/cluster/id-swap.ts";
import type { Identity } from "../core/cluster/identity.ts";
import type { UserAliases } from "../core/cluster/user-aliases.ts";
import { headerIn } from "../core/jellyfin/raw-headers.ts";
import { Bounded } from "./bounded.ts";
import type { HeldReply } from "./client.ts";

/** The two ways of one replica for one client. */
export interface IdSwap {
  readonly toHere: ReadonlyMap<string, string>;
  readonly fromHere: ReadonlyMap<string, string>;
}

/** So many clients' ways are remembered that differ from their replica's. */
const rememberedLimit = 1000;

export class IdSwaps {
  readonly #aliases: UserAliases;
  readonly #own = new Bounded<string, { readonly all: IdSwap; readonly swap: IdSwap }>(
    rememberedLimit,
  );

  constructor(aliases: UserAliases) {
    this.#aliases = aliases;
  }

  /** Whether any user has another id anywhere. */
  get areNeeded(): boolean {
    return this.#aliases.size > 0;
  }

  /** Undefined when that replica and this client have the same words for everybody. */
  of(replica: string, identity: Identity | undefined): IdSwap | undefined {
    if (this.#aliases.size === 0) return undefined;
    const all = this.#aliases.pairsOf(replica);
    if (all.toHere.size === 0) return undefined;
    // Who logged in there under the replica's own id knows themself by that.
    const native = identity?.userId ?? "";
    if (native === "" || !all.fromHere.has(native)) return all;
    const key = `${replica}/${native}`;
    const known = this.#own.get(key);
    if (known?.all === all) return known.swap;
    const toHere = new Map([...all.toHere].filter(([, here]) => here !== native));
    const fromHere = new Map([...all.fromHere].filter(([here]) => here !== native));
    const swap = { toHere, fromHere };
    this.#own.set(key, { all, swap });
    return swap;
  }

  /** Whether the user has another id there than clients know. */
  isForeign(replica: string, userId: string): boolean {
    return this.#aliases.isForeign(replica, userId);
  }

  /** Replicas on which this user has another id; undefined: on none. */
  foreignTo(userId: string, replicas: Iterable<string>): ReadonlySet<string> | undefined {
    if (this.#aliases.size === 0) return undefined;
    const foreign = [...replicas].filter((replica) => this.#aliases.isForeign(replica, userId));
    return foreign.length === 0 ? undefined : new Set(foreign);
  }
}

export function requestText(swap: IdSwap, text: string): string {
  return swapIds(text, swap.toHere);
}

/** The body as the replica is to see it: ids stand in JSON and forms, never in a picture. */
export function requestBody(
  swap: IdSwap,
  body: Buffer | undefined,
  contentType: string,
): Buffer | undefined {
  if (body === undefined || /^(?:image|video|audio)\//i.test(contentType)) return body;
  return swapIdsIn(body, swap.toHere);
}

/** A whole answer as the client is to see it. What is compressed, or no text, stays as it is. */
export function answered(swap: IdSwap, reply: HeldReply): HeldReply {
  const type = headerIn(reply.head.headers, "content-type") ?? "";
  if (!/json|text|mpegurl/i.test(type)) return reply;
  const encoding = headerIn(reply.head.headers, "content-encoding") ?? "identity";
  if (encoding !== "identity") return reply;
  const body = swapIdsIn(reply.body, swap.fromHere);
  return body === reply.body ? reply : { head: reply.head, body };
}
