// What the journal's entries say. A change that a client makes is three entries: the **intent**, written before the
// first byte of the request goes to a server; its **outcome**, when the client has its answer; and the **effect**,
// which the sidecar of the server that answered publishes and the sidecars of all others apply. An effect without
// an intent tells of a change that came by another way than the door.
//
// Every entry carries a MAC under the cluster key: who can write the store cannot make a server change anything.
// What is not ours, not whole or of a newer kind is told apart when it is read, and never applied.

import { randomUUID } from "node:crypto";
import { isCount, isRecord, parsedJson } from "../service/json.ts";
import type { Seal } from "../service/seal.ts";
import type { JournalEntry } from "../store/journal.ts";

/**
 * What an intent is about, which decides who publishes and applies its effect:
 *
 * - `userData`    watched, position, count, date, favourite, likes, rating
 * - `preferences` display preferences of a user and client
 * - `userConfiguration`, `userPolicy`, `userImage`, `branding`, `configuration`, `libraryOptions`,
 *   `pluginConfiguration`: whole documents
 * - `password`    a password was changed or reset
 * - `user`        a user was created, renamed or deleted
 * - `apiKey`      an API key was made or taken back
 * - `playlist`, `collection`: made, changed, deleted
 * - `metadata`    an item's metadata, images or versions were edited
 * - `itemGone`    an item was deleted with its files
 * - `itemFile`    a subtitle or lyrics file came or went beside the media
 * - `libraryNews` paths changed (`/Library/Media/Updated` and its kin)
 * - `virtualFolder` a library was made, renamed, changed or removed
 * - `plugin`      a plugin was installed, removed, enabled or disabled
 */
export const intentKinds = [
  "userData",
  "preferences",
  "userConfiguration",
  "userPolicy",
  "userImage",
  "branding",
  "configuration",
  "libraryOptions",
  "pluginConfiguration",
  "password",
  "user",
  "apiKey",
  "playlist",
  "collection",
  "metadata",
  "itemGone",
  "itemFile",
  "libraryNews",
  "virtualFolder",
  "plugin",
] as const;
export type IntentKind = (typeof intentKinds)[number];

/** The client's request, without anything that lets somebody in: it can be made again on another server. */
export interface IntentRequest {
  readonly method: string;
  /** Below Jellyfin's base path, beginning with a slash. */
  readonly path: string;
  /** Without `?` and without credentials. */
  readonly query: string;
  readonly contentType: string;
  /** As text (JSON), or base64 where `isBase64`; sealed under `journalBodyContext` where `isSealed`. Empty: none. */
  readonly body: string;
  readonly isBase64?: boolean;
  readonly isSealed?: boolean;
  /** It was longer than the journal takes and is left out: the server that answered has what it did. */
  readonly bodyTooBig?: boolean;
}

export interface Intent {
  readonly type: "intent";
  /** Made by the door: the same intent written twice is one. */
  readonly id: string;
  readonly kind: IntentKind;
  /** Whose request it is; empty when nobody is logged in. */
  readonly identityKey: string;
  /** Whose state it changes, in Jellyfin's plain form; empty where it is nobody's own. */
  readonly userId: string;
  /** The item, in Jellyfin's plain form; empty where there is none. */
  readonly itemId: string;
  readonly request: IntentRequest;
  /** What a kind has to know besides: JSON that its handler validates. */
  readonly facts: unknown;
}

/** How a request of an intent ended. */
export interface Outcome {
  readonly type: "outcome";
  readonly id: string;
  /** The intent's id. */
  readonly of: string;
  /** The replica whose answer the client had; empty when it had none. */
  readonly replica: string;
  /** HTTP; 0: no server answered, and nobody knows whether one did it. */
  readonly status: number;
  /**
   * Replicas besides that may have carried it out, or may yet when they thaw: they were sent it and no answer of
   * theirs counted.
   */
  readonly asked?: readonly string[];
  /** What the answer told that others need (a new id): JSON that the kind's handler validates. */
  readonly facts?: unknown;
}

export interface Effect {
  readonly type: "effect";
  readonly id: string;
  /** The intent's id; empty: it was seen at the server, and nobody at the door asked for it. */
  readonly of: string;
  /** The intent's number, by which effects are ordered; 0 when there is none: then its own number counts. */
  readonly ofNumber: number;
  readonly kind: IntentKind;
  /** The replica that has it already. */
  readonly replica: string;
  readonly userId: string;
  readonly itemId: string;
  /** JSON that the kind's handler validates. */
  readonly payload: unknown;
}

export type Entry = Intent | Outcome | Effect;

/** An entry with its place in the journal. */
export interface Placed<Of extends Entry = Entry> {
  readonly number: number;
  readonly atMs: number;
  readonly entry: Of;
}

export type ReadEntry =
  | { readonly outcome: "read"; readonly placed: Placed }
  /** Fit for the log; nothing of the entry is repeated in it. */
  | { readonly outcome: "refused"; readonly number: number; readonly why: string };

/** What the body of an intent is sealed for where it holds a secret. */
export const journalBodyContext = "jellybloom journal body";

export function newEntryId(): string {
  return randomUUID();
}

/** The text of an entry as it lies in the store. */
export function entryValue(entry: Entry, seal: Pick<Seal, "mac">): string {
  const text = JSON.stringify(entry);
  return `${seal.mac("journal", text)} ${text}`;
}

/** What an entry of the store says, if it is ours and whole. */
export function readEntry(
  { number, atMs, value }: JournalEntry,
  seal: Pick<Seal, "verifyMac">,
): ReadEntry {
  const refused = (why: string): ReadEntry => ({ outcome: "refused", number, why });
  const blank = value.indexOf(" ");
  const text = value.slice(blank + 1);
  if (blank < 0 || !seal.verifyMac(value.slice(0, blank), "journal", text)) {
    return refused("it was not written under this cluster key");
  }
  const entry = parsedJson(text);
  if (entry === undefined) return refused("it is not JSON");
  return isEntry(entry)
    ? { outcome: "read", placed: { number, atMs, entry } }
    : refused("it is of a kind that this version does not know");
}

const kinds: ReadonlySet<string> = new Set(intentKinds);

function isEntry(value: unknown): value is Entry {
  if (!isRecord(value) || !areTexts(value, ["id"]) || value.id === "") return false;
  switch (value.type) {
    case "intent":
      return (
        isKind(value.kind) &&
        areTexts(value, ["identityKey", "userId", "itemId"]) &&
        isRequest(value.request)
      );
    case "outcome":
      return (
        areTexts(value, ["of", "replica"]) &&
        isCount(value.status) &&
        (value.asked === undefined || areAllTexts(value.asked))
      );
    case "effect":
      return (
        isKind(value.kind) &&
        areTexts(value, ["of", "replica", "userId", "itemId"]) &&
        isCount(value.ofNumber)
      );
    default:
      return false;
  }
}

function isRequest(value: unknown): boolean {
  return isRecord(value) && areTexts(value, ["method", "path", "query", "contentType", "body"]);
}

function areAllTexts(value: unknown): boolean {
  return Array.isArray(value) && value.every((text) => typeof text === "string");
}

function isKind(value: unknown): boolean {
  return typeof value === "string" && kinds.has(value);
}

function areTexts(value: Readonly<Record<string, unknown>>, names: readonly string[]): boolean {
  return names.every((name) => typeof value[name] === "string");
}
