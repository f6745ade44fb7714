/**
 * What chaos is made in: stand-in servers, a sidecar beside each, doors, a Redis; people with two devices each. It can
 * kill, freeze and start again any of them, and reads what every server has of every person and item.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readEntry } from "../../core/cluster/journal.ts";
import { createSeal } from "../../core/service/seal.ts";
import { openRedisStore } from "../../core/store/redis.ts";
import {
  CLUSTER_KEY,
  type DoorProcess,
  type Part,
  startDoor,
  startSidecar,
} from "../support/door.ts";
import { type StandIn, startStandIn } from "../support/jellyfin/start.ts";
import { makeLibrary } from "../support/journal-library.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { Viewer } from "../support/viewer.ts";
import { preferencesPath } from "./changes.ts";

export interface ChaosOptions {
  readonly servers: number;
  readonly doors: number;
  readonly users: number;
  readonly films: number;
  /** Whether sidecars keep a ledger on disk; else they are restarted with nothing but the store. */
  readonly keepsLedgers: boolean;
}

export interface Device {
  readonly user: string;
  readonly userId: string;
  readonly name: string;
  /** The device's login; where it connects changes. */
  readonly viewer: Viewer;
}

/** What one server says of one person and item, in a form that can be compared. */
export type StateText = string;

const stateNames = [
  "PlaybackPositionTicks",
  "PlayCount",
  "IsFavorite",
  "Likes",
  "Played",
  "LastPlayedDate",
] as const;

export interface ChaosWorld {
  readonly servers: readonly StandIn[];
  readonly sidecars: readonly Part[];
  readonly doors: readonly DoorProcess[];
  readonly redis: RedisServer;
  readonly devices: readonly Device[];
  readonly films: readonly string[];
  /** A playlist of each person, by user id. */
  readonly playlists: ReadonlyMap<string, string>;
  /** By `<user id>/<item id>`, and by `<user id>/<document>`; one map for each server. */
  states(): Promise<readonly ReadonlyMap<string, StateText>[]>;
  /** Effects in the journal that no intent asked for, and entries of each type. */
  journal(): Promise<{ readonly seen: readonly string[]; readonly entries: number }>;
  /** The most resident memory that a sidecar which runs now has had, in MiB. */
  sidecarMemoryMiB(): number;
  stop(): Promise<void>;
}

