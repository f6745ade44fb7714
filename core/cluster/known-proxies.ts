// Which proxies a server knows, as its sidecar tells doors: a door of its own has no API key to ask with, and a
// server that does not know the door takes every visitor for a local one.

import type { JellyfinClient } from "../jellyfin/client.ts";
import type { GuardedRoute } from "../service/health.ts";
import { isRecord } from "../service/json.ts";

export const knownProxiesPath = "/jellybloom/known-proxies";

/** More than any owner lists. */
const proxiesLimit = 256;

/** `POST /jellybloom/known-proxies`, without a body: `{knownProxies}`; 503 when the server does not tell. */
export function knownProxiesRoute(client: JellyfinClient): GuardedRoute {
  return {
    method: "POST",
    path: knownProxiesPath,
    async answer() {
      const answer = await client.networkConfiguration();
      if (answer.outcome === "ok") {
        return { status: 200, body: { knownProxies: answer.network.knownProxies } };
      }
      return { status: 503, body: { error: "the server does not tell which proxies it knows" } };
    },
  };
}

/** The proxies from an answer; undefined when it is none. */
export function readKnownProxies(body: unknown): readonly string[] | undefined {
  if (!isRecord(body) || !Array.isArray(body.knownProxies)) return undefined;
  return body.knownProxies.filter((entry) => typeof entry === "string").slice(0, proxiesLimit);
}
