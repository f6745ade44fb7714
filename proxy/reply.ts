// Replies of the door itself, and the few places where it edits a replica's. Pure: values in, values out.
// There are few of them on purpose (design rule 5): whatever else cannot be answered is held, then cut.

import { STATUS_CODES } from "node:http";
import { brotliDecompressSync, gunzipSync, inflateSync } from "node:zlib";
import { isOurSession } from "../core/jellyfin/ours.ts";
import { headerIn } from "../core/jellyfin/raw-headers.ts";
import type { ResponseHead } from "../core/jellyfin/wire.ts";
import type { HeldReply } from "./client.ts";

/** The text of a replica's answer, unpacked; undefined for one that is longer, or cannot be read. */
export function textOfReply({ head, body }: HeldReply, limitBytes: number): string | undefined {
  const limit = { maxOutputLength: limitBytes };
  if (body.length > limitBytes) return undefined;
  try {
    switch (headerIn(head.headers, "content-encoding") ?? "identity") {
      case "identity":
        return body.toString("utf8");
      case "gzip":
        return gunzipSync(body, limit).toString("utf8");
      case "br":
        return brotliDecompressSync(body, limit).toString("utf8");
      case "deflate":
        return inflateSync(body, limit).toString("utf8");
      default:
        return undefined;
    }
  } catch {
    // An answer that cannot be read tells nothing; the client has it as it is.
    return undefined;
  }
}

/** A whole reply of our own. */
export function ownReply(
  status: number,
  statusText: string,
  text = "",
  headers: readonly string[] = [],
): HeldReply {
  const body = Buffer.from(text);
  const all = [...headers];
  if (text !== "" && !all.some((name) => name.toLowerCase() === "content-type")) {
    all.push("Content-Type", "text/plain; charset=utf-8");
  }
  const head: ResponseHead = {
    status,
    statusText,
    headers: all,
    contentLength: body.length,
    hasBody: status !== 204 && status !== 304,
  };
  return { head, body };
}

/** As Jellyfin refuses a token: 401 without a body. */
export const unauthorised = (): HeldReply => ownReply(401, "Unauthorized");
export const forbidden = (): HeldReply => ownReply(403, "Forbidden");
export const notFound = (): HeldReply => ownReply(404, "Not Found");
export const noContent = (): HeldReply => ownReply(204, "No Content");

/** A server's answer that we tell in its place: names in PascalCase, unless the client asked for the other profile. */
export function told(rawHeaders: readonly string[], value: unknown): HeldReply {
  const isCamel = /profile="?CamelCase/i.test(headerIn(rawHeaders, "accept") ?? "");
  const text = JSON.stringify(isCamel ? camelCased(value) : value);
  return ownReply(200, "OK", text, ["Content-Type", "application/json; charset=utf-8"]);
}

/** The id of a list that was made (PlaylistCreationResult, CollectionCreationResult). */
export function listCreated(rawHeaders: readonly string[], id: string): HeldReply {
  return told(rawHeaders, { Id: id });
}

/** Objects whose names are values of their own: they keep their case (System.Text.Json renames properties only). */
const dictionaries = new Set(["ImageTags", "ProviderIds", "ImageBlurHashes", "Trickplay"]);

/** With its names as Jellyfin's CamelCase profile has them. */
export function camelCased(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(camelCased);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [
      name.charAt(0).toLowerCase() + name.slice(1),
      dictionaries.has(name) ? inner : camelCased(inner),
    ]),
  );
}

/** A request whose head the door does not pass on. */
export function badHead(status: number, why: string): HeldReply {
  const headers = ["Connection", "close", ...(status === 405 ? ["Allow", allowedMethods] : [])];
  return ownReply(status, STATUS_CODES[status] ?? "", `${why}\n`, headers);
}

const allowedMethods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/** A request that no two programs would read alike. */
export function badRequest(why: string): HeldReply {
  return ownReply(400, "Bad Request", `${why}\n`);
}

export function tooLarge(limitBytes: number): HeldReply {
  return ownReply(
    413,
    "Content Too Large",
    `The request's body is larger than ${limitBytes} bytes.\n`,
  );
}

/** For the few requests whose failure destroys nothing: clients say «server unavailable» and ask again. */
export function unavailable(why: string): HeldReply {
  return ownReply(503, "Service Unavailable", `${why}\n`, [
    "Retry-After",
    "5",
    "Cache-Control",
    "no-store",
  ]);
}

/** QuickConnect is off at this door: what `/QuickConnect/Enabled` says of a server where it is off. */
export function quickConnectIsOff(): HeldReply {
  return ownReply(200, "OK", "false", ["Content-Type", "application/json; charset=utf-8"]);
}

/** The same answer with another body; its validators no longer fit it. */
export function withBody(reply: HeldReply, text: string): HeldReply {
  const body = Buffer.from(text);
  return { head: { ...reply.head, contentLength: body.length }, body };
}

/** `LocalAddress` of System/Info is the door's, so that no client remembers a server behind it. */
export function withLocalAddress(reply: HeldReply, address: string): HeldReply {
  const text = reply.body.toString("utf8");
  const edited = text.replace(
    /("LocalAddress"\s*:\s*)(?:"(?:[^"\\]|\\.)*"|null)/i,
    (_, name: string) => name + JSON.stringify(address),
  );
  return edited === text ? reply : withBody(reply, edited);
}

/** The list of sessions without those of our sidecars; the same reply when there are none. */
export function withoutOurSessions(reply: HeldReply): HeldReply {
  const text = reply.body.toString("utf8");
  if (!text.includes("jellybloom-")) return reply;
  let sessions: unknown;
  try {
    sessions = JSON.parse(text);
  } catch {
    // Not what we took it for: passed on as it came.
    return reply;
  }
  if (!Array.isArray(sessions)) return reply;
  const shown = sessions.filter((session) => !isOurs(session));
  return shown.length === sessions.length ? reply : withBody(reply, JSON.stringify(shown));
}

function isOurs(session: unknown): boolean {
  if (typeof session !== "object" || session === null) return false;
  const fields = session as Record<string, unknown>;
  const deviceId = fields.DeviceId ?? fields.deviceId;
  const userId = String(fields.UserId ?? fields.userId ?? "").replaceAll(/[0-]/g, "");
  return typeof deviceId === "string" && isOurSession({ deviceId, userId });
}

/**
 * An image from a replica that is not known to have the picture which the tag names. Jellyfin answers any
 * tag as «immutable» for a year with that tag as ETag (ImageController), so a client would keep an old
 * poster for good: the answer is made short-lived and loses its validator.
 */
export function asDoubtfulImage(head: ResponseHead): void {
  const { headers } = head;
  let hasCacheControl = false;
  for (let index = headers.length - 2; index >= 0; index -= 2) {
    const name = headers[index]?.toLowerCase();
    if (name === "etag") headers.splice(index, 2);
    else if (name === "cache-control") {
      headers[index + 1] = shortLived;
      hasCacheControl = true;
    }
  }
  if (!hasCacheControl) headers.push("Cache-Control", shortLived);
}

const shortLived = "public, max-age=60";
