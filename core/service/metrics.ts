// Metrics: every number this program tells of itself, in one place, with its help text. The request path
// only adds to numbers in memory; names and labels are looked up once, when the metrics are made, and
// prom-client prints them when somebody asks. Labels have few values, and none of them is a user's,
// an item's or a client's.

import {
  Counter as CounterFamily,
  Gauge as GaugeFamily,
  Histogram as HistogramFamily,
  Registry,
} from "prom-client";

/** A number that only grows. */
export class Counter {
  #value = 0;

  add(count = 1): void {
    this.#value += count;
  }

  get value(): number {
    return this.#value;
  }
}

/** A number that goes up and down. */
export class Gauge {
  #value = 0;

  set(value: number): void {
    this.#value = value;
  }

  add(count = 1): void {
    this.#value += count;
  }

  subtract(count = 1): void {
    this.#value -= count;
  }

  get value(): number {
    return this.#value;
  }
}

/** How many observations lay below each bound, and their sum. Observed in ms, told in seconds. */
export class Durations {
  readonly boundsMs: readonly number[];
  /** One more than there are bounds: the last is for what lies beyond them all. */
  readonly counts: Float64Array;
  #sumMs = 0;

  constructor(boundsMs: readonly number[]) {
    this.boundsMs = boundsMs;
    this.counts = new Float64Array(boundsMs.length + 1);
  }

  observe(durationMs: number): void {
    let index = 0;
    while (index < this.boundsMs.length && durationMs > (this.boundsMs[index] ?? 0)) index++;
    this.counts[index] = (this.counts[index] ?? 0) + 1;
    this.#sumMs += durationMs;
  }

  get sumMs(): number {
    return this.#sumMs;
  }
}

export const lanes = ["message", "bytes", "socket", "own"] as const;
/** `own`: answered by the door itself. */
export type Lane = (typeof lanes)[number];

export const statusClasses = ["1xx", "2xx", "3xx", "4xx", "5xx", "cut", "left"] as const;
/** `cut`: we cut the connection instead of answering; `left`: the client left before the answer's end. */
export type StatusClass = (typeof statusClasses)[number];

export const attemptOutcomes = [
  "completed",
  "clientLeft",
  "notConnected",
  "brokeBeforeReply",
  "brokeDuringReply",
  "refused",
  "timedOut",
] as const;
export type AttemptOutcome = (typeof attemptOutcomes)[number];

export const holdResults = ["answered", "givenUp", "clientLeft"] as const;
export const continuationResults = ["continued", "failed"] as const;
export const segmentDeliveries = ["whole", "streamed", "refetched", "kept"] as const;
export const redialResults = ["connected", "failed"] as const;
export const mintResults = ["minted", "refused", "failed", "taken"] as const;
export const taskStartResults = [
  "started",
  "already",
  "oldEpoch",
  "unknownTask",
  "held",
  "unfit",
  "failed",
] as const;
export const probeResults = ["answered", "failed"] as const;
export const replicaStates = ["unknown", "ready", "starting", "unfit", "frozen", "dead"] as const;

export const journalResults = [
  "published",
  "applied",
  "skipped",
  "aside",
  "refused",
  "redone",
  "cancelled",
  "givenUp",
  "putRight",
  "notOurs",
  "unknownKind",
  "duplicate",
  "seen",
  "lost",
] as const;

export const refusalReasons = [
  "badRequest",
  "headTooLarge",
  "bodyTooLarge",
  "tooSlow",
  "tooManyConnections",
  "forbidden",
  "unknownToken",
  "noReplica",
  "failsafe",
] as const;
export type RefusalReason = (typeof refusalReasons)[number];

export interface LaneMetrics {
  readonly requests: Readonly<Record<StatusClass, Counter>>;
  readonly running: Gauge;
  /** From the request's head to the first byte of its answer. */
  readonly firstByte: Durations;
  /** From the request's head to the end of its answer. */
  readonly duration: Durations;
  readonly sentBytes: Counter;
  readonly attempts: Readonly<Record<AttemptOutcome, Counter>>;
}

const shortMs = [1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000];
const longMs = [10, 100, 1000, 5000, 10_000, 30_000, 60_000, 300_000, 1_800_000, 7_200_000];

export type Metrics = ReturnType<typeof createMetrics>;

