// The keeper of one server's mark (core/cluster/truth.ts says what it is for). It looks whenever the server has come
// back, before anything of the journal is done there, and before each new mark; what it remembers lies in a file
// beside the sidecar and in the store, so that losing one of them blinds nobody.
//
// The mark is the name of a device that does not exist: `POST /Devices/Options` writes a row of its own in
// jellyfin.db for any id (DeviceManager.UpdateDeviceOptions, 10.10 to 12.0), which belongs to no user, is shown
// nowhere, and is in every backup of that database, Jellyfin's own included.
//
// Order of steps, and why: the server has a new mark before it is remembered, so that dying between the two looks
// like a mark that is newer than the remembered one, which is harmless.

import { randomUUID } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import {
  behindNoteId,
  journalCursorOf,
  journalNoteId,
  journalStartNoteId,
  journalStartOf,
  noGeneration,
} from "../core/cluster/journal-cursor.ts";
import type { Memory } from "../core/cluster/memory.ts";
import { dropNote, putNote } from "../core/cluster/notes.ts";
import { provenText, provenValue } from "../core/cluster/proven.ts";
import {
  decisionNoteId,
  decisionOf,
  isQuarantined,
  judge,
  laterMark,
  type Mark,
  markNoteId,
  markText,
  nextMark,
  quarantineNoteId,
  quarantineOf,
  quarantineValue,
  readMark,
} from "../core/cluster/truth.ts";
import type { JellyfinClient } from "../core/jellyfin/client.ts";
import type { Clock } from "../core/service/clock.ts";
import { parsedObject } from "../core/service/json.ts";
import { rest, untilAborted } from "../core/service/loop.ts";
import type { Seal } from "../core/service/seal.ts";
import type { JournalCursor } from "../core/store/journal.ts";
import { type Store, StoreUnavailable } from "../core/store/store.ts";

export interface TruthParts {
  readonly replica: string;
  readonly client: JellyfinClient;
  readonly store: Store;
  readonly memory: Memory;
  readonly seal: Seal;
  readonly clock: Clock;
  /** Where the last mark is remembered besides the store; undefined: there alone. */
  readonly directory: string | undefined;
  /** All replicas, this one included. */
  readonly replicas: () => readonly string[];
  readonly log: {
    info(message: string): void;
    warn(message: string): void;
    error(message: string): void;
  };
  readonly limits?: Partial<TruthLimits>;
}

export interface TruthLimits {
  /** At most one new mark in this time. */
  readonly markIntervalMs: number;
  /** What did not work is tried again after this. */
  readonly retryMs: number;
}

export const truthLimits: TruthLimits = { markIntervalMs: 10_000, retryMs: 1000 };

export const markDeviceId = "jellybloom-mark";
const markPath = `/Devices/Options?id=${markDeviceId}`;

/** Where an order to begin elsewhere comes from a mark. */
const markOrder = "mark ";

/** What is remembered beside the marks. */
interface Remembered {
  readonly mark: Mark | undefined;
  /** The last decision that was obeyed. */
  readonly order: string;
}

export class TruthKeeper {
  readonly #parts: TruthParts;
  readonly #limits: TruthLimits;
  #remembered: Remembered | undefined;
  #isHealthy = false;
  /** The server came back and has not been looked at since. */
  #isUnseen = true;
  #isTrusted = false;
  #markedAtMs = Number.NEGATIVE_INFINITY;
  /** What the replica's place in the journal was said to be when the last mark was left. */
  #markedPlace = "";
  #distrust = new AbortController();
  #nextStep = new AbortController();
  readonly #waiting = new Set<() => void>();

  constructor(parts: TruthParts) {
    this.#parts = parts;
    this.#limits = { ...truthLimits, ...parts.limits };
  }

  /** True when the server's data are known to be those which this cluster left there. */
  get isTrusted(): boolean {
    return this.#isTrusted;
  }

