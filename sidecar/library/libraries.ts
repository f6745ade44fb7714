// The libraries of a server as GET /Library/VirtualFolders tells of them (LibraryStructureController: an array of
// VirtualFolderInfo), as far as they are needed anywhere. Reading is pure; what changes an option sends the whole
// document, because Jellyfin takes what is left out for a default (LibraryOptions).

import { isPlainId, normalId } from "../../core/cluster/identity.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { isRecord, objectOf, parsedJson } from "../../core/service/json.ts";

type Caller = Pick<JellyfinClient, "callWithKey">;

export interface ServerLibrary {
  /**
   * 32 hexadecimal digits, the same on every server whose folder of libraries has the same path; empty while the
   * library is being made (LibraryManager.GetVirtualFolderInfo), and then it has no options either.
   */
  readonly id: string;
  readonly name: string;
  /** `movies`, `tvshows` and the like; `mixed` where it is said to be nothing else. */
  readonly type: string;
  readonly locations: readonly string[];
  /** Whether its options ask for the real-time monitor (`EnableRealtimeMonitor`). */
  readonly isWatched: boolean;
  readonly options: Readonly<Record<string, unknown>>;
}

/** A path in no library: what is removed by it is nothing. */
const noPath = "/jellybloom/none";

/** All that are there, also those being made; undefined: the server could not be asked. */
export async function readServerLibraries(
  client: Caller,
): Promise<readonly ServerLibrary[] | undefined> {
  const answer = await client.callWithKey("GET", "/Library/VirtualFolders");
  if (answer.outcome !== "answered" || answer.status !== 200) return undefined;
  return librariesIn(parsedJson(answer.text));
}

/** Those that are made; undefined: the server could not be asked. */
export async function readMadeLibraries(
  client: Caller,
): Promise<readonly ServerLibrary[] | undefined> {
  return (await readServerLibraries(client))?.filter(({ id }) => id !== "");
}

/** What an answer says; undefined when it is no list. Pure. */
export function librariesIn(value: unknown): readonly ServerLibrary[] | undefined {
  return Array.isArray(value) ? value.filter(isRecord).map(readLibrary) : undefined;
}

function readLibrary(fields: Readonly<Record<string, unknown>>): ServerLibrary {
  const { Name, ItemId, CollectionType, Locations, LibraryOptions } = fields;
  const id = typeof ItemId === "string" ? normalId(ItemId) : "";
  const options = objectOf(LibraryOptions);
  return {
    // What has no options cannot be told any either: all that are left out would become defaults.
    id: options !== undefined && isPlainId(id) ? id : "",
    name: String(Name ?? ""),
    type: typeof CollectionType === "string" && CollectionType !== "" ? CollectionType : "mixed",
    locations: (Array.isArray(Locations) ? Locations : []).filter(
      (path) => typeof path === "string" && path !== "",
    ),
    isWatched: options?.EnableRealtimeMonitor === true,
    options: options ?? {},
  };
}

/** Sets that one option; answers whether the server took it. What it watches follows with `restartMonitors`. */
export async function setWatched(
  client: Caller,
  { id, options }: Pick<ServerLibrary, "id" | "options">,
  isOn: boolean,
): Promise<boolean> {
  const body = { Id: id, LibraryOptions: { ...options, EnableRealtimeMonitor: isOn } };
  const path = "/Library/VirtualFolders/LibraryOptions";
  const answer = await client.callWithKey("POST", path, body);
  return answer.outcome === "answered" && answer.status < 300;
}

/**
 * Has the server watch what its options say; answers whether it was told so. Jellyfin looks at the option only when its
 * monitor starts (LibraryMonitor.Start): with the server, after a scan, and a second after any change of a library's
 * folders. The least of these is to take a folder from a library that is not in it: the options are saved as they are
 * (LibraryManager.RemoveMediaPath), and the monitor of all libraries is started anew.
 */
export async function restartMonitors(client: Caller, library: string): Promise<boolean> {
  const query = new URLSearchParams({ name: library, path: noPath, refreshLibrary: "false" });
  const answer = await client.callWithKey("DELETE", `/Library/VirtualFolders/Paths?${query}`);
  return answer.outcome === "answered" && answer.status < 300;
}