/** All metrics, at zero, in a registry of their own: two parts in one process may share one. */
export function createMetrics(version: string) {
  const make = maker(new Registry());
  make.process();

  make
    .gauges("jellybloom_info", "Always 1; its label is the version that runs.", "version", [
      version,
    ])
    [version]?.set(1);

  // Requests of clients.
  const requests = make.countersOfLanes(
    "jellybloom_requests_total",
    "Requests of clients that ended, by how they ended.",
    "status",
    statusClasses,
  );
  const attempts = make.countersOfLanes(
    "jellybloom_attempts_total",
    "Attempts at a replica, by their outcome; a request may have several.",
    "outcome",
    attemptOutcomes,
  );
  const running = make.gauges(
    "jellybloom_requests_running",
    "Requests of clients that run now.",
    "lane",
    lanes,
  );
  const firstByte = make.durations(
    "jellybloom_first_byte_seconds",
    "From a request's head to the first byte of its answer.",
    "lane",
    lanes,
    shortMs,
  );
  const duration = make.durations(
    "jellybloom_request_duration_seconds",
    "From a request's head to the end of its answer.",
    "lane",
    lanes,
    longMs,
  );
  const sentBytes = make.counters(
    "jellybloom_sent_bytes_total",
    "Bytes of answers' bodies sent to clients.",
    "lane",
    lanes,
  );
  const lane = fromNames(
    lanes,
    (name): LaneMetrics => ({
      requests: requests[name],
      attempts: attempts[name],
      running: running[name],
      firstByte: firstByte[name],
      duration: duration[name],
      sentBytes: sentBytes[name],
    }),
  );

  return {
    lane,

    refusals: make.counters(
      "jellybloom_refused_requests_total",
      "Requests the door refused itself, by reason.",
      "reason",
      refusalReasons,
    ),
    retries: make.counters(
      "jellybloom_retries_total",
      "Requests tried again, by the outcome that caused it. Viewers saw none of them.",
      "cause",
      attemptOutcomes,
    ),
    holds: make.counters(
      "jellybloom_holds_total",
      "Requests that waited for a replica to be there, by how that ended.",
      "result",
      holdResults,
    ),
    holding: make.gauge("jellybloom_holding", "Requests that wait for a replica now."),
    holdDuration: make.duration(
      "jellybloom_hold_duration_seconds",
      "How long held requests waited.",
      shortMs,
    ),
    continuations: make.counters(
      "jellybloom_continuations_total",
      "Direct plays that broke off and went on from another replica in the same answer.",
      "result",
      continuationResults,
    ),
    segments: make.counters(
      "jellybloom_segments_total",
      "HLS segments, by how they were delivered: whole, over the budget and so streamed," +
        " fetched again elsewhere, or from the bytes kept.",
      "delivery",
      segmentDeliveries,
    ),
    segmentMemoryBytes: make.gauge(
      "jellybloom_segment_memory_bytes",
      "Memory that holds HLS segments now.",
    ),
    connections: make.gauge("jellybloom_connections", "Connections of clients open now."),
    socketsOpen: make.gauge("jellybloom_sockets_open", "WebSockets of clients open now."),
    redials: make.counters(
      "jellybloom_redials_total",
      "WebSockets whose replica was dialled again while the client's stayed open.",
      "result",
      redialResults,
    ),

    // Identities.
    identities: make.gauge("jellybloom_identities", "Logins known to this process."),
    logins: make.counter("jellybloom_logins_total", "Logins seen."),
    revocations: make.counter(
      "jellybloom_revocations_total",
      "Logins ended by a logout, a removed device or a changed password.",
    ),
    playTakeovers: make.counter(
      "jellybloom_play_takeovers_total",
      "Plays that went on at another replica than the one that encoded them before.",
    ),
    quickConnectRemade: make.counter(
      "jellybloom_quick_connect_remade_total",
      "QuickConnect requests that a replica had forgotten and that were made again.",
    ),
    groupsRemade: make.counter(
      "jellybloom_sync_play_groups_remade_total",
      "SyncPlay groups that were made anew at another replica, or at one that had forgotten them.",
    ),
    encoderFailures: make.counter(
      "jellybloom_encoder_failures_total",
      "Playlists and segments that a replica failed to encode; another one was asked.",
    ),
    mints: make.counters(
      "jellybloom_mints_total",
      "Tokens asked of a replica for an identity, by result; taken: somebody else was at it.",
      "result",
      mintResults,
    ),
    mintDuration: make.duration(
      "jellybloom_mint_duration_seconds",
      "How long getting one token took.",
      shortMs,
    ),
    secondOpinions: make.counter(
      "jellybloom_second_opinions_total",
      "Refusals of a known token for which another replica was asked.",
    ),

    // Replicas and where users are.
    replicaState: make.statesOfReplicas(),
    replicasDraining: make.gauge(
      "jellybloom_replicas_draining",
      "Replicas that drain or are drained, as this process knows.",
    ),
    probes: make.counters("jellybloom_probes_total", "Probes of replicas.", "result", probeResults),
    homes: make.gauge("jellybloom_homes", "Users with a home known to this process."),
    homesMoved: make.counter("jellybloom_homes_moved_total", "Homes this process moved."),
    ready: make.gauge("jellybloom_ready", "1 while /jellybloom/ready says so, else 0."),

    serverVersions: make.gauge(
      "jellybloom_server_versions",
      "Different versions of Jellyfin among the replicas whose sidecars are there.",
    ),
    encoderKinds: make.gauge(
      "jellybloom_encoder_kinds",
      "Different encoders (version, options) among the replicas whose sidecars have told theirs.",
    ),
    storeLosses: make.counter(
      "jellybloom_store_losses_total",
      "Times the store knew less than this process does: it was lost, or failed over without its last writes.",
    ),
    freezes: make.counter(
      "jellybloom_sidecar_freezes_total",
      "Times this process stood still for seconds and went on: paused, swapped out, or starved of CPU.",
    ),

    taskStarts: make.counters(
      "jellybloom_task_starts_total",
      "Scheduled tasks this process started as the leader, by what came of it (held: media not whole; unfit: media cannot be written to).",
      "result",
      taskStartResults,
    ),
    tasksHeld: make.gauge(
      "jellybloom_tasks_held",
      "Tasks this process as the leader would start on some replica and does not, such as a scan.",
    ),

    libraryDriftItems: make.gauge(
      "jellybloom_library_drift_items",
      "Items that some replica has and another has not, as this process last saw as the leader.",
    ),
    listDifferences: make.counter(
      "jellybloom_list_differences_total",
      "Playlists and collections that were found to be another on a replica than on the writer's.",
    ),

    leader: make.gauge(
      "jellybloom_leader",
      "1 while a sidecar of this process leads the cluster, else 0.",
    ),

    // The journal.
    journalIntents: make.counter(
      "jellybloom_journal_intents_total",
      "Changes asked for by clients that the door wrote down before it sent them on.",
    ),
    journalLate: make.counter(
      "jellybloom_journal_late_total",
      "Of these, the ones that went on before it was known that they were written down.",
    ),
    journalWait: make.duration(
      "jellybloom_journal_wait_seconds",
      "How long a change waited until it was written down.",
      shortMs,
    ),
    pushesDropped: make.counter(
      "jellybloom_pushes_dropped_total",
      "Messages about user data that told a client of nothing but a position, which no single server sends.",
    ),

    // The store.
    storeFailures: make.counter(
      "jellybloom_store_failures_total",
      "Times the store went away: a call to it failed or took too long.",
    ),
    failsafe: make.gauge(
      "jellybloom_failsafe",
      "1 while the store cannot be reached and this process goes on from memory, else 0.",
    ),

    // The journal of changes.
    journalEvents: make.counters(
      "jellybloom_journal_entries_total",
      "What this process's sidecars did about entries of the journal.",
      "result",
      journalResults,
    ),
    journalBehindEntries: make.gaugesOfReplicas(
      "jellybloom_journal_behind_entries",
      "Entries of the journal that this process's sidecar has not brought to its server yet.",
    ),
    journalBehindSeconds: make.gaugesOfReplicas(
      "jellybloom_journal_behind_seconds",
      "How long the oldest of these has waited.",
    ),
    replicaBehind: make.gaugesOfReplicas(
      "jellybloom_replica_behind",
      "1 while a server that was away has not been told yet what happened meanwhile, else 0.",
    ),
    journalWritten: make.counter(
      "jellybloom_journal_written_total",
      "Entries that this process wrote into the journal of changes.",
    ),
    journalSpooled: make.counter(
      "jellybloom_journal_spooled_total",
      "Entries that waited in this process because the store did not take them at once.",
    ),
    journalRefused: make.counter(
      "jellybloom_journal_refused_total",
      "Entries that were neither written nor kept: the store was away and no more may wait.",
    ),
    journalWaiting: make.gauge(
      "jellybloom_journal_waiting",
      "Entries that wait in this process for the store now.",
    ),
    journalEnd: make.gauge(
      "jellybloom_journal_end",
      "The number of the newest entry of the journal that this process wrote or read.",
    ),

    text: make.text,
  };
}

