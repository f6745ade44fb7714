// The handler of `playlist`, `collection` and `itemGone`. Lists have one writer, the leader's replica. What counts is the
// journal's word on a list (list-word.ts): what all changes that it tells of made of it, each counted once. Every server is
// brought to that, the writer's as well where nobody is changing the list there. Deletions are in the same lane, because
// a list that is deleted and made anew gets the same id again.
//
// It promises that an append counts once on each replica, however often it is tried; that a list made on another replica
// has the same id there, or the difference is said and counted; that a file which another server still sees is never
// deleted a second time.

import type { Effect, Intent, Placed } from "../../core/cluster/journal.ts";
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
import { serverEyes } from "../tasks/media.ts";
import { again, appliedOf, done, idHere, refused, skipped } from "./calls.ts";
import type {
  Applied,
  JournalHandler,
  JournalHands,
  JournalWords,
  PublishContext,
  Published,
  RedoContext,
} from "./handler.ts";
import { type Ledger, MemoryLedger } from "./ledger.ts";
import {
  changedList,
  collectionSteps,
  inServersOrder,
  isSameList,
  isSameSet,
  type ListChange,
  type ListStep,
  lessThese,
  playlistSteps,
  withoutLast,
} from "./list-steps.ts";
import {
  goneIn,
  idsOf,
  itemsLimit,
  type ListKind,
  type ListState,
  type ListWord,
  ListWords,
  type PlaylistSettings,
  readListState,
  saysSettings,
} from "./list-word.ts";

export interface ListOptions {
  /** Where the journal's word on each list is kept; left out: in memory. */
  readonly ledger?: Ledger;
  /** Told of each list that is not on this replica what it is on the writer's, for the metrics. */
  readonly onDifference?: () => void;
}

/** Ids in one request's address: 32 characters each, below what servers take for a line. */
const idsAtOnce = 150;
/** Lists of a name that are made until one has the id it should have. */
const namesakesLimit = 5;
const rememberedLimit = 1000;
const seenLimit = 4 * itemsLimit;
/** How long a change of a name or of shares waits for a token of its user, in ms. */
const tokenWaitLimitMs = 10_000;
/** Lists that were told of within this time before a server's return are looked at again, so many at most. */
const lookBackMs = 10 * 60_000;
const lookBackLimit = 100;
/** All lists have one lane, so that their changes come in one order. */
export const listsLane = "lists";

type Again = Extract<Applied, { outcome: "again" }>;
type Later = Extract<Published, { outcome: "later" }>;

/** What is known where a change of a list is to be told. */
interface ListAtHand {
  readonly kind: ListKind;
  /** As this server has it. */
  readonly here: Pick<ListState, "items">;
  /** As the journal has it; undefined: it is not known. */
  readonly known: ListWord | undefined;
  readonly id: string;
  /** What was appended to it by changes that ran beside this one. */
  readonly beside: readonly string[];
  readonly untold: PublishContext["untold"];
}

type ChangeMade =
  | {
      readonly outcome: "made";
      /** Undefined: it cannot be told apart from what came before. */
      readonly change: ListChange | undefined;
      readonly theirs: readonly string[];
    }
  | Again
  | Later;

/** What a list holds without what other changes have added here, of which each is told by itself; undefined: not known yet. */
async function ownPart({ id, here, untold }: ListAtHand): Promise<readonly string[] | undefined> {
  const others = await untold();
  return others && withoutLast(here.items, addedBy(others.filter((one) => one.itemId === id)));
}

function replacedBy(ids: readonly string[]): ChangeMade {
  return { outcome: "made", change: { what: "replaced", ids }, theirs: ids };
}

const notToldYet: Later = { outcome: "later", why: "what else was done to it is not told yet" };
const anothers = refused("under this id somebody else has a list here");
const takenId = refused("a playlist has another id here than on the server where it was made");
const otherId = refused("a collection has another id here than on the server where it was made");

export function createLists(options: ListOptions = {}): JournalHandler {
  return new Lists(options);
}

