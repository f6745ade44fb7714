// The doctor as those who run can be asked for it: the examination of all servers, and the guarded route by
// which `jellybloom doctor` asks a sidecar, or the one process of `up`, to make it with the keys they have.

import type { ReplicaNotes } from "../../core/cluster/condition.ts";
import { isQuarantined } from "../../core/cluster/truth.ts";
import type { GuardedRoute } from "../../core/service/health.ts";
import { parsedObject } from "../../core/service/json.ts";
import type { Finding } from "../findings.ts";
import { type AskedServer, type ExamineOptions, examine } from "./facts.ts";
import { diagnose } from "./findings.ts";

export interface Examination {
  /** Servers that answered. */
  readonly asked: readonly {
    readonly name: string;
    readonly url: string;
    readonly version: string;
  }[];
  readonly findings: readonly Finding[];
}

export const doctorPath = "/jellybloom/doctor";

const doorsLimit = 16;
const shortLimitMs = 10_000;

export async function examination(
  servers: readonly AskedServer[],
  options: ExamineOptions,
): Promise<Examination> {
  const examined = await examine(servers, options);
  return {
    asked: examined
      .filter(({ facts: { health } }) => health === "healthy")
      .map(({ facts: { name, url, info } }) => ({ name, url, version: info?.version ?? "" })),
    findings: diagnose(examined),
  };
}

/** `POST /jellybloom/doctor`; the body is JSON: `{doors?: string[]}`. One examination at a time. */
export function doctorRoute(
  servers: () => readonly AskedServer[],
  now: () => number,
  notes: () => ReplicaNotes,
): GuardedRoute {
  let running: Promise<Examination> | undefined;
  return {
    method: "POST",
    path: doctorPath,
    async answer(body) {
      const given = parsedObject(body)?.doors;
      const doors = (Array.isArray(given) ? given : [])
        .filter((door) => typeof door === "string")
        .slice(0, doorsLimit);
      // It costs each server a walk through its libraries, so it is never made twice side by side.
      const asked = servers();
      running ??= examination(asked, { limitMs: shortLimitMs, doors, now }).finally(() => {
        running = undefined;
      });
      const { asked: examined, findings } = await running;
      const known = quarantines(asked, notes());
      return { status: 200, body: { asked: examined, findings: [...known, ...findings] } };
    },
  };
}

/** What only a cluster that runs knows. */
function quarantines(servers: readonly AskedServer[], notes: ReplicaNotes): readonly Finding[] {
  return servers.flatMap(({ name }) => {
    const why = isQuarantined(notes, name);
    return why === undefined
      ? []
      : [{ severity: "refuse", sentence: `Server ${name} gets nobody: ${why}.` }];
  });
}
