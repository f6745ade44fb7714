// Who the client really is. A server behind a door trusts what the door says of its clients, so the door
// believes nobody but the proxies it was told of, and what servers grant to local callers is decided from
// the client's own address. Also what a door says of its own address, and what it refuses to start with.

import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer, request as httpRequest, type Server } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runCommand } from "../support/command.ts";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { freePort, type StandIn, startPair, startStandIn } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { type Recorder, sendRaw, startRecorder } from "../support/raw-http.ts";

const device = 'MediaBrowser Client="Test", Device="Desk", DeviceId="forwarding", Version="1"';
const publicAddress = "203.0.113.9";

let media: string;
let pair: { a: StandIn; b: StandIn; stop: () => Promise<void> };
let door: DoorProcess;
let recorder: Recorder;
let recordedDoor: DoorProcess;
let traefik: Server;
/** What the proxy in front sees as its client's address. */
let clientAddress = publicAddress;
let token = "";

beforeAll(async () => {
  media = (await makeMedia({})).folder;
  pair = await startPair({ mediaDir: media, knownProxies: ["127.0.0.1"] });
  recorder = await startRecorder();
  [door, recordedDoor] = await Promise.all([
    startDoor({
      replicas: [pair.a, pair.b],
      apiKey: pair.a.apiKey,
      args: ["--trusted-proxies", "127.0.0.1/32"],
    }),
    startDoor({ replicas: [{ name: "a", url: recorder.url }] }),
  ]);
  traefik = createServer((request, response) => {
    const before = request.headers["x-forwarded-for"];
    const headers = {
      ...request.headers,
      "x-forwarded-for": before === undefined ? clientAddress : `${before}, ${clientAddress}`,
      "x-forwarded-proto": "https",
      "x-forwarded-host": "films.example",
      "x-real-ip": clientAddress,
    };
    const onward = httpRequest(
      `${door.url}${request.url}`,
      { method: request.method ?? "GET", headers },
      (reply) => {
        response.writeHead(reply.statusCode ?? 502, reply.headers);
        reply.pipe(response);
      },
    );
    onward.on("error", () => response.destroy());
    request.pipe(onward);
  });
  traefik.listen(0, "127.0.0.1");
  await once(traefik, "listening");
  const login = await fetch(`${door.url}/Users/AuthenticateByName`, {
    method: "POST",
    headers: { authorization: device, "content-type": "application/json" },
    body: JSON.stringify({ Username: "root", Pw: "root" }),
  });
  token = ((await login.json()) as { AccessToken: string }).AccessToken;
}, 60_000);

afterAll(async () => {
  traefik?.close();
  traefik?.closeAllConnections();
  await Promise.all([door?.stop(), recordedDoor?.stop()]);
  await Promise.all([pair?.stop(), recorder?.stop()]);
});

const throughTraefik = (): string => `http://127.0.0.1:${(traefik.address() as AddressInfo).port}`;
const withToken = (): Record<string, string> => ({
  authorization: `${device}, Token="${token}"`,
});

async function endpoint(
  url: string,
  headers: Record<string, string> = {},
): Promise<{ IsLocal: boolean; IsInNetwork: boolean }> {
  const reply = await fetch(`${url}/System/Endpoint`, { headers: { ...withToken(), ...headers } });
  expect(reply.status).toBe(200);
  return (await reply.json()) as { IsLocal: boolean; IsInNetwork: boolean };
}

/** Asks from another address of the loopback, which is no trusted proxy. */
async function endpointFromStranger(lines: readonly string[]): Promise<{ IsLocal: boolean }> {
  const port = Number(new URL(door.url).port);
  const socket = connect({ port, host: "127.0.0.1", localAddress: "127.0.0.2" });
  const head = ["GET /System/Endpoint HTTP/1.1", "Host: door", "Connection: close", ...lines];
  socket.write(`${head.join("\r\n")}\r\nAuthorization: ${withToken().authorization}\r\n\r\n`);
  let text = "";
  for await (const chunk of socket as AsyncIterable<Buffer>) text += chunk.toString();
  return JSON.parse(text.slice(text.indexOf("{"), text.lastIndexOf("}") + 1));
}