/** The class of a status code: 404 is `4xx`. */
export function statusClass(status: number): StatusClass {
  return statusClasses[Math.floor(status / 100) - 1] ?? "5xx";
}

/** A number of each replica that this process knows. */
export interface ReplicaGauge {
  set(replica: string, value: number): void;
  remove(replica: string): void;
}

/** One gauge per replica and state, of which one is 1 for each replica. */
export interface ReplicaStateMetrics {
  set(replica: string, state: (typeof replicaStates)[number]): void;
  remove(replica: string): void;
}

// ---- How they get into prom-client ------------------------------------------------------------------

function maker(registry: Registry) {
  const registers = [registry];

  function counters<Name extends string>(
    name: string,
    help: string,
    label: string,
    values: readonly Name[],
  ): Readonly<Record<Name, Counter>> {
    const cells = fromNames(values, () => new Counter());
    new CounterFamily({
      name,
      help,
      labelNames: [label],
      registers,
      collect() {
        this.reset();
        for (const value of values) this.inc({ [label]: value }, cells[value].value);
      },
    });
    return cells;
  }

  function countersOfLanes<Name extends string>(
    name: string,
    help: string,
    label: string,
    values: readonly Name[],
  ): Readonly<Record<Lane, Readonly<Record<Name, Counter>>>> {
    const cells = fromNames(lanes, () => fromNames(values, () => new Counter()));
    new CounterFamily({
      name,
      help,
      labelNames: ["lane", label],
      registers,
      collect() {
        this.reset();
        for (const lane of lanes) {
          for (const value of values) this.inc({ lane, [label]: value }, cells[lane][value].value);
        }
      },
    });
    return cells;
  }

  function gauges<Name extends string>(
    name: string,
    help: string,
    label: string,
    values: readonly Name[],
  ): Readonly<Record<Name, Gauge>> {
    const cells = fromNames(values, () => new Gauge());
    new GaugeFamily({
      name,
      help,
      labelNames: [label],
      registers,
      collect() {
        for (const value of values) this.set({ [label]: value }, cells[value].value);
      },
    });
    return cells;
  }

  function counter(name: string, help: string): Counter {
    const cell = new Counter();
    new CounterFamily({
      name,
      help,
      registers,
      collect() {
        this.reset();
        this.inc(cell.value);
      },
    });
    return cell;
  }

  function gauge(name: string, help: string): Gauge {
    const cell = new Gauge();
    new GaugeFamily({
      name,
      help,
      registers,
      collect() {
        this.set(cell.value);
      },
    });
    return cell;
  }

  function durations<Name extends string>(
    name: string,
    help: string,
    label: string,
    values: readonly Name[],
    boundsMs: readonly number[],
  ): Readonly<Record<Name, Durations>> {
    const cells = fromNames(values, () => new Durations(boundsMs));
    const labelled = values.map((value) => ({ labels: { [label]: value }, cell: cells[value] }));
    registry.registerMetric(new DurationsFamily(name, help, [label], labelled));
    return cells;
  }

  function duration(name: string, help: string, boundsMs: readonly number[]): Durations {
    const cell = new Durations(boundsMs);
    registry.registerMetric(new DurationsFamily(name, help, [], [{ labels: {}, cell }]));
    return cell;
  }

  function gaugesOfReplicas(name: string, help: string): ReplicaGauge {
    const values = new Map<string, number>();
    new GaugeFamily({
      name,
      help,
      labelNames: ["replica"],
      registers,
      collect() {
        this.reset();
        for (const [replica, value] of values) this.set({ replica }, value);
      },
    });
    return {
      set: (replica, value) => void values.set(replica, value),
      remove: (replica) => void values.delete(replica),
    };
  }

  function statesOfReplicas(): ReplicaStateMetrics {
    const states = new Map<string, (typeof replicaStates)[number]>();
    new GaugeFamily({
      name: "jellybloom_replica_state",
      help: "1 for the state in which this process sees a replica, 0 for the other states.",
      labelNames: ["replica", "state"],
      registers,
      collect() {
        this.reset();
        for (const [replica, now] of states) {
          for (const state of replicaStates) this.set({ replica, state }, state === now ? 1 : 0);
        }
      },
    });
    return {
      set: (replica, state) => void states.set(replica, state),
      remove: (replica) => void states.delete(replica),
    };
  }

  return {
    counters,
    countersOfLanes,
    counter,
    gauges,
    gauge,
    durations,
    duration,
    statesOfReplicas,
    gaugesOfReplicas,
    process: () => processMetrics(registry),
    /** The page a Prometheus server reads, and its content type. */
    text: async () => ({ contentType: registry.contentType, body: await registry.metrics() }),
  };
}

