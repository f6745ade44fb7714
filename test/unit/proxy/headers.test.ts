// Headers between client and replica: who the client really is, and what of its request goes on. Tables
// for the cases with a name, properties for the promise that no text from a client (or from a token)
// becomes a header that the replica believes.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type ClientOrigin,
  clientOrigin,
  cookieHeader,
  cookieReplica,
  credentialHeadersOf,
  plainAddress,
  trustedProxies,
  type UpstreamHead,
  upstreamHead,
} from "../../../proxy/headers.ts";

const lan = trustedProxies(["10.0.0.0/8", "fd00::/8", "192.0.2.7"]);
const nobodyTrusted = trustedProxies([]);

describe("trusted proxies", () => {
  test.each([
    ["10.1.2.3", true],
    ["11.1.2.3", false],
    ["fd00::1", true],
    ["fe80::1", false],
    ["fe80::1%eth0", false],
    ["::ffff:10.1.2.3", true],
    ["192.0.2.7", true],
    ["192.0.2.8", false],
    ["", false],
    ["unknown", false],
  ])("%s: %s", (address, expected) => {
    expect(lan.contains(address)).toBe(expected);
  });

  test("a single IPv6 address is a network of one", () => {
    const one = trustedProxies(["2001:db8::7"]);
    expect(one.contains("2001:db8::7")).toBe(true);
    expect(one.contains("2001:db8::8")).toBe(false);
  });

  test("without a list nobody is trusted, not even ourselves", () => {
    expect(nobodyTrusted.contains("127.0.0.1")).toBe(false);
    expect(nobodyTrusted.contains("::1")).toBe(false);
  });

  test("an IPv4 address in IPv6 clothes is undressed", () => {
    expect(plainAddress("::ffff:10.0.0.5")).toBe("10.0.0.5");
    expect(plainAddress("::1")).toBe("::1");
    expect(plainAddress("::ffff:a00:5")).toBe("::ffff:a00:5");
    expect(plainAddress("10.0.0.5")).toBe("10.0.0.5");
  });
});

interface OriginRow {
  readonly promise: string;
  readonly peer: string;
  readonly headers: Readonly<Record<string, string | string[]>>;
  readonly isSecure?: boolean;
  readonly expected: Partial<ClientOrigin>;
}

