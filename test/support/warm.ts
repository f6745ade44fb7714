/**
 * A start as the image has it: with files that Node has compiled before. Whoever starts without keeps what removes the
 * types in memory, some 28 MB, which says nothing about the program that is measured.
 */
import { execFile } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const script = join(import.meta.dirname, "../../tools/warm.mjs");
const limitMs = 60_000;

/** Fills Node's compile cache as the image's build does. Throws when that fails, or takes longer than a minute. */
export async function warm(): Promise<void> {
  const folder = process.env.NODE_COMPILE_CACHE ?? join(tmpdir(), "node-compile-cache");
  await promisify(execFile)(process.execPath, [script], {
    env: { ...process.env, NODE_COMPILE_CACHE: folder },
    timeout: limitMs,
  });
}
