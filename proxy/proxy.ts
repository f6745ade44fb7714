// The proxy put together: the door's HTTP server, what it knows, and the watchers that keep it known. It
// runs as `jellybloom proxy`, and inside `jellybloom up` beside the sidecars; it never imports those, it
// only calls what it is handed (Caretakers).

import { Resolver } from "node:dns/promises";
import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerResponse,
  STATUS_CODES,
} from "node:http";
import { createServer as createNetServer, type Server as NetServer } from "node:net";
import type { Duplex } from "node:stream";
import { type Condition, conditionOf } from "../core/cluster/condition.ts";
import { drainingRoutes } from "../core/cluster/draining.ts";
import { type Encoders, failingEncoders } from "../core/cluster/encoder.ts";
import { verifyMember } from "../core/cluster/member.ts";
import type { Memory } from "../core/cluster/memory.ts";
import { readPlay } from "../core/cluster/plays.ts";
import type { ReplicaConfig } from "../core/cluster/replica.ts";
import { isQuarantined, quarantineNoteId } from "../core/cluster/truth.ts";
import { userAliasesOf } from "../core/cluster/user-aliases.ts";
import { readyNames, stateOf } from "../core/cluster/view.ts";
import type { JellyfinClient } from "../core/jellyfin/client.ts";
import { baseSegmentsOf } from "../core/jellyfin/paths.ts";
import type { Clock } from "../core/service/clock.ts";
import { type GuardedRoute, listen, type Readiness } from "../core/service/health.ts";
import { parsedObject } from "../core/service/json.ts";
import type { Service } from "../core/service/lifecycle.ts";
import type { OpenLog } from "../core/service/log.ts";
import { repeat, sleep } from "../core/service/loop.ts";
import { type Metrics, statusClass } from "../core/service/metrics.ts";
import type { Address } from "../core/service/options.ts";
import type { Seal } from "../core/service/seal.ts";
import { youngLimit } from "../core/service/young.ts";
import { type Member, type Store, StoreUnavailable } from "../core/store/store.ts";
import type { Attendant } from "./attendant.ts";
import { createApiKeysAttendant } from "./attendants/api-keys.ts";
import { createDeletedFiles } from "./attendants/deleted-files.ts";
import { createGateAttendant } from "./attendants/gate.ts";
import { type EntryWriter, Journal, journalLimits } from "./attendants/journal.ts";
import { createLists } from "./attendants/lists.ts";
import { createLoginNews } from "./attendants/login-news.ts";
import { Made, madeLimits } from "./attendants/made.ts";
import { createMonitorsAttendant } from "./attendants/monitors.ts";
import { createPasswordReset } from "./attendants/password-reset.ts";
import { Plays, playsLimits } from "./attendants/plays.ts";
import { createQuickConnect } from "./attendants/quick-connect.ts";
import { createRefresh } from "./attendants/refresh.ts";
import { createSessions } from "./attendants/sessions.ts";
import { SyncPlay } from "./attendants/sync-play.ts";
import { createTaskAttendant } from "./attendants/tasks.ts";
import { Television } from "./attendants/television.ts";
import { Balancer } from "./balancer.ts";
import { createDiscovery } from "./discovery.ts";
import { type DnsName, dnsIntervalMs, findByDns } from "./dns.ts";
import { headProblem } from "./facts.ts";
import { clientOrigin, plainAddress, trustedProxies } from "./headers.ts";
import { Health } from "./health.ts";
import { Homes } from "./homes.ts";
import { IdSwaps } from "./id-swaps.ts";
import { createSocketLane, type SocketLane } from "./lanes/socket.ts";
import { Links } from "./links.ts";
import { Logins } from "./logins.ts";
import type { Caretakers, DoorLimits, DoorParts } from "./parts.ts";
import { newPlaces } from "./place.ts";
import { PlainConnections } from "./plain.ts";
import { Pushes, pushesLimits } from "./pushes.ts";
import { Roster, sameReplicas } from "./roster.ts";
import { SegmentMemory } from "./segments.ts";
import { Door } from "./server.ts";
import { skewOf } from "./skew.ts";
import { createSocketHost } from "./sockets.ts";
import { readinessOf, statusOf } from "./status.ts";

