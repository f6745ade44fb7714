// Pushes that a single server would not have sent. Jellyfin tells a user's clients `UserDataChanged` for every change
// of their data but the position that a player reports; and when a sidecar brings its server to such a position, by
// `POST UserData`, that is a change like any other. So the door follows the journal, remembers the positions that
// came that way, and leaves out of a push what tells of nothing else.
//
// It promises that a push which tells of anything besides is carried, that what cannot be read is carried as it is,
// that memory is bounded, and that a process with one replica does not follow at all.

import { normalId } from "../core/cluster/identity.ts";
import { readEntry } from "../core/cluster/journal.ts";
import { readUserDataEffect, readUserDataFacts } from "../core/cluster/user-data.ts";
import type { Clock } from "../core/service/clock.ts";
import { isRecord, parsedObject } from "../core/service/json.ts";
import { sleep } from "../core/service/loop.ts";
import type { Counter } from "../core/service/metrics.ts";
import type { Seal } from "../core/service/seal.ts";
import type { JournalCursor, JournalEntry, JournalStore } from "../core/store/journal.ts";
import { StoreUnavailable } from "../core/store/store.ts";
import { Bounded } from "./bounded.ts";

export interface PushesLimits {
  /** For how long a position is remembered after it was read in the journal. */
  readonly keepMs: number;
  /** How many users' items are remembered. */
  readonly itemsKept: number;
  /** A longer message is carried without a look. */
  readonly messageLimitCharacters: number;
  readonly storeRetryMs: number;
}

export const pushesLimits: PushesLimits = {
  keepMs: 60_000,
  itemsKept: 20_000,
  messageLimitCharacters: 256 * 1024,
  storeRetryMs: 500,
};

export interface PushesParts {
  readonly store: Pick<JournalStore, "journalEnds" | "followJournal">;
  readonly seal: Pick<Seal, "verifyMac">;
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly metrics: { readonly pushesDropped: Counter };
  /** Resolves when there is more than one replica, or `signal` aborts. */
  readonly whenSeveral: (signal: AbortSignal) => Promise<void>;
  readonly noteStoreFailure: (error: unknown) => void;
  readonly limits: PushesLimits;
}

/** A reported position of one user and item. */
interface Position {
  readonly ticks: number;
  readonly isPlayed: boolean;
  /** Where it came from: that server told nobody. */
  readonly replica: string;
  readonly atMs: number;
}

/** What was told last of one user's item by one server, but for its position. */
interface Told {
  readonly rest: string;
  readonly sinceMs: number;
  readonly wasCarried: boolean;
}

interface PushedEntry {
  readonly key: string;
  readonly rest: string;
  readonly isNews: boolean;
  readonly isPosition: boolean;
}

/** A server may bring several positions in one push; more than these are not compared. */
const positionsKept = 4;
/** The same push comes once for each of a user's sockets; the next one not before 500 ms (UserDataChangeNotifier). */
const samePushMs = 300;

export class Pushes {
  readonly #parts: PushesParts;
  /** By user and item. */
  readonly #positions: Bounded<string, readonly Position[]>;
  /** When something else than a position was last asked for, by user and item. */
  readonly #changed: Bounded<string, number>;
  /** By replica, user and item. */
  readonly #told: Bounded<string, Told>;
  #isFollowing = false;

  constructor(parts: PushesParts) {
    this.#parts = parts;
    const { itemsKept } = parts.limits;
    this.#positions = new Bounded(itemsKept);
    this.#changed = new Bounded(itemsKept);
    this.#told = new Bounded(itemsKept);
  }

