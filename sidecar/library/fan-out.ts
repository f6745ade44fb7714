// The fan-out: while this sidecar leads, its server alone watches the libraries' folders (monitors.ts), and what that
// server took in is told to all others, as a downloader tells a server of a new film (POST /Library/Media/Updated); each
// then looks at these paths for itself.
//
// What was taken in is asked of the server (GET /Items with `minDateLastSaved`, by its own clock). Its push
// `LibraryChanged` only says when to ask, and which folders lost something: Jellyfin sends it to nobody while no user
// has a session there (LibraryChangedNotifier.SendChangeNotifications), which may be so for days at a leader's server
// that nobody watches at. What is gone without a push, the drift watch finds.
//
// It promises that a server is told nothing while its media are not whole, because it might drop what it does not see;
// that many paths are told as the folders of their libraries; that only libraries are told of that are to be watched; and
// that whether it may act is asked before each call. It cannot go round: only the leader tells, and what its own server
// takes in was not told to it by anybody. Where leadership changes meanwhile, the new leader may tell once more what it
// was told; whoever has that already saves nothing, so that there is nothing more to tell.

import { monitorsIn } from "../../core/cluster/monitors.ts";
import type { TaskHands } from "../../core/cluster/tasks.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { messageType } from "../../core/jellyfin/messages.ts";
import { isRecord, objectOf, parsedObject } from "../../core/service/json.ts";
import { rest, sleep, untilAborted } from "../../core/service/loop.ts";
import type { Seal } from "../../core/service/seal.ts";
import { countText } from "../seed/text.ts";
import type { LeaderSight } from "../tasks/leader.ts";
import { isBelow, mediaProblem, serverEyes, usualMediaLimits } from "../tasks/media.ts";
import { scanTaskKey } from "../tasks/policy.ts";
import { readMadeLibraries } from "./libraries.ts";

export interface FanOutOptions extends LeaderSight {
  /** Theirs who look whether a scan is safe there; undefined where a sidecar has none. */
  readonly hands: () => ReadonlyMap<string, TaskHands | undefined>;
  readonly seal: Seal;
  readonly limits?: Partial<FanOutLimits>;
}

export interface FanOutLimits {
  /** How often the server is asked what it took in where it does not say that it did, in ms. */
  readonly intervalMs: number;
  /** A push comes once for each user: it is asked so long after the first of them, in ms. */
  readonly quietMs: number;
  /** An item is saved a moment after its date was taken, in ms. */
  readonly overlapMs: number;
  /** A new leader tells what its server took in so long before, in ms: the last one may not have. */
  readonly lookBackMs: number;
  /** More paths than this are told as the folders of their libraries. */
  readonly pathsLimit: number;
}

const fanOutLimits: FanOutLimits = {
  intervalMs: 30_000,
  quietMs: 500,
  overlapMs: 5000,
  lookBackMs: 120_000,
  pathsLimit: 100,
};

/** What to tell: the paths, or the folders they lie in where they are many; nothing outside of the folders. Pure. */
export function pathsToTell(
  paths: readonly string[],
  folders: readonly string[],
  isAll: boolean,
  pathsLimit: number,
): readonly string[] {
  // Not all of them are known.
  if (isAll) return folders;
  const isIn = (path: string, folder: string) => path === folder || isBelow(path, folder);
  const inside = [...new Set(paths)].filter((path) => folders.some((one) => isIn(path, one)));
  if (inside.length <= pathsLimit) return inside;
  return folders.filter((folder) => inside.some((path) => isIn(path, folder)));
}

export class FanOut {
  readonly #options: FanOutOptions;
  readonly #limits: FanOutLimits;
  /** On the server's clock, in ms; undefined: nothing was asked since leadership began. */
  #sinceMs: number | undefined;
  /** Ids of folders that lost something. */
  readonly #lostFrom = new Set<string>();
  /** Replicas that are told nothing, and why, as it was said. */
  readonly #unfit = new Map<string, string>();
  #wake = new AbortController();

  constructor(options: FanOutOptions) {
    this.#options = options;
    this.#limits = { ...fanOutLimits, ...options.limits };
  }