export interface ProxyConfig extends DoorLimits {
  readonly listen: Address;
  readonly publicUrl: { readonly origin: string; readonly basePath: string } | undefined;
  readonly discovery: boolean;
  readonly discoveryListen: Address;
  readonly trustedProxies: readonly string[];
  readonly replica: readonly ReplicaConfig[];
  readonly prefer: string | undefined;
  readonly preferAfterMs: number;
  readonly returnAfterMs: number;
  readonly homeStayMs: number;
  readonly discover?: readonly DnsName[];
  readonly forgetAfterMs?: number;
  readonly quickConnect: boolean;
  readonly explainHeader: boolean;
  readonly legacyTokens: "translate" | "pass";
  readonly silenceLimitMs: number;
  readonly probeIntervalMs: number;
  readonly quietProbeIntervalMs: number;
  readonly segmentMemoryLimitBytes: number;
  readonly segmentKeepMs: number;
  readonly headerLimitBytes: number;
  readonly headersTimeLimitMs: number;
  readonly requestTimeLimitMs: number;
  readonly journalWaitLimitMs: number;
  readonly clientStallLimitMs: number;
  readonly keepAliveLimitMs: number;
  readonly connectionsLimit: number;
  readonly replicaConnectionsLimit: number;
  readonly replicaIdleLimitMs: number;
  readonly socketIdleLimitMs: number;
  readonly socketMessageLimitBytes: number;
}

export interface ProxyParts {
  readonly config: ProxyConfig;
  readonly store: Store;
  readonly memory: Memory;
  readonly seal: Seal;
  readonly metrics: Metrics;
  readonly log: OpenLog;
  readonly clock: Clock;
  readonly caretakers: Caretakers;
  /** A client for our own calls to a replica, probes included. Closed by the proxy when it goes. */
  readonly connect: (config: ReplicaConfig) => JellyfinClient;
  /** Who writes the journal's entries; undefined: changes are not written down. */
  readonly journal?: EntryWriter | undefined;
  /** Told of the registry's members whose proof holds, whenever it was read. */
  readonly onMembers?: (members: readonly Member[]) => void;
  /** Where that replica's gate is reached, as far as that is proven; left out where nobody can lead. */
  readonly gateUrlOf?: ((replica: string) => string | undefined) | undefined;
}

export interface AssembledProxy {
  /** In the order in which they start; they stop in the other. */
  readonly services: readonly Service[];
  readonly health: Health;
  readonly door: Door;
  readiness(): Readiness;
  /** `POST /jellybloom/explain`. */
  readonly guardedRoutes: readonly GuardedRoute[];
  /** The port that was bound, after the start. */
  boundPort(): number;
}

const sweepIntervalMs = 1000;
/** With 64 requests under way a larger young generation saves nothing that can be measured. */
const youngLimitBytes = 64 * 1024 * 1024;
/** What changes is told at once; this is for what others tell, and for a store that went away silently. */
const meetIntervalMs = 2000;
const sightTtlMs = 5000;
const loadLimitMs = 1000;
/** A token that nobody knows waits so long at most until every replica was looked at for the first time. */
const firstLookLimitMs = 3000;
/** How long what people do is left to end by itself when a replica drains and nothing else was said. */
const replicaDrainLimitMs = 10_000;
const forgetAfterMs = 10 * 60_000;
/** A backup of a large library takes minutes. */
const gateAnswerLimitMs = 10 * 60_000;
/** An init segment is asked for once and needed as long as the film is played. */
const keepInitMs = 6 * 3_600_000;
const silentProbes = 2;
/** Apps that are open ask for something more often than this. */
const quietAfterMs = 60_000;
const upstreamKeepAliveMs = 30_000;
const mebibyte = 1024 * 1024;

