// Logins as this proxy sees them: an AuthenticationResult that passes, a valid token seen for the first
// time, a logout or whatever else ends tokens. Each becomes one transition in the store, applied to this
// process's memory at once. While the store is away a login counts in this process and is told to the
// store when it is back.

import {
  apiKeyIdentityKey,
  hashOf,
  type Identity,
  type IdentityFacts,
  identityKey,
  normalId,
  sealContext,
} from "../core/cluster/identity.ts";
import type { Memory } from "../core/cluster/memory.ts";
import type { JellyfinClient, MeAnswer } from "../core/jellyfin/client.ts";
import type { Credentials } from "../core/jellyfin/credentials.ts";
import type { Log } from "../core/service/log.ts";
import type { Metrics } from "../core/service/metrics.ts";
import type { Seal } from "../core/service/seal.ts";
import { type Store, StoreUnavailable } from "../core/store/store.ts";

export interface LoginsOptions {
  readonly store: Store;
  readonly memory: Memory;
  readonly seal: Seal;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly now: () => number;
  /** What clients call the user whom that replica knows by an id. */
  readonly knownId: (replica: string, userId: string) => string;
  /** A user's token that no login here gave out turned out to be good at that replica. */
  readonly onRecognised?: (identity: Identity, replica: string) => void;
  /** Names of all configured replicas: who has to hear of a revocation. */
  readonly replicaNames: () => readonly string[];
  /** Resolves when every replica was looked at once, within a limit: a door that has just begun asks nobody too early. */
  readonly everyFirstLook: () => Promise<void>;
  /** The ready replicas with clients for our own calls. */
  readonly readyClients: () => ReadonlyMap<string, JellyfinClient>;
  /** How long «nobody knows this token» is remembered, in ms, and for how many tokens. */
  readonly unknownKeepMs: number;
  readonly unknownLimit: number;
  /** Recognitions under way at one time; a scanner's further tokens wait for none of them. */
  readonly recognitionsLimit: number;
}

/** What of an AuthenticationResult is needed. */
export interface AuthenticationResult {
  readonly token: string;
  readonly facts: IdentityFacts;
}

const staleTries = 5;
const unsavedLimit = 10_000;

export class Logins {
  readonly #options: LoginsOptions;
  readonly #recognitions = new Map<string, Promise<Identity | undefined>>();
  readonly #unknown = new Map<string, number>();
  /** Logins and ends that the store has not been told of. */
  readonly #unsaved = new Map<string, () => Promise<void>>();

  constructor(options: LoginsOptions) {
    this.#options = options;
    options.memory.onStoreAvailable((available) => {
      if (available) void this.#tellStore();
    });
  }

