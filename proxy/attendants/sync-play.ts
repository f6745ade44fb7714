// SyncPlay over a cluster. A group lives in one server's memory and speaks over its members' sockets at that
// server; so whoever joins one moves there with all that is his (his home), and stays while he is a member.
// What the server tells the members is written down as it passes (core/cluster/groups.ts). When the server is
// gone, the first member whose socket is somewhere again makes the group anew there, with its queue and its
// position, and every door lets the members whose sockets it has join it; the id they know means the new one.
//
// It promises: a member is in the group that the cluster says, wherever that is, as soon as his socket is
// there; nobody is put into a group that he did not join, and everything is done with the member's own token,
// so that the server's rules of access hold; what a client hears of all this is a queue that begins again
// where it was. Without the store a door does it for the members it has itself.

import {
  type Group,
  type GroupMember,
  type GroupMessage,
  groupsTogether,
  itemsLimit,
  learnt,
  memberNoteId,
  newGroup,
  positionAt,
  type QueueClock,
  queueClock,
  queueDateMs,
  readGroup,
  readGroupMessage,
  readMember,
  readNoteId,
  withGroupId,
  withQueueShift,
} from "../../core/cluster/groups.ts";
import { type Identity, normalId } from "../../core/cluster/identity.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import type { ClusterView } from "../../core/cluster/view.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { bodyValue } from "../../core/jellyfin/playback.ts";
import { byLowerName } from "../../core/jellyfin/raw-headers.ts";
import type { Clock } from "../../core/service/clock.ts";
import type { Log } from "../../core/service/log.ts";
import { repeat } from "../../core/service/loop.ts";
import type { Note, Store } from "../../core/store/store.ts";
import type { Attendant, Attended } from "../attendant.ts";
import { Bounded } from "../bounded.ts";
import type { HeldReply } from "../client.ts";
import type { Homes } from "../homes.ts";
import type { SocketWatch } from "../lanes/socket-host.ts";
import { withBody } from "../reply.ts";

export interface SyncPlayParts {
  readonly store: Store;
  readonly memory: Memory;
  readonly homes: Homes;
  readonly log: Log;
  readonly clock: Clock;
  readonly view: () => ClusterView;
  readonly clientOf: (replica: string) => JellyfinClient | undefined;
  /** A login's token is wanted at that replica. */
  readonly urgent: (replica: string, identityKey: string) => void;
  /** Whether an identity has a socket at this door, wherever that is dialled to. */
  readonly holds: (identityKey: string) => boolean;
  /** Told of each group that was made anew. */
  readonly onRemade: () => void;
  /** Where the open sockets of an identity are, at this door. */
  readonly seatsOf: (identityKey: string) => readonly string[];
}

/** Notes end so long after nobody renewed them: when all doors of a group have died, the group has, too. */
const noteTtlMs = 5 * 60_000;
const renewIntervalMs = 60_000;
/** A group's pin only orders who makes it again; it outlives any evening. */
const pinTtlMs = 24 * 3_600_000;
/** A request waits so long for its group, or its maker's socket, to be where it belongs. */
const gatherLimitMs = 4000;
/** After a client's last socket closed it may open another; then it has left. */
const leaveGraceMs = 10_000;
/** While a group gathers anew, nobody is told that those who were there all along have come. */
const gatheringMs = 8000;
/** How long the server's word about a join, which comes over the socket, is waited for. */
const joinWordLimitMs = 500;
const othersLimitMs = 2000;
/** A list waits so long for the token of somebody who has only just logged in. */
const tokenLimitMs = 1000;
const retryPauseMs = 300;
const triesLimit = 20;
const groupsRemembered = 1000;
const membersLimit = 5000;

interface KnownGroup {
  readonly id: string;
  readonly replica: string;
  readonly group: Group;
}

interface Writing {
  isRunning: boolean;
  again: boolean;
}

export class SyncPlay implements Attendant, SocketWatch {
  readonly name = "SyncPlay";
  readonly #parts: SyncPlayParts;
  /** By the id that clients know. What is learnt is here before it is in the store. */
  readonly #groups = new Map<string, KnownGroup>();
  /** The clients' id of a group by what its replica knows it by. */
  readonly #idByOwn = new Bounded<string, string>(groupsRemembered);
  /** Groups that a server speaks of before anybody wrote them down: one is being made. */
  readonly #unwritten = new Bounded<string, Group>(groupsRemembered);
  readonly #members = new Map<string, { readonly id: string; readonly member: GroupMember }>();
  /** Who is about to join which group, while he has another device in another one. */
  readonly #joining = new Map<string, { readonly id: string; readonly member: GroupMember }>();
  /** What each member with a socket here is known to have joined with that socket; `no`: not yet. */
  readonly #joined = new Bounded<string, string>(membersLimit);
  /** Members who are making a group anew right now, and which. */
  readonly #making = new Map<string, string>();
  /** Who asked to leave, or to go into another group: what the server says of that is for them. */
  readonly #leaving = new Bounded<string, number>(membersLimit);
  /** The last word about a join, by identity. */
  readonly #joinWords = new Bounded<string, string>(membersLimit);
  readonly #queueClocks = new Bounded<string, QueueClock>(membersLimit);
  /** Groups that this door is making anew. */
  readonly #makings = new Set<string>();
  readonly #settling = new Map<string, { again: boolean }>();
  readonly #writings = new Map<string, Writing>();
  readonly #askedMs = new Bounded<string, number>(membersLimit);

