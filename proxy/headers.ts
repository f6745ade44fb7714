// Headers between client and replica: what of a request goes on, what is put in its place, and who the
// client really is. Pure; the hot path's look-ups are by the text as it came, so that a header costs one
// map look-up and no lower-casing.

import { BlockList, isIP } from "node:net";
import type { SwappedRequest } from "../core/jellyfin/credentials.ts";

/** Networks whose X-Forwarded-* headers are believed. */
export interface TrustedProxies {
  contains(address: string): boolean;
}

/** A list of `10.0.0.0/8` or `::1/128` (validated by the option table) as something to ask. */
export function trustedProxies(cidrs: readonly string[]): TrustedProxies {
  const list = new BlockList();
  for (const cidr of cidrs) {
    const [address = "", prefix] = cidr.split("/");
    const family = isIP(address) === 6 ? "ipv6" : "ipv4";
    list.addSubnet(
      address,
      prefix === undefined ? (family === "ipv6" ? 128 : 32) : Number(prefix),
      family,
    );
  }
  return {
    contains: (address) =>
      cidrs.length > 0 && list.check(address, isIP(address) === 6 ? "ipv6" : "ipv4"),
  };
}

/** An IPv4 address in IPv6 clothes (`::ffff:10.0.0.5`) as IPv4, so that it matches IPv4 networks. */
export function plainAddress(address: string): string {
  return address.startsWith("::ffff:") && address.includes(".") ? address.slice(7) : address;
}

export interface ClientOrigin {
  /** The address of the client itself, behind any trusted proxies. */
  readonly address: string;
  readonly scheme: "http" | "https";
  /** The host the client asked for; empty when it named none. */
  readonly host: string;
}

/**
 * Who the client is. `X-Forwarded-For` is read from its end: each trusted hop's word is taken for the one
 * before it, and the first address that is not trusted is the client. From an untrusted peer nothing is
 * believed. `X-Forwarded-Proto` and `-Host` count only from a trusted peer (their last value).
 */
export function clientOrigin(
  peer: string,
  headers: Readonly<Record<string, string | string[] | undefined>>,
  isSecure: boolean,
  trusted: TrustedProxies,
): ClientOrigin {
  const address = plainAddress(peer);
  const host = textOf(headers.host);
  const scheme = isSecure ? "https" : "http";
  if (!trusted.contains(address)) return { address, scheme, host };
  let client = address;
  const hops = textOf(headers["x-forwarded-for"]).split(",");
  for (let index = hops.length - 1; index >= 0; index--) {
    const hop = forwardedAddress(hops[index] ?? "");
    if (hop === undefined) break;
    client = hop;
    if (!trusted.contains(hop)) break;
  }
  const proto = lastOf(textOf(headers["x-forwarded-proto"])).toLowerCase();
  return {
    address: client,
    scheme: proto === "https" || proto === "wss" ? "https" : proto === "" ? scheme : "http",
    host: lastOf(textOf(headers["x-forwarded-host"])) || host,
  };
}

/** `10.0.0.5`, `10.0.0.5:1234`, `[::1]:80` or `::1` as an address; undefined when it is none. */
function forwardedAddress(text: string): string | undefined {
  const value = text.trim();
  if (isIP(value) !== 0) return plainAddress(value);
  const bracketed = /^\[([^\]]+)\](?::\d+)?$/.exec(value)?.[1];
  if (bracketed !== undefined && isIP(bracketed) === 6) return plainAddress(bracketed);
  const withPort = /^([\d.]+):\d+$/.exec(value)?.[1];
  return withPort !== undefined && isIP(withPort) === 4 ? withPort : undefined;
}

function lastOf(list: string): string {
  return list.slice(list.lastIndexOf(",") + 1).trim();
}

function textOf(value: string | string[] | undefined): string {
  return value === undefined ? "" : Array.isArray(value) ? value.join(",") : value;
}

type RequestHeaderKind =
  | "plain"
  | "host"
  /** Of the connection, or made anew: it does not go on. */
  | "drop"
  | "credential"
  | "acceptEncoding"
  | "conditional"
  | "cookie"
  | "connection";

const kindByName = new Map<string, RequestHeaderKind>();
const namesRemembered = 2000;
/** Honest names are short; a client's long ones do not fill our memory. */
const nameRememberedLength = 64;

