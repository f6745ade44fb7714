// The door is no party to what is said: the same request gets the same answer through it as from the server
// itself, but for the headers of the connection and the clock. Asked of stand-ins, and, for what must arrive
// byte for byte, of a server that records.

import { createHash } from "node:crypto";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { doorUses } from "../support/household.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import {
  headerOf,
  type RawReply,
  type Recorder,
  sendRaw,
  startRecorder,
} from "../support/raw-http.ts";

const device = 'MediaBrowser Client="Test", Device="Desk", DeviceId="correctness", Version="1"';

let pair: { a: StandIn; b: StandIn; stop: () => Promise<void> };
let door: DoorProcess;
let recorder: Recorder;
let plainDoor: DoorProcess;
let token = "";
let item = "";
let image = "";

beforeAll(async () => {
  const media = await makeMedia({});
  pair = await startPair({ mediaDir: media.folder });
  recorder = await startRecorder();
  // Everybody lives on `a`, so that answers can be compared with one server's.
  [door, plainDoor] = await Promise.all([
    startDoor({
      replicas: [pair.a, pair.b],
      apiKey: pair.a.apiKey,
      args: ["--prefer", "a"],
    }),
    startDoor({
      replicas: [{ name: "a", url: recorder.url }],
      args: ["--body-buffer-limit", "64KiB"],
    }),
  ]);
  // Before it has caught up nobody would be placed there.
  await doorUses(door, 2);
  const login = await fetch(`${door.url}/Users/AuthenticateByName`, {
    method: "POST",
    headers: { authorization: device, "content-type": "application/json" },
    body: JSON.stringify({ Username: "root", Pw: "root" }),
  });
  token = ((await login.json()) as { AccessToken: string }).AccessToken;
  const items = await fetch(
    `${door.url}/Items?Recursive=true&IncludeItemTypes=Movie&Fields=MediaSources`,
    { headers: { authorization: `${device}, Token="${token}"` } },
  );
  const [movie] = (
    (await items.json()) as { Items: { Id: string; ImageTags: { Primary: string } }[] }
  ).Items;
  item = movie?.Id ?? "";
  image = `/Items/${item}/Images/Primary?tag=${movie?.ImageTags.Primary}`;
}, 60_000);

afterAll(async () => {
  await Promise.all([door?.stop(), plainDoor?.stop()]);
  await Promise.all([pair?.stop(), recorder?.stop()]);
});

interface Asked {
  readonly method?: string;
  readonly target: string;
  readonly lines?: readonly string[];
  readonly body?: string;
}

function requestText({ method = "GET", target, lines = [], body = "" }: Asked): string {
  const length = body === "" ? [] : [`Content-Length: ${body.length}`];
  const head = [`${method} ${target} HTTP/1.1`, "Host: media.example", ...lines, ...length];
  return `${head.join("\r\n")}\r\n\r\n${body}`;
}

async function ask(port: number, asked: Asked): Promise<RawReply> {
  const heads = asked.method === "HEAD" ? [0] : [];
  const { replies } = await sendRaw(port, [requestText(asked)], { replies: 1, heads });
  const [reply] = replies;
  if (reply === undefined) throw new Error(`no answer to ${asked.method} ${asked.target}`);
  return reply;
}

const ofTheConnection = new Set([
  ...["connection", "keep-alive", "transfer-encoding", "content-length", "date"],
  ...["x-jellybloom-explain", "set-cookie"],
]);

/** What must be equal: the status, every header but the connection's, and the body. */
function essence({ status, headers, body }: RawReply): unknown {
  const kept = headers.filter(([name]) => !ofTheConnection.has(name));
  return { status, headers: kept.sort(), body: createHash("sha256").update(body).digest("hex") };
}

const doorPort = (): number => Number(new URL(door.url).port);
const withToken = (): string => `Authorization: ${device}, Token="${token}"`;

async function expectEqual(asked: Asked): Promise<RawReply> {
  // The client's token was given by `a` itself, so it may be shown there as it is.
  const [direct, through] = await Promise.all([ask(pair.a.port, asked), ask(doorPort(), asked)]);
  expect(essence(through)).toEqual(essence(direct));
  const length = headerOf(direct, "content-length");
  if (length !== undefined) expect(headerOf(through, "content-length")).toBe(length);
  return through;
}

