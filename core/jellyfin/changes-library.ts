// Changes of playlists, collections, items and libraries: which intent each of their routes makes. Pure.
//
// It promises that a route which is not about one of them makes none here.

import type { ChangeReader } from "./change-request.ts";
import type { Route } from "./routes.ts";

/** The reader of this route's requests; undefined: it changes nothing in a list or a library. */
export function libraryChange(_route: Route): ChangeReader | undefined {
  return undefined;
}
