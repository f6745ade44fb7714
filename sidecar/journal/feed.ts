// The feed: what changes at the server without a door, for everybody. A socket with the API key, to whose session
// every user is added from another device id, is told `UserDataChanged` of all of them (SessionInfo.ContainsUser);
// so a film that was marked in the server's own page, or by a plugin, is marked everywhere.
//
// What it tells of is mostly what we wrote ourselves or what the door knows better. It becomes an effect only if it
// differs from what the journal last said, or was last read here, and nothing of it is under way; a server that was
// away, a playback that it gave up by itself, and our own writing raise none. What is told is never believed as it
// came: the server is asked once more when the lane has been quiet.

import { isPlainId } from "../../core/cluster/identity.ts";
import { userAliasesOf } from "../../core/cluster/user-aliases.ts";
import { type UserDataField, userDataFields } from "../../core/cluster/user-data.ts";
import { messageType } from "../../core/jellyfin/messages.ts";
import { feedDevice } from "../../core/jellyfin/ours.ts";
import { objectOf, parsedObject } from "../../core/service/json.ts";
import { backOffMs, sleep } from "../../core/service/loop.ts";
import { type Store, StoreUnavailable } from "../../core/store/store.ts";
import type { Follower } from "./follower.ts";
import type { JournalHands } from "./handler.ts";
import {
  differing,
  plainId,
  readData,
  readUserData,
  type ServerUserData,
  sameDate,
  userDataLane,
} from "./user-data.ts";

export interface FeedLimits {
  /** How often the server is asked for users that are new, in ms. */
  readonly usersIntervalMs: number;
  readonly retryMinMs: number;
  readonly retryMaxMs: number;
  /** What was told of is looked at when so long nothing was told of it, in ms. */
  readonly quietMs: number;
  /** A difference so soon after the journal spoke of the same is the server's delay, in ms. */
  readonly ghostMs: number;
  /**
   * A server gives up a playback that is not reported for five minutes, looks every five, and writes the position it
   * has counted to by itself (SessionManager.CheckForIdlePlayback): within this time of the last report, in ms.
   */
  readonly idleStopMs: number;
  readonly hintsLimit: number;
  readonly readsLimit: number;
}

export const feedLimits: FeedLimits = {
  usersIntervalMs: 30_000,
  retryMinMs: 500,
  retryMaxMs: 15_000,
  quietMs: 1500,
  ghostMs: 10_000,
  idleStopMs: 20 * 60_000,
  hintsLimit: 5000,
  readsLimit: 20_000,
};

export interface FeedParts {
  readonly hands: JournalHands;
  readonly store: Pick<Store, "clusterId">;
  readonly follower: Pick<
    Follower,
    "standing" | "check" | "publishSeen" | "noteLibraryChanged" | "healthyForMs"
  >;
  readonly version: string;
  readonly isHealthy: () => boolean;
  /** Told of each `LibraryChanged`, as it came. */
  readonly onLibraryChanged?: ((message: string) => void) | undefined;
  readonly limits: FeedLimits;
}

/** Listens until `signal` aborts. */
export async function runFeed(parts: FeedParts, signal: AbortSignal): Promise<void> {
  const feed = new Feed(parts);
  await Promise.all([feed.listen(signal), feed.look(signal)]);
}

interface Hint {
  readonly userId: string;
  readonly itemId: string;
  /** Nothing of what was told of with it was a film or an episode: the folder itself was changed. */
  readonly isAlone: boolean;
  atMs: number;
  tries: number;
}

class Feed {
  readonly #parts: FeedParts;
  readonly #hints = new Map<string, Hint>();
  #onHint: (() => void) | undefined;
  /** What was last read or told of lanes that the journal says nothing about. */
  readonly #read = new Map<string, ServerUserData>();

  constructor(parts: FeedParts) {
    this.#parts = parts;
  }

  // ---- Listening ------------------------------------------------------------------------------------

