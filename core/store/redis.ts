// The store of many processes: Redis, plain or behind Sentinel. Every verb is one Lua script, which Redis
// runs as a whole, on Redis's own clock; the feed of changes is a stream that the same scripts append to.
//
// It promises what store.ts promises, and besides: a call answers or fails within `callLimitMs`, also when
// Redis accepts connections and never answers; nothing is queued while Redis is away, because the caller
// has a better plan (design: failsafe); and no error carries a token, a key or a password. A call that
// failed may have been done all the same: every verb can be repeated, because it names what it expects.
//
// A connection whose call timed out is given up and dialled again: after a partition the operating system
// would otherwise hold on to it for a quarter of an hour.

import { randomUUID } from "node:crypto";
import { Redis, type RedisOptions } from "ioredis";
import {
  ExecutionError,
  type ExecutionStats,
  type Lock,
  Redlock,
  ResourceLockedError,
} from "redlock";
import type { Identity } from "../cluster/identity.ts";
import { type OwnConnection, redisJournal } from "./journal-redis.ts";
import { type StoreKeys, storeKeys } from "./keys.ts";
import { asList, asText, asTexts, entriesOf, type StreamEntry } from "./replies.ts";
import { loadScripts } from "./scripts.ts";
import { checkSecret } from "./secrets.ts";
import {
  changesFrom,
  fieldsFrom,
  soundHome,
  soundIdentity,
  soundLease,
  soundMember,
  soundNote,
  soundPin,
  soundRevocation,
  soundSight,
} from "./sound.ts";
import {
  type Change,
  checkLeaseClaim,
  checkNote,
  formerHashesKept,
  type Home,
  type Lease,
  type LeaseAnswer,
  type LeaseClaim,
  LeaseUnavailable,
  type Member,
  type Note,
  type NoteKind,
  noteKinds,
  notesLimit,
  type Pin,
  type Revocation,
  type Snapshot,
  type Store,
  type StoreLimits,
  StoreNotOpened,
  StoreUnavailable,
  type TokenOutcome,
  tooManyNotes,
} from "./store.ts";

export interface RedisStoreOptions {
  /**
   * `redis://[user:password@]host[:6379][/db]`, `rediss://…` with TLS, or for Sentinel
   * `redis+sentinel://[user:password@]host[:26379],host…/mastername[?db=0&sentinelPassword=…]`
   * (`rediss+sentinel://` when the Redis servers behind it speak TLS).
   */
  readonly url: string;
  /** What the cluster's keys begin with; letters, digits, `-`, `_` and `.`. */
  readonly prefix?: string;
  readonly limits: StoreLimits;
  /**
   * How long a follower waits for a change before it asks whether the data are still the same, in ms. An
   * idle follower sends two commands in this time.
   */
  readonly followIdleMs?: number;
  /** The longest wait between two tries to connect again, in ms. */
  readonly reconnectLimitMs?: number;
  /**
   * Addresses of more Redis servers, independent of the first and of each other, that hold the leader's lock
   * with it (and nothing else). The lock is held when more than half of all, the first included, hold it.
   */
  readonly lockUrls?: readonly string[];
}

export interface RedisStore extends Store {
  readonly kind: "redis";
  /** Sentences about settings of this Redis that endanger what it keeps; empty when all is well. */
  warnings(): Promise<string[]>;
}

/** What scripts answer as codes; each script's head says which of them it uses. */
export const scriptCodes = {
  DONE: 1,
  RECORDED: 1,
  GRANTED: 1,
  HELD: 1,
  UNCHANGED: 0,
  REFUSED: 0,
  STALE: -1,
  LOST: -1,
  /** There are as many as are kept. */
  FULL: -2,
  REVOKED: -2,
} as const;

/** How many fields or entries one command reads, so that none holds Redis up. */
const readBatch = 500;

/** How often load() begins anew when the feed was trimmed or replaced while it read. */
const loadTriesMax = 5;

/** How much longer a follower of the journal waits than one of the feed: both are idle together. */
const journalIdleFactor = 4;

/** How long a connection that we end may take to say goodbye before it is cut, in ms. */
const disconnectLimitMs = 200;

/** The client's options, but for the shape of replies, on which its types depend. */
type ConnectionOptions = Omit<RedisOptions, "replyMapping">;

/** Where a follower stands: what data, which entry of them, and that entry's mark. */
interface Position {
  readonly clusterId: string;
  readonly bornAtMs: string;
  readonly number: number;
  readonly mark: string;
}

/**
 * Opens the store. Resolves also while Redis is away: its verbs then fail with StoreUnavailable until it
 * is there, so that a door can start in failsafe. Rejects with StoreNotOpened when waiting would not help: the
 * address cannot be read, or Redis refuses the password.
 */
