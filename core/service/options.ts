// Options: one table per command says every option's name, type, default and meaning; from it come
// the typed configuration, the reading of command line, environment and secret files, the messages,
// the help text and docs/options.md. So an option cannot exist without its description.
//
// Promises: a value given on the command line wins over the environment, which wins over the default.
// All mistakes are found in one reading and each is one sentence that names the option. The value of a
// secret never appears in a mistake. Reading is pure but for the `readFile` passed in.

import { isIP } from "node:net";
import { getSystemErrorName } from "node:util";

/** What reading one text gave: the value, or what the text should have been («must be …»). */
export type Parsed<Value> = { readonly value: Value } | { readonly mistake: string };

export interface OptionType<Value> {
  /** Stands for the value in the help text, such as `HOST:PORT`. Empty for a flag. */
  readonly placeholder: string;
  readonly parse: (text: string) => Parsed<Value>;
}

export interface Option<Value> {
  /** As on the command line, without dashes in front: `api-hold-limit`. */
  readonly name: string;
  /** Heading under which the help text shows it. */
  readonly section: string;
  /** Sentences. */
  readonly description: string;
  readonly placeholder: string;
  readonly secret: boolean;
  readonly repeatable: boolean;
  readonly required: boolean;
  /** The default as a person would write it; undefined when there is none. */
  readonly fallback: string | undefined;
  /** From the texts given (never with none of them for a required option) to the value. */
  readonly resolve: (texts: readonly string[]) => Parsed<Value>;
}

/** By the name of the field in the configuration, which has the unit at its end: `apiHoldLimitMs`. */
export type OptionTable = Readonly<Record<string, Option<unknown>>>;

export type ConfigOf<Table extends OptionTable> = {
  readonly [Key in keyof Table]: Table[Key] extends Option<infer Value> ? Value : never;
};

/** A relation between options. It is looked at only when all options it is about could be read. */
export interface OptionRule<Table extends OptionTable> {
  readonly about: readonly (keyof Table)[];
  /** A sentence for every mistake. */
  readonly check: (config: ConfigOf<Table>) => readonly string[];
}

export interface OptionSources {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly readFile: (path: string) => string;
}

export type ReadOptions<Table extends OptionTable> =
  | { readonly kind: "config"; readonly config: ConfigOf<Table>; readonly words: readonly string[] }
  | { readonly kind: "help" }
  | { readonly kind: "mistakes"; readonly mistakes: readonly string[] };

/**
 * Reads the options of one command.
 *
 * `wordNames` are the words which follow the options, such as METHOD and PATH; each must be there, but
 * for those in brackets: `[NAME]`.
 * A word may stand anywhere; after `--` everything is a word.
 */
export function readOptions<Table extends OptionTable>(
  table: Table,
  rules: readonly OptionRule<Table>[],
  sources: OptionSources,
  wordNames: readonly string[] = [],
): ReadOptions<Table> {
  const line = readCommandLine(table, sources.argv);
  if (line.help) return { kind: "help" };
  const mistakes = [...line.mistakes];
  const config: Record<string, unknown> = {};
  for (const [key, option] of Object.entries(table)) {
    if (line.broken.has(option.name)) continue;
    const given = textsOf(option, line.given, sources);
    mistakes.push(...given.mistakes);
    if (given.mistakes.length > 0) continue;
    const parsed = parseOption(option, given.texts);
    if ("mistake" in parsed) mistakes.push(parsed.mistake);
    else config[key] = parsed.value;
  }
  mistakes.push(...wordMistakes(line.words, wordNames));
  // Every key is there or the mistakes are told, so the partial configuration is not seen by a caller;
  // a rule sees it only when the keys it names are there.
  const whole = config as ConfigOf<Table>;
  for (const rule of rules) {
    if (rule.about.every((key) => key in config)) mistakes.push(...rule.check(whole));
  }
  if (mistakes.length > 0) return { kind: "mistakes", mistakes };
  return { kind: "config", config: whole, words: line.words };
}

/** `api-key` to `JELLYBLOOM_API_KEY`. */
export function environmentName(optionName: string): string {
  return `JELLYBLOOM_${optionName.replaceAll("-", "_").toUpperCase()}`;
}

