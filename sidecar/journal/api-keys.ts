// API keys of clients such as Sonarr: one key is as good on every server. Each server makes its own keys and tells
// nobody which (POST /Auth/Keys answers 204), so a client's key is paired with one of each server: an identity of kind
// `apiKey`, whose token at each replica is that replica's key. The door puts the right one in.
//
// Whatever makes a key, this sidecar finds it in its server's list, and makes its part of keys that others found. What
// was revoked is deleted by the same revocations that log users out (act.ts).
//
// It promises that the cluster's own keys are never taken for a client's, that a key is paired by its fingerprint and
// not by its name, and that a key which was deleted at one server's own page is made there again: keys are taken back
// through the door.

import {
  apiKeyIdentityKey,
  hashOf,
  type Identity,
  type IdentityFacts,
  sealContext,
} from "../../core/cluster/identity.ts";
import type { Effect, Intent, Placed } from "../../core/cluster/journal.ts";
import { putNote } from "../../core/cluster/notes.ts";
import {
  openOwnKey,
  ownKeyContext,
  ownKeyHashes,
  ownKeyText,
} from "../../core/cluster/own-keys.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { fieldOf, textField } from "../../core/jellyfin/documents.ts";
import { again, appliedOf, done, inStore, readJson } from "./calls.ts";
import type { Applied, JournalHandler, JournalHands, Published } from "./handler.ts";

/** A key in a server's list. */
interface ListedKey {
  readonly token: string;
  readonly name: string;
}

/** More keys than this no household has: those beyond are left alone. */
const keysLimit = 200;
const unnamed = "Jellybloom";

export type KeyHands = Omit<JournalHands, "peer" | "leads" | "clock" | "startedAtMs">;

export function createApiKeys(): JournalHandler {
  return {
    kinds: ["apiKey"],
    lane: () => "api keys",
    publish: async (_intent: Placed<Intent>, _outcome, hands): Promise<Published> => {
      const looked = await lookAtKeys(hands);
      if (looked.outcome === "again") return { outcome: "again", why: looked.why };
      // What it says is only «look»: the keys themselves are in the store, sealed.
      return { outcome: "effects", effects: [{ userId: "", itemId: "", payload: {} }] };
    },
    apply: (_effect: Placed<Effect>, hands) => lookAtKeys(hands),
    async redo({ entry: intent }, hands) {
      const name = textField(intent.facts, "name") ?? unnamed;
      return await makeKey(hands, name);
    },
  };
}

/**
 * Brings the cluster's keys and this server's list together. `done` when they are; the sidecar calls it at its start,
 * now and then, and whenever there is a key that has no part here.
 */
export function lookAtKeys(hands: KeyHands): Promise<Applied> {
  // Two looks side by side would each make a part of the same key.
  const before = looks.get(hands.client) ?? Promise.resolve();
  const look = before.then(() => lookOnce(hands));
  looks.set(
    hands.client,
    look.catch(() => undefined),
  );
  return look;
}

/** The last look at each server. */
const looks = new WeakMap<JellyfinClient, Promise<unknown>>();

async function lookOnce(hands: KeyHands): Promise<Applied> {
  const failed = await tellOwnKey(hands);
  if (failed !== undefined) return failed;
  const own = ownKeyHashes(hands.memory, hands.seal);
  const listed = await listKeys(hands);
  if (listed.outcome === "failed") return listed.applied;
  const keys = listed.keys.filter(({ token }) => !own.has(hashOf(token))).slice(0, keysLimit);
  for (const key of keys) {
    const taken = await takeUp(hands, key);
    if (taken !== undefined) return taken;
  }
  for (const identity of lackingKeys(hands, listed.keys)) {
    const made = await makePart(hands, identity);
    if (made.outcome !== "done") return made;
  }
  return done;
}

/** Identities of keys that work elsewhere and not here, or whose key this server no longer has. */
export function lackingKeys(
  { memory, replica }: KeyHands,
  listed: readonly ListedKey[],
): readonly Identity[] {
  const here = new Set(listed.map(({ token }) => hashOf(token)));
  const lacking: Identity[] = [];
  for (const identity of memory.identities.values()) {
    if (identity.kind !== "apiKey" || Object.keys(identity.tokens).length === 0) continue;
    const token = identity.tokens[replica];
    if (token === undefined || !here.has(token.hash)) lacking.push(identity);
  }
  return lacking;
}

/** A key of this server's list that the cluster may not know yet. Undefined when it does. */
async function takeUp(hands: KeyHands, { token, name }: ListedKey): Promise<Applied | undefined> {
  const { memory, replica, log, client } = hands;
  const standing = memory.standingOf(token);
  switch (standing.standing) {
    case "current":
      return standing.identity.tokens[replica] === undefined
        ? await keep(hands, standing.identity.key, factsOf(standing.identity), token)
        : undefined;
    case "revoked": {
      // It was taken back through the door, while this server was away perhaps.
      const path = `/Auth/Keys/${encodeURIComponent(token)}`;
      const gone = appliedOf(await client.callWithKey("DELETE", path), "a key's end");
      return gone.outcome === "done" ? undefined : gone;
    }
    case "unknown":
      log.info(`the API key "${name}" of server ${replica} works on every server from now on`);
      return await keep(hands, apiKeyIdentityKey(token), newFacts(name), token);
  }
}

