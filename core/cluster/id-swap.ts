// Ids put in place of others in what clients and servers say to each other: one replica knows a user by another id
// than clients do (user-aliases.ts). An id is 32 hex digits, with dashes or without, and the one in its place has the
// same length and spelling, so that a text, a path or a body stays as long as it was. Pure.

/** What stands in a text for an id: 32 hex digits, perhaps with dashes, and no hex digit before or after. */
const idPattern =
  /(?<![0-9a-f])(?:[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?![0-9a-f])/gi;

/** The same text with every id that `ids` names (32 lower-case hex digits) replaced, in the spelling it had. */
export function swapIds(text: string, ids: ReadonlyMap<string, string>): string {
  if (ids.size === 0 || text.length < 32) return text;
  return text.replace(idPattern, (found) => {
    const isDashed = found.length === 36;
    const plain = (isDashed ? found.replaceAll("-", "") : found).toLowerCase();
    const other = ids.get(plain);
    if (other === undefined) return found;
    return isDashed ? dashed(other) : other;
  });
}

/** The same for bytes of any encoding that has ASCII in it; the very same bytes when nothing is replaced. */
export function swapIdsIn(bytes: Buffer, ids: ReadonlyMap<string, string>): Buffer {
  if (ids.size === 0 || bytes.length < 32) return bytes;
  const text = bytes.toString("latin1");
  const swapped = swapIds(text, ids);
  return swapped === text ? bytes : Buffer.from(swapped, "latin1");
}

function dashed(id: string): string {
  return `${id.slice(0, 8)}-${id.slice(8, 12)}-${id.slice(12, 16)}-${id.slice(16, 20)}-${id.slice(20)}`;
}
