// The door as the socket lane sees it: where a client's WebSocket belongs now, with the token of its
// identity there, and what has to be said there first.

import { swapIdsIn } from "../core/cluster/id-swap.ts";
import { isGone } from "../core/cluster/replica.ts";
import type { ClusterView } from "../core/cluster/view.ts";
import type { Sessions } from "./attendants/sessions.ts";
import { shownTaskMessage } from "./attendants/tasks.ts";
import type {
  SocketAsked,
  SocketHost,
  SocketStanding,
  SocketTarget,
  SocketWatch,
} from "./lanes/socket-host.ts";
import type { DoorParts } from "./parts.ts";
import type { Door } from "./server.ts";

/** How long repeating a device's capabilities may take, in ms. */
const replayLimitMs = 5000;

export function createSocketHost(
  door: Door,
  parts: DoorParts,
  watch?: SocketWatch,
  sessions?: Pick<Sessions, "pushed">,
  showUserData?: SocketHost["showUserData"],
): SocketHost {
  const { memory, health, links } = parts;
  async function replayCapabilities({ identityKey, replica }: SocketTarget): Promise<void> {
    const link = identityKey === undefined ? undefined : links.get(replica);
    if (identityKey === undefined || link === undefined) return;
    await door.handshakes.replayCapabilities(identityKey, link, replayLimitMs);
  }
  return {
    ...(watch !== undefined && { watch }),
    ...(sessions !== undefined && {
      sessions: {
        pushed: sessions.pushed,
        onChanged: (listener) =>
          memory.onNote(({ kind, replica }) => {
            if (kind === "session") listener(replica);
          }),
      },
    }),
    ...(showUserData !== undefined && { showUserData }),
    showTasks: (text) => shownTaskMessage(text, memory),
    showIds(replica, identityKey, data) {
      const { idSwaps } = parts;
      if (!idSwaps.areNeeded) return data;
      const swap = idSwaps.of(replica, memory.identities.get(identityKey ?? ""));
      return swap === undefined ? data : swapIdsIn(data, swap.fromHere);
    },
    standing: (asked) => standingOf(parts, asked),
    async recognise(asked) {
      const facts = door.handshakes.socketFacts(asked);
      if (asked.token === undefined) return false;
      return (await parts.logins.recognise(asked.token, facts.credentials)) !== undefined;
    },
    target: (asked, tried, limitMs) => door.handshakes.socketTarget(asked, tried, limitMs),
    replayCapabilities,
    welcome(target) {
      const { identityKey, replica } = target;
      if (identityKey === undefined || !door.handshakes.isNewTo(identityKey, replica)) return;
      replayCapabilities(target).catch((error: unknown) => {
        parts.log.log.error({ err: error }, "a device's capabilities could not be repeated");
      });
    },
    suspect: (replica) => health.suspect(replica),
    onHomeMoved(listener) {
      const stops = [
        memory.onHome((home) => listener(home.userId, home.replica)),
        // Who dialled while their home caught up was placed elsewhere, and their next request is the home's again.
        health.onChange((view, before) => {
          const caughtUp = newlyCaughtUp(view, before);
          if (caughtUp.size === 0) return;
          for (const { userId, replica } of memory.homes.values()) {
            if (caughtUp.has(replica)) listener(userId, replica);
          }
        }),
      ];
      return () => {
        for (const stop of stops) stop();
      };
    },
    onReplicaGone: (listener) =>
      health.onChange((view, before) => {
        for (const name of newlyGone(view, before)) listener(name);
      }),
    onEnded: (listener) =>
      memory.onIdentity((identity) => {
        const isOver =
          Object.keys(identity.tokens).length === 0 && (identity.formerHashes?.length ?? 0) === 0;
        if (isOver) listener(identity.key);
      }),
  };
}

function standingOf(parts: DoorParts, asked: SocketAsked): SocketStanding {
  if (asked.token === undefined) return "none";
  const { standing } = parts.memory.standingOf(asked.token);
  // With one replica its own word is the only one there is: it is dialled and may refuse.
  if (standing === "unknown" && parts.health.view.replicas.size === 1) return "current";
  return standing;
}

function newlyCaughtUp(view: ClusterView, before: ClusterView): ReadonlySet<string> {
  const caughtUp = new Set<string>();
  for (const [name, { behind }] of view.replicas) {
    if (behind === undefined && before.replicas.get(name)?.behind !== undefined) caughtUp.add(name);
  }
  return caughtUp;
}

function newlyGone(view: ClusterView, before: ClusterView): string[] {
  const gone: string[] = [];
  for (const [name, { state }] of view.replicas) {
    const was = before.replicas.get(name)?.state;
    if (isGone(state) && was !== undefined && !isGone(was)) gone.push(name);
  }
  return gone;
}
