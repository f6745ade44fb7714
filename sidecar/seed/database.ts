// Copies a SQLite database that another program may be writing to, and proves the copy.
//
// The copy is an online backup inside one read transaction. Without the transaction a backup in steps
// begins again at every commit of another process, and beside a busy server it never ends (tried: 472
// beginnings in 2.3 s and no copy; with the transaction one pass). In WAL mode, which Jellyfin uses,
// readers do not hold up writers, so the server goes on.
//
// The source is never written to. Even opening a database can leave -wal and -shm files behind, which a
// server that runs as another user could then not use: so a database that nobody has open is opened as
// immutable, and one that was not closed properly, or lies where we may not write, is copied together
// with its log to a scratch folder and recovered there.

import { copyFile, lstat, mkdir, open, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { backup, DatabaseSync } from "node:sqlite";
import { pathToFileURL } from "node:url";
import { codeOf, messageOf, SeedProblem } from "./problem.ts";

export interface CopyDatabaseOptions {
  readonly source: string;
  readonly target: string;
  /** A folder for files that are needed only while copying. Made and removed here. */
  readonly scratchFolder: string;
  /** How long to wait for a lock of the server's, in milliseconds. */
  readonly lockLimitMs: number;
  /** Called with the bytes that were copied since the last call. */
  readonly onBytes: (bytes: number) => void;
}

const pagesPerStep = 2048;
const attemptLimit = 5;

/** @throws SeedProblem when no consistent copy can be made; the target is then not there. */
export async function copyDatabase(options: CopyDatabaseOptions): Promise<void> {
  try {
    for (let attempt = 1; attempt <= attemptLimit; attempt++) {
      if (await tryCopy(options)) return;
    }
  } catch (error) {
    await rm(options.target, { force: true });
    throw explained(options.source, error);
  }
  await rm(options.target, { force: true });
  throw new SeedProblem(
    `The database ${options.source} is being written to and cannot be read beside its` +
      " writer from here: give write access to its folder, or stop the server.",
  );
}

/** False when the database changed in a way that makes this copy worthless: then try again. */
async function tryCopy(options: CopyDatabaseOptions): Promise<boolean> {
  const before = await observe(options.source);
  if (isAtRest(before)) {
    const url = new URL("?immutable=1", pathToFileURL(options.source));
    await backUp(new DatabaseSync(url, { readOnly: true }), options);
    return isSame(before, await observe(options.source));
  }
  // A log without its index is what a power cut or a copied folder leaves; opening it would make one.
  if (before.hasSharedMemory || !before.isWriteAhead) {
    try {
      const { source, lockLimitMs } = options;
      await backUp(new DatabaseSync(source, { readOnly: true, timeout: lockLimitMs }), options);
      return true;
    } catch (error) {
      if (!cannotReadBeside(error)) throw error;
    }
  }
  return await copyByScratch(options, before);
}

/** Copies the database file with its logs, and backs up from there, where it can be recovered. */
async function copyByScratch(options: CopyDatabaseOptions, before: Observed): Promise<boolean> {
  const { source, scratchFolder } = options;
  await rm(scratchFolder, { recursive: true, force: true });
  await mkdir(scratchFolder, { recursive: true, mode: 0o700 });
  try {
    const copy = join(scratchFolder, basename(source));
    for (const end of ["", "-wal", "-journal"]) {
      await copyFile(source + end, copy + end).catch(ignoreMissing);
    }
    if (!isSame(before, await observe(source))) return false;
    await backUp(new DatabaseSync(copy), options);
    return true;
  } finally {
    await rm(scratchFolder, { recursive: true, force: true });
  }
}

async function backUp(database: DatabaseSync, options: CopyDatabaseOptions): Promise<void> {
  const { target, onBytes } = options;
  try {
    await rm(target, { force: true });
    database.exec("BEGIN");
    // A transaction begins with its first read.
    const pageBytes = numberOf(database.prepare("PRAGMA page_size").get());
    database.prepare("SELECT count(*) FROM sqlite_schema").get();
    let donePages = 0;
    await backup(database, target, {
      rate: pagesPerStep,
      progress({ totalPages, remainingPages }) {
        onBytes((totalPages - remainingPages - donePages) * pageBytes);
        donePages = totalPages - remainingPages;
      },
    });
    database.exec("ROLLBACK");
  } finally {
    database.close();
  }
}

// ---- What lies beside a database --------------------------------------------------------------------

interface Observed {
  /** The journal mode which the file's header says. */
  readonly isWriteAhead: boolean;
  readonly hasSharedMemory: boolean;
  /** What tells versions of the three files apart; empty for a file that is not there or empty. */
  readonly main: string;
  readonly log: string;
  readonly journal: string;
}

async function observe(path: string): Promise<Observed> {
  const handle = await open(path, "r");
  const head = Buffer.alloc(20);
  try {
    await handle.read(head, 0, head.length, 0);
  } finally {
    await handle.close();
  }
  return {
    // Bytes 18 and 19 are 2 in WAL mode (https://sqlite.org/fileformat.html, section 1.3.3).
    isWriteAhead: head[18] === 2,
    hasSharedMemory: (await versionOf(`${path}-shm`, true)) !== "",
    main: await versionOf(path, true),
    log: await versionOf(`${path}-wal`, true),
    journal: await versionOf(`${path}-journal`, false),
  };
}

async function versionOf(path: string, countsWhenEmpty: boolean): Promise<string> {
  const info = await lstat(path, { bigint: true }).catch(ignoreMissing);
  if (info === undefined || (info.size === 0n && !countsWhenEmpty)) return "";
  return [info.ino, info.size, info.mtimeNs, info.ctimeNs].join(" ");
}

/** A database in WAL mode which any process has open has both its attendants. */
function isAtRest({ isWriteAhead, hasSharedMemory, log }: Observed): boolean {
  return isWriteAhead && !hasSharedMemory && log === "";
}

function isSame(left: Observed, right: Observed): boolean {
  return left.main === right.main && left.log === right.log && left.journal === right.journal;
}

function ignoreMissing(error: unknown): undefined {
  // Most databases have no log and no journal, and a server removes them when it closes one.
  if (codeOf(error) === "ENOENT") return undefined;
  throw error;
}

// ---- Errors -----------------------------------------------------------------------------------------

/** SQLite's own codes (https://sqlite.org/rescode.html), without what extends them. */
const resultCode = { busy: 5, locked: 6, readOnly: 8, inputOutput: 10, cannotOpen: 14 } as const;

function resultCodeOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !("errcode" in error)) return undefined;
  return typeof error.errcode === "number" ? error.errcode & 0xff : undefined;
}