describe("the same answer as from the server itself", () => {
  const stream = (): string => `/Videos/${item}/stream.mp4?static=true`;

  test("a list", async () => {
    const target = "/Items?Recursive=true";
    const reply = await expectEqual({ target, lines: [withToken()] });
    expect(reply.status).toBe(200);
  });

  test("an answer compressed with brotli, with gzip, and not at all, untouched", async () => {
    for (const coding of ["br", "gzip", "identity", "gzip, deflate, br"]) {
      const target = "/Items?Recursive=true";
      const lines = [withToken(), `Accept-Encoding: ${coding}`];
      const reply = await expectEqual({ target, lines });
      const used = coding === "identity" ? undefined : /br/.test(coding) ? "br" : "gzip";
      expect(headerOf(reply, "content-encoding")).toBe(used);
    }
  });

  test("the head of a film tells its length and has no body", async () => {
    const reply = await expectEqual({ method: "HEAD", target: stream() });
    expect(Number(headerOf(reply, "content-length"))).toBeGreaterThan(10_000);
  });

  test.each([
    ["from the start", "bytes=0-99", 206],
    ["in the middle", "bytes=1000-1999", 206],
    ["to the end", "bytes=5000-", 206],
    ["the last bytes", "bytes=-100", 206],
    ["beyond the end", "bytes=999999999-", 416],
    ["two of them", "bytes=0-1,5-6", 200],
    ["nonsense", "bytes=x-y", 200],
  ])("a range %s", async (_name, range, status) => {
    const reply = await expectEqual({ target: stream(), lines: [`Range: ${range}`] });
    expect(reply.status).toBe(status);
  });

  test("If-Range with the film's date, and with another", async () => {
    const head = await ask(pair.a.port, { method: "HEAD", target: stream() });
    const date = headerOf(head, "last-modified") ?? "";
    const same = ["Range: bytes=0-9", `If-Range: ${date}`];
    expect((await expectEqual({ target: stream(), lines: same })).status).toBe(206);
    const other = ["Range: bytes=0-9", "If-Range: Thu, 01 Jan 1998 00:00:00 GMT"];
    expect((await expectEqual({ target: stream(), lines: other })).status).toBe(200);
  });

  test("304 for a page that has not changed", async () => {
    const page = await ask(pair.a.port, { target: "/web/index.html" });
    const lines = [`If-None-Match: ${headerOf(page, "etag")}`];
    expect((await expectEqual({ target: "/web/index.html", lines })).status).toBe(304);
  });

  test("a preflight of another origin", async () => {
    const lines = [
      "Origin: https://app.example",
      "Access-Control-Request-Method: POST",
      "Access-Control-Request-Headers: authorization",
    ];
    const reply = await expectEqual({ method: "OPTIONS", target: "/Items", lines });
    expect(reply.status).toBe(204);
    expect(headerOf(reply, "access-control-allow-headers")).toBe("authorization");
  });

  test("what is not there, what is not allowed, and what needs a token", async () => {
    expect((await expectEqual({ target: "/No/Such/Route" })).status).toBe(404);
    expect((await expectEqual({ method: "PUT", target: "/System/Ping" })).status).toBe(405);
    expect((await expectEqual({ target: "/Users/Me" })).status).toBe(401);
  });

  test("paths in any letter case", async () => {
    const reply = await expectEqual({ target: "/USERS/me", lines: [withToken()] });
    expect(reply.status).toBe(200);
  });

  test("a segment, and its head with the same length", async () => {
    const query =
      `PlaySessionId=correctness&DeviceId=correctness&ApiKey=${token}&VideoCodec=h264` +
      `&AudioCodec=aac&SegmentContainer=ts&MediaSourceId=${item}`;
    const target = `/Videos/${item}/hls1/main/0.ts?${query}&runtimeTicks=0&actualSegmentLengthTicks=30000000`;
    const whole = await ask(doorPort(), { target });
    expect(whole.status).toBe(200);
    const head = await ask(doorPort(), { method: "HEAD", target });
    expect(headerOf(head, "content-length")).toBe(String(whole.body.length));
    const part = await ask(doorPort(), { target, lines: ["Range: bytes=188-375"] });
    expect([part.status, headerOf(part, "content-range")]).toEqual([
      206,
      `bytes 188-375/${whole.body.length}`,
    ]);
    expect(part.body.equals(whole.body.subarray(188, 376))).toBe(true);
  }, 20_000);
});