export async function openRedisStore(options: RedisStoreOptions): Promise<RedisStore> {
  const { limits, prefix = "jellybloom", followIdleMs = 15_000, reconnectLimitMs = 1000 } = options;
  if (!/^[A-Za-z0-9._-]+$/.test(prefix)) {
    throw new StoreNotOpened(
      `The prefix of the keys in Redis may have letters, digits, "-", "_" and "." only; it is "${prefix}".`,
    );
  }
  const address = redisAddress(options.url);
  const shared: ConnectionOptions = {
    ...address,
    // The replies are the same in both protocols, and version 2 is spoken by every Redis.
    protocol: 2,
    scripts: loadScripts(),
    lazyConnect: true,
    connectTimeout: limits.callLimitMs,
    disconnectTimeout: disconnectLimitMs,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    enableReadyCheck: true,
    keepAlive: 10_000,
    noDelay: true,
    connectionName: "jellybloom",
    // A server that was master before a failover: leave it, so that Sentinel or DNS names the new one.
    reconnectOnError: (error) => /^(READONLY|MASTERDOWN)/.test(error.message),
  };
  const linkOptions: ConnectionOptions = {
    commandTimeout: limits.callLimitMs,
    retryStrategy: (times) => Math.min(25 * 2 ** Math.min(times, 10), reconnectLimitMs),
    sentinelRetryStrategy: (times) => Math.min(25 * 2 ** Math.min(times, 10), reconnectLimitMs),
    sentinelCommandTimeout: limits.callLimitMs,
  };
  const further = lockAddresses(options.lockUrls ?? []);
  const link = new Link({ ...shared, ...linkOptions }, limits.callLimitMs);
  const lockLinks = further.map(
    (one) => new Link({ ...shared, ...linkOptions, ...one }, limits.callLimitMs),
  );
  const links = [link, ...lockLinks];
  const refusals = await Promise.all(links.map((one) => one.open()));
  const refusal = refusals.find((one) => one !== undefined);
  if (refusal !== undefined) {
    await Promise.all(links.map((one) => one.close()));
    throw refusal;
  }
  const followOptions: ConnectionOptions = {
    ...shared,
    connectionName: "jellybloom-follow",
    // Whoever follows decides when to try again. The limits are kept by ask(), which knows how long a
    // blocking read may take.
    retryStrategy: null,
    sentinelRetryStrategy: () => null,
    sentinelCommandTimeout: limits.callLimitMs,
  };
  const lockDatabase = address.db ?? 0;
  return redisStore(
    link,
    lockLinks,
    lockDatabase,
    followOptions,
    storeKeys(prefix),
    limits,
    followIdleMs,
  );
}

/** Throws StoreNotOpened when one of the addresses cannot be read, or half of all would be no quorum. */
function lockAddresses(urls: readonly string[]): ConnectionOptions[] {
  // Of two or four, half may hold the lock and half refuse it: then nobody has it, and a server more than one
  // or three makes the lock no safer.
  if (urls.length % 2 !== 0) {
    throw new StoreNotOpened(
      `The leader's lock would lie in ${urls.length + 1} Redis servers, the store's included. ` +
        "Give it an even number of further ones, so that more than half can agree.",
    );
  }
  return urls.map(redisAddress);
}

