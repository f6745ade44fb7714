// Sessions of the whole cluster, and commands for the devices in them. GET /Sessions is answered by the
// caller's home as on one server, and what the other servers have is put to it from memory; a command goes to
// the server that has the device's socket, and waits, within the request's own time, while that moves.
//
// It promises: no request to a second server for a list (a user's rights are read once in a while), each
// device once, nothing a single server would not show, and nothing of a note that is not one in shape.

import { setTimeout as sleep } from "node:timers/promises";
import { sessionAsked } from "../../core/cluster/capabilities.ts";
import { type Identity, normalId } from "../../core/cluster/identity.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import {
  listFor,
  type Onlooker,
  readSession,
  readSessionNote,
  type SeenSession,
  type SessionsQuestion,
  targetOf,
  type UnionFacts,
} from "../../core/cluster/sessions.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { queryValue } from "../../core/jellyfin/playback.ts";
import type { Clock } from "../../core/service/clock.ts";
import { objectOf, parsedObject } from "../../core/service/json.ts";
import type { Log } from "../../core/service/log.ts";
import type { Note } from "../../core/store/store.ts";
import type { Attendant, Attended } from "../attendant.ts";
import { Bounded } from "../bounded.ts";
import type { HeldReply } from "../client.ts";
import { camelCased, withBody } from "../reply.ts";

export interface SessionsParts {
  readonly memory: Memory;
  readonly clock: Clock;
  readonly log: Log;
  readonly homeOf: (userId: string) => string | undefined;
  /** What that replica calls a user. */
  readonly idAt: (replica: string, userId: string) => string;
  readonly clientOf: (replica: string) => JellyfinClient | undefined;
  /** For how long a replica has not been ready, in ms; 0: it is. */
  readonly goneForMs: (replica: string) => number;
}

/** A user's rights are read again after this. */
const rightsKeepMs = 15_000;
const rememberedLimit = 10_000;
/** How often it is looked whether a device has arrived. */
const arrivalIntervalMs = 50;
/** What is left of a command's time when waiting ends: the home then gives a true answer. */
const answerTimeMs = 700;

interface Rights {
  readonly userId: string;
  readonly isAdministrator: boolean;
  readonly controlsOthers: boolean;
  readonly sharesDevices: boolean;
  readonly deviceIds: ReadonlySet<string> | undefined;
}

export interface Sessions {
  readonly attendants: readonly Attendant[];
  /**
   * What a server pushed to a socket of this identity (the list in its message `Sessions`), without our own
   * sessions and with what the other servers have; without that while it is not known what this user may see.
   */
  pushed(
    identityKey: string,
    replica: string,
    list: readonly unknown[],
  ): Promise<readonly unknown[]>;
}

/** A socket's list is asked for nothing but what its user may see (SessionInfoWebSocketListener). */
const everything: SessionsQuestion = {
  controllableBy: undefined,
  deviceId: undefined,
  activeWithinSeconds: 0,
};

