// The calls we make to a server ourselves: what each answer becomes as a value, and that every call has an
// end however the server behaves.

import { createServer, type Server } from "node:http";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { createJellyfinClient, type JellyfinClient } from "../../core/jellyfin/client.ts";
import { freePort, type StandIn, startStandIn } from "../support/jellyfin/start.ts";
import { clientOf, emptyFolder, eventually, logIn } from "./sidecar-cluster.ts";

const media = emptyFolder();
let server: StandIn;
let client: JellyfinClient;

beforeAll(async () => {
  server = await startStandIn({ name: "a", mediaDir: media.path, baseUrl: "/jf" });
  client = clientOf(server, 5000);
});

afterEach(() => server.control("clear"));

afterAll(async () => {
  await client.close();
  await server.stop();
  media.remove();
});

function clientAt(port: number, basePath = "", callLimitMs = 5000): JellyfinClient {
  return createJellyfinClient({
    origin: `http://127.0.0.1:${port}`,
    basePath,
    apiKey: "key",
    callLimitMs,
    bodyLimitBytes: 10_000,
    now: () => performance.now(),
  });
}

/** A server that answers everything in one way. */
async function answering(
  status: number,
  body: string,
): Promise<{ readonly server: Server; readonly port: number }> {
  const answerer = createServer((_request, response) => {
    response.writeHead(status, { "content-type": "application/json" }).end(body);
  });
  await new Promise<void>((resolve) => answerer.listen(0, "127.0.0.1", resolve));
  return { server: answerer, port: (answerer.address() as AddressInfo).port };
}

describe("health", () => {
  test("is what the body says, under the base path", async () => {
    expect(await client.health()).toMatchObject({ state: "healthy" });
    await server.control("health", { body: "Degraded", status: 200 });
    expect(await client.health()).toMatchObject({ state: "degraded" });
    await server.control("health", { body: "Unhealthy", status: 503 });
    expect(await client.health()).toMatchObject({ state: "unhealthy" });
    await server.control("health", { body: "Der Server wird geladen", status: 503 });
    expect(await client.health()).toMatchObject({ state: "loading" });
    await server.control("health", { body: "Healthy, I guess", status: 200 });
    expect(await client.health()).toMatchObject({ state: "unhealthy" });
  });

  test("follows a server with a base path through all its start", async () => {
    const starting = await startStandIn({
      name: "s",
      mediaDir: media.path,
      baseUrl: "/jf",
      startupMs: 1500,
    });
    const its = clientOf(starting, 3000);
    const seen = new Set<string>();
    await eventually(async () => {
      const { state } = await its.health();
      seen.add(state);
      return state === "healthy";
    }, 15_000);
    expect([...seen]).toContain("degraded");
    expect([...seen].filter((state) => state === "wrongPath" || state === "silent")).toEqual([]);
    await its.close();
    await starting.stop();
  });

  test("a wrong base path is told with the right one", async () => {
    for (const [path, reason] of [
      ["/media", 'it is not under "/media" but under "/jf"'],
      ["", 'it is not under "/" but under "/jf"'],
    ] as const) {
      const wrong = clientAt(server.port, path);
      expect(await wrong.health()).toMatchObject({ state: "wrongPath", reason });
      await wrong.close();
    }
  });

  test("nobody listens: refused; accepts and says nothing: silent, within the limit", async () => {
    const nobody = clientAt(await freePort());
    expect(await nobody.health()).toMatchObject({ state: "refused" });
    await nobody.close();
    const mute = createTcpServer(() => undefined);
    await new Promise<void>((resolve) => mute.listen(0, "127.0.0.1", resolve));
    const deaf = clientAt((mute.address() as AddressInfo).port, "", 200);
    const health = await deaf.health();
    expect(health.state).toBe("silent");
    expect(health.tookMs).toBeLessThan(1500);
    await deaf.close();
    mute.close();
  });

  test("a connection that breaks is neither refused nor silent", async () => {
    await server.control("reset", { path: "/health", times: 1 });
    expect(await client.health()).toMatchObject({ state: "broke" });
  });
});

