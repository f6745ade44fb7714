/**
 * Players for tests, as strict as the real ones: ffmpeg reading an HLS playlist, which skips what it cannot get and says
 * so only in its log, and a reader of byte ranges that retries like ExoPlayer. They tell what a viewer would have seen.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

export type Played = {
  /** Frames decoded, in order, each with its time in seconds and the hash of its picture. */
  readonly frames: readonly { readonly seconds: number; readonly hash: string }[];
  readonly log: string;
  readonly exitCode: number | null;
  /** Segments ffmpeg gave up on. */
  readonly skipped: number;
};

const RECONNECT = [
  ...["-reconnect", "1", "-reconnect_streamed", "1", "-reconnect_on_network_error", "1"],
  ...["-reconnect_delay_max", "5"],
];

/**
 * Plays an HLS (or any) address to its end with ffmpeg and hashes every frame.
 * @param options.seconds stops after so many seconds of film. @param options.limitMs kills ffmpeg then.
 * @param options.realTime reads as fast as a viewer would, not as fast as the machine can.
 * @param options.reconnect asks again where a connection fails or breaks, as players are set to do.
 */
export async function ffmpegPlays(
  url: string,
  options: {
    seconds?: number;
    limitMs?: number;
    realTime?: boolean;
    speed?: number;
    headers?: Record<string, string>;
    userAgent?: string;
    reconnect?: boolean;
    onFrame?: (count: number) => void;
  } = {},
): Promise<Played> {
  const headers = Object.entries(options.headers ?? {}).map(
    ([name, value]) => `${name}: ${value}\r\n`,
  );
  const speed = options.speed ?? (options.realTime === true ? 1 : undefined);
  const args = [
    ...["-nostdin", "-hide_banner", "-v", "warning"],
    ...(speed === undefined ? [] : ["-readrate", String(speed)]),
    ...(headers.length === 0 ? [] : ["-headers", headers.join("")]),
    ...(url.startsWith("http") ? ["-user_agent", options.userAgent ?? "Jellybloom-Test/1.0"] : []),
    ...(options.reconnect === true ? RECONNECT : []),
    ...["-copyts", "-i", url],
    ...(options.seconds === undefined ? [] : ["-t", String(options.seconds)]),
    ...["-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framemd5", "-"],
  ];
  const child = spawn("ffmpeg", args, { stdio: ["ignore", "pipe", "pipe"] });
  const limit = setTimeout(() => child.kill("SIGKILL"), options.limitMs ?? 120_000);
  const frames: { seconds: number; hash: string }[] = [];
  let log = "";
  let rest = "";
  let timeBase = 1;
  child.stderr.on("data", (part: Buffer) => {
    log += String(part);
  });
  child.stdout.on("data", (part: Buffer) => {
    const lines = (rest + String(part)).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const base = /^#tb 0: (\d+)\/(\d+)/.exec(line);
      if (base !== null) timeBase = Number(base[1]) / Number(base[2]);
      if (line.startsWith("#") || line === "") continue;
      const [, , pts, , , hash] = line.split(",").map((field) => field.trim());
      frames.push({ seconds: Number(pts) * timeBase, hash: hash ?? "" });
      options.onFrame?.(frames.length);
    }
  });
  const exitCode = await new Promise<number | null>((resolve) => child.on("close", resolve));
  clearTimeout(limit);
  const skipped = log.match(/failed too many times, skipping|Failed to open segment/g)?.length ?? 0;
  return { frames, log, exitCode, skipped };
}

/** The largest step between two frames' times, in seconds: a skipped segment shows as one of about three seconds. */
export function longestGap(frames: Played["frames"]): number {
  let longest = 0;
  for (let index = 1; index < frames.length; index += 1) {
    const step = (frames[index]?.seconds ?? 0) - (frames[index - 1]?.seconds ?? 0);
    longest = Math.max(longest, step);
  }
  return longest;
}

export type RangeRead = {
  readonly sha256: string;
  readonly bytes: number;
  /** HTTP responses it took; 1 means nothing was ever noticed. */
  readonly responses: number;
  readonly statuses: readonly number[];
  readonly errors: readonly string[];
};

/**
 * Reads a resource to its end as ExoPlayer does: on a break it asks again from the byte reached, after 0, 1, 2, 3, 4, 5,
 * 5 … seconds, and forgets its failures once bytes flow.
 * @param options.attemptsMax how many breaks in a row it bears. @param options.bytesPerSecond reads no faster than this.
 * @param options.onBytes is told how many bytes came so far; it reads on when what this returns is done.
 */
export async function rangeReader(
  url: string,
  options: {
    headers?: Record<string, string>;
    attemptsMax?: number;
    bytesPerSecond?: number;
    signal?: AbortSignal;
    onBytes?: (bytes: number) => void | Promise<void>;
  } = {},
): Promise<RangeRead> {
  const hash = createHash("sha256");
  const statuses: number[] = [];
  const errors: string[] = [];
  const startedAt = Date.now();
  let bytes = 0;
  let failures = 0;
  let total = Number.POSITIVE_INFINITY;
  while (bytes < total) {
    try {
      const range: Record<string, string> = bytes === 0 ? {} : { range: `bytes=${bytes}-` };
      const reply = await fetch(url, {
        headers: { ...options.headers, ...range, "accept-encoding": "identity" },
        signal: options.signal ?? null,
      });
      statuses.push(reply.status);
      if (!reply.ok || reply.body === null) throw new Error(`HTTP ${reply.status}`);
      if (bytes > 0 && reply.status !== 206) throw new Error("the range was ignored");
      total = bytes + Number(reply.headers.get("content-length") ?? Number.NaN);
      for await (const part of reply.body as AsyncIterable<Uint8Array>) {
        hash.update(part);
        bytes += part.length;
        failures = 0;
        await options.onBytes?.(bytes);
        await keepPace(bytes, startedAt, options.bytesPerSecond);
      }
      if (bytes < total) throw new Error(`the body ended at ${bytes} of ${total}`);
    } catch (error) {
      if (options.signal?.aborted === true) throw error;
      errors.push(String(error));
      failures += 1;
      if (failures > (options.attemptsMax ?? 6)) break;
      await sleep(Math.min(5, failures - 1) * 1000);
    }
  }
  return { sha256: hash.digest("hex"), bytes, responses: statuses.length, statuses, errors };
}

async function keepPace(
  bytes: number,
  startedAt: number,
  perSecond: number | undefined,
): Promise<void> {
  if (perSecond === undefined) return;
  const ahead = (bytes / perSecond) * 1000 - (Date.now() - startedAt);
  if (ahead > 5) await sleep(ahead);
}
