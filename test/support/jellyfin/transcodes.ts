/**
 * Transcoding to HLS by a real ffmpeg, as DynamicHlsController and TranscodeManager (12.0) do it: a segment that is not
 * there starts ffmpeg at that segment; one job per play session; a segment is ready when the next one exists or ffmpeg
 * has ended; a job nobody asks after for 60 s is killed and its files go. The transcode folder is emptied at the start.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Item } from "./library.ts";

export const SEGMENT_SECONDS = 3;
const TICKS_PER_SECOND = 10_000_000;
const PING_LIMIT_MS = 60_000;
const POLL_MS = 40;
/** A job further ahead than this is left alone; a request beyond it restarts ffmpeg at that segment. */
const GAP_SEGMENTS_MAX = 24 / SEGMENT_SECONDS;

export type Container = "ts" | "mp4";
type Job = {
  readonly stem: string;
  readonly playSessionId: string;
  readonly deviceId: string;
  readonly child: ChildProcess;
  exited: boolean;
  exitCode: number | null;
  timer: NodeJS.Timeout | undefined;
  active: number;
};

export type SegmentRequest = {
  readonly item: Item;
  readonly userAgent: string;
  readonly deviceId: string;
  readonly playSessionId: string;
  readonly container: Container;
  readonly runtimeTicks: number;
  readonly videoBitrate: number | undefined;
};

export class EncoderFailed extends Error {
  override readonly name = "EncoderFailed";
}

export class Transcodes {
  readonly #folder: string;
  readonly #jobs = new Map<string, Job>();
  readonly #locks = new Map<string, Promise<unknown>>();
  /** How often an ffmpeg was started since this process began. */
  started = 0;
  /** Every ffmpeg ends at once with an error, as one whose encoder is not there. */
  fails = false;
  /** What its sessions tell of how far an encode has come, in percent; undefined: nothing. */
  percent: number | undefined;

  constructor(folder: string) {
    this.#folder = folder;
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
  }

  pids(): number[] {
    return [...this.#jobs.values()].flatMap((job) =>
      job.exited || job.child.pid === undefined ? [] : [job.child.pid],
    );
  }

