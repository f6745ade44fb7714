// Lifecycle: how a process of ours starts, runs and ends.
//
//   start    the services in their order, helpers first and the front door last
//   run      until SIGTERM or SIGINT, or until a service ends by itself, which is a bug
//   unready  /ready says so; wait, so that a load balancer in front has noticed
//   drain    stop the services in the opposite order, one after the other: the front door takes nothing new
//            and finishes what runs, then its helpers, which it needed until then
//   cut      what still runs at the drain limit is cut
//   exit     0; 1 after a second signal, a failed start or a bug
//
// It promises an end: after the cut every service has `cutLimitMs` and then the process leaves without it.

import type { EventEmitter } from "node:events";
import type { Log } from "./log.ts";
import { aborted, sleep } from "./loop.ts";

export interface Service {
  readonly name: string;
  /**
   * Makes ready: listens, connects, loads. The next service starts when it has resolved. When it rejects
   * the process does not start (with CannotStart: for a reason that is nobody's bug).
   */
  start?(signal: AbortSignal): Promise<void>;
  /** Works until `signal` aborts and ends soon after. Ending before, or rejecting, is a bug. */
  run?(signal: AbortSignal): Promise<void>;
  /** Takes nothing new and finishes what runs; when `cut` aborts, cuts what still does. */
  stop?(cut: AbortSignal): Promise<void>;
}

/** The world does not allow a start, such as a port in use; the message is a sentence for the owner. */
export class CannotStart extends Error {
  override readonly name = "CannotStart";
  /** 2: it was configured in a way that cannot work. 1: it may work another time. */
  readonly exitCode: 1 | 2;

  constructor(sentence: string, exitCode: 1 | 2 = 1) {
    super(sentence);
    this.exitCode = exitCode;
  }
}

export interface LifeOptions {
  /** How long to go on accepting while already unready, in ms. */
  readonly unreadyWaitMs: number;
  /** How long what runs may go on after that, all services together, in ms. */
  readonly drainLimitMs: number;
  readonly log: Log;
  /** Where SIGTERM, SIGINT and the news of bugs come from: `process`. */
  readonly events: EventEmitter;
  /** Leaves at once with the log written. */
  readonly exit: (code: number) => void;
}

/** How long a service may take to end after what it did was cut, in ms. */
const cutLimitMs = 2000;

/**
 * Signals that come together are one: a terminal sends Ctrl-C to every process in the foreground, and npm
 * and the launcher, which are among them, pass it on to us once more. In ms.
 */
const sameSignalMs = 300;

export class Life {
  readonly #options: LifeOptions;
  readonly #ending = new AbortController();
  #unreadyReason: string | null = "it is starting";
  #endingSinceMs = 0;
  #exitCode = 0;

  constructor(options: LifeOptions) {
    this.#options = options;
  }

  /** Null while it runs; before and after, a sentence without its full stop. */
  unreadyReason(): string | null {
    return this.#unreadyReason;
  }

  /** Aborts when the process begins to end. */
  get ending(): AbortSignal {
    return this.#ending.signal;
  }

