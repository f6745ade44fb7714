// The encoder of one server, as its sidecar learns it: the fingerprint of its options, and whether it encodes at
// all and fast enough, tried with two segments of the shortest film. The trial goes through the server's public
// API with the API key: it belongs to no user, appears in no session, and its files are gone when it ends. It is
// made once when the server is there for the first time and again when its options have changed.

import type { Encodes } from "../core/cluster/condition.ts";
import { encodesOf, fingerprintOf, type Trial } from "../core/cluster/encoder.ts";
import type { JellyfinClient } from "../core/jellyfin/client.ts";

export interface EncoderSight {
  /** Empty while it is not known. */
  readonly encoder: string;
  readonly encodes: Encodes;
}

export interface EncoderWatchOptions {
  readonly replica: string;
  readonly client: JellyfinClient;
  /** Distinguishes this process's trials from others'. */
  readonly nonce: string;
  readonly probes: boolean;
  /** A segment that takes longer says nothing but that the encoder is slow, in ms. */
  readonly segmentLimitMs: number;
  /** Wait before an encoder that failed or was slow is tried again, in ms. */
  readonly retryMs: number;
  readonly monotonicMs: () => number;
  readonly log: {
    debug(message: string): void;
    info(message: string): void;
    warn(message: string): void;
  };
  readonly onChange: (sight: EncoderSight) => void;
}

const segmentSeconds = 3;
const trialSegments = 2;

export class EncoderWatch {
  readonly #options: EncoderWatchOptions;
  #sight: EncoderSight = { encoder: "", encodes: "unknown" };
  #running: Promise<void> | undefined;
  #trials = 0;
  #retryAtMs = 0;

  constructor(options: EncoderWatchOptions) {
    this.#options = options;
  }

  get sight(): EncoderSight {
    return this.#sight;
  }

  /** Reads the options, and tries the encoder where they are new. Several calls at one time are one. */
  look(serverVersion: string): Promise<void> {
    this.#running ??= this.#look(serverVersion).finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  async #look(serverVersion: string): Promise<void> {
    const { client, probes, monotonicMs, retryMs } = this.#options;
    const answer = await client.encodingConfiguration();
    if (answer.outcome !== "ok") return;
    const encoder = fingerprintOf(serverVersion, answer.encoding);
    const isNew = encoder !== this.#sight.encoder;
    if (isNew) this.#tell({ encoder, encodes: "unknown" });
    const nowMs = monotonicMs();
    const { encodes } = this.#sight;
    const isDue = encodes !== "ok" && (encodes === "unknown" || this.#retryAtMs <= nowMs);
    if (!probes || !isDue) return;
    const trial = await this.#try();
    if (trial === undefined) return;
    this.#retryAtMs = nowMs + retryMs;
    this.#tell({ encoder, encodes: encodesOf(trial) });
  }

  #tell(sight: EncoderSight): void {
    const { replica, log, onChange } = this.#options;
    const before = this.#sight;
    this.#sight = sight;
    if (sight.encodes === "failing") {
      log.warn(`server ${replica} fails to encode: new plays go elsewhere`);
    } else if (sight.encodes === "slow") {
      log.warn(`server ${replica} encodes slower than films run: new plays go elsewhere`);
    } else if (sight.encodes !== before.encodes) {
      log.debug(`server ${replica} encodes (${sight.encoder})`);
    }
    onChange(sight);
  }

  /** Undefined: nothing could be learned. */
  async #try(): Promise<Trial | undefined> {
    const { client, nonce, segmentLimitMs, log, replica } = this.#options;
    const found = await client.probeItem();
    if (found.outcome !== "ok" || found.item === undefined) return undefined;
    const { item } = found;
    const name = `jellybloom-trial-${nonce.slice(0, 8)}-${++this.#trials}`;
    const wanted = Math.floor(item.runTimeTicks / (segmentSeconds * 10_000_000));
    const count = Math.max(1, Math.min(trialSegments, wanted));
    let tookMs = 0;
    try {
      for (let number = 0; number < count; number++) {
        const segment = { number, seconds: segmentSeconds };
        const answer = await client.encodeSegment(item, name, segment, segmentLimitMs);
        if (answer.outcome === "ok") {
          tookMs += answer.segment.tookMs;
          continue;
        }
        // Only the server's own word is a failure: it was there, had the film, and could not.
        if (answer.outcome === "failed" && answer.failure === "timedOut") {
          return { worked: true, filmSeconds: segmentSeconds, tookMs: segmentLimitMs };
        }
        const status = answer.outcome === "failed" ? answer.status : undefined;
        log.debug(`a short encode at ${replica} was answered ${status ?? answer.outcome}`);
        return status !== undefined && status >= 500 && status !== 503
          ? { worked: false }
          : undefined;
      }
      return { worked: true, filmSeconds: count * segmentSeconds, tookMs };
    } finally {
      await client.stopEncodings(name, name);
    }
  }
}