// ---- Rows of a table ------------------------------------------------------------------------------

interface Row<Value> {
  readonly name: string;
  readonly section: string;
  readonly type: OptionType<Value>;
  readonly description: string;
  readonly secret?: boolean;
}

function base<Value>(row: Row<Value>) {
  return {
    name: row.name,
    section: row.section,
    description: row.description,
    placeholder: row.type.placeholder,
    secret: row.secret ?? false,
    repeatable: false,
    required: false,
    fallback: undefined,
  };
}

function parseOnly<Value>(type: OptionType<Value>, texts: readonly string[]): Parsed<Value> {
  const [text, ...more] = texts;
  if (text === undefined) return { mistake: "is missing" };
  if (more.length > 0) return { mistake: "was given more than once" };
  return type.parse(text);
}

/** An option with a default, written as a person would write it. */
export function option<Value>(row: Row<Value> & { readonly default: string }): Option<Value> {
  const resolve = (texts: readonly string[]) =>
    parseOnly(row.type, texts.length === 0 ? [row.default] : texts);
  return { ...base(row), fallback: row.default, resolve };
}

/** An option that may be left out; its value is then undefined. */
export function optional<Value>(row: Row<Value>): Option<Value | undefined> {
  const resolve = (texts: readonly string[]): Parsed<Value | undefined> =>
    texts.length === 0 ? { value: undefined } : parseOnly(row.type, texts);
  return { ...base(row), resolve };
}

/** An option that must be given. */
export function required<Value>(row: Row<Value>): Option<Value> {
  const resolve = (texts: readonly string[]) => parseOnly(row.type, texts);
  return { ...base(row), required: true, resolve };
}

/** An option that may be repeated; its value is the list of what was given, `min` to `max` long. */
export function list<Value>(
  row: Row<Value> & { readonly min?: number; readonly max: number },
): Option<readonly Value[]> {
  const min = row.min ?? 0;
  const resolve = (texts: readonly string[]): Parsed<readonly Value[]> => {
    const values: Value[] = [];
    for (const text of texts) {
      const parsed = row.type.parse(text);
      if ("mistake" in parsed) return parsed;
      values.push(parsed.value);
    }
    if (values.length < min) return { mistake: `must be given at least ${count(min, "time")}` };
    if (values.length > row.max)
      return { mistake: `may be given at most ${count(row.max, "time")}` };
    return { value: values };
  };
  return { ...base(row), repeatable: true, required: min > 0, resolve };
}

/** A switch: off unless it is named. `--name=false` and JELLYBLOOM_NAME=false switch it off again. */
export function flag(row: Omit<Row<boolean>, "type">): Option<boolean> {
  return option({ ...row, type: onOff(""), default: "off" });
}

// ---- Types ----------------------------------------------------------------------------------------

export interface Address {
  /** An IP address or a host name, without brackets. Empty: every interface (as in `:8080`). */
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
}

/** `127.0.0.1:8080`, `[::1]:8080`, `name:8080` or `:8080`. */
export const address: OptionType<Address> = {
  placeholder: "HOST:PORT",
  parse(text) {
    const match = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$/.exec(text);
    const [, bracketed, bare, digits] = match ?? [];
    const port = Number(digits);
    const host = bracketed ?? bare ?? "";
    const hostIsGood =
      bracketed === undefined ? host === "" || isHostName(host) : isIP(bracketed) === 6;
    if (match === null || !hostIsGood || port > 65535) {
      return { mistake: "must be HOST:PORT, such as 127.0.0.1:8080, [::1]:8080 or :8080" };
    }
    return { value: { host, port } };
  },
};

/** An address as a person would write it. */
export function addressText({ host, port }: Address): string {
  return isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
}

/** True when only this machine can reach the address. */
export function isLoopback({ host }: Address): boolean {
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}

export interface HttpUrl {
  /** `http:` or `https:` with host and port, without a trailing slash. */
  readonly origin: string;
  /** Empty, or a path with a leading and no trailing slash. */
  readonly basePath: string;
}

