// The page of API keys, as it is shown through the door: without the keys by which the cluster itself works. Whoever
// deleted one of those would take a server out of the cluster, so that is refused with a sentence; whoever read one
// could do what the cluster may.

import { hashOf } from "../../core/cluster/identity.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import { ownKeyHashes } from "../../core/cluster/own-keys.ts";
import { isRecord, nameIn, parsedObject } from "../../core/service/json.ts";
import type { Seal } from "../../core/service/seal.ts";
import type { Attendant } from "../attendant.ts";
import type { HeldReply } from "../client.ts";
import { ownReply, withBody } from "../reply.ts";
import { leaderOf } from "./leader.ts";

export interface ApiKeysParts {
  readonly memory: Memory;
  readonly seal: Seal;
  /** With one replica there are no keys but its own owner's. */
  readonly isCluster: () => boolean;
}

const refusal =
  "This key is the one by which Jellybloom works at its servers. Take the server out of the cluster first, " +
  "then delete the key on the server's own page.";

export function createApiKeysAttendant({ memory, seal, isCluster }: ApiKeysParts): Attendant {
  return {
    name: "API keys",
    attends: ({ kind }) => kind === "apiKeys",
    async before({ facts }) {
      const { key } = facts.params;
      if (facts.method !== "DELETE" || key === undefined || !isCluster()) return undefined;
      if (!ownKeyHashes(memory, seal).has(hashOf(key))) return undefined;
      const text = JSON.stringify(refusal);
      return ownReply(403, "Forbidden", text, ["Content-Type", "application/json; charset=utf-8"]);
    },
    /** Each server has keys of its own: the page shows those of the one at which they are made. */
    bound() {
      const replica = isCluster() ? leaderOf(memory)?.replica : undefined;
      return replica === undefined ? undefined : { replica, kind: "leader" };
    },
    async after({ facts }, reply) {
      if (facts.method !== "GET" || reply.head.status !== 200 || !isCluster()) return reply;
      return withoutOwnKeys(reply, ownKeyHashes(memory, seal));
    },
  };
}

/** A QueryResult of keys, in PascalCase or camelCase, without those of the cluster. */
export function withoutOwnKeys(reply: HeldReply, own: ReadonlySet<string>): HeldReply {
  if (own.size === 0) return reply;
  const fields = parsedObject(reply.body.toString("utf8"));
  const itemsName = fields === undefined ? undefined : nameIn(fields, "items");
  const items = itemsName === undefined ? undefined : fields?.[itemsName];
  if (fields === undefined || itemsName === undefined || !Array.isArray(items)) return reply;
  const shown = items.filter((item) => {
    const tokenName = isRecord(item) ? nameIn(item, "accesstoken") : undefined;
    const token = isRecord(item) && tokenName !== undefined ? item[tokenName] : undefined;
    return typeof token !== "string" || !own.has(hashOf(token));
  });
  const countName = nameIn(fields, "totalrecordcount");
  const count = countName === undefined ? {} : { [countName]: shown.length };
  return withBody(reply, JSON.stringify({ ...fields, [itemsName]: shown, ...count }));
}
