// What the servers say of themselves when the doctor asks: more than at a start (../facts.ts), because here
// somebody waits for the answer and wants all of it. Nothing is changed at any server; the one thing that is
// tried (does one server see what another encodes?) is tried only where two servers name the same folder.
//
// It promises: every question has an end, every list a limit, and keys are known by their fingerprints alone.

import { createHash } from "node:crypto";
import { normalId } from "../../core/cluster/identity.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { keeperOf, type Rival } from "../../core/jellyfin/ours.ts";
import { isRecord } from "../../core/service/json.ts";
import { gatherFacts, namesAddress } from "../facts.ts";
import type { ReplicaFacts } from "../findings.ts";
import { readServerLibraries, type ServerLibrary } from "../library/libraries.ts";

export interface AskedServer {
  readonly name: string;
  readonly client: JellyfinClient;
  readonly hasKey: boolean;
}

export interface ExamineOptions {
  /** How long the short questions to one server may take together, in ms. */
  readonly limitMs: number;
  /** Addresses from which doors reach the servers; empty: they are not known. */
  readonly doors: readonly string[];
  /** ms since the epoch. */
  readonly now: () => number;
}

export interface Library extends Pick<ServerLibrary, "name" | "type" | "locations"> {
  /** By id, with a name to call it by; undefined: they could not all be read. */
  readonly items: ReadonlyMap<string, string> | undefined;
}

export interface ServerKey {
  /** The first 12 hex digits of the key's SHA-256. */
  readonly fingerprint: string;
  readonly app: string;
}

export interface Plugin {
  readonly id: string;
  readonly name: string;
  readonly version: string;
  readonly status: string;
}

export interface TaskFacts {
  readonly key: string;
  readonly name: string;
  readonly triggers: number;
}

export interface NetworkSettings {
  readonly knownProxies: readonly string[];
  readonly publishedAddresses: readonly string[];
  readonly answersDiscovery: boolean;
  readonly usesUpnp: boolean;
  readonly requiresHttps: boolean;
}

/** Everything about one server; undefined: it could not be found out. */
export interface Examined {
  readonly facts: ReplicaFacts;
  /** The Jellybloom that keeps it now, and what it calls the server. */
  readonly keepers: readonly Rival[] | undefined;
  readonly network: NetworkSettings | undefined;
  readonly transcodeFolder: string | undefined;
  readonly needsRestart: boolean | undefined;
  readonly ffmpegVersion: string | undefined;
  readonly libraries: readonly Library[] | undefined;
  readonly keys: readonly ServerKey[] | undefined;
  readonly plugins: readonly Plugin[] | undefined;
  readonly tasks: readonly TaskFacts[] | undefined;
  /** How much its clock is ahead of ours, in ms, and how sure that is. */
  readonly clock: { readonly aheadMs: number; readonly sureMs: number } | undefined;
  /** Servers that see in their transcode folder what this one encodes. */
  readonly encodesSeenBy: readonly string[];
}

const pageItems = 2000;
const itemsLimit = 400_000;
const librariesLimit = 200;
const logLimitBytes = 1024 * 1024;

/** Asks all servers, one beside the other. Never rejects for what a server does. */
export async function examine(
  servers: readonly AskedServer[],
  options: ExamineOptions,
): Promise<readonly Examined[]> {
  const { limitMs } = options;
  // Under the id of no cluster every keeper is a stranger, so each is told.
  const facts = await gatherFacts(servers, { clusterId: "", limitMs, rivalGraceMs: 0 });
  const examined = await Promise.all(
    servers.map(async (server, index) => {
      const own = facts[index];
      if (own === undefined) throw new Error(`no facts of ${server.name}`);
      return await examineOne(server, own, options);
    }),
  );
  return await withSharedFolders(servers, examined);
}

async function examineOne(
  { client, hasKey }: AskedServer,
  gathered: ReplicaFacts,
  { doors, now }: ExamineOptions,
): Promise<Examined> {
  // A Jellybloom that keeps the server is what one expects here, and no rival.
  const facts = { ...gathered, rival: undefined };
  if (facts.health !== "healthy" || !hasKey || facts.key !== "works") {
    return { ...unknown, facts, clock: await clockOf(client, facts, now) };
  }
  const ask = (path: string): Promise<unknown> => read(client, path);
  const [network, info, libraries, keys, plugins, tasks, sessions, ffmpegVersion, clock] =
    await Promise.all([
      ask("/System/Configuration/network").then(networkOf),
      ask("/System/Info"),
      librariesOf(client),
      ask("/Auth/Keys").then(keysOf),
      ask("/Plugins").then(pluginsOf),
      ask("/ScheduledTasks").then(tasksOf),
      client.sessions(),
      ffmpegVersionOf(client),
      clockOf(client, facts, now),
    ]);
  const system = isRecord(info) ? info : undefined;
  return {
    facts: await trustOf(facts, network, doors),
    keepers:
      sessions.outcome === "ok"
        ? sessions.sessions.map(keeperOf).filter((keeper) => keeper !== undefined)
        : undefined,
    network,
    transcodeFolder: textOf(system?.TranscodingTempPath),
    needsRestart: system === undefined ? undefined : system.HasPendingRestart === true,
    ffmpegVersion,
    libraries: libraries?.map((library) => ({
      ...library,
      locations: library.locations.map((path) => withoutOwnFolder(path, system?.ProgramDataPath)),
    })),
    keys,
    plugins,
    tasks,
    clock,
    encodesSeenBy: [],
  };
}

