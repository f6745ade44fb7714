/**
 * What clients asked and what they got, in the order it happened, and questions about it. Tests record every operation of
 * every client and let the promise be judged from the record, so that nothing that went wrong can go unseen.
 */

export type Operation = {
  readonly client: string;
  readonly name: string;
  readonly startedMs: number;
  endedMs: number;
  /** Undefined where the connection ended without an answer. */
  status: number | undefined;
  /** Null where the answer is what it has to be. */
  wrong: string | null;
};

export class History {
  readonly operations: Operation[] = [];

  /** Runs one operation of a client. `ask` answers the status, and a sentence where the answer is not what it has to be. */
  async record(
    client: string,
    name: string,
    ask: () => Promise<{ readonly status: number; readonly wrong?: string | undefined }>,
  ): Promise<Operation> {
    const startedMs = performance.now();
    const operation: Operation = {
      client,
      name,
      startedMs,
      endedMs: Number.POSITIVE_INFINITY,
      status: undefined,
      wrong: "it has not ended",
    };
    this.operations.push(operation);
    try {
      const { status, wrong } = await ask();
      operation.status = status;
      operation.wrong = wrong ?? null;
    } catch (error) {
      operation.wrong = `no answer: ${String(error instanceof Error ? (error.cause ?? error) : error)}`;
    }
    operation.endedMs = performance.now();
    return operation;
  }

  /** Every operation whose answer was not what it has to be, in words. */
  wrongs(): string[] {
    return this.operations
      .filter(({ wrong }) => wrong !== null)
      .map(({ client, name, status, wrong, startedMs, endedMs }) => {
        const took = Math.round(endedMs - startedMs);
        return `${client} ${name}: ${status ?? "-"} after ${took} ms: ${wrong}`;
      });
  }

  /** The operations which a moment concerns: each client's that ran then, and the next `following` begun after it. */
  around(atMs: number, following: number): Operation[] {
    const byClient = Map.groupBy(this.operations, ({ client }) => client);
    return [...byClient.values()].flatMap((own) => [
      ...own.filter(({ startedMs, endedMs }) => startedMs <= atMs && endedMs > atMs),
      ...own.filter(({ startedMs }) => startedMs > atMs).slice(0, following),
    ]);
  }

  /** The median delay of this client's operations of this name that had ended by `untilMs`, in ms. */
  usualMs(client: string, name: string, untilMs: number): number {
    const delays = this.operations
      .filter((one) => one.client === client && one.name === name && one.endedMs <= untilMs)
      .map(delayOf);
    return quantile(delays, 0.5);
  }
}

/** How long an operation took, in ms. */
export function delayOf({ startedMs, endedMs }: Operation): number {
  return endedMs - startedMs;
}

/** The smallest value that at least this share of the values does not exceed (nearest rank); 0 for no values. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((one, other) => one - other);
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? 0;
}