export function createProxy(parts: ProxyParts): AssembledProxy {
  const { config, store, memory, seal, metrics, log, clock, caretakers } = parts;
  const clients = new Map<string, JellyfinClient>();
  const health = new Health({
    probeIntervalMs: config.probeIntervalMs,
    quietProbeIntervalMs: config.quietProbeIntervalMs,
    quietAfterMs,
    isInUse: () => door.running > 0 || sockets.open > 0,
    silentProbes,
    log: log.log,
    metrics,
    clock,
    clientOf(replica) {
      const client = parts.connect(replica);
      clients.set(replica.name, client);
      return client;
    },
    whyUnfit: (replica) => isQuarantined(memory.notes("replica"), replica),
  });
  memory.onNote(({ kind, id, replica }) => {
    if (kind === "replica" && id === quarantineNoteId(replica)) health.suspect(replica);
  });
  const links = new Links(config, clock.monotonicMs, (replica) => health.suspect(replica));
  const homes = new Homes({ store, memory, log: log.log, metrics, meet: () => meet() });
  const segments = new SegmentMemory({
    limitBytes: config.segmentMemoryLimitBytes,
    keepMs: config.segmentKeepMs,
    keepInitMs,
    now: clock.monotonicMs,
    gauge: metrics.segmentMemoryBytes,
  });
  const aliases = userAliasesOf(memory, seal);
  const idSwaps = new IdSwaps(aliases);
  const loginNews =
    parts.journal === undefined
      ? undefined
      : createLoginNews({
          ...{ writer: parts.journal, seal, memory, clock, log: log.log },
          isCluster: () => health.view.replicas.size > 1,
        });
  const logins = new Logins({
    store,
    memory,
    seal,
    onRecognised: (identity, replica) => loginNews?.noteLogin(identity, replica),
    knownId: (replica, userId) => aliases.knownId(replica, userId),
    log: log.log,
    metrics,
    now: clock.monotonicMs,
    replicaNames: () => [...health.view.replicas.keys()],
    readyClients: () => door.screen.readyClients(),
    everyFirstLook: () => health.everyFirstLook(firstLookLimitMs),
    unknownKeepMs: 2000,
    unknownLimit: 10_000,
    recognitionsLimit: 256,
  });
  const basePath = config.replica[0]?.basePath ?? "";
  const roster = new Roster(config.replica, config.forgetAfterMs ?? forgetAfterMs);
  const resolver = new Resolver({ timeout: dnsIntervalMs, tries: 1 });
  const balancer = new Balancer({
    store,
    foreignTo: (userId, replicas) => idSwaps.foreignTo(userId, replicas),
    memory,
    health,
    homes,
    links,
    caretakers,
    clock,
    log: log.log,
    seats: () => sockets.seats(),
    leave: (replica, all) => sockets.leave(replica, all),
    isBound: (userId) => syncPlay.isMember(userId),
    prefer: config.prefer,
    preferAfterMs: config.preferAfterMs,
    returnAfterMs: config.returnAfterMs,
    homeStayMs: config.homeStayMs,
  });
  const plays = new Plays({
    store,
    memory,
    homes,
    log: log.log,
    clock,
    metrics: { takeovers: metrics.playTakeovers, encoderFailures: metrics.encoderFailures },
    clientOf: (replica) => clients.get(replica),
    isReady: (replica) => stateOf(health.view, replica) === "ready",
    isDraining: (replica) => health.view.replicas.get(replica)?.isDraining === true,
    encoders: () => encodersNow(),
    limits: playsLimits,
  });

  /** For how long a replica has not been ready, in ms. */
  function goneForMs(replica: string): number {
    const seen = health.view.replicas.get(replica);
    if (seen === undefined) return Number.POSITIVE_INFINITY;
    return seen.state === "ready" ? 0 : Math.max(1, clock.monotonicMs() - seen.sinceMs);
  }

  const television = new Television({
    store,
    memory,
    log: log.log,
    clock,
    owner: homes.owner,
    plays,
    clientOf: (replica) => clients.get(replica),
    isReady: (replica) => stateOf(health.view, replica) === "ready",
    openNames: () => newPlaces(readyNames(health.view), health.view),
    isReachedByOthers: (replica) => homes.isReachedByOthers(replica),
    goneForMs,
  });
  health.onChange((view, before) => {
    for (const [name, { state }] of view.replicas) {
      const wasReady = before.replicas.get(name)?.state === "ready";
      if (wasReady && state !== "ready") television.noteGone(name);
    }
  });

  /** Which encoders there are now, for plays that begin or go on elsewhere. */
  function encodersNow(): Encoders {
    const conditions = new Map<string, Condition>();
    const notes = memory.notes("replica");
    for (const name of health.view.replicas.keys()) conditions.set(name, conditionOf(notes, name));
    const known = [...memory.notes("play").values()].map(readPlay);
    const failing = failingEncoders(
      conditions,
      known.filter((play) => play !== undefined),
      clock.wallMs(),
    );
    return { names: readyNames(health.view), conditions, failing };
  }
  const { publicUrl } = config;
  const gates =
    parts.gateUrlOf === undefined ? [] : [gateAttendant(parts, parts.gateUrlOf, health)];
  const syncPlay = new SyncPlay({
    store,
    memory,
    homes,
    log: log.log,
    clock,
    view: () => health.view,
    clientOf: (replica) => clients.get(replica),
    urgent: caretakers.urgent,
    holds: (identityKey) => sockets.holds(identityKey),
    onRemade: () => metrics.groupsRemade.add(),
    seatsOf(identityKey) {
      const replicas: string[] = [];
      for (const seat of sockets.seats()) {
        if (seat.identityKey === identityKey) replicas.push(seat.replica);
      }
      return replicas;
    },
  });
  const sessions = createSessions({
    memory,
    clock,
    log: log.log,
    homeOf: (userId) => homes.homeOf(userId),
    idAt: (replica, userId) => aliases.idAt(replica, userId),
    clientOf: (replica) => clients.get(replica),
    goneForMs,
  });
  const made = new Made({
    clock,
    isReady: (replica) => stateOf(health.view, replica) === "ready",
    limits: madeLimits,
  });
  const deletedFiles = createDeletedFiles({
    memory,
    clientOf: (replica) => clients.get(replica),
    isCluster: () => health.view.replicas.size > 1,
  });
  const journal =
    parts.journal === undefined
      ? undefined
      : new Journal({
          writer: parts.journal,
          store,
          memory,
          seal,
          clock,
          log: log.log,
          metrics,
          clientOf: (replica) => clients.get(replica),
          replicaNames: () => [...health.view.replicas.keys()],
          noteStoreFailure: (error) => memory.noteStoreFailure(error),
          deletedFile: deletedFiles.of,
          limits: { ...journalLimits, waitLimitMs: config.journalWaitLimitMs },
        });
  const pushes = new Pushes({
    store,
    seal,
    clock,
    metrics,
    whenSeveral: (signal) => whenSeveral(health, signal),
    noteStoreFailure: (error) => memory.noteStoreFailure(error),
    limits: pushesLimits,
  });
  const refresh = createRefresh({
    memory,
    clock,
    log: log.log,
    clientOf: (replica) => clients.get(replica),
    names: () => [...health.view.replicas.keys()],
    isReady: (replica) => stateOf(health.view, replica) === "ready",
    urgent: caretakers.urgent,
    apiKeyOf: caretakers.apiKeyOf,
  });
  health.onChange(() => refresh.lookAgain());
  const doorParts: DoorParts = {
    limits: config,
    store,
    memory,
    health,
    links,
    homes,
    logins,
    segments,
    idSwaps,
    metrics,
    log,
    clock,
    caretakers,
    clientOf: (replica) => clients.get(replica),
    attendants: [
      createQuickConnect({
        store,
        memory,
        seal,
        log: log.log,
        clock,
        owner: homes.owner,
        clientOf: (replica) => clients.get(replica),
        isReady: (replica) => stateOf(health.view, replica) === "ready",
        urgent: caretakers.urgent,
        apiKeyOf: caretakers.apiKeyOf,
        onRemade: () => metrics.quickConnectRemade.add(),
      }),
      ...sessions.attendants,
      syncPlay,
      // Before the plays: it must still know a play that this very request ends.
      television,
      plays,
      balancer.attendant,
      createLists({
        memory,
        clock,
        clientOf: (replica) => clients.get(replica),
        isReady: (replica) => stateOf(health.view, replica) === "ready",
        isCluster: () => health.view.replicas.size > 1,
        urgent: (replica, key) => caretakers.urgent(replica, key),
        homeOf: (userId) => homes.homeOf(userId),
        readAt: (userId, replica, untilMs) => homes.readFor(userId, replica, untilMs),
        noteDeleted: (itemIds, untilMs) => homes.noteDeleted(itemIds, untilMs),
        made,
      }),
      ...made.attendants,
      createTaskAttendant(memory),
      refresh.attendant,
      createPasswordReset({
        ...{ store, memory, clock, owner: homes.owner },
        isReady: (replica) => stateOf(health.view, replica) === "ready",
        isCluster: () => health.view.replicas.size > 1,
      }),
      createMonitorsAttendant({ memory, seal, isCluster: () => health.view.replicas.size > 1 }),
      createApiKeysAttendant({ memory, seal, isCluster: () => health.view.replicas.size > 1 }),
      ...(loginNews === undefined ? [] : [loginNews.attendant]),
      deletedFiles.attendant,
      // Before the gate, which carries requests out itself.
      ...(journal === undefined ? [] : [journal]),
      ...gates,
    ],
    trusted: trustedProxies(config.trustedProxies),
    baseSegments: baseSegmentsOf(basePath),
    basePath,
    prefer: config.prefer,
    quickConnect: config.quickConnect,
    publicUrl: publicUrl === undefined ? undefined : publicUrl.origin + publicUrl.basePath,
    explainHeader: config.explainHeader,
    translateLegacy: config.legacyTokens === "translate",
  };
  const door = new Door(doorParts);
  health.onChange((view, before) => {
    links.follow(view);
    syncPlay.viewChanged();
    // The others decide by what this proxy sees: they hear of a change at once.
    const isNews = [...view.replicas].some(
      ([name, { state }]) => before.replicas.get(name)?.state !== state,
    );
    if (isNews && store.kind === "redis") void homes.lookAround();
  });
  memory.onStoreAvailable((available) => {
    metrics.failsafe.set(available ? 0 : 1);
    if (!available) metrics.storeFailures.add();
  });
  memory.onStoreLoss(() => metrics.storeLosses.add());
  memory.onIdentity(() => metrics.identities.set(memory.identities.size));
  health.setReplicas(config.replica);
  links.follow(health.view);

  const sockets = createSocketLane({
    host: createSocketHost(door, doorParts, syncPlay, sessions, (replica, text) =>
      pushes.shown(replica, text),
    ),
    limits: {
      connectLimitMs: config.connectLimitMs,
      upstreamMessageLimitBytes: 64 * mebibyte,
      closeLimitMs: 2000,
      dialsAtOnceLimit: 64,
      socketIdleLimitMs: config.socketIdleLimitMs,
      socketBufferLimitBytes: mebibyte,
      queuedMessagesLimit: 1000,
      queuedBytesLimit: mebibyte,
      upstreamKeepAliveMs,
      upstreamReplyLimitMs: 10_000,
      socketMessageLimitBytes: config.socketMessageLimitBytes,
      apiHoldLimitMs: config.apiHoldLimitMs,
      redialPauseLimitMs: 1000,
    },
    metrics,
    log: log.log,
    clock,
  });
  const server = createDoorServer(parts, door, sockets, doorParts);
  const { entrance, plain } = createEntrance(parts, door, server);

  function callTheRoll(): void {
    const configs = roster.configs(health.view, clock.monotonicMs());
    const known = [...health.view.replicas.values()].map((replica) => replica.config);
    if (sameReplicas(known, configs)) return;
    health.setReplicas(configs);
    balancer.readConditions();
  }

  async function askDns(): Promise<void> {
    for (const place of config.discover ?? []) {
      try {
        roster.found(await findByDns(place, basePath, resolver), clock.monotonicMs());
      } catch (error) {
        // What was found before stays: a resolver that stumbles is no reason to drop anybody.
        const cause = error instanceof Error && "code" in error ? String(error.code) : "unknown";
        log.log.debug(`DNS does not tell the replicas behind ${place.name}: ${cause}`);
      }
    }
    callTheRoll();
  }

  /** Tells the others what this proxy sees, and hears what they see and which replicas there are. */
  async function meet(): Promise<void> {
    try {
      if (store.kind === "embedded") {
        memory.noteStoreTime(await store.time());
        memory.noteStoreSuccess();
        return;
      }
      const reachable: Record<string, boolean> = {};
      for (const [name, { state }] of health.view.replicas) {
        reachable[name] = state === "ready" || state === "starting" || state === "unfit";
      }
      const answer = await store.touchProxy({ proxy: homes.owner, reachable }, sightTtlMs);
      memory.noteStoreSuccess();
      // When this door's own sight was left is what the store's clock says now.
      const own = answer.sights.find((sight) => sight.proxy === homes.owner);
      if (own !== undefined) memory.noteStoreTime(own.atMs);
      homes.setSights(answer.sights);
      const announced = answer.members.filter((member) => verifyMember(seal, member));
      parts.onMembers?.(announced);
      const skew = skewOf(announced, memory.notes("replica"));
      metrics.serverVersions.set(skew.versions);
      metrics.encoderKinds.set(skew.encoders);
      roster.announced(announced, clock.monotonicMs());
      callTheRoll();
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      memory.noteStoreFailure(error);
    }
  }

  const services: Service[] = [
    { name: "memory", run: (signal) => memory.run(signal) },
    { name: "health", run: (signal) => health.run(signal) },
    { name: "SyncPlay", run: (signal) => syncPlay.run(signal) },
    {
      name: "sweeps",
      async run(signal) {
        const plainIntervalMs = Math.min(
          ...[sweepIntervalMs, config.headersTimeLimitMs / 4, config.keepAliveLimitMs / 4],
        );
        const lookAtYoung = youngLimit(youngLimitBytes);
        await Promise.all([
          repeat(plainIntervalMs, signal, async () => plain.sweep()),
          repeat(sweepIntervalMs, signal, async () => {
            links.sweep();
            segments.sweep();
            lookAtYoung();
            memory.forgetExpiredPins(clock.wallMs());
          }),
        ]);
        links.close();
      },
    },
    { name: "meeting", run: (signal) => repeat(meetIntervalMs, signal, meet) },
    { name: "balance", run: (signal) => balancer.run(signal) },
    ...(journal === undefined ? [] : [{ name: "pushes", run: pushes.run.bind(pushes) }]),
    {
      name: "door",
      async start(signal) {
        // Who was logged in before a restart is to be known before the first request is; a store that
        // cannot be reached is not waited for longer than this.
        await Promise.race([memory.loaded, sleep(loadLimitMs, signal)]);
        await listen(entrance, config.listen, "--listen");
      },
      async stop(cut) {
        door.isEnding = true;
        entrance.close();
        server.close();
        await sockets.closeAll(1001);
        const closeIdle = (): void => {
          server.closeIdleConnections();
          plain.closeIdle();
        };
        closeIdle();
        const stopIdle = setInterval(closeIdle, 50);
        await Promise.race([door.idle(), aborted(cut)]);
        clearInterval(stopIdle);
        server.closeAllConnections();
        plain.closeAll();
        await Promise.race([journal?.flush(), aborted(cut)]);
      },
    },
  ];
  if ((config.discover ?? []).length > 0) {
    services.push({ name: "dns", run: (signal) => repeat(dnsIntervalMs, signal, askDns) });
  }
  if (config.discovery && publicUrl !== undefined) {
    services.push(
      createDiscovery({
        host: config.discoveryListen.host,
        port: config.discoveryListen.port,
        publicUrl: publicUrl.origin + publicUrl.basePath,
        log: log.log,
        async server() {
          for (const client of door.screen.readyClients().values()) {
            const answer = await client.publicInfo();
            if (answer.outcome === "ok") return { id: answer.info.id, name: answer.info.name };
          }
          return undefined;
        },
      }),
    );
  }

  return {
    services,
    health,
    door,
    readiness: () => readinessOf(health.view, memory.storeAvailable),
    guardedRoutes: [
      {
        method: "POST",
        path: "/jellybloom/status",
        answer: () => ({
          status: 200,
          body: statusOf({
            view: health.view,
            storeAvailable: memory.storeAvailable,
            lease: memory.lease,
            homes: memory.homes.values(),
            plays: memory.notes("play").values(),
            notes: memory.notes("replica"),
            seats: sockets.seats(),
            doors: 1 + homes.otherDoors,
            nowMs: clock.monotonicMs(),
            wallMs: clock.wallMs(),
          }),
        }),
      },
      ...drainingRoutes({
        store,
        memory,
        clock,
        replicas: () => [...health.view.replicas.keys()],
        own: undefined,
        drainLimitMs: replicaDrainLimitMs,
      }),
      {
        method: "POST",
        path: "/jellybloom/explain",
        answer(body) {
          const asked = parsedQuestion(body);
          if (asked === undefined) {
            return { status: 400, body: { error: "a method and a path are needed" } };
          }
          return { status: 200, body: door.explain(asked.method, asked.path, asked.token) };
        },
      },
    ],
    boundPort() {
      const address = entrance.address();
      return typeof address === "object" && address !== null ? address.port : config.listen.port;
    },
  };
}