  constructor(parts: SyncPlayParts) {
    this.#parts = parts;
    parts.memory.onNote((note) => {
      if (note.kind === "group") this.#heardNote(note);
    });
    parts.memory.onStoreAvailable((available) => {
      if (available) void this.#renew();
    });
  }

  /** Renews what this door is to keep, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void> {
    return repeat(renewIntervalMs, signal, () => this.#renew());
  }

  /** The view has changed: whoever was in a group at a replica that is gone by now is brought elsewhere. */
  viewChanged(): void {
    for (const [key, { id }] of this.#members) {
      const known = this.#groups.get(id);
      if (known !== undefined && !this.#isGood(known.replica)) this.#settle(key);
    }
  }

  /** True while some device of this user watches together with others: the home is not to be moved for load. */
  isMember(userId: string): boolean {
    for (const { member } of this.#members.values()) if (member.userId === userId) return true;
    return false;
  }

  // ---- Requests -------------------------------------------------------------------------------------

  readonly attends: Attendant["attends"] = ({ kind }) =>
    kind === "syncPlay" || kind === "syncPlayList";

  readonly before: NonNullable<Attendant["before"]> = async (asked) => {
    const identity = this.#personOf(asked);
    if (identity === undefined) return undefined;
    const deadlineMs = Math.min(asked.deadlineMs, this.#parts.clock.monotonicMs() + gatherLimitMs);
    this.#askedMs.set(identity.key, this.#parts.clock.monotonicMs());
    switch (verbOf(asked)) {
      case "Join": {
        this.#markLeaving(identity.key);
        this.#joinWords.delete(identity.key);
        const id = this.#groupAsked(asked);
        if (id !== undefined) await this.#gather(identity, id, deadlineMs);
        break;
      }
      case "New":
        this.#markLeaving(identity.key);
        break;
      case "Leave":
        this.#markLeaving(identity.key);
        // First of all, so that every door believes the server that he has left.
        await this.#forgetMember(identity.key);
        break;
      case "List":
      case "{groupId}":
        break;
      default:
        await this.#until(deadlineMs, () => this.#isInPlace(identity.key));
    }
    return undefined;
  };

  readonly bound: NonNullable<Attendant["bound"]> = (asked) => {
    const verb = verbOf(asked);
    if (verb === "List" || verb === "New") return undefined;
    const id = verb === "Join" || verb === "{groupId}" ? this.#groupAsked(asked) : undefined;
    const key = asked.identity?.key;
    const known =
      id === undefined && key !== undefined && verb !== "Join"
        ? this.#groupOf(key)
        : this.#groups.get(id ?? "");
    return known === undefined ? undefined : { replica: known.replica, kind: "SyncPlay group" };
  };

  readonly rewrite: NonNullable<Attendant["rewrite"]> = (asked, replica) => {
    const id = this.#groupAsked(asked);
    const known = id === undefined ? undefined : this.#groups.get(id);
    if (known === undefined || known.replica !== replica || known.group.own === id) {
      return undefined;
    }
    const { facts } = asked;
    if (verbOf(asked) === "Join") {
      return { body: Buffer.from(JSON.stringify({ GroupId: known.group.own })) };
    }
    const slash = facts.path.replace(/\/+$/, "").lastIndexOf("/");
    return { path: facts.path.slice(0, slash + 1) + known.group.own };
  };

  readonly after: NonNullable<Attendant["after"]> = async (asked, reply, replica) => {
    const identity = this.#personOf(asked);
    const { status } = reply.head;
    if (identity === undefined || status < 200 || status > 299) return reply;
    switch (verbOf(asked)) {
      case "New":
        await this.#noteNew(identity, reply, replica);
        return reply;
      case "Join":
        await this.#noteJoin(asked, identity, replica);
        return reply;
      case "SetIgnoreWait":
        await this.#noteIgnoreWait(asked, identity.key);
        return reply;
      case "List":
        return await this.#union(asked, identity, reply, replica);
      case "{groupId}":
        return this.#shown(reply);
      default:
        return reply;
    }
  };

  readonly ended: NonNullable<Attendant["ended"]> = (asked) => {
    const key = asked.identity?.key;
    if (key === undefined || verbOf(asked) !== "Join") return;
    const joining = this.#joining.get(key);
    // He was not let in, or nobody knows.
    if (joining !== undefined) void this.#drop(memberNoteId(joining.id, key));
  };

  /** A server that does not know a member as one: he is let in again and the request repeated, once. */
  readonly refused: NonNullable<Attendant["refused"]> = async (asked, reply, replica) => {
    const { status } = reply.head;
    const key = asked.identity?.key;
    if (status !== 403 || key === undefined || verbOf(asked) === "Join") return undefined;
    const known = this.#groupOf(key);
    if (known === undefined || this.#isLeaving(key) || this.#wasRefused.has(asked)) {
      return undefined;
    }
    this.#wasRefused.add(asked);
    if (known.replica === replica) this.#joined.set(key, "no");
    this.#settle(key);
    const limitMs = this.#parts.clock.monotonicMs() + gatherLimitMs;
    await this.#until(Math.min(asked.deadlineMs, limitMs), () => this.#isInPlace(key));
    return this.#isInPlace(key) ? "again" : undefined;
  };
  /** Requests that were repeated because of a refusal: once each. */
  readonly #wasRefused = new WeakSet<Attended>();

  #personOf({ identity }: Attended): Identity | undefined {
    return identity?.kind === "user" ? identity : undefined;
  }

  #groupAsked(asked: Attended): string | undefined {
    const verb = verbOf(asked);
    if (verb === "{groupId}") return normalId(asked.facts.params.groupId ?? "");
    if (verb !== "Join" || asked.bodyText === undefined) return undefined;
    const id = bodyValue(asked.bodyText, "GroupId");
    return typeof id === "string" ? normalId(id) : undefined;
  }

  /** Brings whoever is about to join, with his socket, to where the group is. */
  async #gather(identity: Identity, id: string, deadlineMs: number): Promise<void> {
    const { homes, seatsOf, holds } = this.#parts;
    await this.#until(deadlineMs, () => {
      const known = this.#groups.get(id);
      return known === undefined || this.#isGood(known.replica);
    });
    if (this.#hasOtherGroup(identity.userId, id)) {
      // His other device's group and this one have to be in one place first; every door is told.
      await this.#putMember(id, identity.key, {
        userId: identity.userId,
        joined: "",
        door: homes.owner,
        ignoresWait: false,
        isIn: false,
      });
      await this.#until(deadlineMs, () => {
        const known = this.#groups.get(id);
        return known === undefined || this.#placeOf(known) === known.replica;
      });
    }
    const known = this.#groups.get(id);
    if (known === undefined || !this.#isGood(known.replica)) return;
    const { replica } = known;
    if (homes.homeOf(identity.userId) !== replica) {
      await homes.claim(identity.userId, replica, "their SyncPlay group is there");
    }
    await this.#until(
      deadlineMs,
      () => !holds(identity.key) || seatsOf(identity.key).includes(replica),
    );
  }

  #hasOtherGroup(userId: string, id: string): boolean {
    for (const mine of this.#members.values()) {
      if (mine.member.userId === userId && mine.id !== id) return true;
    }
    return false;
  }

  async #noteNew(identity: Identity, reply: HeldReply, replica: string): Promise<void> {
    const text = reply.body.toString("utf8");
    const own = normalId(String(bodyValue(text, "GroupId") ?? ""));
    const name = bodyValue(text, "GroupName");
    if (readNoteId(own) === undefined || typeof name !== "string") return;
    const nowMs = this.#parts.memory.storeNowMs();
    const heard = this.#unwritten.get(own);
    this.#unwritten.delete(own);
    const group = { ...(heard ?? newGroup(own, name, nowMs)), name: newGroup(own, name, 0).name };
    await this.#forgetMember(identity.key, own);
    this.#keep({ id: own, replica, group });
    await this.#write(own);
    await this.#noteMember(own, identity, own);
  }

  /** 204 says nothing: whether he was let in comes over his socket. */
  async #noteJoin(asked: Attended, identity: Identity, replica: string): Promise<void> {
    const { clock, seatsOf } = this.#parts;
    const id = this.#groupAsked(asked);
    const known = id === undefined ? undefined : this.#groups.get(id);
    if (known === undefined || known.replica !== replica) return;
    if (seatsOf(identity.key).includes(replica)) {
      const limitMs = clock.monotonicMs() + joinWordLimitMs;
      await this.#until(limitMs, () => this.#joinWords.get(identity.key) !== undefined);
      const word = this.#joinWords.get(identity.key);
      if (word !== undefined && word !== known.id) return;
    }
    await this.#forgetMember(identity.key, known.id);
    await this.#noteMember(known.id, identity, known.group.own);
  }

  async #noteMember(id: string, identity: Identity, own: string): Promise<void> {
    const { homes } = this.#parts;
    this.#leaving.delete(identity.key);
    this.#joined.set(identity.key, own);
    await this.#putMember(id, identity.key, {
      userId: identity.userId,
      joined: own,
      door: homes.owner,
      ignoresWait: false,
      isIn: true,
    });
  }

  async #noteIgnoreWait(asked: Attended, key: string): Promise<void> {
    const known = this.#members.get(key);
    const ignoresWait = bodyValue(asked.bodyText ?? "", "IgnoreWait") === true;
    if (known === undefined || known.member.ignoresWait === ignoresWait) return;
    await this.#putMember(known.id, key, { ...known.member, ignoresWait });
  }

  /**
   * The groups of every replica that has any, each asked with this user's own token, so that each shows what
   * he may see. Others are not asked: Jellyfin makes a session of whoever asks, and it would stay.
   */
  async #union(
    asked: Attended,
    identity: Identity,
    reply: HeldReply,
    replica: string,
  ): Promise<HeldReply> {
    const elsewhere = new Set<string>();
    for (const known of this.#groups.values()) {
      if (known.replica !== replica && this.#isReady(known.replica)) elsewhere.add(known.replica);
    }
    const here = listIn(reply.body.toString("utf8"));
    if (here === undefined) return reply;
    const { accept } = byLowerName(asked.rawHeaders);
    const lists = await Promise.all(
      [...elsewhere].map((name) => this.#groupsAt(identity, name, accept, asked.deadlineMs)),
    );
    const names = [replica, ...elsewhere];
    const current = [here, ...lists].flatMap((list, index) =>
      list.filter((group) => this.#isCurrent(group, names[index] ?? "")),
    );
    return withBody(reply, this.#withClientIds(JSON.stringify(current)));
  }

  async #groupsAt(
    identity: Identity,
    replica: string,
    accept: string | undefined,
    deadlineMs: number,
  ): Promise<readonly unknown[]> {
    const { memory, clientOf, clock, urgent } = this.#parts;
    const client = clientOf(replica);
    const tokenNow = () => {
      const now = memory.identities.get(identity.key);
      return now === undefined ? undefined : memory.openToken(now, replica);
    };
    if (tokenNow() === undefined) {
      urgent(replica, identity.key);
      const limitMs = clock.monotonicMs() + tokenLimitMs;
      await this.#until(Math.min(deadlineMs, limitMs), () => tokenNow() !== undefined);
    }
    const token = tokenNow();
    if (client === undefined || token === undefined) return [];
    const device = deviceOf(identity);
    const path = "/SyncPlay/List";
    const answer = await client.callAs(token, device, "GET", path, undefined, accept);
    // Its question made a session there; a member's own is not to be ended.
    if (!this.#parts.seatsOf(identity.key).includes(replica)) {
      void client.endGhostSession(token, device);
    }
    return answer.outcome === "answered" && answer.status === 200
      ? (listIn(answer.text) ?? [])
      : [];
  }

  /** False for what a left replica still has of a group that is elsewhere by now. */
  #isCurrent(group: unknown, replica: string): boolean {
    if (typeof group !== "object" || group === null) return true;
    const { GroupId, groupId } = group as { GroupId?: unknown; groupId?: unknown };
    const own = normalId(String(GroupId ?? groupId ?? ""));
    const known = this.#groups.get(this.#idByOwn.get(own) ?? own);
    return known === undefined || (known.replica === replica && known.group.own === own);
  }

  #shown(reply: HeldReply): HeldReply {
    const text = reply.body.toString("utf8");
    const shown = this.#withClientIds(text);
    return shown === text ? reply : withBody(reply, shown);
  }

  #withClientIds(text: string): string {
    let shown = text;
    for (const { id, group } of this.#groups.values()) shown = withGroupId(shown, group.own, id);
    return shown;
  }

  // ---- Sockets --------------------------------------------------------------------------------------

  seated(identityKey: string, _replica: string): void {
    if (!this.#members.has(identityKey)) {
      this.#joined.delete(identityKey);
      return;
    }
    // Another socket is another session for the server: it is in no group yet.
    this.#joined.set(identityKey, "no");
    this.#settle(identityKey);
  }

  unseated(identityKey: string): void {
    if (!this.#members.has(identityKey)) return;
    const timer = setTimeout(() => {
      const known = this.#members.get(identityKey);
      if (known === undefined || known.member.door !== this.#parts.homes.owner) return;
      if (!this.#parts.holds(identityKey)) void this.#forgetMember(identityKey);
    }, leaveGraceMs);
    timer.unref();
  }

  heard(identityKey: string, _replica: string, text: string): string | undefined {
    const message = readGroupMessage(text);
    if (message === undefined) return text;
    const mine = this.#members.get(identityKey);
    const { own, what } = message;
    if (own === undefined) {
      if (what !== "NotInGroup" && what !== "GroupDoesNotExist") return text;
      this.#joinWords.set(identityKey, what);
      if (mine === undefined || this.#isLeaving(identityKey)) return text;
      // The cluster knows better, and puts it right.
      if (what === "GroupDoesNotExist") this.#joined.set(identityKey, "no");
      this.#settle(identityKey);
      return undefined;
    }
    const making = this.#making.get(identityKey);
    const id = this.#idByOwn.get(own) ?? making ?? own;
    if (making !== undefined && id === making) this.#idByOwn.set(own, making);
    if (what === "GroupJoined" || what === "LibraryAccessDenied") {
      this.#joinWords.set(identityKey, what === "GroupJoined" ? id : what);
    }
    const known = this.#groups.get(id);
    if (making !== undefined) {
      // Its maker is alone in it yet; what it was before is what counts.
      if (what === "Stop" && known?.group.isIdle !== true) return undefined;
      return this.#toMember(identityKey, text, message, own, id);
    }
    if (known === undefined) this.#hearUnwritten(own, message);
    else if (known.group.own === own) this.#learn(known, message);
    else return undefined;
    if (what === "GroupLeft" && mine?.id === id && !this.#isLeaving(identityKey)) return undefined;
    if (what === "UserJoined" || what === "UserLeft") {
      const inner = message.data.Data;
      if (known !== undefined && this.#isGathering(known, inner)) return undefined;
    }
    return this.#toMember(identityKey, text, message, own, id);
  }

  /** As the member knows it: the group by its first id, and no queue dated before one that he has. */
  #toMember(
    identityKey: string,
    text: string,
    message: GroupMessage,
    own: string,
    id: string,
  ): string {
    const dateMs = queueDateMs(message);
    let shown = text;
    if (dateMs !== undefined) {
      const clock = queueClock(this.#queueClocks.get(identityKey), own, dateMs);
      this.#queueClocks.set(identityKey, clock);
      shown = withQueueShift(text, message, clock.shiftMs);
    }
    return withGroupId(shown, own, id);
  }

  /** Whether somebody of that name was in the group before it was made anew and only comes to it again. */
  #isGathering({ id, group }: KnownGroup, userName: unknown): boolean {
    const { memory } = this.#parts;
    if (memory.storeNowMs() - group.remadeAtMs >= gatheringMs) return false;
    for (const [key, mine] of this.#members) {
      if (mine.id !== id || mine.member.joined === group.own) continue;
      if (memory.identities.get(key)?.userName === userName) return true;
    }
    return false;
  }

  #hearUnwritten(own: string, message: GroupMessage): void {
    const nowMs = this.#parts.memory.storeNowMs();
    const before = this.#unwritten.get(own) ?? newGroup(own, "", nowMs);
    this.#unwritten.set(own, learnt(before, message, nowMs));
  }

  #learn(known: KnownGroup, message: GroupMessage): void {
    const group = learnt(known.group, message, this.#parts.memory.storeNowMs());
    if (group === known.group) return;
    this.#keep({ ...known, group });
    void this.#write(known.id);
  }

  // ---- A member's place -----------------------------------------------------------------------------

  /** Brings a member to where the cluster says; one at a time for each, and again when something changed. */
  #settle(key: string): void {
    const running = this.#settling.get(key);
    if (running !== undefined) {
      running.again = true;
      return;
    }
    const state = { again: false };
    this.#settling.set(key, state);
    void this.#settleUntilDone(key, state)
      .catch((error: unknown) => {
        this.#parts.log.error({ err: error }, "a SyncPlay member could not be brought to a group");
      })
      .finally(() => this.#settling.delete(key));
  }

  async #settleUntilDone(key: string, state: { again: boolean }): Promise<void> {
    for (let tries = 0; tries < triesLimit; tries++) {
      state.again = false;
      const isDone = await this.#settleOnce(key);
      if (state.again) continue;
      if (isDone) return;
      await pause(retryPauseMs);
    }
  }

  /** True when there is nothing more to do for now; false: try again a little later. */
  async #settleOnce(key: string): Promise<boolean> {
    const { memory, homes, seatsOf } = this.#parts;
    const mine = this.#members.get(key);
    const identity = memory.identities.get(key);
    const known = mine === undefined ? undefined : this.#groups.get(mine.id);
    if (mine === undefined || known === undefined || identity === undefined) return true;
    const seats = seatsOf(key);
    if (seats.length === 0) return true;
    if (mine.member.door !== homes.owner) {
      await this.#putMember(mine.id, key, { ...mine.member, door: homes.owner });
    }
    const { replica } = known;
    if (!this.#isGood(replica)) {
      // The group goes where its members are at home by now.
      const home = homes.homeOf(identity.userId);
      const seat = seats.find((name) => name === home) ?? seats[0];
      if (seat === undefined || !this.#isGood(seat)) return false;
      if (seat !== home) {
        // A socket on its detour round a home that is gone is where he lives by now.
        if (home !== undefined && this.#isGood(home)) return false;
        await homes.claim(identity.userId, seat, `${home ?? "its home"} is gone`);
        return false;
      }
      return await this.#make(known, identity, seat);
    }
    const place = this.#placeOf(known);
    if (!seats.includes(place)) {
      // The socket follows the home; then this is asked again.
      if (homes.homeOf(identity.userId) !== place) {
        await homes.claim(identity.userId, place, "their SyncPlay group is there");
      }
      return true;
    }
    if (place !== replica) return await this.#make(known, identity, place);
    if ((this.#joined.get(key) ?? mine.member.joined) === known.group.own) return true;
    return await this.#join(known, identity, mine.member);
  }

  /** Where a group belongs: somebody with two devices in two groups has only one home, so they meet there. */
  #placeOf({ id, replica }: KnownGroup): string {
    const all = [...this.#members.values(), ...this.#joining.values()];
    const memberships = all.map((mine) => ({
      groupId: mine.id,
      userId: mine.member.userId,
    }));
    for (const other of groupsTogether(id, memberships)) {
      const known = this.#groups.get(other);
      if (known !== undefined && this.#isGood(known.replica)) return known.replica;
    }
    return replica;
  }

  async #join(known: KnownGroup, identity: Identity, member: GroupMember): Promise<boolean> {
    const { memory, clientOf } = this.#parts;
    const { replica, group } = known;
    const client = clientOf(replica);
    const token = memory.openToken(identity, replica);
    if (client === undefined || token === undefined) return false;
    const device = deviceOf(identity);
    const list = await client.callAs(token, device, "GET", "/SyncPlay/List");
    if (list.outcome !== "answered" || list.status !== 200) return false;
    if (!normalId(list.text).includes(group.own)) return await this.#make(known, identity, replica);
    const answer = await client.callAs(token, device, "POST", "/SyncPlay/Join", {
      GroupId: group.own,
    });
    if (answer.outcome !== "answered" || answer.status >= 300) return false;
    this.#joined.set(identity.key, group.own);
    if (member.ignoresWait) {
      const body = { IgnoreWait: true };
      await client.callAs(token, device, "POST", "/SyncPlay/SetIgnoreWait", body);
    }
    return true;
  }

  /**
   * Makes the group anew at `replica` in this member's name: claimed first, so that of several doors one
   * does it; then made, with queue and position; written down only then, so that nobody joins a group that
   * has no queue yet. Dying in between leaves a group there that is empty when its only member's socket ends.
   */
  async #make(known: KnownGroup, identity: Identity, replica: string): Promise<boolean> {
    if (this.#makings.has(known.id)) {
      await this.#madeByOthers(known);
      return false;
    }
    this.#makings.add(known.id);
    try {
      return await this.#makeHere(known, identity, replica);
    } finally {
      this.#makings.delete(known.id);
    }
  }

  async #madeByOthers({ id, group }: KnownGroup): Promise<void> {
    const limitMs = this.#parts.clock.monotonicMs() + othersLimitMs;
    await this.#until(limitMs, () => this.#groups.get(id)?.group.own !== group.own);
  }

  async #makeHere(known: KnownGroup, identity: Identity, replica: string): Promise<boolean> {
    const { memory, clientOf, log } = this.#parts;
    const client = clientOf(replica);
    const token = memory.openToken(identity, replica);
    if (client === undefined || token === undefined) return false;
    if (!(await this.#isClaimed(known, replica))) {
      await this.#madeByOthers(known);
      return false;
    }
    this.#making.set(identity.key, known.id);
    try {
      const device = deviceOf(identity);
      const ask = (verb: string, body: unknown) =>
        client.callAs(token, device, "POST", `/SyncPlay/${verb}`, body);
      const made = await ask("New", { GroupName: known.group.name });
      if (made.outcome !== "answered" || made.status !== 200) return false;
      const own = normalId(String(bodyValue(made.text, "GroupId") ?? ""));
      if (readNoteId(own) === undefined) return false;
      this.#idByOwn.set(own, known.id);
      const { group } = this.#groups.get(known.id) ?? known;
      const nowMs = memory.storeNowMs();
      const positionTicks = positionAt(group, nowMs);
      for (const [verb, body] of queueRequests(group, positionTicks)) {
        const answer = await ask(verb, body);
        if (answer.outcome !== "answered") return false;
      }
      this.#joined.set(identity.key, own);
      const stands = { positionTicks, atMs: nowMs, isRunning: false, remadeAtMs: nowMs };
      // The new server counts versions by its own clock.
      const versions = { queueVersion: "", commandVersion: "" };
      this.#keep({ id: known.id, replica, group: { ...group, ...stands, ...versions, own } });
    } finally {
      this.#making.delete(identity.key);
    }
    await this.#write(known.id);
    this.#parts.onRemade();
    log.info(`a SyncPlay group that was at ${known.replica} goes on at ${replica}`);
    this.#callMembers(known.id);
    return true;
  }

  /** Members of that group come to its replica; those whose sockets are at this door join at once. */
  #callMembers(id: string): void {
    const { homes } = this.#parts;
    const known = this.#groups.get(id);
    if (known === undefined) return;
    for (const [key, { id: group, member }] of this.#members) {
      if (group !== id) continue;
      if (homes.homeOf(member.userId) !== known.replica && this.#isGood(known.replica)) {
        void homes.claim(member.userId, known.replica, "their SyncPlay group is there");
      }
      this.#settle(key);
    }
  }

  async #isClaimed(known: KnownGroup, replica: string): Promise<boolean> {
    const { store, memory, homes } = this.#parts;
    if (!memory.storeAvailable) return true;
    const { id } = known;
    const kind = "syncPlay";
    const before = memory.pinOf(kind, id, memory.storeNowMs());
    const { owner } = homes;
    const isUnderWay =
      before?.replica === replica && before.epoch.owner !== owner && known.replica !== replica;
    if (isUnderWay) {
      // Another door has the right to make it there and has not said yet that it did; it may have died.
      await this.#madeByOthers(known);
      if (this.#groups.get(id)?.group.own !== known.group.own) return false;
    }
    const expectedEpoch = before?.epoch.number ?? 0;
    try {
      const claim = { kind, id, replica, owner, ttlMs: pinTtlMs, expectedEpoch } as const;
      const { granted, pin } = await store.movePin(claim);
      memory.apply({ type: "pin", pin });
      return granted;
    } catch (error) {
      memory.noteStoreFailure(error);
      return true;
    }
  }

  #isInPlace(key: string): boolean {
    const { seatsOf, holds } = this.#parts;
    const mine = this.#members.get(key);
    const known = mine === undefined ? undefined : this.#groups.get(mine.id);
    if (mine === undefined || known === undefined) return true;
    if (!this.#isReady(known.replica)) return false;
    // Whose socket is at another door is brought there by that one.
    if (!holds(key)) return true;
    if (!seatsOf(key).includes(known.replica)) return false;
    return (this.#joined.get(key) ?? mine.member.joined) === known.group.own;
  }

  #isReady(replica: string): boolean {
    return this.#parts.view().replicas.get(replica)?.state === "ready";
  }

  /** A place to stay: ready, and not about to be stopped. */
  #isGood(replica: string): boolean {
    return this.#isReady(replica) && this.#parts.view().replicas.get(replica)?.isDraining !== true;
  }

  #groupOf(key: string): KnownGroup | undefined {
    const mine = this.#members.get(key);
    return mine === undefined ? undefined : this.#groups.get(mine.id);
  }

  #markLeaving(key: string): void {
    this.#leaving.set(key, this.#parts.clock.monotonicMs() + gatherLimitMs);
  }

  #isLeaving(key: string): boolean {
    return (this.#leaving.get(key) ?? 0) > this.#parts.clock.monotonicMs();
  }

  // ---- Notes ----------------------------------------------------------------------------------------

  #keep(known: KnownGroup): void {
    this.#groups.set(known.id, known);
    this.#idByOwn.set(known.group.own, known.id);
  }

  /** Writes the group as it is here; changes that come meanwhile are written in one go afterwards. */
  async #write(id: string): Promise<void> {
    const running = this.#writings.get(id);
    if (running !== undefined) {
      running.again = true;
      return;
    }
    const writing: Writing = { isRunning: true, again: true };
    this.#writings.set(id, writing);
    while (writing.again) {
      writing.again = false;
      const known = this.#groups.get(id);
      if (known === undefined) break;
      await this.#put(id, known.replica, JSON.stringify(known.group));
    }
    this.#writings.delete(id);
  }

  async #putMember(id: string, key: string, member: GroupMember): Promise<void> {
    this.#heldMember(id, key, member);
    await this.#put(memberNoteId(id, key), "", JSON.stringify(member));
  }

  async #put(id: string, replica: string, value: string): Promise<void> {
    const { store, memory, log } = this.#parts;
    const note = { kind: "group", id, replica, value } as const;
    try {
      // While the store is away it is told nothing; when it is back it is told everything (`#renew`).
      if (memory.storeAvailable) await store.putNote(note, noteTtlMs);
    } catch (error) {
      if (error instanceof RangeError) {
        log.warn("too many SyncPlay groups are remembered: one will not outlive its server");
      } else memory.noteStoreFailure(error);
    }
    memory.apply({ type: "note", note: { ...note, expiresAtMs: memory.storeNowMs() + noteTtlMs } });
  }

  /** The member has left, but for a group that he is in by now. With the last one the group ends. */
  async #forgetMember(key: string, except?: string): Promise<void> {
    const mine = this.#members.get(key);
    if (mine === undefined || mine.id === except) return;
    this.#members.delete(key);
    this.#joined.delete(key);
    await this.#drop(memberNoteId(mine.id, key));
    for (const { id } of this.#members.values()) if (id === mine.id) return;
    this.#groups.delete(mine.id);
    await this.#drop(mine.id);
  }

  async #drop(id: string): Promise<void> {
    const { store, memory } = this.#parts;
    try {
      if (memory.storeAvailable) await store.dropNotes({ kind: "group", id });
    } catch (error) {
      memory.noteStoreFailure(error);
    }
    const gone = { kind: "group", id, replica: "", value: "", expiresAtMs: 0 } as const;
    memory.apply({ type: "note", note: gone });
  }

  #heardNote(note: Note): void {
    const about = readNoteId(note.id);
    if (about === undefined) return;
    const { groupId, identityKey } = about;
    if (identityKey !== undefined) this.#heardMember(groupId, identityKey, note.value);
    else if (note.value === "") this.#groups.delete(groupId);
    else this.#heardGroup(groupId, note);
  }

  #heardMember(id: string, key: string, value: string): void {
    const member = value === "" ? undefined : readMember(value);
    if (member !== undefined) {
      this.#heldMember(id, key, member);
      return;
    }
    if (this.#members.get(key)?.id === id) this.#members.delete(key);
    if (this.#joining.get(key)?.id === id) this.#joining.delete(key);
  }

  #heldMember(id: string, key: string, member: GroupMember): void {
    if (member.isIn) {
      this.#members.set(key, { id, member });
      this.#joining.delete(key);
      return;
    }
    this.#joining.set(key, { id, member });
    // Groups may have to come together for him.
    for (const [other, mine] of this.#members) {
      const known = this.#groups.get(mine.id);
      if (known !== undefined && this.#placeOf(known) !== known.replica) this.#settle(other);
    }
  }

  #heardGroup(id: string, note: Note): void {
    const group = readGroup(note.value);
    if (group === undefined) {
      this.#parts.log.warn("a SyncPlay group in the store is not one of ours and is left alone");
      return;
    }
    const before = this.#groups.get(id);
    // An older word of another door about the same group: what was heard here since is newer.
    const isOlder =
      before?.group.own === group.own &&
      (before.group.queueVersion > group.queueVersion ||
        before.group.commandVersion > group.commandVersion);
    if (isOlder) return;
    this.#keep({ id, replica: note.replica, group });
    if (before !== undefined && before.group.own !== group.own) this.#callMembers(id);
  }

  async #renew(): Promise<void> {
    const { homes, holds, clock } = this.#parts;
    const groups = new Set<string>();
    for (const [key, { id, member }] of [...this.#members]) {
      if (member.door !== homes.owner) continue;
      const askedMs = this.#askedMs.get(key) ?? Number.NEGATIVE_INFINITY;
      const isHere = holds(key) || clock.monotonicMs() - askedMs < renewIntervalMs;
      if (!isHere) continue;
      groups.add(id);
      await this.#putMember(id, key, member);
    }
    for (const id of groups) await this.#write(id);
  }

  /** Waits, at most until that moment of the monotonic clock, for something to hold. */
  async #until(deadlineMs: number, holds: () => boolean): Promise<void> {
    while (!holds() && this.#parts.clock.monotonicMs() < deadlineMs) await pause(20);
  }
}

