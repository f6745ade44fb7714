// The drift watch: while this sidecar leads, it compares every replica's libraries with those of its own server, tells
// what differs as a note, and has a replica scanned that lacks items or has too many. Most of the time it asks each
// server one cheap question (how many of what); item by item it compares when the counts differ, or every so often.
//
// It promises that a replica is scanned only through the hands that look whether its media are whole, never while the
// same drift was scanned for already within `cureApartMs`, and that a drift seen once is looked at again before anything
// is done about it: servers scan at different times, and what one has not got yet it may have a minute later.

import {
  type Drift,
  driftNoteId,
  driftSentence,
  driftsIn,
  driftValue,
  hasDrift,
  isDerivedOnly,
  itemsIn,
  type LibraryDrift,
} from "../../core/cluster/drift.ts";
import { dropNote, putNote } from "../../core/cluster/notes.ts";
import type { TaskHands } from "../../core/cluster/tasks.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { sleep } from "../../core/service/loop.ts";
import type { Seal } from "../../core/service/seal.ts";
import { type Store, StoreUnavailable } from "../../core/store/store.ts";
import type { LeaderSight } from "../tasks/leader.ts";
import { scanTaskKey } from "../tasks/policy.ts";
import { compareItems, type Depth, readCounts, readItems, readShelves } from "./digest.ts";
import { tellDifferingLists } from "./list-keeper.ts";

export interface DriftWatchOptions extends LeaderSight {
  readonly hands: () => ReadonlyMap<string, TaskHands | undefined>;
  readonly store: Store;
  readonly wallMs: () => number;
  readonly monotonicMs: () => number;
  /** How often the counts are looked at, in ms; 0: never. */
  readonly intervalMs: number;
  /** What proves entries of the journal; undefined: lists are not looked at. */
  readonly seal?: Seal;
  /** Told how many items are on some replica and not on another, for the metrics. */
  readonly onDrift?: (items: number) => void;
}

/** Libraries whose counts are equal are compared item by item, with what tasks made of them, this much more seldom. */
const wholeEvery = 72;
/** ... and this much more seldom where that alone differs: a task may be making it. */
const derivedEvery = 12;
/** Lists are looked at when leadership begins, and then this much more seldom. */
const listsEvery = 12;
/** A change is on every server within a second. */
const listsSettleMs = 3000;
/** As long as a timer can be. */
const neverMs = 2 ** 31 - 1;
/** A note tells of so many libraries; who has more that differ has one reason for all. */
const librariesTold = 12;

interface Seen {
  /** What the counts of both were when their items were last compared. */
  readonly counts: string;
  /** When they were last compared whole, in ms of the monotonic clock. */
  readonly wholeAtMs: number;
}

function hasDerived(drift: Drift | undefined): boolean {
  return drift?.libraries.some(({ derived }) => derived > 0) === true;
}

export class DriftWatch {
  readonly #options: DriftWatchOptions;
  readonly #compared = new Map<string, Seen>();
  /** Drift as this leader has seen it. */
  readonly #drifts = new Map<string, Drift>();
  readonly #curedAtMs = new Map<string, number>();
  /** Since this leadership began. */
  #looks = 0;

  constructor(options: DriftWatchOptions) {
    this.#options = options;
  }

  async run(signal: AbortSignal): Promise<void> {
    const { intervalMs } = this.#options;
    while (!signal.aborted) {
      await sleep(intervalMs === 0 ? neverMs : intervalMs, signal);
      if (!signal.aborted && intervalMs > 0) await this.look(signal);
    }
  }

