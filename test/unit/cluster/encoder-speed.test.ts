// Whether a server encodes fast enough, from what its sessions say while somebody watches.

import { describe, expect, test } from "vitest";
import {
  afterLook,
  type EncoderSpeed,
  encodeOf,
  fineAfterMs,
  type SeenEncode,
  slowAfterMs,
  unknownSpeed,
} from "../../../core/cluster/encoder-speed.ts";

interface Watching {
  /** Film made for each second. */
  readonly speed: number;
  readonly forMs: number;
  /** How far the encode is ahead of its viewer, in ms. */
  readonly leadMs?: number;
  readonly id?: string;
}

/** Looks once a second at an encode that goes on so fast. */
function watched(
  { speed, forMs, leadMs = 2000, id = "one" }: Watching,
  before: { readonly speed: EncoderSpeed; readonly atMs: number } = {
    speed: unknownSpeed,
    atMs: 0,
  },
): { speed: EncoderSpeed; atMs: number; turns: number } {
  let { speed: known, atMs } = before;
  let turns = 0;
  for (let ms = 0; ms <= forMs; ms += 1000) {
    const madeMs = 60_000 + ms * speed;
    const seen: SeenEncode[] = [{ id, madeMs, playedMs: madeMs - leadMs }];
    atMs += 1000;
    const next = afterLook(known, seen, atMs);
    if (next.isSlow !== known.isSlow) turns++;
    known = next;
  }
  return { speed: known, atMs, turns };
}

describe("a server that encodes", () => {
  test.each([
    ["faster than films run", { speed: 1.5, forMs: 60_000 }, false],
    ["as fast as films run", { speed: 1, forMs: 60_000 }, false],
    ["slower, with the viewer at its heels", { speed: 0.6, forMs: 15_000 }, true],
    ["slower for a moment", { speed: 0.2, forMs: slowAfterMs - 2000 }, false],
    [
      "not at all, well ahead of its viewer: it rests",
      { speed: 0, forMs: 60_000, leadMs: 90_000 },
      false,
    ],
  ] as const)("%s", (_what, watching, isSlow) => {
    expect(watched(watching).speed.isSlow).toBe(isSlow);
  });

  test("too slowly is trusted again when it has kept up for a while, and its word does not flutter", () => {
    const slow = watched({ speed: 0.5, forMs: 20_000 });
    expect(slow.speed.isSlow).toBe(true);
    const soon = watched({ speed: 1.3, forMs: fineAfterMs - 5000, id: "two" }, slow);
    expect(soon.speed.isSlow).toBe(true);
    const later = watched({ speed: 1.3, forMs: 10_000, id: "two" }, soon);
    expect(later.speed.isSlow).toBe(false);
    // Hardly slower, hardly faster, again and again: it is said once.
    let now = watched({ speed: 0.9, forMs: 20_000 });
    let turns = 0;
    for (let times = 0; times < 5; times++) {
      now = watched({ speed: 1.05, forMs: 12_000, id: `fast${times}` }, now);
      turns += now.turns;
      now = watched({ speed: 0.9, forMs: 12_000, id: `slow${times}` }, now);
      turns += now.turns;
    }
    expect(turns).toBe(0);
  });

  test("too slowly is trusted again when nobody has watched for a while", () => {
    const { speed, atMs } = watched({ speed: 0.5, forMs: 20_000 });
    expect(afterLook(speed, [], atMs + fineAfterMs - 1).isSlow).toBe(true);
    expect(afterLook(speed, [], atMs + fineAfterMs).isSlow).toBe(false);
  });

  test("one of two films too slowly is slow", () => {
    let speed = unknownSpeed;
    for (let second = 0; second < 15; second++) {
      const at = (id: string, pace: number) => {
        const madeMs = second * 1000 * pace;
        return { id, madeMs, playedMs: madeMs };
      };
      speed = afterLook(speed, [at("fast", 2), at("slow", 0.5)], second * 1000);
    }
    expect(speed.isSlow).toBe(true);
  });
});

describe("a session's word on its encode", () => {
  const dto = {
    Id: "s",
    NowPlayingItem: { Id: "film", RunTimeTicks: 36_000_000_000 },
    PlayState: { PositionTicks: 300_000_000, IsPaused: false },
    TranscodingInfo: { CompletionPercentage: 10, IsVideoDirect: false },
  };

  test("says how far it is", () => {
    expect(encodeOf(dto)).toEqual({ id: "s\nfilm", madeMs: 360_000, playedMs: 30_000 });
  });

  test.each([
    ["nobody plays", { NowPlayingItem: undefined }],
    ["it is paused", { PlayState: { PositionTicks: 0, IsPaused: true } }],
    ["it is not encoded", { TranscodingInfo: undefined }],
    [
      "the pictures are copied",
      { TranscodingInfo: { CompletionPercentage: 1, IsVideoDirect: true } },
    ],
    ["the film's length is unknown", { NowPlayingItem: { Id: "x" } }],
    ["it is at its end", { TranscodingInfo: { CompletionPercentage: 100 } }],
    ["it is nonsense", { TranscodingInfo: { CompletionPercentage: "10" } }],
  ])("says nothing where %s", (_what, change) => {
    expect(encodeOf({ ...dto, ...change })).toBeUndefined();
  });
});
