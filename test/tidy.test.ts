// The house keeps its own rules: imports go one way, files and scripts say what they are, every option and
// key is documented, and nothing of a developer's machine is in the tree. What types and lint can say is
// not here. The tests read every file that git knows or would take.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { optionsPage } from "../cli/help.ts";
import { documentedCommands } from "../cli/main.ts";
import { keyTable } from "../core/store/keys.ts";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const files = treeFiles();
const sources = files.filter((file) => /\.(ts|mjs)$/.test(file));
const productionSources = sources.filter((file) => /^(core|proxy|sidecar|cli|tools)\//.test(file));
const scripts = files.filter((file) => /^core\/store\/scripts\/[^/]+\.lua$/.test(file));

/** Folder of a source to the folders it may import values from. What is not named may import anything. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  "core/jellyfin": ["core/jellyfin"],
  "core/service": ["core/service"],
  "core/store": ["core/store", "core/service"],
  "core/cluster": ["core/cluster", "core/store", "core/service", "core/jellyfin"],
  proxy: ["proxy", "core"],
  sidecar: ["sidecar", "core"],
};

/** And the types: the store's contract, and what a request changes, are told in the cluster's words. */
const mayImportTypes: Readonly<Record<string, readonly string[]>> = {
  "core/jellyfin": ["core/cluster"],
  "core/store": ["core/cluster"],
};

test("imports go one way", () => {
  const wrong = sources.flatMap((file) => {
    const area = Object.keys(mayImport).find((folder) => file.startsWith(`${folder}/`));
    if (area === undefined) return [];
    return importsOf(file)
      .filter(({ target, isType }) => {
        const allowed = [
          ...(mayImport[area] ?? []),
          ...(isType ? (mayImportTypes[area] ?? []) : []),
        ];
        return !allowed.some((folder) => target.startsWith(`${folder}/`));
      })
      .map(({ target }) => `${file} imports ${target}`);
  });
  expect(wrong).toEqual([]);
});

test("no file imports itself by way of others", () => {
  const graph = new Map(
    productionSources.map((file) => [
      file,
      importsOf(file)
        .filter(({ isType }) => !isType)
        .map(({ target }) => target),
    ]),
  );
  expect(cycles(graph)).toEqual([]);
});

test("what is imported is there, by its whole name", () => {
  const wrong = sources.flatMap((file) =>
    importsOf(file)
      .filter(({ target }) => !existsSync(join(root, target)) || !/\.\w+$/.test(target))
      .map(({ target }) => `${file} imports ${target}`),
  );
  expect(wrong).toEqual([]);
});

test("no file passes on what others export", () => {
  const barrels = productionSources.filter(
    (file) =>
      /^export\s+(type\s+)?(\*|\{[^}]*\})\s*(as\s+\w+\s+)?from\b/m.test(read(file)) ||
      ["index.ts", "mod.ts"].includes(basename(file)),
  );
  expect(barrels).toEqual([]);
});

test("only the commands and the launcher import while running", () => {
  // cli/door.ts takes Redis' client only where Redis is used: 35 ms of a start that has one second.
  const mayImportLate = [
    ...["cli/main.ts", "cli/jellybloom.mjs", "cli/door.ts"],
    // undici is a tenth of an idle door's memory, and few doors ever carry an upload or an administrator's call.
    ...["proxy/attendants/gate.ts", "proxy/lanes/upload.ts"],
  ];
  const late = productionSources.filter((file) => /\bimport\(/.test(withoutComments(read(file))));
  expect(late.filter((file) => !mayImportLate.includes(file))).toEqual([]);
});

test("no closure is assigned to a property where it is written: V8 would make it old (decision 028)", () => {
  const assigned =
    /[\w\])]\.#?\w+ (\?\?|\|\|)?= (async )?(function\b|(\([^()]*\)|\w+)(: [^=]+)? =>)/;
  const found = productionSources.filter((file) => !file.startsWith("tools/"));
  const wrong = found.filter((file) => assigned.test(withoutComments(read(file))));
  expect(wrong).toEqual([]);
});

test("every source opens with a paragraph that says what it is", () => {
  const silent = sources.filter((file) => headOf(file, "//").length < 60 && !hasBlockHead(file));
  expect(silent).toEqual([]);
});

