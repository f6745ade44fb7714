/**
 * One request to the stand-in and the ways Jellyfin answers: JSON in two spellings, compressed and chunked; plain-text
 * failures without a word about the cause; empty 401 and 403. Also the table that finds the handler of a path, in any
 * letter case. It promises the shapes of real replies, down to the headers that proxies trip over.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import type { Credentials } from "./credentials.ts";
import type { World } from "./world.ts";

/** Who asks: an API key (no user) or a user's token, with the device the request or the token's row names. */
export type Caller = {
  readonly token: string;
  readonly isApiKey: boolean;
  readonly userId: string | undefined;
  readonly isAdmin: boolean;
  readonly client: string;
  readonly device: string;
  readonly deviceId: string;
  readonly version: string;
};

/** Ends a request with a status. "text" is what the exception middleware writes, "problem" what the controllers do. */
export class Refusal extends Error {
  override name = "Refusal";
  readonly status: number;
  readonly shape: "text" | "problem" | "empty" | { readonly json: unknown };
  constructor(status: number, shape: Refusal["shape"] = "text") {
    super(`refused with ${status}`);
    this.status = status;
    this.shape = shape;
  }
}

interface BoundQuery {
  readonly values: ReadonlyMap<string, string[]>;
  /** Its names count by their letter case. */
  readonly isWrapped: boolean;
}

/** As ASP.NET reads it, and UrlDecodeQueryFeature after it: one name without a value may be a whole encoded query. */
function boundQuery(search: string): BoundQuery {
  const values = byLowerCase(search);
  const [only, ...others] = [...new URLSearchParams(search)];
  const isWrapped =
    only !== undefined && others.length === 0 && only[1] === "" && only[0].includes("=");
  if (!isWrapped) return { values, isWrapped };
  const decoded = new Map<string, string[]>();
  for (const pair of only[0].split("&")) {
    const end = pair.indexOf("=");
    if (end < 0) continue;
    const name = pair.slice(0, end);
    decoded.set(name, [...(decoded.get(name) ?? []), pair.slice(end + 1)]);
  }
  return { values: decoded, isWrapped };
}

function byLowerCase(search: string): Map<string, string[]> {
  const values = new Map<string, string[]>();
  for (const [key, value] of new URLSearchParams(search)) {
    const known = values.get(key.toLowerCase());
    if (known === undefined) values.set(key.toLowerCase(), [value]);
    else known.push(value);
  }
  return values;
}

export class Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly world: World;
  readonly method: string;
  readonly path: string;
  readonly search: string;
  /** The values of the route's variable segments, in order. */
  params: readonly string[] = [];
  body: Buffer = Buffer.alloc(0);
  #query: BoundQuery | undefined;
  #credentials: Credentials | undefined;
  #caller: Caller | undefined;

  constructor(world: World, request: IncomingMessage, response: ServerResponse) {
    this.world = world;
    this.request = request;
    this.response = response;
    this.method = request.method ?? "GET";
    const url = request.url ?? "/";
    const mark = url.indexOf("?");
    this.path = mark === -1 ? url : url.slice(0, mark);
    this.search = mark === -1 ? "" : url.slice(mark);
  }

  /** Token and device as the request gives them, read once. */
  get credentials(): Credentials {
    this.#credentials ??= this.world.credentials(this);
    return this.#credentials;
  }

  /** The first value of a query parameter, whatever the letter case of its name. */
  query(name: string): string | undefined {
    return this.queryAll(name)[0];
  }

  queryAll(name: string): readonly string[] {
    if (this.search === "") return [];
    this.#query ??= boundQuery(this.search);
    const { values, isWrapped } = this.#query;
    return values.get(isWrapped ? name : name.toLowerCase()) ?? [];
  }

  /** A parameter as the handler of tokens finds it, which comes before a whole query is decoded. */
  queryAsItCame(name: string): string | undefined {
    return byLowerCase(this.search).get(name.toLowerCase())?.[0];
  }

  /** The values of a list parameter (CommaDelimitedCollectionModelBinder): repeated, each is one, commas and all. */
  list(name: string): string[] {
    const values = this.queryAll(name);
    return values.length === 1 ? (values[0] ?? "").split(",").filter(Boolean) : [...values];
  }

  param(index: number): string {
    return this.params[index] ?? "";
  }

  get caller(): Caller {
    if (this.#caller === undefined) throw new Refusal(401, "empty");
    return this.#caller;
  }

  get knownCaller(): Caller | undefined {
    return this.#caller;
  }

  set caller(caller: Caller | undefined) {
    this.#caller = caller;
  }

  /** The body as JSON, read without regard to the case of its names; 400 as a problem where it is none. */
  json(): Record<string, unknown> {
    try {
      const value: unknown = JSON.parse(this.body.toString("utf8"));
      if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
    } catch {
      // Not JSON at all: the same 400 as JSON of the wrong kind.
    }
    throw new Refusal(400, "problem");
  }

  reply(value: unknown, status = 200): void {
    const profile = /^[^,]*profile="?CamelCase/i.test(this.request.headers.accept ?? "");
    const text = escapeLikeDotNet(JSON.stringify(profile ? camelCased(value) : value));
    this.compressed(
      status,
      profile
        ? 'application/json; profile="CamelCase"; charset=utf-8'
        : "application/json; charset=utf-8",
      text,
    );
  }

  problem(status: number): void {
    const titles: Record<number, [string, string]> = {
      400: ["Bad Request", "15.5.1"],
      403: ["Forbidden", "15.5.4"],
      404: ["Not Found", "15.5.5"],
    };
    const [title, section] = titles[status] ?? ["Error", "15"];
    const type = `https://tools.ietf.org/html/rfc9110#section-${section}`;
    this.reply(
      { type, title, status, traceId: `00-${"0".repeat(32)}-${"0".repeat(16)}-00` },
      status,
    );
  }

  /** A chunked body, compressed as the client allows (brotli before gzip). */
  compressed(status: number, type: string, text: string, extra: Record<string, string> = {}): void {
    const accepted = this.request.headers["accept-encoding"];
    const headers: Record<string, string> = {
      "content-type": type,
      vary: "Accept-Encoding",
      ...extra,
    };
    let body: Buffer | string = text;
    if (accepted !== undefined) {
      if (/\bbr\b/i.test(accepted)) {
        headers["content-encoding"] = "br";
        body = brotliCompressSync(text, { params: { [constants.BROTLI_PARAM_QUALITY]: 1 } });
      } else if (/\bgzip\b/i.test(accepted)) {
        headers["content-encoding"] = "gzip";
        body = gzipSync(text, { level: 1 });
      }
    }
    this.chunked(status, headers, body);
  }

  /** Writes a body without Content-Length, as Kestrel does for everything it makes on the fly. */
  chunked(status: number, headers: Record<string, string>, body: Buffer | string): void {
    // In two calls, so that Node cannot learn the length and write Content-Length instead.
    this.response.writeHead(status, headers);
    if (this.method === "HEAD") {
      this.response.end();
      return;
    }
    this.response.write(body);
    this.response.end();
  }

  text(status: number, text: string): void {
    this.chunked(status, { "content-type": "text/plain" }, text);
  }

  /** A body with its length: playlists, which the server does not compress. */
  plain(status: number, type: string, text: string): void {
    const length = Buffer.byteLength(text);
    this.response.writeHead(status, { "content-type": type, "content-length": length });
    this.response.end(this.method === "HEAD" ? undefined : text);
  }

  noContent(): void {
    this.response.writeHead(204).end();
  }

  empty(status: number): void {
    this.response.writeHead(status, { "content-length": 0 }).end();
  }

  refuse(refusal: Refusal): void {
    if (this.response.headersSent) {
      this.response.destroy();
      return;
    }
    if (refusal.shape === "empty") this.empty(refusal.status);
    else if (refusal.shape === "problem") this.problem(refusal.status);
    else if (refusal.shape === "text") this.text(refusal.status, "Error processing request.");
    else this.reply(refusal.shape.json, refusal.status);
  }
}

