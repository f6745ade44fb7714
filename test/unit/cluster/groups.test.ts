// A SyncPlay group as notes: what is learnt from its server's messages, and what is read as nothing.

import { describe, expect, test } from "vitest";
import {
  type Group,
  type GroupMessage,
  groupsTogether,
  itemsLimit,
  learnt,
  memberNoteId,
  newGroup,
  positionAt,
  queueClock,
  queueDateMs,
  readGroup,
  readGroupMessage,
  readMember,
  readNoteId,
  withGroupId,
  withQueueShift,
} from "../../../core/cluster/groups.ts";

const id = "ab".repeat(16);
const own = "cd".repeat(16);
const film = "01".repeat(16);
const nowMs = 1_000_000;
const second = 10_000_000;
const group: Group = newGroup(own, "Evening", nowMs);

function message(type: string, data: unknown): GroupMessage {
  const text = JSON.stringify({ MessageId: "1", Data: data, MessageType: type });
  const read = readGroupMessage(text);
  if (read === undefined) throw new Error(`not a message of a group: ${text}`);
  return read;
}

function command(name: string, ticks: number, emitted: string, when = emitted): GroupMessage {
  return message("SyncPlayCommand", {
    GroupId: own,
    PlaylistItemId: film,
    Command: name,
    PositionTicks: ticks,
    EmittedAt: emitted,
    When: when,
  });
}

function queue(change: Record<string, unknown> = {}): GroupMessage {
  const Data = {
    Reason: "NewPlaylist",
    LastUpdate: "2026-01-01T00:00:01.0000000Z",
    Playlist: [
      { ItemId: film, PlaylistItemId: "x" },
      { ItemId: own, PlaylistItemId: "y" },
    ],
    PlayingItemIndex: 1,
    StartPositionTicks: 5 * second,
    IsPlaying: false,
    ShuffleMode: "Sorted",
    RepeatMode: "RepeatAll",
    ...change,
  };
  return message("SyncPlayGroupUpdate", { GroupId: own, Type: "PlayQueue", Data });
}

function state(State: string, Reason: string): GroupMessage {
  const data = { GroupId: own, Type: "StateUpdate", Data: { State, Reason } };
  return message("SyncPlayGroupUpdate", data);
}

describe("what a server says", () => {
  test("is told from everything else, in both spellings of an id", () => {
    expect(readGroupMessage('{"MessageType":"Sessions","Data":[]}')).toBeUndefined();
    expect(readGroupMessage("no JSON SyncPlayCommand")).toBeUndefined();
    expect(readGroupMessage('{"Data":7,"MessageType":"SyncPlayCommand"}')).toBeUndefined();
    const dashed = "cdcdcdcd-cdcd-cdcd-cdcd-cdcdcdcdcdcd";
    const joined = { GroupId: dashed.toUpperCase(), Type: "GroupJoined", Data: {} };
    expect(message("SyncPlayGroupUpdate", joined)).toMatchObject({ own, what: "GroupJoined" });
    const none = { GroupId: "0".repeat(32), Type: "NotInGroup", Data: "" };
    expect(message("SyncPlayGroupUpdate", none).own).toBeUndefined();
  });

  test("a queue is learnt with its order, its item and its place, and begins to play", () => {
    expect(learnt(group, queue(), nowMs)).toMatchObject({
      items: [film, own],
      index: 1,
      repeat: "RepeatAll",
      positionTicks: 5 * second,
      isRunning: false,
      wantsPlay: true,
      isIdle: false,
    });
  });

  test("an older queue, a broken one and an older command change nothing", () => {
    const known = learnt(group, queue(), nowMs);
    expect(learnt(known, queue(), nowMs + 5)).toBe(known);
    for (const broken of [
      { LastUpdate: 7 },
      { LastUpdate: "9", Playlist: "film" },
      { LastUpdate: "9", Playlist: [{ ItemId: "film" }] },
      { LastUpdate: "9", PlayingItemIndex: 0.5 },
    ]) {
      expect(learnt(known, queue(broken), nowMs)).toBe(known);
    }
    const played = learnt(known, command("Unpause", 0, "2026-01-01T00:00:05Z"), nowMs);
    expect(learnt(played, command("Pause", 0, "2026-01-01T00:00:04Z"), nowMs)).toBe(played);
    expect(learnt(played, command("Dance", 0, "2026-01-01T00:00:06Z"), nowMs)).toBe(played);
  });

  test("the position runs from the moment the members agreed upon, by this machine's clock alone", () => {
    const start = command("Unpause", 5 * second, "1999-01-01T00:00:00Z", "1999-01-01T00:00:01Z");
    const playing = learnt(group, start, nowMs);
    expect(positionAt(playing, nowMs)).toBe(5 * second);
    expect(positionAt(playing, nowMs + 1000)).toBe(5 * second);
    expect(positionAt(playing, nowMs + 4000)).toBe(8 * second);
    const paused = learnt(playing, command("Pause", 8 * second, "1999-01-01T00:00:05Z"), nowMs);
    expect(positionAt(paused, nowMs + 60_000)).toBe(8 * second);
  });

  test("a pause that waits for somebody is none that somebody asked for", () => {
    const playing = learnt(group, command("Unpause", 0, "2026-01-01T00:00:01Z"), nowMs);
    const waiting = learnt(playing, command("Pause", 0, "2026-01-01T00:00:02Z"), nowMs);
    expect(waiting).toMatchObject({ isRunning: false, wantsPlay: true });
    expect(learnt(waiting, state("Waiting", "Buffer"), nowMs).wantsPlay).toBe(true);
    const asked = learnt(waiting, state("Paused", "Pause"), nowMs);
    expect(asked.wantsPlay).toBe(false);
    expect(learnt(asked, state("Waiting", "Unpause"), nowMs).wantsPlay).toBe(true);
    expect(learnt(waiting, state("Waiting", "Pause"), nowMs).wantsPlay).toBe(false);
    const stopped = learnt(playing, command("Stop", 0, "2026-01-01T00:00:03Z"), nowMs);
    expect(stopped).toMatchObject({ isIdle: true, wantsPlay: false, isRunning: false });
  });

  test("of a queue without end so much is kept as a note can hold, with what plays in it", () => {
    const all = Array.from({ length: 5000 }, (_, index) => ({
      ItemId: index.toString(16).padStart(32, "0"),
      PlaylistItemId: "x",
    }));
    for (const index of [0, 2500, 4999]) {
      const kept = learnt(group, queue({ Playlist: all, PlayingItemIndex: index }), nowMs);
      expect(kept.items.length).toBeLessThanOrEqual(itemsLimit);
      expect(kept.items[kept.index]).toBe(all[index]?.ItemId);
      expect(readGroup(JSON.stringify(kept))).toEqual(kept);
      expect(JSON.stringify(kept).length).toBeLessThan(64 * 1024);
    }
  });
});

