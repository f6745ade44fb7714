// Somebody who watches together with others, as the web client does it: joins a group, loads what the queue
// says and reports when it is ready, and does what the commands say. It keeps everything it was told, so that
// a test can say what a person would have seen.

import { expect } from "vitest";
import { until, type Viewer, type ViewerSocket } from "./viewer.ts";

interface Update {
  readonly GroupId: string;
  readonly Type: string;
  readonly Data: unknown;
}

interface Command {
  readonly GroupId: string;
  readonly Command: "Unpause" | "Pause" | "Stop" | "Seek";
  readonly PlaylistItemId: string;
  readonly PositionTicks: number;
}

export interface PartyQueue {
  readonly Reason: string;
  readonly LastUpdate: string;
  readonly Playlist: readonly { readonly ItemId: string; readonly PlaylistItemId: string }[];
  readonly PlayingItemIndex: number;
  readonly StartPositionTicks: number;
  readonly RepeatMode: string;
  readonly ShuffleMode: string;
}

const loads = new Set(["NewPlaylist", "SetCurrentItem", "NextItem", "PreviousItem"]);

export class Guest {
  readonly viewer: Viewer;
  readonly #socket: ViewerSocket;
  /** The group that this client believes to be in; undefined: SyncPlay is off. */
  group: string | undefined;
  queue: PartyQueue | undefined;
  isPlaying = false;
  /** The position the last command named. */
  positionTicks = 0;
  /** Types of updates and commands in the order in which they came. */
  readonly heard: string[] = [];
  /** Requests of this client that were answered with an error. */
  readonly failures: string[] = [];
  #read = 0;
  readonly #timer: NodeJS.Timeout;

  private constructor(viewer: Viewer, socket: ViewerSocket) {
    this.viewer = viewer;
    this.#socket = socket;
    this.#timer = setInterval(() => this.#hear(), 5);
  }

  static async arrive(viewer: Viewer): Promise<Guest> {
    const guest = new Guest(viewer, await viewer.socket());
    await until(5000, "the socket's first word", () => guest.#socket.count("ForceKeepAlive") > 0);
    return guest;
  }

  get isConnected(): boolean {
    return this.#socket.isOpen;
  }

  get itemId(): string | undefined {
    return this.queue?.Playlist[this.queue.PlayingItemIndex]?.ItemId;
  }

  async open(name: string): Promise<string> {
    const reply = await this.viewer.call("POST", "/SyncPlay/New", { body: { GroupName: name } });
    expect(reply.status).toBe(200);
    const { GroupId } = reply.json() as { GroupId: string };
    await until(5000, "the new group", () => this.group === GroupId);
    return GroupId;
  }

  async join(group: string): Promise<void> {
    await this.ask("Join", { GroupId: group });
    await until(5000, "the group", () => this.group === group);
  }

  async ask(verb: string, body: unknown = {}): Promise<number> {
    try {
      const { status } = await this.viewer.call("POST", `/SyncPlay/${verb}`, { body });
      if (status !== 204) this.failures.push(`${verb} ${status}`);
      return status;
    } catch (error) {
      this.failures.push(`${verb} ${String(error)}`);
      return 0;
    }
  }

  leaveRoom(): void {
    clearInterval(this.#timer);
    this.#socket.close();
  }

  #hear(): void {
    const { messages } = this.#socket;
    for (; this.#read < messages.length; this.#read += 1) {
      const message = messages[this.#read];
      if (message?.MessageType === "SyncPlayGroupUpdate") this.#update(message.Data as Update);
      if (message?.MessageType === "SyncPlayCommand") this.#command(message.Data as Command);
    }
  }

  #update({ GroupId, Type, Data }: Update): void {
    this.heard.push(Type);
    if (Type === "GroupJoined") this.group = GroupId;
    if (Type === "GroupLeft" || Type === "NotInGroup") {
      this.group = undefined;
      this.isPlaying = false;
    }
    if (Type !== "PlayQueue" || GroupId !== this.group) return;
    const queue = Data as PartyQueue;
    if (this.queue !== undefined && queue.LastUpdate <= this.queue.LastUpdate) return;
    this.queue = queue;
    if (!loads.has(queue.Reason)) return;
    this.isPlaying = false;
    this.#load(queue.StartPositionTicks);
  }

  #command({ GroupId, Command, PlaylistItemId, PositionTicks }: Command): void {
    this.heard.push(Command);
    if (GroupId !== this.group) return;
    if (Command === "Stop") this.isPlaying = false;
    const current = this.queue?.Playlist[this.queue.PlayingItemIndex]?.PlaylistItemId;
    if (PlaylistItemId !== current) return;
    this.positionTicks = PositionTicks;
    this.isPlaying = Command === "Unpause";
    if (Command === "Seek") this.#load(PositionTicks);
  }

  /** A moment for the film to load, then the word that it has. */
  #load(ticks: number): void {
    setTimeout(() => {
      const { queue } = this;
      const PlaylistItemId = queue?.Playlist[queue.PlayingItemIndex]?.PlaylistItemId;
      const When = new Date().toISOString();
      void this.ask("Ready", { When, PositionTicks: ticks, IsPlaying: false, PlaylistItemId });
    }, 50);
  }
}
