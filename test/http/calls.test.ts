// Our own calls to a server: each has one end, within its limit, and nothing is sent that is not HTTP.

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test } from "vitest";
import { type Call, Calls, type CallsOptions } from "../../core/jellyfin/calls.ts";

const cleanups: (() => void)[] = [];

afterEach(() => {
  for (const clean of cleanups.splice(0).reverse()) clean();
});

async function callsTo(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
  changes: Partial<CallsOptions> = {},
): Promise<{ calls: Calls; requests: IncomingMessage[] }> {
  const requests: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    requests.push(request);
    answer(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const calls = new Calls({
    origin: `http://127.0.0.1:${port}`,
    ...{ connectionsLimit: 2, connectLimitMs: 1000, bodyLimitBytes: 1000, idleLimitMs: 10_000 },
    now: () => performance.now(),
    ...changes,
  });
  cleanups.push(() => server.close().closeAllConnections());
  cleanups.push(() => calls.close());
  return { calls, requests };
}

function get(path: string, changes: Partial<Call> = {}): Call {
  return { method: "GET", path, headers: {}, body: undefined, limitMs: 2000, ...changes };
}

test("an answer of the server is a value, whatever its status", async () => {
  const { calls } = await callsTo((request, response) => {
    response.writeHead(request.url === "/gone" ? 410 : 200, { "x-mark": "1" }).end("a body");
  });
  for (const [path, status] of [
    ["/here", 200],
    ["/gone", 410],
  ] as const) {
    const end = await calls.send(get(path));
    expect(end).toMatchObject({ end: "answered", head: { status } });
    expect(end.end === "answered" && end.body.toString()).toBe("a body");
  }
});

test("a body goes with its length, and a call without one says so", async () => {
  const { calls, requests } = await callsTo((request, response) => {
    request.pipe(response);
  });
  const body = Buffer.from("grüße");
  const end = await calls.send(get("/echo", { method: "POST", body }));
  expect(end.end === "answered" && end.body.equals(body)).toBe(true);
  await calls.send(get("/echo", { method: "POST" }));
  expect(requests.map(({ headers }) => headers["content-length"])).toEqual(["7", "0"]);
});

test("what no request can hold is not sent", async () => {
  const { calls, requests } = await callsTo((_, response) => response.end());
  const unfit = [
    get("/a b"),
    get("/a\r\nX-Mine: 1"),
    get("no-path"),
    get("/", { method: "GET /" }),
    get("/", { headers: { authorization: "a\r\nX-Mine: 1" } }),
    get("/", { headers: { authorization: "\u{1f511}" } }),
  ];
  for (const call of unfit) expect(await calls.send(call)).toEqual({ end: "unfit" });
  expect(requests).toEqual([]);
});

test("a call ends at its limit, before the head and in the middle of a body", async () => {
  const { calls } = await callsTo((request, response) => {
    if (request.url === "/middle") response.writeHead(200, { "content-length": "10" }).write("a");
  });
  for (const path of ["/silent", "/middle"]) {
    const startedMs = performance.now();
    expect(await calls.send(get(path, { limitMs: 200 }))).toEqual({ end: "timedOut" });
    expect(performance.now() - startedMs).toBeLessThan(1500);
  }
});

test("an answer that is too large, or breaks off, is told as that", async () => {
  const { calls } = await callsTo((request, response) => {
    if (request.url === "/large") response.end("x".repeat(1001));
    else response.writeHead(200, { "content-length": "10" }).write("a", () => response.destroy());
  });
  expect(await calls.send(get("/large"))).toEqual({ end: "tooLarge" });
  expect(await calls.send(get("/broken"))).toMatchObject({ end: "broke", phase: "duringReply" });
});

test("a server that is not there has seen nothing", async () => {
  const { calls } = await callsTo((_, response) => response.end(), {
    origin: "http://127.0.0.1:1",
  });
  const end = await calls.send(get("/"));
  expect(end).toEqual({ end: "broke", phase: "notConnected", why: "ECONNREFUSED" });
});

test("closing ends what runs, and takes no more", async () => {
  const { calls } = await callsTo(() => undefined);
  const running = calls.send(get("/silent"));
  setTimeout(() => calls.close(), 50);
  expect(await running).toEqual({ end: "closed" });
  expect(await calls.send(get("/"))).toEqual({ end: "closed" });
});

test("connections are used again, and no more are opened than allowed", async () => {
  const ports = new Set<number | undefined>();
  const { calls } = await callsTo((request, response) => {
    ports.add(request.socket.remotePort);
    setTimeout(() => response.end(), 5);
  });
  await Promise.all(Array.from({ length: 8 }, () => calls.send(get("/"))));
  await calls.send(get("/"));
  expect(ports.size).toBe(2);
});
