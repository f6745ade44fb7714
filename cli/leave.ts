// `jellybloom leave`: takes Jellybloom away again and leaves every server as it was found. Each server gets
// its own triggers back and watches its libraries' folders itself again, the logins that Jellybloom made there
// are ended, and what people must do themselves is listed. It works with servers stopped and without the store,
// and says what it could not do then; run again later it does the rest. Exit code 0: everything is done; 1:
// something is left, or Jellybloom runs.

import { existsSync, readFileSync } from "node:fs";
import { rename } from "node:fs/promises";
import { join } from "node:path";
import { type Identity, type IdentityToken, sealContext } from "../core/cluster/identity.ts";
import { monitorsIn } from "../core/cluster/monitors.ts";
import { readSchedule, type TaskSchedule } from "../core/cluster/tasks.ts";
import { createJellyfinClient, type JellyfinClient } from "../core/jellyfin/client.ts";
import { isOurSession } from "../core/jellyfin/ours.ts";
import { systemClock } from "../core/service/clock.ts";
import type { NamedUrl } from "../core/service/options.ts";
import { createSeal, type Seal } from "../core/service/seal.ts";
import { embeddedFileName, openEmbeddedStore } from "../core/store/embedded.ts";
import { openRedisStore } from "../core/store/redis.ts";
import {
  type Snapshot,
  type Store,
  StoreNotOpened,
  StoreUnavailable,
} from "../core/store/store.ts";
import { readMadeLibraries } from "../sidecar/library/libraries.ts";
import { watchAgain, watchedByAny } from "../sidecar/library/monitors.ts";
import { isDatabaseFree } from "../sidecar/seed/database.ts";
import { countText } from "../sidecar/seed/text.ts";
import {
  changedTasks,
  ownTasksOf,
  type Restored,
  restoreAtServer,
  restoreInFiles,
} from "../sidecar/tasks/leave.ts";
import {
  readSavedTasks,
  type SavedTasks,
  SavedTasksProblem,
  savedTasksFile,
} from "../sidecar/tasks/saved.ts";
import type { Io } from "./io.ts";
import { apiKeyOf, type LeaveConfig } from "./options.ts";

const callLimitMs = 5000;
const probeLimitMs = 2000;
const storeLimits = {
  changesKept: 10_000,
  revokedKeepMs: 30 * 24 * 3_600_000,
  callLimitMs: 2000,
} as const;

interface LeftReplica {
  readonly name: string;
  /** How its triggers were put back: through the server, in its files, by an earlier run, or not (yet). */
  readonly by: "server" | "files" | "earlier" | "nobody";
  /** Keys of tasks that have their own triggers again. */
  readonly restored: readonly string[];
  /** Libraries whose folders it watches again. */
  readonly watched: readonly string[];
  /** Logins that Jellybloom had made there and that are ended now. */
  readonly loginsEnded: number;
}

interface LogInAgain {
  readonly user: string;
  readonly device: string;
  readonly client: string;
  /** The servers that do not know this device. */
  readonly at: readonly string[];
}

interface Left {
  readonly replicas: readonly LeftReplica[];
  readonly logInAgain: readonly LogInAgain[];
  /** Tasks whose triggers were changed for the cluster: each server has its own again. */
  readonly changedBack: readonly string[];
  /** What is left to do, one sentence each. */
  readonly undone: readonly string[];
}

/** A server of the cluster, with what is known about it. */
interface Server {
  readonly name: string;
  readonly client: JellyfinClient;
  readonly saved: SavedTasks | undefined;
  readonly savedFiles: readonly string[];
  /** An earlier run has put its triggers back: what it has now is its owner's. */
  readonly isDone: boolean;
  readonly isUp: boolean;
}

export async function runLeave(config: LeaveConfig, io: Io): Promise<number> {
  const undone: string[] = [];
  const opened = await openStore(config, undone);
  if ("runs" in opened) {
    io.err(`${opened.runs}\n`);
    return 1;
  }
  const servers = await Promise.all(config.replica.map((replica) => look(config, replica, undone)));
  try {
    const keeper = await whoKeeps(servers, opened.store);
    if (keeper !== undefined) {
      io.err(`${keeper}\n`);
      return 1;
    }
    const left = await leave(config, servers, opened, undone);
    io.out(config.json ? `${JSON.stringify(left)}\n` : text(left, config.keep));
    return left.undone.length === 0 ? 0 : 1;
  } finally {
    await Promise.all(servers.map(({ client }) => client.close()));
    await opened.store?.close();
  }
}