/** An `http` or `https` URL of a server: no user, no query, no fragment. */
export const httpUrl: OptionType<HttpUrl> = {
  placeholder: "URL",
  parse(text) {
    const url = URL.canParse(text) ? new URL(text) : undefined;
    const isPlain =
      url !== undefined &&
      (url.protocol === "http:" || url.protocol === "https:") &&
      url.username === "" &&
      url.password === "" &&
      url.search === "" &&
      url.hash === "";
    if (!isPlain || !/^https?:\/\//i.test(text)) {
      return { mistake: "must be an http:// or https:// address, such as http://10.0.0.5:8096" };
    }
    return { value: { origin: url.origin, basePath: url.pathname.replace(/\/+$/, "") } };
  },
};

/** A URL as one text, without a trailing slash. */
export function urlText({ origin, basePath }: HttpUrl): string {
  return origin + basePath;
}

export interface NamedUrl extends HttpUrl {
  readonly name: string;
}

/** Names of replicas: letters, digits, `-` and `_`, at most 63. */
export const replicaName: OptionType<string> = {
  placeholder: "NAME",
  parse: (text) =>
    /^[A-Za-z0-9_-]{1,63}$/.test(text)
      ? { value: text }
      : { mistake: "must be a name of at most 63 letters, digits, - and _" },
};

/** `a=http://10.0.0.5:8096`. */
export const namedUrl: OptionType<NamedUrl> = {
  placeholder: "NAME=URL",
  parse(text) {
    const [name, rest] = cut(text, "=");
    const parsedName = replicaName.parse(name);
    const parsedUrl = httpUrl.parse(rest ?? "");
    if ("mistake" in parsedName || "mistake" in parsedUrl) {
      return { mistake: "must be NAME=URL, such as a=http://10.0.0.5:8096" };
    }
    return { value: { name: parsedName.value, ...parsedUrl.value } };
  },
};

/** A name whose addresses are replicas. */
export interface DnsPlace {
  readonly name: string;
  /** 0: the records of the name tell it (SRV). */
  readonly port: number;
}

/** `dns:jellyfin.media.svc:8096`, or `dns:_http._tcp.jellyfin.media.svc` for SRV records. */
export const dnsPlace: OptionType<DnsPlace> = {
  placeholder: "dns:NAME:PORT",
  parse(text) {
    const [, name = "", digits] =
      /^dns:([A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}))(?::(\d{1,5}))?$/.exec(text) ?? [];
    const port = digits === undefined ? 0 : Number(digits);
    const isSrv = name.startsWith("_");
    return name === "" || port > 65_535 || (port === 0 && !(isSrv && digits === undefined))
      ? { mistake: "must be dns:NAME:PORT, or dns:_SERVICE._tcp.NAME for SRV records" }
      : { value: { name, port } };
  },
};

/** A secret text of at least `minLength` characters. */
export function secretText(minLength: number): OptionType<string> {
  return {
    placeholder: "KEY",
    parse: (text) =>
      text.length >= minLength && !/[\s\p{Cc}]/u.test(text)
        ? { value: text }
        : { mistake: `must be at least ${count(minLength, "character")} without spaces` },
  };
}

export interface NamedSecret {
  /** Undefined: for all. */
  readonly name: string | undefined;
  readonly secret: string;
}

/** `KEY` or `a=KEY`. */
export const namedSecret: OptionType<NamedSecret> = {
  placeholder: "[NAME=]KEY",
  parse(text) {
    const mistake = "must be KEY (for all replicas) or NAME=KEY (for one), without spaces";
    const [before, after] = cut(text, "=");
    const secret = after ?? before;
    if (secret === "" || /[\s\p{Cc}]/u.test(secret)) return { mistake };
    if (after === undefined) return { value: { name: undefined, secret } };
    return "mistake" in replicaName.parse(before)
      ? { mistake }
      : { value: { name: before, secret } };
  },
};

export interface Cidr {
  readonly family: 4 | 6;
  readonly address: string;
  readonly prefixLength: number;
}

