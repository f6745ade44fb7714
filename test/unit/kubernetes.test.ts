// The manifests of k8s/, rendered by kubectl and read: that they say what our programs do (ports, options,
// routes), that whoever must reach whom does and nobody else, and that nothing in them floats, runs as root or
// carries a secret. What they start is started for real in test/http/kubernetes-runs.test.ts.

import { readdirSync, readFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { documentedCommands } from "../../cli/main.ts";
import {
  type DrainConfig,
  drainOptions,
  drainRules,
  leaveOptions,
  leaveRules,
  proxyOptions,
  proxyRules,
  sidecarOptions,
  sidecarRules,
} from "../../cli/options.ts";
import { createMetrics } from "../../core/service/metrics.ts";
import { environmentName, readOptions } from "../../core/service/options.ts";
import {
  type Container,
  containersOf,
  ensureKubectl,
  type Labels,
  type Manifest,
  manifestsOf,
  matches,
  named,
  type PodTemplate,
  podOf,
  render,
  type Selector,
} from "../support/manifests.ts";

const root = new URL("../../", import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), "utf8");
const files = readdirSync(new URL("k8s/", root), { recursive: true, encoding: "utf8" })
  .filter((file) => /\.\w+$/.test(file))
  .map((file) => `k8s/${file}`);

const folders = [
  "base",
  "base/core",
  "overlays/traefik",
  "overlays/ingress",
  "overlays/single-node",
] as const;
type Folder = (typeof folders)[number];
const rendered = new Map<Folder, readonly Manifest[]>();

beforeAll(() => {
  ensureKubectl();
  for (const folder of folders) rendered.set(folder, render(folder));
}, 600_000);

function of(folder: Folder): readonly Manifest[] {
  return rendered.get(folder) ?? [];
}

function pods(folder: Folder): { readonly name: string; readonly pod: PodTemplate }[] {
  return of(folder).flatMap((manifest) => {
    const pod = podOf(manifest);
    return pod === undefined ? [] : [{ name: manifest.metadata.name, pod }];
  });
}

function pod(folder: Folder, name: string): PodTemplate {
  const found = pods(folder).find((one) => one.name === name);
  if (found === undefined) throw new Error(`${folder} makes no pods ${name}`);
  return found.pod;
}

function container(folder: Folder, workload: string, name: string): Container {
  const found = containersOf(pod(folder, workload).spec).find((one) => one.name === name);
  if (found === undefined) throw new Error(`${workload} has no container ${name}`);
  return found;
}

const countOf = (names: readonly string[]): Record<string, number> =>
  Object.fromEntries(
    [...new Set(names)].map((name) => [name, names.filter((one) => one === name).length]),
  );

