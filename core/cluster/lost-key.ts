// What is left of the store when its cluster key was lost or changed: logins whose tokens nobody can open any more.
// Nothing breaks by that. A device's own token still works at the server that gave it, but nobody can carry it
// elsewhere. Nothing is thrown away for it either, because a process that was given a wrong key sees the very same.
// So the owner is told whom it concerns, and what to do.

import type { Seal } from "../service/seal.ts";
import { type Identity, sealContext } from "./identity.ts";

/** So many are named. */
const namedLimit = 10;

/** One sentence when some logins cannot be opened with this key; undefined when all can. */
export function lostKeySentence(
  identities: Iterable<Identity>,
  seal: Pick<Seal, "open">,
): string | undefined {
  const names: string[] = [];
  let count = 0;
  for (const identity of identities) {
    if (!isUnreadable(identity, seal)) continue;
    count++;
    const { kind, userName, device, deviceId, origin } = identity;
    const who = kind === "apiKey" ? "a program's API key" : `${userName} on ${device || deviceId}`;
    if (names.length < namedLimit) names.push(`${who} (${origin})`);
  }
  if (count === 0) return undefined;
  const more = count > names.length ? ` and ${count - names.length} more` : "";
  return (
    `${count} ${count === 1 ? "login is" : "logins are"} sealed with another cluster key: ${names.join(", ")}${more}.` +
    " Each goes on at the server in brackets; whoever finds that server gone must log in again. Give the former key" +
    " as --cluster-key and nobody has to, or begin with an empty store, in which each is known again when it comes"
  );
}

/** Any of its tokens tells: all are sealed with the same key. */
function isUnreadable({ key, generation, tokens }: Identity, seal: Pick<Seal, "open">): boolean {
  for (const [replica, { sealed }] of Object.entries(tokens)) {
    return seal.open(sealed, sealContext(key, generation, replica)) === undefined;
  }
  return false;
}
