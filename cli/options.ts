// The options of every command: name, type, default and meaning, once. The command line is a contract
// with those who run Jellybloom: rows may be added; names, meanings and units of these stay. The help
// text is held by a snapshot test and docs/options.md is written from here, so a change shows in review.

import { isIP } from "node:net";
import { isZone } from "../core/jellyfin/triggers.ts";
import {
  address,
  addressText,
  bytes,
  type ConfigOf,
  cidr,
  dnsPlace,
  durationMs,
  flag,
  httpUrl,
  integer,
  list,
  type NamedSecret,
  type NamedUrl,
  namedSecret,
  namedUrl,
  type OptionRule,
  type OptionTable,
  type OptionType,
  oneOf,
  onOff,
  option,
  optional,
  path,
  replicaName,
  required,
  secretText,
  urlOf,
} from "../core/service/options.ts";
import { type Rebuildable, rebuildable } from "../sidecar/seed/choice.ts";

const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;
const kibibyte = 1024;
const mebibyte = 1024 * kibibyte;
const gibibyte = 1024 * mebibyte;

const timeZone: OptionType<string> = {
  placeholder: "ZONE",
  parse: (text) =>
    isZone(text) ? { value: text } : { mistake: "must be a time zone, such as Europe/Berlin" },
};

const namedFolder: OptionType<{ readonly name: string; readonly path: string }> = {
  placeholder: "NAME=DIR",
  parse(text) {
    const [name = "", ...rest] = text.split("=");
    const folder = rest.join("=").trim();
    return folder === "" || "mistake" in replicaName.parse(name)
      ? { mistake: "must be NAME=DIR, such as a=/srv/jellyfin-a" }
      : { value: { name, path: folder } };
  },
};

const redisUrl = urlOf(["redis", "rediss", "redis+sentinel"]);

// ---- Rows that several commands share ---------------------------------------------------------------

const clusterKey = {
  clusterKey: optional({
    name: "cluster-key",
    section: "Store",
    type: secretText(16),
    secret: true,
    description:
      "The secret that every part of one cluster shares: it seals tokens in the store and signs what" +
      " the parts tell each other. At least 16 characters, for instance from `openssl rand -hex 32`." +
      " Needed with --redis; without it one is made at start, and kept under --data.",
  }),
} satisfies OptionTable;

const storeCall = {
  storeCallLimitMs: option({
    name: "store-call-limit",
    section: "Limits",
    type: durationMs(50, minute),
    default: "1s",
    description:
      "How long one call to the store may take before the store counts as unreachable and the door" +
      " goes on from memory.",
  }),
} satisfies OptionTable;

/** For whatever writes the journal of changes. */
const journal = {
  journalKept: option({
    name: "journal-kept",
    section: "Limits",
    type: integer(1000, 10_000_000),
    default: "100000",
    description:
      "How many entries of the journal of changes are kept, and 64 MiB at most. A change is three entries. A server" +
      " that was away for longer is compared with the others item by item.",
  }),
} satisfies OptionTable;

/** One sidecar leads; who has none waits for the next leader as long as a lease holds. */
const lease = {
  leaseLimitMs: option({
    name: "lease-limit",
    section: "Limits",
    type: durationMs(500, 5 * minute),
    default: "10s",
    description:
      "How long one sidecar leads without renewing it. A leader that dies is followed by another after" +
      " this time at the latest; one that cannot reach the store stops leading a little earlier. What an" +
      " administrator changes waits a little longer than this for the next leader. The same everywhere.",
  }),
} satisfies OptionTable;

/** For whatever has sidecars. */
const leadership = {
  ...lease,
  recorderAwayLimitMs: option({
    name: "recorder-away-limit",
    section: "Limits",
    type: durationMs(second, 24 * hour),
    default: "1m",
    description:
      "How long the server that makes the recordings may be away before another makes them. A recording under" +
      " way goes on there in a second file; the first one's timers are cancelled when it is back.",
  }),
  lockRedis: list({
    name: "lock-redis",
    section: "Store",
    type: redisUrl,
    secret: true,
    max: 8,
    description:
      "One more Redis that holds the leader's lock besides --redis, independent of it and of the" +
      " others; given an even number of times. The lock counts when more than half of all hold it, so" +
      " that with two more any one may be lost. They keep nothing else.",
  }),
} satisfies OptionTable;

const probes = {
  probeIntervalMs: option({
    name: "probe-interval",
    section: "Limits",
    type: durationMs(100, minute),
    default: "1s",
    description: "How often each replica's /health is asked.",
  }),
  probeLimitMs: option({
    name: "probe-limit",
    section: "Limits",
    type: durationMs(50, minute),
    default: "1s",
    description:
      "How long a replica may take to answer a probe before it counts as frozen: it accepts" +
      " connections and answers nothing.",
  }),
  connectLimitMs: option({
    name: "connect-limit",
    section: "Limits",
    type: durationMs(50, minute),
    default: "1s",
    description: "How long a connection to a replica may take to be made.",
  }),
  mintLimitMs: option({
    name: "mint-limit",
    section: "Limits",
    type: durationMs(500, 5 * minute),
    default: "10s",
    description:
      "How long getting one replica's own token for an identity may take, all calls together.",
  }),
} satisfies OptionTable;

const encoder = {
  encoderProbe: option({
    name: "encoder-probe",
    section: "Replicas",
    type: onOff("on|off"),
    default: "on",
    description:
      "Whether each server's encoder is tried with two segments of its shortest film when it is there" +
      " for the first time, and when its encoding options have changed. Where that fails, plays go" +
      " elsewhere from the first segment on.",
  }),
} satisfies OptionTable;

