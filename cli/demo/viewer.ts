// The demo's viewer: one login that browses, watches by HLS at the pace of real time, watches the same
// film by direct play beside it, keeps a WebSocket and reports where it is, as an app does. It is told
// nothing of the servers and forgives nothing: an answer that is no success, a byte that differs from the
// film's, a picture that stops or a socket that closes is an error it saw.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { WebSocket } from "ws";
import type { Film } from "./film.ts";

const browsePauseMs = 500;
const reportPauseMs = 2000;
const tickMs = 100;
/** How far ahead of the picture a player reads, in seconds. */
const bufferSeconds = 9;
/** A picture that stands still for longer than this is seen. */
const stallLimitMs = 250;
const errorsKept = 20;
const ticksPerSecond = 10_000_000;

/** What the viewer has seen so far. */
export interface Seen {
  readonly requests: number;
  readonly segments: number;
  readonly segmentBytes: number;
  readonly positionSeconds: number;
  /** Bytes of direct play, each compared with the film's own. */
  readonly directBytes: number;
  /** Answers they came in; one per showing of the film when nothing was noticed. */
  readonly directAnswers: number;
  readonly showings: number;
  readonly socketMessages: number;
  readonly slowestMs: number;
  /** The replica that answered last. */
  readonly replica: string;
  readonly errors: readonly string[];
}

export class Viewer {
  readonly #door: string;
  readonly #film: Film;
  readonly #bytes: Buffer;
  readonly #device = `demo-${randomUUID()}`;
  readonly #ending = new AbortController();
  readonly #errors: string[] = [];
  #token = "";
  #item = "";
  #playSession = "";
  #running: readonly Promise<void>[] = [];
  #socket: WebSocket | undefined;
  #requests = 0;
  #segments = 0;
  #segmentBytes = 0;
  #positionSeconds = 0;
  #bufferedSeconds = 0;
  #isPlaying = false;
  #stalledMs = 0;
  #directBytes = 0;
  #directAnswers = 0;
  #showings = 0;
  #socketMessages = 0;
  #slowestMs = 0;
  #replica = "";

  constructor(door: string, film: Film) {
    this.#door = door;
    this.#film = film;
    this.#bytes = readFileSync(film.path);
  }

  get seen(): Seen {
    return {
      requests: this.#requests,
      segments: this.#segments,
      segmentBytes: this.#segmentBytes,
      positionSeconds: this.#positionSeconds,
      directBytes: this.#directBytes,
      directAnswers: this.#directAnswers,
      showings: this.#showings,
      socketMessages: this.#socketMessages,
      slowestMs: this.#slowestMs,
      replica: this.#replica,
      errors: this.#errors,
    };
  }

