// `jellybloom up`: everything in one process. A door, a sidecar for each replica, and an embedded store or
// Redis. With one replica nothing is minted and everything passes through.

import { journalCursorOf } from "../core/cluster/journal-cursor.ts";
import type { ReplicaConfig } from "../core/cluster/replica.ts";
import { SidecarCalls } from "../core/cluster/sidecar-client.ts";
import type { TaskHands } from "../core/cluster/tasks.ts";
import { createJellyfinClient, type JellyfinClient } from "../core/jellyfin/client.ts";
import { localZone } from "../core/jellyfin/triggers.ts";
import { systemClock } from "../core/service/clock.ts";
import { CannotStart, type Service } from "../core/service/lifecycle.ts";
import { untilAborted } from "../core/service/loop.ts";
import { addressText, isLoopback, urlText } from "../core/service/options.ts";
import { StoreUnavailable } from "../core/store/store.ts";
import type { AssembledProxy } from "../proxy/proxy.ts";
import { createOffice, type Office } from "../sidecar/api.ts";
import { doctorRoute } from "../sidecar/doctor/doctor.ts";
import { gatherFacts } from "../sidecar/facts.ts";
import { findings, isUndecided, type ReplicaFacts } from "../sidecar/findings.ts";
import { journalMetrics } from "../sidecar/journal/journal.ts";
import { DriftWatch } from "../sidecar/library/drift-watch.ts";
import { releaseMonitors } from "../sidecar/library/monitors.ts";
import { Watching } from "../sidecar/library/watching.ts";
import { createDonor } from "../sidecar/seed/donor.ts";
import {
  callLimitFor,
  createSidecar,
  mintResultOf,
  type Sidecar,
  sidecarOptionsFor,
} from "../sidecar/sidecar.ts";
import { releaseTasks } from "../sidecar/tasks/leave.ts";
import { askToLook, remoteHands, taskRoutes } from "../sidecar/tasks/routes.ts";
import { notParkedSentence, Tasks } from "../sidecar/tasks/tasks.ts";
import { type Common, runDoor } from "./door.ts";
import type { Io } from "./io.ts";
import { storeAwayAtStart } from "./look.ts";
import { apiKeyOf, type UpConfig } from "./options.ts";

/** How long the start looks at the servers before it goes on without having seen them all, in ms. */
const factsLimitMs = 3000;
const rivalGraceMs = 3000;
/** The door probes as well and wakes the sidecars, so that they need not look often themselves. */
const sidecarHealthIntervalMs = 5000;

