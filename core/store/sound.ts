// What lies in Redis was written by this program, or by whoever else can write there: another version, a
// person with a client, an intruder. So every value is looked at before it is believed. One that is not what
// it should be is as if it were not there; it can mislead nobody and stops nothing. Whether a value tells the
// truth is another question, which seals and proofs answer.
//
// Pure functions from unknown to a value or undefined. Lengths are not judged here: Redis was asked for them.

import type { Identity, IdentityToken } from "../cluster/identity.ts";
import { isCount, objectOf, parsedJson } from "../service/json.ts";
import {
  type Change,
  type Epoch,
  type Home,
  type Lease,
  type Member,
  type Note,
  type NoteKind,
  noteKinds,
  type Pin,
  type PinKind,
  type ProxySight,
  pinKinds,
  type Revocation,
} from "./store.ts";

type Fields = Readonly<Record<string, unknown>>;

/** A JSON text as an object, or undefined when it is no JSON or no object. */
export function fieldsFrom(text: string): Fields | undefined {
  return asFields(parsedJson(text));
}

const identityTexts = [
  "key",
  "userId",
  "userName",
  "deviceId",
  "client",
  "device",
  "version",
  "origin",
  "formerHashes",
] as const;

/** An identity as it is kept: its former hashes are one text, divided by spaces. */
export function soundIdentity(value: unknown): Identity | undefined {
  const fields = asFields(value);
  const texts = textsOf(fields, identityTexts);
  const tokens = soundTokens(fields?.tokens);
  if (fields === undefined || texts === undefined || tokens === undefined) return undefined;
  const { kind, generation, startedAtMs } = fields;
  if (kind !== "user" && kind !== "apiKey") return undefined;
  if (!isCount(generation) || !isTime(startedAtMs)) return undefined;
  const formerHashes = texts.formerHashes.split(" ").filter((hash) => hash !== "");
  return { ...texts, kind, generation, startedAtMs, tokens, formerHashes };
}

export function soundHome(value: unknown): Home | undefined {
  const fields = asFields(value);
  const epoch = soundEpoch(fields?.epoch);
  if (fields === undefined || epoch === undefined) return undefined;
  const { userId, replica, movedAtMs } = fields;
  if (!isText(userId) || !isText(replica) || !isTime(movedAtMs)) return undefined;
  return { userId, replica, epoch, movedAtMs };
}

export function soundPin(value: unknown): Pin | undefined {
  const fields = asFields(value);
  const epoch = soundEpoch(fields?.epoch);
  if (fields === undefined || epoch === undefined) return undefined;
  const { kind, id, replica, expiresAtMs } = fields;
  if (!isPinKind(kind) || !isText(id) || !isText(replica) || !isTime(expiresAtMs)) return undefined;
  return { kind, id, replica, epoch, expiresAtMs };
}

export function soundNote(value: unknown): Note | undefined {
  const fields = asFields(value);
  if (fields === undefined) return undefined;
  const { kind, id, replica, value: said, expiresAtMs } = fields;
  if (!isNoteKind(kind) || !isText(id) || !isText(replica)) return undefined;
  if (!isText(said) || !isTime(expiresAtMs)) return undefined;
  return { kind, id, replica, value: said, expiresAtMs };
}

/** Without the lock's value, where it is kept with one: whoever knew it could release another's lock. */
export function soundLease(value: unknown): Lease | undefined {
  const fields = asFields(value);
  const epoch = soundEpoch(fields?.epoch);
  if (fields === undefined || epoch === undefined) return undefined;
  const { replica, gateUrl } = fields;
  return isText(replica) && isText(gateUrl) ? { epoch, replica, gateUrl } : undefined;
}

/** A revocation as it is kept: the replicas it waits for are an object of name to true. */
export function soundRevocation(
  value: unknown,
): { readonly revocation: Revocation; readonly expiresAtMs: number } | undefined {
  const fields = asFields(value);
  const tokens = soundTokens(fields?.tokens);
  const waiting = asFields(fields?.pending);
  if (fields === undefined || tokens === undefined || waiting === undefined) return undefined;
  const { id, identityKey, generation, userId, deviceId, expiresAtMs } = fields;
  if (!isText(id) || !isText(identityKey) || !isText(userId) || !isText(deviceId)) return undefined;
  if (!isCount(generation) || !isTime(expiresAtMs)) return undefined;
  const pending = Object.keys(waiting).sort();
  return {
    revocation: { id, identityKey, generation, userId, deviceId, tokens, pending },
    expiresAtMs,
  };
}