const life = {
  drainLimitMs: option({
    name: "drain-limit",
    section: "Limits",
    type: durationMs(0, hour),
    default: "25s",
    description:
      "How long requests that run may go on after SIGTERM or SIGINT before they are cut. A second" +
      " signal ends the process at once.",
  }),
  logLevel: option({
    name: "log-level",
    section: "Logs",
    type: oneOf(["fatal", "error", "warn", "info", "debug", "trace", "silent"]),
    default: "info",
    description: "What is logged: this level and the more serious ones.",
  }),
  logFormat: option({
    name: "log-format",
    section: "Logs",
    type: oneOf(["auto", "json", "pretty"]),
    default: "auto",
    description:
      "One JSON object per line, or lines for people. auto: for people on a terminal, JSON elsewhere.",
  }),
} satisfies OptionTable;

const tasks = {
  taskData: optional({
    name: "task-data",
    section: "Tasks",
    type: path,
    description:
      "Keeps each server's own triggers of scheduled tasks, and what was started last, in this folder:" +
      " with it the cluster has one schedule. Sidecars also note here how far they are in the journal of" +
      " changes. It must outlive the process. Left out, `up` uses --data;" +
      " without any folder every server goes on running its own tasks.",
  }),
  timeZone: optional({
    name: "time-zone",
    section: "Tasks",
    type: timeZone,
    description:
      "The zone the servers are in, for tasks that run at a time of day. Left out: this machine's.",
  }),
  media: list({
    name: "media",
    section: "Tasks",
    type: path,
    max: 32,
    description:
      "A media folder as this process sees it. No library scan begins while it cannot be read or is" +
      " empty. The servers are asked what they see in any case.",
  }),
  scanLossLimitPercent: option({
    name: "scan-loss-limit",
    section: "Tasks",
    type: integer(0, 100),
    default: "10",
    description:
      "In percent: a library scan that would drop more of the items in one media folder than this is" +
      " held, and said. 100: none is held for it.",
  }),
  libraryCheckIntervalMs: option({
    name: "library-check-interval",
    section: "Tasks",
    type: durationMs(0, 24 * 60 * minute),
    default: "5m",
    description:
      "How often the leader compares what the servers have in their libraries. One that differs is told of," +
      " and scanned once its media are whole. 0: never.",
  }),
  libraryMonitors: option({
    name: "library-monitors",
    section: "Tasks",
    type: oneOf(["one", "all"]),
    default: "one",
    description:
      "Which servers watch the folders of libraries that have their real-time monitor on. one: the leader's," +
      " which tells the others of what it sees. all: each for itself. Give every part the same.",
  }),
} satisfies OptionTable;

// ---- up and proxy: the door -------------------------------------------------------------------------

const doorPlaces = {
  listen: option({
    name: "listen",
    section: "Addresses",
    type: address,
    default: "127.0.0.1:8080",
    description:
      "Where clients connect. Beyond loopback (such as :8080) each server's KnownProxies must list the" +
      " door, or every visitor would count as local.",
  }),
  admin: option({
    name: "admin",
    section: "Addresses",
    type: address,
    default: "127.0.0.1:8081",
    description:
      "Where /jellybloom/live, /jellybloom/ready and /metrics are served, and explain asks. Not for" +
      " clients.",
  }),
  publicUrl: optional({
    name: "public-url",
    section: "Addresses",
    type: httpUrl,
    description:
      "The address under which clients reach the door. It becomes LocalAddress in System/Info, so that" +
      " no client remembers a server behind the door.",
  }),
  discovery: flag({
    name: "discovery",
    section: "Addresses",
    description:
      "Answers Jellyfin's discovery in the local network (UDP) with --public-url, which it needs.",
  }),
  discoveryListen: option({
    name: "discovery-listen",
    section: "Addresses",
    type: address,
    default: ":7359",
    description: "Where discovery listens; clients ask port 7359.",
  }),
  trustedProxies: list({
    name: "trusted-proxies",
    section: "Addresses",
    type: cidr,
    max: 64,
    description:
      "Networks of the proxies in front of the door, whose X-Forwarded-* headers are believed. From" +
      " anybody else they are dropped.",
  }),
  replica: list({
    name: "replica",
    section: "Replicas",
    type: namedUrl,
    max: 16,
    description:
      "A Jellyfin server behind the door, by a name of its own: a=http://10.0.0.5:8096. Jellyfin's" +
      " BaseUrl, where one is set, is part of the address.",
  }),
  prefer: optional({
    name: "prefer",
    section: "Replicas",
    type: replicaName,
    description:
      "Places every user on this replica while it is healthy, and makes the others spares. Without it" +
      " users are spread.",
  }),
  preferAfterMs: option({
    name: "prefer-after",
    section: "Replicas",
    type: durationMs(0, 24 * hour),
    default: "10m",
    description:
      "How long the preferred replica must have been healthy again before people who watch nothing go" +
      " back to it, a few at a time.",
  }),
  returnAfterMs: option({
    name: "return-after",
    section: "Replicas",
    type: durationMs(0, 24 * hour),
    default: "10s",
    description:
      "How long a replica that came back must have been healthy before people who watch nothing go to" +
      " it, a few at a time, until the load is even.",
  }),
  homeStayMs: option({
    name: "home-stay",
    section: "Replicas",
    type: durationMs(0, 24 * hour),
    default: "30s",
    description: "A user is not moved twice within this time, unless their replica is gone.",
  }),
  quickConnect: option({
    name: "quick-connect",
    section: "Replicas",
    type: onOff("on|off"),
    default: "on",
    description:
      "Whether clients may use Quick Connect through the door. It must be on at the servers in any" +
      " case: the cluster gets its tokens by it. off: clients are told that it is off.",
  }),
  legacyTokens: option({
    name: "legacy-tokens",
    section: "Replicas",
    type: oneOf(["translate", "pass"]),
    default: "translate",
    description:
      "What becomes of tokens in the forms of older apps (X-Emby-Token, api_key …). translate: into the" +
      " form that every server accepts, so that such apps work with a 12.0 server. pass: as they came.",
  }),
  data: optional({
    name: "data",
    section: "Store",
    type: path,
    description:
      "Keeps the embedded store in this folder, so that a restart forgets no login. Without it and" +
      " without --redis the store is in memory.",
  }),
  spool: optional({
    name: "spool",
    section: "Store",
    type: path,
    description:
      "A folder of this process alone: changes that wait for a store which is away are kept there, too, so that" +
      " they outlive this process. Left out, they are kept in --data, or in memory.",
  }),
  redis: optional({
    name: "redis",
    section: "Store",
    type: redisUrl,
    secret: true,
    description:
      "Keeps the store in Redis: redis://[user:password@]host:6379/0, rediss:// with TLS, or" +
      " redis+sentinel://[:password@]host:26379,host:26379/master.",
  }),
  ...clusterKey,
  explainHeader: flag({
    name: "explain-header",
    section: "Logs",
    description:
      "Adds X-Jellybloom-Explain to every answer: which replica answered and why. It shows the names" +
      " of replicas to clients.",
  }),
} satisfies OptionTable;

