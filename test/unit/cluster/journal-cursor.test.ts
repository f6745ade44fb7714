// What a sidecar wrote of where it stands in the journal, read back by doors and other sidecars: whoever can write
// to the store can write anything there.

import { describe, expect, test } from "vitest";
import {
  behindNoteId,
  behindOf,
  journalCursorOf,
  journalNoteId,
  journalStartNoteId,
  journalStartOf,
  readJournalCursor,
} from "../../../core/cluster/journal-cursor.ts";

const long = "g".repeat(129);

function noted(id: string, value: unknown) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return new Map([
    [id, { kind: "replica", id, replica: "a", value: text, expiresAtMs: 0 } as const],
  ]);
}

describe("a cursor", () => {
  test.each([
    [{ generation: "g", number: 0 }],
    [{ generation: "g", number: Number.MAX_SAFE_INTEGER }],
    [{ generation: "g", number: 7, mark: "m" }],
  ])("is read: %j", (value) => {
    expect(readJournalCursor(value)).toEqual(value);
  });

  test.each([
    [undefined],
    [null],
    ["g:7"],
    [[]],
    [{}],
    [{ generation: "", number: 7 }],
    [{ generation: 7, number: 7 }],
    [{ generation: long, number: 7 }],
    [{ generation: "g" }],
    [{ generation: "g", number: -1 }],
    [{ generation: "g", number: 0.5 }],
    [{ generation: "g", number: 2 ** 53 }],
    [{ generation: "g", number: "7" }],
  ])("is none: %j", (value) => {
    expect(readJournalCursor(value)).toBeUndefined();
  });

  test.each([[7], [""], [long], [null]])("has no mark that is %j", (mark) => {
    expect(readJournalCursor({ generation: "g", number: 7, mark })).toEqual({
      generation: "g",
      number: 7,
    });
  });

  test("is its own replica's, and none where nothing readable stands", () => {
    const cursor = { generation: "g", number: 7 };
    const notes = noted(journalNoteId("a"), cursor);
    expect(journalCursorOf(notes, "a")).toEqual(cursor);
    expect(journalCursorOf(notes, "b")).toBeUndefined();
    expect(journalCursorOf(noted(journalNoteId("a"), "{"), "a")).toBeUndefined();
  });
});

describe("an order to begin elsewhere", () => {
  const cursor = { generation: "g", number: 7 };
  test("has a cursor and a word of its own", () => {
    const read = (value: unknown) => journalStartOf(noted(journalStartNoteId("a"), value), "a");
    expect(read({ cursor, order: "once" })).toEqual({ cursor, order: "once" });
    for (const wrong of [
      { cursor },
      { cursor, order: "" },
      { cursor, order: 1 },
      { order: "once" },
    ]) {
      expect(read(wrong)).toBeUndefined();
    }
  });
});

describe("who is behind", () => {
  const read = (value: unknown) => behindOf(noted(behindNoteId("a"), value), "a");
  test.each([["server"], ["sidecar"]])("because of its %s", (cause) => {
    expect(read({ cause, sinceMs: 5 })).toEqual({ cause, sinceMs: 5 });
  });
  test.each([
    [{ cause: "weather", sinceMs: 5 }],
    [{ sinceMs: 5 }],
    [{ cause: "server" }],
    [{ cause: "server", sinceMs: "5" }],
    [{ cause: "server", sinceMs: null }],
    [""],
  ])("nobody by %j", (value) => {
    expect(read(value)).toBeUndefined();
  });
});
