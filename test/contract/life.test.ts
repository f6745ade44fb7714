/**
 * What we believe about the beginning and the end of a server, and what the stand-in's switches do. These tests send
 * signals or stage faults, so they run against stand-ins only and are skipped, by name, against real servers.
 */
import { once } from "node:events";
import { request } from "node:http";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, describe, expect, test } from "vitest";
import { type StandIn, startStandIn } from "../support/jellyfin/start.ts";
import { BIG_BYTES, makeMedia } from "../support/media.ts";
import { eventually, isReal, Server } from "./servers.ts";

const NOISE = "Noise";
const running: StandIn[] = [];
afterAll(() => Promise.all(running.map((one) => one.stop())));

async function start(options: { startupMs?: number; restartMs?: number } = {}): Promise<Server> {
  const media = await makeMedia({ big: true });
  const standIn = await startStandIn({ name: "life", mediaDir: media.folder, ...options });
  running.push(standIn);
  return new Server(standIn.url, standIn.apiKey, standIn);
}

function machine(server: Server): StandIn {
  if (server.standIn === undefined) throw new Error("this needs a stand-in");
  return server.standIn;
}

type Sight = { path: string; status: number; text: string; retryAfter: string | null };

/** Looks at health and one other path until health says Healthy; every different sight once, in order. */
async function watchStart(server: Server): Promise<string[]> {
  const seen: string[] = [];
  const look = async (path: string): Promise<Sight> => {
    try {
      const reply = await server.get(path);
      return {
        path,
        status: reply.status,
        text: reply.text,
        retryAfter: reply.headers.get("retry-after"),
      };
    } catch {
      return { path, status: 0, text: "refused", retryAfter: null };
    }
  };
  await eventually(async () => {
    const health = await look("/health");
    const ping = await look("/System/Ping");
    const sight = `${health.status} ${health.text.slice(0, 8)} / ${ping.status} ${ping.retryAfter ?? "-"}`;
    if (seen.at(-1) !== sight) seen.push(sight);
    return health.text === "Healthy" ? true : undefined;
  }, 15_000);
  return seen;
}

describe.skipIf(isReal)("a server that starts", () => {
  test("is refused, says Degraded with 200, is refused again, is loading, and then is Healthy", async () => {
    const server = await start({ startupMs: 2500 });
    const seen = await watchStart(server);
    const expected = [
      "200 Degraded / 503 005",
      "0 refused / 0 -",
      "503 Jellyfin / 200 -",
      "200 Healthy / 200 -",
    ];
    // Two looks are not one moment, so mixed sights at the edges are left out.
    expect(seen.filter((sight) => expected.includes(sight)).join(" | ")).toContain(
      expected.join(" | "),
    );
  });

  test("again knows its tokens, but neither sessions nor QuickConnect codes, and wipes its transcodes", async () => {
    const server = await start();
    const login = await server.enter();
    const authorization = `MediaBrowser Client="x", Device="y", DeviceId="z", Version="1"`;
    const { Secret } = (
      await server.call("POST", "/QuickConnect/Initiate", { authorization })
    ).json();
    await machine(server).restart();
    expect((await server.get("/Users/Me", login.token)).status).toBe(200);
    expect(await server.sessionsOf(login.device)).toEqual([]);
    expect((await server.get(`/QuickConnect/Connect?secret=${Secret}`)).status).toBe(404);
  });

  test("by POST /System/Restart from its own network needs no token and keeps its process", async () => {
    const server = await start({ restartMs: 400 });
    const { token } = await server.enter();
    const socket = server.socket(`?ApiKey=${token}`);
    await socket.opened;
    const { pid } = machine(server);
    expect((await server.call("POST", "/System/Restart")).status).toBe(204);
    expect(await socket.closed).toEqual({ code: 1000, reason: "System Shutdown" });
    expect(socket.messages.map((one) => one.MessageType)).toContain("ServerRestarting");
    await eventually(async () =>
      (await server.get("/health").catch(() => undefined))?.text === "Healthy" ? undefined : true,
    );
    await machine(server).ready();
    expect((await server.get("/Users/Me", token)).status).toBe(200);
    expect(machine(server).pid).toBe(pid);
  });
});

