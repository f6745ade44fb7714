// One server watches the libraries' folders: the leader's. Every server would see the same files come and go, read and
// probe them at the same moment, and keep a watch on each of thousands of folders for it. So while this sidecar leads, it
// sees to it that the real-time monitor of each library that is to be watched is on at its own server and off at the
// others; what its server sees, the fan-out tells them (fan-out.ts).
//
// It promises that no monitor is turned off before the store knows that it is to be on, and before the leader's server
// has it on; that no other option of a library is changed; and that a server which is as it should be is told nothing.
// What is to be watched is learnt from the servers when nobody ever said it: what any of them watches. With
// `--library-monitors all` nothing is turned off, and what was is turned on again.

import { monitorsIn, monitorValue } from "../../core/cluster/monitors.ts";
import { dropNote, putNote } from "../../core/cluster/notes.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { backOffMs, rest, retry, untilAborted } from "../../core/service/loop.ts";
import type { Seal } from "../../core/service/seal.ts";
import { type Store, StoreUnavailable } from "../../core/store/store.ts";
import type { LeaderSight } from "../tasks/leader.ts";
import { readMadeLibraries, restartMonitors, type ServerLibrary, setWatched } from "./libraries.ts";

/** `one`: the leader's server watches for all; `all`: each server watches for itself, as its owner has it. */
export type MonitorMode = "one" | "all";

// ---- What is to be done --------------------------------------------------------------------------------------

export interface MonitorSight {
  readonly mode: MonitorMode;
  /** The replica that leads. */
  readonly leader: string;
  /** The libraries of every replica; undefined for one that could not be asked. */
  readonly servers: ReadonlyMap<string, readonly ServerLibrary[] | undefined>;
  /** What the store says, by library id. */
  readonly wanted: ReadonlyMap<string, boolean>;
}

export interface MonitorChange {
  readonly replica: string;
  readonly library: ServerLibrary;
  readonly isOn: boolean;
}

export interface MonitorPlan {
  /** Libraries to be written down as watched, before anything else. */
  readonly learn: readonly string[];
  /** In this order. Others are made only once those at the leader's server are. */
  readonly changes: readonly MonitorChange[];
  /** Notes that nobody needs any more, once all changes are made. */
  readonly forget: readonly string[];
}

/** What is to be learnt, changed and forgotten. Pure. */
export function planMonitors({ mode, leader, servers, wanted }: MonitorSight): MonitorPlan {
  const read = [...servers].flatMap(([replica, libraries]) =>
    (libraries ?? []).map((library) => ({ replica, library })),
  );
  const isWhole = [...servers.values()].every((libraries) => libraries !== undefined);
  const there = new Set(read.map(({ library }) => library.id));
  const gone = isWhole ? [...wanted.keys()].filter((id) => !there.has(id)) : [];
  if (mode === "all") {
    const changes = read.flatMap(({ replica, library }) =>
      wanted.get(library.id) === true && !library.isWatched
        ? [{ replica, library, isOn: true }]
        : [],
    );
    return { learn: [], changes, forget: isWhole ? [...wanted.keys()] : gone };
  }
  const watched = read.flatMap(({ library }) => (library.isWatched ? [library.id] : []));
  const learn = [...new Set(watched)].filter((id) => !wanted.has(id));
  const mayTurnOff = new Set(servers.get(leader)?.map(({ id }) => id));
  const changes = read.flatMap(({ replica, library }) => {
    const { id, isWatched } = library;
    const isWanted = wanted.get(id) ?? learn.includes(id);
    const isOn = isWanted && replica === leader;
    // Where the leader's server has no such library, or was not read, nobody would watch it.
    const isHeld = isWanted && !isOn && !mayTurnOff.has(id);
    return isOn === isWatched || isHeld ? [] : [{ replica, library, isOn }];
  });
  const leadersFirst = [true, false].flatMap((isFirst) =>
    changes.filter(({ replica }) => (replica === leader) === isFirst),
  );
  return { learn, changes: leadersFirst, forget: gone };
}

