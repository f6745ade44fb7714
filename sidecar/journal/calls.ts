// What the handlers of documents, users, passwords and keys share: reading and writing at their own server, and what
// an answer of it means for the follower. A server that is away or busy, that fails, or that does not know our key is
// asked again; one that says no is not.

import { normalId } from "../../core/cluster/identity.ts";
import { type IntentRequest, journalBodyContext } from "../../core/cluster/journal.ts";
import { userAliasesOf } from "../../core/cluster/user-aliases.ts";
import type { CallFailure, PlainAnswer } from "../../core/jellyfin/client.ts";
import { objectOf, recordsIn } from "../../core/service/json.ts";
import { StoreUnavailable } from "../../core/store/store.ts";
import type { Applied, JournalHands } from "./handler.ts";

export type Answer = PlainAnswer | CallFailure;

/** What reading a document came to. */
export type Read =
  | { readonly outcome: "read"; readonly value: unknown }
  /** The server has no such thing. */
  | { readonly outcome: "unknown" }
  | { readonly outcome: "failed"; readonly applied: Applied };

export async function readJson(hands: Pick<JournalHands, "client">, path: string): Promise<Read> {
  const answer = await hands.client.callWithKey("GET", path);
  if (answer.outcome === "answered" && (answer.status === 404 || answer.status === 400)) {
    return { outcome: "unknown" };
  }
  if (answer.outcome !== "answered" || answer.status !== 200) {
    return { outcome: "failed", applied: appliedOf(answer, "a question") };
  }
  try {
    return { outcome: "read", value: JSON.parse(answer.text) };
  } catch {
    // A body that is no JSON is no document; whoever sent it is no Jellyfin, or ended in mid-sentence.
    return { outcome: "failed", applied: again("the server's answer cannot be read") };
  }
}

export async function writeJson(
  hands: Pick<JournalHands, "client">,
  method: "POST" | "DELETE",
  path: string,
  body: unknown,
  what: string,
): Promise<Applied> {
  const answer = await hands.client.callWithKey(method, path, body);
  if (answer.outcome !== "answered" || answer.status !== 500) return appliedOf(answer, what);
  // Two writers of one row at one time are a 500, too (the rows have a version); a second 500 has another cause.
  await new Promise((resolve) => setTimeout(resolve, secondTryMs));
  return appliedOf(await hands.client.callWithKey(method, path, body), what);
}

const secondTryMs = 250;

/** What a write's answer means. `what` names it in a sentence: no secrets. */
export function appliedOf(answer: Answer, what: string): Applied {
  if (answer.outcome === "failed") {
    return answer.failure === "tooLarge" || answer.failure === "notUnderstood"
      ? refused(`${what}: ${answer.message}`)
      : again(answer.message);
  }
  const { status } = answer;
  if (status >= 200 && status < 300) return done;
  const why = `it answers ${status}`;
  if (isBusy(status)) return again(why);
  if (isFault(status)) return { outcome: "again", why, isAnswer: true };
  return refused(`${what} was answered ${status}`);
}

/** It may be that nobody behind a proxy has heard of it. */
function isBusy(status: number): boolean {
  return status === 408 || status === 429 || (status >= 502 && status <= 504);
}

/**
 * It says nothing about the request. 401: the key or token is not known there now; what a user may not do is a 403. 500:
 * whatever went wrong (Jellyfin's ExceptionMiddleware): a locked database, a full disk, two first questions at one time
 * where the answer makes a row (seen at /DisplayPreferences), or something that goes wrong each time.
 */
function isFault(status: number): boolean {
  return status === 401 || status >= 500;
}

export const done: Applied = { outcome: "done" };
export const skipped: Applied = { outcome: "skipped" };

export function again(why: string): Applied {
  return { outcome: "again", why };
}

export function refused(why: string): Applied {
  return { outcome: "refused", why };
}

/** Why something could not be done, in words. */
export function whyOf(applied: Applied): string {
  return "why" in applied ? applied.why : "the server cannot be asked";
}

/** What this server calls a user. */
export function idHere(
  { memory, seal, replica }: Pick<JournalHands, "memory" | "seal" | "replica">,
  userId: string,
): string {
  return userAliasesOf(memory, seal).idAt(replica, userId);
}

