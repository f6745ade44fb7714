// Start-up findings: what differs between the servers of a cluster, and what about one of them cannot work
// or is not safe. Pure: facts.ts asks the servers. Each finding is one sentence that says what it means for
// those who watch, and the exact value to set.
//
// `refuse` is for what would harm on the first day and cannot heal by itself; a server that is merely away
// or behind is a warning, because a door that does not start helps nobody.

import type {
  EncodingFacts,
  HealthAnswer,
  NetworkFacts,
  ServerInfo,
  ServerUser,
} from "../core/jellyfin/client.ts";
import type { Rival } from "../core/jellyfin/ours.ts";
import { rivalSentence, twinCure, twinSentence } from "./presence.ts";

/** What was found out about one server; undefined: it could not be found out in time. */
export interface ReplicaFacts {
  readonly name: string;
  /** Where it was asked, with its base path. */
  readonly url: string;
  readonly basePath: string;
  readonly health: HealthAnswer["state"];
  readonly healthReason: string;
  readonly info: ServerInfo | undefined;
  /** `none`: there is no API key for this server. */
  readonly key: "works" | "refused" | "none" | undefined;
  readonly users: readonly ServerUser[] | undefined;
  readonly quickConnect: boolean | undefined;
  readonly network: NetworkFacts | undefined;
  readonly encoding: EncodingFacts | undefined;
  /** The address from which this machine's connections to the server come. */
  readonly doorAddress: string | undefined;
  /** Whether KnownProxies names that address: by itself, in a network, or by a host name. */
  readonly proxiesNameDoor: boolean | undefined;
  /** What the server made of a forwarded address. */
  readonly forwarding: "honoured" | "ignored" | "unknown";
  readonly rival: Rival | undefined;
  /** Another name of this server, by which this cluster keeps it as well. */
  readonly twin?: string | undefined;
}

export interface Finding {
  readonly severity: "refuse" | "warn";
  /** Whole, with its full stop. */
  readonly sentence: string;
}

export interface FindingsContext {
  /** The door can be reached from other machines. */
  readonly listensBeyondLoopback: boolean;
}

/** How many names or settings one sentence lists. */
const listLimit = 4;

/** Refusals first; the order of the replicas otherwise. */
export function findings(
  facts: readonly ReplicaFacts[],
  context: FindingsContext,
): readonly Finding[] {
  const found = [
    ...facts.flatMap((replica) => ofOne(replica, context, facts.length)),
    ...(facts.length > 1 ? ofAll(facts) : []),
  ];
  return [
    ...found.filter(({ severity }) => severity === "refuse"),
    ...found.filter(({ severity }) => severity === "warn"),
  ];
}

/** What differs between servers of which only id and version are known; nothing else about them is judged. */
export function differences(
  servers: readonly { readonly name: string; readonly info: ServerInfo | undefined }[],
): readonly Finding[] {
  return [...serverIds(servers), ...versions(servers)];
}

type Named = Pick<ReplicaFacts, "name" | "info">;

/** True when something that decides between safe and unsafe could not be asked: ask again when it is there. */
export function isUndecided(facts: ReplicaFacts): boolean {
  return facts.health !== "healthy" || (facts.key === "works" && trust(facts) === "unknown");
}

// ---- One server -------------------------------------------------------------------------------------

function ofOne(
  replica: ReplicaFacts,
  context: FindingsContext,
  replicaCount: number,
): readonly Finding[] {
  const { name, url, healthReason } = replica;
  if (replica.health === "wrongPath") {
    return [
      refuse(
        `Server ${name} is not at ${url} (${healthReason}): every request would fail; give --replica ${name}= ` +
          "the address with the base URL of that server (Dashboard, Networking, Base URL).",
      ),
    ];
  }
  if (replica.health !== "healthy") {
    const others =
      replicaCount > 1
        ? "viewers are served by the others until its health says Healthy"
        : "nobody is served until its health says Healthy";
    return [warn(`Server ${name} at ${url} is not ready (${healthReason}): ${others}.`)];
  }
  return [
    ...(replica.rival === undefined
      ? []
      : [
          refuse(
            `${capital(rivalSentence(name, replica.rival))}; stop the other one, or give both the same --redis.`,
          ),
        ]),
    ...(replica.twin === undefined
      ? []
      : [refuse(`${twinSentence([name, replica.twin], url)}; ${twinCure}.`)]),
    ...wizard(replica),
    ...addressTrust(replica, context),
    ...keyRefused(replica, replicaCount),
  ];
}

function wizard({ name, url, info }: ReplicaFacts): readonly Finding[] {
  if (info === undefined || info.startupWizardCompleted) return [];
  return [
    warn(
      `The startup wizard of server ${name} was never completed: it serves no viewer until it is; open ${url} ` +
        "from its own network, or seed it from a server that works.",
    ),
  ];
}