describe("tokens", () => {
  test("a valid one has its user, an unknown one is refused, and a key has no user", async () => {
    const login = await logIn(server, "root", "d1");
    expect(await client.me(login.token)).toEqual({
      outcome: "ok",
      user: { id: login.userId, name: "root", isAdministrator: true, isDisabled: false },
    });
    expect(await client.me("f".repeat(32))).toEqual({ outcome: "refused", status: 401 });
    expect(await client.me(server.apiKey)).toEqual({ outcome: "isApiKey" });
  });

  test("asking whose a token is changes nothing of the device", async () => {
    const login = await logIn(server, "root", "d2");
    await client.me(login.token);
    const { tokens } = await server.state();
    expect(tokens.find(({ token }) => token === login.token)).toMatchObject({
      client: "Test",
      device: "Chair",
      version: "1.2",
    });
  });

  test("logging out ends it, and again is done as well", async () => {
    const login = await logIn(server, "root", "d3");
    expect(await client.logout(login.token, { deviceId: "d3" })).toEqual({ outcome: "done" });
    expect(await client.logout(login.token, { deviceId: "d3" })).toEqual({ outcome: "done" });
    expect(await client.me(login.token)).toMatchObject({ outcome: "refused" });
  });
});

describe("a mint, step by step", () => {
  const device = { client: "App", device: "Phone, the 2nd", deviceId: 'd=4,"5"', version: "1.0+b" };

  test("gives the expected user a token for the exact device, and its session can be ended", async () => {
    const { userId } = await logIn(server, "root", "d4");
    const initiated = await client.quickConnectInitiate(device);
    if (initiated.outcome !== "ok") throw new Error(initiated.outcome);
    expect(await client.quickConnectAuthorize(initiated.code, userId)).toEqual({ outcome: "ok" });
    const minted = await client.authenticateWithQuickConnect(initiated.secret);
    if (minted.outcome !== "ok") throw new Error(minted.outcome);
    expect(minted).toMatchObject({ user: { id: userId }, deviceId: device.deviceId });
    expect(await client.authenticateWithQuickConnect(initiated.secret)).toEqual(minted);

    const sessions = await client.sessions();
    if (sessions.outcome !== "ok") throw new Error(sessions.outcome);
    const session = sessions.sessions.find(({ deviceId }) => deviceId === device.deviceId);
    expect(session).toMatchObject({ userId, client: "App", deviceName: device.device });
    expect(session?.remoteEndPoint).toBe("");

    expect(await client.endGhostSession(minted.token, device)).toEqual({ outcome: "ended" });
    // The socket is closed; the server ends the session a moment later.
    await eventually(async () => {
      const after = await client.sessions();
      return (
        after.outcome === "ok" &&
        after.sessions.every(({ deviceId }) => deviceId !== device.deviceId)
      );
    });
    expect(await client.me(minted.token)).toMatchObject({ outcome: "ok" });
  });

  test("each refusal has its name", async () => {
    const { userId } = await logIn(server, "root", "d6");
    expect(await client.quickConnectAuthorize("000000", userId)).toEqual({
      outcome: "unknownCode",
    });
    expect(await client.authenticateWithQuickConnect("nothing")).toEqual({
      outcome: "unknownSecret",
    });
    const initiated = await client.quickConnectInitiate(device);
    if (initiated.outcome !== "ok") throw new Error(initiated.outcome);
    expect(await client.quickConnectAuthorize(initiated.code, "0".repeat(31).concat("1"))).toEqual({
      outcome: "unknownUser",
    });
    const keyless = createJellyfinClient({
      origin: client.origin,
      basePath: client.basePath,
      apiKey: "no such key",
      callLimitMs: 700,
      now: () => 0,
    });
    expect(await keyless.quickConnectAuthorize(initiated.code, userId)).toEqual({
      outcome: "keyRefused",
    });
    expect(await keyless.apiKeyWorks()).toEqual({ outcome: "refused", status: 401 });
    await keyless.close();
    await server.control("quick-connect", { on: false });
    expect(await client.quickConnectInitiate(device)).toEqual({ outcome: "switchedOff" });
    expect(await client.quickConnectEnabled()).toEqual({ outcome: "ok", enabled: false });
    await server.control("quick-connect", { on: true });
    expect(await client.user(userId)).toMatchObject({ outcome: "ok" });
    expect(await client.user("0".repeat(31).concat("1"))).toEqual({ outcome: "unknownUser" });
    expect(await client.endGhostSession("f".repeat(32), device)).toEqual({
      outcome: "refused",
      status: 403,
    });
  });
});