export async function startChaosWorld(options: ChaosOptions): Promise<ChaosWorld> {
  const media = mkdtempSync(join(tmpdir(), "chaos-media-"));
  const data = mkdtempSync(join(tmpdir(), "chaos-data-"));
  makeLibrary(media, { films: options.films, episodes: 6 });
  const parts: { stop(): Promise<void> }[] = [];
  const stop = async (): Promise<void> => {
    for (const part of parts.reverse()) await part.stop();
    rmSync(media, { recursive: true, force: true });
    rmSync(data, { recursive: true, force: true });
  };
  const starts = async <Started extends { stop(): Promise<void> }>(
    part: Promise<Started>,
  ): Promise<Started> => {
    const started = await part;
    parts.push(started);
    return started;
  };
  try {
    const first = await starts(startStandIn({ name: "a", mediaDir: media }));
    const names = await makeUsers(first, options.users);
    const servers = [first];
    for (let index = 1; index < options.servers; index++) {
      const name = String.fromCharCode("a".charCodeAt(0) + index);
      servers.push(await starts(startStandIn({ name, mediaDir: media, cloneOf: first })));
    }
    const redis = await starts(startRedis());
    const sidecars: Part[] = [];
    for (const replica of servers) {
      const args = options.keepsLedgers ? ["--task-data", join(data, replica.name)] : [];
      sidecars.push(await starts(startSidecar({ replica, redis: redis.url, args })));
    }
    const doors: DoorProcess[] = [];
    for (let index = 0; index < options.doors; index++) {
      const door = startDoor({ replicas: servers, command: "proxy", redis: redis.url });
      doors.push(await starts(door));
    }
    const devices: Device[] = [];
    for (const user of names) {
      for (let index = 0; index < 2; index++) {
        const door = doors[index % doors.length] ?? doors[0];
        if (door === undefined) throw new Error("no door");
        const viewer = await Viewer.enter(door.url, { name: user, deviceId: `${user}-${index}` });
        devices.push({ user, userId: viewer.userId, name: `${user}-${index}`, viewer });
      }
    }
    for (const { viewer } of devices) await viewer.knownAt(servers, 40_000);
    const [anybody] = devices;
    const listed = await anybody?.viewer.call(
      "GET",
      `/Items?recursive=true&includeItemTypes=Movie&userId=${anybody.userId}`,
    );
    if (listed === undefined) throw new Error("there is nobody");
    const films = (listed.json().Items as { Id: string }[]).map(({ Id }) => Id);
    const users = [...new Set(devices.map(({ userId }) => userId))];
    const playlists = new Map<string, string>();
    for (const { userId, user, viewer } of devices) {
      if (playlists.has(userId)) continue;
      const body = { Name: `${user}'s`, UserId: userId, MediaType: "Video" };
      const made = await viewer.call("POST", "/Playlists", { body });
      if (made.status !== 200) throw new Error(`making a playlist answered ${made.status}`);
      playlists.set(userId, (made.json() as { Id: string }).Id);
    }
    return {
      ...{ servers, sidecars, doors, redis, devices, films, playlists, stop },
      states: () => Promise.all(servers.map((server) => statesOf(server, users, playlists))),
      journal: () => readJournal(redis.url),
      sidecarMemoryMiB: () => Math.max(...sidecars.map(({ pid }) => residentMiB(pid))),
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function makeUsers(server: StandIn, count: number): Promise<string[]> {
  const names: string[] = [];
  for (let index = 0; index < count; index++) {
    const name = `person${index}`;
    const reply = await fetch(`${server.url}/Users/New`, {
      method: "POST",
      headers: {
        authorization: `MediaBrowser Token="${server.apiKey}"`,
        "content-type": "application/json",
      },
      body: JSON.stringify({ Name: name, Password: name }),
    });
    if (!reply.ok) throw new Error(`making a user answered ${reply.status}`);
    names.push(name);
  }
  return names;
}

export async function statesOf(
  server: StandIn,
  users: readonly string[],
  playlists: ReadonlyMap<string, string> = new Map(),
): Promise<ReadonlyMap<string, StateText>> {
  const states = new Map<string, StateText>();
  const read = async (path: string): Promise<Record<string, unknown>> => {
    const headers = { authorization: `MediaBrowser Token="${server.apiKey}"` };
    const reply = await fetch(server.url + path, { headers });
    // What is not there yet is equal to nothing.
    return reply.ok ? ((await reply.json()) as Record<string, unknown>) : {};
  };
  for (const [userId, list] of playlists) {
    const { Items = [] } = await read(`/Playlists/${list}/Items?userId=${userId}`);
    const entries = (Items as { Id: string }[]).map(({ Id }) => Id);
    states.set(`${userId}/playlist`, JSON.stringify(entries));
    const preferences = await read(`${preferencesPath}&userId=${userId}`);
    states.set(`${userId}/display-preferences`, JSON.stringify(preferences));
    const { Configuration } = await read(`/Users/${userId}`);
    states.set(`${userId}/configuration`, JSON.stringify(Configuration));
  }
  for (const userId of users) {
    const reply = await fetch(
      `${server.url}/Items?recursive=true&enableUserData=true&includeItemTypes=Movie,Episode&userId=${userId}`,
      { headers: { authorization: `MediaBrowser Token="${server.apiKey}"` } },
    );
    const { Items } = (await reply.json()) as {
      Items: { Id: string; UserData: Record<string, unknown> }[];
    };
    for (const { Id, UserData } of Items) {
      states.set(`${userId}/${Id}`, stateText(UserData));
    }
  }
  return states;
}

export function stateText(data: Record<string, unknown>): StateText {
  return JSON.stringify(Object.fromEntries(stateNames.map((name) => [name, data[name] ?? null])));
}

async function readJournal(url: string): Promise<{ seen: string[]; entries: number }> {
  const seal = createSeal(CLUSTER_KEY);
  const limits = { changesKept: 1000, revokedKeepMs: 60_000, callLimitMs: 5000 };
  const store = await openRedisStore({ url, limits, lockUrls: [] });
  try {
    const ends = await store.journalEnds();
    let cursor = { generation: ends.generation, number: ends.first - 1 };
    const seen: string[] = [];
    const laneOf = new Map<string, string>();
    const told = new Map<string, string[]>();
    let entries = 0;
    for (;;) {
      const page = await store.readJournal(cursor, 500);
      if (page.outcome === "lost") throw new Error("the journal was lost");
      if (page.entries.length === 0) return { seen, entries };
      for (const entry of page.entries) {
        entries++;
        const read = readEntry(entry, seal);
        if (read.outcome === "refused") continue;
        const said = read.placed.entry;
        if (said.type !== "effect" && "itemId" in said)
          laneOf.set(said.id, said.userId + said.itemId);
        const lane = said.type === "outcome" ? laneOf.get(said.of) : said.userId + said.itemId;
        const before = told.get(lane ?? "") ?? [];
        const short =
          said.type === "intent"
            ? { facts: said.facts }
            : said.type === "outcome"
              ? { status: said.status, replica: said.replica }
              : { payload: said.payload, replica: said.replica, of: said.ofNumber };
        before.push(
          JSON.stringify({ number: entry.number, atMs: entry.atMs, type: said.type, ...short }),
        );
        told.set(lane ?? "", before.slice(-8));
        if (said.type === "effect" && said.kind === "userData" && said.of === "") {
          seen.push(before.slice(-8).join("\n    "));
        }
      }
      cursor = page.cursor;
    }
  } finally {
    await store.close();
  }
}

/** The most that a process has had of resident memory since it began. */
export function residentMiB(pid: number): number {
  const line = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Number(line?.[1] ?? 0) / 1024;
}