  jobs(): { playSessionId: string; pid: number | undefined; running: boolean }[] {
    return [...this.#jobs.values()].map((job) => ({
      playSessionId: job.playSessionId,
      pid: job.child.pid,
      running: !job.exited,
    }));
  }

  hasJob(playSessionId: string): boolean {
    return [...this.#jobs.values()].some((job) => job.playSessionId === playSessionId);
  }

  /**
   * The file of a segment, complete; undefined where ffmpeg ended before it got there. Requests for one play session
   * wait for one another, as they do in the server.
   * @param index number of the segment, or -1 for the init segment of fMP4.
   */
  async segment(request: SegmentRequest, index: number): Promise<string | undefined> {
    const stem = this.#stem(request);
    const before = this.#locks.get(stem) ?? Promise.resolve();
    const turn = before.then(() => this.#segment(request, stem, index));
    const settled = turn.catch(() => undefined);
    this.#locks.set(stem, settled);
    try {
      return await turn;
    } finally {
      if (this.#locks.get(stem) === settled) this.#locks.delete(stem);
    }
  }

  async #segment(
    request: SegmentRequest,
    stem: string,
    index: number,
  ): Promise<string | undefined> {
    const path = this.#path(stem, index, request.container);
    let job = this.#jobs.get(stem);
    const existed = existsSync(path);
    if (!existed) {
      const reached = this.#reached(stem, job, request.container);
      const wanted = Math.max(0, index);
      const restart =
        index === -1 ||
        reached === undefined ||
        wanted < reached ||
        wanted - reached > GAP_SEGMENTS_MAX;
      if (restart) {
        await this.kill((other) => other.playSessionId === request.playSessionId, false);
        if (reached !== undefined) this.#deleteNewest(stem, request.container);
        job = this.#start(request, stem, wanted);
      }
    }
    if (job !== undefined) this.#use(job);
    try {
      // A new init segment counts as segment 0: it is there once that one is whole.
      const counted = existed ? index : Math.max(0, index);
      return await this.#complete(path, stem, counted, request.container, job);
    } finally {
      if (job !== undefined) this.#release(job);
    }
  }

  /** Waits until the file may be served: ffmpeg is past it, or has ended. */
  async #complete(
    path: string,
    stem: string,
    index: number,
    container: Container,
    job: Job | undefined,
  ): Promise<string | undefined> {
    const after = this.#path(stem, index + 1, container);
    const reached = this.#reached(stem, job, container);
    if (reached !== undefined && index < reached && existsSync(path)) return path;
    while (job !== undefined && !job.exited) {
      if (existsSync(path) && existsSync(after)) return path;
      await sleep(POLL_MS);
    }
    if (existsSync(path)) return path;
    // TranscodeManager.StartFfMpeg: an ffmpeg that ends before its first file is an error (500).
    if (job !== undefined && job.exitCode !== null && job.exitCode !== 0) throw new EncoderFailed();
    return undefined;
  }

  #start(request: SegmentRequest, stem: string, index: number): Job {
    const args = ffmpegArguments(request, this.#folder, stem, index);
    if (this.fails) args.splice(args.indexOf("libx264"), 1, "h264_missing");
    // In the stand-in's own process group, so that whatever ends the group ends its ffmpegs.
    const child = spawn("ffmpeg", args, { cwd: this.#folder, stdio: "ignore" });
    this.started += 1;
    const { playSessionId, deviceId } = request;
    const job: Job = {
      stem,
      playSessionId,
      deviceId,
      child,
      exited: false,
      exitCode: null,
      timer: undefined,
      active: 0,
    };
    child.on("error", () => {
      job.exited = true;
    });
    child.on("exit", (code) => {
      job.exitCode = code;
      job.exited = true;
    });
    this.#jobs.set(stem, job);
    return job;
  }

  #use(job: Job): void {
    clearTimeout(job.timer);
    job.active += 1;
  }

  #release(job: Job): void {
    job.active -= 1;
    if (job.active === 0) this.#arm(job);
  }

  #arm(job: Job): void {
    clearTimeout(job.timer);
    job.timer = setTimeout(() => {
      void this.kill((other) => other === job, true);
    }, PING_LIMIT_MS);
    job.timer.unref();
  }

  /** A sign of life from the player: the 60 s begin again. */
  ping(playSessionId: string): void {
    for (const job of this.#jobs.values()) {
      if (job.playSessionId === playSessionId && job.active === 0) this.#arm(job);
    }
  }

  stop(playSessionId: string): Promise<void> {
    return this.kill((job) => job.playSessionId === playSessionId, true);
  }

  stopDevice(deviceId: string): Promise<void> {
    return this.kill((job) => job.deviceId === deviceId, true);
  }

  async kill(which: (job: Job) => boolean, deleteFiles: boolean): Promise<void> {
    for (const job of [...this.#jobs.values()].filter(which)) {
      clearTimeout(job.timer);
      this.#jobs.delete(job.stem);
      if (!job.exited) {
        const gone = new Promise((resolve) => job.child.once("exit", resolve));
        job.child.kill("SIGKILL");
        await gone;
      }
      if (deleteFiles) this.#deleteFiles(job.stem);
    }
  }

  #deleteFiles(stem: string): void {
    for (const name of readdirSync(this.#folder)) {
      if (name.startsWith(stem)) rmSync(join(this.#folder, name), { force: true });
    }
  }

  #stem(request: SegmentRequest): string {
    const { item, userAgent, deviceId, playSessionId } = request;
    const key = `${item.path}-${userAgent}-${deviceId}-${playSessionId}`;
    return createHash("md5").update(key).digest("hex");
  }

  #path(stem: string, index: number, container: Container): string {
    return join(this.#folder, `${stem}${index}.${container}`);
  }

  /** The newest segment of a running job; undefined without one. */
  #reached(stem: string, job: Job | undefined, container: Container): number | undefined {
    if (job === undefined || job.exited) return undefined;
    return this.#newest(stem, container)?.index;
  }

  #newest(stem: string, container: Container): { index: number; path: string } | undefined {
    let newest: { index: number; path: string; at: number } | undefined;
    for (const name of readdirSync(this.#folder)) {
      if (!name.startsWith(stem) || !name.endsWith(`.${container}`)) continue;
      const index = Number(name.slice(stem.length, -container.length - 1));
      const path = join(this.#folder, name);
      const at = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
      if (index >= 0 && (newest === undefined || at > newest.at)) newest = { index, path, at };
    }
    return newest;
  }

  /** The segment a killed ffmpeg was writing is a stump and must not be taken for a whole one. */
  #deleteNewest(stem: string, container: Container): void {
    const newest = this.#newest(stem, container);
    if (newest !== undefined) rmSync(newest.path, { force: true });
  }
}