describe("images", () => {
  test("from the server that gave their tag: kept for a year, and 304 when known", async () => {
    const reply = await ask(doorPort(), { target: image, lines: [withToken()] });
    expect(headerOf(reply, "cache-control")).toContain("max-age=31536000");
    const lines = [withToken(), `If-None-Match: ${headerOf(reply, "etag")}`];
    expect((await ask(doorPort(), { target: image, lines })).status).toBe(304);
  });

  test("from another server: kept shortly, without a tag, and never 304", async () => {
    // The home is `a`; while it lacks the item, the other server's picture is no proof of the tag.
    await pair.a.control("hide", { item });
    try {
      const first = await ask(doorPort(), { target: image, lines: [withToken()] });
      expect([first.status, headerOf(first, "etag")]).toEqual([200, undefined]);
      expect(headerOf(first, "cache-control")).not.toContain("31536000");
      const tag = new URL(image, door.url).searchParams.get("tag");
      const lines = [withToken(), `If-None-Match: "${tag}"`];
      expect((await ask(doorPort(), { target: image, lines })).status).toBe(200);
    } finally {
      await pair.a.control("hide", { item, hidden: false });
    }
  });
});

describe("what must arrive byte for byte", () => {
  const port = (): number => Number(new URL(plainDoor.url).port);
  const seen = (mark: string) => recorder.clients.findLast(({ target }) => target.includes(mark));

  test.each([
    "/One/%2F%2f/%C3%A9/%e9/x?Y=%20+%zz&&=&y",
    "/UPPER/lower/./..%2e//double?a=b?c",
    "/Three/;a=b,c:d@e!$&'()*+~_-",
    "/Five/%00%0d%0a%7f?%00%0d%0a",
    '/Six/[a]{b}|c\\d^e`f"<g>',
  ])("the target %s", async (target) => {
    const reply = await ask(port(), { target });
    expect(reply.status).toBe(200);
    expect(recorder.clients.at(-1)?.target).toBe(target);
  });

  test("a target with bytes beyond ASCII is refused, as Kestrel refuses it", async () => {
    expect((await ask(port(), { target: "/Four/\u00e9\u00ff?\u00fc" })).status).toBe(400);
  });

  test("headers: order of equals, letters beyond ASCII, empty ones", async () => {
    await ask(port(), {
      target: "/headers-mark",
      lines: [
        "X-Two: first",
        "X-Name: caf\u00e9",
        "X-Two: second",
        "X-Empty:",
        "User-Agent: A (b;  c)",
      ],
    });
    const { headers = [] } = seen("headers-mark") ?? {};
    const valuesOf = (name: string) =>
      headers.filter(([known]) => known === name).map(([, v]) => v);
    expect(valuesOf("x-two")).toEqual(["first", "second"]);
    expect(valuesOf("x-name")).toEqual(["caf\u00e9"]);
    expect(valuesOf("x-empty")).toEqual([""]);
    expect(valuesOf("user-agent")).toEqual(["A (b;  c)"]);
    expect(valuesOf("host")).toEqual(["media.example"]);
  });

  test("a server's cookies and equal headers stay apart", async () => {
    recorder.answer = () =>
      "HTTP/1.1 200 Fine\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nVary: A\r\nVary: B\r\n" +
      "X-Name: caf\u00e9\r\nContent-Length: 0\r\n\r\n";
    const { headers } = await ask(port(), { target: "/cookies" });
    recorder.answer = () => undefined;
    const valuesOf = (name: string) =>
      headers.filter(([known]) => known === name).map(([, v]) => v);
    expect(valuesOf("set-cookie")).toEqual(["a=1; Path=/", "b=2"]);
    expect(valuesOf("vary")).toEqual(["A", "B"]);
  });

  test("hop-by-hop headers, and those that Connection names, go no further", async () => {
    await ask(port(), {
      target: "/hops-mark",
      lines: [
        ...["Connection: keep-alive, X-Mine", "X-Mine: 1", "Keep-Alive: timeout=5", "TE: trailers"],
        ...["Proxy-Authorization: Basic eA==", "Proxy-Connection: keep-alive", "Upgrade: h2c"],
      ],
    });
    const names = seen("hops-mark")?.headers.map(([name]) => name) ?? [];
    for (const name of ["x-mine", "keep-alive", "te", "proxy-authorization", "proxy-connection"]) {
      expect(names).not.toContain(name);
    }
    expect(names).not.toContain("upgrade");
  });

  test("an answer in chunks, with trailers, arrives whole", async () => {
    // A probe of the server may come in between.
    recorder.answer = ({ target }) =>
      target === "/chunked"
        ? "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"
        : undefined;
    const reply = await ask(port(), { target: "/chunked" });
    recorder.answer = () => undefined;
    expect([reply.status, reply.body.toString()]).toEqual([200, "hello world"]);
  });

  test("an answer that only the end of the connection ends", async () => {
    // A probe of the server may come in between.
    recorder.answer = ({ target }) =>
      target === "/until-close"
        ? "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 3\r\n\r\nend"
        : undefined;
    const reply = await ask(port(), { target: "/until-close" });
    recorder.answer = () => undefined;
    expect([reply.status, reply.body.toString()]).toEqual([200, "end"]);
  });

  test("trailers of a request are taken, and not passed as headers", async () => {
    const head =
      "POST /trailers-mark HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n";
    const { replies } = await sendRaw(port(), [`${head}5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n`], {
      replies: 1,
    });
    expect(replies[0]?.status).toBe(200);
    const request = seen("trailers-mark");
    expect(request?.body.toString()).toBe("hello");
    expect(request?.headers.map(([name]) => name)).not.toContain("x-t");
  });

  test("a large upload is streamed and arrives equal, with a length and in chunks", async () => {
    const body = Buffer.alloc(5 * 1024 * 1024);
    for (let index = 0; index < body.length; index++)
      body[index] = (index * 31 + (index >> 8)) & 255;
    const sum = createHash("sha256").update(body).digest("hex");
    for (const mark of ["upload-length", "upload-chunks"]) {
      const reply = await fetch(`${plainDoor.url}/${mark}`, {
        method: "POST",
        body: mark === "upload-length" ? body : new Blob([body]).stream(),
        duplex: "half",
      } as RequestInit);
      expect(reply.status).toBe(200);
      const received = seen(mark)?.body ?? Buffer.alloc(0);
      expect(createHash("sha256").update(received).digest("hex")).toBe(sum);
    }
  });

  test("an upload that asks first is told to go on, and arrives", async () => {
    const head =
      "POST /expect-mark HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    const { replies } = await sendRaw(port(), [head, "hello"], { pauseMs: 100, replies: 2 });
    expect(replies.map(({ status }) => status)).toEqual([100, 200]);
    const request = seen("expect-mark");
    expect(request?.body.toString()).toBe("hello");
    expect(request?.headers.map(([name]) => name)).not.toContain("expect");
  });
});

