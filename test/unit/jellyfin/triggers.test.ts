// When tasks run: what Jellyfin's triggers mean, and what would keep a server from ever starting again.

import { describe, expect, test } from "vitest";
import {
  isZone,
  nextDue,
  parseTriggers,
  readTriggers,
  sameTriggers,
  startupTrigger,
  type Trigger,
} from "../../../core/jellyfin/triggers.ts";

const hourTicks = 36_000_000_000;
const minute = 60_000;
const hour = 60 * minute;
const day = 24 * hour;
const at = (text: string) => Date.parse(text);

function due(
  trigger: Trigger,
  since: string,
  zone = "UTC",
  past: { start?: string; end?: string } = {},
) {
  const found = nextDue(
    [trigger],
    {
      sinceMs: at(since),
      lastStartMs: past.start === undefined ? undefined : at(past.start),
      lastEndMs: past.end === undefined ? undefined : at(past.end),
    },
    zone,
  );
  return found === undefined ? undefined : new Date(found.atMs).toISOString();
}

describe("a trigger that a server could not start with is refused, in words", () => {
  const refused: readonly [unknown, RegExp][] = [
    [{}, /not a list/],
    ["[]", /not a list/],
    [[7], /not an object/],
    [[{}], /Type/],
    [[{ Type: "NoSuchTrigger" }], /Type/],
    [[{ Type: 9 }], /Type/],
    [[{ Type: "DailyTrigger" }], /TimeOfDayTicks is missing/],
    [[{ Type: "DailyTrigger", TimeOfDayTicks: null }], /TimeOfDayTicks is missing/],
    [[{ Type: "DailyTrigger", TimeOfDayTicks: -1 }], /negative/],
    [[{ Type: "DailyTrigger", TimeOfDayTicks: 24 * hourTicks }], /too large/],
    [[{ Type: "DailyTrigger", TimeOfDayTicks: 1.5 }], /whole number/],
    [[{ Type: "DailyTrigger", TimeOfDayTicks: "soon" }], /whole number/],
    [[{ Type: "WeeklyTrigger", TimeOfDayTicks: 0 }], /DayOfWeek/],
    [[{ Type: "WeeklyTrigger", TimeOfDayTicks: 0, DayOfWeek: "Someday" }], /DayOfWeek/],
    [[{ Type: "WeeklyTrigger", TimeOfDayTicks: 0, DayOfWeek: 7 }], /DayOfWeek/],
    [[{ Type: "WeeklyTrigger", DayOfWeek: "Monday" }], /TimeOfDayTicks is missing/],
    [[{ Type: "IntervalTrigger" }], /IntervalTicks is missing/],
    [[{ Type: "IntervalTrigger", IntervalTicks: -hourTicks }], /negative/],
    [[{ Type: "IntervalTrigger", IntervalTicks: 9.2e18 }], /too large/],
    [[{ Type: "StartupTrigger", MaxRuntimeTicks: -1 }], /MaxRuntimeTicks is negative/],
    [[{ Type: "StartupTrigger", MaxRuntimeTicks: 9e15 }], /MaxRuntimeTicks is too large/],
    [[{ Type: "StartupTrigger" }, { Type: "IntervalTrigger" }], /^trigger 2:/],
    [Array.from({ length: 101 }, () => ({ Type: "StartupTrigger" })), /more than 100/],
  ];
  test.each(refused)("%j", (value, problem) => {
    expect(readTriggers(value)).toEqual({ problem: expect.stringMatching(problem) });
  });

  test("what is not JSON at all is refused, too", () => {
    expect(parseTriggers("[{")).toEqual({ problem: "the triggers are not JSON" });
  });
});

test("triggers are read as Jellyfin reads them: names in any case, numbers for names, nothing for null", () => {
  expect(
    readTriggers([
      { type: "dailytrigger", timeOfDayTicks: String(2 * hourTicks), maxRuntimeTicks: null },
      null,
      { Type: 1, TimeOfDayTicks: 0, DayOfWeek: 6, IntervalTicks: null, Unknown: true },
      { Type: "StartupTrigger", MaxRuntimeTicks: hourTicks },
    ]),
  ).toEqual({
    triggers: [
      { Type: "DailyTrigger", TimeOfDayTicks: 2 * hourTicks },
      { Type: "WeeklyTrigger", TimeOfDayTicks: 0, DayOfWeek: "Saturday" },
      { Type: "StartupTrigger", MaxRuntimeTicks: hourTicks },
    ],
  });
  expect(readTriggers([])).toEqual({ triggers: [] });
});

test("triggers are the same whatever the order of their fields", () => {
  const left: Trigger = { Type: "WeeklyTrigger", TimeOfDayTicks: 1, DayOfWeek: "Monday" };
  const right: Trigger = { DayOfWeek: "Monday", TimeOfDayTicks: 1, Type: "WeeklyTrigger" };
  expect(sameTriggers([left], [right])).toBe(true);
  expect(sameTriggers([left], [{ ...right, TimeOfDayTicks: 2 }])).toBe(false);
  expect(sameTriggers([left], [])).toBe(false);
});