async function leave(
  config: LeaveConfig,
  servers: readonly Server[],
  { store, snapshot, seal }: Opened,
  undone: string[],
): Promise<Left> {
  const schedules = schedulesOf(snapshot);
  const wanted = await wantedMonitors(servers, snapshot, seal);
  const saved = servers.flatMap((server) => (server.saved === undefined ? [] : [server.saved]));
  const replicas: LeftReplica[] = [];
  let isWatching = true;
  for (const server of servers) {
    const { name } = server;
    const others = saved.filter((one) => one !== server.saved);
    const own = ownTasksOf(server.saved, others, schedules);
    if (own.size === 0) undone.push(`${name}: its own triggers are not known: nothing was saved.`);
    const { by, restored } = await restore(config, server, own, undone);
    const watched = await watchItself(server, wanted, undone);
    const loginsEnded =
      snapshot === undefined ? 0 : await endLogins(server, snapshot, seal, undone);
    if (by !== "nobody") await putAside(server.savedFiles, undone);
    replicas.push({ name, by, restored, watched: watched ?? [], loginsEnded });
    if (watched === undefined) isWatching = false;
  }
  // A later start begins with what the servers have then.
  if (store !== undefined && isWatching && replicas.every(({ by }) => by !== "nobody")) {
    for (const [kind, id] of notesOf(snapshot)) await store.dropNotes({ kind, id });
  }
  const kept =
    config.keep === undefined ? servers : servers.filter(({ name }) => name === config.keep);
  return {
    replicas,
    logInAgain: strangers(snapshot, kept),
    changedBack: [...changedTasks(knownSchedules(schedules, saved))].sort(),
    undone,
  };
}

// ---- Triggers -------------------------------------------------------------------------------------

async function restore(
  config: LeaveConfig,
  { name, client, isDone, isUp }: Server,
  own: Parameters<typeof restoreAtServer>[1],
  undone: string[],
): Promise<Pick<LeftReplica, "by" | "restored">> {
  if (isDone) return { by: "earlier", restored: [] };
  const folder = config.server.find((place) => place.name === name)?.path;
  if (!isUp && folder === undefined) {
    undone.push(
      `${name} cannot be reached, and its triggers are still parked: start it and run this again, or` +
        ` name its folder with --server ${name}=DIR while it is stopped.`,
    );
    return { by: "nobody", restored: [] };
  }
  const done: Restored =
    isUp || folder === undefined
      ? await restoreAtServer(client, own)
      : await restoreInFiles(folder, own);
  undone.push(...done.undone.map((sentence) => `${name}: ${sentence}.`));
  if (done.undone.length > 0) return { by: "nobody", restored: done.restored };
  return { by: isUp ? "server" : "files", restored: done.restored };
}

/** Kept, under another name: whoever starts Jellybloom again begins with what the servers have then. */
async function putAside(files: readonly string[], undone: string[]): Promise<void> {
  for (const file of files) {
    try {
      await rename(file, asideOf(file));
    } catch (error) {
      const code = error instanceof Error && "code" in error ? String(error.code) : "unknown";
      undone.push(`${file} cannot be renamed (${code}).`);
    }
  }
}

function asideOf(file: string): string {
  return `${file}.left`;
}

function schedulesOf(snapshot: Snapshot | undefined): ReadonlyMap<string, TaskSchedule> {
  const schedules = new Map<string, TaskSchedule>();
  for (const { kind, id, value } of snapshot?.notes ?? []) {
    const schedule = kind === "schedule" ? readSchedule(value) : undefined;
    if (schedule !== undefined) schedules.set(id, schedule);
  }
  return schedules;
}

function knownSchedules(
  schedules: ReadonlyMap<string, TaskSchedule>,
  saved: readonly SavedTasks[],
): ReadonlyMap<string, TaskSchedule> {
  return new Map([...saved.flatMap((one) => Object.entries(one.schedules)), ...schedules]);
}

function notesOf(snapshot: Snapshot | undefined) {
  return (snapshot?.notes ?? []).flatMap(({ kind, id }) =>
    kind === "schedule" || kind === "taskRun" || kind === "monitor" ? [[kind, id] as const] : [],
  );
}

// ---- Monitors -------------------------------------------------------------------------------------

/** What is to be watched, as the store says it; without the store, what any of the servers watches now. */
async function wantedMonitors(
  servers: readonly Server[],
  snapshot: Snapshot | undefined,
  seal: Seal | undefined,
): Promise<ReadonlyMap<string, boolean>> {
  if (snapshot !== undefined && seal !== undefined) return monitorsIn(snapshot.notes, seal);
  // What they have after an earlier run is their owner's.
  if (servers.some(({ isDone }) => isDone)) return new Map();
  const up = servers.filter(({ isUp }) => isUp);
  return watchedByAny(await Promise.all(up.map(({ client }) => readMadeLibraries(client))));
}

