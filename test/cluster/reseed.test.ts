// A replica is made a copy of another again while somebody looks on: `jellybloom reseed` with a real door, real
// stand-ins, their folders, and their processes; and a replica whose data were put back gets nobody until then.

import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { markDeviceId } from "../../sidecar/truth.ts";
import { runCli } from "../support/cli.ts";
import { CLUSTER_KEY, type DoorProcess, startDoor } from "../support/door.ts";
import { copyDatabase } from "../support/jellyfin/database.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { databaseFile } from "../support/jellyfin/world.ts";
import { makeMedia } from "../support/media.ts";
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
