// `jellybloom doctor`: examines the servers of a cluster and says what is different or wrong, what it means for
// those who watch, and what cures it. It asks the servers itself (--replica, --api-key), or the Jellybloom that
// runs, which knows them and their keys (--admin, --cluster-key). Nothing is changed anywhere. Exit code 0:
// nothing was found; 1: something was; 2: nobody could be asked, so nothing is known.

import { callProven } from "../core/cluster/sidecar-client.ts";
import { createJellyfinClient } from "../core/jellyfin/client.ts";
import { systemClock } from "../core/service/clock.ts";
import { isRecord } from "../core/service/json.ts";
import { urlText } from "../core/service/options.ts";
import { createSeal } from "../core/service/seal.ts";
import { doctorPath, type Examination, examination } from "../sidecar/doctor/doctor.ts";
import type { Finding } from "../sidecar/findings.ts";
import type { Io } from "./io.ts";
import { apiKeyOf, type DoctorConfig } from "./options.ts";
import { wrapped } from "./text.ts";

/** A page of items of a large library takes a second on a small machine. */
const callLimitMs = 20_000;
const connectLimitMs = 3000;
const shortLimitMs = 10_000;
const examinationLimitMs = 5 * 60_000;
const widthCharacters = 100;

export async function runDoctor(config: DoctorConfig, io: Io): Promise<number> {
  const examined =
    config.replica.length > 0 ? await examineServers(config) : await askRunning(config);
  if (typeof examined === "string") {
    io.err(`${examined}\n`);
    return 2;
  }
  if (examined.asked.length === 0) {
    const sentences = examined.findings.map(({ sentence }) => sentence);
    io.err(`No server could be examined. ${sentences.join(" ")}\n`);
    return 2;
  }
  io.out(config.json ? `${JSON.stringify(examined)}\n` : examinationText(examined));
  return examined.findings.length === 0 ? 0 : 1;
}

async function examineServers(config: DoctorConfig): Promise<Examination> {
  const servers = config.replica.map(({ name, origin, basePath }) => {
    const apiKey = apiKeyOf(config.apiKey, name);
    const client = createJellyfinClient({
      ...{ origin, basePath, apiKey, callLimitMs, connectLimitMs },
      now: systemClock.monotonicMs,
    });
    return { name, client, hasKey: apiKey !== undefined };
  });
  try {
    const { wallMs: now } = systemClock;
    return await examination(servers, { limitMs: shortLimitMs, doors: config.door, now });
  } finally {
    await Promise.all(servers.map(({ client }) => client.close()));
  }
}

/** What the Jellybloom that runs found, or a sentence why it cannot be asked. */
async function askRunning(config: DoctorConfig): Promise<Examination | string> {
  const { admin, clusterKey, door } = config;
  if (clusterKey === undefined) throw new Error("the options were not checked");
  const seal = createSeal(clusterKey);
  const base = urlText(admin);
  const answer = await callProven(seal, base, doctorPath, { doors: door }, examinationLimitMs);
  if (answer.outcome === "failed") return `${base} cannot be asked: ${answer.why}.`;
  if (answer.outcome === "refused") {
    return answer.status === 404
      ? `${base} examines nothing: a door of its own has no API keys. Give the address of a sidecar as --admin.`
      : `${base} refused: ${answer.error}.`;
  }
  return readExamination(answer.body) ?? `${base} gave an answer that makes no sense.`;
}

function readExamination(body: unknown): Examination | undefined {
  if (!isRecord(body) || !Array.isArray(body.asked) || !Array.isArray(body.findings))
    return undefined;
  const asked = body.asked
    .filter(isRecord)
    .flatMap(({ name, url, version }) =>
      typeof name === "string" && typeof url === "string"
        ? [{ name, url, version: typeof version === "string" ? version : "" }]
        : [],
    );
  const findings = body.findings
    .filter(isRecord)
    .flatMap(({ severity, sentence }): Finding[] =>
      typeof sentence === "string"
        ? [{ severity: severity === "refuse" ? "refuse" : "warn", sentence }]
        : [],
    );
  return { asked, findings };
}

/** For people: who was examined, then each finding in lines of at most 100 characters. */
export function examinationText({ asked, findings }: Examination): string {
  const lines = asked.map(({ name, url, version }) => `${name}: Jellyfin ${version} at ${url}`);
  lines.push("");
  if (findings.length === 0) lines.push("Nothing is wrong.");
  const severe = findings.filter(({ severity }) => severity === "refuse");
  const rest = findings.filter(({ severity }) => severity === "warn");
  if (severe.length > 0) {
    lines.push("To be put right before anybody is served:");
    for (const { sentence } of severe)
      lines.push(...wrapped(sentence, widthCharacters, "- ", "  "));
    if (rest.length > 0) lines.push("");
  }
  if (rest.length > 0) {
    lines.push("To be put right:");
    for (const { sentence } of rest) lines.push(...wrapped(sentence, widthCharacters, "- ", "  "));
  }
  return `${lines.join("\n")}\n`;
}
