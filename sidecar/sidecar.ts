// The sidecar: the caretaker beside one Jellyfin. It runs in the process of `jellybloom up`, one for each
// replica, or as a process of its own; here it is put together from its parts:
//
//   watch      the server's health by its body, and what can change at a server without a restart
//   registry   a heartbeat with the replica's address, so that proxies find it
//   presence   one socket that shows other Jellyblooms that this server is kept
//   lease      one of the sidecars leads: which one, under which epoch, until when
//   mirror     what the server knows of sessions is written down for the doors
//   recorder   recordings go on at another server when the one that makes them is away for too long
//   plays      encodes and sessions of plays that the server no longer owns are ended
//   encoder    whether the server encodes, and how: told to the cluster
//   truth      a server that was put back to an older state is noticed before anything is done there
//   journal    what clients changed elsewhere is brought to the server, what they changed here is told
//   keys       API keys that somebody made in the server's own page are found
//   cycle      observe, decide, act: tokens minted, logouts made, leftovers cleared away
//
// It promises that nothing here waits for a request and that no request waits for anything here but a token
// that is not minted yet. Whatever part cannot reach server or store goes on trying at its own pace.

import { randomBytes } from "node:crypto";
import { drainOrderOf, unknownCondition } from "../core/cluster/condition.ts";
import { afterLook, encodeOf, unknownSpeed } from "../core/cluster/encoder-speed.ts";
import { swapIds } from "../core/cluster/id-swap.ts";
import { proveMember } from "../core/cluster/member.ts";
import type { Memory } from "../core/cluster/memory.ts";
import { putNote } from "../core/cluster/notes.ts";
import { awayLookIntervalMs } from "../core/cluster/replica.ts";
import type { SeenSession } from "../core/cluster/sessions.ts";
import { userAliasesOf } from "../core/cluster/user-aliases.ts";
import type { HealthAnswer, JellyfinClient } from "../core/jellyfin/client.ts";
import type { Clock } from "../core/service/clock.ts";
import { repeat, rest, sleep } from "../core/service/loop.ts";
import type { Seal } from "../core/service/seal.ts";
import { type Epoch, type Member, type Store, StoreUnavailable } from "../core/store/store.ts";
import type { Tools } from "./act.ts";
import { Cycle } from "./cycle.ts";
import type { DecideLimits, MintEnd } from "./decide.ts";
import { EncoderWatch } from "./encoder.ts";
import { unfitToLead } from "./fitness.ts";
import { createSidecarJournal, type JournalMetrics } from "./journal/journal.ts";
import { KeyKeeper, keyKeeperLimits } from "./journal/key-keeper.ts";
import { LeaseKeeper } from "./lease.ts";
import { Mirror, mirrorLimits } from "./mirror.ts";
import { Observer, type ServerSight } from "./observe.ts";
import { PlayKeeper } from "./play-keeper.ts";
import { runPresence } from "./presence.ts";
import { RecorderKeeper } from "./recorder.ts";
import { trustedJournal } from "./trusted-journal.ts";
import { TruthKeeper } from "./truth.ts";

export interface SidecarLog {
  debug(message: string): void;
  info(message: string): void;
  warn(message: string): void;
  error(message: string): void;
}

export interface SidecarOptions extends DecideLimits {
  /** This program's version, as the presence says it. */
  readonly version: string;
  /** Where proxies reach the Jellyfin; empty: it is not announced in the registry. */
  readonly url: string;
  /** Where the sidecar itself listens; empty when it does not. */
  readonly sidecarUrl: string;
  readonly healthIntervalMs: number;
  /** How often QuickConnect's switch, the version and the wizard are read, in ms. */
  readonly factsIntervalMs: number;
  readonly heartbeatIntervalMs: number;
  /** How long a heartbeat holds, in ms. */
  readonly memberTtlMs: number;
  readonly cycleIntervalMs: number;
  readonly claimTtlMs: number;
  readonly claimMarginMs: number;
  readonly knownTokensTried: number;
  readonly returnSample: number;
  readonly urgentKeepMs: number;
  readonly hintsLimit: number;
  readonly rivalIntervalMs: number;
  /** How long actions that run may go on after the end was asked for, in ms. */
  readonly stopLimitMs: number;
  /** Whether the server's encoder is tried with a short encode. */
  readonly encoderProbe: boolean;
  /** How long the leader's lease holds, in ms. */
  readonly leaseLimitMs: number;
  /** A recorder that was not heard for so long is followed by another, in ms. */
  readonly recorderAwayLimitMs: number;
}

