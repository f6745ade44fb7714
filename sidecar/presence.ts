// The presence: one socket to the server, kept open with the API key under a device id of this cluster. Two
// Jellyblooms that share no store would end each other's tokens (a mint for the same user and device kills
// the other's), and only at the server itself can they notice each other. So each shows itself there, and
// while another is seen, this one mints nothing and says so. So it is with another name of the same cluster: then two
// sidecars were given one server, and what each does for the other it does to itself.
//
// A rolling restart is no rival: the same store and name give the same device id. A rival that crashed is gone with
// its socket; one whose machine vanished without a word is dropped by the server after about a minute
// (10.11: when TCP gives up).

import type { JellyfinClient } from "../core/jellyfin/client.ts";
import { findRival, findTwin, presenceDevice, type Rival } from "../core/jellyfin/ours.ts";
import { backOffMs, repeat, sleep } from "../core/service/loop.ts";

export interface PresenceOptions {
  readonly replica: string;
  readonly version: string;
  readonly client: JellyfinClient;
  readonly clusterId: string;
  readonly isHealthy: () => boolean;
  /** Called with each answer: what is so and what cures it, or undefined when nobody else is there (any longer). */
  readonly onRival: (sentence: string | undefined, cure: string) => void;
  /** Called when a presence that was there has ended: the server may have been restarted. */
  readonly onLost: () => void;
  /** How often the server's sessions are looked at for a rival, in ms. */
  readonly rivalIntervalMs: number;
  readonly retryMinMs: number;
  readonly retryMaxMs: number;
  readonly log: { debug(message: string): void; warn(message: string): void };
}

export function rivalSentence(replica: string, rival: Rival): string {
  return (
    `server ${replica} is already kept by another Jellybloom with another store (cluster ${rival.cluster}, ` +
    `which calls it ${rival.replica}): the two would log each other's viewers out`
  );
}

export function twinSentence(names: readonly string[], url: string): string {
  return (
    `${[...names].sort().join(" and ")} are one and the same server (${url}): when it stops, nobody is left, and every ` +
    "change is written to it twice"
  );
}

export const twinCure =
  "give each --replica, or each sidecar's --jellyfin, the address of a server of its own";

/** Keeps the presence and looks for rivals until `signal` aborts. */
export async function runPresence(options: PresenceOptions, signal: AbortSignal): Promise<void> {
  await Promise.all([
    keep(options, signal),
    repeat(options.rivalIntervalMs, signal, async () => await lookForOthers(options)),
  ]);
}

async function keep(options: PresenceOptions, signal: AbortSignal): Promise<void> {
  const { client, clusterId, replica, version, isHealthy, log } = options;
  const limits = { firstMs: options.retryMinMs, longestMs: options.retryMaxMs };
  const device = presenceDevice(clusterId, replica, version);
  let failures = 0;
  while (!signal.aborted) {
    if (isHealthy()) {
      let wasOpen = false;
      const onOpen = (): void => {
        failures = 0;
        wasOpen = true;
        // Of two that show themselves the later one sees the other now.
        void lookForOthers(options);
      };
      const end = await client.holdPresence(device, onOpen, signal);
      if (end.outcome === "stopped") return;
      if (wasOpen) options.onLost();
      if (end.outcome === "refused" && failures === 0) {
        log.warn(`server ${replica} refuses a socket with the API key (${end.status})`);
      }
      log.debug(`the presence at server ${replica} ended: ${end.outcome}`);
    }
    failures++;
    await sleep(backOffMs(failures, limits, Math.random()), signal);
  }
}

async function lookForOthers(options: PresenceOptions): Promise<void> {
  const { client, clusterId, replica, isHealthy, onRival } = options;
  if (!isHealthy()) return;
  const answer = await client.sessions();
  if (answer.outcome !== "ok") return;
  const rival = findRival(answer.sessions, clusterId);
  const twin = findTwin(answer.sessions, clusterId, replica);
  if (rival !== undefined) {
    onRival(rivalSentence(replica, rival), "stop one of them, or give both the same --redis");
  } else if (twin !== undefined) {
    onRival(twinSentence([replica, twin], client.origin + client.basePath), twinCure);
  } else onRival(undefined, "");
}
