// What a command may touch of the process it runs in: handed in, so that a command can be run by a test.

export interface Io {
  /** Writes to the standard output. */
  readonly out: (text: string) => void;
  /** Writes to the standard error. */
  readonly err: (text: string) => void;
  readonly env: Readonly<Record<string, string | undefined>>;
}
