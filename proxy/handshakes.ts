// What a client's WebSocket asks of the door: which replica it belongs to now, with which head to dial it, and
// what its device can do, said again where it has just landed.

import { byLowerName, headerIn } from "../core/jellyfin/raw-headers.ts";
import { Client } from "./client.ts";
import { type RequestFacts, readFacts, readHeaderFacts } from "./facts.ts";
import { headFields, upstreamHead } from "./headers.ts";
import { Job } from "./job.ts";
import type { SocketAsked, SocketTarget } from "./lanes/socket-host.ts";
import type { Learning } from "./learning.ts";
import type { Link } from "./links.ts";
import type { DoorParts } from "./parts.ts";
import type { Placing } from "./placing.ts";
import type { Sending } from "./sending.ts";

export class Handshakes {
  readonly #parts: DoorParts;
  readonly #placing: Placing;
  readonly #sending: Sending;
  readonly #learning: Learning;

  constructor(parts: DoorParts, placing: Placing, sending: Sending, learning: Learning) {
    this.#parts = parts;
    this.#placing = placing;
    this.#sending = sending;
    this.#learning = learning;
  }

  /** The facts of a socket's handshake. */
  socketFacts(asked: SocketAsked): RequestFacts {
    const origin = { address: asked.clientAddress, scheme: "http", host: "" } as const;
    const headers = byLowerName(asked.rawHeaders);
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
    const placed = await this.#placing.place(job);
    const link = placed === undefined ? undefined : links.get(placed.replica);
    if (placed === undefined || link === undefined) return undefined;
    const swapped = this.#sending.swapped(job, placed.replica);
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
    return this.#learning.capabilityNotes.isNewTo(identityKey, replica);
  }

  /** Repeats the last capabilities this device posted at a replica that has not heard them. */
  async replayCapabilities(identityKey: string, link: Link, limitMs: number): Promise<void> {
    const remembered = this.#learning.capabilities.get(identityKey);
    const identity = this.#parts.memory.identities.get(identityKey);
    if (identity === undefined) return;
    if (remembered === undefined) {
      // Said at another door, or before this one was started.
      await this.#learning.capabilityNotes.tell(identity, link.config.name);
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
      swapped: this.#sending.swapped(job, link.config.name),
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
          this.#learning.capabilityNotes.heard(identityKey, link.config.name);
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
}

function hostOf(rawHeaders: readonly string[]): string {
  return headerIn(rawHeaders, "host") ?? "";
}

/** The headers of a handshake without those which the WebSocket library makes itself. */
function handshakeHeaders(head: string): Record<string, string> {
  const headers: Record<string, string> = {};
  const fields = headFields(head).headers;
  for (let index = 0; index < fields.length; index += 2) {
    const name = (fields[index] ?? "").toLowerCase();
    if (name.startsWith("sec-websocket-") || name === "host") continue;
    headers[name] = fields[index + 1] ?? "";
  }
  return headers;
}
