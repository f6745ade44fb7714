// Seeding from an archive: a file that `jellybloom backup` wrote, or the stream of another server's sidecar. The
// target's side is that of every seed (landing.ts): the target is marked before the first byte, and an archive that
// is not whole is never put into place.
//
// A file is proven before anything is done with it. A stream cannot be read twice: it is proven when it ends, and
// until then everything is only staged. When it breaks off it is asked for again from where it was; a sender whose
// data were replaced meanwhile is another one, and everything is asked for again.

import { spawn } from "node:child_process";
import { lstat, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, extname, join, posix, relative } from "node:path";
import { parsedObject } from "../../core/service/json.ts";
import { sleep } from "../../core/service/loop.ts";
import type { ArchiveHead, ArchiveResume } from "./archive.ts";
import {
  findTarget,
  refuseClosedTarget,
  refuseFullDisk,
  refuseMounts,
  refuseNewer,
  refuseRunningTarget,
  refuseState,
} from "./checks.ts";
import { giveAttributes, isStaged, makeFolders, makeLinks, prune } from "./copy.ts";
import { type Landing, land, prove, rollForward } from "./landing.ts";
import { layoutText, rootsOf, type ServerFolders } from "./layout.ts";
import type { PlannedEntry, PlannedFile, PlannedLink } from "./plan.ts";
import { codeOf, SeedProblem } from "./problem.ts";
import { readSettings, settingsAdvice } from "./settings.ts";
import { ArchiveProblem, type ByteSource, type TarEntry } from "./tar.ts";
import {
  findMounts,
  inspectTarget,
  isSameSource,
  type Marker,
  maySkipStaged,
  passingFolder,
  readBootId,
  stagedPath,
} from "./target.ts";
import { countText, Progress, sizeText } from "./text.ts";
import { Unpacker } from "./unpack.ts";

/** Where an archive comes from. */
export interface ArchiveInput {
  /** For sentences: `the archive FILE`, `the sidecar at URL`. */
  readonly name: string;
  /** `file`: it can be read again and again, and what is there already is passed by. */
  readonly kind: "file" | "stream";
  /** @throws ArchiveBroke when it may come later, SeedProblem when it will not. */
  readonly open: (resume: ArchiveResume | undefined) => Promise<OpenedArchive>;
}

export interface OpenedArchive {
  readonly source: ByteSource;
  readonly close: () => Promise<void>;
}

/** The sender went away; asking again may help. */
export class ArchiveBroke extends Error {
  override readonly name = "ArchiveBroke";
}

export interface RestoreOptions {
  readonly to: string;
  readonly toConfig: string | undefined;
  readonly seenAs: string | undefined;
  readonly replace: string | undefined;
  /** The version which the new server runs: data of a newer one are refused. */
  readonly forVersion: string | undefined;
  readonly progressIntervalMs: number;
  /** How long a sender that went away is asked again, in ms. */
  readonly retryLimitMs: number;
  /** Called when the copy is whole and before it is put into place. */
  readonly announce?: (head: ArchiveHead) => Promise<void>;
}

type Tell = (line: string) => void;

const source: Omit<ServerFolders, "kind"> = { dataFolder: "/data", configFolder: "/config" };
const retryPauseMs = 1000;
/** What was received is noted after so many bytes, and after so many files. */
const noteBytes = 32 * 1024 * 1024;
const noteFiles = 500;
/** Entries of a server's folders that may be mounts of their own. */
const topNames = ["data", "config", "metadata", "plugins", "root"];
const databaseHeader = Buffer.from("SQLite format 3\0", "latin1");

/**
 * Makes the target what the archive holds.
 *
 * @returns the archive's head. @throws SeedProblem with what stands in the way; the target is then as it was, or
 *   marked as unfinished, and the same call goes on.
 */
export async function restore(
  input: ArchiveInput,
  options: RestoreOptions,
  tell: Tell,
): Promise<ArchiveHead> {
  try {
    if (input.kind === "file") await proveFile(input);
    return await restoreProven(input, options, tell);
  } catch (error) {
    throw sentenceOf(input, error);
  }
}

/** What an archive says of itself; it is not proven by that. @throws SeedProblem when it cannot be read. */
export async function headOf(input: ArchiveInput): Promise<ArchiveHead> {
  try {
    const { opened, head } = await incomingOf(input, await input.open(undefined));
    await opened.close();
    return head;
  } catch (error) {
    throw sentenceOf(input, error);
  }
}

async function proveFile(input: ArchiveInput): Promise<void> {
  const opened = await input.open(undefined);
  try {
    const unpacker = new Unpacker(opened.source, true);
    await unpacker.head();
    await unpacker.entries(async () => undefined);
  } finally {
    await opened.close();
  }
}

