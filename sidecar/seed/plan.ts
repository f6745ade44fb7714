// What a copy consists of: one walk over the source's folders that touches nothing and finds every
// folder, file, link and database, and everything that stands in the way, all at once. A database is
// known by the first 16 bytes of its file and never by its name, since plugins name theirs as they like.
//
// Left out: what a server makes anew by itself (caches, logs, transcodes), what the owner leaves out
// because it can be rebuilt, and a database's -wal, -shm and -journal, which an online backup replaces.

import { constants, type Dirent } from "node:fs";
import { lstat, open, readdir, readlink, realpath, stat } from "node:fs/promises";
import { dirname, isAbsolute, join, relative, resolve } from "node:path";
import { isInside } from "./layout.ts";
import { codeOf } from "./problem.ts";

/** A folder of the source and where its copy will be. Pieces do not overlap in what they hold. */
export interface Piece {
  readonly source: string;
  readonly target: string;
}

export interface PlannedEntry {
  readonly source: string;
  /** Where it will be in the end, not where it is staged. */
  readonly target: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly modifiedNs: bigint;
}

export interface PlannedFile extends PlannedEntry {
  readonly bytes: number;
  readonly isDatabase: boolean;
  /** Reached through a link that leads out of the server's folders and was to be followed. */
  readonly throughLink: boolean;
}

export interface PlannedLink extends PlannedEntry {
  /** What the copied link says. */
  readonly text: string;
}

export interface CopyPlan {
  /** Parents before their children. */
  readonly directories: readonly PlannedEntry[];
  /** Without databases. */
  readonly files: readonly PlannedFile[];
  readonly databases: readonly PlannedFile[];
  readonly links: readonly PlannedLink[];
  /** Sentences about what is not copied and why that is no harm. */
  readonly notes: readonly string[];
  /** Sentences about what makes the copy impossible. */
  readonly problems: readonly string[];
}

export interface WalkOptions {
  readonly pieces: readonly Piece[];
  /** Absolute paths in the source. */
  readonly leaveOut: ReadonlySet<string>;
  readonly followLinks: boolean;
  /** Neither may be reached by following a link. */
  readonly forbidden: readonly string[];
  /** An earlier plan: a file that did not change since is not opened again. */
  readonly earlier?: CopyPlan;
}

/** The first bytes of every SQLite database (https://sqlite.org/fileformat.html, section 1.3). */
const databaseHeader = Buffer.from("SQLite format 3\0", "latin1");
const statsAtOnce = 32;

interface Walk {
  readonly options: WalkOptions;
  readonly known: ReadonlyMap<string, PlannedFile>;
  readonly directories: PlannedEntry[];
  readonly files: PlannedFile[];
  readonly links: PlannedLink[];
  readonly notes: string[];
  readonly problems: string[];
}

interface Folder {
  readonly source: string;
  readonly target: string;
  readonly throughLink: boolean;
  /** Real paths of the folders whose links led here: a link back to one of them is a loop. */
  readonly followed: readonly string[];
}

export async function planCopy(options: WalkOptions): Promise<CopyPlan> {
  const earlier = [...(options.earlier?.files ?? []), ...(options.earlier?.databases ?? [])];
  const walk: Walk = {
    options,
    known: new Map(earlier.map((file) => [file.source, file])),
    directories: [],
    files: [],
    links: [],
    notes: [],
    problems: [],
  };
  for (const { source, target } of options.pieces) {
    await walkTree(walk, { source, target, throughLink: false, followed: [] });
  }
  const databases = walk.files.filter((file) => file.isDatabase);
  const attendants = new Set(
    databases.flatMap(({ source }) => ["-wal", "-shm", "-journal"].map((end) => source + end)),
  );
  const files = walk.files.filter((file) => !file.isDatabase && !attendants.has(file.source));
  const { directories, links, notes, problems } = walk;
  return { directories, files, databases, links, notes, problems };
}

async function walkTree(walk: Walk, root: Folder): Promise<void> {
  const folders = [root];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    folders.push(...(await walkFolder(walk, folder)));
  }
}

/** Notes what lies in one folder and returns the folders in it that are still to be walked. */
async function walkFolder(walk: Walk, folder: Folder): Promise<readonly Folder[]> {
  let entries: readonly Dirent[];
  try {
    const info = await stat(folder.source, { bigint: true });
    walk.directories.push(entryOf(folder.source, folder.target, info));
    entries = await readdir(folder.source, { withFileTypes: true });
  } catch (error) {
    noteUnreadable(walk, folder.source, error);
    return [];
  }
  const inner: Folder[] = [];
  const wanted = entries.filter(
    ({ name }) => !walk.options.leaveOut.has(join(folder.source, name)),
  );
  for (let start = 0; start < wanted.length; start += statsAtOnce) {
    const batch = wanted.slice(start, start + statsAtOnce);
    const found = await Promise.all(batch.map((entry) => walkEntry(walk, folder, entry.name)));
    inner.push(...found.filter((next) => next !== undefined));
  }
  return inner;
}

