// Backups and seeds from archives: real files, real databases that a live process writes to, real tar, a real sidecar
// port that breaks off in the middle.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { text } from "node:stream/consumers";
import { setTimeout as pause } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { quarantineNoteId, quarantineValue } from "../../core/cluster/truth.ts";
import type { GuardedRoute } from "../../core/service/health.ts";
import { createSeal } from "../../core/service/seal.ts";
import { createDonor } from "../../sidecar/seed/donor.ts";
import { sidecarInput } from "../../sidecar/seed/inputs.ts";
import { type ArchiveInput, restore as restoreFrom } from "../../sidecar/seed/restore.ts";
import { WatchedSource } from "../../sidecar/seed/source.ts";
import { tarHeader } from "../../sidecar/seed/tar.ts";
import { markerName, stagingName } from "../../sidecar/seed/target.ts";
import { runCli } from "../support/cli.ts";
import { ask, makeServer, modeOf, serverId, treeOf, write } from "../support/server-folders.ts";

const clusterKey = "a-key-that-every-part-of-a-test-cluster-shares";
const launcher = join(import.meta.dirname, "../../cli/jellybloom.mjs");
const filesCount = 300;
const fileBytes = 15_000;
/** A file system keeps the time of a change to 2 s at worst. */
const clockGrainMs = 2100;

/** The files come in the order of their numbers. Each tenth is a picture, whose time is kept more exactly. */
function many(server: string, index: number): string {
  const type = index % 10 === 0 ? "jpg" : "nfo";
  return join(server, "metadata", "many", `${String(index).padStart(3, "0")}.${type}`);
}

/** Of those who send it over the network. It is made early: what is as young as a copy of it is always sent again. */
let source = "";
let madeAtMs = 0;
let folder = "";
let from = "";
let to = "";
let archive = "";
const children: ChildProcess[] = [];
const servers: Server[] = [];

beforeAll(() => {
  source = mkdtempSync(join(tmpdir(), "archive source "));
  makeServer(source, join(source, "config"));
  for (let index = 0; index < filesCount; index++) {
    write(many(source, index), randomBytes(fileBytes));
  }
  madeAtMs = performance.now();
});

afterAll(() => rmSync(source, { recursive: true, force: true }));

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "archive test "));
  from = join(folder, "old server");
  to = join(folder, "new server");
  archive = join(folder, "a.tar");
});

afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill("SIGKILL");
    await once(child, "exit");
  }
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
  rmSync(folder, { recursive: true, force: true });
});

/** What a copy of a source at rest looks like, but for what a server makes anew, and for databases, which differ in bytes. */
function copied(path: string): Record<string, string> {
  const left = /^(cache|log|transcodes)(\/|$)|\.(db|sqlite)$/;
  return Object.fromEntries(Object.entries(treeOf(path)).filter(([name]) => !left.test(name)));
}

function usersAt(server: string): unknown {
  return ask(join(server, "data", "jellyfin.db"), "SELECT count(*) FROM Users");
}

async function backUp(...more: string[]) {
  return await runCli(["backup", "--from", from, "--to", archive, ...more]);
}

async function restore(...more: string[]) {
  return await runCli(["seed", "--from-archive", archive, "--to", to, ...more]);
}