const doorLimits = {
  apiHoldLimitMs: option({
    name: "api-hold-limit",
    section: "Limits",
    type: durationMs(0, minute),
    default: "4500ms",
    description:
      "How long an API request may wait in all for a replica that can answer it, before it is given up." +
      " Clients lose patience at 5 s.",
  }),
  mediaHoldLimitMs: option({
    name: "media-hold-limit",
    section: "Limits",
    type: durationMs(0, minute),
    default: "7500ms",
    description:
      "The same for media: playlists, segments, direct play. Players lose patience at 8 s.",
  }),
  silenceLimitMs: option({
    name: "silence-limit",
    section: "Limits",
    type: durationMs(50, minute),
    default: "400ms",
    description:
      "After this much silence of one request its replica is probed. Silence alone is not death: while" +
      " probes are answered the request goes on waiting.",
  }),
  ...probes,
  quietProbeIntervalMs: option({
    name: "quiet-probe-interval",
    section: "Limits",
    type: durationMs(100, minute),
    default: "2s",
    description:
      "How often each replica's /health is asked while nobody uses the door: no request is under way, no socket is open, and for a minute" +
      " nobody has asked for anything. Whoever comes has every replica asked at once.",
  }),
  mintWaitLimitMs: option({
    name: "mint-wait-limit",
    section: "Limits",
    type: durationMs(0, minute),
    default: "4s",
    description:
      "How long a request may wait for a token which its replica has yet to be asked for.",
  }),
  journalWaitLimitMs: option({
    name: "journal-wait-limit",
    section: "Limits",
    type: durationMs(0, minute),
    default: "500ms",
    description:
      "How long a change waits until the store has its entry in the journal. After that it goes on, and" +
      " the entry is written as soon as the store can be reached.",
  }),
  bodyBufferLimitBytes: option({
    name: "body-buffer-limit",
    section: "Limits",
    type: bytes(0, 64 * mebibyte),
    default: "1MiB",
    description:
      "Request bodies up to this size are kept until they are answered, so that the request can be" +
      " repeated elsewhere.",
  }),
  bodyLimitBytes: option({
    name: "body-limit",
    section: "Limits",
    type: bytes(kibibyte, 16 * gibibyte),
    default: "128MiB",
    description: "Larger request bodies are refused with 413.",
  }),
  responseBufferLimitBytes: option({
    name: "response-buffer-limit",
    section: "Limits",
    type: bytes(0, 64 * mebibyte),
    default: "2MiB",
    description:
      "API answers up to this size are read whole before the first byte is sent on, so that an answer" +
      " which breaks off can be asked for elsewhere.",
  }),
  segmentMemoryLimitBytes: option({
    name: "segment-memory-limit",
    section: "Limits",
    type: bytes(0, 64 * gibibyte),
    default: "160MiB",
    description:
      "Memory for HLS segments that are being delivered or were just sent. Beyond it segments are" +
      " streamed and can break off.",
  }),
  segmentKeepMs: option({
    name: "segment-keep",
    section: "Limits",
    type: durationMs(0, hour),
    default: "60s",
    description: "How long a segment that was sent is kept for a Range into it.",
  }),
  headerLimitBytes: option({
    name: "header-limit",
    section: "Limits",
    type: bytes(kibibyte, mebibyte),
    default: "32KiB",
    description: "Request heads larger than this are refused with 431.",
  }),
  headersTimeLimitMs: option({
    name: "headers-time-limit",
    section: "Limits",
    type: durationMs(second, hour),
    default: "20s",
    description: "How long a client may take to send a request's head.",
  }),
  requestTimeLimitMs: option({
    name: "request-time-limit",
    section: "Limits",
    type: durationMs(second, 24 * hour),
    default: "5m",
    description: "How long a client may take to send a whole request, its body included.",
  }),
  clientStallLimitMs: option({
    name: "client-stall-limit",
    section: "Limits",
    type: durationMs(second, 24 * hour),
    default: "1h",
    description:
      "How long a client may read nothing of an answer before its connection is cut: a paused player" +
      " reads nothing.",
  }),
  keepAliveLimitMs: option({
    name: "keep-alive-limit",
    section: "Limits",
    type: durationMs(second, hour),
    default: "75s",
    description: "How long a client's idle connection is kept for its next request.",
  }),
  connectionsLimit: option({
    name: "connections-limit",
    section: "Limits",
    type: integer(1, 1_000_000),
    default: "20000",
    description: "Connections of clients at one time; more are closed as they come.",
  }),
  replicaConnectionsLimit: option({
    name: "replica-connections-limit",
    section: "Limits",
    type: integer(1, 100_000),
    default: "1024",
    description:
      "API connections to one replica at one time; more requests wait for one to be free.",
  }),
  replicaIdleLimitMs: option({
    name: "replica-idle-limit",
    section: "Limits",
    type: durationMs(second, hour),
    default: "30s",
    description: "How long an idle connection to a replica is kept for the next request.",
  }),
  socketIdleLimitMs: option({
    name: "socket-idle-limit",
    section: "Limits",
    type: durationMs(second, hour),
    default: "60s",
    description:
      "How long a WebSocket's client may say nothing, not even to a ping, before it is cut.",
  }),
  socketMessageLimitBytes: option({
    name: "socket-message-limit",
    section: "Limits",
    type: bytes(kibibyte, 256 * mebibyte),
    default: "4MiB",
    description: "WebSocket messages larger than this close their socket.",
  }),
  ...storeCall,
  ...journal,
  unreadyWaitMs: option({
    name: "unready-wait",
    section: "Limits",
    type: durationMs(0, 10 * minute),
    default: "0s",
    description:
      "How long the door goes on accepting after SIGTERM while it already says unready: the time a load" +
      " balancer in front needs to notice.",
  }),
} satisfies OptionTable;

