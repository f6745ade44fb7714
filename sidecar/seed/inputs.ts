// Where archives are read from: a file, or the sidecar of another replica over the network.

import { open, stat } from "node:fs/promises";
import { parsedObject } from "../../core/service/json.ts";
import type { Seal } from "../../core/service/seal.ts";
import type { ArchiveResume } from "./archive.ts";
import type { Rebuildable } from "./choice.ts";
import { archivePath } from "./donor.ts";
import { codeOf, SeedProblem } from "./problem.ts";
import { ArchiveBroke, type ArchiveInput } from "./restore.ts";
import { FileSource, StreamSource } from "./source.ts";

export function fileInput(path: string): ArchiveInput {
  return {
    name: `the archive ${path}`,
    kind: "file",
    async open() {
      try {
        const handle = await open(path, "r");
        const { size } = await stat(path);
        return { source: new FileSource(handle, size), close: () => handle.close() };
      } catch (error) {
        const code = codeOf(error);
        if (code === undefined) throw error;
        throw new SeedProblem(`The archive ${path} cannot be read (${code}).`);
      }
    },
  };
}

const answerLimitCharacters = 4096;

export interface SidecarStream {
  readonly pieces: AsyncIterable<Uint8Array>;
  readonly close: () => Promise<void>;
}

export interface SidecarPlace {
  readonly base: string;
  readonly seal: Seal;
  readonly without: readonly Rebuildable[];
  /** How long the sidecar may take to begin, in ms: it looks through all folders before. */
  readonly limitMs: number;
}

export function sidecarInput(place: SidecarPlace): ArchiveInput {
  return {
    name: `the sidecar at ${place.base}`,
    kind: "stream",
    async open(resume) {
      const { pieces, close } = await openStream(place, resume);
      return { source: new StreamSource(pieces), close };
    },
  };
}

/** Asks a sidecar for its server's archive. @throws ArchiveBroke when it is away or busy, SeedProblem when it refuses. */
export async function openStream(
  { base, seal, without, limitMs }: SidecarPlace,
  resume: ArchiveResume | undefined,
): Promise<SidecarStream> {
  const url = new URL(base.replace(/\/+$/, "") + archivePath);
  const body = JSON.stringify({ ...resume, without });
  const leaving = new AbortController();
  const timer = setTimeout(() => leaving.abort(), limitMs);
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...seal.proofHeaders("POST", url.pathname, body),
      },
      body,
      redirect: "error",
      signal: leaving.signal,
    });
    if (response.status === 503) throw new ArchiveBroke("it is busy");
    if (!response.ok || response.body === null) throw await refusal(base, response);
    return { pieces: broken(response.body), close: async () => leaving.abort() };
  } catch (error) {
    if (error instanceof SeedProblem || error instanceof ArchiveBroke) throw error;
    throw new ArchiveBroke(causeOf(error, limitMs));
  } finally {
    clearTimeout(timer);
  }
}

async function refusal(base: string, response: Response): Promise<SeedProblem> {
  const text = (await response.text().catch(() => "")).slice(0, answerLimitCharacters);
  const told = parsedObject(text)?.error;
  const error = typeof told === "string" ? told : `status ${response.status}`;
  return new SeedProblem(`The sidecar at ${base} sends no archive: ${error}`);
}

/** Whatever ends a stream too early is the same to us: it is asked for again. */
async function* broken(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* pieces;
  } catch (error) {
    throw new ArchiveBroke(causeOf(error, 0));
  }
}

function causeOf(error: unknown, limitMs: number): string {
  if (!(error instanceof Error)) return "unknown";
  if (error.name === "AbortError") return `no answer within ${limitMs} ms`;
  return error.cause instanceof Error ? error.cause.message : error.message;
}