/** Resolves when there is more than one replica, or `signal` aborts. */
function whenSeveral(health: Health, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (health.view.replicas.size < 2 && !signal.aborted) return;
      stop();
      signal.removeEventListener("abort", look);
      resolve();
    };
    const stop = health.onChange(look);
    signal.addEventListener("abort", look, { once: true });
    look();
  });
}

function gateAttendant(
  { config, memory, seal, clock, log, caretakers }: ProxyParts,
  sidecarUrl: (replica: string) => string | undefined,
  health: Health,
): Attendant {
  return createGateAttendant({
    memory,
    seal,
    clock,
    log: log.log,
    sidecarUrl,
    urgent: (replica, key) => caretakers.urgent(replica, key),
    apiKeyOf: (replica) => caretakers.apiKeyOf(replica),
    isCluster: () => health.view.replicas.size > 1,
    translateLegacy: config.legacyTokens === "translate",
    bodyLimitBytes: config.bodyBufferLimitBytes,
    connectLimitMs: config.connectLimitMs,
    answerLimitMs: gateAnswerLimitMs,
  });
}

// ---- The entrance and the HTTP server ---------------------------------------------------------------

/**
 * Where clients connect. What they ask plainly is answered at once; every other connection goes on to
 * Node's server, which never listens itself.
 */
