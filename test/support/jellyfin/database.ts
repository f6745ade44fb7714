/**
 * What a stand-in remembers across restarts, kept in a real SQLite file where Jellyfin keeps its own, so that copying a
 * data folder (seeding) can be tried on it. Every document is written before the request that made it is answered, and
 * read back once at the start: like the server's own token table, a running process never looks at the file again.
 */
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { backup, DatabaseSync, type StatementSync } from "node:sqlite";

/** One table of documents: a map in memory, written through to the file. */
export class Documents<Value> {
  readonly #rows = new Map<string, Value>();
  readonly #put: StatementSync;
  readonly #drop: StatementSync;

  constructor(database: DatabaseSync, table: string) {
    database.exec(`CREATE TABLE IF NOT EXISTS ${table} (Id TEXT PRIMARY KEY, Json TEXT NOT NULL)`);
    this.#put = database.prepare(`INSERT OR REPLACE INTO ${table} (Id, Json) VALUES (?, ?)`);
    this.#drop = database.prepare(`DELETE FROM ${table} WHERE Id = ?`);
    for (const row of database.prepare(`SELECT Id, Json FROM ${table} ORDER BY rowid`).all()) {
      this.#rows.set(String(row.Id), JSON.parse(String(row.Json)) as Value);
    }
  }

  get(id: string): Value | undefined {
    return this.#rows.get(id);
  }

  set(id: string, value: Value): void {
    this.#rows.set(id, value);
    this.#put.run(id, JSON.stringify(value));
  }

  delete(id: string): boolean {
    this.#drop.run(id);
    return this.#rows.delete(id);
  }

  values(): IterableIterator<Value> {
    return this.#rows.values();
  }

  entries(): IterableIterator<[string, Value]> {
    return this.#rows.entries();
  }

  get size(): number {
    return this.#rows.size;
  }
}

export type UserRow = {
  id: string;
  name: string;
  passwordHash: string | undefined;
  policy: Record<string, unknown>;
  configuration: Record<string, unknown>;
  lastLogin: number | undefined;
  lastActivity: number | undefined;
};

export type DeviceRow = {
  token: string;
  userId: string;
  client: string;
  version: string;
  device: string;
  deviceId: string;
  lastActivity: number;
};

export type KeyRow = { token: string; name: string; created: number };

export type UserDataRow = {
  position: number;
  playCount: number;
  favorite: boolean;
  played: boolean;
  likes?: boolean | undefined;
  rating?: number | undefined;
  lastPlayed?: string | undefined;
};

export type ListRow = {
  id: string;
  name: string;
  kind: "Playlist" | "BoxSet";
  /** A playlist's folder, whose name stays when the playlist is renamed. */
  folder?: string;
  ownerId: string | undefined;
  mediaType: string | undefined;
  isPublic: boolean;
  users: { UserId: string; CanEdit: boolean }[];
  items: string[];
  created: number;
};

export type TaskRow = {
  last: Record<string, unknown> | undefined;
};

export class Database {
  readonly users: Documents<UserRow>;
  readonly devices: Documents<DeviceRow>;
  readonly keys: Documents<KeyRow>;
  readonly userData: Documents<UserDataRow>;
  readonly preferences: Documents<Record<string, unknown>>;
  readonly lists: Documents<ListRow>;
  readonly tasks: Documents<TaskRow>;
  readonly probes: Documents<Record<string, unknown>>;
  readonly documents: Documents<Record<string, unknown>>;
  readonly #database: DatabaseSync;

  constructor(file: string) {
    mkdirSync(dirname(file), { recursive: true });
    this.#database = new DatabaseSync(file);
    this.#database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;");
    this.users = new Documents(this.#database, "Users");
    this.devices = new Documents(this.#database, "Devices");
    this.keys = new Documents(this.#database, "ApiKeys");
    this.userData = new Documents(this.#database, "UserData");
    this.preferences = new Documents(this.#database, "DisplayPreferences");
    this.lists = new Documents(this.#database, "Lists");
    this.tasks = new Documents(this.#database, "Tasks");
    this.probes = new Documents(this.#database, "Probes");
    this.documents = new Documents(this.#database, "Documents");
  }

  close(): void {
    this.#database.close();
  }
}

/** An online copy of a database another process may be writing, as a replica is seeded from a running server. */
export async function copyDatabase(from: string, to: string): Promise<void> {
  mkdirSync(dirname(to), { recursive: true });
  const source = new DatabaseSync(from);
  try {
    await backup(source, to);
  } finally {
    source.close();
  }
}
