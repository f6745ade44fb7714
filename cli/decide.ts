// `jellybloom truth` and `jellybloom catch-up`: what the owner says about a replica whose data were put back to an
// older state, and which gets nobody until then. `truth`: these data are right; the others get nobody until they are
// seeded from it. `catch-up`: the cluster is right; what the replica lacks is done again there. Exit code 0: it was
// ordered; 1: it was not.

import { decidePath } from "../core/cluster/deciding.ts";
import { callProven, whyNot } from "../core/cluster/sidecar-client.ts";
import type { Decision } from "../core/cluster/truth.ts";
import { urlText } from "../core/service/options.ts";
import { createSeal } from "../core/service/seal.ts";
import type { Io } from "./io.ts";
import type { UndrainConfig } from "./options.ts";

const answerLimitMs = 5000;

export async function runDecide(
  { admin, clusterKey, json }: UndrainConfig,
  replica: string,
  decision: Decision,
  io: Io,
): Promise<number> {
  const seal = createSeal(clusterKey);
  const body = { replica, decision };
  const answer = await callProven(seal, urlText(admin), decidePath, body, answerLimitMs);
  if (answer.outcome !== "ok") {
    io.err(`Nothing was decided: ${whyNot(answer)}.\n`);
    return 1;
  }
  if (json) io.out(`${JSON.stringify(answer.body)}\n`);
  else if (decision === "catchUp") {
    io.out(`${replica} does again what it lacks, and gets people when it has caught up.\n`);
  } else {
    io.out(
      `${replica} is right. The others get nobody any more: seed each from it with jellybloom reseed NAME.\n`,
    );
  }
  return 0;
}
