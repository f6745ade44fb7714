// Who a request says it is: its token and its device, read from headers and query in Jellyfin's own
// order and syntax, and written back with another token. The door must see exactly the token the server
// behind it would see, or it would answer for one person and the server for another; so this follows
// Jellyfin.Server.Implementations/Security/AuthorizationContext.cs (12.0) to the letter, oddities
// included. It promises never to throw whatever the text, to leave every byte that is not a token as it
// was, and that what it redacts for a log shows no token, secret, password or code.

import { decodeQueryText } from "./paths.ts";

/** The headers that can carry a token, as Node gives them: names in lower case, bytes as Latin-1. */
export interface CredentialHeaders {
  readonly authorization?: string | undefined;
  readonly "x-emby-authorization"?: string | undefined;
  readonly "x-emby-token"?: string | undefined;
  readonly "x-mediabrowser-token"?: string | undefined;
}

/** Where the token was found. The first with a token wins, in this order. */
export type CredentialSource =
  | "authorization"
  | "embyScheme"
  | "xEmbyAuthorization"
  | "xEmbyToken"
  | "xMediaBrowserToken"
  | "queryApiKey"
  | "query_api_key"
  | "none";

export interface DeviceFields {
  readonly client?: string | undefined;
  readonly device?: string | undefined;
  readonly deviceId?: string | undefined;
  readonly version?: string | undefined;
}

export interface Credentials {
  /** Undefined when there is none or it is overlong; never empty. */
  readonly token: string | undefined;
  readonly source: CredentialSource;
  /** A server whose EnableLegacyAuthorization is off would not see this token, or this device. */
  readonly legacyForm: boolean;
  /** A token was there, longer than `tokenLengthMax` characters: no server can know it. */
  readonly overlong: boolean;
  /** Device fields come from a header only, never from the query. */
  readonly deviceId: string | undefined;
  readonly device: string | undefined;
  readonly client: string | undefined;
  readonly version: string | undefined;
}

/** What to send instead. A header that is undefined is to be left out. */
export interface SwappedRequest {
  readonly headers: CredentialHeaders;
  readonly rawQuery: string;
}

/** Jellyfin's own tokens have 32 characters; a longer one than this is not carried any further. */
export const tokenLengthMax = 512;

/**
 * Reads who a request says it is. `rawQuery` is what follows the `?`, as it came.
 *
 * With `legacy` every form is understood that a server with EnableLegacyAuthorization understands; without
 * it only `Authorization: MediaBrowser` and `ApiKey`. The order is: `Authorization`, or when that is absent
 * or empty `X-Emby-Authorization`; `X-Emby-Token`; `X-MediaBrowser-Token`; query `ApiKey`; query `api_key`.
 * An `Authorization` of another scheme hides `X-Emby-Authorization`, too. A query name given twice is read
 * as its values joined by a comma, as the server does, which is then a token that nobody knows.
 */
export function readCredentials(
  headers: CredentialHeaders,
  rawQuery: string,
  options: { readonly legacy: boolean },
): Credentials {
  const { legacy } = options;
  const inAuthorization = isPresent(headers.authorization);
  const header =
    inAuthorization || !legacy ? headers.authorization : headers["x-emby-authorization"];
  const scheme = schemeOf(header);
  const understood = scheme === "mediabrowser" || (legacy && scheme === "emby");
  const fields = understood && header !== undefined ? readFields(header) : noFields;
  const legacyHeader = understood && (!inAuthorization || scheme === "emby");
  let token = fields.token;
  let source: CredentialSource = inAuthorization
    ? scheme === "emby"
      ? "embyScheme"
      : "authorization"
    : "xEmbyAuthorization";
  if (legacy && !isPresent(token)) {
    token = headers["x-emby-token"];
    source = "xEmbyToken";
  }
  if (legacy && !isPresent(token)) {
    token = headers["x-mediabrowser-token"];
    source = "xMediaBrowserToken";
  }
  if (!isPresent(token) && rawQuery !== "") {
    const { apikey, api_key } = tokensInQuery(rawQuery);
    token = apikey;
    source = "queryApiKey";
    if (legacy && !isPresent(token)) {
      token = api_key;
      source = "query_api_key";
    }
  }
  if (!isPresent(token)) source = "none";
  const overlong = token !== undefined && token.length > tokenLengthMax;
  return {
    token: isPresent(token) && !overlong ? token : undefined,
    source,
    legacyForm: legacyHeader || isLegacySource(source),
    overlong,
    deviceId: fields.deviceId,
    device: fields.device,
    client: fields.client,
    version: fields.version,
  };
}

