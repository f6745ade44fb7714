// `jellybloom sidecar`: the caretaker of one server as a process of its own, which meets the doors and the
// other sidecars in Redis. Its port serves /jellybloom/live, /ready and /metrics.

import { decidingRoute } from "../core/cluster/deciding.ts";
import { journalCursorOf } from "../core/cluster/journal-cursor.ts";
import { knownProxiesRoute } from "../core/cluster/known-proxies.ts";
import { verifyMember } from "../core/cluster/member.ts";
import { Memory } from "../core/cluster/memory.ts";
import { openOwnKey } from "../core/cluster/own-keys.ts";
import { restartPath, SidecarCalls } from "../core/cluster/sidecar-client.ts";
import { createJellyfinClient } from "../core/jellyfin/client.ts";
import { localZone } from "../core/jellyfin/triggers.ts";
import { systemClock } from "../core/service/clock.ts";
import { createAdminServer, type GuardedRoute, type Readiness } from "../core/service/health.ts";
import { CannotStart, Life, type Service } from "../core/service/lifecycle.ts";
import { openLog } from "../core/service/log.ts";
import { createMetrics } from "../core/service/metrics.ts";
import { addressText, urlText } from "../core/service/options.ts";
import { createSeal } from "../core/service/seal.ts";
import { openRedisStore } from "../core/store/redis.ts";
import { StoreNotOpened, StoreUnavailable } from "../core/store/store.ts";
import { createOffice, readRestartState } from "../sidecar/api.ts";
import { doctorRoute } from "../sidecar/doctor/doctor.ts";
import { gatherFacts } from "../sidecar/facts.ts";
import { differences, findings } from "../sidecar/findings.ts";
import { journalMetrics } from "../sidecar/journal/journal.ts";
import { DriftWatch } from "../sidecar/library/drift-watch.ts";
import { Watching } from "../sidecar/library/watching.ts";
import { Peers } from "../sidecar/peers.ts";
import { createDonor } from "../sidecar/seed/donor.ts";
import {
  callLimitFor,
  createSidecar,
  mintResultOf,
  sidecarOptionsFor,
} from "../sidecar/sidecar.ts";
import { askToLook, remoteHands, taskRoutes } from "../sidecar/tasks/routes.ts";
import { notParkedSentence, Tasks } from "../sidecar/tasks/tasks.ts";
import type { Io } from "./io.ts";
import { storeAwayAtStart } from "./look.ts";
import type { SidecarConfig } from "./options.ts";
import { packageVersion } from "./version.ts";

const tokensRemembered = 10_000;
const storeRetryMs = 500;
const changesKept = 10_000;
const revokedKeepMs = 30 * 24 * 3_600_000;
const peersLimit = 32;
/** How long the start looks at its server before it goes on without having seen it, in ms. */
const factsLimitMs = 3000;
const rivalGraceMs = 3000;
const proofWindowMs = 30_000;
const proofNoncesKept = 10_000;

