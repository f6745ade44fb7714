// Seed of a large server, over a real connection, between real processes: how fast, with how much memory on both
// sides, and what a run that was killed in the middle still has to fetch. `node test/bench/seed.ts [MEBIBYTES]`
// (default 2048) needs three times that much room in the temporary folder, which it gives back. It ends with 1 when a
// promise is broken: memory that grows with the size, bytes fetched twice, a target that looks whole too early.

import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { createSeal } from "../../core/service/seal.ts";
import { createDonor } from "../../sidecar/seed/donor.ts";
import { markerName, stagingName } from "../../sidecar/seed/target.ts";

const clusterKey = "a-key-for-the-bench-of-seeding-only";
const mebibyte = 1024 * 1024;
/** Node itself takes 60 to 90 MiB. */
const memoryLimitMebibytes = 220;
const fileMebibytes = 2;

if (process.argv[2] === "donor") await beDonor(process.argv[3] ?? "");
else process.exitCode = await measure(Number(process.argv[2] ?? 2048));

/** The donor alone, so that its memory is its own. Tells its port, and at each answer's end how much it sent. */
async function beDonor(folder: string): Promise<void> {
  const seal = createSeal(clusterKey);
  const donor = createDonor({
    ...{ replica: "a", folder, seal, position: () => undefined },
    verifier: seal.createProofVerifier({
      ...{ windowMs: 30_000, noncesKept: 100, now: () => Date.now() },
    }),
    log: { info: () => undefined, warn: () => undefined },
    // Asked for by nobody here: the receiver has no name.
    store: {} as never,
    memory: { identities: new Map(), notes: () => new Map() } as never,
  });
  const server = createServer((request, response) => {
    const { socket } = request;
    const before = socket.bytesWritten;
    response.once("close", () => process.stdout.write(`sent ${socket.bytesWritten - before}\n`));
    donor.mount.handle(request, response, "");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  process.stdout.write(`port ${(server.address() as AddressInfo).port}\n`);
}

async function measure(mebibytes: number): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), "jellybloom-seed-bench-"));
  const children: ChildProcess[] = [];
  const problems: string[] = [];
  try {
    const from = join(folder, "from");
    const to = join(folder, "to");
    await makeLargeServer(from, mebibytes);
    const donor = spawn(process.execPath, [import.meta.filename, "donor", from], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    children.push(donor);
    let said = "";
    donor.stdout.on("data", (bytes: Buffer) => {
      said += bytes.toString();
    });
    while (!said.includes("\n")) await sleep(20);
    const url = `http://127.0.0.1:${/port (\d+)/.exec(said)?.[1]}`;
    const run = () => {
      const child = spawn(
        process.execPath,
        [
          join(import.meta.dirname, "../../cli/jellybloom.mjs"),
          ...["seed", "--sidecar", url, "--cluster-key", clusterKey, "--to", to],
        ],
        { stdio: ["ignore", "ignore", "inherit"] },
      );
      children.push(child);
      return child;
    };

    // Killed when about half of the files are there.
    const first = run();
    const received = join(to, stagingName, "received.json");
    const half = (mebibytes * mebibyte) / 4;
    while (first.exitCode === null && bytesOf(received) < half) await sleep(20);
    first.kill("SIGKILL");
    await once(first, "exit");
    const kept = bytesOf(received);
    if (!existsSync(join(to, markerName))) problems.push("a killed copy is not marked");
    if (existsSync(join(to, "data", "jellyfin.db"))) problems.push("a killed copy looks whole");
    await sleep(200);
    const before = said.length;

    const startedMs = performance.now();
    const second = run();
    let peakMebibytes = 0;
    let donorMebibytes = 0;
    while (second.exitCode === null && second.signalCode === null) {
      peakMebibytes = Math.max(peakMebibytes, residentMebibytes(second.pid));
      donorMebibytes = Math.max(donorMebibytes, residentMebibytes(donor.pid));
      await sleep(50);
    }
    const seconds = (performance.now() - startedMs) / 1000;
    if (second.exitCode !== 0) problems.push(`the second run ended with ${second.exitCode}`);
    await sleep(200);
    const sent = Number(/sent (\d+)/.exec(said.slice(before))?.[1] ?? Number.NaN);
    const total = treeBytes(from);

    print("size", `${(total / mebibyte).toFixed(0)} MiB`);
    print("kept of the killed run", `${(kept / mebibyte).toFixed(0)} MiB`);
    print("fetched by the next", `${(sent / mebibyte).toFixed(0)} MiB in ${seconds.toFixed(1)} s`);
    print("rate", `${(sent / mebibyte / seconds).toFixed(0)} MiB/s`);
    print("memory of seed, of the sidecar", `${peakMebibytes} MiB, ${donorMebibytes} MiB`);
    if (!(sent < total - kept * 0.9)) problems.push("bytes that were there were fetched again");
    for (const [who, peak] of [
      ["seed", peakMebibytes],
      ["the sidecar", donorMebibytes],
    ] as const) {
      if (peak > memoryLimitMebibytes) problems.push(`${who} took ${peak} MiB of memory`);
    }
    if (treeBytes(to) < total * 0.99) problems.push("the copy is smaller than its source");
    for (const problem of problems) print("BROKEN", problem);
    return problems.length === 0 ? 0 : 1;
  } finally {
    for (const child of children) if (child.exitCode === null) child.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Half of it files, half of it one database. */
async function makeLargeServer(from: string, mebibytes: number): Promise<void> {
  mkdirSync(join(from, "data"), { recursive: true });
  mkdirSync(join(from, "config"), { recursive: true });
  mkdirSync(join(from, "metadata"), { recursive: true });
  writeFileSync(join(from, "config", "system.xml"), "<ServerConfiguration />");
  writeFileSync(join(from, "data", "device.txt"), "0123456789abcdef0123456789abcdef");
  const piece = randomBytes(fileMebibytes * mebibyte);
  for (let index = 0; index < mebibytes / 2 / fileMebibytes; index++) {
    writeFileSync(join(from, "metadata", `${String(index).padStart(6, "0")}.jpg`), piece);
  }
  const database = new DatabaseSync(join(from, "data", "jellyfin.db"));
  database.exec("PRAGMA journal_mode = WAL; CREATE TABLE Users (Id TEXT, Data BLOB)");
  const insert = database.prepare("INSERT INTO Users VALUES (?, ?)");
  for (let index = 0; index < mebibytes / 2 / fileMebibytes; index++) {
    insert.run(`user ${index}`, piece);
  }
  database.close();
  // A file that is as young as the copy is always sent again.
  await sleep(2500);
}

function bytesOf(received: string): number {
  if (!existsSync(received)) return 0;
  const value = JSON.parse(readFileSync(received, "utf8")) as { bytes: number };
  return value.bytes;
}

function residentMebibytes(pid: number | undefined): number {
  try {
    const text = readFileSync(`/proc/${pid}/status`, "utf8");
    return Math.round(Number(/VmHWM:\s+(\d+)/.exec(text)?.[1] ?? 0) / 1024);
  } catch {
    // It has just ended.
    return 0;
  }
}

function treeBytes(folder: string): number {
  let sum = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    if (entry.isFile()) sum += statSync(join(entry.parentPath, entry.name)).size;
  }
  return sum;
}

function print(name: string, value: string): void {
  process.stdout.write(`${name.padEnd(32)} ${value}\n`);
}
