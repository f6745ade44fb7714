// Segment memory: HLS segments held whole before their first byte goes to a client, within a budget. A
// player must never see half a segment: ExoPlayer asks for the other half by Range, from what may be
// another replica's different encode, and FFmpeg players skip what breaks off. Segments just sent are kept
// for a while for the same reason; the init segment of a play longer, because a new encode's init segment
// need not be the same bytes.
//
// Memory is taken in slabs of one size, kept and used again, so that the process's memory stays flat and
// never waits for a garbage collector to notice buffers outside of its heap.

import type { Gauge } from "../core/service/metrics.ts";

export const slabBytes = 1024 * 1024;

export interface SegmentHead {
  readonly status: number;
  readonly statusText: string;
  /** Without Content-Length and Content-Range: they depend on what is asked for. */
  readonly headers: readonly string[];
}

/** One segment's bytes, while somebody fills, sends or keeps them. */
export class HeldSegment {
  readonly length: number;
  readonly head: SegmentHead;
  readonly #memory: SegmentMemory;
  readonly #slabs: Buffer[];
  #filled = 0;
  #users = 1;

  constructor(memory: SegmentMemory, head: SegmentHead, length: number, slabs: Buffer[]) {
    this.#memory = memory;
    this.head = head;
    this.length = length;
    this.#slabs = slabs;
  }

  /** Where its next bytes belong, as far as they lie in one piece; undefined when it is whole. */
  room(): Buffer | undefined {
    const offset = this.#filled % slabBytes;
    const left = Math.min(slabBytes - offset, this.length - this.#filled);
    if (left === 0) return undefined;
    return this.#slabs[Math.floor(this.#filled / slabBytes)]?.subarray(offset, offset + left);
  }

  /**
   * Copies what was read, unless it was read into `room()`; more than the length is a bug of the caller's
   * framing and is dropped.
   */
  append(chunk: Buffer): void {
    const room = this.room();
    if (room?.buffer === chunk.buffer && room.byteOffset === chunk.byteOffset) {
      this.#filled += chunk.length;
      return;
    }
    let at = 0;
    while (at < chunk.length && this.#filled < this.length) {
      const slab = this.#slabs[Math.floor(this.#filled / slabBytes)];
      if (slab === undefined) return;
      const offset = this.#filled % slabBytes;
      const copied = chunk.copy(
        slab,
        offset,
        at,
        Math.min(chunk.length, at + this.length - this.#filled),
      );
      at += copied;
      this.#filled += copied;
    }
  }

  /** Views of the bytes from `first` to `last`, both included, in order. */
  *pieces(first: number, last: number): Generator<Buffer> {
    let at = first;
    while (at <= last) {
      const slab = this.#slabs[Math.floor(at / slabBytes)];
      if (slab === undefined) return;
      const offset = at % slabBytes;
      const take = Math.min(slabBytes - offset, last - at + 1);
      yield slab.subarray(offset, offset + take);
      at += take;
    }
  }

  use(): void {
    this.#users++;
  }

  /** Whoever used it does no longer; the last one gives the slabs back. */
  release(): void {
    this.#users--;
    if (this.#users === 0) this.#memory.takeBack(this.#slabs.splice(0));
  }
}

interface Kept {
  readonly segment: HeldSegment;
  untilMs: number;
}

export interface SegmentMemoryOptions {
  readonly limitBytes: number;
  readonly keepMs: number;
  /** How long an init segment is kept after it was last asked for, in ms: the length of a long film. */
  readonly keepInitMs: number;
  readonly now: () => number;
  readonly gauge: Gauge;
}

export class SegmentMemory {
  readonly #options: SegmentMemoryOptions;
  readonly #free: Buffer[] = [];
  readonly #kept = new Map<string, Kept>();
  #slabsUsed = 0;

  constructor(options: SegmentMemoryOptions) {
    this.#options = options;
  }

  /** Room for a segment of this length, or undefined when the budget has none even without what is kept. */
  reserve(head: SegmentHead, length: number): HeldSegment | undefined {
    const count = Math.max(1, Math.ceil(length / slabBytes));
    const limit = Math.floor(this.#options.limitBytes / slabBytes);
    for (const [key, kept] of this.#kept) {
      if (this.#slabsUsed + count <= limit) break;
      this.#kept.delete(key);
      kept.segment.release();
    }
    if (this.#slabsUsed + count > limit) return undefined;
    const slabs: Buffer[] = [];
    for (let index = 0; index < count; index++) {
      slabs.push(this.#free.pop() ?? Buffer.allocUnsafeSlow(slabBytes));
    }
    this.#slabsUsed += count;
    this.#tell();
    return new HeldSegment(this, head, length, slabs);
  }

  /** Keeps a whole segment under `key` for a while; the memory uses it until it lets it go. */
  keep(key: string, segment: HeldSegment, isInit: boolean): void {
    const known = this.#kept.get(key);
    const { keepMs, keepInitMs, now } = this.#options;
    const untilMs = now() + (isInit ? keepInitMs : keepMs);
    if (known !== undefined) {
      this.#kept.delete(key);
      known.segment.release();
    }
    segment.use();
    this.#kept.set(key, { segment, untilMs });
  }

  /** A kept segment, already counted as used by the caller, who must release it. */
  find(key: string): HeldSegment | undefined {
    const kept = this.#kept.get(key);
    if (kept === undefined) return undefined;
    kept.segment.use();
    return kept.segment;
  }

  /** Lets go what was kept long enough. */
  sweep(): void {
    const nowMs = this.#options.now();
    for (const [key, kept] of this.#kept) {
      if (kept.untilMs > nowMs) continue;
      this.#kept.delete(key);
      kept.segment.release();
    }
    // Slabs beyond what is used now and as much again are given back to the system.
    while (this.#free.length > Math.max(4, this.#slabsUsed)) this.#free.pop();
  }

  takeBack(slabs: readonly Buffer[]): void {
    this.#slabsUsed -= slabs.length;
    this.#free.push(...slabs);
    this.#tell();
  }

  #tell(): void {
    this.#options.gauge.set(this.#slabsUsed * slabBytes);
  }
}
