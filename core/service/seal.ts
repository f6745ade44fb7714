// The seal: everything the cluster key is used for. Tokens lie in the store only sealed, so that who reads
// the store reads no token; records carry a MAC, so that who writes the store invites no false replica; a
// request to a sidecar or an admin port carries a proof, so that who reaches the port has no power by that.
// Each use has a key of its own, derived from the cluster key, so that a result of one use means nothing
// in another. It promises that a changed, moved, repeated or foreign value is told apart and that nothing
// secret is ever part of an error.

import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  hkdfSync,
  randomBytes,
  timingSafeEqual,
} from "node:crypto";

/** The header that carries a proof. Headers of ours are stripped from clients' requests at the door. */
export const proofHeaderName = "x-jellybloom-proof";

/** A shorter key could be found by trying; 16 characters is the least that may be given. */
export const clusterKeyLengthMin = 16;

const keyBytes = 32;
/** The nonce length that AES-GCM is made for (NIST SP 800-38D section 5.2.1.1). */
const nonceBytes = 12;
const tagBytes = 16;
const version = "v1";

/** What a proof is about. */
export interface ProvenRequest {
  readonly method: string;
  /** Path and query as they stand in the request line. */
  readonly path: string;
  readonly body: string | Uint8Array;
}

export interface ProofVerifierOptions {
  /** How far the proof's time may lie from ours, before or after, in ms. */
  readonly windowMs: number;
  /** How many nonces are remembered. While all are within the window, further proofs are refused. */
  readonly noncesKept: number;
  /** The clock, in ms since the epoch. */
  readonly now: () => number;
}

export interface ProofVerifier {
  /**
   * Null when the proof holds, else the reason in words that may be logged. A proof holds once.
   * `header` is the value of the request's `x-jellybloom-proof`, if it has one.
   */
  verify(header: string | undefined, request: ProvenRequest): string | null;
}

export interface Seal {
  /** Seals `plaintext` so that it opens only with the same key and the same `context`. */
  seal(plaintext: string, context: string): string;
  /** What was sealed, or undefined when the text was changed, or has another key, context or version. */
  open(sealed: string, context: string): string | undefined;
  /** A MAC over the parts; where one part ends and the next begins is part of it. */
  mac(...parts: readonly string[]): string;
  /** Compares in constant time. */
  verifyMac(mac: string, ...parts: readonly string[]): boolean;
  /** The proof of a request made at `timeMs` (since the epoch), with a nonce never used before. */
  proof(request: ProvenRequest, timeMs: number, nonce: string): string;
  /** The time and nonce that a proof states, or undefined when it is not a proof of this request. */
  verifyProof(
    proof: string,
    request: ProvenRequest,
  ): { readonly timeMs: number; readonly nonce: string } | undefined;
  /** The header of a request that is made now, to be spread into its headers. */
  proofHeaders(
    method: string,
    path: string,
    body: string | Uint8Array,
  ): { readonly [proofHeaderName]: string };
  /** A verifier with its own memory of nonces: one for each listening port. */
  createProofVerifier(options: ProofVerifierOptions): ProofVerifier;
}

/**
 * The seal of a cluster. Throws an Error, which does not contain the key, when the key is too short.
 * The nonces are random, which is safe for 2^32 seals under one key (NIST SP 800-38D section 8.3): a login
 * each second for 136 years.
 */
