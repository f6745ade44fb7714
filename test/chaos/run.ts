/**
 * `npm run chaos`: 20,000 changes and more than a hundred kills at three servers with their sidecars and two doors, then
 * the figures of one state. Ends with 1 when a promise is broken. `--seconds 600 --seed 7`.
 */
import { parseArgs } from "node:util";
import { warm } from "../support/warm.ts";
import { differences, runChaos, seededRandom } from "./chaos.ts";
import { measureCatchUp, measureFields, measureSpread } from "./measures.ts";
import { startChaosWorld } from "./world.ts";

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "480" },
    seed: { type: "string", default: String(Date.now() % 100_000) },
    rate: { type: "string", default: "50" },
    only: { type: "string", default: "chaos,spread,fields,catch-up" },
    quiet: { type: "boolean", default: false },
  },
});
const only = new Set(values.only.split(","));
const say = (sentence: string): void => {
  process.stdout.write(`${sentence}\n`);
};
const broken: string[] = [];
function promise(what: string, value: number, limit: number, unit: string): void {
  const isKept = value <= limit;
  say(`${isKept ? "kept  " : "BROKEN"}  ${what}: ${Math.round(value)} ${unit} (at most ${limit})`);
  if (!isKept) broken.push(what);
}

const seed = Number(values.seed);
say(`chaos of ${values.seconds} s with seed ${seed}`);
await warm();

if (only.has("chaos") || only.has("spread") || only.has("fields")) {
  const world = await startChaosWorld({
    servers: 3,
    doors: 2,
    users: 8,
    films: 40,
    keepsLedgers: true,
  });
  try {
    if (only.has("spread")) {
      const { p99Ms, medianMs, changes } = await measureSpread(world, 50, 20_000);
      say(
        `${changes} changes at 50 a second: on every server after ${Math.round(medianMs)} ms in the middle`,
      );
      promise("until a change is on every server, 99th percentile", p99Ms, 1000, "ms");
    }
    if (only.has("fields")) {
      const { kept, differing } = await measureFields(world, 1000);
      promise("fields lost when two devices change one item 1,000 times", kept ? 0 : 1, 0, "");
      promise("servers differ afterwards", differing, 0, "states");
    }
    if (only.has("chaos")) {
      const result = await runChaos(world, {
        durationMs: Number(values.seconds) * 1000,
        rate: Number(values.rate),
        chaosEveryMs: 3500,
        random: seededRandom(seed),
        say: values.quiet ? () => undefined : say,
      });
      say(
        `${result.operations} changes (${result.addings} of playlists), ${result.acknowledged} acknowledged, ${result.kills} kills`,
      );
      for (const { register, found, expected } of [...result.lost, ...result.miscounted].slice(
        0,
        20,
      )) {
        say(`lost: ${register} is ${String(found)}, and should be one of ${expected.join(", ")}`);
      }
      for (const line of result.differing.slice(0, 20)) say(`differs: ${line}`);
      promise("acknowledged changes lost", result.lost.length, 0, "");
      promise(
        "films that a playlist holds too seldom or too often",
        result.miscounted.length,
        0,
        "",
      );
      promise("until all servers were equal", result.equalAfterMs, 5000, "ms");
      promise("effects that nobody asked for", result.seenEffects.length, 0, "");
      for (const line of result.seenEffects.slice(0, 10)) say(`nobody asked for: ${line}`);
      promise("memory of a sidecar", result.memoryMiB, 150, "MiB");
      const after = differences(await world.states());
      promise("states that differ in the end", after.length, 0, "");
    }
  } finally {
    await world.stop();
  }
}

if (only.has("catch-up")) {
  const { tookMs, memoryMiB, applied } = await measureCatchUp(10_000);
  say(`${applied} effects were brought to a server that had missed them`);
  promise("catching up with 10,000 effects", tookMs, 60_000, "ms");
  promise("memory of a sidecar that catches up", memoryMiB, 150, "MiB");
}

if (broken.length > 0) {
  say(`broken: ${broken.join("; ")} (seed ${seed})`);
  process.exit(1);
}
say("every promise is kept");
process.exit(0);
