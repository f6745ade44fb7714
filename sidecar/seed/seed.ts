// Seeding: the data and config folders of a server, which may be running, become those of a second one,
// which is not. The copy starts as its equal: same server id, same users and passwords, tokens and API
// keys of that moment, same item ids. From then on the two go their own ways.
//
// Order of work, and why: look at everything first, so that a refusal changes nothing; copy the files,
// which takes long; then the databases, so that they are as young as can be; then the files that changed
// meanwhile, so that no database speaks of a file that is not there; prove the databases; put everything
// onto the disk; only then put it into place (target.ts says why no moment of this is dangerous).

import { existsSync } from "node:fs";
import { realpath } from "node:fs/promises";
import { dirname, join, relative, sep } from "node:path";
import {
  findSource,
  findTarget,
  refuse,
  refuseClosedTarget,
  refuseFullDisk,
  refuseMounts,
  refuseNewer,
  refuseRunningTarget,
  refuseSamePlaces,
  refuseState,
  requireServerId,
} from "./checks.ts";
import { type Rebuildable, walkOptionsOf } from "./choice.ts";
import {
  copyFiles,
  giveAttributes,
  isStaged,
  makeFolders,
  makeLinks,
  makeTimesExact,
  prune,
  stagedPaths,
} from "./copy.ts";
import { copyDatabase } from "./database.ts";
import { giveRootAttributes, type Landing, land, prove, rollForward } from "./landing.ts";
import { isInside, layoutText, rootsOf, type ServerFolders } from "./layout.ts";
import { type CopyPlan, type PlannedFile, planCopy, type WalkOptions } from "./plan.ts";
import { codeOf, firstOf } from "./problem.ts";
import {
  filesThatMention,
  readSettings,
  type ServerSettings,
  settingsAdvice,
  settingsProblems,
} from "./settings.ts";
import {
  findMounts,
  inspectTarget,
  isSameSource,
  type Marker,
  maySkipStaged,
  passingFolder,
  readBootId,
  stagedPath,
} from "./target.ts";
import { countText, Progress, sizeText } from "./text.ts";

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
  /** The version which the new server runs: data of a newer one are refused. */
  readonly forVersion?: string | undefined;
  /** Called when the copy is whole and before it is put into place. */
  readonly announce?: () => Promise<void>;
}

export type Tell = (line: string) => void;

const shownLimit = 20;
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
  refuseNewer(settings.version ?? "", options.forVersion);
  tell(`From ${layoutText(source)}.`);
  tell(`To ${layoutText(target)}.`);

  const marker = await newMarker(source, serverId);
  const state = await inspectTarget(target);
  refuseState(state, options.replace, serverId, options.to);
  await refuseRunningTarget(target);
  const job: Job = {
    ...{ options, source, target, settings, marker, state, tell },
    seenAs: options.seenAs,
    forVersion: options.forVersion,
    announce: options.announce ?? (async () => undefined),
    isOwnPath: async (path) => (await realpath(path).catch(() => undefined)) === source.dataFolder,
    async giveRoots() {
      await giveRootAttributes(source.dataFolder, target.dataFolder);
      await giveRootAttributes(source.configFolder, target.configFolder);
    },
  };
  const begun = state.kind === "unfinished" ? state.marker : undefined;
  const isWhole = begun !== undefined && begun.phase !== "copying" && isSameSource(begun, marker);
  await tellEnd(job, isWhole ? await rollForward(job, begun) : await copyServer(job));
}

interface Job extends Landing {
  readonly options: SeedOptions;
  readonly settings: ServerSettings;
}

/** Returns what `land` does. */
async function copyServer(job: Job): Promise<boolean> {
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

  return await land(job, mayKeep, async () => {
    const kept = plan.files.length - left.length;
    if (kept > 0) tell(`${countText(kept, "file")} of an earlier run need no copying.`);
    tell("Copying.");
    await stage(job, walk, plan, left);
  });
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
  await prove(job, final);
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

// ---- Deciding what is copied -------------------------------------------------------------------------

function walkOptions({ options, source, target, settings }: Job): WalkOptions {
  const { without, followLinks } = options;
  return walkOptionsOf({ source, settings, without, followLinks, goal: target });
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

async function tellEnd(
  { options, source, target, settings, marker, tell }: Job,
  hasOwn: boolean,
): Promise<void> {
  const version =
    settings.version === undefined ? "" : `, last run by Jellyfin ${settings.version}`;
  tell(`Done: ${options.to} is a whole copy of server ${marker.serverId}${version}.`);
  const copied = await readSettings(target.configFolder);
  for (const advice of settingsAdvice(copied, target, hasOwn)) tell(`- ${advice}`);
  const mentioning = await filesThatMention(target, [source.dataFolder, source.configFolder]);
  for (const path of firstOf(mentioning, shownLimit)) {
    tell(`- ${path} names a folder of the old server: the new one must not write there.`);
  }
  if (options.without.includes("trickplay")) {
    tell(
      "- Trickplay images were left out: the new server makes them when its task for them runs.",
    );
  }
  if (hasOwn) return;
  const same = settings.version === undefined ? "the same version" : `Jellyfin ${settings.version}`;
  tell(
    `Next: start the new server with ${same} and the same media at the same paths; then` +
      ` put the door in front of both: jellybloom up --replica a=http://OLD:${settings.httpPort}` +
      " --replica b=http://NEW:PORT --api-key KEY.",
  );
}
