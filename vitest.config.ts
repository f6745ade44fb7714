// How the tests run, made for two cores: pure functions in two processes without a start for each file; then
// whatever opens sockets, side by side; then clusters that mostly wait, in more processes; then what plays films at
// a viewer's pace, two files at a time; at last, one file at a time, what promises times to the tenth of a second or
// counts commands, so that nothing else has the machine meanwhile.

import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

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
  "recorder",
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
  "one-state-chaos",
  "restart",
  "sessions-speed",
]);

/** What mostly waits, and for long: begun last, it would keep the machine waiting at the end of its part. */
const begunFirst = cluster(["cut-off", "tasks", "sessions-stay", "quick-connect"]);

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification): number => {
      const index = begunFirst.findIndex((name) => moduleId.endsWith(name));
      return index < 0 ? begunFirst.length : index;
    };
    return (await super.sort(files)).sort((left, right) => rank(left) - rank(right));
  }
}

const pure = ["test/unit/**/*.test.ts", "test/tidy.test.ts"];

// Every process that a test starts, and starts again after it was killed, finds what Node made of its files before.
process.env.NODE_COMPILE_CACHE ??= fileURLToPath(
  new URL("./node_modules/.cache/compiled", import.meta.url),
);

interface Part {
  readonly include: readonly string[];
  readonly exclude?: readonly string[];
  readonly maxWorkers: number;
  /** For a test, and for what goes before and after it. */
  readonly limitSeconds: number;
  /** Whether each file has a process of its own; it has, unless told. */
  readonly isolate?: boolean;
}

/** In the order in which they run. */
const parts: Readonly<Record<string, Part>> = {
  pure: { include: pure, isolate: false, maxWorkers: 2, limitSeconds: 30 },
  parts: {
    include: ["test/**/*.test.ts"],
    exclude: [...pure, "test/cluster/**", "test/bench/**"],
    maxWorkers: 3,
    limitSeconds: 30,
  },
  cluster: {
    include: ["test/cluster/**/*.test.ts"],
    exclude: [...paced, ...alone],
    maxWorkers: 4,
    limitSeconds: 120,
  },
  paced: { include: paced, maxWorkers: 2, limitSeconds: 120 },
  alone: { include: alone, maxWorkers: 1, limitSeconds: 120 },
};

function projectOf([name, part]: [string, Part], groupOrder: number) {
  const { include, exclude = [], maxWorkers, limitSeconds, isolate = true } = part;
  const limitMs = limitSeconds * 1000;
  return {
    test: {
      name,
      include: [...include],
      exclude: [...exclude],
      pool: "forks" as const,
      isolate,
      maxWorkers,
      fileParallelism: maxWorkers > 1,
      testTimeout: limitMs,
      hookTimeout: limitMs,
      sequence: { groupOrder },
    },
  };
}

export default defineConfig({
  test: {
    reporters: ["default"],
    sequence: { sequencer: LongestFirst },
    projects: Object.entries(parts).map(projectOf),
  },
});
