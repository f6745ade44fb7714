// RedisFailedOver: the master dies, the Sentinels make the copy the master, and what the copy had not received
// is lost. Who was there notices nothing, and afterwards there is one leader, under a number of its own.

import { afterAll, beforeAll, expect, test } from "vitest";
import { type DoorProcess, type Part, startDoor, startSidecar } from "../support/door.ts";
import { History } from "../support/history.ts";
import { doorSees } from "../support/household.ts";
import { startPair } from "../support/jellyfin/start.ts";
import { FILM_NAME, makeMedia } from "../support/media.ts";
import { type Sentinels, startSentinels } from "../support/sentinel.ts";
import { until, Viewer } from "../support/viewer.ts";

const leaseLimitMs = 3000;

let pair: Awaited<ReturnType<typeof startPair>>;
let sentinels: Sentinels;
let sidecars: Part[];
let doors: [DoorProcess, DoorProcess];

beforeAll(async () => {
  const media = await makeMedia();
  [pair, sentinels] = await Promise.all([
    startPair({ mediaDir: media.folder }),
    startSentinels(1000),
  ]);
  const redis = sentinels.url;
  const args = ["--lease-limit", `${leaseLimitMs}ms`];
  sidecars = await Promise.all(
    [pair.a, pair.b].map((replica) => startSidecar({ replica, redis, args })),
  );
  const shared = { command: "proxy", redis, replicas: [pair.a, pair.b] } as const;
  doors = await Promise.all([startDoor(shared), startDoor(shared)]);
  await Promise.all(doors.map((door) => doorSees(door, 2)));
});

afterAll(async () => {
  await Promise.all([...doors, ...sidecars].map((part) => part.stop()));
  await sentinels.stop();
  await pair.stop();
});

/** How many sidecars say that they lead. */
async function leaders(): Promise<number> {
  const said = await Promise.all(
    sidecars.map(async ({ admin }) => {
      const text = await (await fetch(`${admin}/metrics`)).text();
      return Number(/^jellybloom_leader (\d)$/m.exec(text)?.[1]);
    }),
  );
  return said.reduce((sum, one) => sum + one, 0);
}

/** The epochs under which each sidecar said that it leads: who holds the lock without a break keeps its number. */
function epochs(): ReadonlySet<number>[] {
  return sidecars.map(
    (sidecar) =>
      new Set(
        sidecar
          .logLines()
          .flatMap(({ msg }) => /leads the cluster under epoch (\d+)$/.exec(msg)?.[1] ?? [])
          .map(Number),
      ),
  );
}

function lastSentence(part: Part, start: string): number {
  return part.logLines().findLastIndex(({ msg }) => msg.startsWith(start));
}

test("a failover by Sentinel is seen by nobody who was there, and leaves one leader", async () => {
  await until(10_000, "somebody leads", async () => (await leaders()) === 1);
  const viewers = await Promise.all([
    Viewer.enter(doors[0].url, { name: "root" }),
    Viewer.enter(doors[1].url, { name: "kid" }),
  ]);
  for (const viewer of viewers) await viewer.knownAt([pair.a, pair.b]);
  const history = new History();
  let isOver = false;
  const watching = viewers.map(async (viewer) => {
    const film = await viewer.item(FILM_NAME);
    const socket = await viewer.socket();
    while (!isOver) {
      for (const path of ["/Users/Me", `/Items/${film}?userId=${viewer.userId}`]) {
        await history.record(viewer.deviceId, path, async () => {
          const { status } = await viewer.call("GET", path);
          return { status, wrong: status === 200 ? undefined : "not 200" };
        });
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return socket.isOpen;
  });

  const [master, copy] = sentinels.servers;
  await master.kill9();
  await until(20_000, "the copy is the master", async () => {
    return (await sentinels.masterPort()) === copy.port;
  });
  await until(20_000, "everybody has the store again", () =>
    [...sidecars, ...doors].every((part) => {
      const gone = lastSentence(part, "the store cannot be reached");
      return gone >= 0 && lastSentence(part, "the store is reachable") > gone;
    }),
  );
  await until(leaseLimitMs + 1000, "somebody leads again", async () => (await leaders()) === 1);
  // It stays so: nobody else comes to lead when the leases of before are over.
  const settled = epochs();
  await new Promise((resolve) => setTimeout(resolve, 1.5 * leaseLimitMs));
  expect(await leaders()).toBe(1);
  expect(epochs()).toEqual(settled);
  const [ofA, ofB] = settled;
  expect([...(ofA ?? [])].filter((number) => ofB?.has(number))).toEqual([]);

  isOver = true;
  expect(await Promise.all(watching)).toEqual([true, true]);
  expect(history.wrongs()).toEqual([]);
  const newcomer = await Viewer.enter(doors[0].url, { name: "kid" });
  await newcomer.knownAt([pair.a, pair.b]);
});
