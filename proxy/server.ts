// The front door: one request from accept to close. `#serve` reads as the program's table of contents;
// `#answer` is the only loop that sends a request again. What is decided is decided in pure functions
// (facts.ts, place.ts, retry.ts); here the deeds are put in their order.

import type { IncomingMessage, ServerResponse } from "node:http";
import { hashOf, type Identity, normalId } from "../core/cluster/identity.ts";
import type { Memory } from "../core/cluster/memory.ts";
import { isGone } from "../core/cluster/replica.ts";
import { stateOf } from "../core/cluster/view.ts";
import type { JellyfinClient } from "../core/jellyfin/client.ts";
import {
  removeToken,
  type SwappedRequest,
  swapToken,
  translateLegacy,
} from "../core/jellyfin/credentials.ts";
import {
  bodyValue,
  type Continuation,
  continuation,
  isWholeFile,
  queryValue,
  repeatableFor,
  segmentKey,
  segmentOf,
} from "../core/jellyfin/playback.ts";
import { matchRoute, type Repeatable, type Route } from "../core/jellyfin/routes.ts";
import type { Clock } from "../core/service/clock.ts";
import type { OpenLog } from "../core/service/log.ts";
import { type Metrics, statusClass } from "../core/service/metrics.ts";
import type { Store } from "../core/store/store.ts";
import type { Attendant, Rewritten } from "./attendant.ts";
import { Bounded } from "./bounded.ts";
import { CapabilityNotes } from "./capabilities.ts";
import { Client, type HeldReply } from "./client.ts";
import { type HeadProblem, type RequestFacts, readFacts, readHeaderFacts } from "./facts.ts";
import {
  clientOrigin,
  cookieHeader,
  plainAddress,
  plainUpstreamHead,
  type TrustedProxies,
  upstreamHead,
} from "./headers.ts";
import type { Health } from "./health.ts";
import type { Homes } from "./homes.ts";
import { type Attempt, type LaneOutcome, Relay } from "./lanes/relay.ts";
import { fetchSegment, refusalOf, sendSegment } from "./lanes/segment.ts";
import type { SocketAsked, SocketTarget } from "./lanes/socket-host.ts";
import { upload } from "./lanes/upload.ts";
import type { Link, Links } from "./links.ts";
import { type Logins, readAuthenticationResult } from "./logins.ts";
import { type Asked, mayMoveHome, type Placement, place } from "./place.ts";
import type { PlainRequest, PlainResponse } from "./plain.ts";
import {
  asDoubtfulImage,
  badHead,
  forbidden,
  noContent,
  notFound,
  quickConnectIsOff,
  tooLarge,
  unauthorised,
  unavailable,
  withLocalAddress,
  withoutOurSessions,
} from "./reply.ts";
import { decideNext } from "./retry.ts";
import type { SegmentMemory } from "./segments.ts";

export interface DoorLimits {
  readonly apiHoldLimitMs: number;
  readonly mediaHoldLimitMs: number;
  readonly mintWaitLimitMs: number;
  readonly connectLimitMs: number;
  readonly bodyBufferLimitBytes: number;
  readonly bodyLimitBytes: number;
  readonly responseBufferLimitBytes: number;
}

/** What the door knows of the caretakers behind it. In another process there are none to call. */
export interface Caretakers {
  /** A request waits for this identity's token at that replica. */
  urgent(replica: string, identityKey: string): void;
  /** That replica refused the token of an identity which the cluster knows. */
  suspect(replica: string, identityKey: string): void;
  /** True when this identity can get no token at that replica until somebody acts. */
  isBarred(replica: string, identityKey: string): boolean;
  /** The cluster's own API key there; it stands in for a client's key that only another replica has. */
  apiKeyOf(replica: string): string | undefined;
}

export interface DoorParts {
  readonly limits: DoorLimits;
  readonly store: Store;
  readonly memory: Memory;
  readonly health: Health;
  readonly links: Links;
  readonly homes: Homes;
  readonly logins: Logins;
  readonly segments: SegmentMemory;
  readonly metrics: Metrics;
  readonly log: OpenLog;
  readonly clock: Clock;
  readonly caretakers: Caretakers;
  /** A client for our own calls to a replica; undefined for one that is not known. */
  readonly clientOf: (replica: string) => JellyfinClient | undefined;
  /** Asked in this order; the first that answers or binds is heard. */
  readonly attendants: readonly Attendant[];
  readonly trusted: TrustedProxies;
  readonly baseSegments: readonly string[];
  readonly basePath: string;
  readonly prefer: string | undefined;
  readonly quickConnect: boolean;
  /** The door's address for clients, with the base path; undefined: the one each client used. */
  readonly publicUrl: string | undefined;
  readonly explainHeader: boolean;
  readonly translateLegacy: boolean;
}

/** More attempts than this for one answer are no bad luck but a mistake of ours. */
const attemptsLimit = 40;
const passwordResetPinMs = 35 * 60_000;
/** A probe of a server that is gone is refused at once; longer is not waited for what it says. */
const verdictLimitMs = 300;
/** A token on its way is waited for this long when another replica could answer at once. */
const shortMintWaitMs = 1000;
const lacksKeepMs = 60_000;
/** How long the rest of a refused body is read and thrown away. */
const readOnLimitMs = 2000;
/** Clients look whether a server is there with this much patience. */
const firstLookLimitMs = 900;
const rememberedLimit = 10_000;

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
  /** Replicas whose own answer this request has. */
  readonly refusedBy = new Set<string>();
  /** Replicas that failed since something last changed. */
  readonly failed = new Set<string>();
  readonly refusals = new Map<number, number>();
  refusal: HeldReply | undefined;
  waitedMs = 0;

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

  get tried(): ReadonlySet<string> {
    return this.failed.size === 0 ? this.refusedBy : new Set([...this.refusedBy, ...this.failed]);
  }

  /** The body as text; undefined when there is none at hand. */
  get bodyText(): string | undefined {
    if (this.body === undefined) return this.bodyStream === undefined ? "" : undefined;
    this.#bodyText ??= this.body.toString("utf8");
    return this.#bodyText;
  }
}

/** A device's last POST of its capabilities, to be said again wherever the device lands. */
export interface RememberedCapabilities {
  readonly facts: RequestFacts;
  readonly rawHeaders: readonly string[];
  readonly body: Buffer | undefined;
}