const proxyPeer = "10.0.0.1";
const originRows: readonly OriginRow[] = [
  {
    promise: "the peer is the client when it says nothing",
    peer: "203.0.113.9",
    headers: { host: "jelly.test" },
    expected: { address: "203.0.113.9", scheme: "http", host: "jelly.test" },
  },
  {
    promise: "a secure connection is https",
    peer: "203.0.113.9",
    headers: {},
    isSecure: true,
    expected: { scheme: "https", host: "" },
  },
  {
    promise: "nothing an untrusted peer says about itself is believed",
    peer: "203.0.113.9",
    headers: {
      host: "jelly.test",
      "x-forwarded-for": "127.0.0.1",
      "x-forwarded-proto": "https",
      "x-forwarded-host": "evil.test",
    },
    expected: { address: "203.0.113.9", scheme: "http", host: "jelly.test" },
  },
  {
    promise: "a trusted proxy names the client, scheme and host",
    peer: proxyPeer,
    headers: {
      host: "inner",
      "x-forwarded-for": "203.0.113.9",
      "x-forwarded-proto": "https",
      "x-forwarded-host": "jelly.test",
    },
    expected: { address: "203.0.113.9", scheme: "https", host: "jelly.test" },
  },
  {
    promise: "a trusted proxy in IPv6 clothes is trusted",
    peer: "::ffff:10.0.0.1",
    headers: { "x-forwarded-for": "203.0.113.9" },
    expected: { address: "203.0.113.9" },
  },
  {
    promise: "what a client wrote before the proxy's word is not believed",
    peer: proxyPeer,
    headers: { "x-forwarded-for": "127.0.0.1, 10.0.0.9, 203.0.113.9" },
    expected: { address: "203.0.113.9" },
  },
  {
    promise: "a chain of trusted proxies leads to the client before them",
    peer: proxyPeer,
    headers: { "x-forwarded-for": "192.168.0.1, 203.0.113.9, 10.0.0.3, 10.0.0.2" },
    expected: { address: "203.0.113.9" },
  },
  {
    promise: "a client inside a trusted network is itself",
    peer: proxyPeer,
    headers: { "x-forwarded-for": "10.0.0.44, 10.0.0.2" },
    expected: { address: "10.0.0.44" },
  },
  {
    promise: "several header lines are one list",
    peer: proxyPeer,
    headers: { "x-forwarded-for": ["127.0.0.1", "203.0.113.9"] },
    expected: { address: "203.0.113.9" },
  },
  {
    promise: "ports and brackets are no part of the address",
    peer: proxyPeer,
    headers: { "x-forwarded-for": "[2001:db8::9]:4711, 10.0.0.2:80" },
    expected: { address: "2001:db8::9" },
  },
  {
    promise: "a bracketed address without port is read",
    peer: proxyPeer,
    headers: { "x-forwarded-for": "[2001:db8::9]" },
    expected: { address: "2001:db8::9" },
  },
  ...["unknown", "_hidden", "", "300.1.1.1", "300.1.1.1:80", "[10.0.0.1]", "1.2.3.4:", "a b"].map(
    (word): OriginRow => ({
      promise: `at «${word}» belief ends with the hop that said it`,
      peer: proxyPeer,
      headers: { "x-forwarded-for": `203.0.113.9, ${word}, 10.0.0.2` },
      expected: { address: "10.0.0.2" },
    }),
  ),
  {
    promise: "a mapped address in the list is undressed before it is judged",
    peer: proxyPeer,
    headers: { "x-forwarded-for": "203.0.113.9, ::ffff:10.0.0.2" },
    expected: { address: "203.0.113.9" },
  },
  {
    promise: "of several schemes and hosts the nearest proxy's counts",
    peer: proxyPeer,
    headers: { "x-forwarded-proto": "http, https", "x-forwarded-host": "evil.test, jelly.test" },
    expected: { scheme: "https", host: "jelly.test" },
  },
  {
    promise: "wss is https",
    peer: proxyPeer,
    headers: { "x-forwarded-proto": "WSS" },
    expected: { scheme: "https" },
  },
  {
    promise: "a trusted proxy's http is http, though it reached us securely",
    peer: proxyPeer,
    headers: { "x-forwarded-proto": "http" },
    isSecure: true,
    expected: { scheme: "http" },
  },
  {
    promise: "a trusted proxy that names no scheme or host leaves ours",
    peer: proxyPeer,
    headers: { host: "jelly.test" },
    isSecure: true,
    expected: { scheme: "https", host: "jelly.test" },
  },
];

describe("the client's origin", () => {
  test.each(originRows)("$promise", ({ peer, headers, isSecure, expected }) => {
    expect(clientOrigin(peer, headers, isSecure ?? false, lan)).toMatchObject(expected);
  });

  const outside = fc.ipV4().filter((address) => !lan.contains(address));
  const inside = fc.tuple(fc.nat(255), fc.nat(255)).map(([a, b]) => `10.7.${a}.${b}`);

  test("whatever a client writes, behind trusted proxies its own address is found", () => {
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.string(), fc.ipV4(), fc.ipV6(), inside)),
        outside,
        fc.array(inside, { maxLength: 4 }),
        (spoofed, client, hops) => {
          const header = [...spoofed, client, ...hops].join(", ");
          const origin = clientOrigin(proxyPeer, { "x-forwarded-for": header }, false, lan);
          expect(origin.address).toBe(client);
        },
      ),
    );
  });

  test("whatever an untrusted peer writes, it is itself", () => {
    fc.assert(
      fc.property(outside, fc.string(), fc.string(), fc.string(), (peer, list, proto, host) => {
        const headers = {
          host: "jelly.test",
          "x-forwarded-for": list,
          "x-forwarded-proto": proto,
          "x-forwarded-host": host,
        };
        expect(clientOrigin(peer, headers, false, lan)).toEqual({
          address: peer,
          scheme: "http",
          host: "jelly.test",
        });
      }),
    );
  });

  test("no text in the list makes it throw or become anything but an address", () => {
    fc.assert(
      fc.property(fc.string(), (list) => {
        const { address } = clientOrigin(proxyPeer, { "x-forwarded-for": list }, false, lan);
        expect(address).toMatch(/^[\da-f.:]+(%[\w.:-]+)?$/i);
      }),
    );
  });
});

const base: UpstreamHead = {
  method: "GET",
  path: "/Items",
  rawHeaders: ["Host", "jelly.test"],
  swapped: { headers: {}, rawQuery: "" },
  origin: { address: "203.0.113.9", scheme: "https", host: "jelly.test" },
  bodyLength: undefined,
  plainAnswer: false,
  whole: false,
};

