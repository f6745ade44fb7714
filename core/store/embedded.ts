// The store of a single process: SQLite inside `jellybloom up`, in memory or in one file under `--data`.
// It exists so that one machine needs no Redis, and promises what store.ts promises; with a directory
// also that a verb which was answered survives the death of the process (SIGKILL), and that no second
// process opens the same directory.
//
// Every verb is one SQLite transaction, run to its end without a wait, so no verb sees another half
// done. What it changed is written into the table `changes` by the same transaction: that is the feed.
//
// `synchronous` is NORMAL: with a write-ahead log each commit is handed to the operating system before
// the verb answers, so the death of the process loses nothing, and the file is whole after any power cut
// (sqlite.org/wal.html). A power cut may lose the last commits that the system had not yet put on
// the disk, usually those of half a minute. FULL would close that window with one fsync per commit, which
// this process, whose only thread also carries the viewers' bytes, would wait for: on a busy spinning disk up to
// a second. A login lost to a power cut is taken up again when its token is first seen.

import { randomUUID } from "node:crypto";
import { chmodSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import type { Identity, IdentityToken } from "../cluster/identity.ts";
import { embeddedJournal, journalSchema } from "./journal-embedded.ts";
import { checkSecret } from "./secrets.ts";
import {
  type Change,
  checkLeaseClaim,
  checkNote,
  formerHashesKept,
  type Home,
  type Lease,
  type LeaseAnswer,
  type LoginOutcome,
  type Member,
  type Note,
  notesLimit,
  type Pin,
  type ProxySight,
  type Revocation,
  type Store,
  type StoreLimits,
  StoreNotOpened,
  StoreUnavailable,
  type TokenOutcome,
  tooManyNotes,
} from "./store.ts";

export interface EmbeddedStoreOptions {
  /** Where the file is kept (made when it is missing); without it everything is forgotten at the end. */
  readonly directory?: string;
  readonly limits: StoreLimits;
  /** The store's clock, in ms since the epoch. */
  readonly now?: () => number;
  /** A clock that never goes back, in ms, by which the lease ends. */
  readonly monotonicMs?: () => number;
}

export const embeddedFileName = "jellybloom.sqlite";

/** Grows when the tables change in a way that older programs do not understand. */
const schemaVersion = 1;

/** How long opening waits for a process that is just ending, in ms. */
const lockWaitMs = 500;

/** How many transitions a follower is given at once. */
const followBatch = 500;

const schema = `
  CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
  CREATE TABLE identities (key TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE revokedHashes (hash TEXT PRIMARY KEY, expiresAtMs INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE INDEX revokedHashesByExpiry ON revokedHashes (expiresAtMs);
  CREATE TABLE revocations (id TEXT PRIMARY KEY, body TEXT NOT NULL, expiresAtMs INTEGER NOT NULL) STRICT;
  CREATE TABLE mintClaims (
    key TEXT NOT NULL, generation INTEGER NOT NULL, replica TEXT NOT NULL,
    owner TEXT NOT NULL, expiresAtMs INTEGER NOT NULL,
    PRIMARY KEY (key, generation, replica)
  ) STRICT;
  CREATE TABLE homes (userId TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE pins (
    kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, expiresAtMs INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
  ) STRICT;
  CREATE TABLE sights (proxy TEXT PRIMARY KEY, body TEXT NOT NULL, expiresAtMs INTEGER NOT NULL) STRICT;
  CREATE TABLE members (replica TEXT PRIMARY KEY, body TEXT NOT NULL, expiresAtMs INTEGER NOT NULL) STRICT;
  -- A number is never given twice, also after the oldest rows were trimmed, so a position stays valid.
  CREATE TABLE changes (number INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL) STRICT;
`;

/** Came later than the first tables; made where they are missing, which an older program does not mind. */
const laterSchema = `
  CREATE TABLE IF NOT EXISTS notes (
    kind TEXT NOT NULL, id TEXT NOT NULL, replica TEXT NOT NULL, body TEXT NOT NULL,
    expiresAtMs INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
  ) STRICT;
  -- One row, of whoever was last granted the lease.
  CREATE TABLE IF NOT EXISTS lease (
    one INTEGER PRIMARY KEY CHECK (one = 1), body TEXT NOT NULL
  ) STRICT;
  CREATE TABLE IF NOT EXISTS secrets (
    id TEXT PRIMARY KEY, sealed TEXT NOT NULL, expiresAtMs INTEGER NOT NULL
  ) STRICT;
  -- Replicas that do not have a secret yet.
  CREATE TABLE IF NOT EXISTS secretsFor (
    id TEXT NOT NULL, replica TEXT NOT NULL, PRIMARY KEY (id, replica)
  ) STRICT;
  ${journalSchema}
`;

/**
 * Opens the store, and makes it when there is none. Throws StoreNotOpened, with a sentence that says what
 * to do, when the directory cannot be used, another process has it open, the file is damaged, or it was
 * written by a newer program.
 */
export function openEmbeddedStore(options: EmbeddedStoreOptions): Store {
  const { directory, limits, now = Date.now, monotonicMs = () => performance.now() } = options;
  const database = directory === undefined ? new DatabaseSync(":memory:") : openFile(directory);
  const clusterId = prepareSchema(database, directory);
  return embeddedStore(database, clusterId, limits, now, monotonicMs);
}

function openFile(directory: string): DatabaseSync {
  const file = join(directory, embeddedFileName);
  let database: DatabaseSync | undefined;
  try {
    // Tokens in the file are sealed, but who uses what device is nobody else's business either.
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    database = new DatabaseSync(file, { timeout: lockWaitMs });
    chmodSync(file, 0o600);
    // The exclusive lock is the operating system's: it ends with the process, however that ends.
    database.exec("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;");
    database.exec("PRAGMA synchronous = NORMAL;");
    // A lock is first taken by a first write.
    database.exec("BEGIN EXCLUSIVE; COMMIT;");
    const damage = textOf(database.prepare("PRAGMA quick_check(1)").get()?.quick_check);
    if (damage !== "ok") throw damaged(file, damage);
    return database;
  } catch (error) {
    database?.close();
    throw asNotOpened(error, directory, file);
  }
}

/** Primary result codes of sqlite.org/rescode.html. */
const sqliteCodes = { busy: 5, locked: 6, corrupt: 11, cannotOpen: 14, notADatabase: 26 } as const;

function asNotOpened(error: unknown, directory: string, file: string): StoreNotOpened {
  if (error instanceof StoreNotOpened) return error;
  const code = sqliteCodeOf(error);
  if (code === sqliteCodes.busy || code === sqliteCodes.locked) {
    return new StoreNotOpened(
      `Another process has the store in ${directory} open. Stop it, or give this one a directory of its own.`,
      { cause: error },
    );
  }
  if (code === sqliteCodes.corrupt || code === sqliteCodes.notADatabase) {
    return damaged(file, messageOf(error), error);
  }
  return new StoreNotOpened(
    `The store in ${directory} cannot be opened or written (${messageOf(error)}). ` +
      "Give this process a directory that it may write to.",
    { cause: error },
  );
}

function damaged(file: string, what: string, cause?: unknown): StoreNotOpened {
  return new StoreNotOpened(
    `The store's file ${file} is damaged or is not a store (${what}). Put back a copy of it, or move it away: ` +
      "a new one is made, and everybody's devices are recognised again when they next call.",
    { cause },
  );
}

/** Makes or checks the tables. Answers the id of these data. */
function prepareSchema(database: DatabaseSync, directory: string | undefined): string {
  try {
    const version = Number(database.prepare("PRAGMA user_version").get()?.user_version);
    if (version > schemaVersion) {
      throw new StoreNotOpened(
        `The store in ${directory} was written by a newer Jellybloom (its version is ${version}, this program ` +
          `knows up to ${schemaVersion}). Use that newer program, or another directory.`,
      );
    }
    if (version === 0) {
      database.exec(`BEGIN; ${schema} PRAGMA user_version = ${schemaVersion};`);
      database.prepare("INSERT INTO meta (name, value) VALUES ('clusterId', ?)").run(randomUUID());
      database.exec("COMMIT");
    }
    database.exec(laterSchema);
    // The file is this process's alone, so whoever held the right to mint died with the process before it.
    // Left standing, such a claim would keep people from the other replicas until it ran out.
    database.exec("DELETE FROM mintClaims");
    const row = database.prepare("SELECT value FROM meta WHERE name = 'clusterId'").get();
    return textOf(row?.value);
  } catch (error) {
    database.close();
    if (directory === undefined) throw error;
    throw asNotOpened(error, directory, join(directory, embeddedFileName));
  }
}

function embeddedStore(
  database: DatabaseSync,
  id: string,
  limits: StoreLimits,
  now: () => number,
  monotonicMs: () => number,
): Store {
  const statements = new Map<string, StatementSync>();
  /** Followers that wait for the next change. */
  const waiting = new Set<() => void>();
  /** Followers of the journal that wait for its next entry. */
  const waitingForEntry = new Set<() => void>();
  /** Whether the transition that runs now has published a change. */
  let published = false;
  let closed = false;
  /**
   * Who holds the lease now, and until when. It is not in the file: whoever held it died with the process
   * that had the file open. As everybody who may hold it lives in this process, one monotonic clock serves all,
   * and setting the wall clock cannot give it to two.
   */
  let leaseHolder: { readonly owner: string; readonly untilMs: number } | undefined;

  function statement(sql: string): StatementSync {
    const known = statements.get(sql);
    if (known !== undefined) return known;
    const prepared = database.prepare(sql);
    statements.set(sql, prepared);
    return prepared;
  }

  function run(sql: string, ...values: SQLInputValue[]): void {
    statement(sql).run(...values);
  }

  function texts(sql: string, ...values: SQLInputValue[]): string[] {
    const found: string[] = [];
    for (const row of statement(sql).iterate(...values)) found.push(textOf(row.body));
    return found;
  }

  function body<Kind>(sql: string, ...values: SQLInputValue[]): Kind | undefined {
    const row = statement(sql).get(...values);
    // What lies in the file was written by this file.
    return row === undefined ? undefined : (JSON.parse(textOf(row.body)) as Kind);
  }

  function bodies<Kind>(sql: string, ...values: SQLInputValue[]): Kind[] {
    return texts(sql, ...values).map((text) => JSON.parse(text) as Kind);
  }

  /** One verb: all of it or nothing. The work must not wait. */
  async function transition<Result>(work: (nowMs: number) => Result): Promise<Result> {
    return attempt(() => {
      database.exec("BEGIN IMMEDIATE");
      try {
        const result = work(now());
        database.exec("COMMIT");
        if (published) wakeAll(waiting);
        return result;
      } catch (error) {
        // After some failures, such as a full disk, SQLite has rolled back by itself.
        if (database.isTransaction) database.exec("ROLLBACK");
        throw error;
      } finally {
        published = false;
      }
    });
  }

  function forgetSecrets(nowMs: number): void {
    run("DELETE FROM secrets WHERE expiresAtMs <= ?", nowMs);
    run("DELETE FROM secretsFor WHERE id NOT IN (SELECT id FROM secrets)");
  }

  /** Tells a failing disk from a mistake of ours: after the first, the process goes on from memory. */
  function attempt<Result>(work: () => Result): Result {
    if (closed) throw new StoreUnavailable("the embedded store is closed");
    try {
      return work();
    } catch (error) {
      if (sqliteCodeOf(error) === undefined) throw error;
      throw new StoreUnavailable(`the embedded store failed: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  function wakeAll(sleepers: Set<() => void>): void {
    const woken = [...sleepers];
    sleepers.clear();
    for (const wake of woken) wake();
  }

  function publish(...changes: Change[]): void {
    published = true;
    run("INSERT INTO changes (body) VALUES (?)", JSON.stringify(changes));
    run("DELETE FROM changes WHERE number <= ?", lastChange() - limits.changesKept);
  }

  function lastChange(): number {
    const row = statement("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").get();
    return row === undefined ? 0 : Number(row.seq);
  }

  function identityOf(key: string): Identity | undefined {
    return body("SELECT body FROM identities WHERE key = ?", key);
  }

  function keepIdentity(identity: Identity): void {
    run(
      "INSERT INTO identities (key, body) VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
      identity.key,
      JSON.stringify(identity),
    );
  }

  function isRevoked(hash: string, nowMs: number): boolean {
    const sql = "SELECT 1 AS found FROM revokedHashes WHERE hash = ? AND expiresAtMs > ?";
    return statement(sql).get(hash, nowMs) !== undefined;
  }

  /** Revokes every hash of the identity's generation and answers the change to publish, if any. */
  function revokeHashes(identity: Identity, nowMs: number): Change[] {
    const hashes = hashesOf(identity);
    run("DELETE FROM revokedHashes WHERE expiresAtMs <= ?", nowMs);
    for (const hash of hashes) {
      run(
        "INSERT INTO revokedHashes (hash, expiresAtMs) VALUES (?, ?) " +
          "ON CONFLICT DO UPDATE SET expiresAtMs = excluded.expiresAtMs",
        hash,
        nowMs + limits.revokedKeepMs,
      );
    }
    return hashes.length === 0 ? [] : [{ type: "revoked", identityKey: identity.key, hashes }];
  }

  function keepPin(pin: Pin): void {
    run(
      "INSERT INTO pins (kind, id, body, expiresAtMs) VALUES (?, ?, ?, ?) " +
        "ON CONFLICT DO UPDATE SET body = excluded.body, expiresAtMs = excluded.expiresAtMs",
      pin.kind,
      pin.id,
      JSON.stringify(pin),
      pin.expiresAtMs,
    );
    publish({ type: "pin", pin });
  }

  function pinOf(kind: string, pinId: string): Pin | undefined {
    return body("SELECT body FROM pins WHERE kind = ? AND id = ?", kind, pinId);
  }

  function lastLease(): Lease | undefined {
    return body("SELECT body FROM lease");
  }

  function keepLease(lease: Lease): void {
    run(
      "INSERT INTO lease (one, body) VALUES (1, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
      JSON.stringify(lease),
    );
    publish({ type: "lease", lease });
  }

  function liveMembers(nowMs: number): Member[] {
    return bodies("SELECT body FROM members WHERE expiresAtMs > ? ORDER BY replica", nowMs);
  }

  /** What comes after a position, or undefined when these data no longer hold the position. */
  function changesAfter(
    position: string,
  ): { readonly changes: Change[]; readonly reached: string } | undefined {
    const [positionId, text] = position.split("/");
    const number = Number(text);
    if (positionId !== id || !Number.isSafeInteger(number) || number < 0) return undefined;
    const last = lastChange();
    const oldest = statement("SELECT min(number) AS number FROM changes").get()?.number;
    const held = oldest === null ? last : Number(oldest) - 1;
    // A number beyond the last one was given before an older copy of the file was put back.
    if (number < held || number > last) return undefined;
    const sql = "SELECT number, body FROM changes WHERE number > ? ORDER BY number LIMIT ?";
    const rows = statement(sql).all(number, followBatch);
    return {
      changes: rows.flatMap((row) => JSON.parse(textOf(row.body)) as Change[]),
      reached: `${id}/${Number(rows.at(-1)?.number ?? number)}`,
    };
  }

  /** Waits until the sleepers are woken or the signal aborts. */
  function untilWoken(sleepers: Set<() => void>, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        sleepers.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      sleepers.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });
  }

  return {
    ...embeddedJournal({
      run,
      row: (sql, ...values) => statement(sql).get(...values),
      rows: (sql, ...values) => statement(sql).iterate(...values),
      transition,
      untilWoken: (signal) => untilWoken(waitingForEntry, signal),
      wake: () => wakeAll(waitingForEntry),
      limits,
    }),

    kind: "embedded",

    async clusterId() {
      return id;
    },

    async time() {
      return now();
    },

    load() {
      return transition((nowMs) => ({
        identities: bodies<Identity>("SELECT body FROM identities"),
        revokedHashes: texts("SELECT hash AS body FROM revokedHashes WHERE expiresAtMs > ?", nowMs),
        revocations: bodies<Revocation>(
          "SELECT body FROM revocations WHERE expiresAtMs > ?",
          nowMs,
        ),
        homes: bodies<Home>("SELECT body FROM homes"),
        pins: bodies<Pin>("SELECT body FROM pins WHERE expiresAtMs > ?", nowMs),
        notes: bodies<Note>(
          "SELECT body FROM notes WHERE expiresAtMs > ? OR expiresAtMs = 0",
          nowMs,
        ),
        lease: lastLease(),
        position: `${id}/${lastChange()}`,
      }));
    },

    async follow(position, onChanges, signal) {
      let reached = position;
      let greeted = false;
      while (!signal.aborted) {
        const next = attempt(() => changesAfter(reached));
        if (next === undefined) return "lost";
        if (next.changes.length > 0 || !greeted) {
          greeted = true;
          reached = next.reached;
          onChanges(next.changes, reached);
          // Lets the rest of the process have its turn between two batches.
          await new Promise((resolve) => setImmediate(resolve));
        } else {
          await untilWoken(waiting, signal);
        }
      }
      return "aborted";
    },

    recordLogin(login) {
      return transition((nowMs): LoginOutcome => {
        const known = identityOf(login.key);
        const generation = known?.generation ?? 0;
        if (known !== undefined && hashesOf(known).includes(login.hash)) {
          return { outcome: "recorded", identity: known };
        }
        if (isRevoked(login.hash, nowMs)) return { outcome: "revoked" };
        if (login.expectedGeneration !== generation + 1) return { outcome: "stale", generation };
        const identity: Identity = {
          key: login.key,
          ...login.facts,
          generation: generation + 1,
          startedAtMs: nowMs,
          origin: login.origin,
          tokens: { [login.origin]: { hash: login.hash, sealed: login.sealed } },
          formerHashes: [],
        };
        keepIdentity(identity);
        const revoked = known === undefined ? [] : revokeHashes(known, nowMs);
        publish({ type: "identity", identity }, ...revoked);
        return { outcome: "recorded", identity };
      });
    },

    addToken(record) {
      return transition((nowMs): TokenOutcome => {
        const { key, facts, replica, hash, sealed } = record;
        const known = identityOf(key);
        const generation = known?.generation ?? 0;
        if (known?.tokens[replica]?.hash === hash) return { outcome: "recorded", identity: known };
        if (record.generation !== generation || isRevoked(hash, nowMs)) {
          return { outcome: "stale", generation };
        }
        const identity = withToken(
          known === undefined || hasEnded(known)
            ? {
                key,
                ...facts,
                generation: Math.max(generation, 1),
                startedAtMs: known?.startedAtMs ?? nowMs,
                origin: replica,
                tokens: {},
                formerHashes: [],
              }
            : known,
          replica,
          { hash, sealed },
        );
        keepIdentity(identity);
        publish({ type: "identity", identity });
        return { outcome: "recorded", identity };
      });
    },

    dropToken(key, generation, replica, hash) {
      return transition(() => {
        const known = identityOf(key);
        if (known?.generation !== generation || known.tokens[replica]?.hash !== hash) return;
        const identity = withoutToken(known, replica);
        keepIdentity(identity);
        publish({ type: "identity", identity });
      });
    },

    revoke(key, replicas) {
      return transition((nowMs) => {
        const ended = identityOf(key);
        if (ended === undefined || hasEnded(ended)) return undefined;
        const generation = ended.generation + 1;
        const identity = { ...ended, generation, startedAtMs: nowMs, tokens: {}, formerHashes: [] };
        keepIdentity(identity);
        const changes: Change[] = [{ type: "identity", identity }, ...revokeHashes(ended, nowMs)];
        run("DELETE FROM revocations WHERE expiresAtMs <= ?", nowMs);
        if (replicas.length > 0) {
          const revocation: Revocation = {
            id: randomUUID(),
            identityKey: key,
            generation: ended.generation,
            userId: ended.userId,
            deviceId: ended.deviceId,
            tokens: ended.tokens,
            pending: [...new Set(replicas)].sort(),
          };
          run(
            "INSERT INTO revocations (id, body, expiresAtMs) VALUES (?, ?, ?)",
            revocation.id,
            JSON.stringify(revocation),
            nowMs + limits.revokedKeepMs,
          );
          changes.push({ type: "revocation", revocation });
        }
        publish(...changes);
        return ended;
      });
    },

    settleRevocation(revocationId, replica) {
      return transition((nowMs) => {
        const known = body<Revocation>(
          "SELECT body FROM revocations WHERE id = ? AND expiresAtMs > ?",
          revocationId,
          nowMs,
        );
        if (known === undefined || !known.pending.includes(replica)) return;
        const revocation = { ...known, pending: known.pending.filter((name) => name !== replica) };
        if (revocation.pending.length === 0) {
          run("DELETE FROM revocations WHERE id = ?", revocationId);
        } else {
          const text = JSON.stringify(revocation);
          run("UPDATE revocations SET body = ? WHERE id = ?", text, revocationId);
        }
        publish({ type: "revocation", revocation });
      });
    },

    claimMint({ key, generation, replica, owner, ttlMs }) {
      return transition((nowMs) => {
        run("DELETE FROM mintClaims WHERE expiresAtMs <= ?", nowMs);
        const identity = identityOf(key);
        if (identity?.generation !== generation || hasEnded(identity)) return false;
        const result = statement(
          "INSERT INTO mintClaims (key, generation, replica, owner, expiresAtMs) VALUES (?, ?, ?, ?, ?) " +
            "ON CONFLICT DO NOTHING",
        ).run(key, generation, replica, owner, nowMs + ttlMs);
        return Number(result.changes) === 1;
      });
    },

    releaseMint({ key, generation, replica, owner }) {
      return transition(() => {
        run(
          "DELETE FROM mintClaims WHERE key = ? AND generation = ? AND replica = ? AND owner = ?",
          key,
          generation,
          replica,
          owner,
        );
      });
    },

    async putSecret(id, sealed, replicas, ttlMs) {
      checkSecret(sealed, replicas, ttlMs);
      await transition((nowMs) => {
        forgetSecrets(nowMs);
        const known = statement("SELECT id FROM secrets WHERE id = ?").get(id);
        if (known !== undefined) return;
        run(
          "INSERT INTO secrets (id, sealed, expiresAtMs) VALUES (?, ?, ?)",
          id,
          sealed,
          nowMs + ttlMs,
        );
        for (const replica of new Set(replicas)) {
          run("INSERT INTO secretsFor (id, replica) VALUES (?, ?)", id, replica);
        }
      });
    },

    readSecret(id) {
      return transition((nowMs) => {
        forgetSecrets(nowMs);
        const row = statement("SELECT sealed FROM secrets WHERE id = ?").get(id);
        return row === undefined ? undefined : textOf(row.sealed);
      });
    },

    settleSecret(id, replica) {
      return transition(() => {
        run("DELETE FROM secretsFor WHERE id = ? AND replica = ?", id, replica);
        run("DELETE FROM secrets WHERE id = ? AND id NOT IN (SELECT id FROM secretsFor)", id);
      });
    },

    claimHome({ userId, replica, expectedEpoch, owner, minStayMs }) {
      return transition((nowMs) => {
        const known = body<Home>("SELECT body FROM homes WHERE userId = ?", userId);
        if (known !== undefined) {
          const stayedMs = nowMs - known.movedAtMs;
          // A clock that was set back says nothing about how long the home stayed.
          const tooSoon = stayedMs >= 0 && stayedMs < minStayMs;
          if (known.epoch.number !== expectedEpoch || tooSoon)
            return { granted: false, home: known };
        }
        const home: Home = {
          userId,
          replica,
          epoch: { number: expectedEpoch + 1, owner },
          movedAtMs: nowMs,
        };
        run(
          "INSERT INTO homes (userId, body) VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
          userId,
          JSON.stringify(home),
        );
        publish({ type: "home", home });
        return { granted: true, home };
      });
    },

    claimPin({ kind, id: pinId, replica, owner, ttlMs }) {
      return transition((nowMs) => {
        run("DELETE FROM pins WHERE expiresAtMs <= ?", nowMs);
        const known = pinOf(kind, pinId);
        if (known !== undefined) return known;
        const expiresAtMs = nowMs + ttlMs;
        const pin: Pin = { kind, id: pinId, replica, epoch: { number: 1, owner }, expiresAtMs };
        keepPin(pin);
        return pin;
      });
    },

    movePin({ kind, id: pinId, replica, owner, ttlMs, expectedEpoch }) {
      return transition((nowMs) => {
        run("DELETE FROM pins WHERE expiresAtMs <= ?", nowMs);
        const known = pinOf(kind, pinId);
        if (known !== undefined && known.epoch.number !== expectedEpoch) {
          return { granted: false, pin: known };
        }
        const expiresAtMs = nowMs + ttlMs;
        const stays = known !== undefined && known.replica === replica;
        if (stays && !changesExpiry(known.expiresAtMs, expiresAtMs, ttlMs)) {
          return { granted: true, pin: known };
        }
        const epoch = stays ? known.epoch : { number: expectedEpoch + 1, owner };
        const pin: Pin = { kind, id: pinId, replica, epoch, expiresAtMs };
        keepPin(pin);
        return { granted: true, pin };
      });
    },

    dropPin(kind, pinId, expectedEpoch) {
      return transition((nowMs) => {
        const known = pinOf(kind, pinId);
        if (known === undefined || known.expiresAtMs <= nowMs) return;
        if (known.epoch.number !== expectedEpoch) return;
        run("DELETE FROM pins WHERE kind = ? AND id = ?", kind, pinId);
        publish({ type: "pin", pin: { ...known, expiresAtMs: 0 } });
      });
    },

    async putNote({ kind, id: noteId, replica, value }, ttlMs, { ifAbsent = false } = {}) {
      checkNote({ kind, id: noteId, replica, value }, ttlMs);
      return transition((nowMs) => {
        run("DELETE FROM notes WHERE expiresAtMs <= ? AND expiresAtMs > 0", nowMs);
        const known = body<Note>("SELECT body FROM notes WHERE kind = ? AND id = ?", kind, noteId);
        const expiresAtMs = ttlMs === 0 ? 0 : nowMs + ttlMs;
        if (known === undefined) {
          const row = statement("SELECT count(*) AS count FROM notes WHERE kind = ?").get(kind);
          if (Number(row?.count) >= notesLimit) throw tooManyNotes(kind);
        } else {
          if (ifAbsent) return;
          const same = known.value === value && known.replica === replica;
          if (same && !changesExpiry(known.expiresAtMs, expiresAtMs, ttlMs)) return;
        }
        const note: Note = { kind, id: noteId, replica, value, expiresAtMs };
        run(
          "INSERT INTO notes (kind, id, replica, body, expiresAtMs) VALUES (?, ?, ?, ?, ?) " +
            "ON CONFLICT DO UPDATE SET replica = excluded.replica, body = excluded.body, " +
            "expiresAtMs = excluded.expiresAtMs",
          kind,
          noteId,
          replica,
          JSON.stringify(note),
          expiresAtMs,
        );
        publish({ type: "note", note });
      });
    },

    dropNotes({ kind, id: noteId, replica }) {
      return transition(() => {
        const meant = "kind = ? AND (? IS NULL OR id = ?) AND (? IS NULL OR replica = ?)";
        const values = [
          kind,
          noteId ?? null,
          noteId ?? null,
          replica ?? null,
          replica ?? null,
        ] as const;
        const dropped = bodies<Note>(`SELECT body FROM notes WHERE ${meant}`, ...values);
        if (dropped.length === 0) return;
        run(`DELETE FROM notes WHERE ${meant}`, ...values);
        publish(
          ...dropped.map(
            (note): Change => ({ type: "note", note: { ...note, value: "", expiresAtMs: 0 } }),
          ),
        );
      });
    },

    async holdLease(claim) {
      checkLeaseClaim(claim);
      const { owner, replica, gateUrl, ttlMs, above } = claim;
      return transition((): LeaseAnswer => {
        const atMs = monotonicMs();
        const last = lastLease();
        const isHeld = leaseHolder !== undefined && leaseHolder.untilMs > atMs;
        if (isHeld && leaseHolder?.owner !== owner) {
          return {
            held: false,
            lease: last,
            retryAfterMs: Math.ceil((leaseHolder?.untilMs ?? atMs) - atMs),
          };
        }
        const goesOn =
          isHeld &&
          last !== undefined &&
          last.epoch.number > above &&
          last.replica === replica &&
          last.gateUrl === gateUrl;
        const number = Math.max(above, last?.epoch.number ?? 0) + 1;
        const lease = goesOn ? last : { epoch: { number, owner }, replica, gateUrl };
        if (!goesOn) keepLease(lease);
        leaseHolder = { owner, untilMs: atMs + ttlMs };
        return { held: true, lease };
      });
    },

    releaseLease(owner) {
      return transition(() => {
        if (leaseHolder?.owner !== owner) return;
        leaseHolder = undefined;
        const last = lastLease();
        if (last?.epoch.owner !== owner) return;
        keepLease({ ...last, replica: "", gateUrl: "" });
      });
    },

    touchProxy({ proxy, reachable }, ttlMs) {
      return transition((nowMs) => {
        const sight: ProxySight = { proxy, reachable, atMs: nowMs };
        run("DELETE FROM sights WHERE expiresAtMs <= ?", nowMs);
        run(
          "INSERT INTO sights (proxy, body, expiresAtMs) VALUES (?, ?, ?) " +
            "ON CONFLICT DO UPDATE SET body = excluded.body, expiresAtMs = excluded.expiresAtMs",
          proxy,
          JSON.stringify(sight),
          nowMs + ttlMs,
        );
        const sights = bodies<ProxySight>("SELECT body FROM sights ORDER BY proxy");
        return { sights, members: liveMembers(nowMs) };
      });
    },

    touchMember(member, ttlMs) {
      return transition((nowMs) => {
        const announced: Member = { ...member, atMs: nowMs };
        run("DELETE FROM members WHERE expiresAtMs <= ?", nowMs);
        // A secret ends with its time also where nobody asks for one any more: this is what comes regularly.
        forgetSecrets(nowMs);
        run(
          "INSERT INTO members (replica, body, expiresAtMs) VALUES (?, ?, ?) " +
            "ON CONFLICT DO UPDATE SET body = excluded.body, expiresAtMs = excluded.expiresAtMs",
          member.replica,
          JSON.stringify(announced),
          nowMs + ttlMs,
        );
        return { nowMs, members: liveMembers(nowMs) };
      });
    },

    members() {
      return transition(liveMembers);
    },

    async close() {
      if (closed) return;
      closed = true;
      wakeAll(waiting);
      wakeAll(waitingForEntry);
      database.close();
    },
  };
}

/**
 * Whether a time of end is worth writing and telling: it moves by more than a quarter of the time that the
 * value holds, or it appears or vanishes (0: no end).
 */
function changesExpiry(knownExpiresAtMs: number, expiresAtMs: number, ttlMs: number): boolean {
  if ((knownExpiresAtMs === 0) !== (expiresAtMs === 0)) return true;
  return Math.abs(expiresAtMs - knownExpiresAtMs) > ttlMs / 4;
}

function hasToken(identity: Identity, hash: string): boolean {
  return Object.values(identity.tokens).some((token) => token.hash === hash);
}

/** An identity has ended when no token and no former token of its generation can be shown any more. */
function hasEnded(identity: Identity): boolean {
  return hashesOf(identity).length === 0;
}

/** Every hash that the identity's generation is known by, each once. */
function hashesOf(identity: Identity): string[] {
  const current = Object.values(identity.tokens).map((token) => token.hash);
  return [...new Set([...current, ...(identity.formerHashes ?? [])])];
}

function withToken(identity: Identity, replica: string, token: IdentityToken): Identity {
  const rest = withoutToken(identity, replica);
  const formerHashes = (rest.formerHashes ?? []).filter((hash) => hash !== token.hash);
  return { ...rest, tokens: { ...rest.tokens, [replica]: token }, formerHashes };
}

/** The replica's token becomes a former hash, unless another replica knows the same token. */
function withoutToken(identity: Identity, replica: string): Identity {
  const dropped = identity.tokens[replica];
  if (dropped === undefined) return identity;
  const tokens = Object.fromEntries(
    Object.entries(identity.tokens).filter(([name]) => name !== replica),
  );
  const others = (identity.formerHashes ?? []).filter((hash) => hash !== dropped.hash);
  const rest = { ...identity, tokens };
  if (hasToken(rest, dropped.hash)) return rest;
  return { ...rest, formerHashes: [...others, dropped.hash].slice(-formerHashesKept) };
}

/** SQLite's primary result code, or undefined when the error is not SQLite's. */
function sqliteCodeOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !("errcode" in error)) return undefined;
  return typeof error.errcode === "number" ? error.errcode & 0xff : undefined;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}
