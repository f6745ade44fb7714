/**
 * Where a Jellyfin server looks for a caller's token and device, and how it reads them. It follows the order and the
 * odd grammar of Jellyfin.Server.Implementations/Security/AuthorizationContext.cs (12.0) step by step, because the
 * tests of the proxy measure themselves against it; it is written apart from the proxy's own reader on purpose.
 */
import type { IncomingHttpHeaders } from "node:http";

export type Credentials = {
  readonly token: string | undefined;
  readonly client: string | undefined;
  readonly device: string | undefined;
  readonly deviceId: string | undefined;
  readonly version: string | undefined;
};

/** What a header `Authorization: MediaBrowser a="b", …` says; keys keep their case, as in the server. */
export function parseParts(header: string): Map<string, string> {
  const parts = new Map<string, string>();
  let quoted = false;
  let start = 0;
  let key = "";
  let index = 0;
  for (; index < header.length; index += 1) {
    const letter = header[index];
    if (letter === '"' || letter === ",") {
      quoted = !quoted === (letter === '"');
      if (letter === "," && !quoted) {
        if (start < index) {
          parts.set(key, decodeValue(header.slice(start, index)));
          key = "";
        }
        start = index + 1;
      }
    } else if (!quoted && letter === "=") {
      key = header.slice(start, index).trim();
      start = index + 1;
    }
  }
  if (start < index) parts.set(key, decodeValue(header.slice(start, index)));
  return parts;
}

/** Surrounding quotes off, then WebUtility.UrlDecode: `+` is a blank, and what is no escape stays as it is. */
function decodeValue(raw: string): string {
  const plain = raw.replace(/^"+|"+$/g, "").replaceAll("+", " ");
  if (!plain.includes("%")) return plain;
  return plain.replace(/(?:%[0-9a-f]{2})+/gi, (escapes) =>
    Buffer.from(escapes.replaceAll("%", ""), "hex").toString("utf8"),
  );
}

/**
 * The credentials of a request.
 * @param query the first value of a query parameter by its lower-case name.
 * @param legacy whether `EnableLegacyAuthorization` is on (off by default in 12.0).
 */
export function readCredentials(
  headers: IncomingHttpHeaders,
  query: (name: string) => string | undefined,
  legacy: boolean,
): Credentials {
  const parts = readHeader(headers, legacy);
  let token = parts?.get("Token");
  if (legacy && !token) token = single(headers["x-emby-token"]);
  if (legacy && !token) token = single(headers["x-mediabrowser-token"]);
  if (!token) token = query("apikey");
  if (legacy && !token) token = query("api_key");
  return {
    token: token || undefined,
    client: parts?.get("Client"),
    device: parts?.get("Device"),
    deviceId: parts?.get("DeviceId"),
    version: parts?.get("Version"),
  };
}

function readHeader(
  headers: IncomingHttpHeaders,
  legacy: boolean,
): Map<string, string> | undefined {
  let header: string | undefined = headers.authorization;
  if (legacy && !header) header = single(headers["x-emby-authorization"]);
  if (header === undefined) return undefined;
  const blank = header.indexOf(" ");
  if (blank === -1) return undefined;
  const scheme = header.slice(0, blank).toLowerCase();
  if (scheme !== "mediabrowser" && !(legacy && scheme === "emby")) return undefined;
  return remembered(header.slice(blank + 1));
}

/** Clients repeat the same header thousands of times; reading it anew each time costs more than the rest of a request. */
const known = new Map<string, Map<string, string>>();
const KNOWN_HEADERS_MAX = 1000;

function remembered(header: string): Map<string, string> {
  let parts = known.get(header);
  if (parts === undefined) {
    parts = parseParts(header);
    if (known.size >= KNOWN_HEADERS_MAX) known.clear();
    known.set(header, parts);
  }
  return parts;
}

function single(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value;
}
