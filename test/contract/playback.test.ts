/** What we believe about bytes: direct play, pictures, and HLS that goes on on another server in the middle. */
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { ffmpegPlays, longestGap } from "../support/players.ts";
import { contractServers, hasPair, type Login, type Server } from "./servers.ts";

const { a, b, leave } = await contractServers();
afterAll(leave);
const film = await a.film();
const stream = `/Videos/${film.id}/stream?static=true&mediaSourceId=${film.id}`;
const ranged = (server: Server, headers: Record<string, string>, method = "GET") =>
  server.call(method, stream, { headers });

describe("direct play", () => {
  // VideosController [AllowAnonymous in effect], PhysicalFileResult; each line tried on 12.0-rc5.
  test("is anonymous and says its length, its date and that it takes ranges, and gives no ETag", async () => {
    const reply = await ranged(a, {}, "HEAD");
    expect(reply.status).toBe(200);
    expect(reply.headers.get("accept-ranges")).toBe("bytes");
    expect(Number(reply.headers.get("content-length"))).toBe(film.bytes);
    expect(reply.headers.get("last-modified")).toMatch(/ GMT$/);
    expect(reply.headers.get("etag")).toBeNull();
    expect(reply.text).toBe("");
  });

  test("gives one range as 206 with its place", async () => {
    const reply = await ranged(a, { range: "bytes=1000-1099" });
    expect([reply.status, reply.bytes.length]).toEqual([206, 100]);
    expect(reply.headers.get("content-range")).toBe(`bytes 1000-1099/${film.bytes}`);
    const tail = await ranged(a, { range: `bytes=${film.bytes - 72}-` });
    expect([tail.status, tail.bytes.length]).toEqual([206, 72]);
    const suffix = await ranged(a, { range: "bytes=-72" });
    expect(suffix.bytes.equals(tail.bytes)).toBe(true);
  });

  test("takes a range of any unit for one of bytes", async () => {
    const reply = await ranged(a, { range: "lines=3-9" }, "HEAD");
    expect([reply.status, reply.headers.get("content-length")]).toEqual([206, "7"]);
  });

  test("answers a range beyond the end with 416 and the length", async () => {
    const reply = await ranged(a, { range: `bytes=${film.bytes + 5}-` });
    expect([reply.status, reply.text]).toEqual([416, ""]);
    expect(reply.headers.get("content-range")).toBe(`bytes */${film.bytes}`);
  });

  test.each<[string, Record<string, string>]>([
    ["two ranges", { range: "bytes=0-1,5-6" }],
    ["a range without a unit", { range: "0-1" }],
    [
      "an If-Range older than the file",
      { range: "bytes=0-99", "if-range": "Thu, 01 Jan 1970 00:00:00 GMT" },
    ],
  ])("gives the whole file for %s", async (_what, headers) => {
    const reply = await ranged(a, headers, "HEAD");
    expect([reply.status, Number(reply.headers.get("content-length"))]).toEqual([200, film.bytes]);
  });

  test("honours an If-Range with the file's own date, and one with an ETag it does not have", async () => {
    const date = (await ranged(a, {}, "HEAD")).headers.get("last-modified") ?? "";
    expect((await ranged(a, { range: "bytes=0-9", "if-range": date })).status).toBe(206);
    expect((await ranged(a, { range: "bytes=0-9", "if-range": '"abc"' })).status).toBe(206);
  });

  test("answers 304 to a date that is not older, 412 where it was to be unmodified and is not", async () => {
    const date = (await ranged(a, {}, "HEAD")).headers.get("last-modified") ?? "";
    expect((await ranged(a, { "if-modified-since": date })).status).toBe(304);
    const old = "Thu, 01 Jan 1970 00:00:00 GMT";
    expect((await ranged(a, { "if-unmodified-since": old })).status).toBe(412);
  });

  test("is the same under another letter case, an extension, and any token", async () => {
    const path = `/videos/${film.id.toUpperCase()}/STREAM.mp4?Static=True&ApiKey=nonsense`;
    const reply = await a.call("GET", path, { headers: { range: "bytes=0-9" } });
    expect([reply.status, reply.bytes.length]).toEqual([206, 10]);
  });

  test.skipIf(!hasPair)("is the same from both servers: length, date and bytes", async () => {
    const [one, two] = [
      await ranged(a, { range: "bytes=5000-9999" }),
      await ranged(b, { range: "bytes=5000-9999" }),
    ];
    expect(two.bytes.equals(one.bytes)).toBe(true);
    expect(two.headers.get("last-modified")).toBe(one.headers.get("last-modified"));
    expect(two.headers.get("content-range")).toBe(one.headers.get("content-range"));
  });

  test("of an item the server does not have is 404", async () => {
    expect((await a.get(`/Videos/${"ab".repeat(16)}/stream?static=true`)).status).toBe(404);
  });

  test("as a download needs a token and comes as an attachment", async () => {
    const { token } = await a.enter();
    expect((await a.get(`/Items/${film.id}/Download`)).status).toBe(401);
    const reply = await a.call("GET", `/Items/${film.id}/Download`, {
      token,
      headers: { range: "bytes=0-9" },
    });
    expect([reply.status, reply.bytes.length]).toEqual([206, 10]);
    expect(reply.headers.get("content-disposition")).toMatch(/^attachment/);
  });

  test("is measured with a bit-rate test that sends the next power of two", async () => {
    const { token } = await a.enter();
    const reply = await a.get("/Playback/BitrateTest?Size=500000", token);
    expect([reply.status, reply.bytes.length]).toEqual([200, 524_288]);
  });
});

