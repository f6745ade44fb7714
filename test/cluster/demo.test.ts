// The demo is the first thing anybody sees of this project: it must show what it says, tell the truth by
// its exit code, and leave nothing running.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterEach, expect, test } from "vitest";

const demo = fileURLToPath(new URL("../../cli/demo.ts", import.meta.url));
const started = new Set<ChildProcess>();

afterEach(() => {
  for (const child of started) child.kill("SIGTERM");
  started.clear();
});

test("the demo's viewer goes on while servers are killed, and sees no error", async () => {
  const { lines, exitCode } = await end(start(["--seconds", "11", "--port", "0"]));
  expect(exitCode, lines.join("\n")).toBe(0);
  const last = lines.at(-1) ?? "";
  expect(last).toMatch(/in the end: [1-9]\d* servers? ended under the viewer/);
  expect(last).toMatch(/\b[2-9] segments \(/);
  expect(last).toMatch(/in 1 answer\b/);
  expect(last).toMatch(/hidden: .*\b[1-9] continuation/);
  expect(last).toMatch(/no errors seen$/);
  expect(lines.some((line) => /is killed \(SIGKILL\)/.test(line))).toBe(true);
  expect(await answering(addressesIn(lines))).toEqual([]);
});

test("Ctrl-C ends the demo with exit code 0 and nothing left running", async () => {
  const running = start(["--port", "0"]);
  await running.untilLine(/the viewer goes on/);
  const addresses = addressesIn(running.lines);
  expect(await answering(addresses)).toHaveLength(3);
  running.child.kill("SIGINT");
  const { lines, exitCode } = await end(running);
  expect(exitCode, lines.join("\n")).toBe(0);
  expect(await answering(addresses)).toEqual([]);
});

test("a mistake in the demo's options is told, with exit code 2", async () => {
  const { lines, exitCode } = await end(start(["--seconds", "soon"]));
  expect(exitCode).toBe(2);
  expect(lines).toEqual(["--seconds takes a number above 0"]);
});

interface Running {
  readonly child: ChildProcess;
  readonly lines: readonly string[];
  untilLine(pattern: RegExp): Promise<void>;
}

function start(args: readonly string[]): Running {
  const child = spawn(process.execPath, [demo, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  started.add(child);
  const lines: string[] = [];
  const waiting = new Set<() => void>();
  for (const stream of [child.stdout, child.stderr]) {
    let rest = "";
    stream?.on("data", (part: Buffer) => {
      const pieces = (rest + String(part)).split("\n");
      rest = pieces.pop() ?? "";
      lines.push(...pieces);
      for (const look of waiting) look();
    });
  }
  const untilLine = (pattern: RegExp): Promise<void> =>
    new Promise((resolve) => {
      const look = (): void => {
        if (!lines.some((line) => pattern.test(line))) return;
        waiting.delete(look);
        resolve();
      };
      waiting.add(look);
      look();
    });
  return { child, lines, untilLine };
}

async function end({ child, lines }: Running) {
  const [exitCode] = (await once(child, "close")) as [number | null];
  started.delete(child);
  return { lines, exitCode };
}

/** The door's address and both servers'. */
function addressesIn(lines: readonly string[]): string[] {
  return [...new Set(lines.join("\n").match(/http:\/\/127\.0\.0\.1:\d+/g) ?? [])];
}

async function answering(addresses: readonly string[]): Promise<string[]> {
  const asked = addresses.map(async (address) => {
    const answer = await fetch(`${address}/System/Info/Public`).catch(() => undefined);
    return answer === undefined ? [] : [address];
  });
  return (await Promise.all(asked)).flat();
}