async function walkEntry(walk: Walk, folder: Folder, name: string): Promise<Folder | undefined> {
  const source = join(folder.source, name);
  const target = join(folder.target, name);
  if (name.includes("\uFFFD")) {
    walk.problems.push(`The name of ${source} is not valid UTF-8: rename it or move it away.`);
    return undefined;
  }
  try {
    const info = await lstat(source, { bigint: true });
    if (info.isDirectory()) return { ...folder, source, target };
    if (info.isSymbolicLink()) return await walkLink(walk, folder, source, target, info);
    if (info.isFile()) {
      await walkFile(walk, source, target, info, folder.throughLink);
      return undefined;
    }
    walk.notes.push(`${source} is a socket, a pipe or a device and is left out.`);
  } catch (error) {
    noteUnreadable(walk, source, error);
  }
  return undefined;
}

async function walkFile(
  walk: Walk,
  source: string,
  target: string,
  info: FileInfo,
  throughLink: boolean,
): Promise<void> {
  const entry = entryOf(source, target, info);
  const bytes = Number(info.size);
  const known = walk.known.get(source);
  const isUnchanged = known?.bytes === bytes && known.modifiedNs === entry.modifiedNs;
  const isDatabase = isUnchanged ? known.isDatabase : await hasDatabaseHeader(source);
  walk.files.push({ ...entry, bytes, isDatabase, throughLink });
}

/** Opening a file is also what proves that it can be read. */
async function hasDatabaseHeader(path: string): Promise<boolean> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const head = Buffer.alloc(databaseHeader.length);
    const { bytesRead } = await handle.read(head, 0, head.length, 0);
    return bytesRead === head.length && head.equals(databaseHeader);
  } finally {
    await handle.close();
  }
}

/**
 * A link that stays within the server's folders is copied as a link to the same place in the copy. One
 * that leads out would make two servers write to one folder, so it stops the copy, or is followed.
 */
async function walkLink(
  walk: Walk,
  folder: Folder,
  source: string,
  target: string,
  info: FileInfo,
): Promise<Folder | undefined> {
  const { pieces, followLinks, forbidden } = walk.options;
  const said = await readlink(source);
  const real = await realpath(source).catch((error: unknown) => {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  });
  const end = real ?? resolve(dirname(source), said);
  const text = linkText(pieces, { source, target, said, end });
  if (text !== undefined) {
    walk.links.push({ ...entryOf(source, target, info), text });
    return undefined;
  }
  if (real === undefined) {
    walk.notes.push(`${source} is a link to ${said}, where nothing is, and is left out.`);
    return undefined;
  }
  if (!followLinks) {
    walk.problems.push(
      `${source} is a link out of the server's folders, to ${real}: copied as a link,` +
        " both servers would use that one place. Give --follow-links to copy what is there.",
    );
    return undefined;
  }
  const isLoop = [...forbidden, ...folder.followed].some(
    (path) => isInside(path, real) || isInside(real, path),
  );
  if (isLoop) {
    walk.problems.push(`${source} is a link to ${real} and cannot be followed: it leads round.`);
    return undefined;
  }
  const pointed = await stat(source, { bigint: true });
  if (pointed.isDirectory()) {
    return { source, target, throughLink: true, followed: [...folder.followed, real] };
  }
  if (pointed.isFile()) await walkFile(walk, source, target, pointed, true);
  else walk.notes.push(`${source} is a link to ${real}, which is no file, and is left out.`);
  return undefined;
}

/** What the copy of a link says, or undefined when the link leads out of all pieces (pure). */
export function linkText(
  pieces: readonly Piece[],
  link: {
    readonly source: string;
    readonly target: string;
    /** What the link in the source says. */
    readonly said: string;
    /** The place it leads to in the end. */
    readonly end: string;
  },
): string | undefined {
  const goal = placeInCopy(pieces, link.end);
  if (goal === undefined) return undefined;
  // A relative link that never leaves its piece is right as it is, also over a further link.
  const lexical = isAbsolute(link.said) ? undefined : resolve(dirname(link.source), link.said);
  const home = pieces.find(({ source }) => isInside(link.source, source));
  if (lexical !== undefined && home !== undefined && isInside(lexical, home.source)) {
    return link.said;
  }
  return relative(dirname(link.target), goal) || ".";
}

function placeInCopy(pieces: readonly Piece[], path: string): string | undefined {
  // The innermost piece, since one may lie in another.
  const [piece] = pieces
    .filter(({ source }) => isInside(path, source))
    .sort((left, right) => right.source.length - left.source.length);
  return piece && join(piece.target, relative(piece.source, path));
}

function noteUnreadable(walk: Walk, path: string, error: unknown): void {
  const code = codeOf(error);
  // A running server deletes files while we walk.
  if (code === "ENOENT") return;
  if (code === undefined) throw error;
  walk.problems.push(
    code === "EACCES" || code === "EPERM"
      ? `${path} cannot be read: run this as the user that owns it, or as root.`
      : `${path} cannot be read (${code}): repair it or move it away.`,
  );
}

interface FileInfo {
  readonly size: bigint;
  readonly mode: bigint;
  readonly uid: bigint;
  readonly gid: bigint;
  readonly mtimeNs: bigint;
}

function entryOf(source: string, target: string, info: FileInfo): PlannedEntry {
  return {
    source,
    target,
    mode: Number(info.mode) & 0o7777,
    uid: Number(info.uid),
    gid: Number(info.gid),
    modifiedNs: info.mtimeNs,
  };
}
