// What a client hears of what was done through another server, with sidecars that carry it over: once, as if there
// were one server; and nothing of what its own player reports.

import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { pairBehindDoor } from "../support/front.ts";
import { answeredBy, until, Viewer } from "../support/viewer.ts";

/** UserDataChangeNotifier gathers for 500 ms; what was not told after this is not told. */
const toldWithinMs = 1500;

const { pair, door } = await pairBehindDoor();

/** A request with the owner's API key, which has a replica of its own, and where it went. */
async function byKey(method: string, path: string): Promise<string> {
  const authorization = `MediaBrowser Token="${pair.a.apiKey}"`;
  const reply = await fetch(door.url + path, { method, headers: { authorization } });
  expect(reply.status).toBe(200);
  await reply.text();
  return answeredBy(reply.headers);
}

test("a favourite that was set through another server is told once, to each of the user's devices", async () => {
  const keyed = await byKey("GET", "/System/Info");
  // Somebody who lives where the key does not.
  const names = ["root", "kid"];
  const viewers = await Promise.all(names.map((name) => Viewer.enter(door.url, { name })));
  const homes = await Promise.all(viewers.map((viewer) => viewer.home()));
  let viewer = viewers.find((_viewer, index) => homes[index] !== keyed);
  if (viewer === undefined) {
    // They live together: the replica leaves, they move, and do not come back at once.
    const left = keyed === "a" ? pair.a : pair.b;
    await Promise.all(viewers.map((one) => one.knownAt([pair.a, pair.b])));
    await left.kill9();
    viewer = viewers[0] as Viewer;
    await until(5000, "they moved", async () => (await viewer?.home()) !== keyed);
    await left.launch();
    await until(10_000, "it is back", async () => (await byKey("GET", "/System/Info")) === keyed);
  }
  await viewer.knownAt([pair.a, pair.b]);
  const film = await viewer.item();
  const name = names[viewers.indexOf(viewer)] ?? "root";
  // A device has one session, whose newest socket is told; another device has its own.
  const second = await Viewer.enter(door.url, { name });
  const sockets = [await viewer.socket(), await second.socket()];
  try {
    // The socket is at the home when it has been told anything.
    await until(3000, "sockets", () => sockets.every((socket) => socket.messages.length > 0));
    await sleep(toldWithinMs);
    const before = sockets.map((socket) => socket.count("UserDataChanged"));
    const went = await byKey("POST", `/UserFavoriteItems/${film}?userId=${viewer.userId}`);
    expect(went).not.toBe(await viewer.home());
    await until(4000, "a push", () =>
      sockets.every((socket, index) => socket.count("UserDataChanged") > (before[index] ?? 0)),
    );
    await sleep(toldWithinMs);
    expect(sockets.map((socket) => socket.count("UserDataChanged"))).toEqual(
      before.map((count) => count + 1),
    );
    // What its own player reports is told to nobody.
    for (const PositionTicks of [100_000_000, 110_000_000]) {
      const body = { ItemId: film, PositionTicks, PlaySessionId: "watching" };
      await viewer.call("POST", "/Sessions/Playing/Progress", { body });
    }
    await sleep(toldWithinMs);
    expect(sockets.map((socket) => socket.count("UserDataChanged"))).toEqual(
      before.map((count) => count + 1),
    );
  } finally {
    for (const socket of sockets) socket.close();
  }
});
