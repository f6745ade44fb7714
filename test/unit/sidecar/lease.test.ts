// The leader: never two under one number, whoever crashes, freezes or is not answered, and whatever the store
// forgets. First the decisions, then a simulated cluster with a thousand changes of leader, then one with a
// fault at each single moment.

import { describe, expect, test } from "vitest";
import {
  isInTerm,
  leaseMarginMs,
  nextAskAtMs,
  nextLeaseStep,
  supersedes,
  termOf,
} from "../../../core/cluster/lease.ts";
import { leaseLimitMs, noFaults, type Process, World } from "./lease-world.ts";

const epoch = { number: 5, owner: "me" };
const asked = { nowMs: 1000, wallMs: 50_000 };

describe("a term", () => {
  const term = termOf(epoch, asked, 10_000);

  test("is counted from before the call, and ends a margin before the lease", () => {
    expect(leaseMarginMs(10_000)).toBe(1000);
    expect(term.untilMs).toBe(10_000);
    expect(isInTerm(term, { nowMs: 9999, wallMs: 50_000 })).toBe(true);
    expect(isInTerm(term, { nowMs: 10_000, wallMs: 50_000 })).toBe(false);
    expect(isInTerm(undefined, asked)).toBe(false);
  });

  test("ends on the wall's clock, too: a machine that was suspended has a monotonic clock that stood still", () => {
    expect(isInTerm(term, { nowMs: 1001, wallMs: 59_000 })).toBe(false);
  });

  test("goes on when the wall's clock is set back, as long as the monotonic one says", () => {
    expect(isInTerm(term, { nowMs: 9000, wallMs: 0 })).toBe(true);
    expect(isInTerm(term, { nowMs: 10_001, wallMs: 0 })).toBe(false);
  });
});

describe("another epoch", () => {
  test.each([
    [{ number: 6, owner: "other" }, true],
    [{ number: 5, owner: "other" }, true],
    [{ number: 5, owner: "me" }, false],
    [{ number: 4, owner: "other" }, false],
  ])("%o ends mine: %s", (other, expected) => {
    expect(supersedes(other, epoch)).toBe(expected);
  });
});

describe("a keeper", () => {
  test.each([
    [{ nowMs: 0, unfit: undefined, mayHold: false, askAtMs: 0 }, { step: "hold" }],
    [
      { nowMs: 0, unfit: undefined, mayHold: true, askAtMs: 300 },
      { step: "wait", forMs: 300 },
    ],
    [
      { nowMs: 0, unfit: undefined, mayHold: true, askAtMs: 9e9 },
      { step: "wait", forMs: 1000 },
    ],
    [
      { nowMs: 0, unfit: "ill", mayHold: true, askAtMs: 0 },
      { step: "release", reason: "ill" },
    ],
    [
      { nowMs: 0, unfit: "ill", mayHold: false, askAtMs: 0 },
      { step: "wait", forMs: 1000 },
    ],
  ])("of %o does %o", (standing, step) => {
    expect(nextLeaseStep(standing)).toEqual(step);
  });

  test("asks again so that two renewals may fail, or when somebody else's time is over", () => {
    const lease = { epoch, replica: "a", gateUrl: "" };
    const held = { held: true, lease } as const;
    const taken = (retryAfterMs: number) => ({ held: false, lease, retryAfterMs }) as const;
    expect(nextAskAtMs(held, 1000, 1005, 9000)).toBe(4000);
    // The answer took longer than a third: it is time already.
    expect(nextAskAtMs(held, 1000, 5000, 9000)).toBe(5000);
    expect(nextAskAtMs(undefined, 1000, 2000, 12_000)).toBe(3000);
    expect(nextAskAtMs(taken(700), 1000, 1005, 9000)).toBe(1706);
    expect(nextAskAtMs(taken(0), 1000, 1000, 9000)).toBe(1180);
    expect(nextAskAtMs(taken(9e15), 1000, 1000, 9000)).toBe(10_000);
  });
});

/** Whoever leads now, or undefined. */
function leader(world: World): Process | undefined {
  return world.processes.find(
    (process) => !process.crashed && process.keeper.mayAct() !== undefined,
  );
}

/** One process at least can be asked that knows the highest number there was. */
function isRemembered(world: World): boolean {
  const highest = Math.max(0, ...world.terms.map(({ number }) => number));
  return world.processes.some(
    ({ frozen, crashed, keeper }) =>
      !frozen && !crashed && (keeper.highestSeen?.number ?? 0) >= highest,
  );
}

/** Something bad happens, chosen by the world's seed. */
async function harm(world: World): Promise<void> {
  const victim = world.random() < 0.7 ? leader(world) : undefined;
  const process = victim ?? world.processes[world.between(0, world.processes.length - 1)];
  if (process === undefined) return;
  const kind = world.random();
  if (kind < 0.3) {
    world.crash(process);
    await world.run(world.between(0, 2 * leaseLimitMs));
    world.start(process.name);
  } else if (kind < 0.6) {
    world.freeze(process, world.between(100, 3 * leaseLimitMs));
  } else if (kind < 0.7) {
    process.unfit = "its server is not healthy";
    await world.run(world.between(0, leaseLimitMs));
    process.unfit = undefined;
  } else if (kind < 0.8) {
    process.stop.abort();
    await world.run(world.between(0, leaseLimitMs));
    world.crash(process);
    world.start(process.name);
  } else if (kind < 0.9) {
    // What nobody remembers who can be asked cannot be exceeded: that is why an epoch has an owner, too.
    if (isRemembered(world)) await world.loseData(world.between(0, 5));
  } else {
    world.faults = { lostRequest: 0.5, lostReply: 0.25, lateRequest: 0.2 };
    await world.run(world.between(0, 2 * leaseLimitMs));
  }
  world.faults = { lostRequest: 0.05, lostReply: 0.05, lateRequest: 0.05 };
}

