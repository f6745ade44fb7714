/**
 * The servers the contract is held against: a pair of stand-ins by default, real ones where JELLYFIN_URL and
 * JELLYFIN_API_KEY are set (JELLYFIN_URL_B for a clone of the first; JELLYFIN_USER and JELLYFIN_PASSWORD, an
 * administrator, default to root/root). What a test makes on a server it makes under names and device ids of its own,
 * and `leave()` takes all of it away again: devices, users, playlists, and the user data it moved.
 *
 * Skipped on a real server is what would stop, kill or reconfigure it for its other users, and what only a stand-in can
 * show of itself (its ffmpegs, its delays); skipped without a clone is what compares two servers, and without a picture
 * or a series in the library what needs one. Everything else is held against both.
 */
import { randomBytes } from "node:crypto";
import { WebSocket } from "ws";
import type { StandIn } from "../support/jellyfin/start.ts";
import { startPair } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";

export type Reply = {
  readonly status: number;
  readonly headers: Headers;
  readonly bytes: Buffer;
  readonly text: string;
  /** The body as JSON; throws where it is none. */
  // biome-ignore lint/suspicious/noExplicitAny: answers of a server under test have no types; the tests say what they are.
  json(): any;
};

export type CallOptions = {
  readonly token?: string;
  readonly authorization?: string;
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
};

export type Device = { readonly client: string; readonly name: string; readonly id: string };

/** The Authorization value of a device, with a token or without. */
export function authorization(device: Device, token?: string): string {
  const parts = `Client="${device.client}", Device="${device.name}", DeviceId="${device.id}", Version="1.0"`;
  return `MediaBrowser ${parts}${token === undefined ? "" : `, Token="${token}"`}`;
}

/** One server as the tests speak to it. */
export class Server {
  readonly url: string;
  readonly apiKey: string;
  readonly standIn: StandIn | undefined;
  readonly #cleanUp: (() => Promise<unknown>)[] = [];

  constructor(url: string, apiKey: string, standIn: StandIn | undefined) {
    this.url = url.replace(/\/+$/, "");
    this.apiKey = apiKey;
    this.standIn = standIn;
  }

  async call(method: string, path: string, options: CallOptions = {}): Promise<Reply> {
    const headers: Record<string, string> = { ...options.headers };
    if (options.authorization !== undefined) headers.authorization = options.authorization;
    else if (options.token !== undefined) {
      headers.authorization = `MediaBrowser Token="${options.token}"`;
    }
    if (options.body !== undefined) headers["content-type"] ??= "application/json";
    // fetch adds "Cache-Control: no-cache" of its own to conditional requests, which servers obey.
    if (Object.keys(headers).some((name) => name.startsWith("if-"))) {
      headers["cache-control"] ??= "max-age=0";
    }
    const body = options.body === undefined ? null : JSON.stringify(options.body);
    const reply = await fetch(this.url + path, { method, headers, body, redirect: "manual" });
    const bytes = Buffer.from(await reply.arrayBuffer());
    const text = bytes.toString("utf8");
    return {
      status: reply.status,
      headers: reply.headers,
      bytes,
      text,
      json: () => JSON.parse(text),
    };
  }

  get(path: string, token?: string): Promise<Reply> {
    return this.call("GET", path, token === undefined ? {} : { token });
  }

  post(path: string, token: string, body?: unknown): Promise<Reply> {
    return this.call("POST", path, body === undefined ? { token } : { token, body });
  }

  /** Asks with the API key. */
  admin(method: string, path: string, body?: unknown): Promise<Reply> {
    return this.call(
      method,
      path,
      body === undefined ? { token: this.apiKey } : { token: this.apiKey, body },
    );
  }

  /** Undone, last first, when the file's tests are over. */
  later(deed: () => Promise<unknown>): void {
    this.#cleanUp.push(deed);
  }

  async leave(): Promise<void> {
    for (const deed of this.#cleanUp.splice(0).reverse()) {
      // What is gone already needs no undoing.
      await deed().catch(() => undefined);
    }
  }

