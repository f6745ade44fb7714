// Seeding with real files, real SQLite databases that a live process writes to, and real SIGKILLs.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as pause } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { keptVersion } from "../../sidecar/seed/own-settings.ts";
import { seed } from "../../sidecar/seed/seed.ts";
import {
  clearServer,
  markerName,
  parseMarker,
  place,
  stagingName,
  writeMarkers,
} from "../../sidecar/seed/target.ts";
import { runCli } from "../support/cli.ts";
import {
  ask,
  makeServer,
  modeOf,
  otherServerId,
  serverId,
  treeOf,
  write,
} from "../support/server-folders.ts";

let folder = "";
let from = "";
let to = "";
const children: ChildProcess[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "seed test "));
  from = join(folder, "old server");
  to = join(folder, "new server");
});

afterEach(async () => {
  for (const child of children.splice(0)) await kill(child);
  rmSync(folder, { recursive: true, force: true });
});

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function run(...words: string[]): Promise<Ran> {
  const places = words[0]?.startsWith("--from") ? [] : ["--from", from, "--to", to];
  const { code, out, err } = await runCli(["seed", ...places, ...words]);
  return { code, out: out.trimEnd(), err: err.trimEnd() };
}

const support = join(import.meta.dirname, "../support");
const launcher = join(import.meta.dirname, "../../cli/jellybloom.mjs");

function start(words: readonly string[], uid?: number): ChildProcess {
  const child = spawn(process.execPath, words, {
    stdio: ["ignore", "pipe", "pipe"],
    ...(uid === undefined ? {} : { uid, gid: uid }),
  });
  children.push(child);
  return child;
}

/** `jellybloom seed` in a process of its own, which can be killed. */
function startSeed(words: readonly string[] = [], uid?: number): ChildProcess {
  return start([launcher, "seed", "--from", from, "--to", to, ...words], uid);
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
}

async function textOf(child: ChildProcess): Promise<Ran> {
  const texts = { out: "", err: "" };
  child.stdout?.on("data", (bytes) => {
    texts.out += String(bytes);
  });
  child.stderr?.on("data", (bytes) => {
    texts.err += String(bytes);
  });
  const [code] = await once(child, "close");
  return { code: Number(code), ...texts };
}

async function startWriter(path: string, mode = "WAL", pauseMs = 1): Promise<ChildProcess> {
  mkdirSync(join(path, ".."), { recursive: true });
  const child = start([join(support, "database-writer.ts"), path, mode, String(pauseMs)]);
  if (child.stdout !== null) await once(child.stdout, "data");
  return child;
}

/** What a copy of a source at rest looks like, but for what a server makes anew. */
function copiedTree(path: string): Record<string, string> {
  const left = /^(cache|log|transcodes)(\/|$)/;
  return Object.fromEntries(Object.entries(treeOf(path)).filter(([name]) => !left.test(name)));
}

