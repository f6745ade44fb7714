/**
 * A history of what people do, while the servers, sidecars and doors they do it at are killed and frozen; afterwards it
 * is judged. `npm run chaos` makes a long one, the suite a short one.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Part } from "../support/door.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { changeOf, saysOf } from "./changes.ts";
import { type Adding, type Loss, losses, miscounts, type Write } from "./checker.ts";
import type { ChaosWorld, Device } from "./world.ts";

export interface ChaosPlan {
  readonly durationMs: number;
  /** Operations a second of all devices together. */
  readonly rate: number;
  /** Between two deeds of chaos, in ms; 0: there is none. */
  readonly chaosEveryMs: number;
  readonly random: () => number;
  readonly say: (sentence: string) => void;
}

export interface ChaosResult {
  readonly operations: number;
  readonly acknowledged: number;
  /** Of the operations: additions to playlists. */
  readonly addings: number;
  readonly kills: number;
  readonly lost: readonly Loss[];
  /** Films that a playlist holds less or more often than they were added. */
  readonly miscounted: readonly Loss[];
  /** After the last deed was undone and all was healthy again: until all servers were equal, in ms. */
  readonly equalAfterMs: number;
  /** Where they differed for too long. */
  readonly differing: readonly string[];
  readonly seenEffects: readonly string[];
  readonly memoryMiB: number;
}

/** A client gives up after this. */
const patienceMs = 20_000;

export async function runChaos(world: ChaosWorld, plan: ChaosPlan): Promise<ChaosResult> {
  const history: History = { writes: [], addings: [] };
  const [before] = await world.states();
  const deeds = new Deeds(world, plan);
  const ended = new AbortController();
  const endsAtMs = performance.now() + plan.durationMs;
  let turn = 0;
  let operations = 0;
  const working = world.devices.map(async (device, index) => {
    const pauseMs = (world.devices.length / plan.rate) * 1000;
    await sleep(pauseMs * plan.random());
    while (performance.now() < endsAtMs) {
      const beganMs = performance.now();
      operations++;
      await oneChange(world, device, index, turn++, plan, history);
      await sleep(Math.max(0, pauseMs - (performance.now() - beganMs)));
    }
  });
  const chaos = plan.chaosEveryMs > 0 ? deeds.run(ended.signal) : Promise.resolve();
  await Promise.all(working);
  ended.abort();
  await chaos;
  await deeds.heal();

  const healedAtMs = performance.now();
  let differing: readonly string[] = [];
  let late: readonly string[] = [];
  let equalAfterMs = Number.POSITIVE_INFINITY;
  let states = await world.states();
  for (;;) {
    differing = differences(states);
    if (differing.length === 0) {
      equalAfterMs = performance.now() - healedAtMs;
      break;
    }
    if (performance.now() - healedAtMs > 4500 && late.length === 0) late = differing;
    if (performance.now() - healedAtMs > 60_000) break;
    await sleep(100);
    states = await world.states();
  }
  const [one] = states;
  const foundIn = (state: ReadonlyMap<string, string> | undefined, register: string): unknown => {
    const [userId, key, field = ""] = register.split("/");
    return saysOf(state?.get(`${userId}/${key}`) ?? "{}", field);
  };
  const found = (register: string): unknown => foundIn(one, register);
  const { writes, addings } = history;
  const held = (register: string): unknown => foundIn(before, register);
  const lost = losses(writes, found, held);
  const miscounted = miscounts(addings, found, held);
  const { seen } = await world.journal();
  return {
    operations,
    acknowledged: [...writes, ...addings].filter(({ isAcknowledged }) => isAcknowledged).length,
    addings: addings.length,
    kills: deeds.kills,
    lost,
    miscounted,
    equalAfterMs,
    differing: differing.length > 0 ? differing : late,
    seenEffects: seen,
    memoryMiB: Math.max(deeds.memoryMiB, world.sidecarMemoryMiB()),
  };
}

export function differences(states: readonly ReadonlyMap<string, string>[]): string[] {
  const [first, ...others] = states;
  const differing: string[] = [];
  for (const [key, text] of first ?? []) {
    const all = [text, ...others.map((other) => other.get(key))];
    if (new Set(all).size > 1) differing.push(`${key}: ${all.join(" | ")}`);
  }
  return differing;
}

interface History {
  readonly writes: Write[];
  readonly addings: Adding[];
}

