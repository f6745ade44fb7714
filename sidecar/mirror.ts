// The mirror: what its server's memory holds of sessions, written down for the doors, so that each shows the
// list of the whole cluster and finds the server that holds a device's socket.
//
// It promises: a note is written when its session changed, a position at most once in `positionIntervalMs`,
// and nothing for one that is idle or paused but a sign of life before the note would end; our own sessions
// are never written; when the server has ended, what it held stays for a minute, or until it has it again.

import type { Memory } from "../core/cluster/memory.ts";
import { dropNote, putNote } from "../core/cluster/notes.ts";
import {
  lastingPart,
  lostKeepMs,
  readSession,
  readSessionNote,
  type SeenSession,
  sessionNoteId,
  sessionNoteValue,
} from "../core/cluster/sessions.ts";
import type { JellyfinClient } from "../core/jellyfin/client.ts";
import { parsedJson } from "../core/service/json.ts";
import { repeat, untilAborted } from "../core/service/loop.ts";
import { type Store, StoreUnavailable } from "../core/store/store.ts";

export interface MirrorOptions {
  readonly replica: string;
  readonly client: Pick<JellyfinClient, "callWithKey">;
  readonly store: Store;
  readonly memory: Memory;
  readonly isHealthy: () => boolean;
  readonly monotonicMs: () => number;
  readonly log: { warn(message: string): void };
  /** How often the server is asked for its sessions, in ms. */
  readonly lookIntervalMs: number;
  /** Between two looks while nobody has used any session for `activeMs`, in ms. */
  readonly quietIntervalMs: number;
  readonly activeMs: number;
  /** A session that only went on playing is written at most this often, in ms. */
  readonly positionIntervalMs: number;
  /** A note that is not written again ends after this, in ms. */
  readonly noteTtlMs: number;
  /** Sessions mirrored, the last active first. */
  readonly sessionsLimit: number;
  /** Told of everything the server said of its sessions at each look. */
  readonly onLook?: (seen: readonly SeenSession[]) => void;
}

export const mirrorLimits = {
  lookIntervalMs: 1000,
  quietIntervalMs: 4000,
  activeMs: 12_000,
  positionIntervalMs: 5000,
  noteTtlMs: 10 * 60_000,
  sessionsLimit: 1000,
} as const;

interface Written {
  readonly lasting: string;
  readonly value: string;
  readonly atMs: number;
}

export class Mirror {
  readonly #options: MirrorOptions;
  readonly #written = new Map<string, Written>();
  #hasLooked = false;
  #wasAway = true;
  /** When the server said it last saw anybody, and when we last heard that say something new. */
  #newestMs = 0;
  #usedAtMs = Number.NEGATIVE_INFINITY;
  #isQuiet = false;
  #isFull = false;

  constructor(options: MirrorOptions) {
    this.#options = options;
  }

  async run(signal: AbortSignal): Promise<void> {
    const { memory, lookIntervalMs, quietIntervalMs } = this.#options;
    // Whoever logs in has a session from then on.
    const unfollow = memory.onIdentity(() => {
      this.#isQuiet = false;
    });
    await untilAborted(memory.loaded, signal);
    let restMs = 0;
    await repeat(lookIntervalMs, signal, async () => {
      restMs -= lookIntervalMs;
      if (this.#isQuiet && restMs > 0) return;
      await this.look();
      restMs = quietIntervalMs;
    });
    unfollow();
  }

  /** The server may have been restarted: what it no longer has was lost, not ended. */
  noteLost(): void {
    this.#wasAway = true;
  }

  /** Asks the server once and writes what changed. */
  async look(): Promise<void> {
    const { client, replica, isHealthy, memory, sessionsLimit, activeMs, monotonicMs } =
      this.#options;
    if (!isHealthy() || !memory.storeAvailable) {
      if (!isHealthy()) this.#wasAway = true;
      return;
    }
    const answer = await client.callWithKey("GET", "/Sessions");
    if (answer.outcome !== "answered" || answer.status !== 200) return;
    const list = parsedJson(answer.text);
    // A server that answers something else is asked again soon.
    if (!Array.isArray(list)) return;
    const seen = list
      .map((dto) => readSession(dto, replica))
      .filter((session) => session !== undefined)
      .sort((one, other) => other.lastActivityMs - one.lastActivityMs)
      .slice(0, sessionsLimit);
    this.#options.onLook?.(seen);
    const newestMs = seen[0]?.lastActivityMs ?? 0;
    if (newestMs !== this.#newestMs) this.#usedAtMs = monotonicMs();
    this.#newestMs = newestMs;
    this.#isQuiet = monotonicMs() - this.#usedAtMs > activeMs;
    try {
      for (const session of seen) await this.#write(session);
      await this.#dropOthers(new Set(seen.map(({ id }) => sessionNoteId(replica, id))));
      this.#hasLooked = true;
      this.#wasAway = false;
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      memory.noteStoreFailure(error);
    }
  }

  async #write(session: SeenSession): Promise<void> {
    const { replica, monotonicMs, positionIntervalMs, noteTtlMs } = this.#options;
    const id = sessionNoteId(replica, session.id);
    const known = this.#written.get(id);
    const nowMs = monotonicMs();
    const lasting = lastingPart(session.dto);
    const isInStore = this.#options.memory.notes("session").has(id);
    const ageMs = known === undefined ? Number.POSITIVE_INFINITY : nowMs - known.atMs;
    const value = sessionNoteValue(session.dto, false);
    if (value === undefined) return;
    const isNews = known?.lasting !== lasting || !isInStore;
    const hasMoved = known?.value !== value && ageMs >= positionIntervalMs;
    if (!isNews && !hasMoved && ageMs < noteTtlMs / 2) return;
    await this.#put(id, value, noteTtlMs);
    this.#written.set(id, { lasting, value, atMs: nowMs });
  }

  /** What the server no longer has: ended while it ran, or lost when it ended itself. */
  async #dropOthers(kept: ReadonlySet<string>): Promise<void> {
    const { memory, replica } = this.#options;
    // Also of those whose notes have ended meanwhile, as all do while the store is away for long.
    for (const id of this.#written.keys()) if (!kept.has(id)) this.#written.delete(id);
    for (const note of [...memory.notes("session").values()]) {
      if (note.replica !== replica || kept.has(note.id)) continue;
      const session = readSessionNote(note);
      if (session?.isLost === true) continue;
      const value = session === undefined ? undefined : sessionNoteValue(session.dto, true);
      if ((this.#wasAway || !this.#hasLooked) && value !== undefined) {
        await this.#put(note.id, value, lostKeepMs);
        continue;
      }
      await dropNote(this.#options, note);
    }
  }

  async #put(id: string, value: string, ttlMs: number): Promise<void> {
    const { replica, log } = this.#options;
    try {
      await putNote(this.#options, { kind: "session", id, replica, value }, ttlMs);
      this.#isFull = false;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      if (!this.#isFull) log.warn(`a session of ${replica} cannot be mirrored: ${error.message}`);
      this.#isFull = true;
    }
  }
}
