// The short encode with which each server's encoder is tried: a server that cannot encode is known before anybody
// plays there, and the trial leaves nothing behind, no session, no ffmpeg, nobody's position.

import { afterAll, beforeAll, expect, test } from "vitest";
import type { ClusterStatus } from "../../proxy/status.ts";
import { runCli } from "../support/cli.ts";
import { crowdNames } from "../support/crowd.ts";
import { CLUSTER_KEY, type DoorProcess, startDoor } from "../support/door.ts";
import { runningFfmpegs } from "../support/ffmpegs.ts";
import { type Household, startHousehold } from "../support/household.ts";
import { makeMedia } from "../support/media.ts";
import { until, Viewer } from "../support/viewer.ts";

const PEOPLE = 6;

let pair: Household;
let door: DoorProcess;

beforeAll(async () => {
  const media = await makeMedia();
  pair = await startHousehold({ mediaDir: media.folder, people: crowdNames(PEOPLE) });
  await pair.a.control("encoder", { fails: true });
  door = await startDoor({
    replicas: [pair.a, pair.b],
    apiKey: pair.a.apiKey,
    args: ["--cluster-key", CLUSTER_KEY, "--encoder-probe", "on"],
  });
});

afterAll(async () => {
  await door.stop();
  await pair.stop();
});

async function encodes(): Promise<Record<string, string>> {
  const asked = ["status", "--json", "--admin", door.admin, "--cluster-key", CLUSTER_KEY];
  const { replicas } = JSON.parse((await runCli(asked)).out) as ClusterStatus;
  return Object.fromEntries(replicas.map(({ name, encodes: word }) => [name, word]));
}

test("a server that cannot encode is known before anybody plays there, and nobody is placed there", async () => {
  await until(15_000, "both encoders were tried", async () => {
    const { a, b } = await encodes();
    return a === "failing" && b === "ok";
  });
  await until(2000, "a sentence in the log", () =>
    door.log().includes("server a fails to encode: new plays go elsewhere"),
  );
  // So many that some of them would live on the other one.
  for (const { name } of crowdNames(PEOPLE)) {
    expect(await (await Viewer.enter(door.url, { name })).home()).toBe("b");
  }
});

test("the trial leaves nothing behind", async () => {
  for (const server of [pair.a, pair.b]) {
    await until(3000, "no ffmpeg is left", () => runningFfmpegs(server).length === 0);
    const { sessions } = await server.state();
    const strangers = sessions.filter((one) => !String(one.DeviceId).startsWith("jellybloom-"));
    expect(strangers.filter((one) => one.UserName === undefined)).toEqual([]);
    const stops = await server.requests({ method: "DELETE", path: "ActiveEncodings" });
    expect(stops.length).toBeGreaterThan(0);
    expect(await server.requests({ path: "/Sessions/Playing" })).toEqual([]);
  }
});
