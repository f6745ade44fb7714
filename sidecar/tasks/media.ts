// Whether a replica's media are whole: every folder of its libraries can be reached, none is suddenly empty,
// and a scan would not drop more than a set part of its items. A scan takes whatever is not there for
// deleted, and with it watched marks, posters and collections; so before each one the server itself is asked
// what it sees (its own eyes count: containers and mounts differ) and what it has in its library.
//
// What would be dropped is not guessed from numbers of an earlier scan: the paths of all items are compared
// with what the folders show, folder by folder, and only where enough items lie to matter.

import { readdir } from "node:fs/promises";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { isRecord, parsedJson } from "../../core/service/json.ts";
import { readServerLibraries } from "../library/libraries.ts";

export interface MediaEntry {
  readonly name: string;
  readonly isFolder: boolean;
}

export interface MediaEyes {
  /** The folders of all libraries; undefined: the server could not be asked. */
  locations(): Promise<readonly { readonly library: string; readonly path: string }[] | undefined>;
  /** Paths of all items that are files or stand for some; undefined: the server could not be asked. */
  itemPaths(): Promise<readonly string[] | undefined>;
  /** What lies in a folder; `away`: it cannot be listed, `many`: more than can be told. */
  list(path: string): Promise<readonly MediaEntry[] | "away" | "many">;
}

export interface MediaLimits {
  /** A scan that would drop more than this part of a folder's items is held; 0 to 1. */
  readonly lossLimit: number;
  /** Folders looked into for one answer; what lies beyond is taken to be there. */
  readonly foldersLimit: number;
}

/** Where nobody set others: before what is not a task makes a server look at its media. */
export const usualMediaLimits: MediaLimits = { lossLimit: 0.1, foldersLimit: 200 };

/** A folder that holds less than this part of a location's items is not looked into. */
const smallPart = 0.02;

/** Undefined when the media are whole, else a sentence without its full stop. */
export async function mediaProblem(
  eyes: MediaEyes,
  limits: MediaLimits,
): Promise<string | undefined> {
  const locations = await eyes.locations();
  const items = locations === undefined ? undefined : await eyes.itemPaths();
  if (locations === undefined || items === undefined)
    return "its libraries cannot be looked at now";
  const budget = { folders: limits.foldersLimit };
  for (const { library, path } of locations) {
    const parts = items.filter((item) => isBelow(item, path)).map((item) => partsOf(item, path));
    const entries = await eyes.list(path);
    const where = `the folder ${JSON.stringify(path)} of library ${JSON.stringify(library)}`;
    if (entries === "away") return `${where} cannot be reached`;
    if (entries === "many" || parts.length === 0) continue;
    if (entries.length === 0) return `${where} is empty and has ${parts.length} items`;
    const small = Math.max(2, parts.length * smallPart);
    const lost = await lostBelow(eyes, path, entries, parts, small, budget);
    if (lost > parts.length * limits.lossLimit) {
      return `${lost} of the ${parts.length} items in ${where} are not there`;
    }
  }
  return undefined;
}

/** How many of the items (each as its path's parts below `folder`) are not in what the folder shows. */
async function lostBelow(
  eyes: MediaEyes,
  folder: string,
  entries: readonly MediaEntry[],
  items: readonly (readonly string[])[],
  small: number,
  budget: { folders: number },
): Promise<number> {
  const shown = new Map(entries.map((entry) => [entry.name.toLowerCase(), entry]));
  let lost = 0;
  for (const [name, below] of groupsOf(items)) {
    const entry = shown.get(name.toLowerCase());
    if (entry === undefined) {
      lost += below.length;
      continue;
    }
    const deeper = below.filter((parts) => parts.length > 0);
    if (deeper.length < small || !entry.isFolder || budget.folders <= 0) continue;
    budget.folders--;
    const path = `${folder.replace(/[\\/]+$/, "")}${separatorOf(folder)}${name}`;
    const inside = await eyes.list(path);
    if (inside === "many") continue;
    // A folder that is there and cannot be listed is lost to a scan as much as one that is not.
    if (inside === "away") lost += deeper.length;
    else lost += await lostBelow(eyes, path, inside, deeper, small, budget);
  }
  return lost;
}

function groupsOf(items: readonly (readonly string[])[]): Map<string, (readonly string[])[]> {
  const groups = new Map<string, (readonly string[])[]>();
  for (const [first = "", ...rest] of items) {
    const group = groups.get(first);
    if (group === undefined) groups.set(first, [rest]);
    else group.push(rest);
  }
  return groups;
}

function separatorOf(path: string): string {
  return path.includes("\\") && !path.includes("/") ? "\\" : "/";
}

/** Whether an item lies in that folder, at any depth. */
export function isBelow(item: string, location: string): boolean {
  const base = location.replace(/[\\/]+$/, "");
  return item.startsWith(base) && /^[\\/]./.test(item.slice(base.length));
}

function partsOf(item: string, location: string): string[] {
  const below = item.slice(location.replace(/[\\/]+$/, "").length);
  return below.split(separatorOf(item)).filter((part) => part !== "");
}

// ---- The server's own eyes ------------------------------------------------------------------------

const pageItems = 1000;
const pagesLimit = 500;

/**
 * Asks a server with its API key: GET /Library/VirtualFolders, GET /Items, GET
 * /Environment/DirectoryContents (404 or 500 for a folder that is not there).
 */
export function serverEyes(client: JellyfinClient): MediaEyes {
  async function ask(path: string): Promise<unknown> {
    const answer = await client.callWithKey("GET", path);
    return answer.outcome === "answered" && answer.status === 200
      ? parsedJson(answer.text)
      : undefined;
  }

  return {
    async locations() {
      const libraries = await readServerLibraries(client);
      return libraries?.flatMap(({ name, locations }) =>
        locations.map((path) => ({ library: name, path })),
      );
    },

    async itemPaths() {
      const paths: string[] = [];
      for (let page = 0; page < pagesLimit; page++) {
        const query = new URLSearchParams({
          recursive: "true",
          isFolder: "false",
          fields: "Path",
          enableImages: "false",
          enableUserData: "false",
          enableTotalRecordCount: "false",
          startIndex: String(page * pageItems),
          limit: String(pageItems),
        });
        const body = await ask(`/Items?${query}`);
        if (!isRecord(body) || !Array.isArray(body.Items)) return undefined;
        for (const item of body.Items) {
          if (isRecord(item) && typeof item.Path === "string") paths.push(item.Path);
        }
        if (body.Items.length < pageItems) break;
      }
      return paths;
    },

    async list(path) {
      const query = new URLSearchParams({ path, includeFiles: "true", includeDirectories: "true" });
      const answer = await client.callWithKey("GET", `/Environment/DirectoryContents?${query}`);
      if (answer.outcome === "failed") return answer.failure === "tooLarge" ? "many" : "away";
      const entries = answer.status === 200 ? parsedJson(answer.text) : undefined;
      if (!Array.isArray(entries)) return "away";
      return entries
        .filter(isRecord)
        .map(({ Name, Type }) => ({ name: String(Name ?? ""), isFolder: Type !== "File" }));
    },
  };
}

// ---- This process's own eyes ----------------------------------------------------------------------

/** Undefined when the folder is there, as this process sees it, and something lies in it. */
export async function folderProblem(folder: string): Promise<string | undefined> {
  try {
    const entries = await readdir(folder);
    return entries.length === 0 ? `the media folder ${JSON.stringify(folder)} is empty` : undefined;
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "unknown error";
    return `the media folder ${JSON.stringify(folder)} cannot be read (${code})`;
  }
}
