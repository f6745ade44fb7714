// Tables of what media requests say, and of how a broken body is continued: only with the same file.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ReplyHead } from "../../../core/jellyfin/playback.ts";
import {
  bodyValue,
  continuation,
  continues,
  isWholeFile,
  listIn,
  mayOpenLiveStream,
  parseContentRange,
  parseRange,
  queryValue,
  readPlaybackQuery,
  repeatableFor,
  segmentKey,
  segmentOf,
} from "../../../core/jellyfin/playback.ts";
import { matchRoute } from "../../../core/jellyfin/routes.ts";

const id = "af87525677534c8af23739c31aa4b187";
const modified = "Sat, 21 Nov 2026 01:00:00 GMT";

describe("a query", () => {
  test("is read in any letter case, decoded, the first of several", () => {
    expect(
      readPlaybackQuery(
        "PLAYSESSIONID=p1&deviceid=d+1&MediaSourceId=m%201&liveStreamId=l&Tag=t&Secret=s&code=123456&userId=u&Static=TRUE&tag=t2",
      ),
    ).toEqual({
      playSessionId: "p1",
      deviceId: "d 1",
      mediaSourceId: "m 1",
      liveStreamId: "l",
      tag: "t",
      secret: "s",
      code: "123456",
      userId: "u",
      isStatic: true,
    });
  });

  test.each([
    ["", false],
    ["static=true", true],
    ["Static=True&x=1", true],
    ["x=1&static=false", false],
    ["static=1", false],
    ["static", false],
    ["static=", false],
    ["%73tatic=true", true],
    ["nonstatic=true", false],
  ])("%s asks for the file itself: %s", (query, expected) => {
    expect(readPlaybackQuery(query).isStatic).toBe(expected);
    expect(isWholeFile("stream", readPlaybackQuery(query))).toBe(expected);
    expect(isWholeFile("download", readPlaybackQuery(query))).toBe(true);
    expect(isWholeFile("universal", readPlaybackQuery(query))).toBe(false);
  });

  test("gives a value by its name", () => {
    expect(queryValue("a=1&Date%50layed=x+y&b", "datePlayed")).toBe("x y");
    expect(queryValue("a=1&b", "B")).toBe("");
    expect(queryValue("a=1", "b")).toBeUndefined();
    expect(queryValue("", "b")).toBeUndefined();
  });

  // CommaDelimitedCollectionModelBinder.
  test.each([
    ["ids=a,b", ["a", "b"]],
    ["IDS=a&ids=b", ["a", "b"]],
    ["ids=a&ids=b,c", ["a", "b,c"]],
    ["ids=a%2Cb", ["a", "b"]],
    ["other=a", []],
  ])("gives the list of %s", (query, expected) => {
    expect(listIn(query, "ids")).toEqual(expected);
  });

  test("and a body gives one, in any letter case", () => {
    expect(bodyValue('{"playSessionId":"p","Other":1}', "PlaySessionId")).toBe("p");
    // Of several spellings the last counts (System.Text.Json).
    expect(bodyValue('{"Secret":"p","secret":"q"}', "Secret")).toBe("q");
    expect(bodyValue('{"a":{"PlaySessionId":"p"}}', "PlaySessionId")).toBeUndefined();
    for (const body of ["", "null", "[1]", "1", "{", '"x"']) {
      expect(bodyValue(body, "a")).toBeUndefined();
    }
  });

  test("never throws", () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), (query, body) => {
        readPlaybackQuery(query);
        readPlaybackQuery(`%${query}`);
        queryValue(query, body);
        bodyValue(body, query);
        mayOpenLiveStream(query, body);
        segmentKey(body, query, "");
        parseRange(body);
        parseContentRange(body);
      }),
    );
  });
});

describe("a segment", () => {
  const of = (path: string) => segmentOf(matchRoute("GET", path).params);

  test("has its item, list, number and container", () => {
    expect(of(`/Videos/${id}/hls1/main/17.TS`)).toEqual({
      itemId: id,
      playlistId: "main",
      number: 17,
      container: "ts",
    });
    expect(of(`/Audio/${id}/hls1/main/0.mp4`)?.number).toBe(0);
  });

  test("is the init segment at -1", () => {
    expect(of(`/Videos/${id}/hls1/main/-1.mp4`)?.number).toBe(-1);
  });

  test("is none without a number", () => {
    for (const name of ["x.ts", "-2.ts", "1e3.ts", "1.5.ts", "9999999999.ts"]) {
      expect(of(`/Videos/${id}/hls1/main/${name}`)).toBeUndefined();
    }
    expect(of("/Users/Me")).toBeUndefined();
  });

  test("has the same key whatever its token, and another for another play", () => {
    const key = segmentKey(`/videos/${id}/hls1/main/1.ts`, "PlaySessionId=p&ApiKey=a&x=1", "VLC");
    expect(segmentKey(`/Videos/${id}/hls1/main/1.ts`, "PlaySessionId=p&apikey=b&x=1", "VLC")).toBe(
      key,
    );
    expect(segmentKey(`/videos/${id}/hls1/main/1.ts`, "PlaySessionId=p&x=1", "VLC")).toBe(key);
    expect(key).not.toContain("ApiKey");
    expect(segmentKey(`/videos/${id}/hls1/main/2.ts`, "PlaySessionId=p&x=1", "VLC")).not.toBe(key);
    expect(segmentKey(`/videos/${id}/hls1/main/1.ts`, "PlaySessionId=q&x=1", "VLC")).not.toBe(key);
    expect(segmentKey(`/videos/${id}/hls1/main/1.ts`, "PlaySessionId=p&x=1", "Other")).not.toBe(
      key,
    );
  });
});

