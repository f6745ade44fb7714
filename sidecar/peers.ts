// The other replicas, as the registry tells of them: what a sidecar that runs as a process of its own asks
// whether they accept an identity now, and what it compares its own server with, by the key that their sidecars
// told (core/cluster/own-keys.ts). Only members whose proof holds are asked, because asking shows a server a token
// or that key.

import { type MemberSeal, verifyMember } from "../core/cluster/member.ts";
import type { JellyfinClient } from "../core/jellyfin/client.ts";
import type { Member } from "../core/store/store.ts";

export interface PeersOptions {
  /** The replica of this sidecar, which is not its own peer. */
  readonly replica: string;
  readonly seal: MemberSeal;
  readonly connect: (origin: string, basePath: string, apiKey?: string) => JellyfinClient;
  /** The cluster's own key at another replica; undefined while it is not known. */
  readonly keyOf: (replica: string) => string | undefined;
  readonly log: { warn(message: string): void };
  /** Members beyond this are not asked. */
  readonly peersLimit: number;
}

interface Peer {
  readonly url: string;
  readonly key: string | undefined;
  readonly client: JellyfinClient;
}

export class Peers {
  readonly #options: PeersOptions;
  #peers = new Map<string, Peer>();
  #clients: ReadonlyMap<string, JellyfinClient> = new Map();
  readonly #warned = new Set<string>();

  constructor(options: PeersOptions) {
    this.#options = options;
  }

  /** By replica name; without this sidecar's own. */
  get clients(): ReadonlyMap<string, JellyfinClient> {
    return this.#clients;
  }

  /**
   * The registry as it is now: clients of members that stay are kept, of those that left closed. Answers
   * whether anybody came or left.
   */
  async update(members: readonly Member[]): Promise<boolean> {
    const { replica, connect, keyOf, peersLimit } = this.#options;
    const next = new Map<string, Peer>();
    for (const member of members) {
      if (member.replica === replica || next.size >= peersLimit || !this.#isProven(member))
        continue;
      const known = this.#peers.get(member.replica);
      const place = placeOf(member.url);
      const { url } = member;
      const key = keyOf(member.replica);
      if (known?.url === url && known.key === key) next.set(member.replica, known);
      else if (place !== undefined) {
        const client = connect(place.origin, place.basePath, key);
        next.set(member.replica, { url, key, client });
      }
    }
    const left = [...this.#peers].filter(([name, peer]) => next.get(name) !== peer);
    const hasChanged = left.length > 0 || next.size !== this.#peers.size;
    this.#peers = next;
    this.#clients = new Map([...next].map(([name, { client }]) => [name, client]));
    await Promise.all(left.map(([, { client }]) => client.close()));
    return hasChanged;
  }

  async close(): Promise<void> {
    await this.update([]);
  }

  #isProven(member: Member): boolean {
    if (verifyMember(this.#options.seal, member)) return true;
    if (!this.#warned.has(member.replica) && this.#warned.size < this.#options.peersLimit) {
      this.#warned.add(member.replica);
      this.#options.log.warn(
        `the registry names a replica ${member.replica} without a proof made with this cluster's key: it is ignored`,
      );
    }
    return false;
  }
}

function placeOf(url: string): { readonly origin: string; readonly basePath: string } | undefined {
  if (!URL.canParse(url)) return undefined;
  const { protocol, origin, pathname } = new URL(url);
  if (protocol !== "http:" && protocol !== "https:") return undefined;
  return { origin, basePath: pathname.replace(/\/+$/, "") };
}
