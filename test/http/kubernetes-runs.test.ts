// What the manifests start, started: each container's own command with its own words and environment, as a real
// process. Only what Kubernetes would give is put in: addresses, ports that are free here, mounted folders.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { markerName } from "../../sidecar/seed/target.ts";
import { type StandIn, startStandIn } from "../support/jellyfin/start.ts";
import {
  type Container,
  containersOf,
  ensureKubectl,
  type Manifest,
  named,
  podOf,
  render,
} from "../support/manifests.ts";
import { freePort } from "../support/redis.ts";
import { makeServer, serverId, treeOf } from "../support/server-folders.ts";
import { until } from "../support/viewer.ts";
import { emptyFolder } from "./sidecar-cluster.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const scripts = join(root, "k8s/base/core");
const folder = mkdtempSync(join(tmpdir(), "jellybloom-kubernetes-"));
const media = emptyFolder();
const running: ChildProcess[] = [];
let manifests: readonly Manifest[] = [];
let server: StandIn;
let ports: Readonly<Record<string, number>> = {};
let proxy: Running;

beforeAll(async () => {
  ensureKubectl();
  manifests = render("base");
  server = await startStandIn({
    name: "jellyfin-0",
    mediaDir: media.path,
    // As the manifests' first steps ask for: without it a door refuses to start.
    knownProxies: ["10.0.0.0/8"],
  });
  ports = {
    8096: Number(new URL(server.url).port),
    8090: await freePort(),
    8080: await freePort(),
    8081: await freePort(),
    6379: await freePort(),
  };
  for (const name of ["secrets", "settings", "stop", "tmp", "data", "tasks", "bin"])
    mkdirSync(join(folder, name));
  writeFileSync(
    join(folder, "secrets/redis-url"),
    `redis://:${"0123456789abcdef".repeat(2)}@127.0.0.1:${ports[6379]}/0`,
  );
  writeFileSync(join(folder, "secrets/cluster-key"), "a-key-of-the-whole-cluster\n");
  writeFileSync(join(folder, "secrets/jellyfin-api-key"), server.apiKey);
  const settings = readFileSync(join(scripts, "redis.conf"), "utf8")
    .replace("port 6379", `port ${ports[6379]}\nbind 127.0.0.1`)
    .replace("dir /data", `dir ${join(folder, "data")}`);
  writeFileSync(join(folder, "settings/redis.conf"), settings);
  symlinkSync(join(scripts, "redis.sh"), join(folder, "settings/redis.sh"));
  symlinkSync(join(root, "cli/jellybloom.mjs"), join(folder, "bin/jellybloom"));
  // The probes ask the port that Redis has in its pod.
  const client = `#!/bin/sh\nPATH=\${PATH#*:}\nexec redis-cli -p ${ports[6379]} "$@"\n`;
  writeFileSync(join(folder, "bin/redis-cli"), client, { mode: 0o755 });
}, 600_000);

afterAll(async () => {
  for (const child of running) child.kill("SIGKILL");
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
  media.remove();
});

const places: Readonly<Record<string, string>> = {
  "/run/secrets/jellybloom": join(folder, "secrets"),
  "/etc/jellybloom": join(folder, "settings"),
  "/run/stop": join(folder, "stop"),
  "/data": join(folder, "tasks"),
  "/tmp": join(folder, "tmp"),
  "/scripts": scripts,
};

/** Paths and ports of a pod become those of this machine, in one pass: the new ones look like the old. */
function here(text: string): string {
  return text.replaceAll(
    /(\/run\/secrets\/jellybloom|\/etc\/jellybloom|\/run\/stop|\/data|\/tmp|\/scripts)(?=[/ ]|$)|:(8096|8090|8081|8080)\b/g,
    (_, path, port) => (path === undefined ? `:${ports[port]}` : (places[path] ?? path)),
  );
}

function container(workload: string, name: string): Container {
  const kind = workload === "proxy" ? "Deployment" : "StatefulSet";
  const spec = podOf(named(manifests, kind, workload))?.spec;
  const found = spec && containersOf(spec).find((one) => one.name === name);
  if (found === undefined) throw new Error(`${workload} has no container ${name}`);
  return found;
}