/** What a sidecar gives to others of its server. */
const givenAway = {
  server: optional({
    name: "server",
    section: "Seed",
    type: path,
    description:
      "The folder of the server beside it as this process sees it, read-only: with it other replicas are seeded" +
      " from here, and backups taken.",
  }),
} satisfies OptionTable;

/** For whatever speaks to servers by itself. */
const serverKeys = {
  apiKey: list({
    name: "api-key",
    section: "Replicas",
    type: namedSecret,
    secret: true,
    max: 17,
    description:
      "A Jellyfin API key: KEY for all replicas (servers copied from one another share it) or" +
      " NAME=KEY for one.",
  }),
} satisfies OptionTable;

export const upOptions = {
  ...doorPlaces,
  replica: list({
    name: "replica",
    section: "Replicas",
    type: namedUrl,
    min: 1,
    max: 16,
    description: doorPlaces.replica.description,
  }),
  apiKey: {
    ...serverKeys.apiKey,
    description: `${serverKeys.apiKey.description} Needed with more than one replica.`,
  },
  ...leadership,
  ...encoder,
  server: list({
    name: "server",
    section: "Seed",
    type: namedFolder,
    max: 16,
    description:
      "The folder of a server as this process sees it, read-only: with it other replicas are seeded from here, and" +
      " backups taken.",
  }),
  ...tasks,
  ...doorLimits,
  ...life,
} satisfies OptionTable;

export const proxyOptions = {
  ...doorPlaces,
  discover: list({
    name: "discover",
    section: "Replicas",
    type: dnsPlace,
    max: 4,
    description:
      "Finds replicas by DNS, such as a headless service: every address of dns:NAME:PORT, or the SRV" +
      " records of dns:_http._tcp.NAME. Goes together with --replica and with what sidecars announce.",
  }),
  forgetAfterMs: option({
    name: "forget-after",
    section: "Limits",
    type: durationMs(second, 24 * hour),
    default: "10m",
    description:
      "A replica that is not listed, that neither sidecar nor DNS names any longer and that does not" +
      " answer is forgotten after this time.",
  }),
  ...lease,
  ...doorLimits,
  ...life,
} satisfies OptionTable;

export const sidecarOptions = {
  name: required({
    name: "name",
    section: "Replica",
    type: replicaName,
    description: "The name of the replica beside which this sidecar stands.",
  }),
  podUid: optional({
    name: "pod-uid",
    section: "Replica",
    type: replicaName,
    description:
      "The uid of the pod, where there is one: who holds the leader's lease is then told apart by it, too.",
  }),
  jellyfin: required({
    name: "jellyfin",
    section: "Replica",
    type: httpUrl,
    description: "Where this sidecar reaches its Jellyfin, such as http://127.0.0.1:8096.",
  }),
  advertise: optional({
    name: "advertise",
    section: "Replica",
    type: httpUrl,
    description: "Where the proxies reach that Jellyfin. Left out: at --jellyfin.",
  }),
  apiKey: required({
    name: "api-key",
    section: "Replica",
    type: secretText(1),
    secret: true,
    description: "A Jellyfin API key of that server.",
  }),
  listen: option({
    name: "listen",
    section: "Addresses",
    type: address,
    default: "127.0.0.1:8090",
    description:
      "Where the sidecar serves /jellybloom/live, /jellybloom/ready, /metrics and what proxies ask it.",
  }),
  redis: required({
    name: "redis",
    section: "Store",
    type: redisUrl,
    secret: true,
    description: doorPlaces.redis.description,
  }),
  clusterKey: required({
    name: "cluster-key",
    section: "Store",
    type: secretText(16),
    secret: true,
    description:
      "The secret that every part of one cluster shares. At least 16 characters, for instance from" +
      " `openssl rand -hex 32`.",
  }),
  ...leadership,
  ...encoder,
  ...givenAway,
  ...tasks,
  ...probes,
  ...storeCall,
  ...journal,
  ...life,
} satisfies OptionTable;

const adminAt = (description: string) =>
  option({
    name: "admin",
    section: "Options",
    type: httpUrl,
    default: "http://127.0.0.1:8081",
    description,
  });

/** What every command asks that talks to a running cluster. */
const asking = {
  admin: adminAt("The admin address of the door that is asked."),
  clusterKey: required({
    name: "cluster-key",
    section: "Options",
    type: secretText(16),
    secret: true,
    description:
      "The cluster key of that door: who asks must prove that they know it. `up` has made one itself, where it" +
      " was given none: it is in the folder of its --data, in the file cluster.key.",
  }),
  json: flag({
    name: "json",
    section: "Options",
    description: "Prints the answer as one line of JSON, for programs.",
  }),
} satisfies OptionTable;

