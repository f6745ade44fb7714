// Who makes which recording when a recorder dies and returns; every interruption of it, and what a hostile note does.

import { describe, expect, test } from "vitest";
import {
  decideRecordings,
  type KnownTimer,
  readTimerNote,
  recordsSame,
  type SeenTimer,
  timerNoteId,
  timerNoteValue,
  timersIn,
} from "../../../core/cluster/recordings.ts";
import { createSeal } from "../../../core/service/seal.ts";

const seal = createSeal("a key for this test");
const nowMs = Date.parse("2026-11-21T20:00:00Z");
const at = (minutes: number): string => new Date(nowMs + minutes * 60_000).toISOString();

function timer(id: string, from = 10, to = 40, more: Record<string, string> = {}): SeenTimer {
  const fields = { ChannelId: "two", Name: id, StartDate: at(from), EndDate: at(to), ...more };
  return { kind: "timer", id, fields };
}

/** Two servers with timers, and what is written down; a sidecar's steps are carried out one by one. */
class Recorders {
  readonly has: Record<string, SeenTimer[]> = { a: [], b: [] };
  known: KnownTimer[] = [];
  recorder = "a";
  made = 0;

  /** One look of a replica's sidecar, cut off after so many deeds; answers how many there were. */
  look(replica: string, deedsLimit = 1000): number {
    const seen = [...(this.has[replica] ?? [])];
    const world = { replica, recorder: this.recorder, seen, known: [...this.known], nowMs };
    const deeds = decideRecordings(world).flatMap((step) => this.#deeds(replica, step));
    for (const deed of deeds.slice(0, deedsLimit)) deed();
    return deeds.length;
  }

  #deeds(replica: string, step: ReturnType<typeof decideRecordings>[number]): (() => void)[] {
    const own = this.has[replica] ?? [];
    const same = (one: SeenTimer & { replica?: string }, other: KnownTimer): boolean =>
      timerNoteId(one.replica ?? "", one) === timerNoteId(other.replica, other);
    const put = (known: KnownTimer) => (): void => {
      this.known = [...this.known.filter((one) => !same(one, known)), known];
    };
    const forget = (known: KnownTimer) => (): void => {
      this.known = this.known.filter((one) => !same(one, known));
    };
    switch (step.step) {
      case "write":
        return [put(step.timer)];
      case "forget":
        return [forget(step.known)];
      case "take": {
        const { timer: wanted, known } = step;
        const make = (): void => {
          this.made += 1;
          own.push({ ...(wanted as SeenTimer), id: `new${this.made}` });
        };
        return [...(wanted === undefined ? [] : [make]), put({ ...known, isTaken: true })];
      }
      case "cancel": {
        const { id } = step.known;
        const cancel = (): void => {
          this.has[replica] = (this.has[replica] ?? []).filter((one) => one.id !== id);
        };
        return [cancel, forget(step.known)];
      }
    }
  }

  get names(): Record<string, unknown[]> {
    const { a = [], b = [] } = this.has;
    return { a: a.map(({ fields }) => fields.Name), b: b.map(({ fields }) => fields.Name) };
  }
}

describe("timers of a recorder", () => {
  test("are made at the next one when it dies, and cancelled at the first when it is back", () => {
    const all = new Recorders();
    all.has.a = [timer("News", -5, 20), timer("Film", 60, 90), timer("Past", -60, -30)];
    all.look("a");
    all.recorder = "b";
    all.look("b");
    expect(all.names.b).toEqual(["News", "Film"]);
    all.look("b");
    expect(all.made).toBe(2);
    all.look("a");
    expect(all.names).toEqual({ a: ["Past"], b: ["News", "Film"] });
    for (let looks = 0; looks < 3; looks++) for (const name of ["a", "b"]) all.look(name);
    expect(all.names.b).toEqual(["News", "Film"]);
    expect(all.made).toBe(2);
  });

  test("are made once, whenever a sidecar dies between two deeds", () => {
    for (let cut = 0; cut < 12; cut++) {
      const all = new Recorders();
      all.has.a = [timer("News", -5, 20), timer("Film", 60, 90), { ...timer("S"), kind: "series" }];
      all.look("a");
      all.recorder = "b";
      all.look("b", cut);
      all.look("a", 1);
      for (let looks = 0; looks < 4; looks++) for (const name of ["b", "a"]) all.look(name);
      expect(all.names, `cut after ${cut}`).toEqual({ a: [], b: ["S", "News", "Film"] });
      expect(all.made).toBe(3);
    }
  });

  test("that a copy of a server has, too, are made by the recorder alone", () => {
    const all = new Recorders();
    all.has.a = [timer("News")];
    all.has.b = [timer("News")];
    for (let looks = 0; looks < 3; looks++) for (const name of ["a", "b"]) all.look(name);
    expect(all.names).toEqual({ a: ["News"], b: [] });
    expect(all.made).toBe(0);
    expect(all.known).toHaveLength(1);
  });

  test("that an administrator cancels are forgotten, and come back from nowhere", () => {
    const all = new Recorders();
    all.has.a = [timer("News")];
    all.look("a");
    all.has.a = [];
    all.look("a");
    expect(all.known).toEqual([]);
    all.recorder = "b";
    all.look("b");
    expect(all.names.b).toEqual([]);
  });
});

describe("two timers record the same", () => {
  test.each([
    [
      "the same programme",
      timer("x", 0, 1, { ProgramId: "p" }),
      timer("y", 5, 9, { ProgramId: "p" }),
      true,
    ],
    ["the same channel and minute", timer("x", 10), timer("y", 10.5), true],
    ["another hour", timer("x", 10), timer("y", 70), false],
    ["another channel", timer("x"), timer("y", 10, 40, { ChannelId: "one" }), false],
    ["a series and one of it", timer("x"), { ...timer("x"), kind: "series" } as SeenTimer, false],
  ])("%s", (_what, one, other, expected) => {
    expect(recordsSame(one, other)).toBe(expected);
  });
});

describe("what is written down", () => {
  const known: KnownTimer = { ...timer("t1"), replica: "a", isTaken: false };
  const note = (value: string, id = timerNoteId("a", known)) =>
    ({ kind: "timer", id, replica: "a", value, expiresAtMs: 0 }) as const;

  test("is read again as it was", () => {
    expect(readTimerNote(seal, note(timerNoteValue(seal, known)))).toEqual(known);
  });

  test("counts for nothing where it was not made with the cluster's key, or is moved to another timer", () => {
    const foreign = timerNoteValue(createSeal("another key for it"), known);
    expect(readTimerNote(seal, note(foreign))).toBeUndefined();
    expect(readTimerNote(seal, note(timerNoteValue(seal, known), "a:timer:t2"))).toBeUndefined();
    for (const nonsense of ["", "[]", '{"text":1}', '{"text":"x","proof":"y"}']) {
      expect(readTimerNote(seal, note(nonsense))).toBeUndefined();
    }
  });

  test("is nothing of a server's answer but what a client would send", () => {
    const item = { Id: "t1", Name: "News", Status: "New", ServerId: "x", Days: ["Monday", 7] };
    const [seen] =
      timersIn(
        { Items: [item, { Id: "../x" }, null, { Id: "t2", Status: "Cancelled" }] },
        "timer",
      ) ?? [];
    expect(seen).toEqual({ kind: "timer", id: "t1", fields: { Name: "News", Days: ["Monday"] } });
    expect(timersIn({ Items: "x" }, "timer")).toBeUndefined();
  });
});