describe.each(folders)("%s", (folder) => {
  test("renders, each thing once, in one namespace", () => {
    const names = of(folder).map(({ kind, metadata }) => `${kind} ${metadata.name}`);
    expect(names.length).toBeGreaterThan(15);
    expect(Object.values(countOf(names)).every((count) => count === 1)).toBe(true);
    expect(new Set(of(folder).map(({ metadata }) => metadata.namespace))).toEqual(
      new Set(["jellybloom"]),
    );
    // What `kubectl delete -k` removes must hold nobody's files.
    const dangerous = ["Namespace", "PersistentVolume", "PersistentVolumeClaim", "Secret"];
    expect(of(folder).filter(({ kind }) => dangerous.includes(kind))).toEqual([]);
  });

  test("has two servers, each with a sidecar that starts before it, two proxies and Redis", () => {
    expect(named(of(folder), "StatefulSet", "jellyfin").spec.replicas).toBe(2);
    expect(named(of(folder), "Deployment", "proxy").spec.replicas).toBe(2);
    expect(named(of(folder), "StatefulSet", "redis").spec.replicas).toBe(1);
    const { initContainers = [], containers } = pod(folder, "jellyfin").spec;
    expect(initContainers.map(({ name, restartPolicy }) => [name, restartPolicy])).toEqual([
      ["seed", undefined],
      ["sidecar", "Always"],
    ]);
    expect(containers.map(({ name }) => name)).toEqual(["jellyfin"]);
  });

  test("no image floats, and ours has the version of this tree", () => {
    const images = pods(folder).flatMap(({ pod: { spec } }) =>
      containersOf(spec).map(({ image }) => image),
    );
    for (const image of images) expect(image).toMatch(/^[\w./-]+:\d+\.\d+\.\d+(-[a-z]+)?$/);
    const { version } = JSON.parse(read("package.json")) as { version: string };
    expect(new Set(images)).toEqual(
      new Set([`registry.example/jellybloom:${version}`, ...composeImages()]),
    );
  });

  test("every pod may run where only restricted ones may (Pod Security Standards)", () => {
    for (const { name, pod: template } of pods(folder)) {
      const { spec } = template;
      expect(spec.securityContext, name).toMatchObject({
        runAsNonRoot: true,
        seccompProfile: { type: "RuntimeDefault" },
      });
      expect(spec.securityContext.runAsUser, name).toBeGreaterThan(0);
      expect(spec, name).toMatchObject({
        automountServiceAccountToken: false,
        enableServiceLinks: false,
      });
      expect(spec.hostNetwork, name).toBeUndefined();
      for (const volume of spec.volumes ?? []) {
        const kinds = Object.keys(volume).filter((key) => key !== "name");
        expect(["persistentVolumeClaim", "secret", "configMap", "emptyDir"]).toEqual(
          expect.arrayContaining(kinds),
        );
      }
      for (const { name: part, securityContext } of containersOf(spec)) {
        expect(securityContext?.allowPrivilegeEscalation, `${name} ${part}`).toBe(false);
        expect(securityContext?.capabilities, `${name} ${part}`).toEqual({ drop: ["ALL"] });
        expect(securityContext?.privileged, `${name} ${part}`).toBeUndefined();
        // Jellyfin's own image is not ours to promise for.
        if (part !== "jellyfin") expect(securityContext?.readOnlyRootFilesystem, part).toBe(true);
      }
    }
  });

  test("every container says what it needs, and no limit of CPU pauses a film", () => {
    for (const { name, pod: template } of pods(folder)) {
      for (const { name: part, resources } of containersOf(template.spec)) {
        expect(Object.keys(resources?.requests ?? {}), `${name} ${part}`).toEqual([
          "cpu",
          "memory",
        ]);
        expect(Object.keys(resources?.limits ?? {}), `${name} ${part}`).toEqual(["memory"]);
      }
    }
  });

  test("secrets come by reference, each pod has only its own, and all are in the manual", () => {
    const command = /kubectl[^\n]*create secret generic jellybloom.*?```/s.exec(
      read("k8s/README.md"),
    );
    const made = [...(command?.[0] ?? "").matchAll(/--from-(?:literal|file)=([\w-]+)/g)].map(
      ([, key]) => key,
    );
    expect(made.toSorted()).toEqual(["cluster-key", "jellyfin-api-key", "redis-url"]);
    const given = Object.fromEntries(
      pods(folder).map(({ name, pod: { spec } }) => {
        const secrets = (spec.volumes ?? []).flatMap(({ secret }) =>
          secret === undefined ? [] : [secret],
        );
        for (const { secretName, defaultMode } of secrets) {
          expect(secretName).toBe("jellybloom");
          expect(defaultMode.toString(8)).toBe("440");
        }
        return [name, secrets.flatMap(({ items }) => items?.map(({ key }) => key) ?? made)];
      }),
    );
    expect(given).toEqual({
      jellyfin: made,
      proxy: ["redis-url", "cluster-key"],
      redis: ["redis-url"],
      snapshot: [],
      leave: made,
    });
    for (const { pod: template } of pods(folder)) {
      for (const { env = [] } of containersOf(template.spec)) {
        expect(env.filter(({ name, value }) => value !== undefined && isSecret(name))).toEqual([]);
      }
    }
    // The server itself never sees the keys of the cluster.
    const mounts = container(folder, "jellyfin", "jellyfin").volumeMounts ?? [];
    expect(mounts.map(({ name }) => name)).not.toContain("secrets");
  });

  test("what is mounted is there", () => {
    const claims = ["nfs", "single-node"].map((file) =>
      manifestsOf(read(`k8s/storage/${file}.yaml`))
        .filter(({ kind }) => kind === "PersistentVolumeClaim")
        .map(({ metadata }) => metadata.name),
    );
    expect(claims).toEqual([
      ["media", "seed"],
      ["media", "seed"],
    ]);
    for (const manifest of of(folder)) {
      const spec = podOf(manifest)?.spec;
      if (spec === undefined) continue;
      const templates = (manifest.spec.volumeClaimTemplates ?? []).map(
        ({ metadata }) => metadata.name,
      );
      const volumes = new Set([...templates, ...(spec.volumes ?? []).map(({ name }) => name)]);
      for (const { volumeMounts = [] } of containersOf(spec)) {
        expect(volumeMounts.map(({ name }) => name).filter((name) => !volumes.has(name))).toEqual(
          [],
        );
      }
      for (const { configMap, persistentVolumeClaim } of spec.volumes ?? []) {
        if (configMap !== undefined) named(of(folder), "ConfigMap", configMap.name);
        if (persistentVolumeClaim === undefined) continue;
        // A claim of a StatefulSet is called template-set-number.
        expect([...(claims[0] ?? []), "config-jellyfin-0"]).toContain(
          persistentVolumeClaim.claimName,
        );
      }
    }
    const [config] = named(of(folder), "StatefulSet", "jellyfin").spec.volumeClaimTemplates ?? [];
    expect(config).toMatchObject({
      metadata: { name: "config" },
      spec: { accessModes: ["ReadWriteOnce"] },
    });
  });

  test("every script that is started is in the mounted ConfigMap", () => {
    for (const {
      name,
      pod: { spec },
    } of pods(folder)) {
      for (const { command = [], lifecycle = {}, volumeMounts = [] } of containersOf(spec)) {
        const words = [
          command,
          ...Object.values(lifecycle).map((hook) => hook?.exec.command ?? []),
        ].flat();
        for (const script of words.filter((word) => word.endsWith(".sh"))) {
          const [, place = "", file = ""] = /^(.*)\/([^/]+)$/.exec(script) ?? [];
          const mount = volumeMounts.find(({ mountPath }) => mountPath === place);
          const volume = spec.volumes?.find((one) => one.name === mount?.name);
          const { data = {} } = named(of(folder), "ConfigMap", volume?.configMap?.name ?? "");
          expect(Object.keys(data), `${name}: ${script}`).toContain(file);
        }
      }
    }
  });

  test("every selector finds the pods it is meant for", () => {
    const labels = new Map(
      pods(folder).map(({ name, pod: template }) => [name, template.metadata.labels]),
    );
    const found = (selector: Selector | undefined): string[] =>
      [...labels].flatMap(([name, own]) => (matches(selector, own) ? [name] : []));
    for (const { kind, metadata, spec } of of(folder)) {
      if (["StatefulSet", "Deployment", "PodDisruptionBudget"].includes(kind)) {
        expect(found(spec.selector), `${kind} ${metadata.name}`).toEqual([metadata.name]);
      }
      if (kind === "Service") {
        expect(found({ matchLabels: spec.selector ?? {} }), metadata.name).toEqual([metadata.name]);
      }
      if (kind === "PodMonitor") expect(found(spec.selector)).toHaveLength(1);
      if (kind === "NetworkPolicy")
        expect(found(spec.podSelector).length, metadata.name).toBeGreaterThan(0);
    }
    for (const {
      name,
      pod: { spec },
    } of pods(folder)) {
      const anti = spec.affinity?.podAntiAffinity ?? {};
      const terms = [
        ...(anti.requiredDuringSchedulingIgnoredDuringExecution ?? []),
        ...(anti.preferredDuringSchedulingIgnoredDuringExecution ?? []).map(
          (one) => one.podAffinityTerm,
        ),
        ...(spec.topologySpreadConstraints ?? []),
      ];
      for (const { labelSelector } of terms) expect(found(labelSelector), name).toEqual([name]);
    }
    const budgets = of(folder).filter(({ kind }) => kind === "PodDisruptionBudget");
    expect(
      budgets.map(({ metadata, spec: { minAvailable, maxUnavailable } }) => [
        metadata.name,
        minAvailable,
        maxUnavailable,
      ]),
    ).toEqual(
      expect.arrayContaining([
        ["jellyfin", undefined, 1],
        ["proxy", 1, undefined],
      ]),
    );
  });

  test("services lead to ports that containers open", () => {
    for (const { kind, metadata, spec } of of(folder)) {
      if (kind !== "Service") continue;
      const open = containersOf(pod(folder, metadata.name).spec).flatMap(({ ports = [] }) =>
        ports.map(({ containerPort }) => containerPort),
      );
      for (const { targetPort } of spec.ports ?? [])
        expect(open, metadata.name).toContain(targetPort);
    }
    expect(named(of(folder), "Service", "jellyfin").spec).toMatchObject({
      clusterIP: "None",
      publishNotReadyAddresses: true,
    });
  });

  test("the public address, the way in and the proxies are one", () => {
    const url = settingsOf(folder)["public-url"] ?? "";
    const { host } = new URL(url);
    for (const { kind, spec } of of(folder)) {
      if (kind === "IngressRoute") {
        expect(spec.routes).toEqual([
          { kind: "Rule", match: `Host(\`${host}\`)`, services: [{ name: "proxy", port: 80 }] },
        ]);
      }
      if (kind !== "Ingress") continue;
      expect(spec.rules?.map((rule) => rule.host)).toEqual([host]);
      expect(spec.rules?.[0]?.http.paths.map(({ backend }) => backend.service)).toEqual([
        { name: "proxy", port: { name: "http" } },
      ]);
    }
    expect(named(of(folder), "Service", "proxy").spec.ports).toEqual([
      { name: "http", port: 80, targetPort: 8080 },
    ]);
    const ways = of(folder).filter(({ kind }) => kind === "Ingress" || kind === "IngressRoute");
    expect(ways).toHaveLength(folder === "base/core" ? 0 : 1);
  });
});

