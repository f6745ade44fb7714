// What the journal no longer says: a replica that was away for longer than the journal reaches back is compared
// with another that was not, person by person and item by item, document by document, and made equal. Where the
// store lost entries every sidecar comes here at the same time: then all compare with the leader's server, and the
// leader with nobody, or two servers would exchange what they differ in.
//
// Two servers that both may have been changed have no common past to compare with, so each difference is decided
// by what it is. What was played counts by its date: the newer playing wins, with all its fields together, because
// a position without its count or its date is no state that anybody left. A favourite, like or rating has no date:
// the other server's word counts, because this is the one that was away. To take the union instead would bring
// back every favourite that was ever taken away. A document (reconcile-documents.ts) has none either. Users and
// libraries that were made meanwhile come first (reconcile-made.ts).
//
// It promises that no more than one person's items of two servers are in memory at one time.

import { behindOf } from "../../core/cluster/journal-cursor.ts";
import { userAliasesOf } from "../../core/cluster/user-aliases.ts";
import type { UserDataField, UserDataValues } from "../../core/cluster/user-data.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { isRecord, parsedObject } from "../../core/service/json.ts";
import { idAt, idHere } from "./calls.ts";
import type { Follower, Loss } from "./follower.ts";
import type { JournalHands } from "./handler.ts";
import { reconcileDocuments } from "./reconcile-documents.ts";
import { reconcileMade } from "./reconcile-made.ts";
import {
  differing,
  plainId,
  readData,
  type ServerUserData,
  userDataLane,
  writeUserData,
} from "./user-data.ts";

export interface ReconcileParts {
  readonly hands: JournalHands;
  readonly peers: () => ReadonlyMap<string, JellyfinClient>;
  readonly follower: Pick<Follower, "publishSeen" | "standing">;
  /** Between the two looks at a document that differs, in ms. */
  readonly settleMs?: number;
}

const pageItems = 200;
/** Items of one person with anything to tell of; beyond them the oldest names are left as they are. */
const itemsLimit = 50_000;
const filters = ["IsPlayed", "IsResumable", "IsFavorite", "Likes", "Dislikes"] as const;

const initial: ServerUserData = {
  position: 0,
  playCount: 0,
  played: false,
  lastPlayedDate: null,
  favourite: false,
  likes: null,
  rating: null,
  isFolder: false,
};

export interface Reconciled {
  /** What this server is to have of the other's. */
  readonly take: Partial<UserDataValues>;
  /** What the others are to have of this one's. */
  readonly give: Partial<UserDataValues>;
}

const playFields = ["position", "playCount", "played", "lastPlayedDate"] as const;
const likingFields = ["favourite", "likes", "rating"] as const;

/** Who has the truth about one item of one person. `own`: the server that was away. */
export function reconciled(own: ServerUserData, other: ServerUserData): Reconciled {
  const differs = new Set(differing(other, own));
  const pick = (from: UserDataValues, fields: readonly UserDataField[]): Partial<UserDataValues> =>
    Object.fromEntries(fields.map((field) => [field, from[field]]));
  // A folder's playing is made of what is in it.
  const isPlayOther = !other.isFolder && playFields.some((field) => differs.has(field));
  const isOwnNewer = dateMs(own.lastPlayedDate) > dateMs(other.lastPlayedDate);
  const liking = likingFields.filter((field) => differs.has(field));
  return {
    take: { ...pick(other, liking), ...(isPlayOther && !isOwnNewer && pick(other, playFields)) },
    give: isPlayOther && isOwnNewer ? pick(own, playFields) : {},
  };
}

/** Makes this server what another one is. False: one of the two could not be asked; nothing of it is lost. */
export async function reconcile(
  parts: ReconcileParts,
  cause: Loss,
  signal: AbortSignal,
): Promise<boolean> {
  const { hands, peers, settleMs } = parts;
  const { replica, log } = hands;
  const other = await whoIsRight(parts, cause);
  if (other === "here") {
    log.info(`the other servers are compared with ${replica}, whose sidecar leads`);
    return true;
  }
  const client = other === undefined ? undefined : peers().get(other);
  if (other === undefined || client === undefined) {
    log.warn(`no other server can be compared with ${replica} now: it is tried again`);
    return false;
  }
  const there = { ...hands, replica: other, client };
  const made = await reconcileMade(hands, there, signal);
  const isWhole = await reconcileUserData(parts, other, client, signal);
  const areDocuments = await reconcileDocuments(hands, there, { settleMs }, signal);
  // What somebody has watched in a library that has just come is compared once more, when its items may be known.
  return areDocuments && isWhole && made === "equal";
}

