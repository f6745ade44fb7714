// Ensure: obtains what a fresh clone lacks before the command after it runs. Plain JavaScript for Node 20
// and later, without dependencies, since it is what installs them. Node 24, which everything else needs,
// comes from npm as a package of its own; `npm run` puts node_modules/.bin first on the path, so the next
// command of the same script runs on it.
//
//   node tools/ensure.mjs          npm packages
//   node tools/ensure.mjs demo     and ffmpeg (a demo without it shows the tiny film that is shipped)
//   node tools/ensure.mjs test     and redis-server, ffmpeg, chromium, kubectl
//   node tools/ensure.mjs bench    and what the door is compared with
//   node tools/ensure.mjs kubectl  what the tests of k8s/ need
//
// It promises to be quick and silent when nothing is missing, to change nothing on the machine but by
// apt-get as root, and otherwise to say exactly which command to run.

import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, readFileSync, realpathSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const neededNodeMajor = 24;
const lockName = "package-lock.json";

/** A program: Debian package, any of the commands it may bring, and the services it may start. */
const programs = {
  ffmpeg: { commands: ["ffmpeg"], services: [] },
  "redis-server": { commands: ["redis-server"], services: ["redis-server"] },
  chromium: { commands: ["chromium", "chromium-browser", "google-chrome"], services: [] },
  nginx: { commands: ["nginx"], services: ["nginx"] },
  haproxy: { commands: ["haproxy"], services: ["haproxy"] },
  caddy: { commands: ["caddy"], services: ["caddy"] },
  "kubernetes-client": { commands: ["kubectl"], services: [] },
  wrk: { commands: ["wrk"], services: [] },
};

const modes = {
  "": { needs: [], mayGoWithout: [] },
  demo: { needs: [], mayGoWithout: ["ffmpeg"] },
  test: {
    needs: ["redis-server", "ffmpeg", "chromium", "kubernetes-client"],
    mayGoWithout: [],
  },
  bench: { needs: ["ffmpeg", "nginx", "haproxy", "caddy", "wrk"], mayGoWithout: [] },
  kubectl: { needs: ["kubernetes-client"], mayGoWithout: [] },
};

/** The words end up on the standard error, so that what a command prints stays its own. */
function say(text) {
  process.stderr.write(`${text}\n`);
}

/** What stands in the way; the message says what to do. */
export class Missing extends Error {}

// ---- npm packages -----------------------------------------------------------------------------------

/**
 * Whether node_modules holds what the lock file asks for. Only packages that run in production are looked
 * at when `production`, so that an image without the others is whole. Packages of other platforms may be
 * missing.
 */
export function packagesInStep(root, { production = false } = {}) {
  const wanted = readPackages(join(root, lockName));
  const present = readPackages(join(root, "node_modules", ".package-lock.json"));
  if (wanted === undefined) return existsSync(join(root, "node_modules"));
  if (present === undefined) return false;
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === "" || entry.link === true) continue;
    if (production && (entry.dev === true || entry.devOptional === true)) continue;
    const found = present[path];
    if (found === undefined && entry.optional === true) continue;
    if (found?.version !== entry.version || found?.integrity !== entry.integrity) return false;
  }
  return true;
}

function readPackages(path) {
  try {
    return JSON.parse(readFileSync(path, "utf8")).packages;
  } catch {
    // Not there, or half written by an installation that was interrupted: both mean install.
    return undefined;
  }
}

/**
 * Installs the packages, or throws Missing.
 *
 * `npm ci` asks that the lock file names even the optional packages of platforms that are not this one.
 * Where the registry does not have them all, a lock file written there cannot; npm install takes what the
 * lock file does name, in those versions and checked by their hashes.
 */
export function installPackages(root) {
  const hasLock = existsSync(join(root, lockName));
  say("Installing packages with npm …");
  const first = npm(root, hasLock ? ["ci"] : ["install"]);
  const isLockIncomplete = hasLock && first.status !== 0 && (first.stderr ?? "").includes("EUSAGE");
  const last = isLockIncomplete ? npm(root, ["install", "--no-save"]) : first;
  if (last.status === 0) return;
  throw new Missing(
    `npm could not install the packages. It says:\n\n${firstLines(last)}\n\n` +
      "When that is put right, run: npm install",
  );
}

function npm(root, words) {
  const quiet = ["--no-audit", "--no-fund", "--no-progress", "--loglevel=error"];
  const { command, prefix } = npmCommand();
  return run(command, [...prefix, ...words, ...quiet], { cwd: root });
}

/**
 * npm itself, by the Node that runs npm: the one in node_modules is about to be replaced.
 */
function npmCommand() {
  const script = process.env.npm_execpath;
  const node = process.env.npm_node_execpath;
  if (
    script?.endsWith("npm-cli.js") &&
    existsSync(script) &&
    node !== undefined &&
    existsSync(node)
  ) {
    return { command: node, prefix: [script] };
  }
  return { command: "npm", prefix: [] };
}

// ---- Node 24 ----------------------------------------------------------------------------------------

/** The Node that came with the packages, or undefined. */
export function packagedNode(root) {
  const path = join(root, "node_modules", ".bin", "node");
  return existsSync(path) ? realpathSync(path) : undefined;
}