/** `10.0.0.0/8`, `fd00::/8`, or one address. */
export const cidr: OptionType<Cidr> = {
  placeholder: "CIDR",
  parse(text) {
    const [ip, bits] = cut(text, "/");
    const family = isIP(ip);
    const widest = family === 4 ? 32 : 128;
    const prefixLength = bits === undefined ? widest : Number(bits);
    const bitsAreGood = bits === undefined || (/^\d{1,3}$/.test(bits) && prefixLength <= widest);
    if ((family !== 4 && family !== 6) || ip.includes("%") || !bitsAreGood) {
      return { mistake: "must be a network such as 10.0.0.0/8 or fd00::/8, or one IP address" };
    }
    return { value: { family, address: ip, prefixLength } };
  },
};

const durationUnitsMs: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};

/** `250ms`, `5s`, `2m`, `1h`: to whole milliseconds, within the limits. */
export function durationMs(minMs: number, maxMs: number): OptionType<number> {
  return {
    placeholder: "TIME",
    parse(text) {
      const [, digits, unit] = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h)$/.exec(text) ?? [];
      const valueMs = Math.round(Number(digits) * (durationUnitsMs[unit ?? ""] ?? Number.NaN));
      if (!(valueMs >= minMs && valueMs <= maxMs)) {
        const range = `from ${durationText(minMs)} to ${durationText(maxMs)}`;
        return { mistake: `must be a time with its unit, such as 250ms, 5s, 2m or 1h, ${range}` };
      }
      return { value: valueMs };
    },
  };
}

/** A time as a person would write it. */
export function durationText(ms: number): string {
  for (const unit of ["h", "m", "s"]) {
    const size = durationUnitsMs[unit] ?? 1;
    if (ms >= size && ms % size === 0) return `${ms / size}${unit}`;
  }
  return `${ms}ms`;
}

const byteUnits: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
};

/** `64MiB`, `512KiB`, `2GiB`, `100B`: to bytes, within the limits. */
export function bytes(min: number, max: number): OptionType<number> {
  return {
    placeholder: "SIZE",
    parse(text) {
      const [, digits, unit] = /^(\d{1,12})(B|KiB|MiB|GiB)$/.exec(text) ?? [];
      const value = Number(digits) * (byteUnits[unit ?? ""] ?? Number.NaN);
      if (!(value >= min && value <= max)) {
        const range = `from ${bytesText(min)} to ${bytesText(max)}`;
        return { mistake: `must be a size with its unit, such as 512KiB, 64MiB or 2GiB, ${range}` };
      }
      return { value };
    },
  };
}

/** A size as a person would write it. */
export function bytesText(value: number): string {
  for (const unit of ["GiB", "MiB", "KiB"]) {
    const size = byteUnits[unit] ?? 1;
    if (value >= size && value % size === 0) return `${value / size}${unit}`;
  }
  return `${value}B`;
}

export function integer(min: number, max: number): OptionType<number> {
  return {
    placeholder: "NUMBER",
    parse(text) {
      const value = /^-?\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
      if (!(value >= min && value <= max)) {
        return { mistake: `must be a whole number from ${min} to ${max}` };
      }
      return { value };
    },
  };
}

export function oneOf<const Value extends string>(values: readonly Value[]): OptionType<Value> {
  return {
    placeholder: values.join("|"),
    parse(text) {
      const value = values.find((candidate) => candidate === text);
      return value === undefined ? { mistake: `must be one of ${values.join(", ")}` } : { value };
    },
  };
}

/** `on` or `off` (also true, yes, 1 and false, no, 0): to a boolean. */
export function onOff(placeholder: string): OptionType<boolean> {
  return {
    placeholder,
    parse(text) {
      if (["on", "true", "yes", "1"].includes(text.toLowerCase())) return { value: true };
      if (["off", "false", "no", "0"].includes(text.toLowerCase())) return { value: false };
      return { mistake: "must be on or off" };
    },
  };
}

/** A file or folder. Whether it is there is for the one who opens it to say. */
export const path: OptionType<string> = {
  placeholder: "DIR",
  parse: (text) =>
    text.trim() === "" || text.includes("\0") ? { mistake: "must be a path" } : { value: text },
};

