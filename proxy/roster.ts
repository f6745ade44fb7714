// The roster: which replicas there are, put together from three sources. What the owner listed stands; what
// sidecars announce in the registry comes next, since it is proven and named; what a headless service's DNS
// names comes last, and only where nobody else named that address. Sources may all be used at once.
//
// A replica that is no longer named is kept while it answers, and for `forgetAfterMs` after that: a sidecar
// that stopped, a registry that was lost and a resolver that stumbles are no reason to drop a server that
// serves people. One that left for good is forgotten after that limit.

import type { ReplicaConfig } from "../core/cluster/replica.ts";
import { isGone } from "../core/cluster/replica.ts";
import type { ClusterView } from "../core/cluster/view.ts";

interface Named {
  config: ReplicaConfig;
  lastMs: number;
}

/** More than this are not taken up from registry and DNS together. */
const namedLimit = 64;

export class Roster {
  readonly #configured: readonly ReplicaConfig[];
  readonly #forgetAfterMs: number;
  readonly #announced = new Map<string, Named>();
  readonly #found = new Map<string, Named>();

  constructor(configured: readonly ReplicaConfig[], forgetAfterMs: number) {
    this.#configured = configured;
    this.#forgetAfterMs = forgetAfterMs;
  }

  /** What the registry names now; only members whose proof was checked. */
  announced(
    members: readonly { readonly replica: string; readonly url: string }[],
    nowMs: number,
  ): void {
    const configs = members.flatMap(({ replica, url }) => {
      if (!URL.canParse(url)) return [];
      const { origin, pathname, protocol } = new URL(url);
      if (protocol !== "http:" && protocol !== "https:") return [];
      return [{ name: replica, origin, basePath: pathname.replace(/\/+$/, "") }];
    });
    note(this.#announced, configs, nowMs);
  }

  /** What DNS names now. */
  found(configs: readonly ReplicaConfig[], nowMs: number): void {
    note(this.#found, configs, nowMs);
  }

  /** The replicas to be watched now, the configured ones first, then by name. */
  configs(view: ClusterView, nowMs: number): readonly ReplicaConfig[] {
    const merged = [...this.#configured];
    for (const named of [this.#announced, this.#found]) {
      for (const [name, { config, lastMs }] of [...named].sort(byName)) {
        if (this.#isForgotten(view, config, nowMs - lastMs)) {
          named.delete(name);
          continue;
        }
        const isKnown = merged.some(
          (other) =>
            other.name === name ||
            (named === this.#found && other.origin + other.basePath === placeOf(config)),
        );
        if (!isKnown) merged.push(config);
      }
    }
    return merged;
  }

  #isForgotten(view: ClusterView, config: ReplicaConfig, silentMs: number): boolean {
    if (silentMs <= this.#forgetAfterMs) return false;
    const seen = view.replicas.get(config.name);
    return seen === undefined || seen.state === "unknown" || isGone(seen.state);
  }
}

/** True when both lists name the same replicas at the same places. */
export function sameReplicas(
  known: readonly ReplicaConfig[],
  now: readonly ReplicaConfig[],
): boolean {
  if (known.length !== now.length) return false;
  return now.every((config) =>
    known.some((other) => other.name === config.name && placeOf(other) === placeOf(config)),
  );
}

function note(named: Map<string, Named>, configs: readonly ReplicaConfig[], nowMs: number): void {
  for (const config of configs) {
    const known = named.get(config.name);
    if (known === undefined) {
      if (named.size < namedLimit) named.set(config.name, { config, lastMs: nowMs });
      continue;
    }
    known.lastMs = nowMs;
    if (placeOf(known.config) !== placeOf(config)) known.config = config;
  }
}

function placeOf({ origin, basePath }: ReplicaConfig): string {
  return origin + basePath;
}

function byName([left]: readonly [string, Named], [right]: readonly [string, Named]): number {
  return left < right ? -1 : left > right ? 1 : 0;
}
