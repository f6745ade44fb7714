// From numbers to sentences: the promises with their bounds, the tables, and the page
// docs/performance.md. Pure: values in, text out. A promise that was not measured is said to be so and
// is neither kept nor broken.

import { type ContenderName, contenderNames, titles } from "./contenders.ts";
import type { JournalResult } from "./journal.ts";
import type {
  FlatResult,
  IdleResult,
  LatencyResult,
  Rounds,
  SmallResult,
  SocketResult,
  StoreResult,
  ViewersResult,
} from "./measures.ts";

export interface Results {
  readonly small?: SmallResult;
  readonly streamOne?: Rounds;
  readonly streamFour?: Rounds;
  readonly segments?: Rounds;
  readonly latency?: LatencyResult;
  readonly idle?: IdleResult;
  readonly viewers?: ViewersResult;
  readonly sockets?: ReadonlyMap<ContenderName, SocketResult>;
  readonly flat?: FlatResult;
  readonly store?: StoreResult;
  readonly journal?: JournalResult;
}

export interface Circumstances {
  readonly date: string;
  readonly machine: string;
  readonly versions: readonly string[];
  readonly setting: string;
}

export interface Verdict {
  readonly promise: string;
  readonly bound: string;
  readonly measured: string;
  readonly kept: boolean;
}

/** Growth after the warm-up that is still called flat: what V8's heap moves by on its own. */
const flatGrowthBytes = 24 << 20;
const flatGrowthDescriptors = 8;

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

/** Round by round, so that a slow minute of the machine falls on both sides of each ratio. */
export function ratios(rounds: Rounds, of: ContenderName, to: ContenderName): number[] {
  const base = rounds.get(to) ?? [];
  return (rounds.get(of) ?? []).map((value, round) => value / (base[round] ?? Number.NaN));
}

export function verdictsOf(results: Results): Verdict[] {
  return [
    ...ratioVerdicts(results),
    ...idleVerdicts(results.idle),
    ...viewersVerdicts(results.viewers),
    ...socketVerdicts(results.sockets),
    ...flatVerdicts(results.flat),
    ...storeVerdicts(results.store),
    ...journalVerdicts(results.journal),
  ];
}

function ratioVerdicts(results: Results): Verdict[] {
  const small = results.small?.microsecondsPerRequest;
  return [
    ...ratioVerdict("CPU per GB, one connection", results.streamOne, "nginx-tuned", 1.25),
    ...ratioVerdict("CPU per GB, one connection", results.streamOne, "haproxy", 0.6),
    ...ratioVerdict("CPU per GB, four connections", results.streamFour, "nginx-tuned", 1.25),
    ...ratioVerdict("CPU per GB, four connections", results.streamFour, "haproxy", 0.6),
    ...ratioVerdict("CPU per small request", small, "nginx", 2.5),
    ...ratioVerdict("CPU per small request", small, "nginx-tuned", 2.5),
    ...ratioVerdict("CPU per small request", small, "http-proxy", 0.4),
  ];
}

function ratioVerdict(
  promise: string,
  rounds: Rounds | undefined,
  to: ContenderName,
  bound: number,
): Verdict[] {
  if (!rounds?.has("jellybloom") || !rounds.has(to)) return [];
  const values = ratios(rounds, "jellybloom", to);
  return [
    {
      promise,
      bound: `≤ ${bound} × ${titles[to]}`,
      measured: `${spread(values, 2)} ×`,
      kept: median(values) <= bound,
    },
  ];
}

function idleVerdicts(idle: IdleResult | undefined): Verdict[] {
  const bytes = idle?.residentBytes.get("jellybloom");
  const share = idle?.cpuShare.get("jellybloom");
  if (bytes === undefined || share === undefined) return [];
  return [
    verdict("idle: memory", bytes / 1e6, 120, "MB", 0),
    verdict("idle: CPU", share * 100, 0.5, "% of a core", 2),
  ];
}

function viewersVerdicts(result: ViewersResult | undefined): Verdict[] {
  if (result === undefined) return [];
  return [
    verdict("five viewers of 80 Mbit/s HLS: memory", result.mostBytes / 1e6, 400, "MB", 0),
    verdict("five viewers: time taken", result.seconds, result.expectedSeconds * 1.25, "s", 1),
  ];
}

function socketVerdicts(sockets: ReadonlyMap<ContenderName, SocketResult> | undefined): Verdict[] {
  const result = sockets?.get("jellybloom");
  if (result === undefined) return [];
  const promise = `idle WebSocket (${result.count} of them): memory`;
  return [verdict(promise, result.bytesPerSocket / 1_000, 30, "KB each", 1)];
}

