// V8's young generation, kept from growing for ever: it doubles when much has outlived its collections and is given
// back when little happens, so that a busy process is as large as its busiest moment wanted. Beyond some tens of MB
// more room saves nothing: what outlives a collection is what is under way, however rare collections are.

import { getHeapSpaceStatistics, setFlagsFromString } from "node:v8";

/** What of V8 is needed here. */
export interface YoungHeap {
  /** Bytes that the young generation has taken, both halves. */
  size(): number;
  mayGrow(may: boolean): void;
}

export const ownYoungHeap: YoungHeap = {
  size() {
    const space = getHeapSpaceStatistics().find(({ space_name }) => space_name === "new_space");
    return space?.space_size ?? 0;
  },
  mayGrow(may) {
    // V8's own factor is 2.
    setFlagsFromString(`--semi-space-growth-factor=${may ? 2 : 1}`);
  },
};

/** Answers a look at it, to be had now and then: from `limitBytes` on the young generation may grow no more. */
export function youngLimit(limitBytes: number, heap: YoungHeap = ownYoungHeap): () => void {
  let mayGrow = true;
  return () => {
    const may = heap.size() < limitBytes;
    if (may === mayGrow) return;
    mayGrow = may;
    heap.mayGrow(may);
  };
}
