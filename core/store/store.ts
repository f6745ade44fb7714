// The store: where the processes of one cluster meet. Two things keep it: Redis, and an embedded
// SQLite inside the single process of `jellybloom up`. This file is the contract; test/store runs one
// suite against both.
//
// Every verb is one transition: it either happens as a whole or not at all, on the store's own clock.
// Followers keep the state in memory (core/cluster/memory.ts), so that no request of a placed user
// waits for the store.

import type { Identity, IdentityFacts, IdentityToken } from "../cluster/identity.ts";

/** The store cannot be reached now. Whoever meets it goes on from memory (design: failsafe). */
export class StoreUnavailable extends Error {
  override readonly name = "StoreUnavailable";
}

/** (number, owner): the number grows by one each time a home or a pin changes hands. */
export interface Epoch {
  readonly number: number;
  /** Who was granted it: a process's boot nonce, never its name. */
  readonly owner: string;
}

/** Where a user is placed, with all their devices. */
export interface Home {
  readonly userId: string;
  readonly replica: string;
  readonly epoch: Epoch;
  /** When it last changed hands, in ms since the epoch on the store's clock. */
  readonly movedAtMs: number;
}

/**
 * What a pin binds to one replica's memory:
 * `quickConnectSecret` and `quickConnectCode` (ids are SHA-256 of them), `passwordReset` (the user name).
 */
export type PinKind = "quickConnectSecret" | "quickConnectCode" | "passwordReset";

export interface Pin {
  readonly kind: PinKind;
  readonly id: string;
  readonly replica: string;
  readonly epoch: Epoch;
  /** In ms since the epoch on the store's clock; after it the pin is as if it had never been. */
  readonly expiresAtMs: number;
}

/** Tokens of an ended generation which each replica has still to be told about. */
export interface Revocation {
  readonly id: string;
  readonly identityKey: string;
  readonly generation: number;
  readonly userId: string;
  readonly deviceId: string;
  /** The ended generation's tokens by replica, still sealed. */
  readonly tokens: Readonly<Record<string, IdentityToken>>;
  /** Replicas that have not yet logged these tokens out. */
  readonly pending: readonly string[];
}

/** What one proxy last saw of each replica. */
export interface ProxySight {
  readonly proxy: string;
  /** Replica name to whether this proxy could reach it. */
  readonly reachable: Readonly<Record<string, boolean>>;
  readonly atMs: number;
}

/** A replica as its sidecar announces it. `proof` is a MAC with the cluster key over the other fields. */
export interface Member {
  readonly replica: string;
  /** Where proxies reach the Jellyfin, such as `http://10.0.0.5:8096/jellyfin`. */
  readonly url: string;
  /** Where the sidecar itself listens; empty when it does not. */
  readonly sidecarUrl: string;
  readonly serverId: string;
  readonly serverVersion: string;
  readonly bootNonce: string;
  readonly atMs: number;
  readonly proof: string;
}

export type Change =
  /** An identity was created or changed; also sent when it ended (then `tokens` is empty). */
  | { readonly type: "identity"; readonly identity: Identity }
  /** These token hashes are of an ended generation and never work again. */
  | { readonly type: "revoked"; readonly identityKey: string; readonly hashes: readonly string[] }
  /** A revocation was added or one of its replicas settled it (`pending` empty: it is done and gone). */
  | { readonly type: "revocation"; readonly revocation: Revocation }
  | { readonly type: "home"; readonly home: Home }
  | { readonly type: "pin"; readonly pin: Pin };

export interface Snapshot {
  readonly identities: readonly Identity[];
  /** Hashes of tokens of ended generations (kept for `revokedKeepMs`). */
  readonly revokedHashes: readonly string[];
  readonly revocations: readonly Revocation[];
  readonly homes: readonly Home[];
  readonly pins: readonly Pin[];
  /** Opaque: where to go on following from. */
  readonly position: string;
}

export interface LoginRecord {
  readonly key: string;
  readonly facts: IdentityFacts;
  readonly origin: string;
  readonly hash: string;
  /**
   * Seals the token for the generation that the store will grant is impossible before it is granted, so
   * the caller passes the sealed form for `expectedGeneration` and tries again when it was another.
   */
  readonly sealed: string;
  /** The generation this login will have: the known one plus one, or 1. */
  readonly expectedGeneration: number;
}

export type LoginOutcome =
  | { readonly outcome: "recorded"; readonly identity: Identity }
  /** Somebody else was faster; `generation` is what the identity has now. Seal for the next and repeat. */
  | { readonly outcome: "stale"; readonly generation: number };

