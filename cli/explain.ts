// `jellybloom explain`: asks a running door which replica would answer a request, and why. Nothing is sent
// to any server by it. The question carries a proof made with the cluster key, since the answer tells where
// a user is.

import { callProven } from "../core/cluster/sidecar-client.ts";
import { urlText } from "../core/service/options.ts";
import { createSeal } from "../core/service/seal.ts";
import type { Io } from "./io.ts";
import type { ExplainConfig } from "./options.ts";

export const explainPath = "/jellybloom/explain";

/** The question, as JSON in the body of `POST /jellybloom/explain`. */
export interface ExplainQuestion {
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  /** The token the request would carry; null: none. */
  readonly token: string | null;
}

/** The answer. */
export interface ExplainAnswer {
  /** Null when no replica would answer now. */
  readonly replica: string | null;
  /** A sentence. */
  readonly reason: string;
}

const answerLimitMs = 5000;

/** Prints the answer; answers the exit code. */
export async function runExplain(
  config: ExplainConfig,
  method: string,
  path: string,
  io: Io,
): Promise<number> {
  if (!path.startsWith("/")) {
    io.err("PATH must begin with a slash, such as /Users/Me.\n");
    return 2;
  }
  const question: ExplainQuestion = {
    method: method.toUpperCase(),
    path,
    token: config.token ?? null,
  };
  const { admin, clusterKey, json } = config;
  const base = urlText(admin);
  const seal = createSeal(clusterKey);
  const answer = await callProven(seal, base, explainPath, question, answerLimitMs);
  if (answer.outcome === "ok") {
    io.out(json ? `${JSON.stringify(answer.body)}\n` : `${told(answer.body)}\n`);
    return 0;
  }
  io.err(
    answer.outcome === "refused"
      ? `The door refused to tell: ${answer.error}.\n`
      : `No answer from ${base}: ${answer.why}.\n`,
  );
  return 1;
}

function told(answer: unknown): string {
  if (typeof answer !== "object" || answer === null) return JSON.stringify(answer);
  const { replica, reason, ...more } = answer as Partial<ExplainAnswer>;
  const lines = [`${replica ?? "no replica"}: ${reason ?? "no reason was given"}`];
  for (const [name, value] of Object.entries(more)) lines.push(`  ${name}: ${plain(value)}`);
  return lines.join("\n");
}

function plain(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
