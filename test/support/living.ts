// A process that lives as ours do, for the tests of how they live: a front door that finishes what runs, a
// helper behind it, and a way to misbehave chosen by its first argument. It writes what happens to the
// standard output, one word per line.

import { Life, type Service } from "../../core/service/lifecycle.ts";
import { openLog } from "../../core/service/log.ts";
import { sleep } from "../../core/service/loop.ts";

const [manner = "well", drainLimitMs = "5000"] = process.argv.slice(2);
const { log, flush, close } = openLog({ level: "info", format: "json", fd: 2 });
const say = (word: string) => process.stdout.write(`${word}\n`);

const helper: Service = {
  name: "helper",
  start: async () => void say("helper started"),
  run: async (signal) => {
    // Something that keeps the process alive, as a listening socket would.
    await sleep(60_000, signal);
    say("helper ended");
  },
};

const door: Service = {
  name: "door",
  start: async () => {
    if (manner === "refuse to start") throw new Error("no");
    say("door started");
  },
  run: async (signal) => {
    if (manner === "end by itself") return;
    if (manner === "reject unseen") void Promise.reject(new Error("nobody looks at this"));
    await sleep(60_000, signal);
  },
  stop: async (cut) => {
    say("door stopping");
    if (manner === "run on") await new Promise(() => {});
    await sleep(manner === "run long" ? 60_000 : 400, cut);
    say(cut.aborted ? "door cut" : "door finished");
  },
};

const life = new Life({
  unreadyWaitMs: 0,
  drainLimitMs: Number(drainLimitMs),
  log,
  events: process,
  exit: (code) => {
    flush();
    process.exit(code);
  },
});
const code = await life.run([helper, door]);
await close();
process.exit(code);