function flatVerdicts(result: FlatResult | undefined): Verdict[] {
  if (result === undefined) return [];
  const what = `${result.requests} requests and ${result.leavers} leavers`;
  const bytes = result.residentBytesAfter - result.residentBytesBefore;
  const descriptors = result.descriptorsAfter - result.descriptorsBefore;
  return [
    verdict(`flat over ${what}: memory grows`, bytes / 1e6, flatGrowthBytes / 1e6, "MB", 1),
    verdict("flat: open descriptors grow", descriptors, flatGrowthDescriptors, "", 0),
  ];
}

function storeVerdicts(result: StoreResult | undefined): Verdict[] {
  if (result === undefined) return [];
  // Heartbeats do not come evenly, so a few commands more than the idle rate are still none per request.
  const perRequest = result.commands / result.requests;
  return [
    {
      promise: "no store round trip in a placed request",
      bound: "< 0.001 commands a request",
      measured: `${perRequest.toFixed(4)} over ${result.requests} requests`,
      kept: perRequest < 0.001,
    },
  ];
}

function journalVerdicts(result: JournalResult | undefined): Verdict[] {
  if (result === undefined) return [];
  const perRead = result.reads.commands / result.reads.requests;
  return [
    verdict("journalled write: added latency, median", result.addedMs, 3, "ms", 2),
    {
      promise: "journal: a read costs the store nothing",
      bound: "< 0.001 commands a request",
      measured: `${perRead.toFixed(4)} over ${result.reads.requests} requests`,
      kept: perRead < 0.001,
    },
  ];
}

function verdict(
  promise: string,
  value: number,
  bound: number,
  unit: string,
  digits: number,
): Verdict {
  const text = (number: number) => `${number.toFixed(digits)} ${unit}`.trim();
  return { promise, bound: `≤ ${text(bound)}`, measured: text(value), kept: value <= bound };
}