export async function runSidecar(config: SidecarConfig, io: Io): Promise<number> {
  const version = packageVersion();
  const opened = openLog({ level: config.logLevel, format: config.logFormat, fd: 1 });
  const { log } = opened;
  const seal = createSeal(config.clusterKey);
  const { monotonicMs } = systemClock;
  const metrics = createMetrics(version);
  const callLimitMs = callLimitFor(config.mintLimitMs);
  const connect = (origin: string, basePath: string, apiKey?: string) =>
    createJellyfinClient({
      origin,
      basePath,
      apiKey,
      callLimitMs,
      probeLimitMs: config.probeLimitMs,
      connectLimitMs: config.connectLimitMs,
      now: monotonicMs,
    });

  const limits = {
    changesKept,
    revokedKeepMs,
    callLimitMs: config.storeCallLimitMs,
    journalKept: config.journalKept,
  };
  let store: Awaited<ReturnType<typeof openRedisStore>>;
  try {
    store = await openRedisStore({ url: config.redis, limits, lockUrls: config.lockRedis });
  } catch (error) {
    if (!(error instanceof StoreNotOpened)) throw error;
    io.err(`${error.message}\n`);
    await opened.close();
    return 1;
  }
  const memory = new Memory({ store, seal, log, tokensRemembered, storeRetryMs });
  const keyOf = (replica: string) => openOwnKey(memory, seal, replica);
  const peers = new Peers({ replica: config.name, seal, connect, keyOf, log, peersLimit });
  const client = connect(config.jellyfin.origin, config.jellyfin.basePath, config.apiKey);
  const calls = new SidecarCalls({ seal, log, now: monotonicMs, callLimitMs });
  const sidecar = createSidecar({
    name: config.name,
    client,
    peers: () => peers.clients,
    store,
    seal,
    memory,
    log,
    clock: systemClock,
    options: sidecarOptionsFor({
      version,
      url: urlText(config.advertise ?? config.jellyfin),
      sidecarUrl: sidecarUrlOf(config),
      healthIntervalMs: config.probeIntervalMs,
      mintLimitMs: config.mintLimitMs,
      callLimitMs,
      storeCallLimitMs: config.storeCallLimitMs,
      leaseLimitMs: config.leaseLimitMs,
      recorderAwayLimitMs: config.recorderAwayLimitMs,
      encoderProbe: config.encoderProbe,
    }),
    ...(config.podUid !== undefined && { podUid: config.podUid }),
    async onMembers(members) {
      calls.setMembers(members.filter(({ replica }) => replica !== config.name));
      if (await peers.update(members)) {
        sidecar.peersChanged();
        tasks.peersChanged();
        watching.peersChanged();
      }
    },
    collectEpoch: () => calls.highestEpochSeen(),
    onMintEnd(end, durationMs) {
      metrics.mints[mintResultOf(end)].add(1);
      metrics.mintDuration.observe(durationMs);
    },
    journalDirectory: config.taskData,
    journalMetrics: journalMetrics(metrics),
    onHealth: (state) => tasks.noteHealth(state),
    onStarted: () => tasks.noteStarted(),
    onLibraryChanged: (message) => watching.noteLibraryChanged(message),
    onFrozen: () => metrics.freezes.add(),
  });
  const tasks = new Tasks({
    ...{ replica: config.name, client, store, memory, log, clock: systemClock },
    lease: sidecar.lease,
    sight: () => sidecar.sight(),
    directory: config.taskData,
    replicasCount: () => peers.clients.size + 1,
    others: () => new Map(calls.names.map((name) => [name, remoteHands(calls, name)])),
    zone: config.timeZone ?? localZone(),
    mediaFolders: config.media,
    lossLimit: config.scanLossLimitPercent / 100,
    hurryLeader() {
      const leader = memory.lease?.replica ?? "";
      if (leader === config.name) tasks.desk.wake();
      else if (leader !== "") askToLook(calls, leader);
    },
    onStart: (outcome) => metrics.taskStarts[outcome].add(),
    onHeld: (count) => metrics.tasksHeld.set(count),
  });
  const libraries = new DriftWatch({
    ...{ replica: config.name, client, store, memory, seal, log, lease: sidecar.lease },
    ...{ wallMs: systemClock.wallMs, monotonicMs },
    peers: () => peers.clients,
    hands: () => tasks.allHands(),
    intervalMs: config.libraryCheckIntervalMs,
    onDrift: (items) => metrics.libraryDriftItems.set(items),
  });

  const watching = new Watching({
    ...{ replica: config.name, client, store, memory, seal, log, lease: sidecar.lease },
    mode: config.libraryMonitors,
    peers: () => peers.clients,
    hands: () => tasks.allHands(),
  });

  const proofs = seal.createProofVerifier({
    windowMs: proofWindowMs,
    noncesKept: proofNoncesKept,
    now: systemClock.wallMs,
  });
  const office = createOffice({
    replica: config.name,
    client,
    store,
    memory,
    sidecar,
    clock: systemClock,
    log,
    verifier: proofs,
    desk: () => tasks.deskNow(),
    replicas: () => [config.name, ...peers.clients.keys()],
    async restartElsewhere(other, order) {
      const answer = await calls.call(other, restartPath, { order });
      return answer.outcome === "ok" ? readRestartState(answer.body) : undefined;
    },
  });
  const guardedRoutes: GuardedRoute[] = [
    ...office.routes,
    ...taskRoutes(
      () => tasks.hands,
      () => tasks.desk.wake(),
    ),
  ];
  guardedRoutes.push(
    doctorRoute(
      () =>
        [...new Map([[config.name, client], ...peers.clients])].map(([name, server]) => ({
          ...{ name, client: server, hasKey: true },
        })),
      systemClock.wallMs,
      () => memory.notes("replica"),
    ),
    knownProxiesRoute(client),
  );
  const donor = createDonor({
    ...{ replica: config.name, folder: config.server, store, memory, seal, verifier: proofs, log },
    position: () => journalCursorOf(memory.notes("replica"), config.name),
  });
  const replicas = (): string[] => [config.name, ...peers.clients.keys()];
  guardedRoutes.push(...donor.routes, decidingRoute({ store, memory, seal, replicas }));

  memory.onStoreLoss(() => metrics.storeLosses.add());
  sidecar.lease.onChange((epoch) => metrics.leader.set(epoch === undefined ? 0 : 1));

  if (config.taskData === undefined) log.info(notParkedSentence);

  const life = new Life({
    unreadyWaitMs: 0,
    drainLimitMs: config.drainLimitMs,
    log,
    events: process,
    exit: (code) => {
      opened.flush();
      process.exit(code);
    },
  });

  const readiness = (): Readiness => {
    const { health, reason, rival } = sidecar.sight();
    const behind = sidecar.behind();
    const notes = [
      ...(behind === undefined ? [] : [behind]),
      ...new Set(sidecar.problems().values()),
      ...tasks.desk.held(),
    ];
    const own = life.unreadyReason() ?? rival ?? null;
    if (own !== null) return { reason: own, notes };
    if (!memory.storeAvailable) return { reason: "the store cannot be reached", notes };
    return {
      reason: health === "healthy" ? null : `server ${config.name} is not healthy: ${reason}`,
      notes,
    };
  };

  const services: Service[] = [
    createAdminServer({
      address: config.listen,
      readiness,
      metricsText: metrics.text,
      guardedRoutes,
      mounts: [office.gate, donor.mount],
      verifyProof: (header, call) => proofs.verify(header, call),
      log,
    }),
    {
      name: "findings",
      // Only what is unsafe now keeps the sidecar from starting; a store or a server that is away does not.
      start: async () => await refuseWhatCannotWork(),
    },
    { name: "memory", run: (signal) => memory.run(signal) },
    { name: "sidecar", run: (signal) => sidecar.run(signal) },
    { name: "tasks", run: (signal) => tasks.run(signal) },
    { name: "libraries", run: (signal) => libraries.run(signal) },
    { name: "watching", run: (signal) => watching.run(signal) },
    { name: "office", run: (signal) => office.run(signal) },
  ];

  async function refuseWhatCannotWork(): Promise<void> {
    let clusterId: string;
    try {
      clusterId = await store.clusterId();
      for (const warning of await store.warnings()) log.warn(warning);
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      log.warn(storeAwayAtStart);
      return;
    }
    const facts = await gatherFacts([{ name: config.name, client, hasKey: true }], {
      clusterId,
      limitMs: factsLimitMs,
      rivalGraceMs,
      showAs: version,
    });
    // The addresses of visitors are the doors' concern: the sidecar's own say nothing about them.
    const judged = facts.map((fact) => ({ ...fact, forwarding: "honoured" as const }));
    const found = [
      ...findings(judged, { listensBeyondLoopback: false }),
      ...differences([...(await othersNow()), ...facts]),
    ];
    for (const { severity, sentence } of found) {
      if (severity === "refuse") throw new CannotStart(sentence, 2);
      log.warn(sentence);
    }
  }

  /** The other replicas by what their sidecars announced: a server of another household must not join them. */
  async function othersNow() {
    // A store that has gone meanwhile tells of nobody; the next start looks again.
    const members = await store.members().catch(() => []);
    return members
      .filter((member) => member.replica !== config.name && verifyMember(seal, member))
      .map(({ replica: name, serverId: id, serverVersion: version }) => ({
        name,
        info:
          id === ""
            ? undefined
            : { id, version, name, startupWizardCompleted: true, localAddress: "" },
      }));
  }

  const exitCode = await life.run(services);
  await Promise.all([client.close(), peers.close(), store.close()]);
  await opened.close();
  return exitCode;
}

/**
 * Where doors reach this sidecar. One that listens on every address of its machine is reached by the name of
 * the server beside it, since the two stand side by side.
 */
function sidecarUrlOf({ listen, advertise, jellyfin }: SidecarConfig): string {
  const isAny = listen.host === "" || listen.host === "0.0.0.0" || listen.host === "::";
  const host = isAny ? new URL((advertise ?? jellyfin).origin).hostname : listen.host;
  return `http://${addressText({ host: host.replace(/^\[|\]$/g, ""), port: listen.port })}`;
}
