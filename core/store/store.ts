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

/** The store cannot be opened as it was asked for, and repeating will not help. The message says what to do. */
export class StoreNotOpened extends Error {
  override readonly name = "StoreNotOpened";
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

/**
 * Tokens of an ended generation which each replica has still to be told about. It is kept until every
 * replica has settled it, at most as long as the hashes of its tokens (`revokedKeepMs`).
 */
export interface Revocation {
  readonly id: string;
  readonly identityKey: string;
  /** The ended generation: its tokens are sealed for it. */
  readonly generation: number;
  readonly userId: string;
  readonly deviceId: string;
  /** The ended generation's tokens by replica, still sealed. */
  readonly tokens: Readonly<Record<string, IdentityToken>>;
  /** Replicas that have not yet logged these tokens out, in alphabetical order. */
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
  /** An identity was created or changed; also sent when it ended (then it has no tokens and no former hashes). */
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
  /** Opaque: where to go on following from. What follows it is exactly what this snapshot lacks. */
  readonly position: string;
}

/** How many former hashes an identity keeps: more than its replicas are reseeded within one login. */
export const formerHashesKept = 16;

export interface LoginRecord {
  readonly key: string;
  readonly facts: IdentityFacts;
  readonly origin: string;
  readonly hash: string;
  /**
   * The token, sealed for `expectedGeneration`. Sealing binds the generation, and only the store grants
   * one; so the caller seals for the generation it expects, and seals again and repeats on `stale`.
   */
  readonly sealed: string;
  /** The generation this login will have: the known one plus one, or 1. */
  readonly expectedGeneration: number;
}

export type LoginOutcome =
  | { readonly outcome: "recorded"; readonly identity: Identity }
  /**
   * Somebody else was faster; `generation` is what the identity has now (0: there is none). Seal for the
   * next and repeat, a few times at most: a revoked hash is answered so, too, and will never be recorded.
   */
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

/**
 * A claim on a home that the store does not know (its data were lost) is granted, and counts on from
 * `expectedEpoch`, so that the number never falls.
 */
export interface HomeAnswer {
  readonly granted: boolean;
  /** The home as it is now, whoever won. */
  readonly home: Home;
}

export interface StoreLimits {
  /**
   * Transitions kept for followers that fell behind; one further behind loads again. At least so many are
   * kept; Redis may keep about a hundred more, because it trims whole blocks.
   */
  readonly changesKept: number;
  /** How long a revoked token's hash and an unsettled revocation are remembered, in ms. */
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
   * The changes of one transition always come in one call, and every change carries the whole new state.
   * It is called at once, perhaps with no changes, when the store was reached and holds the position.
   * Resolves `lost` when the position is no longer kept or the store's data was replaced: load again.
   * Rejects with StoreUnavailable when the store went away: call again with the same position later.
   */
  follow(
    position: string,
    onChanges: (changes: readonly Change[], position: string) => void,
    signal: AbortSignal,
  ): Promise<"aborted" | "lost">;

  /**
   * A login was seen: a new generation begins, tokens of the old one are revoked (hashes only).
   * A hash that the current generation already has changes nothing and is answered `recorded`, so that a
   * call whose answer was lost may be repeated.
   */
  recordLogin(login: LoginRecord): Promise<LoginOutcome>;

  /**
   * A valid token was seen for the first time (or a minted one is to be kept): adds it to the identity.
   * `generation` 0 means «there should be no such identity»: it is created with generation 1.
   * Answers `stale` when the generation is another by now, or when `hash` is revoked.
   * An equal hash again changes nothing and is answered `recorded`. Another hash takes the place of the
   * replica's token, which becomes a former hash. The facts count only where there are no tokens yet.
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

  /**
   * Forgets one replica's token (the replica no longer knows it), so that it is minted again. Its hash
   * becomes a former hash of the identity: the client that holds it stays logged in.
   */
  dropToken(key: string, generation: number, replica: string, hash: string): Promise<void>;

  /**
   * Ends the identity's current generation: the generation grows, the tokens are taken away, their
   * hashes are revoked, and a revocation is added for `replicas` (none when there are none). Answers the
   * identity as it was before, with the tokens to log out, or undefined when there is no such identity
   * or it has ended already.
   */
  revoke(key: string, replicas: readonly string[]): Promise<Identity | undefined>;

  /** A replica has logged out the revocation's tokens. Nothing happens when that is known already. */
  settleRevocation(id: string, replica: string): Promise<void>;

  /**
   * The right to mint for one identity, generation and replica, for `ttlMs`. One holder at a time: also
   * its owner does not get it twice. Refused when the generation is not the current one or has ended.
   */
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

  /** The first claim wins until it expires (claiming again does not prolong it); answers the pin as it is now. */
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

  /** Members not yet expired, in alphabetical order of their replicas. */
  members(): Promise<readonly Member[]>;

  close(): Promise<void>;
}
