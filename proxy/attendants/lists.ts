// The attendant of changes that have one writer: playlists, collections, items and their pictures. Ids of lists come
// from the history of their names, and what is appended or moved depends on what was there, so that every server must
// see these changes in one order: they go to the leader's replica, whose sidecar publishes what became of them.
//
//   before   waits, within the request's time, until somebody leads whose server has the caller's token
//   bound    the leader's replica
//   after    who made the change reads at that replica for a moment, so that they see what they did although their
//            home is elsewhere and hears of it some 100 ms later
//
// A leader that has only just begun may not have yet what others were told of lists a moment ago. Its sidecar says in a
// note when it has (sidecar/journal/succession.ts), and that is waited for, within a limit.
//
// Two lists of one name have ids by the order in which they were made. So one is made after the other, and a leader that
// has only just begun makes none of a name before it has those that its predecessor made a moment ago.
//
// A collection whose name is taken, or was its name when it was made, would be emptied by its second creation and keep
// its id (core/jellyfin/collections.ts). Here the items are added to the one there is, and its id is answered: the web
// client shows the collection it is given, with what was added, and nothing is lost. An error would be shown as «there
// was a problem» and leave the viewer to find the collection by hand.

import { listsLeaseOf } from "../../core/cluster/journal-cursor.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import { plainGuid } from "../../core/jellyfin/change-request.ts";
import {
  idsMeant,
  isListCreation,
  isWrittenAtLeader,
} from "../../core/jellyfin/changes-library.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { collectionNamed, folderOfName } from "../../core/jellyfin/collections.ts";
import { bodyValue, queryValue } from "../../core/jellyfin/playback.ts";
import type { Clock } from "../../core/service/clock.ts";
import { parsedObject, recordsIn } from "../../core/service/json.ts";
import type { Attendant, Attended } from "../attendant.ts";
import type { HeldReply } from "../client.ts";
import { listCreated, textOfReply, unavailable } from "../reply.ts";
import { identityNow, lacksToken, leaderOf, nextCall } from "./leader.ts";
import type { Made, MadeThing } from "./made.ts";

export interface ListsParts {
  readonly memory: Pick<
    Memory,
    "lease" | "identities" | "onLease" | "highestLeaseNumber" | "openToken" | "notes"
  >;
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly clientOf: (replica: string) => JellyfinClient | undefined;
  readonly isReady: (replica: string) => boolean;
  /** With one replica there is nothing to put in order. */
  readonly isCluster: () => boolean;
  /** Asks that this identity's token at that replica be made soon. */
  readonly urgent: (replica: string, identityKey: string) => void;
  readonly homeOf: (userId: string) => string | undefined;
  /** From now until then this user's questions go there. */
  readonly readAt: (userId: string, replica: string, untilMs: number) => void;
  /** From now until then an item that the writer does not have is gone, whoever else still has it. */
  readonly noteDeleted: (itemIds: readonly string[], untilMs: number) => void;
  readonly made: Pick<Made, "note" | "lastOf" | "forget" | "forgetName">;
}

/** How long whoever changed something reads where it was changed; the others have it within a second. */
const readAtWriterMs = 3000;
const lookIntervalMs = 100;
/** A leader that says nothing of lists for so long is not waited for: one change that cannot be brought to it keeps none. */
const successionLimitMs = 3000;
const collectionsLimit = 10_000;
const createPattern = "/Collections";
/** A longer answer tells of nothing that was made. */
const answerLimitBytes = 64 * 1024;

