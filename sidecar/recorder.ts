// The recorder: one server makes the cluster's recordings, and when it is away for too long another goes on with
// them. Beside each server the same is done in turn: the recorder's sidecar says that it is there and writes its
// timers down; the leader's, when it has not heard that for `awayLimitMs`, gives the pin `recorder` to another;
// that one's makes the timers there; and the former one's cancels them when its server is back.
//
// It promises that nothing at all is done while nobody has ever asked for a recording (there is no pin); that the
// recorder changes only by the leader's word, and not for a store that was away; and that a server which is no
// longer the recorder is looked at as soon as it is healthy. What was recorded until then stays as a file of its
// own, and what is recorded from then on is a second one.

import type { Memory } from "../core/cluster/memory.ts";
import { dropNote, putNote } from "../core/cluster/notes.ts";
import {
  decideRecordings,
  endsAtMs,
  type KnownTimer,
  type RecordingStep,
  readTimerNote,
  recorderSaysParts,
  type SeenTimer,
  type TimerKind,
  timerNoteId,
  timerNoteValue,
  timersIn,
} from "../core/cluster/recordings.ts";
import type { JellyfinClient } from "../core/jellyfin/client.ts";
import { parsedJson } from "../core/service/json.ts";
import { sleep } from "../core/service/loop.ts";
import type { Seal } from "../core/service/seal.ts";
import { type Pin, type Store, StoreUnavailable } from "../core/store/store.ts";
import type { LeaseKeeper } from "./lease.ts";

export interface RecorderOptions {
  readonly replica: string;
  /** Names this process in the epochs it is granted. */
  readonly owner: string;
  readonly client: Pick<JellyfinClient, "callWithKey">;
  readonly store: Store;
  readonly memory: Memory;
  readonly seal: Pick<Seal, "mac" | "verifyMac">;
  readonly lease: Pick<LeaseKeeper, "mayAct">;
  readonly isHealthy: () => boolean;
  /** The other replicas whose sidecars or servers are known now. */
  readonly others: () => readonly string[];
  readonly monotonicMs: () => number;
  readonly wallMs: () => number;
  /** A recorder that was not heard for so long is given up, in ms. */
  readonly awayLimitMs: number;
  readonly log: { info(message: string): void; warn(message: string): void };
}

const recorderId = "recorder";
const allChannels = "all";
const pinMs = 10 * 365 * 24 * 3_600_000;
const longestLookMs = 5000;
const shortestLookMs = 250;
/** How long a note outlives the recording it is about, in ms. */
const keepMs = 24 * 3_600_000;
const paths: Readonly<Record<TimerKind, string>> = {
  timer: "/LiveTv/Timers",
  series: "/LiveTv/SeriesTimers",
};

export class RecorderKeeper {
  readonly #options: RecorderOptions;
  #wake = new AbortController();
  /** What the recorder said last, and when that was heard here for the first time. */
  #heard = { said: "", atMs: 0 };
  #said = 0;
  readonly #warned = new Set<string>();

  constructor(options: RecorderOptions) {
    this.#options = options;
  }

  /** The server is there again, or something else changed: looks now. */
  look(): void {
    this.#wake.abort();
  }

  async run(signal: AbortSignal): Promise<void> {
    const { memory, awayLimitMs } = this.#options;
    const intervalMs = Math.max(
      shortestLookMs,
      Math.min(longestLookMs, awayLimitMs / recorderSaysParts),
    );
    const unfollow = memory.onPin(({ kind }) => {
      if (kind === "recorder") this.look();
    });
    while (!signal.aborted) {
      this.#wake = new AbortController();
      await this.#once();
      await sleep(intervalMs, signal, this.#wake.signal);
    }
    unfollow();
  }

  async #once(): Promise<void> {
    const { memory, wallMs, replica } = this.#options;
    const pin = memory.pinOf("recorder", recorderId, wallMs());
    if (pin === undefined || !memory.storeAvailable) {
      // What was not heard while nobody could be heard does not count.
      this.#heard = { said: "", atMs: this.#options.monotonicMs() };
      return;
    }
    try {
      if (pin.replica === replica) await this.#say();
      else await this.#watch(pin);
      await this.#keepTimers(pin.replica);
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      memory.noteStoreFailure(error);
    }
  }

  // ---- Who records ------------------------------------------------------------------------------------