describe("a daily trigger fires at its time of day in the server's zone", () => {
  const three: Trigger = { Type: "DailyTrigger", TimeOfDayTicks: 3 * hourTicks };
  const table: readonly [string, string, string][] = [
    ["2026-11-21T01:00:00Z", "UTC", "2026-11-21T03:00:00.000Z"],
    ["2026-11-21T03:00:00Z", "UTC", "2026-11-22T03:00:00.000Z"],
    ["2026-11-21T01:00:00Z", "Europe/Berlin", "2026-11-21T02:00:00.000Z"],
    ["2026-11-21T02:30:00Z", "Europe/Berlin", "2026-11-22T02:00:00.000Z"],
    ["2026-11-21T20:00:00Z", "Asia/Kolkata", "2026-11-21T21:30:00.000Z"],
    ["2026-12-31T23:59:59Z", "UTC", "2027-01-01T03:00:00.000Z"],
    // The clocks go forward: three o'clock is one o'clock of UTC from this night on.
    ["2026-03-28T12:00:00Z", "Europe/Berlin", "2026-03-29T01:00:00.000Z"],
    // And back: three o'clock is two o'clock of UTC again.
    ["2026-10-24T12:00:00Z", "Europe/Berlin", "2026-10-25T02:00:00.000Z"],
  ];
  test.each(table)("after %s in %s: %s", (since, zone, expected) => {
    expect(due(three, since, zone)).toBe(expected);
  });

  test("a time which the clocks skip is not skipped, and one that comes twice comes once", () => {
    const halfPastTwo: Trigger = { Type: "DailyTrigger", TimeOfDayTicks: 2.5 * hourTicks };
    expect(due(halfPastTwo, "2026-03-28T12:00:00Z", "Europe/Berlin")).toBe(
      "2026-03-29T01:30:00.000Z",
    );
    const first = due(halfPastTwo, "2026-10-24T12:00:00Z", "Europe/Berlin");
    expect(first).toBe("2026-10-25T00:30:00.000Z");
    expect(due(halfPastTwo, String(first), "Europe/Berlin")).toBe("2026-10-26T01:30:00.000Z");
  });
});

test("a weekly trigger fires on its day alone", () => {
  const monday: Trigger = {
    Type: "WeeklyTrigger",
    TimeOfDayTicks: 4 * hourTicks,
    DayOfWeek: "Monday",
  };
  // 21 November 2026 is a Saturday.
  expect(due(monday, "2026-11-21T00:00:00Z")).toBe("2026-11-23T04:00:00.000Z");
  expect(due(monday, "2026-11-23T03:59:59Z")).toBe("2026-11-23T04:00:00.000Z");
  expect(due(monday, "2026-11-23T04:00:00Z")).toBe("2026-11-30T04:00:00.000Z");
  expect(due(monday, "2026-11-22T16:00:00Z", "Pacific/Auckland")).toBe("2026-11-29T15:00:00.000Z");
});

describe("an interval counts from the last run", () => {
  const twelve: Trigger = { Type: "IntervalTrigger", IntervalTicks: 12 * hourTicks };
  const since = "2026-11-21T00:00:00Z";
  test("an hour after it was first seen when it never ran", () => {
    expect(due(twelve, since)).toBe("2026-11-21T01:00:00.000Z");
  });
  test("from the end of a long run, and a minute after the start of a short one", () => {
    const start = "2026-11-21T01:00:00Z";
    expect(due(twelve, since, "UTC", { start, end: "2026-11-21T03:00:00Z" })).toBe(
      "2026-11-21T15:00:00.000Z",
    );
    expect(due(twelve, since, "UTC", { start, end: "2026-11-21T01:00:02Z" })).toBe(
      "2026-11-21T13:01:00.000Z",
    );
  });
  test("never later than a week, and never without a pause", () => {
    const start = "2026-11-21T01:00:00Z";
    const thirtyDays: Trigger = { Type: "IntervalTrigger", IntervalTicks: 720 * hourTicks };
    expect(due(thirtyDays, since, "UTC", { start })).toBe("2026-11-28T01:01:00.000Z");
    const always: Trigger = { Type: "IntervalTrigger", IntervalTicks: 0 };
    expect(due(always, since, "UTC", { start })).toBe("2026-11-21T01:01:00.000Z");
  });
});

test("of several triggers the first to come counts, and a startup trigger has no time", () => {
  const startup: Trigger = { Type: "StartupTrigger", MaxRuntimeTicks: 1 };
  const daily: Trigger = { Type: "DailyTrigger", TimeOfDayTicks: 3 * hourTicks };
  const weekly: Trigger = {
    Type: "WeeklyTrigger",
    TimeOfDayTicks: hourTicks,
    DayOfWeek: "Saturday",
  };
  const past = { sinceMs: at("2026-11-21T00:00:00Z") };
  expect(nextDue([startup, daily, weekly], past, "UTC")?.trigger).toBe(weekly);
  expect(nextDue([startup], past, "UTC")).toBeUndefined();
  expect(nextDue([], past, "UTC")).toBeUndefined();
  expect(startupTrigger([daily, startup])).toBe(startup);
});

test("the next time is always later, and within a day or a week, in every zone and season", () => {
  for (const zone of ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]) {
    for (let step = 0; step < 400; step++) {
      const sinceMs = at("2026-01-01T00:17:00Z") + step * 22 * hour;
      const ticks = ((step * 37) % 1440) * minute * 10_000;
      const daily = nextDue([{ Type: "DailyTrigger", TimeOfDayTicks: ticks }], { sinceMs }, zone);
      expect(daily?.atMs).toBeGreaterThan(sinceMs);
      expect(daily?.atMs).toBeLessThanOrEqual(sinceMs + day + 2 * hour);
    }
  }
});

test("a zone is known by its name", () => {
  expect(isZone("Europe/Berlin")).toBe(true);
  expect(isZone("Nowhere/Else")).toBe(false);
});
