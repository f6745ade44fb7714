// WebSockets of several clients while the server behind them dies or is stopped: they stay open, hear what
// happens next from the new home within two seconds, and are never told that a server is going.

import { randomBytes } from "node:crypto";
import { afterEach, describe, expect, test } from "vitest";
import { bothThere, pairBehindDoor } from "../support/front.ts";
import { until, Viewer, type ViewerSocket } from "../support/viewer.ts";

/** The promise: from the moment the new home is there to the next message. */
const HEARD_WITHIN_MS = 2000;

const { pair, door } = await pairBehindDoor();
const sockets: ViewerSocket[] = [];

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.close();
  await bothThere(pair, door);
});

/** Three devices of one person, each with a socket that has been welcomed. */
async function threeDevices(): Promise<{ viewers: Viewer[]; mine: ViewerSocket[] }> {
  const viewers: Viewer[] = [];
  const mine: ViewerSocket[] = [];
  for (let index = 0; index < 3; index += 1) {
    const viewer = await Viewer.enter(door.url);
    await viewer.knownAt([pair.a, pair.b]);
    await viewer.call("POST", "/Sessions/Capabilities/Full", {
      body: { SupportsMediaControl: true, SupportedCommands: ["DisplayMessage"] },
    });
    const socket = await viewer.socket();
    sockets.push(socket);
    viewers.push(viewer);
    mine.push(socket);
  }
  await until(5000, "a welcome", () => mine.every((one) => one.count("ForceKeepAlive") > 0));
  return { viewers, mine };
}

/** Sends a message to each device, as somebody with a remote control would, until each has heard one. */
async function messageAll(from: Viewer, viewers: readonly Viewer[]): Promise<void> {
  const sessions = (await from.call("GET", "/Sessions")).json() as {
    Id: string;
    DeviceId: string;
  }[];
  for (const viewer of viewers) {
    const session = sessions.find(({ DeviceId }) => DeviceId === viewer.deviceId);
    if (session === undefined) continue;
    await from.call("POST", `/Sessions/${session.Id}/Message`, {
      body: { Header: "Hello", Text: randomBytes(4).toString("hex"), TimeoutMs: 1000 },
    });
  }
}

describe("WebSockets of several devices", () => {
  test.each(["kill9", "terminate"] as const)(
    "stay open through a %s of their server and hear a remote control within 2 s of the new home",
    async (how) => {
      const { viewers, mine } = await threeDevices();
      const [first] = viewers;
      if (first === undefined) throw new Error("nobody is there");
      await messageAll(first, viewers);
      await until(2000, "a message", () => mine.every((one) => one.count("GeneralCommand") === 1));
      const [home] = await first.homeAmong(pair);
      await home[how]();
      // The new home is there when it answers this.
      const [next] = await first.homeAmong(pair);
      const thereMs = performance.now();
      expect(next.name).not.toBe(home.name);
      await until(HEARD_WITHIN_MS, "a message from the new home", async () => {
        await messageAll(first, viewers);
        return mine.every((one) => one.count("GeneralCommand") >= 2);
      });
      expect(performance.now() - thereMs).toBeLessThan(HEARD_WITHIN_MS);
      expect(mine.map((one) => [one.isOpen, one.closeCode])).toEqual(
        mine.map(() => [true, undefined]),
      );
      for (const socket of mine) {
        expect(socket.count("ServerShuttingDown")).toBe(0);
        expect(socket.count("ServerRestarting")).toBe(0);
        // One server welcomes a socket once; so does the door, however often it dialled.
        expect(socket.count("ForceKeepAlive")).toBe(1);
      }
    },
  );

  test("hear of a favourite made after the kill, on every device of that person", async () => {
    const { viewers, mine } = await threeDevices();
    const [first] = viewers;
    if (first === undefined) throw new Error("nobody is there");
    const itemId = await first.item();
    const [home] = await first.homeAmong(pair);
    await home.kill9();
    await first.home();
    const thereMs = performance.now();
    let isFavourite = false;
    let saidMs = Number.NEGATIVE_INFINITY;
    await until(HEARD_WITHIN_MS, "a change of user data", async () => {
      // A server collects changes for half a second and tells them together.
      if (performance.now() - saidMs > 600) {
        saidMs = performance.now();
        isFavourite = !isFavourite;
        const path = `/UserFavoriteItems/${itemId}?userId=${first.userId}`;
        expect((await first.call(isFavourite ? "POST" : "DELETE", path)).status).toBe(200);
      }
      return mine.every((one) => one.count("UserDataChanged") > 0);
    });
    expect(performance.now() - thereMs).toBeLessThan(HEARD_WITHIN_MS);
    expect(mine.every((one) => one.isOpen)).toBe(true);
  });

  test("answer the client's keep-alives while there is no server at all", async () => {
    const { mine } = await threeDevices();
    await Promise.all([pair.a.kill9(), pair.b.kill9()]);
    for (const socket of mine) socket.send("KeepAlive");
    await until(1000, "a keep-alive", () => mine.every((one) => one.count("KeepAlive") > 0));
    expect(mine.every((one) => one.isOpen)).toBe(true);
  });
});