function headOf(changes: Partial<UpstreamHead>): {
  line: string;
  fields: [name: string, value: string][];
  get: (name: string) => string[];
} {
  const text = upstreamHead({ ...base, ...changes });
  expect(text.endsWith("\r\n\r\n")).toBe(true);
  const [line = "", ...rest] = text.slice(0, -4).split("\r\n");
  const fields = rest.map((field): [string, string] => {
    const colon = field.indexOf(": ");
    expect(colon).toBeGreaterThan(0);
    return [field.slice(0, colon).toLowerCase(), field.slice(colon + 2)];
  });
  const get = (name: string) => fields.filter(([each]) => each === name).map(([, value]) => value);
  return { line, fields, get };
}

describe("the head that a replica gets", () => {
  test("path and query go on as they came, the query as swapped", () => {
    expect(headOf({ path: "/a%20b//c" }).line).toBe("GET /a%20b//c HTTP/1.1");
    expect(
      headOf({ method: "POST", swapped: { headers: {}, rawQuery: "ApiKey=t&x=%zz" } }).line,
    ).toBe("POST /Items?ApiKey=t&x=%zz HTTP/1.1");
  });

  test("plain headers go on in their order, as they were written", () => {
    const text = upstreamHead({
      ...base,
      rawHeaders: ["Host", "h", "X-A", "1", "x-a", " 2\u00e9"],
    });
    expect(text).toContain("Host: h\r\nX-A: 1\r\nx-a:  2\u00e9\r\n");
  });

  test.each([
    "Keep-Alive",
    "Proxy-Connection",
    "Proxy-Authorization",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Content-Length",
    "Upgrade",
    "HTTP2-Settings",
    "Expect",
    "Connection",
    "Forwarded",
    "X-Real-IP",
    "X-Original-For",
    "X-Original-Host",
    "X-Original-Proto",
    "X-Forwarded",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Jellybloom",
    "X-Jellybloom-Replica",
  ])("a client's %s never passes, however it is written", (name) => {
    for (const written of [name, name.toLowerCase(), name.toUpperCase()]) {
      const { fields } = headOf({ rawHeaders: ["Host", "h", written, "value-of-the-client"] });
      expect(fields.map(([each]) => each)).not.toContain(name.toLowerCase());
      expect(JSON.stringify(fields)).not.toContain("value-of-the-client");
    }
  });

  test("who the client is, is said once, by us", () => {
    const { get } = headOf({
      rawHeaders: [
        "X-Forwarded-For",
        "127.0.0.1",
        "x-forwarded-proto",
        "ftp",
        "X-FORWARDED-HOST",
        "e",
      ],
    });
    expect(get("x-forwarded-for")).toEqual(["203.0.113.9"]);
    expect(get("x-forwarded-proto")).toEqual(["https"]);
    expect(get("x-forwarded-host")).toEqual(["jelly.test"]);
  });

  test("a client that names no host gets one, since HTTP/1.1 must", () => {
    expect(headOf({ rawHeaders: [] }).get("host")).toEqual(["jelly.test"]);
    const unnamed = headOf({ rawHeaders: [], origin: { ...base.origin, host: "" } });
    expect(unnamed.get("host")).toEqual([""]);
    expect(unnamed.get("x-forwarded-host")).toEqual([]);
    expect(headOf({}).get("host")).toEqual(["jelly.test"]);
  });

  test.each([
    ["X-Hop", "X-Hop"],
    ["close, X-Hop ,x-other", "x-hop"],
    ["keep-alive,cookie", "Cookie"],
    ["range", "Range"],
    ["if-none-match", "If-None-Match"],
    ["accept-encoding", "Accept-Encoding"],
  ])("Connection: %s takes %s out", (options, name) => {
    const rawHeaders = ["Host", "h", name, "v", "Connection", options, "X-Stays", "s"];
    const { get } = headOf({ rawHeaders });
    expect(get(name.toLowerCase())).toEqual([]);
    expect(get("x-stays")).toEqual(["s"]);
  });

  test("names of all Connection headers count", () => {
    const { get } = headOf({
      rawHeaders: ["Connection", "x-a", "X-A", "1", "X-B", "2", "connection", "x-b"],
    });
    expect([...get("x-a"), ...get("x-b")]).toEqual([]);
  });

  test("Connection takes out neither the host nor what we add", () => {
    const { get } = headOf({
      rawHeaders: ["Connection", "host, x-forwarded-for, authorization", "Host", "h"],
      swapped: { headers: { authorization: "MediaBrowser Token=t" }, rawQuery: "" },
    });
    expect(get("host")).toEqual(["h"]);
    expect(get("x-forwarded-for")).toEqual(["203.0.113.9"]);
    expect(get("authorization")).toEqual(["MediaBrowser Token=t"]);
  });

  test("credentials are exactly as swapped", () => {
    const rawHeaders = [
      ["Authorization", "MediaBrowser Token=old"],
      ["X-Emby-Authorization", "Emby Token=old"],
      ["X-EMBY-TOKEN", "old"],
      ["X-MediaBrowser-Token", "old"],
    ].flat();
    const swapped = {
      headers: { authorization: "MediaBrowser Token=new", "x-emby-token": undefined },
      rawQuery: "ApiKey=new",
    };
    const { line, fields, get } = headOf({ rawHeaders, swapped });
    expect(line).toBe("GET /Items?ApiKey=new HTTP/1.1");
    expect(get("authorization")).toEqual(["MediaBrowser Token=new"]);
    expect(JSON.stringify(fields)).not.toContain("old");
    expect(fields.map(([name]) => name)).not.toContain("x-emby-token");
  });

  test.each([
    ["jellybloom=a", undefined],
    ["jellybloom=a; theme=dark", "theme=dark"],
    ["theme=dark; jellybloom=a", "theme=dark"],
    ["a=1; jellybloom=a; c=3", "a=1; c=3"],
    ["a=1;jellybloom=a;jellybloom=b;c=3", "a=1;c=3"],
    ["notjellybloom=1", "notjellybloom=1"],
    ["a=1; b=2", "a=1; b=2"],
  ])("of the cookies %j our own is ours alone", (cookies, expected) => {
    const { get } = headOf({ rawHeaders: ["Host", "h", "Cookie", cookies] });
    expect(get("cookie")).toEqual(expected === undefined ? [] : [expected]);
  });

  test("an answer that we must read is asked for without compression", () => {
    const rawHeaders = ["Accept-Encoding", "gzip, br"];
    expect(headOf({ rawHeaders }).get("accept-encoding")).toEqual(["gzip, br"]);
    const plain = headOf({ rawHeaders, plainAnswer: true });
    expect(plain.get("accept-encoding")).toEqual(["identity"]);
  });

  const conditions = [
    "Range",
    "If-Range",
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
  ];

  test("ranges and conditions pass, unless the whole is asked for or a range of ours", () => {
    const rawHeaders = conditions.flatMap((name) => [name, "v"]);
    const names = (changes: Partial<UpstreamHead>) =>
      headOf({ rawHeaders, ...changes })
        .fields.map(([name]) => name)
        .filter((name) => conditions.some((each) => each.toLowerCase() === name));
    expect(names({})).toHaveLength(6);
    expect(names({ whole: true })).toEqual([]);
    expect(names({ range: "bytes=5-" })).toEqual(["range"]);
    expect(headOf({ rawHeaders, range: "bytes=5-" }).get("range")).toEqual(["bytes=5-"]);
    expect(headOf({ rawHeaders, whole: true, range: "bytes=5-9" }).get("range")).toEqual([
      "bytes=5-9",
    ]);
  });

  test("the length of the body is ours to say", () => {
    expect(headOf({}).get("content-length")).toEqual([]);
    const rawHeaders = ["Content-Length", "7", "Transfer-Encoding", "chunked"];
    expect(headOf({ rawHeaders, bodyLength: 0 }).get("content-length")).toEqual(["0"]);
    const { get } = headOf({ rawHeaders, bodyLength: 42 });
    expect(get("content-length")).toEqual(["42"]);
    expect(get("transfer-encoding")).toEqual([]);
  });
});

