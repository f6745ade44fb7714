/** What one state costs in time and memory when nothing is killed: measured, not judged. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Effect, entryValue } from "../../core/cluster/journal.ts";
import { createSeal } from "../../core/service/seal.ts";
import { openRedisStore } from "../../core/store/redis.ts";
import { CLUSTER_KEY } from "../support/door.ts";
import { differences } from "./chaos.ts";
import { percentile } from "./checker.ts";
import { type ChaosWorld, startChaosWorld } from "./world.ts";

/** How long a change takes to be on every server, from its acknowledgement, at `rate` changes a second. */
export async function measureSpread(
  { devices, servers, films }: ChaosWorld,
  rate: number,
  durationMs: number,
): Promise<{ readonly p99Ms: number; readonly medianMs: number; readonly changes: number }> {
  const tookMs: number[] = [];
  const measuring: Promise<void>[] = [];
  const endsAtMs = performance.now() + durationMs;
  let turn = 0;
  while (performance.now() < endsAtMs) {
    const begunMs = performance.now();
    const device = devices[turn % devices.length];
    const film = films[Math.floor(turn / devices.length) % Math.floor(films.length / 2)] ?? "";
    turn++;
    if (device === undefined) break;
    const { viewer, userId } = device;
    const ticks = 700_000_000 + turn * 1000;
    measuring.push(
      (async () => {
        const { status } = await viewer.call("POST", `/UserItems/${film}/UserData`, {
          body: { PlaybackPositionTicks: ticks },
        });
        if (status >= 300) throw new Error(`a change answered ${status}`);
        const doneMs = performance.now();
        // Every eighth is looked at, so that looking is not what is measured.
        if (turn % 8 !== 0) return;
        await Promise.all(
          servers.map(async (server) => {
            while (performance.now() - doneMs < 10_000) {
              const reply = await fetch(
                `${server.url}/UserItems/${film}/UserData?userId=${userId}`,
                { headers: { authorization: `MediaBrowser Token="${server.apiKey}"` } },
              );
              const data = (await reply.json()) as { PlaybackPositionTicks: number };
              // Another change of the same may have overtaken it.
              if (data.PlaybackPositionTicks >= ticks) return;
              await sleep(15);
            }
          }),
        );
        tookMs.push(performance.now() - doneMs);
      })(),
    );
    await sleep(Math.max(0, 1000 / rate - (performance.now() - begunMs)));
  }
  await Promise.all(measuring);
  return { p99Ms: percentile(tookMs, 99), medianMs: percentile(tookMs, 50), changes: turn };
}

/** Two devices of one person change two fields of one film at the same time, over and over, each by a door of its own. */
export async function measureFields(
  world: ChaosWorld,
  times: number,
): Promise<{ readonly kept: boolean; readonly differing: number }> {
  const [one, other] = world.devices;
  const film = world.films.at(-1) ?? "";
  if (one === undefined || other === undefined) throw new Error("two devices are needed");
  let favourite = false;
  let ticks = 0;
  const call = async (device: typeof one, method: string, path: string, body?: unknown) => {
    const { status } = await device.viewer.call(method, path, { body });
    if (status >= 300) throw new Error(`${path} answered ${status}`);
  };
  await Promise.all([
    (async () => {
      for (let time = 0; time < times; time++) {
        favourite = time % 2 === 0;
        await call(one, favourite ? "POST" : "DELETE", `/UserFavoriteItems/${film}`);
      }
    })(),
    (async () => {
      for (let time = 0; time < times; time++) {
        ticks = 700_000_000 + time;
        await call(other, "POST", `/UserItems/${film}/UserData`, { PlaybackPositionTicks: ticks });
      }
    })(),
  ]);
  await sleep(4000);
  const states = await world.states();
  const kept = states.every((state) => {
    const said = JSON.parse(state.get(`${one.userId}/${film}`) ?? "{}") as Record<string, unknown>;
    return said.IsFavorite === favourite && said.PlaybackPositionTicks === ticks;
  });
  return { kept, differing: differences(states).length };
}

/** A sidecar that was away finds this many effects in the journal. */
export async function measureCatchUp(
  count: number,
): Promise<{ readonly tookMs: number; readonly memoryMiB: number; readonly applied: number }> {
  const films = Math.ceil(count / 8);
  const world = await startChaosWorld({
    servers: 2,
    doors: 1,
    users: 8,
    films,
    keepsLedgers: true,
  });
  try {
    const [, late] = world.sidecars;
    const [, server] = world.servers;
    if (late === undefined || server === undefined) throw new Error("two servers are needed");
    await late.kill9();
    const seal = createSeal(CLUSTER_KEY);
    const limits = { changesKept: 1000, revokedKeepMs: 60_000, callLimitMs: 5000 };
    const store = await openRedisStore({ url: world.redis.url, limits, lockUrls: [] });
    const users = [...new Set(world.devices.map(({ userId }) => userId))];
    const effects: Effect[] = [];
    for (let index = 0; index < count; index++) {
      effects.push({
        type: "effect",
        id: `effect-${index}`,
        of: "",
        ofNumber: 0,
        kind: "userData",
        replica: "a",
        userId: users[index % users.length] ?? "",
        itemId: world.films[Math.floor(index / users.length)] ?? "",
        payload: { cause: "seen", values: { position: 700_000_000 + index, favourite: true } },
      });
    }
    for (let begin = 0; begin < count; begin += 500) {
      const page = effects.slice(begin, begin + 500);
      await store.appendJournal(page.map((effect) => entryValue(effect, seal)));
    }
    await store.close();
    const beganMs = performance.now();
    late.begin();
    let memoryMiB = 0;
    let applied = 0;
    while (performance.now() - beganMs < 180_000) {
      await sleep(500);
      memoryMiB = Math.max(memoryMiB, world.sidecarMemoryMiB());
      const page = await fetch(`${late.admin}/metrics`).then(
        (reply) => reply.text(),
        () => "",
      );
      applied = Number(
        /jellybloom_journal_entries_total\{result="applied"\} (\d+)/.exec(page)?.[1] ?? 0,
      );
      if (applied >= count) break;
    }
    return { tookMs: performance.now() - beganMs, memoryMiB, applied };
  } finally {
    await world.stop();
  }
}
