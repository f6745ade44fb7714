// How a playlist or a collection is brought from what it holds to what it should hold, in as few requests as Jellyfin
// has for it. What counts is the end and not the way: a request whose end nobody knows is not trusted to have done
// nothing, the list is read and the steps are made anew. Pure.

import type { ListDeed } from "../../core/jellyfin/changes-library.ts";

/** One request to a list. Removing takes out every entry of an item, as Jellyfin does (entries are found by item). */
export type ListStep =
  | { readonly do: "remove"; readonly ids: readonly string[] }
  | { readonly do: "append"; readonly ids: readonly string[] };

/** A playlist keeps order, and the same item as often as it was added. */
export function playlistSteps(own: readonly string[], wanted: readonly string[]): ListStep[] {
  const isWanted = new Set(wanted);
  const gone = [...new Set(own.filter((id) => !isWanted.has(id)))];
  const kept = own.filter((id) => isWanted.has(id));
  if (isPrefix(kept, wanted)) return [...removing(gone), ...appending(wanted.slice(kept.length))];
  const same = leftAlone(kept, wanted);
  const rest = new Set([...gone, ...kept.slice(same)]);
  return [...removing([...rest]), ...appending(wanted.slice(same))];
}

/** A collection holds each item once, in an order that is made when it is shown. */
export function collectionSteps(own: readonly string[], wanted: readonly string[]): ListStep[] {
  const isOwn = new Set(own);
  const isWanted = new Set(wanted);
  return [
    ...appending(wanted.filter((id) => !isOwn.has(id))),
    ...removing(own.filter((id) => !isWanted.has(id))),
  ];
}

/** What one word of the journal did to a list. */
export interface ListChange {
  /** `replaced`: its entries were set to `ids`, as POST /Playlists/{playlistId} may. */
  readonly what: ListDeed | "replaced";
  readonly ids: readonly string[];
  /** Where the entries were put in, from 0; left out: at the end. */
  readonly position?: number;
  /** Items that the writer's server has no longer, and whose entries went with them. */
  readonly gone?: readonly string[];
}

/**
 * What a list becomes by one change. `theirs`: what the server that made it had afterwards, which may lack what another
 * did to the list meanwhile; only what cannot be told otherwise is taken from it.
 */
export function changedList(
  items: readonly string[],
  theirs: readonly string[],
  { what, ids, position, gone = [] }: ListChange,
): readonly string[] {
  return without(changedBy(items, theirs, what, ids, position), gone);
}

function changedBy(
  items: readonly string[],
  theirs: readonly string[],
  what: ListChange["what"],
  ids: readonly string[],
  position = items.length,
): readonly string[] {
  switch (what) {
    case "created":
      return [...items, ...lessThese(theirs, items)];
    case "appended":
      return asToldOf(theirs, [...items.slice(0, position), ...ids, ...items.slice(position)]);
    case "removed":
      return without(items, ids);
    case "replaced":
      return ids;
    case "moved":
      return inOrderOf(theirs, items);
    default:
      return items;
  }
}

function without(items: readonly string[], gone: readonly string[]): readonly string[] {
  const isGone = new Set(gone);
  return items.filter((id) => !isGone.has(id));
}

/** Of equal content in the order that its writer told, who saw in which its server carried out what ran side by side. */
function asToldOf(told: readonly string[], items: readonly string[]): readonly string[] {
  return isSameBag(told, items) ? told : items;
}

function isSameBag(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && lessThese(one, other).length === 0;
}

/** A list in another's order; what that one has not comes after it, in its own. */
function inOrderOf(order: readonly string[], items: readonly string[]): readonly string[] {
  return [...withoutLast(order, lessThese(order, items)), ...lessThese(items, order)];
}

/**
 * A list in the order in which its server has it; where that has more by now, or less, only its last entries. `among`: which
 * may change their order with each other, because they were appended by changes that ran side by side.
 */
export function inServersOrder(
  items: readonly string[],
  among: readonly string[],
  theirs: readonly string[],
): readonly string[] {
  if (isSameBag(theirs, items)) return theirs;
  const before = withoutLast(items, among);
  return [...before, ...inOrderOf(lessThese(theirs, before), lessThese(items, before))];
}

/** What one list has more of than the other, each as often; of equal entries the last. */
export function lessThese(list: readonly string[], taken: readonly string[]): string[] {
  const left = new Map<string, number>();
  for (const id of taken) left.set(id, (left.get(id) ?? 0) + 1);
  return list.filter((id) => {
    const times = left.get(id) ?? 0;
    left.set(id, times - 1);
    return times <= 0;
  });
}

/** A list without these, each as often, the last of equal ones first. */
export function withoutLast(list: readonly string[], taken: readonly string[]): string[] {
  return lessThese(list.toReversed(), taken).reverse();
}

export function isSameList(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && isPrefix(one, other);
}

export function isSameSet(one: readonly string[], other: readonly string[]): boolean {
  return isSameList([...new Set(one)].sort(), [...new Set(other)].sort());
}

function isPrefix(start: readonly string[], whole: readonly string[]): boolean {
  return start.length <= whole.length && start.every((id, index) => id === whole[index]);
}

/** How much of what comes first in both can stay: taking out what follows takes out every entry of its items. */
function leftAlone(kept: readonly string[], wanted: readonly string[]): number {
  const lastAt = new Map(kept.map((id, index) => [id, index]));
  let longest = 0;
  let last = -1;
  for (let at = 0; at < kept.length && kept[at] === wanted[at]; at++) {
    last = Math.max(last, lastAt.get(kept[at] ?? "") ?? at);
    if (last === at) longest = at + 1;
  }
  return longest;
}

function removing(ids: readonly string[]): ListStep[] {
  return ids.length === 0 ? [] : [{ do: "remove", ids }];
}

function appending(ids: readonly string[]): ListStep[] {
  return ids.length === 0 ? [] : [{ do: "append", ids }];
}
