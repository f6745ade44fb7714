// Plays at the door: every playback that goes through here is written down as it goes, so that another door
// or another replica can go on with it, and so that two servers never encode the same play.
//
//   bound    playlists and segments of a play with a pin of its own go there
//   before   a piece of an encode is asked of a new owner only after the former one was told to end its own
//   ended    what the request told: where the play is, who delivered, who failed
//
// It promises that a request waits here only when its play has changed hands while the former owner can be
// reached, and then no longer than `endEncodeLimitMs`; that the store is written only when something changed,
// for a position at most once in `writeIntervalMs`; and that all it keeps is bounded.

import { type Encoders, encodeElsewhere } from "../../core/cluster/encoder.ts";
import { normalId } from "../../core/cluster/identity.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import {
  isPlayId,
  mergedPlay,
  newPlay,
  type Owner,
  ownerOf,
  type Play,
  type PlayNews,
  pinAfter,
  playText,
  readPlay,
  withNews,
  writeOf,
} from "../../core/cluster/plays.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { queryValue, segmentOf } from "../../core/jellyfin/playback.ts";
import type { Route } from "../../core/jellyfin/routes.ts";
import type { Clock } from "../../core/service/clock.ts";
import type { Log } from "../../core/service/log.ts";
import { sleep } from "../../core/service/loop.ts";
import type { Note, Pin, Store } from "../../core/store/store.ts";
import { StoreUnavailable } from "../../core/store/store.ts";
import type { Attendant, Attended, Bound } from "../attendant.ts";
import { Bounded } from "../bounded.ts";
import type { Homes } from "../homes.ts";

export interface PlaysMetrics {
  readonly takeovers: { add(): void };
  readonly encoderFailures: { add(): void };
}

export interface PlaysOptions {
  readonly store: Store;
  readonly memory: Memory;
  readonly homes: Pick<Homes, "homeOf" | "owner">;
  readonly log: Log;
  readonly clock: Clock;
  readonly metrics: PlaysMetrics;
  /** A client for our own calls to a replica; undefined for one that is not known. */
  readonly clientOf: (replica: string) => JellyfinClient | undefined;
  readonly isReady: (replica: string) => boolean;
  readonly isDraining: (replica: string) => boolean;
  /** Asked only when a play begins. */
  readonly encoders: () => Encoders;
  readonly limits: PlaysLimits;
}

export interface PlaysLimits {
  /** A position is written no more often than this, in ms. */
  readonly writeIntervalMs: number;
  /** How long a request waits for the former owner to end its encode, in ms. */
  readonly endEncodeLimitMs: number;
  /** How long the record of a play outlives its last change, in ms. */
  readonly keepMs: number;
  /** How long a play that has ended is remembered for servers that are away, in ms. */
  readonly keepEndedMs: number;
  readonly playsLimit: number;
}

export const playsLimits: PlaysLimits = {
  writeIntervalMs: 5000,
  endEncodeLimitMs: 1000,
  keepMs: 6 * 3_600_000,
  keepEndedMs: 3_600_000,
  playsLimit: 5000,
};

interface Kept {
  play: Play;
  /** As it lies in the store. */
  written: Play | undefined;
  writtenAtMs: number;
  timer: NodeJS.Timeout | undefined;
  isWriting: boolean;
  /** Requests of a play that changed hands share one end of its former encode. */
  ending: Promise<void> | undefined;
  /** Requests that were answered elsewhere share one claim. */
  pinning: boolean;
}

type Part = "report" | "encode" | "other";

function partOf({ kind }: Route): Part | undefined {
  switch (kind) {
    case "playStart":
    case "playProgress":
    case "playStopped":
      return "report";
    case "masterPlaylist":
    case "mainPlaylist":
    case "segment":
    case "universal":
    case "stream":
      return "encode";
    case "stopEncodings":
    case "playPing":
      return "other";
    default:
      return undefined;
  }
}