describe("a server at rest", () => {
  test("its copy has the same files, folders, databases, modes and times, and no caches or logs", async () => {
    makeServer(from, join(from, "config"));
    const poster = join("metadata", "library", "ab", "poster Zoë 日本.jpg");
    chmodSync(join(from, poster), 0o640);
    utimesSync(join(from, poster), 1_700_000_000.123, 1_700_000_000.123);
    const before = treeOf(from);
    const ran = await run();
    expect(ran).toMatchObject({ code: 0, err: "" });
    expect(Object.keys(treeOf(to)).sort()).toEqual(Object.keys(copiedTree(from)).sort());
    for (const [name, digest] of Object.entries(copiedTree(from))) {
      if (!/\.(db|sqlite)$/.test(name)) expect([name, treeOf(to)[name]]).toEqual([name, digest]);
    }
    expect(modeOf(join(to, poster))).toBe("640");
    expect(statSync(join(to, poster), { bigint: true }).mtimeNs).toBe(
      statSync(join(from, poster), { bigint: true }).mtimeNs,
    );
    expect(ask(join(to, "data", "jellyfin.db"), "SELECT count(*) FROM Users")).toBe(3);
    expect(
      ask(join(to, "plugins/Playback Reporting/reports.sqlite"), "SELECT count(*) FROM Activity"),
    ).toBe(2);
    expect(treeOf(from)).toEqual(before);
    expect(existsSync(join(to, stagingName)) || existsSync(join(to, markerName))).toBe(false);
  });

  test("tells the size first, then the progress in percent and bytes, then what to do next", async () => {
    makeServer(from, join(from, "config"));
    const { out } = await run();
    const lines = out.split("\n");
    expect(lines[0]).toBe(`From one folder: data folder ${from}, config folder ${from}/config.`);
    expect(lines[2]).toMatch(/^\d+ files, \d+\.\d KiB, of which 2 databases \(\d+\.\d KiB\)\.$/);
    expect(out).toMatch(/Copied 100 % \(\d+\.\d KiB of \d+\.\d KiB\)\./);
    expect(out).toContain("data/jellyfin.db: whole, Users 3, Devices 0, BaseItems 2.");
    expect(out).toContain(`is a whole copy of server ${serverId}, last run by Jellyfin 10.11.11.`);
    expect(out).toContain("- Port: the new server listens on 8096");
    expect(out).toContain("- KnownProxies is empty");
    expect(out).toContain("jellybloom up --replica a=http://OLD:8096");
  });

  test("--without leaves out what can be rebuilt, and nothing else", async () => {
    makeServer(from, join(from, "config"));
    const { code } = await run("--without", "trickplay,subtitles,attachments");
    expect(code).toBe(0);
    const missing = Object.keys(copiedTree(from)).filter((name) => !(name in treeOf(to)));
    expect(missing.map((name) => name.split("/").slice(0, 2).join("/"))).toEqual(
      expect.arrayContaining(["data/trickplay", "data/subtitles", "data/attachments"]),
    );
    expect(new Set(missing.map((name) => name.split("/")[1])).size).toBe(3);
  });

  test("a big file is copied whole, with lines of progress on the way", async () => {
    makeServer(from, join(from, "config"));
    const big = join(from, "metadata", "big.bin");
    const bytes = Buffer.alloc(1024 * 1024, "jellyfish");
    for (let part = 0; part < 16; part++) writeFileSync(big, bytes, { flag: "a" });
    const lines: string[] = [];
    await seed(
      {
        from,
        fromConfig: undefined,
        to,
        toConfig: undefined,
        without: [],
        seenAs: undefined,
        replace: undefined,
        followLinks: false,
        progressIntervalMs: 0,
        lockLimitMs: 1000,
      },
      (line) => lines.push(line),
    );
    const percents = lines.flatMap(
      (line) => /^Copied (\d+) % \(.* of 16\.\d MiB\)/.exec(line)?.[1] ?? [],
    );
    expect(percents.length).toBeGreaterThan(10);
    expect(percents.map(Number)).toEqual(percents.map(Number).sort((a, b) => a - b));
    expect(percents.filter((percent) => percent === "100")).toHaveLength(1);
    expect(treeOf(join(to, "metadata"))["big.bin"]).toBe(treeOf(join(from, "metadata"))["big.bin"]);
  });

  test.each([
    ["config beside data", "data", "config"],
    ["config around data", "data", "."],
    ["system folders", "var/lib/jellyfin", "etc/jellyfin"],
  ])("is found in the layout «%s»", async (kind, data, config) => {
    makeServer(join(from, data), join(from, config));
    const { code, out } = await run();
    expect(code).toBe(0);
    expect(out).toContain(`From ${kind}: data folder ${join(from, data)}`);
    const isSystem = kind === "system folders";
    const copy = isSystem ? [to, join(to, "config")] : [join(to, data), join(to, config)];
    expect(existsSync(join(copy[0] ?? "", "data", "device.txt"))).toBe(true);
    expect(existsSync(join(copy[1] ?? "", "system.xml"))).toBe(true);
    expect(existsSync(join(copy[0] ?? "", "cache"))).toBe(false);
  });

  test("whose two folders are named is copied to two named folders", async () => {
    const [data, config] = [join(folder, "x"), join(folder, "y")];
    makeServer(data, config);
    const { code, err } = await run(
      "--from",
      data,
      "--from-config",
      config,
      "--to",
      to,
      "--to-config",
      join(folder, "z"),
    );
    expect([code, err]).toEqual([0, ""]);
    expect(existsSync(join(folder, "z", "system.xml"))).toBe(true);
    expect(existsSync(join(to, "config"))).toBe(false);
  });
});

describe("the paths in its databases", () => {
  const asked = (): unknown[] =>
    [
      "SELECT Path FROM BaseItems WHERE Id = 'root'",
      "SELECT json_extract(Data, '$.PhysicalLocationsList[0]') FROM BaseItems WHERE Id = 'root'",
      "SELECT Path FROM BaseItemImageInfos",
      "SELECT Path FROM BaseItems WHERE Id = 'film'",
    ].map((sql) => ask(join(to, "data", "jellyfin.db"), sql));
  const pathsUnder = (path: string): string[] => [
    `${path}/root`,
    `${path}/root`,
    `${path}/metadata/library/ab/poster Zoë 日本.jpg`,
    "/media/films/a.mkv",
  ];

  test("follow the copy to its own folder, or the new server would use the old one's", async () => {
    makeServer(from, join(from, "config"));
    const { code, out } = await run();
    expect(code).toBe(0);
    expect(asked()).toEqual(pathsUnder(to));
    expect(out).toContain(`will see its data folder as ${to}, not ${from}: 3 paths`);
  });

  test("stay as they are where both servers see their folder alike, as in containers", async () => {
    makeServer(from, join(from, "config"), { seenAs: "/config" });
    const { code, out } = await run();
    expect(code).toBe(0);
    expect(asked()).toEqual(pathsUnder("/config"));
    expect(out).toContain("must see its data folder as /config, as the old one does");
  });

  test("become what --seen-as says, from a container to a system package and back", async () => {
    makeServer(from, join(from, "config"), { seenAs: "/config" });
    expect((await run("--seen-as", "/var/lib/jellyfin")).code).toBe(0);
    expect(asked()).toEqual(pathsUnder("/var/lib/jellyfin"));
  });
});