/** A log or its index that may not be made or recovered where it lies. */
function cannotReadBeside(error: unknown): boolean {
  const code = resultCodeOf(error);
  return code === resultCode.readOnly || code === resultCode.cannotOpen;
}

function explained(source: string, error: unknown): unknown {
  const code = resultCodeOf(error);
  if (code === undefined) return error;
  if (code === resultCode.busy || code === resultCode.locked) {
    return new SeedProblem(
      `The database ${source} stays locked by its server: try again when the server is less busy, or stop it.`,
    );
  }
  return new SeedProblem(
    `The database ${source} cannot be copied (${messageOf(error)}): if it is damaged,` +
      " repair it on the server first; if the disk is full, make room.",
  );
}

function numberOf(row: unknown): number {
  if (typeof row !== "object" || row === null) return 0;
  const [value] = Object.values(row);
  return Number(value);
}

// ---- Looking at a copy ------------------------------------------------------------------------------

export interface CheckedDatabase {
  /** Sentences of SQLite's own check; empty when it found nothing. */
  readonly damage: readonly string[];
  /** A reason why it could not be checked, which is no sign of damage. */
  readonly unchecked: string | undefined;
  /** Rows of those of the tables asked for which it has, in their order. */
  readonly rows: ReadonlyMap<string, number>;
}

