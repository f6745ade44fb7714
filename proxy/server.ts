// The front door: one request from accept to close. `#serve` reads as the program's table of contents;
// `#answer` is the only loop that sends a request again. What is decided is decided in pure functions
// (facts.ts, place.ts, retry.ts); the deeds have rooms of their own (screen, body, placing, sending, learning,
// handshakes); here they are put in their order.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Identity } from "../core/cluster/identity.ts";
import { stateOf } from "../core/cluster/view.ts";
import { isGated } from "../core/jellyfin/gated.ts";
import {
  type Continuation,
  continuation,
  isWholeFile,
  repeatableFor,
} from "../core/jellyfin/playback.ts";
import type { Route } from "../core/jellyfin/routes.ts";
import { statusClass } from "../core/service/metrics.ts";
import type { Attendant } from "./attendant.ts";
import { readBody } from "./body.ts";
import { Client, type HeldReply } from "./client.ts";
import { type HeadProblem, type RequestFacts, readFacts, readHeaderFacts } from "./facts.ts";
import { Handshakes } from "./handshakes.ts";
import { clientOrigin, plainAddress } from "./headers.ts";
import { Job, laneName } from "./job.ts";
import type { LaneOutcome, Relay } from "./lanes/relay.ts";
import { Learning } from "./learning.ts";
import { attendance, attendingAlways, type DoorLimits, type DoorParts } from "./parts.ts";
import { type Placement, place } from "./place.ts";
import { Placing } from "./placing.ts";
import type { PlainRequest, PlainResponse } from "./plain.ts";
import {
  badHead,
  noContent,
  tooLarge,
  unavailable,
  withLocalAddress,
  withoutOurSessions,
} from "./reply.ts";
import { decideNext } from "./retry.ts";
import { Screen } from "./screen.ts";
import { Sending } from "./sending.ts";

/** More attempts than this for one answer are no bad luck but a mistake of ours. */
const attemptsLimit = 40;
/** A probe of a server that is gone is refused at once; longer is not waited for what it says. */
const verdictLimitMs = 300;
/** How long the rest of a refused body is read and thrown away. */
const readOnLimitMs = 2000;
/** Clients look whether a server is there with this much patience. */
const firstLookLimitMs = 900;
/** A lease that has ended is followed by the next within this: the lease's promise, and what the gate takes. */
const nextLeaderLimitMs = 1500;

export class Door {
  /** Requests under way. */
  running = 0;
  /** Set when the process is about to end: connections are not kept for another request. */
  isEnding = false;
  readonly screen: Screen;
  readonly handshakes: Handshakes;
  readonly #parts: DoorParts;
  readonly #attendants: (route: Route) => readonly Attendant[];
  readonly #attendingAlways: (route: Route) => readonly Attendant[];
  readonly #placing: Placing;
  readonly #sending: Sending;
  readonly #learning: Learning;
  #whenIdle: (() => void) | undefined;

