// Seeding: the data and config folders of a server, which may be running, become those of a second one,
// which is not. The copy starts as its equal: same server id, same users and passwords, tokens and API
// keys of that moment, same item ids. From then on the two go their own ways.
//
// Order of work, and why: look at everything first, so that a refusal changes nothing; copy the files,
// which takes long; then the databases, so that they are as young as can be; then the files that changed
// meanwhile, so that no database speaks of a file that is not there; prove the databases; put everything
// onto the disk; only then put it into place (target.ts says why no moment of this is dangerous).

import { existsSync } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { dirname, join, relative, sep } from "node:path";
import {
  explained,
  findSource,
  findTarget,
  refuse,
  refuseClosedTarget,
  refuseFullDisk,
  refuseMounts,
  refuseRunningTarget,
  refuseSamePlaces,
  refuseState,
  requireServerId,
} from "./checks.ts";
import {
  copyFiles,
  giveAttributes,
  isStaged,
  makeFolders,
  makeLinks,
  makeTimesExact,
  prune,
  stagedPaths,
  syncFolder,
} from "./copy.ts";
import { checkDatabase, copyDatabase } from "./database.ts";
import { isInside, layoutText, rootsOf, type ServerFolders, serverDatabases } from "./layout.ts";
import { moveDatabasePaths, readOwnPath } from "./paths.ts";
import { type CopyPlan, type PlannedFile, planCopy, type WalkOptions } from "./plan.ts";
import { codeOf, firstOf, SeedProblem } from "./problem.ts";
import {
  filesThatMention,
  readSettings,
  type ServerSettings,
  settingsAdvice,
  settingsProblems,
} from "./settings.ts";
import {
  block,
  clearServer,
  emptyStaging,
  findMounts,
  finish,
  inspectTarget,
  isSameSource,
  lockTarget,
  type Marker,
  markerName,
  maySkipStaged,
  openStaging,
  passingFolder,
  place,
  readBootId,
  readServerId,
  stagedPath,
  stagingName,
  type TargetState,
  writeMarkers,
} from "./target.ts";
import { countText, Progress, sizeText } from "./text.ts";

/** What a server can make again from its media and its databases, or does not need. */
export const rebuildable = ["trickplay", "subtitles", "attachments", "backups"] as const;
export type Rebuildable = (typeof rebuildable)[number];

export interface SeedOptions {
  readonly from: string;
  readonly fromConfig: string | undefined;
  readonly to: string;
  readonly toConfig: string | undefined;
  readonly without: readonly Rebuildable[];
  /** The path under which the new server sees its data folder, where that is not known otherwise. */
  readonly seenAs: string | undefined;
  /** The id of the server which the target holds and may lose. */
  readonly replace: string | undefined;
  readonly followLinks: boolean;
  readonly progressIntervalMs: number;
  /** How long to wait for a lock which the source's server has on one of its databases. */
  readonly lockLimitMs: number;
}

export type Tell = (line: string) => void;

/** Made anew by every server, so never copied. */
const ownEntries = ["cache", "log", "logs", "transcodes", "transcoding-temp"];
const shownLimit = 20;
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
 * Copies a server.
 *
 * @throws SeedProblem with what stands in the way. Until «Copying.» was told the target is as it was;
 *   after that it is marked as unfinished, and the same call goes on.
 */
export async function seed(options: SeedOptions, tell: Tell): Promise<void> {
  const source = await findSource(options.from, options.fromConfig);
  const target = await findTarget(options.to, options.toConfig, source);
  await refuseSamePlaces(source, target);
  const serverId = await requireServerId(source);
  const settings = await readSettings(source.configFolder);
  refuse(settingsProblems(settings, source));
  tell(`From ${layoutText(source)}.`);
  tell(`To ${layoutText(target)}.`);

  const marker = await newMarker(source, serverId);
  const state = await inspectTarget(target);
  refuseState(state, options.replace, serverId, options.to);
  await refuseRunningTarget(target);
  const job: Job = { options, source, target, settings, marker, state, tell };
  const begun = state.kind === "unfinished" ? state.marker : undefined;
  if (begun !== undefined && begun.phase !== "copying" && isSameSource(begun, marker)) {
    await rollForward(job, begun);
  } else {
    await copyServer(job);
  }
  await tellEnd(job);
}

