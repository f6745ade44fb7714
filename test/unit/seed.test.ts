// The decisions of seeding, as tables: which arrangement of folders a server has, what a link says in the
// copy, how far a copy is, what the settings mean for a second server.

import { describe, expect, test } from "vitest";
import { isNewer } from "../../sidecar/seed/checks.ts";
import { findServer, isInside, rootsOf, targetFolders } from "../../sidecar/seed/layout.ts";
import { onlyOwnElements, withOwnElements } from "../../sidecar/seed/own-elements.ts";
import { movedText } from "../../sidecar/seed/paths.ts";
import { linkText } from "../../sidecar/seed/plan.ts";
import {
  mentions,
  settingsAdvice,
  settingsOf,
  settingsProblems,
} from "../../sidecar/seed/settings.ts";
import { maySkipStaged, normalizedId, parseMarker } from "../../sidecar/seed/target.ts";
import { countText, progressText, sizeText } from "../../sidecar/seed/text.ts";

describe("a server is found by what is in its folders", () => {
  const find = (files: readonly string[], folder: string, config?: string) =>
    findServer(folder, config, "--from-config", (path) => files.includes(path));

  test.each([
    ["one folder", ["/a/data/jellyfin.db", "/a/config/system.xml"], "/a", "/a", "/a/config"],
    ["one folder", ["/a/data/library.db", "/a/config/network.xml"], "/a", "/a", "/a/config"],
    [
      "config beside data",
      ["/a/data/data/device.txt", "/a/config/system.xml"],
      "/a",
      "/a/data",
      "/a/config",
    ],
    ["config around data", ["/a/data/data/jellyfin.db", "/a/system.xml"], "/a", "/a/data", "/a"],
    [
      "system folders",
      ["/var/lib/jellyfin/data/jellyfin.db", "/etc/jellyfin/system.xml"],
      "/var/lib/jellyfin",
      "/var/lib/jellyfin",
      "/etc/jellyfin",
    ],
    [
      "system folders",
      ["/mnt/var/lib/jellyfin/data/jellyfin.db", "/mnt/etc/jellyfin/system.xml"],
      "/mnt",
      "/mnt/var/lib/jellyfin",
      "/mnt/etc/jellyfin",
    ],
  ])("«%s» %j", (kind, files, folder, dataFolder, configFolder) => {
    expect(find(files, folder)).toEqual({ kind, dataFolder, configFolder });
  });

  test("two named folders are taken as they are", () => {
    const files = ["/x/data/jellyfin.db", "/y/system.xml"];
    expect(find(files, "/x", "/y")).toEqual({
      kind: "two folders",
      dataFolder: "/x",
      configFolder: "/y",
    });
  });

  test.each([
    ["nothing", [], "There is no Jellyfin server in /a"],
    [
      "no configuration anywhere",
      ["/a/data/jellyfin.db"],
      "name its config folder, the one with system.xml, with --from-config",
    ],
    [
      "the data folder of a pair",
      ["/a/data/jellyfin.db", "/system.xml"],
      "name / with --from-config",
    ],
    [
      "two servers",
      ["/a/data/jellyfin.db", "/a/data/data/jellyfin.db"],
      "the data of two servers, /a and /a/data",
    ],
  ])("%s is told with what to do", (_, files, words) => {
    expect(find(files, "/a")).toEqual({ problem: expect.stringContaining(words) });
  });

  test.each([
    ["one folder", "/b", "/b", "/b/config"],
    ["config beside data", "/b", "/b/data", "/b/config"],
    ["config around data", "/b", "/b/data", "/b"],
    ["system folders", "/b", "/b", "/b/config"],
    ["one folder", "/var/lib/jellyfin", "/var/lib/jellyfin", "/etc/jellyfin"],
  ] as const)(
    "a copy of «%s» in %s is arranged as its source, or as the place demands",
    (kind, to, dataFolder, configFolder) => {
      const source = { kind, dataFolder: "/a", configFolder: "/a/config" };
      expect(targetFolders(source, to, undefined)).toMatchObject({ dataFolder, configFolder });
    },
  );

  test("folders are walked once, the config folder's own first", () => {
    const roots = (dataFolder: string, configFolder: string) =>
      rootsOf({ kind: "two folders", dataFolder, configFolder });
    expect(roots("/a", "/a/config")).toEqual(["/a"]);
    expect(roots("/a/data", "/a")).toEqual(["/a"]);
    expect(roots("/x", "/y")).toEqual(["/y", "/x"]);
    expect([isInside("/a/..b", "/a"), isInside("/ab", "/a"), isInside("/", "/a")]).toEqual([
      true,
      false,
      false,
    ]);
  });
});

