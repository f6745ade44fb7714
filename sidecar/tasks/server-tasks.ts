// The calls about scheduled tasks to one server, with its API key. Routes: ScheduledTasksController. A start
// is answered with 204 at once, also when the task runs already; cancelling one that does not run is a 500.

import type { SeenTask } from "../../core/cluster/tasks.ts";
import type { CallFailure, JellyfinClient } from "../../core/jellyfin/client.ts";
import { isRecord, parsedJson } from "../../core/service/json.ts";

export type ServerAnswer = "done" | "unknownTask" | "refused" | CallFailure;

/** Undefined: the server cannot be asked, or what it says is not understood. */
export async function readServerTasks(
  client: JellyfinClient,
): Promise<readonly SeenTask[] | undefined> {
  const answer = await client.callWithKey("GET", "/ScheduledTasks");
  if (answer.outcome === "failed" || answer.status !== 200) return undefined;
  const list = parsedJson(answer.text);
  if (!Array.isArray(list)) return undefined;
  const tasks = list.map(seenTask);
  const known = tasks.filter((task) => task !== undefined);
  return known.length === tasks.length ? known : undefined;
}

/** One entry of GET /ScheduledTasks; undefined when it is none. */
export function seenTask(value: unknown): SeenTask | undefined {
  if (!isRecord(value)) return undefined;
  const { Key, Id, State, CurrentProgressPercentage, LastExecutionResult, Triggers } = value;
  if (typeof Key !== "string" || typeof Id !== "string" || Key === "" || Id === "")
    return undefined;
  const lastResult = isRecord(LastExecutionResult) ? LastExecutionResult : undefined;
  return {
    key: Key,
    id: Id,
    state: State === "Running" || State === "Cancelling" ? State : "Idle",
    progress: typeof CurrentProgressPercentage === "number" ? CurrentProgressPercentage : undefined,
    lastEnd: typeof lastResult?.EndTimeUtc === "string" ? lastResult.EndTimeUtc : "",
    lastResult,
    triggers: Array.isArray(Triggers) ? Triggers : [],
  };
}

export async function startServerTask(client: JellyfinClient, id: string): Promise<ServerAnswer> {
  return await send(client, "POST", `/ScheduledTasks/Running/${encodeURIComponent(id)}`);
}

export async function cancelServerTask(client: JellyfinClient, id: string): Promise<ServerAnswer> {
  return await send(client, "DELETE", `/ScheduledTasks/Running/${encodeURIComponent(id)}`);
}

/** Only triggers that were read and found sound may be sent: the server saves before it looks. */
export async function setServerTriggers(
  client: JellyfinClient,
  id: string,
  triggers: readonly unknown[],
): Promise<ServerAnswer> {
  const path = `/ScheduledTasks/${encodeURIComponent(id)}/Triggers`;
  return await send(client, "POST", path, triggers);
}

async function send(
  client: JellyfinClient,
  method: "POST" | "DELETE",
  path: string,
  body?: unknown,
): Promise<ServerAnswer> {
  const answer = await client.callWithKey(method, path, body);
  if (answer.outcome === "failed") return answer;
  if (answer.status >= 200 && answer.status < 300) return "done";
  return answer.status === 404 ? "unknownTask" : "refused";
}
