// The command line as a contract: the help texts as they are read, the rules between options, exit codes.

import { describe, expect, test } from "vitest";
import { main } from "../../../cli/main.ts";
import { apiKeyOf } from "../../../cli/options.ts";

async function run(argv: readonly string[], env: Record<string, string> = {}) {
  let out = "";
  let err = "";
  const code = await main(argv, {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
    env,
  });
  return { code, out, err };
}

async function mistakes(argv: readonly string[], env: Record<string, string> = {}) {
  const { code, err } = await run(argv, env);
  expect(code).toBe(2);
  return err.trim().split("\n").slice(0, -1);
}

const clusterKey = "0123456789abcdef";
const two = ["--replica", "a=http://10.0.0.5:8096", "--replica", "b=http://10.0.0.6:8096"];

const documented = [
  ...["up", "proxy", "sidecar", "explain", "seed", "backup"],
  ...["status", "drain", "undrain", "truth", "catch-up", "reseed", "leave", "doctor"],
];

test.each(documented)("the help of %s", async (command) => {
  const { code, out } = await run([command, "--help"]);
  expect(code).toBe(0);
  await expect(out).toMatchFileSnapshot(`help/${command}.txt`);
});

test("the help of the program", async () => {
  const { code, out } = await run(["--help"]);
  expect(code).toBe(0);
  await expect(out).toMatchFileSnapshot("help/program.txt");
});

test("no command and an unknown one end with 2 and the help", async () => {
  expect(await run([])).toMatchObject({ code: 2, out: "" });
  const { code, err } = await run(["upp"]);
  expect(code).toBe(2);
  expect(err).toContain('jellybloom has no command "upp"');
});

describe("up", () => {
  test("needs a replica", async () => {
    expect(await mistakes(["up"])).toEqual([
      "--replica NAME=URL is needed (or JELLYBLOOM_REPLICA).",
    ]);
  });

  test("needs an API key for each replica when there are several", async () => {
    const [none] = await mistakes(["up", ...two]);
    expect(none).toMatch(/^--api-key is needed for a, b:/);
    const [one] = await mistakes(["up", ...two, "--api-key", "a=k1"]);
    expect(one).toMatch(/^--api-key is needed for b:/);
    const [foreign] = await mistakes(["up", ...two, "--api-key", "k", "--api-key", "c=k"]);
    expect(foreign).toBe("--api-key names c, which is not the name of a --replica.");
  });

  test("tells everything that does not go together at once", async () => {
    const odd = ["--data", "d", "--redis", "redis://x", "--discovery", "--prefer", "c"];
    const same = ["--listen", ":9000", "--admin", "127.0.0.1:9000"];
    expect(await mistakes(["up", ...two, "--api-key", "k", ...odd, ...same])).toEqual([
      "--data and --redis exclude each other: the store lies in one place.",
      "--redis needs --cluster-key: what lies in Redis is sealed with it.",
      "--discovery needs --public-url: it is what discovery answers with.",
      "--listen and --admin must not be the same place (127.0.0.1:9000).",
      "--prefer c is not the name of a --replica.",
    ]);
  });

  test("refuses a name or a server that is there twice", async () => {
    const names = ["--replica", "a=http://x", "--replica", "a=http://y"];
    expect(await mistakes(["up", ...names, "--api-key", "k"])).toEqual([
      "--replica has the name a twice.",
    ]);
    const servers = ["--replica", "a=http://x", "--replica", "b=http://x/"];
    expect(await mistakes(["up", ...servers, "--api-key", "k"])).toEqual([
      "--replica a and b are the same server (http://x).",
    ]);
  });

  test("reads all of it from the environment", async () => {
    const env = { JELLYBLOOM_REPLICA: "a=http://x,b=http://y", JELLYBLOOM_REDIS: "redis://r" };
    const told = await mistakes(["up"], env);
    expect(told.map((sentence) => sentence.split(" ")[0])).toEqual(["--redis", "--api-key"]);
  });
});

describe("proxy and sidecar", () => {
  test("a proxy needs somebody to pass requests to", async () => {
    expect(await mistakes(["proxy"])).toEqual([
      "--replica, --discover or --redis is needed: else there is nobody to pass requests to.",
    ]);
  });

  test("a sidecar needs its replica, its store and the keys", async () => {
    const told = await mistakes(["sidecar", "--name", "a", "--cluster-key", "short"]);
    expect(told.map((sentence) => sentence.split(" ")[0])).toEqual([
      "--jellyfin",
      "--api-key",
      "--redis",
      "--cluster-key",
    ]);
    expect(told.join(" ")).not.toContain("short");
  });
});

describe("explain", () => {
  test("needs METHOD and PATH", async () => {
    expect(await mistakes(["explain", "--cluster-key", clusterKey, "GET"])).toEqual([
      "PATH is missing.",
    ]);
  });

  test("says in a sentence that no door answers", async () => {
    const argv = [
      "explain",
      "--admin",
      "http://127.0.0.1:1",
      "--cluster-key",
      clusterKey,
      "GET",
      "/x",
    ];
    const { code, err } = await run(argv);
    expect(code).toBe(1);
    expect(err).toMatch(/^No answer from http:\/\/127\.0\.0\.1:1: /);
    expect(err).not.toContain(clusterKey);
  });
});

test("leave tells its mistakes all at once, before anything is done", async () => {
  expect(await mistakes(["leave"])).toEqual([
    "--replica NAME=URL is needed (or JELLYBLOOM_REPLICA).",
  ]);
  const wrong = ["--keep", "c", "--server", "d=/srv", "--data", "x", "--redis", "redis://r"];
  expect(await mistakes(["leave", ...two, ...wrong])).toEqual([
    "--data and --redis exclude each other: the store lies in one place.",
    "--keep c is not the name of a --replica.",
    "--server d is not the name of a --replica.",
  ]);
  expect(await mistakes(["leave", ...two, "--server", "nonsense"])).toHaveLength(1);
  expect(await mistakes(["up", ...two, "--api-key", "k", "--time-zone", "Mars/Olympus"])).toEqual([
    '--time-zone must be a time zone, such as Europe/Berlin, not "Mars/Olympus".',
  ]);
});

describe("status, drain and undrain", () => {
  const nowhere = ["--admin", "http://127.0.0.1:1", "--cluster-key", clusterKey];

  test.each(["status", "drain", "undrain"])(
    "%s says in a sentence that nobody answers",
    async (name) => {
      const { code, out, err } = await run([name, ...nowhere]);
      expect([code, out]).toEqual([1, ""]);
      expect(err).toMatch(/^No (?:answer|status) from http:\/\/127\.0\.0\.1:1: /);
      expect(err).not.toContain(clusterKey);
    },
  );

  test("a name may be left out, and is one word", async () => {
    expect(await mistakes(["drain", ...nowhere, "a", "b"])).toEqual([
      'Unexpected word "b": options start with --.',
    ]);
  });

  test("what DNS is to be asked is said with its port, or as a service", async () => {
    for (const wrong of [
      "jellyfin:8096",
      "dns:jellyfin",
      "dns:jellyfin:0",
      "dns:_http._tcp.x:99999",
    ]) {
      expect(await mistakes(["proxy", "--discover", wrong])).toHaveLength(1);
    }
  });
});

test("a replica's own API key goes before the one for all", () => {
  const keys = [
    { name: undefined, secret: "all" },
    { name: "b", secret: "own" },
  ];
  expect([apiKeyOf(keys, "a"), apiKeyOf(keys, "b"), apiKeyOf([], "a")]).toEqual([
    "all",
    "own",
    undefined,
  ]);
});
