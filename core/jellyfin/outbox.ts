// The outbox: what is written to many sockets in one turn of the event loop goes out together at its end.
// A turn reads what several connections have for us, and each write among the reads wakes whoever waits at
// the other end, one by one. Written together they find the other end awake: a small request costs a
// quarter less of the processor (docs/decisions/026), and waits no longer than the turn.
//
// It promises: what was posted is written out once, in the order of the posts, at the latest when the turn
// ends; `flush` does it now.

/** Something that has bytes to write, or had when it was posted. */
export interface Outgoing {
  /** Writes what there is to write; nothing, when that has become pointless. Must not throw. */
  writeOut(): void;
}

let posted: Outgoing[] = [];
let spare: Outgoing[] = [];

/** Has `outgoing` called at the end of this turn. */
export function post(outgoing: Outgoing): void {
  if (posted.length === 0) setImmediate(flush);
  posted.push(outgoing);
}

/** Writes out now what was posted: for whoever is about to close connections. */
export function flush(): void {
  if (posted.length === 0) return;
  const batch = posted;
  // What writing brings forth is the next batch.
  posted = spare;
  spare = [];
  for (const outgoing of batch) outgoing.writeOut();
  batch.length = 0;
  spare = batch;
}
