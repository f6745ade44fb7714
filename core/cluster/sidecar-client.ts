// The sidecars as others call them: a door that waits for a token hurries the sidecar of that replica, and
// a new leader asks each which epoch it has seen. Only sidecars whose announcement was proven are called,
// every call carries a proof of its own, and hints (hurry, doubt) are sent once for many requests, without
// anybody waiting for them: a sidecar that does not hear one still finds the same in the store.

import { isCount, isRecord, parsedJson } from "../service/json.ts";
import type { Seal } from "../service/seal.ts";
import type { Epoch, Member } from "../store/store.ts";
import { verifyMember } from "./member.ts";

export interface SidecarCallsOptions {
  readonly seal: Seal;
  readonly log: { debug(message: string): void };
  readonly now: () => number;
  /** How long one call may take, in ms. */
  readonly callLimitMs: number;
}

export type SidecarAnswer =
  | { readonly outcome: "ok"; readonly body: unknown }
  | { readonly outcome: "refused"; readonly status: number; readonly error: string }
  | { readonly outcome: "failed"; readonly why: string };

export const urgentPath = "/jellybloom/urgent";
export const suspectPath = "/jellybloom/suspect";
export const epochSeenPath = "/jellybloom/epoch-seen";
export const restartPath = "/jellybloom/restart";

/** The same hint is not sent again for so long, in ms: the sidecar keeps an urgent login for ten seconds. */
const hintRestMs = 1000;
const hintsRemembered = 5000;
const hintsRunningLimit = 64;
const answerLimitBytes = 256 * 1024;

/** Calls to the sidecars of a cluster, by the name of their replica. */
export class SidecarCalls {
  readonly #options: SidecarCallsOptions;
  #urls: ReadonlyMap<string, string> = new Map();
  readonly #hintedMs = new Map<string, number>();
  #hintsRunning = 0;

  constructor(options: SidecarCallsOptions) {
    this.#options = options;
  }

  /** The registry as it was last read. Members without a proof of this cluster's key are left out. */
  setMembers(members: readonly Member[]): void {
    const urls = new Map<string, string>();
    for (const member of members) {
      if (member.sidecarUrl === "" || !verifyMember(this.#options.seal, member)) continue;
      if (!URL.canParse(member.sidecarUrl)) continue;
      urls.set(member.replica, member.sidecarUrl.replace(/\/+$/, ""));
    }
    this.#urls = urls;
  }

  /** Where that replica's sidecar listens, by its own proven word; undefined while it is not known. */
  urlOf(replica: string): string | undefined {
    return this.#urls.get(replica);
  }

  get names(): string[] {
    return [...this.#urls.keys()];
  }

  /** A request waits for this identity's token there. */
  urgent(replica: string, identityKey: string): void {
    this.#hint(replica, urgentPath, identityKey);
  }

  /** That server refused a token which the cluster knows. */
  suspect(replica: string, identityKey: string): void {
    this.#hint(replica, suspectPath, identityKey);
  }

  /**
   * The highest epoch that the gates of these replicas have seen, as far as they can be reached; undefined
   * when none has seen any. Never rejects.
   */
  async highestEpochSeen(replicas: readonly string[] = this.names): Promise<Epoch | undefined> {
    const answers = await Promise.all(
      replicas.map((replica) => this.call(replica, epochSeenPath, {})),
    );
    let highest: Epoch | undefined;
    for (const answer of answers) {
      const epoch = answer.outcome === "ok" ? readEpoch(answer.body) : undefined;
      if (epoch !== undefined && (highest === undefined || epoch.number > highest.number)) {
        highest = epoch;
      }
    }
    return highest;
  }

  /** One call with a proof. Never rejects. */
  async call(replica: string, path: string, body: unknown): Promise<SidecarAnswer> {
    const base = this.#urls.get(replica);
    if (base === undefined) return { outcome: "failed", why: `no sidecar of ${replica} is known` };
    return await callProven(this.#options.seal, base, path, body, this.#options.callLimitMs);
  }

  #hint(replica: string, path: string, identityKey: string): void {
    if (!this.#urls.has(replica)) return;
    const name = `${path}\n${replica}\n${identityKey}`;
    const nowMs = this.#options.now();
    const hintedMs = this.#hintedMs.get(name);
    if (hintedMs !== undefined && nowMs - hintedMs < hintRestMs) return;
    if (this.#hintsRunning >= hintsRunningLimit) return;
    if (this.#hintedMs.size >= hintsRemembered) this.#hintedMs.clear();
    this.#hintedMs.set(name, nowMs);
    this.#hintsRunning++;
    void this.call(replica, path, { identity: identityKey }).then((answer) => {
      this.#hintsRunning--;
      if (answer.outcome === "ok") return;
      this.#options.log.debug(`the sidecar of ${replica} did not take a hint: ${whyNot(answer)}`);
    });
  }
}

/** Half a sentence. */
export function whyNot(answer: Exclude<SidecarAnswer, { readonly outcome: "ok" }>): string {
  return answer.outcome === "failed" ? answer.why : answer.error;
}

/** POSTs JSON with a proof made with the cluster key, to a sidecar or an admin port. Never rejects. */
export async function callProven(
  seal: Seal,
  base: string,
  path: string,
  body: unknown,
  limitMs: number,
): Promise<SidecarAnswer> {
  const url = new URL(base.replace(/\/+$/, "") + path);
  const text = JSON.stringify(body);
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...seal.proofHeaders("POST", url.pathname, text),
      },
      body: text,
      redirect: "error",
      signal: AbortSignal.timeout(limitMs),
    });
    const answer = await response.text();
    if (answer.length > answerLimitBytes)
      return { outcome: "failed", why: "its answer is too long" };
    const told = parsedJson(answer);
    if (response.ok) return { outcome: "ok", body: told };
    return { outcome: "refused", status: response.status, error: errorOf(told, response.status) };
  } catch (error) {
    return { outcome: "failed", why: causeOf(error, limitMs) };
  }
}

/** An epoch from an answer; undefined when it is none. */
export function readEpoch(value: unknown): Epoch | undefined {
  if (!isRecord(value)) return undefined;
  const { number, owner } = value;
  return isCount(number) && typeof owner === "string" ? { number, owner } : undefined;
}

function errorOf(told: unknown, status: number): string {
  return isRecord(told) && typeof told.error === "string" ? told.error : `status ${status}`;
}

function causeOf(error: unknown, limitMs: number): string {
  if (!(error instanceof Error)) return "unknown";
  if (error.name === "TimeoutError") return `no answer within ${limitMs} ms`;
  return error.cause instanceof Error ? error.cause.message : error.message;
}