/** One change by one device, which now and then comes by another door. */
async function oneChange(
  world: ChaosWorld,
  device: Device,
  index: number,
  turn: number,
  { random }: ChaosPlan,
  { writes, addings }: History,
): Promise<void> {
  const { doors } = world;
  const door = doors[(index + (random() < 0.1 ? 1 : 0)) % doors.length];
  const at = door === undefined ? device.viewer : device.viewer.at(door.url);
  const { key, field, value, method, path, body } = changeOf(world, device, turn, random);
  const write: Write = {
    register: `${device.userId}/${key}/${field}`,
    value,
    startedMs: performance.now(),
    endedMs: Number.POSITIVE_INFINITY,
    isAcknowledged: false,
  };
  (value === undefined ? addings : writes).push(write);
  try {
    const reply = await fetch(at.url + path, {
      method,
      headers: {
        authorization: at.authorization,
        ...(body !== undefined && { "content-type": "application/json" }),
      },
      body: body === undefined ? null : JSON.stringify(body),
      signal: AbortSignal.timeout(patienceMs),
    });
    await reply.arrayBuffer();
    write.isAcknowledged = reply.status < 300;
  } catch {
    // The door died: nobody was told that it is done.
  }
  write.endedMs = performance.now();
}

/** What is done to the parts, one after another: never to two servers at once, since somebody must be there. */
class Deeds {
  readonly #world: ChaosWorld;
  readonly #plan: ChaosPlan;
  kills = 0;
  /** The most that any sidecar had which was killed. */
  memoryMiB = 0;

  constructor(world: ChaosWorld, plan: ChaosPlan) {
    this.#world = world;
    this.#plan = plan;
  }

  async run(signal: AbortSignal): Promise<void> {
    const { chaosEveryMs, random, say } = this.#plan;
    while (!signal.aborted) {
      const beganMs = performance.now();
      const chance = random();
      try {
        if (chance < 0.35) await this.#killServer();
        else if (chance < 0.5) await this.#freezeServer();
        else if (chance < 0.75) await this.#killSidecar();
        else if (chance < 0.85) await this.#killAllSidecars();
        else await this.#killDoor();
      } catch (error) {
        say(`a deed failed: ${String(error)}`);
      }
      const leftMs = chaosEveryMs - (performance.now() - beganMs);
      await sleep(Math.max(0, leftMs), undefined, { signal }).catch(() => undefined);
    }
  }

  /** Everything runs, and says that it is ready. */
  async heal(): Promise<void> {
    const { servers, sidecars, doors } = this.#world;
    for (const server of servers) await server.ready();
    for (const sidecar of sidecars) await sidecar.ready();
    for (const door of doors) await door.ready();
  }

  #one<Thing>(things: readonly Thing[]): Thing {
    const thing = things[Math.floor(this.#plan.random() * things.length)];
    if (thing === undefined) throw new Error("nothing to choose from");
    return thing;
  }

  async #killServer(): Promise<void> {
    const server = this.#one<StandIn>(this.#world.servers);
    this.#plan.say(`server ${server.name} is killed`);
    this.kills++;
    await server.kill9();
    await sleep(this.#plan.random() * 2500);
    await server.launch();
    await server.ready();
  }

  async #freezeServer(): Promise<void> {
    const server = this.#one<StandIn>(this.#world.servers);
    this.#plan.say(`server ${server.name} is frozen`);
    this.kills++;
    server.freeze();
    await sleep(500 + this.#plan.random() * 5000);
    server.thaw();
    await server.ready();
  }

  async #killSidecar(): Promise<void> {
    const index = Math.floor(this.#plan.random() * this.#world.sidecars.length);
    this.#plan.say(`the sidecar of ${this.#world.servers[index]?.name} is killed`);
    this.kills++;
    this.#noteMemory();
    await restart(this.#one([this.#world.sidecars[index]]), this.#plan.random() * 1500);
  }

  async #killAllSidecars(): Promise<void> {
    this.#plan.say("all sidecars are killed");
    this.#noteMemory();
    this.kills += this.#world.sidecars.length;
    const waitMs = this.#plan.random() * 1500;
    await Promise.all(this.#world.sidecars.map((sidecar) => restart(sidecar, waitMs)));
  }

  #noteMemory(): void {
    this.memoryMiB = Math.max(this.memoryMiB, this.#world.sidecarMemoryMiB());
  }

  async #killDoor(): Promise<void> {
    this.#plan.say("a door is killed");
    this.kills++;
    await restart(this.#one<Part>(this.#world.doors), this.#plan.random() * 500);
  }
}

async function restart(part: Part | undefined, afterMs: number): Promise<void> {
  if (part === undefined) return;
  await part.kill9();
  await sleep(afterMs);
  part.begin();
  await part.serves(`${part.admin}/jellybloom/live`);
}

/** Random numbers that a seed makes again (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
