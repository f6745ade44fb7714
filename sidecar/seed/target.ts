// The target while a server is being copied into it: what it holds, and how an unfinished copy is kept
// from ever being taken for a whole one.
//
// Everything is copied into a staging folder inside the target, and put into place by renames at the
// end, the folder with the databases and device.txt last. From before the first byte until after the
// last rename each of the target's folders holds a marker:
//
// - its name starts with `.jellyfin-`, and Jellyfin 10.11 and later refuse to start in a folder with a
//   file of such a name that they do not expect (BaseApplicationPaths.CheckOrCreateMarker): so a server
//   that is started too early stops with the marker's name in its message;
// - Jellyfin 10.10 does not look, so a plain file stands where the folder with its databases belongs,
//   and it stops there;
// - its content says whose copy this is and how far it got, and a later run goes on from that.
//
// Order of phases, each of which may be interrupted anywhere and done again:
//   copying    everything goes to staging; what the target held is untouched
//   clearing   what the target held is moved aside, into the staging folder
//   placing    what is staged is moved into place; nothing may be moved aside any more but leftovers
// and then the staging folder is removed, and then the markers.

import { existsSync } from "node:fs";
import {
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  unlink,
  writeFile,
} from "node:fs/promises";
import { dirname, join, relative, sep } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { syncPath } from "./copy.ts";
import { isInside, rootsOf, type ServerFolders, serverDatabases } from "./layout.ts";
import { codeOf, SeedProblem } from "./problem.ts";

export const stagingName = ".jellybloom-seed";
export const markerName = ".jellyfin-jellybloom-seed-incomplete";

/** The word for `--replace` when the server in the target has no id. */
export const noServerId = "unknown";

export type Phase = "copying" | "clearing" | "placing";

export interface Marker {
  readonly format: 1;
  readonly phase: Phase;
  /** Id of the server whose copy this is. */
  readonly serverId: string;
  readonly dataFolder: string;
  readonly configFolder: string;
  /** Which start of the machine staged it: after a power cut no file is trusted to be whole. */
  readonly bootId: string;
  readonly startedAt: string;
}

/** What the target holds. */
export type TargetState =
  | { readonly kind: "empty" }
  | { readonly kind: "unfinished"; readonly marker: Marker | undefined }
  | { readonly kind: "server"; readonly serverId: string; readonly marker: Marker | undefined }
  | { readonly kind: "other files"; readonly examples: readonly string[] };

/** Names under which Jellyfin keeps things in its data folder, beside those which a copy brings. */
const serverEntries = ["data", "config", "root", "metadata", "plugins", "cache", "transcodes"];
/** What may be in an empty target: what a disk, or a server that could not start, leaves behind. */
const emptyEntries = ["lost+found", "cache", "log", "transcodes", stagingName, markerName];

const blockerText =
  "Here belongs the data of a Jellyfin server that is being copied by `jellybloom" +
  " seed`.\nThe copy is not whole: run the same command again.\n";
const movedAsideLimit = 100;

/** The same id, however it is written: device.txt has no dashes and may begin with a byte order mark. */
export function normalizedId(text: string): string {
  return text
    .replace(/^\uFEFF/, "")
    .trim()
    .replaceAll("-", "")
    .toLowerCase();
}

/** The server's id, or undefined when it has none yet. */
export async function readServerId(dataFolder: string): Promise<string | undefined> {
  const text = await readFile(join(dataFolder, "data", "device.txt"), "utf8").catch(ignoreMissing);
  const id = normalizedId(text ?? "");
  return id === "" ? undefined : id;
}

export async function inspectTarget(folders: ServerFolders): Promise<TargetState> {
  const marker = await readMarker(folders);
  if (marker !== undefined && marker.phase !== "copying") return { kind: "unfinished", marker };
  const inner = join(folders.dataFolder, "data");
  const holdsServer = [...serverDatabases, "device.txt"].some((name) =>
    existsSync(join(inner, name)),
  );
  if (holdsServer) {
    const serverId = (await readServerId(folders.dataFolder)) ?? noServerId;
    return { kind: "server", serverId, marker };
  }
  const isMarked = rootsOf(folders).some((root) => existsSync(join(root, markerName)));
  const blocker = blockerOf(folders);
  const examples: string[] = [];
  for (const root of rootsOf(folders)) {
    for (const name of await readdir(root).catch(ignoreMissingFolder)) {
      const path = join(root, name);
      if (emptyEntries.includes(name) || (await isEmptyTree(path))) continue;
      const { size } = await lstat(path);
      if (path !== blocker || !(await isBlocker(path, Number(size)))) examples.push(path);
    }
  }
  if (examples.length > 0) return { kind: "other files", examples };
  return isMarked ? { kind: "unfinished", marker } : { kind: "empty" };
}

/** A folder with nothing in it but folders and the markers which Jellyfin makes before it starts. */
async function isEmptyTree(path: string): Promise<boolean> {
  const info = await lstat(path);
  if (!info.isDirectory()) return /^\.jellyfin-/.test(path.slice(dirname(path).length + 1));
  for (const name of await readdir(path)) {
    if (!(await isEmptyTree(join(path, name)))) return false;
  }
  return true;
}