describe("a simulated cluster", () => {
  test("changes its leader a thousand times, and never two act under one number", async () => {
    let changes = 0;
    let acts = 0;
    for (let seed = 1; changes < 1000; seed += 1) {
      const world = new World(seed);
      for (const name of ["a", "b", "c"]) world.start(name);
      for (let round = 0; round < 40; round += 1) {
        await world.run(world.between(100, 2 * leaseLimitMs));
        await harm(world);
      }
      expect({ seed, problems: world.problems }).toEqual({ seed, problems: [] });
      changes += new Set(world.terms.map(({ number, owner }) => `${number} ${owner}`)).size;
      acts += world.acts.length;
    }
    expect(acts).toBeGreaterThan(changes);
  }, 60_000);

  const faults = ["crash", "freeze", "lose everything", "lose the last write", "lost replies"];
  test.each(faults)(
    "has one leader when at any one moment there is: %s",
    async (fault) => {
      for (let moment = 1; moment <= 60; moment += 1) {
        const world = new World(moment);
        for (const name of ["a", "b", "c"]) world.start(name);
        // Half of the moments lie in the first leadership, half in the change to the second.
        if (moment % 2 === 0) {
          await world.run(3000);
          const first = leader(world);
          if (first !== undefined) world.crash(first);
        }
        world.events = 0;
        world.onEvent = () => {
          if (world.events !== Math.ceil(moment / 2)) return;
          const victim = leader(world) ?? world.processes.find(({ crashed }) => !crashed);
          if (victim === undefined) return;
          if (fault === "crash") world.crash(victim);
          if (fault === "freeze") world.freeze(victim, 2 * leaseLimitMs);
          if (fault === "lose everything") void world.loseData(Number.POSITIVE_INFINITY);
          if (fault === "lose the last write") void world.loseData(1);
          if (fault === "lost replies") world.faults = { ...noFaults, lostReply: 1 };
        };
        await world.run(4 * leaseLimitMs);
        expect(world.events).toBeGreaterThan(moment);
        world.onEvent = undefined;
        world.faults = noFaults;
        await world.run(2 * leaseLimitMs);
        expect({ moment, problems: world.problems }).toEqual({ moment, problems: [] });
        expect(leader(world), `nobody leads after ${fault} at ${moment}`).toBeDefined();
      }
    },
    30_000,
  );

  test("has the next leader within the lease and a second, however the first one ends", async () => {
    for (let seed = 1; seed <= 30; seed += 1) {
      const world = new World(seed);
      for (const name of ["a", "b", "c"]) world.start(name);
      await world.run(world.between(2000, 40_000));
      const first = leader(world);
      expect(first).toBeDefined();
      if (first === undefined) continue;
      if (seed % 2 === 0) world.crash(first);
      else world.freeze(first, 10 * leaseLimitMs);
      const before = world.acts.length;
      await world.run(leaseLimitMs + 1000);
      const acted = world.acts.slice(before).filter(({ owner }) => owner !== first.owner);
      expect(acted.length, `seed ${seed}`).toBeGreaterThan(0);
    }
  }, 30_000);

  test("has the next leader at once when the first gives the lease back", async () => {
    const world = new World(7);
    for (const name of ["a", "b", "c"]) world.start(name);
    await world.run(3000);
    const first = leader(world);
    if (first === undefined) throw new Error("nobody led");
    first.unfit = "it drains";
    first.keeper.look();
    await world.run(1000);
    expect(first.keeper.mayAct()).toBeUndefined();
    expect(leader(world)).toBeDefined();
  });

  test("has no leader while nobody is fit, and no leader that is not", async () => {
    const world = new World(3);
    const processes = ["a", "b", "c"].map((name) => world.start(name));
    for (const process of processes) process.unfit = "its server is not healthy";
    await world.run(30_000);
    expect(world.acts).toEqual([]);
    const [, second] = processes;
    if (second === undefined) throw new Error("there are three");
    second.unfit = undefined;
    await world.run(3000);
    expect(leader(world)).toBe(second);
  });

  test("of one replica has its leader at once", async () => {
    const world = new World(1);
    world.start("a");
    await world.run(500);
    expect(world.terms).toEqual([{ owner: "a-1", number: 1 }]);
  });

  test("whose leader meets an epoch as high as its own, or higher, has none until a higher one begins", async () => {
    const world = new World(5);
    for (const name of ["a", "b", "c"]) world.start(name);
    await world.run(3000);
    const first = leader(world);
    const number = first?.keeper.mayAct()?.epoch.number ?? 0;
    first?.keeper.noteEpoch({ number: number - 1, owner: "old" });
    first?.keeper.noteEpoch({ number: Number.NaN, owner: "forged" });
    first?.keeper.noteEpoch({ number: 1e300, owner: "forged" });
    expect(first?.keeper.mayAct()).toBeDefined();
    first?.keeper.noteEpoch({ number, owner: "twin" });
    expect(first?.keeper.mayAct()).toBeUndefined();
    await world.run(1000);
    expect(leader(world)?.keeper.mayAct()?.epoch.number).toBeGreaterThan(number);
  });
});