export class Door {
  /** Requests under way. */
  running = 0;
  /** Set when the process is about to end: connections are not kept for another request. */
  isEnding = false;
  readonly capabilities = new Bounded<string, RememberedCapabilities>(rememberedLimit);
  readonly #capabilityNotes: CapabilityNotes;
  readonly #parts: DoorParts;
  /** Items that a replica was found to lack while another has them. */
  readonly #lacks = new Bounded<string, { replicas: Set<string>; untilMs: number }>(
    rememberedLimit,
  );
  /** Where the last identity from an address lives: images come without any token. */
  readonly #replicaByAddress = new Bounded<string, string>(rememberedLimit);
  readonly #tokenWaiters = new Map<string, Set<() => void>>();
  readonly #attendantsByRoute = new Map<Route, readonly Attendant[]>();
  #whenIdle: (() => void) | undefined;

  constructor(parts: DoorParts) {
    this.#parts = parts;
    this.#capabilityNotes = new CapabilityNotes({ ...parts, log: parts.log.log });
    parts.memory.onIdentity((identity) => {
      const waiters = this.#tokenWaiters.get(identity.key);
      if (waiters !== undefined) for (const wake of [...waiters]) wake();
    });
  }

  /** Answers a request. `badly` is what is wrong with its head, when the caller found something. */
  handle(
    request: IncomingMessage,
    response: ServerResponse,
    badly: HeadProblem | null = null,
  ): void {
    const client = Client.ofNode(request, response, this.#parts.clock.monotonicMs);
    this.#take(client, this.facts(request), badly);
  }

  /** Answers a request whose head is beyond doubt and which has no body. */
  handlePlain(request: PlainRequest, response: PlainResponse, peer: string): void {
    const { trusted, baseSegments, clock } = this.#parts;
    const { headers, memo } = request.block;
    memo.facts ??= readHeaderFacts(headers);
    memo.origin ??= clientOrigin(plainAddress(peer), headers, false, trusted);
    const facts = readFacts(request.method, request.url, memo.facts, memo.origin, baseSegments);
    this.#take(Client.ofPlain(request, response, clock.monotonicMs), facts, null);
  }

  #take(client: Client, facts: RequestFacts, badly: HeadProblem | null): void {
    const { clock, limits, metrics } = this.#parts;
    const startedMs = clock.monotonicMs();
    const job = new Job(client, facts, startedMs);
    job.deadlineMs = startedMs + holdLimitMs(facts, limits);
    if (this.isEnding) client.response.shouldKeepAlive = false;
    this.running++;
    metrics.lane[laneName(job.facts)].running.add();
    if (this.#isRefused(job, badly)) this.#close(job);
    else if (!this.#askAtOnce(job)) this.#finally(job, this.#serve(job));
  }

  #attendants(route: Route): readonly Attendant[] {
    let attendants = this.#attendantsByRoute.get(route);
    if (attendants === undefined) {
      attendants = this.#parts.attendants.filter((attendant) => attendant.attends(route));
      this.#attendantsByRoute.set(route, attendants);
    }
    return attendants;
  }

  #finally(job: Job, work: Promise<void>): void {
    work
      .catch((error: unknown) => {
        this.#parts.log.log.error({ err: error }, "a request failed by a mistake of ours");
        job.client.cut();
      })
      .finally(() => this.#close(job));
  }

  /** Resolves when no request runs any more. */
  idle(): Promise<void> {
    if (this.running === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#whenIdle = resolve;
    });
  }

  /** Refused by its head alone: answered, true. */
  #isRefused(job: Job, badly: HeadProblem | null): boolean {
    const refusal =
      badly === null
        ? this.#screen(job)
        : this.#refused("badRequest", badHead(badly.status, badly.why));
    if (refusal === undefined) return false;
    this.#sendOwn(job, refusal, badly?.why ?? "refused by the door");
    return true;
  }

  async #serve(job: Job): Promise<void> {
    const { client, facts } = job;
    const bodyProblem = await this.#readBody(job);
    if (bodyProblem !== undefined) {
      this.#sendOwn(job, bodyProblem, "its body is too large");
      return;
    }
    if (client.hasLeft) return;
    job.repeatable = repeatableFor(facts.route, facts.rawQuery, job.bodyText);
    const own = await this.#guard(job);
    if (own !== undefined) {
      this.#sendOwn(job, own, "guarded by the door");
      return;
    }
    for (const attendant of this.#attendants(facts.route)) {
      if (attendant.before === undefined) continue;
      // Who asks decides what an attendant says, so a token nobody here knows is looked up first.
      if (job.identity === undefined && job.recognition !== undefined) {
        job.identity = await job.recognition;
      }
      const answer = await attendant.before(job);
      if (answer === undefined) continue;
      this.#sendOwn(job, answer, `answered by the door: ${attendant.name}`);
      return;
    }
    await this.#answer(job, this.#relayFor(job));
  }

  /**
   * The common case without a single wait before it is sent: a plain question whose replica is known and
   * has the token. Most requests are of this kind, and each wait not made saves about a microsecond. False
   * when it is none of these; whatever comes back but a whole answer goes the long way round.
   */
  #askAtOnce(job: Job): boolean {
    const { health, links } = this.#parts;
    const { route } = job.facts;
    const { headers } = job.client.head;
    const isPlain =
      route.lane === "message" &&
      route.gives === "none" &&
      route.ends === "none" &&
      route.guard === "none" &&
      route.repeatable === "yes" &&
      !route.needsLeader &&
      job.recognition === undefined &&
      this.#attendants(route).length === 0 &&
      headers["content-length"] === undefined &&
      headers["transfer-encoding"] === undefined;
    if (!isPlain) return false;
    const placement = place(this.#asked(job), health.view);
    if (placement.replica === undefined || placement.claimsHome) return false;
    if (job.identity?.kind === "user" && job.identity.tokens[placement.replica] === undefined) {
      return false;
    }
    const link = links.get(placement.replica);
    if (link === undefined) return false;
    job.replica = placement.replica;
    job.reason = placement.reason;
    job.attempts = 1;
    const relay = this.#relayFor(job);
    relay.start(this.#attempt(job, link, false, undefined), undefined, (outcome) => {
      if (outcome.kind !== "answered") {
        this.#finally(job, this.#goOn(job, relay, outcome));
        return;
      }
      this.#parts.metrics.lane.message.attempts.completed.add();
      this.#finish(job, outcome.reply, job.reason);
      this.#close(job);
    });
    return true;
  }

  async #goOn(job: Job, relay: Relay, outcome: LaneOutcome): Promise<void> {
    if (!(await this.#isDone(job, relay, outcome))) await this.#answer(job, relay);
  }

  /** The facts of a request, for `#serve`, for a socket's handshake and for `explain`. */
  facts(request: {
    readonly method?: string | undefined;
    readonly url?: string | undefined;
    readonly headers: IncomingMessage["headers"];
    readonly socket: { readonly remoteAddress?: string | undefined };
  }): RequestFacts {
    const peer = plainAddress(request.socket.remoteAddress ?? "");
    const origin = clientOrigin(peer, request.headers, false, this.#parts.trusted);
    return readFacts(
      request.method ?? "GET",
      request.url ?? "/",
      readHeaderFacts(request.headers),
      origin,
      this.#parts.baseSegments,
    );
  }

  // ---- What is refused or answered before any replica is asked --------------------------------------

  #screen(job: Job): HeldReply | undefined {
    const { memory, quickConnect, health, logins } = this.#parts;
    const { route, credentials } = job.facts;
    if (route.guard === "refuse" || this.#isMetricsOtherwise(job.facts)) {
      return this.#refused("forbidden", notFound());
    }
    if (route.guard === "startupWizard" && health.isAnyWizardComplete) {
      return this.#refused("forbidden", forbidden());
    }
    if (!quickConnect) {
      if (route.kind === "quickConnectEnabled") return quickConnectIsOff();
      if (route.kind === "quickConnectInitiate") return this.#refused("forbidden", unauthorised());
    }
    const { token } = credentials;
    if (token === undefined) return undefined;
    const standing = memory.standingOf(token);
    switch (standing.standing) {
      case "current":
        job.identity = standing.identity;
        return undefined;
      case "revoked":
        job.isRevoked = true;
        return route.anonymous ? undefined : this.#refused("unknownToken", unauthorised());
      case "unknown":
        // With one replica its own word is the only one there is.
        if (!route.anonymous && health.view.replicas.size > 1) {
          job.recognition = logins.recognise(token, credentials);
        }
        return undefined;
    }
  }

  /** Jellyfin's metrics answer to every method (prometheus-net maps a path); the route table knows reads. */
  #isMetricsOtherwise({ method, path }: RequestFacts): boolean {
    if (method === "GET" || method === "HEAD") return false;
    return matchRoute("GET", path, this.#parts.baseSegments).route.guard === "refuse";
  }

  #refused(reason: keyof Metrics["refusals"], reply: HeldReply): HeldReply {
    this.#parts.metrics.refusals[reason].add();
    return reply;
  }

  /** Checks that need to ask somebody: administrators' routes, and what must wait for the store. */
  async #guard(job: Job): Promise<HeldReply | undefined> {
    const { memory, health } = this.#parts;
    const { route } = job.facts;
    const needsOneOrder = route.needsLeader || route.kind === "password";
    if (needsOneOrder && !memory.storeAvailable && health.view.replicas.size > 1) {
      return this.#refused(
        "failsafe",
        unavailable("This change has to wait until the cluster's store can be reached again."),
      );
    }
    if (route.guard !== "adminOnly") return undefined;
    if (job.identity === undefined && job.recognition !== undefined) {
      job.identity = await job.recognition;
    }
    if (job.identity === undefined && health.view.replicas.size === 1) {
      return this.#adminAtTheOnlyReplica(job);
    }
    if (job.identity === undefined) return this.#refused("unknownToken", unauthorised());
    if (job.identity.kind === "apiKey") return undefined;
    for (const [replica, client] of this.readyClients()) {
      const token = memory.openToken(job.identity, replica);
      if (token === undefined) continue;
      const answer = await client.me(token);
      if (answer.outcome !== "ok") continue;
      return answer.user.isAdministrator ? undefined : this.#refused("forbidden", forbidden());
    }
    return this.#refused("forbidden", forbidden());
  }

  async #adminAtTheOnlyReplica(job: Job): Promise<HeldReply | undefined> {
    const { token } = job.facts.credentials;
    if (token === undefined) return this.#refused("unknownToken", unauthorised());
    for (const client of this.readyClients().values()) {
      const answer = await client.me(token);
      if (answer.outcome === "isApiKey") return undefined;
      if (answer.outcome === "ok") {
        return answer.user.isAdministrator ? undefined : this.#refused("forbidden", forbidden());
      }
    }
    return this.#refused("unknownToken", unauthorised());
  }

  /** Clients for our own calls to every ready replica. */
  readyClients(): ReadonlyMap<string, JellyfinClient> {
    const clients = new Map<string, JellyfinClient>();
    for (const [name, { state }] of this.#parts.health.view.replicas) {
      const client = state === "ready" ? this.#parts.clientOf(name) : undefined;
      if (client !== undefined) clients.set(name, client);
    }
    return clients;
  }

  /** Keeps the body when it is small enough to be sent again, else leaves it to be streamed. */
  async #readBody(job: Job): Promise<HeldReply | undefined> {
    const { node } = job.client;
    if (node === undefined) return undefined;
    const { request } = node;
    const declared = request.headers["content-length"];
    if (declared === undefined && request.headers["transfer-encoding"] === undefined)
      return undefined;
    const { bodyLimitBytes, bodyBufferLimitBytes } = this.#parts.limits;
    const length = declared === undefined ? undefined : Number(declared);
    if (length === 0) {
      job.body = emptyBody;
      return undefined;
    }
    if (length !== undefined && length > bodyLimitBytes) {
      return this.#refused("bodyTooLarge", tooLarge(bodyLimitBytes));
    }
    // Only now: what is refused is refused before a byte of its body is sent (RFC 9110, 10.1.1).
    if (request.headers.expect !== undefined && request.httpVersion !== "1.0") {
      node.response.writeContinue();
      job.toldToGoOn = true;
    }
    const pieces: Buffer[] = [];
    let kept = 0;
    const iterator = request.iterator({ destroyOnReturn: false });
    job.bodyIterator = iterator;
    if (length === undefined || length <= bodyBufferLimitBytes) {
      for (;;) {
        const next = await nextPiece(iterator);
        if (next === "gone") {
          job.client.hasLeft = true;
          return undefined;
        }
        if (next === undefined) {
          job.body = pieces.length === 1 ? (pieces[0] ?? emptyBody) : Buffer.concat(pieces);
          return undefined;
        }
        pieces.push(next);
        kept += next.length;
        if (kept > bodyBufferLimitBytes) break;
      }
    }
    job.bodyStream = restOfBody(pieces, iterator, bodyLimitBytes);
    return undefined;
  }

  // ---- The one loop ---------------------------------------------------------------------------------

  async #answer(job: Job, relay: Relay): Promise<void> {
    const { client, facts } = job;
    if (facts.route.ends === "identity" && job.identity !== undefined) {
      await this.#logout(job, job.identity);
      return;
    }
    let rest: Continuation | undefined;
    let isSegment = segmentLane(facts);
    while (!client.hasLeft) {
      if (job.attempts > 0) {
        for (const attendant of this.#attendants(facts.route)) await attendant.again?.(job);
      }
      const placement = await this.#place(job);
      if (placement === undefined) {
        if (job.refusal !== undefined && !client.response.headersSent) {
          this.#finish(job, job.refusal, "the replicas that could be asked agree");
        } else this.#giveUp(job);
        return;
      }
      const link = this.#parts.links.get(placement.replica);
      if (link === undefined) {
        job.failed.add(placement.replica);
        continue;
      }
      job.replica = placement.replica;
      job.reason = placement.reason;
      job.attempts++;
      let outcome: LaneOutcome;
      if (isSegment && rest === undefined) {
        const fetched = await this.#segment(job, link);
        if (fetched === "noRoom") {
          isSegment = false;
          job.attempts--;
          continue;
        }
        outcome = fetched;
      } else if (job.bodyStream !== undefined)
        outcome = await this.#upload(job, link, job.bodyStream);
      else outcome = await relay.run(this.#attempt(job, link, isSegment, rest), rest);
      if (await this.#isDone(job, relay, outcome)) return;
      if (relay.sentHead !== undefined) {
        rest = continuation(relay.sentHead, relay.streamedBytes);
        if (rest === undefined || !isWholeFile(facts.route.kind, facts.query)) {
          this.#parts.metrics.continuations.failed.add();
          this.#cut(job, "it broke in the middle of an answer that cannot be continued");
          return;
        }
        this.#parts.metrics.continuations.continued.add();
        job.deadlineMs = this.#parts.clock.monotonicMs() + this.#parts.limits.mediaHoldLimitMs;
        await this.#drained(job);
      }
    }
  }

  /** True when the request has had its answer or its end. */
  async #isDone(job: Job, relay: Relay, outcome: LaneOutcome): Promise<boolean> {
    const { metrics, health, caretakers } = this.#parts;
    const { route } = job.facts;
    const laneMetrics = metrics.lane[laneName(job.facts)];
    if (outcome.kind === "answered") {
      laneMetrics.attempts.completed.add();
      await this.#finishAnswered(job, outcome.reply);
      return true;
    }
    laneMetrics.attempts[outcome.kind].add();
    const judged = outcome.kind === "refused" ? await this.#judged(job, relay.held) : undefined;
    if (judged === "again") return false;
    if (judged !== undefined) {
      this.#finish(job, judged, job.reason);
      return true;
    }
    if (outcome.kind === "refused") {
      const reply = relay.held;
      if (reply !== undefined) job.refusal ??= reply;
      if (outcome.status !== 503) job.refusedBy.add(job.replica);
      else job.failed.add(job.replica);
      job.refusals.set(outcome.status, (job.refusals.get(outcome.status) ?? 0) + 1);
      if (outcome.status === 401) await this.#noteRefusedToken(job);
      if (outcome.status === 503) health.suspect(job.replica);
      if (outcome.status === 503 && reply !== undefined) job.refusal = undefined;
    } else if (outcome.kind !== "completed" && outcome.kind !== "clientLeft") {
      job.failed.add(job.replica);
      health.suspect(job.replica);
      // What died with its server may be asked elsewhere, and whether it died is known in a moment.
      if (route.memoryOnly && job.repeatable !== "yes") await this.#verdict(job.replica);
      // What came in that was not yet sent belongs to an answer that is gone.
      relay.held = undefined;
    }
    // A file that can be gone on with is no broken answer: the loop asks for the rest.
    const isContinuable =
      outcome.kind === "brokeDuringReply" &&
      outcome.sent &&
      relay.sentHead !== undefined &&
      isWholeFile(route.kind, job.facts.query) &&
      continuation(relay.sentHead, relay.streamedBytes) !== undefined;
    const seen = isContinuable ? ({ kind: "notConnected", why: outcome.why } as const) : outcome;
    const next = decideNext(seen, {
      repeatable: job.repeatable,
      answer: route.answer,
      memoryOnly: route.memoryOnly,
      tokenKnown: job.identity !== undefined,
      isSocket: false,
      replicaState: stateOf(health.view, job.replica),
      replicasLeft: this.#replicasLeft(job),
      sameRefusals: outcome.kind === "refused" ? (job.refusals.get(outcome.status) ?? 0) : 0,
      attempts: isContinuable ? 1 : job.attempts,
      attemptsLimit,
    });
    switch (next.next) {
      case "done":
        if (outcome.kind === "completed") job.status = outcome.status;
        return true;
      case "show":
        if (outcome.kind === "refused" && outcome.status === 401 && job.identity !== undefined) {
          caretakers.suspect(job.replica, job.identity.key);
        }
        this.#finish(job, job.refusal ?? unavailable(next.why), next.why);
        return true;
      case "cut":
        this.#cut(job, next.why);
        return true;
      case "elsewhere":
        metrics.retries[outcome.kind].add();
        return false;
      case "hold":
        metrics.retries[outcome.kind].add();
        return false;
    }
  }

  /** Resolves when a suspected replica looks other than ready, or after a moment. */
  async #verdict(replica: string): Promise<void> {
    const { health, clock } = this.#parts;
    const deadlineMs = clock.monotonicMs() + verdictLimitMs;
    while (stateOf(health.view, replica) === "ready") {
      const leftMs = deadlineMs - clock.monotonicMs();
      if (leftMs <= 0) return;
      await health.changed(health.view.version, leftMs);
    }
  }

  /** What an attendant makes of a refusal: the request is asked again, or the answer is shown. */
  async #judged(job: Job, reply: HeldReply | undefined): Promise<HeldReply | "again" | undefined> {
    if (reply === undefined || job.attempts >= attemptsLimit) return undefined;
    for (const attendant of this.#attendants(job.facts.route)) {
      const next = await attendant.refused?.(job, reply, job.replica);
      if (next === "again") return "again";
      if (next === "show") return reply;
    }
    return undefined;
  }

  /** A 401: whose opinion is it? An unknown token may turn out to be known elsewhere. */
  async #noteRefusedToken(job: Job): Promise<void> {
    const { caretakers, metrics } = this.#parts;
    if (job.identity !== undefined) {
      metrics.secondOpinions.add();
      caretakers.suspect(job.replica, job.identity.key);
      return;
    }
    if (job.recognition === undefined) return;
    job.identity = await job.recognition;
    job.recognition = undefined;
    if (job.identity === undefined) this.#parts.metrics.refusals.unknownToken.add();
    // It refused a token that was never its own; with its own one it is as good as any.
    else job.refusedBy.delete(job.replica);
  }

  #replicasLeft(job: Job): number {
    const { tried } = job;
    let left = 0;
    for (const [name, { state }] of this.#parts.health.view.replicas) {
      if (state !== "ready" || tried.has(name)) continue;
      if (job.identity !== undefined && this.#isBarred(job.identity, name)) continue;
      left++;
    }
    return left;
  }

  // ---- Where it goes --------------------------------------------------------------------------------

  /** The next replica for this request, claimed and with its token there; undefined: time is up. */
  async #place(
    job: Job,
  ): Promise<{ readonly replica: string; readonly reason: string } | undefined> {
    const { health, clock } = this.#parts;
    for (;;) {
      if (job.client.hasLeft) return undefined;
      const { view } = health;
      const placement = place(this.#asked(job), view, job.tried);
      const leftMs = job.deadlineMs - clock.monotonicMs();
      if (placement.replica === undefined) {
        if (!placement.mayCome && job.refusal !== undefined) return undefined;
        if (leftMs <= 0) return undefined;
        await this.#hold(job, view.version, leftMs, placement);
        continue;
      }
      const replica = await this.#claimed(job, placement);
      if (replica !== placement.replica) continue;
      if (await this.#hasToken(job, replica, leftMs)) return { replica, reason: placement.reason };
    }
  }

  /** Waits for the view to change; what failed before the change is worth another try after it. */
  async #hold(job: Job, version: number, leftMs: number, placement: Placement): Promise<void> {
    const { health, metrics, clock } = this.#parts;
    const beganMs = clock.monotonicMs();
    job.reason = placement.reason;
    metrics.holding.add();
    // A replica that failed may be there again without its state ever having changed here.
    await health.changed(version, Math.min(leftMs, job.failed.size > 0 ? 100 : leftMs));
    metrics.holding.subtract();
    job.waitedMs += clock.monotonicMs() - beganMs;
    job.failed.clear();
  }

  async #claimed(job: Job, placement: Placement & { readonly replica: string }): Promise<string> {
    const { homes, health } = this.#parts;
    const userId = job.identity?.userId;
    if (!placement.claimsHome || userId === undefined || userId === "") return placement.replica;
    const home = homes.homeOf(userId);
    if (home !== undefined) {
      // What another proxy said a second ago may be about a server that was restarting then.
      if (!homes.isReachedByOthers(home)) await homes.lookAround();
      const state = stateOf(health.view, home);
      if (mayMoveHome(state, homes.isReachedByOthers(home)) === "detour") return placement.replica;
    }
    const claimed = await homes.claim(userId, placement.replica, placement.reason);
    // Somebody else's claim won: its replica is the home, unless this proxy cannot reach it.
    if (claimed === placement.replica) return claimed;
    return stateOf(health.view, claimed) === "ready" && !job.tried.has(claimed)
      ? claimed
      : placement.replica;
  }

  /** True when this identity can be served there; waits for a token that is on its way. */
  async #hasToken(job: Job, replica: string, leftMs: number): Promise<boolean> {
    const { identity } = job;
    const { memory, caretakers, limits, health, clock } = this.#parts;
    if (identity === undefined || identity.kind === "apiKey") return true;
    if (identity.tokens[replica] !== undefined) return true;
    // Jellyfin serves films and pictures to anybody, whatever token comes along.
    if (job.facts.route.anonymous) return true;
    caretakers.urgent(replica, identity.key);
    const others = [...health.view.replicas].some(
      ([name, other]) =>
        name !== replica &&
        other.state === "ready" &&
        !job.tried.has(name) &&
        identity.tokens[name] !== undefined,
    );
    const limitMs = Math.min(leftMs, others ? shortMintWaitMs : limits.mintWaitLimitMs);
    const deadlineMs = clock.monotonicMs() + limitMs;
    for (;;) {
      const now = memory.identities.get(identity.key);
      if (now !== undefined && now.generation === identity.generation) {
        job.identity = now;
        if (now.tokens[replica] !== undefined) return true;
      }
      const remainingMs = deadlineMs - clock.monotonicMs();
      if (remainingMs <= 0 || this.#isBarred(identity, replica) || job.client.hasLeft) break;
      if (isGone(stateOf(health.view, replica) ?? "dead")) break;
      await this.#tokenOf(identity.key, Math.min(remainingMs, 250));
    }
    job.failed.add(replica);
    return false;
  }

  /** Resolves at the identity's next change or after `limitMs`. */
  #tokenOf(key: string, limitMs: number): Promise<void> {
    return new Promise((resolve) => {
      let waiters = this.#tokenWaiters.get(key);
      if (waiters === undefined) {
        waiters = new Set();
        this.#tokenWaiters.set(key, waiters);
      }
      const waiting = waiters;
      const finish = (): void => {
        clearTimeout(timer);
        waiting.delete(finish);
        if (waiting.size === 0) this.#tokenWaiters.delete(key);
        resolve();
      };
      const timer = setTimeout(finish, limitMs);
      waiting.add(finish);
    });
  }

  #asked(job: Job): Asked {
    const { homes, prefer } = this.#parts;
    const { facts, identity } = job;
    const userId = identity?.kind === "user" ? identity.userId : undefined;
    const home = userId === undefined ? undefined : homes.homeOf(userId);
    if (
      userId !== undefined &&
      facts.route.boundTo === "home" &&
      this.#lacks.size === 0 &&
      this.#attendants(facts.route).length === 0
    ) {
      // The common case: a user's request goes home.
      return {
        pin: undefined,
        userId,
        home,
        cookie: undefined,
        addressReplica: undefined,
        hashKey: userId,
        lacks: nowhere,
        barred: this.#barred(identity),
        prefer,
      };
    }
    return {
      pin: this.#pin(job),
      userId,
      home,
      cookie: facts.cookie ?? this.#hintOfName(job),
      // Only pictures: people behind one address are to be spread, and a login is no sign of where from.
      addressReplica:
        facts.route.kind === "image" ? this.#replicaByAddress.get(facts.origin.address) : undefined,
      hashKey:
        userId ??
        (identity?.kind === "apiKey"
          ? "api keys"
          : (facts.itemId ?? (facts.credentials.deviceId || facts.origin.address))),
      lacks: this.#lacking(job),
      barred: this.#barred(identity),
      prefer,
    };
  }

  /** A login goes to the home of the user it names, so that wrong passwords are counted in one place. */
  #hintOfName(job: Job): string | undefined {
    const { route } = job.facts;
    if (route.boundTo !== "userName" || job.bodyText === undefined) return undefined;
    const name = bodyValue(job.bodyText, route.bodyName ?? "Username");
    if (typeof name !== "string") return undefined;
    const userId = this.#parts.memory.userIdOfName(name);
    return userId === undefined ? undefined : this.#parts.homes.homeOf(userId);
  }

  #pin(job: Job): Asked["pin"] {
    const { memory, clock } = this.#parts;
    const { route, origin } = job.facts;
    const nowMs = clock.wallMs();
    switch (route.boundTo) {
      case "userName":
        if (route.kind !== "passwordPin") return undefined;
        return pinAsked(
          memory.pinOf("passwordReset", hashOf(origin.address), nowMs),
          "password reset",
        );
      default:
        for (const attendant of this.#attendants(route)) {
          const bound = attendant.bound?.(job);
          if (bound !== undefined) return bound;
        }
        return undefined;
    }
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

  #barred(identity: Identity | undefined): ReadonlySet<string> {
    if (identity === undefined) return nowhere;
    let barred: Set<string> | undefined;
    for (const name of this.#parts.health.view.replicas.keys()) {
      if (!this.#isBarred(identity, name)) continue;
      barred ??= new Set();
      barred.add(name);
    }
    return barred ?? nowhere;
  }

  #isBarred(identity: Identity, replica: string): boolean {
    return (
      identity.tokens[replica] === undefined &&
      this.#parts.caretakers.isBarred(replica, identity.key)
    );
  }

  #lacking(job: Job): ReadonlySet<string> {
    if (this.#lacks.size === 0) return nowhere;
    const item = this.#itemOf(job);
    const known = item === undefined ? undefined : this.#lacks.get(item);
    if (known === undefined) return nowhere;
    if (known.untilMs > this.#parts.clock.monotonicMs()) return known.replicas;
    return nowhere;
  }

  /** The item a request is about: in its path, or in the body of a play report. */
  #itemOf(job: Job): string | undefined {
    const { itemId, route } = job.facts;
    if (itemId !== undefined) return itemId;
    if (route.intent !== "playReport" || job.bodyText === undefined) return undefined;
    const id = bodyValue(job.bodyText, "ItemId");
    return typeof id === "string" ? normalId(id) : undefined;
  }

  // ---- What is sent there ---------------------------------------------------------------------------

  #attempt(job: Job, link: Link, whole: boolean, rest: Continuation | undefined): Attempt {
    const { facts, client } = job;
    const name = link.config.name;
    const rewritten = this.#rewritten(job, name);
    const body = rewritten?.body ?? job.body;
    const asked = {
      method: facts.method,
      path: rewritten?.path ?? facts.path,
      rawHeaders: client.head.rawHeaders,
      swapped: this.#swapped(job, name, rewritten?.rawQuery),
      origin: facts.origin,
      bodyLength: body?.length ?? (mayHaveBody(facts.method) ? 0 : undefined),
      plainAnswer: facts.route.gives !== "none" && facts.route.lane === "message",
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
      repeatable,
      startedMs: this.#parts.clock.monotonicMs(),
      giveUpMs: job.deadlineMs,
    };
  }

  /** The credentials as this replica knows them. */
  #swapped(job: Job, replica: string, rawQuery = job.facts.rawQuery): SwappedRequest {
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
    return replica === (home ?? facts.cookie ?? this.#replicaByAddress.get(facts.origin.address));
  }

  #relayFor(job: Job): Relay {
    const { limits } = this.#parts;
    const { route } = job.facts;
    const holds = route.lane === "message" || route.lane === "playlist";
    return new Relay({
      client: job.client,
      holdLimitBytes: holds ? limits.responseBufferLimitBytes : 0,
      onHead: (head) => {
        if (route.kind === "image" && !this.#knowsTag(job, job.replica)) asDoubtfulImage(head);
        this.#addHeaders(job, head.headers);
      },
    });
  }

  #addHeaders(job: Job, headers: string[]): void {
    const { homes, explainHeader } = this.#parts;
    const { facts, identity } = job;
    if (explainHeader) headers.push("X-Jellybloom-Explain", `${job.replica}; ${job.reason}`);
    if (identity === undefined || identity.kind !== "user") return;
    const home = homes.homeOf(identity.userId) ?? job.replica;
    this.#replicaByAddress.set(facts.origin.address, home);
    if (facts.isBrowser && facts.cookie !== home) headers.push("Set-Cookie", cookieHeader(home));
  }

  async #segment(job: Job, link: Link): Promise<LaneOutcome | "noRoom"> {
    const { segments, metrics } = this.#parts;
    const { facts, client } = job;
    const isHead = facts.method === "HEAD";
    const agent = client.head.headers["user-agent"] ?? "";
    const owner = job.identity?.key ?? facts.credentials.token ?? "";
    const key = `${segmentKey(facts.path, facts.rawQuery, agent)}\n${owner}`;
    let segment = segments.find(key);
    if (segment !== undefined) metrics.segments.kept.add();
    else {
      const attempt = this.#attempt(job, link, true, undefined);
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
    this.#addHeaders(job, copy);
    try {
      const status = await sendSegment(client, segment, copy, isHead);
      return client.hasLeft ? { kind: "clientLeft" } : { kind: "completed", status };
    } finally {
      segment.release();
    }
  }

  async #upload(job: Job, link: Link, body: AsyncIterable<Buffer>): Promise<LaneOutcome> {
    const { limits } = this.#parts;
    const { facts, client } = job;
    const attempt = this.#attempt(job, link, false, undefined);
    const lines = attempt.wire.head.split("\r\n").slice(0, -2);
    const target = lines.shift()?.split(" ")[1] ?? facts.path;
    const headers: string[] = [];
    for (const line of lines) {
      const colon = line.indexOf(":");
      const name = line.slice(0, colon);
      if (name.toLowerCase() === "content-length") continue;
      headers.push(name, line.slice(colon + 2));
    }
    const length = client.head.headers["content-length"];
    if (length !== undefined) headers.push("content-length", length);
    const leaving = new AbortController();
    client.onLeft = () => leaving.abort();
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
      const reply = this.#refused("bodyTooLarge", tooLarge(limits.bodyLimitBytes));
      return { kind: "answered", reply };
    } finally {
      client.onLeft = undefined;
    }
  }

  // ---- How it ends ----------------------------------------------------------------------------------

  /** A whole answer in hand: what it tells is taken in, and it is sent. */
  async #finishAnswered(job: Job, reply: HeldReply): Promise<void> {
    let shown = reply;
    if (reply.head.status >= 200 && reply.head.status < 300) {
      // A token that was good is taken up before anybody acts on it: the server that knows it may die next.
      if (job.identity === undefined && job.recognition !== undefined) {
        job.identity = await job.recognition;
      }
      await this.#learn(job, reply);
      shown = this.#edited(job, reply);
    }
    if (reply.head.status < 400) {
      for (const attendant of this.#attendants(job.facts.route)) {
        if (attendant.after !== undefined) shown = await attendant.after(job, shown, job.replica);
      }
    }
    this.#noteLacks(job);
    this.#finish(job, shown, job.reason);
  }

  #edited(job: Job, reply: HeldReply): HeldReply {
    const { publicUrl, basePath } = this.#parts;
    const { route, origin } = job.facts;
    if (route.gives === "systemInfo") {
      const address =
        publicUrl ??
        (origin.host === "" ? undefined : `${origin.scheme}://${origin.host}${basePath}`);
      return address === undefined ? reply : withLocalAddress(reply, address);
    }
    return route.gives === "sessions" ? withoutOurSessions(reply) : reply;
  }

  /** Takes in what an answer gives and what it ends, before the client can act on it. */
  async #learn(job: Job, reply: HeldReply): Promise<void> {
    const { logins, homes } = this.#parts;
    const { facts } = job;
    const { route } = facts;
    if (route.kind === "capabilities" && job.identity !== undefined) {
      const { rawHeaders } = job.client.head;
      this.capabilities.set(job.identity.key, { facts, rawHeaders, body: job.body });
      this.#capabilityNotes.said(job.identity.key, job.replica, facts, job.bodyText);
    }
    switch (route.gives) {
      case "authenticationResult": {
        const text = reply.body.toString("utf8");
        const result = readAuthenticationResult(text, facts.credentials);
        if (result === undefined) break;
        const identity = await logins.record(result, job.replica);
        logins.forgetUnknown(result.token);
        if (homes.homeOf(identity.userId) === undefined) {
          await homes.claim(identity.userId, job.replica, "first login of this user");
        }
        job.identity = identity;
        this.#addHeaders(job, reply.head.headers);
        break;
      }
      default:
        break;
    }
    if (route.kind === "passwordForgotten") {
      await this.#pinned("passwordReset", facts.origin.address, job.replica, passwordResetPinMs);
    }
    if (route.ends !== "none") await this.#endTokens(job);
  }

  async #pinned(
    kind: "passwordReset",
    secret: string | undefined,
    replica: string,
    ttlMs: number,
  ): Promise<void> {
    if (secret === undefined) return;
    const { store, memory, homes, clock } = this.#parts;
    const id = hashOf(secret);
    try {
      const pin = await store.claimPin({ kind, id, replica, owner: homes.owner, ttlMs });
      memory.apply({ type: "pin", pin });
    } catch (error) {
      memory.noteStoreFailure(error);
      const epoch = { number: 0, owner: homes.owner };
      const expiresAtMs = clock.wallMs() + ttlMs;
      memory.apply({ type: "pin", pin: { kind, id, replica, epoch, expiresAtMs } });
    }
  }

  /** Tokens that this change has ended on one replica end on all. */
  async #endTokens(job: Job): Promise<void> {
    const { memory, logins } = this.#parts;
    const { route, params, rawQuery } = job.facts;
    const all = [...memory.identities.values()].filter(
      (identity) => Object.keys(identity.tokens).length > 0,
    );
    const caller = job.identity?.key;
    const body = job.bodyText ?? "";
    let ended: Identity[] = [];
    switch (route.ends) {
      case "device": {
        const deviceId = queryValue(rawQuery, "id");
        ended = all.filter((identity) => identity.deviceId === deviceId && deviceId !== undefined);
        break;
      }
      case "userOthers": {
        if (bodyValue(body, "ResetPassword") === true) break;
        const userId =
          params.userId ?? queryValue(rawQuery, "userId") ?? job.identity?.userId ?? "";
        ended = all.filter(({ userId: id, key }) => id === normalId(userId) && key !== caller);
        break;
      }
      case "user":
        ended = all.filter(({ userId }) => userId === normalId(params.userId ?? ""));
        break;
      case "userIfDisabled":
        if (bodyValue(body, "IsDisabled") !== true) break;
        ended = all.filter(
          ({ userId, key }) => userId === normalId(params.userId ?? "") && key !== caller,
        );
        break;
      case "apiKey": {
        const standing = memory.standingOf(params.key ?? "");
        if (standing.standing === "current") ended = [standing.identity];
        break;
      }
      case "identity":
      case "none":
        break;
    }
    for (const identity of ended) {
      if (identity.userId === "" && identity.kind === "user") continue;
      await logins.end(identity, `${job.facts.method} ${route.pattern}`);
    }
  }

  /**
   * Logout: the identity ends in the store first, so that whatever dies next, the token never works
   * again. Then one replica is told in the client's own words; the sidecars tell all of them.
   */
  async #logout(job: Job, identity: Identity): Promise<void> {
    const { logins, homes, health, links } = this.#parts;
    const home = homes.homeOf(identity.userId);
    await logins.end(identity, "logout");
    this.capabilities.delete(identity.key);
    this.#capabilityNotes.drop(identity.key);
    const link = home === undefined ? undefined : links.get(home);
    if (link !== undefined && home !== undefined && stateOf(health.view, home) === "ready") {
      job.replica = home;
      job.reason = "home";
      job.attempts++;
      const relay = this.#relayFor(job);
      const outcome = await relay.run(this.#attempt(job, link, false, undefined));
      if (outcome.kind === "clientLeft") return;
      if (outcome.kind === "answered") {
        this.#finish(job, outcome.reply, "home");
        return;
      }
    }
    this.#finish(job, noContent(), "logged out in the store; the replicas are told");
  }

  #noteLacks(job: Job): void {
    if ((job.refusals.get(404) ?? 0) === 0) return;
    const item = this.#itemOf(job);
    if (item === undefined) return;
    const untilMs = this.#parts.clock.monotonicMs() + lacksKeepMs;
    this.#lacks.set(item, { replicas: new Set(job.refusedBy), untilMs });
  }

  #finish(job: Job, reply: HeldReply, reason: string): void {
    const { client } = job;
    job.reason = reason;
    if (client.hasLeft || client.response.headersSent) return;
    job.status = reply.head.status;
    client.send(reply);
    if (job.bodyStream !== undefined) this.#readOn(job);
  }

  /**
   * Reads for a moment what nobody wants any more. Were the connection closed with bytes of the body unread,
   * the client would be reset in the middle of sending and never see its answer (RFC 9112, 9.6).
   */
  #readOn(job: Job): void {
    const request = job.client.node?.request;
    if (request === undefined || request.complete || request.socket.destroyed) return;
    const cut = setTimeout(() => request.socket.destroy(), readOnLimitMs);
    const stop = (): void => clearTimeout(cut);
    request.once("end", stop).once("close", stop);
    // Only when nobody else reads can the rest flow away.
    if (job.bodyIterator === undefined) request.resume();
    else void job.bodyIterator.return?.().then(() => request.resume());
  }

  #sendOwn(job: Job, reply: HeldReply, reason: string): void {
    const { headers } = job.client.head;
    // Who was not told to go on may send its body or the next request: nobody can tell which.
    if (headers.expect !== undefined && !job.toldToGoOn) {
      reply.head.headers.push("Connection", "close");
    }
    job.replica = "";
    this.#finish(job, reply, reason);
    this.#readOn(job);
  }

  #giveUp(job: Job): void {
    const { kind } = job.facts.route;
    if (job.client.hasLeft) return;
    this.#parts.metrics.refusals.noReplica.add();
    if (kind === "publicSystemInfo" || kind === "web" || kind === "ping" || kind === "health") {
      if (!job.client.response.headersSent) {
        this.#sendOwn(job, unavailable("No media server can answer right now."), job.reason);
        return;
      }
    }
    if (job.client.response.headersSent) this.#parts.metrics.continuations.failed.add();
    this.#cut(job, `given up after ${Math.round(job.waitedMs)} ms: ${job.reason}`);
  }

  #cut(job: Job, why: string): void {
    job.reason = why;
    job.client.cut();
  }

  /** Waits until the client has taken what it was sent: a paused player is not read ahead for. */
  async #drained(job: Job): Promise<void> {
    const { response } = job.client;
    while (!job.client.hasLeft && (response.socket?.writableLength ?? 0) > 0) {
      await new Promise<void>((resolve) => {
        const socket = response.socket;
        if (socket === null) {
          resolve();
          return;
        }
        const finish = (): void => {
          socket.off("drain", finish);
          job.client.onLeft = undefined;
          clearTimeout(timer);
          resolve();
        };
        // A rest smaller than the socket's mark is written without a drain event.
        const timer = setTimeout(finish, 20);
        socket.once("drain", finish);
        job.client.onLeft = finish;
      });
    }
    const { clock, limits } = this.#parts;
    job.deadlineMs = clock.monotonicMs() + limits.mediaHoldLimitMs;
  }

  /** The request's end: one log line, one observation of each metric. */
  #close(job: Job): void {
    const { metrics, log, clock } = this.#parts;
    metrics.lane[laneName(job.facts)].running.subtract();
    this.running--;
    if (this.running === 0) this.#whenIdle?.();
    const { client, facts } = job;
    for (const attendant of this.#attendants(facts.route)) {
      attendant.ended?.(job, job.status, job.replica);
    }
    const endedMs = clock.monotonicMs();
    const durationMs = endedMs - job.startedMs;
    const lane = metrics.lane[job.replica === "" ? "own" : laneName(facts)];
    const hasLeft = client.hasLeft && job.status === undefined;
    if (hasLeft) lane.requests.left.add();
    else if (job.status === undefined) lane.requests.cut.add();
    else lane.requests[statusClass(job.status)].add();
    if (client.firstByteMs > 0) lane.firstByte.observe(client.firstByteMs - job.startedMs);
    lane.duration.observe(durationMs);
    lane.sentBytes.add(client.sentBytes);
    if (job.waitedMs > 0) {
      metrics.holds[
        hasLeft ? "clientLeft" : job.status === undefined ? "givenUp" : "answered"
      ].add();
      metrics.holdDuration.observe(job.waitedMs);
    }
    log.request({
      method: facts.method,
      target: facts.target,
      status: job.status,
      lane: facts.route.lane,
      replica: job.replica,
      reason: hasLeft ? `${job.reason}; the client left` : job.reason,
      attempts: job.attempts,
      durationMs,
      sentBytes: client.sentBytes,
      client: facts.origin.address,
    });
  }

  // ---- Sockets --------------------------------------------------------------------------------------

  /** The facts of a socket's handshake. */
  socketFacts(asked: SocketAsked): RequestFacts {
    const origin = { address: asked.clientAddress, scheme: "http", host: "" } as const;
    const headers = lowerHeaders(asked.rawHeaders);
    return readFacts(
      "GET",
      asked.target,
      readHeaderFacts(headers),
      origin,
      this.#parts.baseSegments,
    );
  }

  /** The replica a socket belongs to now, claimed and with its token put in; undefined: time is up. */
  async socketTarget(
    asked: SocketAsked,
    tried: ReadonlySet<string>,
    limitMs: number,
  ): Promise<SocketTarget | undefined> {
    const { clock, memory, links } = this.#parts;
    const facts = this.socketFacts(asked);
    const job = new Job(Client.ofNobody(clock.monotonicMs), facts, clock.monotonicMs());
    job.deadlineMs = job.startedMs + limitMs;
    for (const replica of tried) job.refusedBy.add(replica);
    if (asked.token !== undefined) {
      const standing = memory.standingOf(asked.token);
      if (standing.standing === "revoked") return undefined;
      if (standing.standing === "current") job.identity = standing.identity;
    }
    const placed = await this.#place(job);
    const link = placed === undefined ? undefined : links.get(placed.replica);
    if (placed === undefined || link === undefined) return undefined;
    const swapped = this.#swapped(job, placed.replica);
    const head = upstreamHead({
      method: "GET",
      path: facts.path,
      rawHeaders: asked.rawHeaders,
      swapped,
      origin: { ...facts.origin, host: hostOf(asked.rawHeaders) },
      bodyLength: undefined,
      plainAnswer: false,
      whole: false,
    });
    const query = swapped.rawQuery === "" ? "" : `?${swapped.rawQuery}`;
    return {
      replica: placed.replica,
      reason: placed.reason,
      url: `${link.config.origin.replace(/^http/, "ws")}${facts.path}${query}`,
      headers: handshakeHeaders(head),
      identityKey: job.identity?.key,
      userId: job.identity?.kind === "user" ? job.identity.userId : undefined,
    };
  }

  /** True when a device that comes with its first socket has said at another replica what it can do. */
  isNewTo(identityKey: string, replica: string): boolean {
    return this.#capabilityNotes.isNewTo(identityKey, replica);
  }

  /** Repeats the last capabilities this device posted at a replica that has not heard them. */
  async replayCapabilities(identityKey: string, link: Link, limitMs: number): Promise<void> {
    const remembered = this.capabilities.get(identityKey);
    const identity = this.#parts.memory.identities.get(identityKey);
    if (identity === undefined) return;
    if (remembered === undefined) {
      // Said at another door, or before this one was started.
      await this.#capabilityNotes.tell(identity, link.config.name);
      return;
    }
    const { clock } = this.#parts;
    const facts: RequestFacts = { ...remembered.facts, target: "" };
    const job = new Job(Client.ofNobody(clock.monotonicMs), facts, clock.monotonicMs());
    job.identity = identity;
    job.body = remembered.body;
    job.deadlineMs = job.startedMs + limitMs;
    const head = upstreamHead({
      method: facts.method,
      path: facts.path,
      rawHeaders: remembered.rawHeaders,
      swapped: this.#swapped(job, link.config.name),
      origin: facts.origin,
      bodyLength: remembered.body?.length ?? 0,
      plainAnswer: false,
      whole: false,
    });
    const wire = { head, body: remembered.body, isHead: false, fresh: false };
    await new Promise<void>((resolve) => {
      // Whether it worked is the replica's affair: the next post or the next move says it again.
      const exchange = link.message.send(wire, {
        onHead: () => undefined,
        onData: () => true,
        onEnd: () => {
          this.#capabilityNotes.heard(identityKey, link.config.name);
          resolve();
        },
        onBroken: () => resolve(),
      });
      const timer = setTimeout(() => {
        exchange.abort();
        resolve();
      }, limitMs);
      timer.unref();
    });
  }

  /** Which replica a request would go to and why, without sending it. */
  explain(method: string, path: string, token: string | undefined): Placement & { kind: string } {
    const facts = this.facts({
      method,
      url: path,
      headers: token === undefined ? {} : { authorization: `MediaBrowser Token="${token}"` },
      socket: {},
    });
    const job = new Job(Client.ofNobody(this.#parts.clock.monotonicMs), facts, 0);
    if (facts.credentials.token !== undefined) {
      const standing = this.#parts.memory.standingOf(facts.credentials.token);
      if (standing.standing === "current") job.identity = standing.identity;
    }
    const placement = place(this.#asked(job), this.#parts.health.view);
    return { ...placement, kind: facts.route.kind };
  }
}

const emptyBody = Buffer.alloc(0);
const nowhere: ReadonlySet<string> = new Set();

function lowerHeaders(rawHeaders: readonly string[]): Record<string, string> {
  const headers: Record<string, string> = {};
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = (rawHeaders[index] ?? "").toLowerCase();
    // The first counts, as for Node's own requests.
    headers[name] ??= rawHeaders[index + 1] ?? "";
  }
  return headers;
}

function hostOf(rawHeaders: readonly string[]): string {
  return lowerHeaders(rawHeaders).host ?? "";
}

/** The headers of a handshake without those which the WebSocket library makes itself. */
function handshakeHeaders(head: string): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const line of head.split("\r\n").slice(1)) {
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    const name = line.slice(0, colon).toLowerCase();
    if (name.startsWith("sec-websocket-") || name === "host") continue;
    headers[name] = line.slice(colon + 1).trim();
  }
  return headers;
}