async function restoreProven(
  input: ArchiveInput,
  options: RestoreOptions,
  tell: Tell,
): Promise<ArchiveHead> {
  const early = input.kind === "stream" ? await earlierRun(options) : undefined;
  const opened = await openPatiently(input, early, options.retryLimitMs);
  let first: Incoming | undefined = await incomingOf(input, opened);
  try {
    const { head } = first;
    refuseNewer(head.version, options.forVersion);
    const target = await findTarget(options.to, options.toConfig, { kind: head.kind, ...source });
    tell(`From ${input.name}, made at ${head.madeAt} of ${head.dataFolder}.`);
    tell(`To ${layoutText(target)}.`);
    const state = await inspectTarget(target);
    refuseState(state, options.replace, head.serverId, options.to);
    await refuseRunningTarget(target);
    const landing: Landing = {
      source: { kind: head.kind, ...source },
      ...{ target, state, tell, seenAs: options.seenAs },
      forVersion: options.forVersion,
      marker: await markerOf(input, head),
      isOwnPath: async (path) => path === head.dataFolder,
      giveRoots: async () => await giveRoots(target, receiver?.folders),
      announce: async () => await options.announce?.(receiver?.head ?? head),
    };
    let receiver: Receiver | undefined;
    const begun = state.kind === "unfinished" ? state.marker : undefined;
    if (begun !== undefined && begun.phase !== "copying" && isSameSource(begun, landing.marker)) {
      await tellEnd(landing, options, head, await rollForward(landing, begun));
      return head;
    }
    const mayKeep = "marker" in state && maySkipStaged(state.marker, landing.marker);
    const keptBytes = mayKeep ? (early?.bytes ?? 0) : 0;
    // What an earlier run of a file left is not counted: the disk tells when it is full.
    const wantedBytes = mayKeep && input.kind === "file" ? 0 : head.bytes - keptBytes;
    await refuseFullDisk([roomFor(target, wantedBytes)], target);
    await refuseClosedTarget(target);
    const tops = rootsOf(target).flatMap((root) => topNames.map((name) => join(root, name)));
    refuseMounts(await findMounts(target, tops));
    tell(`${countText(head.files, "file")}, ${sizeText(head.bytes)}.`);

    const hasOwn = await land(landing, mayKeep, async () => {
      const progress = new Progress(head.bytes, options.progressIntervalMs, tell);
      receiver = new Receiver({ landing, head, progress, kind: input.kind });
      tell(keptBytes > 0 ? `Going on after ${sizeText(keptBytes)}.` : "Copying.");
      // A stream that was asked to go on where another one was is of no use for an empty folder.
      const fits = first !== undefined && (early === undefined || mayKeep || input.kind === "file");
      if (!fits) await closeQuietly(first);
      if (mayKeep && early !== undefined) receiver.goOn(early);
      else await rm(receivedFile(target), { force: true });
      const names = await receiveAll(input, receiver, fits ? first : undefined, options);
      first = undefined;
      progress.complete();
      await receiver.finish(names);
    });
    const last = receiver?.head ?? head;
    await tellEnd(landing, options, last, hasOwn);
    return last;
  } finally {
    await closeQuietly(first);
  }
}

// ---- Receiving --------------------------------------------------------------------------------------

interface Incoming {
  readonly opened: OpenedArchive;
  readonly unpacker: Unpacker;
  readonly head: ArchiveHead;
}

