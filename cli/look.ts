// What `jellybloom proxy` looks at before it opens, as `up` does: server ids, versions, QuickConnect, base URLs,
// and whether the servers know the door as a proxy. A door of its own has no API key, so the last is asked of the
// servers' sidecars. What is unsafe when the door starts is refused; what becomes unsafe later is only shouted,
// because one bad newcomer must not take the door away from everybody.

import { knownProxiesPath, readKnownProxies } from "../core/cluster/known-proxies.ts";
import { verifyMember } from "../core/cluster/member.ts";
import type { SidecarCalls } from "../core/cluster/sidecar-client.ts";
import { createJellyfinClient } from "../core/jellyfin/client.ts";
import { systemClock } from "../core/service/clock.ts";
import { CannotStart, type Service } from "../core/service/lifecycle.ts";
import { httpUrl, isLoopback, type NamedUrl } from "../core/service/options.ts";
import { type Member, StoreUnavailable } from "../core/store/store.ts";
import type { AssembledProxy } from "../proxy/proxy.ts";
import { gatherFacts, namesAddress } from "../sidecar/facts.ts";
import { findings, type ReplicaFacts } from "../sidecar/findings.ts";
import type { Common } from "./door.ts";
import type { ProxyConfig } from "./options.ts";

/** How long the start looks at the servers before it goes on without having seen them all, in ms. */
const factsLimitMs = 3000;
/** What a command that looks at servers says when it cannot know which cluster it is in. */
export const storeAwayAtStart =
  "the store cannot be reached: whether another Jellybloom keeps the server is seen later";

export interface LookParts {
  readonly config: ProxyConfig;
  readonly common: Common;
  readonly proxy: AssembledProxy;
  /** Undefined without Redis: then there are no sidecars to be asked. */
  readonly calls: SidecarCalls | undefined;
}

/** A service that looks at the servers before the door opens, and at each that comes later when it is ready. */
export function lookService({ config, common, proxy, calls }: LookParts): Service {
  const { store, seal, opened, life } = common;
  const listensBeyondLoopback = !isLoopback(config.listen);
  const seen = new Map<string, ReplicaFacts>();
  const told = new Set<string>();

  async function membersNow(): Promise<readonly Member[]> {
    try {
      return (await store.members()).filter((member) => verifyMember(seal, member));
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      return [];
    }
  }

  async function look(
    servers: readonly Pick<NamedUrl, "name" | "origin" | "basePath">[],
  ): Promise<void> {
    const asked = servers.map(({ name, origin, basePath }) => ({
      name,
      hasKey: false,
      client: createJellyfinClient({
        ...{ origin, basePath, callLimitMs: factsLimitMs },
        ...{ probeLimitMs: config.probeLimitMs, connectLimitMs: config.connectLimitMs },
        now: systemClock.monotonicMs,
      }),
    }));
    try {
      const options = { clusterId: undefined, limitMs: factsLimitMs, rivalGraceMs: 0 };
      const facts = await gatherFacts(asked, options);
      for (const fact of await Promise.all(facts.map(withProxies))) seen.set(fact.name, fact);
    } finally {
      await Promise.all(asked.map(({ client }) => client.close()));
    }
  }

  async function withProxies(facts: ReplicaFacts): Promise<ReplicaFacts> {
    const { doorAddress } = facts;
    const answer = await calls?.call(facts.name, knownProxiesPath, {});
    const knownProxies = answer?.outcome === "ok" ? readKnownProxies(answer.body) : undefined;
    if (knownProxies === undefined || doorAddress === undefined) return facts;
    const proxiesNameDoor = await namesAddress(knownProxies, doorAddress);
    return {
      ...facts,
      network: { baseUrl: "", knownProxies, enableRemoteAccess: true },
      // Between the two an address may be translated, so that only a server which knows no proxy at all is known
      // not to know this one.
      proxiesNameDoor: proxiesNameDoor || (knownProxies.length === 0 ? false : undefined),
    };
  }

  /** The first sentence that forbids to serve; what is only worth knowing is logged once. */
  function judge(): string | undefined {
    const all = findings([...seen.values()], { listensBeyondLoopback });
    for (const { severity, sentence } of all) {
      if (severity === "refuse" || told.has(sentence)) continue;
      told.add(sentence);
      opened.log.warn(sentence);
    }
    return all.find(({ severity }) => severity === "refuse")?.sentence;
  }

  function judgeLater(): void {
    const refused = judge();
    if (refused === undefined || told.has(refused)) return;
    told.add(refused);
    opened.log.error(refused);
  }

  async function first(): Promise<void> {
    const members = await membersNow();
    calls?.setMembers(members);
    const servers = new Map(config.replica.map((replica) => [replica.name, replica]));
    for (const { replica: name, url } of members) {
      const read = httpUrl.parse(url);
      if ("value" in read && !servers.has(name)) servers.set(name, { name, ...read.value });
    }
    await look([...servers.values()]);
  }

  return {
    name: "findings",
    async start() {
      const looked = first().then(judge);
      if (listensBeyondLoopback) {
        const refused = await looked;
        if (refused !== undefined) throw new CannotStart(refused, 2);
      } else {
        void looked.then((refused) => {
          if (refused === undefined) return;
          opened.log.fatal(refused);
          life.end(2);
        });
      }
      let later: Promise<unknown> = looked;
      proxy.health.onChange((view) => {
        const ready = [...view.replicas].filter(([, { state }]) => state === "ready");
        later = later.then(async () => {
          const fresh = ready.filter(([name]) => seen.get(name)?.health !== "healthy");
          if (fresh.length === 0) return;
          await look(fresh.map(([, { config: replica }]) => replica));
          judgeLater();
        });
      });
    },
  };
}
