// Health: how each replica looks from this proxy. It asks every replica's /health at its own pace, and at
// once when a request has reason to doubt one; what it finds becomes the view that placement reads. Rule
// 10: silence of a request is only a reason to probe, and a replica that answers probes is alive however
// slow it is.

import type { BehindCause } from "../core/cluster/journal-cursor.ts";
import type { ReplicaConfig, ReplicaState } from "../core/cluster/replica.ts";
import { awayLookIntervalMs, isGone } from "../core/cluster/replica.ts";
import {
  type ClusterView,
  initialView,
  withCondition,
  withObservation,
  withReplicas,
} from "../core/cluster/view.ts";
import type { HealthAnswer, JellyfinClient } from "../core/jellyfin/client.ts";
import type { Clock } from "../core/service/clock.ts";
import type { Log } from "../core/service/log.ts";
import { restMs } from "../core/service/loop.ts";
import type { Metrics } from "../core/service/metrics.ts";

export interface HealthOptions {
  readonly probeIntervalMs: number;
  /** The same while nobody uses the door, and every replica that is looked at is ready. */
  readonly quietProbeIntervalMs: number;
  /** Nobody uses it when for so long nobody has asked for anything, and `isInUse` says so. */
  readonly quietAfterMs: number;
  /** Whether anything is under way: a request, or a socket that is open. */
  readonly isInUse: () => boolean;
  /** Probes in a row without an answer after which a replica counts as frozen. */
  readonly silentProbes: number;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly clock: Clock;
  /** A client for one replica whose calls are limited to the probe's time. */
  readonly clientOf: (config: ReplicaConfig) => JellyfinClient;
  /** Why a server that is well must not be used, as the cluster knows it; undefined: it may be. */
  readonly whyUnfit?: (replica: string) => string | undefined;
}

/** How often a ready replica's wizard is asked again, in probes. */
const wizardEveryProbes = 30;

interface Watched {
  readonly config: ReplicaConfig;
  readonly client: JellyfinClient;
  readonly stop: AbortController;
  wake: () => void;
  isProbing: boolean;
  silent: number;
  broken: number;
  probesUntilWizard: number;
  isWizardComplete: boolean;
  readonly sinceMs: number;
  /** Whether it was ready or unfit once: what it knows was there to be asked for. */
  wasUp: boolean;
}

export class Health {
  readonly #options: HealthOptions;
  readonly #watched = new Map<string, Watched>();
  readonly #listeners = new Set<(view: ClusterView, before: ClusterView) => void>();
  #view: ClusterView;
  #signal: AbortSignal | undefined;
  #usedMs: number;
  #isQuiet = false;

  constructor(options: HealthOptions) {
    this.#options = options;
    this.#usedMs = options.clock.monotonicMs();
    this.#view = initialView([], options.clock.monotonicMs());
  }

  get view(): ClusterView {
    return this.#view;
  }

