// What the servers of a cluster say of themselves at start, gathered within a limit: findings.ts judges it.
// A slow or dead server costs the others nothing; what it did not say in time stays undefined, and the
// caller may ask again when it is there (`isUndecided`).

import { lookup } from "node:dns/promises";
import { BlockList, isIP } from "node:net";
import type { CallFailure, JellyfinClient, Refusal } from "../core/jellyfin/client.ts";
import {
  findRival,
  findTwin,
  type OwnedSession,
  presenceDevice,
  type Rival,
} from "../core/jellyfin/ours.ts";
import { sleep } from "../core/service/loop.ts";
import type { ReplicaFacts } from "./findings.ts";

export interface AskedReplica {
  readonly name: string;
  readonly client: JellyfinClient;
  /** False: without an API key, so what needs one is not asked. */
  readonly hasKey: boolean;
}

export interface GatherOptions {
  /** The id of this cluster's store; undefined: it cannot be reached, and no rival is looked for. */
  readonly clusterId: string | undefined;
  /** What is not answered by then stays undefined, in ms. */
  readonly limitMs: number;
  /**
   * A rival must still be there after this, in ms: the socket of a Jellybloom that has just ended may
   * outlive it for a moment.
   */
  readonly rivalGraceMs: number;
  /**
   * This program's version: while the servers are asked, each is shown the presence of the replica it is asked as, so
   * that two names for one server see each other, also of two sidecars that start at once.
   */
  readonly showAs?: string | undefined;
}

/** Asks all servers at once. Takes at most `limitMs`, and `rivalGraceMs` more where a rival was seen. */
export async function gatherFacts(
  replicas: readonly AskedReplica[],
  options: GatherOptions,
): Promise<readonly ReplicaFacts[]> {
  const done = new AbortController();
  try {
    const isShown = show(replicas, options, done.signal);
    return await Promise.all(replicas.map((replica) => gatherOne(replica, options, isShown)));
  } finally {
    done.abort();
  }
}

/** Shows the replicas at their servers until `signal` aborts; resolves when each was shown or cannot be in time. */
async function show(
  replicas: readonly AskedReplica[],
  { clusterId, showAs, limitMs }: GatherOptions,
  signal: AbortSignal,
): Promise<void> {
  if (clusterId === undefined || showAs === undefined) return;
  const shown = replicas
    .filter(({ hasKey }) => hasKey)
    .map(
      ({ name, client }) =>
        new Promise<void>((resolve) => {
          const device = presenceDevice(clusterId, name, showAs);
          void client.holdPresence(device, resolve, signal).then(() => resolve());
        }),
    );
  await Promise.race([Promise.all(shown), sleep(limitMs / 2, signal)]);
}

async function gatherOne(
  { name, client, hasKey }: AskedReplica,
  { clusterId, limitMs, rivalGraceMs }: GatherOptions,
  isShown: Promise<void>,
): Promise<ReplicaFacts> {
  const limit = new AbortController();
  const timeUp = sleep(limitMs, limit.signal).then(() => undefined);
  const inTime = async <Value>(question: Promise<Value>): Promise<Value | undefined> =>
    await Promise.race([question, timeUp]);
  try {
    const health = await inTime(client.health());
    const silent = { state: "silent" as const, reason: `no answer within ${limitMs} ms` };
    const { state, reason } = health ?? silent;
    const base = {
      name,
      url: client.origin + client.basePath,
      basePath: client.basePath,
      health: state,
      healthReason: reason,
    };
    if (state !== "healthy") return { ...base, ...nothingKnown };

    const withKey = async <Value>(question: () => Promise<Value>): Promise<Value | undefined> =>
      hasKey ? await inTime(question()) : undefined;
    const [info, key, users, quickConnect, network, encoding, doorAddress, forwarding, sessions] =
      await Promise.all([
        inTime(client.publicInfo()),
        withKey(() => client.apiKeyWorks()),
        withKey(() => client.users()),
        inTime(client.quickConnectEnabled()),
        withKey(() => client.networkConfiguration()),
        withKey(() => client.encodingConfiguration()),
        inTime(client.localAddress()),
        withKey(() => client.forwarding()),
        withKey(async () => {
          await isShown;
          return await client.sessions();
        }),
      ]);
    const knownNetwork = okOf(network)?.network;
    const proxiesNameDoor =
      knownNetwork === undefined || doorAddress === undefined
        ? undefined
        : await inTime(namesAddress(knownNetwork.knownProxies, doorAddress));
    const others =
      clusterId === undefined
        ? nobody
        : await whoElse(client, okOf(sessions)?.sessions ?? [], clusterId, name, rivalGraceMs);
    return {
      ...base,
      info: okOf(info)?.info,
      key: keyOf(hasKey, key?.outcome),
      users: okOf(users)?.users,
      quickConnect: okOf(quickConnect)?.enabled,
      network: knownNetwork,
      encoding: okOf(encoding)?.encoding,
      doorAddress,
      proxiesNameDoor,
      forwarding: okOf(forwarding)?.forwarding ?? "unknown",
      ...others,
    };
  } finally {
    limit.abort();
  }
}

