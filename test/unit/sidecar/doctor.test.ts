// The doctor's judgement of what stand-ins cannot show: clocks, tasks, one server under two names.

import { expect, test } from "vitest";
import type { Examined } from "../../../sidecar/doctor/facts.ts";
import { diagnose } from "../../../sidecar/doctor/findings.ts";

function server(name: string, change: Partial<Examined> = {}): Examined {
  return {
    facts: {
      name,
      url: `http://${name}.example:8096`,
      basePath: "",
      health: "healthy",
      healthReason: "its health says Healthy",
      info: {
        ...{ id: "server-1", name: "home", version: "12.0.0" },
        ...{ startupWizardCompleted: true, localAddress: "" },
      },
      key: "works",
      users: [{ id: "1".repeat(32), name: "ann", isAdministrator: true, isDisabled: false }],
      quickConnect: true,
      network: { baseUrl: "", knownProxies: ["10.0.0.2"], enableRemoteAccess: true },
      encoding: {},
      doorAddress: "10.0.0.2",
      proxiesNameDoor: true,
      forwarding: "unknown",
      rival: undefined,
    },
    keepers: [],
    network: {
      knownProxies: ["10.0.0.2"],
      publishedAddresses: [],
      answersDiscovery: false,
      usesUpnp: false,
      requiresHttps: false,
    },
    transcodeFolder: "/cache/transcodes",
    needsRestart: false,
    ffmpegVersion: undefined,
    libraries: [],
    keys: [],
    plugins: [],
    tasks: [],
    clock: { aheadMs: 0, sureMs: 5 },
    encodesSeenBy: [],
    ...change,
  };
}

function sentences(...servers: readonly Examined[]): string[] {
  return diagnose(servers).map(({ severity, sentence }) => `${severity}: ${sentence}`);
}

test("servers that are alike, and one alone, give no finding", () => {
  expect(sentences(server("a"), server("b"))).toEqual([]);
  expect(sentences(server("a"))).toEqual([]);
});

test("a clock that is ahead by more than the questions took is told with both names", () => {
  const clock = (aheadMs: number, sureMs = 5) => ({ clock: { aheadMs, sureMs } });
  expect(sentences(server("a", clock(-3000)), server("b", clock(2000)))).toEqual([
    "warn: The clock of b is 5 s ahead of that of a: what was watched last may be listed in the wrong order, and" +
      " people who watch together drift apart; let both machines keep their time by NTP.",
  ]);
  expect(sentences(server("a", clock(0)), server("b", clock(1500)))).toEqual([]);
  expect(sentences(server("a", clock(0)), server("b", clock(4000, 2500)))).toEqual([]);
});

test("two names of one server are refused, and so are two clusters at one server", () => {
  const own = { cluster: "c1", replica: "a" };
  const both = { keepers: [own, { cluster: "c1", replica: "b" }] };
  expect(sentences(server("a", both))).toEqual([
    expect.stringMatching(
      /^refuse: a and b are one and the same server \(http:\/\/a\.example:8096\)/,
    ),
  ]);
  const other = { keepers: [own, { cluster: "c2", replica: "x" }] };
  expect(sentences(server("a", other), server("b"))).toEqual([
    expect.stringMatching(/^refuse: More than one Jellybloom keeps .*c1 keeps a; c2 keeps a/),
  ]);
  // A copy of the sidecar that restarts is the same keeper twice.
  expect(sentences(server("a", { keepers: [own, own] }), server("b"))).toEqual([]);
});

test("tasks that several servers start by themselves are told only where a Jellybloom keeps them", () => {
  const tasks = [{ key: "RefreshLibrary", name: "Scan Media Library", triggers: 2 }];
  const kept = (replica: string) => ({ tasks, keepers: [{ cluster: "c", replica }] });
  expect(sentences(server("a", { tasks }), server("b", { tasks }))).toEqual([]);
  expect(sentences(server("a", kept("a")), server("b", kept("b")))).toEqual([
    expect.stringContaining(
      "1 scheduled task runs on each of several servers by themselves (Scan Media Library)",
    ),
  ]);
  const parked = { ...kept("b"), tasks: [{ key: "RefreshLibrary", name: "Scan", triggers: 0 }] };
  expect(sentences(server("a", kept("a")), server("b", parked))).toEqual([]);
});

test("a library with other folders is told as that, and not as a thousand missing films", () => {
  const library = (path: string, items: readonly string[]) => ({
    libraries: [
      {
        ...{ name: "Movies", type: "movies", locations: [path] },
        items: new Map(items.map((id) => [id, `film ${id}`])),
      },
    ],
  });
  const found = sentences(
    server("a", library("/media", ["1"])),
    server("b", library("/mnt", ["2"])),
  );
  expect(found).toEqual([
    expect.stringContaining("The library Movies has other folders on b (/mnt) than on a (/media)"),
  ]);
  expect(
    sentences(
      server("a", library("/m", ["1", "2", "3", "4", "5", "6"])),
      server("b", library("/m", ["1"])),
    ),
  ).toEqual([
    expect.stringContaining(
      "b lacks 5 items of Movies that a has (film 2, film 3, film 4, film 5 and 1 more)",
    ),
  ]);
});

test("what stands in the way of everything comes first", () => {
  const shared = { encodesSeenBy: ["b"] };
  const found = diagnose([server("a", { ...shared, needsRestart: true }), server("b")]);
  expect(found.map(({ severity }) => severity)).toEqual(["refuse", "warn"]);
});

test("a server that waits for a restart is told with the plugins that do", () => {
  const told = (needsRestart: boolean, status: string) =>
    sentences(
      server("a"),
      server("b", {
        needsRestart,
        plugins: [{ id: "1".repeat(32), name: "LDAP", version: "2.0", status }],
      }),
    ).filter((sentence) => sentence.includes("restart before"));
  expect(told(false, "Active")).toEqual([]);
  expect(told(true, "Active")).toEqual([expect.stringContaining("settings or plugins count")]);
  for (const needsRestart of [true, false]) {
    expect(told(needsRestart, "Restart")).toEqual([
      expect.stringMatching(/^warn: b waits for a restart .* or plugins \(LDAP 2\.0\) count/),
    ]);
  }
});

test("rights that differ are told, users that one lacks are left to the findings of a start", () => {
  const ann = { id: "1".repeat(32), name: "ann", isAdministrator: false, isDisabled: false };
  const other = server("b");
  const found = sentences(server("a"), { ...other, facts: { ...other.facts, users: [ann] } });
  expect(found).toEqual([expect.stringContaining("Users have other rights on b than on a (ann)")]);
});

test("plugins that belong on one server, or on none, are told with the reason", () => {
  const plugin = (id: string, name: string) => ({
    plugins: [{ id, name, version: "1.0", status: "Active" }],
  });
  const letters = plugin("60f478ab2dd64ea0af1004d033f75979", "Newsletters");
  expect(sentences(server("a", letters), server("b"))).toEqual([]);
  expect(sentences(server("a", letters), server("b", letters))).toEqual([
    expect.stringMatching(
      /on a and b and belongs on one server only: each server .* sends its own letter/,
    ),
  ]);
  const scrub = plugin("a84a949d4b734099aacb8341b4da17ba", "Jellyscrub");
  expect(sentences(server("a", scrub), server("b", scrub))).toEqual([
    expect.stringMatching(/does not work with several servers: .* Jellyfin's own trickplay/),
  ]);
});