  /** A sign of life: the note's value is another each time. */
  async #say(): Promise<void> {
    const { replica, isHealthy, wallMs } = this.#options;
    if (!isHealthy()) return;
    this.#said = Math.max(this.#said + 1, wallMs());
    const value = JSON.stringify({ recordsAtMs: this.#said });
    await putNote(this.#options, { kind: "replica", id: saysId(replica), replica, value }, keepMs);
  }

  /** The leader alone takes the pin from a recorder that says nothing any more. */
  async #watch(pin: Pin): Promise<void> {
    const { lease, memory, monotonicMs, awayLimitMs } = this.#options;
    const said = `${pin.replica} ${memory.note("replica", saysId(pin.replica))?.value ?? ""}`;
    const nowMs = monotonicMs();
    if (said !== this.#heard.said) this.#heard = { said, atMs: nowMs };
    if (nowMs - this.#heard.atMs < awayLimitMs || lease.mayAct() === undefined) return;
    await this.#move(pin);
    this.#heard = { said: "", atMs: nowMs };
  }

  async #move(pin: Pin): Promise<void> {
    const { store, memory, owner, others, replica, log, wallMs } = this.#options;
    // Where channels are tuned already, one server counts all streams; else here, where the server is healthy.
    const tuner = memory.pinOf("channel", allChannels, wallMs())?.replica;
    const isThere = tuner !== undefined && tuner !== pin.replica && others().includes(tuner);
    const answer = await store.movePin({
      ...{ kind: "recorder", id: recorderId, owner, ttlMs: pinMs },
      replica: isThere ? tuner : replica,
      expectedEpoch: pin.epoch.number,
    });
    memory.apply({ type: "pin", pin: answer.pin });
    if (!answer.granted) return;
    log.warn(
      `recordings are made at ${answer.pin.replica}: ${pin.replica} has been away for too long`,
    );
  }

  // ---- Timers -----------------------------------------------------------------------------------------

  async #keepTimers(recorder: string): Promise<void> {
    const { replica, isHealthy, memory, wallMs } = this.#options;
    if (!isHealthy()) return;
    const known = this.#known();
    // A server that never recorded and has nothing written down for it needs no look but the first.
    if (replica !== recorder && this.#isSettled && !known.some((one) => one.replica === replica)) {
      return;
    }
    const [series, timers] = [await this.#read("series"), await this.#read("timer")];
    if (series === undefined || timers === undefined || !memory.storeAvailable) return;
    const seen = [...series, ...timers];
    const steps = decideRecordings({ replica, recorder, seen, known, nowMs: wallMs() });
    for (const step of steps) await this.#do(step);
    this.#isSettled = replica !== recorder && seen.length === 0;
  }

  /** This server does not record and had no timers when it was last looked at since it is there. */
  #isSettled = false;

  /** The server was away: it may have its timers again. */
  noteReturn(): void {
    this.#isSettled = false;
    this.look();
  }

  #known(): readonly KnownTimer[] {
    const { memory, seal } = this.#options;
    const known: KnownTimer[] = [];
    for (const note of memory.notes("timer").values()) {
      const timer = readTimerNote(seal, note);
      if (timer !== undefined) known.push(timer);
    }
    return known;
  }

  async #read(kind: TimerKind): Promise<readonly SeenTimer[] | undefined> {
    const answer = await this.#options.client.callWithKey("GET", paths[kind]);
    if (answer.outcome !== "answered" || answer.status !== 200) return undefined;
    return timersIn(parsedJson(answer.text), kind);
  }

  async #do(step: RecordingStep): Promise<void> {
    const { log, replica } = this.#options;
    switch (step.step) {
      case "write":
        return await this.#put(step.timer);
      case "forget":
        return await this.#forget(step.known);
      case "take": {
        const { known, timer } = step;
        const name = String(known.fields.Name ?? "");
        if (timer !== undefined) {
          if (!(await this.#ask("POST", paths[timer.kind], timer.fields))) return;
          log.info(
            `recording ${JSON.stringify(name)} is made at ${replica} in place of ${known.replica}`,
          );
        }
        return await this.#put({ ...known, isTaken: true });
      }
      case "cancel": {
        const { known } = step;
        if (!(await this.#ask("DELETE", `${paths[known.kind]}/${known.id}`))) return;
        log.info(
          `recording ${JSON.stringify(known.fields.Name ?? "")} is made elsewhere, and ended at ${replica}`,
        );
        return await this.#forget(known);
      }
    }
  }

  /** False: it is tried again at the next look. */
  async #ask(method: "POST" | "DELETE", path: string, body?: unknown): Promise<boolean> {
    const { client, log, replica } = this.#options;
    const answer = await client.callWithKey(method, path, body);
    if (answer.outcome === "failed") return false;
    // A timer that the server does not know is as good as cancelled.
    if (answer.status < 300 || (method === "DELETE" && answer.status === 404)) return true;
    const said = `${method} ${path}`;
    if (!this.#warned.has(said) && this.#warned.size < 100) {
      this.#warned.add(said);
      log.warn(
        `a recording could not be taken over: ${replica} answered ${answer.status} to ${said}`,
      );
    }
    return false;
  }

  async #put(timer: KnownTimer): Promise<void> {
    const { seal, wallMs, log } = this.#options;
    const { replica } = timer;
    const id = timerNoteId(replica, timer);
    const value = timerNoteValue(seal, timer);
    const leftMs = endsAtMs(timer) - wallMs() + keepMs;
    const ttlMs = Number.isFinite(leftMs) ? Math.max(keepMs, Math.round(leftMs)) : 0;
    try {
      await putNote(this.#options, { kind: "timer", id, replica, value }, ttlMs);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      if (this.#warned.has("note") || this.#warned.size >= 100) return;
      this.#warned.add("note");
      log.warn(`a timer of ${replica} cannot be written down: ${error.message}`);
    }
  }

  async #forget({ replica, kind, id }: KnownTimer): Promise<void> {
    const note = { kind: "timer", id: timerNoteId(replica, { kind, id }), replica } as const;
    await dropNote(this.#options, note);
  }
}

function saysId(replica: string): string {
  return `${replica}:recorder`;
}
