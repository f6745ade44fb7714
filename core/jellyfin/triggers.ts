// When Jellyfin runs a task: the triggers of its scheduled tasks, read, checked and reckoned with. Pure.
//
// They are checked here before any server sees them, because Jellyfin writes a trigger down before it looks
// at it (ScheduledTaskWorker.Triggers saves, then GetTrigger throws): a malformed one is answered with 400,
// lies in the file all the same, and at the next start the task's constructor throws and the server does not
// start. So whatever could make a constructor or a timer of the server throw is refused here, in words.
//
// The times mean what Jellyfin's own timers mean (Emby.Server.Implementations/ScheduledTasks/Triggers): the
// time of day in the server's zone, an interval from the last run, a week's day by name. On one point they
// are better: a server reckons a day as 24 hours and is an hour off on the day the clocks are changed; here
// three o'clock is three o'clock.

export const triggerTypes = [
  "DailyTrigger",
  "WeeklyTrigger",
  "IntervalTrigger",
  "StartupTrigger",
] as const;
export type TriggerType = (typeof triggerTypes)[number];

export const weekdays = [
  "Sunday",
  "Monday",
  "Tuesday",
  "Wednesday",
  "Thursday",
  "Friday",
  "Saturday",
] as const;
export type Weekday = (typeof weekdays)[number];

/** One trigger, in Jellyfin's own names and units, so that it goes over the wire as it is. */
export interface Trigger {
  readonly Type: TriggerType;
  /** Ticks of 100 ns since midnight. */
  readonly TimeOfDayTicks?: number;
  readonly IntervalTicks?: number;
  readonly DayOfWeek?: Weekday;
  /** The run that this trigger starts is cancelled after so many ticks. */
  readonly MaxRuntimeTicks?: number;
}

export type TriggersRead =
  | { readonly triggers: readonly Trigger[] }
  /** One sentence without its full stop, fit for whoever sent them. */
  | { readonly problem: string };

export const ticksPerMs = 10_000;
const dayMs = 86_400_000;
const minuteMs = 60_000;
const dayTicks = dayMs * ticksPerMs;
/** The longest a timer of .NET waits (Timer and CancellationTokenSource.CancelAfter): 2^32 - 2 ms. */
const timerLimitTicks = 4_294_967_294 * ticksPerMs;
/** Beyond it a number is not exact in JSON; it is 28 years, and a date so far on is still one. */
const intervalLimitTicks = Number.MAX_SAFE_INTEGER;
/** IntervalTrigger.Start: no wait is longer than a week. */
const intervalWaitLimitMs = 7 * dayMs;
/** IntervalTrigger.Start: a task that never ran waits an hour. */
const firstIntervalMs = 3_600_000;
/** More triggers than a person would give one task. */
const triggersLimit = 100;

/** Reads the body of POST /ScheduledTasks/{id}/Triggers, or the triggers that a server tells of. */
export function readTriggers(value: unknown): TriggersRead {
  if (!Array.isArray(value)) return { problem: "the triggers are not a list" };
  if (value.length > triggersLimit) {
    return { problem: `there are more than ${triggersLimit} triggers` };
  }
  const triggers: Trigger[] = [];
  for (const [index, entry] of value.entries()) {
    // The server leaves out what is null (ScheduledTaskWorker.Triggers).
    if (entry === null) continue;
    const read = readTrigger(entry);
    if (typeof read === "string") return { problem: `trigger ${index + 1}: ${read}` };
    triggers.push(read);
  }
  return { triggers };
}

/** The same from the text of a body. */
export function parseTriggers(text: string): TriggersRead {
  try {
    return readTriggers(JSON.parse(text));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return { problem: "the triggers are not JSON" };
  }
}

