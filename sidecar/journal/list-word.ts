// The journal's word on each playlist and collection: what it holds after every change that the journal tells of, each
// counted once, in the journal's order. Every sidecar comes to the same word by itself, and brings its own server to it;
// what a server holds at some moment says nothing, since nobody can tell whether an entry of it is the one that was asked
// for a moment ago or one more of the same film.
//
// It promises that a change which is read twice, after a start or because two servers told of it, counts once; that what
// is known outlives the process where the ledger does; and that after a loss of the journal the next word counts whole.

import type { Effect, Placed } from "../../core/cluster/journal.ts";
import { plainGuid } from "../../core/jellyfin/change-request.ts";
import { listDeeds } from "../../core/jellyfin/changes-library.ts";
import { lastFolderIn } from "../../core/jellyfin/collections.ts";
import { remember } from "../../core/service/forget.ts";
import { objectOf, recordsIn } from "../../core/service/json.ts";
import type { Ledger } from "./ledger.ts";
import { changedList, type ListChange } from "./list-steps.ts";

export type ListKind = "playlist" | "collection";

/** What an effect says of a list: all of it, as its writer knew it then, and what was done to it. */
export interface ListState {
  readonly list: ListKind;
  readonly name: string;
  /** Its folder, of which its id is made and which stays when it is renamed; a collection's without what all of them end with. */
  readonly folder?: string;
  /** Plain ids, in order; an item that was added twice is there twice. */
  readonly items: readonly string[];
  readonly mediaType?: string;
  /** What was done to it; left out where the whole list is told. */
  readonly change?: ListChange;
  /** Its server's sidecar led when it read the list: this is the writer's word. */
  readonly isWriters?: boolean;
  /** Of a list that is told whole: the last entry of the journal that was written when it was read. */
  readonly asOf?: number;
  /** Whose request it was, and who may see and change a playlist; left out where no token could read it. */
  readonly settings?: PlaylistSettings;
}

export interface PlaylistSettings {
  readonly isOpen: boolean;
  readonly shares: readonly { readonly userId: string; readonly canEdit: boolean }[];
}

/** A playlist of more entries is carried as far as this; Jellyfin's clients add a few hundred at once. */
export const itemsLimit = 10_000;

/** What is known of one list. */
export interface ListWord {
  /** Of the last entry of the journal that said something of it. */
  readonly number: number;
  /** When that was written, on the store's clock. */
  readonly atMs: number;
  /** Whose it is; empty for a collection, and where nobody was told who made it. */
  readonly ownerId: string;
  /** Who changed it last. */
  readonly userId: string;
  readonly state: Omit<ListState, "change">;
  readonly isGone: boolean;
  /** The intents that were counted last, by id. */
  readonly counted: readonly string[];
}

/** So many intents of a list are remembered: one that is told twice is told twice within minutes. */
const countedLimit = 100;
const rememberedLimit = 1000;

/** What is known of a list after one more effect about it, which tells this state. Pure. */
function wordAfter(
  before: ListWord | undefined,
  { entry, number, atMs }: Placed<Effect>,
  told: ListState,
): ListWord {
  if (before !== undefined && number <= before.number) return before;
  const { change, asOf = number, ...state } = told;
  const { of, userId } = entry;
  // Somebody changed or deleted it since it was read.
  if (change === undefined && before !== undefined && asOf < before.number) return before;
  if (before?.counted.includes(of)) return { ...before, number };
  const counted = [...(before?.counted ?? []), ...(of === "" ? [] : [of])].slice(-countedLimit);
  const { settings = before?.state.settings } = state;
  const isOwners = change === undefined || change.what === "created";
  const whole: ListWord = {
    ...{ number, atMs, userId, isGone: false, counted },
    ownerId: isOwners ? userId : "",
    state: settings === undefined ? state : { ...state, settings },
  };
  if (before === undefined || change === undefined) return whole;
  const isCreation = change.what === "created";
  if (before.isGone) return isCreation ? whole : { ...before, number };
  if (isCreation && before.ownerId !== userId) {
    // Two people's lists under one id: the writer's counts.
    return state.isWriters === true ? whole : { ...before, number };
  }
  const items = changedList(before.state.items, state.items, change);
  const isSet = state.list === "collection";
  return {
    ...{ number, atMs, userId, isGone: false },
    ownerId: before.ownerId,
    state: {
      ...before.state,
      // Name and settings of a word about anything else may be older than what is known.
      ...(saysSettings(change) && (change.what === "shared" ? sharesOf(state) : state)),
      items: (isSet ? [...new Set(items)] : items).slice(0, itemsLimit),
    },
    counted,
  };
}

/** Its writer's server may not have its name yet. */
function sharesOf({ settings }: Pick<ListState, "settings">): Pick<ListState, "settings"> {
  return settings === undefined ? {} : { settings };
}

/** Whether name and shares are what it is about: in the word of any other change they may be older than what is known. */
export function saysSettings(change: ListChange | undefined): boolean {
  const what = change?.what ?? "created";
  return what === "created" || what === "updated" || what === "replaced" || what === "shared";
}

