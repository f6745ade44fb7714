// Which subtitle a deletion means. Its request has an index, which is one server's own and changes with every file that
// comes or goes; afterwards the file is gone and nobody can tell which it was. So the server that is about to delete it
// is asked before, and the journal (attendants/journal.ts) writes down what it said, for the others to find theirs.
//
// It promises that a deletion never fails for this: what could not be found out is not known, and the others then only
// look what is left beside the media.

import {
  type ItemFile,
  itemFilesPath,
  itemIn,
  subtitleFilesOf,
} from "../../core/cluster/item-files.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import { plainGuid } from "../../core/jellyfin/change-request.ts";
import { subtitlePattern } from "../../core/jellyfin/changes-library.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import type { Attendant, Attended } from "../attendant.ts";
import { identityNow, leaderOf } from "./leader.ts";

export interface DeletedFilesParts {
  readonly memory: Pick<Memory, "lease" | "identities" | "openToken">;
  readonly clientOf: (replica: string) => JellyfinClient | undefined;
  /** With one replica there is nobody else to know of it. */
  readonly isCluster: () => boolean;
}

export interface DeletedFiles {
  readonly attendant: Attendant;
  /** What this request deletes; undefined: nothing of the kind, or it is not known. */
  readonly of: (asked: Attended) => ItemFile | undefined;
}

export function createDeletedFiles(parts: DeletedFilesParts): DeletedFiles {
  const known = new WeakMap<Attended, ItemFile>();
  return {
    attendant: {
      name: "deleted files",
      attends: ({ pattern, methods }) => pattern === subtitlePattern && methods.includes("DELETE"),
      async before(asked) {
        const file = parts.isCluster() ? await fileMeant(parts, asked) : undefined;
        if (file !== undefined) known.set(asked, file);
        return undefined;
      },
    },
    of: (asked) => known.get(asked),
  };
}

/** As the leader's server has it: it is the one that deletes (attendants/lists.ts). */
async function fileMeant(
  { memory, clientOf }: DeletedFilesParts,
  asked: Attended,
): Promise<ItemFile | undefined> {
  const { itemId: id, index } = asked.facts.params;
  const itemId = plainGuid(id);
  const replica = leaderOf(memory)?.replica;
  const client = replica === undefined ? undefined : clientOf(replica);
  const identity = identityNow(memory, asked);
  if (itemId === undefined || replica === undefined || identity === undefined) return undefined;
  const token = memory.openToken(identity, replica);
  const path = itemFilesPath(itemId);
  // A caller's key is of one server; a door that is a process of its own may have none yet.
  const answer =
    token === undefined
      ? await client?.callWithKey("GET", path)
      : await client?.callAs(token, identity, "GET", path);
  if (answer?.outcome !== "answered" || answer.status !== 200) return undefined;
  const found = subtitleFilesOf(itemIn(answer.text) ?? {}).find(
    (file) => file.index === Number(index),
  );
  if (found === undefined) return undefined;
  const { index: _, ...file } = found;
  return file;
}