describe("no text becomes a line of its own", () => {
  const ours = new Set([
    "host",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "content-length",
    "accept-encoding",
    "range",
  ]);
  const neverPass = new RegExp(
    `^(${[
      ...["connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer"],
      ...["transfer-encoding", "upgrade", "expect", "http2-settings", "forwarded", "x-real-ip"],
      ...["x-jellybloom.*", "x-forwarded.*"],
    ].join("|")})$`,
  );
  const nasty = fc.oneof(
    fc.string(),
    fc
      .array(fc.constantFrom("\r", "\n", "\0", "a", ":", " ", "x-evil: 1", "GET / HTTP/1.1", ","))
      .map((pieces) => pieces.join("")),
  );
  const headerName = fc.oneof(
    nasty,
    fc.constantFrom(
      "Cookie",
      "Range",
      "Accept",
      "connection",
      "X-Forwarded-For",
      "x-jellybloom-a",
      "Transfer-Encoding",
      "Authorization",
      "TE",
      "X-Fine",
    ),
  );

  test("whatever the headers, the path, the token, the host or the range are", () => {
    fc.assert(
      fc.property(
        fc.record({
          path: nasty,
          rawHeaders: fc.array(fc.tuple(headerName, nasty)).map((pairs) => pairs.flat()),
          query: nasty,
          token: nasty,
          host: nasty,
          address: nasty,
          range: fc.option(nasty, { nil: undefined }),
        }),
        ({ path, rawHeaders, query, token, host, address, range }) => {
          const text = upstreamHead({
            ...base,
            path: `/${path}`,
            rawHeaders,
            swapped: { headers: { authorization: token, "x-emby-token": token }, rawQuery: query },
            origin: { address, scheme: "http", host },
            bodyLength: 3,
            range,
          });
          expect(text.indexOf("\r\n\r\n")).toBe(text.length - 4);
          const [line = "", ...fields] = text.slice(0, -4).split("\r\n");
          expect(line).toMatch(/^GET \/\S* HTTP\/1\.1$/);
          expect(text.replaceAll("\r\n", "")).not.toMatch(/[\r\n\0]/);
          const sent = new Set<string>();
          for (let index = 0; index < rawHeaders.length; index += 2) {
            sent.add((rawHeaders[index] ?? "").toLowerCase());
          }
          for (const field of fields) {
            const name = field.slice(0, field.indexOf(":")).toLowerCase();
            if (ours.has(name)) continue;
            expect(name).not.toMatch(neverPass);
            if (name === "authorization" || name === "x-emby-token") {
              expect(field.slice(name.length + 2)).toBe(token);
            } else {
              expect(sent).toContain(name);
            }
          }
          for (const name of ["x-forwarded-for", "x-forwarded-host", "content-length"]) {
            const count = fields.filter((field) => field.toLowerCase().startsWith(`${name}:`));
            expect(count.length).toBeLessThan(2);
          }
        },
      ),
      { numRuns: 2000 },
    );
  });

  test("names longer than any honest one are judged like the others", () => {
    const long = `X-Jellybloom-${"a".repeat(5000)}`;
    for (let times = 0; times < 2; times++) {
      expect(headOf({ rawHeaders: [long, "v"] }).get(long.toLowerCase())).toEqual([]);
      const plain = `X-${"b".repeat(5000)}`;
      expect(headOf({ rawHeaders: [plain, "v"] }).get(plain.toLowerCase())).toEqual(["v"]);
    }
  });

  test("thousands of names of one client change nothing for the next", () => {
    for (let index = 0; index < 2500; index++)
      upstreamHead({ ...base, rawHeaders: [`x-${index}`, ""] });
    const rawHeaders = ["X-FoRwArDeD-FoR", "127.0.0.1", "X-Late", "v"];
    const { get } = headOf({ rawHeaders });
    expect(get("x-forwarded-for")).toEqual(["203.0.113.9"]);
    expect(get("x-late")).toEqual(["v"]);
  });
});

