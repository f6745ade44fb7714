// `jellybloom explain`: asks a running door which replica would answer a request, and why. Nothing is sent
// to any server by it. The question carries a proof made with the cluster key, since the answer tells where
// a user is.

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
  const body = JSON.stringify(question);
  const url = new URL(urlText(config.admin) + explainPath);
  const proof = createSeal(config.clusterKey).proofHeaders("POST", url.pathname, body);
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", ...proof },
      body,
      redirect: "error",
      signal: AbortSignal.timeout(answerLimitMs),
    });
    const answer: unknown = await response.json();
    if (!response.ok) {
      io.err(`The door refused to tell: ${errorOf(answer) ?? `status ${response.status}`}.\n`);
      return 1;
    }
    io.out(config.json ? `${JSON.stringify(answer)}\n` : `${told(answer)}\n`);
    return 0;
  } catch (error) {
    io.err(`No answer from ${urlText(config.admin)}: ${causeOf(error)}.\n`);
    return 1;
  }
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

function errorOf(answer: unknown): string | undefined {
  const isTold = typeof answer === "object" && answer !== null && "error" in answer;
  return isTold && typeof answer.error === "string" ? answer.error : undefined;
}

function causeOf(error: unknown): string {
  if (!(error instanceof Error)) return "unknown";
  if (error.name === "TimeoutError") return `none within ${answerLimitMs} ms`;
  return error.cause instanceof Error ? error.cause.message : error.message;
}
