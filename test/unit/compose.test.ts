// compose.yaml, read as text: what it promises is held here without a parser for YAML, so the file keeps to
// a plain shape (two spaces a level, one entry a line), and this says so when it does not.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { upOptions, upRules } from "../../cli/options.ts";
import { seedOptions, seedRules } from "../../cli/seed.ts";
import { readOptions } from "../../core/service/options.ts";

const root = new URL("../../", import.meta.url);
const compose = readFileSync(new URL("compose.yaml", root), "utf8");
const manual = readFileSync(new URL("docs/seeding.md", root), "utf8");

/** The lines under a key of two spaces (a service), or of none (a section), without comments. */
function blockOf(text: string, key: string): string {
  const lines = text.split("\n").filter((line) => !/^\s*#/.test(line));
  const start = lines.findIndex((line) => line.trimEnd() === `${key}:`);
  const depth = /^ */.exec(key)?.[0].length ?? 0;
  const end = lines.findIndex(
    (line, index) =>
      index > start && line.trim() !== "" && (/^ */.exec(line)?.[0].length ?? 0) <= depth,
  );
  return start < 0 ? "" : lines.slice(start + 1, end < 0 ? undefined : end).join("\n");
}

const service = (name: string): string => blockOf(blockOf(compose, "services"), `  ${name}`);
const listOf = (block: string, key: string): string[] =>
  [...blockOf(block, `    ${key}`).matchAll(/^\s*- (.*)$/gm)].map(([, entry]) => entry ?? "");
/** `${NAME:-default}` and `${NAME:?why}` become what they stand for. */
const filled = (text: string): string =>
  text.replace(/\$\{(\w+)(?::([-?])([^}]*))?\}/g, (_, name, kind, rest) =>
    kind === "-" ? rest : name === "PUBLIC_URL" ? "http://192.168.1.10:8096" : `/given/${name}`,
  );

describe("compose.yaml", () => {
  test("has the plain shape that it is read by", () => {
    expect(compose).not.toContain("\t");
    const odd = compose.split("\n").filter((line) => (/^ */.exec(line)?.[0].length ?? 0) % 2 === 1);
    expect(odd).toEqual([]);
    const names = [...blockOf(compose, "services").matchAll(/^ {2}([\w-]+):$/gm)].map(
      ([, name]) => name,
    );
    expect(names).toEqual(["jellyfin-a", "jellyfin-b", "door", "seed"]);
  });

  test("the servers share nothing but media, which they may only read", () => {
    const [a, b] = ["jellyfin-a", "jellyfin-b"].map((name) =>
      listOf(service(name), "volumes").map(filled),
    );
    const shared = a?.filter((volume) => b?.includes(volume));
    expect(shared).toEqual(["/given/MEDIA:/media:ro"]);
    for (const [volumes, name] of [
      [a, "a"],
      [b, "b"],
    ] as const) {
      expect(volumes?.map((volume) => volume.split(":")[1])).toEqual([
        "/config",
        "/cache",
        "/media",
      ]);
      expect(volumes).toContain(`cache-${name}:/cache`);
    }
  });

  test("both servers run one version and nobody reaches them but the door", () => {
    const images = ["jellyfin-a", "jellyfin-b"].map(
      (name) => /image: (.*)/.exec(service(name))?.[1],
    );
    expect(new Set(images).size).toBe(1);
    expect(images[0]).toMatch(/^jellyfin\/jellyfin:\$\{JELLYFIN_TAG:-\d+\.\d+\.\d+\}$/);
    for (const name of ["jellyfin-a", "jellyfin-b", "seed"]) {
      expect(service(name)).not.toMatch(/^ {4}(ports|network_mode: host)/m);
    }
    expect(listOf(service("door"), "ports").map(filled)).toEqual(["8096:8080"]);
  });

  test("a server that only answers is not yet healthy", () => {
    expect(service("jellyfin-a")).toContain("healthcheck: &jellyfin-health");
    expect(service("jellyfin-a")).toContain("/health | grep --quiet --line-regexp Healthy");
    expect(service("jellyfin-b")).toContain("healthcheck: *jellyfin-health");
    expect(service("door")).toContain("/jellybloom/ready");
  });

  test("the door's command is one that the door understands, with its secrets from files", () => {
    const [command, ...argv] = listOf(service("door"), "command").map(filled);
    expect(command).toBe("up");
    const secrets = listOf(service("door"), "secrets");
    expect(secrets.length === 0 ? service("door") : "").toContain(
      "secrets: [jellyfin-api-key, cluster-key]",
    );
    const read = readOptions(upOptions, upRules, {
      argv,
      env: {},
      readFile: (path) => {
        expect(path).toMatch(/^\/run\/secrets\/(jellyfin-api-key|cluster-key)$/);
        return "0123456789abcdef";
      },
    });
    expect(read).toMatchObject({ kind: "config", config: { data: "/data" } });
  });

  test("seed copies server a's folder, which it may only read, to server b's", () => {
    const argv = /entrypoint: \[(.*)\]/.exec(service("seed"))?.[1]?.split(", ").slice(3) ?? [];
    const read = readOptions(seedOptions, seedRules, { argv, env: {}, readFile: () => "" });
    expect(read).toMatchObject({ kind: "config", config: { from: "/seed/from", to: "/seed/to" } });
    const volumes = listOf(service("seed"), "volumes").map(filled);
    expect(volumes).toEqual(["/given/JELLYFIN_A_CONFIG:/seed/from:ro", "config-b:/seed/to"]);
    expect(listOf(service("jellyfin-b"), "volumes").map(filled)).toContain("config-b:/config");
    expect(service("seed")).toContain("profiles: [seed]");
  });

  test("every volume that is used is declared, and every variable is in the manual", () => {
    const used = [...compose.matchAll(/- (?:\$\{\w+:-)?([a-z][\w-]*)\}?:\//g)].map(
      ([, name]) => name,
    );
    for (const name of used) expect(blockOf(compose, "volumes")).toContain(`  ${name}:`);
    const variables = new Set([...compose.matchAll(/\$\{(\w+)/g)].map(([, name]) => name));
    for (const name of variables) expect(manual).toContain(`\`${name}\``);
  });
});

describe("docs/seeding.md", () => {
  test("needs at most six commands, in containers and without", () => {
    const scripts = [...manual.matchAll(/```sh\n(.*?)```/gs)].map(([, text]) =>
      text?.trim().split("\n"),
    );
    expect(scripts).toHaveLength(2);
    for (const lines of scripts) expect(lines?.length).toBeLessThanOrEqual(6);
  });

  test("its commands have only options that there are", () => {
    const lines = manual.split("\n").filter((line) => /npx jellybloom/.test(line));
    expect(lines).toHaveLength(2);
    for (const line of lines) {
      const [, command, rest = ""] = /npx jellybloom (\w+) (.*)/.exec(line) ?? [];
      const argv = rest.split(" ").map((word) => word.replaceAll("'", ""));
      const words = argv.join(" ").replace("THE API KEY", "KEY").split(" ");
      const sources = { argv: words, env: {}, readFile: () => "" };
      const read =
        command === "seed"
          ? readOptions(seedOptions, seedRules, sources)
          : readOptions(upOptions, upRules, sources);
      expect(read).toMatchObject({ kind: "config" });
    }
  });
});
