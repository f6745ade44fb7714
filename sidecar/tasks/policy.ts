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
 * Tasks that take an item whose file is not there for one that was deleted, or clear away what belongs to
 * such items: with a folder that is not mounted they would empty the library.
 */
const needWholeMedia: ReadonlySet<string> = new Set([
  "RefreshLibrary",
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