describe("facts of a server", () => {
  test("are read with the key", async () => {
    expect(await client.publicInfo()).toMatchObject({
      outcome: "ok",
      info: { version: "12.0.0", startupWizardCompleted: true },
    });
    expect(await client.systemInfo()).toMatchObject({ outcome: "ok" });
    expect(await client.apiKeyWorks()).toEqual({ outcome: "works" });
    const users = await client.users();
    expect(users.outcome === "ok" && users.users.map(({ name }) => name)).toEqual(["root", "kid"]);
    expect(await client.networkConfiguration()).toMatchObject({
      outcome: "ok",
      network: { knownProxies: [] },
    });
    expect(await client.encodingConfiguration()).toMatchObject({
      outcome: "ok",
      encoding: { HardwareAccelerationType: "none" },
    });
    expect(await client.localAddress()).toBe("127.0.0.1");
  });

  test("whether it believes a forwarded address is found by trying", async () => {
    expect(await client.forwarding()).toEqual({ outcome: "ok", forwarding: "ignored" });
    const trusting = await startStandIn({
      name: "t",
      mediaDir: media.path,
      knownProxies: ["127.0.0.1"],
    });
    const its = clientOf(trusting);
    expect(await its.forwarding()).toEqual({ outcome: "ok", forwarding: "honoured" });
    await its.close();
    await trusting.stop();
  });
});

describe("whatever the server does", () => {
  test("a silent one is given up within the limit, and may have seen the request", async () => {
    await server.control("silent", { path: "/Users/Me" });
    const hasty = clientOf(server, 700);
    const startedMs = performance.now();
    expect(await hasty.me("token")).toMatchObject({
      outcome: "failed",
      failure: "timedOut",
      seen: "maybe",
    });
    expect(performance.now() - startedMs).toBeLessThan(2000);
    await hasty.close();
  });

  test("one that is not there has seen nothing", async () => {
    const nobody = clientAt(await freePort());
    for (const answer of [
      await nobody.me("t"),
      await nobody.quickConnectInitiate({}),
      await nobody.logout("t", {}),
      await nobody.endGhostSession("t", {}),
    ]) {
      expect(answer).toMatchObject({ outcome: "failed", failure: "notConnected", seen: "nothing" });
    }
    expect(await nobody.localAddress()).toBeUndefined();
    await nobody.close();
  });

  test("a body without end, another status and no JSON are values, too, without the token", async () => {
    const table: [number, string, string][] = [
      [200, "x".repeat(20_000), "tooLarge"],
      [200, "<html>", "notUnderstood"],
      [200, "[]", "notUnderstood"],
      [200, "null", "notUnderstood"],
      [502, "", "status"],
      [302, "", "status"],
    ];
    for (const [status, body, failure] of table) {
      const one = await answering(status, body);
      const its = clientAt(one.port);
      const answer = await its.me("very-secret-token");
      expect(answer).toMatchObject({ outcome: "failed", failure, seen: "maybe" });
      expect(JSON.stringify(answer)).not.toContain("very-secret-token");
      await its.close();
      one.server.closeAllConnections();
      one.server.close();
    }
  });
});

test("a presence is a session while it is held, and none afterwards", async () => {
  const held = new AbortController();
  let opened = 0;
  const device = {
    client: "Jellybloom",
    device: "Jellybloom",
    deviceId: "jellybloom-00-a",
    version: "1",
  };
  const end = client.holdPresence(device, () => void opened++, held.signal);
  await eventually(() => opened === 1);
  const during = await client.sessions();
  expect(during.outcome === "ok" && during.sessions).toContainEqual(
    expect.objectContaining({ deviceId: "jellybloom-00-a", userId: "" }),
  );
  held.abort();
  expect(await end).toEqual({ outcome: "stopped" });
  await eventually(async () => {
    const after = await client.sessions();
    return (
      after.outcome === "ok" &&
      !after.sessions.some(({ deviceId }) => deviceId === "jellybloom-00-a")
    );
  });
});
