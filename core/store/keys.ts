// Every key that a cluster has in Redis: what it is, which verbs write it, when it ends. A script touches
// the keys that its head names and no others, and test/store compares this table with what really lies
// in a Redis that was used.
//
// All names share one `{…}`, so that all keys of a cluster lie in one hash slot and a script may touch
// several. Values are JSON objects without arrays, because Redis's cjson cannot tell an empty array from
// an empty object: sets are objects of name to true, lists of hashes are texts divided by spaces.

import type { NoteKind } from "./store.ts";

export interface KeyDescription {
  readonly type: "hash" | "stream" | "string" | "zset";
  readonly holds: string;
  /** The verbs (scripts) that write it, or the library that does. */
  readonly writers: readonly string[];
  /** When it, or one value in it, ends. */
  readonly expiry: string;
}

/** Verbs that append to the feed; each of them makes the cluster's id where there is none. */
const publishingVerbs = [
  "recordLogin",
  "addToken",
  "dropToken",
  "revoke",
  "settleRevocation",
  "claimHome",
  "claimPin",
  "movePin",
  "dropPin",
  "putNote",
  "dropNotes",
  "grantLease",
  "vacateLease",
] as const;

export const keyTable = {
  meta: {
    type: "hash",
    holds: "clusterId, bornAtMs, and the number and mark of the last change",
    writers: ["openCluster", ...publishingVerbs],
    expiry: "never",
  },
  changes: {
    type: "stream",
    holds: "the feed: one entry `<bornAtMs>-<number>` {mark, changes} for each transition",
    writers: ["openCluster", ...publishingVerbs],
    expiry: "trimmed to about `changesKept` entries",
  },
  identities: {
    type: "hash",
    holds: "identity key to identity, its tokens sealed",
    writers: ["recordLogin", "addToken", "dropToken", "revoke"],
    expiry: "never: an ended identity keeps its generation, so that it only ever grows",
  },
  revokedHashes: {
    type: "zset",
    holds: "hashes of revoked tokens, by when they are forgotten",
    writers: ["recordLogin", "revoke"],
    expiry: "each hash after `revokedKeepMs`",
  },
  revocations: {
    type: "hash",
    holds: "revocation id to revocation",
    writers: ["revoke", "settleRevocation"],
    expiry: "each when every replica settled it, at the latest after `revokedKeepMs`",
  },
  revocationExpiry: {
    type: "zset",
    holds: "revocation ids, by when they end",
    writers: ["revoke", "settleRevocation"],
    expiry: "with the revocation",
  },
  homes: {
    type: "hash",
    holds: "user id to home",
    writers: ["claimHome"],
    expiry: "never",
  },
  pins: {
    type: "hash",
    holds: "`<kind>:<id>` to pin",
    writers: ["claimPin", "movePin", "dropPin"],
    expiry: "each at its `expiresAtMs`",
  },
  pinExpiry: {
    type: "zset",
    holds: "fields of pins, by when they end",
    writers: ["claimPin", "movePin", "dropPin"],
    expiry: "with the pin",
  },
  notes: {
    type: "hash",
    holds: "id to note; one key for each kind",
    writers: ["putNote", "dropNotes"],
    expiry: "each at its `expiresAtMs`; those with 0 when they are dropped",
  },
  noteReplicas: {
    type: "hash",
    holds: "id of a note to the replica it tells of; one key for each kind",
    writers: ["putNote", "dropNotes"],
    expiry: "with the note",
  },
  noteExpiry: {
    type: "zset",
    holds: "ids of notes that end, by when they do; one key for each kind",
    writers: ["putNote", "dropNotes"],
    expiry: "with the note",
  },
  lock: {
    type: "string",
    holds: "the leader's lock: a random value that its holder knows, compared by grantLease",
    writers: ["redlock"],
    expiry: "by Redis, after the lease's `ttlMs`",
  },
  lease: {
    type: "string",
    holds: "who was last granted the lease, with the lock's value at that time",
    writers: ["grantLease", "vacateLease"],
    expiry: "never",
  },
  leaseEpoch: {
    type: "string",
    holds: "the number of the last epoch of the lease",
    writers: ["grantLease"],
    expiry: "never: it only ever grows",
  },
  journalHead: {
    type: "hash",
    holds:
      "the journal's generation, the highest number given, that of the last entry, and the bytes of its last blocks",
    writers: ["appendJournal", "readJournal"],
    expiry: "never",
  },
  journal: {
    type: "stream",
    holds: "the journal: one entry `<number>-0` {mark, previous, value} for each",
    writers: ["appendJournal"],
    expiry: "trimmed to about `journalKept` entries and to `journalKeptBytes`",
  },
  sights: {
    type: "hash",
    holds: "proxy to what it sees of each replica",
    writers: ["touchProxy"],
    expiry: "each at its `expiresAtMs`",
  },
  members: {
    type: "hash",
    holds: "replica to its announcement",
    writers: ["touchMember", "touchProxy", "readMembers"],
    expiry: "each at its `expiresAtMs`; readers remove those that are over",
  },
  mintClaim: {
    type: "string",
    holds: "the owner of the right to mint; one key for each identity, generation and replica",
    writers: ["claimMint", "releaseMint"],
    expiry: "by Redis, after the claim's `ttlMs`",
  },
  secret: {
    type: "hash",
    holds: "a sealed secret and the replicas it is for; one key for each id",
    writers: ["putSecret", "settleSecret"],
    expiry: "when every replica has settled it, at the latest by Redis after its `ttlMs`",
  },
} as const satisfies Record<string, KeyDescription>;