export function createSessions(parts: SessionsParts): Sessions {
  const { memory, clock, log } = parts;
  const read = new WeakMap<Note, SeenSession | "nothing">();
  const rights = new Bounded<string, { readonly rights: Rights; readonly untilMs: number }>(
    rememberedLimit,
  );
  const facts: UnionFacts = { homeOf: parts.homeOf, goneForMs: parts.goneForMs };

  function seen(): SeenSession[] {
    const sessions: SeenSession[] = [];
    for (const note of memory.notes("session").values()) {
      let known = read.get(note);
      if (known === undefined) {
        known = readSessionNote(note) ?? "nothing";
        read.set(note, known);
        if (known === "nothing") log.warn("a note of a session is not one in shape: ignored");
      }
      if (known !== "nothing") sessions.push(known);
    }
    return sessions;
  }

  async function rightsOf(
    identity: Identity | undefined,
    replica: string,
    userId: string,
  ): Promise<Rights | undefined> {
    const known = rights.get(userId);
    if (known !== undefined && known.untilMs > clock.monotonicMs()) return known.rights;
    const token = identity === undefined ? undefined : memory.openToken(identity, replica);
    const client = parts.clientOf(replica);
    if (identity === undefined || token === undefined || client === undefined) return undefined;
    const { device, deviceId, version } = identity;
    const fields = { client: identity.client, device, deviceId, version };
    const here = parts.idAt(replica, userId);
    const answer = await client.callAs(token, fields, "GET", `/Users/${here}`);
    if (answer.outcome !== "answered" || answer.status !== 200) return undefined;
    const found = readRights(answer.text, userId);
    if (found !== undefined) {
      rights.set(userId, { rights: found, untilMs: clock.monotonicMs() + rightsKeepMs });
    }
    return found;
  }

  async function merged(asked: Attended, reply: HeldReply, replica: string): Promise<HeldReply> {
    const own = listOf(reply.body.toString("utf8"));
    if (own === undefined || asked.identity === undefined) return reply;
    if (memory.notes("session").size === 0) return reply;
    const onlooker = await onlookerOf(asked.identity, replica);
    if (onlooker === undefined) return reply;
    const question = await questionOf(asked, replica);
    if (question === undefined) return reply;
    const shown = shownTo(onlooker, question, own, replica);
    const isCamel = /camelcase/i.test(reply.head.headers.join("\n"));
    const body = shown.map(({ dto, replica: from, isLost }) =>
      isCamel && (from !== replica || isLost) ? camelCased(dto) : dto,
    );
    return withBody(reply, JSON.stringify(body));
  }

  /** What a replica itself shows this onlooker, and of what the others have what they would show. */
  function shownTo(
    onlooker: Onlooker,
    question: SessionsQuestion,
    own: readonly unknown[],
    replica: string,
  ): SeenSession[] {
    const fresh = own
      .map((dto) => readSession(dto, replica))
      .filter((session) => session !== undefined);
    return listFor(fresh, seen(), { replica, onlooker, question, nowMs: clock.wallMs() }, facts);
  }

  async function pushed(
    identityKey: string,
    replica: string,
    list: readonly unknown[],
  ): Promise<readonly unknown[]> {
    const identity = memory.identities.get(identityKey);
    const onlooker = identity === undefined ? undefined : await onlookerOf(identity, replica);
    if (onlooker === undefined)
      return list.filter((dto) => readSession(dto, replica) !== undefined);
    return shownTo(onlooker, everything, list, replica).map(({ dto }) => dto);
  }

  async function onlookerOf(
    identity: Identity | undefined,
    replica: string,
  ): Promise<Onlooker | undefined> {
    if (identity?.kind !== "user") {
      return { userId: "", isAdministrator: true, controlsOthers: true, deviceIds: undefined };
    }
    return await rightsOf(identity, replica, identity.userId);
  }

  async function questionOf(
    asked: Attended,
    replica: string,
  ): Promise<SessionsQuestion | undefined> {
    const { rawQuery } = asked.facts;
    const within = Number(queryValue(rawQuery, "activeWithinSeconds") ?? 0);
    const controllable = normalId(queryValue(rawQuery, "controllableByUserId") ?? "");
    let controllableBy: SessionsQuestion["controllableBy"];
    if (controllable !== "") {
      const found =
        asked.identity?.kind === "user"
          ? await rightsOf(asked.identity, replica, controllable)
          : { sharesDevices: true };
      if (found === undefined) return undefined;
      controllableBy = found;
    }
    return {
      controllableBy,
      deviceId: queryValue(rawQuery, "deviceId") || undefined,
      activeWithinSeconds: Number.isFinite(within) ? within : 0,
    };
  }

  const list: Attendant = {
    name: "sessions",
    attends: (route) => route.kind === "sessions",
    after: merged,
  };
  const rightsChange: Attendant = {
    name: "rights to see sessions",
    attends: (route) => route.kind === "userPolicy",
    ended(asked) {
      const { userId } = asked.facts.params;
      if (userId !== undefined) rights.delete(normalId(userId));
    },
  };

  function target(asked: Attended): ReturnType<typeof targetOf> {
    const { route, params, rawQuery } = asked.facts;
    const sessionId = route.kind === "capabilities" ? sessionAsked(rawQuery) : params.sessionId;
    return sessionId === undefined ? "unknown" : targetOf(sessionId, seen(), facts);
  }

  /** Its server could not be reached: where the device goes from there is seen soon. */
  function isOnItsWay(asked: Attended): boolean {
    const found = target(asked);
    if (typeof found === "string") return found === "wait";
    return asked.tried.has(found.replica) && !asked.refusedBy.has(found.replica);
  }

  /** A command for a device on its way waits until a server has its socket, or its time is nearly up. */
  async function arrival(asked: Attended): Promise<void> {
    while (
      isOnItsWay(asked) &&
      !asked.hasLeft &&
      asked.deadlineMs - clock.monotonicMs() > answerTimeMs
    ) {
      await sleep(arrivalIntervalMs);
    }
  }

  const remote: Attendant = {
    name: "remote control",
    // What a device can do may be said by another one, for its session.
    attends: (route) => route.boundTo === "targetSession" || route.kind === "capabilities",
    async before(asked) {
      await arrival(asked);
      return undefined;
    },
    again: arrival,
    bound(asked) {
      const found = target(asked);
      return typeof found === "string" ? undefined : { replica: found.replica, kind: "session" };
    },
  };
  return { attendants: [list, rightsChange, remote], pushed };
}

function readRights(text: string, userId: string): Rights | undefined {
  const said = objectOf(parsedObject(text)?.Policy);
  // Not an answer of Jellyfin: nothing is shown beyond what the replica showed.
  if (said === undefined) return undefined;
  const isAdministrator = said.IsAdministrator === true;
  const devices = Array.isArray(said.EnabledDevices) ? said.EnabledDevices : [];
  return {
    userId,
    isAdministrator,
    controlsOthers: said.EnableRemoteControlOfOtherUsers === true,
    sharesDevices: said.EnableSharedDeviceControl === true,
    deviceIds:
      isAdministrator || said.EnableAllDevices === true
        ? undefined
        : new Set(devices.map((id) => String(id).toLowerCase())),
  };
}

function listOf(text: string): unknown[] | undefined {
  try {
    const list: unknown = JSON.parse(text);
    return Array.isArray(list) ? list : undefined;
  } catch {
    // The answer to HEAD, or not what we took it for: passed on as it came.
    return undefined;
  }
}
