// `jellybloom doctor` against real stand-ins: what it finds, what it says, and how it ends.

import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { runCli } from "../support/cli.ts";
import { CLUSTER_KEY, startDoor } from "../support/door.ts";
import { freePort, type StandIn, startPair } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { until } from "../support/viewer.ts";

let a: StandIn;
let b: StandIn;
let stop: () => Promise<void>;
const quiet = { AutoDiscovery: false, EnableUPnP: false, RequireHttps: false };

beforeAll(async () => {
  const media = await makeMedia();
  ({ a, b, stop } = await startPair({ mediaDir: media.folder, knownProxies: ["127.0.0.1"] }));
});

afterAll(async () => await stop());

beforeEach(async () => {
  for (const server of [a, b]) {
    await server.control("clear");
    await server.control("configure", { document: "network", change: { ...quiet } });
    await server.control("configure", {
      document: "encoding",
      change: { TranscodingTempPath: "" },
    });
  }
});

function replicas(...servers: readonly StandIn[]): string[] {
  return servers.flatMap((server) => [
    ...["--replica", `${server.name}=${server.url}`],
    ...["--api-key", `${server.name}=${server.apiKey}`],
  ]);
}

async function examined(...more: string[]) {
  const { code, out, err } = await runCli(["doctor", ...replicas(a, b), "--json", ...more]);
  const told = (out === "" ? { findings: [], asked: [] } : JSON.parse(out)) as {
    readonly asked: readonly { name: string }[];
    readonly findings: readonly { severity: string; sentence: string }[];
  };
  return {
    code,
    err,
    ...told,
    sentences: told.findings.map(({ sentence }) => sentence).join("\n"),
  };
}

test("two servers that are alike: nothing is wrong, and the exit code is 0", async () => {
  expect(await examined()).toMatchObject({ code: 0, findings: [] });
  const { code, out } = await runCli(["doctor", ...replicas(a, b)]);
  expect({ code, last: out.trim().split("\n").at(-1) }).toEqual({
    code: 0,
    last: "Nothing is wrong.",
  });
});

test("a film that one server lacks is named, with the library and what to do", async () => {
  await b.control("hide", { item: "Clockwork (2020)" });
  const { code, sentences } = await examined();
  expect(code).toBe(1);
  expect(sentences).toMatch(
    /b lacks 1 item of Movies that a has \(Clockwork[^)]*\)?.*scan the library on b/,
  );
  await b.control("hide", { item: "Clockwork (2020)", hidden: false });
});

test("a doctor that knows where the door is says whether the servers know it", async () => {
  expect((await examined("--door", "127.0.0.1")).code).toBe(0);
  const { sentences, findings } = await examined("--door", "10.9.8.7");
  expect(sentences).toMatch(
    /The known proxies of server a lack the door.*"127\.0\.0\.1, 10\.9\.8\.7"/,
  );
  expect(findings[0]?.severity).toBe("refuse");
});

test("a program's key that one server lacks is told by its fingerprint, never in clear", async () => {
  const key = { Authorization: `MediaBrowser Token="${a.apiKey}"` };
  await fetch(`${a.url}/Auth/Keys?app=Sonarr`, { method: "POST", headers: key });
  const keys = (await (await fetch(`${a.url}/Auth/Keys`, { headers: key })).json()) as {
    Items: { AppName: string; AccessToken: string }[];
  };
  const token = keys.Items.find(({ AppName }) => AppName === "Sonarr")?.AccessToken ?? "";
  const fingerprint = createHash("sha256").update(token).digest("hex").slice(0, 12);
  const { out, code } = await runCli(["doctor", ...replicas(a, b)]);
  expect(code).toBe(1);
  expect(out.replace(/\s+/g, " ")).toContain(`b has no API key for Sonarr ${fingerprint}`);
  expect(out).not.toContain(token);
  expect(out).not.toContain(a.apiKey);
  await fetch(`${a.url}/Auth/Keys/${token}`, { method: "DELETE", headers: key });
  expect((await examined()).code).toBe(0);
});

test("what each server would do past the door is told: discovery, published addresses, ports", async () => {
  await b.control("configure", {
    document: "network",
    change: { AutoDiscovery: true, EnableUPnP: true, PublishedServerUriBySubnet: [] },
  });
  await a.control("configure", {
    document: "network",
    change: { PublishedServerUriBySubnet: ["all=http://10.0.0.5:8096"] },
  });
  const { sentences } = await examined();
  expect(sentences).toContain("b answers apps that search the network");
  expect(sentences).toContain("b opens a port at the router by UPnP");
  expect(sentences).toContain(
    "The servers publish different addresses (a has all=http://10.0.0.5:8096, b has none)",
  );
  await a.control("configure", { document: "network", change: { PublishedServerUriBySubnet: [] } });
});

