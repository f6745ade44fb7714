/** What we believe about watching together: groups live in one server's memory and speak over the members' sockets. */
import { afterAll, describe, expect, test } from "vitest";
import {
  asLogin,
  authorization,
  contractServers,
  eventually,
  hasPair,
  type Listener,
  type Server,
} from "./servers.ts";

const { a, b, leave } = await contractServers();
afterAll(leave);

type Update = { GroupId: string; Type: string; Data: unknown };
type Command = {
  GroupId: string;
  Command: string;
  PlaylistItemId: string;
  PositionTicks: number;
  When: string;
  EmittedAt: string;
};
type PlayQueue = {
  Reason: string;
  LastUpdate: string;
  Playlist: { ItemId: string; PlaylistItemId: string }[];
  PlayingItemIndex: number;
  StartPositionTicks: number;
  IsPlaying: boolean;
  ShuffleMode: string;
  RepeatMode: string;
};

/** Somebody with an app that has its socket open. */
class Person {
  readonly name: string;
  readonly #server: Server;
  readonly #authorization: string;
  readonly socket: Listener;

  private constructor(server: Server, name: string, header: string, socket: Listener) {
    this.#server = server;
    this.name = name;
    this.#authorization = header;
    this.socket = socket;
  }

  static async enter(server: Server, policy: Record<string, unknown> = {}): Promise<Person> {
    const user = await server.newUser(policy);
    const device = server.device();
    const { token } = asLogin(await server.login(device, user.name, user.password), device);
    const header = authorization(device, token);
    const socket = server.socket(`?ApiKey=${token}`, { authorization: header });
    await socket.opened;
    await socket.next("ForceKeepAlive");
    return new Person(server, user.name, header, socket);
  }

