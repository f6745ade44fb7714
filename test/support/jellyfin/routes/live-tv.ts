/** Live television: LiveTvController, and what MediaInfoController and HlsSegmentController do for it. */
import { sendFile } from "../files.ts";
import { type Exchange, Refusal, type Routes } from "../http.ts";
import { dashed, parseId, randomId } from "../ids.ts";
import { type Channel, LiveTv, NoTuner } from "../live-tv.ts";
import { field } from "./accounts.ts";

const LIST_TYPE = "application/vnd.apple.mpegurl";

export function addLiveTvRoutes(routes: Routes): void {
  routes.add("GET", "/LiveTv/Channels", "user", async (ask) => {
    const items = (await ask.world.liveTv.channels()).map(channelDto);
    ask.reply({ Items: items, TotalRecordCount: items.length, StartIndex: 0 });
  });
  routes.add("GET", "/LiveTv/LiveStreamFiles/:stream/:file", "anonymous", (ask) => {
    const stream = ask.world.liveTv.byUniqueId(ask.param(0));
    if (stream === undefined) throw new Refusal(404, "empty");
    ask.world.liveTv.send(stream, ask.response);
  });
  routes.add("POST", "/LiveStreams/Open", "user", async (ask) => {
    const body = ask.body.length > 0 ? ask.json() : {};
    const item = parseId(String(ask.query("itemId") ?? field(body, "ItemId") ?? ""));
    const channel = item === undefined ? undefined : await ask.world.liveTv.channel(item);
    if (channel === undefined) throw new Refusal(404);
    const playSessionId = String(ask.query("playSessionId") ?? field(body, "PlaySessionId") ?? "");
    ask.reply({ MediaSource: await openedSource(ask, channel, playSessionId) });
  });
  routes.add("POST", "/LiveStreams/Close", "user", (ask) => {
    ask.world.liveTv.close(ask.query("liveStreamId") ?? "");
    ask.noContent();
  });
  addListRoutes(routes);
  addTimerRoutes(routes);
}

export function channelDto(channel: Channel): Record<string, unknown> {
  return { Id: channel.id, Name: channel.name, Type: "TvChannel", MediaType: "Video" };
}

/** PlaybackInfo of a channel: its source has to be opened, and is when that was asked for. */
export async function channelPlaybackInfo(ask: Exchange, channel: Channel): Promise<void> {
  const body = ask.body.length > 0 ? ask.json() : {};
  const inQuery = ask.query("autoOpenLiveStream");
  const opens =
    inQuery === undefined ? field(body, "AutoOpenLiveStream") === true : inQuery === "true";
  const playSessionId = randomId();
  const source = opens ? await openedSource(ask, channel, playSessionId) : closedSource(channel);
  ask.reply({ MediaSources: [source], PlaySessionId: playSessionId });
}

function closedSource(channel: Channel): Record<string, unknown> {
  return {
    Id: channel.id,
    Protocol: "Http",
    Name: channel.name,
    IsInfiniteStream: true,
    RequiresOpening: true,
    RequiresClosing: true,
    OpenToken: LiveTv.streamIdOf(channel),
    SupportsDirectPlay: false,
    SupportsDirectStream: false,
    SupportsTranscoding: true,
  };
}

async function openedSource(
  ask: Exchange,
  channel: Channel,
  playSessionId: string,
): Promise<Record<string, unknown>> {
  const stream = await ask.world.liveTv.openChannel(channel).catch((error: unknown) => {
    throw error instanceof NoTuner ? new Refusal(500) : error;
  });
  const query = new URLSearchParams({
    DeviceId: ask.caller.deviceId,
    MediaSourceId: channel.id,
    VideoCodec: "h264",
    PlaySessionId: playSessionId,
    ApiKey: ask.caller.token,
    LiveStreamId: stream.liveStreamId,
    SegmentContainer: "ts",
  });
  return {
    ...closedSource(channel),
    RequiresOpening: false,
    LiveStreamId: stream.liveStreamId,
    Path: `/LiveTv/LiveStreamFiles/${stream.uniqueId}/stream.ts`,
    TranscodingUrl: `/videos/${dashed(channel.id)}/live.m3u8?${query}`,
    TranscodingSubProtocol: "hls",
    TranscodingContainer: "ts",
  };
}

function addListRoutes(routes: Routes): void {
  routes.add("GET", "/Videos/:item/live.m3u8", "user", async (ask) => {
    const { liveTv } = ask.world;
    const stream = liveTv.stream(ask.query("liveStreamId") ?? "");
    if (stream === undefined) throw new Refusal(404);
    const agent = ask.request.headers["user-agent"] ?? "";
    const key = `${agent}-${ask.query("deviceId") ?? ""}-${stream.uniqueId}`;
    const text = await liveTv.list(stream, ask.query("playSessionId") ?? "", key);
    if (text === undefined) throw new Refusal(500);
    ask.plain(200, LIST_TYPE, text);
  });
  routes.add("GET", "/Videos/:item/hls/:playlist/:file", "anonymous", async (ask) => {
    const path = ask.world.liveTv.segment(ask.param(1), ask.param(2));
    if (path === undefined) throw new Refusal(404);
    const { request, response, method } = ask;
    if ((await sendFile(request.headers, method, response, path)) === "missing") {
      throw new Refusal(404);
    }
  });
}

function addTimerRoutes(routes: Routes): void {
  const list = (ask: Exchange): void => {
    const { liveTv } = ask.world;
    const items = liveTv.timers().map((timer) => ({
      ...{ Type: "Timer", ...timer },
      Status: liveTv.isRecording(timer.Id) ? "InProgress" : "New",
    }));
    ask.reply({ Items: items, TotalRecordCount: items.length, StartIndex: 0 });
  };
  routes.add("GET", "/LiveTv/Timers", "user", list);
  routes.add("POST", "/LiveTv/Timers", "user", (ask) => {
    const body = ask.json();
    const text = (name: string): string => String(field(body, name) ?? "");
    ask.world.liveTv.addTimer({
      ChannelId: parseId(text("ChannelId")) ?? "",
      Name: text("Name"),
      StartDate: text("StartDate"),
      EndDate: text("EndDate"),
    });
    ask.noContent();
  });
  routes.add("GET", "/LiveTv/SeriesTimers", "user", (ask) => {
    const items = ask.world.liveTv.seriesTimers();
    ask.reply({ Items: items, TotalRecordCount: items.length, StartIndex: 0 });
  });
  routes.add("POST", "/LiveTv/SeriesTimers", "user", (ask) => {
    ask.world.liveTv.addSeriesTimer(ask.json() as Record<string, unknown>);
    ask.noContent();
  });
  routes.add("DELETE", "/LiveTv/SeriesTimers/:timer", "user", (ask) => {
    ask.world.liveTv.removeSeriesTimer(ask.param(0));
    ask.noContent();
  });
  routes.add("DELETE", "/LiveTv/Timers/:timer", "user", (ask) => {
    if (!ask.world.liveTv.removeTimer(ask.param(0))) throw new Refusal(404);
    ask.noContent();
  });
}