describe("whether a request may be repeated, where query and body decide", () => {
  const table: readonly [string, string, string, string | undefined, string][] = [
    ["POST", `/Items/${id}/PlaybackInfo`, "", "", "yes"],
    ["POST", `/Items/${id}/PlaybackInfo`, "", "{}", "yes"],
    ["POST", `/Items/${id}/PlaybackInfo`, "", '{"AutoOpenLiveStream":false}', "yes"],
    ["POST", `/Items/${id}/PlaybackInfo`, "", '{"AutoOpenLiveStream":true}', "ifNotSent"],
    ["POST", `/Items/${id}/PlaybackInfo`, "", '{"autoOpenLiveStream":true}', "ifNotSent"],
    ["POST", `/Items/${id}/PlaybackInfo`, "AutoOpenLiveStream=True", "{}", "ifNotSent"],
    [
      "POST",
      `/Items/${id}/PlaybackInfo`,
      "autoOpenLiveStream=false",
      '{"AutoOpenLiveStream":true}',
      "yes",
    ],
    ["POST", `/Items/${id}/PlaybackInfo`, "", undefined, "ifNotSent"],
    ["POST", `/Items/${id}/PlaybackInfo`, "", "{broken", "ifNotSent"],
    ["GET", `/Items/${id}/PlaybackInfo`, "userId=u", "", "yes"],
    ["POST", `/UserPlayedItems/${id}`, "userId=u", "", "yes"],
    ["POST", `/UserPlayedItems/${id}`, "DatePlayed=2026-01-01", "", "ifNotSent"],
    ["POST", `/Users/u/PlayedItems/${id}`, "datePlayed=2026-01-01", "", "ifNotSent"],
    ["DELETE", `/UserPlayedItems/${id}`, "datePlayed=2026-01-01", "", "yes"],
    ["POST", "/Sessions/Playing/Stopped", "", '{"PositionTicks":0}', "yes"],
    ["POST", "/Sessions/Playing/Stopped", "", '{"PositionTicks":null}', "ifNotSent"],
    ["POST", "/Sessions/Playing/Stopped", "", '{"Failed":true}', "yes"],
    ["POST", "/Sessions/Playing/Stopped", "", "{}", "ifNotSent"],
    ["POST", "/Sessions/Playing/Stopped", "", undefined, "ifNotSent"],
    ["DELETE", `/PlayingItems/${id}`, "positionTicks=5", "", "yes"],
    ["DELETE", `/PlayingItems/${id}`, "", "", "ifNotSent"],
    ["POST", "/Sessions/Playing/Progress", "", "{}", "yes"],
    ["POST", "/Sessions/Playing", "", '{"PositionTicks":0}', "ifNotSent"],
  ];
  test.each(table)("%s %s ?%s %s: %s", (method, path, query, body, expected) => {
    expect(repeatableFor(matchRoute(method, path).route, query, body)).toBe(expected);
  });
});

describe("ranges", () => {
  test.each([
    ["bytes=0-99", { first: 0, last: 99, suffixLength: undefined }],
    ["bytes=100-", { first: 100, last: undefined, suffixLength: undefined }],
    ["bytes=-500", { first: undefined, last: undefined, suffixLength: 500 }],
    ["Bytes = 5 - 5", { first: 5, last: 5, suffixLength: undefined }],
  ])("%s is one range", (value, expected) => {
    expect(parseRange(value)).toEqual(expected);
  });

  test.each([
    undefined,
    "",
    "bytes",
    "bytes=",
    "bytes=-",
    "bytes=5-4",
    "bytes=0-1,5-6",
    "items=0-1",
    "bytes=a-b",
    "bytes=1-99999999999999999",
  ])("%s is none", (value) => {
    expect(parseRange(value)).toBeUndefined();
  });

  test.each([
    ["bytes 0-99/200", { first: 0, last: 99, total: 200 }],
    ["bytes 5-5/6", { first: 5, last: 5, total: 6 }],
    ["bytes 0-99/*", { first: 0, last: 99, total: undefined }],
  ])("%s is read", (value, expected) => {
    expect(parseContentRange(value)).toEqual(expected);
  });

  test.each([
    undefined,
    "",
    "bytes */200",
    "bytes 5-4/10",
    "bytes 0-10/10",
    "bytes 0-9",
    "0-9/10",
    "bytes -1-9/10",
  ])("%s is none", (value) => {
    expect(parseContentRange(value)).toBeUndefined();
  });
});