describe("a link in the copy", () => {
  const pieces = [
    { source: "/a", target: "/b" },
    { source: "/etc/a", target: "/b/config" },
  ];
  test.each([
    ["relative, inside", "/a/x/l", "../y", "/a/y", "../y"],
    ["absolute, inside", "/a/x/l", "/a/y", "/a/y", "../y"],
    ["into the other folder", "/a/x/l", "/etc/a/f", "/etc/a/f", "../config/f"],
    ["relative, by way of outside", "/a/l", "../a/y", "/a/y", "../a/y"],
    ["out", "/a/l", "/media", "/media", undefined],
    ["to a folder that begins alike", "/a/l", "/ab", "/ab", undefined],
  ])("%s", (_, source, said, end, text) => {
    const target = source.replace(/^\/a/, "/b");
    expect(linkText(pieces, { source, target, said, end })).toBe(text);
  });
});

describe("paths in a database", () => {
  test.each([
    ["/a/data", "/b/data"],
    ["/a/data/root/default", "/b/data/root/default"],
    ["/a/database", "/a/database"],
    ["x /a/data/y", "x /a/data/y"],
    [
      '{"P":["/a/data/root","/m"],"N":638000000000000000000,"T":"say \\"/a/data/x\\""}',
      '{"P":["/b/data/root","/m"],"N":638000000000000000000,"T":"say \\"/a/data/x\\""}',
    ],
    ['[ "/a/data" ]', '[ "/b/data" ]'],
    ['{broken "/a/data/x', '{broken "/a/data/x'],
  ])("%s", (text, moved) => {
    expect(movedText(text, "/a/data", "/b/data")).toBe(moved);
  });

  test("are known however JSON writes them", () => {
    expect(movedText('{"P":"/srv/Zo\\u00EB\\u0027s/root"}', "/srv/Zoë's", "/b")).toBe(
      '{"P":"/b/root"}',
    );
  });
});

describe("the marker of an unfinished copy", () => {
  const marker = {
    format: 1,
    phase: "copying",
    serverId: "1",
    dataFolder: "/a",
    configFolder: "/a/config",
    bootId: "boot",
    startedAt: "then",
  } as const;

  test("is read as it was written, and nothing else is taken for one", () => {
    expect(parseMarker(JSON.stringify(marker))).toEqual(marker);
    for (const text of [
      "",
      "{",
      "null",
      "[]",
      "{}",
      JSON.stringify({ ...marker, phase: "done" }),
      JSON.stringify({ ...marker, serverId: 1 }),
    ]) {
      expect(parseMarker(text)).toBeUndefined();
    }
  });

  test.each([
    ["the same source, the same start of the machine", {}, true],
    ["another server", { serverId: "2" }, false],
    ["another folder", { dataFolder: "/c" }, false],
    ["after a restart of the machine", { bootId: "later" }, false],
    ["where starts cannot be told apart", { bootId: "" }, false],
  ])("%s", (_, other, may) => {
    expect(maySkipStaged({ ...marker, ...other }, marker)).toBe(may);
    expect(maySkipStaged(marker, { ...marker, ...other })).toBe(may);
  });

  test("ids are compared however they are written", () => {
    expect(normalizedId("\uFEFF01234567-89AB-cdef-0123-456789abcdef\n")).toBe(
      "0123456789abcdef0123456789abcdef",
    );
  });
});

