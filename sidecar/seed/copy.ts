// Copies plain files, folders and links into the staging folders. A file appears under its name only when
// it is whole: it is written under a passing name, given the times of its source, and renamed. So a file
// that is there with the size and time of its source was copied whole, and a copy that was interrupted
// can go on where it was.

import { execFile, spawn } from "node:child_process";
import { constants } from "node:fs";
import {
  chmod,
  chown,
  copyFile,
  type FileHandle,
  lchown,
  lstat,
  mkdir,
  open,
  readdir,
  rename,
  rm,
  symlink,
  utimes,
} from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { promisify } from "node:util";
import type { CopyPlan, Piece, PlannedEntry, PlannedFile, PlannedLink } from "./plan.ts";
import { codeOf } from "./problem.ts";

export interface CopyFilesOptions {
  readonly files: readonly PlannedFile[];
  /** From where a file will be to where it is staged. */
  readonly staged: (target: string) => string;
  /** Where a file that is to be staged there is written at first: on the same disk, and empty at start. */
  readonly passingFolder: (target: string) => string;
  readonly onBytes: (bytes: number) => void;
}

const filesAtOnce = 4;
const chunkBytes = 1024 * 1024;
/** Below this size asking the file system for a shared copy costs more than it saves. */
const cloneFromBytes = 1024 * 1024;

/** Copies the files and returns those which vanished from the source meanwhile. */
export async function copyFiles(options: CopyFilesOptions): Promise<readonly PlannedFile[]> {
  const queue = options.files.values();
  const vanished: PlannedFile[] = [];
  const work = async (worker: number): Promise<void> => {
    const buffer = Buffer.allocUnsafe(chunkBytes);
    for (const file of queue) {
      const passing = join(options.passingFolder(file.target), `part-${worker}`);
      try {
        await copyWhole(file, options.staged(file.target), passing, buffer, options.onBytes);
      } catch (error) {
        if (codeOf(error) !== "ENOENT" || (await isThere(file.source))) throw error;
        vanished.push(file);
      }
    }
  };
  await Promise.all(Array.from({ length: filesAtOnce }, (_, worker) => work(worker)));
  return vanished;
}

async function copyWhole(
  file: PlannedFile,
  staged: string,
  passing: string,
  buffer: Buffer,
  onBytes: (bytes: number) => void,
): Promise<void> {
  await rm(passing, { force: true });
  if (file.bytes < cloneFromBytes || !(await clone(file, passing))) {
    await copyBytes(file, passing, buffer, onBytes);
  } else {
    onBytes(file.bytes);
  }
  await giveAttributes(passing, file);
  await rename(passing, staged);
}

/** Lets the file system share the bytes, where it can (btrfs, XFS, ZFS): no time and no room is needed. */
async function clone(file: PlannedFile, passing: string): Promise<boolean> {
  try {
    await copyFile(file.source, passing, constants.COPYFILE_FICLONE_FORCE);
    return true;
  } catch {
    // Most file systems cannot; whatever else is wrong the plain copy meets as well, and tells.
    await rm(passing, { force: true });
    return false;
  }
}

async function copyBytes(
  file: PlannedFile,
  passing: string,
  buffer: Buffer,
  onBytes: (bytes: number) => void,
): Promise<void> {
  // A file that became a link or a pipe since it was planned is refused rather than followed.
  const noFollow = file.throughLink ? 0 : constants.O_NOFOLLOW;
  const from = await open(file.source, constants.O_RDONLY | constants.O_NONBLOCK | noFollow);
  try {
    const to = await open(passing, "wx", 0o600);
    try {
      for (;;) {
        const { bytesRead } = await from.read(buffer, 0, buffer.length, null);
        if (bytesRead === 0) break;
        await writeAll(to, buffer.subarray(0, bytesRead));
        onBytes(bytesRead);
      }
    } finally {
      await to.close();
    }
  } finally {
    await from.close();
  }
}

async function writeAll(handle: FileHandle, bytes: Buffer): Promise<void> {
  let written = 0;
  while (written < bytes.length) {
    written += (await handle.write(bytes, written)).bytesWritten;
  }
}

/** Whether a file is staged already, whole. Times are compared as exactly as Node can set them. */
export async function isStaged(file: PlannedFile, staged: string): Promise<boolean> {
  const info = await lstat(staged, { bigint: true }).catch(ignoreMissing);
  if (info?.isFile() !== true || Number(info.size) !== file.bytes) return false;
  return isSameTime(info.mtimeNs, file.modifiedNs);
}

function isSameTime(leftNs: bigint, rightNs: bigint): boolean {
  const apart = leftNs - rightNs;
  // Node hands times to the system as seconds in a double: up to 120 ns are lost, on some releases 1 µs.
  return apart > -2000n && apart < 2000n;
}

