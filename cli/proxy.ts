// `jellybloom proxy`: a door of its own. With Redis it meets the sidecars and the other proxies there;
// without, it is alone: nothing is minted for it, so every login lives on the replica that gave it and on
// those that were copied from that one.

import type { ReplicaConfig } from "../core/cluster/replica.ts";
import { createJellyfinClient } from "../core/jellyfin/client.ts";
import { systemClock } from "../core/service/clock.ts";
import type { Caretakers } from "../proxy/server.ts";
import { runDoor } from "./door.ts";
import type { Io } from "./io.ts";
import type { ProxyConfig } from "./options.ts";

/** The sidecars are other processes: they see what is needed in the store, and cannot be called. */
const elsewhere: Caretakers = {
  urgent: () => undefined,
  suspect: () => undefined,
  isBarred: () => false,
  apiKeyOf: () => undefined,
};

export function runProxy(config: ProxyConfig, io: Io): Promise<number> {
  return runDoor(
    {
      config,
      caretakers: () => elsewhere,
      connect: ({ origin, basePath }: ReplicaConfig) =>
        createJellyfinClient({
          origin,
          basePath,
          callLimitMs: config.apiHoldLimitMs,
          probeLimitMs: config.probeLimitMs,
          connectLimitMs: config.connectLimitMs,
          now: systemClock.monotonicMs,
        }),
      helpers: () => [],
    },
    io,
  );
}
