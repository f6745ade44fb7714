// The tar format (POSIX.1-2001, pax interchange) as far as a server's folders need it: files, folders and links,
// names of any length, times to the nanosecond. Our own, so that an archive is written and read as a stream
// with memory that does not depend on its size; and plain tar, so that its owner can open it without us.

/** What stands before the bytes of one entry. */
export interface TarEntry {
  /** Relative, with slashes; without one at its end. */
  readonly path: string;
  readonly type: "file" | "folder" | "link";
  readonly bytes: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly modifiedNs: bigint;
  /** What a link says. */
  readonly text: string;
}

/** The archive is not whole or not one of ours; the message says what is wrong, without its full stop. */
export class ArchiveProblem extends Error {
  override readonly name = "ArchiveProblem";
}

export const blockBytes = 512;
/** An archive ends with two empty blocks. */
export const endBytes = 2 * blockBytes;
const paxLimitBytes = 64 * 1024;
/** Eleven octal digits. */
const octalLimit = 8 ** 11;
const ownerLimit = 8 ** 7;
const typeFlags = { file: "0", folder: "5", link: "2" } as const;

/** How many empty bytes follow so many bytes. */
export function paddingOf(bytes: number): number {
  return (blockBytes - (bytes % blockBytes)) % blockBytes;
}

/** The header blocks of an entry. */
export function tarHeader(entry: TarEntry): Buffer {
  const { path, type, bytes, modifiedNs, text, uid, gid } = entry;
  const records: [string, string][] = [["mtime", secondsText(modifiedNs)]];
  if (isLong(path)) records.push(["path", type === "folder" ? `${path}/` : path]);
  if (isLong(text)) records.push(["linkpath", text]);
  if (bytes >= octalLimit) records.push(["size", String(bytes)]);
  if (uid >= ownerLimit) records.push(["uid", String(uid)]);
  if (gid >= ownerLimit) records.push(["gid", String(gid)]);
  const pax = Buffer.concat(records.map(([name, value]) => paxRecord(name, value)));
  const about = { ...entry, path: "pax", text: "", mode: 0o600, uid: 0, gid: 0, modifiedNs: 0n };
  return Buffer.concat([
    ustar({ ...about, bytes: pax.length }, "x"),
    pax,
    Buffer.alloc(paddingOf(pax.length)),
    ustar(entry, typeFlags[type]),
  ]);
}

/** Names of other than plain letters are kept in the pax header, whose text is UTF-8 by its definition. */
function isLong(text: string): boolean {
  return text.length > 99 || !/^[\x20-\x7e]*$/.test(text);
}

function paxRecord(name: string, value: string): Buffer {
  const rest = Buffer.from(` ${name}=${value}\n`, "utf8");
  // The length counts its own digits.
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length)
    length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

function secondsText(ns: bigint): string {
  const sign = ns < 0n ? "-" : "";
  const positive = ns < 0n ? -ns : ns;
  return `${sign}${positive / 1_000_000_000n}.${String(positive % 1_000_000_000n).padStart(9, "0")}`;
}

