// What a device can do, as it last told a server, so that another server can be told. Pure: what of such a
// request is written down, and what of a note is believed.
//
// A server forgets nothing of this while it runs (DeviceManager), but each has heard only the devices that
// lived there. Nothing but the fields that Jellyfin reads is kept (ClientCapabilitiesDto, and the query of
// SessionController.PostCapabilities): no credentials, whatever else the request held. Who can write to the
// store can write a note, so a note is read with the same eyes as a request.

import { queryValue } from "../jellyfin/playback.ts";
import { isRecord, parsedObject } from "../service/json.ts";
import { noteLimitCharacters } from "../store/store.ts";

/** A request that tells a server what the device can do. `path` is without the base path. */
export interface CapabilitiesRequest {
  readonly path: string;
  readonly body: Readonly<Record<string, unknown>> | undefined;
}

const shortPath = "/Sessions/Capabilities";
const fullPath = "/Sessions/Capabilities/Full";
const lists = ["PlayableMediaTypes", "SupportedCommands"] as const;
const switches = ["SupportsMediaControl", "SupportsPersistentIdentifier"] as const;
const links = ["AppStoreUrl", "IconUrl"] as const;
const listLimit = 200;
const wordLengthMax = 64;
const linkLengthMax = 2000;

/**
 * The value of a note for a request that a server has taken; undefined when there is nothing to keep: it was
 * about another session than the device's own, or is not what Jellyfin takes, or is too long for a note.
 * `replica` is who has heard it.
 */
export function capabilitiesNoteValue(
  pattern: string,
  rawQuery: string,
  bodyText: string | undefined,
  replica: string,
): string | undefined {
  const query = caseless(Object.fromEntries(new URLSearchParams(rawQuery)));
  if (sessionAsked(rawQuery) !== undefined) return undefined;
  if (pattern === shortPath) return written({ replica, query: keptFields(query) });
  const body = parsedObject(bodyText ?? "");
  return body !== undefined ? written({ replica, body: keptFields(caseless(body)) }) : undefined;
}

/** The session that such a request is about, where that is not the caller's own (SessionController). */
export function sessionAsked(rawQuery: string): string | undefined {
  const id = queryValue(rawQuery, "id")?.trim().toLowerCase();
  return id === "" ? undefined : id;
}

/** The same request as the device itself would have made it. */
export function withoutSession(rawQuery: string): string {
  const kept = [...new URLSearchParams(rawQuery)].filter(([name]) => name.toLowerCase() !== "id");
  return new URLSearchParams(kept).toString();
}

/** What a note says, and who had heard it; undefined for one that is none of ours in shape. */
export function readCapabilities(
  value: string,
): { readonly replica: string; readonly request: CapabilitiesRequest } | undefined {
  const note = parsedObject(value);
  if (note === undefined || typeof note.replica !== "string") return undefined;
  const { replica } = note;
  if (isRecord(note.body)) {
    return { replica, request: { path: fullPath, body: keptFields(caseless(note.body)) } };
  }
  if (!isRecord(note.query)) return undefined;
  const query = new URLSearchParams();
  for (const [name, said] of Object.entries(keptFields(caseless(note.query)))) {
    query.set(name, String(said));
  }
  return { replica, request: { path: `${shortPath}?${query}`, body: undefined } };
}

/** The same note when another replica has heard it, too, and is where the device is now. */
export function heardBy(value: string, replica: string): string | undefined {
  const note = parsedObject(value);
  return note !== undefined ? written({ ...note, replica }) : undefined;
}

function keptFields(said: (name: string) => unknown): Record<string, unknown> {
  const kept: Record<string, unknown> = {};
  for (const name of lists) {
    const words = wordsOf(said(name));
    if (words !== undefined) kept[name] = words;
  }
  for (const name of switches) {
    const value = said(name);
    if (typeof value === "boolean") kept[name] = value;
    else if (typeof value === "string" && /^(true|false)$/i.test(value)) {
      kept[name] = value.toLowerCase() === "true";
    }
  }
  for (const name of links) {
    const link = said(name);
    // A query could hold a token.
    if (typeof link === "string" && link.length <= linkLengthMax && !/[?#@]/.test(link)) {
      kept[name] = link;
    }
  }
  const profile = said("DeviceProfile");
  if (isRecord(profile)) kept.DeviceProfile = profile;
  return kept;
}

/** A list of names, or the same with commas, as Jellyfin takes both. */
function wordsOf(value: unknown): string[] | undefined {
  const words = typeof value === "string" ? value.split(",") : value;
  if (!Array.isArray(words)) return undefined;
  return words
    .filter((word): word is string => typeof word === "string")
    .map((word) => word.trim())
    .filter((word) => word.length <= wordLengthMax && /^\w+$/.test(word))
    .slice(0, listLimit);
}

function written(note: Readonly<Record<string, unknown>>): string | undefined {
  const value = JSON.stringify(note);
  return value.length <= noteLimitCharacters ? value : undefined;
}

/** Names in any letter case, as Jellyfin reads them. */
function caseless(fields: Readonly<Record<string, unknown>>): (name: string) => unknown {
  const values = new Map(
    Object.entries(fields).map(([name, value]) => [name.toLowerCase(), value]),
  );
  return (name) => values.get(name.toLowerCase());
}
