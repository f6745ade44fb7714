// The handler of `playlist`, `collection` and `itemGone`. Lists have one writer, the leader's replica; what a change
// made of a list there is read back whole and brought to every other replica: members in their order, name, shares.
// Deletions are in the same lane, because a list that is deleted and made anew gets the same id again.
//
// It promises that an append counts once on each replica, however often it is tried: a list is compared with what it
// should be before and after every step; that a list made on another replica has the same id there, or the difference
// is said and counted; that a file which another server still sees is never deleted a second time.

import {
  type Effect,
  entryValue,
  type Intent,
  newEntryId,
  type Placed,
} from "../../core/cluster/journal.ts";
import { userAliasesOf } from "../../core/cluster/user-aliases.ts";
import { plainGuid } from "../../core/jellyfin/change-request.ts";
import { type ListDeed, listDeeds } from "../../core/jellyfin/changes-library.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import {
  collectionNamed,
  firstNameIn,
  folderOfName,
  lastFolderIn,
} from "../../core/jellyfin/collections.ts";
import { listIn, queryValue } from "../../core/jellyfin/playback.ts";
import { remember } from "../../core/service/forget.ts";
import { objectOf, parsedObject, recordsIn } from "../../core/service/json.ts";
import { StoreUnavailable } from "../../core/store/store.ts";
import { serverEyes } from "../tasks/media.ts";
import { again, appliedOf, done, idHere, refused, skipped } from "./calls.ts";
import type { Applied, JournalHandler, JournalHands, Published, RedoContext } from "./handler.ts";
import {
  collectionSteps,
  isSameList,
  isSameSet,
  type ListChange,
  type ListStep,
  lessThese,
  mergedList,
  playlistSteps,
} from "./list-steps.ts";

export interface ListOptions {
  /** Told of each list that is not on this replica what it is on the writer's, for the metrics. */
  readonly onDifference?: () => void;
}

export type ListKind = "playlist" | "collection";

/** What an effect says of a list: all of it. */
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
  /** Whose request it was, and who may see and change a playlist; left out where no token could read it. */
  readonly settings?: PlaylistSettings;
}

export interface PlaylistSettings {
  readonly isOpen: boolean;
  readonly shares: readonly { readonly userId: string; readonly canEdit: boolean }[];
}

/** A playlist of more entries is carried as far as this; Jellyfin's clients add a few hundred at once. */
const itemsLimit = 10_000;
/** Ids in one request's address: 32 characters each, below what servers take for a line. */
const idsAtOnce = 150;
/** Lists of a name that are made until one has the id it should have. */
const namesakesLimit = 5;
const rememberedLimit = 1000;
/** How long a change of a name or of shares waits for a token of its user, in ms. */
const tokenWaitLimitMs = 10_000;
/** Lists that were told of within this time before a server's return are looked at again, so many at most. */
const lookAgainMs = 10 * 60_000;
const lookAgainLimit = 100;
/** All lists have one lane, so that their changes come in one order. */
export const listsLane = "lists";

interface ToldList {
  readonly state: ListState;
  readonly userId: string;
  /** What it holds besides, which changes did that are still to be told of; as often as they did. */
  readonly untold: readonly string[];
  readonly atMs: number;
}

const anothers = refused("under this id somebody else has a list here");
const takenId = refused("a playlist has another id here than on the server where it was made");
const otherId = refused("a collection has another id here than on the server where it was made");

export function createLists(options: ListOptions = {}): JournalHandler {
  return new Lists(options);
}

class Lists implements JournalHandler {
  readonly kinds = ["playlist", "collection", "itemGone"] as const;
  readonly repeatsOwn = true;
  readonly #options: ListOptions;
  /** The number of the newest word about a list: what waited for an item, or comes late, must not overwrite it. */
  readonly #newest = new Map<string, number>();
  /** What was made here for an intent whose server died. */
  readonly #made = new Map<string, string>();
  readonly #said = new Map<string, true>();
  /** What is known elsewhere of each list, and what this server's own has besides. */
  readonly #told = new Map<string, ToldList>();
  /** Intents whose change of a list is in this server's: done again, or taken from another writer. */
  readonly #doneHere = new Map<string, true>();
  /** Ids under which another person's list was taken away: once is enough. */
  readonly #cleared = new Map<string, true>();
  /** Who sees every library, for reading without a user of one's own. */
  #reader: string | undefined;

  constructor(options: ListOptions) {
    this.#options = options;
  }

  lane(): string {
    return listsLane;
  }

  subject({ itemId }: Intent | Effect): string {
    return itemId;
  }

  // ---- Publishing ----------------------------------------------------------------------------------

