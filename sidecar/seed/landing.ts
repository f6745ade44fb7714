// The target's side of a seed, wherever the data come from: it is marked as unfinished before the first byte, what
// was staged is proven, and only then it is put into place (target.ts says why no moment of this is dangerous).

import { stat } from "node:fs/promises";
import { join, relative } from "node:path";
import { explained, refuse, refuseNewer, refuseRunningTarget } from "./checks.ts";
import { giveAttributes, syncFolder } from "./copy.ts";
import { checkDatabase, databaseVersion } from "./database.ts";
import { rootsOf, type ServerFolders, serverDatabases } from "./layout.ts";
import {
  dropOwnSettings,
  giveOwnSettings,
  keepOwnSettings,
  keepsOwnSettings,
} from "./own-settings.ts";
import { moveDatabasePaths, readOwnPath } from "./paths.ts";
import type { PlannedEntry, PlannedFile } from "./plan.ts";
import { codeOf, SeedProblem } from "./problem.ts";
import {
  block,
  clearServer,
  emptyStaging,
  finish,
  lockTarget,
  type Marker,
  markerName,
  openStaging,
  place,
  readServerId,
  stagedPath,
  stagingName,
  type TargetState,
  writeMarkers,
} from "./target.ts";
import { countText } from "./text.ts";
import { recordedVersion } from "./version.ts";

export interface Landing {
  /** Where the data come from: what they are called in sentences is relative to it. */
  readonly source: ServerFolders;
  readonly target: ServerFolders;
  /** What this run writes into the target. */
  readonly marker: Marker;
  /** What the target held at first. */
  readonly state: TargetState;
  readonly seenAs: string | undefined;
  /** The version which the new server runs: data of a newer one are refused. */
  readonly forVersion: string | undefined;
  /** Whether the old server saw its data folder under this path where it was copied. */
  readonly isOwnPath: (path: string) => Promise<boolean>;
  /** Gives the target's own folders to whom the source's belong. */
  readonly giveRoots: () => Promise<void>;
  /** Called when everything is proven and before it is put into place; what it throws leaves the copy unfinished. */
  readonly announce: () => Promise<void>;
  readonly tell: (line: string) => void;
}

/** Tables which tell an owner at a glance whether all is there: of 10.11 and later, then of 10.10. */
const toldTables = [
  "Users",
  "Devices",
  "ApiKeys",
  "BaseItems",
  "UserData",
  "TypedBaseItems",
  "UserDatas",
];

/**
 * Stages by `stage` and puts what is staged into place, alone in the target. What the world does wrong comes out as a
 * SeedProblem that says how to go on.
 *
 * @returns whether the target held a server, whose own settings the copy has now.
 */
export async function land(
  landing: Landing,
  mayKeep: boolean,
  stage: () => Promise<void>,
): Promise<boolean> {
  const { target, marker, state } = landing;
  await openStaging(target);
  const unlock = lockTarget(target);
  try {
    await begin(landing, mayKeep);
    await stage();
    await settle(landing);
    await landing.announce();
    await refuseRunningTarget(target);
    await writeMarkers(target, { ...marker, phase: "clearing" });
    if (state.kind === "server") await clearServer(target);
    return await finishPlacing(landing);
  } catch (error) {
    throw explained(error, marker);
  } finally {
    unlock();
  }
}

/** Marks the target as unfinished and makes it ready to be copied into. */
async function begin({ target, marker, state }: Landing, mayKeep: boolean): Promise<void> {
  if (!mayKeep) await emptyStaging(target);
  // Of an unfinished copy they were kept when it was begun.
  if (state.kind === "server") await keepOwnSettings(target, (await recordedVersion(target)) ?? "");
  else if (state.kind === "empty") await dropOwnSettings(target);
  // What another source's copy left in place before it was interrupted was never a whole server.
  if (
    state.kind === "unfinished" &&
    state.marker !== undefined &&
    state.marker.phase !== "copying"
  ) {
    await clearServer(target);
  }
  await writeMarkers(target, { ...marker, phase: "copying" });
  await block(target, state.kind === "server");
}

/** What is the replaced server's own stays its own. */
async function settle({ target, tell }: Landing): Promise<void> {
  for (const file of await giveOwnSettings(target)) {
    tell(
      `${file} of the server that is replaced cannot be read: the copy has the other server's ports, addresses, folders` +
        " and hardware in it. Look at it before you start the copy.",
    );
  }
}

/** Everything is staged: puts it into place. Returns whether the copy has the settings of a server that was here. */
async function finishPlacing({ target, marker, giveRoots }: Landing): Promise<boolean> {
  const hasOwn = await keepsOwnSettings(target);
  await writeMarkers(target, { ...marker, phase: "placing" });
  await place(target);
  const placedId = await readServerId(target.dataFolder);
  if (placedId !== marker.serverId) {
    throw new SeedProblem(
      `What was copied into ${target.dataFolder} is not there any more: remove ${markerName}` +
        ` and ${stagingName} from it, and run the same command again.`,
    );
  }
  await giveRoots();
  await finish(target);
  return hasOwn;
}