const unknown = {
  keepers: undefined,
  network: undefined,
  transcodeFolder: undefined,
  needsRestart: undefined,
  ffmpegVersion: undefined,
  libraries: undefined,
  keys: undefined,
  plugins: undefined,
  tasks: undefined,
  encodesSeenBy: [],
} as const;

/**
 * What the known proxies say of the doors. The doctor may run on another machine than the doors, so that the
 * server's opinion of the doctor's own address counts only where no door was named and nobody is listed.
 */
async function trustOf(
  facts: ReplicaFacts,
  network: NetworkSettings | undefined,
  doors: readonly string[],
): Promise<ReplicaFacts> {
  if (network === undefined) return facts;
  const { knownProxies } = network;
  if (doors.length === 0) {
    if (knownProxies.length === 0) return facts;
    return { ...facts, forwarding: "unknown", proxiesNameDoor: true };
  }
  for (const door of doors) {
    if (await namesAddress(knownProxies, door)) continue;
    return { ...facts, forwarding: "unknown", proxiesNameDoor: false, doorAddress: door };
  }
  return { ...facts, forwarding: "unknown", proxiesNameDoor: true };
}

async function read(client: JellyfinClient, path: string): Promise<unknown> {
  const answer = await client.callWithKey("GET", path);
  if (answer.outcome !== "answered" || answer.status !== 200) return undefined;
  try {
    return JSON.parse(answer.text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return undefined;
  }
}

function networkOf(value: unknown): NetworkSettings | undefined {
  if (!isRecord(value)) return undefined;
  return {
    knownProxies: textsOf(value.KnownProxies),
    publishedAddresses: textsOf(value.PublishedServerUriBySubnet),
    answersDiscovery: value.AutoDiscovery !== false,
    usesUpnp: value.EnableUPnP === true,
    requiresHttps: value.RequireHttps === true,
  };
}

/** Keys are seen in clear here (GET /Auth/Keys) and leave this function as fingerprints only. */
function keysOf(value: unknown): readonly ServerKey[] | undefined {
  const rows = isRecord(value) ? value.Items : undefined;
  if (!Array.isArray(rows)) return undefined;
  return rows.filter(isRecord).flatMap(({ AccessToken, AppName }) => {
    if (typeof AccessToken !== "string" || AccessToken === "") return [];
    const digest = createHash("sha256").update(AccessToken).digest("hex");
    return [{ fingerprint: digest.slice(0, 12), app: textOf(AppName) ?? "" }];
  });
}

function pluginsOf(value: unknown): readonly Plugin[] | undefined {
  if (!Array.isArray(value)) return undefined;
  return value.filter(isRecord).map(({ Id, Name, Version, Status }) => ({
    id: normalId(textOf(Id) ?? ""),
    name: textOf(Name) ?? "",
    version: textOf(Version) ?? "",
    status: textOf(Status) ?? "",
  }));
}

function tasksOf(value: unknown): readonly TaskFacts[] | undefined {
  if (!Array.isArray(value)) return undefined;
  return value.filter(isRecord).map(({ Key, Name, Triggers }) => ({
    key: textOf(Key) ?? "",
    name: textOf(Name) ?? "",
    triggers: Array.isArray(Triggers) ? Triggers.length : 0,
  }));
}

/** GET /GetUtcTime, which needs no key; the answer was made somewhere within the time it took. */
async function clockOf(
  client: JellyfinClient,
  { health }: ReplicaFacts,
  now: () => number,
): Promise<Examined["clock"]> {
  if (health !== "healthy") return undefined;
  const askedMs = now();
  const answer = await read(client, "/GetUtcTime");
  const answeredMs = now();
  const at = isRecord(answer) ? Date.parse(textOf(answer.ResponseTransmissionTime) ?? "") : NaN;
  if (Number.isNaN(at)) return undefined;
  return {
    aheadMs: Math.round(at - (askedMs + answeredMs) / 2),
    sureMs: Math.ceil((answeredMs - askedMs) / 2),
  };
}

/** The API does not tell it (SystemInfo), but the head of each log of an encode does. */
async function ffmpegVersionOf(client: JellyfinClient): Promise<string | undefined> {
  const logs = await read(client, "/System/Logs");
  if (!Array.isArray(logs)) return undefined;
  const [newest] = logs
    .filter(isRecord)
    .map(({ Name, Size, DateModified }) => ({
      name: textOf(Name) ?? "",
      bytes: Number(Size),
      at: Date.parse(textOf(DateModified) ?? ""),
    }))
    .filter(({ name, bytes }) => /^ffmpeg\./i.test(name) && bytes > 0 && bytes <= logLimitBytes)
    .sort((left, right) => right.at - left.at);
  if (newest === undefined) return undefined;
  const path = `/System/Logs/Log?name=${encodeURIComponent(newest.name)}`;
  const answer = await client.callWithKey("GET", path);
  if (answer.outcome !== "answered" || answer.status !== 200) return undefined;
  return /ffmpeg version (\S{1,64})/.exec(answer.text)?.[1];
}

// ---- Libraries --------------------------------------------------------------------------------------

async function librariesOf(client: JellyfinClient): Promise<readonly Library[] | undefined> {
  const found = await readServerLibraries(client);
  if (found === undefined) return undefined;
  const libraries: Library[] = [];
  // One after the other: a server is looked at while it serves people.
  for (const { id, name, type, locations } of found.slice(0, librariesLimit)) {
    const items = id === "" ? undefined : await itemsOf(client, id);
    libraries.push({ name, type, locations, items });
  }
  return libraries;
}

/** Collections and playlists lie in the server's own data folder, which has another path at each: no difference. */
function withoutOwnFolder(path: string, own: unknown): string {
  const folder = textOf(own);
  return folder !== undefined && path.startsWith(`${folder}/`)
    ? `(its own data folder)${path.slice(folder.length)}`
    : path;
}

async function itemsOf(
  client: JellyfinClient,
  libraryId: string,
): Promise<ReadonlyMap<string, string> | undefined> {
  const items = new Map<string, string>();
  for (let start = 0; start < itemsLimit; start += pageItems) {
    const query = new URLSearchParams({
      parentId: libraryId,
      recursive: "true",
      isFolder: "false",
      sortBy: "SortName",
      enableImages: "false",
      enableUserData: "false",
      enableTotalRecordCount: "false",
      startIndex: String(start),
      limit: String(pageItems),
    });
    const page = await read(client, `/Items?${query}`);
    if (!isRecord(page) || !Array.isArray(page.Items)) return undefined;
    for (const item of page.Items.filter(isRecord)) {
      const id = textOf(item.Id);
      if (id !== undefined) items.set(normalId(id), textOf(item.Name) ?? "");
    }
    if (page.Items.length < pageItems) return items;
  }
  return undefined;
}

// ---- Folders that must not be shared ----------------------------------------------------------------

const encodeLimitMs = 20_000;

/**
 * Two servers with a transcode folder of the same name may still have one each: containers do. So where names
 * are equal one short encode is made at the first, and it is looked whether the others see its files.
 */
async function withSharedFolders(
  servers: readonly AskedServer[],
  examined: readonly Examined[],
): Promise<readonly Examined[]> {
  const done: Examined[] = [...examined];
  for (const [index, one] of examined.entries()) {
    const alike = examined.flatMap((other, place) => {
      const server = servers[place];
      const isAlike = place > index && other.transcodeFolder === one.transcodeFolder;
      return isAlike && server !== undefined ? [server] : [];
    });
    const own = servers[index];
    if (one.transcodeFolder === undefined || alike.length === 0 || own === undefined) continue;
    const encodesSeenBy = await whoSees(own, alike, one.transcodeFolder);
    done[index] = { ...one, encodesSeenBy };
  }
  return done;
}

async function whoSees(
  own: AskedServer,
  others: readonly AskedServer[],
  folder: string,
): Promise<readonly string[]> {
  const found = await own.client.probeItem();
  if (found.outcome !== "ok" || found.item === undefined) return [];
  const before = await Promise.all(others.map(({ client }) => namesIn(client, folder)));
  const playSessionId = `jellybloomdoctor${Math.random().toString(36).slice(2)}`;
  const segment = { number: 0, seconds: 1 };
  const encode = own.client.encodeSegment(found.item, playSessionId, segment, encodeLimitMs);
  try {
    await encode;
    const mine = await namesIn(own.client, folder);
    const after = await Promise.all(others.map(({ client }) => namesIn(client, folder)));
    return others.flatMap(({ name }, index) => {
      const fresh = [...(after[index] ?? [])].filter((file) => !before[index]?.has(file));
      return fresh.some((file) => mine.has(file)) ? [name] : [];
    });
  } finally {
    await own.client.stopEncodings(playSessionId, playSessionId);
  }
}

async function namesIn(client: JellyfinClient, folder: string): Promise<ReadonlySet<string>> {
  const query = new URLSearchParams({ path: folder, includeFiles: "true" });
  const entries = await read(client, `/Environment/DirectoryContents?${query}`);
  if (!Array.isArray(entries)) return new Set();
  return new Set(entries.filter(isRecord).flatMap(({ Name }) => textOf(Name) ?? []));
}

// ---- Values -----------------------------------------------------------------------------------------

function textOf(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

function textsOf(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.flatMap((item) => textOf(item) ?? []) : [];
}
