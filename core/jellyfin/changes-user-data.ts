// Changes of what a server knows about one user and one item: watched, position, favourite, rating. For every route
// that changes them, the old spellings included: which fields it may change and what it says about them itself
// (PlaystateController, UserLibraryController and ItemsController of Jellyfin, and the managers they call). Pure.
//
// It promises that a request which changes none of it makes no intent, that a value is only given where the server
// will take it as it stands, and that nothing of a request is kept but what these routes are known to read.

import type {
  UserDataCause,
  UserDataFacts,
  UserDataField,
  UserDataValues,
} from "../cluster/user-data.ts";
import {
  bodyLeftOut,
  type ChangeAsked,
  type ChangeDraft,
  type ChangeReader,
  fieldsOf,
  jsonBody,
  keptQuery,
  plainGuid,
  type RequestBody,
  requestOf,
  userMeant,
} from "./change-request.ts";
import { queryValue } from "./playback.ts";
import type { Route } from "./routes.ts";

/** The reader of this route's requests; undefined: it changes no user's data. */
export function userDataChange(route: Route): ChangeReader | undefined {
  if (!route.changes) return undefined;
  switch (route.kind) {
    case "playStart":
    case "playProgress":
    case "playStopped":
      return readReport;
    case "played":
      return readPlayed;
    case "favourite":
      return readFavourite;
    case "rating":
      return readRating;
    case "userData":
      return readUserData;
    default:
      return undefined;
  }
}

interface Change {
  readonly cause: UserDataCause;
  readonly fields: readonly UserDataField[];
  readonly values: Partial<UserDataValues>;
}

// ---- Reports of playback ----------------------------------------------------------------------------------

/** The names of a report that are kept, as PlaybackProgressInfo and the old forms' queries spell them. */
const reportNames = [
  "ItemId",
  "MediaSourceId",
  "PlaySessionId",
  "PositionTicks",
  "AudioStreamIndex",
  "SubtitleStreamIndex",
  "IsPaused",
  "PlayMethod",
  "Failed",
] as const;
const reportTextLengthMax = 200;

/** What a report says: in its body, or in the query of the old forms. Undefined: it cannot be read. */
type Report = (name: (typeof reportNames)[number]) => unknown;

function readReport(asked: ChangeAsked): ChangeDraft | undefined {
  const { route, params, caller } = asked;
  const report = reportOf(asked);
  // An API key has no user whose data a report could change.
  if (report === undefined || caller?.kind !== "user" || caller.userId === "") return undefined;
  const itemId = plainGuid(params.itemId ?? report("ItemId"));
  const change = changeOfReport(route, report);
  if (itemId === undefined || change === undefined) return undefined;
  const playSessionId = report("PlaySessionId");
  const versionId = plainGuid(report("MediaSourceId"));
  const facts: UserDataFacts = {
    ...change,
    ...(isShortText(playSessionId) && { playSessionId }),
    ...(versionId !== undefined && versionId !== itemId && { versionId }),
  };
  return {
    kind: "userData",
    // A user in the path of an old form is not looked at (OnPlaybackStartLegacy and its kin).
    userId: caller.userId,
    itemId,
    request: requestOfReport(asked, report),
    facts,
  };
}

function changeOfReport({ kind }: Route, report: Report): Change | undefined {
  const said = report("PositionTicks");
  const position = countOf(said);
  // The server refuses a position below zero, and cannot read one that is no number.
  if (isSaid(said) && (numberOf(said) ?? -1) < 0) return undefined;
  const values = position === undefined ? {} : { position };
  switch (kind) {
    case "playStart":
      // SessionManager.OnPlaybackStart: what cannot be resumed (music, a picture) is played by being started.
      return { cause: "start", fields: ["playCount", "played", "lastPlayedDate"], values: {} };
    case "playProgress":
      // Without a position only the chosen tracks are kept, which no other server can be told.
      return isSaid(said)
        ? { cause: "progress", fields: ["position", "played"], values }
        : undefined;
    default:
      // OnPlaybackStopped: a play that failed changes nothing; one that says no position was watched to its end.
      if (isTrue(report("Failed"))) return undefined;
      return isSaid(said)
        ? { cause: "stop", fields: ["position", "played"], values }
        : { cause: "stop", fields: ["position", "playCount", "played"], values: { position: 0 } };
  }
}

