// Facts: what is asked and by whom, read from the request's head alone. Pure, and cheap: what repeats from
// request to request (the Authorization header above all) is parsed once and found again by its text.

import {
  type CredentialHeaders,
  type Credentials,
  readCredentials,
} from "../core/jellyfin/credentials.ts";
import { plainQuery } from "../core/jellyfin/plain-query.ts";
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
  /** What is sent to a server, too: `plainQuery` of the target's. */
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

/** What a request's headers alone tell, whatever it asks for. */
export interface HeaderFacts {
  readonly credentialHeaders: CredentialHeaders;
  /** What they say when the query holds no credentials; undefined when the query must be read with them. */
  readonly credentials: Credentials | undefined;
  readonly isBrowser: boolean;
  readonly cookie: string | undefined;
}

export type RawHeaders = Readonly<Record<string, string | string[] | undefined>>;

/** Reads what headers alone tell. */
export function readHeaderFacts(headers: RawHeaders): HeaderFacts {
  const credentialHeaders = credentialHeadersOf(headers);
  const { cookie } = headers;
  return {
    credentialHeaders,
    credentials: headerCredentials(credentialHeaders),
    isBrowser: headers["sec-fetch-mode"] !== undefined,
    cookie: cookieReplica(Array.isArray(cookie) ? cookie[0] : cookie),
  };
}

/** Reads a request. `target` must be in origin form (checked by `targetProblem`). */
export function readFacts(
  method: string,
  target: string,
  headerFacts: HeaderFacts,
  origin: ClientOrigin,
  baseSegments: readonly string[],
): RequestFacts {
  const question = target.indexOf("?");
  const path = question < 0 ? target : target.slice(0, question);
  const rawQuery = question < 0 ? "" : plainQuery(target.slice(question + 1));
  const { route, params } = matchRoute(method, path, baseSegments);
  const { credentialHeaders, isBrowser, cookie } = headerFacts;
  return {
    method,
    target,
    path,
    rawQuery,
    route,
    params,
    query: rawQuery === "" ? emptyPlaybackQuery : readPlaybackQuery(rawQuery),
    credentialHeaders,
    credentials: credentialsOf(headerFacts, rawQuery),
    origin,
    isBrowser,
    cookie,
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

/** A request that is answered by the door alone, because no two programs would read it alike. */
export interface HeadProblem {
  readonly status: 400 | 405 | 431;
  /** Fit for the client: nothing of the request is repeated in it. */
  readonly why: string;
}

/** Honest requests have about twenty. Many tiny ones cost more than their bytes tell. */
const headersCountLimit = 500;

/**
 * Why a request's head is refused though Node's parser let it through, or null. A second `Host` and a coding
 * other than `chunked` could be read differently by the server behind (RFC 9112, 3.2 and 6.1); TRACE would
 * show a client what the door adds (RFC 9110, 9.3.8).
 */
export function headProblem(request: {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly httpVersion: string;
  readonly rawHeaders: readonly string[];
  readonly headers: RawHeaders;
}): HeadProblem | null {
  const { method, rawHeaders, headers, httpVersion } = request;
  const target = targetProblem(request.url ?? "/");
  if (target !== null) return { status: 400, why: target };
  if (method === "TRACE" || method === "CONNECT") {
    return { status: 405, why: "this method is not for this server" };
  }
  // Node reads «HTTP/2.0» on a first line as if it were 1.1.
  if (httpVersion !== "1.1" && httpVersion !== "1.0") {
    return { status: 400, why: "this is not HTTP/1.1" };
  }
  if (rawHeaders.length > 2 * headersCountLimit) {
    return { status: 431, why: `there are more than ${headersCountLimit} headers` };
  }
  let hosts = 0;
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index];
    if (name?.length === 4 && name.toLowerCase() === "host") hosts++;
  }
  if (hosts > 1) return { status: 400, why: "there is more than one Host" };
  if (hosts === 0 && httpVersion !== "1.0") return { status: 400, why: "there is no Host" };
  const { host } = headers;
  if (typeof host === "string" && !isHost(host)) {
    return { status: 400, why: "Host is not a host" };
  }
  const coding = headers["transfer-encoding"];
  if (coding === undefined) return null;
  if (typeof coding !== "string" || coding.toLowerCase() !== "chunked") {
    return { status: 400, why: "Transfer-Encoding is not chunked" };
  }
  return httpVersion === "1.0" ? { status: 400, why: "HTTP/1.0 has no Transfer-Encoding" } : null;
}

/** True for a name or address with or without a port (RFC 9110, 7.2), or nothing. */
export function isHost(text: string): boolean {
  return hostForm.test(text);
}

const hostForm = /^(?:[\w.~!$&'()*+;=%-]*|\[[0-9a-fA-F:.]+\])(?::\d{0,5})?$/;

const noCredentials = readCredentials({}, "", { legacy: true });
const credentialsRemembered = 5000;
const credentialsRememberedLength = 1000;
const credentialsByHeader = new Map<string, Credentials>();

function credentialsOf(facts: HeaderFacts, rawQuery: string): Credentials {
  // An encoded name could hide a token in the query.
  if (facts.credentials !== undefined && (rawQuery === "" || !/api_?key|%|\+/i.test(rawQuery))) {
    return facts.credentials;
  }
  return readCredentials(facts.credentialHeaders, rawQuery, { legacy: true });
}

function headerCredentials(headers: CredentialHeaders): Credentials | undefined {
  const { authorization } = headers;
  const isPlain =
    headers["x-emby-authorization"] === undefined &&
    headers["x-emby-token"] === undefined &&
    headers["x-mediabrowser-token"] === undefined;
  if (!isPlain) return undefined;
  if (authorization === undefined) return noCredentials;
  const known = credentialsByHeader.get(authorization);
  if (known !== undefined) return known;
  const credentials = readCredentials(headers, "", { legacy: true });
  // Honest ones are short; a stranger's long ones do not fill our memory.
  if (authorization.length > credentialsRememberedLength) return credentials;
  // Kept by their text: a client sends the same header with every request. Emptied when full.
  if (credentialsByHeader.size >= credentialsRemembered) credentialsByHeader.clear();
  credentialsByHeader.set(authorization, credentials);
  return credentials;
}

function plainId(id: string): string {
  return id.length === 32 ? id.toLowerCase() : id.replaceAll("-", "").toLowerCase();
}