/** An earlier run had everything staged and was interrupted while it put it into place. Returns what `land` does. */
export async function rollForward(landing: Landing, begun: Marker): Promise<boolean> {
  const { target, tell } = landing;
  tell(`The copy begun at ${begun.startedAt} was whole and only had to be put into place.`);
  await openStaging(target);
  const unlock = lockTarget(target);
  try {
    if (begun.phase === "clearing") await clearServer(target);
    return await finishPlacing(landing);
  } catch (error) {
    throw explained(error, begun);
  } finally {
    unlock();
  }
}

/** Moves own paths, proves the databases and the id, gives the folders their attributes, and waits for the disk. */
export async function prove(
  landing: Landing,
  staged: {
    readonly directories: readonly PlannedEntry[];
    readonly databases: readonly PlannedFile[];
  },
): Promise<void> {
  const { target, marker } = landing;
  // The settings do not always tell who wrote these data; the database does.
  for (const { target: place } of ownDatabases(staged.databases, landing)) {
    refuseNewer(databaseVersion(stagedPath(target, place)) ?? "", landing.forVersion);
  }
  await moveOwnPaths(staged.databases, landing);
  await proveDatabases(staged.databases, landing);
  if ((await readServerId(stagedPath(target, target.dataFolder))) !== marker.serverId) {
    throw new SeedProblem("The server's id changed while it was copied: run this again.");
  }
  for (const folder of [...staged.directories].reverse()) {
    // A folder that its owner may not write to could not be moved, nor be used by a server.
    const mode = folder.mode | 0o700;
    await giveAttributes(stagedPath(target, folder.target), { ...folder, mode });
  }
  for (const root of rootsOf(target)) await syncFolder(stagedPath(target, root));
}

/** Makes the copy's own databases speak of the copy's folder, where that has another path. */
async function moveOwnPaths(databases: readonly PlannedFile[], landing: Landing): Promise<void> {
  const { target, seenAs, isOwnPath, tell } = landing;
  const staged = ownDatabases(databases, landing).map((file) => ({
    file,
    path: stagedPath(target, file.target),
  }));
  const seen = staged.map(({ path }) => readOwnPath(path)).find((path) => path !== undefined);
  if (seen === undefined) return;
  const goal = seenAs ?? ((await isOwnPath(seen)) ? target.dataFolder : seen);
  let rows = 0;
  if (goal !== seen) {
    for (const { file, path } of staged) {
      rows += moveDatabasePaths(path, seen, goal);
      await giveAttributes(path, file);
    }
  }
  tell(
    goal === seen
      ? `The new server must see its data folder as ${goal}, as the old one does; if it does not, add --seen-as DIR.`
      : `The new server will see its data folder as ${goal}, not ${seen}: ${countText(rows, "path")} in its databases moved.`,
  );
}

function ownDatabases(
  databases: readonly PlannedFile[],
  { source }: Landing,
): readonly PlannedFile[] {
  return databases.filter((file) =>
    serverDatabases.some((name) => file.source === join(source.dataFolder, "data", name)),
  );
}

async function proveDatabases(
  databases: readonly PlannedFile[],
  { source, target, tell }: Landing,
): Promise<void> {
  tell(`Checking ${countText(databases.length, "database")}.`);
  const problems: string[] = [];
  for (const file of databases) {
    const { damage, unchecked, rows } = checkDatabase(stagedPath(target, file.target), toldTables);
    if (damage.length > 0) {
      problems.push(
        `The database ${file.source} is damaged (${damage.join("; ")}): repair it on the old server first. Nothing was put into place.`,
      );
      continue;
    }
    const counts = [...rows].map(([table, count]) => `${table} ${count.toLocaleString("en-US")}`);
    const verdict = unchecked === undefined ? "whole" : `copied, but not checked (${unchecked})`;
    tell(`  ${relative(source.dataFolder, file.source)}: ${[verdict, ...counts].join(", ")}.`);
  }
  refuse(problems);
}

/** The target's own folder belongs to whom the source's belongs to, so that the new server may use it. */
export async function giveRootAttributes(from: string, to: string): Promise<void> {
  const { mode, uid, gid, mtimeNs } = await stat(from, { bigint: true });
  const entry = { mode: Number(mode) & 0o7777, uid: Number(uid), gid: Number(gid) };
  try {
    await giveAttributes(to, { ...entry, source: from, target: to, modifiedNs: mtimeNs });
  } catch (error) {
    // A folder that somebody else made for us stays theirs; they let us write to it.
    if (codeOf(error) !== "EPERM") throw error;
  }
}