/** The environment which Kubernetes gives a container, over a bare one. */
function environmentOf({ env = [] }: Container): Record<string, string> {
  const settings =
    manifests.find(({ metadata }) => metadata.name.startsWith("settings-"))?.data ?? {};
  const fields: Record<string, string> = {
    "metadata.name": "jellyfin-0",
    "metadata.namespace": "jellybloom",
    "metadata.uid": "6a2e0c1c-0b1f-4a53-9d7e-2f0f6b1f0c11",
    "status.podIP": "127.0.0.1",
  };
  const path = [join(folder, "bin"), dirname(process.execPath), process.env.PATH].join(delimiter);
  const environment: Record<string, string> = { PATH: path };
  for (const { name, value, valueFrom } of env) {
    const given =
      value ??
      fields[valueFrom?.fieldRef?.fieldPath ?? ""] ??
      settings[valueFrom?.configMapKeyRef?.key ?? ""] ??
      "";
    environment[name] = here(expanded(given, environment));
  }
  return environment;
}

const expanded = (text: string, environment: Readonly<Record<string, string>>): string =>
  text.replaceAll(/\$\((\w+)\)/g, (whole, name) => environment[name] ?? whole);

interface Running {
  readonly child: ChildProcess;
  readonly said: () => string;
  /** The exit code. */
  readonly ended: Promise<number | null>;
}

function start(words: readonly string[], env: Readonly<Record<string, string>>): Running {
  const [command = "", ...args] = words;
  const child = spawn(command, args, { env, cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  running.push(child);
  let said = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      said += chunk.toString();
    });
  }
  const ended = once(child, "close").then(([code]) => code as number | null);
  return { child, said: () => said, ended };
}

/** A container's program: its command, or the image's own. */
function startContainer(workload: string, name: string): Running {
  const part = container(workload, name);
  const { command = ["jellybloom"], args = [] } = part;
  const environment = environmentOf(part);
  return start(
    [...command, ...args].map((word) => here(expanded(word, environment))),
    environment,
  );
}

/** A hook's or probe's command in a container. */
function execute(of: Container, command: readonly string[]): Running {
  return start(command.map(here), environmentOf(of));
}

async function statusOf(of: Container, path: string, port: string | number): Promise<number> {
  const number = of.ports?.find(({ name }) => name === port)?.containerPort ?? port;
  const url = `http://127.0.0.1:${ports[number] ?? number}${path}`;
  return await fetch(url).then(
    async (reply) => await reply.text().then(() => reply.status),
    () => 0,
  );
}

/** What `jellybloom status` in a proxy's container says of the one server. */
async function isDrained(): Promise<boolean> {
  const part = container("proxy", "proxy");
  const admin = `http://127.0.0.1:${ports[8081]}`;
  const asked = start(["jellybloom", "status", "--json"], {
    JELLYBLOOM_ADMIN: admin,
    ...environmentOf(part),
  });
  await asked.ended;
  const { replicas } = JSON.parse(asked.said()) as { replicas: { name: string; drain: unknown }[] };
  expect(replicas.map(({ name }) => name)).toEqual(["jellyfin-0"]);
  return replicas[0]?.drain !== null;
}

async function expectProbes(of: Container): Promise<void> {
  for (const probe of [of.startupProbe, of.livenessProbe, of.readinessProbe]) {
    if (probe?.httpGet !== undefined) {
      const { path, port } = probe.httpGet;
      await until(
        15_000,
        `${of.name} ${path}`,
        async () => (await statusOf(of, path, port)) === 200,
      );
    }
    if (probe?.exec !== undefined) {
      const { command } = probe.exec;
      await until(15_000, command.join(" "), async () => (await execute(of, command).ended) === 0);
    }
  }
}