  /** A message of the server's feed. */
  hear(text: string): void {
    if (messageType(text) !== "LibraryChanged" || this.#options.lease.mayAct() === undefined)
      return;
    const { FoldersRemovedFrom } = objectOf(parsedObject(text)?.Data) ?? {};
    for (const id of Array.isArray(FoldersRemovedFrom) ? FoldersRemovedFrom : []) {
      if (typeof id !== "string" || !/^[0-9a-f-]{32,36}$/i.test(id)) continue;
      if (this.#lostFrom.size < this.#limits.pathsLimit) this.#lostFrom.add(id);
    }
    this.#wake.abort();
  }

  async run(signal: AbortSignal): Promise<void> {
    const { memory, lease } = this.#options;
    const stop = lease.onChange(() => this.#wake.abort());
    await untilAborted(memory.loaded, signal);
    while (!signal.aborted) {
      await rest(this.#limits.intervalMs, signal, this.#wake.signal);
      if (this.#wake.signal.aborted) await sleep(this.#limits.quietMs, signal);
      this.#wake = new AbortController();
      if (!signal.aborted) await this.look();
    }
    stop();
  }

  /** Asks once, and tells. */
  async look(): Promise<void> {
    const { lease, memory, seal, client, peers } = this.#options;
    const wanted = monitorsIn(memory.notes("monitor").values(), seal);
    const isKept = [...wanted.values()].some((isOn) => isOn);
    if (lease.mayAct() === undefined || !isKept || peers().size === 0) {
      this.#sinceMs = undefined;
      this.#lostFrom.clear();
      return;
    }
    const nowMs = await serverTimeMs(client);
    const sinceMs = this.#sinceMs ?? (nowMs ?? 0) - this.#limits.lookBackMs;
    const saved = nowMs === undefined ? undefined : await this.#savedSince(sinceMs);
    if (nowMs === undefined || saved === undefined) return;
    this.#sinceMs = nowMs - this.#limits.overlapMs;
    const lost = await this.#pathsOf([...this.#lostFrom]);
    this.#lostFrom.clear();
    const { pathsLimit } = this.#limits;
    if (saved.length + lost.length === 0) return;
    const folders = ((await readMadeLibraries(client)) ?? []).flatMap(({ id, locations }) =>
      wanted.get(id) === true ? locations : [],
    );
    const paths = pathsToTell([...saved, ...lost], folders, saved.length > pathsLimit, pathsLimit);
    if (paths.length === 0) return;
    for (const [name, peer] of peers()) await this.#tell(name, peer, paths);
  }

  async #tell(name: string, peer: JellyfinClient, paths: readonly string[]): Promise<void> {
    const { lease, hands, log } = this.#options;
    const hand = hands().get(name);
    const problem =
      hand === undefined
        ? await mediaProblem(serverEyes(peer), usualMediaLimits)
        : await hand.mayStart(scanTaskKey);
    if (problem !== undefined) {
      if (this.#unfit.get(name) !== problem)
        log.warn(`${name} is not told of new files: ${problem}`);
      this.#unfit.set(name, problem);
      return;
    }
    this.#unfit.delete(name);
    if (lease.mayAct() === undefined) return;
    const Updates = paths.map((Path) => ({ Path, UpdateType: "Modified" }));
    const answer = await peer.callWithKey("POST", "/Library/Media/Updated", { Updates });
    const isTold = answer.outcome === "answered" && answer.status < 300;
    // What it misses, it finds with its next scan, or the drift watch does.
    const what = `told of ${countText(paths.length, "path")} with new files`;
    if (isTold) log.info(`${name} was ${what}`);
    else log.warn(`${name} could not be ${what}`);
  }

  /** Paths of what was saved since then, and one more than are told; undefined: the server could not be asked. */
  async #savedSince(sinceMs: number): Promise<readonly string[] | undefined> {
    const query = new URLSearchParams({
      ...{ recursive: "true", fields: "Path", minDateLastSaved: new Date(sinceMs).toISOString() },
      ...{ enableImages: "false", enableUserData: "false", enableTotalRecordCount: "false" },
      limit: String(this.#limits.pathsLimit + 1),
    });
    return await this.#paths(query);
  }

  /** Of folders that are there still. */
  async #pathsOf(ids: readonly string[]): Promise<readonly string[]> {
    if (ids.length === 0) return [];
    const query = new URLSearchParams({ ids: ids.join(), fields: "Path", enableImages: "false" });
    return (await this.#paths(query)) ?? [];
  }

  async #paths(query: URLSearchParams): Promise<readonly string[] | undefined> {
    const answer = await this.#options.client.callWithKey("GET", `/Items?${query}`);
    if (answer.outcome !== "answered" || answer.status !== 200) return undefined;
    const items = parsedObject(answer.text)?.Items;
    if (!Array.isArray(items)) return undefined;
    return items.filter(isRecord).flatMap(({ Path }) => (typeof Path === "string" ? [Path] : []));
  }
}

/** GET /GetUtcTime (TimeSyncController); undefined: the server could not be asked. */
async function serverTimeMs(
  client: Pick<JellyfinClient, "callWithKey">,
): Promise<number | undefined> {
  const answer = await client.callWithKey("GET", "/GetUtcTime");
  if (answer.outcome !== "answered" || answer.status !== 200) return undefined;
  const { RequestReceptionTime: at } = parsedObject(answer.text) ?? {};
  const ms = typeof at === "string" ? Date.parse(at) : Number.NaN;
  return Number.isFinite(ms) ? ms : undefined;
}
