// Who may have done again what no server has answered: as Jellyfin's controllers say, and nobody who is not known.

import { describe, expect, test } from "vitest";
import { type IntentKind, intentKinds } from "../../../core/cluster/journal.ts";
import { type Caller, isAskedAsCaller, mayChange } from "../../../core/cluster/rights.ts";

const me = "11111111222233334444555555555555";
const other = "22222222222233334444555555555555";
const user = {
  kind: "user",
  userId: me,
  isAdministrator: false,
  isDisabled: false,
  isRestricted: false,
  changesOwnSettings: true,
  managesCollections: false,
} as const satisfies Caller;

const asking = (kind: IntentKind, userId = "", facts: unknown = {}) => ({ kind, userId, facts });
const judged = intentKinds.filter((kind) => !isAskedAsCaller(kind));

test("whoever is not known may nothing that is judged here", () => {
  for (const kind of judged) expect(mayChange(asking(kind, me), undefined)).toBe(false);
});

test("administrators and API keys may everything, unless they are disabled", () => {
  const admin: Caller = { ...user, isAdministrator: true };
  for (const kind of intentKinds) {
    expect(mayChange(asking(kind, other), admin)).toBe(true);
    expect(mayChange(asking(kind, other), { kind: "apiKey" })).toBe(true);
    expect(mayChange(asking(kind, me), { ...admin, isDisabled: true })).toBe(false);
  }
});

test("whoever may come in only from at home, or at times, may nothing of which nobody knows where and when", () => {
  for (const isAdministrator of [true, false]) {
    const restricted: Caller = { ...user, isAdministrator, isRestricted: true };
    for (const kind of judged) expect(mayChange(asking(kind, me), restricted)).toBe(false);
  }
});

/** RequestHelpers.GetUserId and AssertCanUpdateUser, RequiresElevation, CollectionManagement, LibraryController. */
const ordinary: readonly (readonly [IntentKind, string, unknown, boolean])[] = [
  ["preferences", me, {}, true],
  ["preferences", other, {}, false],
  ["preferences", "", {}, false],
  ["userConfiguration", me, {}, true],
  ["userConfiguration", other, {}, false],
  ["userImage", me, {}, true],
  ["userImage", other, {}, false],
  ["userPolicy", me, {}, false],
  ["password", me, { how: "own" }, true],
  ["password", me, { how: "reset" }, false],
  ["password", other, { how: "other" }, false],
  ["password", other, { how: "own" }, false],
  ["user", me, { what: "updated", name: "me" }, true],
  ["user", other, { what: "updated", name: "me" }, false],
  ["user", me, { what: "deleted" }, false],
  ["user", "", { what: "created" }, false],
  ["branding", "", {}, false],
  ["configuration", "", {}, false],
  ["libraryOptions", "", {}, false],
  ["pluginConfiguration", "", {}, false],
  ["apiKey", "", {}, false],
  ["virtualFolder", "", {}, false],
  ["plugin", "", { what: "installed" }, false],
  ["collection", "", {}, false],
  ["libraryNews", "", {}, true],
];

describe("an ordinary user", () => {
  test.each(ordinary)("%s of %j, %j: %s", (kind, userId, facts, may) => {
    expect(mayChange(asking(kind, userId, facts), user)).toBe(may);
  });

  test("has a row above for every kind that is judged", () => {
    expect([...new Set(ordinary.map(([kind]) => kind))].sort()).toEqual([...judged].sort());
  });

  test("who manages collections may, and who may not change their own settings may not", () => {
    expect(mayChange(asking("collection"), { ...user, managesCollections: true })).toBe(true);
    const child: Caller = { ...user, changesOwnSettings: false };
    for (const kind of ["userConfiguration", "userImage"] as const) {
      expect(mayChange(asking(kind, me), child)).toBe(false);
    }
    expect(mayChange(asking("password", me, { how: "own" }), child)).toBe(false);
  });
});