function requestHeaderKind(name: string): RequestHeaderKind {
  const known = kindByName.get(name);
  if (known !== undefined) return known;
  const kind = kindOf(name.toLowerCase());
  if (kindByName.size < namesRemembered && name.length <= nameRememberedLength) {
    kindByName.set(name, kind);
  }
  return kind;
}

function kindOf(name: string): RequestHeaderKind {
  switch (name) {
    case "connection":
      return "connection";
    case "host":
      return "host";
    case "keep-alive":
    case "proxy-connection":
    case "proxy-authorization":
    case "te":
    case "trailer":
    case "transfer-encoding":
    case "content-length":
    case "upgrade":
    case "http2-settings":
    case "expect":
    case "forwarded":
    case "x-real-ip":
    case "x-original-for":
    case "x-original-host":
    case "x-original-proto":
      return "drop";
    case "authorization":
    case "x-emby-authorization":
    case "x-emby-token":
    case "x-mediabrowser-token":
      return "credential";
    case "accept-encoding":
      return "acceptEncoding";
    case "range":
    case "if-range":
    case "if-match":
    case "if-none-match":
    case "if-modified-since":
    case "if-unmodified-since":
      return "conditional";
    case "cookie":
      return "cookie";
    default:
      // Node's parser lets no other names through; what is none could carry a line of its own.
      if (!/^[!#$%&'*+.^_`|~0-9a-z-]+$/.test(name)) return "drop";
      return name.startsWith("x-forwarded") || name.startsWith("x-jellybloom") ? "drop" : "plain";
  }
}

export interface UpstreamHead {
  readonly method: string;
  /** Path as the client sent it. */
  readonly path: string;
  readonly rawHeaders: readonly string[];
  /** Credentials as this replica must see them, with the query in which they are. */
  readonly swapped: SwappedRequest;
  readonly origin: ClientOrigin;
  /** Undefined: no body. */
  readonly bodyLength: number | undefined;
  /** The answer has to be read by us, so it must not be compressed. */
  readonly plainAnswer: boolean;
  /** Ask for the whole, whatever the client asked for: Range and conditions are answered by us. */
  readonly whole: boolean;
  /** A Range of our own: the rest of what broke off. */
  readonly range?: string | undefined;
}

/** Header lines made for one replica, to be used again while the same client says the same headers. */
export interface UpstreamMemo {
  readonly swapped: SwappedRequest["headers"];
  readonly origin: ClientOrigin;
  readonly lines: string;
}

/**
 * The same as `upstreamHead` for a request without a body that needs nothing of ours in it; its header lines
 * are remembered in `memo`.
 */
export function plainUpstreamHead(
  request: UpstreamHead,
  memo: { upstream?: UpstreamMemo },
): string {
  const { swapped, origin } = request;
  const known = memo.upstream;
  if (known !== undefined && known.swapped === swapped.headers && known.origin === origin) {
    return requestLineOf(request) + known.lines;
  }
  const head = upstreamHead(request);
  const lines = head.slice(head.indexOf("\n") + 1);
  memo.upstream = { swapped: swapped.headers, origin, lines };
  return head;
}

function requestLineOf({ method, path, swapped: { rawQuery } }: UpstreamHead): string {
  return `${method} ${oneWord(rawQuery === "" ? path : `${path}?${rawQuery}`)} HTTP/1.1\r\n`;
}

/**
 * The request line and headers as a replica gets them, with the empty line at the end. A value that would
 * begin a line of its own is left out whole, wherever it comes from: no text can add a header or a request.
 */
export function upstreamHead(request: UpstreamHead): string {
  const { rawHeaders, swapped, origin } = request;
  let head = requestLineOf(request);
  let hasHost = false;
  let dropped: readonly string[] | undefined;
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] ?? "";
    if (requestHeaderKind(name) !== "connection") continue;
    const named = connectionNames(rawHeaders[index + 1] ?? "");
    if (named !== undefined) dropped = dropped === undefined ? named : [...dropped, ...named];
  }
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] ?? "";
    const value = rawHeaders[index + 1] ?? "";
    if (dropped?.includes(name.toLowerCase()) === true) continue;
    switch (requestHeaderKind(name)) {
      case "host":
        hasHost = true;
        head += line(name, value);
        break;
      case "plain":
        head += line(name, value);
        break;
      case "acceptEncoding":
        if (!request.plainAnswer) head += line(name, value);
        break;
      case "conditional":
        if (!request.whole && request.range === undefined) head += line(name, value);
        break;
      case "cookie": {
        const cookies = withoutOurCookie(value);
        if (cookies !== "") head += line(name, cookies);
        break;
      }
      case "credential":
      case "connection":
      case "drop":
        break;
    }
  }
  for (const [name, value] of Object.entries(swapped.headers)) {
    if (value !== undefined) head += line(name, value);
  }
  // An HTTP/1.0 client may name no host; HTTP/1.1 must (RFC 9112, 3.2), if need be an empty one.
  if (!hasHost) head += line("host", origin.host);
  head += line("x-forwarded-for", origin.address);
  head += `x-forwarded-proto: ${origin.scheme}\r\n`;
  if (origin.host !== "") head += line("x-forwarded-host", origin.host);
  if (request.bodyLength !== undefined) head += `content-length: ${request.bodyLength}\r\n`;
  if (request.plainAnswer) head += "accept-encoding: identity\r\n";
  if (request.range !== undefined) head += line("range", request.range);
  return `${head}\r\n`;
}

