// Where an archive's bytes come from: a file, in which what is not wanted is passed by without reading it, or a
// stream from another machine. Both end in an ArchiveProblem when they end too early.

import type { FileHandle } from "node:fs/promises";
import { ArchiveProblem, type ByteSource } from "./tar.ts";

const chunkBytes = 256 * 1024;
const tooShort = "it ends in the middle";

/** Reads from a file's beginning. Memory: one chunk. */
export class FileSource implements ByteSource {
  readonly #handle: FileHandle;
  readonly #bytes: number;
  #place = 0;

  constructor(handle: FileHandle, bytes: number) {
    this.#handle = handle;
    this.#bytes = bytes;
  }

  async read(bytes: number): Promise<Buffer | undefined> {
    if (this.#place >= this.#bytes) return undefined;
    const buffer = Buffer.allocUnsafe(bytes);
    for (let got = 0; got < bytes; ) {
      const { bytesRead } = await this.#handle.read(buffer, got, bytes - got, this.#place);
      if (bytesRead === 0) throw new ArchiveProblem(tooShort);
      got += bytesRead;
      this.#place += bytesRead;
    }
    return buffer;
  }

  async *pieces(bytes: number): AsyncGenerator<Buffer> {
    const buffer = Buffer.allocUnsafe(Math.min(bytes, chunkBytes));
    for (let left = bytes; left > 0; ) {
      const wanted = Math.min(left, chunkBytes);
      const { bytesRead } = await this.#handle.read(buffer, 0, wanted, this.#place);
      if (bytesRead === 0) throw new ArchiveProblem(tooShort);
      this.#place += bytesRead;
      left -= bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  }

  async skip(bytes: number): Promise<void> {
    if (this.#place + bytes > this.#bytes) throw new ArchiveProblem(tooShort);
    this.#place += bytes;
  }
}

/** Reads what comes. Memory: the piece that came last. */
export class StreamSource implements ByteSource {
  readonly #pieces: AsyncIterator<Uint8Array>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(pieces: AsyncIterable<Uint8Array>) {
    this.#pieces = pieces[Symbol.asyncIterator]();
  }

  async read(bytes: number): Promise<Buffer | undefined> {
    if (bytes === 0) return Buffer.alloc(0);
    if (this.#rest.length === 0 && !(await this.#more())) return undefined;
    const parts: Buffer[] = [];
    for await (const piece of this.pieces(bytes)) parts.push(piece);
    return Buffer.concat(parts);
  }

  async *pieces(bytes: number): AsyncGenerator<Buffer> {
    for (let left = bytes; left > 0; ) {
      if (this.#rest.length === 0 && !(await this.#more())) throw new ArchiveProblem(tooShort);
      const piece = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(piece.length);
      left -= piece.length;
      yield piece;
    }
  }

  async skip(bytes: number): Promise<void> {
    for await (const _ of this.pieces(bytes));
  }

  async #more(): Promise<boolean> {
    for (;;) {
      const next = await this.#pieces.next();
      if (next.done === true) return false;
      if (next.value.length === 0) continue;
      this.#rest = Buffer.from(next.value.buffer, next.value.byteOffset, next.value.length);
      return true;
    }
  }
}

/** Tells everything that passes to `onBytes`; nothing is passed by unread. */
export class WatchedSource implements ByteSource {
  readonly #inner: ByteSource;
  readonly #onBytes: (bytes: Buffer) => void;

  constructor(inner: ByteSource, onBytes: (bytes: Buffer) => void) {
    this.#inner = inner;
    this.#onBytes = onBytes;
  }

  async read(bytes: number): Promise<Buffer | undefined> {
    const read = await this.#inner.read(bytes);
    if (read !== undefined) this.#onBytes(read);
    return read;
  }

  async *pieces(bytes: number): AsyncGenerator<Buffer> {
    for await (const piece of this.#inner.pieces(bytes)) {
      this.#onBytes(piece);
      yield piece;
    }
  }

  async skip(bytes: number): Promise<void> {
    for await (const _ of this.pieces(bytes));
  }
}
