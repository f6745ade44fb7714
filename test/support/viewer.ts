// A viewer of the tests: logs in at a door (or a server) once and from then on does what a person's apps do,
// with the one token it was given. It hides nothing: an answer that a player would show as an error is
// given to the test as it came.

import { randomBytes } from "node:crypto";
import { WebSocket } from "ws";
import type { StandIn } from "./jellyfin/start.ts";
import { FILM_NAME } from "./media.ts";

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  /** The body as JSON; throws where it is none. */
  // biome-ignore lint/suspicious/noExplicitAny: answers of a server have no types; the tests say what they are.
  json(): any;
}

export interface Play {
  readonly playSessionId: string;
  /** The whole address of master.m3u8, with the token in its query as a player is given it. */
  readonly playlist: string;
}

export class Viewer {
  readonly url: string;
  readonly deviceId: string;
  readonly client: string;
  readonly token: string;
  readonly userId: string;
  /** The Authorization header of this viewer. */
  readonly authorization: string;

  private constructor(parts: Pick<Viewer, "url" | "deviceId" | "client" | "token" | "userId">) {
    this.url = parts.url;
    this.deviceId = parts.deviceId;
    this.client = parts.client;
    this.token = parts.token;
    this.userId = parts.userId;
    this.authorization = `${deviceHeader(parts.client, parts.deviceId)}, Token="${parts.token}"`;
  }

  /** Logs in with a password. Throws where that is not answered with a token. */
  static async enter(
    url: string,
    options: { readonly name?: string; readonly deviceId?: string; readonly client?: string } = {},
  ): Promise<Viewer> {
    const { name = "root", client = "Viewer" } = options;
    const deviceId = options.deviceId ?? `viewer-${randomBytes(6).toString("hex")}`;
    const reply = await fetch(`${url}/Users/AuthenticateByName`, {
      method: "POST",
      headers: {
        authorization: deviceHeader(client, deviceId),
        "content-type": "application/json",
      },
      body: JSON.stringify({ Username: name, Pw: name }),
    });
    if (reply.status !== 200) throw new Error(`the login of ${name} answered ${reply.status}`);
    const { AccessToken, User } = (await reply.json()) as {
      AccessToken: string;
      User: { Id: string };
    };
    return new Viewer({ url, deviceId, client, token: AccessToken, userId: User.Id });
  }

  /** The same person on the same device with the same token, at another address. */
  at(url: string): Viewer {
    return new Viewer({ ...this, url });
  }

  async call(
    method: string,
    path: string,
    options: { readonly body?: unknown; readonly headers?: Record<string, string> } = {},
  ): Promise<Answer> {
    const headers: Record<string, string> = {
      authorization: this.authorization,
      ...options.headers,
    };
    if (options.body !== undefined) headers["content-type"] = "application/json";
    const body = options.body === undefined ? null : JSON.stringify(options.body);
    const reply = await fetch(this.url + path, { method, headers, body, redirect: "manual" });
    const text = await reply.text();
    return {
      status: reply.status,
      headers: reply.headers,
      text,
      json: () => JSON.parse(text) as unknown,
    };
  }

  /** Who answers this viewer, and why: `REPLICA; REASON`. The door must run with --explain-header. */
  async placement(): Promise<string> {
    const { headers } = await this.call("GET", "/Users/Me");
    return headers.get("x-jellybloom-explain") ?? "";
  }

  /** The name of the replica that answers this viewer, which is the home where nothing is broken. */
  async home(): Promise<string> {
    return answeredBy((await this.call("GET", "/Users/Me")).headers);
  }

  /** The server this viewer lives on, and the other one. */
  async homeAmong(pair: { readonly a: StandIn; readonly b: StandIn }): Promise<[StandIn, StandIn]> {
    const name = await this.home();
    if (name !== "a" && name !== "b") throw new Error(`nobody is home: ${JSON.stringify(name)}`);
    return name === "a" ? [pair.a, pair.b] : [pair.b, pair.a];
  }

  /** The server that leads, by who answers a change of a list, and the other one. */
  async leaderAmong(pair: {
    readonly a: StandIn;
    readonly b: StandIn;
  }): Promise<[StandIn, StandIn]> {
    const nothing = `${"0".repeat(31)}1`;
    const { headers } = await this.call("POST", `/Playlists/${nothing}/Items?ids=${nothing}`);
    const name = answeredBy(headers);
    if (name !== "a" && name !== "b") throw new Error(`nobody leads: ${JSON.stringify(name)}`);
    return name === "a" ? [pair.a, pair.b] : [pair.b, pair.a];
  }

