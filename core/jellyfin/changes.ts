// Which requests are changes that every server has to know: the one table of the journal's intents (design, section
// 7). What a request means is read by the file of its family; here they are only put side by side, so that the door
// asks one question. Pure.

import type { ChangeReader } from "./change-request.ts";
import { documentChange } from "./changes-documents.ts";
import { libraryChange } from "./changes-library.ts";
import { userDataChange } from "./changes-user-data.ts";
import type { Route } from "./routes.ts";

/** What reads the requests of this route; undefined: no request of it makes an intent. */
export function changeReader(route: Route): ChangeReader | undefined {
  return userDataChange(route) ?? documentChange(route) ?? libraryChange(route);
}
