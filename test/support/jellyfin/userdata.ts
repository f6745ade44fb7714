/**
 * What users have watched, and who is told about it. The rules for positions are UserDataManager.UpdatePlayState; the
 * message UserDataChanged is gathered for half a second and is not sent for progress reports (UserDataChangeNotifier).
 */
import type { Database, UserDataRow } from "./database.ts";
import { dashed, jellyfinDate } from "./ids.ts";
import type { Item, Library } from "./library.ts";
import type { Sessions } from "./sessions.ts";

const GATHER_MS = 500;
const TICKS_PER_SECOND = 10_000_000;
/** Likes are ratings: from here on one is liked (UserItemData.MinLikeValue), and 10 or 1 is what a like makes. */
const LIKED_FROM = 6.5;

export type ResumeRules = { minPercent: number; maxPercent: number; minSeconds: number };

export class UserDataKeeper {
  readonly #database: Database;
  readonly #library: Library;
  readonly #sessions: Sessions;
  readonly #rules: () => ResumeRules;
  readonly #changed = new Map<string, Set<string>>();
  #timer: NodeJS.Timeout | undefined;

  constructor(database: Database, library: Library, sessions: Sessions, rules: () => ResumeRules) {
    this.#database = database;
    this.#library = library;
    this.#sessions = sessions;
    this.#rules = rules;
  }

  row(userId: string, itemId: string): UserDataRow {
    const empty = { position: 0, playCount: 0, favorite: false, played: false };
    return this.#database.userData.get(`${userId}/${itemId}`) ?? empty;
  }

  /** Writes a row; every reason but a progress report is told to the user's sockets. */
  save(userId: string, item: Item, row: UserDataRow, isProgress = false): void {
    this.#database.userData.set(`${userId}/${item.id}`, row);
    if (isProgress) return;
    const items = this.#changed.get(userId) ?? new Set();
    items.add(item.id);
    if (item.parentId !== "") items.add(item.parentId);
    this.#changed.set(userId, items);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#tell(), GATHER_MS);
  }

  #tell(): void {
    for (const [userId, ids] of this.#changed) {
      const items = [...ids].flatMap((id) => this.#library.get(id) ?? []);
      const list = items.map((item) => this.dto(userId, item));
      this.#sessions.sendToUser(userId, "UserDataChanged", { UserId: userId, UserDataList: list });
    }
    this.#changed.clear();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  /** The row after a position was reported: too early is no position, near the end is played. */
  moved(item: Item, row: UserDataRow, ticks: number): UserDataRow {
    const rules = this.#rules();
    const total = item.runTimeTicks;
    if (total <= 0) return { ...row, position: 0, played: true };
    const percent = (ticks / total) * 100;
    if (ticks <= 0 || percent < rules.minPercent) return { ...row, position: 0 };
    const atEnd = percent > rules.maxPercent || ticks >= total - TICKS_PER_SECOND;
    const tooShort = total / TICKS_PER_SECOND < rules.minSeconds;
    return atEnd || tooShort ? { ...row, position: 0, played: true } : { ...row, position: ticks };
  }

  /**
   * Played or unplayed; on a folder it spreads over the leaves below and leaves the folder's own row alone, on a film
   * over all of its versions.
   */
  mark(userId: string, item: Item, played: boolean, datePlayed: string | undefined): void {
    if (item.isFolder) {
      for (const leaf of this.#library.leaves(item.id)) this.mark(userId, leaf, played, datePlayed);
      return;
    }
    for (const version of this.#library.versions(item)) {
      this.#markOne(userId, version, played, datePlayed);
    }
  }

  #markOne(userId: string, item: Item, played: boolean, datePlayed: string | undefined): void {
    const row = this.row(userId, item.id);
    if (!played) {
      this.save(userId, item, {
        ...row,
        played: false,
        playCount: 0,
        position: 0,
        lastPlayed: undefined,
      });
      return;
    }
    this.save(userId, item, {
      ...row,
      played: true,
      position: 0,
      playCount: Math.max(1, row.playCount + (datePlayed === undefined ? 0 : 1)),
      lastPlayed: datePlayed ?? row.lastPlayed ?? jellyfinDate(Date.now()),
    });
  }

  /** POST /UserItems/{id}/UserData: fields that are absent or null are left alone. */
  copy(userId: string, item: Item, body: Record<string, unknown>): void {
    const row = { ...this.row(userId, item.id) };
    if (typeof body.PlaybackPositionTicks === "number") row.position = body.PlaybackPositionTicks;
    if (typeof body.PlayCount === "number") row.playCount = body.PlayCount;
    if (typeof body.IsFavorite === "boolean") row.favorite = body.IsFavorite;
    if (typeof body.Likes === "boolean")
      Object.assign(row, { likes: body.Likes, rating: undefined });
    if (typeof body.Rating === "number") {
      Object.assign(row, { likes: body.Rating >= LIKED_FROM, rating: body.Rating });
    }
    if (typeof body.Played === "boolean") row.played = body.Played;
    if (typeof body.LastPlayedDate === "string") {
      const text = body.LastPlayedDate;
      row.lastPlayed = /\.\d{7}Z$/.test(text) ? text : jellyfinDate(Date.parse(text));
    }
    this.save(userId, item, row);
  }

  dto(userId: string, item: Item): Record<string, unknown> {
    const row = this.row(userId, item.id);
    const leaves = item.isFolder ? this.#library.leaves(item.id) : [];
    const played = leaves.filter((leaf) => this.row(userId, leaf.id).played).length;
    const foldered = item.kind === "Series" || item.kind === "Season" || item.kind === "BoxSet";
    const percent = item.isFolder
      ? leaves.length > 0 && played > 0
        ? (played / leaves.length) * 100
        : undefined
      : row.position > 0
        ? (row.position / item.runTimeTicks) * 100
        : undefined;
    return {
      PlayedPercentage: percent,
      UnplayedItemCount: foldered ? leaves.length - played : undefined,
      PlaybackPositionTicks: row.position,
      PlayCount: row.playCount,
      IsFavorite: row.favorite,
      Rating: ratingOf(row),
      Likes: row.likes,
      LastPlayedDate: row.lastPlayed,
      Played: foldered ? leaves.length > 0 && played === leaves.length : row.played,
      Key: dashed(item.id),
      ItemId: item.id,
    };
  }
}

function ratingOf({ likes, rating }: UserDataRow): number | undefined {
  if (likes === undefined) return undefined;
  return rating !== undefined && rating >= LIKED_FROM === likes ? rating : likes ? 10 : 1;
}
