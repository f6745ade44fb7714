// Changes of which plugins a server has: which intent each of their routes makes (PackageController, PluginsController of
// Jellyfin). Their settings are documents (changes-documents.ts). Pure.

import {
  type ChangeAsked,
  type ChangeDraft,
  type ChangeReader,
  keptQuery,
  plainGuid,
  requestOf,
} from "./change-request.ts";
import { fieldOf } from "./documents.ts";
import { queryValue } from "./playback.ts";
import type { Route } from "./routes.ts";

export const pluginDeeds = ["installed", "removed", "enabled", "disabled"] as const;
export type PluginDeed = (typeof pluginDeeds)[number];

/** What an intent or an effect of kind `plugin` says. */
export interface PluginFacts {
  readonly what: PluginDeed;
  /** Plain; empty: the request names none, only a name. */
  readonly pluginId: string;
  /** Such as `17.0.0.0`; empty: whichever the server takes. */
  readonly version: string;
  /** The package's, for what is installed; else empty. */
  readonly name: string;
  /** Where the package is to come from; empty: from any repository of the server's. */
  readonly repositoryUrl: string;
}

/** The reader of this route's requests; undefined: it changes no plugin. */
export function pluginChange(route: Route): ChangeReader | undefined {
  if (!route.changes || route.kind !== "plugin") return undefined;
  const what = deedOf(route);
  return what === undefined ? undefined : (asked) => readPlugin(asked, what);
}

function deedOf({ pattern, methods }: Route): PluginDeed | undefined {
  switch (pattern) {
    case "/Packages/Installed/{name}":
      return "installed";
    case "/Plugins/{pluginId}/{version}/Enable":
      return "enabled";
    case "/Plugins/{pluginId}/{version}/Disable":
      return "disabled";
    case "/Plugins/{pluginId}":
    case "/Plugins/{pluginId}/{version}":
      return methods.includes("DELETE") ? "removed" : undefined;
    default:
      return undefined;
  }
}

function readPlugin(asked: ChangeAsked, what: PluginDeed): ChangeDraft | undefined {
  const { params, rawQuery } = asked;
  const isInstalled = what === "installed";
  const said: PluginFacts = {
    what,
    pluginId: plainGuid(isInstalled ? queryValue(rawQuery, "assemblyGuid") : params.pluginId) ?? "",
    version: (isInstalled ? queryValue(rawQuery, "version") : params.version) ?? "",
    name: isInstalled ? (params.name ?? "") : "",
    repositoryUrl: isInstalled ? (queryValue(rawQuery, "repositoryUrl") ?? "") : "",
  };
  const facts = readPluginFacts(said);
  if (facts === undefined) return undefined;
  const query = isInstalled
    ? keptQuery(rawQuery, ["assemblyGuid", "version", "repositoryUrl"])
    : "";
  return { kind: "plugin", userId: "", itemId: "", request: requestOf(asked, query), facts };
}

/** What is said of a plugin, if it makes sense: what a server cannot be asked for is nothing. */
export function readPluginFacts(value: unknown): PluginFacts | undefined {
  const what = pluginDeeds.find((deed) => deed === fieldOf(value, "what"));
  const text = (name: string): string | undefined => {
    const said = fieldOf(value, name);
    return typeof said === "string" && said.length <= 1000 ? said : undefined;
  };
  const [pluginId, version, name, repositoryUrl] = [
    ...[text("pluginId"), text("version"), text("name"), text("repositoryUrl")],
  ];
  if (what === undefined || pluginId === undefined || version === undefined) return undefined;
  if (name === undefined || repositoryUrl === undefined) return undefined;
  if (pluginId !== "" && plainGuid(pluginId) !== pluginId) return undefined;
  if (version !== "" && !/^\d+(?:\.\d+){1,3}$/.test(version)) return undefined;
  const isNamed =
    what === "installed" ? name !== "" : pluginId !== "" && (what === "removed" || version !== "");
  return isNamed ? { what, pluginId, version, name, repositoryUrl } : undefined;
}