function trust(replica: ReplicaFacts): "trusted" | "notInEffect" | "missing" | "unknown" {
  const { forwarding, proxiesNameDoor } = replica;
  if (forwarding === "honoured") return "trusted";
  if (forwarding === "ignored") return proxiesNameDoor === true ? "notInEffect" : "missing";
  if (proxiesNameDoor === undefined) return "unknown";
  return proxiesNameDoor ? "trusted" : "missing";
}

/**
 * A server that does not know the door as a proxy takes every visitor for the door, which is local to it:
 * anybody could restart it, and limits for remote users would not hold (LocalAccessOrRequiresElevation, NetworkManager).
 */
function addressTrust(replica: ReplicaFacts, context: FindingsContext): readonly Finding[] {
  const { name, doorAddress = "the door's address", network, key } = replica;
  const harm =
    "every visitor would count as local, could restart it and would have no remote limits";
  const severe = context.listensBeyondLoopback ? refuse : warn;
  const place = "Dashboard, Networking, Known proxies";
  switch (trust(replica)) {
    case "trusted":
      return [];
    case "missing": {
      const known = network?.knownProxies ?? [];
      const now = network === undefined ? "" : ` (they are ${quotedList(known)})`;
      const value = [...known, doorAddress].join(", ");
      return [
        severe(
          `The known proxies of server ${name} lack the door${now}: ${harm}; set ${place} to ` +
            `"${value}" and restart the server.`,
        ),
      ];
    }
    case "notInEffect":
      return [
        severe(
          `Server ${name} has ${doorAddress} among its known proxies and does not act on it yet: ${harm}; ` +
            "restart the server.",
        ),
      ];
    case "unknown":
      if (key === "works") {
        return [
          warn(
            `Whether server ${name} knows the door as a proxy could not be read: if ${place} lacks ` +
              `"${doorAddress}", ${harm}.`,
          ),
        ];
      }
      return context.listensBeyondLoopback
        ? [
            warn(
              `Whether server ${name} knows the door as a proxy cannot be read without its API key: make sure ` +
                `that ${place} has "${doorAddress}", else ${harm}.`,
            ),
          ]
        : [];
  }
}

function keyRefused({ name, key }: ReplicaFacts, replicaCount: number): readonly Finding[] {
  if (key !== "refused") return [];
  const harm =
    replicaCount > 1
      ? "nobody who logged in elsewhere can be moved there"
      : "what the door must know of it cannot be read";
  return [
    warn(
      `Server ${name} refuses its API key: ${harm}; make one at that server (Dashboard, API Keys) and give it ` +
        `as --api-key ${name}=KEY.`,
    ),
  ];
}

// ---- All servers ------------------------------------------------------------------------------------

function ofAll(facts: readonly ReplicaFacts[]): readonly Finding[] {
  const healthy = facts.filter(({ health }) => health === "healthy");
  return [
    ...serverIds(healthy),
    ...versions(healthy),
    ...keysEverywhere(healthy),
    ...quickConnect(healthy),
    ...users(healthy),
    ...encoders(healthy),
    ...basePaths(facts),
  ];
}

function serverIds(facts: readonly Named[]): readonly Finding[] {
  const first = facts.find(({ info }) => info !== undefined);
  const others = facts.filter(({ info }) => info !== undefined && info.id !== first?.info?.id);
  if (first?.info === undefined || others.length === 0) return [];
  const names = others.map(({ name, info }) => `${name} has ${info?.id}`).join(", ");
  return [
    refuse(
      `The servers have different ids (${first.name} has ${first.info.id}, ${names}): apps would say «Server ` +
        `mismatch» and ask for a new login whenever they are moved; seed ${namesOf(others)} from ${first.name} ` +
        `(jellybloom seed), or write ${first.info.id} into data/device.txt of ${namesOf(others)} while stopped.`,
    ),
  ];
}

function versions(facts: readonly Named[]): readonly Finding[] {
  const known = facts.filter(({ info }) => info !== undefined);
  const distinct = new Set(known.map(({ info }) => info?.version));
  if (distinct.size < 2) return [];
  const list = known.map(({ name, info }) => `${name} runs ${info?.version}`).join(", ");
  return [
    warn(
      `The servers have different versions (${list}): apps may see features come and go when they are moved; ` +
        "update all to the newest of them, one after the other.",
    ),
  ];
}

function keysEverywhere(facts: readonly ReplicaFacts[]): readonly Finding[] {
  const asked = facts.filter(({ key }) => key === "works" || key === "refused");
  if (asked.length === 0 || asked.some(({ key }) => key === "works")) return [];
  return [
    refuse(
      `No server accepts its API key: logins could not be carried from one server to another; make a key at ` +
        "each (Dashboard, API Keys) and give it as --api-key NAME=KEY.",
    ),
  ];
}

