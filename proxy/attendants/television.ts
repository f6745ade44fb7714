// Television at the door. A tuner has so many streams, and each server counts only its own; so everything that may
// open one goes to one replica, whoever asks, and two viewers of one channel share its stream there as they would
// on a single server. When that replica is gone the next one takes its place: the stream of each viewer is opened
// there before their next list is asked for, and to the player both servers' lists are one (what it has seen, a
// discontinuity, what is new). Timers and recordings have a replica of their own that does not follow the leader.
//
// It promises that a stream is opened again only for a viewer who goes on asking, and that without tuners none of
// this is ever asked about: a film costs one look at what it is, remembered.

import type { Memory } from "../../core/cluster/memory.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import type { DeviceFields } from "../../core/jellyfin/credentials.ts";
import { bodyValue, mayOpenLiveStream } from "../../core/jellyfin/playback.ts";
import type { Route } from "../../core/jellyfin/routes.ts";
import type { Clock } from "../../core/service/clock.ts";
import type { Log } from "../../core/service/log.ts";
import { sleep } from "../../core/service/loop.ts";
import type { Pin, PinKind, Store } from "../../core/store/store.ts";
import type { Attendant, Attended, Bound } from "../attendant.ts";
import { Bounded } from "../bounded.ts";
import type { HeldReply } from "../client.ts";
import { rendezvous } from "../place.ts";
import { unavailable, withBody } from "../reply.ts";
import type { Plays } from "./plays.ts";

export interface TelevisionOptions {
  readonly store: Store;
  readonly memory: Memory;
  readonly log: Log;
  readonly clock: Clock;
  /** This process, in every epoch it is granted. */
  readonly owner: string;
  readonly plays: Pick<Plays, "get" | "tuned" | "isTuned">;
  readonly clientOf: (replica: string) => JellyfinClient | undefined;
  readonly isReady: (replica: string) => boolean;
  /** Ready replicas that do not drain; all ready ones when every one drains. */
  readonly openNames: () => readonly string[];
  readonly isReachedByOthers: (replica: string) => boolean;
  /** For how long it has not been ready, in ms; 0 when it is. */
  readonly goneForMs: (replica: string) => number;
}

/** By default all channels are tuned at one replica: one pin stands for them all. */
const allChannels = "all";
const recorderId = "recorder";
const tunerPinMs = 12 * 3_600_000;
/** Timers lie at the recorder for ever. */
const recorderPinMs = 10 * 365 * 24 * 3_600_000;
/** A recorder that is away longer than this is given up, with the timers that only it knows. */
const recorderPatienceMs = 5 * 60_000;
const itemsRemembered = 10_000;
const listsRemembered = 1000;
/** How long it takes at most until a server that does not answer is known to be gone, in ms, and each look at that. */
const verdictLimitMs = 3000;
const verdictPauseMs = 25;
const never = new AbortController().signal;
/** What a player may have seen of one channel: about a day of it. */
const pastLinesLimit = 100_000;

export class Television implements Attendant {
  readonly name = "television";
  readonly #options: TelevisionOptions;
  readonly #isChannel = new Bounded<string, boolean>(itemsRemembered);
  readonly #lists = new Bounded<string, LiveList>(listsRemembered);
  readonly #opening = new Map<string, Promise<void>>();
  readonly #lostAtMs = new Map<string, number>();
  #moving: Promise<string | undefined> | undefined;

  constructor(options: TelevisionOptions) {
    this.#options = options;
  }

  attends(route: Route): boolean {
    return roleOf(route) !== undefined;
  }

  /** What lay in this replica's memory is gone. */
  noteGone(replica: string): void {
    this.#lostAtMs.set(replica, this.#options.clock.wallMs());
  }