/** A change as it lies in the feed. */
export function soundChange(value: unknown): Change | undefined {
  const fields = asFields(value);
  switch (fields?.type) {
    case "identity": {
      const identity = soundIdentity(fields.identity);
      return identity && { type: "identity", identity };
    }
    case "revoked": {
      const { identityKey, hashes } = fields;
      if (!isText(identityKey) || !Array.isArray(hashes) || !hashes.every(isText)) return undefined;
      return { type: "revoked", identityKey, hashes };
    }
    case "revocation": {
      const sound = soundRevocation(fields.revocation);
      return sound && { type: "revocation", revocation: sound.revocation };
    }
    case "home": {
      const home = soundHome(fields.home);
      return home && { type: "home", home };
    }
    case "pin": {
      const pin = soundPin(fields.pin);
      return pin && { type: "pin", pin };
    }
    case "note": {
      const note = soundNote(fields.note);
      return note && { type: "note", note };
    }
    case "lease": {
      const lease = soundLease(fields.lease);
      return lease && { type: "lease", lease };
    }
    default:
      return undefined;
  }
}

/** The changes of one entry of the feed that are sound, or undefined when it is no list of changes. */
export function changesFrom(text: string): Change[] | undefined {
  const list = parsedJson(text);
  return Array.isArray(list) ? list.flatMap((one) => soundChange(one) ?? []) : undefined;
}

const memberTexts = [
  "replica",
  "url",
  "sidecarUrl",
  "serverId",
  "serverVersion",
  "bootNonce",
  "proof",
] as const;

export function soundMember(value: unknown): Member | undefined {
  const fields = asFields(value);
  const texts = textsOf(fields, memberTexts);
  if (fields === undefined || texts === undefined || !isTime(fields.atMs)) return undefined;
  return { ...texts, atMs: fields.atMs };
}

export function soundSight(value: unknown): ProxySight | undefined {
  const fields = asFields(value);
  const seen = asFields(fields?.reachable);
  if (fields === undefined || seen === undefined) return undefined;
  const { proxy, atMs } = fields;
  if (!isText(proxy) || !isTime(atMs)) return undefined;
  const reachable = Object.fromEntries(
    Object.entries(seen).filter(
      (entry): entry is [string, boolean] => typeof entry[1] === "boolean",
    ),
  );
  return { proxy, reachable, atMs };
}

function soundEpoch(value: unknown): Epoch | undefined {
  const fields = asFields(value);
  if (fields === undefined) return undefined;
  const { number, owner } = fields;
  return isCount(number) && isText(owner) ? { number, owner } : undefined;
}

function soundTokens(value: unknown): Record<string, IdentityToken> | undefined {
  const fields = asFields(value);
  if (fields === undefined) return undefined;
  const tokens: [string, IdentityToken][] = [];
  for (const [replica, one] of Object.entries(fields)) {
    const token = asFields(one);
    if (token === undefined || !isText(token.hash) || !isText(token.sealed)) return undefined;
    tokens.push([replica, { hash: token.hash, sealed: token.sealed }]);
  }
  return Object.fromEntries(tokens);
}

function asFields(value: unknown): Fields | undefined {
  // An empty list is how cjson, in Redis, writes an empty object.
  if (Array.isArray(value)) return value.length === 0 ? {} : undefined;
  return objectOf(value);
}

function isText(value: unknown): value is string {
  return typeof value === "string";
}

/** The named fields, when all of them are texts. */
function textsOf<Name extends string>(
  fields: Fields | undefined,
  names: readonly Name[],
): Record<Name, string> | undefined {
  const texts: Partial<Record<Name, string>> = {};
  for (const name of names) {
    const value = fields?.[name];
    if (!isText(value)) return undefined;
    texts[name] = value;
  }
  return texts as Record<Name, string>;
}

function isTime(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

function isNoteKind(value: unknown): value is NoteKind {
  return noteKinds.some((kind) => kind === value);
}

function isPinKind(value: unknown): value is PinKind {
  return pinKinds.some((kind) => kind === value);
}