/** How long this request may wait for a replica: within the patience of the clients that send it. */
function holdLimitMs({ route }: RequestFacts, limits: DoorLimits): number {
  if (route.lane !== "message") return limits.mediaHoldLimitMs;
  // An app that looks whether a server is there gives up after a second (Fladder) to 3.5 (Android TV).
  const isFirstLook = route.kind === "publicSystemInfo" || route.kind === "ping";
  return isFirstLook ? Math.min(limits.apiHoldLimitMs, firstLookLimitMs) : limits.apiHoldLimitMs;
}

function segmentLane(facts: RequestFacts): boolean {
  return facts.route.lane === "segment";
}

function laneName(facts: RequestFacts): "message" | "bytes" {
  return facts.route.lane === "bytes" || facts.route.lane === "segment" ? "bytes" : "message";
}

function mayHaveBody(method: string): boolean {
  return method === "POST" || method === "PUT" || method === "PATCH";
}

function pinAsked(pin: { readonly replica: string } | undefined, kind: string): Asked["pin"] {
  return pin === undefined ? undefined : { replica: pin.replica, kind };
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

async function nextPiece(iterator: AsyncIterator<Buffer>): Promise<Buffer | undefined | "gone"> {
  try {
    const { done, value } = await iterator.next();
    return done === true ? undefined : value;
  } catch {
    // The client went away in the middle of its body: nobody is left to be told.
    return "gone";
  }
}

/** A body without a declared length turned out to be larger than the limit. */
class BodyTooLarge extends Error {
  override name = "BodyTooLarge";
  constructor() {
    super("the request's body is too large");
  }
}

/** The same body; tells when it ends by being too large. */
async function* watchedForSize(
  body: AsyncIterable<Buffer>,
  onTooLarge: () => void,
): AsyncGenerator<Buffer> {
  try {
    yield* body;
  } catch (error) {
    if (error instanceof BodyTooLarge) onTooLarge();
    throw error;
  }
}

async function* restOfBody(
  pieces: readonly Buffer[],
  iterator: AsyncIterator<Buffer>,
  limitBytes: number,
): AsyncGenerator<Buffer> {
  let length = 0;
  for (const piece of pieces) {
    length += piece.length;
    yield piece;
  }
  for (;;) {
    const { done, value } = await iterator.next();
    if (done === true) return;
    length += value.length;
    if (length > limitBytes) throw new BodyTooLarge();
    yield value;
  }
}