  /** A device nobody else has; its tokens and sessions go at the end. */
  device(client = "Contract"): Device {
    const id = `contract-${randomBytes(6).toString("hex")}`;
    this.later(() => this.admin("DELETE", `/Devices?id=${id}`));
    return { client, name: "Test", id };
  }

  login(device: Device, name: string, password: string): Promise<Reply> {
    return this.call("POST", "/Users/AuthenticateByName", {
      authorization: authorization(device),
      body: { Username: name, Pw: password },
    });
  }

  /** Logs the administrator in. */
  async enter(device = this.device()): Promise<Login> {
    const reply = await this.login(device, USER, PASSWORD);
    if (reply.status !== 200) throw new Error(`login of ${USER} answered ${reply.status}`);
    return asLogin(reply, device);
  }

  /** A user of this test's own, an ordinary one, deleted at the end. */
  async newUser(
    policy: Record<string, unknown> = {},
  ): Promise<{ id: string; name: string; password: string }> {
    const name = `contract-${randomBytes(4).toString("hex")}`;
    const password = randomBytes(8).toString("hex");
    const user = (
      await this.admin("POST", "/Users/New", { Name: name, Password: password })
    ).json();
    this.later(() => this.admin("DELETE", `/Users/${user.Id}`));
    await this.setPolicy(user.Id, policy);
    return { id: user.Id, name, password };
  }

  async setPolicy(userId: string, change: Record<string, unknown>): Promise<Reply> {
    const user = (await this.admin("GET", `/Users/${userId}`)).json();
    return this.admin("POST", `/Users/${userId}/Policy`, { ...user.Policy, ...change });
  }

  /** The three steps that give a device a token without a password. */
  async mint(device: Device, userId: string): Promise<string> {
    const begun = await this.call("POST", "/QuickConnect/Initiate", {
      authorization: authorization(device),
    });
    const { Code, Secret } = begun.json();
    const agreed = await this.admin(
      "POST",
      `/QuickConnect/Authorize?code=${Code}&userId=${userId}`,
    );
    if (agreed.status !== 200) throw new Error(`Authorize answered ${agreed.status}`);
    const result = await this.call("POST", "/Users/AuthenticateWithQuickConnect", {
      body: { Secret },
    });
    return result.json().AccessToken;
  }

  /** The sessions of a device, as the API key sees them. */
  async sessionsOf(device: Device): Promise<Record<string, unknown>[]> {
    return (await this.admin("GET", `/Sessions?deviceId=${device.id}`)).json();
  }

  socket(query: string, headers: Record<string, string> = {}): Listener {
    return new Listener(`${this.url.replace(/^http/, "ws")}/socket${query}`, headers);
  }

  async film(): Promise<Film> {
    const path =
      "/Items?recursive=true&includeItemTypes=Movie&fields=MediaSources,Path&sortBy=SortName";
    const { Items } = (await this.admin("GET", path)).json();
    for (const item of Items) {
      const { Id } = item;
      const info = (await this.admin("GET", `/Items/${Id}?userId=${await this.userId()}`)).json();
      const source = info.MediaSources?.[0];
      if (
        source !== undefined &&
        source.Container !== "bin" &&
        info.RunTimeTicks >= 60 * 10_000_000
      ) {
        return { id: Id, ticks: info.RunTimeTicks, bytes: source.Size, imageTags: info.ImageTags };
      }
    }
    throw new Error("the server needs a film of a minute or more");
  }

  async userId(): Promise<string> {
    const users: { Name: string; Id: string }[] = (await this.admin("GET", "/Users")).json();
    const found = users.find((user) => user.Name === USER);
    if (found === undefined) throw new Error(`there is no user ${USER}`);
    return found.Id;
  }
}

export type Film = { id: string; ticks: number; bytes: number; imageTags: Record<string, string> };
export type Login = {
  token: string;
  userId: string;
  sessionId: string;
  device: Device;
  serverId: string;
};