  call(method: string, path: string, body?: unknown) {
    const header = { authorization: this.#authorization };
    return this.#server.call(method, path, body === undefined ? header : { ...header, body });
  }

  async ask(verb: string, body: unknown = {}): Promise<void> {
    expect((await this.call("POST", `/SyncPlay/${verb}`, body)).status).toBe(204);
  }

  async newGroup(name = "Evening"): Promise<{ GroupId: string }> {
    const reply = await this.call("POST", "/SyncPlay/New", { GroupName: name });
    expect(reply.status).toBe(200);
    return reply.json();
  }

  /** The first update of that type, past or to come. */
  async update(type: string): Promise<Update> {
    const found = await eventually(() =>
      this.socket.messages.find(
        ({ MessageType, Data }) =>
          MessageType === "SyncPlayGroupUpdate" && (Data as Update).Type === type,
      ),
    );
    this.socket.messages.splice(this.socket.messages.indexOf(found), 1);
    return found.Data as Update;
  }

  async playQueue(): Promise<PlayQueue> {
    return (await this.update("PlayQueue")).Data as PlayQueue;
  }

  async command(name: string): Promise<Command> {
    const found = await eventually(() =>
      this.socket.messages.find(
        ({ MessageType, Data }) =>
          MessageType === "SyncPlayCommand" && (Data as Command).Command === name,
      ),
    );
    this.socket.messages.splice(this.socket.messages.indexOf(found), 1);
    return found.Data as Command;
  }

  ready(PlaylistItemId: string, PositionTicks: number, IsPlaying = false): Promise<void> {
    const When = new Date().toISOString();
    return this.ask("Ready", { When, PositionTicks, IsPlaying, PlaylistItemId });
  }
}

describe("a group", () => {
  test("is made by one, seen in the list by others, joined, and gone when the last has left", async () => {
    const [ann, ben] = [await Person.enter(a), await Person.enter(a)];
    const made = await ann.newGroup();
    expect(made).toMatchObject({ GroupName: "Evening", State: "Idle", Participants: [ann.name] });
    const { GroupId } = made;
    expect(GroupId).toMatch(/^[0-9a-f]{32}$/);
    expect(await ann.update("GroupJoined")).toMatchObject({ GroupId, Data: { GroupId } });
    expect((await ann.command("Stop")).GroupId).toBe(GroupId);
    const list: { GroupId: string }[] = (await ben.call("GET", "/SyncPlay/List")).json();
    expect(list.map((group) => group.GroupId)).toContain(GroupId);
    await ben.ask("Join", { GroupId });
    expect((await ben.update("GroupJoined")).GroupId).toBe(GroupId);
    expect(await ann.update("UserJoined")).toMatchObject({ GroupId, Data: ben.name });
    const one = (await ben.call("GET", `/SyncPlay/${GroupId}`)).json();
    expect(one.Participants.sort()).toEqual([ann.name, ben.name].sort());
    await ben.ask("Leave");
    const left = await ben.update("GroupLeft");
    expect(String(left.Data).replaceAll("-", "")).toBe(GroupId);
    expect((await ann.update("UserLeft")).Data).toBe(ben.name);
    await ann.ask("Leave");
    expect((await ann.call("GET", `/SyncPlay/${GroupId}`)).status).toBe(404);
  });

  test("is left by whoever closes the last socket of a session", async () => {
    const [ann, ben] = [await Person.enter(a), await Person.enter(a)];
    const { GroupId } = await ann.newGroup();
    await ben.ask("Join", { GroupId });
    await ben.socket.close();
    expect((await ann.update("UserLeft")).Data).toBe(ben.name);
    expect((await ann.call("GET", `/SyncPlay/${GroupId}`)).json().Participants).toEqual([ann.name]);
    await ann.ask("Leave");
  });

  test("that is not there is answered 204 to who joins it, and told over the socket", async () => {
    const ann = await Person.enter(a);
    await ann.ask("Join", { GroupId: "ab".repeat(16) });
    expect((await ann.update("GroupDoesNotExist")).GroupId).toBe("0".repeat(32));
  });

  test("whoever is in none is 403 for what members do, and 204 for a ping, with NotInGroup over the socket", async () => {
    const ann = await Person.enter(a);
    for (const verb of ["Leave", "Pause", "Ready", "Buffering"]) {
      expect((await ann.call("POST", `/SyncPlay/${verb}`, {})).status).toBe(403);
    }
    await ann.ask("Ping", { Ping: 20 });
    await ann.update("NotInGroup");
  });

  test("rights: who may only join makes none, who may do neither is 403, an API key is no member", async () => {
    const joiner = await Person.enter(a, { SyncPlayAccess: "JoinGroups" });
    expect((await joiner.call("POST", "/SyncPlay/New", { GroupName: "x" })).status).toBe(403);
    expect((await joiner.call("GET", "/SyncPlay/List")).status).toBe(200);
    const nobody = await Person.enter(a, { SyncPlayAccess: "None" });
    expect((await nobody.call("GET", "/SyncPlay/List")).status).toBe(403);
    expect((await a.admin("GET", "/SyncPlay/List")).status).toBeGreaterThanOrEqual(400);
  });

  test.skipIf(!hasPair)("of one server is not known to the other", async () => {
    const [ann, ben] = [await Person.enter(a), await Person.enter(b)];
    const { GroupId } = await ann.newGroup();
    expect((await ben.call("GET", `/SyncPlay/${GroupId}`)).status).toBe(404);
    await ben.ask("Join", { GroupId });
    await ben.update("GroupDoesNotExist");
    await ann.ask("Leave");
  });
});

describe("playing together", () => {
  test("a new queue waits until everybody is ready, then all start at one moment; pause and seek are heard by all", async () => {
    const film = await a.film();
    const [ann, ben] = [await Person.enter(a), await Person.enter(a)];
    const { GroupId } = await ann.newGroup();
    await ben.ask("Join", { GroupId });
    const start = 5 * 10_000_000;
    await ann.ask("SetNewQueue", {
      PlayingQueue: [film.id, film.id],
      PlayingItemPosition: 0,
      StartPositionTicks: start,
    });
    const [queue, other] = [await ann.playQueue(), await ben.playQueue()];
    expect(other.Playlist).toEqual(queue.Playlist);
    expect(queue).toMatchObject({
      Reason: "NewPlaylist",
      PlayingItemIndex: 0,
      StartPositionTicks: start,
      IsPlaying: false,
      ShuffleMode: "Sorted",
      RepeatMode: "RepeatNone",
    });
    expect(queue.Playlist.map(({ ItemId }) => ItemId)).toEqual([film.id, film.id]);
    const playing = queue.Playlist[0]?.PlaylistItemId ?? "";
    await ann.ready(playing, start);
    expect(await ann.command("Pause")).toMatchObject({ PlaylistItemId: playing });
    await ben.ready(playing, start);
    const starts = await Promise.all([ann.command("Unpause"), ben.command("Unpause")]);
    expect(starts[0].When).toBe(starts[1].When);
    expect(starts[0]).toMatchObject({ GroupId, PlaylistItemId: playing, PositionTicks: start });
    expect(Date.parse(starts[0].When)).toBeGreaterThan(Date.parse(starts[0].EmittedAt));
    expect((await ann.update("StateUpdate")).Data).toEqual({ State: "Playing", Reason: "Ready" });
    await ben.ask("Pause");
    const paused = await ann.command("Pause");
    expect(paused.PositionTicks).toBeGreaterThanOrEqual(start);
    expect((await ann.update("StateUpdate")).Data).toEqual({ State: "Paused", Reason: "Pause" });
    await ann.ask("Seek", { PositionTicks: 30 * 10_000_000 });
    expect((await ben.command("Seek")).PositionTicks).toBe(30 * 10_000_000);
    for (const [State, Reason] of [
      ["Playing", "Ready"],
      ["Paused", "Pause"],
      ["Waiting", "Seek"],
    ]) {
      expect((await ben.update("StateUpdate")).Data).toEqual({ State, Reason });
    }
    await ann.ask("Leave");
    await ben.ask("Leave");
  });

  test("who joins while others play is given the queue, and the others are told to wait for him", async () => {
    const film = await a.film();
    const [ann, ben] = [await Person.enter(a), await Person.enter(a)];
    const { GroupId } = await ann.newGroup();
    const queue = { PlayingQueue: [film.id], PlayingItemPosition: 0, StartPositionTicks: 0 };
    await ann.ask("SetNewQueue", queue);
    const playing = (await ann.playQueue()).Playlist[0]?.PlaylistItemId ?? "";
    await ann.ready(playing, 0);
    await ann.command("Unpause");
    await ben.ask("Join", { GroupId });
    expect(await ben.playQueue()).toMatchObject({ Reason: "NewPlaylist", IsPlaying: false });
    const waiting = await ann.command("Pause");
    await ben.ready(playing, waiting.PositionTicks, true);
    expect((await ben.command("Unpause")).PlaylistItemId).toBe(playing);
    for (const person of [ann, ben]) await person.ask("Leave");
  });

  test("a Ready about another item is answered with the queue as it is", async () => {
    const film = await a.film();
    const ann = await Person.enter(a);
    await ann.newGroup();
    const queue = { PlayingQueue: [film.id], PlayingItemPosition: 0, StartPositionTicks: 0 };
    await ann.ask("SetNewQueue", queue);
    expect((await ann.playQueue()).Reason).toBe("NewPlaylist");
    await ann.ready("cd".repeat(16), 0);
    expect((await ann.playQueue()).Reason).toBe("SetCurrentItem");
    await ann.ask("SetRepeatMode", { Mode: "RepeatAll" });
    expect(await ann.playQueue()).toMatchObject({ Reason: "RepeatMode", RepeatMode: "RepeatAll" });
    await ann.ask("Stop");
    await ann.command("Stop");
    await ann.ask("Leave");
  });
});

test("the server's clock is told to anybody", async () => {
  const { RequestReceptionTime, ResponseTransmissionTime } = (await a.get("/GetUtcTime")).json();
  expect(Date.parse(ResponseTransmissionTime)).toBeGreaterThanOrEqual(
    Date.parse(RequestReceptionTime),
  );
});
