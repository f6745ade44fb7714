// Which requests change what plugins a server has, and what is kept of them.

import { describe, expect, test } from "vitest";
import { readPluginFacts } from "../../../core/jellyfin/changes-plugins.ts";
import { draftOf } from "../../support/journal-hands.ts";

const id = "0123456789abcdef0123456789abcdef";
const dashed = "01234567-89ab-cdef-0123-456789abcdef";
const none = { pluginId: "", version: "", name: "", repositoryUrl: "" };
const version = "17.0.0.0";

describe("the draft of a change", () => {
  test.each([
    [
      "POST",
      `/Packages/Installed/LDAP-Auth?AssemblyGuid=${dashed}&Version=${version}&apiKey=x`,
      { what: "installed", pluginId: id, version, name: "LDAP-Auth" },
      `assemblyGuid=${dashed}&version=${version}`,
    ],
    [
      "POST",
      "/Packages/Installed/My%20Letters?repositoryUrl=https%3A%2F%2Fr.example%2Fm.json",
      { what: "installed", name: "My Letters", repositoryUrl: "https://r.example/m.json" },
      "repositoryUrl=https%3A%2F%2Fr.example%2Fm.json",
    ],
    ["DELETE", `/Plugins/${dashed}/${version}`, { what: "removed", pluginId: id, version }, ""],
    ["DELETE", `/Plugins/${id}`, { what: "removed", pluginId: id }, ""],
    ["POST", `/Plugins/${id}/${version}/Enable`, { what: "enabled", pluginId: id, version }, ""],
    ["POST", `/plugins/${id}/${version}/disable`, { what: "disabled", pluginId: id, version }, ""],
  ])("%s %s", (method, target, facts, query) => {
    expect(draftOf(method, target)).toMatchObject({
      ...{ kind: "plugin", userId: "", itemId: "", facts: { ...none, ...facts } },
      request: { method, query, body: "" },
    });
  });

  test.each([
    ["DELETE", `/Packages/Installing/${id}`],
    ["POST", `/Plugins/${id}/Manifest`],
    ["GET", "/Plugins"],
    ["DELETE", "/Plugins/none"],
    ["POST", `/Plugins/${id}/newest/Enable`],
    ["POST", "/Packages/Installed/LDAP-Auth?version=1;2"],
  ])("%s %s is none", (method, target) => {
    expect(draftOf(method, target)).toBeUndefined();
  });
});

test.each([
  undefined,
  null,
  [],
  { ...none, what: "installed" },
  { ...none, what: "bought", name: "x" },
  { ...none, what: "enabled", pluginId: id },
  { ...none, what: "removed", pluginId: "../x" },
  { ...none, what: "removed", pluginId: id, version: "1/2" },
  { ...none, what: "installed", name: 3 },
  { what: "installed", name: "x" },
])("%j says nothing of a plugin", (facts) => {
  expect(readPluginFacts(facts)).toBeUndefined();
});