  /** A sentence while the replica is in quarantine. */
  sentence(): string | undefined {
    const { memory, replica } = this.#parts;
    const why = isQuarantined(memory.notes("replica"), replica);
    return why === undefined ? undefined : `${replica} gets nobody: ${why}`;
  }

  noteHealth(isHealthy: boolean): void {
    const wasHealthy = this.#isHealthy;
    this.#isHealthy = isHealthy;
    if (isHealthy && !wasHealthy) this.noteStarted();
  }

  /** The server was started: its data may be others now. */
  noteStarted(): void {
    this.#isUnseen = true;
    this.#wake();
  }

  /** Resolves with a signal that aborts when the data are to be trusted no longer; or when `signal` aborts. */
  async untilTrusted(signal: AbortSignal): Promise<AbortSignal> {
    while (!this.#isTrusted && !signal.aborted) {
      const trusted = new Promise<void>((resolve) => {
        this.#waiting.add(resolve);
      });
      await untilAborted(trusted, signal);
    }
    return this.#distrust.signal;
  }

  async run(signal: AbortSignal): Promise<void> {
    const { memory, replica } = this.#parts;
    const { markIntervalMs, retryMs } = this.#limits;
    await untilAborted(memory.loaded, signal);
    const mine = new Set([decisionNoteId(replica), quarantineNoteId(replica)]);
    const stop = memory.onNote(({ kind, id }) => {
      if (kind === "replica" && mine.has(id)) this.#wake();
    });
    while (!signal.aborted) {
      // Whatever happens from here on is looked at after this step.
      this.#nextStep = new AbortController();
      const woken = this.#nextStep.signal;
      try {
        await this.#step();
        await rest(this.#isUnseen && this.#isHealthy ? retryMs : markIntervalMs, signal, woken);
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error;
        // The step may have stopped in the middle: the server is looked at anew, which begins it again.
        this.#isUnseen = true;
        await rest(retryMs, signal);
      }
    }
    stop();
  }

  #wake(): void {
    this.#nextStep.abort();
  }

