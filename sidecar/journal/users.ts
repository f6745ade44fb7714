// Users: made, renamed, deleted once, and so everywhere. A user who is made on one server is made on the others under
// ids of their own, because Jellyfin gives out ids by chance; an alias says which belong together (core/cluster/
// user-aliases.ts). A login may have made its user, too (LDAP, SSO): what the server that let them in says of them is
// compared with what this one has.
//
// It promises that a user is found by id or by name before one is made, so that dying at any moment makes none twice;
// and that a login's end of wrong passwords, or one more of them, counts on every server.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { isPlainId, normalId } from "../../core/cluster/identity.ts";
import type { Effect, Intent, Outcome, Placed } from "../../core/cluster/journal.ts";
import { dropNote, putNote } from "../../core/cluster/notes.ts";
import { isOfWrongPassword, readSecret } from "../../core/cluster/secret.ts";
import {
  aliasNoteId,
  aliasText,
  type UserAlias,
  userAliasesOf,
} from "../../core/cluster/user-aliases.ts";
import {
  fieldOf,
  readPasswordSecret,
  readUserFacts,
  textField,
} from "../../core/jellyfin/documents.ts";
import { merged, saysNothingNew } from "../../core/jellyfin/per-server.ts";
import { objectOf } from "../../core/service/json.ts";
import {
  again,
  appliedOf,
  bodyOf,
  byId,
  byName,
  done,
  idHere,
  inStore,
  readJson,
  readUsers,
  refused,
  skipped,
  type UserHere,
  userHere,
  whyOf,
  writeJson,
} from "./calls.ts";
import { userLane } from "./documents.ts";
import type { Applied, JournalHandler, JournalHands, Published } from "./handler.ts";

/** What the keeping of aliases needs. */
export type AliasHands = Omit<JournalHands, "peer" | "leads" | "clock" | "startedAtMs">;

/** A view of a user's home page: its id is made of the user's where it stands for several libraries. */
interface View {
  readonly id: string;
  readonly key: string;
}

/** By what they are made for: the password of who may have been made without it, because their server failed at it. */
type HalfMade = Map<string, string>;
const halfMadeLimit = 100;

function halfMadeKey({ of }: Pick<Effect, "of">, name: string, { replica }: JournalHands): string {
  return `${replica}\n${of}\n${name.toUpperCase()}`;
}

export function createUsers(): JournalHandler {
  const halfMade: HalfMade = new Map();
  return {
    kinds: ["user"],
    repeatsOwn: true,
    lane: ({ userId }) => userLane(userId),
    order: ({ userId }) =>
      userId === "" ? {} : { holds: userLane(userId), waitsFor: userLane(userId) },
    publish,
    apply: ({ entry }, hands) => applyUser(entry, hands, halfMade),
    redo: (intent, hands) => redo(intent, hands, halfMade),
  };
}

// ---- What this server made of it --------------------------------------------------------------------------

async function publish(
  { entry: intent }: Placed<Intent>,
  outcome: Outcome | undefined,
  hands: JournalHands,
): Promise<Published> {
  const facts = readUserFacts(intent.facts);
  if (facts === undefined) return { outcome: "given up", why: "its facts make no sense" };
  const effect = (userId: string, payload: unknown): Published => ({
    outcome: "effects",
    effects: [{ userId, itemId: "", payload }],
  });
  switch (facts.what) {
    case "deleted":
      await dropAlias(hands, intent.userId);
      return effect(intent.userId, { what: "deleted" });
    case "updated": {
      const read = await readUsers(hands);
      if (read.outcome === "failed") return { outcome: "again", why: whyOf(read.applied) };
      const user = byId(read.users, idHere(hands, intent.userId));
      return effect(intent.userId, {
        what: "updated",
        name: facts.name,
        ...(user !== undefined && { configuration: user.configuration }),
      });
    }
    case "created":
    case "login":
      return await publishPresent(intent, outcome, hands);
  }
}