export function runUp(config: UpConfig, io: Io): Promise<number> {
  const callLimitMs = callLimitFor(config.mintLimitMs);
  const connect = ({ name, origin, basePath }: ReplicaConfig): JellyfinClient =>
    createJellyfinClient({
      origin,
      basePath,
      apiKey: apiKeyOf(config.apiKey, name),
      callLimitMs,
      probeLimitMs: config.probeLimitMs,
      connectLimitMs: config.connectLimitMs,
      now: systemClock.monotonicMs,
    });
  const sidecars = new Map<string, Sidecar>();
  const tasks = new Map<string, Tasks>();
  const offices = new Map<string, Office>();
  const watching = new Map<string, Watching>();
  /** Sidecars of other processes, when there is a Redis in which they can be met. */
  let calls: SidecarCalls | undefined;
  const callsOf = ({ seal, opened }: Common): SidecarCalls => {
    calls ??= new SidecarCalls({
      seal,
      log: opened.log,
      now: systemClock.monotonicMs,
      callLimitMs,
    });
    return calls;
  };
  return runDoor(
    {
      config,
      connect,
      lockUrls: config.lockRedis,
      caretakers: () => ({
        urgent: (replica, key) => sidecars.get(replica)?.urgent(key),
        suspect: (replica, key) => sidecars.get(replica)?.suspect(key),
        isBarred: (replica, key) => sidecars.get(replica)?.problems().has(key) ?? false,
        apiKeyOf: (replica) => apiKeyOf(config.apiKey, replica),
      }),
      // The gates are on the admin port of this very process, unless a sidecar elsewhere leads.
      gateUrlOf: (common, replica) =>
        sidecars.get(replica)?.lease.mayAct() !== undefined
          ? common.adminUrl() + sidecarBase(replica)
          : callsOf(common).urlOf(replica),
      onMembers: (common, members) => callsOf(common).setMembers(members),
      helpers(common, proxy) {
        const clients = new Map(config.replica.map((replica) => [replica.name, connect(replica)]));
        const services =
          config.replica.length > 1
            ? sidecarServices(common, proxy, clients)
            : releaseServices(common, clients);
        common.routes.push(
          doctorRoute(
            () =>
              [...clients].map(([name, client]) => ({
                ...{ name, client, hasKey: apiKeyOf(config.apiKey, name) !== undefined },
              })),
            systemClock.wallMs,
            () => common.memory.notes("replica"),
          ),
        );
        return [...services, findingsService(config, common, proxy, clients)];
      },
    },
    io,
  );

  /** A server that was one of several, and is alone now, runs its tasks and watches its folders by itself again. */
  function releaseServices(
    { opened, store, memory, seal }: Common,
    clients: ReadonlyMap<string, JellyfinClient>,
  ): Service[] {
    const directory = config.taskData ?? config.data;
    if (directory === undefined) return [];
    return [...clients].map(([replica, client]) => ({
      name: `what ${replica} does alone`,
      async run(signal) {
        const parts = { client, replica, log: opened.log, retryMs: 5000 };
        await Promise.all([
          releaseTasks({ ...parts, directory }, signal),
          releaseMonitors({ ...parts, store, memory, seal }, signal),
        ]);
        // A service that ends by itself ends the process.
        await untilAborted(new Promise(() => undefined), signal);
      },
    }));
  }

  function sidecarServices(
    common: Common,
    proxy: AssembledProxy,
    clients: ReadonlyMap<string, JellyfinClient>,
  ): Service[] {
    const { opened, store, seal, memory, metrics, version } = common;
    const services = config.replica.map((replica): Service => {
      const client = clients.get(replica.name);
      if (client === undefined) throw new Error(`no client for ${replica.name}`);
      const peers = new Map([...clients].filter(([name]) => name !== replica.name));
      const sidecar = createSidecar({
        name: replica.name,
        client,
        peers: () => peers,
        store,
        seal,
        memory,
        log: opened.log,
        clock: systemClock,
        options: sidecarOptionsFor({
          version,
          url: urlText(replica),
          sidecarUrl: announcedUrl(config, replica.name),
          healthIntervalMs: sidecarHealthIntervalMs,
          mintLimitMs: config.mintLimitMs,
          callLimitMs,
          storeCallLimitMs: config.storeCallLimitMs,
          leaseLimitMs: config.leaseLimitMs,
          recorderAwayLimitMs: config.recorderAwayLimitMs,
          encoderProbe: config.encoderProbe,
        }),
        onMintEnd(end, durationMs) {
          metrics.mints[mintResultOf(end)].add();
          metrics.mintDuration.observe(durationMs);
        },
        journalDirectory: config.taskData ?? config.data,
        journalMetrics: journalMetrics(metrics),
        onHealth: (state) => tasks.get(replica.name)?.noteHealth(state),
        onStarted: () => tasks.get(replica.name)?.noteStarted(),
        onLibraryChanged: (message) => watching.get(replica.name)?.noteLibraryChanged(message),
        onFrozen: () => metrics.freezes.add(),
      });
      sidecars.set(replica.name, sidecar);
      tasks.set(replica.name, tasksOf(common, replica.name, client, sidecar));
      offices.set(replica.name, officeOf(common, replica.name, client, sidecar));
      sidecar.lease.onChange(() => {
        const leads = [...sidecars.values()].some(({ lease }) => lease.mayAct() !== undefined);
        metrics.leader.set(leads ? 1 : 0);
      });
      return { name: `sidecar of ${replica.name}`, run: (signal) => sidecar.run(signal) };
    });
    for (const office of offices.values()) {
      services.push({ name: "office", run: (signal) => office.run(signal) });
    }
    if ((config.taskData ?? config.data) === undefined) opened.log.info(notParkedSentence);
    for (const [name, own] of tasks) {
      services.push(...libraryServices(common, name, own, clients));
      common.notes.push(() => own.desk.held());
      services.push({ name: `tasks of ${name}`, run: (signal) => own.run(signal) });
    }
    proxy.health.onChange((view, before) => {
      for (const [name, { state }] of view.replicas) {
        if (before.replicas.get(name)?.state !== state) sidecars.get(name)?.lookNow();
      }
    });
    return services;
  }

  /** While this replica's sidecar leads, its server watches for all, and it is looked whether all have the same. */
  function libraryServices(
    { opened, store, memory, seal, metrics }: Common,
    name: string,
    own: Tasks,
    clients: ReadonlyMap<string, JellyfinClient>,
  ): Service[] {
    const client = clients.get(name);
    const sidecar = sidecars.get(name);
    if (client === undefined || sidecar === undefined) throw new Error(`no sidecar for ${name}`);
    const others = new Map([...clients].filter(([other]) => other !== name));
    const parts = {
      ...{ replica: name, client, store, memory, seal, log: opened.log, lease: sidecar.lease },
      peers: () => others,
      hands: () => own.allHands(),
    };
    const drift = new DriftWatch({
      ...parts,
      ...{ wallMs: systemClock.wallMs, monotonicMs: systemClock.monotonicMs },
      intervalMs: config.libraryCheckIntervalMs,
      onDrift: (items) => metrics.libraryDriftItems.set(items),
    });
    const watch = new Watching({ ...parts, mode: config.libraryMonitors });
    watching.set(name, watch);
    return [
      { name: `libraries of ${name}`, run: (signal) => drift.run(signal) },
      { name: `watching of ${name}`, run: (signal) => watch.run(signal) },
    ];
  }

  /** What is asked of this replica's sidecar: its gate, and its part in a restart of all. */
  function officeOf(
    { opened, store, seal, memory, proofs, mounts, routes }: Common,
    name: string,
    client: JellyfinClient,
    sidecar: Sidecar,
  ): Office {
    const office = createOffice({
      ...{ replica: name, client, store, memory, sidecar, clock: systemClock, log: opened.log },
      verifier: proofs,
      desk: () => tasks.get(name)?.deskNow(),
      replicas: () => config.replica.map((replica) => replica.name),
      restartElsewhere: async (other, order) => offices.get(other)?.restart(order),
    });
    const base = sidecarBase(name);
    mounts.push({ ...office.gate, prefix: base + office.gate.prefix });
    const donor = createDonor({
      ...{ replica: name, store, memory, seal, verifier: proofs, log: opened.log },
      folder: config.server.find((server) => server.name === name)?.path,
      position: () => journalCursorOf(memory.notes("replica"), name),
    });
    mounts.push({ ...donor.mount, prefix: base + donor.mount.prefix });
    const asked = [
      ...office.routes,
      ...taskRoutes(
        () => tasks.get(name)?.hands,
        () => tasks.get(name)?.desk.wake(),
      ),
      ...donor.routes,
    ];
    routes.push(...asked.map((route) => ({ ...route, path: base + route.path })));
    return office;
  }

  /** The cluster's scheduled tasks as far as they are this replica's, and its desk while it leads. */
  function tasksOf(common: Common, name: string, client: JellyfinClient, sidecar: Sidecar): Tasks {
    const { opened, store, memory, metrics } = common;
    /** Replicas that have a sidecar of their own in another process. */
    const elsewhere = () => (calls?.names ?? []).filter((other) => !tasks.has(other));
    return new Tasks({
      ...{ replica: name, client, store, memory, log: opened.log, clock: systemClock },
      lease: sidecar.lease,
      sight: () => sidecar.sight(),
      directory: config.taskData ?? config.data,
      replicasCount: () => config.replica.length + elsewhere().length,
      others() {
        const others = new Map<string, TaskHands | undefined>();
        for (const other of elsewhere()) others.set(other, remoteHands(callsOf(common), other));
        for (const [other, { hands }] of tasks) if (other !== name) others.set(other, hands);
        return others;
      },
      zone: config.timeZone ?? localZone(),
      mediaFolders: config.media,
      lossLimit: config.scanLossLimitPercent / 100,
      hurryLeader() {
        for (const { desk } of tasks.values()) desk.wake();
        const leader = memory.lease?.replica ?? "";
        if (leader !== "" && !tasks.has(leader)) askToLook(callsOf(common), leader);
      },
      onStart: (outcome) => metrics.taskStarts[outcome].add(),
      onHeld(count) {
        if (sidecar.lease.mayAct() !== undefined) metrics.tasksHeld.set(count);
      },
    });
  }
}

