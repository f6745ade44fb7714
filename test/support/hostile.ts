// Hostile requests from a seed: the same number gives the same bytes on every machine. Each kind is one way
// in which programs were made to misread a request, or to spend themselves on one.
//
// Paths tell what may reach a server: `/good/…` and `/maybe/…` are framed beyond doubt by the client itself,
// everything else (`/never/…`, `/smuggled/…`) must not be seen there.

export interface HostileCase {
  readonly kind: string;
  readonly pieces: readonly (string | Buffer)[];
  readonly pauseMs?: number;
  /** Never finished by the client: the door's own limits must end it. */
  readonly isSlow?: boolean;
  /** What each reply may be, in order; fewer are a clean end. Undefined: anything below 500. */
  readonly replies?: readonly ((status: number) => boolean)[];
}

type Random = () => number;

/** Mulberry32: small, and good enough to choose with. */
function randomFrom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

const refused = (status: number): boolean => status >= 400 && status < 500;
const fine = (status: number): boolean => status >= 200 && status < 300;

/** The numbers 0 to 94 as the visible letters of ASCII, then those from 161 on. */
const letterCode = (number: number): number => (number < 95 ? 32 + number : 66 + number);

class Tools {
  readonly number: number;
  readonly random: Random;
  constructor(number: number, random: Random) {
    this.number = number;
    this.random = random;
  }

  upTo(limit: number): number {
    return Math.floor(this.random() * limit);
  }

  pick<Value>(values: readonly Value[]): Value {
    return values[this.upTo(values.length)] as Value;
  }

  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.upTo(256)));
  }

  /** Letters of ISO 8859-1 that a header may hold. */
  printable(length: number): string {
    const letter = (): string => String.fromCharCode(letterCode(this.upTo(190)));
    return Array.from({ length }, letter).join("");
  }

  get never(): string {
    return `/never/${this.number}`;
  }

  get good(): string {
    return `/good/${this.number}`;
  }

  get maybe(): string {
    return `/maybe/${this.number}`;
  }

  /** A whole request that nobody sent, for bodies that want to be read as one. */
  get smuggled(): string {
    return `GET /smuggled/${this.number} HTTP/1.1\r\nHost: door\r\n\r\n`;
  }

  /** A request whose head is fine but for `lines`, with what follows it. */
  post(lines: string, body: string): string {
    return `POST ${this.never} HTTP/1.1\r\nHost: door\r\n${lines}\r\n${body}`;
  }

  get(lines: string, target = this.never): string {
    return `GET ${target} HTTP/1.1\r\nHost: door\r\n${lines}\r\n`;
  }
}

type Kind = (tools: Tools) => Omit<HostileCase, "kind">;

const refusedOnce = (text: string): Omit<HostileCase, "kind"> => ({
  pieces: [text],
  replies: [refused],
});