/** A user who is there now: the others look whether they have them, too. */
async function publishPresent(
  intent: Intent,
  outcome: Outcome | undefined,
  hands: JournalHands,
): Promise<Published> {
  const facts = readUserFacts(intent.facts);
  const told = outcome?.facts;
  const name = textField(told, "name") ?? textField(facts, "name");
  const read = await readUsers(hands);
  if (read.outcome === "failed") return { outcome: "again", why: whyOf(read.applied) };
  const knownId = idField(told, "id") ?? intent.userId;
  const here = knownId === "" ? "" : idHere(hands, knownId);
  const user =
    byId(read.users, here) ?? (name === undefined ? undefined : byName(read.users, name));
  if (user === undefined) return { outcome: "given up", why: "that user is not there any more" };
  const userId = knownId === "" ? user.id : knownId;
  const views = await viewsOf(hands, user.id);
  // Made again here after the server that made them first has died: clients know that one's id.
  if (userId !== user.id) await noteAlias(hands, userId, user.id, []);
  let hasPassword = facts?.what === "login";
  if (facts?.what === "created") {
    const failed = await inStore(hands, async () => {
      hasPassword = (await readSecret(hands.store, hands.seal, intent.id)) !== undefined;
      await hands.store.settleSecret(intent.id, hands.replica);
    });
    if (failed !== undefined) return { outcome: "again", why: whyOf(failed) };
  }
  const { policy, configuration } = user;
  const payload = { what: facts?.what, name: user.name, policy, configuration, views, hasPassword };
  return { outcome: "effects", effects: [{ userId, itemId: "", payload }] };
}

// ---- What another server has ------------------------------------------------------------------------------

async function applyUser(
  effect: Effect,
  hands: JournalHands,
  halfMade: HalfMade,
): Promise<Applied> {
  const { payload, userId } = effect;
  switch (fieldOf(payload, "what")) {
    case "created":
    case "login":
      return await applyPresent(effect, hands, halfMade);
    case "updated":
      return await applyUpdated(userId, payload, hands);
    case "deleted":
      return await applyDeleted(userId, hands);
    case "wrongPassword":
      return await applyWrongPassword(effect, hands);
    default:
      return refused("its payload makes no sense");
  }
}

async function applyPresent(
  effect: Effect,
  hands: JournalHands,
  halfMade: HalfMade,
): Promise<Applied> {
  const { payload, userId } = effect;
  const name = textField(payload, "name");
  if (name === undefined || !isPlainId(userId)) return refused("its payload makes no sense");
  const read = await readUsers(hands);
  if (read.outcome === "failed") return read.applied;
  const known = byId(read.users, idHere(hands, userId));
  if (known !== undefined) {
    if (fieldOf(payload, "what") === "created") return await settled(hands, effect.of, skipped);
    return await forgiveWrongPasswords(known, hands);
  }
  let user = byName(read.users, name);
  let isNew = false;
  if (user === undefined) {
    const made = await make(effect, name, hands, halfMade);
    if (made.outcome !== "made") return made.applied;
    user = made.user;
    isNew = true;
  }
  const unfinished = await finish(user, halfMadeKey(effect, name, hands), hands, halfMade);
  if (unfinished !== undefined) return unfinished;
  if (user.id !== userId) {
    const failed = await noteAlias(hands, userId, user.id, viewsIn(payload));
    if (failed !== undefined) return failed;
  }
  hands.log.info(
    isNew
      ? `user ${name} was made at ${hands.replica}, too`
      : `user ${name} is at ${hands.replica} already, under an id of its own`,
  );
  const brought = await bringDocuments(user, payload, hands);
  if (brought.outcome !== "done" && brought.outcome !== "skipped") return brought;
  return await settled(hands, effect.of, done);
}

type Made =
  | { readonly outcome: "made"; readonly user: UserHere }
  | { readonly outcome: "not"; readonly applied: Applied };

