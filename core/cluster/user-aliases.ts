// Users with two ids. Jellyfin gives a new user a random id (Entities/User.cs) and lets nobody choose one, so a user
// who was made while the cluster ran has another id on each replica. Clients know the one of the replica where the
// user was made first; an alias says what another replica calls that user, and the views whose ids are made of it.
//
// An alias is a note in the store, written by the sidecar of the replica it tells of, with a MAC: whoever can write
// the store must not make one user pass for another. Where there are none, asking costs a look at a number.

import { objectOf, parsedObject } from "../service/json.ts";
import type { Seal } from "../service/seal.ts";
import type { Note } from "../store/store.ts";
import { isPlainId } from "./identity.ts";
import type { Memory } from "./memory.ts";
import { provenText, provenValue } from "./proven.ts";

export interface UserAlias {
  readonly replica: string;
  /** As clients know the user: 32 lower-case hex digits. */
  readonly userId: string;
  /** As this replica knows the user. */
  readonly here: string;
  /** Further ids that are made of the user's, as clients know them to what this replica calls them. */
  readonly views: Readonly<Record<string, string>>;
}

/** Ids of one replica, both ways. */
export interface AliasPairs {
  /** From what clients know to what the replica knows. */
  readonly toHere: ReadonlyMap<string, string>;
  readonly fromHere: ReadonlyMap<string, string>;
}

const viewsLimit = 100;

export function aliasNoteId(replica: string, userId: string): string {
  return `${replica}:${userId}`;
}

export function aliasText(alias: UserAlias, seal: Pick<Seal, "mac">): string {
  const { replica, userId, here, views } = alias;
  const place = { kind: "userAlias", id: aliasNoteId(replica, userId) } as const;
  return provenValue(seal, place, JSON.stringify({ userId, here, views }));
}

/** Reads a note; undefined when it is none of ours. */
export function readAlias(note: Note, seal: Pick<Seal, "verifyMac">): UserAlias | undefined {
  const fields = parsedObject(provenText(seal, note) ?? "");
  if (fields === undefined) return undefined;
  const { userId, here } = fields;
  const views = objectOf(fields.views) ?? {};
  if (!isPlainId(userId) || !isPlainId(here) || note.id !== aliasNoteId(note.replica, userId)) {
    return undefined;
  }
  const entries = Object.entries(views);
  if (entries.length > viewsLimit) return undefined;
  const sound: Record<string, string> = {};
  for (const [known, own] of entries) {
    if (!isPlainId(known) || !isPlainId(own)) return undefined;
    sound[known] = own;
  }
  return { replica: note.replica, userId, here, views: sound };
}

const noPairs: AliasPairs = { toHere: new Map(), fromHere: new Map() };

/** What one process knows of aliases, kept true by the store's feed. */
export class UserAliases {
  readonly #seal: Seal;
  readonly #notes = new Map<string, UserAlias>();
  readonly #pairs = new Map<string, AliasPairs>();

  constructor(memory: Memory, seal: Seal) {
    this.#seal = seal;
    const readAll = (): void => {
      this.#notes.clear();
      for (const note of memory.notes("userAlias").values()) this.#keep(note);
      this.#gather();
    };
    readAll();
    memory.onNote((note) => {
      if (note.kind === "userAlias" && this.#keep(note)) this.#gather();
    });
    memory.onReload(readAll);
  }

  /** How many there are; 0: ids are the same everywhere. */
  get size(): number {
    return this.#notes.size;
  }

  /** The ids that replica has aliases for. */
  pairsOf(replica: string): AliasPairs {
    return this.#pairs.get(replica) ?? noPairs;
  }

  /** What that replica calls the user whom clients know by `userId`. */
  idAt(replica: string, userId: string): string {
    return this.#notes.size === 0 ? userId : (this.pairsOf(replica).toHere.get(userId) ?? userId);
  }

  /** What clients call the user whom that replica knows by `here`. */
  knownId(replica: string, here: string): string {
    return this.#notes.size === 0 ? here : (this.pairsOf(replica).fromHere.get(here) ?? here);
  }

  /** Whether the user has another id there than clients know. */
  isForeign(replica: string, userId: string): boolean {
    return this.#notes.size > 0 && this.pairsOf(replica).toHere.has(userId);
  }

  aliasOf(replica: string, userId: string): UserAlias | undefined {
    return this.#notes.get(aliasNoteId(replica, userId));
  }

  /** All of them. */
  all(): readonly UserAlias[] {
    return [...this.#notes.values()];
  }

  /** Answers whether anything is other than before. */
  #keep(note: Note): boolean {
    const alias = readAlias(note, this.#seal);
    if (alias === undefined) return this.#notes.delete(note.id);
    this.#notes.set(note.id, alias);
    return true;
  }

  #gather(): void {
    this.#pairs.clear();
    for (const { replica, userId, here, views } of this.#notes.values()) {
      const known = this.#pairs.get(replica);
      const toHere = new Map(known?.toHere);
      const fromHere = new Map(known?.fromHere);
      for (const [one, other] of [[userId, here], ...Object.entries(views)] as const) {
        if (one === undefined || other === undefined || one === other) continue;
        toHere.set(one, other);
        fromHere.set(other, one);
      }
      this.#pairs.set(replica, { toHere, fromHere });
    }
  }
}

const known = new WeakMap<Memory, UserAliases>();

/** The aliases that this memory knows: one for each memory, made when it is asked for first. */
export function userAliasesOf(memory: Memory, seal: Seal): UserAliases {
  let aliases = known.get(memory);
  if (aliases === undefined) {
    aliases = new UserAliases(memory, seal);
    known.set(memory, aliases);
  }
  return aliases;
}
