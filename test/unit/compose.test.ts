// compose.yaml and docs/seeding.md: what they promise is held here. There is no engine for containers where
// tests run, so the file is read, and what it would start is read by our own programs.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import {
  proxyOptions,
  proxyRules,
  reseedOptions,
  reseedRules,
  seedOptions,
  seedRules,
  sidecarOptions,
  sidecarRules,
  upOptions,
  upRules,
} from "../../cli/options.ts";
import { readOptions } from "../../core/service/options.ts";

const root = new URL("../../", import.meta.url);
const text = readFileSync(new URL("compose.yaml", root), "utf8");
const manual = readFileSync(new URL("docs/seeding.md", root), "utf8");

interface Service {
  readonly image: string;
  readonly build?: string;
  readonly user?: string;
  readonly hostname?: string;
  readonly command?: readonly string[];
  readonly entrypoint?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly volumes?: readonly string[];
  readonly secrets?: readonly string[];
  readonly ports?: readonly string[];
  readonly networks?: readonly string[] | Readonly<Record<string, unknown>>;
  readonly network_mode?: string;
  readonly profiles?: readonly string[];
  readonly healthcheck?: { readonly test: readonly string[] };
  readonly read_only?: boolean;
  readonly cap_drop?: readonly string[];
  readonly security_opt?: readonly string[];
}

interface Compose {
  readonly services: Readonly<Record<string, Service>>;
  readonly volumes: Readonly<Record<string, unknown>>;
  readonly secrets: Readonly<Record<string, { readonly file: string }>>;
}

const compose: Compose = parse(text, { merge: true });

function service(name: string): Service {
  const found = compose.services[name];
  if (found === undefined) throw new Error(`compose.yaml has no service ${name}`);
  return found;
}

/** `${NAME:-default}` and `${NAME:?why}` become what they stand for. */
const filled = (given: string): string =>
  given.replace(/\$\{(\w+)(?::([-?])([^}]*))?\}/g, (_, name, kind, rest) =>
    kind === "-" ? rest : name === "PUBLIC_URL" ? "http://192.168.1.10:8096" : `/given/${name}`,
  );

const volumesOf = (name: string): string[] => (service(name).volumes ?? []).map(filled);

/** What a service's command and environment come to; every secret must be a file it was given. */
function readCommand(name: string) {
  const { command = [], environment = {}, secrets = [] } = service(name);
  const [program, ...argv] = command.map(filled);
  const sources = {
    argv,
    env: environment,
    readFile: (path: string) => {
      expect(secrets.map((secret) => `/run/secrets/${secret}`)).toContain(path);
      return path.endsWith("redis-url") ? "redis://:secret@redis:6379/0" : "0123456789abcdef";
    },
  };
  const read =
    program === "sidecar"
      ? readOptions(sidecarOptions, sidecarRules, sources)
      : readOptions(proxyOptions, proxyRules, sources);
  return { program, read };
}

const ours = ["sidecar-a", "sidecar-b", "door"];

