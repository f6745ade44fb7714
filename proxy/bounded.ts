// A map that never holds more than so many entries: the oldest goes when one more comes. For what is
// remembered to save work or as a hint, where forgetting costs a little and growing would cost the process.

export class Bounded<Key, Value> {
  readonly #map = new Map<Key, Value>();
  readonly #limit: number;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#map.size;
  }

  /** As they are now, the oldest first. */
  keys(): readonly Key[] {
    return [...this.#map.keys()];
  }

  get(key: Key): Value | undefined {
    return this.#map.get(key);
  }

  set(key: Key, value: Value): void {
    if (!this.#map.has(key) && this.#map.size >= this.#limit) {
      const oldest = this.#map.keys().next();
      if (oldest.done !== true) this.#map.delete(oldest.value);
    }
    this.#map.set(key, value);
  }

  delete(key: Key): void {
    this.#map.delete(key);
  }
}
