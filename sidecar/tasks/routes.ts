// The hands between processes: where sidecars run beside their servers, the leader reaches the hands of the
// others over the sidecars' ports. Every call carries a proof of the cluster key (core/service/health.ts asks
// for it before anything here is reached), and every order its epoch.

import { readEpoch, type SidecarCalls } from "../../core/cluster/sidecar-client.ts";
import type {
  CancelAnswer,
  SeenTask,
  SeenTasks,
  StartAnswer,
  TaskHands,
} from "../../core/cluster/tasks.ts";
import type { AdminAnswer, GuardedRoute } from "../../core/service/health.ts";
import { isCount, isRecord, parsedObject } from "../../core/service/json.ts";
import type { Epoch } from "../../core/store/store.ts";

const path = {
  read: "/jellybloom/tasks/read",
  mayStart: "/jellybloom/tasks/may-start",
  start: "/jellybloom/tasks/start",
  cancel: "/jellybloom/tasks/cancel",
  look: "/jellybloom/tasks/look",
} as const;

/** What a sidecar answers about the tasks of its own server; `look`: the leader is asked to look now. */
export function taskRoutes(
  hands: () => TaskHands | undefined,
  look: () => void,
): readonly GuardedRoute[] {
  const route = (
    at: string,
    deed: (own: TaskHands, fields: Fields) => Promise<unknown>,
  ): GuardedRoute => ({
    method: "POST",
    path: at,
    async answer(body) {
      const own = hands();
      if (own === undefined) return told(503, "no tasks are kept here");
      const fields = fieldsOf(body);
      if (fields === undefined) return told(400, "the body is not what it should be");
      return { status: 200, body: { answer: (await deed(own, fields)) ?? null } };
    },
  });
  return [
    route(path.read, async (own, { epoch }) => (epoch ? await own.read(epoch) : undefined)),
    route(path.mayStart, (own, { key }) => own.mayStart(key)),
    route(path.start, async (own, { key, dueAtMs, epoch }) =>
      epoch && dueAtMs !== undefined ? await own.start({ key, dueAtMs, epoch }) : undefined,
    ),
    route(path.cancel, async (own, { key, epoch }) =>
      epoch ? await own.cancel({ key, epoch }) : undefined,
    ),
    {
      method: "POST",
      path: path.look,
      answer() {
        look();
        return { status: 200, body: {} };
      },
    },
  ];
}

interface Fields {
  readonly key: string;
  readonly dueAtMs: number | undefined;
  readonly epoch: Epoch | undefined;
}

function fieldsOf(body: string): Fields | undefined {
  const value = parsedObject(body);
  if (value === undefined) return undefined;
  const { key, dueAtMs, epoch } = value;
  return {
    key: typeof key === "string" ? key : "",
    dueAtMs: isCount(dueAtMs) ? dueAtMs : undefined,
    epoch: readEpoch(epoch),
  };
}

function told(status: number, error: string): AdminAnswer {
  return { status, body: { error } };
}

/** Tells the sidecar of a replica, which may be the leader's, that there is something new to see. */
export function askToLook(calls: SidecarCalls, replica: string): void {
  // Whoever does not hear of it looks by itself some seconds later.
  void calls.call(replica, path.look, {});
}

/** The hands of another sidecar. What cannot be asked is as if its server were away. */
export function remoteHands(calls: SidecarCalls, replica: string): TaskHands {
  async function ask(at: string, body: unknown): Promise<unknown> {
    const answer = await calls.call(replica, at, body);
    return answer.outcome === "ok" && isRecord(answer.body) ? answer.body.answer : undefined;
  }
  return {
    async read(epoch) {
      const answer = await ask(path.read, { epoch });
      if (!isRecord(answer) || !Array.isArray(answer.tasks)) return undefined;
      const { startedAtMs, ownFiles } = answer;
      const tasks = answer.tasks.filter(isSeenTask);
      if (tasks.length !== answer.tasks.length) return undefined;
      return {
        tasks,
        ...(isCount(startedAtMs) && { startedAtMs }),
        ...(Array.isArray(ownFiles) && {
          ownFiles: ownFiles.filter((key) => typeof key === "string").slice(0, 10),
        }),
      } satisfies SeenTasks;
    },
    async mayStart(key) {
      const answer = await calls.call(replica, path.mayStart, { key });
      if (answer.outcome !== "ok" || !isRecord(answer.body)) return "its sidecar cannot be asked";
      return typeof answer.body.answer === "string" ? answer.body.answer : undefined;
    },
    async start(order) {
      const answer = await calls.call(replica, path.start, order);
      if (answer.outcome === "ok" && isRecord(answer.body) && isStartAnswer(answer.body.answer)) {
        return answer.body.answer;
      }
      const reason =
        answer.outcome === "failed" ? answer.why : "its sidecar's answer is not understood";
      // Whether the call reached the sidecar is not known; the next look tells what became of it.
      return { outcome: "failed", seen: "maybe", reason };
    },
    async cancel(order) {
      const answer = await ask(path.cancel, order);
      return cancelAnswers.find((one) => one === answer) ?? "failed";
    },
  };
}

const cancelAnswers: readonly CancelAnswer[] = [
  "cancelled",
  "notRunning",
  "oldEpoch",
  "unknownTask",
];
const startOutcomes: readonly unknown[] = [
  "started",
  "already",
  "oldEpoch",
  "unknownTask",
  "held",
  "unfit",
  "failed",
];

function isStartAnswer(value: unknown): value is StartAnswer {
  return isRecord(value) && startOutcomes.includes(value.outcome);
}

function isSeenTask(value: unknown): value is SeenTask {
  return (
    isRecord(value) &&
    typeof value.key === "string" &&
    typeof value.id === "string" &&
    typeof value.lastEnd === "string" &&
    Array.isArray(value.triggers) &&
    (value.state === "Idle" || value.state === "Running" || value.state === "Cancelling")
  );
}
