// What Redis answers, as what it must be: a script or a command of ours cannot have answered anything else, so
// what differs is a mistake of ours and ends in an Error, never in a value that nobody looked at.

export type StreamEntry = readonly [id: string, fields: readonly string[]];

export function asText(value: unknown): string {
  if (typeof value !== "string") throw new Error("Redis answered something that is not a text");
  return value;
}

export function asList(value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw new Error("Redis answered something that is not a list");
  return value;
}

export function asTexts(value: unknown): string[] {
  return asList(value).map(asText);
}

/** Entries as XRANGE answers them. */
export function asEntries(value: unknown): readonly StreamEntry[] {
  return asList(value).map((entry): StreamEntry => {
    const [id, fields] = asList(entry);
    return [asText(id), asTexts(fields)];
  });
}

/** What XREAD answers for one stream: null, or one pair of the stream's name and its entries. */
export function entriesOf(reply: unknown): readonly StreamEntry[] {
  if (reply === null || reply === undefined) return [];
  const [stream] = asList(reply);
  const [, entries] = asList(stream);
  return asEntries(entries);
}
