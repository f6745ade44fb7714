// A replica is made a copy of another again while somebody looks on: `jellybloom reseed` with a real door, real
// stand-ins, their folders, and their processes; and a replica whose data were put back gets nobody until then.

import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { keepOwnSettings } from "../../sidecar/seed/own-settings.ts";
import { clearServer, openStaging, writeMarkers } from "../../sidecar/seed/target.ts";
import { recordedVersion } from "../../sidecar/seed/version.ts";
import { markDeviceId } from "../../sidecar/truth.ts";
import { runCli } from "../support/cli.ts";
import { CLUSTER_KEY, type DoorProcess, startDoor } from "../support/door.ts";
import { copyDatabase } from "../support/jellyfin/database.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { databaseFile } from "../support/jellyfin/world.ts";
import { makeMedia } from "../support/media.ts";
import { makeServer, otherServerId, serverId, treeOf } from "../support/server-folders.ts";
import { until as untilTrue, Viewer } from "../support/viewer.ts";

let a: StandIn;
let b: StandIn;
let stopPair: () => Promise<void>;
let door: DoorProcess;
let folder = "";
let old = "";

beforeAll(async () => {
  const media = await makeMedia();
  ({ a, b, stop: stopPair } = await startPair({ mediaDir: media.folder }));
  folder = mkdtempSync(join(tmpdir(), "jellybloom-reseed-"));
  old = join(folder, "old.db");
  for (const { dataDir } of [a, b]) {
    mkdirSync(join(dataDir, "config"), { recursive: true });
    writeFileSync(join(dataDir, "config", "system.xml"), "<ServerConfiguration />");
  }
  await copyDatabase(databaseFile(b.dataDir), old);
  door = await startDoor({
    replicas: [a, b],
    apiKey: a.apiKey,
    args: [
      ...["--server", `a=${a.dataDir}`, "--server", `b=${b.dataDir}`, "--cluster-key", CLUSTER_KEY],
      ...["--prefer", "a"],
    ],
  });
}, 60_000);

afterAll(async () => {
  await door.stop();
  await stopPair();
  rmSync(folder, { recursive: true, force: true });
});

const until = (holds: () => Promise<boolean>, limitMs = 20_000): Promise<void> =>
  untilTrue(limitMs, "what the test waits for", holds);

interface Status {
  readonly replicas: readonly { name: string; state: string; reason: string; drain: unknown }[];
  readonly wrong: readonly string[];
}

async function ask(command: readonly string[]) {
  return await runCli([...command, "--admin", door.admin, "--cluster-key", CLUSTER_KEY]);
}

async function status(): Promise<Status> {
  return JSON.parse((await ask(["status", "--json"])).out) as Status;
}

async function stateOf(name: string): Promise<string | undefined> {
  return (await status()).replicas.find((replica) => replica.name === name)?.state;
}

async function markOf(server: StandIn): Promise<string> {
  const reply = await fetch(`${server.url}/Devices/Options?id=${markDeviceId}`, {
    headers: { authorization: `MediaBrowser Token="${server.apiKey}"` },
  });
  const options = reply.ok ? ((await reply.json()) as { CustomName?: string | null }) : {};
  return options.CustomName ?? "";
}