interface LabelledDurations {
  readonly labels: Record<string, string>;
  readonly cell: Durations;
}

/**
 * A histogram whose numbers are counted by us. prom-client's own finds its labels by a hash and its bucket
 * by a walk over an object at every observation, which is fine once a second and not on each request.
 */
class DurationsFamily extends HistogramFamily<string> {
  readonly #name: string;
  readonly #help: string;
  readonly #cells: readonly LabelledDurations[];

  constructor(
    name: string,
    help: string,
    labelNames: string[],
    cells: readonly LabelledDurations[],
  ) {
    super({ name, help, labelNames, registers: [] });
    this.#name = name;
    this.#help = help;
    this.#cells = cells;
  }

  override async get() {
    const values = this.#cells.flatMap((labelled) => seriesOf(this.#name, labelled));
    const aggregator = "sum" as const;
    return {
      name: this.#name,
      help: this.#help,
      type: "histogram" as never,
      values,
      aggregator,
      collect,
    };
  }

  /** What the registry asks first, though its types do not say so. */
  getForPromString() {
    return this.get();
  }
}

function collect(): void {
  // Nothing to collect: the numbers are read where they are.
}

/** The lines of one histogram: cumulative buckets, sum and count. */
function seriesOf(name: string, { labels, cell }: LabelledDurations) {
  const values: { metricName: string; labels: Record<string, string | number>; value: number }[] =
    [];
  let below = 0;
  for (const [index, boundMs] of [...cell.boundsMs, Number.POSITIVE_INFINITY].entries()) {
    below += cell.counts[index] ?? 0;
    const le = Number.isFinite(boundMs) ? boundMs / 1000 : "+Inf";
    values.push({ metricName: `${name}_bucket`, labels: { ...labels, le }, value: below });
  }
  values.push({ metricName: `${name}_sum`, labels, value: cell.sumMs / 1000 });
  values.push({ metricName: `${name}_count`, labels, value: below });
  return values;
}