  /**
   * A login passed through this proxy: a new generation of the identity begins with its token. Undefined when none
   * begins, because the token was logged out before: Jellyfin answers whoever shows the secret of a QuickConnect login
   * again with the first answer, for ten minutes (`QuickConnectManager.GetAuthorizedRequest`). Undefined, too, when the
   * store did not take it though it is there: it is taken up when it is first shown.
   */
  async record(result: AuthenticationResult, origin: string): Promise<Identity | undefined> {
    const { memory, metrics, log } = this.#options;
    const { token, facts } = result;
    const key = identityKey(facts.userId, facts.deviceId);
    const standing = memory.standingOf(token);
    if (standing.standing === "revoked") return undefined;
    metrics.logins.add();
    if (memory.storeAvailable) {
      try {
        return await this.#recordInStore(key, result, origin);
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) {
          log.error({ err: error }, "a login was not written down");
          return undefined;
        }
        memory.noteStoreFailure(error);
      }
    }
    // As the store does: a token that the current generation has already begins no other.
    if (standing.standing === "current" && standing.identity.key === key) return standing.identity;
    const generation = (memory.identities.get(key)?.generation ?? 0) + 1;
    this.#later(`login ${key}`, async () => {
      await this.#recordInStore(key, result, origin);
    });
    return this.#applyLocally(key, facts, generation, origin, token);
  }

  /**
   * Asks every ready replica whether it accepts a token nobody here knows, all at once. Answers the
   * identity it turned out to be, or undefined when no replica that could be asked accepts it.
   */
  recognise(token: string, credentials: Credentials): Promise<Identity | undefined> {
    const { memory, now, unknownKeepMs, recognitionsLimit } = this.#options;
    const hash = memory.hashOf(token);
    const unknownSinceMs = this.#unknown.get(hash);
    if (unknownSinceMs !== undefined && now() - unknownSinceMs < unknownKeepMs) {
      return Promise.resolve(undefined);
    }
    const running = this.#recognitions.get(hash);
    if (running !== undefined) return running;
    if (this.#recognitions.size >= recognitionsLimit) return Promise.resolve(undefined);
    const recognition = this.#recognise(token, hash, credentials)
      .catch((error: unknown) => {
        this.#options.log.error({ err: error }, "a token could not be asked about");
        return undefined;
      })
      .finally(() => this.#recognitions.delete(hash));
    this.#recognitions.set(hash, recognition);
    return recognition;
  }

  /** A token turned out to be good: it is no longer remembered as nobody's. */
  forgetUnknown(token: string): void {
    this.#unknown.delete(this.#options.memory.hashOf(token));
  }

  /** Ends an identity everywhere: from now on its tokens are refused here, and each replica is told. */
  async end(identity: Identity, why: string): Promise<void> {
    const { store, memory, log, metrics, replicaNames } = this.#options;
    metrics.revocations.add();
    log.info(`login ${identity.key} of ${identity.userName || "an API key"} ended: ${why}`);
    if (memory.storeAvailable) {
      try {
        await store.revoke(identity.key, replicaNames());
        memory.revokeLocally(identity);
        return;
      } catch (error) {
        memory.noteStoreFailure(error);
      }
    }
    memory.revokeLocally(identity);
    this.#later(`end ${identity.key}`, async () => {
      await store.revoke(identity.key, replicaNames());
    });
  }

  async #recordInStore(
    key: string,
    result: AuthenticationResult,
    origin: string,
  ): Promise<Identity | undefined> {
    const { store, memory, seal } = this.#options;
    const { token, facts } = result;
    const hash = hashOf(token);
    let expectedGeneration = (memory.identities.get(key)?.generation ?? 0) + 1;
    for (let tries = 0; tries < staleTries; tries++) {
      const sealed = seal.seal(token, sealContext(key, expectedGeneration, origin));
      const answer = await store.recordLogin({
        key,
        facts,
        origin,
        hash,
        sealed,
        expectedGeneration,
      });
      if (answer.outcome === "recorded") {
        memory.apply({ type: "identity", identity: answer.identity });
        return answer.identity;
      }
      if (answer.outcome === "revoked") {
        memory.apply({ type: "revoked", identityKey: key, hashes: [hash] });
        return undefined;
      }
      expectedGeneration = answer.generation + 1;
    }
    throw new Error("the login's generation changed at every try");
  }

  #applyLocally(
    key: string,
    facts: IdentityFacts,
    generation: number,
    origin: string,
    token: string,
  ): Identity {
    const { memory, seal, now } = this.#options;
    const sealed = seal.seal(token, sealContext(key, generation, origin));
    const identity: Identity = {
      ...facts,
      key,
      generation,
      startedAtMs: now(),
      origin,
      tokens: { [origin]: { hash: memory.hashOf(token), sealed } },
    };
    memory.apply({ type: "identity", identity });
    return identity;
  }

  async #recognise(
    token: string,
    hash: string,
    credentials: Credentials,
  ): Promise<Identity | undefined> {
    const { readyClients, now, unknownLimit, everyFirstLook } = this.#options;
    // The one that knows it may be the one that was not looked at yet: its people would be logged out.
    await everyFirstLook();
    const asked = [...readyClients()].map(async ([replica, client]) => ({
      replica,
      answer: this.#known(replica, await client.me(token)),
    }));
    const accepted = await firstAccepted(asked);
    if (accepted === undefined) {
      if (this.#unknown.size >= unknownLimit) this.#unknown.clear();
      this.#unknown.set(hash, now());
      return undefined;
    }
    const identity = await this.#adopt(token, hash, credentials, accepted);
    if (identity?.kind === "user") this.#options.onRecognised?.(identity, accepted.replica);
    // Servers that were copied from one another all know the token: each that says so is noted, so that
    // the first of them to die takes nothing along.
    for (const question of asked) {
      question
        .then(async ({ replica, answer }) => {
          const isSame = answer.outcome === "ok" && answer.user.id === accepted.user?.id;
          if (!isSame || replica === accepted.replica) return;
          await this.#adopt(token, hash, credentials, { replica, user: answer.user });
        })
        .catch((error: unknown) => {
          this.#options.log.error({ err: error }, "a second server's word on a token was lost");
        });
    }
    return identity;
  }

  #known(replica: string, answer: MeAnswer): MeAnswer {
    if (answer.outcome !== "ok") return answer;
    const { user } = answer;
    return { ...answer, user: { ...user, id: this.#options.knownId(replica, normalId(user.id)) } };
  }

  async #adopt(
    token: string,
    hash: string,
    credentials: Credentials,
    accepted: Accepted,
  ): Promise<Identity | undefined> {
    const { store, memory, seal } = this.#options;
    const { facts, key } = identityOf(token, hash, credentials, accepted);
    const { replica } = accepted;
    if (memory.storeAvailable) {
      try {
        let generation = memory.identities.get(key)?.generation ?? 0;
        for (let tries = 0; tries < staleTries; tries++) {
          const sealed = seal.seal(token, sealContext(key, generation || 1, replica));
          const answer = await store.addToken({ key, facts, generation, replica, hash, sealed });
          if (answer.outcome === "recorded") {
            memory.apply({ type: "identity", identity: answer.identity });
            return answer.identity;
          }
          if (answer.generation === generation) return undefined;
          generation = answer.generation;
        }
        return undefined;
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error;
        memory.noteStoreFailure(error);
      }
    }
    const known = memory.identities.get(key);
    return this.#applyLocally(key, facts, known?.generation ?? 1, replica, token);
  }

  #later(name: string, tell: () => Promise<void>): void {
    if (this.#unsaved.size >= unsavedLimit) {
      this.#options.log.warn("too many logins wait for the store; one will not survive a restart");
      return;
    }
    // What is told again comes after what was said between: the last word counts.
    this.#unsaved.delete(name);
    this.#unsaved.set(name, tell);
  }

  /** What fails though the store is there is tried again the next time; whatever waits behind it is told now. */
  async #tellStore(): Promise<void> {
    for (const [name, tell] of [...this.#unsaved]) {
      try {
        await tell();
        // There may be something newer by that name meanwhile.
        if (this.#unsaved.get(name) === tell) this.#unsaved.delete(name);
      } catch (error) {
        if (error instanceof StoreUnavailable) {
          this.#options.memory.noteStoreFailure(error);
          return;
        }
        this.#options.log.error({ err: error }, `the store was not told of ${name}`);
      }
    }
  }
}