describe("where they are placed", () => {
  test("two servers never share a machine, but for the overlay that says so", () => {
    for (const folder of folders) {
      const terms =
        pod(folder, "jellyfin").spec.affinity?.podAntiAffinity
          ?.requiredDuringSchedulingIgnoredDuringExecution ?? [];
      const keys = terms.map(({ topologyKey }) => topologyKey);
      expect(keys, folder).toEqual(
        folder === "overlays/single-node" ? [] : ["kubernetes.io/hostname"],
      );
    }
  });

  test("the proxies would rather not, and one is always there during an update", () => {
    const { affinity } = pod("base", "proxy").spec;
    expect(affinity?.podAntiAffinity?.preferredDuringSchedulingIgnoredDuringExecution).toHaveLength(
      1,
    );
    expect(named(of("base"), "Deployment", "proxy").spec.strategy?.rollingUpdate).toEqual({
      maxUnavailable: 0,
      maxSurge: 1,
    });
  });

  test("one server comes up without the other", () => {
    expect(named(of("base"), "StatefulSet", "jellyfin").spec.podManagementPolicy).toBe("Parallel");
  });

  test("a snapshot is made beside the server it is of, when somebody asks for it", () => {
    const { spec } = named(of("base"), "CronJob", "snapshot");
    expect(spec.suspend).toBe(true);
    const [term] =
      pod("base", "snapshot").spec.affinity?.podAffinity
        ?.requiredDuringSchedulingIgnoredDuringExecution ?? [];
    expect(term?.labelSelector.matchLabels).toEqual({
      "statefulset.kubernetes.io/pod-name": "jellyfin-0",
    });
  });
});