  async publish(
    { entry, number }: Placed<Intent>,
    outcome: { readonly facts?: unknown } | undefined,
    hands: JournalHands,
  ): Promise<Published> {
    if (entry.kind === "itemGone") {
      const asked = idsOf(objectOf(entry.facts)?.ids);
      const looked = await lackingOf(asked, hands);
      if (looked.outcome === "again") return looked;
      // Only what is gone here: a server may say yes to a request of which it has done a part.
      const ids = asked.filter((id) => looked.lacking.has(id));
      const effects = [{ userId: "", itemId: ids[0] ?? "", payload: { ids } }];
      return { outcome: "effects", effects: ids.length === 0 ? [] : effects };
    }
    const kind: ListKind = entry.kind === "collection" ? "collection" : "playlist";
    const told =
      plainGuid(entry.itemId) ??
      plainGuid(objectOf(outcome?.facts)?.id) ??
      this.#made.get(entry.id);
    const namesake: Namesake =
      told === undefined
        ? await this.#findNamesake(entry, kind, hands)
        : { outcome: "read", id: told };
    if (namesake.outcome === "again") return namesake;
    const { id } = namesake;
    if (id === undefined) return { outcome: "given up", why: "nobody knows which list was made" };
    const isWriters = hands.leads();
    const read = await this.#readWhole(kind, id, entry.userId, hands);
    if (read.outcome === "again") return read;
    // It was deleted since, which is an effect of its own.
    if (read.outcome === "gone") return { outcome: "effects", effects: [] };
    remember(this.#newest, id, number, rememberedLimit);
    const what = deedIn(entry.facts);
    // What was made has its entries told already.
    const ids =
      what === "removed" ? removedItems(entry) : what === "appended" ? createdItems(entry) : [];
    this.#noteTold(id, entry.userId, read.state, what === "appended" ? ids : [], hands);
    const change = what === undefined ? {} : { change: { what, ids } };
    const payload: ListState = { ...read.state, ...change, isWriters };
    return { outcome: "effects", effects: [{ userId: entry.userId, itemId: id, payload }] };
  }

  // ---- Applying ------------------------------------------------------------------------------------

  async apply({ entry, number, atMs }: Placed<Effect>, hands: JournalHands): Promise<Applied> {
    if (entry.kind === "itemGone") return await this.#remove(entry, number, hands);
    const state = readListState(entry.payload);
    const id = plainGuid(entry.itemId);
    if (state === undefined || id === undefined) return refused("what it says makes no sense");
    const newest = this.#newest.get(id) ?? -1;
    if (newest > number) return skipped;
    const isOld = state.isWriters === false && newest > entry.ofNumber;
    if (isOld && !hands.leads()) return skipped;
    const applied = hands.leads()
      ? await this.#merge(id, entry, state, atMs, hands)
      : await this.#bring(id, entry.userId, state, atMs, hands);
    if (applied.outcome !== "again" && applied.outcome !== "refused") {
      remember(this.#newest, id, number, rememberedLimit);
      if (!hands.leads()) this.#noteBrought(id, entry.userId, state, hands);
    }
    return applied;
  }

  // ---- What was told of each list -------------------------------------------------------------------

  /**
   * What others know of it now. Of what it holds besides what was told before, `ids` is this change's; the rest was done
   * by changes that are still to be told of.
   */
  #noteTold(
    id: string,
    userId: string,
    state: ListState,
    ids: readonly string[],
    { clock }: JournalHands,
  ): void {
    const before = this.#told.get(id);
    const more = before === undefined ? [] : this.#untoldOf(before, state.items);
    const untold = lessThese(more, ids);
    remember(this.#told, id, { state, userId, untold, atMs: clock.monotonicMs() }, rememberedLimit);
  }

  /** Others know the same of it, and nothing was done to it here. */
  #noteBrought(id: string, userId: string, state: ListState, { clock }: JournalHands): void {
    remember(
      this.#told,
      id,
      { state, userId, untold: [], atMs: clock.monotonicMs() },
      rememberedLimit,
    );
  }

  #untoldOf({ state, untold }: ToldList, items: readonly string[]): readonly string[] {
    const more = [...untold, ...lessThese(items, state.items)];
    return lessThese(more, lessThese(more, items));
  }

