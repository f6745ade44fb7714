// The deeds of the sidecar: a mint, a logout owed, a leftover session, a token that is checked. Each is one
// function that ends with a value; none of them decides whether it is to be done, but each looks again just
// before the step that cannot be taken back, because the world goes on while it waits for answers.
//
// A mint's order: claim → a token already valid here? → user there and not disabled → (accepted elsewhere
// now?) → look again → Initiate → Authorize → Authenticate → the expected user and device? → end the session
// → look again → record → give the claim back. decide.ts says why dying between any two is safe.

import {
  hashOf,
  type Identity,
  type IdentityFacts,
  type IdentityToken,
  sealContext,
} from "../core/cluster/identity.ts";
import type { Memory } from "../core/cluster/memory.ts";
import { userAliasesOf } from "../core/cluster/user-aliases.ts";
import type { CallFailure, JellyfinClient, ServerSession } from "../core/jellyfin/client.ts";
import type { DeviceFields } from "../core/jellyfin/credentials.ts";
import type { Seal } from "../core/service/seal.ts";
import { type Revocation, type Store, StoreUnavailable } from "../core/store/store.ts";
import { leftoversIn, type MintEnd, type MintProof, type Unrecorded } from "./decide.ts";

export interface Tools {
  readonly replica: string;
  readonly client: JellyfinClient;
  /** Clients of the other replicas, by name, as they are known now. */
  readonly peers: () => ReadonlyMap<string, JellyfinClient>;
  readonly store: Store;
  readonly seal: Seal;
  readonly memory: Memory;
  /** Names this process to the store; new at each start. */
  readonly bootNonce: string;
  readonly monotonicMs: () => number;
  /** How long a claim to mint holds, in ms. */
  readonly claimTtlMs: number;
  /** So long before its claim ends a mint gives up, in ms: longer than any one call takes. */
  readonly claimMarginMs: number;
  /** How many known tokens are tried here before a new one is minted. */
  readonly knownTokensTried: number;
  readonly log: { debug(message: string): void; warn(message: string): void };
}

export function deviceOf(identity: Identity): DeviceFields {
  const { client, device, deviceId, version } = identity;
  // Jellyfin wants all four (400 otherwise), and a login seen without its header may lack some.
  return {
    client: client === "" ? "Unknown" : client,
    device: device === "" ? "Unknown" : device,
    deviceId,
    version: version === "" ? "1" : version,
  };
}

/** What that replica calls the identity's user (core/cluster/user-aliases.ts). */
export function idAt({ memory, seal }: Tools, replica: string, { userId }: Identity): string {
  return userAliasesOf(memory, seal).idAt(replica, userId);
}

/** This server's sessions with the ids by which clients know its users. */
export function knownSessions(
  { memory, seal, replica }: Tools,
  sessions: readonly ServerSession[],
): readonly ServerSession[] {
  const aliases = userAliasesOf(memory, seal);
  if (aliases.size === 0) return sessions;
  return sessions.map((session) => ({
    ...session,
    userId: aliases.knownId(replica, session.userId),
  }));
}

function factsOf(identity: Identity): IdentityFacts {
  const { kind, userId, userName, deviceId, client, device, version } = identity;
  return { kind, userId, userName, deviceId, client, device, version };
}

// ---- Minting ----------------------------------------------------------------------------------------

/** Gets the identity a token of this replica, under a claim. */
export async function mint(tools: Tools, identity: Identity, proof: MintProof): Promise<MintEnd> {
  const { store, replica, bootNonce, claimTtlMs, claimMarginMs, monotonicMs } = tools;
  const { key, generation } = identity;
  const claim = { key, generation, replica, owner: bootNonce };
  const deadlineMs = monotonicMs() + claimTtlMs - claimMarginMs;
  try {
    if (!(await store.claimMint({ ...claim, ttlMs: claimTtlMs }))) return { end: "claimHeld" };
  } catch (error) {
    return storeAway(tools, error);
  }
  try {
    return await mintUnderClaim(tools, identity, proof, deadlineMs);
  } finally {
    // A claim that cannot be given back ends by itself.
    await store.releaseMint(claim).catch((error: unknown) => noteStoreFailure(tools, error));
  }
}