/** The 200 MB file: nothing on the way can hold all of it, so its download lasts as long as it is read. */
async function noise(server: Server): Promise<{ path: string; bytes: number }> {
  const { Items } = (await server.admin("GET", `/Items?recursive=true&searchTerm=${NOISE}`)).json();
  return { path: `/Videos/${Items[0].Id}/stream?static=true`, bytes: BIG_BYTES };
}

/** Reads a download slowly until it is told to hurry, so that it is still under way when something happens. */
function slowDownload(server: Server, path: string) {
  const state = { bytes: 0, ended: false, error: undefined as unknown };
  let pauseMs = 30;
  const asked = request(server.url + path);
  const done = new Promise<void>((resolve) => {
    asked.on("response", (response) => {
      response.on("data", (part: Buffer) => {
        state.bytes += part.length;
        if (pauseMs === 0) return;
        response.pause();
        setTimeout(() => response.resume(), pauseMs);
      });
      response.on("end", () => {
        state.ended = response.complete;
      });
      response.on("error", (error) => {
        state.error = error;
      });
      response.on("close", () => resolve());
    });
    asked.on("error", (error) => {
      state.error = error;
      resolve();
    });
  });
  asked.end();
  const hurry = () => {
    pauseMs = 0;
  };
  return { state, done, hurry };
}

describe.skipIf(isReal)("a server that is told to stop", () => {
  test("tells and closes its sockets at once, refuses newcomers, and finishes what it is sending", async () => {
    const server = await start();
    const { path, bytes } = await noise(server);
    const { token } = await server.enter();
    const socket = server.socket(`?ApiKey=${token}`);
    await socket.opened;
    const download = slowDownload(server, path);
    await eventually(() => (download.state.bytes > 0 ? true : undefined));
    const ended = machine(server).terminate();
    const began = Date.now();
    expect(await socket.closed).toEqual({ code: 1000, reason: "System Shutdown" });
    expect(Date.now() - began).toBeLessThan(500);
    expect(socket.messages.map((one) => one.MessageType)).toContain("ServerShuttingDown");
    await sleep(300);
    await expect(fetch(`${server.url}/health`)).rejects.toThrow();
    download.hurry();
    await download.done;
    expect(download.state).toMatchObject({ ended: true, bytes });
    await ended;
  });
});

describe.skipIf(isReal)("a server that is killed", () => {
  test("breaks off its answers, and its ffmpegs die with it", async () => {
    const server = await start();
    const film = await server.film();
    const { token } = await server.enter();
    const query = `PlaySessionId=p&DeviceId=d&SegmentContainer=ts&ApiKey=${token}&runtimeTicks=0`;
    await server.get(`/Videos/${film.id}/hls1/main/0.ts?${query}`);
    const { pids } = await machine(server).ffmpegs();
    const download = slowDownload(server, (await noise(server)).path);
    await eventually(() => (download.state.bytes > 0 ? true : undefined));
    await machine(server).kill9();
    await download.done;
    expect(download.state.ended).toBe(false);
    await eventually(() => (pids.some(isAlive) ? undefined : true));
  });

  test("frozen, accepts and never answers; thawed, answers what it was asked", async () => {
    const server = await start();
    machine(server).freeze();
    const answer = server.get("/health");
    const first = await Promise.race([answer.then(() => "answered"), sleep(600, "silent")]);
    expect(first).toBe("silent");
    const knock = connect(machine(server).port, "127.0.0.1");
    await once(knock, "connect");
    knock.destroy();
    machine(server).thaw();
    expect((await answer).text).toBe("Healthy");
  });
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    // No such process: it is gone.
    return false;
  }
}