/** Timestamps stay absolute (`-copyts`), key frames fall on multiples of three seconds, whatever the first segment. */
function ffmpegArguments(
  request: SegmentRequest,
  folder: string,
  stem: string,
  index: number,
): string[] {
  const seek = request.runtimeTicks / TICKS_PER_SECOND;
  const gop = String(Math.ceil(SEGMENT_SECONDS * request.item.frameRate));
  const type =
    request.container === "ts"
      ? ["-hls_segment_type", "mpegts"]
      : [
          ...["-hls_segment_type", "fmp4", "-hls_fmp4_init_filename", `${stem}-1.mp4`],
          ...["-hls_segment_options", "movflags=+frag_discont+skip_sidx"],
        ];
  const rate = request.videoBitrate === undefined ? [] : ["-maxrate", String(request.videoBitrate)];
  return [
    ...["-nostdin", "-v", "error", "-y"],
    ...(seek > 0 ? ["-ss", seek.toFixed(3)] : []),
    ...["-i", request.item.path, "-map_metadata", "-1", "-map_chapters", "-1", "-threads", "1"],
    ...["-map", "0:v:0", "-map", "0:a:0?", "-sn"],
    ...["-codec:v:0", "libx264", "-preset", "ultrafast", "-crf", "28", "-profile:v", "baseline"],
    ...["-pix_fmt", "yuv420p", ...rate, ...(rate.length > 0 ? ["-bufsize", "4M"] : [])],
    // ffmpeg counts this t from the first frame it encodes, not from the film's beginning.
    ...["-force_key_frames:0", `expr:gte(t,n_forced*${SEGMENT_SECONDS})`, "-sc_threshold", "0"],
    ...["-g:v:0", gop, "-keyint_min:v:0", gop, "-codec:a:0", "aac", "-ac", "2", "-b:a", "96k"],
    ...["-copyts", "-avoid_negative_ts", "disabled", "-max_muxing_queue_size", "128"],
    ...["-f", "hls", "-max_delay", "5000000", "-hls_time", String(SEGMENT_SECONDS), ...type],
    ...[
      "-start_number",
      String(index),
      "-hls_segment_filename",
      join(folder, `${stem}%d.${request.container}`),
    ],
    ...["-hls_playlist_type", "vod", "-hls_list_size", "0", join(folder, `${stem}.m3u8`)],
  ];
}

/** Lengths of the segments of a film, in ticks: all equal but the last. */
export function segmentTicks(runTimeTicks: number): number[] {
  const whole = SEGMENT_SECONDS * TICKS_PER_SECOND;
  const lengths = Array.from({ length: Math.floor(runTimeTicks / whole) }, () => whole);
  const rest = runTimeTicks % whole;
  if (rest > 0) lengths.push(rest);
  return lengths;
}

/** The variant playlist, word for word as DynamicHlsPlaylistGenerator writes it. */
export function variantPlaylist(item: Item, container: Container, search: string): string {
  const lengths = segmentTicks(item.runTimeTicks);
  const longest = Math.max(...lengths, 0) / TICKS_PER_SECOND;
  const lines = [
    "#EXTM3U",
    "#EXT-X-PLAYLIST-TYPE:VOD",
    `#EXT-X-VERSION:${container === "mp4" ? 7 : 3}`,
    `#EXT-X-TARGETDURATION:${Math.ceil(longest)}`,
    "#EXT-X-MEDIA-SEQUENCE:0",
  ];
  if (container === "mp4") {
    const init = `hls1/main/-1.mp4${search}&runtimeTicks=0&actualSegmentLengthTicks=0`;
    lines.push(`#EXT-X-MAP:URI="${init}"`);
  }
  let at = 0;
  lengths.forEach((length, index) => {
    lines.push(
      `#EXTINF:${(length / TICKS_PER_SECOND).toFixed(6)}, nodesc`,
      `hls1/main/${index}.${container}${search}&runtimeTicks=${at}&actualSegmentLengthTicks=${length}`,
    );
    at += length;
  });
  lines.push("#EXT-X-ENDLIST", "");
  return lines.join("\n");
}