/** A drain may as well be asked of a sidecar. */
const askingAnyone = {
  ...asking,
  admin: adminAt(
    "The admin address of a door, or the address of a sidecar, which is asked about its own replica" +
      " (then NAME can be left out).",
  ),
} satisfies OptionTable;

export const statusOptions = { ...asking } satisfies OptionTable;

export const drainOptions = {
  ...askingAnyone,
  limitMs: option({
    name: "limit",
    section: "Options",
    type: durationMs(0, hour),
    default: "10s",
    description:
      "How long what people do there may go on; then the rest is moved by force, which a film that is" +
      " played directly survives, too.",
  }),
  untilRestart: flag({
    name: "until-restart",
    section: "Options",
    description:
      "The order ends when the replica's sidecar starts again. For whatever stops server and sidecar" +
      " together, such as preStop in Kubernetes; without it `jellybloom undrain` ends it.",
  }),
  wait: option({
    name: "wait",
    section: "Options",
    type: onOff("on|off"),
    default: "on",
    description: "Whether to wait until the replica is ready to stop.",
  }),
} satisfies OptionTable;

export const undrainOptions = { ...askingAnyone } satisfies OptionTable;

export const explainOptions = {
  ...asking,
  token: optional({
    name: "token",
    section: "Options",
    type: secretText(1),
    secret: true,
    description: "The token which the request would carry.",
  }),
} satisfies OptionTable;

const hostText: OptionType<string> = {
  placeholder: "ADDRESS",
  parse: (text) =>
    isIP(text) === 0 ? { mistake: "must be an IP address, such as 10.0.0.2" } : { value: text },
};

export const leaveOptions = {
  replica: list({
    name: "replica",
    section: "Replicas",
    type: namedUrl,
    min: 1,
    max: 16,
    description: "A server as Jellybloom was given it: a=http://10.0.0.5:8096.",
  }),
  ...serverKeys,
  keep: optional({
    name: "keep",
    section: "Replicas",
    type: replicaName,
    description:
      "The server that everybody uses from now on: the devices that must log in again are told for it" +
      " alone.",
  }),
  server: list({
    name: "server",
    section: "Replicas",
    type: namedFolder,
    max: 16,
    description:
      "The folder of a server that is stopped, its config folder or the one above it: its triggers are" +
      " put back in its files. A server that runs is never written to but through its API.",
  }),
  data: optional({
    name: "data",
    section: "Store",
    type: path,
    description: "The folder that `up` had as --data.",
  }),
  taskData: list({
    name: "task-data",
    section: "Store",
    type: path,
    max: 16,
    description: "A folder that a sidecar or `up` had as --task-data. All of them are looked into.",
  }),
  redis: optional({
    name: "redis",
    section: "Store",
    type: redisUrl,
    secret: true,
    description: doorPlaces.redis.description,
  }),
  clusterKey: optional({
    name: "cluster-key",
    section: "Store",
    type: secretText(16),
    secret: true,
    description:
      "The cluster's secret, by which the logins that Jellybloom made are found. Left out, the one" +
      " under --data.",
  }),
  json: flag({
    name: "json",
    section: "Options",
    description: "Tells what was done, and what is left, as one JSON object.",
  }),
} satisfies OptionTable;

const rebuildables: OptionType<readonly Rebuildable[]> = {
  placeholder: "NAMES",
  parse(text) {
    const given = text.split(",").map((name) => name.trim());
    const known = rebuildable.filter((name) => given.includes(name));
    return given.every((name) => rebuildable.some((candidate) => candidate === name))
      ? { value: known }
      : { mistake: `must be some of ${rebuildable.join(", ")}, separated by commas` };
  },
};

/** Whoever wants to know how far a replica has come in the journal asks the sidecar beside it. */
const beside = {
  sidecar: optional({
    name: "sidecar",
    section: "Cluster",
    type: httpUrl,
    description:
      "The address of the sidecar beside the server that is copied (of `up`: its admin address and" +
      " /jellybloom/of/NAME). It tells how far the journal had come there; without --from it also sends the" +
      " data, for which it needs --server.",
  }),
  clusterKey: optional({
    name: "cluster-key",
    section: "Cluster",
    type: secretText(16),
    secret: true,
    description: "The cluster key, by which the sidecar knows who asks.",
  }),
} satisfies OptionTable;

const version: OptionType<string> = {
  placeholder: "VERSION",
  parse: (text) =>
    /^\d+(\.\d+){1,3}([.-].*)?$/.test(text)
      ? { value: text }
      : { mistake: "must be a version of Jellyfin, such as 10.11.11" },
};

const serverId: OptionType<string> = {
  placeholder: "SERVERID",
  parse: (text) =>
    /^([0-9a-f-]{32,36}|unknown)$/i.test(text)
      ? { value: text }
      : { mistake: "must be the id of the server in the target, as a run without it tells" },
};