describe("what is started", () => {
  test("the proxies' options are read, and they listen where their ports are", () => {
    const { args = [], ports = [] } = container("base", "proxy", "proxy");
    const config = configOf("proxy", args);
    expect(config).toMatchObject({
      listen: { host: "", port: 8080 },
      admin: { host: "", port: 8081 },
      publicUrl: { origin: "https://jellyfin.example" },
      discover: [{ name: "_http._tcp.jellyfin.jellybloom.svc.cluster.local", port: 0 }],
      redis: expect.stringContaining("@redis:6379/0"),
    });
    expect(Object.fromEntries(ports.map((port) => [port.name, port.containerPort]))).toEqual({
      http: 8080,
      admin: 8081,
    });
    // Whoever may reach the proxies is believed, and nobody on the Internet is among them.
    const networks = (config as { trustedProxies: readonly { address: string }[] }).trustedProxies;
    expect(networks.map(({ address }) => address)).toEqual([
      "10.0.0.0",
      "172.16.0.0",
      "192.168.0.0",
    ]);
  });

  test("the sidecars' options are read, and they tell others where they and their servers are", () => {
    const { args = [], ports } = container("base", "jellyfin", "sidecar");
    expect(configOf("sidecar", args)).toMatchObject({
      name: "jellyfin-1",
      podUid: "6a2e0c1c-0b1f-4a53-9d7e-2f0f6b1f0c11",
      jellyfin: { origin: "http://127.0.0.1:8096" },
      advertise: { origin: "http://10.1.2.3:8096" },
      listen: { host: "10.1.2.3", port: 8090 },
      redis: expect.stringContaining("@redis:6379/0"),
    });
    expect(ports).toEqual([{ name: "sidecar", containerPort: 8090 }]);
  });

  test("the ports are those that the options have by default", () => {
    const portOf = (fallback: string | undefined): number => Number(fallback?.split(":").at(-1));
    const open = (workload: string, name: string): number[] =>
      container("base", workload, name).ports?.map(({ containerPort }) => containerPort) ?? [];
    expect(open("proxy", "proxy")).toEqual([
      portOf(proxyOptions.listen.fallback),
      portOf(proxyOptions.admin.fallback),
    ]);
    expect(open("jellyfin", "sidecar")).toEqual([portOf(sidecarOptions.listen.fallback)]);
    expect(read("Dockerfile")).toContain("EXPOSE 8080 8081 8090");
    const redisPort = Number(/^port (\d+)$/m.exec(read("k8s/base/core/redis.conf"))?.[1]);
    expect(open("redis", "redis")).toEqual([redisPort]);
  });

  test("a server that stops is drained first, in the time it has", () => {
    const { preStop } = container("base", "jellyfin", "sidecar").lifecycle ?? {};
    const [, , , ...command] = preStop?.exec.command ?? [];
    expect(command.slice(0, 2)).toEqual(["jellybloom", "drain"]);
    const drained = readOptions(
      drainOptions,
      drainRules,
      {
        argv: command.slice(2),
        env: { ...environmentOf("sidecar"), POD_IP: "" },
        readFile: secretOf,
      },
      ["[NAME]"],
    );
    expect(drained).toMatchObject({
      kind: "config",
      config: { untilRestart: true, admin: { origin: "http://10.1.2.3:8090" } },
    });
    const { limitMs } = (drained as { config: DrainConfig }).config;
    const wait = container("base", "jellyfin", "jellyfin").lifecycle?.preStop?.exec.command ?? [];
    const waitS = Number(wait.at(-1));
    // Five seconds to move by force what did not end, and some to start the command.
    expect(waitS).toBeGreaterThanOrEqual(limitMs / 1000 + 10);
    const config = configOf("sidecar", container("base", "jellyfin", "sidecar").args ?? []);
    const endS = (config as { drainLimitMs: number }).drainLimitMs / 1000;
    // Jellyfin ends running downloads within 30 s and then tidies its database.
    expect(pod("base", "jellyfin").spec.terminationGracePeriodSeconds).toBeGreaterThanOrEqual(
      waitS + 90 + endS,
    );
  });

  test("Jellybloom can be taken away again: by hand, from every server", () => {
    expect(named(of("base"), "CronJob", "leave").spec.suspend).toBe(true);
    const { args = [], env = [] } = container("base", "leave", "leave");
    const environment = Object.fromEntries(env.map(({ name, value = "" }) => [name, value]));
    const [command, ...argv] = args;
    const sources = { argv, env: environment, readFile: secretOf };
    const left = readOptions(leaveOptions, leaveRules, sources);
    expect([command, left.kind === "mistakes" ? left.mistakes : []]).toEqual(["leave", []]);
    const { replicas = 0 } = named(of("base"), "StatefulSet", "jellyfin").spec;
    expect(left).toMatchObject({
      config: {
        replica: Array.from({ length: replicas }, (_, index) => ({
          name: `jellyfin-${index}`,
          origin: `http://jellyfin-${index}.jellyfin:8096`,
        })),
      },
    });
  });

  test("what must outlive the store lies on the server's own volume", () => {
    const { taskData } = configOf(
      "sidecar",
      container("base", "jellyfin", "sidecar").args ?? [],
    ) as {
      taskData: string;
    };
    const mounts = container("base", "jellyfin", "sidecar").volumeMounts ?? [];
    expect(mounts.find(({ mountPath }) => mountPath === taskData)?.name).toBe("config");
  });

  test("a proxy that stops is noticed by the ingress controller and ends what runs", () => {
    const config = configOf("proxy", container("base", "proxy", "proxy").args ?? []) as {
      unreadyWaitMs: number;
      drainLimitMs: number;
    };
    expect(config.unreadyWaitMs).toBeGreaterThan(0);
    const grace = pod("base", "proxy").spec.terminationGracePeriodSeconds ?? 0;
    expect(grace * 1000).toBeGreaterThan(config.unreadyWaitMs + config.drainLimitMs + 5000);
  });

  test("liveness asks whether a process answers and nothing else; readiness asks what it means", () => {
    const probes = (workload: string, name: string) => {
      const { startupProbe, livenessProbe, readinessProbe } = container("base", workload, name);
      return [startupProbe, livenessProbe, readinessProbe].map((probe) => probe?.httpGet?.path);
    };
    expect(probes("proxy", "proxy")).toEqual([
      "/jellybloom/live",
      "/jellybloom/live",
      "/jellybloom/ready",
    ]);
    expect(probes("jellyfin", "sidecar")).toEqual([
      undefined,
      "/jellybloom/live",
      "/jellybloom/ready",
    ]);
    expect(probes("jellyfin", "jellyfin")).toEqual(["/System/Ping", "/System/Ping", undefined]);
    for (const { pod: template } of pods("base")) {
      for (const { ports = [], ...part } of containersOf(template.spec)) {
        for (const probe of [part.startupProbe, part.livenessProbe, part.readinessProbe]) {
          const port = probe?.httpGet?.port;
          if (port !== undefined) expect(ports.map(({ name }) => name)).toContain(port);
        }
      }
    }
  });

  test("a migration of an hour is not killed, and a minute of silence is", () => {
    const { startupProbe, livenessProbe } = container("base", "jellyfin", "jellyfin");
    const lasts = (probe: typeof startupProbe): number =>
      (probe?.periodSeconds ?? 0) * (probe?.failureThreshold ?? 0);
    expect(lasts(startupProbe)).toBeGreaterThanOrEqual(3600);
    expect(lasts(livenessProbe)).toBe(60);
  });

  test("every JELLYBLOOM_ name is an option's", () => {
    const known = documentedCommands().flatMap(({ options }) =>
      Object.values(options).flatMap(({ name, secret }) =>
        secret ? [environmentName(name), `${environmentName(name)}_FILE`] : [environmentName(name)],
      ),
    );
    for (const file of [...files, "compose.yaml", "Dockerfile"]) {
      for (const [name] of read(file).matchAll(/\bJELLYBLOOM_[A-Z_]+/g))
        expect(known, file).toContain(name);
    }
  });
});

