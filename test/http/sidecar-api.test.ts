// The sidecar's API over a real port, and its caller: hints that many requests give are sent once, only
// proven sidecars are called, and whatever does not answer is nobody's error.

import { afterEach, expect, test } from "vitest";
import { proveMember } from "../../core/cluster/member.ts";
import { Memory } from "../../core/cluster/memory.ts";
import { epochSeenPath, SidecarCalls, urgentPath } from "../../core/cluster/sidecar-client.ts";
import { systemClock } from "../../core/service/clock.ts";
import { type AdminServer, createAdminServer } from "../../core/service/health.ts";
import { openLog } from "../../core/service/log.ts";
import { addressText } from "../../core/service/options.ts";
import { createSeal } from "../../core/service/seal.ts";
import { openEmbeddedStore } from "../../core/store/embedded.ts";
import type { Epoch, Member } from "../../core/store/store.ts";
import { sidecarRoutes } from "../../sidecar/api.ts";
import { until } from "../support/viewer.ts";

const seal = createSeal("a-key-that-only-this-cluster-has");
const foreign = createSeal("a-key-that-another-cluster-has");
const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined };
const servers: AdminServer[] = [];

afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop?.(AbortSignal.abort());
});

async function sidecar(replica: string, epoch?: Epoch) {
  const heard: string[] = [];
  const limits = { changesKept: 100, revokedKeepMs: 1000, callLimitMs: 1000 };
  const store = openEmbeddedStore({ limits });
  const memory = new Memory({ store, seal, log: silent, tokensRemembered: 10, storeRetryMs: 10 });
  const proofs = seal.createProofVerifier({ windowMs: 30_000, noncesKept: 1000, now: Date.now });
  const opened = openLog({ level: "fatal", format: "json", fd: 2 });
  const server = createAdminServer({
    address: { host: "127.0.0.1", port: 0 },
    readiness: () => ({ reason: null }),
    metricsText: async () => ({ contentType: "text/plain", body: "" }),
    guardedRoutes: sidecarRoutes({
      replica,
      urgent: (key) => void heard.push(`urgent ${key}`),
      suspect: (key) => void heard.push(`suspect ${key}`),
      epochSeen: () => epoch,
      restart: () => "restarting",
      draining: { store, memory, clock: systemClock, drainLimitMs: 1000 },
    }),
    verifyProof: (header, call) => proofs.verify(header, call),
    log: opened.log,
  });
  servers.push(server);
  await server.start?.(new AbortController().signal);
  return { heard, url: `http://${addressText(server.boundAddress())}` };
}

function member(replica: string, sidecarUrl: string, by = seal): Member {
  const facts = { replica, url: "http://127.0.0.1:1", sidecarUrl, serverId: "", serverVersion: "" };
  return { ...proveMember(by, { ...facts, bootNonce: "n" }), atMs: 0 };
}

const calls = () =>
  new SidecarCalls({ seal, log: silent, now: systemClock.monotonicMs, callLimitMs: 1000 });

test("a hint that many requests give at one time is sent once", async () => {
  const { heard, url } = await sidecar("a");
  const sidecars = calls();
  sidecars.setMembers([member("a", url)]);
  for (let times = 0; times < 50; times += 1) sidecars.urgent("a", "user device");
  sidecars.suspect("a", "user device");
  sidecars.urgent("b", "user device");
  await until(2000, "both hints", () => heard.length >= 2);
  expect(heard.sort()).toEqual(["suspect user device", "urgent user device"]);
});

test("a sidecar that was not announced with this cluster's key is not called", async () => {
  const { heard, url } = await sidecar("a");
  const sidecars = calls();
  sidecars.setMembers([member("a", url, foreign), { ...member("b", "http://x"), sidecarUrl: url }]);
  sidecars.urgent("a", "key");
  sidecars.urgent("b", "key");
  expect(sidecars.names).toEqual([]);
  expect(await sidecars.call("a", urgentPath, {})).toMatchObject({ outcome: "failed" });
  expect(heard).toEqual([]);
});

test("the highest epoch is the highest of those who answer", async () => {
  const low = await sidecar("a", { number: 7, owner: "x" });
  const high = await sidecar("b", { number: 9, owner: "y" });
  const none = await sidecar("c");
  const sidecars = calls();
  expect(await sidecars.highestEpochSeen()).toBeUndefined();
  sidecars.setMembers([
    member("a", low.url),
    member("b", high.url),
    member("c", none.url),
    member("d", "http://127.0.0.1:1"),
  ]);
  expect(await sidecars.highestEpochSeen()).toEqual({ number: 9, owner: "y" });
  expect(await sidecars.call("c", epochSeenPath, {})).toEqual({ outcome: "ok", body: {} });
});

test("what is not understood is refused, and what does not answer is said", async () => {
  const { heard, url } = await sidecar("a");
  const sidecars = calls();
  sidecars.setMembers([member("a", url), member("d", "http://127.0.0.1:1")]);
  for (const body of [{}, { identity: 7 }, { identity: "x".repeat(600) }, null, []]) {
    expect(await sidecars.call("a", urgentPath, body)).toMatchObject({ status: 400 });
  }
  expect(await sidecars.call("a", "/jellybloom/drain", { replica: "b" })).toMatchObject({
    status: 404,
  });
  expect(await sidecars.call("a", "/jellybloom/drain", { limitMs: -1 })).toMatchObject({
    status: 400,
  });
  expect(await sidecars.call("a", "/jellybloom/restart", { order: 0 })).toMatchObject({
    status: 400,
  });
  expect(await sidecars.call("d", urgentPath, {})).toMatchObject({ outcome: "failed" });
  expect(heard).toEqual([]);
});
