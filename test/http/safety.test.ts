// What must not happen through a public door: a server's metrics read, a server restarted by a stranger, a
// wizard run again, a secret told in a log, our own sessions shown. Real doors, real stand-ins, in one file
// because they share a pair that is only ended by the last test.

import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { createSeal } from "../../core/service/seal.ts";
import { runCommand } from "../support/command.ts";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { type Recorder, sendRaw, startRecorder } from "../support/raw-http.ts";

const clusterKey = randomBytes(32).toString("hex");
const device = (id: string): string =>
  `MediaBrowser Client="Test", Device="Desk", DeviceId="${id}", Version="1"`;

let pair: { a: StandIn; b: StandIn; stop: () => Promise<void> };
let door: DoorProcess;
let recorder: Recorder;
let recordedDoor: DoorProcess;

beforeAll(async () => {
  const media = await makeMedia({});
  pair = await startPair({ mediaDir: media.folder, knownProxies: ["127.0.0.1"] });
  for (const server of [pair.a, pair.b]) {
    await server.control("configure", { document: "system", change: { EnableMetrics: true } });
    await server.control("legacy", { on: false });
  }
  recorder = await startRecorder();
  [door, recordedDoor] = await Promise.all([
    startDoor({
      replicas: [pair.a, pair.b],
      apiKey: pair.a.apiKey,
      args: ["--cluster-key", clusterKey, "--log-level", "trace"],
    }),
    startDoor({ replicas: [{ name: "a", url: recorder.url }] }),
  ]);
}, 60_000);

afterAll(async () => {
  await Promise.all([door?.stop(), recordedDoor?.stop()]);
  await Promise.all([pair?.stop(), recorder?.stop()]);
});

interface Login {
  readonly token: string;
  readonly userId: string;
  readonly headers: { readonly authorization: string };
}

async function logIn(name: string, password: string, id: string): Promise<Login> {
  const reply = await fetch(`${door.url}/Users/AuthenticateByName`, {
    method: "POST",
    headers: { authorization: device(id), "content-type": "application/json" },
    body: JSON.stringify({ Username: name, Pw: password }),
  });
  const { AccessToken: token, User } = (await reply.json()) as {
    AccessToken: string;
    User: { Id: string };
  };
  const headers = { authorization: `${device(id)}, Token="${token}"` };
  return { token, userId: User.Id, headers };
}

const statusOf = async (path: string, init: RequestInit = {}): Promise<number> => {
  const reply = await fetch(door.url + path, init);
  await reply.arrayBuffer();
  return reply.status;
};