  /**
   * A server that was frozen does what it was sent when it thaws; another has done that meanwhile, and this server's list
   * has it twice. It is brought to what was told last. Where it is the writer's nothing is taken out: a client may be
   * writing to it.
   */
  readonly lookAgain = {
    lane: listsLane,
    look: async (hands: JournalHands, isOpen: (id: string) => boolean): Promise<Applied> => {
      const fromMs = hands.clock.monotonicMs() - lookAgainMs;
      for (const [id, { state, userId, atMs }] of [...this.#told].slice(-lookAgainLimit)) {
        if (atMs < fromMs || isOpen(id) || hands.leads()) continue;
        const { change: _, ...told } = state;
        const applied = await this.#bring(id, userId, told, hands.clock.wallMs(), hands);
        if (applied.outcome === "again") return applied;
      }
      return done;
    },
  };

  /** A list that was made anew since stays, and what waited of one that is gone makes it no second time. */
  async #remove({ payload }: Effect, number: number, hands: JournalHands): Promise<Applied> {
    const ids = idsOf(objectOf(payload)?.ids).filter(
      (id) => (this.#newest.get(id) ?? -1) <= number,
    );
    const applied = await removeItems(ids, hands);
    if (applied.outcome === "done" || applied.outcome === "skipped") {
      for (const id of ids) remember(this.#newest, id, number, rememberedLimit);
    }
    return applied;
  }

  /**
   * What another server did to a list before this one became the writer. This one's own list may have been changed
   * since, so that the change is carried over, and what comes of it is told to all others.
   */
  async #merge(
    id: string,
    entry: Effect,
    state: ListState,
    atMs: number,
    hands: JournalHands,
  ): Promise<Applied> {
    const { list } = state;
    const own = await this.#read(list, id, entry.userId, hands);
    if (own.outcome === "again") return own;
    const change = state.change ?? { what: "updated", ids: [] };
    // What this one has done again itself is in its list; else two appends of one film would count as one.
    const isNews =
      change.what === "appended" &&
      list === "playlist" &&
      own.outcome === "read" &&
      entry.of !== "" &&
      atMs > hands.startedAtMs &&
      !this.#doneHere.has(entry.of);
    let applied: Applied = done;
    if (isNews) {
      // Appended, and not brought to a state: clients write to this list at the same time.
      const looked = await lackingOf(change.ids, hands);
      if (looked.outcome === "again") return looked;
      const ids = change.ids.filter((one) => !looked.lacking.has(one));
      const why = await this.#step(list, id, entry.userId, { do: "append", ids }, hands);
      if (why !== undefined) return why;
      remember(this.#doneHere, entry.of, true, rememberedLimit);
    } else {
      const items =
        own.outcome === "gone" ? state.items : mergedList(own.state.items, state.items, change);
      applied = await this.#bring(id, entry.userId, { ...state, items }, atMs, hands);
      const isSame = list === "playlist" ? isSameList : isSameSet;
      if (isSame(items, state.items) || applied.outcome === "again") return applied;
    }
    const told = await this.#readWhole(list, id, entry.userId, hands);
    if (told.outcome === "again") return told;
    if (told.outcome === "gone") return applied;
    this.#noteTold(id, entry.userId, told.state, change.ids, hands);
    const { kind, userId } = entry;
    const effect: Effect = {
      ...{ type: "effect", id: newEntryId(), of: "", ofNumber: 0 },
      ...{ kind, replica: hands.replica, userId, itemId: id },
      payload: { ...told.state, isWriters: true },
    };
    try {
      await hands.store.appendJournal([entryValue(effect, hands.seal)]);
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      return again("the store cannot be reached");
    }
    return applied;
  }

  /**
   * Brings a list to that state. A server that was killed in the middle of making one, or that did an old request when it
   * thawed, may have somebody else's list under this one's id, which is made of its folder's name: nobody was told of
   * that one, and the writer's word counts.
   */
  async #bring(
    id: string,
    userId: string,
    state: ListState,
    atMs: number,
    hands: JournalHands,
  ): Promise<Applied> {
    const applied = await this.#bringTo(id, userId, state, atMs, hands);
    const isTaken = applied === anothers || (applied === takenId && (await isThere(id, hands)));
    const isWriters = state.isWriters === true && !hands.leads();
    if (!isTaken || !isWriters || this.#cleared.has(id)) return applied;
    remember(this.#cleared, id, true, rememberedLimit);
    hands.log.warn(
      `${hands.replica} had another person's list under the id ${id} of playlist ${JSON.stringify(state.name)}: it goes`,
    );
    const gone = appliedOf(
      await hands.client.callWithKey("DELETE", `/Items/${id}`),
      "a list that took another's id",
    );
    return gone.outcome === "done" ? await this.#bringTo(id, userId, state, atMs, hands) : gone;
  }

  async #bringTo(
    id: string,
    userId: string,
    state: ListState,
    atMs: number,
    hands: JournalHands,
  ): Promise<Applied> {
    let read = await this.#read(state.list, id, userId, hands);
    if (read.outcome === "again") return read;
    const isNew = read.outcome === "gone";
    if (read.outcome === "gone") {
      const made = await this.#make(id, userId, state, hands);
      if (made !== undefined) return made;
      read = await this.#read(state.list, id, userId, hands);
      if (read.outcome === "again") return read;
      if (read.outcome === "gone") return again("a list that was just made is not there yet");
    }
    const isPlaylist = state.list === "playlist";
    const own = read.state.items;
    const steps = isPlaylist ? playlistSteps(own, state.items) : collectionSteps(own, state.items);
    let isChanged = false;
    for (const step of steps) {
      const looked = step.do === "append" ? await lackingOf(step.ids, hands) : noneLacking;
      if (looked.outcome === "again") return looked;
      const ids = step.ids.filter((one) => !looked.lacking.has(one));
      const why = await this.#step(state.list, id, userId, { ...step, ids }, hands);
      if (why !== undefined) return why;
      isChanged ||= ids.length > 0;
    }
    // What was made under its folder's name has another by now, whatever was done to it last.
    const said = isNew ? withoutChange(state) : state;
    const settled = isPlaylist ? await applySettings(id, userId, said, atMs, hands) : undefined;
    if (settled !== undefined && settled.outcome !== "done") return settled;
    if (!isNew && !isChanged && steps.length === 0) return settled ?? skipped;
    return await this.#compare(id, userId, state, hands);
  }

  async #step(
    list: ListKind,
    id: string,
    userId: string,
    step: ListStep,
    hands: JournalHands,
  ): Promise<Applied | undefined> {
    const name = step.do === "remove" && list === "playlist" ? "entryIds" : "ids";
    const method = step.do === "remove" ? "DELETE" : "POST";
    const folder = list === "playlist" ? "Playlists" : "Collections";
    const user =
      list === "playlist" && step.do === "append" ? `&userId=${idHere(hands, userId)}` : "";
    for (let from = 0; from < step.ids.length; from += idsAtOnce) {
      const ids = step.ids.slice(from, from + idsAtOnce).join(",");
      const path = `/${folder}/${id}/Items?${name}=${ids}${user}`;
      const answer = await hands.client.callWithKey(method, path);
      // An owner may do all this (PlaylistsController).
      if (list === "playlist" && answer.outcome === "answered" && answer.status === 403) {
        return anothers;
      }
      const applied = appliedOf(answer, `a step of a ${list}`);
      if (applied.outcome !== "done") return applied;
    }
    return undefined;
  }

  /** Undefined: the list is there now, with the id it should have. */
  async #make(
    id: string,
    userId: string,
    state: ListState,
    hands: JournalHands,
  ): Promise<Applied | undefined> {
    const { client, log, replica } = hands;
    const others: string[] = [];
    let end: Applied | undefined;
    for (let tries = 0; tries < namesakesLimit; tries++) {
      const answer =
        state.list === "playlist"
          ? await client.callWithKey("POST", "/Playlists", newPlaylist(userId, state, hands))
          : await client.callWithKey("POST", newCollection(state));
      end = appliedOf(answer, `making a ${state.list}`);
      if (end.outcome !== "done") break;
      const made =
        answer.outcome === "answered" ? plainGuid(parsedObject(answer.text)?.Id) : undefined;
      end = undefined;
      if (made === id || made === undefined) break;
      others.push(made);
      end = state.list === "playlist" ? takenId : otherId;
      // A collection's second creation would empty the first; a playlist's takes the next name.
      if (state.list === "collection") break;
    }
    // The server's history of names is another than the writer's: what was made on the way is none of the cluster's.
    for (const other of others) await client.callWithKey("DELETE", `/Items/${other}`);
    if (end?.outcome === "refused") {
      this.#options.onDifference?.();
      this.#say(log, `${replica} cannot have the ${state.list} ${id} as the others do: ${end.why}`);
    }
    return end;
  }