/** What a caller says; the rest serves well as it is. */
export interface SidecarPlan {
  readonly version: string;
  readonly url: string;
  readonly sidecarUrl: string;
  readonly healthIntervalMs: number;
  /** How long one mint may take, all calls together, in ms. */
  readonly mintLimitMs: number;
  /** How long one call to the server may take, in ms. */
  readonly callLimitMs: number;
  /** How long one call to the store may take, in ms. */
  readonly storeCallLimitMs: number;
  /** How long the leader's lease holds, in ms. */
  readonly leaseLimitMs: number;
  /** A recorder that was not heard for so long is followed by another, in ms. */
  readonly recorderAwayLimitMs: number;
  /** Default: it is not tried. */
  readonly encoderProbe?: boolean;
}

/** How long a leader's server may be silent before another should lead, in ms: two probes and a bit. */
const silencePatienceMs = 2500;

/** A heartbeat that is later than this was not only slow, in ms: calls to the store end sooner. */
const freezeMs = 8000;

/** How long one of the several calls of a mint may take, in ms. */
export function callLimitFor(mintLimitMs: number): number {
  return Math.min(5000, Math.max(250, Math.round(mintLimitMs / 2)));
}

/** Whole options from a plan. */
export function sidecarOptionsFor(plan: SidecarPlan): SidecarOptions {
  const { mintLimitMs, callLimitMs, storeCallLimitMs, ...said } = plan;
  // Past its limit a mint begins no call that could leave a token; one that runs then may take its time,
  // and the record, too, so the claim is held for those.
  const claimMarginMs = callLimitMs + storeCallLimitMs;
  return {
    ...said,
    parallelLimit: 8,
    // A login is minted for within milliseconds; a minute covers a replica that restarts meanwhile.
    freshLoginMs: 60_000,
    retryMinMs: 500,
    retryMaxMs: 30_000,
    problemRetryMs: 60_000,
    ghostTries: 5,
    factsIntervalMs: 15_000,
    // Three sidecars and two doors that have nothing to do send the store 5 commands a second at most, all
    // together (test/cluster/idle-store.test.ts).
    heartbeatIntervalMs: 2500,
    memberTtlMs: 10_000,
    cycleIntervalMs: 10_000,
    claimTtlMs: mintLimitMs + claimMarginMs,
    claimMarginMs,
    knownTokensTried: 4,
    returnSample: 3,
    urgentKeepMs: 10_000,
    hintsLimit: 10_000,
    rivalIntervalMs: 30_000,
    stopLimitMs: 1000,
    encoderProbe: plan.encoderProbe ?? false,
  };
}

/** A mint's end as the metrics name it (`jellybloom_mints_total`). */
export function mintResultOf(end: MintEnd["end"]): "minted" | "refused" | "failed" | "taken" {
  switch (end) {
    case "recorded":
    case "unrecorded":
    case "adopted":
      return "minted";
    case "claimHeld":
    case "stale":
    case "notWanted":
      return "taken";
    case "late":
    case "storeAway":
    case "serverAway":
    case "nobodyToAsk":
      return "failed";
    default:
      return "refused";
  }
}

export interface SidecarParts {
  /** The name of the replica. */
  readonly name: string;
  readonly client: JellyfinClient;
  /** Clients of the other replicas, by name, as they are known now; asked whether they accept an identity. */
  readonly peers: () => ReadonlyMap<string, JellyfinClient>;
  readonly store: Store;
  readonly seal: Seal;
  readonly memory: Memory;
  readonly log: SidecarLog;
  readonly clock: Clock;
  readonly options: SidecarOptions;
  /** Told at each heartbeat who is announced in the registry; whether their proofs hold is theirs to look at. */
  readonly onMembers?: (members: readonly Member[]) => Promise<void>;
  /** The uid of this process's pod, where there is one: it is part of who holds the lease. */
  readonly podUid?: string;
  /** The highest epoch that other sidecars have seen, as far as they can be reached. Never rejects. */
  readonly collectEpoch?: () => Promise<Epoch | undefined>;
  /** Told of every mint that came to an end, for the metrics. */
  readonly onMintEnd?: (end: MintEnd["end"], durationMs: number) => void;
  /** Where the sidecar keeps what it must not forget of the journal; undefined: in memory. */
  readonly journalDirectory?: string | undefined;
  readonly journalMetrics?: JournalMetrics;
  /** Told when the server's health is another than it was. */
  readonly onHealth?: (state: HealthAnswer["state"]) => void;
  /** Told when the server is healthy and has ended our socket before: it has started anew meanwhile. */
  readonly onStarted?: () => void;
  /** Told what the server says of changes of its library (`LibraryChanged`), as it came. */
  readonly onLibraryChanged?: (message: string) => void;
  /** Told when this process stood still for so many ms, and went on. */
  readonly onFrozen?: (forMs: number) => void;
}

