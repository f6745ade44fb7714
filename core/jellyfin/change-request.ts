// What a change is made from and what becomes of it: the client's request as the door has read it, and the draft of
// the journal's intent. The files that know one family of changes (changes-user-data.ts, changes-documents.ts,
// changes-library.ts) share these shapes and the making of a request that can be made again. Pure.
//
// It promises that a request made here is in Jellyfin's own spelling, and that a client's credentials are no part
// of it: path and body are put together anew, and of the query only what is asked for is kept.

import type { ItemFile } from "../cluster/item-files.ts";
import type { IntentKind, IntentRequest } from "../cluster/journal.ts";
import { decodeQueryText } from "./paths.ts";
import { isCredentialName } from "./plain-query.ts";
import { queryValue } from "./playback.ts";
import type { Route, RouteParams } from "./routes.ts";

/** A request that may change something. */
export interface ChangeAsked {
  readonly route: Route;
  readonly params: RouteParams;
  readonly method: string;
  readonly rawQuery: string;
  readonly contentType: string;
  /** Undefined: there is none, or it was too long to be kept. */
  readonly body: Buffer | undefined;
  /** Empty: there is none. Undefined: it was too long to be kept. */
  readonly bodyText: string | undefined;
  /** Who asks; undefined: nobody who is logged in. An API key has no user. */
  readonly caller: { readonly kind: "user" | "apiKey"; readonly userId: string } | undefined;
  /** The file that the request deletes by its index, as it was when it was asked for; undefined: that is not known. */
  readonly deletedFile?: ItemFile | undefined;
}

/** An intent before it is one: all that its request tells. */
export interface ChangeDraft {
  readonly kind: IntentKind;
  /** Whose state it changes; empty where it is nobody's own. */
  readonly userId: string;
  /** Empty where there is none. */
  readonly itemId: string;
  readonly request: IntentRequest;
  readonly facts: unknown;
  /** The body holds a secret: it goes into the journal sealed. */
  readonly isSecret?: boolean;
  /**
   * What must reach the other servers and must not lie in the journal, not even sealed: it is put into the store's
   * secrets (core/store/secrets.ts) under the intent's id, sealed with `secretContext`, before the intent is written.
   */
  readonly secret?: string;
  /** What an answer's body (of a status below 300) tells that the other servers need: the outcome's facts. Never throws. */
  readonly told?: (answer: string) => unknown;
}

/** Reads the requests of one route; undefined: this one changes nothing that others have to know. Never throws. */
export type ChangeReader = (asked: ChangeAsked) => ChangeDraft | undefined;

export type RequestBody = Pick<IntentRequest, "contentType" | "body" | "isBase64" | "bodyTooBig">;

const noBody: RequestBody = { contentType: "", body: "" };

/**
 * A body whose text has more characters than this is left out of the journal, whose entries hold 512 Ki with all quotes
 * written twice (core/store/journal.ts). Pictures come in base64: 180 KiB of one fit.
 */
export const textLengthMax = 240 * 1024;

/** For a body that is longer than the journal takes: only the server that answered knows what it said. */
export const bodyLeftOut: RequestBody = { ...noBody, bodyTooBig: true };

/** A request to the same route with the same parameters. `query` and `body` come from the makers below. */
export function requestOf(
  { route, params, method }: ChangeAsked,
  query: string,
  body: RequestBody = noBody,
): IntentRequest {
  return { method, path: pathOf(route.pattern, params), query, ...body };
}

/** A JSON body, made of fields whose values are sound. */
export function jsonBody(fields: Readonly<Record<string, unknown>>): RequestBody {
  return { contentType: "application/json", body: JSON.stringify(fields) };
}

/** Of a query, the parameters with these names and no others, written as they are here; without `?`. */
export function keptQuery(rawQuery: string, names: readonly string[]): string {
  const kept: string[] = [];
  for (const name of names) {
    const value = queryValue(rawQuery, name);
    if (value !== undefined) kept.push(`${name}=${encodeURIComponent(value.toWellFormed())}`);
  }
  return kept.join("&");
}

/** A query without anything that lets somebody in, for routes whose parameters are not all known; without `?`. */
export function cleanedQuery(rawQuery: string): string {
  if (rawQuery === "") return "";
  return rawQuery
    .split("&")
    .filter((pair) => {
      const equals = pair.indexOf("=");
      // Looked at twice decoded: who reads it next may decode once more than the server would.
      const name = decodeQueryText(decodeQueryText(equals < 0 ? pair : pair.slice(0, equals)));
      return pair !== "" && !/[=&]/.test(name) && !isCredentialName(name);
    })
    .join("&");
}

/** The path of a route with its parameters put in. */
function pathOf(pattern: string, params: RouteParams): string {
  const values = new Map<string, string>(Object.entries(params));
  return pattern.replace(/\{(\*?)(\w+)\}/g, (_whole, star: string, name: string) => {
    const value = (values.get(name) ?? "").toWellFormed();
    return star === ""
      ? encodeURIComponent(value)
      : value.split("/").map(encodeURIComponent).join("/");
  });
}

/** The fields of a JSON body by their names in lower case, as ASP.NET reads them; undefined: it is no object. */
export function fieldsOf(bodyText: string): ReadonlyMap<string, unknown> | undefined {
  try {
    const parsed: unknown = JSON.parse(bodyText);
    if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) return undefined;
    return new Map(Object.entries(parsed).map(([name, value]) => [name.toLowerCase(), value]));
  } catch {
    // The server will say what is wrong with it; it names nothing here.
    return undefined;
  }
}

/**
 * A Guid in Jellyfin's plain form, 32 lower-case hex digits, from any of the forms that .NET reads but the
 * hexadecimal structure; undefined when it is none, or the empty one.
 */
export function plainGuid(value: unknown): string | undefined {
  if (typeof value !== "string" || value.length > 100) return undefined;
  const bare = /^\s*[{(]?([0-9a-f-]{32,36})[)}]?\s*$/i.exec(value)?.[1];
  const id = bare?.replaceAll("-", "").toLowerCase();
  return id === undefined || id.length !== 32 || /^0+$/.test(id) ? undefined : id;
}

/**
 * Whose data a route with a user in its path or query changes (RequestHelpers.GetUserId); empty: nobody's. Of a route that
 * has the user in its path the server does not look at the query.
 */
export function userMeant({
  params,
  rawQuery,
  caller,
}: Pick<ChangeAsked, "params" | "rawQuery" | "caller">): string {
  if (params.userId !== undefined) return plainGuid(params.userId) ?? "";
  return (
    plainGuid(queryValue(rawQuery, "userId")) ?? (caller?.kind === "user" ? caller.userId : "")
  );
}

/**
 * Whether the user whom a request names, if it names one, is read here as .NET reads it. The server looks whether its caller
 * may change that user, and the journal changes the one that is read here: who could be two people is neither's.
 * In a query an empty Guid is the caller (RequestHelpers.GetUserId); in a path there is no use for it.
 */
export function isUserPlain({
  params,
  rawQuery,
}: Pick<ChangeAsked, "params" | "rawQuery">): boolean {
  if (params.userId !== undefined) return plainGuid(params.userId) !== undefined;
  const named = queryValue(rawQuery, "userId") ?? "";
  return named.trim() === "" || plainGuid(named) !== undefined || isEmptyGuid(named);
}

function isEmptyGuid(text: string): boolean {
  return /^[{(]?(?:0{32}|0{8}(?:-0{4}){3}-0{12})[)}]?$/.test(text);
}