/** Makes the folders, open to us alone until everything is in them. */
export async function makeFolders(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    const info = await lstat(path).catch(ignoreMissing);
    if (info !== undefined && !info.isDirectory()) await rm(path);
    await mkdir(path, { recursive: true, mode: 0o700 });
    // An earlier run may have finished this one, and it may be a folder nobody may write to.
    if (info?.isDirectory()) await chmod(path, 0o700);
  }
}

export async function makeLinks(
  links: readonly PlannedLink[],
  staged: (target: string) => string,
): Promise<void> {
  for (const link of links) {
    const place = staged(link.target);
    await rm(place, { recursive: true, force: true });
    await symlink(link.text, place);
    if (isRoot()) await lchown(place, link.uid, link.gid);
  }
}

/** Removes from a staging folder what the plan does not have. */
export async function prune(folder: string, wanted: ReadonlySet<string>): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (!wanted.has(path)) await rm(path, { recursive: true, force: true });
    else if (entry.isDirectory()) await prune(path, wanted);
  }
}

/** Mode, times and, for root, owner of the source. */
export async function giveAttributes(path: string, entry: PlannedEntry): Promise<void> {
  // The owner first: changing it clears the bits that come with it.
  if (isRoot()) await chown(path, entry.uid, entry.gid);
  await chmod(path, entry.mode);
  await setTime(path, entry.modifiedNs);
}

export async function setTime(path: string, modifiedNs: bigint): Promise<void> {
  const seconds = Number(modifiedNs) / 1e9;
  await utimes(path, seconds, seconds);
}

function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

// ---- Times to the nanosecond -------------------------------------------------------------------------

const argumentBytesLimit = 96 * 1024;

/**
 * Gives the staged files the times of their sources to the nanosecond, by GNU cp. Jellyfin makes the tag
 * of an image from its time in units of 100 ns (ImageProcessor.GetImageCacheTag), which is finer than
 * what Node can set: without this the images of the copy would get other tags at its next scan.
 *
 * A file that changed meanwhile keeps the time it was copied with. Returns whether all is exact; it is
 * not where there is no GNU cp, and nothing but those tags depends on it.
 */
export async function makeTimesExact(
  files: readonly PlannedFile[],
  pieces: readonly Piece[],
  staged: (target: string) => string,
): Promise<boolean> {
  let allExact = true;
  for (const piece of pieces) {
    const mine = files.filter(
      (file) =>
        !file.throughLink &&
        file.target === join(piece.target, relative(piece.source, file.source)),
    );
    for (const batch of batchesOf(mine.map(({ source }) => relative(piece.source, source)))) {
      await copyTimes(piece.source, staged(piece.target), batch);
    }
  }
  for (const file of files) {
    const info = await lstat(staged(file.target), { bigint: true }).catch(ignoreMissing);
    if (info === undefined || info.mtimeNs === file.modifiedNs) continue;
    allExact = false;
    await setTime(staged(file.target), file.modifiedNs);
  }
  return allExact;
}

function batchesOf(names: readonly string[]): readonly (readonly string[])[] {
  const batches: string[][] = [];
  let room = 0;
  for (const name of names) {
    if (name.length * 3 > room) {
      batches.push([]);
      room = argumentBytesLimit;
    }
    batches.at(-1)?.push(name);
    room -= Buffer.byteLength(name) + 8;
  }
  return batches;
}

async function copyTimes(from: string, to: string, names: readonly string[]): Promise<void> {
  const options = ["--no-dereference", "--attributes-only", "--preserve=timestamps", "--parents"];
  await new Promise<void>((done) => {
    const child = spawn("cp", [...options, `--target-directory=${to}`, "--", ...names], {
      cwd: from,
      stdio: "ignore",
    });
    // The caller looks at every file afterwards, so it does not matter here why one was not done.
    child.once("error", () => done());
    child.once("exit", () => done());
  });
}

// ---- Onto the disk -----------------------------------------------------------------------------------

/** Waits until what lies in a folder is on its disk. */
export async function syncFolder(folder: string): Promise<void> {
  try {
    await promisify(execFile)("sync", ["-f", folder]);
  } catch {
    // There is no such program here: each file by itself, which only takes longer.
    await syncEach(folder);
  }
}

async function syncEach(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await syncEach(path);
    else if (entry.isFile()) await syncPath(path);
  }
  await syncPath(folder);
}

export async function syncPath(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export async function syncParent(path: string): Promise<void> {
  await syncPath(dirname(path));
}

async function isThere(path: string): Promise<boolean> {
  return (await lstat(path).catch(ignoreMissing)) !== undefined;
}

function ignoreMissing(error: unknown): undefined {
  if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined;
  throw error;
}

/** What has to be there when everything is staged, for `prune`. */
export function stagedPaths(
  plan: CopyPlan,
  staged: (target: string) => string,
): ReadonlySet<string> {
  const { directories, files, databases, links } = plan;
  return new Set(
    [...directories, ...files, ...databases, ...links].map(({ target }) => staged(target)),
  );
}
