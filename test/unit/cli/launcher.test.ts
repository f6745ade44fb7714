// The launcher and what obtains packages, as processes: exit codes, words, and what is in step with what.

import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { packageVersion } from "../../../cli/version.ts";

const root = dirname(fileURLToPath(new URL("../../../package.json", import.meta.url)));
let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "jellybloom-launcher-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

function node(args: readonly string[], env: Record<string, string> = {}) {
  return spawnSync(process.execPath, args, { encoding: "utf8", env: { ...process.env, ...env } });
}

describe("the launcher", () => {
  const launcher = join(root, "cli/jellybloom.mjs");

  test("prints the version of the program", () => {
    const { status, stdout } = node([launcher, "--version"]);
    expect([status, stdout]).toEqual([0, `${packageVersion()}\n`]);
  });

  test("passes on the exit code, and mistakes go to the standard error", () => {
    const { status, stdout, stderr } = node([launcher, "up"]);
    expect([status, stdout]).toEqual([2, ""]);
    expect(stderr).toContain("--replica NAME=URL is needed (or JELLYBLOOM_REPLICA).");
  });

  test("keeps the young heap of a sidecar as small as it begins, however much is loaded", () => {
    const says = `import { getHeapSpaceStatistics } from "node:v8";
      process.on("exit", () => console.log(JSON.stringify(getHeapSpaceStatistics())));`;
    const watch = ["--import", `data:text/javascript,${encodeURIComponent(says)}`];
    const { stdout } = node([...watch, launcher, "sidecar"]);
    const spaces = JSON.parse(stdout) as { space_name: string; space_size: number }[];
    const young = spaces.find(({ space_name }) => space_name === "new_space");
    // It begins with 2 MiB, grows to 4 before the first mistake is told, and to 16 or 32 once it runs.
    expect(young?.space_size).toBeLessThan(3 * 1024 * 1024);
  });
});

/** A copy of ensure.mjs in a tree of its own with these locked and these installed packages. */
function tree(name: string, locked: object | undefined, installed: object | undefined): string {
  const place = join(folder, name);
  mkdirSync(join(place, "tools"), { recursive: true });
  mkdirSync(join(place, "node_modules"));
  cpSync(join(root, "tools/ensure.mjs"), join(place, "tools/ensure.mjs"));
  writeFileSync(join(place, "package.json"), "{}");
  if (locked !== undefined) {
    writeFileSync(join(place, "package-lock.json"), JSON.stringify({ packages: locked }));
  }
  if (installed !== undefined) {
    const hidden = join(place, "node_modules", ".package-lock.json");
    writeFileSync(hidden, JSON.stringify({ packages: installed }));
  }
  return place;
}

function isInStep(place: string, options: object): string {
  const program = `import { packagesInStep } from ${JSON.stringify(join(root, "tools/ensure.mjs"))};
    console.log(packagesInStep(${JSON.stringify(place)}, ${JSON.stringify(options)}));`;
  return node(["--input-type=module", "-e", program]).stdout.trim();
}

describe("packages are in step with the lock file", () => {
  const one = { version: "1.0.0", integrity: "sha512-a" };
  const cases: [string, object | undefined, object | undefined, object, string][] = [
    ["when they are the same", { "": {}, a: one }, { a: one }, {}, "true"],
    ["though another platform's are missing", { a: { ...one, optional: true } }, {}, {}, "true"],
    ["not when one is missing", { a: one }, {}, {}, "false"],
    ["not when one has another version", { a: one }, { a: { ...one, version: "2" } }, {}, "false"],
    [
      "not when one has another content",
      { a: one },
      { a: { ...one, integrity: "b" } },
      {},
      "false",
    ],
    ["not when nothing was installed", { a: one }, undefined, {}, "false"],
    ["not without those to develop with", { a: { ...one, dev: true } }, {}, {}, "false"],
    [
      "but they need not be in an image",
      { a: { ...one, dev: true } },
      {},
      { production: true },
      "true",
    ],
  ];
  test.each(cases)("%s", (name, locked, installed, options, answer) => {
    expect(isInStep(tree(name, locked, installed), options)).toBe(answer);
  });
});

describe("ensure", () => {
  test("is silent when nothing is missing", () => {
    const { status, stdout, stderr } = node([join(root, "tools/ensure.mjs")]);
    expect([status, stdout, stderr]).toEqual([0, "", ""]);
  });

  test("refuses a mode it does not know", () => {
    const { status, stderr } = node([join(root, "tools/ensure.mjs"), "everything"]);
    expect(status).toBe(1);
    expect(stderr).toContain("ensure.mjs knows demo, test, bench");
  });

  test("tells the command to run when it may not install, and what can be done without is no failure", () => {
    const place = tree("no programs", { "": {} }, {});
    // An empty path and no privileges: nothing is found, and nothing may be installed.
    const program = `process.getuid = () => 1000; process.argv[1] = ${JSON.stringify(join(place, "tools/ensure.mjs"))};
      await import(process.argv[1]);`;
    const run = (mode: string) =>
      node(["--input-type=module", "-e", program, "-", mode], { PATH: join(place, "nothing") });
    const needed = run("bench");
    expect(needed.status).toBe(1);
    expect(needed.stderr).toMatch(/sudo apt-get update && sudo apt-get install -y .*ffmpeg/);
    expect(needed.stderr).toContain("This user may not install packages.");
    const mayDoWithout = run("demo");
    expect(mayDoWithout.stderr).toContain("ffmpeg is missing and could not be installed");
    expect(mayDoWithout.status).toBe(0);
  });
});
