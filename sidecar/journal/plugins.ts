// The handler of `plugin`: which plugins a server has, and which of them are enabled. The leader's server does what an
// administrator asks for; the others are brought to the same, each from its own repositories, in the order of the journal
// and after the documents that came before, such as a new repository. None is restarted: Jellyfin loads and unloads
// plugins at its start, and says that it waits for one.
//
// It promises that what is on a server already is not done again, that an installation which takes long is waited for and
// not begun a second time, and that a plugin which belongs on one server, or on none (sidecar/doctor/plugins.ts), is not
// brought to others.

import type { Effect, Intent } from "../../core/cluster/journal.ts";
import { type PluginFacts, readPluginFacts } from "../../core/jellyfin/changes-plugins.ts";
import { knownPlugin } from "../doctor/plugins.ts";
import {
  again,
  appliedOf,
  done,
  type PluginHere,
  type PluginsRead,
  readPlugins,
  refused,
  skipped,
  whyOf,
} from "./calls.ts";
import { documentsLane } from "./documents.ts";
import type { Applied, JournalHandler, JournalHands, Published } from "./handler.ts";

/** An installation that was begun is waited for so long before it is begun again, in ms: it is a download. */
const installLimitMs = 5 * 60_000;

export function createPlugins(): JournalHandler {
  /** When an installation was begun here whose end is not known, by plugin and version, on the monotonic clock. */
  const begun = new Map<string, number>();
  return {
    kinds: ["plugin"],
    repeatsOwn: true,
    lane: () => documentsLane,
    publish: ({ entry }, _outcome, hands) => publish(entry, hands),
    apply: ({ entry }, hands) => apply(entry, hands, begun),
    redo: ({ entry }, hands) => redo(entry, hands, begun),
  };
}

/** Whether what was done with a plugin at one server is to be done at the others. Pure. */
export function isForOthers({ pluginId, what }: Pick<PluginFacts, "pluginId" | "what">): boolean {
  switch (knownPlugin(pluginId)?.where) {
    case "one":
      // Which one is the owner's choice, server by server.
      return false;
    case "not":
      return what === "removed" || what === "disabled";
    default:
      return true;
  }
}

/** What was installed is told with the id and version that came of it: a later one may be offered by then. */
async function publish({ facts }: Intent, hands: JournalHands): Promise<Published> {
  const said = readPluginFacts(facts);
  if (said === undefined) return { outcome: "given up", why: "its facts make no sense" };
  let payload = said;
  if (said.what === "installed") {
    const here = await pluginsOf(hands);
    if (here.outcome === "failed") return { outcome: "again", why: whyOf(here.applied) };
    const made = newest(here.plugins.filter((plugin) => isSaid(plugin, said)));
    if (made === undefined) {
      return { outcome: "given up", why: "the server does not list what was installed" };
    }
    payload = { ...said, pluginId: made.id, version: made.version };
  }
  const effects = isForOthers(payload) ? [{ userId: "", itemId: "", payload }] : [];
  return { outcome: "effects", effects };
}

async function apply(
  { payload }: Effect,
  hands: JournalHands,
  begun: Map<string, number>,
): Promise<Applied> {
  const said = readPluginFacts(payload);
  if (said === undefined || !isForOthers(said)) return refused("its payload makes no sense");
  return await bring(said, hands, begun);
}

async function redo(
  { facts }: Intent,
  hands: JournalHands,
  begun: Map<string, number>,
): Promise<Applied> {
  const said = readPluginFacts(facts);
  return said === undefined ? refused("its facts make no sense") : await bring(said, hands, begun);
}

async function bring(
  said: PluginFacts,
  hands: JournalHands,
  begun: Map<string, number>,
): Promise<Applied> {
  const here = await pluginsOf(hands);
  if (here.outcome === "failed") return here.applied;
  const found = newest(here.plugins.filter((plugin) => isSaid(plugin, said)));
  const applied =
    said.what === "installed"
      ? await install(said, found, hands, begun)
      : await change(said, found, hands);
  if (applied.outcome === "done") {
    const { replica, log } = hands;
    log.info(
      `${nameOf(said, found)} was ${said.what} at ${replica}, too: it counts after a restart`,
    );
  }
  return applied;
}

async function install(
  said: PluginFacts,
  found: PluginHere | undefined,
  { client, clock }: JournalHands,
  begun: Map<string, number>,
): Promise<Applied> {
  const key = `${said.pluginId} ${said.version} ${said.name}`;
  if (found !== undefined) return begun.delete(key) ? done : skipped;
  const begunAtMs = begun.get(key) ?? Number.NEGATIVE_INFINITY;
  if (clock.monotonicMs() - begunAtMs < installLimitMs) {
    return again(`${nameOf(said, found)} is still being installed`);
  }
  const query = new URLSearchParams({
    ...(said.pluginId !== "" && { assemblyGuid: said.pluginId }),
    ...(said.version !== "" && { version: said.version }),
    ...(said.repositoryUrl !== "" && { repositoryUrl: said.repositoryUrl }),
  });
  const path = `/Packages/Installed/${encodeURIComponent(said.name)}?${query}`;
  const answer = await client.callWithKey("POST", path);
  // The server goes on without us (PackageController.InstallPackage takes no word of the caller's leaving).
  if (answer.outcome === "failed" && answer.seen === "maybe") {
    begun.set(key, clock.monotonicMs());
    return again(answer.message);
  }
  begun.delete(key);
  if (answer.outcome === "answered" && answer.status === 404) {
    return refused(`none of its repositories offers ${nameOf(said, found)}`);
  }
  return appliedOf(answer, "the installation of a plugin");
}

async function change(
  { what, pluginId, version }: PluginFacts,
  found: PluginHere | undefined,
  { client }: JournalHands,
): Promise<Applied> {
  if (what === "removed") {
    if (found === undefined) return skipped;
    const path = version === "" ? `/Plugins/${pluginId}` : `/Plugins/${pluginId}/${version}`;
    return appliedOf(await client.callWithKey("DELETE", path), "the removal of a plugin");
  }
  if (found === undefined) return refused(`the plugin ${pluginId} ${version} is not there`);
  const deed = what === "enabled" ? "Enable" : "Disable";
  const path = `/Plugins/${pluginId}/${version}/${deed}`;
  return appliedOf(await client.callWithKey("POST", path), "the change of a plugin");
}

/** Those that will still be there after a restart. */
async function pluginsOf(hands: Pick<JournalHands, "client">): Promise<PluginsRead> {
  const read = await readPlugins(hands);
  if (read.outcome === "failed") return read;
  return { ...read, plugins: read.plugins.filter(({ status }) => status !== "Deleted") };
}

/** By its id where that is known, else by the name of its package (InstallationManager.FilterPackages). */
function isSaid(plugin: PluginHere, { pluginId, version, name }: PluginFacts): boolean {
  const isOne =
    pluginId === "" ? plugin.name.toUpperCase() === name.toUpperCase() : plugin.id === pluginId;
  return isOne && (version === "" || plugin.version === version);
}

function newest(plugins: readonly PluginHere[]): PluginHere | undefined {
  const [first] = [...plugins].sort((one, other) =>
    other.version.localeCompare(one.version, "en", { numeric: true }),
  );
  return first;
}

function nameOf({ name, pluginId, version }: PluginFacts, found: PluginHere | undefined): string {
  return `the plugin ${[found?.name || name || pluginId, version].filter(Boolean).join(" ")}`;
}
