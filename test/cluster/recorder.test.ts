// The server that records dies in mid-recording: the recording goes on at the other in a second file, what was still
// to be recorded is recorded there, and the first server, when it is back, records none of it once more.

import { afterAll, beforeAll, expect, test } from "vitest";
import type { DoorProcess } from "../support/door.ts";
import { doorSees, withKey } from "../support/household.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { startTelevision, type Television } from "../support/television.ts";
import type { Tuner } from "../support/tuner.ts";
import { until, Viewer } from "../support/viewer.ts";

let television: Television;
let pair: Television["pair"];
let door: DoorProcess;
let tuner: Tuner;

beforeAll(async () => {
  television = await startTelevision(["--recorder-away-limit", "2s", "--lease-limit", "1s"]);
  ({ pair, door, tuner } = television);
  await doorSees(door, 2);
});

afterAll(() => television.stop());

async function timersAt(server: StandIn, kind = "Timers"): Promise<string[]> {
  const reply = await withKey(server, "GET", `/LiveTv/${kind}`);
  const { Items } = (await reply.json()) as { Items: { Name: string }[] };
  return Items.map(({ Name }) => Name).sort();
}

const inSeconds = (seconds: number): string => new Date(Date.now() + seconds * 1000).toISOString();

test("a recording whose server dies goes on elsewhere, with all timers, and no server records twice when it is back", async () => {
  const admin = await Viewer.enter(door.url);
  await admin.knownAt([pair.a, pair.b]);
  const channels = (await admin.call("GET", "/LiveTv/Channels")).json().Items as { Id: string }[];
  const ChannelId = channels[0]?.Id;
  const post = async (kind: string, body: Record<string, unknown>): Promise<void> => {
    const reply = await admin.call("POST", `/LiveTv/${kind}`, { body: { ChannelId, ...body } });
    expect(reply.status, reply.text).toBe(204);
  };
  await post("Timers", { Name: "News", StartDate: inSeconds(0.5), EndDate: inSeconds(30) });
  await post("Timers", { Name: "Film", StartDate: inSeconds(3600), EndDate: inSeconds(7200) });
  await post("SeriesTimers", { Name: "Crime", RecordAnyTime: true, Days: ["Sunday"] });
  await until(5000, "it records", () => television.recordings().length === 1);
  const isRecorder = async (server: StandIn): Promise<boolean> =>
    (await server.state()).liveStreams.length > 0;
  const recorder = (await isRecorder(pair.a)) ? pair.a : pair.b;
  const other = recorder === pair.a ? pair.b : pair.a;
  await until(
    5000,
    "what is to be recorded is written down",
    async () => (await timersAt(recorder)).length === 2,
  );
  // So often does a recorder's sidecar look at its timers.
  await new Promise((resolve) => setTimeout(resolve, 1500));
  await recorder.kill9();

  await until(15_000, "it goes on in a second file", () => television.recordings().length === 2);
  const second = television.recordings().find((name) => name !== "News.ts") ?? "";
  const { sizeOf } = television;
  await until(8000, "the second file grows", () => sizeOf(second) > 10_000);
  const first = sizeOf("News.ts");
  expect(first).toBeGreaterThan(10_000);
  await until(5000, "everything is to be recorded there", async () => {
    const [timers, series] = [await timersAt(other), await timersAt(other, "SeriesTimers")];
    return timers.join() === "Film,News" && series.join() === "Crime";
  });
  // Whoever asks is shown each once, and may change them.
  const shown = (await admin.call("GET", "/LiveTv/Timers")).json().Items as { Name: string }[];
  expect(shown.map(({ Name }) => Name).sort()).toEqual(["Film", "News"]);
  await post("Timers", { Name: "Late", StartDate: inSeconds(9000), EndDate: inSeconds(9900) });
  expect(tuner.most).toBe(1);

  await recorder.launch();
  await recorder.ready();
  await until(5000, "it has let go of all of them", async () => {
    const left = [...(await timersAt(recorder)), ...(await timersAt(recorder, "SeriesTimers"))];
    return left.length === 0 && !(await isRecorder(recorder));
  });
  expect(await isRecorder(other)).toBe(true);
  expect(await timersAt(other)).toEqual(["Film", "Late", "News"]);
  await doorSees(door, 2);
  const later = (await admin.call("GET", "/LiveTv/Timers")).json().Items as { Name: string }[];
  expect(later.map(({ Name }) => Name).sort()).toEqual(["Film", "Late", "News"]);
});
