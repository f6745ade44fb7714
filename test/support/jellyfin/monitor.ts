/**
 * The real-time monitor of a stand-in (LibraryMonitor) and what it tells of its library (LibraryChangedNotifier).
 *
 * Which libraries are watched is looked at when the monitor starts: with the server, and a second after the folders of
 * some library were changed (LibraryStructureController). An option that is changed meanwhile changes nothing yet. Files
 * are not watched really: a test says what a monitor would have seen, and it is taken in at once, where a server waits
 * for LibraryMonitorDelay.
 */
import type { Sessions } from "./sessions.ts";

export type WatchedLibrary = { readonly paths: readonly string[]; readonly isWatched: boolean };

export type LibraryChange = {
  readonly added: readonly string[];
  readonly updated: readonly string[];
  readonly removed: readonly string[];
  readonly removedFrom: readonly string[];
};

const RESTART_MS = 1000;

export class LibraryMonitor {
  #watched: readonly string[] = [];
  #timer: NodeJS.Timeout | undefined;
  #libraries: () => readonly WatchedLibrary[] = () => [];

  start(libraries = this.#libraries): void {
    this.#libraries = libraries;
    this.#watched = libraries().flatMap(({ paths, isWatched }) => (isWatched ? paths : []));
  }

  /** Sees nothing for a second, and then what the options say by then. */
  restart(): void {
    this.stop();
    this.#timer = setTimeout(() => this.start(), RESTART_MS);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#watched = [];
  }

  sees(path: string): boolean {
    return this.#watched.some((folder) => path === folder || path.startsWith(`${folder}/`));
  }
}

export class LibraryNews {
  readonly #sessions: Sessions;
  readonly #waitMs: () => number;
  #timer: NodeJS.Timeout | undefined;
  #changes: LibraryChange[] = [];

  constructor(sessions: Sessions, waitMs: () => number) {
    this.#sessions = sessions;
    this.#waitMs = waitMs;
  }

  /** Told when nothing more has changed for LibraryUpdateDuration. */
  note(change: LibraryChange): void {
    if (change.added.length + change.updated.length + change.removed.length === 0) return;
    this.#changes.push(change);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#tell(), this.#waitMs());
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  /** Once for each user who has a session of their own, in the order in which the server finds them. */
  #tell(): void {
    const all = (name: keyof LibraryChange) => [
      ...new Set(this.#changes.flatMap((change) => change[name])),
    ];
    const data = {
      FoldersAddedTo: [],
      FoldersRemovedFrom: all("removedFrom"),
      ItemsAdded: all("added"),
      ItemsRemoved: all("removed"),
      ItemsUpdated: all("updated"),
      CollectionFolders: [],
      IsEmpty: false,
    };
    this.#changes = [];
    const users = new Set(this.#sessions.all().flatMap(({ userId }) => userId ?? []));
    for (const userId of users) this.#sessions.sendToUser(userId, "LibraryChanged", data);
  }
}