describe("who reaches whom", () => {
  const ours = (component: string) => ({
    namespace: "jellybloom",
    labels: { "app.kubernetes.io/name": "jellybloom", "app.kubernetes.io/component": component },
  });
  const world: Record<string, { readonly namespace: string; readonly labels: Labels }> = {
    proxy: ours("proxy"),
    jellyfin: ours("jellyfin"),
    redis: ours("redis"),
    snapshot: ours("snapshot"),
    leave: ours("leave"),
    neighbour: { namespace: "jellybloom", labels: { app: "something" } },
    traefik: { namespace: "traefik", labels: { "app.kubernetes.io/name": "traefik" } },
    k3s: { namespace: "kube-system", labels: { "app.kubernetes.io/name": "traefik" } },
    nginx: { namespace: "ingress-nginx", labels: { "app.kubernetes.io/name": "ingress-nginx" } },
    prometheus: { namespace: "monitoring", labels: { "app.kubernetes.io/name": "prometheus" } },
    grafana: { namespace: "monitoring", labels: { "app.kubernetes.io/name": "grafana" } },
    stranger: { namespace: "default", labels: { "app.kubernetes.io/name": "traefik" } },
  };
  const ports = [8080, 8081, 8090, 8096, 6379, 22];

  const always = [
    "jellyfin > jellyfin:8090",
    "jellyfin > jellyfin:8096",
    "jellyfin > redis:6379",
    "leave > jellyfin:8096",
    "leave > redis:6379",
    "proxy > jellyfin:8090",
    "proxy > jellyfin:8096",
    "proxy > redis:6379",
  ];
  const metrics = ["prometheus > jellyfin:8090", "prometheus > proxy:8081"];

  test.each<[Folder, readonly string[]]>([
    ["base/core", always],
    ["base", [...always, ...metrics, "traefik > proxy:8080", "k3s > proxy:8080"]],
    ["overlays/traefik", [...always, ...metrics, "traefik > proxy:8080", "k3s > proxy:8080"]],
    ["overlays/ingress", [...always, ...metrics, "nginx > proxy:8080"]],
    ["overlays/single-node", [...always, "k3s > proxy:8080"]],
  ])("in %s: these pairs and no others", (folder, expected) => {
    const pairs = Object.keys(world).flatMap((from) =>
      Object.keys(world)
        .filter((to) => world[to]?.labels["app.kubernetes.io/component"] !== undefined)
        .flatMap((to) =>
          ports
            .filter((port) => mayReach(of(folder), world[from], world[to], port))
            .map((port) => `${from} > ${to}:${port}`),
        ),
    );
    expect(pairs.toSorted()).toEqual(expected.toSorted());
  });

  test("whoever needs a name may ask for it, and the copier of snapshots speaks with nobody", () => {
    const resolver = { namespace: "kube-system", labels: { "k8s-app": "kube-dns" } };
    const may = Object.keys(world).filter((from) =>
      mayReach(of("base"), world[from], resolver, 53),
    );
    expect(may).toEqual(expect.arrayContaining(["proxy", "jellyfin"]));
    expect(may).not.toEqual(expect.arrayContaining(["redis"]));
    expect(may).not.toEqual(expect.arrayContaining(["snapshot"]));
  });
});

