// `jellybloom seed`: one server becomes two. Reads the options, seeds, and turns what stands in the way
// into sentences and an exit code: 0 done, 1 refused or failed, 2 wrong options.

import { readFileSync } from "node:fs";
import {
  type ConfigOf,
  durationMs,
  flag,
  type OptionRule,
  type OptionTable,
  type OptionType,
  option,
  optional,
  path,
  readOptions,
  replicaName,
  required,
  urlText,
} from "../core/service/options.ts";
import { createSeal } from "../core/service/seal.ts";
import { findTarget } from "../sidecar/seed/checks.ts";
import { rebuildable } from "../sidecar/seed/choice.ts";
import { fileInput, sidecarInput } from "../sidecar/seed/inputs.ts";
import { codeOf, SeedProblem } from "../sidecar/seed/problem.ts";
import { restore } from "../sidecar/seed/restore.ts";
import { seed } from "../sidecar/seed/seed.ts";
import { inspectTarget } from "../sidecar/seed/target.ts";
import { askPosition, type Position, tellSeeded } from "./donor.ts";
import { type CommandHelp, commandHelp } from "./help.ts";
import { beside, besideMistakes, rebuildables } from "./options.ts";

export interface SeedOutput {
  readonly out: (line: string) => void;
  readonly err: (line: string) => void;
}

/** At most one line of progress in this time. */
const progressIntervalMs = 1000;
/** How long a running server may keep one of its databases locked: its own patience for that is 30 s. */
const lockLimitMs = 30_000;

/** A sidecar looks through all folders before it begins. */
const beginLimitMs = 5 * 60_000;

const version: OptionType<string> = {
  placeholder: "VERSION",
  parse: (text) =>
    /^\d+(\.\d+){1,3}([.-].*)?$/.test(text)
      ? { value: text }
      : { mistake: "must be a version of Jellyfin, such as 10.11.11" },
};

const serverId: OptionType<string> = {
  placeholder: "SERVERID",
  parse: (text) =>
    /^([0-9a-f-]{32,36}|unknown)$/i.test(text)
      ? { value: text }
      : { mistake: "must be the id of the server in the target, as a run without it tells" },
};

export const seedOptions = {
  from: optional({
    name: "from",
    section: "Folders",
    type: path,
    description:
      "The folder of the server that is there, which may be running: what is /config in a container," +
      " /var/lib/jellyfin of a system package, or its data folder. It is only read.",
  }),
  fromArchive: optional({
    name: "from-archive",
    section: "Folders",
    type: path,
    description: "An archive that `jellybloom backup` wrote, instead of a server's folder.",
  }),
  to: required({
    name: "to",
    section: "Folders",
    type: path,
    description:
      "The folder of the server that is to be its copy. That server must not run. The folder is empty," +
      " or not there, or holds an unfinished copy.",
  }),
  fromConfig: optional({
    name: "from-config",
    section: "Folders",
    type: path,
    description:
      "The config folder of the server that is there (the one with system.xml), where it is not found by" +
      " --from.",
  }),
  toConfig: optional({
    name: "to-config",
    section: "Folders",
    type: path,
    description:
      "The config folder of the copy. Without it the copy's folders lie to one another as the source's.",
  }),
  seenAs: optional({
    name: "seen-as",
    section: "Folders",
    type: path,
    description:
      "The path under which the new server sees its data folder, such as /config in a container. Without" +
      " it: as the old server sees its own; or, where that one is the very path in --from, as --to.",
  }),
  without: optional({
    name: "without",
    section: "What is copied",
    type: rebuildables,
    description:
      `What to leave out, of ${rebuildable.join(", ")}: the first three are made again by the new server` +
      " when they are needed. Caches, logs and transcodes are always left out.",
  }),
  followLinks: flag({
    name: "follow-links",
    section: "What is copied",
    description:
      "Copies what is behind links that lead out of the server's folders. Without it such a link stops the" +
      " copy, since both servers would write to the same place.",
  }),
  replace: optional({
    name: "replace",
    section: "What is copied",
    type: serverId,
    description:
      "Throws away the server with this id which the target holds. Its data is lost once the copy is whole.",
  }),
  ifEmpty: flag({
    name: "if-empty",
    section: "What is copied",
    description:
      "Does nothing, and ends well, when the target holds a whole server already: for whatever runs before each" +
      " start of a server, such as an init container.",
  }),
  forVersion: optional({
    name: "for-version",
    section: "What is copied",
    type: version,
    description:
      "The version of Jellyfin which the new server runs: data of a newer one are refused, because no server can" +
      " use those.",
  }),
  ...beside,
  name: optional({
    name: "name",
    section: "Cluster",
    type: replicaName,
    description:
      "The new server's name in the cluster. With it and --sidecar the cluster is told what the copy knows: its" +
      " journal goes on from there, and so do its logins.",
  }),
  retryLimitMs: option({
    name: "retry-limit",
    section: "Cluster",
    type: durationMs(0, 24 * 3_600_000),
    default: "2m",
    description: "How long a --sidecar that goes away in the middle is waited for.",
  }),
} satisfies OptionTable;

