// Whether a server encodes as fast as films run, learnt from the plays that it encodes now. Its sessions say how far
// each encode has come (TranscodingInfo.CompletionPercentage, of the whole film) and how far its viewer is. An
// encode that is well ahead of its viewer may rest (Jellyfin pauses ffmpeg then), so only one with a small lead is
// judged: a viewer whose server cannot keep up catches up with the encode, and stays there.
//
// Pure. A word is kept until there is reason enough for the other: slow after `slowAfterMs` of falling behind, fast
// again when for `fineAfterMs` every encode kept up or nothing was encoded.

import { isRecord } from "../service/json.ts";

/** One encode of a video as a session tells of it. */
export interface SeenEncode {
  /** One play of one device. */
  readonly id: string;
  /** How far the encode has come and how far the viewer is, in ms of the film. */
  readonly madeMs: number;
  readonly playedMs: number;
}

interface Watched {
  readonly first: { readonly madeMs: number; readonly atMs: number };
  readonly last: SeenEncode & { readonly atMs: number };
}

export interface EncoderSpeed {
  readonly isSlow: boolean;
  /** By play: since when it was watched with a small lead. */
  readonly watched: ReadonlyMap<string, Watched>;
  /** When an encode last fell behind, in ms of the monotonic clock. */
  readonly behindAtMs: number;
}

export const unknownSpeed: EncoderSpeed = {
  isSlow: false,
  watched: new Map(),
  behindAtMs: Number.NEGATIVE_INFINITY,
};

/** A lead of more than this is none that a viewer could lose soon, in ms. */
const smallLeadMs = 15_000;
/** So long an encode must fall behind before its server counts as slow, in ms. */
export const slowAfterMs = 10_000;
/** And so long none must before it counts as fast again, in ms. */
export const fineAfterMs = 30_000;
/** What falls behind by less is the clock's or the report's own coarseness. */
const realTime = 0.95;
const watchedLimit = 100;
const ticksPerMs = 10_000;

/** What is known of the speed after one more look; `nowMs` on the monotonic clock. */
export function afterLook(
  before: EncoderSpeed,
  seen: readonly SeenEncode[],
  nowMs: number,
): EncoderSpeed {
  const watched = new Map<string, Watched>();
  let { behindAtMs } = before;
  let isBehindNow = false;
  for (const encode of seen.slice(0, watchedLimit)) {
    // Well ahead, or its viewer went elsewhere in the film: it is watched anew when its lead is small again.
    const lead = encode.madeMs - encode.playedMs;
    if (lead > smallLeadMs || lead < -smallLeadMs) continue;
    const known = before.watched.get(encode.id);
    const last = { ...encode, atMs: nowMs };
    const goesOn = known !== undefined && encode.madeMs >= known.last.madeMs;
    const first = goesOn ? known.first : { madeMs: encode.madeMs, atMs: nowMs };
    watched.set(encode.id, { first, last });
    const forMs = nowMs - first.atMs;
    if (forMs < slowAfterMs || encode.madeMs - first.madeMs >= forMs * realTime) continue;
    isBehindNow = true;
    behindAtMs = nowMs;
  }
  const isFine = nowMs - behindAtMs >= fineAfterMs;
  return {
    isSlow: isBehindNow || (before.isSlow && !isFine),
    watched: renewed(watched),
    behindAtMs,
  };
}

/** Judged over a window, not over a whole film: one that was slow at its beginning may be fast now. */
function renewed(watched: ReadonlyMap<string, Watched>): ReadonlyMap<string, Watched> {
  return new Map(
    [...watched].map(([id, { first, last }]) => {
      const isOld = last.atMs - first.atMs >= 2 * slowAfterMs;
      return [
        id,
        isOld ? { first: { madeMs: last.madeMs, atMs: last.atMs }, last } : { first, last },
      ];
    }),
  );
}

/** The encode of a session (SessionInfoDto); undefined where nothing is encoded, or it is paused. */
export function encodeOf(dto: Readonly<Record<string, unknown>>): SeenEncode | undefined {
  const { Id, NowPlayingItem: item, PlayState: state, TranscodingInfo: encode } = dto;
  if (!isRecord(item) || !isRecord(state) || !isRecord(encode) || state.IsPaused === true) {
    return undefined;
  }
  // Copied streams cost nothing, and a film of unknown length has no percentage.
  if (encode.IsVideoDirect === true) return undefined;
  const { CompletionPercentage: percent } = encode;
  const { RunTimeTicks: length } = item;
  const { PositionTicks: position } = state;
  if (typeof percent !== "number" || typeof length !== "number" || typeof position !== "number") {
    return undefined;
  }
  // An encode that has come to its end is not slow for standing there.
  if (!(percent >= 0 && percent < 99.5) || !(length > 0)) return undefined;
  return {
    id: `${String(Id)}\n${String(item.Id)}`,
    madeMs: (percent / 100) * (length / ticksPerMs),
    playedMs: position / ticksPerMs,
  };
}
