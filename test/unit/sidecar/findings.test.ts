// What the start says of servers that differ: each finding as its whole sentence, because the sentence is
// what the owner acts on; and what is refused and what is only said.

import { describe, expect, test } from "vitest";
import { namesAddress } from "../../../sidecar/facts.ts";
import { findings, isUndecided, type ReplicaFacts } from "../../../sidecar/findings.ts";

function facts(name: string, changes: Partial<ReplicaFacts> = {}): ReplicaFacts {
  return {
    name,
    url: `http://${name}.example:8096`,
    basePath: "",
    health: "healthy",
    healthReason: "its health says Healthy",
    info: {
      id: "server-1",
      name: "home",
      version: "12.0.0",
      startupWizardCompleted: true,
      localAddress: "",
    },
    key: "works",
    users: [{ id: "1".repeat(32), name: "ann", isAdministrator: true, isDisabled: false }],
    quickConnect: true,
    network: { baseUrl: "", knownProxies: ["10.0.0.2"], enableRemoteAccess: true },
    encoding: { HardwareAccelerationType: "none", H264Crf: 23, TranscodingTempPath: "/t" },
    doorAddress: "10.0.0.2",
    proxiesNameDoor: true,
    forwarding: "honoured",
    rival: undefined,
    ...changes,
  };
}

const open = { listensBeyondLoopback: true };
const closed = { listensBeyondLoopback: false };

function user(name: string, id: string) {
  return { id, name, isAdministrator: false, isDisabled: false };
}

test("two servers that were copied from one another give no finding", () => {
  expect(findings([facts("a"), facts("b")], open)).toEqual([]);
});

test("paths of one machine are no difference", () => {
  const other = facts("b", {
    encoding: { HardwareAccelerationType: "none", H264Crf: 23, TranscodingTempPath: "/other" },
  });
  expect(findings([facts("a"), other], open)).toEqual([]);
});

describe("visitors' addresses", () => {
  const lacking = facts("a", {
    network: { baseUrl: "", knownProxies: ["10.9.9.9"], enableRemoteAccess: true },
    proxiesNameDoor: false,
    forwarding: "ignored",
  });

  test("a server that does not know the door is refused when others can reach the door", () => {
    expect(findings([lacking], open)).toEqual([
      {
        severity: "refuse",
        sentence:
          'The known proxies of server a lack the door (they are "10.9.9.9"): every visitor would count as ' +
          "local, could restart it and would have no remote limits; set Dashboard, Networking, Known proxies to " +
          '"10.9.9.9, 10.0.0.2" and restart the server.',
      },
    ]);
  });

  test("behind loopback it is said", () => {
    expect(findings([lacking], closed)).toMatchObject([{ severity: "warn" }]);
  });

  test("without an answer to a forwarded address the list decides", () => {
    const unknown = { forwarding: "unknown" } as const;
    expect(findings([facts("a", { ...unknown, proxiesNameDoor: true })], open)).toEqual([]);
    expect(findings([facts("a", { ...unknown, proxiesNameDoor: false })], open)).toMatchObject([
      { severity: "refuse" },
    ]);
  });

  test("a list that is set and not in effect asks for a restart of the server", () => {
    expect(findings([facts("a", { forwarding: "ignored" })], open)).toEqual([
      {
        severity: "refuse",
        sentence:
          "Server a has 10.0.0.2 among its known proxies and does not act on it yet: every visitor would count " +
          "as local, could restart it and would have no remote limits; restart the server.",
      },
    ]);
  });

  test("a server behind address translation that honours us is trusted although the list names another", () => {
    expect(findings([facts("a", { proxiesNameDoor: false })], open)).toEqual([]);
  });

  test("without a key it cannot be read, and that is said", () => {
    const keyless = facts("a", {
      key: "none",
      network: undefined,
      proxiesNameDoor: undefined,
      forwarding: "unknown",
    });
    expect(findings([keyless], open)).toMatchObject([{ severity: "warn" }]);
    expect(findings([keyless], closed)).toEqual([]);
  });
});

test("servers with different ids are refused with the value to write", () => {
  const info = { ...facts("b").info, id: "server-2" } as NonNullable<ReplicaFacts["info"]>;
  expect(findings([facts("a"), facts("b", { info })], closed)).toEqual([
    {
      severity: "refuse",
      sentence:
        "The servers have different ids (a has server-1, b has server-2): apps would say «Server mismatch» and " +
        "ask for a new login whenever they are moved; seed b from a (jellybloom seed), or write server-1 into " +
        "data/device.txt of b while stopped.",
    },
  ]);
});

test("a server that this cluster keeps under another name as well is refused", () => {
  const { url } = facts("c");
  expect(findings([facts("c", { twin: "a" })], closed)).toEqual([
    {
      severity: "refuse",
      sentence:
        `a and c are one and the same server (${url}): when it stops, nobody is left, and every change is written to ` +
        "it twice; give each --replica, or each sidecar's --jellyfin, the address of a server of its own.",
    },
  ]);
});

test("another Jellybloom with another store is refused", () => {
  const rival = { cluster: "9e0c9a445b6d", replica: "left" };
  expect(findings([facts("a", { rival }), facts("b")], closed)).toEqual([
    {
      severity: "refuse",
      sentence:
        "Server a is already kept by another Jellybloom with another store (cluster 9e0c9a445b6d, which calls " +
        "it left): the two would log each other's viewers out; stop the other one, or give both the same --redis.",
    },
  ]);
});

test("a server that cannot be reached is said, and the start goes on", () => {
  const dead = facts("b", { health: "refused", healthReason: "no connection can be made" });
  expect(findings([facts("a"), dead], open)).toEqual([
    {
      severity: "warn",
      sentence:
        "Server b at http://b.example:8096 is not ready (no connection can be made): viewers are served by the " +
        "others until its health says Healthy.",
    },
  ]);
});

