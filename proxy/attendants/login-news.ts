// What logins with a password have to tell the other servers: a right one that somebody is there (a plugin such as
// LDAP makes users at their first login) and that wrong ones are forgiven; a wrong one that it counts. Three wrong
// passwords at three servers are three, not one each.
//
// It promises that nothing of a password is told, nor what somebody typed in place of their name, and wrong ones no
// more often than a person could type them.

import type { Identity } from "../../core/cluster/identity.ts";
import { type Effect, type Entry, type Intent, newEntryId } from "../../core/cluster/journal.ts";
import { wrongPasswordMac } from "../../core/cluster/secret.ts";
import { plainGuid } from "../../core/jellyfin/change-request.ts";
import { bodyValue } from "../../core/jellyfin/playback.ts";
import type { Clock } from "../../core/service/clock.ts";
import type { Log } from "../../core/service/log.ts";
import type { Seal } from "../../core/service/seal.ts";
import type { Attendant, Attended } from "../attendant.ts";
import { Bounded } from "../bounded.ts";

export interface LoginNewsParts {
  readonly writer: { write(entry: Entry): Promise<number | undefined> };
  readonly seal: Pick<Seal, "mac">;
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly log: Pick<Log, "error">;
  readonly isCluster: () => boolean;
}

/** Wrong passwords that are told in a minute, of one name and of all. Who tries more is locked out long before. */
const wrongOfOne = 10;
const wrongOfAll = 120;
const minuteMs = 60_000;
const namesKept = 1000;
const nameLengthMax = 256;

export interface LoginNews {
  readonly attendant: Attendant;
  /** Somebody is logged in at that replica: by a password, or by a way that passed no door (SSO). */
  noteLogin(identity: Identity, replica: string): void;
}

export function createLoginNews({
  writer,
  seal,
  clock,
  log,
  isCluster,
}: LoginNewsParts): LoginNews {
  const counts = new Bounded<string, { count: number; sinceMs: number }>(namesKept);

  function mayTell(name: string, limit: number): boolean {
    const nowMs = clock.monotonicMs();
    const known = counts.get(name);
    const isOld = known === undefined || nowMs - known.sinceMs > minuteMs;
    const count = isOld ? 1 : known.count + 1;
    counts.set(name, { count, sinceMs: isOld ? nowMs : known.sinceMs });
    return count <= limit;
  }

  function write(...entries: readonly Entry[]): void {
    for (const entry of entries) {
      writer.write(entry).catch((error: unknown) => {
        log.error({ err: error }, "an entry of the journal was not written");
      });
    }
  }

  function noteLogin(identity: Identity, replica: string): void {
    if (identity.kind !== "user" || !isCluster()) return;
    const { key: identityKey, userId, userName: name } = identity;
    const request = { method: "POST", path: "/", query: "", contentType: "", body: "" };
    const facts = { what: "login", ...(name !== "" && { name }) };
    const id = newEntryId();
    const intent: Intent = {
      ...{ type: "intent", id, kind: "user", identityKey, userId, itemId: "", request, facts },
    };
    write(intent, { type: "outcome", id: newEntryId(), of: id, replica, status: 200 });
  }

  const attendant: Attendant = {
    name: "login news",
    attends: ({ kind }) => kind === "login",

    async after({ identity }, reply, replica) {
      if (reply.head.status < 300 && identity !== undefined) noteLogin(identity, replica);
      return reply;
    },

    ended(asked, status, replica) {
      if (status !== 401 || replica === "" || !isCluster()) return;
      const name = nameIn(asked);
      const userId = plainGuid(asked.facts.params.userId) ?? "";
      if (name === undefined && userId === "") return;
      if (
        !mayTell(`name ${name?.toLowerCase() ?? userId}`, wrongOfOne) ||
        !mayTell("all", wrongOfAll)
      )
        return;
      // People type their password where their name belongs: only who knows the name can read whose it is.
      const who = name === undefined ? undefined : wrongPasswordMac(seal, name);
      const payload = { what: "wrongPassword", ...(who !== undefined && { who }) };
      const effect: Effect = {
        ...{ type: "effect", id: newEntryId(), of: "", ofNumber: 0, kind: "user" },
        ...{ replica, userId, itemId: "", payload },
      };
      write(effect);
    },
  };
  return { attendant, noteLogin };
}

function nameIn({ bodyText }: Attended): string | undefined {
  const name = bodyText === undefined ? undefined : bodyValue(bodyText, "Username");
  return typeof name === "string" && name !== "" && name.length <= nameLengthMax ? name : undefined;
}
