// The store: where the processes of one cluster meet. Two things keep it: Redis, and an embedded
// SQLite inside the single process of `jellybloom up`. This file is the contract; test/store runs one
// suite against both.
//
// Every verb is one transition: it either happens as a whole or not at all, on the store's own clock.
// Followers keep the state in memory (core/cluster/memory.ts), so that no request of a placed user
// waits for the store.

import type { Identity, IdentityFacts, IdentityToken } from "../cluster/identity.ts";
import type { JournalLimits, JournalStore } from "./journal.ts";
import type { SecretStore } from "./secrets.ts";

/** The store cannot be reached now. Whoever meets it goes on from memory (design: failsafe). */
export class StoreUnavailable extends Error {
  override readonly name: string = "StoreUnavailable";
}

/** The leader's lock could not be asked about; the store itself may well be there. */
export class LeaseUnavailable extends StoreUnavailable {
  override readonly name: string = "LeaseUnavailable";
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
 * `quickConnectSecret` (its id is the SHA-256 of it), `passwordReset` (the user name),
 * `syncPlay` (a group's id as clients know it), `channel` (a television channel's item id), `recorder`
 * (its id is always `recorder`), `play` (a PlaySessionId whose owner is not its user's home).
 */
export const pinKinds = [
  "quickConnectSecret",
  "passwordReset",
  "syncPlay",
  "channel",
  "recorder",
  "play",
] as const;
export type PinKind = (typeof pinKinds)[number];

export interface Pin {
  readonly kind: PinKind;
  readonly id: string;
  readonly replica: string;
  readonly epoch: Epoch;
  /** In ms since the epoch on the store's clock; after it the pin is as if it had never been (0: it was dropped). */
  readonly expiresAtMs: number;
}

/**
 * What a replica keeps in memory, written down so that others can show it and make it again:
 *
 * - `session`      one device's session (id: `<replica>:<session id>`)
 * - `capabilities` what a device last posted (id: the identity's key)
 * - `quickConnect` a request that is pending or authorized (id: SHA-256 of the secret the client has)
 * - `group`        a SyncPlay group (id: the group's id as clients know it)
 * - `play`         one play (id: its PlaySessionId)
 * - `schedule`     the cluster's triggers of one task (id: the task's key)
 * - `taskRun`      the last start of one task that the leader made (id: the task's key)
 * - `replica`      a replica's load, encoder and whether it drains (id: its name)
 * - `userAlias`    the ids by which one replica knows a user that was made elsewhere (id: `<replica>:<user id>`)
 * - `ownKey`       the API key by which the cluster works at a replica: its hash, and itself sealed (id: its name)
 * - `monitor`      whether the files of a library are to be watched (id: the library's)
 * - `timer`        a timer of a recording at one replica (id: `<replica>:timer|series:<timer id>`)
 * - `redone`       a change that the leader did again, for whoever asked for it (id: its intent's)
 */
export const noteKinds = [
  "session",
  "capabilities",
  "quickConnect",
  "group",
  "play",
  "schedule",
  "taskRun",
  "replica",
  "userAlias",
  "ownKey",
  "monitor",
  "timer",
  "redone",
] as const;
export type NoteKind = (typeof noteKinds)[number];

/** A note: the last writer wins. It is written when something changed, never on a timer alone. */
export interface Note {
  readonly kind: NoteKind;
  readonly id: string;
  /** The replica it tells of; empty when it tells of none. */
  readonly replica: string;
  /** JSON of its kind; empty when the note was dropped. Secrets in it are sealed. */
  readonly value: string;
  /** In ms since the epoch on the store's clock; 0: it does not end by itself. */
  readonly expiresAtMs: number;
}

/** Who may start tasks and order writes now. */
export interface Lease {
  readonly epoch: Epoch;
  /** The replica whose sidecar holds it; empty when it was given back and nobody took it yet. */
  readonly replica: string;
  /** Where the holder's gate listens; empty in the single process of `up`. */
  readonly gateUrl: string;
}

export interface LeaseClaim {
  readonly replica: string;
  readonly gateUrl: string;
  /** The holder's pod uid and boot nonce. */
  readonly owner: string;
  /** How long the lease holds from the moment it was asked for, in ms. */
  readonly ttlMs: number;
  /** The granted epoch's number is higher than this: the highest that any reachable sidecar has seen. */
  readonly above: number;
}

export type LeaseAnswer =
  /** `lease` until `ttlMs` after the call began, on the caller's own monotonic clock, less a margin. */
  | { readonly held: true; readonly lease: Lease }
  /**
   * Somebody else holds it. `retryAfterMs`: the earliest time from now at which asking again can have another
   * answer, unless it is given back before; 0 when that is not known.
   */
  | { readonly held: false; readonly lease: Lease | undefined; readonly retryAfterMs: number };

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
  | { readonly type: "pin"; readonly pin: Pin }
  /** A note was written, or dropped (then its value is empty). */
  | { readonly type: "note"; readonly note: Note }
  /** The lease changed hands (never told for a renewal). */
  | { readonly type: "lease"; readonly lease: Lease };

export interface Snapshot {
  readonly identities: readonly Identity[];
  /** Hashes of tokens of ended generations (kept for `revokedKeepMs`). */
  readonly revokedHashes: readonly string[];
  readonly revocations: readonly Revocation[];
  readonly homes: readonly Home[];
  readonly pins: readonly Pin[];
  readonly notes: readonly Note[];
  /** Whoever was last granted the lease; undefined when nobody ever was. */
  readonly lease: Lease | undefined;
  /** Opaque: where to go on following from. What follows it is exactly what this snapshot lacks. */
  readonly position: string;
}

/** A note's value is no longer than this. */
export const noteLimitCharacters = 64 * 1024;
/** A note's id is no longer than this. */
export const noteIdLimitCharacters = 1024;
/** So many notes of one kind are kept. */
export const notesLimit = 5000;
/** An epoch's number is below this: what names a higher one is forged or broken. */
export const epochLimit = 1e12;

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

export type TokenOutcome =
  | { readonly outcome: "recorded"; readonly identity: Identity }
  /**
   * Somebody else was faster; `generation` is what the identity has now (0: there is none). Seal for the
   * next and repeat, a few times at most.
   */
  | { readonly outcome: "stale"; readonly generation: number };

/** `revoked`: the hash belongs to an ended generation. It is never recorded again, whatever the caller expects. */
export type LoginOutcome = TokenOutcome | { readonly outcome: "revoked" };

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

export interface StoreLimits extends JournalLimits {
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

export interface Store extends JournalStore, SecretStore {
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
   * call whose answer was lost may be repeated. One of an ended generation is answered `revoked`.
   */
  recordLogin(login: LoginRecord): Promise<LoginOutcome>;

  /**
   * A valid token was seen for the first time (or a minted one is to be kept): adds it to the identity.
   * `generation` 0 means «there should be no such identity»: it is created with generation 1.
   * Answers `stale` when the generation is another by now, and with the expected one when `hash` is revoked.
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
  }): Promise<TokenOutcome>;

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

  /**
   * Moves a pin to another replica, prolongs it, or makes it: granted when its epoch number is
   * `expectedEpoch` (0: there is none). The number grows only when the replica changes. Answers the pin as
   * it is now; one that was not known counts on from `expectedEpoch`. Prolonging by less than a quarter of
   * `ttlMs` changes nothing, so that followers hear of it a few times in a pin's life at most.
   */
  movePin(claim: {
    readonly kind: PinKind;
    readonly id: string;
    readonly replica: string;
    readonly owner: string;
    readonly ttlMs: number;
    readonly expectedEpoch: number;
  }): Promise<{ readonly granted: boolean; readonly pin: Pin }>;

  /**
   * Ends a pin; nothing happens when it is not there or its epoch number is another. Followers are told the
   * pin with `expiresAtMs` 0.
   */
  dropPin(kind: PinKind, id: string, expectedEpoch: number): Promise<void>;

  /**
   * Writes a note; `ttlMs` 0: it stays until it is dropped. The same value for the same replica again is no
   * change and is told to nobody, unless it moves the note's end by more than a quarter of `ttlMs`: whoever
   * writes again before three quarters of it are over never lets the note end. With `ifAbsent` a note that is
   * there stays as it is. A value longer than `noteLimitCharacters`, an id longer than
   * `noteIdLimitCharacters`, or a new note beyond `notesLimit` of its kind, is refused with a RangeError.
   */
  putNote(
    note: Omit<Note, "expiresAtMs">,
    ttlMs: number,
    options?: { readonly ifAbsent?: boolean },
  ): Promise<void>;

  /** Takes notes away: one (if it tells of `replica`, where that is given), or all of a kind (that do). */
  dropNotes(which: {
    readonly kind: NoteKind;
    readonly id?: string;
    readonly replica?: string;
  }): Promise<void>;

  /**
   * Takes the lease, or goes on holding it. In Redis a lock of redlock's algorithm stands behind it, and one
   * script that compares the lock's value grants the epoch. An owner that goes on keeps its epoch, unless
   * `above` has reached it: then it is granted a higher one. Rejects with StoreUnavailable, or with its
   * LeaseUnavailable, when nobody could be asked for certain (it may have been granted all the same), with a
   * RangeError when `above` is no number that an epoch can have.
   */
  holdLease(claim: LeaseClaim): Promise<LeaseAnswer>;

  /**
   * Gives the lease back early; only its owner can, through the store that it was granted by. The next to ask
   * gets it at once, and followers are told a lease with an empty replica.
   */
  releaseLease(owner: string): Promise<void>;

  /** Leaves this proxy's sight for `ttlMs` and answers everybody's, and the members not yet expired. */
  touchProxy(
    sight: Omit<ProxySight, "atMs">,
    ttlMs: number,
  ): Promise<{ readonly sights: readonly ProxySight[]; readonly members: readonly Member[] }>;

  /**
   * Announces a replica for `ttlMs`. `atMs` is the store's clock, set by the store, not part of the proof.
   * Answers what the announcer wants to know each time anyway, in one round trip: `time` and `members`.
   */
  touchMember(
    member: Omit<Member, "atMs">,
    ttlMs: number,
  ): Promise<{ readonly nowMs: number; readonly members: readonly Member[] }>;

  /** Members not yet expired, in alphabetical order of their replicas. */
  members(): Promise<readonly Member[]>;

  close(): Promise<void>;
}

/** What every store refuses of a note before it writes it. Throws a RangeError that says which limit it breaks. */
export function checkNote(note: Omit<Note, "expiresAtMs">, ttlMs: number): void {
  if (!noteKinds.includes(note.kind)) throw new RangeError("a note of no known kind");
  if (note.id.length > noteIdLimitCharacters) {
    throw new RangeError(
      `the id of a ${note.kind} note is longer than ${noteIdLimitCharacters} characters`,
    );
  }
  if (note.value === "") throw new RangeError(`a ${note.kind} note has no value`);
  if (note.value.length > noteLimitCharacters) {
    throw new RangeError(
      `a ${note.kind} note of ${note.value.length} characters is longer than ${noteLimitCharacters}`,
    );
  }
  if (!Number.isSafeInteger(ttlMs) || ttlMs < 0) {
    throw new RangeError(`a ${note.kind} note cannot hold for ${ttlMs} ms`);
  }
}

/** The refusal of a new note where there are too many of its kind. */
export function tooManyNotes(kind: NoteKind): RangeError {
  return new RangeError(`there are ${notesLimit} ${kind} notes already: another is not kept`);
}

/** What every store refuses of a claim of the lease. Throws a RangeError. */
export function checkLeaseClaim({ ttlMs, above }: LeaseClaim): void {
  if (!Number.isSafeInteger(ttlMs) || ttlMs <= 0) {
    throw new RangeError(`a lease cannot hold for ${ttlMs} ms`);
  }
  if (!Number.isSafeInteger(above) || above < 0 || above >= epochLimit) {
    throw new RangeError(`${above} is not the number of an epoch`);
  }
}
