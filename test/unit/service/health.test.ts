// The admin port on a real socket: what it says to anybody, and what it keeps from those without a proof.

import { once } from "node:events";
import { connect } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { main } from "../../../cli/main.ts";
import {
  type AdminServer,
  createAdminServer,
  type Readiness,
} from "../../../core/service/health.ts";
import { CannotStart } from "../../../core/service/lifecycle.ts";
import { openLog } from "../../../core/service/log.ts";
import { createMetrics } from "../../../core/service/metrics.ts";
import { createSeal } from "../../../core/service/seal.ts";

const clusterKey = "0123456789abcdef";
const { log } = openLog({ level: "silent", format: "json", fd: 2 });
const servers: AdminServer[] = [];
const never = new AbortController().signal;

afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop?.(never);
});

interface Admin {
  readonly url: string;
  readonly port: number;
  readiness: Readiness;
  readonly asked: string[];
}

async function startAdmin({ withKey = true } = {}): Promise<Admin> {
  const metrics = createMetrics("1.2.3");
  const verifier = createSeal(clusterKey).createProofVerifier({
    windowMs: 30_000,
    noncesKept: 1000,
    now: Date.now,
  });
  const admin = {
    url: "",
    port: 0,
    readiness: { reason: null } as Readiness,
    asked: [] as string[],
  };
  const server = createAdminServer({
    address: { host: "127.0.0.1", port: 0 },
    readiness: () => admin.readiness,
    metricsText: metrics.text,
    guardedRoutes: [
      {
        method: "POST",
        path: "/jellybloom/explain",
        answer: (body) => {
          admin.asked.push(body);
          return { status: 200, body: { replica: "a", reason: "it is the user's home" } };
        },
      },
    ],
    verifyProof: withKey ? (header, call) => verifier.verify(header, call) : undefined,
    log,
  });
  await server.start?.(never);
  servers.push(server);
  admin.port = server.boundAddress().port;
  admin.url = `http://127.0.0.1:${admin.port}`;
  return admin;
}

describe("anybody who reaches the port", () => {
  test("learns that the process lives", async () => {
    const { url } = await startAdmin();
    const response = await fetch(`${url}/jellybloom/live`);
    expect([response.status, await response.json()]).toEqual([200, { live: true }]);
  });

  test("learns whether it is ready, and if not why", async () => {
    const admin = await startAdmin();
    const ready = await fetch(`${admin.url}/jellybloom/ready`);
    expect([ready.status, await ready.json()]).toEqual([200, { ready: true, reason: null }]);
    admin.readiness = { reason: "no replica is ready" };
    const unready = await fetch(`${admin.url}/ready`);
    const told = { ready: false, reason: "no replica is ready" };
    expect([unready.status, await unready.json()]).toEqual([503, told]);
    admin.readiness = { reason: null, notes: ["b is gone"] };
    const noted = await fetch(`${admin.url}/jellybloom/ready`);
    expect(await noted.json()).toEqual({ ready: true, reason: null, notes: ["b is gone"] });
  });

  test("reads the metrics", async () => {
    const { url } = await startAdmin();
    const response = await fetch(`${url}/metrics`);
    expect(response.headers.get("content-type")).toMatch(/^text\/plain; version=0\.0\.4/);
    expect(await response.text()).toContain('jellybloom_info{version="1.2.3"} 1');
  });

  test("changes nothing, and is told so", async () => {
    const { url } = await startAdmin();
    expect((await fetch(`${url}/metrics`, { method: "POST" })).status).toBe(405);
    expect((await fetch(`${url}/jellybloom/explain`)).status).toBe(405);
    expect((await fetch(`${url}/nothing`)).status).toBe(404);
  });
});

describe("a guarded route", () => {
  const body = JSON.stringify({ method: "GET", path: "/Users/Me", token: null });

  function ask(url: string, headers: Record<string, string>, sent = body): Promise<Response> {
    return fetch(`${url}/jellybloom/explain`, { method: "POST", headers, body: sent });
  }

  test("answers who proves to know the cluster key, once", async () => {
    const { url, asked } = await startAdmin();
    const proof = { ...createSeal(clusterKey).proofHeaders("POST", "/jellybloom/explain", body) };
    const response = await ask(url, proof);
    expect(await response.json()).toEqual({ replica: "a", reason: "it is the user's home" });
    expect((await ask(url, proof)).status).toBe(403);
    expect(asked).toEqual([body]);
  });

  test("does nothing without a proof, with another key's, or for another body", async () => {
    const { url, asked } = await startAdmin();
    const other = createSeal("another-key-0123").proofHeaders("POST", "/jellybloom/explain", body);
    const mine = createSeal(clusterKey).proofHeaders("POST", "/jellybloom/explain", body);
    expect((await ask(url, {})).status).toBe(403);
    expect((await ask(url, { ...other })).status).toBe(403);
    expect((await ask(url, { ...mine }, `${body} `)).status).toBe(403);
    expect(asked).toEqual([]);
  });

  test("is closed where there is no cluster key", async () => {
    const { url, asked } = await startAdmin({ withKey: false });
    const proof = { ...createSeal(clusterKey).proofHeaders("POST", "/jellybloom/explain", body) };
    expect((await ask(url, proof)).status).toBe(403);
    expect(asked).toEqual([]);
  });

  test("refuses a body that is too large", async () => {
    const { url } = await startAdmin();
    expect((await ask(url, {}, "x".repeat(100_000))).status).toBe(413);
  });

  test("is what jellybloom explain asks", async () => {
    const { url, asked } = await startAdmin();
    let out = "";
    const code = await main(
      [
        "explain",
        "--admin",
        url,
        "--cluster-key",
        clusterKey,
        "--token",
        "t0ken",
        "get",
        "/Users/Me",
      ],
      {
        out: (text) => {
          out += text;
        },
        err: () => {},
        env: {},
      },
    );
    expect([code, out]).toEqual([0, "a: it is the user's home\n"]);
    expect(asked.map((text) => JSON.parse(text))).toEqual([
      { method: "GET", path: "/Users/Me", token: "t0ken" },
    ]);
  });
});

test("a port in use is told in a sentence that names the option", async () => {
  const { port } = await startAdmin();
  const second = createAdminServer({
    address: { host: "127.0.0.1", port },
    readiness: () => ({ reason: null }),
    metricsText: createMetrics("1").text,
    guardedRoutes: [],
    verifyProof: undefined,
    log,
  });
  const failure = await second.start?.(never).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(CannotStart);
  expect(String(failure)).toContain(
    `--admin 127.0.0.1:${port} cannot be listened on: another process listens there.`,
  );
});

test("a caller who says nothing does not keep the port from stopping", async () => {
  const { port } = await startAdmin();
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  const closed = once(socket, "close");
  await servers.splice(0)[0]?.stop?.(never);
  await closed;
});