describe("a picture", () => {
  const path = `/Items/${film.id}/Images/Primary`;
  const hasPicture = film.imageTags.Primary !== undefined;

  // ImageController.GetImageResult: the tag of the request becomes the ETag, and nobody compares it with the picture.
  test.skipIf(!hasPicture)(
    "asked for with any tag is immutable for a year under that tag",
    async () => {
      const reply = await a.get(`${path}?tag=whatever`);
      expect(reply.status).toBe(200);
      expect(reply.headers.get("cache-control")).toBe("public, max-age=31536000, immutable");
      expect(reply.headers.get("etag")).toBe('"whatever"');
      expect(reply.headers.get("content-type")).toMatch(/^image\//);
    },
  );

  test.skipIf(!hasPicture)("is 304 to an If-None-Match that repeats the tag", async () => {
    for (const known of ['"whatever"', "whatever"]) {
      const reply = await a.call("GET", `${path}?tag=whatever`, {
        headers: { "if-none-match": known },
      });
      expect([reply.status, reply.bytes.length]).toEqual([304, 0]);
    }
    const other = await a.call("GET", `${path}?tag=x`, { headers: { "if-none-match": '"y"' } });
    expect(other.status).toBe(200);
  });

  test.skipIf(!hasPicture)("without a tag is public, dated and without an ETag", async () => {
    const reply = await a.get(path);
    expect(reply.headers.get("cache-control")).toBe("public");
    expect(reply.headers.get("etag")).toBeNull();
    expect(reply.headers.get("last-modified")).not.toBeNull();
  });

  test("that is not there is 404, for anybody", async () => {
    expect((await a.get(`/Items/${"ab".repeat(16)}/Images/Primary?tag=x`)).status).toBe(404);
  });
});

// --- HLS ------------------------------------------------------------------------------------------------------------

type Container = "ts" | "mp4";
const AGENT = "Contract/1.0";

async function playbackInfo(server: Server, login: Login, container: Container) {
  const TranscodingProfiles = [
    {
      Container: container,
      Type: "Video",
      AudioCodec: "aac",
      VideoCodec: "h264",
      Context: "Streaming",
      Protocol: "hls",
      MaxAudioChannels: "2",
      MinSegments: 1,
    },
  ];
  const profile = { MaxStreamingBitrate: 800_000, DirectPlayProfiles: [], TranscodingProfiles };
  const lists = { CodecProfiles: [], SubtitleProfiles: [], ContainerProfiles: [] };
  const reply = await server.post(
    `/Items/${film.id}/PlaybackInfo?userId=${login.userId}`,
    login.token,
    {
      MaxStreamingBitrate: 800_000,
      DeviceProfile: { ...profile, ...lists },
    },
  );
  const info = reply.json();
  return {
    url: String(info.MediaSources[0].TranscodingUrl),
    playSessionId: String(info.PlaySessionId),
    info,
  };
}

/** The variant playlist's address and its lines. */
async function variant(server: Server, masterPath: string) {
  const master = await server.call("GET", masterPath, { headers: { "user-agent": AGENT } });
  const line = master.text.split("\n").find((one) => one !== "" && !one.startsWith("#")) ?? "";
  const base = masterPath.slice(0, masterPath.indexOf("master.m3u8"));
  const main = await server.call("GET", base + line, { headers: { "user-agent": AGENT } });
  const lines = main.text.split("\n");
  const segments = lines
    .filter((one) => one !== "" && !one.startsWith("#"))
    .map((one) => base + one);
  const init = /#EXT-X-MAP:URI="([^"]+)"/.exec(main.text)?.[1];
  return { master, main, segments, init: init === undefined ? undefined : base + init };
}

const segment = (server: Server, path: string, headers: Record<string, string> = {}) =>
  server.call("GET", path, { headers: { "user-agent": AGENT, ...headers } });

describe("PlaybackInfo", () => {
  test("for a profile that plays nothing names an HLS address with everything in its query", async () => {
    const login = await a.enter();
    const { url, playSessionId, info } = await playbackInfo(a, login, "ts");
    const query = new URL(url, a.url).searchParams;
    expect(url.toLowerCase()).toContain("/master.m3u8?");
    expect(query.get("PlaySessionId")).toBe(playSessionId);
    expect(query.get("ApiKey")).toBe(login.token);
    expect(query.get("DeviceId")).toBe(login.device.id);
    expect(query.get("SegmentContainer")).toBe("ts");
    expect(info.MediaSources[0]).toMatchObject({
      SupportsDirectPlay: false,
      TranscodingSubProtocol: "hls",
    });
  });

  // System.Text.Json writes & as an escape; whoever looks for addresses in raw bodies must know it.
  test("writes its addresses with escaped ampersands", async () => {
    const login = await a.enter();
    const body = {
      DeviceProfile: {
        TranscodingProfiles: [
          {
            Container: "ts",
            Type: "Video",
            Protocol: "hls",
            VideoCodec: "h264",
            AudioCodec: "aac",
          },
        ],
        DirectPlayProfiles: [],
      },
    };
    const reply = await a.post(
      `/Items/${film.id}/PlaybackInfo?userId=${login.userId}`,
      login.token,
      body,
    );
    expect(reply.text).toContain("\\u0026PlaySessionId=");
  });
});

describe("HLS playlists", () => {
  test("are made without ffmpeg, complete from the first moment, with the length told and no compression", async () => {
    const login = await a.enter();
    const { url } = await playbackInfo(a, login, "ts");
    const { master, main, segments } = await variant(a, url);
    // By the table of types a server was built with: vnd.apple.mpegurl, or x-mpegURL.
    expect(master.headers.get("content-type")).toMatch(/mpegurl/i);
    expect(Number(main.headers.get("content-length"))).toBe(main.bytes.length);
    expect(main.text).toContain("#EXT-X-PLAYLIST-TYPE:VOD");
    expect(main.text.trimEnd().endsWith("#EXT-X-ENDLIST")).toBe(true);
    // Three seconds each; a thousandth more where the film's frame rate is not quite a whole number.
    const ticks = Math.round(Number(/#EXTINF:([\d.]+)/.exec(main.text)?.[1]) * 10_000_000);
    expect(ticks).toBeGreaterThanOrEqual(30_000_000);
    expect(ticks).toBeLessThan(30_050_000);
    expect(segments.length).toBe(Math.ceil(film.ticks / ticks));
    expect(segments[4]).toContain("/hls1/main/4.ts?");
    expect(segments[4]).toContain(`&runtimeTicks=${4 * ticks}&actualSegmentLengthTicks=${ticks}`);
    if (a.standIn !== undefined) expect((await a.standIn.ffmpegs()).pids).toEqual([]);
  });

  test.skipIf(!hasPair)("of two servers are the same text but for the token", async () => {
    const login = await a.enter();
    const token = await b.mint(login.device, login.userId);
    b.later(() => b.admin("DELETE", `/Devices?id=${login.device.id}`));
    const { url } = await playbackInfo(a, login, "mp4");
    const one = await variant(a, url);
    const two = await variant(b, url.replace(login.token, token));
    expect(two.master.text.replaceAll(token, login.token)).toBe(one.master.text);
    expect(two.main.text.replaceAll(token, login.token)).toBe(one.main.text);
  });

  test("need a token", async () => {
    const login = await a.enter();
    const { url } = await playbackInfo(a, login, "ts");
    const bare = url.replace(/ApiKey=[^&]*/, "ApiKey=nonsense");
    expect((await a.get(bare)).status).toBe(401);
    expect((await a.get(bare.replace("master.m3u8", "hls1/main/0.ts"))).status).toBe(401);
  });
});

describe("a segment", () => {
  test("comes whole, with length, date and ranges", async () => {
    const login = await a.enter();
    const { url, playSessionId } = await playbackInfo(a, login, "ts");
    const { segments } = await variant(a, url);
    const reply = await segment(a, segments[1] ?? "");
    expect(reply.status).toBe(200);
    expect(Number(reply.headers.get("content-length"))).toBe(reply.bytes.length);
    expect(reply.headers.get("accept-ranges")).toBe("bytes");
    expect(reply.headers.get("last-modified")).not.toBeNull();
    const part = await segment(a, segments[1] ?? "", { range: "bytes=100-199" });
    expect([part.status, part.bytes.equals(reply.bytes.subarray(100, 200))]).toEqual([206, true]);
    await a.call("DELETE", `/Videos/ActiveEncodings?deviceId=x&playSessionId=${playSessionId}`, {
      token: login.token,
    });
  });

  test("ends with its play: DELETE ActiveEncodings is 204, also for a play nobody knows", async () => {
    const login = await a.enter();
    const { url, playSessionId } = await playbackInfo(a, login, "ts");
    const { segments } = await variant(a, url);
    await segment(a, segments[0] ?? "");
    for (const play of [playSessionId, "unknown"]) {
      const path = `/Videos/ActiveEncodings?deviceId=${login.device.id}&playSessionId=${play}`;
      expect((await a.call("DELETE", path, { token: login.token })).status).toBe(204);
    }
    if (a.standIn !== undefined) {
      const { jobs } = await a.standIn.state();
      expect(jobs.filter((job) => job.playSessionId === playSessionId)).toEqual([]);
    }
  });

  test.skipIf(!hasPair)("with the token of the other server is 401", async () => {
    const login = await a.enter();
    const { url } = await playbackInfo(a, login, "ts");
    const { segments } = await variant(a, url);
    const reply = await segment(b, segments[2] ?? "");
    expect([reply.status, reply.text]).toEqual([401, ""]);
  });

  test.skipIf(a.standIn === undefined)(
    "far ahead starts one new ffmpeg there and ends the old one",
    async () => {
      const login = await a.enter();
      const { url } = await playbackInfo(a, login, "ts");
      const { segments } = await variant(a, url);
      await segment(a, segments[0] ?? "");
      const before = await a.standIn?.ffmpegs();
      expect((await segment(a, segments.at(-3) ?? "")).status).toBe(200);
      const after = await a.standIn?.ffmpegs();
      const ahead = (after?.started ?? 0) - (before?.started ?? 0);
      // A fast machine may have encoded that far by itself before it was asked.
      expect(ahead).toBeLessThanOrEqual(1);
      expect(after?.pids.length).toBeLessThanOrEqual(1);
    },
  );
});

describe.skipIf(!hasPair)("a play that moves to another server after segment 3", () => {
  // DynamicHlsController.GetDynamicSegment: no local job, so ffmpeg starts at the segment, at the URL's runtimeTicks.
  test.each<[Container]>([["ts"], ["mp4"]])(
    "goes on without a gap in %s",
    { timeout: 90_000 },
    async (container) => {
      const login = await a.enter();
      const token = await b.mint(login.device, login.userId);
      b.later(() => b.admin("DELETE", `/Devices?id=${login.device.id}`));
      const { url, playSessionId } = await playbackInfo(a, login, container);
      const { segments, init } = await variant(a, url);
      const parts: Buffer[] = [];
      if (init !== undefined) parts.push((await segment(a, init)).bytes);
      for (const path of segments.slice(0, 4)) parts.push((await segment(a, path)).bytes);
      for (const path of segments.slice(4, 8)) {
        const reply = await segment(b, path.replace(login.token, token));
        expect(reply.status).toBe(200);
        parts.push(reply.bytes);
      }
      const folder = mkdtempSync(join(tmpdir(), "contract-"));
      const file = join(folder, `film.${container}`);
      writeFileSync(file, Buffer.concat(parts));
      const played = await ffmpegPlays(file);
      const rate = Number(
        execFileSync("ffprobe", [...PROBE, file])
          .toString()
          .trim()
          .split("/")[0],
      );
      rmSync(folder, { recursive: true, force: true });
      expect(played.frames.length).toBe(8 * 3 * (Number.isFinite(rate) ? rate : 24));
      // A film whose own times are not quite even starts one frame late after any seek, on one server too.
      expect(longestGap(played.frames)).toBeLessThan(2.5 / rate);
      const end = `/Videos/ActiveEncodings?deviceId=${login.device.id}&playSessionId=${playSessionId}`;
      await a.call("DELETE", end, { token: login.token });
      await b.call("DELETE", end, { token });
    },
  );
});

const PROBE = "-v error -select_streams v:0 -show_entries stream=r_frame_rate -of csv=p=0".split(
  " ",
);

describe("subtitles", () => {
  test.skipIf(a.standIn === undefined)(
    "are anonymous, and their first extraction may take long",
    async () => {
      await a.standIn?.control("subtitles", { extractionMs: 300 });
      const began = Date.now();
      const reply = await a.get(`/Videos/${film.id}/${film.id}/Subtitles/2/0/Stream.js`);
      await a.standIn?.control("subtitles", { extractionMs: 0 });
      expect(reply.json().TrackEvents[0]).toMatchObject({ StartPositionTicks: 10_000_000 });
      expect(Date.now() - began).toBeGreaterThanOrEqual(290);
    },
  );
});

test.skipIf(a.standIn === undefined)("two reads of the whole film are the same bytes", async () => {
  const digest = async (server: Server) =>
    createHash("sha256")
      .update((await ranged(server, { "x-mark": randomBytes(4).toString("hex") })).bytes)
      .digest("hex");
  expect(await digest(b)).toBe(await digest(a));
});