const kinds: Record<string, Kind> = {
  requestLine: (t) =>
    refusedOnce(
      t.pick([
        `GET${t.never} HTTP/1.1\r\nHost: door\r\n\r\n`,
        `GET\t${t.never} HTTP/1.1\r\nHost: door\r\n\r\n`,
        `GET ${t.never} HTTP/1.1 \r\nHost: door\r\n\r\n`,
        `GET ${t.never} HTTP/2.0\r\nHost: door\r\n\r\n`,
        `GET ${t.never} HTTP/9.9\r\nHost: door\r\n\r\n`,
        `GET ${t.never} HTTP/1.2\r\nHost: door\r\n\r\n`,
        `GET ${t.never} HTTP/1.1.1\r\nHost: door\r\n\r\n`,
        `GET ${t.never} http/1.1\r\nHost: door\r\n\r\n`,
        `GET ${t.never}\r\nHost: door\r\n\r\n`,
        `GET ${t.never} with blanks HTTP/1.1\r\nHost: door\r\n\r\n`,
        ` GET ${t.never} HTTP/1.1\r\nHost: door\r\n\r\n`,
        `GET HTTP/1.1\r\nHost: door\r\n\r\n`,
        `HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n`,
        `${t.never}\r\n\r\n`,
      ]),
    ),
  // Two blanks are no harm: the door writes the line anew, with one.
  blanks: (t) => ({ pieces: [`GET   ${t.maybe} HTTP/1.1\r\nHost: door\r\n\r\n`] }),
  method: (t) => refusedOnce(`${t.pick(oddMethods)} ${t.never} HTTP/1.1\r\nHost: door\r\n\r\n`),
  target: (t) =>
    refusedOnce(
      `GET ${t.pick([
        `http://door${t.never}`,
        `https://other.example${t.never}`,
        "*",
        "door:443",
        `//other.example${t.never}`.slice(1).replace("/", "\\"),
        t.never.slice(1),
        `${t.never}#part`,
        `${t.never}?a#b`,
        `ftp://door${t.never}`,
        `?q=${t.number}`,
      ])} HTTP/1.1\r\nHost: door\r\n\r\n`,
    ),
  controlInTarget: (t) =>
    refusedOnce(
      `GET ${t.never}${String.fromCharCode(t.pick([0, 1, 7, 8, 9, 11, 12, 27, 31, 127]))}x HTTP/1.1\r\nHost: door\r\n\r\n`,
    ),
  controlInHeader: (t) =>
    refusedOnce(
      t.get(`X-Odd: a${String.fromCharCode(t.pick([0, 1, 8, 11, 12, 27, 31, 127]))}b\r\n`),
    ),
  headerName: (t) =>
    refusedOnce(
      t.get(
        t.pick([
          "X Odd: a\r\n",
          "X-Odd : a\r\n",
          ": a\r\n",
          "X-Odd\r\n",
          "X\0Odd: a\r\n",
          "(odd): a\r\n",
          "Content-Length : 5\r\n",
          "Transfer-Encoding : chunked\r\n",
          "\u00e9: a\r\n",
        ]),
      ),
    ),
  bareEnds: (t) =>
    refusedOnce(
      t.pick([
        `GET ${t.never} HTTP/1.1\nHost: door\n\n`,
        `GET ${t.never} HTTP/1.1\r\nHost: door\nX-Odd: a\r\n\r\n`,
        `GET ${t.never} HTTP/1.1\r\nHost: door\r\nX-Odd: a\rX-More: b\r\n\r\n`,
        `GET ${t.never} HTTP/1.1\rHost: door\r\r`,
        `GET ${t.never} HTTP/1.1\r\nHost: door\r\nX-Odd: a\n\nGET /smuggled/${t.number} HTTP/1.1\r\nHost: door\r\n\r\n`,
      ]),
    ),
  folded: (t) =>
    refusedOnce(
      t.pick([
        t.get("X-Odd: a\r\n b\r\n"),
        t.get("X-Odd: a\r\n\tb\r\n"),
        t.post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
        t.post("Content-Length:\r\n 5\r\n", "hello"),
        `GET ${t.never} HTTP/1.1\r\n Host: door\r\n\r\n`,
      ]),
    ),
  lengths: (t) => {
    const lines = t.pick([
      "Content-Length: 5\r\nContent-Length: 6\r\n",
      "Content-Length: 5\r\nContent-Length: 5\r\n",
      "Content-Length: 5, 5\r\n",
      "Content-Length: 5,6\r\n",
      "Content-Length: +5\r\n",
      "Content-Length: -5\r\n",
      "Content-Length: 0x5\r\n",
      "Content-Length: 5 5\r\n",
      "Content-Length: 5.0\r\n",
      "Content-Length: 5e0\r\n",
      "Content-Length: \r\n",
      "Content-Length: five\r\n",
      "Content-Length: 99999999999999999999999999\r\n",
      "Content-Length: 18446744073709551621\r\n",
    ]);
    return refusedOnce(t.post(lines, `hello${t.smuggled}`));
  },
  lengthAndChunks: (t) => {
    const coding = t.pick([
      "Transfer-Encoding: chunked\r\n",
      "transfer-encoding: CHUNKED\r\n",
      "Transfer-Encoding:chunked\r\n",
      "Transfer-Encoding:\tchunked\r\n",
    ]);
    const length = `Content-Length: ${t.pick([3, 4, 5, 30])}\r\n`;
    const lines = t.random() < 0.5 ? coding + length : length + coding;
    return refusedOnce(t.post(lines, `0\r\n\r\n${t.smuggled}`));
  },
  coding: (t) => {
    const lines = t.pick([
      "Transfer-Encoding: chunked, identity\r\n",
      "Transfer-Encoding: identity, chunked\r\n",
      "Transfer-Encoding: gzip, chunked\r\n",
      "Transfer-Encoding: xchunked\r\n",
      "Transfer-Encoding: chunkedx\r\n",
      "Transfer-Encoding: identity\r\n",
      "Transfer-Encoding: gzip\r\n",
      "Transfer-Encoding: \r\n",
      "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
      "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
      "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
      "Transfer-Encoding: chunked, chunked\r\n",
      "Transfer-Encoding: chunked;q=1\r\n",
      'Transfer-Encoding: "chunked"\r\n',
      "Transfer-Encoding: \x0bchunked\r\n",
      "Transfer-Encoding: ,chunked\r\n",
    ]);
    return refusedOnce(t.post(lines, `0\r\n\r\n${t.smuggled}`));
  },
  oldWithChunks: (t) =>
    refusedOnce(
      `POST ${t.never} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${t.smuggled}`,
    ),
  chunks: (t) => {
    const body = t.pick([
      "x\r\nhello\r\n0\r\n\r\n",
      "-5\r\nhello\r\n0\r\n\r\n",
      "+5\r\nhello\r\n0\r\n\r\n",
      "0x5\r\nhello\r\n0\r\n\r\n",
      "5 \r\nhello\r\n0\r\n\r\n".replace("5 ", "5 5"),
      "5\nhello\n0\n\n",
      "5\r\nhelloX\r\n0\r\n\r\n",
      "4\r\nhello\r\n0\r\n\r\n",
      "\r\nhello\r\n0\r\n\r\n",
      "5\rhello\r\n0\r\n\r\n",
      "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
      "10000000000000005\r\nhello\r\n0\r\n\r\n",
      "5\r\nhello0\r\n\r\n",
      "5;\0\r\nhello\r\n0\r\n\r\n",
      "5;a\nb\r\nhello\r\n0\r\n\r\n",
    ]);
    return refusedOnce(t.post("Transfer-Encoding: chunked\r\n", body + t.smuggled));
  },
  longExtension: (t) => {
    const body = `5;${"a".repeat(20_000)}=1\r\nhello\r\n0\r\n\r\n`;
    return refusedOnce(t.post("Transfer-Encoding: chunked\r\n", body));
  },
  // Small ones on many chunks are framed beyond doubt, so they may be honest.
  manyExtensions: (t) => {
    const body = `${`1;${"e".repeat(40)}=${t.number}\r\nx\r\n`.repeat(600)}0\r\n\r\n`;
    const head = `POST ${t.maybe} HTTP/1.1\r\nHost: door\r\nTransfer-Encoding: chunked\r\n\r\n`;
    return { pieces: [head + body] };
  },
  trailers: (t) => {
    const trailers = t.pick([
      "Host: other\r\n\r\n",
      `${"a: b\r\n".repeat(50)}\r\n`,
      "Content-Length: 50\r\n\r\n",
      "Authorization: MediaBrowser Token=x\r\n\r\n",
    ]);
    const head = `POST ${t.maybe} HTTP/1.1\r\nHost: door\r\nTransfer-Encoding: chunked\r\n\r\n`;
    return { pieces: [`${head}5\r\nhello\r\n0\r\n${trailers}`] };
  },
  hosts: (t) =>
    refusedOnce(
      t.pick([
        `GET ${t.never} HTTP/1.1\r\n\r\n`,
        `GET ${t.never} HTTP/1.1\r\nHost: door\r\nHost: door\r\n\r\n`,
        `GET ${t.never} HTTP/1.1\r\nHost: door\r\nhost: other\r\n\r\n`,
        `GET ${t.never} HTTP/1.1\r\nHost: door/path\r\n\r\n`,
        `GET ${t.never} HTTP/1.1\r\nHost: user@door\r\n\r\n`,
        `GET ${t.never} HTTP/1.1\r\nHost: door other\r\n\r\n`,
        `GET ${t.never} HTTP/1.1\r\nHost: door,other\r\n\r\n`,
        `GET ${t.never} HTTP/1.1\r\nHost: [::1\r\n\r\n`,
        `GET ${t.never} HTTP/1.1\r\nHost: door:port\r\n\r\n`,
        `GET ${t.never} HTTP/1.1\r\nHost: "><script>\r\n\r\n`,
      ]),
    ),
  huge: (t) =>
    refusedOnce(
      t.pick([
        t.get("", `${t.never}/${"a".repeat(20_000)}`),
        t.get("", `${t.never}?${"a=b&".repeat(5000)}`),
        t.get(`X-Large: ${"a".repeat(20_000)}\r\n`),
        t.get(`${"a".repeat(20_000)}: b\r\n`),
        t.get("a: b\r\n".repeat(1000)),
        t.get("a: b\r\n".repeat(4000)),
        t.get(`Cookie: ${"a=b; ".repeat(4000)}\r\n`),
        t.post("Content-Length: 300000\r\n", ""),
      ]),
    ),
  authorization: (t) => {
    const quote = '"';
    const value = t.pick([
      "MediaBrowser",
      "MediaBrowser ",
      `MediaBrowser Token=${quote}`,
      `MediaBrowser Token=${quote}${"f".repeat(9000)}${quote}`,
      `MediaBrowser ${"Token=x, ".repeat(500)}`,
      `MediaBrowser ${quote.repeat(300)}`,
      `MediaBrowser Token=${quote}a%0d%0aX-Odd: b${quote}`,
      `MediaBrowser Token=${quote}%00%ff%c3${quote}, DeviceId=${quote}${"%41".repeat(500)}${quote}`,
      `MediaBrowser ${"=,".repeat(2000)}`,
      `Basic ${"A".repeat(2000)}`,
      `Bearer ${t.bytes(40).toString("base64")}`,
      `Emby UserId=${quote}\\${quote}, Token=${quote}__proto__${quote}`,
      `MediaBrowser constructor=${quote}a${quote}, __proto__=${quote}b${quote}, Token=${quote}c${quote}`,
      t.printable(60),
    ]);
    const name = t.pick(["Authorization", "X-Emby-Authorization", "X-Emby-Token"]);
    return { pieces: [t.get(`${name}: ${value}\r\n`, t.maybe)] };
  },
  query: (t) => {
    const query = t.pick([
      `ApiKey=${"f".repeat(9000)}`,
      "ApiKey=%0d%0aX-Odd:%20b",
      "api_key=%00&ApiKey=%ff%fe",
      "ApiKey=a&ApiKey=b&apikey=c&api_key=d",
      "%41%70%69%4b%65%79=x",
      "=&=&&&===",
      "__proto__=a&constructor=b",
      "a".repeat(5000),
      "PlaySessionId[]=1&PlaySessionId=%ZZ",
    ]);
    return { pieces: [t.get("", `${t.maybe}?${query}`)] };
  },
  odd: (t) => {
    const path = t.pick([
      "/%2e%2e/%2e%2e/etc/passwd",
      "/../..",
      "//",
      "/%00",
      "/%zz",
      "/%c0%af",
      "/\u00e9\u00ff",
      "/Videos/%2e%2e/%2e%2e",
      "/{*rest}",
      "/;a=b",
      "/.../",
    ]);
    return { pieces: [t.get("", `${t.maybe}${path}`)] };
  },
  websocket: (t) => {
    const lines = t.pick([
      "Upgrade: websocket\r\nConnection: Upgrade\r\n",
      "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
      "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: short\r\nSec-WebSocket-Version: 13\r\n",
      "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 1\r\n",
      "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
      "Upgrade: WebSocket\r\nConnection: upgrade\r\nTransfer-Encoding: chunked\r\n",
      `Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: ${t.smuggled.length}\r\n`,
      "Upgrade: websocket\r\nConnection: Upgrade\r\nHost: other\r\n",
      "Upgrade: websocket, h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQ\r\n".replace(
        "websocket, h2c",
        "websocket",
      ),
    ]);
    const target = t.pick([t.never, "/socket", "/socket?ApiKey=x", "/metrics"]);
    const text = `${t.pick(["GET", "POST"])} ${target} HTTP/1.1\r\nHost: door\r\n${lines}\r\n`;
    return refusedOnce(text + (t.random() < 0.5 ? t.smuggled : ""));
  },
  otherUpgrade: (t) => ({
    pieces: [
      t.get(
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
        t.maybe,
      ),
    ],
  }),
  http2: (t) => ({
    pieces: [
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
      Buffer.concat([Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]), t.bytes(t.upTo(60))]),
    ],
    replies: [refused],
  }),
  tls: (t) => ({
    pieces: [Buffer.concat([Buffer.from([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]), t.bytes(200)])],
    replies: [refused],
  }),
  random: (t) => ({ pieces: [t.bytes(1 + t.upTo(400))], replies: [refused] }),
  randomAfterHead: (t) => ({
    pieces: [t.get("", t.good), t.bytes(1 + t.upTo(200))],
    replies: [fine, refused],
  }),
  mutated: (t) => {
    // An honest request with some bytes changed; `/maybe/` since some changes leave it honest.
    const bytes = Buffer.from(
      `POST ${t.maybe} HTTP/1.1\r\nHost: door\r\nAccept: */*\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello`,
    );
    for (let changes = 1 + t.upTo(4); changes > 0; changes--) {
      // Behind the path, which must go on telling whose request it is.
      const from = 12 + String(t.number).length;
      bytes[from + t.upTo(bytes.length - from)] = t.upTo(256);
    }
    return { pieces: [bytes] };
  },
  pipelined: (t) => {
    const bad = t.pick([
      "GARBAGE\r\n\r\n",
      `GET ${t.never} HTTP/1.1\r\n\r\n`,
      t.post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
      t.post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
      t.get("X-Odd: a\r\n b\r\n"),
      t.get("", `${t.never}#part`),
    ]);
    const pieces = [t.get("", t.good) + t.get("", `${t.good}/second`) + bad + t.smuggled];
    return { pieces, replies: [fine, fine, refused] };
  },
  afterClose: (t) => ({
    pieces: [`${t.get("Connection: close\r\n", t.good)}${t.smuggled}`],
    replies: [fine],
  }),
  cutBody: (t) => ({
    pieces: [
      t.pick([
        t.post("Content-Length: 100\r\n", t.smuggled),
        t.post("Transfer-Encoding: chunked\r\n", "50\r\nhello"),
        t.post("Content-Length: 100000\r\n", "x".repeat(70_000)),
        `${t.get("").slice(0, -2)}X-Cut: `,
      ]),
    ],
    replies: [refused],
  }),
  hopByHop: (t) => ({
    pieces: [
      t.get(
        t.pick([
          "Connection: close, Host\r\n",
          "Connection: Content-Length, X-Forwarded-For\r\n",
          "Connection: Authorization\r\nAuthorization: MediaBrowser Token=x\r\n",
          "Keep-Alive: timeout=99999999999\r\nConnection: keep-alive\r\n",
          "TE: trailers, chunked;q=9\r\nTrailer: Content-Length\r\n",
          "Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\n",
          `Range: bytes=${"0-1,".repeat(1000)}5-\r\n`,
          'Range: bytes=-18446744073709551616\r\nIf-Range: "\r\n',
        ]),
        t.maybe,
      ),
    ],
  }),
};

