// The gate between processes: what an administrator asks through any door is done by the leader's server and
// by no other; what is forged, repeated, or carries another epoch is refused and changes nothing; and when the
// leader is gone the request waits for the next.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { epochHeader, gatePrefix, provenPath } from "../../core/cluster/gate-call.ts";
import { readEpoch } from "../../core/cluster/sidecar-client.ts";
import { createSeal } from "../../core/service/seal.ts";
import type { Epoch } from "../../core/store/store.ts";
import type { ClusterStatus } from "../../proxy/status.ts";
import { runCli } from "../support/cli.ts";
import {
  CLUSTER_KEY,
  type DoorProcess,
  type Part,
  startDoor,
  startSidecar,
} from "../support/door.ts";
import { doorSees } from "../support/household.ts";
import { startPair } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { until, Viewer } from "../support/viewer.ts";

const seal = createSeal(CLUSTER_KEY);
/** A change that leaves a trace at the server which made it. */
const CONFIGURATION = "/System/Configuration";

let pair: Awaited<ReturnType<typeof startPair>>;
let redis: RedisServer;
let door: DoorProcess;
let sidecars: Record<string, Part>;

beforeAll(async () => {
  const media = await makeMedia();
  pair = await startPair({ mediaDir: media.folder });
  redis = await startRedis();
  const args = ["--lease-limit", "2s"];
  const [a, b] = await Promise.all(
    [pair.a, pair.b].map((replica) => startSidecar({ replica, redis: redis.url, args })),
  );
  if (a === undefined || b === undefined) throw new Error("no sidecars");
  sidecars = { a, b };
  // A client's patience that ends before the lease does: administrators' changes wait longer.
  door = await startDoor({
    ...{ command: "proxy", redis: redis.url, replicas: [pair.a, pair.b] },
    args: [...args, "--api-hold-limit", "1s"],
  });
  await doorSees(door, 2);
});

afterAll(async () => {
  await Promise.all([door, ...Object.values(sidecars)].map((part) => part.stop()));
  await redis.stop();
  await pair.stop();
});

async function status(): Promise<ClusterStatus> {
  const { out } = await runCli([
    ...["status", "--json", "--admin", door.admin, "--cluster-key", CLUSTER_KEY],
  ]);
  return JSON.parse(out) as ClusterStatus;
}

/** The leader's replica by name, once there is one. */
async function leader(): Promise<"a" | "b"> {
  let name: string | undefined;
  await until(10_000, "a leader", async () => {
    name = (await status()).leader?.replica;
    return name !== undefined;
  });
  if (name !== "a" && name !== "b") throw new Error(`nobody leads: ${name}`);
  return name;
}

function sidecarOf(name: string): Part {
  const part = sidecars[name];
  if (part === undefined) throw new Error(`no sidecar ${name}`);
  return part;
}

async function epochSeenAt(name: string): Promise<Epoch> {
  const path = "/jellybloom/epoch-seen";
  const reply = await fetch(sidecarOf(name).admin + path, {
    method: "POST",
    headers: seal.proofHeaders("POST", path, "{}"),
    body: "{}",
  });
  const epoch = readEpoch(await reply.json());
  if (epoch === undefined) throw new Error("no epoch was seen");
  return epoch;
}

interface Call {
  readonly at: string;
  readonly epoch: Epoch;
  readonly path?: string;
  readonly body?: string;
  readonly headers?: Record<string, string>;
  readonly proof?: Record<string, string>;
}

/** A call straight to a gate, as a door makes it, with the API key as the caller's. */
async function callGate({ at, epoch, path = CONFIGURATION, body = "{}", headers, proof }: Call) {
  const whole = gatePrefix(at) + path;
  const epochText = epochHeader(epoch);
  const proofs = proof ?? seal.proofHeaders("POST", provenPath(whole, epochText), body);
  const reply = await fetch(sidecarOf(at).admin + whole, {
    method: "POST",
    headers: {
      authorization: `MediaBrowser Token="${pair.a.apiKey}"`,
      "content-type": "application/json",
      "x-jellybloom-epoch": epochText,
      ...proofs,
      ...headers,
    },
    body,
  });
  const text = await reply.text();
  return { status: reply.status, verdict: reply.headers.get("x-jellybloom-gate"), text };
}