describe("notes", () => {
  test("are read as they were written", () => {
    const known = learnt(group, queue(), nowMs);
    expect(readGroup(JSON.stringify(known))).toEqual(known);
    const member = { userId: film, joined: own, door: "d", ignoresWait: true, isIn: true };
    expect(readMember(JSON.stringify(member))).toEqual(member);
    expect(readNoteId(memberNoteId(id, "user.device"))).toEqual({
      groupId: id,
      identityKey: "user.device",
    });
    expect(readNoteId(id)).toEqual({ groupId: id, identityKey: undefined });
  });

  test.each([
    ["", "nothing"],
    ["[]", "a list"],
    [JSON.stringify({ ...group, own: "../../x" }), "an id that is a path"],
    [JSON.stringify({ ...group, items: [film, 7] }), "an item that is a number"],
    [JSON.stringify({ ...group, items: [film], index: 4 }), "an index outside"],
    [JSON.stringify({ ...group, index: -2 }), "an index below all"],
    [JSON.stringify({ ...group, positionTicks: "5" }), "a position that is a text"],
    [JSON.stringify({ ...group, repeat: "RepeatTwice" }), "an unknown mode"],
    [JSON.stringify({ ...group, name: "x".repeat(500) }), "a name of 500 characters"],
    [JSON.stringify({ ...group, atMs: null }), "a time that is null"],
  ])("%.0sof no group: %s", (value) => {
    expect(readGroup(value)).toBeUndefined();
  });

  test("of no member, and of nobody", () => {
    const fields = '"joined":"x","door":"d","ignoresWait":true';
    for (const value of [
      "",
      "7",
      `{"userId":"u",${fields},"isIn":true}`,
      `{"userId":"${id}",${fields}}`,
    ]) {
      expect(readMember(value)).toBeUndefined();
    }
    for (const noteId of ["", "x", `${id}/`, `${id.toUpperCase()}`, `${id}x/y`]) {
      expect(readNoteId(noteId)).toBeUndefined();
    }
  });
});

test("a queue of another server is never dated before the one that a client has, and those after it keep their order", () => {
  const first = queueClock(undefined, id, 5000);
  expect(first).toEqual({ own: id, shiftMs: 0, shownMs: 5000 });
  // The same queue again stays the same, and is ignored by the client as ever.
  expect(queueClock(first, id, 5000)).toEqual(first);
  expect(queueClock(first, own, 9000)).toEqual({ own, shiftMs: 0, shownMs: 9000 });
  const behind = queueClock(first, own, 3000);
  expect(behind).toEqual({ own, shiftMs: 2001, shownMs: 5001 });
  expect(queueClock(behind, own, 3500)).toEqual({ own, shiftMs: 2001, shownMs: 5501 });
  const told = queue();
  const text = JSON.stringify({ Data: told.data, MessageType: told.type });
  expect(queueDateMs(told)).toBe(Date.parse("2026-01-01T00:00:01Z"));
  expect(withQueueShift(text, told, 0)).toBe(text);
  const shifted = withQueueShift(text, told, 1500);
  expect(shifted).toContain('"LastUpdate":"2026-01-01T00:00:02.500Z"');
  expect(queueDateMs(state("Playing", "Ready"))).toBeUndefined();
});

test("an id takes another's place in both spellings, and nothing else is touched", () => {
  const text = `{"GroupId":"${own}","Data":"cdcdcdcd-cdcd-cdcd-cdcd-cdcdcdcdcdcd","Name":"cd"}`;
  expect(withGroupId(text, own, id)).toBe(
    `{"GroupId":"${id}","Data":"abababab-abab-abab-abab-abababababab","Name":"cd"}`,
  );
  expect(withGroupId(text, id, id)).toBe(text);
});

test("groups that share a user belong together, over any number of others", () => {
  const memberships = [
    { groupId: "c", userId: "u1" },
    { groupId: "b", userId: "u1" },
    { groupId: "b", userId: "u2" },
    { groupId: "a", userId: "u2" },
    { groupId: "z", userId: "u9" },
  ];
  expect(groupsTogether("c", memberships)).toEqual(["a", "b", "c"]);
  expect(groupsTogether("a", memberships)).toEqual(["a", "b", "c"]);
  expect(groupsTogether("z", memberships)).toEqual(["z"]);
  expect(groupsTogether("x", memberships)).toEqual(["x"]);
});
