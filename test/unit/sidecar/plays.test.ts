// What a server must let go of, decided from one observation: encodes and sessions of plays that are owned
// elsewhere by now, looked at more than once after a freeze, and never anything of its own.

import { describe, expect, test } from "vitest";
import { type Identity, identityKey } from "../../../core/cluster/identity.ts";
import { newPlay, type Play, withNews } from "../../../core/cluster/plays.ts";
import type { ServerSession } from "../../../core/jellyfin/client.ts";
import {
  afterPass,
  decidePlays,
  type LeftPasses,
  leftName,
  passPausesMs,
  straysIn,
} from "../../../sidecar/plays.ts";

const userId = "1".repeat(32);

function playAt(...visited: string[]): Play {
  let play = newPlay("a1", 0);
  for (const replica of visited) play = withNews(play, { userId, replica, isEncoded: true }, 0);
  return play;
}

function decideFor(play: Play, home: string, done = new Map<string, LeftPasses>(), nowMs = 0) {
  const homeOf = (): string => home;
  return decidePlays({ replica: "a", plays: [play], homeOf, pinOf: () => undefined, done, nowMs });
}

describe("a server", () => {
  test("keeps what is its own", () => {
    expect(decideFor(playAt("b", "a"), "a")).toMatchObject({ encodes: [], names: [] });
  });

  test("lets go of a play that has left, and looks again, because a thawed server does old work", () => {
    const play = playAt("a", "b");
    const done = new Map<string, LeftPasses>();
    let nowMs = 0;
    let looks = 0;
    for (;;) {
      const decision = decideFor(play, "b", done, nowMs);
      if (decision.names.length === 0) {
        if (decision.nextAtMs === undefined) break;
        nowMs = decision.nextAtMs;
        continue;
      }
      expect(decision).toMatchObject({ encodes: [play], looksAtSessions: true });
      looks++;
      done.set(leftName(play), afterPass(done.get(leftName(play)), nowMs));
    }
    expect(looks).toBe(passPausesMs.length + 1);
    expect(nowMs).toBeGreaterThan(2000);
  });

  test("begins anew when the play came back and left again", () => {
    const first = { ...playAt("a", "b"), owner: "b", epoch: 2 };
    const done = new Map([[leftName(first), { passes: 99, nextAtMs: 0 }]]);
    expect(decideFor(first, "b", done).names).toEqual([]);
    expect(decideFor({ ...first, epoch: 4 }, "b", done).names).toHaveLength(1);
  });
});

describe("sessions that play for people who live elsewhere", () => {
  const identity: Identity = {
    key: identityKey(userId, "phone"),
    kind: "user",
    userId,
    userName: "kid",
    deviceId: "phone",
    client: "App",
    device: "Phone",
    version: "1",
    generation: 1,
    startedAtMs: 0,
    origin: "a",
    tokens: {},
  };
  const identities = new Map([[identity.key, identity]]);
  const session: ServerSession = {
    id: "s",
    userId,
    userName: "kid",
    client: "App",
    deviceId: "phone",
    deviceName: "Phone",
    remoteEndPoint: "",
    playing: { itemId: "film", mediaSourceId: "", liveStreamId: "" },
  };

  test.each([
    ["lives elsewhere", session, "b", 1],
    ["lives here", session, "a", 0],
    ["has no known home", session, undefined, 0],
    ["plays nothing", { ...session, playing: undefined }, "b", 0],
    ["is not known", { ...session, deviceId: "other" }, "b", 0],
    ["is an API key", { ...session, userId: "" }, "b", 0],
  ] as const)("whoever %s", (_, one, home, count) => {
    expect(straysIn([one], identities, "a", () => home)).toHaveLength(count);
  });
});
