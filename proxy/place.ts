// Placement: which replica answers, and why. One pure function from what is asked and what is known to a
// replica with its reason (design, section 4). It never asks the world; whoever calls it claims what it
// says must be claimed, waits where it says to wait, and calls it again with what was learned.

import type { ReplicaState } from "../core/cluster/replica.ts";
import type { ClusterView } from "../core/cluster/view.ts";
import type { Bound } from "./attendant.ts";

export interface Asked {
  /** A pin: the replica whose memory has what the request is bound to, with its kind for the reason. */
  readonly pin: Bound | undefined;
  /** The user whose home decides; undefined when the request belongs to nobody we know. */
  readonly userId: string | undefined;
  /** The user's home as known; undefined when there is none yet. */
  readonly home: string | undefined;
  /** The home of whom a request names that is nobody's yet, such as a login. */
  readonly named?: string | undefined;
  /** The replica that our cookie names, a hint for browsers. */
  readonly cookie: string | undefined;
  /** The replica where the last identity seen from this address lives: where an image's tag came from. */
  readonly addressReplica: string | undefined;
  /** What a rendezvous hash is made of when nothing else decides: user, device, item or address. */
  readonly hashKey: string;
  /** Replicas known to lack the item that is asked for. */
  readonly lacks: ReadonlySet<string>;
  /** Replicas on which this identity has no token and can get none now, by name. */
  readonly barred: ReadonlySet<string>;
  /** Replicas on which the user has another id than clients know; undefined: on none. */
  readonly foreign?: ReadonlySet<string> | undefined;
  /** The owner's preferred replica. */
  readonly prefer: string | undefined;
}

export type Placement =
  | {
      readonly replica: string;
      readonly reason: string;
      /** The user's home is to be claimed for this replica first. */
      readonly claimsHome: boolean;
    }
  | {
      readonly replica: undefined;
      readonly reason: string;
      /** True when a replica may become ready; false when every one was tried. */
      readonly mayCome: boolean;
      /** It may come without any replica's state changing: who leads may be another. */
      readonly comesUnseen?: boolean;
    };

const nowhere: ReadonlySet<string> = new Set();

/**
 * `tried`: replicas that this request has had its answer or its failure from, so that they are not asked
 * again. A tried home is passed by without being moved: whether it is gone is for the view to say.
 */
export function place(
  asked: Asked,
  view: ClusterView,
  tried: ReadonlySet<string> = nowhere,
): Placement {
  const { pin, home } = asked;
  if (pin === undefined && home !== undefined && isAtHand(home, asked, view, tried)) {
    return placed(home, "home");
  }
  const there: string[] = [];
  for (const [name, replica] of view.replicas) {
    if (replica.state === "ready" && !tried.has(name) && !asked.barred.has(name)) there.push(name);
  }
  // A server that was away does not know yet what happened meanwhile: it serves only when nobody else can.
  const knowing = there.filter((name) => view.replicas.get(name)?.behind !== "server");
  const ready = knowing.length > 0 ? knowing : there;
  // When every ready replica is known to lack the item, knowledge may be old: all of them are asked.
  const having = asked.lacks.size === 0 ? ready : ready.filter((name) => !asked.lacks.has(name));
  const candidates = having.length > 0 ? having : ready;

  // What is pinned lies in one memory, whatever is known of items.
  if (pin !== undefined && there.includes(pin.replica)) {
    return placed(pin.replica, `pinned there: ${pin.kind}`);
  }
  if (pin?.isOnly === true) {
    const reason = `its ${pin.kind} is waited for`;
    return { replica: undefined, reason, mayCome: true, comesUnseen: true };
  }
  if (home !== undefined) {
    if (candidates.includes(home)) return placed(home, "home");
    const state = view.replicas.get(home)?.state;
    if (state === "unknown" && !tried.has(home)) {
      return { replica: undefined, reason: `home ${home} has not been heard yet`, mayCome: true };
    }
    const native = natives(asked, newPlaces(candidates, view));
    const other = choose(asked, likeHome(home, native, view));
    if (other === undefined) return none(asked, view, tried);
    // Only a home that cannot answer is moved. One that was tried, lacks the item or cannot have the
    // token stays the home: this request alone goes elsewhere.
    const isGone = state !== "ready" && state !== "unknown";
    return {
      replica: other,
      reason: isGone
        ? `home ${home} is ${state ?? "no longer there"}`
        : detourReason(asked, home, tried, view),
      claimsHome: isGone && asked.userId !== undefined,
    };
  }
  if (asked.userId !== undefined) {
    const first = choose(asked, natives(asked, newPlaces(candidates, view)));
    if (first === undefined) return none(asked, view, tried);
    return { replica: first, reason: "first home of this user", claimsHome: true };
  }
  const open = newPlaces(candidates, view);
  for (const [hint, why] of [
    [asked.named, "home of whom it names"],
    [asked.cookie, "cookie"],
    [asked.addressReplica, "last login from this address"],
  ] as const) {
    if (hint !== undefined && open.includes(hint)) return placed(hint, why);
  }
  const any = choose(asked, open);
  return any === undefined ? none(asked, view, tried) : placed(any, "nobody's: spread by hash");
}