function redisStore(
  link: Link,
  lockLinks: readonly Link[],
  lockDatabase: number,
  followOptions: ConnectionOptions,
  keys: StoreKeys,
  limits: StoreLimits,
  followIdleMs: number,
): RedisStore {
  const links = [link, ...lockLinks];
  const closing = new AbortController();
  const leaseLock = new LeaseLock(links, lockDatabase, keys.lock, limits.callLimitMs);
  const feedKeys = [keys.meta, keys.changes] as const;

  /** What every publishing script is given first. */
  function feedArguments(): [string, number] {
    return [randomUUID(), Math.max(limits.changesKept, 1)];
  }

  async function openCluster(): Promise<{ readonly position: Position; readonly nowMs: number }> {
    const answer = asTexts(await link.run("openCluster", feedKeys, [randomUUID()]));
    const [clusterId = "", bornAtMs = "", number = "", mark = "", nowMs = ""] = answer;
    return {
      position: { clusterId, bornAtMs, number: Number(number), mark },
      nowMs: Number(nowMs),
    };
  }

  /** Calls `each` with every field and value of a HASH or ZSET. One that changes meanwhile is seen at least once. */
  async function scan(
    command: "hscan" | "zscan",
    key: string,
    each: (field: string, value: string) => void,
  ): Promise<void> {
    let cursor = "0";
    do {
      const [next, items] = await link.ask((client) =>
        command === "hscan"
          ? client.hscan(key, cursor, "COUNT", readBatch)
          : client.zscan(key, cursor, "COUNT", readBatch),
      );
      for (let index = 0; index < items.length; index += 2) {
        each(asText(items[index]), asText(items[index + 1]));
      }
      cursor = next;
    } while (cursor !== "0");
  }

  function noteKeys(kind: NoteKind): readonly string[] {
    return [...feedKeys, keys.notes(kind), keys.noteReplicas(kind), keys.noteExpiry(kind)];
  }

  /** Asks for the epoch; with an empty lock value only how the lease stands. */
  async function grantLease(claim: LeaseClaim, lock: string): Promise<LeaseAnswer> {
    const { owner, replica, gateUrl, above } = claim;
    const [code, text, retryAfterMs] = asList(
      await link.run(
        "grantLease",
        [...feedKeys, keys.lock, keys.lease, keys.leaseEpoch],
        [
          ...feedArguments(),
          lock,
          owner,
          replica,
          gateUrl,
          above,
          leaseLock.highestNumberOf(owner),
        ],
      ),
    );
    const lease = soundLease(fieldsFrom(asText(text)));
    if (code === scriptCodes.GRANTED && lease !== undefined) {
      leaseLock.noteGranted(lease);
      return { held: true, lease };
    }
    return { held: false, lease, retryAfterMs: Number(asText(retryAfterMs)) };
  }

  /** Everything there is; what changes meanwhile may be seen as it was or as it is. */
  async function readAll(): Promise<KnownState> {
    const state = emptyState();
    await scan("hscan", keys.identities, (key, text) => {
      keep(state.identities, key, soundIdentity(fieldsFrom(text)));
    });
    await scan("hscan", keys.homes, (userId, text) => {
      keep(state.homes, userId, soundHome(fieldsFrom(text)));
    });
    await scan("hscan", keys.pins, (field, text) => {
      keep(state.pins, field, soundPin(fieldsFrom(text)));
    });
    for (const kind of noteKinds) {
      await scan("hscan", keys.notes(kind), (id, text) => {
        keep(state.notes, `${kind}:${id}`, soundNote(fieldsFrom(text)));
      });
    }
    const lease = await link.ask((client) => client.get(keys.lease));
    state.lease = lease === null ? undefined : soundLease(fieldsFrom(lease));
    await scan("hscan", keys.revocations, (id, text) => {
      keep(state.revocations, id, soundRevocation(fieldsFrom(text)));
    });
    await scan("zscan", keys.revokedHashes, (hash, expiresAtMs) => {
      state.revokedHashes.set(hash, Number(expiresAtMs));
    });
    return state;
  }

  /**
   * A snapshot without holding Redis up: notes where the feed ends, reads everything in small bites, then
   * applies what the feed brought meanwhile. As a change carries the whole new state, the result is what
   * the store was at the position reached. Undefined when the feed lost that stretch meanwhile.
   */
  async function tryLoad(): Promise<Snapshot | undefined> {
    const start = await openCluster();
    const state = await readAll();
    let position = start.position;
    for (;;) {
      const from = idOf(position);
      const reply = await link.ask((client) =>
        client.xread("COUNT", readBatch, "STREAMS", keys.changes, from),
      );
      const entries = entriesOf(reply);
      if (entries.length === 0) break;
      const next = after(position, entries);
      if (next === undefined) return undefined;
      for (const change of next.changes) {
        applyChange(state, change, start.nowMs + limits.revokedKeepMs);
      }
      position = next.position;
    }
    const end = await openCluster();
    if (end.position.clusterId !== position.clusterId) return undefined;
    return snapshotOf(state, end.nowMs, textOfPosition(position));
  }

  const journal = redisJournal({
    run: (verb, scriptKeys, values) => link.run(verb, scriptKeys, values),
    onOwnConnection: (signal, work) =>
      onOwnConnection(followOptions, limits.callLimitMs, signal, closing.signal, work, link),
    keys,
    limits,
    // What a silent connection hides is told by the common one, and what somebody emptied by the feed.
    followIdleMs: followIdleMs * journalIdleFactor,
  });

  return {
    ...journal,

    kind: "redis",

    async clusterId() {
      return (await openCluster()).position.clusterId;
    },

    async time() {
      const [seconds, microseconds] = await link.ask((client) => client.time());
      return Number(seconds) * 1000 + Math.floor(Number(microseconds) / 1000);
    },

    async load() {
      for (let tries = 0; tries < loadTriesMax; tries += 1) {
        const snapshot = await tryLoad();
        if (snapshot !== undefined) return snapshot;
      }
      throw new StoreUnavailable("the store changes faster than it can be read");
    },

    async follow(position, onChanges, signal) {
      const ended = await follow(
        { options: followOptions, keys, callLimitMs: limits.callLimitMs, followIdleMs },
        position,
        onChanges,
        signal,
        closing.signal,
      );
      // Whatever befell the feed befell the journal, whose followers wait longer: asking tells them.
      if (ended === "lost") {
        journal.journalEnds().catch(() => {
          // It is away again, which ends those who follow it.
        });
      }
      return ended;
    },

    async recordLogin(login) {
      const { key, facts, origin, hash, sealed, expectedGeneration } = login;
      const [code, text] = asPair(
        await link.run(
          "recordLogin",
          [...feedKeys, keys.identities, keys.revokedHashes],
          [
            ...feedArguments(),
            key,
            jsonOf(facts),
            origin,
            hash,
            sealed,
            expectedGeneration,
            limits.revokedKeepMs,
          ],
        ),
      );
      if (code === scriptCodes.REVOKED) return { outcome: "revoked" };
      return tokenOutcome(code, text);
    },

    async addToken({ key, facts, generation, replica, hash, sealed }) {
      const [code, text] = asPair(
        await link.run(
          "addToken",
          [...feedKeys, keys.identities, keys.revokedHashes],
          [
            ...feedArguments(),
            key,
            jsonOf(facts),
            generation,
            replica,
            hash,
            sealed,
            formerHashesKept,
          ],
        ),
      );
      return tokenOutcome(code, text);
    },

    async dropToken(key, generation, replica, hash) {
      await link.run(
        "dropToken",
        [...feedKeys, keys.identities],
        [...feedArguments(), key, generation, replica, hash, formerHashesKept],
      );
    },

    async revoke(key, replicas) {
      const pending = Object.fromEntries(replicas.map((name) => [name, true]));
      const [code, text] = asPair(
        await link.run(
          "revoke",
          [
            ...feedKeys,
            keys.identities,
            keys.revokedHashes,
            keys.revocations,
            keys.revocationExpiry,
          ],
          [...feedArguments(), key, randomUUID(), jsonOf(pending), limits.revokedKeepMs],
        ),
      );
      if (code !== scriptCodes.DONE) return undefined;
      return identityFrom(text);
    },

    async settleRevocation(id, replica) {
      await link.run(
        "settleRevocation",
        [...feedKeys, keys.revocations, keys.revocationExpiry],
        [...feedArguments(), id, replica],
      );
    },

    async claimMint({ key, generation, replica, owner, ttlMs }) {
      const code = await link.run(
        "claimMint",
        [keys.identities, keys.mintClaim(key, generation, replica)],
        [key, generation, owner, ttlMs],
      );
      return code === scriptCodes.GRANTED;
    },

    async releaseMint({ key, generation, replica, owner }) {
      await link.run("releaseMint", [keys.mintClaim(key, generation, replica)], [owner]);
    },

    async putSecret(id, sealed, replicas, ttlMs) {
      checkSecret(sealed, replicas, ttlMs);
      await link.run("putSecret", [keys.secret(id)], [sealed, ttlMs, ...replicas]);
    },

    async readSecret(id) {
      const sealed = await link.run("readSecret", [keys.secret(id)], []);
      return typeof sealed === "string" && sealed !== "" ? sealed : undefined;
    },

    async settleSecret(id, replica) {
      await link.run("settleSecret", [keys.secret(id)], [replica]);
    },

    async claimHome({ userId, replica, expectedEpoch, owner, minStayMs }) {
      const [code, text] = asPair(
        await link.run(
          "claimHome",
          [...feedKeys, keys.homes],
          [...feedArguments(), userId, replica, expectedEpoch, owner, minStayMs],
        ),
      );
      return { granted: code === scriptCodes.GRANTED, home: JSON.parse(text) as Home };
    },

    async claimPin({ kind, id, replica, owner, ttlMs }) {
      const text = await link.run(
        "claimPin",
        [...feedKeys, keys.pins, keys.pinExpiry],
        [...feedArguments(), kind, id, replica, owner, ttlMs],
      );
      return JSON.parse(asText(text)) as Pin;
    },

    async movePin({ kind, id, replica, owner, ttlMs, expectedEpoch }) {
      const [code, text] = asPair(
        await link.run(
          "movePin",
          [...feedKeys, keys.pins, keys.pinExpiry],
          [...feedArguments(), kind, id, replica, owner, ttlMs, expectedEpoch],
        ),
      );
      return { granted: code === scriptCodes.GRANTED, pin: JSON.parse(text) as Pin };
    },

    async dropPin(kind, id, expectedEpoch) {
      await link.run(
        "dropPin",
        [...feedKeys, keys.pins, keys.pinExpiry],
        [...feedArguments(), kind, id, expectedEpoch],
      );
    },

    async putNote(note, ttlMs, { ifAbsent = false } = {}) {
      checkNote(note, ttlMs);
      const { kind, id, replica, value } = note;
      const code = await link.run("putNote", noteKeys(kind), [
        ...feedArguments(),
        kind,
        id,
        replica,
        value,
        ttlMs,
        notesLimit,
        ifAbsent ? 1 : 0,
      ]);
      if (code === scriptCodes.FULL) throw tooManyNotes(kind);
    },

    async dropNotes({ kind, id, replica }) {
      const ofOne = replica === undefined ? "one" : "oneOfReplica";
      const ofAll = replica === undefined ? "all" : "ofReplica";
      const which = id === undefined ? ofAll : ofOne;
      await link.run("dropNotes", noteKeys(kind), [
        ...feedArguments(),
        kind,
        which,
        id ?? "",
        replica ?? "",
      ]);
    },

    async holdLease(claim) {
      checkLeaseClaim(claim);
      return leaseLock.inTurn(claim.owner, async (): Promise<LeaseAnswer> => {
        if (!leaseLock.isHeldBy(claim.owner)) {
          // Most askers find it held, and one look costs less than three locks asked for in vain.
          const answer = await grantLease(claim, "");
          if (answer.held || answer.retryAfterMs > 0) return answer;
        }
        const lock = await leaseLock.hold(claim.owner, claim.ttlMs);
        if (lock === undefined) return grantLease(claim, "");
        const answer = await grantLease(claim, lock);
        // More than half hold the lock, and the one that grants is not among them.
        if (!answer.held) await leaseLock.release(claim.owner);
        return answer;
      });
    },

    async releaseLease(owner) {
      await leaseLock.inTurn(owner, async () => {
        if (!(await leaseLock.release(owner))) return;
        await link.run("vacateLease", [...feedKeys, keys.lease], [...feedArguments(), owner]);
      });
    },

    async touchProxy({ proxy, reachable }, ttlMs) {
      const answer = await link.run(
        "touchProxy",
        [keys.sights, keys.members],
        [proxy, jsonOf(reachable), ttlMs],
      );
      const [sights, members] = asList(answer);
      return {
        sights: asTexts(sights).flatMap((text) => soundSight(fieldsFrom(text)) ?? []),
        members: membersFrom(members),
      };
    },

    async touchMember(member, ttlMs) {
      const values = [member.replica, jsonOf(member), ttlMs];
      const [nowMs, members] = asList(await link.run("touchMember", [keys.members], values));
      return { nowMs: Number(asText(nowMs)), members: membersFrom(members) };
    },

    async members() {
      return membersFrom(await link.run("readMembers", [keys.members], []));
    },

    async warnings() {
      const info = await link.ask((client) => client.info());
      return warningsFrom(info, await link.saveSetting());
    },

    async close() {
      closing.abort();
      await Promise.all(links.map((one) => one.close()));
    },
  };
}