  /** Once of each list: it is told again as long as it differs. */
  #say(log: JournalHands["log"], sentence: string): void {
    if (this.#said.has(sentence)) return;
    remember(this.#said, sentence, true, rememberedLimit);
    log.warn(sentence);
  }

  /** After the steps: an item that this server lacks is waited for, anything else is said and counted. */
  async #compare(
    id: string,
    userId: string,
    state: ListState,
    hands: JournalHands,
  ): Promise<Applied> {
    const read = await this.#read(state.list, id, userId, hands);
    if (read.outcome !== "read") return read.outcome === "again" ? read : done;
    const { items } = read.state;
    const isSame =
      state.list === "playlist" ? isSameList(items, state.items) : isSameSet(items, state.items);
    if (isSame) return done;
    const looked = await lackingOf(state.items, hands);
    if (looked.outcome === "again") return looked;
    const [itemId] = looked.lacking;
    if (itemId !== undefined) return { outcome: "aside", itemId };
    this.#options.onDifference?.();
    hands.log.warn(
      `${hands.replica} holds ${items.length} entries of a ${state.list} that has ${state.items.length}`,
    );
    return done;
  }

  // ---- Doing it again, as the leader ----------------------------------------------------------------

  async redo(
    { entry }: Placed<Intent>,
    hands: JournalHands,
    isAgreed: boolean,
    context: RedoContext = { mayBeHere: true, untold: [] },
  ): Promise<Applied> {
    if (entry.kind === "itemGone") return await this.#redoGone(entry, hands, isAgreed);
    const kind: ListKind = entry.kind === "collection" ? "collection" : "playlist";
    const what = deedIn(entry.facts);
    if (what === undefined) return refused("what it changes makes no sense");
    const found = what === "created" ? await this.#findNamesake(entry, kind, hands) : undefined;
    if (found?.outcome === "again") return found;
    const namesake = found?.id;
    if (namesake !== undefined) {
      remember(this.#made, entry.id, namesake, rememberedLimit);
      // A second creation would empty the collection, or make a second playlist of the same content.
      if (kind === "playlist") return done;
      const ids = createdItems(entry);
      const step = await this.#step(kind, namesake, entry.userId, { do: "append", ids }, hands);
      return step ?? done;
    }
    const isHere =
      what === "appended" && context.mayBeHere
        ? await this.#hasAppended(entry, kind, hands, context.untold)
        : false;
    if (typeof isHere !== "boolean") return isHere;
    const end = isHere ? done : await this.#repeat(entry, hands);
    if (end.outcome === "done") remember(this.#doneHere, entry.id, true, rememberedLimit);
    return end;
  }

  /** A deletion, files and all, of what is left of its items here. */
  async #redoGone(entry: Intent, hands: JournalHands, isAgreed: boolean): Promise<Applied> {
    const ids = idsOf(objectOf(entry.facts)?.ids);
    if (ids.length === 0) return refused("what it deletes makes no sense");
    const looked = await lackingOf(ids, hands);
    if (looked.outcome === "again") return looked;
    const left = ids.filter((id) => !looked.lacking.has(id));
    // Nobody has looked whether its caller may delete anything at all.
    if (left.length === 0) return isAgreed ? skipped : refused("nothing is left that says who may");
    hands.log.info(`a deletion whose server is gone is done again on ${hands.replica}`);
    const { request } = entry;
    const query = request.query === "" ? "" : `ids=${left.join(",")}`;
    return await this.#repeat({ ...entry, request: { ...request, query } }, hands);
  }

  /** The request as it was, by the identity's own token: it may do what its user may. */
  async #repeat(entry: Intent, hands: JournalHands): Promise<Applied> {
    const body = textIn(entry);
    if (body === undefined) return refused("its body was too long for the journal");
    const sender = senderOf(entry.identityKey, hands);
    if (sender === undefined) return again("its user has no token here yet");
    const { method, path, query, contentType } = entry.request;
    const target = query === "" ? path : `${path}?${query}`;
    const answer = await hands.client.sendAs(sender.token, sender.device, {
      method,
      path: target,
      contentType,
      body,
    });
    const applied = appliedOf(answer, "a change of a list");
    if (answer.outcome === "answered" && applied.outcome === "done") {
      const id = plainGuid(parsedObject(answer.text)?.Id);
      if (id !== undefined) remember(this.#made, entry.id, id, rememberedLimit);
    }
    return applied;
  }

  /**
   * Whether an append has been done here: the list holds it besides what was told, and besides what this server has done
   * and nobody was told of yet. Where nothing was told of the list since this sidecar began, it counts that it ends with it.
   */
  async #hasAppended(
    entry: Intent,
    kind: ListKind,
    hands: JournalHands,
    untold: readonly Intent[],
  ): Promise<boolean | Applied> {
    const ids = idsIn(entry.request.query, "ids");
    const read = await this.#read(kind, entry.itemId, entry.userId, hands);
    if (read.outcome === "again") return read;
    if (read.outcome !== "read" || ids.length === 0) return false;
    const { items } = read.state;
    if (kind !== "playlist") return ids.every((id) => items.includes(id));
    const told = this.#told.get(entry.itemId);
    if (told === undefined) return isSameList(items.slice(-ids.length), ids);
    const others = untold
      .filter((one) => one.itemId === entry.itemId && deedIn(one.facts) === "appended")
      .flatMap((one) => idsIn(one.request.query, "ids"));
    const left = lessThese(this.#untoldOf(told, items), others);
    return lessThese(ids, left).length === 0;
  }

  /** The list that a creation would make a second time, or empty; for a playlist, of this name with the same content. */
  async #findNamesake(entry: Intent, kind: ListKind, hands: JournalHands): Promise<Namesake> {
    const name = createdName(entry);
    if (name === undefined) return { outcome: "read", id: undefined };
    const reader = await this.#readerHere(entry.userId, hands);
    if (reader === undefined) return { outcome: "again", why: "its users cannot be read" };
    const type = kind === "playlist" ? "Playlist" : "BoxSet";
    const query = `userId=${reader}&recursive=true&includeItemTypes=${type}&fields=Path&enableImages=false`;
    const answer = await hands.client.callWithKey("GET", `/Items?${query}&limit=${itemsLimit}`);
    if (answer.outcome === "failed") return { outcome: "again", why: answer.message };
    if (answer.status !== 200) return { outcome: "again", why: `it answers ${answer.status}` };
    const items = recordsIn(parsedObject(answer.text)?.Items);
    if (kind === "collection") return { outcome: "read", id: collectionNamed(items, name) };
    const wanted = createdItems(entry);
    for (const item of items.filter(({ Name }) => Name === name)) {
      const id = plainGuid(item.Id);
      if (id === undefined) continue;
      const read = await this.#read(kind, id, entry.userId, hands);
      if (read.outcome === "again") return read;
      if (read.outcome === "read" && isSameList(read.state.items, wanted)) {
        return { outcome: "read", id };
      }
    }
    return { outcome: "read", id: undefined };
  }