const nothingKnown = {
  info: undefined,
  key: undefined,
  users: undefined,
  quickConnect: undefined,
  network: undefined,
  encoding: undefined,
  doorAddress: undefined,
  proxiesNameDoor: undefined,
  forwarding: "unknown",
  rival: undefined,
} as const;

function okOf<Value>(
  answer: ({ readonly outcome: "ok" } & Value) | Refusal | CallFailure | undefined,
): ({ readonly outcome: "ok" } & Value) | undefined {
  return answer?.outcome === "ok" ? (answer as { readonly outcome: "ok" } & Value) : undefined;
}

function keyOf(
  hasKey: boolean,
  outcome: "works" | "refused" | "failed" | undefined,
): ReplicaFacts["key"] {
  if (!hasKey) return "none";
  return outcome === "failed" ? undefined : outcome;
}

/** Who else keeps the server. */
interface Others {
  readonly rival: Rival | undefined;
  readonly twin: string | undefined;
}

const nobody: Others = { rival: undefined, twin: undefined };

async function whoElse(
  client: JellyfinClient,
  sessions: readonly OwnedSession[],
  clusterId: string,
  name: string,
  rivalGraceMs: number,
): Promise<Others> {
  const among = (seen: readonly OwnedSession[]): Others => ({
    rival: findRival(seen, clusterId),
    twin: findTwin(seen, clusterId, name),
  });
  const first = among(sessions);
  if (first.rival === undefined && first.twin === undefined) return first;
  await sleep(rivalGraceMs, new AbortController().signal);
  const again = await client.sessions();
  return again.outcome === "ok" ? among(again.sessions) : first;
}

/**
 * Whether Jellyfin's KnownProxies names an address: entries are addresses, networks (`10.0.0.0/8`) or host
 * names, which the server resolves at its start.
 */
export async function namesAddress(entries: readonly string[], address: string): Promise<boolean> {
  const plain = plainAddress(address);
  const list = new BlockList();
  const names: string[] = [];
  for (const entry of entries.map((text) => text.trim()))
    if (!addEntry(list, entry)) names.push(entry);
  const family = isIP(plain) === 6 ? "ipv6" : "ipv4";
  if (list.check(plain, family)) return true;
  const resolved = await Promise.all(names.map(addressesOf));
  return resolved.flat().includes(plain);
}

/** False when the entry is no address and no network. */
function addEntry(list: BlockList, entry: string): boolean {
  const [network = "", bits] = entry.split("/");
  const plain = plainAddress(network);
  const version = isIP(plain);
  if (version === 0) return false;
  const family = version === 6 ? "ipv6" : "ipv4";
  const length = Number(bits);
  if (bits === undefined) list.addAddress(plain, family);
  else if (Number.isInteger(length) && length >= 0 && length <= (version === 6 ? 128 : 32)) {
    list.addSubnet(plain, length, family);
  }
  return true;
}

async function addressesOf(name: string): Promise<string[]> {
  if (name === "") return [];
  try {
    const found = await lookup(name, { all: true });
    return found.map(({ address }) => plainAddress(address));
  } catch {
    // A name this machine cannot resolve names no address here; the finding tells the list as it is.
    return [];
  }
}

/** `::ffff:10.0.0.1` as `10.0.0.1`, and without a zone. */
function plainAddress(address: string): string {
  const withoutZone = address.split("%")[0] ?? address;
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(withoutZone);
  return mapped?.[1] ?? withoutZone;
}