describe("a running server", () => {
  test("a database that is written to all the time is copied as of one moment, in one go", async () => {
    makeServer(from, join(from, "config"));
    const main = join(from, "data", "jellyfin.db");
    // Big enough to need several steps, between which the writer commits.
    const filled = new DatabaseSync(main);
    filled.exec("CREATE TABLE filler (x BLOB)");
    for (let part = 0; part < 40; part++) {
      filled.exec("INSERT INTO filler VALUES (randomblob(1000000))");
    }
    filled.close();
    await startWriter(main);
    await startWriter(join(from, "plugins", "Zoë's plugin", "own data"), "DELETE", 5);
    await pause(100);
    const ran = await run();
    expect(ran).toMatchObject({ code: 0, err: "" });
    for (const name of ["data/jellyfin.db", "plugins/Zoë's plugin/own data"]) {
      const debit = ask(join(to, name), "SELECT count(*) FROM debit");
      expect(debit).toBeGreaterThanOrEqual(200);
      expect(ask(join(to, name), "SELECT count(*) FROM credit")).toBe(debit);
      expect(ask(join(to, name), "PRAGMA integrity_check")).toBe("ok");
      expect(existsSync(join(to, `${name}-wal`))).toBe(false);
    }
  });

  test("what is only in the write-ahead log yet is in the copy", async () => {
    makeServer(from, join(from, "config"));
    const server = new DatabaseSync(join(from, "data", "jellyfin.db"));
    server.exec("PRAGMA wal_autocheckpoint = 0; INSERT INTO Users VALUES ('new')");
    try {
      expect((await run()).code).toBe(0);
    } finally {
      server.close();
    }
    expect(ask(join(to, "data", "jellyfin.db"), "SELECT count(*) FROM Users")).toBe(4);
  });

  test.each([
    ["with", true],
    ["without", false],
  ])(
    "a killed server's log is in the copy, and its files stay as they are (%s its index)",
    async (_, keepsIndex) => {
      makeServer(from, join(from, "config"));
      const main = join(from, "data", "jellyfin.db");
      const server = await startWriter(main);
      await kill(server);
      if (!keepsIndex) rmSync(`${main}-shm`);
      expect(statSync(`${main}-wal`).size).toBeGreaterThan(0);
      const before = treeOf(join(from, "data"));
      const ran = await run();
      expect(ran).toMatchObject({ code: 0, err: "" });
      const after = treeOf(join(from, "data"));
      for (const name of ["jellyfin.db", "jellyfin.db-wal"]) expect(after[name]).toBe(before[name]);
      if (!keepsIndex) expect(after["jellyfin.db-shm"]).toBeUndefined();
      const debit = ask(join(to, "data", "jellyfin.db"), "SELECT count(*) FROM debit");
      expect(debit).toBeGreaterThanOrEqual(200);
      expect(ask(join(to, "data", "jellyfin.db"), "SELECT count(*) FROM credit")).toBe(debit);
    },
  );

  test("files that come, change and go while the copy runs end as they are at the end", async () => {
    makeServer(from, join(from, "config"));
    for (let file = 0; file < 300; file++) write(join(from, "metadata", `${file}.nfo`), "old");
    const copying = run();
    const path = join(to, stagingName, "new", "metadata", "200.nfo");
    while (!existsSync(path)) await pause(1);
    write(join(from, "metadata", "200.nfo"), "changed");
    write(join(from, "metadata", "born.nfo"), "born");
    rmSync(join(from, "metadata", "100.nfo"));
    const { code, out } = await copying;
    expect(code).toBe(0);
    const metadata = treeOf(join(to, "metadata"));
    expect(metadata).toEqual(treeOf(join(from, "metadata")));
    expect(out).toContain("changed meanwhile");
  });
});

