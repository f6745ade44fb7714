/** What is told of servers whose libraries differ, and what counts as a difference. */
import { describe, expect, test } from "vitest";
import {
  type Drift,
  driftNoteId,
  driftSentence,
  driftsIn,
  driftValue,
  itemsIn,
  readDrift,
} from "../../../core/cluster/drift.ts";
import { lookOf } from "../../../sidecar/library/digest.ts";
import { DriftWatch } from "../../../sidecar/library/drift-watch.ts";

const sinceMs = new Date(2026, 10, 21, 14, 2).getTime();
const none = { lacks: 0, extra: 0, pictures: 0, dates: 0, derived: 0 };
const drift: Drift = {
  sinceMs,
  libraries: [{ ...none, library: "Movies", lacks: 3 }],
  hindrance: "",
};

describe("the sentence", () => {
  test("says what is lacking, where, and since when", () => {
    expect(driftSentence("b", drift)).toBe("b lacks 3 items of Movies, since 14:02");
  });

  test("says everything that differs, and why nothing is done about it", () => {
    const more: Drift = {
      sinceMs,
      libraries: [
        { ...none, library: "Movies", lacks: 1, extra: 2 },
        { ...none, library: "Shows", pictures: 1, dates: 4, derived: 2 },
      ],
      hindrance: "it is not scanned: the folder cannot be reached",
    };
    expect(driftSentence("c", more)).toBe(
      "c lacks 1 item of Movies, has 2 items of Movies too many, has other pictures for 1 item of Shows," +
        " has other dates for 4 items of Shows, has other trickplay, chapter pictures or segments for 2 items of Shows," +
        " since 14:02 (it is not scanned: the folder cannot be reached)",
    );
    expect(itemsIn(more)).toBe(3);
  });
});

describe("notes", () => {
  const note = (id: string, value: string) =>
    [id, { kind: "replica", id, replica: "", value, expiresAtMs: 0 }] as const;

  test("are read back as they were written, beside all others of a replica", () => {
    const notes = new Map([
      note("b", "{}"),
      note("b:drain", '{"draining":true}'),
      note(driftNoteId("b"), driftValue(drift)),
    ]);
    expect([...driftsIn(notes)]).toEqual([["b", drift]]);
  });

  test.each([
    "",
    "no JSON",
    "[]",
    "{}",
    JSON.stringify({ ...drift, sinceMs: -1 }),
    JSON.stringify({ ...drift, libraries: [] }),
    JSON.stringify({ ...drift, libraries: ["Movies", null, { library: 7, lacks: 1 }] }),
    JSON.stringify({ ...drift, libraries: [{ library: "Movies", lacks: "many" }] }),
    JSON.stringify({ ...drift, libraries: Array(101).fill(drift.libraries[0]) }),
  ])("that make no sense are as if they were not there: %s", (value) => {
    expect(readDrift(value)).toBeUndefined();
  });
});

describe("the look of an item", () => {
  const item = {
    Id: "x",
    ImageTags: { Primary: "1", Logo: "2" },
    BackdropImageTags: ["3"],
    DateCreated: "2026-01-02T03:04:05.1234567Z",
    Trickplay: { x: { "320": {} } },
  };

  test("is the same whatever tags a server gives its pictures, and whatever parts of a second it keeps", () => {
    const other = {
      ...item,
      ImageTags: { Logo: "8", Primary: "9" },
      BackdropImageTags: ["7"],
      Chapters: [{ ImagePath: null, Name: "One" }, "nonsense"],
      MediaSources: [{ HasSegments: false }],
      DateCreated: "2026-01-02T03:04:05.0000000Z",
    };
    expect(lookOf(other)).toEqual(lookOf(item));
  });

  test.each([
    ["a picture", { ImageTags: { Primary: "1" } }],
    ["a backdrop", { BackdropImageTags: [] }],
    ["a date", { DateCreated: "2026-01-02T03:04:06Z" }],
    ["trickplay", { Trickplay: {} }],
    ["a chapter's picture", { Chapters: [{ ImagePath: "/chapters/1.jpg" }] }],
    ["having media segments", { MediaSources: [{ HasSegments: true }] }],
    ["the number of its entries", { ChildCount: 2 }],
  ])("is another when %s is", (_what, change) => {
    expect(lookOf({ ...item, ...change })).not.toEqual(lookOf(item));
  });
});

test("a watch that is switched off asks nobody, and goes on until it is stopped", async () => {
  const asked: string[] = [];
  const stop = new AbortController();
  const never = (name: string) => (): never => {
    asked.push(name);
    throw new Error(`${name} was asked`);
  };
  const watch = new DriftWatch({
    replica: "a",
    client: {} as never,
    peers: never("peers"),
    hands: never("hands"),
    lease: { mayAct: never("lease"), onChange: never("lease") },
    store: {} as never,
    memory: {} as never,
    log: { info: never("log"), warn: never("log") },
    wallMs: never("clock"),
    monotonicMs: never("clock"),
    intervalMs: 0,
  });
  let hasEnded = false;
  const running = watch.run(stop.signal).then(() => {
    hasEnded = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect([hasEnded, asked]).toEqual([false, []]);
  stop.abort();
  await running;
});