/** The common case, without a look at the other replicas: nothing speaks against this one. */
function isAtHand(
  name: string,
  asked: Asked,
  view: ClusterView,
  tried: ReadonlySet<string>,
): boolean {
  const replica = view.replicas.get(name);
  if (replica?.state !== "ready" || replica.behind === "server") return false;
  return !tried.has(name) && !asked.barred.has(name) && !asked.lacks.has(name);
}

/** Nobody new is sent to a replica that drains, cannot encode or is behind, while there is another. */
export function newPlaces(candidates: readonly string[], view: ClusterView): readonly string[] {
  const open = candidates.filter((name) => {
    const replica = view.replicas.get(name);
    if (replica?.isDraining === true || replica?.refusesPlays === true) return false;
    return replica?.behind === undefined;
  });
  return open.length > 0 ? open : candidates;
}

/** Those that encode as the home does, if any: a player goes on with the init segment it was given there. */
export function likeHome(
  home: string,
  candidates: readonly string[],
  view: ClusterView,
): readonly string[] {
  const encoder = view.replicas.get(home)?.encoder ?? "";
  if (encoder === "") return candidates;
  const alike = candidates.filter((name) => view.replicas.get(name)?.encoder === encoder);
  return alike.length > 0 ? alike : candidates;
}

/** A user who was made on one replica stays where the id that clients know is native, while one of those is there. */
function natives({ foreign }: Asked, candidates: readonly string[]): readonly string[] {
  if (foreign === undefined) return candidates;
  const native = candidates.filter((name) => !foreign.has(name));
  return native.length > 0 ? native : candidates;
}

function placed(replica: string, reason: string): Placement {
  return { replica, reason, claimsHome: false };
}

function detourReason(
  asked: Asked,
  home: string,
  tried: ReadonlySet<string>,
  view: ClusterView,
): string {
  if (tried.has(home)) return `home ${home} did not answer this request`;
  if (asked.barred.has(home)) return `home ${home} gives this login no token now`;
  if (view.replicas.get(home)?.behind === "server") return `home ${home} has not caught up yet`;
  return `home ${home} lacks the item`;
}

function none(asked: Asked, view: ClusterView, tried: ReadonlySet<string>): Placement {
  const states: string[] = [];
  let mayCome = false;
  for (const [name, { state }] of view.replicas) {
    const isBarred = state === "ready" && asked.barred.has(name);
    states.push(
      `${name} ${tried.has(name) ? "was tried" : isBarred ? "gives this login no token now" : state}`,
    );
    if (!tried.has(name)) mayCome = true;
  }
  const reason =
    states.length === 0 ? "no replica is known" : `no replica is left: ${states.join(", ")}`;
  return { replica: undefined, reason, mayCome };
}

function choose(asked: Asked, candidates: readonly string[]): string | undefined {
  if (asked.prefer !== undefined && candidates.includes(asked.prefer)) return asked.prefer;
  return rendezvous(asked.hashKey, candidates);
}

/**
 * The candidate with the highest hash of (key, candidate): each key keeps its replica while that is there,
 * and the keys of one that left spread over the others (Thaler and Ravishankar, 1998).
 */
export function rendezvous(key: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestScore = -1;
  for (const candidate of candidates) {
    const score = mixed(`${candidate}\n${key}`);
    if (score > bestScore) {
      best = candidate;
      bestScore = score;
    }
  }
  return best;
}

/** FNV-1a over the text, finished by an avalanche (MurmurHash3's), as an unsigned 32-bit number. */
function mixed(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/**
 * Whether this process may claim a home away from a replica which it cannot reach. While any other proxy
 * reaches it, this one is the one cut off (ProxyCutOff): it goes round, and leaves the home where it is.
 */
export function mayMoveHome(
  state: ReplicaState | undefined,
  reachedByOthers: boolean,
): "move" | "detour" {
  if (state === undefined) return "move";
  return reachedByOthers ? "detour" : "move";
}
