// What is sent to the chosen replica, and by which lane: the request as that replica is to see it, made from the
// untouched original each time, with the credentials it knows; and the headers of our own that the client sees.

import {
  removeToken,
  type SwappedRequest,
  swapToken,
  translateLegacy,
} from "../core/jellyfin/credentials.ts";
import { type Continuation, segmentKey, segmentOf } from "../core/jellyfin/playback.ts";
import type { Route } from "../core/jellyfin/routes.ts";
import type { Attendant, Rewritten } from "./attendant.ts";
import { watchedForSize } from "./body.ts";
import { Bounded } from "./bounded.ts";
import type { RequestFacts } from "./facts.ts";
import { cookieHeader, headFields, plainUpstreamHead, upstreamHead } from "./headers.ts";
import { answered, requestBody, requestText } from "./id-swaps.ts";
import type { Job } from "./job.ts";
import { type Attempt, type LaneOutcome, Relay } from "./lanes/relay.ts";
import { fetchSegment, refusalOf, sendSegment } from "./lanes/segment.ts";
import { upload } from "./lanes/upload.ts";
import type { Link } from "./links.ts";
import type { DoorParts } from "./parts.ts";
import type { Placing } from "./placing.ts";
import { asDoubtfulImage, tooLarge } from "./reply.ts";

/** The largest answer in which ids are put in place of others. */
const swapLimitBytes = 8 * 1024 * 1024;

export class Sending {
  readonly #parts: DoorParts;
  readonly #attendants: (route: Route) => readonly Attendant[];
  readonly #placing: Placing;

  constructor(
    parts: DoorParts,
    attendants: (route: Route) => readonly Attendant[],
    placing: Placing,
  ) {
    this.#parts = parts;
    this.#attendants = attendants;
    this.#placing = placing;
  }