/** Where the sidecar of one replica is on the admin port, which several share. */
function sidecarBase(replica: string): string {
  return `/jellybloom/of/${replica}`;
}

/** Where other processes find that sidecar; without Redis there are none. */
function announcedUrl({ redis, admin }: UpConfig, replica: string): string {
  if (redis === undefined || admin.host === "" || admin.port === 0) return "";
  return `http://${addressText(admin)}${sidecarBase(replica)}`;
}

/**
 * Looks at the servers and says what is different and what it means. What is unsafe is refused before the
 * door opens; that is why a door beyond loopback waits for this look, and one on loopback does not.
 */
function findingsService(
  config: UpConfig,
  common: Common,
  proxy: AssembledProxy,
  clients: ReadonlyMap<string, JellyfinClient>,
): Service {
  const { store, opened, life } = common;
  const listensBeyondLoopback = !isLoopback(config.listen);
  const context = { listensBeyondLoopback };

  async function look(names: readonly string[]): Promise<readonly ReplicaFacts[]> {
    const asked = config.replica.flatMap(({ name }) => {
      const client = names.includes(name) ? clients.get(name) : undefined;
      const hasKey = apiKeyOf(config.apiKey, name) !== undefined;
      return client === undefined ? [] : [{ name, client, hasKey }];
    });
    const clusterId = await clusterIdNow();
    // One that is looked at later is shown by its sidecar.
    const showAs = asked.length > 1 ? common.version : undefined;
    return await gatherFacts(asked, { clusterId, limitMs: factsLimitMs, rivalGraceMs, showAs });
  }

  /** Undefined while the store cannot be reached: the sidecars see rivals when it can. */
  async function clusterIdNow(): Promise<string | undefined> {
    try {
      return await store.clusterId();
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      opened.log.warn(storeAwayAtStart);
      return undefined;
    }
  }

  function tell(facts: readonly ReplicaFacts[]): void {
    for (const { severity, sentence } of findings(facts, context)) {
      if (severity === "refuse") throw new CannotStart(sentence, 2);
      opened.log.warn(sentence);
    }
    for (const fact of facts) if (isUndecided(fact)) lookAgainAt(fact.name);
  }

  /** A server that could not be judged is judged when it is there, and then still refused if unsafe. */
  function lookAgainAt(name: string): void {
    const stop = proxy.health.onChange((view) => {
      if (view.replicas.get(name)?.state !== "ready") return;
      stop();
      void look([name]).then((facts) => judgeLater(facts));
    });
  }

  function judgeLater(facts: readonly ReplicaFacts[]): void {
    try {
      tell(facts);
    } catch (error) {
      if (!(error instanceof CannotStart)) throw error;
      opened.log.fatal(error.message);
      life.end(error.exitCode);
    }
  }

  const names = config.replica.map(({ name }) => name);
  return {
    name: "findings",
    async start() {
      const first = look(names);
      if (listensBeyondLoopback) tell(await first);
      else void first.then(judgeLater);
    },
  };
}