/** Names of the libraries that were turned on; undefined when something is left to do. */
async function watchItself(
  { name, client, isUp }: Server,
  wanted: ReadonlyMap<string, boolean>,
  undone: string[],
): Promise<readonly string[] | undefined> {
  if (![...wanted.values()].includes(true)) return [];
  if (!isUp) {
    undone.push(
      `${name} cannot be reached, and may not watch its libraries' folders itself: start it and run this again,` +
        " or turn on the real-time monitor of each library in its dashboard.",
    );
    return undefined;
  }
  const done = await watchAgain(client, wanted);
  undone.push(...done.undone.map((sentence) => `${name}: ${sentence}.`));
  return done.undone.length > 0 ? undefined : done.libraries;
}

// ---- Logins ---------------------------------------------------------------------------------------

/**
 * The token which Jellybloom got at a server for a device that had logged in elsewhere; undefined where the
 * server's token is the client's own: it logged in there, or the server is a copy and knows it.
 */
function mintedToken(
  { kind, origin, tokens }: Identity,
  replica: string,
): IdentityToken | undefined {
  const token = tokens[replica];
  if (kind !== "user" || token === undefined || replica === origin) return undefined;
  return token.hash === tokens[origin]?.hash ? undefined : token;
}

/** Ends them by logging each out: token, session and the device's entry go. Answers how many. */
async function endLogins(
  { name, client, isUp }: Server,
  snapshot: Snapshot,
  seal: Seal | undefined,
  undone: string[],
): Promise<number> {
  const owed = [
    ...snapshot.identities.flatMap((identity) => {
      const token = mintedToken(identity, name);
      return token === undefined ? [] : [{ ...identity, identityKey: identity.key, token }];
    }),
    // Logouts that this server was still to hear of.
    ...snapshot.revocations.flatMap((revocation) => {
      const token = revocation.pending.includes(name) ? revocation.tokens[name] : undefined;
      return token === undefined ? [] : [{ ...revocation, token }];
    }),
  ];
  if (owed.length === 0) return 0;
  if (!isUp || seal === undefined) {
    const why = isUp ? "the cluster key is not known" : "it cannot be reached";
    undone.push(
      `${name}: ${countText(owed.length, "login")} that Jellybloom made there must be ended, and ${why}:` +
        " run this again, or remove the devices in its dashboard.",
    );
    return 0;
  }
  let ended = 0;
  for (const { identityKey, generation, deviceId, token } of owed) {
    const opened = seal.open(token.sealed, sealContext(identityKey, generation, name));
    const answer = opened === undefined ? undefined : await client.logout(opened, { deviceId });
    if (answer?.outcome === "done") ended++;
  }
  if (ended < owed.length) {
    undone.push(
      `${name}: ${countText(owed.length - ended, "login")} that Jellybloom made there could not be ended:` +
        " remove the devices in its dashboard.",
    );
  }
  return ended;
}

/** The devices whose own token some of these servers do not know. */
function strangers(
  snapshot: Snapshot | undefined,
  servers: readonly Server[],
): readonly LogInAgain[] {
  return (snapshot?.identities ?? []).flatMap((identity): LogInAgain[] => {
    const { kind, userName, device, deviceId, client, origin, tokens } = identity;
    const own = tokens[origin]?.hash;
    if (kind !== "user" || Object.keys(tokens).length === 0) return [];
    const at = servers
      .map(({ name }) => name)
      .filter((name) => name !== origin && (own === undefined || tokens[name]?.hash !== own));
    if (at.length === 0) return [];
    return [{ user: userName, device: device === "" ? deviceId : device, client, at }];
  });
}

// ---- What there is --------------------------------------------------------------------------------

interface Opened {
  readonly store: Store | undefined;
  readonly snapshot: Snapshot | undefined;
  readonly seal: Seal | undefined;
}

/** The store, where it can be read; `runs`: a sentence, because Jellybloom still has it open. */
async function openStore(
  config: LeaveConfig,
  undone: string[],
): Promise<Opened | { readonly runs: string }> {
  const key = clusterKeyOf(config);
  const seal = key === undefined ? undefined : createSeal(key);
  const without = (why: string): Opened => {
    undone.push(
      `Which logins Jellybloom made is not known, because ${why}: look at the devices in each server's` +
        " dashboard.",
    );
    return { store: undefined, snapshot: undefined, seal };
  };
  const file = config.data === undefined ? undefined : join(config.data, embeddedFileName);
  if (config.redis === undefined && (file === undefined || !existsSync(file))) {
    return without("there is no store to read");
  }
  if (file !== undefined && existsSync(file) && !isDatabaseFree(file)) {
    return { runs: `Jellybloom still runs with --data ${config.data}: stop it first.` };
  }
  let store: Store | undefined;
  try {
    store =
      config.redis === undefined
        ? openEmbeddedStore({
            limits: storeLimits,
            ...(config.data !== undefined && { directory: config.data }),
          })
        : await openRedisStore({ url: config.redis, limits: storeLimits });
    return { store, snapshot: await store.load(), seal };
  } catch (error) {
    if (!(error instanceof StoreNotOpened) && !(error instanceof StoreUnavailable)) throw error;
    await store?.close();
    return without("the store cannot be opened");
  }
}

