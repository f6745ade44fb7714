// Scheduled tasks at the door: malformed triggers go no further, and what a server tells of its own tasks is
// shown as the cluster's.

import { describe, expect, test } from "vitest";
import type { Note, NoteKind } from "../../../core/store/store.ts";
import { shownTaskMessage, shownTasks } from "../../../proxy/attendants/tasks.ts";

const daily = { Type: "DailyTrigger", TimeOfDayTicks: 0 };
const schedule = { id: "id", triggers: [daily], original: [], sinceMs: 1 };
const run = (state: string) => ({
  ...{ dueAtMs: 1, why: "due", epoch: { number: 1, owner: "me" }, startups: {} },
  steps: [{ replica: "b", state, atMs: 1 }],
});

function memoryOf(notes: Partial<Record<NoteKind, Record<string, unknown>>>) {
  return {
    notes: (kind: NoteKind): ReadonlyMap<string, Note> =>
      new Map(
        Object.entries(notes[kind] ?? {}).map(([id, value]) => {
          const text = typeof value === "string" ? value : JSON.stringify(value);
          return [id, { kind, id, replica: "", value: text, expiresAtMs: 0 }];
        }),
      ),
  };
}

const parked = { Key: "Scan", State: "Idle", Triggers: [], Name: "Durchsuchen" };

describe("a server's own list of tasks", () => {
  test("shows the cluster's triggers, and as running what another replica runs", () => {
    const memory = memoryOf({ schedule: { Scan: schedule }, taskRun: { Scan: run("running") } });
    expect(shownTasks([parked, { Key: "Other", State: "Idle", Triggers: [] }], memory)).toEqual([
      { ...parked, State: "Running", Triggers: [daily] },
      { Key: "Other", State: "Idle", Triggers: [] },
    ]);
    expect(shownTasks(parked, memory)).toMatchObject({ Triggers: [daily] });
  });

  test("shows a run as running from its order to its last end, also between two servers' turns", () => {
    const stateOf = (...states: string[]) => {
      const steps = states.map((state, index) => ({ replica: `r${index}`, state, atMs: 1 }));
      const taskRun = { Scan: { ...run("done"), steps } };
      const memory = memoryOf({ schedule: { Scan: schedule }, taskRun });
      return (shownTasks(parked, memory) as { State: string }).State;
    };
    expect(stateOf("waiting", "waiting")).toBe("Running");
    expect(stateOf("done", "waiting")).toBe("Running");
    expect(stateOf("done", "skipped")).toBe("Idle");
    const held = { ...run("waiting"), endedAtMs: 2 };
    const memory = memoryOf({ schedule: { Scan: schedule }, taskRun: { Scan: held } });
    expect(shownTasks(parked, memory)).toMatchObject({ State: "Idle" });
  });

  test("keeps the server's own word where it runs the task, and when nobody does", () => {
    const memory = memoryOf({ schedule: { Scan: schedule }, taskRun: { Scan: run("done") } });
    expect(shownTasks({ ...parked, State: "Cancelling" }, memory)).toMatchObject({
      State: "Cancelling",
    });
    expect(shownTasks(parked, memory)).toMatchObject({ State: "Idle" });
  });

  test("is left alone where the store holds nonsense or the body is none", () => {
    const memory = memoryOf({ schedule: { Scan: "nonsense" }, taskRun: { Scan: "[]" } });
    expect(shownTasks([parked, null, 7, { Key: 7 }], memory)).toEqual([
      parked,
      null,
      7,
      { Key: 7 },
    ]);
  });
});

describe("a server's message about its tasks", () => {
  const message = { MessageType: "ScheduledTasksInfo", MessageId: "x", Data: [parked] };
  test("is shown as the cluster's", () => {
    const shown = shownTaskMessage(
      JSON.stringify(message),
      memoryOf({ schedule: { Scan: schedule } }),
    );
    expect(JSON.parse(shown)).toEqual({ ...message, Data: [{ ...parked, Triggers: [daily] }] });
  });
  test("is the same text where servers keep their own schedules, and where it is another message", () => {
    const text = JSON.stringify(message);
    expect(shownTaskMessage(text, memoryOf({}))).toBe(text);
    const other = '{"MessageType":"KeepAlive"}';
    expect(shownTaskMessage(other, memoryOf({ schedule: { Scan: schedule } }))).toBe(other);
    expect(shownTaskMessage("[", memoryOf({ schedule: { Scan: schedule } }))).toBe("[");
  });
});