  async #step(): Promise<void> {
    if (!this.#isHealthy) return;
    this.#remembered ??= await this.#recall();
    const { memory, replica, seal, clock } = this.#parts;
    const notes = memory.notes("replica");
    const decided = decisionOf(seal, notes, replica);
    if (decided !== undefined && decided.order !== this.#remembered.order) {
      if (decided.decision === "truth") await this.#beTruth(decided.order);
      else await this.#catchUp(decided.order);
      return;
    }
    const quarantine = quarantineOf(notes, replica);
    if (this.#isUnseen) {
      this.#isUnseen = false;
      if (!(await this.#look())) this.#isUnseen = true;
      return;
    }
    if (quarantine !== undefined) return this.#setTrusted(false);
    const cursor = journalCursorOf(notes, replica);
    const place = notes.get(journalNoteId(replica))?.value ?? "";
    const isDue = clock.monotonicMs() - this.#markedAtMs >= this.#limits.markIntervalMs;
    if (!this.#isTrusted || !isDue || place === this.#markedPlace) return;
    // What was put back without our noticing is noticed here, before the mark would cover it.
    if ((await this.#look()) && this.#isTrusted) await this.#leaveMark(cursor, place);
  }

  /** False when the server did not tell: it is asked again. */
  async #look(): Promise<boolean> {
    const { client, replica, memory, log } = this.#parts;
    const answer = await client.callWithKey("GET", markPath);
    if (answer.outcome !== "answered") return false;
    if (answer.status !== 200 && answer.status !== 404) return false;
    const found =
      answer.status === 404 ? undefined : readMark(parsedObject(answer.text)?.CustomName);
    const judgement = judge(replica, found, this.#remembered?.mark);
    const standing = quarantineOf(memory.notes("replica"), replica);
    switch (judgement.verdict) {
      case "trusted":
        if (judgement.adopt !== undefined) await this.#remember({ mark: judgement.adopt });
        if (standing !== undefined) this.#setTrusted(false);
        else if (!this.#isTrusted) {
          if (found === undefined) await this.#leaveMark(undefined);
          this.#setTrusted(true);
        }
        return true;
      case "copy":
        await this.#takeCopy(judgement.of);
        return true;
      case "older":
        this.#setTrusted(false);
        if (standing === undefined) {
          await this.#quarantine(replica, judgement.reason, "");
          log.error(`${replica} is in quarantine: ${judgement.reason}`);
        }
        return true;
    }
  }

  /** Data of another replica stand here: a seed. They are gone on with from where those were. */
  async #takeCopy(of: Mark): Promise<void> {
    const { replica, memory, log } = this.#parts;
    this.#setTrusted(false);
    if (quarantineOf(memory.notes("replica"), of.replica) !== undefined) {
      return await this.#holdCopy(of.replica);
    }
    // What a seed told the cluster may be newer than the data, which had been put back before they were copied; or it is
    // of an earlier seed, and was done long ago. What the mark says is in the data; done twice is harmless.
    const told = journalStartOf(memory.notes("replica"), replica);
    const isTold = told !== undefined && !told.order.startsWith(markOrder);
    if (of.cursor !== undefined) {
      await this.#orderStart(isTold ? earlier(told.cursor, of.cursor) : of.cursor);
    }
    log.info(`${replica} has the data of ${of.replica} now, and goes on from there`);
    await this.#noteBehind();
    if (quarantineOf(memory.notes("replica"), replica) !== undefined) {
      await this.#dropNote(quarantineNoteId(replica));
    }
    await this.#leaveMark(of.cursor);
    this.#setTrusted(true);
  }

  /** Whether the other one's data are right is for the owner to say, and so it is of their copy. */
  async #holdCopy(of: string): Promise<void> {
    const { replica, memory, log } = this.#parts;
    if (quarantineOf(memory.notes("replica"), replica) !== undefined) return;
    const reason = `its data are a copy of ${of}, which is in quarantine`;
    await this.#quarantine(replica, reason, "");
    log.error(`${replica} is in quarantine: ${reason}`);
  }

  /** The owner says that these data are right: the others are not, and are seeded anew. */
  async #beTruth(order: string): Promise<void> {
    const { replica, replicas, store, log } = this.#parts;
    const ends = await store.journalEnds();
    const cursor = { generation: ends.generation, number: ends.last };
    // The others first: dying here leaves nobody who serves what its owner has called wrong.
    for (const other of replicas().filter((name) => name !== replica)) {
      await this.#quarantine(other, `its owner says that ${replica} is right`, replica);
    }
    await this.#orderStart(cursor);
    await this.#release(cursor, order);
    log.warn(`${replica} is the truth: the others get nobody until they are seeded from it`);
  }

  /** The owner says that the journal is right: what these data lack is done again. */
  async #catchUp(order: string): Promise<void> {
    const { client, replica, log } = this.#parts;
    const answer = await client.callWithKey("GET", markPath);
    if (answer.outcome !== "answered") return;
    const found = readMark(parsedObject(answer.text)?.CustomName);
    // Without a mark nobody knows since when: everything that the journal still has is done again.
    const cursor = found?.cursor ?? { generation: noGeneration, number: 0 };
    await this.#orderStart(cursor);
    await this.#noteBehind();
    await this.#release(cursor, order);
    log.info(`${replica} does again what it lacks, from entry ${cursor.number} of the journal on`);
  }

  async #release(cursor: JournalCursor, order: string): Promise<void> {
    const { replica } = this.#parts;
    this.#setTrusted(false);
    await this.#leaveMark(cursor.generation === noGeneration ? undefined : cursor);
    await this.#dropNote(quarantineNoteId(replica));
    await this.#remember({ order });
    // Whoever keeps this server next, in another folder, must not obey it again.
    await this.#dropNote(decisionNoteId(replica));
    this.noteStarted();
  }