async function changesAt(name: "a" | "b"): Promise<number> {
  const asked = await pair[name].requests({ method: "POST", path: "^/System/Configuration" });
  return asked.length;
}

const changes = async () => [await changesAt("a"), await changesAt("b")];

describe("a change that only the leader may make", () => {
  test("is made by the leader's server alone, whoever's home is where, and read back there", async () => {
    const leads = await leader();
    const other = leads === "a" ? "b" : "a";
    const admin = await Viewer.enter(door.url);
    await admin.knownAt([pair.a, pair.b]);
    const before = await changes();
    const body = { ServerName: "Both" };
    const answer = await admin.call("POST", CONFIGURATION, { body });
    expect(answer, answer.text).toMatchObject({ status: 204 });
    const after = await changes();
    const grown = { a: (after[0] ?? 0) - (before[0] ?? 0), b: (after[1] ?? 0) - (before[1] ?? 0) };
    expect(grown).toEqual({ [leads]: 1, [other]: 0 });
    expect((await admin.call("GET", CONFIGURATION)).json()).toMatchObject(body);
  });

  test("is refused for somebody who is no administrator", async () => {
    const kid = await Viewer.enter(door.url, { name: "kid" });
    await kid.knownAt([pair.a, pair.b]);
    expect((await kid.call("POST", "/ScheduledTasks/Running/x")).status).toBe(403);
    expect((await kid.call("POST", CONFIGURATION, { body: {} })).status).toBe(403);
  });

  // Before: an administrator who asked while no server answered was told 403, as if they were none.
  test("is not refused as if an administrator were none, while no server can tell who they are", async () => {
    const admin = await Viewer.enter(door.url);
    await admin.knownAt([pair.a, pair.b]);
    await Promise.all([pair.a.kill9(), pair.b.kill9()]);
    await doorSees(door, 0);
    expect((await admin.call("POST", CONFIGURATION, { body: {} })).status).toBe(503);
    const asked = admin.call("POST", "/ScheduledTasks/Running/x");
    await Promise.all([pair.a.launch(), pair.b.launch()]);
    expect((await asked).status).not.toBe(403);
    await doorSees(door, 2);
  });
});

