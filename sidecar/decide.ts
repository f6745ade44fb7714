// What the sidecar does next, decided from one observation and nothing else. Pure: no clock, no call, no
// log. The deeds are in act.ts, and what a deed's end means for the next try is decided here, too.
//
// It covers the identities that need a token on this replica (design rule 12 says when minting is allowed),
// the logouts this replica still owes, the sessions a mint left behind, minted tokens the store could not
// take yet, and tokens this server may have forgotten.
//
// Dying between any two actions is safe, because every action starts from what the store and the server say
// and none relies on another having been finished:
// - a claim nobody gives back ends by itself (`claimTtlMs`);
// - a QuickConnect request nobody authorizes ends by itself at the server, and grants nothing;
// - a token that was minted and not recorded is known to nobody, and the server removes it at the next mint
//   for the same user and device (SessionManager.GetAuthorizationToken);
// - the session of such a mint counts for MaxActiveSessions and could make that next mint a 403: then the
//   sessions are looked through (`sweep`) and that device, known to nobody here, is forgotten first;
// - a session is ended before its token is recorded, so a recorded token has a leftover session only where
//   ending it failed: `sweep` finds those at each start and each return of the server;
// - a logout that was done and not settled is done again, which the server answers with 401: done.

import type { Identity } from "../core/cluster/identity.ts";
import type { HealthAnswer } from "../core/jellyfin/client.ts";
import { backOffMs } from "../core/service/loop.ts";
import type { Revocation } from "../core/store/store.ts";

/** What is remembered of tries that did not lead to the goal. Made anew when the generation changes. */
export interface Trial {
  readonly generation: number;
  readonly failures: number;
  /** When the last try ended, in ms of the monotonic clock. */
  readonly triedAtMs: number;
  /** Not tried again before, in ms of the monotonic clock. */
  readonly notBeforeMs: number;
  /** True when the cause was only that the server was away: forgotten as soon as it is back. */
  readonly serverWasAway: boolean;
  /** The server refused a further session: sessions left by a mint are to be looked for. */
  readonly sweepFirst: boolean;
  /** One sentence for the view and `explain`; undefined while it is nothing a person must know. */
  readonly problem: string | undefined;
}

/** A minted token which the store could not take yet. */
export interface Unrecorded {
  readonly identity: Identity;
  readonly token: string;
}

export interface Observation {
  /** Monotonic clock in ms. */
  readonly nowMs: number;
  /** The store's clock in ms since the epoch, as well as it is known; undefined: not yet. */
  readonly storeNowMs: number | undefined;
  readonly replica: string;
  /** How many other replicas the cluster has. */
  readonly otherReplicas: number;
  readonly health: HealthAnswer["state"] | "unknown";
  readonly healthReason: string;
  /** Undefined: not known yet. */
  readonly startupWizardCompleted: boolean | undefined;
  /** Whether QuickConnect is switched on at this server; undefined: not known yet. */
  readonly quickConnect: boolean | undefined;
  readonly storeLoaded: boolean;
  readonly storeAvailable: boolean;
  /** A sentence when another Jellybloom, with another store, keeps this server. */
  readonly rival: string | undefined;
  /** Identities of the cluster that have no token on this replica. */
  readonly lacking: ReadonlyMap<string, Identity>;
  /** Revocations this replica still owes, by id. */
  readonly owed: ReadonlyMap<string, Revocation>;
  /** Every revocation that is not settled everywhere yet: the last ended generation by identity key. */
  readonly endedGenerations: ReadonlyMap<string, number>;
  /** Sessions of our mints that could not be ended yet, by identity key. */
  readonly ghosts: ReadonlyMap<string, Identity>;
  readonly unrecorded: ReadonlyMap<string, Unrecorded>;
  /** Identities whose token here may be forgotten by this server. */
  readonly suspects: ReadonlyMap<string, Identity>;
  /** A start or a return of the server: sessions of interrupted mints are to be looked for. */
  readonly sweepDue: boolean;
  /** By action name (`nameOf`). */
  readonly trials: ReadonlyMap<string, Trial>;
  /** Names of the actions that run. */
  readonly running: ReadonlySet<string>;
  /** Users for whom an action runs that makes or ends sessions. */
  readonly busyUsers: ReadonlySet<string>;
  /** Keys of identities for which a request waits. */
  readonly urgent: ReadonlySet<string>;
}