  bound(asked: Attended): Bound | undefined {
    const role = roleOf(asked.facts.route);
    switch (role) {
      case "recorder":
        return boundTo(this.#pinOf("recorder", recorderId), "recorder");
      case "open":
        return this.#mayTune(asked) ? boundTo(this.#tunerPin(), "television") : undefined;
      case "stream":
        return boundTo(this.#tunerPin(), "television");
      case "play": {
        const play = this.#options.plays.get(asked.facts.query.playSessionId ?? "");
        const isLive = play !== undefined && play.tunedAt !== "";
        return isLive ? boundTo(this.#tunerPin(), "television") : undefined;
      }
      default:
        return undefined;
    }
  }

  async before(asked: Attended): Promise<HeldReply | undefined> {
    switch (roleOf(asked.facts.route)) {
      case "recorder":
        return await this.#findRecorder(asked);
      case "open":
        if (!(await this.#isForChannel(asked))) return undefined;
        await this.#returnToRecorder();
        return (await this.#findTuner()) === undefined ? noTelevision() : undefined;
      case "stream":
        if (this.#tunerPin() === undefined) return undefined;
        return await this.#keepTuned(asked);
      default:
        return undefined;
    }
  }

  /**
   * The server that tunes did not answer. Nobody else has the stream: whether that server is gone is waited for, and
   * then the stream is opened elsewhere.
   */
  async again(asked: Attended): Promise<void> {
    if (roleOf(asked.facts.route) !== "stream") return;
    const { isReady, clock } = this.#options;
    const pin = this.#tunerPin();
    if (pin === undefined) return;
    const untilMs = Math.min(asked.deadlineMs, clock.monotonicMs() + verdictLimitMs);
    while (isReady(pin.replica) && clock.monotonicMs() < untilMs && !asked.hasLeft) {
      await sleep(verdictPauseMs, never);
    }
    if (!isReady(pin.replica)) await this.#keepTuned(asked);
  }

  async after(asked: Attended, reply: HeldReply, replica: string): Promise<HeldReply> {
    const { route, query } = asked.facts;
    switch (route.kind) {
      case "playbackInfo":
      case "liveStreamOpen":
        this.#noteOpened(asked, reply, replica);
        return reply;
      case "livePlaylist": {
        const id = query.playSessionId;
        if (id === undefined) return reply;
        let list = this.#lists.get(id);
        if (list === undefined) {
          list = new LiveList();
          this.#lists.set(id, list);
        }
        const text = reply.body.toString("utf8");
        const one = list.joined(text);
        return one === text ? reply : withBody(reply, one);
      }
      default:
        return reply;
    }
  }

  ended(asked: Attended, status: number | undefined, replica: string): void {
    if (asked.facts.route.kind !== "playStopped" || status === undefined || status >= 400) return;
    const inBody = bodyValue(asked.bodyText ?? "", "PlaySessionId");
    const id = typeof inBody === "string" ? inBody : (asked.facts.query.playSessionId ?? "");
    const play = this.#options.plays.get(id);
    // The replica that heard of the stop has closed its own.
    if (play === undefined || play.tunedAt === "" || play.tunedAt === replica) return;
    this.#lists.delete(id);
    void this.#close(play.tunedAt, play.deviceId, id, play.liveStreamId);
  }

  // ---- Which replica ------------------------------------------------------------------------------

  #pinOf(kind: PinKind, id: string): Pin | undefined {
    return this.#options.memory.pinOf(kind, id, this.#options.clock.wallMs());
  }

  #tunerPin(): Pin | undefined {
    return this.#pinOf("channel", allChannels);
  }

  #mayTune({ facts }: Attended): boolean {
    return (
      facts.route.kind === "liveStreamOpen" ||
      (facts.itemId !== undefined && this.#isChannel.get(facts.itemId) === true)
    );
  }

  /** Whether the request would open a tuner: it asks for it, and its item is a channel. */
  async #isForChannel(asked: Attended): Promise<boolean> {
    const { facts, identity, bodyText } = asked;
    if (facts.route.kind === "liveStreamOpen") return true;
    const { itemId } = facts;
    if (itemId === undefined || !mayOpenLiveStream(facts.rawQuery, bodyText)) return false;
    const known = this.#isChannel.get(itemId);
    if (known !== undefined || identity === undefined) return known ?? false;
    for (const replica of this.#options.openNames()) {
      const answer = await this.#as(asked, replica, "GET", `/Items/${itemId}`);
      if (answer?.status !== 200) continue;
      const type = bodyValue(answer.text, "Type");
      const isChannel = type === "TvChannel" || type === "LiveTvChannel";
      this.#isChannel.set(itemId, isChannel);
      return isChannel;
    }
    return false;
  }

  /** The replica whose tuners are used now; undefined when there is none that this door can reach. */
  async #findTuner(): Promise<string | undefined> {
    const { isReady, isReachedByOthers, openNames } = this.#options;
    const pin = this.#tunerPin();
    if (pin !== undefined && isReady(pin.replica)) return pin.replica;
    // While others reach it, its tuners are in use there: a second one would be too many.
    if (pin !== undefined && isReachedByOthers(pin.replica)) return undefined;
    const recorder = this.#pinOf("recorder", recorderId)?.replica;
    const next =
      recorder !== undefined && isReady(recorder)
        ? recorder
        : rendezvous("television", openNames());
    if (next === undefined) return undefined;
    this.#moving ??= this.#place("channel", allChannels, pin, next, tunerPinMs).finally(() => {
      this.#moving = undefined;
    });
    return await this.#moving;
  }

  /** While nobody watches, channels go back to where recordings are made: one server then counts all streams. */
  async #returnToRecorder(): Promise<void> {
    const { isReady, plays } = this.#options;
    const pin = this.#tunerPin();
    const recorder = this.#pinOf("recorder", recorderId)?.replica;
    if (pin === undefined || recorder === undefined || recorder === pin.replica) return;
    if (!isReady(recorder) || plays.isTuned()) return;
    await this.#place("channel", allChannels, pin, recorder, tunerPinMs);
  }

