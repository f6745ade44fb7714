// What `jellybloom up` and `jellybloom proxy` have in common: the store, the memory that follows it, the
// door, and the port for those who run it.

import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { decidingRoute } from "../core/cluster/deciding.ts";
import { JournalWriter, spoolLimits } from "../core/cluster/journal-writer.ts";
import { lostKeySentence } from "../core/cluster/lost-key.ts";
import { Memory } from "../core/cluster/memory.ts";
import type { ReplicaConfig } from "../core/cluster/replica.ts";
import type { JellyfinClient } from "../core/jellyfin/client.ts";
import { systemClock } from "../core/service/clock.ts";
import { createAdminServer, type GuardedRoute, type Mount } from "../core/service/health.ts";
import { CannotStart, Life, type Service } from "../core/service/lifecycle.ts";
import { type OpenLog, openLog } from "../core/service/log.ts";
import { createMetrics, type Metrics } from "../core/service/metrics.ts";
import { addressText } from "../core/service/options.ts";
import { createSeal, type ProofVerifier, type Seal } from "../core/service/seal.ts";
import { openEmbeddedStore } from "../core/store/embedded.ts";
import { type Member, type Store, StoreNotOpened } from "../core/store/store.ts";
import type { Caretakers } from "../proxy/parts.ts";
import { type AssembledProxy, createProxy } from "../proxy/proxy.ts";
import type { Io } from "./io.ts";
import type { DoorConfig } from "./options.ts";
import { packageVersion } from "./version.ts";

const tokensRemembered = 20_000;
const storeRetryMs = 500;
const changesKept = 10_000;
const revokedKeepMs = 30 * 24 * 3_600_000;
const proofWindowMs = 30_000;
const proofNoncesKept = 10_000;
const clusterKeyFile = "cluster.key";
const journalSpoolFile = "journal-door.spool";
const journalRetryLimitMs = 2000;

/** What every command with a door shares while it runs. */
export interface Common {
  readonly opened: OpenLog;
  readonly store: Store;
  readonly seal: Seal;
  readonly memory: Memory;
  /** Writes into the journal of changes for everybody in this process. */
  readonly journal: JournalWriter;
  readonly metrics: Metrics;
  readonly version: string;
  readonly life: Life;
  /** The verifier of the admin port's proofs: it remembers each that was used there. */
  readonly proofs: ProofVerifier;
  /** What else is answered on the admin port; helpers add theirs before it is open. */
  readonly mounts: Mount[];
  readonly routes: GuardedRoute[];
  /** What else /jellybloom/ready notes; helpers add theirs. */
  readonly notes: (() => readonly string[])[];
  /** The admin port as this machine reaches it, after its start. */
  readonly adminUrl: () => string;
}

export interface DoorPlan {
  readonly config: DoorConfig;
  readonly caretakers: (common: Common) => Caretakers;
  readonly connect: (config: ReplicaConfig, common: Common) => JellyfinClient;
  /** Told of the registry's members whose proof holds, whenever it was read. */
  readonly onMembers?: (common: Common, members: readonly Member[]) => void;
  /** Where that replica's gate is reached; left out where nobody can lead. */
  readonly gateUrlOf?: ((common: Common, replica: string) => string | undefined) | undefined;
  /** Further Redis servers that hold the leader's lock; for who has sidecars. */
  readonly lockUrls?: readonly string[];
  /** Services that start before the door is open, such as sidecars and what must be found first. */
  readonly helpers: (common: Common, proxy: AssembledProxy) => readonly Service[];
}