function createEntrance(
  parts: ProxyParts,
  door: Door,
  server: Server,
): { readonly entrance: NetServer; readonly plain: PlainConnections } {
  const { config, metrics, clock } = parts;
  const plain = new PlainConnections({
    limits: {
      headLimitBytes: config.headerLimitBytes,
      firstByteLimitMs: config.headersTimeLimitMs,
      keepAliveLimitMs: config.keepAliveLimitMs,
      stallLimitMs: config.clientStallLimitMs,
    },
    monotonicMs: clock.monotonicMs,
    answer(connection, request) {
      door.handlePlain(request, connection.begin(request));
    },
    handOver(socket, bytes) {
      server.emit("connection", socket);
      socket.unshift(bytes);
    },
    onSilent: () => metrics.refusals.tooSlow.add(),
  });
  // A client that ends its side has its answer all the same, as with Node's own server.
  const entrance = createNetServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    metrics.connections.add();
    socket.once("close", () => metrics.connections.subtract());
    plain.open(socket);
  });
  // Node's server watches over slow heads and bodies, and knows which connections are idle, from the moment
  // it listens; this one never does by itself.
  entrance.on("listening", () => server.emit("listening"));
  entrance.maxConnections = config.connectionsLimit;
  entrance.on("drop", () => metrics.refusals.tooManyConnections.add());
  return { entrance, plain };
}