/**
 * The same request with another token. Every place that carries a token carries `newToken` afterwards, so
 * that every server reads the same identity whatever forms it understands; all else stays byte for byte.
 * With `translate` nothing legacy remains: its token moves to `Authorization: MediaBrowser`, which keeps
 * the device fields, or to the query's `ApiKey` where `Authorization` is taken by another scheme.
 * A request without any token is returned as it is (with `translate`, its legacy device header is moved).
 */
export function swapToken(
  headers: CredentialHeaders,
  rawQuery: string,
  newToken: string,
  options: { readonly translate: boolean },
): SwappedRequest {
  const swapped: SwappedRequest = {
    headers: {
      authorization: swapHeader(headers.authorization, newToken),
      "x-emby-authorization": swapHeader(headers["x-emby-authorization"], newToken),
      "x-emby-token": isPresent(headers["x-emby-token"]) ? newToken : headers["x-emby-token"],
      "x-mediabrowser-token": isPresent(headers["x-mediabrowser-token"])
        ? newToken
        : headers["x-mediabrowser-token"],
    },
    rawQuery: replaceTokenInQuery(rawQuery, newToken),
  };
  return options.translate ? translateLegacy(swapped.headers, swapped.rawQuery) : swapped;
}

/**
 * The same request, same token, in the forms that every server understands: `Authorization: MediaBrowser`
 * and the query's `ApiKey`. Client, Device, DeviceId and Version are kept.
 */
export function translateLegacy(headers: CredentialHeaders, rawQuery: string): SwappedRequest {
  const { token, source, legacyForm } = readCredentials(headers, rawQuery, { legacy: true });
  const plainQuery = renameLegacyInQuery(rawQuery);
  if (!legacyForm) {
    return { headers: { authorization: headers.authorization }, rawQuery: plainQuery };
  }
  const inAuthorization = isPresent(headers.authorization);
  const carrier = inAuthorization ? headers.authorization : headers["x-emby-authorization"];
  const isOurs = carrier !== undefined && isUnderstood(schemeOf(carrier));
  const base = isOurs ? withScheme(carrier, "MediaBrowser") : undefined;
  if (source !== "xEmbyToken" && source !== "xMediaBrowserToken") {
    return { headers: { authorization: base ?? headers.authorization }, rawQuery: plainQuery };
  }
  if (token === undefined) return { headers: { authorization: base }, rawQuery: plainQuery };
  if (inAuthorization && !isOurs) {
    return {
      headers: { authorization: headers.authorization },
      rawQuery: addToQuery(removeTokenFromQuery(plainQuery), token),
    };
  }
  return { headers: { authorization: withToken(base, token) }, rawQuery: plainQuery };
}

/** The request without any token in any form; device fields are kept. */
export function removeToken(headers: CredentialHeaders, rawQuery: string): SwappedRequest {
  return {
    headers: {
      authorization: removeFromHeader(headers.authorization),
      "x-emby-authorization": removeFromHeader(headers["x-emby-authorization"]),
    },
    rawQuery: removeTokenFromQuery(rawQuery),
  };
}

/**
 * An authorization value with another token in place of its own; everything else byte for byte. Quoted
 * stays quoted, unquoted unquoted, the scheme stays. A value without a token is returned as it is.
 */
