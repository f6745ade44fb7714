// A process in a group of its own, worked by signals as a container is: what it has started is killed and frozen with
// it. Whatever a test leaves running dies with the test process (guard.ts).

import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { once } from "node:events";
import { guardGroup, releaseGroup } from "./jellyfin/guard.ts";

export class ProcessGroup {
  /** For messages. */
  readonly #what: string;
  #child: ChildProcess | undefined;
  /** Of the last that ended; null when a signal ended it, or none has. */
  exitCode: number | null = null;

  constructor(what: string) {
    this.#what = what;
  }

  get running(): boolean {
    return this.#child !== undefined;
  }

  get pid(): number {
    if (this.#child?.pid === undefined) throw new Error(`${this.#what} does not run`);
    return this.#child.pid;
  }

  /** Starts this very Node with these arguments; the test's own process may end while it runs. */
  begin(args: readonly string[], options: SpawnOptions): ChildProcess {
    if (this.#child !== undefined) throw new Error(`${this.#what} runs already`);
    const child = spawn(process.execPath, args, { ...options, detached: true });
    if (child.pid !== undefined) guardGroup(child.pid);
    this.#child = child;
    child.once("exit", (code) => {
      if (child.pid !== undefined) releaseGroup(child.pid);
      this.exitCode = code;
      if (this.#child === child) this.#child = undefined;
    });
    child.unref();
    return child;
  }

  #signal(signal: NodeJS.Signals): void {
    try {
      process.kill(-this.pid, signal);
    } catch {
      // It ended by itself a moment ago; there is nothing left to signal.
    }
  }

  /** SIGKILL to the whole group: gone in mid-sentence. Resolves when it is. */
  async kill9(): Promise<void> {
    await this.#end(() => this.#signal("SIGKILL"));
  }

  /** SIGTERM to the process alone; resolves when it has ended. */
  async terminate(): Promise<void> {
    await this.#end((child) => void child.kill("SIGTERM"));
  }

  async #end(deed: (child: ChildProcess) => void): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    const gone = once(child, "exit");
    child.ref();
    deed(child);
    await gone;
  }

  /** SIGSTOP: the kernel accepts connections, nothing is ever answered. */
  freeze(): void {
    this.#signal("SIGSTOP");
  }

  thaw(): void {
    this.#signal("SIGCONT");
  }

  /** Ends it, frozen or not. */
  async end(): Promise<void> {
    if (!this.running) return;
    this.thaw();
    await this.kill9();
  }
}