describe("an interrupted copy", () => {
  test("after a SIGKILL at any moment the target is marked as unfinished, and the next run makes it whole", async () => {
    makeServer(from, join(from, "config"));
    for (let file = 0; file < 400; file++)
      write(join(from, "metadata", String(file % 50), `${file}.nfo`), `text ${file}`);
    const whole = treeOf(join(from, "metadata"));
    let interrupted = 0;
    for (const line of ["From", "Copying.", "Copied", "Checking"]) {
      for (const delayMs of [0, 10, 40, 120]) {
        await killAtLine(line, delayMs);
        if (!existsSync(to)) continue;
        if (existsSync(join(to, markerName))) {
          interrupted++;
          // Jellyfin refuses to start beside an unexpected file of such a name.
          expect(markerName).toMatch(/^\.jellyfin-/);
        } else if (existsSync(join(to, "data", "device.txt"))) {
          expect(treeOf(join(to, "metadata"))).toEqual(whole);
          rmSync(to, { recursive: true });
        } else {
          // Killed before the first byte, or after the last deed but one: nothing looks like a server.
          expect(Object.keys(treeOf(to)).filter((name) => !name.startsWith(stagingName))).toEqual(
            [],
          );
        }
      }
    }
    expect(interrupted).toBeGreaterThan(4);
    rmSync(to, { recursive: true, force: true });
    await killAtLine("Copying.", 20);
    expect(existsSync(join(to, markerName))).toBe(true);
    expect(await run()).toMatchObject({ code: 0, err: "" });
    expect(Object.keys(treeOf(to)).sort()).toEqual(Object.keys(copiedTree(from)).sort());
    expect(treeOf(join(to, "metadata"))).toEqual(whole);
  }, 120_000);

  async function killAtLine(line: string, delayMs: number): Promise<void> {
    const child = startSeed();
    const ended = once(child, "exit");
    await new Promise<void>((said) => {
      child.stdout?.on("data", (bytes) => String(bytes).includes(line) && said());
      void ended.then(() => said());
    });
    await Promise.race([pause(delayMs), ended]);
    await kill(child);
  }

  test("goes on where it was, and a half-written file is not believed", async () => {
    makeServer(from, join(from, "config"));
    const big = join(from, "metadata", "big.bin");
    writeFileSync(big, Buffer.alloc(200 * 1024 * 1024, "jellyfish"));
    const child = startSeed();
    const part = join(to, stagingName, "part");
    const isUnderWay = (): boolean =>
      [0, 1, 2, 3].some(
        (worker) =>
          (lstatSync(join(part, `part-${worker}`), { throwIfNoEntry: false })?.size ?? 0) >
          10 * 1024 * 1024,
      );
    while (!isUnderWay()) await pause(1);
    await kill(child);
    expect(existsSync(join(to, stagingName, "new", "metadata", "big.bin"))).toBe(false);
    // A server that does not know the marker finds a file where its folder of databases should be.
    expect(lstatSync(join(to, "data")).isFile()).toBe(true);
    expect(() => mkdirSync(join(to, "data"), { recursive: true })).toThrow();
    const { code, out } = await run();
    expect(code).toBe(0);
    expect(out).toMatch(/files? of an earlier run need no copying/);
    expect(spawnSync("cmp", [join(to, "metadata", "big.bin"), big]).status).toBe(0);
    expect(out).not.toContain("unfinished");
  }, 30_000);

  test("staged files are not believed after the machine was restarted", async () => {
    makeServer(from, join(from, "config"));
    await stopBeforePlacing("copying");
    const marker = join(to, markerName);
    writeFileSync(
      marker,
      readFileSync(marker, "utf8").replace(/"bootId": "[^"]*"/, '"bootId": "another"'),
    );
    writeFileSync(join(to, stagingName, "new", "config", "users", "Zoë", "left over"), "x");
    const { code, out } = await run();
    expect(code).toBe(0);
    expect(out).not.toContain("earlier run");
    expect(existsSync(join(to, "config", "users", "Zoë", "left over"))).toBe(false);
  });

  test.each([0, 1, 2, 3, 4, 5])(
    "interrupted with %i entries in place, it is finished by the next run",
    async (count) => {
      makeServer(from, join(from, "config"));
      const names = await stopBeforePlacing("placing");
      expect(names.at(-1)).toBe("data");
      for (const name of names.slice(0, count)) {
        rmSync(join(to, name), { recursive: true, force: true });
        renameSync(join(to, stagingName, "new", name), join(to, name));
      }
      const ran = await run();
      expect(ran).toMatchObject({ code: 0, err: "" });
      expect(ran.out).toContain("was whole and only had to be put into place");
      expect(Object.keys(treeOf(to)).sort()).toEqual(Object.keys(copiedTree(from)).sort());
    },
  );

  test("interrupted while the old server of the target is moved aside, it is finished, too", async () => {
    makeServer(from, join(from, "config"));
    makeServer(to, join(to, "config"), { id: otherServerId, users: 8 });
    write(join(to, "plugins", "old plugin", "old.dll"), "old");
    await stopBeforePlacing("clearing");
    rmSync(join(to, "metadata"), { recursive: true });
    expect(await run()).toMatchObject({ code: 0, err: "" });
    expect(ask(join(to, "data", "jellyfin.db"), "SELECT count(*) FROM Users")).toBe(3);
    expect(existsSync(join(to, "plugins", "old plugin"))).toBe(false);
    expect(existsSync(join(to, stagingName))).toBe(false);
  });

  test("one of another server is thrown away and never mixed with this one", async () => {
    makeServer(from, join(from, "config"));
    await stopBeforePlacing("placing");
    renameSync(join(to, stagingName, "new", "config"), join(to, "config"));
    const third = join(folder, "third");
    makeServer(third, join(third, "config"), { id: otherServerId, users: 9 });
    rmSync(join(third, "config", "users"), { recursive: true });
    const ran = await run("--from", third, "--to", to);
    expect(ran).toMatchObject({ code: 0, err: "" });
    expect(Object.keys(treeOf(to)).sort()).toEqual(Object.keys(copiedTree(third)).sort());
    expect(ask(join(to, "data", "jellyfin.db"), "SELECT count(*) FROM Users")).toBe(9);
  });

  /** A target as a run leaves it that dies with everything staged. Returns the entries in their order. */
  async function stopBeforePlacing(phase: string): Promise<string[]> {
    const whole = join(folder, "whole");
    expect((await run("--from", from, "--to", whole)).code).toBe(0);
    const order = ["config", "metadata", "plugins", "root", "data"];
    mkdirSync(join(to, stagingName), { recursive: true });
    cpSync(whole, join(to, stagingName, "new"), { recursive: true, preserveTimestamps: true });
    const boot = existsSync("/proc/sys/kernel/random/boot_id")
      ? readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()
      : "";
    const marker = {
      format: 1,
      phase,
      serverId,
      dataFolder: from,
      configFolder: join(from, "config"),
      bootId: boot,
      startedAt: "then",
    };
    writeFileSync(join(to, markerName), JSON.stringify(marker, undefined, 2));
    return order;
  }
});