class Lists implements JournalHandler {
  readonly kinds = ["playlist", "collection", "itemGone"] as const;
  readonly repeatsOwn = true;
  readonly words: JournalWords;
  readonly #options: ListOptions;
  readonly #known: ListWords;
  /** Intents that another server had agreed to, and that are told here. */
  readonly #agreed = new Map<string, true>();
  /** What was made here for an intent whose server died. */
  readonly #made = new Map<string, string>();
  readonly #said = new Map<string, true>();
  /** By list: the number of the word whose name and shares were told elsewhere, and not brought here yet. */
  readonly #unsettled = new Map<string, number>();
  /** Ids under which another person's list was taken away: once is enough. */
  readonly #cleared = new Map<string, true>();
  /** By list: the number of the word that this server was brought to. */
  readonly #brought = new Map<string, number>();
  /** Items that were in a list of this server: what it lacks besides may be on its way. */
  readonly #seen = new Map<string, true>();
  /** Who sees every library, for reading without a user of one's own. */
  #reader: string | undefined;

  constructor(options: ListOptions) {
    this.#options = options;
    const known = new ListWords(options.ledger ?? new MemoryLedger());
    this.#known = known;
    this.words = {
      lane: listsLane,
      subjects: subjectsOf,
      note: (effect, isDone) => {
        const told = known.note(effect);
        const id = isDone ? undefined : plainGuid(effect.entry.itemId);
        if (id !== undefined && told !== undefined && saysSettings(told.change)) {
          remember(this.#unsettled, id, known.of(id)?.number ?? 0, rememberedLimit);
        }
      },
      isEmpty: () => known.since(0, 1).length === 0,
      noteLoss: (number) => known.noteLoss(number),
      recent: (nowMs) => known.since(nowMs - lookBackMs, lookBackLimit),
      look: (id, hands, mayWrite) => this.#look(id, hands, mayWrite),
    };
  }

  lane(): string {
    return listsLane;
  }

  // ---- Publishing ----------------------------------------------------------------------------------

  async publish(
    { entry, number }: Placed<Intent>,
    outcome: { readonly facts?: unknown } | undefined,
    hands: JournalHands,
    context: PublishContext,
  ): Promise<Published> {
    if (entry.kind === "itemGone") {
      const asked = idsOf(objectOf(entry.facts)?.ids);
      const looked = await lackingOf(asked, hands);
      if (looked.outcome === "again") return looked;
      // Only what is gone here: a server may say yes to a request of which it has done a part. A list that is there may
      // be one that was made anew since.
      const isList = (id: string): boolean => asked.length === 1 && this.#known.isSpokenOf(id);
      const ids = asked.filter((id) => looked.lacking.has(id) || isList(id));
      this.#known.noteSaidGone(ids, entry.id);
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
    const word = this.#known.withSaid(id, entry.id);
    const known = word === undefined || word.isGone ? undefined : word;
    const read = await this.#readFor(entry, kind, id, known, hands);
    if (read.outcome === "again") return read;
    const here = read.outcome === "read" ? read.state : known?.state;
    // It was deleted since, which is an effect of its own.
    if (here === undefined) return { outcome: "effects", effects: [] };
    const beside = this.#known.appendedSince(id, number);
    if (read.outcome === "read") this.#noteSeen(here.items);
    const atHand = { kind, id, here, known, beside, untold: context.untold };
    const made = await this.#changeOf(entry, atHand, hands);
    if (made.outcome !== "made") return made;
    const { change, theirs } = made;
    const isKnown = known !== undefined && change !== undefined;
    const items = isKnown ? changedList(known.state.items, theirs, change) : theirs;
    if (change !== undefined) this.#known.noteSaid(id, entry.id, change, items);
    const payload: ListState = {
      ...here,
      ...{ items: items.slice(0, itemsLimit), isWriters },
      ...(change !== undefined && { change }),
    };
    return { outcome: "effects", effects: [{ userId: entry.userId, itemId: id, payload }] };
  }

  /** The list as it is here; of a change of its entries only these, for all else is known. */
  async #readFor(
    { facts, userId }: Intent,
    kind: ListKind,
    id: string,
    known: ListWord | undefined,
    hands: JournalHands,
  ): Promise<ListRead> {
    const isOfEntries = /^(?:appended|moved|removed)$/.test(deedIn(facts) ?? "");
    if (known === undefined || !isOfEntries) return await this.#readWhole(kind, id, userId, hands);
    const read = await this.#readEntries(kind, id, userId, hands);
    if (read.outcome !== "read") return read;
    return { outcome: "read", state: { ...known.state, items: read.items } };
  }

  /** What an intent did to a list. `theirs`: what the list holds by that change, as far as its server tells. */
  async #changeOf(entry: Intent, atHand: ListAtHand, hands: JournalHands): Promise<ChangeMade> {
    const { kind, here, known, beside } = atHand;
    const what = deedIn(entry.facts) ?? "updated";
    const gone = known === undefined ? [] : await this.#goneOf(known, here, hands);
    if (!Array.isArray(gone)) return gone;
    const place = positionIn(entry);
    const made = (ids: readonly string[], theirs = here.items): ChangeMade => ({
      outcome: "made",
      change: {
        ...{ what, ids },
        ...(gone.length > 0 && { gone }),
        ...(what === "appended" && place),
      },
      theirs,
    });
    const asked = idsAsked(entry);
    switch (what) {
      case "removed":
        return made(removedItems(entry));
      case "updated":
        // Without ids in its body a request leaves the entries as they are (PlaylistManager.UpdatePlaylist).
        if (asked === undefined && textIn(entry) !== undefined) return made([]);
        break;
      case "created":
      case "appended":
        break;
      default:
        return made([]);
    }
    // A folder is added with all that is in it, which is seen by what the list holds now.
    const isPlain = kind === "collection" || asked === undefined;
    const leaves = isPlain ? asked : await this.#leavesOf(entry, asked, hands);
    if (leaves !== undefined && "outcome" in leaves) return leaves;
    if (kind === "collection" && what !== "updated") {
      return made(what === "appended" ? (leaves ?? []) : []);
    }
    if (what === "appended" && known !== undefined && leaves !== undefined) {
      const told = changedList(known.state.items, [], { what, ids: leaves, ...place });
      const isAtEnd = place.position === undefined;
      return made(
        leaves,
        isAtEnd ? inServersOrder(told, [...beside, ...leaves], here.items) : told,
      );
    }
    if (what === "created" && leaves !== undefined) return made([], leaves);
    if (what === "updated" && leaves !== undefined) return replacedBy(leaves);
    const theirs = await ownPart(atHand);
    if (theirs === undefined) return notToldYet;
    if (what === "updated") return replacedBy(theirs);
    if (what === "created") return made([], theirs);
    if (leaves !== undefined) return made(leaves, theirs);
    if (known === undefined) return { outcome: "made", change: undefined, theirs };
    return made(lessThese(theirs, known.state.items), theirs);
  }