/** The median and, where there is more than one value, the smallest and the largest. */
function spread(values: readonly number[], digits: number): string {
  if (values.length === 0) return "–";
  const middle = median(values).toFixed(digits);
  if (values.length === 1) return middle;
  return `${middle} (${Math.min(...values).toFixed(digits)}–${Math.max(...values).toFixed(digits)})`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((cell, column) =>
    Math.max(cell.length, ...rows.map((row) => (row[column] ?? "").length)),
  );
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(" | ")} |`;
  const rule = `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`;
  return [line(head), rule, ...rows.map(line)].join("\n");
}

function roundsTable(
  unit: string,
  rounds: Rounds,
  digits: number,
  more: { readonly head: string; readonly rounds: Rounds; readonly digits: number }[] = [],
): string {
  const against: ContenderName[] = ["nginx-tuned", "haproxy", "http-proxy"];
  const bases = against.filter((name) => rounds.has(name));
  const head = [
    "",
    unit,
    ...more.map((column) => column.head),
    ...bases.map((name) => `× ${titles[name]}`),
  ];
  const rows = contenderNames
    .filter((name) => rounds.has(name))
    .map((name) => [
      titles[name],
      spread(rounds.get(name) ?? [], digits),
      ...more.map((column) => spread(column.rounds.get(name) ?? [], column.digits)),
      ...bases.map((base) => median(ratios(rounds, name, base)).toFixed(2)),
    ]);
  return table(head, rows);
}

export function verdictTable(verdicts: readonly Verdict[]): string {
  return table(
    ["promise", "bound", "measured", ""],
    verdicts.map(({ promise, bound, measured, kept }) => [
      promise,
      bound,
      measured,
      kept ? "PASS" : "FAIL",
    ]),
  );
}

/** Everything that was measured, as Markdown that also reads well in a terminal. */
export function reportOf(
  results: Results,
  verdicts: readonly Verdict[],
  circumstances: Circumstances,
): string {
  const parts: string[] = [
    `Measured on ${circumstances.date}: ${circumstances.machine}; ${circumstances.versions.join(", ")}. ${circumstances.setting}`,
  ];
  if (verdicts.length > 0) parts.push("### Promises", verdictTable(verdicts));
  parts.push(...comparisons(results), ...alone(results));
  return parts.join("\n\n");
}

function comparisons(results: Results): string[] {
  const parts: string[] = [];
  const { small, streamOne, streamFour, segments, latency } = results;
  if (small !== undefined) {
    const rate = { head: "requests/s", rounds: small.requestsPerSecond, digits: 0 };
    parts.push(
      "### CPU per small request, 64 connections",
      roundsTable("µs", small.microsecondsPerRequest, 1, [rate]),
    );
  }
  if (streamOne !== undefined) {
    parts.push("### CPU per GB, direct play, one connection", roundsTable("s/GB", streamOne, 3));
  }
  if (streamFour !== undefined) {
    parts.push("### CPU per GB, direct play, four connections", roundsTable("s/GB", streamFour, 3));
  }
  if (segments !== undefined) {
    parts.push("### CPU per GB, HLS segments, one viewer", roundsTable("s/GB", segments, 3));
  }
  if (latency !== undefined) parts.push("### Added latency", latencyTable(latency));
  return parts;
}

function latencyTable(latency: LatencyResult): string {
  const rows = contenderNames
    .filter((name) => latency.addedP50Ms.has(name))
    .map((name) => [
      titles[name],
      spread(latency.addedP50Ms.get(name) ?? [], 2),
      spread(latency.addedP99Ms.get(name) ?? [], 2),
    ]);
  const direct = [
    "(the backend itself)",
    spread(latency.directP50Ms, 2),
    spread(latency.directP99Ms, 2),
  ];
  return table(["", "p50, ms", "p99, ms"], [direct, ...rows]);
}

function alone(results: Results): string[] {
  const parts: string[] = [];
  const { idle, sockets, viewers, flat, store, journal } = results;
  if (idle !== undefined) {
    const rows = contenderNames
      .filter((name) => idle.residentBytes.has(name))
      .map((name) => [
        titles[name],
        ((idle.residentBytes.get(name) ?? 0) / 1e6).toFixed(0),
        ((idle.cpuShare.get(name) ?? 0) * 100).toFixed(2),
      ]);
    parts.push("### Idle", table(["", "memory, MB", "CPU, % of a core"], rows));
  }
  if (sockets !== undefined) {
    const rows = contenderNames.flatMap((name) => {
      const result = sockets.get(name);
      if (result === undefined) return [];
      return [[titles[name], String(result.count), (result.bytesPerSocket / 1_000).toFixed(1)]];
    });
    parts.push("### Idle WebSockets", table(["", "sockets", "KB each"], rows));
  }
  const sentences = [
    viewers && viewersSentence(viewers),
    flat && flatSentence(flat),
    store && storeSentence(store),
    journal && journalSentence(journal),
  ];
  const said = sentences.filter((sentence) => sentence !== undefined);
  if (said.length > 0) parts.push("### This proxy alone", said.join("\n"));
  return parts;
}

function viewersSentence(result: ViewersResult): string {
  const idle = (result.idleBytes / 1e6).toFixed(0);
  const most = (result.mostBytes / 1e6).toFixed(0);
  const memory = `${idle} MB before, at most ${most} MB`;
  const time = `${result.seconds.toFixed(1)} s for ${result.expectedSeconds} s of video`;
  return `* Five viewers of 80 Mbit/s HLS: ${memory}; ${time}.`;
}

function flatSentence(result: FlatResult): string {
  const before = (result.residentBytesBefore / 1e6).toFixed(1);
  const after = (result.residentBytesAfter / 1e6).toFixed(1);
  const what = `${result.requests} requests and ${result.leavers} clients that left in mid-body`;
  const descriptors = `${result.descriptorsBefore} → ${result.descriptorsAfter}`;
  return `* ${what}: memory ${before} → ${after} MB, open descriptors ${descriptors}.`;
}

function storeSentence(result: StoreResult): string {
  const beyond = `${result.commands.toFixed(0)} commands beyond the idle rate`;
  const idle = `${result.idleCommandsPerSecond.toFixed(1)} a second`;
  return `* With Redis, ${result.requests} placed requests: ${beyond} of ${idle}.`;
}

function journalSentence(result: JournalResult): string {
  const without = `${result.plainMs.toFixed(2)} ms without an intent`;
  const withOne = `${result.journalledMs.toFixed(2)} ms with one (99th percentile ${result.journalledP99Ms.toFixed(2)} ms)`;
  return `* A report that a play has ended, ${result.writes} times each way: ${without}, ${withOne}.`;
}

const beginMarker = "<!-- bench: what follows is written by npm run bench -->";
const endMarker = "<!-- bench: end -->";

/** The page with the measured part replaced, and everything that people wrote around it kept. */
export function withReport(page: string, report: string): string {
  const begin = page.indexOf(beginMarker);
  const finish = page.indexOf(endMarker);
  const part = `${beginMarker}\n\n${report}\n\n${endMarker}`;
  if (begin < 0 || finish < begin) return `${page.trimEnd()}\n\n${part}\n`;
  return page.slice(0, begin) + part + page.slice(finish + endMarker.length);
}