export const seedOptions = {
  from: optional({
    name: "from",
    section: "Folders",
    type: path,
    description:
      "The folder of the server that is there, which may be running: what is /config in a container," +
      " /var/lib/jellyfin of a system package, or its data folder. It is only read.",
  }),
  fromArchive: optional({
    name: "from-archive",
    section: "Folders",
    type: path,
    description: "An archive that `jellybloom backup` wrote, instead of a server's folder.",
  }),
  to: required({
    name: "to",
    section: "Folders",
    type: path,
    description:
      "The folder of the server that is to be its copy. That server must not run. The folder is empty," +
      " or not there, or holds an unfinished copy.",
  }),
  fromConfig: optional({
    name: "from-config",
    section: "Folders",
    type: path,
    description:
      "The config folder of the server that is there (the one with system.xml), where it is not found by" +
      " --from.",
  }),
  toConfig: optional({
    name: "to-config",
    section: "Folders",
    type: path,
    description:
      "The config folder of the copy. Without it the copy's folders lie to one another as the source's.",
  }),
  seenAs: optional({
    name: "seen-as",
    section: "Folders",
    type: path,
    description:
      "The path under which the new server sees its data folder, such as /config in a container. Without" +
      " it: as the old server sees its own; or, where that one is the very path in --from, as --to.",
  }),
  without: optional({
    name: "without",
    section: "What is copied",
    type: rebuildables,
    description:
      `What to leave out, of ${rebuildable.join(", ")}: the first three are made again by the new server` +
      " when they are needed. Caches, logs and transcodes are always left out.",
  }),
  followLinks: flag({
    name: "follow-links",
    section: "What is copied",
    description:
      "Copies what is behind links that lead out of the server's folders. Without it such a link stops the" +
      " copy, since both servers would write to the same place.",
  }),
  replace: optional({
    name: "replace",
    section: "What is copied",
    type: serverId,
    description:
      "Throws away the server with this id which the target holds. Its data is lost once the copy is whole.",
  }),
  ifEmpty: flag({
    name: "if-empty",
    section: "What is copied",
    description:
      "Does nothing, and ends well, when the target holds a whole server already: for whatever runs before each" +
      " start of a server, such as an init container.",
  }),
  forVersion: optional({
    name: "for-version",
    section: "What is copied",
    type: version,
    description:
      "The version of Jellyfin which the new server runs: data of a newer one are refused, because no server can" +
      " use those.",
  }),
  ...beside,
  name: optional({
    name: "name",
    section: "Cluster",
    type: replicaName,
    description:
      "The new server's name in the cluster. With it and --sidecar the cluster is told what the copy knows: its" +
      " journal goes on from there, and so do its logins.",
  }),
  retryLimitMs: option({
    name: "retry-limit",
    section: "Cluster",
    type: durationMs(0, 24 * 3_600_000),
    default: "2m",
    description: "How long a --sidecar that goes away in the middle is waited for.",
  }),
} satisfies OptionTable;

export type SeedConfig = ConfigOf<typeof seedOptions>;

export const backupOptions = {
  from: optional({
    name: "from",
    section: "Folders",
    type: path,
    description:
      "The folder of the server, which may be running: what is /config in a container, /var/lib/jellyfin of a" +
      " system package, or its data folder. It is only read.",
  }),
  fromConfig: optional({
    name: "from-config",
    section: "Folders",
    type: path,
    description: "Its config folder (the one with system.xml), where that is not found by --from.",
  }),
  to: optional({
    name: "to",
    section: "Folders",
    type: path,
    description: "The archive to write, a tar file; - writes it to the standard output.",
  }),
  scratch: optional({
    name: "scratch",
    section: "Folders",
    type: path,
    description:
      "Where a database is copied to before it goes into the archive. It must have room for the largest. Left" +
      " out: the system's folder for such files.",
  }),
  verify: optional({
    name: "verify",
    section: "Folders",
    type: path,
    description:
      "An archive to prove instead of writing one: every byte, every database in it, and the server's id.",
  }),
  without: optional({
    name: "without",
    section: "What is copied",
    type: rebuildables,
    description: `What to leave out, of ${rebuildable.join(", ")}. Caches, logs and transcodes always are.`,
  }),
  followLinks: flag({
    name: "follow-links",
    section: "What is copied",
    description: "Copies what is behind links that lead out of the server's folders.",
  }),
  ...beside,
} satisfies OptionTable;

export type BackupConfig = ConfigOf<typeof backupOptions>;

const command: OptionType<string> = {
  placeholder: "COMMAND",
  parse: (text) => (text.trim() === "" ? { mistake: "must be a command" } : { value: text }),
};

export const reseedOptions = {
  admin: asking.admin,
  clusterKey: asking.clusterKey,
  sidecar: required({
    name: "sidecar",
    section: "Folders",
    type: httpUrl,
    description:
      "The address of the sidecar beside the healthy server that is copied (of `up`: its admin address and" +
      " /jellybloom/of/NAME). It tells how far the journal had come, and sends the data where neither --from nor" +
      " --from-archive is given.",
  }),
  from: optional({
    name: "from",
    section: "Folders",
    type: path,
    description: "The folder of the healthy server, where it is on this machine.",
  }),
  fromArchive: optional({
    name: "from-archive",
    section: "Folders",
    type: path,
    description: "An archive of the healthy server instead of the server itself.",
  }),
  to: required({
    name: "to",
    section: "Folders",
    type: path,
    description:
      "The folder of the replica that is seeded anew. What it holds is lost once the copy is whole.",
  }),
  toConfig: optional({
    name: "to-config",
    section: "Folders",
    type: path,
    description: "Its config folder, where that is not found by --to.",
  }),
  seenAs: optional({
    name: "seen-as",
    section: "Folders",
    type: path,
    description: "The path under which it sees its data folder, where that is not as before.",
  }),
  followLinks: flag({
    name: "follow-links",
    section: "Folders",
    description: "Copies what is behind links that lead out of the healthy server's folders.",
  }),
  replace: optional({
    name: "replace",
    section: "Folders",
    type: serverId,
    description:
      "The id of the server that --to holds, where it is another than the healthy server's: without this only an" +
      " old copy of the same server is replaced.",
  }),
  forVersion: optional({
    name: "for-version",
    section: "Folders",
    type: version,
    description:
      "The version of Jellyfin which the replica runs: data of a newer one are refused. Left out: the newest that" +
      " has used the data in --to, as these tell.",
  }),
  stopCommand: optional({
    name: "stop-command",
    section: "Server",
    type: command,
    description:
      "What stops the replica's server, such as `systemctl stop jellyfin-b`. Left out: you are told when to stop it.",
  }),
  startCommand: optional({
    name: "start-command",
    section: "Server",
    type: command,
    description: "What starts it again. Left out: you are told when to.",
  }),
  drainLimitMs: option({
    name: "limit",
    section: "Server",
    type: durationMs(0, hour),
    default: "10s",
    description: "How long what people do there may go on before it is moved by force.",
  }),
  waitLimitMs: option({
    name: "wait-limit",
    section: "Server",
    type: durationMs(second, 24 * hour),
    default: "30m",
    description: "How long to wait until the server has stopped, and until it is ready again.",
  }),
} satisfies OptionTable;

