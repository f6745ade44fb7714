// Options: what each type takes and refuses, which source wins, and that mistakes are told whole and without
// secrets.

import { describe, expect, test } from "vitest";
import {
  address,
  addressText,
  bytes,
  bytesText,
  cidr,
  durationMs,
  durationText,
  flag,
  httpUrl,
  integer,
  isLoopback,
  list,
  namedSecret,
  namedUrl,
  type OptionType,
  oneOf,
  option,
  optional,
  type ReadOptions,
  readOptions,
  required,
  secretText,
  urlOf,
} from "../../../core/service/options.ts";

const section = "Test";
const table = {
  listen: option({
    name: "listen",
    section,
    type: address,
    default: "127.0.0.1:80",
    description: "L.",
  }),
  holdLimitMs: option({
    name: "hold-limit",
    section,
    type: durationMs(0, 60_000),
    default: "4500ms",
    description: "H.",
  }),
  key: required({ name: "key", section, type: secretText(4), secret: true, description: "K." }),
  replica: list({ name: "replica", section, type: namedUrl, max: 2, description: "R." }),
  prefer: optional({ name: "prefer", section, type: oneOf(["a", "b"]), description: "P." }),
  loud: flag({ name: "loud", section, description: "F." }),
};

function readTest(
  argv: readonly string[],
  env: Record<string, string> = {},
  files: Record<string, string> = {},
): ReadOptions<typeof table> {
  const readFile = (path: string) => {
    const text = files[path];
    if (text === undefined) throw Object.assign(new Error("no such file"), { errno: -2 });
    return text;
  };
  return readOptions(table, [], { argv, env, readFile });
}

function mistakesOf(read: ReadOptions<typeof table>): readonly string[] {
  return read.kind === "mistakes" ? read.mistakes : [];
}

function configOf(read: ReadOptions<typeof table>) {
  if (read.kind !== "config") throw new Error(JSON.stringify(read));
  return read.config;
}

describe("types", () => {
  const taken: [string, OptionType<unknown>, string, unknown][] = [
    ["address", address, "127.0.0.1:8080", { host: "127.0.0.1", port: 8080 }],
    ["address of every interface", address, ":8080", { host: "", port: 8080 }],
    ["IPv6 address", address, "[::1]:0", { host: "::1", port: 0 }],
    ["address by name", address, "door.local:80", { host: "door.local", port: 80 }],
    ["url", httpUrl, "http://10.0.0.5:8096/", { origin: "http://10.0.0.5:8096", basePath: "" }],
    ["url with a base", httpUrl, "https://x/jf/", { origin: "https://x", basePath: "/jf" }],
    ["named url", namedUrl, "a=http://x:1", { name: "a", origin: "http://x:1", basePath: "" }],
    ["secret for all", namedSecret, "abc", { name: undefined, secret: "abc" }],
    ["secret for one", namedSecret, "a=b=c", { name: "a", secret: "b=c" }],
    ["network", cidr, "10.0.0.0/8", { family: 4, address: "10.0.0.0", prefixLength: 8 }],
    ["one address", cidr, "fd00::1", { family: 6, address: "fd00::1", prefixLength: 128 }],
    ["milliseconds", durationMs(0, 1e9), "250ms", 250],
    ["part of a second", durationMs(0, 1e9), "1.5s", 1500],
    ["hours", durationMs(0, 1e9), "2h", 7_200_000],
    ["bytes", bytes(0, 2 ** 40), "64MiB", 67_108_864],
    ["integer", integer(-5, 5), "-5", -5],
    [
      "sentinel",
      urlOf(["redis+sentinel"]),
      "redis+sentinel://a:1,b:2/m",
      "redis+sentinel://a:1,b:2/m",
    ],
  ];
  test.each(taken)("%s is taken", (_name, type, text, value) => {
    expect(type.parse(text)).toEqual({ value });
  });

  const refused: [string, OptionType<unknown>, string][] = [
    ["address without port", address, "127.0.0.1"],
    ["port beyond 65535", address, ":65536"],
    ["bare IPv6", address, "::1:80"],
    ["IPv4 in brackets", address, "[127.0.0.1]:80"],
    ["url without scheme", httpUrl, "10.0.0.5:8096"],
    ["url with another scheme", httpUrl, "ftp://x"],
    ["url with a user", httpUrl, "http://u:p@x"],
    ["url with a query", httpUrl, "http://x/?a=b"],
    ["url without a name", namedUrl, "http://x"],
    ["name with a dot", namedUrl, "a.b=http://x"],
    ["secret with a space", namedSecret, "a b"],
    ["empty secret", namedSecret, "a="],
    ["too long prefix", cidr, "10.0.0.0/33"],
    ["network that is none", cidr, "10.0.0/8"],
    ["time without unit", durationMs(0, 1e9), "5"],
    ["time beyond the limit", durationMs(0, 1000), "2s"],
    ["size in powers of ten", bytes(0, 1e9), "5MB"],
    ["fraction", integer(0, 5), "1.5"],
    ["nothing", integer(0, 5), ""],
    ["another word", oneOf(["a"]), "b"],
    ["another scheme", urlOf(["redis"]), "http://x"],
  ];
  test.each(refused)("%s is refused", (_name, type, text) => {
    expect(type.parse(text)).toHaveProperty("mistake");
  });

  test("times and sizes are told as a person would write them", () => {
    expect([durationText(4500), durationText(60_000), durationText(3_600_000)]).toEqual([
      "4500ms",
      "1m",
      "1h",
    ]);
    expect([bytesText(2 ** 20), bytesText(100)]).toEqual(["1MiB", "100B"]);
    expect(addressText({ host: "::1", port: 1 })).toBe("[::1]:1");
  });

  test("only what stays on this machine is loopback", () => {
    const hosts = [
      "127.0.0.1",
      "127.9.9.9",
      "::1",
      "localhost",
      "",
      "10.0.0.1",
      "127.evil.example",
    ];
    expect(hosts.map((host) => isLoopback({ host, port: 1 }))).toEqual([
      true,
      true,
      true,
      true,
      false,
      false,
      false,
    ]);
  });
});