describe("a gate", () => {
  test("takes a call with the epoch that counts, once", async () => {
    const leads = await leader();
    const epoch = await epochSeenAt(leads);
    const path = gatePrefix(leads) + CONFIGURATION;
    const proof = seal.proofHeaders("POST", provenPath(path, epochHeader(epoch)), "{}");
    const before = await changesAt(leads);
    expect(await callGate({ at: leads, epoch, proof })).toMatchObject({
      status: 204,
      verdict: "passed",
    });
    expect(await changesAt(leads)).toBe(before + 1);
    const again = await callGate({ at: leads, epoch, proof });
    expect(again).toMatchObject({ status: 403, verdict: "proof" });
    expect(again.text).toContain("used before");
    expect(await changesAt(leads)).toBe(before + 1);
  });

  test("refuses what is forged, and changes nothing", async () => {
    const leads = await leader();
    const epoch = await epochSeenAt(leads);
    const path = gatePrefix(leads) + CONFIGURATION;
    const foreign = createSeal("a-key-of-somebody-elses-cluster");
    const before = await changes();
    const forgeries: readonly Partial<Call>[] = [
      { proof: {} },
      { proof: { "x-jellybloom-proof": "v1.1.aaaaaaaaaaaaaaaaaaaaaa.bbbb" } },
      { proof: foreign.proofHeaders("POST", provenPath(path, epochHeader(epoch)), "{}") },
      // The proof is of another body, of another path, of another epoch, or of another gate's.
      { proof: seal.proofHeaders("POST", provenPath(path, epochHeader(epoch)), '{"x":1}') },
      { proof: seal.proofHeaders("POST", provenPath(`${path}x`, epochHeader(epoch)), "{}") },
      { proof: seal.proofHeaders("POST", provenPath(path, "1 somebody"), "{}") },
      { proof: seal.proofHeaders("POST", path, "{}") },
    ];
    for (const forgery of forgeries) {
      const answer = await callGate({ at: leads, epoch, ...forgery });
      expect([forgery, answer]).toMatchObject([{}, { status: 403, verdict: "proof" }]);
    }
    const unsaid = seal.proofHeaders("POST", provenPath(path, "none"), "{}");
    const headers = { "x-jellybloom-epoch": "none" };
    expect(await callGate({ at: leads, epoch, proof: unsaid, headers })).toMatchObject({
      status: 400,
      verdict: "malformed",
    });
    expect(await callGate({ at: leads, epoch, path: "/Users/New" })).toMatchObject({
      status: 404,
      verdict: "notGated",
    });
    expect(await changes()).toEqual(before);
  });

  test("refuses an old epoch, the same number from another owner, and what is asked of a follower", async () => {
    const leads = await leader();
    const follows = leads === "a" ? "b" : "a";
    const epoch = await epochSeenAt(leads);
    const before = await changes();
    const refused = { status: 409, verdict: "epoch" };
    const old = { number: epoch.number - 1, owner: "who-led-before" };
    expect(await callGate({ at: leads, epoch: old })).toMatchObject(refused);
    expect(await callGate({ at: follows, epoch })).toMatchObject(refused);
    // Two owners of one number: nobody can tell which is right, so neither may act, and both take a higher.
    const twin = { number: epoch.number, owner: "who-says-the-same" };
    expect(await callGate({ at: leads, epoch: twin })).toMatchObject(refused);
    expect(await callGate({ at: leads, epoch })).toMatchObject(refused);
    expect(await changes()).toEqual(before);
    await until(10_000, "a higher epoch", async () => {
      return ((await status()).leader?.epoch ?? 0) > epoch.number;
    });
  });

  test("refuses an epoch that nobody granted, and the next leader stands above it", async () => {
    const leads = await leader();
    const epoch = { number: (await epochSeenAt(leads)).number + 1000, owner: "nobody" };
    const before = await changes();
    expect(await callGate({ at: leads, epoch })).toMatchObject({ status: 409, verdict: "epoch" });
    expect(await changes()).toEqual(before);
    await until(10_000, "a leader above it", async () => {
      return ((await status()).leader?.epoch ?? 0) > epoch.number;
    });
  });
});

describe("every other route of a sidecar that changes or reveals anything", () => {
  test.each(["drain", "undrain", "draining", "urgent", "suspect", "epoch-seen", "restart"])(
    "%s does nothing without a proof, and a proof counts once",
    async (name) => {
      const path = `/jellybloom/${name}`;
      const post = (headers: Record<string, string>, body = "[]") =>
        fetch(sidecarOf("a").admin + path, { method: "POST", headers, body });
      expect((await post({})).status).toBe(403);
      const proof = seal.proofHeaders("POST", path, "[]");
      expect((await post(proof, "{}")).status).toBe(403);
      // It is a proof, though not of a body that makes sense there.
      expect([200, 400, 404]).toContain((await post(proof)).status);
      expect((await post(proof)).status).toBe(403);
      expect((await status()).replicas.every(({ drain }) => drain === null)).toBe(true);
    },
  );
});