test("plugins that differ, do not work or are older are told", async () => {
  const plugin = (id: string, name: string, version: string, status = "Active") => ({
    [id]: { Id: id.padEnd(32, "0"), Name: name, Version: version, Status: status },
  });
  await a.control("configure", {
    document: "plugins",
    change: { ...plugin("1", "Reports", "1.0.0.0"), ...plugin("2", "Skins", "2.0.0.0") },
  });
  await b.control("configure", {
    document: "plugins",
    change: { ...plugin("1", "Reports", "1.1.0.0", "Malfunctioned") },
  });
  const { sentences } = await examined();
  expect(sentences).toContain("The plugin Reports has different versions (a 1.0.0.0, b 1.1.0.0)");
  expect(sentences).toContain("Plugins of b do not work (Reports 1.1.0.0)");
  expect(sentences).toContain("The plugin Skins is on a and not on b");
  for (const server of [a, b]) {
    await server.control("configure", {
      document: "plugins",
      change: { "1": undefined, "2": undefined },
    });
  }
});

test("a transcode folder that two servers share is found by trying it", async () => {
  await b.control("configure", {
    document: "encoding",
    change: { TranscodingTempPath: join(a.dataDir, "cache", "transcodes") },
  });
  const { findings } = await examined();
  expect(findings[0]).toMatchObject({ severity: "refuse" });
  expect(findings[0]?.sentence).toMatch(/^a and b share one transcode folder/);
}, 30_000);

test("different versions of ffmpeg are read from the heads of the servers' logs", async () => {
  for (const [server, version] of [
    [a, "7.1.1-Jellyfin"],
    [b, "6.0.1"],
  ] as const) {
    mkdirSync(join(server.dataDir, "log"), { recursive: true });
    writeFileSync(
      join(server.dataDir, "log", "FFmpeg.Transcode-2026-01-01_00-00-00.log"),
      `{}\n\nffmpeg version ${version} Copyright (c) 2000-2025\n`,
    );
  }
  expect((await examined()).sentences).toContain("(a has 7.1.1-Jellyfin, b has 6.0.1)");
  writeFileSync(
    join(b.dataDir, "log", "FFmpeg.Transcode-2026-01-01_00-00-00.log"),
    "ffmpeg version 7.1.1-Jellyfin\n",
  );
});

test("a server that is away is a finding; when none can be asked the exit code is 2", async () => {
  const nobody = `http://127.0.0.1:${await freePort()}`;
  const half = await runCli([
    "doctor",
    ...replicas(a),
    "--replica",
    `c=${nobody}`,
    "--api-key",
    "c=k",
  ]);
  expect(half.code).toBe(1);
  expect(half.out).toContain("Server c at");
  const none = await runCli(["doctor", "--replica", `c=${nobody}`, "--api-key", "k"]);
  expect(none).toMatchObject({ code: 2, out: "" });
  expect(none.err).toContain("No server could be examined. Server c at");
});

test("without a server to ask, the Jellybloom that runs is asked, and its silence is exit code 2", async () => {
  const admin = `http://127.0.0.1:${await freePort()}`;
  const key = "0123456789abcdef0123456789abcdef";
  const { code, err } = await runCli(["doctor", "--admin", admin, "--cluster-key", key]);
  expect(code).toBe(2);
  expect(err).toMatch(/cannot be asked/);
  expect(err).not.toContain(key);
  expect((await runCli(["doctor"])).code).toBe(2);
});

test("the Jellybloom that runs does not take what its own sidecars keep at a server for another one", async () => {
  const door = await startDoor({
    replicas: [a, b],
    apiKey: a.apiKey,
    args: ["--cluster-key", CLUSTER_KEY],
  });
  try {
    const keeps = async (server: StandIn): Promise<number> =>
      (await server.state()).sessions.filter((session) =>
        String(session.DeviceId).startsWith("jellybloom-"),
      ).length;
    await until(15_000, "both sockets of each sidecar", async () =>
      (await Promise.all([a, b].map(keeps))).every((count) => count === 2),
    );
    const asked = ["doctor", "--admin", door.admin, "--cluster-key", CLUSTER_KEY, "--json"];
    const { out } = await runCli(asked);
    const { findings } = JSON.parse(out) as { findings: { severity: string; sentence: string }[] };
    expect(findings.filter(({ severity }) => severity === "refuse")).toEqual([]);
  } finally {
    await door.stop();
  }
});
