// What one process knows of the cluster without asking the store: identities, homes, pins, revocations,
// notes and who holds the lease, kept true by following the store's feed of changes. Requests are placed from here, so
// that no request of a placed user waits for the store (design rule 6); when the store is gone, what is
// here goes on being true enough to serve viewers (design rule 8).
//
// A process that writes applies the store's answer here at once (`apply`), so that it reads its own
// writes; the feed brings the same change again later, which changes nothing.

import { sleep } from "../service/loop.ts";
import type { Seal } from "../service/seal.ts";
import {
  type Change,
  type Home,
  type Lease,
  type Note,
  type NoteKind,
  noteKinds,
  type Pin,
  type PinKind,
  type Revocation,
  type Snapshot,
  type Store,
} from "../store/store.ts";
import { hashOf, type Identity, type IdentityToken, sealContext } from "./identity.ts";

/** What is known of a token a client showed. */
export type TokenStanding =
  | { readonly standing: "current"; readonly identity: Identity }
  /** It belonged to an ended generation and never works again. */
  | { readonly standing: "revoked" }
  | { readonly standing: "unknown" };

export interface MemoryOptions {
  readonly store: Store;
  readonly seal: Seal;
  readonly log: MemoryLog;
  /** How many tokens are remembered by their text, so that they are not hashed at each request. */
  readonly tokensRemembered: number;
  /** Wait between two tries to reach a store that went away, in ms. */
  readonly storeRetryMs: number;
  /** This machine's clock in ms since the epoch; the store's own is reckoned from it (`noteStoreTime`). */
  readonly wallMs?: () => number;
}

export interface MemoryLog {
  info(message: string): void;
  warn(message: string): void;
}

const UNKNOWN: TokenStanding = { standing: "unknown" };
const REVOKED: TokenStanding = { standing: "revoked" };

export class Memory {
  readonly identities = new Map<string, Identity>();
  readonly homes = new Map<string, Home>();
  readonly revocations = new Map<string, Revocation>();
  /** Resolves when the store was read for the first time. */
  readonly loaded: Promise<void>;