  async #findRecorder({ facts }: Attended): Promise<HeldReply | undefined> {
    const { isReady, goneForMs, openNames } = this.#options;
    const pin = this.#pinOf("recorder", recorderId);
    if (pin !== undefined && isReady(pin.replica)) return undefined;
    if (pin === undefined) {
      const first = await this.#whoHasTimers();
      if (first !== undefined) await this.#place("recorder", recorderId, pin, first, recorderPinMs);
      return undefined;
    }
    if (!facts.route.changes) return undefined;
    const next = rendezvous("television", openNames());
    if (next !== undefined && goneForMs(pin.replica) >= recorderPatienceMs) {
      await this.#place("recorder", recorderId, pin, next, recorderPinMs);
      return undefined;
    }
    return unavailable(`The server that records (${pin.replica}) cannot be reached right now.`);
  }

  /** The replica with the most timers: what was recorded before there was a cluster is recorded on. */
  async #whoHasTimers(): Promise<string | undefined> {
    const { openNames, clientOf } = this.#options;
    const names = openNames();
    const counts = await Promise.all(
      names.map(async (name) => {
        const answer = await clientOf(name)?.callWithKey("GET", "/LiveTv/Timers");
        if (answer?.outcome !== "answered" || answer.status !== 200) return 0;
        const items = bodyValue(answer.text, "Items");
        return Array.isArray(items) ? items.length : 0;
      }),
    );
    const most = Math.max(0, ...counts);
    const fit = names.filter((_, index) => counts[index] === most);
    const tuner = this.#tunerPin()?.replica;
    return tuner !== undefined && fit.includes(tuner) ? tuner : rendezvous("television", fit);
  }

  /** Claims or moves a pin; answers where it is now. */
  async #place(
    kind: PinKind,
    id: string,
    pin: Pin | undefined,
    replica: string,
    ttlMs: number,
  ): Promise<string> {
    const { store, memory, owner, log, clock } = this.#options;
    const claim = { kind, id, replica, owner, ttlMs };
    let now: Pin;
    try {
      now =
        pin === undefined
          ? await store.claimPin(claim)
          : (await store.movePin({ ...claim, expectedEpoch: pin.epoch.number })).pin;
    } catch (error) {
      memory.noteStoreFailure(error);
      const epoch = { number: (pin?.epoch.number ?? 0) + 1, owner };
      now = { kind, id, replica, epoch, expiresAtMs: clock.wallMs() + ttlMs };
    }
    memory.apply({ type: "pin", pin: now });
    const what = kind === "recorder" ? "recordings are made" : "channels are tuned";
    log.info(`${what} at ${now.replica}${pin === undefined ? "" : `; it was ${pin.replica}`}`);
    return now.replica;
  }

  // ---- Streams ------------------------------------------------------------------------------------

  /** Opens a viewer's stream where channels are tuned now, if it was opened elsewhere or has been lost there. */
  async #keepTuned(asked: Attended): Promise<HeldReply | undefined> {
    const tuner = await this.#findTuner();
    if (tuner === undefined) return noTelevision();
    const { route, query } = asked.facts;
    const id = query.playSessionId;
    if (route.kind !== "livePlaylist" || id === undefined) return undefined;
    const play = this.#options.plays.get(id);
    if (play === undefined || play.tunedAt === "" || play.hasEnded) return undefined;
    const isLost = (this.#lostAtMs.get(tuner) ?? 0) > play.tunedAtMs;
    if (play.tunedAt === tuner && !isLost) return undefined;
    let opening = this.#opening.get(id);
    if (opening === undefined) {
      opening = this.#reopen(asked, tuner, id).finally(() => this.#opening.delete(id));
      this.#opening.set(id, opening);
    }
    await opening;
    return undefined;
  }

  async #reopen(asked: Attended, tuner: string, id: string): Promise<void> {
    const { plays, log } = this.#options;
    const { itemId } = asked.facts;
    if (itemId === undefined) return;
    const body = { AutoOpenLiveStream: true, DeviceProfile: anyProfile };
    const path = `/Items/${itemId}/PlaybackInfo`;
    const answer = await this.#as(asked, tuner, "POST", path, body);
    const opened = answer?.status === 200 ? openedIn(answer.text) : undefined;
    if (opened === undefined) {
      log.warn(`the channel of play ${id} could not be opened at ${tuner}`);
      return;
    }
    plays.tuned(id, asked, { tunedAt: tuner, liveStreamId: opened.liveStreamId, itemId });
    log.info(`the channel of play ${id} was opened again at ${tuner}`);
  }

  #noteOpened(asked: Attended, reply: HeldReply, replica: string): void {
    if (asked.facts.route.kind === "playbackInfo" && !this.#mayTune(asked)) return;
    const opened = openedIn(reply.body.toString("utf8"));
    const id = opened?.playSessionId ?? asked.facts.query.playSessionId;
    if (opened === undefined || id === undefined) return;
    const { itemId } = asked.facts;
    const { liveStreamId } = opened;
    this.#options.plays.tuned(id, asked, { tunedAt: replica, liveStreamId, itemId });
  }

  async #close(
    replica: string,
    deviceId: string,
    playSessionId: string,
    liveStreamId: string,
  ): Promise<void> {
    const client = this.#options.isReady(replica) ? this.#options.clientOf(replica) : undefined;
    if (client === undefined) return;
    await client.stopEncodings(deviceId, playSessionId);
    const query = `liveStreamId=${encodeURIComponent(liveStreamId)}`;
    await client.callWithKey("POST", `/LiveStreams/Close?${query}`);
  }

  /** A call of ours in the name of who asks, with their own token there. */
  async #as(
    { identity }: Attended,
    replica: string,
    method: "GET" | "POST",
    path: string,
    body?: unknown,
  ): Promise<{ readonly status: number; readonly text: string } | undefined> {
    const { clientOf, memory } = this.#options;
    const client = clientOf(replica);
    const token = identity === undefined ? undefined : memory.openToken(identity, replica);
    if (client === undefined || identity === undefined || token === undefined) return undefined;
    const { client: app, device, deviceId, version } = identity;
    const fields: DeviceFields = { client: app, device, deviceId, version };
    const answer = await client.callAs(token, fields, method, path, body);
    return answer.outcome === "answered" ? answer : undefined;
  }
}