describe.skipIf(isReal)("a switch", () => {
  test("makes one request slow, failing, or silent, by method and pattern, as often as it says", async () => {
    const server = await start();
    const { control } = { control: machine(server).control.bind(machine(server)) };
    await control("slow", { path: "^/System/Ping", firstByteMs: 300, times: 1 });
    const began = Date.now();
    await server.get("/System/Ping");
    expect(Date.now() - began).toBeGreaterThanOrEqual(290);
    await control("fail", { path: "/System/Info/Public", status: 500, times: 1 });
    expect((await server.get("/System/Info/Public")).status).toBe(500);
    expect((await server.get("/System/Info/Public")).status).toBe(200);
    await control("silent", { path: "/System/Ping", times: 1 });
    const signal = AbortSignal.timeout(400);
    await expect(fetch(`${server.url}/System/Ping`, { signal })).rejects.toThrow();
    await control("health", { body: "Degraded" });
    expect((await server.get("/health")).text).toBe("Degraded");
    await control("clear");
    expect((await server.get("/health")).text).toBe("Healthy");
  });

  test("breaks a body after so many bytes, before the answer, or before the deed", async () => {
    const server = await start();
    const film = await server.film();
    await machine(server).control("reset", { path: "/stream", afterBytes: 100_000, times: 1 });
    const download = slowDownload(server, `/Videos/${film.id}/stream?static=true`);
    await download.done;
    expect(download.state.ended).toBe(false);
    expect(download.state.bytes).toBeLessThanOrEqual(100_000);
    const favorite = `/UserFavoriteItems/${film.id}?userId=${await server.userId()}`;
    const isFavorite = async () =>
      (
        await server.admin("GET", `/UserItems/${film.id}/UserData?userId=${await server.userId()}`)
      ).json().IsFavorite;
    await machine(server).control("reset", {
      path: "/UserFavoriteItems",
      method: "POST",
      beforeDeed: true,
      times: 1,
    });
    await expect(server.admin("POST", favorite)).rejects.toThrow();
    expect(await isFavorite()).toBe(false);
    await machine(server).control("reset", {
      path: "/UserFavoriteItems",
      method: "POST",
      times: 1,
    });
    await expect(server.admin("POST", favorite)).rejects.toThrow();
    expect(await isFavorite()).toBe(true);
  });

  test("refuses one token, or all, on this server only", async () => {
    const server = await start();
    const { token } = await server.enter();
    await machine(server).control("refuse-token", { token });
    expect((await server.get("/Users/Me", token)).status).toBe(401);
    expect((await server.admin("GET", "/Users")).status).toBe(200);
    await machine(server).control("refuse-token", { token, on: false });
    await machine(server).control("refuse-all", { on: true });
    expect((await server.get("/Users/Me", token)).status).toBe(401);
    expect((await server.socket(`?ApiKey=${token}`).closed).code).toBe(403);
    await machine(server).control("refuse-all", { on: false });
    expect((await server.get("/Users/Me", token)).status).toBe(200);
  });

  test("hides an item as if it had not been scanned, and counts every request with its body", async () => {
    const server = await start();
    const film = await server.film();
    await machine(server).control("hide", { item: film.id });
    expect((await server.admin("GET", `/Items/${film.id}`)).status).toBe(404);
    expect((await server.get(`/Videos/${film.id}/stream?static=true`)).status).toBe(404);
    await machine(server).control("hide", { item: film.id, hidden: false });
    expect((await server.admin("GET", `/Items/${film.id}`)).status).toBe(200);
    const login = await server.enter();
    const entries = await machine(server).requests({ method: "POST", path: "AuthenticateByName" });
    expect(entries).toHaveLength(1);
    expect(entries[0]).toMatchObject({
      status: 200,
      bodyHash: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
    expect(login.token).toHaveLength(32);
  });
});