export class Plays implements Attendant {
  readonly name = "plays";
  readonly #options: PlaysOptions;
  readonly #plays: Bounded<string, Kept>;

  constructor(options: PlaysOptions) {
    this.#options = options;
    this.#plays = new Bounded(options.limits.playsLimit);
    options.memory.onNote((note) => this.#heard(note));
  }

  /** The play as the cluster knows it. */
  get(id: string): Play | undefined {
    return isPlayId(id) ? this.#known(id)?.play : undefined;
  }

  /** Whether anybody in the cluster watches television now. */
  isTuned(): boolean {
    for (const note of this.#options.memory.notes("play").values()) {
      const play = note.value.includes('"tunedAt":""') ? undefined : readPlay(note);
      if (play !== undefined && play.tunedAt !== "" && !play.hasEnded) return true;
    }
    return false;
  }

  /** A live stream was opened for a play. */
  tuned(id: string, asked: Attended, news: PlayNews): void {
    if (!isPlayId(id)) return;
    const nowMs = this.#options.clock.wallMs();
    const kept = this.#known(id) ?? this.#keep(newPlay(id, nowMs), undefined);
    const owner = this.#ownerOf(id, asked);
    kept.play = withNews(kept.play, { ...whoAsks(asked), ...news, owner }, nowMs);
    this.#write(kept);
  }

  attends(route: Route): boolean {
    return partOf(route) !== undefined;
  }

  bound({ facts }: Attended): Bound | undefined {
    const id = facts.query.playSessionId;
    if (id === undefined || partOf(facts.route) === "report" || facts.query.isStatic) {
      return undefined;
    }
    const pin = this.#pinOf(id);
    return pin === undefined ? undefined : { replica: pin.replica, kind: "play" };
  }

  async before(asked: Attended): Promise<undefined> {
    const { facts } = asked;
    const id = facts.query.playSessionId;
    if (id === undefined || facts.query.isStatic || !startsEncode(facts.route)) return undefined;
    const kept = this.#known(id);
    await this.#leaveDraining(id, asked);
    const owner = this.#ownerOf(id, asked);
    if (owner === undefined) return undefined;
    const at = kept?.play.encodesAt ?? "";
    if (at === "" || kept === undefined) await this.#placeFirst(asked, id, owner);
    else if (at !== owner.replica) await this.#endEncode(kept, at, asked);
    return undefined;
  }

  ended(asked: Attended, status: number | undefined, replica: string): void {
    const { route, query } = asked.facts;
    const part = partOf(route);
    if (part === "other") return;
    const report = part === "report" ? readReport(asked) : undefined;
    const id = report === undefined ? query.playSessionId : textOf(report("PlaySessionId"));
    if (!isPlayId(id) || query.isStatic) return;
    const isAnswered = status !== undefined && status < 400 && replica !== "";
    const failedAt = part === "encode" ? failureOf(asked, status, replica) : undefined;
    if (!isAnswered && failedAt === undefined) return;
    const news =
      report === undefined
        ? encodeNews(asked, isAnswered ? replica : "")
        : reportNews(asked, report, replica);
    const nowMs = this.#options.clock.wallMs();
    const kept = this.#known(id) ?? this.#keep(newPlay(id, nowMs), undefined);
    // What comes in after the end of a play tells nothing about it any more.
    if (kept.play.hasEnded) return;
    if (failedAt !== undefined) this.#options.metrics.encoderFailures.add();
    const owner = this.#ownerOf(id, asked);
    this.#tellTakeover(kept.play, news);
    kept.play = withNews(kept.play, { ...news, failedAt, owner }, nowMs);
    if (part === "encode" && isAnswered) void this.#pinAfter(kept, replica, owner);
    if (kept.play.hasEnded) this.#end(kept);
    else this.#write(kept);
  }

  // ---- Who owns it --------------------------------------------------------------------------------

  #pinOf(id: string): Pin | undefined {
    return this.#options.memory.pinOf("play", id, this.#options.clock.wallMs());
  }

