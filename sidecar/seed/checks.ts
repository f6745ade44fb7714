// What seeding looks at before it touches anything: is there a server to copy, may the target become its
// copy, is there room. Each of these either returns or throws a SeedProblem that says what to do.

import { existsSync } from "node:fs";
import { readdir, realpath, stat, statfs } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import {
  findServer,
  isInside,
  rootsOf,
  type ServerFolders,
  serverDatabases,
  targetFolders,
} from "./layout.ts";
import type { PlannedFile } from "./plan.ts";
import { codeOf, firstOf, SeedProblem } from "./problem.ts";
import { findUser } from "./running.ts";
import {
  isWritable,
  type Marker,
  markerName,
  nearestFolder,
  normalizedId,
  readServerId,
  type TargetState,
} from "./target.ts";
import { sizeText } from "./text.ts";

const shownLimit = 20;
/** Left free on the target's disk, so that the new server can start. */
const spareBytes = 64 * 1024 * 1024;
/** A file takes up whole blocks of the disk. */
const blockBytes = 4096;

/** Throws when there is anything to throw about. */
export function refuse(sentences: readonly string[]): void {
  if (sentences.length > 0) throw new SeedProblem(firstOf(sentences, shownLimit));
}

// ---- The source --------------------------------------------------------------------------------------

export async function findSource(
  from: string,
  fromConfig: string | undefined,
): Promise<ServerFolders> {
  const folder = await requireFolder(from, "--from");
  const configFolder =
    fromConfig === undefined ? undefined : await requireFolder(fromConfig, "--from-config");
  const found = findServer(folder, configFolder, "--from-config", existsSync);
  if ("problem" in found) throw new SeedProblem(found.problem);
  const folders = {
    kind: found.kind,
    dataFolder: await realpath(found.dataFolder),
    configFolder: await realpath(found.configFolder),
  };
  if (rootsOf(folders).some((root) => existsSync(join(root, markerName)))) {
    throw new SeedProblem(
      `${from} is itself an unfinished copy of a server: finish that one first, or copy from another server.`,
    );
  }
  return folders;
}

async function requireFolder(path: string, option: string): Promise<string> {
  try {
    const real = await realpath(path);
    await readdir(real);
    return real;
  } catch (error) {
    const code = codeOf(error);
    if (code === "ENOENT") throw new SeedProblem(`${option} ${path}: there is no such folder.`);
    if (code === "ENOTDIR") throw new SeedProblem(`${option} ${path} is not a folder.`);
    if (code === "EACCES" || code === "EPERM") {
      throw new SeedProblem(
        `${option} ${path} cannot be read: run this as the user that owns it, or as root.`,
      );
    }
    throw error;
  }
}

/** The id by which clients know the server. Both servers have to have the same. */
export async function requireServerId(source: ServerFolders): Promise<string> {
  const inner = join(source.dataFolder, "data");
  const id = await readServerId(source.dataFolder);
  if (id === undefined) {
    throw new SeedProblem(
      `${inner} has no device.txt, so this server has no id yet and its copy would get` +
        " another one: start the server once, then run this again.",
    );
  }
  if (!serverDatabases.some((name) => existsSync(join(inner, name)))) {
    throw new SeedProblem(
      `${inner} has a device.txt but no jellyfin.db: this server was never set up, or its database is missing.`,
    );
  }
  return id;
}

// ---- Versions ---------------------------------------------------------------------------------------

/** Versions compared number by number: `10.11.11` is newer than `10.9`, and none of `10.11` is newer than `10.11`. */
export function isNewer(version: string, than: string): boolean {
  const parts = (text: string): number[] => (text.match(/\d+/g) ?? []).slice(0, 3).map(Number);
  const [left, right] = [parts(version), parts(than)];
  for (const [place, limit] of right.entries()) {
    const apart = (left[place] ?? 0) - limit;
    if (apart !== 0) return apart > 0;
  }
  return false;
}

export function refuseNewer(version: string, forVersion: string | undefined): void {
  if (forVersion === undefined || version === "" || !isNewer(version, forVersion)) return;
  throw new SeedProblem(
    `The data are of Jellyfin ${version}, and the new server runs ${forVersion}: a server cannot use the` +
      ` data of a newer one. Give the new server ${version} as well, and say so with --for-version, or take data` +
      " of an older server.",
  );
}

// ---- The target --------------------------------------------------------------------------------------

/** Where the copy goes. The folders need not be there. */
export async function findTarget(
  to: string,
  toConfig: string | undefined,
  source: ServerFolders,
): Promise<ServerFolders> {
  const folder = await realPlace(to);
  const configFolder = toConfig === undefined ? undefined : await realPlace(toConfig);
  for (const path of [folder, configFolder]) {
    const info = path === undefined ? undefined : await stat(path).catch(ignoreMissing);
    if (info !== undefined && !info.isDirectory()) {
      throw new SeedProblem(`${path} is not a folder: name the new server's folder.`);
    }
  }
  // A server that is there already says where its folders are, however the source has them.
  const there = findServer(folder, configFolder, "--to-config", existsSync);
  return "problem" in there ? targetFolders(source, folder, configFolder) : there;
}

