// The one way in which seeding says no: sentences for a person, each with what to do about it. Whatever
// the world does wrong (a folder that is not a server's, a full disk, a server that runs) becomes a
// SeedProblem; anything else that is thrown is a mistake of this program.

export class SeedProblem extends Error {
  override readonly name = "SeedProblem";
  readonly sentences: readonly string[];

  constructor(sentences: string | readonly string[]) {
    const all = typeof sentences === "string" ? [sentences] : sentences;
    super(all.join(" "));
    this.sentences = all;
  }
}

/** The code of a system error such as ENOSPC, else undefined. */
export function codeOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** At most `limit` of the sentences, and how many more there are. */
export function firstOf(sentences: readonly string[], limit: number): readonly string[] {
  if (sentences.length <= limit) return sentences;
  return [...sentences.slice(0, limit), `… and ${sentences.length - limit} more.`];
}
