// Encoders: what a replica's server says of how it encodes, and what was seen of it. A play whose server
// died goes on best at a server with an equal encoder, because a player keeps the first one's init segment;
// and no play should go where encodes are known to fail. Pure: fingerprint, verdict, comparison. How it lies
// in the store is condition.ts.

import { createHash } from "node:crypto";
import type { Condition, Encodes } from "./condition.ts";
import type { Play } from "./plays.ts";

/** Settings that say where files lie or how eagerly ffmpeg is paused, not what it makes. */
const withoutEffect = /path|throttl|segmentdeletion|segmentkeep|subtitleextraction|fallbackfont/i;

/**
 * One fingerprint for the server's version and its encoding options (GET /System/Configuration/encoding), so
 * that equal ones encode alike as far as the API can tell. The build of ffmpeg is not in the API; servers of
 * one image have one.
 */
export function fingerprintOf(
  version: string,
  options: Readonly<Record<string, string | number | boolean | null>>,
): string {
  const parts = Object.entries(options)
    .filter(([name]) => !withoutEffect.test(name))
    .map(([name, value]) => `${name.toLowerCase()}=${String(value)}`)
    .sort();
  const text = `${version}\n${parts.join("\n")}`;
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

/** How a short encode went: so many seconds of film in so many ms, or not at all. */
export type Trial =
  | { readonly worked: true; readonly filmSeconds: number; readonly tookMs: number }
  | { readonly worked: false };

export function encodesOf(trial: Trial | undefined): Encodes {
  if (trial === undefined) return "unknown";
  if (!trial.worked) return "failing";
  return trial.tookMs > trial.filmSeconds * 1000 ? "slow" : "ok";
}

/** So many films must fail at a replica, with none that works there, before its encoder counts as failing. */
const filmsFailed = 2;
/** After this it is given another chance, in ms. */
const failureCountsMs = 5 * 60_000;

/**
 * Replicas where encodes are known to fail: their own trial says so, or several films failed lately. `nowMs` is
 * since the epoch.
 */
export function failingEncoders(
  conditions: ReadonlyMap<string, Condition>,
  plays: Iterable<Play>,
  nowMs: number,
): ReadonlySet<string> {
  const failing = new Set<string>();
  for (const [replica, { encodes }] of conditions) if (encodes === "failing") failing.add(replica);
  const failedItems = new Map<string, Set<string>>();
  const failedAtMs = new Map<string, number>();
  const workedAtMs = new Map<string, number>();
  const later = (times: Map<string, number>, replica: string, atMs: number): void => {
    times.set(replica, Math.max(times.get(replica) ?? 0, atMs));
  };
  for (const play of plays) {
    const counts = Math.abs(nowMs - play.failedAtMs) <= failureCountsMs;
    for (const replica of counts ? Object.keys(play.failures) : []) {
      if (play.encodesAt === replica) continue;
      const items = failedItems.get(replica) ?? new Set();
      failedItems.set(replica, items.add(play.itemId));
      later(failedAtMs, replica, play.failedAtMs);
    }
    if (play.encodesAt !== "") later(workedAtMs, play.encodesAt, play.changedAtMs);
  }
  for (const [replica, items] of failedItems) {
    const hasWorkedSince = (workedAtMs.get(replica) ?? 0) > (failedAtMs.get(replica) ?? 0);
    if (items.size >= filmsFailed && !hasWorkedSince) failing.add(replica);
  }
  return failing;
}

/** Everything about the encoders of replicas that can be reached now. */
export interface Encoders {
  readonly names: readonly string[];
  readonly conditions: ReadonlyMap<string, Condition>;
  readonly failing: ReadonlySet<string>;
}

/**
 * Replicas among which what leaves `from` is placed first: servers that encode alike, of those whose encodes
 * are not known to fail. Empty: none is better than another.
 */
export function betterEncoders(
  from: string | undefined,
  { names, conditions, failing }: Encoders,
): readonly string[] {
  const others = names.filter((name) => name !== from);
  const working = others.filter((name) => !failing.has(name));
  const fingerprint = from === undefined ? "" : (conditions.get(from)?.encoder ?? "");
  const equal =
    fingerprint === ""
      ? []
      : working.filter((name) => conditions.get(name)?.encoder === fingerprint);
  if (equal.length > 0) return equal.length < others.length ? equal : [];
  return working.length < others.length ? working : [];
}

/** Where a play of somebody who lives at `home` is to be encoded; undefined: at home. */
export function encodeElsewhere(home: string, encoders: Encoders): string | undefined {
  const { names, conditions, failing } = encoders;
  // One that cannot keep up with those who watch now takes no new ones, where another can.
  const refusing = new Set(failing);
  for (const [name, { encodes }] of conditions) if (encodes === "slow") refusing.add(name);
  if (!refusing.has(home)) return undefined;
  const working = names.filter((name) => name !== home && !refusing.has(name));
  const better = betterEncoders(home, { names, conditions, failing: refusing })[0];
  return working.length === 0 ? elsewhereThanFailing(home, encoders) : (better ?? working[0]);
}

/** Where all are slow, one that fails is still worse. */
function elsewhereThanFailing(home: string, encoders: Encoders): string | undefined {
  if (!encoders.failing.has(home)) return undefined;
  const working = encoders.names.filter((name) => name !== home && !encoders.failing.has(name));
  return betterEncoders(home, encoders)[0] ?? working[0];
}
