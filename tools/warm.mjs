// Warm: makes Node compile every file of every command once, so that the compile cache of an image is
// filled when it is built and a container's first start is as quick as its second (650 ms to an open door
// without, 450 ms with). Run with NODE_COMPILE_CACHE set to the folder, by the user who will run the
// commands: Node keeps a cache for each user.
//
// It finds what to load as the commands do: by the imports which cli/ makes only when they are needed.

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const cli = join(dirname(dirname(fileURLToPath(import.meta.url))), "cli");
const later = /\bimport\("(\.{1,2}\/[^"]+)"\)/g;

const files = new Set();
for (const name of readdirSync(cli).filter((file) => /\.(ts|mjs)$/.test(file))) {
  for (const [, path] of readFileSync(join(cli, name), "utf8").matchAll(later)) {
    files.add(join(cli, path));
  }
}
if (files.size === 0) throw new Error(`${cli} imports nothing late: look at how it loads commands`);
for (const file of files) await import(pathToFileURL(file).href);
process.stdout.write(`${[...files].length} files and all they import are compiled\n`);
