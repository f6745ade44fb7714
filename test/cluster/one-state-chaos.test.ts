/** A short chaos of the kind that `npm run chaos` makes for ten minutes: nothing acknowledged is lost, and all agree. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { runChaos, seededRandom } from "../chaos/chaos.ts";
import { type ChaosWorld, startChaosWorld } from "../chaos/world.ts";

let world: ChaosWorld;
beforeAll(async () => {
  world = await startChaosWorld({ servers: 3, doors: 2, users: 3, films: 8, keepsLedgers: false });
});
afterAll(async () => await world.stop());

test("no acknowledged change is lost and all servers agree while any of them, sidecars and doors are killed", async () => {
  const told: string[] = [];
  const result = await runChaos(world, {
    durationMs: 10_000,
    rate: 30,
    chaosEveryMs: 1500,
    random: seededRandom(5),
    say: (sentence) => told.push(sentence),
  });
  expect(result.lost, told.join("\n")).toEqual([]);
  expect(result.miscounted, told.join("\n")).toEqual([]);
  expect(result.differing, told.join("\n")).toEqual([]);
  expect(result.acknowledged).toBeGreaterThan(50);
  expect(result.addings).toBeGreaterThan(0);
  expect(result.kills).toBeGreaterThan(2);
});