describe("sources", () => {
  test("defaults hold where nothing is given", () => {
    expect(configOf(readTest(["--key", "secret"]))).toEqual({
      listen: { host: "127.0.0.1", port: 80 },
      holdLimitMs: 4500,
      key: "secret",
      replica: [],
      prefer: undefined,
      loud: false,
    });
  });

  test("the command line wins over the environment", () => {
    const env = { JELLYBLOOM_KEY: "fromenv", JELLYBLOOM_HOLD_LIMIT: "1s", JELLYBLOOM_LOUD: "on" };
    const config = configOf(readTest(["--hold-limit=2s", "--loud=off"], env));
    expect(config).toMatchObject({ key: "fromenv", holdLimitMs: 2000, loud: false });
  });

  test("a repeatable option is repeated, or divided by commas and lines in the environment", () => {
    const argv = ["--key", "secret", "--replica", "a=http://x", "--replica=b=http://y"];
    const env = { JELLYBLOOM_KEY: "secret", JELLYBLOOM_REPLICA: "a=http://x,\nb=http://y\n" };
    expect(configOf(readTest(argv)).replica).toEqual(configOf(readTest([], env)).replica);
    expect(configOf(readTest(argv)).replica).toHaveLength(2);
  });

  test("a secret is read from a file, without the line's end", () => {
    const files = { "/run/key": "from the file\n".replaceAll(" ", "-") };
    expect(configOf(readTest(["--key-file", "/run/key"], {}, files)).key).toBe("from-the-file");
    const env = { JELLYBLOOM_KEY_FILE: "/run/key" };
    expect(configOf(readTest([], env, files)).key).toBe("from-the-file");
  });

  test("an empty variable is one that is not set", () => {
    expect(configOf(readTest(["--key", "secret"], { JELLYBLOOM_LISTEN: "" })).listen.port).toBe(80);
  });

  test("help is asked for in the midst of mistakes", () => {
    expect(readTest(["--nonsense", "--help"]).kind).toBe("help");
  });

  test("words are kept apart from options", () => {
    const sources = { argv: ["GET", "--key", "secret", "/x"], env: {}, readFile: () => "" };
    const read = readOptions(table, [], sources, ["METHOD", "PATH"]);
    expect(read).toMatchObject({ kind: "config", words: ["GET", "/x"] });
  });
});

describe("mistakes", () => {
  test("all are told at once, each naming its option", () => {
    const argv = ["--listen", "nowhere", "--hold-limt", "3s", "--prefer", "c", "--replica"];
    expect(mistakesOf(readTest(argv))).toEqual([
      "Unknown option --hold-limt. Did you mean --hold-limit?",
      "--replica needs a value.",
      '--listen must be HOST:PORT, such as 127.0.0.1:8080, [::1]:8080 or :8080, not "nowhere".',
      "--key KEY is needed (or JELLYBLOOM_KEY).",
      '--prefer must be one of a, b, not "c".',
    ]);
  });

  test("the value of a secret is in none", () => {
    const reads = [
      readTest(["--key", "hu2"]),
      readTest([], { JELLYBLOOM_KEY: "hu2" }),
      readTest(["--key-file", "/f"], {}, { "/f": "hu2" }),
      readTest(["--key", "goodkey", "--key", "hu2"]),
      readTest(["--key", "goodkey", "hunter2"]),
      readTest(["--kee=hunter2"]),
    ];
    for (const read of reads) {
      expect(mistakesOf(read).length).toBeGreaterThan(0);
      expect(mistakesOf(read).join(" ")).not.toMatch(/hunter2|hu2/);
    }
  });

  test("a secret given twice over, or in a file that is not there, is refused", () => {
    const both = readTest(["--key", "secret", "--key-file", "/f"], {}, { "/f": "secret" });
    expect(mistakesOf(both)).toEqual(["--key and --key-file exclude each other."]);
    const missing = readTest(["--key-file", "/nowhere"]);
    expect(mistakesOf(missing)).toEqual(["--key-file: the file /nowhere cannot be read (ENOENT)."]);
    const empty = readTest(["--key-file", "/f"], {}, { "/f": "\n" });
    expect(mistakesOf(empty)).toEqual(["--key-file: the file /f is empty."]);
  });

  test("more than one value is refused where one is asked for", () => {
    const read = readTest(["--key", "secret", "--listen", ":1", "--listen", ":2"]);
    expect(mistakesOf(read)).toEqual(["--listen was given more than once."]);
  });

  test("a list that is too long is refused", () => {
    const replicas = ["a", "b", "c"].flatMap((name) => ["--replica", `${name}=http://${name}`]);
    expect(mistakesOf(readTest(["--key", "secret", ...replicas]))).toEqual([
      "--replica may be given at most 2 times.",
    ]);
  });

  test("a rule is not looked at when what it is about could not be read", () => {
    const rule = { about: ["listen" as const], check: () => ["The rule was looked at."] };
    const sources = { argv: ["--key", "secret", "--listen", "x"], env: {}, readFile: () => "" };
    const read = readOptions(table, [rule], sources);
    expect(mistakesOf(read)).toHaveLength(1);
    const good = readOptions(table, [rule], { ...sources, argv: ["--key", "secret"] });
    expect(mistakesOf(good)).toEqual(["The rule was looked at."]);
  });
});
