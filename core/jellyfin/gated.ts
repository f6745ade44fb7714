// Which of Jellyfin's routes are the leader's alone: tasks and the administration of the server itself. The
// door sends those that change something to the leader's gate (sidecar/gate.ts), and asks the leader's server
// for what an administrator reads back, so that a change is seen by the one who made it. Pure.
//
// What belongs to a user or to the library's items (playlists, metadata, users) is not among them.

import type { Route } from "./routes.ts";

/** It goes through the leader's gate, and nowhere else. */
export function isGated(route: Route): boolean {
  switch (route.kind) {
    case "task":
    case "restart":
    case "shutdown":
      return true;
    case "plugin":
    case "backup":
    case "configuration":
      return route.needsLeader;
    case "library":
      return route.needsLeader && route.pattern.startsWith("/Library/VirtualFolders");
    default:
      return false;
  }
}

/** It is read at the leader's server while that is ready. */
export function isReadAtLeader(route: Route): boolean {
  return (
    !isGated(route) &&
    route.methods.includes("GET") &&
    (route.kind === "plugin" ||
      route.kind === "backup" ||
      route.kind === "configuration" ||
      route.pattern === "/Library/VirtualFolders")
  );
}
