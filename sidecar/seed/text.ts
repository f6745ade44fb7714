// How sizes, counts and progress are written for people (pure).

const units = ["bytes", "KiB", "MiB", "GiB", "TiB"] as const;

/** A size in bytes with the unit that suits it: `512 bytes`, `1.2 GiB`. */
export function sizeText(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  if (unit === 0) return countText(bytes, "byte");
  return `${value.toFixed(1)} ${units[unit]}`;
}

/** `1 file`, `1,234 files`. */
export function countText(count: number, noun: string): string {
  return `${count.toLocaleString("en-US")} ${noun}${count === 1 ? "" : "s"}`;
}

/** How far the copy is: `34 % (1.2 GiB of 3.5 GiB)`. It says 100 % only when everything is there. */
export function progressText(doneBytes: number, totalBytes: number): string {
  const part = totalBytes === 0 ? 1 : doneBytes / totalBytes;
  const percent = doneBytes >= totalBytes ? 100 : Math.min(99, Math.floor(part * 100));
  return `${percent} % (${sizeText(Math.min(doneBytes, totalBytes))} of ${sizeText(totalBytes)})`;
}

/** Tells how far the copy is, in calm lines: at most one each interval, and only when it moved. */
export class Progress {
  readonly #totalBytes: number;
  readonly #intervalMs: number;
  readonly #tell: (line: string) => void;
  #doneBytes = 0;
  #toldAtMs = performance.now();
  #toldText = "";

  constructor(totalBytes: number, intervalMs: number, tell: (line: string) => void) {
    this.#totalBytes = totalBytes;
    this.#intervalMs = intervalMs;
    this.#tell = tell;
  }

  add(bytes: number): void {
    this.#doneBytes += bytes;
    if (performance.now() - this.#toldAtMs < this.#intervalMs) return;
    this.tellNow();
  }

  /** Everything is copied, however much a running server's files grew or shrank meanwhile. */
  complete(): void {
    this.#doneBytes = this.#totalBytes;
    this.tellNow();
  }

  tellNow(): void {
    const text = progressText(this.#doneBytes, this.#totalBytes);
    this.#toldAtMs = performance.now();
    if (text === this.#toldText) return;
    this.#toldText = text;
    this.#tell(`Copied ${text}.`);
  }
}