  /** Logs in, once, and finds the film. Everything else goes on until `stop`. */
  async start(user: string, password: string): Promise<void> {
    const login = await this.#call<{ AccessToken?: string }>("POST", "/Users/AuthenticateByName", {
      Username: user,
      Pw: password,
    });
    this.#token = login?.AccessToken ?? "";
    const list = await this.#call<{ Items?: { Id: string }[] }>(
      "GET",
      "/Items?Recursive=true&IncludeItemTypes=Movie",
    );
    this.#item = list?.Items?.[0]?.Id ?? "";
    if (this.#item === "") throw new Error(`the film was not found: ${this.#errors.join("; ")}`);
    this.#listen();
    const plays = [this.#browse(), this.#report(), this.#direct()];
    this.#running = this.#film.canTranscode ? [...plays, this.#hls(), this.#picture()] : plays;
  }

  async stop(): Promise<void> {
    this.#ending.abort();
    await Promise.all(this.#running);
    this.#socket?.terminate();
  }

  get #isOver(): boolean {
    return this.#ending.signal.aborted;
  }

  #saw(error: string): void {
    if (this.#isOver || this.#errors.length >= errorsKept) return;
    this.#errors.push(error);
  }

  async #pause(ms: number): Promise<void> {
    // The end of the demo ends the pause, which is no error.
    await sleep(ms, undefined, { signal: this.#ending.signal }).catch(() => undefined);
  }

  #authorization(): string {
    const device = `Client="Jellybloom demo", Device="Scripted viewer", DeviceId="${this.#device}"`;
    const token = this.#token === "" ? "" : `, Token="${this.#token}"`;
    return `MediaBrowser ${device}, Version="1.0"${token}`;
  }

  /** One answer, whole; undefined when it was an error, which is noted. */
  async #fetch(method: string, path: string, body?: unknown): Promise<Buffer | undefined> {
    const startedMs = performance.now();
    const what = `${method} ${path.replace(/\?.*$/, "")}`;
    this.#requests++;
    try {
      const answer = await fetch(this.#door + path, {
        method,
        headers: {
          authorization: this.#authorization(),
          ...(body !== undefined && { "content-type": "application/json" }),
        },
        ...(body !== undefined && { body: JSON.stringify(body) }),
        signal: this.#ending.signal,
      });
      const bytes = Buffer.from(await answer.arrayBuffer());
      this.#slowestMs = Math.max(this.#slowestMs, performance.now() - startedMs);
      const [replica = ""] = (answer.headers.get("x-jellybloom-explain") ?? "").split(";");
      if (replica !== "") this.#replica = replica;
      if (answer.ok) return bytes;
      this.#saw(`${what} was answered ${answer.status}`);
    } catch (error) {
      this.#saw(`${what} failed: ${reasonOf(error)}`);
    }
    return undefined;
  }

  async #call<Value>(method: string, path: string, body?: unknown): Promise<Value | undefined> {
    const bytes = await this.#fetch(method, path, body);
    if (bytes === undefined || bytes.length === 0) return undefined;
    return JSON.parse(bytes.toString("utf8")) as Value;
  }

  // ---- What it does -----------------------------------------------------------------------------------

  async #browse(): Promise<void> {
    const pages = ["/Users/Me", "/UserViews", "/Items?Recursive=true", `/Items/${this.#item}`];
    for (let turn = 0; !this.#isOver; turn++) {
      await this.#fetch("GET", pages[turn % pages.length] ?? "/Users/Me");
      await this.#pause(browsePauseMs);
    }
  }

  async #report(): Promise<void> {
    while (!this.#isOver) {
      await this.#pause(reportPauseMs);
      if (this.#playSession === "") continue;
      await this.#fetch("POST", "/Sessions/Playing/Progress", this.#progress());
    }
  }

  #progress(): Record<string, unknown> {
    return {
      ItemId: this.#item,
      MediaSourceId: this.#item,
      PlaySessionId: this.#playSession,
      PositionTicks: Math.round(this.#positionSeconds * ticksPerSecond),
      CanSeek: true,
      IsPaused: false,
      PlayMethod: "Transcode",
    };
  }

  /** The film by HLS, again and again. */
  async #hls(): Promise<void> {
    while (!this.#isOver) {
      const info = await this.#call<{
        PlaySessionId?: string;
        MediaSources?: { TranscodingUrl?: string }[];
      }>("POST", `/Items/${this.#item}/PlaybackInfo`, {
        DeviceProfile: hlsProfile,
        MaxStreamingBitrate: 1_000_000,
      });
      const master = info?.MediaSources?.[0]?.TranscodingUrl;
      if (master === undefined) {
        await this.#pause(1000);
        continue;
      }
      this.#playSession = info?.PlaySessionId ?? "";
      this.#positionSeconds = 0;
      this.#bufferedSeconds = 0;
      await this.#fetch("POST", "/Sessions/Playing", this.#progress());
      await this.#play(master);
      await this.#fetch("POST", "/Sessions/Playing/Stopped", this.#progress());
      this.#isPlaying = false;
    }
  }

  async #play(master: string): Promise<void> {
    const variants = await this.#playlist(master);
    const variant = variants[0];
    if (variant === undefined) return;
    for (const { path, seconds } of await this.#playlist(variant.path)) {
      while (!this.#isOver && this.#bufferedSeconds - this.#positionSeconds > bufferSeconds) {
        await this.#pause(tickMs);
      }
      if (this.#isOver) return;
      const bytes = await this.#fetch("GET", path);
      if (bytes === undefined) continue;
      // A transport stream is packets of 188 bytes that begin with 0x47: half a one would not be.
      if (bytes.length % 188 !== 0 || bytes[0] !== 0x47) this.#saw("a segment was not whole");
      this.#segments++;
      this.#segmentBytes += bytes.length;
      this.#bufferedSeconds += seconds;
      this.#isPlaying = true;
    }
    while (!this.#isOver && this.#positionSeconds < this.#bufferedSeconds - 0.2) {
      await this.#pause(tickMs);
    }
  }

  async #playlist(path: string): Promise<{ path: string; seconds: number }[]> {
    const text = (await this.#fetch("GET", path))?.toString("utf8") ?? "";
    const base = new URL(path, this.#door);
    const entries: { path: string; seconds: number }[] = [];
    let seconds = 0;
    for (const line of text.split("\n")) {
      const [, length] = /^#EXTINF:([\d.]+)/.exec(line) ?? [];
      if (length !== undefined) seconds = Number(length);
      if (line === "" || line.startsWith("#")) continue;
      const { pathname, search } = new URL(line.trim(), base);
      entries.push({ path: pathname + search, seconds });
    }
    return entries;
  }

  /** The picture goes on as the clock does, as far as there is film; else it stands still, and that is seen. */
  async #picture(): Promise<void> {
    let lastMs = performance.now();
    while (!this.#isOver) {
      await this.#pause(tickMs);
      const nowMs = performance.now();
      const passedSeconds = (nowMs - lastMs) / 1000;
      lastMs = nowMs;
      if (!this.#isPlaying) continue;
      const left = this.#bufferedSeconds - this.#positionSeconds;
      const isAtEnd = this.#bufferedSeconds > this.#film.seconds - 4;
      this.#positionSeconds += Math.min(passedSeconds, left);
      this.#stalledMs = left < passedSeconds && !isAtEnd ? this.#stalledMs + tickMs : 0;
      if (this.#stalledMs > stallLimitMs) {
        this.#saw(`the picture stopped at ${this.#positionSeconds.toFixed(0)} s`);
        this.#stalledMs = Number.NEGATIVE_INFINITY;
      }
    }
  }

  /** The whole file in one answer, no faster than it would be watched, compared byte by byte. */
  async #direct(): Promise<void> {
    const path = `/Videos/${this.#item}/stream?static=true&mediaSourceId=${this.#item}`;
    while (!this.#isOver) {
      this.#directAnswers++;
      try {
        await this.#readDirect(path);
        this.#showings++;
      } catch (error) {
        this.#saw(`direct play failed: ${reasonOf(error)}`);
        await this.#pause(1000);
      }
    }
  }

  async #readDirect(path: string): Promise<void> {
    const bytesPerSecond = this.#bytes.length / this.#film.seconds;
    const startedMs = performance.now();
    const answer = await fetch(this.#door + path, {
      headers: { authorization: this.#authorization() },
      signal: this.#ending.signal,
    });
    if (!answer.ok || answer.body === null) throw new Error(`it was answered ${answer.status}`);
    let at = 0;
    for await (const part of answer.body as AsyncIterable<Uint8Array>) {
      const own = this.#bytes.subarray(at, at + part.length);
      if (own.compare(part) !== 0) throw new Error(`bytes differ from the film's after ${at}`);
      at += part.length;
      this.#directBytes += part.length;
      const aheadMs = (at / bytesPerSecond) * 1000 - (performance.now() - startedMs);
      if (aheadMs > 5) await this.#pause(aheadMs);
    }
    if (at !== this.#bytes.length) throw new Error(`it ended after ${at} of ${this.#bytes.length}`);
  }

  #listen(): void {
    const address = this.#door.replace(/^http/, "ws");
    const query = `api_key=${this.#token}&deviceId=${encodeURIComponent(this.#device)}`;
    const socket = new WebSocket(`${address}/socket?${query}`);
    this.#socket = socket;
    const keepAlive = setInterval(() => {
      if (socket.readyState === socket.OPEN) socket.send('{"MessageType":"KeepAlive"}');
    }, 20_000);
    socket.on("message", () => {
      this.#socketMessages++;
    });
    // Every error is followed by the close, which is what is counted.
    socket.on("error", () => undefined);
    socket.on("close", (code) => {
      clearInterval(keepAlive);
      this.#saw(`the WebSocket was closed with ${code}`);
    });
  }
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { cause } = error;
  return cause instanceof Error ? `${error.message} (${cause.message})` : error.message;
}

/** What a player that takes nothing but HLS says of itself. */
const hlsProfile = {
  MaxStreamingBitrate: 1_000_000,
  DirectPlayProfiles: [],
  TranscodingProfiles: [
    { Type: "Video", Container: "ts", Protocol: "hls", VideoCodec: "h264", AudioCodec: "aac" },
  ],
};
