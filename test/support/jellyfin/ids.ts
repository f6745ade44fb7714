/**
 * Ids as Jellyfin makes and reads them. Item and session ids are MD5 hashes put through .NET's Guid, so that they come
 * out equal on every server; clients send them with or without dashes, and this file promises one spelling inside.
 */
import { createHash, randomBytes } from "node:crypto";

/**
 * The deterministic id of a text: MD5 over its UTF-16LE bytes, read as a .NET Guid (the first three groups are stored
 * little-endian), written as 32 hex digits (MediaBrowser.Common/Extensions/BaseExtensions.cs).
 */
export function idOfText(text: string): string {
  const bytes = createHash("md5").update(Buffer.from(text, "utf16le")).digest();
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  return order.map((index) => (bytes[index] ?? 0).toString(16).padStart(2, "0")).join("");
}

/** A random id of 32 hex digits, as Guid.NewGuid().ToString("N"). */
export function randomId(): string {
  return randomBytes(16).toString("hex");
}

/** The id with dashes, as Guid.ToString() writes it in playlists and user data keys. */
export function dashed(id: string): string {
  return `${id.slice(0, 8)}-${id.slice(8, 12)}-${id.slice(12, 16)}-${id.slice(16, 20)}-${id.slice(20)}`;
}

const PLAIN = /^[0-9a-f]{32}$/i;
const DASHED = /^\{?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\}?$/i;

/** Any spelling of a Guid as 32 lower-case hex digits; undefined where .NET could not read one either. */
export function parseId(text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  if (PLAIN.test(text)) return text.toLowerCase();
  if (DASHED.test(text)) return text.replace(/[{}-]/g, "").toLowerCase();
  return undefined;
}

export const EMPTY_ID = "0".repeat(32);

/** The instant as Jellyfin's JSON writes it: seven digits after the second, always UTC. */
export function jellyfinDate(at: number): string {
  return new Date(at).toISOString().replace("Z", "0000Z");
}