function clusterKeyOf({ clusterKey, data }: LeaveConfig): string | undefined {
  if (clusterKey !== undefined) return clusterKey;
  const file = data === undefined ? undefined : join(data, "cluster.key");
  return file !== undefined && existsSync(file) ? readFileSync(file, "utf8").trim() : undefined;
}

async function look(config: LeaveConfig, replica: NamedUrl, undone: string[]): Promise<Server> {
  const { name, origin, basePath } = replica;
  const client = createJellyfinClient({
    ...{ origin, basePath, apiKey: apiKeyOf(config.apiKey, name) },
    ...{ callLimitMs, probeLimitMs, connectLimitMs: probeLimitMs, now: systemClock.monotonicMs },
  });
  const folders = [...config.taskData, ...(config.data === undefined ? [] : [config.data])];
  const places = folders.map((folder) => savedTasksFile(folder, name));
  const files = places.filter(existsSync);
  const aside = files.length > 0 ? [] : places.map(asideOf).filter(existsSync);
  let saved: SavedTasks | undefined;
  for (const file of [...files, ...aside]) {
    try {
      saved ??= await readSavedTasks(file);
    } catch (error) {
      if (!(error instanceof SavedTasksProblem)) throw error;
      undone.push(`${error.message}.`);
    }
  }
  const { state } = await client.health();
  const isDone = aside.length > 0;
  return { name, client, saved, savedFiles: files, isDone, isUp: state === "healthy" };
}

/** A sentence when some Jellybloom still keeps one of the servers: it would park the tasks again at once. */
async function whoKeeps(
  servers: readonly Server[],
  store: Store | undefined,
): Promise<string | undefined> {
  for (const { name, client, isUp } of servers) {
    if (!isUp) continue;
    const answer = await client.sessions();
    if (answer.outcome === "ok" && answer.sessions.some(isOurSession)) {
      return `Jellybloom still keeps server ${name}: stop every door and sidecar first.`;
    }
  }
  try {
    const [member] = store?.kind === "redis" ? await store.members() : [];
    if (member === undefined) return undefined;
    return `The sidecar of ${member.replica} runs, or has ended within the last ten seconds: stop it first.`;
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error;
    return undefined;
  }
}

// ---- What is said ---------------------------------------------------------------------------------

const ways = {
  server: "has its own triggers again",
  files: "will have its own triggers at its next start",
  earlier: "was given its own triggers by an earlier run",
  nobody: "is not done",
} as const;

/** Who had none, or none that are known, has none again. */
function howGivenBack(by: LeftReplica["by"], tasks: number): string {
  if (by === "earlier") return ways.earlier;
  if (by !== "nobody" && tasks === 0) return "was given no triggers back";
  return `${ways[by]} (${countText(tasks, "task")})`;
}

function text(
  { replicas, logInAgain, changedBack, undone }: Left,
  keep: string | undefined,
): string {
  const lines = replicas.map(
    ({ name, by, restored, watched, loginsEnded }) =>
      `${name} ${howGivenBack(by, restored.length)};` +
      (watched.length === 0
        ? ""
        : ` it watches the folders of ${watched.join(", ")} itself again;`) +
      ` ${countText(loginsEnded, "login")} of Jellybloom's ended there.`,
  );
  if (changedBack.length > 0) {
    lines.push(
      `Triggers that were changed through the door are as they were before: ${changedBack.join(", ")}.`,
    );
  }
  if (logInAgain.length > 0) {
    lines.push(keep === undefined ? "Must log in again:" : `Must log in again at ${keep}:`);
    for (const { user, device, client, at } of logInAgain) {
      lines.push(
        `  ${user} on ${device} (${client})${keep === undefined ? ` at ${at.join(", ")}` : ""}`,
      );
    }
  }
  if (undone.length > 0) lines.push("Left to do:", ...undone.map((sentence) => `  ${sentence}`));
  lines.push(
    undone.length === 0
      ? "What is left is yours: the API key, the known proxy, and the folder of --data."
      : "Run this again when that can be done; what is done already stays done.",
  );
  return `${lines.join("\n")}\n`;
}
