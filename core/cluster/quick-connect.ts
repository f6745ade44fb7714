// A QuickConnect request as the cluster remembers it. Jellyfin keeps requests in the memory of one server
// (QuickConnectManager: two dictionaries, no row anywhere), so a code on a television dies with its server.
// What is written down here is enough to make the request again on another server, and to tell that the
// secret and code which the television and the person hold mean that new one. Pure: values in, values out.
//
// Secret and code lie in the store only sealed; the note is found by the secret's SHA-256, and by a MAC of
// the code, because six digits have no hash that hides them. Who agreed is sealed, too: whoever can write the
// store must not let a device in as somebody who never agreed to it.

import { objectOf, parsedObject } from "../service/json.ts";
import type { Seal } from "../service/seal.ts";

/** What a television says of itself when it asks for a code; its token will be for this device. */
export interface QuickConnectDevice {
  readonly client: string;
  readonly device: string;
  readonly deviceId: string;
  readonly version: string;
}

/** A secret and its code. */
export interface QuickConnectPair {
  readonly secret: string;
  readonly code: string;
}

/** Who let the device in, and as whom. */
export interface QuickConnectConsent {
  readonly atMs: number;
  readonly userId: string;
  /** The identity whose request passed the door: only its own rights make the consent again. */
  readonly identityKey: string;
}

export interface QuickConnectRequest {
  readonly device: QuickConnectDevice;
  /** A MAC of the code that people see. */
  readonly codeMac: string;
  /** The code that people see, sealed. */
  readonly code: string;
  /** What its replica knows it by, a sealed pair; undefined while that is what the client knows. */
  readonly own: string | undefined;
  /** When it was asked for, in ms since the epoch. */
  readonly addedAtMs: number;
  /** Undefined while nobody has agreed. */
  readonly consent: SealedConsent | undefined;
}

/** A consent as it lies in the store. */
export interface SealedConsent {
  readonly atMs: number;
  readonly sealed: string;
}

/** A request lives so long until somebody agrees (QuickConnectManager.Timeout). */
export const pendingLifeMs = 10 * 60_000;
/** A consent can be made use of for so long. */
export const consentLifeMs = 10 * 60_000;
/** At the consent the request's age begins anew a minute ahead, so that it is polled so long. */
export const agreedLifeMs = 11 * 60_000;

/** Longer texts than these no device has; a server would refuse them or nobody could show them. */
const textLengthMax = 1024;
const sealedLengthMax = 4096;

/** When the request is as if it had never been, in ms since the epoch. */
export function endsAtMs({ addedAtMs, consent }: QuickConnectRequest): number {
  return consent === undefined ? addedAtMs + pendingLifeMs : consent.atMs + agreedLifeMs;
}

/** Whether its consent still lets the device in. */
export function isAgreed({ consent }: QuickConnectRequest, nowMs: number): boolean {
  return consent !== undefined && nowMs < consent.atMs + consentLifeMs;
}

export function codeMacOf(seal: Seal, code: string): string {
  return seal.mac("quickConnect code", code);
}

export function sealConsent(seal: Seal, id: string, consent: QuickConnectConsent): SealedConsent {
  const sealed = seal.seal(JSON.stringify(consent), sealContextOf(id, "consent"));
  return { atMs: consent.atMs, sealed };
}

/** Who agreed; undefined when nobody did, or this cluster did not write it down for this request. */
export function openConsent(
  seal: Seal,
  id: string,
  { consent }: QuickConnectRequest,
): QuickConnectConsent | undefined {
  if (consent === undefined) return undefined;
  const fields = parsedObject(seal.open(consent.sealed, sealContextOf(id, "consent")) ?? "");
  const userId = textIn(fields, "userId");
  const identityKey = textIn(fields, "identityKey");
  if (userId === undefined || identityKey === undefined || fields?.atMs !== consent.atMs) {
    return undefined;
  }
  return { atMs: consent.atMs, userId, identityKey };
}

/** `id` is the SHA-256 of the secret the client has; what is sealed for one request opens for no other. */
export function sealText(seal: Seal, id: string, what: "code" | "own", text: string): string {
  return seal.seal(text, sealContextOf(id, what));
}