/** The real path of something that may not be there yet. */
async function realPlace(path: string): Promise<string> {
  const absolute = resolve(path);
  const real = await realpath(absolute).catch(ignoreMissing);
  if (real !== undefined) return real;
  return absolute === dirname(absolute)
    ? absolute
    : join(await realPlace(dirname(absolute)), basename(absolute));
}

export async function refuseSamePlaces(
  source: ServerFolders,
  target: ServerFolders,
): Promise<void> {
  for (const from of [source.dataFolder, source.configFolder]) {
    for (const to of [target.dataFolder, target.configFolder]) {
      if (from === to || (await isSameFolder(from, to))) {
        throw new SeedProblem(
          `Source and target are the same folder, ${to}: give the new server a folder of its own.`,
        );
      }
      if (isInside(to, from) || isInside(from, to)) {
        throw new SeedProblem(
          `${from} and ${to} lie one inside the other: give the new server a folder outside the old one's.`,
        );
      }
    }
  }
}

/** The same folder under another path, as a bind mount makes it. */
async function isSameFolder(left: string, right: string): Promise<boolean> {
  const [one, other] = await Promise.all(
    [left, right].map((path) => stat(path, { bigint: true }).catch(ignoreMissing)),
  );
  return one !== undefined && one.dev === other?.dev && one.ino === other.ino;
}

/** A target may be empty, or hold an unfinished copy, or the server that was named to be replaced. */
export function refuseState(
  state: TargetState,
  replace: string | undefined,
  sourceId: string,
  to: string,
): void {
  if (state.kind === "other files") {
    throw new SeedProblem([
      `${to} is not empty: it holds ${firstOf(state.examples, 3).join(", ")}, and no Jellyfin` +
        " server that seed would know. Name an empty folder, or one that is not there yet.",
    ]);
  }
  if (state.kind !== "server") return;
  if (replace !== undefined && normalizedId(replace) === state.serverId) return;
  const asked = replace === undefined ? "" : ` (not ${replace})`;
  throw new SeedProblem(
    state.serverId === sourceId
      ? `${to} already holds a copy of this server${asked}, which may have changed since.` +
          ` To throw that copy away and make a new one, add --replace ${state.serverId}.`
      : `${to} holds another server's data, of the server with id ${state.serverId}${asked}.` +
          ` To throw that away, users and watched states and all, add --replace ${state.serverId};` +
          " else name an empty folder.",
  );
}

export async function refuseRunningTarget(target: ServerFolders): Promise<void> {
  const inner = join(target.dataFolder, "data");
  const names = await readdir(inner).catch(() => []);
  const databases = names.filter((name) => name.endsWith(".db")).map((name) => join(inner, name));
  const user = findUser(databases, rootsOf(target));
  if (user === undefined) return;
  throw new SeedProblem(
    `A server is running on the target: ${user.who} has ${user.file} open. Stop that server, then run this again.`,
  );
}

export async function refuseClosedTarget(target: ServerFolders): Promise<void> {
  for (const root of rootsOf(target)) {
    const folder = await nearestFolder(root);
    if (await isWritable(folder)) continue;
    throw new SeedProblem(
      `${folder} cannot be written to: run this as the user that owns it, or as root, and look whether it is mounted read-only.`,
    );
  }
}

export function refuseMounts(mounts: readonly string[]): void {
  refuse(
    mounts.map(
      (path) =>
        `${path} is a mount of its own and cannot be replaced by a copied folder: unmount it for the time of the copy.`,
    ),
  );
}

/** Compares what is still to be copied with what is free, disk by disk. */
export async function refuseFullDisk(
  files: readonly PlannedFile[],
  target: ServerFolders,
): Promise<void> {
  const disks = new Map<number, { folder: string; neededBytes: number }>();
  for (const root of rootsOf(target)) {
    const folder = await nearestFolder(root);
    const { dev } = await stat(folder);
    const disk = disks.get(dev) ?? { folder, neededBytes: spareBytes };
    for (const file of files.filter((each) => isInside(each.target, root))) {
      disk.neededBytes += Math.ceil(file.bytes / blockBytes) * blockBytes;
    }
    disks.set(dev, disk);
  }
  for (const { folder, neededBytes } of disks.values()) {
    const { bavail, bsize } = await statfs(folder);
    const freeBytes = bavail * bsize;
    if (freeBytes >= neededBytes) continue;
    throw new SeedProblem(
      `There is not enough room at ${folder}: ${sizeText(neededBytes)} are needed and` +
        ` ${sizeText(freeBytes)} are free. Make room, or leave out what can be rebuilt (--without` +
        " trickplay,subtitles,attachments,backups).",
    );
  }
}

/** What stopped a copy that had begun, in words, where the world is to blame. */
export function explained(error: unknown, marker: Marker): unknown {
  if (error instanceof SeedProblem) return error;
  const code = codeOf(error);
  if (code === undefined || !(error instanceof Error)) return error;
  const reason =
    code === "ENOSPC" || code === "EDQUOT"
      ? "The target's disk is full: make room"
      : `${error.message}: see to it`;
  return new SeedProblem(
    `${reason}, then run the same command again; it goes on where it was. (Copy of server ${marker.serverId}.)`,
  );
}

function ignoreMissing(error: unknown): undefined {
  if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined;
  throw error;
}