/** Makes this server's part of a key: a key of its own, found by what is new in the list. */
async function makePart(hands: KeyHands, identity: Identity): Promise<Applied> {
  const { memory, replica, log } = hands;
  const before = await listKeys(hands);
  if (before.outcome === "failed") return before.applied;
  // A server that was copied from another has the other's very key.
  const known = knownKey(hands, identity, before.keys);
  if (known !== undefined) {
    return (await keep(hands, identity.key, factsOf(identity), known)) ?? done;
  }
  const name = identity.client === "" ? unnamed : identity.client;
  if (identity.tokens[replica] !== undefined) {
    log.warn(
      `the API key "${name}" is gone from server ${replica} and is made there again: a key is taken back through ` +
        "the door, on the page of API keys",
    );
  }
  const made = await makeKey(hands, name);
  if (made.outcome !== "done") return made;
  const after = await listKeys(hands);
  if (after.outcome === "failed") return after.applied;
  const old = new Set(before.keys.map(({ token }) => token));
  const found = after.keys.find(
    ({ token, name: own }) =>
      !old.has(token) && own === name && memory.standingOf(token).standing === "unknown",
  );
  if (found === undefined) return again("a new key is not in its list");
  return (await keep(hands, identity.key, factsOf(identity), found.token)) ?? done;
}

function knownKey(
  { memory }: KeyHands,
  identity: Identity,
  listed: readonly ListedKey[],
): string | undefined {
  const here = new Set(listed.map(({ token }) => token));
  for (const replica of Object.keys(identity.tokens)) {
    const token = memory.openToken(identity, replica);
    if (token !== undefined && here.has(token)) return token;
  }
  return undefined;
}

async function makeKey({ client }: KeyHands, name: string): Promise<Applied> {
  const path = `/Auth/Keys?app=${encodeURIComponent(name.toWellFormed())}`;
  return appliedOf(await client.callWithKey("POST", path), "a new key");
}

/** Notes that this key is the identity's here; undefined when it is noted. */
async function keep(
  hands: KeyHands,
  key: string,
  facts: IdentityFacts,
  token: string,
): Promise<Applied | undefined> {
  const { store, memory, seal, replica } = hands;
  return await inStore(hands, async () => {
    let generation = memory.identities.get(key)?.generation ?? 0;
    // Somebody else may note the same key at this moment; then theirs is gone on from.
    for (let tries = 0; tries < 3; tries++) {
      const sealed = seal.seal(token, sealContext(key, generation || 1, replica));
      const hash = hashOf(token);
      const answer = await store.addToken({ key, facts, generation, replica, hash, sealed });
      if (answer.outcome === "recorded") {
        memory.apply({ type: "identity", identity: answer.identity });
        return;
      }
      if (answer.generation === generation) return;
      generation = answer.generation;
    }
  });
}

async function tellOwnKey(hands: KeyHands): Promise<Applied | undefined> {
  const { memory, seal, client, replica } = hands;
  const { keyHash, sealedKey } = client;
  if (keyHash === undefined || sealedKey === undefined) return undefined;
  const told = openOwnKey(memory, seal, replica);
  if (told !== undefined && hashOf(told) === keyHash) return undefined;
  const sealed = sealedKey((key) => seal.seal(key, ownKeyContext(replica, keyHash)));
  const value = ownKeyText(replica, keyHash, seal, sealed);
  const note = { kind: "ownKey", id: replica, replica, value } as const;
  return await inStore(hands, () => putNote(hands, note, 0));
}

type KeysListed =
  | { readonly outcome: "read"; readonly keys: readonly ListedKey[] }
  | { readonly outcome: "failed"; readonly applied: Applied };

async function listKeys(hands: KeyHands): Promise<KeysListed> {
  const read = await readJson(hands, "/Auth/Keys");
  if (read.outcome === "unknown") return { outcome: "failed", applied: again("it lists no keys") };
  if (read.outcome === "failed") return read;
  const items = fieldOf(read.value, "Items");
  if (!Array.isArray(items)) return { outcome: "failed", applied: again("it lists no keys") };
  const keys = items.flatMap((item) => {
    const token = textField(item, "AccessToken");
    return token === undefined ? [] : [{ token, name: textField(item, "AppName") ?? "" }];
  });
  return { outcome: "read", keys };
}

function newFacts(name: string): IdentityFacts {
  return {
    kind: "apiKey",
    userId: "",
    userName: "",
    deviceId: "",
    client: name,
    device: "",
    version: "",
  };
}

function factsOf(identity: Identity): IdentityFacts {
  const { kind, userId, userName, deviceId, client, device, version } = identity;
  return { kind, userId, userName, deviceId, client, device, version };
}
