// An archive of one server: a stream of plain tar that holds everything a copy of its folders holds, each database
// as of one moment. It is what `jellybloom backup` writes and what a sidecar sends to a server that is being
// seeded. The same order as a copy: the files, which take long; then the databases, so that they are as young as
// can be; then the files that changed meanwhile. An entry that comes twice counts as it came last.
//
//   jellybloom.json       first: whose archive this is, and how far its journal had come
//   data/…, config/…      the two folders of the server
//   jellybloom-list       which of these there were in the end, a line each
//   jellybloom-end.json   last: how many bytes stand before it, and their SHA-256
//
// Memory does not depend on the size of anything but the number of names. What the archive does not say is that it
// is whole: so the end does, and without it nothing of the archive is believed.

import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { lstat, mkdtemp, open, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { JournalCursor } from "../../core/store/journal.ts";
import { findSource, refuse, requireServerId } from "./checks.ts";
import { type Rebuildable, walkOptionsOf } from "./choice.ts";
import { copyDatabase } from "./database.ts";
import type { LayoutKind, ServerFolders } from "./layout.ts";
import {
  type CopyPlan,
  type PlannedEntry,
  type PlannedFile,
  planCopy,
  type WalkOptions,
} from "./plan.ts";
import { codeOf } from "./problem.ts";
import { readSettings, settingsProblems } from "./settings.ts";
import { endBytes, paddingOf, tarHeader } from "./tar.ts";

export const headName = "jellybloom.json";
export const listName = "jellybloom-list";
export const endName = "jellybloom-end.json";
export const archiveFormat = 1;

export interface ArchiveHead {
  readonly format: number;
  readonly serverId: string;
  /** Which Jellyfin had these data last; empty where its settings do not say. */
  readonly version: string;
  /** ISO 8601. */
  readonly madeAt: string;
  readonly kind: LayoutKind;
  /** Where the server's folders were. */
  readonly dataFolder: string;
  readonly configFolder: string;
  /** Another one after the server's data were replaced: two archives of which this differs are never mixed. */
  readonly volume: string;
  readonly files: number;
  readonly bytes: number;
  readonly without: readonly string[];
  /** The replica's name in the cluster, and how far it had come in the journal; empty where nobody was asked. */
  readonly replica: string;
  readonly position: JournalCursor | undefined;
  /** By which its sidecar knows which tokens the server had then; empty where nobody was asked. */
  readonly ticket: string;
}

export interface ArchiveEnd {
  readonly bytes: number;
  readonly sha256: string;
}

export interface ArchiveOptions {
  readonly from: string;
  readonly fromConfig: string | undefined;
  readonly without: readonly Rebuildable[];
  readonly followLinks: boolean;
  readonly lockLimitMs: number;
  /** Where a database is copied to before it is sent; it must have room for the largest. */
  readonly scratchFolder: string | undefined;
  readonly replica: string;
  readonly position: JournalCursor | undefined;
  readonly ticket: string;
  /** What the receiver of an earlier attempt has already. */
  readonly resume?: ArchiveResume | undefined;
}

export interface ArchiveResume {
  /** Files up to and with this one, in the archive's order, are there … */
  readonly after: string;
  /** … as they were at this time, in ms since the epoch on the sender's clock. */
  readonly sinceMs: number;
}

/** Takes bytes; resolves when it has let go of them, so that their buffer may be used again. */
export type Sink = (bytes: Buffer) => Promise<void>;

export interface Archive {
  readonly head: ArchiveHead;
  /** Sentences about what is not in it and why that is no harm. */
  readonly notes: readonly string[];
  /** Sends all of it. Throws what `sink` throws, and SeedProblem for what the server's folders do. */
  write(sink: Sink, onBytes?: (bytes: number) => void): Promise<void>;
}

const chunkBytes = 256 * 1024;
const virtual = { dataFolder: "/data", configFolder: "/config" } as const;
/** File systems keep the time of a change to some ms. */
const clockGrainMs = 2000;

/** Looks at a server's folders. @throws SeedProblem with what stands in the way; nothing has been written then. */
export async function openArchive(options: ArchiveOptions): Promise<Archive> {
  const source = await findSource(options.from, options.fromConfig);
  const serverId = await requireServerId(source);
  const settings = await readSettings(source.configFolder);
  refuse(settingsProblems(settings, source));
  const { without, followLinks, replica, position, ticket } = options;
  const walk = walkOptionsOf({ source, settings, without, followLinks, goal: virtual });
  const madeAt = new Date().toISOString();
  const plan = await planCopy(walk);
  refuse(plan.problems);
  const all = [...plan.files, ...plan.databases];
  const head: ArchiveHead = {
    format: archiveFormat,
    serverId,
    version: settings.version ?? "",
    madeAt,
    kind: source.kind,
    dataFolder: source.dataFolder,
    configFolder: source.configFolder,
    volume: await volumeOf(source),
    files: all.length,
    bytes: all.reduce((sum, { bytes }) => sum + bytes, 0),
    without,
    replica,
    position,
    ticket,
  };
  return {
    head,
    notes: plan.notes,
    write: (sink, onBytes) => new ArchiveWriter(sink, onBytes).write({ head, walk, plan, options }),
  };
}

/** The folder with the databases is moved into place as a whole when a server is seeded: then it is another one. */
async function volumeOf({ dataFolder }: ServerFolders): Promise<string> {
  const { dev, ino, birthtimeNs } = await stat(join(dataFolder, "data"), { bigint: true });
  return `${dev}-${ino}-${birthtimeNs}`;
}

interface Job {
  readonly head: ArchiveHead;
  readonly walk: WalkOptions;
  readonly plan: CopyPlan;
  readonly options: ArchiveOptions;
}

class ArchiveWriter {
  readonly #sink: Sink;
  readonly #onBytes: (bytes: number) => void;
  readonly #sum = createHash("sha256");
  readonly #buffer = Buffer.allocUnsafe(chunkBytes);
  #bytes = 0;

  constructor(sink: Sink, onBytes: (bytes: number) => void = () => undefined) {
    this.#sink = sink;
    this.#onBytes = onBytes;
  }

  async write({ head, walk, plan, options }: Job): Promise<void> {
    await this.#text(headName, `${JSON.stringify(head, undefined, 2)}\n`);
    for (const folder of plan.directories) await this.#entry(folder, "folder");
    for (const file of await this.#wanted(plan.files, options.resume)) await this.#file(file);
    const scratch = await mkdtemp(join(options.scratchFolder ?? tmpdir(), "jellybloom-archive-"));
    try {
      for (const file of plan.databases) await this.#database(file, scratch, options);
      const final = await planCopy({ ...walk, earlier: plan });
      refuse(final.problems);
      await this.#changes(plan, final, scratch, options);
      for (const link of final.links) await this.#entry(link, "link", link.text);
      const names = [final.directories, final.files, final.databases, final.links].flat();
      await this.#text(listName, names.map(({ target }) => `${pathOf(target)}\n`).join(""));
    } finally {
      await rm(scratch, { recursive: true, force: true });
    }
    const end: ArchiveEnd = { bytes: this.#bytes, sha256: this.#sum.copy().digest("hex") };
    await this.#text(endName, `${JSON.stringify(end)}\n`);
    await this.#send(Buffer.alloc(endBytes));
  }

  /** In the order of their names, so that a receiver can say how far it came. */
  async #wanted(
    files: readonly PlannedFile[],
    resume: ArchiveResume | undefined,
  ): Promise<readonly PlannedFile[]> {
    const sorted = [...files].sort((left, right) => (left.target < right.target ? -1 : 1));
    if (resume === undefined) return sorted;
    const wanted: PlannedFile[] = [];
    for (const file of sorted) {
      const isThere = pathOf(file.target) <= resume.after;
      if (!isThere || (await isChangedSince(file.source, resume.sinceMs))) wanted.push(file);
    }
    return wanted;
  }

  async #changes(
    plan: CopyPlan,
    final: CopyPlan,
    scratch: string,
    options: ArchiveOptions,
  ): Promise<void> {
    const before = new Map(plan.files.map((file) => [file.source, file]));
    const copied = new Set(plan.databases.map(({ source }) => source));
    const known = new Set(plan.directories.map(({ source }) => source));
    for (const folder of final.directories) {
      if (!known.has(folder.source)) await this.#entry(folder, "folder");
    }
    for (const file of final.files) {
      const earlier = before.get(file.source);
      const isSame = earlier?.bytes === file.bytes && earlier.modifiedNs === file.modifiedNs;
      if (!isSame) await this.#file(file);
    }
    for (const file of final.databases) {
      if (!copied.has(file.source)) await this.#database(file, scratch, options);
    }
  }

  async #database(file: PlannedFile, scratch: string, options: ArchiveOptions): Promise<void> {
    const copy = join(scratch, "copy.db");
    try {
      await copyDatabase({
        source: file.source,
        target: copy,
        scratchFolder: join(scratch, "database"),
        lockLimitMs: options.lockLimitMs,
        onBytes: () => undefined,
      });
    } catch (error) {
      // A plugin removed it while we copied; the second walk does not have it.
      if (codeOf(error) === "ENOENT" && (await isGone(file.source))) return;
      throw error;
    }
    const { size } = await stat(copy);
    await this.#file({ ...file, source: copy, bytes: size, throughLink: false });
    await rm(copy, { force: true });
  }

  /** A file that shrinks or vanishes meanwhile is filled up with zeros, and comes again with the changes. */
  async #file(file: PlannedFile): Promise<void> {
    const noFollow = file.throughLink ? 0 : constants.O_NOFOLLOW;
    const flags = constants.O_RDONLY | constants.O_NONBLOCK | noFollow;
    const handle = await open(file.source, flags).catch((error: unknown) => {
      if (codeOf(error) === "ENOENT") return undefined;
      throw error;
    });
    if (handle === undefined) return;
    try {
      await this.#entry(file, "file", "", file.bytes);
      let left = file.bytes;
      while (left > 0) {
        const { bytesRead } = await handle.read(this.#buffer, 0, Math.min(left, chunkBytes), null);
        if (bytesRead === 0) break;
        await this.#send(this.#buffer.subarray(0, bytesRead));
        this.#onBytes(bytesRead);
        left -= bytesRead;
      }
      for (; left > 0; left -= Math.min(left, chunkBytes)) {
        await this.#send(Buffer.alloc(Math.min(left, chunkBytes)));
      }
      await this.#send(Buffer.alloc(paddingOf(file.bytes)));
    } finally {
      await handle.close();
    }
  }

  async #entry(
    { target, mode, uid, gid, modifiedNs }: PlannedEntry,
    type: "file" | "folder" | "link",
    text = "",
    bytes = 0,
  ): Promise<void> {
    const path = pathOf(target);
    await this.#send(tarHeader({ path, type, bytes, mode, uid, gid, modifiedNs, text }));
  }

  async #text(path: string, text: string): Promise<void> {
    const bytes = Buffer.from(text, "utf8");
    const modifiedNs = BigInt(Date.now()) * 1_000_000n;
    const about = { type: "file", mode: 0o600, uid: 0, gid: 0, modifiedNs, text: "" } as const;
    await this.#send(tarHeader({ path, bytes: bytes.length, ...about }));
    await this.#send(bytes);
    await this.#send(Buffer.alloc(paddingOf(bytes.length)));
  }

  async #send(bytes: Buffer): Promise<void> {
    if (bytes.length === 0) return;
    this.#sum.update(bytes);
    this.#bytes += bytes.length;
    await this.#sink(bytes);
  }
}

/** `/data/data/jellyfin.db` as `data/data/jellyfin.db`. */
function pathOf(target: string): string {
  return target.slice(1);
}

async function isChangedSince(path: string, sinceMs: number): Promise<boolean> {
  const info = await lstat(path).catch(ignoreMissing);
  if (info === undefined) return false;
  return Math.max(info.mtimeMs, info.ctimeMs) >= sinceMs - clockGrainMs;
}

async function isGone(path: string): Promise<boolean> {
  return (await lstat(path).catch(ignoreMissing)) === undefined;
}

function ignoreMissing(error: unknown): undefined {
  if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined;
  throw error;
}