/**
 * What the process uses, read when somebody asks. prom-client's default metrics sample the event loop a
 * hundred times a second, which an idle door should not pay for.
 */
function processMetrics(registry: Registry): void {
  const registers = [registry];
  new CounterFamily({
    name: "process_cpu_seconds_total",
    help: "CPU time of this process, in user and system together.",
    registers,
    collect() {
      const { user, system } = process.cpuUsage();
      this.reset();
      this.inc((user + system) / 1e6);
    },
  });
  new GaugeFamily({
    name: "process_resident_memory_bytes",
    help: "Memory of this process as the system counts it.",
    registers,
    collect() {
      this.set(process.memoryUsage.rss());
    },
  });
  new GaugeFamily({
    name: "process_start_time_seconds",
    help: "When this process started, in seconds since the epoch.",
    registers,
  }).set(Math.round(performance.timeOrigin / 1000));
  new GaugeFamily({
    name: "nodejs_heap_used_bytes",
    help: "Memory of JavaScript objects.",
    registers,
    collect() {
      this.set(process.memoryUsage().heapUsed);
    },
  });
  let last = performance.eventLoopUtilization();
  new GaugeFamily({
    name: "nodejs_event_loop_utilization",
    help: "Share of the time since the last time this was asked in which the event loop was busy.",
    registers,
    collect() {
      const now = performance.eventLoopUtilization();
      this.set(performance.eventLoopUtilization(now, last).utilization);
      last = now;
    },
  });
}

function fromNames<Name extends string, Value>(
  names: readonly Name[],
  make: (name: Name) => Value,
): Readonly<Record<Name, Value>> {
  return Object.fromEntries(names.map((name) => [name, make(name)])) as Record<Name, Value>;
}
