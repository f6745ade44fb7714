// What the journal's entries of kind `userData` say: which part of what a server knows of one user and one
// item a request means to change, and what it explicitly says about it. The door writes it as an intent's
// facts, the sidecar of the server that answered makes effects of it, those of the others apply them.
//
// It promises that whatever lies in the store is read as facts that make sense, or not at all.

import { isCount, isRecord } from "../service/json.ts";
import { isPlainId } from "./identity.ts";

/** The parts of a user's data on an item that Jellyfin's `UserData` can read and write. */
export const userDataFields = [
  "position",
  "playCount",
  "played",
  "lastPlayedDate",
  "favourite",
  "likes",
  "rating",
] as const;
export type UserDataField = (typeof userDataFields)[number];

export interface UserDataValues {
  /** In ticks of 100 ns, from the beginning. */
  readonly position: number;
  readonly playCount: number;
  readonly played: boolean;
  /** As Jellyfin writes a date; null: cleared, which `UserData` cannot do. */
  readonly lastPlayedDate: string | null;
  readonly favourite: boolean;
  /** Null: cleared, which `UserData` cannot do. Jellyfin keeps it as a rating of 10 or 1. */
  readonly likes: boolean | null;
  /** From 0 to 10; null: cleared. */
  readonly rating: number | null;
}

/** The kind of request that caused it; they differ in what the server makes of what they say. */
export const userDataCauses = [
  "start",
  "progress",
  "stop",
  "played",
  "unplayed",
  "favourite",
  "rating",
  "userData",
] as const;
export type UserDataCause = (typeof userDataCauses)[number];

/** The facts of an intent of kind `userData`. */
export interface UserDataFacts {
  /**
   * What may be different afterwards; never empty. `played` of a start, a progress or a stop may only have become
   * true: none of them makes an item unplayed.
   */
  readonly fields: readonly UserDataField[];
  /**
   * What the request says itself. A field without a value is known only to the server that carried it out. The
   * position is the reported one: of progress and stop a server keeps that, or 0 where it is near the item's
   * beginning or its end (and then `played`), as its own settings have it (UserDataManager.UpdatePlayState).
   */
  readonly values: Partial<UserDataValues>;
  readonly cause: UserDataCause;
  readonly playSessionId?: string;
  /**
   * The version that is played, in Jellyfin's plain form, where it is not the item itself: a 12.0 server keeps what
   * was watched with that version (SessionManager.GetProgressItem), a 10.11 server with the item.
   */
  readonly versionId?: string;
}

/** What every payload of a `userData` effect says, whatever else its handler puts in. */
export interface UserDataEffect {
  /** `seen`: the server told of it, and nobody had asked for it at a door. */
  readonly cause: UserDataCause | "seen";
  readonly values: Partial<UserDataValues>;
}

/** A longer text is no play session's name. */
const sessionNameLengthMax = 200;
const dateLengthMax = 40;

/** Facts as they lie in an intent; undefined when they are none. Never throws. */
export function readUserDataFacts(facts: unknown): UserDataFacts | undefined {
  if (!isRecord(facts)) return undefined;
  const { fields, cause, playSessionId, versionId } = facts;
  const values = readUserDataValues(facts.values);
  if (!Array.isArray(fields) || fields.length === 0 || !fields.every(isField)) return undefined;
  if (values === undefined || !isCause(cause)) return undefined;
  if (playSessionId !== undefined && !isText(playSessionId, sessionNameLengthMax)) return undefined;
  if (versionId !== undefined && !isPlainId(versionId)) return undefined;
  return {
    fields: userDataFields.filter((field) => fields.includes(field)),
    values,
    cause,
    ...(playSessionId !== undefined && { playSessionId }),
    ...(versionId !== undefined && { versionId }),
  };
}

/** The common part of an effect's payload; undefined when it is none. Never throws. */
export function readUserDataEffect(payload: unknown): UserDataEffect | undefined {
  if (!isRecord(payload)) return undefined;
  const { cause } = payload;
  const values = readUserDataValues(payload.values);
  if (values === undefined || (cause !== "seen" && !isCause(cause))) return undefined;
  return { cause, values };
}

/** Some values, each sound; undefined when one is not. Names that are no field are left out. Never throws. */
export function readUserDataValues(values: unknown): Partial<UserDataValues> | undefined {
  if (!isRecord(values)) return undefined;
  const read: Record<string, unknown> = {};
  for (const field of userDataFields) {
    const value = values[field];
    if (value === undefined) continue;
    if (!isSound[field](value)) return undefined;
    read[field] = value;
  }
  return read;
}

const isSound: Readonly<Record<UserDataField, (value: unknown) => boolean>> = {
  position: isCount,
  playCount: isCount,
  played: isFlag,
  lastPlayedDate: (value) =>
    value === null || (isText(value, dateLengthMax) && !Number.isNaN(Date.parse(value))),
  favourite: isFlag,
  likes: (value) => value === null || isFlag(value),
  rating: (value) => value === null || (typeof value === "number" && Number.isFinite(value)),
};

function isField(value: unknown): value is UserDataField {
  return userDataFields.some((field) => field === value);
}

function isCause(value: unknown): value is UserDataCause {
  return userDataCauses.some((cause) => cause === value);
}

function isFlag(value: unknown): boolean {
  return typeof value === "boolean";
}

function isText(value: unknown, lengthMax: number): value is string {
  return typeof value === "string" && value !== "" && value.length <= lengthMax;
}