describe("a server that is replaced", () => {
  /** As Jellyfin writes it: an element for each value, none for what has no value. */
  const xml = (root: string, ...lines: readonly string[]): string =>
    [
      '<?xml version="1.0" encoding="utf-8"?>',
      `<${root} xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema">`,
      ...lines.map((line) => `  ${line}`),
      `</${root}>`,
    ].join("\n");
  const port = (number: number) => `<InternalHttpPort>${number}</InternalHttpPort>`;
  const hardware = (name: string) => `<HardwareAccelerationType>${name}</HardwareAccelerationType>`;
  const proxies = (address: string) =>
    `<KnownProxies>\n    <string>${address}</string>\n  </KnownProxies>`;
  const device = "<VaapiDevice>/dev/dri/renderD128</VaapiDevice>";
  const cache = (path: string) => `<CachePath>${path}</CachePath>`;
  const later = "<Later><InternalHttpPort>1</InternalHttpPort></Later>";
  const version = "<PreviousVersionStr>10.11.11</PreviousVersionStr>";
  const donor = {
    network: xml("NetworkConfiguration", "<BaseUrl />", port(8096), later, proxies("10.0.0.1")),
    encoding: xml("EncodingOptions", hardware("vaapi"), device, "<H264Crf>21</H264Crf>"),
    system: xml(
      "ServerConfiguration",
      version,
      cache("/cache-a"),
      "<EnableFolderView>true</EnableFolderView>",
    ),
  };
  const replaced = {
    network: xml("NetworkConfiguration", "<BaseUrl />", port(8097), proxies("127.0.0.1")),
    encoding: xml("EncodingOptions", hardware("none"), "<H264Crf>23</H264Crf>"),
    system: xml(
      "ServerConfiguration",
      "<ServerName>b</ServerName>",
      "<EnableFolderView>false</EnableFolderView>",
    ),
  };
  /** What is the server's own is as it was, and all else as the donor has it. */
  const expected = {
    network: donor.network.replace(port(8096), port(8097)).replace("10.0.0.1", "127.0.0.1"),
    encoding: donor.encoding
      .replace(hardware("vaapi"), hardware("none"))
      .replace(`\n  ${device}`, ""),
    system: donor.system
      .replace(`\n  ${cache("/cache-a")}`, "")
      .replace("\n</", "\n  <ServerName>b</ServerName>\n</"),
  };
  const settingsAt = (server: string) => ({
    network: readFileSync(join(server, "config", "network.xml"), "utf8"),
    encoding: readFileSync(join(server, "config", "encoding.xml"), "utf8"),
    system: readFileSync(join(server, "config", "system.xml"), "utf8"),
  });

  beforeEach(() => {
    makeServer(from, join(from, "config"), donor);
    makeServer(to, join(to, "config"), { id: otherServerId, version: "10.11.8", ...replaced });
    chmodSync(join(from, "config", "network.xml"), 0o640);
  });

  test("keeps its own ports, addresses, folders and hardware, and takes everything else", async () => {
    const ran = await run("--replace", otherServerId);
    expect(ran).toMatchObject({ code: 0, err: "" });
    expect(settingsAt(to)).toEqual(expected);
    expect(settingsAt(from)).toEqual(donor);
    expect(modeOf(join(to, "config", "network.xml"))).toBe("640");
    expect(ran.out).toContain("Kept as they were here");
    expect(ran.out).toContain("It listens on 8097");
    expect(ran.out).not.toMatch(/as the old one does|acceleration is|put the door in front/);
    expect(existsSync(join(to, stagingName))).toBe(false);
  });

  test("keeps them when it becomes what an archive holds", async () => {
    const archive = join(folder, "a.tar");
    expect((await runCli(["backup", "--from", from, "--to", archive])).code).toBe(0);
    const ran = await run("--from-archive", archive, "--to", to, "--replace", otherServerId);
    expect(ran).toMatchObject({ code: 0, err: "" });
    expect(settingsAt(to)).toEqual(expected);
    expect(ran.out).toContain("It listens on 8097");
  });

  test("keeps what the donor has no file for, and has the donor's where it had none", async () => {
    rmSync(join(from, "config", "encoding.xml"));
    rmSync(join(to, "config", "system.xml"));
    expect(await run("--replace", otherServerId)).toMatchObject({ code: 0, err: "" });
    expect(settingsAt(to)).toEqual({
      network: expected.network,
      encoding: xml("EncodingOptions", hardware("none")).concat("\n"),
      system: donor.system,
    });
  });

  test("with a file that is no settings file has the donor's, and is told to look", async () => {
    writeFileSync(
      join(to, "config", "encoding.xml"),
      "<EncodingOptions><Broken></EncodingOptions>",
    );
    const ran = await run("--replace", otherServerId);
    expect(ran).toMatchObject({ code: 0, err: "" });
    expect(ran.out).toContain("encoding.xml of the server that is replaced cannot be read");
    expect(settingsAt(to)).toEqual({ ...expected, encoding: donor.encoding });
  });

  /** A run that dies with everything staged, as far as `phase` says; a part of the entries are moved then. */
  async function dieIn(phase: "copying" | "clearing" | "cleared" | "placing"): Promise<void> {
    const died = seed(
      {
        ...{ from, fromConfig: undefined, to, toConfig: undefined, without: [], seenAs: undefined },
        ...{ replace: otherServerId, followLinks: false, progressIntervalMs: 1, lockLimitMs: 1 },
        announce: async () => {
          throw new Error("it dies");
        },
      },
      () => undefined,
    );
    await expect(died).rejects.toThrow("it dies");
    if (phase === "copying") return;
    const target = {
      kind: "one folder",
      dataFolder: to,
      configFolder: join(to, "config"),
    } as const;
    const marker = parseMarker(readFileSync(join(to, markerName), "utf8"));
    if (marker === undefined) throw new Error("there is no marker");
    await writeMarkers(target, { ...marker, phase: "clearing" });
    if (phase === "clearing") return;
    await clearServer(target);
    if (phase === "cleared") return;
    await writeMarkers(target, { ...marker, phase: "placing" });
    renameSync(join(to, stagingName, "new", "data"), join(folder, "held"));
    await place(target);
    renameSync(join(folder, "held"), join(to, stagingName, "new", "data"));
  }

  const phases = ["copying", "clearing", "cleared", "placing"] as const;

  test.each(phases)("keeps them when the run dies %s and is run again", async (phase) => {
    await dieIn(phase);
    // By which a run after this one knows whose program the copy is for.
    const target = {
      kind: "one folder",
      dataFolder: to,
      configFolder: join(to, "config"),
    } as const;
    expect(await keptVersion(target)).toBe("10.11.8");
    expect(await run("--replace", otherServerId)).toMatchObject({ code: 0, err: "" });
    expect(settingsAt(to)).toEqual(expected);
    expect(existsSync(join(to, stagingName))).toBe(false);
  });

  test.each(phases)(
    "keeps them when the run dies %s and another server is copied",
    async (phase) => {
      await dieIn(phase);
      const third = join(folder, "third");
      makeServer(third, join(third, "config"), donor);
      const ran = await run("--from", third, "--to", to, "--replace", otherServerId);
      expect(ran).toMatchObject({ code: 0, err: "" });
      expect(settingsAt(to)).toEqual(expected);
    },
  );

  test("keeps nothing of a server that its owner removed before", async () => {
    await dieIn("copying");
    for (const name of [
      markerName,
      "data",
      "config",
      "metadata",
      "plugins",
      "root",
      ".jellyfin-data",
    ]) {
      rmSync(join(to, name), { recursive: true, force: true });
    }
    expect(await run()).toMatchObject({ code: 0, err: "" });
    expect(settingsAt(to)).toEqual(donor);
  });
});

