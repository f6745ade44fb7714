// The door to every command: reads the first word, reads that command's options, and runs it. It promises
// that every mistake in the options is told before anything is done, and the exit codes: 0 done, 1 failed,
// 2 not started because of how it was asked.
//
// A command's own file is imported only when the command is asked for; here and for Redis in door.ts are
// the places in the house where an import is not at the top: `up` must listen within a second, and need not
// load what others use.

import { readFileSync } from "node:fs";
import { type OptionRule, type OptionTable, readOptions } from "../core/service/options.ts";
import { type CommandHelp, commandHelp, programHelp } from "./help.ts";
import type { Io } from "./io.ts";
import {
  backupOptions,
  backupRules,
  doctorOptions,
  doctorRules,
  drainOptions,
  drainRules,
  explainOptions,
  explainRules,
  leaveOptions,
  leaveRules,
  proxyOptions,
  proxyRules,
  reseedOptions,
  reseedRules,
  seedOptions,
  seedRules,
  sidecarOptions,
  sidecarRules,
  statusOptions,
  statusRules,
  undrainOptions,
  undrainRules,
  upOptions,
  upRules,
} from "./options.ts";
import { packageVersion } from "./version.ts";

interface Command {
  readonly name: string;
  readonly summary: string;
  readonly run: (argv: readonly string[], io: Io) => Promise<number>;
  readonly help: CommandHelp;
}

const up = tableCommand({
  name: "up",
  summary: "the door and everything it needs in one process, for servers that are there",
  usage: "--replica NAME=URL [--replica NAME=URL …] [--api-key KEY] [options]",
  options: upOptions,
  rules: upRules,
  words: [],
  run: async (config, _words, io) => (await import("./up.ts")).runUp(config, io),
});

const proxy = tableCommand({
  name: "proxy",
  summary: "the door alone; any number of them meet in Redis",
  usage: "--redis URL --cluster-key KEY [options]",
  options: proxyOptions,
  rules: proxyRules,
  words: [],
  run: async (config, _words, io) => (await import("./proxy.ts")).runProxy(config, io),
});

const sidecar = tableCommand({
  name: "sidecar",
  summary: "the caretaker beside one Jellyfin server",
  usage: "--name NAME --jellyfin URL --api-key KEY --redis URL --cluster-key KEY [options]",
  options: sidecarOptions,
  rules: sidecarRules,
  words: [],
  run: async (config, _words, io) => (await import("./sidecar.ts")).runSidecar(config, io),
});

const seed = tableCommand({
  name: "seed",
  summary: "copy a server's data and config folders to those of a new one",
  usage: "--from DIR | --from-archive FILE | --sidecar URL --to DIR [options]",
  options: seedOptions,
  rules: seedRules,
  words: [],
  run: async (config, _words, io) => (await import("./seed.ts")).runSeed(config, io),
});

const explain = tableCommand({
  name: "explain",
  summary: "which replica would answer a request, and why",
  usage: "--cluster-key KEY [--token TOKEN] METHOD PATH",
  options: explainOptions,
  rules: explainRules,
  words: ["METHOD", "PATH"],
  run: async (config, [method = "", path = ""], io) =>
    (await import("./explain.ts")).runExplain(config, method, path, io),
});

const status = tableCommand({
  name: "status",
  summary: "which replicas there are, how they are, who leads, and what is wrong",
  usage: "--cluster-key KEY [options]",
  options: statusOptions,
  rules: statusRules,
  words: [],
  run: async (config, _words, io) => (await import("./status.ts")).runStatus(config, io),
});

const drain = tableCommand({
  name: "drain",
  summary: "take everybody away from a replica, so that it can be stopped",
  usage: "--cluster-key KEY [options] [NAME]",
  options: drainOptions,
  rules: drainRules,
  words: ["[NAME]"],
  run: async (config, [replica = ""], io) =>
    (await import("./drain.ts")).runDrain(config, replica, io),
});

const undrain = tableCommand({
  name: "undrain",
  summary: "give a drained replica people again",
  usage: "--cluster-key KEY [options] [NAME]",
  options: undrainOptions,
  rules: undrainRules,
  words: ["[NAME]"],
  run: async (config, [replica = ""], io) =>
    (await import("./drain.ts")).runUndrain(config, replica, io),
});

