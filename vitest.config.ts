// How the tests run, made for two cores: most files side by side in two processes, those of the cluster in three
// where they mostly wait; what promises times, counts commands or plays films comes after all others, one file
// at a time, so that nothing else has the machine meanwhile.

import { defineConfig } from "vitest/config";

/** Files of test/cluster that have the machine for themselves. */
const alone = [
  "browser-plays",
  "demo",
  "direct-play",
  "door-stops",
  "drain",
  "encoder",
  "ffmpeg-plays",
  "frozen-home",
  "idle-store",
  "killed-at-once",
  "killed-home",
  "lease",
  "named-failures",
  "plays",
  "restart",
  "sessions-speed",
  "sync-play",
].map((name) => `test/cluster/${name}.test.ts`);

export default defineConfig({
  test: {
    reporters: ["default"],
    projects: [
      {
        test: {
          name: "parts",
          include: ["test/**/*.test.ts"],
          exclude: ["test/cluster/**", "test/bench/**"],
          pool: "forks",
          maxWorkers: 2,
          testTimeout: 30_000,
          hookTimeout: 30_000,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: "cluster",
          include: ["test/cluster/**/*.test.ts"],
          exclude: alone,
          pool: "forks",
          maxWorkers: 3,
          testTimeout: 120_000,
          hookTimeout: 120_000,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: "alone",
          include: alone,
          pool: "forks",
          maxWorkers: 1,
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 120_000,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