/** These take their whole time limit, so there are few of them. */
const slowKinds: Record<string, Kind> = {
  slowHead: (t) => ({
    pieces: [..."GET /never HTTP/1.1\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
    pauseMs: 60 + t.upTo(60),
    isSlow: true,
    replies: [refused],
  }),
  slowBody: (t) => ({
    pieces: [t.post("Content-Length: 50\r\n", ""), ..."drop by drop, drop by drop"],
    pauseMs: 80 + t.upTo(60),
    isSlow: true,
    replies: [refused],
  }),
  slowChunks: (t) => ({
    pieces: [t.post("Transfer-Encoding: chunked\r\n", ""), ...Array<string>(30).fill("1\r\nx\r\n")],
    pauseMs: 80,
    isSlow: true,
    replies: [refused],
  }),
  silentAfterHead: (t) => ({
    pieces: [t.post("Content-Length: 50\r\n", "")],
    isSlow: true,
    replies: [refused],
  }),
};

const names = Object.keys(kinds);
const slowNames = Object.keys(slowKinds);
/** One in so many is a slow one. */
const slowEvery = 80;

/** The case of that number. */
export function hostileCase(seed: number, number: number): HostileCase {
  const tools = new Tools(number, randomFrom(seed + number * 7919));
  const isSlow = number % slowEvery === 0;
  const kind = tools.pick(isSlow ? slowNames : names);
  const make = (isSlow ? slowKinds : kinds)[kind];
  if (make === undefined) throw new Error(`there is no kind ${kind}`);
  return { kind, ...make(tools) };
}

const oddMethods = [
  "get",
  "GE\0T",
  "TRACE",
  "FOO",
  "G<ET",
  "POSTGET",
  "",
  "\u00e9",
  "A".repeat(300),
  "CONNECT",
  "PRI",
];
