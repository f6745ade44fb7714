// Headers as they came over the wire: name, value, name, value …, each name in the letters of whoever sent it. Pure.

/**
 * The value of the first header of that name; undefined when there is none.
 *
 * @param lowerName the name in lower case, for names have no case (RFC 9110, 5.1).
 */
export function headerIn(rawHeaders: readonly string[], lowerName: string): string | undefined {
  for (let index = 0; index < rawHeaders.length; index += 2) {
    if (rawHeaders[index]?.toLowerCase() === lowerName) return rawHeaders[index + 1];
  }
  return undefined;
}

/** Each header by its name in lower case; of several with one name the first counts, as for Node's own requests. */
export function byLowerName(rawHeaders: readonly string[]): Record<string, string> {
  const named: Record<string, string> = {};
  for (let index = 0; index < rawHeaders.length; index += 2) {
    named[(rawHeaders[index] ?? "").toLowerCase()] ??= rawHeaders[index + 1] ?? "";
  }
  return named;
}