  async listen(signal: AbortSignal): Promise<void> {
    const { hands, store, version, limits } = this.#parts;
    let clusterId: string | undefined;
    let failures = 0;
    while (!signal.aborted) {
      try {
        clusterId ??= await store.clusterId();
        if (this.#parts.isHealthy()) {
          const device = feedDevice(clusterId, hands.replica, version);
          const ended = new AbortController();
          const both = AbortSignal.any([signal, ended.signal]);
          let adding: Promise<void> | undefined;
          const onOpen = (): void => {
            failures = 0;
            adding = this.#addUsers(device.deviceId ?? "", both);
          };
          await hands.client.holdPresence(device, onOpen, signal, (text) => this.#hear(text));
          ended.abort();
          await adding;
        }
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error;
      }
      failures++;
      const wait = { firstMs: limits.retryMinMs, longestMs: limits.retryMaxMs };
      await sleep(backOffMs(failures, wait, Math.random()), signal);
    }
  }

  /** Everybody who is there now, and later everybody who is new. */
  async #addUsers(deviceId: string, signal: AbortSignal): Promise<void> {
    const { client } = this.#parts.hands;
    const added = new Set<string>();
    while (!signal.aborted) {
      const [sessions, users] = await Promise.all([client.sessions(), client.users()]);
      const session =
        sessions.outcome === "ok"
          ? sessions.sessions.find((one) => one.deviceId === deviceId && one.userId === "")
          : undefined;
      if (session !== undefined && users.outcome === "ok") {
        for (const { id } of users.users) {
          if (added.has(id)) continue;
          const path = `/Sessions/${encodeURIComponent(session.id)}/User/${id}`;
          const answer = await client.callWithKey("POST", path);
          if (answer.outcome === "answered" && answer.status < 300) added.add(id);
        }
      }
      await sleep(added.size === 0 ? 1000 : this.#parts.limits.usersIntervalMs, signal);
    }
  }

  #hear(text: string): void {
    const type = messageType(text);
    if (type === "LibraryChanged") {
      this.#parts.follower.noteLibraryChanged();
      this.#parts.onLibraryChanged?.(text);
    }
    if (type !== "UserDataChanged") return;
    const data = objectOf(parsedObject(text)?.Data);
    const list = Array.isArray(data?.UserDataList) ? data.UserDataList : [];
    const told = list.flatMap((one: unknown) => {
      const read = readData(one);
      const itemId = plainId(objectOf(one)?.ItemId);
      return read === undefined || !isPlainId(itemId) ? [] : [{ itemId, read }];
    });
    const { memory, seal, replica } = this.#parts.hands;
    const userId = userAliasesOf(memory, seal).knownId(replica, plainId(data?.UserId));
    if (!isPlainId(userId)) return;
    const isAlone = told.every(({ read }) => read.isFolder);
    for (const { itemId, read } of told) this.#hint(userId, itemId, read, isAlone);
  }

  #hint(userId: string, itemId: string, told: ServerUserData, isAlone: boolean): void {
    const lane = userDataLane(userId, itemId);
    const { known } = this.#parts.follower.standing(lane);
    const before = this.#read.get(lane);
    if (told.isFolder && known === undefined && !isAlone) {
      // Its leaf was changed, and it is told along. What was last seen of it is remembered.
      if (before === undefined || sameOfFolder(before, told)) {
        this.#remember(lane, told);
        if (before !== undefined || !(told.favourite || told.likes !== null)) return;
      }
    }
    const values = Object.fromEntries(
      Object.entries(known?.fields ?? {}).map(([field, { value }]) => [field, value]),
    );
    const isComplete = known !== undefined && before !== undefined;
    if (isComplete && differing({ ...before, ...values }, told).length === 0) return;
    const { hintsLimit } = this.#parts.limits;
    if (!this.#hints.has(lane) && this.#hints.size >= hintsLimit) return;
    const atMs = this.#parts.hands.clock.monotonicMs();
    this.#hints.delete(lane);
    this.#hints.set(lane, { userId, itemId, isAlone, atMs, tries: 0 });
    this.#onHint?.();
  }

