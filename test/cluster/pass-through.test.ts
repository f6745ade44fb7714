// A door in front of one server, with no store but its own memory: everything passes through, nothing is
// minted, and a short absence of the server is bridged.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DoorProcess, startDoor } from "../support/door.ts";
import { type StandIn, startStandIn } from "../support/jellyfin/start.ts";
import { FILM_FRAMES_PER_SECOND, type Media, makeMedia } from "../support/media.ts";
import { ffmpegPlays, longestGap, rangeReader } from "../support/players.ts";
import { until, Viewer } from "../support/viewer.ts";

let media: Media;
beforeAll(async () => {
  media = await makeMedia();
});

describe.each(["proxy", "up"] as const)("jellybloom %s with one replica", (command) => {
  let server: StandIn;
  let door: DoorProcess;

  beforeAll(async () => {
    server = await startStandIn({ name: "a", mediaDir: media.folder });
    door = await startDoor({ command, replicas: [server] });
  });
  afterAll(async () => {
    await door.stop();
    await server.stop();
  });

  test("carries a login, browsing, playing and control, and mints nothing", async () => {
    const viewer = await Viewer.enter(door.url);
    const itemId = await viewer.item();
    expect((await viewer.call("GET", "/Users/Me")).json().Id).toBe(viewer.userId);
    const info = await viewer.call("GET", "/System/Info/Public");
    expect(info.json().LocalAddress).toBe(door.url);
    const picture = await fetch(`${door.url}/Items/${itemId}/Images/Primary`);
    expect(picture.headers.get("content-type")).toMatch(/^image\//);

    const read = await rangeReader(viewer.directPlay(itemId));
    expect(read.sha256).toBe(createHash("sha256").update(readFileSync(media.film)).digest("hex"));
    const play = await viewer.playHls(itemId, "ts");
    const played = await ffmpegPlays(play.playlist, { seconds: 25, limitMs: 60_000 });
    expect([played.exitCode, played.skipped]).toEqual([0, 0]);
    expect(longestGap(played.frames)).toBeLessThan(2.5 / FILM_FRAMES_PER_SECOND);

    const socket = await viewer.socket();
    await until(2000, "a welcome", () => socket.count("ForceKeepAlive") === 1);
    const favourite = `/UserFavoriteItems/${itemId}?userId=${viewer.userId}`;
    expect((await viewer.call("POST", favourite)).json().IsFavorite).toBe(true);
    await until(3000, "news of it", () => socket.count("UserDataChanged") > 0);
    socket.close();

    // Whether it is on may be looked at; a mint would begin one.
    expect(await server.requests({ path: "QuickConnect/(Initiate|Authorize)" })).toEqual([]);
    expect(await server.requests({ path: "AuthenticateWithQuickConnect" })).toEqual([]);
    const { tokens } = await server.state();
    expect(tokens.filter(({ deviceId }) => deviceId === viewer.deviceId)).toHaveLength(1);
    const [own] = tokens.filter(({ deviceId }) => deviceId === viewer.deviceId);
    expect(own?.token).toBe(viewer.token);
  });

  test("asks the server once about a wrong password and a token nobody knows", async () => {
    const wrong = await fetch(`${door.url}/Users/AuthenticateByName`, {
      method: "POST",
      headers: {
        authorization: 'MediaBrowser Client="C", Device="D", DeviceId="x", Version="1"',
        "content-type": "application/json",
      },
      body: JSON.stringify({ Username: "kid", Pw: "wrong" }),
    });
    expect(wrong.status).toBe(401);
    const kid = (await server.state()).users.find(({ name }) => name === "kid");
    expect(kid?.invalidLogins).toBe(1);
    const stranger = await fetch(`${door.url}/Users/Me?api_key=${"0".repeat(32)}`);
    expect(stranger.status).toBe(401);
  });

  test("bridges a short restart of the server: a request made meanwhile is answered, the socket stays", async () => {
    const viewer = await Viewer.enter(door.url);
    const socket = await viewer.socket();
    await until(2000, "a welcome", () => socket.count("ForceKeepAlive") === 1);
    await server.kill9();
    const asked = viewer.call("GET", "/Users/Me");
    await server.launch();
    const me = await asked;
    expect([me.status, me.json().Id]).toEqual([200, viewer.userId]);
    expect(socket.isOpen).toBe(true);
    const again = async () => (await server.state()).sockets === 1;
    await until(3000, "the socket at the server again", again);
    expect(socket.count("ServerShuttingDown")).toBe(0);
    socket.close();
  });

  test("ends a login with the server's own logout", async () => {
    const viewer = await Viewer.enter(door.url);
    expect((await viewer.call("POST", "/Sessions/Logout")).status).toBe(204);
    expect((await viewer.call("GET", "/Users/Me")).status).toBe(401);
    const { tokens } = await server.state();
    expect(tokens.filter(({ deviceId }) => deviceId === viewer.deviceId)).toEqual([]);
  });
});
