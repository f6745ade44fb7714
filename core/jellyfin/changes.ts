// Which requests are changes that every server has to know: the one table of the journal's intents (design, section
// 7). What a request means is read by the file of its family; here they are only put side by side, so that the door
// asks one question. Pure.

import type { ChangeReader } from "./change-request.ts";
import { documentChange } from "./changes-documents.ts";
import { isListCreation, libraryChange } from "./changes-library.ts";
import { pluginChange } from "./changes-plugins.ts";
import { userDataChange } from "./changes-user-data.ts";
import type { Route } from "./routes.ts";

/** What reads the requests of this route; undefined: no request of it makes an intent. */
export function changeReader(route: Route): ChangeReader | undefined {
  return (
    userDataChange(route) ?? documentChange(route) ?? libraryChange(route) ?? pluginChange(route)
  );
}

/** What a client is told when its change succeeds: nothing (204), the id of a list, or a user (UserDto). */
export type ToldOfChange = "nothing" | "list" | "user";

/**
 * What somebody who asked for a change can be told when another server has done it; undefined where only the server
 * that did it has the answer: the text it made of uploaded lyrics, a tuner's or guide's new id (LyricsController,
 * LiveTvController), or the right to a PIN, which one server gave and no other knows.
 */
export function toldOfChange(route: Route): ToldOfChange | undefined {
  if (isListCreation(route)) return "list";
  const { kind, pattern, methods } = route;
  switch (kind) {
    case "user":
      return pattern === "/Users/New" ? "user" : "nothing";
    case "television":
    case "passwordPin":
      return undefined;
    case "metadata":
      return pattern.includes("/Lyrics") && methods.includes("POST") ? undefined : "nothing";
    default:
      return "nothing";
  }
}