describe("links", () => {
  test("that stay inside are copied as links to the same place in the copy", async () => {
    makeServer(from, join(from, "config"));
    symlinkSync("library", join(from, "metadata", "relative"));
    symlinkSync(join(from, "root", "default"), join(from, "metadata", "absolute"));
    symlinkSync(join(from, "config"), join(from, "root", "settings"));
    expect(await run()).toMatchObject({ code: 0, err: "" });
    expect(readlinkSync(join(to, "metadata", "relative"))).toBe("library");
    expect(readlinkSync(join(to, "metadata", "absolute"))).toBe("../root/default");
    expect(readlinkSync(join(to, "root", "settings"))).toBe("../config");
  });

  test("that lead out stop the copy, all told at once, or are followed when asked", async () => {
    makeServer(from, join(from, "config"));
    const outside = join(folder, "big disk");
    write(join(outside, "people", "Anna.jpg"), "face");
    symlinkSync(outside, join(from, "metadata", "out"));
    symlinkSync(join(outside, "people", "Anna.jpg"), join(from, "root", "face.jpg"));
    symlinkSync("/nowhere/at/all", join(from, "root", "broken"));
    const refused = await run();
    expect(refused.code).toBe(1);
    expect(refused.err.split("\n")).toHaveLength(2);
    expect(refused.err).toContain("metadata/out is a link out of the server's folders, to");
    expect(refused.err).toContain("--follow-links");
    expect(refused.out).toContain(
      "root/broken is a link to /nowhere/at/all, where nothing is, and is left out.",
    );
    expect(existsSync(to)).toBe(false);
    expect(await run("--follow-links")).toMatchObject({ code: 0, err: "" });
    expect(lstatSync(join(to, "metadata", "out")).isDirectory()).toBe(true);
    expect(readFileSync(join(to, "metadata", "out", "people", "Anna.jpg"), "utf8")).toBe("face");
    expect(readFileSync(join(to, "root", "face.jpg"), "utf8")).toBe("face");
  });

  test("that lead round are never followed", async () => {
    makeServer(from, join(from, "config"));
    symlinkSync(folder, join(from, "metadata", "round"));
    const { code, err } = await run("--follow-links");
    expect(code).toBe(1);
    expect(err).toContain("it leads round");
  });
});