test("tests put nothing in the place of our own modules", () => {
  const call = new RegExp(["\\bvi\\.", "(mock|doMock)\\("].join(""));
  expect(sources.filter((file) => call.test(read(file)))).toEqual([]);
});

test("a script is named by its verb and the number of its keys", () => {
  expect(scripts.length).toBeGreaterThan(0);
  for (const file of scripts) {
    const [, keyCount] = /^[a-z][A-Za-z]*-(\d+)\.lua$/.exec(basename(file)) ?? [];
    expect(keyCount, file).toBeDefined();
    const used = numbersAfter(read(file), "KEYS");
    expect(used, file).toEqual(countTo(Number(keyCount)));
  }
});

test("a script's head tells its keys, its arguments and what it returns", () => {
  for (const file of scripts) {
    const head = headOf(file, "--");
    const body = read(file).slice(read(file).indexOf("\n\n"));
    for (const kind of ["KEYS", "ARGV"]) {
      expect(numbersAfter(head, kind), `${kind} in the head of ${file}`).toEqual(
        numbersAfter(body, kind),
      );
    }
    expect(head, file).toMatch(/\bReturns\b/);
    expect(head.split(/KEYS\[1\]/)[0]?.length, `the sentence of ${file}`).toBeGreaterThan(20);
  }
});

test("a part of scripts says what it is", () => {
  const parts = files.filter((file) => /\/scripts\/.+\/.+\.lua$/.test(file));
  expect(parts.filter((file) => headOf(file, "--").length < 20)).toEqual([]);
});

test("every key says its type, its writers and its end", () => {
  const verbs = new Set(scripts.map((file) => basename(file).replace(/-\d+\.lua$/, "")));
  // A library that brings scripts of its own.
  verbs.add("redlock");
  for (const [name, { type, holds, writers, expiry }] of Object.entries(keyTable)) {
    expect(
      [type, holds, expiry].every((text) => text.length > 3),
      name,
    ).toBe(true);
    expect(writers.length, name).toBeGreaterThan(0);
    expect(
      writers.filter((writer) => !verbs.has(writer)),
      `writers of ${name}`,
    ).toEqual([]);
  }
});

test("docs/options.md says what the option tables say (npm run docs writes it)", () => {
  expect(read("docs/options.md")).toBe(optionsPage(documentedCommands()));
});

test("every option is told in a sentence, under one name", () => {
  for (const { name, options } of documentedCommands()) {
    const rows = Object.values(options);
    for (const row of rows) {
      expect(row.description, `${name} --${row.name}`).toMatch(/^[A-Z].*[.)]$/s);
    }
    expect(new Set(rows.map((row) => row.name)).size, name).toBe(rows.length);
  }
});

test("every decision is linked", () => {
  const pages = files.filter((file) => file.endsWith(".md"));
  const decisions = pages.filter((file) => /^docs\/decisions\/\d/.test(file));
  const orphans = decisions.filter(
    (file) => !pages.some((page) => page !== file && read(page).includes(basename(file))),
  );
  expect(decisions.filter((file) => !/\/\d{3}-[a-z0-9-]+\.md$/.test(file))).toEqual([]);
  expect(orphans).toEqual([]);
});