describe("the pods of base", () => {
  let redis: Running;
  let sidecar: Running;
  /** It waits some seconds before it is sure that nobody drains, and others go on meanwhile. */
  let alone: Promise<number | null>;
  let aloneMs = 0;

  beforeAll(() => {
    const startMs = performance.now();
    const part = container("jellyfin", "jellyfin");
    alone = execute(part, part.lifecycle?.preStop?.exec.command ?? []).ended.then((code) => {
      aloneMs = performance.now() - startMs;
      return code;
    });
  });

  test("Redis starts with its settings and the password of its address, and its probes hold", async () => {
    redis = startContainer("redis", "redis");
    const part = container("redis", "redis");
    await expectProbes(part);
    const ask = (script: string) =>
      spawnSync("sh", ["-c", script], { env: environmentOf(part), encoding: "utf8" });
    const secret = `REDISCLI_AUTH=$(sed -n 's/^requirepass //p' ${join(folder, "tmp/redis.conf")})`;
    const told = ask(
      `${secret} redis-cli config get maxmemory-policy; ${secret} redis-cli config get appendonly`,
    );
    expect(told.stdout).toMatch(/noeviction\nappendonly\nyes/);
    expect(ask("redis-cli config get appendonly").stdout).toContain("NOAUTH");
  });

  test("Redis does not start without a password", async () => {
    const bare = join(folder, "secrets/bare");
    for (const url of [
      "redis://redis:6379/0",
      "redis://:short@redis:6379/0",
      "rediss://redis:6379/0",
    ]) {
      writeFileSync(bare, url);
      const made = join(folder, "tmp/never.conf");
      const refused = start(
        ["sh", join(scripts, "redis.sh"), join(folder, "settings/redis.conf"), bare, made],
        environmentOf(container("redis", "redis")),
      );
      expect(await refused.ended).toBe(1);
      expect(refused.said()).toContain("redis-url must be");
      expect(existsSync(made)).toBe(false);
    }
  });

  test("a server answers what its probes ask", async () => {
    await expectProbes(container("jellyfin", "jellyfin"));
  });

  test("a sidecar starts with the words of the manifest, and its probes and numbers are there", async () => {
    sidecar = startContainer("jellyfin", "sidecar");
    const part = container("jellyfin", "sidecar");
    await expectProbes(part).catch((error: unknown) => {
      throw new Error(sidecar.said(), { cause: error });
    });
    expect(await statusOf(part, "/metrics", "sidecar")).toBe(200);
  });

  test("a proxy starts with the words of the manifest, finds the server, and serves", async () => {
    proxy = startContainer("proxy", "proxy");
    const part = container("proxy", "proxy");
    await expectProbes(part).catch((error: unknown) => {
      throw new Error(proxy.said(), { cause: error });
    });
    expect(await statusOf(part, "/metrics", "admin")).toBe(200);
    expect(await statusOf(part, "/System/Info/Public", "http")).toBe(200);
  });

  test("a command in a container that is there needs no words more", async () => {
    for (const [workload, name] of [
      ["jellyfin", "sidecar"],
      ["proxy", "proxy"],
    ] as const) {
      const part = container(workload, name);
      const environment = environmentOf(part);
      const asked = start(["jellybloom", "undrain", ...(name === "proxy" ? ["jellyfin-0"] : [])], {
        JELLYBLOOM_ADMIN: `http://127.0.0.1:${ports[8081]}`,
        ...environment,
      });
      expect(await asked.ended, asked.said()).toBe(0);
    }
  });

  test("a server that is restarted alone waits for nobody", async () => {
    expect(await alone).toBe(0);
    expect(aloneMs).toBeLessThan(10_000);
  });

  test("a pod that ends: the sidecar drains, and the server waits for that and no longer", async () => {
    const stop = container("jellyfin", "sidecar").lifecycle?.preStop?.exec.command ?? [];
    const wait = container("jellyfin", "jellyfin").lifecycle?.preStop?.exec.command ?? [];
    const drains = execute(container("jellyfin", "sidecar"), stop);
    const waits = execute(container("jellyfin", "jellyfin"), wait);
    await waits.ended;
    expect(existsSync(join(folder, "stop/drained")), drains.said()).toBe(true);
    expect(await drains.ended).toBe(0);
    expect(drains.said()).toContain("jellyfin-0");
    expect(await isDrained()).toBe(true);
    const clear = container("jellyfin", "sidecar").lifecycle?.postStart?.exec.command ?? [];
    await execute(container("jellyfin", "sidecar"), clear).ended;
    expect(existsSync(join(folder, "stop/draining"))).toBe(false);
  });

  test("a sidecar that starts again gives the server its people back", async () => {
    sidecar.child.kill("SIGTERM");
    expect(await sidecar.ended).toBe(0);
    sidecar = startContainer("jellyfin", "sidecar");
    await expectProbes(container("jellyfin", "sidecar"));
    await until(15_000, "the order's end", async () => !(await isDrained()));
    expect(await statusOf(container("proxy", "proxy"), "/System/Info/Public", "http")).toBe(200);
  });

  test("without Redis everything lives on; only the sidecar's pod is not ready", async () => {
    redis.child.kill("SIGKILL");
    await redis.ended;
    const part = container("jellyfin", "sidecar");
    const ready = part.readinessProbe?.httpGet?.path ?? "";
    await until(15_000, "not ready", async () => (await statusOf(part, ready, "sidecar")) === 503);
    expect(await statusOf(part, part.livenessProbe?.httpGet?.path ?? "", "sidecar")).toBe(200);
    const front = container("proxy", "proxy");
    expect(await statusOf(front, front.livenessProbe?.httpGet?.path ?? "", "admin")).toBe(200);
    expect(await statusOf(front, front.readinessProbe?.httpGet?.path ?? "", "admin")).toBe(200);
    expect(await statusOf(front, "/System/Info/Public", "http")).toBe(200);
  });

  test("a proxy that ends says so first, and goes on serving meanwhile", async () => {
    const part = container("proxy", "proxy");
    proxy.child.kill("SIGTERM");
    await until(
      3000,
      "not ready",
      async () => (await statusOf(part, "/jellybloom/ready", "admin")) === 503,
    );
    expect(await statusOf(part, "/System/Info/Public", "http")).toBe(200);
  });
});