async function make(
  effect: Effect,
  name: string,
  hands: JournalHands,
  halfMade: HalfMade,
): Promise<Made> {
  const key = halfMadeKey(effect, name, hands);
  let password: string | undefined;
  const failed = await inStore(hands, async () => {
    const secret = await readSecret(hands.store, hands.seal, effect.of);
    password = secret === undefined ? undefined : readPasswordSecret(secret)?.next;
  });
  if (failed !== undefined) return { outcome: "not", applied: failed };
  if (password === undefined && fieldOf(effect.payload, "hasPassword") === true) {
    // It is not known here (made in a server's own page, or kept no longer). With none anybody would be let in.
    password = randomUUID();
    hands.log.warn(
      `user ${name} is made at ${hands.replica} with a password that nobody knows: set it again through the door, ` +
        "unless another program keeps it",
    );
  }
  const body = { Name: name, ...(password !== undefined && { Password: password }) };
  const answer = await hands.client.callWithKey("POST", "/Users/New", body);
  if (answer.outcome !== "answered" || answer.status !== 200) {
    const applied = appliedOf(answer, `making user ${name}`);
    const isUnheard = answer.outcome === "failed" && answer.seen === "nothing";
    if (applied.outcome === "again" && !isUnheard && password !== undefined) {
      if (halfMade.size >= halfMadeLimit) halfMade.clear();
      halfMade.set(key, password);
    }
    if (answer.outcome !== "answered") return { outcome: "not", applied };
    // The request itself, slower than whoever did it again, may have made them since they were looked for; or they were
    // made now, and their password was not set, which comes second (UserController.CreateUserByName).
    const read = await readUsers(hands);
    const made = read.outcome === "read" ? byName(read.users, name) : undefined;
    if (made === undefined) return { outcome: "not", applied };
    return { outcome: "made", user: made };
  }
  halfMade.delete(key);
  const user = userHere(jsonOf(answer.text));
  if (user !== undefined) return { outcome: "made", user };
  return { outcome: "not", applied: again("its answer to a new user cannot be read") };
}

/** Sets the password that was not set when they were made: without one anybody would be let in. */
async function finish(
  { id }: UserHere,
  key: string,
  hands: JournalHands,
  halfMade: HalfMade,
): Promise<Applied | undefined> {
  const password = halfMade.get(key);
  if (password === undefined) return undefined;
  const path = `/Users/Password?userId=${id}`;
  const set = await writeJson(hands, "POST", path, { NewPw: password }, "a new user's password");
  if (set.outcome === "done") halfMade.delete(key);
  return set.outcome === "done" ? undefined : set;
}

async function bringDocuments(
  user: UserHere,
  payload: unknown,
  hands: JournalHands,
): Promise<Applied> {
  const policy = objectOf(fieldOf(payload, "policy"));
  const wanted = policy === undefined ? undefined : merged("userPolicy", policy, user.policy);
  if (wanted !== undefined && !saysNothingNew(wanted, user.policy)) {
    const path = `/Users/${user.id}/Policy`;
    const applied = await writeJson(hands, "POST", path, wanted, "a user's policy");
    if (applied.outcome === "again") return applied;
    if (applied.outcome === "refused") hands.log.warn(`${hands.replica}: ${applied.why}`);
  }
  const configuration = objectOf(fieldOf(payload, "configuration"));
  if (configuration === undefined || saysNothingNew(configuration, user.configuration)) return done;
  const path = `/Users/Configuration?userId=${user.id}`;
  return await writeJson(hands, "POST", path, configuration, "a user's configuration");
}

async function applyUpdated(
  userId: string,
  payload: unknown,
  hands: JournalHands,
): Promise<Applied> {
  const name = textField(payload, "name");
  if (name === undefined) return refused("its payload makes no sense");
  const read = await readUsers(hands);
  if (read.outcome === "failed") return read.applied;
  const user = byId(read.users, idHere(hands, userId));
  if (user === undefined) return refused("that user is not there");
  const configuration = objectOf(fieldOf(payload, "configuration")) ?? user.configuration;
  if (user.name === name && saysNothingNew(configuration, user.configuration)) return skipped;
  // The policy is not looked at, but without its providers the whole is no UserDto (400).
  const body = { Id: user.id, Name: name, Configuration: configuration, Policy: user.policy };
  return await writeJson(hands, "POST", `/Users?userId=${user.id}`, body, "a user's new name");
}

/**
 * Half a second after a change of somebody's user data Jellyfin tells their sessions of it, and where they were deleted
 * meanwhile its process ends of it (UserDataChangeNotifier.UpdateTimerCallback; seen with 12.0). What was just carried
 * here must not take a second server along with the one where they were deleted.
 */
const restBeforeEndMs = 1000;