function ustar(entry: TarEntry, typeFlag: string): Buffer {
  const { path, mode, uid, gid, bytes, modifiedNs, text, type } = entry;
  const block = Buffer.alloc(blockBytes);
  const name = type === "folder" && typeFlag === "5" ? `${path}/` : path;
  block.write(isLong(name) ? asciiTail(name) : name, 0, 99, "latin1");
  block.write(octal(mode & 0o7777, 7), 100, "latin1");
  block.write(octal(uid < ownerLimit ? uid : 0, 7), 108, "latin1");
  block.write(octal(gid < ownerLimit ? gid : 0, 7), 116, "latin1");
  block.write(octal(bytes < octalLimit ? bytes : 0, 11), 124, "latin1");
  const seconds = Number(modifiedNs / 1_000_000_000n);
  block.write(octal(seconds >= 0 && seconds < octalLimit ? seconds : 0, 11), 136, "latin1");
  block.write(" ".repeat(8), 148, "latin1");
  block.write(typeFlag, 156, "latin1");
  if (!isLong(text)) block.write(text, 157, 99, "latin1");
  block.write("ustar\u000000", 257, "latin1");
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${octal(sum, 6)}\0 `, 148, "latin1");
  return block;
}

function octal(value: number, digits: number): string {
  return value.toString(8).padStart(digits, "0");
}

/** For programs that do not know pax headers. */
function asciiTail(name: string): string {
  return name.replace(/[^\x20-\x7e]/g, "_").slice(-99);
}

// ---- Reading ----------------------------------------------------------------------------------------

/** Where an archive's bytes come from, in order. */
export interface ByteSource {
  /** Exactly so many bytes; undefined when the source ends before the first of them. */
  read(bytes: number): Promise<Buffer | undefined>;
  /** So many bytes in pieces, as they come. */
  pieces(bytes: number): AsyncGenerator<Buffer>;
  /** Passes by so many bytes, without reading them where that can be avoided. */
  skip(bytes: number): Promise<void>;
}

/** The next entry's header, or undefined at the end of the archive. Its bytes follow in the source. */
export async function readTarEntry(source: ByteSource): Promise<TarEntry | undefined> {
  const pax = new Map<string, string>();
  for (;;) {
    const block = await source.read(blockBytes);
    if (block === undefined) throw new ArchiveProblem("it ends in the middle");
    if (block.every((byte) => byte === 0)) return undefined;
    checkSum(block);
    const typeFlag = block.toString("latin1", 156, 157);
    const bytes = sizeOf(pax, block);
    if (typeFlag === "x") {
      for (const [name, value] of await readPax(source, bytes)) pax.set(name, value);
      continue;
    }
    const type = typeOf(typeFlag);
    const path = (pax.get("path") ?? textAt(block, 0, 100)).replace(/\/+$/, "");
    checkPath(path);
    return {
      path,
      type,
      bytes: type === "file" ? bytes : 0,
      mode: numberAt(block, 100, 8) & 0o7777,
      uid: numberOf(pax.get("uid")) ?? numberAt(block, 108, 8),
      gid: numberOf(pax.get("gid")) ?? numberAt(block, 116, 8),
      modifiedNs: timeOf(pax.get("mtime")) ?? BigInt(numberAt(block, 136, 12)) * 1_000_000_000n,
      text: pax.get("linkpath") ?? textAt(block, 157, 100),
    };
  }
}

async function readPax(source: ByteSource, bytes: number): Promise<ReadonlyMap<string, string>> {
  if (bytes > paxLimitBytes) throw new ArchiveProblem("a name in it is too long");
  const all = await source.read(bytes);
  if (all === undefined) throw new ArchiveProblem("it ends in the middle");
  await source.skip(paddingOf(bytes));
  const records = new Map<string, string>();
  for (let start = 0; start < all.length; ) {
    const blank = all.indexOf(0x20, start);
    const length = blank < 0 ? 0 : Number(all.toString("latin1", start, blank));
    if (!Number.isSafeInteger(length) || length < 5 || start + length > all.length) {
      throw new ArchiveProblem("a header in it is damaged, or it is no tar archive");
    }
    const record = all.toString("utf8", blank + 1, start + length - 1);
    const equals = record.indexOf("=");
    records.set(record.slice(0, equals), record.slice(equals + 1));
    start += length;
  }
  return records;
}

function checkSum(block: Buffer): void {
  const told = numberAt(block, 148, 8);
  let sum = 8 * 0x20;
  for (const [place, byte] of block.entries()) if (place < 148 || place >= 156) sum += byte;
  if (sum !== told) throw new ArchiveProblem("a header in it is damaged, or it is no tar archive");
}

/** An archive may come from anywhere: nothing of it is ever written outside the folder it is meant for. */
function checkPath(path: string): void {
  const parts = path.split("/");
  if (path === "" || path.includes("\0") || parts.some((part) => ["", ".", ".."].includes(part))) {
    throw new ArchiveProblem("a name in it leads out of its folder");
  }
}

function typeOf(flag: string): TarEntry["type"] {
  if (flag === "0" || flag === "\0") return "file";
  if (flag === "5") return "folder";
  if (flag === "2") return "link";
  throw new ArchiveProblem("there is something else than files, folders and links in it");
}

function sizeOf(pax: ReadonlyMap<string, string>, block: Buffer): number {
  const size = numberOf(pax.get("size")) ?? numberAt(block, 124, 12);
  if (!Number.isSafeInteger(size) || size < 0)
    throw new ArchiveProblem("a size in it makes no sense");
  return size;
}

function textAt(block: Buffer, start: number, length: number): string {
  const end = block.indexOf(0, start);
  return block.toString("utf8", start, end < 0 ? start + length : Math.min(end, start + length));
}

function numberAt(block: Buffer, start: number, length: number): number {
  const text = textAt(block, start, length).trim();
  if (text !== "" && !/^[0-7]+$/.test(text))
    throw new ArchiveProblem("a header in it is damaged, or it is no tar archive");
  return Number.parseInt(text === "" ? "0" : text, 8);
}

function numberOf(text: string | undefined): number | undefined {
  return text === undefined || !/^\d{1,15}$/.test(text) ? undefined : Number(text);
}

function timeOf(text: string | undefined): bigint | undefined {
  const [, sign = "", seconds = "", fraction = ""] =
    /^(-?)(\d{1,15})(?:\.(\d+))?$/.exec(text ?? "") ?? [];
  if (seconds === "") return undefined;
  const ns = BigInt(seconds) * 1_000_000_000n + BigInt(fraction.padEnd(9, "0").slice(0, 9));
  return sign === "-" ? -ns : ns;
}