describe("when the leader is gone", () => {
  test("a change waits for the next one, and a sidecar's drain is asked at its own port", async () => {
    const leads = await leader();
    const next = leads === "a" ? "b" : "a";
    const admin = await Viewer.enter(door.url);
    await admin.knownAt([pair.a, pair.b]);
    await sidecarOf(leads).kill9();
    const before = await changesAt(next);
    const answer = await admin.call("POST", CONFIGURATION, { body: { ServerName: "Next" } });
    expect(answer, answer.text).toMatchObject({ status: 204 });
    expect(await changesAt(next)).toBe(before + 1);
    expect((await status()).leader?.replica).toBe(next);
    const at = ["--admin", sidecarOf(next).admin, "--cluster-key", CLUSTER_KEY];
    expect(await runCli(["drain", ...at, "--wait", "off"])).toMatchObject({ code: 0 });
    await until(5000, "its drain", async () => {
      const found = (await status()).replicas.find(({ name }) => name === next);
      return found?.drain !== null;
    });
    expect(await runCli(["undrain", ...at])).toMatchObject({ code: 0 });
    sidecarOf(leads).begin();
    await sidecarOf(leads).ready();
  });

  test("a drain until the restart of a sidecar is over when that starts again, and no sooner", async () => {
    const at = ["--cluster-key", CLUSTER_KEY, "--json"];
    const drain = ["drain", "b", "--until-restart", "--admin", door.admin];
    const drained = await runCli([...drain, ...at]);
    expect(drained, drained.err).toMatchObject({ code: 0 });
    expect(JSON.parse(drained.out)).toMatchObject({ replica: "b", done: true });
    const drains = async () => (await status()).replicas.map((one) => one.drain !== null);
    expect(await drains()).toEqual([false, true]);
    await sidecarOf("b").kill9();
    expect(await drains()).toEqual([false, true]);
    sidecarOf("b").begin();
    await until(
      10_000,
      "the end of the drain",
      async () => (await drains()).join() === "false,false",
    );
    await sidecarOf("b").ready();
  });

  test("a restart of all goes on under the next one, and each server is restarted once", async () => {
    await leader();
    const admin = await Viewer.enter(door.url);
    await admin.knownAt([pair.a, pair.b]);
    for (const server of [pair.a, pair.b]) await server.control("forget-requests");
    const asked = await admin.call("POST", "/System/Restart");
    expect(asked, asked.text).toMatchObject({ status: 204 });
    const said = () => Object.values(sidecars).flatMap((part) => part.logLines());
    // The first leader gives the lease away when its own replica drains: it is the last to be restarted.
    await until(40_000, "every replica was restarted", () => {
      return said().some(({ msg }) => msg === "restart: every replica was restarted");
    });
    for (const server of [pair.a, pair.b]) {
      const restarts = await server.requests({ method: "POST", path: "/System/Restart" });
      expect([server.name, restarts.length]).toEqual([server.name, 1]);
    }
    // Both led for a part of it.
    for (const part of Object.values(sidecars)) {
      expect(part.logLines().filter(({ msg }) => /^restart: [ab] /.test(msg))).not.toEqual([]);
    }
    expect((await status()).replicas.map(({ drain }) => drain)).toEqual([null, null]);
    expect((await admin.call("GET", "/Users/Me")).status).toBe(200);
  });
});

describe("a door beside everything in one process", () => {
  test("reaches the leader's gate at that process's admin port", async () => {
    // With a store of their own they would keep the same servers as rivals.
    for (const part of Object.values(sidecars)) await part.stop();
    const store = await startRedis();
    const replicas = [pair.a, pair.b];
    const shared = { replicas, redis: store.url } as const;
    const up = await startDoor({ ...shared, apiKey: pair.a.apiKey, args: ["--lease-limit", "2s"] });
    const beside = await startDoor({ ...shared, command: "proxy" });
    try {
      const admin = await Viewer.enter(beside.url);
      await admin.knownAt(replicas);
      const before = await changes();
      for (const url of [beside.url, up.url]) {
        const answer = await admin.at(url).call("POST", CONFIGURATION, { body: {} });
        expect([url, answer.status, answer.text]).toEqual([url, 204, ""]);
      }
      const sum = (counts: readonly number[]) => counts.reduce((all, one) => all + one, 0);
      expect(sum(await changes())).toBe(sum(before) + 2);
    } finally {
      await Promise.all([up.stop(), beside.stop()]);
      await store.stop();
    }
  });
});
