// `jellybloom proxy`: a door of its own. With Redis it meets the sidecars and the other proxies there;
// without, it is alone: nothing is minted for it, so every login lives on the replica that gave it and on
// those that were copied from that one.

import { openOwnKey } from "../core/cluster/own-keys.ts";
import type { ReplicaConfig } from "../core/cluster/replica.ts";
import { SidecarCalls } from "../core/cluster/sidecar-client.ts";
import { createJellyfinClient } from "../core/jellyfin/client.ts";
import { systemClock } from "../core/service/clock.ts";
import { type Common, runDoor } from "./door.ts";
import type { Io } from "./io.ts";
import { lookService } from "./look.ts";
import type { ProxyConfig } from "./options.ts";

/** The key by which the cluster works at a replica, once its sidecar has told it. */
const keyOf = ({ memory, seal }: Common, replica: string) => openOwnKey(memory, seal, replica);

/** How long a sidecar may take to take a hint, in ms. */
const hintLimitMs = 2000;

export function runProxy(config: ProxyConfig, io: Io): Promise<number> {
  /** The sidecars are other processes, which are called at the addresses that they announced. */
  let sidecars: SidecarCalls | undefined;
  const sidecarsOf = ({ seal, opened }: Common): SidecarCalls => {
    sidecars ??= new SidecarCalls({
      seal,
      log: opened.log,
      now: systemClock.monotonicMs,
      callLimitMs: hintLimitMs,
    });
    return sidecars;
  };
  const isCluster = config.redis !== undefined;
  return runDoor(
    {
      config,
      caretakers: (common) => ({
        urgent: (replica, key) => sidecarsOf(common).urgent(replica, key),
        suspect: (replica, key) => sidecarsOf(common).suspect(replica, key),
        // What keeps a sidecar from minting is known only there; a token that does not come is waited for.
        isBarred: () => false,
        apiKeyOf: (replica) => keyOf(common, replica),
      }),
      connect: ({ name, origin, basePath }: ReplicaConfig, common) =>
        createJellyfinClient({
          origin,
          basePath,
          apiKey: () => keyOf(common, name),
          callLimitMs: config.apiHoldLimitMs,
          probeLimitMs: config.probeLimitMs,
          connectLimitMs: config.connectLimitMs,
          now: systemClock.monotonicMs,
        }),
      onMembers: (common, members) => sidecarsOf(common).setMembers(members),
      gateUrlOf: isCluster ? (common, replica) => sidecarsOf(common).urlOf(replica) : undefined,
      helpers: (common, proxy) => [
        lookService({ config, common, proxy, calls: isCluster ? sidecarsOf(common) : undefined }),
      ],
    },
    io,
  );
}
