// The API keys by which the cluster itself works at its servers. Each sidecar writes down the hash of its own, so that
// every door keeps them from being shown or taken back, and every sidecar from being carried to other servers as if
// they were a client's. The note carries a MAC: whoever can write the store must not hide a key from its owner.

import type { Seal } from "../service/seal.ts";
import type { Note } from "../store/store.ts";
import type { Memory } from "./memory.ts";
import { provenText, provenValue } from "./proven.ts";

const hashPattern = /^[0-9a-f]{64}$/;

export function ownKeyText(replica: string, hash: string, seal: Pick<Seal, "mac">): string {
  return provenValue(seal, { kind: "ownKey", id: replica }, hash);
}

/** The hash in a note; undefined when it is none of ours. */
export function readOwnKey(note: Note, seal: Pick<Seal, "verifyMac">): string | undefined {
  const hash = provenText(seal, note);
  return hash !== undefined && hashPattern.test(hash) ? hash : undefined;
}

/** Hashes of all keys by which the cluster works. */
export function ownKeyHashes(memory: Memory, seal: Pick<Seal, "verifyMac">): ReadonlySet<string> {
  const hashes = new Set<string>();
  for (const note of memory.notes("ownKey").values()) {
    const hash = readOwnKey(note, seal);
    if (hash !== undefined) hashes.add(hash);
  }
  return hashes;
}