function createDoorServer(
  parts: ProxyParts,
  door: Door,
  sockets: SocketLane,
  doorParts: DoorParts,
): Server {
  const { config, metrics } = parts;
  const options = {
    maxHeaderSize: config.headerLimitBytes,
    headersTimeout: config.headersTimeLimitMs,
    requestTimeout: config.requestTimeLimitMs,
    keepAliveTimeout: config.keepAliveLimitMs,
    // How late a time limit may be noticed: not by more than a quarter of itself.
    connectionsCheckingInterval: Math.min(
      5000,
      config.headersTimeLimitMs / 4,
      config.requestTimeLimitMs / 4,
    ),
    insecureHTTPParser: false,
    // The door looks itself (headProblem), since Node would go on with what follows such a request.
    requireHostHeader: false,
    noDelay: true,
    // An upgrade to anything but a WebSocket may be ignored (RFC 9110, 7.8): it is a plain request then.
    shouldUpgradeCallback: (request: IncomingMessage) =>
      request.headers.upgrade?.toLowerCase() === "websocket",
  };
  const answers = new AnswersUnderWay();
  const serve = (request: IncomingMessage, response: ServerResponse): void => {
    const { socket } = request;
    // What was sent behind a refused head was framed by it: it is not to be believed, and not answered.
    if (answers.isRefused(socket)) return;
    const badly = headProblem(request);
    if (badly !== null) answers.refuseOnce(socket);
    answers.note(request, response);
    door.handle(request, response, badly);
  };
  const server = createServer(options, serve);
  // Node would leave out what comes after some number of headers without a word; the door counts itself.
  server.maxHeadersCount = 0;
  server.timeout = config.clientStallLimitMs;
  // The door says when the client is to go on: once it has seen nothing to refuse.
  server.on("checkContinue", serve);
  server.on("checkExpectation", (_request, response) => {
    response.writeHead(417, { connection: "close" });
    response.end();
  });
  server.on("clientError", (error: NodeJS.ErrnoException, socket: Duplex) => {
    refuseMalformed(error, socket, metrics, answers);
  });
  server.on("connect", (_request: IncomingMessage, socket: Duplex) => {
    metrics.refusals.badRequest.add();
    socket.on("error", () => socket.destroy());
    refuseRaw(socket, 405);
  });
  server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (headProblem(request) !== null || answers.isRefused(socket)) {
      metrics.refusals.badRequest.add();
      socket.on("error", () => socket.destroy());
      refuseRaw(socket, 400);
      return;
    }
    void upgrade(parts, door, sockets, doorParts, request, socket, head);
  });
  return server;
}

