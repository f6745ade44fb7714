/**
 * Playlists and collections. Their ids come from the folder they would have, so the same creation gives the same id on
 * two servers; a second playlist of a name gets the next folder, a second collection of a name empties the first.
 */
import type { Database, ListRow } from "./database.ts";
import { Refusal } from "./http.ts";
import { bare, itemId, type Library, ROOT_ID } from "./library.ts";

export class Lists {
  readonly #database: Database;
  readonly #library: Library;

  constructor(database: Database, library: Library) {
    this.#database = database;
    this.#library = library;
  }

  /** Puts the stored lists into a library that was just scanned. */
  show(): void {
    for (const row of this.#database.lists.values()) this.#show(row);
  }

  #show(row: ListRow): void {
    const path = this.#path(row);
    this.#library.add({ ...bare(row.kind, row.name, path, ROOT_ID), id: row.id });
  }

  #path(row: Pick<ListRow, "kind" | "name" | "folder">): string {
    if (row.folder !== undefined) return row.folder;
    return row.kind === "Playlist" ? `playlists/${row.name}` : `collections/${row.name} [boxset]`;
  }

  createPlaylist(input: Omit<ListRow, "id" | "kind" | "folder" | "created">): string {
    let folder = `playlists/${input.name}`;
    while (this.#database.lists.get(itemId("Playlist", folder)) !== undefined) folder += "1";
    const id = itemId("Playlist", folder);
    return this.#keep({ ...input, id, folder, kind: "Playlist", created: Date.now() });
  }

  /** Under the folder of that name, whatever the one that is there is called by now: it is as if it were new. */
  createCollection(name: string, items: string[]): string {
    // What ManagedFileSystem.GetValidFilename replaces.
    const valid = [...name].map((one) => (one < " " || '"<>|:*?\\/'.includes(one) ? " " : one));
    const folder = `collections/${valid.join("")} [boxset]`;
    const id = itemId("BoxSet", folder);
    return this.#keep({
      id,
      name,
      folder,
      kind: "BoxSet",
      ownerId: undefined,
      mediaType: undefined,
      isPublic: true,
      users: [],
      items,
      created: Date.now(),
    });
  }

  #keep(row: ListRow): string {
    this.#database.lists.set(row.id, row);
    this.#show(row);
    return row.id;
  }

  get(id: string | undefined, kind: ListRow["kind"]): ListRow {
    const row = id === undefined ? undefined : this.#database.lists.get(id);
    if (row === undefined || row.kind !== kind) throw new Refusal(404, "problem");
    return row;
  }

  update(row: ListRow): void {
    this.#keep(row);
  }

  /** @throws Refusal 400 where an item is not known: a collection cannot hold it. */
  addToCollection(row: ListRow, ids: string[]): void {
    if (ids.some((id) => this.#library.get(id) === undefined)) throw new Refusal(400);
    this.update({ ...row, items: [...row.items, ...ids.filter((id) => !row.items.includes(id))] });
  }

  remove(id: string): boolean {
    this.#library.remove(id);
    return this.#database.lists.delete(id);
  }
}