describe("connections", () => {
  const port = (): number => Number(new URL(plainDoor.url).port);

  test("one is kept for the next request, and closed when the client asks for it", async () => {
    const kept = requestText({ target: "/first" });
    const last = requestText({ target: "/last", lines: ["Connection: close"] });
    const { replies, closed } = await sendRaw(port(), [kept, last], { pauseMs: 100 });
    expect(replies.map(({ status }) => status)).toEqual([200, 200]);
    expect([closed, headerOf(replies[1], "connection")]).toEqual([true, "close"]);
  });

  test("a client that closes its side right after its request has the door's own answer", async () => {
    const text = await new Promise<string>((resolve, reject) => {
      let received = "";
      const socket = connect({ port: port(), host: "127.0.0.1", allowHalfOpen: true });
      socket.on("error", reject);
      socket.on("data", (bytes) => {
        received += bytes.toString("latin1");
      });
      socket.on("close", () => resolve(received));
      socket.on("end", () => socket.destroy());
      socket.end(requestText({ target: "/metrics" }));
    });
    expect(text).toMatch(/^HTTP\/1\.1 404 /);
  });

  test("pipelined requests are answered in their order, however long each takes", async () => {
    for (const server of [pair.a, pair.b]) {
      await server.control("slow", { path: "/System/Ping", firstByteMs: 300, times: 1 });
    }
    const targets = ["/System/Ping", "/web/config.json", "/System/Ping", "/QuickConnect/Enabled"];
    const text = targets.map((target) => requestText({ target })).join("");
    const { replies, elapsedMs } = await sendRaw(doorPort(), [text], { replies: 4 });
    expect(replies.map(({ body }) => body.toString())).toEqual([
      ...['"Jellyfin Server"', "{}", '"Jellyfin Server"', "true"],
    ]);
    expect(elapsedMs).toBeGreaterThan(290);
    for (const server of [pair.a, pair.b]) await server.control("clear");
  });

  test("HTTP/1.0 gets a plain body and the end of the connection; Host is not needed", async () => {
    recorder.answer = ({ target }) =>
      target === "/old"
        ? "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        : undefined;
    const { bytes, replies, closed } = await sendRaw(port(), ["GET /old HTTP/1.0\r\n\r\n"]);
    recorder.answer = () => undefined;
    expect(closed).toBe(true);
    expect(headerOf(replies[0], "transfer-encoding")).toBe(undefined);
    expect(bytes.toString().endsWith("\r\n\r\nhello")).toBe(true);
  });

  test("HTTP/1.0 with keep-alive may ask again", async () => {
    const text = "GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    const { replies } = await sendRaw(port(), [text, text], { pauseMs: 100, replies: 2 });
    expect(replies.map(({ status }) => status)).toEqual([200, 200]);
  });
});