async function applyDeleted(userId: string, hands: JournalHands): Promise<Applied> {
  const read = await readUsers(hands);
  if (read.outcome === "failed") return read.applied;
  const here = idHere(hands, userId);
  if (byId(read.users, here) === undefined) {
    return (await dropAlias(hands, userId)) ?? skipped;
  }
  await sleep(restBeforeEndMs);
  const answer = await hands.client.callWithKey("DELETE", `/Users/${here}`);
  const isGone = answer.outcome === "answered" && answer.status === 404;
  const applied = isGone ? done : appliedOf(answer, "a user's end");
  if (applied.outcome !== "done") return applied;
  return (await dropAlias(hands, userId)) ?? done;
}

async function redo(
  { entry: intent }: Placed<Intent>,
  hands: JournalHands,
  halfMade: HalfMade,
): Promise<Applied> {
  const facts = readUserFacts(intent.facts);
  const asEffect = (payload: unknown): Effect => ({
    type: "effect",
    id: intent.id,
    of: intent.id,
    ofNumber: 0,
    kind: "user",
    replica: "",
    userId: intent.userId,
    itemId: "",
    payload,
  });
  switch (facts?.what) {
    case "created": {
      const read = await readUsers(hands);
      if (read.outcome === "failed") return read.applied;
      const known = byName(read.users, facts.name);
      const key = halfMadeKey({ of: intent.id }, facts.name, hands);
      if (known !== undefined) return (await finish(known, key, hands, halfMade)) ?? done;
      const made = await make(asEffect({}), facts.name, hands, halfMade);
      if (made.outcome !== "made") return made.applied;
      return (await finish(made.user, key, hands, halfMade)) ?? done;
    }
    case "updated":
      return await applyUpdated(
        intent.userId,
        { name: facts.name, configuration: configurationIn(intent, hands) },
        hands,
      );
    case "deleted":
      return await applyDeleted(intent.userId, hands);
    default:
      // Whoever logged in is let in by the servers that live; there is nothing to repeat.
      return refused("it is nothing that could be done again");
  }
}

/** What a request for a new name says of the configuration, which it sets with the name (UserController.UpdateUser). */
function configurationIn({ request }: Intent, hands: JournalHands): unknown {
  return fieldOf(jsonOf(bodyOf(request, hands) ?? ""), "Configuration");
}

// ---- Wrong passwords --------------------------------------------------------------------------------------

/**
 * One more wrong password, given at another server: it counts here, too, and locks the user out here when it is the
 * last that is allowed (UserManager.AuthenticateUser). Administrators cannot be disabled by a policy
 * (UserController.UpdateUserPolicy): their next wrong password here does it.
 */
async function applyWrongPassword(
  { payload, userId }: Effect,
  hands: JournalHands,
): Promise<Applied> {
  const who = textField(payload, "who");
  if (who === undefined && !isPlainId(userId)) return refused("its payload makes no sense");
  const read = await readUsers(hands);
  if (read.outcome === "failed") return read.applied;
  const user =
    who === undefined
      ? byId(read.users, idHere(hands, userId))
      : read.users.find(({ name }) => isOfWrongPassword(hands.seal, who, name));
  if (user === undefined || user.policy.IsDisabled === true) return skipped;
  const limit = countOf(user.policy.LoginAttemptsBeforeLockout);
  const count = countOf(user.policy.InvalidLoginAttemptCount) + 1;
  const isLast = limit > 0 && count >= limit;
  const isAdministrator = user.policy.IsAdministrator === true;
  const policy = {
    ...user.policy,
    InvalidLoginAttemptCount: count,
    ...(isLast && !isAdministrator && { IsDisabled: true }),
  };
  if (isLast) hands.log.info(`user ${user.name} is locked out at ${hands.replica}, too`);
  const path = `/Users/${user.id}/Policy`;
  return await writeJson(hands, "POST", path, policy, "a count of wrong passwords");
}

async function forgiveWrongPasswords(user: UserHere, hands: JournalHands): Promise<Applied> {
  if (countOf(user.policy.InvalidLoginAttemptCount) === 0) return skipped;
  const policy = { ...user.policy, InvalidLoginAttemptCount: 0 };
  const path = `/Users/${user.id}/Policy`;
  return await writeJson(hands, "POST", path, policy, "a count of wrong passwords");
}

// ---- Aliases ----------------------------------------------------------------------------------------------