describe("refusals change nothing and say what to do", () => {
  test("a target with another server's data, unless its id is named", async () => {
    makeServer(from, join(from, "config"));
    makeServer(to, join(to, "config"), { id: otherServerId, users: 8 });
    write(join(to, "media", "holiday.mkv"), "mine");
    const before = treeOf(to);
    const refused = await run();
    expect(refused.code).toBe(1);
    expect(refused.err).toBe(
      `${to} holds another server's data, of the server with id ${otherServerId}. To throw` +
        ` that away, users and watched states and all, add --replace ${otherServerId}; else` +
        " name an empty folder.",
    );
    expect((await run("--replace", serverId)).code).toBe(1);
    expect(treeOf(to)).toEqual(before);
    expect(await run("--replace", otherServerId)).toMatchObject({ code: 0, err: "" });
    expect(ask(join(to, "data", "jellyfin.db"), "SELECT count(*) FROM Users")).toBe(3);
    expect(readFileSync(join(to, "media", "holiday.mkv"), "utf8")).toBe("mine");
    expect(existsSync(join(to, "cache"))).toBe(false);
  });

  test("a target that is a copy of this server already", async () => {
    makeServer(from, join(from, "config"));
    expect((await run()).code).toBe(0);
    const refused = await run();
    expect(refused.code).toBe(1);
    expect(refused.err).toContain(
      "already holds a copy of this server, which may have changed since",
    );
    expect(await run("--replace", serverId)).toMatchObject({ code: 0, err: "" });
  });

  test("a target with a database but without an id counts as a server, named unknown", async () => {
    makeServer(from, join(from, "config"));
    makeServer(to, join(to, "config"));
    rmSync(join(to, "data", "device.txt"));
    expect((await run()).err).toContain("--replace unknown");
    expect((await run("--replace", "unknown")).code).toBe(0);
  });

  test("a target with a server running on it", async () => {
    makeServer(from, join(from, "config"));
    makeServer(to, join(to, "config"), { id: otherServerId });
    await startWriter(join(to, "data", "jellyfin.db"));
    const { code, err } = await run("--replace", otherServerId);
    expect(code).toBe(1);
    expect(err).toMatch(
      /^A server is running on the target: process \d+ \(.*\) has .*jellyfin\.db.* open\. Stop that server/,
    );
    expect(existsSync(join(to, markerName))).toBe(false);
  });

  test("a folder with somebody's other files", async () => {
    makeServer(from, join(from, "config"));
    write(join(to, "thesis.odt"), "years of work");
    const { code, err } = await run();
    expect(code).toBe(1);
    expect(err).toContain(`${to} is not empty: it holds ${join(to, "thesis.odt")}`);
  });

  test("source and target the same, one inside the other, or the same by another path", async () => {
    makeServer(from, join(from, "config"));
    symlinkSync(from, join(folder, "alias"));
    for (const [target, words] of [
      [from, "are the same folder"],
      [join(folder, "alias"), "are the same folder"],
      [join(from, "copy"), "lie one inside the other"],
      [folder, "lie one inside the other"],
    ] as const) {
      const { code, err } = await run("--from", from, "--to", target);
      expect([target, code, err]).toEqual([target, 1, expect.stringContaining(words)]);
    }
  });

  test("a source without a server, without an id, or with its data in another kind of database", async () => {
    mkdirSync(from);
    expect((await run()).err).toContain(`There is no Jellyfin server in ${from}`);
    expect((await run("--from", join(folder, "nothing"), "--to", to)).err).toContain(
      "there is no such folder",
    );
    makeServer(from, join(from, "config"));
    rmSync(join(from, "data", "device.txt"));
    expect((await run()).err).toContain("start the server once");
    write(join(from, "data", "device.txt"), serverId);
    write(
      join(from, "config", "database.xml"),
      "<D><DatabaseType>PLUGIN_PROVIDER</DatabaseType></D>",
    );
    expect((await run()).err).toContain("PLUGIN_PROVIDER");
    expect(existsSync(to)).toBe(false);
  });

  test("a target without room for the copy", async () => {
    makeServer(from, join(from, "config"));
    const huge = join(from, "metadata", "huge.bin");
    writeFileSync(huge, "");
    truncateSync(huge, 8 * 1024 ** 4);
    const { code, err } = await run();
    expect(code).toBe(1);
    expect(err).toMatch(
      /^There is not enough room at .*: 8\.0 TiB are needed and .* are free\. Make room/,
    );
    expect(existsSync(to)).toBe(false);
  });

  test("a source that is itself an unfinished copy", async () => {
    makeServer(from, join(from, "config"));
    write(join(from, markerName), "{}");
    expect((await run()).err).toContain("is itself an unfinished copy");
  });

  test("a damaged database is named, and nothing is put into place", async () => {
    makeServer(from, join(from, "config"));
    const plugin = join(from, "plugins", "broken.db");
    const database = new DatabaseSync(plugin);
    database.exec(
      "CREATE TABLE t (x); CREATE INDEX i ON t (x); WITH RECURSIVE n(x) AS (SELECT 1 UNION" +
        " ALL SELECT x + 1 FROM n WHERE x < 5000) INSERT INTO t SELECT hex(randomblob(40))" +
        " FROM n",
    );
    database.close();
    const bytes = readFileSync(plugin);
    bytes.fill(0x5a, 4096 * 3, 4096 * 6);
    writeFileSync(plugin, bytes);
    const { code, err } = await run();
    expect(code).toBe(1);
    expect(err).toContain(`${plugin}`);
    expect(err).toContain("damaged");
    expect(existsSync(join(to, "data", "device.txt"))).toBe(false);
    expect(existsSync(join(to, markerName))).toBe(true);
    rmSync(plugin);
    expect(await run()).toMatchObject({ code: 0, err: "" });
    expect(existsSync(join(to, "plugins", "broken.db"))).toBe(false);
  });

  test("two runs into the same target at a time", async () => {
    makeServer(from, join(from, "config"));
    writeFileSync(join(from, "metadata", "big.bin"), Buffer.alloc(64 * 1024 * 1024, "x"));
    const [one, other] = await Promise.all([
      textOf(startSeed()),
      pause(50).then(() => textOf(startSeed())),
    ]);
    const codes = [one.code, other.code].sort();
    // The second comes while the first copies, or after it: then the target holds a copy already.
    expect(codes).toEqual([0, 1]);
    expect(one.err + other.err).toMatch(/Another run of seed is copying|already holds a copy/);
    expect(treeOf(join(to, "metadata"))).toEqual(treeOf(join(from, "metadata")));
  }, 30_000);

  test("wrong options are all told at once, with exit code 2", async () => {
    const { code, err } = await run(
      "--from",
      "",
      "--without",
      "films",
      "--replace",
      "x",
      "--force",
    );
    expect(code).toBe(2);
    for (const words of [
      "--from must be a path",
      "--to",
      "--without must be some of trickplay",
      "--replace must be",
      "Unknown option --force",
    ]) {
      expect(err).toContain(words);
    }
  });
});