/** System.Text.Json escapes these even where JSON would not ask for it; a reader of raw bodies must cope. */
function escapeLikeDotNet(json: string): string {
  if (!/[&<>'+`\u007f-\uffff]/.test(json)) return json;
  return json.replace(
    /[&<>'+`\u007f-\uffff]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`,
  );
}

/** Dictionaries keep their keys in the CamelCase profile; only properties change. */
const DICTIONARIES = new Set([
  "ProviderIds",
  "ImageTags",
  "ImageBlurHashes",
  "CustomPrefs",
  "Trickplay",
  "RequiredHttpHeaders",
]);

function camelCased(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(camelCased);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [
      key.replace(/^[A-Z]+(?=[A-Z][a-z])|^[A-Z]+$|^[A-Z]/, (head) => head.toLowerCase()),
      DICTIONARIES.has(key) ? inner : camelCased(inner),
    ]),
  );
}

/** Who may call a route: anybody, any valid token, an administrator, the first-time wizard, or the local network. */
export type Access = "anonymous" | "user" | "admin" | "wizard" | "local";
export type Handler = (exchange: Exchange) => void | Promise<void>;
type Route = { readonly access: Access; readonly handler: Handler };
type Node = { literal: Map<string, Node>; variable: Node | undefined; methods: Map<string, Route> };

/** The table of routes: a tree of path segments, literal ones in any letter case before variable ones. */
export class Routes {
  readonly #root: Node = newNode();

  /** @param pattern `/Users/:id/Policy`; several methods are separated by `|`. */
  add(methods: string, pattern: string, access: Access, handler: Handler): void {
    let node = this.#root;
    for (const segment of pattern.split("/").slice(1)) {
      if (segment.startsWith(":")) {
        node.variable ??= newNode();
        node = node.variable;
      } else {
        const key = segment.toLowerCase();
        const next = node.literal.get(key) ?? newNode();
        node.literal.set(key, next);
        node = next;
      }
    }
    for (const method of methods.split("|")) node.methods.set(method, { access, handler });
  }

  /** The route of a path, 404 where there is none, 405 with the allowed methods where only the method is wrong. */
  find(
    method: string,
    path: string,
  ): { route: Route; params: string[] } | { allowed: string[] } | undefined {
    const segments = path.split("/").slice(1);
    if (segments.length > 1 && segments.at(-1) === "") segments.pop();
    const params: string[] = [];
    const node = walk(this.#root, segments, 0, params);
    if (node === undefined) return undefined;
    const route = node.methods.get(method);
    return route === undefined ? { allowed: [...node.methods.keys()] } : { route, params };
  }
}

function newNode(): Node {
  return { literal: new Map(), variable: undefined, methods: new Map() };
}

function walk(node: Node, segments: string[], index: number, params: string[]): Node | undefined {
  const segment = segments[index];
  if (segment === undefined) return node.methods.size > 0 ? node : undefined;
  const literal = node.literal.get(segment.toLowerCase());
  if (literal !== undefined) {
    const found = walk(literal, segments, index + 1, params);
    if (found !== undefined) return found;
  }
  if (node.variable === undefined || segment === "") return undefined;
  params.push(decodeSegment(segment));
  const found = walk(node.variable, segments, index + 1, params);
  if (found === undefined) params.pop();
  return found;
}

function decodeSegment(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    // Kestrel leaves escapes it cannot decode as they are.
    return segment;
  }
}