// ---- Doing it ------------------------------------------------------------------------------------------------

export interface MonitorKeeperOptions extends LeaderSight {
  readonly mode: MonitorMode;
  readonly store: Store;
  readonly seal: Seal;
  /** How often it looks, in ms. */
  readonly intervalMs?: number;
  /** How soon it looks again where something is left to do, in ms; later each time. */
  readonly retryMs?: number;
}

const lookIntervalMs = 60_000;
const lookRetryMs = 2000;

export class MonitorKeeper {
  readonly #options: MonitorKeeperOptions;
  /** By replica, a library of it: its options were changed, and its monitor was not started anew since. */
  readonly #unheard = new Map<string, string>();
  #wake = new AbortController();

  constructor(options: MonitorKeeperOptions) {
    this.#options = options;
  }

  /** Something changed that it looks at: the replicas there are, or a library. */
  wake(): void {
    this.#wake.abort();
  }

  async run(signal: AbortSignal): Promise<void> {
    const { lease, memory, intervalMs = lookIntervalMs, retryMs = lookRetryMs } = this.#options;
    const wake = () => this.wake();
    const ends = [
      lease.onChange(wake),
      memory.onStoreAvailable(wake),
      memory.onReload(wake),
      memory.onNote(({ kind }) => {
        if (kind === "monitor") this.wake();
      }),
    ];
    await untilAborted(memory.loaded, signal);
    let failures = 0;
    while (!signal.aborted) {
      if (this.#wake.signal.aborted) failures = 0;
      this.#wake = new AbortController();
      failures = (await this.look()) ? 0 : failures + 1;
      const longest = { firstMs: retryMs, longestMs: intervalMs };
      const waitMs = failures === 0 ? intervalMs : backOffMs(failures, longest, Math.random());
      await rest(waitMs, signal, this.#wake.signal);
    }
    for (const end of ends) end();
  }

  /** Looks once; false when something is left to do. */
  async look(): Promise<boolean> {
    const { memory, log, replica } = this.#options;
    if (!this.#mayAct()) {
      this.#unheard.clear();
      return true;
    }
    try {
      return await this.#putRight();
    } catch (error) {
      if (error instanceof RangeError) {
        log.warn(
          `the sidecar of ${replica} cannot keep who watches the libraries: ${error.message}`,
        );
        return true;
      }
      if (!(error instanceof StoreUnavailable)) throw error;
      memory.noteStoreFailure(error);
      return false;
    }
  }

  /** Without the store it is not known what is wanted, nor whether another leads by now. */
  #mayAct(): boolean {
    const { lease, memory } = this.#options;
    return lease.mayAct() !== undefined && memory.storeAvailable;
  }

  async #putRight(): Promise<boolean> {
    const { mode, replica, client, peers, memory, seal } = this.#options;
    const wanted = () => monitorsIn(memory.notes("monitor").values(), seal);
    if (mode === "all" && wanted().size === 0) return true;
    const clients = new Map([[replica, client], ...peers()]);
    const read = [...clients].map(
      async ([name, one]) => [name, await readMadeLibraries(one)] as const,
    );
    const servers = new Map(await Promise.all(read));
    const plan = planMonitors({ mode, leader: replica, servers, wanted: wanted() });
    for (const id of plan.learn) {
      if (!this.#mayAct()) return false;
      const value = monitorValue(seal, id, true);
      await putNote(this.#options, { kind: "monitor", id, replica: "", value }, 0);
    }
    let isDone = [...servers.values()].every((libraries) => libraries !== undefined);
    const changes = Map.groupBy(plan.changes, (change) => change.replica);
    for (const name of new Set([replica, ...this.#unheard.keys(), ...changes.keys()])) {
      if (await this.#bring(name, clients.get(name), changes.get(name) ?? [])) continue;
      isDone = false;
      // Elsewhere they stay on while the leader's server does not watch.
      if (name === replica) return false;
    }
    if (!isDone) return false;
    for (const id of plan.forget)
      await dropNote(this.#options, { kind: "monitor", id, replica: "" });
    return true;
  }

  /** Makes the changes at one server and has it act on them; false when some could not be made. */
  async #bring(
    replica: string,
    client: JellyfinClient | undefined,
    changes: readonly MonitorChange[],
  ): Promise<boolean> {
    // It is no longer one of us.
    if (client === undefined) return this.#unheard.delete(replica);
    let isDone = true;
    for (const { library, isOn } of changes) {
      // The whole document is sent, and somebody may have changed another option since it was read.
      const now = (await readMadeLibraries(client))?.find(({ id }) => id === library.id);
      if (!this.#mayAct()) return false;
      if (now === undefined || !(await setWatched(client, now, isOn))) {
        isDone = false;
        continue;
      }
      this.#unheard.set(replica, library.name);
      const what = isOn ? "watches" : "no longer watches";
      this.#options.log.info(`server ${replica} ${what} the folders of ${library.name}`);
    }
    const changed = this.#unheard.get(replica);
    if (changed === undefined) return isDone;
    if (!this.#mayAct() || !(await restartMonitors(client, changed))) return false;
    this.#unheard.delete(replica);
    return isDone;
  }
}

// ---- Giving it back ------------------------------------------------------------------------------------------

export interface WatchedAgain {
  /** Names of libraries whose monitor was turned on. */
  readonly libraries: readonly string[];
  /** One sentence each, without its subject and its full stop. */
  readonly undone: readonly string[];
}

/** Has a server watch for itself what is to be watched; done twice it is the same as done once. */
export async function watchAgain(
  client: JellyfinClient,
  wanted: ReadonlyMap<string, boolean>,
): Promise<WatchedAgain> {
  if (![...wanted.values()].includes(true)) return { libraries: [], undone: [] };
  const libraries = await readMadeLibraries(client);
  if (libraries === undefined) {
    return {
      libraries: [],
      undone: ["its libraries cannot be read with the API key that was given"],
    };
  }
  const changed: string[] = [];
  const undone: string[] = [];
  for (const library of libraries) {
    if (wanted.get(library.id) !== true || library.isWatched) continue;
    if (await setWatched(client, library, true)) changed.push(library.name);
    else undone.push(`the real-time monitor of ${library.name} could not be turned on`);
  }
  const [first] = changed;
  if (first !== undefined && !(await restartMonitors(client, first))) {
    undone.push(`it watches ${changed.join(" and ")} from its next start on`);
  }
  return { libraries: changed, undone };
}

/** What any of these servers watches: all that is known where the store is not. Pure. */
export function watchedByAny(
  servers: readonly (readonly ServerLibrary[] | undefined)[],
): ReadonlyMap<string, boolean> {
  const watched = servers.flatMap((libraries) => libraries?.filter((one) => one.isWatched) ?? []);
  return new Map(watched.map(({ id }) => [id, true]));
}

/**
 * For a server that is alone now and was one of several: it watches again what the cluster wanted watched. Tried every
 * `retryMs` until it is done.
 */
export async function releaseMonitors(
  {
    client,
    replica,
    log,
    retryMs,
    ...place
  }: Pick<MonitorKeeperOptions, "client" | "replica" | "store" | "memory" | "seal" | "log"> & {
    readonly retryMs: number;
  },
  signal: AbortSignal,
): Promise<void> {
  const { memory, seal } = place;
  await untilAborted(memory.loaded, signal);
  await retry({ firstMs: retryMs, longestMs: retryMs }, signal, async () => {
    const wanted = monitorsIn(memory.notes("monitor").values(), seal);
    const { libraries, undone } = await watchAgain(client, wanted);
    if (undone.length > 0) return false;
    try {
      for (const id of wanted.keys()) await dropNote(place, { kind: "monitor", id, replica: "" });
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      return false;
    }
    if (libraries.length > 0)
      log.info(`${replica} is the only replica: it watches ${libraries.join(", ")}`);
    return true;
  });
}