  #ownerOf(id: string, { identity }: Attended): Owner | undefined {
    const { homes, memory } = this.#options;
    const userId = identity?.userId;
    const replica = userId === undefined || userId === "" ? undefined : homes.homeOf(userId);
    const epoch = memory.homes.get(userId ?? "")?.epoch ?? { number: 0, owner: "" };
    return ownerOf(this.#pinOf(id), replica === undefined ? undefined : { replica, epoch });
  }

  /** A play with a pin of its own leaves a draining replica between two pieces, and goes home. */
  async #leaveDraining(id: string, { identity }: Attended): Promise<void> {
    const { homes, isDraining } = this.#options;
    const pin = this.#pinOf(id);
    if (pin === undefined || identity === undefined || !isDraining(pin.replica)) return;
    const home = homes.homeOf(identity.userId);
    if (home !== undefined && home !== pin.replica) await this.#move(pin, home);
  }

  /** A play that begins where encodes are known to fail is bound elsewhere first. */
  async #placeFirst(asked: Attended, id: string, owner: Owner): Promise<void> {
    if (!isPlayId(id) || asked.identity === undefined || this.#pinOf(id) !== undefined) return;
    const better = encodeElsewhere(owner.replica, this.#options.encoders());
    if (better !== undefined) await this.#claim(id, better);
  }

  /** Ends the encode of a play that has changed hands, so that no two servers encode it at one time. */
  async #endEncode(kept: Kept, at: string, asked: Attended): Promise<void> {
    const { clientOf, isReady, clock, limits } = this.#options;
    const client = isReady(at) ? clientOf(at) : undefined;
    if (client === undefined) return;
    const { id, deviceId } = kept.play;
    kept.ending ??= client.stopEncodings(deviceId, id).then(() => {
      kept.ending = undefined;
    });
    const leftMs = asked.deadlineMs - clock.monotonicMs();
    const limitMs = Math.max(0, Math.min(limits.endEncodeLimitMs, leftMs));
    const patience = new AbortController();
    await Promise.race([kept.ending, sleep(limitMs, patience.signal)]);
    patience.abort();
  }

  /** Another replica than the owner has delivered: the play goes on there. */
  async #pinAfter(kept: Kept, replica: string, owner: Owner | undefined): Promise<void> {
    const { isReady, log } = this.#options;
    const { id } = kept.play;
    const pin = this.#pinOf(id);
    const isOwnerReady = owner !== undefined && isReady(owner.replica);
    const deed = pinAfter(replica, owner, pin !== undefined, isOwnerReady);
    if (deed === undefined || kept.pinning || owner === undefined) return;
    kept.pinning = true;
    try {
      const now =
        deed === "claim" ? await this.#claim(id, replica) : await this.#move(pin, replica);
      if (now?.replica !== replica) return;
      const why = kept.play.failures[owner.replica] === undefined ? "did not answer" : "failed";
      log.info(`play ${id} is bound to ${replica}: its owner ${owner.replica} ${why}`);
      kept.play = withNews(kept.play, { owner: ownerOf(now, undefined) }, kept.play.changedAtMs);
      this.#write(kept);
    } finally {
      kept.pinning = false;
    }
  }

  async #claim(id: string, replica: string): Promise<Pin | undefined> {
    const { store, memory, homes, limits, clock } = this.#options;
    const owner = homes.owner;
    try {
      const pin = await store.claimPin({ kind: "play", id, replica, owner, ttlMs: limits.keepMs });
      memory.apply({ type: "pin", pin });
      return pin;
    } catch (error) {
      memory.noteStoreFailure(error);
      const expiresAtMs = clock.wallMs() + limits.keepMs;
      const pin: Pin = { kind: "play", id, replica, epoch: { number: 0, owner }, expiresAtMs };
      memory.apply({ type: "pin", pin });
      return pin;
    }
  }

  async #move(pin: Pin | undefined, replica: string): Promise<Pin | undefined> {
    const { store, memory, homes, limits } = this.#options;
    if (pin === undefined) return undefined;
    try {
      const answer = await store.movePin({
        kind: "play",
        id: pin.id,
        replica,
        owner: homes.owner,
        ttlMs: limits.keepMs,
        expectedEpoch: pin.epoch.number,
      });
      memory.apply({ type: "pin", pin: answer.pin });
      return answer.pin;
    } catch (error) {
      memory.noteStoreFailure(error);
      return undefined;
    }
  }

  #tellTakeover(play: Play, { replica, isEncoded, segment }: PlayNews): void {
    const { log, metrics } = this.#options;
    if (isEncoded !== true || play.encodesAt === "" || replica === undefined) return;
    if (replica === play.encodesAt) return;
    metrics.takeovers.add();
    const from = segment === undefined || segment < 0 ? "its beginning" : `segment ${segment}`;
    log.info(
      `play ${play.id} goes on at ${replica} from ${from}; it was encoded at ${play.encodesAt}`,
    );
  }

  // ---- What is known, and its way to the store ------------------------------------------------------

  #known(id: string): Kept | undefined {
    const kept = this.#plays.get(id);
    if (kept !== undefined) return kept;
    const note = this.#options.memory.note("play", id);
    const play = note === undefined ? undefined : readPlay(note);
    return play === undefined ? undefined : this.#keep(play, play);
  }

  #keep(play: Play, written: Play | undefined): Kept {
    const kept: Kept = {
      play,
      written,
      writtenAtMs: Number.NEGATIVE_INFINITY,
      timer: undefined,
      isWriting: false,
      ending: undefined,
      pinning: false,
    };
    this.#plays.set(play.id, kept);
    return kept;
  }

  /** Another door has told of a play that is known here, too. */
  #heard(note: Note): void {
    if (note.kind !== "play") return;
    const kept = this.#plays.get(note.id);
    if (kept === undefined) return;
    const play = readPlay(note);
    if (play === undefined) {
      if (note.value === "") kept.play = { ...kept.play, hasEnded: true };
      return;
    }
    if (kept.written !== undefined && playText(kept.written) === note.value) return;
    kept.written = play;
    kept.play = mergedPlay(kept.play, play);
  }

  #write(kept: Kept): void {
    const { clock, limits } = this.#options;
    const due = writeOf(kept.written, kept.play);
    if (due === "never" || kept.isWriting) return;
    const waitMs =
      due === "now" ? 0 : kept.writtenAtMs + limits.writeIntervalMs - clock.monotonicMs();
    if (waitMs <= 0) {
      void this.#put(kept);
      return;
    }
    if (kept.timer !== undefined) return;
    kept.timer = setTimeout(() => {
      kept.timer = undefined;
      void this.#put(kept);
    }, waitMs);
    kept.timer.unref();
  }

  async #put(kept: Kept): Promise<void> {
    const { store, memory, clock, limits, log } = this.#options;
    clearTimeout(kept.timer);
    kept.timer = undefined;
    const { play } = kept;
    const { id, owner: replica } = play;
    const ttlMs = play.hasEnded ? limits.keepEndedMs : limits.keepMs;
    const note = { kind: "play", id, replica, value: playText(play) } as const;
    kept.isWriting = true;
    kept.written = play;
    kept.writtenAtMs = clock.monotonicMs();
    memory.apply({ type: "note", note: { ...note, expiresAtMs: clock.wallMs() + ttlMs } });
    try {
      await store.putNote(note, ttlMs);
    } catch (error) {
      // While the store is away the play is remembered here, and written at its next change.
      if (error instanceof StoreUnavailable) memory.noteStoreFailure(error);
      else if (error instanceof RangeError)
        log.warn(`play ${id} is not written down: ${error.message}`);
      else throw error;
    } finally {
      kept.isWriting = false;
    }
    // What came meanwhile has its turn.
    if (kept.play !== play) this.#write(kept);
  }

  /** The viewer has stopped. Where it has left something at another server, that is still to be told. */
  #end(kept: Kept): void {
    const { memory, homes } = this.#options;
    const { id, visited, userId } = kept.play;
    const home = homes.homeOf(userId);
    const isAllAtHome = visited.every((replica) => replica === home);
    const pin = this.#pinOf(id);
    if (!isAllAtHome || pin !== undefined) {
      this.#write(kept);
      return;
    }
    clearTimeout(kept.timer);
    kept.timer = undefined;
    memory.apply({
      type: "note",
      note: { kind: "play", id, replica: kept.play.owner, value: "", expiresAtMs: 0 },
    });
    void this.#drop(id);
  }

  async #drop(id: string): Promise<void> {
    const { store, memory } = this.#options;
    try {
      await store.dropNotes({ kind: "play", id });
    } catch (error) {
      // It ends by itself.
      memory.noteStoreFailure(error);
    }
  }
}

