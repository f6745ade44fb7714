// A channel's list over several servers: to the player it is one list that only grows (RFC 8216, 6.2.1), whatever
// the servers begin again at zero; and which answers tell of an opened stream.

import { describe, expect, test } from "vitest";
import { LiveList, openedIn } from "../../../proxy/attendants/television.ts";

function serverList(name: string, count: number, end = ""): string {
  const head = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:3"];
  head.push("#EXT-X-MEDIA-SEQUENCE:0", "#EXT-X-PLAYLIST-TYPE:EVENT");
  const entries = Array.from({ length: count }, (_, index) => [
    "#EXTINF:3.000000,",
    `hls/${name}/${name}${index}.ts`,
  ]).flat();
  return `${[...head, ...entries, ...(end === "" ? [] : [end])].join("\n")}\n`;
}

function segments(list: string): string[] {
  return list.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
}

describe("the list of a channel", () => {
  test("is the server's own while there was only one", () => {
    const list = new LiveList();
    for (const count of [1, 2, 5]) {
      const text = serverList("aa", count);
      expect(list.joined(text)).toBe(text);
    }
  });

  test("goes on after what was seen, with a discontinuity, and the bytes that are gone are a gap", () => {
    const list = new LiveList();
    list.joined(serverList("aa", 2));
    const one = list.joined(serverList("bb", 1));
    expect(one.split("\n").slice(5)).toEqual([
      "#EXTINF:3.000000,",
      "#EXT-X-GAP",
      "hls/aa/aa0.ts",
      "#EXTINF:3.000000,",
      "#EXT-X-GAP",
      "hls/aa/aa1.ts",
      "#EXT-X-DISCONTINUITY",
      "#EXTINF:3.000000,",
      "hls/bb/bb0.ts",
      "",
    ]);
    expect(one).toContain("#EXT-X-MEDIA-SEQUENCE:0");
  });

  test("never changes what was there before, through several servers", () => {
    const list = new LiveList();
    let before: string[] = [];
    for (const [name, count] of [
      ["aa", 3],
      ["bb", 1],
      ["bb", 2],
      ["cc", 4],
      ["aa", 1],
    ] as const) {
      const now = segments(list.joined(serverList(name, count)));
      expect(now.slice(0, before.length)).toEqual(before);
      before = now;
    }
    expect(before).toHaveLength(3 + 2 + 4 + 1);
  });

  test("does not end where one server's part of it ended", () => {
    const list = new LiveList();
    list.joined(serverList("aa", 2, "#EXT-X-ENDLIST"));
    expect(list.joined(serverList("bb", 1))).not.toContain("#EXT-X-ENDLIST");
  });

  test("forgets its beginning when it is very long, and says how much", () => {
    const list = new LiveList();
    list.joined(serverList("aa", 60_001));
    const text = list.joined(serverList("bb", 1));
    const sequence = Number(/#EXT-X-MEDIA-SEQUENCE:(\d+)/.exec(text)?.[1]);
    expect(sequence).toBeGreaterThan(0);
    expect(segments(text)[0]).toBe(`hls/aa/aa${sequence}.ts`);
    expect(text).not.toContain("PLAYLIST-TYPE");
  });
});

test.each([
  [{ MediaSources: [{ LiveStreamId: "x" }], PlaySessionId: "p" }, "x", "p"],
  [{ MediaSource: { LiveStreamId: "x" } }, "x", undefined],
] as const)("an opened stream is found in %j", (body, liveStreamId, playSessionId) => {
  expect(openedIn(JSON.stringify(body))).toEqual({ liveStreamId, playSessionId });
});

test.each(["", "[]", '{"MediaSources":[{}]}', '{"MediaSources":"x"}', '{"MediaSources":[null]}'])(
  "and none in %s",
  (text) => {
    expect(openedIn(text)).toBeUndefined();
  },
);
