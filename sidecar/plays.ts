// What a server must let go of: encodes and sessions of plays that it no longer owns. Jellyfin knows no epochs,
// so a server that was frozen thaws in the belief that its viewers are still there: its ffmpeg goes on, its
// session shows the film, and one day it would write the position it last heard. Here is what is to be ended,
// decided from one observation and nothing else; the deeds are in play-keeper.ts.
//
// Dying between any two deeds is safe: each starts from what the store and the server say, ending what has
// ended already does nothing, and a sidecar that starts again looks through everything once.

import { type Identity, identityKey } from "../core/cluster/identity.ts";
import { leftoverOf, type Play } from "../core/cluster/plays.ts";
import type { ServerSession, SessionPlaying } from "../core/jellyfin/client.ts";

export interface PlaysObservation {
  readonly replica: string;
  readonly plays: Iterable<Play>;
  /** Where users live; nothing is ended for one whose home is not known. */
  readonly homeOf: (userId: string) => string | undefined;
  /** Where a play is bound by a pin of its own. */
  readonly pinOf: (playId: string) => string | undefined;
  /** How far each play was let go of already, by `leftName`. */
  readonly done: ReadonlyMap<string, LeftPasses>;
  /** Monotonic clock in ms. */
  readonly nowMs: number;
}

/** A server that thaws carries out what had been sent to it meanwhile, so one look is not enough. */
export interface LeftPasses {
  readonly passes: number;
  /** Not looked at again before, in ms of the monotonic clock. */
  readonly nextAtMs: number;
}

/** Pauses after the first, the second … look, in ms; after the last the play is done with. */
export const passPausesMs = [300, 700, 1500] as const;

export interface LeftDecision {
  /** Plays whose encode is ended now. */
  readonly encodes: readonly Play[];
  /** Whether the server's sessions are to be looked through for plays it no longer owns. */
  readonly looksAtSessions: boolean;
  /** What these looks are noted under. */
  readonly names: readonly string[];
  /** When to decide again, in ms of the monotonic clock; undefined: when something changes. */
  readonly nextAtMs: number | undefined;
}

/** One name for one leaving: a play that comes back and leaves again has another epoch. */
export function leftName(play: Play): string {
  return `${play.id} ${play.owner} ${play.epoch} ${play.hasEnded}`;
}

export function decidePlays(o: PlaysObservation): LeftDecision {
  const encodes: Play[] = [];
  const names: string[] = [];
  let looksAtSessions = false;
  let nextAtMs: number | undefined;
  for (const play of o.plays) {
    const left = leftoverOf(play, o.replica, o.homeOf(play.userId), o.pinOf(play.id));
    if (!left.encode && !left.session) continue;
    const name = leftName(play);
    const known = o.done.get(name);
    if (known !== undefined && known.passes > passPausesMs.length) continue;
    if (known !== undefined && known.nextAtMs > o.nowMs) {
      nextAtMs = Math.min(nextAtMs ?? known.nextAtMs, known.nextAtMs);
      continue;
    }
    names.push(name);
    if (left.encode) encodes.push(play);
    if (left.session) looksAtSessions = true;
  }
  return { encodes, looksAtSessions, names, nextAtMs };
}

export function afterPass(known: LeftPasses | undefined, nowMs: number): LeftPasses {
  const passes = (known?.passes ?? 0) + 1;
  return { passes, nextAtMs: nowMs + (passPausesMs[passes - 1] ?? 0) };
}

/** A session that shows a play which its user watches elsewhere by now. */
export interface StrayPlay {
  readonly identity: Identity;
  readonly playing: SessionPlaying;
}

/**
 * Sessions that play something for a login whose user lives elsewhere. A play may have no record of its own (an old
 * client sends no PlaySessionId), so the session itself is the evidence.
 */
export function straysIn(
  sessions: readonly ServerSession[],
  identities: ReadonlyMap<string, Identity>,
  replica: string,
  homeOf: (userId: string) => string | undefined,
): readonly StrayPlay[] {
  const strays: StrayPlay[] = [];
  for (const { userId, deviceId, playing } of sessions) {
    if (playing === undefined || userId === "") continue;
    const home = homeOf(userId);
    if (home === undefined || home === replica) continue;
    const identity = identities.get(identityKey(userId, deviceId));
    if (identity !== undefined) strays.push({ identity, playing });
  }
  return strays;
}