/** The words on all lists. */
export class ListWords {
  readonly #ledger: Pick<Ledger, "known" | "setKnown" | "newest" | "word" | "setWord">;
  /** What this sidecar has told of a list and has not read in the journal yet. */
  readonly #said = new Map<string, readonly Said[]>();
  /** By list: what was appended to it, and by which entry of the journal. */
  readonly #appended = new Map<string, readonly Appended[]>();
  /** Items that were deleted. */
  readonly #goneItems = new Map<string, true>();
  /** When the journal last said something of a list, on the store's clock. */
  readonly #saidAt = new Map<string, number>();
  #floor: number;

  constructor(ledger: Pick<Ledger, "known" | "setKnown" | "newest" | "word" | "setWord">) {
    this.#ledger = ledger;
    this.#floor = Number(ledger.word(floorWord) ?? 0);
    for (const [, { kind, itemId }] of ledger.newest(rememberedLimit).toReversed()) {
      const word = kind === knownKind ? this.of(itemId) : undefined;
      if (word !== undefined) this.#saidAt.set(itemId, word.atMs);
    }
  }

  /**
   * Takes an effect in. Asked in the journal's order, with own ones, each time they are read. Answers what it tells of its
   * list; undefined: nothing.
   */
  note(placed: Placed<Effect>): ListState | undefined {
    const { entry } = placed;
    if (entry.kind === "itemGone") {
      for (const id of goneIn(entry)) {
        this.#forgetSaid(id, entry.of);
        this.#noteGone(id, placed);
      }
      return undefined;
    }
    const id = plainGuid(entry.itemId);
    if (id === undefined) return undefined;
    this.#forgetSaid(id, entry.of);
    const told = readListState(entry.payload);
    if (told !== undefined) this.#noteTold(id, placed, told);
    return told;
  }

  #noteTold(id: string, placed: Placed<Effect>, told: ListState): void {
    const { change } = told;
    const before = this.of(id);
    // What was told late of a list that was deleted, and never known here, makes it no second time.
    const what = change?.what ?? "created";
    if (before === undefined && what !== "created" && this.isGoneItem(id)) return;
    const after = wordAfter(before, placed, told);
    if (after === before) return;
    this.#set(id, after);
    if (change?.what !== "appended") return;
    const others = this.#appended.get(id) ?? [];
    const appended = [...others, { number: placed.number, ids: change.ids }].slice(-saidLimit);
    remember(this.#appended, id, appended, rememberedLimit);
  }

