// Who reads the options of libraries through the door is shown whether their folders are to be watched, and not whether
// the server that answers is the one that watches. The web client sends the whole document back when another option is
// changed, so what it was shown is said again then, and would otherwise be taken for what the administrator wants.

import { normalId } from "../../core/cluster/identity.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import { monitorsIn } from "../../core/cluster/monitors.ts";
import { isRecord, nameIn, parsedJson } from "../../core/service/json.ts";
import type { Seal } from "../../core/service/seal.ts";
import type { Attendant } from "../attendant.ts";
import { withBody } from "../reply.ts";

export interface MonitorsParts {
  readonly memory: Memory;
  readonly seal: Seal;
  /** With one replica it watches for itself. */
  readonly isCluster: () => boolean;
}

export function createMonitorsAttendant({ memory, seal, isCluster }: MonitorsParts): Attendant {
  return {
    name: "monitors",
    attends: ({ pattern, methods }) =>
      pattern === "/Library/VirtualFolders" && methods.includes("GET"),
    async after(_asked, reply) {
      if (reply.head.status !== 200 || !isCluster()) return reply;
      const shown = withWanted(
        parsedJson(reply.body.toString("utf8")),
        monitorsIn(memory.notes("monitor").values(), seal),
      );
      return shown === undefined ? reply : withBody(reply, JSON.stringify(shown));
    },
  };
}

/** The list of libraries as they are wanted; undefined: as it is, or no such list. Pure. */
export function withWanted(list: unknown, wanted: ReadonlyMap<string, boolean>): unknown {
  if (!Array.isArray(list) || wanted.size === 0) return undefined;
  let isChanged = false;
  const shown = list.map((library: unknown) => {
    if (!isRecord(library)) return library;
    const optionsName = nameIn(library, "LibraryOptions") ?? "";
    const id = String(library[nameIn(library, "ItemId") ?? ""] ?? "");
    const options = library[optionsName];
    const isWanted = wanted.get(normalId(id));
    const name = isRecord(options) ? nameIn(options, "EnableRealtimeMonitor") : undefined;
    if (!isRecord(options) || name === undefined || isWanted === undefined) return library;
    if (options[name] === isWanted) return library;
    isChanged = true;
    return { ...library, [optionsName]: { ...options, [name]: isWanted } };
  });
  return isChanged ? shown : undefined;
}