  /** The id of an item by its name. */
  async item(name = FILM_NAME): Promise<string> {
    const found = await this.call("GET", `/Items?recursive=true&userId=${this.userId}`);
    const items = found.json().Items as { Id: string; Name: string }[];
    const item = items.find((one) => one.Name === name || name.startsWith(`${one.Name} (`));
    if (item === undefined) throw new Error(`there is no ${name} in the library`);
    return item.Id;
  }

  /** Asks for HLS, as an app does whose profile takes nothing else. */
  async playHls(itemId: string, container: "ts" | "mp4"): Promise<Play> {
    const profile = {
      DirectPlayProfiles: [],
      TranscodingProfiles: [
        { Type: "Video", Protocol: "hls", Container: container, VideoCodec: "h264" },
      ],
    };
    const info = await this.call("POST", `/Items/${itemId}/PlaybackInfo?userId=${this.userId}`, {
      body: { DeviceProfile: profile, MaxStreamingBitrate: 3_000_000 },
    });
    const { MediaSources, PlaySessionId } = info.json();
    return {
      playSessionId: PlaySessionId,
      playlist: this.url + String(MediaSources[0].TranscodingUrl),
    };
  }

  /** The address of a direct play. */
  directPlay(itemId: string): string {
    return `${this.url}/Videos/${itemId}/stream?static=true&mediaSourceId=${itemId}&ApiKey=${this.token}`;
  }

  socket(): Promise<ViewerSocket> {
    return ViewerSocket.open(this);
  }

  /** Waits until each of these servers has a token of this viewer's device. */
  async knownAt(servers: readonly StandIn[], limitMs = 10_000): Promise<void> {
    for (const server of servers) {
      await until(limitMs, `a token at ${server.name}`, async () =>
        (await server.state()).tokens.some(({ deviceId }) => deviceId === this.deviceId),
      );
    }
  }
}

/** The name of the replica that gave an answer. The door must run with --explain-header. */
export function answeredBy(headers: Headers): string {
  return (headers.get("x-jellybloom-explain") ?? "").split(";")[0] ?? "";
}

export interface SocketMessage {
  readonly MessageType: string;
  readonly Data: unknown;
  readonly atMs: number;
}

/** A viewer's WebSocket and everything it was told. */
export class ViewerSocket {
  readonly messages: SocketMessage[] = [];
  readonly #socket: WebSocket;
  closeCode: number | undefined;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on("message", (data) => {
      const told = JSON.parse(String(data)) as { MessageType: string; Data: unknown };
      this.messages.push({ ...told, atMs: performance.now() });
    });
    socket.on("close", (code) => {
      this.closeCode = code;
    });
  }

  static open(viewer: Viewer): Promise<ViewerSocket> {
    const url = `${viewer.url.replace(/^http/, "ws")}/socket?api_key=${viewer.token}&deviceId=${viewer.deviceId}`;
    const socket = new WebSocket(url, { headers: { authorization: viewer.authorization } });
    const opened = new ViewerSocket(socket);
    return new Promise((resolve, reject) => {
      socket.once("open", () => resolve(opened));
      socket.once("error", reject);
    });
  }

  get isOpen(): boolean {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  count(type: string): number {
    return this.messages.filter(({ MessageType }) => MessageType === type).length;
  }

  send(type: string, data?: unknown): void {
    this.#socket.send(JSON.stringify({ MessageType: type, Data: data }));
  }

  close(): void {
    this.#socket.terminate();
  }
}

/** Asks again and again until it holds; throws with what was waited for when `limitMs` are over. */
export async function until(
  limitMs: number,
  what: string,
  holds: () => boolean | Promise<boolean>,
): Promise<void> {
  const endMs = performance.now() + limitMs;
  while (!(await holds())) {
    if (performance.now() > endMs) throw new Error(`${what}: not within ${limitMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function deviceHeader(client: string, deviceId: string): string {
  return `MediaBrowser Client="${client}", Device="Test", DeviceId="${deviceId}", Version="1.0"`;
}
