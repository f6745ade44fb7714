/**
 * Watching together: groups, their queue and their four states, in the memory of one server and gone with it. Members are
 * sessions; what a group says goes over the members' sockets and is lost where there is none. It follows SyncPlayManager,
 * Group, PlayQueueManager and the GroupStates of 12.0 closely enough that a client which works with one works with the
 * other: when a state waits, whom it tells to pause, what it makes of a Ready at the wrong place.
 */
import type { Exchange, Routes } from "./http.ts";
import { Refusal } from "./http.ts";
import { dashed, EMPTY_ID, jellyfinDate, parseId, randomId } from "./ids.ts";
import type { Library } from "./library.ts";
import { field } from "./routes/accounts.ts";
import { ownSession } from "./routes/sessions.ts";
import type { Session, Sessions } from "./sessions.ts";

const DEFAULT_PING_MS = 500;
const TIME_SYNC_OFFSET_MS = 2000;
const MAX_OFFSET_TICKS = 500 * 10_000;
const TICKS_PER_MS = 10_000;

type StateName = "Idle" | "Waiting" | "Paused" | "Playing";
type Audience = "all" | "current" | "others" | "ready";
type Command = "Unpause" | "Pause" | "Stop" | "Seek";
type QueueItem = { readonly ItemId: string; readonly PlaylistItemId: string };
type Member = {
  readonly session: Session;
  readonly userId: string;
  readonly userName: string;
  pingMs: number;
  isBuffering: boolean;
  ignoresWait: boolean;
};
/** What a Waiting state remembers of how it came about, and a Playing one that was forced. */
type State = {
  name: StateName;
  resumes: boolean;
  initial: StateName | undefined;
  ignoresBuffering: boolean;
};

/** What of the server a group needs. */
export type SyncPlayWorld = {
  readonly sessions: Sessions;
  readonly library: Library;
  /** Whether that user may see that item. */
  readonly maySee: (userId: string, itemId: string) => boolean;
};

export class SyncPlay {
  readonly #world: SyncPlayWorld;
  readonly #groups = new Map<string, Group>();
  readonly #groupBySession = new Map<string, Group>();