  #storeAvailable = false;
  readonly #options: MemoryOptions;
  readonly #pins = new Map<string, Pin>();
  readonly #keyByHash = new Map<string, string>();
  readonly #revokedHashes = new Set<string>();
  readonly #hashByToken = new Map<string, string>();
  readonly #opened = new WeakMap<IdentityToken, string>();
  readonly #userByName = new Map<string, string>();
  readonly #identityListeners = new Set<(identity: Identity) => void>();
  readonly #revocationListeners = new Set<(revocation: Revocation) => void>();
  readonly #homeListeners = new Set<(home: Home) => void>();
  readonly #availabilityListeners = new Set<(available: boolean) => void>();
  readonly #notes = new Map<NoteKind, Map<string, Note>>(
    noteKinds.map((kind) => [kind, new Map()]),
  );
  readonly #noteListeners = new Set<(note: Note) => void>();
  readonly #pinListeners = new Set<(pin: Pin) => void>();
  readonly #leaseListeners = new Set<(lease: Lease) => void>();
  readonly #reloadListeners = new Set<() => void>();
  readonly #lossListeners = new Set<() => void>();
  readonly #wallMs: () => number;
  /** No note ends before this, on the store's clock. */
  #nextNoteEndMs = Number.POSITIVE_INFINITY;
  #lease: Lease | undefined;
  #highestLeaseNumber = 0;
  /** How far the store's clock is ahead of this machine's, in ms. */
  #clockOffsetMs = 0;
  /** Which data the store had when it was read last. */
  #dataId: string | undefined;
  /** Whether the store was read before, so that reading it again is news. */
  #hasLoaded = false;
  #markLoaded: () => void = () => undefined;
  #version = 0;

  constructor(options: MemoryOptions) {
    this.#options = options;
    this.#wallMs = options.wallMs ?? Date.now;
    this.loaded = new Promise((resolve) => {
      this.#markLoaded = resolve;
    });
  }

  /** False while the store cannot be reached (failsafe). */
  get storeAvailable(): boolean {
    return this.#storeAvailable;
  }

  /** Grows with every change of identities, so that a cache of standings knows when it is old. */
  get version(): number {
    return this.#version;
  }

  /** Follows the store until `signal` aborts; survives the store going away and coming back. */
  async run(signal: AbortSignal): Promise<void> {
    const { store, storeRetryMs } = this.#options;
    let position: string | undefined;
    while (!signal.aborted) {
      try {
        if (position === undefined) {
          const snapshot = await store.load();
          this.noteStoreTime(await store.time());
          this.#replace(snapshot);
          position = snapshot.position;
          this.#setAvailable(true);
          this.#markLoaded();
        }
        const start: string = position;
        const ended = await store.follow(
          start,
          (changes, reached) => {
            for (const change of changes) this.apply(change);
            position = reached;
            this.#setAvailable(true);
          },
          signal,
        );
        if (ended === "lost") {
          this.#options.log.warn(
            "the store's feed no longer holds where this process was; reading the whole store again",
          );
          position = undefined;
        }
      } catch (error) {
        this.#setAvailable(false, error);
        await sleep(storeRetryMs, signal);
      }
    }
  }

  /** Tells what the store said to a call of ours: a failure here starts failsafe before the feed notices. */
  noteStoreFailure(error: unknown): void {
    this.#setAvailable(false, error);
  }

  noteStoreSuccess(): void {
    this.#setAvailable(true);
  }

  apply(change: Change): void {
    switch (change.type) {
      case "identity":
        this.#applyIdentity(change.identity);
        return;
      case "revoked":
        for (const hash of change.hashes) this.#revokeHash(hash);
        this.#version++;
        return;
      case "revocation":
        this.#applyRevocation(change.revocation);
        return;
      case "home":
        this.#applyHome(change.home);
        return;
      case "pin":
        this.#applyPin(change.pin);
        return;
      case "note":
        this.#applyNote(change.note);
        return;
      case "lease":
        this.#applyLease(change.lease);
        return;
    }
  }

  /** What the store's clock says now, so that times of end are judged by it and not by this machine's. */
  noteStoreTime(storeMs: number): void {
    this.#clockOffsetMs = storeMs - this.#wallMs();
  }

  /** The store's clock as far as it is known here, in ms since the epoch. */
  storeNowMs(): number {
    return this.#wallMs() + this.#clockOffsetMs;
  }

  /** The notes of a kind that have not ended, by id. What lies in them is whatever somebody wrote: validate it. */
  notes(kind: NoteKind): ReadonlyMap<string, Note> {
    this.#forgetExpiredNotes();
    return this.#notesOf(kind);
  }

  note(kind: NoteKind, id: string): Note | undefined {
    return this.notes(kind).get(id);
  }

  /**
   * Who was last granted the lease, as far as it is known here; its replica is empty when it was given back.
   * That it is named here does not say that it still acts: only the holder itself knows.
   */
  get lease(): Lease | undefined {
    return this.#lease;
  }

  /** The highest number of a lease's epoch that was ever seen here, also before the store lost its data. */
  get highestLeaseNumber(): number {
    return this.#highestLeaseNumber;
  }

  /** Marks hashes as revoked in this process only, while the store cannot be told. */
  revokeLocally(identity: Identity): void {
    for (const hash of hashesOf(identity)) this.#revokeHash(hash);
    const { formerHashes: _, ...rest } = identity;
    this.#applyIdentity({ ...rest, generation: identity.generation + 1, tokens: {} });
  }

  standingOf(token: string): TokenStanding {
    const hash = this.hashOf(token);
    const key = this.#keyByHash.get(hash);
    if (key !== undefined) {
      const identity = this.identities.get(key);
      if (identity !== undefined) return { standing: "current", identity };
    }
    return this.#revokedHashes.has(hash) ? REVOKED : UNKNOWN;
  }

  /** SHA-256 of the token, remembered for tokens seen lately. */
  hashOf(token: string): string {
    const known = this.#hashByToken.get(token);
    if (known !== undefined) return known;
    const hash = hashOf(token);
    // Forgetting everything at once is cheaper than keeping an order, and hashing again costs 2 µs.
    if (this.#hashByToken.size >= this.#options.tokensRemembered) this.#hashByToken.clear();
    this.#hashByToken.set(token, hash);
    return hash;
  }

  /** The identity's own token on a replica; undefined when it has none there (yet). */
  openToken(identity: Identity, replica: string): string | undefined {
    const token = identity.tokens[replica];
    if (token === undefined) return undefined;
    const known = this.#opened.get(token);
    if (known !== undefined) return known;
    const context = sealContext(identity.key, identity.generation, replica);
    const opened = this.#options.seal.open(token.sealed, context);
    if (opened !== undefined) this.#opened.set(token, opened);
    return opened;
  }

  /**
   * The user id of a user name seen in a login, so that the next login goes to the user's home. Names are compared in
   * upper case, as Jellyfin does (UserManager.GetUserByName).
   */
  userIdOfName(name: string): string | undefined {
    return this.#userByName.get(name.toUpperCase());
  }

  pinOf(kind: PinKind, id: string, nowMs: number): Pin | undefined {
    const pin = this.#pins.get(pinName(kind, id));
    return pin !== undefined && pin.expiresAtMs > nowMs ? pin : undefined;
  }

  /** The pins of a kind that have not ended. */
  pinsOf(kind: PinKind, nowMs: number): readonly Pin[] {
    return [...this.#pins.values()].filter((pin) => pin.kind === kind && pin.expiresAtMs > nowMs);
  }

  identitiesOfUser(userId: string): Identity[] {
    return [...this.identities.values()].filter((identity) => identity.userId === userId);
  }

  onIdentity(listener: (identity: Identity) => void): () => void {
    return subscribe(this.#identityListeners, listener);
  }

  onRevocation(listener: (revocation: Revocation) => void): () => void {
    return subscribe(this.#revocationListeners, listener);
  }

  onHome(listener: (home: Home) => void): () => void {
    return subscribe(this.#homeListeners, listener);
  }

  /** Told of pins that were claimed, moved, prolonged or dropped (then `expiresAtMs` is 0); not of those that end. */
  onPin(listener: (pin: Pin) => void): () => void {
    return subscribe(this.#pinListeners, listener);
  }

  /** Told of notes that are new or other than before, and with an empty value of those that are gone. */
  onNote(listener: (note: Note) => void): () => void {
    return subscribe(this.#noteListeners, listener);
  }

  onLease(listener: (lease: Lease) => void): () => void {
    return subscribe(this.#leaseListeners, listener);
  }

  /**
   * Told after the store was read as a whole again, because it had lost its data or this process had fallen
   * behind: whoever keeps something there looks whether it is still there.
   */
  onReload(listener: () => void): () => void {
    return subscribe(this.#reloadListeners, listener);
  }

  /** Told when the store knew less than this process does: it was lost, or failed over without its last writes. */
  onStoreLoss(listener: () => void): () => void {
    return subscribe(this.#lossListeners, listener);
  }

  onStoreAvailable(listener: (available: boolean) => void): () => void {
    return subscribe(this.#availabilityListeners, listener);
  }

  /** Pins live minutes: those that ended are forgotten, so that the map stays small; notes, too. */
  forgetExpiredPins(nowMs: number): void {
    for (const [name, pin] of this.#pins) if (pin.expiresAtMs <= nowMs) this.#pins.delete(name);
    this.#forgetExpiredNotes();
  }

  #notesOf(kind: NoteKind): Map<string, Note> {
    const known = this.#notes.get(kind);
    if (known !== undefined) return known;
    // A newer program of this cluster may know kinds that this one does not.
    const made = new Map<string, Note>();
    this.#notes.set(kind, made);
    return made;
  }

  #forgetExpiredNotes(): void {
    const nowMs = this.storeNowMs();
    if (nowMs < this.#nextNoteEndMs) return;
    let nextMs = Number.POSITIVE_INFINITY;
    const ended: Note[] = [];
    for (const notes of this.#notes.values()) {
      for (const note of notes.values()) {
        if (note.expiresAtMs === 0) continue;
        if (note.expiresAtMs > nowMs) nextMs = Math.min(nextMs, note.expiresAtMs);
        else ended.push(note);
      }
    }
    this.#nextNoteEndMs = nextMs;
    for (const note of ended) this.#applyNote({ ...note, value: "", expiresAtMs: 0 });
  }

  #replace(snapshot: Snapshot): void {
    const gone = new Set(this.identities.keys());
    for (const hash of snapshot.revokedHashes) this.#revokeHash(hash);
    for (const identity of snapshot.identities) {
      gone.delete(identity.key);
      // A store that lost its data may know an older generation than this process does. What the
      // store says now is what every process will agree on, so it wins here, but never for a token
      // this process saw revoked: those hashes stay revoked.
      this.#dropIdentity(identity.key);
      this.#applyIdentity(identity);
    }
    // Identities the store no longer knows are kept: they were valid, and nobody is to be logged out
    // because a store was lost. They end like any other, by a refusal that every replica shares.
    const lost = [...gone].flatMap((key) => {
      const identity = this.identities.get(key);
      return identity !== undefined && Object.keys(identity.tokens).length > 0 ? [identity] : [];
    });
    if (lost.length > 0) {
      this.#options.log.warn(
        `the store has lost ${lost.length} logins that this process knows; writing them back`,
      );
      void this.#writeBack(lost);
    }
    const dataId = dataIdOf(snapshot);
    const isOtherData = this.#dataId !== undefined && this.#dataId !== dataId;
    this.#dataId = dataId;
    if (isOtherData || lost.length > 0) for (const listener of this.#lossListeners) listener();
    this.revocations.clear();
    for (const revocation of snapshot.revocations) this.#applyRevocation(revocation);
    for (const home of snapshot.homes) {
      this.homes.set(home.userId, home);
    }
    for (const pin of snapshot.pins) {
      this.#pins.set(pinName(pin.kind, pin.id), pin);
      for (const listener of this.#pinListeners) listener(pin);
    }
    this.#replaceNotes(snapshot, isOtherData);
    // A store that lost its data grants anew. What it says now is what everybody will agree on.
    this.#lease = undefined;
    if (snapshot.lease !== undefined) this.#applyLease(snapshot.lease);
    this.#version++;
    if (this.#hasLoaded) for (const listener of this.#reloadListeners) listener();
    this.#hasLoaded = true;
  }

  /**
   * Notes that the store no longer has were dropped while this process was behind, or went with all the
   * others. The two are told apart by the data's id: in other data, what this process knows is written back
   * where nobody was faster, so that nothing is forgotten with the store.
   */
  #replaceNotes(snapshot: Snapshot, isOtherData: boolean): void {
    const kept = new Set(snapshot.notes.map((note) => noteName(note)));
    const gone = [...this.#notes.values()].flatMap((notes) =>
      [...notes.values()].filter((note) => !kept.has(noteName(note))),
    );
    for (const note of snapshot.notes) this.#applyNote(note);
    if (!isOtherData) {
      for (const note of gone) this.#applyNote({ ...note, value: "", expiresAtMs: 0 });
    } else if (gone.length > 0) {
      void this.#writeNotesBack(gone);
    }
  }

  async #writeNotesBack(notes: readonly Note[]): Promise<void> {
    for (const note of notes) {
      const { expiresAtMs, ...rest } = note;
      const ttlMs = expiresAtMs === 0 ? 0 : Math.round(expiresAtMs - this.storeNowMs());
      // It ended meanwhile, or was changed here and written by whoever changed it.
      if (ttlMs < 0 || this.#notesOf(note.kind).get(note.id) !== note) continue;
      try {
        await this.#options.store.putNote(rest, ttlMs, { ifAbsent: true });
      } catch (error) {
        if (error instanceof RangeError) continue;
        this.#setAvailable(false, error);
        return;
      }
    }
  }

  /**
   * Gives a store that lost its data the identities this process knows. Tokens are sealed anew, because
   * the store begins their generation again at 1. Whatever fails is served from memory as before.
   */
  async #writeBack(identities: readonly Identity[]): Promise<void> {
    const { store, seal } = this.#options;
    for (const identity of identities) {
      let generation = 0;
      for (const [replica, { hash }] of Object.entries(identity.tokens)) {
        const token = this.openToken(identity, replica);
        if (token === undefined) continue;
        try {
          const sealed = seal.seal(token, sealContext(identity.key, generation || 1, replica));
          const { key, kind, userId, userName, deviceId, client, device, version } = identity;
          const facts = { kind, userId, userName, deviceId, client, device, version };
          const answer = await store.addToken({ key, facts, generation, replica, hash, sealed });
          if (answer.outcome === "stale") break;
          generation = answer.identity.generation;
          this.#dropIdentity(key);
          this.#applyIdentity(answer.identity);
        } catch (error) {
          this.#setAvailable(false, error);
          return;
        }
      }
    }
  }

  #dropIdentity(key: string): void {
    const known = this.identities.get(key);
    if (known === undefined) return;
    for (const hash of hashesOf(known)) this.#keyByHash.delete(hash);
    this.identities.delete(key);
  }

  #applyIdentity(identity: Identity): void {
    const known = this.identities.get(identity.key);
    if (known !== undefined && known.generation > identity.generation) return;
    this.#dropIdentity(identity.key);
    this.identities.set(identity.key, identity);
    for (const hash of hashesOf(identity)) {
      if (!this.#revokedHashes.has(hash)) this.#keyByHash.set(hash, identity.key);
    }
    if (identity.userName !== "") {
      this.#userByName.set(identity.userName.toUpperCase(), identity.userId);
    }
    this.#version++;
    for (const listener of this.#identityListeners) listener(identity);
  }

  #revokeHash(hash: string): void {
    this.#revokedHashes.add(hash);
    this.#keyByHash.delete(hash);
  }

  #applyRevocation(revocation: Revocation): void {
    for (const token of Object.values(revocation.tokens)) this.#revokeHash(token.hash);
    if (revocation.pending.length === 0) this.revocations.delete(revocation.id);
    else this.revocations.set(revocation.id, revocation);
    for (const listener of this.#revocationListeners) listener(revocation);
  }

  #applyHome(home: Home): void {
    const known = this.homes.get(home.userId);
    if (known !== undefined && known.epoch.number > home.epoch.number) return;
    const same =
      known !== undefined &&
      known.epoch.number === home.epoch.number &&
      known.replica === home.replica;
    this.homes.set(home.userId, home);
    if (same) return;
    for (const listener of this.#homeListeners) listener(home);
  }

  #applyPin(pin: Pin): void {
    const name = pinName(pin.kind, pin.id);
    const known = this.#pins.get(name);
    // The feed still brings what was before this process's own write. Once a pin ended, its numbers begin anew.
    const isOlder =
      known !== undefined &&
      known.epoch.number > pin.epoch.number &&
      known.expiresAtMs >= pin.expiresAtMs;
    if (isOlder) return;
    if (pin.expiresAtMs === 0) this.#pins.delete(name);
    else this.#pins.set(name, pin);
    for (const listener of this.#pinListeners) listener(pin);
  }

  #applyNote(note: Note): void {
    const notes = this.#notesOf(note.kind);
    const known = notes.get(note.id);
    if (note.value === "") {
      if (!notes.delete(note.id)) return;
    } else {
      notes.set(note.id, note);
      if (note.expiresAtMs > 0) {
        this.#nextNoteEndMs = Math.min(this.#nextNoteEndMs, note.expiresAtMs);
      }
      if (known?.value === note.value && known.replica === note.replica) return;
    }
    for (const listener of this.#noteListeners) listener(note);
  }

  #applyLease(lease: Lease): void {
    const { number } = lease.epoch;
    this.#highestLeaseNumber = Math.max(this.#highestLeaseNumber, number);
    const known = this.#lease;
    if (known !== undefined && known.epoch.number > number) return;
    const isSame =
      known?.epoch.number === number &&
      known.epoch.owner === lease.epoch.owner &&
      known.replica === lease.replica &&
      known.gateUrl === lease.gateUrl;
    this.#lease = lease;
    if (isSame) return;
    for (const listener of this.#leaseListeners) listener(lease);
  }

  #setAvailable(available: boolean, error?: unknown): void {
    if (this.#storeAvailable === available) return;
    this.#storeAvailable = available;
    if (available) this.#options.log.info("the store is reachable");
    else {
      const cause = error instanceof Error ? error.message : "unknown cause";
      this.#options.log.warn(
        `the store cannot be reached (${cause}): viewers go on from memory, minting and moves wait`,
      );
    }
    for (const listener of this.#availabilityListeners) listener(available);
  }
}

/** Every hash by which a client may still come: tokens replaced on a replica stay good names of the identity. */
function hashesOf(identity: Identity): string[] {
  const hashes = Object.values(identity.tokens).map((token) => token.hash);
  return identity.formerHashes === undefined ? hashes : [...hashes, ...identity.formerHashes];
}

function subscribe<Listener>(listeners: Set<Listener>, listener: Listener): () => void {
  listeners.add(listener);
  return () => {
    listeners.delete(listener);
  };
}

function pinName(kind: PinKind, id: string): string {
  return `${kind}:${id}`;
}

function noteName({ kind, id }: Note): string {
  return `${kind}:${id}`;
}

/** The id of the data that a snapshot was taken of: other data are another store, or one that was lost. */
function dataIdOf({ position }: Snapshot): string {
  return position.split("/")[0] ?? "";
}
