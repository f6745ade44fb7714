// The attendant of tasks and administration: what only the leader may do is sent through the leader's gate,
// with the epoch of the lease as this door knows it and a proof. While nobody leads, or the gate says that
// another epoch counts, the request waits for the next leader within its own time; then it is answered 503,
// which administrators' clients show as «try again». Nothing is sent twice that may have been done.
//
// What administrators read back of such changes is read at the leader's server while that is ready.

import { STATUS_CODES } from "node:http";
import {
  epochHeader,
  epochHeaderName,
  type GateVerdict,
  gateHeaderName,
  gatePrefix,
  provenPath,
} from "../../core/cluster/gate-call.ts";
import type { Identity } from "../../core/cluster/identity.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import {
  type SwappedRequest,
  swapToken,
  translateLegacy,
} from "../../core/jellyfin/credentials.ts";
import { isGated, isReadAtLeader } from "../../core/jellyfin/gated.ts";
import type { Clock } from "../../core/service/clock.ts";
import { parsedObject } from "../../core/service/json.ts";
import type { Log } from "../../core/service/log.ts";
import { proofHeaderName, type Seal } from "../../core/service/seal.ts";
import type { Lease } from "../../core/store/store.ts";
import type { Attendant, Attended } from "../attendant.ts";
import type { HeldReply } from "../client.ts";
import { headFields, upstreamHead } from "../headers.ts";
import { ownReply, tooLarge, unavailable } from "../reply.ts";
import { identityNow, lacksToken, leaderOf, nextCall } from "./leader.ts";

export interface GateAttendantParts {
  readonly memory: Memory;
  readonly seal: Seal;
  readonly clock: Clock;
  readonly log: Log;
  /**
   * Where the sidecar of that replica listens, by its own proven word; undefined while it is not known. What
   * the lease says of its holder's address is not used: whoever writes the store could write another.
   */
  readonly sidecarUrl: (replica: string) => string | undefined;
  /** A request waits for this identity's token there. */
  readonly urgent: (replica: string, identityKey: string) => void;
  /** The cluster's own API key there, in place of a client's that only another replica has. */
  readonly apiKeyOf: (replica: string) => string | undefined;
  /** With one replica there is nothing to put in order. */
  readonly isCluster: () => boolean;
  readonly translateLegacy: boolean;
  readonly bodyLimitBytes: number;
  readonly connectLimitMs: number;
  /** How long the leader's server may take for an answer, in ms. */
  readonly answerLimitMs: number;
}

/** While the gate says no, and no new leader is heard of, it is asked again after this. */
const againAfterMs = 200;

export function createGateAttendant(parts: GateAttendantParts): Attendant {
  const { memory, isCluster } = parts;
  return {
    name: "gate",
    attends: (route) => isGated(route) || isReadAtLeader(route),
    async before(asked) {
      const { route } = asked.facts;
      if (!isGated(route) || !isCluster()) return undefined;
      // Reading a schedule can wait for nobody: the home's own is the next best thing.
      if (route.methods.includes("GET") && leaderOf(memory) === undefined) return undefined;
      return await throughGate(parts, asked);
    },
    bound() {
      const lease = isCluster() ? leaderOf(memory) : undefined;
      return lease === undefined ? undefined : { replica: lease.replica, kind: "leader" };
    },
  };
}

async function throughGate(parts: GateAttendantParts, asked: Attended): Promise<HeldReply> {
  const { memory, clock, sidecarUrl, log } = parts;
  // A body too large to keep cannot be proven.
  if (asked.bodyText === undefined) return tooLarge(parts.bodyLimitBytes);
  let why = "Nobody leads the cluster right now.";
  for (;;) {
    const lease = leaderOf(memory);
    const url = lease === undefined ? undefined : sidecarUrl(lease.replica);
    const identity = identityNow(memory, asked);
    if (lease !== undefined && identity !== undefined && lacksToken(identity, lease.replica)) {
      parts.urgent(lease.replica, identity.key);
      why = "The leader's server does not know this login yet.";
    } else if (lease !== undefined && url !== undefined) {
      const answer = await callGate(parts, asked, identity, lease, url);
      if (answer.kind !== "notDone") asked.passedTo = lease.replica;
      if (answer.kind === "reply") return answer.reply;
      why = answer.why;
      log.debug(`the gate of ${lease.replica} did not let a request through: ${why}`);
      if (answer.kind === "mayBeDone") return unavailable(why);
    }
    const leftMs = asked.deadlineMs - clock.monotonicMs();
    if (leftMs <= 0 || asked.hasLeft) return unavailable(why);
    await nextCall((listener) => memory.onLease(listener), Math.min(leftMs, againAfterMs));
  }
}

type GateAnswer =
  | { readonly kind: "reply"; readonly reply: HeldReply }
  | { readonly kind: "notDone" | "mayBeDone"; readonly why: string };

