// `npm run demo`: two servers, the door, somebody who watches, and somebody who kills the servers. It is
// there to be looked at: every line says what was done to a server and that the viewer goes on.
//
// The servers are the stand-ins that the tests use (test/support), which is why this file is not part of
// `jellybloom`: no other file outside of test/ imports from there. They are processes of their own, and so
// is the door, which is `jellybloom up` as an owner would run it. What the door hid is read from its
// metrics; what the viewer saw is what the viewer itself says.
//
//   npm run demo                        until Ctrl-C
//   npm run demo -- --seconds 30        ends by itself; exit code 1 when the viewer saw an error
//   npm run demo -- --port 9000         another port for the door than 8080

import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join, relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { guardGroup } from "../test/support/jellyfin/guard.ts";
import { type StandIn, startStandIn } from "../test/support/jellyfin/start.ts";
import { DemoDoor, type Hidden } from "./demo/door.ts";
import { makeFilm } from "./demo/film.ts";
import { type Seen, Viewer } from "./demo/viewer.ts";

const user = "root";
const password = "root";
const firstKillMs = 4000;
const pauseBetweenKillsMs = 3000;
const deadForMs = 2000;
const lineMs = 2000;
const startupMs = 1500;
const readyLimitMs = 15_000;

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = join(root, ".demo");
const startedMs = performance.now();

interface Stage {
  readonly servers: Readonly<Record<string, StandIn>>;
  readonly door: DemoDoor;
  readonly viewer: Viewer;
  readonly film: { readonly seconds: number; readonly canTranscode: boolean };
}

async function main(): Promise<number> {
  const asked = readArguments();
  if (typeof asked === "string") {
    console.error(asked);
    return 2;
  }
  const ending = new AbortController();
  let isAskedToEnd = false;
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => {
      isAskedToEnd = true;
      ending.abort();
    });
  }
  const stops: (() => Promise<void>)[] = [];
  try {
    const stage = await setUp(asked.port, stops);
    if (asked.seconds !== undefined) {
      setTimeout(() => ending.abort(), asked.seconds * 1000).unref();
    }
    await Promise.all([kill(stage, ending.signal), tell(stage, ending.signal)]);
    const seen = stage.viewer.seen;
    const hidden = await stage.door.hidden();
    say(summary(seen, hidden, kills, stage.film.canTranscode));
    for (const error of seen.errors) say(`the viewer saw: ${error}`);
    // Whoever pressed Ctrl-C has seen what there was to see; a run with a limit is a test.
    return seen.errors.length > 0 && !isAskedToEnd ? 1 : 0;
  } catch (error) {
    // Ctrl-C in the middle of the start ends ffmpeg, too, which is no failure then.
    if (isAskedToEnd) return 0;
    console.error(error instanceof Error ? error.message : String(error));
    return 1;
  } finally {
    ending.abort();
    for (const stop of stops.toReversed()) await stop();
  }
}

function readArguments(): { seconds: number | undefined; port: number } | string {
  try {
    const { values } = parseArgs({
      options: { seconds: { type: "string" }, port: { type: "string" } },
    });
    const seconds = values.seconds === undefined ? undefined : Number(values.seconds);
    const port = Number(values.port ?? 8080);
    if (seconds !== undefined && !(seconds > 0)) return "--seconds takes a number above 0";
    if (!Number.isInteger(port) || port < 0 || port > 65_535) return "--port takes a port";
    return { seconds, port };
  } catch (error) {
    return `${error instanceof Error ? error.message : String(error)}\nOptions: --seconds N, --port N`;
  }
}

async function setUp(port: number, stops: (() => Promise<void>)[]): Promise<Stage> {
  mkdirSync(folder, { recursive: true });
  const film = await makeFilm(folder, () =>
    say("making a film of two minutes with ffmpeg (once) …"),
  );
  if (!film.canTranscode) say("without ffmpeg nothing can be transcoded: direct play only");
  const webDir = makePage(film.canTranscode);
  const shared = { mediaDir: film.folder, webDir, startupMs };
  const a = await startStandIn({ ...shared, name: "a" });
  stops.push(() => a.stop());
  await a.ready(readyLimitMs);
  // A copy of the first, as `jellybloom seed` makes one: the same users, keys and ids.
  const b = await startStandIn({ ...shared, name: "b", cloneOf: a });
  stops.push(() => b.stop());
  await b.ready(readyLimitMs);
  const replicas = { a: a.url, b: b.url };
  const logFile = join(folder, "door.log");
  const freeOrAny = (await isFree(port)) ? port : 0;
  const door = await DemoDoor.start(replicas, a.apiKey, freeOrAny, logFile);
  if (door.pid !== undefined) guardGroup(door.pid);
  stops.push(() => door.stop());
  const viewer = new Viewer(door.url, film);
  await viewer.start(user, password);
  stops.push(() => viewer.stop());
  say(`open ${door.url}/ and press Watch: it is the viewer's own login (${user}, ${password})`);
  say(
    `two servers behind it, ${a.url} and ${b.url}; the door's log is ${relative(process.cwd(), logFile)}`,
  );
  return { servers: { a, b }, door, viewer, film };
}

