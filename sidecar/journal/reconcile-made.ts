// Users and libraries that were made, or were given another name, while this replica read no journal: made here, too, by
// the same handlers that the journal's effects go to, so that a user is looked for by name first and a library whose
// media are not whole is not scanned. Libraries and users come before whatever is said of them.
//
// It promises that nothing is taken away: a user or a library that the other server does not have stays.

import type { Effect } from "../../core/cluster/journal.ts";
import { userAliasesOf } from "../../core/cluster/user-aliases.ts";
import {
  readMadeLibraries,
  readServerLibraries,
  type ServerLibrary,
} from "../library/libraries.ts";
import { byId, idHere, readUsers } from "./calls.ts";
import type { Applied, JournalHands } from "./handler.ts";
import { createLibrary } from "./library.ts";
import { createUsers, viewsOf } from "./users.ts";

const users = createUsers();
const libraries = createLibrary();

/** `again`: one of the two could not be asked. `made`: a library has come, whose items are known after its scan. */
export type MadeEqual = "equal" | "made" | "again";

/** Brings to this server the users and libraries of the other that it lacks. */
export async function reconcileMade(
  here: JournalHands,
  there: JournalHands,
  signal: AbortSignal,
): Promise<MadeEqual> {
  const usersAre = await reconcileUsers(here, there, signal);
  const librariesAre = await reconcileLibraries(here, there, signal);
  return usersAre === "again" ? usersAre : librariesAre;
}

async function reconcileUsers(
  here: JournalHands,
  there: JournalHands,
  signal: AbortSignal,
): Promise<MadeEqual> {
  const own = await readUsers(here);
  const theirs = await readUsers(there);
  if (own.outcome !== "read" || theirs.outcome !== "read") return "again";
  const aliases = userAliasesOf(here.memory, here.seal);
  let end: MadeEqual = "equal";
  for (const { id, name, policy, configuration } of theirs.users) {
    if (signal.aborted) return "again";
    const userId = aliases.knownId(there.replica, id);
    const known = byId(own.users, idHere(here, userId));
    if (known?.name === name) continue;
    // No server tells another a password: whoever is made here gets one that nobody knows, which is said.
    const payload =
      known === undefined
        ? {
            what: "login",
            name,
            policy,
            configuration,
            views: await viewsOf(there, id),
            hasPassword: true,
          }
        : { what: "updated", name };
    const effect = effectOf("user", there, { userId, payload });
    const applied = await users.apply({ number: 0, atMs: 0, entry: effect }, here, new Set());
    if (told(applied, `user ${name}`, here, there) === "again") end = "again";
  }
  return end;
}

async function reconcileLibraries(
  here: JournalHands,
  there: JournalHands,
  signal: AbortSignal,
): Promise<MadeEqual> {
  const own = await readServerLibraries(here.client);
  const theirs = await readMadeLibraries(there.client);
  if (own === undefined || theirs === undefined) return "again";
  let end: MadeEqual = "equal";
  for (const { library, formerName } of lackingLibraries(own, theirs)) {
    if (signal.aborted) return "again";
    const repeat = formerName === undefined ? making(library) : renaming(formerName, library);
    const effect = effectOf("virtualFolder", there, { userId: "", payload: { repeat } });
    const applied = await libraries.apply({ number: 0, atMs: 0, entry: effect }, here, new Set());
    const is = told(applied, `library ${library.name}`, here, there);
    if (is === "again" || end === "equal") end = is;
  }
  return end;
}

export interface LackingLibrary {
  readonly library: ServerLibrary;
  /** What it is called here; undefined: it is not here. */
  readonly formerName: string | undefined;
}

/** Which libraries of another server this one lacks, by their names. Pure. */
export function lackingLibraries(
  own: readonly ServerLibrary[],
  theirs: readonly ServerLibrary[],
): readonly LackingLibrary[] {
  const ofName = (list: readonly ServerLibrary[], name: string) =>
    list.some((one) => one.name === name);
  return theirs.flatMap((library): LackingLibrary[] => {
    // That of collections lies in each server's own data, and is made with its first one (CollectionManager).
    if (library.type === "boxsets" || ofName(own, library.name)) return [];
    const former = own.find((one) => !ofName(theirs, one.name) && isSameButName(one, library));
    return [{ library, formerName: former?.name }];
  });
}

function isSameButName(one: ServerLibrary, other: ServerLibrary): boolean {
  if (one.type !== other.type || one.locations.length === 0) return false;
  return [...one.locations].sort().join("\n") === [...other.locations].sort().join("\n");
}

/** LibraryStructureController.AddVirtualFolder; a folder with a comma in its path can be said in the body only. */
function making({ name, type, locations, options }: ServerLibrary): object {
  const PathInfos = locations.map((Path) => ({ Path }));
  const query = { name, ...(type !== "mixed" && { collectionType: type }), refreshLibrary: "true" };
  return request("", query, { LibraryOptions: { ...options, PathInfos } });
}

function renaming(name: string, { name: newName }: ServerLibrary): object {
  return request("/Name", { name, newName, refreshLibrary: "true" });
}

function request(end: string, query: Readonly<Record<string, string>>, body?: object): object {
  const pairs = Object.entries(query).map(
    ([name, value]) => `${name}=${encodeURIComponent(value.toWellFormed())}`,
  );
  return {
    ...{ method: "POST", path: `/Library/VirtualFolders${end}`, query: pairs.join("&") },
    ...{ contentType: "application/json", body: body === undefined ? "" : JSON.stringify(body) },
  };
}

/** As the other server would have told of it. */
function effectOf(
  kind: Effect["kind"],
  { replica }: JournalHands,
  { userId, payload }: Pick<Effect, "userId" | "payload">,
): Effect {
  return {
    type: "effect",
    id: "",
    of: "",
    ofNumber: 0,
    kind,
    replica,
    userId,
    itemId: "",
    payload,
  };
}

function told(
  applied: Applied,
  what: string,
  { replica, log }: JournalHands,
  there: JournalHands,
): MadeEqual {
  if (applied.outcome === "again" || applied.outcome === "aside") return "again";
  if (applied.outcome === "refused") {
    log.warn(`${replica} does not take ${what} of ${there.replica}: ${applied.why}`);
  }
  if (applied.outcome !== "done") return "equal";
  log.info(`server ${replica} has ${what} now as ${there.replica} has: it had missed that`);
  return "made";
}