describe("the copies", () => {
  const place = (name: string): string => join(folder, name);
  const environment = (pod: string, first: "import" | "new"): Record<string, string> => ({
    ...environmentOf(container("jellyfin", "seed")),
    POD_NAME: pod,
    FIRST_SERVER: first,
  });
  const fill = (volume: string, pod: string, first: "import" | "new" = "import"): Running => {
    mkdirSync(volume, { recursive: true });
    const { command = [] } = container("jellyfin", "seed");
    const words = command.map((word) =>
      word === "/config" ? volume : word === "/seed/jellyfin" ? place("seed/jellyfin") : here(word),
    );
    return start(words, environment(pod, first));
  };

  test("an empty volume waits for a snapshot, unless it is the first of a new cluster", async () => {
    mkdirSync(place("seed"));
    const second = fill(place("b"), "jellyfin-1", "new");
    await until(5000, "waiting", () => second.said().includes("jellyfin-1 waits for a snapshot"));
    const first = fill(place("a"), "jellyfin-0", "new");
    expect(await first.ended).toBe(0);
    expect(first.said()).toContain("starts as a new server");
    const imports = fill(place("a"), "jellyfin-0", "import");
    await until(5000, "waiting", () => imports.said().includes("waits for a snapshot"));
    for (const waiting of [second, imports]) {
      waiting.child.kill("SIGTERM");
      expect(await waiting.ended).toBe(143);
    }
  });

  test("a snapshot of a server fills the next one's volume, once", async () => {
    const donor = place("donor");
    makeServer(donor, join(donor, "config"), { seenAs: "/config" });
    const snapshot = () =>
      start(
        ["sh", join(scripts, "snapshot.sh"), donor, place("seed")],
        environmentOf(container("jellyfin", "seed")),
      );
    const first = snapshot();
    expect(await first.ended, first.said()).toBe(0);
    expect(existsSync(place("seed/next"))).toBe(false);

    const fills = fill(place("b"), "jellyfin-1");
    expect(await fills.ended, fills.said()).toBe(0);
    expect(readFileSync(place("b/data/device.txt"), "utf8")).toContain(serverId);
    expect(existsSync(place(`b/${markerName}`))).toBe(false);
    const before = treeOf(place("b"));
    const again = fill(place("b"), "jellyfin-1");
    expect(await again.ended).toBe(0);
    expect(again.said()).toContain("holds a server: nothing to do");
    expect(treeOf(place("b"))).toEqual(before);

    // A later one takes its place, also when an earlier one was whole and never put there.
    mkdirSync(place("seed/next"));
    const later = snapshot();
    expect(await later.ended, later.said()).toBe(0);
    expect(existsSync(place("seed/jellyfin/data/device.txt"))).toBe(true);
    expect(existsSync(place("seed/former"))).toBe(false);
  });

  test("a copy that was interrupted is gone on with, and a half snapshot is not taken", async () => {
    const volume = place("c");
    mkdirSync(join(volume, ".jellybloom-seed"), { recursive: true });
    writeFileSync(join(volume, markerName), "");
    const gone = fill(volume, "jellyfin-2");
    expect(await gone.ended, gone.said()).toBe(0);
    expect(existsSync(join(volume, markerName))).toBe(false);
    writeFileSync(place(`seed/jellyfin/${markerName}`), "");
    const waits = fill(place("d"), "jellyfin-3");
    await until(5000, "waiting", () => waits.said().includes("waits for a snapshot"));
    waits.child.kill("SIGTERM");
    await waits.ended;
  });
});

test("a proxy that was told to end ends with 0", async () => {
  expect(await proxy.ended).toBe(0);
});
