// Where a task is run, by its key: the one table that says so. Each replica has a database, caches and logs
// of its own, so most of what a server does for itself must be done on every one of them; what is heavy goes
// from one to the next, so that viewers always have replicas that are not busy.

/**
 * - `every`  on each replica, at the same time: what is small and only the server's own
 * - `turn`   on each replica, one after another, never on two at once
 * - `leader` on the leader's replica alone: what writes beside media that the replicas share
 */
export type TaskPolicy = "every" | "turn" | "leader";

const policies: Readonly<Record<string, TaskPolicy>> = {
  // Files of one server: its cache, its logs, its transcodes, its activity log.
  DeleteCacheFiles: "every",
  CleanLogFiles: "every",
  DeleteTranscodeFiles: "every",
  CleanActivityLog: "every",
  // What they fetch lies beside the media and is found by the others' next scan. Fetched by each replica,
  // the same file would be written several times and the services asked several times.
  DownloadSubtitles: "leader",
  DownloadLyrics: "leader",
};

/** A task nobody has heard of, such as a plugin's, is run on each replica in turn. */
export function policyOf(key: string): TaskPolicy {
  return Object.hasOwn(policies, key) ? (policies[key] ?? "turn") : "turn";
}

/**
 * Tasks of the policy `leader`, with the switch in a library's options that says whether what they fetch lies
 * beside the media (LibraryOptions; true where it is missing, as for subtitles in Jellyfin's own default).
 */
const besideMedia: Readonly<Record<string, string>> = {
  DownloadSubtitles: "SaveSubtitlesWithMedia",
  DownloadLyrics: "SaveLyricsWithMedia",
};

/** The library option that says whether a task writes beside the media; undefined: it never does. */
export function besideMediaSwitch(key: string): string | undefined {
  return Object.hasOwn(besideMedia, key) ? besideMedia[key] : undefined;
}

export const leaderTasks: readonly string[] = Object.keys(besideMedia);

/** The key of Jellyfin's task behind POST /Library/Refresh (RefreshMediaLibraryTask). */
export const scanTaskKey = "RefreshLibrary";

/**
 * Tasks that take an item whose file is not there for one that was deleted, or clear away what belongs to
 * such items: with a folder that is not mounted they would empty the library.
 */
const needWholeMedia: ReadonlySet<string> = new Set([
  scanTaskKey,
  "RefreshPeople",
  "CleanupUserDataTask",
  "CleanCollectionsAndPlaylists",
  "RefreshChapterImages",
  "RefreshTrickplayImages",
  "MoveTrickplayImages",
  "TaskExtractMediaSegments",
  "KeyframeExtraction",
  "AudioNormalization",
  "DownloadSubtitles",
  "DownloadLyrics",
]);

export function needsWholeMedia(key: string): boolean {
  return needWholeMedia.has(key);
}