/** Runs a door from its start to its end; answers the exit code. */
export async function runDoor(plan: DoorPlan, io: Io): Promise<number> {
  const { config } = plan;
  const version = packageVersion();
  const opened = openLog({ level: config.logLevel, format: config.logFormat, fd: 1 });
  const { log } = opened;
  let store: Store;
  let clusterKey: string;
  try {
    clusterKey = clusterKeyOf(config);
    const limits = {
      changesKept,
      revokedKeepMs,
      callLimitMs: config.storeCallLimitMs,
      journalKept: config.journalKept,
    };
    store =
      config.redis === undefined
        ? openEmbeddedStore({
            limits,
            ...(config.data !== undefined && { directory: config.data }),
          })
        : // Imported only where it is used, for the same reason as in main.ts: who has no Redis starts
          // a tenth faster without its client.
          await (await import("../core/store/redis.ts")).openRedisStore({
            url: config.redis,
            limits,
            ...(plan.lockUrls !== undefined && { lockUrls: plan.lockUrls }),
          });
  } catch (error) {
    if (!(error instanceof StoreNotOpened) && !(error instanceof CannotStart)) throw error;
    io.err(`${error.message}\n`);
    await opened.close();
    return 1;
  }
  const seal = createSeal(clusterKey);
  const metrics = createMetrics(version);
  const memory = new Memory({ store, seal, log, tokensRemembered, storeRetryMs });
  const spoolFolder = config.spool ?? config.data;
  const journal = new JournalWriter({
    store,
    seal,
    log,
    metrics,
    limits: spoolLimits,
    ...(spoolFolder !== undefined && { file: join(spoolFolder, journalSpoolFile) }),
    retryLimitMs: journalRetryLimitMs,
  });
  void memory.loaded.then(() => {
    const sentence = lostKeySentence(memory.identities.values(), seal);
    if (sentence !== undefined) log.warn(sentence);
  });
  const life = new Life({
    unreadyWaitMs: config.unreadyWaitMs,
    drainLimitMs: config.drainLimitMs,
    log,
    events: process,
    exit: (code) => {
      opened.flush();
      process.exit(code);
    },
  });
  const proofs = seal.createProofVerifier({
    windowMs: proofWindowMs,
    noncesKept: proofNoncesKept,
    now: systemClock.wallMs,
  });
  const mounts: Mount[] = [];
  const routes: GuardedRoute[] = [];
  const adminUrl = (): string => {
    const { host, port } = admin.boundAddress();
    const isAny = host === "" || host === "0.0.0.0" || host === "::";
    return `http://${addressText({ host: isAny ? "127.0.0.1" : host, port })}`;
  };
  const common: Common = {
    opened,
    store,
    seal,
    memory,
    journal,
    metrics,
    version,
    life,
    proofs,
    mounts,
    routes,
    notes: [],
    adminUrl,
  };
  const { gateUrlOf, onMembers } = plan;
  const proxy = createProxy({
    config: {
      ...config,
      trustedProxies: config.trustedProxies.map(
        ({ address, prefixLength }) => `${address}/${prefixLength}`,
      ),
    },
    store,
    memory,
    seal,
    metrics,
    log: opened,
    clock: systemClock,
    caretakers: plan.caretakers(common),
    connect: (replica) => plan.connect(replica, common),
    journal,
    ...(onMembers !== undefined && { onMembers: (members) => onMembers(common, members) }),
    ...(gateUrlOf !== undefined && { gateUrlOf: (replica) => gateUrlOf(common, replica) }),
  });
  routes.push(...proxy.guardedRoutes);
  const replicas = (): string[] => [...proxy.health.view.replicas.keys()];
  routes.push(decidingRoute({ store, memory, seal, replicas }));
  const admin = createAdminServer({
    address: config.admin,
    readiness() {
      const { reason, notes = [] } = proxy.readiness();
      const now = life.unreadyReason() ?? reason;
      metrics.ready.set(now === null ? 1 : 0);
      return { reason: now, notes: [...notes, ...common.notes.flatMap((told) => told())] };
    },
    metricsText: metrics.text,
    guardedRoutes: routes,
    mounts,
    verifyProof: (header, call) => proofs.verify(header, call),
    log,
  });
  const watchers = proxy.services.filter(({ name }) => name !== "door" && name !== "discovery");
  const fronts = proxy.services.filter(({ name }) => name === "door" || name === "discovery");
  const opening: Service = {
    name: "opening",
    async start() {
      const port = proxy.boundPort();
      log.info(`the door is open at ${addressText({ host: config.listen.host, port })}`);
      const place = addressText(admin.boundAddress());
      log.info(`/jellybloom/ready and /metrics are at ${place}`);
    },
  };
  const exitCode = await life.run([
    // First, so that it ends last: what others write as they end is still written.
    journal,
    ...watchers,
    admin,
    ...plan.helpers(common, proxy),
    ...fronts,
    opening,
  ]);
  await store.close();
  await opened.close();
  return exitCode;
}

/** The key given, else the one kept beside the store, else one for this life of an in-memory store. */
function clusterKeyOf(config: DoorConfig): string {
  if (config.clusterKey !== undefined) return config.clusterKey;
  if (config.data === undefined) return randomBytes(32).toString("hex");
  const file = join(config.data, clusterKeyFile);
  try {
    if (existsSync(file)) return readFileSync(file, "utf8").trim();
    mkdirSync(config.data, { recursive: true, mode: 0o700 });
    const key = randomBytes(32).toString("hex");
    // Written whole before it has its name: a key cut short would make every sealed token unreadable.
    writeFileSync(file, `${key}\n`, { mode: 0o600, flag: "wx", flush: true });
    return key;
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "unknown error";
    throw new CannotStart(`--data ${config.data} cannot be used for the cluster key (${code}).`);
  }
}
