// `npm run bench`: nginx, HAProxy, Caddy, http-proxy and this proxy side by side, in one run, on one
// machine, before one backend. It exists because «fast» means nothing without something beside it, and
// because a promise about cost must be able to fail. It promises: ratios within one run, repeated in
// interleaved rounds; an end within a quarter of an hour; nothing left behind; and exit code 1 when a
// promise is broken or could not be measured.
//
//   npm run bench                                everything; rewrites docs/performance.md
//   npm run bench -- --quick                     less of everything, for while one works on it
//   npm run bench -- --only small,stream         some measures (see `measureNames`)
//   npm run bench -- --contenders nginx-tuned,jellybloom --rounds 5
//   npm run bench -- --only small --profile      with a CPU profile of this proxy

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, release, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { warm } from "../support/warm.ts";
import { startBackend } from "./backend.ts";
import { type ContenderName, contenderNames, ownEntry } from "./contenders.ts";
import { measureJournal } from "./journal.ts";
import {
  type Amounts,
  type Bench,
  type Entrant,
  enter,
  measureFlat,
  measureIdle,
  measureLatency,
  measureSegments,
  measureSmall,
  measureSockets,
  measureStore,
  measureStream,
  measureViewers,
} from "./measures.ts";
import { end, output } from "./process.ts";
import { type Circumstances, type Results, reportOf, verdictsOf, withReport } from "./report.ts";

const measureNames = [
  "idle",
  "small",
  "stream",
  "segments",
  "latency",
  "viewers",
  "sockets",
  "flat",
  "store",
  "journal",
] as const;
type MeasureName = (typeof measureNames)[number];

/** The whole bench ends within this time, whatever happens. A full run takes about ten minutes. */
const runLimitMs = 15 * 60_000;

const fullAmounts: Amounts = {
  rounds: 3,
  smallSeconds: 3,
  streamBytes: 2_000_000_000,
  segmentsPerViewer: 20,
  pacedSegmentsPerViewer: 6,
  latencySeconds: 4,
  socketCount: 10_000,
  socketPauseSeconds: 10,
  // A minute after the last request nobody uses it, and servers are asked more seldom.
  idleSettleSeconds: 65,
  idleSeconds: 30,
  flatWarmupRequests: 200_000,
  flatRequests: 200_000,
  flatLeavers: 1_000,
  placedRequests: 10_000,
  journalledWrites: 1_000,
};

const quickAmounts: Amounts = {
  ...fullAmounts,
  rounds: 1,
  smallSeconds: 1,
  streamBytes: 1_000_000_000,
  segmentsPerViewer: 8,
  pacedSegmentsPerViewer: 2,
  latencySeconds: 2,
  socketCount: 1_000,
  socketPauseSeconds: 3,
  idleSettleSeconds: 3,
  idleSeconds: 5,
  flatWarmupRequests: 20_000,
  flatRequests: 20_000,
  flatLeavers: 100,
  journalledWrites: 200,
};

interface Plan {
  readonly measures: ReadonlySet<MeasureName>;
  readonly contenders: readonly ContenderName[];
  readonly amounts: Amounts;
  readonly entry: string;
  readonly pin: boolean;
  readonly accessLogs: boolean;
  readonly profile: boolean;
  readonly keep: boolean;
  readonly write: boolean;
}

const help = `node test/bench/bench.ts
  --only NAMES        of ${measureNames.join(", ")}
  --contenders NAMES  of ${contenderNames.join(", ")}
  --rounds N          rounds of each comparison (default ${fullAmounts.rounds})
  --entry FILE        another copy of jellybloom.mjs to measure
  --quick             less of everything; numbers to work with, not to publish
  --access-logs       the other proxies write access logs, too
  --no-pin            let the scheduler choose CPUs
  --profile           write a CPU profile of this proxy and say where
  --keep              keep the temporary folder with logs and configurations
  --write             write docs/performance.md also after a partial run`;

process.exitCode = await main();

async function main(): Promise<number> {
  const plan = planOf(process.argv.slice(2));
  if (plan === undefined) return 2;
  const directory = mkdtempSync(join(tmpdir(), "jellybloom-bench-"));
  // A machine that is busy before the bench begins will be busy during it.
  const loadBefore = loadavg()[0] ?? 0;
  const stop = (reason: string) => {
    say(reason);
    removeFolder(plan, directory);
    // Leaving the process ends its children (process.ts).
    process.exit(1);
  };
  const limit = setTimeout(() => stop("the bench took too long"), runLimitMs);
  process.once("SIGINT", () => stop("interrupted"));
  process.once("SIGTERM", () => stop("terminated"));
  try {
    return await runPlan(plan, directory, loadBefore);
  } finally {
    clearTimeout(limit);
    removeFolder(plan, directory);
  }
}