async function mintUnderClaim(
  tools: Tools,
  identity: Identity,
  proof: MintProof,
  deadlineMs: number,
): Promise<MintEnd> {
  const { client, replica, log } = tools;
  const adopted = await adopt(tools, identity);
  if (adopted !== undefined) return adopted;

  const userId = idAt(tools, replica, identity);
  const user = await client.user(userId);
  if (user.outcome === "failed") return serverAway(user);
  if (user.outcome === "refused") return { end: "keyRefused" };
  if (user.outcome === "unknownUser") return { end: "unknownUser", askedAs: userId };
  if (user.user.isDisabled) return { end: "disabled" };

  if (proof === "askOthers") {
    const opinion = await askOthers(tools, identity);
    if (opinion === "refused") return { end: "notAccepted" };
    if (opinion === "silent") return { end: "nobodyToAsk" };
  }

  const device = deviceOf(identity);
  const initiated = await client.quickConnectInitiate(device);
  if (initiated.outcome === "failed") return serverAway(initiated);
  if (initiated.outcome === "switchedOff") return { end: "switchedOff" };

  // From here on a token may exist, so this is the last moment to find that it must not.
  if (!isStillWanted(tools, identity)) return { end: "notWanted" };
  if (tools.monotonicMs() > deadlineMs) return { end: "late" };
  const authorized = await client.quickConnectAuthorize(initiated.code, userId);
  switch (authorized.outcome) {
    case "ok":
      break;
    case "failed":
      return serverAway(authorized);
    case "keyRefused":
    case "notAllowed":
      return { end: authorized.outcome };
    case "unknownUser":
      return { end: "unknownUser", askedAs: userId };
    case "unknownCode":
      return { end: "serverAway", message: "the server forgot the QuickConnect request" };
  }

  // The answer is the same for ten minutes, so it may be asked for again.
  let answer = await client.authenticateWithQuickConnect(initiated.secret);
  if (answer.outcome === "failed") {
    answer = await client.authenticateWithQuickConnect(initiated.secret);
  }
  if (answer.outcome === "failed") return serverAway(answer);
  if (answer.outcome === "unknownSecret") {
    return { end: "serverAway", message: "the server forgot the QuickConnect request" };
  }
  const { token } = answer;
  const isExpected =
    answer.user.id === userId &&
    (answer.deviceId === undefined || answer.deviceId === identity.deviceId);
  if (!isExpected) {
    await discard(tools, identity, token);
    return { end: "wrongIdentity" };
  }
  if (answer.user.isDisabled) {
    await discard(tools, identity, token);
    return { end: "disabled" };
  }

  const session = await client.endGhostSession(token, device);
  const ghostLeft = session.outcome === "failed";
  if (ghostLeft) log.debug(`the session of a mint at ${replica} is left: ${session.message}`);

  if (!isStillWanted(tools, identity) || tools.monotonicMs() > deadlineMs) {
    await discard(tools, identity, token);
    return { end: "late" };
  }
  const kept = await keep(tools, identity, token);
  if (kept === "recorded") return { end: "recorded", ghostLeft };
  if (kept === "unavailable") return { end: "unrecorded", token, ghostLeft };
  await discard(tools, identity, token);
  return { end: "stale" };
}

/**
 * A server that was copied from another knows the other's tokens of that day: such a token is recorded for
 * this replica, too, and nothing is minted, which would end it.
 */
async function adopt(tools: Tools, identity: Identity): Promise<MintEnd | undefined> {
  for (const token of knownTokens(tools, identity).slice(0, tools.knownTokensTried)) {
    const me = await tools.client.me(token);
    if (me.outcome === "failed") return serverAway(me);
    if (me.outcome !== "ok" || me.user.isDisabled) continue;
    if (me.user.id !== idAt(tools, tools.replica, identity)) continue;
    if (!isStillWanted(tools, identity)) return { end: "notWanted" };
    const kept = await keep(tools, identity, token);
    if (kept === "recorded") return { end: "adopted" };
    return { end: kept === "stale" ? "stale" : "storeAway" };
  }
  return undefined;
}

/** The identity's distinct tokens on other replicas, the one of its login first. */
function knownTokens(tools: Tools, identity: Identity): string[] {
  const names = Object.keys(identity.tokens);
  names.sort((left, right) => Number(right === identity.origin) - Number(left === identity.origin));
  const tokens = new Set<string>();
  for (const name of names) {
    const token = tools.memory.openToken(identity, name);
    if (token !== undefined) tokens.add(token);
  }
  return [...tokens];
}

