// The hands at one server: they read its tasks and start or cancel them when the leader says so. They are
// the last to look before something happens, so two promises are kept here and by nobody else:
//
// - for one due time a task is started once at most, whoever asks and however often: the due time is on
//   this machine's disk before the server is called;
// - an order of an older epoch, or of another owner with the same number, is refused for ever.

import type {
  CancelAnswer,
  SeenTask,
  SeenTasks,
  StartAnswer,
  StartOrder,
  TaskHands,
} from "../../core/cluster/tasks.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import type { Epoch } from "../../core/store/store.ts";
import { type LibraryPlaces, unfitToWrite } from "./places.ts";
import { needsWholeMedia } from "./policy.ts";
import type { Begun, SavedTasksKeeper } from "./saved.ts";
import { cancelServerTask, readServerTasks, startServerTask } from "./server-tasks.ts";

export interface HandsOptions {
  readonly client: JellyfinClient;
  readonly keeper: SavedTasksKeeper;
  /** Whether the server is healthy, by its sidecar. */
  readonly isHealthy: () => boolean;
  /** When the server was seen to have started, in ms since the epoch. */
  readonly startedAtMs: () => number | undefined;
  /** Why tasks that need media must not run there now, or undefined. */
  readonly mediaProblem: () => Promise<string | undefined>;
  /** Where the libraries keep what a leader's task fetches, and whether that can be written there now. */
  readonly libraries: () => Promise<LibraryPlaces>;
  readonly wallMs: () => number;
}

export class Hands implements TaskHands {
  readonly #options: HandsOptions;
  /** By key, as last read. */
  #ids: ReadonlyMap<string, string> = new Map();

  constructor(options: HandsOptions) {
    this.#options = options;
  }

  async read(epoch: Epoch): Promise<SeenTasks | undefined> {
    const { client, keeper, isHealthy, startedAtMs, libraries } = this.#options;
    if (!(await this.#admits(epoch)) || !isHealthy()) return undefined;
    const tasks = await readServerTasks(client);
    if (tasks === undefined) return undefined;
    this.#ids = new Map(tasks.map(({ key, id }) => [key, id]));
    const { begun } = keeper.saved;
    const atMs = startedAtMs();
    const { ownFiles } = await libraries();
    return {
      tasks: tasks.map((task): SeenTask => {
        const known = Object.hasOwn(begun, task.key) ? begun[task.key] : undefined;
        return known === undefined ? task : { ...task, begunDueAtMs: known.dueAtMs };
      }),
      ...(atMs !== undefined && { startedAtMs: atMs }),
      ...(ownFiles.length > 0 && { ownFiles }),
    };
  }

  async mayStart(key: string): Promise<string | undefined> {
    return needsWholeMedia(key) ? await this.#options.mediaProblem() : undefined;
  }

  async start({ key, dueAtMs, epoch }: StartOrder): Promise<StartAnswer> {
    const { client, keeper, wallMs } = this.#options;
    if (!(await this.#admits(epoch))) return { outcome: "oldEpoch" };
    const id = this.#ids.get(key);
    if (id === undefined) return { outcome: "unknownTask" };
    const reason = await unfitToWrite(key, await this.#options.libraries());
    if (reason !== undefined) return { outcome: "unfit", reason };
    const mine = { dueAtMs, atMs: wallMs() };
    let before: Begun | undefined;
    let isMine = false;
    // Compared where it is changed, so that of two who ask at once only one goes on.
    await keeper.change((saved) => {
      before = Object.hasOwn(saved.begun, key) ? saved.begun[key] : undefined;
      isMine = before === undefined || before.dueAtMs < dueAtMs;
      return isMine ? { ...saved, begun: { ...saved.begun, [key]: mine } } : saved;
    });
    if (!isMine) return { outcome: "already" };
    const answer = await startServerTask(client, id);
    if (answer === "done") return { outcome: "started" };
    const forget = () =>
      keeper.change((saved) => {
        if (saved.begun[key] !== mine) return saved;
        const { [key]: _, ...rest } = saved.begun;
        return { ...saved, begun: before === undefined ? rest : { ...rest, [key]: before } };
      });
    if (answer === "unknownTask") return { outcome: "unknownTask" };
    if (answer === "refused") {
      await forget();
      return { outcome: "held", reason: "its server refuses the API key" };
    }
    if (answer.seen === "nothing") await forget();
    return { outcome: "failed", seen: answer.seen, reason: answer.message };
  }

  async cancel({ key, epoch }: { key: string; epoch: Epoch }): Promise<CancelAnswer> {
    if (!(await this.#admits(epoch))) return "oldEpoch";
    const id = this.#ids.get(key);
    if (id === undefined) return "unknownTask";
    const answer = await cancelServerTask(this.#options.client, id);
    if (answer === "done") return "cancelled";
    if (answer === "refused") return "notRunning";
    return answer === "unknownTask" ? "unknownTask" : "failed";
  }

  /** Remembers the epoch where it is newer, on disk, so that what was refused stays refused. */
  async #admits(epoch: Epoch): Promise<boolean> {
    const { keeper } = this.#options;
    const known = keeper.saved.epoch;
    if (known !== undefined) {
      if (epoch.number < known.number) return false;
      if (epoch.number === known.number) return epoch.owner === known.owner;
    }
    await keeper.change((saved) =>
      (saved.epoch?.number ?? -1) >= epoch.number ? saved : { ...saved, epoch },
    );
    const now = keeper.saved.epoch;
    return now?.number === epoch.number && now.owner === epoch.owner;
  }
}
