// A server's database keeps whole paths into the server's own data folder: of pictures it took from
// films, of its library folders (BaseItems.Path and .Data, BaseItemImageInfos.Path in 12.0, tried). Two
// servers in containers both see /config and nothing is to be done. Where the copy's folder has another
// path, these rows would lead the new server into the old one's folder: it would show, change and delete
// the old one's pictures. So they are moved, in the copy and before it is put into place. Item ids do not
// depend on these paths: Jellyfin makes them from paths relative to the data folder.

import { dirname } from "node:path";
import { DatabaseSync, type SQLInputValue, type SQLOutputValue } from "node:sqlite";
import { pathToFileURL } from "node:url";

/** Where the root of all libraries is kept: 10.11 and later, then 10.10. */
const rootTables = ["BaseItems", "TypedBaseItems"] as const;
const rootType = "MediaBrowser.Controller.Entities.AggregateFolder";

/**
 * The path under which a server sees its own data folder, as one of its databases tells; undefined when
 * that database does not. The database must be open nowhere.
 */
export function readOwnPath(database: string): string | undefined {
  const url = new URL("?immutable=1", pathToFileURL(database));
  const opened = new DatabaseSync(url, { readOnly: true });
  try {
    for (const table of rootTables) {
      if (columnsOf(opened, table).length === 0) continue;
      const row = opened.prepare(`SELECT Path FROM "${table}" WHERE Type = ?`).get(rootType);
      const path = row?.Path ?? row?.path;
      // The folder itself is DATA/root.
      if (typeof path === "string" && path.endsWith("/root")) return dirname(path);
    }
    return undefined;
  } finally {
    opened.close();
  }
}

/** Moves every path into `from` to `to`, in all tables, in one transaction. Returns how many rows changed. */
export function moveDatabasePaths(database: string, from: string, to: string): number {
  const opened = new DatabaseSync(database);
  try {
    opened.function("moved", { deterministic: true }, (value) => movedValue(value, from, to));
    opened.exec("BEGIN IMMEDIATE");
    const tables = opened.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").all();
    let count = 0;
    for (const { name } of tables) {
      for (const column of columnsOf(opened, String(name))) {
        const { changes } = opened
          .prepare(
            `UPDATE ${quoted(String(name))} SET ${quoted(column)} = moved(${quoted(column)})` +
              ` WHERE instr(${quoted(column)}, :part) > 0 AND moved(${quoted(column)}) IS NOT ${quoted(column)}`,
          )
          .run({ part: searchPart(from) });
        count += Number(changes);
      }
    }
    opened.exec("COMMIT");
    return count;
  } finally {
    opened.close();
  }
}

/** A part of the path which JSON writes as it is, so that rows without it need no closer look (pure). */
function searchPart(path: string): string {
  const parts = path.split(/[^A-Za-z0-9/._-]/);
  return parts.reduce((longest, part) => (part.length > longest.length ? part : longest), "");
}

function columnsOf(database: DatabaseSync, table: string): readonly string[] {
  const columns = database.prepare(`PRAGMA table_info(${quoted(table)})`).all();
  return columns
    .filter(({ type }) => /TEXT|BLOB|CHAR/i.test(String(type)))
    .map(({ name }) => String(name));
}

function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

function movedValue(value: SQLOutputValue, from: string, to: string): SQLInputValue {
  if (typeof value === "string") return movedText(value, from, to);
  // 10.10 keeps its JSON as bytes.
  if (value instanceof Uint8Array && value[0] === 0x7b) {
    return Buffer.from(movedText(Buffer.from(value).toString("utf8"), from, to), "utf8");
  }
  return value;
}

/**
 * A text with its path moved: the text is a path, or JSON with paths among its strings. Everything else
 * stays as it is, to the letter (pure).
 */
export function movedText(text: string, from: string, to: string): string {
  if (!/^[[{]/.test(text)) return movedPath(text, from, to);
  return text.replace(/"(?:[^"\\]|\\.)*"/g, (literal) => {
    const path = unescapedLiteral(literal);
    const goal = movedPath(path, from, to);
    return goal === path ? literal : JSON.stringify(goal);
  });
}

function movedPath(path: string, from: string, to: string): string {
  return path === from || path.startsWith(`${from}/`) ? to + path.slice(from.length) : path;
}

function unescapedLiteral(literal: string): string {
  try {
    return String(JSON.parse(literal));
  } catch {
    // Not JSON after all: then it holds no path in JSON, and stays as it is.
    return literal;
  }
}
