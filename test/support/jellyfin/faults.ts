/**
 * The switches that make a stand-in fail as real servers fail, and the log of every request it received. They are
 * worked from the control port only, so nothing a client sends can reach them. A switch names requests by method and by
 * a pattern over path and query, and may count itself out after a number of hits.
 */
import { hash } from "node:crypto";

export type LoggedRequest = {
  readonly seq: number;
  readonly at: number;
  readonly method: string;
  readonly path: string;
  readonly search: string;
  readonly token: string | undefined;
  readonly range: string | undefined;
  readonly forwardedFor: string | undefined;
  bodyBytes: number;
  bodyHash: string | undefined;
  status: number | undefined;
};

type Switch = { method: string | undefined; pattern: RegExp; times: number };
export type Slow = Switch & { firstByteMs: number };
export type Reset = Switch & { afterBytes: number; beforeDeed: boolean; how: "reset" | "close" };
export type Silent = Switch & { executed: boolean };
export type Fails = Switch & { status: number };

type SwitchRequest = { path?: unknown; method?: unknown; times?: unknown };

/** Enough for the longest test; older entries leave first. */
const LOGGED_REQUESTS_MAX = 50_000;

export class Faults {
  slow: Slow[] = [];
  reset: Reset[] = [];
  silent: Silent[] = [];
  fails: Fails[] = [];
  refuseAllTokens = false;
  refusedTokens = new Set<string>();
  health: { status: number; body: string } | undefined;
  subtitleExtractionMs = 0;
  subtitleExtractions = 0;
  readonly counts = new Map<string, number>();
  #log: LoggedRequest[] = [];
  #seq = 0;

  /** All switches off; the log stays. */
  clear(): void {
    this.slow = [];
    this.reset = [];
    this.silent = [];
    this.fails = [];
    this.refuseAllTokens = false;
    this.refusedTokens.clear();
    this.health = undefined;
    this.subtitleExtractionMs = 0;
  }

  note(
    entry: Omit<LoggedRequest, "seq" | "at" | "bodyBytes" | "bodyHash" | "status">,
  ): LoggedRequest {
    this.#seq += 1;
    const logged: LoggedRequest = {
      ...entry,
      seq: this.#seq,
      at: Date.now(),
      bodyBytes: 0,
      bodyHash: undefined,
      status: undefined,
    };
    this.#log.push(logged);
    // Cut in large steps, because moving the array costs as much as it is long.
    if (this.#log.length > LOGGED_REQUESTS_MAX * 1.2) {
      this.#log = this.#log.slice(-LOGGED_REQUESTS_MAX);
    }
    const key = `${entry.method} ${entry.path}`;
    if (this.counts.size < LOGGED_REQUESTS_MAX || this.counts.has(key)) {
      this.counts.set(key, (this.counts.get(key) ?? 0) + 1);
    }
    return logged;
  }

  noteBody(entry: LoggedRequest, body: Buffer): void {
    entry.bodyBytes = body.length;
    if (body.length > 0) entry.bodyHash = hash("sha256", body, "hex");
  }

  requests(method?: string, pattern?: RegExp): LoggedRequest[] {
    return this.#log.filter(
      (entry) =>
        (method === undefined || entry.method === method) &&
        (pattern === undefined || pattern.test(entry.path + entry.search)),
    );
  }

  forgetRequests(): void {
    this.#log = [];
    this.counts.clear();
  }
}

/** The first switch that matches, one of its hits used up. */
export function takeSwitch<S extends Switch>(
  switches: S[],
  method: string,
  target: string,
): S | undefined {
  if (switches.length === 0) return undefined;
  const found = switches.find(
    (one) =>
      one.times > 0 &&
      (one.method === undefined || one.method === method) &&
      one.pattern.test(target),
  );
  if (found !== undefined) found.times -= 1;
  return found;
}

/** A switch as posted to the control port: a pattern (text of a regular expression, any case), a method, a count. */
export function readSwitch(posted: SwitchRequest): Switch {
  return {
    method: typeof posted.method === "string" ? posted.method.toUpperCase() : undefined,
    pattern: new RegExp(typeof posted.path === "string" ? posted.path : ".", "i"),
    times: typeof posted.times === "number" ? posted.times : Number.POSITIVE_INFINITY,
  };
}