export interface DecideLimits {
  /** Actions at one time. */
  readonly parallelLimit: number;
  /** How long after its start a login counts as just seen, in ms of the store's clock. */
  readonly freshLoginMs: number;
  /** First wait after a failure, in ms; it doubles. */
  readonly retryMinMs: number;
  /** Longest wait after a failure, in ms. */
  readonly retryMaxMs: number;
  /** Wait after a cause that only a person can change, in ms. */
  readonly problemRetryMs: number;
  /** So often ending a leftover session is tried before the user's next mint no longer waits for it. */
  readonly ghostTries: number;
}

export type Action =
  | { readonly type: "settle"; readonly revocation: Revocation }
  | { readonly type: "record"; readonly unrecorded: Unrecorded }
  | { readonly type: "mint"; readonly identity: Identity; readonly proof: MintProof }
  | { readonly type: "endGhost"; readonly identity: Identity }
  | { readonly type: "verify"; readonly identity: Identity }
  | { readonly type: "sweep" };

/** Why this mint is allowed: the login was just seen, or another replica must be asked first. */
export type MintProof = "freshLogin" | "askOthers";

export type MintVerdict =
  | { readonly verdict: "mint"; readonly proof: MintProof }
  /** It may be allowed later. */
  | { readonly verdict: "wait"; readonly reason: string }
  /** It is not allowed for this identity as it is. */
  | { readonly verdict: "never"; readonly reason: string };

export interface Decision {
  /** Most urgent first; together with what runs never more than `parallelLimit`. */
  readonly actions: readonly Action[];
  /** What is done and what is waited for, for the log. */
  readonly sentence: string;
}

/** One name for each action, so that it never runs twice at one time. */
export function nameOf(action: Action): string {
  switch (action.type) {
    case "settle":
      return `settle ${action.revocation.id}`;
    case "record":
      return `record ${action.unrecorded.identity.key}`;
    case "mint":
      return mintName(action.identity.key);
    case "endGhost":
      return `endGhost ${action.identity.key}`;
    case "verify":
      return `verify ${action.identity.key}`;
    case "sweep":
      return "sweep";
  }
}

function mintName(key: string): string {
  return `mint ${key}`;
}

/** The user whose sessions an action makes or ends; undefined: it does not touch any. */
export function userOf(action: Action): string | undefined {
  switch (action.type) {
    case "settle":
      return action.revocation.userId;
    case "mint":
    case "endGhost":
      return action.identity.userId;
    default:
      return undefined;
  }
}

export function decide(o: Observation, limits: DecideLimits): Decision {
  const candidates: Action[] = [];
  const waits = new Map<string, number>();
  const wait = (reason: string): void => {
    waits.set(reason, (waits.get(reason) ?? 0) + 1);
  };

  if (o.health === "healthy") {
    for (const revocation of o.owed.values()) candidates.push({ type: "settle", revocation });
  }
  if (o.storeLoaded && o.storeAvailable) {
    for (const unrecorded of o.unrecorded.values()) candidates.push({ type: "record", unrecorded });
  }
  if (o.health === "healthy" && o.storeLoaded && (o.sweepDue || sweepIsNeeded(o))) {
    candidates.push({ type: "sweep" });
  }
  if (o.health === "healthy") {
    for (const identity of o.ghosts.values()) candidates.push({ type: "endGhost", identity });
  }
  const blocks = blocksOf(o, limits);
  const mints: { readonly identity: Identity; readonly proof: MintProof }[] = [];
  for (const identity of o.lacking.values()) {
    const verdict = mintVerdict(identity, o, limits, blocks);
    if (verdict.verdict === "mint") mints.push({ identity, proof: verdict.proof });
    else if (verdict.verdict === "wait") wait(verdict.reason);
  }
  mints.sort((left, right) => byUrgency(left.identity, right.identity, o.urgent));
  for (const mint of mints) candidates.push({ type: "mint", ...mint });
  if (o.health === "healthy" && o.storeAvailable && o.otherReplicas > 0) {
    for (const identity of o.suspects.values()) candidates.push({ type: "verify", identity });
  }

  const actions = choose(candidates, o, limits);
  return { actions, sentence: sentenceOf(o, actions, waits) };
}