/**
 * Whether another replica accepts the identity now. `refused`: every one that answered refuses it, or says
 * that the user is disabled. `silent`: none answered.
 */
export async function askOthers(
  tools: Tools,
  identity: Identity,
): Promise<"accepted" | "refused" | "silent"> {
  const { memory, replica } = tools;
  const questions: Promise<"accepted" | "refused" | "silent">[] = [];
  for (const [name, peer] of tools.peers()) {
    const token = name === replica ? undefined : memory.openToken(identity, name);
    if (token === undefined) continue;
    questions.push(
      peer.me(token).then((me) => {
        if (me.outcome === "failed") return "silent";
        const isAccepted =
          me.outcome === "ok" && me.user.id === idAt(tools, name, identity) && !me.user.isDisabled;
        return isAccepted ? "accepted" : "refused";
      }),
    );
  }
  const opinions = await Promise.all(questions);
  if (opinions.includes("accepted")) return "accepted";
  return opinions.includes("refused") ? "refused" : "silent";
}

/** False once the identity is of another generation, has ended, has its token, or the store is away. */
function isStillWanted(tools: Tools, identity: Identity): boolean {
  const { memory, replica } = tools;
  const current = memory.identities.get(identity.key);
  return (
    memory.storeAvailable &&
    current?.generation === identity.generation &&
    current.tokens[replica] === undefined &&
    Object.keys(current.tokens).length > 0
  );
}

async function keep(
  tools: Tools,
  identity: Identity,
  token: string,
): Promise<"recorded" | "stale" | "unavailable"> {
  const { store, memory, seal, replica } = tools;
  const { key, generation } = identity;
  try {
    const recorded = await store.addToken({
      key,
      facts: factsOf(identity),
      generation,
      replica,
      hash: hashOf(token),
      sealed: seal.seal(token, sealContext(key, generation, replica)),
    });
    if (recorded.outcome === "stale") return "stale";
    memory.apply({ type: "identity", identity: recorded.identity });
    return "recorded";
  } catch (error) {
    noteStoreFailure(tools, error);
    return "unavailable";
  }
}

/** Ends a token that must not be used. One that cannot be ended now is known to nobody. */
async function discard(tools: Tools, identity: Identity, token: string): Promise<void> {
  const ended = await tools.client.logout(token, deviceOf(identity));
  if (ended.outcome === "failed") {
    tools.log.warn(
      `a token minted at ${tools.replica} and not used could not be logged out (${ended.message}); ` +
        "nobody knows it, and the next mint for the device ends it",
    );
  }
}

/** Records a token the store could not take. Answers whether it is done with, also when it came too late. */
export async function record(tools: Tools, { identity, token }: Unrecorded): Promise<boolean> {
  const kept = await keep(tools, identity, token);
  if (kept === "unavailable") return false;
  if (kept === "stale") await discard(tools, identity, token);
  return true;
}

// ---- Everything else --------------------------------------------------------------------------------

/**
 * Logs the tokens of an ended generation out at this server. All of them, also other replicas', because a
 * server that was copied knows its origin's. Answers whether the store knows now that it is done.
 */
export async function settle(tools: Tools, revocation: Revocation): Promise<boolean> {
  const { client, store, memory, replica, log } = tools;
  const device: DeviceFields = { deviceId: revocation.deviceId };
  // An API key cannot be logged out (SessionManager.Logout): it is deleted.
  const isKey = revocation.userId === "" && revocation.identityKey.startsWith("apikey.");
  for (const token of revokedTokens(tools, revocation)) {
    const ended = isKey ? await deleteKey(tools, token) : await client.logout(token, device);
    if (ended.outcome === "failed") {
      log.debug(`a logout at ${replica} is tried again: ${ended.message}`);
      return false;
    }
  }
  try {
    await store.settleRevocation(revocation.id, replica);
  } catch (error) {
    noteStoreFailure(tools, error);
    return false;
  }
  const known = memory.revocations.get(revocation.id);
  if (known !== undefined) {
    const pending = known.pending.filter((name) => name !== replica);
    memory.apply({ type: "revocation", revocation: { ...known, pending } });
  }
  return true;
}

/** Never the key by which the cluster itself works here, whoever revoked it. */
async function deleteKey(
  { client }: Tools,
  key: string,
): Promise<{ readonly outcome: "done" } | CallFailure> {
  if (hashOf(key) === client.keyHash) return { outcome: "done" };
  const answer = await client.callWithKey("DELETE", `/Auth/Keys/${encodeURIComponent(key)}`);
  return answer.outcome === "failed" ? answer : { outcome: "done" };
}