const truth = tableCommand({
  name: "truth",
  summary: "call a replica's older data right: the others are to be seeded from it",
  usage: "--cluster-key KEY [options] NAME",
  options: undrainOptions,
  rules: undrainRules,
  words: ["NAME"],
  run: async (config, [replica = ""], io) =>
    (await import("./decide.ts")).runDecide(config, replica, "truth", io),
});

const catchUp = tableCommand({
  name: "catch-up",
  summary: "let a replica whose data were put back do again what it lacks",
  usage: "--cluster-key KEY [options] NAME",
  options: undrainOptions,
  rules: undrainRules,
  words: ["NAME"],
  run: async (config, [replica = ""], io) =>
    (await import("./decide.ts")).runDecide(config, replica, "catchUp", io),
});

const reseed = tableCommand({
  name: "reseed",
  summary: "make a replica a copy of a healthy one again, while the others serve",
  usage: "--cluster-key KEY --sidecar URL --to DIR [options] NAME",
  options: reseedOptions,
  rules: reseedRules,
  words: ["NAME"],
  run: async (config, [replica = ""], io) =>
    (await import("./reseed.ts")).runReseed(config, replica, io),
});

const leave = tableCommand({
  name: "leave",
  summary: "take Jellybloom away again and leave every server as it was found",
  usage: "--replica NAME=URL [--replica NAME=URL …] --api-key KEY [--data DIR] [options]",
  options: leaveOptions,
  rules: leaveRules,
  words: [],
  run: async (config, _words, io) => (await import("./leave.ts")).runLeave(config, io),
});

const doctor = tableCommand({
  name: "doctor",
  summary: "compare the servers, and say what to put right and how",
  usage: "--replica NAME=URL [--replica NAME=URL …] --api-key KEY | --cluster-key KEY [options]",
  options: doctorOptions,
  rules: doctorRules,
  words: [],
  run: async (config, _words, io) => (await import("./doctor.ts")).runDoctor(config, io),
});

const backup = tableCommand({
  name: "backup",
  summary: "one archive of one server, taken while it runs; or the proof of one",
  usage: "--from DIR --to FILE | --sidecar URL --to FILE | --verify FILE [options]",
  options: backupOptions,
  rules: backupRules,
  words: [],
  run: async (config, _words, io) => (await import("./backup.ts")).runBackup(config, io),
});

const commands: readonly Command[] = [
  up,
  proxy,
  sidecar,
  seed,
  backup,
  status,
  explain,
  drain,
  undrain,
  truth,
  catchUp,
  reseed,
  leave,
  doctor,
];

/** Every command's help, for docs/options.md. */
export function documentedCommands(): CommandHelp[] {
  return commands.map(({ help }) => help);
}

/** Runs `jellybloom <argv>` and answers its exit code. */
export async function main(argv: readonly string[], io: Io): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    (name === undefined ? io.err : io.out)(programHelp(commands));
    return name === undefined ? 2 : 0;
  }
  if (name === "--version") {
    io.out(`${packageVersion()}\n`);
    return 0;
  }
  const command = commands.find((candidate) => candidate.name === name);
  if (command === undefined) {
    io.err(`jellybloom has no command ${JSON.stringify(name)}.\n\n${programHelp(commands)}`);
    return 2;
  }
  return command.run(rest, io);
}

interface TableCommand<Table extends OptionTable> extends CommandHelp {
  readonly options: Table;
  readonly rules: readonly OptionRule<Table>[];
  readonly words: readonly string[];
  readonly run: (config: ConfigOfTable<Table>, words: readonly string[], io: Io) => Promise<number>;
}

type ConfigOfTable<Table extends OptionTable> = Parameters<OptionRule<Table>["check"]>[0];

/** A command whose options are read from its table. */
function tableCommand<Table extends OptionTable>(command: TableCommand<Table>): Command {
  const { name, summary, options, rules, words } = command;
  return {
    name,
    summary,
    help: command,
    async run(argv, io) {
      const readFile = (path: string) => readFileSync(path, "utf8");
      const read = readOptions(options, rules, { argv, env: io.env, readFile }, words);
      switch (read.kind) {
        case "help":
          io.out(commandHelp(command));
          return 0;
        case "mistakes":
          io.err(`${read.mistakes.join("\n")}\njellybloom ${name} --help tells more.\n`);
          return 2;
        case "config":
          return command.run(read.config, read.words, io);
      }
    },
  };
}