  /** What the replica is to see in place of what the client said; each attendant sees the last one's. */
  #rewritten(job: Job, replica: string): Rewritten | undefined {
    let rewritten: Rewritten | undefined;
    for (const attendant of this.#attendants(job.facts.route)) {
      const own = attendant.rewrite?.(job, replica);
      if (own !== undefined) rewritten = { ...rewritten, ...own };
    }
    return rewritten;
  }

  attempt(job: Job, link: Link, whole: boolean, rest: Continuation | undefined): Attempt {
    const { facts, client } = job;
    const name = link.config.name;
    const rewritten = this.#rewritten(job, name);
    const swap = this.#parts.idSwaps.of(name, job.identity);
    const path = rewritten?.path ?? facts.path;
    const ownBody = rewritten?.body ?? job.body;
    const body =
      swap === undefined
        ? ownBody
        : requestBody(swap, ownBody, client.head.headers["content-type"] ?? "");
    const rawQuery =
      swap === undefined
        ? rewritten?.rawQuery
        : requestText(swap, rewritten?.rawQuery ?? facts.rawQuery);
    const asked = {
      method: facts.method,
      path: swap === undefined ? path : requestText(swap, path),
      rawHeaders: client.head.rawHeaders,
      swapped: this.swapped(job, name, rawQuery),
      origin: facts.origin,
      bodyLength: body?.length ?? (mayHaveBody(facts.method) ? 0 : undefined),
      // What is compressed cannot be looked into.
      plainAnswer:
        (facts.route.gives !== "none" || swap !== undefined) && facts.route.lane === "message",
      whole: whole || (facts.route.kind === "image" && !this.#knowsTag(job, name)),
      range: rest?.range,
    };
    const { memo } = client.head;
    const isPlain =
      memo !== undefined &&
      asked.bodyLength === undefined &&
      asked.range === undefined &&
      !asked.plainAnswer &&
      !asked.whole;
    const head = isPlain ? plainUpstreamHead(asked, memo) : upstreamHead(asked);
    const repeatable = job.repeatable === "yes";
    return {
      link,
      wire: { head, body, isHead: facts.method === "HEAD", fresh: !repeatable },
      repeatable: repeatable || this.#mayLeave(job),
      startedMs: this.#parts.clock.monotonicMs(),
      giveUpMs: job.deadlineMs,
    };
  }

  /** Whether another replica could carry out what one that froze in the middle of it may have begun. */
  #mayLeave(job: Job): boolean {
    const repeats = this.#attendants(job.facts.route).some(
      (attendant) => attendant.repeats?.(job) === true,
    );
    // The one that is being asked counts as ready, too.
    return repeats && this.#placing.replicasLeft(job) > 1;
  }

  /** The credentials as this replica knows them. */
  swapped(job: Job, replica: string, rawQuery = job.facts.rawQuery): SwappedRequest {
    const { memory, caretakers, translateLegacy: translate } = this.#parts;
    const { facts, identity } = job;
    const { credentials, credentialHeaders } = facts;
    if (job.isRevoked || credentials.overlong) return removeToken(credentialHeaders, rawQuery);
    if (identity === undefined) {
      if (translate && credentials.legacyForm) return translateLegacy(credentialHeaders, rawQuery);
      return { headers: credentialHeaders, rawQuery };
    }
    const own = memory.openToken(identity, replica);
    const token =
      own ??
      (identity.kind === "apiKey" ? caretakers.apiKeyOf(replica) : undefined) ??
      credentials.token ??
      "";
    if (token === credentials.token && !(translate && credentials.legacyForm)) {
      return { headers: credentialHeaders, rawQuery };
    }
    return swappedOf(credentialHeaders, rawQuery, token, translate);
  }

  /** Whether this replica is where the client got the image's tag from. */
  #knowsTag(job: Job, replica: string): boolean {
    const { facts } = job;
    if (facts.query.tag === undefined && facts.params.tag === undefined) return true;
    if (this.#parts.health.view.replicas.size === 1) return true;
    const home =
      job.identity === undefined ? undefined : this.#parts.homes.homeOf(job.identity.userId);
    return (
      replica === (home ?? facts.cookie ?? this.#placing.replicaByAddress.get(facts.origin.address))
    );
  }

  relayFor(job: Job): Relay {
    const { limits } = this.#parts;
    const { route } = job.facts;
    const holds = route.lane === "message" || route.lane === "playlist";
    const { idSwaps } = this.#parts;
    // An answer that is streamed cannot be looked into: while ids differ, larger ones are held.
    const limitBytes = idSwaps.areNeeded
      ? Math.max(limits.responseBufferLimitBytes, swapLimitBytes)
      : limits.responseBufferLimitBytes;
    return new Relay({
      client: job.client,
      holdLimitBytes: holds ? limitBytes : 0,
      onHead: (head) => {
        if (route.kind === "image" && !this.#knowsTag(job, job.replica)) asDoubtfulImage(head);
        this.addHeaders(job, head.headers);
      },
      onWhole: (reply) => {
        const swap = idSwaps.of(job.replica, job.identity);
        return swap === undefined ? reply : answered(swap, reply);
      },
    });
  }

  addHeaders(job: Job, headers: string[]): void {
    const { homes } = this.#parts;
    const { facts, identity } = job;
    this.explain(job, headers);
    if (identity === undefined || identity.kind !== "user") return;
    const home = homes.homeOf(identity.userId) ?? job.replica;
    this.#placing.replicaByAddress.set(facts.origin.address, home);
    if (facts.isBrowser && facts.cookie !== home) headers.push("Set-Cookie", cookieHeader(home));
  }

  /** Says who answers and why, where the owner wants it told. */
  explain({ replica, reason }: Job, headers: string[]): void {
    if (this.#parts.explainHeader) headers.push("X-Jellybloom-Explain", `${replica}; ${reason}`);
  }

  async segment(job: Job, link: Link): Promise<LaneOutcome | "noRoom"> {
    const { segments, metrics } = this.#parts;
    const { facts, client } = job;
    const isHead = facts.method === "HEAD";
    const agent = client.head.headers["user-agent"] ?? "";
    const owner = job.identity?.key ?? facts.credentials.token ?? "";
    const key = `${segmentKey(facts.path, facts.rawQuery, agent)}\n${owner}`;
    let segment = segments.find(key);
    if (segment !== undefined) metrics.segments.kept.add();
    else {
      const attempt = this.attempt(job, link, true, undefined);
      // The whole segment is asked for even when only its head is wanted: it is played next.
      const wire = isHead
        ? { ...attempt.wire, head: attempt.wire.head.replace(/^HEAD /, "GET "), isHead: false }
        : attempt.wire;
      const outcome = await fetchSegment({ ...attempt, wire }, client, segments);
      if (outcome.kind === "noRoom") {
        metrics.segments.streamed.add();
        return "noRoom";
      }
      if (outcome.kind === "refused") job.refusal ??= refusalOf(outcome);
      if (outcome.kind !== "held") return outcome;
      metrics.segments[job.attempts > 1 ? "refetched" : "whole"].add();
      segment = outcome.segment;
      segments.keep(key, segment, segmentOf(facts.params)?.number === -1);
    }
    const copy = [...segment.head.headers];
    this.addHeaders(job, copy);
    try {
      const status = await sendSegment(client, segment, copy, isHead);
      return client.hasLeft ? { kind: "clientLeft" } : { kind: "completed", status };
    } finally {
      segment.release();
    }
  }

  async upload(job: Job, link: Link, body: AsyncIterable<Buffer>): Promise<LaneOutcome> {
    const { limits, metrics } = this.#parts;
    const { facts, client } = job;
    const attempt = this.attempt(job, link, false, undefined);
    const { target, headers } = headFields(attempt.wire.head);
    const length = client.head.headers["content-length"];
    if (length !== undefined) headers.push("content-length", length);
    const leaving = new AbortController();
    const onLeft = () => leaving.abort();
    client.onLeft = onLeft;
    let isTooLarge = false;
    const limited = watchedForSize(body, () => {
      isTooLarge = true;
    });
    try {
      const outcome = await upload(link.config.origin, {
        method: facts.method,
        path: target,
        headers,
        body: limited,
        connectLimitMs: limits.connectLimitMs,
        answerLimitBytes: Math.max(limits.responseBufferLimitBytes, 1024 * 1024),
        signal: leaving.signal,
      });
      // Once its first byte has gone, a streamed body is gone.
      job.repeatable = "ifNotSent";
      if (!isTooLarge) return outcome;
      metrics.refusals.bodyTooLarge.add();
      const reply = tooLarge(limits.bodyLimitBytes);
      return { kind: "answered", reply };
    } finally {
      client.onLeft = undefined;
    }
  }
}

function mayHaveBody(method: string): boolean {
  return method === "POST" || method === "PUT" || method === "PATCH";
}

/** The last swap of each header: a client sends the same one with the same token again and again. */
const swaps = new Bounded<string, { readonly token: string; readonly swapped: SwappedRequest }>(
  5000,
);

function swappedOf(
  headers: RequestFacts["credentialHeaders"],
  rawQuery: string,
  token: string,
  translate: boolean,
): SwappedRequest {
  const { authorization } = headers;
  // Only requests whose sole credential is that header: then the query is untouched by the swap.
  const isPlain =
    authorization !== undefined &&
    headers["x-emby-authorization"] === undefined &&
    headers["x-emby-token"] === undefined &&
    headers["x-mediabrowser-token"] === undefined &&
    !/api_?key/i.test(rawQuery) &&
    !rawQuery.includes("%");
  if (!isPlain) return swapToken(headers, rawQuery, token, { translate });
  const known = swaps.get(authorization);
  if (known !== undefined && known.token === token) {
    return rawQuery === "" ? known.swapped : { headers: known.swapped.headers, rawQuery };
  }
  const swapped = swapToken(headers, "", token, { translate });
  // A token that could not go into the header goes into the query: nothing to remember then.
  if (swapped.rawQuery !== "") return swapToken(headers, rawQuery, token, { translate });
  swaps.set(authorization, { token, swapped });
  return { headers: swapped.headers, rawQuery };
}