async function incomingOf(input: ArchiveInput, opened: OpenedArchive): Promise<Incoming> {
  try {
    const unpacker = new Unpacker(opened.source, input.kind === "stream");
    return { opened, unpacker, head: await unpacker.head() };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

async function closeQuietly(incoming: Incoming | undefined): Promise<void> {
  await incoming?.opened.close();
}

/** Asks again while the sender is away, from where it was, until it is all there. */
async function receiveAll(
  input: ArchiveInput,
  receiver: Receiver,
  first: Incoming | undefined,
  { retryLimitMs }: RestoreOptions,
): Promise<ReadonlySet<string>> {
  let incoming = first;
  for (;;) {
    const before = receiver.bytes;
    try {
      incoming ??= await incomingOf(
        input,
        await openPatiently(input, receiver.resume, retryLimitMs),
      );
      if (incoming.head.volume !== receiver.head.volume) {
        throw new SeedProblem(
          `The data of ${input.name} were replaced while they were copied: run the same command again.`,
        );
      }
      receiver.head = incoming.head;
      return await incoming.unpacker.entries(
        async (entry, bytes) => await receiver.take(entry, bytes),
      );
    } catch (error) {
      const isBroken =
        input.kind === "stream" &&
        (error instanceof ArchiveBroke || error instanceof ArchiveProblem);
      // One that breaks off again before a single file was whole would go on so for ever.
      if (!isBroken || receiver.bytes === before) throw error;
      await receiver.note();
    } finally {
      await closeQuietly(incoming);
      incoming = undefined;
    }
  }
}

async function openPatiently(
  input: ArchiveInput,
  resume: ArchiveResume | undefined,
  retryLimitMs: number,
): Promise<OpenedArchive> {
  const endMs = performance.now() + retryLimitMs;
  for (;;) {
    try {
      return await input.open(resume);
    } catch (error) {
      if (!(error instanceof ArchiveBroke) || performance.now() + retryPauseMs > endMs) throw error;
      await sleep(retryPauseMs, new AbortController().signal);
    }
  }
}

interface ReceiverParts {
  readonly landing: Landing;
  readonly head: ArchiveHead;
  readonly progress: Progress;
  readonly kind: ArchiveInput["kind"];
}

/** Stages what comes. */
class Receiver {
  /** Of the stream that came last: its databases are those that count. */
  head: ArchiveHead;
  readonly folders = new Map<string, PlannedEntry>();
  readonly #parts: ReceiverParts;
  readonly #databases = new Map<string, PlannedFile>();
  /** Whose times are not exact yet. */
  readonly #pictures = new Map<string, PlannedFile>();
  #areTimesExact = true;
  readonly #links = new Map<string, PlannedLink>();
  /**
   * The last file of the first pass, after which databases and changes come in no order. What changed of the files
   * before it comes first in each stream, so that all are as they were when the stream began that brought this one.
   */
  #reached: ArchiveResume | undefined;
  #isInOrder = true;
  #bytes = 0;
  #notedBytes = 0;
  #unnoted = 0;

  constructor(parts: ReceiverParts) {
    this.#parts = parts;
    this.head = parts.head;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get resume(): ArchiveResume | undefined {
    return this.#parts.kind === "file" ? undefined : this.#reached;
  }

  /** An earlier run staged so much of the same. */
  goOn({ after, sinceMs, bytes }: EarlierRun): void {
    this.#reached = { after, sinceMs };
    this.#bytes = bytes;
    this.#parts.progress.add(bytes);
  }

  async take(entry: TarEntry, bytes: AsyncGenerator<Buffer>): Promise<void> {
    const { target } = this.#parts.landing;
    const planned: PlannedFile = {
      source: `/${entry.path}`,
      target: placeOf(target, entry.path),
      ...{ mode: entry.mode, uid: entry.uid, gid: entry.gid, modifiedNs: entry.modifiedNs },
      ...{ bytes: entry.bytes, isDatabase: false, throughLink: false },
    };
    switch (entry.type) {
      case "folder":
        await makeFolders([stagedPath(target, planned.target)]);
        this.folders.set(entry.path, planned);
        return;
      case "link":
        this.#links.set(entry.path, { ...planned, text: this.#linkText(entry, planned.target) });
        return;
      case "file":
        if (!this.folders.has(posix.dirname(entry.path))) {
          throw new ArchiveProblem("a file in it comes before its folder");
        }
        await this.#takeFile(planned, entry, bytes);
    }
  }

  /** Everything came: what does not belong to it goes, links are made, and all is proven. */
  async finish(names: ReadonlySet<string>): Promise<void> {
    const { landing } = this.#parts;
    const { target, tell } = landing;
    const staged = (path: string): string => stagedPath(target, path);
    const wanted = new Set([...names].map((name) => staged(placeOf(target, name))));
    for (const root of rootsOf(target)) {
      wanted.add(staged(root));
      await prune(staged(root), wanted);
    }
    await makeLinks([...this.#links.values()], staged);
    await this.#settlePictures();
    if (!this.#areTimesExact) {
      tell(
        "Times of pictures are kept to the microsecond only: there is no GNU touch here to set them.",
      );
    }
    await prove(landing, {
      directories: [...this.folders.values()],
      databases: [...this.#databases.values()].filter(({ source }) => names.has(source.slice(1))),
    });
  }

  async #takeFile(
    file: PlannedFile,
    entry: TarEntry,
    bytes: AsyncGenerator<Buffer>,
  ): Promise<void> {
    const { landing, progress, kind } = this.#parts;
    const staged = stagedPath(landing.target, file.target);
    if (kind === "file" && (await isStaged(file, staged))) {
      if (await isDatabaseFile(staged)) this.#databases.set(entry.path, file);
      progress.add(entry.bytes);
    } else {
      await this.#write(file, staged, bytes);
    }
    if (/^\.(jpe?g|png|webp|gif|svg|bmp|tbn)$/i.test(extname(entry.path))) {
      this.#pictures.set(entry.path, file);
    }
    this.#bytes += entry.bytes;
    await this.#noteFile(entry.path);
  }

  async #write(file: PlannedFile, staged: string, bytes: AsyncGenerator<Buffer>): Promise<void> {
    const { landing, progress } = this.#parts;
    const passing = join(passingFolder(landing.target, file.target), "part-archive");
    await rm(passing, { force: true });
    const handle = await open(passing, "wx", 0o600);
    let isDatabase = false;
    let isFirst = true;
    try {
      for await (const piece of bytes) {
        if (isFirst) isDatabase = piece.subarray(0, databaseHeader.length).equals(databaseHeader);
        isFirst = false;
        await handle.writeFile(piece);
        progress.add(piece.length);
      }
    } finally {
      await handle.close();
    }
    await giveAttributes(passing, file);
    if ((await lstat(staged).catch(ignoreMissing))?.isDirectory() === true) {
      await rm(staged, { recursive: true });
    }
    await rename(passing, staged);
    const path = file.source.slice(1);
    if (isDatabase) this.#databases.set(path, file);
    else this.#databases.delete(path);
  }

  async #noteFile(path: string): Promise<void> {
    if (this.#parts.kind === "file" || !this.#isInOrder) return;
    // Databases are sent after the files; they and what follows are sent again whenever it breaks off.
    if (this.#databases.has(path)) this.#isInOrder = false;
    if (!this.#isInOrder || path <= (this.#reached?.after ?? "")) return;
    this.#reached = { after: path, sinceMs: Date.parse(this.head.madeAt) };
    this.#unnoted++;
    if (this.#bytes - this.#notedBytes < noteBytes && this.#unnoted < noteFiles) return;
    await this.note();
  }

  /** Remembers how far it came, for a later run. */
  async note(): Promise<void> {
    this.#isInOrder = true;
    this.#unnoted = 0;
    this.#notedBytes = this.#bytes;
    const { resume } = this;
    if (resume === undefined) return;
    // Of those that are noted a later run hears no more.
    await this.#settlePictures();
    const file = receivedFile(this.#parts.landing.target);
    const early: EarlierRun = { ...resume, bytes: this.#bytes };
    await writeFile(`${file}.new`, JSON.stringify(early));
    await rename(`${file}.new`, file);
  }

  async #settlePictures(): Promise<void> {
    const pictures = [...this.#pictures.values()];
    this.#pictures.clear();
    const staged = (path: string): string => stagedPath(this.#parts.landing.target, path);
    if (!(await makePictureTimesExact(pictures, staged))) this.#areTimesExact = false;
  }

  /** A link leads to the same place in the copy, however its two folders lie to one another; never out of it. */
  #linkText(entry: TarEntry, target: string): string {
    const end = posix.resolve(posix.dirname(`/${entry.path}`), entry.text);
    if (!/^\/(data|config)(\/|$)/.test(end)) {
      throw new ArchiveProblem("a link in it leads out of the server's folders");
    }
    return relative(dirname(target), placeOf(this.#parts.landing.target, end.slice(1))) || ".";
  }
}

function placeOf({ dataFolder, configFolder }: ServerFolders, path: string): string {
  const [top = "", ...rest] = path.split("/");
  return join(top === "config" ? configFolder : dataFolder, ...rest);
}

async function isDatabaseFile(path: string): Promise<boolean> {
  const handle = await open(path, "r");
  try {
    const head = Buffer.alloc(databaseHeader.length);
    await handle.read(head, 0, head.length, 0);
    return head.equals(databaseHeader);
  } finally {
    await handle.close();
  }
}

// ---- An earlier run ---------------------------------------------------------------------------------

interface EarlierRun extends ArchiveResume {
  readonly bytes: number;
}

function receivedFile(target: ServerFolders): string {
  return join(dirname(passingFolder(target, target.dataFolder)), "received.json");
}

/** What an earlier run of a stream noted; whether it is of the same sender is seen when that has told its head. */
async function earlierRun(options: RestoreOptions): Promise<EarlierRun | undefined> {
  for (const kind of ["one folder", "config beside data", "config around data"] as const) {
    const target = await findTarget(options.to, options.toConfig, { kind, ...source });
    const text = await readFile(receivedFile(target), "utf8").catch(ignoreMissing);
    const value = text === undefined ? undefined : parsedObject(text);
    if (value === undefined) continue;
    const { after, sinceMs, bytes } = value;
    if (typeof after === "string" && typeof sinceMs === "number" && typeof bytes === "number") {
      return { after, sinceMs, bytes };
    }
  }
  return undefined;
}

async function markerOf(input: ArchiveInput, head: ArchiveHead): Promise<Marker> {
  return {
    format: 1,
    phase: "copying",
    serverId: head.serverId,
    // Two archives are the same source when they are of the same data; of a file also of the same moment.
    dataFolder: `archive of ${head.dataFolder}`,
    configFolder: input.kind === "file" ? `${head.volume} ${head.madeAt}` : head.volume,
    bootId: (await readBootId()) ?? "",
    startedAt: new Date().toISOString(),
  };
}

// ---- Small things -----------------------------------------------------------------------------------

function roomFor(target: ServerFolders, bytes: number): PlannedFile {
  const nobody = { mode: 0, uid: 0, gid: 0, modifiedNs: 0n };
  const flags = { isDatabase: false, throughLink: false };
  return { source: "", target: target.dataFolder, bytes: Math.max(0, bytes), ...nobody, ...flags };
}

async function giveRoots(
  target: ServerFolders,
  folders: ReadonlyMap<string, PlannedEntry> | undefined,
): Promise<void> {
  for (const [name, path] of [
    ["data", target.dataFolder],
    ["config", target.configFolder],
  ] as const) {
    const entry = folders?.get(name);
    if (entry === undefined) continue;
    try {
      await giveAttributes(path, { ...entry, mode: entry.mode | 0o700 });
    } catch (error) {
      // A folder that somebody else made for us stays theirs; they let us write to it.
      if (codeOf(error) !== "EPERM") throw error;
    }
  }
}

/**
 * Jellyfin makes a picture's tag from its time in units of 100 ns, which is finer than what Node can set (copy.ts).
 * Returns whether all are exact.
 */
async function makePictureTimesExact(
  files: readonly PlannedFile[],
  staged: (target: string) => string,
): Promise<boolean> {
  const apart: PlannedFile[] = [];
  for (const file of files) if (!(await hasTime(file, staged))) apart.push(file);
  if (apart.length === 0) return true;
  const lines = apart.map(({ target, modifiedNs }) => {
    const time = `${modifiedNs / 1_000_000_000n}.${String(modifiedNs % 1_000_000_000n).padStart(9, "0")}`;
    return `touch -c -d @${time} -- '${staged(target).replaceAll("'", "'\\''")}'\n`;
  });
  await new Promise<void>((done) => {
    const shell = spawn("sh", ["-s"], { stdio: ["pipe", "ignore", "ignore"] });
    // Every file is looked at afterwards, so it does not matter here why one was not done.
    shell.once("error", () => done());
    shell.once("exit", () => done());
    shell.stdin.on("error", () => done());
    shell.stdin.end(lines.join(""));
  });
  for (const file of apart) if (!(await hasTime(file, staged))) return false;
  return true;
}

async function hasTime(file: PlannedFile, staged: (target: string) => string): Promise<boolean> {
  const info = await lstat(staged(file.target), { bigint: true }).catch(ignoreMissing);
  return info === undefined || info.mtimeNs === file.modifiedNs;
}

async function tellEnd(
  landing: Landing,
  options: RestoreOptions,
  head: ArchiveHead,
  hasOwn: boolean,
): Promise<void> {
  const { target, tell } = landing;
  const version = head.version === "" ? "" : `, last run by Jellyfin ${head.version}`;
  tell(`Done: ${options.to} is a whole copy of server ${head.serverId}${version}.`);
  const settings = await readSettings(target.configFolder);
  for (const advice of settingsAdvice(settings, target, hasOwn)) tell(`- ${advice}`);
  if (head.position !== undefined) {
    tell(`The cluster's journal goes on from entry ${head.position.number} there.`);
  }
}

function sentenceOf(input: ArchiveInput, error: unknown): unknown {
  if (error instanceof ArchiveBroke) {
    return new SeedProblem(
      `${capital(input.name)} went away (${error.message}): run the same command again when it is back; it goes on` +
        " where it was.",
    );
  }
  if (error instanceof ArchiveProblem) {
    const cure =
      input.kind === "file"
        ? "Take another backup; nothing was put into place."
        : "Run the same command again; nothing was put into place.";
    return new SeedProblem(`${capital(input.name)} cannot be used: ${error.message}. ${cure}`);
  }
  return error;
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function ignoreMissing(error: unknown): undefined {
  if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined;
  throw error;
}
