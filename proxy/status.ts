// Status: the cluster as one door sees it, in one value: replicas, who leads, who is where, and what is wrong
// in words. Pure; `jellybloom status` and whoever watches a cluster by program ask for it at the admin port.

import {
  conditionOf,
  type DrainProgress,
  drainProgress,
  type Encodes,
  type ReplicaNotes,
} from "../core/cluster/condition.ts";
import { driftSentence, driftsIn } from "../core/cluster/drift.ts";
import { type Play, readPlay } from "../core/cluster/plays.ts";
import type { ReplicaState } from "../core/cluster/replica.ts";
import type { ClusterView } from "../core/cluster/view.ts";
import type { Readiness } from "../core/service/health.ts";
import type { Home, Lease, Note } from "../core/store/store.ts";

export interface ReplicaStatus {
  readonly name: string;
  readonly url: string;
  readonly state: ReplicaState;
  /** A sentence about the state. */
  readonly reason: string;
  /** How long it has been in this state, in ms. */
  readonly forMs: number;
  readonly isLeader: boolean;
  readonly drain: Omit<DrainProgress, "order"> | null;
  /** Users whose home it is. */
  readonly homes: number;
  /** Plays that it serves, and those of them that it encodes. */
  readonly plays: number;
  readonly transcodes: number;
  /** Clients' sockets of this door that are there. */
  readonly sockets: number;
  /** A fingerprint; empty while unknown. */
  readonly encoder: string;
  readonly encodes: Encodes;
}

export interface ClusterStatus {
  /** Nothing is wrong. */
  readonly ok: boolean;
  /** What is wrong, a sentence each without its full stop. */
  readonly wrong: readonly string[];
  /** The store cannot be reached: people go on from memory, changes wait. */
  readonly failsafe: boolean;
  readonly leader: { readonly replica: string; readonly epoch: number } | null;
  /** Doors that can be heard, this one included. */
  readonly doors: number;
  readonly replicas: readonly ReplicaStatus[];
}

export interface StatusFacts {
  readonly view: ClusterView;
  readonly storeAvailable: boolean;
  readonly lease: Lease | undefined;
  readonly homes: Iterable<Home>;
  readonly plays: Iterable<Note>;
  readonly notes: ReplicaNotes;
  readonly seats: Iterable<{ readonly replica: string }>;
  readonly doors: number;
  /** ms of the door's monotonic clock, and ms since the epoch. */
  readonly nowMs: number;
  readonly wallMs: number;
}

export function statusOf(facts: StatusFacts): ClusterStatus {
  const { view, lease, storeAvailable, notes, nowMs, wallMs } = facts;
  const homes = counted([...facts.homes].map(({ replica }) => replica));
  const sockets = counted([...facts.seats].map(({ replica }) => replica));
  const plays = [...facts.plays].map(readPlay).filter(isRunning);
  const served = counted(plays.map(({ owner }) => owner));
  const encoded = counted(plays.map(({ encodesAt }) => encodesAt));
  const leader = lease === undefined || lease.replica === "" ? undefined : lease;
  const replicas = [...view.replicas].map(([name, { config, state, reason, sinceMs }]) => {
    const { encoder, encodes } = conditionOf(notes, name);
    const { order, ...drain } = drainProgress(notes, name, homes.get(name) ?? 0, wallMs);
    return {
      name,
      url: config.origin + config.basePath,
      state,
      reason,
      forMs: Math.max(0, Math.round(nowMs - sinceMs)),
      isLeader: leader?.replica === name,
      drain: order === undefined ? null : drain,
      homes: homes.get(name) ?? 0,
      plays: served.get(name) ?? 0,
      transcodes: encoded.get(name) ?? 0,
      sockets: sockets.get(name) ?? 0,
      encoder,
      encodes,
    };
  });
  const wrong = [
    ...whatIsWrong(replicas, leader !== undefined, storeAvailable),
    ...[...view.replicas]
      .filter(([, { state, behind }]) => state === "ready" && behind !== undefined)
      .map(([name]) => behindSentence(name)),
    ...[...driftsIn(notes)]
      .filter(([name]) => view.replicas.has(name))
      .map(([name, drift]) => driftSentence(name, drift)),
  ];
  return {
    ok: wrong.length === 0,
    wrong,
    failsafe: !storeAvailable,
    leader: leader === undefined ? null : { replica: leader.replica, epoch: leader.epoch.number },
    doors: facts.doors,
    replicas,
  };
}

/** What /jellybloom/ready says of a door: whether it serves, and what keeps it from being whole. */
export function readinessOf({ replicas }: ClusterView, storeAvailable: boolean): Readiness {
  const notes: string[] = [];
  let isServed = false;
  for (const [name, { state, reason, isDraining, behind }] of replicas) {
    if (isDraining === true) notes.push(`replica ${name} drains: nobody new is placed there`);
    if (state !== "ready") notes.push(`replica ${name} is ${state}: ${reason}`);
    else if (behind !== undefined) notes.push(`replica ${behindSentence(name)}`);
    isServed ||= state === "ready";
  }
  if (!storeAvailable) {
    notes.push("the store cannot be reached: viewers go on from memory (failsafe)");
  }
  return { reason: isServed ? null : "no replica is ready", notes };
}

function behindSentence(name: string): string {
  return `${name} was away and has not caught up yet: nobody new is sent there`;
}

function whatIsWrong(
  replicas: readonly ReplicaStatus[],
  hasLeader: boolean,
  storeAvailable: boolean,
): string[] {
  const wrong: string[] = [];
  if (!storeAvailable) {
    wrong.push("the store cannot be reached: people go on, and every change of the cluster waits");
  }
  for (const { name, state, reason, drain, encodes } of replicas) {
    if (state !== "ready") wrong.push(`${name} is ${state}: ${reason}`);
    if (drain?.done === true)
      wrong.push(`${name} is drained and gets nobody until it is undrained`);
    else if (drain !== null) wrong.push(`${name} is being drained`);
    if (encodes === "failing") wrong.push(`${name} cannot encode: it takes no new plays`);
    if (encodes === "slow") {
      wrong.push(`${name} encodes slower than real time: it takes no new plays`);
    }
  }
  const able = replicas.filter(({ state, drain }) => state === "ready" && drain === null);
  if (replicas.length === 0) wrong.push("no replica is known");
  else if (able.length === 0) wrong.push("no replica takes anybody");
  else if (able.length === 1 && replicas.length > 1) {
    wrong.push(`only ${able[0]?.name ?? ""} is left: if it goes, people notice`);
  }
  if (!hasLeader && replicas.length > 1 && storeAvailable) {
    wrong.push("nobody leads: scheduled tasks and changes to the servers wait");
  }
  return wrong;
}

function isRunning(play: Play | undefined): play is Play {
  return play !== undefined && !play.hasEnded;
}

function counted(names: readonly string[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return counts;
}