export interface Sidecar {
  /** Works until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
  /** A request waits for this identity's token here. */
  urgent(identityKey: string): void;
  /** The server refused this identity's token while the cluster knows it: it may have forgotten it. */
  suspect(identityKey: string): void;
  /**
   * Somebody saw the server come or go: it is looked at now. With this, `healthIntervalMs` may be long where
   * the door probes the same server from the same process anyway.
   */
  lookNow(): void;
  /** There are other replicas than before: what waited for the first of them is begun. */
  peersChanged(): void;
  /** By identity key: a sentence for each login that gets no token here until somebody acts. */
  problems(): ReadonlyMap<string, string>;
  /** A sentence while the replica has not been told all that the journal says. */
  behind(): string | undefined;
  /** How the server looks from here. */
  sight(): ServerSight;
  /** Whether this sidecar leads: asked (`mayAct`) immediately before each effect that only the leader may have. */
  readonly lease: LeaseKeeper;
}

export function createSidecar(parts: SidecarParts): Sidecar {
  const { name, client, store, seal, memory, log, clock, options } = parts;
  const { monotonicMs } = clock;
  const bootNonce = randomBytes(16).toString("hex");
  const tools: Tools = { ...parts, ...options, replica: name, bootNonce, monotonicMs };
  const observer = new Observer({
    replica: name,
    memory,
    otherReplicas: () => parts.peers().size,
    monotonicMs,
    urgentKeepMs: options.urgentKeepMs,
    hintsLimit: options.hintsLimit,
  });
  const isHealthy = (): boolean => observer.sight.health === "healthy";
  const namedLog = {
    debug: (message: string) => log.debug(message),
    info: (message: string) => log.info(`sidecar of ${name}: ${message}`),
  };
  const cycle = new Cycle({
    tools,
    observer,
    limits: options,
    cycleIntervalMs: options.cycleIntervalMs,
    returnSample: options.returnSample,
    log: namedLog,
    onMintEnd: parts.onMintEnd,
  });
  const lease = new LeaseKeeper({
    replica: name,
    gateUrl: options.sidecarUrl,
    owner: parts.podUid === undefined ? bootNonce : `${parts.podUid}/${bootNonce}`,
    store,
    memory,
    clock,
    leaseLimitMs: options.leaseLimitMs,
    unfit,
    collectEpoch: parts.collectEpoch ?? (async () => undefined),
    log,
  });
  let silentSinceMs = 0;
  let factsReadAtMs = Number.NEGATIVE_INFINITY;
  let nextLook = new AbortController();
  /** The presence has ended since the last look: the server may be another than it was, however short. */
  let presenceLost = false;

  function unfit(): string | undefined {
    const { sight } = observer;
    // One silent probe is a busy server, and the leader does not change for it.
    const isPatient =
      sight.health === "silent" && monotonicMs() - silentSinceMs < silencePatienceMs;
    const mayStay = isPatient && lease.mayAct() !== undefined;
    const isDraining = drainOrderOf(memory.notes("replica"), name) !== undefined;
    return unfitToLead({ name, sight, mayStay, isDraining });
  }

  const plays = new PlayKeeper({
    tools,
    isHealthy,
    wallMs: clock.wallMs,
    log: namedLog,
    retryMs: options.retryMinMs,
    looksLimit: 10_000,
  });
  const encoder = new EncoderWatch({
    replica: name,
    client,
    nonce: bootNonce,
    probes: options.encoderProbe,
    segmentLimitMs: 15_000,
    retryMs: 5 * 60_000,
    monotonicMs,
    log,
    onChange: () => void tellEncoder(),
  });

  const truth = new TruthKeeper({
    ...{ replica: name, client, store, memory, seal, clock, log },
    directory: parts.journalDirectory,
    replicas: () => [name, ...parts.peers().keys()],
  });
  const journal = trustedJournal(truth, () =>
    createSidecarJournal({
      hands: {
        ...{ replica: name, client, store, memory, seal, clock, log },
        peer: (replica) => parts.peers().get(replica),
        startedAtMs: clock.wallMs(),
        leads: () => lease.mayAct() !== undefined,
      },
      store,
      peers: parts.peers,
      isHealthy,
      urgent(identityKey) {
        observer.noteUrgent(identityKey);
        cycle.wake();
      },
      directory: parts.journalDirectory,
      version: options.version,
      metrics: parts.journalMetrics,
      onLibraryChanged: parts.onLibraryChanged,
      silencePatienceMs,
      lease,
    }),
  );

  const keys = new KeyKeeper({
    hands: { replica: name, client, store, memory, seal, log },
    isHealthy,
    isCluster: () => parts.peers().size > 0,
    ...keyKeeperLimits,
  });

  /** What the cluster places plays by. It is told again when the store has not got it. */
  async function tellEncoder(): Promise<void> {
    const { sight } = encoder;
    // What was seen of real plays counts for more than a short trial, but a trial that failed.
    const encodes = speed.isSlow && sight.encodes !== "failing" ? "slow" : sight.encodes;
    const value = JSON.stringify({ ...unknownCondition, ...sight, encodes });
    if (sight.encoder === "" || memory.note("replica", name)?.value === value) return;
    await withStore(() => putNote(parts, { kind: "replica", id: name, replica: name, value }, 0));
  }

  let speed = unknownSpeed;

  /** How fast it encodes for those who watch now. */
  function noteSpeed(sessions: readonly SeenSession[]): void {
    const encodes = sessions.map(({ dto }) => encodeOf(dto)).filter((one) => one !== undefined);
    const wasSlow = speed.isSlow;
    speed = afterLook(speed, encodes, monotonicMs());
    if (speed.isSlow === wasSlow) return;
    if (speed.isSlow)
      log.warn(`server ${name} encodes slower than films run: new plays go elsewhere`);
    else log.info(`server ${name} encodes as fast as films run again`);
    void tellEncoder();
  }

  async function watch(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      nextLook = new AbortController();
      await watchServer();
      // Who else looks may have missed that it was away, and so does not say when it is back.
      const { healthIntervalMs } = options;
      const waitMs = isHealthy()
        ? healthIntervalMs
        : Math.min(healthIntervalMs, awayLookIntervalMs);
      await rest(waitMs, signal, nextLook.signal);
    }
  }

  async function watchServer(): Promise<void> {
    const health = await client.health();
    const wasHealthy = isHealthy();
    noteHealth(health);
    if (health.state !== "healthy") return;
    const isDue = monotonicMs() - factsReadAtMs >= options.factsIntervalMs;
    const isBack = !wasHealthy || presenceLost;
    if (presenceLost) {
      parts.onStarted?.();
      journal.noteStarted();
    }
    presenceLost = false;
    // What it does for people who have left it is ended first: two servers may be at one play now.
    if (isBack) {
      plays.noteReturn();
      recorder.noteReturn();
      keys.look();
    }
    if (isDue || isBack) await readFacts();
    if (!isBack) return;
    // Health goes on being watched while the store cannot be read.
    void memory.loaded.then(() => cycle.noteReturn());
  }

  function noteHealth({ state, reason }: HealthAnswer): void {
    if (state === "silent" && observer.sight.health !== "silent") silentSinceMs = monotonicMs();
    journal.noteHealth(state);
    if (observer.sight.health === state && observer.sight.reason === reason) return;
    observer.sight = { ...observer.sight, health: state, reason };
    parts.onHealth?.(state);
    cycle.wake();
    lease.look();
  }

  async function readFacts(): Promise<void> {
    const [info, quickConnect] = await Promise.all([
      client.publicInfo(),
      client.quickConnectEnabled(),
    ]);
    if (info.outcome === "ok") {
      const { id, version, startupWizardCompleted } = info.info;
      observer.sight = {
        ...observer.sight,
        serverId: id,
        serverVersion: version,
        startupWizardCompleted,
      };
    }
    if (quickConnect.outcome === "ok") observer.noteQuickConnect(quickConnect.enabled);
    if (info.outcome === "ok" && quickConnect.outcome === "ok") factsReadAtMs = monotonicMs();
    void encoder.look(observer.sight.serverVersion).then(tellEncoder);
    cycle.wake();
    lease.look();
  }

  let beatAtMs: number | undefined;

  /** A process that was paused learns it by its own clock; what it was allowed to do, it asks anew each time. */
  function noteFreeze(): void {
    const nowMs = monotonicMs();
    const stoodMs = nowMs - (beatAtMs ?? nowMs) - options.heartbeatIntervalMs;
    beatAtMs = nowMs;
    if (stoodMs < freezeMs) return;
    log.warn(`the sidecar of ${name} stood still for ${Math.round(stoodMs / 1000)} s`);
    parts.onFrozen?.(stoodMs);
  }

  async function beat(): Promise<void> {
    noteFreeze();
    const { serverId, serverVersion } = observer.sight;
    const { url, sidecarUrl, memberTtlMs } = options;
    await withStore(async () => {
      const isFirst = observer.observation().storeNowMs === undefined;
      const facts = { replica: name, url, sidecarUrl, serverId, serverVersion, bootNonce };
      const { nowMs, members } =
        url === ""
          ? { nowMs: await store.time(), members: await store.members() }
          : await store.touchMember(proveMember(seal, facts), memberTtlMs);
      observer.noteStoreTime(nowMs);
      memory.noteStoreTime(nowMs);
      if (isFirst) cycle.wake();
      await parts.onMembers?.(members);
    });
  }

  /** The store being away is told by the memory, once, for the whole process. */
  async function withStore<Value>(deed: () => Promise<Value>): Promise<Value | undefined> {
    try {
      const value = await deed();
      memory.noteStoreSuccess();
      return value;
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      memory.noteStoreFailure(error);
      return undefined;
    }
  }

  /** What clients call this server's users is what is written down of its sessions. */
  const mirrored: Pick<JellyfinClient, "callWithKey"> = {
    async callWithKey(method, path, body) {
      const answer = await client.callWithKey(method, path, body);
      const aliases = userAliasesOf(memory, seal);
      if (aliases.size === 0 || answer.outcome !== "answered") return answer;
      return { ...answer, text: swapIds(answer.text, aliases.pairsOf(name).fromHere) };
    },
  };
  const mirror = new Mirror({
    replica: name,
    client: mirrored,
    store,
    memory,
    isHealthy,
    monotonicMs,
    log,
    ...mirrorLimits,
    onLook: noteSpeed,
  });

  const recorder = new RecorderKeeper({
    replica: name,
    owner: bootNonce,
    client,
    store,
    memory,
    seal,
    lease,
    isHealthy,
    others: () => [...parts.peers().keys()],
    monotonicMs,
    wallMs: clock.wallMs,
    awayLimitMs: options.recorderAwayLimitMs,
    log,
  });

  async function keepPresence(signal: AbortSignal): Promise<void> {
    let clusterId: string | undefined;
    while (clusterId === undefined && !signal.aborted) {
      clusterId = await withStore(() => store.clusterId());
      if (clusterId === undefined) await sleep(options.retryMaxMs, signal);
    }
    if (clusterId === undefined) return;
    const onRival = (sentence: string | undefined, cure: string): void => {
      if (sentence === observer.sight.rival) return;
      if (sentence === undefined) log.info(`server ${name} has no other Jellybloom any longer`);
      else log.error(`${sentence}; ${cure}.`);
      observer.sight = { ...observer.sight, rival: sentence };
      cycle.wake();
    };
    const { version, rivalIntervalMs, retryMinMs, retryMaxMs } = options;
    await runPresence(
      {
        replica: name,
        version,
        client,
        clusterId,
        isHealthy,
        onRival,
        onLost() {
          presenceLost = true;
          mirror.noteLost();
          nextLook.abort();
        },
        rivalIntervalMs,
        retryMinMs,
        retryMaxMs,
        log,
      },
      signal,
    );
  }

  async function run(signal: AbortSignal): Promise<void> {
    const work = Promise.all([
      watch(signal),
      repeat(options.heartbeatIntervalMs, signal, beat),
      keepPresence(signal),
      lease.run(signal),
      plays.run(signal),
      mirror.run(signal),
      recorder.run(signal),
      cycle.run(signal),
      journal.run(signal),
      keys.run(signal),
    ]);
    // An end that was asked for does not wait for a server that does not answer.
    const patience = new AbortController();
    const end = new Promise<void>((resolve) => {
      const limit = (): void => {
        sleep(options.stopLimitMs, patience.signal).then(resolve);
      };
      if (signal.aborted) limit();
      else signal.addEventListener("abort", limit, { once: true });
    });
    await Promise.race([work, end]);
    patience.abort();
  }

  return {
    run,
    urgent(identityKey) {
      observer.noteUrgent(identityKey);
      cycle.wake();
    },
    suspect(identityKey) {
      observer.noteSuspect(identityKey);
      cycle.wake();
    },
    lookNow: () => nextLook.abort(),
    peersChanged() {
      cycle.wake();
      keys.look();
    },
    problems: () => observer.problems(),
    behind: () => journal.sentence(),
    sight: () => observer.sight,
    lease,
  };
}