describe("monitoring", () => {
  const rules = () =>
    (named(of("base"), "PrometheusRule", "jellybloom").spec.groups ?? []).flatMap(
      (group) => group.rules,
    );

  test("the monitors read ports that are there", () => {
    const monitors = of("base").filter(({ kind }) => kind === "PodMonitor");
    expect(monitors).toHaveLength(2);
    for (const { spec } of monitors) {
      const target = pods("base").find((one) => matches(spec.selector, one.pod.metadata.labels));
      const open = containersOf(
        target?.pod.spec ?? { containers: [], securityContext: {} },
      ).flatMap(({ ports = [] }) => ports.map(({ name }) => name));
      for (const { port, path } of spec.podMetricsEndpoints ?? []) {
        expect(open).toContain(port);
        expect(path).toBe("/metrics");
      }
    }
  });

  test("every alert asks for numbers that we tell, by labels and values that they have", async () => {
    const told = createMetrics("0.0.0");
    told.replicaState.set("a", "ready");
    told.journalBehindSeconds.set("a", 0);
    const { body } = await told.text();
    for (const { alert, expr } of rules()) {
      const named = [...expr.matchAll(/\b(jellybloom_[a-z_]+)(?:\{([^}]*)\})?/g)];
      expect(named.length > 0 || /\bup\{/.test(expr), alert).toBe(true);
      for (const [, metric = "", labels = ""] of named) {
        expect(body, alert).toMatch(new RegExp(`^${metric}[{ ]`, "m"));
        for (const [, label = "", value = ""] of labels.matchAll(/(\w+)=~?"([^"]*)"/g)) {
          if (label === "pod") continue;
          for (const one of value.split("|")) expect(body, alert).toContain(`${label}="${one}"`);
        }
      }
    }
  });

  test("every alert has one name, a line that says what is wrong, and a page that is there", () => {
    const operations = read("docs/operations.md");
    const anchors = [...operations.matchAll(/^#+ (.+)$/gm)].map(([, heading = ""]) =>
      heading
        .toLowerCase()
        .replaceAll(/[^\w\s-]/g, "")
        .replaceAll(" ", "-"),
    );
    const names = rules().map(({ alert }) => alert);
    expect(new Set(names).size).toBe(names.length);
    for (const { alert, labels, annotations } of rules()) {
      expect(annotations.summary, alert).toMatch(/^\S.*\.$/s);
      const [page, anchor = ""] = (annotations.runbook ?? "").split("#");
      expect(page, alert).toBe("docs/operations.md");
      expect(anchors, alert).toContain(anchor);
      expect(["critical", "warning"]).toContain(labels.severity);
      expect(operations.includes(`| \`${alert}\` |`), alert).toBe(true);
    }
  });
});