describe("a base URL", () => {
  test("is kept in every path, and guarded routes are guarded below it", async () => {
    const media = await makeMedia({});
    const based = await startPair({ mediaDir: media.folder, baseUrl: "/jellyfin" });
    const basedDoor = await startDoor({ replicas: [based.a, based.b], apiKey: based.a.apiKey });
    const basedPort = Number(new URL(basedDoor.url).port);
    try {
      await based.a.control("configure", { document: "system", change: { EnableMetrics: true } });
      await based.b.control("configure", { document: "system", change: { EnableMetrics: true } });
      const login = await fetch(`${basedDoor.url}/jellyfin/Users/AuthenticateByName`, {
        method: "POST",
        headers: { authorization: device, "content-type": "application/json" },
        body: JSON.stringify({ Username: "root", Pw: "root" }),
      });
      const { AccessToken } = (await login.json()) as { AccessToken: string };
      const lines = [`Authorization: ${device}, Token="${AccessToken}"`];
      expect((await ask(basedPort, { target: "/jellyfin/Users/Me", lines })).status).toBe(200);
      expect((await ask(basedPort, { target: "/JELLYFIN/users/me", lines })).status).toBe(200);
      const info = await ask(basedPort, { target: "/jellyfin/System/Info/Public" });
      expect(JSON.parse(info.body.toString()).LocalAddress).toBe("http://media.example/jellyfin");
      const outside = await ask(basedPort, { target: "/" });
      expect([outside.status, headerOf(outside, "location")]).toEqual([302, "/jellyfin/web/"]);
      for (const target of ["/jellyfin/metrics", "/JellyFin//METRICS/", "/metrics"]) {
        expect((await ask(basedPort, { target })).status).toBe(404);
      }
      const home = await ask(basedPort, { target: "/jellyfin/Users/Me", lines });
      const dead = headerOf(home, "x-jellybloom-explain")?.startsWith("a") ? based.a : based.b;
      await dead.kill9();
      expect((await ask(basedPort, { target: "/jellyfin/Users/Me", lines })).status).toBe(200);
    } finally {
      await basedDoor.stop();
      await based.stop();
    }
  }, 40_000);
});
