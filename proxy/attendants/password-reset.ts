// The way back in without a password. Jellyfin writes a PIN into a file on one server (DefaultPasswordResetProvider),
// and only that server takes it. Who begins names a user, so that name is pinned to the replica that wrote the file;
// who comes back with the PIN names nobody, so each replica that has such a file now is asked, the youngest first: one
// that does not know the PIN says 404 and has changed nothing.
//
// It promises that a PIN is found wherever it was written, whoever else began at another replica or from the same
// address, and that the answer says on which server the file is.

import { hashOf } from "../../core/cluster/identity.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import { bodyValue } from "../../core/jellyfin/playback.ts";
import type { Clock } from "../../core/service/clock.ts";
import { parsedObject } from "../../core/service/json.ts";
import type { Store } from "../../core/store/store.ts";
import type { Attendant, Attended } from "../attendant.ts";
import type { HeldReply } from "../client.ts";
import { withBody } from "../reply.ts";

export interface PasswordResetParts {
  readonly store: Store;
  readonly memory: Memory;
  readonly clock: Clock;
  readonly owner: string;
  readonly isReady: (replica: string) => boolean;
  /** With one replica its own word is the only one there is. */
  readonly isCluster: () => boolean;
}

/** A PIN is good for 30 minutes; the pin holds a little longer. */
const pinMs = 35 * 60_000;

export function createPasswordReset(parts: PasswordResetParts): Attendant {
  const { store, memory, clock, owner, isReady, isCluster } = parts;
  const asked = new WeakMap<Attended, Set<string>>();

  /** Replicas that have a file with a PIN now, the youngest first, without those that said no. */
  function candidates(request: Attended): readonly string[] {
    const tried = asked.get(request);
    const pins = memory.pinsOf("passwordReset", clock.wallMs());
    const replicas = [...pins]
      .sort((left, right) => right.expiresAtMs - left.expiresAtMs)
      .map(({ replica }) => replica);
    return [...new Set(replicas)].filter((name) => tried?.has(name) !== true && isReady(name));
  }

  return {
    name: "password reset",
    attends: ({ kind }) => kind === "passwordForgotten" || kind === "passwordPin",

    bound(request) {
      if (!isCluster()) return undefined;
      const name = nameIn(request);
      const replica =
        request.facts.route.kind === "passwordPin"
          ? candidates(request)[0]
          : name === undefined
            ? undefined
            : memory.pinOf("passwordReset", pinId(name), clock.wallMs())?.replica;
      return replica === undefined ? undefined : { replica, kind: "password reset" };
    },

    async refused(request, reply, replica) {
      if (request.facts.route.kind !== "passwordPin" || reply.head.status !== 404) return undefined;
      const tried = asked.get(request) ?? new Set();
      asked.set(request, tried.add(replica));
      return candidates(request).length > 0 ? "again" : "show";
    },

    async after(request, reply, replica) {
      const name = nameIn(request);
      if (request.facts.route.kind !== "passwordForgotten" || !isCluster()) return reply;
      if (name === undefined) return reply;
      const id = pinId(name);
      const pin = { kind: "passwordReset", id, replica, owner, ttlMs: pinMs } as const;
      try {
        memory.apply({ type: "pin", pin: await store.claimPin(pin) });
      } catch (error) {
        memory.noteStoreFailure(error);
        const epoch = { number: 0, owner };
        const expiresAtMs = clock.wallMs() + pinMs;
        const own = { kind: "passwordReset", id, replica, epoch, expiresAtMs } as const;
        memory.apply({ type: "pin", pin: own });
      }
      return withServer(reply, replica);
    },
  };
}

function pinId(name: string): string {
  return hashOf(name.toLowerCase());
}

function nameIn({ bodyText }: Attended): string | undefined {
  const name = bodyText === undefined ? undefined : bodyValue(bodyText, "EnteredUsername");
  return typeof name === "string" && name !== "" ? name : undefined;
}

/** A ForgotPasswordResult: clients show `PinFile` as it is, and its path is the same on every server. */
function withServer(reply: HeldReply, replica: string): HeldReply {
  const fields = parsedObject(reply.body.toString("utf8"));
  const name = fields === undefined ? undefined : Object.keys(fields).find(isPinFile);
  const file = name === undefined ? undefined : fields?.[name];
  if (name === undefined || typeof file !== "string") return reply;
  return withBody(reply, JSON.stringify({ ...fields, [name]: `${file} (on server ${replica})` }));
}

function isPinFile(name: string): boolean {
  return name.toLowerCase() === "pinfile";
}