/** What a new group is asked so that it is what the old one was. */
function queueRequests(group: Group, positionTicks: number): [string, unknown][] {
  if (group.items.length === 0) return [];
  const requests: [string, unknown][] = [
    [
      "SetNewQueue",
      {
        PlayingQueue: group.items.slice(0, itemsLimit),
        PlayingItemPosition: Math.max(group.index, 0),
        StartPositionTicks: positionTicks,
      },
    ],
  ];
  if (group.repeat !== "RepeatNone") requests.push(["SetRepeatMode", { Mode: group.repeat }]);
  if (group.isShuffled) requests.push(["SetShuffleMode", { Mode: "Shuffle" }]);
  if (group.isIdle) requests.push(["Stop", {}]);
  else if (!group.wantsPlay) requests.push(["Pause", {}]);
  return requests;
}

/** The last word of the route: `Join`, `List`, `{groupId}` … */
function verbOf({ facts }: Attended): string {
  const { pattern } = facts.route;
  return pattern.slice(pattern.lastIndexOf("/") + 1);
}

function deviceOf({ client, device, deviceId, version }: Identity) {
  return { client, device, deviceId, version };
}

function listIn(text: string): readonly unknown[] | undefined {
  try {
    const list: unknown = JSON.parse(text);
    return Array.isArray(list) ? list : undefined;
  } catch {
    // Not the list it should be: it is shown, or left out, as it is.
    return undefined;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