interface ConnectionAnswers {
  readonly owed: Set<ServerResponse>;
  last: IncomingMessage | undefined;
}

/**
 * Which answers a connection still owes. What is wrong with a later request must not be said in the place
 * of, or in the middle of, the answer to an earlier one: the client would take it for that one's.
 */
class AnswersUnderWay {
  readonly #bySocket = new WeakMap<Duplex, ConnectionAnswers>();
  readonly #refused = new WeakSet<Duplex>();

  note(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    let connection = this.#bySocket.get(socket);
    if (connection === undefined) {
      connection = { owed: new Set(), last: undefined };
      this.#bySocket.set(socket, connection);
    }
    const { owed } = connection;
    const noted = connection;
    owed.add(response);
    noted.last = request;
    response.once("close", () => {
      owed.delete(response);
      // An idle connection keeps nothing of what was asked over it.
      if (noted.last === request && request.complete) noted.last = undefined;
    });
  }

  /** In the order of their requests. */
  of(socket: Duplex): readonly ServerResponse[] {
    return [...(this.#bySocket.get(socket)?.owed ?? [])];
  }

  /** The last request is still being sent, and has been answered already. */
  isAnsweredEarly(socket: Duplex): boolean {
    const connection = this.#bySocket.get(socket);
    return connection?.last?.complete === false && connection.owed.size === 0;
  }

  isRefused(socket: Duplex): boolean {
    return this.#refused.has(socket);
  }

  /** True the first time: the parser complains again about every piece that follows. */
  refuseOnce(socket: Duplex): boolean {
    if (this.#refused.has(socket)) return false;
    this.#refused.add(socket);
    return true;
  }
}

/** What the parser refused: a short answer where one can still be given, and the connection's end. */
function refuseMalformed(
  error: NodeJS.ErrnoException,
  socket: Duplex,
  metrics: Metrics,
  answers: AnswersUnderWay,
): void {
  if (!answers.refuseOnce(socket)) return;
  const [status, reason] =
    error.code === "HPE_HEADER_OVERFLOW"
      ? ([431, "headTooLarge"] as const)
      : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? ([408, "tooSlow"] as const)
        : ([400, "badRequest"] as const);
  // A browser that closes its connections resets them: that is no request, so none was refused.
  if (!socket.writable || error.code === "ECONNRESET") {
    socket.destroy();
    return;
  }
  metrics.refusals[reason].add();
  const owed = answers.of(socket);
  const last = owed.at(-1);
  if (answers.isAnsweredEarly(socket)) socket.destroy();
  else if (last === undefined) refuseRaw(socket, status);
  // The earlier requests are whole: their answers come first.
  else if (last.req.complete) last.once("close", () => refuseRaw(socket, status));
  // Its own body is malformed or late, and nothing else is owed: this is its answer.
  else if (owed.length === 1 && !last.headersSent) refuseRaw(socket, status);
  else socket.destroy();
}

function refuseRaw(socket: Duplex, status: number): void {
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  const line = `HTTP/1.1 ${status} ${STATUS_CODES[status]}`;
  socket.end(`${line}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`, () => socket.destroy());
}

async function upgrade(
  parts: ProxyParts,
  door: Door,
  sockets: SocketLane,
  doorParts: DoorParts,
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Promise<void> {
  const { metrics, log, clock } = parts;
  const startedMs = clock.monotonicMs();
  doorParts.health.noteUse(startedMs);
  socket.on("error", () => {
    // The client vanished in the middle of its handshake; the lane hears of it by the close.
  });
  const peer = plainAddress(request.socket.remoteAddress ?? "");
  const { address } = clientOrigin(peer, request.headers, false, doorParts.trusted);
  const target = request.url ?? "/";
  const facts = door.facts(request);
  if (facts.route.guard !== "none") {
    // No socket lives there, and an upgrade must not be a way past a guard.
    metrics.refusals.forbidden.add();
    refuseRaw(socket, 404);
    return;
  }
  const asked = {
    target,
    rawHeaders: request.rawHeaders,
    clientAddress: address,
    token: facts.credentials.token,
  };
  const lane = metrics.lane.socket;
  const end = await sockets.handleUpgrade(asked, request, socket, head);
  if (end.status === undefined) lane.requests.cut.add();
  else lane.requests[statusClass(end.status)].add();
  log.request({
    method: "GET",
    target,
    status: end.status,
    lane: "socket",
    replica: end.replica,
    reason: end.reason,
    attempts: end.attempts,
    durationMs: clock.monotonicMs() - startedMs,
    sentBytes: 0,
    client: address,
  });
}

// ---- Small things -----------------------------------------------------------------------------------

/** What `explain` is asked; undefined when it cannot be read. */
function parsedQuestion(
  body: string,
):
  | { readonly method: string; readonly path: string; readonly token: string | undefined }
  | undefined {
  const { method, path, token } = parsedObject(body) ?? {};
  if (typeof method !== "string" || typeof path !== "string" || !path.startsWith("/"))
    return undefined;
  return { method, path, token: typeof token === "string" ? token : undefined };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
