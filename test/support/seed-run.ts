// Runs `jellybloom seed` in a process of its own, so that a test can kill it.

import { runSeed } from "../../cli/seed.ts";

process.exitCode = await runSeed(process.argv.slice(2), {
  out: (line) => process.stdout.write(`${line}\n`),
  err: (line) => process.stderr.write(`${line}\n`),
});