/** Whose word counts; undefined: nobody who could tell can be reached now. */
async function whoIsRight(
  { hands, peers }: ReconcileParts,
  cause: Loss,
): Promise<string | "here" | undefined> {
  const { memory } = hands;
  const isLeading = hands.leads();
  if (isLeading && cause === "lost") return "here";
  const leader = memory.lease?.replica ?? "";
  const notes = memory.notes("replica");
  const healthy: string[] = [];
  for (const [name, client] of peers()) {
    if ((await client.health()).state === "healthy") healthy.push(name);
  }
  if (healthy.includes(leader)) return leader;
  // Who leads is known in a moment, and is the same for all.
  if (cause === "lost" && leader === "") return undefined;
  const [current] = healthy.filter((name) => behindOf(notes, name) === undefined);
  // Where all were away somebody has to be right.
  if (current === undefined && isLeading && healthy.length > 0) return "here";
  return current ?? healthy[0];
}

async function reconcileUserData(
  { hands, follower }: ReconcileParts,
  name: string,
  other: JellyfinClient,
  signal: AbortSignal,
): Promise<boolean> {
  const { replica, client, log } = hands;
  const users = await client.users();
  if (users.outcome !== "ok") return false;
  let isWhole = true;
  let taken = 0;
  let given = 0;
  for (const { id } of users.users) {
    if (signal.aborted) return false;
    const userId = userAliasesOf(hands.memory, hands.seal).knownId(replica, id);
    const own = await itemsOf(client, idHere(hands, userId));
    const theirs = await itemsOf(other, idAt(hands, name, userId));
    if (own === undefined || theirs === undefined) {
      isWhole = false;
      continue;
    }
    for (const itemId of new Set([...own.keys(), ...theirs.keys()])) {
      if (signal.aborted) return false;
      const lane = userDataLane(userId, itemId);
      if (follower.standing(lane).isOpen) continue;
      const here = own.get(itemId) ?? initial;
      const { take, give } = reconciled(here, theirs.get(itemId) ?? initial);
      if (Object.keys(take).length > 0) {
        const written = await writeUserData(idHere(hands, userId), itemId, take, here, hands);
        if (written.outcome === "done") taken++;
      }
      if (Object.keys(give).length > 0) {
        await follower.publishSeen("userData", {
          userId,
          itemId,
          payload: { cause: "seen", values: give },
        });
        given++;
      }
    }
  }
  log.info(
    `server ${replica} was compared with ${name}: it took ${taken} states and gave ${given}`,
  );
  return isWhole;
}

/** Everything of one person that is not as it is in the beginning; undefined when the server did not say. */
async function itemsOf(
  client: JellyfinClient,
  userId: string,
): Promise<ReadonlyMap<string, ServerUserData> | undefined> {
  const items = new Map<string, ServerUserData>();
  for (const filter of filters) {
    for (let start = 0; items.size < itemsLimit; start += pageItems) {
      const query =
        `userId=${userId}&recursive=true&filters=${filter}&enableUserData=true&enableImages=false` +
        `&enableTotalRecordCount=false&startIndex=${start}&limit=${pageItems}&sortBy=SortName`;
      const answer = await client.callWithKey("GET", `/Items?${query}`);
      if (answer.outcome === "failed" || answer.status !== 200) return undefined;
      const page = parsedObject(answer.text)?.Items;
      const listed = Array.isArray(page) ? page : [];
      for (const one of listed) {
        if (!isRecord(one) || typeof one.Id !== "string") continue;
        const data = readData(one.UserData);
        const itemId = plainId(one.Id);
        if (data !== undefined) items.set(itemId, { ...data, isFolder: one.IsFolder === true });
      }
      if (listed.length < pageItems) break;
    }
  }
  return items;
}

function dateMs(date: string | null): number {
  const ms = date === null ? Number.NaN : Date.parse(date);
  return Number.isNaN(ms) ? Number.NEGATIVE_INFINITY : ms;
}