describe("a backup", () => {
  test("is a plain tar file with everything that matters, and a server again when it is seeded", async () => {
    makeServer(from, join(from, "config"));
    const poster = join("metadata", "library", "ab", "poster Zoë 日本.jpg");
    chmodSync(join(from, poster), 0o640);
    utimesSync(join(from, poster), 1_700_000_000.123, 1_700_000_000.123);
    const long = join("metadata", "x".repeat(120), `${"y".repeat(120)}.nfo`);
    write(join(from, long), "a long way down");
    write(join(from, "data", "livetv", "timers.json"), "[]");
    symlinkSync("../plugins", join(from, "metadata", "inside"));

    expect((await backUp()).code).toBe(0);
    const listed = spawnSync("tar", ["--list", "--file", archive], { encoding: "utf8" });
    expect({ status: listed.status, err: listed.stderr }).toEqual({ status: 0, err: "" });
    for (const name of ["data/device.txt", "data/jellyfin.db", "data/livetv/timers.json"]) {
      expect(listed.stdout).toContain(`data/${name}`);
    }

    const verified = await runCli(["backup", "--verify", archive]);
    expect(verified).toMatchObject({ code: 0, err: "" });
    expect(verified.out).toContain(`server ${serverId} (Jellyfin 10.11.11)`);
    expect(verified.out).toContain("data/data/jellyfin.db: whole, Users 3");

    expect(await restore()).toMatchObject({ code: 0, err: "" });
    expect(copied(to)).toEqual(copied(from));
    expect(modeOf(join(to, poster))).toBe("640");
    const exact = (path: string) => statSync(path, { bigint: true }).mtimeNs;
    expect(exact(join(to, poster))).toBe(exact(join(from, poster)));
    expect(ask(join(to, "data", "jellyfin.db"), "SELECT count(*) FROM Users")).toBe(3);
    expect(existsSync(join(to, markerName))).toBe(false);
  });

  test("has each database as of one moment while a server writes to it", async () => {
    makeServer(from, join(from, "config"));
    const path = join(from, "data", "data", "busy.db");
    mkdirSync(join(path, ".."), { recursive: true });
    const script = join(import.meta.dirname, "../support/database-writer.ts");
    const writer = spawn(process.execPath, [script, path, "WAL", "1"], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    children.push(writer);
    if (writer.stdout !== null) await once(writer.stdout, "data");
    expect((await backUp()).code).toBe(0);
    const verified = await runCli(["backup", "--verify", archive]);
    expect(verified).toMatchObject({ code: 0 });
    expect(verified.out).toContain("data/data/data/busy.db: whole");
  });

  test("goes to the standard output when it is asked to, and nothing else does", async () => {
    makeServer(from, join(from, "config"));
    const ran = spawnSync(process.execPath, [launcher, "backup", "--from", from, "--to", "-"], {
      maxBuffer: 64 * 1024 * 1024,
    });
    expect(ran.status).toBe(0);
    writeFileSync(archive, ran.stdout);
    expect((await runCli(["backup", "--verify", archive])).code).toBe(0);
  });

  test("that is cut short or changed in one byte is refused, and nothing is put into place", async () => {
    makeServer(from, join(from, "config"));
    await backUp();
    const whole = readFileSync(archive);
    const spoilt = Buffer.from(whole);
    spoilt.writeUInt8(spoilt.readUInt8(whole.length >> 1) ^ 1, whole.length >> 1);
    for (const [bytes, words] of [
      [whole.subarray(0, whole.length >> 1), "ends in the middle"],
      [whole.subarray(0, -1024 - 2048), /ends/],
      [spoilt, /damaged/],
    ] as const) {
      writeFileSync(archive, bytes);
      const verified = await runCli(["backup", "--verify", archive]);
      expect(verified.code).toBe(1);
      expect(verified.err).toMatch(words);
      const ran = await restore();
      expect(ran.code).toBe(1);
      expect(ran.err).toContain("nothing was put into place");
      expect(existsSync(to)).toBe(false);
    }
  });

  test("with a damaged database does not pass its proof", async () => {
    makeServer(from, join(from, "config"));
    await backUp();
    const bytes = readFileSync(archive);
    // The whole archive is made again around a database that is spoilt, so that its sum is right.
    truncateSync(join(from, "plugins/Playback Reporting/reports.sqlite"), 5000);
    rmSync(archive);
    const again = await backUp();
    if (again.code === 0) {
      const verified = await runCli(["backup", "--verify", archive]);
      expect(verified.code).toBe(1);
      expect(verified.err).toMatch(/damaged/);
    } else {
      expect(again.err).toMatch(/cannot be copied|damaged/);
      expect(existsSync(archive)).toBe(false);
      writeFileSync(archive, bytes);
    }
  });

  test.runIf(existsSync("/dev/full"))(
    "for which there is no room is not there, and is whole when there is",
    async () => {
      makeServer(from, join(from, "config"));
      symlinkSync("/dev/full", `${archive}.part`);
      const { code, err } = await backUp();
      expect({ code, err }).toEqual({
        code: 1,
        err: expect.stringContaining(`There is no room left for ${archive}: there is no backup.`),
      });
      expect(existsSync(archive)).toBe(false);
      expect(await backUp()).toMatchObject({ code: 0 });
    },
  );

  test("is not written over a file that is there", async () => {
    makeServer(from, join(from, "config"));
    writeFileSync(archive, "mine");
    const { code, err } = await backUp();
    expect(code).toBe(1);
    expect(err).toContain("is there already");
    expect(readFileSync(archive, "utf8")).toBe("mine");
  });

  test("of a newer server is refused for an older one, and so is a folder", async () => {
    makeServer(from, join(from, "config"));
    await backUp();
    const ran = await restore("--for-version", "10.10.7");
    expect(ran.code).toBe(1);
    expect(ran.err).toContain("The data are of Jellyfin 10.11.11, and the new server runs 10.10.7");
    expect(existsSync(to)).toBe(false);
    const copy = await runCli(["seed", "--from", from, "--to", to, "--for-version", "10.11.10"]);
    expect(copy.code).toBe(1);
    expect(copy.err).toContain("a server cannot use the data of a newer one");
    expect((await restore("--for-version", "12.0.0")).code).toBe(0);
  });

  test("whose settings do not tell its version is known by its database", async () => {
    const system = "<ServerConfiguration />";
    makeServer(from, join(from, "config"), { system });
    const database = new DatabaseSync(join(from, "data", "jellyfin.db"));
    database.exec(
      'CREATE TABLE "__EFMigrationsHistory" (MigrationId TEXT, ProductVersion TEXT);' +
        `INSERT INTO "__EFMigrationsHistory" VALUES ('1', '13.0.14'), ('2', '9.11.0.0'), ('3', '12.0.0.0')`,
    );
    database.close();
    await backUp();
    const ran = await restore("--for-version", "10.11.11");
    expect(ran.code).toBe(1);
    expect(ran.err).toContain("The data are of Jellyfin 12.0.0, and the new server runs 10.11.11");
    expect(existsSync(join(to, "data", "jellyfin.db"))).toBe(false);
    expect((await restore("--for-version", "12.0.0")).code).toBe(0);
  });

  test("that leads out of its folder, or is of another make, is refused before anything is written", async () => {
    const about = { mode: 0o644, uid: 0, gid: 0, modifiedNs: 0n, text: "", bytes: 0 };
    writeFileSync(
      archive,
      Buffer.concat([tarHeader({ ...about, path: "../escape", type: "file" }), Buffer.alloc(1024)]),
    );
    expect((await restore()).err).toContain("leads out of its folder");
    writeFileSync(archive, "no tar at all".padEnd(2048, "x"));
    expect((await restore()).err).toContain("no tar archive");
    writeFileSync(
      archive,
      Buffer.concat([tarHeader({ ...about, path: "film", type: "file" }), Buffer.alloc(1024)]),
    );
    expect((await restore()).err).toContain("not one of Jellybloom's");
    expect(existsSync(to)).toBe(false);
  });

  test("a restore that was killed goes on, and the target is marked until it is whole", async () => {
    makeServer(from, join(from, "config"));
    for (let index = 0; index < 300; index++) {
      write(join(from, "metadata", "many", `${index}.nfo`), `words ${index}`.repeat(2000));
    }
    await backUp();
    const words = ["seed", "--from-archive", archive, "--to", to];
    const child = spawn(process.execPath, [launcher, ...words]);
    children.push(child);
    for (let tries = 0; tries < 500 && !existsSync(join(to, markerName)); tries++) {
      await pause(5);
    }
    child.kill("SIGKILL");
    await once(child, "exit");
    if (existsSync(join(to, markerName))) {
      expect(existsSync(join(to, "data", "jellyfin.db"))).toBe(false);
    }
    if (existsSync(join(to, "data", "jellyfin.db"))) return;
    expect((await restore()).code).toBe(0);
    expect(copied(to)).toEqual(copied(from));
  }, 30_000);
});

function mount(path: string): number | null {
  return spawnSync("mount", ["-t", "tmpfs", "-o", "size=90m", "tmpfs", path]).status;
}

function canMount(): boolean {
  const path = mkdtempSync(join(tmpdir(), "mount-test-"));
  const works = process.geteuid?.() === 0 && mount(path) === 0;
  if (works) spawnSync("umount", [path]);
  rmSync(path, { recursive: true, force: true });
  return works;
}

describe("over the network", () => {
  beforeEach(async () => {
    from = source;
    await pause(Math.max(0, madeAtMs + clockGrainMs - performance.now()));
  });

  /** A sidecar's port with a donor behind it. `cut`: every answer breaks off after so many bytes, so many times. */
  async function startDonor(cut: { bytes: number; times: number } = { bytes: 0, times: 0 }) {
    const seal = createSeal(clusterKey);
    const notes = new Map<string, { value: string }>();
    const verifier = seal.createProofVerifier({
      ...{ windowMs: 30_000, noncesKept: 100, now: () => Date.now() },
    });
    const donor = createDonor({
      ...{ replica: "a", folder: from, seal, verifier },
      position: () => ({ generation: "g", number: 7 }),
      log: { info: () => undefined, warn: () => undefined },
      // Neither is asked for by an archive whose receiver has no name.
      store: {} as never,
      memory: { identities: new Map(), notes: () => notes } as never,
    });
    const asked: string[] = [];
    const server = createServer((request, response) => {
      const route = donor.routes.find(({ path }) => path === request.url);
      if (route !== undefined) return void answer(route, request, response);
      request.on("data", (bytes: Buffer) => asked.push(bytes.toString()));
      let sent = 0;
      const write = response.write.bind(response) as (...given: unknown[]) => boolean;
      response.write = ((...given: unknown[]) => {
        sent += (given[0] as Buffer).length;
        if (cut.times > 0 && sent > cut.bytes) {
          cut.times--;
          response.destroy();
          return false;
        }
        return write(...given);
      }) as typeof response.write;
      donor.mount.handle(request, response, "");
    });
    servers.push(server);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    return { url, asked, server, notes };
  }

  /** What the port's own server does for routes, but for the proof, of which wire and sidecar-api have the tests. */
  async function answer(
    route: GuardedRoute,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const { status, body } = await route.answer(await text(request));
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify(body));
  }

  const seedFrom = async (url: string, ...more: string[]) =>
    await runCli([
      ...["seed", "--sidecar", url, "--cluster-key", clusterKey, "--to", to],
      ...["--retry-limit", "3s", ...more],
    ]);

  test("an empty folder becomes a copy; who does not know the cluster key gets nothing", async () => {
    const { url } = await startDonor();
    const wrong = ["seed", "--sidecar", url, "--to", to, "--cluster-key", "x".repeat(32)];
    const refused = await runCli(wrong);
    expect(refused.code).toBe(1);
    expect(existsSync(to)).toBe(false);
    const ran = await seedFrom(url);
    expect(ran).toMatchObject({ code: 0, err: "" });
    expect(copied(to)).toEqual(copied(from));
    expect(ran.out).toContain("The cluster's journal goes on from entry 7 there.");
    // What runs before each start of a server finds one there, and lets it start.
    const again = await seedFrom(url, "--if-empty");
    expect(again).toMatchObject({ code: 0, err: "" });
    expect(again.out).toContain("holds a server already: nothing is copied");
    expect((await seedFrom(url)).code).toBe(1);
  });

  test("a donor that breaks off is asked again from where it was, and never twice for what is there", async () => {
    const { url, asked } = await startDonor({ bytes: 600_000, times: 2 });
    const ran = await seedFrom(url);
    expect(ran).toMatchObject({ code: 0, err: "" });
    expect(copied(to)).toEqual(copied(from));
    const after = asked.map((body) => (JSON.parse(body) as { after?: string }).after ?? "");
    expect(after).toHaveLength(3);
    expect(after[0]).toBe("");
    expect(after[1]).toMatch(/many\/\d+\.(jpg|nfo)$/);
    expect((after[2] ?? "") > (after[1] ?? "")).toBe(true);
  }, 20_000);

  test("a donor that dies leaves a marked target, which another run finishes without what is there", async () => {
    const dying = await startDonor({ bytes: 1_500_000, times: 1 });
    dying.server.once("request", () => dying.server.close());
    const first = await runCli([
      ...["seed", "--sidecar", dying.url, "--cluster-key", clusterKey, "--to", to],
      ...["--retry-limit", "0ms"],
    ]);
    expect(first.code).toBe(1);
    expect(first.err).toMatch(/went away .* it goes on where it was/);
    expect(existsSync(join(to, markerName))).toBe(true);
    expect(existsSync(join(to, "data", "jellyfin.db"))).toBe(false);
    const { url, asked } = await startDonor();
    expect(await seedFrom(url)).toMatchObject({ code: 0, err: "" });
    expect((JSON.parse(asked[0] ?? "{}") as { after?: string }).after).toMatch(/many/);
    expect(copied(to)).toEqual(copied(from));
    // A picture's tag is made of its time in units of 100 ns, also of one that came with the first run.
    const exact = (path: string) => statSync(path, { bigint: true }).mtimeNs;
    for (let index = 0; index < filesCount; index += 10) {
      expect(exact(many(to, index))).toBe(exact(many(from, index)));
    }
  }, 30_000);

  test("a file that changed while the donor was away is copied again", async () => {
    const { url, server } = await startDonor({ bytes: 900_000, times: 1 });
    server.prependListener("request", () => {
      write(many(from, 1), "new and other");
    });
    expect(await seedFrom(url)).toMatchObject({ code: 0 });
    expect(readFileSync(many(to, 1), "utf8")).toBe("new and other");
    expect(copied(to)).toEqual(copied(from));
  }, 20_000);

  test("files that changed are copied again, though the donor broke off between them", async () => {
    const { url, server, asked } = await startDonor({ bytes: 900_000, times: 2 });
    let requests = 0;
    server.prependListener("request", () => {
      if (++requests !== 2) return;
      // The first of them are whole before it breaks off again, and the last are not.
      for (let index = 2; index < 14; index++) write(many(from, index), randomBytes(100_000));
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, clockGrainMs);
    });
    expect(await seedFrom(url)).toMatchObject({ code: 0, err: "" });
    expect(asked).toHaveLength(3);
    expect(copied(to)).toEqual(copied(from));
  }, 20_000);

  // What a full disk says, which everybody can ask for here; the next test fills one.
  test.runIf(existsSync("/dev/full"))(
    "a write for which there is no room is told, and nothing is lost by it",
    async () => {
      const { url } = await startDonor();
      const options = {
        ...{ to, toConfig: undefined, seenAs: undefined, replace: serverId },
        ...{ forVersion: undefined, progressIntervalMs: 1000, retryLimitMs: 3000 },
      };
      const seal = createSeal(clusterKey);
      const input = sidecarInput({ base: url, seal, without: [], limitMs: 10_000 });
      /** Of a disk with room for so many bytes: half of the files, or all but the last ones and the databases. */
      const roomFor = (bytes: number): ArchiveInput => ({
        ...input,
        async open(resume) {
          const opened = await input.open(resume);
          let left = bytes;
          const source = new WatchedSource(opened.source, (piece) => {
            left -= piece.length;
            if (left < 0) writeFileSync("/dev/full", piece);
          });
          return { ...opened, source };
        },
      });
      for (const [holdsServer, bytes] of [
        [false, 2_000_000],
        [true, 4_000_000],
      ] as const) {
        if (holdsServer) {
          rmSync(to, { recursive: true });
          makeServer(to, join(to, "config"), { users: 8 });
        }
        await expect(restoreFrom(roomFor(bytes), options, () => undefined)).rejects.toThrow(
          /^The target's disk is full: make room, then run the same command again/,
        );
        expect(existsSync(join(to, markerName))).toBe(true);
        // A server's own data are whole until the copy is.
        expect(existsSync(join(to, "data", "jellyfin.db"))).toBe(holdsServer);
        if (holdsServer) expect(usersAt(to)).toBe(8);
        await restoreFrom(roomFor(Number.POSITIVE_INFINITY), options, () => undefined);
        expect(copied(to)).toEqual(copied(from));
        expect(usersAt(to)).toBe(3);
        expect(existsSync(join(to, stagingName)) || existsSync(join(to, markerName))).toBe(false);
      }
    },
    60_000,
  );

  // A disk of its own, so small that it can be filled: only root can make one.
  test.runIf(canMount())(
    "a disk that fills up in the middle is told, and nothing is lost by it",
    async () => {
      mkdirSync(to);
      expect(mount(to)).toBe(0);
      const filler = join(to, "lost+found");
      try {
        const { url, server } = await startDonor();
        server.prependOnceListener("request", () => {
          // After the look at what is free, and before the first file is there.
          const timer = setInterval(() => {
            if (!existsSync(join(to, markerName))) return;
            clearInterval(timer);
            spawnSync("dd", ["if=/dev/zero", `of=${filler}`, "bs=1M"]);
          }, 1);
        });
        const full = await seedFrom(url);
        expect(full.code).toBe(1);
        expect(full.err).toMatch(
          /The target's disk is full: make room, then run the same command again/,
        );
        expect(existsSync(join(to, markerName))).toBe(true);
        expect(existsSync(join(to, "data", "jellyfin.db"))).toBe(false);
        rmSync(filler);
        expect(await seedFrom(url)).toMatchObject({ code: 0, err: "" });
        expect(copied(to)).toEqual(copied(from));
      } finally {
        spawnSync("umount", [to]);
      }
    },
    30_000,
  );

  test("a server in quarantine is not copied, nor is one that is found to be there meanwhile", async () => {
    const { url, notes } = await startDonor();
    const quarantine = {
      sinceMs: 1,
      reason: "its data were put back to an older state",
      truth: "",
    };
    const note = { value: quarantineValue(quarantine) };
    notes.set(quarantineNoteId("a"), note);
    const beside = ["--sidecar", url, "--cluster-key", clusterKey];
    const words = /a is not to be copied: it is in quarantine: its data were put back/;
    for (const command of [
      ["seed", ...beside, "--to", to],
      ["seed", ...beside, "--to", to, "--name", "b", "--from", from],
      ["backup", ...beside, "--to", archive],
      ["backup", ...beside, "--to", archive, "--from", from],
    ]) {
      const { code, err } = await runCli(command);
      expect({ code, err }).toEqual({ code: 1, err: expect.stringMatching(words) });
      expect(err).not.toMatch(/leave --sidecar out|run the same command again/);
    }
    expect(existsSync(to) || existsSync(archive)).toBe(false);

    // It is noticed when the copy is whole: the cluster is not told, and the copy does not become a server.
    notes.clear();
    const late = await runCli(["seed", ...beside, "--to", to, "--name", "b"], {
      onLine: (line) => line.startsWith("Checking") && notes.set(quarantineNoteId("a"), note),
    });
    expect(late.code).toBe(1);
    expect(late.err).toMatch(words);
    expect(existsSync(join(to, markerName))).toBe(true);
    expect(existsSync(join(to, "data", "jellyfin.db"))).toBe(false);
  });

  test("a backup is taken from a sidecar, too", async () => {
    const { url } = await startDonor();
    const ran = await runCli([
      "backup",
      "--sidecar",
      url,
      "--cluster-key",
      clusterKey,
      "--to",
      archive,
    ]);
    expect(ran.code).toBe(0);
    const verified = await runCli(["backup", "--verify", archive]);
    expect(verified.out).toContain("Replica a had come to entry 7 of the journal.");
  });
});