/** The path of a Node that is new enough: the packaged one or the one that runs now. Throws Missing. */
export function newNode(root) {
  const packaged = packagedNode(root);
  const running = isNewEnough(process.versions.node) ? process.execPath : undefined;
  if (packaged !== undefined && packaged === realpathSync(process.execPath) && running)
    return running;
  const packagedVersion = packaged === undefined ? undefined : versionOf(packaged);
  if (packaged !== undefined && isNewEnough(packagedVersion)) return packaged;
  // A packaged Node that does not run (another C library, say) still stands first on the path of
  // `npm run`, so there a good one elsewhere does not help.
  if (running !== undefined && packaged === undefined) return running;
  const found =
    packaged === undefined
      ? `this is Node ${process.versions.node} and npm has none for ${process.platform} ${process.arch}`
      : `${packaged} ${packagedVersion === undefined ? "does not run" : `is ${packagedVersion}`} here`;
  const remedy =
    packaged === undefined
      ? `Install Node ${neededNodeMajor} (https://nodejs.org) and run this again.`
      : `Install Node ${neededNodeMajor} (https://nodejs.org), delete ${dirname(dirname(packaged))} and` +
        " node_modules/.bin/node, and run this again.";
  throw new Missing(`Node ${neededNodeMajor} is needed: ${found}. ${remedy}`);
}

function versionOf(node) {
  const result = run(node, ["--version"], {});
  return result.status === 0 ? result.stdout.trim().replace(/^v/, "") : undefined;
}

export function isNewEnough(version) {
  return Number.parseInt(version ?? "0", 10) >= neededNodeMajor;
}

// ---- Programs ---------------------------------------------------------------------------------------

function isInstalled(name) {
  const folders = [
    ...(process.env.PATH ?? "").split(delimiter),
    "/usr/sbin",
    "/sbin",
    "/usr/local/sbin",
  ];
  return programs[name].commands.some((command) =>
    folders.some((folder) => folder !== "" && isExecutable(join(folder, command))),
  );
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    // Not there or not for us.
    return false;
  }
}

function ensurePrograms({ needs, mayGoWithout }) {
  const missing = [...needs, ...mayGoWithout].filter((name) => !isInstalled(name));
  if (missing.length === 0) return;
  const failure = installPrograms(missing);
  const stillMissing = needs.filter((name) => !isInstalled(name));
  if (stillMissing.length > 0) {
    const command = `sudo apt-get update && sudo apt-get install -y ${stillMissing.join(" ")}`;
    throw new Missing(
      `${stillMissing.join(", ")} ${stillMissing.length === 1 ? "is" : "are"} needed and missing.` +
        `${failure} On Debian or Ubuntu run:\n\n  ${command}\n`,
    );
  }
  for (const name of mayGoWithout.filter((other) => !isInstalled(other))) {
    say(`${name} is missing and could not be installed; going on without it.`);
  }
}

/** Tries apt-get; answers why it could not, as a sentence with a space before it. */
function installPrograms(names) {
  if (process.getuid?.() !== 0) return " This user may not install packages.";
  if (!isExecutable("/usr/bin/apt-get")) return " This system has no apt-get.";
  say(`Installing ${names.join(", ")} (apt-get; this can take minutes) …`);
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const patience = ["-o", "DPkg::Lock::Timeout=300"];
  // An index that could not be brought up to date may still do, so its failure is not the end.
  const update = run("apt-get", ["update", "-qq", ...patience], { env });
  const install = ["install", "-y", "-qq", "--no-install-recommends", ...patience, ...names];
  const result = run("apt-get", install, { env });
  for (const service of names.flatMap((name) => programs[name].services)) quieten(service);
  if (result.status === 0) return "";
  return ` apt-get failed:\n\n${lastLines(update)}\n${lastLines(result)}\n\n`;
}

/** Debian starts a service as it installs it; nobody asked for one here, and ports are to stay free. */
function quieten(service) {
  if (existsSync("/run/systemd/system")) {
    run("systemctl", ["disable", "--now", service], {});
  } else if (existsSync(join("/etc/init.d", service))) {
    run("service", [service, "stop"], {});
    run("update-rc.d", [service, "disable"], {});
  }
}

// ---- Running ----------------------------------------------------------------------------------------

function run(command, args, options) {
  const limits = { encoding: "utf8", maxBuffer: 64 * 1024 * 1024 };
  return spawnSync(command, args, { ...limits, stdio: ["ignore", "pipe", "pipe"], ...options });
}

/** npm says first what is wrong and then how it is used. */
function firstLines({ stderr, error }) {
  if (error !== undefined) return error.message;
  return stderr.trim().split("\n").slice(0, 20).join("\n");
}

function lastLines({ stdout, stderr, error }) {
  if (error !== undefined) return error.message;
  return `${stdout ?? ""}${stderr ?? ""}`.trim().split("\n").slice(-20).join("\n");
}

function main(mode) {
  const root = dirname(dirname(fileURLToPath(import.meta.url)));
  if (!Object.hasOwn(modes, mode)) {
    const known = Object.keys(modes).filter((name) => name !== "");
    throw new Missing(`ensure.mjs knows ${known.join(", ")}, not ${JSON.stringify(mode)}.`);
  }
  if (!packagesInStep(root)) installPackages(root);
  newNode(root);
  ensurePrograms(modes[mode]);
}

if (
  process.argv[1] !== undefined &&
  realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)
) {
  try {
    main(process.argv[2] ?? "");
  } catch (error) {
    if (!(error instanceof Missing)) throw error;
    say(error.message);
    process.exit(1);
  }
}
