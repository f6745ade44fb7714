/** Direct play, downloads, HLS and subtitles: VideosController, MediaInfoController, DynamicHlsController, SubtitleController. */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { sendFile } from "../files.ts";
import { type Exchange, Refusal, type Routes } from "../http.ts";
import { dashed, idOfText, parseId, randomId } from "../ids.ts";
import { bitrate, type Item, mediaSource } from "../library.ts";
import { type Container, EncoderFailed, variantPlaylist } from "../transcodes.ts";
import { field } from "./accounts.ts";
import { itemOf } from "./items.ts";
import { channelPlaybackInfo } from "./live-tv.ts";

export function addPlaybackRoutes(routes: Routes): void {
  addDirectRoutes(routes);
  addInfoRoutes(routes);
  addHlsRoutes(routes);
  addSubtitleRoutes(routes);
}

/** The exception middleware answers for streams: a plain-text 404, also for an id that is none. */
function streamItem(ask: Exchange): Item {
  const id = parseId(ask.param(0));
  if (id === undefined) throw new Refusal(400, "problem");
  const item = ask.world.library.get(id);
  if (item === undefined || item.isFolder) throw new Refusal(404);
  return item;
}

function addDirectRoutes(routes: Routes): void {
  const send = async (ask: Exchange, item: Item, extra: Record<string, string> = {}) => {
    const { request, response, method } = ask;
    const sent = await sendFile(request.headers, method, response, item.path, { extra });
    if (sent === "missing") throw new Refusal(404);
  };
  routes.add("GET|HEAD", "/Videos/:item/:file", "anonymous", async (ask) => {
    if (!/^stream(\.[a-z0-9]+)?$/i.test(ask.param(1))) throw new Refusal(404, "empty");
    const item = streamItem(ask);
    if (ask.query("static")?.toLowerCase() !== "true") {
      // A progressive transcode is not made here; clients of these tests use HLS for that.
      throw new Refusal(500);
    }
    await send(ask, item);
  });
  // 12.0 routes GET alone for these two; HEAD is answered as well here, which no client notices.
  routes.add("GET|HEAD", "/Items/:item/Download", "user", async (ask) => {
    const item = itemOf(ask, ask.param(0));
    const name = encodeURIComponent(`${item.name}.${item.container}`);
    await send(ask, item, {
      "content-disposition": `attachment; filename="${name}"; filename*=UTF-8''${name}`,
    });
  });
  routes.add("GET|HEAD", "/Items/:item/File", "user", (ask) =>
    send(ask, itemOf(ask, ask.param(0))),
  );
  routes.add("GET", "/Playback/BitrateTest", "user", (ask) => {
    const asked = Number(ask.query("size") ?? 102_400);
    if (!Number.isInteger(asked) || asked < 1 || asked > 100_000_000)
      throw new Refusal(400, "problem");
    // The server rents a buffer and sends all of it: the next power of two.
    const size = 2 ** Math.ceil(Math.log2(asked));
    const headers = { "content-type": "application/octet-stream", "content-length": size };
    ask.response.writeHead(200, headers).end(Buffer.alloc(size));
  });
}

function addInfoRoutes(routes: Routes): void {
  routes.add("POST", "/Items/:item/PlaybackInfo", "user", async (ask) => {
    const channel = await ask.world.liveTv.channel(parseId(ask.param(0)) ?? "");
    if (channel !== undefined) return channelPlaybackInfo(ask, channel);
    const item = itemOf(ask, ask.param(0));
    const body = ask.body.length > 0 ? ask.json() : {};
    const posted = field(body, "DeviceProfile");
    const known = ask.world.sessions.capabilitiesOf(ask.caller.deviceId)?.DeviceProfile;
    const profile = (posted ?? known) as Record<string, unknown> | undefined;
    const playSessionId = randomId();
    const source = profile ? decided(ask, item, profile, body, playSessionId) : mediaSource(item);
    ask.reply({ MediaSources: [source], PlaySessionId: playSessionId });
  });
  routes.add("GET", "/Items/:item/PlaybackInfo", "user", (ask) => {
    const item = itemOf(ask, ask.param(0));
    ask.reply({ MediaSources: [mediaSource(item)], PlaySessionId: randomId() });
  });
  routes.add("GET", "/MediaSegments/:item", "user", (ask) => {
    const { id, runTimeTicks } = itemOf(ask, ask.param(0));
    const EndTicks = Math.round(runTimeTicks / 10);
    const intro = {
      Id: idOfText(`intro ${id}`),
      ItemId: id,
      Type: "Intro",
      StartTicks: 0,
      EndTicks,
    };
    const Items = ask.world.library.derived(id).segments ? [intro] : [];
    ask.reply({ Items, TotalRecordCount: Items.length, StartIndex: 0 });
  });
}