function quickConnect(facts: readonly ReplicaFacts[]): readonly Finding[] {
  const known = facts.filter((replica) => replica.quickConnect !== undefined);
  const off = known.filter((replica) => replica.quickConnect === false);
  if (off.length === 0) return [];
  const fix =
    "switch it on (Dashboard, General, Enable Quick Connect); " +
    "who does not want it offered switches it off at the door with --quick-connect off";
  if (off.length === known.length) {
    return [
      refuse(
        `QuickConnect is off at ${serversOf(off)}: by it logins are carried from one server to another, so every ` +
          `loss of a server would log people out; ${fix}.`,
      ),
    ];
  }
  return [
    warn(
      `QuickConnect is off at ${serversOf(off)}: nobody who logs in elsewhere can be moved there; ${fix}.`,
    ),
  ];
}

function users(facts: readonly ReplicaFacts[]): readonly Finding[] {
  const known = facts.filter((replica) => replica.users !== undefined);
  const [first, ...others] = known;
  if (first === undefined) return [];
  const found: Finding[] = [];
  for (const other of others) {
    const here = byName(first);
    const there = byName(other);
    const different = [...here].filter(([name, id]) => there.has(name) && there.get(name) !== id);
    const missing = [...here.keys()].filter((name) => !there.has(name));
    const extra = [...there.keys()].filter((name) => !here.has(name));
    if (different.length > 0) {
      const names = shortList(different.map(([name]) => name));
      found.push(
        warn(
          `Users have other ids on ${other.name} than on ${first.name} (${names}): those who were made through the ` +
            "door are known to be the same, others are logged out when theirs dies; a seed of " +
            `${other.name} from ${first.name} makes their ids equal.`,
        ),
      );
    }
    for (const [names, has, lacks] of [
      [missing, first, other],
      [extra, other, first],
    ] as const) {
      if (names.length === 0) continue;
      found.push(
        warn(
          `Users of ${has.name} are not known to ${lacks.name} (${shortList(names)}): they cannot be moved ` +
            `there; seed ${lacks.name} from ${has.name}.`,
        ),
      );
    }
  }
  return found;
}

function byName({ users: known = [] }: ReplicaFacts): Map<string, string> {
  return new Map(known.map(({ name, id }) => [name.toLowerCase(), id]));
}

/** Paths and devices differ between machines and change no picture. */
const machineSettings = new Set([
  "TranscodingTempPath",
  "FallbackFontPath",
  "EncoderAppPath",
  "EncoderAppPathDisplay",
  "VaapiDevice",
  "QsvDevice",
  "EncodingThreadCount",
]);

function encoders(facts: readonly ReplicaFacts[]): readonly Finding[] {
  const [first, ...others] = facts.filter(({ encoding }) => encoding !== undefined);
  if (first?.encoding === undefined) return [];
  const found: Finding[] = [];
  for (const other of others) {
    const { encoding = {} } = other;
    const different = Object.entries(first.encoding)
      .filter(([name, value]) => !machineSettings.has(name) && encoding[name] !== value)
      .map(([name, value]) => `${name} is ${encoding[name] ?? "not set"} instead of ${value}`);
    if (different.length === 0) continue;
    found.push(
      warn(
        `The encoder of ${other.name} is set otherwise than that of ${first.name} (${shortList(different)}): a ` +
          "converted picture may change its quality or stutter once when it is moved; set Dashboard, Playback, " +
          `Transcoding of ${other.name} as on ${first.name}.`,
      ),
    );
  }
  return found;
}

function basePaths(facts: readonly ReplicaFacts[]): readonly Finding[] {
  if (new Set(facts.map(({ basePath }) => basePath)).size < 2) return [];
  const list = facts.map(({ name, basePath }) => `${name} "${basePath}"`).join(", ");
  return [
    warn(
      `The servers have different base URLs (${list}): links that a server writes may not hold on another; set ` +
        "Dashboard, Networking, Base URL to the same on all.",
    ),
  ];
}

// ---- Words ------------------------------------------------------------------------------------------

function refuse(sentence: string): Finding {
  return { severity: "refuse", sentence };
}

function warn(sentence: string): Finding {
  return { severity: "warn", sentence };
}

function namesOf(facts: readonly Named[]): string {
  return facts.map(({ name }) => name).join(" and ");
}

function serversOf(facts: readonly ReplicaFacts[]): string {
  return `${facts.length === 1 ? "server" : "servers"} ${namesOf(facts)}`;
}

function shortList(items: readonly string[]): string {
  const more = items.length - listLimit;
  return items.slice(0, listLimit).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

function quotedList(items: readonly string[]): string {
  return items.length === 0 ? "empty" : `"${items.join(", ")}"`;
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
