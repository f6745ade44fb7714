// Where a leader's task puts what it fetches. Subtitles and lyrics lie beside the media, or with the server that
// fetched them, as each library says; beside the media they are fetched once for all replicas, and not at all
// where the media cannot be written to: every attempt would ask a service for files that are then thrown away.
//
// Whether a folder can be written to is asked of the server, because its mount counts and not ours, and asked
// only when such a task is about to start: Jellyfin answers by writing an empty file there and deleting it
// (POST /Environment/ValidatePath with ValidateWritable, EnvironmentController).

import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { readServerLibraries, type ServerLibrary } from "../library/libraries.ts";
import { besideMediaSwitch, leaderTasks, policyOf } from "./policy.ts";

export interface LibraryPlaces {
  /** Keys of leader's tasks for which no library puts anything beside its media. */
  readonly ownFiles: readonly string[];
  /** Folders of libraries in which the task writes, by its key. */
  readonly written: ReadonlyMap<string, readonly string[]>;
  readonly isWritable: (folder: string) => Promise<boolean>;
}

/** Nothing is known of the libraries: the leader's tasks go on as they always do. */
export const noPlaces: LibraryPlaces = {
  ownFiles: [],
  written: new Map(),
  isWritable: async () => true,
};

/** Why a task must not run at this server, or undefined. */
export async function unfitToWrite(
  key: string,
  { written, isWritable }: LibraryPlaces,
): Promise<string | undefined> {
  if (policyOf(key) !== "leader") return undefined;
  for (const folder of written.get(key) ?? []) {
    if (await isWritable(folder)) continue;
    return `it writes beside the media, and its server cannot write to ${JSON.stringify(folder)}`;
  }
  return undefined;
}

/** What a server's libraries say of it; none say nothing. Pure. */
export function placesIn(
  libraries: readonly Pick<ServerLibrary, "locations" | "options">[],
  isWritable: LibraryPlaces["isWritable"],
): LibraryPlaces {
  if (libraries.length === 0) return noPlaces;
  const written = new Map<string, readonly string[]>();
  for (const key of leaderTasks) {
    const name = besideMediaSwitch(key) ?? "";
    const beside = libraries.filter(({ options }) => options[name] !== false);
    written.set(
      key,
      beside.flatMap(({ locations }) => locations),
    );
  }
  const ownFiles = leaderTasks.filter((key) => written.get(key)?.length === 0);
  return { ownFiles, written, isWritable };
}

/** Whether that server can write to a folder as it sees it. */
export async function isWritableAt(
  client: Pick<JellyfinClient, "callWithKey">,
  Path: string,
): Promise<boolean> {
  const asked = { Path, ValidateWritable: true };
  const answer = await client.callWithKey("POST", "/Environment/ValidatePath", asked);
  // A server that does not answer now is no server that cannot write.
  return answer.outcome === "failed" || answer.status < 500;
}

/** Looks at a server's libraries once in `keepMs`; what could not be asked is as if nothing were known. */
export function libraryPlaces(
  client: Pick<JellyfinClient, "callWithKey">,
  keepMs: number,
  monotonicMs: () => number,
): () => Promise<LibraryPlaces> {
  let known: { readonly places: LibraryPlaces; readonly untilMs: number } | undefined;
  const isWritable = (folder: string) => isWritableAt(client, folder);
  return async () => {
    if (known !== undefined && known.untilMs > monotonicMs()) return known.places;
    const libraries = await readServerLibraries(client);
    if (libraries === undefined) return known?.places ?? noPlaces;
    const places = placesIn(libraries, isWritable);
    known = { places, untilMs: monotonicMs() + keepMs };
    return places;
  };
}
