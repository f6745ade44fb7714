// Which Jellyfin has used a server's data last, as far as its folders tell. Its settings have an element for that,
// which no Jellyfin from 10.8 to 12.0 writes any more (PreviousVersion; read in BaseApplicationConfiguration): it is
// what an older one left there. The database tells it since 10.11: each migration is noted with the version that did it.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { isNewer } from "./checks.ts";
import { liveDatabaseVersion } from "./database.ts";
import { type ServerFolders, serverDatabases } from "./layout.ts";
import { readSettings } from "./settings.ts";

/** The newest version that is noted there, such as `10.11.11`; undefined when none is. The server may run. */
export async function recordedVersion(folders: ServerFolders): Promise<string | undefined> {
  const { version } = await readSettings(folders.configFolder);
  const databases = serverDatabases
    .map((name) => join(folders.dataFolder, "data", name))
    .filter((path) => existsSync(path));
  const told = await Promise.all(databases.map(liveDatabaseVersion));
  // 10.11 moves library.db into the other one; before that no database told who had used it.
  const isOld = databases.some((path) => path.endsWith("library.db"));
  return [version, isOld ? "10.10" : undefined, ...told]
    .filter((each) => each !== undefined)
    .reduce<string | undefined>(
      (newest, each) => (newest === undefined || isNewer(each, newest) ? each : newest),
      undefined,
    );
}