/** One of some kinds of URL, kept as it was written, since a client library reads it. */
export function urlOf(schemes: readonly string[]): OptionType<string> {
  const examples = schemes.map((scheme) => `${scheme}://`).join(" or ");
  return {
    placeholder: "URL",
    parse(text) {
      const scheme = text.slice(0, Math.max(0, text.indexOf("://")));
      const rest = text.slice(scheme.length + 3);
      return schemes.includes(scheme) && rest !== "" && !/[\s\p{Cc}]/u.test(text)
        ? { value: text }
        : { mistake: `must be an address that starts with ${examples}` };
    },
  };
}

// ---- Reading --------------------------------------------------------------------------------------

interface CommandLine {
  readonly help: boolean;
  /** Option name, or `<name>-file` for a secret's file, to the texts given. */
  readonly given: ReadonlyMap<string, readonly string[]>;
  /** Options without their value: told already, so nothing else is told about them. */
  readonly broken: ReadonlySet<string>;
  readonly words: readonly string[];
  readonly mistakes: readonly string[];
}

function readCommandLine(table: OptionTable, argv: readonly string[]): CommandLine {
  const known = knownNames(table);
  const given = new Map<string, string[]>();
  const words: string[] = [];
  const mistakes: string[] = [];
  const broken = new Set<string>();
  let help = false;
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index] ?? "";
    if (word === "--") {
      words.push(...argv.slice(index + 1));
      break;
    }
    if (word === "--help" || word === "-h") {
      help = true;
      continue;
    }
    if (!word.startsWith("-") || word === "-") {
      words.push(word);
      continue;
    }
    const [name, inline] = cut(word.replace(/^--?/, ""), "=");
    const isFlag = known.get(name);
    if (isFlag === undefined || !word.startsWith("--")) {
      const written = inline === undefined ? word : word.slice(0, word.indexOf("="));
      mistakes.push(`Unknown option ${written}.${suggestion(name, known.keys())}`);
      // The word after an unknown option is most likely its value and not a mistake of its own.
      if (inline === undefined && argv[index + 1]?.startsWith("-") === false) index++;
      continue;
    }
    let text = inline ?? (isFlag ? "on" : undefined);
    if (text === undefined) {
      const next = argv[index + 1];
      if (next === undefined || next.startsWith("--")) {
        mistakes.push(`--${name} needs a value.`);
        broken.add(name.replace(/-file$/, "")).add(name);
        continue;
      }
      text = next;
      index++;
    }
    given.set(name, [...(given.get(name) ?? []), text]);
  }
  return { help, given, broken, words, mistakes };
}

/** Every name that may stand on the command line, and whether it is a flag. */
function knownNames(table: OptionTable): ReadonlyMap<string, boolean> {
  const names = new Map<string, boolean>();
  for (const { name, placeholder, secret } of Object.values(table)) {
    names.set(name, placeholder === "");
    if (secret) names.set(`${name}-file`, false);
  }
  return names;
}

interface GivenTexts {
  readonly texts: readonly string[];
  readonly mistakes: readonly string[];
}

/** The texts of one option from the first source that has it. */
function textsOf(
  { name, secret, repeatable }: Option<unknown>,
  line: CommandLine["given"],
  sources: OptionSources,
): GivenTexts {
  const onLine = line.get(name);
  const fileOnLine = secret ? line.get(`${name}-file`) : undefined;
  const variable = environmentName(name);
  const inEnvironment = nonEmpty(sources.env[variable]);
  const fileInEnvironment = secret ? nonEmpty(sources.env[`${variable}_FILE`]) : undefined;

  if (onLine !== undefined && fileOnLine !== undefined) {
    return { texts: [], mistakes: [`--${name} and --${name}-file exclude each other.`] };
  }
  if (onLine !== undefined) return { texts: onLine, mistakes: [] };
  if (fileOnLine !== undefined) return fromFiles(`--${name}-file`, fileOnLine, repeatable, sources);
  if (inEnvironment !== undefined && fileInEnvironment !== undefined) {
    return { texts: [], mistakes: [`${variable} and ${variable}_FILE exclude each other.`] };
  }
  if (inEnvironment !== undefined) {
    return { texts: repeatable ? split(inEnvironment) : [inEnvironment], mistakes: [] };
  }
  if (fileInEnvironment !== undefined) {
    return fromFiles(`${variable}_FILE`, [fileInEnvironment], repeatable, sources);
  }
  return { texts: [], mistakes: [] };
}