/** Whether this replica's sidecar may and should mint for an identity now (design rule 12). */
export function mintVerdict(
  identity: Identity,
  o: Observation,
  limits: DecideLimits,
  blocks: MintBlocks = blocksOf(o, limits),
): MintVerdict {
  const never = (reason: string): MintVerdict => ({ verdict: "never", reason });
  const wait = (reason: string): MintVerdict => ({ verdict: "wait", reason });

  if (identity.kind === "apiKey") return never("an API key has no user to mint for");
  if (identity.userId === "" || identity.deviceId === "") {
    return never("it has no user or no device");
  }
  if (Object.keys(identity.tokens).length === 0) return never("the login has ended");
  if (identity.tokens[o.replica] !== undefined) return never("it has its token here");
  if (o.unrecorded.has(identity.key)) {
    return wait("the store has not taken a minted token yet");
  }
  if (o.otherReplicas === 0) return never("there is no other replica");
  if (!o.storeLoaded || o.storeNowMs === undefined) return wait("the store was not read yet");
  if (!o.storeAvailable) return wait("the store cannot be reached (failsafe)");
  if (o.rival !== undefined) return wait(o.rival);
  if (o.health !== "healthy") return wait(`server ${o.replica} is not healthy (${o.healthReason})`);
  if (o.startupWizardCompleted === false) {
    return wait(`the startup wizard of server ${o.replica} is not complete`);
  }
  if (o.quickConnect === false) return wait(quickConnectOff(o.replica));
  const ended = o.endedGenerations.get(identity.key);
  if (ended !== undefined && ended >= identity.generation) return never("the login has ended");
  if (blocks.identities.has(identity.key) || blocks.devices.has(identity.deviceId)) {
    return wait("a logout of the same device comes first");
  }
  if (o.busyUsers.has(identity.userId)) return wait("another login of the same user comes first");
  if (blocks.users.has(identity.userId)) {
    return wait("the session of the user's last mint is not ended yet");
  }
  const trial = trialFor(mintName(identity.key), identity.generation, o);
  if (trial !== undefined && notBeforeMs(trial, o.urgent.has(identity.key), limits) > o.nowMs) {
    return wait(trial.problem ?? "it is tried again in a moment");
  }
  const ageMs = o.storeNowMs - identity.startedAtMs;
  // A clock that was set back must not make an old login look young for ever.
  const isFresh = Math.abs(ageMs) <= limits.freshLoginMs;
  return { verdict: "mint", proof: isFresh ? "freshLogin" : "askOthers" };
}

export function quickConnectOff(replica: string): string {
  return `QuickConnect is off at server ${replica}`;
}

/** What must come before a mint, gathered once for all identities. */
export interface MintBlocks {
  /** Identities and devices that this replica still owes a logout. */
  readonly identities: ReadonlySet<string>;
  readonly devices: ReadonlySet<string>;
  /** Users with a leftover session here, which could make their next mint one session too many. */
  readonly users: ReadonlySet<string>;
}

function blocksOf(o: Observation, limits: DecideLimits): MintBlocks {
  const identities = new Set<string>();
  const devices = new Set<string>();
  for (const revocation of o.owed.values()) {
    identities.add(revocation.identityKey);
    // A logout ends every session with the device id, whoever's it is (SessionManager.Logout), so a token
    // minted before it would lose its session again.
    devices.add(revocation.deviceId);
  }
  const users = new Set<string>();
  for (const ghost of o.ghosts.values()) {
    const tries = o.trials.get(`endGhost ${ghost.key}`)?.failures ?? 0;
    if (tries < limits.ghostTries) users.add(ghost.userId);
  }
  return { identities, devices, users };
}

function sweepIsNeeded(o: Observation): boolean {
  for (const [name, trial] of o.trials) {
    if (trial.sweepFirst && name.startsWith("mint ")) return true;
  }
  return false;
}

function trialFor(name: string, generation: number, o: Observation): Trial | undefined {
  const trial = o.trials.get(name);
  return trial?.generation === generation ? trial : undefined;
}