describe("the client's address", () => {
  test("behind a trusted proxy is the one the proxy saw: a stranger is not local, this machine is", async () => {
    clientAddress = publicAddress;
    expect(await endpoint(throughTraefik())).toEqual({ IsLocal: false, IsInNetwork: false });
    clientAddress = "127.0.0.1";
    expect(await endpoint(throughTraefik())).toEqual({ IsLocal: true, IsInNetwork: true });
  });

  test("is not what a client claims through a trusted proxy", async () => {
    clientAddress = publicAddress;
    for (const claim of ["127.0.0.1", "127.0.0.1, 10.0.0.1", "::1", "junk", ""]) {
      const headers = { "x-forwarded-for": claim };
      expect(await endpoint(throughTraefik(), headers)).toEqual({
        IsLocal: false,
        IsInNetwork: false,
      });
    }
  });

  test("is not what an untrusted peer claims", async () => {
    const { IsLocal } = await endpointFromStranger([
      "X-Forwarded-For: 127.0.0.1",
      "X-Real-IP: 127.0.0.1",
      "Forwarded: for=127.0.0.1",
    ]);
    expect(IsLocal).toBe(false);
  });

  test("reaches every server once, and no client's word about it does", async () => {
    const port = Number(new URL(recordedDoor.url).port);
    const lines = [
      ...["X-Forwarded-For: 10.9.9.9", "X-FORWARDED-PROTO: https", "x-forwarded-host: evil"],
      ...["X-Forwarded-Prefix: /x", "X-Forwarded-Port: 1", "X-Forwarded-Server: y"],
      ...["Forwarded: for=10.9.9.9;host=evil", "X-Real-IP: 10.9.9.9", "X-Original-For: 10.9.9.9"],
      ...["X-Jellybloom-Proof: a", "X-Jellybloom-Explain: b", "x-jellybloom: c"],
    ];
    const text = `GET /forwarded-mark HTTP/1.1\r\nHost: door\r\n${lines.join("\r\n")}\r\n\r\n`;
    await sendRaw(port, [text], { replies: 1 });
    const { headers = [] } =
      recorder.clients.findLast(({ target }) => target === "/forwarded-mark") ?? {};
    expect(headers.filter(([name]) => /forwarded|real-ip|original|jellybloom/.test(name))).toEqual([
      ["x-forwarded-for", "127.0.0.1"],
      ["x-forwarded-proto", "http"],
      ["x-forwarded-host", "door"],
    ]);
    expect(JSON.stringify(headers)).not.toMatch(/10\.9\.9\.9|evil/);
  });

  test("is the one that a server sees for a WebSocket too", async () => {
    const port = Number(new URL(door.url).port);
    const head = [
      `GET /socket?ApiKey=${token} HTTP/1.1`,
      ...["Host: door", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"],
      ...["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", `X-Forwarded-For: ${publicAddress}`],
    ];
    const { bytes } = await sendRaw(port, [`${head.join("\r\n")}\r\n\r\n`], { limitMs: 1500 });
    expect(bytes.toString("latin1")).toContain("101 Switching Protocols");
    const seen = await Promise.all(
      [pair.a, pair.b].map((server) => server.requests({ path: "^/socket" })),
    );
    const addresses = seen.flat().map(({ forwardedFor }) => forwardedFor);
    expect(addresses).toContain(publicAddress);
  });
});

describe("the door's own address", () => {
  async function localAddresses(url: string): Promise<unknown[]> {
    const open = await fetch(`${url}/System/Info/Public`);
    // The key of all servers: it also holds where only one of them stands behind the door.
    const headers = { authorization: `MediaBrowser Token="${pair.a.apiKey}"` };
    const closed = await fetch(`${url}/System/Info`, { headers });
    return [await open.json(), await closed.json()].map(
      (info) => (info as { LocalAddress: unknown }).LocalAddress,
    );
  }

  test("is the one the client used, and the proxy's behind a trusted proxy", async () => {
    expect(await localAddresses(door.url)).toEqual([door.url, door.url]);
    clientAddress = publicAddress;
    const outside = "https://films.example";
    expect(await localAddresses(throughTraefik())).toEqual([outside, outside]);
  });

  test("is --public-url where one is given, and discovery answers with it", async () => {
    const udpPort = await freePort();
    const named = await startDoor({
      replicas: [{ name: "a", url: pair.a.url }],
      args: [
        ...["--public-url", "https://tv.example/films", "--discovery"],
        ...["--discovery-listen", `127.0.0.1:${udpPort}`],
      ],
    });
    try {
      const expected = "https://tv.example/films";
      expect(await localAddresses(named.url)).toEqual([expected, expected]);
      const socket = createSocket("udp4");
      const answer = once(socket, "message");
      socket.send("who is JellyfinServer?", udpPort, "127.0.0.1");
      const [message] = (await Promise.race([
        answer,
        sleep(3000).then(() => {
          throw new Error("discovery did not answer");
        }),
      ])) as [Buffer];
      socket.close();
      const info = (await (await fetch(`${pair.a.url}/System/Info/Public`)).json()) as {
        Id: string;
        ServerName: string;
      };
      expect(JSON.parse(message.toString())).toEqual({
        Address: expected,
        Id: info.Id,
        Name: info.ServerName,
        EndpointAddress: null,
      });
    } finally {
      await named.stop();
    }
  });
});

describe("a door refuses to start", () => {
  async function up(listen: string, replicas: readonly StandIn[], apiKeys: readonly string[]) {
    const admin = `127.0.0.1:${await freePort()}`;
    return await runCommand([
      ...["up", "--listen", listen, "--admin", admin, "--log-format", "json"],
      ...replicas.flatMap(({ name, url }) => ["--replica", `${name}=${url}`]),
      ...apiKeys.flatMap((key) => ["--api-key", key]),
    ]);
  }

  test("beyond loopback while a server does not know it as a proxy, and says what to set", async () => {
    const server = await startStandIn({ name: "a", mediaDir: media });
    try {
      const { exitCode, said } = await up(`0.0.0.0:${await freePort()}`, [server], [server.apiKey]);
      expect(exitCode).toBe(2);
      expect(said).toMatch(/known proxies of server a lack the door/i);
      expect(said).toContain("every visitor would count as local");
      expect(said).toMatch(/set Dashboard, Networking, Known proxies to \W*127\.0\.0\.1/);
    } finally {
      await server.stop();
    }
  }, 20_000);

  test("in front of servers with different ids, and says how they become one", async () => {
    const one = await startStandIn({ name: "a", mediaDir: media });
    const other = await startStandIn({ name: "b", mediaDir: media });
    try {
      const { exitCode, said } = await up(
        `127.0.0.1:${await freePort()}`,
        [one, other],
        [`a=${one.apiKey}`, `b=${other.apiKey}`],
      );
      expect(exitCode).toBe(2);
      expect(said).toMatch(/different ids/);
      expect(said).toMatch(/seed b from a/);
    } finally {
      await Promise.all([one.stop(), other.stop()]);
    }
  }, 20_000);

  test("beside another door on the same servers that shares no store with it", async () => {
    const { exitCode, said } = await up(
      `127.0.0.1:${await freePort()}`,
      [pair.a, pair.b],
      [pair.a.apiKey],
    );
    expect(exitCode).toBe(2);
    expect(said).toMatch(/stop the other one, or give both the same --redis/);
    expect((await fetch(`${door.url}/Users/Me`, { headers: withToken() })).status).toBe(200);
  }, 20_000);
});