function readTrigger(value: unknown): Trigger | string {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return "it is not an object";
  }
  const fields = new Map(Object.entries(value).map(([name, of]) => [name.toLowerCase(), of]));
  const type = nameOf(fields.get("type"), triggerTypes);
  if (type === undefined) return `its Type is none of ${triggerTypes.join(", ")}`;
  const needsTime = type === "DailyTrigger" || type === "WeeklyTrigger";
  const time = ticksOf(fields.get("timeofdayticks"), needsTime, 0, dayTicks - 1);
  if (typeof time === "string") return `its TimeOfDayTicks ${time}`;
  const interval = ticksOf(
    fields.get("intervalticks"),
    type === "IntervalTrigger",
    0,
    intervalLimitTicks,
  );
  if (typeof interval === "string") return `its IntervalTicks ${interval}`;
  const longest = ticksOf(fields.get("maxruntimeticks"), false, 0, timerLimitTicks);
  if (typeof longest === "string") return `its MaxRuntimeTicks ${longest}`;
  const saidDay = fields.get("dayofweek");
  const day = nameOf(saidDay, weekdays);
  if (day === undefined && (type === "WeeklyTrigger" || !isAbsent(saidDay))) {
    return `its DayOfWeek is none of ${weekdays.join(", ")}`;
  }
  return {
    Type: type,
    ...(time !== undefined && { TimeOfDayTicks: time }),
    ...(interval !== undefined && { IntervalTicks: interval }),
    ...(day !== undefined && { DayOfWeek: day }),
    ...(longest !== undefined && { MaxRuntimeTicks: longest }),
  };
}

function isAbsent(value: unknown): boolean {
  return value === undefined || value === null;
}

/** An enum's name in any case, or its number, as Jellyfin's JSON reads it. */
function nameOf<Name extends string>(value: unknown, names: readonly Name[]): Name | undefined {
  if (typeof value === "number") return Number.isInteger(value) ? names[value] : undefined;
  if (typeof value !== "string") return undefined;
  return names.find((name) => name.toLowerCase() === value.toLowerCase());
}

/** Undefined when it is absent and may be; a text says what is wrong with it. */
function ticksOf(
  value: unknown,
  isNeeded: boolean,
  least: number,
  most: number,
): number | string | undefined {
  if (isAbsent(value)) return isNeeded ? "is missing" : undefined;
  const number = typeof value === "string" && /^-?\d{1,19}$/.test(value) ? Number(value) : value;
  if (typeof number !== "number" || !Number.isInteger(number)) return "is not a whole number";
  if (number < least) return "is negative";
  return number > most ? "is too large" : number;
}

/** True when both say the same, whatever the order of their fields. */
export function sameTriggers(left: readonly Trigger[], right: readonly Trigger[]): boolean {
  const text = (list: readonly Trigger[]) => JSON.stringify(list.map(inOrder));
  return text(left) === text(right);
}

function inOrder(trigger: Trigger): readonly unknown[] {
  const { Type, TimeOfDayTicks, IntervalTicks, DayOfWeek, MaxRuntimeTicks } = trigger;
  return [Type, TimeOfDayTicks, IntervalTicks, DayOfWeek, MaxRuntimeTicks];
}

// ---- Times ----------------------------------------------------------------------------------------

/** What the next time of a trigger depends on; ms since the epoch. */
export interface TriggerPast {
  /** From when on the trigger counts: when it was set, or the last start, whichever is later. */
  readonly sinceMs: number;
  /** The last start and end of the task, whatever started it; undefined: it never ran. */
  readonly lastStartMs?: number | undefined;
  readonly lastEndMs?: number | undefined;
}

export interface Due {
  readonly atMs: number;
  readonly trigger: Trigger;
}

/**
 * The first moment after `past.sinceMs` at which one of the triggers fires; undefined when none ever does.
 * A startup trigger has no time of its own: see `startupTrigger`. `zone` is an IANA name such as
 * `Europe/Berlin`, the zone the server is in.
 */
export function nextDue(
  triggers: readonly Trigger[],
  past: TriggerPast,
  zone: string,
): Due | undefined {
  let first: Due | undefined;
  for (const trigger of triggers) {
    const atMs = dueAt(trigger, past, zone);
    if (atMs !== undefined && (first === undefined || atMs < first.atMs)) first = { atMs, trigger };
  }
  return first;
}

/** The startup trigger among them: the task runs when a server has started. */
export function startupTrigger(triggers: readonly Trigger[]): Trigger | undefined {
  return triggers.find(({ Type }) => Type === "StartupTrigger");
}

