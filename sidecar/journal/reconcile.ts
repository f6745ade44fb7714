// What the journal no longer says: a replica that was away for longer than the journal reaches back is compared
// with another that was not, person by person and item by item, and made equal.
//
// Two servers that both may have been changed have no common past to compare with, so each difference is decided
// by what it is. What was played counts by its date: the newer playing wins, with all its fields together, because
// a position without its count or its date is no state that anybody left. A favourite, like or rating has no date:
// the other server's word counts, because this is the one that was away. To take the union instead would bring
// back every favourite that was ever taken away.
//
// It promises that no more than one person's items of two servers are in memory at one time.

import { userAliasesOf } from "../../core/cluster/user-aliases.ts";
import type { UserDataField, UserDataValues } from "../../core/cluster/user-data.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { isRecord, parsedObject } from "../../core/service/json.ts";
import { sleep } from "../../core/service/loop.ts";
import { idAt, idHere } from "./calls.ts";
import type { Follower } from "./follower.ts";
import type { JournalHands } from "./handler.ts";
import {
  differing,
  readData,
  type ServerUserData,
  userDataLane,
  writeUserData,
} from "./user-data.ts";

export interface ReconcileParts {
  readonly hands: JournalHands;
  readonly peers: () => ReadonlyMap<string, JellyfinClient>;
  readonly follower: Pick<Follower, "publishSeen" | "standing">;
}

const pageItems = 200;
/** Items of one person with anything to tell of; beyond them the oldest names are left as they are. */
const itemsLimit = 50_000;
const filters = ["IsPlayed", "IsResumable", "IsFavorite", "Likes", "Dislikes"] as const;
/** So long a server that can be compared with is waited for, in ms. */
const peerLimitMs = 30_000;

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

export async function reconcileUserData(
  { hands, peers, follower }: ReconcileParts,
  signal: AbortSignal,
): Promise<void> {
  const { replica, client, log } = hands;
  const peer = await healthyPeer(peers, hands.clock.monotonicMs, signal);
  if (peer === undefined) {
    log.warn(`no other server can be compared with ${replica} now: what it missed stays missed`);
    return;
  }
  const [name, other] = peer;
  const users = await client.users();
  if (users.outcome !== "ok") return;
  let taken = 0;
  let given = 0;
  for (const { id } of users.users) {
    if (signal.aborted) return;
    const userId = userAliasesOf(hands.memory, hands.seal).knownId(replica, id);
    const own = await itemsOf(client, idHere(hands, userId));
    const theirs = await itemsOf(other, idAt(hands, name, userId));
    if (own === undefined || theirs === undefined) continue;
    for (const itemId of new Set([...own.keys(), ...theirs.keys()])) {
      if (signal.aborted) return;
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
}

async function healthyPeer(
  peers: () => ReadonlyMap<string, JellyfinClient>,
  nowMs: () => number,
  signal: AbortSignal,
): Promise<readonly [string, JellyfinClient] | undefined> {
  const deadlineMs = nowMs() + peerLimitMs;
  while (!signal.aborted && nowMs() < deadlineMs) {
    for (const [name, client] of peers()) {
      if ((await client.health()).state === "healthy") return [name, client];
    }
    await sleep(500, signal);
  }
  return undefined;
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
        const itemId = one.Id.replaceAll("-", "").toLowerCase();
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