/** Direct play where a profile takes the container and the bit rate, HLS where it names a way, else neither. */
function decided(
  ask: Exchange,
  item: Item,
  profile: Record<string, unknown>,
  body: Record<string, unknown>,
  playSessionId: string,
): Record<string, unknown> {
  const source = mediaSource(item);
  const given = field(body, "MaxStreamingBitrate") ?? profile.MaxStreamingBitrate;
  const limit = typeof given === "number" ? given : Number.POSITIVE_INFINITY;
  const takes = profiles(profile.DirectPlayProfiles).some((one) => {
    const containers = String(one.Container ?? "").split(",");
    return one.Type === "Video" && (containers.includes(item.container) || containers[0] === "");
  });
  const direct = takes && bitrate(item) <= limit && field(body, "EnableDirectPlay") !== false;
  const way = profiles(profile.TranscodingProfiles).find(
    (one) => one.Type === "Video" && one.Protocol === "hls",
  );
  source.SupportsDirectPlay = direct;
  source.SupportsDirectStream = direct;
  source.SupportsTranscoding = way !== undefined;
  if (direct || way === undefined) return source;
  const container: Container = way.Container === "mp4" ? "mp4" : "ts";
  return {
    ...source,
    TranscodingUrl: transcodingUrl(ask, item, container, limit, playSessionId),
    TranscodingSubProtocol: "hls",
    TranscodingContainer: container,
  };
}

/** StreamInfo.ToUrl: everything a server needs to know is in the query, the caller's token too. */
function transcodingUrl(
  ask: Exchange,
  item: Item,
  container: Container,
  limit: number,
  playSessionId: string,
): string {
  const rate = Number.isFinite(limit) ? Math.max(64_000, Math.round(limit) - 127_356) : 2_000_000;
  const query: [string, string][] = [
    ["DeviceId", ask.caller.deviceId],
    ["MediaSourceId", item.id],
    ["VideoCodec", "h264"],
    ["AudioCodec", "aac"],
    ["AudioStreamIndex", "1"],
    ["VideoBitrate", String(rate)],
    ["AudioBitrate", "127356"],
    ["MaxFramerate", String(item.frameRate)],
    ["SegmentContainer", container],
    ["MinSegments", "1"],
    ["PlaySessionId", playSessionId],
    ["ApiKey", ask.caller.token],
    ["TranscodingMaxAudioChannels", "2"],
    ["RequireAvc", "false"],
    ["EnableAudioVbrEncoding", "true"],
    ["Tag", item.etag],
    ["SubtitleMethod", "Encode"],
    ["h264-level", "13"],
    ["h264-videobitdepth", "8"],
    ["h264-profile", "constrainedbaseline"],
    ["TranscodeReasons", "ContainerBitrateExceedsLimit"],
  ];
  const text = query.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
  return `/videos/${dashed(item.id)}/master.m3u8?${text}`;
}

function profiles(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? (value as Record<string, unknown>[]) : [];
}

function addHlsRoutes(routes: Routes): void {
  const type = "application/vnd.apple.mpegurl";
  const container = (ask: Exchange): Container =>
    ask.query("segmentContainer")?.toLowerCase() === "mp4" ? "mp4" : "ts";
  routes.add("GET|HEAD", "/Videos/:item/master.m3u8", "user", (ask) => {
    const item = streamItem(ask);
    const rate =
      Number(ask.query("videoBitrate") ?? 1_872_644) + Number(ask.query("audioBitrate") ?? 0);
    const stream = [
      `BANDWIDTH=${rate},AVERAGE-BANDWIDTH=${rate},VIDEO-RANGE=SDR,CODECS="avc1.42C01F,mp4a.40.2"`,
      `RESOLUTION=${item.width}x${item.height},FRAME-RATE=${item.frameRate}`,
    ].join(",");
    ask.plain(200, type, `#EXTM3U\n#EXT-X-STREAM-INF:${stream}\nmain.m3u8${ask.search}\n`);
  });
  routes.add("GET", "/Videos/:item/main.m3u8", "user", (ask) =>
    ask.plain(200, type, variantPlaylist(streamItem(ask), container(ask), ask.search)),
  );
  routes.add("GET", "/Videos/:item/hls1/:playlist/:segment", "user", sendSegment);
  routes.add("DELETE", "/Videos/ActiveEncodings", "user", async (ask) => {
    const playSessionId = ask.query("playSessionId");
    if (playSessionId) {
      ask.world.liveTv.stopJobs(playSessionId);
      await ask.world.transcodes.stop(playSessionId);
    } else await ask.world.transcodes.stopDevice(ask.query("deviceId") ?? "");
    ask.noContent();
  });
}

