// What seed and backup ask of the sidecar beside the server that is copied: how far its journal had come before the
// first byte is read, and, when a copy is in place, that the store follows.

import { readJournalCursor } from "../core/cluster/journal-cursor.ts";
import { callProven, type SidecarAnswer, whyNot } from "../core/cluster/sidecar-client.ts";
import { isRecord } from "../core/service/json.ts";
import { type HttpUrl, urlText } from "../core/service/options.ts";
import { createSeal } from "../core/service/seal.ts";
import type { JournalCursor } from "../core/store/journal.ts";
import { positionPath, seededPath } from "../sidecar/seed/donor.ts";
import { SeedProblem } from "../sidecar/seed/problem.ts";

const answerLimitMs = 10_000;
/** Each login is looked at in the store. */
const seededLimitMs = 120_000;

export interface Beside {
  readonly sidecar: HttpUrl | undefined;
  readonly clusterKey: string | undefined;
}

export interface Position {
  readonly replica: string;
  readonly ticket: string;
  readonly position: JournalCursor | undefined;
  /** Of the server whose folder the sidecar sees; undefined where it sees none, or does not know it. */
  readonly serverId: string | undefined;
  readonly version: string | undefined;
}

/** Undefined where no sidecar was named. @throws SeedProblem when it does not answer. */
export async function askPosition({ sidecar, clusterKey }: Beside): Promise<Position | undefined> {
  if (sidecar === undefined || clusterKey === undefined) return undefined;
  const base = urlText(sidecar);
  const answer = await callProven(createSeal(clusterKey), base, positionPath, {}, answerLimitMs);
  if (answer.outcome === "ok" && isRecord(answer.body) && typeof answer.body.replica === "string") {
    const { replica, ticket, position, serverId, version } = answer.body;
    return {
      ...{ replica, ticket: String(ticket), position: readJournalCursor(position) },
      serverId: typeof serverId === "string" ? serverId : undefined,
      version: typeof version === "string" ? version : undefined,
    };
  }
  refuseHeldBack(base, answer);
  throw new SeedProblem(
    `The sidecar at ${base} does not tell how far the journal has come (${whyOf(answer)}): start it, or leave` +
      " --sidecar out; then the cluster does not know what the copy lacks.",
  );
}

/** Tells the cluster that `replica` is a copy now. Answers how many logins it knows. @throws SeedProblem. */
export async function tellSeeded(
  { sidecar, clusterKey }: Beside,
  replica: string,
  { ticket, position }: Pick<Position, "ticket" | "position">,
): Promise<number> {
  if (sidecar === undefined || clusterKey === undefined) throw new Error("nobody to tell");
  const base = urlText(sidecar);
  const body = { replica, ticket, position: position ?? null };
  const answer = await callProven(createSeal(clusterKey), base, seededPath, body, seededLimitMs);
  if (answer.outcome === "ok" && isRecord(answer.body)) return Number(answer.body.tokens);
  refuseHeldBack(base, answer);
  throw new SeedProblem(
    `The copy is whole, but the sidecar at ${base} was not told (${whyOf(answer)}): run the same command again` +
      " before its server is started, or its people are served what they had when it was copied.",
  );
}

/** Its server is not to be copied now: without its word, too, the copy would lack what the cluster has told people. */
function refuseHeldBack(base: string, answer: SidecarAnswer): void {
  if (answer.outcome !== "refused" || answer.status !== 409) return;
  throw new SeedProblem(`The sidecar at ${base} refuses: ${answer.error}. Copy another server.`);
}

function whyOf(answer: SidecarAnswer): string {
  return answer.outcome === "ok" ? "its answer makes no sense" : whyNot(answer);
}
