// Who leads in a whole cluster: the sidecar of a healthy server, with sidecars as processes of their own and
// with all in one process; and who comes after it.

import { afterEach, expect, test } from "vitest";
import { type Part, startDoor, startSidecar } from "../support/door.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { startRedis } from "../support/redis.ts";
import { until } from "../support/viewer.ts";

const leaseLimitMs = 3000;
const lease = ["--lease-limit", `${leaseLimitMs}ms`];
const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function servers(): Promise<readonly [StandIn, StandIn]> {
  const media = await makeMedia();
  const pair = await startPair({ mediaDir: media.folder });
  ends.push(() => pair.stop());
  return [pair.a, pair.b];
}

/** The last word on leading in a process's log: the name of who began, or undefined when somebody ended since. */
function leaderSaid(part: Part): string | undefined {
  const said = part
    .logLines()
    .flatMap(({ msg }) => /(\w+) (leads the cluster|no longer leads)/.exec(msg) ?? []);
  const [name, what] = said.slice(-2);
  return what === "leads the cluster" ? name : undefined;
}

/** Whether a process says that it leads; one that does not run does not. */
async function isLeader(part: Part): Promise<boolean> {
  try {
    const text = await (await fetch(`${part.admin}/metrics`)).text();
    return /^jellybloom_leader 1$/m.test(text);
  } catch {
    // It was killed.
    return false;
  }
}

test("a leader that is killed is followed within the lease and a second; one that ends, or whose server ends, at once", async () => {
  const [a, b] = await servers();
  const redis = await startRedis();
  ends.push(() => redis.stop());
  const parts = await Promise.all(
    [a, b].map((replica) => startSidecar({ replica, redis: redis.url, args: lease })),
  );
  ends.push(() => Promise.all(parts.map((part) => part.stop())));
  const leader = async (limitMs: number): Promise<Part> => {
    let found: Part[] = [];
    await until(limitMs, "there is one leader", async () => {
      const leads = await Promise.all(parts.map(isLeader));
      found = parts.filter((_part, index) => leads[index]);
      return found.length === 1;
    });
    const [one] = found;
    if (one === undefined) throw new Error("there was one a moment ago");
    return one;
  };
  const first = await leader(10_000);
  await first.kill9();
  const second = await leader(leaseLimitMs + 1000);
  expect(second).not.toBe(first);
  first.begin();
  await first.ready();
  await second.terminate();
  expect(await leader(1000)).toBe(first);
  second.begin();
  await second.ready();
  await (parts[0] === first ? a : b).kill9();
  // The sidecar probes its server once a second.
  await until(2500, "the other leads", () => isLeader(second));
}, 60_000);

test("in one process the sidecar of a healthy server leads, and another when that server is gone", async () => {
  const [a, b] = await servers();
  const door = await startDoor({ replicas: [a, b], apiKey: a.apiKey, args: lease });
  ends.push(() => door.stop());
  await until(10_000, "somebody leads", () => leaderSaid(door) !== undefined);
  const first = leaderSaid(door);
  await (first === "a" ? a : b).kill9();
  await until(3000, "the other leads", () => leaderSaid(door) === (first === "a" ? "b" : "a"));
  const text = await (await fetch(`${door.admin}/metrics`)).text();
  expect(text).toMatch(/^jellybloom_leader 1$/m);
}, 60_000);