/** What another replica calls a user. */
export function idAt({ memory, seal }: JournalHands, replica: string, userId: string): string {
  return userAliasesOf(memory, seal).idAt(replica, userId);
}

/** A user of this server as it tells of them. */
export interface UserHere {
  /** As this server knows it. */
  readonly id: string;
  readonly name: string;
  readonly policy: Readonly<Record<string, unknown>>;
  readonly configuration: Readonly<Record<string, unknown>>;
}

export type UsersRead =
  | { readonly outcome: "read"; readonly users: readonly UserHere[] }
  | { readonly outcome: "failed"; readonly applied: Applied };

/** GET /Users: the only way to find a user by name. */
export async function readUsers(hands: Pick<JournalHands, "client">): Promise<UsersRead> {
  const read = await readJson(hands, "/Users");
  if (read.outcome === "unknown") return { outcome: "failed", applied: again("it lists no users") };
  if (read.outcome === "failed") return read;
  const list = Array.isArray(read.value) ? read.value : [];
  return { outcome: "read", users: list.flatMap((dto) => userHere(dto) ?? []) };
}

export function userHere(dto: unknown): UserHere | undefined {
  const fields = objectOf(dto);
  const id = fields?.Id;
  const name = fields?.Name;
  if (typeof id !== "string" || typeof name !== "string") return undefined;
  return {
    id: normalId(id),
    name,
    policy: objectOf(fields?.Policy) ?? {},
    configuration: objectOf(fields?.Configuration) ?? {},
  };
}

/** The user of an effect at this server, by id; undefined: it has none of that id. */
export function byId(users: readonly UserHere[], id: string): UserHere | undefined {
  return users.find((user) => user.id === id);
}

/** A plugin as GET /Plugins tells of it; one that was updated is there in several versions until a restart. */
export interface PluginHere {
  /** Plain. */
  readonly id: string;
  readonly name: string;
  readonly version: string;
  /** PluginStatus, such as `Active`, `Restart` or `Deleted`. */
  readonly status: string;
}

export type PluginsRead =
  | { readonly outcome: "read"; readonly plugins: readonly PluginHere[] }
  | { readonly outcome: "failed"; readonly applied: Applied };

export async function readPlugins(hands: Pick<JournalHands, "client">): Promise<PluginsRead> {
  const read = await readJson(hands, "/Plugins");
  if (read.outcome === "unknown")
    return { outcome: "failed", applied: again("it lists no plugins") };
  if (read.outcome === "failed") return read;
  return {
    outcome: "read",
    plugins: recordsIn(read.value).flatMap((dto) => pluginHere(dto) ?? []),
  };
}

function pluginHere({
  Id,
  Name,
  Version,
  Status,
}: Readonly<Record<string, unknown>>): PluginHere | undefined {
  if (typeof Id !== "string" || typeof Version !== "string") return undefined;
  const [name, status] = [Name, Status].map((text) => (typeof text === "string" ? text : ""));
  return { id: normalId(Id), name: name ?? "", version: Version, status: status ?? "" };
}

/** Names are compared as UserManager does: without regard to letter case. */
export function byName(users: readonly UserHere[], name: string): UserHere | undefined {
  const wanted = name.toUpperCase();
  return users.find((user) => user.name.toUpperCase() === wanted);
}

/** The body of an intent's request as text; undefined: it was left out, or is not ours to open. */
export function bodyOf(request: IntentRequest, { seal }: JournalHands): string | undefined {
  if (request.bodyTooBig === true) return undefined;
  if (request.isSealed !== true) return request.body;
  return seal.open(request.body, journalBodyContext);
}

/** A deed in the store; undefined when it is done, else what the follower is told. */
export async function inStore(
  { memory }: Pick<JournalHands, "memory">,
  deed: () => Promise<void>,
): Promise<Applied | undefined> {
  try {
    await deed();
    return undefined;
  } catch (error) {
    if (error instanceof RangeError) return refused(error.message);
    if (!(error instanceof StoreUnavailable)) throw error;
    memory.noteStoreFailure(error);
    return again("the store cannot be reached");
  }
}
