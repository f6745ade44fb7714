// Triggers of scheduled tasks on their way in. What a client sends goes through the leader's gate to the
// cluster's desk, which refuses a malformed trigger itself. But where the servers keep their own schedules
// (one replica, or no durable place) the request would reach a server as it came, and a server that was sent
// a malformed trigger does not start again: so such a body is refused here, before anybody is asked.

import { STATUS_CODES } from "node:http";
import { parseTriggers } from "../../core/jellyfin/triggers.ts";
import type { Attendant, Attended } from "../attendant.ts";
import { ownReply } from "../reply.ts";

/** ScheduledTasksController.UpdateTask. */
const triggersPattern = "/ScheduledTasks/{taskId}/Triggers";

export function createTaskAttendant(): Attendant {
  return {
    name: "tasks",
    attends: ({ pattern, methods }) => pattern === triggersPattern && methods.includes("POST"),
    before: async (asked) => refusalOf(asked),
  };
}

function refusalOf({ bodyText }: Attended) {
  // A body that is not at hand was too large to be kept, and no list of triggers is.
  const read = bodyText === undefined ? unread : parseTriggers(bodyText);
  if (!("problem" in read)) return undefined;
  return ownReply(400, STATUS_CODES[400] ?? "", `${read.problem}\n`);
}

const unread = { problem: "the triggers are missing or too long" } as const;
