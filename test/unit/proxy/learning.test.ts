/** Which logins end with a request that a server agreed to, as Jellyfin's controllers name devices and users. */
import { describe, expect, test } from "vitest";
import type { Identity } from "../../../core/cluster/identity.ts";
import { matchRoute } from "../../../core/jellyfin/routes.ts";
import { endedWith } from "../../../proxy/learning.ts";

const ann = "aa".repeat(16);
const bob = "bb".repeat(16);
const dashed = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa";

function login(userId: string, deviceId: string, isOver = false): Identity {
  const tokens = isOver ? {} : { a: { hash: "", sealed: "" } };
  const key = `${userId}.${deviceId}`;
  return { kind: "user", key, userId, deviceId, tokens } as Partial<Identity> as Identity;
}

const phone = login(ann, "phone");
const identities = [
  phone,
  login(ann, "desk"),
  login(ann, "old", true),
  login(bob, "phone"),
  login(bob, "tv"),
];
const all = (userId: string) =>
  identities.filter((one) => one.userId === userId && one.deviceId !== "old").map(({ key }) => key);

function ended(method: string, target: string, body: unknown = {}): string[] {
  const [path = "", rawQuery = ""] = target.split("?");
  const { route, params } = matchRoute(method, path, []);
  const bodyText = JSON.stringify(body);
  const asked = { route, params, rawQuery, bodyText, caller: phone };
  return endedWith(asked, identities).map(({ key }) => key);
}

describe("ends", () => {
  test.each<[string, string, unknown, string[]]>([
    ["DELETE", "/Devices?id=tv", {}, [`${bob}.tv`]],
    ["DELETE", "/Devices?ID=tv&id=desk", {}, [`${ann}.desk`, `${bob}.tv`]],
    ["DELETE", "/Devices?id=phone", {}, [`${ann}.phone`, `${bob}.phone`]],
    ["DELETE", "/Devices?id=old", {}, []],
    ["DELETE", "/Devices", {}, []],
    ["POST", "/Users/Password", {}, [`${ann}.desk`]],
    ["POST", "/Users/Password?userId=", {}, [`${ann}.desk`]],
    ["POST", `/Users/Password?userId={${dashed}}`, {}, [`${ann}.desk`]],
    ["POST", `/Users/Password?userId=${bob}`, {}, all(bob)],
    ["POST", `/Users/${bob}/Password?userId=${ann}`, {}, all(bob)],
    ["POST", "/Users/Password", { ResetPassword: true }, []],
    ["POST", "/Users/Password", { resetPassword: true, ResetPassword: false }, [`${ann}.desk`]],
    ["POST", `/Users/${bob}/Policy`, { IsDisabled: true }, all(bob)],
    ["POST", `/Users/${bob}/Policy`, { IsDisabled: false }, []],
    ["DELETE", `/Users/${dashed}`, {}, all(ann)],
    ["DELETE", `/Users/${bob}`, {}, all(bob)],
    ["POST", "/Sessions/Logout", {}, []],
  ])("%s %s %j", (method, target, body, expected) => {
    expect(ended(method, target, body).sort()).toEqual([...expected].sort());
  });
});