describe("compose.yaml", () => {
  test("has two servers, a sidecar for each, Redis, the door, and seed", () => {
    const servers = ["jellyfin-a", "jellyfin-b"];
    expect(Object.keys(compose.services)).toEqual([
      ...servers,
      "sidecar-a",
      "sidecar-b",
      "redis",
      "door",
      "seed",
    ]);
  });

  test("the servers share nothing but media, which they may only read", () => {
    const a = volumesOf("jellyfin-a");
    const b = volumesOf("jellyfin-b");
    expect(a.filter((volume) => b.includes(volume))).toEqual(["/given/MEDIA:/media:ro"]);
    for (const [volumes, name] of [[a, "a"] as const, [b, "b"] as const]) {
      expect(volumes.map((volume) => volume.split(":")[1])).toEqual([
        "/config",
        "/cache",
        "/media",
      ]);
      expect(volumes).toContain(`cache-${name}:/cache`);
    }
  });

  test("both servers run one version and nobody reaches them but the door and the sidecars", () => {
    const images = new Set(["jellyfin-a", "jellyfin-b"].map((name) => service(name).image));
    expect([...images]).toEqual([
      expect.stringMatching(/^jellyfin\/jellyfin:\$\{JELLYFIN_TAG:-\d+\.\d+\.\d+\}$/),
    ]);
    for (const [name, { ports, network_mode: mode }] of Object.entries(compose.services)) {
      expect(mode === "host", name).toBe(false);
      expect(ports?.map(filled), name).toEqual(name === "door" ? ["8096:8080"] : undefined);
    }
  });

  test("no image floats", () => {
    for (const [name, { image, build }] of Object.entries(compose.services)) {
      if (build !== undefined) expect(image, name).toBe("jellybloom");
      else expect(filled(image), name).toMatch(/:\d+\.\d+\.\d+(-[a-z]+)?$/);
    }
  });

  test("a server that only answers is not yet healthy, and ours say ready of themselves", () => {
    for (const name of ["jellyfin-a", "jellyfin-b"]) {
      const words = service(name).healthcheck?.test.join(" ");
      expect(words).toContain("/health | grep --quiet --line-regexp Healthy");
    }
    for (const name of ours) {
      expect(service(name).healthcheck?.test.join(" "), name).toContain("/jellybloom/ready");
    }
  });

  test.each(ours)(
    "the command of %s is one that it understands, with its secrets from files",
    (name) => {
      const { program, read } = readCommand(name);
      expect(program).toBe(name === "door" ? "proxy" : "sidecar");
      expect(read.kind === "mistakes" ? read.mistakes : []).toEqual([]);
      expect(read).toMatchObject({ config: { redis: "redis://:secret@redis:6379/0" } });
    },
  );

  test.each(["a", "b"])("sidecar-%s stands beside its own server and says where it is", (name) => {
    const { hostname, environment } = service(`sidecar-${name}`);
    expect(readCommand(`sidecar-${name}`).read).toMatchObject({
      config: {
        name,
        jellyfin: { origin: `http://jellyfin-${name}:8096` },
        listen: { host: `sidecar-${name}`, port: 8090 },
        taskData: "/data",
      },
    });
    expect(hostname).toBe(`sidecar-${name}`);
    expect(volumesOf(`sidecar-${name}`)).toEqual([`tasks-${name}:/data`]);
    expect(environment).toMatchObject({ JELLYBLOOM_ADMIN: `http://sidecar-${name}:8090` });
  });

  test("ours run as nobody in particular on a root they cannot write", () => {
    for (const name of ours) {
      expect(service(name), name).toMatchObject({ read_only: true, cap_drop: ["ALL"] });
      expect(service(name).security_opt, name).toEqual(["no-new-privileges:true"]);
      expect(service(name).user, name).toBeUndefined();
    }
  });

  test("only the sidecars have the servers' key", () => {
    const holders = Object.entries(compose.services)
      .filter(([, { secrets = [] }]) => secrets.includes("jellyfin-api-key"))
      .map(([name]) => name);
    expect(holders).toEqual(["sidecar-a", "sidecar-b"]);
    expect(service("redis").secrets).toEqual(["redis-url"]);
    for (const { file } of Object.values(compose.secrets)) {
      expect(filled(file)).toMatch(/^\.\/secrets\/[a-z-]+$/);
    }
  });

  test("Redis starts with the settings that the manifests use, too", () => {
    const { command = [], volumes = [] } = service("redis");
    const files = volumes.filter((volume) => volume.startsWith("./"));
    for (const file of files) {
      const [path = "", inside, mode] = file.split(":");
      expect(readFileSync(new URL(path, root), "utf8").length).toBeGreaterThan(0);
      expect(command).toContain(inside);
      expect(mode).toBe("ro");
    }
    expect(files).toHaveLength(2);
    expect(volumes).toContain("store:/data");
  });

  test("seed copies server a's folder, which it may only read, to server b's", () => {
    const argv = service("seed").entrypoint?.slice(3) ?? [];
    const read = readOptions(seedOptions, seedRules, { argv, env: {}, readFile: () => "" });
    expect(read).toMatchObject({ kind: "config", config: { from: "/seed/from", to: "/seed/to" } });
    expect(volumesOf("seed")).toEqual([
      "/given/JELLYFIN_A_CONFIG:/seed/from:ro",
      "config-b:/seed/to",
    ]);
    expect(volumesOf("jellyfin-b")).toContain("config-b:/config");
    expect(service("seed")).toMatchObject({ profiles: ["seed"], network_mode: "none" });
  });

  test("what is used is declared, and every variable is in the manual", () => {
    const named = Object.keys(compose.services)
      .flatMap(volumesOf)
      .map((volume) => volume.split(":")[0] ?? "")
      .filter((volume) => /^[a-z]/.test(volume));
    expect([...new Set(named)].toSorted()).toEqual(Object.keys(compose.volumes).toSorted());
    const given = Object.values(compose.services).flatMap(({ secrets = [] }) => secrets);
    expect([...new Set(given)].toSorted()).toEqual(Object.keys(compose.secrets).toSorted());
    const variables = new Set([...text.matchAll(/(?<!\$)\$\{(\w+)/g)].map(([, name]) => name));
    for (const name of variables) expect(manual).toContain(`\`${name}\``);
  });
});

describe("docs/seeding.md", () => {
  /** The two ways from one server to two; what comes after them is for later days. */
  const scripts = [...manual.matchAll(/```sh\n(.*?)```/gs)]
    .slice(0, 2)
    .map(([, lines = ""]) => lines.trim().split("\n"));

  test("needs at most six commands, in containers and without", () => {
    expect(scripts).toHaveLength(2);
    for (const lines of scripts) expect(lines.length).toBeLessThanOrEqual(6);
  });

  test("its commands have only options that there are", () => {
    const lines = manual.split("\n").filter((line) => /npx jellybloom/.test(line));
    const read = lines.map((line) => {
      const [, command = "", rest = ""] = /npx jellybloom (\w+(?: b)?) (.*)/.exec(line) ?? [];
      const words = rest.replace("THE API KEY", "KEY").match(/'[^']*'|\S+/g) ?? [];
      const argv = words.map((word) => word.replaceAll("'", ""));
      const sources = { argv, env: {}, readFile: () => "k".repeat(64) };
      const { kind } =
        command === "seed"
          ? readOptions(seedOptions, seedRules, sources)
          : command === "up"
            ? readOptions(upOptions, upRules, sources)
            : readOptions(reseedOptions, reseedRules, sources);
      return [command, kind];
    });
    expect(read).toEqual(["seed", "up", "reseed b"].map((command) => [command, "config"]));
  });

  test("makes every secret that compose.yaml asks for, and Redis takes its password from it", () => {
    const [first = []] = scripts;
    for (const { file } of Object.values(compose.secrets)) {
      expect(first.join("\n")).toContain(`> ${filled(file).replace("./", "")}`);
    }
    expect(first.join("\n")).toContain(
      "printf 'redis://:%s@redis:6379/0' \"$(openssl rand -hex 32)\"",
    );
  });
});
