// `jellybloom seed`: one server becomes two. Reads the options, seeds, and turns what stands in the way
// into sentences and an exit code: 0 done, 1 refused or failed, 2 wrong options.

import { readFileSync } from "node:fs";
import {
  flag,
  type OptionRule,
  type OptionTable,
  type OptionType,
  optional,
  path,
  readOptions,
  required,
} from "../core/service/options.ts";
import { type Rebuildable, rebuildable } from "../sidecar/seed/choice.ts";
import { codeOf, SeedProblem } from "../sidecar/seed/problem.ts";
import { seed } from "../sidecar/seed/seed.ts";
import { type CommandHelp, commandHelp } from "./help.ts";

export interface SeedOutput {
  readonly out: (line: string) => void;
  readonly err: (line: string) => void;
}

/** At most one line of progress in this time. */
const progressIntervalMs = 1000;
/** How long a running server may keep one of its databases locked: its own patience for that is 30 s. */
const lockLimitMs = 30_000;

const names: OptionType<readonly Rebuildable[]> = {
  placeholder: "NAMES",
  parse(text) {
    const given = text.split(",").map((name) => name.trim());
    const known = rebuildable.filter((name) => given.includes(name));
    return given.every((name) => rebuildable.some((candidate) => candidate === name))
      ? { value: known }
      : { mistake: `must be some of ${rebuildable.join(", ")}, separated by commas` };
  },
};

const serverId: OptionType<string> = {
  placeholder: "SERVERID",
  parse: (text) =>
    /^([0-9a-f-]{32,36}|unknown)$/i.test(text)
      ? { value: text }
      : { mistake: "must be the id of the server in the target, as a run without it tells" },
};

export const seedOptions = {
  from: required({
    name: "from",
    section: "Folders",
    type: path,
    description:
      "The folder of the server that is there, which may be running: what is /config in a container," +
      " /var/lib/jellyfin of a system package, or its data folder. It is only read.",
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
    type: names,
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
} satisfies OptionTable;

export const seedRules: readonly OptionRule<typeof seedOptions>[] = [];

export const seedHelp: CommandHelp = {
  name: "seed",
  summary: "copy a server's data and config folders to those of a new one",
  usage: "--from DIR --to DIR [options]",
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
    await seed(
      { ...config, without: config.without ?? [], progressIntervalMs, lockLimitMs },
      io.out,
    );
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
