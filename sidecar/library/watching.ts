// Who watches the libraries' folders, put together: the keeper that has one server do it (monitors.ts), and the fan-out
// of what that server takes in (fan-out.ts). One thing to run, and two to tell of.

import { FanOut, type FanOutOptions } from "./fan-out.ts";
import { MonitorKeeper, type MonitorKeeperOptions } from "./monitors.ts";

export class Watching {
  readonly #keeper: MonitorKeeper;
  readonly #fanOut: FanOut;

  constructor(options: MonitorKeeperOptions & Omit<FanOutOptions, "limits">) {
    this.#keeper = new MonitorKeeper(options);
    this.#fanOut = new FanOut(options);
  }

  /** The server says that its library changed, by its feed. */
  noteLibraryChanged(message: string): void {
    this.#fanOut.hear(message);
  }

  /** There are other replicas than before. */
  peersChanged(): void {
    this.#keeper.wake();
  }

  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([this.#keeper.run(signal), this.#fanOut.run(signal)]);
  }
}
