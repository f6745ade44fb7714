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
  // What comes first in both is left alone, unless taking out what follows would take it out, too.
  let same = 0;
  while (same < kept.length && kept[same] === wanted[same]) same++;
  while (same > 0 && hasCommon(kept.slice(0, same), kept.slice(same))) same--;
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

/** What a change did to a list, for a writer whose own list has been changed besides. */
export interface ListChange {
  readonly what: ListDeed;
  readonly ids: readonly string[];
}

/**
 * What a writer's list becomes by a change that another server made before it stopped being the writer: that server's
 * list does not have what was changed here since. `theirs`: its list after the change. What is here already counts once.
 */
export function mergedList(
  own: readonly string[],
  theirs: readonly string[],
  { what, ids }: ListChange,
): readonly string[] {
  if (isSameList(own, theirs)) return own;
  switch (what) {
    case "created":
    case "appended": {
      const merged = [...own];
      for (const id of new Set(what === "created" ? theirs : ids)) {
        for (let missing = count(theirs, id) - count(merged, id); missing > 0; missing--) {
          merged.push(id);
        }
      }
      return merged;
    }
    case "removed":
      return own.filter((id) => !ids.includes(id) || theirs.includes(id));
    case "updated":
      return theirs;
    default:
      return isSameList([...own].sort(), [...theirs].sort()) ? theirs : own;
  }
}

/** What one list has more of than the other, each as often. */
export function lessThese(list: readonly string[], taken: readonly string[]): string[] {
  const left = new Map<string, number>();
  for (const id of taken) left.set(id, (left.get(id) ?? 0) + 1);
  return list.filter((id) => {
    const times = left.get(id) ?? 0;
    left.set(id, times - 1);
    return times <= 0;
  });
}

function count(list: readonly string[], id: string): number {
  return list.filter((one) => one === id).length;
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

function hasCommon(one: readonly string[], other: readonly string[]): boolean {
  const known = new Set(one);
  return other.some((id) => known.has(id));
}

function removing(ids: readonly string[]): ListStep[] {
  return ids.length === 0 ? [] : [{ do: "remove", ids }];
}

function appending(ids: readonly string[]): ListStep[] {
  return ids.length === 0 ? [] : [{ do: "append", ids }];
}