// ---- What a request tells -----------------------------------------------------------------------------

function startsEncode({ kind }: Route): boolean {
  return kind === "segment" || kind === "stream" || kind === "universal";
}

/** What a report of playback says: in its body, or in the query of the old forms. */
type Report = (name: string) => unknown;

function readReport({ facts, bodyText = "" }: Attended): Report {
  if (bodyText === "") return (name) => queryValue(facts.rawQuery, name);
  const fields = new Map<string, unknown>();
  try {
    const parsed: unknown = JSON.parse(bodyText);
    if (typeof parsed === "object" && parsed !== null) {
      for (const [name, value] of Object.entries(parsed)) fields.set(name.toLowerCase(), value);
    }
  } catch {
    // The server will say what is wrong with it; it tells nothing here.
  }
  return (name) => fields.get(name.toLowerCase());
}

function textOf(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

/** The replica that failed to encode, when another one or nobody delivered. A 404 is about the film, not the encoder. */
function failureOf(
  { refusals, refusedBy }: Attended,
  status: number | undefined,
  replica: string,
): string | undefined {
  let isFailure = status !== undefined && status >= 500;
  for (const refusal of refusals.keys()) {
    if (refusal >= 500 && refusal !== 503) isFailure = true;
  }
  if (!isFailure) return undefined;
  for (const name of refusedBy) if (name !== replica || (status ?? 500) >= 400) return name;
  return undefined;
}

function whoAsks({ identity, facts }: Attended): PlayNews {
  return {
    userId: identity?.userId,
    identityKey: identity?.key,
    deviceId: facts.query.deviceId ?? identity?.deviceId,
    mediaSourceId: facts.query.mediaSourceId,
    liveStreamId: facts.query.liveStreamId,
  };
}

function encodeNews(asked: Attended, replica: string): PlayNews {
  const { route, params, itemId } = asked.facts;
  const segment = route.kind === "segment" ? segmentOf(params)?.number : undefined;
  return {
    ...whoAsks(asked),
    itemId,
    replica,
    isEncoded: startsEncode(route) && replica !== "",
    segment: replica === "" || segment === undefined || segment < 0 ? undefined : segment,
  };
}

function reportNews(asked: Attended, report: Report, replica: string): PlayNews {
  const { itemId, route } = asked.facts;
  const item = itemId ?? textOf(report("ItemId"));
  const ticks = Number(report("PositionTicks") ?? Number.NaN);
  const paused = report("IsPaused");
  return {
    ...whoAsks(asked),
    itemId: item === undefined ? undefined : normalId(item),
    mediaSourceId: textOf(report("MediaSourceId")),
    liveStreamId: textOf(report("LiveStreamId")),
    positionTicks: Number.isSafeInteger(ticks) && ticks >= 0 ? ticks : undefined,
    isPaused: paused === undefined ? undefined : paused === true || paused === "true",
    hasEnded: route.kind === "playStopped",
    replica,
  };
}
