// What an answer teaches the cluster, taken in before the client can act on it: a login, a device's capabilities,
// where a password's reset was begun, and which tokens a change has ended.

import { sessionAsked, withoutSession } from "../core/cluster/capabilities.ts";
import { type Identity, identityKey } from "../core/cluster/identity.ts";
import { readSessionNote, sessionIdOf, sessionNoteId } from "../core/cluster/sessions.ts";
import { readyNames } from "../core/cluster/view.ts";
import { userMeant } from "../core/jellyfin/change-request.ts";
import { bodyValue, queryValues } from "../core/jellyfin/playback.ts";
import { Bounded } from "./bounded.ts";
import { CapabilityNotes } from "./capabilities.ts";
import type { HeldReply } from "./client.ts";
import type { RequestFacts } from "./facts.ts";
import type { Job } from "./job.ts";
import { readAuthenticationResult } from "./logins.ts";
import type { DoorParts } from "./parts.ts";
import { newPlaces } from "./place.ts";
import type { Sending } from "./sending.ts";

const rememberedLimit = 10_000;

/** A device's last POST of its capabilities, to be said again wherever the device lands. */
export interface RememberedCapabilities {
  readonly facts: RequestFacts;
  readonly rawHeaders: readonly string[];
  readonly body: Buffer | undefined;
}

export class Learning {
  readonly capabilities = new Bounded<string, RememberedCapabilities>(rememberedLimit);
  readonly capabilityNotes: CapabilityNotes;
  readonly #parts: DoorParts;
  readonly #sending: Sending;

  constructor(parts: DoorParts, sending: Sending) {
    this.#parts = parts;
    this.#sending = sending;
    this.capabilityNotes = new CapabilityNotes({ ...parts, log: parts.log.log });
  }

  /** Takes in what an answer gives and what it ends, before the client can act on it. */
  async learn(job: Job, reply: HeldReply): Promise<void> {
    const { logins, homes } = this.#parts;
    const { facts } = job;
    const { route } = facts;
    if (route.kind === "capabilities" && job.identity !== undefined) {
      this.#learnCapabilities(job, job.identity);
    }
    switch (route.gives) {
      case "authenticationResult": {
        const text = reply.body.toString("utf8");
        const result = readAuthenticationResult(text, facts.credentials);
        if (result === undefined) break;
        const identity = await logins.record(result, job.replica);
        logins.forgetUnknown(result.token);
        // The answer stays the server's own, and whoever shows that token is refused.
        if (identity === undefined) break;
        if (homes.homeOf(identity.userId) === undefined) {
          const first = this.#firstHome(identity.userId, job.replica);
          await homes.claim(identity.userId, first, "first login of this user");
        }
        job.identity = identity;
        this.#sending.addHeaders(job, reply.head.headers);
        break;
      }
      default:
        break;
    }
    if (route.ends !== "none") await this.#endTokens(job);
  }

  /** Where they logged in, unless clients know them by an id that is native elsewhere. */
  #firstHome(userId: string, replica: string): string {
    const { idSwaps, health } = this.#parts;
    if (!idSwaps.isForeign(replica, userId)) return replica;
    const ready = newPlaces(readyNames(health.view), health.view);
    return ready.find((name) => !idSwaps.isForeign(name, userId)) ?? replica;
  }

  /** What a device can do, said by itself, or by somebody else for its session. */
  #learnCapabilities(job: Job, caller: Identity): void {
    const { facts, bodyText, replica } = job;
    const { rawHeaders } = job.client.head;
    const sessionId = sessionAsked(facts.rawQuery);
    if (sessionId === undefined || sessionId === sessionIdOf(caller)) {
      this.capabilities.set(caller.key, { facts, rawHeaders, body: job.body });
      const own = { ...facts, rawQuery: withoutSession(facts.rawQuery) };
      this.capabilityNotes.said(caller.key, replica, own, bodyText);
      return;
    }
    const key = this.#identityOf(sessionId, replica);
    if (key === undefined) return;
    const own = { ...facts, rawQuery: withoutSession(facts.rawQuery) };
    this.capabilityNotes.said(key, replica, own, bodyText);
    // What that device said last by itself is no longer what counts.
    this.capabilities.delete(key);
  }

  /** Whose session it is: as its note says, or, before there is one, by what the id is made of. */
  #identityOf(sessionId: string, replica: string): string | undefined {
    const { memory } = this.#parts;
    const note = memory.notes("session").get(sessionNoteId(replica, sessionId));
    const session = note === undefined ? undefined : readSessionNote(note);
    if (session !== undefined && session.userId !== "") {
      return identityKey(session.userId, session.deviceId);
    }
    for (const identity of memory.identities.values()) {
      if (sessionIdOf(identity) === sessionId) return identity.key;
    }
    return undefined;
  }

  /** Tokens that this change has ended on one replica end on all. */
  async #endTokens(job: Job): Promise<void> {
    const { memory, logins } = this.#parts;
    const { facts, identity: caller, bodyText = "" } = job;
    const { route, params } = facts;
    const shown = memory.standingOf(params.key ?? "");
    const ended =
      route.ends === "apiKey"
        ? shown.standing === "current"
          ? [shown.identity]
          : []
        : endedWith({ ...facts, bodyText, caller }, [...memory.identities.values()]);
    for (const identity of ended) {
      if (identity.userId === "" && identity.kind === "user") continue;
      await logins.end(identity, `${facts.method} ${route.pattern}`);
    }
  }

  /** A login has ended: what its device could do is nobody's any more. */
  forget(identityKey: string): void {
    this.capabilities.delete(identityKey);
    this.capabilityNotes.drop(identityKey);
  }
}

export interface EndingRequest extends Pick<RequestFacts, "route" | "params" | "rawQuery"> {
  readonly bodyText: string;
  readonly caller: Identity | undefined;
}

/** Of these logins, those that a request has ended at the server which agreed to it, by devices or by users. Pure. */
export function endedWith(
  { route, params, rawQuery, bodyText, caller }: EndingRequest,
  identities: readonly Identity[],
): Identity[] {
  const all = identities.filter(({ tokens }) => Object.keys(tokens).length > 0);
  const userId = userMeant({ params, rawQuery, caller });
  const ofUser = userId === "" ? [] : all.filter((identity) => identity.userId === userId);
  const others = ofUser.filter(({ key }) => key !== caller?.key);
  switch (route.ends) {
    case "device": {
      // Jellyfin 12 takes several (DevicesController).
      const deviceIds = new Set(queryValues(rawQuery, "id"));
      return all.filter(({ deviceId }) => deviceIds.has(deviceId));
    }
    case "user":
      return ofUser;
    case "userOthers":
      return bodyValue(bodyText, "ResetPassword") === true ? [] : others;
    case "userIfDisabled":
      return bodyValue(bodyText, "IsDisabled") === true ? others : [];
    default:
      return [];
  }
}