  /** Looks once, tells and cures. */
  async look(signal: AbortSignal): Promise<void> {
    const { lease, memory, onDrift } = this.#options;
    if (lease.mayAct() === undefined || !memory.storeAvailable) {
      this.#forget();
      return;
    }
    try {
      await this.#compareAll();
      await this.#cure();
      if (this.#looks++ % listsEvery === 0) await this.#keepLists(signal);
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      memory.noteStoreFailure(error);
    }
    if (lease.mayAct() === undefined) return;
    onDrift?.([...this.#drifts.values()].reduce((sum, drift) => sum + itemsIn(drift), 0));
  }

  /** A new leadership begins with nothing of an older one. */
  #forget(): void {
    if (this.#drifts.size > 0 || this.#compared.size > 0) this.#options.onDrift?.(0);
    this.#drifts.clear();
    this.#compared.clear();
    this.#curedAtMs.clear();
    this.#looks = 0;
  }

  async #keepLists(signal: AbortSignal): Promise<void> {
    const { seal, lease, intervalMs } = this.#options;
    if (seal === undefined) return;
    const settleMs = Math.min(listsSettleMs, intervalMs);
    const mayAct = () => lease.mayAct() !== undefined;
    await tellDifferingLists({ ...this.#options, seal, mayAct, settleMs }, signal);
  }

  async #compareAll(): Promise<void> {
    const { client, peers, monotonicMs, intervalMs } = this.#options;
    const own = await readCounts(client);
    if (own === undefined) return;
    const due = new Map<string, { peer: JellyfinClient; counts: string }>();
    let depth: Depth = "plain";
    for (const [name, peer] of peers()) {
      const theirs = await readCounts(peer);
      // Who cannot be asked drifts no more than before.
      if (theirs === undefined) continue;
      const counts = `${own}\n${theirs}`;
      const seen = this.#compared.get(name);
      const drift = this.#drifts.get(name);
      const hasDifferences = drift !== undefined && !isDerivedOnly(drift);
      const every = hasDerived(drift) && !hasDifferences ? derivedEvery : wholeEvery;
      const isOld = seen === undefined || monotonicMs() - seen.wholeAtMs >= every * intervalMs;
      const isSame = own === theirs && seen?.counts === counts && !hasDifferences;
      if (isSame && !isOld) continue;
      due.set(name, { peer, counts });
      // What was seen only by a whole look is not said to be gone after a plain one.
      if (isOld || hasDerived(drift)) depth = "whole";
    }
    for (const name of this.#drifts.keys()) if (!peers().has(name)) await this.#tell(name, []);
    if (due.size === 0) return;
    const peersDue = new Map([...due].map(([name, { peer }]) => [name, peer]));
    const found = await this.#compare(peersDue, depth);
    for (const [name, libraries] of found ?? []) {
      const before = this.#compared.get(name)?.wholeAtMs ?? Number.NEGATIVE_INFINITY;
      const wholeAtMs = depth === "whole" ? monotonicMs() : before;
      this.#compared.set(name, { counts: due.get(name)?.counts ?? "", wholeAtMs });
      await this.#tell(name, libraries);
    }
  }

  /** By replica; undefined when this server could not be read. One library of this server is in memory at a time. */
  async #compare(
    peers: ReadonlyMap<string, JellyfinClient>,
    depth: Depth,
  ): Promise<ReadonlyMap<string, readonly LibraryDrift[]> | undefined> {
    const { client, lease } = this.#options;
    const shelves = await readShelves(client);
    if (shelves === undefined) return undefined;
    const found = new Map<string, LibraryDrift[]>([...peers.keys()].map((name) => [name, []]));
    for (const shelf of shelves) {
      const items = await readItems(client, shelf, depth);
      if (items === undefined || lease.mayAct() === undefined) return undefined;
      for (const [name, peer] of peers) {
        const drift = await compareItems(peer, shelf, depth, items);
        if (drift === undefined) found.delete(name);
        else if (hasDrift(drift)) found.get(name)?.push(drift);
      }
    }
    return found;
  }

  async #tell(replica: string, libraries: readonly LibraryDrift[]): Promise<void> {
    const { log, memory, wallMs } = this.#options;
    const told = driftsIn(memory.notes("replica")).get(replica);
    const before = this.#drifts.get(replica) ?? told;
    if (libraries.length === 0) {
      this.#drifts.delete(replica);
      this.#curedAtMs.delete(replica);
      if (before !== undefined) log.info(`the libraries of ${replica} are the leader's again`);
      await this.#note(replica, "");
      return;
    }
    const sinceMs = before?.sinceMs ?? wallMs();
    const mentioned = libraries.slice(0, librariesTold);
    const drift: Drift = { sinceMs, libraries: mentioned, hindrance: before?.hindrance ?? "" };
    const sentence = driftSentence(replica, drift);
    const isNews = before === undefined || driftSentence(replica, before) !== sentence;
    if (isNews) log.warn(`the libraries differ: ${sentence}`);
    this.#drifts.set(replica, drift);
    await this.#note(replica, driftValue(drift));
  }

  async #note(replica: string, value: string): Promise<void> {
    const note = { kind: "replica", id: driftNoteId(replica), replica, value } as const;
    if ((this.#options.memory.note("replica", note.id)?.value ?? "") === value) return;
    if (value === "") await dropNote(this.#options, { ...note, replica: "" });
    else await putNote(this.#options, note, 0);
  }

  /** Scans who has drifted for at least one look, where its media are whole. */
  async #cure(): Promise<void> {
    const { wallMs, intervalMs, monotonicMs, hands, lease, replica: own } = this.#options;
    for (const [replica, drift] of this.#drifts) {
      if (itemsIn(drift) === 0 || wallMs() - drift.sinceMs < intervalMs) continue;
      const apartMs = wholeEvery * intervalMs;
      const isCured = (name: string): boolean =>
        monotonicMs() - (this.#curedAtMs.get(name) ?? Number.NEGATIVE_INFINITY) < apartMs;
      // What it has too many after a scan of its own, the leader's server may not have seen yet.
      const hasExtra = drift.libraries.some(({ extra }) => extra > 0);
      const target = !isCured(replica) ? replica : hasExtra && !isCured(own) ? own : undefined;
      if (target === undefined) continue;
      const epoch = lease.mayAct()?.epoch;
      const hand = hands().get(target);
      if (epoch === undefined) return;
      const hindrance = await this.#scan(target, hand, epoch);
      if (hindrance === "") this.#curedAtMs.set(target, monotonicMs());
      if (hindrance === drift.hindrance) continue;
      const next = { ...drift, hindrance };
      this.#drifts.set(replica, next);
      await this.#note(replica, driftValue(next));
    }
  }

  /** Why the replica is not scanned, or nothing when it is. */
  async #scan(
    target: string,
    hand: TaskHands | undefined,
    epoch: Parameters<TaskHands["read"]>[0],
  ): Promise<string> {
    const { log, wallMs } = this.#options;
    const seen = await hand?.read(epoch);
    if (hand === undefined || seen === undefined) return "its scan cannot be started now";
    const problem = await hand.mayStart(scanTaskKey);
    if (problem !== undefined) return `it is not scanned: ${problem}`.slice(0, 300);
    if (seen.tasks.some(({ key, state }) => key === scanTaskKey && state !== "Idle")) return "";
    const answer = await hand.start({ key: scanTaskKey, dueAtMs: wallMs(), epoch });
    if (answer.outcome !== "started" && answer.outcome !== "already") {
      return "its scan cannot be started now";
    }
    log.info(`${target} is scanned, because its libraries differ`);
    return "";
  }
}
