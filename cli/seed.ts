// `jellybloom seed`: one server becomes two. Seeds, and turns what stands in the way into sentences and an exit
// code: 0 done, 1 refused or failed.

import { urlText } from "../core/service/options.ts";
import { createSeal } from "../core/service/seal.ts";
import { findTarget } from "../sidecar/seed/checks.ts";
import { fileInput, sidecarInput } from "../sidecar/seed/inputs.ts";
import { codeOf, messageOf, SeedProblem } from "../sidecar/seed/problem.ts";
import { restore } from "../sidecar/seed/restore.ts";
import { seed } from "../sidecar/seed/seed.ts";
import { inspectTarget } from "../sidecar/seed/target.ts";
import { askPosition, type Position, tellSeeded } from "./donor.ts";
import type { Io } from "./io.ts";
import type { SeedConfig } from "./options.ts";

/** At most one line of progress in this time. */
const progressIntervalMs = 1000;
/** How long a running server may keep one of its databases locked: its own patience for that is 30 s. */
const lockLimitMs = 30_000;

/** A sidecar looks through all folders before it begins. */
const beginLimitMs = 5 * 60_000;

/** Never throws for what the world or the caller did wrong. */
export async function runSeed(config: SeedConfig, io: Io): Promise<number> {
  const tell = (line: string): void => io.out(`${line}\n`);
  try {
    if (config.ifEmpty && (await isServerThere(config))) {
      tell(`${config.to} holds a server already: nothing is copied.`);
      return 0;
    }
    await copy(config, tell);
    return 0;
  } catch (error) {
    if (error instanceof SeedProblem) {
      for (const sentence of error.sentences) io.err(`${sentence}\n`);
      return 1;
    }
    if (codeOf(error) === undefined) throw error;
    io.err(`${messageOf(error)}.\n`);
    return 1;
  }
}

async function isServerThere({ to, toConfig }: SeedConfig): Promise<boolean> {
  const source = { kind: "one folder", dataFolder: "/", configFolder: "/" } as const;
  const { kind, ...state } = await inspectTarget(await findTarget(to, toConfig, source));
  // One that is being replaced by an unfinished copy is not whole any more.
  return kind === "server" && !("marker" in state && state.marker !== undefined);
}

async function copy(config: SeedConfig, tell: (line: string) => void): Promise<void> {
  const { from, fromArchive, sidecar, clusterKey, name, without = [] } = config;
  const announce = async (position: Pick<Position, "ticket" | "position">): Promise<void> => {
    if (name === undefined) return;
    const tokens = await tellSeeded(config, name, position);
    tell(`The cluster knows that ${name} is a copy now: ${tokens} logins are known there.`);
  };
  if (from !== undefined) {
    // Asked before anything is read: what is done meanwhile is done again on the copy.
    const position = name === undefined ? undefined : await askPosition(config);
    await seed(
      {
        ...{ ...config, from, without, progressIntervalMs, lockLimitMs },
        announce: async () => {
          if (position !== undefined) await announce(position);
        },
      },
      tell,
    );
    return;
  }
  const input =
    fromArchive !== undefined
      ? fileInput(fromArchive)
      : sidecarInput({
          base: sidecar === undefined ? "" : urlText(sidecar),
          seal: createSeal(clusterKey ?? ""),
          without,
          limitMs: beginLimitMs,
        });
  await restore(input, { ...config, progressIntervalMs, announce }, tell);
}