/** The one connection that all verbs use. It dials again by itself; nothing waits for it. */
class Link {
  readonly client: Redis;
  readonly #callLimitMs: number;
  /** Grows with each connection, so that an old call's failure does not end a new connection. */
  #connection = 0;
  #lastError: unknown;
  #closed = false;
  readonly #breakListeners = new Set<() => void>();

  constructor(options: ConnectionOptions, callLimitMs: number) {
    this.client = new Redis(options);
    this.#callLimitMs = callLimitMs;
    this.client.on("ready", () => {
      this.#connection += 1;
      this.#lastError = undefined;
    });
    this.client.on("close", () => {
      for (const tell of [...this.#breakListeners]) tell();
    });
    // Each call that fails tells its own caller; here only the reason is kept for the next of them.
    this.client.on("error", (error: unknown) => {
      this.#lastError = error;
    });
  }

  /** Waits for the first connection, for one call's time. Answers why it will never be one. */
  async open(): Promise<StoreNotOpened | undefined> {
    try {
      await withinLimit(this.client.connect(), this.#callLimitMs);
    } catch (error) {
      const reason = this.#lastError ?? error;
      if (reason instanceof Error && /^(WRONGPASS|NOAUTH|NOPERM)/.test(reason.message)) {
        this.client.disconnect();
        return new StoreNotOpened(
          `Redis refuses this process (${safeReason(reason)}). Check the user and password in its address.`,
          { cause: safeCause(reason) },
        );
      }
      // It is away for now. The client goes on dialling, and calls fail until it is there.
    }
    return undefined;
  }

  /** Calls `tell` each time the connection breaks or is given up; answers how to end that. */
  onBreak(tell: () => void): () => void {
    this.#breakListeners.add(tell);
    return () => this.#breakListeners.delete(tell);
  }

  /** Runs a script. */
  run(
    verb: string,
    scriptKeys: readonly string[],
    values: readonly (string | number)[],
  ): Promise<unknown> {
    return this.ask((client) => runScript(client, verb, scriptKeys, values));
  }

  /** Gives the connection up, whose call timed out, and dials again. */
  redial(): void {
    this.#connection += 1;
    this.client.disconnect(true);
  }

  /** Asks Redis for something within the limit, or throws StoreUnavailable. */
  async ask<Answer>(question: (client: Redis) => Promise<Answer>): Promise<Answer> {
    if (this.#closed) throw new StoreUnavailable("the store is closed");
    const connection = this.#connection;
    try {
      return await withinLimit(question(this.client), this.#callLimitMs);
    } catch (error) {
      if (isTimeout(error) && connection === this.#connection) this.redial();
      const offline = error instanceof Error && error.message.includes("enableOfflineQueue");
      throw unavailable(offline ? (this.#lastError ?? new Error("not connected")) : error);
    }
  }

  /** Redis's `save` setting, or undefined where asking for it is not allowed. */
  async saveSetting(): Promise<string | undefined> {
    try {
      const answer = asTexts(await this.ask((client) => client.call("CONFIG", "GET", "save")));
      return answer[1];
    } catch {
      // Hosted Redis servers often forbid CONFIG. Then there is nothing to warn of.
      return undefined;
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await withinLimit(this.client.quit(), this.#callLimitMs);
    } catch {
      // Redis is away already, which is what closing is for.
    }
    this.client.disconnect();
  }
}

/**
 * The leader's lock: one key in the store's Redis and in every further server, held when more than half hold
 * it (redis.io/docs/latest/develop/use/patterns/distributed-locks). It is no proof of leadership by itself: a
 * process may sleep past its end, and a server may forget it; the epoch that is granted under it is.
 */
class LeaseLock {
  readonly #redlock: Redlock;
  readonly #links: readonly Link[];
  readonly #key: string;
  readonly #callLimitMs: number;
  /** By owner: in `up` the sidecars of one process share a store. */
  readonly #locks = new Map<string, Lock>();
  readonly #numbers = new Map<string, number>();
  readonly #turns = new Map<string, Promise<unknown>>();

  constructor(links: readonly Link[], db: number, key: string, callLimitMs: number) {
    this.#links = links;
    this.#redlock = new Redlock(
      links.map((link) => link.client),
      { retryCount: 0 },
    );
    // The library's scripts choose the database themselves, and as an option it takes the first sixteen only.
    Object.assign(this.#redlock.settings, { db });
    this.#key = key;
    this.#callLimitMs = callLimitMs;
  }

  /**
   * Does one owner's deeds one after another, each within the limit. A deed that ran out of time goes on
   * alone, and the next waits for it: what it did to the lock must be known.
   */
  async inTurn<Result>(owner: string, deed: () => Promise<Result>): Promise<Result> {
    const before = this.#turns.get(owner) ?? Promise.resolve();
    const turn = before.then(deed, deed);
    const settled = turn.catch(() => undefined);
    this.#turns.set(owner, settled);
    void settled.then(() => {
      if (this.#turns.get(owner) === settled) this.#turns.delete(owner);
    });
    try {
      return await withinLimit(turn, this.#callLimitMs);
    } catch (error) {
      if (error instanceof RangeError || error instanceof StoreUnavailable) throw error;
      throw new LeaseUnavailable(`the leader's lock was not answered for: ${safeReason(error)}`, {
        cause: safeCause(error),
      });
    }
  }

  isHeldBy(owner: string): boolean {
    return this.#locks.has(owner);
  }

  highestNumberOf(owner: string): number {
    return this.#numbers.get(owner) ?? 0;
  }

  noteGranted({ epoch }: Lease): void {
    this.#numbers.set(epoch.owner, Math.max(epoch.number, this.highestNumberOf(epoch.owner)));
  }

  /**
   * Takes the lock or prolongs it. Answers its value, or undefined when it is somebody else's. Throws
   * StoreUnavailable when too few servers answered; whether it is held is then not known.
   */
  async hold(owner: string, ttlMs: number): Promise<string | undefined> {
    const known = this.#locks.get(owner);
    try {
      const lock =
        known === undefined
          ? await this.#redlock.acquire([this.#key], ttlMs)
          : await this.#redlock.extend(known, ttlMs);
      this.#locks.set(owner, lock);
      this.#redialSilent(lock.attempts.at(-1));
      return lock.value;
    } catch (error) {
      if (!(error instanceof ExecutionError)) throw error;
      const last = error.attempts.at(-1);
      this.#redialSilent(last);
      // The lock may still be ours where nobody answered, so that the next try prolongs it.
      if (last !== undefined && !(await isRefused(last))) {
        throw new LeaseUnavailable("too few Redis servers answer to hold the leader's lock");
      }
      await this.release(owner);
      return undefined;
    }
  }

  /** Gives up connections on which nothing was answered; the others go on. */
  #redialSilent(attempt: Promise<ExecutionStats> | undefined): void {
    void attempt?.then(({ votesAgainst }) => {
      for (const [client, error] of votesAgainst) {
        if (isTimeout(error)) this.#links.find((link) => link.client === client)?.redial();
      }
    });
  }

  /** Answers whether there was a lock to release. */
  async release(owner: string): Promise<boolean> {
    const lock = this.#locks.get(owner);
    if (lock === undefined) return false;
    this.#locks.delete(owner);
    try {
      await this.#redlock.release(lock);
    } catch {
      // It ended already, or ends by itself with its time.
    }
    return true;
  }
}

/** Whether a server said no, rather than nothing. */
async function isRefused(attempt: Promise<ExecutionStats>): Promise<boolean> {
  const { votesAgainst } = await attempt;
  return [...votesAgainst.values()].some((vote) => vote instanceof ResourceLockedError);
}

interface FollowSettings {
  readonly options: ConnectionOptions;
  readonly keys: StoreKeys;
  readonly callLimitMs: number;
  readonly followIdleMs: number;
}

/**
 * Does work that waits for news on a connection of its own, because a blocking read holds its connection, until
 * `signal` aborts or the store is closed. Rejects with StoreUnavailable when Redis went away; where `witness` is
 * given also when that connection broke: it is in use, while this one may be silent for long.
 */
async function onOwnConnection(
  options: ConnectionOptions,
  callLimitMs: number,
  signal: AbortSignal,
  closing: AbortSignal,
  work: (own: OwnConnection) => Promise<"lost" | "ended">,
  witness?: Link,
): Promise<"aborted" | "lost"> {
  if (signal.aborted) return "aborted";
  if (closing.aborted) throw new StoreUnavailable("the store is closed");
  const client = new Redis(options);
  let lastError: unknown;
  client.on("error", (error: unknown) => {
    lastError = error;
  });
  /** What gives up each question that waits for its answer. */
  const waiting = new Set<() => void>();
  let isEnded = false;
  const end = (): void => {
    isEnded = true;
    for (const giveUp of waiting) giveUp();
  };
  // Taken off again at the end: while Redis is away, following is begun many times under the same signals.
  signal.addEventListener("abort", end, { once: true });
  closing.addEventListener("abort", end, { once: true });
  const forgetWitness = witness?.onBreak(end);

  /**
   * The answer in a box, or undefined when following was ended meanwhile. Not a race with one promise for the whole
   * connection: that would keep every answer of it in memory for as long as it lives.
   */
  function ask<Answer>(
    question: Promise<Answer>,
    limitMs: number,
  ): Promise<{ readonly answer: Answer } | undefined> {
    return new Promise((resolve, reject) => {
      const giveUp = (): void => resolve(undefined);
      waiting.add(giveUp);
      if (isEnded) giveUp();
      withinLimit(question, limitMs)
        .then(
          (answer) => resolve({ answer }),
          (error: unknown) => reject(unavailable(lastError ?? error)),
        )
        .finally(() => waiting.delete(giveUp));
    });
  }

  const own: OwnConnection = {
    run: (verb, scriptKeys, values) =>
      ask(runScript(client, verb, scriptKeys, values), callLimitMs),
    wait: (key, id, count, blockMs) =>
      ask(
        client.xread("COUNT", count, "BLOCK", blockMs, "STREAMS", key, id),
        blockMs + callLimitMs,
      ),
  };

  try {
    const isConnected = (await ask(client.connect(), callLimitMs)) !== undefined;
    const result = isConnected ? await work(own) : "ended";
    if (result === "lost") return "lost";
    if (signal.aborted) return "aborted";
    if (closing.aborted) throw new StoreUnavailable("the store is closed");
    throw new StoreUnavailable("the connection to Redis broke");
  } finally {
    forgetWitness?.();
    signal.removeEventListener("abort", end);
    closing.removeEventListener("abort", end);
    client.disconnect();
  }
}

/**
 * Follows the feed. It checks its position when it begins and each time nothing came for a while: whoever
 * emptied Redis may write nothing afterwards.
 */
async function follow(
  settings: FollowSettings,
  positionText: string,
  onChanges: (changes: readonly Change[], position: string) => void,
  signal: AbortSignal,
  closing: AbortSignal,
): Promise<"aborted" | "lost"> {
  const { options, keys, callLimitMs, followIdleMs } = settings;
  const start = positionFrom(positionText);
  if (start === undefined) return "lost";
  return onOwnConnection(options, callLimitMs, signal, closing, async ({ run, wait }) => {
    let position = start;
    let greeted = false;
    for (;;) {
      const { clusterId, bornAtMs, number, mark } = position;
      const check = await run(
        "checkPosition",
        [keys.meta, keys.changes],
        [clusterId, bornAtMs, number, mark],
      );
      if (check === undefined) return "ended";
      if (check.answer !== scriptCodes.HELD) return "lost";
      if (!greeted) onChanges([], positionText);
      greeted = true;

      let idle = false;
      while (!idle) {
        const read = await wait(keys.changes, idOf(position), readBatch, followIdleMs);
        if (read === undefined) return "ended";
        const entries = entriesOf(read.answer);
        idle = entries.length === 0;
        if (idle) continue;
        const next = after(position, entries);
        if (next === undefined) return "lost";
        position = next.position;
        onChanges(next.changes, textOfPosition(position));
        if (signal.aborted || closing.aborted) return "ended";
      }
    }
  });
}

function runScript(
  client: Redis,
  verb: string,
  scriptKeys: readonly string[],
  values: readonly (string | number)[],
): Promise<unknown> {
  const script: unknown = Reflect.get(client, verb);
  if (typeof script !== "function") throw new Error(`there is no script ${verb}`);
  return script.call(client, ...scriptKeys, ...values);
}

// ---- Positions and entries of the feed (pure) ----

function textOfPosition(position: Position): string {
  const { clusterId, bornAtMs, number, mark } = position;
  return `${clusterId}/${bornAtMs}-${number}/${mark}`;
}

function positionFrom(text: string): Position | undefined {
  const match = /^([^/]+)\/(\d{1,15})-(\d{1,15})\/(\d{1,20})$/.exec(text);
  const [, clusterId, bornAtMs, number, mark] = match ?? [];
  if (clusterId === undefined || bornAtMs === undefined || mark === undefined) return undefined;
  return { clusterId, bornAtMs, number: Number(number), mark };
}

function idOf(position: Position): string {
  return `${position.bornAtMs}-${position.number}`;
}

/** The changes that come right after a position, or undefined when entries between are missing. */
function after(
  position: Position,
  entries: readonly StreamEntry[],
): { readonly changes: Change[]; readonly position: Position } | undefined {
  const changes: Change[] = [];
  let reached = position;
  for (const [id, fields] of entries) {
    const number = reached.number + 1;
    const [markName, mark = "", changesName, text = ""] = fields;
    // Other data begin with another birth time, and trimmed entries leave a gap in the numbers.
    if (id !== `${position.bornAtMs}-${number}`) return undefined;
    if (markName !== "mark" || changesName !== "changes") return undefined;
    const brought = changesFrom(text);
    // Nothing of ours: who reads everything again begins after it.
    if (brought === undefined) return undefined;
    changes.push(...brought);
    reached = { ...reached, number, mark };
  }
  return { changes, position: reached };
}

// ---- From what is kept to what the contract says (pure) ----

interface KnownState {
  readonly identities: Map<string, Identity>;
  readonly homes: Map<string, Home>;
  readonly pins: Map<string, Pin>;
  readonly notes: Map<string, Note>;
  lease: Lease | undefined;
  readonly revocations: Map<
    string,
    { readonly revocation: Revocation; readonly expiresAtMs: number }
  >;
  /** Hash to when it is forgotten. */
  readonly revokedHashes: Map<string, number>;
}

function emptyState(): KnownState {
  return {
    identities: new Map(),
    homes: new Map(),
    pins: new Map(),
    notes: new Map(),
    lease: undefined,
    revocations: new Map(),
    revokedHashes: new Map(),
  };
}

/** Takes in what is sound; what is not is as if it were not there. */
function keep<Value>(values: Map<string, Value>, key: string, value: Value | undefined): void {
  if (value !== undefined) values.set(key, value);
}

function applyChange(state: KnownState, change: Change, expiresAtMs: number): void {
  switch (change.type) {
    case "identity":
      state.identities.set(change.identity.key, change.identity);
      return;
    case "revoked":
      for (const hash of change.hashes) state.revokedHashes.set(hash, expiresAtMs);
      return;
    case "revocation": {
      const { revocation } = change;
      if (revocation.pending.length === 0) state.revocations.delete(revocation.id);
      else state.revocations.set(revocation.id, { revocation, expiresAtMs });
      return;
    }
    case "home":
      state.homes.set(change.home.userId, change.home);
      return;
    case "pin":
      state.pins.set(`${change.pin.kind}:${change.pin.id}`, change.pin);
      return;
    case "note": {
      const { kind, id, value } = change.note;
      if (value === "") state.notes.delete(`${kind}:${id}`);
      else state.notes.set(`${kind}:${id}`, change.note);
      return;
    }
    case "lease":
      state.lease = change.lease;
      return;
  }
}

function snapshotOf(state: KnownState, nowMs: number, position: string): Snapshot {
  const live = [...state.revokedHashes].filter(([, expiresAtMs]) => expiresAtMs > nowMs);
  return {
    identities: [...state.identities.values()],
    revokedHashes: live.map(([hash]) => hash),
    revocations: [...state.revocations.values()]
      .filter(({ expiresAtMs }) => expiresAtMs > nowMs)
      .map(({ revocation }) => revocation),
    homes: [...state.homes.values()],
    pins: [...state.pins.values()].filter((pin) => pin.expiresAtMs > nowMs),
    notes: [...state.notes.values()].filter(
      ({ expiresAtMs }) => expiresAtMs === 0 || expiresAtMs > nowMs,
    ),
    lease: state.lease,
    position,
  };
}

function membersFrom(answer: unknown): Member[] {
  return asTexts(answer).flatMap((text) => soundMember(fieldsFrom(text)) ?? []);
}

/** An identity as a script that just wrote it answers it. */
function identityFrom(text: string): Identity {
  const identity = soundIdentity(fieldsFrom(text));
  if (identity === undefined) throw new Error("Redis answered something that is not an identity");
  return identity;
}

function tokenOutcome(code: number, text: string): TokenOutcome {
  if (code === scriptCodes.STALE) return { outcome: "stale", generation: Number(text) };
  return { outcome: "recorded", identity: identityFrom(text) };
}

/** JSON that cjson reads: half of a surrogate pair, which is no character, would make it fail. */
function jsonOf(value: object): string {
  return JSON.stringify(value, (_name, part: unknown) =>
    typeof part === "string" ? part.toWellFormed() : part,
  );
}

// ---- What Redis says about itself (pure) ----

function warningsFrom(info: string, saveSetting: string | undefined): string[] {
  const field = (name: string): string =>
    new RegExp(`^${name}:(.*?)\\r?$`, "m").exec(info)?.[1] ?? "";
  const warnings: string[] = [];
  const policy = field("maxmemory_policy");
  if (policy !== "" && policy !== "noeviction") {
    warnings.push(
      `Redis may throw away logins when its memory is full: its maxmemory-policy is ${policy}. ` +
        "Set it to: noeviction",
    );
  }
  if (field("aof_enabled") === "0" && saveSetting === "") {
    warnings.push(
      "Redis keeps nothing on its disk: after its restart the cluster knows no login. Set: appendonly yes",
    );
  }
  if (field("role") === "slave") {
    warnings.push(
      "This Redis is a read-only replica: name its master, or use redis+sentinel:// to find it.",
    );
  }
  return warnings;
}

// ---- Addresses (pure) ----

/** Reads the address. Throws StoreNotOpened, without the password, when it cannot be understood. */
export function redisAddress(url: string): ConnectionOptions {
  const match =
    /^(rediss?)(\+sentinel)?:\/\/(?:([^@/]*)@)?([^/?#]+)(?:\/([^?#]*))?(?:\?([^#]*))?$/.exec(url);
  const [, scheme, sentinel, credentials = "", hosts = "", path = "", query = ""] = match ?? [];
  if (scheme === undefined) {
    throw new StoreNotOpened(
      "The address of Redis should look like redis://host:6379, rediss://host:6379 or " +
        "redis+sentinel://host:26379,host:26379/mastername.",
    );
  }
  const parameters = new URLSearchParams(query);
  const db = Number(parameters.get("db") ?? (sentinel === undefined && path !== "" ? path : "0"));
  if (!Number.isInteger(db) || db < 0) {
    throw new StoreNotOpened("The number of the database in the address of Redis is not a number.");
  }
  const common: ConnectionOptions = {
    db,
    ...credentialsFrom(credentials),
    ...(scheme === "rediss" ? { tls: {} } : {}),
  };
  if (sentinel === undefined) {
    const { host, port } = hostFrom(hosts, 6379);
    const tls = scheme === "rediss" ? { tls: { servername: host } } : {};
    return { ...common, ...tls, host, port };
  }
  if (path === "") {
    throw new StoreNotOpened(
      "The address of the Sentinels lacks the master's name: redis+sentinel://host:26379/mastername.",
    );
  }
  const sentinelPassword = parameters.get("sentinelPassword");
  return {
    ...common,
    sentinels: hosts.split(",").map((text) => hostFrom(text, 26379)),
    name: decodeURIComponent(path),
    role: "master",
    ...(sentinelPassword === null ? {} : { sentinelPassword }),
    ...(scheme === "rediss" ? { enableTLSForSentinelMode: true } : {}),
  };
}

function credentialsFrom(text: string): ConnectionOptions {
  if (text === "") return {};
  const [user = "", ...rest] = text.split(":");
  const password = decodeURIComponent(rest.join(":"));
  const username = decodeURIComponent(user);
  return { ...(username === "" ? {} : { username }), ...(password === "" ? {} : { password }) };
}

function hostFrom(text: string, defaultPort: number): { host: string; port: number } {
  const [, bracketed, plain, portText] = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d+))?$/.exec(text) ?? [];
  const host = bracketed ?? plain;
  const port = portText === undefined ? defaultPort : Number(portText);
  if (host === undefined || port < 1 || port > 65_535) {
    throw new StoreNotOpened(`In the address of Redis, "${text}" is not a host and port.`);
  }
  return { host, port };
}

// ---- Failures (pure, but for the timer) ----

class CallTimeout extends Error {
  override readonly name = "CallTimeout";
}

/** Rejects with CallTimeout when the work takes longer. What comes later is nobody's any more. */
function withinLimit<Result>(work: Promise<Result>, limitMs: number): Promise<Result> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new CallTimeout(`no answer within ${limitMs} ms`));
    }, limitMs);
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

function isTimeout(error: unknown): boolean {
  return (
    error instanceof CallTimeout ||
    (error instanceof Error && error.message === "Command timed out")
  );
}

function unavailable(error: unknown): StoreUnavailable {
  if (error instanceof StoreUnavailable) return error;
  return new StoreUnavailable(`Redis is not available: ${safeReason(error)}`, {
    cause: safeCause(error),
  });
}

/** The client's errors carry the command with all its arguments, so only a copy of their words is passed on. */
function safeCause(error: unknown): Error {
  const cause = new Error(safeReason(error));
  if (error instanceof Error) cause.name = error.name;
  return cause;
}

/** Redis repeats arguments in some of its messages, always after these words. */
function safeReason(error: unknown): string {
  const message = error instanceof Error ? error.message : "unknown failure";
  const [words = ""] = message.split(/,? with args /);
  return words.slice(0, 200);
}

// ---- Replies: what a script or a command of ours cannot have answered is a bug of ours ----

function asPair(value: unknown): [code: number, text: string] {
  const [code, text] = asList(value);
  if (typeof code !== "number") throw new Error("Redis answered something without a code");
  return [code, asText(text)];
}
