// `jellybloom status`: the cluster as one door sees it, on a screen of 80 columns: replicas with what they
// carry, who leads, and what is wrong in words. Exit code 0: nothing is wrong; 1: something is, or nobody
// answered; so that a script may ask it, too.

import { callProven, whyNot } from "../core/cluster/sidecar-client.ts";
import { urlText } from "../core/service/options.ts";
import { createSeal } from "../core/service/seal.ts";
import type { ClusterStatus, ReplicaStatus } from "../proxy/status.ts";
import type { Io } from "./io.ts";
import type { StatusConfig } from "./options.ts";
import { wrapped } from "./text.ts";

export const statusPath = "/jellybloom/status";
const answerLimitMs = 5000;
const widthCharacters = 80;

export async function runStatus(config: StatusConfig, io: Io): Promise<number> {
  const seal = createSeal(config.clusterKey);
  const answer = await callProven(seal, urlText(config.admin), statusPath, {}, answerLimitMs);
  if (answer.outcome !== "ok") {
    io.err(`No status from ${urlText(config.admin)}: ${whyNot(answer)}.\n`);
    return 1;
  }
  // It is proven to come from nobody but it is asked by us: a door of another version may lack a field.
  const status = answer.body as ClusterStatus;
  if (config.json) io.out(`${JSON.stringify(status)}\n`);
  else io.out(statusText(status));
  return status.ok ? 0 : 1;
}

/** The status as lines of at most 80 characters. */
export function statusText(status: ClusterStatus): string {
  const rows = [heads, ...status.replicas.map(cells)];
  const widths = heads.map((_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? "").length)),
  );
  const table = rows.map((row) =>
    row
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return column >= firstNumber && column <= lastNumber
          ? cell.padStart(width)
          : cell.padEnd(width);
      })
      .join("  ")
      .trimEnd()
      .slice(0, widthCharacters),
  );
  const { leader, doors, failsafe } = status;
  const who = leader === null ? "nobody" : `${shortened(leader.replica)} (epoch ${leader.epoch})`;
  const lines = [
    ...table,
    "",
    `leader: ${who}   doors: ${doors}   store: ${failsafe ? "away (failsafe)" : "reachable"}`,
    "",
  ];
  if (status.wrong.length === 0) lines.push("Nothing is wrong.");
  else {
    lines.push("What is wrong:");
    for (const sentence of status.wrong)
      lines.push(...wrapped(`${sentence}.`, widthCharacters, "- ", "  "));
  }
  return `${lines.join("\n")}\n`;
}

const heads = ["REPLICA", "STATE", "FOR", "HOMES", "PLAYS", "ENCODED", "SOCKETS", "ENCODER"];
const firstNumber = 2;
const lastNumber = 6;
/** Names may have 63 characters; a table of 80 columns has not so much room. */
const nameCharacters = 20;

function shortened(name: string): string {
  return name.length > nameCharacters ? `${name.slice(0, nameCharacters - 1)}…` : name;
}

function cells(replica: ReplicaStatus): string[] {
  const { name, state, drain, forMs, homes, plays, transcodes, sockets, encodes } = replica;
  const shown = shortened(name);
  const said = drain === null ? state : drain.done ? "drained" : "draining";
  return [
    replica.isLeader ? `${shown} *` : shown,
    state === "ready" ? said : state,
    timeText(forMs),
    String(homes),
    String(plays),
    String(transcodes),
    String(sockets),
    encodes,
  ];
}

function timeText(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)}h` : `${Math.floor(seconds / 86_400)}d`;
}
