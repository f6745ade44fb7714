// Secrets of changes: a new password on its way to all replicas. It lies in the store's secrets (core/store/secrets.ts)
// under the id of its intent, sealed for that id alone, and nowhere else. Here is how it is sealed, and how long it is
// kept for a replica that is away.

import type { Seal } from "../service/seal.ts";
import type { Store } from "../store/store.ts";

/** A replica that was away longer has to be told again or seeded anew; nothing is kept for ever. */
export const secretKeepMs = 7 * 24 * 3_600_000;

/** What a secret is bound to, so that it cannot be passed off as that of another change. */
export function secretContext(intentId: string): string {
  return `secret of a change\n${intentId}`;
}

/** Keeps what `replicas` have to be told. Rejects with StoreUnavailable: the change must not be made then. */
export async function keepSecret(
  store: Pick<Store, "putSecret">,
  seal: Pick<Seal, "seal">,
  intentId: string,
  secret: string,
  replicas: readonly string[],
): Promise<void> {
  const sealed = seal.seal(secret, secretContext(intentId));
  await store.putSecret(intentId, sealed, replicas, secretKeepMs);
}

/** The secret of a change; undefined when it is gone, or was not sealed by this cluster for this change. */
export async function readSecret(
  store: Pick<Store, "readSecret">,
  seal: Pick<Seal, "open">,
  intentId: string,
): Promise<string | undefined> {
  const sealed = await store.readSecret(intentId);
  return sealed === undefined ? undefined : seal.open(sealed, secretContext(intentId));
}

/** The change was refused: nobody has to be told. */
export async function forgetSecret(
  store: Pick<Store, "settleSecret">,
  intentId: string,
  replicas: readonly string[],
): Promise<void> {
  for (const replica of replicas) await store.settleSecret(intentId, replica);
}

/** Who gave a wrong password, for those alone who know the name: people type passwords where their name belongs. */
export function wrongPasswordMac(seal: Pick<Seal, "mac">, name: string): string {
  return seal.mac("wrong password", name.toUpperCase());
}

export function isOfWrongPassword(
  seal: Pick<Seal, "verifyMac">,
  mac: string,
  name: string,
): boolean {
  return seal.verifyMac(mac, "wrong password", name.toUpperCase());
}
