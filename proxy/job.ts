// One request while it lives: what was asked, who asked, where it was sent, and what has come of it so far. It
// holds no decision and does no deed: the rooms of the door read it and write down in it what they did.

import type { Identity } from "../core/cluster/identity.ts";
import type { Repeatable } from "../core/jellyfin/routes.ts";
import type { Client, HeldReply } from "./client.ts";
import type { RequestFacts } from "./facts.ts";

/** Everything about one request while it lives. */
export class Job {
  readonly client: Client;
  readonly facts: RequestFacts;
  readonly startedMs: number;
  identity: Identity | undefined;
  isRevoked = false;
  recognition: Promise<Identity | undefined> | undefined;
  body: Buffer | undefined;
  /** The rest of a body too large to keep. */
  bodyStream: AsyncIterable<Buffer> | undefined;
  bodyIterator: AsyncIterator<Buffer> | undefined;
  /** The client asked first whether its body is wanted, and was told so. */
  toldToGoOn = false;
  #bodyText: string | undefined;
  repeatable: Repeatable = "yes";
  deadlineMs = 0;
  attempts = 0;
  replica = "";
  reason = "";
  status: number | undefined;
  // Made with the first that is noted: most requests are answered at once.
  #refusedBy: Set<string> | undefined;
  #failed: Set<string> | undefined;
  #refusals: Map<number, number> | undefined;
  refusal: HeldReply | undefined;
  waitedMs = 0;
  passedTo?: string;

  constructor(client: Client, facts: RequestFacts, startedMs: number) {
    this.client = client;
    this.facts = facts;
    this.startedMs = startedMs;
  }

  get rawHeaders(): readonly string[] {
    return this.client.head.rawHeaders;
  }

  get hasLeft(): boolean {
    return this.client.hasLeft;
  }

  /** Replicas whose own answer this request has. */
  get refusedBy(): Set<string> {
    this.#refusedBy ??= new Set();
    return this.#refusedBy;
  }

  /** Replicas that failed since something last changed. */
  get failed(): Set<string> {
    this.#failed ??= new Set();
    return this.#failed;
  }

  /** How often each status was a replica's own refusal. */
  get refusals(): Map<number, number> {
    this.#refusals ??= new Map();
    return this.#refusals;
  }

  get tried(): ReadonlySet<string> {
    return this.failed.size === 0 ? this.refusedBy : new Set([...this.refusedBy, ...this.failed]);
  }

  /** The body as text; undefined when there is none at hand. */
  get bodyText(): string | undefined {
    if (this.body === undefined) return this.bodyStream === undefined ? "" : undefined;
    this.#bodyText ??= bodyTextOf(this.body, this.client.head.headers["content-type"]);
    return this.#bodyText;
  }
}

/**
 * A body's text as ASP.NET reads it: UTF-8 with or without its mark, or UTF-16 with the low byte first where the content
 * type says so (SystemTextJsonInputFormatter; it refuses every other encoding). What only a server could read would be
 * changed there and told to nobody.
 */
export function bodyTextOf(body: Buffer, contentType: string | undefined): string {
  const isWide =
    contentType !== undefined &&
    /charset\s*=\s*"?(?:utf-?16|unicode|ucs-?2|iso-10646-ucs-2)/i.test(contentType);
  const text = body.toString(isWide ? "utf16le" : "utf8");
  return text.charCodeAt(0) === byteOrderMark ? text.slice(1) : text;
}

const byteOrderMark = 0xfeff;

export function laneName(facts: RequestFacts): "message" | "bytes" {
  return facts.route.lane === "bytes" || facts.route.lane === "segment" ? "bytes" : "message";
}
