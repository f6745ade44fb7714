// Sessions that a Jellybloom itself keeps at a Jellyfin. Each sidecar holds one socket with the API key, so
// that another Jellybloom, which has another store, can notice that this server is kept already; clients
// must never see that session in a list. This file knows its device id and tells ours from a rival's.
//
// A session counts only when it has no user: only API keys make such sessions and only administrators make
// API keys, so a viewer who chose a device id of this form can neither hide nor stop a start.

import type { DeviceFields } from "./credentials.ts";

/** What is needed of a session, whether it was read by us or is on its way to a client. */
export interface OwnedSession {
  readonly deviceId: string;
  /** Empty for a session of an API key. */
  readonly userId: string;
}

/** A Jellybloom that keeps a server. */
export interface Rival {
  /** The first 12 hex digits of its store's cluster id. */
  readonly cluster: string;
  /** What it calls this server. */
  readonly replica: string;
}

const clusterDigits = 12;
/** Before the replica's name, which never has a colon. */
const feedMark = "feed:";
const presenceForm = /^jellybloom-([0-9a-f]{1,12})-(?:feed:)?(.{1,63})$/;

/** The device id of the presence at `replica`: equal for every process of one cluster. */
export function presenceDeviceId(clusterId: string, replica: string): string {
  return `jellybloom-${clusterPrefix(clusterId)}-${replica}`;
}

/** What the presence says of itself to the server, and so to an administrator who looks. */
export function presenceDevice(clusterId: string, replica: string, version: string): DeviceFields {
  return {
    client: "Jellybloom",
    device: `Jellybloom sidecar of ${replica}`,
    deviceId: presenceDeviceId(clusterId, replica),
    version,
  };
}

/** The device of the socket that listens for changes of everybody's watched states at `replica`. */
export function feedDevice(clusterId: string, replica: string, version: string): DeviceFields {
  return {
    client: "Jellybloom",
    device: `Jellybloom feed of ${replica}`,
    deviceId: presenceDeviceId(clusterId, `${feedMark}${replica}`),
    version,
  };
}

/** True for the session of any Jellybloom's presence or feed: it is left out of what clients are shown. */
export function isOurSession(session: OwnedSession): boolean {
  return keeperOf(session) !== undefined;
}

/** The Jellybloom whose session this is, its presence or its feed; undefined: somebody else's. */
export function keeperOf({ userId, deviceId }: OwnedSession): Rival | undefined {
  const [, cluster, replica] = userId === "" ? (presenceForm.exec(deviceId) ?? []) : [];
  return cluster === undefined || replica === undefined ? undefined : { cluster, replica };
}

/**
 * The first session that belongs to a Jellybloom with another store. Sessions of the same cluster are the
 * same keeper: a rolling restart, or a second copy of this sidecar (but see `findTwin`). A rival that crashed is not
 * found, because its session ends with its socket.
 */
export function findRival(sessions: readonly OwnedSession[], clusterId: string): Rival | undefined {
  const own = clusterPrefix(clusterId);
  return sessions.map(keeperOf).find((keeper) => keeper !== undefined && keeper.cluster !== own);
}

/**
 * What else this cluster calls the server that it calls `replica`: a sidecar of another name is at the same server. Not
 * found when that one has ended: a sidecar that was renamed is no twin of itself.
 */
export function findTwin(
  sessions: readonly OwnedSession[],
  clusterId: string,
  replica: string,
): string | undefined {
  const own = clusterPrefix(clusterId);
  const twin = sessions
    .map(keeperOf)
    .find((keeper) => keeper?.cluster === own && keeper.replica !== replica);
  return twin?.replica;
}

function clusterPrefix(clusterId: string): string {
  const digits = clusterId.toLowerCase().replaceAll(/[^0-9a-f]/g, "");
  return (digits === "" ? "0" : digits).slice(0, clusterDigits);
}