  async #quarantine(replica: string, reason: string, truth: string): Promise<void> {
    const sinceMs = Math.round(this.#parts.clock.wallMs());
    await this.#putNote(
      quarantineNoteId(replica),
      replica,
      quarantineValue({ sinceMs, reason, truth }),
    );
  }

  /** Nobody is sent there before it has caught up; its journal (journal/readiness.ts) takes the note away then. */
  async #noteBehind(): Promise<void> {
    const { replica, clock } = this.#parts;
    const value = JSON.stringify({ cause: "server", sinceMs: Math.round(clock.wallMs()) });
    await this.#putNote(behindNoteId(replica), replica, value);
  }

  async #orderStart(cursor: JournalCursor): Promise<void> {
    const { replica } = this.#parts;
    const value = JSON.stringify({ cursor, order: markOrder + randomUUID() });
    await this.#putNote(journalStartNoteId(replica), replica, value);
  }

  async #leaveMark(cursor: JournalCursor | undefined, place = ""): Promise<void> {
    const { client, replica, clock } = this.#parts;
    const mark = nextMark(replica, this.#remembered?.mark, cursor);
    const answer = await client.callWithKey("POST", markPath, { CustomName: markText(mark) });
    if (answer.outcome !== "answered" || answer.status >= 300) return;
    this.#markedAtMs = clock.monotonicMs();
    this.#markedPlace = place;
    await this.#remember({ mark });
  }

  // ---- What is remembered ---------------------------------------------------------------------------

  async #recall(): Promise<Remembered> {
    const { memory, replica, seal } = this.#parts;
    const kept = parsedObject(await this.#readFile());
    const told = provenText(seal, memory.notes("replica").get(markNoteId(replica)));
    return {
      mark: laterMark(readMark(kept?.mark), readMark(told)),
      order: typeof kept?.order === "string" ? kept.order : "",
    };
  }

  async #remember(change: Partial<Remembered>): Promise<void> {
    const { replica, seal } = this.#parts;
    const next = { mark: undefined, order: "", ...this.#remembered, ...change };
    this.#remembered = next;
    const mark = next.mark === undefined ? undefined : markText(next.mark);
    await this.#writeFile(JSON.stringify({ mark, order: next.order }));
    if (mark === undefined || change.mark === undefined) return;
    const id = markNoteId(replica);
    await this.#putNote(id, replica, provenValue(seal, { kind: "replica", id }, mark));
  }

  async #putNote(id: string, replica: string, value: string): Promise<void> {
    await putNote(this.#parts, { kind: "replica", id, replica, value }, 0);
  }

  async #dropNote(id: string): Promise<void> {
    const { replica } = this.#parts;
    await dropNote(this.#parts, { kind: "replica", id, replica });
  }

  get #file(): string | undefined {
    const { directory, replica } = this.#parts;
    return directory === undefined
      ? undefined
      : join(directory, `mark-${encodeURIComponent(replica)}.json`);
  }

  async #readFile(): Promise<string> {
    // A file that is not there, or cannot be read, remembers nothing; the store does, too.
    return this.#file === undefined ? "" : await readFile(this.#file, "utf8").catch(() => "");
  }

  async #writeFile(text: string): Promise<void> {
    const path = this.#file;
    if (path === undefined) return;
    try {
      await mkdir(dirname(path), { recursive: true });
      await writeFile(`${path}.new`, text, { mode: 0o600, flush: true });
      await rename(`${path}.new`, path);
    } catch (error) {
      const why = error instanceof Error ? error.message : "no reason given";
      this.#parts.log.warn(
        `the mark of ${this.#parts.replica} is not kept beside its sidecar: ${why}`,
      );
    }
  }

  #setTrusted(isTrusted: boolean): void {
    if (this.#isTrusted === isTrusted) return;
    this.#isTrusted = isTrusted;
    if (!isTrusted) {
      this.#distrust.abort();
      this.#distrust = new AbortController();
      return;
    }
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }
}

/** The earlier of two places in the journal, of which `mark` is the one to trust where they cannot be compared. */
function earlier(told: JournalCursor, mark: JournalCursor): JournalCursor {
  return told.generation === mark.generation && told.number < mark.number ? told : mark;
}