describe("how they are written", () => {
  test("the image's name is said once", () => {
    const places = files.filter(
      (file) => !file.endsWith(".md") && read(file).includes("registry.example"),
    );
    expect(places).toEqual(["k8s/base/core/kustomization.yaml"]);
  });

  test("the oldest kustomize that Debian ships can read them, too", () => {
    // `resources` of folders, `patches`, `labels` and `components` came after kustomize 2.0 (kubectl 1.20).
    const known = [
      "bases",
      "resources",
      "namespace",
      "images",
      "configMapGenerator",
      "patchesJson6902",
    ];
    for (const file of files.filter((one) => one.endsWith("kustomization.yaml"))) {
      const kustomization = parse(read(file)) as { resources?: readonly string[] };
      expect(known, file).toEqual(expect.arrayContaining(Object.keys(kustomization)));
      for (const resource of kustomization.resources ?? [])
        expect(resource, file).toMatch(/\.yaml$/);
    }
  });

  test("every folder that is rendered is told of in the manual", () => {
    for (const folder of folders.filter((one) => one.startsWith("overlays/"))) {
      expect(read("k8s/README.md")).toContain(folder);
    }
  });
});

// ---- What the manifests come to -----------------------------------------------------------------------

function composeImages(): string[] {
  const { services } = parse(read("compose.yaml"), { merge: true }) as {
    services: Record<string, { image: string; build?: string }>;
  };
  return Object.values(services)
    .filter(({ build }) => build === undefined)
    .map(({ image }) => image.replace(/\$\{\w+:-([^}]*)\}/, "$1"));
}