// ---- The marker --------------------------------------------------------------------------------------

async function readMarker(folders: ServerFolders): Promise<Marker | undefined> {
  for (const root of rootsOf(folders)) {
    const text = await readFile(join(root, markerName), "utf8").catch(ignoreMissing);
    const marker = text === undefined ? undefined : parseMarker(text);
    if (marker !== undefined) return marker;
  }
  return undefined;
}

/** Undefined for a text that is no marker of ours: nothing is then known about the copy (pure). */
export function parseMarker(text: string): Marker | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // A marker is put under its name whole, so this was not written by us.
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { format, phase, serverId, dataFolder, configFolder, bootId, startedAt } = value as Record<
    string,
    unknown
  >;
  if (format !== 1 || (phase !== "copying" && phase !== "clearing" && phase !== "placing")) {
    return undefined;
  }
  const texts = [serverId, dataFolder, configFolder, bootId, startedAt];
  const [id, data, config, boot, started] = texts.filter((text) => typeof text === "string");
  if (id === undefined || data === undefined || config === undefined) return undefined;
  if (boot === undefined || started === undefined) return undefined;
  return {
    format,
    phase,
    serverId: id,
    dataFolder: data,
    configFolder: config,
    bootId: boot,
    startedAt: started,
  };
}

export async function writeMarkers(folders: ServerFolders, marker: Marker): Promise<void> {
  // A phase is announced when the one before is done, so where two folders differ, both tell the truth.
  for (const root of rootsOf(folders)) {
    const path = join(root, markerName);
    const passing = join(root, stagingName, "marker");
    await writeFile(passing, `${JSON.stringify(marker, undefined, 2)}\n`);
    await syncPath(passing);
    await rename(passing, path);
    await syncPath(root);
  }
}

/** Which start of the machine this is; undefined where that cannot be known. */
export async function readBootId(): Promise<string | undefined> {
  const text = await readFile("/proc/sys/kernel/random/boot_id", "utf8").catch(ignoreMissing);
  return text?.trim();
}

/**
 * Whether staged files may be kept: only of the same source, and only when the machine ran on, since a
 * power cut can leave a file with its size and time but without its content (pure).
 */
export function maySkipStaged(marker: Marker | undefined, wanted: Marker): boolean {
  return (
    marker !== undefined &&
    marker.bootId !== "" &&
    marker.bootId === wanted.bootId &&
    isSameSource(marker, wanted)
  );
}

export function isSameSource(left: Marker, right: Marker): boolean {
  return (
    left.serverId === right.serverId &&
    left.dataFolder === right.dataFolder &&
    left.configFolder === right.configFolder
  );
}

// ---- Staging -----------------------------------------------------------------------------------------

/** The root in which a path of the target lies. */
function rootOf(folders: ServerFolders, target: string): string {
  const root = rootsOf(folders).find((folder) => isInside(target, folder));
  if (root === undefined) throw new Error(`${target} is in no folder of the target`);
  return root;
}

/** Where something that will be at `target` is staged. */
export function stagedPath(folders: ServerFolders, target: string): string {
  const root = rootOf(folders, target);
  return join(root, stagingName, "new", relative(root, target));
}

/** Where a file that will be at `target` is written at first. */
export function passingFolder(folders: ServerFolders, target: string): string {
  return join(rootOf(folders, target), stagingName, "part");
}

/** Makes the target's folders where they are not there, with their staging folders. */
export async function openStaging(folders: ServerFolders): Promise<void> {
  for (const root of rootsOf(folders)) {
    await mkdir(root, { recursive: true });
    for (const name of ["new", "part", "old"]) {
      await mkdir(join(root, stagingName, name), { recursive: true, mode: 0o700 });
    }
  }
}

export async function emptyStaging(folders: ServerFolders): Promise<void> {
  for (const root of rootsOf(folders)) {
    await rm(join(root, stagingName, "new"), { recursive: true, force: true });
  }
  await openStaging(folders);
}

/**
 * Makes this run the only one that copies into the target. SQLite holds the lock, so the kernel lets go
 * of it however this process ends, and it counts between containers, too.
 *
 * @returns what lets go of it.
 */
export function lockTarget(folders: ServerFolders): () => void {
  const root = rootOf(folders, folders.dataFolder);
  const database = new DatabaseSync(join(root, stagingName, "lock.db"), { timeout: 0 });
  try {
    database.exec("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE");
  } catch {
    // Whatever it is, the lock is not ours; in all likelihood because it is somebody's.
    database.close();
    throw new SeedProblem(
      `Another run of seed is copying into ${root} right now: wait for it to end, or stop it.`,
    );
  }
  return () => database.close();
}

/** The entry of a root that has the databases in it: it is placed last. */
function lastEntry(folders: ServerFolders): { readonly root: string; readonly name: string } {
  const root = rootOf(folders, folders.dataFolder);
  const [name = "data"] = relative(root, join(folders.dataFolder, "data")).split(sep);
  return { root, name };
}