function reportOf({ route, rawQuery, bodyText }: ChangeAsked): Report | undefined {
  if (!route.pattern.startsWith("/Sessions/")) {
    // An old stop has no way to say that it failed.
    return (name) => (name === "Failed" ? undefined : queryValue(rawQuery, name));
  }
  const fields = bodyText === undefined ? undefined : fieldsOf(bodyText);
  return fields === undefined ? undefined : (name) => fields.get(name.toLowerCase());
}

function requestOfReport(asked: ChangeAsked, report: Report) {
  if (!asked.route.pattern.startsWith("/Sessions/")) {
    return requestOf(asked, keptQuery(asked.rawQuery, reportNames.map(camelCase)));
  }
  const kept: Record<string, unknown> = {};
  for (const name of reportNames) {
    const value = report(name);
    if (isShortText(value) || typeof value === "number" || typeof value === "boolean") {
      kept[name] = value;
    }
  }
  return requestOf(asked, "", jsonBody(kept));
}

// ---- Marks ------------------------------------------------------------------------------------------------

function readPlayed(asked: ChangeAsked): ChangeDraft | undefined {
  if (asked.method === "DELETE") {
    return mark(asked, [], {
      cause: "unplayed",
      fields: ["position", "playCount", "played", "lastPlayedDate"],
      values: { position: 0, playCount: 0, played: false, lastPlayedDate: null },
    });
  }
  // BaseItem.MarkPlayed: without a date the one that is there stays, and the count is at least one.
  const lastPlayedDate = dateOf(queryValue(asked.rawQuery, "datePlayed"));
  return mark(asked, ["datePlayed"], {
    cause: "played",
    fields: ["position", "playCount", "played", "lastPlayedDate"],
    values: { position: 0, played: true, ...(lastPlayedDate !== undefined && { lastPlayedDate }) },
  });
}

function readFavourite(asked: ChangeAsked): ChangeDraft | undefined {
  const favourite = asked.method !== "DELETE";
  return mark(asked, [], { cause: "favourite", fields: ["favourite"], values: { favourite } });
}

function readRating(asked: ChangeAsked): ChangeDraft | undefined {
  const said = asked.method === "DELETE" ? undefined : queryValue(asked.rawQuery, "likes");
  const likes = isSaid(said) ? flagOf(said) : null;
  return mark(asked, ["likes"], {
    cause: "rating",
    fields: ["likes", "rating"],
    values: likes === undefined ? {} : { likes, rating: ratingOfLikes(likes) },
  });
}

/** UpdateUserItemDataDto: what is absent or null is left alone. */
function readUserData(asked: ChangeAsked): ChangeDraft | undefined {
  const { bodyText } = asked;
  const cause = "userData";
  if (bodyText === undefined) {
    // Too long to be kept, and yet it may be one: what it did is read at the server.
    const fields: readonly UserDataField[] = ["position", "playCount", "played", "lastPlayedDate"];
    const all: readonly UserDataField[] = [...fields, "favourite", "likes", "rating"];
    return mark(asked, [], { cause, fields: all, values: {} }, bodyLeftOut);
  }
  const said = fieldsOf(bodyText);
  if (said === undefined) return undefined;
  const fields: UserDataField[] = [];
  const values: { -readonly [Field in UserDataField]?: UserDataValues[Field] } = {};
  const body: Record<string, unknown> = {};
  for (const [name, field, read] of userDataNames) {
    const value = said.get(name.toLowerCase());
    if (!isSaid(value)) continue;
    fields.push(field);
    const sound = read(value);
    if (sound !== undefined) Object.assign(values, { [field]: sound });
    // What only the server can read it may be told again.
    if (sound !== undefined || isDateLike(value)) body[name] = sound ?? value;
  }
  // They are one in Jellyfin (UserItemData.Likes), and a rating is taken last.
  if (fields.includes("rating")) {
    if (!fields.includes("likes")) fields.push("likes");
    delete values.likes;
    if (typeof values.rating === "number") values.likes = values.rating >= likedFrom;
  } else if (fields.includes("likes")) {
    fields.push("rating");
    if (values.likes !== undefined) values.rating = ratingOfLikes(values.likes);
  }
  if (fields.length === 0) return undefined;
  return mark(asked, [], { cause, fields, values }, jsonBody(body));
}

