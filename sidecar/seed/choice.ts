// What of a server's folders is copied and what is left out (pure): a copy into another folder and an archive
// make the same choice.

import { join } from "node:path";
import type { ServerFolders } from "./layout.ts";
import type { WalkOptions } from "./plan.ts";
import type { ServerSettings } from "./settings.ts";
import { markerName, stagingName } from "./target.ts";

/** What a server can make again from its media and its databases, or does not need. */
export const rebuildable = ["trickplay", "subtitles", "attachments", "backups"] as const;
export type Rebuildable = (typeof rebuildable)[number];

export interface Choice {
  readonly source: ServerFolders;
  readonly settings: ServerSettings;
  readonly without: readonly Rebuildable[];
  readonly followLinks: boolean;
  /** Where the two folders will be. */
  readonly goal: { readonly dataFolder: string; readonly configFolder: string };
}

/** Made anew by every server, so never copied. */
const ownEntries = ["cache", "log", "logs", "transcodes", "transcoding-temp"];

export function walkOptionsOf(choice: Choice): WalkOptions {
  const { source, settings, without, followLinks, goal } = choice;
  const { dataFolder, configFolder } = source;
  const own = [dataFolder, configFolder].flatMap((folder) =>
    [...ownEntries, stagingName, markerName].map((name) => join(folder, name)),
  );
  const remade = ["CachePath", "TranscodingTempPath"]
    .map((name) => settings.ownFolders.get(name))
    .filter((path) => path !== undefined && path !== dataFolder && path !== configFolder);
  const chosen = without.map((name) => join(dataFolder, "data", name));
  // Each piece leaves the other one to it, where one lies in the other.
  const others = [dataFolder, configFolder];
  return {
    pieces: [
      { source: dataFolder, target: goal.dataFolder },
      { source: configFolder, target: goal.configFolder },
    ],
    leaveOut: new Set(
      [...own, ...remade, ...chosen, ...others].filter((path) => path !== undefined),
    ),
    followLinks,
    forbidden: [dataFolder, configFolder, goal.dataFolder, goal.configFolder],
  };
}
