// Sessions of many servers as one list: which word about a device is shown, to whom, where a command goes,
// and which notes are believed.

import { describe, expect, test } from "vitest";
import {
  isShown,
  lastingPart,
  listFor,
  lostKeepMs,
  readSession,
  readSessionNote,
  type SeenSession,
  sessionNoteId,
  sessionNoteValue,
  targetOf,
  type UnionFacts,
  unionOf,
} from "../../../core/cluster/sessions.ts";
import { noteLimitCharacters } from "../../../core/store/store.ts";

const id = "ab".repeat(16);
const user = "1".repeat(32);
const dto = {
  Id: id,
  UserId: user,
  DeviceId: "tv",
  LastActivityDate: "2026-11-21T05:00:00.0000000Z",
  SupportsRemoteControl: true,
};

function session(replica: string, change: Partial<SeenSession> = {}): SeenSession {
  const read = readSession(dto, replica);
  if (read === undefined) throw new Error("it is a session");
  return { ...read, ...change };
}

function facts(gone: Record<string, number> = {}, home = "a"): UnionFacts {
  return { homeOf: () => home, goneForMs: (replica) => gone[replica] ?? 0 };
}

const shownAt = (sessions: readonly SeenSession[], seen: UnionFacts): string[] =>
  unionOf(sessions, seen).map(({ replica }) => replica);

describe("the union", () => {
  const idle = { isControllable: false };
  test.each<[string, SeenSession[], UnionFacts, string[]]>([
    ["each device once, at home", [session("b"), session("a")], facts(), ["a"]],
    ["where its socket is", [session("a", idle), session("b")], facts(), ["b"]],
    ["not what a mint left", [session("b", idle)], facts(), []],
    ["a leftover while its home is away", [session("b", idle)], facts({ a: 10 }), ["b"]],
    ["for a minute after a death", [session("b")], facts({ b: lostKeepMs }), ["b"]],
    ["no longer than that", [session("b")], facts({ b: lostKeepMs + 1 }), []],
    ["until it is seen elsewhere", [session("b"), session("a", idle)], facts({ b: 1 }), ["a"]],
    [
      "lost is worse than idle",
      [session("a", { isLost: true }), session("a", idle)],
      facts(),
      ["a"],
    ],
  ])("shows %s", (_name, sessions, seen, expected) => {
    expect(shownAt(sessions, seen)).toEqual(expected);
    expect(shownAt([...sessions].reverse(), seen)).toEqual(expected);
  });
});

describe("a command", () => {
  const idle = { isControllable: false };
  test.each<[string, SeenSession[], UnionFacts, ReturnType<typeof targetOf>]>([
    ["goes where the socket is", [session("a", idle), session("b")], facts(), { replica: "b" }],
    ["waits for a device whose server died", [session("b")], facts({ b: 5 }), "wait"],
    ["waits for its socket", [session("b"), session("a", idle)], facts({ b: 5 }), "wait"],
    ["goes to its new socket", [session("b"), session("a")], facts({ b: 5 }), { replica: "a" }],
    ["does not wait for one that never had one", [session("a", idle)], facts(), { replica: "a" }],
    ["knows nobody", [], facts(), "unknown"],
  ])("%s", (_name, sessions, seen, expected) => {
    expect(targetOf(id.toUpperCase(), sessions, seen)).toEqual(expected);
  });
});