  constructor(parts: DoorParts) {
    this.#parts = parts;
    this.#attendants = attendance(parts.attendants);
    this.#attendingAlways = attendance(attendingAlways(parts.attendants));
    this.screen = new Screen(parts);
    this.#placing = new Placing(parts, this.#attendingAlways);
    this.#sending = new Sending(parts, this.#attendants, this.#placing);
    this.#learning = new Learning(parts, this.#sending);
    this.handshakes = new Handshakes(parts, this.#placing, this.#sending, this.#learning);
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
  handlePlain(request: PlainRequest, response: PlainResponse): void {
    const { trusted, baseSegments, clock } = this.#parts;
    const { headers, memo } = request.block;
    memo.facts ??= readHeaderFacts(headers);
    memo.origin ??= clientOrigin(
      plainAddress(response.socket.remoteAddress ?? ""),
      headers,
      false,
      trusted,
    );
    const facts = readFacts(request.method, request.url, memo.facts, memo.origin, baseSegments);
    this.#take(Client.ofPlain(request, response, clock.monotonicMs), facts, null);
  }

  #take(client: Client, facts: RequestFacts, badly: HeadProblem | null): void {
    const { clock, limits, metrics, health } = this.#parts;
    const startedMs = clock.monotonicMs();
    health.noteUse(startedMs);
    const job = new Job(client, facts, startedMs);
    job.deadlineMs = startedMs + holdLimitMs(facts, limits);
    if (this.isEnding) client.response.shouldKeepAlive = false;
    this.running++;
    metrics.lane[laneName(job.facts)].running.add();
    if (this.#isRefused(job, badly)) this.#close(job);
    else if (!this.#askAtOnce(job)) this.#finally(job, this.#serve(job));
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
        ? this.screen.screen(job)
        : this.screen.refused("badRequest", badHead(badly.status, badly.why));
    if (refusal === undefined) return false;
    this.#sendOwn(job, refusal, badly?.why ?? "refused by the door");
    return true;
  }

  async #serve(job: Job): Promise<void> {
    const { client, facts } = job;
    const { limits } = this.#parts;
    if ((await readBody(job, limits)) === "tooLarge") {
      const reply = this.screen.refused("bodyTooLarge", tooLarge(limits.bodyLimitBytes));
      this.#sendOwn(job, reply, "its body is too large");
      return;
    }
    if (client.hasLeft) return;
    job.repeatable = repeatableFor(facts.route, facts.rawQuery, job.bodyText);
    const own = await this.screen.guard(job);
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
    await this.#answer(job, this.#sending.relayFor(job));
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
      this.#attendingAlways(route).length === 0 &&
      headers["content-length"] === undefined &&
      headers["transfer-encoding"] === undefined;
    if (!isPlain) return false;
    const placement = place(this.#placing.asked(job), health.view);
    if (placement.replica === undefined || placement.claimsHome) return false;
    if (job.identity?.kind === "user" && job.identity.tokens[placement.replica] === undefined) {
      return false;
    }
    const link = links.get(placement.replica);
    if (link === undefined) return false;
    job.replica = placement.replica;
    job.reason = placement.reason;
    job.attempts = 1;
    const relay = this.#sending.relayFor(job);
    relay.start(this.#sending.attempt(job, link, false, undefined), undefined, (outcome) => {
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

  // ---- The one loop --------------------------------------------------------------------------------

  async #answer(job: Job, relay: Relay): Promise<void> {
    const { client, facts } = job;
    if (facts.route.ends === "identity" && job.identity !== undefined) {
      await this.#logout(job, job.identity);
      return;
    }
    let rest: Continuation | undefined;
    let isSegment = segmentLane(facts);
    while (!client.hasLeft) {
      const placement = await this.#placing.place(job);
      if (placement === undefined) {
        if (job.refusal !== undefined && !client.response.headersSent) {
          // Who failed meanwhile may have been the one that knew.
          const isWhole = job.failed.size === 0;
          if (!isWhole && (await this.#judged(job, job.refusal)) === "again") {
            job.refusedBy.clear();
            job.refusal = undefined;
            continue;
          }
          this.#show(job, job.refusal, "the replicas that could be asked agree");
        } else if (!(await this.#isRescued(job))) this.#giveUp(job);
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
        const fetched = await this.#sending.segment(job, link);
        if (fetched === "noRoom") {
          isSegment = false;
          job.attempts--;
          continue;
        }
        outcome = fetched;
      } else if (job.bodyStream !== undefined)
        outcome = await this.#sending.upload(job, link, job.bodyStream);
      else outcome = await relay.run(this.#sending.attempt(job, link, isSegment, rest), rest);
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
    const { metrics, health, caretakers, homes, clock } = this.#parts;
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
      this.#show(job, judged, job.reason);
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
      if (route.diesWithServer && job.repeatable !== "yes") await this.#verdict(job.replica);
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
      // Another server that has not heard of a deletion yet would still show the item.
      answer: homes.wasDeleted(job.facts.itemId, clock.monotonicMs) ? "doubt401" : route.answer,
      diesWithServer: route.diesWithServer,
      isJournalled: this.#attendants(route).some((attendant) => attendant.repeats?.(job) === true),
      tokenKnown: job.identity !== undefined,
      isSocket: false,
      replicaState: stateOf(health.view, job.replica),
      replicasLeft: this.#placing.replicasLeft(job),
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
        if (job.refusal === undefined) this.#finish(job, unavailable(next.why), next.why);
        else this.#show(job, job.refusal, next.why);
        return true;
      case "cut":
        if (!(await this.#isRescued(job))) this.#cut(job, next.why);
        return true;
      case "elsewhere":
      case "hold":
        metrics.retries[outcome.kind].add();
        return false;
    }
  }

  /** What broke off is answered all the same, where an attendant knows how it ended. */
  async #isRescued(job: Job): Promise<boolean> {
    if (job.attempts === 0 || job.client.response.headersSent) return false;
    for (const attendant of this.#attendants(job.facts.route)) {
      const rescued = await attendant.rescued?.(job);
      if (rescued === undefined) continue;
      job.replica = rescued.replica;
      job.reason = `done again by ${attendant.name}`;
      await this.#finishAnswered(job, rescued.reply);
      return true;
    }
    return false;
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

  // ---- How it ends ---------------------------------------------------------------------------------

  /** A whole answer in hand: what it tells is taken in, and it is sent. */
  async #finishAnswered(job: Job, reply: HeldReply): Promise<void> {
    let shown = reply;
    if (reply.head.status >= 200 && reply.head.status < 300) {
      // A token that was good is taken up before anybody acts on it: the server that knows it may die next.
      if (job.identity === undefined && job.recognition !== undefined) {
        job.identity = await job.recognition;
      }
      await this.#learning.learn(job, reply);
      shown = this.#edited(job, reply);
    }
    if (reply.head.status < 400) {
      for (const attendant of this.#attendants(job.facts.route)) {
        if (attendant.after !== undefined) shown = await attendant.after(job, shown, job.replica);
      }
    }
    this.#placing.noteLacks(job);
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

  /**
   * Logout: the identity ends in the store first, so that whatever dies next, the token never works
   * again. Then one replica is told in the client's own words; the sidecars tell all of them.
   */
  async #logout(job: Job, identity: Identity): Promise<void> {
    const { logins, homes, health, links } = this.#parts;
    const home = homes.homeOf(identity.userId);
    await logins.end(identity, "logout");
    this.#learning.forget(identity.key);
    const link = home === undefined ? undefined : links.get(home);
    if (link !== undefined && home !== undefined && stateOf(health.view, home) === "ready") {
      job.replica = home;
      job.reason = "home";
      job.attempts++;
      const relay = this.#sending.relayFor(job);
      const outcome = await relay.run(this.#sending.attempt(job, link, false, undefined));
      if (outcome.kind === "clientLeft") return;
      if (outcome.kind === "answered") {
        this.#finish(job, outcome.reply, "home");
        return;
      }
    }
    this.#finish(job, noContent(), "logged out in the store; the replicas are told");
  }

  /** A replica's refusal is the client's answer. */
  #show(job: Job, refusal: HeldReply, reason: string): void {
    this.#sending.explain(job, refusal.head.headers);
    this.#finish(job, refusal, reason);
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
    const placement = place(this.#placing.asked(job), this.#parts.health.view);
    return { ...placement, kind: facts.route.kind };
  }
}

/** How long this request may wait for a replica: within the patience of the clients that send it. */
function holdLimitMs({ route, method }: RequestFacts, limits: DoorLimits): number {
  if (route.lane !== "message") return limits.mediaHoldLimitMs;
  // What only a leader does waits for the next one: no administrator's page gives up as early as a player.
  if (method !== "GET" && method !== "HEAD" && isGated(route)) {
    return Math.max(limits.apiHoldLimitMs, limits.leaseLimitMs + nextLeaderLimitMs);
  }
  // An app that looks whether a server is there gives up after a second (Fladder) to 3.5 (Android TV).
  const isFirstLook = route.kind === "publicSystemInfo" || route.kind === "ping";
  return isFirstLook ? Math.min(limits.apiHoldLimitMs, firstLookLimitMs) : limits.apiHoldLimitMs;
}

function segmentLane(facts: RequestFacts): boolean {
  return facts.route.lane === "segment";
}