  // ---- Reading -------------------------------------------------------------------------------------

  async #read(list: ListKind, id: string, userId: string, hands: JournalHands): Promise<ListRead> {
    const reader = await this.#readerHere(userId, hands);
    if (reader === undefined) return { outcome: "again", why: "its users cannot be read" };
    return await readList(hands.client, list, id, reader);
  }

  /** With who may see and change it, where a token can read that. */
  async #readWhole(
    list: ListKind,
    id: string,
    userId: string,
    hands: JournalHands,
  ): Promise<ListRead> {
    const read = await this.#read(list, id, userId, hands);
    if (read.outcome !== "read" || list !== "playlist") return read;
    const settings = await readSettings(id, userId, hands);
    return settings === undefined ? read : { ...read, state: { ...read.state, settings } };
  }

  /** The user themself, or an administrator where a list is nobody's own. */
  async #readerHere(userId: string, hands: JournalHands): Promise<string | undefined> {
    if (userId !== "") return idHere(hands, userId);
    if (this.#reader !== undefined) return this.#reader;
    const answer = await hands.client.users();
    if (answer.outcome !== "ok") return undefined;
    const admin = answer.users.find((user) => user.isAdministrator && !user.isDisabled);
    this.#reader = admin?.id;
    return this.#reader;
  }
}