interface Job {
  readonly options: SeedOptions;
  readonly source: ServerFolders;
  readonly target: ServerFolders;
  readonly settings: ServerSettings;
  /** What this run writes into the target. */
  readonly marker: Marker;
  /** What the target held at first. */
  readonly state: TargetState;
  readonly tell: Tell;
}

async function copyServer(job: Job): Promise<void> {
  const { target, marker, state, tell } = job;
  const walk = walkOptions(job);
  const plan = await planCopy(walk);
  tellPlan(plan, job);
  refuse(plan.problems);
  const mayKeep = "marker" in state && maySkipStaged(state.marker, marker);
  const left = mayKeep ? await notStaged(plan.files, target) : plan.files;
  await refuseFullDisk([...left, ...plan.databases], target);
  await refuseClosedTarget(target);
  refuseMounts(await findMounts(target, topTargets(plan, target)));

  await openStaging(target);
  const unlock = lockTarget(target);
  try {
    await begin(job, mayKeep);
    const kept = plan.files.length - left.length;
    if (kept > 0) tell(`${countText(kept, "file")} of an earlier run need no copying.`);
    tell("Copying.");
    await stage(job, walk, plan, left);
    await refuseRunningTarget(target);
    await writeMarkers(target, { ...marker, phase: "clearing" });
    if (state.kind === "server") await clearServer(target);
    await finishPlacing(job);
  } catch (error) {
    throw explained(error, marker);
  } finally {
    unlock();
  }
}