export function createSeal(clusterKey: string): Seal {
  if (clusterKey.length < clusterKeyLengthMin) {
    throw new Error(
      `The cluster key has ${clusterKey.length} characters and needs at least ${clusterKeyLengthMin}. ` +
        "A good one is the output of: openssl rand -base64 32",
    );
  }
  const sealKey = derivedKey(clusterKey, "seal");
  const macKey = derivedKey(clusterKey, "mac");
  const proofKey = derivedKey(clusterKey, "proof");

  const seal: Seal = {
    seal(plaintext, context) {
      const nonce = randomBytes(nonceBytes);
      const cipher = createCipheriv("aes-256-gcm", sealKey, nonce, { authTagLength: tagBytes });
      cipher.setAAD(Buffer.from(context, "utf8"));
      const body = Buffer.concat([cipher.update(plaintext, "utf8"), cipher.final()]);
      return `${version}.${Buffer.concat([nonce, body, cipher.getAuthTag()]).toString("base64url")}`;
    },

    open(sealed, context) {
      const [textVersion, text, ...rest] = sealed.split(".");
      if (textVersion !== version || text === undefined || rest.length > 0) return undefined;
      const bytes = Buffer.from(text, "base64url");
      if (bytes.length < nonceBytes + tagBytes) return undefined;
      const nonce = bytes.subarray(0, nonceBytes);
      const decipher = createDecipheriv("aes-256-gcm", sealKey, nonce, { authTagLength: tagBytes });
      decipher.setAAD(Buffer.from(context, "utf8"));
      decipher.setAuthTag(bytes.subarray(bytes.length - tagBytes));
      const body = bytes.subarray(nonceBytes, bytes.length - tagBytes);
      try {
        return Buffer.concat([decipher.update(body), decipher.final()]).toString("utf8");
      } catch {
        // The tag does not match. Why (key, context or bytes) cannot be known, and the caller needs no why.
        return undefined;
      }
    },

    mac(...parts) {
      return `${version}.${macOf(macKey, parts).toString("base64url")}`;
    },

    verifyMac(mac, ...parts) {
      return sameText(mac, seal.mac(...parts));
    },

    proof(request, timeMs, nonce) {
      const { method, path, body } = request;
      const mac = macOf(proofKey, [method.toUpperCase(), path, body, String(timeMs), nonce]);
      return `${version}.${timeMs}.${nonce}.${mac.toString("base64url")}`;
    },

    verifyProof(proof, request) {
      const match = /^v1\.(\d{1,15})\.([A-Za-z0-9_-]{16,64})\.[A-Za-z0-9_-]{43}$/.exec(proof);
      const [, time, nonce] = match ?? [];
      if (time === undefined || nonce === undefined) return undefined;
      const timeMs = Number(time);
      return sameText(proof, seal.proof(request, timeMs, nonce)) ? { timeMs, nonce } : undefined;
    },

    proofHeaders(method, path, body) {
      const nonce = randomBytes(16).toString("base64url");
      return { [proofHeaderName]: seal.proof({ method, path, body }, Date.now(), nonce) };
    },

    createProofVerifier(options) {
      return proofVerifier(seal, options);
    },
  };
  return seal;
}

/**
 * Remembers the nonces it has seen. A nonce may be forgotten when its proof is too old to hold anyway: a
 * proof's time is at most one window after the moment it was accepted, and it holds for one window more.
 */
function proofVerifier(seal: Seal, options: ProofVerifierOptions): ProofVerifier {
  const { windowMs, noncesKept, now } = options;
  /** Nonce to when it may be forgotten; in the order of acceptance, which is the order of that time. */
  const seen = new Map<string, number>();

  function forgetUpTo(nowMs: number): void {
    for (const [nonce, forgetAtMs] of seen) {
      if (forgetAtMs >= nowMs) return;
      seen.delete(nonce);
    }
  }

  return {
    verify(header, request) {
      if (header === undefined || header === "") return "the request carries no proof";
      const stated = seal.verifyProof(header, request);
      if (stated === undefined)
        return "the proof is not one of this request under this cluster key";
      const nowMs = now();
      const ageMs = nowMs - stated.timeMs;
      if (ageMs > windowMs) return `the proof is ${ageMs} ms old and may be ${windowMs}`;
      if (-ageMs > windowMs) return `the proof is ${-ageMs} ms ahead of this clock`;
      forgetUpTo(nowMs);
      if (seen.has(stated.nonce)) return "the proof was used before";
      // Forgetting one that still holds would let it be used twice, so the newcomer is refused instead.
      if (seen.size >= noncesKept) return "too many proofs came within the window";
      seen.set(stated.nonce, nowMs + 2 * windowMs);
      return null;
    },
  };
}

/** HKDF-SHA-256 (RFC 5869); `use` keeps the keys of different uses apart. */
function derivedKey(clusterKey: string, use: string): Buffer {
  return Buffer.from(hkdfSync("sha256", clusterKey, "jellybloom", `${use} ${version}`, keyBytes));
}

/** HMAC-SHA-256 over each part preceded by its length, so that ("ab", "c") and ("a", "bc") differ. */
function macOf(key: Buffer, parts: readonly (string | Uint8Array)[]): Buffer {
  const hmac = createHmac("sha256", key);
  const length = Buffer.alloc(8);
  for (const part of parts) {
    const bytes = typeof part === "string" ? Buffer.from(part, "utf8") : part;
    length.writeBigUInt64BE(BigInt(bytes.length));
    hmac.update(length).update(bytes);
  }
  return hmac.digest();
}

/** Equal, in a time that depends on the length alone. */
function sameText(left: string, right: string): boolean {
  const leftBytes = Buffer.from(left, "utf8");
  const rightBytes = Buffer.from(right, "utf8");
  return leftBytes.length === rightBytes.length && timingSafeEqual(leftBytes, rightBytes);
}
