/**
 * Live television, as LiveTvManager, MediaSourceManager and DynamicHlsController (12.0) do it with an M3U tuner: a
 * channel's stream is opened once and shared by whoever watches it on this server; a tuner has so many streams; the
 * stream ends when its last consumer closes it. `live.m3u8` starts an ffmpeg that reads the shared stream and writes a
 * list that only grows. Open streams live in memory only; timers are saved, and go on after a restart in another file.
 *
 * The tuner is named in the configuration `livetv`: `{TunerHosts: [{Url, TunerCount}], RecordingPath}`; `Url` answers
 * with an M3U list.
 */
import { type ChildProcess, spawn } from "node:child_process";
import {
  createWriteStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { get, type IncomingMessage, type ServerResponse } from "node:http";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { idOfText, randomId } from "./ids.ts";

/** The server kills a live encode that nobody asks after, and closes its stream (TranscodeManager.PingTimer). */
const PING_LIMIT_MS = 60_000;
const LIST_WAIT_MS = 10_000;

export type Channel = { readonly id: string; readonly name: string; readonly url: string };
export type Timer = {
  readonly Id: string;
  readonly ChannelId: string;
  readonly Name: string;
  readonly StartDate: string;
  readonly EndDate: string;
};
/** A rule by which a server makes timers from its guide; here there is no guide, so none are made. */
export type SeriesTimer = Readonly<Record<string, unknown>> & { readonly Id: string };
type Stream = {
  readonly liveStreamId: string;
  readonly uniqueId: string;
  readonly channel: Channel;
  readonly upstream: IncomingMessage;
  readonly readers: Set<NodeJS.WritableStream>;
  consumers: number;
};
type Job = {
  readonly stem: string;
  readonly playSessionId: string;
  readonly liveStreamId: string;
  readonly child: ChildProcess;
  exited: boolean;
  timer: NodeJS.Timeout | undefined;
};

/** LiveTvConflictException: no tuner is free. */
export class NoTuner extends Error {
  override readonly name = "NoTuner";
}

export type LiveTvOptions = {
  readonly folder: string;
  readonly timersFile: string;
  readonly configuration: () => Record<string, unknown>;
  /** Of this server, for its own ffmpeg. */
  readonly address: () => string;
};

export class LiveTv {
  readonly #options: LiveTvOptions;
  readonly #streams = new Map<string, Stream>();
  readonly #opening = new Map<string, Promise<Stream>>();
  readonly #jobs = new Map<string, Job>();
  readonly #alarms = new Map<string, NodeJS.Timeout>();
  /** Recordings under way, each with what ends it early. */
  readonly #recordings = new Map<string, AbortController>();
  #channels: Channel[] | undefined;
  #ended = false;

  constructor(options: LiveTvOptions) {
    this.#options = options;
    for (const timer of this.timers()) this.#arm(timer);
  }

  // --- channels and streams -------------------------------------------------------------------------

  async channels(): Promise<Channel[]> {
    const host = this.#host();
    if (host === undefined) return [];
    this.#channels ??= parseM3u(await (await fetch(host.url)).text(), host.url);
    return this.#channels;
  }

  async channel(id: string): Promise<Channel | undefined> {
    return (await this.channels()).find((one) => one.id === id);
  }

  #host(): { url: string; count: number } | undefined {
    const hosts = this.#options.configuration().TunerHosts;
    if (!Array.isArray(hosts) || hosts.length === 0) return undefined;
    const { Url, TunerCount } = hosts[0] as { Url: string; TunerCount?: number };
    return { url: Url, count: TunerCount ?? 0 };
  }

  /** Equal on every server that has the channel (MediaSourceManager's open token). */
  static streamIdOf(channel: Channel): string {
    return `${idOfText("LiveTvMediaSourceProvider")}_tvchannel_${channel.id}_${idOfText(channel.url)}`;
  }

  stream(liveStreamId: string): Stream | undefined {
    return this.#streams.get(liveStreamId);
  }

  byUniqueId(uniqueId: string): Stream | undefined {
    return [...this.#streams.values()].find((stream) => stream.uniqueId === uniqueId);
  }

  open(): { liveStreamId: string; consumers: number }[] {
    return [...this.#streams.values()].map(({ liveStreamId, consumers }) => ({
      liveStreamId,
      consumers,
    }));
  }

  /** Opens the channel's stream, or joins the one that is open. Throws NoTuner. */
  async openChannel(channel: Channel): Promise<Stream> {
    const liveStreamId = LiveTv.streamIdOf(channel);
    const known = this.#streams.get(liveStreamId);
    if (known !== undefined) {
      known.consumers += 1;
      return known;
    }
    const running = this.#opening.get(liveStreamId);
    if (running !== undefined) {
      const stream = await running;
      stream.consumers += 1;
      return stream;
    }
    const count = this.#host()?.count ?? 0;
    if (count > 0 && this.#streams.size + this.#opening.size >= count) throw new NoTuner();
    const opening = this.#tune(channel, liveStreamId);
    this.#opening.set(liveStreamId, opening);
    try {
      return await opening;
    } finally {
      this.#opening.delete(liveStreamId);
    }
  }

  async #tune(channel: Channel, liveStreamId: string): Promise<Stream> {
    const upstream = await new Promise<IncomingMessage>((resolve, reject) => {
      get(channel.url, resolve).on("error", reject);
    });
    if (upstream.statusCode !== 200) {
      upstream.destroy();
      throw new NoTuner();
    }
    const uniqueId = randomId();
    const readers = new Set<NodeJS.WritableStream>();
    const stream: Stream = { liveStreamId, uniqueId, channel, upstream, readers, consumers: 1 };
    this.#streams.set(liveStreamId, stream);
    upstream.on("data", (bytes: Buffer) => {
      for (const reader of readers) reader.write(bytes);
    });
    const over = (): void => this.#drop(stream);
    upstream.on("error", over).on("close", over);
    return stream;
  }

  #drop(stream: Stream): void {
    if (this.#streams.get(stream.liveStreamId) === stream) {
      this.#streams.delete(stream.liveStreamId);
    }
    stream.upstream.destroy();
    for (const reader of stream.readers) reader.end();
    stream.readers.clear();
  }

  close(liveStreamId: string): void {
    const stream = this.#streams.get(liveStreamId);
    if (stream === undefined) return;
    stream.consumers -= 1;
    if (stream.consumers <= 0) this.#drop(stream);
  }

  /** The shared stream from now on, as long as it is open. */
  send(stream: Stream, response: ServerResponse): void {
    response.writeHead(200, { "content-type": "video/mp2t" });
    stream.readers.add(response);
    response.on("close", () => stream.readers.delete(response));
  }

  // --- lists ----------------------------------------------------------------------------------------

  /**
   * The text of `live.m3u8`; undefined when no list came about. `key` has the stream's unique id in it, as its path has
   * in the server, so a list's name differs from server to server.
   */
  async list(stream: Stream, playSessionId: string, key: string): Promise<string | undefined> {
    const stem = idOfText(`${stream.channel.url}-${key}-${playSessionId}`);
    const path = join(this.#options.folder, `${stem}.m3u8`);
    let job = this.#jobs.get(stem);
    if (job === undefined || job.exited) {
      job = this.#encode(stream, stem, playSessionId);
      this.#jobs.set(stem, job);
    }
    this.#ping(job);
    const endMs = Date.now() + LIST_WAIT_MS;
    while (Date.now() < endMs) {
      const text = existsSync(path) ? readFileSync(path, "utf8") : "";
      if (text.includes("#EXTINF")) return text;
      if (job.exited) return undefined;
      await sleep(30);
    }
    return undefined;
  }

  #encode(stream: Stream, stem: string, playSessionId: string): Job {
    const source = `${this.#options.address()}/LiveTv/LiveStreamFiles/${stream.uniqueId}/stream.ts`;
    const { folder } = this.#options;
    mkdirSync(folder, { recursive: true });
    const args = [
      ...["-nostdin", "-v", "error", "-y", "-probesize", "200000", "-analyzeduration", "500000"],
      ...["-i", source, "-map", "0:v:0", "-c:v", "copy", "-copyts", "-f", "hls", "-hls_time", "1"],
      ...["-hls_list_size", "0", "-hls_playlist_type", "event", "-start_number", "0"],
      ...["-hls_base_url", `hls/${stem}/`, "-hls_segment_type", "mpegts"],
      ...["-hls_segment_filename", join(folder, `${stem}%d.ts`), join(folder, `${stem}.m3u8`)],
    ];
    const child = spawn("ffmpeg", args, { cwd: folder, stdio: "ignore" });
    const { liveStreamId } = stream;
    const job: Job = { stem, playSessionId, liveStreamId, child, exited: false, timer: undefined };
    child.on("error", () => {
      job.exited = true;
    });
    child.on("exit", () => {
      job.exited = true;
    });
    return job;
  }

  #ping(job: Job): void {
    clearTimeout(job.timer);
    job.timer = setTimeout(() => {
      this.#kill(job);
      this.close(job.liveStreamId);
    }, PING_LIMIT_MS);
    job.timer.unref();
  }

  /** The file of a live segment; undefined for a list that this server did not make. */
  segment(playlistId: string, name: string): string | undefined {
    const job = this.#jobs.get(playlistId.toLowerCase());
    const path = join(this.#options.folder, name);
    if (job === undefined || !name.startsWith(job.stem) || !existsSync(path)) return undefined;
    this.#ping(job);
    return path;
  }

  stopJobs(playSessionId: string): void {
    for (const job of this.#jobs.values()) if (job.playSessionId === playSessionId) this.#kill(job);
  }

  #kill(job: Job): void {
    clearTimeout(job.timer);
    job.child.kill("SIGKILL");
    this.#jobs.delete(job.stem);
    if (!existsSync(this.#options.folder)) return;
    for (const name of readdirSync(this.#options.folder)) {
      if (name.startsWith(job.stem)) rmSync(join(this.#options.folder, name), { force: true });
    }
  }

  // --- recordings -----------------------------------------------------------------------------------

  timers(): Timer[] {
    const { timersFile } = this.#options;
    if (!existsSync(timersFile)) return [];
    return JSON.parse(readFileSync(timersFile, "utf8")) as Timer[];
  }

  addTimer(wanted: Omit<Timer, "Id">): void {
    const timer = { Id: randomId(), ...wanted };
    this.#save([...this.timers(), timer]);
    this.#arm(timer);
  }

  removeTimer(id: string): boolean {
    const rest = this.timers().filter((timer) => timer.Id !== id);
    if (rest.length === this.timers().length) return false;
    clearTimeout(this.#alarms.get(id));
    this.#recordings.get(id)?.abort();
    this.#save(rest);
    return true;
  }

  isRecording(id: string): boolean {
    return this.#recordings.has(id);
  }

  seriesTimers(): SeriesTimer[] {
    const file = this.#seriesFile;
    return existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as SeriesTimer[]) : [];
  }

  addSeriesTimer(wanted: Readonly<Record<string, unknown>>): void {
    this.#saveSeries([...this.seriesTimers(), { ...wanted, Id: randomId() }]);
  }

  removeSeriesTimer(id: string): boolean {
    const all = this.seriesTimers();
    const rest = all.filter((timer) => timer.Id !== id);
    this.#saveSeries(rest);
    return rest.length < all.length;
  }

  get #seriesFile(): string {
    return join(dirname(this.#options.timersFile), "seriestimers.json");
  }

  #saveSeries(timers: readonly SeriesTimer[]): void {
    mkdirSync(dirname(this.#seriesFile), { recursive: true });
    writeFileSync(this.#seriesFile, JSON.stringify(timers));
  }

  #save(timers: readonly Timer[]): void {
    mkdirSync(dirname(this.#options.timersFile), { recursive: true });
    writeFileSync(this.#options.timersFile, JSON.stringify(timers));
  }

  #arm(timer: Timer): void {
    const waitMs = Math.max(0, Date.parse(timer.StartDate) - Date.now());
    this.#alarms.set(
      timer.Id,
      setTimeout(() => void this.#record(timer), waitMs),
    );
  }

  async #record(timer: Timer): Promise<void> {
    const leftMs = Date.parse(timer.EndDate) - Date.now();
    if (leftMs <= 0 || this.#recordings.has(timer.Id)) return;
    // Before the channel is tuned, which takes its time: a timer cancelled meanwhile must end that too.
    const ended = new AbortController();
    this.#recordings.set(timer.Id, ended);
    const isDone = await this.#recordChannel(timer, leftMs, ended.signal);
    this.#recordings.delete(timer.Id);
    if (isDone) this.removeTimer(timer.Id);
  }

  /** False when nothing was recorded. */
  async #recordChannel(timer: Timer, leftMs: number, cancelled: AbortSignal): Promise<boolean> {
    const channel = await this.channel(timer.ChannelId);
    if (channel === undefined || this.#ended || cancelled.aborted) return false;
    let stream: Stream;
    try {
      stream = await this.openChannel(channel);
    } catch {
      if (cancelled.aborted) return false;
      // No tuner is free: the server tries again in a while (RecordingsManager).
      this.#alarms.set(
        timer.Id,
        setTimeout(() => void this.#record(timer), 1000),
      );
      return false;
    }
    const folder = String(this.#options.configuration().RecordingPath ?? this.#options.folder);
    mkdirSync(folder, { recursive: true });
    const file = createWriteStream(uniqueFile(folder, timer.Name));
    stream.readers.add(file);
    // Cancelled in the middle it ends there, and the file stays (RecordingsManager.CancelRecording).
    await sleep(leftMs, undefined, { ref: false, signal: cancelled }).catch(() => undefined);
    stream.readers.delete(file);
    file.end();
    this.close(stream.liveStreamId);
    return true;
  }

  end(): void {
    this.#ended = true;
    for (const alarm of this.#alarms.values()) clearTimeout(alarm);
    for (const job of [...this.#jobs.values()]) this.#kill(job);
    for (const stream of [...this.#streams.values()]) this.#drop(stream);
  }
}

function uniqueFile(folder: string, name: string): string {
  for (let number = 1; ; number += 1) {
    const path = join(folder, number === 1 ? `${name}.ts` : `${name} - ${number}.ts`);
    if (!existsSync(path)) return path;
  }
}

function parseM3u(text: string, base: string): Channel[] {
  const lines = text.split(/\r?\n/);
  return lines.flatMap((line, index) => {
    const name = /^#EXTINF:.*,(.*)$/.exec(line)?.[1];
    const path = lines[index + 1];
    if (name === undefined || path === undefined) return [];
    const url = new URL(path, base).toString();
    return [{ id: idOfText(`MediaBrowser.Controller.LiveTv.LiveTvChannel${url}`), name, url }];
  });
}