function revokedTokens(tools: Tools, revocation: Revocation): string[] {
  const byHash = new Map<string, string>();
  for (const [name, token] of Object.entries(revocation.tokens)) {
    const opened = openRevoked(tools.seal, revocation, name, token);
    if (opened !== undefined) byHash.set(token.hash, opened);
    else {
      tools.log.warn(
        `a token to be logged out at ${tools.replica} was sealed with another cluster key: the door refuses ` +
          "it, but the server goes on accepting it",
      );
    }
  }
  return [...byHash.values()];
}

function openRevoked(
  seal: Seal,
  revocation: Revocation,
  replica: string,
  token: IdentityToken,
): string | undefined {
  const { identityKey, generation } = revocation;
  return seal.open(token.sealed, sealContext(identityKey, generation, replica));
}

/** Ends the session a mint left. Answers whether it is gone. */
export async function endGhost(tools: Tools, identity: Identity): Promise<boolean> {
  const token = tools.memory.openToken(identity, tools.replica);
  // Without its token the identity is minted for again, and that ends the session at the server.
  if (token === undefined) return true;
  const ended = await tools.client.endGhostSession(token, deviceOf(identity));
  return ended.outcome !== "failed";
}

export type Verified =
  | "valid"
  /** This server no longer knows the token: it was dropped, to be minted again. */
  | "dropped"
  /** This server refuses it and so does everybody: that is for the door to judge (design rule 4). */
  | "refusedByAll"
  | "unknown";

/**
 * Finds whether this server still knows the identity's token. Only a refusal of its own (401), while another
 * replica accepts the identity now, makes it forgotten.
 */
export async function verify(tools: Tools, identity: Identity): Promise<Verified> {
  const { memory, client, store, replica } = tools;
  const current = memory.identities.get(identity.key);
  const token = current === undefined ? undefined : memory.openToken(current, replica);
  if (current === undefined || token === undefined) return "valid";
  const me = await client.me(token);
  if (me.outcome === "failed") return "unknown";
  if (me.outcome !== "refused" || me.status !== 401) return "valid";
  const opinion = await askOthers(tools, current);
  if (opinion === "silent") return "unknown";
  if (opinion === "refused") return "refusedByAll";
  // A disabled user is refused here and is not to be minted for again.
  const user = await client.user(idAt(tools, replica, current));
  if (user.outcome !== "ok" || user.user.isDisabled) return "refusedByAll";
  try {
    await store.dropToken(current.key, current.generation, replica, hashOf(token));
  } catch (error) {
    noteStoreFailure(tools, error);
    return "unknown";
  }
  return "dropped";
}

/**
 * Looks through the server's sessions for those that interrupted mints left, ends what it can and lets the
 * server forget devices whose token nobody knows. Answers the identities whose session is still there, or
 * undefined when the sessions could not be read.
 */
export async function sweep(
  tools: Tools,
  refused: ReadonlySet<string>,
): Promise<readonly Identity[] | undefined> {
  const { client, memory, replica, log } = tools;
  const answer = await client.sessions();
  if (answer.outcome !== "ok") return undefined;
  const identities = [...memory.identities.values()].filter(({ kind }) => kind === "user");
  const { end, forget } = leftoversIn(
    knownSessions(tools, answer.sessions),
    identities,
    refused,
    replica,
  );
  for (const deviceId of forget) {
    const forgotten = await client.forgetDevice(deviceId);
    if (forgotten.outcome !== "done") {
      log.warn(`server ${replica} did not forget the token of an interrupted mint`);
    }
  }
  const left: Identity[] = [];
  for (const identity of end) if (!(await endGhost(tools, identity))) left.push(identity);
  return left;
}

// ---- Failures ---------------------------------------------------------------------------------------

function serverAway(failure: CallFailure): MintEnd {
  return { end: "serverAway", message: failure.message };
}

function storeAway(tools: Tools, error: unknown): MintEnd {
  noteStoreFailure(tools, error);
  return { end: "storeAway" };
}

/** The store being away is expected; anything else is a bug and goes on as one. */
function noteStoreFailure({ memory }: Tools, error: unknown): void {
  if (!(error instanceof StoreUnavailable)) throw error;
  memory.noteStoreFailure(error);
}
