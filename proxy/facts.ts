// Facts: what is asked and by whom, read from the request's head alone. Pure, and cheap: what repeats from
// request to request (the Authorization header above all) is parsed once and found again by its text.

import {
  type CredentialHeaders,
  type Credentials,
  readCredentials,
} from "../core/jellyfin/credentials.ts";
import {
  emptyPlaybackQuery,
  type PlaybackQuery,
  readPlaybackQuery,
} from "../core/jellyfin/playback.ts";
import { matchRoute, type Route, type RouteParams } from "../core/jellyfin/routes.ts";
import { type ClientOrigin, cookieReplica, credentialHeadersOf } from "./headers.ts";

export interface RequestFacts {
  readonly method: string;
  /** As it came. Holds secrets: never logged as it is. */
  readonly target: string;
  readonly path: string;
  readonly rawQuery: string;
  readonly route: Route;
  readonly params: RouteParams;
  readonly query: PlaybackQuery;
  readonly credentialHeaders: CredentialHeaders;
  readonly credentials: Credentials;
  readonly origin: ClientOrigin;
  /** A browser's request: only they are given our cookie. */
  readonly isBrowser: boolean;
  readonly cookie: string | undefined;
  /** The item the path names, in Jellyfin's plain form; undefined when it names none. */
  readonly itemId: string | undefined;
}

export type RawHeaders = Readonly<Record<string, string | string[] | undefined>>;

/** Reads a request. `target` must be in origin form (checked by `targetProblem`). */
export function readFacts(
  method: string,
  target: string,
  headers: RawHeaders,
  origin: ClientOrigin,
  baseSegments: readonly string[],
): RequestFacts {
  const question = target.indexOf("?");
  const path = question < 0 ? target : target.slice(0, question);
  const rawQuery = question < 0 ? "" : target.slice(question + 1);
  const { route, params } = matchRoute(method, path, baseSegments);
  const credentialHeaders = credentialHeadersOf(headers);
  const { cookie } = headers;
  return {
    method,
    target,
    path,
    rawQuery,
    route,
    params,
    query: rawQuery === "" ? emptyPlaybackQuery : readPlaybackQuery(rawQuery),
    credentialHeaders,
    credentials: credentialsOf(credentialHeaders, rawQuery),
    origin,
    isBrowser: headers["sec-fetch-mode"] !== undefined,
    cookie: cookieReplica(Array.isArray(cookie) ? cookie[0] : cookie),
    itemId: params.itemId === undefined ? undefined : plainId(params.itemId),
  };
}

/** Why a request target is refused, or null. What two programs could read differently goes no further. */
export function targetProblem(target: string): string | null {
  if (!target.startsWith("/")) return "the request target is not a path";
  // A fragment never belongs on the wire (RFC 9112, 3.2), and servers differ in what they make of it.
  if (target.includes("#")) return "the request target has a fragment";
  for (let index = 0; index < target.length; index++) {
    const code = target.charCodeAt(index);
    if (code <= 32 || code === 127) return "the request target has a control character or a blank";
  }
  return null;
}

const noCredentials = readCredentials({}, "", { legacy: true });
const credentialsRemembered = 5000;
const credentialsByHeader = new Map<string, Credentials>();

function credentialsOf(headers: CredentialHeaders, rawQuery: string): Credentials {
  const { authorization } = headers;
  const isPlain =
    rawQuery === "" &&
    headers["x-emby-authorization"] === undefined &&
    headers["x-emby-token"] === undefined &&
    headers["x-mediabrowser-token"] === undefined;
  if (!isPlain) return readCredentials(headers, rawQuery, { legacy: true });
  if (authorization === undefined) return noCredentials;
  const known = credentialsByHeader.get(authorization);
  if (known !== undefined) return known;
  const credentials = readCredentials(headers, "", { legacy: true });
  // Kept by their text: a client sends the same header with every request. Emptied when full.
  if (credentialsByHeader.size >= credentialsRemembered) credentialsByHeader.clear();
  credentialsByHeader.set(authorization, credentials);
  return credentials;
}

function plainId(id: string): string {
  return id.length === 32 ? id.toLowerCase() : id.replaceAll("-", "").toLowerCase();
}
