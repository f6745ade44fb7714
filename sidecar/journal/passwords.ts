// Passwords: changed once, and so everywhere. The new one lies in the store's secrets until every replica has it
// (core/cluster/secret.ts), never in the journal, a log or an error.
//
// A user who changes their own password stays logged in at the server that did it, by the very token of the request
// (UserController.UpdateUserPassword ends the user's others). So it is done here by the caller's own token of this
// server. Where that does not serve (the password here was another, or a PIN changed it) the API key does it, which
// ends all of the user's tokens here: so their home leaves this replica first, and their tokens are minted anew, not
// before the change is done, which would end them as well.
//
// It promises that whoever was logged in and has a right to be stays so, and that a replica which missed a change for
// longer than its secret is kept says so.

import { isPlainId } from "../../core/cluster/identity.ts";
import type { Effect, Intent, Outcome, Placed } from "../../core/cluster/journal.ts";
import { readSecret } from "../../core/cluster/secret.ts";
import { userAliasesOf } from "../../core/cluster/user-aliases.ts";
import {
  fieldOf,
  type PasswordSecret,
  readPasswordFacts,
  readPasswordSecret,
  textField,
} from "../../core/jellyfin/documents.ts";
import { deviceOf } from "../act.ts";
import { again, appliedOf, byName, done, idHere, inStore, readUsers, refused } from "./calls.ts";
import { userLane } from "./documents.ts";
import type { Applied, JournalHandler, JournalHands, Published } from "./handler.ts";

/** So often a token of the caller that is on its way here is waited for. */
const tokenTries = 6;
const triesKept = 1000;

export function createPasswords(): JournalHandler {
  /** How often a change waited for the caller's token here, by the effect's id. */
  const tries = new Map<string, number>();

  return {
    kinds: ["password"],
    lane: ({ userId }) => userLane(userId),
    order: ({ userId }) => ({ whole: subjectOf(userId), waitsFor: userLane(userId) }),
    // Of a PIN only the server that took it knows whose password it is.
    subject: ({ userId }) => (userId === "" ? undefined : subjectOf(userId)),
    publish,
    apply: ({ entry }, hands) => apply(entry, hands, true),
    async redo({ entry: intent }, hands, isAgreed) {
      const how = readPasswordFacts(intent.facts)?.how;
      // A PIN is known to the server that gave it, and to nobody else.
      if (how === undefined || how === "pin") return refused("it cannot be done again elsewhere");
      return await apply(asEffect(intent), hands, isAgreed);
    },
  };

  async function apply(effect: Effect, hands: JournalHands, isAgreed: boolean): Promise<Applied> {
    const { payload, userId } = effect;
    const how = readPasswordFacts(payload)?.how;
    const here = idHere(hands, userId);
    if (how === undefined || !isPlainId(here)) return refused("its payload makes no sense");
    if (how === "reset") {
      // It ends no token (live: ResetPassword revokes nothing), so the API key serves.
      const path = `/Users/Password?userId=${here}`;
      const answer = await hands.client.callWithKey("POST", path, { ResetPassword: true });
      return appliedOf(answer, "setting a password back");
    }
    let secret: PasswordSecret | undefined;
    const failed = await inStore(hands, async () => {
      const text = await readSecret(hands.store, hands.seal, effect.of);
      secret = text === undefined ? undefined : readPasswordSecret(text);
    });
    if (failed !== undefined) return failed;
    if (secret === undefined) {
      return refused(
        `a password that was changed while ${hands.replica} was away is no longer kept: set that user's ` +
          `password again, or seed ${hands.replica} anew`,
      );
    }
    const applied = await change(effect, how, here, secret, hands, isAgreed);
    if (applied.outcome !== "done") return applied;
    tries.delete(effect.id);
    return (await settle(hands, effect.of)) ?? done;
  }

  async function change(
    effect: Effect,
    how: "own" | "other" | "pin",
    here: string,
    secret: PasswordSecret,
    hands: JournalHands,
    isAgreed: boolean,
  ): Promise<Applied> {
    if (how === "own") {
      const callerKey = textField(effect.payload, "identityKey") ?? "";
      const own = await withRoom(effect, hands, callerKey, () =>
        byCaller(effect, here, secret, hands),
      );
      // A server that does not know the token has not looked at the password either.
      if (own === "unknown" && !isAgreed) return again("the login's token is not known here");
      if (own !== "no" && own !== "unknown") return own;
      // No server has found the current password right.
      if (!isAgreed) return refused("whoever asked for it did not show the current password");
    }
    const byKey = async (): Promise<Applied> => {
      const path = `/Users/Password?userId=${here}`;
      const answer = await hands.client.callWithKey("POST", path, { NewPw: secret.next });
      return appliedOf(answer, "a new password");
    };
    return await withRoom(effect, hands, undefined, byKey);
  }

  /** By the caller's own token here. `no`: that does not serve. `unknown`: nor is the token known here any more. */
  async function byCaller(
    effect: Effect,
    here: string,
    { current, next }: PasswordSecret,
    hands: JournalHands,
  ): Promise<Applied | "no" | "unknown"> {
    const identity = hands.memory.identities.get(textField(effect.payload, "identityKey") ?? "");
    if (identity === undefined || Object.keys(identity.tokens).length === 0) return "no";
    const token = hands.memory.openToken(identity, hands.replica);
    if (token === undefined) {
      const tried = (tries.get(effect.id) ?? 0) + 1;
      if (tries.size >= triesKept) tries.clear();
      tries.set(effect.id, tried);
      return tried < tokenTries ? again("the login has no token here yet") : "no";
    }
    // An administrator who does not name themself is not asked for the current password.
    const isNamed = fieldOf(effect.payload, "isNamed") === true;
    const path = isNamed ? `/Users/Password?userId=${here}` : "/Users/Password";
    // Its own request may have been carried out here late, when the new one is the current one by now.
    for (const known of new Set([current, next])) {
      const body = { CurrentPw: known, NewPw: next };
      const answer = await hands.client.callAs(token, deviceOf(identity), "POST", path, body);
      const applied = appliedOf(answer, "a new password");
      if (answer.outcome === "answered" && answer.status === 401) return "unknown";
      if (applied.outcome !== "refused") return applied;
    }
    return "no";
  }
}

