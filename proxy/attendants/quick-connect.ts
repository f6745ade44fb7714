// QuickConnect over a cluster: a code that a television shows lives in one server's memory, and whoever
// polls it, agrees to it or ends it may come in at any door while that server dies. Each request that passes
// is written down; when a replica answers that it does not know what the cluster knows, the request is made
// again there, with the device's own words, and from then on the secret and the code which the television
// and the person hold mean the new ones.
//
// It promises: nobody is let in whom nobody agreed to. A consent that died with its server is given again
// only for the user it was given for, with the token of the very login that gave it (or the key of the API
// client that did), never in somebody else's name. Without the store it works for this process.

import { hashOf } from "../../core/cluster/identity.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import {
  codeMacOf,
  endsAtMs,
  isAgreed,
  openCode,
  openConsent,
  openOwn,
  type QuickConnectPair,
  type QuickConnectRequest,
  quickConnectText,
  readQuickConnect,
  readQuickConnectAnswer,
  sealConsent,
  sealText,
  withPair,
} from "../../core/cluster/quick-connect.ts";
import { userAliasesOf } from "../../core/cluster/user-aliases.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { bodyValue, withQueryValue } from "../../core/jellyfin/playback.ts";
import type { Clock } from "../../core/service/clock.ts";
import type { Log } from "../../core/service/log.ts";
import type { Seal } from "../../core/service/seal.ts";
import type { Note, Store } from "../../core/store/store.ts";
import type { Attendant, Attended } from "../attendant.ts";
import { Bounded } from "../bounded.ts";
import { withBody } from "../reply.ts";
import { nextCall } from "./leader.ts";

export interface QuickConnectParts {
  readonly store: Store;
  readonly memory: Memory;
  readonly seal: Seal;
  readonly log: Log;
  readonly clock: Clock;
  /** This process, in every epoch it is granted. */
  readonly owner: string;
  readonly clientOf: (replica: string) => JellyfinClient | undefined;
  readonly isReady: (replica: string) => boolean;
  /** A login's token is wanted at that replica. */
  readonly urgent: (replica: string, identityKey: string) => void;
  /** The cluster's own API key there, where this process has it. */
  readonly apiKeyOf: (replica: string) => string | undefined;
  /** Told of each request that was made again. */
  readonly onRemade: () => void;
}

/** A request that the cluster knows. */
interface Known {
  readonly id: string;
  readonly note: Note;
  readonly request: QuickConnectRequest;
}

/** A remaking that another door has begun is waited for this long. */
const othersLimitMs = 1500;
/** The token of the login that agreed is waited for this long when it is on its way. */
const tokenLimitMs = 1500;
/** One client's request is not sent again more often than this because of what a replica had forgotten. */
const againLimit = 4;
const untoldLimit = 1000;