  /** Follows the journal from its end on, until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    await this.#parts.whenSeveral(signal);
    this.#isFollowing = true;
    let cursor: JournalCursor | undefined;
    while (!signal.aborted) {
      try {
        cursor ??= await this.#end();
        const ended = await this.#parts.store.followJournal(
          cursor,
          (entries, reached) => {
            for (const entry of entries) this.#read(entry);
            cursor = reached;
          },
          signal,
        );
        // What was missed costs a push more: it is only gone on with.
        if (ended === "lost") cursor = undefined;
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error;
        this.#parts.noteStoreFailure(error);
        await sleep(this.#parts.limits.storeRetryMs, signal);
      }
    }
  }

  /** A server's message `UserDataChanged` as its client is to have it; undefined: not at all. */
  shown(replica: string, text: string): string | undefined {
    const { limits, clock, metrics } = this.#parts;
    if (!this.#isFollowing || text.length > limits.messageLimitCharacters) return text;
    const message = parsedObject(text);
    const data = message?.Data;
    if (!isRecord(data) || typeof data.UserId !== "string") return text;
    if (!Array.isArray(data.UserDataList)) return text;
    const userId = normalId(data.UserId);
    const nowMs = clock.monotonicMs();
    const entries = data.UserDataList.map((entry: unknown) =>
      this.#entryOf(entry, replica, userId, nowMs),
    );
    const positions = entries.filter((entry) => entry?.isPosition === true).length;
    // With each item comes its parent, of which a position changes nothing. More than that is something else.
    const isRestNews = positions === 0 || entries.length > 2 * positions;
    const kept = data.UserDataList.filter((_entry: unknown, index) => {
      const entry = entries[index];
      const isKept = entry === undefined || (!entry.isPosition && (isRestNews || entry.isNews));
      if (entry !== undefined) this.#note(entry, isKept, nowMs);
      return isKept;
    });
    if (kept.length === entries.length) return text;
    metrics.pushesDropped.add();
    if (kept.length === 0) return undefined;
    return JSON.stringify({ ...message, Data: { ...data, UserDataList: kept } });
  }

  #entryOf(
    entry: unknown,
    replica: string,
    userId: string,
    nowMs: number,
  ): PushedEntry | undefined {
    if (!isRecord(entry) || typeof entry.ItemId !== "string") return undefined;
    const item = `${userId}/${normalId(entry.ItemId)}`;
    const key = `${replica}/${item}`;
    const rest = restOf(entry);
    const isNews = this.#isNews(key, item, rest, nowMs);
    const isPosition = !isNews && this.#isKnownPosition(entry, item, replica, nowMs);
    return { key, rest, isNews, isPosition };
  }

  /** Whether an entry says anything but its position that this server's clients have not been told. */
  #isNews(key: string, item: string, rest: string, nowMs: number): boolean {
    const told = this.#told.get(key);
    if (told?.rest === rest) return nowMs - told.sinceMs < samePushMs && told.wasCarried;
    const changedMs = this.#changed.get(item);
    // What was never told here is only news when somebody asked for it.
    const isChanged = changedMs !== undefined && nowMs - changedMs < this.#parts.limits.keepMs;
    return told !== undefined || isChanged;
  }

  #isKnownPosition(
    { PlaybackPositionTicks, Played, PlayCount }: Readonly<Record<string, unknown>>,
    item: string,
    replica: string,
    nowMs: number,
  ): boolean {
    const { keepMs } = this.#parts.limits;
    return (this.#positions.get(item) ?? []).some(
      (known) =>
        known.replica !== replica &&
        nowMs - known.atMs < keepMs &&
        known.ticks === PlaybackPositionTicks &&
        // A position of 0 is also what a mark leaves behind; a play that was begun has been counted.
        (known.ticks > 0 || (Number(PlayCount) > 0 && known.isPlayed === (Played === true))),
    );
  }

  #note({ key, rest }: PushedEntry, wasCarried: boolean, nowMs: number): void {
    if (this.#told.get(key)?.rest === rest) return;
    this.#told.set(key, { rest, sinceMs: nowMs, wasCarried });
  }

  async #end(): Promise<JournalCursor> {
    const { generation, last } = await this.#parts.store.journalEnds();
    return { generation, number: last };
  }

  #read(entry: JournalEntry): void {
    const read = readEntry(entry, this.#parts.seal);
    if (read.outcome !== "read") return;
    const placed = read.placed.entry;
    if (placed.type === "outcome" || placed.kind !== "userData") return;
    const { userId, itemId } = placed;
    const key = `${userId}/${itemId}`;
    const nowMs = this.#parts.clock.monotonicMs();
    if (placed.type === "intent") {
      if (readUserDataFacts(placed.facts)?.cause !== "progress") this.#changed.set(key, nowMs);
      return;
    }
    const effect = readUserDataEffect(placed.payload);
    if (effect === undefined) return;
    const { position, played } = effect.values;
    // What a sidecar saw at its server may be a position alone, too: a report that came by no door.
    const isReport =
      effect.cause === "progress" ||
      (effect.cause === "seen" && Object.keys(effect.values).join() === "position");
    if (!isReport) this.#changed.set(key, nowMs);
    else if (position !== undefined) {
      const known = this.#positions.get(key) ?? [];
      const news = {
        ticks: position,
        isPlayed: played === true,
        replica: placed.replica,
        atMs: nowMs,
      };
      this.#positions.set(key, [...known.slice(1 - positionsKept), news]);
    }
  }
}

/** What an entry of UserItemDataDto says but for how far its item was watched. */
function restOf(entry: Readonly<Record<string, unknown>>): string {
  const { Played, PlayCount, IsFavorite, Likes, Rating, LastPlayedDate, UnplayedItemCount } = entry;
  return JSON.stringify([
    Played,
    PlayCount,
    IsFavorite,
    Likes,
    Rating,
    LastPlayedDate,
    UnplayedItemCount,
  ]);
}