test("a server that was put back is in quarantine, is told everywhere, and a reseed makes it a replica again", async () => {
  const viewer = await Viewer.enter(door.url);
  await until(async () => (await stateOf("b")) === "ready");
  // A server is known to be older than it was by the mark that its sidecar has made there.
  await until(async () => (await markOf(b)) !== "");
  await b.kill9();
  for (const end of ["", "-wal", "-shm"]) rmSync(databaseFile(b.dataDir) + end, { force: true });
  copyFileSync(old, databaseFile(b.dataDir));
  await b.launch();
  await until(async () => (await stateOf("b")) === "unfit", 40_000);
  const told = await status();
  expect(told.wrong.join("\n")).toMatch(
    /b is unfit: it is in quarantine: .*jellybloom catch-up b .*jellybloom truth b/,
  );
  const doctor = await ask(["doctor"]);
  expect(doctor.code).toBe(1);
  expect(doctor.out.replace(/\s+/g, " ")).toContain("Server b gets nobody: it is in quarantine");
  await until(async () => door.log().includes("b is in quarantine"));

  const started = join(folder, "started");
  const launching = until(async () => existsSync(started), 60_000).then(
    async () => await b.launch(),
  );
  const pid = b.pid;
  const ran = await ask([
    ...["reseed", "b", "--to", b.dataDir, "--sidecar", `${door.admin}/jellybloom/of/a`],
    ...["--stop-command", `kill ${pid}; while kill -0 ${pid} 2>/dev/null; do sleep 0.1; done`],
    ...["--start-command", `touch '${started}'`, "--limit", "1s", "--wait-limit", "40s"],
  ]);
  expect(ran).toMatchObject({ code: 0, err: "" });
  await launching;
  expect(ran.out).toContain("b is drained and ready to stop");
  expect(ran.out).toContain("The cluster knows that b is a copy now: 1 login");
  expect(ran.out).toContain("b drains no longer");
  await until(async () => (await stateOf("b")) === "ready");
  expect((await status()).wrong.join("\n")).not.toContain("quarantine");

  // The copy knows the viewer's own login, and nothing had to be minted for it.
  const own = await fetch(`${b.url}/Users/Me`, {
    headers: { authorization: `MediaBrowser Token="${viewer.token}"` },
  });
  expect(own.status).toBe(200);
  await a.kill9();
  expect((await viewer.call("GET", "/Users/Me")).status).toBe(200);
  await a.launch();
}, 120_000);

test("a reseed begins only while another replica takes people", async () => {
  await until(async () => (await stateOf("a")) === "ready" && (await stateOf("b")) === "ready");
  const reseed = (name: string) =>
    ask(["reseed", name, "--to", b.dataDir, "--sidecar", `${door.admin}/jellybloom/of/a`]);
  expect((await reseed("x")).err).toContain("There is no replica x; known: a, b");
  await a.kill9();
  await until(async () => (await stateOf("a")) === "dead");
  const refused = await reseed("b");
  expect(refused.code).toBe(1);
  expect(refused.err).toContain("No other replica is ready: with b stopped nobody would be served");
  await a.launch();
}, 60_000);

test("a reseed begins only while no other replica drains", async () => {
  await ask(["undrain", "a"]);
  await until(async () => (await stateOf("a")) === "ready" && (await stateOf("b")) === "ready");
  const target = join(folder, "target");
  expect((await ask(["drain", "a"])).code).toBe(0);
  const refused = await ask(["reseed", "b", "--to", target, "--sidecar", sidecarOf("a")]);
  expect((await ask(["undrain", "a"])).code).toBe(0);
  expect(refused.code).toBe(1);
  expect(refused.err).toContain("a is being drained: one replica at a time");
  expect(existsSync(target)).toBe(false);
});

function sidecarOf(name: string): string {
  return `${door.admin}/jellybloom/of/${name}`;
}

async function isDraining(name: string): Promise<boolean> {
  return (await status()).replicas.find((replica) => replica.name === name)?.drain !== null;
}