export function createQuickConnect(parts: QuickConnectParts): Attendant {
  const { store, memory, seal, log, clock, owner } = parts;
  const read = new WeakMap<Note, QuickConnectRequest | "nothing">();
  const remakings = new Map<string, Promise<boolean>>();
  const agains = new WeakMap<Attended, number>();
  /** Ids of requests that the store could not be told of. */
  const untold = new Bounded<string, true>(untoldLimit);
  memory.onStoreAvailable((available) => {
    if (available) void tellStore();
  });

  return {
    name: "QuickConnect",
    attends: ({ kind }) =>
      kind === "quickConnectInitiate" ||
      kind === "quickConnectState" ||
      kind === "quickConnectAuthorize" ||
      kind === "quickConnectLogin",

    bound(asked) {
      const known = knownFor(asked);
      return known === undefined
        ? undefined
        : { replica: known.note.replica, kind: "QuickConnect request" };
    },

    rewrite(asked, replica) {
      const known = knownFor(asked);
      if (known === undefined || known.note.replica !== replica) return undefined;
      const own = openOwn(seal, known.id, known.request);
      if (own === undefined) return undefined;
      const { facts } = asked;
      switch (facts.route.kind) {
        case "quickConnectState":
          return { rawQuery: withQueryValue(facts.rawQuery, "secret", own.secret) };
        case "quickConnectAuthorize":
          return { rawQuery: withQueryValue(facts.rawQuery, "code", own.code) };
        case "quickConnectLogin":
          return { body: Buffer.from(JSON.stringify({ Secret: own.secret })) };
        default:
          return undefined;
      }
    },

    async after(asked, reply, replica) {
      if (reply.head.status !== 200) return reply;
      const { kind } = asked.facts.route;
      if (kind === "quickConnectAuthorize") {
        await noteConsent(asked);
        return reply;
      }
      if (kind !== "quickConnectInitiate" && kind !== "quickConnectState") return reply;
      const text = reply.body.toString("utf8");
      const known = kind === "quickConnectState" ? knownFor(asked) : undefined;
      if (known === undefined) {
        await noteRequest(asked, text, replica);
        return reply;
      }
      const { secret } = asked.facts.query;
      const code = openCode(seal, known.id, known.request);
      if (known.request.own === undefined || secret === undefined || code === undefined) {
        return reply;
      }
      return withBody(reply, withPair(text, { secret, code }));
    },

    async refused(asked, reply, replica) {
      const { kind } = asked.facts.route;
      const { status } = reply.head;
      // That somebody has agreed already is the cluster's own word, whichever replica says it.
      if (kind === "quickConnectAuthorize" && status === 500) return "show";
      if (status !== 404) return undefined;
      const known = knownFor(asked);
      if (known === undefined) return undefined;
      const times = (agains.get(asked) ?? 0) + 1;
      agains.set(asked, times);
      if (times > againLimit) return undefined;
      const lives = known.note.replica;
      if (lives !== replica && !asked.tried.has(lives) && parts.isReady(lives)) return "again";
      return (await remade(known, replica)) ? "again" : undefined;
    },
  };

  // ---- What is known ------------------------------------------------------------------------------

  function knownFor({ facts, bodyText }: Attended): Known | undefined {
    const { route, query } = facts;
    switch (route.kind) {
      case "quickConnectState":
        return query.secret === undefined ? undefined : knownById(hashOf(query.secret));
      case "quickConnectLogin": {
        const secret = bodyText === undefined ? undefined : bodyValue(bodyText, "Secret");
        return typeof secret === "string" ? knownById(hashOf(secret)) : undefined;
      }
      case "quickConnectAuthorize":
        return query.code === undefined ? undefined : knownByCode(query.code);
      default:
        return undefined;
    }
  }

  function knownById(id: string): Known | undefined {
    const note = memory.note("quickConnect", id);
    const request = note === undefined ? undefined : requestOf(note);
    if (note === undefined || request === undefined) return undefined;
    return endsAtMs(request) > memory.storeNowMs() ? { id, note, request } : undefined;
  }

  /** Of two requests with one code the newer counts, as it does within one server. */
  function knownByCode(code: string): Known | undefined {
    const mac = codeMacOf(seal, code);
    let newest: Known | undefined;
    for (const [id, note] of memory.notes("quickConnect")) {
      const request = requestOf(note);
      if (request === undefined || request.codeMac !== mac) continue;
      if (endsAtMs(request) <= memory.storeNowMs()) continue;
      if (newest === undefined || request.addedAtMs > newest.request.addedAtMs) {
        newest = { id, note, request };
      }
    }
    return newest;
  }

  function requestOf(note: Note): QuickConnectRequest | undefined {
    let request = read.get(note);
    if (request === undefined) {
      request = readQuickConnect(note.value) ?? "nothing";
      read.set(note, request);
      if (request === "nothing" && note.value !== "") {
        log.warn("a QuickConnect request in the store is not one of ours and is left alone");
      }
    }
    return request === "nothing" ? undefined : request;
  }

  // ---- What is written down -----------------------------------------------------------------------

  async function noteRequest(asked: Attended, text: string, replica: string): Promise<void> {
    const answer = readQuickConnectAnswer(text);
    if (answer === undefined) return;
    const { client, device, deviceId, version } = asked.facts.credentials;
    const said =
      client === undefined || device === undefined || deviceId === undefined
        ? undefined
        : { client, device, deviceId, version: version ?? "1" };
    const whose = answer.device ?? said;
    if (whose === undefined) return;
    const { secret, code } = answer.pair;
    const id = hashOf(secret);
    await write(id, replica, {
      device: whose,
      codeMac: codeMacOf(seal, code),
      code: sealText(seal, id, "code", code),
      own: undefined,
      addedAtMs: memory.storeNowMs(),
      consent: undefined,
    });
  }

  /** Somebody agreed: who, and as whom, is what makes it possible to agree again. */
  async function noteConsent(asked: Attended): Promise<void> {
    const known = knownFor(asked);
    const { identity } = asked;
    if (known === undefined || identity === undefined) return;
    const userId = asked.facts.query.userId ?? identity.userId;
    const given = { atMs: memory.storeNowMs(), userId, identityKey: identity.key };
    const consent = sealConsent(seal, known.id, given);
    await write(known.id, known.note.replica, { ...known.request, consent });
  }

  async function write(id: string, replica: string, request: QuickConnectRequest): Promise<void> {
    const value = quickConnectText(request);
    const ttlMs = endsAtMs(request) - memory.storeNowMs();
    if (ttlMs <= 0) return;
    const note = { kind: "quickConnect", id, replica, value } as const;
    const expiresAtMs = memory.storeNowMs() + ttlMs;
    untold.set(id, true);
    try {
      if (memory.storeAvailable) {
        await store.putNote(note, ttlMs);
        untold.delete(id);
      }
    } catch (error) {
      if (error instanceof RangeError) {
        log.warn("too many QuickConnect requests are open: this one lives only where it was made");
        untold.delete(id);
      } else memory.noteStoreFailure(error);
    }
    memory.apply({ type: "note", note: { ...note, expiresAtMs } });
  }

  /** The store is back: it hears what this door did without it. */
  async function tellStore(): Promise<void> {
    for (const id of untold.keys()) {
      const known = knownById(id);
      if (known === undefined) untold.delete(id);
      else await write(id, known.note.replica, known.request);
    }
  }

  // ---- What is made again -------------------------------------------------------------------------

  function remade(known: Known, replica: string): Promise<boolean> {
    const running = remakings.get(known.id);
    if (running !== undefined) return running;
    const remaking = remake(known, replica).finally(() => remakings.delete(known.id));
    remakings.set(known.id, remaking);
    return remaking;
  }

  /**
   * Makes the request at `replica`: claimed first, so that of several doors one does it; then asked for;
   * then agreed to, if somebody had; and only then written down. Dying in between leaves a request there
   * that nobody knows and that ends by itself, and the next to ask makes another.
   */
  async function remake({ id, note, request }: Known, replica: string): Promise<boolean> {
    const client = parts.clientOf(replica);
    if (client === undefined) return false;
    if (!(await isClaimed(id, replica, endsAtMs(request) - memory.storeNowMs()))) {
      await noteChanged(id, note, othersLimitMs);
      return true;
    }
    const made = await client.quickConnectInitiate(request.device);
    if (made.outcome !== "ok") return false;
    const pair: QuickConnectPair = { secret: made.secret, code: made.code };
    const isConsented =
      isAgreed(request, memory.storeNowMs()) &&
      (await consentAgain(client, { id, request, replica }, pair));
    await write(id, replica, {
      ...request,
      own: sealText(seal, id, "own", JSON.stringify(pair)),
      consent: isConsented ? request.consent : undefined,
    });
    parts.onRemade();
    log.info(
      `a QuickConnect request that ${note.replica} has forgotten was made again at ${replica}`,
    );
    return true;
  }

  async function isClaimed(id: string, replica: string, ttlMs: number): Promise<boolean> {
    if (!memory.storeAvailable) return true;
    const kind = "quickConnectSecret";
    const expectedEpoch = memory.pinOf(kind, id, memory.storeNowMs())?.epoch.number ?? 0;
    try {
      const { granted, pin } = await store.movePin({
        kind,
        id,
        replica,
        owner,
        ttlMs: Math.max(ttlMs, 1000),
        expectedEpoch,
      });
      memory.apply({ type: "pin", pin });
      return granted;
    } catch (error) {
      memory.noteStoreFailure(error);
      return true;
    }
  }

  async function consentAgain(
    client: JellyfinClient,
    about: { readonly id: string; readonly request: QuickConnectRequest; readonly replica: string },
    { code }: QuickConnectPair,
  ): Promise<boolean> {
    const { id, request, replica } = about;
    const consent = openConsent(seal, id, request);
    if (consent === undefined) return false;
    const token = await consentToken(consent.identityKey, replica);
    if (token === undefined) {
      log.warn(
        `nobody who may do so can agree again at ${replica}: the device has to be let in anew`,
      );
      return false;
    }
    const userId = userAliasesOf(memory, seal).idAt(replica, consent.userId);
    const answer = await client.quickConnectAuthorize(code, userId, token);
    if (answer.outcome === "ok") return true;
    log.warn(`${replica} did not take a QuickConnect consent again: ${answer.outcome}`);
    return false;
  }

  /** The token at `replica` of the login that agreed, waited for while it is on its way. */
  async function consentToken(identityKey: string, replica: string): Promise<string | undefined> {
    const deadlineMs = clock.monotonicMs() + tokenLimitMs;
    for (;;) {
      const identity = memory.identities.get(identityKey);
      if (identity === undefined || Object.keys(identity.tokens).length === 0) return undefined;
      const token = memory.openToken(identity, replica);
      if (token !== undefined) return token;
      if (identity.kind === "apiKey") return parts.apiKeyOf(replica);
      parts.urgent(replica, identityKey);
      const leftMs = deadlineMs - clock.monotonicMs();
      if (leftMs <= 0) return undefined;
      await nextCall((listener) => memory.onIdentity(listener), Math.min(leftMs, 250));
    }
  }

  function noteChanged(id: string, before: Note, limitMs: number): Promise<void> {
    if (memory.note("quickConnect", id)?.value !== before.value) return Promise.resolve();
    return nextCall((listener) => memory.onNote((note) => note.id === id && listener()), limitMs);
  }
}
