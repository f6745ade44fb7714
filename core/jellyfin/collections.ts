// Which collection a name has already. A collection's id is made of its folder (LibraryManager.GetNewItemId), the folder
// of the name it is made with (CollectionManager.CreateCollectionAsync), and both stay when it is renamed: made under
// that first name once more it would be emptied and renamed back, whatever it is called by now. Pure.

import { plainGuid } from "./change-request.ts";

/** What a folder that Jellyfin makes of a name may not have in it; a space is put there (ManagedFileSystem, 10.10 to 12.0). */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what Jellyfin replaces.
const invalidInFolder = /["<>|\0-\x1f:*?\\/]/g;
const suffix = " [boxset]";

/** The name of the folder that Jellyfin makes of a list's name (ManagedFileSystem.GetValidFilename). */
export function folderOfName(name: string): string {
  return name.replace(invalidInFolder, " ");
}

/** The last part of a path as a server tells of it; empty: it is none. */
export function lastFolderIn(path: unknown): string {
  return typeof path === "string" ? (path.split(/[\\/]/).at(-1) ?? "") : "";
}

/** What a collection was called when it was made, by the path of its folder; undefined: it is no such path. */
export function firstNameIn(path: unknown): string | undefined {
  const folder = lastFolderIn(path);
  return folder.endsWith(suffix) ? folder.slice(0, -suffix.length) : undefined;
}

/**
 * The id of the collection that goes by this name, or else of the one that making another of this name would empty;
 * undefined: there is none. `items`: BoxSets as `/Items` tells of them, asked with `fields=Path`.
 */
export function collectionNamed(
  items: readonly Readonly<Record<string, unknown>>[],
  name: string,
): string | undefined {
  const wanted = folderOfName(name);
  const found =
    items.find(({ Name }) => typeof Name === "string" && folderOfName(Name) === wanted) ??
    items.find(({ Path }) => firstNameIn(Path) === wanted);
  return plainGuid(found?.Id);
}