test("a reseed replaces only an old copy of the same server, with data that its program can use", async () => {
  await ask(["undrain", "b"]);
  await until(async () => (await stateOf("a")) === "ready" && (await stateOf("b")) === "ready");
  const newFolder = (name: string, options: Parameters<typeof makeServer>[2]): string => {
    const path = mkdtempSync(join(folder, name));
    makeServer(path, join(path, "config"), { system: "<ServerConfiguration />", ...options });
    return path;
  };
  const reseed = async (from: string, to: string, ...more: string[]) =>
    await ask([
      ...["reseed", "b", "--from", from, "--to", to, "--sidecar", sidecarOf("a")],
      ...["--limit", "1s", "--wait-limit", "20s", ...more],
    ]);
  /** Refused before anybody is moved. */
  const refused = async (from: string, to: string, words: RegExp, ...more: string[]) => {
    const before = treeOf(to);
    const { code, err } = await reseed(from, to, ...more);
    expect({ code, err }).toEqual({ code: 1, err: expect.stringMatching(words) });
    expect(treeOf(to)).toEqual(before);
    expect(await isDraining("b")).toBe(false);
  };
  const donor = newFolder("donor", { version: "12.0.0", users: 5 });

  // Somebody else's server, by a --to that was mistyped: nothing asked before.
  const foreign = newFolder("foreign", { id: otherServerId, version: "12.0.0" });
  await refused(donor, foreign, new RegExp(`add --replace ${otherServerId}`));
  await refused(donor, foreign, /in --replace is aaaa/, "--replace", "a".repeat(32));
  expect(await reseed(donor, foreign, "--replace", otherServerId)).toMatchObject({ code: 0 });
  // The sidecar tells whose data it would send, where no folder is named.
  const told = await ask(["reseed", "b", "--to", newFolder("c", {}), "--sidecar", sidecarOf("a")]);
  expect(told.code).toBe(1);
  expect(told.err).toMatch(/another server/);

  // In a rolling update: a database of 12.0 under a program of 10.11, which would not start.
  const older = newFolder("older", { version: "10.11.11" });
  const words = /are of Jellyfin 12.0.0, and those of b were last used by 10.11.11/;
  await refused(donor, older, words);
  await refused(donor, older, /the new server runs 11.0.0/, "--for-version", "11.0.0");
  const oldest = newFolder("oldest", {});
  writeFileSync(join(oldest, "data", "library.db"), readFileSync(join(oldest, "data/jellyfin.db")));
  await refused(donor, oldest, /were last used by 10.10/);
  // The same when an earlier run has moved its data aside already.
  const torn = newFolder("torn", { version: "10.11.11" });
  await tearDown(torn);
  await refused(donor, torn, words);
  expect(await reseed(donor, older, "--for-version", "12.0.0")).toMatchObject({ code: 0 });
  expect(await reseed(donor, older)).toMatchObject({ code: 0, err: "" });
}, 60_000);

/** A folder as a run leaves it that dies when the old server's data are moved aside. */
async function tearDown(path: string): Promise<void> {
  const target = {
    kind: "one folder",
    dataFolder: path,
    configFolder: join(path, "config"),
  } as const;
  await openStaging(target);
  await keepOwnSettings(target, (await recordedVersion(target)) ?? "");
  const texts = { serverId, dataFolder: "x", configFolder: "x", bootId: "x", startedAt: "then" };
  await writeMarkers(target, { format: 1, phase: "clearing", ...texts });
  await clearServer(target);
}

test("a reseed that was interrupted is done by the next run", async () => {
  await ask(["undrain", "b"]);
  await until(async () => (await stateOf("a")) === "ready" && (await stateOf("b")) === "ready");
  const donor = mkdtempSync(join(folder, "from"));
  makeServer(donor, join(donor, "config"), { users: 5 });
  const to = mkdtempSync(join(folder, "to"));
  makeServer(to, join(to, "config"), {
    network:
      "<NetworkConfiguration><InternalHttpPort>8097</InternalHttpPort></NetworkConfiguration>",
  });
  const launcher = join(import.meta.dirname, "../../cli/jellybloom.mjs");
  const words = [
    ...["reseed", "b", "--from", donor, "--to", to, "--sidecar", sidecarOf("a")],
    ...["--limit", "1s", "--wait-limit", "20s"],
  ];
  /** Killed while a command of its owner's runs, which tells by a file that it does. */
  const interrupted = async (option: string): Promise<void> => {
    const reached = join(folder, `reached${option}`);
    const asked = ["--admin", door.admin, "--cluster-key", CLUSTER_KEY];
    rmSync(reached, { force: true });
    const command = `touch '${reached}'; sleep 60`;
    const child = spawn(process.execPath, [launcher, ...words, ...asked, option, command], {
      stdio: "ignore",
      detached: true,
    });
    const ended = once(child, "exit");
    await until(async () => existsSync(reached));
    process.kill(-(child.pid ?? 0), "SIGKILL");
    await ended;
  };
  const port = () => readFileSync(join(to, "config", "network.xml"), "utf8");

  await interrupted("--stop-command");
  expect(await isDraining("b")).toBe(true);
  await interrupted("--start-command");
  expect(await isDraining("b")).toBe(true);
  expect(port()).toContain("<InternalHttpPort>8097</InternalHttpPort>");
  const last = await ask(words);
  expect(last).toMatchObject({ code: 0, err: "" });
  expect(last.out).toContain("Users 5");
  expect(port()).toContain("<InternalHttpPort>8097</InternalHttpPort>");
  expect(await isDraining("b")).toBe(false);
}, 60_000);
