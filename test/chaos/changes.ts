/**
 * What people change in a history of chaos: how much they watched, marks, ratings, favourites; now and then their
 * display preferences, their settings, a playlist of theirs. Each change is of one register, and says what it then holds.
 */
import type { ChaosWorld, Device } from "./world.ts";

export interface Change {
  /** What of this person it changes: a film's id, or the name of a document. */
  readonly key: string;
  readonly field: string;
  /** Undefined for what is added to a list, where each adding counts. */
  readonly value: unknown;
  readonly method: string;
  readonly path: string;
  readonly body?: unknown;
}

/** Where display preferences of the history are kept: a page and an app of their own. */
export const preferencesPath = "/DisplayPreferences/chaos?client=chaos";

/** What each field is called in a server's answer. */
const fields: Readonly<Record<string, string>> = {
  position: "PlaybackPositionTicks",
  favourite: "IsFavorite",
  likes: "Likes",
  played: "Played",
  sorting: "SortBy",
  language: "SubtitleLanguagePreference",
};

/** Between a tenth and four fifths of ten minutes, where a server keeps the position it is told. */
const firstTicks = 700_000_000;

/** Of a hundred changes. */
const often = { language: 1, sorting: 2, playlist: 3, played: 14 };

/**
 * The next change of a device. Marks are made on films of their own, because a mark and a position are written by the
 * same request there, and a register must have one kind of writer to be judged.
 *
 * @param turn a number that no other change has.
 * @param random between 0 and 1.
 */
export function changeOf(
  { films, playlists }: Pick<ChaosWorld, "films" | "playlists">,
  { userId }: Pick<Device, "userId">,
  turn: number,
  random: () => number,
): Change {
  const half = Math.floor(films.length / 2);
  const [watched = "", marked = ""] = [0, half].map(
    (from) => films[from + Math.floor(random() * half)],
  );
  const on = random() < 0.5;
  const method = on ? "POST" : "DELETE";
  let chance = random() * 100;
  const falls = (percent: number): boolean => {
    chance -= percent;
    return chance < 0;
  };
  if (falls(often.language)) {
    const language = `l${turn}`;
    const path = `/Users/Configuration?userId=${userId}`;
    const body = { SubtitleLanguagePreference: language };
    return { key: "configuration", field: "language", value: language, method: "POST", path, body };
  }
  if (falls(often.sorting)) {
    const sorting = `s${turn}`;
    const path = `${preferencesPath}&userId=${userId}`;
    const body = { SortBy: sorting, CustomPrefs: {} };
    return {
      ...{ key: "display-preferences", field: "sorting", value: sorting },
      ...{ method: "POST", path, body },
    };
  }
  if (falls(often.playlist)) {
    const path = `/Playlists/${playlists.get(userId)}/Items?ids=${watched}`;
    return { key: "playlist", field: watched, value: undefined, method: "POST", path };
  }
  if (falls(often.played)) {
    const path = `/UserPlayedItems/${marked}`;
    return { key: marked, field: "played", value: on, method, path };
  }
  const key = watched;
  if (falls(28)) {
    return { key, field: "favourite", value: on, method, path: `/UserFavoriteItems/${key}` };
  }
  if (falls(10)) {
    const path = `/UserItems/${key}/Rating${on ? "?likes=true" : ""}`;
    return { key, field: "likes", value: on ? true : null, method, path };
  }
  const ticks = firstTicks + turn * 1000;
  const position = { key, field: "position", value: ticks, method: "POST" };
  if (falls(14)) {
    const body = { PlaybackPositionTicks: ticks };
    return { ...position, path: `/UserItems/${key}/UserData`, body };
  }
  const path = `/Sessions/Playing/${on ? "Progress" : "Stopped"}`;
  return { ...position, path, body: { ItemId: key, PositionTicks: ticks } };
}

/** What the state of a person's film or document says of a field; of a playlist, how often a film is in it. */
export function saysOf(stateText: string, field: string): unknown {
  const state = JSON.parse(stateText) as unknown;
  if (Array.isArray(state)) return state.filter((entry) => entry === field).length;
  const name = fields[field];
  return name === undefined ? undefined : (state as Record<string, unknown>)[name];
}