type Role = "open" | "stream" | "play" | "recorder" | "stop";

function roleOf({ kind, pattern }: Route): Role | undefined {
  switch (kind) {
    case "playbackInfo":
    case "liveStreamOpen":
      return "open";
    case "liveStreamClose":
    case "livePlaylist":
    case "liveList":
    case "liveStreamFile":
      return "stream";
    case "liveSegment":
      return pattern.startsWith("/Audio/") ? undefined : "stream";
    case "stopEncodings":
    case "playPing":
      return "play";
    case "recorder":
    case "recordingFile":
      return "recorder";
    case "playStopped":
      return "stop";
    default:
      return undefined;
  }
}

function boundTo(pin: Pin | undefined, kind: string): Bound | undefined {
  return pin === undefined ? undefined : { replica: pin.replica, kind };
}

const noTelevision = (): HeldReply =>
  unavailable("The server that tunes channels cannot be reached right now.");

/** Enough to have a channel opened; the player keeps the address it was given. */
const anyProfile = {
  DirectPlayProfiles: [],
  TranscodingProfiles: [
    { Type: "Video", Protocol: "hls", Container: "ts", VideoCodec: "h264", AudioCodec: "aac" },
  ],
};

interface Opened {
  readonly liveStreamId: string;
  readonly playSessionId: string | undefined;
}