/** Writes down what this server calls a user; undefined when it is written. */
async function noteAlias(
  hands: JournalHands,
  userId: string,
  here: string,
  elsewhere: readonly View[],
): Promise<Applied | undefined> {
  const { replica } = hands;
  const own = elsewhere.length === 0 ? [] : await viewsOf(hands, here);
  const views: Record<string, string> = {};
  for (const { id, key } of elsewhere) {
    const same = own.find((view) => view.key === key);
    if (same !== undefined && same.id !== id) views[id] = same.id;
  }
  return await putAlias(hands, { replica, userId, here, views });
}

async function putAlias(hands: AliasHands, alias: UserAlias): Promise<Applied | undefined> {
  const { replica, userId } = alias;
  const id = aliasNoteId(replica, userId);
  const note = { kind: "userAlias", id, replica, value: aliasText(alias, hands.seal) } as const;
  return await inStore(hands, () => putNote(hands, note, 0));
}

/**
 * Makes this replica's aliases what its server is now: one that was seeded anew has other ids than before, those of
 * the server that it was copied from. `done` when they are.
 */
export async function tidyAliases(hands: AliasHands): Promise<Applied> {
  const { memory, seal, replica, log } = hands;
  const aliases = userAliasesOf(memory, seal);
  if (aliases.size === 0) return skipped;
  const read = await readUsers(hands);
  if (read.outcome === "failed") return read.applied;
  const ids = new Set(read.users.map(({ id }) => id));
  const users = new Set(aliases.all().map(({ userId }) => userId));
  for (const userId of users) {
    const own = aliases.aliasOf(replica, userId);
    const isNative = ids.has(userId);
    if (own !== undefined && (isNative || !ids.has(own.here))) {
      log.info(`a user who had an id of their own at ${replica} has it no longer`);
      const failed = await dropAlias(hands, userId);
      if (failed !== undefined) return failed;
    }
    if (isNative || aliases.aliasOf(replica, userId) !== undefined) continue;
    // Copied from a server that calls them by another id: so does this one now.
    const copied = aliases.all().find((one) => one.userId === userId && ids.has(one.here));
    const failed = copied === undefined ? undefined : await putAlias(hands, { ...copied, replica });
    if (failed !== undefined) return failed;
  }
  return done;
}

async function dropAlias(hands: AliasHands, userId: string): Promise<Applied | undefined> {
  const { memory, seal, replica } = hands;
  if (userAliasesOf(memory, seal).aliasOf(replica, userId) === undefined) return undefined;
  const id = aliasNoteId(replica, userId);
  return await inStore(hands, () => dropNote(hands, { kind: "userAlias", id, replica }));
}

/** A user's views here. None when they cannot be read: then only the user's own id has an alias. */
export async function viewsOf(
  hands: Pick<JournalHands, "client">,
  here: string,
): Promise<readonly View[]> {
  const read = await readJson(hands, `/UserViews?userId=${here}`);
  const items = read.outcome === "read" ? fieldOf(read.value, "Items") : undefined;
  if (!Array.isArray(items)) return [];
  return items.flatMap((item) => {
    const id = idField(item, "Id");
    const key = `${textField(item, "CollectionType") ?? ""}/${textField(item, "Name") ?? ""}`;
    return id === undefined ? [] : [{ id, key }];
  });
}

function viewsIn(payload: unknown): readonly View[] {
  const views = fieldOf(payload, "views");
  if (!Array.isArray(views)) return [];
  return views.slice(0, 100).flatMap((view) => {
    const id = idField(view, "id");
    const key = textField(view, "key");
    return id === undefined || key === undefined ? [] : [{ id, key }];
  });
}

// ---- Small things -----------------------------------------------------------------------------------------

async function settle(hands: JournalHands, intentId: string): Promise<Applied | undefined> {
  if (intentId === "") return undefined;
  return await inStore(hands, () => hands.store.settleSecret(intentId, hands.replica));
}

/** This server has what the secret was for. */
async function settled(hands: JournalHands, intentId: string, applied: Applied): Promise<Applied> {
  return (await settle(hands, intentId)) ?? applied;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Whoever asks looks for fields, and finds none.
    return undefined;
  }
}

function idField(value: unknown, name: string): string | undefined {
  const id = normalId(textField(value, name) ?? "");
  return isPlainId(id) ? id : undefined;
}

function countOf(value: unknown): number {
  return typeof value === "number" && Number.isSafeInteger(value) ? value : 0;
}