describe("our cookie", () => {
  test.each([
    [undefined, undefined],
    ["", undefined],
    ["jellybloom=a", "a"],
    ["x=1; jellybloom=jellyfin-0; y=2", "jellyfin-0"],
    ["notjellybloom=a", undefined],
    ["jellybloom=", undefined],
    ["jellybloom=a b", undefined],
    ["jellybloom=<script>", undefined],
    [`jellybloom=${"a".repeat(64)}`, undefined],
    ["jellybloom=<; jellybloom=b", "b"],
  ])("%j names %j", (cookies, expected) => {
    expect(cookieReplica(cookies)).toBe(expected);
  });

  test("what we set, we read", () => {
    expect(cookieHeader("b")).toBe("jellybloom=b; Path=/; HttpOnly; SameSite=Lax");
    expect(cookieReplica(cookieHeader("jellyfin_2"))).toBe("jellyfin_2");
  });
});

test("credentials are read from the four headers and no others", () => {
  const found = credentialHeadersOf({
    authorization: "A",
    "x-emby-authorization": ["B", "other"],
    "x-emby-token": "C",
    cookie: "no",
  });
  expect(found).toEqual({
    authorization: "A",
    "x-emby-authorization": "B",
    "x-emby-token": "C",
    "x-mediabrowser-token": undefined,
  });
});
