// The roster: three sources of replicas at once, and how one that left is forgotten; and what DNS names.

import { lookup } from "node:dns/promises";
import { describe, expect, test } from "vitest";
import type { ReplicaConfig, ReplicaState } from "../../../core/cluster/replica.ts";
import { initialView, withObservation } from "../../../core/cluster/view.ts";
import { findByDns } from "../../../proxy/dns.ts";
import { Roster, sameReplicas } from "../../../proxy/roster.ts";

const config = (name: string, host = `${name}.test`): ReplicaConfig => ({
  ...{ name, origin: `http://${host}:8096`, basePath: "" },
});
const member = (replica: string, host = `${replica}.test`) => ({
  ...{ replica, url: `http://${host}:8096` },
});

function viewOf(states: Readonly<Record<string, ReplicaState>>) {
  let view = initialView(
    Object.keys(states).map((name) => config(name)),
    0,
  );
  for (const [name, state] of Object.entries(states)) {
    view = withObservation(view, name, state, "set by the test", 0);
  }
  return view;
}

const names = (configs: readonly ReplicaConfig[]) => configs.map(({ name }) => name);
const nothing = viewOf({});

describe("the roster", () => {
  test("takes a list, the registry and DNS together, each replica once", () => {
    const roster = new Roster([config("a")], 1000);
    roster.announced([member("c"), member("b"), member("a", "elsewhere.test")], 0);
    roster.found([config("10-0-0-2", "b.test"), config("10-0-0-9", "d.test")], 0);
    const configs = roster.configs(nothing, 0);
    expect(names(configs)).toEqual(["a", "b", "c", "10-0-0-9"]);
    expect(configs[0]?.origin).toBe("http://a.test:8096");
  });

  test("ignores addresses that are none", () => {
    const roster = new Roster([], 1000);
    roster.announced(
      [
        { replica: "x", url: "not a url" },
        { replica: "y", url: "file:///etc" },
      ],
      0,
    );
    expect(roster.configs(nothing, 0)).toEqual([]);
  });

  test("follows a replica that came back at another address", () => {
    const roster = new Roster([], 1000);
    roster.announced([member("a", "old.test")], 0);
    roster.announced([member("a", "new.test")], 10);
    expect(roster.configs(nothing, 10)).toEqual([config("a", "new.test")]);
  });

  test("keeps one that nobody names any longer while it answers, and forgets it a while after", () => {
    const roster = new Roster([config("a")], 1000);
    roster.announced([member("b"), member("c")], 0);
    roster.announced([member("c")], 900);
    const view = viewOf({ a: "dead", b: "ready", c: "dead" });
    expect(names(roster.configs(view, 1500))).toEqual(["a", "b", "c"]);
    const gone = viewOf({ a: "dead", b: "dead", c: "dead" });
    expect(names(roster.configs(gone, 1500))).toEqual(["a", "c"]);
    expect(names(roster.configs(gone, 5000))).toEqual(["a"]);
    // It may come again.
    roster.announced([member("b")], 6000);
    expect(names(roster.configs(gone, 6000))).toEqual(["a", "b"]);
  });

  test("tells a list that is the same from one that is not", () => {
    expect(sameReplicas([config("a"), config("b")], [config("b"), config("a")])).toBe(true);
    expect(sameReplicas([config("a")], [config("a"), config("b")])).toBe(false);
    expect(sameReplicas([config("a"), config("b")], [config("a")])).toBe(false);
    expect(sameReplicas([config("a")], [config("a", "b.test")])).toBe(false);
  });
});

describe("DNS", () => {
  const noRecords = { resolveSrv: async () => [] };

  test("names each address of a name, called after itself", async () => {
    const addresses = await lookup("localhost", { all: true });
    const found = await findByDns({ name: "localhost", port: 8096 }, "/jellyfin", noRecords);
    expect(found).toHaveLength(addresses.length);
    const four = found.find(({ origin }) => origin === "http://127.0.0.1:8096");
    if (addresses.some(({ family }) => family === 4)) {
      expect(four).toEqual({
        name: "127-0-0-1",
        origin: "http://127.0.0.1:8096",
        basePath: "/jellyfin",
      });
    }
  });

  test("names pods by their own names where there are SRV records", async () => {
    const records = [
      { name: "jellyfin-0.jellyfin.media.svc.cluster.local", port: 8096, priority: 0, weight: 1 },
      { name: "not a name!.test", port: 8096, priority: 0, weight: 1 },
    ];
    const resolver = { resolveSrv: async () => records };
    const found = await findByDns({ name: "_http._tcp.jellyfin", port: 0 }, "", resolver);
    expect(found).toEqual([
      {
        name: "jellyfin-0",
        origin: "http://jellyfin-0.jellyfin.media.svc.cluster.local:8096",
        basePath: "",
      },
    ]);
  });

  test("that fails rejects, so that what was found before stays", async () => {
    const place = { name: "nobody.invalid", port: 8096 };
    await expect(findByDns(place, "", noRecords)).rejects.toThrow();
  });
});
