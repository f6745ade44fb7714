// Our own sessions at a server, and how a Jellybloom with another store is told from one with the same; and
// the proof of a member in the registry.

import { expect, test } from "vitest";
import { proveMember, verifyMember } from "../../../core/cluster/member.ts";
import {
  feedDevice,
  findRival,
  findTwin,
  isOurSession,
  keeperOf,
  presenceDeviceId,
} from "../../../core/jellyfin/ours.ts";
import { createSeal } from "../../../core/service/seal.ts";

const mine = "1f0c9a44-5b6d-4c1e-9a77-000000000001";
const theirs = "9e0c9a44-5b6d-4c1e-9a77-000000000001";

test("the presence is named by the first twelve digits of the cluster and the replica", () => {
  expect(presenceDeviceId(mine, "a")).toBe("jellybloom-1f0c9a445b6d-a");
});

test("a Jellybloom with another store is a rival", () => {
  const sessions = [{ deviceId: presenceDeviceId(theirs, "left-1"), userId: "" }];
  expect(findRival(sessions, mine)).toEqual({ cluster: "9e0c9a445b6d", replica: "left-1" });
});

test("a rolling restart of the same cluster is no rival", () => {
  const sessions = [
    { deviceId: presenceDeviceId(mine, "a"), userId: "" },
    { deviceId: "device-1", userId: "u" },
  ];
  expect(findRival(sessions, mine)).toBeUndefined();
});

test("another name of the same cluster at one server is its twin, by its presence or its feed", () => {
  const [own, other] = [presenceDeviceId(mine, "a"), presenceDeviceId(mine, "b")];
  const { deviceId: feed = "" } = feedDevice(mine, "b", "1");
  const sessions = (...ids: string[]) => ids.map((deviceId) => ({ deviceId, userId: "" }));
  expect(findTwin(sessions(own, other), mine, "a")).toBe("b");
  expect(findTwin(sessions(own, feed), mine, "a")).toBe("b");
  expect(findTwin(sessions(own, own, "sonarr"), mine, "a")).toBeUndefined();
  expect(findTwin(sessions(own, presenceDeviceId(theirs, "b")), mine, "a")).toBeUndefined();
  expect(findTwin([{ deviceId: other, userId: "u" }], mine, "a")).toBeUndefined();
});

test("a viewer who chose such a device id is neither hidden nor a rival", () => {
  const session = { deviceId: presenceDeviceId(theirs, "a"), userId: "b".repeat(32) };
  expect(findRival([session], mine)).toBeUndefined();
  expect(isOurSession(session)).toBe(false);
});

test("sessions of any Jellybloom's presence are ours to hide, and other API keys' are not", () => {
  expect(isOurSession({ deviceId: presenceDeviceId(theirs, "a"), userId: "" })).toBe(true);
  expect(isOurSession({ deviceId: "sonarr", userId: "" })).toBe(false);
});

test("what a sidecar listens with is its replica's as well, however long the name is", () => {
  const replica = "r".repeat(63);
  const { deviceId = "" } = feedDevice(mine, replica, "1");
  const session = { deviceId, userId: "" };
  expect(keeperOf(session)).toEqual({ cluster: "1f0c9a445b6d", replica });
  expect(isOurSession(session)).toBe(true);
});

test("a member that was announced without the cluster key, or was changed, is told apart", () => {
  const seal = createSeal("a cluster key of some length");
  const facts = {
    replica: "a",
    url: "http://10.0.0.5:8096",
    sidecarUrl: "",
    serverId: "s",
    serverVersion: "12.0.0",
    bootNonce: "n",
  };
  const member = { ...proveMember(seal, facts), atMs: 5 };
  expect(verifyMember(seal, member)).toBe(true);
  expect(verifyMember(seal, { ...member, atMs: 6 })).toBe(true);
  for (const field of Object.keys(facts)) {
    expect(verifyMember(seal, { ...member, [field]: "http://evil.example" }), field).toBe(false);
  }
  expect(verifyMember(createSeal("another key of some length"), member)).toBe(false);
});