/** Looks at a database which nobody has open. Leaves no files beside it. */
export function checkDatabase(path: string, tables: readonly string[]): CheckedDatabase {
  const url = new URL("?immutable=1", pathToFileURL(path));
  const database = new DatabaseSync(url, { readOnly: true });
  const rows = new Map<string, number>();
  try {
    const schema = database.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").all();
    const present = new Set(schema.map((row) => String(row.name)));
    for (const table of tables.filter((name) => present.has(name))) {
      rows.set(table, numberOf(database.prepare(`SELECT count(*) FROM "${table}"`).get()));
    }
    const found = database.prepare("PRAGMA quick_check(3)").all();
    const lines = found.map((row) => String(Object.values(row)[0]));
    return { damage: lines.filter((line) => line !== "ok"), unchecked: undefined, rows };
  } catch (error) {
    const message = messageOf(error);
    // A plugin may bring functions, orders and modules of its own, which are not to be had here.
    if (/^no such (module|function|collation)/.test(message)) {
      return { damage: [], unchecked: message, rows };
    }
    return { damage: [message], unchecked: undefined, rows };
  } finally {
    database.close();
  }
}

const versionLimitMs = 2000;

/**
 * The newest Jellyfin that has changed a database, which nobody has open, to a form of its own; undefined where it
 * does not tell (10.10 and older). Rows of Jellyfin's own migrations carry its version with four numbers
 * (`12.0.0.0`), those of the database library that library's, with three (10.11 and 12.0, tried).
 */
export function databaseVersion(path: string): string | undefined {
  const url = new URL("?immutable=1", pathToFileURL(path));
  const database = new DatabaseSync(url, { readOnly: true });
  try {
    return newestMigration(database);
  } finally {
    database.close();
  }
}

/**
 * The same of a database that may be in use, and stays as it is; undefined also where it cannot be looked into now. Of
 * one that was not closed properly, what its log holds is not seen.
 */
export async function liveDatabaseVersion(path: string): Promise<string | undefined> {
  let database: DatabaseSync | undefined;
  try {
    const { hasSharedMemory, isWriteAhead } = await observe(path);
    const isOpenElsewhere = hasSharedMemory || !isWriteAhead;
    const url = new URL(isOpenElsewhere ? "" : "?immutable=1", pathToFileURL(path));
    database = new DatabaseSync(url, { readOnly: true, timeout: versionLimitMs });
    return newestMigration(database);
  } catch {
    // Locked, in a folder that may only be read, or damaged: whoever must know it looks at a copy later.
    return undefined;
  } finally {
    database?.close();
  }
}

function newestMigration(database: DatabaseSync): string | undefined {
  try {
    const versions = database
      .prepare('SELECT DISTINCT "ProductVersion" AS version FROM "__EFMigrationsHistory"')
      .all()
      .map(({ version }) => String(version))
      .filter((version) => /^\d+(\.\d+){3}$/.test(version))
      .map((version) => version.split(".").map(Number));
    versions.sort((left, right) => {
      const place = left.findIndex((part, index) => part !== right[index]);
      return place < 0 ? 0 : (left[place] ?? 0) - (right[place] ?? 0);
    });
    return versions.at(-1)?.slice(0, 3).join(".");
  } catch (error) {
    if (/no such table/.test(messageOf(error))) return undefined;
    throw error;
  }
}

/** Whether no other process has a database open, as far as SQLite's own locks tell. */
export function isDatabaseFree(path: string): boolean {
  const database = new DatabaseSync(path, { timeout: 0 });
  try {
    // In WAL mode every connection keeps a shared lock for as long as it is open, and this mode of
    // locking needs there to be none.
    database.exec("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; ROLLBACK");
    return true;
  } catch (error) {
    const code = resultCodeOf(error);
    if (code === resultCode.busy || code === resultCode.locked) return false;
    // What is no database, or is damaged, is not in use as one.
    return true;
  } finally {
    database.close();
  }
}