/** The page and hls.js in one folder, which the stand-ins serve as their web client. */
function makePage(canTranscode: boolean): string {
  const target = join(folder, "web");
  rmSync(target, { recursive: true, force: true });
  mkdirSync(target, { recursive: true });
  const page = fileURLToPath(new URL("./demo/page/", import.meta.url));
  const text = readFileSync(join(page, "index.html"), "utf8");
  const play = canTranscode ? "hls" : "direct";
  writeFileSync(join(target, "index.html"), text.replace('data-play="hls"', `data-play="${play}"`));
  copyFileSync(join(page, "page.js"), join(target, "page.js"));
  copyFileSync(join(root, "node_modules/hls.js/dist/hls.min.js"), join(target, "hls.min.js"));
  return target;
}

function isFree(port: number): Promise<boolean> {
  const probe = createServer();
  return new Promise((resolve) => {
    probe.once("error", () => resolve(false));
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
  });
}

// ---- Killing ------------------------------------------------------------------------------------------

let kills = 0;

/** Ends the server that serves the viewer, starts it again, waits until the door has it back; and again. */
async function kill(stage: Stage, signal: AbortSignal): Promise<void> {
  await pause(firstKillMs, signal);
  for (let turn = 0; !signal.aborted; turn++) {
    const name = stage.viewer.seen.replica || "a";
    const server = stage.servers[name];
    if (server === undefined) return;
    kills++;
    if (turn % 3 === 2) {
      say(`server ${name} is told to stop (SIGTERM)`);
      await server.terminate();
    } else {
      say(`server ${name}, where the viewer is, is killed (SIGKILL)`);
      await server.kill9();
    }
    await pause(deadForMs, signal);
    if (signal.aborted) return;
    await server.launch();
    say(`server ${name} is started again`);
    await untilBothReady(stage, signal);
    await pause(pauseBetweenKillsMs, signal);
  }
}

async function untilBothReady({ door }: Stage, signal: AbortSignal): Promise<void> {
  const endMs = performance.now() + readyLimitMs;
  while (!signal.aborted && performance.now() < endMs) {
    if ((await door.missing()) === null) return;
    await pause(200, signal);
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  // The end of the demo ends the pause, which is no error.
  await sleep(ms, undefined, { signal }).catch(() => undefined);
}

// ---- Telling ------------------------------------------------------------------------------------------

async function tell(stage: Stage, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await pause(lineMs, signal);
    if (signal.aborted) return;
    const hidden = await stage.door.hidden();
    say(line(stage.viewer.seen, hidden, stage.film.canTranscode));
  }
}

function line(seen: Seen, hidden: Hidden, hasHls: boolean): string {
  const parts = [
    seen.replica === "" ? "the viewer goes on" : `the viewer goes on at server ${seen.replica}`,
    ...(hasHls ? [`film at ${clock(seen.positionSeconds)}`, `${seen.segments} segments`] : []),
    `${mebibytes(seen.directBytes)} of direct play`,
    `${seen.requests} requests`,
    hiddenText(hidden),
    errorsText(seen),
  ];
  return parts.join(" · ");
}

function summary(seen: Seen, hidden: Hidden, killed: number, hasHls: boolean): string {
  const answers = `${seen.directAnswers} answer${plural(seen.directAnswers)}`;
  const parts = [
    `in the end: ${killed} server${plural(killed)} ended under the viewer`,
    `${seen.requests} requests, the slowest ${Math.round(seen.slowestMs)} ms`,
    ...(hasHls ? [`${seen.segments} segments (${mebibytes(seen.segmentBytes)})`] : []),
    `${mebibytes(seen.directBytes)} of direct play, equal to the film, in ${answers}`,
    `${seen.socketMessages} messages on one WebSocket`,
    hiddenText(hidden),
    errorsText(seen),
  ];
  return parts.join(" · ");
}

function hiddenText({ retries, continuations, redials, homesMoved }: Hidden): string {
  const told = [
    [retries, retries === 1 ? "retry" : "retries"],
    [continuations, `continuation${plural(continuations)}`],
    [redials, `redial${plural(redials)}`],
    [homesMoved, `move${plural(homesMoved)}`],
  ] as const;
  const happened = told.filter(([count]) => count > 0).map(([count, word]) => `${count} ${word}`);
  return happened.length === 0 ? "nothing to hide yet" : `hidden: ${happened.join(", ")}`;
}

function errorsText({ errors }: Seen): string {
  return errors.length === 0 ? "no errors seen" : `${errors.length} ERROR${plural(errors.length)}`;
}

function plural(count: number): string {
  return count === 1 ? "" : "s";
}

function mebibytes(bytes: number): string {
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function say(text: string): void {
  console.log(`${clock((performance.now() - startedMs) / 1000)}  ${text}`);
}

process.exit(await main());