export function createLists(parts: ListsParts): Attendant {
  const { memory, clock, isReady, made } = parts;
  /** The leader's replica that a change was looked at with: it has what came before. */
  const cleared = new WeakMap<Attended, string>();
  /** When it was first seen here who leads, in ms of the monotonic clock. */
  let leadsSince = { leaseNumber: memory.lease?.epoch.number ?? -1, atMs: clock.monotonicMs() };
  memory.onLease(({ epoch }) => {
    leadsSince = { leaseNumber: epoch.number, atMs: clock.monotonicMs() };
  });
  /** The collection that an asked-for name has already. */
  const existing = new WeakMap<Attended, string>();
  /** Creations of one name under way here, one after another. */
  const creations = new Map<string, Promise<void>>();
  const releases = new WeakMap<Attended, () => void>();

  /** Undefined when this server has the list of that name that another made a moment ago, or there is none. */
  async function lackAt(
    asked: Attended,
    replica: string,
    key: string,
  ): Promise<string | undefined> {
    const client = parts.clientOf(replica);
    for (;;) {
      const last = made.lastOf(key);
      // Whether a list is there that is not the caller's own, only a key can tell.
      if (last === undefined || last.replica === replica || client?.keyHash === undefined) {
        return undefined;
      }
      const path = `/Items?ids=${last.itemId}&enableImages=false`;
      const answer = await client.callWithKey("GET", path);
      const items = answer.outcome === "answered" ? parsedObject(answer.text)?.Items : undefined;
      if (Array.isArray(items) && items.length > 0) {
        made.forgetName(key);
        return undefined;
      }
      const leftMs = asked.deadlineMs - clock.monotonicMs();
      if (leftMs <= 0 || asked.hasLeft) return "The leader's server does not have all lists yet.";
      await timeUp(Math.min(leftMs, lookIntervalMs));
    }
  }

  /** Undefined: the change may be made there from now on; else why not. */
  async function clear(
    asked: Attended,
    replica: string,
    key: string | undefined,
  ): Promise<string | undefined> {
    const lack = key === undefined ? undefined : await lackAt(asked, replica, key);
    if (lack === undefined) cleared.set(asked, replica);
    return lack;
  }

  /** Whether the leader's server has what others were told of lists before it led, or has had time enough. */
  function hasLists(replica: string): boolean {
    const { leaseNumber, atMs } = leadsSince;
    if (listsLeaseOf(memory.notes("replica"), replica) === leaseNumber) return true;
    return clock.monotonicMs() - atMs >= successionLimitMs;
  }

  /** The leader's replica once it can take this request; a sentence when the time is up. */
  async function writer(asked: Attended): Promise<{ readonly replica: string } | string> {
    for (;;) {
      const replica = leaderOf(memory)?.replica;
      const identity = identityNow(memory, asked);
      let why = "Nobody leads the cluster right now.";
      if (replica !== undefined && !isReady(replica)) why = "The leader's server is not ready.";
      // It died under this request, and who leads next is not known yet: no other server may write.
      else if (replica !== undefined && asked.failed.has(replica))
        why = "The leader's server broke off.";
      else if (replica !== undefined && isList(asked) && !hasLists(replica))
        why = "The leader's server has not all lists yet.";
      else if (replica !== undefined) {
        if (!lacksToken(identity, replica)) return { replica };
        parts.urgent(replica, identity?.key ?? "");
        why = "The leader's server does not know this login yet.";
      }
      const leftMs = asked.deadlineMs - clock.monotonicMs();
      if (leftMs <= 0 || asked.hasLeft) return why;
      await nextCall((listener) => memory.onLease(listener), Math.min(leftMs, lookIntervalMs));
    }
  }

  /** Waits for a creation of the same name that came before, and is what the next one waits for. */
  async function takeTurn(asked: Attended, name: string): Promise<void> {
    const earlier = creations.get(name);
    let release: () => void = () => undefined;
    const mine = new Promise<void>((resolve) => {
      release = resolve;
    });
    const turn = Promise.all([earlier, mine]).then(() => {
      if (creations.get(name) === turn) creations.delete(name);
    });
    creations.set(name, turn);
    releases.set(asked, release);
    await Promise.race([earlier, timeUp(asked.deadlineMs - clock.monotonicMs())]);
  }

  async function findCollection(
    asked: Attended,
    replica: string,
    name: string,
  ): Promise<string | undefined | null> {
    const path = `/Items?recursive=true&includeItemTypes=BoxSet&fields=Path&enableImages=false&limit=${collectionsLimit}`;
    const client = parts.clientOf(replica);
    const identity = identityNow(memory, asked);
    const token = identity === undefined ? undefined : memory.openToken(identity, replica);
    // A door that is a process of its own has no key before the sidecars told theirs: it sees what its caller may see.
    const answer =
      client?.keyHash === undefined && identity !== undefined && token !== undefined
        ? await client?.callAs(token, identity, "GET", path)
        : await client?.callWithKey("GET", path);
    if (answer?.outcome !== "answered" || answer.status !== 200) return null;
    const items = parsedObject(answer.text)?.Items;
    return Array.isArray(items) ? collectionNamed(recordsIn(items), name) : null;
  }

  /** Where no sidecar ever led, nobody keeps the servers equal, and the home is as good as any. */
  function hasWriter(asked: Attended): boolean {
    return parts.isCluster() && asked.identity !== undefined && memory.highestLeaseNumber > 0;
  }

  return {
    name: "one writer",
    attends: isWrittenAtLeader,

    async before(asked) {
      const { route, rawQuery } = asked.facts;
      if (!hasWriter(asked)) return undefined;
      const found = await writer(asked);
      if (typeof found === "string") return asked.hasLeft ? undefined : unavailable(found);
      const key = creationKey(asked);
      if (key !== undefined) await takeTurn(asked, key);
      const lack = await clear(asked, found.replica, key);
      if (lack !== undefined) return asked.hasLeft ? undefined : unavailable(lack);
      const name = queryValue(rawQuery, "name") ?? "";
      if (route.pattern !== createPattern || name === "") return undefined;
      const known = await findCollection(asked, found.replica, name);
      if (known === null) {
        return unavailable("Whether this collection exists already cannot be found out right now.");
      }
      if (known === undefined) return undefined;
      // Also where nothing is added to it: the server says who may have an answer at all.
      existing.set(asked, known);
      return undefined;
    },

    async again(asked) {
      if (!hasWriter(asked)) return;
      const found = await writer(asked);
      if (typeof found !== "string") await clear(asked, found.replica, creationKey(asked));
    },

    bound(asked) {
      if (!hasWriter(asked)) return undefined;
      const replica = leaderOf(memory)?.replica;
      if (!isList(asked)) return replica === undefined ? undefined : { replica, kind: "leader" };
      // Another server would write one more history; who leads only since it was looked at may lack what came before.
      const isOther = (cleared.get(asked) ?? replica) !== replica;
      return { replica: isOther ? "" : (replica ?? ""), kind: "leader", isOnly: true };
    },

    rewrite(asked) {
      const id = existing.get(asked);
      return id === undefined
        ? undefined
        : { path: `${asked.facts.path.replace(/\/+$/, "")}/${id}/Items` };
    },

    async after(asked, reply, replica) {
      if (reply.head.status >= 300 || !parts.isCluster()) return reply;
      const { identity } = asked;
      const untilMs = clock.monotonicMs() + readAtWriterMs;
      if (identity?.kind === "user" && parts.homeOf(identity.userId) !== replica) {
        parts.readAt(identity.userId, replica, untilMs);
      }
      const deleted = deletedIds(asked);
      if (deleted.length > 0) {
        parts.noteDeleted(deleted, untilMs);
        made.forget(deleted);
      }
      const thing = madeThing(asked, reply);
      if (thing !== undefined) made.note(thing, replica);
      const id = existing.get(asked);
      return id === undefined ? reply : listCreated(asked.rawHeaders, id);
    },

    ended(asked) {
      releases.get(asked)?.();
    },
  };
}