function blockerOf(folders: ServerFolders): string {
  const { root, name } = lastEntry(folders);
  return join(root, name);
}

/** Puts a plain file where the folder with the databases belongs, unless a server's folder is there. */
export async function block(folders: ServerFolders, holdsServer: boolean): Promise<void> {
  if (holdsServer) return;
  const { root, name } = lastEntry(folders);
  // Whole or not at all: a disk that is full in this moment must not leave a file that nobody knows for ours.
  const passing = join(root, stagingName, "blocker");
  await writeFile(passing, blockerText);
  await moveAside(root, name);
  await rename(passing, join(root, name));
}

async function moveAside(root: string, name: string): Promise<void> {
  const path = join(root, name);
  const info = await lstat(path).catch(ignoreMissing);
  if (info === undefined) return;
  if (info.isFile() && (await isBlocker(path, info.size))) return await unlink(path);
  const aside = join(root, stagingName, "old");
  for (let number = 0; number < movedAsideLimit; number++) {
    const place = join(aside, `${name}.${number}`);
    if (existsSync(place)) continue;
    return await renameOrTell(path, place);
  }
  throw new SeedProblem(`Something makes ${path} again and again: stop it, then run this again.`);
}

async function isBlocker(path: string, bytes: number): Promise<boolean> {
  return bytes === Buffer.byteLength(blockerText) && (await readFile(path, "utf8")) === blockerText;
}

async function renameOrTell(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    const code = codeOf(error);
    if (code === "EXDEV" || code === "EBUSY") {
      throw new SeedProblem(
        `${from} or ${to} is a mount of its own and cannot be replaced: unmount it, run` +
          " the same command again, and move its content there afterwards.",
      );
    }
    throw error;
  }
}

/** Folders in the target that are mounts of their own and stand where a copied entry will be. */
export async function findMounts(
  folders: ServerFolders,
  targets: readonly string[],
): Promise<readonly string[]> {
  const mounts: string[] = [];
  for (const target of targets) {
    const root = rootOf(folders, target);
    const info = await stat(target).catch(ignoreMissing);
    const around = await stat(root).catch(ignoreMissing);
    if (target !== root && info !== undefined && info.dev !== around?.dev) mounts.push(target);
  }
  return mounts;
}

/** Moves aside what the target's server had. Only what a Jellyfin server keeps is touched. */
export async function clearServer(folders: ServerFolders): Promise<void> {
  const last = lastEntry(folders);
  await moveAside(last.root, last.name);
  await block(folders, false);
  for (const root of rootsOf(folders)) {
    const staged = await readdir(join(root, stagingName, "new"));
    const own = root === folders.configFolder ? await configEntries(root) : [];
    for (const name of new Set([...staged, ...serverEntries, ...own])) {
      if (join(root, name) !== blockerOf(folders)) await moveAside(root, name);
    }
  }
}

async function configEntries(root: string): Promise<readonly string[]> {
  const names = await readdir(root);
  return names.filter(
    (name) => /\.(xml|json)$/.test(name) || name === "users" || name === "ScheduledTasks",
  );
}

/** Moves what is staged into place, the entry with the databases last. */
export async function place(folders: ServerFolders): Promise<void> {
  const last = lastEntry(folders);
  for (const root of rootsOf(folders)) {
    const names = await readdir(join(root, stagingName, "new")).catch(ignoreMissingFolder);
    const late = root === last.root ? names.filter((name) => name === last.name) : [];
    for (const name of [...names.filter((name) => !late.includes(name)), ...late]) {
      await moveAside(root, name);
      await renameOrTell(join(root, stagingName, "new", name), join(root, name));
    }
    await syncPath(root);
  }
}

/** Removes the staging folders and then the markers: from here on the target is a server. */
export async function finish(folders: ServerFolders): Promise<void> {
  for (const root of rootsOf(folders)) {
    await rm(join(root, stagingName), { recursive: true, force: true });
  }
  for (const root of rootsOf(folders)) {
    await rm(join(root, markerName), { force: true });
    await syncPath(root);
  }
}

/** The nearest folder on the way to `path` that is there. */
export async function nearestFolder(path: string): Promise<string> {
  for (let folder = path; ; folder = dirname(folder)) {
    if ((await stat(folder).catch(ignoreMissing)) !== undefined) return folder;
    if (folder === dirname(folder)) return folder;
  }
}

/** Whether we may make files in a folder: tried, since modes do not tell all (read-only mounts). */
export async function isWritable(folder: string): Promise<boolean> {
  const path = join(folder, `.jellybloom-seed-try-${process.pid}`);
  try {
    const handle = await open(path, "wx");
    await handle.close();
    await unlink(path);
    return true;
  } catch {
    // The one question asked here is whether it works.
    return false;
  }
}

function ignoreMissing(error: unknown): undefined {
  if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined;
  throw error;
}

function ignoreMissingFolder(error: unknown): string[] {
  if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return [];
  throw error;
}