export const seedRules: readonly OptionRule<typeof seedOptions>[] = [
  { about: ["sidecar", "clusterKey"], check: besideMistakes },
  {
    about: ["from", "fromArchive", "sidecar"],
    check({ from, fromArchive, sidecar }) {
      if (from !== undefined && fromArchive !== undefined) {
        return ["--from and --from-archive exclude each other: a copy has one source."];
      }
      return from === undefined && fromArchive === undefined && sidecar === undefined
        ? ["--from DIR is needed (or JELLYBLOOM_FROM), or --from-archive, or --sidecar."]
        : [];
    },
  },
  {
    about: ["name", "sidecar"],
    check: ({ name, sidecar }) =>
      name !== undefined && sidecar === undefined
        ? ["--name needs --sidecar: there is nobody else to tell."]
        : [],
  },
];

export const seedHelp: CommandHelp = {
  name: "seed",
  summary: "copy a server's data and config folders to those of a new one",
  usage: "--from DIR | --from-archive FILE | --sidecar URL --to DIR [options]",
  options: seedOptions,
};

/**
 * Runs `jellybloom seed` with the words after it.
 *
 * @returns the exit code; never throws for what the world or the caller did wrong.
 */
export async function runSeed(argv: readonly string[], io: SeedOutput): Promise<number> {
  const read = readOptions(seedOptions, seedRules, {
    argv,
    env: process.env,
    readFile: (file) => readFileSync(file, "utf8"),
  });
  if (read.kind === "help") {
    io.out(commandHelp(seedHelp));
    return 0;
  }
  if (read.kind === "mistakes") {
    for (const mistake of read.mistakes) io.err(mistake);
    io.err("See jellybloom seed --help.");
    return 2;
  }
  const { config } = read;
  try {
    if (config.ifEmpty && (await isServerThere(config))) {
      io.out(`${config.to} holds a server already: nothing is copied.`);
      return 0;
    }
    await copy(config, io);
    return 0;
  } catch (error) {
    if (error instanceof SeedProblem) {
      for (const sentence of error.sentences) io.err(sentence);
      return 1;
    }
    if (codeOf(error) === undefined) throw error;
    io.err(`${error instanceof Error ? error.message : String(error)}.`);
    return 1;
  }
}

type SeedConfig = ConfigOf<typeof seedOptions>;

async function isServerThere({ to, toConfig }: SeedConfig): Promise<boolean> {
  const source = { kind: "one folder", dataFolder: "/", configFolder: "/" } as const;
  const { kind, ...state } = await inspectTarget(await findTarget(to, toConfig, source));
  // One that is being replaced by an unfinished copy is not whole any more.
  return kind === "server" && !("marker" in state && state.marker !== undefined);
}

async function copy(config: SeedConfig, io: SeedOutput): Promise<void> {
  const { from, fromArchive, sidecar, clusterKey, name, without = [] } = config;
  const announce = async (position: Pick<Position, "ticket" | "position">): Promise<void> => {
    if (name === undefined) return;
    const tokens = await tellSeeded(config, name, position);
    io.out(`The cluster knows that ${name} is a copy now: ${tokens} logins are known there.`);
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
      io.out,
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
  await restore(input, { ...config, progressIntervalMs, announce }, io.out);
}
