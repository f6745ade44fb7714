// Documents that may have been changed while this replica read no journal: each one that can be found at a server is
// compared with the other's, whose word counts, because this is the one that was away. Values that are a server's own
// stay, as always (documents.ts).
//
// It promises that a document is looked at twice, some time apart, before it is written, because a change of it may be
// on its way; and that one which a server refuses keeps no other from being compared.
//
// Jellyfin lists neither display preferences nor the keys of configurations: those that its apps and pages use are
// tried. Preferences that only another app knows come with their next change.

import { userAliasesOf } from "../../core/cluster/user-aliases.ts";
import { plainGuid } from "../../core/jellyfin/change-request.ts";
import { fieldOf } from "../../core/jellyfin/documents.ts";
import { sleep } from "../../core/service/loop.ts";
import { readMadeLibraries } from "../library/libraries.ts";
import { byId, idHere, readJson, readUsers } from "./calls.ts";
import { type DocumentHands, type DocumentKind, lackingAt, shelfOf } from "./documents.ts";
import type { JournalHands } from "./handler.ts";

/** Which document it is, as an entry of the journal says it. */
interface Named {
  readonly kind: DocumentKind;
  readonly userId: string;
  readonly itemId: string;
  readonly facts: unknown;
}

/** The web client's settings, and those of Android TV. */
const preferences = [
  { id: "usersettings", client: "emby" },
  { id: "usersettings", client: "jellyfin-androidtv" },
] as const;
const configurations = [
  ...["system", "network", "encoding", "branding", "livetv", "metadata", "xbmcmetadata"],
  "repositories",
] as const;
const settleDefaultMs = 3000;

/**
 * Brings this server's documents to those of the other. False: one of the two could not be asked, and it is to be done
 * again.
 */
export async function reconcileDocuments(
  here: Pick<JournalHands, "log"> & DocumentHands,
  there: DocumentHands,
  { settleMs = settleDefaultMs }: { readonly settleMs?: number | undefined },
  signal: AbortSignal,
): Promise<boolean> {
  const named = await documentsAtBoth(here, there);
  if (named === undefined) return false;
  let isWhole = true;
  const differing: Named[] = [];
  for (const one of named) {
    if (signal.aborted) return false;
    const look = await lookAt(one, here, there);
    if (look.outcome === "write") differing.push(one);
    if (look.outcome === "again") isWhole = false;
  }
  if (differing.length === 0) return isWhole;
  await sleep(settleMs, signal);
  let taken = 0;
  for (const one of differing) {
    if (signal.aborted) return false;
    const look = await lookAt(one, here, there);
    const applied = look.outcome === "write" ? await look.shelf.write(look.document) : look;
    if (applied.outcome === "done") taken++;
    if (applied.outcome === "again") isWhole = false;
    if (applied.outcome === "refused") {
      here.log.warn(`${here.replica} does not take a document of ${there.replica}: ${applied.why}`);
    }
  }
  here.log.info(`server ${here.replica} took ${taken} documents of ${there.replica}`);
  return isWhole;
}

/** What this server lacks of one document. */
async function lookAt({ facts, ...entry }: Named, here: DocumentHands, there: DocumentHands) {
  const own = shelfOf(entry, facts, here);
  const theirs = await shelfOf(entry, facts, there)?.read();
  if (own === undefined || theirs === undefined) return { outcome: "skipped" } as const;
  // A server of another kind or age may lack one of them.
  if (theirs.outcome === "unknown") return { outcome: "skipped" } as const;
  if (theirs.outcome === "failed") return theirs.applied;
  const lacking = await lackingAt(own, theirs.value);
  return lacking.outcome === "write" ? { ...lacking, shelf: own } : lacking;
}

/** The other's, but for users who are not here. Undefined: one of the two could not be asked. */
async function documentsAtBoth(
  here: DocumentHands,
  there: DocumentHands,
): Promise<readonly Named[] | undefined> {
  const own = await readUsers(here);
  const users = await readUsers(there);
  const libraries = await readMadeLibraries(there.client);
  const plugins = await readPluginIds(there);
  if (own.outcome !== "read" || users.outcome !== "read") return undefined;
  if (libraries === undefined || plugins === undefined) return undefined;
  const whole = { userId: "", itemId: "" } as const;
  const aliases = userAliasesOf(there.memory, there.seal);
  return [
    ...users.users.flatMap(({ id }): Named[] => {
      const userId = aliases.knownId(there.replica, id);
      if (byId(own.users, idHere(here, userId)) === undefined) return [];
      return [
        { kind: "userPolicy", userId, itemId: "", facts: {} },
        { kind: "userConfiguration", userId, itemId: "", facts: {} },
        ...preferences.map((facts): Named => ({ kind: "preferences", userId, itemId: "", facts })),
      ];
    }),
    ...configurations.map(
      (document): Named => ({ kind: "configuration", ...whole, facts: { document } }),
    ),
    ...libraries.map(
      ({ id: itemId }): Named => ({ kind: "libraryOptions", userId: "", itemId, facts: {} }),
    ),
    ...plugins.map(
      (pluginId): Named => ({ kind: "pluginConfiguration", ...whole, facts: { pluginId } }),
    ),
  ];
}

async function readPluginIds(there: DocumentHands): Promise<readonly string[] | undefined> {
  const read = await readJson(there, "/Plugins");
  if (read.outcome === "failed") return undefined;
  const list = read.outcome === "read" && Array.isArray(read.value) ? read.value : [];
  return list.flatMap((one) => plainGuid(fieldOf(one, "Id")) ?? []);
}
