// The lane of HLS segments: whole or not at all. A segment is fetched into memory and only then answered,
// with Range and HEAD served from the bytes in hand; when its replica dies it is fetched again elsewhere
// and the player sees one slow segment instead of a broken one. Where memory has no room the segment is
// streamed, counted, and can break off like any other stream.

import { parseRange } from "../../core/jellyfin/playback.ts";
import type { BrokenPhase, Exchange, ResponseHead, WireSink } from "../../core/jellyfin/wire.ts";
import type { Client, HeldReply } from "../client.ts";
import type { Link, Running } from "../links.ts";
import type { HeldSegment, SegmentMemory } from "../segments.ts";
import { type Attempt, isDoubtful, type LaneOutcome, track } from "./relay.ts";

export type SegmentOutcome =
  | LaneOutcome
  | { readonly kind: "held"; readonly segment: HeldSegment }
  /** It does not fit into the budget, or its length is not told: it must be streamed. */
  | { readonly kind: "noRoom" };

/** Fetches one segment into memory. The caller must release what it holds. */
export function fetchSegment(
  attempt: Attempt,
  client: Client,
  memory: SegmentMemory,
): Promise<SegmentOutcome> {
  return new Promise((resolve) => {
    new SegmentFetch(attempt, client, memory, resolve);
  });
}

class SegmentFetch implements WireSink {
  readonly #client: Client;
  readonly #memory: SegmentMemory;
  readonly #resolve: (outcome: SegmentOutcome) => void;
  readonly #exchange: Exchange;
  readonly #link: Link;
  readonly #running: Running;
  readonly #pieces: Buffer[] = [];
  #segment: HeldSegment | undefined;
  #head: ResponseHead | undefined;
  #isSettled = false;

  constructor(
    attempt: Attempt,
    client: Client,
    memory: SegmentMemory,
    resolve: (outcome: SegmentOutcome) => void,
  ) {
    this.#client = client;
    this.#memory = memory;
    this.#resolve = resolve;
    const onLeft = () => {
      this.#exchange.abort();
      this.#settle({ kind: "clientLeft" });
    };
    client.onLeft = onLeft;
    this.#exchange = attempt.link.bytes.send(attempt.wire, this);
    this.#link = attempt.link;
    this.#running = track(attempt, this.#exchange);
  }

  onHead(head: ResponseHead): void {
    this.#head = head;
    if (head.status !== 200) return;
    if (head.contentLength !== undefined) {
      const { status, statusText, headers } = head;
      this.#segment = this.#memory.reserve({ status, statusText, headers }, head.contentLength);
    }
    if (this.#segment !== undefined) return;
    this.#exchange.abort();
    this.#settle({ kind: "noRoom" });
  }

  room(): Buffer | undefined {
    return this.#segment?.room();
  }

  onData(chunk: Buffer): boolean {
    if (this.#segment !== undefined) this.#segment.append(chunk);
    // Whatever is not the segment is an error's text, and small.
    else if (this.#pieces.length < 64) this.#pieces.push(Buffer.from(chunk));
    return true;
  }

  onEnd(): void {
    const segment = this.#segment;
    if (segment !== undefined) {
      this.#segment = undefined;
      this.#settle({ kind: "held", segment });
      return;
    }
    const head = this.#head;
    if (head === undefined) return;
    const reply: HeldReply = { head, body: Buffer.concat(this.#pieces) };
    if (isDoubtful(head.status)) this.#settle({ kind: "refused", status: head.status }, reply);
    else this.#settle({ kind: "answered", reply });
  }

  onBroken(phase: BrokenPhase, why: string): void {
    if (phase === "notConnected") this.#settle({ kind: "notConnected", why });
    else if (phase === "beforeReply") this.#settle({ kind: "brokeBeforeReply", why });
    else this.#settle({ kind: "brokeDuringReply", why, sent: false });
  }

  #settle(outcome: SegmentOutcome, refusal?: HeldReply): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    this.#link.running.remove(this.#running);
    this.#client.onLeft = undefined;
    this.#segment?.release();
    if (refusal !== undefined) refusals.set(outcome, refusal);
    this.#resolve(outcome);
  }
}

/** The answers behind refusals, for as long as somebody holds the outcome. */
const refusals = new WeakMap<object, HeldReply>();

/** The refusal's own answer, in case it is the cluster's. */
export function refusalOf(outcome: SegmentOutcome): HeldReply | undefined {
  return refusals.get(outcome);
}

/**
 * Answers with a held segment, or the part of it that a single Range asks for (RFC 9110, 14.2). Resolves
 * when it has gone out or the client has gone; the segment is the caller's until then. `heldHeaders` are
 * the segment's own and whatever the door adds.
 */
export async function sendSegment(
  client: Client,
  segment: HeldSegment,
  heldHeaders: readonly string[],
  isHead: boolean,
): Promise<number> {
  const { head: asked, response } = client;
  const { length } = segment;
  const range = isHead ? undefined : parseRange(asked.headers.range);
  const wanted = range === undefined ? undefined : resolveRange(range, length);
  const headers = heldHeaders.filter(isSendable(heldHeaders));
  if (wanted === "unsatisfiable") {
    headers.push("Content-Range", `bytes */${length}`);
    client.begin(
      {
        status: 416,
        statusText: "Range Not Satisfiable",
        headers,
        contentLength: 0,
        hasBody: false,
      },
      0,
    );
    response.end();
    return 416;
  }
  const first = wanted?.first ?? 0;
  const last = wanted?.last ?? length - 1;
  const status = wanted === undefined ? 200 : 206;
  if (wanted !== undefined) headers.push("Content-Range", `bytes ${first}-${last}/${length}`);
  const statusText = status === 206 ? "Partial Content" : segment.head.statusText;
  const head = { status, statusText, headers, contentLength: undefined, hasBody: true };
  client.begin(head, last - first + 1);
  if (!isHead) {
    for (const piece of segment.pieces(first, last)) {
      client.sentBytes += piece.length;
      if (!response.write(piece)) await drained(client);
      if (client.hasLeft) return status;
    }
  }
  response.end();
  await new Promise<void>((resolve) => client.whenClosed(resolve));
  return status;
}

function isSendable(headers: readonly string[]): (text: string, index: number) => boolean {
  return (_, index) => {
    const name = (headers[index % 2 === 0 ? index : index - 1] ?? "").toLowerCase();
    return name !== "content-range" && name !== "content-length";
  };
}

function resolveRange(
  range: { first: number | undefined; last: number | undefined; suffixLength: number | undefined },
  length: number,
): { first: number; last: number } | "unsatisfiable" {
  if (range.suffixLength !== undefined) {
    if (range.suffixLength === 0 || length === 0) return "unsatisfiable";
    return { first: Math.max(0, length - range.suffixLength), last: length - 1 };
  }
  const first = range.first ?? 0;
  if (first >= length) return "unsatisfiable";
  return { first, last: Math.min(range.last ?? length - 1, length - 1) };
}

function drained(client: Client): Promise<void> {
  const { response } = client;
  return new Promise((resolve) => {
    const finish = (): void => {
      response.off("drain", finish);
      client.onLeft = undefined;
      resolve();
    };
    response.once("drain", finish);
    client.onLeft = finish;
    if (client.hasLeft) finish();
  });
}