export function replaceTokenInAuthorization(headerValue: string, newToken: string): string {
  if (!isUnderstood(schemeOf(headerValue))) return headerValue;
  const encoded = encodeValue(newToken);
  let result = "";
  let copied = 0;
  for (const part of partsOf(headerValue)) {
    if (part.key !== "Token") continue;
    const [from, to] = withoutQuotes(headerValue, part);
    if (from === to) continue;
    if (headerValue.slice(from, to).includes('"')) {
      // A quote inside belongs to the value for Jellyfin; one clean pair keeps what follows as it was read.
      result += `${headerValue.slice(copied, part.from)}"${encoded}"`;
      copied = part.to;
    } else {
      result += headerValue.slice(copied, from) + encoded;
      copied = to;
    }
  }
  return copied === 0 ? headerValue : result + headerValue.slice(copied);
}

/** An authorization value without its token; everything else as it was read. */
export function removeTokenFromAuthorization(headerValue: string): string {
  if (!isUnderstood(schemeOf(headerValue))) return headerValue;
  const parts = partsOf(headerValue);
  if (!parts.some((part) => part.key === "Token")) return headerValue;
  const scheme = headerValue.slice(0, headerValue.indexOf(" "));
  const kept = parts
    .filter((part) => part.key !== "Token")
    .map((part) => `${part.key}=${headerValue.slice(part.from, part.to)}`);
  return kept.length === 0 ? scheme : `${scheme} ${kept.join(", ")}`;
}

/**
 * The query with another token in place of its own; everything else byte for byte. A second `ApiKey` is
 * dropped, because the server would join the two. With `as: "ApiKey"`, `api_key` becomes `ApiKey`.
 */
export function replaceTokenInQuery(
  rawQuery: string,
  newToken: string,
  options: { readonly as?: "ApiKey" } = {},
): string {
  if (rawQuery === "") return rawQuery;
  const tokens = tokensInQuery(rawQuery);
  if (tokens === noTokens) return rawQuery;
  const encoded = encodeValue(newToken);
  // A name whose values are all empty carries no token, and stays.
  const waiting = { apikey: isPresent(tokens.apikey), api_key: isPresent(tokens.api_key) };
  const carries = { ...waiting };
  const replaced = mapTokenPairs(rawQuery, (rawName, name) => {
    if (!carries[name]) return unchanged;
    if (!waiting[name]) return undefined;
    waiting[name] = false;
    return `${rawName}=${encoded}`;
  });
  return options.as === "ApiKey" ? renameLegacyInQuery(replaced) : replaced;
}

/** The query without `ApiKey` and `api_key`. */
export function removeTokenFromQuery(rawQuery: string): string {
  return mapTokenPairs(rawQuery, () => undefined);
}

/**
 * `MediaBrowser Client="…", Device="…", DeviceId="…", Version="…", Token="…"`, values percent-encoded,
 * undefined ones left out. Reading it back gives the same fields.
 */
export function buildAuthorization(fields: DeviceFields, token?: string): string {
  const parts: string[] = [];
  if (fields.client !== undefined) parts.push(`Client="${encodeValue(fields.client)}"`);
  if (fields.device !== undefined) parts.push(`Device="${encodeValue(fields.device)}"`);
  if (fields.deviceId !== undefined) parts.push(`DeviceId="${encodeValue(fields.deviceId)}"`);
  if (fields.version !== undefined) parts.push(`Version="${encodeValue(fields.version)}"`);
  if (token !== undefined) parts.push(`Token="${encodeValue(token)}"`);
  return `MediaBrowser ${parts.join(", ")}`;
}

/**
 * A request target fit for a log: values of names that mean a token, a secret, a password, a PIN or a
 * QuickConnect code become `***`, and so does the key in `/Auth/Keys/{key}`.
 */
