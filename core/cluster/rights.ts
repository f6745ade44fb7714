// What a caller may change, by Jellyfin's own rules. A server that answered has looked at them itself; but of a change
// whose server died, or whose client left before the answer, nobody knows whether it was allowed. Before it is done
// again in the cluster's own name it is judged here. Pure.

import { readPasswordFacts, readUserFacts } from "../jellyfin/documents.ts";
import type { Intent, IntentKind } from "./journal.ts";

/** Who asked, as a server knows them now. */
export type Caller =
  /** Jellyfin treats every API key as an administrator (CustomAuthenticationHandler). */
  | { readonly kind: "apiKey" }
  | {
      readonly kind: "user";
      readonly userId: string;
      readonly isAdministrator: boolean;
      readonly isDisabled: boolean;
      /** UserPolicy.EnableRemoteAccess is off, or AccessSchedules says when: where and when they asked nobody knows any more. */
      readonly isRestricted: boolean;
      /** UserPolicy.EnableUserPreferenceAccess. */
      readonly changesOwnSettings: boolean;
      /** UserPolicy.EnableCollectionManagement. */
      readonly managesCollections: boolean;
    };

/** Done again with the caller's own token: the server that is asked looks at what they may. */
export function isAskedAsCaller(kind: IntentKind): boolean {
  switch (kind) {
    case "userData":
    case "playlist":
    case "metadata":
    case "itemGone":
    case "itemFile":
      return true;
    default:
      return false;
  }
}

/** For the other kinds. `caller` undefined: nobody who is logged in. */
export function mayChange(
  { kind, userId, facts }: Pick<Intent, "kind" | "userId" | "facts">,
  caller: Caller | undefined,
): boolean {
  if (caller === undefined) return false;
  if (caller.kind === "apiKey") return true;
  if (caller.isDisabled || caller.isRestricted) return false;
  if (caller.isAdministrator) return true;
  const isOwn = userId !== "" && userId === caller.userId;
  switch (kind) {
    case "preferences":
      // RequestHelpers.GetUserId.
      return isOwn;
    case "userConfiguration":
    case "userImage":
      // RequestHelpers.AssertCanUpdateUser.
      return isOwn && caller.changesOwnSettings;
    case "password":
      return isOwn && caller.changesOwnSettings && readPasswordFacts(facts)?.how === "own";
    case "user":
      return isOwn && caller.changesOwnSettings && readUserFacts(facts)?.what === "updated";
    case "collection":
      // CollectionController: Policies.CollectionManagement.
      return caller.managesCollections;
    case "libraryNews":
      // LibraryController: anybody who is logged in may say that media have changed.
      return true;
    default:
      // Policies.RequiresElevation, and whatever no rule here names.
      return false;
  }
}
