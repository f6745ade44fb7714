// Maps and sets that remember so much and no more: the oldest goes for what comes.

/** Forgets the oldest entry where there are more than `limit`: asked after each that is added. */
export function forgetOldest(kept: Map<unknown, unknown> | Set<unknown>, limit: number): void {
  if (kept.size <= limit) return;
  for (const oldest of kept.keys()) {
    kept.delete(oldest);
    return;
  }
}

/** Sets an entry, which is the newest then, also where it was there before. */
export function remember<Key, Value>(
  kept: Map<Key, Value>,
  key: Key,
  value: Value,
  limit: number,
): void {
  kept.delete(key);
  kept.set(key, value);
  forgetOldest(kept, limit);
}