describe("a broken body is continued", () => {
  const whole: ReplyHead = {
    status: 200,
    contentLength: 1000,
    contentRange: undefined,
    lastModified: modified,
  };
  const part: ReplyHead = {
    status: 206,
    contentLength: 400,
    contentRange: "bytes 600-999/1000",
    lastModified: modified,
  };

  test("from the byte that was reached", () => {
    expect(continuation(whole, 0)?.range).toBe("bytes=0-999");
    expect(continuation(whole, 250)).toEqual({
      range: "bytes=250-999",
      first: 250,
      last: 999,
      total: 1000,
      lastModified: modified,
    });
    expect(continuation(part, 100)).toEqual({
      range: "bytes=700-999",
      first: 700,
      last: 999,
      total: 1000,
      lastModified: modified,
    });
    expect(
      continuation({ ...part, contentLength: undefined, contentRange: "bytes 10-19/1000" }, 9)
        ?.range,
    ).toBe("bytes=19-19");
  });

  test("never when nothing is missing or the file could not be known again", () => {
    const never: readonly [ReplyHead, number][] = [
      [whole, 1000],
      [whole, 1001],
      [whole, -1],
      [part, 400],
      [{ ...whole, contentLength: undefined }, 10],
      [{ ...whole, contentLength: 0 }, 0],
      [{ ...whole, lastModified: undefined }, 10],
      [{ ...whole, contentEncoding: "gzip" }, 10],
      [{ ...whole, status: 404 }, 10],
      [{ ...part, contentRange: "bytes 600-999/*" }, 10],
      [{ ...part, contentRange: undefined }, 10],
      [{ ...part, contentLength: 399 }, 10],
    ];
    for (const [head, sent] of never) expect(continuation(head, sent)).toBeUndefined();
    expect(continuation({ ...whole, contentEncoding: "identity" }, 10)).toBeDefined();
  });

  test("only by the rest of the same file", () => {
    const expected = continuation(part, 100);
    if (expected === undefined) throw new Error("this reply can be continued");
    const reply: ReplyHead = {
      status: 206,
      contentLength: 300,
      contentRange: "bytes 700-999/1000",
      lastModified: modified,
    };
    expect(continues(reply, expected)).toBeNull();
    expect(continues({ ...reply, contentLength: undefined }, expected)).toBeNull();
    const others: readonly [Partial<ReplyHead>, RegExp][] = [
      [{ status: 200 }, /200/],
      [{ status: 416 }, /416/],
      [{ contentRange: undefined }, /cannot be read/],
      [{ contentRange: "bytes 701-999/1000" }, /other bytes/],
      [{ contentRange: "bytes 700-998/1000", contentLength: 299 }, /other bytes/],
      [{ contentRange: "bytes 700-999/1001" }, /another length/],
      [{ contentRange: "bytes 700-999/*" }, /another length/],
      [{ contentLength: 299 }, /contradicts/],
      [{ lastModified: "Sat, 21 Nov 2026 01:00:01 GMT" }, /modified/],
      [{ lastModified: undefined }, /modified/],
      [{ contentEncoding: "br" }, /encoded/],
    ];
    for (const [change, reason] of others)
      expect(continues({ ...reply, ...change }, expected)).toMatch(reason);
  });

  test("again and again, until every byte was sent once", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5000 }),
        fc.array(fc.integer({ min: 0, max: 900 }), { maxLength: 20 }),
        (length, breaks) => {
          let head: ReplyHead = { ...whole, contentLength: length };
          let sentInAll = 0;
          for (const wanted of [...breaks, length]) {
            const sent = Math.min(wanted, length - sentInAll);
            sentInAll += sent;
            const next = continuation(head, sent);
            if (next === undefined) break;
            expect(next.first).toBe(sentInAll);
            head = {
              status: 206,
              contentLength: next.last - next.first + 1,
              contentRange: `bytes ${next.first}-${next.last}/${next.total}`,
              lastModified: modified,
            };
            expect(continues(head, next)).toBeNull();
          }
          expect(sentInAll).toBe(length);
        },
      ),
    );
  });
});