describe("a server's metrics", () => {
  const spellings = [
    ...["/metrics", "/METRICS", "/Metrics/", "//metrics", "/metrics//", "/./metrics", "/%6detrics"],
    ...[
      "/%6D%65%74%72%69%63%73",
      "/x/../metrics",
      "/x/%2e%2e/metrics",
      "/x/.%2E/metrics",
      "/metrics?x=1",
    ],
    ...[
      "/metrics/x",
      "/web/../metrics",
      "/web/..//metrics",
      "/metrics/.",
      "/metrics/x/..",
      "/%2e/metrics",
    ],
    ...[
      "/emby/metrics",
      "/mediabrowser/metrics",
      "/a/b/../../metrics",
      "/..//metrics",
      "/metrics//..",
    ],
  ];
  const methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

  /** As Kestrel and ASP.NET read a path: percent-decoded but for the slash, dots taken out, any case. */
  function asServerReads(target: string): string {
    const [path = ""] = target.split("?");
    const decoded = path.replaceAll(/%(?!2f)([0-9a-f]{2})/gi, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
    const kept: string[] = [];
    for (const segment of decoded.split("/").slice(1)) {
      if (segment === "..") kept.pop();
      else if (segment !== ".") kept.push(segment.toLowerCase());
    }
    return kept.filter((segment) => segment !== "").join("/");
  }

  test("are out of reach in every spelling and by every method", async () => {
    const ports = [door, recordedDoor].map(({ url }) => Number(new URL(url).port));
    for (const target of spellings) {
      for (const method of methods) {
        const text = `${method} ${target} HTTP/1.1\r\nHost: door\r\nConnection: close\r\n\r\n`;
        for (const port of ports) {
          const { replies, bytes } = await sendRaw(port, [text], {
            heads: method === "HEAD" ? [0] : [],
          });
          expect(bytes.toString()).not.toContain("process_uptime");
          if (port === ports[0]) expect(replies[0]?.status, `${method} ${target}`).not.toBe(200);
        }
      }
    }
    const reached = recorder.clients.filter(({ target }) =>
      /^metrics(?:\/|$)/.test(asServerReads(target)),
    );
    expect(reached.map(({ method, target }) => `${method} ${target}`)).toEqual([]);
    // The test can fail: the servers themselves do tell.
    expect(await (await fetch(`${pair.a.url}/metrics`)).text()).toContain("process_uptime");
  });

  test("are out of reach by an upgrade too", async () => {
    const port = Number(new URL(recordedDoor.url).port);
    const head = [
      ...[
        "GET /metrics?ApiKey=x HTTP/1.1",
        "Host: door",
        "Upgrade: websocket",
        "Connection: Upgrade",
      ],
      ...["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="],
    ];
    await sendRaw(port, [`${head.join("\r\n")}\r\n\r\n`], { limitMs: 1500 });
    expect(recorder.clients.filter(({ target }) => target.includes("metrics"))).toEqual([]);
  });
});

describe("the startup wizard", () => {
  test("is closed for everybody once one server has been through it", async () => {
    // A server that has no user yet would give its administration to whoever comes first.
    await pair.b.control("wizard", { complete: false });
    for (const path of [
      "/Startup/Configuration",
      "/Startup/User",
      "/Startup/FirstUser",
      "/startup/user/",
    ]) {
      expect(await statusOf(path)).toBe(403);
    }
    for (const path of [
      "/Startup/User",
      "/Startup/Complete",
      "/Startup/RemoteAccess",
      "/%53tartup/User",
    ]) {
      const init = { method: "POST", headers: { "content-type": "application/json" }, body: "{}" };
      expect(await statusOf(path, init)).toBe(403);
    }
    for (const server of [pair.a, pair.b]) {
      expect(await server.requests({ path: "^/startup" })).toEqual([]);
    }
  });

  test("a server that was never set up is not used, and the owner is told", async () => {
    // The first door keeps these servers, so this one goes again after a moment; that is enough to see.
    const other = await startDoor({ replicas: [pair.a, pair.b], apiKey: pair.a.apiKey });
    try {
      const untilMs = performance.now() + 2000;
      let notes = "";
      while (performance.now() < untilMs && !notes.includes("replica b is unfit")) {
        notes = await (await fetch(`${other.admin}/jellybloom/ready`)).text();
      }
      expect(notes).toContain("replica b is unfit: its startup wizard was never completed");
      await pair.b.control("forget-requests");
      for (let asks = 0; asks < 10; asks++) {
        expect((await fetch(`${other.url}/web/config.json?${asks}`)).status).toBe(200);
      }
      expect(await pair.b.requests({ path: "^/web" })).toEqual([]);
    } finally {
      await other.stop();
      await pair.b.control("wizard", { complete: true });
    }
  }, 20_000);
});

describe("what clients are shown", () => {
  test("never our own sessions, in either spelling of JSON", async () => {
    const root = await logIn("root", "root", "sessions");
    const key = { authorization: `MediaBrowser Token="${pair.a.apiKey}"` };
    const direct = await (await fetch(`${pair.a.url}/Sessions`, { headers: key })).text();
    expect(direct).toContain("jellybloom-");
    for (const accept of [
      "*/*",
      'application/json; profile="CamelCase"',
      'application/json;profile="PascalCase"',
    ]) {
      const reply = await fetch(`${door.url}/Sessions`, { headers: { ...root.headers, accept } });
      const text = await reply.text();
      expect(Array.isArray(JSON.parse(text))).toBe(true);
      expect(text).toContain("sessions");
      expect(text.toLowerCase()).not.toContain("jellybloom");
    }
  });

  test("a cookie for browsers only, with a server's name and no secret", async () => {
    const { headers, token } = await logIn("root", "root", "cookie");
    const cookiesOf = async (lines: string): Promise<string[]> => {
      const text = `GET /Users/Me HTTP/1.1\r\nHost: door\r\n${lines}Authorization: ${headers.authorization}\r\n\r\n`;
      const { replies } = await sendRaw(Number(new URL(door.url).port), [text], { replies: 1 });
      expect(replies[0]?.status).toBe(200);
      const all = replies[0]?.headers ?? [];
      return all.filter(([name]) => name === "set-cookie").map(([, value]) => value);
    };
    expect(await cookiesOf("")).toEqual([]);
    const cookies = await cookiesOf("Sec-Fetch-Mode: cors\r\n");
    const [known] = cookies[0]?.split(";") ?? [];
    expect(await cookiesOf(`Sec-Fetch-Mode: cors\r\nCookie: ${known}\r\n`)).toEqual([]);
    expect(cookies).toEqual([
      expect.stringMatching(/^jellybloom=(a|b); Path=\/; HttpOnly; SameSite=Lax$/),
    ]);
    expect(JSON.stringify(cookies)).not.toContain(token);
  });

  test("our cookie never reaches a server, and the client's others do", async () => {
    const text =
      "GET /cookie-mark HTTP/1.1\r\nHost: door\r\nCookie: a=1; jellybloom=a; b=2\r\n\r\n";
    await sendRaw(Number(new URL(recordedDoor.url).port), [text], { replies: 1 });
    const { headers = [] } =
      recorder.clients.findLast(({ target }) => target === "/cookie-mark") ?? {};
    expect(headers.find(([name]) => name === "cookie")?.[1]).toBe("a=1; b=2");
  });
});

describe("older apps", () => {
  test("every old form of a token works, though the servers take none of them", async () => {
    const { token } = await logIn("root", "root", "legacy");
    const forms: { path: string; headers: Record<string, string> }[] = [
      { path: "/Users/Me", headers: { "x-emby-token": token } },
      { path: "/Users/Me", headers: { "x-mediabrowser-token": token } },
      { path: "/Users/Me", headers: { "x-emby-authorization": `MediaBrowser Token="${token}"` } },
      { path: "/Users/Me", headers: { authorization: `Emby Token="${token}"` } },
      { path: `/Users/Me?api_key=${token}`, headers: {} },
      { path: `/emby/Users/Me?api_key=${token}`, headers: {} },
    ];
    for (const { path, headers } of forms.slice(0, 5)) {
      expect(await statusOf(path, { headers }), path).toBe(200);
      const directly = await Promise.all(
        [pair.a, pair.b].map(({ url }) => fetch(url + path, { headers })),
      );
      expect(directly.map(({ status }) => status)).toEqual([401, 401]);
    }
    const key = { "x-emby-token": pair.a.apiKey };
    expect(await statusOf("/Users", { headers: key })).toBe(200);
  });
});

describe("secrets", () => {
  test("none is told: not in the log, the metrics, readiness, errors or explanations", async () => {
    const secrets = new Set<string>([
      clusterKey,
      pair.a.apiKey,
      "wrong-horse-battery",
      "new-pass-word",
    ]);
    const json = { "content-type": "application/json" };
    const root = await logIn("root", "root", "secrets-root");
    const kid = await logIn("kid", "kid", "secrets-kid");
    for (const { token } of [root, kid]) secrets.add(token);
    await fetch(`${door.url}/Users/AuthenticateByName?Pw=wrong-horse-battery`, {
      method: "POST",
      headers: { ...json, authorization: device("secrets-wrong") },
      body: JSON.stringify({ Username: "root", Pw: "wrong-horse-battery" }),
    });

    // QuickConnect: the code is typed by hand, the secret is as good as a login.
    const asked = await fetch(`${door.url}/QuickConnect/Initiate`, {
      method: "POST",
      headers: { authorization: device("secrets-tv") },
    });
    const { Secret, Code } = (await asked.json()) as { Secret: string; Code: string };
    secrets.add(Secret);
    await statusOf(`/QuickConnect/Connect?secret=${Secret}`);
    await statusOf(`/QuickConnect/Authorize?code=${Code}`, {
      method: "POST",
      headers: root.headers,
    });
    const tv = await fetch(`${door.url}/Users/AuthenticateWithQuickConnect`, {
      method: "POST",
      headers: { ...json, authorization: device("secrets-tv") },
      body: JSON.stringify({ Secret }),
    });
    secrets.add(((await tv.json()) as { AccessToken: string }).AccessToken);

    // Tokens where they are seen most easily: in queries, paths, old headers, broken requests.
    const socket = new WebSocket(
      `${door.url.replace("http", "ws")}/socket?ApiKey=${kid.token}&deviceId=x`,
    );
    await new Promise((resolve) => socket.once("open", resolve).once("error", resolve));
    socket.close();
    const bad = new WebSocket(`${door.url.replace("http", "ws")}/socket?api_key=${"f".repeat(32)}`);
    secrets.add("f".repeat(32));
    await new Promise((resolve) => bad.once("open", resolve).once("error", resolve));
    for (const query of ["ApiKey", "apikey", "api_key", "Api%4Bey", "API_KEY"]) {
      await statusOf(`/Users/Me?${query}=${root.token}`);
    }
    await statusOf(`/Videos/x/stream?static=true&ApiKey=${kid.token}&Tag=1`);
    await statusOf("/Users/Me", { headers: { "x-emby-token": kid.token } });
    await statusOf("/Users/Me", { headers: { authorization: `Bearer ${kid.token}` } });
    await statusOf(`/Auth/Keys/${kid.token}`, { method: "DELETE", headers: kid.headers });
    await statusOf(`/auth/%4beys/${kid.token}`, { method: "DELETE", headers: kid.headers });
    await statusOf("/Users/Password", {
      method: "POST",
      headers: { ...kid.headers, ...json },
      body: JSON.stringify({ CurrentPw: "kid", NewPw: "new-pass-word" }),
    });
    const port = Number(new URL(door.url).port);
    const broken = [
      `GET /Users/Me?ApiKey=${kid.token}#x HTTP/1.1\r\nHost: h\r\n\r\n`,
      `GET /Users/Me?ApiKey=${kid.token} HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n`,
      `GET /Users/Me HTTP/1.1\r\nAuthorization: MediaBrowser Token="${kid.token}\0"\r\n\r\n`,
      `GET http://h/Users/Me?ApiKey=${kid.token} HTTP/1.1\r\nHost: h\r\n\r\n`,
    ];
    for (const text of broken) {
      const { bytes } = await sendRaw(port, [text], { endAfterQuietMs: 100 });
      expect(bytes.toString()).not.toContain(kid.token);
    }

    // An error path of each kind: a server that resets, one that fails, one that is gone.
    await pair.a.control("fail", { path: "/Items", status: 500, times: 1 });
    await pair.b.control("reset", { path: "/Items", beforeDeed: true, times: 1 });
    await statusOf("/Items", { headers: root.headers });
    const explained = await runCommand([
      ...["explain", "--admin", door.admin, "--cluster-key", clusterKey, "--token", root.token],
      ...["GET", "/Users/Me"],
    ]);
    expect(explained.exitCode).toBe(0);
    await statusOf("/Sessions/Logout", { method: "POST", headers: root.headers });
    await sleep(600);
    for (const server of [pair.a, pair.b]) {
      for (const { token } of (await server.state()).tokens) secrets.add(token);
    }
    const told = [
      door.log(),
      explained.said,
      ...(await Promise.all(
        ["/metrics", "/jellybloom/ready", "/jellybloom/live", "/nothing"].map(async (path) =>
          (await fetch(door.admin + path)).text(),
        ),
      )),
    ].join("\n");
    expect(told.length).toBeGreaterThan(5000);
    expect(told).toContain("ApiKey=[secret]");
    expect([...secrets].filter((secret) => secret !== "" && told.includes(secret))).toEqual([]);
  }, 30_000);
});

describe("explain", () => {
  test("tells who would answer and why, to whoever has the cluster key", async () => {
    const { token } = await logIn("root", "root", "explain");
    const common = ["explain", "--admin", door.admin, "--token", token];
    const right = await runCommand([...common, "--cluster-key", clusterKey, "GET", "/Users/Me"]);
    expect([right.exitCode, right.said]).toEqual([0, expect.stringMatching(/^[ab]: \w+/)]);
    const other = randomBytes(32).toString("hex");
    const wrong = await runCommand([...common, "--cluster-key", other, "GET", "/Users/Me"]);
    expect([wrong.exitCode, wrong.said]).toEqual([1, expect.stringMatching(/refused to tell/)]);
  }, 20_000);

  test("is 403 without a proof, with another request's, and with one that was used", async () => {
    const body = JSON.stringify({ method: "GET", path: "/Users/Me", token: null });
    const ask = async (headers: Record<string, string>, text = body): Promise<number> => {
      const init = { method: "POST", headers, body: text };
      return (await fetch(`${door.admin}/jellybloom/explain`, init)).status;
    };
    const proof = createSeal(clusterKey).proofHeaders("POST", "/jellybloom/explain", body);
    expect(await ask({})).toBe(403);
    expect(await ask({ ...proof }, body.replace("Me", "It"))).toBe(403);
    const fresh = createSeal(clusterKey).proofHeaders("POST", "/jellybloom/explain", body);
    expect(await ask({ ...fresh })).toBe(200);
    expect(await ask({ ...fresh })).toBe(403);
  });
});

describe("restart and shutdown", () => {
  test("are refused to strangers and to plain users, whatever the server would grant", async () => {
    const kid = await logIn("kid", "new-pass-word", "restart-kid");
    for (const path of [
      "/System/Restart",
      "/System/Shutdown",
      "/system/restart/",
      "/System/%52estart",
    ]) {
      expect(await statusOf(path, { method: "POST" }), path).toBe(401);
      const garbage = { authorization: 'MediaBrowser Token="0123456789abcdef0123456789abcdef"' };
      expect(await statusOf(path, { method: "POST", headers: garbage }), path).toBe(401);
      expect(await statusOf(path, { method: "POST", headers: kid.headers }), path).toBe(403);
    }
    for (const server of [pair.a, pair.b]) {
      const seen = await server.requests({ method: "POST", path: "^/system/" });
      expect(seen).toEqual([]);
    }
  });

  test("a restart is an administrator's to order; to shut the cluster down is not his through the door", async () => {
    const root = await logIn("root", "root", "restart-root");
    const init = { method: "POST", headers: root.headers };
    expect(await statusOf("/System/Restart", init)).toBe(204);
    expect(await statusOf("/Users/Me", { headers: root.headers })).toBe(200);
    expect(await statusOf("/System/Shutdown", init)).toBe(403);
    expect(await statusOf("/Users/Me", { headers: root.headers })).toBe(200);
  }, 20_000);
});