function isSecret(name: string): boolean {
  return /KEY|PASSWORD|TOKEN|REDIS/.test(name) && !name.endsWith("_FILE");
}

function settingsOf(folder: Folder): Labels {
  const settings = of(folder).find(
    ({ kind, metadata }) => kind === "ConfigMap" && metadata.name.startsWith("settings-"),
  );
  return settings?.data ?? {};
}

const fields: Labels = {
  "metadata.name": "jellyfin-1",
  "metadata.namespace": "jellybloom",
  "metadata.uid": "6a2e0c1c-0b1f-4a53-9d7e-2f0f6b1f0c11",
  "status.podIP": "10.1.2.3",
};

/** The environment that Kubernetes gives a container of ours. */
function environmentOf(name: "proxy" | "sidecar"): Record<string, string> {
  const workload = name === "proxy" ? "proxy" : "jellyfin";
  const environment: Record<string, string> = {};
  for (const { name: variable, value, valueFrom } of container("base", workload, name).env ?? []) {
    const field = fields[valueFrom?.fieldRef?.fieldPath ?? ""];
    const setting = settingsOf("base")[valueFrom?.configMapKeyRef?.key ?? ""];
    environment[variable] = expanded(value ?? field ?? setting ?? "", environment);
  }
  return environment;
}

const expanded = (text: string, environment: Readonly<Record<string, string>>): string =>
  text.replaceAll(/\$\((\w+)\)/g, (whole, name) => environment[name] ?? whole);

function secretOf(path: string): string {
  const [, key] =
    /^\/run\/secrets\/jellybloom\/(redis-url|cluster-key|jellyfin-api-key)$/.exec(path) ?? [];
  if (key === undefined) throw new Error(`no secret lies at ${path}`);
  return key === "redis-url" ? "redis://:password@redis:6379/0" : "0123456789abcdef";
}

/** What a program of ours makes of a container's args and environment; its mistakes are the error. */
function configOf(name: "proxy" | "sidecar", args: readonly string[]): unknown {
  const environment = environmentOf(name);
  const [command, ...argv] = args.map((word) => expanded(word, environment));
  expect(command).toBe(name);
  const sources = { argv, env: environment, readFile: secretOf };
  const result =
    name === "proxy"
      ? readOptions(proxyOptions, proxyRules, sources)
      : readOptions(sidecarOptions, sidecarRules, sources);
  expect(result.kind === "mistakes" ? result.mistakes : []).toEqual([]);
  return result.kind === "config" ? result.config : undefined;
}

interface Place {
  readonly namespace: string;
  readonly labels: Labels;
}

/** As NetworkPolicies are defined: what any policy selects is refused unless some rule lets it through. */
function mayReach(
  manifests: readonly Manifest[],
  from: Place | undefined,
  to: Place | undefined,
  port: number,
): boolean {
  if (from === undefined || to === undefined) return false;
  const policies = manifests.filter(({ kind }) => kind === "NetworkPolicy");
  const side = (type: "Ingress" | "Egress", self: Place, other: Place): boolean => {
    const about = policies.filter(
      ({ spec }) =>
        spec.policyTypes?.includes(type) &&
        self.namespace === "jellybloom" &&
        matches(spec.podSelector, self.labels),
    );
    const rulesOf = ({ spec }: Manifest) => (type === "Ingress" ? spec.ingress : spec.egress) ?? [];
    return (
      about.length === 0 ||
      about.flatMap(rulesOf).some(({ from: sources, to: targets, ports = [] }) => {
        const peers = type === "Ingress" ? sources : targets;
        const isOpen = ports.length === 0 || ports.some((one) => one.port === port);
        return isOpen && (peers === undefined || peers.some((peer) => isPeer(peer, other)));
      })
    );
  };
  return side("Egress", from, to) && side("Ingress", to, from);
}

function isPeer(
  {
    podSelector,
    namespaceSelector,
    ipBlock,
  }: NonNullable<NonNullable<Manifest["spec"]["ingress"]>[number]["from"]>[number],
  place: Place,
): boolean {
  // Networks are those outside: ours are among the exceptions.
  if (ipBlock !== undefined) return false;
  const isNear =
    namespaceSelector === undefined
      ? place.namespace === "jellybloom"
      : matches(namespaceSelector, { "kubernetes.io/metadata.name": place.namespace });
  return isNear && (podSelector === undefined || matches(podSelector, place.labels));
}