test("sizes, counts and progress are written for people", () => {
  expect([0, 1, 1023, 1024, 3.5 * 1024 ** 3].map(sizeText)).toEqual([
    "0 bytes",
    "1 byte",
    "1,023 bytes",
    "1.0 KiB",
    "3.5 GiB",
  ]);
  expect([countText(1, "file"), countText(1234, "file")]).toEqual(["1 file", "1,234 files"]);
  expect(progressText(0, 0)).toBe("100 % (0 bytes of 0 bytes)");
  expect(progressText(999, 1000)).toBe("99 % (999 bytes of 1,000 bytes)");
  expect(progressText(1200, 1000)).toBe("100 % (1,000 bytes of 1,000 bytes)");
});

describe("settings", () => {
  const none = { system: "", network: "", encoding: "", database: "" };
  const target = { kind: "one folder", dataFolder: "/b", configFolder: "/b/config" } as const;

  test("missing files mean Jellyfin's defaults", () => {
    expect(settingsOf(none)).toMatchObject({
      httpPort: "8096",
      baseUrl: "",
      knownProxies: [],
      answersDiscovery: true,
      quickConnect: true,
      databaseType: "Jellyfin-SQLite",
    });
  });

  test("what must not be alike on two servers is named", () => {
    const settings = settingsOf({
      system:
        "<S><QuickConnectAvailable>false</QuickConnectAvailable><MetadataPath>/big/metadata</MetadataPath><CachePath /></S>",
      network:
        "<N><BaseUrl>/jellyfin</BaseUrl><InternalHttpPort>9000</InternalHttpPort>" +
        "<EnableUPnP>true</EnableUPnP><RequireHttps>true</RequireHttps>" +
        "<KnownProxies><string>10.0.0.1</string><string>fd00::/8</string></KnownProxies>" +
        "<PublishedServerUriBySubnet><string>all=https://x&amp;y</string></PublishedServerUriBySubnet></N>",
      encoding:
        "<E><HardwareAccelerationType>vaapi</HardwareAccelerationType><TranscodingTempPath>/fast</TranscodingTempPath></E>",
      database: "",
    });
    const advice = settingsAdvice(settings, target, false).join("\n");
    for (const words of [
      "listens on 9000",
      "/b/config/network.xml",
      "KnownProxies is 10.0.0.1, fd00::/8",
      "all=https://x&y",
      "http://HOST:9000/jellyfin",
      "UPnP is on",
      "HTTPS is required",
      "Quick Connect is off",
      "MetadataPath is /big/metadata",
      "TranscodingTempPath is /fast",
      "acceleration is vaapi",
    ]) {
      expect(advice).toContain(words);
    }
    expect(advice).not.toContain("CachePath");
  });

  test("a database that is not in the server's own folder stops the copy", () => {
    const custom = (path: string) =>
      settingsOf({
        ...none,
        database:
          "<D><DatabaseType>Jellyfin-SQLite</DatabaseType>" +
          `<CustomDatabaseOption><Key>PATH</Key><Value>${path}</Value></CustomDatabaseOption></D>`,
      });
    expect(settingsProblems(custom("/elsewhere/jellyfin.db"), target)).toHaveLength(1);
    expect(settingsProblems(custom("/b/data/other.db"), target)).toEqual([]);
    expect(settingsProblems(settingsOf(none), target)).toEqual([]);
  });

  test("a path is mentioned only as a whole", () => {
    expect(mentions("<P>/srv/a/x</P>", "/srv/a")).toBe(true);
    expect(mentions("<P>/srv/a</P>", "/srv/a")).toBe(true);
    expect(mentions("<P>/srv/a-new /srv/ab /srv/a.b</P>", "/srv/a")).toBe(false);
  });
});

