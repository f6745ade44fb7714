// What only the store in a file must promise: it outlives the death of its process, it belongs to one
// process at a time, and a file that cannot be used is told so that a person knows what to do.

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { embeddedFileName, openEmbeddedStore } from "../../core/store/embedded.ts";
import { StoreNotOpened } from "../../core/store/store.ts";
import { defaultLimits, follower, login, sleep, someFacts } from "./worlds.ts";

let directory = "";
const children: ChildProcess[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "jellybloom-embedded-"));
});
afterEach(async () => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
  await rm(directory, { recursive: true, force: true });
});

const openHere = () => openEmbeddedStore({ directory, limits: defaultLimits });

/**
 * Another process with the store open. It records logins and says the number of each that was answered,
 * or the name of the error and the number of logins that can be read after it.
 */
function otherProcess(fileLimitKiB?: number): {
  readonly child: ChildProcess;
  said(count: number): Promise<number>;
  readonly ended: Promise<string>;
} {
  const embedded = JSON.stringify(new URL("../../core/store/embedded.ts", import.meta.url).href);
  const program = `
    import { openEmbeddedStore } from ${embedded};
    const [directory, limits, facts] = process.argv.slice(-3);
    const store = openEmbeddedStore({ directory, limits: JSON.parse(limits) });
    try {
      for (let number = 1; ; number += 1) {
        await store.recordLogin({
          key: "key-" + number, facts: JSON.parse(facts), origin: "a", hash: "hash-" + number,
          sealed: "sealed-" + number, expectedGeneration: 1,
        });
        process.stdout.write(number + "\\n");
        await new Promise((resolve) => setImmediate(resolve));
      }
    } catch (error) {
      process.stdout.write(error.name + " " + (await store.load()).identities.length + "\\n");
    }
  `;
  const node = [process.execPath, "--input-type=module", "-e", program];
  const values = [directory, JSON.stringify(defaultLimits), JSON.stringify(someFacts)];
  const shell =
    fileLimitKiB === undefined ? 'exec "$@"' : `ulimit -f ${fileLimitKiB * 2}; exec "$@"`;
  const child = spawn("sh", ["-c", shell, "sh", ...node, ...values], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.push(child);
  let text = "";
  const answered = (): number => Number(text.slice(0, text.lastIndexOf("\n")).split("\n").at(-1));
  child.stdout?.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  return {
    child,
    async said(count) {
      while (!(answered() >= count)) {
        if (child.exitCode !== null) throw new Error("the other process ended too soon");
        await sleep(5);
      }
      return answered();
    },
    ended: new Promise((resolve) => {
      child.stdout?.once("close", () => resolve(text.trimEnd().split("\n").slice(-2).join(" ")));
    }),
  };
}

async function killed(child: ChildProcess): Promise<void> {
  const gone = new Promise((resolve) => child.stdout?.once("close", resolve));
  child.kill("SIGKILL");
  await gone;
}

describe("a process that is killed", () => {
  test("loses no login that it answered, and the next one opens the store at once", async () => {
    for (let round = 1; round <= 3; round += 1) {
      const { child, said } = otherProcess();
      await said(20 * round);
      await killed(child);
      const answered = await said(0);
      const store = openHere();
      const { identities } = await store.load();
      const keys = new Set(identities.map((identity) => identity.key));
      for (let number = 1; number <= answered; number += 1) {
        expect(keys.has(`key-${number}`)).toBe(true);
      }
      // At most the one that was recorded and not yet said.
      expect(identities.length - answered).toBeLessThanOrEqual(1);
      await store.close();
      await rm(join(directory, embeddedFileName));
    }
  }, 60_000);

  // Before: the one who was killed in the middle of a mint kept its successor from minting until the claim
  // ran out, and a user whose server died then was answered by nobody.
  test("leaves no right to mint behind: who comes next may mint at once", async () => {
    const first = openHere();
    await first.recordLogin(login("k", "h1", 1));
    const claim = { key: "k", generation: 1, replica: "b", ttlMs: 60_000 };
    expect(await first.claimMint({ ...claim, owner: "killed" })).toBe(true);
    await first.close();
    const store = openHere();
    expect(await store.claimMint({ ...claim, owner: "next" })).toBe(true);
    await store.close();
  });

  test("leaves positions that are still good", async () => {
    const first = openHere();
    const { position } = await first.load();
    await first.close();
    const { child, said } = otherProcess();
    await said(5);
    await killed(child);
    const store = openHere();
    const following = follower(store, position);
    await following.until(await said(5));
    expect(following.changes[0]).toMatchObject({ type: "identity", identity: { key: "key-1" } });
    await following.stop();
    await store.close();
  }, 30_000);
});

describe("a directory", () => {
  test("that another process has open is refused, with what to do", async () => {
    const { said } = otherProcess();
    await said(1);
    expect(openHere).toThrow(StoreNotOpened);
    expect(openHere).toThrow(/Another process has the store in .* open\. Stop it, or give/);
  }, 30_000);

  test("that this process has open already is refused, too, until it is closed", async () => {
    const store = openHere();
    expect(openHere).toThrow(/Another process has the store/);
    await store.close();
    await openHere().close();
  });

  test("is made when it is missing, and nobody else may read it", async () => {
    const deep = join(directory, "a", "b");
    const store = openEmbeddedStore({ directory: deep, limits: defaultLimits });
    await store.recordLogin(login("k", "h1", 1));
    expect((await stat(deep)).mode & 0o777).toBe(0o700);
    expect((await stat(join(deep, embeddedFileName))).mode & 0o777).toBe(0o600);
    await store.close();
  });

  test("that cannot be used is refused, with what to do", async () => {
    const file = join(directory, "file");
    await writeFile(file, "");
    const open = () => openEmbeddedStore({ directory: join(file, "x"), limits: defaultLimits });
    expect(open).toThrow(StoreNotOpened);
    expect(open).toThrow(/may write to/);
  });
});

describe("a file", () => {
  const file = () => join(directory, embeddedFileName);

  test("that is no store is refused and left as it is", async () => {
    await writeFile(file(), "this is certainly not a database, whatever its name says".repeat(50));
    const before = await readFile(file());
    expect(openHere).toThrow(StoreNotOpened);
    expect(openHere).toThrow(/is damaged or is not a store.*move it away/);
    expect(await readFile(file())).toEqual(before);
  });

  test("that was damaged in the middle is refused when it is opened, not later", async () => {
    const store = openHere();
    for (let number = 1; number <= 300; number += 1) {
      await store.recordLogin(login(`key-${number}`, `hash-${number}`, 1));
    }
    await store.close();
    const bytes = await readFile(file());
    bytes.fill(0x5a, 4096 * 3, 4096 * 30);
    await writeFile(file(), bytes);
    expect(openHere).toThrow(/is damaged or is not a store/);
  });

  test("that a newer program wrote is refused and left as it is", async () => {
    const store = openHere();
    await store.close();
    const database = new DatabaseSync(file());
    database.exec("PRAGMA user_version = 99");
    database.close();
    expect(openHere).toThrow(StoreNotOpened);
    expect(openHere).toThrow(/newer Jellybloom \(its version is 99/);
  });

  test("that an older program wrote is opened, with all that is in it, and is complete then", async () => {
    const older = openHere();
    await older.recordLogin(login("k", "h1", 1));
    const { position } = await older.load();
    await older.close();
    const database = new DatabaseSync(join(directory, embeddedFileName));
    // As it was before there were notes and a leader.
    database.exec("DROP TABLE notes; DROP TABLE lease;");
    database.close();
    const store = openHere();
    expect((await store.load()).identities).toHaveLength(1);
    await store.putNote({ kind: "play", id: "p", replica: "a", value: "{}" }, 0);
    const claim = { replica: "a", gateUrl: "", owner: "o", ttlMs: 60_000, above: 0 };
    expect((await store.holdLease(claim)).held).toBe(true);
    const following = follower(store, position);
    await following.until(2);
    await following.stop();
    await store.close();
  });

  test("that is opened again has no leader, and its next one has the next number", async () => {
    const first = openHere();
    const claim = { replica: "a", gateUrl: "", owner: "o", ttlMs: 60_000, above: 0 };
    await first.holdLease(claim);
    await first.close();
    const store = openHere();
    expect(await store.holdLease({ ...claim, owner: "p" })).toMatchObject({
      held: true,
      lease: { epoch: { number: 2, owner: "p" } },
    });
    await store.close();
  });

  test("that can no longer grow makes the store unavailable, loses nothing, and can be read", async () => {
    // The system refuses to let any file of the process grow beyond this, as a full disk does.
    const { ended } = otherProcess(300);
    const [answered, name, readable] = (await ended).split(" ");
    expect(name).toBe("StoreUnavailable");
    expect(Number(answered)).toBeGreaterThan(5);
    expect(readable).toBe(answered);
    const store = openHere();
    expect((await store.load()).identities).toHaveLength(Number(answered));
    expect((await store.recordLogin(login("k", "h", 1))).outcome).toBe("recorded");
    await store.close();
  }, 30_000);
});

describe("a verb that fails in the middle", () => {
  test("leaves nothing half done", async () => {
    const store = openHere();
    await store.recordLogin(login("k", "h1", 1));
    const before = await store.load();
    const replicas = new Proxy(["a"], {
      get(target, name) {
        if (name === Symbol.iterator) throw new TypeError("a mistake of the caller");
        return Reflect.get(target, name);
      },
    });
    await expect(store.revoke("k", replicas)).rejects.toBeInstanceOf(TypeError);
    expect(await store.load()).toEqual(before);
    expect(await store.revoke("k", ["a"])).toBeDefined();
    await store.close();
  });
});

describe("the store's clock", () => {
  test("that is set forward gives nobody's lease to another", async () => {
    let nowMs = 1_000_000;
    let monotonicMs = 0;
    const store = openEmbeddedStore({
      limits: defaultLimits,
      now: () => nowMs,
      monotonicMs: () => monotonicMs,
    });
    const claim = { replica: "a", gateUrl: "", owner: "o", ttlMs: 10_000, above: 0 };
    await store.holdLease(claim);
    nowMs += 3_600_000;
    monotonicMs = 9999;
    expect((await store.holdLease({ ...claim, owner: "p" })).held).toBe(false);
    monotonicMs = 10_000;
    expect((await store.holdLease({ ...claim, owner: "p" })).held).toBe(true);
    await store.close();
  });

  test("that is set forward keeps no secret beyond its time, though nobody asks for one", async () => {
    let nowMs = 1_000_000;
    const store = openEmbeddedStore({ directory, limits: defaultLimits, now: () => nowMs });
    await store.putSecret("over", "v1.sealed", ["a", "b"], 1000);
    await store.putSecret("kept", "v1.sealed", ["a"], 3000);
    nowMs += 2000;
    const member = { replica: "a", url: "", sidecarUrl: "", serverId: "", serverVersion: "" };
    await store.touchMember({ ...member, bootNonce: "", proof: "" }, 60_000);
    await store.close();
    const file = new DatabaseSync(join(directory, embeddedFileName), { readOnly: true });
    const ids = (table: string) => file.prepare(`SELECT id FROM ${table}`).all();
    expect([...ids("secrets"), ...ids("secretsFor")].map(({ id }) => id)).toEqual(["kept", "kept"]);
    file.close();
  });

  test("that is set back keeps no home in its place", async () => {
    let nowMs = 1_000_000;
    const store = openEmbeddedStore({ limits: defaultLimits, now: () => nowMs });
    const claim = { userId: "u", replica: "a", owner: "o", minStayMs: 30_000 };
    await store.claimHome({ ...claim, expectedEpoch: 0 });
    nowMs += 29_999;
    expect((await store.claimHome({ ...claim, expectedEpoch: 1 })).granted).toBe(false);
    nowMs = 500_000;
    expect((await store.claimHome({ ...claim, expectedEpoch: 1 })).granted).toBe(true);
    await store.close();
  });
});
