// The libraries of a server as GET /Library/VirtualFolders tells of them (LibraryStructureController), as far as their
// folders and their options are needed. Reading is pure; what changes an option sends the whole document, because
// Jellyfin takes what is left out for a default (LibraryOptions).

import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { objectOf, parsedJson } from "../../core/service/json.ts";

type Caller = Pick<JellyfinClient, "callWithKey">;

export interface ServerLibrary {
  /** 32 hexadecimal digits; the same on every server whose folder of libraries has the same path. */
  readonly id: string;
  readonly name: string;
  readonly locations: readonly string[];
  /** Whether its options ask for the real-time monitor (`EnableRealtimeMonitor`). */
  readonly isWatched: boolean;
  readonly options: Readonly<Record<string, unknown>>;
}

/** A path in no library: what is removed by it is nothing. */
const noPath = "/jellybloom/none";

/** Undefined: the server could not be asked. A library that is just being made has no id, and is left out. */
export async function readServerLibraries(
  client: Caller,
): Promise<readonly ServerLibrary[] | undefined> {
  const answer = await client.callWithKey("GET", "/Library/VirtualFolders");
  if (answer.outcome !== "answered" || answer.status !== 200) return undefined;
  const folders = parsedJson(answer.text);
  return Array.isArray(folders) ? folders.flatMap((one) => readLibrary(one) ?? []) : undefined;
}

function readLibrary(value: unknown): ServerLibrary | undefined {
  const fields = objectOf(value);
  const options = objectOf(fields?.LibraryOptions);
  const id = typeof fields?.ItemId === "string" ? fields.ItemId.replaceAll("-", "") : "";
  if (options === undefined || !/^[0-9a-f]{32}$/i.test(id)) return undefined;
  const locations = Array.isArray(fields?.Locations) ? fields.Locations : [];
  return {
    id: id.toLowerCase(),
    name: String(fields?.Name ?? ""),
    locations: locations.filter((path) => typeof path === "string" && path !== ""),
    isWatched: options.EnableRealtimeMonitor === true,
    options,
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
