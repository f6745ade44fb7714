// An identity is one login: a user on a device, with a generation that grows at every login, logout
// and password change. It has one token on each replica; only the current generation's tokens count.
// These are the shapes as they lie in the store; the book of identities in memory is identities.ts.

import { createHash } from "node:crypto";

/** One replica's token of an identity. The token itself lies here only sealed. */
export interface IdentityToken {
  /** SHA-256 of the token, 64 hex digits: what it is found by. */
  readonly hash: string;
  /** AES-256-GCM under the cluster key, bound to identity key, generation and replica. */
  readonly sealed: string;
}

export interface Identity {
  readonly key: string;
  /** `apiKey`: an API key of a client such as Sonarr; it has no user and no device. */
  readonly kind: "user" | "apiKey";
  /** Jellyfin's user id as 32 lower-case hex digits; empty for an API key. */
  readonly userId: string;
  readonly userName: string;
  /** As the login's `Authorization` header said it (Jellyfin's server key is user + DeviceId). */
  readonly deviceId: string;
  readonly client: string;
  readonly device: string;
  readonly version: string;
  /** Starts at 1 and grows by one at every login, logout and password change. */
  readonly generation: number;
  /** When this generation began, in ms since the epoch on the store's clock. */
  readonly startedAtMs: number;
  /** Name of the replica that gave the first token of this generation. */
  readonly origin: string;
  /** By replica name. Empty after the identity has ended. */
  readonly tokens: Readonly<Record<string, IdentityToken>>;
  /**
   * Hashes of tokens of this generation that their replica no longer knows (it was reseeded, or another
   * token took their place). A client may still hold one, and it is this identity all the same. The
   * latest `formerHashesKept` (core/store/store.ts) are kept.
   */
  readonly formerHashes?: readonly string[];
}

/** What a login, or a valid token seen for the first time, tells about an identity. */
export interface IdentityFacts {
  readonly kind: "user" | "apiKey";
  readonly userId: string;
  readonly userName: string;
  readonly deviceId: string;
  readonly client: string;
  readonly device: string;
  readonly version: string;
}

/** What a sealed token is bound to, so that it cannot be moved to another identity or replica. */
export function sealContext(key: string, generation: number, replica: string): string {
  return `token\n${key}\n${generation}\n${replica}`;
}

/** SHA-256 of a token or secret as 64 lower-case hex digits. */
export function hashOf(secret: string): string {
  return createHash("sha256").update(secret).digest("hex");
}

/** The identity of a user on a device. Jellyfin compares device ids as they are, so we do too. */
export function identityKey(userId: string, deviceId: string): string {
  return `${normalId(userId)}.${hashOf(deviceId).slice(0, 24)}`;
}

/** The user in an identity's key, as 32 lower-case hex digits; undefined: an API key, or no key of ours. */
export function userOfKey(key: string): string | undefined {
  return /^([0-9a-f]{32})\./.exec(key)?.[1];
}

/** The identity of an API key, which has no user and no device. */
export function apiKeyIdentityKey(token: string): string {
  return `apikey.${hashOf(token).slice(0, 24)}`;
}

/** A Jellyfin id (with or without dashes, any case) as 32 lower-case hex digits; other text lower-cased. */
export function normalId(id: string): string {
  return id.replaceAll("-", "").toLowerCase();
}

/** True for an id in Jellyfin's plain form: 32 lower-case hex digits. */
export function isPlainId(value: unknown): value is string {
  return typeof value === "string" && /^[0-9a-f]{32}$/.test(value);
}