test.each([
  ["10.11.11", "10.9", true],
  ["10.11.11", "10.11.9", true],
  ["12.0.0", "10.11.11", true],
  ["10.11.11", "10.11.11", false],
  ["10.11.11", "10.11", false],
  ["10.11", "10.11.11", false],
  ["10.10.7", "10.11", false],
  ["12.0.0.0", "12.0.0", false],
])("version %s is newer than %s: %s", (version, than, expected) => {
  expect(isNewer(version, than)).toBe(expected);
});

describe("elements of one settings file in another", () => {
  const keys = ["Port", "Proxies", "Trickplay.Hardware"];
  const has = (inner: string) => `<?xml version="1.0"?>\n<N a="1>2">${inner}</N>\n`;

  test.each([
    ["a value", "<Port>1</Port><X />", "<Port>2</Port><X>own</X>", "<Port>2</Port><X />"],
    [
      "a list",
      "<Proxies /><Port>1</Port>",
      "<Port>1</Port><Proxies><s>p</s></Proxies>",
      "<Proxies><s>p</s></Proxies><Port>1</Port>",
    ],
    [
      "one that lies in another",
      "<Trickplay><Hardware>true</Hardware><Q>4</Q></Trickplay>",
      "<Trickplay><Hardware>false</Hardware><Q>5</Q></Trickplay>",
      "<Trickplay><Hardware>false</Hardware><Q>4</Q></Trickplay>",
    ],
    ["one that was not there", "\n  <X />\n", "<Port>2</Port>", "\n  <X />\n  <Port>2</Port>\n"],
    ["none where the own one has none", "\n  <Port>1</Port>\n  <X />\n", "", "\n  <X />\n"],
    ["none where the own one says nil", "<Port>1</Port>", '<Port xsi:nil="true" />', ""],
    [
      "not one of that name elsewhere",
      "<Y><Port>9</Port></Y><Port>1</Port>",
      "<!-- <Port>7</Port> --><Port>2</Port>",
      "<Y><Port>9</Port></Y><Port>2</Port>",
    ],
    [
      "one with text that looks like a tag",
      "<Port>1</Port>",
      "<Port><![CDATA[</Port>]]></Port>",
      "<Port><![CDATA[</Port>]]></Port>",
    ],
    [
      "one that was added behind one that is left out",
      "\n  <Port>1</Port>\n",
      "<Proxies>p</Proxies>",
      "\n  <Proxies>p</Proxies>\n",
    ],
  ])("%s", (_name, text, own, expected) => {
    expect(withOwnElements(has(text), has(own), keys)).toBe(has(expected));
  });

  test("an empty document is opened for them", () => {
    expect(withOwnElements("<N />", "<N><Port>2</Port></N>", keys)).toBe(
      "<N>\n  <Port>2</Port>\n</N>",
    );
    expect(withOwnElements("<N></N>", "<N><Port>2</Port></N>", keys)).toBe(
      "<N>\n  <Port>2</Port>\n</N>",
    );
    expect(withOwnElements("<N><Port>1</Port></N>", "<N />", keys)).toBe("<N></N>");
    expect(onlyOwnElements(has("<X>1</X><Port>2</Port>"), keys)).toBe(
      '<?xml version="1.0"?>\n<N a="1>2">\n  <Port>2</Port>\n</N>\n',
    );
  });

  test.each([
    "",
    "no settings",
    "<N><Port>2</N>",
    "<N><Port>2</Port>",
    "<N /><N />",
    "<N>1 < 2</N>",
    "</N>",
    '<!DOCTYPE N [<!ENTITY e "e">]><N />',
    "<Other />",
    "<A>".repeat(100) + "</A>".repeat(100),
  ])("what Jellyfin would not read either is nothing: %j", (text) => {
    expect(withOwnElements("<N><Port>1</Port></N>", text, keys)).toBeUndefined();
    expect(withOwnElements(text, "<N><Port>1</Port></N>", keys)).toBeUndefined();
  });
});
