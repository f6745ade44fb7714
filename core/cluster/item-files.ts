// Subtitle and lyrics files of items, as a server tells of them: which there are, which of them a request means, and which
// of another server's is the same. Their indices are each server's own, and of a file that was deleted nothing is left to
// ask for. Pure.
//
// Jellyfin looks for them in two folders only, that of the media and the one that it keeps for the item itself
// (MediaInfoResolver.GetExternalFiles), and makes their names of the media's name, language, flags and a number where
// the name is taken (SubtitleManager.TrySaveSubtitle): so one file has one name on every server, as a rule.

import { isCount, isRecord, objectOf, parsedObject, recordsIn } from "../service/json.ts";

/** A subtitle file, but for where it lies in one server's list. */
export interface ItemFile {
  /** Its name without folders. */
  readonly name: string;
  /** It lies beside the media, and not in a folder of the server's own. */
  readonly isBesideMedia: boolean;
  /** As the server says it; empty where it does not. */
  readonly language: string;
  /** The format, such as `subrip`; empty where the server does not say it. */
  readonly codec: string;
  readonly title: string;
  readonly isForced: boolean;
  readonly isHearingImpaired: boolean;
}

/** The same, with the number by which requests name it at that server. */
export interface IndexedItemFile extends ItemFile {
  readonly index: number;
}

/** The query for one item whose answer `itemIn` and `subtitleFilesOf` read. `itemId`: plain. */
export function itemFilesPath(itemId: string): string {
  return `/Items?ids=${itemId}&fields=Path,MediaStreams&enableImages=false`;
}

/** The one item of such an answer's text; undefined: there is none, or it cannot be read. */
export function itemIn(text: string): Readonly<Record<string, unknown>> | undefined {
  const items = parsedObject(text)?.Items;
  return Array.isArray(items) ? objectOf(items[0]) : undefined;
}

/** The subtitle files of an item (BaseItemDto with Path and MediaStreams). */
export function subtitleFilesOf(
  item: Readonly<Record<string, unknown>>,
): readonly IndexedItemFile[] {
  return recordsIn(item.MediaStreams)
    .filter(({ Type, IsExternal }) => Type === "Subtitle" && IsExternal === true)
    .flatMap((stream) => {
      const { Index, Path } = stream;
      if (!isCount(Index) || typeof Path !== "string") return [];
      return {
        index: Index,
        name: Path.slice(folderOf(Path).length).replace(/^[\\/]/, ""),
        isBesideMedia: isBesideMedia(Path, item),
        language: textIn(stream.Language),
        codec: textIn(stream.Codec),
        title: textIn(stream.Title),
        isForced: stream.IsForced === true,
        isHearingImpaired: stream.IsHearingImpaired === true,
      };
    });
}

/** The lyrics files of an item: of each only where it lies (of such a stream a server tells little more). */
export function lyricFilesOf(
  item: Readonly<Record<string, unknown>>,
): readonly Pick<ItemFile, "isBesideMedia">[] {
  return recordsIn(item.MediaStreams)
    .filter(({ Type, Path }) => Type === "Lyric" && typeof Path === "string")
    .map(({ Path }) => ({ isBesideMedia: isBesideMedia(Path, item) }));
}

/**
 * Which of these is that file of another server: the one of its name, else the only one that says the same of itself,
 * since the number in a name depends on what was there before. Undefined: none, or nobody can tell.
 */
export function sameFileIn(
  files: readonly IndexedItemFile[],
  wanted: ItemFile,
): IndexedItemFile | undefined {
  const near = files.filter(({ isBesideMedia }) => isBesideMedia === wanted.isBesideMedia);
  const named = near.find(({ name }) => name === wanted.name);
  if (named !== undefined) return named;
  const alike = near.filter((file) => saidBy(file) === saidBy(wanted));
  return alike.length === 1 ? alike[0] : undefined;
}

/** What a file says in the journal; undefined when it makes no sense. */
export function readItemFile(value: unknown): ItemFile | undefined {
  if (!isRecord(value)) return undefined;
  const { name, isBesideMedia, language, codec, title, isForced, isHearingImpaired } = value;
  if (typeof name !== "string" || name === "" || typeof isBesideMedia !== "boolean") {
    return undefined;
  }
  return {
    ...{ name, isBesideMedia, language: textIn(language), codec: textIn(codec) },
    ...{ title: textIn(title), isForced: isForced === true },
    isHearingImpaired: isHearingImpaired === true,
  };
}

/** The item of a disc is a folder, and its files lie in it (Video.ContainingFolderPath). */
function isBesideMedia(path: unknown, { Path }: Readonly<Record<string, unknown>>): boolean {
  return folderOf(path) === folderOf(Path) || folderOf(path) === Path;
}

/** A path without its last part; empty for what is no path. */
export function folderOf(path: unknown): string {
  return typeof path === "string" ? path.replace(/[\\/][^\\/]*$/, "") : "";
}

function saidBy({ language, codec, title, isForced, isHearingImpaired }: ItemFile): string {
  return JSON.stringify([language, codec, title, isForced, isHearingImpaired]);
}

function textIn(value: unknown): string {
  return typeof value === "string" ? value : "";
}