async function sendSegment(ask: Exchange): Promise<void> {
  const item = streamItem(ask);
  const named = /^(-?\d+)\.(ts|mp4)$/i.exec(ask.param(2));
  if (named === null) throw new Refusal(404, "empty");
  if (Number(ask.query("startTimeTicks") ?? 0) > 0) throw new Refusal(400);
  const rate = Number(ask.query("videoBitrate"));
  const encoded = ask.world.transcodes.segment(
    {
      item,
      userAgent: ask.request.headers["user-agent"] ?? "",
      deviceId: ask.query("deviceId") ?? ask.caller.deviceId,
      playSessionId: ask.query("playSessionId") ?? "",
      container: named[2]?.toLowerCase() === "mp4" ? "mp4" : "ts",
      runtimeTicks: Number(ask.query("runtimeTicks") ?? 0),
      videoBitrate: Number.isFinite(rate) && rate > 0 ? rate : undefined,
    },
    Number(named[1]),
  );
  const path = await encoded.catch((error: unknown) => {
    throw error instanceof EncoderFailed ? new Refusal(500) : error;
  });
  if (path === undefined) throw new Refusal(404);
  const { request, response, method } = ask;
  if ((await sendFile(request.headers, method, response, path)) === "missing")
    throw new Refusal(404);
}

function addSubtitleRoutes(routes: Routes): void {
  const subtitle = async (ask: Exchange) => {
    const item = streamItem(ask);
    const format = /^stream\.([a-z]+)$/i.exec(ask.params.at(-1) ?? "")?.[1]?.toLowerCase();
    const file = item.subtitles[Number(ask.param(2)) - 2];
    if (file === undefined || format === undefined) throw new Refusal(404);
    // The first time the server must extract the track; a long film on slow disks takes its time.
    const { faults } = ask.world;
    faults.subtitleExtractions += 1;
    if (faults.subtitleExtractionMs > 0) await sleep(faults.subtitleExtractionMs);
    const text = readFileSync(file, "utf8");
    if (format === "js")
      return ask.compressed(200, "application/json", JSON.stringify(trackEvents(text)));
    const web = `WEBVTT\n\n${text.replace(/(\d\d:\d\d:\d\d),(\d{3})/g, "$1.$2")}`;
    ask.compressed(
      200,
      format === "vtt" ? "text/vtt; charset=utf-8" : "application/x-subrip",
      format === "vtt" ? web : text,
    );
  };
  routes.add("GET", "/Videos/:item/:source/Subtitles/:index/:file", "anonymous", subtitle);
  routes.add("GET", "/Videos/:item/:source/Subtitles/:index/:start/:file", "anonymous", subtitle);
}

/** The web client's form of a subtitle track, times in ticks. */
function trackEvents(srt: string): unknown {
  const events = srt
    .trim()
    .split(/\r?\n\r?\n/)
    .flatMap((block) => {
      const [id, times, ...lines] = block.split(/\r?\n/);
      const [start, end] = (times ?? "").split(" --> ").map(ticks);
      if (start === undefined || end === undefined) return [];
      return [{ Id: id, Text: lines.join("\n"), StartPositionTicks: start, EndPositionTicks: end }];
    });
  return { TrackEvents: events };
}

function ticks(text: string): number {
  const [hours = 0, minutes = 0, seconds = 0] = text.replace(",", ".").split(":").map(Number);
  return Math.round((hours * 3600 + minutes * 60 + seconds) * 10_000_000);
}