function fromFiles(
  source: string,
  paths: readonly string[],
  repeatable: boolean,
  sources: OptionSources,
): GivenTexts {
  const texts: string[] = [];
  const mistakes: string[] = [];
  for (const file of paths) {
    try {
      const content = sources.readFile(file).trim();
      if (content === "") mistakes.push(`${source}: the file ${file} is empty.`);
      texts.push(...(repeatable ? split(content) : [content]));
    } catch (error) {
      mistakes.push(`${source}: the file ${file} cannot be read (${errorCode(error)}).`);
    }
  }
  return { texts, mistakes };
}

function parseOption(option: Option<unknown>, texts: readonly string[]): Parsed<unknown> {
  const parsed = option.resolve(texts);
  if (!("mistake" in parsed)) return parsed;
  const label = `--${option.name}`;
  if (texts.length === 0) {
    const example = option.placeholder === "" ? "" : ` ${option.placeholder}`;
    return { mistake: `${label}${example} is needed (or ${environmentName(option.name)}).` };
  }
  const shown = option.secret || texts.length > 1 ? "" : `, not ${JSON.stringify(texts[0])}`;
  return { mistake: `${label} ${parsed.mistake}${shown}.` };
}

function wordMistakes(words: readonly string[], wordNames: readonly string[]): string[] {
  const missing = wordNames
    .slice(words.length)
    .filter((name) => !name.startsWith("["))
    .map((name) => `${name} is missing.`);
  const extra = words.slice(wordNames.length).map(unexpectedWord);
  return [...missing, ...extra];
}

function unexpectedWord(word: string): string {
  // The word may be a secret that lost its option, so only a short beginning of it is shown.
  const shown = word.length > 3 ? `${word.slice(0, 3)}…` : word;
  return `Unexpected word ${JSON.stringify(shown)}: options start with --.`;
}

/** ` Did you mean --listen?` for a name close enough to a known one, else nothing. */
function suggestion(name: string, names: Iterable<string>): string {
  let best = "";
  let bestDistance = Math.max(1, Math.floor(name.length / 3)) + 1;
  for (const candidate of names) {
    const distance = editDistance(name, candidate, bestDistance);
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best === "" ? "" : ` Did you mean --${best}?`;
}

/** Levenshtein's distance; texts whose lengths differ by `limit` or more are not compared. */
function editDistance(left: string, right: string, limit: number): number {
  if (Math.abs(left.length - right.length) >= limit || left.length > 64) return limit;
  let row = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let i = 1; i <= left.length; i++) {
    const next = [i];
    for (let j = 1; j <= right.length; j++) {
      const change = (row[j - 1] ?? 0) + (left[i - 1] === right[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[right.length] ?? limit;
}

function split(text: string): string[] {
  return text
    .split(/[,\n]/)
    .map((part) => part.trim())
    .filter((part) => part !== "");
}

/** An empty variable is one that is not set: compose files write `${NAME:-}`. */
function nonEmpty(text: string | undefined): string | undefined {
  return text === undefined || text === "" ? undefined : text;
}

function cut(text: string, separator: string): [before: string, after: string | undefined] {
  const at = text.indexOf(separator);
  return at === -1 ? [text, undefined] : [text.slice(0, at), text.slice(at + separator.length)];
}

function isHostName(text: string): boolean {
  return text.length <= 253 && /^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$/.test(text);
}

function count(number: number, noun: string): string {
  return number === 1 ? `one ${noun}` : `${number} ${noun}s`;
}

function errorCode(error: unknown): string {
  if (error instanceof Error && "errno" in error && typeof error.errno === "number") {
    return getSystemErrorName(error.errno);
  }
  return "it is not text";
}
