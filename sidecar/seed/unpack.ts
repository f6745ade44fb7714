// Reads an archive from its beginning to its end: its head, each of its entries in their order, and whether what
// came is what was sent. What is done with an entry is for the caller to say; nothing here writes anything.

import { createHash, type Hash } from "node:crypto";
import { readJournalCursor } from "../../core/cluster/journal-cursor.ts";
import { parsedObject } from "../../core/service/json.ts";
import { type ArchiveHead, archiveFormat, endName, headName, listName } from "./archive.ts";
import type { LayoutKind } from "./layout.ts";
import { WatchedSource } from "./source.ts";
import { ArchiveProblem, type ByteSource, paddingOf, readTarEntry, type TarEntry } from "./tar.ts";

const textLimitBytes = 1024 * 1024;
/** A million names of the length which names have. */
const listLimitBytes = 256 * 1024 * 1024;
const layoutKinds: readonly LayoutKind[] = [
  ...(["one folder", "config beside data", "config around data"] as const),
  ...(["system folders", "two folders"] as const),
];

/** Reads the entry's bytes from `bytes`, as far as it wants to; the rest is passed by. */
export type Visit = (entry: TarEntry, bytes: AsyncGenerator<Buffer>) => Promise<void>;

export class Unpacker {
  readonly #source: ByteSource;
  readonly #sum: Hash | undefined;
  #bytes = 0;

  /** `proves`: every byte is read and compared with the sum at the end; else what nobody reads is passed by. */
  constructor(source: ByteSource, proves: boolean) {
    const sum = proves ? createHash("sha256") : undefined;
    this.#sum = sum;
    this.#source =
      sum === undefined
        ? source
        : new WatchedSource(source, (piece) => {
            this.#bytes += piece.length;
            sum.update(piece);
          });
  }

  /** First. @throws ArchiveProblem when there is none that this version understands. */
  async head(): Promise<ArchiveHead> {
    const entry = await readTarEntry(this.#source);
    if (entry?.path !== headName) throw new ArchiveProblem("it is not one of Jellybloom's");
    return readHead(await this.#text(entry, textLimitBytes));
  }

  /**
   * All that follows. @returns the names that there are in the end. @throws ArchiveProblem when the archive is not
   * whole: whatever was done with its entries is then to be thrown away.
   */
  async entries(visit: Visit): Promise<ReadonlySet<string>> {
    let names: ReadonlySet<string> | undefined;
    for (;;) {
      const before = { bytes: this.#bytes, sum: this.#sum?.copy() };
      const entry = await readTarEntry(this.#source);
      if (entry === undefined) throw new ArchiveProblem("it ends without saying that it is whole");
      if (entry.path === listName) {
        const list = await this.#text(entry, listLimitBytes);
        names = new Set(list.split("\n").filter((name) => name !== ""));
      } else if (entry.path === endName) {
        checkEnd(await this.#text(entry, textLimitBytes), before);
        if (names === undefined) throw new ArchiveProblem("it does not say what belongs to it");
        return names;
      } else {
        await this.#visit(entry, visit);
      }
    }
  }

  async #visit(entry: TarEntry, visit: Visit): Promise<void> {
    if (!/^(data|config)(\/|$)/.test(entry.path)) {
      throw new ArchiveProblem("there is something in it that belongs to no server");
    }
    const source = this.#source;
    let left = entry.bytes;
    async function* body(): AsyncGenerator<Buffer> {
      for await (const piece of source.pieces(entry.bytes)) {
        left -= piece.length;
        yield piece;
      }
    }
    const bytes = body();
    await visit(entry, bytes);
    // One that was left in the middle has had its last piece whole.
    await bytes.return(undefined);
    await source.skip(left + paddingOf(entry.bytes));
  }

  async #text(entry: TarEntry, limit: number): Promise<string> {
    if (entry.type !== "file" || entry.bytes > limit) {
      throw new ArchiveProblem("its papers are too long");
    }
    const text = await this.#source.read(entry.bytes);
    if (text === undefined && entry.bytes > 0) throw new ArchiveProblem("it ends in the middle");
    await this.#source.skip(paddingOf(entry.bytes));
    return text?.toString("utf8") ?? "";
  }
}

function checkEnd(
  text: string,
  { bytes, sum }: { readonly bytes: number; readonly sum: Hash | undefined },
): void {
  const end = parsedObject(text);
  if (typeof end?.sha256 !== "string" || typeof end.bytes !== "number") {
    throw new ArchiveProblem("its end makes no sense");
  }
  if (sum === undefined) return;
  if (end.bytes !== bytes || end.sha256 !== sum.digest("hex")) {
    throw new ArchiveProblem("it is damaged: its bytes are not those that were written");
  }
}

/** The head of an archive, which may come from anywhere. */
export function readHead(text: string): ArchiveHead {
  const head = parsedObject(text);
  if (head === undefined) throw new ArchiveProblem("its head makes no sense");
  const { format, kind, files, bytes, position } = head;
  if (format !== archiveFormat) {
    throw new ArchiveProblem(
      `it is of format ${JSON.stringify(format)}: a newer Jellybloom made it`,
    );
  }
  const word = (name: string): string => {
    const value = head[name];
    if (typeof value !== "string" || value.length > 4096) {
      throw new ArchiveProblem("its head makes no sense");
    }
    return value;
  };
  const layout = layoutKinds.find((known) => known === kind);
  if (layout === undefined || !isCount(files) || !isCount(bytes)) {
    throw new ArchiveProblem("its head makes no sense");
  }
  return {
    format: archiveFormat,
    serverId: word("serverId"),
    version: word("version"),
    madeAt: word("madeAt"),
    kind: layout,
    dataFolder: word("dataFolder"),
    configFolder: word("configFolder"),
    volume: word("volume"),
    files,
    bytes,
    without: Array.isArray(head.without)
      ? head.without.filter((name) => typeof name === "string")
      : [],
    replica: word("replica"),
    position: readJournalCursor(position),
    ticket: word("ticket"),
  };
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}