export type ReseedConfig = ConfigOf<typeof reseedOptions>;

export const doctorOptions = {
  replica: list({
    name: "replica",
    section: "Replicas",
    type: namedUrl,
    max: 16,
    description:
      "A server to examine: a=http://10.0.0.5:8096. Without any, the Jellybloom that runs is asked to examine" +
      " its own (--admin, --cluster-key).",
  }),
  ...serverKeys,
  door: list({
    name: "door",
    section: "Replicas",
    type: hostText,
    max: 16,
    description:
      "The address from which a door reaches the servers. Left out, it is only looked whether the servers" +
      " know any proxy.",
  }),
  admin: option({
    name: "admin",
    section: "Options",
    type: httpUrl,
    default: "http://127.0.0.1:8081",
    description: "The admin address of `up`, or the address of any sidecar.",
  }),
  clusterKey: optional({
    name: "cluster-key",
    section: "Options",
    type: secretText(16),
    secret: true,
    description: "The cluster key of those who are asked; needed without --replica.",
  }),
  json: asking.json,
} satisfies OptionTable;

export type DoctorConfig = ConfigOf<typeof doctorOptions>;
export type UpConfig = ConfigOf<typeof upOptions>;
export type ProxyConfig = ConfigOf<typeof proxyOptions>;
export type SidecarConfig = ConfigOf<typeof sidecarOptions>;
export type ExplainConfig = ConfigOf<typeof explainOptions>;
export type LeaveConfig = ConfigOf<typeof leaveOptions>;
export type StatusConfig = ConfigOf<typeof statusOptions>;
export type DrainConfig = ConfigOf<typeof drainOptions>;
export type UndrainConfig = ConfigOf<typeof undrainOptions>;

const doorOptions = { ...doorPlaces, ...doorLimits, ...life } satisfies OptionTable;

/** What `up` and `proxy` have in common: the door takes this and does not care which of them it is. */
export type DoorConfig = Omit<ProxyConfig, "discover" | "forgetAfterMs"> &
  Partial<Pick<ProxyConfig, "discover" | "forgetAfterMs">>;

/** The API key of one replica: its own, else the one for all, else undefined. */
export function apiKeyOf(keys: readonly NamedSecret[], replica: string): string | undefined {
  const own = keys.find((key) => key.name === replica);
  return (own ?? keys.find((key) => key.name === undefined))?.secret;
}

// ---- Relations --------------------------------------------------------------------------------------

const doorRules: readonly OptionRule<typeof doorOptions>[] = [
  { about: ["data", "redis"], check: oneStore },
  {
    about: ["redis", "clusterKey"],
    check: ({ redis, clusterKey }) =>
      redis !== undefined && clusterKey === undefined
        ? ["--redis needs --cluster-key: what lies in Redis is sealed with it."]
        : [],
  },
  {
    about: ["discovery", "publicUrl"],
    check: ({ discovery, publicUrl }) =>
      discovery && publicUrl === undefined
        ? ["--discovery needs --public-url: it is what discovery answers with."]
        : [],
  },
  {
    about: ["listen", "admin"],
    check: ({ listen, admin }) =>
      listen.port !== 0 &&
      listen.port === admin.port &&
      (listen.host === admin.host || listen.host === "" || admin.host === "")
        ? [`--listen and --admin must not be the same place (${addressText(admin)}).`]
        : [],
  },
  { about: ["replica"], check: ({ replica }) => repeatedReplicas(replica) },
];

function oneStore({ data, redis }: Pick<LeaveConfig, "data" | "redis">): string[] {
  return data !== undefined && redis !== undefined
    ? ["--data and --redis exclude each other: the store lies in one place."]
    : [];
}

function repeatedReplicas(replicas: readonly NamedUrl[]): string[] {
  const mistakes: string[] = [];
  const names = new Set<string>();
  const places = new Map<string, string>();
  for (const { name, origin, basePath } of replicas) {
    const place = origin + basePath;
    const other = places.get(place);
    if (names.has(name)) mistakes.push(`--replica has the name ${name} twice.`);
    else if (other !== undefined) {
      mistakes.push(`--replica ${other} and ${name} are the same server (${place}).`);
    }
    names.add(name);
    places.set(place, name);
  }
  return mistakes;
}

function unknownPreference({ prefer, replica }: DoorConfig): string[] {
  if (prefer === undefined || replica.some(({ name }) => name === prefer)) return [];
  return [`--prefer ${prefer} is not the name of a --replica.`];
}

/** Of an even number of servers, half could hold the lock and half refuse it. */
function evenLocks(lockRedis: readonly string[]): string[] {
  return lockRedis.length % 2 === 0
    ? []
    : [
        "--lock-redis must be given an even number of times: with --redis that is an odd number of servers," +
          " of which more than half can always agree.",
      ];
}

