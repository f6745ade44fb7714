// JSON that somebody else wrote: what may be taken for granted of it is an object or nothing. What its fields
// hold is for whoever reads them to check.

/** True for an object with fields; false for a list, null, or anything else that JSON can hold. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The objects of a list, in its order; empty for what is none. */
export function recordsIn(value: unknown): readonly Readonly<Record<string, unknown>>[] {
  return Array.isArray(value) ? value.filter(isRecord) : [];
}

/** The value when it is an object with fields, else undefined. */
export function objectOf(value: unknown): Record<string, unknown> | undefined {
  return isRecord(value) ? value : undefined;
}

/** What a text is as JSON; undefined when it is none. Never throws. */
export function parsedJson(text: string): unknown {
  // What was never written is asked for often, and a thrown error is dear.
  if (text === "") return undefined;
  try {
    return JSON.parse(text);
  } catch {
    // No JSON tells nothing, which is what the caller asks.
    return undefined;
  }
}

/** The object that a text is as JSON; undefined when it is none. Never throws. */
export function parsedObject(text: string): Record<string, unknown> | undefined {
  return objectOf(parsedJson(text));
}

/** How a field is spelled there, whatever the letter case: System.Text.Json minds none, and writes names in two. */
export function nameIn(
  fields: Readonly<Record<string, unknown>>,
  name: string,
): string | undefined {
  const lower = name.toLowerCase();
  return Object.keys(fields).find((known) => known.toLowerCase() === lower);
}

/** True for a whole number of zero or more that JSON holds exactly. */
export function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