describe("a note", () => {
  const note = (value: string, noteId = sessionNoteId("a", id)) =>
    ({ kind: "session", id: noteId, replica: "a", value, expiresAtMs: 0 }) as const;

  test("is read back as it was written", () => {
    const value = sessionNoteValue(dto, true) ?? "";
    expect(readSessionNote(note(value))).toMatchObject({ id, userId: user, isLost: true });
  });

  test.each([
    "",
    "{",
    "[]",
    "null",
    '{"session":null}',
    '{"session":[1]}',
    '{"session":{"Id":"../x","DeviceId":"tv"}}',
    '{"session":{"Id":7}}',
  ])("of another shape is none: %s", (value) => {
    expect(readSessionNote(note(value))).toBeUndefined();
  });

  test("of another session than its id says, or of ours, is none", () => {
    const value = sessionNoteValue(dto, false) ?? "";
    expect(readSessionNote(note(value, `a:${"cd".repeat(16)}`))).toBeUndefined();
    const ours = { ...dto, UserId: "0".repeat(32), DeviceId: "jellybloom-abc-a" };
    expect(readSessionNote(note(sessionNoteValue(ours, false) ?? ""))).toBeUndefined();
  });

  test("of a session with an endless queue loses the queue", () => {
    const queue = Array.from({ length: 3000 }, () => ({ Id: id }));
    const value = sessionNoteValue({ ...dto, NowPlayingQueue: queue }, false) ?? "";
    expect(value.length).toBeLessThan(noteLimitCharacters);
    expect(readSessionNote(note(value))?.dto).toEqual(dto);
  });

  test("says nothing new when only the position moved", () => {
    const at = (PositionTicks: number, IsPaused = false) =>
      lastingPart({ ...dto, PlayState: { PositionTicks, IsPaused } });
    expect(at(1)).toBe(at(2));
    expect(at(1)).not.toBe(at(1, true));
  });
});

describe("who sees a session", () => {
  const anyTime = { controllableBy: undefined, deviceId: undefined, activeWithinSeconds: 0 };
  const nowMs = Date.parse(dto.LastActivityDate) + 30_000;
  const person = (userId: string, isAdministrator = false, controlsOthers = false) => ({
    userId,
    isAdministrator,
    controlsOthers,
    deviceIds: undefined,
  });
  const other = "2".repeat(32);
  test.each([
    ["its user", person(user), anyTime, true],
    ["another user", person(other), anyTime, false],
    ["an administrator", person(other, true), anyTime, true],
    ["by another device id", person(user), { ...anyTime, deviceId: "x" }, false],
    ["by its device id", person(user), { ...anyTime, deviceId: "TV" }, true],
    ["within a minute", person(user), { ...anyTime, activeWithinSeconds: 60 }, true],
    ["within ten seconds", person(user), { ...anyTime, activeWithinSeconds: 10 }, false],
    ["to control", person(other), { ...anyTime, controllableBy: { sharesDevices: true } }, false],
    [
      "who may control others",
      person(other, false, true),
      { ...anyTime, controllableBy: { sharesDevices: true } },
      true,
    ],
  ])("%s", (_name, onlooker, question, expected) => {
    expect(isShown(session("a"), onlooker, question, nowMs)).toBe(expected);
  });

  // For a minute after its restart a replica's lost sessions are notes. They were shown to whoever asked there: everybody's
  // names, devices and addresses, and what they watch.
  const lost = { isLost: true };
  const ours = session("a", { id: "cd".repeat(16), userId: other });
  test.each<
    [string, readonly SeenSession[], readonly SeenSession[], string, object, readonly SeenSession[]]
  >([
    ["what their server shows, as it is", [ours], [], user, {}, [ours]],
    ["nothing that it notes beside its answer", [], [session("a")], user, {}, []],
    ["their own session that it lost", [], [session("a", lost)], user, {}, [session("a", lost)]],
    ["nobody else's that it lost", [], [session("a", lost)], other, {}, []],
    ["none it lost of another device", [], [session("a", lost)], user, { deviceId: "x" }, []],
    ["none it lost long ago", [], [session("a", lost)], user, { activeWithinSeconds: 10 }, []],
    ["their own session elsewhere", [], [session("b")], user, {}, [session("b")]],
    ["nobody else's elsewhere", [ours], [session("b")], other, {}, [ours]],
  ])("is shown %s", (_name, own, noted, userId, asked, expected) => {
    const question = { ...anyTime, ...asked };
    const list = listFor(
      own,
      noted,
      { replica: "a", onlooker: person(userId), question, nowMs },
      facts(),
    );
    expect(list).toEqual(expected);
  });

  test("an administrator sees what a server lost of everybody", () => {
    const asked = { replica: "a", onlooker: person(other, true), question: anyTime, nowMs };
    expect(listFor([], [session("a", lost)], asked, facts())).toHaveLength(1);
  });
});
