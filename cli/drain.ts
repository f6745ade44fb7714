// `jellybloom drain` and `jellybloom undrain`: tell the cluster to take everybody away from a replica, so that
// it can be stopped without anybody noticing, and to give it people again. Both ask the admin port of a door
// or the port of a sidecar; either will do, since the order lies in the store.
//
// `drain` waits until the replica is ready to stop, or for the time limit and a moment more; its exit code
// says which: 0, it can be stopped; 1, it cannot, or nobody answered.

import { setTimeout as sleep } from "node:timers/promises";
import { callProven, type SidecarAnswer } from "../core/cluster/sidecar-client.ts";
import { urlText } from "../core/service/options.ts";
import { createSeal, type Seal } from "../core/service/seal.ts";
import { countText } from "../sidecar/seed/text.ts";
import type { Io } from "./io.ts";
import type { DrainConfig, UndrainConfig } from "./options.ts";

const answerLimitMs = 5000;
const pollIntervalMs = 250;
/** After the time limit the rest is moved by force, which takes a moment. */
const forceLimitMs = 5000;

interface Told {
  readonly replica: string;
  readonly draining: boolean;
  readonly done: boolean;
  readonly homes: number;
  readonly requests: number;
  readonly sockets: number;
}

/** `replica` empty: the one beside which the asked sidecar stands. */
export async function runDrain(config: DrainConfig, replica: string, io: Io): Promise<number> {
  const ask = asker(config.admin, createSeal(config.clusterKey));
  const named = replica === "" ? {} : { replica };
  const { limitMs, untilRestart } = config;
  let told = await tell(ask("/jellybloom/drain", { ...named, limitMs, untilRestart }), config, io);
  if (told === undefined) return 1;
  const endMs = performance.now() + limitMs + forceLimitMs;
  while (!told.done && told.draining && config.wait && performance.now() < endMs) {
    await sleep(pollIntervalMs);
    const next = await ask("/jellybloom/draining", named);
    // One question that was not answered is asked again: the drain goes on without us.
    if (next.outcome === "ok") told = readTold(next.body) ?? told;
  }
  if (config.json) io.out(`${JSON.stringify(told)}\n`);
  else io.out(`${sentence(told)}\n`);
  return told.done || !config.wait ? 0 : 1;
}

export async function runUndrain(config: UndrainConfig, replica: string, io: Io): Promise<number> {
  const ask = asker(config.admin, createSeal(config.clusterKey));
  const named = replica === "" ? {} : { replica };
  const told = await tell(ask("/jellybloom/undrain", named), config, io);
  if (told === undefined) return 1;
  if (config.json) io.out(`${JSON.stringify(told)}\n`);
  else io.out(`${told.replica} drains no longer: people are placed there again.\n`);
  return 0;
}

type Ask = (path: string, body: unknown) => Promise<SidecarAnswer>;

function asker(admin: DrainConfig["admin"], seal: Seal): Ask {
  return (path, body) => callProven(seal, urlText(admin), path, body, answerLimitMs);
}

async function tell(
  asked: Promise<SidecarAnswer>,
  { admin }: Pick<DrainConfig, "admin">,
  io: Io,
): Promise<Told | undefined> {
  const answer = await asked;
  if (answer.outcome === "failed") {
    io.err(`No answer from ${urlText(admin)}: ${answer.why}.\n`);
    return undefined;
  }
  if (answer.outcome === "refused") {
    io.err(`${urlText(admin)} refused: ${answer.error}.\n`);
    return undefined;
  }
  const told = readTold(answer.body);
  if (told === undefined) io.err(`${urlText(admin)} gave an answer that makes no sense.\n`);
  return told;
}

function readTold(body: unknown): Told | undefined {
  if (typeof body !== "object" || body === null) return undefined;
  const { replica, draining, done, homes, requests, sockets } = body as Record<string, unknown>;
  if (typeof replica !== "string") return undefined;
  const count = (value: unknown): number => (typeof value === "number" ? value : 0);
  return {
    replica,
    draining: draining === true,
    done: done === true,
    homes: count(homes),
    requests: count(requests),
    sockets: count(sockets),
  };
}

function sentence({ replica, draining, done, homes, requests, sockets }: Told): string {
  if (!draining) return `${replica} does not drain: somebody took the order back.`;
  if (done) return `${replica} is drained and ready to stop.`;
  return (
    `${replica} drains; left on it: ${countText(homes, "home")}, ${countText(requests, "request")},` +
    ` ${countText(sockets, "socket")}.`
  );
}