  /** Resolves when there is something to look at, or `signal` aborts. */
  async #hinted(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    await new Promise<void>((resolve) => {
      const end = (): void => {
        signal.removeEventListener("abort", end);
        this.#onHint = undefined;
        resolve();
      };
      this.#onHint = end;
      signal.addEventListener("abort", end, { once: true });
    });
  }

  // ---- Looking --------------------------------------------------------------------------------------

  async look(signal: AbortSignal): Promise<void> {
    const { hands, limits } = this.#parts;
    while (!signal.aborted) {
      if (this.#hints.size === 0) await this.#hinted(signal);
      await sleep(500, signal);
      for (const [lane, hint] of this.#hints) {
        if (signal.aborted) return;
        if (hands.clock.monotonicMs() - hint.atMs < limits.quietMs) continue;
        this.#hints.delete(lane);
        if (!(await this.#lookAt(lane, hint)) && hint.tries < 60) {
          const atMs = hands.clock.monotonicMs();
          if (!this.#hints.has(lane))
            this.#hints.set(lane, { ...hint, atMs, tries: hint.tries + 1 });
        }
      }
    }
  }

  /** False: it is to be looked at again. */
  async #lookAt(lane: string, { userId, itemId, isAlone }: Hint): Promise<boolean> {
    const { hands, follower, limits } = this.#parts;
    const before = follower.standing(lane);
    if (before.isOpen || before.quietMs < limits.quietMs || !this.#parts.isHealthy()) return false;
    const here = userAliasesOf(hands.memory, hands.seal).idAt(hands.replica, userId);
    const answer = await readUserData(here, itemId, hands);
    if (answer.outcome === "again") return false;
    if (answer.outcome !== "read") return true;
    const standing = follower.standing(lane);
    // Something came meanwhile: what was read may be the state before it, or after it.
    if (standing.isOpen || standing.known !== before.known) {
      if (JSON.stringify(standing.known) !== JSON.stringify(before.known)) return false;
    }
    const known = Object.fromEntries(
      Object.entries(standing.known?.fields ?? {}).map(([field, { value }]) => [field, value]),
    );
    const verdict = feedVerdict({
      known,
      read: this.#read.get(lane),
      now: answer.data,
      isAlone,
      quietMs: standing.quietMs,
      healthyForMs: follower.healthyForMs(),
      limits,
    });
    this.#remember(lane, answer.data);
    if (verdict.verdict === "putRight") follower.check("userData", lane);
    if (verdict.verdict !== "publish") return true;
    const values = Object.fromEntries(verdict.fields.map((field) => [field, answer.data[field]]));
    try {
      await follower.publishSeen("userData", {
        userId,
        itemId,
        payload: { cause: "seen", values },
      });
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      this.#read.delete(lane);
      return false;
    }
    return true;
  }

  #remember(lane: string, data: ServerUserData): void {
    this.#read.delete(lane);
    this.#read.set(lane, data);
    if (this.#read.size <= this.#parts.limits.readsLimit) return;
    for (const oldest of this.#read.keys()) {
      this.#read.delete(oldest);
      return;
    }
  }
}

export interface FeedSight {
  /** What the journal last said, by field. */
  readonly known: Readonly<Record<string, unknown>>;
  /** What was last read or told here; undefined: nothing was. */
  readonly read: ServerUserData | undefined;
  readonly now: ServerUserData;
  readonly isAlone: boolean;
  /** Since the journal last spoke of the lane; infinite: it never did, as far as is remembered. */
  readonly quietMs: number;
  readonly healthyForMs: number;
  readonly limits: Pick<FeedLimits, "ghostMs" | "idleStopMs">;
}

export type FeedVerdict =
  | { readonly verdict: "nothing" }
  /** The server did something late, or by itself: what the journal says counts. */
  | { readonly verdict: "putRight" }
  | { readonly verdict: "publish"; readonly fields: readonly UserDataField[] };

/** What to make of what a server has, in the light of what is known of it. */
export function feedVerdict(sight: FeedSight): FeedVerdict {
  const { known, read, now, isAlone, limits } = sight;
  const counted = now.isFolder ? folderFields : userDataFields;
  const fields = counted.filter((field) => {
    if (field in known) return !isEqual(field, known[field], now[field]);
    if (read !== undefined) return !isEqual(field, read[field], now[field]);
    // Nothing was ever known of it, and something was written: all that is not as it is in the beginning
    // counts, and of a folder that was changed for its own sake, everything.
    return isAlone || !isInitial(now[field]);
  });
  if (fields.length === 0) return { verdict: "nothing" };
  const isKnown = fields.some((field) => field in known);
  if (isKnown && Math.min(sight.quietMs, sight.healthyForMs) < limits.ghostMs) {
    return { verdict: "putRight" };
  }
  const isStopOnly = fields.every((field) => field === "position" || field === "played");
  if (isStopOnly && "position" in known && sight.quietMs < limits.idleStopMs) {
    return { verdict: "putRight" };
  }
  return { verdict: "publish", fields };
}

/** Of a folder only these are its own; the rest is made of what is in it. */
const folderFields: readonly UserDataField[] = ["favourite", "likes", "rating"];

function isEqual(field: UserDataField, left: unknown, right: unknown): boolean {
  if (field !== "lastPlayedDate") return left === right;
  return sameDate(left as string | null, right as string | null);
}

function isInitial(value: unknown): boolean {
  return value === false || value === 0 || value === null;
}

function sameOfFolder(left: ServerUserData, right: ServerUserData): boolean {
  return folderFields.every((field) => left[field] === right[field]);
}