/** The code that people see; undefined when it was not sealed by this cluster for this request. */
export function openCode(seal: Seal, id: string, request: QuickConnectRequest): string | undefined {
  return seal.open(request.code, sealContextOf(id, "code"));
}

/** What the replica knows the request by; undefined: what the client says. */
export function openOwn(
  seal: Seal,
  id: string,
  { own }: QuickConnectRequest,
): QuickConnectPair | undefined {
  if (own === undefined) return undefined;
  const pair = parsedObject(seal.open(own, sealContextOf(id, "own")) ?? "");
  const secret = textIn(pair, "secret");
  const code = textIn(pair, "code");
  return secret === undefined || code === undefined ? undefined : { secret, code };
}

function sealContextOf(id: string, what: string): string {
  return `quickConnect ${what}\n${id}`;
}

/** The note's value. */
export function quickConnectText(request: QuickConnectRequest): string {
  return JSON.stringify(request);
}

/** Reads a note's value. Undefined when it is none: whoever can write the store must not mislead a door. */
export function readQuickConnect(value: string): QuickConnectRequest | undefined {
  const fields = parsedObject(value);
  if (fields === undefined) return undefined;
  const device = deviceIn(fields.device);
  const codeMac = textIn(fields, "codeMac");
  const code = textIn(fields, "code", sealedLengthMax);
  const { addedAtMs } = fields;
  if (device === undefined || codeMac === undefined || code === undefined) return undefined;
  if (typeof addedAtMs !== "number" || !Number.isFinite(addedAtMs)) return undefined;
  const consent = consentIn(fields.consent);
  if (consent === "wrong") return undefined;
  return { device, codeMac, code, own: textIn(fields, "own", sealedLengthMax), addedAtMs, consent };
}

function deviceIn(value: unknown): QuickConnectDevice | undefined {
  const fields = objectOf(value);
  const client = textIn(fields, "client");
  const device = textIn(fields, "device");
  const deviceId = textIn(fields, "deviceId");
  const version = textIn(fields, "version");
  if (client === undefined || device === undefined) return undefined;
  if (deviceId === undefined || version === undefined) return undefined;
  return { client, device, deviceId, version };
}

function consentIn(value: unknown): SealedConsent | undefined | "wrong" {
  if (value === undefined) return undefined;
  const fields = objectOf(value);
  const sealed = textIn(fields, "sealed", sealedLengthMax);
  const atMs = fields?.atMs;
  if (sealed === undefined || typeof atMs !== "number" || !Number.isFinite(atMs)) return "wrong";
  return { atMs, sealed };
}

/** What a server says of a request (QuickConnectResult), in PascalCase or the CamelCase profile. */
export interface QuickConnectAnswer {
  readonly pair: QuickConnectPair;
  readonly device: QuickConnectDevice | undefined;
}

/** Reads the answer of Initiate or Connect; undefined when it is none. */
export function readQuickConnectAnswer(text: string): QuickConnectAnswer | undefined {
  const fields = parsedObject(text);
  const secret = answerText(fields, "Secret");
  const code = answerText(fields, "Code");
  if (secret === undefined || code === undefined) return undefined;
  const device = deviceIn({
    client: answerText(fields, "AppName"),
    device: answerText(fields, "DeviceName"),
    deviceId: answerText(fields, "DeviceId"),
    version: answerText(fields, "AppVersion"),
  });
  return { pair: { secret, code }, device };
}

/** The same answer with the secret and code that the client knows. The same text when it is none. */
export function withPair(text: string, { secret, code }: QuickConnectPair): string {
  const fields = parsedObject(text);
  if (fields === undefined) return text;
  const shown: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(fields)) {
    const lower = name.toLowerCase();
    shown[name] = lower === "secret" ? secret : lower === "code" ? code : value;
  }
  return JSON.stringify(shown);
}

function answerText(fields: Record<string, unknown> | undefined, name: string): string | undefined {
  return textIn(fields, name) ?? textIn(fields, name.charAt(0).toLowerCase() + name.slice(1));
}

function textIn(
  fields: Record<string, unknown> | undefined,
  name: string,
  lengthMax = textLengthMax,
): string | undefined {
  const value = fields?.[name];
  return typeof value === "string" && value !== "" && value.length <= lengthMax ? value : undefined;
}
