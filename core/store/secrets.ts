// Secrets with an end of life: a new password on its way to all replicas. It lies here only sealed under the
// cluster key, apart from everything that is followed, logged or kept: no feed and no journal tells it. It is gone
// as soon as every replica it was for has it, at the latest when its time is up.

export interface SecretStore {
  /**
   * Keeps a sealed secret for `ttlMs`, until each of `replicas` has settled it. An id that is there stays as it is.
   * Rejects with StoreUnavailable, with a RangeError when it is empty, too long, or for nobody.
   */
  putSecret(id: string, sealed: string, replicas: readonly string[], ttlMs: number): Promise<void>;

  /** The sealed secret; undefined when it is gone. */
  readSecret(id: string): Promise<string | undefined>;

  /** This replica has it. After the last one it is gone. */
  settleSecret(id: string, replica: string): Promise<void>;
}

/** A sealed secret is no longer than this: two passwords of what a login page takes, and some. */
export const secretLimitCharacters = 16 * 1024;

/** What every store refuses of a secret. Throws a RangeError; nothing of the secret is in it. */
export function checkSecret(sealed: string, replicas: readonly string[], ttlMs: number): void {
  if (sealed === "" || sealed.length > secretLimitCharacters) {
    throw new RangeError(`a secret has 1 to ${secretLimitCharacters} characters`);
  }
  if (replicas.length === 0) throw new RangeError("a secret is for no replica");
  if (!Number.isSafeInteger(ttlMs) || ttlMs <= 0) {
    throw new RangeError(`a secret cannot hold for ${ttlMs} ms`);
  }
}