/** While a request waits, only a cause that a person must change is waited out in full. */
function notBeforeMs(trial: Trial, isUrgent: boolean, limits: DecideLimits): number {
  const mayHurry = isUrgent && trial.problem === undefined;
  return mayHurry ? trial.triedAtMs + limits.retryMinMs : trial.notBeforeMs;
}

/** Identities a request waits for first, then the youngest login: it is the one in use. */
function byUrgency(left: Identity, right: Identity, urgent: ReadonlySet<string>): number {
  const leftIsUrgent = urgent.has(left.key);
  if (leftIsUrgent !== urgent.has(right.key)) return leftIsUrgent ? -1 : 1;
  return right.startedAtMs - left.startedAtMs;
}

/** Takes candidates in their order, each at most once, one for each user, within the limit. */
function choose(
  candidates: readonly Action[],
  o: Observation,
  limits: DecideLimits,
): readonly Action[] {
  const actions: Action[] = [];
  const users = new Set(o.busyUsers);
  for (const action of candidates) {
    if (actions.length + o.running.size >= limits.parallelLimit) break;
    const name = nameOf(action);
    if (o.running.has(name)) continue;
    const trial = o.trials.get(name);
    if (action.type !== "mint" && trial !== undefined && trial.notBeforeMs > o.nowMs) continue;
    const user = userOf(action);
    if (user !== undefined && users.has(user)) continue;
    if (user !== undefined) users.add(user);
    actions.push(action);
  }
  return actions;
}

function sentenceOf(
  o: Observation,
  actions: readonly Action[],
  waits: ReadonlyMap<string, number>,
): string {
  const parts: string[] = [];
  const counted = (type: Action["type"], one: string, many: string): void => {
    const count = actions.filter((action) => action.type === type).length;
    if (count > 0) parts.push(`${count} ${count === 1 ? one : many}`);
  };
  counted("settle", "logout", "logouts");
  counted("record", "minted token to record", "minted tokens to record");
  counted("mint", "token to mint", "tokens to mint");
  counted("endGhost", "leftover session to end", "leftover sessions to end");
  counted("verify", "token to check", "tokens to check");
  if (actions.some((action) => action.type === "sweep")) parts.push("sessions to look through");
  const health =
    o.health === "healthy"
      ? `server ${o.replica} is healthy`
      : `server ${o.replica} is not healthy (${o.healthReason})`;
  const doing = parts.length === 0 ? "no action" : parts.join(", ");
  const waiting = [...waits].map(([reason, count]) => `${count} waiting: ${reason}`);
  return [`${doing}: ${health}`, ...waiting].join("; ");
}

// ---- What an end of a deed means for the next try ---------------------------------------------------

export type MintEnd =
  | { readonly end: "recorded"; readonly ghostLeft: boolean }
  /** A token of another replica is valid here as it is (the servers are copies), and was recorded. */
  | { readonly end: "adopted" }
  /** Another process mints for this identity, or the generation is another by now. */
  | { readonly end: "claimHeld" }
  | { readonly end: "stale" }
  | { readonly end: "notWanted" }
  | { readonly end: "notAccepted" }
  | { readonly end: "nobodyToAsk" }
  | { readonly end: "disabled" }
  /** `askedAs`: the id that the server was asked for. */
  | { readonly end: "unknownUser"; readonly askedAs: string }
  | { readonly end: "switchedOff" }
  | { readonly end: "notAllowed" }
  | { readonly end: "keyRefused" }
  | { readonly end: "wrongIdentity" }
  | { readonly end: "late" }
  | { readonly end: "storeAway" }
  /** Minted, and the store did not take it: it is to be recorded later. */
  | { readonly end: "unrecorded"; readonly token: string; readonly ghostLeft: boolean }
  | { readonly end: "serverAway"; readonly message: string };

