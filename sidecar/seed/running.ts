// Who has a server's files open. Two signs, since neither sees everything: the kernel's list of open
// files (only processes of this machine that we may look at; files are compared by device and number, so
// other containers are seen when their processes are), and SQLite's own locks (also across containers).

import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { isDatabaseFree } from "./database.ts";
import { isInside } from "./layout.ts";
import { codeOf } from "./problem.ts";

export interface User {
  /** `process 4711 (jellyfin)`, or `another process`. */
  readonly who: string;
  readonly file: string;
}

/** Somebody who has one of the databases open, or a Jellyfin that has any file in the folders open. */
export function findUser(
  databases: readonly string[],
  folders: readonly string[],
): User | undefined {
  const seen = findInProcessList(databases, folders);
  if (seen !== undefined) return seen;
  const locked = databases.find((path) => !isDatabaseFree(path));
  return locked === undefined ? undefined : { who: "another process", file: locked };
}

function findInProcessList(
  databases: readonly string[],
  folders: readonly string[],
): User | undefined {
  const marked = new Map<string, string>();
  for (const database of databases) {
    for (const path of [database, `${database}-wal`, `${database}-shm`]) {
      const place = placeOf(path);
      if (place !== undefined) marked.set(place, path);
    }
  }
  // On systems without /proc this list is empty and the locks have to do.
  for (const pid of orNothing(() => readdirSync("/proc")) ?? []) {
    if (!/^\d+$/.test(pid) || pid === String(process.pid)) continue;
    const name = orNothing(() => readFileSync(join("/proc", pid, "comm"), "utf8"))?.trim() ?? "";
    const isJellyfin = /jellyfin/i.test(name) || isStartedAsJellyfin(pid);
    if (marked.size === 0 && !isJellyfin) continue;
    const file = findOpenFile(pid, marked, isJellyfin ? folders : []);
    if (file !== undefined) return { who: `process ${pid} (${name})`, file };
  }
  return undefined;
}

/** A server started by the runtime is called `dotnet`; its first argument is then jellyfin.dll. */
function isStartedAsJellyfin(pid: string): boolean {
  const words = orNothing(() => readFileSync(join("/proc", pid, "cmdline"), "utf8"))?.split("\0");
  return words?.slice(0, 2).some((word) => /^jellyfin(\.dll)?$/i.test(basename(word))) ?? false;
}

/**
 * The calls here wait, unlike elsewhere: the kernel answers them from memory, and through the pool of
 * threads the thousands of them took seconds on a busy machine.
 */
function findOpenFile(
  pid: string,
  marked: ReadonlyMap<string, string>,
  folders: readonly string[],
): string | undefined {
  const handles = join("/proc", pid, "fd");
  for (const handle of orNothing(() => readdirSync(handles)) ?? []) {
    const path = join(handles, handle);
    const found = marked.get(placeOf(path) ?? "");
    if (found !== undefined) return found;
    if (folders.length === 0) continue;
    const name = orNothing(() => readlinkSync(path)) ?? "";
    if (name.startsWith("/") && folders.some((folder) => isInside(name, folder))) return name;
  }
  return undefined;
}

/** Device and number of a file: the same by whatever path it is reached. */
function placeOf(path: string): string | undefined {
  const info = orNothing(() => statSync(path, { bigint: true }));
  return info?.isFile() ? `${info.dev}:${info.ino}` : undefined;
}

/** A process that ended meanwhile, or that belongs to somebody else, shows nothing. */
function orNothing<Value>(look: () => Value): Value | undefined {
  try {
    return look();
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
    return undefined;
  }
}