interface Accepted {
  readonly replica: string;
  readonly user: { readonly id: string; readonly name: string } | undefined;
}

/** The first acceptance, without waiting for the rest; undefined when all have answered otherwise. */
function firstAccepted(
  asked: readonly Promise<{ replica: string; answer: MeAnswer }>[],
): Promise<Accepted | undefined> {
  return new Promise((resolve, reject) => {
    let left = asked.length;
    if (left === 0) resolve(undefined);
    for (const question of asked) {
      question.then(({ replica, answer }) => {
        if (answer.outcome === "ok") resolve({ replica, user: answer.user });
        else if (answer.outcome === "isApiKey") resolve({ replica, user: undefined });
        left--;
        if (left === 0) resolve(undefined);
      }, reject);
    }
  });
}

function identityOf(
  token: string,
  hash: string,
  credentials: Credentials,
  accepted: Accepted,
): { readonly key: string; readonly facts: IdentityFacts } {
  const { user } = accepted;
  const { client, device, version } = credentials;
  if (user === undefined) {
    const facts: IdentityFacts = {
      kind: "apiKey",
      userId: "",
      userName: "",
      deviceId: "",
      client: client ?? "",
      device: device ?? "",
      version: version ?? "",
    };
    return { key: apiKeyIdentityKey(token), facts };
  }
  // A token seen in a query alone says nothing of its device. It gets one made of the token, so that the
  // cluster can mint for it; a login or a request with the real device id makes an identity of its own.
  const deviceId = credentials.deviceId || `jellybloom-unknown-${hash.slice(0, 16)}`;
  const userId = normalId(user.id);
  const facts: IdentityFacts = {
    kind: "user",
    userId,
    userName: user.name,
    deviceId,
    client: client || "Jellybloom",
    device: device || "unknown device",
    version: version || "1",
  };
  return { key: identityKey(userId, deviceId), facts };
}

/**
 * Reads an AuthenticationResult (MediaBrowser.Controller/Authentication/AuthenticationResult.cs), in
 * PascalCase or the CamelCase profile. Undefined when the text is none.
 */
export function readAuthenticationResult(
  body: string,
  credentials: Credentials,
): AuthenticationResult | undefined {
  const result = parsed(body);
  const user = fieldOf(result, "User");
  const session = fieldOf(result, "SessionInfo");
  const token = textOf(result, "AccessToken");
  const userId = textOf(user, "Id") ?? textOf(session, "UserId");
  const deviceId = textOf(session, "DeviceId") ?? credentials.deviceId;
  if (token === undefined || userId === undefined || deviceId === undefined) return undefined;
  return {
    token,
    facts: {
      kind: "user",
      userId: normalId(userId),
      userName: textOf(user, "Name") ?? textOf(session, "UserName") ?? "",
      deviceId,
      client: textOf(session, "Client") ?? credentials.client ?? "",
      device: textOf(session, "DeviceName") ?? credentials.device ?? "",
      version: textOf(session, "ApplicationVersion") ?? credentials.version ?? "",
    },
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Not JSON: then it is no AuthenticationResult, which is what the caller asks.
    return undefined;
  }
}

/** A field by its PascalCase or camelCase name. */
function fieldOf(value: unknown, name: string): unknown {
  if (typeof value !== "object" || value === null) return undefined;
  const fields = value as Record<string, unknown>;
  return fields[name] ?? fields[name.charAt(0).toLowerCase() + name.slice(1)];
}

function textOf(value: unknown, name: string): string | undefined {
  const field = fieldOf(value, name);
  return typeof field === "string" && field !== "" ? field : undefined;
}
