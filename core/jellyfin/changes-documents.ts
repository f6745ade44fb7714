// Changes of whole documents, of users and of keys: which intent each of their routes makes. Pure.
//
// It promises that a route which is not about one of them makes none here.

import type { ChangeReader } from "./change-request.ts";
import type { Route } from "./routes.ts";

/** The reader of this route's requests; undefined: it changes no document, user or key. */
export function documentChange(_route: Route): ChangeReader | undefined {
  return undefined;
}
