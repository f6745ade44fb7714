// The envelope of Jellyfin's socket messages: `{"MessageType": …, "Data": …, "MessageId": …}`, in any
// order of names (MediaBrowser.Model/Net/WebSocketMessage.cs). The door carries messages without reading
// them; it needs their type to keep its own keep-alives, to hide that a server shuts down, and to remember
// what a client subscribed to. It promises to read the type without parsing what may be megabytes of data,
// and never to throw.

import { randomBytes } from "node:crypto";

/** Frames longer than this are parsed no further when their type is not found at the beginning or the end. */
const parsedLengthMax = 1024 * 1024;

/** Only subscriptions this small are remembered; a real one is about 60 characters. */
const rememberedLengthMax = 1024;

/**
 * The type of a message as it is written, or undefined when the text is not a message.
 *
 * The name stands first or last in all messages that servers and clients make, so first those places are
 * looked at; only a small text that has it elsewhere is parsed.
 */
export function messageType(text: string): string | undefined {
  return typeAtStart(text) ?? typeAtEnd(text) ?? typeByParsing(text);
}

/** The type of a message too long to be looked at as a whole, when it stands first or last. */
export function longMessageType(data: Buffer): string | undefined {
  const end = data.subarray(-endLength).toString("latin1");
  return atEnd.exec(end)?.[1] ?? atStart.exec(data.subarray(0, endLength).toString("latin1"))?.[1];
}

/** True for what a server says to the members of a SyncPlay group. */
export function isOfGroup(type: string | undefined): boolean {
  return type === "SyncPlayGroupUpdate" || type === "SyncPlayCommand";
}

/** What a server sends to a client that must answer with KeepAlive within `seconds` (60 in Jellyfin). */
export function forceKeepAlive(seconds: number): string {
  return `{"MessageId":"${freshMessageId()}","Data":${seconds},"MessageType":"ForceKeepAlive"}`;
}

/** How a server answers a client's KeepAlive. Clients drop a MessageId they have seen, so each is new. */
export function keepAliveReply(): string {
  return `{"MessageId":"${freshMessageId()}","MessageType":"KeepAlive"}`;
}

/** A message of a server's, as it would write it. */
export function serverMessage(type: string, data: unknown): string {
  return JSON.stringify({ MessageId: freshMessageId(), Data: data, MessageType: type });
}

/**
 * How often at most a client that said `SessionsStart` with "<first after ms>,<period ms>" wants the list, in
 * ms; undefined when it did not (BasePeriodicWebSocketListener.Start).
 */
export function sessionsPeriodMs(subscriptions: Subscriptions): number | undefined {
  const message = subscriptions.get("Sessions");
  if (message === undefined) return undefined;
  const said = /"Data"\s*:\s*"\s*\d{1,9}\s*,\s*(\d{1,9})\s*"/i.exec(message);
  return Number(said?.[1] ?? 0);
}

/** What a client sends to stay alive; the door sends it to a replica every 30 s. */
export const keepAliveRequest = '{"MessageType":"KeepAlive"}';

/**
 * True for a replica's messages that never reach a client: that it goes away is ours to hide, and its
 * keep-alives are between it and the door.
 */
export function isSwallowed(type: string | undefined): boolean {
  return (
    type === "ServerShuttingDown" ||
    type === "ServerRestarting" ||
    type === "ForceKeepAlive" ||
    type === "KeepAlive"
  );
}

/**
 * True for a client's message that the door answers itself and does not forward. Servers read a client's
 * type without regard to letter case (JsonStringEnumConverter).
 */
export function isClientKeepAlive(type: string | undefined): boolean {
  return type !== undefined && type.toLowerCase() === "keepalive";
}

/** What a client subscribed to: the message that began each subscription, by what it is about. Immutable. */
export type Subscriptions = ReadonlyMap<string, string>;

export const noSubscriptions: Subscriptions = new Map();

/** By the type, in lower case, that begins or ends a subscription: what it is about, and which of the two it is. */
const subscriptionTypes = new Map<string, { readonly topic: string; readonly begins: boolean }>(
  ["Sessions", "ScheduledTasksInfo", "ActivityLogEntry"].flatMap((topic) => [
    [`${topic}Start`.toLowerCase(), { topic, begins: true }] as const,
    [`${topic}Stop`.toLowerCase(), { topic, begins: false }] as const,
  ]),
);

/** The subscriptions after a client's message. The same value when the message is about none. */
export function remember(subscriptions: Subscriptions, message: string): Subscriptions {
  if (message.length > rememberedLengthMax) return subscriptions;
  const type = messageType(message);
  const about = type === undefined ? undefined : subscriptionTypes.get(type.toLowerCase());
  if (about === undefined) return subscriptions;
  if (!about.begins && !subscriptions.has(about.topic)) return subscriptions;
  const changed = new Map(subscriptions);
  changed.delete(about.topic);
  if (about.begins) changed.set(about.topic, message);
  return changed;
}

/** What to send to a newly dialled replica, in the order in which the subscriptions were begun. */
export function replay(subscriptions: Subscriptions): string[] {
  return [...subscriptions.values()];
}

/** A random id of 32 hex digits, as Jellyfin writes a Guid in a message. */
function freshMessageId(): string {
  return randomBytes(16).toString("hex");
}

const atStart = /^\s*\{\s*"MessageType"\s*:\s*"([A-Za-z]{1,64})"\s*[,}]/;

function typeAtStart(text: string): string | undefined {
  return atStart.exec(text)?.[1];
}

/** The longest end that `"MessageType":"…"}` with a name of 64 letters and some white space can have. */
const endLength = 96;

const atEnd = /,\s*"MessageType"\s*:\s*"([A-Za-z]{1,64})"\s*\}\s*$/;

/**
 * The type as the last name of the message. The same text could be the end of an object inside of `Data`,
 * but then a second brace would follow; inside of a string the quotes would be escaped.
 */
function typeAtEnd(text: string): string | undefined {
  const end = text.length > endLength ? text.slice(-endLength) : text;
  if (!text.trimStart().startsWith("{")) return undefined;
  return atEnd.exec(end)?.[1];
}

function typeByParsing(text: string): string | undefined {
  if (text.length > parsedLengthMax || !text.includes('"MessageType"')) return undefined;
  try {
    const message: unknown = JSON.parse(text);
    if (typeof message !== "object" || message === null) return undefined;
    const type: unknown = (message as { MessageType?: unknown }).MessageType;
    return typeof type === "string" ? type : undefined;
  } catch {
    // Text that is not JSON is no message: it is carried as it is.
    return undefined;
  }
}
