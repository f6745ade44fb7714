// A query as Jellyfin binds it. Everybody who reads a request's query, the door first, must find in it what the server
// will; so the one form that the server reads in its own way is written anew before anybody looks. Pure; never throws.

import { decodeQueryText } from "./paths.ts";

/**
 * The query as Jellyfin binds it, for whoever reads it and whoever it is sent to. Some clients encode a whole query
 * (`?deviceId%3Dx%26tag%3Dy`): where its one pair has no value, and its name contains an `=` once decoded, Jellyfin takes
 * the decoded text for the pairs, which are not decoded again and whose names count by their letter case; it has looked for
 * the token before (UrlDecodeQueryFeature, behind UseAuthentication). Here such a query is written anew in the usual form,
 * so that nobody after this reads it in another way than the server, and without names that are credentials, which
 * nobody would have read there. Any other query is given back as it is.
 */
export function plainQuery(rawQuery: string): string {
  if (rawQuery.indexOf("%3") < 0 || !/%3d/i.test(rawQuery)) return rawQuery;
  const [only = "", ...others] = rawQuery.split("&").filter((pair) => pair !== "");
  const equals = only.indexOf("=");
  if (others.length > 0 || (equals >= 0 && equals < only.length - 1)) return rawQuery;
  const text = decodeQueryText(equals < 0 ? only : only.slice(0, equals));
  if (!text.includes("=")) return rawQuery;
  return text
    .split("&")
    .flatMap((pair) => {
      const end = pair.indexOf("=");
      const name = end < 0 ? pair : pair.slice(0, end);
      if (isCredentialName(name)) return [];
      return [end < 0 ? encoded(name) : `${encoded(name)}=${encoded(pair.slice(end + 1))}`];
    })
    .join("&");
}

function encoded(text: string): string {
  return encodeURIComponent(text.toWellFormed());
}

const credentialNames: ReadonlySet<string> = new Set([
  "apikey",
  "api_key",
  "token",
  "accesstoken",
  "access_token",
  "authorization",
  "x-emby-token",
  "x-emby-authorization",
  "x-mediabrowser-token",
]);

/** Whether a parameter of this name lets somebody in. */
export function isCredentialName(name: string): boolean {
  return credentialNames.has(name.trim().toLowerCase());
}