test("what pages link to is there", () => {
  const wrong = files
    .filter((file) => file.endsWith(".md"))
    .flatMap((page) =>
      [...read(page).matchAll(/\]\((?![a-z]+:|#)([^)#\s]+)/g)]
        .map(([, target = ""]) => normalize(join(dirname(page), target)))
        .filter((target) => !existsSync(join(root, target)))
        .map((target) => `${page} links to ${target}`),
    );
  expect(wrong).toEqual([]);
});

test("no line is longer than 140 characters", () => {
  const kept = /\.(ts|mjs|lua|sh|yaml|yml)$|^(Dockerfile|\.ci\/run)$/;
  const long = files
    .filter((file) => kept.test(file))
    .flatMap((file) =>
      read(file)
        .split("\n")
        .flatMap((line, index) => (line.length > 140 ? [`${file}:${index + 1}`] : [])),
    );
  expect(long).toEqual([]);
});

test("nothing is left for later, and nothing of a machine is in the tree", () => {
  // In pieces, so that this file does not find itself.
  const words = ["TO" + "DO", "FIX" + "ME", "X" + "XX"].map((word) => `\\b${word}\\b`);
  const places = [
    "/wo" + "rk/",
    "(?<![.\\w])/ro" + "ot/",
    "\\.\\./sha" + "red",
    "regis" + "try\\.npm",
  ];
  const pattern = new RegExp([...words, ...places].join("|"));
  const found = files.flatMap((file) =>
    read(file)
      .split("\n")
      .flatMap((line, index) =>
        pattern.test(line) ? [`${file}:${index + 1}: ${line.trim()}`] : [],
      ),
  );
  expect(found).toEqual([]);
});

test("the lock file names no place to fetch from", () => {
  expect(read("package-lock.json")).not.toContain('"resolved"');
});

// ---- Reading the tree ---------------------------------------------------------------------------------

/** Text files that git knows or would take, without those deleted since. */
function treeFiles(): string[] {
  const listing = execFileSync(
    "git",
    ["ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    { cwd: root, encoding: "utf8" },
  );
  return [...new Set(listing.split("\0"))]
    .filter((file) => file !== "" && existsSync(join(root, file)))
    .filter((file) => !isBinary(file))
    .toSorted();
}

function isBinary(file: string): boolean {
  return readFileSync(join(root, file)).subarray(0, 8000).includes(0);
}

function read(file: string): string {
  return readFileSync(join(root, file), "utf8");
}

/** The comment at the top, after a `#!` line, as one text without the comment signs. */
function headOf(file: string, sign: string): string {
  const lines = read(file).split("\n");
  const start = lines[0]?.startsWith("#!") ? 1 : 0;
  const end = lines.findIndex((line, index) => index >= start && !line.startsWith(sign));
  return lines
    .slice(start, end === -1 ? lines.length : end)
    .map((line) => line.slice(sign.length).trim())
    .join("\n");
}

/** The other way to write a head: a block comment before everything else. */
function hasBlockHead(file: string): boolean {
  const [, words = ""] = /^\/\*\*(.*?)\*\//s.exec(read(file)) ?? [];
  return words.length >= 60;
}

interface Import {
  /** Path from the root. */
  readonly target: string;
  readonly isType: boolean;
}

/** What a source imports from the tree, late imports too. */
function importsOf(file: string): Import[] {
  const text = withoutComments(read(file));
  const found: Import[] = [];
  for (const [, words = "", path = ""] of text.matchAll(
    /^(?:import|export)\b([^;"']*?)\bfrom\s*["'](\.[^"']+)["']/gm,
  )) {
    found.push({ target: targetOf(file, path), isType: isTypeOnly(words) });
  }
  for (const [, path = ""] of text.matchAll(/\bimport\s*\(?\s*["'](\.[^"']+)["']/g)) {
    found.push({ target: targetOf(file, path), isType: false });
  }
  return found;
}

/** `import type {…}`, or braces in which every name says `type`. */
function isTypeOnly(words: string): boolean {
  if (/^\s*type\s/.test(words)) return true;
  const [, names] = /^\s*\{([^}]*)\}\s*$/.exec(words) ?? [];
  return names?.split(",").every((name) => /^\s*(type\s|$)/.test(name)) ?? false;
}

function targetOf(file: string, path: string): string {
  return normalize(join(dirname(file), path));
}

/** Whole lines of comment only: a string may well hold two slashes. */
function withoutComments(text: string): string {
  return text.replace(/^\s*(\/\/|\*|\/\*).*$/gm, "");
}

function numbersAfter(text: string, name: string): number[] {
  const numbers = [...text.matchAll(new RegExp(`${name}\\[(\\d+)\\]`, "g"))].map(([, n]) =>
    Number(n),
  );
  return [...new Set(numbers)].toSorted((left, right) => left - right);
}

function countTo(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index + 1);
}

/** Every cycle found by walking down from each file, as `a -> b -> a`. */
function cycles(graph: ReadonlyMap<string, readonly string[]>): string[] {
  const found: string[] = [];
  const finished = new Set<string>();
  const walk = (file: string, way: readonly string[]): void => {
    const at = way.indexOf(file);
    if (at !== -1) {
      found.push([...way.slice(at), file].join(" -> "));
      return;
    }
    if (finished.has(file)) return;
    for (const next of graph.get(file) ?? []) walk(next, [...way, file]);
    finished.add(file);
  };
  for (const file of graph.keys()) walk(file, []);
  return found;
}
