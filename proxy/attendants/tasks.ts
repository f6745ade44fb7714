// Scheduled tasks at the door. Whatever an administrator does about them goes through the leader's gate; here
// is what must hold also where there is no gate to ask:
//
// - A malformed trigger is refused before anybody is asked: a server that is sent one does not start again.
//   (The desk refuses it, too; but where the servers keep their own schedules there is no desk.)
// - What a server itself tells of its tasks, over a socket or while nobody leads, shows the cluster's
//   triggers in place of its own, which are parked, and as running what another replica runs.

import { STATUS_CODES } from "node:http";
import type { Memory } from "../../core/cluster/memory.ts";
import { isUnderWay, readRun, readSchedule } from "../../core/cluster/tasks.ts";
import { parseTriggers } from "../../core/jellyfin/triggers.ts";
import { isRecord } from "../../core/service/json.ts";
import type { Attendant, Attended } from "../attendant.ts";
import { ownReply, withBody } from "../reply.ts";

type Notes = Pick<Memory, "notes">;

const listPattern = "/ScheduledTasks";
const taskPattern = "/ScheduledTasks/{taskId}";
/** ScheduledTasksController.UpdateTask. */
const triggersPattern = "/ScheduledTasks/{taskId}/Triggers";

export function createTaskAttendant(memory: Notes): Attendant {
  return {
    name: "tasks",
    attends: ({ pattern, methods }) =>
      pattern === triggersPattern ||
      (methods.includes("GET") && (pattern === listPattern || pattern === taskPattern)),
    before: async (asked) =>
      asked.facts.route.pattern === triggersPattern ? refusalOf(asked) : undefined,
    async after(asked, reply) {
      const isRead = asked.facts.route.pattern !== triggersPattern && reply.head.status === 200;
      if (!isRead || memory.notes("schedule").size === 0) return reply;
      const value = parsed(reply.body.toString("utf8"));
      return value === undefined
        ? reply
        : withBody(reply, JSON.stringify(shownTasks(value, memory)));
    },
  };
}

function refusalOf({ bodyText }: Attended) {
  // A body that is not at hand was too large to be kept, and no list of triggers is.
  const read = bodyText === undefined ? unread : parseTriggers(bodyText);
  if (!("problem" in read)) return undefined;
  return ownReply(400, STATUS_CODES[400] ?? "", `${read.problem}\n`);
}

const unread = { problem: "the triggers are missing or too long" } as const;

/** A server's message `ScheduledTasksInfo` as the client is to hear it; others as they are. */
export function shownTaskMessage(text: string, memory: Notes): string {
  if (memory.notes("schedule").size === 0) return text;
  const message = parsed(text);
  if (!isRecord(message) || message.MessageType !== "ScheduledTasksInfo") return text;
  return JSON.stringify({ ...message, Data: shownTasks(message.Data, memory) });
}

/** One task or a list of them, as a server tells it, with what the cluster knows better. */
export function shownTasks(value: unknown, memory: Notes): unknown {
  if (Array.isArray(value)) return value.map((task) => shownTask(task, memory));
  return shownTask(value, memory);
}

function shownTask(task: unknown, memory: Notes): unknown {
  if (!isRecord(task) || typeof task.Key !== "string") return task;
  const schedule = readSchedule(memory.notes("schedule").get(task.Key)?.value ?? "");
  const run = readRun(memory.notes("taskRun").get(task.Key)?.value ?? "");
  return {
    ...task,
    ...(schedule !== undefined && { Triggers: schedule.triggers }),
    ...(isUnderWay(run) && task.State === "Idle" && { State: "Running" }),
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return undefined;
  }
}