/** A head that `upstreamHead` made, for a library that writes it itself, and tells the length of the body. */
export function headFields(head: string): {
  readonly target: string;
  /** Name, value, name, value … */
  readonly headers: string[];
} {
  const [requestLine = "", ...lines] = head.split("\r\n").slice(0, -2);
  const headers: string[] = [];
  for (const line of lines) {
    const colon = line.indexOf(":");
    const name = line.slice(0, colon);
    if (name !== "content-length") headers.push(name, line.slice(colon + 2));
  }
  return { target: requestLine.split(" ")[1] ?? "/", headers };
}

const lineBreaking = /[\r\n\0]/;

function line(name: string, value: string): string {
  return lineBreaking.test(value) ? "" : `${name}: ${value}\r\n`;
}

const wordEnding = /[\0-\x20\x7f]/;

/** A request target without white space or control characters: those would end it. */
function oneWord(target: string): string {
  if (!wordEnding.test(target)) return target;
  return target.replace(/[\0-\x20\x7f]/g, (character) => encodeURIComponent(character));
}

/**
 * Header names that `Connection` takes out (RFC 9110, 7.6.1), or undefined for the usual values. `Host`
 * stays whatever is said: without it the request would be refused.
 */
function connectionNames(value: string): readonly string[] | undefined {
  const lower = value.toLowerCase();
  if (lower === "keep-alive" || lower === "close" || lower === "upgrade") return undefined;
  return lower
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "host");
}

export const cookieName = "jellybloom";

/** The replica that our cookie names: a hint, never more. */
export function cookieReplica(cookies: string | undefined): string | undefined {
  if (cookies === undefined || !cookies.includes(`${cookieName}=`)) return undefined;
  for (const pair of cookies.split(";")) {
    const [name, value] = pair.trim().split("=", 2);
    if (name === cookieName && value !== undefined && /^[\w-]{1,63}$/.test(value)) return value;
  }
  return undefined;
}

/** Our hint for browsers. No secret: a replica's name. */
export function cookieHeader(replica: string): string {
  return `${cookieName}=${replica}; Path=/; HttpOnly; SameSite=Lax`;
}

function withoutOurCookie(cookies: string): string {
  if (!cookies.includes(`${cookieName}=`)) return cookies;
  return cookies
    .split(";")
    .filter((pair) => !pair.trim().startsWith(`${cookieName}=`))
    .join(";")
    .trim();
}

/** Only what credentials are read from, by the names that Node gives them. */
export function credentialHeadersOf(
  headers: Readonly<Record<string, string | string[] | undefined>>,
): {
  authorization: string | undefined;
  "x-emby-authorization": string | undefined;
  "x-emby-token": string | undefined;
  "x-mediabrowser-token": string | undefined;
} {
  return {
    authorization: firstOf(headers.authorization),
    "x-emby-authorization": firstOf(headers["x-emby-authorization"]),
    "x-emby-token": firstOf(headers["x-emby-token"]),
    "x-mediabrowser-token": firstOf(headers["x-mediabrowser-token"]),
  };
}

function firstOf(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value;
}
