// The log: pino, written in blocks so that a line per request costs no system call each. It promises that
// nothing is lost at an orderly exit or a fatal failure, that memory is bounded when nobody reads it, and
// that the values of the fields named below, and of errors' own fields, never reach it.

import { isatty } from "node:tty";
import { type Logger, pino, stdTimeFunctions } from "pino";

export type Log = Logger;

export interface LogOptions {
  readonly level: "fatal" | "error" | "warn" | "info" | "debug" | "trace" | "silent";
  /** `auto`: pretty on a terminal, JSON elsewhere. */
  readonly format: "auto" | "json" | "pretty";
  /** File descriptor to write to: 1 is the standard output. */
  readonly fd: number;
}

export interface OpenLog {
  readonly log: Log;
  /** Writes what is buffered, now. */
  readonly flush: () => void;
}

/** What is buffered is written when it is this much or this old. */
const blockBytes = 4096;
const blockAgeMs = 500;
/** When nobody reads the log, lines beyond this are lost. */
const bufferLimitBytes = 8 * 1024 * 1024;

/**
 * Fields whose value is replaced wherever they stand at the top of a line or one below. Nobody should log
 * one; this is the second fence.
 */
const secretFields = [
  "token",
  "tokens",
  "accessToken",
  "AccessToken",
  "apiKey",
  "clusterKey",
  "secret",
  "Secret",
  "password",
  "Pw",
  "authorization",
  "cookie",
  "api_key",
  "ApiKey",
  "x-emby-token",
  "x-mediabrowser-token",
  "x-emby-authorization",
] as const;

/** Opens the log. `flush` is to be called before the process leaves. */
export function openLog(options: LogOptions): OpenLog {
  const destination = pino.destination({
    fd: options.fd,
    sync: false,
    minLength: blockBytes,
    maxLength: bufferLimitBytes,
  });
  const flush = () => {
    try {
      destination.flushSync();
    } catch {
      // Whoever read the log has gone (EPIPE); there is nobody left to tell.
    }
  };
  destination.on("error", () => {
    // The same: a log that cannot be written must not end the service.
  });
  setInterval(() => destination.flush(), blockAgeMs).unref();
  const isPretty = options.format === "pretty" || (options.format === "auto" && isatty(options.fd));
  const stream = isPretty
    ? { write: (line: string) => void destination.write(prettyLine(line)) }
    : destination;
  const log = pino(
    {
      level: options.level,
      base: null,
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: errorFields },
      redact: { paths: redactedPaths(), censor: "[secret]" },
    },
    stream,
  );
  return { log, flush };
}

function redactedPaths(): string[] {
  return secretFields.flatMap((field) => [`["${field}"]`, `*["${field}"]`]);
}

/**
 * What is told of an error. Only these fields: errors of libraries carry the command or request that
 * failed, with the keys and tokens in it.
 */
export function errorFields(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { type: typeof error };
  const fields: Record<string, unknown> = { type: error.name, message: error.message };
  if ("code" in error && typeof error.code === "string") fields.code = error.code;
  if (error.cause instanceof Error) fields.cause = `${error.cause.name}: ${error.cause.message}`;
  fields.stack = error.stack;
  return fields;
}

/** A JSON line as a line for people: time, level, message, and the other fields as `name=value`. */
export function prettyLine(line: string): string {
  const { time, level, msg, err, ...fields } = JSON.parse(line) as Record<string, unknown>;
  const clock = String(time).slice(11, 23);
  const words = Object.entries(fields).map(([name, value]) => `${name}=${plain(value)}`);
  const start = `${clock} ${String(level).padEnd(5)} ${plain(msg ?? "")}`;
  const stack = isRecord(err) ? `\n${plain(err.stack ?? err.message ?? "")}` : "";
  return `${[start, ...words].join(" ")}${stack}\n`;
}

function plain(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

/** Query names whose value may be a token, a key, a password, a secret or a code. */
const secretQueryName = /key|token|secret|passw|auth|^pw$|^code$|^pin$/i;

/**
 * A request's path and query with everything secret in it replaced, fit for a log line. Names are
 * compared as ASP.NET reads them: percent-decoded, whatever their case. An API key can also stand in the
 * path (`DELETE /Auth/Keys/{key}`).
 */
export function scrubbedPath(target: string): string {
  const queryAt = target.indexOf("?");
  const path = queryAt === -1 ? target : target.slice(0, queryAt);
  const scrubbed = /\/auth/i.test(path) || path.includes("%") ? scrubbedKeyPath(path) : path;
  if (queryAt === -1) return scrubbed;
  const pairs = target.slice(queryAt + 1).split("&");
  return `${scrubbed}?${pairs.map(scrubbedPair).join("&")}`;
}

function scrubbedKeyPath(path: string): string {
  const parts = path.split("/");
  for (let index = 2; index < parts.length; index++) {
    const isKey =
      decoded(parts[index - 2] ?? "").toLowerCase() === "auth" &&
      decoded(parts[index - 1] ?? "").toLowerCase() === "keys";
    if (isKey && parts[index] !== "") parts[index] = "[secret]";
  }
  return parts.join("/");
}

function scrubbedPair(pair: string): string {
  const at = pair.indexOf("=");
  const name = at === -1 ? pair : pair.slice(0, at);
  return at !== -1 && secretQueryName.test(decoded(name)) ? `${name}=[secret]` : pair;
}

function decoded(text: string): string {
  if (!text.includes("%")) return text;
  try {
    return decodeURIComponent(text);
  } catch {
    // Not percent-encoding after all, so it stands for itself.
    return text;
  }
}