const userDataNames: readonly (readonly [string, UserDataField, (value: unknown) => unknown])[] = [
  ["PlaybackPositionTicks", "position", countOf],
  ["PlayCount", "playCount", countOf],
  ["Played", "played", flagOf],
  ["LastPlayedDate", "lastPlayedDate", dateOf],
  ["IsFavorite", "favourite", flagOf],
  ["Likes", "likes", flagOf],
  ["Rating", "rating", numberOf],
];

/** UserItemData.MinLikeValue. */
const likedFrom = 6.5;

function ratingOfLikes(likes: boolean | null): number | null {
  if (likes === null) return null;
  return likes ? 10 : 1;
}

function mark(
  asked: ChangeAsked,
  queryNames: readonly string[],
  change: Change,
  body?: RequestBody,
): ChangeDraft | undefined {
  const itemId = plainGuid(asked.params.itemId);
  const userId = userMeant(asked);
  if (itemId === undefined || userId === "") return undefined;
  const query = keptQuery(asked.rawQuery, ["userId", ...queryNames]);
  const facts: UserDataFacts = change;
  return { kind: "userData", userId, itemId, request: requestOf(asked, query, body), facts };
}

// ---- Values -----------------------------------------------------------------------------------------------

function isSaid(value: unknown): boolean {
  return value !== undefined && value !== null && value !== "";
}

function isShortText(value: unknown): value is string {
  return typeof value === "string" && value !== "" && value.length <= reportTextLengthMax;
}

/** A whole number of zero or more, also as text (JsonNumberHandling.AllowReadingFromString). */
function countOf(value: unknown): number | undefined {
  const count = numberOf(value);
  return count !== undefined && Number.isSafeInteger(count) && count >= 0 ? count : undefined;
}

function numberOf(value: unknown): number | undefined {
  if (typeof value === "number") return value;
  return typeof value === "string" && /^\s*-?\d{1,18}(?:\.\d{1,18})?\s*$/.test(value)
    ? Number(value)
    : undefined;
}

function flagOf(value: unknown): boolean | undefined {
  if (typeof value === "boolean") return value;
  if (typeof value !== "string") return undefined;
  const text = value.trim().toLowerCase();
  return text === "true" ? true : text === "false" ? false : undefined;
}

function isTrue(value: unknown): boolean {
  return flagOf(value) === true;
}

/** In universal time, in the two spellings whose meaning is beyond doubt; else the server's own reading counts. */
function dateOf(value: unknown): string | undefined {
  if (typeof value !== "string") return undefined;
  // LegacyDateTimeModelBinder: yyyyMMddHHmmss.
  const old = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)$/.exec(value);
  const text =
    old === null ? value : `${old[1]}-${old[2]}-${old[3]}T${old[4]}:${old[5]}:${old[6]}Z`;
  const isPlain = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,7})?Z$/.test(text);
  return isPlain && !Number.isNaN(Date.parse(text)) ? text : undefined;
}

function isDateLike(value: unknown): boolean {
  return typeof value === "string" && /^[-+\d:.TZ ]{1,40}$/.test(value);
}

function camelCase(name: string): string {
  return name.charAt(0).toLowerCase() + name.slice(1);
}