/** The trial after a mint's end; undefined: nothing to remember. */
export function afterMint(
  end: MintEnd,
  known: Trial | undefined,
  identity: Identity,
  replica: string,
  nowMs: number,
  limits: DecideLimits,
): Trial | undefined {
  const failures = (known?.generation === identity.generation ? known.failures : 0) + 1;
  const base = {
    generation: identity.generation,
    failures,
    triedAtMs: nowMs,
    serverWasAway: false,
    sweepFirst: false,
    problem: undefined,
  };
  const soon: Trial = { ...base, notBeforeMs: nowMs + waitMs(failures, limits) };
  const whenSomebodyActs = (problem: string): Trial => ({
    ...base,
    notBeforeMs: nowMs + limits.problemRetryMs,
    problem,
  });
  switch (end.end) {
    case "recorded":
    case "adopted":
    case "unrecorded":
      return undefined;
    // The memory may be a moment behind the store: trying at once would only find the same again.
    case "stale":
    case "notWanted":
    case "claimHeld":
    case "late":
    case "storeAway":
    case "nobodyToAsk":
      return soon;
    case "notAccepted":
      return whenSomebodyActs("no other server accepts this login now");
    case "disabled":
      return whenSomebodyActs(`the user is disabled at server ${replica}`);
    case "unknownUser":
      return whenSomebodyActs(
        `server ${replica} does not have the user ${identity.userId} yet, who is made there, too`,
      );
    case "switchedOff":
      return whenSomebodyActs(quickConnectOff(replica));
    case "keyRefused":
      return whenSomebodyActs(`server ${replica} refuses its API key`);
    case "wrongIdentity":
      return whenSomebodyActs(`server ${replica} answered a mint with another user or device`);
    case "notAllowed":
      return {
        ...soon,
        sweepFirst: true,
        problem: `server ${replica} allows this user no further session (MaxActiveSessions), or not this device`,
      };
    case "serverAway":
      return { ...soon, serverWasAway: true };
  }
}

/** The trial after an action other than a mint; undefined: done. */
export function afterOther(
  done: boolean,
  known: Trial | undefined,
  nowMs: number,
  limits: DecideLimits,
): Trial | undefined {
  if (done) return undefined;
  const failures = (known?.failures ?? 0) + 1;
  return {
    generation: 0,
    failures,
    triedAtMs: nowMs,
    notBeforeMs: nowMs + waitMs(failures, limits),
    serverWasAway: false,
    sweepFirst: false,
    problem: undefined,
  };
}

/** Doubles from `retryMinMs` up to `retryMaxMs`. One sidecar per server: there is no herd to spread. */
function waitMs(failures: number, limits: DecideLimits): number {
  return backOffMs(failures, { firstMs: limits.retryMinMs, longestMs: limits.retryMaxMs }, 1);
}

// ---- Sessions that mints left behind ----------------------------------------------------------------

/** A session as `GET /Sessions` tells it, as far as needed here. */
export interface SeenSession {
  readonly userId: string;
  readonly deviceId: string;
  /** Empty when no request of a client has reached it. */
  readonly remoteEndPoint: string;
}

export interface Leftovers {
  /** Their token is known here: a socket with it ends the session. */
  readonly end: readonly Identity[];
  /** Device ids whose token here is known to nobody: the server is to forget the device. */
  readonly forget: readonly string[];
}

/**
 * Sessions that interrupted mints left at `replica`. A mint's session has no remote address, because no
 * client's request has ever reached it. The replica where the login was made is left alone: there the
 * session may be the client's own, made by its QuickConnect login a moment ago.
 * `refused` are the keys of identities whose mint the server refused for too many sessions.
 */
export function leftoversIn(
  sessions: readonly SeenSession[],
  identities: readonly Identity[],
  refused: ReadonlySet<string>,
  replica: string,
): Leftovers {
  const untouched = new Set<string>();
  for (const session of sessions) {
    if (session.remoteEndPoint === "") untouched.add(pair(session.userId, session.deviceId));
  }
  const devicesInUse = new Set<string>();
  for (const identity of identities) {
    if (identity.tokens[replica] !== undefined) devicesInUse.add(identity.deviceId);
  }
  const end: Identity[] = [];
  const forget = new Set<string>();
  for (const identity of identities) {
    if (!untouched.has(pair(identity.userId, identity.deviceId))) continue;
    if (identity.tokens[replica] !== undefined) {
      if (identity.origin !== replica) end.push(identity);
    } else if (refused.has(identity.key) && !devicesInUse.has(identity.deviceId)) {
      // Forgetting a device ends the tokens of all its users, so never while one of them is in use here.
      forget.add(identity.deviceId);
    }
  }
  return { end, forget: [...forget] };
}

function pair(userId: string, deviceId: string): string {
  return `${userId}\n${deviceId}`;
}