  /** With what this server has not scanned yet, where another that has it perhaps had agreed. */
  async #leavesOf(
    { id, userId }: Intent,
    asked: readonly string[],
    hands: JournalHands,
  ): Promise<readonly string[] | undefined | Again> {
    const leaves = await leavesIn(asked, userId, hands);
    if (leaves === undefined || "outcome" in leaves || !this.#agreed.has(id)) return leaves;
    const absent = await lackingOf(lessThese(asked, leaves), hands);
    if (absent.outcome === "again") return absent;
    const isTaken = new Set([...leaves, ...absent.lacking]);
    return asked.filter((one) => isTaken.has(one));
  }

  #noteSeen(ids: readonly string[]): void {
    for (const id of ids) remember(this.#seen, id, true, seenLimit);
  }

  /** What the list has by the journal, and this server had and has no longer. */
  async #goneOf(
    { state }: ListWord,
    here: Pick<ListState, "items">,
    hands: JournalHands,
  ): Promise<string[] | Again> {
    const missing = [...new Set(lessThese(state.items, here.items))];
    const held = new Set(here.items);
    const looked = await lackingOf(
      missing.filter((id) => !held.has(id)),
      hands,
    );
    if (looked.outcome === "again") return looked;
    return [...looked.lacking].filter((id) => this.#seen.has(id));
  }

  // ---- Applying ------------------------------------------------------------------------------------

  async apply({ entry, number }: Placed<Effect>, hands: JournalHands): Promise<Applied> {
    if (entry.kind === "itemGone") return await this.#remove(entry, number, hands);
    const id = plainGuid(entry.itemId);
    if (id === undefined || readListState(entry.payload) === undefined) {
      return refused("what it says makes no sense");
    }
    const word = this.#known.of(id);
    if (word === undefined || word.isGone) return skipped;
    // It is in what this server was brought to already.
    if ((this.#brought.get(id) ?? -1) >= number) return skipped;
    const applied = await this.#bring(id, word, hands);
    // What is newer of this list waits for the same.
    if (applied.outcome === "aside" && word.number > number) return skipped;
    const isDone = applied.outcome === "done" || applied.outcome === "skipped";
    if (isDone) remember(this.#brought, id, word.number, rememberedLimit);
    return applied;
  }

  /** Brings this server's list to the journal's word, where it is another and `mayWrite`, asked then, allows it. */
  async #look(id: string, hands: JournalHands, mayWrite: () => Promise<boolean>): Promise<Applied> {
    const word = this.#known.of(id);
    if (word === undefined || word.isGone) return skipped;
    const read = await this.#readAs(id, word, hands);
    if (read.outcome === "again") return read;
    const isSame = word.state.list === "playlist" ? isSameList : isSameSet;
    const isEqual = read.outcome === "read" && isSame(read.items, word.state.items);
    if (isEqual && !this.#unsettled.has(id)) return skipped;
    if (!(await mayWrite())) return again("it is being changed");
    return await this.#bring(id, word, hands);
  }

  /** A list that was made anew since stays. */
  async #remove(effect: Effect, number: number, hands: JournalHands): Promise<Applied> {
    const ids = goneIn(effect).filter((id) => {
      const word = this.#known.of(id);
      return word === undefined || word.isGone || word.number <= number;
    });
    return await removeItems(ids, hands);
  }

  /**
   * Brings a list to the journal's word. A server that was killed in the middle of making one, or that did an old request
   * when it thawed, may have somebody else's list under this one's id, which is made of its folder's name: nobody was told
   * of that one, and the writer's word counts.
   */
  async #bring(id: string, word: ListWord, hands: JournalHands): Promise<Applied> {
    const applied = await this.#bringTo(id, word, hands);
    const isTaken = applied === anothers || (applied === takenId && (await isThere(id, hands)));
    const isWriters = word.state.isWriters === true && !hands.leads();
    if (!isTaken || !isWriters || this.#cleared.has(id)) return applied;
    remember(this.#cleared, id, true, rememberedLimit);
    hands.log.warn(
      `${hands.replica} had another person's list under the id ${id} of playlist ${JSON.stringify(word.state.name)}: it goes`,
    );
    const gone = appliedOf(
      await hands.client.callWithKey("DELETE", `/Items/${id}`),
      "a list that took another's id",
    );
    return gone.outcome === "done" ? await this.#bringTo(id, word, hands) : gone;
  }

  async #bringTo(id: string, word: ListWord, hands: JournalHands): Promise<Applied> {
    const { state, ownerId } = word;
    let read = await this.#readAs(id, word, hands);
    if (read.outcome === "again") return read;
    const isNew = read.outcome === "gone";
    if (read.outcome === "gone") {
      // Made for somebody else it would be theirs.
      if (state.list === "playlist" && ownerId === "") return this.#isNobodys(state, hands);
      const made = await this.#make(id, ownerId, state, hands);
      if (made !== undefined) return made;
      read = await this.#readAs(id, word, hands);
      if (read.outcome === "again") return read;
      if (read.outcome === "gone") return again("a list that was just made is not there yet");
    }
    const isPlaylist = state.list === "playlist";
    const own = read.items;
    // Of a longer one nobody sees the end.
    if (Math.max(own.length, state.items.length) >= itemsLimit) return skipped;
    const missing = lessThese(state.items, own);
    const hidden = await lackingOf(missing, hands, read.userId);
    if (hidden.outcome === "again") return hidden;
    // What is there and not to be seen by who reads it here is in the list perhaps.
    const looked = await lackingOf([...hidden.lacking], hands);
    if (looked.outcome === "again") return looked;
    const wanted = state.items.filter((one) => !hidden.lacking.has(one));
    const steps = isPlaylist ? playlistSteps(own, wanted) : collectionSteps(own, wanted);
    for (const step of steps) {
      const why = await this.#step(state.list, id, read.userId, step, hands);
      if (why !== undefined) return why;
    }
    // What was made under its folder's name has another by now, whatever was done to it last.
    const isUnsettled = isPlaylist && (isNew || this.#unsettled.has(id));
    const settled = isUnsettled ? await applySettings(id, word, hands) : undefined;
    if (settled?.outcome === "done" || settled?.outcome === "skipped") {
      // Meanwhile there may be a newer name than this word's.
      if (word.number >= (this.#unsettled.get(id) ?? 0)) this.#unsettled.delete(id);
    } else if (settled !== undefined) return settled;
    if (steps.length > 0) await this.#compare(id, word, wanted, hands);
    this.#noteSeen(wanted);
    const itemId = [...looked.lacking].find((one) => !this.#known.isGoneItem(one));
    if (itemId !== undefined) return { outcome: "aside", itemId };
    return isNew || steps.length > 0 ? done : (settled ?? skipped);
  }

  #isNobodys({ name }: Pick<ListState, "name">, { replica, log }: JournalHands): Applied {
    this.#options.onDifference?.();
    this.#say(
      log,
      `${replica} lacks the playlist ${JSON.stringify(name)}, and whose it is is not known`,
    );
    return skipped;
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

  /** After the steps: what is another all the same is said and counted. */
  async #compare(
    id: string,
    word: ListWord,
    wanted: readonly string[],
    hands: JournalHands,
  ): Promise<void> {
    const { list } = word.state;
    const read = await this.#readAs(id, word, hands);
    if (read.outcome !== "read") return;
    const { items } = read;
    if (list === "playlist" ? isSameList(items, wanted) : isSameSet(items, wanted)) return;
    this.#options.onDifference?.();
    hands.log.warn(
      `${hands.replica} holds ${items.length} entries of a ${list} that has ${wanted.length}`,
    );
  }

  // ---- Doing it again, as the leader ----------------------------------------------------------------

  async redo(
    { entry }: Placed<Intent>,
    hands: JournalHands,
    isAgreed: boolean,
    context: RedoContext = { mayBeHere: true, untold: async () => [] },
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
      const ids = idsAsked(entry) ?? [];
      const step = await this.#step(kind, namesake, entry.userId, { do: "append", ids }, hands);
      return step ?? done;
    }
    if (isAgreed && (await this.#isToldAlone(entry, kind, hands))) {
      remember(this.#agreed, entry.id, true, rememberedLimit);
      if (!context.mayBeHere) await this.#doHere(entry, kind, what, hands);
      return done;
    }
    const isHere =
      what === "appended" && context.mayBeHere
        ? await this.#hasAppended(entry, kind, hands, context.untold)
        : false;
    if (typeof isHere !== "boolean") return isHere;
    return isHere ? done : await this.#repeat(entry, hands);
  }

  /**
   * Whether a change that a server has agreed to needs no server to be known in full: it is told, and every server is
   * brought to what comes of it. Whether this one has done it does not matter then.
   */
  async #isToldAlone(entry: Intent, kind: ListKind, hands: JournalHands): Promise<boolean> {
    const word = this.#known.of(entry.itemId);
    if (word === undefined || word.isGone) return false;
    const what = deedIn(entry.facts);
    if (what === "removed") return removedItems(entry).length > 0;
    const asked = idsAsked(entry);
    if (what !== "appended" || asked === undefined) return false;
    if (kind === "collection") return true;
    const leaves = await leavesIn(asked, entry.userId, hands);
    return leaves !== undefined && !("outcome" in leaves);
  }

  /** At once, for who reads here what they have just been told. What goes wrong is put right with the rest. */
  async #doHere(entry: Intent, kind: ListKind, what: ListDeed, hands: JournalHands): Promise<void> {
    const step: ListStep =
      what === "removed"
        ? { do: "remove", ids: removedItems(entry) }
        : { do: "append", ids: idsAsked(entry) ?? [] };
    await this.#step(kind, entry.itemId, entry.userId, step, hands);
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
   * Whether an append has been done here. Of what counts by itself it does not matter where the journal's word is known:
   * what this server then holds too much of is taken out. Else something is there that nobody else has added; or, where
   * no word is known, the list ends with it.
   */
  async #hasAppended(
    entry: Intent,
    kind: ListKind,
    hands: JournalHands,
    untold: RedoContext["untold"],
  ): Promise<boolean | Applied> {
    const ids = idsAsked(entry) ?? [];
    const word = this.#known.of(entry.itemId);
    const leaves =
      kind === "playlist" && word !== undefined
        ? await leavesIn(ids, entry.userId, hands)
        : undefined;
    if (leaves !== undefined) return "outcome" in leaves ? leaves : false;
    const read = await this.#read(kind, entry.itemId, entry.userId, hands);
    if (read.outcome === "again") return read;
    if (read.outcome !== "read" || ids.length === 0) return false;
    const { items } = read.state;
    if (kind !== "playlist") return ids.every((id) => items.includes(id));
    if (word === undefined) return isSameList(items.slice(-ids.length), ids);
    const all = await untold();
    if (all === undefined) return again(notToldYet.why);
    const others = all.filter((one) => one.itemId === entry.itemId);
    return lessThese(items, [...word.state.items, ...addedBy(others)]).length > 0;
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
    const wanted = idsAsked(entry) ?? [];
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

  async #readEntries(
    list: ListKind,
    id: string,
    userId: string,
    hands: JournalHands,
  ): Promise<EntriesRead> {
    const reader = await this.#readerHere(userId, hands);
    if (reader === undefined) return { outcome: "again", why: "its users cannot be read" };
    return await readEntries(hands.client, list, id, reader);
  }

  async #read(list: ListKind, id: string, userId: string, hands: JournalHands): Promise<ListRead> {
    const reader = await this.#readerHere(userId, hands);
    if (reader === undefined) return { outcome: "again", why: "its users cannot be read" };
    return await readList(hands.client, list, id, reader);
  }

  /** As who changed it last sees it, or else its owner: a share may have been taken back since. */
  async #readAs(id: string, word: ListWord, hands: JournalHands): Promise<ReadBy> {
    const { state, ownerId, userId } = word;
    const read = await this.#readEntries(state.list, id, userId, hands);
    if (read.outcome !== "gone" || ownerId === userId || ownerId === "") {
      return read.outcome === "read" ? { ...read, userId } : read;
    }
    const byOwner = await this.#readEntries(state.list, id, ownerId, hands);
    return byOwner.outcome === "read" ? { ...byOwner, userId: ownerId } : byOwner;
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
    const whole = await readSettings(id, userId, hands);
    if (whole === undefined) return read;
    const { items, ...settings } = whole;
    // What this user may not see is in it all the same.
    const all = items.length >= read.state.items.length ? items : read.state.items;
    return { ...read, state: { ...read.state, items: all, settings } };
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
  const entries = await readMembers(client, list, id, reader);
  if (entries.outcome !== "read") return entries;
  const { items } = entries;
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

/** What is in a list alone, in one question where the server says by that whether there is such a list. */
async function readEntries(
  client: Pick<JellyfinClient, "callWithKey">,
  list: ListKind,
  id: string,
  reader: string,
): Promise<EntriesRead> {
  if (list === "collection") {
    // The members of a folder that is not there are those of the root (LibraryManager.GetParentItem).
    const read = await readList(client, list, id, reader);
    return read.outcome === "read" ? { outcome: "read", items: read.state.items } : read;
  }
  return await readMembers(client, list, id, reader);
}

async function readMembers(
  client: Pick<JellyfinClient, "callWithKey">,
  list: ListKind,
  id: string,
  reader: string,
): Promise<EntriesRead> {
  const query = `userId=${reader}&enableImages=false&enableUserData=false&limit=${itemsLimit}`;
  const path =
    list === "playlist" ? `/Playlists/${id}/Items?${query}` : `/Items?parentId=${id}&${query}`;
  const answer = await client.callWithKey("GET", path);
  const missing = judged(answer);
  if (missing !== undefined) return missing;
  const entries = answer.outcome === "answered" ? recordsIn(parsedObject(answer.text)?.Items) : [];
  return { outcome: "read", items: entries.flatMap((entry) => plainGuid(entry.Id) ?? []) };
}

/** The last part of a path; undefined where it could not be a folder's name. */
function folderIn(path: unknown): string | undefined {
  return lastFolderIn(path) || undefined;
}

/** Which list has the name already; `id` undefined: none. */
type Namesake =
  | { readonly outcome: "read"; readonly id: string | undefined }
  | { readonly outcome: "again"; readonly why: string };

type EntriesRead =
  | { readonly outcome: "read"; readonly items: readonly string[] }
  | Exclude<ListRead, { outcome: "read" }>;

export type ListRead =
  | { readonly outcome: "read"; readonly state: ListState }
  | { readonly outcome: "gone" }
  | { readonly outcome: "again"; readonly why: string };

/** `userId`: who reads it, and may change it. */
type ReadBy =
  | (Extract<EntriesRead, { outcome: "read" }> & { readonly userId: string })
  | Exclude<ListRead, { outcome: "read" }>;

type Answered = Awaited<ReturnType<JournalHands["client"]["callWithKey"]>>;

/** Undefined when the answer can be read. */
function judged(answer: Answered): Exclude<ListRead, { outcome: "read" }> | undefined {
  if (answer.outcome === "failed") return { outcome: "again", why: answer.message };
  // 403: it is there, and somebody else's (PlaylistsController.GetPlaylistItems).
  if ([400, 403, 404].includes(answer.status)) return { outcome: "gone" };
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
): Promise<(PlaylistSettings & { readonly items: readonly string[] }) | undefined> {
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
  return { isOpen: fields.OpenAccess === true, shares, items: idsOf(fields.ItemIds) };
}

/** Undefined: nobody can. */
async function applySettings(
  id: string,
  { ownerId, userId: changedBy, state: { name, settings }, atMs }: ListWord,
  hands: JournalHands,
): Promise<Applied | undefined> {
  const userId = ownerId === "" ? changedBy : ownerId;
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
  if (fields?.Name === name && isSame) return skipped;
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

/** Of these items, those that this server does not have, or not for this user, in their order. */
async function lackingOf(
  ids: readonly string[],
  hands: JournalHands,
  userId = "",
): Promise<Lacking> {
  const { client } = hands;
  const user = userId === "" ? "" : `&userId=${idHere(hands, userId)}`;
  const wanted = [...new Set(ids)];
  const lacking = new Set<string>();
  for (let from = 0; from < wanted.length; from += idsAtOnce) {
    const some = wanted.slice(from, from + idsAtOnce);
    const query = `ids=${some.join(",")}${user}&enableImages=false&limit=${idsAtOnce}`;
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

/**
 * These items as a playlist takes them up: what their user may not see is left out (Playlist.GetPlaylistItems). Undefined:
 * one of them is a folder, a genre or a person, and stands for others.
 */
async function leavesIn(
  ids: readonly string[],
  userId: string,
  hands: JournalHands,
): Promise<readonly string[] | undefined | Again> {
  const wanted = [...new Set(ids)];
  const leaves = new Set<string>();
  const user = userId === "" ? "" : `&userId=${idHere(hands, userId)}`;
  for (let from = 0; from < wanted.length; from += idsAtOnce) {
    const some = wanted.slice(from, from + idsAtOnce).join(",");
    const query = `ids=${some}${user}&enableImages=false&enableUserData=false&limit=${idsAtOnce}`;
    const answer = await hands.client.callWithKey("GET", `/Items?${query}`);
    if (answer.outcome === "failed") return { outcome: "again", why: answer.message };
    if (answer.status !== 200) return { outcome: "again", why: `it answers ${answer.status}` };
    for (const { Id, IsFolder, MediaType } of recordsIn(parsedObject(answer.text)?.Items)) {
      const id = plainGuid(Id);
      const isLeaf = IsFolder !== true && (MediaType === "Video" || MediaType === "Audio");
      if (id === undefined || !isLeaf) return undefined;
      leaves.add(id);
    }
  }
  return ids.filter((id) => leaves.has(id));
}

// ---- What entries say -----------------------------------------------------------------------------------

/** The lists that an entry may be about; of a deletion all that it names. */
function subjectsOf(entry: Intent | Effect): readonly string[] {
  if (entry.kind !== "itemGone") return [entry.itemId];
  return entry.type === "effect" ? goneIn(entry) : idsOf(objectOf(entry.facts)?.ids);
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

/** The items that a request names, in its query or its body; undefined: it names none. */
function idsAsked(entry: Intent): readonly string[] | undefined {
  const inQuery = idsIn(entry.request.query, "ids");
  if (inQuery.length > 0) return inQuery;
  const inBody = bodyField(entry, "ids");
  return Array.isArray(inBody) ? idsOf(inBody) : undefined;
}

/** What these changes have added to their list. */
function addedBy(intents: readonly Intent[]): readonly string[] {
  return intents.flatMap((one) => (deedIn(one.facts) === "appended" ? (idsAsked(one) ?? []) : []));
}

/** Where entries are put in; a server that knows no such place appends them (PlaylistsController.AddItemToPlaylist). */
function positionIn({ request }: Intent): { readonly position?: number } {
  const text = queryValue(request.query, "position") ?? "";
  return /^\d{1,9}$/.test(text) ? { position: Number(text) } : {};
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