/** Marks the target as unfinished and makes it ready to be copied into. */
async function begin({ target, marker, state }: Job, mayKeep: boolean): Promise<void> {
  if (!mayKeep) await emptyStaging(target);
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

/** Everything is staged: puts it into place. */
async function finishPlacing({ source, target, marker }: Job): Promise<void> {
  await writeMarkers(target, { ...marker, phase: "placing" });
  await place(target);
  const placedId = await readServerId(target.dataFolder);
  if (placedId !== marker.serverId) {
    throw new SeedProblem(
      `What was copied into ${target.dataFolder} is not there any more: remove ${markerName}` +
        ` and ${stagingName} from it, and run the same command again.`,
    );
  }
  await giveRootAttributes(source.dataFolder, target.dataFolder);
  await giveRootAttributes(source.configFolder, target.configFolder);
  await finish(target);
}

/** An earlier run had everything staged and was interrupted while it put it into place. */
async function rollForward(job: Job, begun: Marker): Promise<void> {
  const { target, tell } = job;
  tell(`The copy begun at ${begun.startedAt} was whole and only had to be put into place.`);
  await openStaging(target);
  const unlock = lockTarget(target);
  try {
    if (begun.phase === "clearing") await clearServer(target);
    await finishPlacing(job);
  } catch (error) {
    throw explained(error, begun);
  } finally {
    unlock();
  }
}

/** Copies everything to staging, proves it there, and brings it onto the disk. */
async function stage(
  job: Job,
  walk: WalkOptions,
  plan: CopyPlan,
  left: readonly PlannedFile[],
): Promise<void> {
  const { options, target, tell } = job;
  const staged = (path: string): string => stagedPath(target, path);
  const expectedBytes = totalBytes(left) + totalBytes(plan.databases);
  const progress = new Progress(expectedBytes, options.progressIntervalMs, tell);
  const onBytes = (bytes: number): void => progress.add(bytes);
  await makeFolders(plan.directories.map((folder) => staged(folder.target)));
  await copyPlain(left, target, onBytes);
  await copyDatabases(plan.databases, job, onBytes);
  progress.complete();

  const final = await catchUp(job, walk, plan);
  for (const root of rootsOf(target)) await prune(staged(root), stagedPaths(final, staged));
  await makeLinks(final.links, staged);
  if (!(await makeTimesExact(final.files, walk.pieces, staged))) {
    tell("File times are kept to the microsecond only: there is no GNU cp here to set them.");
  }
  await moveOwnPaths(final.databases, job);
  await proveDatabases(final.databases, job);
  if ((await readServerId(staged(target.dataFolder))) !== job.marker.serverId) {
    throw new SeedProblem("The server's id changed while it was copied: run this again.");
  }
  for (const folder of [...final.directories].reverse()) {
    // A folder that its owner may not write to could not be moved, nor be used by a server.
    await giveAttributes(staged(folder.target), { ...folder, mode: folder.mode | 0o700 });
  }
  for (const root of rootsOf(target)) await syncFolder(staged(root));
}

/** Copies what a running server changed since the first walk. Returns what is staged in the end. */
async function catchUp(job: Job, walk: WalkOptions, plan: CopyPlan): Promise<CopyPlan> {
  const { target, tell } = job;
  const staged = (path: string): string => stagedPath(target, path);
  const final = await planCopy({ ...walk, earlier: plan });
  refuse(final.problems);
  await makeFolders(final.directories.map((folder) => staged(folder.target)));
  const changed = await notStaged(final.files, target);
  const copied = new Set(plan.databases.map(({ source }) => source));
  const born = final.databases.filter(({ source }) => !copied.has(source));
  const nothing = (): void => undefined;
  const vanished = new Set(await copyPlain(changed, target, nothing));
  await copyDatabases(born, job, nothing);
  const count = changed.length + born.length;
  if (count > 0) tell(`${countText(count, "file")} changed meanwhile, copied again.`);
  return {
    ...final,
    files: final.files.filter((file) => !vanished.has(file)),
    databases: final.databases.filter((file) => existsSync(staged(file.target))),
  };
}

async function copyPlain(
  files: readonly PlannedFile[],
  target: ServerFolders,
  onBytes: (bytes: number) => void,
): Promise<readonly PlannedFile[]> {
  return await copyFiles({
    files,
    staged: (path) => stagedPath(target, path),
    passingFolder: (path) => passingFolder(target, path),
    onBytes,
  });
}

async function copyDatabases(
  databases: readonly PlannedFile[],
  { options, target }: Job,
  onBytes: (bytes: number) => void,
): Promise<void> {
  for (const file of databases) {
    const goal = stagedPath(target, file.target);
    try {
      await copyDatabase({
        source: file.source,
        target: goal,
        scratchFolder: join(passingFolder(target, file.target), "database"),
        lockLimitMs: options.lockLimitMs,
        onBytes,
      });
    } catch (error) {
      // A plugin removed it while we copied; the second walk does not have it.
      if (codeOf(error) === "ENOENT" && !existsSync(file.source)) continue;
      throw error;
    }
    await giveAttributes(goal, file);
  }
}

/** Makes the copy's own databases speak of the copy's folder, where that has another path. */
async function moveOwnPaths(databases: readonly PlannedFile[], job: Job): Promise<void> {
  const { options, source, target, tell } = job;
  const own = databases.filter((file) =>
    serverDatabases.some((name) => file.source === join(source.dataFolder, "data", name)),
  );
  const staged = own.map((file) => ({ file, path: stagedPath(target, file.target) }));
  const seen = staged.map(({ path }) => readOwnPath(path)).find((path) => path !== undefined);
  if (seen === undefined) return;
  const isSeenHere = (await realpath(seen).catch(() => undefined)) === source.dataFolder;
  const goal = options.seenAs ?? (isSeenHere ? target.dataFolder : seen);
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

async function proveDatabases(
  databases: readonly PlannedFile[],
  { source, target, tell }: Job,
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

// ---- Deciding what is copied -------------------------------------------------------------------------

function walkOptions({ options, source, target, settings }: Job): WalkOptions {
  const { dataFolder, configFolder } = source;
  const own = [dataFolder, configFolder].flatMap((folder) =>
    [...ownEntries, stagingName, markerName].map((name) => join(folder, name)),
  );
  const remade = ["CachePath", "TranscodingTempPath"]
    .map((name) => settings.ownFolders.get(name))
    .filter((path) => path !== undefined && path !== dataFolder && path !== configFolder);
  const chosen = options.without.map((name) => join(dataFolder, "data", name));
  // Each piece leaves the other one to it, where one lies in the other.
  const others = [dataFolder, configFolder];
  return {
    pieces: [
      { source: dataFolder, target: target.dataFolder },
      { source: configFolder, target: target.configFolder },
    ],
    leaveOut: new Set(
      [...own, ...remade, ...chosen, ...others].filter((path) => path !== undefined),
    ),
    followLinks: options.followLinks,
    forbidden: [dataFolder, configFolder, target.dataFolder, target.configFolder],
  };
}

async function notStaged(
  files: readonly PlannedFile[],
  target: ServerFolders,
): Promise<readonly PlannedFile[]> {
  const left: PlannedFile[] = [];
  for (const file of files) {
    if (!(await isStaged(file, stagedPath(target, file.target)))) left.push(file);
  }
  return left;
}

function totalBytes(files: readonly PlannedFile[]): number {
  return files.reduce((sum, file) => sum + file.bytes, 0);
}

/** The entries of the target's folders which the copy brings. */
function topTargets({ directories }: CopyPlan, target: ServerFolders): readonly string[] {
  const roots = rootsOf(target);
  return directories.map((folder) => folder.target).filter((path) => roots.includes(dirname(path)));
}

async function newMarker(source: ServerFolders, serverId: string): Promise<Marker> {
  return {
    format: 1,
    phase: "copying",
    serverId,
    dataFolder: source.dataFolder,
    configFolder: source.configFolder,
    bootId: (await readBootId()) ?? "",
    startedAt: new Date().toISOString(),
  };
}

/** The target's own folder belongs to whom the source's belongs to, so that the new server may use it. */
async function giveRootAttributes(from: string, to: string): Promise<void> {
  const { mode, uid, gid, mtimeNs } = await stat(from, { bigint: true });
  const entry = { mode: Number(mode) & 0o7777, uid: Number(uid), gid: Number(gid) };
  try {
    await giveAttributes(to, { ...entry, source: from, target: to, modifiedNs: mtimeNs });
  } catch (error) {
    // A folder that somebody else made for us stays theirs; they let us write to it.
    if (codeOf(error) !== "EPERM") throw error;
  }
}

// ---- What is told ------------------------------------------------------------------------------------

function tellPlan(plan: CopyPlan, { options, source, tell }: Job): void {
  const all = [...plan.files, ...plan.databases];
  const databases = `${countText(plan.databases.length, "database")} (${sizeText(totalBytes(plan.databases))})`;
  tell(`${countText(all.length, "file")}, ${sizeText(totalBytes(all))}, of which ${databases}.`);
  const parts = new Map<string, number>();
  for (const file of all) {
    const base = isInside(file.source, source.dataFolder) ? source.dataFolder : source.configFolder;
    const name = relative(dirname(base), file.source).split(sep).slice(0, 2).join("/");
    parts.set(name, (parts.get(name) ?? 0) + file.bytes);
  }
  const largest = [...parts].sort(([, left], [, right]) => right - left).slice(0, 5);
  tell(`Largest: ${largest.map(([name, bytes]) => `${name} ${sizeText(bytes)}`).join(", ")}.`);
  const left = ["caches", "logs", "transcodes", ...options.without];
  tell(`Left out: ${left.join(", ")}.`);
  for (const note of firstOf(plan.notes, shownLimit)) tell(note);
}

async function tellEnd({ options, source, target, settings, marker, tell }: Job): Promise<void> {
  const version =
    settings.version === undefined ? "" : `, last run by Jellyfin ${settings.version}`;
  tell(`Done: ${options.to} is a whole copy of server ${marker.serverId}${version}.`);
  for (const advice of settingsAdvice(settings, target)) tell(`- ${advice}`);
  const mentioning = await filesThatMention(target, [source.dataFolder, source.configFolder]);
  for (const path of firstOf(mentioning, shownLimit)) {
    tell(`- ${path} names a folder of the old server: the new one must not write there.`);
  }
  if (options.without.includes("trickplay")) {
    tell(
      "- Trickplay images were left out: the new server makes them when its task for them runs.",
    );
  }
  const same = settings.version === undefined ? "the same version" : `Jellyfin ${settings.version}`;
  tell(
    `Next: start the new server with ${same} and the same media at the same paths; then` +
      ` put the door in front of both: jellybloom up --replica a=http://OLD:${settings.httpPort}` +
      " --replica b=http://NEW:PORT --api-key KEY.",
  );
}
