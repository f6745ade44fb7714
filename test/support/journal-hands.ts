/**
 * The journal's handlers as a follower asks them, without the follower: each stand-in has its hands, and what one
 * publishes is brought to the others by `carry`, in order. For tests of what a handler does at a server; that the
 * follower asks in the right order is for its own.
 */

import { hashOf, identityKey, normalId, sealContext } from "../../core/cluster/identity.ts";
import {
  type Effect,
  type Intent,
  journalBodyContext,
  newEntryId,
  type Outcome,
  type Placed,
} from "../../core/cluster/journal.ts";
import { Memory } from "../../core/cluster/memory.ts";
import { keepSecret } from "../../core/cluster/secret.ts";
import type { ChangeDraft } from "../../core/jellyfin/change-request.ts";
import { changeReader } from "../../core/jellyfin/changes.ts";
import { createJellyfinClient, type JellyfinClient } from "../../core/jellyfin/client.ts";
import { matchRoute } from "../../core/jellyfin/routes.ts";
import { systemClock } from "../../core/service/clock.ts";
import { createSeal } from "../../core/service/seal.ts";
import { openEmbeddedStore } from "../../core/store/embedded.ts";
import type {
  Applied,
  EffectDraft,
  JournalHandler,
  JournalHands,
  Published,
} from "../../sidecar/journal/handler.ts";
import type { StandIn } from "./jellyfin/start.ts";
import type { Viewer } from "./viewer.ts";

const noRace = { isRaced: false, untold: async () => [] };

export interface AskedBy {
  readonly body?: unknown;
  readonly contentType?: string;
  /** Nothing: an API key. */
  readonly userId?: string;
  readonly identityKey?: string;
}

/** What the door reads from a request. */
export function draftOf(
  method: string,
  target: string,
  { body, contentType = "application/json", userId }: AskedBy = {},
): ChangeDraft | undefined {
  const [path = "", rawQuery = ""] = target.split("?");
  const { route, params } = matchRoute(method, path);
  const bodyText = body === undefined ? "" : typeof body === "string" ? body : JSON.stringify(body);
  return changeReader(route)?.({
    ...{ route, params, method, rawQuery, contentType, bodyText },
    body: Buffer.from(bodyText),
    caller: userId === undefined ? { kind: "apiKey", userId: "" } : { kind: "user", userId },
  });
}

export class HandCluster {
  readonly store = openEmbeddedStore({
    limits: { changesKept: 10_000, revokedKeepMs: 3_600_000, callLimitMs: 1000 },
  });
  readonly seal = createSeal("a cluster key of some length");
  readonly memory: Memory;
  readonly told: string[] = [];
  readonly #hands = new Map<string, JournalHands>();
  readonly #clients = new Map<string, JellyfinClient>();
  readonly #stop = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #number = 0;

