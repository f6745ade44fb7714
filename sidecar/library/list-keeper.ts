// The list keeper: while this sidecar leads, it looks seldom whether every playlist and collection is on each server what
// it is on its own, the writer's, and tells the journal of those that are not, as if they had just been changed: the
// other sidecars bring theirs to it. This heals what no change of a client can: a list made in a server's own page, a
// replica that was away longer than the journal reaches, a frozen server that did an old request when it thawed.
//
// It promises that a difference is looked at twice, some time apart, because a change may be on its way; that a list of
// which the journal has said anything meanwhile, or says something before this is heard, is left to that; that a list
// which only another server has is left alone; and that a playlist whose owner cannot be told is not guessed at.

import { type Effect, entryValue, newEntryId, readEntry } from "../../core/cluster/journal.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import { userAliasesOf } from "../../core/cluster/user-aliases.ts";
import { plainGuid } from "../../core/jellyfin/change-request.ts";
import type { JellyfinClient, ServerUser } from "../../core/jellyfin/client.ts";
import { parsedObject, recordsIn } from "../../core/service/json.ts";
import { sleep } from "../../core/service/loop.ts";
import type { Seal } from "../../core/service/seal.ts";
import type { JournalEnds } from "../../core/store/journal.ts";
import type { Store } from "../../core/store/store.ts";
import { isSameList, isSameSet } from "../journal/list-steps.ts";
import type { ListKind, ListState } from "../journal/list-word.ts";
import { readList } from "../journal/lists.ts";

export interface ListKeeperParts {
  readonly replica: string;
  readonly client: JellyfinClient;
  readonly peers: () => ReadonlyMap<string, JellyfinClient>;
  readonly store: Store;
  readonly memory: Memory;
  readonly seal: Seal;
  readonly log: { info(message: string): void };
  /** Asked immediately before anything is told. */
  readonly mayAct: () => boolean;
  /** Between the two looks at a difference, in ms. */
  readonly settleMs: number;
}

interface KnownList {
  readonly kind: ListKind;
  readonly id: string;
  /** As this server knows them; whose list it is. */
  readonly userId: string;
}

/** More lists, or users, than this are not looked at in one go. */
const listsLimit = 1000;
const usersLimit = 500;
/** What is written to the journal between two looks is far less. */
const entriesAtOnce = 500;
const pagesLimit = 100;

/** Looks once; answers how many lists were told of. Rejects with StoreUnavailable. */
export async function tellDifferingLists(
  parts: ListKeeperParts,
  signal: AbortSignal,
): Promise<number> {
  const users = await parts.client.users();
  if (users.outcome !== "ok" || parts.peers().size === 0) return 0;
  const reader = users.users.find((user) => user.isAdministrator && !user.isDisabled)?.id;
  if (reader === undefined) return 0;
  const began = await parts.store.journalEnds();
  const lists = await knownLists(parts, users.users.slice(0, usersLimit), reader);
  const differing: KnownList[] = [];
  for (const list of lists) {
    if (signal.aborted || !parts.mayAct()) return 0;
    if ((await differs(parts, list, reader)) !== undefined) differing.push(list);
  }
  if (differing.length === 0) return 0;
  await sleep(parts.settleMs, signal);
  let told = 0;
  for (const list of differing) {
    const state = await differs(parts, list, reader);
    if (state === undefined || signal.aborted || !parts.mayAct()) continue;
    const since = await saidSince(parts, began);
    if (since === undefined || since.ids.has(list.id)) continue;
    await tell(parts, list, { ...state, asOf: since.number });
    told++;
  }
  if (told > 0)
    parts.log.info(`${told} lists were not the same on every server, and are told again`);
  return told;
}

/** What the list holds here when a server holds something else; a server that cannot be asked differs in nothing. */
async function differs(
  { client, peers, memory, seal, replica }: ListKeeperParts,
  { kind, id, userId }: KnownList,
  reader: string,
): Promise<ListState | undefined> {
  const aliases = userAliasesOf(memory, seal);
  const here = userId === "" ? reader : userId;
  const own = await readList(client, kind, id, here);
  if (own.outcome !== "read") return undefined;
  const isSame = kind === "playlist" ? isSameList : isSameSet;
  for (const [name, peer] of peers()) {
    const there = aliases.idAt(name, aliases.knownId(replica, here));
    const other = await readList(peer, kind, id, there);
    if (other.outcome === "again") continue;
    if (other.outcome === "gone" || own.state.name !== other.state.name) return own.state;
    if (!isSame(own.state.items, other.state.items)) return own.state;
  }
  return undefined;
}

