// How the tests run, made for two cores: pure functions in two processes without a start for each file; then
// whatever opens sockets, side by side; then clusters that mostly wait, in more processes; then what plays films at
// a viewer's pace, two files at a time; at last, one file at a time, what promises times to the tenth of a second or
// counts commands, so that nothing else has the machine meanwhile.

import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

/** Files of test/cluster by name. */
const cluster = (names: readonly string[]) => names.map((name) => `test/cluster/${name}.test.ts`);

/** Films at a viewer's pace, and people who watch together. */
const paced = cluster([
  "demo",
  "direct-play",
  "door-stops",
  "drain",
  "ffmpeg-plays",
  "named-failures",
  "plays",
  "sockets-stay",
  "sync-play",
]);

/** What has the machine for itself. */
const alone = cluster([
  "browser-plays",
  "encoder",
  "frozen-home",
  "idle-store",
  "killed-at-once",
  "killed-home",
  "lease",
  "restart",
  "sessions-speed",
]);

const pure = ["test/unit/**/*.test.ts", "test/tidy.test.ts"];

// Every process that a test starts, and starts again after it was killed, finds what Node made of its files before.
process.env.NODE_COMPILE_CACHE ??= fileURLToPath(
  new URL("./node_modules/.cache/compiled", import.meta.url),
);

const seconds = (limit: number) => ({ testTimeout: limit * 1000, hookTimeout: limit * 1000 });

export default defineConfig({
  test: {
    reporters: ["default"],
    projects: [
      {
        test: {
          name: "pure",
          include: pure,
          pool: "forks",
          isolate: false,
          maxWorkers: 2,
          ...seconds(30),
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: "parts",
          include: ["test/**/*.test.ts"],
          exclude: [...pure, "test/cluster/**", "test/bench/**"],
          pool: "forks",
          maxWorkers: 2,
          ...seconds(30),
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: "cluster",
          include: ["test/cluster/**/*.test.ts"],
          exclude: [...paced, ...alone],
          pool: "forks",
          maxWorkers: 4,
          ...seconds(120),
          sequence: { groupOrder: 2 },
        },
      },
      {
        test: {
          name: "paced",
          include: paced,
          pool: "forks",
          maxWorkers: 2,
          ...seconds(120),
          sequence: { groupOrder: 3 },
        },
      },
      {
        test: {
          name: "alone",
          include: alone,
          pool: "forks",
          maxWorkers: 1,
          fileParallelism: false,
          ...seconds(120),
          sequence: { groupOrder: 4 },
        },
      },
    ],
  },
});