function isList({ facts }: Attended): boolean {
  return facts.route.kind === "playlist" || facts.route.kind === "collection";
}

/** What a deletion names, in its path or its query. */
function deletedIds({ facts }: Attended): readonly string[] {
  const { route } = facts;
  return route.methods.includes("DELETE") && route.kind === "library" ? idsMeant(facts) : [];
}

/** What names a list that is to be made: its route and folder; undefined: none is to be made. */
function creationKey({ facts, bodyText }: Attended): string | undefined {
  if (!isListCreation(facts.route)) return undefined;
  // Playlists have it in the body, older clients in the query (PlaylistsController.CreatePlaylist).
  const inBody = bodyText === undefined ? undefined : bodyValue(bodyText, "Name");
  const name = typeof inBody === "string" ? inBody : queryValue(facts.rawQuery, "name");
  return name === undefined || name === ""
    ? undefined
    : `${facts.route.pattern} ${folderOfName(name)}`;
}

/** What an answer tells to have been made; undefined: nothing that others have to be asked for. */
function madeThing(asked: Attended, reply: HeldReply): MadeThing | undefined {
  const { pattern } = asked.facts.route;
  const nameKey = creationKey(asked);
  if (nameKey === undefined && pattern !== "/Users/New") return undefined;
  const fields = parsedObject(textOfReply(reply, answerLimitBytes) ?? "") ?? {};
  const itemId = plainGuid(fields.Id ?? fields.id);
  if (nameKey !== undefined) return itemId === undefined ? undefined : { itemId, nameKey };
  const userName = fields.Name ?? fields.name;
  return typeof userName === "string" ? { userName } : undefined;
}

function timeUp(limitMs: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, Math.max(0, limitMs)).unref();
  });
}
