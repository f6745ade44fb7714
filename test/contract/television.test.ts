/**
 * What we believe about live television and about an encode that is made for a trial. Channels are there on a real server
 * only where its owner has a tuner; without one the tests of channels are skipped.
 */
import { randomBytes } from "node:crypto";
import { afterAll, describe, expect, test } from "vitest";
import { makeMedia } from "../support/media.ts";
import { Tuner } from "../support/tuner.ts";
import { contractServers, hasPair, isReal, type Login, type Server } from "./servers.ts";

const { a, b, leave } = await contractServers();
const tuner = isReal ? undefined : await Tuner.start((await makeMedia()).film);
afterAll(async () => {
  await leave();
  tuner?.stop();
});
if (tuner !== undefined) {
  const change = { TunerHosts: [{ Url: tuner.url, TunerCount: 1 }] };
  for (const { standIn } of [a, b]) {
    await standIn?.control("configure", { document: "livetv", change });
  }
}
const viewer = await a.enter();
const channels = (await a.get("/LiveTv/Channels", viewer.token)).json().Items as { Id: string }[];
const [channel] = channels;

describe("an encode for a trial", () => {
  test("needs no user: the API key gets a segment, and the encode can be ended by its name", async () => {
    const film = await a.film();
    const name = `contract-${randomBytes(6).toString("hex")}`;
    const query = [
      `DeviceId=${name}&PlaySessionId=${name}&MediaSourceId=${film.id}&VideoCodec=h264`,
      "AudioCodec=aac&VideoBitrate=1000000&SegmentContainer=ts",
      "runtimeTicks=0&actualSegmentLengthTicks=30000000",
    ].join("&");
    const segment = await a.admin("GET", `/Videos/${film.id}/hls1/main/0.ts?${query}`);
    expect(segment.status).toBe(200);
    expect(segment.bytes.length).toBeGreaterThan(1000);
    const ended = `/Videos/ActiveEncodings?deviceId=${name}&playSessionId=${name}`;
    expect((await a.admin("DELETE", ended)).status).toBe(204);
    // Also one that nobody knows.
    expect((await a.admin("DELETE", ended)).status).toBe(204);
    const sessions = (await a.admin("GET", "/Sessions")).json() as { DeviceId: string }[];
    expect(sessions.some(({ DeviceId }) => DeviceId === name)).toBe(false);
  });
});

async function opened(server: Server, { token }: Login) {
  const body = { AutoOpenLiveStream: true, DeviceProfile: hlsOnly };
  const info = await server.post(`/Items/${channel?.Id}/PlaybackInfo`, token, body);
  expect(info.status).toBe(200);
  const { MediaSources, PlaySessionId } = info.json();
  const { LiveStreamId, TranscodingUrl } = MediaSources[0] as Record<string, string>;
  server.later(() => server.post(`/LiveStreams/Close?liveStreamId=${LiveStreamId}`, token));
  return { LiveStreamId, TranscodingUrl: String(TranscodingUrl), PlaySessionId };
}

const hlsOnly = {
  DirectPlayProfiles: [],
  TranscodingProfiles: [
    { Type: "Video", Protocol: "hls", Container: "ts", VideoCodec: "h264", AudioCodec: "aac" },
  ],
};

describe.skipIf(channel === undefined)("a channel", () => {
  // live.md of the project's facts: tried with an M3U tuner on both servers.
  test.skipIf(!hasPair)(
    "has one name for its stream on every server, which is known only where it was opened",
    async () => {
      const here = await opened(a, viewer);
      expect(here.TranscodingUrl).toContain("/live.m3u8?");
      const there = await b.enter();
      const swapped = here.TranscodingUrl.replace(viewer.token, there.token);
      expect((await b.get(swapped)).status).toBe(404);
      const again = await opened(b, there);
      expect(again.LiveStreamId).toBe(here.LiveStreamId);
      expect((await b.get(swapped)).status).toBe(200);
    },
  );

  test("is a list that only grows, from 0 on, of segments that anybody may have", async () => {
    const { TranscodingUrl } = await opened(a, viewer);
    const list = await a.get(TranscodingUrl);
    expect(list.status).toBe(200);
    expect(list.text).toContain("#EXT-X-MEDIA-SEQUENCE:0");
    expect(list.text).toContain("#EXT-X-PLAYLIST-TYPE:EVENT");
    const first = list.text.split("\n").find((line) => line !== "" && !line.startsWith("#")) ?? "";
    expect(first).toMatch(/^hls\/([0-9a-f]{32})\/\1\d+\.ts/i);
    const folder = TranscodingUrl.slice(0, TranscodingUrl.lastIndexOf("/live.m3u8"));
    expect((await a.get(`${folder}/${first}`)).status).toBe(200);
  });

  test.skipIf(isReal)("shares its stream, and a second channel finds no tuner", async () => {
    await opened(a, viewer);
    await opened(a, viewer);
    expect(tuner?.open).toBeLessThanOrEqual(2);
    const other = channels[1]?.Id;
    const body = { AutoOpenLiveStream: true, DeviceProfile: hlsOnly };
    const refused = await a.post(`/Items/${other}/PlaybackInfo`, viewer.token, body);
    expect(refused.status).toBe(500);
  });
});