test("a wrong base path is refused", () => {
  const wrong = facts("b", {
    url: "http://b.example:8096/jf",
    basePath: "/jf",
    health: "wrongPath",
    healthReason: 'it is not under "/jf" but under "/media"',
  });
  expect(findings([facts("a", { basePath: "/jf" }), wrong], open)).toMatchObject([
    { severity: "refuse", sentence: expect.stringContaining('but under "/media"') },
  ]);
});

describe("QuickConnect", () => {
  const off = { quickConnect: false } as const;
  test("off at every server is refused: nobody could be moved", () => {
    const found = findings([facts("a", off), facts("b", off)], closed);
    expect(found).toMatchObject([{ severity: "refuse" }]);
    expect(found[0]?.sentence).toMatch(
      /^QuickConnect is off at servers a and b: .*--quick-connect off\.$/,
    );
  });
  test("off at one is said", () => {
    expect(findings([facts("a"), facts("b", off)], closed)).toMatchObject([
      { severity: "warn", sentence: expect.stringContaining("QuickConnect is off at server b:") },
    ]);
  });
  test("with one server it does not matter", () => {
    expect(findings([facts("a", off)], closed)).toEqual([]);
  });
});

describe("API keys", () => {
  const refused = { key: "refused", forwarding: "unknown", proxiesNameDoor: true } as const;
  test("refused by one server is said", () => {
    expect(findings([facts("a"), facts("b", refused)], closed)).toMatchObject([
      { severity: "warn", sentence: expect.stringContaining("--api-key b=KEY") },
    ]);
  });
  test("refused by all is refused", () => {
    const found = findings([facts("a", refused), facts("b", refused)], closed);
    expect(found[0]).toMatchObject({ severity: "refuse" });
  });
});

test("users with other ids, and users only one server has, are named", () => {
  const here = facts("a", { users: [user("Ann", "1"), user("ben", "2"), user("cleo", "3")] });
  const there = facts("b", { users: [user("ann", "9"), user("ben", "2"), user("dora", "4")] });
  const sentences = findings([here, there], closed).map(({ severity, sentence }) => {
    expect(severity).toBe("warn");
    return sentence;
  });
  expect(sentences).toEqual([
    "Users have other ids on b than on a (ann): those who were made through the door are known to be the same, " +
      "others are logged out when theirs dies; a seed of b from a makes their ids equal.",
    "Users of a are not known to b (cleo): they cannot be moved there; seed b from a.",
    "Users of b are not known to a (dora): they cannot be moved there; seed a from b.",
  ]);
});

test("long lists are cut short", () => {
  const names = ["u1", "u2", "u3", "u4", "u5", "u6"].map((name) => user(name, name));
  const [finding] = findings([facts("a", { users: names }), facts("b", { users: [] })], closed);
  expect(finding?.sentence).toContain("(u1, u2, u3, u4 and 2 more)");
});

test("versions and encoders that differ are named with their values", () => {
  const info = { ...facts("b").info, version: "12.1.0" } as NonNullable<ReplicaFacts["info"]>;
  const encoding = { HardwareAccelerationType: "vaapi", H264Crf: 23 };
  const found = findings([facts("a"), facts("b", { info, encoding })], closed);
  expect(found.map(({ severity }) => severity)).toEqual(["warn", "warn"]);
  expect(found[0]?.sentence).toContain("(a runs 12.0.0, b runs 12.1.0)");
  expect(found[1]?.sentence).toContain("(HardwareAccelerationType is vaapi instead of none)");
});

test("an incomplete startup wizard and different base paths are said", () => {
  const info = { ...facts("b").info, startupWizardCompleted: false } as NonNullable<
    ReplicaFacts["info"]
  >;
  const found = findings([facts("a"), facts("b", { info, basePath: "/jf" })], closed);
  expect(found).toMatchObject([
    { severity: "warn", sentence: expect.stringContaining("startup wizard of server b") },
    { severity: "warn", sentence: expect.stringContaining('(a "", b "/jf")') },
  ]);
});

test("refusals come first", () => {
  const info = { ...facts("b").info, id: "other", version: "9" } as NonNullable<
    ReplicaFacts["info"]
  >;
  const dead = facts("c", { health: "silent" });
  const found = findings([dead, facts("a"), facts("b", { info })], open);
  expect(found.map(({ severity }) => severity)).toEqual(["refuse", "warn", "warn"]);
});

test("a server that was not there is to be asked again", () => {
  expect(isUndecided(facts("a"))).toBe(false);
  expect(isUndecided(facts("a", { health: "degraded" }))).toBe(true);
  expect(isUndecided(facts("a", { forwarding: "unknown", proxiesNameDoor: undefined }))).toBe(true);
});

describe("an entry of KnownProxies", () => {
  const table: [string[], string, boolean][] = [
    [["10.0.0.2"], "10.0.0.2", true],
    [["10.0.0.0/8"], "10.4.0.2", true],
    [["10.0.0.0/24"], "10.4.0.2", false],
    [["::ffff:10.0.0.2"], "10.0.0.2", true],
    [["10.0.0.2"], "::ffff:10.0.0.2", true],
    [["fd00::/8"], "fd00::5", true],
    [["fe80::1"], "fe80::1%eth0", true],
    [[" 127.0.0.1 "], "127.0.0.1", true],
    [["localhost"], "127.0.0.1", true],
    [["10.0.0.2/99"], "10.0.0.2", false],
    [[""], "10.0.0.2", false],
    [[], "10.0.0.2", false],
  ];
  test.each(table)("%j names %s: %s", async (entries, address, named) => {
    expect(await namesAddress(entries, address)).toBe(named);
  });
});