  /** What was appended to a list by changes that were told since this entry of the journal was written. */
  appendedSince(id: string, number: number): readonly string[] {
    const told = (this.#appended.get(id) ?? []).filter((one) => one.number > number);
    const said = (this.#said.get(id) ?? []).flatMap(({ change }) =>
      change?.what === "appended" ? change : [],
    );
    return [...told, ...said].flatMap(({ ids }) => ids);
  }

  /** The journal's word; undefined: it has said nothing that is known here. */
  of(id: string): ListWord | undefined {
    const known = this.#ledger.known(laneOf(id))?.fields.word;
    if (known === undefined || known.number <= this.#floor) return undefined;
    return readWord(known.number, known.value);
  }

  /** The same with what this sidecar has told of since, but for one intent that is told once more perhaps. */
  withSaid(id: string, intentId: string): ListWord | undefined {
    let word = this.of(id);
    for (const said of this.#said.get(id) ?? []) {
      if (word !== undefined && said.of !== intentId) word = wordAfterSaid(word, said);
    }
    return word;
  }

  /** This sidecar is about to tell of a change. */
  noteSaid(id: string, of: string, change: ListChange, theirs: readonly string[]): void {
    this.#say(id, { of, change, theirs });
  }

  /** This sidecar is about to tell of a deletion. */
  noteSaidGone(ids: readonly string[], of: string): void {
    for (const id of ids) {
      if (this.isSpokenOf(id)) this.#say(id, { of, change: undefined, theirs: [] });
    }
  }

  #say(id: string, said: Said): void {
    const others = (this.#said.get(id) ?? []).filter(({ of }) => of !== said.of);
    remember(this.#said, id, [...others, said].slice(-saidLimit), rememberedLimit);
  }

  #forgetSaid(id: string, of: string): void {
    const left = (this.#said.get(id) ?? []).filter((said) => said.of !== of);
    if (left.length === 0) this.#said.delete(id);
    else this.#said.set(id, left);
  }

  /** Whether the journal has said anything of it, or is about to. */
  isSpokenOf(id: string): boolean {
    return this.#said.has(id) || this.of(id) !== undefined;
  }

  isGoneItem(id: string): boolean {
    return this.#goneItems.has(id);
  }

  /** Entries of the journal up to this one may never have been read here. */
  noteLoss(number: number): void {
    this.#floor = number;
    this.#ledger.setWord(floorWord, String(number));
    this.#said.clear();
  }

  /** The lists of which something was said since, on the store's clock; the newest ones where they are more. */
  since(fromMs: number, limit: number): readonly string[] {
    const ids = [...this.#saidAt].filter(([, atMs]) => atMs >= fromMs).map(([id]) => id);
    return ids.slice(-limit);
  }

  #noteGone(id: string, { number, atMs }: Placed<Effect>): void {
    remember(this.#goneItems, id, true, rememberedLimit);
    const word = this.of(id);
    if (word === undefined || word.number >= number) return;
    this.#set(id, { ...word, number, atMs, isGone: true, state: { ...word.state, items: [] } });
  }

  #set(id: string, word: ListWord): void {
    const { number, ...value } = word;
    const { ownerId: userId } = word;
    const fields = { word: { number, value } };
    this.#ledger.setKnown(laneOf(id), { kind: knownKind, userId, itemId: id, fields });
    // What was deleted and is made anew is there again.
    if (!word.isGone) this.#goneItems.delete(id);
    remember(this.#saidAt, id, word.atMs, rememberedLimit);
  }
}

interface Appended {
  readonly number: number;
  readonly ids: readonly string[];
}

interface Said {
  readonly of: string;
  /** Undefined: it was deleted. */
  readonly change: ListChange | undefined;
  readonly theirs: readonly string[];
}

/** What is known of a list once the journal tells what was said of it. Pure. */
function wordAfterSaid(word: ListWord, { change, theirs }: Said): ListWord {
  const isGone = change === undefined || (word.isGone && change.what !== "created");
  const before = word.isGone ? [] : word.state.items;
  const items = isGone ? [] : changedList(before, theirs, change);
  return { ...word, isGone, state: { ...word.state, items } };
}

const saidLimit = 200;
/** In the ledger: what was known up to this number is known no longer. */
const floorWord = "lists lost";
const knownKind = "list";

function laneOf(id: string): string {
  return `list ${id}`;
}

/** The ids that an effect of kind `itemGone` names. */
export function goneIn({ payload }: Effect): readonly string[] {
  return idsOf(objectOf(payload)?.ids);
}

/** What an effect says of a list; undefined when it is none. Whoever writes the store cannot make it ours. */
export function readListState(payload: unknown): ListState | undefined {
  const fields = objectOf(payload);
  const { list, name, items, mediaType } = fields ?? {};
  if (list !== "playlist" && list !== "collection") return undefined;
  if (typeof name !== "string" || name === "" || !Array.isArray(items)) return undefined;
  const ids = items.flatMap((id) => plainGuid(id) ?? []);
  if (ids.length !== items.length || ids.length > itemsLimit) return undefined;
  const settings = readSettingsIn(fields?.settings);
  const change = readChange(fields?.change);
  const { isWriters } = fields ?? {};
  const folder = lastFolderIn(fields?.folder);
  return {
    list,
    name,
    items: ids,
    ...(folder !== "" && { folder }),
    ...(typeof mediaType === "string" && { mediaType }),
    ...(change !== undefined && { change }),
    ...(typeof isWriters === "boolean" && { isWriters }),
    ...(Number.isSafeInteger(fields?.asOf) && { asOf: Number(fields?.asOf) }),
    ...(settings !== undefined && { settings }),
  };
}

function readChange(value: unknown): ListChange | undefined {
  const fields = objectOf(value);
  const what = [...listDeeds, "replaced" as const].find((deed) => deed === fields?.what);
  if (what === undefined) return undefined;
  const { position } = fields ?? {};
  const gone = idsOf(fields?.gone);
  return {
    ...{ what, ids: idsOf(fields?.ids) },
    ...(Number.isSafeInteger(position) && { position: Math.max(0, Number(position)) }),
    ...(gone.length > 0 && { gone }),
  };
}

function readSettingsIn(value: unknown): PlaylistSettings | undefined {
  const fields = objectOf(value);
  if (fields === undefined) return undefined;
  const shares = recordsIn(fields.shares).flatMap(({ userId, canEdit }) => {
    const id = plainGuid(userId);
    return id === undefined ? [] : [{ userId: id, canEdit: canEdit === true }];
  });
  return { isOpen: fields.isOpen === true, shares };
}

function readWord(number: number, value: unknown): ListWord | undefined {
  const fields = objectOf(value);
  const state = readListState(fields?.state);
  const { ownerId, userId, atMs, isGone, counted } = fields ?? {};
  if (state === undefined || typeof ownerId !== "string" || typeof userId !== "string") {
    return undefined;
  }
  const ids = Array.isArray(counted) ? counted.filter((id) => typeof id === "string") : [];
  return {
    ...{ number, ownerId, userId, state, counted: ids },
    ...{ atMs: Number(atMs), isGone: isGone === true },
  };
}

/** Plain ids, in order; what is none is left out. */
export function idsOf(value: unknown): readonly string[] {
  const list = Array.isArray(value) ? value : [];
  return list.slice(0, itemsLimit).flatMap((id) => plainGuid(id) ?? []);
}