/** The stream that an answer of PlaybackInfo or LiveStreams/Open tells of; undefined when none was opened. */
export function openedIn(text: string): Opened | undefined {
  const playSessionId = bodyValue(text, "PlaySessionId");
  const sources = bodyValue(text, "MediaSources") ?? [bodyValue(text, "MediaSource")];
  if (!Array.isArray(sources)) return undefined;
  for (const source of sources) {
    if (typeof source !== "object" || source === null) continue;
    const { LiveStreamId } = source as Record<string, unknown>;
    if (typeof LiveStreamId !== "string" || LiveStreamId === "") continue;
    return {
      liveStreamId: LiveStreamId,
      playSessionId: typeof playSessionId === "string" ? playSessionId : undefined,
    };
  }
  return undefined;
}

/**
 * One play's list of a channel over all servers that made a part of it. Jellyfin's list of a live encode begins at 0
 * and only grows; after a move the next server's begins at 0 again (RFC 8216, 6.2.1: a player must never see that). So
 * what the player saw is put before what is new, with a discontinuity between them.
 */
export class LiveList {
  #past: string[] = [];
  #current: string[] = [];
  #name: string | undefined;
  #sequence = 0;
  #discontinuities = 0;

  /** The list as the player is to see it, from a server's own. */
  joined(text: string): string {
    const lines = text.split(/\r?\n/).filter((line) => line !== "");
    const from = lines.findIndex((line) => line.startsWith("#EXTINF"));
    if (from < 0) return this.#past.length === 0 ? text : this.#text(lines, []);
    const entries = lines.slice(from);
    const name = listNameOf(entries);
    if (this.#name !== undefined && name !== this.#name) this.#leave();
    this.#name = name;
    this.#current = entries;
    return this.#past.length === 0 ? text : this.#text(lines.slice(0, from), entries);
  }

  #leave(): void {
    for (const line of this.#current) {
      if (line === "#EXT-X-ENDLIST" || line === "#EXT-X-GAP") continue;
      // Its server is gone and its bytes with it: players that know the tag do not ask (RFC 8216bis, 4.4.4.7).
      if (!line.startsWith("#")) this.#past.push("#EXT-X-GAP");
      this.#past.push(line);
    }
    this.#past.push("#EXT-X-DISCONTINUITY");
    if (this.#past.length <= pastLinesLimit) return;
    // A list that forgets its beginning counts what it forgot (RFC 8216, 4.3.3.2 and 4.3.3.3).
    let drop = this.#past.length - pastLinesLimit;
    while (drop < this.#past.length && this.#past[drop]?.startsWith("#EXTINF") === false) drop++;
    const dropped = this.#past.splice(0, drop);
    this.#sequence += dropped.filter((line) => line.startsWith("#EXTINF")).length;
    this.#discontinuities += dropped.filter((line) => line === "#EXT-X-DISCONTINUITY").length;
  }

  #text(head: readonly string[], entries: readonly string[]): string {
    const hasForgotten = this.#sequence > 0;
    const lines = head
      .filter((line) => !hasForgotten || !line.startsWith("#EXT-X-PLAYLIST-TYPE"))
      .map((line) =>
        line.startsWith("#EXT-X-MEDIA-SEQUENCE") ? `#EXT-X-MEDIA-SEQUENCE:${this.#sequence}` : line,
      );
    if (this.#discontinuities > 0) {
      lines.push(`#EXT-X-DISCONTINUITY-SEQUENCE:${this.#discontinuities}`);
    }
    return `${[...lines, ...this.#past, ...entries].join("\n")}\n`;
  }
}

/** The folder of a list's segments (`hls/{list}/{list}0.ts`), which differs from server to server. */
function listNameOf(entries: readonly string[]): string {
  const first = entries.find((line) => !line.startsWith("#")) ?? "";
  return first.slice(0, first.lastIndexOf("/"));
}
