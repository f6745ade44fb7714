// Proves an archive without a server: every byte is what was written, every database in it is whole, and the server's
// id is the one that the archive tells. Databases are taken out one after the other, so that it needs room for the
// largest of them and memory for none.

import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ArchiveHead } from "./archive.ts";
import { checkDatabase } from "./database.ts";
import { SeedProblem } from "./problem.ts";
import type { ArchiveInput } from "./restore.ts";
import { ArchiveProblem } from "./tar.ts";
import { normalizedId } from "./target.ts";
import { Unpacker } from "./unpack.ts";

export interface Verified {
  readonly head: ArchiveHead;
  readonly entries: number;
  /** Databases that are whole, by name, with the users that the server's own has. */
  readonly databases: ReadonlyMap<string, ReadonlyMap<string, number>>;
}

const databaseHeader = Buffer.from("SQLite format 3\0", "latin1");
const idFile = "data/data/device.txt";
const idLimitBytes = 1024;
const toldTables = ["Users", "BaseItems", "UserData"];

/** @throws SeedProblem with everything that is wrong with it. */
export async function verifyArchive(
  input: ArchiveInput,
  scratchFolder: string | undefined,
): Promise<Verified> {
  const opened = await input.open(undefined);
  const scratch = await mkdtemp(join(scratchFolder ?? tmpdir(), "jellybloom-verify-"));
  const problems: string[] = [];
  const databases = new Map<string, ReadonlyMap<string, number>>();
  let entries = 0;
  let serverId = "";
  try {
    const unpacker = new Unpacker(opened.source, true);
    const head = await unpacker.head();
    await unpacker.entries(async ({ path, type, bytes: size }, bytes) => {
      entries++;
      if (type !== "file") return;
      if (path === idFile && size <= idLimitBytes) {
        const pieces: Buffer[] = [];
        for await (const piece of bytes) pieces.push(Buffer.from(piece));
        serverId = normalizedId(Buffer.concat(pieces).toString("utf8"));
        return;
      }
      const copy = join(scratch, "copy.db");
      if (!(await takeDatabase(bytes, copy))) return;
      const { damage, rows } = checkDatabase(copy, toldTables);
      if (damage.length > 0)
        problems.push(`The database ${path} in it is damaged: ${damage.join("; ")}.`);
      else databases.set(path, rows);
    });
    if (serverId !== head.serverId)
      problems.push("The server's id in it is not the one that it tells.");
    if (problems.length > 0) throw new SeedProblem(problems);
    return { head, entries, databases };
  } catch (error) {
    if (!(error instanceof ArchiveProblem)) throw error;
    throw new SeedProblem(`${input.name} cannot be used: ${error.message}.`.replace(/^t/, "T"));
  } finally {
    await opened.close();
    await rm(scratch, { recursive: true, force: true });
  }
}

/** False when the file is none: then only its first bytes were looked at. */
async function takeDatabase(bytes: AsyncGenerator<Buffer>, path: string): Promise<boolean> {
  const first = await bytes.next();
  if (first.done === true) return false;
  const head = first.value.subarray(0, databaseHeader.length);
  if (!head.equals(databaseHeader)) return false;
  const handle = await open(path, "w", 0o600);
  try {
    await handle.writeFile(first.value);
    for await (const piece of bytes) await handle.writeFile(piece);
  } finally {
    await handle.close();
  }
  return true;
}
