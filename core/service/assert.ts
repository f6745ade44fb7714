// Assertions: what can only be wrong through a bug of ours. A failed one is not handled anywhere: it ends
// the process, which starts again from a known state. What the world does wrong is never asserted.

/** A bug of ours; see lifecycle.ts for what happens then. */
export class AssertionFailed extends Error {
  override readonly name = "AssertionFailed";
}

/** Throws AssertionFailed with the sentence when the condition does not hold. */
export function assert(condition: boolean, sentence: string): asserts condition {
  if (!condition) throw new AssertionFailed(sentence);
}

/** The value, which cannot be missing. */
export function must<Value>(value: Value | null | undefined, sentence: string): Value {
  if (value === null || value === undefined) throw new AssertionFailed(sentence);
  return value;
}
