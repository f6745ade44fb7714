// What is a server's own in its settings (core/jellyfin/per-server.ts has the table: ports and addresses, hardware,
// folders, its name) stays its own when its data become a copy of another server's. Two servers on one machine would
// else listen on one port after a reseed, and encode with hardware that one of them does not have.
//
// Steps, and why: before anything is staged, the target's settings are copied beside what is staged, because later
// they are moved aside with everything else. They are put into the staged files before those take their place; doing
// that again changes nothing, so that dying between any two of these is safe.

import { lstat, mkdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { installationKeys } from "../../core/jellyfin/per-server.ts";
import { giveAttributes, syncPath } from "./copy.ts";
import type { ServerFolders } from "./layout.ts";
import { onlyOwnElements, withOwnElements } from "./own-elements.ts";
import { codeOf } from "./problem.ts";
import { passingFolder, stagedPath } from "./target.ts";

const documents = ["system", "network", "encoding"] as const;
const versionFile = "version";

/** Where the settings of the server that is replaced are kept until its copy is in place. */
function keptFolder(target: ServerFolders): string {
  return join(dirname(passingFolder(target, target.configFolder)), "own");
}

/** Keeps the settings of the server in the target, which is whole. Its version, where known, is kept beside them. */
export async function keepOwnSettings(target: ServerFolders, version: string): Promise<void> {
  const folder = keptFolder(target);
  await dropOwnSettings(target);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const document of documents) {
    const file = `${document}.xml`;
    const bytes = await readFile(join(target.configFolder, file)).catch(ignoreMissing);
    if (bytes !== undefined) await writeFile(join(folder, file), bytes, { flush: true });
  }
  await writeFile(join(folder, versionFile), version, { flush: true });
  await syncPath(folder);
}

/** No server was here: what an earlier one may have left counts no longer. */
export async function dropOwnSettings(target: ServerFolders): Promise<void> {
  await rm(keptFolder(target), { recursive: true, force: true });
}

/** The version of the server whose settings are kept; undefined when there is none, or it was not known. */
export async function keptVersion(target: ServerFolders): Promise<string | undefined> {
  const text = await readFile(join(keptFolder(target), versionFile), "utf8").catch(ignoreMissing);
  return text === undefined || text === "" ? undefined : text;
}

/** Whether the ports and addresses of a server that is replaced are kept, and so the rest of what is its own. */
export async function keepsOwnSettings(target: ServerFolders): Promise<boolean> {
  return (await lstat(join(keptFolder(target), "network.xml")).catch(ignoreMissing)) !== undefined;
}

/**
 * Puts the kept values into the staged settings. @returns the names of the files that could not be read, whose
 * values are those of the server that was copied.
 */
export async function giveOwnSettings(target: ServerFolders): Promise<readonly string[]> {
  const unread: string[] = [];
  for (const document of documents) {
    const file = `${document}.xml`;
    const own = await readText(join(keptFolder(target), file));
    if (own === undefined) continue;
    const path = stagedPath(target, join(target.configFolder, file));
    const text = await readText(path);
    const keys = installationKeys(document);
    // A server that never wrote this file has defaults in it, but for what is the other one's own.
    const merged =
      text === undefined ? onlyOwnElements(own, keys) : withOwnElements(text, own, keys);
    if (merged === undefined) {
      unread.push(file);
      await rm(join(keptFolder(target), file));
    } else if (merged !== text) await replaceStaged(target, path, merged);
  }
  return unread;
}

async function replaceStaged(target: ServerFolders, path: string, text: string): Promise<void> {
  // A file that is new here belongs to whom the folder around it belongs.
  const like = await stat(path, { bigint: true }).catch(ignoreMissing);
  const { mode, uid, gid } = like ?? (await stat(dirname(path), { bigint: true }));
  const passing = join(passingFolder(target, path), "part-settings");
  await writeFile(passing, text, { flush: true });
  await giveAttributes(passing, {
    ...{ source: path, target: path, uid: Number(uid), gid: Number(gid) },
    mode: Number(mode) & (like === undefined ? 0o666 : 0o7777),
    modifiedNs: BigInt(Date.now()) * 1_000_000n,
  });
  await rename(passing, path);
  await syncPath(dirname(path));
}

/** Undefined: there is none. Text that is no UTF-8 comes out as what no XML has. */
async function readText(path: string): Promise<string | undefined> {
  const bytes = await readFile(path).catch(ignoreMissing);
  if (bytes === undefined) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    // It is taken for what it is to Jellyfin: no settings.
    return "";
  }
}

function ignoreMissing(error: unknown): undefined {
  if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined;
  throw error;
}