  /** True when some replica's startup wizard is known to be complete. */
  get isAnyWizardComplete(): boolean {
    for (const watched of this.#watched.values()) if (watched.isWizardComplete) return true;
    return false;
  }

  /** The list of replicas as it is now; those that stay keep what is known of them. */
  setReplicas(configs: readonly ReplicaConfig[]): void {
    const before = this.#view;
    this.#view = withReplicas(before, configs, this.#options.clock.monotonicMs());
    for (const [name, watched] of this.#watched) {
      if (this.#view.replicas.get(name)?.config === watched.config) continue;
      watched.stop.abort();
      watched.wake();
      void watched.client.close();
      this.#watched.delete(name);
      this.#options.metrics.replicaState.remove(name);
      this.#options.metrics.replicaBehind.remove(name);
    }
    for (const { config, state } of this.#view.replicas.values()) {
      if (this.#watched.has(config.name)) continue;
      const watched: Watched = {
        config,
        client: this.#options.clientOf(config),
        stop: new AbortController(),
        wake: () => undefined,
        isProbing: false,
        silent: 0,
        broken: 0,
        probesUntilWizard: 0,
        isWizardComplete: false,
        sinceMs: this.#options.clock.monotonicMs(),
        wasUp: false,
      };
      this.#watched.set(config.name, watched);
      this.#options.metrics.replicaState.set(config.name, state);
      if (this.#signal !== undefined) void this.#watch(watched);
    }
    this.#tell(before);
  }

  /** Probes until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    this.#signal = signal;
    for (const watched of this.#watched.values()) void this.#watch(watched);
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      else signal.addEventListener("abort", () => resolve(), { once: true });
    });
    for (const watched of this.#watched.values()) {
      watched.stop.abort();
      watched.wake();
      void watched.client.close();
    }
  }

  /** What the cluster says of a replica beyond whether it answers (core/cluster/condition.ts). */
  setCondition(
    name: string,
    condition: {
      readonly isDraining: boolean;
      readonly refusesPlays: boolean;
      readonly encoder?: string;
      readonly behind?: BehindCause | undefined;
    },
  ): void {
    const before = this.#view;
    const wasDraining = before.replicas.get(name)?.isDraining ?? false;
    this.#view = withCondition(before, name, condition);
    let draining = 0;
    for (const { isDraining } of this.#view.replicas.values()) if (isDraining === true) draining++;
    this.#options.metrics.replicasDraining.set(draining);
    this.#options.metrics.replicaBehind.set(name, condition.behind === undefined ? 0 : 1);
    if (this.#view !== before && wasDraining !== condition.isDraining) {
      const { log } = this.#options;
      if (condition.isDraining) log.info(`replica ${name} drains: nobody new is placed there`);
      else log.info(`replica ${name} drains no longer: people may be placed there again`);
    }
    this.#tell(before);
  }

  /** A request has reason to doubt this replica: it is probed at once. */
  suspect(name: string): void {
    const watched = this.#watched.get(name);
    if (watched !== undefined && !watched.isProbing) watched.wake();
  }

  /** Somebody asks for something: whatever was looked at seldom is looked at now, and often from now on. */
  noteUse(nowMs: number): void {
    this.#usedMs = nowMs;
    if (!this.#isQuiet) return;
    this.#isQuiet = false;
    for (const name of this.#watched.keys()) this.suspect(name);
  }

  onChange(listener: (view: ClusterView, before: ClusterView) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  /** Resolves when the view is another than `version`, or after `limitMs`. */
  changed(version: number, limitMs: number): Promise<void> {
    if (this.#view.version !== version || limitMs <= 0) return Promise.resolve();
    return new Promise((resolve) => {
      const finish = (): void => {
        clearTimeout(timer);
        stop();
        resolve();
      };
      const stop = this.onChange(finish);
      const timer = setTimeout(finish, limitMs);
    });
  }

  /**
   * Resolves when every replica has been seen up once. One that has not within `limitMs` of being named is not
   * waited for: a door that has just started must not take a server that is slow just then for one that is away.
   */
  async everyFirstLook(limitMs: number): Promise<void> {
    const { clock } = this.#options;
    for (;;) {
      const leftMs = [...this.#watched.values()]
        .filter(({ wasUp }) => !wasUp)
        .map(({ sinceMs }) => sinceMs + limitMs - clock.monotonicMs());
      const longestMs = Math.max(0, ...leftMs);
      if (longestMs === 0) return;
      await this.changed(this.#view.version, longestMs);
    }
  }

  async #watch(watched: Watched): Promise<void> {
    const { probeIntervalMs } = this.#options;
    const { signal } = watched.stop;
    while (!signal.aborted && this.#signal?.aborted !== true) {
      watched.isProbing = true;
      const answer = await watched.client.health();
      watched.isProbing = false;
      if (signal.aborted) return;
      this.#options.metrics.probes[answer.state === "healthy" ? "answered" : "failed"].add();
      const state = await this.#judge(watched, answer);
      if (signal.aborted) return;
      if (state === undefined) continue;
      this.#observe(watched.config.name, state.state, state.reason);
      // A server on its way up is asked more often: every moment of it somebody may be waiting.
      const waitMs =
        state.state === "ready"
          ? this.#readyIntervalMs()
          : Math.min(probeIntervalMs, awayLookIntervalMs);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, restMs(waitMs, performance.now()));
        const wake = () => {
          clearTimeout(timer);
          resolve();
        };
        watched.wake = wake;
      });
    }
  }

  #readyIntervalMs(): number {
    const { clock, isInUse, probeIntervalMs, quietAfterMs, quietProbeIntervalMs } = this.#options;
    if (isInUse()) this.#usedMs = clock.monotonicMs();
    this.#isQuiet = clock.monotonicMs() - this.#usedMs >= quietAfterMs;
    return this.#isQuiet ? Math.max(probeIntervalMs, quietProbeIntervalMs) : probeIntervalMs;
  }

  /** Undefined: one probe more is needed, at once. */
  async #judge(
    watched: Watched,
    answer: HealthAnswer,
  ): Promise<{ readonly state: ReplicaState; readonly reason: string } | undefined> {
    watched.silent = answer.state === "silent" ? watched.silent + 1 : 0;
    watched.broken = answer.state === "broke" ? watched.broken + 1 : 0;
    switch (answer.state) {
      case "healthy":
        return this.#judgeWizard(watched, answer.reason);
      case "silent":
        if (watched.silent < this.#options.silentProbes) return undefined;
        return { state: "frozen", reason: answer.reason };
      case "refused":
        watched.probesUntilWizard = 0;
        return { state: "dead", reason: answer.reason };
      case "broke":
        // One connection may break for reasons of its own.
        if (watched.broken < 2) return undefined;
        return { state: "dead", reason: answer.reason };
      default:
        watched.probesUntilWizard = 0;
        return { state: "starting", reason: answer.reason };
    }
  }

  async #judgeWizard(
    watched: Watched,
    reason: string,
  ): Promise<{ readonly state: ReplicaState; readonly reason: string } | undefined> {
    if (watched.probesUntilWizard > 0) {
      watched.probesUntilWizard--;
    } else {
      const info = await watched.client.publicInfo();
      if (info.outcome !== "ok") {
        const said = info.outcome === "failed" ? info.message : `it answered ${info.status}`;
        return { state: "starting", reason: `healthy, but not telling what it is: ${said}` };
      }
      watched.isWizardComplete = info.info.startupWizardCompleted;
      watched.probesUntilWizard = watched.isWizardComplete ? wizardEveryProbes : 0;
    }
    const why = this.#watched.size > 1 ? this.#options.whyUnfit?.(watched.config.name) : undefined;
    if (why !== undefined) return { state: "unfit", reason: why };
    // Behind a door with one server the wizard itself is what people come for.
    if (watched.isWizardComplete || this.#watched.size === 1) return { state: "ready", reason };
    return { state: "unfit", reason: "its startup wizard was never completed" };
  }

  #observe(name: string, state: ReplicaState, reason: string): void {
    const before = this.#view;
    const known = before.replicas.get(name);
    const watched = this.#watched.get(name);
    if (watched !== undefined && (state === "ready" || state === "unfit")) watched.wasUp = true;
    this.#view = withObservation(before, name, state, reason, this.#options.clock.monotonicMs());
    if (known?.state !== state) {
      this.#options.metrics.replicaState.set(name, state);
      const level = isGone(state) || state === "unfit" ? "warn" : "info";
      const since = known === undefined ? "" : `, it was ${known.state}`;
      this.#options.log[level](`replica ${name} is ${state}${since}: ${reason}`);
    }
    this.#tell(before);
  }

  #tell(before: ClusterView): void {
    if (this.#view === before) return;
    for (const listener of this.#listeners) listener(this.#view, before);
  }
}