// Root may read everything, so these run as another user; where the tests are not root's, as that user.
describe.runIf(process.platform === "linux")("rights", () => {
  const nobody = process.geteuid?.() === 0 ? 65534 : undefined;
  const seedAs = async (...words: string[]): Promise<Ran> => await textOf(startSeed(words, nobody));

  test("unreadable files are all told at once", async () => {
    makeServer(from, join(from, "config"));
    chmodSync(folder, 0o777);
    chmodSync(join(from, "data", "jellyfin.db"), 0);
    chmodSync(join(from, "metadata", "library"), 0);
    const { code, err } = await seedAs();
    expect(code).toBe(1);
    expect(err).toContain(
      `${join(from, "data", "jellyfin.db")} cannot be read: run this as the user that owns it`,
    );
    expect(err).toContain(`${join(from, "metadata", "library")} cannot be read`);
    expect(existsSync(to)).toBe(false);
    chmodSync(join(from, "metadata", "library"), 0o755);
  });

  test("a source that may only be read is copied, with what is in a killed server's log", async () => {
    makeServer(from, join(from, "config"));
    const main = join(from, "data", "jellyfin.db");
    await kill(await startWriter(main));
    rmSync(`${main}-shm`);
    chmodSync(folder, 0o777);
    chmodSync(join(from, "data"), 0o555);
    const ran = await seedAs();
    expect(ran).toMatchObject({ code: 0, err: "" });
    const debit = ask(join(to, "data", "jellyfin.db"), "SELECT count(*) FROM debit");
    expect(debit).toBeGreaterThanOrEqual(200);
    chmodSync(join(from, "data"), 0o755);
  });

  test("a live source that may only be read is copied as of one moment", async () => {
    makeServer(from, join(from, "config"));
    await startWriter(join(from, "data", "jellyfin.db"));
    chmodSync(folder, 0o777);
    chmodSync(join(from, "data"), 0o555);
    const ran = await seedAs();
    expect(ran).toMatchObject({ code: 0, err: "" });
    const debit = ask(join(to, "data", "jellyfin.db"), "SELECT count(*) FROM debit");
    expect(ask(join(to, "data", "jellyfin.db"), "SELECT count(*) FROM credit")).toBe(debit);
    chmodSync(join(from, "data"), 0o755);
  });

  test("a target that may not be written to is refused", async () => {
    makeServer(from, join(from, "config"));
    chmodSync(folder, 0o755);
    mkdirSync(to);
    chmodSync(to, 0o555);
    const { code, err } = await seedAs();
    expect(code).toBe(1);
    expect(err).toContain(`${to} cannot be written to`);
  });
});