export const upRules: readonly OptionRule<typeof upOptions>[] = [
  ...(doorRules as readonly OptionRule<typeof upOptions>[]),
  {
    about: ["lockRedis", "redis"],
    check: ({ lockRedis, redis }) =>
      lockRedis.length > 0 && redis === undefined
        ? ["--lock-redis needs --redis: one process needs no lock."]
        : evenLocks(lockRedis),
  },
  { about: ["prefer", "replica"], check: unknownPreference },
  {
    about: ["apiKey", "replica"],
    check({ apiKey, replica }) {
      const names = new Set(replica.map(({ name }) => name));
      const mistakes: string[] = [];
      if (apiKey.filter(({ name }) => name === undefined).length > 1) {
        mistakes.push(
          "--api-key for all replicas was given more than once; write NAME=KEY for one.",
        );
      }
      for (const { name } of apiKey) {
        if (name === undefined || names.has(name)) continue;
        mistakes.push(`--api-key names ${name}, which is not the name of a --replica.`);
      }
      if (replica.length > 1) {
        const without = [...names].filter((name) => apiKeyOf(apiKey, name) === undefined);
        if (without.length > 0) {
          mistakes.push(
            `--api-key is needed for ${without.join(", ")}: with more than one replica the cluster` +
              " gets each server's own tokens by it.",
          );
        }
      }
      return mistakes;
    },
  },
];

export const proxyRules: readonly OptionRule<typeof proxyOptions>[] = [
  ...(doorRules as readonly OptionRule<typeof proxyOptions>[]),
  {
    about: ["redis", "replica", "discover"],
    check: ({ redis, replica, discover }) =>
      redis === undefined && replica.length === 0 && discover.length === 0
        ? ["--replica, --discover or --redis is needed: else there is nobody to pass requests to."]
        : [],
  },
  {
    about: ["prefer", "replica", "redis", "discover"],
    // With Redis the sidecars announce replicas, so a name may be known only later; DNS is asked later, too.
    check: (config) =>
      config.redis === undefined && config.discover.length === 0 ? unknownPreference(config) : [],
  },
];

export const leaveRules: readonly OptionRule<typeof leaveOptions>[] = [
  { about: ["data", "redis"], check: oneStore },
  { about: ["replica"], check: ({ replica }) => repeatedReplicas(replica) },
  {
    about: ["keep", "server", "replica"],
    check({ keep, server, replica }) {
      const names = new Set(replica.map(({ name }) => name));
      const said = [
        ...(keep === undefined ? [] : [`--keep ${keep}`]),
        ...server.map(({ name }) => `--server ${name}`),
      ];
      return said
        .filter((text) => !names.has(text.split(" ")[1] ?? ""))
        .map((text) => `${text} is not the name of a --replica.`);
    },
  },
];

export const sidecarRules: readonly OptionRule<typeof sidecarOptions>[] = [
  { about: ["lockRedis"], check: ({ lockRedis }) => evenLocks(lockRedis) },
];

/** What is asked of a sidecar needs the cluster key. */
function besideMistakes({
  sidecar,
  clusterKey,
}: Pick<BackupConfig, "sidecar" | "clusterKey">): string[] {
  return sidecar !== undefined && clusterKey === undefined
    ? ["--sidecar needs --cluster-key: it answers nobody else."]
    : [];
}

export const seedRules: readonly OptionRule<typeof seedOptions>[] = [
  { about: ["sidecar", "clusterKey"], check: besideMistakes },
  {
    about: ["from", "fromArchive", "sidecar"],
    check({ from, fromArchive, sidecar }) {
      return from === undefined && fromArchive === undefined && sidecar === undefined
        ? ["--from DIR is needed (or JELLYBLOOM_FROM), or --from-archive, or --sidecar."]
        : oneSource({ from, fromArchive });
    },
  },
  {
    about: ["name", "sidecar"],
    check: ({ name, sidecar }) =>
      name !== undefined && sidecar === undefined
        ? ["--name needs --sidecar: there is nobody else to tell."]
        : [],
  },
];

function oneSource({ from, fromArchive }: Pick<SeedConfig, "from" | "fromArchive">): string[] {
  return from !== undefined && fromArchive !== undefined
    ? ["--from and --from-archive exclude each other: a copy has one source."]
    : [];
}

export const backupRules: readonly OptionRule<typeof backupOptions>[] = [
  { about: ["sidecar", "clusterKey"], check: besideMistakes },
  {
    about: ["from", "sidecar", "to", "verify"],
    check({ from, sidecar, to, verify }) {
      if (verify !== undefined) {
        return from === undefined && sidecar === undefined && to === undefined
          ? []
          : ["--verify proves an archive and goes with neither --from, --sidecar nor --to."];
      }
      return [
        ...(from === undefined && sidecar === undefined ? ["--from or --sidecar is needed."] : []),
        ...(to === undefined ? ["--to is needed: the archive to write, or - ."] : []),
      ];
    },
  },
];

export const reseedRules: readonly OptionRule<typeof reseedOptions>[] = [
  { about: ["from", "fromArchive"], check: oneSource },
];

export const doctorRules: readonly OptionRule<typeof doctorOptions>[] = [
  { about: ["replica"], check: ({ replica }) => repeatedReplicas(replica) },
  {
    about: ["replica", "clusterKey"],
    check: ({ replica, clusterKey }) =>
      replica.length === 0 && clusterKey === undefined
        ? ["--replica is needed, or --cluster-key, to ask the Jellybloom that runs."]
        : [],
  },
];

export const explainRules: readonly OptionRule<typeof explainOptions>[] = [];
export const statusRules: readonly OptionRule<typeof statusOptions>[] = [];
export const drainRules: readonly OptionRule<typeof drainOptions>[] = [];
export const undrainRules: readonly OptionRule<typeof undrainOptions>[] = [];