/** A list as a user of this server sees it; `reader` is that user's id there. */
export async function readList(
  client: Pick<JellyfinClient, "callWithKey">,
  list: ListKind,
  id: string,
  reader: string,
): Promise<ListRead> {
  const item = await client.callWithKey("GET", `/Items/${id}?userId=${reader}`);
  const gone = judged(item);
  if (gone !== undefined) return gone;
  const fields = item.outcome === "answered" ? (parsedObject(item.text) ?? {}) : {};
  const query = `userId=${reader}&enableImages=false&enableUserData=false&limit=${itemsLimit}`;
  const path =
    list === "playlist" ? `/Playlists/${id}/Items?${query}` : `/Items?parentId=${id}&${query}`;
  const answer = await client.callWithKey("GET", path);
  const missing = judged(answer);
  if (missing !== undefined) return missing;
  const entries = answer.outcome === "answered" ? recordsIn(parsedObject(answer.text)?.Items) : [];
  const items = entries.flatMap((entry) => plainGuid(entry.Id) ?? []);
  const name = typeof fields.Name === "string" ? fields.Name : "";
  const { MediaType, Path } = fields;
  const folder = list === "playlist" ? folderIn(Path) : firstNameIn(Path);
  return {
    outcome: "read",
    state: {
      ...{ list, name, items },
      ...(folder !== undefined && { folder }),
      ...(typeof MediaType === "string" && { mediaType: MediaType }),
    },
  };
}

/** The last part of a path; undefined where it could not be a folder's name. */
function folderIn(path: unknown): string | undefined {
  return lastFolderIn(path) || undefined;
}

/** Which list has the name already; `id` undefined: none. */
type Namesake =
  | { readonly outcome: "read"; readonly id: string | undefined }
  | { readonly outcome: "again"; readonly why: string };

export type ListRead =
  | { readonly outcome: "read"; readonly state: ListState }
  | { readonly outcome: "gone" }
  | { readonly outcome: "again"; readonly why: string };

type Answered = Awaited<ReturnType<JournalHands["client"]["callWithKey"]>>;

/** Undefined when the answer can be read. A list that a user may not see (403) is there and told by nobody. */
function judged(answer: Answered): Exclude<ListRead, { outcome: "read" }> | undefined {
  if (answer.outcome === "failed") return { outcome: "again", why: answer.message };
  if (answer.status === 404 || answer.status === 400) return { outcome: "gone" };
  if (answer.status !== 200) return { outcome: "again", why: `it answers ${answer.status}` };
  return undefined;
}

/** Whether the server has an item of this id, whoever may see it. */
async function isThere(id: string, { client }: JournalHands): Promise<boolean> {
  const answer = await client.callWithKey("GET", `/Items?ids=${id}&enableImages=false`);
  if (answer.outcome !== "answered" || answer.status !== 200) return false;
  return recordsIn(parsedObject(answer.text)?.Items).length > 0;
}

// ---- A playlist's name and shares: only its own users may change them -----------------------------------

interface Sender {
  readonly token: string;
  readonly device: { client: string; device: string; deviceId: string; version: string };
}

/** The identity's token at this replica, or that of another login of the same user. */
function senderOf(identityKey: string, hands: JournalHands, userId = ""): Sender | undefined {
  const { memory, replica } = hands;
  const own = memory.identities.get(identityKey);
  const owner = own?.userId ?? userId;
  const others = owner === "" ? [] : memory.identitiesOfUser(owner);
  for (const identity of own === undefined ? others : [own, ...others]) {
    const token = memory.openToken(identity, replica);
    if (token === undefined) continue;
    const { client, device, deviceId, version } = identity;
    return { token, device: { client, device, deviceId, version } };
  }
  return undefined;
}