  constructor(world: SyncPlayWorld) {
    this.#world = world;
    world.sessions.onEnded = (session) => {
      if (this.#groupBySession.has(session.id)) this.leave(session);
    };
  }

  isActive(userId: string): boolean {
    return [...this.#groups.values()].some((group) => group.hasUser(userId));
  }

  create(session: Session, name: string): unknown {
    if (this.#groupBySession.has(session.id)) this.leave(session);
    const group = new Group(this.#world, name);
    this.#groups.set(group.id, group);
    this.#groupBySession.set(session.id, group);
    group.add(session);
    group.open(session);
    return group.info();
  }

  join(session: Session, id: string): void {
    const group = this.#groups.get(id);
    if (group === undefined) {
      this.#tell(session, "GroupDoesNotExist", EMPTY_ID, "");
      return;
    }
    if (!group.mayBeSeenBy(session.userId ?? "")) {
      this.#tell(session, "LibraryAccessDenied", group.id, "");
      return;
    }
    const known = this.#groupBySession.get(session.id);
    if (known !== undefined && known !== group) this.leave(session);
    this.#groupBySession.set(session.id, group);
    group.add(session);
    group.joined(session);
  }

  leave(session: Session): void {
    const group = this.#groupBySession.get(session.id);
    if (group === undefined) {
      this.#tell(session, "NotInGroup", EMPTY_ID, "");
      return;
    }
    this.#groupBySession.delete(session.id);
    group.left(session);
    if (group.isEmpty) this.#groups.delete(group.id);
  }

  /** The group of a session; undefined, and the session is told, when it is in none. */
  groupOf(session: Session): Group | undefined {
    const group = this.#groupBySession.get(session.id);
    if (group === undefined) this.#tell(session, "NotInGroup", EMPTY_ID, "");
    return group;
  }

  list(userId: string): Group[] {
    return [...this.#groups.values()].filter((group) => group.mayBeSeenBy(userId));
  }

  #tell(session: Session, type: string, groupId: string, data: unknown): void {
    const update = { GroupId: groupId, Data: data, Type: type };
    this.#world.sessions.sendTo(session, "SyncPlayGroupUpdate", update);
  }
}

export class Group {
  readonly id = randomId();
  readonly #name: string;
  readonly #world: SyncPlayWorld;
  readonly #members = new Map<string, Member>();
  #state: State = stateNamed("Idle");
  #positionTicks = 0;
  /** When the position above was true; in the future while a start is agreed upon. */
  #lastActivityMs = Date.now();
  #runTimeTicks = 0;
  #sorted: QueueItem[] = [];
  #shuffled: QueueItem[] = [];
  #index = -1;
  #lastChangeMs = Date.now();
  #isShuffled = false;
  #repeat = "RepeatNone";

  constructor(world: SyncPlayWorld, name: string) {
    this.#world = world;
    this.#name = name;
  }

  get isEmpty(): boolean {
    return this.#members.size === 0;
  }

  hasUser(userId: string): boolean {
    return [...this.#members.values()].some((member) => member.userId === userId);
  }

  mayBeSeenBy(userId: string): boolean {
    return this.#queue.every(({ ItemId }) => this.#world.maySee(userId, ItemId));
  }

  info(): Record<string, unknown> {
    const names = [...this.#members.values()].map((member) => member.userName);
    return {
      GroupId: this.id,
      GroupName: this.#name,
      State: this.#state.name,
      Participants: [...new Set(names)],
      LastUpdatedAt: jellyfinDate(Date.now()),
    };
  }

  // --- members ------------------------------------------------------------------------------------------------------

  add(session: Session): void {
    if (this.#members.has(session.id)) return;
    this.#members.set(session.id, {
      session,
      userId: session.userId ?? "",
      userName: session.userName ?? "",
      pingMs: DEFAULT_PING_MS,
      isBuffering: false,
      ignoresWait: false,
    });
  }

  open(session: Session): void {
    const playing = session.nowPlaying;
    if (playing !== undefined && typeof playing.Id === "string") {
      this.#setQueue([playing.Id], 0, Number(session.playState.PositionTicks ?? 0));
      this.#state = { ...stateNamed("Waiting"), resumes: session.playState.IsPaused !== true };
    }
    this.#update(session, "current", "GroupJoined", this.info());
    this.#sessionJoined(session);
  }

  joined(session: Session): void {
    this.#update(session, "current", "GroupJoined", this.info());
    this.#update(session, "others", "UserJoined", session.userName);
    this.#sessionJoined(session);
  }

  left(session: Session): void {
    this.#sessionLeaving(session);
    this.#members.delete(session.id);
    // The session that leaves is no longer a member, and is told all the same.
    const data = dashed(this.id);
    const update = { GroupId: this.id, Data: data, Type: "GroupLeft" };
    this.#world.sessions.sendTo(session, "SyncPlayGroupUpdate", update);
    this.#update(session, "others", "UserLeft", session.userName);
  }

  #sessionJoined(session: Session): void {
    if (this.#state.name === "Idle") {
      this.#command(session, "current", "Stop");
      return;
    }
    if (this.#state.name === "Playing" || this.#state.name === "Paused") {
      const before = this.#wait();
      if (before === "Playing") {
        this.#state.resumes = true;
        this.#stopTheClock();
      }
    }
    this.#state.initial ??= "Waiting";
    this.#tellQueue(session, "current", "NewPlaylist");
    this.#setBuffering(session, true);
    this.#command(session, "ready", "Pause");
  }

  #sessionLeaving(session: Session): void {
    if (this.#state.name !== "Waiting") return;
    this.#setBuffering(session, false);
    this.#goOnIfReady(session);
  }

  #goOnIfReady(session: Session): void {
    if (this.#isBuffering) return;
    if (this.#state.resumes) {
      this.#state = stateNamed("Playing");
      this.#unpause(session);
    } else this.#state = stateNamed("Paused");
  }

  // --- requests -----------------------------------------------------------------------------------------------------

  setNewQueue(session: Session, ids: readonly string[], index: number, ticks: number): void {
    const before = this.#wait();
    this.#state.resumes = true;
    const isGood = ids.length > 0 && index >= 0 && index < ids.length && this.#allMaySee(ids);
    if (!isGood) {
      this.#state = stateNamed(before === "Waiting" ? "Idle" : before);
      return;
    }
    this.#setQueue(ids, index, ticks);
    this.#tellQueue(session, "all", "NewPlaylist");
    this.#setAllBuffering(true);
  }

  setPlaylistItem(session: Session, playlistItemId: string): void {
    const before = this.#wait();
    this.#state.resumes = true;
    this.#index = this.#queue.findIndex((item) => item.PlaylistItemId === playlistItemId);
    this.#changed();
    this.#restartItem();
    if (this.#index < 0) {
      this.#state = stateNamed(before === "Waiting" ? "Idle" : before);
      return;
    }
    this.#tellQueue(session, "all", "SetCurrentItem");
    this.#setAllBuffering(true);
  }

  removeFromPlaylist(
    session: Session,
    ids: readonly string[],
    clears: boolean,
    clearsPlaying: boolean,
  ): void {
    const playing = this.#playing;
    let isPlayingRemoved = false;
    if (clears) {
      const kept = clearsPlaying || playing === undefined ? [] : [playing];
      this.#sorted = [...kept];
      this.#shuffled = this.#isShuffled ? [...kept] : [];
      this.#index = kept.length - 1;
      isPlayingRemoved = clearsPlaying;
    } else {
      const before = this.#queue.slice(0, Math.max(0, this.#index));
      const removedBefore = before.filter((item) => ids.includes(item.PlaylistItemId)).length;
      const stays = (item: QueueItem) => !ids.includes(item.PlaylistItemId);
      this.#sorted = this.#sorted.filter(stays);
      this.#shuffled = this.#shuffled.filter(stays);
      isPlayingRemoved = playing !== undefined && !stays(playing);
      if (isPlayingRemoved) {
        this.#index -= removedBefore + 1;
        if (this.#index < 0) this.#index = this.#queue.length > 0 ? 0 : -1;
      } else if (playing !== undefined) this.#index = this.#queue.indexOf(playing);
    }
    this.#changed();
    if (isPlayingRemoved) this.#restartItem();
    this.#tellQueue(session, "all", "RemoveItems");
    if (isPlayingRemoved && this.#index < 0) this.stop(session);
  }

  movePlaylistItem(session: Session, playlistItemId: string, newIndex: number): void {
    const queue = this.#queue;
    const from = queue.findIndex((item) => item.PlaylistItemId === playlistItemId);
    const [moved] = from < 0 ? [] : queue.splice(from, 1);
    if (moved === undefined) return;
    const playing =
      from === this.#index ? moved : queue[this.#index - (from < this.#index ? 1 : 0)];
    queue.splice(Math.min(Math.max(newIndex, 0), queue.length), 0, moved);
    this.#index = playing === undefined ? -1 : queue.indexOf(playing);
    this.#changed();
    this.#tellQueue(session, "all", "MoveItem");
  }

  queue(session: Session, ids: readonly string[], mode: string): void {
    if (ids.length === 0 || !this.#allMaySee(ids)) return;
    const added = ids.map(queueItem);
    if (mode === "QueueNext") {
      const playing = this.#playing;
      const sortedIndex = playing === undefined ? -1 : this.#sorted.indexOf(playing);
      this.#sorted.splice(sortedIndex + 1, 0, ...added);
      if (this.#isShuffled) this.#shuffled.splice(this.#index + 1, 0, ...added);
    } else {
      this.#sorted.push(...added);
      if (this.#isShuffled) this.#shuffled.push(...added);
    }
    this.#changed();
    this.#tellQueue(session, "all", mode === "QueueNext" ? "QueueNext" : "Queue");
  }

  unpause(session: Session): void {
    switch (this.#state.name) {
      case "Idle":
        this.#wait();
        this.#state.resumes = true;
        this.#restartItem();
        this.#tellQueue(session, "all", "NewPlaylist");
        this.#setAllBuffering(true);
        return;
      case "Playing":
        this.#command(session, "current", "Unpause");
        return;
      case "Paused":
        this.#state = stateNamed("Playing");
        this.#unpause(session);
        return;
      case "Waiting":
        if (this.#state.resumes) {
          this.#setAllBuffering(false);
          this.#state = { ...stateNamed("Playing"), ignoresBuffering: true };
          this.#unpause(session);
        } else {
          this.#state.resumes = true;
          this.#tellState(session, "Unpause");
        }
    }
  }

  pause(session: Session): void {
    switch (this.#state.name) {
      case "Idle":
        this.#command(session, "current", "Stop");
        return;
      case "Paused":
        this.#command(session, "current", "Pause");
        return;
      case "Playing":
        this.#state = stateNamed("Paused");
        this.#pause(session);
        return;
      case "Waiting":
        this.#state.resumes = false;
        this.#tellState(session, "Pause");
    }
  }

  stop(session: Session): void {
    const before = this.#state.name;
    this.#state = stateNamed("Idle");
    this.#command(session, before === "Idle" ? "current" : "all", "Stop");
  }

  seek(session: Session, ticks: number): void {
    if (this.#state.name === "Idle") {
      this.#command(session, "current", "Stop");
      return;
    }
    const before = this.#wait();
    if (before === "Playing") this.#state.resumes = true;
    else if (before === "Paused") this.#state.resumes = false;
    this.#positionTicks = this.#clamped(ticks);
    this.#lastActivityMs = Date.now();
    this.#command(session, "all", "Seek");
    this.#setAllBuffering(true);
    this.#tellState(session, "Seek");
  }

  buffering(session: Session, playlistItemId: string): void {
    if (this.#state.name === "Idle") {
      this.#command(session, "current", "Stop");
      return;
    }
    if (this.#state.name === "Playing" && this.#state.ignoresBuffering) return;
    const before = this.#wait();
    if (playlistItemId !== this.#playlistItemId) {
      this.#tellQueue(session, "current", "SetCurrentItem");
      this.#setBuffering(session, true);
      return;
    }
    this.#setBuffering(session, true);
    if (before === "Playing") {
      this.#state.resumes = true;
      this.#stopTheClock();
      this.#command(session, "ready", "Pause");
    } else if (before === "Paused") {
      this.#state.resumes = false;
      this.#command(session, "current", "Pause");
    } else if (!this.#state.resumes) this.#command(session, "current", "Pause");
    this.#tellState(session, "Buffer");
  }

  ready(
    session: Session,
    report: { whenMs: number; ticks: number; isPlaying: boolean; playlistItemId: string },
  ): void {
    const { name } = this.#state;
    if (name === "Idle") {
      this.#command(session, "current", "Stop");
      return;
    }
    if (name === "Paused") {
      this.#command(session, "current", "Pause");
      return;
    }
    if (name === "Playing") {
      this.#command(session, "current", "Unpause");
      return;
    }
    if (report.playlistItemId !== this.#playlistItemId) {
      this.#tellQueue(session, "current", "SetCurrentItem");
      this.#setBuffering(session, true);
      return;
    }
    const nowMs = Date.now();
    const elapsedMs = nowMs - report.whenMs;
    const counts = report.isPlaying && Math.abs(elapsedMs) <= TIME_SYNC_OFFSET_MS;
    const ticks = this.#clamped(report.ticks);
    const delayTicks = this.#positionTicks - ticks - (counts ? elapsedMs * TICKS_PER_MS : 0);
    const isElsewhere = this.#state.resumes
      ? !report.isPlaying && Math.abs(delayTicks) > MAX_OFFSET_TICKS
      : Math.abs(this.#positionTicks - ticks) > MAX_OFFSET_TICKS;
    if (isElsewhere) {
      this.#setBuffering(session, true);
      this.#command(session, "current", "Seek");
      this.#tellState(session, "Ready");
      return;
    }
    this.#setBuffering(session, false);
    if (this.#state.resumes) this.#readyToPlay(session, report.isPlaying, nowMs, delayTicks);
    else if (!this.#isBuffering) {
      const { initial } = this.#state;
      this.#state = stateNamed("Paused");
      if (initial === "Playing") this.#pause(session);
      else if (initial === "Paused") {
        this.#command(session, "all", "Pause");
        this.#tellState(session, "Ready");
      }
    }
  }

  #readyToPlay(session: Session, isPlaying: boolean, nowMs: number, delayTicks: number): void {
    if (this.#isBuffering) {
      this.#command(session, "current", "Pause", nowMs + delayTicks / TICKS_PER_MS);
      return;
    }
    const pingsMs = this.#highestPingMs * 2;
    if (delayTicks > pingsMs * TICKS_PER_MS) {
      this.#lastActivityMs = nowMs + delayTicks / TICKS_PER_MS;
      this.#command(session, isPlaying ? "others" : "all", "Unpause");
    } else {
      this.#lastActivityMs = nowMs + pingsMs;
      this.#command(session, "all", "Unpause");
    }
    this.#state = stateNamed("Playing");
    this.#tellState(session, "Ready");
  }

  setIgnoreWait(session: Session, ignores: boolean): void {
    const member = this.#members.get(session.id);
    if (member !== undefined) member.ignoresWait = ignores;
    if (this.#state.name === "Waiting") this.#goOnIfReady(session);
  }

  skip(session: Session, playlistItemId: string, step: 1 | -1): void {
    const before = this.#wait();
    this.#state.resumes = true;
    if (playlistItemId !== this.#playlistItemId) return;
    const last = this.#queue.length - 1;
    let next = this.#repeat === "RepeatOne" ? this.#index : this.#index + step;
    if (next > last) next = this.#repeat === "RepeatAll" ? 0 : -2;
    else if (next < 0) next = this.#repeat === "RepeatAll" ? last : -2;
    if (next < 0) {
      this.#index = step > 0 ? last : Math.min(0, last);
      this.#state = stateNamed(before === "Waiting" ? "Idle" : before);
      return;
    }
    this.#index = next;
    this.#changed();
    this.#restartItem();
    this.#tellQueue(session, "all", step > 0 ? "NextItem" : "PreviousItem");
    this.#setAllBuffering(true);
  }

  setRepeat(session: Session, mode: string): void {
    this.#repeat = mode;
    this.#changed();
    this.#tellQueue(session, "all", "RepeatMode");
  }

  setShuffle(session: Session, mode: string): void {
    const playing = this.#playing;
    if (mode === "Shuffle") {
      const others = this.#queue.filter((item) => item !== playing).sort(() => Math.random() - 0.5);
      this.#shuffled = playing === undefined ? others : [playing, ...others];
      this.#index = playing === undefined ? -1 : 0;
    } else {
      this.#index = playing === undefined ? -1 : this.#sorted.indexOf(playing);
      this.#shuffled = [];
    }
    this.#isShuffled = mode === "Shuffle";
    this.#changed();
    this.#tellQueue(session, "all", "ShuffleMode");
  }

  ping(session: Session, pingMs: number): void {
    const member = this.#members.get(session.id);
    if (member !== undefined) member.pingMs = pingMs;
  }

  // --- the queue and the clock --------------------------------------------------------------------------------------

  get #queue(): QueueItem[] {
    return this.#isShuffled ? this.#shuffled : this.#sorted;
  }

  get #playing(): QueueItem | undefined {
    return this.#queue[this.#index];
  }

  get #playlistItemId(): string {
    return this.#playing?.PlaylistItemId ?? EMPTY_ID;
  }

  #setQueue(ids: readonly string[], index: number, ticks: number): void {
    this.#sorted = ids.map(queueItem);
    this.#shuffled = [];
    this.#isShuffled = false;
    this.#repeat = "RepeatNone";
    this.#index = index;
    this.#restartItem();
    this.#positionTicks = ticks;
    this.#changed();
  }

  #restartItem(): void {
    const playing = this.#playing;
    const item = playing === undefined ? undefined : this.#world.library.get(playing.ItemId);
    this.#runTimeTicks = item?.runTimeTicks ?? 0;
    this.#positionTicks = 0;
    this.#lastActivityMs = Date.now();
  }

  #changed(): void {
    this.#lastChangeMs = Date.now();
  }

  #stopTheClock(): void {
    const nowMs = Date.now();
    this.#positionTicks += Math.max(nowMs - this.#lastActivityMs, 0) * TICKS_PER_MS;
    this.#lastActivityMs = nowMs;
  }

  #clamped(ticks: number): number {
    return Math.min(Math.max(ticks, 0), this.#runTimeTicks);
  }

  #allMaySee(ids: readonly string[]): boolean {
    return [...this.#members.values()].every(({ userId }) =>
      ids.every((id) => this.#world.maySee(userId, id)),
    );
  }

  // --- states -------------------------------------------------------------------------------------------------------

  /** Goes over to Waiting, where it is not there yet; answers the state it comes from. */
  #wait(): StateName {
    const before = this.#state.name;
    if (before !== "Waiting") this.#state = { ...stateNamed("Waiting"), initial: before };
    return before;
  }

  #unpause(session: Session): void {
    this.#lastActivityMs = Date.now() + Math.max(this.#highestPingMs * 2, DEFAULT_PING_MS);
    this.#command(session, "all", "Unpause");
    this.#tellState(session, "Unpause");
  }

  #pause(session: Session): void {
    this.#stopTheClock();
    this.#command(session, "all", "Pause");
    this.#tellState(session, "Pause");
  }

  get #isBuffering(): boolean {
    return [...this.#members.values()].some((one) => one.isBuffering && !one.ignoresWait);
  }

  get #highestPingMs(): number {
    return Math.max(...[...this.#members.values()].map((member) => member.pingMs));
  }

  #setBuffering(session: Session, isBuffering: boolean): void {
    const member = this.#members.get(session.id);
    if (member !== undefined) member.isBuffering = isBuffering;
  }

  #setAllBuffering(isBuffering: boolean): void {
    for (const member of this.#members.values()) member.isBuffering = isBuffering;
  }

  // --- what members are told ----------------------------------------------------------------------------------------

  #tellQueue(from: Session, audience: Audience, reason: string): void {
    const isPlaying = this.#state.name === "Playing";
    const elapsedMs = isPlaying ? Math.max(Date.now() - this.#lastActivityMs, 0) : 0;
    this.#update(from, audience, "PlayQueue", {
      Reason: reason,
      LastUpdate: jellyfinDate(this.#lastChangeMs),
      Playlist: [...this.#queue],
      PlayingItemIndex: this.#index,
      StartPositionTicks: Math.round(this.#positionTicks + elapsedMs * TICKS_PER_MS),
      IsPlaying: isPlaying,
      ShuffleMode: this.#isShuffled ? "Shuffle" : "Sorted",
      RepeatMode: this.#repeat,
    });
  }

  #tellState(from: Session, reason: string): void {
    this.#update(from, "all", "StateUpdate", { State: this.#state.name, Reason: reason });
  }

  #update(from: Session, audience: Audience, type: string, data: unknown): void {
    const update = { GroupId: this.id, Data: data, Type: type };
    for (const session of this.#audience(from, audience)) {
      this.#world.sessions.sendTo(session, "SyncPlayGroupUpdate", update);
    }
  }

  #command(
    from: Session,
    audience: Audience,
    command: Command,
    whenMs = this.#lastActivityMs,
  ): void {
    const message = {
      GroupId: this.id,
      PlaylistItemId: this.#playlistItemId,
      When: jellyfinDate(Math.round(whenMs)),
      PositionTicks: Math.round(this.#positionTicks),
      Command: command,
      EmittedAt: jellyfinDate(Date.now()),
    };
    for (const session of this.#audience(from, audience)) {
      this.#world.sessions.sendTo(session, "SyncPlayCommand", message);
    }
  }

  #audience(from: Session, audience: Audience): Session[] {
    if (audience === "current") return [from];
    return [...this.#members.values()]
      .filter((member) => audience !== "ready" || !member.isBuffering)
      .filter((member) => audience !== "others" || member.session.id !== from.id)
      .map((member) => member.session);
  }
}

function queueItem(id: string): QueueItem {
  return { ItemId: id, PlaylistItemId: randomId() };
}

function stateNamed(name: StateName): State {
  return { name, resumes: false, initial: undefined, ignoresBuffering: false };
}

// --- routes ---------------------------------------------------------------------------------------------------------

type Right = "access" | "create" | "join" | "inGroup";

/** SyncPlayController and SyncPlayAccessHandler: an API key has no user, which is 400 here. */
export function addSyncPlayRoutes(routes: Routes): void {
  routes.add("POST", "/SyncPlay/New", "user", (ask) => {
    const session = admitted(ask, "create");
    const name = field(ask.json(), "GroupName");
    if (typeof name !== "string") throw new Refusal(400, "problem");
    ask.reply(ask.world.syncPlay.create(session, name.trim()));
  });
  routes.add("GET", "/SyncPlay/List", "user", (ask) => {
    admitted(ask, "join");
    ask.reply(ask.world.syncPlay.list(ask.caller.userId ?? "").map((group) => group.info()));
  });
  routes.add("GET", "/SyncPlay/:id", "user", (ask) => {
    const id = parseId(ask.param(0));
    if (id === undefined) throw new Refusal(404, "empty");
    admitted(ask, "join");
    const found = ask.world.syncPlay.list(ask.caller.userId ?? "").find((group) => group.id === id);
    if (found === undefined) throw new Refusal(404, "problem");
    ask.reply(found.info());
  });
  routes.add("POST", "/SyncPlay/Join", "user", (ask) => {
    const session = admitted(ask, "join");
    ask.world.syncPlay.join(session, idIn(ask, "GroupId"));
    ask.noContent();
  });
  routes.add("POST", "/SyncPlay/Leave", "user", (ask) => {
    ask.world.syncPlay.leave(admitted(ask, "inGroup"));
    ask.noContent();
  });
  for (const [verb, apply] of Object.entries(deeds)) {
    routes.add("POST", `/SyncPlay/${verb}`, "user", (ask) => {
      const session = admitted(ask, verb === "Ping" ? "access" : "inGroup");
      const group = ask.world.syncPlay.groupOf(session);
      if (group !== undefined) apply(group, session, ask);
      ask.noContent();
    });
  }
}

const deeds: Record<string, (group: Group, session: Session, ask: Exchange) => void> = {
  SetNewQueue: (group, session, ask) =>
    group.setNewQueue(
      session,
      idsIn(ask, "PlayingQueue"),
      numberIn(ask, "PlayingItemPosition"),
      numberIn(ask, "StartPositionTicks"),
    ),
  SetPlaylistItem: (group, session, ask) =>
    group.setPlaylistItem(session, idIn(ask, "PlaylistItemId")),
  RemoveFromPlaylist: (group, session, ask) =>
    group.removeFromPlaylist(
      session,
      idsIn(ask, "PlaylistItemIds"),
      field(ask.json(), "ClearPlaylist") === true,
      field(ask.json(), "ClearPlayingItem") === true,
    ),
  MovePlaylistItem: (group, session, ask) =>
    group.movePlaylistItem(session, idIn(ask, "PlaylistItemId"), numberIn(ask, "NewIndex")),
  Queue: (group, session, ask) =>
    group.queue(session, idsIn(ask, "ItemIds"), textIn(ask, "Mode", "Queue")),
  Unpause: (group, session) => group.unpause(session),
  Pause: (group, session) => group.pause(session),
  Stop: (group, session) => group.stop(session),
  Seek: (group, session, ask) => group.seek(session, numberIn(ask, "PositionTicks")),
  Buffering: (group, session, ask) => group.buffering(session, idIn(ask, "PlaylistItemId")),
  Ready: (group, session, ask) =>
    group.ready(session, {
      whenMs: Date.parse(textIn(ask, "When", "")),
      ticks: numberIn(ask, "PositionTicks"),
      isPlaying: field(ask.json(), "IsPlaying") === true,
      playlistItemId: idIn(ask, "PlaylistItemId"),
    }),
  SetIgnoreWait: (group, session, ask) =>
    group.setIgnoreWait(session, field(ask.json(), "IgnoreWait") === true),
  NextItem: (group, session, ask) => group.skip(session, idIn(ask, "PlaylistItemId"), 1),
  PreviousItem: (group, session, ask) => group.skip(session, idIn(ask, "PlaylistItemId"), -1),
  SetRepeatMode: (group, session, ask) =>
    group.setRepeat(session, textIn(ask, "Mode", "RepeatNone")),
  SetShuffleMode: (group, session, ask) => group.setShuffle(session, textIn(ask, "Mode", "Sorted")),
  Ping: (group, session, ask) => group.ping(session, numberIn(ask, "Ping")),
};

function admitted(ask: Exchange, right: Right): Session {
  const { userId } = ask.caller;
  const user = userId === undefined ? undefined : ask.world.database.users.get(userId);
  if (user === undefined) throw new Refusal(400);
  const access = user.policy.SyncPlayAccess;
  const isActive = ask.world.syncPlay.isActive(user.id);
  const mayJoin = access === "CreateAndJoinGroups" || access === "JoinGroups";
  if (right !== "inGroup" && !mayJoin && !isActive) throw new Refusal(403, "empty");
  if (right === "create" && access !== "CreateAndJoinGroups") throw new Refusal(403, "empty");
  if (right === "join" && !mayJoin) throw new Refusal(403, "empty");
  if (right === "inGroup" && !isActive) throw new Refusal(403, "empty");
  return ownSession(ask);
}

function idIn(ask: Exchange, name: string): string {
  const value = field(ask.json(), name) ?? EMPTY_ID;
  const id = typeof value === "string" ? parseId(value) : undefined;
  if (id === undefined) throw new Refusal(400, "problem");
  return id;
}

function idsIn(ask: Exchange, name: string): string[] {
  const value = field(ask.json(), name) ?? [];
  if (!Array.isArray(value)) throw new Refusal(400, "problem");
  return value.map((one) => {
    const id = parseId(String(one));
    if (id === undefined) throw new Refusal(400, "problem");
    return id;
  });
}

function numberIn(ask: Exchange, name: string): number {
  const value = field(ask.json(), name) ?? 0;
  if (typeof value !== "number") throw new Refusal(400, "problem");
  return value;
}

function textIn(ask: Exchange, name: string, fallback: string): string {
  const value = field(ask.json(), name) ?? fallback;
  return typeof value === "string" ? value : fallback;
}
