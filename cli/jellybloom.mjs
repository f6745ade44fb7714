#!/usr/bin/env node
// The launcher: what `npx jellybloom` and the image start. Plain JavaScript for Node 20 and later. It
// installs the packages of a fresh clone, finds a Node 24, and hands over: in this process when it already
// runs on one, else in a child whose input, output, signals and exit code are this process's own.

import { spawn } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import module from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { setFlagsFromString } from "node:v8";
import {
  installPackages,
  isNewEnough,
  Missing,
  newNode,
  packagesInStep,
} from "../tools/ensure.mjs";

const self = realpathSync(fileURLToPath(import.meta.url));
const root = dirname(dirname(self));
/** Tells the child that whoever holds the other end of its channel is a launcher. */
const launchedVariable = "JELLYBLOOM_LAUNCHED";
/** After the start, so that it does not lengthen it. */
const keepCompiledAfterMs = 1000;

try {
  // Without a lock file this is not a clone, and its packages are not ours to install.
  if (existsSync(join(root, "package-lock.json")) && !packagesInStep(root, { production: true })) {
    installPackages(root);
  }
  if (isNewEnough(process.versions.node)) await runHere();
  else runInChild(newNode(root));
} catch (error) {
  if (!(error instanceof Missing)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exit(1);
}

async function runHere() {
  endWithLauncher();
  if (process.argv[2] === "sidecar") keepHeapSmall();
  // Keeps what Node makes of our files (types stripped, code compiled), so that the next start is faster.
  module.enableCompileCache?.();
  // Written down early, not only at the end: a process that is killed never comes to its end, and the next
  // one would take twice as long to listen.
  setTimeout(() => module.flushCompileCache?.(), keepCompiledAfterMs).unref();
  const { main } = await import("./main.ts");
  const code = await main(process.argv.slice(2), {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    env: process.env,
  });
  // Not process.exit(): what was written to a pipe may not have left yet. A command that is done holds
  // nothing open; should one, this ends it all the same.
  process.exitCode = code;
  setTimeout(() => process.exit(), 1000).unref();
}

/**
 * A sidecar stands beside a server that wants the memory, and has time. V8 lets the heap's young part grow to twice
 * what it was, and the old part to up to four times what is alive before it looks through it: both wait for less here
 * (docs/decisions/026-a-door-that-nobody-uses.md has what that saves and costs).
 */
function keepHeapSmall() {
  setFlagsFromString("--semi-space-growth-factor=1");
  setFlagsFromString("--heap-growing-percent=20");
}

/** A launcher that was killed cannot pass its end on; the channel to it closes then. */
function endWithLauncher() {
  if (process.env[launchedVariable] === undefined || process.channel === undefined) return;
  delete process.env[launchedVariable];
  process.once("disconnect", () => process.kill(process.pid, "SIGTERM"));
  process.channel.unref();
}

function runInChild(node) {
  const child = spawn(node, [self, ...process.argv.slice(2)], {
    stdio: ["inherit", "inherit", "inherit", "ipc"],
    env: { ...process.env, [launchedVariable]: "1" },
  });
  const pass = (signal) => void child.kill(signal);
  const signals = ["SIGTERM", "SIGINT", "SIGHUP"];
  for (const signal of signals) process.on(signal, pass);
  child.on("error", (error) => {
    process.stderr.write(`${node} could not be started: ${error.message}\n`);
    process.exit(1);
  });
  child.on("exit", (code, signal) => {
    for (const passed of signals) process.off(passed, pass);
    if (signal !== null) process.kill(process.pid, signal);
    else process.exit(code ?? 1);
  });
}