export function asLogin(reply: Reply, device: Device): Login {
  const { AccessToken, User, SessionInfo, ServerId } = reply.json();
  return {
    token: AccessToken,
    userId: User.Id,
    sessionId: SessionInfo.Id,
    device,
    serverId: ServerId,
  };
}

/** A client's socket that remembers what it got. */
export class Listener {
  readonly messages: { MessageType: string; Data?: unknown; MessageId: string }[] = [];
  readonly opened: Promise<void>;
  /** Close code and reason; the status in place of the code where the handshake was refused. */
  readonly closed: Promise<{ code: number; reason: string }>;
  readonly #ws: WebSocket;

  constructor(url: string, headers: Record<string, string>) {
    this.#ws = new WebSocket(url, { headers });
    this.#ws.on("message", (data) => this.messages.push(JSON.parse(String(data))));
    this.opened = new Promise((resolve, reject) => {
      this.#ws.on("open", () => resolve());
      this.#ws.on("error", reject);
    });
    this.opened.catch(() => undefined);
    this.closed = new Promise((resolve) => {
      this.#ws.on("unexpected-response", (_request, response) => {
        resolve({ code: response.statusCode ?? 0, reason: "" });
        response.resume();
        this.#ws.terminate();
      });
      this.#ws.on("close", (code, reason) => resolve({ code, reason: String(reason) }));
    });
  }

  send(type: string, data?: unknown): void {
    this.#ws.send(JSON.stringify({ MessageType: type, Data: data }));
  }

  async close(): Promise<void> {
    this.#ws.close();
    await this.closed;
  }

  /** The first message of a type, past or to come. */
  async next(type: string, limitMs = 5000): Promise<{ MessageType: string; Data?: unknown }> {
    const found = await eventually(
      () => this.messages.find((one) => one.MessageType === type),
      limitMs,
    );
    this.messages.splice(this.messages.indexOf(found), 1);
    return found;
  }
}

/** Asks again until there is an answer, or fails when the time is over. */
export async function eventually<Value>(
  ask: () => Value | undefined | Promise<Value | undefined>,
  limitMs = 5000,
): Promise<Value> {
  const end = Date.now() + limitMs;
  while (Date.now() < end) {
    const value = await ask();
    if (value !== undefined && value !== false) return value;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error(`it did not happen within ${limitMs} ms`);
}

const URL_A = process.env.JELLYFIN_URL;
const KEY = process.env.JELLYFIN_API_KEY;
const URL_B = process.env.JELLYFIN_URL_B;
export const USER = process.env.JELLYFIN_USER ?? "root";
export const PASSWORD = process.env.JELLYFIN_PASSWORD ?? "root";
export const isReal = URL_A !== undefined && KEY !== undefined;
/** A real server may lack its clone; tests that need one are skipped then. */
export const hasPair = !isReal || URL_B !== undefined;

export type Servers = { readonly a: Server; readonly b: Server; leave(): Promise<void> };

/** The servers for one file of tests. Without a clone `b` is `a`, for tests that are skipped then. */
export async function contractServers(): Promise<Servers> {
  if (URL_A !== undefined && KEY !== undefined) {
    const a = new Server(URL_A, KEY, undefined);
    const b = URL_B === undefined ? a : new Server(URL_B, KEY, undefined);
    return { a, b, leave: () => leaveBoth(a, b) };
  }
  const media = await makeMedia();
  const pair = await startPair({ mediaDir: media.folder, knownProxies: ["127.0.0.1"] });
  const a = new Server(pair.a.url, pair.a.apiKey, pair.a);
  const b = new Server(pair.b.url, pair.b.apiKey, pair.b);
  return {
    a,
    b,
    leave: async () => {
      await leaveBoth(a, b);
      await pair.stop();
    },
  };
}

async function leaveBoth(a: Server, b: Server): Promise<void> {
  // Half a second after a change of user data its user's sessions are told of it; were they deleted meanwhile, the
  // server's process would end (UserDataChangeNotifier.UpdateTimerCallback, an async void).
  await new Promise((resolve) => setTimeout(resolve, 1000));
  await a.leave();
  if (b !== a) await b.leave();
}
