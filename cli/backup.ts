// `jellybloom backup`: one archive of one replica, taken while its server runs; and the proof of one that was taken.
// `jellybloom seed --from-archive` makes a server of it again. It reads the server's folder (--from), or asks the
// sidecar that sees it (--sidecar). Exit code 0: done; 1: refused or failed, and there is no archive then; 2: wrong
// options.

import { existsSync } from "node:fs";
import { open, rename, rm } from "node:fs/promises";
import { urlText } from "../core/service/options.ts";
import { createSeal } from "../core/service/seal.ts";
import { type Archive, openArchive, type Sink } from "../sidecar/seed/archive.ts";
import { syncParent } from "../sidecar/seed/copy.ts";
import { fileInput, openStream } from "../sidecar/seed/inputs.ts";
import { codeOf, messageOf, SeedProblem } from "../sidecar/seed/problem.ts";
import { ArchiveBroke } from "../sidecar/seed/restore.ts";
import { countText, Progress, sizeText } from "../sidecar/seed/text.ts";
import { verifyArchive } from "../sidecar/seed/verify.ts";
import { askPosition } from "./donor.ts";
import type { Io } from "./io.ts";
import type { BackupConfig } from "./options.ts";

const lockLimitMs = 30_000;
const progressIntervalMs = 1000;
const beginLimitMs = 5 * 60_000;

export async function runBackup(config: BackupConfig, io: Io): Promise<number> {
  try {
    if (config.verify !== undefined) await verify(config.verify, config.scratch, io);
    else await backUp(config, io);
    return 0;
  } catch (error) {
    if (error instanceof SeedProblem) {
      for (const sentence of error.sentences) io.err(`${sentence}\n`);
      return 1;
    }
    if (error instanceof ArchiveBroke) {
      io.err(`The sidecar went away (${error.message}): there is no backup; run this again.\n`);
      return 1;
    }
    if (codeOf(error) === undefined) throw error;
    io.err(`${messageOf(error)}: there is no backup.\n`);
    return 1;
  }
}

async function verify(file: string, scratch: string | undefined, io: Io): Promise<void> {
  const { head, entries, databases } = await verifyArchive(fileInput(file), scratch);
  const version = head.version === "" ? "" : ` (Jellyfin ${head.version})`;
  io.out(`${file} is whole: server ${head.serverId}${version}, as of ${head.madeAt}.\n`);
  io.out(
    `${countText(entries, "entry").replace(/entrys$/, "entries")}, ${countText(databases.size, "database")}:\n`,
  );
  for (const [name, rows] of databases) {
    const counts = [...rows].map(([table, count]) => `${table} ${count.toLocaleString("en-US")}`);
    io.out(`  ${[`${name}: whole`, ...counts].join(", ")}.\n`);
  }
  if (head.position !== undefined) {
    io.out(`Replica ${head.replica} had come to entry ${head.position.number} of the journal.\n`);
  }
}

async function backUp(config: BackupConfig, io: Io): Promise<void> {
  const { to } = config;
  if (to === undefined) throw new Error("the options were not checked");
  const tell = (line: string): void => io.err(`${line}\n`);
  if (to === "-") {
    await send(config, standardOutput, tell);
    return;
  }
  if (existsSync(to)) throw new SeedProblem(`${to} is there already: name another file.`);
  const passing = `${to}.part`;
  const file = await open(passing, "w", 0o600);
  try {
    await send(config, async (bytes) => await file.writeFile(bytes), tell);
    await file.sync();
    await file.close();
    // What came over the network is read once more, so that what has the name of a backup is one.
    if (config.from === undefined) await verifyArchive(fileInput(passing), config.scratch);
    await rename(passing, to);
    await syncParent(to);
  } catch (error) {
    await file.close().catch(() => undefined);
    await rm(passing, { force: true });
    if (codeOf(error) === "ENOSPC" || codeOf(error) === "EDQUOT") {
      throw new SeedProblem(
        `There is no room left for ${to}: there is no backup. Make room, and run this again.`,
      );
    }
    throw error;
  }
  tell(`Done. To prove it: jellybloom backup --verify ${to}`);
}

async function send(config: BackupConfig, sink: Sink, tell: (line: string) => void): Promise<void> {
  if (config.from === undefined) await passOn(config, sink, tell);
  else await write(await openFolder(config, config.from), sink, tell);
}

async function openFolder(config: BackupConfig, from: string): Promise<Archive> {
  const asked = await askPosition(config);
  return await openArchive({
    ...{ from, fromConfig: config.fromConfig, followLinks: config.followLinks, lockLimitMs },
    ...{ without: config.without ?? [], scratchFolder: config.scratch },
    replica: asked?.replica ?? "",
    position: asked?.position,
    ticket: asked?.ticket ?? "",
  });
}

async function write(
  { head, notes, write: writeTo }: Archive,
  sink: Sink,
  tell: (line: string) => void,
): Promise<void> {
  tell(`From ${head.dataFolder}: ${countText(head.files, "file")}, ${sizeText(head.bytes)}.`);
  for (const note of notes) tell(note);
  const progress = new Progress(head.bytes, progressIntervalMs, tell);
  await writeTo(sink, (bytes) => progress.add(bytes));
  progress.complete();
}

/** The archive as a sidecar sends it. */
async function passOn(
  config: BackupConfig,
  sink: Sink,
  tell: (line: string) => void,
): Promise<void> {
  const { sidecar, clusterKey } = config;
  if (sidecar === undefined || clusterKey === undefined) {
    throw new Error("the options were not checked");
  }
  const base = urlText(sidecar);
  const without = config.without ?? [];
  const place = { base, seal: createSeal(clusterKey), without, limitMs: beginLimitMs };
  const { pieces, close } = await openStream(place, undefined);
  tell(`From the sidecar at ${base}.`);
  try {
    for await (const piece of pieces) await sink(Buffer.from(piece));
  } finally {
    await close();
  }
}

function standardOutput(bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(bytes, (error) => {
      if (error === null || error === undefined) resolve();
      else reject(error);
    });
  });
}