  /** Begins the end, as SIGTERM does, with this exit code. A second call changes nothing. */
  end(exitCode: number): void {
    if (this.#ending.signal.aborted) return;
    this.#exitCode = exitCode;
    this.#endingSinceMs = performance.now();
    this.#ending.abort();
  }

  /** Lives a whole life and answers the exit code. Services are given helpers first. */
  async run(services: readonly Service[]): Promise<number> {
    const stopListening = this.#listen();
    const started: Running[] = [];
    try {
      for (const service of services) {
        if (this.#ending.signal.aborted) break;
        await service.start?.(this.#ending.signal);
        started.push(this.#running(service));
      }
      if (!this.#ending.signal.aborted) {
        this.#unreadyReason = null;
        this.#options.log.info("ready: everything has started");
        await aborted(this.#ending.signal);
      }
    } catch (error) {
      this.#failedStart(error);
    }
    this.#unreadyReason = "it is stopping";
    await this.#stop(started);
    stopListening();
    return this.#exitCode;
  }

  #failedStart(error: unknown): void {
    const { log } = this.#options;
    // Asked to end in the middle of a start: that the start did not succeed is no news.
    if (this.#ending.signal.aborted) return;
    if (error instanceof CannotStart) log.fatal(error.message);
    else log.fatal({ err: error }, "a service failed to start");
    this.end(error instanceof CannotStart ? error.exitCode : 1);
  }

  #running(service: Service): Running {
    const stopping = new AbortController();
    const work = service.run?.(stopping.signal) ?? Promise.resolve();
    const ended = work.then(
      () => {
        if (service.run === undefined || stopping.signal.aborted) return;
        this.#bug(`the service ${service.name} ended by itself`, undefined);
      },
      (error: unknown) => this.#bug(`the service ${service.name} failed`, error),
    );
    return { service, stopping, ended };
  }

  async #stop(started: readonly Running[]): Promise<void> {
    const { log, unreadyWaitMs, drainLimitMs } = this.#options;
    const never = new AbortController().signal;
    if (this.#exitCode === 0 && started.length > 0) await sleep(unreadyWaitMs, never);
    const cut = new AbortController();
    const cutTimer = setTimeout(() => {
      log.warn({ drainLimitMs }, "the drain limit is reached: what still runs is cut");
      cut.abort();
    }, drainLimitMs);
    for (const running of started.toReversed()) await this.#stopOne(running, cut.signal);
    clearTimeout(cutTimer);
    log.info({ exitCode: this.#exitCode }, "stopped");
  }

  /** Waits for the service's end, but not longer than `cutLimitMs` after the cut. */
  async #stopOne(running: Running, cut: AbortSignal): Promise<void> {
    const patience = new AbortController();
    let timer: NodeJS.Timeout | undefined;
    const onCut = () => {
      timer = setTimeout(() => patience.abort(), cutLimitMs);
    };
    if (cut.aborted) onCut();
    else cut.addEventListener("abort", onCut, { once: true });
    await Promise.race([this.#finish(running, cut), aborted(patience.signal)]);
    clearTimeout(timer);
    cut.removeEventListener("abort", onCut);
    if (!patience.signal.aborted) return;
    this.#options.log.error(`the service ${running.service.name} did not end and is left behind`);
    this.#exitCode ||= 1;
  }

  async #finish({ service, stopping, ended }: Running, cut: AbortSignal): Promise<void> {
    try {
      await service.stop?.(cut);
    } catch (error) {
      this.#options.log.error({ err: error }, `the service ${service.name} failed to stop`);
      this.#exitCode ||= 1;
    }
    stopping.abort();
    await ended;
  }

  #listen(): () => void {
    const { events } = this.#options;
    const onSignal = (signal: string) => this.#signalled(signal);
    const onBug = (error: unknown) => this.#bug("a failure nobody expected", error);
    events.on("SIGTERM", onSignal).on("SIGINT", onSignal);
    events.on("uncaughtException", onBug).on("unhandledRejection", onBug);
    return () => {
      events.off("SIGTERM", onSignal).off("SIGINT", onSignal);
      events.off("uncaughtException", onBug).off("unhandledRejection", onBug);
    };
  }

  #signalled(signal: string): void {
    const { log, exit } = this.#options;
    if (!this.#ending.signal.aborted) {
      log.info({ signal }, "asked to end: finishing what runs");
      this.end(0);
      return;
    }
    if (performance.now() - this.#endingSinceMs < sameSignalMs) return;
    log.warn({ signal }, "asked again to end: leaving at once");
    exit(1);
  }

  /** After a bug nothing in memory can be relied on, so there is no drain. */
  #bug(sentence: string, error: unknown): void {
    this.#options.log.fatal({ err: error }, sentence);
    this.#options.exit(1);
  }
}

interface Running {
  readonly service: Service;
  readonly stopping: AbortController;
  readonly ended: Promise<void>;
}