  constructor(servers: readonly StandIn[]) {
    const note = (message: string): void => void this.told.push(message);
    const log = { debug: note, info: note, warn: note };
    this.memory = new Memory({
      ...{ store: this.store, seal: this.seal, log },
      tokensRemembered: 100,
      storeRetryMs: 20,
    });
    for (const server of servers) {
      const client = createJellyfinClient({
        ...{ origin: server.url, basePath: "", apiKey: server.apiKey },
        ...{ callLimitMs: 3000, now: systemClock.monotonicMs },
      });
      this.#clients.set(server.name, client);
      this.#hands.set(server.name, {
        ...{ replica: server.name, client, log, clock: systemClock },
        ...{ store: this.store, memory: this.memory, seal: this.seal },
        peer: (name) => this.#clients.get(name),
        startedAtMs: systemClock.wallMs(),
        leads: () => true,
      });
    }
  }

  async start(): Promise<void> {
    this.#running = this.memory.run(this.#stop.signal);
    await this.memory.loaded;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    await Promise.all([...this.#clients.values()].map((client) => client.close()));
    await this.store.close();
  }

  hands(replica: string): JournalHands {
    const hands = this.#hands.get(replica);
    if (hands === undefined) throw new Error(`no hands at ${replica}`);
    return hands;
  }

  placed<Of extends Intent | Effect>(entry: Of): Placed<Of> {
    this.#number += 1;
    return { number: this.#number, atMs: Date.now(), entry };
  }

  /** The intent of a client's request, made as the door makes it; its secret goes where secrets go. */
  async intent(method: string, target: string, asked: AskedBy = {}): Promise<Intent> {
    const draft = draftOf(method, target, asked);
    if (draft === undefined) throw new Error(`${method} ${target} makes no intent`);
    const id = newEntryId();
    const { kind, userId, itemId, request, facts, secret, isSecret } = draft;
    if (secret !== undefined) {
      await keepSecret(this.store, this.seal, id, secret, [...this.#hands.keys()]);
    }
    const body =
      isSecret === true && request.body !== ""
        ? { body: this.seal.seal(request.body, journalBodyContext), isSealed: true }
        : {};
    const identityKey = asked.identityKey ?? "";
    const intent = { type: "intent", id, kind, identityKey, userId, itemId, facts } as const;
    return { ...intent, request: { ...request, ...body } };
  }

  publish(
    handler: JournalHandler,
    replica: string,
    intent: Intent,
    facts?: unknown,
  ): Promise<Published> {
    const outcome: Outcome = {
      ...{ type: "outcome", id: newEntryId(), of: intent.id, replica, status: 204 },
      ...(facts !== undefined && { facts }),
    };
    return handler.publish(this.placed(intent), outcome, this.hands(replica), noRace);
  }

  /** Somebody's login at a server, as the others know it. */
  async login(replica: string, viewer: Viewer): Promise<void> {
    const { token, deviceId, client } = viewer;
    const userId = normalId(viewer.userId);
    const key = identityKey(userId, deviceId);
    const device = { deviceId, client, device: "Test", version: "1" };
    const facts = { ...device, ...{ kind: "user" as const, userId, userName: "" } };
    const { generation = 0 } = this.memory.identities.get(key) ?? {};
    const sealed = this.seal.seal(token, sealContext(key, generation || 1, replica));
    const login = { key, facts, generation, replica, hash: hashOf(token), sealed };
    const answer = await this.store.addToken(login);
    if (answer.outcome !== "recorded") throw new Error("somebody else logged in");
    this.memory.apply({ type: "identity", identity: answer.identity });
  }

  /** An effect as it lies in the journal. */
  effect(from: string, intent: Pick<Intent, "id" | "kind">, draft: EffectDraft): Placed<Effect> {
    // What lies in the journal is JSON: nothing else comes through.
    const effect: Effect = JSON.parse(
      JSON.stringify({
        ...{ type: "effect", id: newEntryId(), of: intent.id, ofNumber: this.#number },
        ...{ kind: intent.kind, replica: from },
        ...draft,
      }),
    ) as Effect;
    return this.placed(effect);
  }

  apply(
    handler: JournalHandler,
    replica: string,
    from: string,
    intent: Pick<Intent, "id" | "kind">,
    draft: EffectDraft,
  ): Promise<Applied> {
    const placed = this.effect(from, intent, draft);
    handler.words?.note(placed, false);
    return handler.apply(placed, this.hands(replica), new Set());
  }

  /** Publishes at one replica and applies at another; answers what came of each effect. */
  async carry(
    handler: JournalHandler,
    intent: Intent,
    way: { readonly from: string; readonly to: string; readonly facts?: unknown },
  ): Promise<string[]> {
    const published = await this.publish(handler, way.from, intent, way.facts);
    if (published.outcome !== "effects") return [`${published.outcome}: ${published.why}`];
    const outcomes: string[] = [];
    for (const draft of published.effects) {
      const applied = await this.apply(handler, way.to, way.from, intent, draft);
      outcomes.push("why" in applied ? `${applied.outcome}: ${applied.why}` : applied.outcome);
    }
    return outcomes;
  }
}
