// The log: nothing secret in it, nothing lost from it, and lines that a machine and a person can read.

import { spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type OpenLog,
  openLog,
  prettyLine,
  type RequestLine,
  requestLine,
  scrubbedPath,
} from "../../../core/service/log.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "jellybloom-log-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const line: RequestLine = {
  method: "GET",
  target: "/Users/Me",
  status: 200,
  lane: "message",
  replica: "a",
  reason: 'home of "the" user',
  attempts: 1,
  durationMs: 1.23456,
  sentBytes: 10,
  client: "10.0.0.1",
};

/** What lies in the file after `write` was done and the log closed. */
async function logged(name: string, write: (open: OpenLog) => void): Promise<string> {
  const path = join(folder, name);
  const fd = openSync(path, "w");
  const open = openLog({ level: "info", format: "json", fd });
  write(open);
  await open.close();
  closeSync(fd);
  return readFileSync(path, "utf8");
}

describe("secrets", () => {
  test("fields that hold one are replaced at any depth", async () => {
    const text = await logged("fields", ({ log }) => {
      log.info({ token: "s3cret", a: { headers: { "X-Emby-Token": "s3cret" } } }, "one");
      log.info({ list: [{ apiKey: "s3cret" }], password: "s3cret", Pw: "s3cret" }, "two");
    });
    expect(text.split("\n")).toHaveLength(3);
    expect(text).not.toContain("s3cret");
    expect(text).toContain("[secret]");
  });

  test("an error tells no more than its name, message, code and stack", async () => {
    const error = Object.assign(new Error("refused"), { code: "E", command: { args: ["s3cret"] } });
    const text = await logged("error", ({ log }) => log.error({ err: error }, "failed"));
    expect(text).toContain('"code":"E"');
    expect(text).not.toContain("s3cret");
  });

  test.each([
    ["/socket?api_key=s3cret&deviceId=x", "/socket?api_key=[secret]&deviceId=x"],
    ["/x?ApiKey=s3cret", "/x?ApiKey=[secret]"],
    ["/x?%61pi_key=s3cret", "/x?%61pi_key=[secret]"],
    ["/x?api%5Fkey=s3cret", "/x?api%5Fkey=[secret]"],
    ["/x?X-Emby-Token=s3cret", "/x?X-Emby-Token=[secret]"],
    ["/QuickConnect/Connect?secret=s3cret", "/QuickConnect/Connect?secret=[secret]"],
    ["/QuickConnect/Authorize?Code=s3cret", "/QuickConnect/Authorize?Code=[secret]"],
    ["/Auth/Keys/s3cret", "/Auth/Keys/[secret]"],
    ["/jf/auth/KEYS/s3cret?x=1", "/jf/auth/KEYS/[secret]?x=1"],
    ["/%61uth/keys/s3cret", "/%61uth/keys/[secret]"],
    ["/Items?ids=1&fields=Path", "/Items?ids=1&fields=Path"],
    ["/x?%E0%A4%A=1&token=s3cret", "/x?%E0%A4%A=1&token=[secret]"],
  ])("%s is told without its secret", (target, scrubbed) => {
    expect(scrubbedPath(target)).toBe(scrubbed);
    expect(requestLine({ ...line, target }, 0)).not.toContain("s3cret");
  });
});

describe("lines", () => {
  test("a request's line is JSON with the fields of any other line", async () => {
    const text = await logged("request", ({ log, request }) => {
      request({ ...line, target: '/a"b\\', status: undefined });
      log.info({ attempts: 1 }, "request");
    });
    const [request, other] = text
      .trim()
      .split("\n")
      .map((json) => JSON.parse(json));
    expect(request).toMatchObject({
      ...{ target: '/a"b\\', status: null, reason: 'home of "the" user', durationMs: 1.23 },
      ...{ msg: "request", level: "info" },
    });
    expect(new Date(request.time).toISOString()).toBe(request.time);
    expect(Object.keys(request)).toEqual(expect.arrayContaining(Object.keys(other)));
  });

  test("a person reads time, level, message and fields", () => {
    const json =
      '{"level":"warn","time":"2026-01-02T03:04:05.678Z","replica":"a","n":1,"msg":"gone"}';
    expect(prettyLine(json)).toBe("03:04:05.678 warn  gone replica=a n=1\n");
  });

  test("a level below the chosen one is not written, the requests' neither", async () => {
    const path = join(folder, "quiet");
    const fd = openSync(path, "w");
    const { log, request, close } = openLog({ level: "warn", format: "json", fd });
    request(line);
    log.info("quiet");
    log.warn("loud");
    await close();
    expect(readFileSync(path, "utf8").match(/msg/g)).toHaveLength(1);
  });
});

test("no line is lost or doubled over many blocks", async () => {
  const count = 20_000;
  const text = await logged("many", ({ log }) => {
    for (let index = 0; index < count; index++) log.info({ index }, "line");
  });
  const seen = new Set(
    text
      .trim()
      .split("\n")
      .map((json) => JSON.parse(json).index),
  );
  expect(text.trim().split("\n")).toHaveLength(count);
  expect(seen.size).toBe(count);
});

test("lines that come without a pause are written in whole blocks, also behind the first", async () => {
  const path = join(folder, "blocks");
  const fd = openSync(path, "w");
  const open = openLog({ level: "info", format: "json", fd });
  const sizes = new Set<number>();
  const lines = 3000;
  for (let index = 0; index < lines; index++) {
    open.request(line);
    await new Promise((resolve) => setImmediate(resolve));
    sizes.add(statSync(path).size);
  }
  await open.close();
  closeSync(fd);
  const text = readFileSync(path, "utf8");
  expect(text.split("\n")).toHaveLength(lines + 1);
  // Ten blocks, of which some were seen half written; one write for every few lines would be over 500.
  expect(sizes.size).toBeLessThanOrEqual(200);
});

test("what is buffered is written when the process leaves at once, into a pipe, too", () => {
  const program = `
    import { openLog } from ${JSON.stringify(new URL("../../../core/service/log.ts", import.meta.url))};
    const { log, flush } = openLog({ level: "info", format: "auto", fd: 1 });
    for (let index = 0; index < 3000; index++) log.info({ index }, "line");
    log.fatal("the last");
    flush();
    process.exit(3);`;
  const { status, stdout } = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
    encoding: "utf8",
  });
  expect(status).toBe(3);
  expect(stdout.trim().split("\n").at(-1)).toContain("the last");
  expect(stdout).toContain('"index":2999,');
});