export interface HomeClaim {
  readonly userId: string;
  readonly replica: string;
  /** The epoch number the claimer knows (0: none). The claim is refused if it is another by now. */
  readonly expectedEpoch: number;
  /** Boot nonce of the claimer. */
  readonly owner: string;
  /** Refused while the home moved less than this long ago, in ms (0: no such rule). */
  readonly minStayMs: number;
}

export interface HomeAnswer {
  readonly granted: boolean;
  /** The home as it is now, whoever won. */
  readonly home: Home;
}

export interface StoreLimits {
  /** Changes kept for followers that fell behind; one further behind loads again. */
  readonly changesKept: number;
  /** How long a revoked token's hash is remembered, in ms. */
  readonly revokedKeepMs: number;
  /** How long one call may take before it counts as unavailable, in ms. */
  readonly callLimitMs: number;
}

export interface Store {
  readonly kind: "embedded" | "redis";

  /** A random id made once for the life of this store's data: two doors with other ids share no store. */
  clusterId(): Promise<string>;

  /** ms since the epoch on the store's clock. */
  time(): Promise<number>;

  /** Everything a follower must know, and the position from which to follow. */
  load(): Promise<Snapshot>;

  /**
   * Calls `onChanges` with what came after `position`, in order, each change once, until `signal` aborts.
   * Resolves `lost` when the position is no longer kept or the store's data was replaced: load again.
   * Rejects with StoreUnavailable when the store went away: call again with the same position later.
   */
  follow(
    position: string,
    onChanges: (changes: readonly Change[], position: string) => void,
    signal: AbortSignal,
  ): Promise<"aborted" | "lost">;

  /** A login was seen: a new generation begins, tokens of the old one are revoked (hashes only). */
  recordLogin(login: LoginRecord): Promise<LoginOutcome>;

  /**
   * A valid token was seen for the first time (or a minted one is to be kept): adds it to the identity.
   * `generation` 0 means «there should be no such identity»: it is created with generation 1.
   * Answers `stale` when the generation is another by now, or when `hash` is revoked.
   * An equal hash again changes nothing and is answered `recorded`.
   */
  addToken(record: {
    readonly key: string;
    readonly facts: IdentityFacts;
    readonly generation: number;
    readonly replica: string;
    readonly hash: string;
    /** Sealed for generation 1 when `generation` is 0. */
    readonly sealed: string;
  }): Promise<LoginOutcome>;

  /** Forgets one replica's token (the replica no longer knows it), so that it is minted again. */
  dropToken(key: string, generation: number, replica: string, hash: string): Promise<void>;

  /**
   * Ends the identity's current generation: the generation grows, the tokens are taken away, their
   * hashes are revoked, and a revocation is added for `replicas`. Answers the ended identity, or
   * undefined when there is no such identity or it has no tokens.
   */
  revoke(key: string, replicas: readonly string[]): Promise<Identity | undefined>;

  /** A replica has logged out the revocation's tokens. */
  settleRevocation(id: string, replica: string): Promise<void>;

  /** The right to mint for one identity, generation and replica, for `ttlMs`. One holder at a time. */
  claimMint(claim: {
    readonly key: string;
    readonly generation: number;
    readonly replica: string;
    readonly owner: string;
    readonly ttlMs: number;
  }): Promise<boolean>;

  /** Gives the claim back early; only its owner can. */
  releaseMint(claim: {
    readonly key: string;
    readonly generation: number;
    readonly replica: string;
    readonly owner: string;
  }): Promise<void>;

  claimHome(claim: HomeClaim): Promise<HomeAnswer>;

  /** The first claim wins until it expires; answers the pin as it is now. */
  claimPin(claim: {
    readonly kind: PinKind;
    readonly id: string;
    readonly replica: string;
    readonly owner: string;
    readonly ttlMs: number;
  }): Promise<Pin>;

  /** Leaves this proxy's sight for `ttlMs` and answers everybody's, and the members not yet expired. */
  touchProxy(
    sight: Omit<ProxySight, "atMs">,
    ttlMs: number,
  ): Promise<{ readonly sights: readonly ProxySight[]; readonly members: readonly Member[] }>;

  /** Announces a replica for `ttlMs`. `atMs` is the store's clock, set by the store, not part of the proof. */
  touchMember(member: Omit<Member, "atMs">, ttlMs: number): Promise<void>;

  /** Members not yet expired. */
  members(): Promise<readonly Member[]>;

  close(): Promise<void>;
}