function removeFolder(plan: Plan, directory: string): void {
  if (plan.keep) say(`kept: ${directory}`);
  else rmSync(directory, { recursive: true, force: true });
}

function planOf(args: string[]): Plan | undefined {
  const { values } = parseArgs({
    args,
    allowNegative: true,
    options: {
      only: { type: "string" },
      contenders: { type: "string" },
      rounds: { type: "string" },
      entry: { type: "string", default: ownEntry },
      quick: { type: "boolean", default: false },
      "access-logs": { type: "boolean", default: false },
      pin: { type: "boolean", default: availableParallelism() > 1 },
      profile: { type: "boolean", default: false },
      keep: { type: "boolean", default: false },
      write: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  const only = chosen(values.only, measureNames);
  const contenders = chosen(values.contenders, contenderNames);
  const amounts = values.quick ? quickAmounts : fullAmounts;
  const rounds = values.rounds === undefined ? amounts.rounds : Number(values.rounds);
  if (values.help || only === undefined || contenders === undefined || !(rounds >= 1)) {
    say(help);
    return undefined;
  }
  const whole = !values.quick && values.only === undefined && values.contenders === undefined;
  return {
    measures: new Set(only),
    contenders,
    amounts: { ...amounts, rounds: Math.min(Math.floor(rounds), 20) },
    entry: values.entry,
    pin: values.pin,
    accessLogs: values["access-logs"],
    profile: values.profile,
    keep: values.keep,
    write: whole || values.write,
  };
}

/** The names in a comma-separated list, all when there is none, undefined when one is unknown. */
function chosen<Name extends string>(
  list: string | undefined,
  names: readonly Name[],
): readonly Name[] | undefined {
  if (list === undefined) return names;
  const wanted = list.split(",");
  const found = names.filter((name) => wanted.includes(name));
  return found.length === new Set(wanted).size ? found : undefined;
}

async function runPlan(plan: Plan, directory: string, loadBefore: number): Promise<number> {
  // Two CPUs or more: the contender under test has one to itself, clients and backend have the rest.
  const loadCpus = plan.pin ? `1-${availableParallelism() - 1}` : undefined;
  const movieBytes = 500_000_000;
  const backend = await startBackend(join(directory, "backend"), movieBytes, loadCpus);
  // The profile outlives the temporary folder, because it is the purpose of such a run.
  const profileDirectory = plan.profile
    ? mkdtempSync(join(tmpdir(), "jellybloom-profile-"))
    : undefined;
  const setup = {
    entry: plan.entry,
    directory,
    backend,
    cpus: plan.pin ? "0" : undefined,
    accessLogs: plan.accessLogs,
    profileDirectory,
    straight: false,
    redisUrl: undefined,
  };
  await warm();
  const bench: Bench = { setup, backend, amounts: plan.amounts, loadCpus, say };
  const { results, failures } = await measureAll(bench, plan);
  for (const running of backend.processes) await end(running);
  if (profileDirectory !== undefined) say(`CPU profiles: ${profileDirectory}/*.cpuprofile`);
  return publish(plan, results, failures, await circumstances(plan, loadBefore));
}

async function publish(
  plan: Plan,
  results: Results,
  failures: readonly string[],
  about: Circumstances,
): Promise<number> {
  const verdicts = verdictsOf(results);
  const report = reportOf(results, verdicts, about);
  say(`\n${report}\n`);
  for (const failure of failures) say(`could not be measured: ${failure}`);
  const broken = verdicts.filter((verdict) => !verdict.kept);
  say(`${verdicts.length - broken.length} promises kept, ${broken.length} broken`);
  if (plan.write && failures.length === 0) {
    const page = join(import.meta.dirname, "../../docs/performance.md");
    writeFileSync(page, withReport(readFileSync(page, "utf8"), report));
    say("docs/performance.md is rewritten");
  }
  return broken.length > 0 || failures.length > 0 ? 1 : 0;
}

interface Outcome {
  readonly results: Results;
  readonly failures: readonly string[];
}

/** Takes every measure of the plan. One that fails is noted, and the others are still taken. */
async function measureAll(bench: Bench, plan: Plan): Promise<Outcome> {
  const failures: string[] = [];
  const results: { -readonly [Name in keyof Results]: Results[Name] } = {};
  const attempt = async <Name extends keyof Results>(
    name: Name,
    wanted: boolean,
    measure: () => Promise<NonNullable<Results[Name]>>,
  ) => {
    if (!wanted) return;
    try {
      results[name] = await measure();
    } catch (error) {
      failures.push(`${name}: ${error instanceof Error ? error.message : String(error)}`);
      say(`${name} failed`);
    }
  };
  const wants = (name: MeasureName) => plan.measures.has(name);
  const alone = plan.contenders.includes("jellybloom") && existsSync(plan.entry);
  if (plan.contenders.includes("jellybloom") && !alone) {
    failures.push("this proxy: its program does not exist");
  }

  const entrants = wantsComparison(plan) ? await enterAll(bench, plan, failures) : [];
  const proxies = entrants.filter(({ contender }) => contender !== "node-server");
  await attempt("idle", wants("idle"), () => measureIdle(bench, entrants));
  await attempt("small", wants("small"), () => measureSmall(bench, entrants));
  await attempt("streamOne", wants("stream"), () => measureStream(bench, proxies, 1));
  await attempt("streamFour", wants("stream"), () => measureStream(bench, proxies, 4));
  await attempt("segments", wants("segments"), () => measureSegments(bench, proxies));
  await attempt("latency", wants("latency"), () => measureLatency(bench, proxies));
  for (const entrant of entrants) await end(entrant.running);

  await attempt("viewers", wants("viewers") && alone, () => measureViewers(bench));
  await attempt("flat", wants("flat") && alone, () => measureFlat(bench));
  await attempt("store", wants("store") && alone, () => measureStore(bench));
  await attempt("journal", wants("journal") && alone, () => measureJournal(bench));
  const inSockets: ContenderName[] = ["nginx-tuned", "haproxy", "http-proxy"];
  if (alone) inSockets.push("jellybloom");
  await attempt("sockets", wants("sockets"), () =>
    measureSockets(
      bench,
      inSockets.filter((name) => plan.contenders.includes(name)),
    ),
  );
  return { results, failures };
}

function wantsComparison(plan: Plan): boolean {
  const names: MeasureName[] = ["idle", "small", "stream", "segments", "latency"];
  return names.some((name) => plan.measures.has(name));
}

async function enterAll(bench: Bench, plan: Plan, failures: string[]): Promise<Entrant[]> {
  const entrants: Entrant[] = [];
  for (const name of plan.contenders) {
    if (name === "jellybloom" && !existsSync(plan.entry)) continue;
    try {
      entrants.push(await enter(bench, name));
    } catch (error) {
      failures.push(error instanceof Error ? error.message : String(error));
    }
  }
  return entrants;
}

async function circumstances(plan: Plan, loadBefore: number): Promise<Circumstances> {
  const model = cpus()[0]?.model.trim() ?? "unknown CPU";
  const memory = Math.round(totalmem() / 2 ** 30);
  const kernel = release().split(".").slice(0, 2).join(".");
  const pinned = plan.pin
    ? "The contender has one core to itself, clients and backend the rest."
    : "";
  const logs = plan.accessLogs
    ? "All proxies write access logs."
    : "Only Jellybloom writes a log; the others' access logs are off.";
  return {
    date: new Date().toISOString().slice(0, 10),
    machine: `${availableParallelism()} × ${model}, ${memory} GB, Linux ${kernel}`,
    versions: await versions(),
    setting: [
      `Load of the machine before the run: ${loadBefore.toFixed(1)}.`,
      `Rounds: ${plan.amounts.rounds}; medians, with the least and the most.`,
      pinned,
      logs,
    ].join(" "),
  };
}

async function versions(): Promise<string[]> {
  const version = async (name: string, command: string, args: string[], pattern: RegExp) => {
    const text = await output(name, "sh", ["-c", `${command} ${args.join(" ")} 2>&1 || true`], {
      limitMs: 5_000,
    });
    return `${name} ${pattern.exec(text)?.[1] ?? "unknown"}`;
  };
  const lock: unknown = JSON.parse(
    readFileSync(join(import.meta.dirname, "../../node_modules/http-proxy/package.json"), "utf8"),
  );
  const httpProxy =
    typeof lock === "object" && lock !== null && "version" in lock
      ? String(lock.version)
      : "unknown";
  return [
    `Node ${process.versions.node}`,
    await version("nginx", "nginx", ["-v"], /nginx\/([\d.]+)/),
    await version("HAProxy", "haproxy", ["-v"], /version ([\d.]+)/),
    await version("Caddy", "caddy", ["version"], /v?(\d[\d.]*)/),
    `http-proxy-3 ${httpProxy}`,
  ];
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
