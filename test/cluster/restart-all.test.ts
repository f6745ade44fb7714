// An administrator restarts «the server» while people browse and watch: every replica is restarted, one after
// another, each drained first, and nobody sees an error. Shutting down is explained instead of done.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Crowd, crowdNames } from "../support/crowd.ts";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { type Household, startHousehold } from "../support/household.ts";
import { makeMedia } from "../support/media.ts";
import { until, Viewer } from "../support/viewer.ts";

const PEOPLE = 12;

let pair: Household;
let door: DoorProcess;

beforeAll(async () => {
  const media = await makeMedia();
  pair = await startHousehold({ mediaDir: media.folder, people: crowdNames(PEOPLE) });
  door = await startDoor({ replicas: [pair.a, pair.b], apiKey: pair.a.apiKey });
});

afterAll(async () => {
  await door?.stop();
  await pair?.stop();
});

const said = (start: string) => door.logLines().filter(({ msg }) => msg.startsWith(start));

describe("a cluster that people use", () => {
  test("is restarted server by server, and nobody notices", async () => {
    const crowd = await Crowd.enter({ people: PEOPLE, hls: 2, files: 2, doors: [door.url] });
    const admin = await Viewer.enter(door.url);
    for (const viewer of [admin, ...crowd.viewers]) await viewer.knownAt([pair.a, pair.b]);
    await crowd.begin();
    const asked = await admin.call("POST", "/System/Restart");
    expect(asked, asked.text).toMatchObject({ status: 204 });
    // The second of an impatient administrator changes nothing.
    expect((await admin.call("POST", "/System/Restart")).status).toBe(204);
    await until(60_000, "all of them were restarted", () => {
      return said("restart: every replica was restarted").length > 0;
    });
    expect(said("restart: a was restarted")).toHaveLength(1);
    expect(said("restart: b was restarted")).toHaveLength(1);
    // Each was left by everybody before its server went, not only while it went.
    for (const name of ["a", "b"]) {
      const lines = door.logLines().map(({ msg }) => msg);
      const left = lines.indexOf(`replica ${name} is drained as far as this door is concerned`);
      const went = lines.indexOf(`restart: ${name} is drained and is restarted now`);
      expect([name, left >= 0 && left < went]).toEqual([name, true]);
    }
    expect(await crowd.end()).toEqual([]);
    const states = await Promise.all([pair.a, pair.b].map((one) => one.state()));
    expect(states.map(({ phase }) => phase)).toEqual(["ready", "ready"]);
  });

  test("is not restarted by somebody who is no administrator, and not shut down by anybody", async () => {
    const kid = await Viewer.enter(door.url, { name: "kid" });
    expect((await kid.call("POST", "/System/Restart")).status).toBe(403);
    const admin = await Viewer.enter(door.url);
    const answer = await admin.call("POST", "/System/Shutdown");
    expect(answer.status).toBe(403);
    expect(answer.text).toContain("drain a replica");
    expect(said("all replicas are restarted")).toHaveLength(1);
  });
});