async function readSettings(
  id: string,
  userId: string,
  hands: JournalHands,
): Promise<PlaylistSettings | undefined> {
  const sender = senderOf("", hands, userId);
  if (sender === undefined) return undefined;
  const answer = await hands.client.callAs(sender.token, sender.device, "GET", `/Playlists/${id}`);
  if (answer.outcome !== "answered" || answer.status !== 200) return undefined;
  const fields = parsedObject(answer.text);
  if (fields === undefined) return undefined;
  const aliases = userAliasesOf(hands.memory, hands.seal);
  const shares = recordsIn(fields.Shares).flatMap((share) => {
    const here = plainGuid(share.UserId);
    if (here === undefined) return [];
    return [{ userId: aliases.knownId(hands.replica, here), canEdit: share.CanEdit === true }];
  });
  return { isOpen: fields.OpenAccess === true, shares };
}

/** Undefined: nothing was to be done, or nobody can. */
async function applySettings(
  id: string,
  userId: string,
  { name, settings, change }: ListState,
  atMs: number,
  hands: JournalHands,
): Promise<Applied | undefined> {
  const isTouched = change === undefined || !/^(?:appended|moved|removed)$/.test(change.what);
  if (!isTouched) return undefined;
  const now = await readSettings(id, userId, hands);
  const sender = senderOf("", hands, userId);
  if (sender === undefined || now === undefined) {
    // A token is on its way, or never will be: all other lists wait behind this one.
    const isLoggedIn = hands.memory.identitiesOfUser(userId).length > 0;
    const isNew = hands.clock.wallMs() - atMs < tokenWaitLimitMs;
    if (isLoggedIn && isNew && sender === undefined) return again("its user has no token here yet");
    return undefined;
  }
  const item = await hands.client.callWithKey(
    "GET",
    `/Items/${id}?userId=${idHere(hands, userId)}`,
  );
  const fields = item.outcome === "answered" ? parsedObject(item.text) : undefined;
  const isSame = settings === undefined || isSameSettings(now, settings);
  if (fields?.Name === name && isSame) return undefined;
  // What a request leaves out stays as it is.
  const body = {
    Name: name,
    ...(settings !== undefined && {
      IsPublic: settings.isOpen,
      Users: settings.shares.map((share) => ({
        UserId: idHere(hands, share.userId),
        CanEdit: share.canEdit,
      })),
    }),
  };
  const answer = await hands.client.callAs(
    sender.token,
    sender.device,
    "POST",
    `/Playlists/${id}`,
    body,
  );
  return appliedOf(answer, "the name and the shares of a playlist");
}

/** What a playlist was called when it was made. Of several of one name each next has a "1" more in its folder's. */
function firstName({ name, folder = name }: ListState): string {
  return folder.startsWith(name) && /^1*$/.test(folder.slice(name.length)) ? name : folder;
}

function withoutChange({ change: _, ...state }: ListState): ListState {
  return state;
}

function isSameSettings(one: PlaylistSettings, other: PlaylistSettings): boolean {
  const text = ({ shares }: PlaylistSettings): string[] =>
    shares.map(({ userId, canEdit }) => `${userId} ${canEdit}`);
  return one.isOpen === other.isOpen && isSameSet(text(one), text(other));
}

/** It is made under its first name, which its id is made of; that it was renamed is an edit of an item. */
function newCollection({ name, folder = folderOfName(name) }: ListState): string {
  const first = folderOfName(name) === folder ? name : folder;
  return `/Collections?name=${encodeURIComponent(first.toWellFormed())}`;
}

function newPlaylist(userId: string, state: ListState, hands: JournalHands): object {
  const { mediaType, settings, items } = state;
  return {
    Name: firstName(state),
    // At once, so that hardly anybody sees it empty. What this server lacks is left out by it, and waited for later.
    Ids: items,
    UserId: idHere(hands, userId),
    MediaType: mediaType ?? "Video",
    IsPublic: settings?.isOpen ?? false,
    Users: (settings?.shares ?? []).map((share) => ({
      UserId: idHere(hands, share.userId),
      CanEdit: share.canEdit,
    })),
  };
}

// ---- Items that are gone --------------------------------------------------------------------------------

/**
 * Takes the rows of items away whose files another server has deleted. Jellyfin deletes an item's files with it, so an
 * item whose file is still seen here stays: its media are not those that were deleted, or they are not whole.
 */
async function removeItems(ids: readonly string[], hands: JournalHands): Promise<Applied> {
  let isDone = false;
  for (const id of ids) {
    const may = await mayRemove(id, hands);
    if (may.outcome === "skipped") continue;
    if (may.outcome !== "done") return may;
    const answer = await hands.client.callWithKey("DELETE", `/Items/${id}`);
    if (answer.outcome === "answered" && answer.status === 404) continue;
    const applied = appliedOf(answer, "a deletion");
    if (applied.outcome !== "done") return applied;
    isDone = true;
  }
  return isDone ? done : skipped;
}

