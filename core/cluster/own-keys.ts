// The API keys by which the cluster itself works at its servers. Each sidecar writes down the hash of its own, so that
// every door keeps them from being shown or taken back, and every sidecar from being carried to other servers as if
// they were a client's. The note carries a MAC: whoever can write the store must not hide a key from its owner.
// The key itself lies beside it, sealed: sidecars that are processes of their own compare their server with another's,
// and fetch from it what is too large for the journal.

import type { Seal } from "../service/seal.ts";
import type { Note } from "../store/store.ts";
import type { Memory } from "./memory.ts";
import { provenText, provenValue } from "./proven.ts";

const hashPattern = /^[0-9a-f]{64}$/;

/** `sealed` is the key, sealed with `ownKeyContext`; left out: others of ours cannot use it. */
export function ownKeyText(
  replica: string,
  hash: string,
  seal: Pick<Seal, "mac">,
  sealed?: string,
): string {
  const text = sealed === undefined ? hash : `${hash} ${sealed}`;
  return provenValue(seal, { kind: "ownKey", id: replica }, text);
}

/** What a sealed key is bound to. */
export function ownKeyContext(replica: string, hash: string): string {
  return `own key\n${replica}\n${hash}`;
}

/** The hash in a note; undefined when it is none of ours. */
export function readOwnKey(note: Note, seal: Pick<Seal, "verifyMac">): string | undefined {
  return partsOf(note, seal)?.hash;
}

/** The key by which the cluster works at a replica; undefined while its sidecar has not told it. */
export function openOwnKey(
  memory: Pick<Memory, "note">,
  seal: Pick<Seal, "verifyMac" | "open">,
  replica: string,
): string | undefined {
  const note = memory.note("ownKey", replica);
  const parts = note === undefined ? undefined : partsOf(note, seal);
  if (parts?.sealed === undefined) return undefined;
  return seal.open(parts.sealed, ownKeyContext(replica, parts.hash));
}

function partsOf(
  note: Note,
  seal: Pick<Seal, "verifyMac">,
): { readonly hash: string; readonly sealed: string | undefined } | undefined {
  const [hash = "", sealed] = provenText(seal, note)?.split(" ") ?? [];
  return hashPattern.test(hash) ? { hash, sealed } : undefined;
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