async function publish(
  { entry: intent }: Placed<Intent>,
  outcome: Outcome | undefined,
  hands: JournalHands,
): Promise<Published> {
  const facts = readPasswordFacts(intent.facts);
  if (facts === undefined) return { outcome: "given up", why: "its facts make no sense" };
  const failed = await settle(hands, intent.id);
  if (failed !== undefined) return { outcome: "again", why: "the store cannot be reached" };
  if (facts.how !== "pin") {
    return {
      outcome: "effects",
      effects: [{ userId: intent.userId, itemId: "", payload: asEffect(intent).payload }],
    };
  }
  const told = fieldOf(outcome?.facts, "names");
  const names = Array.isArray(told) ? told.filter((name) => typeof name === "string") : [];
  if (names.length === 0)
    return { outcome: "given up", why: "nobody's password was changed by it" };
  const read = await readUsers(hands);
  if (read.outcome === "failed") return { outcome: "again", why: "its users cannot be read" };
  const aliases = userAliasesOf(hands.memory, hands.seal);
  return {
    outcome: "effects",
    effects: names.flatMap((name) => {
      const user = byName(read.users, name);
      if (user === undefined) return [];
      const userId = aliases.knownId(hands.replica, user.id);
      return [{ userId, itemId: "", payload: { how: "pin" } }];
    }),
  };
}

function subjectOf(userId: string): string {
  return `password of ${userId}`;
}

function asEffect(intent: Intent): Effect {
  const how = readPasswordFacts(intent.facts)?.how;
  const { path, query } = intent.request;
  const isNamed = query !== "" || path !== "/Users/Password";
  return {
    type: "effect",
    id: intent.id,
    of: intent.id,
    ofNumber: 0,
    kind: "password",
    replica: "",
    userId: intent.userId,
    itemId: "",
    payload: { how, identityKey: intent.identityKey, isNamed },
  };
}

/** Longer than a change of a password takes, its second try included; a claim nobody gives back ends by then. */
const roomMs = 60_000;

/**
 * A new password ends the user's tokens here, but for the one it is changed by, also those of people who have a right
 * to stay: who logged in with the new password before it came here, or was there when a PIN set it. So their tokens
 * here are forgotten first, nothing is minted for them until it is done, and then they are minted anew. Where no token
 * is left to them, their home goes to the replica that has the new password.
 */
async function withRoom<End>(
  effect: Effect,
  hands: JournalHands,
  callerKey: string | undefined,
  deed: () => Promise<End>,
): Promise<End | Applied> {
  const { memory, store, replica } = hands;
  const owner = `password ${effect.id}`;
  const held: { key: string; generation: number; replica: string; owner: string }[] = [];
  let isBusy = false;
  try {
    const failed = await inStore(hands, async () => {
      if (callerKey === undefined) await leaveHome(effect, hands, owner);
      for (const { key, generation, tokens } of memory.identitiesOfUser(effect.userId)) {
        if (key === callerKey || Object.keys(tokens).length === 0) continue;
        const claim = { key, generation, replica, owner };
        if (!(await store.claimMint({ ...claim, ttlMs: roomMs }))) {
          // Its generation may have ended a moment ago; if not, a token is on its way here.
          isBusy = memory.identities.get(key)?.generation === generation;
          if (isBusy) return;
          continue;
        }
        held.push(claim);
        const token = tokens[replica];
        if (token !== undefined) await store.dropToken(key, generation, replica, token.hash);
      }
    });
    if (failed !== undefined) return failed;
    return isBusy ? again("a login of theirs is on its way here") : await deed();
  } finally {
    await inStore(hands, async () => {
      for (const claim of held) await store.releaseMint(claim);
    });
  }
}

async function leaveHome(effect: Effect, hands: JournalHands, owner: string): Promise<void> {
  const { memory, store, replica } = hands;
  const { userId, replica: to } = effect;
  const home = memory.homes.get(userId);
  if (home?.replica !== replica || to === "" || to === replica) return;
  const expectedEpoch = home.epoch.number;
  const claim = { userId, replica: to, expectedEpoch, owner, minStayMs: 0 };
  memory.apply({ type: "home", home: (await store.claimHome(claim)).home });
}

async function settle(hands: JournalHands, intentId: string): Promise<Applied | undefined> {
  return await inStore(hands, () => hands.store.settleSecret(intentId, hands.replica));
}
