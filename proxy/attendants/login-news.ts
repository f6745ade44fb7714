// What logins with a password have to tell the other servers: a right one that somebody is there (a plugin such as
// LDAP makes users at their first login) and that wrong ones are forgiven; a wrong one that it counts. Three wrong
// passwords at three servers are three, not one each.
//
// It promises that nothing of a password is told, nor what somebody typed in place of their name, and wrong ones no
// more often than a person could type them; nor does anybody keep the news of one user back by guesses at others or at
// names that nobody has.

import type { Identity } from "../../core/cluster/identity.ts";
import { type Effect, type Entry, type Intent, newEntryId } from "../../core/cluster/journal.ts";
import type { Memory } from "../../core/cluster/memory.ts";
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
  readonly memory: Pick<Memory, "userIdOfName" | "homes">;
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly log: Pick<Log, "error">;
  readonly isCluster: () => boolean;
}

/** Wrong passwords that are told in a minute of one user. Who tries more is locked out long before. */
const wrongOfOne = 10;
/**
 * And of all those together who are not known here: of them there are as many as somebody makes up. Who is there and
 * never logged in through a door may be among them; their wrong passwords are counted where their name sends them.
 */
const wrongOfUnknown = 120;
const minuteMs = 60_000;
const usersKept = 10_000;
const unknownKept = 1000;
const nameLengthMax = 256;

export interface LoginNews {
  readonly attendant: Attendant;
  /** Somebody is logged in at that replica: by a password, or by a way that passed no door (SSO). */
  noteLogin(identity: Identity, replica: string): void;
}

/** How many wrong passwords were told in this minute. */
interface Told {
  readonly count: number;
  readonly sinceMs: number;
}

/** Which wrong passwords are told: so many of each user in a minute, and so many of all that are no user's. */
export class WrongPasswords {
  /** By user id: whoever makes names up pushes nobody out. */
  readonly #ofUsers = new Bounded<string, Told>(usersKept);
  readonly #ofUnknown = new Bounded<string, Told>(unknownKept);
  #ofAllUnknown: Told | undefined;

  /** Whether this one is told. `userId` is empty for a name that is nobody's here; `nowMs` never goes back. */
  isTold(userId: string, name: string, nowMs: number): boolean {
    if (userId !== "") {
      const told = oneMore(this.#ofUsers.get(userId), nowMs);
      this.#ofUsers.set(userId, told);
      return told.count <= wrongOfOne;
    }
    const told = oneMore(this.#ofUnknown.get(name), nowMs);
    this.#ofUnknown.set(name, told);
    if (told.count > wrongOfOne) return false;
    this.#ofAllUnknown = oneMore(this.#ofAllUnknown, nowMs);
    return this.#ofAllUnknown.count <= wrongOfUnknown;
  }
}

function oneMore(told: Told | undefined, nowMs: number): Told {
  if (told === undefined || nowMs - told.sinceMs > minuteMs) return { count: 1, sinceMs: nowMs };
  return { count: told.count + 1, sinceMs: told.sinceMs };
}

export function createLoginNews({
  writer,
  seal,
  memory,
  clock,
  log,
  isCluster,
}: LoginNewsParts): LoginNews {
  const wrongPasswords = new WrongPasswords();

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
      const known =
        name === undefined ? memory.homes.get(userId)?.userId : memory.userIdOfName(name);
      const said = name?.toUpperCase() ?? userId;
      if (!wrongPasswords.isTold(known ?? "", said, clock.monotonicMs())) return;
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