export type KeyName = keyof typeof keyTable;

/** Rows of the table which stand for several keys each. */
type ManyKeys = "mintClaim" | "secret" | "notes" | "noteReplicas" | "noteExpiry";

/** The names of one cluster's keys. */
export interface StoreKeys extends Readonly<Record<Exclude<KeyName, ManyKeys>, string>> {
  readonly notes: (kind: NoteKind) => string;
  readonly noteReplicas: (kind: NoteKind) => string;
  readonly noteExpiry: (kind: NoteKind) => string;
  readonly mintClaim: (identityKey: string, generation: number, replica: string) => string;
  readonly secret: (id: string) => string;
}

export function storeKeys(prefix: string): StoreKeys {
  const named = (name: KeyName): string => `{${prefix}}:${name}`;
  return {
    meta: named("meta"),
    changes: named("changes"),
    identities: named("identities"),
    revokedHashes: named("revokedHashes"),
    revocations: named("revocations"),
    revocationExpiry: named("revocationExpiry"),
    homes: named("homes"),
    pins: named("pins"),
    pinExpiry: named("pinExpiry"),
    journalHead: named("journalHead"),
    journal: named("journal"),
    sights: named("sights"),
    members: named("members"),
    lock: named("lock"),
    lease: named("lease"),
    leaseEpoch: named("leaseEpoch"),
    notes: (kind) => `${named("notes")}:${kind}`,
    noteReplicas: (kind) => `${named("noteReplicas")}:${kind}`,
    noteExpiry: (kind) => `${named("noteExpiry")}:${kind}`,
    mintClaim: (identityKey, generation, replica) =>
      `${named("mintClaim")}:${identityKey}:${generation}:${replica}`,
    secret: (id) => `${named("secret")}:${id}`,
  };
}

/** Which row of the table a key of Redis belongs to, or undefined when it is none of ours. */
export function keyNameOf(prefix: string, key: string): KeyName | undefined {
  const start = `{${prefix}}:`;
  if (!key.startsWith(start)) return undefined;
  const [name = ""] = key.slice(start.length).split(":");
  return Object.hasOwn(keyTable, name) ? (name as KeyName) : undefined;
}
