// The view: which replicas there are and how each looks, as one immutable value. Decisions take a
// view and never ask the world, so that they can be tested as tables.

import type { BehindCause } from "./journal-cursor.ts";
import type { ReplicaConfig, ReplicaObserved, ReplicaState } from "./replica.ts";

export interface ClusterView {
  /** By replica name, in the order in which they were configured. */
  readonly replicas: ReadonlyMap<string, ReplicaObserved>;
  /** Grows by one with every change, so that a waiter can tell an old view from a new one. */
  readonly version: number;
}

/** A view in which nothing has been heard of any replica yet. */
export function initialView(configs: readonly ReplicaConfig[], nowMs: number): ClusterView {
  const replicas = new Map<string, ReplicaObserved>();
  for (const config of configs) {
    replicas.set(config.name, {
      config,
      state: "unknown",
      reason: "nothing has been heard from it yet",
      sinceMs: nowMs,
    });
  }
  return { replicas, version: 0 };
}

/** The view after one replica was observed. The same view when nothing changed. */
export function withObservation(
  view: ClusterView,
  name: string,
  state: ReplicaState,
  reason: string,
  nowMs: number,
): ClusterView {
  const known = view.replicas.get(name);
  if (known === undefined || (known.state === state && known.reason === reason)) return view;
  const replicas = new Map(view.replicas);
  const sinceMs = known.state === state ? known.sinceMs : nowMs;
  replicas.set(name, { ...known, state, reason, sinceMs });
  return { replicas, version: view.version + 1 };
}

/** The view after the cluster told of a replica's condition. The same view when nothing changed. */
export function withCondition(
  view: ClusterView,
  name: string,
  condition: {
    readonly isDraining: boolean;
    readonly refusesPlays: boolean;
    readonly encoder?: string;
    readonly behind?: BehindCause | undefined;
  },
): ClusterView {
  const known = view.replicas.get(name);
  if (known === undefined) return view;
  const isSame =
    (known.isDraining ?? false) === condition.isDraining &&
    (known.refusesPlays ?? false) === condition.refusesPlays &&
    (known.encoder ?? "") === (condition.encoder ?? "") &&
    known.behind === condition.behind;
  if (isSame) return view;
  const replicas = new Map(view.replicas);
  replicas.set(name, { ...known, ...condition });
  return { replicas, version: view.version + 1 };
}

/** The view after the list of replicas changed: what is known of those that stay is kept. */
export function withReplicas(
  view: ClusterView,
  configs: readonly ReplicaConfig[],
  nowMs: number,
): ClusterView {
  const fresh = initialView(configs, nowMs);
  const replicas = new Map<string, ReplicaObserved>();
  for (const [name, observed] of fresh.replicas) {
    const known = view.replicas.get(name);
    const same =
      known !== undefined &&
      known.config.origin === observed.config.origin &&
      known.config.basePath === observed.config.basePath;
    replicas.set(name, same ? known : observed);
  }
  return { replicas, version: view.version + 1 };
}

/** Names of the replicas that may answer viewers, in configured order. */
export function readyNames(view: ClusterView): string[] {
  const names: string[] = [];
  for (const [name, replica] of view.replicas) if (replica.state === "ready") names.push(name);
  return names;
}

export function stateOf(view: ClusterView, name: string): ReplicaState | undefined {
  return view.replicas.get(name)?.state;
}