async function tell(
  { store, memory, seal, replica }: ListKeeperParts,
  { kind, id, userId }: KnownList,
  state: ListState,
): Promise<void> {
  const known = userId === "" ? "" : userAliasesOf(memory, seal).knownId(replica, userId);
  const effect: Effect = {
    ...{ type: "effect", id: newEntryId(), of: "", ofNumber: 0 },
    ...{ kind, replica, userId: known, itemId: id },
    payload: { ...state, isWriters: true },
  };
  await store.appendJournal([entryValue(effect, seal)]);
}

/** The lists that the journal has an entry about since then, and its last entry; undefined: it cannot be said. */
async function saidSince(
  { store, seal }: Pick<ListKeeperParts, "store" | "seal">,
  { generation, last }: JournalEnds,
): Promise<{ readonly ids: ReadonlySet<string>; readonly number: number } | undefined> {
  const ids = new Set<string>();
  let cursor = { generation, number: last };
  for (let pages = 0; pages < pagesLimit; pages++) {
    const page = await store.readJournal(cursor, entriesAtOnce);
    if (page.outcome === "lost") return undefined;
    for (const raw of page.entries) {
      const read = readEntry(raw, seal);
      if (read.outcome === "read" && read.placed.entry.type !== "outcome") {
        ids.add(read.placed.entry.itemId);
      }
    }
    cursor = { generation: page.cursor.generation, number: page.cursor.number };
    if (page.entries.length === 0) return { ids, number: cursor.number };
  }
  return undefined;
}

// ---- Which lists there are ---------------------------------------------------------------------------------

async function knownLists(
  parts: ListKeeperParts,
  users: readonly ServerUser[],
  reader: string,
): Promise<readonly KnownList[]> {
  const collections = await itemsOf(parts.client, reader, "BoxSet");
  const lists = new Map<string, KnownList>();
  for (const { id } of collections) lists.set(id, { kind: "collection", id, userId: "" });
  for (const user of users) {
    for (const { id, canDelete } of await itemsOf(parts.client, user.id, "Playlist")) {
      if (lists.has(id) || lists.size >= listsLimit) continue;
      // An administrator may delete everybody's, so that only a token tells whether it is their own.
      const isOwner = user.isAdministrator ? await isOwned(parts, user.id, id) : canDelete;
      if (isOwner) lists.set(id, { kind: "playlist", id, userId: user.id });
    }
  }
  return [...lists.values()];
}

async function itemsOf(
  client: JellyfinClient,
  userId: string,
  type: "BoxSet" | "Playlist",
): Promise<readonly { readonly id: string; readonly canDelete: boolean }[]> {
  const query =
    `userId=${userId}&recursive=true&includeItemTypes=${type}&fields=CanDelete` +
    `&enableImages=false&enableUserData=false&limit=${listsLimit}`;
  const answer = await client.callWithKey("GET", `/Items?${query}`);
  if (answer.outcome !== "answered" || answer.status !== 200) return [];
  const items = parsedObject(answer.text)?.Items;
  return recordsIn(items).flatMap((item) => {
    const id = plainGuid(item.Id);
    return id === undefined ? [] : [{ id, canDelete: item.CanDelete === true }];
  });
}

/** PlaylistsController.GetPlaylistUsers: told to the owner alone. */
async function isOwned(
  { client, memory, seal, replica }: ListKeeperParts,
  userId: string,
  id: string,
): Promise<boolean> {
  const known = userAliasesOf(memory, seal).knownId(replica, userId);
  for (const identity of memory.identitiesOfUser(known)) {
    const token = memory.openToken(identity, replica);
    if (token === undefined) continue;
    const answer = await client.callAs(token, identity, "GET", `/Playlists/${id}/Users`);
    return answer.outcome === "answered" && answer.status === 200;
  }
  return false;
}