/** How long after its start a server runs its startup tasks (StartupTrigger.DelayMs). */
export const startupDelayMs = 3000;

function dueAt(trigger: Trigger, past: TriggerPast, zone: string): number | undefined {
  const timeOfDayMs = (trigger.TimeOfDayTicks ?? 0) / ticksPerMs;
  switch (trigger.Type) {
    case "DailyTrigger":
      return nextAtTimeOfDay(past.sinceMs, timeOfDayMs, undefined, zone);
    case "WeeklyTrigger":
      return nextAtTimeOfDay(past.sinceMs, timeOfDayMs, trigger.DayOfWeek, zone);
    case "IntervalTrigger":
      return nextInterval((trigger.IntervalTicks ?? 0) / ticksPerMs, past);
    case "StartupTrigger":
      return undefined;
  }
}

/**
 * IntervalTrigger.Start is called a second after the run began and reckons from the latest of the last end,
 * the last start and a minute from now; here the last run's own times stand for «now», so that a leader
 * which changes, or a server that restarts, does not push the next run away again and again.
 */
function nextInterval(intervalMs: number, past: TriggerPast): number {
  const { sinceMs, lastStartMs, lastEndMs } = past;
  if (lastStartMs === undefined) return sinceMs + firstIntervalMs;
  const fromMs = Math.max(lastEndMs ?? 0, lastStartMs + minuteMs);
  // What was set later than the last run counts from the last run all the same, as in the server.
  return fromMs + Math.min(intervalMs, intervalWaitLimitMs);
}

function nextAtTimeOfDay(
  afterMs: number,
  timeOfDayMs: number,
  weekday: Weekday | undefined,
  zone: string,
): number | undefined {
  const today = localDay(afterMs, zone);
  // Eight days hold every weekday once more, whatever the time of day was.
  for (let days = 0; days <= 8; days++) {
    const dayStartMs = today + days * dayMs;
    if (weekday !== undefined && weekdays[new Date(dayStartMs).getUTCDay()] !== weekday) continue;
    const atMs = instantOf(dayStartMs + timeOfDayMs, zone);
    if (atMs > afterMs) return atMs;
  }
  return undefined;
}

/** Midnight of the local day, as if the local time were UTC. */
function localDay(instantMs: number, zone: string): number {
  const localMs = instantMs + offsetMs(instantMs, zone);
  return Math.floor(localMs / dayMs) * dayMs;
}

/**
 * The instant of a local time (given as if it were UTC). A time that occurs twice is the first one; one that
 * the clocks skip is as long after the change as it would have been after the hour before.
 */
function instantOf(localMs: number, zone: string): number {
  const before = offsetMs(localMs - dayMs, zone);
  const guess = localMs - before;
  const there = offsetMs(guess, zone);
  if (there === before) return guess;
  const other = localMs - there;
  return offsetMs(other, zone) === there ? other : guess;
}

const formats = new Map<string, Intl.DateTimeFormat>();

/** Local time minus UTC at an instant, in ms. */
function offsetMs(instantMs: number, zone: string): number {
  let format = formats.get(zone);
  if (format === undefined) {
    format = new Intl.DateTimeFormat("en-US", {
      timeZone: zone,
      hourCycle: "h23",
      year: "numeric",
      month: "numeric",
      day: "numeric",
      hour: "numeric",
      minute: "numeric",
      second: "numeric",
    });
    formats.set(zone, format);
  }
  const parts = new Map(
    format.formatToParts(instantMs).map(({ type, value }) => [type, Number(value)]),
  );
  const part = (name: Intl.DateTimeFormatPartTypes) => parts.get(name) ?? 0;
  const localMs = Date.UTC(
    part("year"),
    part("month") - 1,
    part("day"),
    part("hour"),
    part("minute"),
    part("second"),
  );
  return localMs - Math.floor(instantMs / 1000) * 1000;
}

/** The zone of this machine. */
export function localZone(): string {
  return Intl.DateTimeFormat().resolvedOptions().timeZone;
}

/** Whether a name is one of a time zone. */
export function isZone(name: string): boolean {
  try {
    return new Intl.DateTimeFormat("en-US", { timeZone: name }).resolvedOptions().timeZone !== "";
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return false;
  }
}