export function redactQuery(rawUrl: string): string {
  const start = rawUrl.search(/[?#]/);
  const path = redactPath(start < 0 ? rawUrl : rawUrl.slice(0, start));
  if (start < 0) return path;
  return path + rawUrl.slice(start).replace(/[^?&#;]+/g, redactPair);
}

/** A header's value fit for a log. `name` in any letter case. */
export function redactHeader(name: string, value: string): string {
  switch (name.toLowerCase()) {
    case "authorization":
    case "x-emby-authorization":
    case "proxy-authorization":
      return redactAuthorization(value);
    case "x-emby-token":
    case "x-mediabrowser-token":
    case "cookie":
    case "set-cookie":
    case "sec-websocket-protocol":
      return hidden;
    case "referer":
    case "location":
    case "content-location":
      return redactQuery(value);
    default:
      return value;
  }
}

const hidden = "***";

function isPresent(text: string | undefined): text is string {
  return text !== undefined && text !== "";
}

function isLegacySource(source: CredentialSource): boolean {
  return source !== "authorization" && source !== "queryApiKey" && source !== "none";
}

/** The scheme in lower case: what stands before the first space; undefined when there is no space. */
function schemeOf(header: string | undefined): string | undefined {
  if (header === undefined) return undefined;
  const space = header.indexOf(" ");
  // No scheme of ours is longer, and a foreign one need not be copied.
  if (space < 0 || space > "mediabrowser".length) return undefined;
  return header.slice(0, space).toLowerCase();
}

function isUnderstood(scheme: string | undefined): boolean {
  return scheme === "mediabrowser" || scheme === "emby";
}

function withScheme(header: string, scheme: string): string {
  return scheme + header.slice(header.indexOf(" "));
}

interface Fields extends DeviceFields {
  readonly token?: string | undefined;
}

const noFields: Fields = Object.freeze({});

/** Keys are compared as they are written; the last of several wins. */
function readFields(header: string): Fields {
  let client: string | undefined;
  let device: string | undefined;
  let deviceId: string | undefined;
  let version: string | undefined;
  let token: string | undefined;
  for (const part of partsOf(header)) {
    switch (part.key) {
      case "Client":
        client = partValue(header, part);
        break;
      case "Device":
        device = partValue(header, part);
        break;
      case "DeviceId":
        deviceId = partValue(header, part);
        break;
      case "Version":
        version = partValue(header, part);
        break;
      case "Token":
        token = partValue(header, part);
        break;
    }
  }
  return { client, device, deviceId, version, token };
}

/** One `key=value`, the value as the range of the header in which it stands, quotes included. */
interface Part {
  readonly key: string;
  readonly from: number;
  readonly to: number;
}

const quote = 34;
const comma = 44;
const equals = 61;

/**
 * Splits what follows the scheme, as AuthorizationContext.GetParts does: at commas outside of quotes; a key
 * ends at any `=` outside of quotes, so that of `a=b=c` the key is `b`; an empty value sets nothing and
 * leaves its key to the next part. There is no escaping.
 */
function partsOf(header: string): Part[] {
  const parts: Part[] = [];
  const length = header.length;
  let from = header.indexOf(" ") + 1;
  let key = "";
  let quoted = false;
  for (let at = from; at < length; at++) {
    const code = header.charCodeAt(at);
    if (code === quote) {
      quoted = !quoted;
    } else if (quoted) {
      // Commas and equals signs inside of quotes are text.
    } else if (code === comma) {
      if (from < at) {
        parts.push({ key, from, to: at });
        key = "";
      }
      from = at + 1;
    } else if (code === equals) {
      key = header.slice(from, at).trim();
      from = at + 1;
    }
  }
  if (from < length) parts.push({ key, from, to: length });
  return parts;
}

/** The range of a value without the quotes around it. White space is not trimmed, as in Jellyfin. */
function withoutQuotes(header: string, part: Part): [from: number, to: number] {
  let { from, to } = part;
  while (from < to && header.charCodeAt(from) === quote) from++;
  while (to > from && header.charCodeAt(to - 1) === quote) to--;
  return [from, to];
}

function partValue(header: string, part: Part): string {
  const [from, to] = withoutQuotes(header, part);
  return urlDecode(asUtf8(header.slice(from, to)));
}

const beyondAscii = /[\u0080-\uffff]/;
const beyondLatin1 = /[\u0100-\uffff]/;

/** Kestrel reads header bytes as UTF-8, where Node gives one character for each byte. */
function asUtf8(text: string): string {
  if (!beyondAscii.test(text)) return text;
  // Not from a socket: a text made here, already decoded.
  if (beyondLatin1.test(text)) return text.toWellFormed();
  return Buffer.from(text, "latin1").toString("utf8");
}

/**
 * Decodes as .NET's WebUtility.UrlDecode: `+` is a space, `%XX` a byte of UTF-8, a percent sign without two
 * hex digits is itself, and bytes that are not UTF-8 become U+FFFD.
 */
function urlDecode(text: string): string {
  const spaced = text.indexOf("+") < 0 ? text : text.replaceAll("+", " ");
  if (spaced.indexOf("%") < 0) return spaced;
  try {
    return decodeURIComponent(spaced);
  } catch {
    // The strict decoder refuses malformed text; the server reads it byte by byte.
    return decodeBytes(spaced);
  }
}

function decodeBytes(text: string): string {
  return text.replace(/[^\u0080-\uffff]+/g, (ascii) => {
    const bytes: number[] = [];
    for (let at = 0; at < ascii.length; at++) {
      const pair = ascii.slice(at + 1, at + 3);
      if (ascii[at] === "%" && /^[0-9a-f]{2}$/i.test(pair)) {
        bytes.push(Number.parseInt(pair, 16));
        at += 2;
      } else {
        bytes.push(ascii.charCodeAt(at));
      }
    }
    return Buffer.from(bytes).toString("utf8");
  });
}

/** Percent-encodes all that the header's and the query's syntax give a meaning to. Never throws. */
function encodeValue(text: string): string {
  return encodeURIComponent(text.toWellFormed());
}

function swapHeader(header: string | undefined, newToken: string): string | undefined {
  return header === undefined ? undefined : replaceTokenInAuthorization(header, newToken);
}

function removeFromHeader(header: string | undefined): string | undefined {
  return header === undefined ? undefined : removeTokenFromAuthorization(header);
}

/** A MediaBrowser value with a token of its own, made from one without (or from nothing). */
function withToken(base: string | undefined, token: string): string {
  if (base === undefined) return buildAuthorization({}, token);
  const { client, device, deviceId, version } = readFields(base);
  return buildAuthorization({ client, device, deviceId, version }, token);
}

interface TokensInQuery {
  readonly apikey?: string | undefined;
  readonly api_key?: string | undefined;
}

const noTokens: TokensInQuery = Object.freeze({});

/** By name, all values joined as the server joins them; undefined when the name is not there. */
function tokensInQuery(rawQuery: string): TokensInQuery {
  let apikey: string | undefined;
  let api_key: string | undefined;
  mapTokenPairs(rawQuery, (_rawName, name, rawValue) => {
    const value = decodeQueryText(rawValue);
    if (name === "apikey") apikey = apikey === undefined ? value : `${apikey},${value}`;
    else api_key = api_key === undefined ? value : `${api_key},${value}`;
    return unchanged;
  });
  return apikey === undefined && api_key === undefined ? noTokens : { apikey, api_key };
}

const unchanged = Symbol("unchanged");

/**
 * Goes over the pairs that carry a token. `change` is given the name as written and in lower case, and the
 * value as written, and answers with the new pair, undefined to drop it, or `unchanged`.
 */
function mapTokenPairs(
  rawQuery: string,
  change: (
    rawName: string,
    name: "apikey" | "api_key",
    rawValue: string,
  ) => string | undefined | typeof unchanged,
): string {
  const length = rawQuery.length;
  let result = "";
  let copied = 0;
  let from = 0;
  while (from < length) {
    let to = rawQuery.indexOf("&", from);
    if (to < 0) to = length;
    const name = tokenName(rawQuery, from, to);
    if (name !== undefined) {
      const nameEnd = nameEndOf(rawQuery, from, to);
      const rawName = rawQuery.slice(from, nameEnd);
      const changed = change(rawName, name, rawQuery.slice(nameEnd + 1, to));
      if (changed !== unchanged) {
        // A dropped pair takes one `&` with it: the one before it, or at the very start the one after it.
        if (changed === undefined) result += rawQuery.slice(copied, Math.max(copied, from - 1));
        else result += rawQuery.slice(copied, from) + changed;
        copied = changed === undefined && result === "" ? to + 1 : to;
      }
    }
    from = to + 1;
  }
  return copied === 0 ? rawQuery : result + rawQuery.slice(copied);
}

function nameEndOf(rawQuery: string, from: number, to: number): number {
  const at = rawQuery.indexOf("=", from);
  return at < 0 || at > to ? to : at;
}

/** Which of the two names a pair has, if any. Only names of fitting length are looked at closely. */
function tokenName(rawQuery: string, from: number, to: number): "apikey" | "api_key" | undefined {
  const first = rawQuery.charCodeAt(from);
  // `a`, `A`, or the percent sign of an encoded name.
  if (first !== 97 && first !== 65 && first !== 37) return undefined;
  const rawName = rawQuery.slice(from, nameEndOf(rawQuery, from, to));
  // Every character may be written as `%XX`.
  if (rawName.length < 6 || rawName.length > 21) return undefined;
  const name = decodeQueryText(rawName).toLowerCase();
  return name === "apikey" || name === "api_key" ? name : undefined;
}

/** `api_key` as `ApiKey`; dropped where an `ApiKey` with a value is there already. */
function renameLegacyInQuery(rawQuery: string): string {
  if (rawQuery === "") return rawQuery;
  const { apikey, api_key: legacy } = tokensInQuery(rawQuery);
  if (legacy === undefined) return rawQuery;
  let keep = !isPresent(apikey);
  const replacesEmpty = keep;
  return mapTokenPairs(rawQuery, (_rawName, name, rawValue) => {
    if (name === "apikey") return replacesEmpty ? undefined : unchanged;
    if (!keep) return undefined;
    keep = false;
    // Several values are one for the server, and stay one.
    return `ApiKey=${decodeQueryText(rawValue) === legacy ? rawValue : encodeValue(legacy)}`;
  });
}

function addToQuery(rawQuery: string, token: string): string {
  return `${rawQuery}${rawQuery === "" ? "" : "&"}ApiKey=${encodeValue(token)}`;
}

const secretNames = new Set([
  "apikey",
  "api_key",
  "x-emby-token",
  "x-mediabrowser-token",
  "x-emby-authorization",
  "authorization",
  "token",
  "accesstoken",
  "access_token",
  "secret",
  "code",
  "pw",
  "currentpw",
  "newpw",
  "currentpassword",
  "newpassword",
  "password",
  "pin",
]);

/** First letters of those names in both cases, and of white space before a name. */
const secretInitials = new Set(
  [...secretNames, " ", "+", "\t"].flatMap((name) => [
    name.charCodeAt(0),
    name.toUpperCase().charCodeAt(0),
  ]),
);

/** One pair of a query. A pair whose name hides another `=` or `&` is encoded as a whole: all of it goes. */
function redactPair(pair: string): string {
  const end = nameEndOf(pair, 0, pair.length);
  const encodedAt = pair.indexOf("%");
  const isPlain = encodedAt < 0 || encodedAt > end;
  if (isPlain && !secretInitials.has(pair.charCodeAt(0))) return pair;
  const rawName = pair.slice(0, end);
  const name = decodeQueryText(rawName).trim().toLowerCase();
  if (/[=&]/.test(name)) return hidden;
  if (!secretNames.has(name)) return pair;
  return end === pair.length ? pair : `${rawName}=${hidden}`;
}

/** The API key in the path of `DELETE /Auth/Keys/{key}`. */
function redactPath(path: string): string {
  return path.replace(/(auth\/+keys\/+)[^/]+/gi, `$1${hidden}`);
}

const shownKeys = new Set(["Client", "Device", "DeviceId", "Version"]);

/** Only the four device fields are shown, and only where their values are plainly nothing else. */
function redactAuthorization(value: string): string {
  const space = value.indexOf(" ");
  if (space < 0) return hidden;
  if (!isUnderstood(schemeOf(value)))
    return `${/^[a-z-]{1,20}(?= )/i.exec(value)?.[0] ?? ""} ${hidden}`.trim();
  const shown: string[] = [];
  for (const part of partsOf(value)) {
    if (!shownKeys.has(part.key)) continue;
    const [from, to] = withoutQuotes(value, part);
    const text = value.slice(from, to);
    shown.push(`${part.key}="${/["=]|token/i.test(text) ? hidden : text}"`);
  }
  return `${value.slice(0, space)} ${[...shown, `Token="${hidden}"`].join(", ")}`;
}
