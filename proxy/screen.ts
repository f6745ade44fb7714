// What is refused or answered before any replica is asked: by the head alone (`screen`), or after somebody was
// asked (`guard`). A refusal is counted where it is made.

import type { Identity } from "../core/cluster/identity.ts";
import type { JellyfinClient } from "../core/jellyfin/client.ts";
import { matchRoute } from "../core/jellyfin/routes.ts";
import type { Metrics } from "../core/service/metrics.ts";
import type { HeldReply } from "./client.ts";
import type { RequestFacts } from "./facts.ts";
import type { Job } from "./job.ts";
import type { DoorParts } from "./parts.ts";
import { forbidden, notFound, quickConnectIsOff, unauthorised, unavailable } from "./reply.ts";

/** How long until the servers are asked again when none could tell, in ms. */
const askAgainMs = 100;
const nobodyTells = "No server can tell right now whether this user is an administrator.";

export class Screen {
  readonly #parts: DoorParts;

  constructor(parts: DoorParts) {
    this.#parts = parts;
  }

  screen(job: Job): HeldReply | undefined {
    const { memory, quickConnect, health, logins } = this.#parts;
    const { route, credentials } = job.facts;
    if (route.guard === "refuse" || this.#isMetricsOtherwise(job.facts)) {
      return this.refused("forbidden", notFound());
    }
    if (route.guard === "startupWizard" && health.isAnyWizardComplete) {
      return this.refused("forbidden", forbidden());
    }
    if (!quickConnect) {
      if (route.kind === "quickConnectEnabled") return quickConnectIsOff();
      if (route.kind === "quickConnectInitiate") return this.refused("forbidden", unauthorised());
    }
    const { token } = credentials;
    if (token === undefined) return undefined;
    const standing = memory.standingOf(token);
    switch (standing.standing) {
      case "current":
        if (this.#isRefusedEverywhere(standing.identity)) break;
        job.identity = standing.identity;
        return undefined;
      case "revoked":
        job.isRevoked = true;
        return route.anonymous ? undefined : this.refused("unknownToken", unauthorised());
      case "unknown":
        break;
    }
    // With one replica its own word is the only one there is.
    if (!route.anonymous && health.view.replicas.size > 1) {
      job.recognition = logins.recognise(token, credentials);
    }
    return undefined;
  }

  /** No server has a token of it any more, nor can one be made by it: their word on the client's own is asked anew. */
  #isRefusedEverywhere({ kind, tokens }: Identity): boolean {
    if (kind !== "user") return false;
    // Asked for each request: no list is made for it.
    for (const _ in tokens) return false;
    return true;
  }

  /** Jellyfin's metrics answer to every method (prometheus-net maps a path); the route table knows reads. */
  #isMetricsOtherwise({ method, path }: RequestFacts): boolean {
    if (method === "GET" || method === "HEAD") return false;
    return matchRoute("GET", path, this.#parts.baseSegments).route.guard === "refuse";
  }

  /** Checks that need to ask somebody: administrators' routes, and what must wait for the store. */
  async guard(job: Job): Promise<HeldReply | undefined> {
    const { memory, health } = this.#parts;
    const { route } = job.facts;
    const needsOneOrder = route.needsLeader || route.kind === "password";
    if (needsOneOrder && !memory.storeAvailable && health.view.replicas.size > 1) {
      return this.refused(
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
    if (job.identity === undefined) return this.refused("unknownToken", unauthorised());
    if (job.identity.kind === "apiKey") return undefined;
    return await this.#adminAtAnyReplica(job, job.identity);
  }

  /** Whoever can tell is waited for: an administrator whose servers are away is not told that they are none. */
  async #adminAtAnyReplica(job: Job, identity: Identity): Promise<HeldReply | undefined> {
    const { memory, clock } = this.#parts;
    for (;;) {
      let hasRefused = false;
      for (const [replica, client] of this.readyClients()) {
        const token = memory.openToken(identity, replica);
        if (token === undefined) continue;
        const answer = await client.me(token);
        if (answer.outcome === "ok") {
          return answer.user.isAdministrator ? undefined : this.refused("forbidden", forbidden());
        }
        hasRefused ||= answer.outcome === "refused";
      }
      if (hasRefused) return this.refused("forbidden", forbidden());
      const leftMs = job.deadlineMs - clock.monotonicMs();
      if (leftMs <= 0 || job.client.hasLeft) {
        return this.refused("noReplica", unavailable(nobodyTells));
      }
      await new Promise((resolve) => setTimeout(resolve, Math.min(leftMs, askAgainMs)));
    }
  }

  async #adminAtTheOnlyReplica(job: Job): Promise<HeldReply | undefined> {
    const { token } = job.facts.credentials;
    if (token === undefined) return this.refused("unknownToken", unauthorised());
    for (const client of this.readyClients().values()) {
      const answer = await client.me(token);
      if (answer.outcome === "isApiKey") return undefined;
      if (answer.outcome === "ok") {
        return answer.user.isAdministrator ? undefined : this.refused("forbidden", forbidden());
      }
    }
    return this.refused("unknownToken", unauthorised());
  }

  refused(reason: keyof Metrics["refusals"], reply: HeldReply): HeldReply {
    this.#parts.metrics.refusals[reason].add();
    return reply;
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
}