async function callGate(
  parts: GateAttendantParts,
  asked: Attended,
  identity: Identity | undefined,
  lease: Lease,
  url: string,
): Promise<GateAnswer> {
  const { seal, connectLimitMs, answerLimitMs, bodyLimitBytes } = parts;
  const { facts, body = Buffer.alloc(0) } = asked;
  const { target, headers } = headFor(parts, asked, identity, lease.replica, body.length);
  const gate = new URL(url);
  const path = gate.pathname.replace(/\/+$/, "") + gatePrefix(lease.replica) + target;
  const epoch = epochHeader(lease.epoch);
  const proof = seal.proofHeaders(facts.method, provenPath(path, epoch), body);
  headers.push(epochHeaderName, epoch, proofHeaderName, proof[proofHeaderName]);
  const leaving = AbortSignal.timeout(connectLimitMs + answerLimitMs);
  try {
    // Imported with the first use, which most processes never make (see lanes/upload.ts).
    const { request: send } = await import("undici");
    const answer = await send(gate.origin + path, {
      method: facts.method as "GET",
      headers,
      body: body.length === 0 ? null : body,
      // A connection of its own: one that the other side is just closing could not be told from a death.
      reset: true,
      headersTimeout: answerLimitMs,
      bodyTimeout: answerLimitMs,
      signal: leaving,
    });
    const bytes = Buffer.from(await answer.body.arrayBuffer());
    const verdict = answer.headers[gateHeaderName] as GateVerdict | undefined;
    const own = judged(verdict, bytes);
    if (own !== undefined) return own;
    if (bytes.length > bodyLimitBytes) {
      return { kind: "mayBeDone", why: "The answer is too large." };
    }
    return { kind: "reply", reply: replyOf(answer.statusCode, answer.headers, bytes) };
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "unknown";
    const isUnsent = code === "ECONNREFUSED" || code === "UND_ERR_CONNECT_TIMEOUT";
    const why = `The leader's gate cannot be reached (${code}).`;
    const isHarmless = facts.route.repeatable === "yes";
    return { kind: isUnsent || isHarmless ? "notDone" : "mayBeDone", why };
  }
}

/** What the gate itself said; undefined when it is an answer for the client. */
function judged(verdict: GateVerdict | undefined, bytes: Buffer): GateAnswer | undefined {
  switch (verdict) {
    case undefined:
      // Whoever listens there is no gate, such as a loopback address of another machine.
      return { kind: "notDone", why: "The leader's gate cannot be reached." };
    case "epoch":
      return { kind: "notDone", why: "Another leader is about to take over." };
    case "unsent":
      return { kind: "notDone", why: "The leader's server cannot be reached." };
    case "broke":
      return {
        kind: "mayBeDone",
        why: "The leader's server did not answer; it may have been done.",
      };
    case "proof":
    case "malformed":
    case "notGated":
    case "tooLarge":
      return { kind: "mayBeDone", why: `The leader's gate refused: ${errorIn(bytes)}.` };
    case "answer":
    case "passed":
      return undefined;
    default:
      return { kind: "mayBeDone", why: "The leader's gate is of another version." };
  }
}

function errorIn(bytes: Buffer): string {
  const error = parsedObject(bytes.toString("utf8"))?.error;
  return typeof error === "string" ? error : "no reason was given";
}

/** The request as that replica is to see it. */
function headFor(
  parts: GateAttendantParts,
  { facts, rawHeaders }: Attended,
  identity: Identity | undefined,
  replica: string,
  bodyLength: number,
): { readonly target: string; readonly headers: string[] } {
  const head = upstreamHead({
    method: facts.method,
    path: facts.path,
    rawHeaders,
    swapped: swappedFor(parts, facts, identity, replica),
    origin: facts.origin,
    bodyLength: facts.method === "GET" || facts.method === "HEAD" ? undefined : bodyLength,
    plainAnswer: true,
    whole: false,
  });
  return headFields(head);
}

function swappedFor(
  parts: GateAttendantParts,
  { credentials, credentialHeaders, rawQuery }: Attended["facts"],
  identity: Identity | undefined,
  replica: string,
): SwappedRequest {
  const { memory, apiKeyOf, translateLegacy: translate } = parts;
  if (identity === undefined) {
    return translate && credentials.legacyForm
      ? translateLegacy(credentialHeaders, rawQuery)
      : { headers: credentialHeaders, rawQuery };
  }
  const token =
    memory.openToken(identity, replica) ??
    (identity.kind === "apiKey" ? apiKeyOf(replica) : undefined) ??
    credentials.token ??
    "";
  return swapToken(credentialHeaders, rawQuery, token, { translate });
}

/** Headers of the connection between us and the gate, and of the gate itself. */
const notPassedOn = /^(?:connection|keep-alive|transfer-encoding|content-length|x-jellybloom-.*)$/;

function replyOf(
  status: number,
  answered: Readonly<Record<string, string | string[] | undefined>>,
  body: Buffer,
): HeldReply {
  const headers: string[] = [];
  for (const [name, value] of Object.entries(answered)) {
    if (value === undefined || notPassedOn.test(name)) continue;
    for (const one of Array.isArray(value) ? value : [value]) headers.push(name, one);
  }
  const reply = ownReply(status, STATUS_CODES[status] ?? "", "", headers);
  return { head: { ...reply.head, contentLength: body.length }, body };
}