/** `done`: it may go. `skipped`: it is gone already. */
async function mayRemove(id: string, { client, replica, log }: JournalHands): Promise<Applied> {
  const answer = await client.callWithKey("GET", `/Items?ids=${id}&fields=Path&enableImages=false`);
  if (answer.outcome === "failed") return again(answer.message);
  if (answer.status !== 200) return appliedOf(answer, "a question");
  const [item] = recordsIn(parsedObject(answer.text)?.Items);
  if (item === undefined) return skipped;
  // A list has its folder beside its own server: it is every server's own.
  if (item.Type === "Playlist" || item.Type === "BoxSet") return done;
  const path = item.Path;
  if (typeof path !== "string" || path === "") return done;
  const eyes = serverEyes(client);
  const locations = await eyes.locations();
  if (locations === undefined) return again("its libraries cannot be looked at now");
  const location = locations.find((one) => path.startsWith(one.path.replace(/[\\/]+$/, "")));
  const entries = location === undefined ? [] : await eyes.list(location.path);
  if (entries === "away" || (location !== undefined && entries.length === 0)) {
    return refused("its media are not whole, so that nothing is deleted there");
  }
  const seen = await client.callWithKey("POST", "/Environment/ValidatePath", { Path: path });
  if (seen.outcome === "failed") return again(seen.message);
  if (seen.status === 404) return done;
  log.warn(`${replica} still sees the files of a deleted item: its media are not the others'`);
  return refused("the files of a deleted item are still seen there");
}

type Lacking =
  | { readonly outcome: "read"; readonly lacking: ReadonlySet<string> }
  | { readonly outcome: "again"; readonly why: string };

const noneLacking: Lacking = { outcome: "read", lacking: new Set() };

/** Of these items, those that this server does not have, in their order. */
async function lackingOf(ids: readonly string[], { client }: JournalHands): Promise<Lacking> {
  const wanted = [...new Set(ids)];
  const lacking = new Set<string>();
  for (let from = 0; from < wanted.length; from += idsAtOnce) {
    const some = wanted.slice(from, from + idsAtOnce);
    const query = `ids=${some.join(",")}&enableImages=false&limit=${idsAtOnce}`;
    const answer = await client.callWithKey("GET", `/Items?${query}`);
    if (answer.outcome === "failed") return { outcome: "again", why: answer.message };
    if (answer.status !== 200) return { outcome: "again", why: `it answers ${answer.status}` };
    const there = new Set(
      recordsIn(parsedObject(answer.text)?.Items).map(({ Id }) => plainGuid(Id)),
    );
    for (const id of some) if (!there.has(id)) lacking.add(id);
  }
  return { outcome: "read", lacking };
}

// ---- What entries say -----------------------------------------------------------------------------------

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
  const folder = folderIn(fields?.folder);
  return {
    list,
    name,
    items: ids,
    ...(folder !== undefined && { folder }),
    ...(typeof mediaType === "string" && { mediaType }),
    ...(change !== undefined && { change }),
    ...(typeof isWriters === "boolean" && { isWriters }),
    ...(settings !== undefined && { settings }),
  };
}

function readChange(value: unknown): ListChange | undefined {
  const what = deedIn(value);
  return what === undefined ? undefined : { what, ids: idsOf(objectOf(value)?.ids) };
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

/** The body of a request as text; undefined: it was too long for the journal. */
function textIn({ request }: Intent): string | undefined {
  return request.bodyTooBig === true ? undefined : request.body;
}

function deedIn(facts: unknown): ListDeed | undefined {
  const what = objectOf(facts)?.what;
  return listDeeds.find((deed) => deed === what);
}

/** What a creation says of name and content: in its body, or in the query of the old form. */
function createdName(entry: Intent): string | undefined {
  const { query } = entry.request;
  const name = queryValue(query, "name") ?? bodyField(entry, "name");
  return typeof name === "string" && name !== "" ? name : undefined;
}

function createdItems(entry: Intent): readonly string[] {
  const inQuery = idsIn(entry.request.query, "ids");
  return inQuery.length > 0 ? inQuery : idsOf(bodyField(entry, "ids"));
}

/** Entries of a playlist are named by their items, as members of a collection are. */
function removedItems({ request }: Intent): readonly string[] {
  return [...idsIn(request.query, "ids"), ...idsIn(request.query, "entryids")];
}

function bodyField(entry: Intent, name: string): unknown {
  const fields = parsedObject(textIn(entry) ?? "") ?? {};
  const found = Object.entries(fields).find(([key]) => key.toLowerCase() === name);
  return found?.[1];
}

/** The ids of a list parameter, repeated ones included: an item may be added twice. */
function idsIn(query: string, name: string): readonly string[] {
  return idsOf(listIn(query, name));
}

function idsOf(value: unknown): readonly string[] {
  const list = Array.isArray(value) ? value : [];
  return list.slice(0, itemsLimit).flatMap((id) => plainGuid(id) ?? []);
}
